"""Objectives from the first minute; unknown neither breaks nor heals; what left has ended."""

import math

import numpy as np
import pytest

from agent.errors import Refused
from agent.model import Entity, Frame, Series
from agent.monitor import Monitor, Watch
from agent.objectives import Limit, entity_globs
from agent.ports import Why

S = Entity("service", "shop")
P95 = Series("service.latency_p95_seconds", S)
RPS = Series("service.requests_per_second", S)
LIMIT = Limit(
    "service.latency_p95_seconds", math.nan, 0.25, 3.0, ("service:shop",), name="slow", harm=True
)


def run(watch: Watch, values, start=0.0, table=(P95,)):
    """Feed one column a second; return {ts: anomalies}."""
    return {
        start + i: watch.take(
            Frame("models", start + i, table, np.array([v, *[1.0] * (len(table) - 1)]))
        )
        for i, v in enumerate(values)
    }


def test_an_objective_must_be_broken_for_a_while():
    seen = run(Watch(1.0, None, [LIMIT]), [0.1, 0.5, 0.1, 0.5, 0.5, 0.5, 0.5])
    assert [ts for ts, found in seen.items() if found] == [6.0]
    (anomaly,) = seen[6.0]
    assert (anomaly.onset, anomaly.end, anomaly.road, anomaly.harm) == (
        3.0,
        None,
        "objective",
        True,
    )
    assert anomaly.size == pytest.approx(0.25)
    assert anomaly.direction == 1


def test_it_ends_when_well_for_half_as_long_and_says_so_once():
    seen = run(Watch(1.0, None, [LIMIT]), [0.5] * 5 + [0.1] * 5)
    ended = [(ts, a.end) for ts, found in seen.items() for a in found if a.end is not None]
    assert ended == [(7.0, 5.0)]
    assert seen[8.0] == []


def test_unknown_neither_breaks_nor_heals():
    nan = math.nan
    seen = run(Watch(1.0, None, [LIMIT]), [0.5, nan, nan, nan, nan])
    assert not any(seen.values())
    seen = run(Watch(1.0, None, [LIMIT]), [0.5] * 5 + [nan] * 30)
    assert all(found and found[0].end is None for ts, found in seen.items() if ts >= 4)


def test_a_lower_limit():
    low = Limit("service.requests_per_second", 1.0, math.nan, 0.0, ("service:*",), name="silent")
    watch = Watch(1.0, None, [low])
    found = watch.take(Frame("m", 1.0, (RPS,), np.array([0.2])))
    assert found[0].direction == -1
    assert found[0].size == pytest.approx(0.8)


def test_what_left_with_its_series_has_ended():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    found = watch.take(Frame("models", 5.0, (RPS,), np.array([1.0])))
    assert [a.end for a in found] == [5.0]


def test_new_series_do_not_disturb_a_breach():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    found = watch.take(Frame("models", 5.0, (P95, RPS), np.array([0.5, 1.0])))
    assert found[0].onset == 0.0


def test_a_breach_survives_a_reload_of_the_same_objective():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    watch.relimit([LIMIT])
    found = watch.take(Frame("models", 5.0, watch._series, np.array([0.5])))
    assert found[0].onset == 0.0
    watch.relimit([])
    assert [a.end for a in watch.take(Frame("models", 6.0, watch._series, np.array([0.5])))] == [
        6.0
    ]


def test_a_clock_set_back_by_an_hour_ends_nothing():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    watch.rebase(-3600.0)
    found = watch.take(Frame("models", 5.0 - 3600.0, (P95,), np.array([0.5])))
    assert found[0].onset == -3600.0
    assert found[0].end is None


def test_service_objectives_mean_the_service_its_models_and_features():
    assert entity_globs("model", "shop", ["fraud"]) == ("model:fraud",)
    assert entity_globs("feature", "shop", ["fraud"]) == ("feature:fraud/*",)
    assert "service:shop" in entity_globs("service", "shop", [])


class Fixed:
    """A detector whose p-values are what the row says: to see what the monitor makes of them."""

    def __init__(self, n):
        self.n = n
        self.trusted = []

    def score(self, ts, x):
        return np.asarray(x, dtype=float)

    def learn(self, ts, x, trust):
        self.trusted.append(trust.copy())

    def remap(self, old):
        self.n = len(old)

    def dump(self):
        return b"state"

    def load(self, state):
        if state != b"state":
            raise Refused("other state")

    def explain(self, i):
        return Why("spike", 0.0, 0.4, 9.0, 10_000, calibrated=True)


def test_one_abnormal_row_is_no_episode_two_are_and_nobody_learns_from_them():
    detector = Fixed(1)
    watch = Watch(1.0, lambda _s, _f: detector, [])
    seen = run(watch, [0.5, 1e-9, 0.5, 0.5, 1e-9, 1e-9, 1e-9] + [0.5] * 10)
    assert not seen[1.0]
    going = [ts for ts, found in seen.items() if found and found[0].end is None]
    assert going[0] == 5.0
    assert sum(1 for found in seen.values() for a in found if a.end is not None) == 1
    assert not detector.trusted[5][0]
    assert detector.trusted[0][0]


def test_late_and_duplicate_ticks_teach_nothing():
    detector = Fixed(1)
    watch = Watch(1.0, lambda _s, _f: detector, [])
    for ts in (1.0, 2.0, 2.0, 1.5, 3.0):
        watch.take(Frame("m", ts, watch._series or (P95,), np.array([0.5])))
    assert len(detector.trusted) == 3


def test_state_comes_back_after_a_restart_for_series_that_are_still_there():
    watch = Watch(1.0, lambda _s, f: Fixed(len(f)), [])
    run(watch, [0.5] * 700)
    state = watch.dump()
    again = Watch(1.0, lambda _s, f: Fixed(len(f)), [])
    again.load(state)
    assert again.rows == 700
    assert again.take(Frame("models", 700.0, (P95, RPS), np.array([0.5, 0.5]))) == []
    with pytest.raises(Refused, match="damaged"):
        again.load(b"\x01")


def test_learning_is_told_per_source():
    monitor = Monitor(lambda _s, f: Fixed(len(f)), ())
    monitor.take(Frame("host", 10.0, (P95,), np.array([0.5])))
    state = monitor.learning()["host"]
    assert state["since"] == 10.0
    assert not state["ready"]
    assert state["ready_in_s"] == 599.0


def test_where_rows_are_far_apart_one_abnormal_row_is_enough():
    watch = Watch(60.0, lambda _s, _f: Fixed(1), [])
    assert not watch.take(Frame("m", 60.0, (P95,), np.array([0.5])))
    found = watch.take(Frame("m", 120.0, watch._series, np.array([1e-9])))
    assert [a.end for a in found] == [None]
