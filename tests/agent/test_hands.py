import asyncio
import sqlite3
from dataclasses import replace

import pytest
from run_stage import FAST, SLOW, WEB, Stage, at_work, plan, read_effects, shouts, step

from agent import hands as hands_module
from agent.codec import pack, unpack
from agent.errors import Refused, Unavailable
from agent.memory import Memory
from agent.model import Change, Incident, Outcome, Run, Turn
from agent.plans import PlannedStep, PlannedVerify, Until
from agent.ports import Note, Notifier


@pytest.fixture
def verbs(tmp_path, monkeypatch):
    monkeypatch.setattr(hands_module, "_SETTLE_S", 0.01)
    monkeypatch.setattr(hands_module, "_BACK_OFF_S", 0.01)
    with at_work(tmp_path) as made:
        yield made


@pytest.fixture
async def stage(tmp_path, verbs):
    async with Stage(tmp_path, speed=100.0) as made:
        yield made


BEFORE = {"value": 0.0}


def crash(stage):
    """Forget everything that is not on disk."""
    stage.memory = Memory()
    stage.memory.load(stage.journal)
    stage.hands._memory = stage.memory
    stage.hands._passed.clear()


async def begun(stage, made=None):
    """Return a plan whose run is recorded."""
    made = made or plan()
    await stage.hands.accept(made)
    return made


async def intended(stage, made, before=None):
    """Leave an intent without its end, as a crash does."""
    key = f"{made.run_id}/{made.steps[0].id}"
    stage.record("intent", made.run_id, {"key": key, "before": before or BEFORE}, stage.clock())


# ---- acting


async def test_an_act_is_recorded_before_and_after(stage, tmp_path):
    made = await begun(stage)
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert acted.record.status == "done"
    assert (acted.values, acted.undo, acted.ours, acted.text) == (
        {"value": 1.0}, {"from": 0.0, "to": 1.0}, True, "")  # fmt: skip
    assert read_effects(tmp_path) == ["r1/a 1.0"]
    assert [e.kind for e in stage.kinds("intent", "acted", "change")] == [
        "intent",
        "acted",
        "change",
    ]
    (change,) = stage.kinds("change")
    assert change.body["by"] == "homeostat:r1"


async def test_the_same_act_again_gives_the_same_and_does_nothing(stage, tmp_path):
    made = await begun(stage)
    first = await stage.hands.act(made, made.steps[0], BEFORE, {})
    crash(stage)
    assert await stage.hands.act(made, made.steps[0], BEFORE, {}) == first
    assert len(read_effects(tmp_path)) == 1
    assert len(stage.kinds("intent")) == 1


async def test_an_act_that_had_happened_before_a_crash_is_adopted(stage, tmp_path, verbs):
    made = await begun(stage)
    await intended(stage, made)
    (tmp_path / "dial-a").write_text("r1/a 1.0\n")
    crash(stage)
    acted = await stage.hands.act(made, made.steps[0], {"value": 1.0}, {})
    assert acted.record.status == "adopted"
    assert acted.undo == {"from": 0.0, "to": 1.0}
    assert read_effects(tmp_path) == ["r1/a 1.0"]


async def test_an_act_that_had_not_happened_before_a_crash_is_done(stage, tmp_path):
    made = await begun(stage)
    await intended(stage, made)
    crash(stage)
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert acted.record.status == "done"
    assert read_effects(tmp_path) == ["r1/a 1.0"]
    assert stage.memory.traces["r1/a"].attempts == 2


async def test_a_world_that_is_neither_stops_the_run(stage, tmp_path):
    made = await begun(stage)
    await intended(stage, made)
    (tmp_path / "dial-a").write_text("somebody 7.0\n")
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert acted.record.status == "uncertain"
    assert "value changed" in acted.text
    assert "look at service:web" in acted.text
    assert len(read_effects(tmp_path)) == 1


async def test_an_act_that_arrives_late_is_not_done_twice(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(hands_module, "_SETTLE_S", 0.5)
    made = await begun(stage)
    await intended(stage, made)
    arrive = asyncio.get_running_loop().call_later(
        0.2, (tmp_path / "dial-a").write_text, "r1/a 1.0\n"
    )
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert arrive.when() < asyncio.get_running_loop().time()
    assert acted.record.status == "adopted"
    assert read_effects(tmp_path) == ["r1/a 1.0"]


async def test_telling_people_is_never_repeated_after_a_crash(stage, tmp_path):
    made = await begun(stage, plan(step("s", "shout")))
    await intended(stage, made, {})
    acted = await stage.hands.act(made, made.steps[0], {}, {})
    assert (acted.record.status, acted.text) == ("uncertain", "")
    assert "not repeated" in acted.record.summary
    assert shouts(tmp_path) == []


async def test_waiting_is_simply_done_again_after_a_crash(stage):
    made = await begun(stage, plan(PlannedStep("w", "wait", params={"time": "10ms"})))
    await intended(stage, made, {})
    acted = await stage.hands.act(made, made.steps[0], {}, {})
    assert (acted.record.status, acted.ours) == ("done", False)


@pytest.mark.parametrize(
    ("script", "status", "effects", "words"),
    [
        (["unavailable", "unavailable"], "done", 1, ""),
        (["unavailable"] * 3, "failed", 0, "3 tries: no answer"),
        (["refused"], "refused", 0, "it said no"),
        (["uncertain after"], "adopted", 1, ""),
        (["uncertain"], "done", 1, ""),
        (["uncertain", "uncertain"], "uncertain", 0, "tried twice"),
        (["uncertain", "uncertain after"], "adopted", 1, ""),
        (["later"], "adopted", 1, ""),
        (["bug"], "uncertain", 0, "a bug in the verb dial: ZeroDivisionError: oops"),
        (["bug after"], "uncertain", 1, "a bug"),
        (["hang before"], "done", 1, ""),
        (["hang after"], "adopted", 1, ""),
        (["hang before", "hang before"], "uncertain", 0, "did not answer within"),
    ],
)
async def test_troubles_of_a_verb(
    stage, tmp_path, verbs, monkeypatch, script, status, effects, words
):
    monkeypatch.setattr(hands_module, "_SETTLE_S", 0.4 if "later" in script else 0.01)
    verbs["dial"].script = list(script)
    made = await begun(stage, plan(step(retry=2, timeout=0.2)))
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert acted.record.status == status
    assert len(read_effects(tmp_path)) == effects
    assert words in acted.text
    assert bool(acted.text) is (status not in {"done", "adopted"})
    crash(stage)
    assert stage.memory.traces["r1/a"].open is False
    again = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert again == acted
    assert len(read_effects(tmp_path)) == effects


async def test_what_others_changed_is_refused_by_compare_and_set(stage, tmp_path):
    (tmp_path / "dial-a").write_text("somebody 3.0\n")
    made = await begun(stage)
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert (acted.record.status, acted.ours) == ("refused", False)
    assert "changed by others" in acted.text


async def test_nothing_is_done_that_could_not_be_recorded(stage, tmp_path, monkeypatch):
    made = await begun(stage)
    monkeypatch.setattr("agent.journal._BUSY_MS", 20)
    monkeypatch.setattr("agent.journal._REST_S", 0.0)
    stage.journal._engine.dispose()
    other = sqlite3.connect(stage.journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert acted.record.status == "failed"
    assert "journal can not be written" in acted.text
    assert read_effects(tmp_path) == []
    told = await begun(stage, plan(step("s", "shout"), run_id="r2"))
    assert (await stage.hands.act(told, told.steps[0], {}, {})).record.status == "done"
    assert len(shouts(tmp_path)) == 1  # people are told all the same
    other.execute("ROLLBACK")
    other.close()
    stage.journal.flush()
    assert stage.journal.verify() == []
    assert stage.memory.traces["r1/a"].open is False
    kept = stage.memory
    crash(stage)
    assert stage.memory.traces == kept.traces
    assert stage.memory.runs == kept.runs


async def test_a_record_that_says_it_is_not_on_disk_counts(stage, tmp_path):
    stage.hands._written = lambda: False
    made = await begun(stage)
    acted = await stage.hands.act(made, made.steps[0], BEFORE, {})
    assert acted.record.status == "failed"
    assert read_effects(tmp_path) == []


async def test_a_wait_is_not_cut_off_by_the_timeout_of_an_answer(stage):
    wait = PlannedStep("w", "wait", params={"time": "0.2s"}, timeout=0.05, retry=1)
    made = await begun(stage, plan(wait))
    acted = await stage.hands.act(made, wait, {}, {})
    assert (acted.record.status, acted.record.summary) == ("done", "waited 200 ms")


# ---- parameters


async def test_values_of_earlier_steps_keep_their_type(stage, tmp_path):
    first = step("a", params={"name": "a", "to": "${steps.train.version + 1.0}"})
    made = await begun(stage, plan(first))
    acted = await stage.hands.act(made, first, BEFORE, {"train": {"version": 4}})
    assert acted.values == {"value": 5.0}
    assert stage.dial("a") == 5.0


async def test_the_verdict_and_the_title_can_be_told(stage, tmp_path):
    told = step("s", "shout", params={"text": "${title}: ${verdict.verdict}, ${verdict.summary}"})
    made = await begun(stage, plan(told))
    await stage.hands.act(made, told, {}, {}, Outcome("helped", "fast again"))
    assert shouts(tmp_path) == ["r1/s turn it: helped, fast again"]


async def test_signals_can_be_told(stage, tmp_path):
    await stage.tick()
    told = step("s", "shout", params={"text": "p95 ${service.latency_p95_seconds}"})
    made = await begun(stage, plan(told))
    await stage.hands.act(made, told, {}, {})
    assert shouts(tmp_path) == [f"r1/s p95 {SLOW}"]


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("${steps.train.version}", "refused", "steps.train.version"),
        ("${service.error_ratio}", "failed", "service.error_ratio, not known now"),
    ],
)
async def test_a_value_that_is_not_known_is_never_guessed(stage, tmp_path, text, status, words):
    told = step("s", "shout", params={"text": text})
    made = await begun(stage, plan(told))
    acted = await stage.hands.act(made, told, {}, {})
    assert acted.record.status == status
    assert words in acted.text
    assert shouts(tmp_path) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (step(params={"to": "high"}), "to: `high` is not a number; write a number like 2.5"),
        (step(params={"to": 1.0, "too": 2.0}), "too: there is no such key"),
        (PlannedStep("a", "dail"), "did you mean dial"),
        (PlannedStep("a", "scale", params={"by": 1}), "no connector has the ability"),
    ],
)
async def test_a_step_that_can_not_be_built_is_refused(stage, bad, words):
    made = await begun(stage, plan(bad))
    acted = await stage.hands.act(made, bad, BEFORE, {})
    assert (acted.record.status, acted.ours) == ("refused", False)
    assert words in acted.text
    with pytest.raises(Refused, match=words.split(":", maxsplit=1)[0]):
        await stage.hands.observe(made, bad, {})


# ---- telling


async def test_a_step_without_a_way_tells_console_and_everybody(stage):
    made = await begun(stage, plan(PlannedStep("n", "notify", params={"text": "look here"})))
    acted = await stage.hands.act(made, made.steps[0], {}, {})
    assert acted.record.status == "done"
    assert [n.key for n in stage.told] == ["r1/n"]
    (note,) = stage.kinds("note")
    assert unpack(Note, note.body).incident == "i1"
    assert "r1/n" in stage.memory.notes


async def test_people_are_told_once_per_key(stage):
    made = await begun(stage)
    for _ in range(2):
        await stage.hands.tell(made, "ask", "warning", "title", "text")
    assert [n.key for n in stage.told] == ["r1:ask"]
    crash(stage)
    await stage.hands.tell(made, "ask", "warning", "title", "text")
    assert len(stage.told) == len(stage.kinds("note")) == 1


async def test_a_named_notifier_that_fails_is_tried_again_with_the_same_key(stage):
    calls = []

    class Pager:
        async def notify(self, note):
            calls.append(note.key)
            if len(calls) == 1:
                raise Unavailable("busy", wait_s=0.0)

    stage.hands._resolve = lambda via, ability, target: Pager()
    made = await begun(
        stage, plan(PlannedStep("n", "page", via="pager", params={"text": "x"}, retry=1))
    )
    acted = await stage.hands.act(made, made.steps[0], {}, {})
    assert acted.record.status == "done"
    assert calls == ["r1/n", "r1/n"]


async def test_a_named_notifier_is_resolved(stage):
    asked = []

    def resolve(via, ability, target):
        asked.append((via, ability, target))
        raise Refused("no such")

    stage.hands._resolve = resolve
    made = await begun(stage, plan(PlannedStep("n", "page", via="pager", params={"text": "x"})))
    await stage.hands.act(made, made.steps[0], {}, {})
    assert asked == [("pager", Notifier, WEB.id)]


# ---- a dry run


async def test_a_dry_run_says_what_a_step_would_do_and_leaves_no_trace(stage, tmp_path, verbs):
    made = plan(
        step(),
        step("b", params={"name": "b", "to": "${steps.a.value}"}),
        step("c", params={"name": "c"}),
        step("d", "nobody_knows"),
    )
    told = {one.id: (one.status, one.text) for one in await stage.runner.would(made)}
    assert told["a"] == ("would", "would turn a from 0 to 1")
    assert told["b"] == ("later", "it stands on steps.a.value")
    assert told["c"][0] == told["d"][0] == "refused"
    assert "step c (dial): to: it is missing" in told["c"][1]
    assert "no action is called 'nobody_knows'" in told["d"][1]
    assert read_effects(tmp_path) == []
    assert list(stage.journal.read()) == []
    (tmp_path / "dial-a").write_text("olga 1.0\n")
    assert (await stage.hands.would(made, step())).text == "a is 1 already"


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("unavailable", "unknown", "no answer"),
        ("uncertain", "unknown", "the line went dead"),
        ("refused", "refused", "it said no"),
        ("hang before", "unknown", "no answer within"),
        ("bug", "unknown", "ZeroDivisionError"),
    ],
)
async def test_what_goes_wrong_in_a_dry_run_is_told(stage, verbs, script, status, text):
    verbs["dial"].script = [script]
    told = await stage.hands.would(plan(), step(timeout=0.2))
    assert told.status == status
    assert text in told.text


# ---- putting back


async def acted_once(stage, made):
    return await stage.hands.act(made, made.steps[0], BEFORE, {})


async def test_undo_puts_back_and_is_not_repeated(stage, tmp_path):
    made = await begun(stage)
    acted = await acted_once(stage, made)
    record = await stage.hands.undo(made, made.steps[0], acted, {})
    assert (record.status, record.summary) == ("undone", "a is 0 again")
    crash(stage)
    assert await stage.hands.undo(made, made.steps[0], acted, {}) == record
    assert read_effects(tmp_path) == ["r1/a 1.0", "r1/a/undo 0.0"]


async def test_a_verb_whose_act_stays_puts_nothing_back_whatever_was_planned(
    stage, verbs, tmp_path
):
    made = await begun(stage)
    acted = await acted_once(stage, made)
    verbs["dial"].stays = "it does no harm"
    record = await stage.hands.undo(made, made.steps[0], acted, {})
    assert (record.status, record.summary) == ("stays", "nothing to put back: it does no harm")
    assert read_effects(tmp_path) == ["r1/a 1.0"]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (["unavailable"] * 3, "undone"),
        (["unavailable"] * 9, "failed"),
        (["uncertain after"], "undone"),
        (["uncertain"] * 9, "uncertain"),
        (["hang before"], "undone"),
        (["refused"], "refused"),
        (["bug"], "failed"),
    ],
)
async def test_troubles_of_an_undo(stage, tmp_path, verbs, script, status):
    made = await begun(stage, plan(step(timeout=0.2)))
    acted = await acted_once(stage, made)
    verbs["dial"].script = list(script)
    record = await stage.hands.undo(made, made.steps[0], acted, {})
    assert record.status == status
    assert len(read_effects(tmp_path)) == (2 if status == "undone" else 1)


async def test_an_undo_leaves_alone_what_others_changed(stage, tmp_path):
    made = await begun(stage)
    acted = await acted_once(stage, made)
    with (tmp_path / "dial-a").open("a") as f:
        f.write("somebody 9.0\n")
    record = await stage.hands.undo(made, made.steps[0], acted, {})
    assert record.status == "refused"
    assert stage.dial("a") == 9.0


async def test_what_has_no_undo_or_may_not_have_happened_is_not_put_back(stage, tmp_path):
    made = await begun(stage, plan(step("s", "shout")))
    acted = await stage.hands.act(made, made.steps[0], {}, {})
    assert (await stage.hands.undo(made, made.steps[0], acted, {})).status == "refused"
    other = await begun(stage, plan(step(), run_id="r2"))
    await intended(stage, other)
    (tmp_path / "dial-a").write_text("somebody 7.0\n")
    unclear = await stage.hands.act(other, other.steps[0], BEFORE, {})
    assert (await stage.hands.undo(other, other.steps[0], unclear, {})).status == "refused"


# ---- boundaries and waiting


def recorded(made, state="acting"):
    return Run(
        made.run_id,
        made.playbook,
        made.entity,
        made.incident,
        made.mode,
        state,
        1.0,
        1.0,
        made.hash,
    )


@pytest.mark.parametrize("key", ["*", WEB.id])
async def test_a_pause_holds_at_the_boundary_and_is_shown(stage, key):
    made = await begun(stage)
    stage.record("pause", key, {"by": "ann", "reason": "release"}, stage.clock())
    waits = asyncio.create_task(stage.hands.boundary(made, recorded(made), first=True))
    await stage.state("paused")
    assert stage.memory.runs["r1"].text == "paused by ann: release"
    await stage.tick()
    assert not waits.done()
    stage.record("resume", key, {"by": "ann"}, stage.clock())
    assert await waits == await stage.hands.boundary(made, recorded(made), first=True)
    assert stage.memory.runs["r1"].state == "acting"


async def test_the_file_paused_holds_too(stage):
    made = await begun(stage)
    stage.paused_by_file = True
    waits = asyncio.create_task(stage.hands.boundary(made, recorded(made), first=True))
    await stage.state("paused")
    stage.paused_by_file = False
    assert (await waits).over == ""


async def test_a_cancelled_run_ends_at_the_boundary_even_while_paused(stage):
    made = await begun(stage)
    stage.record("pause", "*", {"by": "ann"}, stage.clock())
    waits = asyncio.create_task(stage.hands.boundary(made, recorded(made), first=True))
    await stage.state("paused")
    await stage.hands.cancelled(made, "bob")
    assert (await waits).by == "bob"


async def test_a_run_whose_incident_is_over_does_not_begin(stage):
    made = await begun(stage)
    over = Incident("i1", 1.0, 2.0, "resolved", "note", "it was slow")
    stage.record("incident", "i1", pack(over), stage.clock())
    assert "over" in (await stage.hands.boundary(made, recorded(made), first=True)).over
    assert (await stage.hands.boundary(made, recorded(made), first=False)).over == ""


async def test_a_run_that_has_done_nothing_waits_a_minute_for_leave_and_ends(stage):
    made = await begun(stage)
    asked, leave = [], ["it is no longer managed"]

    def standing(_plan, stage_):
        asked.append(stage_)
        return leave[0]

    stage.hands._standing = standing
    began = stage.clock()
    passage = await asyncio.wait_for(stage.hands.boundary(made, recorded(made), first=True), 20)
    assert passage.over == "nothing was done: it is no longer managed"
    assert stage.clock() - began >= 60.0
    waits = asyncio.create_task(stage.hands.boundary(made, recorded(made), first=False))
    await stage.state("paused")
    leave[0] = ""
    assert (await waits).over == ""  # in its midst it waits for as long as it takes
    back = replace(recorded(made), state="undoing")
    await stage.hands.boundary(made, back, first=False)
    assert (asked[0], asked[-2:]) == ("first", ["next", "undo"])


async def test_it_waits_for_as_long_as_its_slowest_source_may_be_silent(stage):
    made = await begun(stage)
    stage.hands._standing = lambda _plan, _stage: "its source does not answer: it is unknown"
    stage.hands._patience = lambda plan_: 200.0 if plan_ is made else 0.0
    began = stage.clock()
    passage = await asyncio.wait_for(stage.hands.boundary(made, recorded(made), first=True), 20)
    assert passage.over.startswith("nothing was done: its source")
    assert 200.0 <= stage.clock() - began < 300.0


async def test_what_had_leave_before_a_restart_is_asked_again_before_it_acts(stage):
    """Killed between leave and act: the engine goes on at the act, however long that was ago."""
    made = await begun(stage)
    leave = ["what was wrong before the restart has not been seen since"]
    asked = []

    def standing(_plan, stage_):
        asked.append(stage_)
        return leave[0]

    stage.hands._standing = standing
    acted = await asyncio.wait_for(stage.hands.act(made, made.steps[0], {}, {}, None), 20)
    assert (acted.record.status, acted.ours) == ("refused", False)
    assert acted.text == f"nothing was done: {leave[0]}"
    assert not stage.memory.traces[f"{made.run_id}/{made.steps[0].id}"].open
    assert set(asked) == {"first"}


async def test_who_had_leave_in_this_life_is_not_asked_twice(stage):
    made = await begun(stage)
    asked = []
    stage.hands._standing = lambda _plan, stage_: asked.append(stage_) or ""
    await stage.hands.boundary(made, recorded(made), first=True)
    before = await stage.hands.observe(made, made.steps[0], {})
    acted = await stage.hands.act(made, made.steps[0], before, {}, None)
    assert (acted.record.status, asked) == ("done", ["first"])


@pytest.mark.parametrize(
    ("outcome", "otherwise", "text"),
    [
        (Outcome("no_effect", "s"), "next", "it did not help: the next one may try"),
        (Outcome("cannot_tell", "s"), "next", "it did not help: the next one may try"),
        (Outcome("cannot_tell", "s", well=True), "next", "50 s are over"),
        (Outcome("helped", "s"), "next", "50 s are over"),
        (Outcome("no_effect", "s"), "escalate", "50 s are over"),
    ],
)
async def test_a_temporary_measure_that_did_not_help_gives_way_to_the_next(
    stage, outcome, otherwise, text
):
    until = Until((f"service.latency_p95_seconds < {FAST / 2}",), 5.0, 50.0)
    made = await begun(
        stage, plan(step(until=until), verify=PlannedVerify(0.0, 10.0, ("true",), "", otherwise))
    )
    await stage.hands.report(replace(recorded(made), state="holding", outcome=outcome))
    held = await asyncio.wait_for(stage.hands.hold(made, made.steps[0], stage.clock(), {}), 20)
    assert held.text == text


async def test_a_temporary_measure_is_held_until_its_condition_has_held(stage):
    until = Until((f"service.latency_p95_seconds < {(SLOW + FAST) / 2}",), 5.0, 1e6)
    made = await begun(stage, plan(step(until=until)))
    waits = asyncio.create_task(stage.hands.hold(made, made.steps[0], stage.clock(), {}))
    await stage.seen(7)  # 20 s of the stage: it is slow, so it is held
    assert not waits.done()
    stage.latency = lambda: FAST
    began = stage.clock()
    held = await asyncio.wait_for(waits, 5)
    assert held.ended - began >= 5.0
    assert "held for 5 s" in held.text


async def test_a_temporary_measure_ends_at_the_latest_when_said(stage):
    until = Until(("service.latency_p95_seconds < 0.0",), 5.0, 30.0)
    made = await begun(stage, plan(step(until=until)))
    since = stage.clock()
    held = await asyncio.wait_for(stage.hands.hold(made, made.steps[0], since, {}), 5)
    assert 30.0 <= held.ended - since < 60.0
    assert held.text == "30 s are over"
    # after a restart the time that is already over counts
    began = stage.clock()
    held = await asyncio.wait_for(stage.hands.hold(made, made.steps[0], since - 25.0, {}), 5)
    assert held.ended - began < 25.0


async def test_an_unknown_condition_does_not_end_a_hold(stage):
    until = Until(("service.error_ratio < 1.0",), 0.0, 20.0)
    made = await begun(stage, plan(step(until=until)))
    held = await asyncio.wait_for(stage.hands.hold(made, made.steps[0], stage.clock(), {}), 5)
    assert held.text == "20 s are over"


async def test_a_clock_that_jumps_does_not_end_a_hold(stage):
    until = Until(("service.error_ratio < 1.0",), 0.0, 500.0)
    made = await begun(stage, plan(step(until=until)))
    waits = asyncio.create_task(stage.hands.hold(made, made.steps[0], stage.clock(), {}))
    await stage.tick()
    stage.world.rebase(7200.0)
    stage.leap(7200.0)
    await stage.seen(10)
    assert not waits.done()
    waits.cancel()


async def test_a_hold_is_left_when_the_run_is_cancelled(stage):
    until = Until(("service.error_ratio < 1.0",), 0.0, 1e6)
    made = await begun(stage, plan(step(until=until)))
    waits = asyncio.create_task(stage.hands.hold(made, made.steps[0], stage.clock(), {}))
    await stage.tick()
    await stage.hands.cancelled(made, "ann")
    assert (await asyncio.wait_for(waits, 5)).by == "ann"


async def test_harm_that_a_pause_keeps_from_being_undone_is_told_at_once(stage):
    made = await begun(stage)
    stage.record("pause", "*", {"by": "ann", "reason": "release"}, stage.clock())
    harmed = replace(recorded(made, "undoing"), outcome=Outcome("harmed", "worse: slow"))
    waits = asyncio.create_task(stage.hands.boundary(made, harmed, first=False, back=True))
    await stage.state("paused")
    await stage.until(lambda: stage.told)
    (note,) = stage.told
    assert (note.key, note.severity) == ("r1:held_back", "page")
    assert "paused by ann: release" in note.text
    stage.record("resume", "*", {"by": "ann"}, stage.clock())
    assert (await waits).by == ""


# ---- verifying


async def acted_and_verified(stage, made, *, ticks=10, then=None):
    """Let the trouble be seen for a while, act, let the world answer, and return the verdict."""
    await begun(stage, made)
    for _ in range(ticks):
        await stage.tick()
    acted = await acted_once(stage, made)
    if then is not None:
        stage.latency = then
    since = acted.record.ended
    return await asyncio.wait_for(
        stage.hands.verify(made, acted.record.started, since, {}), timeout=10
    )


def to_verify(stage, **kw):
    asked = {"wait": 10.0, "within": 200.0, "expect": ("service.latency_p95_seconds < 0.2",), **kw}
    return plan(verify=PlannedVerify(**asked), created=stage.clock())


async def test_what_got_better_has_helped_and_ends_early(stage):
    made = to_verify(stage, within=10_000.0)
    began = stage.clock()
    verified = await acted_and_verified(stage, made)
    outcome = verified.outcome
    assert outcome.verdict == "helped"
    assert outcome.numbers["service.latency_p95_seconds{service:web}.before"] == SLOW
    assert outcome.numbers["service.latency_p95_seconds{service:web}.after"] == FAST
    assert verified.ended - began < 1000.0


async def test_what_did_not_change_had_no_effect(stage):
    verified = await acted_and_verified(stage, to_verify(stage), then=lambda: SLOW)
    assert verified.outcome.verdict == "no_effect"


async def test_what_got_worse_was_harmed_and_does_not_wait_to_the_end(stage):
    made = to_verify(stage, within=10_000.0)
    began = stage.clock()
    verified = await acted_and_verified(stage, made, then=lambda: 4 * SLOW)
    assert verified.outcome.verdict == "harmed"
    assert verified.ended - began < 5000.0


async def test_a_shock_of_the_act_itself_is_not_harm(stage):
    made = to_verify(stage, within=400.0)
    came = []

    def shock():
        came.append(1)
        return 4 * SLOW if len(came) < 8 else FAST

    verified = await acted_and_verified(stage, made, then=shock)
    assert verified.outcome.verdict == "helped"


async def test_what_is_not_seen_can_not_be_told(stage):
    verified = await acted_and_verified(stage, to_verify(stage), then=lambda: float("nan"))
    assert verified.outcome.verdict == "cannot_tell"


async def test_what_was_well_before_the_act_is_not_our_merit(stage):
    stage.latency = lambda: FAST
    verified = await acted_and_verified(stage, to_verify(stage))
    assert verified.outcome.verdict == "cannot_tell"


async def test_an_earlier_run_that_only_told_takes_no_rows_before_the_act(stage):
    trouble = Incident("i1", stage.clock(), stage.clock(), "open", "page", "slow")
    stage.record("incident", "i1", pack(trouble), stage.clock())
    await stage.seen(20)
    first = await begun(stage, plan(step("s", "shout"), run_id="r0", created=stage.clock()))
    acted = await stage.hands.act(first, first.steps[0], {}, {})
    over = replace(recorded(first, "done"), steps=(acted.record,))
    stage.record("run", "r0", pack(over), stage.clock())
    outcome = (await acted_and_verified(stage, to_verify(stage), ticks=1)).outcome
    assert outcome.verdict == "helped"


async def test_what_an_earlier_run_has_healed_is_no_time_before_the_next(stage):
    trouble = Incident("i1", stage.clock(), stage.clock(), "open", "page", "slow")
    stage.record("incident", "i1", pack(trouble), stage.clock())
    first = await begun(stage, plan(run_id="r0", created=stage.clock()))
    acted = await acted_once(stage, first)
    over = replace(recorded(first, "done"), steps=(acted.record,))
    stage.record("run", "r0", pack(over), stage.clock())
    await stage.seen(40)
    stage.latency = lambda: SLOW
    back = Turn(stage.clock(), "relapsed", "open", "homeostat", "it is not well after all")
    stage.record("incident", "i1", pack(replace(trouble, turns=(back,))), stage.clock())
    asked = PlannedVerify(10.0, 200.0, ("service.latency_p95_seconds < 0.2",))
    second = plan(step("b"), created=stage.clock(), verify=asked)
    outcome = (await acted_and_verified(stage, second, then=lambda: FAST)).outcome
    assert outcome.verdict == "helped"
    assert outcome.numbers["service.latency_p95_seconds{service:web}.before"] == SLOW


async def test_verifying_is_left_when_the_run_is_cancelled(stage):
    made = to_verify(stage, within=1e6)
    stage.latency = lambda: SLOW
    task = asyncio.create_task(acted_and_verified(stage, made))
    await stage.until(lambda: stage.kinds("acted"))
    await stage.hands.cancelled(made, "ann")
    verified = await task
    assert (verified.by, verified.outcome) == ("ann", None)


async def test_verifying_again_after_a_crash_counts_the_time_that_is_over(stage):
    made = to_verify(stage, wait=500.0, within=2000.0)
    stage.latency = lambda: SLOW
    await begun(stage, made)
    acted = await acted_once(stage, made)
    began = stage.clock()
    since = acted.record.ended - 2400.0
    verified = await asyncio.wait_for(stage.hands.verify(made, since, since, {}), timeout=5)
    assert verified.ended - began < 400.0
    assert verified.outcome.verdict in {"no_effect", "cannot_tell"}


async def test_harm_that_came_while_nobody_looked_is_seen_after_a_restart(stage):
    """The time was over while we were dead: the first row alone would say nothing."""
    made = to_verify(stage, wait=10.0, within=100.0)
    await begun(stage, made)
    for _ in range(10):
        await stage.tick()
    acted = await acted_once(stage, made)
    stage.latency = lambda: 4 * SLOW
    stage._task.cancel()
    stage.leap(150.0)
    stage._task = asyncio.create_task(stage._live())
    verified = await asyncio.wait_for(
        stage.hands.verify(made, acted.record.started, acted.record.ended, {}), timeout=10
    )
    assert verified.outcome.verdict == "harmed"


async def test_what_a_person_changed_meanwhile_is_not_our_merit(stage):
    made = to_verify(stage)
    moved = Change(stage.clock() + 10_000.0, WEB, "scale", "2", "4", "olga")

    def then():
        stage.record("change", WEB.id, pack(replace(moved, ts=stage.clock())), stage.clock())
        return FAST

    verified = await acted_and_verified(stage, made, then=then)
    assert verified.outcome.verdict == "cannot_tell"
    assert "olga changed service:web meanwhile" in verified.outcome.summary


async def test_baselines_lie_before_the_incident(stage):
    for _ in range(10):
        stage.latency = lambda: FAST
        await stage.tick()
    stage.latency = lambda: SLOW
    await stage.tick()
    p95 = "service.latency_p95_seconds"
    made = to_verify(stage, wait=0.0, expect=(f"{p95} <= baseline.{p95} * 1.1",))
    verified = await acted_and_verified(stage, made, then=lambda: FAST * 1.05)
    assert verified.outcome.verdict == "helped"
