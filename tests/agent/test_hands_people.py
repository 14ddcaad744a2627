"""Steps that need no connector: silences and questions are our own, in the journal, and survive a crash."""

import asyncio

import pytest
from run_stage import WEB, Stage, at_work, plan, step

from agent.memory import Memory
from agent.questions import id_of


@pytest.fixture
async def stage(tmp_path):
    with at_work(tmp_path):
        async with Stage(tmp_path, speed=1.0) as made:
            yield made


def remember(stage) -> None:
    """Forget everything that is not on disk."""
    stage.memory = Memory()
    stage.memory.load(stage.journal)
    stage.hands._memory = stage.memory


async def test_a_step_silences_its_target_and_its_undo_ends_that(stage):
    quiet = step("quiet", "silence", params={"for": "1h", "reason": "we reboot it"})
    made = plan(quiet)
    await stage.hands.accept(made)
    before = await stage.hands.observe(made, quiet, {})
    assert before == {"until": 0.0}
    acted = await stage.hands.act(made, quiet, before, {})
    assert acted.record.status == "done"
    remember(stage)
    held = stage.memory.silenced(WEB, stage.clock())
    assert held.by == "homeostat:r1"
    assert held.reason == "we reboot it"
    record = await stage.hands.undo(made, quiet, acted, {})
    assert record.status == "undone"
    remember(stage)
    assert stage.memory.silenced(WEB, stage.clock()) is None


async def test_a_step_asks_and_waits_for_longer_than_other_steps_may_take(stage):
    ask = step("ask", "ask", params={"text": "go on?", "wait": 30.0}, timeout=0.3)
    made = plan(ask)
    await stage.hands.accept(made)
    running = asyncio.create_task(stage.hands.act(made, ask, {"answered": False}, {}))
    await asyncio.sleep(0.6)
    assert not running.done()
    name = id_of("r1/ask")
    assert stage.memory.questions[name].target == WEB.id
    assert stage.memory.questions[name].run == "r1"
    assert [(note.title, note.incident) for note in stage.told] == [("go on?", "i1")]
    assert stage.told[0].facts == {"question": name}
    stage.record("reply", name, {"person": "alice", "values": {"go": True}}, stage.clock())
    acted = await running
    assert acted.record.summary == "alice answers: go True"
    assert acted.values == {"go": True, "by": "alice"}


async def test_an_answer_that_came_while_we_were_down_is_taken(stage):
    ask = step("ask", "ask", params={"text": "go on?", "wait": 30.0})
    made = plan(ask)
    await stage.hands.accept(made)
    running = asyncio.create_task(stage.hands.act(made, ask, {"answered": False}, {}))
    await stage.until(lambda: id_of("r1/ask") in stage.memory.questions)
    running.cancel()
    stage.record("reply", id_of("r1/ask"), {"person": "alice", "values": {"go": False}}, 1.0)
    remember(stage)
    acted = await stage.hands.act(made, ask, {"answered": False}, {})
    assert acted.record.status == "refused"
    assert acted.text == "alice says no: go on?"
    assert len(stage.kinds("question")) == 1
