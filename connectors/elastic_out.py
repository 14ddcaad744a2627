"""The record in Elasticsearch: incidents, runs, verdicts and counts of inference as ECS documents.

    elastic_out:
      url: https://elastic.example.org:9200
      api_key: env:ELASTIC_KEY
      rows: [fraud]                        # each prediction of these models, too; default: summaries alone

    journal, from where it stands --> documents ------------.
    rows that pass --> a summary a minute --> spool on disk --> _bulk --> taken: forgotten | no, ever: dead letters

The journal itself is what waits while the server is away, so of incidents, runs and verdicts nothing is ever dropped.
The spool is bounded: rows in one half, summaries in the other, each drops its oldest first. Every document has an id
that is always the same and an index named by its own time, so what is sent again is known there: nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
from pydantic import Field

from agent.errors import AgentError, Refused, Unavailable
from agent.ports import Logged, PredictionBatch
from agent.registry import connector
from agent.units import Bytes, Duration, say_duration
from connectors._elastic import Access, Elastic, Misread, fields, library, reason
from connectors._elastic_documents import Document, Writer, iso
from connectors._elastic_setup import KINDS, ours_to_change, policies, templates
from connectors._inference import MINUTE, Windows, rows_of
from connectors._kept import Kept
from connectors._notes import MEND_S
from connectors._spool import Dead, Spool
from connectors.http import redacted

if TYPE_CHECKING:
    from agent.journal import Entry

log = structlog.get_logger()

_Mark = tuple[str, int | None]
"""Id and version of a document."""
_MOST_DOCUMENTS: Final = 500
"""In one request, when all is well; it is halved when the server has too much, and grows again."""
_MOST_BYTES: Final = 5 << 20
_TURN_S: Final = 20.0
"""After so long a call comes back, though the spool holds more."""
_WAITING: Final = 100_000
"""Rows and summaries that wait in memory for a disk that does not take them."""
_NOT_NOW: Final = frozenset({408, 429, 502, 503, 504})
_NOT_ITS_FAULT: Final = frozenset({401, 403, 404, 405, 500})
"""Statuses of one document that blame rights, indices or the server, not the document."""
_MOST_BROKEN: Final = 10
"""A document at which the server itself breaks so often is not tried again."""
_MOST_TAKEN: Final = 5000
"""Events that are known to be there: an incident tells its whole life each time."""
_WORTH_A_LINE: Final = 3


@connector("elastic_out")
class ElasticOut:
    """Incidents, runs, verdicts and counts of inference to Elasticsearch, as ECS documents.

    Sends what the journal holds from `backlog` before its first start on; puts index templates and ILM policies first.
    Counts predictions by model, version and minute; rows themselves only of the models under `rows`.
    Cost: one request a second at most while something happens, else none; 40 us a batch of rows and .2 us a row.
    Tested against a stand-in that speaks the protocol, not yet against a real cluster.
    """

    tested = "stand-in, through the official client"

    class Config(Access):
        """Where to, and how long it is kept there."""

        prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")] = "homeostat"
        """Of indices, templates and policies: `homeostat-incidents-2026.11`."""
        install: bool = True
        """Put templates and policies at the start, where they are missing or older ones of ours. false: somebody else
        does; `homeostat try` then prints them."""
        keep: Annotated[Duration, Field(ge=86_400)] = 400 * 86_400.0
        """How long incidents, runs and events are kept."""
        keep_inference: Annotated[Duration, Field(ge=86_400)] = 30 * 86_400.0
        keep_rows: Annotated[Duration, Field(ge=86_400)] = 7 * 86_400.0
        inference: bool = True
        """A summary for each model, version and minute."""
        rows: list[Annotated[str, Field(min_length=1)]] = []
        """Models of which every prediction is sent, with its features; `*`: all."""
        spool: Annotated[Bytes, Field(ge=2 << 20)] = 256e6
        """Rows and summaries on disk while the server is away: rows in one half, summaries in the other."""
        backlog: Annotated[Duration, Field(ge=0)] = 30 * 86_400.0
        """How much of the past is sent at the first start."""
        timeout: Annotated[Duration, Field(gt=0, le=300)] = 30.0

    stand_in = True

    def __init__(
        self,
        name: str,
        config: Config,
        *,
        state: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        folder = state / "archives" / name
        self._kept = Kept(folder / "position.json")
        found = {k: v for k, v in self._kept.found.items() if isinstance(v, int | float)}
        now = clock()
        self.position = int(found.get("position", 0))
        self._since = found.get("since", now - config.backlog)
        self._elastic = Elastic(config, config.timeout)
        self._writer = Writer(config.prefix, socket.gethostname())
        self._summaries = Spool(folder / "summaries", config.spool / 2)
        killed = not found.get("closed", True)
        self._windows = Windows(self._told(found) if killed else -math.inf, now)
        self._rows = Spool(folder / "rows", config.spool / 2)
        self._dead = Dead(folder)
        self._rows_in: deque[PredictionBatch] = deque()
        self._rows_waiting = 0
        self._unspooled: dict[int, list[bytes]] = {0: [], 1: []}
        self._lost = 0
        self._installed = False
        self._settled: set[_Mark] = set()
        self._settled_spooled: set[_Mark] = set()
        self._taken: dict[str, None] = {}
        self._failed_there: Counter[str] = Counter()
        self._at_once = _MOST_DOCUMENTS
        self._away = False
        self._turn = asyncio.Lock()
        self._closed = False
        """A turn that hangs then leaves the disk alone, another one may have it; what it sent is known by its ids."""
        self._written: dict[str, Any] = {}

    def _told(self, found: Mapping[str, float]) -> float:
        """Return the newest minute that was told: of a kill between spool and position only the spool knows."""
        starts = [d.source["event"]["start"] for d in _read(self._summaries.newest())]
        spooled = [datetime.fromisoformat(start).timestamp() for start in starts]
        return max([found.get("told", -math.inf), *spooled])

    # ---- archive

    def count(self, rows: Logged) -> None:
        """Count rows that were scored, in memory."""
        if self.config.inference:
            self._windows.take(rows, self._clock())
        if isinstance(rows, PredictionBatch) and {"*", rows.model} & set(self.config.rows):
            self._rows_in.append(rows)
            self._rows_waiting += len(rows.ts)
            while self._rows_waiting > _WAITING and len(self._rows_in) > 1:
                gone = len(self._rows_in.popleft().ts)
                self._rows_waiting -= gone
                self._lost += gone

    async def keep(self, entries: Sequence[Entry]) -> bool:
        """Send entries of the journal, and what is spooled; True = more of it waits.

        When it returns, the entries are there, or are no documents, or lie among the dead letters. Raises Unavailable.
        """
        async with self._turn:
            lines, batches = self._over(), self._given()
            more: bool = await _beside(lambda: self._keep(list(entries), lines, batches))
            return more

    async def store(self) -> None:
        """Put into the spool what was counted and is over."""
        async with self._turn:
            lines, batches = self._over(), self._given()
            await _beside(lambda: self._spool(lines, batches))

    def troubles(self) -> Sequence[str]:
        """Say what a person should know, beside why it does not answer."""
        out = []
        waiting = self._summaries.lines + self._rows.lines
        if waiting and self._away:
            out.append(f"{waiting} documents wait in its spool")
        if dead := self._dead.count:
            out.append(
                f"{dead} documents were refused for good; they lie in {self._dead.path} with the reason: take it away "
                "when you have looked"
            )
        if lost := self._lost + self._summaries.dropped + self._rows.dropped:
            out.append(f"{lost} rows or summaries were dropped since the start: `spool` was full")
        return out

    async def describe(self) -> Sequence[str]:
        """Say what it would send, and what it would put first; sends nothing."""
        config = self.config
        where = ", ".join(f"{config.prefix}-{kind}-*" for kind in KINDS)
        long = [say_duration(x) for x in (config.keep, config.keep_inference, config.keep_rows)]
        kept = f"kept {long[0]}, inference {long[1]}, rows {long[2]}"
        lines = [f"would write {redacted(config.url)}: {where}; {kept}"]
        try:
            lines += await asyncio.to_thread(self._apart, lambda: list(self._missing()))
        except AgentError as problem:
            lines.append(str(problem))
        return lines

    def close(self) -> None:
        """Put what was counted into the spool: the next start sends it."""
        self._spool(self._over(every=True), self._given())
        self._write(closed=True)
        self._closed = True
        self._elastic.close()

    # ---- a turn, in a thread

    def _given(self) -> list[PredictionBatch]:
        batches = list(self._rows_in)
        self._rows_in.clear()
        self._rows_waiting = 0
        return batches

    def _over(self, *, every: bool = False) -> list[bytes]:
        lines = []
        for key, ts, figures in self._windows.closed(self._clock(), every=every):
            event = {
                "kind": "metric",
                "type": ["info"],
                "action": "inference",
                "start": iso(ts),
                "end": iso(ts + MINUTE),
            }
            source = self._writer.base(ts, "inference", event) | {
                "homeostat": {"inference": figures}
            }
            index = self._writer.index("inference", ts, daily=True)
            lines.append(Document(index, self._writer.id(key), source).line())
        return lines

    def _keep(
        self, entries: list[Entry], lines: list[bytes], batches: list[PredictionBatch]
    ) -> bool:
        self._spool(lines, batches)
        self._away = True
        self._apart(self._install)
        if entries:
            documents = self._documents(entries)
            self._send(documents, self._settled)
            self.position = entries[-1].seq
            self._settled.clear()
            self._taken.update({d.id: None for d in documents if d.version is None})
            for old in list(self._taken)[: max(0, len(self._taken) - _MOST_TAKEN)]:
                del self._taken[old]
            self._write(closed=False)
        more = self._drain()
        self._away = False
        return more

    def _apart(self, work: Callable[[], Any]) -> Any:
        """Do what asks the server; whatever goes wrong can be mended, so it is tried again."""
        try:
            return work()
        except Exception as problem:  # noqa: BLE001  # sorted by what it means to us, and raised
            means = self._elastic.means(problem)
        self._installed = False  # who comes back may be another one
        if isinstance(means, Refused):
            raise Unavailable(str(means), wait_s=MEND_S) from None
        raise means from None

    def _spool(self, lines: list[bytes], batches: list[PredictionBatch]) -> None:
        """Put lines on disk; what it does not take waits in memory."""
        waiting = self._unspooled
        waiting[0] += lines
        for batch in batches:
            for key, ts, row in rows_of(batch):
                event = {"kind": "event", "type": ["info"], "action": "prediction"}
                source = self._writer.base(ts, "row", event) | {"homeostat": {"row": row}}
                index = self._writer.index("rows", ts, daily=True)
                waiting[1].append(Document(index, self._writer.id(key), source).line())
        for spool, kind in ((self._summaries, 0), (self._rows, 1)):
            try:
                spool.append(waiting[kind])
                waiting[kind] = []
            except Unavailable as full:
                if (gone := len(waiting[kind]) - _WAITING) > 0:
                    self._lost += gone
                    del waiting[kind][:gone]
                log.warning("spool_not_written", archive=self.name, error=str(full))
        self._write(closed=False)

    def _write(self, *, closed: bool) -> None:
        if self._closed:
            return
        told = self._windows.told
        state: dict[str, Any] = {"position": self.position, "since": self._since, "closed": closed}
        state |= {"told": told} if math.isfinite(told) else {}
        if state != self._written:
            self._kept.write(state, clean=True)
            self._written = state

    def _documents(self, entries: Sequence[Entry]) -> list[Document]:
        """Return the documents of a page; of a state only the newest, of an event only one."""
        newest: dict[tuple[str, str], Document] = {}
        for entry in entries:
            if entry.ts >= self._since:
                newest.update({(d.index, d.id): d for d in self._writer.of(entry)})
        return [d for d in newest.values() if d.id not in self._taken]

    def _drain(self) -> bool:
        end = time.monotonic() + _TURN_S
        for spool in (self._summaries, self._rows):
            while (found := spool.oldest()) is not None:
                path, lines = found
                self._send(list(_read(lines)), self._settled_spooled)
                if self._closed:
                    return False
                self._settled_spooled.clear()
                spool.done(path)
                if time.monotonic() > end:
                    return True
        return False

    def _send(self, documents: Sequence[Document], settled: set[_Mark]) -> None:
        """Send documents until each is there, or dead; raises Unavailable, and goes on from there the next time."""
        left = [d for d in documents if (d.id, d.version) not in settled]
        while left:
            some = list(_fitting(left, self._at_once))
            again, wait = self._apart(partial(self._bulk, some))
            settled.update({(d.id, d.version) for d in some} - {(d.id, d.version) for d in again})
            left = [*again, *left[len(some) :]]
            if wait is not None:
                raise Unavailable(
                    f"{redacted(self.config.url)}: {wait[0]}, for {len(again)} of {len(some)} documents",
                    wait_s=wait[1],
                )

    def _bulk(
        self, some: Sequence[Document]
    ) -> tuple[list[Document], tuple[str, float | None] | None]:
        """Send one request; return what was not taken yet, and why when it must wait."""
        asked = [part for d in some for part in (d.action(), d.source)]
        try:
            said = self._elastic.client().bulk(operations=asked)
        except Exception as problem:
            status = getattr(getattr(problem, "meta", None), "status", 0)
            if status == 413:
                return self._halved(some), None
            if status in _NOT_NOW or isinstance(problem, library().ConnectionTimeout):
                self._fewer()
            raise
        again, why = [], None
        for document, (status, error) in zip(some, self._items(said, len(some)), strict=True):
            if status == 500:
                self._failed_there[document.id] += 1
            broken = self._failed_there[document.id] >= _MOST_BROKEN
            if status in _NOT_NOW or (status in _NOT_ITS_FAULT and not broken):
                again.append(document)
                mend = None if status in _NOT_NOW else MEND_S
                why = why or (f"{status} {_type(error)}", mend)
                continue
            del self._failed_there[document.id]
            if status >= 300 and status != 409:  # 409: it is there already, or a newer one is
                self._bury(document, status, error)
        if why is None:
            self._at_once = min(_MOST_DOCUMENTS, self._at_once + 1 + self._at_once // 4)
        else:
            self._fewer()
        return again, why

    def _items(self, said: Any, n: int) -> list[tuple[int, Any]]:
        """Return status and error of each document; raises Unavailable."""
        try:
            ones = [one for item in said["items"] for one in item.values()]
            out = [(int(one["status"]), one.get("error")) for one in ones]
        except (KeyError, TypeError, ValueError, AttributeError):
            out = []
        if len(out) != n:
            raise Misread("its answer to a bulk request is not written as that of Elasticsearch")
        return out

    def _fewer(self) -> None:
        self._at_once = max(1, self._at_once // 2)

    def _halved(self, some: Sequence[Document]) -> list[Document]:
        """Take less the next time; one that is too large by itself is never taken."""
        self._at_once = max(1, len(some) // 2)
        if len(some) > 1:
            return list(some)
        self._bury(some[0], 413, {"type": "too large", "reason": ""})
        return []

    def _bury(self, document: Document, status: int, error: Any) -> None:
        first = not self._dead.count
        self._dead.put({
            "index": document.index, "id": document.id, "status": status, "error": reason({"error": error}),
            "document": document.source,
        }, self._clock())  # fmt: skip
        if first:  # once, not for each
            log.error(
                "document_refused", archive=self.name, index=document.index, status=status, error=_type(error),
                file=str(self._dead.path),
            )  # fmt: skip

    # ---- templates and policies

    def _wanted(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        config = self.config
        keep = {"record": config.keep, "inference": config.keep_inference, "rows": config.keep_rows}
        for name, body in policies(config.prefix, keep).items():
            yield "policy", name, body
        for name, body in templates(config.prefix).items():
            yield "template", name, body

    def _there(self, what: str, name: str) -> Mapping[str, Any] | None:
        """Return the policy or template that is there; None = there is none."""
        client = self._elastic.client()
        found: Mapping[str, Any]
        try:
            if what == "policy":
                (said,) = fields(client.ilm.get_lifecycle(name=name), name)
                (found,) = fields(said, "policy")
            else:
                (said,) = fields(client.indices.get_index_template(name=name), "index_templates")
                found = said[0]["index_template"]
        except library().NotFoundError:
            return None
        return found

    def _install(self) -> None:
        """Put what is missing, before the first document makes an index without it."""
        if self._installed:
            return
        if not self.config.install:
            self._look()
            self._installed = True
            return
        client = self._elastic.client()
        for what, name, body in self._wanted():
            theirs = self._there(what, name)
            if theirs is not None and not ours_to_change(theirs, body):
                continue
            if what == "policy":
                client.ilm.put_lifecycle(name=name, policy=body)
            else:
                more = {k: v for k, v in body.items() if k != "_meta"}
                client.indices.put_index_template(name=name, meta=body["_meta"], **more)
            log.info("elastic_installed", archive=self.name, what=what, name=name)
        self._installed = True

    def _look(self) -> None:
        """Look whether somebody else has put them; who may not look is believed."""
        try:
            gone = [name for what, name, _ in self._wanted() if self._there(what, name) is None]
        except library().AuthorizationException:
            return
        if gone:
            raise Unavailable(
                f"{redacted(self.config.url)}: {', '.join(gone[:_WORTH_A_LINE])} is not there and `install` is false; "
                f"put what `homeostat try {self.name}` prints",
                wait_s=MEND_S,
            )

    def _missing(self) -> Iterator[str]:
        for what, name, body in self._wanted():
            theirs = self._there(what, name)
            if theirs is not None and not ours_to_change(theirs, body):
                continue
            way = f"_ilm/policy/{name}" if what == "policy" else f"_index_template/{name}"
            if self.config.install:
                yield f"would put {what} {name}"
            else:
                yield f"PUT {way}"
                yield json.dumps({"policy": body} if what == "policy" else body)


async def _beside(work: Callable[[], Any]) -> Any:
    """Do what blocks in a thread that nobody waits for at the end of the program."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(set_: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            set_(value)

    def run() -> None:
        try:
            said = done.set_result, work()
        except Exception as error:  # noqa: BLE001  # handed to whoever waits
            said = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, *said)

    threading.Thread(target=run, name="archive", daemon=True).start()
    return await done


def _read(lines: Sequence[bytes]) -> Iterator[Document]:
    for line in lines:
        try:
            yield Document.of(line)
        except ValueError:
            log.warning("spool_line_not_read")


def _fitting(documents: Sequence[Document], most: int) -> Iterator[Document]:
    """Yield what goes into one request: at least one."""
    size = 0
    for i, document in enumerate(documents[:most]):
        size += len(document.line())
        if i and size > _MOST_BYTES:
            return
        yield document


def _type(error: Any) -> str:
    return str(error.get("type", ""))[:100] if isinstance(error, dict) else ""
