"""A clock that jumps ahead whenever nobody waits for anything but time: ten minutes of a daemon pass in seconds.

    import ahead                                  # before all that remembers which clock there is
    loop = asyncio.SelectorEventLoop(ahead.Jumping())

For a process of its own: it changes the clocks of the whole process. What waits in C or by a lock waits in real time.
"""

import contextlib
import selectors
import threading
import time
from concurrent.futures import ThreadPoolExecutor

_IDLE_S = 0.003
"""For so long nothing may happen before the clock jumps."""


class Ahead:
    """The clock: real seconds, and those that were jumped."""

    def __init__(self) -> None:
        self.jumped = 0.0
        self.held = 0
        self._busy = 0
        self._lock = threading.Lock()
        wall, steady, any_clock, submit = (
            time.time,
            time.monotonic,
            time.clock_gettime,
            ThreadPoolExecutor.submit,
        )
        time.time = lambda: wall() + self.jumped
        time.monotonic = lambda: steady() + self.jumped
        time.clock_gettime = lambda clock: (
            any_clock(clock) + self.jumped
        )  # what goes on while a machine sleeps

        def counted(pool, *args, **kwargs):
            with self._lock:
                self._busy += 1
            future = submit(pool, *args, **kwargs)
            future.add_done_callback(self._done)
            return future

        ThreadPoolExecutor.submit = counted

    def _done(self, _):
        with self._lock:
            self._busy -= 1

    @property
    def waited_for(self) -> bool:
        """Whether a thread or a program is at work: time must not fly meanwhile."""
        if self._busy or self.held:
            return True
        for thread in threading.enumerate():
            if thread.name.startswith("waitpid-") or getattr(thread, "job", None) is not None:
                return True
        return False

    @contextlib.contextmanager
    def real(self):
        """Let time pass as it does."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1


class Jumping(selectors.DefaultSelector):
    """Jumps to the next thing that is due when nothing happens."""

    def select(self, timeout=None):
        if timeout is not None and timeout <= 0:
            return super().select(0)
        found = super().select(_IDLE_S if timeout is None else min(timeout, _IDLE_S))
        if not found and timeout is not None and not clock.waited_for:
            clock.jumped += max(0.0, timeout - _IDLE_S)
        return found


clock = Ahead()
