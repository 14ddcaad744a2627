"""What people do at the desk beside answering: put off, correct, call, hold back, start, undo."""

import inspect
import json
from dataclasses import replace

import pytest
from desk_story import BATCH, OPERATOR, VIEWER, Story
from pydantic import TypeAdapter

from agent.authority import LOOPBACK, Forbidden, Person, Unknown
from agent.codec import pack
from agent.errors import Refused
from agent.events import Events
from agent.journal import Journal
from agent.meant import NotThere
from agent.memory import Memory
from agent.plans import Acted
from agent.ports import Note
from agent.telemetry import Telemetry
from agent.views import IncidentDetail, LabelView, PlanView, RunView, WouldView
from agent.web.vitals import measure

AUTHOR = Person("anna", "author", "token")


@pytest.fixture
def story(tmp_path):
    made = Story(tmp_path / "state", config_path=tmp_path / "etc" / "agent.yaml")
    (tmp_path / "etc").mkdir()
    yield made
    made.close()


def fits(view, value):
    """Check an answer against its documented type, and that JSON carries it as it is."""
    TypeAdapter(view).validate_python(value, strict=True)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def newest(story, kind):
    return next(iter(story.hooks.journal.read([kind], newest_first=True)))


def incident(story):
    return story.hooks.memory.incidents["inc-7f3a99e0"]


# ---- snooze


def test_an_incident_is_put_off_until_a_time_by_a_person(story):
    shown = story.desk.snooze(OPERATOR, "inc-7f", 7200.0, "at noon")
    fits(IncidentDetail, shown)
    assert (shown["snoozed_until"], shown["snoozed_by"]) == (story.now + 7200, OPERATOR.signed)
    listed = {i["id"]: i["snoozed_by"] for i in story.desk.incidents()}
    assert listed == {"inc-7f3a99e0": OPERATOR.signed, "inc-7c00beef": ""}
    assert newest(story, "snooze").body["reason"] == "at noon"
    assert story.desk.snooze(OPERATOR, "inc-7f", 0.0)["snoozed_until"] is None


def test_what_gets_worse_or_comes_back_is_put_off_no_more(story):
    story.desk.snooze(OPERATOR, "inc-7c", 600.0)
    note = story.hooks.memory.incidents["inc-7c00beef"]
    memory = story.hooks.memory
    assert memory.snoozed(note, story.now + 599) is not None
    assert memory.snoozed(note, story.now + 600) is None
    assert memory.snoozed(replace(note, severity="warning"), story.now) is None
    assert memory.snoozed(replace(note, reopened=1), story.now) is None


@pytest.mark.parametrize(
    ("id_", "seconds"), [("inc-7f", 8 * 86_400.0), ("inc-7f", -1.0), ("inc-1a", 60.0)]
)
def test_what_can_not_be_put_off(story, id_, seconds):
    with pytest.raises(Refused):
        story.desk.snooze(OPERATOR, id_, seconds)
    assert not story.hooks.memory.snoozes


# ---- page


def test_a_person_calls_another_one_and_it_counts_as_no_alarm_of_ours(story):
    before = story.desk.budget()["pages_last_week"]
    fits(IncidentDetail, story.desk.page(OPERATOR, "inc-7c", "who knows this feature?"))
    note = TypeAdapter(Note).validate_python(newest(story, "note").body)
    assert (note.severity, note.incident) == ("page", "inc-7c00beef")
    assert note.text == "olga calls for help: who knows this feature?"
    assert story.desk.budget()["pages_last_week"] == before
    with pytest.raises(Refused, match="is over"):
        story.desk.page(OPERATOR, "inc-1a")


# ---- blame


def test_a_person_says_what_the_cause_is_not_and_what_it_is(story):
    said = story.desk.blame(OPERATOR, "inc-7f", "host.disk", "the array was rebuilding")
    fits(LabelView, said)
    assert said["label"] == "not_the_cause"
    assert said["text"].startswith("not host.neighbour of process:b00t/5200/9950; it was host.disk")
    kept = story.hooks.memory.corrections["inc-7f3a99e0"]
    assert (kept.wrong, kept.of, kept.right, kept.by) == (
        "host.neighbour", BATCH.id, "host.disk", OPERATOR.signed,
    )  # fmt: skip
    assert story.desk.incident("inc-7f")["corrected"]["by"] == OPERATOR.signed
    assert story.desk.incident("inc-7c")["corrected"] is None


@pytest.mark.parametrize(
    ("right", "said"),
    [("host.dsk", "did you mean host.disk"), ("host.neighbour", "blames already")],
)
def test_a_right_cause_is_one_of_the_tree_and_another_one(story, right, said):
    with pytest.raises(Refused, match=said):
        story.desk.blame(OPERATOR, "inc-7f", right)
    assert not story.hooks.memory.corrections


def test_what_blames_nothing_can_not_be_wrong(story):
    story.hooks.record(
        "incident", "inc-7f3a99e0", pack(replace(incident(story), diagnosis=None)), story.now
    )
    with pytest.raises(Refused, match="blames nothing"):
        story.desk.blame(OPERATOR, "inc-7f")


# ---- mode


def test_an_author_holds_a_playbook_back_and_everybody_sees_it(story):
    shown = story.desk.set_mode(AUTHOR, "calm", "suggest", "until the limits are in")
    assert (shown["mode"], shown["own_mode"]) == ("suggest", "approve")
    assert shown["why"] == [f"person: suggest, {AUTHOR.signed}: until the limits are in"]
    assert newest(story, "mode").body["mode"] == "suggest"
    assert story.desk.set_mode(AUTHOR, "calm", "auto")["mode"] == "approve"  # its own text


def test_nothing_goes_further_than_agent_yaml_says(story):
    story.hooks.config = story.hooks.config.model_copy(update={"mode": "suggest"})
    with pytest.raises(Refused, match="says mode suggest"):
        story.desk.set_mode(AUTHOR, "calm", "auto")
    with pytest.raises(Refused, match="no mode"):
        story.desk.set_mode(AUTHOR, "calm", "full")
    with pytest.raises(NotThere):
        story.desk.set_mode(AUTHOR, "nobody", "observe")
    assert not story.hooks.memory.ceilings


# ---- plan and start


async def test_a_plan_is_seen_first_and_a_yes_binds_to_it(story):
    plan = story.desk.plan("calm", "nightly")
    fits(PlanView, plan)
    assert (plan["playbook"], plan["target"]["id"], plan["allowed"]) == (
        "calm-neighbour",
        BATCH.id,
        True,
    )
    assert plan["steps"] == [{
        "id": "lower", "use": "set_priority", "via": "", "params": {"nice": 19}, "undo": True,
        "temporary": False, "asks": "",
    }]  # fmt: skip
    with pytest.raises(Refused, match="not the plan that you saw"):
        await story.desk.start(OPERATOR, "calm", "nightly", "0" * 64)
    assert "run-byhand" not in story.hooks.memory.runs
    run = await story.desk.start(OPERATOR, "calm", "nightly", plan["hash"], "it is mine")
    fits(RunView, run)
    assert (run["id"], run["by"], run["state"]) == ("run-byhand", OPERATOR.signed, "acting")
    assert newest(story, "reason").body == {"by": OPERATOR.signed, "reason": "it is mine"}


async def test_a_dry_run_is_for_those_who_may_start_it(story):
    said = await story.desk.dry_run(OPERATOR, "calm", "nightly")
    for one in said:
        fits(WouldView, one)
    assert [(one["id"], one["status"]) for one in said] == [("lower", "would")]
    with pytest.raises(Forbidden):
        await story.desk.dry_run(VIEWER, "calm", "nightly")
    assert "run-byhand" not in story.hooks.memory.runs


async def test_what_a_run_that_asks_would_do_is_tried_before_it_is_approved(story):
    id_ = story.run.id
    said = await story.desk.dry_run_of(OPERATOR, id_)
    for one in said:
        fits(WouldView, one)
    assert [(one["use"], one["status"]) for one in said] == [("set_priority", "would")]
    assert story.desk.run(id_)["asks"], "nothing was said to it"
    with pytest.raises(Forbidden):
        await story.desk.dry_run_of(VIEWER, id_)
    with pytest.raises(Refused, match="has changed since you saw it"):
        await story.desk.dry_run_of(OPERATOR, id_, "0" * 64)
    with pytest.raises(Refused, match="it asks nobody"):
        await story.desk.dry_run_of(OPERATOR, "run-1111aaaa")


def test_a_target_is_looked_for_among_those_that_the_playbook_is_for(story):
    with pytest.raises(Refused, match="may be 2 things"):
        story.desk.meant("wine")
    (calm,) = story.hooks.playbooks()
    for kind in ("model", "service"):
        story.hooks.playbooks = lambda kind=kind: [{**calm, "target": kind}]
        assert story.desk.plan("calm", "wine")["target"]["id"] == f"{kind}:wine"
        assert story.desk.why_not("calm", "wine")["target"]["id"] == f"{kind}:wine"


@pytest.mark.parametrize("word", ["", "*", "everything", "All"])
def test_everything_is_stopped_by_the_word_that_comes_to_mind(story, word):
    assert [p["key"] for p in story.desk.pause(OPERATOR, word)] == ["*"]
    assert story.desk.resume(OPERATOR, word) == []


def test_a_closed_gate_is_told_with_the_plan(story):
    story.hooks.lets = False
    plan = story.desk.plan("calm", "nightly")
    assert (plan["allowed"], plan["closed"]) == (False, "scope: process matched")


# ---- undo


async def test_a_finished_run_is_put_back_by_a_run_of_its_own(story):
    id_ = "run-1111aaaa"
    ours = Acted(story.hooks.memory.runs[id_].steps[0], {}, {"version": "4"})
    for kind, body in (("intent", {"before": {"version": "4"}}), ("acted", {"result": pack(ours)})):
        said = {"run": id_, "step": "back", "key": f"{id_}/back", **body}
        story.hooks.record(kind, id_, said, story.now)
    assert story.desk.run(id_)["undoable"]
    run = await story.desk.undo(OPERATOR, "run-11", "3 is worse")
    fits(RunView, run)
    assert (run["undoes"], run["by"], run["title"]) == (
        id_, OPERATOR.signed, "Undo: Roll back a model version that is worse",
    )  # fmt: skip
    first = story.desk.run(id_)
    assert (first["undone_by"], first["undoable"]) == (run["id"], False)
    assert any(
        line.startswith("Run:      undo of serve-bad-deploy")
        for line in story.desk.why("inc-1a")["text"]
    )


async def test_a_run_that_acts_is_stopped_and_put_back(story):
    await story.desk.approve("run-22", OPERATOR)
    await story.desk.undo(OPERATOR, "run-22")
    assert newest(story, "cancel").body == {"person": OPERATOR.signed}


# ---- who may


@pytest.mark.parametrize("verb", ["undo", "start", "snooze", "page", "blame", "mode"])
async def test_who_may_not_is_told_and_nothing_happens(story, verb):
    head = story.hooks.journal.head

    async def asked(person):
        d = story.desk
        found = {
            "undo": lambda: d.undo(person, "run-11"), "start": lambda: d.start(person, "calm", "nightly", "h"),
            "snooze": lambda: d.snooze(person, "inc-7f", 60.0), "page": lambda: d.page(person, "inc-7f"),
            "blame": lambda: d.blame(person, "inc-7f"), "mode": lambda: d.set_mode(person, "calm", "observe"),
        }[verb]()  # fmt: skip
        return await found if inspect.isawaitable(found) else found

    for person, wrong in ((VIEWER, Forbidden), (LOOPBACK, Unknown)):
        with pytest.raises(wrong):
            await asked(person)
    if verb == "mode":
        with pytest.raises(Forbidden):
            await asked(OPERATOR)
    assert story.hooks.journal.head == head


def test_what_people_said_is_still_so_after_a_restart(story, tmp_path):
    story.desk.snooze(OPERATOR, "inc-7f", 7200.0)
    story.desk.blame(OPERATOR, "inc-7f")
    story.desk.set_mode(AUTHOR, "calm", "observe")
    journal = Journal.reader(tmp_path / "state" / "journal.sqlite")
    loaded = Memory()
    loaded.load(journal)
    journal.close()
    for name in ("snoozes", "corrections", "ceilings"):
        assert getattr(loaded, name) == getattr(story.hooks.memory, name) != {}


def test_whom_the_ladder_called_is_shown(story):
    for at, way in ((story.now - 600, "slack/#ops"), (story.now - 5, "pagerduty")):
        key = f"ladder:inc-7f3a99e0:0:{story.now - 600:.0f}:0:{way}"
        note = Note(key, at, "page", "slow", "why", "inc-7f3a99e0", to=(way,))
        story.hooks.record("note", key, pack(note), at)
    shown = story.desk.incident("inc-7f")["called"]
    assert [(c["way"], c["ts"]) for c in shown] == [
        ("slack/#ops", story.now - 600), ("pagerduty", story.now - 5),
    ]  # fmt: skip
    assert any(
        line.startswith("Called:   slack/#ops at ") for line in story.desk.why("inc-7f")["text"]
    )
    assert story.desk.incident("inc-7c")["called"] == []


def test_who_is_needed_for_what_is_shown_until_it_is_over(story):
    why = "b on web does not act: 2; tried 2 times"
    for id_ in ("inc-7f3a99e0", "inc-1a2b3c4d"):
        story.hooks.record("handoff", id_, {"code": "attempts", "why": why}, story.now)
    shown = story.desk.incident("inc-7f")
    assert (shown["needs"], shown["needs_you"]) == ("attempts", why)
    assert story.desk.incident("inc-1a")["needs"] == ""  # it is over
    telemetry = Telemetry(story.now)
    measure(story.desk, telemetry, Events())
    text = telemetry.render(story.hooks.world, openmetrics=False)
    assert 'homeostat_incidents_needing_people{needs="attempts"} 1' in text
