"""What the daemon told, laid beside what was really broken: which faults were found, and which alarms were false.

    lines of the tap --told--> Told (one abnormal stretch of one series) --find--> Finding of each fault
                                                                        '--ordinary--> false alarms by metric and family

A fault is found when something that names it begins within it: the signal and the thing must be among those that the
fault moves, not in the other direction. What went on already when it began names nothing.

Pure: no clock, no files. Times are unix seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

EARLY_S = 1.5
"""An onset lies a row before the row that showed it, and a fault begins between two rows."""


@dataclass(frozen=True, slots=True)
class Told:
    """One abnormal stretch of one series, as the monitor told it.

    at      when it was told first; onset, end: the stretch itself, end None = it went on when we stopped
    alone   it was told by its own p or limit, not first as a carrier of a group
    """

    at: float
    onset: float
    end: float | None
    source: str
    metric: str
    entity: str
    labels: tuple[tuple[str, str], ...]
    road: str
    family: str
    direction: int
    p: float
    deviations: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    harm: bool = False
    alone: bool = True

    @property
    def side(self) -> int:
        """+1 above the band, -1 below it, 0 = it can not be told.

        Not `direction`: of a mean that has moved, or of a shape, the value of the row itself says nothing.
        """
        if self.value is None:
            return 0
        above = self.high is not None and self.value > self.high
        below = self.low is not None and self.value < self.low
        return int(above) - int(below)

    @property
    def series(self) -> str:
        """The series as people read it."""
        inner = ",".join(f"{k}={v}" for k, v in self.labels)
        return f"{self.metric}{{{inner}}}" if inner else self.metric


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that a fault moves. Globs over metric and entity id; labels that must be there; direction 0 = any.

    What does not say in which direction it went counts, too.
    """

    metric: str
    entity: str = "host:*"
    labels: Mapping[str, str] = field(default_factory=dict)
    direction: int = 0

    def shows(self, told: Told) -> bool:
        """Tell whether this is the sign that was told."""
        there = dict(told.labels)
        return (
            fnmatchcase(told.metric, self.metric)
            and fnmatchcase(told.entity, self.entity)
            and all(fnmatchcase(there.get(k, ""), v) for k, v in self.labels.items())
            and (self.direction == 0 or told.side in {0, self.direction})
        )


@dataclass(frozen=True, slots=True)
class Broken:
    """What was really broken, from when until when, how, and by what one would know it."""

    name: str
    start: float
    end: float
    signs: tuple[Sign, ...]
    how: str = ""
    pages: bool = False
    """Users are hurt: a page is right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one fault. first: what named it first, None = missed; roads: first delay by each road."""

    fault: Broken
    first: Told | None
    roads: Mapping[str, float]
    signs: tuple[Told, ...]
    beside: tuple[Told, ...]
    incident: Mapping[str, Any] | None
    page: Mapping[str, Any] | None

    @property
    def delay_s(self) -> float | None:
        """From the moment it was broken until it was named."""
        return None if self.first is None else self.first.at - self.fault.start


def read(lines: Iterable[Mapping[str, Any]]) -> list[Told]:
    """Join the tap's lines: the first of a stretch says when it was told, the last how it ended."""
    out: dict[tuple[str, str, float], Told] = {}
    for one in lines:
        if one["what"] != "anomaly":
            continue
        labels = tuple(sorted((k, v) for k, v in one["labels"]))
        own = one["road"] == "objective"
        series = f"{one['metric']}{one['entity']}{labels}"
        key = (series, one["family"] if own else "", one["onset"])
        told = Told(
            one["at"], one["onset"], one["end"], one["source"], one["metric"], one["entity"], labels, one["road"],
            one["family"], one["direction"], one["p"], one["deviations"], one["value"], one["low"], one["high"],
            one["harm"], one["together"] is None,
        )  # fmt: skip
        before = out.get(key)
        # how it was told first stays; when it ended comes later
        out[key] = told if before is None else replace(before, end=told.end)
    return sorted(out.values(), key=lambda t: (t.at, t.series))


def find(
    fault: Broken,
    told: Sequence[Told],
    incidents: Iterable[Mapping[str, Any]] = (),
    pages: Iterable[Mapping[str, Any]] = (),
) -> Finding:
    """Say what named a fault, by which road, how late; incidents as the API gives them, pages as they were sent.

    An incident that was open before may take the fault in: it counts from the moment that evidence of it was told.
    """
    within = [
        t for t in told
        if fault.start - EARLY_S <= t.onset <= fault.end and fault.start <= t.at <= fault.end + EARLY_S
    ]  # fmt: skip
    signs = [t for t in within if any(sign.shows(t) for sign in fault.signs)]
    roads: dict[str, float] = {}
    for one in signs:
        roads.setdefault(one.road, one.at - fault.start)
    opened = [
        i for i in incidents
        if fault.start <= i["opened"] <= fault.end + EARLY_S
        and any(_same(a, t) for a in i["anomalies"] for t in signs)
    ]  # fmt: skip
    paged = [p for p in pages if fault.start <= p["ts"] <= fault.end + EARLY_S and p["severity"] == "page"]  # fmt: skip
    return Finding(
        fault, signs[0] if signs else None, roads, tuple(signs), tuple(t for t in within if t not in signs),
        min(opened, key=lambda i: i["opened"], default=None),
        min(paged, key=lambda p: p["ts"], default=None) if fault.pages else None,
    )  # fmt: skip


def _same(view: Mapping[str, Any], told: Told) -> bool:
    """Tell whether an anomaly of the API is one that the tap wrote: they name series alike, onsets to the second."""
    inner = "".join(f",{k}={v}" for k, v in told.labels)
    return bool(
        view["series"] == f"{told.metric}{{{told.entity}{inner}}}"
        and abs(view["onset"] - told.onset) < 1.0
    )


def chance(fault: Broken, told: Iterable[Told], start: float, end: float) -> float:
    """Return how many of its signs a stretch as long as the fault shows by chance: measured while all was well."""
    ordinary = sum(start <= t.at < end and any(s.shows(t) for s in fault.signs) for t in told)
    return ordinary * (fault.end - fault.start) / (end - start)


def outside(ts: float, faults: Iterable[Broken], after_s: float) -> bool:
    """Tell whether a moment is in no fault nor in the `after_s` seconds in which it may still echo."""
    return not any(f.start - EARLY_S <= ts <= f.end + after_s for f in faults)


def by_signal(told: Iterable[Told]) -> list[tuple[str, str, str, int]]:
    """Count (metric, family, road), the most frequent first: what one learns from."""
    counts = Counter((t.metric, t.family, t.road) for t in told)
    return [(*key, n) for key, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))]
