"""The undo of a run that is over: the runner's own undo, in a run of its own, with nothing lost and nothing twice."""

import asyncio
from dataclasses import replace

import pytest
from run_stage import SLOW, VERIFY, Stage, at_work, plan, read_effects, step

from agent import by_hand
from agent import hands as hands_module
from agent.codec import pack, unpack
from agent.errors import Refused
from agent.memory import Memory
from agent.plans import Plan


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


async def done(stage, *steps, **kw):
    """Let a run come to its end; returns it."""
    await stage.runner.start(plan(*steps, created=stage.clock(), **kw))
    return await stage.ended()


async def undo(stage, run_id="r1", person="olga"):
    made = by_hand.undoing(stage.memory, stage.journal, run_id, person, stage.clock())
    await stage.runner.start(made)
    return await stage.ended(made.run_id)


async def test_what_a_finished_run_did_is_put_back_the_last_step_first(stage):
    run = await done(stage, step("a"), step("b"), verify=VERIFY)
    assert (run.state, stage.dial("a"), stage.dial("b")) == ("done", 1.0, 1.0)
    back = await undo(stage)
    assert (back.state, stage.dial("a"), stage.dial("b")) == ("done", 0.0, 0.0)
    assert [(s.id, s.status) for s in back.steps] == [("b", "undone"), ("a", "undone")]
    assert stage.memory.plans[back.id].by == "olga"
    assert stage.memory.undos == {"r1": [back.id]}
    assert stage.memory.runs["r1"] == run  # what was, was
    keys = [line.split()[0] for line in read_effects(stage.folder, "a")]
    assert keys == ["r1/a", "r1/a/undo"]  # under the name of the run that did it


async def test_a_step_that_found_nothing_to_do_is_nothing_to_undo(stage, tmp_path):
    (tmp_path / "dial-a").write_text("olga 1.0\n")
    await done(stage, step("a"))
    with pytest.raises(Refused, match="it left nothing to put back"):
        by_hand.undoing(stage.memory, stage.journal, "r1", "max", stage.clock())
    assert stage.dial("a") == 1.0


async def test_it_is_put_back_once(stage):
    await done(stage, step("a"))
    await undo(stage)
    with pytest.raises(Refused, match="put back already"):
        by_hand.undoing(stage.memory, stage.journal, "r1", "max", stage.clock())
    (of,) = stage.memory.undos["r1"]
    with pytest.raises(Refused, match="itself an undo"):
        by_hand.undoing(stage.memory, stage.journal, of, "max", stage.clock())


async def test_two_who_press_at_once_start_one_undo(stage):
    await done(stage, step("a"))
    first = by_hand.undoing(stage.memory, stage.journal, "r1", "olga", stage.clock())
    assert first.run_id == by_hand.undoing(stage.memory, stage.journal, "r1", "max", 5.0).run_id
    task = asyncio.create_task(stage.runner.start(first))
    await stage.until(lambda: first.run_id in stage.memory.runs)
    if first.run_id in {r.id for r in stage.memory.live_runs()}:
        with pytest.raises(Refused, match="being put back already"):
            by_hand.undoing(stage.memory, stage.journal, "r1", "max", stage.clock())
    await task
    await stage.ended(first.run_id)
    assert len(read_effects(stage.folder, "a")) == 2


async def test_what_others_changed_since_is_left_alone_told_and_can_be_tried_again(stage, verbs):
    await done(stage, step("a"), step("b"))
    (stage.folder / "dial-b").write_text("somebody 7.0\n")
    back = await undo(stage)
    assert (back.state, stage.dial("a"), stage.dial("b")) == ("failed", 0.0, 7.0)
    assert [(s.id, s.status) for s in back.steps] == [("b", "refused"), ("a", "undone")]
    assert [n.severity for n in stage.told if "undo" in n.key] == ["page"]
    (stage.folder / "dial-b").write_text("somebody 1.0\n")
    again = await undo(stage)
    assert again.id != back.id
    assert [(s.id, s.status) for s in again.steps] == [("b", "undone")]
    assert (again.state, stage.dial("b")) == ("done", 0.0)


async def test_steps_that_stay_are_not_touched_and_what_they_gave_is_still_known(stage):
    first = step("a", undo="none")
    second = step("b", params={"name": "b", "to": "${steps.a.value}"})
    await done(stage, first, second)
    assert stage.dial("b") == 1.0
    back = await undo(stage)
    assert [(s.id, s.status) for s in back.steps] == [("b", "undone")]
    assert (stage.dial("a"), stage.dial("b")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("steps", "said"),
    [((step("a", undo="none"),), "can not be put back"), ((step("n", "shout", undo="none"),), "can not be put back")],
)  # fmt: skip
async def test_what_can_not_be_put_back_says_so(stage, steps, said):
    await done(stage, *steps)
    with pytest.raises(Refused, match=said):
        by_hand.undoing(stage.memory, stage.journal, "r1", "olga", stage.clock())


async def test_what_a_run_has_put_back_itself_is_not_put_back_again(stage):
    stage.latency = lambda: 4 * SLOW if stage.dial("a") == 1.0 else SLOW
    run = await done(stage, step("a"), verify=VERIFY)
    assert run.outcome.undone
    with pytest.raises(Refused, match="put back already"):
        by_hand.undoing(stage.memory, stage.journal, "r1", "olga", stage.clock())


async def test_a_run_that_lives_is_stopped_not_undone(stage):
    await stage.runner.start(plan(step("a"), created=stage.clock(), mode="approve"))
    await stage.state("waiting_approval")
    with pytest.raises(Refused, match="it can be stopped"):
        by_hand.undoing(stage.memory, stage.journal, "r1", "olga", stage.clock())


async def test_a_pause_holds_it_and_a_restart_does_not_lose_it(tmp_path, verbs):
    async with Stage(tmp_path) as stage:
        await done(stage, step("a"))
        stage.record("pause", "*", {"by": "ann", "reason": "hands off"}, stage.clock())
        made = by_hand.undoing(stage.memory, stage.journal, "r1", "olga", stage.clock())
        await stage.runner.start(made)
        await stage.state("paused", made.run_id)
        assert stage.dial("a") == 1.0
    async with Stage(tmp_path) as stage:
        stage.record("resume", "*", {"by": "ann"}, stage.clock())
        await stage.runner.recover()
        back = await stage.ended(made.run_id)
        assert (back.state, stage.dial("a")) == ("done", 0.0)
        assert len(read_effects(tmp_path, "a")) == 2


async def test_memory_is_the_same_after_a_restart(stage):
    await done(stage, step("a"))
    await undo(stage)
    loaded = Memory()
    loaded.load(stage.journal)
    assert loaded == stage.memory
    small = Memory(room_runs=1)
    for entry in stage.journal.read():
        small.apply(entry)
    again = Memory(room_runs=1)
    again.load(stage.journal)
    assert small == again


def test_a_plan_of_before_is_read_and_its_hash_is_as_it_was():
    made = plan(created=1.0)
    old = pack(made)
    for name in ("undoes", "left"):
        del old[name]
    assert unpack(Plan, old) == made
    assert replace(made, undoes="r0").undoes == "r0"
