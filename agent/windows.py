"""When a maintenance window is open. Pure: `now` is an argument.

A window that comes again begins at a time of the clock on the wall (`agent.cron`: what that means when the clock is put
forward or back) and lasts for so many seconds that really pass.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from agent import cron

if TYPE_CHECKING:
    from agent.config import Window


class Span(NamedTuple):
    """One time that a window is open, unix seconds."""

    start: float
    end: float
    window: Window


def zone(window: Window) -> tzinfo | None:
    """Return the time zone of a window; None = this host's. Raises ValueError when there is none of that name."""
    return zone_of(window.timezone)


def zone_of(name: str) -> tzinfo | None:
    """Return a time zone by name; None for "" = this host's. Raises ValueError when there is none of that name."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone `{name}`; write it like Europe/Berlin") from error


def moment(text: str, window: Window) -> float | None:
    """Read a moment, in the window's zone when it has no offset of its own; None when it is none."""
    try:
        said = datetime.fromisoformat(text)
    except ValueError:
        return None
    return said.timestamp() if said.tzinfo else cron.moment(said, zone(window))


def once(window: Window) -> tuple[float, float] | None:
    """Return from when to when a window that does not come again is open; None when it never is."""
    start, end = moment(window.from_, window), moment(window.to, window)
    return None if start is None or end is None or end <= start else (start, end)


def comes(window: Window) -> cron.Cron:
    """Return when a window that comes again begins. Raises ValueError when its cron line is none."""
    hour, _, minute = window.at.partition(":")
    line = window.cron or f"{int(minute)} {int(hour)} * * {','.join(window.days) or '*'}"
    return _made(line, window.timezone)


@functools.lru_cache(256)
def _made(line: str, timezone: str) -> cron.Cron:
    return cron.Cron(line, ZoneInfo(timezone) if timezone else None)


def open_until(window: Window, now: float) -> float | None:
    """Return until when a window is open at `now`; None = it is closed."""
    if window.at or window.cron:
        begun = comes(window).last(now)[1]
        return begun + window.lasts if now - begun < window.lasts else None  # never for NaN
    span = once(window)
    return span[1] if span is not None and span[0] <= now < span[1] else None


def upcoming(windows: Sequence[Window], now: float, most: int) -> list[Span]:
    """Return the spans that are open or come next, of all windows together, in order; `most` of them."""
    return list(itertools.islice(heapq.merge(*(_spans(w, now) for w in windows), key=_begin), most))


def _begin(span: Span) -> float:
    return span.start


def _spans(window: Window, now: float) -> Iterator[Span]:
    if not (window.at or window.cron):
        span = once(window)
        if span is not None and now < span[1]:
            yield Span(*span, window)
        return
    due = comes(window)
    begins = due.between(now - window.lasts, now)
    yield from (Span(b, b + window.lasts, window) for b in begins if now < b + window.lasts)
    while math.isfinite(now := due.next(now)):
        yield Span(now, now + window.lasts, window)
