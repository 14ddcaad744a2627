"""The habits of series by the clock: a profile over the day, and one over the week on top, each only where it helps.

    x - slow level, or x - daily profile where that leaves less, or that - weekly profile where that leaves less still

Good for series that repeat by the clock. Not for other periods; the day is known after two of them, the week after
two of those. x (n,) base units; `rest` (n,) is what is left by the best of the three.
Learns trusted rows only, and at most five usual errors of one row, so that an event does not become a habit.
Cost: O(n) a row, 2 kB a series.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.model import BoolArray, FloatArray, IntArray

BINS: Final = 48
"""Half hours: finer ones learn too slowly, coarser ones blur the morning."""
HOURS: Final = 168
_DAY_S: Final = 86_400.0
_WEEK_S: Final = 7 * _DAY_S
_MONDAY_S: Final = 3 * _DAY_S
"""The epoch began on a Thursday. Which day comes first matters to nobody, but midnight must be midnight."""
_CYCLES: Final = 2.0
"""Before so many days, or weeks, a profile is an echo of the last one."""
_HELPS: Final = 0.9
_HELPS_WEEK: Final = 0.9
"""A profile is used where it leaves less than this share of what is left without it."""
_LEARNS: Final = 0.1
"""Share of the difference of one cycle that a profile takes over."""
_CLIP: Final = 5.0
_SURE_ROWS: Final = 200.0
"""Before so many rows nobody knows what an unusual error is."""
_MOST_ROWS: Final = 65_000
"""Enough to be sure; two bytes count no farther."""
_LARGEST: Final = 1e30
"""Single precision holds no more of a week."""

Half = npt.NDArray[np.float32]


class Season:
    """Profiles of n series; `at` sets the time, then `rest` and `learn` speak of it.

    profile, count   (BINS, n) value by time of day, rows behind it
    week, weeks      (HOURS, n) what the daily profile leaves, by hour of the week, rows behind it; single precision,
                     and two bytes, for they are differences and there are many
    errors           (3, n) mean absolute rest: by the daily profile, the slow level, the weekly profile
    """

    def __init__(self, n: int, step_s: float) -> None:
        self._day_rows, self._week_rows = _CYCLES * _DAY_S / step_s, _CYCLES * _WEEK_S / step_s
        self._share = _LEARNS / max(1.0, _DAY_S / BINS / step_s)
        self._week_share = _LEARNS / max(1.0, _WEEK_S / HOURS / step_s)
        self._bin: int | tuple[IntArray, IntArray] = 0
        self._hour: int | tuple[IntArray, IntArray] = 0
        self.profile: FloatArray = np.zeros((BINS, n))
        self.count: Half = np.zeros((BINS, n), dtype=np.float32)
        self.week: Half = np.zeros((HOURS, n), dtype=np.float32)
        self.weeks: npt.NDArray[np.uint16] = np.zeros((HOURS, n), dtype=np.uint16)
        self.errors: FloatArray = np.zeros((3, n))
        self.rows: FloatArray = np.zeros(n)

    def arrays(self) -> dict[str, npt.NDArray[np.floating | np.uint16]]:
        """Return the state by name; the last axis is the series."""
        names = ("profile", "count", "week", "weeks", "errors", "rows")
        return {name: getattr(self, name) for name in names}

    def at(self, ts: float, clock: FloatArray | None) -> None:
        """Set the time of the row: `ts` for all, or plus `clock` (n,) seconds of each series."""
        if clock is None:
            self._bin = int(ts % _DAY_S / _DAY_S * BINS) % BINS
            self._hour = int((ts + _MONDAY_S) % _WEEK_S / _WEEK_S * HOURS) % HOURS
        else:
            each, now = np.arange(len(clock)), ts + clock
            self._bin = ((now % _DAY_S / _DAY_S * BINS).astype(np.int64) % BINS, each)
            hour = ((now + _MONDAY_S) % _WEEK_S / _WEEK_S * HOURS).astype(np.int64) % HOURS
            self._hour = (hour, each)

    def rest(self, x: FloatArray, mean: FloatArray, rows: FloatArray) -> FloatArray:
        """Return what is left of x (n,) by the best of the profiles and the slow level."""
        out = x - mean
        oldest = rows.max() if rows.size else 0.0
        if oldest > self._day_rows:
            daily, plain, weekly = self.errors
            helps = (daily < _HELPS * plain) & (rows > self._day_rows)
            helps &= self.count[self._bin] > 0
            left = x - self.profile[self._bin]
            np.copyto(out, left, where=helps)
            if oldest > self._week_rows:
                helps = (weekly < _HELPS_WEEK * np.minimum(daily, plain)) & (rows > self._week_rows)
                helps &= self.weeks[self._hour] > 0
                np.copyto(out, left - self.week[self._hour], where=helps)
        return out

    def learn(self, x: FloatArray, mean: FloatArray, rate: FloatArray, teach: BoolArray) -> None:
        """Learn a row where `teach`; `rate` (n,) is that of the slow level, 0 where nothing is learnt."""
        profile, count = self.profile[self._bin], self.count[self._bin]
        week, weeks = self.week[self._hour], self.weeks[self._hour]
        known = count > 0
        off = (x - profile) * known
        again = off - week
        errors = np.empty_like(self.errors)
        errors[0], errors[2] = off, again
        np.subtract(x, mean, out=errors[1])
        np.abs(errors, out=errors)
        limit = self.errors * _CLIP
        np.copyto(limit, np.inf, where=(self.errors == 0) | (self.rows < _SURE_ROWS))
        np.minimum(errors, limit, out=errors)
        off = np.minimum(np.maximum(off, -limit[0]), limit[0])
        np.minimum(limit[2], _LARGEST, out=limit[2])
        again = np.minimum(np.maximum(again, -limit[2]), limit[2])
        errors -= self.errors
        errors *= rate * known
        self.errors += errors
        self.rows += teach
        step = np.maximum(1.0 / (count + 1.0), self._share)
        self.profile[self._bin] = np.where(teach, np.where(known, profile + step * off, x), profile)
        self.count[self._bin] = count + teach
        # The week learns what the day leaves, once there is a day.
        teach = teach & known
        step = np.maximum(1.0 / (weeks + 1.0), self._week_share)
        self.week[self._hour] = week + step * again * teach
        self.weeks[self._hour] = weeks + (teach & (weeks < _MOST_ROWS))

    def shift(self, by: FloatArray) -> None:
        """Move whole profiles (n,): the level is another one from now on, the habit is the same."""
        if by.any():
            self.profile += np.where(self.count > 0, by, 0.0)
