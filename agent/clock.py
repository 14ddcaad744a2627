"""Wall time that knows when it jumped, so that an hour of summer time does not look like an hour of silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

JUMP_S: Final = 2.0
"""Less than this is drift that NTP slews away."""


def since_boot() -> float:
    """Return seconds on a clock that nobody sets. While the machine sleeps it goes on (Linux), `monotonic` stands."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(slots=True)
class Clock:
    """Wall clock held against the monotonic one."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _offset: float = field(init=False)

    def __post_init__(self) -> None:
        self._offset = self.wall() - self.steady()

    def now(self) -> tuple[float, float]:
        """Return (unix seconds, jump): how far the wall clock was set since the last call; 0 = not."""
        wall, steady = self.wall(), self.steady()
        jump = wall - steady - self._offset
        if abs(jump) < JUMP_S:
            return wall, 0.0
        self._offset = wall - steady
        return wall, jump
