"""Notes reach people: over crashes, over ways that are gone for a while, and without keeping each other waiting."""

import asyncio
import time

import pytest

from agent.codec import pack
from agent.errors import Refused, Unavailable
from agent.journal import Journal
from agent.outbox import _ROOM, KEEP_S, Outbox
from agent.ports import Note
from agent.routing import People, Router

NOON = 1_795_003_200.0 - 1_795_003_200.0 % 86_400.0 + 43_200.0


class Way:
    """A way to people that may fail as it is told."""

    def __init__(self, *troubles):
        self.troubles = list(troubles)
        self.told = []

    async def notify(self, note):
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, Exception):
            raise trouble
        if trouble == "hang":
            await asyncio.Event().wait()
        self.told.append(note.key)


class Desk:
    """A journal, ways, and an outbox between them."""

    def __init__(self, folder, ways):
        self.journal = Journal(folder / "journal.sqlite")
        self.ways = ways
        self.now = time.time()
        self.outbox = Outbox(self.journal.append, lambda: self.ways, lambda: self.now)
        self.outbox.restore(self.journal)

    def say(self, key, severity="page", *, owe=True, **more):
        note = Note(key, self.now, severity, "it is slow", "look at it", "i1", **more)
        entry = self.journal.append("note", key, pack(note), self.now)
        if owe:
            self.outbox.wrote(entry)

    async def until(self, what):
        async with asyncio.timeout(10):
            while not what():  # noqa: ASYNC110  # many things are waited for
                await asyncio.sleep(0.005)

    async def die(self):
        await self.outbox.close()
        self.journal.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("agent.outbox._FIRST_S", 0.01)
    monkeypatch.setattr("agent.outbox._LAST_S", 0.02)


def told(journal):
    return [(e.subject, e.body.get("gave_up", "")) for e in journal.read(("told",)) if e.subject]


async def test_a_note_reaches_every_way_once_and_that_is_recorded(tmp_path):
    page, mail = Way(), Way()
    desk = Desk(tmp_path, {"page": page, "mail": mail})
    desk.say("page:i1:0")
    await desk.until(lambda: not desk.outbox.owed)
    assert page.told == mail.told == ["page:i1:0"]
    assert len(told(desk.journal)) == 2
    await desk.die()


async def test_a_way_that_is_away_is_tried_again_in_order_and_keeps_no_other_waiting(tmp_path):
    away = Way(*[Unavailable("no line")] * 50)
    well = Way()
    desk = Desk(tmp_path, {"away": away, "well": well})
    desk.say("a")
    desk.say("b")
    await desk.until(lambda: well.told == ["a", "b"] and desk.outbox.faults())
    assert desk.outbox.faults() == ["away: 2 notes are not delivered yet (no line)"]
    await desk.until(lambda: away.told == ["a", "b"])
    assert desk.outbox.faults() == []
    await desk.die()


async def test_a_page_does_not_wait_for_as_long_as_a_way_asks(tmp_path):
    way = Way(Unavailable("too many requests", wait_s=3600.0))
    desk = Desk(tmp_path, {"way": way})
    desk.say("word", "warning")
    await desk.until(desk.outbox.faults)
    await asyncio.sleep(0.1)
    assert way.told == []  # nothing presses
    desk.say("page")
    await desk.until(lambda: way.told == ["word", "page"])
    await desk.die()


async def test_what_was_not_told_before_a_crash_is_told_after_it_and_only_that(tmp_path):
    first = Way(None, "hang")
    desk = Desk(tmp_path, {"page": first})
    desk.say("a")
    desk.say("b")
    await desk.until(lambda: first.told == ["a"] and not first.troubles)
    desk.say("c", owe=False)  # killed between the entry and the delivery
    await desk.die()
    second = Way()
    desk = Desk(tmp_path, {"page": second})
    await desk.until(lambda: second.told == ["b", "c"])
    await desk.die()


async def test_a_way_that_is_new_is_not_flooded_with_the_past(tmp_path):
    desk = Desk(tmp_path, {})
    desk.say("old")
    await desk.die()
    new = Way()
    desk = Desk(tmp_path, {"page": new})
    desk.say("fresh")
    await desk.until(lambda: new.told == ["fresh"])
    await desk.die()
    assert new.told == ["fresh"]


async def test_a_no_and_a_bug_are_recorded_and_lose_no_other_note(tmp_path):
    way = Way(Refused("the command is not there"), ZeroDivisionError("oops"))
    desk = Desk(tmp_path, {"page": way})
    for key in "abc":
        desk.say(key)
    await desk.until(lambda: way.told == ["c"])
    assert told(desk.journal)[:2] == [
        ("a", "the command is not there"),
        ("b", "a bug in page: ZeroDivisionError: oops"),
    ]
    await desk.die()


async def test_a_note_that_is_too_old_is_given_up_and_a_full_queue_keeps_the_pages(tmp_path):
    way = Way(Unavailable("no line"))
    desk = Desk(tmp_path, {"page": way})
    desk.say("stale")
    await desk.until(lambda: not way.troubles)
    desk.now += KEEP_S + 1
    await desk.until(lambda: told(desk.journal))
    assert "older than 6 h" in told(desk.journal)[0][1]
    way.troubles = ["hang"]
    desk.say("first")
    await desk.until(lambda: not way.troubles)
    desk.say("word", "info")
    for i in range(_ROOM):
        desk.say(f"p{i}")
    assert desk.outbox.owed == {"page": _ROOM}
    keys = [leg.note.key for leg in desk.outbox._queues["page"].legs]
    assert "word" not in keys
    await desk.die()


# ---- events: for ways that are choosy, off the journal


class Choosy(Way):
    """A way that wants events of some names, and keeps what it was told."""

    def __init__(self, *events):
        super().__init__()
        self.events = events
        self.notes = []

    def wants(self, note):
        return note.event in self.events

    async def notify(self, note):
        await super().notify(note)
        self.notes.append(note)


def incident(*turns, severity="page"):
    state = turns[-1][1]
    return {
        "id": "i1", "severity": severity, "title": "it is slow", "opened": turns[0][0], "state": state,
        "turns": [
            {"ts": ts, "event": event, "state": "open", "by": "ann", "why": "mine"} for ts, event in turns
        ],
    }  # fmt: skip


def live(desk, kind, subject, body):
    desk.outbox.wrote(desk.journal.append(kind, subject, body, desk.now))


async def test_turns_reach_who_wants_them_once_and_no_other_way(tmp_path):
    choosy, plain = Choosy("acknowledged", "resolved"), Way()
    desk = Desk(tmp_path, {"choosy": choosy, "plain": plain})
    t = desk.now
    life = [(t, "opened"), (t + 1, "acknowledged"), (t + 2, "resolved")]
    for n in (1, 2, 2, 3, 3):  # an incident is written more often than it turns
        live(desk, "incident", "i1", incident(*life[:n]))
    await desk.until(lambda: len(choosy.notes) == 2)
    assert [n.event for n in choosy.notes] == ["acknowledged", "resolved"]
    assert choosy.notes[0].text == "acknowledged by ann: mine"
    assert choosy.notes[0].incident == "i1"
    assert plain.told == []
    await desk.die()


async def test_turns_that_were_not_told_before_a_crash_are_told_after_it_in_order(tmp_path):
    first = Choosy("acknowledged", "resolved")
    first.troubles = [None, "hang"]
    desk = Desk(tmp_path, {"pd": first})
    t = desk.now
    life = [(t, "opened"), (t + 1, "acknowledged"), (t + 2, "resolved"), (t + 3, "reopened")]
    for n in (2, 3):
        live(desk, "incident", "i1", incident(*life[:n]))
    await desk.until(lambda: not first.troubles)
    await desk.die()
    second = Choosy("acknowledged", "resolved", "reopened")
    desk = Desk(tmp_path, {"pd": second})
    live(desk, "incident", "i1", incident(*life))
    await desk.until(lambda: len(second.notes) == 2)
    assert [n.event for n in second.notes] == ["resolved", "reopened"]
    await desk.die()


async def test_what_leaves_is_filled_with_what_is_known_then(tmp_path):
    way = Way()
    desk = Desk(tmp_path, {"page": way})
    seen = []
    desk.outbox._fill = lambda note: seen.append(note.key) or note
    desk.say("a")
    await desk.until(lambda: way.told == ["a"])
    assert seen == ["a"]
    await desk.die()


async def test_a_way_that_came_with_a_reload_is_owed_what_comes_also_over_a_crash(tmp_path):
    desk = Desk(tmp_path, {})
    first = Way("hang")
    desk.ways["page"] = first
    desk.say("a")
    await desk.until(lambda: not first.troubles)
    await desk.die()
    second = Way()
    desk = Desk(tmp_path, {"page": second})
    await desk.until(lambda: second.told == ["a"])
    await desk.die()


async def test_a_start_reads_no_more_of_what_was_told_than_is_still_owed(tmp_path):
    way = Way()
    desk = Desk(tmp_path, {"page": way})
    for n in range(300):
        desk.journal.append("told", f"old{n}", {"by": "page"}, desk.now - KEEP_S - 10.0)
    await desk.die()
    desk = Desk.__new__(Desk)
    desk.journal, desk.ways, desk.now = (
        Journal(tmp_path / "journal.sqlite"),
        {"page": way},
        time.time(),
    )
    desk.outbox = Outbox(desk.journal.append, lambda: desk.ways, lambda: desk.now)
    seen = []
    real = desk.journal.read

    def read(*args, **more):
        for entry in real(*args, **more):
            seen.append(entry.kind)
            yield entry

    desk.journal.read = read
    desk.outbox.restore(desk.journal)
    assert seen.count("told") < 5
    desk.say("new")
    await desk.until(lambda: way.told == ["new"])
    await desk.die()


async def test_a_way_that_was_told_something_before_it_had_a_mark_keeps_what_it_is_owed(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    now = time.time()
    journal.append("told", "first", {"by": "page"}, now - 100.0)
    journal.append(
        "note", "owed", pack(Note("owed", now - 50.0, "page", "t", "x", "i")), now - 50.0
    )
    journal.close()
    way = Way()
    desk = Desk(tmp_path, {"page": way})
    await desk.until(lambda: way.told == ["owed"])
    marks = list(desk.journal.read(("told",), ""))
    assert [(m.body["by"], m.ts) for m in marks] == [("page", now - 100.0)]
    await desk.die()


# ---- routes, quiet hours, how many


class Paced(Desk):
    """The same with people, and a clock that the test sets."""

    def __init__(self, folder, ways, people, withheld=lambda _: "", now=NOON):
        self.journal = Journal(folder / "journal.sqlite")
        self.ways = ways
        self.now = now
        router = Router(People.model_validate({"timezone": "UTC", **people}), withheld=withheld)
        self.outbox = Outbox(
            self.journal.append, lambda: self.ways, lambda: self.now, router=router
        )
        self.outbox.restore(self.journal)

    def pass_to(self, now):
        """Let time pass; whoever waits looks again."""
        self.now = now
        for queue in self.outbox._queues.values():
            queue.news.set()

    async def calm(self):
        for _ in range(20):
            await asyncio.sleep(0)


class Ear(Way):
    """Keeps the notes whole."""

    async def notify(self, note):
        await super().notify(note)
        self.notes = [*getattr(self, "notes", []), note]


async def test_a_note_goes_where_the_routes_say_and_its_channel_with_it(tmp_path):
    mail, slack = Ear(), Ear()
    routes = [
        {
            "when": "severity == 'page'",
            "to": [{"way": "slack", "channel": "#a"}, {"way": "slack", "channel": "#b"}],
        }
    ]
    desk = Paced(tmp_path, {"mail": mail, "slack": slack}, {"routes": routes})
    desk.say("a")
    await desk.until(lambda: len(slack.told) == 2)
    assert (mail.told, [n.channel for n in slack.notes]) == ([], ["#a", "#b"])
    by = [e.body["by"] for e in desk.journal.read(("told",), "a")]
    assert by == ["slack/#a", "slack/#b"]
    await desk.die()


async def test_what_waits_for_quiet_hours_comes_as_one_when_they_end_also_over_a_crash(tmp_path):
    people = {"quiet": {"from": "22:00", "to": "07:00"}}
    way, night, morning = Ear(), NOON + 11 * 3600, NOON + 19 * 3600
    desk = Paced(tmp_path, {"slack": way}, people, now=night)
    desk.say("a", "warning")
    desk.say("p", "page")
    desk.say("b", "note")
    await desk.until(lambda: way.told == ["p"])
    await desk.calm()
    await desk.die()
    again = Ear()
    desk = Paced(tmp_path, {"slack": again}, people, now=morning - 60)
    await desk.calm()
    assert (again.told, desk.outbox.owed) == ([], {"slack": 2})
    desk.pass_to(morning)
    await desk.until(lambda: again.told)
    (one,) = again.notes
    assert (one.key, one.severity) == ("together:slack:a", "warning")
    assert one.text.splitlines() == ["warning: it is slow (i1)", "note: it is slow (i1)"]
    assert desk.outbox.owed == {}
    kept = {e.subject: e.body.get("in") for e in desk.journal.read(("told",)) if e.subject}
    assert kept == {"a": "together:slack:a", "p": None, "b": "together:slack:a"}
    await desk.die()


async def test_one_that_waited_alone_comes_as_it_is(tmp_path):
    way = Ear()
    desk = Paced(tmp_path, {"slack": way}, {"quiet": {"from": "11:00", "to": "13:00"}})
    desk.say("a", "warning")
    await desk.calm()
    desk.pass_to(NOON + 3600)
    await desk.until(lambda: way.told == ["a"])
    await desk.die()


async def test_what_is_over_the_limit_is_folded_and_pages_are_not(tmp_path):
    way = Ear()
    desk = Paced(tmp_path, {"slack": way}, {"ways": {"slack": {"most": 2}}})
    for i in range(6):
        desk.say(f"w{i}", "warning")
    desk.say("p", "page")
    await desk.until(lambda: way.told == ["w0", "w1", "p"])
    await desk.calm()
    assert desk.outbox.owed == {"slack": 4}
    desk.pass_to(NOON + 3601)
    await desk.until(lambda: len(way.told) == 4)
    assert way.notes[-1].title == "4 messages as one, the worst: it is slow"
    assert desk.outbox.owed == {}
    await desk.die()


async def test_what_was_sent_in_the_hour_before_a_restart_counts(tmp_path):
    people = {"ways": {"slack": {"most": 2}}}
    first = Ear()
    desk = Paced(tmp_path, {"slack": first}, people)
    for key in "ab":
        desk.say(key, "warning")
    await desk.until(lambda: first.told == ["a", "b"])
    await desk.die()
    again = Ear()
    desk = Paced(tmp_path, {"slack": again}, people, now=NOON + 60)
    desk.say("c", "warning")
    await desk.calm()
    assert again.told == []
    desk.pass_to(NOON + 3602)
    await desk.until(lambda: again.told == ["c"])
    await desk.die()


async def test_a_channel_has_a_limit_of_its_own(tmp_path):
    way = Ear()
    people = {
        "routes": [{"when": "owner == 'x'", "to": [{"way": "slack", "channel": "#x"}]}, {"to": ["slack"]}],
        "ways": {"slack": {"channels": {"#x": 1}}},
    }  # fmt: skip
    desk = Paced(tmp_path, {"slack": way}, people)
    for key, owner in (("a", "x"), ("b", "x"), ("c", "y")):
        desk.say(key, "warning", owner=owner)
    await desk.until(lambda: set(way.told) == {"a", "c"})
    await desk.calm()
    assert desk.outbox.owed == {"slack/#x": 1}
    await desk.die()


async def test_a_storm_of_pages_becomes_one_within_a_minute_and_none_is_lost(tmp_path):
    way = Ear()
    desk = Paced(tmp_path, {"slack": way}, {})
    for i in range(100):
        desk.say(f"p{i}", "page")
    await desk.until(lambda: len(way.told) == 10)
    await desk.calm()
    desk.pass_to(NOON + 61)
    await desk.until(lambda: len(way.told) == 11)
    one = way.notes[-1]
    assert (one.severity, one.title) == ("page", "90 messages as one, the worst: it is slow")
    assert one.text.splitlines()[-1] == "and 70 more"
    assert {key for key, _ in told(desk.journal)} == {f"p{i}" for i in range(100)}
    assert desk.outbox.owed == {}
    await desk.die()


async def test_a_summary_that_was_not_taken_is_sent_again_with_the_same_key(tmp_path):
    way = Ear(None, Unavailable("no line"))
    desk = Paced(tmp_path, {"slack": way}, {"ways": {"slack": {"most": 1}}})
    for key in "abc":
        desk.say(key, "warning")
    await desk.until(lambda: way.told == ["a"])
    await desk.calm()
    desk.pass_to(NOON + 3601)
    await desk.until(lambda: way.told == ["a", "together:slack:b"])
    await desk.die()


async def test_a_page_of_before_the_clock_was_set_right_is_not_too_old(tmp_path):
    """A machine that wakes up years ago: what broke at its start is told when the network, and the time, are there."""
    way = Ear(*[Unavailable("no line")] * 3)
    desk = Paced(tmp_path, {"slack": way}, {})
    desk.say("p")
    await desk.until(lambda: len(way.troubles) < 3)
    for jump in (1e8, -3600.0):
        desk.now += jump
        desk.outbox.rebase(jump, desk.now)
    await desk.until(lambda: way.told == ["p"])
    await desk.calm()
    assert told(desk.journal) == [("p", "")]
    assert desk.outbox.owed == {}
    await desk.die()


async def test_what_went_before_a_clock_was_set_back_takes_no_room_for_hours(tmp_path):
    way = Ear()
    desk = Paced(tmp_path, {"slack": way}, {})
    for i in range(10):
        desk.say(f"p{i}")
    await desk.until(lambda: len(way.told) == 10)
    desk.now += 600.0
    desk.now -= 3 * 3600.0
    desk.outbox.rebase(-3 * 3600.0, desk.now)
    desk.say("p10")
    await desk.until(lambda: way.told[-1] == "p10")
    await desk.die()


async def test_quiet_hours_are_those_of_the_clock_that_was_set(tmp_path):
    way = Ear()
    people = {"quiet": {"from": "11:00", "to": "14:00"}}
    desk = Paced(tmp_path, {"slack": way}, people)
    desk.say("w", "warning")
    await desk.calm()
    desk.now += 3600.0
    desk.outbox.rebase(3600.0, desk.now)
    await desk.calm()
    assert way.told == []
    desk.now += 8 * 3600.0
    desk.outbox.rebase(8 * 3600.0, desk.now)
    await desk.until(lambda: way.told == ["w"])
    await desk.die()


async def test_what_somebody_has_put_off_is_told_to_nobody_and_that_is_on_record(tmp_path):
    way = Ear()
    desk = Paced(
        tmp_path, {"slack": way}, {}, withheld=lambda n: "put off by olga" if n.key == "a" else ""
    )
    desk.say("a")
    desk.say("b")
    await desk.until(lambda: way.told == ["b"])
    (kept,) = desk.journal.read(("told",), "a")
    assert kept.body == {"by": "slack", "withheld": "put off by olga"}
    await desk.die()
    again = Ear()
    desk = Paced(tmp_path, {"slack": again}, {})
    await desk.calm()
    assert again.told == []
    await desk.die()


async def test_what_waited_through_quiet_hours_is_worth_delivering_as_long_as_anything(tmp_path):
    way = Ear(*[Unavailable("no line")] * 3)
    people = {"quiet": {"from": "11:00", "to": "20:00"}}
    desk = Paced(tmp_path, {"slack": way}, people)
    desk.say("a", "warning")
    await desk.calm()
    desk.pass_to(NOON + 8 * 3600 + 5 * 3600)
    await desk.until(lambda: way.told == ["a"])
    await desk.die()


async def test_what_is_owed_to_a_way_that_is_made_anew_waits_for_it(tmp_path):
    desk = Desk(tmp_path, {"mail": Way(*[Unavailable("no")] * 2)})
    desk.outbox._meant = {"mail"}.__contains__
    desk.say("page:i1:0")
    await desk.until(lambda: "mail" in desk.outbox.owed)
    desk.ways = {}  # a reload has taken the old one, and the new one is not there yet
    await desk.until(lambda: "made anew" in str(desk.outbox.faults()))
    assert told(desk.journal) == []
    new = Way()
    desk.ways = {"mail": new}
    await desk.until(lambda: new.told == ["page:i1:0"])
    await desk.until(lambda: told(desk.journal) == [("page:i1:0", "")])
    assert desk.outbox.away() == []
    await desk.die()


async def test_since_when_and_for_how_many_notes_a_way_is_away(tmp_path):
    desk = Desk(tmp_path, {"mail": Way(*[Unavailable("no answer")] * 1000)})
    desk.say("a")
    desk.say("b")
    await desk.until(desk.outbox.away)
    (one,) = desk.outbox.away()
    assert (one.connector, one.what, one.why, one.waiting) == ("mail", "notes", "no answer", 2)
    assert one.for_s >= 0.0
    await desk.die()
