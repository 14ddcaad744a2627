"""What expressions see: the nearest entity's signal, the worst of several, the ordinary past, None for unknown."""

import numpy as np
import pytest

from agent.model import Cause, Edge, Entity, Frame, Series, Sighting
from agent.scene import Scene
from agent.world import World

HOST, SHOP, MODEL = Entity("host", "h"), Entity("service", "shop"), Entity("model", "fraud")
GPUS = [Entity("gpu", f"G{i}") for i in range(4)]
TABLE = (
    Series("gpu.clock_ratio", GPUS[0]),
    *(Series("gpu.clock_ratio", g) for g in GPUS[1:]),
    Series("host.disk_utilization_ratio", HOST, (("mount", "/"),)),
    Series("host.disk_utilization_ratio", HOST, (("mount", "/var"),)),
    Series("service.latency_p95_seconds", SHOP),
)
ROW = np.array([0.5, 0.9, 1.0, 0.8, 0.2, 0.7, 0.3])


@pytest.fixture
def world():
    world = World(patience={"all": 5.0})
    for edge in (Edge("runs_on", SHOP, HOST), Edge("serves", SHOP, MODEL)):
        world.topology.link(edge)
    for gpu in GPUS:
        world.topology.link(Edge("runs_on", gpu, HOST))
    world.topology.take(Sighting(SHOP, (("owner", "ann"),)))
    world.take(Frame("all", 100.0, TABLE, ROW.copy()))
    return world


def test_a_signal_of_a_relative_is_found(world):
    assert Scene(world, MODEL)("service.latency_p95_seconds") == 0.3


def test_one_of_several_series_is_asked_for_by_its_labels(world):
    scene = Scene(world, HOST)
    root = scene.about("host.disk_utilization_ratio{mount=/}")
    assert root("value") == 0.2
    assert root("host.disk_utilization_ratio") == 0.7  # by its name it still is the worst
    assert scene.about("host.disk_utilization_ratio{mount=/nowhere}")("value") is None
    peer = Scene(world, GPUS[0]).about("gpu.clock_ratio{core=1}")
    assert (peer("value"), peer("peers.median"), peer("peers.count")) == (None, None, 0.0)


def test_several_series_give_the_worst(world):
    assert Scene(world, HOST)("host.disk_utilization_ratio") == 0.7


def test_one_unknown_series_makes_the_whole_unknown(world):
    row = ROW.copy()
    row[5] = np.nan
    world.take(Frame("all", 101.0, TABLE, row))
    assert Scene(world, HOST)("host.disk_utilization_ratio") is None


def test_stale_is_unknown(world):
    world.now = 106.0
    assert Scene(world, MODEL)("service.latency_p95_seconds") is None


def test_peers_do_not_include_oneself(world):
    scene = Scene(world, GPUS[0]).about("gpu.clock_ratio")
    assert scene("value") == 0.5
    assert scene("peers.median") == pytest.approx(0.9)
    assert scene("peers.count") == 3.0


def test_target_cause_facts_and_steps(world):
    cause = Cause("release.model", MODEL, 0.9, facts={"previous_version": "3"})
    scene = Scene(world, SHOP, cause=cause, steps={"train": {"version": "7"}})
    assert (scene("target.id"), scene("target.owner")) == ("service:shop", "ann")
    assert (scene("cause.kind"), scene("cause.probability")) == ("release.model", 0.9)
    assert scene("cause.previous_version") == "3"
    assert scene("steps.train.version") == "7"
    for name in (
        "cause.nothing",
        "steps.no.version",
        "target.colour",
        "no.such",
        "value",
        "peers.median",
    ):
        assert scene(name) is None


def test_baseline_is_the_median_before_and_unknown_when_short(world):
    def read(series, start, end):
        ts = np.arange(start, end)
        return ts, np.full((len(ts), len(series)), 0.25)

    scene = Scene(world, MODEL, read=read, since=50.0, baseline_s=20.0)
    assert scene("baseline.service.latency_p95_seconds") == 0.25
    assert (
        Scene(world, MODEL, read=read, since=50.0, baseline_s=3.0)(
            "baseline.service.latency_p95_seconds"
        )
        is None
    )
    assert Scene(world, MODEL, read=read)("baseline.service.latency_p95_seconds") is None


def test_what_was_ordinary_is_read_once_and_what_was_too_short_again(world):
    reads = []
    rows = np.array([[0.1], [0.2], [0.3]])

    def read(series, start, end):
        reads.append((start, end))
        return np.arange(float(len(rows))), rows

    usual = {}

    def ask(since):
        scene = Scene(world, MODEL, read=read, since=since, baseline_s=60.0, usual=usual)
        return scene("baseline.service.latency_p95_seconds")

    assert (ask(90.0), ask(90.0)) == (None, None)
    rows = np.array([[0.1], [0.2], [0.3], [0.4], [np.nan], [0.5]])
    assert (ask(90.0), ask(90.0), ask(90.0)) == (0.3, 0.3, 0.3)
    assert (ask(95.0), ask(95.0)) == (0.3, 0.3)
    assert reads == [(30.0, 90.0)] * 3 + [(35.0, 95.0)]
