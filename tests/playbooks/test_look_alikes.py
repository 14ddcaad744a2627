"""Every playbook on the symptoms of every other one: who acts on what is not his.

The world of a pair is the firing feed of the one, and for all that only the other looks at, how that was before its own
trouble began. It is walked through the real matcher, twice: with the cause of the one (diagnosis is right), and with
that of the other (diagnosis is wrong, and certain of it); the second time all must keep still that do more than tell
people: who changes the world, and who marks something of ours, which a playbook does by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from shipped import LIBRARY

from agent import match, registry
from agent.causes import matches
from agent.match import HoldingState
from agent.model import Anomaly, Cause, Change, Edge, Entity, Incident, entity
from agent.playbook import Library, Playbook
from agent.playbook.examples import incident_of
from agent.playbook.examples import run as tried
from agent.playbook.explain import explain, text
from agent.playbook.feeds import Rows, example, onset, rows, sightings
from agent.playbook.trial import Example, Wave
from agent.rca import Look, diagnose
from agent.scene import Scene
from agent.world import World

BOOKS = {p.id: p.unbound() for p in sorted(LIBRARY.playbooks.values(), key=lambda p: p.id)}

_FIRST = "both help against it, and the one whose conditions say more comes first"
_UNDO = (
    "a release came right before it, and where its cluster keeps the one before that comes first"
)
_TOLD = "people are told where nobody can put the release before back; where somebody can, that comes first"
_BOUND = "where an autoscaler rules, its bound is raised first, for it alone may add one"
_KILLED = "where the cluster says that they were killed for want of memory, that is told first"
_NODE = "the same fault on a node of a cluster, which is drained before it is rebooted; elsewhere it only is"
ALTERNATIVES: dict[tuple[str, str], str] = {
    ("gpu-thermal", "gpu-thermal-shed"): "it gives way when it did not help: `otherwise: next`",
    ("gpu-thermal-shed", "gpu-thermal"): "it comes when less power did not help or can not be set",
    ("serve-saturation", "serve-admission"): _FIRST,
    ("serve-release-undo", "serve-bad-release"): _UNDO,
    ("serve-bad-release", "serve-release-undo"): _TOLD,
    ("serve-crashloop", "serve-crashloop-undo"): _TOLD,
    ("serve-crashloop-undo", "serve-crashloop"): _UNDO,
    ("serve-oom-killed", "serve-crashloop-undo"): _KILLED,
    ("serve-oom-killed", "serve-cannot-start"): _KILLED,
    ("serve-crashloop-undo", "serve-cannot-start"): _UNDO,
    ("serve-saturation", "serve-autoscaler-full"): _BOUND,
    ("gpu-off-bus", "node-gpu-lost"): _NODE,
    ("node-gpu-lost", "gpu-off-bus"): _NODE,
    ("driver-mismatch", "node-driver-mismatch"): _NODE,
    ("node-driver-mismatch", "driver-mismatch"): _NODE,
    ("serve-noisy-neighbour", "gpu-noisy-neighbour"): _FIRST,
}
"""(who acts, too, on whose symptoms) -> why that is right when diagnosis names this cause."""

EVEN_SO: dict[str, str] = {
    "page-harm": "users are hurt and no cause is known: people are called, whatever else is tried",
}
"""Who may act beside any other of the same cause, and why."""

_PAIN = "users feel alike whoever makes them wait: who it is says the diagnosis, by changes, traffic and neighbours"
_LOSS = (
    "accuracy falls alike whatever made it fall: what it is say labels and inputs, in the diagnosis"
)
_INPUTS = "inputs are not as they were whether one broke or all stand still: nothing may learn from them either way"
ANYWAY: dict[str, tuple[str, frozenset[str]]] = {
    "concept-drift": (_LOSS, frozenset({"data-drift-loss"})),
    "data-contract-hold": (_INPUTS, frozenset({"feat-stale"})),
    "data-drift-loss": (_LOSS, frozenset({"concept-drift", "promote-better"})),
    "feat-stale": (_INPUTS, frozenset({"data-contract-hold"})),
    "prior-shift": (_LOSS, frozenset({"calibration-off", "concept-drift", "data-drift-loss", "promote-better"})),
    "promote-better": (_LOSS, frozenset({"data-drift-loss"})),
    "serve-bad-deploy": (_LOSS, frozenset({
        "concept-drift", "data-drift-expected", "data-drift-loss", "promote-better",
    })),
    "serve-dependency": (_PAIN, frozenset({
        "serve-autoscaler-full",
        "gpu-noisy-neighbour", "serve-release-undo",
        "gpu-oom", "host-cpu-starve", "page-harm", "serve-admission", "serve-bad-config", "serve-bad-release",
        "serve-errors", "serve-latency-burn", "serve-noisy-neighbour", "serve-replica-sick", "serve-saturation",
        "serve-traffic-mix",
    })),
    "serve-errors": (_PAIN, frozenset({"gpu-oom", "page-harm", "serve-bad-config", "serve-dependency"})),
    "serve-latency-burn": (_PAIN, frozenset({"serve-admission"})),
    "serve-noisy-neighbour": (_PAIN, frozenset({
        "serve-autoscaler-full",
        "host-cpu-starve", "serve-admission", "serve-bad-release", "serve-callee", "serve-dependency",
        "serve-latency-burn", "serve-release-undo", "serve-replica-sick", "serve-saturation", "serve-traffic-mix",
    })),
    "serve-release-undo": (_PAIN, frozenset({
        "serve-autoscaler-full", "serve-cannot-start",
        "gpu-noisy-neighbour", "gpu-oom", "host-cpu-starve", "page-harm", "serve-admission", "serve-bad-config",
        "serve-callee", "serve-crashloop", "serve-crashloop-undo", "serve-dependency", "serve-errors", "serve-hang",
        "serve-latency-burn", "serve-noisy-neighbour", "serve-oom-killed", "serve-replica-sick", "serve-saturation",
        "serve-traffic-mix",
    })),
    "serve-replica-sick": (_PAIN, frozenset({
        "serve-autoscaler-full",
        "gpu-noisy-neighbour", "serve-release-undo",
        "gpu-oom", "host-cpu-starve", "page-harm", "serve-admission", "serve-bad-config", "serve-bad-release",
        "serve-callee", "serve-dependency", "serve-latency-burn", "serve-noisy-neighbour", "serve-saturation",
        "serve-traffic-mix",
    })),
}  # fmt: skip
"""Who does more than tell on whose symptoms when diagnosis is wrong, and why they look alike."""


TELLING = {"notify", "page", "ask"}
"""Verbs that mark, and after which people know more and everything else is as before."""


def more_than_tells(book: Playbook) -> bool:
    """Tell whether a playbook changes the world or marks something of ours (holds retraining, silences)."""
    return any(
        registry.action.get(s.use).effect != "reading" and s.use not in TELLING for s in book.do
    )


def firing(book: Playbook) -> Example:
    """Return the first test with a feed that it fires on."""
    return next(t for t in book.tests if t.feed is not None and t.expect and t.expect.fires > 0)


@cache
def fed(name: str) -> tuple[Rows, float]:
    test = firing(BOOKS[name])
    found = rows(test.feed, BOOKS[name].folder)
    return found, onset(test.feed, found)


def together(one: str, other: str) -> Rows:
    """Return the feed of one, and beside it what only the other looks at, as it was before its trouble."""
    mine, (theirs, begins) = fed(one)[0], fed(other)
    calm = {
        s: float(np.nanmedian(theirs.values[theirs.ts <= begins][:3, i]))
        for i, s in enumerate(theirs.series)
        if s not in mine.series
    }
    series = (*mine.series, *calm)
    flat = np.tile(np.array(list(calm.values())), (len(mine.ts), 1))
    order = sorted(range(len(series)), key=series.__getitem__)
    values = np.hstack([mine.values, flat.reshape(len(mine.ts), len(calm))])
    return Rows(mine.ts, tuple(series[i] for i in order), values[:, order])


def acts(who: str, on: str, *, named: str) -> bool:
    """Tell whether one playbook fires on the symptoms of another, when the cause of `named` is diagnosed."""
    found, begins = together(on, who), fed(on)[1]
    # the facts that it asks for are there; whom the diagnosis names is its own business
    facts = firing(BOOKS[who]).given
    if named == on:
        facts = {k: v for k, v in facts.items() if k not in {"cause.entity", "cause.apart"}}
    given = {**firing(BOOKS[on]).given, **facts, **firing(BOOKS[named]).given}
    incident = replace(incident_of(BOOKS[named], given), opened=begins, updated=begins)
    top = incident.diagnosis.top
    about = example(BOOKS[who].target.kind)
    # whose symptoms they are also is about whom the incident is
    incident = replace(incident, entities=(*incident.entities, about))
    world = World(patience={"feed": 60.0}, trusts={"feed": "local"})
    library, holding = Library({who: BOOKS[who]}), HoldingState()
    attrs = {top.entity: {"name": "example"}} if top.entity.kind == "process" else {}

    def scene(target, cause):
        return Scene(world, target, read=found.read, cause=cause, since=begins)

    for frame in found.frames("feed", sightings(found.series, attrs)):
        world.take(frame)
        if frame.ts >= begins and match.candidates(
            library, incident, world, holding, frame.ts, scene=scene
        ):
            return True
    return False


def test_every_playbook_has_a_feed_on_which_it_fires():
    assert [
        p.id for p in BOOKS.values() if not any(t.feed and t.expect.fires for t in p.tests)
    ] == []


@pytest.mark.parametrize("name", BOOKS)
def test_it_fires_on_its_own_symptoms(name):
    assert acts(name, name, named=name)


@pytest.mark.parametrize("name", BOOKS)
def test_no_other_acts_on_its_symptoms_when_diagnosis_is_right(name):
    cause = BOOKS[name].because.cause
    others = [p.id for p in BOOKS.values() if p.id != name and matches(p.because.cause, cause)]
    wrong = {other for other in others if acts(other, name, named=name)}
    assert wrong - set(EVEN_SO) == {who for who, on in ALTERNATIVES if on == name}


@pytest.mark.long
@pytest.mark.parametrize("name", BOOKS)
def test_nobody_does_more_than_tell_on_its_symptoms_when_diagnosis_is_wrong(name):
    cause = BOOKS[name].because.cause
    others = [
        p.id for p in BOOKS.values()
        if more_than_tells(p) and p.id != name and not matches(p.because.cause, cause)
    ]  # fmt: skip
    wrong = {other for other in others if acts(other, name, named=other)}
    assert wrong == {who for who, (_, on) in ANYWAY.items() if name in on}


def test_who_holds_retraining_or_silences_does_more_than_tell():
    doing = {p.id for p in BOOKS.values() if more_than_tells(p)}
    assert doing > {p.id for p in BOOKS.values() if p.mutating}
    marking = {"hold_retraining", "silence"}
    assert doing >= {p.id for p in BOOKS.values() if marking & {s.use for s in p.do}}
    assert {registry.action.get(use).effect for use in TELLING} == {"marking"}


def test_exceptions_are_of_known_playbooks_and_reasoned():
    pairs = [*ALTERNATIVES, *((who, on) for who, (_, some) in ANYWAY.items() for on in some)]
    assert {one for pair in pairs for one in pair} | set(EVEN_SO) <= set(BOOKS)
    reasons = [
        *ALTERNATIVES.values(),
        *EVEN_SO.values(),
        *(r for r, _ in ANYWAY.values()),
    ]
    assert all(len(reason.split()) >= 8 for reason in reasons)


@pytest.mark.parametrize("name", BOOKS)
def test_it_reads_like_a_runbook(name):
    book = LIBRARY.playbooks[name]
    told = dict(explain(book))
    for label in ("When", "On", "May", "Do", "Works if", "Undo", "Limits", "Asked"):
        assert told[label], label
        assert all(line.strip() for line in told[label]), label
    assert len(told["Do"]) >= len(book.do)
    said = text(book)
    assert said.startswith(f"{book.title}  ({name})")
    if book.mutating:
        assert any("put back" in line or "stays" in line for line in told["Undo"])
        assert any("within" in line for line in told["Works if"])
        assert len([*book.when.all, *book.when.any]) >= 1
    assert not any(word in said for word in ("None", "{'", "}}"))


@dataclass(frozen=True)
class Told:
    """What sources tell of a failure beside the symptom that its playbook looks at; the diagnosis lives on it."""

    series: dict[str, Any] = field(default_factory=dict)
    change: str = ""
    """Of whom it is about (`whom`), half a minute before the trouble."""
    whom: str = "service"
    """Kind of entity that was changed."""
    attrs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Entity id -> what sources say of it beside its numbers."""
    calls: str = ""
    """A service that it calls."""
    after: float = 0.0
    """Seconds by which it is told later than the playbook acts: something rare must happen before it has a rate."""


_FELL = {"model.accuracy_ratio": {"step": [0.95, 0.8], "at": "5m", "noise": 0.004}}
_AS_EVER = {"feature.drifted": {"value": 0}}
_BROKEN = {"feature.contract_broken": {"step": [0, 1], "at": "10m"}}
_WELL = {"service.processing_p50_seconds": {"value": 0.05, "noise": 0.001}}
TOLD: dict[str, Told] = {
    "serve-admission": Told(),
    "serve-autoscaler-full": Told(),
    "serve-bad-config": Told(change="config"),
    "serve-bad-release": Told(change="release"),
    "serve-cannot-start": Told(),
    "serve-callee": Told({**_WELL, "service.latency_p50_seconds": {"step": [0.1, 1.0], "at": "8m"}}, calls="users"),
    "serve-crashloop": Told(),
    "serve-crashloop-undo": Told(change="release"),
    "serve-dependency": Told({**_WELL, "service.up{dependency:example:5432}": {"step": [1, 0], "at": "8m"}}),
    "serve-errors": Told({"service.replicas_missing_count": {"step": [0, 1], "at": "10m"}}),
    "serve-hang": Told(),
    "serve-latency-burn": Told({"service.requests_per_second": {"value": 30, "noise": 1}}),
    "serve-noisy-neighbour": Told({
        "service.requests_per_second": {"value": 30, "noise": 1},
        "process.cpu_cores{process:stranger/99/7}": {"step": [0.1, 3.5], "at": "8m", "noise": 0.02},
    }),
    "serve-oom-killed": Told(after=60.0),
    "serve-release-undo": Told(change="release"),
    "serve-replica-sick": Told(),
    "serve-saturation": Told(),
    "serve-traffic-mix": Told(),
    "page-harm": Told(),
    "calibration-off": Told(_AS_EVER),
    "concept-drift": Told({**_AS_EVER, **_FELL}),
    "data-contract-hold": Told(_BROKEN, attrs={"feature:example/f": {"broken": "scale x100"}}),
    "data-drift-expected": Told({"feature.drifted": {"step": [0, 1], "at": "20m"}}),
    "data-drift-loss": Told({"model.accuracy_ratio": {"step": [0.95, 0.85], "at": "2h", "noise": 0.004}}),
    "feat-stale": Told(
        {**_BROKEN, "feature.contract_broken{feature:example/g}": {"step": [0, 1], "at": "10m"}},
        attrs={f"feature:example/{f}": {"broken": "stuck"} for f in "fg"},
    ),
    "prior-shift": Told(_AS_EVER),
    "promote-better": Told(
        {**_AS_EVER, "version.loss_difference_high{version:example/7,against=1,how=paired}": {"value": -0.02}},
        attrs={"model:example": {"serving": "1"}},
    ),
    "serve-bad-deploy": Told(_AS_EVER, change="release", whom="model"),
}  # fmt: skip
NAMED = [
    *(n for n in BOOKS if n.partition("-")[0] in {"gpu", "host", "nic", "driver", "node"}),
    *TOLD,
]


def diagnosed(test: Example, book: Playbook, told: Told, *, at: float) -> Cause:
    """Return what the real diagnosis says of a feed, so many seconds after its start."""
    waves = {name: Wave.model_validate(said) for name, said in told.series.items()}
    feed = test.feed.model_copy(update={"series": {**test.feed.series, **waves}})
    found, begins = rows(feed, book.folder), onset(test.feed, rows(test.feed, book.folder))
    now = float(found.ts[0]) + at
    seen = sightings(found.series, {entity(id_): attrs for id_, attrs in told.attrs.items()})
    if told.calls:
        calls = Edge("calls", example("service"), Entity("service", told.calls))
        seen = tuple(
            replace(s, edges=(*s.edges, calls)) if s.entity == example("service") else s
            for s in seen
        )
    changes = [
        Change(begins - 30.0, example(told.whom), kind, "v1", "v2", by="somebody")
        for kind in [told.change] if kind
    ]  # fmt: skip
    world = World(patience={"feed": 60.0}, trusts={"feed": "local"})
    for frame in found.frames("feed", seen):
        if frame.ts <= now:
            world.take(frame)
    moved = [s for s in found.moved() if world.get(s) is not None]
    group = world.topology.group(example(book.target.kind))
    broken = tuple(
        Anomaly(s, begins, None, 0.0, 1 if world.get(s) > found.read([s], 0.0, begins)[1][0, 0] else -1,
                world.get(s), math.nan, 0.5, 0.5, 9.0, "objective", "feed")
        for s in moved
    )  # fmt: skip
    incident = Incident(
        "i", begins, now, "open", "page", "t", broken,
        entities=tuple(sorted({group, *(s.entity for s in moved)})), about=group,
    )  # fmt: skip
    look = Look(now, incident, world, found.read, 600.0, 3600.0, 120.0, changes=changes)
    return diagnose(look).top


@pytest.mark.parametrize("name", NAMED)
def test_diagnosis_names_its_cause(name):
    book, test = BOOKS[name], firing(BOOKS[name])
    told = TOLD.get(name, Told())
    top = diagnosed(test, book, told, at=tried(book, test).acts[0].at + told.after)
    assert matches(book.because.cause, top.kind), top
    assert top.probability >= book.because.min_confidence, top
    # who would act on its symptoms is not asked
    alike = [who for who, (_, on) in ANYWAY.items() if name in on]
    assert [who for who in alike if matches(BOOKS[who].because.cause, top.kind)] == []


def test_who_feels_alike_is_told_apart_by_the_diagnosis():
    """That diagnosis knows who it was is the reason why playbooks may act on each other's symptoms."""
    assert {n for who, (_, on) in ANYWAY.items() for n in (who, *on)} <= set(NAMED)


def test_the_shadow_that_is_promoted_is_the_one_that_diagnosis_names():
    book, test = BOOKS["promote-better"], firing(BOOKS["promote-better"])
    top = diagnosed(test, book, TOLD["promote-better"], at=tried(book, test).acts[0].at)
    assert top.facts["better"] == test.given["cause.better"]


OTHERS = [
    (name, test.name)
    for name, book in BOOKS.items()
    for test in book.tests
    if test.feed is not None and not test.expect.fires and "cause.kind" in test.given
]


@pytest.mark.parametrize(("name", "called"), OTHERS)
def test_a_look_alike_of_another_cause_is_diagnosed_as_that(name, called):
    book = BOOKS[name]
    test = next(t for t in book.tests if t.name == called)
    top = diagnosed(test, book, Told(), at=test.feed.for_)
    assert top.kind == test.given["cause.kind"], top
