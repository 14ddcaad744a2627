"""The benchmark of forecasts counts what it says it counts."""

import math

import numpy as np
import pytest
from forecast import (
    FILLS,
    LEADS_S,
    LEVELS,
    LINE,
    STEADY,
    US,
    Tally,
    _count,
    line,
    ratio,
    screen_cost,
)

HOUR = 3600.0
HORIZON = 3.0 * LEADS_S[-1]


def counted(truth, ours, straight):
    tally = Tally()
    _count(tally, truth, np.asarray(ours, dtype=float), straight, HORIZON)
    return tally


def around(left_s, share=0.2):
    return [left_s * (1 - share / 2 + share * level) for level in LEVELS]


def test_the_line_is_a_least_squares_line_over_its_window():
    t = np.arange(-48 * HOUR, 0.0, 30.0)
    rising = 0.5 + 0.5 / (10 * HOUR) * (t - t[-1])
    assert line(t, rising) == pytest.approx(10 * HOUR)
    kinked = np.where(t < -6 * HOUR - 60, 0.1, rising)
    assert line(t, kinked) == pytest.approx(10 * HOUR, rel=1e-3)
    assert math.isinf(line(t, -rising))


def test_a_fill_that_is_told_in_time_is_found_and_not_false():
    tally = counted(1.9 * HOUR, around(1.9 * HOUR), 1.9 * HOUR)
    assert tally.found[US] == tally.found[LINE] == [True, True]
    assert tally.false[US] == []
    assert tally.inside80 == tally.inside95 == [True]
    assert tally.error[US][0] == pytest.approx(0.0, abs=0.01)


def test_what_is_told_and_does_not_come_is_false_for_each_lead():
    tally = counted(math.inf, around(2 * HOUR), 20 * HOUR)
    assert tally.false[US] == [True, True]
    assert tally.false[LINE] == [False, True]
    assert tally.found[US] == tally.inside80 == []


def test_a_truth_outside_the_interval_is_counted_as_such():
    tally = counted(10 * HOUR, around(20 * HOUR), math.inf)
    assert tally.inside80 == tally.inside95 == [False]
    assert tally.error[LINE][0] == pytest.approx(math.log(HORIZON / (10 * HOUR)))


def test_every_set_fills_or_does_not_as_it_says():
    t = np.arange(-HOUR, 9 * 24 * HOUR, 30.0)
    for name, make in {**FILLS, **STEADY}.items():
        y = [make(t, np.random.default_rng([3, i])) for i in range(3)]
        reached = [bool((one[t > 0] >= 1.0).any()) for one in y]
        assert all(reached) if name in FILLS else not any(reached), name


def test_ratios_of_nothing_are_left_out_and_standing_still_costs_little():
    assert ratio(1.0, 0.0) == ratio(math.nan, 1.0) == "-"
    assert ratio(1.0, 4.0) == "0.25x"
    assert screen_cost(10) < 100.0
