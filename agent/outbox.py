"""Notes on their way to people: what was written down is delivered, over crashes and while a way is gone for hours.

    note in the journal -> owed to each way (a connector that notifies) -> `told` in the journal
                             |    ^
                             '----' a way that does not answer is tried again, 1 s to 1 min apart, for six hours

A way that is `Choosy` gets what it wants to hear, also events (`agent.news`): what the journal says of incidents, runs
and changes. Those are owed, tried again and found again after a crash like messages, without entries of their own.

Each way has a queue and a turn of its own, so a slow one keeps none waiting. A note may come twice (a crash between
delivery and `told`, an answer that was lost), with the same key; it does not get lost while the journal is there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from agent import news
from agent.away import Absences, Away
from agent.codec import unpack
from agent.errors import AgentError, Refused, Unavailable
from agent.journal import Entry, JournalReader
from agent.ports import Choosy, Note, Notifier
from agent.strike import bug_in

log = structlog.get_logger()

KEEP_S: Final = 6 * 3600.0
"""How long a note is worth delivering."""
_ROOM: Final = 1000
_MOST_SUBJECTS: Final = 2000
"""Of so many incidents and runs we know which events were owed."""
_FIRST_S, _LAST_S = 1.0, 60.0


class Outbox:
    """Owes notes to every way there is.

    record  writes into the journal: kind, subject, body, ts
    ways    the connectors that notify, by name, as they are now
    fill    adds to a note what is known when it leaves
    meant   whether config names a way, also while it is being made anew or can not be made
    """

    def __init__(
        self,
        record: Callable[[str, str, dict[str, Any], float], None],
        ways: Callable[[], Mapping[str, Notifier]],
        clock: Callable[[], float],
        fill: Callable[[Note], Note] = lambda note: note,
        meant: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._record = record
        self._ways = ways
        self._clock = clock
        self._fill = fill
        self._meant = meant
        self._since = clock() - KEEP_S
        self._heard: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._queues: dict[str, deque[Note]] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._away = Absences("notes")
        self._begun: set[str] = set()

    def faults(self) -> list[str]:
        """Say of each way that fails how much waits for it, and why."""
        return [
            f"{one.connector}: {one.waiting} notes are not delivered yet ({one.why})"
            for one in self.away()
        ]

    def away(self) -> list[Away]:
        """Return the ways that do not take what they are owed."""
        return self._away.told(lambda way: len(self._queues[way]))

    @property
    def owed(self) -> dict[str, int]:
        """How many notes wait for each way."""
        return {way: len(queue) for way, queue in self._queues.items() if queue}

    def restore(self, journal: JournalReader) -> None:
        """Owe again what was not told before the process ended; a way that is new owes nothing of the past."""
        now = self._clock()
        since = now - KEEP_S
        told: set[tuple[str, str]] = set()
        begun: dict[str, float] = {}
        # not all that was ever told: the first word of each way names no note, the rest is as young as what is owed
        marks = list(journal.read(("told",), ""))
        for entry in (*marks, *journal.read(("told",), since=since)):
            way = str(entry.body.get("by", ""))
            begun.setdefault(way, entry.ts)
            told.add((entry.subject, way))
        for way in set(self._ways()) - {str(mark.body.get("by", "")) for mark in marks}:
            self._record("told", "", {"by": way}, begun.get(way, now))
        self._begun = {*begun, *self._ways()}
        for entry in journal.read(("note", *news.KINDS), since=since):
            found = [unpack(Note, entry.body)] if entry.kind == "note" else self._news(entry)
            for note in found:
                for way in self._ways():
                    if begun.get(way, now) <= note.ts and (note.key, way) not in told:
                        self._owe(way, note)

    def wrote(self, entry: Entry) -> None:
        """Owe a note that was written down, and events that an entry tells of; cheap when no way wants any."""
        if entry.kind == "note":
            found = [unpack(Note, entry.body)]
        elif entry.kind in news.KINDS and any(isinstance(w, Choosy) for w in self._ways().values()):
            found = self._news(entry)
        else:
            return
        for note in found:
            for way in self._ways():
                if way not in self._begun:  # came with a reload: from here on it is owed what comes
                    self._begun.add(way)
                    self._record("told", "", {"by": way}, note.ts)
                self._owe(way, note)

    def _news(self, entry: Entry) -> list[Note]:
        """Return what an entry tells that no earlier one has told: an incident carries its whole life each time."""
        found = [note for note in news.of(entry) if note.ts >= self._since]
        about = f"{entry.kind} {entry.subject}" if entry.kind != "change" else f"change {entry.seq}"
        before = self._heard.pop(about, frozenset())
        self._heard[about] = before | {note.key for note in found}
        if len(self._heard) > _MOST_SUBJECTS:
            self._heard.popitem(last=False)
        return [note for note in found if note.key not in before]

    async def close(self) -> None:
        """Stop delivering; what is owed is owed again after the next start."""
        turns = list(self._turns.values())
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)

    def _owe(self, way: str, note: Note) -> None:
        notifier = self._ways()[way]
        if not (notifier.wants(note) if isinstance(notifier, Choosy) else not note.event):
            return
        queue = self._queues.setdefault(way, deque())
        if len(queue) >= _ROOM:
            dropped = next((n for n in queue if n.severity != "page"), queue[0])
            queue.remove(dropped)
            log.error("note_dropped", way=way, note=dropped.key, waiting=_ROOM)
        queue.append(note)
        if way not in self._turns:
            self._turns[way] = asyncio.create_task(
                self._deliver(way, queue), name=f"notes to {way}"
            )

    async def _deliver(self, way: str, queue: deque[Note]) -> None:
        try:
            pause = _FIRST_S
            while queue:
                note = queue[0]
                wrong = await self._try(way, note)
                if wrong is None:
                    if queue and queue[0] is note:
                        queue.popleft()
                    pause = _FIRST_S
                    self._away.back(way)
                    continue
                rest = max(getattr(wrong, "wait_s", None) or 0.0, pause)
                if self._away.fell(way, str(wrong), rest):  # once, not at each try
                    log.warning("note_not_delivered", way=way, note=note.key, error=str(wrong))
                await asyncio.sleep(rest)
                pause = min(2 * pause, _LAST_S)
        finally:
            self._turns.pop(way, None)

    async def _try(self, way: str, note: Note) -> AgentError | None:
        """Deliver a note, or find that it needs no delivery any more; returns what went wrong, to try again."""
        notifier = self._ways().get(way)
        gave_up = ""
        if self._clock() - note.ts > KEEP_S:
            gave_up = f"older than {KEEP_S / 3600:g} h"
        elif notifier is None and self._meant(way):
            return Unavailable(f"{way} is not there now: it is being made anew, or could not be")
        elif notifier is None:
            gave_up = "this way is gone from agent.yaml"
        else:
            try:
                await notifier.notify(self._fill(note))
                if (after_s := self._away.back(way)) is not None:
                    log.info("notes_taken_again", way=way, after_s=after_s)
            except Refused as error:
                gave_up = str(error)
            except AgentError as error:
                return error
            except (
                Exception
            ) as error:  # a border: a bug here must not lose the notes after this one
                log.exception("bug", where=f"notifier {way}")
                gave_up = bug_in(way, error)
        if gave_up:
            log.error("note_given_up", way=way, note=note.key, error=gave_up)
        body = {"by": way} | ({"gave_up": gave_up} if gave_up else {})
        self._record("told", note.key, body, self._clock())
        return None
