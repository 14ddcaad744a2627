r"""What consoles are told while it happens: server-sent events, bounded for the slow and for the many.

    publish(kind, data) -> a queue per listener (newest win) -> `event: incident\ndata: {...}\n\n`

A listener that falls behind loses events, is told so (`lagged`) and asks for the whole again. Cost: nothing while
nobody listens.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from agent.errors import Unavailable

HEARTBEAT_S: Final = 15.0
"""Shorter than the idle limit of usual proxies (60 s)."""
_MOST: Final = 16
_ROOM: Final = 128


class Events:
    """Everybody who listens."""

    def __init__(self, *, most: int = _MOST, room: int = _ROOM) -> None:
        self.dropped = 0
        self._most = most
        self._room = room
        self._listeners: set[_Listener] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._listeners)

    def publish(self, kind: str, data: Any) -> None:
        """Tell all who listen; never waits and never fails."""
        if not self._listeners:
            return
        text = frame(kind, data)
        for listener in self._listeners:
            self.dropped += listener.put(text)

    def listen(self) -> _Listener:
        """Begin to listen; raises Unavailable when too many do."""
        if self._closed:
            raise Unavailable("the daemon is stopping; try again in a moment", wait_s=5)
        if len(self._listeners) >= self._most:
            raise Unavailable(
                f"{self._most} consoles follow already; close one, or read /api/status now and then",
                wait_s=30,
            )
        listener = _Listener(self, self._room)
        self._listeners.add(listener)
        return listener

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for listener in list(self._listeners):
            listener.end()

    def leave(self, listener: _Listener) -> None:
        """Forget one."""
        self._listeners.discard(listener)


class _Listener:
    """One console's bounded queue."""

    def __init__(self, events: Events, room: int) -> None:
        self._events = events
        self._room = room
        self._waiting: deque[str] = deque()
        self._lagged = False
        self._ended = False
        self._news = asyncio.Event()

    def put(self, text: str) -> int:
        """Queue a text; returns how many old ones had to go for it."""
        lost = 0
        if len(self._waiting) >= self._room:
            self._waiting.popleft()
            self._lagged = True
            lost = 1
        self._waiting.append(text)
        self._news.set()
        return lost

    def end(self) -> None:
        """Let the stream end."""
        self._ended = True
        self._news.set()

    async def stream(self, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[str]:
        """Yield the texts of the stream until it ends or the client leaves."""
        try:
            yield "retry: 2000\n\n"
            while not self._ended:
                try:
                    # not wait_for: before Python 3.12 it can swallow a cancellation, and we stay for nobody
                    async with asyncio.timeout(heartbeat_s):
                        await self._news.wait()
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                self._news.clear()
                if self._lagged:
                    self._lagged = False
                    yield frame("lagged", {})
                while self._waiting:
                    yield self._waiting.popleft()
        finally:
            self._events.leave(self)


def frame(kind: str, data: Any) -> str:
    """Write one event; JSON has no line breaks, so one data line is enough."""
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
