from dataclasses import replace

import numpy as np
import pytest

from agent import registry
from agent.codec import pack
from agent.config import Config
from agent.journal import Entry
from agent.match import HoldingState, candidates, fits, target_of
from agent.memory import Memory
from agent.model import (
    Cause,
    Diagnosis,
    Edge,
    Entity,
    Frame,
    Incident,
    Outcome,
    Run,
    Series,
    Sighting,
    StepRecord,
)
from agent.playbook import Library
from agent.playbook.examples import try_examples
from agent.record import Harm
from agent.scene import Scene
from agent.world import World

HOST, WEB, MODEL = Entity("host", "h"), Entity("service", "web"), Entity("model", "fraud")
BURN = Entity("process", "b/9/9")
BUSY, UP = Series("service.busy_ratio", WEB), Series("service.up", WEB)

BOOK = """
version: 1
id: {id}
title: T
order: {order}
target: {{kind: {kind}}}
because: {{cause: {cause}, min_confidence: 0.6{because}}}
when: [{{is: 'service.busy_ratio > 0.9', for: {hold}}}]
unless: ['service.up < 0.5']
do: [{{use: {use}, undo: none}}]
guard: {{}}
verify: {{within: 1m, expect: ['service.busy_ratio < 0.9'], otherwise: {otherwise}}}
"""


@pytest.fixture(autouse=True)
def verbs(monkeypatch):
    actions, connectors = registry.Registry("action"), registry.Registry("connector")

    class Hand:
        def grip(self): ...

    for name, effect, ability in (
        ("act", "mutating", None),
        ("grasp", "mutating", Hand),
        ("tell", "marking", None),
    ):
        body = {"effect": effect, "ability": ability, "reversible": True, "shared": False}
        actions(name)(type(name, (), body))
    monkeypatch.setattr(registry, "action", actions)
    monkeypatch.setattr(registry, "connector", connectors)


def library(tmp_path, *books):
    for i, book in enumerate(books):
        words = {
            "id": f"b{i}", "order": i, "kind": "service", "cause": "serving.saturation", "use": "act",
            "otherwise": "undo", "because": "", "hold": "0s", **book,
        }  # fmt: skip
        more = words.pop("more", "")
        (tmp_path / f"{i}.yaml").write_text(BOOK.format(**words) + more)
    return Library.load([tmp_path], Config(), built_in=False)


def world(busy=0.95, up=1.0):
    w = World()
    edges = (
        Edge("runs_on", WEB, HOST), Edge("serves", WEB, MODEL), Edge("runs_on", BURN, HOST),
    )  # fmt: skip
    for e in edges:
        w.take(Frame("s", 1.0, (), np.array([]), seen=(Sighting(e.src, edges=(e,)),)))
    w.take(Frame("web", 100.0, (BUSY, UP), np.array([busy, up])))
    return w


def incident(kind="serving.saturation", entity=WEB, probability=0.8, **more):
    diagnosis = Diagnosis(99.0, (Cause(kind, entity, probability),))
    return Incident(
        "i", 90.0, 99.0, "open", "page", "t", entities=(WEB,), diagnosis=diagnosis, **more
    )


def ask(lib, inc, w, *, holding=None, now=100.0, memory=None):
    state = holding or HoldingState()
    found = candidates(
        lib, inc, w, state, now, scene=lambda t, c: Scene(w, t, cause=c), memory=memory
    )
    return [(p.id, t) for p, t, _ in found], {m.playbook: m for m in state.matches.get(inc.id, ())}


def test_it_fires_when_cause_confidence_and_conditions_hold(tmp_path):
    found, told = ask(library(tmp_path, {}), incident(), world())
    assert found == [("b0", WEB)]
    assert told["b0"].fires is True


@pytest.mark.parametrize(
    ("inc", "w", "fires", "says"),
    [
        (incident(probability=0.5), {}, False, "50% sure, it wants 60%"),
        (incident(), {"busy": 0.5}, False, "when: service.busy_ratio > 0.9 is not so"),
        (incident(), {"busy": float("nan")}, None, "when: service.busy_ratio > 0.9 is unknown"),
        (incident(), {"up": 0.0}, False, "unless: service.up < 0.5 is true"),
        (incident(), {"up": float("nan")}, None, "unless: service.up < 0.5 is unknown"),
    ],
)
def test_it_says_why_it_does_not_fire(tmp_path, inc, w, fires, says):
    found, told = ask(library(tmp_path, {}), inc, world(**w))
    assert found == []
    assert told["b0"].fires is fires
    assert told["b0"].reason == says


def test_what_was_told_of_incidents_that_are_over_is_let_go(tmp_path):
    books, state = library(tmp_path, {"kind": "gpu"}), HoldingState()  # there is none to ask about
    for i in range(100):
        now = 100.0 + 120.0 * i
        inc = replace(incident(entity=HOST), id=f"i{i}", entities=(HOST,))
        ask(books, inc, world(), holding=state, now=now)
        state.keep({inc.id})
    assert len(state.matches) <= 2


def test_telling_people_needs_no_knowledge_of_exceptions(tmp_path):
    found, _ = ask(library(tmp_path, {"use": "tell"}), incident(), world(up=float("nan")))
    assert found == [("b0", WEB)]


def test_other_causes_are_not_asked(tmp_path):
    found, told = ask(library(tmp_path, {}), incident("serving.crash"), world())
    assert (found, told) == ([], {})


def test_nothing_fires_without_a_diagnosis_or_when_it_is_over(tmp_path):
    lib, w = library(tmp_path, {}), world()
    for inc in (
        replace(incident(), diagnosis=None),
        replace(incident(), diagnosis=Diagnosis(1.0, ())),
        replace(incident(), state="resolved"),
        replace(incident(), state="mitigated"),
    ):
        assert ask(lib, inc, w)[0] == []
    assert ask(lib, replace(incident(), state="acknowledged"), w)[0] != []


def test_a_less_severe_incident_is_left_to_people(tmp_path):
    lib = library(tmp_path, {"because": ", severity: page"})
    assert ask(lib, incident(), world())[0] != []
    _, told = ask(lib, replace(incident(), severity="warning"), world())
    assert told["b0"].reason == "severity is warning, it wants page"


def test_one_playbook_a_target_the_others_are_recorded(tmp_path):
    lib = library(
        tmp_path,
        {"id": "general", "cause": "serving"},
        {"id": "second"},
        {"id": "model", "kind": "model"},
    )
    found, told = ask(lib, incident(), world())
    assert found == [("second", WEB), ("model", MODEL)]
    assert told["general"].reason == "second comes first"


def test_one_that_lacks_an_ability_leaves_the_target_to_the_next(tmp_path):
    lib = library(tmp_path, {"id": "first", "use": "grasp"}, {"id": "second"}, {"id": "third"})
    found, _ = ask(lib, incident(), world())
    assert found == [("first", WEB), ("second", WEB)]
    assert lib.playbooks["first"].lacking == {"Hand"}


def test_the_target_is_the_nearest_of_its_kind(tmp_path):
    w = world()
    lib = library(
        tmp_path, {}, {"kind": "model"}, {"kind": "host"}, {"kind": "gpu"}, {"kind": "process"}
    )
    cause = Cause("serving.saturation", WEB, 0.9)
    targets = {
        p.target.kind: target_of(p, cause, incident(), w.topology) for p in lib.playbooks.values()
    }
    assert targets == {"service": WEB, "model": MODEL, "host": HOST, "gpu": None, "process": None}
    _, told = ask(lib, incident(), w)
    assert told["b3"].reason == "no gpu belongs to it"


def test_of_several_versions_the_diagnosis_names_the_target(tmp_path):
    w, lib = world(), library(tmp_path, {"kind": "version"})
    versions = [Entity("version", f"{MODEL.key}/{n}") for n in (1, 2, 3)]
    for version in versions:
        w.topology.link(Edge("version_of", version, MODEL))
    for n, version in enumerate(versions, 1):
        cause = Cause("release.model", MODEL, 0.9, facts={"version": str(n)})
        assert target_of(lib.playbooks["b0"], cause, incident(), w.topology) == version
    gone = Cause("release.model", MODEL, 0.9, facts={"version": "9"})
    assert target_of(lib.playbooks["b0"], gone, incident(), w.topology) in versions


def test_a_neighbour_is_no_relative_so_the_incident_says_whom_it_hurts(tmp_path):
    w = world()
    lib = library(
        tmp_path, {"cause": "host.neighbour"}, {"cause": "host.neighbour", "kind": "process"}
    )
    found, _ = ask(lib, incident("host.neighbour", BURN, about=WEB), w)
    assert found[0] == ("b0", WEB)
    assert (
        target_of(lib.playbooks["b1"], Cause("host.neighbour", BURN, 1.0), incident(), w.topology)
        == BURN
    )


def test_conditions_hold_over_ticks(tmp_path):
    lib = library(tmp_path, {"hold": "5s"})
    holding, w = HoldingState(), world()
    fired = [ask(lib, incident(), w, holding=holding, now=100.0 + t)[0] for t in range(7)]
    assert [bool(f) for f in fired] == [False] * 5 + [True] * 2
    _, told = ask(lib, replace(incident(), id="j"), w, holding=holding, now=107.0)
    assert told["b0"].reason.endswith("(held for 0 s)")


def test_what_nobody_asks_for_is_forgotten(tmp_path):
    lib, holding, w = library(tmp_path, {}), HoldingState(), world()
    ask(lib, incident(), w, holding=holding, now=100.0)
    assert holding.matches
    holding.forget(100.0 + 7200)
    assert not holding.matches
    assert not holding._holdings


def memory_with(run):
    m = Memory()
    m.apply(Entry(1, run.updated, "run", run.id, pack(run), "", ""))
    return m


@pytest.mark.parametrize(("verdict", "otherwise", "next_one"), [
    ("no_effect", "next", True), ("helped", "next", False), ("no_effect", "undo", False),
])  # fmt: skip
def test_one_that_did_not_help_may_give_way_to_the_next(tmp_path, verdict, otherwise, next_one):
    lib = library(tmp_path, {"otherwise": otherwise}, {})
    step = StepRecord("s", "act", 91.0, 92.0, "done", "did")
    run = Run("r", "b0", WEB, "i", "auto", "done", 91.0, 95.0, "h", (step,), Outcome(verdict, "s"))
    found, told = ask(lib, incident(), world(), memory=memory_with(run))
    assert [p for p, _ in found] == (["b1"] if next_one else ["b0"])
    if next_one:
        assert "did not help" in told["b0"].reason


def test_one_that_harmed_leaves_the_target_to_the_next(tmp_path):
    lib = library(tmp_path, {"id": "first"}, {"id": "second"}, {"id": "third"})
    memory = Memory()
    memory.records.harms["first"] = {WEB.id: Harm(7, "r", WEB.id, 90.0, "worse")}
    found, _ = ask(lib, incident(), world(), memory=memory)
    assert found == [("first", WEB), ("second", WEB)]


TESTS = """
tests:
  - {name: hot, given: {service.busy_ratio: 0.95, service.up: 1.0}, fires: true}
  - {name: cold, given: {service.busy_ratio: 0.5, service.up: 1.0}, fires: true}
  - {name: blind, given: {}, fires: false}
  - {name: odd, given: {incident.severity: dreadful}, fires: false}
"""


def test_a_playbooks_own_tests_are_run(tmp_path):
    lib = library(tmp_path, {"more": TESTS})
    assert try_examples(lib.playbooks["b0"]) == [
        "b0: cold: it does not fire: when: service.busy_ratio > 0.9 is not so",
        "b0: odd: no severity is called 'dreadful'",
    ]


# ---------------------------------------------------------------- the index by signal


def asked(lib, w, holding, now=100.0):
    """Return of how many playbooks the conditions were asked, and what was said of each."""
    _, told = ask(lib, incident(), w, holding=holding, now=now)
    return holding.asked, told


def with_when(tmp_path, *whens):
    """A library of playbooks with these conditions, as YAML."""
    for i, when in enumerate(whens):
        text = BOOK.format(
            id=f"b{i}", order=i, kind="service", cause="serving.saturation", use="act", otherwise="undo",
            because="", hold="0s",
        )  # fmt: skip
        old = next(line for line in text.splitlines() if line.startswith("when:"))
        (tmp_path / f"{i}.yaml").write_text(text.replace(old, f"when: {when}"))
    return Library.load([tmp_path], Config(), built_in=False)


@pytest.mark.parametrize(("when", "missing"), [
    ("['service.busy_ratio > 0.9']", ""),
    ("['service.busy_ratio > 0.9', 'service.error_ratio > 0.5']", "service.error_ratio"),
    ("['service.busy_ratio > 0.9 && service.error_ratio > 0.5']", "service.error_ratio"),
    ("['service.busy_ratio > 0.9 || service.error_ratio > 0.5']", ""),
    ("['!(service.busy_ratio < 0.9 && service.error_ratio > 0.5)']", ""),
    ("['service.busy_ratio > baseline.service.error_ratio']", "service.error_ratio"),
    ("[{signal: service.error_ratio, is: 'value > 0.5'}]", "service.error_ratio"),
    ("[{signal: 'service.busy_ratio{worker=1}', is: 'value > 0.5'}]", "service.busy_ratio{worker=1}"),
    ("{any: ['service.busy_ratio > 0.9', 'service.error_ratio > 0.5']}", ""),
    ("{any: ['service.latency_p95_seconds > 0.9', 'service.error_ratio > 0.5']}", "service.latency_p95_seconds"),
    ("[]", ""),
])  # fmt: skip
def test_who_must_know_what_nobody_measures_is_not_asked(tmp_path, when, missing):
    many, told = asked(with_when(tmp_path, when), world(), HoldingState())
    assert many == (0 if missing else 1)
    if missing:
        assert told["b0"].fires is None
        assert told["b0"].reason == f"when: nobody measures {missing} there"


def test_who_is_not_asked_would_not_have_fired(tmp_path):
    signals = ["service.busy_ratio", "service.error_ratio", "service.latency_p95_seconds"]
    whens = [
        f"['{a} > 0.1 {how} {b} > 0.1']" for a in signals for b in signals for how in ("&&", "||")
    ]
    whens += [f"{{any: ['{a} > 0.1', '{b} < 0.5']}}" for a in signals for b in signals]
    lib, w = with_when(tmp_path, *whens), world()
    out = {}
    ask(lib, incident(), w, holding=(state := HoldingState()))
    for match in state.matches["i"]:
        if "nobody measures" not in match.reason:
            continue
        book = lib.playbooks[match.playbook]
        seen, cause = Scene(w, WEB), incident().diagnosis.top
        out[book.id], _ = fits(
            book, incident(), cause, seen, holding=book.when.holding(), now=100.0
        )  # fmt: skip
    assert len(out) >= 8
    assert True not in out.values()


def test_a_signal_that_comes_is_seen_and_one_that_goes_is_waited_for(tmp_path):
    lib, w, holding = (
        with_when(tmp_path, "[{is: 'service.error_ratio > 0.5', for: 5s}]"),
        world(),
        HoldingState(),
    )
    errors, one = Series("service.error_ratio", WEB), incident()

    def at(now, *table):
        w.take(Frame("web", now, (BUSY, UP, *table), np.array([0.95, 1.0, *[0.9] * len(table)])))
        found, _ = ask(lib, one, w, holding=holding, now=now)
        return holding.asked, bool(found)

    assert at(101.0) == (0, False)
    assert at(102.0, errors) == (1, False)
    assert at(104.0, errors) == (1, False)
    assert at(105.0) == (1, False)  # a gap: the time pauses, it is not lost
    assert at(106.0, errors) == (1, False)
    assert at(108.0, errors) == (1, False)
    assert at(109.0, errors) == (1, True)


def test_keen_is_who_fires_or_only_waits_for_its_time(tmp_path):
    lib, holding, w = library(tmp_path, {"hold": "5s"}), HoldingState(), world()
    ask(lib, incident(), w, holding=holding, now=100.0)
    assert holding.keen("i")
    ask(lib, incident(), w, holding=holding, now=106.0)
    assert holding.keen("i")
    ask(lib, incident(), world(busy=0.5), holding=holding, now=107.0)
    assert not holding.keen("i")
