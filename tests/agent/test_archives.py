"""Copies of the record: in order, from where each stands, however often it fails; a bug of one hurts nobody."""

import asyncio

import numpy as np
import pytest

from agent.archives import Archives
from agent.codec import pack
from agent.errors import Unavailable
from agent.journal import Journal
from agent.model import Decision, Entity, Gate, Run
from agent.ports import LabelBatch

SHOP = Entity("service", "shop")


class Kept:
    """An archive in memory; `fail` holds what the next calls raise."""

    def __init__(self, position=0, *fail):
        self.position = position
        self.fail = list(fail)
        self.got = []
        self.pages = []
        self.rows = []
        self.said = []
        self.stored = 0

    def count(self, rows):
        if self.rows is None:
            raise RuntimeError("a row: secret")
        self.rows.append(rows)

    async def keep(self, entries):
        self.pages.append(len(entries))
        if self.fail:
            raise self.fail.pop(0)
        self.got += entries
        if entries:
            self.position = entries[-1].seq
        return False

    async def store(self):
        self.stored += 1

    def troubles(self):
        return self.said


class Town:
    """A journal, archives, and a sleep that takes no time."""

    def __init__(self, folder):
        self.journal = Journal(folder / "journal.sqlite")
        self.built = {}
        self.waited = []
        self.decision = None
        self.asked = []

    def make(self, **built):
        self.built = built
        self.archives = Archives(self.journal, lambda: self.built, self.decided, self.sleep)
        self.archives.start()
        return self.archives

    def decided(self, *about):
        self.asked.append(about)
        return self.decision

    async def sleep(self, seconds):
        self.waited.append(seconds)
        await asyncio.sleep(0)

    def write(self, n=1, kind="change", body=None):
        for i in range(n):
            entry = self.journal.append(kind, "x", body or {"i": i}, 5.0)
            self.archives.wrote(entry)

    async def until(self, true):
        for _ in range(2000):
            if true():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it does not come")

    async def whole(self, archive):
        await self.until(lambda: archive.position == self.journal.head[0])


@pytest.fixture
async def town(tmp_path):
    made = Town(tmp_path)
    yield made
    await made.archives.close()
    made.journal.close()


async def test_entries_come_in_order_in_pages_from_where_it_stands(town):
    archive = Kept(position=3)
    town.make(a=archive)
    town.write(250)
    await town.whole(archive)
    assert [e.seq for e in archive.got] == list(range(4, 251))
    assert max(archive.pages) <= 100
    town.write(2)
    await town.whole(archive)
    assert [e.seq for e in archive.got[-2:]] == [251, 252]


async def test_what_is_not_taken_is_given_again_with_growing_pauses_and_said(town):
    away = [Unavailable("it is away") for _ in range(8)]
    archive, other = Kept(0, *away, Unavailable("wait", wait_s=120)), Kept()
    archives = town.make(a=archive, b=other)
    town.write(5)
    await town.whole(other)  # held up by nobody
    await town.until(lambda: town.waited[:2] == [1.0, 2.0])
    await town.whole(archive)
    # 1, 2, 4, 8, 16, 30, 30, 30 and 120 s, in pieces of 5 s, beside the second in which the other one gathers
    assert sum(town.waited) - 1.0 <= 241 <= sum(town.waited)
    assert max(town.waited) == 5.0
    assert archive.stored >= 45  # what it counted is on its disk all the time
    assert [e.seq for e in archive.got] == [1, 2, 3, 4, 5]
    assert archives.faults() == []


async def test_what_waits_is_a_fault_and_so_is_what_it_says_itself(town):
    archive = Kept(0, *(Unavailable("it is away") for _ in range(100_000)))
    archives = town.make(a=archive)
    archive.said = ["3 documents were refused"]
    town.write(7)
    await town.until(lambda: len(archive.pages) > 2)
    assert archives.faults() == [
        "a: 7 entries of the journal wait for it (it is away)",
        "a: 3 documents were refused",
    ]


async def test_another_journal_is_given_from_its_beginning(town):
    archive = Kept(position=5000)
    town.make(a=archive)
    town.write(3)
    await town.whole(archive)
    assert [e.seq for e in archive.got] == [1, 2, 3]


async def test_a_run_comes_with_the_gates_that_let_it_through(town):
    archive = Kept()
    town.make(a=archive)
    gates = (Gate("scope", True, "service:shop", "manages"),)
    town.decision = Decision(50.0, "p", SHOP, "i1", "auto", allowed=True, gates=gates)
    run = Run("r1", "p", SHOP, "i1", "auto", "acting", 60.0, 61.0, "h")
    town.write(1, "run", pack(run))
    await town.whole(archive)
    assert [g["name"] for g in archive.got[0].body["gates"]] == ["scope"]
    assert town.asked == [("p", "service:shop", "i1")]
    town.decision = Decision(99.0, "p", SHOP, "i1", "auto", allowed=True, gates=gates)
    town.write(1, "run", pack(run))  # that one is of a later run
    await town.whole(archive)
    assert "gates" not in archive.got[1].body


async def test_a_bug_of_one_is_tried_again_and_its_counting_hurts_nobody(town):
    archive, other = Kept(0, RuntimeError("boom")), Kept()
    archives = town.make(a=archive, b=other)
    town.write(2)
    await town.whole(archive)
    archive.rows = None
    rows = LabelBatch("m", np.array([1.0]), ("a",), ("1",))
    archives.count(rows)
    archives.count(rows)
    assert other.rows == [rows, rows]


async def test_one_that_comes_with_a_reload_begins_and_one_that_goes_ends(town):
    archive, other = Kept(), Kept()
    archives = town.make(a=archive)
    town.write(2)
    await town.whole(archive)
    town.built = {"b": other}
    archives.start()
    town.write(1)
    await town.whole(other)
    assert archive.position <= 3
    await town.until(lambda: list(archives._turns) == ["b"])
