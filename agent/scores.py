"""What detectors said of every series, kept as long as history is: how rare it was then, not how rare it would be now.

    p-values of a row (Watch.p) -> the rarest of ten seconds, as -log10 p -> a `History` of its own (state/scores)

A score is the word of then: by what had been learnt until then, with the limits of then. Computed again from history
it would be another one, as a detector that looks back has seen what came after.

Good for seeing when something began to be odd, and whether a detector saw it. Not for single rows: of ten seconds the
rarest is kept, to a tenth (a p-value to 12 %), at most 20. NaN where nothing was said: too short a past, no daemon.

Cost at 1,000 series a second, measured with 2 busy cores: 40 us a tick (25 ms once in ten minutes, when a block is
written), 3 MB of memory, on disk at most 1.3 MB an hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from agent.history import History
from agent.model import FloatArray, Frame, Series

STEP_S: Final = 10.0
MOST: Final = 20.0
"""A p-value of 1e-20 is as rare as anybody needs to know."""
_TAIL_S: Final = 60.0


class Scored(Protocol):
    """Who judges one source. scored_at: of which row `p` (n,) speaks; NaN = of none yet."""

    @property
    def series(self) -> tuple[Series, ...]:
        """Who its columns are."""
        ...

    p: FloatArray
    scored_at: float


class _Stretch:
    """The rarest p (n,) of the series of one source, since `ts`."""

    __slots__ = ("p", "series", "ts")

    def __init__(self, ts: float, series: tuple[Series, ...], p: FloatArray) -> None:
        self.ts, self.series, self.p = ts, series, p.copy()


class Scores:
    """The past of scores. One thread, one process.

    folder, age_s, size_bytes   as of a `History`
    """

    def __init__(self, folder: Path, *, age_s: float, size_bytes: float) -> None:
        self._past = History(folder, age_s=age_s, size_bytes=size_bytes, tail_s=_TAIL_S)
        self._seen: dict[str, float] = {}
        self._now: dict[str, _Stretch] = {}

    @property
    def fault(self) -> str | None:
        """Why they can not be kept, in words."""
        return self._past.fault

    def take(self, watches: Iterable[tuple[str, Scored]]) -> None:
        """Take what was said since the last time; called once a tick. What was taken already is not taken again."""
        for source, watch in watches:
            ts = watch.scored_at
            if math.isnan(ts) or self._seen.get(source) == ts:
                continue
            self._seen[source] = ts
            now = self._now.get(source)
            if now is not None and now.series is watch.series and _place(now.ts) == _place(ts):
                np.fmin(now.p, watch.p, out=now.p)
                continue
            if now is not None:
                self._past.append(Frame(source, now.ts, now.series, _scores(now.p)))
            self._now[source] = _Stretch(ts, watch.series, watch.p)

    def read(self, series: Series, start: float, end: float) -> tuple[FloatArray, FloatArray]:
        """Return ts (k,) ascending, of the first row of each ten seconds, and scores (k,); NaN = nothing was said."""
        ts, values = self._past.read([series], start, end)
        column = values[:, 0]
        for now in self._now.values():  # ten seconds that are not over
            if start <= now.ts <= end and series in now.series:
                i = now.series.index(series)
                ts = np.append(ts, now.ts)
                column = np.append(column, _scores(now.p[i : i + 1]))
        order = np.argsort(ts, kind="stable")
        return ts[order], column[order]

    def flush(self) -> None:
        """Write what is in memory only."""
        self._past.flush()

    def close(self) -> None:
        """Write all, and let go of the files."""
        for source, now in self._now.items():
            self._past.append(Frame(source, now.ts, now.series, _scores(now.p)))
        self._now.clear()
        self._past.close()


def _place(ts: float) -> int:
    """Return which ten seconds a moment is in: all sources share them, so that none is left out by a late tick."""
    return math.floor(ts / STEP_S)


def _scores(p: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        found: FloatArray = np.minimum(np.round(-np.log10(p), 1), MOST) + 0.0  # no -0.0
    return found


def rarest(
    ts: FloatArray, scores: FloatArray, start: float, end: float, step: float
) -> tuple[FloatArray, FloatArray]:
    """Return the highest score of each `step` seconds from `start` to `end`; NaN where there is none."""
    first = math.floor(start / step)
    k = math.floor(end / step) - first + 1
    out: FloatArray = np.full(k, np.nan)
    np.fmax.at(out, np.floor(ts / step).astype(np.int64) - first, scores)
    return (first + np.arange(k, dtype=np.float64)) * step, out
