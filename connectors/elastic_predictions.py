"""Prediction logs in an Elasticsearch index: read on by a point in time, page by page, from where we were.

now - lag --open a point in time--> pages by (time, _shard_doc) --> rows of documents --> batches
                ^ until a page is short; then a new one sees what was indexed since
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, cast

import structlog
from pydantic import Field

from agent import roles
from agent.errors import Unavailable
from agent.ports import Arrival
from agent.registry import connector
from agent.roles import Guess, Role
from agent.units import Duration
from connectors._aside import Aside
from connectors._elastic import Access, Elastic, fields
from connectors._kept import Kept
from connectors._personal import Personal, Settings
from connectors._rows import Form, Rows, Task
from connectors._tables import columns_of, flat
from connectors.http import redacted

log = structlog.get_logger()

_PATIENCE_S: Final = 9.0
_KEEP_ALIVE: Final = "2m"
_FORMAT: Final = "strict_date_optional_time_nanos"
_MOST_IDS: Final = 10_000
"""Documents of one instant that are known again after a stop."""
_ENOUGH: Final = 100
"""Documents that a guess of roles is kept of."""
_AGAIN_S: Final = 330.0
"""How far to go back after a kill: a little more than the time between checkpoints of what takes the rows."""


@connector("elastic_predictions")
class ElasticPredictions:
    """Predictions and labels in an Elasticsearch index.

    Good for services whose logs go there already. Documents of our own record form (`features` an object) need no
    setting; of others the roles of fields are guessed from the first page (`homeostat try`) and kept; `columns:` wins.
    What is indexed later than `lag` after its own time is not seen: then name the time of indexing as `time_field`.
    Reading goes on where it was after a stop; after a kill it goes back 330 s. Documents without an id field are known
    by their `_id`. Cost: about 30 us a document of ten fields, in a thread. Tested against a stand-in that speaks the
    protocol, not yet against a real cluster.
    """

    tested = "stand-in, through the official client"

    class Config(Access, Settings):
        """Which index, and who we are there."""

        index: Annotated[str, Field(min_length=1)]
        """Index, alias, data stream or pattern."""
        model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
        """Model of documents that do not name one."""
        version: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""
        task: Task = "auto"
        """What predictions and labels are; auto: fractions are numbers, all else are classes."""
        columns: dict[str, str] = {}
        """Field (`features.age` for one inside an object) -> role, where the guess is wrong."""
        time_field: str = "@timestamp"
        """What documents are read in the order of."""
        query: dict[str, Any] = {}
        """Only these documents: a query of Elasticsearch."""
        lag: Duration = 10.0
        """How long after its time a document may become visible."""
        backlog: Duration = 3600.0
        """How far back reading begins at first sight."""
        page_rows: Annotated[int, Field(ge=1, le=10_000)] = 1000
        max_rows_per_read: Annotated[int, Field(ge=1, le=200_000)] = 10_000

    interval_s = 5.0
    stand_in = True

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._personal = Personal.of(config, name, state)
        self._aside = Aside(limit_s=_PATIENCE_S)
        self._kept = Kept(state / "feeds" / f"{name}.json" if state is not None else None)
        # our own patience and back-off stand around it
        self._elastic = Elastic(config, _PATIENCE_S / 2)
        self._pit = ""
        self._until = ""
        self._sort: list[Any] | None = None
        self._after, self._ids = _iso(time.time() - config.backlog), frozenset[str]()
        self._form: Form | None = None
        self._guesses: tuple[Guess, ...] = ()
        self._restore()
        self._page: list[dict[str, Any]] | None = None
        self._arrivals: list[Arrival] = []

    def _restore(self) -> None:
        found = self._kept.found
        if not found:
            return
        try:
            after, ids = str(found["after"]), frozenset(map(str, found["ids"]))
            if found["form"]:
                self._form = Form(**found["form"])
        except (KeyError, TypeError):
            log.warning("positions_not_read", file=self.name, remedy="begins as at first sight")
            return
        if not self._kept.clean:  # what took the rows has forgotten the last ones, too
            after, ids = min(after, _iso(float(found["ts"]) - _AGAIN_S)), frozenset()
        self._after, self._ids = after, ids

    def _state(self) -> dict[str, Any]:
        return {
            "after": self._after, "ids": sorted(self._ids), "ts": time.time(),
            "form": None if self._form is None else asdict(self._form),
        }  # fmt: skip

    # ---- feed

    async def read(self) -> Sequence[Arrival]:
        """Return the next documents; raises Unavailable, or Refused (no library, no right, no such index)."""
        start = time.monotonic()
        self._aside.ask("read", self._read)
        await self._aside.settle(_PATIENCE_S)
        answer = self._aside.answer("read", time.monotonic() - start)
        if answer is None:
            raise Unavailable(f"{redacted(self.config.url)} does not answer")
        if answer.error is not None:
            raise answer.error
        hits, self._page = self._page or [], None
        self._moved(hits)
        return self._arrivals if hits else ()

    def _moved(self, hits: Sequence[dict[str, Any]]) -> None:
        """Note what was delivered: only now are the rows sure to be taken."""
        if hits:
            last = str(hits[-1]["sort"][0])
            same = {h["_id"] for h in hits if h["sort"][0] == last}
            before = self._ids if last == self._after else frozenset()
            self._after, self._ids = last, frozenset(sorted(before | same)[:_MOST_IDS])

    def _read(self) -> None:
        """Have some pages ready, beside the event loop; those that nobody took stay."""
        self._kept.write(self._state())
        if self._page is not None:
            return
        hits: list[dict[str, Any]] = []
        try:
            while len(hits) < self.config.max_rows_per_read:
                page = self._next_page(
                    min(self.config.page_rows, self.config.max_rows_per_read - len(hits))
                )
                hits += [
                    h for h in page if h["_id"] not in self._ids or h["sort"][0] != self._after
                ]
                if not self._pit:
                    break
        except Exception as problem:  # noqa: BLE001  # sorted by what it means to us, and raised
            self._pit = ""  # the next reading goes on from what was delivered
            raise self._elastic.means(problem, f"index {self.config.index}") from None
        self._arrivals = self._arrivals_of(hits) if hits else []
        self._page = hits

    def _next_page(self, rows: int) -> list[dict[str, Any]]:
        """Return the next page; the point in time is closed behind the last one."""
        client = self._elastic.client()
        if not self._pit:
            opened = client.open_point_in_time(index=self.config.index, keep_alive=_KEEP_ALIVE)
            (self._pit,), self._sort = fields(opened, "id"), None
            now = time.time()
            self._until = _iso(now - self.config.lag)
            if self._after > _iso(now):  # a clock that was set back
                self._after, self._ids = _iso(now - self.config.backlog), frozenset()
        field = self.config.time_field
        limits = {"gte": self._after, "lt": self._until, "format": _FORMAT}
        asked: list[dict[str, Any]] = [{"range": {field: limits}}]
        if self.config.query:
            asked.append(self.config.query)
        more: dict[str, Any] = {} if self._sort is None else {"search_after": self._sort}
        said = client.search(
            pit={"id": self._pit, "keep_alive": _KEEP_ALIVE}, size=rows, track_total_hits=False,
            allow_partial_search_results=False,
            query={"bool": {"filter": asked}},
            sort=[{field: {"order": "asc", "format": _FORMAT, "numeric_type": "date_nanos"}}, {"_shard_doc": "asc"}],
            **more,
        )  # fmt: skip
        hits = list(fields(*fields(said, "hits"), "hits")[0])
        self._pit = said.get("pit_id", self._pit)
        if hits:
            self._sort = list(hits[-1]["sort"])
        if len(hits) < rows:
            pit, self._pit = self._pit, ""
            client.close_point_in_time(id=pit)
        return hits

    # ---- from documents to rows

    def _arrivals_of(self, hits: Sequence[dict[str, Any]]) -> list[Arrival]:
        records = [
            {**flat(h.get("_source") or {}), "_id": h["_id"], self.config.time_field: h["sort"][0]}
            for h in hits
        ]
        columns = columns_of(records)
        form = self._form
        if form is None:
            given = {self.config.time_field: "ts", **self.config.columns}
            self._guesses = roles.guess(columns, given)
            form = Form.find(self._guesses, columns, self.config.task)
            if len(records) >= _ENOUGH:
                self._form = form
        for name in form.roles:
            if name not in columns:
                columns[name] = columns_of([{name: None}] * len(records))[name]
        rows = Rows(form, self.config.model, self.config.version, self._personal)
        now = time.time()
        out: list[Arrival] = [*rows.batches(columns, now), *rows.labels(columns, now)]
        if rows.bad:
            log.warning("bad_records", source=self.name, new=rows.bad)
        return out

    # ---- for people

    def roles(self) -> tuple[Guess, ...]:
        """Return the roles of the fields, as soon as a page was read."""
        if self._form is not None and not self._guesses:
            return tuple(
                Guess(n, cast("Role", r), "kept from the first page", 1.0)
                for n, r in self._form.roles.items()
            )
        return self._guesses

    async def describe(self) -> Sequence[str]:
        """Say from where reading goes on."""
        return [f"{self.config.url}, index {self.config.index}: goes on from {self._after}"]

    def close(self) -> None:
        """Keep where we are: the next start goes on exactly here."""
        self._kept.write(self._state(), clean=True)
        self._aside.close()
        self._elastic.close()


def _iso(ts: float) -> str:
    """Return a time as Elasticsearch writes it, so that texts of it sort as times do."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
