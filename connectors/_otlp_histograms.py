"""Histograms as they come: those of the same bounds in one table of counts, exponential ones each by itself.

Quantiles are of what came since they were made last: a histogram closes when nine tenths of an interval have passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.collect import patience_of
from agent.model import FloatArray, IntArray
from connectors._otlp_buckets import count_of, joined, less, none
from connectors._otlp_columns import DUE, GAP_S
from connectors._otlp_metrics import Distribution, Spread


class Table:
    """Histograms (r,) of the same k buckets.

    base, recent   (r, k) counts when they closed last, and what came until then; total: of deltas, all there were
    """

    _flat = ("base_ts", "last_ts", "start", "came", "delta", "group")

    def __init__(self, bounds: FloatArray) -> None:
        self.lower = np.concatenate([[min(0.0, bounds[0])], bounds])
        self.upper = np.append(bounds, math.inf)
        self._n = 0
        self._room: dict[str, Any] = {name: np.zeros(0) for name in self._flat}
        self._room |= {name: np.zeros((0, len(self.upper))) for name in ("base", "total", "recent")}

    def __getattr__(self, name: str) -> Any:
        return self._room[name][: self._n]

    def add(self, group: int, *, delta: bool) -> int:
        """Make room for one more; return its row."""
        if self._n == len(self._room["group"]):
            for name, column in self._room.items():
                more = np.zeros((max(16, self._n), *column.shape[1:]))
                self._room[name] = np.concatenate([column, more])
        row = self._n
        for column in self._room.values():
            column[row] = 0.0
        self._room["base_ts"][row], self._room["came"][row] = math.nan, -math.inf
        self._room["delta"][row], self._room["group"][row] = delta, group
        self._n += 1
        return row

    def leave(self, row: int) -> None:
        """Let a row count for nothing any more."""
        self._room["came"][row] = -math.inf

    def keep(self, rows: IntArray, groups: IntArray) -> None:
        """Keep these rows, in this order; groups: their groups as they are called now."""
        self._room = {name: column[rows] for name, column in self._room.items()}
        self._n = len(rows)
        self._room["group"] = groups.astype(np.float64)

    def take(self, rows: IntArray, points: Spread, now: float, every_s: float) -> IntArray:
        """Take points, one or more a row; return the groups whose quantiles are due."""
        order = np.lexsort((points.ts, rows))
        first = np.append(True, np.diff(rows[order]) != 0)
        begin = np.flatnonzero(first)
        rank = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
        closed = [
            self._once(rows[at], points.at(at), now, every_s)
            for at in (order[rank == k] for k in range(int(rank.max(initial=-1)) + 1))
        ]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *closed]))

    def _once(self, r: IntArray, points: Spread, now: float, every_s: float) -> IntArray:
        """Take points of rows that are all different."""
        newer = points.ts > self.last_ts[r]
        r, points = r[newer], points.at(newer)
        start, ts, counts, gone = points.start, points.ts, points.counts, points.gone
        delta = self.delta[r] > 0
        self.total[r] += np.where((delta & ~gone)[:, None], counts, 0.0)
        cur = np.where(delta[:, None], self.total[r], counts)
        base, base_ts = self.base[r], self.base_ts[r]
        new = np.isnan(base_ts)
        again = (start > self.start[r]) & (self.start[r] > 0) & (start >= self.last_ts[r] - 1.0)
        reset = ~delta & ~new & ((cur.sum(1) < base.sum(1)) | again)
        began = (start > 0) & (start < ts)
        whole = began & (reset | (new & (delta | (ts - start <= 2 * every_s))))
        nothing = np.where(delta[:, None], cur - counts, 0.0)
        begun = np.where(whole[:, None], nothing, cur)
        base = np.where((new | reset)[:, None], begun, base)
        base_ts = np.where(new | reset, np.where(whole, start, ts), base_ts)
        gap = ts - base_ts
        due = (gap >= DUE * every_s) & ~gone
        said = due & (gap <= max(GAP_S, 5 * every_s)) & (ts >= now - patience_of(every_s))
        shut = due | gone
        self.recent[r[shut]] = np.where(said[:, None], cur - base, 0.0)[shut]
        self.base[r] = np.where(due[:, None], cur, base)
        self.base_ts[r] = np.where(gone, np.nan, np.where(due, ts, base_ts))
        self.last_ts[r], self.start[r], self.came[r] = ts, start, now
        return np.asarray(self.group[r[shut]].astype(np.int64))

    def merged(self, groups: IntArray, oldest: float) -> FloatArray:
        """Return the counts of groups (g, k): what their rows brought last, of those that were heard since `oldest`."""
        out = np.zeros((len(groups), len(self.upper)))
        of = self.group.astype(np.int64)
        at = np.minimum(np.searchsorted(groups, of), len(groups) - 1)
        theirs = (groups[at] == of) & (self.came >= oldest)
        np.add.at(out, at[theirs], self.recent[theirs])
        return out

    def quantiles(self, counts: FloatArray, q: float) -> FloatArray:
        """Return a quantile of each row (g, k): linear within a bucket, of the open one its lower bound."""
        below = np.cumsum(counts, axis=1)
        wanted = q * below[:, -1]
        i = np.minimum((below < wanted[:, None]).sum(axis=1), counts.shape[1] - 1)
        each = np.arange(len(counts))
        low, high, count = self.lower[i], self.upper[i], counts[each, i]
        inside = np.isfinite(high) & (count > 0)
        share = np.divide(
            wanted - (below[each, i] - count), count, out=np.zeros(len(i)), where=inside
        )
        value = low + np.where(inside, high - low, 0.0) * share
        return np.where(below[:, -1] > 0, value, np.nan)

    def buckets(self, counts: FloatArray) -> FloatArray:
        """Return counts (k,) with their bounds (k, 3)."""
        return np.column_stack([self.lower, self.upper, counts])


@dataclass(slots=True)
class Exponential:
    """An exponential histogram: its buckets (k, 3) when it closed last, and what came until then."""

    delta: bool
    group: int
    last_ts: float = 0.0
    start: float = 0.0
    base_ts: float = math.nan
    base: FloatArray = field(default_factory=none)
    total: FloatArray = field(default_factory=none)
    recent: FloatArray = field(default_factory=none)
    came: float = -math.inf

    def take(self, point: Distribution, ts: float, now: float, every_s: float) -> bool:
        """Take a point; return whether its quantiles are due."""
        self.came = now
        if ts <= self.last_ts:
            return False
        if point.flagged:
            self.base_ts, self.recent = math.nan, none()
            return True
        buckets = point.buckets
        began = 0.0 < point.start < ts
        if self.delta:
            buckets = self.total = joined([self.total, buckets])
        again = not self.delta and (
            count_of(buckets) < count_of(self.base) or self.start < point.start > self.last_ts - 1.0
        )
        if math.isnan(self.base_ts) or again:
            whole = began and (self.delta or again or ts - point.start <= 2 * every_s)
            self.base = none() if whole else buckets
            self.base_ts = point.start if whole else ts
        self.last_ts, self.start = ts, point.start
        gap = ts - self.base_ts
        if gap < DUE * every_s:
            return False
        said = gap <= max(GAP_S, 5 * every_s) and ts >= now - patience_of(every_s)
        self.recent = less(buckets, self.base) if said else none()
        self.base, self.base_ts = buckets, ts
        if self.delta:
            self.total, self.base = none(), none()
        return True
