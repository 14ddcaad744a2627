"""uvicorn as the daemon and its ingest process use it: no signals, no wake-ups, silence is bounded.

Who is refused while it still sends learns why, before the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FIRST_REQUEST_S: Final = 15.0
"""A connection that says nothing for so long is closed."""
_LITTLE_BYTES: Final = 1 << 20
"""Where no more of a body than this has not come yet, its connection serves the next request."""
_REST_BYTES: Final = 64 << 20
_REST_S: Final = 10.0
"""Of a body that nobody wanted so much is read and forgotten after the answer, and for so long."""


class Server(uvicorn.Server):
    """uvicorn without signals (its process owns them) and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self._ending.wait()

    def end(self) -> None:
        """Stop listening; answers that are under way are finished."""
        self.should_exit = True
        self._ending.set()


class Protocol(H11Protocol):
    """Closes a connection that never says anything."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Take a connection."""
        super().connection_made(transport)
        self.loop.call_later(_FIRST_REQUEST_S, self._silent)

    def _silent(self) -> None:
        cycle: object = self.cycle  # uvicorn declares it never None; before the first request it is
        if cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Answered:
    """Lets who is refused while it sends read the answer: what comes after that is read and forgotten, to a bound.

    A socket that is closed with bytes unread resets its connection, and most clients write all before they read: they
    would see the reset, not the 413 or 401. So the answer goes out whole and at once, and ends when the rest has come.
    Where that is much, or nobody said how much, the connection ends with it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        announced = _announced(scope)
        if not announced:
            await self._app(scope, receive, send)
            return
        rest = _Rest(announced, receive, send)
        await self._app(scope, rest.receive, rest.send)
        await rest.end()


class _Rest:
    """What has not come yet of the body of one request.

    left   bytes; inf = its sender does not say
    """

    def __init__(self, left: float, receive: Receive, send: Send) -> None:
        self.left = left
        self._receive = receive
        self._send = send
        self._owed = False

    async def receive(self) -> Message:
        """Take the next part."""
        message = await self._receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
        self.left = max(1.0, self.left - len(message.get("body", b""))) if more else 0.0
        return message

    async def send(self, message: Message) -> None:
        """Answer; that it was all is told by `end` where something has not come yet."""
        if self.left and message["type"] == "http.response.start" and self.left > _LITTLE_BYTES:
            ends = (b"connection", b"close")
            message = {**message, "headers": [*message.get("headers", ()), ends]}
        elif self.left and message["type"] == "http.response.body" and not message.get("more_body"):
            message = {**message, "more_body": True}
            self._owed = True
        await self._send(message)

    async def end(self) -> None:
        """Read the rest, to a bound, and end the answer."""
        if not self._owed:
            return
        read = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REST_S):
                while self.left and read < _REST_BYTES:
                    read += len((await self.receive()).get("body", b""))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _announced(scope: Scope) -> float:
    """Return how large a body is by its headers; inf = it comes in chunks."""
    headers = dict(scope["headers"])
    return math.inf if b"transfer-encoding" in headers else int(headers.get(b"content-length", 0))


def make(app: ASGIApp, protocol: type[Protocol], connections: int) -> Server:
    """Return a server that is bounded: connections, size of headers, silence, what it reads for nothing."""
    return Server(uvicorn.Config(
        _Answered(app), http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, limit_concurrency=connections, backlog=128,
        timeout_keep_alive=20, timeout_graceful_shutdown=3, h11_max_incomplete_event_size=32 << 10,
    ))  # fmt: skip
