"""Buckets of distributions, (k, 3) of lower bound, upper bound and count: checked, added, looked into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.model import FloatArray

MOST: Final = 2000


def check_bounds(bounds: FloatArray) -> None:
    """Raise ValueError for bounds that are none."""
    if len(bounds) >= MOST:
        raise ValueError(f"a histogram of more than {MOST} buckets")
    if not np.isfinite(bounds).all() or (np.diff(bounds) <= 0).any():
        raise ValueError("the bounds of a histogram do not rise")


def joined(some: Sequence[FloatArray]) -> FloatArray:
    """Add the counts of the same buckets."""
    whole = np.concatenate(some)
    bounds, at = np.unique(whole[:, :2], axis=0, return_inverse=True)
    return np.column_stack([bounds, np.bincount(at.ravel(), whole[:, 2], len(bounds))])


def quantiles_of(buckets: FloatArray, wanted: Sequence[float]) -> list[float]:
    """Return quantiles of buckets, linear within one; of the open last one its lower bound; NaN = no rows."""
    if not len(buckets) or buckets[:, 2].sum() <= 0:
        return [math.nan] * len(wanted)
    rising = buckets[np.argsort(buckets[:, 1], kind="stable")]
    below = np.cumsum(rising[:, 2])
    out = []
    for q in wanted:
        i = min(int(np.searchsorted(below, q * below[-1])), len(rising) - 1)
        low, high, count = rising[i].tolist()
        inside = math.isfinite(high) and count
        share = (q * below[-1] - (below[i] - count)) / count if inside else 0.0
        out.append(float(low + (high - low) * share) if inside else low)
    return out
