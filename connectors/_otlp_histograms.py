"""Histograms as they come: those of the same bounds in one table of counts, exponential ones in one of cells.

Quantiles are of what came since they were made last: a histogram closes when nine tenths of an interval have passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agent.collect import patience_of
from agent.model import BoolArray, FloatArray, IntArray
from connectors._otlp_cells import Cells, Shelf
from connectors._otlp_columns import DUE, GAP_S, begin_anew
from connectors._otlp_points import Heads, Powers, Spread


class _Moment(NamedTuple):
    """What a point means for its histogram: (m,) each.

    begun   it counts anew: from nothing where it is `whole`, else from this point on
    due     it closes; said: and what came since tells something of now
    shut    it closes, or there is none any more
    """

    begun: BoolArray
    whole: BoolArray
    due: BoolArray
    said: BoolArray
    shut: BoolArray


class _Rows:
    """When histograms (r,) were heard, and whose they are."""

    _flat = ("base_ts", "last_ts", "start", "came", "delta", "group")

    def __init__(self) -> None:
        self._n = 0
        self._room: dict[str, Any] = {name: np.zeros(0) for name in self._flat}

    def __getattr__(self, name: str) -> Any:
        return self._room[name][: self._n]

    def add(self, group: int, *, delta: bool) -> int:
        """Make room for one more; return its row."""
        if self._n == len(self._room["group"]):
            more = max(16, self._n)
            self._room = {
                name: np.concatenate([column, np.zeros((more, *column.shape[1:]))])
                for name, column in self._room.items()
            }
        row = self._n
        for every in self._room.values():
            every[row] = 0.0
        self._room["base_ts"][row], self._room["came"][row] = math.nan, -math.inf
        self._room["delta"][row], self._room["group"][row] = delta, group
        self._n += 1
        return row

    def set_back(self, now: float) -> None:
        """Let histograms whose last point is of a time that has not come begin anew: a clock was set back."""
        begin_anew(self.last_ts, self.base_ts, self.start, self.came, now)

    def leave(self, row: int) -> None:
        """Let a row count for nothing any more."""
        self._room["came"][row] = -math.inf

    def keep(self, rows: IntArray, groups: IntArray) -> None:
        """Keep these rows, in this order; groups: their groups as they are called now."""
        self._room = {name: column[rows] for name, column in self._room.items()}
        self._n = len(rows)
        self._room["group"] = groups.astype(np.float64)

    def take(self, rows: IntArray, points: Spread | Powers, now: float, every_s: float) -> IntArray:
        """Take points, one or more a row; return the groups whose quantiles are due."""
        ts = points.heads.ts
        order = np.lexsort((ts, rows))
        first = np.append(True, np.diff(rows[order]) != 0)
        begin = np.flatnonzero(first)
        rank = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
        closed = [np.zeros(0, dtype=np.int64)]
        for k in range(int(rank.max(initial=-1)) + 1):
            at = order[rank == k]
            at = at[ts[at] > self.last_ts[rows[at]]]
            shut = self._once(rows[at], points.at(at), now, every_s)
            closed.append(self.group[shut].astype(np.int64))
        return np.unique(np.concatenate(closed))

    def _once(self, r: IntArray, points: Any, now: float, every_s: float) -> IntArray:
        """Take points of rows that are all different; return the rows that are shut."""
        raise NotImplementedError

    def _moment(
        self, r: IntArray, heads: Heads, fell: BoolArray, now: float, every_s: float
    ) -> _Moment:
        """Tell what points mean, and note when they came. fell: it counts less than it did."""
        start, ts, gone, base_ts = heads.start, heads.ts, heads.gone, self.base_ts[r]
        delta, new = self.delta[r] > 0, np.isnan(base_ts)
        again = (start > self.start[r]) & (self.start[r] > 0) & (start >= self.last_ts[r] - 1.0)
        reset = ~delta & ~new & (fell | again)
        began = (start > 0) & (start < ts)
        whole = began & (reset | (new & (delta | (ts - start <= 2 * every_s))))
        base_ts = np.where(new | reset, np.where(whole, start, ts), base_ts)
        gap = ts - base_ts
        due = (gap >= DUE * every_s) & ~gone
        said = due & (gap <= max(GAP_S, 5 * every_s)) & (ts >= now - patience_of(every_s))
        self.base_ts[r] = np.where(gone, np.nan, np.where(due, ts, base_ts))
        self.last_ts[r], self.start[r], self.came[r] = ts, start, now
        return _Moment(new | reset, whole, due, said, due | gone)


class Table(_Rows):
    """Histograms (r,) of the same k buckets.

    base, recent   (r, k) counts when they closed last, and what came until then; total: of deltas, all there were
    """

    def __init__(self, bounds: FloatArray) -> None:
        super().__init__()
        self.lower = np.concatenate([[min(0.0, bounds[0])], bounds])
        self.upper = np.append(bounds, math.inf)
        self._room |= {name: np.zeros((0, len(self.upper))) for name in ("base", "total", "recent")}

    def _once(self, r: IntArray, points: Spread, now: float, every_s: float) -> IntArray:
        counts, base, delta = points.counts, self.base[r], (self.delta[r] > 0)[:, None]
        self.total[r] += np.where(delta & ~points.heads.gone[:, None], counts, 0.0)
        cur = np.where(delta, self.total[r], counts)
        is_ = self._moment(r, points.heads, cur.sum(1) < base.sum(1), now, every_s)
        nothing = np.where(delta, cur - counts, 0.0)
        begun = np.where(is_.whole[:, None], nothing, cur)
        base = np.where(is_.begun[:, None], begun, base)
        shut = is_.shut
        self.recent[r[shut]] = np.where(is_.said[:, None], cur - base, 0.0)[shut]
        self.base[r] = np.where(is_.due[:, None], cur, base)
        return r[shut]

    def merged(self, groups: IntArray, oldest: float) -> FloatArray:
        """Return the counts of groups (g, k): what their rows brought last, of those that were heard since `oldest`."""
        out = np.zeros((len(groups), len(self.upper)))
        of = self.group.astype(np.int64)
        at = np.minimum(np.searchsorted(groups, of), len(groups) - 1)
        theirs = (groups[at] == of) & (self.came >= oldest)
        np.add.at(out, at[theirs], self.recent[theirs])
        return out

    def quantiles(self, counts: FloatArray, wanted: Sequence[float]) -> FloatArray:
        """Return quantiles (g, q) of rows (g, k): linear within a bucket, of the open one its lower bound."""
        below = np.cumsum(counts, axis=1)
        out, each = np.full((len(counts), len(wanted)), np.nan), np.arange(len(counts))
        for j, q in enumerate(wanted):
            rank = q * below[:, -1]
            i = np.minimum((below < rank[:, None]).sum(axis=1), counts.shape[1] - 1)
            low, high, count = self.lower[i], self.upper[i], counts[each, i]
            inside = np.isfinite(high) & (count > 0)
            share = np.divide(
                rank - (below[each, i] - count), count, out=np.zeros(len(i)), where=inside
            )
            value = low + np.where(inside, high - low, 0.0) * share
            out[:, j] = np.where(below[:, -1] > 0, value, np.nan)
        return out

    def buckets(self, counts: FloatArray) -> FloatArray:
        """Return counts (k,) with their bounds (k, 3)."""
        return np.column_stack([self.lower, self.upper, counts])


class PowerTable(_Rows):
    """Exponential histograms (r,).

    base, recent   cells when they closed last, and what came until then; of deltas `base` is what came since
    """

    def __init__(self) -> None:
        super().__init__()
        self.base, self.recent = Shelf(), Shelf()

    def add(self, group: int, *, delta: bool) -> int:
        """Make room for one more; return its row."""
        row = super().add(group, delta=delta)
        for shelf in (self.base, self.recent):
            shelf.grow(self._n)
        return row

    def keep(self, rows: IntArray, groups: IntArray) -> None:
        """Keep these rows, in this order; groups: their groups as they are called now."""
        super().keep(rows, groups)
        for shelf in (self.base, self.recent):
            shelf.keep(rows)

    def _once(self, r: IntArray, points: Powers, now: float, every_s: float) -> IntArray:
        cur, base, delta = points.cells, self.base.take(r), self.delta[r] > 0
        # buckets get wider as more is counted: finer ones are of a new count
        fell = (cur.totals() < base.totals()) | (cur.scales() > base.scales())
        is_ = self._moment(r, points.heads, fell, now, every_s)
        cur, base = cur.where(~points.heads.gone), base.where(~is_.begun)
        since = cur.plus(base, np.where(delta, 1.0, -1.0))
        _put(self.recent, r, since.where(is_.said), is_.shut)
        done = is_.due | (is_.begun & ~is_.whole)
        _put(self.base, r, cur, ~delta & done)
        _put(self.base, r, since, delta & ~done)
        _put(self.base, r, base.where(~done), np.where(delta, done, is_.begun & ~done))
        return r[is_.shut]

    def merged(self, groups: IntArray, oldest: float) -> Cells:
        """Return the cells of groups: what their rows brought last, of those that were heard since `oldest`."""
        rows = np.flatnonzero((self.came >= oldest) & np.isin(self.group, groups))
        of = np.searchsorted(groups, self.group[rows].astype(np.int64))
        return self.recent.take(rows).grouped(of, len(groups))


def _put(shelf: Shelf, rows: IntArray, cells: Cells, some: BoolArray) -> None:
    if some.any():
        shelf.put(rows[some], cells.of_rows(np.flatnonzero(some)))
