"""Counters become rates in one place: resets, holes, clocks that jump, series that come and go."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import SIGNALS
from agent.model import Change, Entity, Frame, Series, Sighting
from agent.rates import Rates

HOST = Entity("host", "web-1")
BYTES = "host.network_received_bytes_total"
RATE = "host.network_received_bytes_per_second"


def counter(name: str) -> Series:
    return Series(BYTES, HOST, (("interface", name),))


def frame(
    ts: float, series: tuple[Series, ...], values: list[float], source: str = "host"
) -> Frame:
    return Frame(source, ts, series, np.array(values, dtype=np.float64))


def of(out: Frame, series: Series) -> float:
    return float(out.values[out.series.index(series)])


def test_a_counter_becomes_the_rate_of_its_definition():
    rates = Rates()
    table = (Series("host.load1_count", HOST), counter("eth0"))
    first = rates.apply(frame(100.0, table, [0.5, 1000.0]))
    second = rates.apply(frame(102.0, table, [0.7, 1500.0]))
    rate = Series(RATE, HOST, (("interface", "eth0"),))
    assert set(second.series) == {table[0], rate}
    assert np.isnan(of(first, rate))
    assert of(second, rate) == 250.0
    assert of(second, table[0]) == 0.7


def test_the_output_is_sorted_though_names_change_the_order():
    # cpu_seconds_total comes before load1 as a counter, cpu_utilization after cpu_busy as a rate
    table = tuple(
        sorted(
            [
                Series("host.cpu_busy_ratio", HOST),
                Series("host.cpu_seconds_total", HOST, (("mode", "user"),)),
                Series("host.disk_read_latency_seconds", HOST, (("device", "sda"),)),
                Series("host.disk_reads_total", HOST, (("device", "sda"),)),
                Series("host.disk_queue_seconds_total", HOST, (("device", "sda"),)),
                Series("host.disk_inodes_ratio", HOST, (("mount", "/"),)),
            ]
        )
    )
    rates = Rates()
    rates.apply(frame(0.0, table, [float(i) for i in range(6)]))
    out = rates.apply(frame(1.0, table, [float(10 * i) for i in range(6)]))
    assert list(out.series) == sorted(out.series)
    for i, series in enumerate(table):
        known = SIGNALS[series.metric]
        where = Series(known.rate or series.metric, HOST, series.labels)
        assert of(out, where) == (9.0 * i if known.rate else 10.0 * i)


def test_a_reset_is_unknown_for_one_row():
    rates = Rates()
    table = (counter("eth0"),)
    got = [
        float(rates.apply(frame(float(i), table, [v])).values[0])
        for i, v in enumerate([100.0, 200.0, 5.0, 15.0])
    ]
    assert np.isnan(got[0])
    assert got[1] == 100.0
    assert np.isnan(got[2])
    assert got[3] == 10.0


def test_a_counter_that_did_not_answer_is_spanned():
    rates = Rates()
    table = (counter("eth0"),)
    rates.apply(frame(0.0, table, [0.0]))
    hole = rates.apply(frame(1.0, table, [np.nan]))
    after = rates.apply(frame(2.0, table, [10.0]))
    assert np.isnan(hole.values[0])
    assert after.values[0] == 5.0


@pytest.mark.parametrize("ts", [100.0, 99.0, 100.0 - 86_400.0])
def test_a_clock_that_stands_or_runs_backwards_gives_no_rate_and_then_goes_on(ts: float):
    rates = Rates()
    table = (counter("eth0"),)
    rates.apply(frame(100.0, table, [0.0]))
    back = rates.apply(frame(ts, table, [50.0]))
    after = rates.apply(frame(ts + 1.0, table, [60.0]))
    assert np.isnan(back.values[0])
    assert after.values[0] == 10.0


def test_a_leap_forward_gives_no_rate_and_then_goes_on():
    rates = Rates(longest_gap_s=300.0)
    table = (counter("eth0"),)
    rates.apply(frame(100.0, table, [0.0]))
    leapt = rates.apply(frame(100.0 + 3600.0, table, [50.0]))
    after = rates.apply(frame(101.0 + 3600.0, table, [60.0]))
    assert np.isnan(leapt.values[0])
    assert after.values[0] == 10.0


@pytest.mark.parametrize("jump", [-7200.0, -5.0, 5.0, 7200.0])
def test_with_a_steady_clock_a_jump_of_the_wall_clock_spoils_nothing(jump: float):
    rates = Rates()
    table = (counter("eth0"),)
    rates.apply(frame(1000.0, table, [0.0]), steady=50.0)
    out = rates.apply(frame(1001.0 + jump, table, [10.0]), steady=51.0)
    after = rates.apply(frame(1002.0 + jump, table, [30.0]), steady=52.0)
    assert out.values[0] == 10.0
    assert after.values[0] == 20.0


def test_small_differences_of_the_clocks_leave_wall_time_in_charge():
    rates = Rates()
    table = (counter("eth0"),)
    rates.apply(frame(1000.0, table, [0.0]), steady=50.0)
    assert rates.apply(frame(1001.0, table, [10.0]), steady=51.01).values[0] == 10.0


def test_a_reading_that_follows_at_once_is_spanned():
    """A starved host lets one reading end two seconds late, and the next begin with it: that is no 800 cores."""
    rates, table = Rates(), (counter("eth0"),)
    rates.apply(frame(100.0, table, [0.0]), steady=50.0)
    rates.apply(frame(103.0, table, [10.0]), steady=53.0)
    assert np.isnan(rates.apply(frame(103.005, table, [30.0]), steady=53.005).values[0])
    assert rates.apply(frame(105.0, table, [40.0]), steady=55.0).values[0] == 15.0
    # one that was late to us, not to its clock
    assert np.isnan(rates.apply(frame(119.0, table, [180.0]), steady=55.01).values[0])


def test_series_come_and_go_and_the_others_keep_their_past():
    rates = Rates()
    a, b, c = counter("a"), counter("b"), counter("c")
    rates.apply(frame(0.0, (a, b), [0.0, 100.0]))
    out = rates.apply(frame(1.0, (b, c), [107.0, 5.0]))
    assert of(out, Series(RATE, HOST, b.labels)) == 7.0
    assert np.isnan(of(out, Series(RATE, HOST, c.labels)))
    out = rates.apply(frame(2.0, (a, b, c), [9.0, 110.0, 6.0]))
    assert np.isnan(of(out, Series(RATE, HOST, a.labels)))  # it was away: its past is not ours
    assert of(out, Series(RATE, HOST, b.labels)) == 3.0
    assert of(out, Series(RATE, HOST, c.labels)) == 1.0


def test_the_series_tuple_stays_the_same_object_while_the_table_does():
    rates = Rates()
    table = (counter("a"), counter("b"))
    first = rates.apply(frame(0.0, table, [0.0, 0.0])).series
    assert rates.apply(frame(1.0, table, [1.0, 1.0])).series is first
    equal = (counter("a"), counter("b"))
    again = rates.apply(frame(2.0, equal, [3.0, 2.0]))
    assert again.series is first
    assert again.values.tolist() == [2.0, 1.0]


def test_sightings_and_changes_pass_and_the_frame_is_not_touched():
    seen = (Sighting(HOST, (("kernel", "6.1"),)),)
    changes = (Change(1.0, HOST, "restart", "a", "b"),)
    values = np.array([5.0])
    table = (counter("eth0"),)
    out = Rates().apply(Frame("host", 1.0, table, values, seen, changes))
    assert out.seen is seen
    assert out.changes is changes
    assert values[0] == 5.0


def test_sources_do_not_disturb_each_other_and_can_be_forgotten():
    rates = Rates()
    table = (counter("eth0"),)
    rates.apply(frame(0.0, table, [0.0], "one"))
    rates.apply(frame(0.0, table, [1000.0], "two"))
    assert rates.apply(frame(1.0, table, [3.0], "one")).values[0] == 3.0
    rates.forget("one")
    assert np.isnan(rates.apply(frame(2.0, table, [6.0], "one")).values[0])
    assert rates.apply(frame(1.0, table, [1004.0], "two")).values[0] == 4.0


def test_frames_without_counters_pass_as_they_are():
    table = (Series("gpu.power_watts", Entity("gpu", "GPU-1")), Series("plugin.own_thing", HOST))
    given_ = frame(0.0, table, [200.0, 1.0])
    assert Rates().apply(given_) is given_
    empty = frame(0.0, (), [])
    assert Rates().apply(empty) is empty


def test_two_columns_of_one_name_are_told():
    table = (
        Series(RATE, HOST, (("interface", "eth0"),)),
        Series(BYTES, HOST, (("interface", "eth0"),)),
    )
    with pytest.raises(ValueError, match="two columns of one frame"):
        Rates().apply(frame(0.0, table, [1.0, 2.0]))


@given(
    st.lists(
        st.tuples(
            st.floats(0.06, 299.0),
            st.one_of(st.floats(0.0, 1e15), st.just(float("nan")), st.just(float("inf"))),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_rate_is_never_negative_nor_infinite_and_sums_up(steps: list[tuple[float, float]]):
    rates, table = Rates(), (counter("eth0"),)
    ts, known, summed = 0.0, [], 0.0
    for dt, value in steps:
        ts += dt
        rate = float(rates.apply(frame(ts, table, [value])).values[0])
        if np.isfinite(value):
            if known and value >= known[-1][1] and ts - known[-1][0] <= 300.0:
                assert rate * (ts - known[-1][0]) == pytest.approx(value - known[-1][1], rel=1e-6)
                summed += 1
            else:
                assert np.isnan(rate)
            known.append((ts, value))
        else:
            assert np.isnan(rate)
        assert np.isnan(rate) or (np.isfinite(rate) and rate >= 0.0)


def test_a_thousand_series_cost_microseconds():
    table = tuple(counter(f"eth{i:04d}") for i in range(1000))
    rates = Rates()
    rows = [np.arange(1000.0) * i for i in range(200)]
    rates.apply(Frame("host", 0.0, table, rows[0]))
    start = time.process_time()
    for i, row in enumerate(rows[1:], 1):
        rates.apply(Frame("host", float(i), table, row))
    assert (time.process_time() - start) / 199 < 0.001
