"""Confidence sequences: what their docstring promises."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import Refused
from agent.intervals import wilson
from detectors.drift.sequences import Means


def test_they_hold_at_every_look_for_a_mean_that_wanders():
    # covered is the average of what was to be expected so far, not one constant
    missed = np.zeros(400, dtype=bool)
    rng, means, expected, n = np.random.default_rng(1), Means(400), 0.0, 0
    for t in range(150):
        rows, p = int(rng.integers(1, 60)), 0.15 + 0.1 * np.sin(t / 9)
        hits = rng.binomial(rows, p, 400)
        means.take(rows, hits, hits)
        expected, n = expected + rows * p, n + rows
        low, high = means.interval(0.05)
        missed |= (low > expected / n) | (high < expected / n)
    assert 0 <= missed.mean() <= 0.05


@pytest.mark.parametrize(("rows", "p"), [(100, 0.1), (1000, 0.2), (20_000, 0.03)])
def test_they_are_twice_as_wide_as_one_look(rows, p):
    means = Means()
    hits = np.random.default_rng(2).binomial(rows, p)
    means.take(rows, hits, hits)
    low, high = means.interval()
    once = wilson(hits, rows)
    assert low[0] <= means.means[0] <= high[0]
    assert high[0] - low[0] < 2.1 * (once[1] - once[0])


def test_numbers_that_lie_close_together_are_told_better_than_zeros_and_ones():
    rng, close, coins = np.random.default_rng(3), Means(), Means()
    for _ in range(50):
        x = np.clip(rng.normal(0.5, 0.05, 40), 0, 1)
        close.take(40, x.sum(), (x * x).sum())
        k = rng.binomial(40, 0.5)
        coins.take(40, k, k)
    width = [float(np.subtract(*one.interval()[::-1])[0]) for one in (close, coins)]
    assert width[0] < 0.4 * width[1]


def test_without_rows_nothing_is_known():
    low, high = Means(2).interval()
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == [1.0, 1.0]
    assert np.isnan(Means().means).all()


def test_all_of_one_kind_leaves_the_end_open():
    means = Means(2)
    means.take([50, 50], [0, 50], [0, 50])
    low, high = means.interval()
    assert low[0] == 0.0
    assert 0.0 < high[0] < 0.15
    assert 0.85 < low[1] < 1.0
    assert high[1] == 1.0


def test_merged_is_as_both():
    rng, a, b = np.random.default_rng(4), Means(3), Means(3)
    for one in (a, b):
        for _ in range(20):
            k = rng.binomial(30, 0.2, 3)
            one.take(30, k, k)
    apart = a.means
    low, high = a.interval()
    a.merge(b)
    assert a.rows.tolist() == [1200.0] * 3
    assert a.means == pytest.approx((apart + b.means) / 2)
    assert (np.subtract(*a.interval()[::-1]) < high - low).all()
    with pytest.raises(ValueError, match="different number"):
        a.merge(Means(2))


def test_state_and_nonsense():
    means, other = Means(2), Means(2)
    means.take([10, 20], [3, 4], [3, 4])
    other.load(means.dump())
    for one in (means, other):
        one.take(5, [1, 2], [1, 2])
    assert np.array_equal(means.interval(), other.interval())
    for state in (np.zeros((3, 3)), np.full((3, 2), np.nan), np.full((3, 2), -1.0)):
        with pytest.raises(Refused, match="does not fit"):
            other.load(state)
    for batch in ((-1, 0, 0), (5, 6, 6), (5, 3, 4), (5, 3, 1)):
        with pytest.raises(ValueError, match="not those of numbers"):
            Means().take(*batch)
