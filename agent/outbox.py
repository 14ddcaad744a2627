"""Notes on their way to people: what was written down is delivered, over crashes and while a way is gone for hours.

    note in the journal -> routes -> owed at an address (way, or way/channel) -> paced -> `told` in the journal
                                       |    ^
                                       '----' one that does not answer is tried again, 1 s to 1 min apart, for six hours

A way that is `Choosy` gets what it wants to hear, also events (`agent.news`): what the journal says of incidents, runs
and changes. Those are owed, tried again and found again after a crash like messages, without entries of their own.

Each address has a queue and a turn of its own, so a slow one keeps none waiting. What `agent.routing` keeps back for
quiet hours stays in it until they end; what is more than an address carries an hour (of pages: in a minute) comes as
one summary as soon as there is room, with the notes that it holds told by it. A note may come twice (a crash between
delivery and `told`, an answer that was lost), with the same key; it does not get lost while the journal is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from agent import news
from agent.away import Absences, Away
from agent.codec import unpack
from agent.errors import AgentError, Refused, Unavailable
from agent.journal import Entry, JournalReader
from agent.ports import Choosy, Note, Notifier
from agent.routing import Leg, People, Router
from agent.strike import bug_in
from agent.units import many

log = structlog.get_logger()

KEEP_S: Final = 6 * 3600.0
"""How long a note is worth delivering, from when it may go."""
_QUIETEST_S: Final = 24 * 3600.0
"""Quiet hours are shorter than this."""
_ROOM: Final = 1000
_MOST_SUBJECTS: Final = 2000
"""Of so many incidents and runs we know which events were owed."""
_FIRST_S, _LAST_S = 1.0, 60.0
_HOUR_S: Final = 3600.0
_MOST_PAGES: Final = 10
_PAGES_S: Final = 60.0
"""More pages than this in a minute are a storm: the rest comes as one."""
_LINES: Final = 20
"""Notes that a summary names."""


@dataclass(slots=True)
class _Queue:
    """What is owed at one address.

    sent      when messages went, and whether they were pages: those of the last hour
    crowded   keys of notes that once had to wait for room, or for quiet hours: they go together
    news      set when something came
    """

    legs: deque[Leg] = field(default_factory=deque)
    sent: deque[tuple[float, bool, str]] = field(default_factory=deque)
    crowded: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def went(self, ts: float, note: Note) -> None:
        """Count a message that has gone."""
        if not note.event:
            self.sent.append((ts, note.severity == "page", note.channel))

    def room_at(self, note: Note, most: int, now: float) -> float:
        """Return from when on there is room for one more like this."""
        while self.sent and self.sent[0][0] <= now - _HOUR_S:
            self.sent.popleft()
        if note.event:
            return now
        if note.severity == "page":
            times = [ts for ts, page, _ in self.sent if page and ts > now - _PAGES_S]
            return times[-_MOST_PAGES] + _PAGES_S if len(times) >= _MOST_PAGES else now
        times = [ts for ts, _, channel in self.sent if channel == note.channel]
        return times[-most] + _HOUR_S if len(times) >= most else now


class Outbox:
    """Owes notes to the ways that they take.

    record  writes into the journal: kind, subject, body, ts
    ways    the connectors that notify, by name, as they are now
    fill    adds to a note what is known when it leaves
    router  knows which ways a note takes, and when it may go
    meant   whether config names a way, also while it is being made anew or can not be made
    """

    def __init__(
        self,
        record: Callable[[str, str, dict[str, Any], float], None],
        ways: Callable[[], Mapping[str, Notifier]],
        clock: Callable[[], float],
        fill: Callable[[Note], Note] = lambda note: note,
        router: Router | None = None,
        *,
        meant: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._record = record
        self._ways = ways
        self._clock = clock
        self._fill = fill
        self.router = router or Router(People())
        self._meant = meant
        self._since = clock() - KEEP_S
        self._heard: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._queues: dict[str, _Queue] = {}
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._away = Absences("notes")
        self._begun: set[str] = set()

    def faults(self) -> list[str]:
        """Say of each address that fails how much waits for it, and why."""
        return [
            f"{one.connector}: {many(one.waiting, 'note is', 'notes are')} not delivered yet ({one.why})"
            for one in self.away()
        ]

    def away(self) -> list[Away]:
        """Return the addresses that do not take what they are owed."""
        return self._away.told(lambda address: len(self._queues[address].legs))

    @property
    def owed(self) -> dict[str, int]:
        """How many notes wait at each address."""
        return {address: len(queue.legs) for address, queue in self._queues.items() if queue.legs}

    def restore(self, journal: JournalReader) -> None:
        """Owe again what was not told before the process ended; a way that is new owes nothing of the past."""
        now = self._clock()
        since = now - KEEP_S - (_QUIETEST_S if self.router.people.keeps_quiet else 0.0)
        told: set[tuple[str, str]] = set()
        begun: dict[str, float] = {}
        # not all that was ever told: the first word of each way names no note, the rest is as young as what is owed
        marks = list(journal.read(("told",), ""))
        for entry in (*marks, *journal.read(("told",), since=since)):
            address = str(entry.body.get("by", ""))
            begun.setdefault(address.partition("/")[0], entry.ts)
            told.add((entry.subject, address))
            self._count(entry, address)
        for way in set(self._ways()) - {str(mark.body.get("by", "")) for mark in marks}:
            self._record("told", "", {"by": way}, begun.get(way, now))
        self._begun = {*begun, *self._ways()}
        for entry in journal.read(("note", *news.KINDS), since=since):
            found = [unpack(Note, entry.body)] if entry.kind == "note" else self._news(entry)
            for note in found:
                for leg in self.router.legs(note, list(self._ways())):
                    fresh = begun.get(leg.way, now) <= note.ts and now - leg.due <= KEEP_S
                    if fresh and (note.key, leg.address) not in told:
                        self._owe(leg)

    def _count(self, entry: Entry, address: str) -> None:
        """Count what went in the last hour before the start."""
        sent = entry.body.get("sent")
        if entry.ts > self._clock() - _HOUR_S and isinstance(sent, Mapping):
            queue = self._queues.setdefault(address, _Queue())
            queue.sent.append((entry.ts, bool(sent["page"]), str(sent["channel"])))

    def rebase(self, jump: float, now: float) -> None:
        """Move along with a wall clock that was set: nothing that waits has become old by it, or has to wait longer.

        Quiet hours are those of the clock: what waits for their end goes when that has come, by the new one.
        """
        self._since += jump
        for queue in self._queues.values():
            queue.sent = deque((ts + jump, page, channel) for ts, page, channel in queue.sent)
            queue.legs = deque(_moved(leg, jump, now) for leg in queue.legs)
            queue.news.set()

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
            why = "" if note.event else self.router.withheld(note)
            for leg in self.router.legs(note, list(self._ways())):
                if why and self._wanted(leg):
                    self._record("told", note.key, {"by": leg.address, "withheld": why}, note.ts)
                elif not why:
                    self._owe(leg)

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

    def _wanted(self, leg: Leg) -> bool:
        notifier = self._ways()[leg.way]
        return notifier.wants(leg.note) if isinstance(notifier, Choosy) else not leg.note.event

    def _owe(self, leg: Leg) -> None:
        note = leg.note
        if not self._wanted(leg):
            return
        queue = self._queues.setdefault(leg.address, _Queue())
        if len(queue.legs) >= _ROOM:
            dropped = next((x for x in queue.legs if x.note.severity != "page"), queue.legs[0])
            queue.legs.remove(dropped)
            queue.crowded.discard(dropped.note.key)
            log.error("note_dropped", way=leg.address, note=dropped.note.key, waiting=_ROOM)
        queue.legs.append(leg)
        if leg.due > note.ts:
            queue.crowded.add(note.key)
        queue.news.set()
        if leg.address not in self._turns:
            self._turns[leg.address] = asyncio.create_task(
                self._deliver(leg.address, queue), name=f"notes to {leg.address}"
            )

    def _next(self, address: str, queue: _Queue) -> tuple[list[Leg], float]:
        """Return what goes now, several as one message; or nothing, and when to look again."""
        now, again = self._clock(), float("inf")
        way = address.partition("/")[0]
        for leg in queue.legs:
            note = leg.note
            most = self.router.people.most(way, note.channel)
            at = max(_held_until(leg, now), queue.room_at(note, most, now))
            if at > now:
                if _held_until(leg, now) <= now:
                    queue.crowded.add(note.key)
                again = min(again, at)
                continue
            if note.event or note.key not in queue.crowded:
                return [leg], now
            return [
                x for x in queue.legs
                if _held_until(x, now) <= now and x.note.key in queue.crowded and not x.note.event
                and (x.note.severity == "page", x.note.channel) == (note.severity == "page", note.channel)
            ], now  # fmt: skip
        return [], again

    async def _deliver(self, address: str, queue: _Queue) -> None:
        try:
            pause = _FIRST_S
            while queue.legs:
                legs, again = self._next(address, queue)
                if not legs:
                    queue.news.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(again - self._clock(), _HOUR_S)):
                            await queue.news.wait()
                    continue
                wrong = await self._try(address, queue, legs)
                if wrong is None:
                    gone = {leg.note.key for leg in legs}
                    queue.legs = deque(leg for leg in queue.legs if leg.note.key not in gone)
                    queue.crowded -= gone
                    pause = _FIRST_S
                    self._away.back(address)
                    continue
                rest = max(getattr(wrong, "wait_s", None) or 0.0, pause)
                if self._away.fell(address, str(wrong), rest):  # once, not at each try
                    log.warning(
                        "note_not_delivered", way=address, note=legs[0].note.key, error=str(wrong)
                    )
                await self._rest(queue, rest)
                pause = min(2 * pause, _LAST_S)
        finally:
            self._turns.pop(address, None)

    async def _rest(self, queue: _Queue, seconds: float) -> None:
        """Let the other side rest for as long as it asks; where a page waits, no longer than we would by ourselves."""
        begun = asyncio.get_running_loop().time()
        while True:
            pages = any(leg.note.severity == "page" for leg in queue.legs)
            end = begun + (min(seconds, _LAST_S) if pages else seconds)
            queue.news.clear()
            try:
                async with asyncio.timeout_at(end):
                    await queue.news.wait()
            except TimeoutError:
                return

    async def _try(self, address: str, queue: _Queue, legs: Sequence[Leg]) -> AgentError | None:
        """Deliver notes, or find that they need it no more; returns what went wrong, to try again."""
        notifier = self._ways().get(legs[0].way)
        fresh = [leg for leg in legs if self._clock() - leg.due <= KEEP_S]
        note = folded(address, [leg.note for leg in fresh]) if fresh else legs[0].note
        gave_up = ""
        if not fresh:
            gave_up = f"older than {KEEP_S / 3600:g} h"
        elif notifier is None and self._meant(legs[0].way):
            return Unavailable(
                f"{address} is not there now: it is being made anew, or could not be"
            )
        elif notifier is None:
            gave_up = "this way is gone from agent.yaml"
        else:
            try:
                await notifier.notify(self._fill(note))
                if (after_s := self._away.back(address)) is not None:
                    log.info("notes_taken_again", way=address, after_s=after_s)
            except Refused as error:
                gave_up = str(error)
            except AgentError as error:
                return error
            except (
                Exception
            ) as error:  # a border: a bug here must not lose the notes after this one
                log.exception("bug", where=f"notifier {address}")
                gave_up = bug_in(address, error)
        self._settle(address, queue, legs, fresh, note, gave_up)
        return None

    def _settle(  # noqa: PLR0917  # what `_try` has found
        self,
        address: str,
        queue: _Queue,
        legs: Sequence[Leg],
        fresh: Sequence[Leg],
        note: Note,
        gave_up: str,
    ) -> None:
        """Write down what became of notes: delivered, or given up and why."""
        now = self._clock()
        if gave_up:
            log.error("note_given_up", way=address, note=note.key, error=gave_up)
        else:
            queue.went(now, note)
        sent = {"page": note.severity == "page", "channel": note.channel}
        for leg in legs:
            body: dict[str, Any] = {"by": address}
            late = "" if leg in fresh else f"older than {KEEP_S / 3600:g} h"
            if gave_up or late:
                body["gave_up"] = gave_up or late
            else:
                body |= {"in": note.key} if note.key != leg.note.key else {}
                body |= {"sent": sent} if leg is fresh[0] and not note.event else {}
            self._record("told", leg.note.key, body, now)


def _moved(leg: Leg, jump: float, now: float) -> Leg:
    """Return a leg after the clock was set to `now`."""
    note = replace(leg.note, ts=leg.note.ts + jump)
    held = leg.due > leg.note.ts
    return Leg(leg.address, note, max(leg.due, now) if held else note.ts)


def _held_until(leg: Leg, now: float) -> float:
    """Return until when quiet hours hold a note; a clock that was set back holds nothing."""
    return leg.due if leg.due > leg.note.ts else now


def folded(address: str, notes: Sequence[Note]) -> Note:
    """Return one note for several, with a key of the first: the same when tried again. One alone stays as it is."""
    if len(notes) == 1:
        return notes[0]
    order = {"page": 0, "warning": 1, "note": 2}
    worst = min(notes, key=lambda n: order.get(n.severity, 3))
    lines = [f"{n.severity}: {n.title}" + (f" ({n.incident})" if n.incident else "") for n in notes]
    more = [f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
    about = {n.incident for n in notes}
    return replace(
        worst,
        key=f"together:{address}:{notes[0].key}",
        title=f"{len(notes)} messages as one, the worst: {worst.title}",
        text="\n".join([*lines[:_LINES], *more]),
        incident=notes[0].incident if len(about) == 1 else "",
        owner=worst.owner if len({n.owner for n in notes}) == 1 else "",
    )
