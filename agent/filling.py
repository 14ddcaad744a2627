"""What fills, leaks or ages: which series, towards which limit, their past in buckets, and which are worth a forecast.

    catalogue (`fills`, `limit`, `pace`), objectives --targets--> Target --(agent/forecasts.py)--> Forecast
    history, 30 s means --Past.feed--> buckets, fine now and coarse long ago --screen--> who is worth the worker

Pure numpy, columnar over series. For the cost of 1,000 series every five minutes see `screen` and `Past`; a series
that stands still costs its buckets and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import Ahead, FloatArray, IntArray, Series
from agent.objectives import BUILT_IN, Limit
from agent.units import say_duration

LEVELS: Final = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
"""Probabilities at which a forecast says its time to the limit."""
FINE_S: Final = 30.0
_LENGTHS: Final = (30.0, 300.0, 1800.0)
"""Length of buckets, and below how much past each serves: an hour, eight hours, two days."""
_SPANS: Final = (3600.0, 8 * 3600.0, 48 * 3600.0)
SPAN_S: Final = _SPANS[-1]
_WINDOWS_S: Final = (600.0, 3600.0, 8 * 3600.0, 48 * 3600.0)
_LEAST: Final = 4
"""Known buckets of a window below which it says nothing."""
_SURE: Final = 2.0
_NEIGHBOURS: Final = 4.0
"""Readings near in time say the same: so many count as one."""


@dataclass(frozen=True, slots=True)
class Target:
    """One series and where it must not get.

    kind     key of `forecasts:` in agent.yaml
    sign     +1 rises to `limit`, -1 falls to it
    pace     units a second where that is known beforehand (what ages); NaN = it must be foretold
    """

    series: Series
    kind: str
    limit: float
    sign: int = 1
    pace: float = math.nan

    @property
    def floor(self) -> float:
        """Smallest change that can matter."""
        return max(SIGNALS[self.series.metric].floor, 1e-12)


def targets(series: Iterable[Series], limits: Sequence[Limit]) -> tuple[Target, ...]:
    """Return what is to be forecast among `series`, sorted: the nearest of nature's limit and the stated ones."""
    stated: dict[str, list[Limit]] = {}
    for limit in limits:
        if (
            limit not in BUILT_IN
        ):  # these warn at the last moment; a person's limit is where trouble begins
            stated.setdefault(limit.signal, []).append(limit)
    out = []
    for one in series:
        known = SIGNALS.get(one.metric)
        if known is None or not known.fills:
            continue
        over = [x for x in stated.get(one.metric, ()) if x.over(one)]
        falls = known.pace < 0 or (
            math.isnan(known.limit) and not any(math.isfinite(x.high) for x in over)
        )
        ends = [known.limit, *(x.low if falls else x.high for x in over)]
        ends = [x for x in ends if not math.isnan(x)]
        if ends:
            sign = -1 if falls else 1
            end = max(ends) if falls else min(ends)
            out.append(Target(one, known.fills, end, sign, known.pace))
    return tuple(sorted(out, key=lambda t: t.series))


# ---------------------------------------------------------------- the past


class _Ring:
    """Buckets of one length: sums, counts and maxima (slots, n); `which` (slots,) says the bucket each holds."""

    def __init__(self, length_s: float, span_s: float, n: int) -> None:
        self.length_s = length_s
        slots = math.ceil(span_s / length_s) + 8
        self.which: IntArray = np.full(slots, -1, np.int64)
        self.total = np.zeros((slots, n))
        self.count = np.zeros((slots, n))
        self.most = np.full((slots, n), -np.inf)

    def feed(self, ts: FloatArray, values: FloatArray, columns: IntArray) -> None:
        bucket = np.floor(ts / self.length_s + 1e-9).astype(np.int64)
        begins = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        for a, b in zip(begins, np.append(begins[1:], len(bucket)), strict=True):
            which = int(bucket[a])
            slot = which % len(self.which)
            if which < self.which[slot]:
                continue  # older than what stands there
            if which > self.which[slot]:
                self.which[slot] = which
                self.total[slot], self.count[slot], self.most[slot] = 0.0, 0.0, -np.inf
            rows = values[a:b]
            known = ~np.isnan(rows)
            filled = np.where(known, rows, 0.0)
            self.total[slot, columns] += filled.sum(axis=0)
            self.count[slot, columns] += known.sum(axis=0)
            top = np.where(known, rows, -np.inf).max(axis=0)
            self.most[slot, columns] = np.maximum(self.most[slot, columns], top)

    def rows(self, start: float, end: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return centres (k,), means and maxima (k, n) of whole buckets in [start, end)."""
        first, last = round(start / self.length_s), round(end / self.length_s)
        wanted = np.arange(first, last, dtype=np.int64)
        slot = wanted % len(self.which)
        here = self.which[slot] == wanted
        count = np.where(here[:, None], self.count[slot], 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(count > 0, self.total[slot] / count, np.nan)
        most = np.where(count > 0, self.most[slot], np.nan)
        centres = (wanted.astype(np.float64) + 0.5) * self.length_s
        return centres, mean, most


class Past:
    """Two days of n series in some 300 buckets: half a minute each in the last hour, half an hour each long ago.

    Cost: 8 kB a series; a feed of ten rows of 1,000 series takes 0.3 ms.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._rings = [
            _Ring(length, span, n) for length, span in zip(_LENGTHS, _SPANS, strict=True)
        ]

    def feed(self, ts: FloatArray, values: FloatArray, columns: IntArray | None = None) -> None:
        """Take rows of means over 30 s: ts (k,) ascending, values (k, m) of the series in `columns` (m,)."""
        if len(ts):
            at = np.arange(self.n) if columns is None else columns
            for ring in self._rings:
                ring.feed(ts, values, at)

    def remap(self, old: IntArray) -> Past:
        """Return the past of a new table: its column i was old[i], -1 = new."""
        out = Past(len(old))
        keep, from_ = np.flatnonzero(old >= 0), old[old >= 0]
        for mine, fresh in zip(self._rings, out._rings, strict=True):
            fresh.which = mine.which.copy()
            for name in ("total", "count", "most"):
                getattr(fresh, name)[:, keep] = getattr(mine, name)[:, from_]
        return out

    def rows(self, now: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return centres (k,), means (k, n) and maxima (k, n) of the buckets that ended by `now`, oldest first."""
        fine, mid, coarse = self._rings
        end = math.floor(now / FINE_S) * FINE_S
        first = math.floor((end - _SPANS[0]) / mid.length_s) * mid.length_s
        second = math.floor((end - _SPANS[1]) / coarse.length_s) * coarse.length_s
        start = math.ceil((end - _SPANS[2]) / coarse.length_s) * coarse.length_s
        parts = [coarse.rows(start, second), mid.rows(second, first), fine.rows(first, end)]
        ts, mean, most = (np.concatenate([part[i] for part in parts]) for i in range(3))
        seen = np.isfinite(mean).any(axis=1)
        seen[-1:] = True  # how old the newest reading is must show
        return ts[seen], mean[seen], most[seen]


def screen(ts: FloatArray, mean: FloatArray, limits: FloatArray, floors: FloatArray) -> FloatArray:
    """Return how soon each of n rising series may reach its limit, seconds (n,); infinite = not worth a forecast.

    Generous: the steepest of four windows, two standard errors steeper than it looks. ts (k,), mean (k, n).
    Cost: 4 ms for 300 buckets of 1,000 series.
    """
    soonest = np.full(mean.shape[1], np.inf)
    if not len(ts):
        return soonest
    known = np.isfinite(mean)
    last = newest(mean)
    filled = np.where(known, mean - last, 0.0)  # near zero: squares keep their digits
    for window in _WINDOWS_S:
        rows = ts >= ts[-1] - window
        t = ts[rows] - ts[-1]
        w, y = known[rows].astype(np.float64), filled[rows]
        n = w.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            t_mean, y_mean = (t @ w) / n, y.sum(axis=0) / n
            t_var = (t**2 @ w) / n - t_mean**2
            slope = ((t @ y) / n - t_mean * y_mean) / t_var
            y_var = (y**2).sum(axis=0) / n - y_mean**2
            error = np.sqrt(np.maximum(y_var - slope**2 * t_var, 0.0) * _NEIGHBOURS / (n * t_var))
            rises = (n >= _LEAST) & (slope > _SURE * error) & (slope * window > floors)
            reach = (limits - last) / (slope + _SURE * error)
        soonest = np.where(rises, np.fmin(soonest, np.maximum(reach, 0.0)), soonest)
    return soonest


def newest(mean: FloatArray) -> FloatArray:
    """Return the newest known value of each column (n,); NaN where there is none."""
    if not len(mean):
        return np.full(mean.shape[1], np.nan)
    known = np.isfinite(mean)
    from_end = np.argmax(known[::-1], axis=0)
    out: FloatArray = mean[len(mean) - 1 - from_end, np.arange(mean.shape[1])]
    return out


# ---------------------------------------------------------------- what is foretold


@dataclass(frozen=True, slots=True)
class Forecast:
    """When one thing reaches its limit.

    made        of the data up to here
    value       the newest one
    quantiles   (q,) unix seconds at LEVELS; infinite = not within the horizon; NaN = it can not be told
    horizon_s   how far it looks
    why         why it can not be told
    """

    target: Target
    made: float
    value: float
    quantiles: tuple[float, ...]
    horizon_s: float
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an answer at all."""
        return not self.why

    @property
    def within(self) -> bool:
        """Whether it may be full within the horizon, as likely as not."""
        return self.known and math.isfinite(self.at(0.5))

    def at(self, level: float) -> float:
        """Return by when it is full with this probability, unix seconds."""
        return self.quantiles[LEVELS.index(level)]

    def sure(self, probability: float) -> float:
        """As `at`, for any probability: infinite where that is not reached within the horizon."""
        times = np.array(self.quantiles)
        if math.isnan(times[0]):
            return math.nan
        if probability >= LEVELS[-1]:
            return float(times[-1])
        i = int(np.searchsorted(LEVELS, probability))
        if i == 0 or math.isinf(times[i]):
            return float(times[i])
        share = (probability - LEVELS[i - 1]) / (LEVELS[i] - LEVELS[i - 1])
        return float(times[i - 1] + share * (times[i] - times[i - 1]))

    @property
    def ahead(self) -> Ahead:
        """Median and 80 % interval."""
        return Ahead(*(_or_none(self.at(level)) for level in (0.5, 0.1, 0.9)))


def _or_none(ts: float) -> float | None:
    return ts if math.isfinite(ts) else None


def when(ahead: Ahead, now: float) -> str:
    """Say when: `in 3 h 20 min (2 h 10 min to 6 h)`, with the 80 % interval."""
    if ahead.median is None:
        soonest = (
            ""
            if ahead.low is None
            else f", {say_duration(max(ahead.low - now, 0.0))} at the soonest"
        )
        return f"not soon{soonest}"
    if ahead.median <= now:
        return "by now"
    low = say_duration(max((ahead.low or ahead.median) - now, 0.0))
    high = "far more" if ahead.high is None else say_duration(max(ahead.high - now, 0.0))
    return f"in {say_duration(ahead.median - now)} ({low} to {high})"
