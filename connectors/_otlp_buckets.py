"""Buckets of distributions, (k, 3) of lower bound, upper bound and count: read, added, subtracted, looked into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.model import FloatArray

MOST: Final = 2000

Bucket = tuple[float, float, float]
"""Lower bound, upper bound, count."""


def check_bounds(bounds: FloatArray) -> None:
    """Raise ValueError for bounds that are none."""
    if len(bounds) >= MOST:
        raise ValueError(f"a histogram of more than {MOST} buckets")
    if not np.isfinite(bounds).all() or (np.diff(bounds) <= 0).any():
        raise ValueError("the bounds of a histogram do not rise")


def exponential(
    scale: int, zero: float, above: tuple[int, Sequence[float]] | None, below: tuple[int, Sequence[float]] | None
) -> list[Bucket]:  # fmt: skip
    """Return the same of buckets whose bounds are powers of 2 ** 2 ** -scale."""
    if not -11 <= scale <= 20:
        raise ValueError("the scale of a histogram is out of bounds")

    def bound(i: int) -> float:
        return float(2.0 ** max(-1070.0, min(1023.0, i * 2.0**-scale)))

    out = []
    offset, counts = below or (0, ())
    out += [(-bound(offset + i + 1), -bound(offset + i), float(n)) for i, n in enumerate(counts)][
        ::-1
    ]
    out.append((0.0, 0.0, zero))
    offset, counts = above or (0, ())
    out += [(bound(offset + i), bound(offset + i + 1), float(n)) for i, n in enumerate(counts)]
    return out


def none() -> FloatArray:
    """Return no buckets."""
    return np.zeros((0, 3))


def count_of(buckets: FloatArray) -> float:
    """Return how much was counted."""
    return float(buckets[:, 2].sum())


def joined(some: Sequence[FloatArray]) -> FloatArray:
    """Add the counts of the same buckets."""
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
    rising = base[np.argsort(base[:, 1], kind="stable")]
    below = np.append(0.0, np.cumsum(rising[:, 2]))
    before = below[np.searchsorted(rising[:, 1], now[:, 1], side="right")]
    counts = now[:, 2] - np.diff(
        before, prepend=below[np.searchsorted(rising[:, 1], now[0, 0], side="right")]
    )
    return np.column_stack([now[:, :2], np.maximum(counts, 0.0)])


def quantile(buckets: FloatArray, q: float) -> float:
    """Return a quantile of buckets, linear within one; of the open last one its lower bound; NaN = no rows."""
    if not len(buckets):
        return math.nan
    rising = buckets[np.argsort(buckets[:, 1], kind="stable")]
    below = np.cumsum(rising[:, 2])
    if below[-1] <= 0:
        return math.nan
    i = int(np.searchsorted(below, q * below[-1]))
    low, high, count = rising[min(i, len(rising) - 1)].tolist()
    if math.isinf(high) or not count:
        return float(low)
    return float(low + (high - low) * (q * below[-1] - (below[i] - count)) / count)
