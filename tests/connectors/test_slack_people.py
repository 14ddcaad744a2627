"""What people press and write in Slack: the same over Socket Mode and over signed requests."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from slack_side import CHANNEL, GUEST, MALLORY, OLGA, VICTOR, SlackSide
from slack_talk import (
    BROKEN,
    NOISY,
    PNG,
    RELEASED,
    RUN,
    acting,
    message,
    talking,
    told,
    until,
    whole,
)

from agent.codec import pack
from agent.model import StepRecord
from agent.plans import Acted, sealed
from agent.questions import Field, Question
from connectors import _slack_socket

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytestmark = pytest.mark.usefixtures("swift")


# ---- buttons


async def test_a_press_approves_by_the_desk_and_is_journalled(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        await side.press(OLGA, message(side), "approve")
        assert "Approved" in await told(side, OLGA)
        (approval,) = talk.entries("approval")
        assert approval.body["person"] == "olga (operator, slack)"
        assert approval.body["yes"] is True
        assert talk.presses() == [("approve", "olga (operator, slack)", "done")]
        await until(lambda: "acting" in json.dumps(message(side)["blocks"]))


async def test_a_press_that_comes_twice_is_done_once(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        payload = side.press_payload(OLGA, message(side), side.button(message(side), "approve"))
        for _ in range(3):
            await side.deliver("interactive", payload)
        assert "Approved" in await told(side, OLGA)
        await asyncio.sleep(0.1)
        assert talk.presses() == [("approve", "olga (operator, slack)", "done")]
        assert len(talk.entries("approval")) == 1


@pytest.mark.parametrize(
    ("user", "says", "by"),
    [
        (VICTOR, "victor is viewer, approve needs operator", "victor (viewer, slack)"),
        (MALLORY, f"{MALLORY}: {{name: mallory, role: operator}}", f"{MALLORY} (not known, slack)"),
        (GUEST, "you are not known here", f"{GUEST} (not known, slack)"),
    ],
)
async def test_who_may_not_is_told_so_and_nothing_happens(tmp_path, mode, user, says, by):
    """A viewer; somebody unknown; somebody of another workspace who has taken the e-mail of one who may."""
    async with acting(tmp_path, mode, people={"olga@example.org": {"name": "olga", "role": "admin"},
                                              "victor@example.org": {"name": "victor"}}) as (side, talk):  # fmt: skip
        await side.press(user, message(side), "approve")
        assert says.lower() in (await told(side, user)).lower()
        ((what, who, came),) = talk.presses()
        assert (what, who) == ("approve", by)
        assert came.startswith("refused")
        assert talk.entries("approval") == []
        assert talk.memory.runs[RUN].state == "waiting_approval"
        await side.press(user, message(side), "silence")
        await told(side, user)
        assert side.views == []


async def test_a_button_that_is_out_of_date_says_so(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        old = json.loads(json.dumps(message(side)))
        plan = talk.memory.plans[RUN]
        talk.story.hooks.record("plan", RUN, pack(replace(plan, hash="f" * 64)), 1.0)
        talk.run(plan_hash="f" * 64)
        await side.press(OLGA, old, "approve")
        assert "has changed since you saw it" in await told(side, OLGA)
        talk.run(state="denied")
        await side.press(OLGA, old, "deny")
        assert "nobody is asked" in await told(side, OLGA)
        strange = side.press_payload(OLGA, old, side.button(old, "ack"))
        strange["actions"][0]["value"] = json.dumps({"a": "ack", "i": "inc-nobodys"})
        await side.deliver("interactive", strange)
        assert "out of date, or belongs to another homeostat" in await told(side, OLGA)
        assert talk.entries("approval") == []
        assert [came.split(":")[0] for _, _, came in talk.presses()] == ["refused"] * 3


@pytest.mark.parametrize(
    "value", ["", "{", "[1]", '{"a": "format-disk"}', "x" * 2000, '{"a": "approve", "r": 7}']
)
async def test_a_value_that_is_none_of_ours_does_nothing(tmp_path, value):
    async with acting(tmp_path, "socket") as (side, talk):
        payload = side.press_payload(OLGA, message(side), side.button(message(side), "ack"))
        payload["actions"][0]["value"] = value
        await side.deliver("interactive", payload)
        await told(side, OLGA)
        ((_, _, came),) = talk.presses()
        assert came.startswith("refused")


async def test_i_have_it(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        await side.press(OLGA, message(side), "ack")
        assert "You have it" in await told(side, OLGA)
        assert talk.memory.incidents[NOISY].state == "acknowledged"
        await until(lambda: "olga has it" in json.dumps(message(side)["blocks"]))
        assert "ack" not in side.buttons(message(side))


async def test_forms_ask_for_what_is_needed(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        await side.press(OLGA, message(side), "snooze")
        await until(lambda: side.views)
        await side.submit(OLGA, lasts="4h", reason="lunch")
        assert "Put off until" in await told(side, OLGA)
        (snooze,) = talk.entries("snooze")
        assert snooze.body["until"] == pytest.approx(time.time() + 4 * 3600, abs=60)
        assert (snooze.body["by"], snooze.body["reason"]) == ("olga (operator, slack)", "lunch")
        await until(lambda: "put off until" in json.dumps(message(side)["blocks"]))

        await side.press(OLGA, message(side), "silence")
        await until(lambda: len(side.views) == 2)
        await side.submit(OLGA, target="service:wine", lasts="1d", reason="deploying")
        assert "nobody is told, nothing is touched" in await told(side, OLGA)
        (silence,) = talk.entries("silence")
        assert silence.body["target"] == "service:wine"
        assert silence.body["until"] == pytest.approx(talk.story.now + 86_400, abs=60)

        await side.press(OLGA, message(side), "cause")
        await until(lambda: len(side.views) == 3)
        await side.submit(OLGA, right="host.disk", reason="the disk was full")
        assert "not the cause" in await told(side, OLGA)
        (said,) = talk.entries("correction")
        assert said.body["right"] == "host.disk"

        await side.press(OLGA, message(side), "page")
        await until(lambda: len(side.views) == 4)
        await side.submit(OLGA, reason="I can not leave")
        assert "Somebody is called" in await told(side, OLGA)
        (note,) = [e for e in talk.entries("note") if e.subject.startswith("call:")]
        assert "olga calls for help: I can not leave" in note.body["text"]
        done = [(what, came) for what, _, came in talk.presses() if came == "done"]
        assert done == [(what, "done") for what in ("snooze", "silence", "cause", "page")]


async def test_a_form_of_somebody_who_lost_their_role_meanwhile_does_nothing(tmp_path):
    async with acting(tmp_path, "socket") as (side, talk):
        await side.press(OLGA, message(side), "silence")
        await until(lambda: side.views)
        await side.submit(VICTOR, target="service:wine", lasts="1d", reason="x")
        assert "needs operator" in await told(side, VICTOR)
        assert talk.entries("silence") == []


async def test_a_form_that_slack_opens_no_more_says_to_press_again(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        side.refuse["views.open"] = ["expired_trigger_id"]
        await side.press(OLGA, message(side), "silence")
        assert "press again" in await told(side, OLGA)
        ((what, _, came),) = talk.presses()
        assert what == "silence"
        assert came.startswith("refused: Slack opens a form only within three seconds")
        await side.press(OLGA, message(side), "silence")
        await until(lambda: side.views)


async def test_a_run_at_work_is_stopped(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        assert "stop" not in side.buttons(message(side)), "what asks is denied"
        talk.run(state="acting")
        await until(lambda: "stop" in side.buttons(message(side)))
        button = side.button(message(side), "stop")
        assert "puts back what it did: Lower the priority" in button["confirm"]["text"]["text"]
        await side.press(VICTOR, message(side), "stop")
        assert "deny needs operator" in await told(side, VICTOR)
        assert talk.entries("cancel") == []
        await side.press(OLGA, message(side), "stop")
        assert f"Stopping {RUN}" in await told(side, OLGA)
        (cancel,) = talk.entries("cancel")
        assert (cancel.subject, cancel.body["person"]) == (RUN, "olga (operator, slack)")
        assert [(what, came) for what, _, came in talk.presses()][-1] == ("stop", "done")
        old = json.loads(json.dumps(message(side)))
        for state in ("undoing", "denied"):
            talk.run(state=state)
            await until(lambda: "stop" not in side.buttons(message(side)))
        await side.press(OLGA, old, "stop")
        assert "nothing to stop" in await told(side, OLGA)
        assert len(talk.entries("cancel")) == 1
        talk.run(state="verifying")
        said = await asked(side, f"deny {RUN} because it is needed")
        assert f"Stopping {RUN}" in said, "as it is written"
        _, cancel = talk.entries("cancel")
        assert cancel.body["reason"] == "it is needed"


def done_and_undoable(talk):
    """Let the run have lowered a priority, which it can put back, and be over."""
    hooks, now = talk.story.hooks, talk.story.now
    plan = talk.memory.plans[RUN]
    steps = tuple(replace(s, undo="auto") for s in plan.steps)
    plan = sealed(replace(plan, steps=steps))
    hooks.record("plan", RUN, pack(plan), now)
    of = {"run": RUN, "step": "lower", "key": f"{RUN}/lower"}
    hooks.record("intent", RUN, {**of, "use": "set_priority", "before": {"nice": 0}}, now)
    step = StepRecord("lower", "set_priority", 1.0, 2.0, "done", "nice is 19")
    hooks.record("acted", RUN, {**of, "result": pack(Acted(step, {}, {"nice": 0}))}, now)
    talk.run(state="done", plan_hash=plan.hash, steps=(step,))


async def test_undo_and_labels_of_what_is_over(tmp_path, mode):
    async with acting(tmp_path, mode, severities=["page"]) as (side, talk):
        done_and_undoable(talk)
        talk.turn(NOISY, "resolved")
        await until(lambda: "noise" in side.buttons(message(side)))
        await side.press(OLGA, message(side), "noise")
        assert "Noted as noise" in await told(side, OLGA)
        await until(lambda: "labelled noise" in json.dumps(message(side)["blocks"]))
        old = json.loads(json.dumps(message(side)))
        for n, who in enumerate((VICTOR, OLGA, OLGA), 1):
            await side.press(OLGA, old, "undo")
            await until(lambda n=n: len(side.views) == n)
            await side.submit(who, reason="it was mine")
            said = await told(side, who)
            if who == VICTOR:
                assert "undo needs operator" in said
            elif n == 2:
                assert f"Putting back what {RUN} did (undo-" in said
            else:
                assert "is being put back already" in said
        (undo,) = [p for p in talk.memory.plans.values() if p.undoes == RUN]
        assert undo.by == "olga (operator, slack)"
        assert undo.run_id in talk.memory.runs
        presses = [(what, by, came.partition(":")[0]) for what, by, came in talk.presses()]
        opened = ("undo", "olga (operator, slack)", "a form was opened")
        assert presses == [
            ("noise", "olga (operator, slack)", "done"),
            opened, ("undo", "victor (viewer, slack)", "refused"),
            opened, ("undo", "olga (operator, slack)", "done"),
            opened, ("undo", "olga (operator, slack)", "refused"),
        ]  # fmt: skip


# ---- commands


async def asked(side, text, user=OLGA):
    await side.command(user, text)
    return await told(side, user)


async def test_questions_are_answered_to_who_asks_alone(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        assert "web-1" in await asked(side, "status")
        assert "Latency p95" in await asked(side, "incidents")
        assert "version 4 was promoted" not in await asked(side, "incidents")
        assert "Accuracy" in await asked(side, "incidents all")
        assert "Because:" in await asked(side, f"why {NOISY}", VICTOR)
        assert "which one?" in (await asked(side, "why")).lower()
        assert "calm-neighbour" in await asked(side, "runs")
        assert "calm-neighbour" in await asked(side, "playbooks")
        assert "calm-neighbour" in await asked(side, "why-not calm nightly 1 min ago")
        assert "fraud" in await asked(side, "drift fraud")
        assert "no rows of a model x" in (await asked(side, "drift x")).lower()
        assert "What I understand" in await asked(side, "help")
        assert "is no word of mine" in await asked(side, "reboot everything")
        assert "you are not known here" in (await asked(side, "status", MALLORY)).lower()
        assert [p[0] for p in talk.presses()] == ["status"], (
            "of what changes nothing only strangers are journalled"
        )
        assert len(side.parents) == 1


async def test_two_versions_are_compared(tmp_path):
    async with acting(tmp_path, "socket") as (side, _):
        said = await asked(side, "compare fraud 6 7")
        assert "version 7@canary against 6: worse" in said
        assert "write it like" in (await asked(side, "compare x")).lower()


async def test_an_answer_is_shared_when_it_is_asked_for(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, _):
        await side.command(OLGA, "status share")
        await until(lambda: any(who == "*" for who, _ in side.said))
        await side.mention(OLGA, f"why {NOISY}")
        assert "Because:" in await told(side, OLGA)
        await side.mention(OLGA, f"why {NOISY} share")
        await until(lambda: any("Because:" in whole(m) for m in side.parents))


async def test_a_message_that_is_edited_does_nothing_a_second_time(tmp_path, mode):
    """Slack sends an event of its own when somebody mends a typo in what was done already."""
    async with acting(tmp_path, mode) as (side, talk):
        ts = await side.mention(OLGA, "silence service:wine for 1h")
        assert "for 1 h" in await told(side, OLGA)
        await side.mention(OLGA, "silence service:wine for 2h", ts=ts, edited=True)
        assert "write a new one to have it done" in await told(side, OLGA)
        await side.mention(
            OLGA, "silence service:wine for 1h", ts=ts
        )  # the same message as another event
        await side.mention(OLGA, f"why {NOISY}", ts=ts, edited=True)
        assert "Because:" in await told(side, OLGA), "what changes nothing is answered"
        assert len(talk.entries("silence")) == 1
        assert [(what, came.partition(":")[0]) for what, _, came in talk.presses()] == [
            ("silence", "done"),
            ("silence", "refused"),
        ]


async def test_what_was_written_before_we_were_here_is_not_done(tmp_path, mode):
    """Slack sends an event again for minutes, also to the process after the one that has done it."""
    async with acting(tmp_path, mode) as (side, talk):
        await side.mention(OLGA, "pause service:wine", ts=f"{time.time() - 60:.6f}")
        assert "may have been done already" in await told(side, OLGA)
        assert talk.entries("pause") == []
        await side.mention(OLGA, "status", ts=f"{time.time() - 60:.6f}")
        assert "web-1" in await told(side, OLGA)


async def test_what_was_written_before_we_were_here_is_told_by_the_clock_of_slack(tmp_path):
    async with SlackSide().serving() as side:
        side.ahead_s = 240.0  # the clock of this host is behind
        async with talking(tmp_path, side) as talk:
            await until(lambda: side.sockets and side.parents)
            await side.mention(OLGA, "pause service:wine", ts=f"{time.time() + 180:.6f}")
            assert "may have been done already" in await told(side, OLGA)
            assert talk.entries("pause") == []
            await side.mention(OLGA, "pause service:wine")
            assert "Paused: service:wine" in await told(side, OLGA)


async def test_commands_do_by_the_desk_what_their_person_may(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        assert "'wine' may be 2 things" in await asked(side, "silence wine for 2h")
        assert "for 2 h" in await asked(side, "silence service:wine for 2h because we deploy")
        (silence,) = talk.entries("silence")
        assert (silence.body["target"], silence.body["reason"]) == ("service:wine", "we deploy")
        assert "has ended" in await asked(side, f"unsilence {silence.subject}")
        assert "for how long?" in (await asked(side, "silence wine")).lower()
        assert "is put off for 1 h" in await asked(side, "mute inc-7f for 1h")
        assert "You have it" in await asked(side, "ack inc-7f on my way")
        assert talk.memory.incidents[NOISY].turns[-1].why == "on my way"
        assert "Paused: service:wine" in await asked(side, "pause service:wine")
        assert "Nothing is paused" in await asked(side, "resume service:wine")
        assert "needs operator" in await asked(side, "pause service:wine", VICTOR)
        assert "needs author" in await asked(side, "mode calm suggest")
        assert "Denied" in await asked(side, "deny")
        assert "which one?" in (await asked(side, "approve")).lower()
        assert "Noted as real" in await asked(side, f"real {RELEASED}")
        assert "Somebody is called" in await asked(side, f"page {BROKEN} it is mine")
        verbs = [what for what, _, _ in talk.presses()]
        assert verbs.count("silence") >= 2
        assert ("pause", "victor (viewer, slack)") in [(w, b) for w, b, _ in talk.presses()]


async def test_what_a_run_asks_is_answered(tmp_path):
    async with acting(tmp_path, "socket") as (side, talk):
        now = talk.story.now
        field = Field("rows", "number", "how many?", low=0.0, high=9.0)
        question = Question(
            "ask-1", "service:wine", "How many?", (field,), "operator", now, now + 600
        )
        talk.story.hooks.record("question", question.id, pack(question), now)
        assert "from 0 to 9" in await asked(side, "answer ask-1 rows=12")
        assert "needs operator" in await asked(side, "answer ask-1 rows=3", VICTOR)
        assert "Answered ask-1" in await asked(side, "answer ask-1 rows=3")
        (reply,) = talk.entries("reply")
        assert (reply.body["person"], reply.body["values"]) == (
            "olga (operator, slack)",
            {"rows": 3.0},
        )
        assert "answered ask-1 already" in await asked(side, "answer ask-1 rows=4")


async def test_a_run_is_planned_first_and_started_by_exactly_that_plan(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        assert "needs operator" in await asked(side, "run calm nightly", VICTOR)
        await side.command(OLGA, "run calm nightly")
        await until(lambda: side.said)
        _, plan = side.said.pop()
        assert "set priority nice=19" in whole(plan)
        shown = {"ts": "1.1", **plan}
        button = side.button(shown, "start")
        await side.deliver("interactive", side.press_payload(OLGA, shown, button))
        assert "Started" in await told(side, OLGA)
        assert talk.memory.runs["run-byhand"].playbook == "calm-neighbour"
        wrong = {**button, "value": json.dumps({**json.loads(button["value"]), "h": "0" * 64})}
        await side.deliver("interactive", side.press_payload(OLGA, shown, wrong))
        assert "not the plan that you saw" in await told(side, OLGA)
        talk.story.hooks.lets = False
        assert "The guard says no" in await asked(side, "run calm nightly")


async def test_what_a_plan_would_do_is_asked_before_a_yes(tmp_path, mode):
    """By the button beside Approve, by that of a plan, and by a command; nothing is done and nothing is answered."""
    async with acting(tmp_path, mode) as (side, talk):
        await side.press(OLGA, message(side), "dry-run")
        said = await told(side, OLGA)
        title = "Lower the priority of a noisy neighbour"
        assert f"*Dry run* {title}, on nightly-batch (pid 5200)" in said
        assert "1. set priority: would set_priority" in said
        await side.command(OLGA, "run calm nightly")
        await until(lambda: side.said)
        shown = {"ts": "1.1", **side.said.pop()[1]}
        await side.deliver(
            "interactive", side.press_payload(OLGA, shown, side.button(shown, "dry-run"))
        )
        assert "*Dry run* Lower it, on nightly-batch (pid 5200)" in await told(side, OLGA)
        for line in ("dry-run", f"Dry run {RUN}", "dry-run calm nightly"):
            assert "1. set priority: would set_priority" in await asked(side, line)
        assert "ictor is viewer, run needs operator" in await asked(side, "dry-run", VICTOR)
        assert "run-byhand" not in talk.memory.runs
        assert talk.entries("approval") == []
        talk.run(state="acting")
        await side.deliver(
            "interactive", side.press_payload(OLGA, shown, {**side.button(shown, "dry-run"), "value": json.dumps(
                {"a": "dry-run", "i": NOISY, "r": RUN})}),
        )  # fmt: skip
        assert "it asks nobody" in await told(side, OLGA)


async def test_words_are_taken_as_people_mean_them(tmp_path):
    async with acting(tmp_path, "socket") as (side, talk):
        assert "did you mean `incidents`?" in await asked(side, "Incidnets")
        assert "did you mean `playbooks`" in await asked(side, "playboks")
        assert "write `help`" in await asked(side, "thanks")
        assert "Accuracy" in await asked(side, "Incidents ALL")
        assert "Paused: everything" in await asked(side, "pause everything")
        assert "Nothing is paused" in await asked(side, "RESUME all")
        assert "Silence" in await asked(side, "silence everything 10 min because of a drill")
        assert talk.entries("silence")[-1].body["target"] == "*"
        assert "needs author" in await asked(side, "mode calm to Suggest because it is new")
        assert "You have it" in await asked(side, "ack inc-7f from home until 18:00")
        assert talk.memory.incidents[NOISY].turns[-1].why == "from home until 18:00"
        assert "version 7@canary against 6: worse" in await asked(side, "compare fraud 6 vs 7?")
        assert "Denied" in await asked(side, f"deny {RUN} not before noon, for the customer")
        assert talk.entries("approval")[-1].body["reason"] == "not before noon, for the customer"


async def test_a_graph_is_sent_to_who_asked_or_shown_to_all(tmp_path, mode):
    async with acting(tmp_path, mode) as (side, talk):
        said = await asked(side, "graph cpu_busy web-1 since 30 min")
        assert "CPU busy of web-1" in said
        assert "▁" in said or "█" in said
        await until(lambda: any(f.get("channel") == f"D{OLGA[1:]}" for f in side.files.values()))
        await side.command(OLGA, "graph service.latency_p95_seconds since 1h share")
        await until(
            lambda: [
                f
                for f in side.files.values()
                if f.get("channel") == CHANNEL and not f.get("thread")
            ]
        )
        assert all(f["content"] == PNG for f in side.files.values())
        assert "not a time" in (await asked(side, "graph x since whenever")).lower()
        assert "write it like" in (await asked(side, "graph")).lower()
        assert talk.drawing.drawn


# ---- one socket an app


async def test_a_metric_is_found_by_words_of_its_name_and_whose_it_is(tmp_path):
    async with acting(tmp_path, "socket") as (side, _):
        for line in (
            "graph latency p95",
            "graph latency_p95 wine",
            "graph Latency P95 wine last 30 min",
        ):
            assert "latency p95 of wine" in await asked(side, line)
        assert "fraud" in await asked(side, "drift Fraud")


async def test_while_another_agent_holds_the_app_nothing_is_done(tmp_path):
    async with SlackSide().serving() as side:
        side.elsewhere = 1
        async with talking(tmp_path, side) as talk:
            await until(lambda: message(side) and talk.chats.faults())
            assert "another agent holds the same Slack app" in talk.chats.faults()[0]
            await side.press(OLGA, message(side), "approve")
            assert "presses go to either at random" in await told(side, OLGA)
            assert "presses go to either at random" in await asked(side, "pause")
            assert "web-1" in await asked(side, "status"), (
                "what changes nothing may be asked of either"
            )
            assert talk.entries("approval") == []
            assert talk.entries("pause") == []
            side.elsewhere = 0
            await until(lambda: talk.chats.faults() == [])
            await until(lambda: side.sockets)
            await side.press(OLGA, message(side), "approve")
            assert "Approved" in await told(side, OLGA)


async def test_an_agent_that_comes_later_is_seen_and_no_press_finds_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(_slack_socket, "ALONE_S", 0.3)
    async with acting(tmp_path, "socket") as (side, talk):
        fewest = len(side.sockets)

        async def watch():
            nonlocal fewest
            while True:
                fewest = min(fewest, len(side.sockets))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await until(lambda: side.opened >= 3)
        assert talk.chats.faults() == [], "our own two for a moment are no other's"
        side.elsewhere = 1
        await until(talk.chats.faults)
        assert "another agent holds the same Slack app" in talk.chats.faults()[0]
        await side.press(OLGA, message(side), "approve")
        assert "presses go to either at random" in await told(side, OLGA)
        assert talk.entries("approval") == []
        side.elsewhere = 0
        await until(lambda: talk.chats.faults() == [])
        watching.cancel()
        assert fewest >= 1
        await side.press(OLGA, message(side), "approve")
        assert "Approved" in await told(side, OLGA)


async def test_where_no_other_connection_can_be_opened_the_old_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(_slack_socket, "ALONE_S", 0.3)
    async with acting(tmp_path, "socket") as (side, talk):
        side.refuse["apps.connections.open"] = ["internal_error"] * 1000
        asked = len(side.named("apps.connections.open"))
        await until(lambda: len(side.named("apps.connections.open")) > asked + 1)
        assert len(side.sockets) == 1
        assert talk.chats.faults() == []
        await side.press(OLGA, message(side), "approve")
        assert "Approved" in await told(side, OLGA)


async def test_our_own_old_connection_is_no_other_agent(tmp_path):
    async with acting(tmp_path, "socket") as (side, talk):
        side.elsewhere = 1  # as when Slack still counts the one that we have just given up
        await side.disconnect("refresh_requested")
        await until(lambda: side.opened == 2)
        assert talk.chats.faults() == []
        side.elsewhere = 0
        await until(lambda: side.opened == 3)  # it looks again
        assert talk.chats.faults() == []


@pytest.mark.parametrize("how", ["refresh_requested", "warning", "link_disabled", "cut"])
async def test_a_connection_that_ends_is_opened_anew(tmp_path, how):
    async with acting(tmp_path, "socket") as (side, talk):
        await side.disconnect(how)
        await until(lambda: side.opened >= 2 and side.sockets)
        await side.press(OLGA, message(side), "approve")
        assert "Approved" in await told(side, OLGA)
        assert talk.chats.faults() == []


async def test_a_press_during_the_change_of_connections_is_done_once(tmp_path):
    async with acting(tmp_path, "socket") as (side, talk):
        press = asyncio.create_task(side.press(OLGA, message(side), "approve"))
        await side.disconnect("cut")
        await press
        assert "Approved" in await told(side, OLGA)
        assert len(talk.entries("approval")) == 1
