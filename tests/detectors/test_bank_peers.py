"""One among likes: common load moves nobody, the one that departs is seen, what was always different is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_bank import T0, bank, excursions, feed

from agent.traits import Traits
from detectors._peers import Peers
from detectors.bank import Bank

PLACES = np.array([0.0, 0.5, -2.0, 30.0, 1.0, 0.0])


def alike(n, groups, **given):
    """A bank of n series in these groups."""
    detector = bank(n)
    detector.set_traits(replace(Traits.neutral(n), peers=np.asarray(groups), **given))
    return detector


def load(rows, seed=0):
    """A load that swings widely and at random."""
    rng = np.random.default_rng(seed)
    return 50 + 10 * np.convolve(rng.normal(size=rows + 29), np.ones(30) / 6, "valid")


def under(common, places=PLACES, seed=1):
    """What likes under one load show, each in its own place."""
    noise = np.random.default_rng(seed).normal(size=(len(common), len(places)))
    return common[:, None] + places + noise


@pytest.fixture(scope="module")
def learnt():
    """State of six likes after 4,000 rows."""
    detector = alike(6, [0] * 6)
    p = feed(detector, under(load(4000)))
    assert excursions(p[2000:], 1e-3) / p[2000:].size < 2e-3
    return detector.dump()


@pytest.fixture
def six(learnt):
    detector = bank(1)
    detector.load(learnt)
    return detector


def test_one_that_departs_stands_out_within_a_range_it_always_had(six):
    common = load(4060)[-60:]
    rows = under(common, seed=2)
    rows[:, 1] += 8.0
    apart = feed(six, rows, start=T0 + 4000, trust=np.zeros(6, bool))
    assert np.median(apart[10:, 1]) < 2e-4
    assert apart[:, [0, 2, 3, 4, 5]].min() > 5e-4
    why = six.explain(1)
    assert why.family == "peers"
    assert rows[-1, 1] - why.high > 4, "the band is where the others are"
    assert why.high - why.low < 12
    assert why.deviations > 5
    plain = bank(6)
    feed(plain, under(load(4000)))
    alone = feed(plain, rows, start=T0 + 4000, trust=np.zeros(6, bool))
    assert np.median(alone[10:, 1]) > 0.01, "its own history is too restless to show it"


def test_a_load_that_moves_all_moves_nobody_apart(six):
    rows = under(load(4060)[-60:] + 40.0, seed=2)
    feed(six, rows, start=T0 + 4000, trust=np.zeros(6, bool))
    assert np.abs(six._row.stand.stat).max() < 4
    assert {six.explain(i).family for i in range(6)}.isdisjoint({"peers"})


def test_where_all_scatter_at_once_nobody_stands_out(six):
    rows = under(load(4060)[-60:], seed=2)
    rows += 8.0 * np.array([1, -1, 0.6, -0.6, 0.3, -1.5])
    feed(six, rows, start=T0 + 4000, trust=np.zeros(6, bool))
    assert six._row.stand.stat.max() < 4


def test_the_odd_one_of_three_does_not_drag_the_others_along():
    detector = alike(3, [0, 0, 0])
    feed(detector, under(load(3000), PLACES[:3]))
    rows = under(load(3060)[-60:], PLACES[:3], seed=2)
    rows[:, 2] -= 8.0
    p = feed(detector, rows, start=T0 + 3000, trust=np.zeros(3, bool))
    assert np.median(p[10:, 2]) < 5e-4
    assert p[:, :2].min() > 5e-4


def test_a_group_that_shrinks_below_three_is_silent_and_holes_are_left_out(six):
    rows = under(load(4060)[-60:], seed=2)
    rows[:, 1] += 8.0
    rows[:, [0, 3]] = np.nan
    p = feed(six, rows, start=T0 + 4000, trust=np.zeros(6, bool))
    assert np.median(p[10:, 1]) < 2e-4
    rows[:, [2, 4]] = np.nan
    assert np.isfinite(six.score(T0 + 4060, rows[-1])[1])
    assert not six._row.stand.present.any()
    assert six._row.stand.stat.max() == 0


def test_what_has_no_peers_is_the_same_to_the_bit():
    rows = np.concatenate([under(load(1200)), under(load(1200, 7), seed=5)], axis=1)
    rows[600:, 8] += 6
    mixed = feed(alike(12, [0] * 6 + [-1] * 6), rows)
    plain = feed(bank(12), rows)
    np.testing.assert_array_equal(mixed[:, 6:], plain[:, 6:])
    assert (mixed[1000:, :6] != plain[1000:, :6]).any()
    far_away = feed(alike(12, [5] * 6 + [-1, 2, -1, 2, -1, -1]), rows)  # two are no group
    np.testing.assert_array_equal(far_away, mixed)


def test_floors_mute_distances_that_matter_to_nobody():
    rows = under(load(3060))
    rows[3000:, 1] += 8.0
    p = feed(alike(6, [0] * 6, floors=np.full(6, 50.0)), rows)
    assert p[3010:, 1].min() > 0.01


def test_a_new_place_is_ordinary_after_it_was_trusted_again(six):
    rows = under(load(4500)[-500:], PLACES + np.array([0, 8, 0, 0, 0, 0]), seed=2)
    one = np.ones(6, bool)
    one[1] = False
    feed(six, rows[:100], start=T0 + 4000, trust=one)
    feed(six, rows[100:101], start=T0 + 4100)
    p = feed(six, rows[101:], start=T0 + 4101)
    assert np.median(p[100:, 1]) > 0.05


def test_series_come_and_go_and_restarts_are_not_noticed(learnt):
    rows = under(load(4300)[-300:], seed=2)
    whole, again = bank(1), bank(1)
    whole.load(learnt)
    p = feed(whole, rows, start=T0 + 4000)
    again.load(learnt)
    feed(again, rows[:150], start=T0 + 4000)
    second = bank(1)
    second.load(again.dump())
    np.testing.assert_array_equal(feed(second, rows[150:], start=T0 + 4150), p[150:])
    assert second.dump() == whole.dump()
    order = np.array([5, 4, 3, 2, 1, 0])
    again.remap(order)
    again.set_traits(replace(Traits.neutral(6), peers=np.full(6, 3)))
    np.testing.assert_allclose(
        feed(again, rows[150:, order], start=T0 + 4150), p[150:, order], rtol=1e-9
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_middle_of_the_others_is_what_a_loop_says(seed):
    rng = np.random.default_rng(seed)
    of = rng.integers(0, 6, size=40)
    level = rng.normal(size=40).round(1)  # with ties
    peers = Peers(40, 1000.0, 30)
    peers.group(of)
    stand = peers.stand(level, rng.random(40) < 0.8, np.full(40, 0.1))
    who = np.flatnonzero(stand.present)
    assert len(who) > 10
    for i in who:
        others = np.sort([level[j] for j in who if of[j] == of[i] and j != i])
        low, high = others[(len(others) - 1) // 2], others[len(others) // 2]
        away = level[i] - np.clip(level[i], low, high)
        assert stand.away[i] == pytest.approx(away)
        z = [abs(stand.away[j]) / stand.scale[j] for j in who if of[j] == of[i]]
        common = max(1.0, sorted(z)[(len(z) - 1) // 2])
        assert stand.stat[0, i] == pytest.approx(abs(away) / stand.scale[i] / common)


def test_constants_among_peers_stay_quiet():
    detector = Bank(Bank.Config(), 4)
    detector.set_traits(replace(Traits.neutral(4), peers=np.zeros(4, dtype=np.int64)))
    p = feed(detector, np.tile([1.0, 2.0, 1.0, 1e9], (500, 1)))
    assert (p[30:] == 1.0).all()
