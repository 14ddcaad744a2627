"""Chats: kept talking whatever happens to them, told what has changed, and asked of the routes where they may speak."""

import asyncio
from types import SimpleNamespace

import pytest
from desk_story import Story

from agent import web
from agent.chat import Chats
from agent.errors import Unavailable
from agent.ports import Note
from agent.routing import People, Router

NOISY, RUN = "inc-7f3a99e0", "run-22c0ffee"


class Parrot:
    """A chat that does what it is told: ends, fails, or listens."""

    def __init__(self, *ends):
        self.ends = list(ends)
        self.heard, self.talks, self.ended = [], 0, 0
        self.room = None

    async def talk(self, room):
        self.room = room
        self.talks += 1
        if self.ends:
            end = self.ends.pop(0)
            if end is None:
                return
            raise end
        room.well = True
        try:
            while True:
                self.heard += await room.touched()
        finally:
            self.ended += 1

    def troubles(self):
        return ["it is cold"] if self.room is not None and self.room.well else []


@pytest.fixture
def story(tmp_path):
    made = Story(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def made(story, monkeypatch):
    """The chats over a dictionary, with what they report."""
    monkeypatch.setattr("agent.chat._FIRST_S", 0.01)
    there, bugs = {}, []

    class Quiet:
        async def close(self):
            bugs.append("closed")

    chats = Chats(
        lambda: there, story.desk, story.hooks.record, Quiet(),
        bug=lambda where, error: bugs.append((where, repr(error))),
    )  # fmt: skip
    story.hooks.wrote.append(chats.wrote)
    return SimpleNamespace(chats=chats, there=there, bugs=bugs)


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


async def test_a_chat_hears_which_incidents_have_changed_each_once(story, made):
    made.there["p"] = parrot = Parrot()
    made.chats.turn()
    await until(lambda: parrot.room)
    for _ in range(100):
        story.hooks.record("label", NOISY, {"label": "real", "by": "x"}, story.now)
    story.hooks.record("pause", "*", {"by": "x"}, story.now)
    await until(lambda: parrot.heard)
    await asyncio.sleep(0.02)
    assert parrot.heard == [NOISY]
    await story.hooks.cancel(RUN, SimpleNamespace(signed="x"))
    await story.hooks.start(RUN, None)
    await until(lambda: len(parrot.heard) == 2)
    assert parrot.heard[1] == NOISY
    await made.chats.close()
    assert parrot.ended == 1
    assert made.bugs == ["closed"]


async def test_one_that_breaks_off_is_named_and_talks_again(made):
    made.there["p"] = parrot = Parrot(Unavailable("no way in; mend it"), ValueError("oops"), None)
    made.there["q"] = other = Parrot()
    made.chats.turn()
    await until(lambda: parrot.talks >= 1 and made.chats.faults())
    assert any("p: no way in; mend it" in fault for fault in made.chats.faults())
    await until(lambda: parrot.talks == 4)
    await until(lambda: made.chats.faults() == ["p: it is cold", "q: it is cold"])
    assert made.bugs == [("chat p", "ValueError('oops')")]
    assert other.talks == 1
    await made.chats.close()


async def test_a_reload_ends_one_that_is_gone_and_starts_one_that_is_new(made):
    made.there["p"] = old = Parrot()
    made.chats.turn()
    await until(lambda: old.talks)
    made.there["p"] = new = Parrot()
    made.chats.turn()
    made.chats.turn()
    await until(lambda: new.talks)
    assert (old.ended, new.talks) == (1, 1)
    made.there.clear()
    made.chats.turn()
    await until(lambda: new.ended)
    assert made.chats.faults() == []
    await made.chats.close()


async def test_what_was_remembered_is_there_after_a_restart_the_newest_word(story, made):
    made.there["p"] = parrot = Parrot()
    made.chats.turn()
    await until(lambda: parrot.room)
    parrot.room.remember(NOISY, {"ts": ""})
    parrot.room.remember(NOISY, {"ts": "1.1"})
    story.hooks.record("thread", f"other:{NOISY}", {"ts": "9"}, story.now)
    assert parrot.room.threads() == {NOISY: {"ts": "1.1"}}
    parrot.room.pressed("U1 (not known)", "approve", RUN, "refused: " + "x" * 1000)
    (press,) = story.hooks.journal.read(("press",))
    assert press.body["came"] == ("refused: " + "x" * 1000)[:300]
    assert press.body["by"] == "U1 (not known)"
    assert await parrot.room.touched(0.01) == []
    await made.chats.close()


@pytest.mark.parametrize(
    ("people", "withheld", "wanted"),
    [
        ({}, "", ("", 0.0)),
        ({"routes": [{"to": [{"way": "chat", "channel": "#wine"}]}]}, "", ("#wine", 0.0)),
        ({"routes": [{"to": ["mail"]}]}, "", None),
        ({"routes": [{"when": "severity == 'page'", "to": ["mail"]}, {"to": ["chat"]}]}, "", ("", 0.0)),
        ({"escalation": [{"after": "10m", "to": ["chat"]}]}, "", None),
        ({"escalation": [{"to": ["chat"]}]}, "", ("", 0.0)),
        ({}, "snoozed by olga", ("", 60.0)),
    ],
)  # fmt: skip
async def test_the_routes_say_where_a_chat_may_speak(story, people, withheld, wanted):
    """A page that is put off, or that the ladder calls in its own time, opens no thread beside it."""
    router = Router(People.model_validate(people), withheld=lambda _: withheld)
    parrot = Parrot()
    daemon = SimpleNamespace(
        outbox=SimpleNamespace(router=router), connectors=SimpleNamespace(of=lambda _: {"chat": parrot}),
        record=story.hooks.record, state=story.hooks.state, bug=lambda *_: None,
    )  # fmt: skip
    chats = web._chats(daemon, story.desk)
    chats.turn()
    await until(lambda: parrot.room)
    severity = "warning" if len(people.get("routes", ())) == 2 else "page"
    found = parrot.room.meant(Note("incident:x", 1000.0, severity, "t", "x", NOISY))
    await chats.close()
    assert found == (wanted if wanted is None else (wanted[0], 1000.0 + wanted[1]))
