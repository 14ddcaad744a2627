"""Alertmanager: what its webhook sends, and what becomes of it."""

import json
import time

import pytest

from agent.alerts import Alerts
from agent.errors import Refused
from agent.model import Edge, Entity
from agent.ports import Receiver, Signal
from agent.world import World
from connectors.alertmanager import Alertmanager

TS = 1795168800.0
"""2026-11-20T10:00:00Z."""
ALERT = {
    "status": "firing", "fingerprint": "bf6a1c4a3c2d",
    "labels": {"alertname": "HighLatency", "severity": "page", "service": "shop"},
    "annotations": {"description": "p95 is 900 ms for ten minutes", "summary": "shop is slow"},
    "startsAt": "2026-11-20T10:00:00.123456789Z", "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus.example/graph",
}  # fmt: skip
OVER = ALERT | {"status": "resolved", "endsAt": "2026-11-20T10:30:00Z"}


def take(*alerts, **config):
    made = Alertmanager("alertmanager", Alertmanager.Config(**config))
    assert isinstance(made, Receiver)
    (route,) = made.routes()
    assert route.path == "/ingest/alertmanager"
    body = {"version": "4", "status": "firing", "receiver": "homeostat", "alerts": list(alerts)}
    return route.handle(json.dumps(body).encode(), "application/json")


def test_an_alert_is_a_signal_with_its_labels_and_its_words():
    (signal,) = take(ALERT)
    assert signal == Signal(
        pytest.approx(TS + 0.123456), "HighLatency", "alertmanager", True,
        (("service", "shop"), ("severity", "page")), "shop is slow",
    )  # fmt: skip


def test_one_that_is_over_says_since_when():
    (signal,) = take(OVER)
    assert (signal.firing, signal.ts) == (False, TS + 1800)


def test_a_group_is_taken_apart():
    assert [s.firing for s in take(ALERT, OVER)] == [True, False]
    assert take() == []


@pytest.mark.parametrize("at", ["", "0001-01-01T00:00:00Z", "yesterday", "2999-01-01T00:00:00Z", 7])
def test_a_time_that_is_none_or_has_not_come_counts_as_now(at):
    (signal,) = take(ALERT | {"startsAt": at})
    assert signal.ts == pytest.approx(time.time(), abs=5)


def test_alerts_that_always_fire_are_left_out():
    watchdog = ALERT | {"labels": {"alertname": "Watchdog"}}
    assert take(watchdog, ALERT) == take(ALERT)
    assert len(take(watchdog, ignore=[])) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        (b"[]", "no list `alerts`"),
        (b'{"alerts": {}}', "no list `alerts`"),
        (b'{"alerts": [7]}', "no labels"),
        (b'{"alerts": [{"labels": {"alertname": 3}}]}', "no labels with texts"),
        (b'{"alerts": [{"labels": {}, "annotations": {}}]}', "no label `alertname`"),
        (b'{"alerts": [{"labels": {"alertname": "A"}, "annotations": {}}]}', "status None"),
    ],
)
def test_what_is_malformed_is_refused_with_the_reason(body, says):
    (route,) = Alertmanager("alertmanager", Alertmanager.Config()).routes()
    with pytest.raises(Refused, match=says):
        route.handle(body, "application/json")


def test_it_names_the_service_that_its_labels_mean_and_ends_with_it():
    world, shop = World(), Entity("service", "shop")
    world.topology.link(Edge("runs_on", shop, Entity("host", "h")))
    world.trusts["alertmanager"] = "authenticated"
    alerts = Alerts()
    (going,) = alerts.take(TS + 60, take(ALERT), world)
    assert (going.series.entity, going.end, going.road) == (shop, None, "objective")
    assert "shop is slow" in going.family
    assert len(alerts.take(TS + 120, take(ALERT), world)) == 1, "sent again it is the same"
    (over,) = alerts.take(TS + 1900, take(OVER), world)
    assert over.end == TS + 1800
    assert alerts.take(TS + 1960, (), world) == []
