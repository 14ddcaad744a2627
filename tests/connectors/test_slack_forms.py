"""Forms in Slack: what a run asks in the middle of its way, and why somebody says no; over both ways in."""

import asyncio
import contextlib
import json

import pytest
from desk_story import ADMIN
from slack_side import GUEST, MALLORY, OLGA, VICTOR
from slack_talk import NOISY, RUN, acting, message, told, until

from agent.codec import pack
from agent.errors import Refused
from agent.ports import Step
from agent.questions import Field, OwnQuestions, Question, id_of
from playbooks.actions.ask import Ask

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytestmark = pytest.mark.usefixtures("swift")

FORM = {
    "replicas": {"kind": "number", "text": "How many replicas?", "min": 1, "max": 8},
    "where": {"kind": "choice", "text": "In which zone?", "choices": ["eu-1", "eu-2"], "default": "eu-1"},
    "go": {"kind": "yes_no", "text": "Go on?"},
    "note": {"kind": "text", "text": "What shall the change say?", "default": "by homeostat"},
}  # fmt: skip
STEP = Step(f"{RUN}/ask", "ask", "service:wine", {}, by=f"homeostat:{RUN}")
ASKED = id_of(STEP.key)


@contextlib.asynccontextmanager
async def asking(tmp_path, mode, **params):
    """The same, where the run was approved and asks on its way: the real verb, over the journal of the story."""
    async with acting(tmp_path, mode) as (side, talk):
        talk.run(state="acting")
        told = []

        def put(kind, subject, body):
            talk.story.hooks.record(kind, subject, body, talk.story.hooks.now())

        asker = OwnQuestions(talk.memory, put, told.append, talk.story.hooks.now, RUN, NOISY)
        given = {"text": "How is it to grow?\nThe queue is long.", "form": FORM, **params}
        running = asyncio.create_task(Ask(Ask.Params(**given), asker).run(STEP))
        await until(lambda: told)
        await talk.slack.notify(told[0])
        await until(lambda: "answer" in side.buttons(message(side)))
        try:
            yield side, talk, running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def opened(side, action, user=OLGA, of=None):
    """Press a button behind which there is a form, and wait until that is journalled; returns the form."""
    n, before = len(side.views), len(side.journalled())
    await side.press(user, of or message(side), action)
    await until(lambda: len(side.views) > n, lambda: side.said)
    await until(lambda: len(side.journalled()) > before)
    return side.views[-1]


def lines(view):
    return {b["block_id"]: b for b in view["blocks"] if b["type"] == "input"}


# ---- what a run asks


async def test_what_a_run_asks_is_answered_in_a_form_and_the_run_goes_on(tmp_path, mode):
    async with asking(tmp_path, mode) as (side, talk, running):
        shown = json.dumps(message(side)["blocks"])
        assert "needs you: a run asks a question" in shown
        assert "*Asks* How is it to grow?" in shown
        (reply,) = side.replies(message(side)["ts"])
        assert f"/homeostat answer {ASKED} replicas=number" in json.dumps(reply["blocks"])
        assert side.buttons(reply) == ["answer"], "it can be answered where it is told, too"
        view = await opened(side, "answer")
        made = {name: b["element"]["type"] for name, b in lines(view).items()}
        assert made == {
            "replicas": "number_input", "where": "static_select", "go": "radio_buttons", "note": "plain_text_input",
        }  # fmt: skip
        number = lines(view)["replicas"]["element"]
        assert (number["min_value"], number["max_value"]) == ("1", "8")
        assert lines(view)["replicas"]["hint"]["text"] == "at least 1, at most 8"
        assert lines(view)["note"]["hint"]["text"] == "left empty it is by homeostat"
        assert lines(view)["where"]["element"]["initial_option"]["text"]["text"] == "eu-1"
        assert lines(view)["note"]["element"]["initial_value"] == "by homeostat"
        assert [(name, b["optional"]) for name, b in lines(view).items()] == [
            ("replicas", False), ("where", True), ("note", True), ("go", False),
        ]  # fmt: skip
        assert await side.submit(OLGA, replicas="3", where="eu-2", go="yes") == {}
        said = await told(side, OLGA)
        assert f"Answered {ASKED}: replicas 3, where eu-2, note by homeostat, go yes" in said
        done = await running
        assert done.values == {
            "replicas": 3.0, "where": "eu-2", "go": True, "note": "by homeostat", "by": "olga (operator, slack)",
        }  # fmt: skip
        assert talk.presses() == [
            ("answer", "olga (operator, slack)", "a form was opened"),
            ("answer", "olga (operator, slack)", "done"),
        ]
        assert {e.subject for e in talk.entries("press")} == {ASKED}
        await until(lambda: "answer" not in side.buttons(message(side)))
        assert "a run asks a question" not in json.dumps(message(side)["blocks"])


async def test_what_does_not_fit_is_said_at_its_line_and_the_form_stays_open(tmp_path, mode):
    async with asking(tmp_path, mode) as (side, talk, running):
        view = await opened(side, "answer")
        wrong = await side.submit(OLGA, replicas="12")
        assert wrong == {
            "replicas": "Replicas is from 1 to 8, not 12",
            "go": "Go must be answered: Go on?",
        }
        assert talk.entries("reply") == []
        *_, (what, by, came) = talk.presses()
        assert (what, by) == ("answer", "olga (operator, slack)")
        assert came.startswith("refused: replicas is from 1 to 8, not 12")
        assert side.said == [], "what is said in the form is not said beside it again"
        again = side.submit_payload(OLGA, view, replicas="many", go="yes")
        assert await side.sent(again) == {"replicas": "Replicas is a number, not 'many'"}
        n = len(talk.presses())
        assert await side.sent(again) == {"replicas": "Replicas is a number, not 'many'"}
        assert len(talk.presses()) == n, "what comes twice is answered twice, and journalled once"
        assert await side.sent(side.submit_payload(OLGA, view, replicas="2", go="no")) == {}
        assert "Answered" in await told(side, OLGA)
        (reply,) = talk.entries("reply")
        assert (reply.body["values"]["replicas"], reply.body["values"]["go"]) == (2.0, False)
        with pytest.raises(Refused, match="says no"):
            await running


async def test_an_answer_that_comes_twice_is_one(tmp_path, mode):
    async with asking(tmp_path, mode) as (side, talk, running):
        view = await opened(side, "answer")
        payload = side.submit_payload(OLGA, view, replicas="3", go="yes")
        for _ in range(3):
            assert await side.sent(payload) == {}
        assert "Answered" in await told(side, OLGA)
        await asyncio.sleep(0.1)
        assert len(talk.entries("reply")) == 1
        assert side.said == []
        assert [came for _, _, came in talk.presses()] == ["a form was opened", "done"]
        assert (await running).values["replicas"] == 3.0


@pytest.mark.parametrize(
    ("user", "says", "by"),
    [
        (VICTOR, "needs operator", "victor (viewer, slack)"),
        (MALLORY, "you are not known here", f"{MALLORY} (not known, slack)"),
        (GUEST, "you are not known here", f"{GUEST} (not known, slack)"),
    ],
)
async def test_who_may_not_answer_is_told_so_and_nothing_happens(tmp_path, mode, user, says, by):
    """Neither the button nor a form that somebody else has opened does anything for them."""
    async with asking(tmp_path, mode) as (side, talk, running):
        await side.press(user, message(side), "answer")
        assert says in (await told(side, user)).lower()
        assert side.views == []
        view = await opened(side, "answer")
        for said in ({"replicas": "3", "go": "yes"}, {"replicas": "12"}):
            stolen = {**view, "hash": f"{said}"}
            assert await side.sent(side.submit_payload(user, stolen, **said)) == {}
            assert says in (await told(side, user)).lower()
        refused = [(what, who, came) for what, who, came in talk.presses() if who == by]
        assert len(refused) == 3
        assert all(came.startswith("refused") for _, _, came in refused)
        assert talk.entries("reply") == []
        assert not running.done()


async def test_a_question_for_authors_is_not_answered_by_an_operator(tmp_path, mode):
    async with asking(tmp_path, mode, by="author") as (side, talk, _):
        assert "role author" in json.dumps(message(side)["blocks"])
        await side.press(OLGA, message(side), "answer")
        assert "asks for the role author; yours is operator" in await told(side, OLGA)
        assert side.views == []
        assert talk.entries("reply") == []


async def _answered(talk):
    talk.story.desk.answer(ADMIN, ASKED, {"replicas": 1, "go": "yes"})


async def _late(talk):
    talk.story.hooks._now += 10_000


async def _over(talk):
    talk.run(state="failed")


@pytest.mark.parametrize(
    ("meanwhile", "says", "replies"),
    [
        (_answered, "has answered", 1),
        (_late, "too late to answer", 0),
        (_over, "is over: nobody waits for an answer", 0),
    ],
)
async def test_a_form_that_is_out_of_date_says_so_and_nothing_happens(
    tmp_path, mode, meanwhile, says, replies
):
    async with asking(tmp_path, mode) as (side, talk, _):
        old = json.loads(json.dumps(message(side)))
        view = await opened(side, "answer")
        await meanwhile(talk)
        for n, said in enumerate(({"replicas": "3", "go": "yes"}, {"replicas": "12"})):
            assert (
                await side.sent(side.submit_payload(OLGA, {**view, "hash": str(n)}, **said)) == {}
            )
            assert says in await told(side, OLGA)
        await side.press(OLGA, old, "answer")
        assert says in await told(side, OLGA)
        assert len(side.views) == 1, "no form opens for what is over"
        assert len(talk.entries("reply")) == replies
        came = [came for _, _, came in talk.presses()]
        assert came[0] == "a form was opened"
        assert all(c.startswith("refused") and says in c for c in came[1:])


async def test_a_question_of_no_incident_has_its_button_all_the_same(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        told_ = []
        asker = OwnQuestions(
            talk.memory, lambda *entry: talk.story.hooks.record(*entry, talk.story.now), told_.append,
            talk.story.hooks.now,
        )  # fmt: skip
        go = (Field("go", "yes_no"),)
        until_ = talk.story.now + 600
        question = Question("ask-alone", "service:wine", "Go?", go, "operator", 1.0, until_)
        await asker.ask("run-x/ask", question)
        await talk.slack.notify(told_[0])
        alone = side.parents[-1]
        assert side.buttons(alone) == ["answer"]
        await opened(side, "answer", of=alone)
        assert await side.submit(OLGA, go="yes") == {}
        assert "Answered ask-alone: go yes" in await told(side, OLGA)
        assert talk.memory.replies["ask-alone"].values == {"go": True}


async def test_odd_forms_are_taken_or_refused_in_words(tmp_path):
    """Choices too long for a value, more than a list takes, numbers without a bound, and far too many lines."""
    many = tuple(f"zone-{n}" for n in range(150))
    long = tuple(f"{'a very long way ' * 12}{n}" for n in range(3))
    odd = (
        Field("long", "choice", "", long, default=long[2]), Field("many", "choice", "x" * 300, many),
        Field("far", "number", default=1e-7, high=float("inf")), Field("low", "number", low=-1e21),
        Field("yes", "yes_no", default=False),
    )  # fmt: skip
    async with acting(tmp_path, "socket") as (side, talk):
        hooks = talk.story.hooks
        talk.run(state="acting")
        for name, fields in (("ask-odd", odd), ("ask-vast", (Field("a", "text"),) * 91)):
            asked = Question(
                name,
                "service:wine",
                "<!here> & now?",
                fields,
                "operator",
                1.0,
                hooks.now() + 60,
                RUN,
            )
            hooks.record("question", name, pack(asked), hooks.now())
        await until(lambda: "answer" in side.buttons(message(side)))
        view = await opened(side, "answer")
        assert "&lt;!here&gt; &amp; now?" in json.dumps(view["blocks"])
        element = {name: b["element"] for name, b in lines(view).items()}
        assert element["far"]["initial_value"] == "0.0000001"
        assert element["low"]["min_value"] == "-1000000000000000000000"
        assert element["yes"]["initial_option"]["value"] == "no"
        assert await side.submit(OLGA, many="zone-9999", low="0") == {
            "many": f"Many is one of {', '.join(many)}, not 'zone-9999'"[:299] + "…"
        }
        assert await side.submit(OLGA, many="zone-149", low="0") == {}
        await told(side, OLGA)
        values = talk.memory.replies["ask-odd"].values
        assert (values["long"], values["many"], values["yes"]) == (long[2], "zone-149", False)
        vast = side.button(message(side), "answer")
        vast = {**vast, "value": json.dumps({"a": "answer", "i": NOISY, "q": "ask-vast"})}
        await side.deliver("interactive", side.press_payload(OLGA, message(side), vast))
        assert "too many lines for a form; write `answer ask-vast" in await told(side, OLGA)


async def test_a_form_that_can_not_open_in_time_is_asked_for_again(tmp_path):
    async with asking(tmp_path, "socket") as (side, talk, _):
        side.trigger_s = -1.0
        await side.press(OLGA, message(side), "answer")
        assert "press again" in await told(side, OLGA)
        side.trigger_s = 60.0
        await opened(side, "answer")
        assert [came[:7] for _, _, came in talk.presses()] == ["refused", "a form "]


@pytest.mark.parametrize("values", [None, {}, {"x": {"go": None}}, {"x": []}, [1]])
async def test_a_form_that_is_none_of_slacks_ends_nothing(tmp_path, mode, values):
    async with asking(tmp_path, mode) as (side, talk, _):
        view = await opened(side, "answer")
        payload = side.submit_payload(OLGA, view, replicas="3", go="yes")
        payload["view"]["state"] = {"values": values}
        before = len(side.answered)
        await side.deliver("interactive", payload)
        assert talk.entries("reply") == []
        assert len(side.answered) == before + (values == {})
        assert await side.submit(OLGA, replicas="3", go="yes") == {}
        assert "Answered" in await told(side, OLGA)


# ---- why not


async def test_who_denies_may_say_why_and_the_journal_keeps_it(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        view = await opened(side, "deny")
        assert "set priority" in json.dumps(view["blocks"])
        assert lines(view)["reason"]["optional"]
        assert talk.entries("approval") == [], "nothing is said before the form is"
        payload = side.submit_payload(OLGA, view, reason="the batch must finish")
        for _ in range(3):
            assert await side.sent(payload) == {}
        assert "Denied" in await told(side, OLGA)
        await asyncio.sleep(0.1)
        (said,) = talk.entries("approval")
        assert (said.body["yes"], said.body["reason"]) == (False, "the batch must finish")
        assert talk.memory.runs[RUN].state == "denied"
        assert talk.presses()[-1] == ("deny", "olga (operator, slack)", "done")
        assert len(talk.presses()) == 2


async def test_no_reason_is_needed_to_deny(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        await opened(side, "deny")
        assert await side.submit(OLGA) == {}
        assert "Denied" in await told(side, OLGA)
        (said,) = talk.entries("approval")
        assert "reason" not in said.body


async def test_a_denial_of_what_was_approved_meanwhile_stops_nothing(tmp_path, mode):
    """The form is about not beginning; what acts by now is not torn down by it."""
    async with acting(tmp_path, mode) as (side, talk):
        view = await opened(side, "deny")
        talk.run(state="acting")
        assert await side.sent(side.submit_payload(OLGA, view, reason="no")) == {}
        assert "nobody is asked" in await told(side, OLGA)
        assert talk.entries("cancel") == []
        assert talk.memory.runs[RUN].state == "acting"
        await side.sent(side.submit_payload(VICTOR, {**view, "hash": "2"}, reason="no"))
        assert "needs operator" in await told(side, VICTOR)
        assert [came[:7] for _, _, came in talk.presses()] == ["a form ", "refused", "refused"]
