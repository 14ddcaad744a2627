"""The daemon's end of taking rows in: counts them between its ticks, and keeps the ingest process alive.

    ingest_listen --> process of its own: tokens, inflate, parse, check, columns   (`agent.intake_process`)
                           | pipe: parcels            ^ "counted"
                           v                          |
    feeds (files, indexes) --> Counting: a piece of some 10 ms, then as long a rest; ticks come between the pieces

What is promised. 2xx means: the daemon has counted the rows, they are in its memory and in the next checkpoint of the
model watch (every five minutes, and at a clean stop). Nothing is answered before: when the ingest process is killed,
its clients get no answer, send again, and rows with an id are not counted twice. When the daemon is killed, what was
counted since the last checkpoint is gone, as is what it read from files (which it reads again). Of a pair of events
(KServe), the half that came first waits in the ingest process; how many went with it is told in the log.

The listening socket stays with the daemon: while a new process starts, connections wait in its queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import IO, Any, Final

import structlog

from agent.errors import AgentError, Refused, Unavailable
from agent.inlets import Busy, where_it_broke
from agent.parcels import cells_of, pack, parts, unpack
from agent.ports import Bulk

log = structlog.get_logger()

FORWARD: Final = "ingest.sock"
"""In the state folder: where the ingest process hands on what is not for it."""
SIZE: Final = struct.Struct("<I")
MOST_BYTES: Final = 64 << 20
"""Of one parcel: a piece of some thousand cells, with its texts."""
MOST_CELLS: Final = 2_000_000
"""Rows times columns that wait to be counted, 16 MB of numbers; above that senders are told to wait."""
_SHARE: Final = 0.5
"""Of the daemon's loop, at most, that counting may take while there is more to count."""
_SILENT_S: Final = 30.0
"""The process gives a sign of life every two seconds; one that is silent for so long hangs."""
_MERCY_S: Final = 5.0
_FIRST_REST_S: Final = 0.2
_LONGEST_REST_S: Final = 30.0
_LIVED_S: Final = 60.0
"""A process that lived so long was well: the next one is started at once."""


class Counting:
    """Counts rows in pieces, between the ticks. The Hand of inlets on the daemon's own port.

    count   counts one piece; raises Refused for what it can not
    ask     model -> names of its columns
    tally   (source, bytes, refused) of each request; bug (where, trace)
    """

    def __init__(
        self,
        count: Callable[[Bulk], None],
        ask: Callable[[str], Awaitable[Sequence[str]]],
        tally: Callable[[str, int, int], None],
        bug: Callable[[str, str], None],
    ) -> None:
        self._count = count
        self._ask = ask
        self.tally = tally
        self._bug = bug
        self._turn = asyncio.Lock()
        self._cells = 0
        self._pace = 1e6
        """Cells a second, lately."""

    def room(self) -> None:
        """Raise Busy when enough is waiting."""
        if self._cells > MOST_CELLS:
            wait = min(30.0, max(1.0, self._cells / self._pace))
            raise Busy("more rows wait than can be counted now; send them again later", wait_s=wait)

    async def give(self, source: str, arrivals: Sequence[Bulk], waiting: int = 0) -> None:
        """Count all; raises Refused for what can not be counted, Unavailable when counting has failed."""
        del source, waiting
        cells = sum(map(cells_of, arrivals))
        self._cells += cells
        try:
            for arrival in arrivals:
                for part in parts(arrival):
                    await self._one(part)
        finally:
            self._cells -= cells

    async def _one(self, part: Bulk) -> None:
        took = await self._piece(lambda: self._count(part))
        self._pace += 0.1 * (cells_of(part) * _SHARE / max(took, 1e-6) - self._pace)

    async def catch_up(self, more: Callable[[], bool]) -> None:
        """Count what waits elsewhere: `more` counts a piece of it, False = there is none."""
        left = True

        def work() -> None:
            nonlocal left
            left = more()

        while left:
            await self._piece(work)

    async def _piece(self, work: Callable[[], None]) -> float:
        """Do a piece of work and rest for as long as it took; return how long that was."""
        async with self._turn:
            start = time.perf_counter()
            try:
                work()
            except AgentError:
                raise
            except Exception as error:  # noqa: BLE001  # the border: it may quote a row, and the daemon must live
                self._bug("counting rows", where_it_broke(error))
                raise Unavailable("a bug in homeostat; its log tells where") from None
            took = time.perf_counter() - start
            await asyncio.sleep(took * (1 / _SHARE - 1))
        return took

    async def ask(self, model: str) -> Sequence[str]:
        """Return the names of a model's columns; () = not known, or a bug in who is asked."""
        try:
            return await self._ask(model)
        except Exception as error:  # noqa: BLE001  # a border: who keeps models must not end the taking in of rows
            self._bug("columns of a model", where_it_broke(error))
            return ()

    def told(self, source: str, size: int, *, refused: bool) -> None:
        """Take note of a request."""
        self.tally(source, size, int(refused))

    def bug(self, where: str, trace: str) -> None:
        """Take note of a bug."""
        self._bug(where, trace)


class Intake:
    """The ingest process: started, watched, started again.

    sock      listens already
    settings  what the process is told at its start, JSON-able: see `agent.intake_process`
    """

    def __init__(
        self, sock: socket.socket, settings: Callable[[], Mapping[str, Any]], counting: Counting
    ) -> None:
        self._sock = sock
        self._settings = settings
        self._counting = counting
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._said: IO[bytes] | None = None
        self._ending = False
        self._turning = False
        self._waiting = 0
        self._refusals: dict[int, AgentError] = {}
        self.fault = ""
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id, None while there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it, and keep it alive from now on."""
        self._task = asyncio.create_task(self._live(), name="intake")

    async def close(self) -> None:
        """Let it answer what is under way, for a few seconds, then end it; nobody listens any more."""
        self._ending = True
        self._end()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MERCY_S):
                    await asyncio.shield(self._task)
            self._task.cancel()
            await asyncio.wait([self._task])
        self._sock.close()

    def turn(self) -> None:
        """Start it anew, with other settings, after it has answered what is under way."""
        self._turning = self._writer is not None  # one that is being started gets them anyway
        self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._write(pack({"kind": "end"}))

    async def _live(self) -> None:
        rest = _FIRST_REST_S
        while not self._ending:
            began = time.monotonic()
            try:
                how = await self._one()
            except OSError as error:
                how = f"could not be started: {error.strerror}"
            lost, self._waiting = self._waiting, 0
            if self._ending or self._turning:
                self._turning = False
                if lost:
                    log.info("intake_turned", halves_lost=lost)
                continue
            self.restarts += 1
            self.fault = f"the ingest process {how}"
            log.warning("intake_ended", how=how, restarts=self.restarts, halves_lost=lost)
            rest = _FIRST_REST_S if time.monotonic() - began > _LIVED_S else min(2 * rest, _LONGEST_REST_S)  # fmt: skip
            await asyncio.sleep(rest)

    async def _one(self) -> str:
        """Run one process until it ends; return how it did."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, tempfile.TemporaryFile() as said:
            self._said = said
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "agent.intake_process",
                str(theirs.fileno()), str(self._sock.fileno()),
                stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said,
                pass_fds=(theirs.fileno(), self._sock.fileno()), start_new_session=True,
            )  # fmt: skip
            theirs.close()
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
            broken = ""
            try:
                self._write(pack({"kind": "settings", **self._settings()}))
                while True:
                    async with asyncio.timeout(_SILENT_S):
                        data = await read(reader)
                    await self._heard(data)
            except asyncio.CancelledError:
                broken = "was not waited for"
                raise
            except TimeoutError:
                broken = f"was silent for {_SILENT_S:.0f} s"
            except (EOFError, OSError):
                pass
            except Refused:
                broken = "sent what can not be read"
            finally:
                self._writer.close()
                self._writer = None
                code = await _ended(process, 0.0 if broken else _MERCY_S)
                self._process = None
                self._refusals.clear()
            return broken or self._how(code)

    async def _heard(self, data: bytes) -> None:
        said, batch = unpack(data)
        match said["kind"]:
            case "rows":
                await self._rows(said, batch)
            case "ask":
                names = await self._counting.ask(said["model"])
                self._write(pack({"kind": "names", "model": said["model"], "names": list(names)}))
            case "beat":
                self.fault = ""
                self._waiting = said["waiting"]
                for source, size, refused in said["requests"]:
                    self._counting.tally(source, size, refused)
            case _:
                self._counting.bug(said["where"], said["trace"])

    async def _rows(self, said: Mapping[str, Any], batch: Bulk | None) -> None:
        number: int = said["number"]
        self._waiting = said["waiting"]
        if batch is not None and number not in self._refusals:
            try:
                await self._counting.give("", [batch])
            except AgentError as error:
                self._refusals[number] = error
        if said["last"]:
            no = self._refusals.pop(number, None)
            how = {"no": "" if no is None else str(no), "never": isinstance(no, Refused)}
            self._write(pack({"kind": "counted", "number": number, **how}))

    def _write(self, data: bytes) -> None:
        """Send a few bytes; when the process does not read them it will be found silent."""
        if self._writer is not None:
            self._writer.write(SIZE.pack(len(data)) + data)

    def _how(self, code: int) -> str:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})"
        assert self._said is not None  # noqa: S101  # it is open while its process is
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - 4096))
        last = self._said.read().rstrip().rpartition(b"\n")[2].decode("utf-8", "replace")[:300]
        return how + (f": {last}" if last else "")


async def read(reader: asyncio.StreamReader) -> bytes:
    """Return the next parcel of a pipe; raises EOFError at its end."""
    (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
    if size > MOST_BYTES:
        raise EOFError(f"a parcel of {size} bytes")
    return await reader.readexactly(size)


async def _ended(process: asyncio.subprocess.Process, mercy_s: float) -> int:
    """Wait for the end of a process, then end it; return its exit status."""
    if mercy_s:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), mercy_s)
    # not process.kill(): that looks first whether it has ended, and then takes its status from asyncio
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return await process.wait()
