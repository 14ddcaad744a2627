"""What can not be is unknown; what can be passes as it is, on the edge of it too."""

import math

import numpy as np
import structlog

from agent.catalogue import SIGNALS
from agent.model import Entity, Frame, Series
from agent.possible import Possible, reach

H = Entity("host", "h")


def table(*metrics):
    return tuple(Series(m, Entity(SIGNALS[m].entity_kind, "x")) for m in metrics)


def values(possible, series, *x):
    return possible.apply(Frame("s", 1.0, series, np.array(x, float))).values.tolist()


def test_shares_bytes_states_and_infinities():
    series = table("host.cpu_busy_ratio", "host.memory_bytes", "service.up", "host.load1_count")
    possible = Possible()
    assert np.isnan(values(possible, series, 1.4, -2.0, 2.0, math.inf)).all()
    fine = Frame("s", 1.0, series, np.array([1.0 + 1e-9, 0.0, 1.0, 1e9]))
    assert possible.apply(fine) is fine
    unknown = Frame("s", 1.0, series, np.full(4, np.nan))
    assert possible.apply(unknown) is unknown


def test_what_may_be_above_one_or_below_zero_is_left_alone():
    series = table(
        "host.cpu_utilization_ratio", "host.memory_commit_ratio", "service.busy_ratio", "process.nice_count",
        "host.time_offset_seconds", "feature.scale_ratio", "host.temperature_celsius",
    )  # fmt: skip
    frame = Frame("s", 1.0, series, np.array([1.02, 3.0, 1.5, -20.0, -3600.0, -4.0, -30.0]))
    assert Possible().apply(frame) is frame


def test_the_given_frame_is_left_as_it_was():
    frame = Frame("s", 1.0, table("host.cpu_busy_ratio"), np.array([7.0]))
    assert np.isnan(Possible().apply(frame).values).all()
    assert frame.values.tolist() == [7.0]


def test_it_is_said_when_it_begins_and_when_it_begins_again():
    possible, series = Possible(), table("host.cpu_busy_ratio", "host.memory_utilization_ratio")
    with structlog.testing.capture_logs() as logs:
        for row in ((7.0, 0.5), (7.0, 0.5), (7.0, 9.0), (0.5, 0.5), (7.0, 0.5)):
            values(possible, series, *row)
    assert [len(x["values"]) for x in logs] == [1, 1, 1]
    assert "memory_utilization_ratio" in logs[1]["values"][0]
    assert possible.refused == {"s": 5}


def test_a_new_table_has_its_own_bounds_and_says_nothing_twice():
    possible = Possible()
    with structlog.testing.capture_logs() as logs:
        values(possible, table("host.cpu_busy_ratio"), 7.0)
        values(possible, table("host.cpu_busy_ratio", "host.memory_bytes"), 7.0, 7.0)
    assert len(logs) == 1
    possible.forget("s")
    assert values(possible, table("host.memory_bytes"), 7.0) == [7.0]


def test_every_signal_has_a_range_that_can_be_said():
    for name, signal in SIGNALS.items():
        assert signal.least < signal.most, name
        assert reach(name)
    assert reach("host.cpu_busy_ratio") == "0 to 1"
    assert reach("host.memory_bytes") == "0 or more"
    assert reach("host.time_offset_seconds") == "any number"
    assert reach("process.nice_count") == "-20 to 19"
