"""Alertmanager: what its webhook sends, and what becomes of it."""

import json
import re
import time

import httpx
import pytest

from agent.alerts import Alerts
from agent.errors import Refused, Unavailable
from agent.model import Edge, Entity
from agent.news import moment
from agent.ports import Choosy, Muting, Note, Notifier, Pulse, Receiver, Signal
from agent.world import World
from connectors._alertmanager_out import glob_pattern, mutes_of
from connectors.alertmanager import Alertmanager
from connectors.http import Door

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


# ---- out


class Api:
    """Alertmanager's API, as far as we speak to it."""

    def __init__(self):
        self.status, self.posted = 200, []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.status != 200:
            return httpx.Response(self.status)
        self.posted.append(json.loads(request.content))
        return httpx.Response(200)


def out(tmp_path, api, **config):
    made = Alertmanager(
        "am",
        Alertmanager.Config(url="http://am", alerts=["page", "warning"], **config),
        state=tmp_path,
    )
    made._door = Door(transport=httpx.MockTransport(api))
    assert isinstance(made, Notifier)
    assert isinstance(made, Choosy)
    assert isinstance(made, Pulse)
    assert isinstance(made, Muting)
    return made


def note(event="", severity="warning", **facts):
    known = {
        "about": "service:shop",
        "began": "2026-11-20T10:00:00.000+00:00",
        "state": "open",
        "cause": "a release",
    }
    return Note(f"k:{event}", TS, severity, "shop is slow", "p95 is 900 ms", "inc-1", event=event,
                link="http://us/", facts={**known, **facts})  # fmt: skip


async def test_an_incident_is_one_alert_with_labels_that_stay_and_is_sent_again_in_time(tmp_path):
    api = Api()
    made = out(tmp_path, api)
    await made.notify(note("opened"))
    await made.notify(note("acknowledged", cause="the disk"))
    await made.beat(TS + 60)
    first, second, third = (one for (one,) in api.posted)
    assert first["labels"] == second["labels"] == third["labels"] == {
        "alertname": "HomeostatIncident", "incident": "inc-1", "severity": "warning", "entity": "service:shop",
        "service": "shop",
    }  # fmt: skip
    assert first["startsAt"] == third["startsAt"] == "2026-11-20T10:00:00.000+00:00"
    assert third["endsAt"] == moment(TS + 360)
    assert third["generatorURL"] == "http://us/"
    assert (third["annotations"]["summary"], third["annotations"]["cause"]) == (
        "shop is slow",
        "the disk",
    )


async def test_it_ends_with_its_incident_and_only_once_that_was_heard(tmp_path):
    api = Api()
    made = out(tmp_path, api)
    await made.notify(note("opened"))
    api.status = 503
    with pytest.raises(Unavailable):
        await made.notify(note("resolved", state="resolved"))
    made = out(tmp_path, api)
    api.status = 200
    await made.beat(time.time())
    assert api.posted[-1][0]["endsAt"] < moment(time.time() + 1)
    await made.beat(time.time())
    assert len(api.posted) == 2, "then it is forgotten"
    await made.notify(note("opened", state="resolved"))
    assert len(api.posted) == 2, "a note that comes late does not begin it again"


async def test_what_is_going_is_sent_again_after_a_restart(tmp_path):
    api = Api()
    await out(tmp_path, api).notify(note("opened"))
    await out(tmp_path, api).beat(TS)
    assert api.posted[1][0]["labels"] == api.posted[0][0]["labels"]


async def test_a_severity_that_rises_is_another_alert_and_ends_the_first(tmp_path):
    api = Api()
    made = out(tmp_path, api)
    await made.notify(note("opened"))
    await made.notify(note(severity="page"))
    await made.notify(note())
    ended, begun = api.posted[1]
    assert (ended["labels"]["severity"], begun["labels"]["severity"]) == ("warning", "page")
    assert ended["endsAt"] < begun["endsAt"]
    assert [a["labels"]["severity"] for a in api.posted[2]] == ["page"]


def test_it_wants_incidents_of_its_severities_and_all_their_ends(tmp_path):
    made = out(tmp_path, Api())
    wanted = [
        made.wants(note(e, s))
        for e in ("", "opened", "resolved", "acted")
        for s in ("page", "note")
    ]
    assert wanted == [True, False, True, False, True, True, False, False]
    assert not Alertmanager("am", Alertmanager.Config(url="http://am")).wants(note("opened"))


async def test_a_token_that_is_not_taken_can_be_mended_and_a_body_that_is_not_taken_can_not(
    tmp_path,
):
    api = Api()
    made = out(tmp_path, api)
    api.status = 403
    with pytest.raises(Unavailable):
        await made.notify(note("opened"))
    api.status = 400
    with pytest.raises(Refused):
        await made.notify(note("opened"))


def test_silences_are_told_both_ways_where_it_has_a_url_and_nobody_said_no():
    def muting(**own):
        return Alertmanager("am", Alertmanager.Config(**own)).muting

    assert [muting(), muting(url="http://am"), muting(url="http://am", silences=False)] == [
        False,
        True,
        False,
    ]


def test_our_own_alerts_tell_us_nothing():
    for name in ("HomeostatIncident", "HomeostatAlive"):
        assert take(ALERT | {"labels": {"alertname": name, "service": "shop"}}) == []


def test_silences_of_people_are_read_where_they_are_about_targets_alone():
    def one(*matchers, comment="deploy", state="active"):
        said = [{"name": n, "value": v, "isRegex": r, "isEqual": e} for n, v, r, e in matchers]
        return {"id": "i", "status": {"state": state}, "comment": comment, "createdBy": "ann", "matchers": said,
                "endsAt": "2026-11-20T10:00:00Z"}  # fmt: skip

    def targets(*matchers):
        return [
            t
            for m in mutes_of(
                [one(*matchers)], {"service": "service", "host": "instance"}, lambda _: TS
            )
            for t in m.targets
        ]

    assert targets(("service", "shop", False, True)) == ["service:shop"]
    assert targets(("service", "shop|cart.*", True, True)) == ["service:shop", "service:cart*"]
    assert targets(("instance", "web\\-1(:[0-9]+)?", True, True)) == ["host:web-1"]
    assert targets(
        ("instance", "web-1:9100", False, True), ("alertname", "HomeostatIncident", False, True)
    ) == ["host:web-1"]
    assert targets(("service", "shop", False, True), ("severity", "info", False, True)) == []
    assert targets(("service", "shop", False, False)) == []
    assert targets(("service", "(a|b)+c?", True, True)) == []
    assert targets(("alertname", "HighLatency", False, True)) == []
    (ours,) = mutes_of([one(comment="we reboot it [sil-1]", state="expired")], {}, lambda _: TS)
    assert (ours.key, ours.active) == ("sil-1", False)
    assert (
        list(
            mutes_of(
                [one(("service", "shop", False, True), state="expired")],
                {"service": "service"},
                lambda _: TS,
            )
        )
        == []
    )


def test_globs_are_patterns_there():
    assert re.fullmatch(glob_pattern("web-*.eu"), "web-17.eu")
    assert not re.fullmatch(glob_pattern("web-*.eu"), "web-17xeu")
