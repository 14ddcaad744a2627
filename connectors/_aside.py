"""Calls that may block for ever (a hung mount, a sensor on a slow bus), made beside the event loop.

They run in a daemon thread, one after the other. When one does not come back within the limit, it keeps its thread,
is *overdue*, and is not asked again until it has come back; the rest goes on in a new thread. So there are never more
threads than hung calls and one, and nobody waits for any of them, not even at the end of the program.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned or raised, and when (monotonic seconds)."""

    at: float
    value: Any = None
    error: Exception | None = None


class _Worker(Thread):
    """One thread; `job` is what it is at: (key, since when)."""

    def __init__(self, work: Callable[[_Worker], None]) -> None:
        super().__init__(name="aside", daemon=True)
        self._do = work
        self.job: tuple[str, float] | None = None

    def run(self) -> None:
        self._do(self)


@dataclass(slots=True)
class Aside:
    """Asks what may block; `ask`, look at `answer` later. Not for calls that must not be made twice.

    limit_s   a call that takes longer is overdue
    """

    limit_s: float
    _jobs: SimpleQueue[tuple[str, Callable[[], Any]] | None] = field(default_factory=SimpleQueue)
    _answers: dict[str, Answer] = field(default_factory=dict)
    _pending: set[str] = field(default_factory=set)
    _worker: _Worker | None = None
    _stuck: list[_Worker] = field(default_factory=list)

    def ask(self, key: str, call: Callable[[], Any]) -> None:
        """Have the call made soon; nothing happens while the last one of this key is not back."""
        self._replace_when_stuck()
        if key in self._pending:
            return
        if self._worker is None or not self._worker.is_alive():
            self._hire()
        self._pending.add(key)
        self._jobs.put((key, call))

    def answer(self, key: str, younger_than_s: float) -> Answer | None:
        """Return the newest answer unless it is older than that or the next one is overdue."""
        found = self._answers.get(key)
        if found is None or time.monotonic() - found.at >= younger_than_s or self.overdue(key):
            return None
        return found

    def overdue(self, key: str) -> bool:
        """Tell whether a call of this key has been running for longer than the limit."""
        now = time.monotonic()
        workers = [*self._stuck, self._worker] if self._worker else self._stuck
        for worker in workers:
            job = worker.job
            if job is not None and job[0] == key and now - job[1] > self.limit_s:
                return True
        return False

    async def settle(self, for_s: float) -> None:
        """Wait until all that was asked is answered or overdue, at most `for_s` seconds."""
        end = time.monotonic() + for_s
        pause = 0.0005
        while time.monotonic() < end and any(not self.overdue(key) for key in self._pending.copy()):
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.01)

    def forget(self, key: str) -> None:
        """Drop the answer of something that is no longer there."""
        self._answers.pop(key, None)

    @property
    def threads(self) -> int:
        """How many threads there are now: one, and one for each hung call."""
        return sum(w.is_alive() for w in self._stuck) + (self._worker is not None)

    def close(self) -> None:
        """Let the thread end when it has done its work; hung ones end when their calls do."""
        if self._worker is not None:
            self._jobs.put(None)
            self._worker = None

    def _replace_when_stuck(self) -> None:
        self._stuck = [w for w in self._stuck if w.is_alive()]
        worker = self._worker
        if worker is None:
            return
        job = worker.job
        if job is not None and time.monotonic() - job[1] > self.limit_s:
            self._stuck.append(worker)
            self._hire()

    def _hire(self) -> None:
        self._worker = _Worker(self._work)  # before it starts: who is not `_worker` ends
        self._worker.start()

    def _work(self, me: _Worker) -> None:
        while (job := self._jobs.get()) is not None:
            key, call = job
            me.job = (key, time.monotonic())
            try:
                answer = Answer(0.0, value=call())
            except Exception as error:  # noqa: BLE001  # handed to whoever looks at the answer
                answer = Answer(0.0, error=error)
            self._answers[key] = Answer(time.monotonic(), answer.value, answer.error)
            me.job = None
            self._pending.discard(key)
            if me is not self._worker:
                return  # another took over while this call hung
