"""Numbers for those who keep them: which, in what rhythm, and what happens when one does not take them."""

import math

import numpy as np
import pytest

from agent.errors import Refused, Unavailable
from agent.model import Entity, Frame, Series
from agent.ports import Sink
from agent.sinks import Numbers, Sinks
from agent.telemetry import Telemetry
from agent.world import World

SHOP = Entity("service", "shop")
RATIO, LATENCY = (
    Series("service.error_ratio", SHOP),
    Series("service.latency_p95_seconds", SHOP, (("route", "/a"),)),
)


class Kept:
    sink_s = 15.0

    def __init__(self, *globs):
        self.globs = globs
        self.tally = {"waiting": 0}
        self.took = []
        self.wrong = None

    def keeps(self, metric):
        return metric.startswith(self.globs)

    def heeds(self, series):
        return series == RATIO

    def take(self, ts, numbers):
        self.took.append((ts, numbers))
        self.tally["waiting"] += len(numbers)

    async def deliver(self):
        if self.wrong is not None:
            raise self.wrong
        self.tally["waiting"] = 0


class Stage:
    def __init__(self, sink):
        self.now, self.work, self.sink = 0.0, [], sink
        self.sinks = Sinks(
            lambda: {"kept": sink}, lambda work, _: self.work.append(work), lambda: self.now
        )

    async def tick(self, ts, at):
        self.now = at
        self.sinks.tick(ts, lambda _: {(("__name__", "x"),): 1.0})
        work, self.work = self.work, []
        for one in work:
            await one


def test_a_sink_is_given_what_it_keeps_the_same_as_metrics_and_scores_of_what_it_heeds():
    telemetry, world = Telemetry(0.0), World()
    telemetry.observe("homeostat_tick_seconds", 0.002)
    telemetry.set("homeostat_pages_last_week", 3.0)
    world.patience["probe"] = 10.0
    world.take(Frame("probe", 50.0, (RATIO, LATENCY), np.array([0.25, math.nan])))
    p = np.array([1e-4, 1e-9])
    numbers = Numbers(telemetry, world, lambda: [((RATIO, LATENCY), p)])
    sink = Kept("homeostat_service", "homeostat_pages_last_week", "homeostat_tick_seconds")
    assert isinstance(sink, Sink)
    got = {dict(labels)["__name__"]: (labels, value) for labels, value in numbers.of(sink).items()}
    assert got["homeostat_service_error_ratio"] == (
        (("__name__", "homeostat_service_error_ratio"), ("entity", "service:shop")), 0.25,
    )  # fmt: skip
    assert got["homeostat_pages_last_week"][1] == 3.0
    assert got["homeostat_tick_seconds_count"][1] == 1.0
    assert got["homeostat_series_score"] == (
        (("__name__", "homeostat_series_score"), ("entity", "service:shop"), ("signal", "service.error_ratio")),
        pytest.approx(4.0),
    )  # fmt: skip
    assert "homeostat_service_latency_p95_seconds" not in got, "what is unknown is left out"
    text = telemetry.render(world)
    for name, (labels, value) in got.items():
        if name != "homeostat_series_score" and "le" not in dict(labels):
            assert any(
                line.startswith(name) and float(line.split()[-1]) == value
                for line in text.splitlines()
            ), name
    p[0] = 0.0
    assert (
        max(v for k, v in numbers.of(sink).items() if ("__name__", "homeostat_series_score") in k)
        == 300.0
    )
    world.take(Frame("probe", 90.0, (RATIO, LATENCY), np.array([math.nan, math.nan])))
    assert "homeostat_service_error_ratio" not in {dict(k)["__name__"] for k in numbers.of(sink)}


async def test_it_is_handed_out_in_its_own_rhythm_and_delivered_beside():
    sink = Kept("")
    stage = Stage(sink)
    for second in range(31):
        await stage.tick(1000.0 + second, second)
    assert [ts for ts, _ in sink.took] == [1000.0, 1015.0, 1030.0]
    assert stage.sinks.faults() == []
    assert stage.sinks.tally() == {"kept": {"waiting": 0}}


async def test_what_fails_rests_longer_each_time_and_is_said_until_it_is_well():
    sink = Kept("")
    stage = Stage(sink)
    tries = []
    deliver = sink.deliver

    async def counted():
        tries.append(stage.now)
        await deliver()

    sink.deliver = counted
    sink.wrong = Unavailable("no connection")
    for second in range(40):
        await stage.tick(1000.0, second)
    assert tries == [0, 1, 3, 7, 15, 31]
    assert stage.sinks.faults() == ["kept: 3 samples wait (no connection)"]
    sink.wrong = Unavailable("429, not now", wait_s=100.0)
    for second in range(40, 170):
        await stage.tick(1000.0, second)
    assert tries[6:] == [63, 163]
    sink.wrong = None
    for second in range(170, 270):
        await stage.tick(1000.0, second)
    assert stage.sinks.faults() == []


async def test_what_can_never_be_taken_is_said_and_makes_no_pause():
    sink = Kept("")
    stage = Stage(sink)
    sink.wrong = Refused("400: it does not take this")
    await stage.tick(1000.0, 0)
    await stage.tick(1000.0, 1)
    assert stage.sinks.faults() == ["kept: 1 sample waits (400: it does not take this)"]

    def broken(ts, numbers):
        raise Refused("needs a library")

    sink.take, sink.tally = broken, {"waiting": 0}
    await stage.tick(1000.0, 16)
    assert "needs a library" in stage.sinks.faults()[0]
