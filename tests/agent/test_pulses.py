"""Heartbeats out: only while ticks end and the journal takes entries, and nobody waits for one that hangs."""

import asyncio
import sqlite3

import pytest

from agent.errors import Unavailable
from agent.journal import Journal
from agent.pulses import Pulses


class Pulse:
    """One that hears, fails or hangs as it is told."""

    def __init__(self, pulse_s):
        self.pulse_s = pulse_s
        self.heard = []
        self.trouble = None

    async def beat(self, ts):
        if self.trouble == "hang":
            await asyncio.Event().wait()
        if self.trouble:
            raise self.trouble
        self.heard.append(ts)


class World:
    """A clock, a disk and pulses."""

    def __init__(self, **pulses):
        self.now, self.well, self.all = 0.0, True, pulses
        self.tasks = []
        self.pulses = Pulses(lambda: self.all, lambda: self.well, self.spawn, lambda: self.now)

    def spawn(self, work, what):
        self.tasks.append(asyncio.create_task(work, name=what))

    async def tick(self, by=1.0):
        self.now += by
        self.pulses.tick(1000 + self.now)
        for _ in range(3):
            await asyncio.sleep(0)

    def close(self):
        for task in self.tasks:
            task.cancel()


async def test_each_beats_in_its_own_rhythm():
    fast, slow = Pulse(2), Pulse(10)
    world = World(fast=fast, slow=slow)
    for _ in range(11):
        await world.tick()
    assert fast.heard == [1001, 1003, 1005, 1007, 1009, 1011]
    assert slow.heard == [1001, 1011]


async def test_no_beat_while_the_journal_takes_nothing_and_one_at_once_after():
    pulse = Pulse(5)
    world = World(hb=pulse)
    await world.tick()
    world.well = False
    for _ in range(20):
        await world.tick()
    assert pulse.heard == [1001]
    world.well = True
    await world.tick()
    assert pulse.heard == [1001, 1022]


async def test_one_that_fails_is_named_and_one_that_hangs_holds_up_no_other():
    bad, hangs, good = Pulse(1), Pulse(1), Pulse(1)
    bad.trouble, hangs.trouble = Unavailable("no line"), "hang"
    world = World(bad=bad, hangs=hangs, good=good)
    for _ in range(3):
        await world.tick()
    assert len(good.heard) == 3
    assert len([t for t in world.tasks if t.get_name() == "heartbeat hangs"]) == 1
    assert world.pulses.faults() == ["bad: the heartbeat did not arrive (no line)"]
    bad.trouble = None
    await world.tick()
    assert world.pulses.faults() == []
    bad.trouble = Unavailable("no line")
    await world.tick()
    del world.all["bad"]
    await world.tick()
    assert world.pulses.faults() == []
    world.close()


def test_the_journal_proves_that_the_disk_takes_a_write(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.append("daemon", "started", {}, 1.0)
        wal = path.with_name(path.name + "-wal")
        before = wal.stat().st_size
        assert journal.proven()
        assert wal.stat().st_size > before  # it was a write indeed
        assert journal.verify() == []
        assert len(list(journal.read(("daemon",)))) == 1
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # nobody else gets to write
        assert not journal.proven()
        other.execute("ROLLBACK")
        other.close()
        assert journal.proven()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr("agent.journal._BUSY_MS", 50)
