"""The shipped defaults, as outside scorers want to hold them; nothing here is tuned, and nothing learns from labels.

    detect(n_series, step_seconds, budget=0.1)    .update(ts (n,), values (n,)) -> p-values (n,), .kind, .threshold

`detect` does what the daemon does with a source: score a row, name what is rarer than the budget allows, and learn
the row except where an excursion is going on. `budget` is false alarms a series and day.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ROOT: Final = Path(__file__).resolve().parents[2]
# A scorer imports this file from wherever it runs; and beside it `agent.py`, a benchmark, would hide the package.
sys.path.insert(0, str(ROOT))

import detectors as _detectors  # noqa: E402, F401  importing it registers what is shipped
from agent import monitor, registry  # noqa: E402

Array = npt.NDArray[Any]

DETECTOR: Final = "bank"
"""The one that the daemon makes for every source."""
BUDGET: Final = monitor.FALSE_ALARMS_PER_SERIES_DAY


def detect(n_series: int, step_seconds: float, budget: float = BUDGET) -> Detect:
    """Make the daemon's detector for so many series of one step."""
    return Detect(n_series, step_seconds, budget)


class Detect:
    """The daemon's detector with the daemon's rule for what it learns, columnar and without incidents."""

    kind = "pvalue"

    def __init__(self, n: int, step_s: float, budget: float) -> None:
        cls = registry.detector.get(DETECTOR)
        self.detector = cls(cls.Config(step_s=step_s), n)
        self.threshold = budget * step_s / 86_400
        self._set_clock = getattr(self.detector, "set_clock", None)
        self._clock = _Clock(step_s, n)
        self._excursions = _Excursions(n, step_s)

    def update(self, ts: Array, values: Array) -> Array:
        """Score a row, then learn from it; ts (n,) may differ from series to series."""
        now = self._clock.tick(ts)
        if self._set_clock is not None and self._clock.moved:
            self._set_clock(self._clock.offsets_s)
        p: Array = self.detector.score(now, values)
        with np.errstate(invalid="ignore"):
            hot = p <= self.threshold
        self.detector.learn(now, values, self._excursions.trust(p, hot))
        return p


class _Excursions:
    """Which series may be learnt: not what is abnormal, until it has been so for long (see `agent.monitor.Watch`)."""

    def __init__(self, n: int, step_s: float) -> None:
        self.heat = np.zeros(n)
        self.on = np.zeros(n, dtype=bool)
        self.age = np.zeros(n)
        self.starts_at = 1.0 if step_s >= monitor._SLOW_STEP_S else monitor._HEAT_ON
        self.new_normal_rows = max(monitor._RELEARN_ROWS, monitor._RELEARN_S / step_s)

    def trust(self, p: Array, hot: Array) -> Array:
        """Return which series (n,) of this row are learnt."""
        self.heat = np.where(np.isnan(p), self.heat, self.heat * monitor._COOL + hot)
        self.on |= hot & (self.heat >= self.starts_at)
        if not self.on.any():
            return ~hot
        self.age = np.where(self.on, self.age + 1, 0.0)
        relearn = self.age > self.new_normal_rows
        trust: Array = np.where(self.on, relearn, ~hot)
        self.on &= ~relearn & (self.heat >= monitor._HEAT_OFF)
        self.age[~self.on] = 0.0
        return trust


class _Clock:
    """One clock for series whose clocks differ: it goes on by what most of them go on by.

    A gap or a repeated hour in one file is then none for the others. `offsets_s` (n,) are the seconds to add for the
    time of day of each series; `moved` says that the last tick changed them.
    """

    def __init__(self, step_s: float, n: int) -> None:
        self.step_s = step_s
        self.now = np.nan
        self.offsets_s = np.zeros(n)
        self.moved = False
        self._last = np.full(n, np.nan)

    def tick(self, ts: Array) -> float:
        known = np.isfinite(ts)
        if not known.any():
            self.now += self.step_s
            self.moved = False
            return self.now
        if np.isnan(self.now):
            self.now = float(ts[known][0])
        else:
            went = ts - self._last
            first = went[0]
            if not (went == first).all():
                went = went[np.isfinite(went)]
                first = np.median(went) if len(went) else self.step_s
            self.now += float(first)
        offsets = np.where(known, ts - self.now, self.offsets_s)
        self._last = np.where(known, ts, self._last + self.step_s)
        self.moved = not np.array_equal(offsets, self.offsets_s)
        self.offsets_s = offsets
        return self.now
