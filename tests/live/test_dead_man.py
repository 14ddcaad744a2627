"""Who raises the alarm when the daemon can not: rules, a Pushgateway, an Alertmanager, a daemon, all of them real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from daemon_process import free_port, wait_for
from people_side import Side, serving

from connectors.heartbeat import Heartbeat

pytestmark = pytest.mark.live
HERE = Path(__file__).resolve().parent
PLANTED = "CANARY0123456789"


@pytest.mark.parametrize("file", ["homeostat_rules_test.yml", "homeostat_slo_rules_test.yml"])
def test_the_shipped_rules_fire_when_they_must_and_not_before(needs, file):
    promtool = needs("promtool")
    done = subprocess.run(
        [promtool, "test", "rules", str(HERE / file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@contextlib.contextmanager
def up(folder, *argv):
    """Run a server for a while; yields its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [*argv, f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as runs:
        try:
            wait_for("ready", lambda: httpx.get(f"{url}/-/ready").status_code == 200)
            yield url
        finally:
            runs.terminate()


def beat(ts, **own):
    async def once():
        made = Heartbeat("hb", Heartbeat.Config(**own))
        await made.beat(ts)
        await made.close()

    asyncio.run(once())


def test_a_beat_reaches_a_pushgateway(needs, tmp_path):
    with up(tmp_path, needs("prometheus-pushgateway")) as url:
        beat(1_800_000_000.0, url=url, style="pushgateway")
        text = httpx.get(f"{url}/metrics").text
    (line,) = [
        x for x in text.splitlines() if x.startswith("homeostat_last_tick_timestamp_seconds{")
    ]
    assert 'job="homeostat"' in line
    assert float(line.split()[-1]) == 1_800_000_000.0


def test_a_beat_is_an_alert_in_an_alertmanager_and_ends_without_the_next(needs, tmp_path):
    config = tmp_path / "am.yml"
    config.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    argv = [
        needs("prometheus-alertmanager"), f"--config.file={config}", f"--storage.path={tmp_path / 'am'}",
        "--cluster.listen-address=",
    ]  # fmt: skip
    with up(tmp_path, *argv) as url:

        def alive():
            return [a["labels"]["alertname"] for a in httpx.get(f"{url}/api/v2/alerts").json()]

        beat(time.time(), url=url, style="alertmanager", every=5)
        wait_for("the alert", lambda: alive() == ["HomeostatAlive"])
        beat(time.time() - 18, url=url, style="alertmanager", every=5)  # the end is in 2 s
        wait_for("the end", lambda: alive() == [])


def test_the_daemon_beats_and_tells_until_it_stands_still_and_its_secrets_are_nowhere(
    running, monkeypatch
):
    with serving(Side()) as side:
        monkeypatch.setenv("PING", f"{side.url}/{PLANTED}ping")
        monkeypatch.setenv("HOOK", f"{PLANTED}hook")
        one = running(
            "connectors:\n"
            "  heartbeat: {url: 'env:PING', every: 5s}\n"
            f"  webhook: {{url: '{side.url}/in', secret: 'env:HOOK', events: [changed]}}\n"
            "  gone: {use: pagerduty, routing_key: 'env:HOOK', severities: [note], "
            f"url: '{side.url}/elsewhere'}}\n"
            "services: [{id: shop}]\n"
        ).start()  # fmt: skip
        beats = lambda: sum("ping" in path for _, path, _, _ in side.asked)  # noqa: E731
        wait_for("a beat", lambda: beats() >= 1)
        made = subprocess.run(
            [sys.executable, "-P", "-m", "agent", "token", "add", "ci", "--role", "operator", "--json",
             "--config", str(one.config), "--state", str(one.state)],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        token = httpx.Response(200, text=made.stdout).json()["token"]
        change = {"entity": "service:shop", "kind": "release", "from": "1", "to": "2"}
        url = f"http://127.0.0.1:{one.port}/api/changes"
        httpx.post(
            url, json=change, headers={"authorization": f"Bearer {token}"}
        ).raise_for_status()
        told = wait_for(
            "the change", lambda: [body for _, path, _, body in side.asked if path == "/in"]
        )
        assert b"release of service:shop: 1 -> 2" in told[0]

        os.kill(one.process.pid, signal.SIGSTOP)
        time.sleep(0.5)
        before = beats()
        time.sleep(6)
        assert beats() == before
        os.kill(one.process.pid, signal.SIGCONT)
        wait_for("a beat again", lambda: beats() > before)
        side.fault = "forbidden"
        health = f"http://127.0.0.1:{one.port}/health"
        wait_for(
            "a fault that is told", lambda: "heartbeat did not arrive" in httpx.get(health).text
        )
        seen = [httpx.get(health).text, one.get("/api/status").text, one.get("/metrics").text]
        one.kill(signal.SIGTERM)
    seen += [one.log.read_text(), str(one.journal())]
    seen += [p.read_bytes().decode("latin-1") for p in one.state.rglob("*") if p.is_file()]
    assert not any(PLANTED in text for text in seen)
