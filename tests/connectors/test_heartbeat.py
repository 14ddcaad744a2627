"""The heartbeat: what each style sends, and that its secret URL is not told."""

import json

import pytest
from people_side import Side, serving

from agent.errors import Unavailable
from agent.ports import Notifier, Pulse
from connectors.heartbeat import Heartbeat


@pytest.fixture
def side():
    with serving(Side()) as made:
        yield made


def way(url, **own):
    return Heartbeat("hb", Heartbeat.Config(url=url, **own))


async def test_a_ping_goes_to_a_url_that_is_a_secret(side, monkeypatch):
    monkeypatch.setenv("PING", f"{side.url}/CANARY123456")
    hb = way("env:PING", every="5m")
    assert isinstance(hb, Pulse)
    assert not isinstance(hb, Notifier)
    assert hb.pulse_s == 300
    await hb.beat(1_800_000_000.0)
    ((method, path, _, body),) = side.asked
    assert (method, path) == ("POST", "/CANARY123456")
    assert b"tick at 2027-01-15T08:00:00" in body
    said = list(await hb.describe())
    for fault in ("forbidden", "dropped", "redirect"):
        side.fault = fault
        with pytest.raises(Exception, match=r"the URL of hb \(127.0.0.1\)") as wrong:
            await hb.beat(1.0)
        said.append(str(wrong.value))
    assert "CANARY" not in str(said)
    await hb.close()


async def test_a_pushgateway_gets_a_gauge_and_an_alertmanager_an_alert_that_ends(side):
    push, alert = way(side.url, style="pushgateway"), way(side.url, style="alertmanager")
    await push.beat(1_800_000_000.25)
    await alert.beat(1_800_000_000.0)
    (method, path, _, body), (_, alerts, headers, said) = side.asked
    assert method == "PUT"
    assert path.startswith("/metrics/job/homeostat/instance/")
    assert body.endswith(b"\nhomeostat_last_tick_timestamp_seconds 1800000000.250\n")
    assert alerts == "/api/v2/alerts"
    assert headers["content-type"] == "application/json"
    (one,) = json.loads(said)
    assert one["labels"]["alertname"] == "HomeostatAlive"
    assert one["endsAt"] == "2027-01-15T08:04:00.000+00:00"
    await push.close()
    await alert.close()


async def test_a_reference_that_is_not_there_is_told(monkeypatch):
    monkeypatch.delenv("NO_PING", raising=False)
    with pytest.raises(Unavailable, match="NO_PING is not set"):
        await way("env:NO_PING").beat(1.0)
