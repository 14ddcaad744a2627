"""From a series that falls silent to words about it; a whole source that does is not its business."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.codec import pack, unpack
from agent.model import Anomaly, Entity, Frame, Incident, Series
from agent.monitor import Watch
from agent.ports import Why
from agent.rca.rules._signs import Sign, _stated
from agent.trouble import title_of
from agent.views import anomaly_view, clock
from detectors.bank import Bank

HOST = Entity("host", "h")
TABLE = tuple(Series("host.core_utilization_ratio", HOST, (("core", f"{i}"),)) for i in range(3))
TABLE += (Series("host.network_up", HOST, (("interface", "eth0"),)),)
STEP = 60.0


def frames(rows, start):
    for i, row in enumerate(rows):
        yield Frame("host", start + STEP * (i + 1), TABLE, row)


def busy(rows, seed=0):
    out = 0.5 + 0.05 * np.random.default_rng(seed).normal(size=(rows, len(TABLE)))
    out[:, 3] = 1.0
    return out


@pytest.fixture(scope="module")
def state():
    watch = made()
    for frame in frames(busy(3000), 0.0):
        watch.take(frame)
    return watch.dump()


def made():
    return Watch(STEP, lambda s, n: Bank(Bank.Config(step_s=s), n), [], source="host")


@pytest.fixture
def watch(state):
    one = made()
    one.load(state)
    return one


def going(watch, rows, start):
    """Return the anomalies of each row that go on."""
    return [[a for a in watch.take(f) if a.end is None] for f in frames(rows, start)]


def test_a_series_that_falls_silent_is_named_since_its_last_value(watch):
    rows = busy(60, 1)
    rows[:40, [1, 3]] = np.nan
    seen = going(watch, rows, 3000 * STEP)
    found = [a for a in seen[39] if a.family == "silence"]
    assert [a.series for a in found] == [TABLE[1], TABLE[3]]
    assert all(not math.isfinite(a.value) and a.direction == 0 and a.size == 0 for a in found)
    assert {a.onset for a in found} == {3000 * STEP}
    assert not any(a.family == "silence" for some in seen[:8] for a in some)
    assert seen[-1] == [], "values are back"


def test_a_source_that_is_silent_as_a_whole_is_left_to_its_collector(watch):
    rows = np.full((100, len(TABLE)), np.nan)
    assert going(watch, rows, 3000 * STEP) == [[]] * 100
    assert not any(going(watch, busy(30, 2), 3100 * STEP)[:2])


def silence(series=TABLE[1]):
    nan = math.nan
    return Anomaly(
        series, 1e9, None, 1e-5, 0, nan, nan, nan, 0.0, 20.0, "calibrated", "silence"
    )  # fmt: skip


@pytest.mark.parametrize("series", [TABLE[1], TABLE[3]])
def test_it_is_said_in_words_and_survives_the_journal(series):
    anomaly = silence(series)
    view = anomaly_view(anomaly, lambda e: e.key)
    assert view["text"].endswith(f"of h has had no value since {clock(1e9, 1e9)}")
    assert view["value"] is None
    assert title_of(anomaly).endswith(" has no value")
    incident = Incident("i", 1e9, 1e9, "open", "note", "t", anomalies=(anomaly,))
    back = unpack(Incident, json.loads(json.dumps(pack(incident), allow_nan=False)))
    assert math.isnan(back.anomalies[0].value)
    assert anomaly_view(back.anomalies[0], lambda e: e.key) == view


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("service.up", "a: the service does not answer a probe"),
        ("gpu.reachable", "a: the GPU does not answer"),
        ("host.network_up", "a: an interface is not up"),
        ("host.ready", "a: the cluster does not call a node ready"),
        ("model.relation_changed",
         "a: it is not so that labels prove a changed relation between inputs and labels"),
    ],
)  # fmt: skip
def test_what_is_no_longer_so_is_said_as_people_say_it(metric, said):
    of = Series(metric, Entity(metric.partition(".")[0], "a"))
    down = replace(silence(of), value=0.0, direction=-1, low=1.0, high=1.0, family="state")
    assert title_of(down) == said


def test_a_state_that_a_detector_names_is_said_in_words():
    down = replace(silence(TABLE[3]), value=0.0, direction=-1, low=1.0, high=1.0, family="state")
    said = anomaly_view(down, lambda e: e.key)["text"]
    assert said.endswith("of h is not so, which is unusual")
    assert "eth0" in said


def test_what_is_silent_is_not_taken_for_busy():
    disk = Series("host.disk_utilization_ratio", HOST, (("mount", "/"),))
    high = replace(silence(disk), value=0.99, direction=1, family="level")
    # a state is looked at on either side, so only its having no value can tell
    for sign, anomaly in (
        (Sign(disk.metric), high),
        (Sign("host.network_up"), replace(silence(TABLE[3]), value=0.0, family="state")),
    ):
        quiet = replace(anomaly, value=math.nan, direction=0, family="silence")
        for said, found in ((anomaly, anomaly), (quiet, None)):
            look = SimpleNamespace(incident=Incident(
                "i", 1e9, 1e9, "open", "note", "t", anomalies=(said,)))  # fmt: skip
            assert _stated(look, sign, said.series) is found


class Says:
    """A detector that says what the test wants of its one series."""

    def __init__(self):
        self.p, self.why = 0.5, Why("spike", 0.0, 1.0, 20.0, 10_000, calibrated=True)

    def score(self, ts, x):
        return np.array([self.p])

    def learn(self, ts, x, trust):
        pass

    def explain(self, i):
        return self.why


def test_what_was_a_spike_before_it_fell_silent_stays_one_and_silence_ends_with_a_value():
    detector, nan = Says(), math.nan
    watch = Watch(STEP, lambda _s, _n: detector, [])
    table = TABLE[:1]

    def take(ts, value, p, family):
        detector.p = p
        detector.why = Why(family, nan, nan, 30.0, 10_000, calibrated=True)
        (found,) = watch.take(Frame("host", ts, table, np.array([value])))
        return found

    assert take(60.0, 9.0, 1e-9, "spike").value == 9.0
    spike = take(120.0, nan, 1e-12, "silence")
    assert (spike.family, spike.value) == ("spike", 9.0)
    watch = Watch(STEP, lambda _s, _n: detector, [])
    assert math.isnan(take(60.0, nan, 1e-9, "silence").value)
    back = take(120.0, 3.0, 1e-7, "level")
    assert (back.family, back.value) == ("level", 3.0)
