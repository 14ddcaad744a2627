"""When an incident is a person's, and that people are told of it once."""

from dataclasses import replace

import pytest

from agent.codec import pack
from agent.handoff import NOBODY, Need, needs
from agent.journal import Entry
from agent.memory import Memory
from agent.model import (
    Cause,
    Decision,
    Diagnosis,
    Entity,
    Gate,
    Incident,
    Outcome,
    Run,
    StepRecord,
    Turn,
)

NOW = 10_000.0
WEB = Entity("service", "web")


class Past:
    """A memory that is told what has happened."""

    def __init__(self):
        self.memory = Memory()

    def put(self, kind, subject, body):
        self.memory.apply(Entry(self.memory.seq + 1, NOW, kind, subject, body, "", ""))

    def run(self, state, verdict=None, *, ago=100.0, text="", **more):
        at = NOW - ago
        steps = (
            ()
            if state in {"suggested", "waiting_approval"}
            else (StepRecord("s", "act", at, at, "done", "did"),)
        )
        outcome = Outcome(verdict, "so it was", **more) if verdict else None
        id_ = f"r{self.memory.seq}"
        run = Run(id_, "b", WEB, "i", "auto", state, at, at, "h", steps, outcome, text)
        self.put("run", id_, pack(run))
        return self

    def decided(self, *closed, allowed=False, mode="auto", playbook="b"):
        gates = tuple(Gate(name, False, "v", "l", f"{name} is closed") for name in closed)
        said = Decision(NOW, playbook, WEB, "i", mode, allowed, gates)
        self.put("decision", f"{playbook}|{WEB.id}", pack(said))
        return self


def incident(*, diagnosed=300.0, **more):
    cause = Cause("serving.saturation", WEB, 0.8)
    fields = {"state": "open", **more}
    return Incident(
        "i", NOW - 600, NOW, severity="page", title="t", diagnosis=Diagnosis(NOW - diagnosed, (cause,)), **fields
    )  # fmt: skip


def asked(past=None, about=None, *, waits=False):
    ((_, found),) = needs([about or incident()], (past or Past()).memory, NOW, lambda _: waits)
    return found


@pytest.mark.parametrize(
    ("past", "code"),
    [
        (Past(), "no_playbook"),
        (Past().run("waiting_approval"), "asks"),
        (Past().run("acting"), ""),
        (Past().run("suggested").decided(allowed=True, mode="suggest"), "suggests"),
        (Past().decided("attempts"), "attempts"),
        (Past().decided("attempts", mode="suggest"), "held"),  # it would not have acted
        (Past().decided("correlated"), "correlated"),
        (Past().decided("scope"), "held"),
        (Past().decided("cooldown"), ""),  # it passes
        (Past().decided("cooldown", "scope"), "held"),
        (Past().decided("silence"), ""),  # a person knows
        (Past().run("done", "helped"), "no_playbook"),
        (Past().run("done", "harmed", undone=True).decided("record"), "harmed"),
        (Past().run("failed", text="no answer").decided("cooldown"), "failed"),
        (Past().run("done", "no_effect").decided("cooldown"), ""),  # it will try again
        (Past().run("done", "no_effect").decided("breaker"), "no_effect"),
        (Past().run("done", "cannot_tell"), "cannot_tell"),
        (Past().run("done", "no_effect", well=True), "no_playbook"),
        (Past().run("done", "harmed").run("acting", ago=1.0), ""),  # the next one is at work
        (Past().run("done", "harmed").run("done", "helped", ago=1.0).decided("cooldown"), ""),
    ],
)  # fmt: skip
def test_what_is_left_for_a_person(past, code):
    assert asked(past).code == code


def test_the_reason_is_in_words():
    past = Past().run("done", "harmed", undone=True)
    assert asked(past).why == "b on service:web did harm, and was undone: so it was"
    assert asked(Past().decided("scope")).why == "nothing may act: gate scope, scope is closed"


@pytest.mark.parametrize(
    "about",
    [
        incident(state="mitigated"), incident(state="resolved"), replace(incident(), diagnosis=None),
        incident(diagnosed=10.0),
    ],
)  # fmt: skip
def test_nobody_is_needed_for_what_is_well_or_not_yet_looked_at(about):
    assert asked(about=about) == NOBODY


def test_a_cause_that_stands_is_not_new_because_it_is_said_with_another_confidence():
    cause = Cause("serving.saturation", WEB, 0.6)
    said_again = replace(incident(), diagnosis=Diagnosis(NOW - 5, (cause,), since=NOW - 300))
    assert asked(about=said_again).code == "no_playbook"
    new = replace(said_again, diagnosis=Diagnosis(NOW - 5, (cause,), since=NOW - 5))
    assert asked(about=new) == NOBODY


def test_an_incident_that_came_back_has_its_time_again():
    old = Diagnosis(NOW - 400, (Cause("serving.saturation", WEB, 0.6),), since=NOW - 400)
    back = replace(
        incident(), diagnosis=old, turns=(Turn(NOW - 10, "reopened", "open", "homeostat", "again"),)
    )
    assert asked(about=back) == NOBODY


def test_conditions_that_have_begun_to_hold_are_waited_for():
    assert asked(waits=True) == NOBODY
    assert asked(Past().decided("attempts"), waits=True).code == "attempts"


def test_runs_of_an_earlier_life_say_nothing_of_this_one():
    past = Past().run("failed", ago=500.0)
    assert asked(past, replace(incident(), opened=NOW - 400)).code == "no_playbook"


def test_it_is_remembered_over_a_restart():
    past = Past()
    past.put("handoff", "i", pack(Need("attempts", "tried twice")))
    assert past.memory.handoffs["i"] == Need("attempts", "tried twice")


def test_what_fires_and_is_held_back_is_not_waited_for():
    assert asked(Past().decided("scope"), waits=True).code == "held"


def test_a_playbook_that_stops_quietly_calls_nobody():
    past = Past().decided("attempts")
    ((_, found),) = needs([incident()], past.memory, NOW, lambda _: False, lambda id_: id_ == "b")
    assert found.code == "held"
