"""Chats: where people see incidents live and act on them, by what the desk lets them do.

    journal entry -> Chats.wrote -> Room.touched --> Chat.talk(room) --> desk (as a Person), pictures, the journal
                                                        '-- ends with an error: started again, 1 s to 1 min later

A chat is a connector. Its room has all that it gets of the house: the desk, which checks every role and journals every
act; a bell that tells what has changed; pictures of charts; and two words for the journal. `press` is what a person
asked for and what came of it, also when that was a refusal. `thread` is where an incident is talked about, which is how
a restart finds it again.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from agent.errors import AgentError, Unavailable
from agent.pictures import Pictures
from agent.ports import Chat

if TYPE_CHECKING:
    from agent.authority import Person
    from agent.desk import Desk
    from agent.journal import Entry
    from agent.ports import Note
    from agent.views import ChartView

log = structlog.get_logger()

_FIRST_S, _LAST_S = 1.0, 60.0
_MOST_TOUCHED: Final = 2000
_MOST_THREADS: Final = 500
_LONGEST: Final = 300
_OF_INCIDENT: Final = frozenset({"incident", "label", "snooze", "correction", "handoff"})
"""Kinds of entries whose subject is an incident."""


class Room:
    """What one chat is given.

    name   of the connector, as in agent.yaml
    meant  in which channel ("" = its own) and from when on a note is for it; None = it is not
    well   set by the chat when it is there: what broke it off before is over
    """

    def __init__(
        self,
        name: str,
        desk: Desk,
        record: Callable[[str, str, dict[str, Any], float], None],
        pictures: Pictures,
        meant: Callable[[Note], tuple[str, float] | None],
    ) -> None:
        self.name = name
        self.desk = desk
        self.meant = meant
        self._record = record
        self._pictures = pictures
        self.well = False
        self._touched: OrderedDict[str, None] = OrderedDict()
        self._bell = asyncio.Event()

    def touch(self, incident: str) -> None:
        """Ring: something about an incident has changed."""
        self._touched[incident] = None
        self._touched.move_to_end(incident)
        if len(self._touched) > _MOST_TOUCHED:
            self._touched.popitem(last=False)
        self._bell.set()

    async def touched(self, timeout_s: float | None = None) -> list[str]:
        """Wait until something has changed; returns the incidents it is about, the one that waits longest first.

        timeout_s   so long at most; nothing has changed then
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._bell.wait()
        except TimeoutError:
            return []
        self._bell.clear()
        found = list(self._touched)
        self._touched.clear()
        return found

    async def picture(self, charts: Sequence[ChartView], *, dark: bool = False) -> bytes:
        """Return charts as PNG; raises Refused, Unavailable."""
        return await self._pictures.draw(charts, dark=dark)

    def pressed(self, who: Person | str, what: str, about: str, came: str) -> None:
        """Journal what a person asked for here, and what came of it: `done`, or why not.

        who   a person, or whatever is known of somebody whom we do not know
        """
        by = who if isinstance(who, str) else who.signed
        body = {"by": by, "via": self.name, "what": what, "came": came[:_LONGEST]}
        self._put("press", about or "-", body)

    def remember(self, incident: str, where: Mapping[str, Any]) -> None:
        """Journal where an incident is talked about; the newest word holds."""
        self._put("thread", f"{self.name}:{incident}", dict(where))

    def threads(self) -> dict[str, dict[str, Any]]:
        """Return what was remembered of the newest incidents."""
        head = f"{self.name}:"
        return {
            entry.subject.removeprefix(head): entry.body
            for entry in self.desk.hooks.journal.latest("thread", _MOST_THREADS)
            if entry.subject.startswith(head)
        }

    def _put(self, kind: str, subject: str, body: dict[str, Any]) -> None:
        try:
            self._record(kind, subject, body, self.desk.hooks.now())
        except Unavailable as error:  # it waits in the journal, and /health says so
            log.warning("chat_not_journalled", way=self.name, kind=kind, error=str(error))


class Chats:
    """Keeps every chat talking.

    chats   the connectors that are one, by name, as they are now
    meant   way, note -> in which channel and from when on the note is for the way; None = it is not
    bug     where, exception: what nobody expected
    """

    def __init__(
        self,
        chats: Callable[[], Mapping[str, Chat]],
        desk: Desk,
        record: Callable[[str, str, dict[str, Any], float], None],
        pictures: Pictures,
        *,
        bug: Callable[[str, Exception], None],
        meant: Callable[[str, Note], tuple[str, float] | None] = lambda _, note: ("", note.ts),
    ) -> None:
        self._chats = chats
        self._desk = desk
        self._record = record
        self._pictures = pictures
        self._bug = bug
        self._meant = meant
        self._live: dict[str, tuple[Chat, Room, asyncio.Task[None]]] = {}
        self._said: dict[str, str] = {}

    def turn(self) -> None:
        """Start those that are new, end those that are gone: at start, and after each reload."""
        there = self._chats()
        for name, (chat, _, task) in list(self._live.items()):
            if there.get(name) is not chat:
                task.cancel()
                del self._live[name]
                self._said.pop(name, None)
        for name, chat in there.items():
            if name not in self._live:
                meant = functools.partial(self._meant, name)
                room = Room(name, self._desk, self._record, self._pictures, meant)
                task = asyncio.create_task(self._talk(name, chat, room), name=f"chat {name}")
                self._live[name] = chat, room, task

    def wrote(self, entry: Entry) -> None:
        """Ring where an entry is about an incident."""
        if not self._live:
            return
        if entry.kind in _OF_INCIDENT:
            incident = entry.subject
        elif entry.kind in {"run", "decision"}:
            incident = str(entry.body.get("incident", ""))
        else:
            return
        for _, room, _ in self._live.values():
            room.touch(incident)

    def faults(self) -> list[str]:
        """Say of each chat what a person must mend."""
        out = [f"{name}: {why}" for name, why in self._said.items() if not self._live[name][1].well]
        for name, (chat, _, _) in self._live.items():
            out += [f"{name}: {why}" for why in chat.troubles()]
        return out

    async def close(self) -> None:
        """End all talks."""
        tasks = [task for _, _, task in self._live.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._live.clear()
        await self._pictures.close()

    async def _talk(self, name: str, chat: Chat, room: Room) -> None:
        pause = _FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            began, wait = loop.time(), 0.0
            room.well = False
            try:
                await chat.talk(room)
                why = "it stopped talking"
            except AgentError as error:
                why, wait = str(error), getattr(error, "wait_s", None) or 0.0
            except Exception as error:  # noqa: BLE001  # a border: a bug in a chat must not end the daemon
                self._bug(f"chat {name}", error)
                why = f"a bug ({type(error).__name__}); its log has the traceback"
            if why != self._said.get(name):  # once, not at each try
                log.warning("chat_broke_off", chat=name, error=why)
            self._said[name] = why
            pause = _FIRST_S if loop.time() - began > _LAST_S else pause
            await asyncio.sleep(max(wait, pause))
            pause = min(2 * pause, _LAST_S)
