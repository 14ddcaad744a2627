"""Our own metrics and everything that is known, in the words of Prometheus; and how our log is written.

    add / set / observe  (microseconds)  -> a float per label set
    world.rows()         (newest row of every source) -> homeostat_<signal>{entity="host:web-1", ...}
    render               -> text 0.0.4, or OpenMetrics 1.0 when the scraper asks for it

What is unknown (NaN, stale) is left out: a scraper then sees a gap, which is the truth. Label strings of the world
are built once a table and kept; a render of 1,000 series costs about a millisecond.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import math
import re
import resource
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import structlog

from agent import __version__
from agent.catalogue import SIGNALS
from agent.model import ENDED, Verdict
from agent.strike import last_words, strike

if TYPE_CHECKING:
    from agent.journal import Entry
    from agent.model import Series
    from agent.world import World

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One metric of our own.

    unit      ends the name when there is one ("" = a plain number)
    labels    names, in the order in which they are written
    buckets   upper bounds of a histogram, without the infinite one
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SLOW: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def _g(name: str, help_: str, *labels: str, unit: str = "") -> MetricDef:
    return MetricDef("homeostat_" + name, "gauge", unit, help_, labels)


def _c(name: str, help_: str, *labels: str, unit: str = "") -> MetricDef:
    return MetricDef(f"homeostat_{name}_total", "counter", unit, help_, labels)


def _h(name: str, help_: str, *labels: str, buckets: tuple[float, ...] = _FAST) -> MetricDef:
    return MetricDef("homeostat_" + name, "histogram", "seconds", help_, labels, buckets)


_DEFS: Final = (
    _g("build_info", "version that runs, always 1", "version"),
    _g("start_time_seconds", "unix time at which the daemon started", unit="seconds"),
    _g("agent_resident_memory_bytes", "resident memory of the daemon", unit="bytes"),
    _c("agent_cpu_seconds", "CPU time that the daemon has used", unit="seconds"),
    _g("agent_open_files", "files and sockets that the daemon has open"),
    _g("agent_threads", "threads of the daemon"),
    # ---- the walk
    _c("ticks", "ticks of the walk from frame to decision"),
    _h("tick_seconds", "time that a tick took"),
    _g("tick_lag_seconds", "how late the last tick began", unit="seconds"),
    _c("frames", "frames taken", "source"),
    _c("bugs", "errors of a plug-in that nobody expected", "plugin"),
    _g("anomalies_active", "series that are abnormal now"),
    _g("series", "series that are known", "source"),
    _c("impossible_values", "values outside of what a signal can be, taken as unknown", "source"),
    _g("source_fresh", "1 = the source answers, 0 = we are blind there", "source"),
    _g("learning", "1 = the history of the source is still too short to judge by", "source"),
    # ---- incidents and the alarm budget
    _c("incidents", "incidents opened", "severity"),
    _g("incidents_open", "incidents that are not resolved", "severity"),
    _g(
        "incident_opened_timestamp_seconds",
        "when an open incident was opened, unix time; the newest 50, pages first",
        "incident",
        "severity",
        "state",
        "entity",
        "cause",
        unit="seconds",
    ),
    _h(
        "incident_detect_seconds",
        "time from the first abnormal moment of its series to the opening of an incident",
        "severity",
        buckets=_SLOW,
    ),
    _h(
        "incident_heal_seconds",
        "time from the opening of an incident to when what opened it was well for good (by homeostat: its run helped)",
        "severity",
        "by",
        buckets=_SLOW,
    ),
    _c("changes", "changes that were told or noticed; by homeostat or by others", "kind", "by"),
    _g("incidents_needing_people", "open incidents that a person is needed for, by why", "needs"),
    _c("pages", "incidents that paged"),
    _g("pages_last_week", "incidents of the last seven days that paged"),
    _g("false_pages_last_week", "of those, how many a person called false: the measured rate"),
    _g("false_pages_budget_per_week", "false pages a week that are allowed: the promised rate"),
    _g(
        "false_pages_per_week",
        "measured false pages a week; between low (labelled noise) and high (not labelled real) with 95 %",
        "bound",
    ),
    _g("console_notes_budget_per_day", "false notes a day that are allowed in the console"),
    _g("console_notes_per_day", "measured false notes a day, as false_pages_per_week", "bound"),
    _g("anomalies_budget_per_day", "series a day that may be abnormal by chance"),
    _g(
        "anomalies_per_day",
        "series a day that became abnormal by themselves, true ones among them; bounds of 95 %",
        "bound",
    ),
    _g(
        "budget_unused",
        "1 = less than a quarter of what was promised so far can have been false; absent while unknown",
        "budget",
    ),
    _g(
        "budget_watched_seconds",
        "time under watch behind the measured rates, of the last four weeks",
        unit="seconds",
    ),
    _g(
        "budget_tightness",
        "1 = as derived from the budget; below: series must be so much rarer, as too many were abnormal",
    ),
    _g("signals_labelled", "signals whose sensitivity labels have changed", "direction"),
    # ---- acting
    _c("decisions", "what the guard said", "playbook", "allowed"),
    _c("gates_closed", "times that a gate held a playbook back", "gate"),
    _c("runs", "runs that ended; verdict none = it did not act", "playbook", "verdict"),
    _g("runs_live", "runs that have not ended", "state"),
    _g(
        "run_started_timestamp_seconds",
        "when a run that has not ended was started, unix time; the newest 50",
        "run",
        "playbook",
        "entity",
        "state",
        "mode",
        "incident",
        unit="seconds",
    ),
    _h(
        "run_seconds",
        "time from the start of a run that acted to its end",
        "verdict",
        buckets=_SLOW,
    ),
    _g("pauses", "pauses in force; scope * = everything stands still", "scope"),
    _g("silences", "silences in force"),
    _g("mode_ceiling", "1 for the mode that no playbook may exceed", "mode"),
    # ---- the record, and the ways in and out
    _c("journal_entries", "entries written to the journal", "kind"),
    _g("journal_pending", "entries that wait to be written; above 0 = the disk is full or broken"),
    _c("http_requests", "requests answered", "route", "method", "code"),
    _h("http_request_seconds", "time to answer", "route"),
    _g("listeners", "consoles that follow events"),
    _c("events_dropped", "events not delivered to a console that was too slow"),
    _c("received_bytes", "bytes that services pushed", "source", unit="bytes"),
    _c("received_refused", "pushes that were malformed, too large or not allowed", "source"),
    _c(
        "points_left_out",
        "pushed points that were not taken, as their sender has too many series",
        "source",
    ),
    _c(
        "sink_samples",
        "samples for those who keep our numbers: delivered, refused, dropped",
        "sink",
        "outcome",
    ),
    _g("sink_samples_waiting", "samples that wait to be delivered", "sink"),
    # ---- of series that hurt users or model results, or are abnormal now; with the labels of the series
    _g(
        "series_score",
        "how rare the value of a series is now: -log10 of its p-value",
        "signal",
        "entity",
    ),
    _g(
        "series_expected_low",
        "lower end of what is expected of a series now, in its own unit",
        "signal",
        "entity",
    ),
    _g(
        "series_expected_high",
        "upper end of what is expected of a series now, in its own unit",
        "signal",
        "entity",
    ),
    _g(
        "objective_limit",
        "limit that people or physics set to a series, in its own unit (bound: low, high)",
        "signal",
        "entity",
        "bound",
    ),
    _g("console_info", "where the console of this agent is, always 1", "url"),
    _g("entity_info", "name of an entity, always 1; join it by entity", "entity", "kind", "name"),
)

METRICS: Final[dict[str, MetricDef]] = {d.name: d for d in _DEFS}
"""Name -> definition of every metric about ourselves."""

_MOST_SETS: Final = 1000
"""Label sets a metric may have: a label with endless values must not eat the memory."""
_REMEMBERED: Final = 4096

Labels = tuple[str, ...]
Pairs = tuple[tuple[str, str], ...]
_CHANGES: Final = ("release", "config", "scale", "restart", "act", "flag")


class Telemetry:
    """Counters, gauges and histograms by name; one thread, no locks."""

    def __init__(self, started: float) -> None:
        self._numbers: dict[str, dict[Labels, float]] = {name: {} for name in METRICS}
        self._of_series: dict[str, dict[Pairs, float]] = {}
        self._started = started
        self._helped: OrderedDict[str, None] = OrderedDict()
        self._histograms: dict[str, dict[Labels, _Histogram]] = {
            d.name: {} for d in _DEFS if d.kind == "histogram"
        }
        self._plan = _Plan()
        self._counted: OrderedDict[tuple[str, str], None] = OrderedDict()
        for definition in _DEFS:
            # a counter that stands at 0 from the start makes its first increase visible to rate()
            if definition.kind == "counter" and not definition.labels:
                self._numbers[definition.name][()] = 0.0
        for severity in ("page", "warning", "note"):
            self.add("homeostat_incidents_total", 0.0, severity=severity)
            self._histogram_of("homeostat_incident_detect_seconds", (severity,))
            for by in ("homeostat", "others"):
                self._histogram_of("homeostat_incident_heal_seconds", (severity, by))
        for verdict in get_args(Verdict):
            self._histogram_of("homeostat_run_seconds", (verdict,))
        for kind in _CHANGES:
            for by in ("homeostat", "others"):
                self.add("homeostat_changes_total", 0.0, kind=kind, by=by)
        self.set("homeostat_build_info", 1.0, version=__version__)
        self.set("homeostat_start_time_seconds", started)

    def add(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Count; raises KeyError for a name or label that the catalogue does not have."""
        sets, key = self._at(name, labels)
        if key in sets or len(sets) < _MOST_SETS:
            sets[key] = sets.get(key, 0.0) + amount

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge; NaN takes it away (unknown)."""
        sets, key = self._at(name, labels)
        if math.isnan(value):
            sets.pop(key, None)
        elif key in sets or len(sets) < _MOST_SETS:
            sets[key] = value

    def replace(self, name: str, values: Mapping[Labels, float]) -> None:
        """Set all label sets of a gauge at once: what is not in `values` is gone. Keys in catalogue order."""
        self._numbers[name] = dict(list(values.items())[:_MOST_SETS])

    def replace_series(self, name: str, values: Mapping[Pairs, float]) -> None:
        """Set a gauge of chosen series at once: label pairs, those of the series among them. NaN is left out."""
        known = ((key, value) for key, value in values.items() if not math.isnan(value))
        self._of_series[METRICS[name].name] = dict(itertools.islice(known, _MOST_SETS))

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Put one measurement into a histogram."""
        histogram = self._histogram_of(name, tuple(labels[k] for k in METRICS[name].labels))
        if histogram is not None:
            histogram.take(value)

    def _histogram_of(self, name: str, key: Labels) -> _Histogram | None:
        """Return the histogram of a label set, which from now on is shown; None = there are too many."""
        sets = self._histograms[name]
        if key not in sets and len(sets) < _MOST_SETS:
            sets[key] = _Histogram(METRICS[name].buckets)
        return sets.get(key)

    def value(self, name: str, /, **labels: str) -> float:
        """Return what a counter or gauge stands at; NaN when it was never set."""
        sets, key = self._at(name, labels)
        return sets.get(key, math.nan)

    def _at(self, name: str, labels: Mapping[str, str]) -> tuple[dict[Labels, float], Labels]:
        definition = METRICS[name]
        if len(labels) != len(definition.labels):
            raise KeyError(f"{name} has the labels {definition.labels}, not {tuple(labels)}")
        return self._numbers[name], tuple(labels[label] for label in definition.labels)

    def wrote(self, entry: Entry) -> None:
        """Count what the journal has just been told: incidents, pages, decisions, runs by verdict."""
        self.add("homeostat_journal_entries_total", kind=entry.kind)
        body = entry.body
        match entry.kind:
            case "incident":
                severity = str(body.get("severity", "note"))
                if self._first("incident", entry.subject):
                    self.add("homeostat_incidents_total", severity=severity)
                if severity == "page" and self._first("page", entry.subject):
                    self.add("homeostat_pages_total")
                self._times(entry.subject, body, severity)
            case "change":
                by = "homeostat" if str(body.get("by", "")).startswith("homeostat:") else "others"
                self.add("homeostat_changes_total", kind=str(body.get("kind", "")), by=by)
            case "decision":
                allowed = bool(body.get("allowed"))
                playbook = str(body.get("playbook", ""))
                self.add(
                    "homeostat_decisions_total", playbook=playbook, allowed=str(allowed).lower()
                )
                for gate in body.get("gates", ()):
                    if not gate.get("passed", True):
                        self.add("homeostat_gates_closed_total", gate=str(gate.get("name", "")))
            case "run":
                self._ran(entry.subject, body)
            case _:
                pass

    def _ran(self, id_: str, run: Mapping[str, Any]) -> None:
        """Count a run once it has ended."""
        verdict = str((run.get("outcome") or {}).get("verdict", "none"))
        if verdict == "helped":
            self._helped[str(run.get("incident", ""))] = None
            if len(self._helped) > _REMEMBERED:
                self._helped.popitem(last=False)
        if run.get("state") in ENDED and self._first("run", id_):
            playbook = str(run.get("playbook", ""))
            self.add("homeostat_runs_total", playbook=playbook, verdict=verdict)
            if verdict != "none":
                took = run["updated"] - run["started"]
                self.observe("homeostat_run_seconds", took, verdict=verdict)

    def _times(self, id_: str, incident: Mapping[str, Any], severity: str) -> None:
        """Measure how long it took to detect an incident, and to heal it; what is older than we are is not measured."""
        opened = incident.get("opened", 0.0)
        if opened < self._started:
            return
        if self._first("detect", id_):
            # a drift may be as old as it likes: what is found beside it is news all the same
            onsets = [a["onset"] for a in incident.get("anomalies", ()) if a["road"] != "finding"]
            took = max(0.0, opened - min([opened, *onsets]))
            self.observe("homeostat_incident_detect_seconds", took, severity=severity)
        turns = incident.get("turns", ())
        last = turns[-1] if turns else {"event": "", "ts": 0.0}
        if last["event"] != "resolved" or not self._first("heal", f"{id_} {last['ts']}"):
            return
        began, well = opened, None
        for turn in turns:
            match turn["event"]:
                case "opened" | "reopened":
                    began, well = turn["ts"], None
                case "mitigated":
                    well = turn["ts"]
                case "relapsed":
                    well = None
        by = "homeostat" if id_ in self._helped else "others"
        took = max(0.0, (well or last["ts"]) - began)
        self.observe("homeostat_incident_heal_seconds", took, severity=severity, by=by)

    def _first(self, what: str, subject: str) -> bool:
        """Tell whether this is the first time; an incident is written many times and counted once."""
        key = (what, subject)
        if key in self._counted:
            self._counted.move_to_end(key)
            return False
        self._counted[key] = None
        if len(self._counted) > _REMEMBERED:
            self._counted.popitem(last=False)
        return True

    # ---- out

    def numbers(self) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
        """Yield name, labels and value of everything about ourselves, histograms by bucket."""
        self._ourselves()
        for d in _DEFS:
            for key, value in self._numbers[d.name].items():
                yield d.name, tuple(zip(d.labels, key, strict=True)), value
            for pairs, value in self._of_series.get(d.name, {}).items():
                yield d.name, pairs, value
            for key, histogram in self._histograms.get(d.name, {}).items():
                labels = tuple(zip(d.labels, key, strict=True))
                below = itertools.accumulate(histogram.counts)
                for bound, count in zip((*d.buckets, math.inf), below, strict=True):
                    yield f"{d.name}_bucket", (*labels, ("le", _number(bound))), float(count)
                yield f"{d.name}_sum", labels, histogram.sum
                yield f"{d.name}_count", labels, float(sum(histogram.counts))

    def render(self, world: World | None = None, *, openmetrics: bool = False) -> str:
        """Return everything as Prometheus text 0.0.4 or OpenMetrics 1.0."""
        self._ourselves()
        out: list[str] = []
        for definition in _DEFS:
            if definition.kind == "histogram":
                self._histogram(definition, out, openmetrics=openmetrics)
                continue
            name, numbers = definition.name, self._numbers[definition.name]
            of_series = self._of_series.get(name, {})
            if numbers or of_series:
                out.append(_head(definition, openmetrics=openmetrics))
            out.extend(
                f"{name}{_braces(definition.labels, key)} {_number(value)}"
                for key, value in numbers.items()
            )
            out.extend(
                f"{name}{_braces(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))} {_number(value)}"
                for pairs, value in of_series.items()
            )
        if world is not None:
            self._plan.write(world, out, openmetrics=openmetrics)
        if openmetrics:
            out.append("# EOF")
        return "\n".join(out) + "\n"

    def _histogram(self, definition: MetricDef, out: list[str], *, openmetrics: bool) -> None:
        sets = self._histograms[definition.name]
        if not sets:
            return
        name, labels = definition.name, definition.labels
        out.append(_head(definition, openmetrics=openmetrics))
        for key, histogram in sets.items():
            total = 0
            for bound, count in zip((*definition.buckets, math.inf), histogram.counts, strict=True):
                total += count
                braces = _braces((*labels, "le"), (*key, _number(bound)))
                out.append(f"{name}_bucket{braces} {total}")
            out.append(f"{name}_sum{_braces(labels, key)} {_number(histogram.sum)}")
            out.append(f"{name}_count{_braces(labels, key)} {total}")

    def _ourselves(self) -> None:
        """Read what the daemon itself costs: three small files, tens of microseconds."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._numbers["homeostat_agent_cpu_seconds_total"][()] = used.ru_utime + used.ru_stime
        rss, threads = memory_and_threads()
        self.set("homeostat_agent_resident_memory_bytes", rss)
        self.set("homeostat_agent_threads", threads)
        try:
            self.set("homeostat_agent_open_files", sum(1 for _ in Path("/proc/self/fd").iterdir()))
        except OSError:  # no /proc here (macOS): unknown, so it is left out
            self.set("homeostat_agent_open_files", math.nan)


def memory_and_threads() -> tuple[float, float]:
    """Return resident bytes and threads of this process; NaN where there is no /proc."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return math.nan, math.nan
    found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", text, re.MULTILINE))
    return float(found.get("VmRSS", "nan")) * 1024, float(found.get("Threads", "nan"))


def wants_openmetrics(accept: str) -> bool:
    """Tell whether a scraper asks for OpenMetrics, and for no plain text before it (by its q values)."""
    best = {"openmetrics": 0.0, "text": 0.0}
    for part in accept.split(","):
        media, *params = (piece.strip() for piece in part.split(";"))
        weight = next((p[2:] for p in params if p.startswith("q=")), "1")
        try:
            q = float(weight)
        except ValueError:
            q = 0.0
        if media == "application/openmetrics-text":
            best["openmetrics"] = max(best["openmetrics"], q)
        elif media == "text/plain":
            best["text"] = max(best["text"], q)
    return best["openmetrics"] > 0 and best["openmetrics"] >= best["text"]


class _Histogram:
    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def take(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value


class _Plan:
    """Which series stand where in the text: rebuilt when a source's table changes, otherwise only numbers move."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[Series, ...]] = {}
        self._of_metric: list[tuple[str, list[tuple[str, int, str]]]] = []

    def write(self, world: World, out: list[str], *, openmetrics: bool) -> None:
        rows = world.rows()
        same = self._tables.keys() == rows.keys() and all(
            rows[name][0] is table for name, table in self._tables.items()
        )
        if not same:
            self._build({name: row[0] for name, row in rows.items()})
        values: dict[str, list[float]] = {}
        for name, (_, row, when) in rows.items():
            fresh = world.now - when <= world.patience.get(name, math.inf)
            values[name] = np.where(fresh, row, math.nan).tolist()
        for metric, places in self._of_metric:
            lines = [
                prefix + _number(value)
                for source, i, prefix in places
                if (value := values[source][i]) == value  # NaN is unknown
            ]
            if lines:
                d = SIGNALS[metric]
                kind: Kind = "counter" if d.kind == "counter" else "gauge"
                head = MetricDef(d.exported, kind, d.unit, d.help)
                out.append(_head(head, openmetrics=openmetrics))
                out.extend(lines)
        self._names(world, out, openmetrics=openmetrics)

    def _build(self, tables: Mapping[str, tuple[Series, ...]]) -> None:
        self._tables = dict(tables)
        of_metric: dict[str, list[tuple[str, int, str]]] = {}
        taken: set[Series] = set()
        for source in sorted(tables):
            for i, series in enumerate(tables[source]):
                if series in taken or series.metric not in SIGNALS:
                    continue  # two sources with one series: the first speaks, a scraper refuses doubles
                taken.add(series)
                names = ("entity", *(label_name(name) for name, _ in series.labels))
                texts = (series.entity.id, *(text for _, text in series.labels))
                prefix = f"{SIGNALS[series.metric].exported}{_braces(names, texts)} "
                of_metric.setdefault(series.metric, []).append((source, i, prefix))
        self._of_metric = sorted(of_metric.items())

    def _names(self, world: World, out: list[str], *, openmetrics: bool) -> None:
        """Write what entities are called: keys of processes and GPUs are for machines."""
        d = METRICS["homeostat_entity_info"]
        lines = [
            f"{d.name}{_braces(d.labels, (entity.id, entity.kind, name[:80]))} 1"
            for entity in {s.entity: None for table in self._tables.values() for s in table}
            if (name := world.attrs(entity).get("name", ""))
        ]
        if lines:
            out.append(_head(d, openmetrics=openmetrics))
            out.extend(lines)


def _head(d: MetricDef, *, openmetrics: bool) -> str:
    """Return HELP, TYPE and UNIT. Text 0.0.4 has no UNIT: scrapers read it as a comment, people as a unit.

    OpenMetrics names the family of a counter without `_total`, and wants the unit at its end.
    """
    bare = d.name.removesuffix("_total")
    family = bare if openmetrics and d.kind == "counter" else d.name
    text = d.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
    lines = [f"# HELP {family} {text}", f"# TYPE {family} {d.kind}"]
    if d.unit and bare.endswith("_" + d.unit):
        lines.append(f"# UNIT {family} {d.unit}")
    return "\n".join(lines)


def label_name(name: str) -> str:
    """Return a label name that Prometheus accepts and that is not `entity`, which is ours."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"label_{name}" if name in {"entity", "le"} or not name or name[0].isdigit() else name


def _braces(names: tuple[str, ...], texts: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escape(text)}"' for name, text in zip(names, texts, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if value == math.inf:
        return "+Inf"
    if value == -math.inf:
        return "-Inf"
    return repr(value)


# ---------------------------------------------------------------- log

_SECRET: Final = re.compile(r"token|password|secret|authorization|api_?key", re.IGNORECASE)


def set_up_logging(*, as_json: bool) -> None:
    """Write events to standard error: one line each for people, or one JSON object each for machines.

    Values under names like `token` or `password` are struck out, whoever logged them, and secrets that are known
    wherever they stand: in a message, a traceback, what ends the process.
    """
    style: Any = structlog.processors.JSONRenderer()
    if not as_json:
        style = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    # no local variables: a frame that speaks to others holds the secret that it sends
    trace = (
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        if as_json
        else _as_it_is
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _strike_out,
            trace,
            lambda *said: strike(style(*said)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # libraries speak through the standard logger: only their warnings, on the same stream
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Struck("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[stream], force=True)
    sys.excepthook = last_words
    threading.excepthook = lambda args: last_words(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
    )


@contextlib.contextmanager
def logging_aside() -> Iterator[None]:
    """Write errors alone meanwhile, to standard error and without secrets: standard output is for the answer."""
    was_set, before = structlog.is_configured(), structlog.get_config()
    style = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level, _strike_out, lambda *said: strike(style(*said))
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )  # fmt: skip
    try:
        yield
    finally:
        structlog.reset_defaults()
        if was_set:
            structlog.configure(**before)


class _Struck(logging.Formatter):
    """Writes what libraries say, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return strike(super().format(record))


def _as_it_is(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event


def _strike_out(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if _SECRET.search(key):
            event[key] = "***"
    return event
