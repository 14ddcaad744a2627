"""Cron lines: when they are due, on the clock on the wall of a zone. Pure: times come in.

    minute hour day month weekday      `0 2 * * sun`, `30 3 1,15 * *`, `0 22 L * *`, `0 2 * * tue#2`, `0 2 * * friL`

As crontab(5) has it: 0 and 7 are Sunday, and where both day and weekday are said, either is enough. Beside that `L` is
the last day of the month, `tue#2` its second Tuesday, `friL` its last Friday.

The library counts in a calendar without daylight saving; what that means in a zone is decided here, as cron does: what
is due in the hour that the clock leaves out is due an hour later by that clock, and what is due in the hour that comes
twice is due the first time only, unless it is due every hour.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NTH: Final = ("", "1st", "2nd", "3rd", "4th", "5th")
_SHIFT: Final = timedelta(hours=3)
"""No zone puts its clock on or back by more."""
_LOOKS: Final = (0.05, 1.0, 8.0, 63.0, 800.0)
"""Days: most lines are due in the first of these."""


class Cron:
    """A cron line of five fields in a zone; None = that of this host."""

    def __init__(self, line: str, zone: tzinfo | None = UTC) -> None:
        """Raises ValueError for a line that is none, or that never comes."""
        from apscheduler.triggers.cron import CronTrigger

        fields = line.lower().split()
        if len(fields) != 5:
            raise ValueError(f"{line!r} is no cron line of five fields, like 0 3 * * *")
        minute, hour, day, month, weekday = fields
        self._zone = zone
        self._folds = (0, 1) if hour.startswith("*") else (0,)
        try:
            for field in (minute, hour, day.replace("l", "1"), month):
                _checked(field)
            self._triggers: list[Any] = [
                CronTrigger(
                    minute=minute, hour=hour, day=d, month=month, day_of_week=w, timezone=UTC
                )
                for d, w in _days(day, weekday)
            ]
        except ValueError as wrong:
            raise ValueError(f"{line!r} is no cron line: {wrong}") from None
        if all(t.get_next_fire_time(None, _SOME_DAY) is None for t in self._triggers):
            raise ValueError(f"{line!r} never comes: no month has that day")
        self._kept = (math.inf, -math.inf, math.nan, math.nan)

    def last(self, now: float) -> tuple[float, float]:
        """Return the two newest due times up to `now`, oldest first; NaN = none for more than two years."""
        since, until, before, newest = self._kept
        if not since <= now < until:
            before = newest = math.nan
            for days in _LOOKS:
                due = self.between(now - days * 86_400.0, now)
                before, newest = [math.nan, math.nan, *due][-2:]
                if len(due) > 1:
                    break
            self._kept = now, self.next(now), before, newest
        return before, newest

    def next(self, now: float) -> float:
        """Return when it is due next, after `now`."""
        for days in _LOOKS[:2]:  # beyond a day no change of the clock can bring anything forward
            soon = [due for due in self.between(now, now + days * 86_400.0) if due > now]
            if soon:
                return soon[0]
        walls = [t.get_next_fire_time(None, self._wall(now) + _SHIFT) for t in self._triggers]
        return min((s for w in walls if w is not None for s in self._real(w)), default=math.inf)

    def between(self, start: float, end: float) -> list[float]:
        """Return when it is due from `start` to `end`, both included, in order."""
        first, last = self._wall(start), self._wall(end)
        calm = self._wall(end + 86_400.0) - self._wall(start - 86_400.0)
        if abs(calm.total_seconds() - (end - start) - 2 * 86_400.0) > 1.0:
            first, last = first - _SHIFT, last + _SHIFT
        out: set[float] = set()
        for trigger in self._triggers:
            fire = trigger.get_next_fire_time(None, first)
            while fire is not None and fire <= last:
                out.update(due for due in self._real(fire) if start <= due <= end)
                fire = trigger.get_next_fire_time(fire, fire + timedelta(microseconds=1))
        return sorted(out)

    def _wall(self, ts: float) -> datetime:
        """Return what the clock on the wall shows, as if it were UTC."""
        return datetime.fromtimestamp(ts, UTC).astimezone(self._zone).replace(tzinfo=UTC)

    def _real(self, wall: datetime) -> list[float]:
        """Return the moments at which the clock on the wall shows this."""
        return [moment(wall.replace(tzinfo=None, fold=f), self._zone) for f in self._folds]


_SOME_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)


def moment(wall: datetime, zone: tzinfo | None) -> float:
    """Return unix seconds of a time without a zone in a zone; None = this host's."""
    return (wall.astimezone() if zone is None else wall.replace(tzinfo=zone)).timestamp()


def _checked(field: str) -> None:
    """Refuse what the library would take for something else: it leaves out the end of what it does not know."""
    for part in field.split(","):
        if not re.fullmatch(r"(\*|\d+(-\d+)?)(/[1-9]\d*)?|[a-z]{3}(-[a-z]{3})?", part):
            raise ValueError(f"{part!r} is not understood")


def _days(day: str, weekday: str) -> list[tuple[str, str]]:
    """Return (day, weekday) as the library takes them; each pair is enough."""
    day = ",".join("last" if part == "l" else part for part in day.split(","))
    if weekday.startswith("*"):
        return [(day, weekday)]
    parts = weekday.split(",")
    out = [(n, "*") for part in parts if (n := _nth(part))]
    plain = [_weekdays(part) for part in parts if not _nth(part)]
    any_day = day.startswith("*")
    out += [(day if any_day else "*", ",".join(plain))] if plain else []
    return out if any_day else [*out, (day, "*")]


def _nth(part: str) -> str:
    """Return `tue#2` and `friL` as the library says it; "" = it is neither."""
    found = re.fullmatch(r"([0-7]|[a-z]{3})(?:#([1-5])|l)", part)
    if found is None:
        return ""
    return f"{_NTH[int(found[2])] if found[2] else 'last'} {_DAYS[_day(found[1])]}"


def _weekdays(part: str) -> str:
    """Return a part of the fifth field by names: crontab counts from Sunday, the library from Monday."""
    found = re.fullmatch(r"([0-7]|[a-z]{3})(?:-([0-7]|[a-z]{3}))?(?:/([1-7]))?", part)
    if found is None:
        raise ValueError(f"{part!r} is no weekday")
    first, last = (_day(word or found[1]) for word in found.group(1, 2))
    last += 7 if last < first else 0
    return ",".join(_DAYS[d % 7] for d in range(first, last + 1, int(found[3] or 1)))


def _day(word: str) -> int:
    if not word.isdigit() and word not in _DAYS:
        raise ValueError(f"{word!r} is no weekday")
    return int(word) if word.isdigit() else _DAYS.index(word)
