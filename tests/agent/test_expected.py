import numpy as np
import pytest

from agent import expected
from agent.model import Entity, Frame, Series
from agent.monitor import Watch
from agent.objectives import Limit
from agent.ports import Why
from agent.telemetry import Telemetry

SHOP = Entity("service", "shop")
HOST = Entity("host", "a")
NAN = float("nan")
SERIES = tuple(sorted((
    Series("service.latency_p95_seconds", SHOP),
    Series("service.up", SHOP),
    Series("host.disk_utilization_ratio", HOST, (("mount", "/"),)),
    Series("host.load1_count", HOST),
)))  # fmt: skip
LIMITS = (
    Limit("service.latency_p95_seconds", NAN, 0.4, 0.0, ("service:*",), name="slow", harm=True),
    Limit("service.up", 0.5, NAN, 0.0, ("service:*",), name="down", harm=True),
    Limit("host.disk_utilization_ratio", NAN, 0.9, 0.0, ("host:*",), name="full"),
)


class Sees:
    """A detector that finds every value ordinary, and expects 0 to 2."""

    def __init__(self, n):
        self.n = n

    def score(self, ts, x):
        return np.full(self.n, 0.01)

    def learn(self, ts, x, trust):
        pass

    def remap(self, old):
        self.n = len(old)

    def explain(self, i):
        return Why("level", 0.0, 2.0, 0.0, 1000, calibrated=True)

    def band(self, i):
        return 0.0, 2.0

    def dump(self):
        return b""


@pytest.fixture
def told():
    watch = Watch(1.0, lambda step_s, n: Sees(n), LIMITS)
    values = {
        "service.latency_p95_seconds": 0.2, "service.up": 1.0,
        "host.disk_utilization_ratio": 0.95, "host.load1_count": 1.0,
    }  # fmt: skip
    watch.take(Frame("s", 1.0, SERIES, np.array([values[s.metric] for s in SERIES])))
    telemetry = Telemetry(0)
    expected.measure(telemetry, [watch, watch])
    found = {}
    for name, labels, value in telemetry.numbers():
        found.setdefault(name, {})[
            dict(labels).get("signal", ""), dict(labels).get("bound", "")
        ] = (
            labels,
            value,
        )
    return found


def test_scores_and_bands_are_of_what_hurts_and_of_what_is_abnormal(told):
    scores = {signal for signal, _ in told["homeostat_series_score"]}
    assert scores == {"service.latency_p95_seconds", "service.up", "host.disk_utilization_ratio"}
    labels, value = told["homeostat_series_score"]["host.disk_utilization_ratio", ""]
    assert labels == (
        ("entity", "host:a"), ("mount", "/"), ("signal", "host.disk_utilization_ratio"),
    )  # fmt: skip
    assert value == pytest.approx(2.0)
    highs = {signal: v for (signal, _), (_, v) in told["homeostat_series_expected_high"].items()}
    assert highs == {"service.latency_p95_seconds": 2.0, "host.disk_utilization_ratio": 2.0}


def test_limits_are_told_where_they_are_numbers_and_only_the_sides_that_are_stated(told):
    limits = {key: v for key, (_, v) in told["homeostat_objective_limit"].items()}
    assert limits == {
        ("service.latency_p95_seconds", "high"): 0.4,
        ("host.disk_utilization_ratio", "high"): 0.9,
    }
