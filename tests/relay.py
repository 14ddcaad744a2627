"""What stands between a connector and its side, in tests: passes all on, until the side shall be gone.

It knows of no protocol but how a change begins: `changes` tells it by the first bytes that a client sends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from agent.testing import CUT, GONE, LAST

FATES = frozenset({GONE, CUT, LAST})
CALM_S = 0.01


def of_http(data: bytes) -> bool:
    """Tell a request that changes something."""
    return data.startswith((b"POST ", b"PUT ", b"PATCH ", b"DELETE "))


class Relay:
    """side: where it passes on to, a Unix socket or a port of 127.0.0.1; it listens at the same kind."""

    def __init__(self, side: Path | int, folder: Path, changes: Callable[[bytes], bool]) -> None:
        self._side = side
        self._changes = changes
        self._what = ""
        self._gone = False
        """A change was taken that shall be the last."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.path = folder / "relay"
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def fate(self, what: str) -> None:
        """Make the side suffer one of FATES; "" = it is well again."""
        self._what, self._gone = what, False
        if what == GONE:
            await self.close()
        elif self._server is None:
            if isinstance(self._side, Path):
                self._server = await asyncio.start_unix_server(self._serve, self.path)
            else:
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
                self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and cut off who is there."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()
        self.path.unlink(missing_ok=True)
        await asyncio.sleep(CALM_S)  # one that was just taken gets its turn, and is cut off
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(CALM_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._pass(reader, writer)
        finally:
            await _abort(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._gone:
            return
        opening = asyncio.ensure_future(
            asyncio.open_unix_connection(self._side)
            if isinstance(self._side, Path)
            else asyncio.open_connection("127.0.0.1", self._side)
        )
        try:
            back, forth = await asyncio.shield(opening)
        except asyncio.CancelledError:  # who is cut off here leaves nothing open
            await _abort((await opening)[1])
            raise
        asked: list[
            bool
        ] = []  # whether what was asked is the change; empty again when it is answered
        there = asyncio.create_task(self._there(reader, forth, asked))
        here = asyncio.create_task(self._here(back, writer, asked))
        left = {there, here}
        try:
            while here in left:  # a client that has said all may still be answered
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                if any(way.exception() for way in done):
                    break
        finally:
            forth.transport.abort()  # first: who waits below may be cancelled
            for way in (there, here):
                way.cancel()
            await asyncio.gather(there, here, return_exceptions=True)

    async def _there(self, reader, forth, asked: list[bool]) -> None:
        while data := await reader.read(1 << 16):
            if self._gone and True not in asked:
                raise ConnectionAbortedError
            if self._what in {CUT, LAST} and self._changes(data):
                self._gone = True
                asked.append(True)
            forth.write(data)
            await forth.drain()
        if forth.can_write_eof():
            forth.write_eof()

    async def _here(self, back, writer, asked: list[bool]) -> None:
        while data := await back.read(1 << 16):
            if True in asked and self._what == CUT:
                raise ConnectionAbortedError
            asked.clear()
            writer.write(data)
            await writer.drain()


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def relayed(
    side: Path | int, folder: Path, changes: Callable[[bytes], bool] = of_http
) -> AsyncIterator[Relay]:
    """Stand before a side for a while."""
    relay = Relay(side, folder, changes)
    await relay.fate("")
    try:
        yield relay
    finally:
        await relay.close()
