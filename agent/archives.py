"""Copies of the record elsewhere: entries of the journal, in order, for as long as it takes.

    journal, after `position` --pages--> archive.keep --> position moves on
                 '---- one that does not take them is asked again, 1 s to 30 s apart (or as it asks), without an end

The journal is the queue: nothing waits in memory, and an archive that was away for a week gets the week. Each has a
turn of its own, so one that is slow keeps no other waiting, and no tick.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from agent.away import Absences, Away
from agent.codec import pack
from agent.errors import AgentError
from agent.journal import Entry, JournalReader
from agent.model import Decision
from agent.ports import Archive, Logged
from agent.units import many

log = structlog.get_logger()

_PAGE: Final = 100
_EVERY_S: Final = 5.0
"""Of an archive for which there is nothing new: it has counts of its own."""
_GATHER_S: Final = 1.0
"""What is written within so long goes together."""
_FIRST_S, _LAST_S = 1.0, 30.0


class Archives:
    """Gives every archive what it lacks.

    archives   the connectors that are one, by name, as they are now
    decided    (playbook, target, incident) -> the last word of the guard
    """

    def __init__(
        self,
        journal: JournalReader,
        archives: Callable[[], Mapping[str, Archive]],
        decided: Callable[[str, str, str], Decision | None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._journal = journal
        self._archives = archives
        self._decided = decided
        self._sleep = sleep
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._away = Absences("record")
        self._newest = journal.head[0]
        self._bugs: set[tuple[str, str]] = set()

    def faults(self) -> list[str]:
        """Say of each that lacks something what it is, and why."""
        one, more = "entry of the journal waits", "entries of the journal wait"
        out = [f"{x.connector}: {many(x.waiting, one, more)} for it ({x.why})" for x in self.away()]
        for name, archive in self._archives().items():
            out += [f"{name}: {trouble}" for trouble in archive.troubles()]
        return out

    def away(self) -> list[Away]:
        """Return those that do not take what they lack."""
        there = self._archives()
        self._away.only(there)
        return self._away.told(lambda name: max(0, self._newest - there[name].position))

    def wrote(self, entry: Entry) -> None:
        """Wake every archive: there is something new."""
        self._newest = entry.seq
        for news in self._news.values():
            news.set()

    def count(self, rows: Logged) -> None:
        """Let each count rows; a bug in one costs its count, not the rows."""
        for name, archive in self._archives().items():
            try:
                archive.count(rows)
            except Exception as error:  # noqa: BLE001  # a border; the message may quote a row
                self._bug(name, type(error).__name__)

    def start(self) -> None:
        """Begin with each that has no turn yet; one that was taken out of config ends by itself."""
        for name in self._archives():
            if name not in self._turns:
                self._news[name] = asyncio.Event()
                self._turns[name] = asyncio.create_task(self._serve(name), name=f"archive {name}")

    async def close(self, name: str = "") -> None:
        """Stop, one or all; what is lacking is found again after the next start."""
        turns = [turn for key, turn in self._turns.items() if name in {"", key}]
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)

    async def _serve(self, name: str) -> None:
        pause = _FIRST_S
        try:
            while (archive := self._archives().get(name)) is not None:
                self._news[name].clear()
                wrong = await self._once(name, archive)
                if wrong is None:
                    pause = _FIRST_S
                    continue
                rest = max(getattr(wrong, "wait_s", None) or 0.0, pause)
                if self._away.fell(name, str(wrong), rest):  # once, not at each try
                    log.warning("archive_not_reached", archive=name, error=str(wrong))
                await self._rest(archive, rest)
                pause = min(2 * pause, _LAST_S)
        finally:
            for kept in (self._turns, self._news):
                kept.pop(name, None)

    async def _once(self, name: str, archive: Archive) -> Exception | None:
        """Give one page; returns what went wrong, to try again."""
        try:
            entries = await asyncio.to_thread(self._page, archive.position)
            more = await archive.keep([self._whole(entry) for entry in entries])
        except AgentError as error:
            return error
        except Exception as error:  # noqa: BLE001  # a border: a bug here must not end the turn
            self._bug(name, type(error).__name__, error)
            return AgentError(f"a bug in {name}: {type(error).__name__}")
        if (after_s := self._away.back(name)) is not None:
            log.info("archive_back", archive=name, after_s=after_s)
        if not more and len(entries) < _PAGE:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._news[name].wait()
            except TimeoutError:
                return None
            await self._sleep(_GATHER_S)
        return None

    async def _rest(self, archive: Archive, seconds: float) -> None:
        """Wait before the next try; what was counted meanwhile gets to its disk."""
        while seconds > 0:
            await self._sleep(min(seconds, _EVERY_S))
            seconds -= _EVERY_S
            with contextlib.suppress(Exception):  # `keep` meets it again, and says it
                await archive.store()

    def _page(self, position: int) -> list[Entry]:
        if position > self._journal.head[0]:  # another journal: the old one was moved away
            position = 0
        return self._journal.page(position, _PAGE)

    def _whole(self, entry: Entry) -> Entry:
        """Add to a run the gates that let it through."""
        if entry.kind != "run":
            return entry
        body = entry.body
        target = f"{body['target']['kind']}:{body['target']['key']}"
        decision = self._decided(body["playbook"], target, body["incident"])
        if decision is None or not decision.allowed or decision.ts > body["started"]:
            return entry
        return replace(entry, body={**body, "gates": pack(decision)["gates"]})

    def _bug(self, name: str, kind: str, error: Exception | None = None) -> None:
        if (name, kind) not in self._bugs:
            self._bugs.add((name, kind))
            log.error("bug", where=f"archive {name}", kind=kind, exc_info=error)
