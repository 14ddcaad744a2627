import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import types
from dataclasses import replace

import pytest
import run_stage
import sqlalchemy as sa
import structlog
from run_stage import FAST, SLOW, VERIFY, Stage, at_work, plan, read_effects, shouts, step

from agent import hands as hands_module
from agent import registry
from agent.codec import pack
from agent.errors import Refused, Unavailable
from agent.hands import RealHands
from agent.journal import Journal
from agent.model import Entity, Incident
from agent.plans import PlannedApproval, PlannedVerify, Until, asked_for, plan_hash, sealed


@pytest.fixture
def verbs(tmp_path, monkeypatch):
    monkeypatch.setattr(hands_module, "_SETTLE_S", 0.01)
    monkeypatch.setattr(hands_module, "_BACK_OFF_S", 0.01)
    with at_work(tmp_path) as made:
        yield made


@pytest.fixture
async def stage(tmp_path, verbs):
    async with Stage(tmp_path) as made:
        yield made


def states(stage, run_id="r1"):
    """The states a run went through, each once."""
    out = []
    for entry in stage.journal.read(["run"], subject=run_id):
        if not out or out[-1] != entry.body["state"]:
            out.append(entry.body["state"])
    return out


def told(stage):
    return [n.key.partition(":")[2] for n in stage.told]


def begun(stage, *steps, **kw):
    return plan(*steps, created=stage.clock(), **kw)


# ---- plans


def test_a_plan_hash_binds_what_is_done_and_not_who_asked_when():
    made = plan(created=1.0)
    assert made.hash == plan_hash(made)
    same = sealed(replace(made, run_id="other", created=2.0, by="ann", mode="approve"))
    assert same.hash == made.hash
    for change in (
        {"target": "service:other"}, {"facts": {"version": "3"}}, {"text_hash": "new"}, {"verify": VERIFY},
        {"steps": (step(params={"name": "a", "to": 2.0}),)}, {"then": (step("s", "shout"),)},
    ):  # fmt: skip
        assert sealed(replace(made, **change)).hash != made.hash


# ---- the course of a run


async def test_a_run_acts_verifies_holds_puts_back_and_tells(stage, tmp_path):
    until = Until(("service.latency_p95_seconds < 0.2",), 2.0, 1000.0)
    made = begun(
        stage, step("a"), step("b", until=until), verify=VERIFY,
        then=(step("s", "shout", params={"text": "${verdict.verdict}"}),),
    )  # fmt: skip
    await stage.seen()
    await stage.runner.start(made)
    run = await stage.ended()
    assert states(stage) == ["acting", "verifying", "holding", "undoing", "done"]
    assert [(s.id, s.status) for s in run.steps] == [
        ("a", "done"), ("b", "done"), ("b", "undone"), ("s", "done")]  # fmt: skip
    assert (run.outcome.verdict, run.outcome.undone) == ("helped", False)
    assert read_effects(tmp_path) == ["r1/a 1.0"]
    assert read_effects(tmp_path, "b") == ["r1/b 1.0", "r1/b/undo 0.0"]
    assert shouts(tmp_path) == ["r1/s helped"]
    assert told(stage) == []
    assert stage.memory.run_on(made.target) is None
    assert stage.memory.traces == {}
    assert stage.journal.verify() == []


async def test_harm_is_undone_in_reverse_and_a_person_is_told(stage, tmp_path):
    stage.latency = lambda: 4 * SLOW if stage.dial("a") == 1.0 else SLOW
    made = begun(stage, step("a"), step("b"), verify=replace(VERIFY, otherwise="escalate"))
    await stage.seen()
    await stage.runner.start(made)
    run = await stage.ended()
    assert (run.state, run.outcome.verdict, run.outcome.undone) == ("done", "harmed", True)
    assert [(s.id, s.status) for s in run.steps][2:] == [("b", "undone"), ("a", "undone")]
    assert (stage.dial("a"), stage.dial("b")) == (0.0, 0.0)
    assert told(stage) == ["escalate"]
    assert stage.told[0].severity == "page"


@pytest.mark.parametrize(
    ("otherwise", "left", "tells"),
    [("undo", 0.0, []), ("escalate", 1.0, ["escalate"]), ("next", 1.0, [])],
)
async def test_what_did_not_help(stage, tmp_path, otherwise, left, tells):
    stage.latency = lambda: SLOW
    made = begun(stage, verify=PlannedVerify(0.0, 10.0, VERIFY.expect, "", otherwise))
    await stage.seen()
    await stage.runner.start(made)
    run = await stage.ended()
    assert (run.state, run.outcome.verdict) == ("done", "no_effect")
    assert run.outcome.undone is (otherwise == "undo")
    assert stage.dial("a") == left
    assert told(stage) == tells


@pytest.mark.parametrize("otherwise", ["undo", "escalate"])
async def test_what_may_not_have_helped_stays_where_all_is_well(stage, otherwise):
    """It passed by itself just before we acted: there is nothing to put right, and nothing to page for."""
    await stage.seen()
    stage.latency = lambda: FAST
    await stage.runner.start(begun(stage, verify=replace(VERIFY, otherwise=otherwise)))
    run = await stage.ended()
    assert (run.state, run.outcome.verdict) == ("done", "cannot_tell")
    assert (run.outcome.well, run.outcome.undone) == (True, False)
    assert stage.dial("a") == 1.0
    assert told(stage) == []


async def test_a_temporary_measure_does_not_stay_although_it_did_not_help(stage):
    stage.latency = lambda: SLOW
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 30.0)
    made = begun(
        stage, step(until=until), verify=PlannedVerify(0.0, 10.0, VERIFY.expect, "", "escalate")
    )
    await stage.runner.start(made)
    run = await stage.ended()
    assert states(stage) == ["acting", "verifying", "holding", "undoing", "done"]
    assert stage.dial("a") == 0.0
    assert run.outcome.verdict in {"no_effect", "cannot_tell"}


@pytest.mark.parametrize(("otherwise", "left"), [("undo", 0.0), ("escalate", 1.0)])
async def test_a_step_that_fails_stops_the_run(stage, tmp_path, verbs, otherwise, left):
    bad = step("b", "dial", params={"name": "b", "to": "${steps.a.nothing}"})
    made = begun(stage, step("a"), bad, step("c"), verify=replace(VERIFY, otherwise=otherwise),
                 then=(step("s", "shout"),))  # fmt: skip
    await stage.runner.start(made)
    run = await stage.ended()
    assert run.state == "failed"
    assert "steps.a.nothing" in run.text
    assert stage.dial("a") == left
    assert run.outcome.undone is (otherwise == "undo")
    assert read_effects(tmp_path, "c") == []
    assert len(shouts(tmp_path)) == 1
    assert told(stage) == ["failed"]


async def test_an_undo_that_fails_pages_and_is_not_called_undone(stage, verbs):
    stage.latency = lambda: SLOW
    verbs["dial"].script = ["", "refused"]
    await stage.runner.start(begun(stage, verify=PlannedVerify(0.0, 10.0, VERIFY.expect)))
    run = await stage.ended()
    assert (run.steps[-1].status, run.outcome.undone) == ("refused", False)
    assert told(stage) == ["undo:a"]
    assert "it said no" in stage.told[0].text


async def test_what_follows_a_run_does_not_change_how_it_ended(stage, tmp_path):
    bad = step("s", "shout", params={"text": "${steps.a.nothing}"})
    await stage.runner.start(begun(stage, then=(bad, step("t", "shout"))))
    run = await stage.ended()
    assert run.state == "done"
    assert [s.status for s in run.steps] == ["done", "refused"]
    assert shouts(tmp_path) == []


async def test_a_bug_in_the_hands_ends_the_run_and_not_the_daemon(tmp_path, verbs):
    class Clumsy(RealHands):
        async def observe(self, plan, step, results, outcome=None):
            raise ZeroDivisionError("oops")

    async with Stage(tmp_path, hands=Clumsy) as stage:
        await stage.runner.start(begun(stage))
        run = await stage.ended()
    assert run.state == "failed"
    assert "a bug in observe:a: ZeroDivisionError: oops" in run.text
    assert read_effects(tmp_path) == []


# ---- approval


def to_approve(stage, *steps, **kw):
    return begun(stage, *steps, mode="approve", **kw)


async def test_a_run_that_asks_does_nothing_before_the_yes(stage, tmp_path):
    made = to_approve(stage)
    await stage.runner.start(made)
    await stage.until(lambda: "ask" in told(stage))
    await asyncio.sleep(0.3)
    assert read_effects(tmp_path) == []
    await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
    run = await stage.ended()
    assert (run.state, stage.dial("a")) == ("done", 1.0)
    assert "approved by ann" in [e.body["text"] for e in stage.kinds("run")]
    (said,) = stage.kinds("approval")
    assert said.body == {"person": "ann", "yes": True, "plan_hash": made.hash}


async def test_a_no_ends_the_run(stage, tmp_path):
    made = to_approve(stage)
    await stage.runner.start(made)
    await stage.runner.approve("r1", "ann", yes=False, plan_hash=made.hash, reason="not today")
    run = await stage.ended()
    assert (run.state, run.text) == ("denied", "denied by ann: not today")
    assert (run.steps, run.outcome) == ((), None)
    (said,) = stage.kinds("approval")
    assert said.body["reason"] == "not today"
    assert read_effects(tmp_path) == []


@pytest.mark.parametrize(
    ("on_timeout", "state", "tells"),
    [("deny", "denied", ["ask"]), ("escalate", "expired", ["ask", "unanswered"])],
)
async def test_silence_is_an_answer_too(stage, tmp_path, on_timeout, state, tells):
    made = to_approve(stage, approve=PlannedApproval("admin", 0.2, on_timeout))
    await stage.runner.start(made)
    run = await stage.ended()
    assert run.state == state
    assert "nobody with the role admin answered in 200 ms" in run.text
    assert told(stage) == tells
    assert read_effects(tmp_path) == []


async def test_answers_that_are_refused(stage):
    made = to_approve(stage)
    await stage.runner.start(made)
    with pytest.raises(Refused, match="something else"):
        await stage.runner.approve("r1", "ann", yes=True, plan_hash="of another plan")
    with pytest.raises(Refused, match="there is no run"):
        await stage.runner.approve("r9", "ann", yes=True, plan_hash=made.hash)
    await stage.runner.approve("r1", "ann", yes=False, plan_hash=made.hash)
    with pytest.raises(Refused, match=r"answered already, by ann|has ended"):
        await stage.runner.approve("r1", "bob", yes=True, plan_hash=made.hash)
    await stage.ended()
    with pytest.raises(Refused, match="has ended: it is denied"):
        await stage.runner.approve("r1", "bob", yes=True, plan_hash=made.hash)
    other = begun(stage, step(params={"name": "a", "to": 1.0, "takes": 1.0}), run_id="r2")
    await stage.runner.start(other)
    with pytest.raises(Refused, match="does not wait for an answer: it is acting"):
        await stage.runner.approve("r2", "ann", yes=True, plan_hash=other.hash)
    await stage.ended("r2")


async def test_a_yes_is_for_the_world_as_it_was_when_asked(stage, tmp_path):
    made = to_approve(stage)
    await stage.runner.start(made)
    await stage.until(lambda: "ask" in told(stage))
    (tmp_path / "dial-a").write_text("somebody 5.0\n")
    await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
    run = await stage.ended()
    assert run.state == "failed"
    assert "a was changed by others: it is 5, not 0" in run.text
    assert len(read_effects(tmp_path)) == 1


async def test_what_can_not_be_done_is_not_asked(stage):
    await stage.runner.start(begun(stage, step("a", "scale", params={"by": 1}), mode="approve"))
    run = await stage.ended()
    assert run.state == "failed"
    assert "ask" not in told(stage)


async def test_an_answer_reaches_a_run_whose_engine_is_not_loaded(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        made = to_approve(stage)
        await stage.runner.start(made)
        await stage.until(lambda: "ask" in told(stage))
    async with Stage(tmp_path) as stage:
        assert stage.runner.loaded is False
        await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
        assert (await stage.ended()).state == "done"
        assert "ask" not in told(stage)  # people were asked once
    assert read_effects(tmp_path) == ["r1/a 1.0"]


async def test_an_answer_that_was_recorded_and_not_delivered_is_delivered_after_a_restart(
    tmp_path, verbs
):
    async with Stage(tmp_path) as stage:
        made = to_approve(stage)
        await stage.runner.start(made)
        await stage.until(lambda: "ask" in told(stage))
        await stage.runner.close()
        await stage.hands.answered(made, "ann", yes=True, plan_hash=made.hash)
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        assert (await stage.ended()).state == "done"


# ---- a step that asks for itself


def asks(id_="b", **kw):
    return step(id_, approve=PlannedApproval("admin", 600.0), **kw)


async def test_a_step_that_asks_waits_for_its_own_yes_and_what_comes_before_does_not(
    stage, tmp_path
):
    made = begun(stage, step("a"), asks(), step("c"))
    await stage.runner.start(made)
    await stage.until(lambda: "ask:b" in told(stage))
    run = stage.memory.runs["r1"]
    assert (run.state, run.text) == ("waiting_approval", "waits for a yes to b (dial)")
    assert read_effects(tmp_path) == ["r1/a 1.0"]
    assert asked_for(made, run.plan_hash) == ("b", PlannedApproval("admin", 600.0))
    with pytest.raises(Refused, match="something else"):
        await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
    await stage.runner.approve("r1", "ann", yes=True, plan_hash=run.plan_hash)
    with pytest.raises(Refused, match=r"answered already, by ann|does not wait"):
        await stage.runner.approve("r1", "bob", yes=False, plan_hash=run.plan_hash)
    run = await stage.ended()
    assert (run.state, run.plan_hash) == ("done", made.hash)
    assert [stage.dial(d) for d in "abc"] == [1.0, 1.0, 1.0]


async def test_a_no_to_a_step_puts_back_what_was_done(stage):
    await stage.runner.start(begun(stage, step("a"), asks()))
    await stage.until(lambda: "ask:b" in told(stage))
    asked = stage.memory.runs["r1"].plan_hash
    await stage.runner.approve("r1", "ann", yes=False, plan_hash=asked)
    run = await stage.ended()
    assert (run.state, run.text) == ("denied", "denied by ann")
    assert (stage.dial("a"), stage.dial("b")) == (0.0, 0.0)
    assert run.outcome.undone


@pytest.mark.parametrize(("on_timeout", "state"), [("escalate", "expired"), ("deny", "denied")])
async def test_silence_on_a_step_is_what_the_step_says(stage, on_timeout, state):
    quick = PlannedApproval("admin", 0.3, on_timeout)
    await stage.runner.start(begun(stage, step("a"), step("b", approve=quick)))
    run = await stage.ended()
    assert run.state == state
    assert "nobody with the role admin answered" in run.text
    assert stage.dial("a") == 0.0
    assert ("unanswered:b" in told(stage)) == (on_timeout == "escalate")


async def test_the_yes_to_a_step_is_for_the_world_as_it_was_when_asked(stage, tmp_path):
    await stage.runner.start(begun(stage, step("a"), asks()))
    await stage.until(lambda: "ask:b" in told(stage))
    (tmp_path / "dial-b").write_text("bob 0.5\n")
    asked = stage.memory.runs["r1"].plan_hash
    await stage.runner.approve("r1", "ann", yes=True, plan_hash=asked)
    run = await stage.ended()
    assert run.state == "failed"
    assert "changed by others" in run.text
    assert stage.dial("b") == 0.5


async def test_the_yes_to_a_run_is_one_to_its_first_step_of_the_same_role_and_to_no_other(stage):
    first = step("a", approve=PlannedApproval())
    made = to_approve(stage, first, asks())
    await stage.runner.start(made)
    await stage.until(lambda: "ask" in told(stage))
    await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
    await stage.until(lambda: "ask:b" in told(stage))
    assert "ask:a" not in told(stage)
    asked = stage.memory.runs["r1"].plan_hash
    await stage.runner.approve("r1", "ann", yes=True, plan_hash=asked)
    assert (await stage.ended()).state == "done"


async def test_answers_to_run_and_step_survive_a_restart_and_a_lost_store(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        made = to_approve(stage, step("a"), asks())
        await stage.runner.start(made)
        await stage.until(lambda: "ask" in told(stage))
        await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
        await stage.until(lambda: "ask:b" in told(stage))
        await stage.runner.close()
        asked = stage.memory.runs["r1"].plan_hash
        await stage.hands.answered(made, "ann", yes=True, plan_hash=asked)
    for left in tmp_path.glob("runs.sqlite*"):
        left.unlink()
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        assert (await stage.ended()).state == "done"
    assert read_effects(tmp_path) == ["r1/a 1.0"]
    assert read_effects(tmp_path, "b") == ["r1/b 1.0"]


# ---- stopping


async def test_a_cancelled_run_puts_back_what_it_did(stage, tmp_path):
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 1e6)
    await stage.runner.start(begun(stage, step("a"), step("b", until=until)))
    await stage.state("holding")
    await stage.runner.cancel("r1", "ann")
    run = await stage.ended()
    assert (run.state, run.text) == ("denied", "stopped by ann")
    assert (stage.dial("a"), stage.dial("b")) == (0.0, 0.0)
    assert run.outcome.undone is True
    with pytest.raises(Refused, match="has ended"):
        await stage.runner.cancel("r1", "ann")


async def test_why_a_run_was_stopped_is_kept(stage):
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 1e6)
    await stage.runner.start(begun(stage, step("a", until=until)))
    await stage.state("holding")
    await stage.runner.cancel("r1", "ann", "the wrong host")
    run = await stage.ended()
    assert (run.state, run.text) == ("denied", "stopped by ann: the wrong host")
    assert run.outcome.summary == run.text
    (said,) = stage.kinds("cancel")
    assert said.body == {"person": "ann", "reason": "the wrong host"}


async def test_a_run_that_asks_can_be_cancelled(stage, tmp_path):
    made = to_approve(stage)
    await stage.runner.start(made)
    await stage.runner.cancel("r1", "ann")
    assert (await stage.ended()).text == "stopped by ann"
    assert read_effects(tmp_path) == []


async def test_a_run_that_verifies_can_be_cancelled(stage):
    stage.latency = lambda: SLOW
    await stage.runner.start(begun(stage, verify=replace(VERIFY, within=1e6)))
    await stage.state("verifying")
    await stage.runner.cancel("r1", "ann")
    run = await stage.ended()
    assert (run.state, run.outcome.verdict, run.outcome.undone) == ("denied", "cannot_tell", True)
    assert stage.dial("a") == 0.0


async def test_a_paused_run_waits_and_goes_on_over_a_restart(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        stage.record("pause", "*", {"by": "ann"}, stage.clock())
        await stage.runner.start(begun(stage))
        await stage.state("paused")
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        await asyncio.sleep(0.5)
        assert stage.memory.runs["r1"].state == "paused"
        assert read_effects(tmp_path) == []
        stage.record("resume", "*", {"by": "ann"}, stage.clock())
        assert (await stage.ended()).state == "done"
    assert read_effects(tmp_path) == ["r1/a 1.0"]


def harmful(stage):
    return lambda: 4 * SLOW if stage.dial("a") == 1.0 else SLOW


async def test_harm_found_while_paused_is_told_and_undone_after_the_pause(tmp_path, verbs):
    """Stopping comes first, over restarts; what harmed is put back as soon as a person lets it."""
    async with Stage(tmp_path) as stage:
        stage.latency = harmful(stage)
        await stage.seen()
        await stage.runner.start(begun(stage, verify=VERIFY))
        await stage.state("verifying")
        stage.record("pause", "*", {"by": "ann", "reason": "look first"}, stage.clock())
        await stage.state("paused")
        assert stage.memory.records.demoted("turn-it", "service:web").run == "r1"
        await stage.until(lambda: told(stage) == ["held_back"])
    async with Stage(tmp_path) as stage:
        stage.latency = harmful(stage)
        await stage.runner.recover()
        await asyncio.sleep(0.3)
        assert stage.dial("a") == 1.0
        stage.record("resume", "*", {"by": "ann"}, stage.clock())
        run = await stage.ended()
    assert (run.outcome.verdict, run.outcome.undone) == ("harmed", True)
    assert read_effects(tmp_path) == ["r1/a 1.0", "r1/a/undo 0.0"]


@pytest.mark.parametrize("undo", ["auto", "none"])
async def test_a_pause_of_what_follows_is_not_said_to_keep_harm_from_being_undone(
    stage, verbs, undo
):
    """Harm was put back, or there was nothing to put back: to resume would not change that."""

    def paused(moment):
        if moment == "effect:r1/s:after":
            stage.record("pause", "*", {"by": "ann"}, stage.clock())

    verbs["shout"].moments = staticmethod(paused)
    stage.latency = harmful(stage)
    await asyncio.sleep(0.4)
    then = (step("s", "shout"), step("t", "shout"))
    await stage.runner.start(begun(stage, step("a", undo=undo), verify=VERIFY, then=then))
    await stage.state("paused")
    waits = stage.memory.runs["r1"].outcome
    assert (waits.verdict, waits.undone) == ("harmed", undo == "auto")
    stage.record("resume", "*", {"by": "ann"}, stage.clock())
    run = await stage.ended()
    assert (run.state, run.outcome.undone) == ("done", undo == "auto")
    assert [s.id for s in run.steps][-2:] == ["s", "t"]
    assert told(stage) == ["escalate"]


async def test_harm_that_comes_over_a_restart_in_the_window_is_undone_once(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        stage.latency = lambda: SLOW
        await stage.seen()
        await stage.runner.start(begun(stage, verify=replace(VERIFY, within=60.0)))
        await stage.state("verifying")
    async with Stage(tmp_path) as stage:
        stage.latency = harmful(stage)
        await stage.runner.recover()
        run = await stage.ended()
    assert (run.outcome.verdict, run.outcome.undone) == ("harmed", True)
    assert read_effects(tmp_path) == ["r1/a 1.0", "r1/a/undo 0.0"]


async def test_what_a_person_changed_before_the_verdict_is_left_alone_and_told(stage, tmp_path):
    stage.latency = lambda: 4 * SLOW if stage.dial("a") else SLOW
    await stage.seen()
    await stage.runner.start(begun(stage, verify=VERIFY))
    await stage.state("verifying")
    with (tmp_path / "dial-a").open("a") as f:
        f.write("olga 9.0\n")
    run = await stage.ended()
    assert (run.outcome.verdict, run.outcome.undone) == ("harmed", False)
    assert stage.dial("a") == 9.0
    assert told(stage) == ["undo:a", "escalate"]


async def test_what_has_no_undo_is_not_called_undone(stage, tmp_path):
    stage.latency = harmful(stage)
    await stage.seen()
    await stage.runner.start(begun(stage, step(undo="none"), verify=VERIFY))
    run = await stage.ended()
    assert (run.outcome.verdict, run.outcome.undone) == ("harmed", False)
    assert "was undone" not in stage.told[0].text


class Replicas:
    """Two replicas that can be restarted one by one."""

    def __init__(self):
        self.births = {"web/1": 1, "web/2": 1}

    async def units(self, service):
        return [
            types.SimpleNamespace(replica=f"replica:{key}", birth=f"{key}:{n}", well=True)
            for key, n in self.births.items()
        ]

    async def restart(self, service, birth):
        self.births[birth.partition(":")[0]] += 1


@pytest.mark.parametrize("undo", ["none", "auto"])  # auto: a plan of before the verb said so
async def test_a_restart_that_harmed_is_not_called_undone(stage, undo):
    registry.load()
    replicas = Replicas()
    stage.hands._resolve = lambda *_: replicas
    stage.latency = lambda: SLOW * (4 if replicas.births["web/2"] == 2 else 1)
    await stage.seen()
    await stage.runner.start(
        begun(stage, step("again", "restart", params={}, undo=undo), verify=VERIFY)
    )
    run = await stage.ended()
    assert (run.outcome.verdict, run.outcome.undone) == ("harmed", False)
    assert [(s.id, s.status) for s in run.steps] == [("again", "done")]
    assert told(stage) == ["escalate"]
    text = stage.told[0].text
    assert "undone" not in text
    assert "again stays (" in text
    assert "what was restarted runs what it ran before)" in text


async def test_what_was_put_back_beside_a_restart_is_called_undone_and_the_restart_not(stage):
    registry.load()
    replicas = Replicas()
    stage.hands._resolve = lambda *_: replicas
    stage.latency = harmful(stage)
    await stage.seen()
    await stage.runner.start(
        begun(stage, step(), step("again", "restart", params={}, undo="none"), verify=VERIFY)
    )
    run = await stage.ended()
    assert (run.outcome.undone, stage.dial("a")) == (True, 0.0)
    assert ", it was undone, again stays (what was restarted" in stage.told[0].text


async def test_a_step_that_found_nothing_to_do_is_not_called_undone(stage, tmp_path):
    """Somebody was there before it: that is not ours to put back."""
    (tmp_path / "dial-a").write_text("olga 1.0\n")
    stage.latency = lambda: SLOW
    await stage.seen()
    await stage.runner.start(begun(stage, verify=VERIFY))
    run = await stage.ended()
    assert (run.outcome.verdict, run.outcome.undone) == ("no_effect", False)
    assert [(s.id, s.status) for s in run.steps] == [("a", "done")]
    assert stage.dial("a") == 1.0


# ---- one at a time


async def test_one_run_a_target_and_others_beside_it(stage, tmp_path):
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 1e6)
    await stage.runner.start(begun(stage, step(until=until)))
    await stage.state("holding")
    with pytest.raises(Refused, match=r"run r1 .* is at work on service:web"):
        await stage.runner.start(begun(stage, step("c"), run_id="r2"))
    assert "r2" not in stage.memory.runs
    elsewhere = begun(stage, step("d"), run_id="r3", target=Entity("service", "other"))
    await stage.runner.start(elsewhere)
    await stage.until(lambda: stage.memory.runs["r3"].state == "done")
    assert stage.memory.runs["r1"].state == "holding"


async def test_a_mark_that_is_held_keeps_nobody_from_healing_the_target(stage, verbs, monkeypatch):
    mark = type("Mark", (verbs["dial"],), {"effect": "marking"})
    monkeypatch.setitem(registry.action._known, "mark", mark)
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 1e6)
    await stage.runner.start(begun(stage, replace(step(until=until), use="mark")))
    await stage.state("holding")
    await stage.runner.start(begun(stage, step("c"), run_id="r2"))
    await stage.until(lambda: stage.memory.runs["r2"].state == "done")
    assert stage.memory.runs["r1"].state == "holding"


async def test_a_recorded_run_that_can_not_begin_does_not_hold_its_target(stage):
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 1e6)
    await stage.runner.start(begun(stage, step(until=until)))
    await stage.state("holding")
    late = begun(stage, step("c"), run_id="r2")
    await stage.hands.accept(late)
    with pytest.raises(Refused, match="one at a time"):
        await stage.runner.start(late)
    assert stage.memory.runs["r2"].state == "expired"


async def test_starting_twice_is_starting_once(stage, tmp_path):
    made = begun(stage)
    await asyncio.gather(stage.runner.start(made), stage.runner.start(made))
    await stage.ended()
    await asyncio.sleep(0.2)
    assert read_effects(tmp_path) == ["r1/a 1.0"]
    assert len(stage.kinds("plan")) == 1


@pytest.mark.parametrize("mode", ["observe", "suggest"])
async def test_what_only_suggests_is_not_run(stage, mode):
    with pytest.raises(Refused, match=mode):
        await stage.runner.start(begun(stage, mode=mode))
    assert stage.runner.loaded is False


async def test_a_plan_without_steps_is_not_run(stage):
    with pytest.raises(Refused, match="no steps"):
        await stage.runner.start(sealed(replace(begun(stage), steps=())))


# ---- restarts


async def test_a_run_goes_on_after_a_stop_in_its_middle(tmp_path, verbs):
    until = Until(("service.latency_p95_seconds < 0.2",), 1.0, 1e6)
    async with Stage(tmp_path) as stage:
        stage.latency = lambda: SLOW
        await stage.runner.start(begun(stage, step("a"), step("b", until=until)))
        await stage.state("holding")
    async with Stage(tmp_path) as stage:
        stage.latency = lambda: FAST
        await stage.runner.recover()
        run = await stage.ended()
    assert run.state == "done"
    assert read_effects(tmp_path, "a") == ["r1/a 1.0"]
    assert read_effects(tmp_path, "b") == ["r1/b 1.0", "r1/b/undo 0.0"]


async def test_a_step_in_the_middle_may_finish_before_the_stop(tmp_path, verbs):
    slow = step(params={"name": "a", "to": 1.0, "takes": 0.6})
    async with Stage(tmp_path) as stage:
        await stage.runner.start(begun(stage, slow, step("b")))
        await stage.until(lambda: stage.kinds("intent"))
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert [e.kind for e in journal.read(["intent", "acted"])] == ["intent", "acted"]
    assert read_effects(tmp_path, "b") == []
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        run = await stage.ended()
    assert [(s.id, s.status) for s in run.steps] == [("a", "done"), ("b", "done")]


async def test_nothing_is_done_twice_even_when_the_file_of_runs_is_lost(tmp_path, verbs):
    until = Until(("service.latency_p95_seconds < 0.2",), 1.0, 1e6)
    async with Stage(tmp_path) as stage:
        stage.latency = lambda: SLOW
        await stage.runner.start(begun(stage, step("a"), step("b", until=until)))
        await stage.state("holding")
    for file in tmp_path.glob("runs.sqlite*"):
        file.unlink()
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        run = await stage.ended()
    assert run.state == "done"
    assert read_effects(tmp_path, "a") == ["r1/a 1.0"]
    assert read_effects(tmp_path, "b") == ["r1/b 1.0", "r1/b/undo 0.0"]


async def test_a_run_that_the_journal_does_not_know_does_nothing(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        stage.record("pause", "*", {"by": "ann"}, stage.clock())
        await stage.runner.start(begun(stage))
        await stage.state("paused")
    for file in tmp_path.glob("journal.sqlite*"):
        file.unlink()
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        assert stage.runner.loaded
        await stage.until(lambda: not stage.runner.store.unfinished())
    assert read_effects(tmp_path) == []


async def test_a_last_word_that_was_lost_is_said_again(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        await stage.runner.start(begun(stage))
        await stage.ended()
        entries = [(e.kind, e.subject, e.body, e.ts) for e in stage.journal.read()]
    for file in tmp_path.glob("journal.sqlite*"):
        file.unlink()
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.append_many(entries[:-1])
    async with Stage(tmp_path) as stage:
        assert stage.memory.live_runs()
        await stage.runner.recover()
        run = await stage.ended()
    assert run.state == "done"
    assert read_effects(tmp_path) == ["r1/a 1.0"]


async def test_a_run_that_the_engine_gave_up_does_not_hold_its_target(tmp_path, verbs):
    until = Until(("service.latency_p95_seconds < 0.0",), 0.0, 1e6)
    async with Stage(tmp_path) as stage:
        await stage.runner.start(begun(stage, step(until=until)))
        await stage.state("holding")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as c, c:
        c.execute("UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'")
    async with Stage(tmp_path) as stage:
        await stage.runner.recover()
        run = await stage.ended()
        assert told(stage) == ["lost"]
    assert run.state == "failed"
    assert "gave this run up" in run.text


async def test_a_run_whose_engine_could_not_write_is_taken_up_again(stage, tmp_path, monkeypatch):
    failing = []

    def full(self, result, *args, **kwargs):
        if result["function_name"] == "act:a" and not failing:
            failing.append(1)
            raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("disk is full"))
        return real(self, result, *args, **kwargs)

    await stage.runner._load()
    from dbos._sys_db import SystemDatabase

    real = SystemDatabase.record_operation_result
    monkeypatch.setattr(SystemDatabase, "record_operation_result", full)
    await stage.runner.start(begun(stage, step("a"), step("b")))
    await stage.until(lambda: failing and "r1" not in stage.runner._courses)
    assert stage.memory.runs["r1"].state == "acting"
    for _ in range(2):
        await stage.runner.idle()
    run = await stage.ended()
    assert [(s.id, s.status) for s in run.steps] == [("a", "done"), ("b", "done")]
    assert read_effects(tmp_path) == ["r1/a 1.0"]


# ---- the engine


def test_without_a_run_the_engine_is_never_loaded(tmp_path):
    code = """
        import asyncio, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from run_stage import Stage, at_work, plan

        async def main(folder):
            async with Stage(folder) as stage:
                await stage.runner.recover()
                await stage.runner.idle()
                print("said", *(m in sys.modules for m in ("dbos", "psycopg")), stage.runner.loaded)
                if sys.argv[3] == "run":
                    with at_work(folder):
                        await stage.runner.start(plan())
                        await stage.ended()
                    print("said", *(m in sys.modules for m in ("dbos", "psycopg")), stage.runner.loaded)

        asyncio.run(main(Path(sys.argv[1])))
        """
    here = os.path.dirname(run_stage.__file__)  # noqa: PTH120  # a path for the child
    # a file of runs needs no client of PostgreSQL
    unloaded = "False False False"
    for what, said in (("run", [unloaded, "True False True"]), ("look", [unloaded])):
        (tmp_path / what).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), tmp_path / what, here, what],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        lines = [
            ln.removeprefix("said ") for ln in done.stdout.splitlines() if ln.startswith("said")
        ]
        assert lines == said


async def test_the_engine_is_let_go_when_idle_and_comes_back(stage, tmp_path):
    stage.runner._idle_s = 0.2
    await stage.runner.start(begun(stage))
    await stage.ended()
    await stage.until(lambda: not stage.runner._courses)
    await stage.runner.idle()
    assert stage.runner.loaded
    await asyncio.sleep(0.3)
    await stage.runner.idle()
    assert not stage.runner.loaded
    await stage.runner.start(begun(stage, step("b"), run_id="r2"))
    assert (await stage.ended("r2")).state == "done"


@pytest.mark.parametrize(("keep", "kept"), [(3600.0, 1), (-3600.0, 0)])
async def test_runs_that_ended_long_ago_leave_the_file(stage, tmp_path, monkeypatch, keep, kept):
    monkeypatch.setattr("agent.runner._KEEP_S", keep)
    stage.runner._idle_s = 0.0
    await stage.runner.start(begun(stage))
    await stage.ended()
    await stage.until(lambda: not stage.runner.store.unfinished())
    await stage.until(lambda: not stage.runner._courses)
    await stage.runner.idle()
    assert not stage.runner.loaded
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as c:
        assert c.execute("SELECT count(*) FROM workflow_status").fetchone()[0] == kept
        assert bool(c.execute("SELECT count(*) FROM operation_outputs").fetchone()[0]) is bool(kept)


async def test_the_engine_stays_while_a_run_waits(stage):
    stage.runner._idle_s = 0.0
    await stage.runner.start(to_approve(stage))
    await stage.until(lambda: "ask" in told(stage))
    await stage.runner.idle()
    assert stage.runner.loaded


async def test_an_unfinished_run_is_taken_up_by_idle_when_the_engine_could_not_be_loaded(
    stage, tmp_path
):
    made = begun(stage)
    (tmp_path / "runs.sqlite").mkdir()
    with pytest.raises(Unavailable, match="can not be opened"):
        await stage.runner.start(made)
    await stage.runner.idle()  # says so once, and lives
    (tmp_path / "runs.sqlite").rmdir()
    await stage.runner.idle()
    assert (await stage.ended()).state == "done"


async def test_a_damaged_file_of_runs_is_told_and_left_alone(stage, tmp_path):
    junk = b"no database at all" * 300
    (tmp_path / "runs.sqlite").write_bytes(junk)
    with pytest.raises(Refused, match=r"damaged .*move it away"):
        await stage.runner.start(begun(stage))
    assert (tmp_path / "runs.sqlite").read_bytes() == junk
    shutil.move(tmp_path / "runs.sqlite", tmp_path / "moved")
    await stage.runner.idle()
    assert (await stage.ended()).state == "done"


async def test_a_daemon_starts_although_the_file_of_runs_is_damaged(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        stage.record("pause", "*", {"by": "ann"}, stage.clock())
        await stage.runner.start(begun(stage))
        await stage.state("paused")
        stage.record("resume", "*", {"by": "ann"}, stage.clock())
        await stage.runner.close()
    (tmp_path / "runs.sqlite").write_bytes(b"no database at all" * 300)
    async with Stage(tmp_path) as stage:
        with structlog.testing.capture_logs() as logs:
            await stage.runner.recover()
            await stage.runner.idle()
        assert [e["event"] for e in logs] == ["engine_unavailable"]  # said once
        assert "move it away" in logs[0]["error"]
        for file in tmp_path.glob("runs.sqlite*"):
            file.unlink()
        await stage.runner.idle()
        assert (await stage.ended()).state == "done"
    assert read_effects(tmp_path) == ["r1/a 1.0"]


async def test_the_file_of_runs_is_for_its_owner_and_readable_as_text(stage, tmp_path):
    await stage.runner.start(begun(stage))
    await stage.until(lambda: stage.memory.runs["r1"].state == "done" and not stage.runner._courses)
    for file in tmp_path.glob("runs.sqlite*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as c:
        rows = c.execute(
            "SELECT serialization, i.inputs FROM workflow_status JOIN workflow_input i USING (workflow_uuid)"
        ).fetchall()
        names = [
            r[0]
            for r in c.execute("SELECT function_name FROM operation_outputs ORDER BY function_id")
        ]
    assert rows[0][0] == "portable_json"
    assert '"turn-it"' in rows[0][1]
    assert names == ["report:1", "boundary:a", "observe:a", "act:a", "report:2", "report:3"]


async def test_two_processes_do_not_carry_out_the_same_runs(stage, tmp_path):
    await stage.runner.start(to_approve(stage))
    code = """
        import asyncio, sys
        from pathlib import Path
        from agent.errors import Refused
        from agent.runner import Runner
        from agent.runs_store import RunsFile
        try:
            asyncio.run(asyncio.to_thread(Runner(RunsFile(Path(sys.argv[1])), None)._launch))
        except Refused as e:
            print(e)
        """
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", textwrap.dedent(code), tmp_path / "runs.sqlite"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "another process carries out the runs" in done.stdout


async def test_a_run_that_is_taken_up_while_the_engine_ends_is_not_dropped(stage, monkeypatch):
    from dbos import _queue

    await stage.runner.start(begun(stage, step()))  # loads the engine
    await stage.ended()
    take_up, taking, failed = _queue.execute_dequeued_workflow, asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def slowly(*args):
        loop.call_soon_threadsafe(taking.set)
        time.sleep(0.5)  # meanwhile the engine is told to end
        try:
            return take_up(*args)
        except Exception as error:
            failed.append(error)
            raise

    monkeypatch.setattr(_queue, "execute_dequeued_workflow", slowly)
    await stage.runner.start(to_approve(stage, run_id="r2"))
    async with asyncio.timeout(10):
        await taking.wait()
    await stage.runner.close()
    assert not failed


async def test_the_engine_ends_also_while_it_starts_what_takes_up_runs(stage, monkeypatch):
    start, loop, starting = threading._start_new_thread, asyncio.get_running_loop(), asyncio.Event()

    def slowly(function, *args):
        if function.__self__.name.startswith("queue-worker-"):
            loop.call_soon_threadsafe(starting.set)
            time.sleep(0.5)  # meanwhile the engine is told to end
        return start(function, *args)

    monkeypatch.setattr(threading, "_start_new_thread", slowly)
    await stage.runner.start(begun(stage, step()))  # loads the engine
    async with asyncio.timeout(10):
        await starting.wait()
    await stage.runner.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("queue-worker-")]


async def test_a_runner_that_is_stopping_begins_nothing(stage):
    await stage.runner.close()
    with pytest.raises(Unavailable, match="is stopping"):
        await stage.runner.start(begun(stage))
    assert stage.memory.live_runs()  # recorded: it is carried out after the next start


@pytest.mark.parametrize("severity", ["page", "warning", "note"])
async def test_what_a_run_tells_is_as_bad_as_its_incident_and_harm_of_ours_always_pages(
    stage, verbs, severity
):
    i = Incident("i1", stage.clock(), stage.clock(), "open", severity, "web is slow")
    stage.record("incident", "i1", pack(i), stage.clock())
    verbs["dial"].script = ["refused"]
    await stage.runner.start(begun(stage, step()))
    await stage.ended()
    assert [(n.key, n.severity) for n in stage.told] == [("r1:failed", severity)]
    stage.latency = lambda: 4 * SLOW if stage.dial("a") == 1.0 else SLOW
    await stage.runner.start(begun(stage, step(), run_id="r2", verify=VERIFY))
    assert (await stage.ended("r2")).outcome.verdict == "harmed"
    assert [n.severity for n in stage.told if n.key == "r2:escalate"] == ["page"]
