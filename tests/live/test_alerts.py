"""A real Alertmanager tells the real daemon of an alert, and that it is over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from daemon_process import free_port, wait_for

from agent.errors import Refused
from agent.ports import Silencer, Step
from connectors.alertmanager import Alertmanager
from playbooks.actions.silence import SilenceTarget

pytestmark = pytest.mark.live

AGENT = """
connectors: {alertmanager: {}}
services: [{id: shop}]
diagnose: {settle: 1s, resolve_after: 2s}
"""


@pytest.fixture
def alertmanager(needs, tmp_path):
    """Start it with a webhook to a port and a token; return how to post alerts to it."""
    program = needs("prometheus-alertmanager")
    started = []

    def start(port: int, token: str):
        own = free_port()
        config = tmp_path / "am.yml"
        config.write_text(json.dumps({
            "route": {"receiver": "homeostat", "group_wait": "0s", "group_interval": "1s"},
            "receivers": [{"name": "homeostat", "webhook_configs": [{
                "url": f"http://127.0.0.1:{port}/ingest/alertmanager", "send_resolved": True,
                "http_config": {"authorization": {"credentials": token}},
            }]}],
        }))  # fmt: skip
        argv = [
            program, f"--config.file={config}", f"--storage.path={tmp_path / 'am'}",
            f"--web.listen-address=127.0.0.1:{own}", "--cluster.listen-address=",
        ]  # fmt: skip
        with (tmp_path / "am.log").open("wb") as log:
            started.append(subprocess.Popen(argv, stdout=log, stderr=log))
        url = f"http://127.0.0.1:{own}"
        wait_for("alertmanager", lambda: httpx.get(f"{url}/-/ready").status_code == 200)

        def post(**times: datetime) -> None:
            alert = {
                "labels": {"alertname": "HighLatency", "service": "shop"},
                "annotations": {"summary": "shop is slow"},
                **{key: when.isoformat() for key, when in times.items()},
            }
            httpx.post(f"{url}/api/v2/alerts", json=[alert]).raise_for_status()

        post.url = url
        return post

    yield start
    for one in started:
        one.terminate()
        one.wait(10)


def test_an_alert_opens_a_warning_and_its_end_closes_it(running, alertmanager):
    one = running(AGENT).start()
    made = subprocess.run(
        [sys.executable, "-P", "-m", "agent", "token", "add", "am", "--role", "operator", "--json",
         "--config", str(one.config), "--state", str(one.state)],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    post = alertmanager(one.port, json.loads(made.stdout)["token"])
    began = datetime.now(UTC)
    post(startsAt=began)

    def found():
        return [i for i in one.get("/api/incidents").json() if "alert" in i["title"]]

    (incident,) = wait_for("the incident", found)
    assert incident["severity"] == "warning", "who sent it has paged already"
    detail = one.get(f"/api/incidents/{incident['id']}").json()
    (alert,) = detail["anomalies"]
    assert alert["entity"]["id"] == "service:shop"
    assert "shop is slow" in alert["text"]
    assert alert["onset"] == pytest.approx(began.timestamp(), abs=1)

    time.sleep(1)
    post(startsAt=began, endsAt=datetime.now(UTC) - timedelta(milliseconds=1))
    wait_for(
        "its end",
        lambda: one.get(f"/api/incidents/{incident['id']}").json()["state"] == "resolved",
        seconds=40,
    )


async def test_a_target_is_silenced_there_and_heard_again(alertmanager):
    post = alertmanager(free_port(), "none")
    made = Alertmanager("paging", Alertmanager.Config(url=post.url))
    assert isinstance(made, Silencer)
    act = SilenceTarget(SilenceTarget.Params(**{"for": "1h", "reason": "we reboot it"}), made)
    step = Step("run-1/quiet", "silence", "service:shop", {}, by="homeostat:run-1")
    assert not act.reached(step, await act.observe(step))
    done = await act.run(step)
    await act.run(step)

    def silences():
        found = httpx.get(f"{post.url}/api/v2/silences").json()
        return [s for s in found if s["status"]["state"] == "active"]

    (one,) = silences()
    assert one["createdBy"] == "homeostat:run-1"
    assert one["comment"] == "we reboot it [run-1/quiet]"
    post(startsAt=datetime.now(UTC))

    def suppressed():
        alerts = httpx.get(f"{post.url}/api/v2/alerts").json()
        return [a for a in alerts if a["status"]["state"] == "suppressed"]

    wait_for("the alert", suppressed)
    assert act.reached(step, await act.observe(step))
    await act.undo(step, done.undo)
    assert silences() == []
    assert "already" in (await act.undo(step, done.undo)).summary
    with pytest.raises(Refused, match="alerts have no label for model:fraud"):
        await made.silence("k", "model:fraud", time.time() + 60, "me", "why")
    await made.close()
    said = await made.describe()
    assert "may silence by" in said[0]
    assert f"      - url: http://127.0.0.1:8787{made.routes()[0].path}" in said, "its own way in"
    await made.close()
