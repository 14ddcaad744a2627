"""A source that throws, hangs, lies or costs too much hurts nobody but itself, and is seen to be blind."""

import asyncio
import math
import time

import numpy as np
import pytest
import structlog

from agent.collect import Collector, Health, patience_of
from agent.errors import Unavailable
from agent.model import Change, Entity, Frame, Series
from agent.ports import LabelBatch, PredictionBatch

H = Entity("host", "h")
LOAD = Series("host.load1_count", H)
TABLE = (Series("host.cpu_busy_ratio", H),)


class Good:
    interval_s = 0.02
    name = "good"

    async def poll(self):
        return Frame(self.name, 1.0, TABLE, np.array([0.5]))


class Throws(Good):
    name = "throws"

    def __init__(self, error):
        self.error = error
        self.asked = 0

    async def poll(self):
        self.asked += 1
        raise self.error


class Hangs(Good):
    name = "hangs"

    async def poll(self):
        await asyncio.sleep(3600)
        raise AssertionError


class Recovers(Good):
    name = "recovers"
    asked = 0

    async def poll(self):
        self.asked += 1
        if self.asked < 3:
            raise Unavailable("no answer yet")
        return await super().poll()


@pytest.fixture
async def collector():
    collector = Collector()
    yield collector
    await collector.close()


async def test_a_bug_in_one_source_leaves_the_others_alone_and_is_logged_once(collector):
    bad = Throws(ZeroDivisionError("oops"))
    with structlog.testing.capture_logs() as logs:
        collector.add("good", Good())
        collector.add("throws", bad)
        await asyncio.sleep(0.4)
    frames, _ = collector.drain()
    assert len([f for f in frames if f.source == "good"]) > 5
    assert bad.asked >= 3
    assert len([x for x in logs if x["event"] == "source_bug"]) == 1
    assert "ZeroDivisionError" in collector.health["throws"].error


async def test_failures_back_off_and_recovery_is_said(collector):
    with structlog.testing.capture_logs() as logs:
        collector.add("recovers", Recovers())
        await asyncio.sleep(0.4)
    assert collector.drain()[0]
    events = [x["event"] for x in logs]
    assert events.count("source_failed") == 1
    assert "source_back" in events
    assert collector.health["recovers"].error == ""


async def test_a_hanging_source_is_given_up_and_is_blind(collector):
    collector.add("hangs", Hangs())
    collector.add("good", Good())
    await asyncio.sleep(2.3)
    assert "no answer within" in collector.health["hangs"].error
    now = collector.clock() + 1.5
    assert collector.health["hangs"].blind(now)
    frame = collector.self_frame(now)
    blind = {
        s.entity.key: v
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "source.blind"
    }
    assert blind["hangs"] == 1.0
    ages = {
        s.entity.key: v
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "source.age_seconds"
    }
    assert np.isnan(ages["hangs"])


async def test_a_frame_under_a_wrong_name_is_refused(collector):
    collector.add("alias", Good())
    await asyncio.sleep(0.1)
    assert collector.drain()[0] == []
    assert "use the name it was given" in collector.health["alias"].error


async def test_nan_passes_as_nan(collector):
    class Nan(Good):
        name = "nan"

        async def poll(self):
            return Frame("nan", 1.0, TABLE, np.array([np.nan]))

    collector.add("nan", Nan())
    await asyncio.sleep(0.1)
    frames, _ = collector.drain()
    assert np.isnan(frames[0].values).all()
    assert collector.health["nan"].error == ""


async def test_what_can_not_be_is_unknown_counted_and_said_once(collector):
    class Absurd(Good):
        name = "absurd"

        async def poll(self):
            return Frame("absurd", 1.0, TABLE, np.array([1.4]))

    with structlog.testing.capture_logs() as logs:
        collector.add("absurd", Absurd())
        await asyncio.sleep(0.2)
    frames, _ = collector.drain()
    assert len(frames) > 3
    assert all(np.isnan(f.values).all() for f in frames)
    assert collector.possible.refused == {"absurd": len(frames)}
    (said,) = [x for x in logs if x["event"] == "impossible_values"]
    assert said["values"] == ["host.cpu_busy_ratio{host:h} = 1.4, possible is 0 to 1"]
    assert collector.health["absurd"].error == "", "the source answers: it is not blind"
    collector.push([Frame("pushed", 1.0, TABLE, np.array([-0.2]))])
    assert np.isnan(collector.drain()[0][-1].values).all()
    assert collector.possible.refused["pushed"] == 1


async def test_the_interval_stretches_when_polling_costs_more_than_its_share():
    class Dear(Good):
        name = "dear"

        async def poll(self):
            sum(i * i for i in range(200_000))
            return await super().poll()

    collector = Collector(cpu_budget=0.05)
    collector.add("dear", Dear())
    await asyncio.sleep(0.8)
    h = collector.health["dear"]
    await collector.close()
    assert h.stretched_s > 3 * h.interval_s
    assert h.cpu_ratio > 0.0


class Starts(Good):
    """Its first poll is dear, as one that imports is; from then on it costs nothing."""

    name = "starts"
    began = False

    async def poll(self):
        if not self.began:
            self.began = True
            sum(i * i for i in range(2_000_000))
        return await super().poll()


async def test_what_one_poll_costs_stretches_nothing():
    collector = Collector(cpu_budget=0.5)
    collector.add("starts", Starts())
    await asyncio.sleep(0.8)
    h = collector.health["starts"]
    await collector.close()
    assert h.stretched_s == h.interval_s
    assert h.asked > 10


async def test_dear_polls_stretch_the_interval_while_they_last_and_of_the_dear_source_alone():
    collector = Collector(cpu_budget=0.2)
    dear, cheap = Health("dear", 1.0), Health("cheap", 1.0)
    collector.health = {"dear": dear, "cheap": cheap, "pushed": Health("pushed", 0.0)}
    for cost in (0.1, 0.5, 0.5, 0.5):
        dear.cost(cost)
        cheap.cost(0.02)
    assert collector._stretch(cheap) == 1.0
    assert collector._stretch(dear) == pytest.approx((1.1 / 3) / (0.2 - 0.02)), (
        "it gets what the cheap one leaves"
    )
    for _ in range(10):
        dear.cost(0.1)
    assert collector._stretch(dear) == 1.0, "what was dear once is forgotten"


async def test_a_clock_that_was_set_blinds_nobody(collector):
    now = [1000.0]
    collector.clock = lambda: now[0]
    collector.add("good", Good())
    await asyncio.sleep(0.1)
    now[0] += 3600.0
    collector.rebase(3600.0, now[0])
    assert not collector.health["good"].blind(now[0])


class Counts(Good):
    """What a device elsewhere has counted, ten a second, while we sleep as well."""

    name = "counts"
    asleep_s = 0.0

    async def poll(self):
        now = time.time() + self.asleep_s
        counted = Series("host.network_received_bytes_total", H, (("interface", "eth0"),))
        return Frame(self.name, now, (counted,), np.array([10.0 * now]))


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
async def test_what_others_counted_while_the_machine_slept_is_no_leap(collector, monkeypatch):
    source = Counts()
    collector.add("counts", source)
    await asyncio.sleep(0.3)
    collector.drain()
    real = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 3600.0)
    source.asleep_s = 3600.0
    await asyncio.sleep(0.3)
    rates = [float(f.values[0]) for f in collector.drain()[0]]
    assert len(rates) > 2
    assert max(r for r in rates if not math.isnan(r)) < 100.0


async def test_that_we_were_not_let_run_is_nobodys_blindness():
    health = Health("metrics", 1.0, last_ok=100.0)
    collector = Collector(health={"metrics": health})
    assert health.blind(160.0)
    collector.held(59.0)
    assert not health.blind(160.0)
    assert health.blind(164.0), "from then on it is waited for as ever"
    collector.heard("pushed", 1.0, 100.0, 3, 100.0)
    collector.held(60.0)
    collector.heard("pushed", 1.0, 100.0 - 1e-4, 3, 161.0)
    assert not collector.health["pushed"].blind(161.0)
    collector.heard("pushed", 1.0, 162.0, 3, 162.0)
    assert collector.health["pushed"].blind(167.0)


class Log:
    """A log of which every reading gives a change and rows."""

    interval_s = 0.02

    def __init__(self):
        self.read_times = 0

    async def read(self):
        self.read_times += 1
        rows = LabelBatch("fraud", np.zeros(3), ("a", "b", "c"), ("1", "0", "1"))
        return [Change(1.0, H, "config", "", "b"), rows]


async def test_rows_of_a_log_are_counted_beside_the_inbox_before_it_is_read_on():
    go, counted = asyncio.Event(), []

    async def bulk(source, rows):
        await go.wait()
        counted.append((source, [len(batch.ids) for batch in rows]))

    collector, log = Collector(bulk=bulk), Log()
    collector.follow("log", log)
    await asyncio.sleep(0.1)
    assert (log.read_times, counted) == (1, [])
    frames, rest = collector.drain()
    assert (frames, [type(x) for x in rest]) == ([], [Change])
    closing = asyncio.create_task(collector.close())
    await asyncio.sleep(0.05)
    assert not closing.done()  # what was read is not given up: the log has moved on
    go.set()
    await closing
    assert counted == [("log.feed", [3])]


async def test_rows_that_can_not_be_counted_are_the_failure_of_their_log():
    async def bulk(source, rows):
        raise Unavailable("a bug in homeostat")

    collector, log = Collector(bulk=bulk), Log()
    collector.follow("log", log)
    await asyncio.sleep(0.1)
    assert collector.health["log.feed"].error == "a bug in homeostat"
    await collector.close()


class Covers(Recovers):
    name = "covers"
    covers = frozenset({LOAD})


class Cedes(Good):
    name = "cedes"

    def __init__(self):
        self.told = []
        self.rests_s = 0.0

    def cede(self, covered):
        self.told.append(covered)
        self.rests_s = 0.1 if covered else 0.0


async def test_a_source_is_told_what_others_cover_while_they_see(collector):
    covers, cedes = Covers(), Cedes()
    collector.add("covers", covers)
    collector.add("cedes", cedes)
    await asyncio.sleep(0.3)
    assert cedes.told[-1] == frozenset({LOAD})
    health = collector.health["cedes"]
    assert health.stretched_s == 0.1, "it is asked as seldom as it wants to be while others tell"
    assert health.patience_s == patience_of(0.1), "and stale no sooner"
    await collector.remove("covers")
    await asyncio.sleep(0.3)
    assert cedes.told[-1] == frozenset()
    assert health.stretched_s == health.interval_s


class Rows:
    """A log of predictions that may be away."""

    interval_s = 0.02

    def __init__(self):
        self.away = False

    async def read(self):
        if self.away:
            raise Unavailable("gone")
        nan, n = np.full(1, np.nan), np.ones(1)
        return (
            PredictionBatch("fraud", "1", n, ("a",), {}, np.array(["x"], dtype=object), nan, nan, nan, n),
        )  # fmt: skip


async def until(what):
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110  # many things are waited for
            await asyncio.sleep(0.005)


async def test_models_whose_log_is_away_are_known_until_it_has_caught_up(collector):
    log = Rows()
    collector.follow("rows", log)
    await until(lambda: collector.drain()[1])
    assert collector.unread(0.2) == set()
    log.away = True
    await until(lambda: collector.unread(0.2) == {"fraud"})
    log.away = False
    await until(lambda: not collector.away.told())
    assert collector.unread(60.0) == {"fraud"}
    await until(lambda: collector.unread(0.2) == set())
    await collector.remove("rows")
    assert collector.unread(60.0) == set()


class Deaf(Good):
    """Swallows the cancellation, as careless code does."""

    name = "deaf"
    asked = 0

    async def poll(self):
        self.asked += 1
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        return await super().poll()


async def test_one_that_does_not_hear_that_it_was_taken_out_is_not_asked_again(collector):
    deaf = Deaf()
    collector.add("deaf", deaf)
    await until(lambda: deaf.asked)
    await collector.remove("deaf")
    left = deaf.asked
    await asyncio.sleep(0.3)
    assert deaf.asked <= left + 1
    assert "deaf" not in collector.health
    assert collector.drain()[0] == [] or deaf.asked == left + 1
