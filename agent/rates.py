"""The one place where counters become rates.

A source sends counters as it finds them; from here on only `SignalDef.rate` flows, per second. Gauges and states
pass through untouched, so do sightings and changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import FloatArray, Frame, IntArray, Series

_CLOCKS_AGREE_S: Final = 0.25
"""Wall time is trusted between two readings as long as it and a steady clock differ by less than this."""
_SHORTEST_S: Final = 0.05
"""A host that starves us stops a reading in its middle, and the next one follows at once: a rate over less than this
tells when we were let run, not what happened (thousands of cores, where there are two)."""


@dataclass(slots=True)
class _Columns:
    """One source: where its counters stand (m of n columns) and what they said last.

    order    (n,) input column of each output column; None = as they came
    last     (m,) newest value; when, steady: (m,) its times; NaN = never answered, or no steady clock
    """

    source: tuple[Series, ...]
    out: tuple[Series, ...]
    order: IntArray | None
    counters: IntArray
    last: FloatArray
    when: FloatArray
    steady: FloatArray


@dataclass(slots=True)
class Rates:
    """Turns the counters of frames into rates; keeps the last row of every source.

    A rate is NaN (unknown) for one row when the counter is new or has fallen, and when time stood still, ran
    backwards or leapt by more than `longest_gap_s`. A fall means that what counted began anew (a restart, a
    re-plugged device) or, on Linux, that the kernel corrected iowait: what it had counted until then is lost, so
    value / dt would be a guess, and one row without a value costs nothing. After a long gap the mean would say
    little about now. A counter that did not answer (NaN) keeps its last value: the next rate spans the hole. So does
    one that was read again at once.

    Cost: a handful of vector operations a frame; Python per series only when the table changes. 24 bytes a counter.
    """

    longest_gap_s: float = 300.0
    _sources: dict[str, _Columns] = field(default_factory=dict)

    def apply(self, frame: Frame, steady: float | None = None) -> Frame:
        """Return the frame with rates (n,) for counters, its series sorted; the tuple stays the same object.

        steady   time of the reading on a clock that nobody sets and that never stands (`agent.clock.since_boot`),
                 where the caller has one: a jump of the wall clock then spoils no rate, and a machine that slept
                 makes none of what others counted meanwhile. Without it, time is `frame.ts` alone, as in a replay.
        """
        columns = self._sources.get(frame.source)
        if columns is None or columns.source is not frame.series:
            columns = self._sources[frame.source] = _build(frame.series, columns)
        counters = columns.counters
        if not counters.size and columns.order is None:
            return frame
        values = frame.values.astype(np.float64)
        now = values[counters]
        dt = frame.ts - columns.when
        if steady is not None:
            steady_dt = steady - columns.steady
            jumped = np.abs(dt - steady_dt) > _CLOCKS_AGREE_S  # False where steady_dt is NaN
            dt = np.where(jumped, steady_dt, dt)
        delta = now - columns.last
        at_once = (dt > 0) & (dt < _SHORTEST_S)
        good = (dt > 0) & ~at_once & (dt <= self.longest_gap_s) & (delta >= 0) & np.isfinite(delta)
        rate = np.full(counters.size, np.nan)
        np.divide(delta, dt, out=rate, where=good)
        values[counters] = rate
        answered = np.isfinite(now) & ~at_once
        columns.last[answered] = now[answered]
        columns.when[answered] = frame.ts
        columns.steady[answered] = np.nan if steady is None else steady
        if columns.order is not None:
            values = values[columns.order]
        return replace(frame, series=columns.out, values=values)

    def forget(self, source: str) -> None:
        """Drop what is kept of a source that was taken out of config."""
        self._sources.pop(source, None)


def _rate_of(series: Series) -> Series:
    """Return the series of the rate for a counter, the series itself for all else."""
    known = SIGNALS.get(series.metric)
    if known is None or known.kind != "counter":
        return series
    return Series(known.rate, series.entity, series.labels)


def _key(series: Series) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    """Sort key: the order of `Series`, without a Python call for each comparison."""
    return series.metric, series.entity.kind, series.entity.key, series.labels


def _build(series: tuple[Series, ...], old: _Columns | None) -> _Columns:
    """Lay out the columns of a new table; counters that were there before keep what they said."""
    if old is not None and old.source == series:
        old.source = series
        return old
    renamed = [_rate_of(s) for s in series]
    counters = [i for i, s in enumerate(renamed) if s is not series[i]]
    order = sorted(range(len(renamed)), key=lambda i: _key(renamed[i]))
    out = tuple(renamed[i] for i in order)
    double = next((a for a, b in pairwise(out) if a == b), None)
    if double is not None:
        raise ValueError(f"two columns of one frame are {double}: give them different labels")
    m = len(counters)
    columns = _Columns(
        series,
        out,
        None if order == list(range(len(order))) else np.array(order, dtype=np.int64),
        np.array(counters, dtype=np.int64),
        np.full(m, np.nan),
        np.full(m, np.nan),
        np.full(m, np.nan),
    )
    if old is not None:
        before = {old.source[i]: j for j, i in enumerate(old.counters)}
        for j, i in enumerate(counters):
            k = before.get(series[i], -1)
            if k >= 0:
                columns.last[j] = old.last[k]
                columns.when[j] = old.when[k]
                columns.steady[j] = old.steady[k]
    return columns
