"""The present: unknown is None, never zero; the clock may jump."""

import numpy as np
import pytest

from agent.model import Entity, Frame, Series, Sighting
from agent.world import World

H = Entity("host", "h")
CPU = Series("host.cpu_busy_ratio", H)
LOAD = Series("host.load1_count", H)
TABLE = (CPU, LOAD)


def frame(ts: float, *values: float, table=TABLE, source="host") -> Frame:
    return Frame(source, ts, table, np.array(values, dtype=float))


@pytest.fixture
def world() -> World:
    world = World(patience={"host": 4.0}, trusts={"host": "local"})
    world.take(frame(100.0, 0.5, 1.0))
    return world


def test_newest_value_is_known(world):
    world.take(frame(101.0, 0.6, 2.0))
    assert world.value("host.cpu_busy_ratio", H) == 0.6
    assert world.trust(CPU) == "local"


def test_nan_is_unknown_not_the_last_value(world):
    world.take(frame(101.0, np.nan, 2.0))
    assert world.get(CPU) is None
    assert world.get(LOAD) == 2.0


def test_what_two_tell_is_known_while_one_of_them_does(world):
    world.take(frame(101.0, 0.7, table=(CPU,), source="prometheus"))
    assert world.get(CPU) == 0.7
    world.take(frame(102.0, np.nan, table=(CPU,), source="prometheus"))
    world.take(frame(102.0, 0.6, 1.0))
    assert world.get(CPU) == 0.6, "who told it last has fallen silent"
    world.take(frame(103.0, np.nan, 1.0))
    assert world.get(CPU) is None
    world.drop("prometheus")
    world.take(frame(104.0, 0.5, 1.0))
    assert world.get(CPU) == 0.5


def test_stale_is_unknown(world):
    world.now = 104.5
    assert world.get(CPU) is None
    assert world.age(CPU) == pytest.approx(4.5)


def test_never_seen_is_unknown_and_untrusted(world):
    other = Series("host.cpu_busy_ratio", Entity("host", "x"))
    assert world.get(other) is None
    assert world.trust(other) == "untrusted"
    assert world.age(other) == float("inf")


def test_a_late_frame_does_not_undo_a_newer_one(world):
    world.take(frame(102.0, 0.9, 3.0))
    world.take(frame(101.0, 0.1, 1.0))
    assert world.get(CPU) == 0.9


def test_series_come_and_go_without_losing_the_others(world):
    swap = Series("host.swap_utilization_ratio", H)
    world.take(frame(101.0, 0.7, 0.0, table=(CPU, swap)))
    assert world.get(CPU) == 0.7
    assert world.get(swap) == 0.0
    assert world.get(LOAD) is None
    assert world.find("host.load1_count") == []


def test_a_clock_set_back_makes_nothing_stale(world):
    world.rebase(-3600.0)
    world.take(frame(100.0 - 3600.0 + 1.0, 0.8, 1.0))
    assert world.get(CPU) == 0.8
    assert world.age(CPU) < 4.0


def test_a_value_that_is_not_unique_is_unknown():
    world = World()
    a = Series("host.disk_utilization_ratio", H, (("mount", "/"),))
    b = Series("host.disk_utilization_ratio", H, (("mount", "/var"),))
    world.take(frame(1.0, 0.1, 0.9, table=(a, b)))
    assert world.value("host.disk_utilization_ratio", H) is None
    assert world.value("host.disk_utilization_ratio", H, {"mount": "/var"}) == 0.9


def test_sightings_reach_the_topology():
    world = World()
    world.take(Frame("host", 1.0, (), np.zeros(0), seen=(Sighting(H, (("cores", "2"),)),)))
    assert world.attrs(H)["cores"] == "2"


def test_a_series_that_nobody_tells_is_lost_only_while_no_source_is_blind(world):
    gone = Series("host.load1_count", Entity("host", "elsewhere"))
    assert not world.lost(gone), "nothing is known of any source"
    eyes = tuple(Series("source.blind", Entity("source", name)) for name in ("a", "b"))
    world.take(frame(world.now, 0.0, 1.0, table=eyes, source="self"))
    assert not world.lost(gone)
    world.take(frame(world.now + 1.0, 0.0, 0.0, table=eyes, source="self"))
    assert world.lost(gone)
    assert not world.lost(TABLE[0])
