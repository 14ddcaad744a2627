"""Runs the `tests:` of a playbook: no daemon, no clock, no outside world.

    given   one moment -> match.fits                                         fires or not
    feed    frames -> world -> matcher -> guard -> plan, tick by tick        how often, when first, which steps

A feed is walked as if the playbook might act: `auto`, its target managed, every ability there. What its own guard says
holds, as do the gates on evidence, correlated failure and replicas. An act changes nothing in the feed, so each run
ends as *no effect* after its verification would have ended; cooldown, attempts and breaker then do what they do. A step
that asks is answered by nobody: the run waits for so long and ends as it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agent import guard, match
from agent.conditions import Holding
from agent.config import Config
from agent.errors import Refused
from agent.match import HoldingState
from agent.memory import Memory
from agent.model import (
    Anomaly,
    Cause,
    Decision,
    Diagnosis,
    Entity,
    Incident,
    entity,
)
from agent.plans import Plan
from agent.playbook import Library, Playbook
from agent.playbook.feeds import example, onset, rows, sightings
from agent.playbook.rehearsal import Asked, Fold, Rehearsal, questions
from agent.playbook.trial import Example, Expected
from agent.rows import Rows
from agent.scene import Scene
from agent.units import say_duration
from agent.world import World

_SEVERITIES: Final = ("note", "warning", "page")
_SOURCE: Final = "feed"


@dataclass(frozen=True, slots=True)
class Act:
    """One time that a playbook acted in a feed: seconds from its start, the steps by id, and when people are asked."""

    at: float
    steps: tuple[str, ...]
    asks: tuple[Asked, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """How a test went.

    wrong   what was otherwise than expected, a line each; () = it passed
    acts    of a feed: when it acted
    reason  why it did not fire, or which gates held it back, at the end
    """

    name: str
    wrong: tuple[str, ...] = ()
    acts: tuple[Act, ...] = ()
    reason: str = ""


def try_examples(playbook: Playbook) -> list[str]:
    """Run all tests and return what went otherwise than expected, a line each."""
    return [
        f"{playbook.id}: {test.name}: {line}"
        for test in playbook.tests
        for line in run(playbook, test).wrong
    ]


def run(playbook: Playbook, test: Example) -> Tried:
    """Run one test."""
    severity = str(test.given.get("incident.severity", "page"))
    if severity not in _SEVERITIES:
        return Tried(test.name, (f"no severity is called {severity!r}",))
    try:
        incident = incident_of(playbook, test.given)
    except ValueError as wrong:
        return Tried(test.name, (str(wrong),))
    if test.feed is None:
        return _moment(playbook, test, incident)
    try:
        found = rows(test.feed, playbook.folder)
    except Refused as wrong:
        return Tried(test.name, (str(wrong),))
    walk = _Walk(playbook.unbound(), incident, found, onset(test.feed, found), test.given)
    walk.go()
    expect = test.expect or Expected(fires=0)
    return Tried(test.name, tuple(walk.wrong(expect)), tuple(walk.acts), walk.reason)


def incident_of(
    playbook: Playbook, given: Mapping[str, Any], target: Entity | None = None
) -> Incident:
    """Return an incident with the playbook's cause, certain, unless something else is given. Raises ValueError."""
    about = target or example(playbook.target.kind)
    said = given.get("cause.entity")
    probability = given.get("cause.probability")
    kind = given.get("cause.kind") or playbook.because.cause
    facts = {
        name.removeprefix("cause."): str(value)
        for name, value in given.items()
        if name.startswith("cause.")
        and name not in {"cause.kind", "cause.entity", "cause.probability"}
    }
    cause = Cause(
        str(kind), entity(str(said)) if said else about,
        1.0 if probability is None else float(probability), facts=facts,
    )  # fmt: skip
    severity = str(given.get("incident.severity", "page"))
    return Incident(
        "example", 0.0, 0.0, "open", severity, playbook.title,  # type: ignore[arg-type]  # checked by `run`
        entities=(about,), about=about, diagnosis=Diagnosis(0.0, (cause,)),
    )  # fmt: skip


# ---------------------------------------------------------------- one moment


@dataclass(frozen=True, slots=True)
class Given:
    """A view made of given values; nothing else is known."""

    values: Mapping[str, Any]
    signal: str = ""

    def __call__(self, name: str) -> Any:
        """Return the value of a name; None = unknown."""
        return self.values.get(self.signal if name == "value" and self.signal else name)

    def about(self, signal: str) -> Given:
        """Return the view in which `value` is this signal."""
        return Given(self.values, signal)


def view(incident: Incident, given: Mapping[str, Any]) -> Given:
    """Return what conditions see when only this is given."""
    top = incident.diagnosis.top if incident.diagnosis else None
    known = {"cause.kind": top.kind, "cause.probability": top.probability} if top else {}
    return Given({**known, **given})


def _moment(playbook: Playbook, test: Example, incident: Incident) -> Tried:
    """Look once; times (`for`) are taken as passed."""
    cause = incident.diagnosis.top if incident.diagnosis else None
    assert cause is not None  # noqa: S101  # `incident_of` gives it one
    items = playbook.when.any or playbook.when.all
    now = Holding(
        [replace(i.condition, for_s=0.0) for i in items], "any" if playbook.when.any else "all"
    )
    seen = view(incident, test.given)
    fires, reason = match.fits(playbook, incident, cause, seen, holding=now, now=0.0)
    if (fires is True) == test.fires:
        return Tried(test.name, reason=reason)
    return Tried(
        test.name, ("it fires" if fires else f"it does not fire: {reason}",), reason=reason
    )


# ---------------------------------------------------------------- a stretch of time


class _Walk:
    """One feed, walked through the real matcher and guard."""

    def __init__(
        self,
        playbook: Playbook,
        incident: Incident,
        found: Rows,
        begins: float,
        given: Mapping[str, Any],
    ) -> None:
        self.acts: list[Act] = []
        self.closed: list[str] = []
        self.reason = "its incident never opened"
        self._book = playbook
        self._library = Library({playbook.id: playbook})
        self._rows = found
        self._begins = begins
        self._start = float(found.ts[0])
        # a feed that tells of no replicas is not about them
        told = any(s.metric == "service.replicas_count" for s in found.series)
        services = [] if told else [{"id": example("service").key, "min_healthy": 0}]
        self._config = Config.model_validate({
            "mode": "auto", "single_agent": True,
            "manages": [{"kind": k} for k in ("host", "gpu", "process", "service", "replica", "model", "version",
                                              "feature", "dependency", "source")],
            "services": services,
        })  # fmt: skip
        moved = found.moved() or list(found.series)
        anomalies = tuple(
            Anomaly(
                s, begins, None, 0.0, 1, 0.0, 0.0, 0.0, 0.0, 0.0, "objective", "feed", harm=True
            )
            for s in moved
        )
        self._incident = replace(incident, opened=begins, updated=begins, anomalies=anomalies)
        step = float(found.ts[1] - found.ts[0]) if len(found.ts) > 1 else 10.0
        self._world = World(patience={_SOURCE: 3.5 * step}, trusts={_SOURCE: "local"})
        self._memory = Memory()
        self._holding = HoldingState()
        self._rehearsal = Rehearsal(
            Fold(self._memory), "no_effect", "a feed does not answer to acts"
        )
        top = incident.diagnosis.top if incident.diagnosis else None
        attrs: dict[Entity, dict[str, str]] = {example(playbook.target.kind): {
            name.removeprefix("target."): str(value) for name, value in given.items()
            if name.startswith("target.")
        }}  # fmt: skip
        if top is not None:
            attrs.setdefault(
                top.entity, {"name": "example"} if top.entity.kind == "process" else {}
            )
        self._seen = sightings(found.series, attrs)

    def go(self) -> None:
        """Walk all rows."""
        for frame in self._rows.frames(_SOURCE, self._seen):
            self._world.take(frame)
            self._rehearsal.end(frame.ts)
            if frame.ts >= self._begins:
                self._tick(frame.ts)

    def wrong(self, expect: Expected) -> list[str]:
        """Return what is otherwise than expected."""
        out = []
        if len(self.acts) != expect.fires:
            at = ", ".join(say_duration(a.at) for a in self.acts[:5])
            why = f" (after {at})" if self.acts else f": {self.reason}"
            out.append(f"it acts {_times(len(self.acts))}, expected {_times(expect.fires)}{why}")
        first = self.acts[0] if self.acts else None
        if expect.first_by is not None and first is not None and first.at > expect.first_by:
            said = say_duration(first.at)
            out.append(f"it acts first after {said}, expected by {say_duration(expect.first_by)}")
        if expect.do and first is not None and list(first.steps) != expect.do:
            out.append(f"it does {', '.join(first.steps)}, expected {', '.join(expect.do)}")
        asks = [a.step for a in first.asks] if first is not None else []
        if expect.asks is not None and first is not None and asks != expect.asks:
            out.append(
                f"it asks before {', '.join(asks) or 'nothing'}, expected {', '.join(expect.asks) or 'nothing'}"
            )
        if expect.blocked_by and expect.blocked_by not in self.closed:
            closed = ", ".join(dict.fromkeys(self.closed)) or "no gate at all"
            out.append(f"expected `{expect.blocked_by}` to hold it back, but that was {closed}")
        return out

    def _tick(self, now: float) -> None:
        found = match.candidates(
            self._library, self._incident, self._world, self._holding, now,
            scene=self._scene, memory=self._memory,
        )  # fmt: skip
        told = self._holding.matches.get(self._incident.id, ())
        self.reason = next((m.reason for m in told if m.reason), "no playbook speaks of its cause")
        for playbook, target, scene in found:
            decision = guard.decide(
                playbook, target, self._incident, memory=self._memory, world=self._world,
                config=self._config, now=now,
            )  # fmt: skip
            if not decision.allowed:
                self._blocked(decision)
                continue
            self._act(playbook.plan(target, self._incident, scene, "auto", now), now)

    def _scene(self, target: Entity, cause: Cause | None) -> Scene:
        return Scene(self._world, target, read=self._rows.read, cause=cause, since=self._begins)

    def _blocked(self, decision: Decision) -> None:
        closed = [g for g in decision.gates if not g.passed]
        self.closed += [g.name for g in closed]
        self.reason = "; ".join(f"{g.name}: {g.reason or g.value}" for g in closed)

    def _act(self, plan: Plan, now: float) -> None:
        steps = tuple(s.id for s in plan.steps)
        self.acts.append(Act(now - self._start, steps, tuple(questions(plan))))
        self._rehearsal.act(plan, now)
        self._rehearsal.end(now)


def _times(n: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(n, f"{n} times")


# ---------------------------------------------------------------- what it would do


def forecast(
    playbook: Playbook, target: Entity, given: Mapping[str, Any], config: Config | None
) -> tuple[bool | None, str, Incident, Plan, Decision]:
    """Return whether it would fire and why not, for which incident, its plan, and what the guard would say.

    given    names to values; unless given, the cause is the playbook's own, certain
    config   None = the defaults, under which nothing is managed. Raises ValueError for what can not be given.
    """
    severity = str(given.get("incident.severity", "page"))
    if severity not in _SEVERITIES:
        raise ValueError(f"no severity is called {severity!r}; write note, warning or page")
    incident = incident_of(playbook, given, target)
    cause = incident.diagnosis.top if incident.diagnosis else None
    assert cause is not None  # noqa: S101  # `incident_of` gives it one
    attrs = {f"target.{name}": getattr(target, name) for name in ("id", "kind", "key")}
    seen = view(incident, {"cause.entity": cause.entity.id, **attrs, **given})
    items = playbook.when.any or playbook.when.all
    now = Holding(
        [replace(i.condition, for_s=0.0) for i in items], "any" if playbook.when.any else "all"
    )
    fires, reason = match.fits(playbook, incident, cause, seen, holding=now, now=0.0)
    world = World()
    told = {
        name.removeprefix("target."): str(value)
        for name, value in given.items()
        if name.startswith("target.")
    }
    for one in sightings((), {target: told}):
        world.topology.take(one, _SOURCE)
    decision = guard.decide(
        playbook, target, incident, memory=Memory(), world=world, config=config or Config(), now=0.0
    )
    plan = playbook.plan(target, incident, seen, decision.mode, 0.0)
    return fires, reason, incident, plan, decision
