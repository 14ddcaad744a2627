"""Intervals against published numbers and by counting how often they cover."""

from __future__ import annotations

import numpy as np
import pytest

from agent.intervals import poisson, wilson


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    [
        # R. G. Newcombe, Two-sided confidence intervals for the single proportion, 1998, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(hits, rows, low, high):
    got = wilson(hits, rows)
    assert (float(got[0]), float(got[1])) == pytest.approx((low, high), abs=6e-5)


def test_none_is_unknown_and_arrays_go_through():
    low, high = wilson(np.array([0, 5, 0]), np.array([0, 5, 5]))
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert high[1] == 1.0
    assert low[2] == 0.0


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_it_covers_as_often_as_it_says(share):
    rng = np.random.default_rng(0)
    hits = rng.binomial(200, share, 20_000)
    low, high = wilson(hits, np.full(20_000, 200))
    assert 0.93 < np.mean((low <= share) & (share <= high)) < 0.985


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # F. Garwood, Fiducial limits for the Poisson distribution, 1936: exact 95 % bounds
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (10, 4.795, 18.390), (100, 81.36, 121.63)],
)  # fmt: skip
def test_counts_are_as_sure_as_the_exact_bounds_say(count, low, high):
    got = poisson(count)
    assert got[0] == pytest.approx(low, rel=0.01, abs=0.015)
    assert got[1] == pytest.approx(high, rel=0.01)
