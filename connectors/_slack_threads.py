"""One thread an incident: a message that is edited as life goes on, and what is told beneath it, once.

    incident -> sync -> no message yet: post it      | metadata carries the incident's id, the journal where it stands
                     -> another one now: edit it     | at most every few seconds, at once when people are needed
    note     -> reply -> sync, then a reply, once a key

Kill it between posting and writing that down, or lose the answer: the channel's history is searched for our id before
anything is posted again. A message that somebody deleted is posted anew once; who deletes that too does not want it.
Beyond `threads_per_hour` in a channel incidents that page nobody share one message, which is edited.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.model import entity
from agent.ports import Note
from agent.units import many
from agent.views import IncidentDetail
from connectors import _slack_blocks as blocks
from connectors._slack_door import POST_EVERY_S, Door, Gone, Lacking, Unfit

if TYPE_CHECKING:
    from agent.chat import Room
    from connectors.slack import Slack

log = structlog.get_logger()

FIRST_EDIT_S: Final = 5.0
"""So long the diagnosis may take before the first edit: a message is read only seconds later anyway."""
NEXT_EDIT_S: Final = 10.0
_HOUR_S: Final = 3600.0
_MOST_THREADS: Final = 1000
_MOST_SAID: Final = 200
_MOST_SHARED: Final = 100
_MOST_PAGES: Final = 10
"""So many pages of 200 messages are read when one of ours is looked for."""
_PICTURES: Final = 3
"""So often a picture is tried; Slack may need some seconds before one that was uploaded can be shown."""
_MINUTE_S: Final = 60.0
_UNWANTED: Final = "0"
"""Stands for the message of an incident that people have deleted twice."""


@dataclass(slots=True)
class _Thread:
    """Where an incident is talked about.

    ts       of its message; "" = there is none yet, or we do not know
    sure     what we know of the message is all there is; False: look before posting
    heard    the same of its replies
    anew     how often it was posted again after somebody deleted it
    done     it is over and shown so; or nobody wants it
    posted   the severity with which it was posted: an edit calls nobody
    """

    channel: str
    ts: str = ""
    sure: bool = True
    heard: bool = True
    anew: int = 0
    done: bool = False
    posted: str = ""
    digest: str = ""
    phase: str = ""
    edits: int = 0
    last: float = -math.inf
    born: float = -math.inf
    picture: str = ""
    drawn: str = ""
    tries: int = 0
    said: set[str] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class _Shared:
    """The one message of incidents beyond the budget.

    began   unix seconds
    names   id -> title of all that belong into it, shown or not yet
    """

    thread: _Thread
    began: float
    names: dict[str, str] = field(default_factory=dict)


class Threads:
    """The threads of one workspace.

    link   where the console is, "" = nowhere
    """

    def __init__(self, config: Slack.Config, door: Door, room: Room, link: str) -> None:
        self._config = config
        self._door = door
        self._room = room
        self._link = link.rstrip("/")
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._born: dict[str, deque[float]] = {}
        self._shared: dict[str, _Shared] = {}
        for id_, where in room.threads().items():
            self._threads[id_] = thread = _remembered(where)
            age = _age(thread.ts)
            if age < _HOUR_S:  # a restart gives no new budget
                self._births(thread.channel).append(time.monotonic() - age)

    def open(self) -> list[str]:
        """Return the incidents whose message is not final."""
        known = [id_ for id_, thread in self._threads.items() if not thread.done]
        live = [i.id for i in self._room.desk.hooks.memory.open_incidents()]
        return list(dict.fromkeys([*known, *live]))

    def follows(self, incident: str) -> bool:
        """Tell whether an incident has a thread, or is to have one."""
        if incident in self._threads:
            return True
        found = self._room.desk.hooks.memory.incidents.get(incident)
        return found is not None and found.severity in self._config.severities

    async def sync(self, id_: str, *, now: bool = False, told: Note | None = None) -> float | None:
        """Bring the message of an incident up to date; returns in how many seconds it wants another look, None = none.

        now    a person has just done something, and looks
        told   people are told this of it, whatever its severity: a page, or a run that asks
        Raises Unavailable, Uncertain.
        """
        try:
            detail = self._room.desk.incident(id_)
        except Refused:
            return None
        thread = self._threads.get(id_)
        if thread is None:
            where = self._where(detail, told)
            if where is None:
                return None
            channel, due = where
            if due > time.time():
                return due - time.time()
            if detail["severity"] != "page" and self._full(channel):
                return await self._share(channel, detail)
            self._births(channel).append(time.monotonic())
            thread = self._put(id_, _Thread(channel))
        if thread.ts == _UNWANTED or (
            thread.done and detail["state"] == "resolved" and not now and not detail["label"]
        ):
            return None
        async with thread.turn:
            try:
                return await self._bring(id_, thread, detail, now=now)
            except Gone:
                return await self._gone(id_, thread)
            except Unfit as no:
                log.error("slack_message_refused", incident=id_, error=str(no))
                return None

    def _where(self, detail: IncidentDetail, told: Note | None) -> tuple[str, float] | None:
        """Return in which channel, and from when on, an incident gets a message; None = it gets none."""
        if detail["state"] == "resolved":
            return None
        if told is not None:  # it has been routed, and has waited, already
            return self._channel(told.channel), 0.0
        if detail["severity"] not in self._config.severities:
            return None
        about = Note(
            f"incident:{detail['id']}", self._room.desk.hooks.now(), detail["severity"], detail["title"],
            blocks.phase(detail), detail["id"],
        )  # fmt: skip
        found = self._room.meant(about)
        return None if found is None else (self._channel(found[0]), found[1])

    def _channel(self, named: str) -> str:
        """Return the channel that a route or an owner names, else the one of config."""
        return named if re.fullmatch(r"#.+|[CGD][A-Z0-9]{5,20}", named) else self._config.channel

    async def reply(self, note: Note) -> None:
        """Tell a note: beneath the message of its incident, else by itself. Raises Unavailable, Uncertain, Refused."""
        known = note.incident in self._room.desk.hooks.memory.incidents
        if not known or not (self.follows(note.incident) or not note.event):
            # what happens to an incident that nobody follows is not told
            if not (note.event and note.incident):
                await self.tell(note)
            return
        await self.sync(
            note.incident, now=note.severity == "page", told=None if note.event else note
        )
        thread = self._threads.get(note.incident)
        if thread is None or thread.ts in {"", _UNWANTED}:
            return  # a shared message says it, or nobody wants to hear
        if thread.posted == "page" and _begins(note, time.monotonic() - thread.born):
            return  # the message itself has just said it
        async with thread.turn:
            await self._beneath(thread, note)

    async def _beneath(self, thread: _Thread, note: Note) -> None:
        """Post a reply, once a key; what may have been posted is looked for before the next try."""
        if not thread.heard:
            thread.said |= await self._replies(thread)
            thread.heard = True
        if note.key in thread.said or self._told_by_itself(thread, note):
            return
        thread.heard = False
        try:
            await self._door.ask(
                "chat_postMessage", channel=thread.channel, thread_ts=thread.ts, metadata=blocks.metadata(note.key),
                reply_broadcast=note.severity == "page" and not note.event, **self._told(note),
            )  # fmt: skip
        except Gone:
            thread.heard = True
            await self._gone(note.incident, thread)
            return
        except (Refused, Unavailable):
            thread.heard = True
            raise
        thread.heard = True
        thread.said.add(note.key)
        if len(thread.said) <= _MOST_SAID:
            self._remember(note.incident, thread)

    def _told_by_itself(self, thread: _Thread, note: Note) -> bool:
        """Tell whether a note only says how a run ended, and a step of that run has said so here in its own words."""
        run = note.facts.get("run", "")
        if note.event != "acted" or not run or not note.text:
            return False
        journal = self._room.desk.hooks.journal
        ours = (key for key in thread.said if key.startswith((f"{run}/", f"{run}:")))
        return any(
            note.text in str(entry.body.get("text", ""))
            for key in ours
            for entry in journal.read(("note",), key)
        )

    async def tell(self, note: Note) -> None:
        """Tell a note of no incident, once a key as far as the channel's history reaches."""
        channel = self._channel(note.channel)
        about = f"note:{note.key}"
        thread = self._threads.get(about) or self._put(about, _Thread(channel))
        async with thread.turn:
            if thread.ts:
                return
            if not thread.sure:
                thread.ts = await self._find(thread, note.key, note.ts)
            if not thread.ts:
                await self._post(thread, note.key, self._told(note, alone=True))
            thread.done = True

    # ---- one message

    async def _bring(
        self, id_: str, thread: _Thread, detail: IncidentDetail, *, now: bool
    ) -> float | None:
        if not thread.ts:
            if not thread.sure:
                thread.ts = await self._find(thread, id_, detail["opened"])
                thread.sure = True
            if not thread.ts:
                thread.sure, thread.posted = False, detail["severity"]
                self._remember(id_, thread)  # what a crash from here on must look for
                await self._post(thread, id_, self._message(thread, detail))
                thread.phase = blocks.phase(detail)
                self._remember(id_, thread)
                return FIRST_EDIT_S
            self._remember(id_, thread)
        message = self._message(thread, detail)
        wants = self._wants_picture(thread, detail)
        if _digest(message) == thread.digest and not wants:
            self._settle(id_, thread, detail)
            return None
        phase = blocks.phase(detail)
        urgent = now or (
            phase != thread.phase and phase.startswith(("needs you", "resolved", "part of"))
        )
        gap = POST_EVERY_S if urgent else NEXT_EDIT_S if thread.edits else FIRST_EDIT_S
        left = thread.last + gap - time.monotonic()
        if left > 0:
            return left
        if wants:
            await self._draw(id_, thread, detail)
        again = await self._edit(thread, detail)
        thread.phase = phase
        if again is None:
            self._settle(id_, thread, detail)
        return again

    async def _post(self, thread: _Thread, key: str, message: Mapping[str, Any]) -> None:
        """Post a message of its own; what may have been posted is looked for before the next try."""
        thread.sure = False
        try:
            said = await self._door.ask(
                "chat_postMessage", channel=thread.channel, metadata=blocks.metadata(key), unfurl_links=False,
                unfurl_media=False, **message,
            )  # fmt: skip
        except Uncertain:
            raise
        except AgentError:
            thread.sure = True
            raise
        thread.ts, thread.sure, thread.last = str(said["ts"]), True, time.monotonic()
        thread.born = thread.last
        thread.channel = str(said.get("channel") or thread.channel)  # a name becomes an id
        thread.digest = _digest(message)

    async def _edit(self, thread: _Thread, detail: IncidentDetail) -> float | None:
        """Edit the message; a picture that Slack can not show yet is left out, and tried again."""
        message = self._message(thread, detail)
        again = None
        try:
            await self._update(thread, message)
        except Unfit as no:
            if not (no.picture and thread.picture):
                raise
            thread.tries += 1
            kept, thread.picture = thread.picture, ""
            message = self._message(thread, detail)
            await self._update(thread, message)
            if thread.tries < _PICTURES:
                thread.picture, again = kept, FIRST_EDIT_S
                message = {}  # so that the next look edits
        thread.digest, thread.last = _digest(message), time.monotonic()
        thread.edits += 1
        return again

    async def _update(self, thread: _Thread, message: Mapping[str, Any]) -> None:
        await self._door.ask("chat_update", channel=thread.channel, ts=thread.ts, **message)

    def _settle(self, id_: str, thread: _Thread, detail: IncidentDetail) -> None:
        """Note that an incident is over and shown so."""
        over = detail["state"] == "resolved"
        if over != thread.done:
            thread.done = over
            self._remember(id_, thread)

    async def _gone(self, id_: str, thread: _Thread) -> float | None:
        """Post anew what somebody deleted, once."""
        thread.ts, thread.digest, thread.picture, thread.drawn = "", "", "", ""
        thread.said.clear()
        if thread.anew:
            thread.done, thread.ts = True, _UNWANTED
            log.info("slack_message_not_wanted", incident=id_)
            self._remember(id_, thread)
            return None
        thread.anew += 1
        return 0.0

    def _told(self, note: Note, *, alone: bool = False) -> dict[str, Any]:
        c, about = self._config, note.facts.get("entity", "")
        whom = ""
        if note.facts.get("run") and about:
            with contextlib.suppress(ValueError):
                whom = self._room.desk.name(entity(about))
        return blocks.note(note, alone=alone, command=c.command if c.acts else "", whom=whom)

    def _message(self, thread: _Thread, detail: IncidentDetail) -> dict[str, Any]:
        link = f"{self._link}/incidents/{detail['id']}" if self._link else ""
        made = blocks.incident(detail, link=link, picture=thread.picture, buttons=self._config.acts)
        return {"text": blocks.headline(detail), "blocks": made}

    # ---- pictures

    def _wants_picture(self, thread: _Thread, detail: IncidentDetail) -> bool:
        """Tell whether to draw: once there is a diagnosis, and once more when a run has changed what is seen."""
        if self._config.charts == "none" or thread.tries >= _PICTURES or not detail["causes"]:
            return False
        return thread.drawn != _stage(detail) and (not thread.drawn or _stage(detail) == "healed")

    async def _draw(self, id_: str, thread: _Thread, detail: IncidentDetail) -> None:
        """Draw the evidence and put it into the thread, where all may see it; failing costs no message."""
        try:
            charts = self._room.desk.evidence(id_)
            png = await self._room.picture(charts, dark=self._config.charts == "dark")
            said = await self._door.ask(
                "files_upload_v2", channel=thread.channel, thread_ts=thread.ts, content=png,
                filename=f"{id_}.png", title=blocks.cut(f"What is abnormal: {detail['title']}", 200),
                alt_txt=blocks.headline(detail),
            )  # fmt: skip
            thread.picture = str(said["files"][0]["id"])
            thread.drawn = _stage(detail)
            self._remember(id_, thread)  # killed from here on, it is not drawn again
        except (Refused, Unavailable, Uncertain, KeyError, IndexError) as no:
            thread.tries += 1
            log.info("slack_picture_left_out", incident=id_, error=str(no))

    # ---- what is there already

    async def _find(self, thread: _Thread, key: str, since: float) -> str:
        """Return the message that carries a key, "" = there is none; raises Unavailable."""
        if thread.channel.startswith("#"):
            return ""  # only a channel's id can be asked
        try:
            oldest = f"{since - _MINUTE_S:.6f}"
            read = self._read("conversations_history", thread, oldest=oldest)
            async with contextlib.aclosing(read):
                async for m in read:
                    if _key(m) == key:
                        return str(m["ts"])
        except Lacking:
            log.warning(
                "slack_history_not_read", remedy="give the app channels:history and groups:history"
            )
        return ""

    async def _replies(self, thread: _Thread) -> set[str]:
        try:
            read = self._read("conversations_replies", thread, ts=thread.ts)
            return {key async for m in read if (key := _key(m))}
        except (Lacking, Unfit):
            return set()

    async def _read(
        self, method: str, thread: _Thread, **given: str
    ) -> AsyncGenerator[Mapping[str, Any]]:
        """Yield the messages that a method lists, page by page, up to a bound."""
        cursor: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            said = await self._door.ask(
                method, channel=thread.channel, include_all_metadata=True, limit=200, **given, **cursor
            )  # fmt: skip
            for message in _messages(said):
                yield message
            further = said.get("response_metadata")
            following = str(further.get("next_cursor") or "") if isinstance(further, dict) else ""
            if not following:
                return
            cursor = {"cursor": following}
        log.warning("slack_history_cut", channel=thread.channel, messages=200 * _MOST_PAGES)

    # ---- too many

    def _births(self, channel: str) -> deque[float]:
        """Return when messages of incidents were posted to a channel, by the monotonic clock."""
        return self._born.setdefault(channel, deque(maxlen=_MOST_THREADS))

    def _full(self, channel: str) -> bool:
        now = time.monotonic()
        return (
            sum(now - at < _HOUR_S for at in self._births(channel)) >= self._config.threads_per_hour
        )

    async def _share(self, channel: str, detail: IncidentDetail) -> float | None:
        """Put an incident into the one message that those beyond the budget share; returns as `sync`."""
        shared = self._shared.get(channel)
        if shared is None or time.time() - shared.began > _HOUR_S:
            # one that a process before us has posted within the hour goes on
            shared = self._shared[channel] = _Shared(
                _Thread(channel, sure=shared is not None), time.time()
            )
        shared.names[detail["id"]] = detail["title"]
        thread = shared.thread
        async with thread.turn:
            if thread.ts == _UNWANTED:
                return None
            key = f"shared:{channel}"
            if not thread.ts and not thread.sure:
                thread.ts = await self._find(thread, key, time.time() - _HOUR_S)
                thread.sure = True
                shared.began = float(thread.ts or time.time())
            message = self._beyond(shared)
            if thread.ts and _digest(message) == thread.digest:
                return None
            if not thread.ts:
                await self._post(thread, key, message)
                return None
            left = thread.last + NEXT_EDIT_S - time.monotonic()
            if left > 0:
                return left
            try:
                await self._update(thread, message)
            except Gone:
                again = thread.anew == 0
                thread.ts, thread.digest, thread.anew = "" if again else _UNWANTED, "", 1
                return 0.0 if again else None
            thread.digest, thread.last = _digest(message), time.monotonic()
            return None

    def _beyond(self, shared: _Shared) -> dict[str, Any]:
        """Return the message that incidents beyond the budget share: how many, and the newest of them by name."""
        names, most = shared.names, self._config.threads_per_hour
        newest = list(names.items())[-_MOST_SHARED:]
        some = [f"• {blocks.escaped(blocks.cut(title, 150))} ({id_})" for id_, title in newest]
        if len(names) > len(some):
            some.append(f"and {len(names) - len(some)} before them")
        count = many(len(names), "more incident")
        said = f"{count} than the {most} an hour that this channel takes"
        where = f"; see <{self._link}|the console>" if self._link else "; see the console"
        return {"text": said, "blocks": blocks.text([f"*{said}*{where}", *some])}

    # ---- memory

    def _put(self, id_: str, thread: _Thread) -> _Thread:
        self._threads[id_] = thread
        if len(self._threads) > _MOST_THREADS:
            gone = next((i for i, t in self._threads.items() if t.done), next(iter(self._threads)))
            del self._threads[gone]
        return thread

    def _remember(self, id_: str, thread: _Thread) -> None:
        self._room.remember(id_, {
            "channel": thread.channel, "ts": thread.ts, "anew": thread.anew, "done": thread.done,
            "picture": thread.picture, "drawn": thread.drawn, "posted": thread.posted, "said": sorted(thread.said),
        })  # fmt: skip


def _remembered(where: Mapping[str, Any]) -> _Thread:
    """Return a thread as a process before us left it: what it may have posted last is looked for first."""
    ts = str(where.get("ts", ""))
    return _Thread(
        str(where.get("channel", "")), ts, sure=bool(ts), heard=False, anew=int(where.get("anew", 0)),
        done=bool(where.get("done")), picture=str(where.get("picture", "")), drawn=str(where.get("drawn", "")),
        posted=str(where.get("posted", "")), edits=1, said=set(map(str, where.get("said", ()))),
    )  # fmt: skip


def _begins(note: Note, age_s: float) -> bool:
    """Tell whether a note says only that an incident pages: for the first time, or by a step of the ladder at once."""
    first = note.key == f"page:{note.incident}:0"
    return first or (note.key.startswith(f"ladder:{note.incident}:0:") and age_s < _MINUTE_S)


def _stage(detail: IncidentDetail) -> str:
    acted = any(r["outcome"] is not None for r in detail["run_views"])
    return "healed" if acted and detail["state"] in {"mitigated", "resolved"} else "seen"


def _age(ts: str) -> float:
    """Return how many seconds ago a message was posted, by its id; inf = that is not known."""
    try:
        return max(time.time() - float(ts), 0.0) if ts != _UNWANTED else math.inf
    except ValueError:
        return math.inf


def _messages(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = said.get("messages")
    return [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []


def _key(message: Mapping[str, Any]) -> str:
    metadata = message.get("metadata") or {}
    if metadata.get("event_type") != blocks.EVENT:
        return ""
    return str((metadata.get("event_payload") or {}).get("key", ""))


def _digest(message: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(message, sort_keys=True).encode()).hexdigest()
