"""Predictions over HTTP into the real daemon: counted, killed, reloaded, stopped."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request

import httpx
import psutil
import pytest
from daemon_process import Running, free_port, wait_for

from agent.authority import Tokens
from agent.control import Control

pytestmark = pytest.mark.live


def rows(start: int, n: int) -> list[dict]:
    now = time.time()
    return [
        {"id": f"r{i}", "ts": now, "model": "fraud", "version": "3", "features": {"age": float(i % 60), "plan": "pro"},
         "pred": str(i % 2), "proba": 0.9, "latency_ms": 20, "tags": {"name": "Ann Smith"}}
        for i in range(start, start + n)
    ]  # fmt: skip


class Sender:
    """A service that pushes."""

    def __init__(self, one: Running, port: int) -> None:
        token = Tokens(one.state / "tokens.json").add("scoring", "operator", time.time())
        self.headers = {"authorization": f"Bearer {token}"}
        self.at = f"http://127.0.0.1:{port}/ingest/predictions"

    def send(self, body) -> httpx.Response:
        return httpx.post(self.at, content=json.dumps(body), headers=self.headers, timeout=30.0)


def ingest_process(one: Running) -> psutil.Process | None:
    children = psutil.Process(one.process.pid).children()
    return next((c for c in children if "agent.intake_process" in c.cmdline()), None)


def test_rows_become_series_of_the_model_and_never_reach_the_record_or_the_log(running):
    port = free_port()
    one = running(
        f"ingest_listen: 127.0.0.1:{port}\nconnectors: {{predictions: {{drop: [name]}}}}\n"
        "models: {min_rows: 10}\nservices: [{id: scoring, models: [fraud]}]\n"
    ).start()
    sender = Sender(one, port)
    sent = 0

    def seen() -> bool:
        nonlocal sent
        assert sender.send(rows(sent, 200)).json() == {"accepted": 200}
        assert sender.send([{"id": f"r{sent}", "model": "fraud", "label": "1"}]).status_code == 202
        sent += 200
        return "homeostat_model_confidence_ratio" in one.get("/metrics").text

    wait_for("series of the model", seen)
    bytes_of = 'homeostat_received_bytes_total{source="predictions"}'
    wait_for("its count of bytes", lambda: bytes_of in one.get("/metrics").text)
    assert sender.send([{"id": "x"}]).status_code == 400
    assert one.kill(signal.SIGTERM) == 0
    assert "Ann Smith" not in one.log.read_text()
    for path in one.state.rglob("*"):
        if path.is_file():
            assert b"Ann Smith" not in path.read_bytes()


def test_it_lives_through_a_kill_a_reload_and_ends_with_the_daemon(running):
    port = free_port()
    one = running(f"ingest_listen: 127.0.0.1:{port}\nconnectors: {{predictions: {{}}}}\n").start()
    sender = Sender(one, port)
    assert sender.send(rows(0, 10)).status_code == 202
    first = ingest_process(one)
    first.kill()
    assert sender.send(rows(10, 10)).status_code == 202  # it waits until the next one is there
    second = ingest_process(one)
    assert second.pid != first.pid
    assert "intake_ended" in one.log.read_text()
    with one.config.open("a") as config:
        config.write("ingest_models: {scoring: [churn]}\n")
    Control(one.state).post("/api/reload", {})
    wait_for("the new settings", lambda: sender.send(rows(20, 1)).status_code == 403)
    third = ingest_process(one)
    assert one.get("/api/status").json()["usage"]["bugs"] == {}
    one.kill()
    wait_for("its end", lambda: not third.is_running() or third.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(httpx.TransportError):
        sender.send(rows(30, 1))


def test_changes_and_webhooks_go_through_the_same_address(running, tmp_path):
    path = tmp_path / "in.sock"
    one = running(f"ingest_listen: unix:{path}\nconnectors: {{predictions: {{}}}}\n").start()
    sender = Sender(one, 0)
    client = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x", timeout=30.0
    )
    with client:
        change = {"entity": f"host:{os.uname().nodename}", "kind": "config", "to": "b"}
        said = client.post("/api/changes", json=change, headers=sender.headers)
        assert said.status_code == 200, said.text
        assert client.post("/api/changes", json=change).status_code == 401
        assert client.get("/api/status", headers=sender.headers).status_code == 404
        assert (
            client.post("/ingest/predictions", json=rows(0, 1), headers=sender.headers).status_code
            == 202
        )
    wait_for("the change", lambda: one.get("/api/changes").json())
    assert one.kill(signal.SIGTERM) == 0
    assert not path.exists()


def test_who_sends_too_much_reads_why(running):
    """By the standard library: it writes all of the body before it looks at the answer."""
    port = free_port()
    one = running(f"ingest_listen: 127.0.0.1:{port}\nconnectors: {{predictions: {{}}}}\n").start()
    known = {**Sender(one, port).headers, "content-type": "application/json"}
    nobody = {"content-type": "application/json"}

    def push(to: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
        asked = urllib.request.Request(f"http://127.0.0.1:{to}{path}", b"x" * (32 << 20), headers)
        with pytest.raises(urllib.error.HTTPError) as no:
            urllib.request.urlopen(asked, timeout=30)
        with no.value as answer:
            return answer.code, answer.read().decode()

    for to, path in ((port, "/ingest/predictions"), (one.port, "/api/pause")):
        status, said = push(to, path, known)
        assert (status, "send it in parts" in said) == (413, True), path
        assert push(to, path, nobody)[0] == 401, path
    assert push(port, "/api/changes", known)[0] == 413
    assert one.kill(signal.SIGTERM) == 0
