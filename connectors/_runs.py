"""When a batch job should run, and whether it did: due, late, missed, short; by a cron line or by what it used to do.

Pure: times come in. Good for jobs with a rhythm, also one with gaps (no run at weekends). Not for runs by hand: their
gaps differ too much, and then nothing is ever late.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Final
from zoneinfo import ZoneInfo

_LEAST_GAPS: Final = 4
_REMEMBERED: Final = 30
_UNSTEADY: Final = 8.0
"""A longest gap of so many medians: this is no rhythm."""
_LEAST_PAST: Final = 3
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Cron:
    """A cron line of five fields: when it was due last."""

    def __init__(self, line: str, zone: str) -> None:
        """Raises ValueError for a line or a time zone that is none."""
        from apscheduler.triggers.cron import CronTrigger

        fields = line.split()
        if len(fields) != 5:
            raise ValueError(f"{line!r} is no cron line of five fields, like 0 3 * * *")
        fields[4] = ",".join(_weekdays(part) for part in fields[4].split(","))
        minute, hour, day, month, weekday = fields
        self._zone = ZoneInfo(zone) if zone else UTC
        try:
            self._trigger: Any = CronTrigger(
                minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone=self._zone
            )  # fmt: skip
        except ValueError as wrong:
            raise ValueError(f"{line!r} is no cron line: {wrong}") from None
        self._known, self._due = (math.inf, -math.inf), (math.nan, math.nan)

    def last(self, now: float) -> tuple[float, float]:
        """Return the two newest due times up to `now`, oldest first; NaN = none for more than a year."""
        if not self._known[0] <= now < self._known[1]:
            at = datetime.fromtimestamp(now, self._zone)
            following = self._trigger.get_next_fire_time(None, at + timedelta(microseconds=1))
            self._known = now, following.timestamp() if following is not None else math.inf
            self._due = self._newest(at)
        return self._due

    def _newest(self, at: datetime) -> tuple[float, float]:
        due: list[float] = []
        for days in (0.05, 1.0, 8.0, 63.0, 800.0):  # most schedules are found in the first steps
            due = self._between(at - timedelta(days=days), at)
            if len(due) >= 2:
                return due[-2], due[-1]
        return (math.nan, due[-1]) if due else (math.nan, math.nan)

    def _between(self, start: datetime, end: datetime) -> list[float]:
        out: list[float] = []
        fire = self._trigger.get_next_fire_time(None, start)
        while fire is not None and fire <= end:
            out.append(fire.timestamp())
            fire = self._trigger.get_next_fire_time(fire, fire + timedelta(microseconds=1))
        return out


def _weekdays(part: str) -> str:
    """Return a part of the fifth field by names: crontab counts from Sunday, the library from Monday."""
    found = re.fullmatch(r"([0-7])(?:-([0-7])(?:/(\d+))?)?", part)
    if found is None:
        return part
    first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
    return ",".join(_DAYS[d] for d in range(first, last + 1, max(1, step)))


def lateness(
    now: float, runs: Sequence[float], *, cron: Cron | None, grace_s: float
) -> tuple[float, bool | None]:
    """Return how late the next run is (0 = not, NaN = no rhythm is known), and whether one was missed.

    runs   when each run was written, oldest first
    """
    newest = runs[-1] if runs else -math.inf
    if cron is not None:
        before, due = cron.last(now)
        if math.isnan(due):
            return 0.0, False
        # while the last is still within its grace, it is the one before that must be there
        late = max(0.0, now - due - grace_s) if newest < due else 0.0
        missed = newest < before if not math.isnan(before) else False
        if missed and runs:
            late = max(late, now - before - grace_s)
        return late, missed and bool(runs)
    usual = rhythm(runs)
    if usual is None:
        return math.nan, None
    gap, longest = usual
    patience = longest + max(grace_s, 0.1 * gap)
    return max(0.0, now - newest - patience), now - newest > patience + gap


def rhythm(runs: Sequence[float]) -> tuple[float, float] | None:
    """Return the median gap and the longest that comes again and again; None = no rhythm yet, or none at all."""
    near = runs[-_REMEMBERED - 1 :]
    gaps = sorted(b - a for a, b in itertools.pairwise(near))
    if len(gaps) < _LEAST_GAPS:
        return None
    # one gap in ten may be a run that was missed
    gap, longest = median(gaps), gaps[-1 - len(gaps) // 10]
    return (gap, longest) if gap > 0 and longest <= _UNSTEADY * gap else None


def usual_rows(past: Sequence[float]) -> float:
    """Return the median of rows; NaN before three runs."""
    return float(median(past[-_REMEMBERED:])) if len(past) >= _LEAST_PAST else math.nan
