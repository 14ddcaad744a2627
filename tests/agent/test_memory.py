from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec import pack
from agent.journal import Entry, Journal
from agent.memory import EVERYTHING, JUMPED, Memory, Silence, acted_at
from agent.model import (
    ENDED,
    Change,
    Decision,
    Entity,
    Gate,
    Incident,
    Outcome,
    Run,
    StepRecord,
)
from agent.plans import Plan, PlannedStep, sealed

WEB = Entity("service", "web")
MODEL = Entity("model", "fraud")


def run(id_="r1", state="acting", target=WEB, at=100.0, **kw):
    kw.setdefault("playbook", "scale-out")
    return Run(id=id_, target=target, incident="i1", mode="auto", state=state, started=at, updated=at,
               plan_hash="h", **kw)  # fmt: skip


def step(status="done", ended=110.0):
    return StepRecord("s", "scale", ended - 1, ended, status, "said")


def incident(id_="i1", state="open", at=100.0):
    return Incident(id_, at, at, state, "page", "it is slow", entities=(WEB,))


def plan(id_="r1", mode="auto"):
    return sealed(
        Plan(id_, "scale-out", "t", "x", WEB.id, "i1", mode, "", 1.0, (PlannedStep("s", "scale"),))
    )


def decision(playbook="p", target=WEB, inc="i1", ts=1.0, *, allowed=True):
    gates = (Gate("mode", allowed, "auto", "auto"),)
    return Decision(ts, playbook, target, inc, "auto", allowed, gates)


class Told:
    """A memory with a journal made of nothing but numbers."""

    def __init__(self, **kw):
        self.memory = Memory(**kw)
        self.entries = []

    def __call__(self, kind, subject, body, ts=100.0):
        entry = Entry(len(self.entries) + 1, ts, kind, subject, body, "", "")
        self.entries.append(entry)
        self.memory.apply(entry)
        return self.memory

    def run(self, value):
        return self("run", value.id, pack(value), value.updated)


@pytest.fixture
def told():
    return Told()


def test_runs_live_until_they_end(told):
    told.run(run("r1", "waiting_approval"))
    told.run(run("r2", "acting", MODEL, at=101.0))
    memory = told.memory
    assert [r.id for r in memory.live_runs()] == ["r1", "r2"]
    assert memory.run_on(WEB).id == "r1"
    assert memory.run_on("model:fraud").id == "r2"
    assert [r.id for r in memory.live_runs_of("i1")] == ["r1", "r2"]
    assert memory.live_runs_of("other") == []
    told.run(run("r1", "done"))
    assert memory.run_on(WEB) is None
    assert memory.held(WEB) is None
    assert memory.held(MODEL).id == "r2"


def test_an_entry_is_taken_once(told):
    told.run(run("r1", "acting"))
    told.run(run("r1", "done"))
    told.memory.apply(told.entries[0])
    assert told.memory.runs["r1"].state == "done"


def test_acts_are_runs_that_changed_something_or_may_have(told):
    for i, status in enumerate(["done", "adopted", "uncertain", "undone", "refused", "failed"]):
        told.run(run(f"r{i}", "done", steps=(step(status, 100.0 + i),)))
    told.run(run("none", "denied"))
    memory = told.memory
    assert [r.id for r in memory.acts()] == ["r3", "r2", "r1", "r0"]
    assert [r.id for r in memory.acts("scale-out", WEB, since=102.0)] == ["r3", "r2"]
    assert memory.acts("other") == []
    assert memory.acts(target=MODEL) == []
    assert acted_at(memory.runs["none"]) is None


def test_by_what_the_clock_was_set_forward_did_not_pass(told):
    told("daemon", "reloaded", {"mode": "auto"}, 100.0)
    told("daemon", JUMPED, {"by_s": 3600.0}, 4000.0)
    told("daemon", JUMPED, {"by_s": -60.0}, 5000.0)
    told("daemon", JUMPED, {"by_s": 10.0}, 6000.0)
    passed = told.memory.passed
    assert passed(300.0, 390.0) == 90.0
    assert passed(300.0, 4010.0) == 110.0
    assert passed(4000.0, 4010.0) == 10.0
    assert passed(4500.0, 6100.0) == 1590.0
    assert passed(300.0, 6100.0) == 2190.0
    told("daemon", JUMPED, {"by_s": "much"}, 7000.0)
    assert [seq for seq, _ in told.memory.strange] == [5]


def test_the_last_decision_is_by_playbook_target_and_incident(told):
    for d in (decision(ts=1.0), decision(ts=2.0, allowed=False), decision("q"), decision(inc="i2")):
        told("decision", f"{d.playbook}|{d.target.id}", pack(d))
    assert told.memory.last_decision("p", WEB, "i1").allowed is False
    assert told.memory.last_decision("q", WEB.id, "i1").allowed is True
    assert told.memory.last_decision("p", MODEL, "i1") is None
    assert len(told.memory.decisions("i1")) == 2


def test_pauses_hold_until_resumed_and_everything_covers_all(told):
    told("pause", WEB.id, {"by": "ann", "reason": "release"}, 5.0)
    memory = told.memory
    assert (memory.paused(WEB).by, memory.paused(WEB).since) == ("ann", 5.0)
    assert memory.paused(MODEL) is None
    told("pause", EVERYTHING, {"by": "bob"})
    assert memory.held(MODEL).by == "bob"
    told("resume", EVERYTHING, {"by": "bob"})
    told("resume", WEB.id, {"by": "ann"})
    assert memory.held(WEB) is None


@pytest.mark.parametrize(
    ("silence", "now", "cause", "holds"),
    [
        (Silence("s", "service:web", 10.0, "ann"), 9.9, "host.cpu", True),
        (Silence("s", "service:web", 10.0, "ann"), 10.0, "host.cpu", False),
        (Silence("s", "service:*", 10.0, "ann"), 1.0, "", True),
        (Silence("s", "host:*", 10.0, "ann"), 1.0, "", False),
        (Silence("s", "*", 10.0, "ann", cause="host"), 1.0, "host.cpu", True),
        (Silence("s", "*", 10.0, "ann", cause="host"), 1.0, "hostile.cpu", False),
        (Silence("s", "*", 10.0, "ann", cause="host"), 1.0, "", False),
    ],
)
def test_silences_cover_what_they_say(told, silence, now, cause, holds):
    told("silence", silence.id, pack(silence))
    assert (told.memory.silenced(WEB, now, cause) is not None) is holds


def test_a_silence_is_ended_by_a_new_one_of_the_same_id(told):
    told("silence", "s", pack(Silence("s", "*", 1000.0, "ann")))
    told("silence", "s", pack(Silence("s", "*", 50.0, "ann")))
    assert told.memory.silenced(WEB, 60.0) is None


def test_notes_are_remembered_by_key(told):
    told("note", "page:i1:0", {"text": "x"})
    assert "page:i1:0" in told.memory.notes
    assert "page:i1:1" not in told.memory.notes


def test_steps_leave_a_trace_until_their_run_ends(told):
    told.run(run())
    told("intent", "r1", {"key": "r1/a", "before": {"n": 1}}, 10.0)
    trace = told.memory.traces["r1/a"]
    assert (trace.open, trace.attempts, trace.before, trace.result) == (True, 1, {"n": 1}, None)
    told("acted", "r1", {"key": "r1/a", "result": None}, 11.0)  # it did not happen
    assert told.memory.traces["r1/a"].open is False
    told("intent", "r1", {"key": "r1/a", "before": {"n": 1}}, 12.0)
    told("acted", "r1", {"key": "r1/a", "result": {"ok": True}}, 13.0)
    trace = told.memory.traces["r1/a"]
    assert (trace.open, trace.attempts, trace.started, trace.result) == (
        False,
        2,
        10.0,
        {"ok": True},
    )
    told.run(run("r10"))
    told("intent", "r10", {"key": "r10/a", "before": {}})
    told.run(run(state="done"))
    assert list(told.memory.traces) == ["r10/a"]


def test_approvals_and_cancels_go_with_their_run(told):
    told.run(run())
    told("approval", "r1", {"person": "ann", "yes": True, "plan_hash": "h"}, 7.0)
    told("cancel", "r1", {"person": "bob"})
    told("approval", "r1", {"person": "bob", "yes": False, "plan_hash": "h/b"}, 8.0)
    said = told.memory.approvals["r1"].values()  # to the run, and to a step of it
    assert [(a.person, a.yes) for a in said] == [("ann", True), ("bob", False)]
    assert told.memory.cancels == {"r1": "bob"}
    told("cancel", "r1", {"person": "bob", "reason": "the wrong host"})
    assert told.memory.cancels == {"r1": "bob: the wrong host"}
    told.run(run(state="failed"))
    assert told.memory.approvals == {}
    assert told.memory.cancels == {}
    told("approval", "r1", {"person": "ann", "yes": True, "plan_hash": "h"})
    assert told.memory.approvals == {}


def test_unfinished_plans_are_those_of_live_runs_and_those_never_begun(told):
    for id_, mode in (
        ("begun", "auto"),
        ("lost", "approve"),
        ("over", "auto"),
        ("idea", "suggest"),
    ):
        told("plan", id_, pack(plan(id_, mode)))
    told.run(run("begun", "holding"))
    told.run(run("over", "done"))
    assert set(told.memory.unfinished()) == {"begun", "lost"}


def test_what_has_ended_leaves_memory_and_what_lives_stays():
    told = Told(room_runs=3, room_incidents=2)
    told.run(run("alive"))
    told("plan", "alive", pack(plan("alive")))
    told("incident", "open", pack(incident("open")))
    for i in range(10):
        told("plan", f"r{i}", pack(plan(f"r{i}")))
        told.run(run(f"r{i}", "done"))
        told("incident", f"i{i}", pack(incident(f"i{i}", "resolved")))
    memory = told.memory
    assert list(memory.runs) == ["alive", "r7", "r8", "r9"]
    assert set(memory.plans) == {"alive", "r7", "r8", "r9"}
    assert list(memory.incidents) == ["open", "i8", "i9"]
    assert [i.id for i in memory.open_incidents()] == ["open"]


def test_an_entry_that_can_not_be_read_is_kept_aside_and_harms_nothing(told):
    told("run", "r0", {"nonsense": 1})
    told("intent", "r0", {})
    told.run(run())
    assert [seq for seq, _ in told.memory.strange] == [1, 2]
    assert list(told.memory.runs) == ["r1"]


def test_a_full_memory_is_not_loaded_over(told, tmp_path):
    told.run(run())
    with Journal(tmp_path / "j.sqlite") as journal, pytest.raises(ValueError, match="empty memory"):
        told.memory.load(journal)


# ---- rebuilding gives the same

ids = st.sampled_from(list("abcdefghijkl"))
times = st.floats(0, 1e9)
targets = st.sampled_from([WEB, MODEL, Entity("host", "h")])
states = st.sampled_from(
    ["waiting_approval", "acting", "verifying", "holding", "paused", "done", "failed", "denied"]
)


@st.composite
def tellings(draw):
    kind = draw(st.sampled_from(
        ["incident", "run", "plan", "decision", "silence", "pause", "resume", "approval", "cancel",
         "intent", "acted", "note", "change", "daemon"]))  # fmt: skip
    id_, ts, target = draw(ids), draw(times), draw(targets)
    if kind == "incident":
        state = draw(st.sampled_from(["open", "resolved"]))
        return kind, id_, pack(incident(id_, state, ts)), ts
    if kind == "run":
        state = draw(states)
        outcome = (
            Outcome(draw(st.sampled_from(["helped", "harmed"])), "x") if state in ENDED else None
        )
        steps = tuple(
            draw(st.lists(st.builds(step, st.sampled_from(["done", "refused"]), times), max_size=2))
        )
        return kind, id_, pack(run(id_, state, target, ts, steps=steps, outcome=outcome)), ts
    if kind == "plan":
        return kind, id_, pack(plan(id_, draw(st.sampled_from(["auto", "suggest", "approve"])))), ts
    if kind == "decision":
        d = decision(id_, target, draw(ids), ts, allowed=draw(st.booleans()))
        return kind, f"{d.playbook}|{d.target.id}", pack(d), ts
    if kind == "change":
        named = draw(st.sampled_from(["", id_]))
        return kind, target.id, pack(Change(ts, target, "release", "1", "2", id=named)), ts
    if kind == "silence":
        return kind, id_, pack(Silence(id_, "*", draw(times), "ann")), ts
    if kind in {"pause", "resume"}:
        return kind, draw(st.sampled_from([EVERYTHING, WEB.id])), {"by": "ann"}, ts
    if kind in {"intent", "acted"}:
        key = f"{id_}/{draw(st.sampled_from(['x', 'y']))}"
        result = draw(st.sampled_from([None, {"ok": True}]))
        return (
            kind,
            id_,
            {"key": key, "before": {"n": draw(st.integers(0, 3))}, "result": result},
            ts,
        )
    return kind, id_, {"person": "ann", "yes": draw(st.booleans()), "plan_hash": "h"}, ts


def as_it_happens(told):
    """Leave out what no runner does: runs that come back from their end, steps and answers of runs that do not live."""
    state, planned, out = {}, set(), []
    for kind, subject, body, ts in told:
        if kind == "run" and state.get(subject) in ENDED:
            continue
        if (
            kind in {"intent", "acted", "approval", "cancel"}
            and state.get(subject, "done") in ENDED
        ):
            continue
        if kind == "plan" and (subject in state or subject in planned):
            continue
        if kind == "run":
            state[subject] = body["state"]
        if kind == "plan":
            planned.add(subject)
        out.append((kind, subject, body, ts))
    return out


def same(a, b):
    """Equal in every field, and in the order in which what has ended will leave."""
    return a == b and list(a.runs) == list(b.runs) and list(a.incidents) == list(b.incidents)


@settings(deadline=None, max_examples=100)
@given(
    told=st.lists(tellings(), max_size=60), rooms=st.tuples(st.integers(1, 8), st.integers(1, 8))
)
def test_a_rebuilt_memory_is_the_one_that_lived(tmp_path_factory, told, rooms):
    alive, folded, loaded = (Memory(*rooms) for _ in range(3))
    told = as_it_happens(told)
    with Journal(tmp_path_factory.mktemp("m") / "journal.sqlite") as journal:
        for entry in journal.append_many(told) if told else []:
            alive.apply(entry)
        for entry in journal.read():
            folded.apply(entry)
        loaded.load(journal)
    assert same(alive, folded)
    assert alive.strange == []
    assert same(alive, loaded)


def test_loading_does_not_read_what_was_overtaken(tmp_path):
    with Journal(tmp_path / "j.sqlite") as journal:
        journal.append_many(
            [("run", "r1", pack(replace(run(), updated=float(i))), float(i)) for i in range(3000)]
        )
        counted = []
        memory = Memory()
        real = Memory.apply

        class Counting(Memory):
            def apply(self, entry):
                counted.append(entry.seq)
                real(self, entry)

        counting = Counting()
        counting.load(journal)
        memory.load(journal)
        assert counted == [3000]
        assert memory.runs["r1"].updated == 2999.0
        assert memory.seq == 3000


def test_a_label_of_the_old_form_is_counted_as_what_it_meant(told):
    for id_, false_page in (("i1", True), ("i2", False)):
        told("label", id_, {"false_page": false_page, "by": "olga", "note": "load test"})
    memory = told.memory
    assert [(x.word, x.by, x.note, x.signals) for x in memory.labels.values()] == [
        ("noise", "olga", "load test", ()),
        ("real", "olga", "load test", ()),
    ]
    assert memory.strange == []
    told("label", "i1", {"label": "real", "by": "olga", "signals": ["a"]})
    assert memory.labels["i1"].word == "real"
    for body in ({"false_page": "yes"}, {}, {"label": "perhaps"}):
        told("label", "i3", body)
    assert len(memory.strange) == 3
    assert "i3" not in memory.labels


def test_a_flood_of_suggestions_does_not_drive_out_what_limits_count(tmp_path):
    told = Told(room_runs=5)
    for i in range(4):
        told("run", f"act{i}", pack(run(f"act{i}", "done", steps=(step(),))))
    for i in range(50):
        told("run", f"s{i}", pack(run(f"s{i}", "suggested")))
    assert [r for r in told.memory.runs if r.startswith("act")] == ["act0", "act1", "act2", "act3"]
    assert len(told.memory.runs) == 9
    journal = Journal(tmp_path / "journal.sqlite")
    for e in told.entries:
        journal.append(e.kind, e.subject, e.body, e.ts)
    loaded = Memory(room_runs=5)
    loaded.load(journal)
    journal.close()
    assert loaded == told.memory
