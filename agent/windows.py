"""When a maintenance window is open. Pure: `now` is an argument.

A weekly window begins at a time of the clock on the wall and lasts for so many seconds that really pass; on the night
in which the clock is put forward, one that would begin in the missing hour begins an hour later by that clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from agent.config import Window

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def zone(window: Window) -> tzinfo | None:
    """Return the time zone of a window; None = this host's. Raises ValueError when there is none of that name."""
    if not window.timezone:
        return None
    try:
        return ZoneInfo(window.timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(window.timezone) from error


def moment(text: str, window: Window) -> float | None:
    """Read a moment, in the window's zone when it has no offset of its own; None when it is none."""
    try:
        said = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (said if said.tzinfo else _in(said, zone(window))).timestamp()


def once(window: Window) -> tuple[float, float] | None:
    """Return from when to when a window that is not weekly is open; None when it never is."""
    start, end = moment(window.from_, window), moment(window.to, window)
    return None if start is None or end is None or end <= start else (start, end)


def open_until(window: Window, now: float) -> float | None:
    """Return until when a window is open at `now`; None = it is closed."""
    ends = [end for start, end in _near(window, now) if start <= now < end]
    return max(ends, default=None)


def _near(window: Window, now: float) -> Iterator[tuple[float, float]]:
    """Yield the spans that may hold `now`: of a weekly one, those that began since so long ago as it lasts."""
    if not window.at:
        span = once(window)
        if span is not None:
            yield span
        return
    where = zone(window)
    hour, _, minute = window.at.partition(":")
    today = datetime.fromtimestamp(now, UTC).astimezone(where).date()
    for back in range(-1, int(window.lasts // 86_400) + 2):
        day = today - timedelta(days=back)
        if window.days and _DAYS[day.weekday()] not in window.days:
            continue
        start = _in(datetime.combine(day, time(int(hour), int(minute))), where).timestamp()
        yield start, start + window.lasts


def _in(said: datetime, where: tzinfo | None) -> datetime:
    return said.astimezone() if where is None else said.replace(tzinfo=where)
