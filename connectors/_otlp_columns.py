"""Streams and columns as vectors: newest points, rates between them, and what several streams make together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent.collect import patience_of
from agent.model import BoolArray, FloatArray, IntArray
from connectors._joined import largest_of_each
from connectors._otlp_names import Fold

GAUGE, RISING, DELTA, DELTA_GAUGE = 0, 1, 2, 3
"""Kinds of streams: a value, a total, what came since the last point, and that of what may fall."""
NOBODY: Final = 0
"""The stream of what is left to others: it has no column."""
GAP_S: Final = 300.0
"""After so long a mean would say little about now: as in `agent.rates`."""
DUE: Final = 0.9
"""Of an interval, that must have passed."""
AHEAD_S: Final = 60.0


def timely(ts: FloatArray, now: float) -> FloatArray:
    """Return times (n,); now, where there is none or one that has not come."""
    return np.where((ts <= 0) | (ts > now + AHEAD_S), now, ts)


def begin_anew(
    last_ts: FloatArray, base_ts: FloatArray, start: FloatArray, came: FloatArray, now: float
) -> None:
    """Forget, in place, the times (n,) that have not come at `now`; else every new point would be an old one."""
    later = last_ts > now
    last_ts[later] = start[later] = 0.0
    base_ts[later] = math.nan
    np.minimum(came, now, out=came)


@dataclass(frozen=True, slots=True)
class Rows:
    """Points by stream: (n,) each."""

    stream: IntArray
    start: FloatArray
    ts: FloatArray
    value: FloatArray
    gone: BoolArray

    @staticmethod
    def joined(some: Sequence[Rows]) -> Rows:
        """Return all of them."""
        names = ("stream", "start", "ts", "value", "gone")
        return Rows(*(np.concatenate([getattr(one, name) for one in some]) for name in names))


class State:
    """What is known of each stream, (n,) with room to grow."""

    _numbers = (
        "kind",
        "resource",
        "sender",
        "count",
        "sum",
        "group",
        "table",
        "row",
        "edge",
        "delta",
    )
    """count, sum: of a distribution, the streams of its totals; group, table, row: where its quantiles are made."""
    _columns = ("total", "base", "base_ts", "start", "last_ts", "out", "came")

    def __init__(self, n: int) -> None:
        self._n = n
        self._room: dict[str, Any] = {
            **{name: np.zeros(n, dtype=np.int64) for name in self._numbers},
            **{name: np.zeros(n) for name in self._columns},
        }
        self._room["base_ts"][:] = self._room["out"][:] = math.nan
        self._room["came"][:] = -math.inf
        for name in ("group", "table", "row"):
            self._room[name][:] = -1

    def __getattr__(self, name: str) -> Any:
        return self._room[name][: self._n]

    def grow(self, kind: int, resource: int, sender: int) -> None:
        """Add a stream that has said nothing yet."""
        if self._n == len(self._room["kind"]):
            for name, column in self._room.items():
                self._room[name] = np.append(column, np.zeros(max(64, self._n), dtype=column.dtype))
        for name, value in (
            ("kind", kind), ("resource", resource), ("sender", sender), ("base_ts", math.nan),
            ("out", math.nan), ("came", -math.inf), ("group", -1), ("table", -1), ("row", -1),
        ):  # fmt: skip
            self._room[name][self._n] = value
        self._n += 1

    def keep(self, alive: BoolArray) -> None:
        """Take streams away."""
        self._room = {name: column[: self._n][alive] for name, column in self._room.items()}
        self._n = int(alive.sum())

    def set_back(self, now: float) -> None:
        """Let streams whose last point is of a time that has not come begin anew: a clock was set back."""
        begin_anew(self.last_ts, self.base_ts, self.start, self.came, now)

    def update(self, rows: Rows, now: float, every_s: float) -> IntArray:
        """Take points; return the streams that they are of."""
        newer = rows.ts > self.last_ts[rows.stream]
        newer &= rows.stream != NOBODY
        order = np.flatnonzero(newer)[np.lexsort((rows.ts[newer], rows.stream[newer]))]
        if not order.size:
            return np.zeros(0, dtype=np.int64)
        stream = rows.stream[order]
        first = np.flatnonzero(np.append(True, stream[1:] != stream[:-1]))
        last = np.append(first[1:], stream.size) - 1
        u, t, s, gone = (x[order][last] for x in (rows.stream, rows.ts, rows.start, rows.gone))
        value = rows.value[order]
        kind = self.kind[u]
        adds = kind >= DELTA
        gains = np.add.reduceat(np.where(rows.gone[order], 0.0, value), first)
        self.total[u] += np.where(adds, gains, 0.0)
        cur = np.where(adds, self.total[u], value[last])
        began = rows.start[order][first]
        out = np.where(
            (kind == GAUGE) | (kind == DELTA_GAUGE),
            cur,
            self._rates(u, (s, t, began), cur, np.where(adds, cur - gains, 0.0), every_s),
        )
        late = t < now - patience_of(every_s)
        self.out[u] = np.where(gone | late, np.nan, out)
        self.base_ts[u[gone]] = np.nan
        self.start[u], self.last_ts[u], self.came[u] = s, t, now
        return np.asarray(u)

    def _rates(
        self, u: IntArray, times: tuple[FloatArray, FloatArray, FloatArray], cur: FloatArray,
        nothing: FloatArray, every_s: float,
    ) -> FloatArray:  # fmt: skip
        """Return rates since they were made last, and begin anew where it is time to.

        times     when each began to count and was measured, by its newest point; when it began, by its first here
        nothing   what the total stood at before what came now
        """
        s, t, began = times
        kind, base, base_ts = self.kind[u], self.base[u], self.base_ts[u]
        adds = kind == DELTA
        new = np.isnan(base_ts)
        # a counter that began a moment ago began at nothing; of an older one the mean so far says nothing of now
        begins = new & (began > 0) & (began < t) & (adds | (t - began <= 2 * every_s))
        base = np.where(begins, nothing, np.where(new, cur, base))
        base_ts = np.where(begins, began, np.where(new, t, base_ts))
        again = (s > self.start[u]) & (self.start[u] > 0) & (s >= self.last_ts[u] - 1.0)
        reset = ~adds & ~new & ((cur < base) | again)
        known = reset & (s > 0) & (s < t)
        base = np.where(reset, np.where(known, 0.0, cur), base)
        base_ts = np.where(reset, np.where(known, s, t), base_ts)
        gap = t - base_ts
        long = gap > max(GAP_S, 5 * every_s)
        due = (gap >= DUE * every_s) & ~long
        rate = np.divide(cur - base, gap, out=self.out[u].copy(), where=due)
        counts = (kind == RISING) | adds
        self.base[u] = np.where(counts, np.where(due | long, cur, base), self.base[u])
        self.base_ts[u] = np.where(counts, np.where(due | long, t, base_ts), self.base_ts[u])
        return np.where(long, np.nan, rate)


@dataclass(frozen=True, slots=True)
class Laid:
    """Addends (f,) of columns (c,). part: what each tells, where others tell the same; -1 = nobody else does."""

    stream: IntArray
    column: IntArray
    scale: FloatArray
    weight: FloatArray
    part: IntArray
    parts: bool
    """Whether any tells a part."""
    how: dict[Fold, BoolArray]
    """Fold -> which columns are joined so (c,)."""

    @staticmethod
    def of(addends: Sequence[tuple[int, int, float, float, int]], folds: Sequence[Fold]) -> Laid:
        """Lay them out."""
        table = np.array(addends, dtype=np.float64).reshape(-1, 5)
        how: dict[Fold, BoolArray] = {
            fold: np.array([f == fold for f in folds], dtype=np.bool_)
            for fold in ("add", "mean", "max", "min", "share")
        }
        return Laid(
            table[:, 0].astype(np.int64),
            table[:, 1].astype(np.int64),
            table[:, 2],
            table[:, 3],
            table[:, 4].astype(np.int64),
            bool((table[:, 4] >= 0).any()),
            how,
        )

    def fold(self, moved: IntArray, out: FloatArray, lost: IntArray) -> tuple[IntArray, FloatArray]:
        """Return the columns that the streams `moved` are addends of, and what all their streams make of them.

        lost   streams that there should be: nothing is known of the columns they are part of
        """
        n = len(self.how["add"])
        theirs = np.zeros(len(out), dtype=np.bool_)
        theirs[moved] = True
        touched = np.zeros(n, dtype=np.bool_)
        touched[self.column[theirs[self.stream]]] = True
        at = np.flatnonzero(touched[self.column])
        x = out[self.stream[at]] * self.scale[at]
        known = np.isfinite(x)
        at, x = at[known], x[known]
        same = np.flatnonzero(self.part[at] >= 0) if self.parts else at[:0]
        if same.size:
            counts = np.ones(len(at), dtype=np.bool_)
            counts[same] = largest_of_each(self.part[at[same]], x[same])
            at, x = at[counts], x[counts]
        column = self.column[at]
        count = np.bincount(column, minlength=n)
        total = np.bincount(column, x * self.weight[at], n)
        under = np.where(self.how["mean"], count, 1.0)
        if self.how["share"].any():
            under = np.where(self.how["share"], np.bincount(column, x, n), under)
        top = np.full(n, -np.inf)
        np.maximum.at(top, column, x)
        total = np.where(self.how["max"], top, total)
        if self.how["min"].any():
            low = np.full(n, np.inf)
            np.minimum.at(low, column, x)
            total = np.where(self.how["min"], low, total)
        whole = np.divide(total, under, out=np.full(n, np.nan), where=(count > 0) & (under != 0))
        whole[self.column[np.isin(self.stream, lost)]] = np.nan
        columns = np.flatnonzero(touched)
        return columns, whole[columns]
