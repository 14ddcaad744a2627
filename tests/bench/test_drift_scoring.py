"""The figures of the drift benchmark, against slow and literal versions of themselves."""

import math

import drift_scoring as scoring
import numpy as np
import pytest
from drift_scoring import Block, Trace


def trace(score, *, start=None, hit=None, step=100):
    score = np.asarray(score, dtype=float)
    ends = step * np.arange(1, len(score) + 1)
    return Trace(ends, score, np.ones(len(score), bool) if hit is None else np.asarray(hit), start)


def slow_events(t, threshold):
    """The docstring read aloud, batch by batch."""
    false, last, since_trouble, before = 0, None, False, False
    for end, score, hit in zip(t.ends.tolist(), t.score.tolist(), t.hit.tolist(), strict=True):
        troubled = t.start is not None and end > t.start
        if not troubled:
            before = score >= threshold
        elif last is not None and last <= t.start and not before:
            last = None
        if score < threshold:
            continue
        opens = last is None or end - last > scoring.COOL
        if opens:
            last, since_trouble = end, troubled
        if troubled and since_trouble and hit:
            return false, end - t.start
        if opens and not troubled:
            false += 1
    return false, math.inf


def test_events_are_those_of_the_definition():
    r = np.random.default_rng(1)
    for _ in range(200):
        start = None if r.random() < 0.3 else int(r.integers(0, 60)) * 100
        t = trace(r.normal(size=80), start=start, hit=r.random(80) < 0.5)
        for threshold in (0.0, 1.0, 2.0):
            false, late = slow_events(t, threshold)
            assert scoring.false_events(t, threshold) == false
            assert scoring.delay(t, threshold) == late


def test_an_alarm_that_began_before_the_trouble_is_no_detection_until_it_is_a_new_event():
    on = np.zeros(40)
    on[8:] = 1.0  # from row 900, trouble from row 1000
    assert scoring.delay(trace(on, start=1000), 0.5) == 1000.0
    assert scoring.false_events(trace(on, start=1000), 0.5) == 1


def test_an_alarm_that_has_ended_hides_no_detection():
    on = np.zeros(40)
    on[[5, 11]] = 1.0  # rows 600 and 1,200, trouble from row 1,000
    assert scoring.delay(trace(on, start=1000), 0.5) == 200.0
    assert scoring.false_events(trace(on, start=1000), 0.5) == 1


def test_an_alarm_that_names_wrong_columns_does_not_count():
    hit = np.arange(40) >= 25
    on = np.where(np.arange(40) >= 12, 1.0, 0.0)
    assert scoring.delay(trace(on, start=1000, hit=hit), 0.5) == 1600.0
    assert scoring.delay(trace(on, start=1000, hit=np.zeros(40, bool)), 0.5) == math.inf


def test_the_threshold_keeps_the_rate_and_is_the_lowest_that_does():
    r = np.random.default_rng(2)
    traces = [trace(r.exponential(size=1000)) for _ in range(10)]
    for wanted in (1e-5, 1e-4, 5e-4):
        found = scoring.threshold_at(traces, wanted, 0.0)
        assert found.how == "measured"
        assert scoring.rate(traces, found.value) <= wanted
        assert scoring.rate(traces, found.value - 0.3) > wanted


def test_beyond_what_was_measured_the_tail_is_drawn_on():
    r = np.random.default_rng(3)
    few = [trace(r.exponential(size=1000)) for _ in range(5)]
    many = [trace(r.exponential(size=1000)) for _ in range(100)]
    drawn = scoring.threshold_at(few, 1e-6, 0.0)
    assert drawn.how == "extrapolated"
    assert drawn.value == pytest.approx(scoring.threshold_at(many, 1e-6, 0.0).value, abs=2.0)


def test_who_never_speaks_keeps_its_threshold():
    silent = [trace(np.full(1000, -1e9))]
    assert scoring.threshold_at(silent, 1e-4, 7.0) == scoring.Setting(7.0, "silent")


def test_a_parameter_is_found_on_the_line_of_its_rates():
    measured = {d: (round(1e-5 * d**2 * 1e7), 10_000_000) for d in (0.3, 1.0, 3.0)}
    assert scoring.parameter_at(measured, 1e-5).value == pytest.approx(1.0, rel=0.02)
    assert scoring.parameter_at(measured, 1e-5).how == "measured"
    beyond = scoring.parameter_at(measured, 1e-7)
    assert beyond.value == pytest.approx(0.1, rel=0.05)
    assert beyond.how == "extrapolated"


def test_bounds_of_rates_are_those_of_counts():
    assert scoring.at_most(0, 1_000_000) == pytest.approx(3e-6)
    assert scoring.at_most(3, 1) == pytest.approx(
        7.754, rel=0.01
    )  # exact, from the tables of Poisson counts


def test_misses_are_infinitely_late():
    assert scoring.median([100.0, math.inf, 300.0]) == 300.0
    assert scoring.median([100.0, math.inf]) == math.inf
    assert math.isnan(scoring.median([]))


def test_what_was_not_estimable_counts_for_neither_side():
    blocks = [
        Block(0.8, 0.9, 0.82, 0.78, 0.86),
        Block(0.7, 0.9, 0.75, 0.72, 0.78),
        Block(0.5, 0.9, math.nan, math.nan, math.nan),
    ]
    found = scoring.estimated(blocks)
    assert found["accuracy_error"] == pytest.approx(0.035)
    assert found["accuracy_error_constant"] == pytest.approx(0.15)
    assert found["accuracy_band_covers"] == 0.5
    assert found["accuracy_estimable_ratio"] == pytest.approx(2 / 3)
    assert scoring.estimated(blocks[2:]) == {"accuracy_estimable_ratio": 0.0}
