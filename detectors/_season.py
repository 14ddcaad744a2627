"""The daily habit of series: a profile over the time of the day, used only where it helps.

Good for series that repeat by the clock. Not for periods that are no day, and not before two days were seen.
x (n,) base units; `rest` (n,) is what the profile leaves, or what the slow level leaves where that is as good.
Learns trusted rows only, and at most five usual errors of one row, so that an event does not become a habit.
Cost: O(n) a row, 0.4 kB a series.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray

BINS: Final = 48
"""Half hours: finer ones learn too slowly, coarser ones blur the morning."""
_DAY_S: Final = 86_400.0
_DAYS: Final = 2.0
"""Before so many days a profile is an echo of yesterday."""
_HELPS: Final = 0.9
"""A profile is used where it leaves less than this share of what the slow level leaves."""
_LEARNS: Final = 0.1
"""Share of one day's difference that the profile takes over."""
_CLIP: Final = 5.0
_SURE_ROWS: Final = 200.0
"""Before so many rows nobody knows what an unusual error is."""


class Season:
    """Profiles of n series; `at` sets the time, then `rest` and `learn` speak of it.

    profile, count   (BINS, n) value by time of day, rows behind it
    errors           (2, n) mean absolute rest with the profile, and without
    """

    def __init__(self, n: int, step_s: float) -> None:
        self._ready = _DAYS * _DAY_S / step_s
        self._share = _LEARNS / max(1.0, _DAY_S / BINS / step_s)
        self._bin: int | tuple[IntArray, IntArray] = 0
        self.profile: FloatArray = np.zeros((BINS, n))
        self.count: FloatArray = np.zeros((BINS, n))
        self.errors: FloatArray = np.zeros((2, n))
        self.rows: FloatArray = np.zeros(n)

    def arrays(self) -> dict[str, FloatArray]:
        """Return the state by name; the last axis is the series."""
        return {name: getattr(self, name) for name in ("profile", "count", "errors", "rows")}

    def at(self, ts: float, clock: FloatArray | None) -> None:
        """Set the time of the row: `ts` for all, or plus `clock` (n,) seconds of each series."""
        if clock is None:
            self._bin = int(ts % _DAY_S / _DAY_S * BINS) % BINS
        else:
            of_day = ((ts + clock) % _DAY_S / _DAY_S * BINS).astype(np.int64) % BINS
            self._bin = (of_day, np.arange(len(clock)))

    def rest(self, x: FloatArray, mean: FloatArray, rows: FloatArray) -> FloatArray:
        """Return what is left of x (n,) by the better of profile and slow level."""
        out = x - mean
        if rows.size and rows.max() > self._ready:
            helps = (self.errors[0] < _HELPS * self.errors[1]) & (rows > self._ready)
            helps &= self.count[self._bin] > 0
            np.copyto(out, x - self.profile[self._bin], where=helps)
        return out

    def learn(self, x: FloatArray, mean: FloatArray, rate: FloatArray, teach: BoolArray) -> None:
        """Learn a row where `teach`; `rate` (n,) is that of the slow level, 0 where nothing is learnt."""
        profile, count = self.profile[self._bin], self.count[self._bin]
        known = count > 0
        off = (x - profile) * known
        errors = np.empty_like(self.errors)
        errors[0] = off
        np.subtract(x, mean, out=errors[1])
        np.abs(errors, out=errors)
        limit = self.errors * _CLIP
        np.copyto(limit, np.inf, where=(self.errors == 0) | (self.rows < _SURE_ROWS))
        np.minimum(errors, limit, out=errors)
        off = np.minimum(np.maximum(off, -limit[0]), limit[0])
        errors -= self.errors
        errors *= rate * known
        self.errors += errors
        self.rows += teach
        step = np.maximum(1.0 / (count + 1.0), self._share)
        self.profile[self._bin] = np.where(teach, np.where(known, profile + step * off, x), profile)
        self.count[self._bin] = count + teach

    def shift(self, by: FloatArray) -> None:
        """Move whole profiles (n,): the level is another one from now on, the habit is the same."""
        if by.any():
            self.profile += np.where(self.count > 0, by, 0.0)
