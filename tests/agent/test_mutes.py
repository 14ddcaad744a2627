"""Silences in both directions: what holds there holds here and the other way round, over ends, deletes and restarts."""

import itertools

import pytest

from agent.codec import pack
from agent.errors import Refused, Unavailable
from agent.journal import Entry
from agent.memory import Memory, Silence
from agent.model import Entity
from agent.mutes import Mutes
from agent.ports import Mute, Muting

SHOP = Entity("service", "shop")


class There:
    """An Alertmanager in memory."""

    muting = True

    def __init__(self):
        self.all: dict[str, Mute] = {}
        self.wrong = None
        self.calls = []
        self._ids = map(str, itertools.count(1))

    def put(self, key="", targets=("service:shop",), until=5000.0, active=True):
        id_ = next(self._ids)
        self.all[id_] = Mute(id_, key, targets, until, "ann", "deploy", active)
        return id_

    def end(self, id_, at):
        old = self.all[id_]
        self.all[id_] = Mute(id_, old.key, old.targets, at, old.by, old.reason, active=False)

    async def mutes(self):
        if self.wrong:
            raise self.wrong
        return [m for m in self.all.values() if m.active or m.key]

    async def silence(self, key, target, until, by, reason):
        if target.startswith("model:"):
            raise Refused("alerts have no label for it")
        self.calls.append(("silence", key, target, until, by, reason))
        self.put(key, (target,), until)

    async def unmute(self, id_):
        self.calls.append(("unmute", id_))
        self.end(id_, self.now)

    async def unsilence(self, key):
        self.calls.append(("unsilence", key))
        for id_, m in self.all.items():
            if m.key == key and m.active:
                self.end(id_, self.now)


class Both:
    def __init__(self):
        self.there, self.memory, self.now = There(), Memory(), 1000.0
        assert isinstance(self.there, Muting)
        self._seq = itertools.count(1)
        self.written = []
        self._work = []
        self.again()

    def again(self):
        """Begin as after a restart."""
        self.mutes = Mutes(
            lambda: {"am": self.there},
            self.memory,
            self.record,
            lambda w, _: self._work.append(w),
            lambda: self.now,
        )

    def record(self, kind, subject, body, ts):
        entry = Entry(next(self._seq), ts, kind, subject, body, "", "")
        self.memory.apply(entry)
        self.written.append((subject, body))
        self.mutes.wrote(entry)

    def ours(self, id_="sil-1", target="service:shop", until=5000.0, cause=""):
        self.record(
            "silence",
            id_,
            pack(Silence(id_, target, until, "bob", "work", cause, self.now)),
            self.now,
        )

    async def look(self, after=20.0):
        self.now += after
        self.there.now = self.now
        self.mutes.tick(self.now)
        work, self._work = self._work, []
        for one in work:
            await one


@pytest.fixture
def both():
    return Both()


async def test_theirs_keep_our_hands_off_until_they_end(both):
    id_ = both.there.put()
    await both.look()
    held = both.memory.silenced(SHOP, both.now)
    assert (held.by, held.until, held.reason) == ("ann (am)", 5000.0, "deploy")
    await both.look()
    both.again()
    await both.look()
    assert len(both.written) == 1, "once, also after a restart"
    both.there.all[id_] = Mute(id_, "", ("service:shop",), 6000.0, "ann", "deploy")
    await both.look()
    assert both.memory.silenced(SHOP, 5500.0) is not None
    both.there.end(id_, both.now)
    await both.look()
    assert both.memory.silenced(SHOP, both.now) is None
    assert both.written[-1][1]["ended_by"] == "am"
    assert both.there.calls == [], "theirs are not told to them again"


async def test_theirs_that_is_ended_here_is_ended_there(both):
    id_ = both.there.put()
    await both.look()
    ((known, body),) = both.written
    both.record("silence", known, {**body, "until": both.now}, both.now)
    await both.look()
    await both.look()
    assert both.there.calls == [("unmute", id_)]
    assert both.memory.silenced(SHOP, both.now) is None
    assert len(both.written) == 2


async def test_ours_are_told_there_once_with_target_and_end(both):
    both.ours()
    await both.look()
    both.again()
    await both.look()
    assert both.there.calls == [("silence", "sil-1", "service:shop", 5000.0, "bob", "work")]
    both.ours(until=8000.0)
    await both.look()
    assert both.there.calls[1:] == [
        ("unsilence", "sil-1"),
        ("silence", "sil-1", "service:shop", 8000.0, "bob", "work"),
    ]
    await both.look()
    assert len(both.there.calls) == 3


async def test_what_is_ended_here_is_ended_there(both):
    both.ours()
    await both.look()
    both.ours(until=both.now)
    await both.look(0.5)
    assert both.there.calls[-1] == ("unsilence", "sil-1"), "at once, not at the next look"
    await both.look()
    assert [c[0] for c in both.there.calls] == ["silence", "unsilence"]


async def test_what_is_ended_there_is_ended_here(both):
    both.ours()
    await both.look()
    (id_,) = both.there.all
    both.there.end(id_, both.now)
    await both.look()
    assert both.memory.silenced(SHOP, both.now) is None
    await both.look()
    assert [c[0] for c in both.there.calls] == ["silence"]


async def test_one_that_cannot_be_told_there_is_said_once_and_holds_up_no_other(both):
    both.ours("sil-1", "model:fraud")
    both.ours("sil-2", cause="host.disk")
    both.ours("sil-3")
    await both.look()
    await both.look()
    assert [c[1] for c in both.there.calls] == ["sil-3"]
    assert both.mutes.faults() == []


async def test_silence_of_the_other_side_ends_nothing(both):
    both.there.put()
    await both.look()
    both.there.wrong = Unavailable("no connection")
    await both.look()
    assert both.memory.silenced(SHOP, both.now) is not None
    assert both.mutes.faults() == ["am: its silences are not known (no connection)"]
    both.there.wrong = None
    await both.look()
    assert both.mutes.faults() == []
