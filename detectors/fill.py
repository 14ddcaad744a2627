"""When something that fills reaches its limit: a Bayesian average of local linear trends, with an honest interval.

Good for what accumulates: space, memory that leaks, open files, queues. Not for what only fluctuates (latency, CPU):
there a level says nothing of where it goes. Runs in the worker process only (statsmodels, extra `ml`).

    means and maxima of buckets -> steps taken out, teeth replaced by their peaks -> y
      -> some 120 models (detectors/_trends.py: how much a level wanders, whether its slope bends): Kalman filter
      -> paths drawn from all of them by weight -> first time at the limit -> quantiles

Nothing is optimised: variances are averaged over a grid, so a slope that looks perfectly steady is not believed to be
so for ever, and a fit can not fail. The scale is integrated out (Student's t), which matters while points are few.
A single jump moves the level and teaches the slope nothing. Three or more falls are teeth (log rotation, garbage
collection): then the peaks are forecast, unless the present tooth is clearly above all before it.

ts (k,) centres of buckets, any spacing; values (k, 2 n): means of n series, then their maxima; NaN = not known. All
series rise towards their limit (the caller mirrors those that fall). Answer: seconds from the last ts to the limit,
(n, q) at LEVELS, infinite = not within the horizon, NaN = can not tell; `why` (n,) says why not (REASONS).
Cost: some 0.15 s a series of 300 buckets, twice that with a rhythm; statsmodels takes a second to import.
Source: Harvey 1989, chapter 2 (trends), Durbin & Koopman 2012 (filter); the average over a grid is our own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from agent import checkpoint
from agent.errors import Refused
from agent.filling import LEVELS
from agent.model import BoolArray, FloatArray, IntArray
from agent.registry import trainer
from agent.units import Model
from detectors._joint import need
from detectors._trends import Cleaned, Goal, first_passage

VERSION: Final = 1
_LEAST: Final = 8
"""Fewer known buckets say nothing of where a series goes."""
_FALL: Final = 6.0
_RISE: Final = 8.0
"""An increment so many robust deviations away is a jump."""
_FEW: Final = 2
"""As many jumps up are accidents; more are how it fills."""
_TEETH: Final = 3


@trainer("fill")
class Fill:
    """Time to limit of things that fill (extra `ml`)."""

    class Config(Model):
        """One entry a series in each list."""

        limits: list[float]
        floors: list[float]
        """Smallest change that can matter, in units of the series."""
        horizons: list[Annotated[float, Field(gt=0)]]
        seed: int = 0

    @staticmethod
    def train(config: Any, ts: FloatArray, values: FloatArray) -> bytes:
        """Forecast each series; see the top of this file. Raises Refused without statsmodels."""
        kalman = need("statsmodels.tsa.statespace.kalman_filter", "ml").KalmanFilter
        n = len(config.limits)
        if values.shape != (len(ts), 2 * n):
            raise Refused(f"{values.shape[1]} columns for means and maxima of {n} series")
        quantiles, why = np.full((n, len(LEVELS)), np.nan), np.zeros(n, np.int64)
        for j in range(n):
            goal = Goal(config.limits[j], config.floors[j], config.horizons[j], config.seed)
            quantiles[j], why[j] = forecast(ts, values[:, j], values[:, n + j], goal, kalman)
        arrays = {"quantiles": quantiles, "why": why}
        return checkpoint.write("fill forecast", VERSION, None, arrays)


def forecast(
    ts: FloatArray, mean: FloatArray, peak: FloatArray, goal: Goal, kalman: Any
) -> tuple[FloatArray, int]:
    """Return quantiles (q,) of the seconds to the limit, and why not (0 = told): 1 too short, 2 stale."""
    none = np.full(len(LEVELS), np.nan)
    known = np.isfinite(mean)
    if np.count_nonzero(known) < _LEAST:
        return none, 1
    now = float(ts[-1])
    t, y = ts[known], mean[known]
    if now - t[-1] > max(300.0, 3.0 * float(np.median(np.diff(t[-_LEAST:])))):
        return none, 2
    if y[-1] >= goal.limit:
        return np.zeros(len(LEVELS)), 0
    c = clean(t, y / goal.floor, np.where(np.isnan(peak), mean, peak)[known] / goal.floor)
    if np.ptp(c.y) < 0.5:  # it does not move by anything that can matter
        return np.full(len(LEVELS), np.inf), 0
    if len(c.y) < _LEAST // 2:
        return none, 1
    return _quantiles(first_passage(c, goal, now, kalman)), 0


def _quantiles(times: FloatArray) -> FloatArray:
    """Order statistics, so that infinite ones stay so."""
    ordered = np.sort(times)
    at = np.minimum((np.array(LEVELS) * len(ordered)).astype(np.int64), len(ordered) - 1)
    out: FloatArray = ordered[at]
    return out


# ---------------------------------------------------------------- steps and teeth


def clean(ts: FloatArray, y: FloatArray, peak: FloatArray) -> Cleaned:
    """Find jumps and teeth in y (m,), in units of the smallest change that can matter."""
    gap = np.diff(ts)
    rise = np.diff(y)
    usual, spread = _increments(gap, rise)
    falls = _events(rise - usual < -np.maximum(_FALL * spread, 2.0))
    ups = _events(rise - usual > np.maximum(_RISE * spread, 4.0))
    several = gap > 1.5 * gap.min()
    several = np.append(several[:1], several)
    above = (peak - y)[several] if several.any() else (peak - y)
    margin = float(np.median(above)) if len(above) else 0.0
    if len(falls) >= _TEETH:
        toothed = _peaks(ts, peak, falls)
        if toothed is not None:
            return toothed
        # the present tooth is like none before it: only it tells
        at = falls[-1] + 1
        return Cleaned(ts[at:], y[at:], np.zeros(len(ts) - at, bool), margin, teeth=False)
    jump = np.zeros(len(ts), bool)
    jump[falls + 1] = True
    if len(ups) <= _FEW:
        jump[ups + 1] = True
    return Cleaned(ts, y, jump, margin, teeth=False)


def _increments(gap: FloatArray, rise: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return usual increment and its robust spread (m - 1,) for the spacing that each has."""
    usual, spread = np.zeros(len(gap)), np.zeros(len(gap))
    kind = np.round(np.log2(gap / gap.min()) * 2.0)
    for one in np.unique(kind):
        here = kind == one
        usual[here] = np.median(rise[here])
        spread[here] = 1.4826 * np.median(np.abs(rise[here] - usual[here]))
    return usual, spread


def _events(flags: BoolArray) -> IntArray:
    """Return where events begin; what follows within two buckets is the same event."""
    at = np.flatnonzero(flags)
    return at[np.append(True, np.diff(at) > 2)] if len(at) else at


def _peaks(ts: FloatArray, peak: FloatArray, falls: IntArray) -> Cleaned | None:
    """Return the peaks of teeth; None when the present tooth stands clearly above all of them."""
    edges = np.append(0, falls + 1)
    tops = np.array([np.max(peak[a:b]) for a, b in pairwise(edges)])
    when = np.array([ts[a + int(np.argmax(peak[a:b]))] for a, b in pairwise(edges)])
    now = float(np.max(peak[edges[-1] :]))
    spread = 1.4826 * float(np.median(np.abs(np.diff(tops) - np.median(np.diff(tops)))))
    expected = float(np.max(tops[-_TEETH:])) + max(0.0, float(np.median(np.diff(tops))))
    if now > expected + max(3.0 * spread, 2.0):
        return None
    if now > tops[-1]:
        tops, when = np.append(tops, now), np.append(when, ts[-1])
    return Cleaned(when, tops, np.zeros(len(tops), bool), 0.0, teeth=True)
