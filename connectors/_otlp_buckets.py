"""Buckets of distributions, (k, 3) of lower bound, upper bound and count: read, added, subtracted, looked into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
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


def exponential(
    scale: int, zero: float, above: tuple[int, Sequence[float]], below: tuple[int, Sequence[float]]
) -> FloatArray:
    """Return the buckets of a histogram whose bounds are powers of 2 ** 2 ** -scale: first index and counts a side."""
    if not -11 <= scale <= 20:
        raise ValueError("the scale of a histogram is out of bounds")
    (over, high), (under, low) = above, below
    n, m = len(low), len(high)
    out = np.zeros((n + 1 + m, 3))
    if n:
        powers = -_powers(scale, under, n)[::-1]
        out[:n, 0], out[:n, 1], out[:n, 2] = powers[:-1], powers[1:], low[::-1]
    out[n, 2] = zero
    if m:
        powers = _powers(scale, over, m)
        out[n + 1 :, 0], out[n + 1 :, 1], out[n + 1 :, 2] = powers[:-1], powers[1:], high
    return out


@lru_cache(512)
def _powers(scale: int, first: int, n: int) -> FloatArray:
    """Return the n + 1 bounds of n buckets."""
    return np.asarray(np.exp2(np.clip((first + np.arange(n + 1)) * 2.0**-scale, -1070.0, 1023.0)))


def none() -> FloatArray:
    """Return no buckets."""
    return np.zeros((0, 3))


def count_of(buckets: FloatArray) -> float:
    """Return how much was counted."""
    return float(buckets[:, 2].sum())


def joined(some: Sequence[FloatArray]) -> FloatArray:
    """Add the counts of the same buckets."""
    if len(some) == 1:
        return some[0]
    first = some[0] if some else none()
    if all(one.shape == first.shape and np.array_equal(one[:, :2], first[:, :2]) for one in some):
        counts = np.sum([one[:, 2] for one in some], axis=0) if some else first[:, 2]
        return np.column_stack([first[:, :2], counts])
    whole = np.concatenate(some)
    bounds, at = np.unique(whole[:, :2], axis=0, return_inverse=True)
    return np.column_stack([bounds, np.bincount(at.ravel(), whole[:, 2], len(bounds))])


def less(now: FloatArray, base: FloatArray) -> FloatArray:
    """Return what came since `base`, whose buckets may be finer: exponential ones get wider as they go."""
    if not len(base) or not len(now):
        return now
    if base.shape == now.shape and np.array_equal(base[:, :2], now[:, :2]):
        return np.column_stack([now[:, :2], np.maximum(now[:, 2] - base[:, 2], 0.0)])
    rising = base[np.argsort(base[:, 1], kind="stable")]
    below = np.append(0.0, np.cumsum(rising[:, 2]))
    before = below[np.searchsorted(rising[:, 1], now[:, 1], side="right")]
    counts = now[:, 2] - np.diff(
        before, prepend=below[np.searchsorted(rising[:, 1], now[0, 0], side="right")]
    )
    return np.column_stack([now[:, :2], np.maximum(counts, 0.0)])


def quantiles(buckets: FloatArray, wanted: Sequence[float]) -> list[float]:
    """Return quantiles of buckets, linear within one; of the open last one its lower bound; NaN = no rows."""
    if not len(buckets) or count_of(buckets) <= 0:
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
