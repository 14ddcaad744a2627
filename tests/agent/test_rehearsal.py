"""Runs that nobody carries out end as real ones do when nobody answers."""

import pytest

from agent import registry
from agent.config import Config
from agent.memory import Memory
from agent.model import Entity
from agent.plans import Plan, PlannedApproval, PlannedStep, PlannedVerify, Until, sealed
from agent.playbook import Library
from agent.playbook.examples import run as try_one
from agent.playbook.rehearsal import Fold, Rehearsal, questions

ADMIN = PlannedApproval("admin", 1800.0, "escalate")
DENY = PlannedApproval("operator", 600.0, "deny")
DRAIN = PlannedStep("drain", "drain")
REBOOT = PlannedStep("reboot", "reboot", undo="none", approve=ADMIN)
ASK = PlannedStep("free", "ask", params={"text": "go?", "wait": "1h", "by": "author"}, undo="none")
VERIFY = PlannedVerify(60.0, 240.0, ("service.up > 0.5",))


@pytest.fixture(scope="module", autouse=True)
def guests():
    registry.load()


def plan(*steps, mode="auto", verify=VERIFY, approve=None):
    return sealed(
        Plan("r", "b", "B", "h", "host:h", "i", mode, "", 0.0, steps, verify, approve=approve)
    )


def told(made):
    return [str(one) for one in questions(made)]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (plan(DRAIN), []),
        (plan(DRAIN, REBOOT, mode="suggest"), []),
        (plan(DRAIN, REBOOT), [
            "would ask admin before reboot, waits up to 30 min, then it ends with drain put back; people are told",
        ]),
        (plan(REBOOT), [
            "would ask admin before reboot, waits up to 30 min, then it ends with nothing done; people are told",
        ]),
        (plan(DRAIN, REBOOT, mode="approve", approve=DENY), [
            "would ask operator, waits up to 10 min, then it ends with nothing done",
            "would ask admin before reboot, waits up to 30 min, then it ends with drain put back; people are told",
        ]),
        (plan(REBOOT, mode="approve", approve=ADMIN), [  # the yes to the run is one to its first step
            "would ask admin, waits up to 30 min, then it ends with nothing done; people are told",
        ]),
        (plan(DRAIN, PlannedStep("look", "collect"), ASK), [
            "would ask author before free, waits up to 1 h, then it ends with drain put back; people are told",
        ]),
        (plan(DRAIN, REBOOT, verify=PlannedVerify(0.0, 60.0, ("true",), otherwise="escalate")), [
            "would ask admin before reboot, waits up to 30 min, then it ends with drain as done; people are told",
        ]),
        (plan(PlannedStep("out", "scale", until=Until(("true",), 1.0, 60.0)), REBOOT,
              verify=PlannedVerify(0.0, 60.0, ("true",), otherwise="escalate")), [
            "would ask admin before reboot, waits up to 30 min, then it ends with out put back; people are told",
        ]),
        (plan(PlannedStep("out", "scale", undo="none"), PlannedStep("more", "scale", approve=DENY)), [
            "would ask operator before more, waits up to 10 min, then it ends with out as done",
        ]),
    ],
)  # fmt: skip
def test_it_is_said_whom_it_asks_and_what_silence_means(made, said):
    assert told(made) == said


def rehearse(made, until):
    memory = Memory()
    rehearsal = Rehearsal(Fold(memory), "no_effect", "so")
    rehearsal.act(made, 0.0)
    states = []
    for now in until:
        rehearsal.end(now)
        states.append(memory.runs["r"].state)
    return memory.runs["r"], states


def test_what_stands_after_the_question_is_never_done():
    run, states = rehearse(plan(DRAIN, REBOOT), (0.0, 1799.0, 1800.0))
    assert states == ["waiting_approval", "waiting_approval", "expired"]
    assert [(s.id, s.status) for s in run.steps] == [("drain", "done"), ("drain", "undone")]
    assert (run.updated, run.text) == (1800.0, "nobody answers")
    assert (run.outcome.verdict, run.outcome.undone) == ("cannot_tell", True)


@pytest.mark.parametrize(
    ("made", "state", "steps"),
    [
        (plan(REBOOT), "expired", []),
        (plan(PlannedStep("reboot", "reboot", undo="none", approve=DENY)), "denied", []),
        (plan(DRAIN, mode="approve", approve=DENY), "denied", []),
        (plan(DRAIN, mode="approve"), "expired", []),
        (plan(DRAIN, ASK, REBOOT), "failed", ["drain", "drain"]),
        (plan(DRAIN), "done", ["drain"]),
    ],
)
def test_it_ends_as_a_real_one(made, state, steps):
    run, _ = rehearse(made, (7200.0,))
    assert (run.state, [s.id for s in run.steps]) == (state, steps)
    assert (run.outcome is None) == (not steps)
    assert run.target == Entity("host", "h")


BOOK = """\
version: 1
id: b
title: Reboot it
mode: auto
target: {kind: host}
because: {cause: host.memory}
when: ['host.memory_utilization_ratio > 0.9']
guard: {cooldown: {time: 1m}, rate: {max: 9, per: 1h}, attempts: {max: 9, per: 1h}}
do:
  - {id: look, use: wait, with: {time: 1s}}
  - {id: boot, use: reboot, undo: none, approve: {by: admin, timeout: 5m}}
verify: {within: 10m, expect: ['host.memory_utilization_ratio < 0.5']}
tests:
  - name: full
    feed: {for: 30m, series: {host.memory_utilization_ratio: {step: [0.5, 0.95], at: 2m}}}
    expect: {fires: FIRES, do: [look, boot], asks: ASKS}
"""


def tried(tmp_path, **words):
    text = BOOK
    for name, value in words.items():
        text = text.replace(name, value)
    (tmp_path / "b.yaml").write_text(text)
    (book,) = Library.load([tmp_path], Config(), built_in=False).playbooks.values()
    return try_one(book, book.tests[0])


def test_a_test_of_a_playbook_waits_and_may_expect_the_question(tmp_path):
    one = tried(tmp_path, FIRES="5", ASKS="[boot]")
    assert not one.wrong  # every 5 min of waiting and a minute of rest, in 28 min
    assert str(one.acts[0].asks[0]).startswith("would ask admin before boot, waits up to 5 min")
    one = tried(tmp_path, FIRES="5", ASKS="[]")
    assert one.wrong == ("it asks before boot, expected nothing",)
