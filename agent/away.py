"""Who outside does not do what it is asked for: since when, why, and when it is asked again.

Those who ask (collect, outbox, archives, sinks, pulses, mutes) each keep one `Absences`; /health shows them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Away:
    """One that is away now.

    what      what it is asked for: readings, notes, record, numbers, heartbeat, silences
    for_s     how long it has been so
    again_s   in how long it is asked again; 0 = it is being asked
    waiting   how much is kept for it: notes, entries, samples
    """

    connector: str
    what: str
    why: str
    for_s: float
    again_s: float
    waiting: int = 0


@dataclass(slots=True)
class _One:
    why: str
    since: float
    again: float


@dataclass(slots=True)
class Absences:
    """Those who are away from one kind of work. Times are monotonic: a clock that is set moves none of them."""

    what: str
    clock: Callable[[], float] = time.monotonic
    _of: dict[str, _One] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self._of

    def why(self, name: str) -> str:
        """Return why, "" when it is not away."""
        one = self._of.get(name)
        return one.why if one else ""

    def fell(self, name: str, why: str, rest_s: float) -> bool:
        """Note a try that failed, and when the next one is; True = this is news, so it may be said."""
        now = self.clock()
        one = self._of.setdefault(name, _One("", now, now))
        news, one.why, one.again = one.why != why, why, now + rest_s
        return news

    def back(self, name: str) -> float | None:
        """Note a try that succeeded; returns how long it was away, None when it was not."""
        one = self._of.pop(name, None)
        return None if one is None else round(self.clock() - one.since, 1)

    def only(self, names: Iterable[str]) -> None:
        """Forget those that config does not name any more."""
        kept = set(names)
        for gone in set(self._of) - kept:
            del self._of[gone]

    def told(self, waiting: Callable[[str], int] = lambda _: 0) -> list[Away]:
        """Return them in order of name."""
        now = self.clock()
        return [
            Away(
                name, self.what, one.why, now - one.since, max(0.0, one.again - now), waiting(name)
            )
            for name, one in sorted(self._of.items())
        ]
