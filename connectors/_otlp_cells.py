"""Buckets of exponential histograms, many histograms at once: only those that hold something, as flat columns.

Bucket i of a histogram of scale s reaches from 2 ** (i * 2 ** -s) to 2 ** ((i + 1) * 2 ** -s). Two of them become one
when the scale falls by 1, so histograms of different scales are added, and subtracted, at the lower one.
https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from connectors._otlp_buckets import MOST

LOWEST, HIGHEST = -11, 20
"""Scales: two buckets for all there is, and a millionth a bucket."""
_FINEST: Final = 99
"""Of a row without cells, which may be added to any."""
_ONE: Final = 1 << 33
"""Cell of bucket 0; that of what counted as 0 is 0, those of what is below 0 are negative: cells rise as values do."""
_ROW: Final = 1 << 35
"""More cells than a row may have."""


def ragged(begin: IntArray, size: IntArray) -> IntArray:
    """Return begin[0], begin[0] + 1 ... for `size[0]` numbers, then those of the others."""
    return np.asarray(np.repeat(begin - (np.cumsum(size) - size), size) + np.arange(size.sum()))


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of n histograms that hold something.

    scale   (n,)
    row     (c,) whose they are, rising
    cell    (c,) which, rising in a row
    count   (c,) above 0
    """

    scale: IntArray
    row: IntArray
    cell: IntArray
    count: FloatArray

    @staticmethod
    def of(
        scale: IntArray, zero: FloatArray, sides: IntArray, size: IntArray, counts: FloatArray
    ) -> Cells:
        """Gather what n histograms say, or raise ValueError.

        zero    (n,) what counted as 0
        sides   (k, 3) whose, 1 or -1 (of what is below 0), and which bucket is the first
        size    (k,) how many buckets each side has; counts: those of all sides
        """
        if ((scale < LOWEST) | (scale > HIGHEST)).any():
            raise ValueError("the scale of a histogram is out of bounds")
        if size.max(initial=0) > MOST:
            raise ValueError(f"a histogram of more than {MOST} buckets")
        if (counts < 0).any() or (zero < 0).any():
            raise ValueError("a histogram counts less than nothing")
        if (np.abs(sides[:, 2]) >= 1 << 31).any():
            raise ValueError("the first bucket of a histogram is out of bounds")
        row, way = np.repeat(sides[:, 0], size), np.repeat(sides[:, 1], size)
        cell = way * (ragged(sides[:, 2], size) + _ONE)
        none = np.flatnonzero(zero > 0)
        if none.size:
            row, cell = np.append(none, row), np.append(np.zeros_like(none), cell)
            counts = np.append(zero[none], counts)
        return _summed(scale, row, cell, counts)

    def of_rows(self, rows: IntArray) -> Cells:
        """Return those of some rows, which are numbered anew."""
        if np.array_equal(rows, np.arange(len(self.scale))):
            return self
        begin = np.searchsorted(self.row, rows)
        size = np.searchsorted(self.row, rows, side="right") - begin
        at = ragged(begin, size)
        row = np.repeat(np.arange(len(rows)), size)
        return Cells(self.scale[rows], row, self.cell[at], self.count[at])

    def where(self, kept: BoolArray) -> Cells:
        """Return them without those of the other rows, which are empty then."""
        if kept.all():
            return self
        some = kept[self.row]
        return Cells(self.scale, self.row[some], self.cell[some], self.count[some])

    def totals(self) -> FloatArray:
        """Return what each row counted (n,)."""
        return np.asarray(np.bincount(self.row, self.count, len(self.scale)), dtype=np.float64)

    def scales(self) -> IntArray:
        """Return the scales (n,); above all, where a row has no cells, or only that of 0."""
        n = len(self.scale)
        begin = np.searchsorted(self.row, np.arange(n + 1))
        size = np.diff(begin)
        first = np.append(self.cell, 0)[begin[:-1]]
        return np.where((size > 1) | ((size == 1) & (first != 0)), self.scale, _FINEST)

    def plus(self, other: Cells, sign: FloatArray) -> Cells:
        """Add the cells of the same rows, times `sign` (n,): what is not above 0 then is left out."""
        scale = np.minimum(self.scales(), other.scales())
        ours, theirs = self._coarser(scale), other._coarser(scale)
        more = other.count * sign[other.row]
        if np.array_equal(ours, theirs) and np.array_equal(self.row, other.row):  # as mostly
            return _held(scale, self.row, ours, self.count + more)
        return _summed(
            scale,
            np.concatenate([self.row, other.row]),
            np.concatenate([ours, theirs]),
            np.concatenate([self.count, more]),
        )

    def grouped(self, group: IntArray, n: int) -> Cells:
        """Add rows to n groups; group: (rows,), of each row its own."""
        scale = np.full(n, _FINEST, dtype=np.int64)
        np.minimum.at(scale, group, self.scales())
        return _summed(scale, group[self.row], self._coarser(scale[group]), self.count)

    def quantiles(self, wanted: Sequence[float]) -> FloatArray:
        """Return (n, q): linear within a cell; NaN = the row is empty."""
        n, out = len(self.scale), np.full((len(self.scale), len(wanted)), np.nan)
        begin = np.searchsorted(self.row, np.arange(n))
        end = np.searchsorted(self.row, np.arange(n), side="right")
        held = np.flatnonzero(end > begin)
        begin, end = begin[held], end[held]
        below = np.append(0.0, np.cumsum(self.count))
        before, whole = below[begin], below[end] - below[begin]
        for k, q in enumerate(wanted):
            rank = before + q * whole
            i = np.clip(np.searchsorted(below[1:], rank), begin, end - 1)
            low, high = self._bounds(i)
            share = np.clip((rank - below[i]) / self.count[i], 0.0, 1.0)
            out[held, k] = low + (high - low) * share
        return out

    def buckets(self, row: int) -> FloatArray:
        """Return those of one row (k, 3): lower bound, upper bound, count."""
        i = np.flatnonzero(self.row == row)
        return np.column_stack([*self._bounds(i), self.count[i]])

    def _bounds(self, i: IntArray) -> tuple[FloatArray, FloatArray]:
        cell, step = self.cell[i], 2.0 ** -self.scale[self.row[i]]
        index = np.abs(cell) - _ONE
        near, far = (
            np.exp2(np.clip((index + edge) * step, -1070.0, 1023.0)) * np.sign(cell)
            for edge in (0, 1)
        )
        return np.minimum(near, far), np.maximum(near, far)

    def _coarser(self, scale: IntArray) -> IntArray:
        """Return the cells at scales that are lower, or the same."""
        lower = np.maximum(self.scale - scale, 0)
        if not lower.any():
            return self.cell
        by = lower[self.row]
        moved = np.sign(self.cell) * ((np.abs(self.cell) - _ONE >> by) + _ONE)
        return np.where(self.cell == 0, 0, moved)


def _summed(scale: IntArray, row: IntArray, cell: IntArray, count: FloatArray) -> Cells:
    """Sort cells, add those that are the same, and leave out what is not above 0."""
    key = row * _ROW + cell
    if (np.diff(key) <= 0).any():
        order = np.argsort(key, kind="stable")  # of runs that rise already: they are merged
        key = key[order]
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
        count, order = np.add.reduceat(count[order], first), order[first]
        row, cell = row[order], cell[order]
    return _held(scale, row, cell, count)


def _held(scale: IntArray, row: IntArray, cell: IntArray, count: FloatArray) -> Cells:
    """Leave out the cells that hold nothing."""
    some = count > 0
    if not some.all():
        row, cell, count = row[some], cell[some], count[some]
    return Cells(scale, row, cell, count)


class Shelf:
    """Cells of many rows, some of which are taken and put at a time. Cost: of these; now and then, of all."""

    def __init__(self) -> None:
        self._begin, self._size, self._scale = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self._cell: Any = np.zeros(0, dtype=np.int64)
        self._count: Any = np.zeros(0)
        self._end = 0

    def grow(self, n: int) -> None:
        """Make room for n rows in all."""
        more = n - len(self._size)
        self._begin, self._size, self._scale = (
            np.append(a, np.zeros(more, dtype=np.int64)) for a in (self._begin, self._size, self._scale)
        )  # fmt: skip

    def keep(self, rows: IntArray) -> None:
        """Keep these rows, in this order."""
        self._begin, self._size, self._scale = (
            a[rows] for a in (self._begin, self._size, self._scale)
        )
        self._tidy(0)

    def take(self, rows: IntArray) -> Cells:
        """Return the cells of some rows."""
        at = ragged(self._begin[rows], self._size[rows])
        row = np.repeat(np.arange(len(rows)), self._size[rows])
        return Cells(self._scale[rows], row, self._cell[at], self._count[at])

    def put(self, rows: IntArray, cells: Cells) -> None:
        """Put these in the place of what the rows have."""
        size = np.bincount(cells.row, minlength=len(rows))
        self._size[rows] = 0
        n = len(cells.count)
        if self._end + n > len(self._cell):
            self._tidy(n)
        self._begin[rows] = self._end + np.cumsum(size) - size
        self._size[rows], self._scale[rows] = size, cells.scale
        self._cell[self._end : self._end + n] = cells.cell
        self._count[self._end : self._end + n] = cells.count
        self._end += n

    def _tidy(self, more: int) -> None:
        """Close the gaps, and leave as much room as is taken."""
        at = ragged(self._begin, self._size)
        room = np.zeros(len(at) + 2 * more)
        self._cell = np.concatenate([self._cell[at], room.astype(np.int64)])
        self._count = np.concatenate([self._count[at], room])
        self._begin, self._end = np.cumsum(self._size) - self._size, len(at)
