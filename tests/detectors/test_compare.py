"""Versions against each other: rarely wrong though looked at after every batch, and quick where they differ."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import Refused
from agent.registry import drift
from detectors.drift._bounds import mean_of_logs
from detectors.drift.compare import GRID, Comparison, Verdict, _exceeds, _logs, rows_to_find, sums


def errors(rng, rate, n):
    return (rng.random(n) < rate).astype(float)


def shadow(rng, rate_a, rate_b, n, alike=0.7):
    """Errors of two versions that have most of what decides in common."""
    of_a = rng.random(n)
    of_b = np.where(rng.random(n) < alike, of_a, rng.random(n))
    return (of_a < rate_a).astype(float), (of_b < rate_b).astype(float)


def evidence(test, slot=0):
    """Natural log of the odds for worse and for better, without the bounds: quick."""
    weights = test.arrays["weights"][slot]
    logs = _logs(test.margin)
    return float(mean_of_logs(weights @ logs)), float(mean_of_logs(weights[::-1] @ logs))


def test_it_is_registered():
    assert drift.get("comparison") is Comparison


# ---------------------------------------------------------------- false alarms


RUNS = 400


def feed(kind, rng, test, size, step):
    """One batch without a difference in any of RUNS slices, each a run of its own."""
    slots = np.repeat(np.arange(1, RUNS + 1), size)
    n = len(slots)
    if kind == "shadow":
        test.pairs(*shadow(rng, 0.15, 0.15, n), slots)
    elif kind == "brier":
        test.pairs(rng.beta(0.3, 2, n), rng.beta(0.3, 2, n), slots)
    elif kind == "canary":
        few = np.repeat(np.arange(1, RUNS + 1), max(1, size // 20))
        test.rows(errors(rng, 0.15, n), errors(rng, 0.15, len(few)), slots, few)
    else:  # all is worse at night, when only half as many rows go to B: no difference at any time
        night = step % 10 < 5
        rate = 0.4 if night else 0.1
        few = np.repeat(np.arange(1, RUNS + 1), size // (2 if night else 1))
        test.rows(errors(rng, rate, n), errors(rng, rate, len(few)), slots, few)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["shadow", "brier", "canary", "night"])
def test_equal_versions_are_called_worse_in_fewer_runs_than_promised(kind):
    # margin 0 is the edge of what is bet against; one look after each of 150 batches of 40 rows
    rng = np.random.default_rng(1)
    test = Comparison(slices=RUNS, margin=0.0)
    need = np.log(2 / 0.05)
    worse, better = np.zeros((2, RUNS), dtype=bool)
    for step in range(150):
        feed(kind, rng, test, 40, step)
        weights = test.arrays["weights"][1:]
        worse |= mean_of_logs(weights @ _logs(0.0)) >= need
        better |= mean_of_logs(weights[:, ::-1] @ _logs(0.0)) >= need
    # each is promised in 2.5 % of the runs at the most
    assert worse.mean() <= 0.025
    assert better.mean() <= 0.025
    assert test.arrays["weights"][1:].sum() > RUNS * 250


@pytest.mark.long
def test_bounds_rarely_ever_miss_the_difference():
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        test, wrong = Comparison(), False
        for _ in range(20):
            test.rows(errors(rng, 0.2, 200), errors(rng, 0.26, 100))
            verdict = test.verdict()
            wrong |= not verdict.low <= 0.06 <= verdict.high
        missed += wrong
    assert missed <= 3


# ---------------------------------------------------------------- power


def rows_until_worse(draw, margin, most=12_000):
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        test, n = Comparison(margin=margin), 0
        while n < most and evidence(test)[0] < np.log(40):
            draw(rng, test)
            n += 50
        found.append(n)
    return np.percentile(found, [50, 90])


DRAWS = {
    "a/b": lambda r, t: t.rows(errors(r, 0.15, 50), errors(r, 0.20, 50)),
    "canary": lambda r, t: t.rows(errors(r, 0.15, 950), errors(r, 0.20, 50)),
    "shadow": lambda r, t: t.pairs(*shadow(r, 0.15, 0.20, 50)),
}


@pytest.mark.parametrize(
    ("kind", "margin", "half", "most"),
    [
        ("a/b", 0.0, 1300, 2600),
        ("a/b", 0.01, 2100, 4000),
        ("canary", 0.01, 1150, 2200),
        ("shadow", 0.01, 900, 1600),
    ],
)
def test_accuracy_80_against_85_is_found_within_so_many_rows_of_b(kind, margin, half, most):
    # the figures of docs/quality.md: half of the runs, nine of ten
    found = rows_until_worse(DRAWS[kind], margin)
    assert found[0] <= half
    assert found[1] <= most
    if kind == "a/b":
        assert found[0] == pytest.approx(rows_to_find(0.05, 0.15, margin), rel=0.2)


def test_it_says_what_it_found():
    rng = np.random.default_rng(3)
    test = Comparison()
    for _ in range(60):
        test.rows(errors(rng, 0.15, 900), errors(rng, 0.22, 100))
    verdict = test.verdict()
    assert verdict.verdict == "worse"
    assert 0.01 < verdict.low < 0.07 < verdict.high < 0.13
    assert verdict.worse > np.log10(40) > verdict.better
    assert (verdict.rows_a, verdict.rows_b, verdict.pairs) == (54_000, 6000, 6000)
    assert verdict.pairs_needed == 0
    said = verdict.say("6", "7")
    assert said.startswith("version 7 is worse than 6: log10 odds ")
    assert said.endswith(", 6000 rows against 54000")
    mirrored = Comparison()
    for _ in range(60):
        mirrored.rows(errors(rng, 0.22, 100), errors(rng, 0.15, 900))
    assert mirrored.verdict().verdict == "better"
    assert "is better than" in mirrored.verdict().say("6", "7")


def test_versions_within_the_margin_are_alike_in_the_end():
    rng = np.random.default_rng(4)
    test = Comparison(margin=0.03)
    needed = []
    while test.verdict().verdict == "unknown":
        test.pairs(*shadow(rng, 0.150, 0.155, 500))
        needed.append(test.verdict().pairs_needed)
    verdict = test.verdict()
    assert verdict.verdict == "alike"
    assert -0.03 < verdict.low < verdict.high < 0.03
    assert verdict.pairs < 12_000
    assert needed[-1] == 0 < needed[0]
    assert "is as good as" in verdict.say("6", "7")
    # without a margin nothing is ever alike
    exact = Comparison(margin=0.0)
    exact.pairs(*shadow(rng, 0.15, 0.15, 50_000))
    assert exact.verdict().alike < 0


def test_how_many_more_are_needed_is_about_right():
    ratios = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        test = Comparison()
        a, b = errors(rng, 0.15, 30_000), errors(rng, 0.20, 30_000)
        test.rows(a[:1000], b[:1000])
        verdict, n = test.verdict(), 1000
        if verdict.verdict == "unknown":
            assert "more needed" in verdict.say("6", "7")
            while evidence(test)[0] < np.log(40):
                test.rows(a[n : n + 50], b[n : n + 50])
                n += 50
            ratios.append(verdict.pairs_needed / (n - 1000))
    assert len(ratios) > 5
    assert 0.5 < np.median(ratios) < 2


def test_small_steady_differences_take_as_long_as_one_row_could_undo():
    # Brier scores that differ by .004 in every row: 6 / .004 rows, as one row of -1 could come
    rng = np.random.default_rng(6)
    test, n = Comparison(margin=0.0), 0
    while evidence(test)[0] < np.log(40):
        a = rng.uniform(0.05, 0.2, 50)
        test.pairs(a, a + rng.normal(0.004, 0.002, 50))
        n += 50
    assert n <= 1800
    assert test.verdict().difference == pytest.approx(0.004, abs=1e-3)


# ---------------------------------------------------------------- how rows meet


def test_every_row_of_the_side_with_more_counts():
    test = Comparison(margin=0.0)
    a = np.array([0, 0, 1, 1, 1, 1, 0, 0, 0.0])
    test.rows(a, [1.0, 0.0, 0.5])
    groups = a.reshape(3, 3).mean(axis=1)
    assert test.verdict().difference == pytest.approx((np.array([1, 0, 0.5]) - groups).mean())
    assert test.verdict().pairs == 3


def test_who_meets_nobody_waits():
    test = Comparison(slices=1)
    test.rows([1.0, 0.0], [])
    test.rows([], [])
    assert test.verdict().pairs == 0
    assert test.verdict().say("6", "7") == "version 7 can not be compared with 6 yet"
    test.rows([0.0, np.nan], [1.0])
    verdict = test.verdict()
    assert (verdict.pairs, verdict.rows_a, verdict.rows_b) == (1, 3, 1)
    assert verdict.difference == pytest.approx(1 - 1 / 3)
    assert test.arrays["waiting"].sum() == 0
    # slices meet by themselves
    test.rows([1.0], [0.0, 0.0], [1], [0, 1])
    assert test.verdict(1).pairs == 1
    assert test.verdict(1).difference == -1.0


def test_a_slice_is_what_its_rows_alone_would_give():
    rng = np.random.default_rng(7)
    test, alone = Comparison(slices=3), [Comparison() for _ in range(4)]
    for _ in range(5):
        a, b = errors(rng, 0.2, 70), errors(rng, 0.3, 40)
        at_a, at_b = rng.integers(0, 4, (70, 1)), rng.integers(0, 4, (40, 1))
        test.rows(a, b, at_a, at_b)
        for slot in range(4):
            of_a, of_b = (at_a[:, 0] == slot) | (slot == 0), (at_b[:, 0] == slot) | (slot == 0)
            alone[slot].rows(a[of_a], b[of_b])
    for slot in range(4):
        for name, array in test.arrays.items():
            np.testing.assert_allclose(array[slot], alone[slot].arrays[name][0], atol=1e-12)
    # more slices, more doubt: bounds hold for all three at once
    one, same = alone[1].verdict(), test.verdict(1)
    assert same.low < one.low
    assert same.worse == pytest.approx(one.worse)
    assert test.verdict(0) == alone[0].verdict()
    assert test.verdicts()[1] == same


def test_who_says_what_how_often():
    rng = np.random.default_rng(8)
    test = Comparison(slices=3, margin=0.01)
    for _ in range(100):
        test.classes(rng.choice(3, 100, p=[0.5, 0.3, 0.2]), rng.choice(3, 30, p=[0.5, 0.2, 0.3]))
    said = test.verdicts()[1:]
    assert [v.verdict for v in said] == ["unknown", "better", "worse"]  # less often, more often
    assert said[2].low < 0.1 < said[2].high
    assert test.verdict(0).pairs == 0


def test_latency_is_a_loss_too():
    rng = np.random.default_rng(9)
    test = Comparison(margin=0.02)
    for _ in range(40):
        slow_a, slow_b = rng.lognormal(-3, 0.5, 100) > 0.1, rng.lognormal(-2.7, 0.5, 25) > 0.1
        test.rows(slow_a, slow_b)
    assert test.verdict().verdict == "worse"


# ---------------------------------------------------------------- sums alone


def test_before_and_after():
    before, after = (150.0, 1000.0), (800.0, 4000.0)
    verdict = sums(before, after, margin=0.0)
    assert verdict.difference == pytest.approx(0.05)
    assert verdict.low < 0.05 < verdict.high
    assert verdict.pairs_needed > 0
    assert sums((1500, 10_000), (2000, 10_000)).verdict == "worse"
    assert sums((2000, 10_000), (1500, 10_000)).verdict == "better"
    assert sums((1500, 10_000), (1500, 10_000), margin=0.03).verdict == "alike"
    assert sums((0, 0), (5, 10)).verdict == "unknown"


@pytest.mark.parametrize("kind", ["before", "both"])
@pytest.mark.long
def test_sums_of_equal_versions_are_rarely_called_worse(kind):
    found = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        a = [float(rng.binomial(1500, 0.15)), 1500.0] if kind == "before" else [0.0, 0.0]
        b, worse = [0.0, 0.0], False
        for _ in range(20):
            b = [b[0] + rng.binomial(150, 0.15), b[1] + 150]
            if kind == "both":
                a = [a[0] + rng.binomial(150, 0.15), a[1] + 150]
            worse |= _exceeds((a[0], a[1]), (b[0], b[1]), 0.0) >= np.log(40)
        found += worse
    assert found <= 0.025 * 120


# ---------------------------------------------------------------- state, nonsense


def test_slices_that_are_learnt_later_keep_what_is_known_of_all():
    rng = np.random.default_rng(5)
    whole, later = Comparison(), Comparison()
    for i in range(20):
        a, b = rng.random(50), rng.random(50)
        whole.pairs(a, b)
        if i == 10:
            later = later.widened(2)
        later.pairs(a, b, None if i < 10 else np.ones(50, dtype=np.int64))
    assert later.verdict() == whole.verdict()
    assert later.verdict(1).pairs == 500
    assert later.verdict(2).pairs == 0
    assert Comparison.of_sums((10, 100), (30, 100)) == sums((10, 100), (30, 100))


def test_parts_add_up_and_survive_a_restart():
    rng = np.random.default_rng(10)
    parts = [Comparison(slices=2) for _ in range(3)]
    whole = Comparison(slices=2)
    for part in parts:
        a, b, at = errors(rng, 0.2, 90), errors(rng, 0.2, 90), rng.integers(0, 3, 90)
        part.rows(a, b, at, at)
        whole.rows(a, b, at, at)
    again = Comparison(slices=2)
    again.load((parts[2] + (parts[0] + parts[1])).dump())
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(again.arrays[name], array, atol=1e-9)
    again.rows(a, b)  # it goes on
    with pytest.raises(TypeError):
        whole + Comparison(slices=1)
    for other in (
        Comparison(slices=1),
        Comparison(slices=2, margin=0.02),
        Comparison(2, 0.01, 0.9),
    ):
        with pytest.raises(Refused, match="another shape"):
            other.load(whole.dump())
    with pytest.raises(Refused, match="damaged"):
        again.load(whole.dump()[:-3])


def test_nonsense_is_refused():
    for loss in ([1.2], [-0.1]):
        with pytest.raises(ValueError, match="not in 0"):
            Comparison().pairs(loss, [0.5])
    for margin in (-0.1, 1.0):
        with pytest.raises(ValueError, match="margin"):
            Comparison(margin=margin)
    with pytest.raises(ValueError, match="margin"):
        rows_to_find(0.005, 0.1)
    with pytest.raises(ValueError, match="slice 2 of 1"):
        Comparison(slices=1).pairs([0.1], [0.1], [2])
    assert (np.diff(GRID) > 0).all()
    assert isinstance(Comparison().verdict(), Verdict)
    test = Comparison()
    test.pairs([0.0, 1.0, np.nan], [1.0, 0.0, 0.5])  # the largest differences, and one not known
    assert test.verdict().pairs == 2
