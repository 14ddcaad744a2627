"""What is a person's is said so once, and what people say of a cause is heeded at once, and again in a replay."""

import pytest
from made_up import BATCH, CORES, CPU, END, ERRORS, QUEUE, SHOP, SLOW, WAIT_CPU, Picture, Stage
from test_replay_scenarios import replayed

from agent import registry
from agent.codec import pack
from agent.config import Config
from agent.graph_past import GraphPast
from agent.memory import Correction
from agent.model import Outcome, Run
from agent.plans import Plan
from agent.playbook import Library

NEIGHBOUR = Picture(
    "host.neighbour", BATCH, {**SLOW, CPU: 0.99, CORES[BATCH]: 3.5, WAIT_CPU: 0.8, QUEUE: 40.0}
)
HALF = 436.0


def probability(stage, kind):
    found = stage.incident.diagnosis
    return next((c.probability for c in (*found.causes, *found.rejected) if c.kind == kind), 0.0)


def corrected(stage, right=""):
    i = stage.incident
    said = Correction(
        i.id,
        i.about.kind,
        "host.neighbour",
        BATCH.id,
        right,
        "olga (operator, token)",
        "",
        stage.now,
    )
    stage.record("correction", i.id, pack(said), stage.now)


def test_an_incident_that_nothing_is_meant_for_is_a_persons_until_it_is_well(tmp_path):
    stage = Stage(Picture("release.code", SHOP, {ERRORS: 0.3}), tmp_path)
    stage.go(END + 60)
    (need,) = stage.entries("handoff")
    assert (need.subject, need.body["code"]) == (stage.incident.id, "no_playbook")
    assert not [
        e for e in stage.entries("note") if e.subject.startswith("needs:")
    ]  # the page has said it
    stage.picture = Picture("release.code", SHOP, {})
    stage.go(END + 400)
    assert [e.body["code"] for e in stage.entries("handoff")] == ["no_playbook", ""]
    stage.close()


def test_what_a_person_says_of_the_cause_counts_in_the_next_tick(tmp_path):
    stage = Stage(NEIGHBOUR, tmp_path)
    stage.go(HALF)
    before = probability(stage, "host.neighbour")
    assert stage.incident.diagnosis.top.kind == "host.neighbour"
    corrected(stage)
    stage.go(HALF + 2)
    after = probability(stage, "host.neighbour")
    assert after < before
    texts = [e.text for c in stage.incident.diagnosis.causes for e in c.evidence]
    assert any("olga" in t and "it is not this" in t for t in texts)
    assert any(t.startswith("people said once that it was not host.neighbour") for t in texts)
    stage.close()


def test_an_act_that_had_no_effect_makes_its_cause_less_sure(tmp_path):
    stage = Stage(NEIGHBOUR, tmp_path)
    stage.go(HALF)
    before, i = probability(stage, "host.neighbour"), stage.incident
    for run, cause, since in (("r1", "host.neighbour", 0.0), ("old", "host.neighbour", -9e3)):
        plan = Plan(
            run, "calm", "Calm it", "h", SHOP.id, i.id, "auto", "", stage.now, (), cause=cause
        )
        stage.record("plan", run, pack(plan), stage.now)
        over = Run(run, "calm", SHOP, i.id, "auto", "done", i.opened + since, stage.now, "h", (),
                   Outcome("no_effect", "it is as it was"))  # fmt: skip
        stage.record("run", run, pack(over), stage.now)
    stage.go(HALF + 20)
    said = [e.text for c in stage.incident.diagnosis.causes for e in c.evidence]
    assert "an act against it had no effect" in said  # that of an earlier life is none of it
    assert probability(stage, "host.neighbour") < before
    stage.close()


@pytest.mark.parametrize("said", [True, False])
def test_a_replay_heeds_what_was_said_then(tmp_path, said):
    registry.load()
    stage = Stage(NEIGHBOUR, tmp_path / "h")
    stage.walk.graph_past = GraphPast(tmp_path / "h", 7200)
    stage.go(HALF)
    if said:
        corrected(stage)
    stage.go(END)
    live = stage.incident
    stage.walk.history.flush()
    stage.walk.graph_past.close()
    library = Library.load([], Config.model_validate(stage.config), built_in=False)
    again = replayed(stage, tmp_path / "h", tmp_path / "a", library)
    found = again.incidents[live.id]

    def heard(i):
        return any(
            "olga" in e.text
            for c in (*i.diagnosis.causes, *i.diagnosis.rejected)
            for e in c.evidence
        )

    assert heard(live) is said
    assert heard(found) is said
    stage.close()
