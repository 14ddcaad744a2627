"""What was tried and refused, for the record: bounded, so that who floods us does not fill the journal.

Gate -> (method, path, status, why, from where) -> at most one entry a minute of a kind -> journal "refused"
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from agent.errors import Unavailable

EVERY_S: Final = 60.0
MOST: Final = 20
"""Entries in `EVERY_S`, whoever they are of."""
_LONGEST: Final = 200


class Refusals:
    """Writes refusals down. What was refused between two entries is counted in the next one as `more`."""

    def __init__(
        self,
        record: Callable[[str, dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}
        self._more = 0

    def take(self, method: str, path: str, *, status: int, why: str, origin: str, by: str) -> None:
        """Write that something was refused, unless the same was just written."""
        now = self._clock()
        self._last = {k: ts for k, ts in self._last.items() if now - ts < EVERY_S}
        key = (origin or by, why)
        if key in self._last or len(self._last) >= MOST:
            self._more += 1
            return
        self._last[key] = now
        body: dict[str, Any] = {
            "method": method, "status": status, "why": why[:_LONGEST], "by": by[:_LONGEST],
            "origin": origin[:_LONGEST], "more": self._more,
        }  # fmt: skip
        try:
            self._record(path[:_LONGEST], body)
        except Unavailable:
            self._more += 1  # it is refused all the same
            return
        self._more = 0
