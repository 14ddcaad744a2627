"""Prometheus, and whatever else speaks PromQL: what others already scrape becomes series, entities and alerts.

    prometheus:
      url: http://127.0.0.1:9090
      interval: 15s                       # as often as it scrapes
      selectors: ['{job="shop"}']         # beside what is known by name: docs/prometheus.md
      histograms: ['checkout_milliseconds']   # how long requests take, where it is not known by name
      queries:
        'service.busy_ratio{service:shop}': 'sum(shop_workers_busy) / sum(shop_workers)'

    one instant question a selector --> labels, texts --(table: read once a series)--> columns of ours --> frame
                                                     +--> agent/survey.py: who is there, who calls whom

When a target was last scraped is asked, too: a counter that was not scraped since the last look is unknown and not
standing still, and a target that nobody has scraped for `stale` is silent, whatever the server repeats of it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, field_validator

from agent.calls import Names
from agent.catalogue import SIGNALS
from agent.errors import AgentError, Refused, Unavailable
from agent.labels import about
from agent.model import BoolArray, Entity, FloatArray, Frame, IntArray, Series, Sighting, entity
from agent.ports import Arrival, Signal
from agent.registry import connector
from agent.survey import Survey
from agent.units import Duration, many, say_duration
from connectors._joined import fold_of, largest_of_each, unit_of
from connectors._proc import this_host
from connectors._prometheus_names import (
    PACK_OF,
    PACKS,
    PLAIN,
    RANK,
    SIGNAL_LABEL,
    TELLING,
    TELLS,
    Derived,
    Pack,
    Plain,
    served,
)
from connectors._promql import Access, Promql, numbers
from connectors.http import redacted

_LOOK_S: Final = 300.0
"""How often it is asked which metrics there are."""
_SURVEY_S: Final = 60.0
"""The graph is read anew at most so often: in a busy cluster series come and go at every look."""
_KEEP_S: Final = 600.0
"""How long a column of ours stays that nothing answers for."""
_AGAIN_S: Final = 3600.0
"""How often an alert that goes on is told again."""
_MOST_ALERTS: Final = 1000
_MOST_CELLS: Final = 400_000
"""Rows x series of the past: some 10 MB of text, a second of CPU."""
_TARGETS: Final = "timestamp(up)"
_UNAME: Final = "node_uname_info"
_ABOUT: Final = ("gpu", "replica", "host", "service")
"""Whom a metric that we have no word for is about: the most particular of those whom its labels name."""
_OF_MACHINE: Final = ("node_", "smartctl_")
"""Metrics of exporters that speak of the machine they run on."""
_COUNTS: Final = re.compile(r".*_(total|sum|count)")
_HISTOGRAM: Final = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*?)(_bucket)?(\{(?P<matchers>.+)\})?")
_SERIES: Final = re.compile(
    r"(?P<metric>[a-z_.0-9]+)\{(?P<entity>[^,}]+)(?P<labels>(,[^=,}]+=[^,}]+)*)\}"
)
_SCRAPE: Final = """scrape_configs:
  - job_name: homeostat
    static_configs: [{targets: ['127.0.0.1:8787']}]  # from another host: metrics_listen, and a token"""

Exporter = Literal[
    "node_exporter", "smartctl_exporter", "cadvisor", "cadvisor_docker", "kube_state_metrics", "dcgm_exporter", "nginx",
    "ingress_nginx", "haproxy", "vllm", "triton", "torchserve", "tensorflow_serving", "kserve", "mlserver", "istio",
    "opentelemetry", "spring", "http",
]  # fmt: skip

Row = dict[str, Any]
_Key = tuple[tuple[str, str], ...]
Fold = Literal["add", "max", "min"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a foreign series goes.

    target   (job, instance) of a counter or gauge that is read as it is
    rank     of several exporters that tell the same, the lowest is believed: what a person asked for, then as `PACKS`
    part     what of the column it tells, where others tell the same
    """

    series: Series
    scale: float = 1.0
    target: tuple[str, str] | None = None
    rank: int = -2
    part: tuple[str, str] | None = None


@dataclass(slots=True)
class _Layout:
    """Foreign rows (m,) -> columns (n,) of ours.

    row, col, scale   of each addend
    counter           (m,) whether it counts
    target            (m,) position among the targets; -1 = it is not known when it was scraped
    shared, part      addends others of which tell the same: where they stand, and what each tells
    gpus              addends that dcgm-exporter tells
    """

    row: IntArray
    col: IntArray
    scale: FloatArray
    counter: BoolArray
    target: IntArray
    by_fold: dict[Fold, IntArray]
    shared: IntArray
    part: IntArray
    gpus: IntArray


@dataclass(slots=True)
class _Told:
    """What a poll brought, made in a thread."""

    ts: float
    series: tuple[Series, ...]
    values: FloatArray
    seen: tuple[Sighting, ...]


@dataclass(slots=True)
class _Count:
    """How many series were read, for people."""

    known: int = 0
    other: int = 0
    left_out: int = 0
    own_host: int = 0
    packs: list[str] = field(default_factory=list)


@connector("prometheus")
class Prometheus:
    """What Prometheus, VictoriaMetrics, Mimir or Thanos already know: metrics of exporters and model servers, alerts.

    Emits signals of the catalogue for what `connectors/_prometheus_names.py` knows by name, `<kind>.other_value` and
    `<kind>.other_per_second` for the rest of `selectors`, one series for each of `queries`; sightings and calls of
    what labels tell. Metrics of this very host are left to the source `host`, which sees them each second.
    Feed   alerts of its own rules that fire, as evidence; leave them to `alertmanager` where that is set up
    Cost: see docs/prometheus.md; all of it in a thread, one question at a time, at most `most_series` series.

    Raises Unavailable when it does not answer (429: after the time that it asks for), Refused when it says no, sends us
    elsewhere, or answers with more than it may.
    """

    tested = "Prometheus 2.42 that scrapes node_exporter 1.5; other exporters by their names"

    class Config(Access):
        """Where it is, and what is read."""

        selectors: list[Annotated[str, Field(min_length=2)]] = []
        """Anything that gives an instant vector, one question each."""
        queries: dict[str, Annotated[str, Field(min_length=1)]] = {}
        """Series of ours -> PromQL that gives one value."""
        histograms: list[Annotated[str, Field(pattern=rf"^{_HISTOGRAM.pattern}$")]] = []
        """Of the time that requests take, where not known by name; matchers may follow: `rpc_seconds{side="in"}`."""
        exporters: list[Exporter] | None = None
        """Whose metrics are read by name; default: of all that there are."""
        alerts: bool = True
        window: Annotated[Duration, Field(ge=5, le=3600)] = 60.0
        """What the server makes rates and quantiles of: four of its scrapes."""
        stale: Annotated[Duration, Field(ge=5, le=3600)] = 120.0
        """How old a sample may be and still be said of now: twice its longest scrape interval."""
        backfill: Annotated[Duration, Field(ge=0, le=48 * 3600)] = 3600.0
        """How much of its past is put into history at the first start; 0 = none."""
        most_series: Annotated[int, Field(ge=1, le=200_000)] = 20_000

        @field_validator("queries")
        @classmethod
        def _named(cls, queries: dict[str, str]) -> dict[str, str]:
            for text in queries:
                read_series(text)
            return queries

    interval_s = 15.0

    def __init__(self, name: str, config: Config, names: Names | None = None) -> None:
        self.name = name
        self.config = config
        self._names = names or Names()
        self._promql, self._alerts = Promql(config), Promql(config)
        self._own = this_host()
        self._count = _Count()
        self._survey = Survey(self._names)
        self._surveyed_at = -math.inf
        self._survey_keys: list[tuple[int, _Key]] = []
        self._survey_rows: IntArray = np.zeros(0, dtype=np.int64)
        self._asked = [(q, read_series(s)) for s, q in config.queries.items()]
        self._packs: list[Pack] = []
        self._own_packs: dict[str, Pack] = {}
        """What is asked of each of `histograms`."""
        self._looked_at = -math.inf
        self._hosts: dict[tuple[str, str], str] = {}
        self._declared: dict[str, tuple[str, str]] | None = None
        self._metrics: list[list[dict[str, str]]] = []
        self._places: dict[tuple[int, _Key], _Place | None] = {}
        none: IntArray = np.zeros(0, dtype=np.int64)
        self._layout = _Layout(
            none, none, np.zeros(0), np.zeros(0, dtype=np.bool_), none, {}, none, none, none
        )
        self._last_seen: dict[Series, float] = {}
        self._series: tuple[Series, ...] = ()
        self._columns: dict[Series, int] = {}
        self._target_names: dict[tuple[str, str], int] = {}
        self._scraped: FloatArray = np.zeros(0)
        self._scraped_at: FloatArray = np.zeros(0)
        self._busy = False
        self.remembers_s = config.backfill
        self.covers: frozenset[Series] = frozenset()
        """What dcgm-exporter tells of GPUs."""
        self._covered: tuple[tuple[Series, ...], bytes] = ((), b"")
        self._firing: dict[tuple[str, _Key], tuple[Signal, float]] = {}

    async def poll(self) -> Frame:
        """Ask each question once."""
        if self._busy:  # a poll that was given up: its thread ends by its own time limit
            raise Unavailable(f"{redacted(self.config.url)}: the last question is not answered yet")
        told = await asyncio.to_thread(self._whole)
        return Frame(self.name, told.ts, told.series, told.values, seen=told.seen)

    async def past(self, since: float, until: float) -> Sequence[Frame]:
        """Ask each question over a range: as far back as `_MOST_CELLS` reach."""
        return await asyncio.to_thread(self._past, since, until)

    async def read(self) -> Sequence[Arrival]:
        """Return alerts that began to fire, go on for long, or have ended."""
        if not self.config.alerts:
            return ()
        now = time.time()
        firing: dict[tuple[str, _Key], Signal] = {}
        for alert in (await asyncio.to_thread(self._alerts.alerts))[:_MOST_ALERTS]:
            signal = self._signal(alert, now)
            if signal is not None:
                firing[signal.name, signal.labels] = signal
        out: list[Arrival] = []
        for key, signal in firing.items():
            if key not in self._firing or not 0 <= now - self._firing[key][1] < _AGAIN_S:
                out.append(signal)
                self._firing[key] = signal, now
        for key in self._firing.keys() - firing.keys():
            old, _ = self._firing.pop(key)
            out.append(Signal(now, old.name, old.source, False, old.labels, old.text))
        return out

    async def describe(self) -> Sequence[str]:
        """Say what it is, what was found by name, and how it may scrape us."""
        where, lines = redacted(self.config.url), []
        try:
            await self.poll()
        except AgentError as problem:
            return (str(problem),)
        found = self._count
        lines.append(
            f"{where}: {found.known} series known by name ({', '.join(found.packs) or 'no exporter that we know'}), "
            f"{found.other} others"
        )
        if found.own_host:
            lines.append(f"{found.own_host} of this host are left to the source `host`")
        if found.left_out:
            lines.append(
                f"{found.left_out} are left out: buckets, devices that are none, or nobody whom they are about"
            )
        live = int(np.isfinite(self._scraped).sum())
        lines.append(
            f"{many(live, 'target that is', 'targets that are')} scraped; "
            f"what was not scraped for {say_duration(self.config.stale)} is unknown"
        )
        if self.config.alerts:
            try:
                firing = await asyncio.to_thread(self._alerts.alerts)
                lines.append(f"{sum(a.get('state') == 'firing' for a in firing)} alerts fire")
            except AgentError as problem:
                lines.append(f"no alerts: {problem}")
        lines.append("to have it scrape homeostat, put this into its prometheus.yml:")
        lines += _SCRAPE.splitlines()
        return lines

    def close(self) -> None:
        """Close the connections."""
        self._promql.close()
        self._alerts.close()

    # ---- one look, in a thread

    def _whole(self) -> _Told:
        # not before: one that was given up while it waited for a thread never begins, nor ends
        self._busy = True
        try:
            return self._ask()
        finally:
            self._busy = False

    def _ask(self) -> _Told:
        now = time.time()
        if not 0 <= now - self._looked_at < _LOOK_S:
            self._look()
            self._looked_at = now
        self._targets(self._vector(_TARGETS))
        questions, plain = self._questions()
        answers = [self._vector(question) for question in questions]
        for (query, series), rows in zip(
            self._asked, answers[len(answers) - len(self._asked) :], strict=True
        ):
            if len(rows) > 1:
                raise Refused(
                    f"the query of {series} gives {len(rows)} series: {query}; join them, as with sum() or max()"
                )
        total = sum(map(len, answers))
        if total > self.config.most_series:
            raise Refused(
                f"{redacted(self.config.url)}: {total} series are more than {self.config.most_series}; narrow "
                "`selectors` or `exporters`, or raise `most_series`"
            )
        metrics = [[row["metric"] for row in rows] for rows in answers]
        x = self._numbers([row for rows in answers for row in rows])
        if metrics != self._metrics or now - min(self._last_seen.values(), default=now) > _KEEP_S:
            self._arrange(metrics, plain, now)
        called, seen = self._survey.look(now, np.append(x, np.nan)[self._survey_rows])
        values = self._values(x, now)
        self._cover(x, now)
        for series, value in zip(self._survey.series, called.tolist(), strict=True):
            if series in self._columns:
                values[self._columns[series]] = value
        return _Told(now, self._series, values, seen)

    def _numbers(self, rows: Sequence[Row]) -> FloatArray:
        try:
            return np.array(numbers([row["value"][1] for row in rows]), dtype=np.float64)
        except (TypeError, ValueError):
            raise Unavailable(
                f"{redacted(self.config.url)}: a value is no number; is it really one that speaks PromQL? see `url`"
            ) from None

    def _past(self, since: float, until: float) -> list[Frame]:
        """Return rows without their targets: when each was scraped is not known of the past."""
        self._look()
        step = self.interval_s
        questions, plain = self._questions()
        now = sum(len(self._vector(q)) for q in questions) or 1
        rows = min(int((until - since) / step), _MOST_CELLS // now)
        if rows < 2:
            return []
        last = math.floor(until / step) * step  # the library asks from whole second to whole second
        grid = last - step * np.arange(rows - 1, -1, -1)
        answers = [self._promql.matrix(q, grid[0], grid[-1], step) for q in questions]
        flat = [row for found in answers for row in found]
        x = np.full((len(flat), rows), np.nan)
        for i, row in enumerate(flat):
            at = np.rint((np.array([ts for ts, _ in row["values"]]) - grid[0]) / step).astype(
                np.int64
            )
            there = (at >= 0) & (at < rows)
            x[i, at[there]] = np.array(numbers([text for _, text in row["values"]]))[there]
        self._arrange([[row["metric"] for row in found] for found in answers], plain, until)
        out = [
            Frame(self.name, float(ts), self._series, self._values(x[:, i], float(ts)))
            for i, ts in enumerate(grid)
        ]
        self._metrics, self._surveyed_at = [], -math.inf
        return out

    def _questions(self) -> tuple[list[str], int]:
        """Return what is asked at each look, and how many of it are read as they are."""
        questions = [
            TELLING,
            *(p.selector() for p in self._packs if p.plain),
            *self.config.selectors,
        ]
        window = f"{self.config.window:g}s"
        derived = [p.question(window) for p in self._deriving()]
        return [*questions, *derived, *(query for query, _ in self._asked)], len(questions)

    def _deriving(self) -> list[Pack]:
        """Return the packs that have questions for the server to compute."""
        return [p for p in (*self._packs, *self._own_packs.values()) if p.derived]

    def _vector(self, query: str) -> list[Row]:
        stale = (
            f"{self.config.stale:g}s"  # Prometheus, Thanos and Mimir call it so; VictoriaMetrics so
        )
        return self._promql.vector(query, lookback_delta=stale, max_lookback=stale)

    def _look(self) -> None:
        """Find out whose metrics there are, and which host is behind which address."""
        there = set(self._promql.names())
        wanted = self.config.exporters if self.config.exporters is not None else list(PACKS)
        packs = [PACKS[name] for name in wanted if PACKS[name].among(there)]
        hosts = {}
        if _UNAME in there:
            for row in self._vector(_UNAME):
                target = _target(row["metric"])
                hosts[target] = row["metric"].get("nodename", "")
                hosts["", _address(target[1])] = hosts[target]  # for other exporters beside it
        if packs != self._packs or hosts != self._hosts:
            self._places.clear()
            self._metrics = []
        self._packs, self._hosts, self._declared = packs, hosts, None
        # each a question of its own: together they may be too long for a proxy
        own = (self._histogram(f"own{i}", text) for i, text in enumerate(self.config.histograms))
        self._own_packs = {pack.name: pack for pack in own}

    def _histogram(self, pack: str, text: str) -> Pack:
        """Return the questions of one of `histograms`; its unit is as declared, else as its name says."""
        found = _HISTOGRAM.fullmatch(text)
        name = found["name"] if found else text
        matchers = f", {found['matchers']}" if found and found["matchers"] else ""
        _, scale = unit_of(name, self._said(name)[1])
        times = f" * {scale:g}" if scale != 1.0 else ""
        return served(pack, name, scale=times, matchers=matchers)

    def _targets(self, rows: Sequence[Row]) -> None:
        """Note when each target was scraped, and what it was at the last look."""
        before = {t: self._scraped[i] for t, i in self._target_names.items()}
        names = [_target(row["metric"]) for row in rows]
        at = dict(zip(names, self._numbers(rows), strict=True))
        if set(names) != self._target_names.keys():
            self._target_names = {name: i for i, name in enumerate(dict.fromkeys(names))}
            self._metrics = []
        self._scraped_at = np.array([before.get(t, math.nan) for t in self._target_names])
        self._scraped = np.array([at[t] for t in self._target_names])

    def _values(self, x: FloatArray, now: float) -> FloatArray:
        """Put rows (m,) into columns (n,)."""
        it = self._layout
        got = x[it.row] * it.scale
        if len(self._scraped):
            again = (it.target >= 0) & (self._scraped == self._scraped_at)[it.target]
            got = np.where((again & it.counter) | self._old(it.target, now), np.nan, got)
        if it.shared.size:
            counts = largest_of_each(it.part, got[it.shared])
            got[it.shared[~counts]] = 0.0
        out = np.full(len(self._series), np.nan)
        for fold, begin, join in (
            ("add", 0.0, np.add),
            ("max", -np.inf, np.maximum),
            ("min", np.inf, np.minimum),
        ):
            at = it.by_fold.get(fold)  # type: ignore[call-overload]
            if at is not None and at.size:
                total = np.full(len(out), begin)
                with np.errstate(invalid="ignore"):  # unknown stays unknown
                    join.at(total, it.col[at], got[at])
                out[it.col[at]] = total[it.col[at]]
        return out

    def _old(self, target: IntArray, now: float) -> BoolArray:
        """Tell of whom nobody has asked for long (m,)."""
        if not len(self._scraped):
            return np.zeros(len(target), dtype=np.bool_)
        return (target >= 0) & (now - self._scraped > self.config.stale)[target]

    def _cover(self, x: FloatArray, now: float) -> None:
        """Note what dcgm-exporter tells: not a counter's gain since the last look, but that it is there."""
        it = self._layout
        there = np.isfinite(x[it.row[it.gpus]]) & ~self._old(it.target[it.gpus], now)
        columns = np.unique(it.col[it.gpus][there])
        key = columns.tobytes()
        if self._covered[0] is not self._series or self._covered[1] != key:
            self._covered = self._series, key
            self.covers = frozenset(self._series[i] for i in columns.tolist())

    # ---- the table, when series come or go

    def _arrange(self, metrics: list[list[dict[str, str]]], plain: int, now: float) -> None:
        """Lay out the rows anew; what is known of a foreign series is kept as long as it comes."""
        known, self._places = self._places, {}
        self._count = count = _Count(packs=[p.name for p in self._packs])
        derived = len(self._deriving())
        row, addends, rows_of = 0, [], {}
        for i, rows in enumerate(metrics):
            group = 0 if i < plain else 1 if i < plain + derived else 2 + i
            for labels in rows:
                key = group, tuple(sorted(labels.items()))
                if key not in rows_of:  # two selectors may give the same
                    rows_of[key] = row
                    place = (
                        known[key]
                        if key in known
                        else self._place(group, labels, i - plain - derived)
                    )
                    self._places[key] = place
                    if place is None:
                        count.left_out += labels.get("__name__") not in TELLS
                    elif ".other_" in place.series.metric:
                        count.other += 1
                        addends.append((row, place))
                    elif place.series.entity == self._own and place.rank == RANK["node_exporter"]:
                        count.own_host += 1
                    else:
                        count.known += 1
                        addends.append((row, place))
                row += 1
        best: dict[Series, int] = {}
        for _, place in addends:
            best[place.series] = min(place.rank, best.get(place.series, place.rank))
        addends = [(i, place) for i, place in addends if place.rank == best[place.series]]
        if not 0 <= now - self._surveyed_at < _SURVEY_S:
            self._resurvey(rows_of, now)
        self._survey_rows = np.array(
            [rows_of.get(key, row) for key in self._survey_keys], dtype=np.int64
        )
        self._metrics = metrics
        self._table({p.series for _, p in addends}, now)
        self._layout = self._laid(addends)

    def _table(self, there: set[Series], now: float) -> None:
        """Keep the same tuple while the columns are the same."""
        self._last_seen.update(dict.fromkeys(there, now))
        self._last_seen = {s: at for s, at in self._last_seen.items() if 0 <= now - at <= _KEEP_S}
        wanted = self._last_seen.keys() | set(self._survey.series)
        if wanted != self._columns.keys():
            self._series = tuple(sorted(wanted))
            self._columns = {s: i for i, s in enumerate(self._series)}

    def _laid(self, addends: Sequence[tuple[int, _Place]]) -> _Layout:
        columns, targets = self._columns, self._target_names
        folds: dict[Fold, list[int]] = {}
        parts: dict[tuple[Series, tuple[str, str]], list[int]] = {}
        for i, (_, place) in enumerate(addends):
            folds.setdefault(fold_of(place.series.metric), []).append(i)
            if place.part is not None:
                parts.setdefault((place.series, place.part), []).append(i)
        shared = [(i, n) for n, some in enumerate(parts.values()) if len(some) > 1 for i in some]
        dcgm = RANK["dcgm_exporter"]
        return _Layout(
            np.array([row for row, _ in addends], dtype=np.int64),
            np.array([columns[p.series] for _, p in addends], dtype=np.int64),
            np.array([p.scale for _, p in addends], dtype=np.float64),
            np.array(
                [SIGNALS[p.series.metric].kind == "counter" for _, p in addends], dtype=np.bool_
            ),
            np.array(
                [targets.get(p.target, -1) if p.target else -1 for _, p in addends], dtype=np.int64
            ),
            {fold: np.array(at, dtype=np.int64) for fold, at in folds.items()},
            np.array([i for i, _ in shared], dtype=np.int64),
            np.array([n for _, n in shared], dtype=np.int64),
            np.array([i for i, (_, p) in enumerate(addends) if p.rank == dcgm], dtype=np.int64),
        )

    def _place(self, group: int, labels: Mapping[str, str], asked: int) -> _Place | None:
        """Say which column a foreign series is; None = none of ours."""
        if not all(isinstance(v, str) for v in labels.values()):
            raise Unavailable(f"{redacted(self.config.url)}: a label is no text; see `url`")
        if group >= 2:
            return _Place(self._asked[asked][1])
        if group == 1:
            rule, rank = self._derived(labels)
            return self._ours(rule, rule.about, labels, rank)
        metric = labels.get("__name__", "")
        if metric in TELLS:
            return None
        for known in PLAIN.get(metric, ()):
            if known.fits(labels):
                return self._ours(known, metric, labels, RANK[PACK_OF[metric]])
        return None if metric in PLAIN else self._other(metric, labels)

    def _derived(self, labels: Mapping[str, str]) -> tuple[Derived, int]:
        """Return the rule that a row is the answer to, and its rank."""
        pack, _, at = labels[SIGNAL_LABEL].partition("/")
        if pack in self._own_packs:
            return self._own_packs[pack].derived[int(at)], -1
        return PACKS[pack].derived[int(at)], RANK[pack]

    def _ours(
        self, rule: Plain | Derived, metric: str, labels: Mapping[str, str], rank: int
    ) -> _Place | None:
        kind = SIGNALS[rule.signal].entity_kind
        if rule.whom:
            said = rule.space if isinstance(rule, Derived) else ""
            space = labels.get(said or "exported_namespace") or labels.get("namespace", "")
            service = self._names.service(labels.get(rule.whom, ""), space)
            whom = Entity("service", service) if service else None
        else:
            whom = about(metric, self._with_host(metric, labels), self._names).get(kind)  # type: ignore[call-overload]
        if whom is None:
            return None
        ours = {our: labels.get(their, "") for our, their in rule.labels.items()}
        if isinstance(rule, Derived):
            return _Place(_series(rule.signal, whom, ours), rank=rank)
        series = _series(rule.signal, whom, {**ours, **rule.fixed})
        return _Place(series, rule.scale, _target(labels), rank, rule.which(labels))

    def _other(self, metric: str, labels: Mapping[str, str]) -> _Place | None:
        """Give a metric that we have no word for to whom its labels name."""
        if not metric or metric.endswith("_bucket"):
            return None
        found = about(metric, self._with_host(metric, labels), self._names)
        whom = next((found[kind] for kind in _ABOUT if kind in found), Entity("source", self.name))
        word = "other_total" if self._counts(metric) else "other_value"
        unit, scale = unit_of(metric, self._said(metric)[1])
        kept = {k: v for k, v in labels.items() if k != "__name__"}
        ours = {**kept, "metric": metric, **({"unit": unit} if unit else {})}
        return _Place(_series(f"{whom.kind}.{word}", whom, ours), scale, _target(labels))

    def _said(self, metric: str) -> tuple[str, str]:
        """Return what the target of a metric declared: its kind and its unit, "" = nothing."""
        if self._declared is None:
            try:
                self._declared = self._promql.metadata()
            except AgentError:
                self._declared = {}  # not every one that speaks PromQL keeps metadata
        for name in (metric, metric.removesuffix("_total")):
            if name in self._declared:
                return self._declared[name]
        whole = self._declared.get(_whole(metric), ("", ""))
        return whole if whole[0] in {"histogram", "summary"} else ("", "")

    def _counts(self, metric: str) -> bool:
        """Tell whether a metric counts, by what its target declared; where nobody did, by its name."""
        said, _ = self._said(metric)
        if said in {"counter", "gauge"}:
            return said == "counter"
        if said in {"histogram", "summary"}:
            return metric != _whole(metric)
        return _COUNTS.fullmatch(metric) is not None

    def _with_host(self, metric: str, labels: Mapping[str, str]) -> Mapping[str, str]:
        """Call a host by its name, where only the address of its exporter is said."""
        name, target = "", _target(labels)
        if metric.startswith(_OF_MACHINE):
            name = self._hosts.get(target) or self._hosts.get(("", _address(target[1])), "")
        return {"nodename": name, **labels} if name else labels

    def _resurvey(self, keys: Iterable[tuple[int, _Key]], now: float) -> None:
        """Read the graph anew: from what was asked for as it is, and what is derived of whom nothing else names."""
        self._survey_keys, table = [], []
        for group, key in keys:
            labels = dict(key)
            if group == 0:
                metric = labels.pop("__name__", "")
            elif group == 1:
                rule, _ = self._derived(labels)
                if not rule.tells:
                    continue
                metric = rule.about
                labels.pop(SIGNAL_LABEL)
            else:
                continue
            if not metric.endswith("_bucket"):
                self._survey_keys.append((group, key))
                table.append((metric, self._with_host(metric, labels)))
        self._survey.table(table)
        self._surveyed_at = now

    def _signal(self, alert: Mapping[str, Any], now: float) -> Signal | None:
        try:
            labels = {str(k): str(v) for k, v in alert["labels"].items()}
            name = labels.pop("alertname")
            if alert["state"] != "firing" or name in {"Watchdog", "InfoInhibitor"}:
                return None
            since = datetime.fromisoformat(alert["activeAt"]).timestamp()
            notes = alert.get("annotations") or {}
            text = str(notes.get("summary") or notes.get("description") or "")[:200]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unavailable(
                f"{redacted(self.config.url)}: its alerts are not written as those of Prometheus; `alerts: false` "
                "leaves them"
            ) from None
        return Signal(min(since, now), name, self.name, True, tuple(sorted(labels.items())), text)


def read_series(text: str) -> Series:
    """Read `signal{kind:key,label=value}`; raises ValueError."""
    found = _SERIES.fullmatch(text.replace(" ", ""))
    known = SIGNALS.get(found["metric"]) if found else None
    if found is None or known is None:
        raise ValueError(
            f"`{text}` is no series: write signal{{kind:key,label=value}} with a signal of the catalogue"
        )
    whom = entity(found["entity"])
    if whom.kind != known.entity_kind:
        raise ValueError(
            f"`{text}`: {known.name} is about a {known.entity_kind}, not a {whom.kind}"
        )
    pairs = [part.partition("=") for part in found["labels"].split(",") if part]
    return Series(known.name, whom, tuple(sorted((k, v) for k, _, v in pairs)))


def _series(metric: str, whom: Entity, labels: Mapping[str, str]) -> Series:
    return Series(metric, whom, tuple(sorted((k, v) for k, v in labels.items() if v)))


def _target(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("job", ""), labels.get("instance", "")


def _whole(metric: str) -> str:
    """Return the histogram or summary that a metric may be a part of."""
    return re.sub(r"_(sum|count|bucket)$", "", metric)


def _address(instance: str) -> str:
    """Return the address of a target without its port."""
    return instance.rpartition(":")[0] or instance
