"""Wilson's interval against published numbers and by counting how often it covers."""

from __future__ import annotations

import numpy as np
import pytest

from agent.intervals import wilson


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
