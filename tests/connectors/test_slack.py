"""Incidents in Slack: one thread each, by the official client against the stand-in of `slack_side`."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
import structlog
from desk_story import OPERATOR
from pydantic import ValidationError
from slack_side import APP, BOT, CHANNEL, HOOK, OLGA, SECRET, Channel, SlackSide
from slack_talk import BROKEN, NOISY, PNG, RUN, Talk, talking, until

from agent.codec import pack
from agent.errors import Refused, Unavailable, Uncertain
from agent.handoff import NOBODY, Need
from agent.journal import Journal
from agent.model import Outcome, StepRecord
from agent.ports import Chat, Choosy, Note, Notifier, Receiver
from connectors import _slack_blocks as blocks
from connectors import _slack_threads
from connectors.slack import Slack

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytestmark = pytest.mark.usefixtures("swift")


@pytest.fixture
async def side():
    async with SlackSide().serving() as made:
        yield made


def text_of(message):
    return json.dumps(message["blocks"], ensure_ascii=False)


def parent(side, incident=NOISY):
    found = [
        m
        for m in side.parents
        if (m["metadata"] or {}).get("event_payload", {}).get("key") == incident
    ]
    return found[0] if found else None


async def settled(side, talk, quiet_s=0.4):
    """Wait until nothing is asked any more."""
    n = -1
    while n != len(side.calls):
        n = len(side.calls)
        await asyncio.sleep(quiet_s)


# ---- one thread


async def test_an_incident_is_one_message_with_its_evidence(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        await settled(side, talk)
        assert len(side.parents) == 1, "the note and the resolved one have none"
        said = text_of(parent(side))
        for part in (
            "Latency p95 of service wine is 710 ms", "needs you: say yes or no", "other processes take what",
            "nightly-batch", "87 % sure", "1.9 cores", "*Hurts* wine",
            "*Would do* Lower the priority of a noisy neighbour", "set priority", NOISY, "<!date^",
        ):  # fmt: skip
            assert part in said, part
        assert "latency" in parent(side)["text"].lower()
        (file,) = side.files.values()
        assert file["content"] == PNG
        assert file["thread"] == parent(side)["ts"]
        assert "nightly-batch" in file["alt"]
        assert side.buttons(parent(side)) == [
            "approve",
            "deny",
            "dry-run",
            "ack",
            "snooze",
            "silence",
            "cause",
            "page",
        ]
        assert isinstance(talk.slack, Notifier)
        assert isinstance(talk.slack, Choosy)
        assert isinstance(talk.slack, Chat)
        assert isinstance(talk.slack, Receiver)


async def test_the_message_is_edited_as_life_goes_on(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        talk.run(state="acting")
        await until(lambda: "acting" in text_of(parent(side)))
        assert "approve" not in side.buttons(parent(side))
        talk.run(
            state="verifying",
            steps=(StepRecord("lower", "set_priority", 1.0, 2.0, "done", "nice is 19"),),
        )
        await until(lambda: "checking whether it helped" in text_of(parent(side)))
        talk.run(state="done", outcome=Outcome("helped", "latency is 120 ms, was 710 ms", "before"))
        talk.turn(NOISY, "mitigated")
        await until(lambda: "has to stay so" in text_of(parent(side)))
        assert "*Tried* calm-neighbour on nightly-batch (pid 5200): helped" in text_of(parent(side))
        await until(lambda: len(side.files) == 2)  # what it looks like healed
        talk.turn(NOISY, "resolved")
        await until(lambda: "resolved, healed by a playbook" in text_of(parent(side)))
        assert "✅" in parent(side)["text"]
        assert side.buttons(parent(side))[-3:] == ["cause", "noise", "real"]
        await settled(side, talk)
        assert len(side.parents) == 1
        n = len(side.calls)
        talk.chats.wrote(talk.entries("incident")[-1])
        await settled(side, talk)
        assert len(side.calls) == n, "nothing new is nothing said"


async def test_a_suggestion_that_was_taken_up_is_no_second_run(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        run = talk.memory.runs[RUN]
        taken = replace(run, id="run-s", mode="suggest", state="done", text="started by olga")
        talk.story.hooks.record("run", taken.id, pack(taken), talk.story.now)
        talk.run(
            state="done", outcome=Outcome("helped", "service.up{service:wine} 1 after", "peers")
        )
        await until(lambda: "*Tried*" in text_of(parent(side)))
        await settled(side, talk)
        assert text_of(parent(side)).count("*Tried*") == 1
        assert "helped (up of wine 1 after)" in text_of(parent(side))


async def test_it_says_why_a_person_is_needed_and_what_people_said_of_the_cause(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        talk.run(state="denied")
        await until(
            lambda: "\\ndiagnosed" in text_of(parent(side))
        )  # it pages, and may yet be acted on
        need = Need("no_effect", "calm-neighbour had no effect: latency is <still> 700 ms")
        talk.story.hooks.record("handoff", NOISY, pack(need), talk.story.now)
        await until(lambda: "needs you: what was done had no effect" in text_of(parent(side)))
        assert "needs you" in parent(side)["text"]
        assert (
            "*Needs you* calm-neighbour had no effect: latency is &lt;still&gt; 700 ms"
            in text_of(parent(side))
        )
        talk.story.desk.blame(OPERATOR, NOISY, "host.disk", "the disk was full")
        await until(lambda: "*Person says* not host.neighbour of" in text_of(parent(side)))
        assert "it was host.disk" in text_of(parent(side))
        assert "(olga: the disk was full)" in text_of(parent(side))
        talk.story.hooks.record("handoff", NOISY, pack(NOBODY), talk.story.now)
        await until(lambda: "needs you" not in text_of(parent(side)).lower())


async def test_notes_are_told_beneath_it_once(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        ask = Note(f"{RUN}:ask", 1.0, "warning", "asks for approval: x", "do y?", NOISY)
        turn = Note(
            f"turn:{NOISY}:acknowledged:1",
            2.0,
            "page",
            "t",
            "acknowledged by olga",
            NOISY,
            event="acknowledged",
        )
        first = Note(f"page:{NOISY}:0", 1.0, "page", "slow", "cause", NOISY)
        failed = Note(f"{RUN}:escalate", 3.0, "page", "did not help: x", "look", NOISY)
        for note in (first, ask, turn, ask, failed, turn):
            assert talk.slack.wants(note)
            await talk.slack.notify(note)
        told = side.replies(parent(side)["ts"])
        assert [m["text"] for m in told] == [
            "asks for approval: x: do y?", "t: acknowledged by olga", "did not help: x: look",
        ]  # fmt: skip
        assert [m["broadcast"] for m in told] == [False, False, True]


async def test_how_a_run_ended_is_told_once(tmp_path, side):
    """By the last step of its playbook in words of its own; else by us."""
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        better = "better: latency 710 ms before, 120 ms after"
        told = Note(f"{RUN}/tell", 3.0, "warning", "Lowered", f"Lowered it; {better}", NOISY)
        talk.story.hooks.record("note", told.key, pack(told), 3.0)
        facts = {"run": RUN, "playbook": "calm-neighbour", "entity": "process:b00t/5200/9950"}

        def of(run, event, text):
            return Note(
                f"run:{run}:{event}", 4.0, "note", "calm-neighbour on process:b00t/5200/9950", text, NOISY,
                event=event, facts={**facts, "run": run},
            )  # fmt: skip

        for note in (
            of(RUN, "acting", "Lower it"),
            told,
            of(RUN, "acted", better),
            of("run-2", "acted", better),
        ):
            await talk.slack.notify(note)
        whom = "calm-neighbour on nightly-batch (pid 5200)"
        said = [m["blocks"][0]["text"]["text"] for m in side.replies(parent(side)["ts"])]
        assert said == [
            f"*Acting*: {whom}\nLower it", f"Lowered it; {better}", f"*Acted*: {whom}\n{better}",
        ]  # fmt: skip
    async with talking(tmp_path / "again", side) as again:  # a restart knows it, too
        again.story.hooks.record("note", told.key, pack(told), 3.0)
        await until(lambda: again.slack._threads is not None)
        n = len(side.replies(parent(side)["ts"]))
        await again.slack.notify(of(RUN, "acted", better))
        assert len(side.replies(parent(side)["ts"])) == n


@pytest.mark.parametrize(
    ("title", "text", "lines"),
    [
        ("go on?", "go on?\nThe queue grows.", "*go on?*\nThe queue grows."),
        ("Roll back: it answ", "Roll back: it answers; homeostat approve run-1",
         "Roll back: it answers; `/homeostat approve run-1`"),
        ("better: service.latency_p95_seconds{service:wi", "better: service.latency_p95_seconds{service:wine} 1 s",
         "better: latency p95 of wine 1 s"),
        ("go on?", "go on?", "go on?"),
        ("helped", "better: service.latency_p95_seconds{service:wine} 1.3 s before",
         "*helped*\nbetter: latency p95 of wine 1.3 s before"),
        ("x", "host.disk_utilization_ratio{host:web-1,mount=/} no.such{host:web-1}",
         "*x*\ndisk utilization (mount /) of web-1 no.such{host:web-1}"),
        ("x", "service.latency_p95_seconds{nobody:x} <b>", "*x*\nservice.latency_p95_seconds{nobody:x} &lt;b&gt;"),
    ],
)  # fmt: skip
async def test_notes_read_as_people_speak(title, text, lines):
    made = blocks.note(Note("k", 1.0, "warning", title, text, NOISY), command="/homeostat")
    assert [b["text"]["text"] for b in made["blocks"]] == [lines]


async def test_what_happened_is_told_without_the_number_of_a_run():
    said = "mitigated by homeostat:calm-neighbour-adf35bf4bca7: it is well"
    made = blocks.note(Note("k", 1.0, "page", "slow", said, NOISY, event="mitigated"))
    assert [b["text"]["text"] for b in made["blocks"]] == ["Mitigated by homeostat: it is well"]


async def test_what_concerns_no_incident_of_ours_is_a_message_of_its_own(tmp_path, side):
    async with talking(tmp_path, side, severities=["page"]) as talk:
        await until(lambda: parent(side))
        lost = Note(
            "run-x:lost",
            1.0,
            "page",
            "lost: x",
            "look <!channel> & see",
            link="https://h.example.org",
        )
        for _ in range(2):
            await talk.slack.notify(lost)
        assert [m["text"] for m in side.parents].count(
            "lost: x: look &lt;!channel&gt; &amp; see"
        ) == 1
        assert "&lt;!channel&gt; &amp; see" in text_of(parent(side, "run-x:lost"))
        assert not talk.slack.wants(Note("n", 1.0, "note", "t", "x", BROKEN))
        assert not talk.slack.wants(Note("n", 1.0, "page", "t", "x", NOISY, event="opened"))
        assert not talk.slack.wants(Note("n", 1.0, "note", "t", "x", event="changed"))
        assert talk.slack.wants(
            Note("n", 1.0, "note", "t", "x", NOISY, event="acted", facts={"run": RUN})
        )


async def test_routes_and_quiet_hours_say_where_and_when(tmp_path, side):
    side.channels["C0WINE0001"] = Channel()
    side.names["#wine"] = "C0WINE0001"
    talk = Talk(tmp_path, side)
    asked = []

    def meant(note):
        asked.append((note.severity, note.incident))
        return (
            None if len(asked) < 3 else ("#wine", time.time() + 0.3 if len(asked) < 4 else note.ts)
        )

    talk.meant = meant
    talk.chats.turn()
    try:
        for n in range(3):
            await until(lambda n=n: len(asked) > n)
            assert side.channels["C0WINE0001"].messages == []
            talk.change(NOISY, title=f"it is slow {n}")
        await until(lambda: any(m.get("edits") for m in side.channels["C0WINE0001"].messages))
        assert side.parents == []
        assert set(asked) == {("page", NOISY)}
    finally:
        await talk.close()


async def test_an_incident_of_lower_severity_gets_a_message_when_a_run_of_it_asks(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        await talk.slack.notify(Note("run-9:acted", 1.0, "note", "x", "y", BROKEN, event="acted"))
        assert parent(side, BROKEN) is None
        ask = Note("run-9:ask", 1.0, "warning", "asks for approval", "do y?", BROKEN)
        assert talk.slack.wants(ask)
        await talk.slack.notify(ask)
        assert [m["text"] for m in side.replies(parent(side, BROKEN)["ts"])] == [
            "asks for approval: do y?"
        ]


async def test_a_page_that_is_a_warning_at_first_gets_its_message_when_it_pages(tmp_path, side):
    async with talking(tmp_path, side, severities=["page"]) as talk:
        await until(lambda: parent(side))
        assert parent(side, BROKEN) is None
        talk.change(BROKEN, severity="page")
        await until(lambda: parent(side, BROKEN))


async def test_a_warning_that_becomes_a_page_calls_people_anew(tmp_path, side):
    """An edit of a message makes no telephone ring."""
    async with talking(tmp_path, side, severities=["page", "note"]) as talk:
        await until(lambda: parent(side, BROKEN))
        talk.change(BROKEN, severity="page")
        await talk.slack.notify(Note(f"page:{BROKEN}:0", 1.0, "page", "it hurts", "see", BROKEN))
        (reply,) = side.replies(parent(side, BROKEN)["ts"])
        assert reply["broadcast"]


async def test_the_first_step_of_the_ladder_is_the_message_itself_a_later_one_calls(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        step = Note(f"ladder:{NOISY}:0:5:0:slack", 1.0, "page", "it hurts", "see", NOISY)
        await talk.slack.notify(step)
        assert side.replies(parent(side)["ts"]) == []
        talk.slack._threads._threads[NOISY].born -= 601.0
        await talk.slack.notify(replace(step, key=f"ladder:{NOISY}:0:5:1:slack"))
        (reply,) = side.replies(parent(side)["ts"])
        assert reply["broadcast"]


async def test_a_merged_incident_says_where_it_went(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        talk.change(NOISY, state="resolved", merged_into="inc-other")
        await until(lambda: "part of inc-other" in text_of(parent(side)))
        assert side.buttons(parent(side)) == []


# ---- crashes, deletions, what Slack does not do


async def test_a_restart_goes_on_with_the_same_message(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        await talk.slack.notify(Note("k1", 1.0, "page", "one", "x", NOISY))
        await settled(side, talk)
        kept = talk.story.hooks.state
    again = Talk(tmp_path / "other", side)
    with Journal.reader(kept / "journal.sqlite") as journal:
        for entry in journal.latest("thread"):
            again.story.hooks.record("thread", entry.subject, entry.body, entry.ts)
    again.chats.turn()
    try:
        await until(lambda: again.slack._threads is not None)
        await again.slack.notify(Note("k1", 1.0, "page", "one", "x", NOISY))
        await again.slack.notify(Note("k2", 1.0, "page", "two", "x", NOISY))
        again.run(state="denied")
        again.turn(NOISY, "mitigated")
        await until(lambda: "has to stay so" in text_of(parent(side)))
        await settled(side, again)
        assert len(side.parents) == 1
        assert [m["text"] for m in side.replies(parent(side)["ts"])] == ["one: x", "two: x"]
        assert len(side.files) == 1
    finally:
        await again.close()


async def test_a_picture_is_not_drawn_again_after_a_restart(tmp_path, side):
    """Also when nothing was told beneath its message since."""
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        kept = talk.story.hooks.state
    again = Talk(tmp_path / "other", side)
    with Journal.reader(kept / "journal.sqlite") as journal:
        for entry in journal.latest("thread"):
            again.story.hooks.record("thread", entry.subject, entry.body, entry.ts)
    again.chats.turn()
    try:
        again.change(NOISY, title="it is slow again")
        await until(lambda: "it is slow again" in text_of(parent(side)))
        await settled(side, again)
        assert len(side.files) == 1
        assert "image" in text_of(parent(side))
    finally:
        await again.close()


@pytest.mark.parametrize("method", ["chat.postMessage"])
async def test_a_message_whose_answer_was_lost_is_found_and_not_posted_again(
    tmp_path, side, method
):
    side.lose.add(method)
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        await settled(side, talk)
        assert len(side.parents) == 1
        assert side.named("conversations.history")
        side.lose.add(method)
        note = Note("k1", 1.0, "page", "one", "x", NOISY)
        with pytest.raises(Uncertain):
            await talk.slack.notify(note)
        await talk.slack.notify(note)
        assert len(side.replies(parent(side)["ts"])) == 1


async def test_killed_between_posting_and_writing_it_down_it_is_found(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        await settled(side, talk)
    again = Talk(tmp_path / "other", side)
    again.story.hooks.record("thread", f"slack:{NOISY}", {"channel": CHANNEL, "ts": ""}, 1.0)
    again.chats.turn()
    try:
        await until(lambda: side.named("conversations.history"))
        again.run(state="denied")
        again.turn(NOISY, "mitigated")
        await until(lambda: "has to stay so" in text_of(parent(side)))
        assert len(side.parents) == 1
    finally:
        await again.close()


async def test_it_is_found_behind_much_that_others_have_written(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        await settled(side, talk)
    written = [
        {"ts": side.ts(), "text": "x", "blocks": [], "metadata": None, "user": OLGA} for _ in range(450)
    ]  # fmt: skip
    side.channels[CHANNEL].messages += written
    again = Talk(tmp_path / "other", side)
    again.story.hooks.record("thread", f"slack:{NOISY}", {"channel": CHANNEL, "ts": ""}, 1.0)
    again.chats.turn()
    try:
        await until(lambda: len(side.named("conversations.history")) == 3)
        again.run(state="denied")
        again.turn(NOISY, "mitigated")
        await until(lambda: "has to stay so" in text_of(parent(side)))
        assert len(side.parents) == 1 + len(written)
    finally:
        await again.close()


async def test_what_is_not_there_is_not_looked_for_without_end(tmp_path, side, monkeypatch):
    monkeypatch.setattr(_slack_threads, "_MOST_PAGES", 2)
    for _ in range(450):
        side.channels[CHANNEL].messages.append(
            {"ts": side.ts(), "text": "x", "blocks": [], "metadata": None, "user": OLGA}
        )
    again = Talk(tmp_path, side)
    again.story.hooks.record("thread", f"slack:{NOISY}", {"channel": CHANNEL, "ts": ""}, 1.0)
    again.chats.turn()
    try:
        await until(lambda: parent(side))
        assert len(side.named("conversations.history")) == 2
    finally:
        await again.close()


async def test_a_thread_with_many_replies_is_read_to_its_end(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        await settled(side, talk)
        ts, thread = parent(side)["ts"], talk.slack._threads._threads[NOISY]
        side.channels[CHANNEL].messages += [
            {"ts": side.ts(), "thread_ts": ts, "text": "x", "blocks": [], "metadata": None, "user": OLGA}
            for _ in range(250)
        ]  # fmt: skip
        note = Note("k1", 1.0, "page", "one", "x", NOISY)
        await talk.slack.notify(note)
        thread.said.clear()
        thread.heard = False  # as after a restart
        await talk.slack.notify(note)
        assert [m["text"] for m in side.replies(ts)].count("one: x") == 1


async def test_without_the_scope_to_look_it_is_posted_rather_than_lost(tmp_path, side):
    side.lose.add("chat.postMessage")
    side.refuse["conversations.history"] = ["missing_scope"]
    async with talking(tmp_path, side):
        await until(lambda: len(side.parents) == 2)


async def test_a_message_that_was_deleted_is_posted_anew_once(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        for said in ("denied", "expired"):
            side.channels[CHANNEL].messages.clear()
            talk.run(state=said)
            talk.change(NOISY, title=f"it was {said}")
            await settled(side, talk)
        assert parent(side) is None
        n = len(side.calls)
        await talk.slack.notify(Note("k9", 1.0, "page", "nine", "x", NOISY))
        assert len(side.calls) == n, "who deletes it twice does not want it"
        assert len(side.named("chat.postMessage")) == 2


async def test_a_picture_that_slack_can_not_show_yet_is_shown_later(tmp_path, side):
    side.file_ready_after = 1
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        await settled(side, talk)
        assert len(side.files) == 1


async def test_a_picture_that_is_never_shown_costs_nothing_but_itself(tmp_path, side):
    side.file_ready_after = 99
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side) and parent(side).get("edits"))
        await settled(side, talk)
        assert "image" not in text_of(parent(side))
        assert "87 % sure" in text_of(parent(side))
        assert len(side.named("chat.update")) <= 8


async def test_rate_limits_are_kept(tmp_path, side):
    async with talking(tmp_path, side) as talk:
        await until(lambda: parent(side))
        await settled(side, talk)
        side.fault = "busy"
        with pytest.raises(Unavailable) as busy:
            await talk.slack.notify(Note("k1", 1.0, "page", "one", "x", NOISY))
        assert busy.value.wait_s == pytest.approx(7.0, abs=0.1)
        side.fault = ""
        n = len(side.calls)
        with pytest.raises(Unavailable, match="asks us to wait"):
            await talk.slack.notify(Note("k1", 1.0, "page", "one", "x", NOISY))
        assert len(side.calls) == n, "it is not asked before its time"


async def test_a_channel_without_us_says_what_to_do_and_gets_the_message_later(
    tmp_path, side, monkeypatch
):
    monkeypatch.setattr("connectors.slack._AGAIN_S", 0.05)
    monkeypatch.setattr("connectors._slack_door.MEND_S", 0.05)
    side.channels[CHANNEL].member = False
    async with talking(tmp_path, side) as talk:
        await until(lambda: any("/invite @homeostat" in fault for fault in talk.chats.faults()))
        side.channels[CHANNEL].member = True
        await until(lambda: parent(side))
        await until(lambda: talk.chats.faults() == [])


async def test_a_token_that_is_not_accepted_is_told_and_the_talk_begins_when_it_is_mended(
    tmp_path, side, monkeypatch
):
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-wrong")
    monkeypatch.setattr("agent.chat._LAST_S", 0.05)
    monkeypatch.setattr("agent.chat._FIRST_S", 0.05)
    monkeypatch.setattr("connectors._slack_door.MEND_S", 0.05)
    async with talking(tmp_path, side) as talk:
        await until(lambda: any("not accepted" in fault for fault in talk.chats.faults()))
        with pytest.raises(Unavailable, match="does not talk to Slack yet"):
            await talk.slack.notify(Note("k1", 1.0, "page", "one", "x", NOISY))
        monkeypatch.setenv("SLACK_BOT_TOKEN", BOT)
        await until(lambda: parent(side))
        await until(lambda: talk.chats.faults() == [])


# ---- storms


async def test_a_thousand_anomalies_in_a_storm_are_one_message_and_five_calls(
    tmp_path, side, monkeypatch
):
    monkeypatch.setattr(_slack_threads, "FIRST_EDIT_S", 0.3)
    monkeypatch.setattr(_slack_threads, "NEXT_EDIT_S", 60.0)
    async with talking(tmp_path, side, severities=["page"]) as talk:
        talk.run(state="denied")
        await until(lambda: parent(side))
        for n in range(1000):
            talk.change(NOISY, more=n)
            if n % 50 == 0:
                await asyncio.sleep(0.01)
        await until(
            lambda: (
                "a storm: more than 900" in text_of(parent(side))
                or "storm" in text_of(parent(side))
            )
        )
        await settled(side, talk)
        asked = [
            name for name, _ in side.calls if name not in {"auth.test", "apps.connections.open"}
        ]
        assert len(side.parents) == 1
        assert len(asked) <= 5, asked


def trouble(talk, n, **what):
    """Open one more incident."""
    made = replace(
        talk.memory.incidents[BROKEN], id=f"inc-{n:08d}", title=f"trouble {n}", opened=talk.story.now, **what
    )  # fmt: skip
    talk.story.hooks.record("incident", made.id, pack(made), talk.story.hooks.now())
    return made.id


def shared(side):
    return [m for m in side.parents if "an hour that this channel takes" in m["text"]]


async def test_more_incidents_than_a_channel_takes_share_one_message(tmp_path, side, monkeypatch):
    monkeypatch.setattr(_slack_threads, "NEXT_EDIT_S", 0.5)
    async with talking(
        tmp_path, side, severities=["page", "note", "warning"], threads_per_hour=2
    ) as talk:
        await until(lambda: parent(side) and parent(side, BROKEN))
        made = []
        for n in range(30):
            made.append(trouble(talk, n))
            await asyncio.sleep(0.01)
        await until(lambda: shared(side) and all(id_ in text_of(shared(side)[0]) for id_ in made))
        (one,) = shared(side)
        assert "30 more incidents than the 2 an hour" in one["text"]
        assert one.get("edits", 0) <= 3, "it is edited now and then, not for each"
        assert len(side.parents) == 3
        edits = one.get("edits", 0)
        talk.change(made[7], more=3)
        await settled(side, talk, 0.7)
        assert one.get("edits", 0) == edits, "nothing new is nothing said"
        talk.change(made[7], severity="page")
        await until(lambda: parent(side, made[7]))  # who is to be called is always told


async def test_the_shared_message_comes_when_its_first_post_failed(tmp_path, side, monkeypatch):
    monkeypatch.setattr("connectors._slack_door.MEND_S", 0.05)
    async with talking(
        tmp_path, side, severities=["page", "note", "warning"], threads_per_hour=2
    ) as talk:
        await until(lambda: parent(side) and parent(side, BROKEN))
        await settled(side, talk)
        side.refuse["chat.postMessage"] = ["not_in_channel"]
        trouble(talk, 1)
        await until(lambda: shared(side) and "inc-00000001" in text_of(shared(side)[0]))
        side.lose.add("chat.update")
        trouble(talk, 2)
        await until(lambda: "2 more incidents" in shared(side)[0]["text"])
        side.channels[CHANNEL].messages.remove(shared(side)[0])
        trouble(talk, 3)
        await until(lambda: shared(side) and "3 more incidents" in shared(side)[0]["text"])
        side.channels[CHANNEL].messages.remove(shared(side)[0])
        trouble(talk, 4)
        await settled(side, talk)
        assert shared(side) == [], "who deletes it twice does not want it"


async def test_a_restart_gives_no_new_budget_and_goes_on_with_the_shared_message(tmp_path, side):
    own = {"severities": ["page", "note", "warning"], "threads_per_hour": 2}
    async with talking(tmp_path, side, **own) as talk:
        await until(lambda: parent(side) and parent(side, BROKEN))
        trouble(talk, 1)
        await until(lambda: shared(side))
        await settled(side, talk)
        kept = talk.story.hooks.state
    again = Talk(tmp_path / "other", side, **own)
    with Journal.reader(kept / "journal.sqlite") as journal:
        for entry in journal.latest("thread"):
            again.story.hooks.record("thread", entry.subject, entry.body, entry.ts)
    again.chats.turn()
    try:
        for n in (1, 2):
            trouble(again, n)
        await until(lambda: "2 more incidents" in shared(side)[0]["text"])
        assert len(side.parents) == 3
    finally:
        await again.close()


# ---- config, tiers, secrets


@pytest.mark.parametrize(
    "own",
    [
        {}, {"channel": "#incidents"}, {"channel": CHANNEL, "bot_token": BOT}, {"channel": CHANNEL, "api_url": "ftp://x"},
        {"channel": CHANNEL, "people": {"U1": {"role": "king"}}}, {"channel": CHANNEL, "threads_per_hour": 0},
    ],
)  # fmt: skip
def test_config_is_strict_and_repeats_no_secret(own):
    with pytest.raises(ValidationError) as wrong:
        Slack.Config(**own)
    assert BOT not in str(wrong.value)


async def test_a_webhook_gets_messages_and_no_buttons(tmp_path, side, monkeypatch):
    monkeypatch.setenv("SLACK_WEBHOOK_URL", side.url + HOOK)
    slack = Slack("slack", Slack.Config(mode="webhook", api_url=f"{side.url}/api/", timeout=1.0))
    note = Note("k1", 1.0, "page", "it is slow", "look", NOISY, link="https://h.example.org")
    await slack.notify(note)
    await slack.notify(note)
    (hooked,) = side.hooked
    assert "it is slow" in json.dumps(hooked)
    assert "actions" not in json.dumps(hooked)
    side.fault = "unauthorized"
    with pytest.raises(Unavailable, match="make a new one") as wrong:
        await slack.notify(Note("k2", 1.0, "page", "t", "x"))
    assert "CANARYhook" not in str(wrong.value)
    assert slack.routes() == ()
    assert "without buttons" in (await slack.describe())[0]
    await slack.close()


async def test_another_agent_of_the_same_app_posts_without_buttons(tmp_path, side):
    async with talking(tmp_path, side, owner=False) as talk:
        await until(lambda: parent(side) and "image" in text_of(parent(side)))
        assert side.buttons(parent(side)) == []
        assert side.opened == 0
        assert "another agent owns the buttons" in (await talk.slack.describe())[1]


async def test_no_secret_is_said_or_logged(tmp_path, side):
    with structlog.testing.capture_logs() as logs:
        async with talking(tmp_path, side) as talk:
            await until(lambda: parent(side))
            said = list(await talk.slack.describe())
            for fault in ("unauthorized", "broken", "redirect", "garbage", "unfit", "dropped"):
                side.fault = fault
                try:
                    await talk.slack.notify(Note(fault, 1.0, "page", "t", "x", NOISY))
                except (Unavailable, Uncertain, Refused) as error:
                    said.append(repr(error))
                said += talk.chats.faults()
            side.fault = ""
            journal = str(list(talk.story.hooks.journal.read()))
    for secret in (BOT, APP, SECRET):
        for text in (str(logs), str(said), journal):
            assert secret not in text
    assert side.strayed == 0
