"""The walk over recorded time: what would have fired, what it would have done, what would have held it back.

    history, file, Prometheus -> stretches --ticks--> Walk.step --> plans -> Rehearsal (nobody carries them out)
    the graph that was       -------^                     '------> incidents, pages, decisions -> Found
    what people and others did then (changes, silences, pauses) --^

The same walk as the daemon's, over a memory and a history of its own: nothing is written where a daemon lives, and no
connector is made. Detectors begin as new ones and learn during the warm-up. Deterministic: the same past, config and
playbooks give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from agent.codec import unpack
from agent.collect import patience_of
from agent.config import Config, edges_of
from agent.graph_past import RECORDED, GraphTape
from agent.history import History
from agent.journal import Entry
from agent.memory import Memory
from agent.model import (
    Change,
    Decision,
    Edge,
    EdgeKind,
    Entity,
    EntityKind,
    Frame,
    Gate,
    Incident,
    Series,
    Sighting,
)
from agent.pipeline import Moment, Walk, ongoing
from agent.plans import Plan
from agent.playbook import Library
from agent.playbook.rehearsal import Fold, Rehearsal
from agent.recorded import Stretch
from agent.rows import Rows
from agent.topology import Binding, EdgePattern
from agent.world import World

TICK_S: Final = 1.0
TOLD: Final = ("change", "silence", "pause", "resume", "label", "reinstate", "mode", "correction")
"""Entries of a journal that came from outside: in a replay they happen again."""
_HISTORY_S: Final = 3600.0
_PARENTS: Final[dict[EntityKind, tuple[EdgeKind, EntityKind]]] = {
    "replica": ("serves", "service"), "version": ("version_of", "model"), "feature": ("feeds", "model"),
}  # fmt: skip
"""Whose key begins with the key of another one: shop/0, fraud/7."""
_ON_HOST: Final = frozenset({"gpu", "process", "service"})


class Past(Protocol):
    """Recorded rows. `start`, `end`: of all of it; infinite where only asking would tell."""

    start: float
    end: float

    def stretches(self, start: float, end: float) -> Iterator[Stretch]:
        """Yield the rows between two moments, one stretch of time after the other. Raises Refused, Unavailable."""
        ...


class FilePast:
    """The rows of one file, as one source."""

    def __init__(self, rows: Rows) -> None:
        self.start, self.end = float(rows.ts[0]), float(rows.ts[-1])
        self._rows = rows

    def stretches(self, start: float, end: float) -> Iterator[Stretch]:
        """Yield it whole, cut to the time that is asked for."""
        rows = self._rows
        at = (rows.ts >= start) & (rows.ts <= end)
        yield [("file", Rows(rows.ts[at], rows.series, rows.values[at]))]


@dataclass(frozen=True, slots=True)
class Act:
    """A plan that would have been suggested, asked for or carried out.

    held   gates that kept it from going further than `mode`
    """

    plan: Plan
    held: tuple[Gate, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about: in another replay of the same past, the first of them is the same act."""
        return self.plan.playbook, self.plan.target, self.plan.incident

    @property
    def does(self) -> tuple[Any, ...]:
        """What it would have done, and when: two plans that do the same need not be written alike."""
        steps = [(s.id, s.use, s.via, tuple(sorted(s.params.items()))) for s in self.plan.steps]
        return self.plan.created, self.plan.mode, repr(steps), repr(self.plan.verify)


@dataclass(slots=True)
class Held:
    """A playbook that fired and that the guard stopped: by which gates, from when to when."""

    playbook: str
    target: Entity
    incident: str
    gates: tuple[Gate, ...]
    first: float
    last: float


@dataclass(slots=True)
class Found:
    """What came of a replay, between `start` and `end`; what was before only taught.

    incidents   by id, as they were at the end; before: those that were open when it began
    silent      incident -> playbooks that speak of its cause and did not fire: (playbook, target, why), as last seen
    """

    start: float
    end: float
    began: float
    incidents: dict[str, Incident] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)
    pages: dict[str, float] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    silent: dict[str, dict[tuple[str, str], str]] = field(default_factory=dict)
    ticks: int = 0
    cells: int = 0
    series: set[Series] = field(default_factory=set)
    graph: bool = False
    """The graph of then was recorded; else it is what agent.yaml and the names of the series say."""


class Replay:
    """One walk over one past.

    told     entries of the journal of then, of the kinds in `TOLD`, in order
    graph    folder with the past of the graph; None = there is none
    folder   an empty one, for the history that diagnosis reads: it must not see the future
    """

    def __init__(
        self, past: Past, config: Config, library: Library, *, folder: Path,
        told: Sequence[Entry] = (), graph: Path | None = None,
    ) -> None:  # fmt: skip
        self._past = past
        self._config = config
        self._told = list(told)
        self._graph = graph
        self._steps: dict[str, float] = {}
        self._tables: dict[str, tuple[Series, ...]] = {}
        self._seen: set[Entity] = set()
        memory = Memory()
        self._fold = Fold(memory)
        self._rehearsal = Rehearsal(
            self._fold, "cannot_tell", "nothing was done: what it would have changed is not known"
        )
        d = config.diagnose
        # what diagnosis looks back at stays in memory: reading it from disk at each tick would be most of the work
        tail_s = _HISTORY_S + max(d.baseline, d.window)
        history = History(folder, age_s=2 * tail_s, size_bytes=1e9, tail_s=tail_s)
        self._walk = Walk.wired(
            config, world=World(), history=history, library=library, memory=memory,
            record=self._fold, step_of=lambda source: self._steps.get(source, TICK_S),
        )  # fmt: skip

    def go(
        self, start: float, end: float, *, warm_s: float = 0.0,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Found:  # fmt: skip
        """Walk from `warm_s` before the start to the end; `progress` is told the time now and then."""
        walk = self._walk
        began = max(start - warm_s, self._past.start)
        found = Found(start, end, began)
        tape = GraphTape(self._graph, began) if self._graph is not None else None
        found.graph = tape is not None and tape.found
        last = -math.inf
        for stretch in self._past.stretches(began, end):
            self._meet(stretch, found)
            for now, frames in ticks(stretch):
                if tape is not None:
                    tape.wind(now, walk.world.topology)
                if last < start <= now:
                    found.before = set(walk.correlator.incidents)
                last = now
                changes = self._heard(now, began)
                self._rehearsal.end(now)
                moment = walk.step(now, frames, changes)
                for plan in moment.plans:
                    self._rehearsal.act(plan, now)
                found.ticks += 1
                found.cells += sum(len(f.values) for f in frames)
                if now >= start:
                    self._note(moment, found)
                if found.ticks % 64 == 0:
                    progress(now)
        progress(end)
        for incident in walk.correlator.incidents.values():
            if incident.id in found.incidents or incident.id in found.before:
                found.incidents[incident.id] = incident
        walk.history.close()
        return found

    def _meet(self, stretch: Stretch, found: Found) -> None:
        """Learn of sources and entities before their first rows come."""
        world = self._walk.world
        for source, rows in stretch:
            found.series.update(rows.series)
            if source not in self._steps:
                stated = self._config.connectors.get(source)
                self._steps[source] = (stated.interval if stated else None) or step_of(rows)
                world.patience[source] = patience_of(self._steps[source])
                world.trusts[source] = (stated.trust if stated else None) or "local"
        if not found.graph:
            self._suppose([s.entity for _, rows in stretch for s in rows.series])

    def _suppose(self, entities: Sequence[Entity]) -> None:
        """Draw the graph that config and the keys of entities say, where nobody recorded one."""
        topology = self._walk.world.topology
        fresh = sorted(set(entities) - self._seen)
        if not fresh:
            return
        hosts = [e for e in {*self._seen, *fresh} if e.kind == "host"]
        host = hosts[0] if len(hosts) == 1 else None
        if not self._seen:
            graph = self._config.topology
            hide = [EdgePattern(e.kind or "", e.src, e.dst) for e in graph.remove]
            topology.configure(edges_of(self._config), hide, labels=graph.labels)
            if host is not None:
                Binding(self._config.services, host).start(topology)
        self._seen.update(fresh)
        for one in fresh:
            edges = []
            if one.kind in _PARENTS and "/" in one.key:
                kind, parent = _PARENTS[one.kind]
                edges.append(Edge(kind, one, Entity(parent, one.key.rpartition("/")[0])))
            if one.kind in _ON_HOST and host is not None:
                edges.append(Edge("runs_on", one, host))
            topology.take(Sighting(one, edges=tuple(edges)), RECORDED)

    def _heard(self, now: float, began: float) -> list[Change]:
        """Fold what people did up to now; return what was changed, for the walk to take."""
        changes = []
        while self._told and self._told[0].ts <= now:
            entry = self._told.pop(0)
            if entry.kind == "change" and entry.ts > began:
                changes.append(unpack(Change, entry.body))
            else:
                self._fold(entry.kind, entry.subject, entry.body, entry.ts)
        return changes

    def _note(self, moment: Moment, found: Found) -> None:
        walk = self._walk
        found.incidents.update(moment.touched)
        for note in moment.notes:
            if note.severity == "page":
                found.pages.setdefault(note.incident, note.ts)
        plans = {(p.playbook, p.target, p.incident): p for p in moment.plans}
        for decision in moment.decisions:
            plan = plans.get((decision.playbook, decision.target.id, decision.incident))
            closed = tuple(g for g in decision.gates if not g.passed)
            if plan is not None:
                found.acts.append(Act(plan, closed))
            elif not decision.allowed:
                self._hold(decision, closed, found)
        for incident, matches in walk.holding.matches.items():
            one = walk.correlator.incidents.get(incident)
            if one is not None and ongoing(one):
                found.silent[incident] = {
                    (m.playbook, m.target.id if m.target else ""): m.reason
                    for m in matches
                    if m.fires is not True
                }

    @staticmethod
    def _hold(decision: Decision, closed: tuple[Gate, ...], found: Found) -> None:
        names = [g.name for g in closed]
        for held in reversed(found.held):
            if (held.playbook, held.target, held.incident) == (
                decision.playbook, decision.target, decision.incident,
            ):  # fmt: skip
                if [g.name for g in held.gates] == names:
                    held.last = decision.ts
                    return
                break
        found.held.append(
            Held(decision.playbook, decision.target, decision.incident, closed, decision.ts, decision.ts)
        )  # fmt: skip


def ticks(stretch: Stretch) -> Iterator[tuple[float, list[Frame]]]:
    """Yield (now, frames) second by second: what was measured within one second is one tick, as in the daemon."""
    pieces = sorted(stretch, key=lambda one: one[0])
    ts = np.concatenate([rows.ts for _, rows in pieces] or [np.zeros(0)])
    if not len(ts):
        return
    piece = np.repeat(np.arange(len(pieces)), [len(rows.ts) for _, rows in pieces])
    row = np.concatenate([np.arange(len(rows.ts)) for _, rows in pieces])
    second = np.ceil(ts / TICK_S)
    order = np.lexsort((piece, ts, second))
    frames: list[Frame] = []
    last = second[order[0]]
    for i, at, p, r in zip(
        second[order].tolist(), ts[order].tolist(), piece[order].tolist(), row[order].tolist(), strict=True
    ):  # fmt: skip
        if i != last:
            yield frames[-1].ts, frames
            frames, last = [], i
        source, rows = pieces[p]
        frames.append(Frame(source, at, rows.series, rows.values[r]))
    yield frames[-1].ts, frames


def step_of(rows: Rows) -> float:
    """Return how often a source was read: the usual distance of its rows, to a tenth of a second."""
    if len(rows.ts) < 2:
        return TICK_S
    return max(round(float(np.median(np.diff(rows.ts))), 1), 0.1)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two replays of one past part: acts only in the first, only in the second, and those that do otherwise."""

    only_first: tuple[Act, ...]
    only_second: tuple[Act, ...]
    otherwise: tuple[tuple[Act, Act], ...]

    def __bool__(self) -> bool:
        """True when something differs."""
        return bool(self.only_first or self.only_second or self.otherwise)


def difference(first: Found, second: Found) -> Difference:
    """Compare what two replays would have done."""
    ours, theirs = _numbered(first), _numbered(second)
    return Difference(
        tuple(act for key, act in ours.items() if key not in theirs),
        tuple(act for key, act in theirs.items() if key not in ours),
        tuple(
            (act, theirs[key])
            for key, act in ours.items()
            if key in theirs and act.does != theirs[key].does
        ),
    )


def _numbered(found: Found) -> dict[tuple[Any, ...], Act]:
    """Return the acts by what they are about, and the how manieth of those each is."""
    out: dict[tuple[Any, ...], Act] = {}
    for act in found.acts:
        n = sum(key[:3] == act.key for key in out)
        out[*act.key, n] = act
    return out


def overlaps(one: Incident, other: Incident, slack_s: float = 60.0) -> bool:
    """Tell whether two incidents are about the same at about the same time."""
    if one.id == other.id:
        return True
    (a, b), (c, d) = _span(one), _span(other)
    if a - slack_s > d or c - slack_s > b:
        return False
    mine = {one.about, *one.also, *one.entities} - {None}
    return bool(mine & {other.about, *other.also, *other.entities})


def _span(one: Incident) -> tuple[float, float]:
    return one.opened, one.resolved or max(one.updated, one.opened)
