"""Log indices in Elasticsearch as series: records, errors and templates, by service and host.

    elastic_logs:
      url: https://elastic.example.org:9200
      api_key: env:ELASTIC_KEY              # may read the index, nothing else
      index: logs-*

    [edge of the last look, now - delay) --one search, aggregated by the server--> counts / seconds --> frame

Documents are counted by their own time, between edges that only move forward: none is counted twice. What comes later
than `delay` is not in the rates; how much of it there is becomes a series of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import Field, model_validator

from agent.calls import Names
from agent.errors import AgentError, Refused, Unavailable
from agent.model import Edge, Entity, Frame, Series, Sighting
from agent.registry import connector
from agent.units import Duration, many, say_duration
from connectors._elastic import Access, Elastic, Misread, fields
from connectors._kept import Kept
from connectors.http import redacted

_PATIENCE_S: Final = 10.0
_STRETCH_S: Final = 600.0
"""Late documents are looked for in the last one to two of these."""
_GAP: Final = 4
"""After so many windows without an answer, what was missed stays unknown instead of becoming a mean."""
_KEEP_S: Final = 3600.0
"""How long a service, host or template that logs nothing stays a series, with the value 0."""
_LEARN_S: Final = 3600.0
"""A service must be known for so long before a template of it is new."""
_TELL_S: Final = 1800.0
"""How long a host is said to run a service that logged there."""
_MOST_KNOWN: Final = 10_000
_ASKED: Final = 500
"""Templates of one service that are asked for; the most frequent come first."""
_MOST_BUCKETS: Final = 20_000
"""Of the past: servers refuse answers with more than 65,536."""
_HOSTS: Final = 50
_LABEL: Final = 120
_REST: Final = "(other)"
_LEVELS: Final = (
    "error", "err", "critical", "crit", "fatal", "alert", "emergency", "emerg", "severe", "panic",
)  # fmt: skip
_ERRORS: Final[dict[str, Any]] = {
    "terms": {"log.level": [form(w) for w in _LEVELS for form in (str, str.upper, str.capitalize)]}
}


@dataclass(slots=True)
class _Stretch:
    """Windows that follow each other, and how many documents are known of them."""

    start: float
    end: float
    count: int


@dataclass(slots=True)
class _Seen:
    """What one entity logged in a window."""

    records: int
    errors: int
    hosts: tuple[str, ...] = ()
    templates: Counter[str] = field(default_factory=Counter)

    def plus(self, other: _Seen) -> _Seen:
        """Return both together."""
        return _Seen(
            self.records + other.records, self.errors + other.errors,
            tuple(sorted({*self.hosts, *other.hosts})), self.templates + other.templates,
        )  # fmt: skip


@connector("elastic_logs")
class ElasticLogs:
    """Rates of records, errors and templates from log indices in Elasticsearch.

    Emits <service|host>.log_records_per_second, .log_errors_per_second, .log_error_ratio,
    service.log_template_per_second and .log_new_templates_count. A host stands for records that name no service.

    Good for logs with `service.name`, `log.level` and a keyword that says which event it is (`event.code`,
    `log.logger`); `categorize: message` has the server sort texts into templates (categorize_text), at its cost.
    An index in which nothing is newer than `stale` is unknown: it can not be told whether nobody logs, or nobody ships.
    Cost: one search a window. Tested against a stand-in that speaks the protocol, not yet against a real cluster.
    """

    tested = "stand-in, through the official client"

    class Config(Access):
        """Which indices, and which fields say what."""

        index: Annotated[str, Field(min_length=1)] = "logs-*"
        """Index, alias, data stream or pattern."""
        query: dict[str, Any] = {}
        """Only these documents: a query of Elasticsearch."""
        errors: dict[str, Any] = _ERRORS
        """Which documents are errors: a query of Elasticsearch; default: by `log.level`."""
        time_field: str = "@timestamp"
        service_field: str = "service.name"
        host_field: str = "host.name"
        template_field: str = "event.code"
        """Keyword that says which event a record is; empty: no templates."""
        categorize: str = ""
        """Text field (`message`) that the server sorts into templates, instead of `template_field`."""
        templates: Annotated[int, Field(ge=0, le=1000)] = 50
        """Series of templates at most; the rest is one series, `(other)`. New ones come first."""
        new_for: Annotated[Duration, Field(ge=60, le=86_400)] = 600.0
        """How long a template that was never seen before is new."""
        most_services: Annotated[int, Field(ge=1, le=1000)] = 100
        window: Annotated[Duration, Field(ge=1, le=3600)] = 15.0
        """What a rate is over; it is asked as often."""
        delay: Annotated[Duration, Field(ge=0, le=3600)] = 15.0
        """How long after its own time a document may become visible; at most twice the window."""
        stale: Annotated[Duration, Field(ge=10, le=86_400)] = 300.0
        """Nothing newer than this in the whole index: unknown."""
        backfill: Annotated[Duration, Field(ge=0, le=48 * 3600)] = 3600.0
        """How much of the past is put into history at the first start, and known templates are learnt from."""

        @model_validator(mode="after")
        def _in_time(self) -> Self:
            if self.delay > 2 * self.window:
                raise ValueError(
                    f"`delay` is {say_duration(self.delay)}: give it a `window` of at least half of that, or its "
                    "values are old when they come"
                )
            return self

    stand_in = True

    def __init__(
        self,
        name: str,
        config: Config,
        names: Names | None = None,
        *,
        state: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.config = config
        self.interval_s = config.window
        self.remembers_s = config.backfill
        self._names = names or Names()
        self._clock = clock
        self._elastic = Elastic(config, _PATIENCE_S)
        self._known = _Known(Kept(state / "feeds" / f"{name}.json" if state is not None else None))
        self._begun = 0.0
        self._edge: float | None = None
        self._stretches: list[_Stretch] = []
        self._late = 0
        self._there: dict[Entity, float] = {}
        self._slots: dict[tuple[Entity, str], float] = {}
        self._told: dict[Entity, tuple[tuple[str, ...], float]] = {}
        self._series: tuple[Series, ...] = ()
        self._columns: frozenset[Series] = frozenset()
        self._busy = False
        self._cut = False

    async def poll(self) -> Frame:
        """Ask once; raises Unavailable (429: after the time that it asks for), Refused."""
        if self._busy:  # one that was given up: its thread ends by its own time limit
            raise Unavailable(f"{self._where()}: the last question is not answered yet")
        return await asyncio.to_thread(self._apart, self._poll)

    async def past(self, since: float, until: float) -> Sequence[Frame]:
        """Return a row for each window in which somebody logged; templates of it are known from then on."""
        found: list[Frame] = await asyncio.to_thread(self._apart, lambda: self._past(since, until))
        return found

    async def describe(self) -> Sequence[str]:
        """Say what it sees."""
        try:
            frame = await self.poll()
        except AgentError as problem:
            return (str(problem),)
        services = sum(e.kind == "service" for e in self._there)
        said = (
            f"{self._where()}: {many(services, 'service')}, "
            f"{many(len(self._there) - services, 'host that logs', 'hosts that log')} for none, "
            f"{many(len(self._slots), 'template')}; counted {say_duration(self.config.delay)} after their time"
        )
        lines = [said]
        if self._cut:
            lines.append(
                f"there are more than {self.config.most_services} services: `most_services`"
            )
        ours = [s.entity.kind != "source" for s in frame.series]
        if not np.isfinite(frame.values[ours]).any():
            names = f"`{self.config.service_field}` or `{self.config.host_field}`"
            stale = say_duration(self.config.stale)
            lines.append(f"all is unknown: nothing is newer than {stale}, or nothing names {names}")
        return lines

    def close(self) -> None:
        """Keep which templates are known, and close the connections."""
        self._known.keep()
        self._elastic.close()

    # ---- asking, in a thread

    def _apart(self, work: Callable[[], Any]) -> Any:
        # not before: one that was given up while it waited for a thread never begins, nor ends
        self._busy = True
        try:
            return work()
        except Exception as problem:  # noqa: BLE001  # sorted by what it means to us, and raised
            raise self._elastic.means(problem, f"index {self.config.index}") from None
        finally:
            self._busy = False

    def _where(self) -> str:
        return f"{redacted(self.config.url)}, index {self.config.index}"

    def _poll(self) -> Frame:
        config = self.config
        until = self._clock() - config.delay
        edge = self._edge
        fresh = edge is None or not 0 <= until - edge <= _GAP * config.window
        # too short for a rate: looked at together with the one before, and counted by the next look
        short = not fresh and until - (edge or 0.0) < config.window / 2
        begun = until - config.window if fresh else self._begun if short else edge or 0.0
        stretches = [] if fresh else self._stretches
        asked: dict[str, Any] = {
            "now": {"filter": self._between(begun, until), "aggs": self._groups()},
            "newest": {"max": {"field": config.time_field}},
        }
        for i, one in enumerate(stretches):
            asked[f"before_{i}"] = {"filter": self._between(one.start, one.end)}
        oldest = min([until - config.stale, begun, *(one.start for one in stretches)])
        found = self._search(asked, oldest, until)
        now, newest = fields(found, "now", "newest")
        before = fields(found, *(f"before_{i}" for i in range(len(stretches))))
        seen = self._read(now)
        for one, known in zip(stretches, before, strict=True):
            came = max(0, fields(known, "doc_count")[0] - one.count)
            one.count += came
            self._late += came
        if not short:
            if not stretches or begun - stretches[-1].start >= _STRETCH_S:
                stretches = [*stretches[-1:], _Stretch(begun, begun, 0)]
            stretches[-1].end = until
            stretches[-1].count += now["doc_count"]
            self._stretches, self._begun, self._edge = stretches, begun, until
        (last,) = fields(newest, "value")
        silent = last is None or until - last / 1000 > config.stale
        self._learn(seen, until)
        values = {} if silent else self._values(seen, until - begun, until)
        return self._frame(values, seen, until)

    def _past(self, since: float, until: float) -> list[Frame]:
        config = self.config
        step = max(1, round(config.window))
        until -= config.delay
        whole = self._read(self._search(self._groups(), since, until))
        self._learn(whole, until, since)
        rows = min(int((until - since) / step), _MOST_BUCKETS // (2 * len(whole) + 1))
        since = until - rows * step
        spread: dict[str, Any] = {
            "field": config.time_field, "fixed_interval": f"{step}s", "min_doc_count": 1,
            "offset": f"+{round(since % step * 1000)}ms",
        }  # fmt: skip
        found = self._search(
            {"rows": {"date_histogram": spread, "aggs": self._groups(alone=True)}}, since, until
        )
        out = []
        for row in found["rows"]["buckets"]:
            ts = row["key"] / 1000 + step
            values = self._values(self._read(row), step, ts)
            known = {s: v for s, v in values.items() if "template" not in s.metric}
            series = tuple(sorted(known))
            out.append(Frame(self.name, ts, series, np.array([known[s] for s in series])))
        return out

    def _between(self, start: float, end: float) -> dict[str, Any]:
        limits = {"gte": round(start * 1000), "lt": round(end * 1000), "format": "epoch_millis"}
        return {"range": {self.config.time_field: limits}}

    def _groups(self, *, alone: bool = False) -> dict[str, Any]:
        """Return what is counted of a stretch of time; alone: without hosts and templates of services."""
        config = self.config
        errors = {"errors": {"filter": config.errors}}
        inner: dict[str, Any] = dict(errors)
        if not alone:
            inner["hosts"] = {"terms": {"field": config.host_field, "size": _HOSTS}}
            if config.templates and config.categorize:
                inner["templates"] = {
                    "categorize_text": {"field": config.categorize, "size": _ASKED}
                }
            elif config.templates and config.template_field:
                inner["templates"] = {"terms": {"field": config.template_field, "size": _ASKED}}
        size = config.most_services
        nobody = {"bool": {"must_not": [{"exists": {"field": config.service_field}}]}}
        return {
            "services": {"terms": {"field": config.service_field, "size": size}, "aggs": inner},
            "others": {
                "filter": nobody,
                "aggs": {
                    "hosts": {"terms": {"field": config.host_field, "size": size}, "aggs": errors}
                },
            },
        }

    def _search(self, aggs: Mapping[str, Any], start: float, end: float) -> Any:
        asked = [self._between(start, end), *([self.config.query] if self.config.query else [])]
        said = self._elastic.client().search(
            index=self.config.index, size=0, track_total_hits=False, allow_partial_search_results=False,
            query={"bool": {"filter": asked}}, aggs=aggs,
        )  # fmt: skip
        late, shards = fields(said, "timed_out", "_shards")
        if late:
            raise Unavailable(f"{self._where()}: the search did not come to its end")
        if "aggregations" not in said and fields(shards, "total") == (0,):
            raise Refused(f"{self._where()}: no index is called so; correct `index`")
        return fields(said, "aggregations")[0]

    # ---- from counts to series

    def _read(self, found: Mapping[str, Any]) -> dict[Entity, _Seen]:
        """Return what each service, and each host that logs for none, did; raises Unavailable."""
        out: dict[Entity, _Seen] = {}
        try:
            for one in found["services"]["buckets"]:
                key = self._names.service(str(one["key"]))
                if not key:
                    continue
                who = Entity("service", key)
                hosts = tuple(
                    sorted(str(h["key"]) for h in one.get("hosts", {}).get("buckets", ()))
                )
                seen = _Seen(one["doc_count"], one["errors"]["doc_count"], hosts, _templates(one))
                # two names in the logs may be one service of ours
                out[who] = seen.plus(out[who]) if who in out else seen
            for one in found["others"]["hosts"]["buckets"]:
                host = Entity("host", str(one["key"]))
                out[host] = _Seen(one["doc_count"], one["errors"]["doc_count"])
            self._cut = bool(found["services"].get("sum_other_doc_count"))
        except (KeyError, TypeError, AttributeError):
            raise Misread("its counts are not written as those of Elasticsearch") from None
        return out

    def _learn(self, seen: Mapping[Entity, _Seen], now: float, since: float | None = None) -> None:
        """Know templates from now on; those of a service that was known for long enough are new."""
        for who, what in seen.items():
            if who.kind == "service":
                self._known.meet(who, what.templates, now, since)
        self._known.keep()

    def _values(self, seen: Mapping[Entity, _Seen], span: float, now: float) -> dict[Series, float]:
        """Return what is known of a window of `span` seconds; who is known and logged nothing logged at rate 0."""
        for who in seen:
            self._there[who] = now
        self._there = {e: at for e, at in self._there.items() if 0 <= now - at <= _KEEP_S}
        out: dict[Series, float] = {}
        for who in self._there:
            what = seen.get(who)
            if what is None and self._cut:
                continue  # it may have logged, and was not named
            records, errors = (what.records, what.errors) if what is not None else (0, 0)
            out[Series(f"{who.kind}.log_records_per_second", who)] = records / span
            out[Series(f"{who.kind}.log_errors_per_second", who)] = errors / span
            out[Series(f"{who.kind}.log_error_ratio", who)] = (
                errors / records if records else math.nan
            )
            if who.kind == "service" and self._asks_templates:
                new = self._known.new(who, now, self.config.new_for)
                out[Series("service.log_new_templates_count", who)] = float(len(new))
        self._slot(seen, now)
        for who, text in self._slots:
            if who in seen or not self._cut:
                n = seen[who].templates[text] if who in seen else 0
                out[_template(who, text)] = n / span
        for who, what in seen.items():
            rest = sum(n for text, n in what.templates.items() if (who, text) not in self._slots)
            if rest or _template(who, _REST) in self._columns:
                out[_template(who, _REST)] = rest / span
        return out

    @property
    def _asks_templates(self) -> bool:
        return bool(
            self.config.templates and (self.config.categorize or self.config.template_field)
        )

    def _slot(self, seen: Mapping[Entity, _Seen], now: float) -> None:
        """Choose which templates are series: those that are, then new ones, then frequent ones."""
        most = self.config.templates
        counts = {(w, t): n for w, what in seen.items() for t, n in what.templates.items()}
        self._slots.update({key: now for key in counts if key in self._slots})
        self._slots = {k: at for k, at in self._slots.items() if 0 <= now - at <= _KEEP_S}
        new = {
            (who, t) for who in seen if who.kind == "service"
            for t in self._known.new(who, now, self.config.new_for)
        }  # fmt: skip
        for key in sorted(counts, key=lambda k: (k not in new, -counts[k], k)):
            if key in self._slots:
                continue
            if len(self._slots) >= most:
                old = min(
                    (k for k in self._slots if k not in new), default=None,
                    key=lambda k: (self._slots[k], counts.get(k, 0)),
                )  # fmt: skip
                if key not in new or old is None:
                    break
                del self._slots[old]
            self._slots[key] = now

    def _frame(
        self, values: dict[Series, float], seen: Mapping[Entity, _Seen], now: float
    ) -> Frame:
        """Lay out a row: what was a series and has no value now is unknown."""
        late = Series("source.late_records_total", Entity("source", self.name))
        values = {late: float(self._late), **values}
        gone = {
            s for s in self._series if s.entity not in self._there and s.entity.kind != "source"
        }
        dropped = {
            s for s in self._series
            if s.metric == "service.log_template_per_second" and not self._kept(s, values)
        }  # fmt: skip
        wanted = (self._columns | values.keys()) - gone - dropped
        if wanted != self._columns:
            self._series, self._columns = tuple(sorted(wanted)), frozenset(wanted)
        row = np.array([values.get(s, math.nan) for s in self._series])
        return Frame(self.name, now, self._series, row, seen=tuple(self._sightings(seen, now)))

    def _kept(self, series: Series, values: Mapping[Series, float]) -> bool:
        text = dict(series.labels)["template"]
        return series in values or text == _REST or (series.entity, text) in self._slots

    def _sightings(self, seen: Mapping[Entity, _Seen], now: float) -> Iterator[Sighting]:
        for who, what in sorted(seen.items()):
            hosts, at = self._told.get(who, ((), -math.inf))
            if who.kind != "service" or (what.hosts == hosts and 0 <= now - at < _TELL_S / 2):
                continue
            if not what.hosts and not hosts:
                continue
            self._told[who] = what.hosts, now
            edges = tuple(Edge("runs_on", who, Entity("host", h)) for h in what.hosts)
            yield Sighting(who, edges=edges, lasts_s=_TELL_S)


class _Known:
    """Which templates were ever seen, by service; on disk, so that a restart does not make them new.

    Texts may be parts of messages: only hashes are kept.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._first = _times(kept.found.get("first"))
        self._since = _times(kept.found.get("since"))
        self._new: dict[Entity, dict[str, float]] = {}
        self._changed = False

    def meet(
        self, who: Entity, templates: Mapping[str, int], now: float, since: float | None
    ) -> None:
        """Take what a service logged; since: from when on, where it is of the past."""
        if who.key not in self._since:
            self._since[who.key] = now if since is None else since
            self._changed = True
        ripe = since is None and now - self._since[who.key] >= _LEARN_S
        for text in templates:
            key = hashlib.blake2b(f"{who.key}\0{text}".encode(), digest_size=9).hexdigest()
            if key in self._first:
                self._first[key] = self._first.pop(key)  # the last ones to be forgotten
                continue
            self._first[key] = now
            self._changed = True
            if ripe:
                self._new.setdefault(who, {})[text] = now
        while len(self._first) > _MOST_KNOWN:
            del self._first[next(iter(self._first))]

    def new(self, who: Entity, now: float, for_s: float) -> frozenset[str]:
        """Return the templates of a service that were never seen until a short time ago."""
        found = {t: at for t, at in self._new.get(who, {}).items() if 0 <= now - at < for_s}
        self._new[who] = found
        return frozenset(found)

    def keep(self) -> None:
        """Write it down, when there is anything new."""
        if self._changed:
            self._kept.write({"first": self._first, "since": self._since}, clean=True)
            self._changed = False


def _times(found: Any) -> dict[str, float]:
    return (
        {k: v for k, v in found.items() if isinstance(v, int | float)}
        if isinstance(found, dict)
        else {}
    )


def _templates(one: Mapping[str, Any]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for bucket in one.get("templates", {}).get("buckets", ()):
        text = " ".join(str(bucket["key"]).split())[:_LABEL]
        if text:
            counted[text] += int(bucket["doc_count"])
    return counted


def _template(who: Entity, text: str) -> Series:
    return Series("service.log_template_per_second", who, (("template", text),))
