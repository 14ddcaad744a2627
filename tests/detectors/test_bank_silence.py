"""Silence: rare for this series, never for a whole source, and unknown for everything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_bank import T0, bank, feed, noise

from agent.testing import check_detector
from agent.traits import GAUGE, Traits
from detectors._silence import Silence
from detectors.bank import Bank


def heard(n, kind=GAUGE):
    """A bank whose series are of a known kind."""
    detector = bank(n)
    detector.set_traits(replace(Traits.neutral(n), kind=np.full(n, kind)))
    return detector


def silent(rows, *columns):
    """Rows of noise in which these columns have no value."""
    out = noise(rows, 4, seed=9)
    out[:, list(columns)] = np.nan
    return out


@pytest.fixture(scope="module")
def learnt():
    """State after 3,000 rows: one that always answers, one every fourth row, one by chance, one never."""
    detector = heard(4)
    rows = noise(3000, 4)
    rows[np.arange(3000) % 4 != 0, 1] = np.nan
    rows[np.random.default_rng(1).random(3000) < 0.5, 2] = np.nan
    rows[:, 3] = np.nan
    p = feed(detector, rows)
    given = np.isfinite(p) & np.isnan(rows)
    assert p[given].min(initial=1.0) > 1e-3
    assert given.mean() < 0.02
    return detector.dump()


@pytest.fixture
def four(learnt):
    detector = bank(1)
    detector.load(learnt)
    return detector


def test_who_always_answers_is_missed_after_three_rows_and_more_with_each(four):
    p = feed(four, silent(200, 0), start=T0 + 3000)[:, 0]
    assert np.isnan(p[:2]).all()
    assert p[2] == pytest.approx(1 / 3002)
    assert p[29] == pytest.approx(0.1 / 3002)
    assert (np.diff(p[2:]) <= 0).all()
    assert p[-1] == pytest.approx(1 / 90_000), "never below 1 / (30 values known)"


def test_usual_gaps_are_nothing_and_three_times_as_long_are(four):
    feed(four, noise(1, 4), start=T0 + 3000)
    p = feed(four, silent(60, 1), start=T0 + 3001)[:, 1]
    assert np.isnan(p[:3]).all()
    assert p[11] == pytest.approx(0.25 / 753)
    assert four.explain(1).family == "silence"


def test_chance_gaps_are_as_rare_as_they_were(four):
    p = feed(four, silent(12, 2), start=T0 + 3000)[:, 2]
    # the longest of some 1,500 gaps of coin tosses is about ten; lengths are known to powers of two
    assert np.isnan(p[2])
    assert 2 * 0.5**8 > p[7] > 0.5**12


def test_who_never_answered_stays_unknown(four):
    assert np.isnan(feed(four, silent(100, 3), start=T0 + 3000)[:, 3]).all()


def test_a_source_that_is_silent_as_a_whole_says_nothing(four):
    p = feed(four, np.full((500, 4), np.nan), start=T0 + 3000)
    assert np.isnan(p).all()
    assert np.isnan(four.score(T0 + 3500, silent(1, 0)[0])[0]), "its own gap begins only now"


def test_it_is_explained_with_the_time_of_the_last_value(four):
    feed(four, silent(50, 0), start=T0 + 3000)
    why = four.explain(0)
    assert (why.family, why.since, why.learnt_rows) == ("silence", T0 + 2999, 3000)
    assert np.isnan([why.low, why.high]).all()
    assert why.deviations >= 50


def test_values_are_judged_as_if_it_had_not_been_silent(four, learnt):
    other = bank(1)
    other.load(learnt)
    other.set_traits(Traits.neutral(4))
    rows = np.concatenate([silent(40, 0), noise(60, 4, seed=4)])
    p, plain = feed(four, rows, start=T0 + 3000), feed(other, rows, start=T0 + 3000)
    has = np.isfinite(rows)
    np.testing.assert_array_equal(p[has], plain[has])
    assert np.isnan(plain[~has]).all(), "of unknown kind: no value, no p"
    assert np.isfinite(p[39, 0])


def test_a_silence_that_was_distrusted_is_not_learnt_and_one_that_was_trusted_is(four, learnt):
    for trust, rarer in ((False, True), (True, False)):
        detector = bank(1)
        detector.load(learnt)
        first = feed(detector, silent(50, 0), start=T0 + 3000)[-1, 0]
        feed(detector, silent(1), start=T0 + 3050, trust=np.full(4, trust))
        again = feed(detector, silent(50, 0), start=T0 + 3051)[-1, 0]
        assert bool(again <= first * 1.01) == rarer


def test_gaps_go_on_over_a_restart_and_stay_with_their_series(four):
    feed(four, silent(10, 0), start=T0 + 3000)
    second = bank(1)
    second.load(four.dump())
    second.remap(np.array([1, 0, -1]))
    second.set_traits(replace(Traits.neutral(3), kind=np.full(3, GAUGE)))
    p = second.score(T0 + 3010, np.array([1.0, np.nan, np.nan]))
    assert p[1] == pytest.approx(3 / 11 / 3002)
    assert np.isnan(p[2])


def test_a_gap_as_long_as_half_of_all_is_no_matter():
    silence = Silence(1)
    ok, other = np.array([False, True]), np.array([True, True])
    silence = Silence(2)
    for length in [1, 8] * 50:
        for _ in range(length):
            silence.learn(ok, ok)
        silence.learn(other, other)
    silence.missing[0] = 5
    rows = np.array([100.0, 1e4])
    assert np.isnan(silence.p(ok, rows, other)[0])
    silence.missing[0] = 100
    assert silence.p(ok, rows, other)[0] == pytest.approx(1 / 102 * 8 / 101)


CHECKED = {"nan_is_unknown", "gap_is_survived", "score_is_pure", "bounded", "restart", "damage"}


@pytest.mark.parametrize(
    "check", [c for c in check_detector(heard) if c.name in CHECKED], ids=lambda c: c.name
)
async def test_the_contract_holds_for_series_of_known_kind(check):
    await check.run()


class Mute(Bank):
    """A bank that calls silence by another name."""

    def explain(self, i):
        why = super().explain(i)
        return replace(why, family="spike") if why.family == "silence" else why


class Hasty(Bank):
    """A bank that misses also a source as a whole."""

    def score(self, ts, x):
        return np.where(np.isnan(x) & (self.rows > 0), 0.5, super().score(ts, x))

    def explain(self, i):
        return replace(super().explain(i), family="silence")


@pytest.mark.parametrize(
    ("cls", "says"), [(Mute, "explained as 'spike'"), (Hasty, "where nobody has a value")]
)
async def test_the_contract_finds_out_what_is_no_silence(cls, says):
    def make(n):
        detector = cls(Bank.Config(), n)
        detector.set_traits(replace(Traits.neutral(n), kind=np.full(n, GAUGE)))
        return detector

    (check,) = [c for c in check_detector(make) if c.name == "nan_is_unknown"]
    assert says in await check.fault()
