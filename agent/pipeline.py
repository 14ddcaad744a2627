"""The walk: what happens to a tick, in one literal list.

    frames, changes -> learn -> detect -> foretell -> correlate -> explain -> decide -> plans, pages

Synchronous, pure but for `record` (append to the journal and fold into memory), on one thread: the same code walks
over live ticks and over recorded history. Time is `now`; nobody here looks at a clock.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from agent import guard, match, rca, registry
from agent.alerts import Alerts
from agent.budget import Ledger, Promise
from agent.changes import Changes
from agent.codec import pack
from agent.correlate import Correlator
from agent.doubts import doubts_of
from agent.error_budget import PATIENCE_S, SOURCE, ErrorBudgets
from agent.examples import Examples
from agent.handoff import GAVE_UP, NOBODY, needs
from agent.looks import Looks
from agent.model import (
    Anomaly,
    Cause,
    Change,
    Decision,
    Diagnosis,
    Entity,
    Frame,
    Incident,
    IntArray,
    Run,
    Series,
)
from agent.monitor import MakeDetector, Monitor
from agent.objectives import aims_of, limits_of
from agent.ports import Detector, GroupView, Note, Signal
from agent.rca import Look
from agent.scene import Scene
from agent.telling import note_of
from agent.trouble import Key, key_of
from agent.turns import Turns
from agent.world import World

if TYPE_CHECKING:
    from agent.config import Config
    from agent.graph_past import GraphPast
    from agent.history import History
    from agent.memory import Memory
    from agent.plans import Plan
    from agent.playbook import Library

_MOST_CHANGES: Final = 20
"""Suspects that an incident keeps, the nearest ones."""

_ROUNDS: Final = 20_000.0
"""What a tick may spend on rounds of matching and guard: about 20 ms of a core of 2020, of which"""
_A_ROUND, _A_BOOK, _A_GUARD = 30.0, 30.0, 400.0
"""a round, a playbook that is asked and one that fires take so much."""
_MOST_USUAL: Final = 20_000
_HAND_OVER_S: Final = 5.0

Record = Callable[[str, str, dict[str, Any], float], None]
"""(kind, subject, body, ts): append to the journal and fold into memory."""


@dataclass(slots=True)
class Moment:
    """One tick on its way through the stages."""

    now: float
    frames: list[Frame]
    changes: list[Change]
    signals: Sequence[Signal] = ()
    anomalies: list[Anomaly] = field(default_factory=list)
    touched: dict[str, Incident] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


@dataclass(slots=True)
class Walk:
    """The rooms that a tick walks through, and what they remember."""

    config: Config
    world: World
    history: History
    monitor: Monitor
    correlator: Correlator
    library: Library
    memory: Memory
    record: Record
    holding: match.HoldingState
    looks: Looks = field(default_factory=Looks)
    rounds: Turns = field(
        default_factory=lambda: Turns(_ROUNDS, 6 * _ROUNDS, _A_ROUND + 10 * _A_BOOK)
    )
    usual: dict[tuple[Series, float], float] = field(default_factory=dict)
    paused_file: bool = False
    journal_well: bool = True
    bugs: Callable[[str, Exception], None] | None = None
    changes: list[Change] = field(default_factory=list)
    alerts: Alerts = field(default_factory=Alerts)
    examples: Examples = field(default_factory=Examples)
    noticed: Changes = field(default_factory=Changes)
    journalled: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = field(default_factory=dict)
    foretold: Callable[[float], list[Anomaly]] | None = None
    """What will be full soon: the alarms of `agent.forecasts` at a moment."""
    budgets: ErrorBudgets = field(default_factory=ErrorBudgets)
    graph_past: GraphPast | None = None
    """Where the graph is written to beside history."""
    handed: float = -math.inf
    """When it was last asked which incidents are a person's."""

    @classmethod
    def wired(
        cls,
        config: Config,
        *,
        world: World,
        history: History,
        library: Library,
        memory: Memory,
        record: Record,
        step_of: Callable[[str], float],
        detector: MakeDetector | None = None,
    ) -> Walk:
        """Return the walk that a config asks for: over live ticks and over recorded ones the same.

        step_of    source -> seconds between its rows
        detector   makes the detector of a source; None = the bank alone
        """
        d = config.diagnose
        monitor = Monitor(
            detector or bank, limits_of(config), step_of, _view, Ledger(Promise.of(config.budget)), world.topology
        )  # fmt: skip
        correlator = Correlator(
            world.topology, d.window, d.resolve_after, d.reopen_within, world.fresh, world.lost
        )
        world.patience[SOURCE] = PATIENCE_S
        return cls(
            config, world, history, monitor, correlator, library, memory, record, match.HoldingState(),
            budgets=ErrorBudgets(aims_of(config)),
        )  # fmt: skip

    def step(
        self,
        now: float,
        frames: Sequence[Frame],
        changes: Sequence[Change] = (),
        signals: Sequence[Signal] = (),
    ) -> Moment:
        """Walk one tick; returns what came of it. Plans are already recorded: start them."""
        moment = Moment(now, list(frames), list(changes), signals)
        for stage in STAGES:
            stage(self, moment)
        return moment

    def scene(self, target: Entity, cause: Cause | None, since: float | None) -> Scene:
        """Return what expressions see for a target."""
        return Scene(
            self.world, target, read=self.history.read, cause=cause, since=since,
            baseline_s=self.config.diagnose.baseline, usual=self.usual,
        )  # fmt: skip


def bank(step_s: float, n: int) -> Detector:
    """Return a fresh bank of detectors over n series."""
    found = registry.detector.get("bank")
    made: Detector = found(found.Config(step_s=step_s), n)
    return made


def _view(step_s: float, of: IntArray) -> GroupView:
    found = registry.view.get("together")
    made: GroupView = found(found.Config(step_s=step_s), of)
    return made


# ---------------------------------------------------------------- the stages


def learn(walk: Walk, moment: Moment) -> None:
    """Put frames into the world and into history; remember changes, each once."""
    past = list(walk.memory.changes.values())
    moment.changes = walk.noticed.take(moment.frames, moment.changes, past)
    # of a recorded past, too, budgets are counted anew: by the objectives of now
    moment.frames = [f for f in moment.frames if f.source != SOURCE]
    for frame in moment.frames:
        walk.world.take(frame)
        walk.history.append(frame)
    burnt = walk.budgets.take(moment.now, moment.frames, walk.world)
    if burnt is not None:
        walk.world.take(burnt)
        walk.history.append(burnt)
        moment.frames.append(burnt)
    walk.world.now = max(walk.world.now, moment.now)
    walk.world.topology.fade(moment.now)
    if walk.graph_past is not None:
        walk.graph_past.take(moment.now, walk.world.topology)
    for change in moment.changes:
        walk.record("change", change.entity.id, pack(change), moment.now)
    walk.examples.forget(moment.now)
    far = moment.now - walk.config.diagnose.release_window - walk.config.diagnose.window
    # the memory knows our own acts, too, and what was before a restart; labels may prove a version worse much later
    walk.changes = [
        c for c in walk.memory.changes.values()
        if c.ts >= far or (c.kind == "release" and c.entity.kind == "model")
    ]  # fmt: skip


def detect(walk: Walk, moment: Moment) -> None:
    """Score every frame. A detector with a bug rests for this frame, the others go on."""
    memory = walk.memory
    walk.monitor.ledger.heed(memory.labels.values(), memory.labelled, moment.now)
    for frame in moment.frames:
        try:
            moment.anomalies += walk.monitor.take(frame)
        except (
            Exception
        ) as error:  # the one border of detect: a plug-in's bug must not end the walk
            if walk.bugs is None:
                raise
            walk.bugs(f"detector of {frame.source}", error)


def foretell(walk: Walk, moment: Moment) -> None:
    """Add what will be full soon: forecasts are made beside the ticks, here only their alarms are read off."""
    if walk.foretold is not None:
        moment.anomalies += walk.foretold(moment.now)


def correlate(walk: Walk, moment: Moment) -> None:
    """Join anomalies and changes into incidents."""
    moment.anomalies += walk.alerts.take(moment.now, moment.signals, walk.world)
    held = {run.incident: run.id for run in walk.memory.live_runs()}
    for incident in walk.correlator.update(moment.now, moment.anomalies, moment.changes, held=held):
        moment.touched[incident.id] = incident
        if incident.severity == "note" and incident.id not in walk.memory.incidents:
            walk.monitor.ledger.note(moment.now)


def explain(walk: Walk, moment: Moment) -> None:
    """Diagnose incidents whose evidence is another one, and again while they go on, as far as a tick may go."""
    looks, now = walk.looks, moment.now
    incidents = walk.correlator.incidents
    held = {run.incident for run in walk.memory.live_runs()}
    newest = walk.changes[-1] if walk.changes else None
    wanted: dict[str, bool] = {}
    urgent: set[str] = set()
    for incident in incidents.values():
        looks.heed(incident, newest, now, walk.memory.corrections.get(incident.id))
        if not looks.due(incident, now) or not _ready(walk, incident, held, now):
            continue
        wanted[incident.id] = incident.severity == "page"
        if looks.urgent(incident):
            urgent.add(incident.id)
    turns = looks.turns.begin(wanted, urgent)
    for id_ in wanted:
        if id_ in turns:
            _diagnose(walk, incidents[id_], moment)
    for incident in walk.correlator.join_causes(now, held):
        moment.touched[incident.id] = incident
    for incident in moment.touched.values():
        _journal(walk, incident, moment)
    looks.keep(incidents.keys())


def _ready(walk: Walk, incident: Incident, held: Collection[str], now: float) -> bool:
    """Tell whether an incident can be diagnosed: it has gathered evidence, or it goes on and no run works on it."""
    if incident.diagnosis is not None:
        # while a run acts, what moves is its doing; what is over has been explained
        return incident.id not in held and ongoing(incident, walk.correlator.unseen(incident.id))
    onset = min([incident.updated, *(a.onset for a in incident.anomalies if a.end is None)])
    opened = max(incident.opened, onset) if incident.reopened else incident.opened
    return not 0.0 <= now - opened < walk.config.diagnose.settle  # a clock that was set back: look


def again(walk: Walk, incident: Incident, now: float) -> Incident:
    """Return an incident with the diagnosis of this moment: a person's yes is to what is true now, too."""
    unseen = walk.correlator.unseen(incident.id)
    if not ongoing(incident, unseen) or not _stale(walk, incident, now):
        return incident
    moment = Moment(now, [], [])
    updated = _diagnose(walk, incident, moment)
    _journal(walk, updated, moment)
    return updated


def _diagnose(walk: Walk, incident: Incident, moment: Moment) -> Incident:
    """Look at an incident as it is now; returns it with what was found."""
    seen = look(walk, incident, moment.now)
    diagnosis = rca.diagnose(seen)
    same = rca.same_answer(diagnosis, incident.diagnosis)
    before = incident.diagnosis
    if same and before is not None:
        diagnosis = replace(diagnosis, ts=before.ts)
    stands = before is not None and _first(before) == _first(diagnosis)
    diagnosis = replace(
        diagnosis, since=(before.since or before.ts) if before and stands else diagnosis.ts
    )
    updated = replace(
        incident, diagnosis=diagnosis, traces=_traces(walk, incident), changes=changes_of(incident, seen),
    )  # fmt: skip
    walk.correlator.put(updated)
    walk.looks.looked(seen)
    if incident.id in moment.touched or not same:
        moment.touched[incident.id] = updated
    return updated


def _first(diagnosis: Diagnosis) -> tuple[str, Entity] | None:
    return (diagnosis.top.kind, diagnosis.top.entity) if diagnosis.top else None


def decide(walk: Walk, moment: Moment) -> None:
    """Match playbooks, ask the guard, plan what is allowed; say what people must know."""
    incidents = walk.correlator.incidents
    ready = [i for i in incidents.values() if i.diagnosis is not None and ongoing(i)]
    turns = walk.rounds.begin(
        {i.id: walk.holding.keen(i.id) for i in ready},
        {i.id for i in ready if walk.looks.fresh(i, moment.now)},
    )
    for incident in ready:
        _page(walk, incident, moment)
        if incident.id in turns:
            _act(walk, incident, moment)
    if not 0.0 <= moment.now - walk.handed < _HAND_OVER_S:
        walk.handed = moment.now
        _hand_over(walk, ready, moment)
    walk.rounds.keep(incidents.keys())
    walk.holding.keep(incidents.keys())
    if len(walk.usual) > _MOST_USUAL:
        walk.usual.clear()


def decide_one(walk: Walk, incident: Incident, moment: Moment) -> None:
    """Decide for one incident: one round."""
    if incident.diagnosis is not None and ongoing(incident):
        _page(walk, incident, moment)
        _act(walk, incident, moment)


Stage = Callable[[Walk, Moment], None]
STAGES: Final[tuple[Stage, ...]] = (learn, detect, foretell, correlate, explain, decide)


# ---------------------------------------------------------------- details


def ongoing(incident: Incident, unseen: Collection[Key] = ()) -> bool:
    """Tell whether what opened an incident goes on, or whether it only waits to be resolved.

    unseen   what nobody has seen since a restart: it counts for nothing
    """
    if incident.state in {"mitigated", "resolved"}:
        return False
    going = [
        a for a in incident.anomalies if a.end is None and not (unseen and key_of(a) in unseen)
    ]
    return any(a.road == "objective" for a in going) or (
        incident.severity == "note" and bool(going)
    )


def _futile(memory: Memory, incident: Incident) -> dict[str, int]:
    """Count the acts of an incident, in this life of it, that had no effect, by the cause they were meant to heal."""
    out: dict[str, int] = {}
    for run in memory.runs.values():
        if run.incident != incident.id or run.outcome is None or run.started < incident.opened:
            continue
        plan = memory.plans.get(run.id)
        if plan is not None and plan.cause and run.outcome.verdict == "no_effect":
            out[plan.cause] = out.get(plan.cause, 0) + 1
    return out


def look(walk: Walk, incident: Incident, now: float) -> Look:
    """Return what diagnosis may read about an incident."""
    settings = walk.config.diagnose
    group = incident.entities[0] if incident.entities else Entity("host", "unknown")
    found = Look(
        now, incident, walk.world, walk.history.read, settings.window, settings.baseline,
        settings.release_window, changes=(*walk.changes, *incident.changes),
        rows_s=walk.config.models.window,
        pasts=walk.looks.pasts(incident),
        doubts=doubts_of(walk.memory.corrections.values(), now),
        corrected=walk.memory.corrections.get(incident.id), futile=_futile(walk.memory, incident),
    )  # fmt: skip
    group = found.group
    onset = found.onset
    trouble = [
        (a, b)
        for a, b in walk.correlator.ordinary(group, onset - settings.baseline, onset)
        if b < onset
    ]
    return replace(found, trouble=trouble)


def _traces(walk: Walk, incident: Incident) -> tuple[str, ...]:
    """Return examples of bad requests in an incident; those that were found stay when nothing newer is."""
    groups = [g for g in (incident.about, *incident.also) if g is not None and g.kind != "host"]
    models = [m.key for g in groups for m in walk.world.topology.related(g, "model")]
    began = min([incident.opened, *(a.onset for a in incident.anomalies if a.harm)])
    found = walk.examples.of(dict.fromkeys(models), began)
    return found if len(found) >= len(incident.traces) else incident.traces


def changes_of(incident: Incident, seen: Look) -> tuple[Change, ...]:
    """Return the changes of an incident, with those of what it depends on that may have caused it."""
    near = [s.change for s in seen.suspects()][:_MOST_CHANGES]
    released = (seen.release_of(model) for model in seen.near("model"))
    near += [change for change in released if change is not None]
    return tuple(sorted({*incident.changes, *near}, key=_order))


def _order(c: Change) -> tuple[Any, ...]:
    return c.ts, c.entity, c.kind, c.before, c.after, c.by, c.id, c.text


def _journal(walk: Walk, incident: Incident, moment: Moment) -> None:
    """Write an incident when a person would see a difference, not at each tick of an excursion."""
    of = (
        incident.turns, incident.severity, incident.changes, incident.also, incident.absorbed,
        incident.more, incident.traces, incident.anomalies, incident.diagnosis,
    )  # fmt: skip
    before, last = walk.journalled.get(incident.id) or ((), ())
    if before and all(map(operator.is_, of, before)) and not _nearness(incident, moment.now):
        return
    top = incident.diagnosis.top if incident.diagnosis else None
    seen = (
        incident.turns[-1:], incident.severity, len(incident.changes), _roughly(len(incident.also)),
        incident.absorbed, _roughly(incident.more), bool(incident.traces),
        frozenset((str(a.series), a.end is None) for a in incident.anomalies if a.road == "objective"),
        _nearness(incident, moment.now), len(incident.anomalies) // 5,
        top and (top.kind, top.entity, round(top.probability * 5)),
    )  # fmt: skip
    walk.journalled[incident.id] = of, seen
    if last == seen:
        return
    if incident.state == "resolved":
        del walk.journalled[incident.id]
    walk.record("incident", incident.id, pack(incident), moment.now)


def _roughly(n: int) -> int:
    """Count small numbers exactly and large ones in doublings: a storm that grows is not written at each step."""
    return n if n < 16 else 16 + n.bit_length()


def _nearness(incident: Incident, now: float) -> tuple[int, ...]:
    """Return how near what is foretold is, in steps of a fifth: what people read must not be old."""
    due = [a.ahead.median for a in incident.anomalies if a.ahead is not None and a.end is None]
    left = [60.0 if ts is None else max(ts - now, 60.0) for ts in due]
    return tuple(round(math.log(s) / 0.2) for s in left)


def _page(walk: Walk, incident: Incident, moment: Moment) -> None:
    """Tell people once a life of an incident that harms."""
    key = f"page:{incident.id}:{incident.reopened}"
    if incident.severity != "page" or key in walk.memory.notes or incident.diagnosis is None:
        return
    note = note_of(key, incident, walk.world, moment.now)
    walk.record("note", key, pack(note), moment.now)
    moment.notes.append(note)


def _act(walk: Walk, incident: Incident, moment: Moment) -> None:
    """Ask the guard about every playbook that matches, and plan what it lets through."""
    found = match.candidates(
        walk.library, incident, walk.world, walk.holding, moment.now,
        scene=lambda target, cause: walk.scene(target, cause, _onset(incident)), memory=walk.memory,
    )  # fmt: skip
    walk.rounds.spend(incident.id, _A_ROUND + _A_GUARD * len(found) + walk.holding.asked * _A_BOOK)
    before = len(moment.decisions)
    for playbook, target, scene in found:
        decision = guard.decide(
            playbook, target, incident, memory=walk.memory, world=walk.world, config=walk.config,
            now=moment.now, paused_file=walk.paused_file, journal_well=walk.journal_well,
            unseen=walk.correlator.unseen(incident.id),
        )  # fmt: skip
        news = _news(walk, decision)
        if news and _stale(walk, incident, moment.now):
            # nothing is decided on what was true some ticks ago; without room it waits for the next tick
            del moment.decisions[before:]
            if walk.looks.turns.left > 0:
                again = _diagnose(walk, incident, moment)
                _journal(walk, again, moment)
                _act(walk, again, moment)
            return
        moment.decisions.append(decision)
        if not news:
            continue
        walk.record("decision", f"{playbook.id}|{target.id}", pack(decision), moment.now)
        if decision.allowed:
            plan = playbook.plan(target, incident, scene, decision.mode, moment.now)
            record_plan(walk.record, plan, moment.now)
            moment.plans.append(plan)


def _stale(walk: Walk, incident: Incident, now: float) -> bool:
    """Tell whether the diagnosis is of an earlier tick and would be another one now."""
    return not walk.looks.fresh(incident, now) and not walk.memory.live_runs_of(incident.id)


def _hand_over(walk: Walk, ready: Sequence[Incident], moment: Moment) -> None:
    """Note which incidents become a person's, or ours again; people are told once a life and reason."""
    memory = walk.memory
    here = {i.id for i in ready}
    for id_ in [k for k, found in memory.handoffs.items() if found.code and k not in here]:
        walk.record("handoff", id_, pack(NOBODY), moment.now)
    books = walk.library.playbooks

    def stops(playbook: str) -> bool:
        return playbook in books and books[playbook].limits.attempts.then == "stop"

    for incident, found in list(needs(ready, memory, moment.now, walk.holding.keen, stops)):
        if found == memory.handoffs.get(incident.id, NOBODY):
            continue
        walk.record("handoff", incident.id, pack(found), moment.now)
        key = f"needs:{incident.id}:{incident.reopened}:{found.code}"
        if found.code not in GAVE_UP or incident.severity == "note" or key in memory.notes:
            continue
        whom = note_of(key, incident, walk.world, moment.now)
        note = replace(
            whom, severity=incident.severity, title=f"needs you: {incident.title}", text=found.why
        )
        walk.record("note", key, pack(note), moment.now)
        moment.notes.append(note)


def record_plan(record: Record, plan: Plan, now: float) -> Run:
    """Write a plan and its run into the journal: from here on it can not be lost."""
    run = Run(
        plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode,
        "suggested" if plan.mode == "suggest" else "waiting_approval" if plan.mode == "approve" else "acting",
        now, now, plan.hash, text=plan.title,
    )  # fmt: skip
    record("plan", plan.run_id, pack(plan), now)
    record("run", plan.run_id, pack(run), now)
    return run


def _onset(incident: Incident) -> float:
    """Return when this life of the incident began: what lies before is its baseline."""
    going = [a.onset for a in incident.anomalies if a.end is None and a.road == "objective"]
    return min(going, default=incident.opened)


def _news(walk: Walk, decision: Decision) -> bool:
    """Tell whether the guard says something else than the last time about the same."""
    last = walk.memory.last_decision(decision.playbook, decision.target, decision.incident)
    if last is None:
        return True

    def key(d: Decision) -> tuple[Any, ...]:
        return d.allowed, d.mode, tuple((g.name, g.passed) for g in d.gates)

    return key(last) != key(decision)
