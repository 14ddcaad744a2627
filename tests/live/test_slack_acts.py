"""Real daemons before the stand-in for Slack: a yes and an undo that reach the world, HTTP, a webhook alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import httpx
import pytest
from aiohttp import web
from daemon_process import Running
from slack_side import APP, BOT, CHANNEL, HOOK, OLGA, SECRET, SlackSide, form, signed
from slack_talk import until

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytestmark = pytest.mark.live

BOOK = """\
version: 1
id: old-surface
title: Take the new surface away
mode: approve
order: 1
target: {kind: service}
because: {cause: serving.crash, min_confidence: 10%}
when: ['service.up < 0.5']
guard: {settle: 1s, approve: {by: operator, timeout: 10m, on_timeout: escalate}}
do:
  - {id: away, use: set_flag, with: {flag: new_ui, value: false}, undo: auto, timeout: 10s}
verify: {wait: 1s, within: 30s, expect: ['service.up > 0.5'], otherwise: undo}
tests:
  - {name: it is down, given: {service.up: 0.0}, fires: true}
"""
SHOP = """\
mode: approve
single_agent: true
manages: [{{kind: service, key: shop}}]
playbooks: {{dirs: [books]}}
services: [{{id: shop, objectives: [{{signal: service.up, min: 1, for: 1s}}]}}]
diagnose: {{settle: 2s, resolve_after: 3s}}
connectors:
  slack:
    channel: {channel}
    api_url: '{slack}/api/'
    charts: none
    people: {{{user}: {{name: olga, role: operator}}}}
  front: {{use: probe, service: shop, url: '{shop}/', interval: 1s}}
  surface: {{use: flag_file, service: shop, path: '{flags}', may: [new_ui]}}
"""
MEMORY = """\
objectives:
  - {signal: host.memory_utilization_ratio, max: 0.0001}
connectors:
"""


@contextlib.asynccontextmanager
async def shop(flags):
    """Serve a shop that fails while its new surface is on."""

    async def answer(_):
        return web.Response(status=500 if json.loads(flags.read_text())["new_ui"] else 200)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def daemon(folder, yaml):
    one = Running(folder, yaml)
    try:
        await asyncio.to_thread(one.start)
        yield one
    finally:
        if one.process is not None and one.process.poll() is None:
            await asyncio.to_thread(one.kill)


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    for name, value in (("BOT_TOKEN", BOT), ("APP_TOKEN", APP), ("SIGNING_SECRET", SECRET)):
        monkeypatch.setenv(f"SLACK_{name}", value)


def said(message):
    return message["text"] + json.dumps(message["blocks"], ensure_ascii=False)


async def test_a_yes_in_slack_heals_what_was_broken_and_an_undo_there_puts_it_back(tmp_path):
    flags = tmp_path / "flags.json"
    flags.write_text('{"new_ui": false}')
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "old-surface.yaml").write_text(BOOK)
    async with SlackSide().serving() as side, shop(flags) as url:
        yaml = SHOP.format(channel=CHANNEL, slack=side.url, user=OLGA, shop=url, flags=flags)
        async with daemon(tmp_path, yaml) as one:

            def log():
                return one.log.read_text()[-3000:], [m["text"] for m in side.parents]

            await until(lambda: side.sockets, log, 60)
            await asyncio.sleep(5.0)  # it is seen well first
            flags.write_text('{"new_ui": true}')
            await until(lambda: any("approve" in side.buttons(m) for m in side.parents), log, 60)
            (message,) = [m for m in side.parents if "approve" in side.buttons(m)]
            assert "needs you: say yes or no" in said(message)
            assert "*Would do* Take the new surface away, on shop: set flag" in said(message)
            assert json.loads(flags.read_text()) == {"new_ui": True}, "nobody has said yes yet"
            await side.press(OLGA, message, "approve")
            await until(lambda: side.said, log, 20)
            assert "Approved" in side.said[-1][1]["text"]
            await until(lambda: json.loads(flags.read_text()) == {"new_ui": False}, log, 30)
            await until(lambda: "*Tried* old-surface on shop: helped" in said(message), log, 90)
            await until(lambda: "resolved, healed by a playbook" in said(message), log, 90)

            await side.press(OLGA, message, "undo")
            await until(lambda: side.views, log, 20)
            await side.submit(OLGA, reason="it was worth a try")
            await until(lambda: json.loads(flags.read_text()) == {"new_ui": True}, log, 60)
        presses = [(e.body["what"], e.body["by"], e.body["came"]) for e in one.journal("press")]
        assert presses == [
            ("approve", "olga (operator, slack)", "done"), ("undo", "olga (operator, slack)", "a form was opened"),
            ("undo", "olga (operator, slack)", "done"),
        ]  # fmt: skip
        (approval,) = one.journal("approval")
        assert approval.body["person"] == "olga (operator, slack)"


async def test_over_http_a_press_is_taken_once_also_over_a_restart(tmp_path):
    async with SlackSide().serving() as side:
        yaml = (
            f"public_url: https://homeostat.example.org\n{MEMORY}"
            f"  slack: {{mode: http, channel: {CHANNEL}, api_url: '{side.url}/api/', charts: none,"
            f" people: {{{OLGA}: {{name: olga, role: operator}}}}}}\n"
        )
        async with (
            daemon(tmp_path, yaml) as one,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{one.port}", timeout=10.0) as http,
        ):

            async def post(body, headers):
                kind = "application/x-www-form-urlencoded"
                by = {"host": "homeostat.example.org", "x-forwarded-proto": "https",
                      "x-forwarded-for": "54.1.2.3", "content-type": kind}  # fmt: skip
                return (
                    await http.post("/ingest/slack", content=body, headers={**by, **headers})
                ).status_code

            await until(lambda: side.parents and side.buttons(side.parents[0]), one.log.read_text, 60)  # fmt: skip
            body = form(side.press_payload(OLGA, side.parents[0], side.button(side.parents[0], "ack")))  # fmt: skip
            assert await post(body, signed(body, key="another")) == 401
            headers = signed(body)
            assert await post(body, headers) == 200
            await until(lambda: side.said, one.log.read_text, 20)
            assert "You have it" in side.said[-1][1]["text"]
            assert await post(body, headers) == 401
            assert side.opened == 0, "no socket is opened"
            await asyncio.to_thread(one.kill)
            # it was signed a second ahead, and is of before the start only when that has passed
            await asyncio.sleep(
                max(0.0, float(headers["x-slack-request-timestamp"]) - time.time()) + 0.1
            )
            await asyncio.to_thread(one.start)
            assert await post(body, headers) == 401
            status = form(side.command_payload(OLGA, "status"))
            assert await post(status, {}) == 401
            async with asyncio.timeout(30.0):
                while await post(status, signed(status)) != 200:  # noqa: ASYNC110  # it does not talk yet
                    await asyncio.sleep(0.5)
            await until(lambda: len(side.said) == 2, one.log.read_text, 20)
        came = [(e.body["what"], e.body["came"]) for e in one.journal("press")]
        assert came.count(("ack", "done")) == 1
        assert any(what == "a replayed request" for what, _ in came)


async def test_a_webhook_alone_tells_and_takes_nothing(tmp_path, monkeypatch):
    flags = tmp_path / "flags.json"
    flags.write_text('{"new_ui": true}')
    async with SlackSide().serving() as side, shop(flags) as url:
        monkeypatch.setenv("SLACK_WEBHOOK_URL", side.url + HOOK)
        yaml = (
            "services: [{id: shop, objectives: [{signal: service.up, min: 1, for: 1s}]}]\n"
            f"connectors:\n  slack: {{mode: webhook, api_url: '{side.url}/api/'}}\n"
            f"  front: {{use: probe, service: shop, url: '{url}/', interval: 1s}}\n"
        )
        async with daemon(tmp_path, yaml) as one:
            await until(lambda: side.hooked, one.log.read_text, 60)
            assert "shop" in side.hooked[0]["text"]
            assert "actions" not in json.dumps(side.hooked)
            assert side.calls == []
            health = await asyncio.to_thread(one.get, "/health")
            assert "slack" not in health.text
            posted = await asyncio.to_thread(
                httpx.post, f"http://127.0.0.1:{one.port}/ingest/slack", timeout=5.0
            )
            assert posted.status_code in {401, 404}
            await asyncio.to_thread(one.kill)
            await asyncio.to_thread(one.start)
            await asyncio.sleep(3.0)
            texts = [m["text"] for m in side.hooked]
            assert len(texts) == len(set(texts)), "a restart tells nothing twice"
