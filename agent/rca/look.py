"""How a signal is now against its own past, around one incident: the numbers that rules weigh."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.doubts import Doubt, Said
from agent.model import BoolArray, Change, Entity, FloatArray, Incident, Series
from agent.scene import Reader
from agent.topology import Topology
from agent.units import say_duration
from agent.world import World

_ENOUGH_ROWS: Final = 10
"""Fewer rows of past than this say nothing about what is ordinary."""
_EARLIER_S: Final = 60.0
"""An onset is looked for from so long before the incident's own."""
_MOST_VIEWS: Final = 8
_MOST_NEAR: Final = 500
_SLACK_S: Final = 30.0
"""A change of something else may be told so much too late and still have come first."""
_FIRST_S: Final = 3600.0
"""Of an incident that lasts longer its first hour is looked at, and its newest part."""
_BY_LABELS: Final = frozenset(
    f"model.{name}" for name in (
        "accuracy_ratio", "accuracy_high_ratio", "accuracy_recent_ratio", "quality_lost", "relation_changed",
        "worse_than_previous",
    )
)  # fmt: skip
"""Signals of a model that are known when labels come."""
_GUARD_S: Final = 2.0
"""The last moments before an onset may already belong to it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One series around an incident.

    now, usual   medians of the incident and of the ordinary past, in units of the series
    scale        robust standard deviation of the past, not below the catalogue's floor
    deviations   (now - usual) / scale
    onset        when it left half of the way behind, or None
    rows         of past behind it
    trusted      False when its source is stated to be untrusted
    """

    series: Series
    now: float
    usual: float
    scale: float
    rows: int
    onset: float | None = None
    trusted: bool = True

    @property
    def deviations(self) -> float:
        """How far it has moved, in robust deviations; signed."""
        return (self.now - self.usual) / self.scale

    @property
    def ratio(self) -> float:
        """Now against usual; infinite from zero."""
        if abs(self.usual) < 1e-12:
            return math.inf if abs(self.now) > 1e-12 else 1.0
        return self.now / self.usual

    @property
    def moved(self) -> float:
        """Now minus usual, in units of the series."""
        return self.now - self.usual


@dataclass(frozen=True, slots=True)
class Past:
    """What was ordinary for one series before an onset; see `Measured`."""

    usual: float
    scale: float
    rows: int


@dataclass(slots=True)
class Pasts:
    """What has been read of the past before one onset: it is over, so it is read once, not at each look.

    of      what it stands for: onset, and the spans that are no part of it
    known   by series; one with too few rows is none of them, as rows may still come late
    means   by series that were asked for together: mean values, a second without a sample counts as none
    """

    of: tuple[Any, ...] = ()
    known: dict[Series, Past] = field(default_factory=dict)
    means: dict[tuple[Series, ...], FloatArray] = field(default_factory=dict)

    def hold(self, *of: Any) -> None:
        """Forget all when it is about another past."""
        if of != self.of:
            self.of = of
            self.known.clear()
            self.means.clear()


@dataclass(frozen=True, slots=True)
class Suspect:
    """A change that can have caused an incident.

    steps     how many edges lie between the group and what was changed; 0 = the group itself
    before_s  how long before the onset it was; negative = after it
    nearness  1 at the onset, down to a half at the end of the release window
    """

    change: Change
    steps: int
    before_s: float
    nearness: float

    @property
    def when(self) -> str:
        """Say when it was, for people."""
        side = "before" if self.before_s >= 0 else "after"
        return f"{say_duration(abs(self.before_s))} {side} the onset"


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that rules may read about one incident.

    trouble   spans with other incidents of the group: they are no part of the baseline
    rows_s    how old the rows behind the figures of a model are, at most, when their labels come at once
    subject   whose view rules take: each group of the incident in turn; None = whose incident it is
    pasts     what an earlier look at the same incident has read
    doubts    what people said about causes, by kind of group and cause
    corrected what they said of this very incident
    futile    how many acts of this incident had no effect, by the cause that they were meant to heal
    cells     how many values of history have been read: what a look costs
    """

    now: float
    incident: Incident
    world: World
    read: Reader
    window_s: float
    baseline_s: float
    release_window_s: float
    trouble: Sequence[tuple[float, float]] = ()
    doubts: Mapping[tuple[str, str], Doubt] = field(default_factory=dict)
    corrected: Said | None = None
    futile: Mapping[str, int] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    rows_s: float = 0.0
    subject: Entity | None = None
    pasts: Pasts = field(default_factory=Pasts, compare=False, repr=False)
    cells: list[int] = field(default_factory=list, compare=False, repr=False)
    _seen: dict[Series, Measured | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def topology(self) -> Topology:
        """The graph."""
        return self.world.topology

    @property
    def onset(self) -> float:
        """When the first objective of this life of the incident broke, or what opened it began."""
        going = [a for a in self.incident.anomalies if a.end is None]
        stated = [a.onset for a in going if a.road == "objective"]
        return min(stated or [a.onset for a in going] or [self.incident.opened])

    @property
    def group(self) -> Entity:
        """Whose view it is: one group of the incident."""
        return self.subject or self.incident.about or self.incident.entities[0]

    @property
    def host(self) -> Entity | None:
        """The machine that the group runs on, or is."""
        return self.topology.nearest(self.group, "host")

    def views(self) -> list[Look]:
        """Return one view for each group of the incident; machines only where there is nothing that runs on them."""
        first = self.incident.about or self.incident.entities[0]
        groups = list(dict.fromkeys((first, *self.incident.also)))
        served = [g for g in groups if g.kind != "host"]
        return [replace(self, subject=g) for g in (served or groups)[:_MOST_VIEWS]]

    def callees(self) -> list[Entity]:
        """Return what the group calls."""
        edges = self.topology.edges(self.group)
        return [e.dst for e in edges if e.kind == "calls" and e.src == self.group]

    def near(self, kind: str) -> list[Entity]:
        """Return the relatives of the group of one kind, nearest first; a host's services are not its own."""
        if self.group.kind not in {"service", "model"}:
            return []
        return self.topology.related(self.group, kind)

    def broken(self, *metrics: str) -> bool:
        """Tell whether an objective on one of these signals is broken and still is."""
        return any(
            a.series.metric in metrics and a.end is None and a.road == "objective"
            for a in self.incident.anomalies
        )

    def value(self, metric: str, entity: Entity) -> float | None:
        """Return the newest value; None = unknown."""
        return self.world.value(metric, entity)

    def measure(self, metric: str, entity: Entity, **labels: str) -> Measured | None:
        """Measure one signal of one entity; None when it, or its past, is unknown."""
        found = self.find(metric, entity, **labels)
        return self.measure_all(found[:1])[0] if found else None

    def find(self, metric: str, entity: Entity, **labels: str) -> list[Series]:
        """Return the series of a signal of one entity, of those with such labels."""
        found = self.world.find(metric, entity)
        return [s for s in found if labels.items() <= dict(s.labels).items()] if labels else found

    def state(self, metric: str, entity: Entity, usual: float = 0.0) -> Measured | None:
        """Return the newest value of a state, beside the one that is well; None = unknown."""
        value = self.world.value(metric, entity)
        found = self.find(metric, entity)
        if value is None or not found:
            return None
        return Measured(found[0], value, usual, 1.0, 0, None, self.trusted(found[0]))

    def trusted(self, series: Series) -> bool:
        """Tell whether a series counts in full; only a source that is *stated* to be untrusted does not."""
        return self.world.trusts.get(self.world.source(series)) != "untrusted"

    def measure_all(self, series: Sequence[Series]) -> list[Measured | None]:
        """Measure many series at once: one read of history for those that were not asked for before."""
        fresh = [s for s in dict.fromkeys(series) if s not in self._seen]
        self._seen.update(zip(fresh, self._measure(fresh), strict=True))
        return [self._seen[s] for s in series]

    def rows(
        self, series: Sequence[Series], start: float, end: float
    ) -> tuple[FloatArray, FloatArray]:
        """Read history: ts (k,), values (k, n)."""
        ts, rows = self.read(series, start, end)
        self.cells.append(rows.size)
        return ts, rows

    def since(
        self, series: Sequence[Series], before_s: float = 0.0
    ) -> tuple[FloatArray, FloatArray]:
        """Read the incident, and so much before its onset; of one that lasts for hours the beginning and the end."""
        end, late = self.now + 0.001, self.now - self.window_s
        first = self.onset + _FIRST_S
        if late <= first:
            return self.rows(series, self.onset - before_s, end)
        (ts, rows), (now, newest) = (
            self.rows(series, self.onset - before_s, first), self.rows(series, late, end),
        )  # fmt: skip
        return np.concatenate([ts, now]), np.concatenate([rows, newest])

    def _measure(self, series: Sequence[Series]) -> list[Measured | None]:
        if not series:
            return []
        onset = self.onset
        self.pasts.hold(onset, self.baseline_s, tuple(self.trouble))
        unknown = [s for s in series if s not in self.pasts.known]
        if unknown:
            self._look_back(unknown)
        known = [s for s in series if s in self.pasts.known]
        found: dict[Series, Measured] = {}
        if known:
            # the newest part of the incident says how it is now; its first moments may still be half well
            since = max(onset, self.now - self.window_s)
            ts, rows = self.since(known, _EARLIER_S)
            # columns of one source have the same gaps: each such group is one dense table
            for seen, columns in _alike(rows):
                pasts = [(known[j], self.pasts.known[known[j]]) for j in columns]
                some = _measured(pasts, ts[seen], rows[seen][:, columns], since=since, onset=onset)
                found.update((m.series, m) for m in some)
        measured = (found.get(s) for s in series)
        return [
            m if m is None or self.trusted(m.series) else replace(m, trusted=False)
            for m in measured
        ]

    def _look_back(self, series: Sequence[Series]) -> None:
        """Read what was ordinary before the onset."""
        border = self.onset - _GUARD_S
        ts, rows = self.rows(series, self.onset - self.baseline_s, border)
        past = ts < border
        for a, b in self.trouble:
            if a < border:
                past &= (ts < a - _GUARD_S) | (ts > b)
        for seen, columns in _alike(rows[past]):
            some = [series[j] for j in columns]
            self.pasts.known.update(_ordinary(some, rows[past][seen][:, columns]))

    def means(self, series: Sequence[Series]) -> tuple[FloatArray, FloatArray] | None:
        """Return the means (n,) of the incident and of the past, where no sample counts as nothing; None = no rows.

        For what is only sampled when it is much: the busiest processes.
        """
        onset = self.onset
        self.pasts.hold(onset, self.baseline_s, tuple(self.trouble))
        _, during = self.since(series)
        if not len(during):
            return None
        key = tuple(series)
        usual = self.pasts.means.get(key)
        if usual is None:
            ts, rows = self.rows(series, onset - self.baseline_s, onset - _GUARD_S)
            before = rows[ts < onset - _GUARD_S]
            usual = np.nan_to_num(before).mean(axis=0) if len(before) else np.zeros(len(series))
            if len(before):
                self.pasts.means[key] = usual
        return np.nan_to_num(during).mean(axis=0), usual

    def gather(self, needs: Mapping[str, Sequence[str]]) -> None:
        """Measure what rules will ask for, in one read of history. needs: kind of entity -> signals."""
        near = [e for e, _ in itertools.islice(self.topology.around(self.group), _MOST_NEAR)]
        near += [e for e, _ in itertools.islice(self.topology.upstream(self.group), _MOST_NEAR)]
        host = self.host
        if host is not None:
            near += [e.src for e in self.topology.edges(host) if e.src.kind == "gpu"]
        self.measure_all(
            [
                s
                for e in dict.fromkeys(near)
                for metric in needs.get(e.kind, ())
                for s in self.world.find(metric, e)
            ]
        )

    def suspects(self) -> list[Suspect]:
        """Return changes of the group and of what it depends on that can have caused this, the nearest first.

        None of our own acts, and no release that another one has replaced before the onset: it runs no more. What
        is changed further away must come first; the clock of who tells it may be a little off.
        """
        onset = self.onset
        recent = [
            c
            for c in dict.fromkeys(self.changes)
            if not c.ours and -self.window_s <= onset - c.ts <= self.release_window_s
        ]
        if not recent:
            return []  # the walk below is long where many call each other
        steps = dict(self.topology.upstream(self.group))
        found = []
        runs: dict[tuple[Entity, str], Change] = {
            (c.entity, c.kind): c
            for c in sorted(self.changes, key=lambda c: c.ts)
            if c.kind in {"release", "scale"} and c.ts <= onset
        }
        for change in recent:
            away = steps.get(change.entity)
            before_s = onset - change.ts
            if away is None or (away > 0 and before_s < -_SLACK_S):
                continue
            if before_s >= 0 and runs.get((change.entity, change.kind), change) != change:
                continue
            age = max(0.0, before_s) / max(1.0, self.release_window_s)
            found.append(Suspect(change, away, before_s, 1.0 - 0.5 * age))
        return sorted(found, key=lambda s: (s.steps, abs(s.before_s), s.change.entity))

    def release(self, entity: Entity, *kinds: str) -> Change | None:
        """Return the newest change of an entity that can have caused this, not one of our own."""
        for change in sorted(self.changes, key=lambda c: -c.ts):
            if (
                change.entity == entity
                and change.kind in kinds
                and not change.ours
                and self.onset - self.release_window_s <= change.ts <= self.onset + self.window_s
            ):
                return change
        return None

    def release_of(self, model: Entity) -> Change | None:
        """Return the release that can have made a model poor.

        Labels prove a loss only when they come: then it may be long ago, if those of the version in use are new.
        """
        found = self.release(model, "release")
        if found is not None or not self._just_judged(model):
            return found
        released = [
            c for c in self.changes
            if c.entity == model and c.kind == "release" and c.ts <= self.onset
        ]  # fmt: skip
        newest = max(released, key=lambda c: c.ts, default=None)
        return (
            None if newest is None or newest.ours else newest
        )  # what we went back to is no release

    def _just_judged(self, model: Entity) -> bool:
        """Tell whether labels find a model poor, and the first ones of the version in use came shortly before."""
        by_labels = any(
            a.series.entity == model and a.end is None and a.series.metric in _BY_LABELS
            for a in self.incident.anomalies
        )
        age = self.value("model.version_judged_seconds", model) if by_labels else None
        if age is None:
            return False
        before_s = self.onset - (self.now - age)
        return -self.window_s <= before_s <= self.release_window_s + self.rows_s


def _alike(rows: FloatArray) -> list[tuple[BoolArray, list[int]]]:
    """Group columns by where they have values: (rows that have, columns)."""
    has = ~np.isnan(rows)
    groups: dict[bytes, tuple[BoolArray, list[int]]] = {}
    for j in range(rows.shape[1]):
        groups.setdefault(has[:, j].tobytes(), (has[:, j], []))[1].append(j)
    return list(groups.values())


def _ordinary(series: Sequence[Series], before: FloatArray) -> Iterator[tuple[Series, Past]]:
    """Say what is ordinary for the columns of `before` (rows, n), which has no gaps; nothing when it is short."""
    if len(before) < _ENOUGH_ROWS:
        return
    low, q1, usual, q3, high = np.percentile(before, (5, 25, 50, 75, 95), axis=0)
    floor = np.array([SIGNALS[s.metric].floor for s in series])
    scale = np.maximum.reduce(
        [(q3 - q1) / 1.349, (high - low) / 3.29, 0.02 * np.abs(usual), floor, np.full(len(series), 1e-9)]
    )  # fmt: skip
    for j, one in enumerate(series):
        yield one, Past(float(usual[j]), float(scale[j]), len(before))


def _measured(
    pasts: Sequence[tuple[Series, Past]], ts: FloatArray, x: FloatArray, *, since: float, onset: float
) -> Iterator[Measured]:  # fmt: skip
    """Measure the columns of x (rows, n), which has no gaps, from `since` on; nothing when there are no rows."""
    after = x[ts >= since]
    if not len(after):
        return
    now = np.median(after[-max(3, len(after) // 2) :], axis=0)
    usual = np.array([past.usual for _, past in pasts])
    half = usual + (now - usual) / 2
    late = ts >= onset - _EARLIER_S
    left = np.where(now > usual, x[late] > half, x[late] < half)
    first = left.argmax(axis=0)
    began = ts[late]
    for j, (one, past) in enumerate(pasts):
        yield Measured(
            one, float(now[j]), past.usual, past.scale, past.rows,
            float(began[first[j]]) if left[first[j], j] else None,
        )  # fmt: skip
