"""uvicorn as the daemon and its ingest process use it: no signals, no wake-ups, silence is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_FIRST_REQUEST_S: Final = 15.0
"""A connection that says nothing for so long is closed."""


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


def make(app: ASGIApp, protocol: type[Protocol], connections: int) -> Server:
    """Return a server that is bounded: connections, size of headers, silence."""
    return Server(uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, limit_concurrency=connections, backlog=128,
        timeout_keep_alive=20, timeout_graceful_shutdown=3, h11_max_incomplete_event_size=32 << 10,
    ))  # fmt: skip
