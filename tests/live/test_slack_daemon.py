"""A real daemon that talks to the stand-in for Slack: a message, a press, a kill in between, the same message."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest
from daemon_process import Running
from slack_side import APP, BOT, CHANNEL, OLGA, SlackSide
from slack_talk import until

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytest.importorskip("matplotlib", reason="needs the extra `charts`")
pytestmark = pytest.mark.live
YAML = """\
connectors:
  slack:
    channel: {channel}
    api_url: '{url}/api/'
    people: {{{user}: {{name: olga, role: operator}}}}
objectives:
  - {{signal: host.memory_utilization_ratio, max: 0.0001}}
"""


async def test_an_objective_that_breaks_is_one_message_over_a_press_and_a_kill(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SLACK_BOT_TOKEN", BOT)
    monkeypatch.setenv("SLACK_APP_TOKEN", APP)
    async with SlackSide().serving() as side:
        daemon = Running(tmp_path, YAML.format(channel=CHANNEL, url=side.url, user=OLGA))
        try:
            await asyncio.to_thread(daemon.start)
            await until(lambda: side.parents and side.sockets, daemon.log.read_text, 60)
            await until(lambda: side.files, daemon.log.read_text, 60)
            await until(lambda: "image" in json.dumps(side.parents[0]["blocks"]), None, 60)
            (file,) = side.files.values()
            assert file["content"].startswith(b"\x89PNG")
            assert "memory" in side.parents[0]["text"].lower()
            await side.press(OLGA, side.parents[0], "ack")
            await until(lambda: side.said, None, 20)
            assert "You have it" in side.said[-1][1]["text"]
            await asyncio.to_thread(daemon.kill)
            # Counted before it starts again: the edit may be there before the socket is.
            edits = side.parents[0].get("edits", 0)
            await asyncio.to_thread(daemon.start)
            await until(lambda: side.sockets, daemon.log.read_text, 60)
            await until(lambda: side.parents[0].get("edits", 0) > edits, daemon.log.read_text, 60)
            assert "olga has it" in json.dumps(side.parents[0]["blocks"])
            assert len(side.parents) == 1
            assert len(side.files) == 1
            async with asyncio.timeout(60):  # what waited for the restart is delivered, and says so
                while "slack" in (await asyncio.to_thread(daemon.get, "/health")).text:  # noqa: ASYNC110  # asked of a process
                    await asyncio.sleep(0.2)
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                await asyncio.to_thread(daemon.kill)
        (press,) = daemon.journal("press")
        assert (press.body["by"], press.body["what"], press.body["came"]) == (
            "olga (operator, slack)",
            "ack",
            "done",
        )
        kept = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
        assert all(secret.encode() not in data for data in kept for secret in (BOT, APP))


STORM = """\
connectors:
  slack: {{channel: {channel}, api_url: '{url}/api/', severities: [page, warning]}}
  alertmanager: {{}}
services: [{{id: shop}}]
diagnose: {{settle: 1s}}
"""
QUIET_S = 12.0
"""Longer than there is between two edits of one message."""
CALLS = ("chat.postMessage", "chat.update", "chat.postEphemeral", "files.getUploadURLExternal",
         "files.completeUploadExternal")  # fmt: skip


async def looked_at(http, page):
    """Return how many seconds a page took."""
    began = time.monotonic()
    answer = await http.get(page)
    assert answer.status_code == 200, (page, answer.text)
    return time.monotonic() - began


async def followed(http, heard):
    """Follow what consoles are told, as one of them does: when, and which event."""
    async with http.stream("GET", "/api/events", timeout=30.0) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                heard.append((time.monotonic(), line.removeprefix("event: ")))


async def settled(side):
    """Return what was asked of Slack, once nothing is any more."""
    asked, last = [], time.monotonic()
    async with asyncio.timeout(120.0):
        while time.monotonic() - last < QUIET_S:
            found = [name for name, _ in side.calls if name in CALLS]
            if len(found) != len(asked):
                asked, last = found, time.monotonic()
            await asyncio.sleep(0.1)
    return asked


async def test_a_storm_of_a_thousand_is_one_incident_and_few_calls_and_the_console_lives(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SLACK_BOT_TOKEN", BOT)
    monkeypatch.setenv("SLACK_APP_TOKEN", APP)
    async with SlackSide().serving() as side:
        daemon = Running(tmp_path, STORM.format(channel=CHANNEL, url=side.url))
        try:
            await asyncio.to_thread(daemon.start)
            words = ["token", "add", "am", "--role", "operator", "--json"]
            made = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-P", "-m", "agent", *words, "--config", str(daemon.config),
                 "--state", str(daemon.state)],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            token = {"authorization": f"Bearer {json.loads(made.stdout)['token']}"}
            await until(lambda: side.sockets, daemon.log.read_text, 60)
            base, now = f"http://127.0.0.1:{daemon.port}", datetime.now(UTC).isoformat()
            looked, heard = [], []
            async with httpx.AsyncClient(base_url=base, timeout=10.0) as http:
                following = asyncio.create_task(followed(http, heard))
                await until(lambda: heard, daemon.log.read_text, 30)
                for tenth in range(10):
                    alerts = [
                        {"status": "firing", "startsAt": now, "annotations": {},
                         "fingerprint": f"{tenth:02d}{n:04d}",
                         "labels": {"alertname": f"A{tenth * 100 + n}", "service": "shop"}}
                        for n in range(100)
                    ]  # fmt: skip
                    said = {"version": "4", "status": "firing", "alerts": alerts}
                    answer = await http.post("/ingest/alertmanager", json=said, headers=token)
                    assert answer.status_code == 202, answer.text
                    pages = ("/", "/api/incidents", "/api/status")
                    looked += [await looked_at(http, page) for page in pages]
                    await asyncio.sleep(0.8)
                await until(lambda: side.parents, daemon.log.read_text, 30)
                asked = await settled(side)
                seen = 0
                for _ in range(30):
                    (incident,) = (await http.get("/api/incidents")).json()
                    detail = (await http.get(f"/api/incidents/{incident['id']}")).json()
                    seen = len(detail["anomalies"]) + detail["more"]
                    if seen > 512:
                        break
                    await asyncio.sleep(1.0)
                assert not following.done(), "the stream has ended"
                following.cancel()
            assert max(looked) < 2.0, looked
            ticks = [ts for ts, event in heard if event == "tick"]
            assert len(ticks) >= 10
            assert max(b - a for a, b in itertools.pairwise(ticks)) < 5.0
            events = [event for _, event in heard]
            assert "incident" in events
            assert "lagged" not in events
            assert 512 < seen <= 1000  # what people see of a large number grows in doublings
            assert len(side.parents) == 1
            assert 1 <= len(asked) <= 5, asked
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                await asyncio.to_thread(daemon.kill)
