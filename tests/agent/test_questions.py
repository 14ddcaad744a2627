"""Questions in the middle of a run: what is asked, who may answer, what an answer must be, and that it survives."""

import asyncio
import time
from dataclasses import replace

import pytest
from desk_story import OPERATOR, VIEWER, Story

from agent.authority import Forbidden
from agent.codec import pack
from agent.errors import Refused
from agent.journal import Journal
from agent.memory import Memory
from agent.ports import Note, Step
from agent.questions import Asker, Field, OwnQuestions, Question, id_of
from playbooks.actions.ask import Ask

STEP = Step("run-1/ask", "ask", "service:web", {}, by="homeostat:run-1")


class Record:
    """A journal on disk with the memory of it, and what people were told."""

    def __init__(self, folder) -> None:
        self.journal = Journal(folder / "journal.sqlite")
        self.memory = Memory()
        self.memory.load(self.journal)
        self.notes: list[Note] = []
        self.told = asyncio.Event()

    def put(self, kind: str, subject: str, body: dict) -> None:
        self.memory.apply(self.journal.append(kind, subject, body, ts=time.time()))

    def tell(self, note: Note) -> None:
        self.notes.append(note)
        self.told.set()

    @property
    def asker(self) -> OwnQuestions:
        return OwnQuestions(self.memory, self.put, self.tell, time.time)


@pytest.fixture
def record(tmp_path):
    made = Record(tmp_path)
    yield made
    made.journal.close()


def ask(asker, **more) -> Ask:
    form = {
        "replicas": {"kind": "number", "min": 1, "max": 8},
        "where": {"kind": "choice", "choices": ["a", "b"], "default": "a"},
    }
    return Ask(Ask.Params(**({"text": "how many?\nThe queue grows.", "form": form} | more)), asker)


async def test_a_run_waits_for_the_answer_and_gives_it_to_later_steps(record):
    assert isinstance(record.asker, Asker)
    act = ask(record.asker)
    assert not act.reached(STEP, await act.observe(STEP))
    running = asyncio.create_task(act.run(STEP))
    await record.told.wait()
    (note,) = record.notes
    assert note.title == "how many?"
    assert note.text.endswith(f"homeostat answer {id_of(STEP.key)} replicas=number where=a")
    question = record.memory.questions[id_of(STEP.key)]
    record.put(
        "reply", question.id, {"person": "alice", "values": question.read({"replicas": "3"})}
    )
    done = await running
    assert done.summary == "alice answers: replicas 3.0, where a"
    assert done.values == {"replicas": 3.0, "where": "a", "by": "alice"}
    assert act.reached(STEP, await act.observe(STEP))
    assert len(record.memory.questions) == 1


async def test_what_decides_stands_last(record):
    form = {"go": {"kind": "yes_no"}, "a": {"kind": "text"}, "z": {"kind": "text"}}
    running = asyncio.create_task(ask(record.asker, form=form).run(STEP))
    await record.told.wait()
    question = record.memory.questions[id_of(STEP.key)]
    assert [line.name for line in question.fields] == ["a", "z", "go"]
    running.cancel()


async def test_an_answer_survives_a_restart(record, tmp_path):
    lines = (Field("go", "yes_no"),)
    question = Question(id_of(STEP.key), "service:web", "go on?", lines, "operator", 1.0, 2.0)
    await record.asker.ask(STEP.key, question)
    record.put("reply", question.id, {"person": "alice", "values": {"go": True}})
    record.journal.close()
    again = Record(tmp_path)
    assert again.memory.questions[question.id] == question
    assert (await ask(again.asker).run(STEP)).values["by"] == "alice"
    again.journal.close()


async def test_no_answer_and_no_end_the_run(record):
    with pytest.raises(Refused, match="nobody has answered in time"):
        await ask(record.asker, wait=0.05).run(STEP)
    other = Step("run-2/ask", "ask", "service:web", {})
    record.put("reply", id_of(other.key), {"person": "bob", "values": {"go": False}})
    with pytest.raises(Refused, match="bob says no"):
        await ask(record.asker, form={}).run(other)


@pytest.mark.parametrize(
    ("field", "said", "wanted"),
    [
        (Field("a", "yes_no"), "Yes", True),
        (Field("a", "yes_no"), False, False),
        (Field("a", "yes_no"), "maybe", "is yes or no"),
        (Field("a", "number", low=1.0, high=8.0), "8", 8.0),
        (Field("a", "number", low=1.0, high=8.0), "9", "from 1 to 8"),
        (Field("a", "number"), "nan", "from -inf to inf"),
        (Field("a", "number"), "many", "is a number"),
        (Field("a", "choice", choices=("x", "y")), "z", "one of x, y"),
        (Field("a", "text"), " fine ", "fine"),
        (Field("a", "text"), None, "must be answered"),
        (Field("a", "text", default="-"), None, "-"),
    ],
)
def test_answers_are_read_as_their_kind(field, said, wanted):
    if (isinstance(wanted, str) and field.kind != "text") or wanted == "must be answered":
        with pytest.raises(Refused, match=wanted):
            field.read(said)
    else:
        assert field.read(said) == wanted


def test_what_was_not_asked_is_refused():
    question = Question(
        "ask-1", "service:web", "go on?", (Field("go", "yes_no"),), "operator", 1.0, 2.0
    )
    with pytest.raises(Refused, match="nothing was asked about stop; write go"):
        question.read({"stop": True})


def test_everything_that_does_not_fit_is_said_at_once():
    fields = (
        Field("go", "yes_no"),
        Field("rows", "number", high=9.0),
        Field("why", "text", default="-"),
    )
    question = Question("ask-1", "service:web", "go on?", fields, "operator", 1.0, 2.0)
    assert question.unfit({"rows": "12"}) == {
        "go": "go must be answered: yes_no",
        "rows": "rows is from -inf to 9, not 12",
    }
    assert question.unfit({"go": "yes", "rows": 3}) == {}


async def test_a_run_that_is_over_waits_for_no_answer(tmp_path):
    story = Story(tmp_path)
    run, memory = story.run, story.hooks.memory
    story.hooks.record("run", run.id, pack(replace(run, state="acting")), story.now)
    told = []

    def put(kind, subject, body):
        story.hooks.record(kind, subject, body, story.now)

    asker = OwnQuestions(memory, put, told.append, story.hooks.now, run.id, run.incident)
    lines = (Field("rows", "number", low=1.0),)
    until = story.now + 60
    await asker.ask(
        STEP.key, Question("ask-1", "service:wine", "go on?", lines, "operator", 1.0, until)
    )
    (note,) = told
    assert (note.incident, note.facts["question"]) == (run.incident, "ask-1")
    (shown,) = story.desk.incident(run.incident)["questions"]
    assert (shown["run"], shown["fields"][0]["low"], shown["fields"][0]["high"]) == (
        run.id,
        1.0,
        None,
    )
    assert story.desk.question(OPERATOR, "ask-1") == shown
    asked = story.desk.why(run.incident)["next"]
    assert asked == "your turn, a run asks: go on? homeostat answer ask-1 rows=..."
    with pytest.raises(Forbidden):
        story.desk.unfit(VIEWER, "ask-1", {})
    assert "rows" in story.desk.unfit(OPERATOR, "ask-1", {"rows": 0})
    story.hooks.record("run", run.id, pack(replace(run, state="failed")), story.now)
    assert story.desk.questions() == story.desk.incident(run.incident)["questions"] == []
    with pytest.raises(Refused, match="is over: nobody waits"):
        story.desk.answer(OPERATOR, "ask-1", {"rows": 3})
    assert memory.replies == {}
    story.close()


def test_the_first_answer_of_somebody_with_the_role_holds(tmp_path):
    story = Story(tmp_path)
    now = story.now
    lines = (Field("go", "yes_no"), Field("replicas", "number", default=2.0))
    for name, role, until in (
        ("ask-1", "operator", 60.0),
        ("ask-2", "author", 60.0),
        ("ask-3", "operator", -1.0),
    ):
        question = Question(name, "service:wine", "go on?", lines, role, now - 5, now + until)
        story.hooks.record("question", name, pack(question), now)
    assert [q["id"] for q in story.desk.questions()] == ["ask-1", "ask-2"]
    with pytest.raises(Forbidden):
        story.desk.answer(VIEWER, "ask-1", {"go": "yes"})
    with pytest.raises(Forbidden, match="this asks for the role author"):
        story.desk.answer(OPERATOR, "ask-2", {"go": "yes"})
    with pytest.raises(Refused, match="it is too late"):
        story.desk.answer(OPERATOR, "ask-3", {"go": "yes"})
    with pytest.raises(Refused, match="go is yes or no"):
        story.desk.answer(OPERATOR, "ask-1", {"go": "perhaps"})
    assert story.desk.answer(OPERATOR, "ask-1", {"go": "yes"})["id"] == "ask-1"
    reply = story.hooks.memory.replies["ask-1"]
    assert reply.values == {"go": True, "replicas": 2.0}
    assert "olga" in reply.person
    with pytest.raises(Refused, match="has answered ask-1 already"):
        story.desk.answer(OPERATOR, "ask-1", {"go": "no"})
    assert [q["id"] for q in story.desk.questions()] == ["ask-2"]
    story.close()
