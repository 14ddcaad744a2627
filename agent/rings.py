"""Counts over time in arrays that never grow: rings of buckets, and histograms that can be added up.

A histogram of latencies as in DDSketch (Masson, Rim, Lee, 2019): bins grow by a factor, so a quantile is right
within 2.5 % of its value, and two histograms are merged by adding them.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.model import BoolArray, FloatArray, IntArray

LATENCIES: Final = 332
"""Bins from 0.1 ms to 1,000 s; whoever counts keeps one more for latencies that are not known."""
DELAYS: Final = 200
"""Bins from 1 ms to 4 months, 20 a decade."""
_GAMMA: Final = 1.05
_SHORTEST_S: Final = 1e-4
_PER_DECADE: Final = 20


class Ring:
    """Rows of counts by absolute time bucket; the newest `size` buckets are held. Cost O(rows) a batch."""

    def __init__(self, size: int, columns: int, dtype: npt.DTypeLike = np.float64) -> None:
        self.data: npt.NDArray[Any] = np.zeros((size, columns), dtype=dtype)
        self.newest = -1

    def slots(self, at: IntArray) -> tuple[IntArray, BoolArray]:
        """Make room up to the newest of `at` (n >= 1, none below 0).

        Returns the slot of each (n,), and which are not too old to be held (n,).
        """
        size = len(self.data)
        top = int(at.max())
        if top > self.newest:
            if self.newest < 0 or top - self.newest >= size:
                self.data[:] = 0
            else:
                self.data[np.arange(self.newest + 1, top + 1) % size] = 0
            self.newest = top
        return at % size, at > self.newest - size

    def add(self, slots: IntArray, columns: IntArray | int, amounts: Any = 1) -> None:
        """Add amounts to columns of slots; a slot may come several times."""
        np.add.at(self.data.reshape(-1), slots * self.data.shape[1] + columns, amounts)

    def count(self, *where: tuple[IntArray, IntArray | int]) -> None:
        """Add 1 at all of these (slots, columns), at the price of one `add`."""
        wide = self.data.shape[1]
        at = np.concatenate([slots * wide + columns for slots, columns in where])
        # a 1 of another type would be cast at each of them: thirty times slower
        np.add.at(self.data.reshape(-1), at, self.data.dtype.type(1))

    def span(self, first: int, last: int, columns: int | slice = slice(None)) -> npt.NDArray[Any]:
        """Return the buckets first..last, oldest first, as a copy; what is not held is zero."""
        size = len(self.data)
        held = self.data[:, columns]
        out: npt.NDArray[Any] = np.zeros((last - first + 1, *held.shape[1:]), dtype=held.dtype)
        start, stop = max(first, self.newest - size + 1), min(last, self.newest) + 1
        while start < stop:  # twice at the most: round the end of the array
            at = start % size
            end = min(stop, start + size - at)
            out[start - first : end - first] = held[at : at + end - start]
            start = end
        return out

    def bring_back(self, now: int, latest: int) -> None:
        """Move all that is held to `now` and before, where some of it is of after `latest`: a clock was set back.

        What was counted is as old as it was, and what is counted from now on has its place.
        """
        if self.newest > latest:
            self.data = np.roll(self.data, now - self.newest, axis=0)
            self.newest = now

    def restore(self, newest: int, data: npt.NDArray[Any]) -> None:
        """Take the state of another ring of the same shape; raises ValueError when it is not."""
        if data.shape != self.data.shape:
            raise ValueError(f"a ring of {data.shape}, not of {self.data.shape}")
        self.data[:] = data
        self.newest = newest


def latency_bins(seconds: FloatArray) -> IntArray:
    """Return the bin of each latency (n,); LATENCIES = not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.ceil(np.log(np.maximum(seconds, 0.0) / _SHORTEST_S) / math.log(_GAMMA))
    known = np.isfinite(seconds)
    return np.where(known, np.clip(at, 0, LATENCIES - 1), LATENCIES).astype(np.int64)


def latency_quantile(counts: FloatArray, q: float) -> float:
    """Return a quantile of a histogram (LATENCIES,) in seconds; NaN when it is empty."""
    reached = np.cumsum(counts)
    if not reached[-1] > 0:
        return math.nan
    at = int(np.searchsorted(reached, q * (reached[-1] - 1), side="right"))
    return _SHORTEST_S * math.pow(_GAMMA, at - 0.5) if at else _SHORTEST_S


def delay_bins(seconds: FloatArray) -> IntArray:
    """Return the bin of each delay (n,), all finite; what is negative (clocks differ) is none."""
    at = (np.log10(np.maximum(seconds, 1e-3)) + 3.0) * _PER_DECADE
    return np.clip(at, 0, DELAYS - 1).astype(np.int64)


def delay_quantile(counts: FloatArray, q: float) -> float:
    """Return a quantile of a histogram of delays (DELAYS,) in seconds, within 6 %; NaN when it is empty."""
    reached = np.cumsum(counts)
    if not reached[-1] > 0:
        return math.nan
    at = int(np.searchsorted(reached, q * reached[-1]))
    return math.pow(10.0, (at + 0.5) / _PER_DECADE - 3.0)
