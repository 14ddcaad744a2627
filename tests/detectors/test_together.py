"""The group view: the budget holds whatever sways together; a few of one cause beat the second-largest p."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import registry
from agent.errors import Refused
from detectors._tail import Tail
from detectors.together import HostView, Together

N = 40


def p_of(z):
    """Two-sided p-values of standard normal deviations, from a table: there is no erfc in numpy."""
    grid = np.linspace(0.0, 12.0, 4801)
    log_p = np.log([math.erfc(g / math.sqrt(2.0)) for g in grid])
    return np.exp(np.interp(np.abs(z), grid, log_p))


def slow(rng, rows, n):
    """Standard normal noise that remembers a few rows."""
    e = rng.normal(size=(rows, n))
    for i in range(1, rows):
        e[i] = 0.8 * e[i - 1] + 0.6 * e[i]
    return e


def noise(kind, rows, seed):
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(rows, N))
    if kind == "independent":
        return own
    if kind == "slow":
        return slow(rng, rows, N)
    if kind == "swaying":
        return 0.7 * slow(rng, rows, 1) + math.sqrt(0.51) * own
    return 0.9 * np.repeat(slow(rng, rows, 4), N // 4, axis=1) + math.sqrt(0.19) * own


def feed(view, rows, start=0, *, trust=True):
    out = []
    for i, row in enumerate(rows, start):
        out.append(view.score(float(i), row))
        view.learn(float(i), row, trust)
    return np.array(out)


def fed(groups, rows, start=0):
    out = []
    for i, row in enumerate(rows, start):
        out.append(groups.score(float(i), row))
        groups.learn(float(i), row, np.ones(len(out[-1]), bool))
    return np.array(out)


class Second:
    """The rival: the second-smallest p, with the same tail."""

    def __init__(self):
        self.tail, self.rows = Tail(np.array([[5.0, 1.5]]), 1), 0.0

    def score(self, ts, p):
        self.v = np.array([[-np.log(np.partition(p, 1)[1])]])
        return float(np.exp(-self.tail.rarity(self.v)[0, 0]))

    def learn(self, ts, p, trust):
        self.tail.learn(self.v, np.array([trust]), np.array([self.rows]))
        self.rows += trust


NOISES = ("independent", "slow", "swaying", "blocks")


@cache
def noisy():
    """Return kind -> p of a group of N series of that noise: all groups are judged in one go."""
    rows = np.hstack([p_of(noise(kind, 12_000, seed=1)) for kind in NOISES])
    p = fed(Together(Together.Config(), np.repeat(np.arange(len(NOISES)), N)), rows)
    return dict(zip(NOISES, p.T, strict=True))


@pytest.mark.parametrize("kind", NOISES)
def test_forty_noisy_series_keep_the_stated_budget_within_a_factor_of_two(kind):
    p = noisy()[kind][4000:]
    for alpha in (0.01, 0.003):
        expected = alpha * len(p)
        assert expected / 2 <= (p <= alpha).sum() <= expected * 2, (kind, alpha)


@pytest.mark.parametrize("kind", ["independent", "swaying"])
def test_three_series_of_one_cause_are_found_sooner_than_by_the_second_largest_p(kind):
    views, waits = [HostView(N), Second()], [0, 0]
    past = p_of(noise(kind, 5000, seed=2))
    for view in views:
        feed(view, past)
    for turn in range(12):
        z = noise(kind, 120, seed=100 + turn)
        z[:, [5, 15, 35]] += 3.0 * np.array([1.0, -1.0, 1.0])
        p, calm = p_of(z), past[turn * 60 : turn * 60 + 60]
        for at, view in enumerate(views):
            seen = feed(view, p, 10_000 + 1000 * turn, trust=False) <= 1e-4
            waits[at] += int(np.argmax(seen)) if seen.any() else len(p)
            feed(view, calm, 10_500 + 1000 * turn, trust=False)
    assert waits[0] < 0.8 * waits[1], waits


def test_it_names_the_series_that_carry_it_and_one_alone_does_not_count():
    view = HostView(N)
    rows = p_of(noise("independent", 2000, seed=3))
    feed(view, rows)
    together, alone = rows[7].copy(), rows[7].copy()
    together[[3, 30, 17]] = 1e-6, 1e-5, 1e-4
    alone[3] = 1e-12
    ordinary = view.score(3000.0, rows[7])
    assert view.score(3000.0, together) < 1e-4
    assert view.carriers().tolist() == [3, 30, 17]
    assert view.score(3000.0, alone) > ordinary / 10


def test_everything_a_little_abnormal_at_once_is_seen_too():
    view = HostView(N)
    feed(view, p_of(noise("independent", 2000, seed=4)))
    assert view.score(3000.0, np.full(N, 0.08)) < 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000), st.floats(0.0, 0.9))
def test_order_of_columns_does_not_matter_and_missing_ones_are_as_if_absent(n, seed, missing):
    rng = np.random.default_rng(seed)
    rows = rng.random((60, n))
    rows[rng.random((60, n)) < missing] = np.nan
    order = rng.permutation(n)
    wide = np.full((60, n + 5), np.nan)
    wide[:, 2 : n + 2] = rows
    plain = feed(HostView(n), rows)
    assert np.allclose(plain, feed(HostView(n), rows[:, order]), equal_nan=True)
    assert np.allclose(plain, feed(HostView(n + 5), wide), equal_nan=True)
    known = plain[~np.isnan(plain)]
    assert ((known > 0) & (known <= 1)).all()


def test_groups_of_one_source_are_judged_as_if_each_were_alone():
    rows = p_of(noise("swaying", 800, seed=5))
    of = np.arange(N) % 3
    both = fed(Together(Together.Config(), of), rows)
    for g in range(3):
        assert np.allclose(
            both[:, g], feed(HostView(int((of == g).sum())), rows[:, of == g]), equal_nan=True
        )


def test_short_pasts_and_single_series_say_nothing_and_a_p_has_an_honest_floor():
    view = HostView(3)
    p = feed(view, np.random.default_rng(6).random((200, 3)))
    assert np.isnan(p[:30]).all()
    assert np.isfinite(p[30:]).all()
    assert view.score(500.0, np.full(3, 1e-12)) == pytest.approx(1 / (30 * 200))
    assert math.isnan(view.score(500.0, np.array([1e-12, np.nan, np.nan])))
    assert view.carriers().tolist() == []


def test_late_and_repeated_rows_and_what_is_not_trusted_are_not_learnt():
    rows = p_of(noise("independent", 400, seed=7))
    plain, messy = HostView(N), HostView(N)
    feed(plain, rows)
    for i, row in enumerate(rows):
        feed(messy, row[None], i)
        messy.learn(float(i), row * 0.5, True)
        messy.learn(float(i) - 2.0, row * 0.5, True)
    ahead = p_of(noise("independent", 20, seed=8))
    assert np.array_equal(feed(plain, ahead, 400), feed(messy, ahead, 400))
    for i in range(500):
        plain.learn(1000.0 + i, np.full(N, 1e-5), False)
    assert plain.score(2000.0, np.full(N, 1e-5)) < 1e-3


def test_restart_goes_on_as_if_it_had_never_stopped_and_damage_is_refused():
    rows, of = p_of(noise("swaying", 900, seed=9)), np.arange(N) % 2
    whole = Together(Together.Config(), of)
    fed(whole, rows[:500])
    state = whole.dump()
    again = Together(Together.Config(), of)
    again.load(state)
    assert np.array_equal(fed(whole, rows[500:], 500), fed(again, rows[500:], 500))
    assert whole.dump() == again.dump()
    before = again.dump()
    for bad in (b"", state[:-2], b"nothing of the kind" * 20):
        with pytest.raises(Refused):
            again.load(bad)
    with pytest.raises(Refused, match="step"):
        Together(Together.Config(step_s=60.0), of).load(state)
    assert again.dump() == before


def test_series_and_groups_come_and_go_without_losing_the_others():
    rows = p_of(noise("independent", 700, seed=10))
    view = Together(Together.Config(), np.arange(20) // 10)
    fed(view, rows[:400, :20])
    kept = view.rows[1]
    view.regroup(np.array([0] * 10 + [1] * 12), np.array([1, -1]))
    assert view.rows.tolist() == [kept, 0.0]
    p = fed(view, rows[400:, :22], 400)
    assert np.isfinite(p[0, 0])
    assert np.isnan(p[29, 1])
    assert np.isfinite(p[30, 1])
    with pytest.raises(ValueError, match="group 5"):
        view.regroup(np.zeros(3, dtype=np.int64), np.array([5]))
    with pytest.raises(ValueError, match="3 p-values"):
        view.score(1.0, np.ones(3))
    view.regroup(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    assert view.score(2000.0, np.empty(0)).shape == (0,)


def test_it_is_reached_by_name():
    registry.load()
    assert registry.view.get("together") is Together
