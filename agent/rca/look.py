"""How a signal is now against its own past, around one incident: the numbers that rules weigh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import BoolArray, Change, Entity, FloatArray, Incident, Series
from agent.scene import Reader
from agent.topology import Topology
from agent.units import say_duration
from agent.world import World

_ENOUGH_ROWS: Final = 10
"""Fewer rows of past than this say nothing about what is ordinary."""
_SLACK_S: Final = 30.0
"""A change of something else may be told so much too late and still have come first."""
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
    """

    series: Series
    now: float
    usual: float
    scale: float
    rows: int
    onset: float | None = None

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

    ordinary  spans with other incidents of the group: they are no part of the baseline
    """

    now: float
    incident: Incident
    world: World
    read: Reader
    window_s: float
    baseline_s: float
    release_window_s: float
    trouble: Sequence[tuple[float, float]] = ()
    changes: Sequence[Change] = ()

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
        """Whose incident it is."""
        return self.incident.about or self.incident.entities[0]

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
        found = [
            s for s in self.world.find(metric, entity) if labels.items() <= dict(s.labels).items()
        ]
        return self.measure_all(found[:1])[0] if found else None

    def measure_all(self, series: Sequence[Series]) -> list[Measured | None]:
        """Measure many series at once: one read of history."""
        if not series:
            return []
        onset = self.onset
        start = onset - self.baseline_s
        ts, rows = self.read(series, start, self.now + 0.001)
        if not len(ts):
            return [None] * len(series)
        past = ts < onset - _GUARD_S
        for a, b in self.trouble:
            if a < onset - _GUARD_S:
                past &= (ts < a - _GUARD_S) | (ts > b)
        # the newest part of the incident says how it is now; its first moments may still be half well
        recent = ts >= max(onset, self.now - self.window_s)
        return [
            _measured(one, ts, rows[:, j], past=past, recent=recent, onset=onset)
            for j, one in enumerate(series)
        ]

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


def _measured(
    series: Series,
    ts: FloatArray,
    x: FloatArray,
    *,
    past: BoolArray,
    recent: BoolArray,
    onset: float,
) -> Measured | None:
    before = x[past & ~np.isnan(x)]
    during = recent & ~np.isnan(x)
    if not during.any():
        return None
    after = x[during]
    now = float(np.median(after[-max(3, len(after) // 2) :]))
    if len(before) < _ENOUGH_ROWS:
        return None
    usual = float(np.median(before))
    spread = np.percentile(before, (5, 25, 75, 95))
    floor = SIGNALS[series.metric].floor
    scale = max(
        (spread[2] - spread[1]) / 1.349, (spread[3] - spread[0]) / 3.29, 0.02 * abs(usual), floor, 1e-9
    )  # fmt: skip
    half = usual + (now - usual) / 2
    left = (x > half) if now > usual else (x < half)
    began = np.flatnonzero(left & (ts >= onset - 60.0))
    return Measured(
        series, now, usual, float(scale), len(before), float(ts[began[0]]) if len(began) else None
    )
