"""How several series of others become one of ours, and in which unit."""

import math

import numpy as np
import pytest

from connectors._joined import fold_of, largest_of_each, unit_of


@pytest.mark.parametrize(
    ("signal", "fold"),
    [
        ("gpu.power_watts", "max"),
        ("gpu.clock_ratio", "min"),
        ("gpu.memory_used_bytes", "add"),
        ("replica.ready", "min"),
        ("replica.throttled_seconds_total", "add"),
        ("service.latency_p95_seconds", "max"),
    ],
)
def test_what_several_become(signal, fold):
    assert fold_of(signal) == fold


def test_the_largest_of_each_part_counts_and_what_is_unknown_only_where_all_are():
    part = np.array([0, 1, 0, 1, 2, 2, 0])
    x = np.array([5.0, math.nan, 7.0, 3.0, math.nan, math.nan, 7.0])
    counts = largest_of_each(part, x)
    assert [int(part[counts][i]) for i in range(3)] == [0, 1, 2]
    assert x[counts][:2].tolist() == [7.0, 3.0]
    assert math.isnan(x[counts][2])


@pytest.mark.parametrize(
    ("metric", "said", "unit", "scale"),
    [
        ("x_ms", "", "seconds", 1e-3),
        ("x_microseconds_sum", "", "seconds", 1e-6),
        ("x_bytes_total", "", "bytes", 1.0),
        ("x_milliseconds", "seconds", "seconds", 1.0),
        ("x", "By", "bytes", 1.0),
        ("x", "KiBy", "bytes", 1024.0),
        ("x_seconds", "requests", "", 1.0),
        ("x_seconds_count", "seconds", "", 1.0),
        ("seconds", "", "", 1.0),
        ("x_things", "", "", 1.0),
    ],
)
def test_units_as_declared_else_as_named(metric, said, unit, scale):
    assert unit_of(metric, said) == (unit, scale)
