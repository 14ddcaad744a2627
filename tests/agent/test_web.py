import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from desk_story import OPERATOR, House, Story, free_port
from pydantic import TypeAdapter

from agent import _server, api, doors, gate
from agent.api import Way
from agent.authority import NEEDS
from agent.budget import Day
from agent.doors import serve, split_address
from agent.errors import Refused, Unavailable
from agent.events import Events
from agent.inlets import SMALL, Inlets
from agent.intake import Counting
from agent.ports import Inlet, LabelBatch, Route, Taken
from agent.telemetry import OPENMETRICS, TEXT
from agent.web import table


@contextlib.asynccontextmanager
async def open_house(tmp_path, *, metrics="", ingest="", **kw):
    house = House(tmp_path, **kw)
    async with serve(
        house.app, house.events, port=0, uds=house.socket, metrics=metrics, ingest=ingest
    ) as site:
        house.site = site
        house.url = f"http://127.0.0.1:{site.port}"
        async with (
            httpx.AsyncClient(base_url=house.url, trust_env=False, verify=False) as house.http,
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(house.socket), verify=False),
                base_url="http://localhost",
            ) as house.unix,
        ):
            yield house
    house.story.close()


@pytest.fixture
async def house(tmp_path):
    async with open_house(tmp_path) as made:
        yield made


# ---- reading


async def test_every_way_answers_what_its_document_says(house):
    ids = {"id": "inc-7f", "name": "x", "model": "fraud", "seq": "1"}
    for way in table.ways(house.desk):
        if way.method != "GET":
            continue
        own = {"runs": "run-22", "playbooks": "backup-model"}.get(way.path.split("/")[2], "inc-7f")
        own = "calm-neighbour" if way.name in {"plan", "dry_run"} else own
        path = way.path.format(**ids | {"id": own})
        query = {
            "chart": {"series": "service.latency_p95_seconds"}, "compare": {"a": "6", "b": "7"},
            "edges": {"version": "6"}, "features": {"version": "6"}, "explore_rank": {"start": "5m"},
            "explore_score": {"series": "service.latency_p95_seconds"},
            "explore_past": {"series": "service.latency_p95_seconds"}, "why_not": {"target": "model:wine"},
            "plan": {"target": "model:wine"}, "dry_run": {"target": "model:wine"},
        }.get(way.name, {})  # fmt: skip
        said = await house.unix.get(path, params=query)
        assert said.status_code == 200, (way.path, said.text)
        assert said.headers["cache-control"] == "no-store"
        TypeAdapter(way.returns).validate_python(said.json(), strict=True)


async def test_the_document_knows_every_way_and_all_it_refers_to(house):
    said = (await house.http.get("/api/openapi.json")).json()
    assert said["openapi"].startswith("3.1")
    ours = {(w.path, w.method.lower()) for w in table.ways(house.desk)}
    theirs = {(path, method) for path, some in said["paths"].items() for method in some}
    assert ours < theirs
    assert ("/api/events", "get") in theirs
    ids = [op["operationId"] for some in said["paths"].values() for op in some.values()]
    assert len(ids) == len(set(ids))
    for ref in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(said)):
        assert ref in said["components"]["schemas"], ref
    silence = said["paths"]["/api/silences"]["post"]
    schema = silence["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert "for" in said["components"]["schemas"][schema.rpartition("/")[2]]["properties"]
    names = {p["name"] for p in said["paths"]["/api/chart"]["get"]["parameters"]}
    assert names == {"series", "from", "to"}


async def test_reading_on_loopback_is_free_and_acting_is_not(house):
    assert (await house.http.get("/api/incidents")).status_code == 200
    assert (await house.http.get("/api/me")).json()["via"] == "loopback"
    said = await house.http.post("/api/pause", json={})
    assert said.status_code == 401
    assert said.headers["www-authenticate"].startswith("Bearer")
    assert said.json()["remedy"].startswith("make one with: homeostat token add")
    assert (await house.http.get("/api/tokens")).status_code == 401
    assert house.desk.pauses() == []


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)])
async def test_a_token_may_what_its_role_may(house, role, status):
    said = await house.http.post("/api/pause", json={"reason": "x"}, headers=house.token(role))
    assert said.status_code == status
    assert bool(house.desk.pauses()) == (status == 200)


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)])
async def test_who_may_take_an_incident_takes_it_once(house, role, status):
    path, body, headers = "/api/incidents/inc-7f/ack", {"reason": "mine"}, house.token(role)
    assert (await house.http.post(path, json=body)).status_code == 401
    said = await house.http.post(path, json=body, headers=headers)
    assert said.status_code == status
    seen = (await house.http.get("/api/incidents/inc-7f")).json()
    if status != 200:
        assert (seen["state"], seen["turns"]) == ("open", [])
        return
    assert seen["state"] == "acknowledged"
    assert (seen["turns"][-1]["by"], seen["turns"][-1]["why"]) == (
        f"a-{role} ({role}, token)",
        "mine",
    )
    assert (await house.http.post(path, json=body, headers=headers)).status_code == 409


@pytest.mark.parametrize("header", ["Bearer nonsense", "Basic YTpi", "Bearer", ""])
async def test_a_wrong_token_is_nobody_even_for_reading(house, header):
    said = await house.http.get("/api/status", headers={"authorization": header})
    assert said.status_code == (401 if header else 200)


async def test_the_socket_is_known_by_the_kernel(house):
    me = (await house.unix.get("/api/me")).json()
    assert (me["role"], me["via"]) == ("admin", "socket")
    assert stat.S_IMODE(house.socket.stat().st_mode) == 0o600
    made = (await house.unix.post("/api/tokens", json={"name": "ci", "role": "operator"})).json()
    headers = {"authorization": f"Bearer {made['token']}"}
    assert (await house.http.get("/api/me", headers=headers)).json()["name"] == "ci"


@pytest.fixture
def open_folder():
    """A folder that every user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else for a moment")
async def test_another_uid_is_refused_on_the_socket(open_folder):
    async with open_house(open_folder) as house:
        house.socket.parent.chmod(0o755)
        house.socket.chmod(0o666)
        sock = socket.socket(socket.AF_UNIX)
        os.seteuid(65534)
        try:
            sock.connect(str(house.socket))
        finally:
            os.seteuid(0)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"GET /api/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = (await loop.sock_recv(sock, 4096)).decode()
        sock.close()
        assert "403" in said.split("\r\n")[0]
        assert "uid 65534" in said


# ---- what a web page of somebody else could try


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "[::", ""]
)
async def test_a_rebound_name_is_refused(house, host):
    for path in ("/", "/api/status", "/metrics"):
        said = await house.http.get(path, headers={"host": host})
        assert said.status_code == 403, path
        assert "incident" not in said.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8787"])
async def test_our_own_names_are_ours(house, host):
    assert (await house.http.get("/api/status", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)
async def test_a_foreign_page_can_not_ask_even_with_a_token(house, headers):
    headers = {**headers, **house.token("admin")}
    assert (await house.http.post("/api/pause", headers=headers)).status_code == 403
    assert (await house.http.get("/api/status", headers=headers)).status_code == 403
    assert house.desk.pauses() == []


async def test_the_console_itself_may_ask(house):
    mine = {"origin": house.url, "sec-fetch-site": "same-origin"}
    assert (await house.http.get("/api/status", headers=mine)).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await house.http.get("/", headers=link)).status_code == 200


async def test_behind_a_proxy_reading_needs_a_token(tmp_path):
    async with open_house(tmp_path, public_url="https://heal.example/") as house:
        there = {"host": "heal.example"}
        assert (await house.http.get("/", headers=there)).status_code == 200
        assert (await house.http.get("/api/status", headers=there)).status_code == 401
        assert (await house.http.get("/metrics", headers=there)).status_code == 401
        token = house.token("operator")
        ours = {**there, **token, "origin": "https://heal.example"}
        assert (await house.http.post("/api/pause", headers=ours, json={})).status_code == 200
        forwarded = {"x-forwarded-for": "203.0.113.9"}
        assert (await house.http.get("/api/status", headers=forwarded)).status_code == 401
        assert (await house.http.get("/health", headers=there)).json() == {"status": "degraded"}


@pytest.mark.parametrize(
    ("public", "told", "status"),
    [
        ("https://heal.example", {}, 200),
        ("https://heal.example", {"x-forwarded-proto": "https"}, 200),
        ("https://heal.example", {"x-forwarded-proto": "http"}, 403),
        ("http://heal.example", {}, 403),
        ("http://heal.example", {"x-forwarded-proto": "https"}, 200),
    ],
)
async def test_a_token_from_elsewhere_needs_tls(tmp_path, public, told, status):
    async with open_house(tmp_path, public_url=public) as house:
        there = {"host": "heal.example", "x-forwarded-for": "203.0.113.9", **told}
        said = await house.http.get("/api/status", headers={**there, **house.token("viewer")})
        assert said.status_code == status
        here = await house.http.get("/api/status", headers=house.token("admin"))
        assert here.status_code == 200  # nobody listens on loopback


async def test_every_answer_carries_the_policy(house):
    for path in ("/", "/api/status", "/nothing", "/metrics", "/static/app.js"):
        headers = (await house.http.get(path)).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


# ---- errors and limits


async def test_errors_say_what_and_what_to_do(house):
    admin = house.token("admin")

    async def said(method, path, **kw):
        answer = await house.http.request(method, path, headers=admin, **kw)
        return answer.status_code, answer.json()

    status, body = await said("GET", "/api/incidents/zzz")
    assert (status, body["remedy"][:15]) == (404, "the newest are ")
    status, body = await said("GET", "/api/incidents/inc-7")
    assert (status, "write more" in body["remedy"]) == (409, True)
    status, body = await said("GET", "/api/nothing")
    assert (status, body["error"]) == (404, "there is no /api/nothing")
    assert (await said("DELETE", "/api/pause"))[0] == 405
    status, body = await said(
        "POST", "/api/silences", json={"target": "web-1", "for": "1h", "wat": 1}
    )
    assert (status, "wat" in body["error"]) == (400, True)
    status, body = await said("POST", "/api/silences", content=b"{")
    assert (status, "not JSON" in body["error"]) == (400, True)
    status, body = await said("GET", "/api/incidents", params={"limit": "many"})
    assert (status, body["error"].startswith("limit: ")) == (400, True)
    status, body = await said("POST", "/api/pause", content=b"x" * 70_000)
    assert status == 413


async def test_a_body_of_unknown_length_is_cut_at_the_limit(house):
    async def endless():
        for _ in range(100):
            yield b" " * 4096

    said = await house.http.post("/api/pause", content=endless(), headers=house.token("admin"))
    assert said.status_code == 413


async def test_a_body_that_does_not_come_is_given_up(house, monkeypatch):
    monkeypatch.setattr(gate, "_READ_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.site.port)
    token = house.token("admin")["authorization"]
    writer.write(
        f"POST /api/pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\nContent-Length: 10\r\n\r\n".encode()
    )
    assert b"503" in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_a_connection_that_says_nothing_is_closed(house, monkeypatch):
    monkeypatch.setattr(_server, "_FIRST_REQUEST_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.site.port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_bug_is_told_as_a_bug_and_the_rest_lives(tmp_path):
    def broken(_):
        raise ZeroDivisionError("secret detail")

    async def slow(_):
        await asyncio.sleep(60)

    ways = (
        Way("GET", "/api/broken", "broken", "see", "x", broken),
        Way("GET", "/api/slow", "slow", "see", "x", slow),
    )
    async with open_house(tmp_path, extra=ways) as house:
        said = await house.http.get("/api/broken")
        assert said.status_code == 500
        assert "secret" not in said.text
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(api, "_ANSWER_S", 0.1)
            assert (await house.http.get("/api/slow")).status_code == 503
        assert (await house.http.get("/api/status")).status_code == 200


async def test_a_flood_on_tcp_does_not_keep_the_stop_command_out(house):
    flood = [await asyncio.open_connection("127.0.0.1", house.site.port) for _ in range(80)]
    try:
        assert (await house.http.get("/api/status")).status_code == 503
        said = await house.unix.post("/api/pause", json={"reason": "flood"})
        assert said.status_code == 200
    finally:
        for _, writer in flood:
            writer.close()


# ---- console, metrics, health


async def test_static_files_are_served_and_nothing_above_them(house):
    page = await house.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    script = await house.http.get("/static/uplot/uPlot.iife.min.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = await house.http.get(
        "/static/uplot/uPlot.iife.min.js", headers={"if-none-match": script.headers["etag"]}
    )
    assert again.status_code == 304
    assert again.content == b""
    for path in (
        "/static/", "/static/../pyproject.toml", "/static/..%2f..%2fpyproject.toml", "/static/%2e%2e/x.js",
        "/static/uplot/LICENSE", "/static/nothing.js", "/static/.hidden.js", "/static//etc/passwd.js",
    ):  # fmt: skip
        assert (await house.http.get(path)).status_code == 404, path


async def test_metrics_in_both_dialects(house):
    house.desk.label(OPERATOR, "inc-1a", "noise")
    plain = await house.http.get("/metrics")
    assert plain.headers["content-type"] == TEXT
    lines = plain.text.splitlines()
    assert 'homeostat_incidents_open{severity="page"} 1.0' in lines
    assert "homeostat_false_pages_last_week 1" in lines
    assert "homeostat_false_pages_budget_per_week 2.0" in lines
    assert "homeostat_console_notes_budget_per_day 1.0" in lines
    assert "homeostat_budget_tightness 1.0" in lines
    assert not [x for x in lines if x.startswith("homeostat_false_pages_per_week{")]  # unknown yet
    assert 'homeostat_source_fresh{source="predictions.feed"} 0.0' in lines
    assert 'homeostat_learning{source="models"} 1.0' in lines
    assert 'homeostat_impossible_values_total{source="host"} 2.0' in lines
    assert 'homeostat_runs_live{state="waiting_approval"} 1.0' in lines
    assert any(
        x.startswith('homeostat_service_latency_p95_seconds{entity="service:wine"}') for x in lines
    )
    other = await house.http.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert other.headers["content-type"] == OPENMETRICS
    assert other.text.endswith("# EOF\n")
    assert any(
        x.startswith('homeostat_http_requests_total{route="metrics"')
        for x in other.text.splitlines()
    )


async def test_measured_rates_are_in_the_metrics_once_they_are_known(house):
    today = int(house.story.now // 86_400)
    house.story.hooks.ledger.days.update({today - n: Day(86_400.0, 30.0, 9, 0) for n in range(7)})
    house.desk.label(OPERATOR, "inc-1a", "noise")
    lines = (await house.http.get("/metrics")).text.splitlines()
    measured = {x.split(" ")[0]: float(x.split(" ")[1]) for x in lines if "{bound=" in x}
    assert measured['homeostat_false_pages_per_week{bound="low"}'] < 1
    assert (
        measured['homeostat_false_pages_per_week{bound="high"}'] > 2
    )  # the other page has no label
    assert 6 < measured['homeostat_anomalies_per_day{bound="low"}'] < 9
    assert "homeostat_anomalies_budget_per_day 30.0" in lines
    (rarer,) = [x for x in lines if x.startswith('homeostat_signals_labelled{direction="rarer"}')]
    assert float(rarer.split(" ")[1]) == len(house.desk.budget()["signals"])


async def test_what_strangers_call_does_not_become_a_label(house):
    for i in range(5):
        await house.http.get(f"/nothing/{i}")
    text = (await house.http.get("/metrics")).text
    assert 'homeostat_http_requests_total{route="none",method="any",code="404"} 5.0' in text


async def test_health_is_degraded_when_blind_and_failing_when_still(house):
    said = await house.http.get("/health")
    assert (said.status_code, said.json()["status"]) == (200, "degraded")
    assert said.json()["sources"]["predictions.feed"]["state"] == "blind"
    house.story.hooks.blind = False
    assert (await house.http.get("/health")).json()["status"] == "ok"
    house.wall += 11
    said = await house.http.get("/health")
    assert (said.status_code, said.json()["status"]) == (503, "failing")
    assert said.json()["problems"] == ["no tick for 11 s"]
    house.story.hooks.faults = lambda: ["history: no space left on device"]
    house.wall -= 11
    assert (await house.http.get("/health")).json()["status"] == "degraded"


async def test_health_fails_when_the_journal_can_not_be_written(house, monkeypatch):
    journal = house.story.hooks.journal
    monkeypatch.setattr(journal, "_insert", lambda: False)  # as a full disk answers
    with contextlib.suppress(Unavailable):
        house.desk.label(OPERATOR, "inc-1a", "noise")
    said = await house.http.get("/health")
    assert said.status_code == 503
    assert "journal" in said.json()["problems"][0]
    assert (await house.http.get("/ready")).status_code == 503


async def test_ready_comes_with_the_first_frame(house):
    assert (await house.http.get("/ready")).json()["status"] == "ok"
    house.story.hooks.ready = False
    said = await house.http.get("/ready")
    assert (said.status_code, said.json()["problems"]) == (503, ["no source has answered yet"])


async def test_a_probe_without_our_name_learns_only_how_it_is(house):
    said = await house.http.get("/health", headers={"host": "10.1.2.3:8787"})
    assert said.json() == {"status": "degraded"}


# ---- events


async def read_event(lines):
    event = {}
    async for line in lines:
        if line.startswith("event: "):
            event["kind"] = line[7:]
        elif line.startswith("data: "):
            event["data"] = json.loads(line[6:])
        elif not line and "kind" in event:
            return event
    return None


async def test_consoles_are_told_while_it_happens(house):
    async with house.http.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith("retry:")
        await house.unix.post("/api/runs/run-22/approve", json={})
        first = await asyncio.wait_for(read_event(lines), 10)
        second = await asyncio.wait_for(read_event(lines), 10)
        assert first == {"kind": "state", "data": {"kind": "approval", "subject": "run-22c0ffee"}}
        assert second["kind"] == "run"
        assert second["data"]["state"] == "acting"
    for _ in range(100):
        if not len(house.events):
            break
        house.events.publish("tick", {})
        await asyncio.sleep(0.05)
    assert len(house.events) == 0


async def test_too_many_consoles_are_told_so(house):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(house.http.stream("GET", "/api/events"))
        said = await house.http.get("/api/events")
        assert said.status_code == 503
        assert int(said.headers["retry-after"]) > 0


async def test_a_slow_console_loses_the_oldest_and_hears_that_it_did():
    events = Events(room=2)
    listener = events.listen()
    stream = listener.stream(heartbeat_s=0.05)
    assert (await anext(stream)).startswith("retry")
    assert (await anext(stream)).startswith(":")  # nothing to tell: a heartbeat
    for i in range(5):
        events.publish("tick", {"i": i})
    said = [await anext(stream) for _ in range(3)]
    assert said[0].startswith("event: lagged")
    assert '"i":3' in said[1]
    assert '"i":4' in said[2]
    assert events.dropped == 3
    events.close()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert len(events) == 0
    with pytest.raises(Unavailable):
        events.listen()


async def test_open_streams_do_not_hold_up_the_end(tmp_path):
    house = House(tmp_path)
    site = await doors.open_doors(house.app, house.events, port=0, uds=house.socket)
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.port}", verify=False) as http,
        http.stream("GET", "/api/events"),
    ):
        start = time.monotonic()
        await site.close()
        assert time.monotonic() - start < 5
    assert not house.socket.exists()
    house.story.close()


# ---- receivers


def refuse(body, _):
    raise Refused("line 3 is not JSON; send one object a line")


RECEIVERS = {
    "one": [Route("/ingest/rows", lambda body, kind: [(len(body), kind)], max_bytes=100)],
    "two": [Route("/ingest/rows", lambda body, kind: ["two"])],
    "three": [Route("/ingest/bad", refuse)],
}


async def test_services_push_with_a_token_and_within_limits(tmp_path):
    async with open_house(tmp_path, receivers=RECEIVERS) as house:
        token = house.token("operator")
        assert (await house.http.post("/ingest/rows", content=b"{}")).status_code == 401
        said = await house.http.post(
            "/ingest/rows", content=b"{}", headers={**token, "content-type": "application/json"}
        )
        assert (said.status_code, said.json()) == (202, {"accepted": 1})
        assert (await house.http.post("/ingest/rows/two", content=b"", headers=token)).json() == {
            "accepted": 1
        }
        assert house.pushed == [(2, "application/json"), "two"]
        assert (
            await house.http.post("/ingest/rows", content=b"x" * 101, headers=token)
        ).status_code == 413
        bad = await house.http.post("/ingest/bad", content=b"", headers=token)
        assert (bad.status_code, bad.json()["remedy"]) == (400, "send one object a line")
        packed = {**token, "content-encoding": "gzip"}
        assert (
            await house.http.post("/ingest/rows", content=b"x", headers=packed)
        ).status_code == 400
        assert (await house.http.get("/ingest/rows", headers=token)).status_code == 405
        refused = house.telemetry.value("homeostat_received_refused_total", source="one")
        assert refused == 3
        assert house.telemetry.value("homeostat_received_bytes_total", source="one") == 2


def test_a_receiver_can_not_take_a_path_of_ours(tmp_path):
    for path in ("/api/status", "/metrics", "/static/app.js"):
        with pytest.raises(Refused, match="is taken"):
            House(
                tmp_path / path.replace("/", "_"), receivers={"x": [Route(path, lambda b, c: [])]}
            )


async def test_other_doors_open_to_one_purpose_only_and_always_ask_for_a_token(tmp_path):
    scrape, ingest = free_port(), free_port()
    async with (
        open_house(
            tmp_path,
            receivers=RECEIVERS,
            metrics=f"127.0.0.1:{scrape}",
            ingest=f"127.0.0.1:{ingest}",
        ) as house,
        httpx.AsyncClient(verify=False) as http,
    ):
        viewer, operator = house.token("viewer"), house.token("operator")
        at = f"http://127.0.0.1:{scrape}"
        assert (await http.get(f"{at}/metrics")).status_code == 401
        assert (await http.get(f"{at}/metrics", headers=viewer)).status_code == 200
        assert (
            await http.get(f"{at}/metrics", headers={**viewer, "host": "web-1.lan"})
        ).status_code == 200
        assert (await http.get(f"{at}/api/status", headers=viewer)).status_code == 404
        at = f"http://127.0.0.1:{ingest}"
        assert (
            await http.post(f"{at}/ingest/rows", content=b"1", headers=operator)
        ).status_code == 202
        assert (
            await http.post(f"{at}/ingest/rows", content=b"1", headers=viewer)
        ).status_code == 403
        assert (await http.get(f"{at}/metrics", headers=operator)).status_code == 404
        assert (await http.post(f"{at}/api/pause", headers=operator)).status_code == 404


async def test_a_unix_socket_may_be_listened_on_and_says_nothing_of_who_is_there(tmp_path):
    path = tmp_path / "ingest.sock"
    async with open_house(tmp_path, receivers=RECEIVERS, ingest=f"unix:{path}") as house:
        transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            # the same uid as the daemon: on the socket for commands that would be enough
            assert (await http.post("/ingest/rows", content=b"1")).status_code == 401
            token = house.token("operator")
            assert (await http.post("/ingest/rows", content=b"1", headers=token)).status_code == 202
            assert (await http.get("/api/status", headers=token)).status_code == 404
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert not path.exists()


class Bulk:
    """A receiver of rows."""

    def inlets(self):
        return (Inlet("/ingest/bulk", lambda pushed: Taken([_labels(pushed.body.decode())])),)


def _labels(model: str) -> LabelBatch:
    return LabelBatch(model, np.zeros(1), ("r1",), ("1",))


async def test_rows_are_taken_on_our_own_port_too(tmp_path):
    counted, tally = [], []

    async def unknown(_):
        return ()

    counting = Counting(counted.append, unknown, lambda *told: tally.append(told), print)
    inlets = Inlets(
        {"bulk": Bulk()},
        counting,
        lambda scope: scope["state"]["person"],
        lambda: {"a-operator": ["fraud"]},
        SMALL,
    )
    async with open_house(tmp_path, inlets=inlets) as house:
        assert (await house.http.post("/ingest/bulk", content=b"fraud")).status_code == 401
        token = house.token("operator")
        packed = {**token, "content-encoding": "gzip"}
        said = await house.http.post(
            "/ingest/bulk", content=gzip.compress(b"fraud"), headers=packed
        )
        assert (said.status_code, said.json()) == (202, {"accepted": 1})
        assert (
            await house.http.post("/ingest/bulk", content=b"churn", headers=token)
        ).status_code == 403
        assert (await house.unix.post("/ingest/bulk", content=b"churn")).status_code == 202
        assert (await house.http.get("/ingest/bulk", headers=token)).status_code == 405
        big = await house.http.post("/ingest/bulk", content=b"x" * (SMALL.body + 1), headers=token)
        assert big.status_code == 413
    assert [batch.model for batch in counted] == ["fraud", "churn"]
    assert tally[0][0] == "bulk"


async def test_a_sender_gets_in_nowhere_but_where_rows_go(tmp_path):
    counted = []

    async def unknown(_):
        return ()

    counting = Counting(counted.append, unknown, lambda *_: None, print)
    inlets = Inlets(
        {"bulk": Bulk()}, counting, lambda scope: scope["state"]["person"], dict, SMALL
    )  # fmt: skip
    async with open_house(tmp_path, inlets=inlets) as house:
        made = await house.unix.post(
            "/api/tokens", json={"name": "edge", "role": "sender", "models": ["fraud"]}
        )
        headers = {"authorization": f"Bearer {made.json()['token']}"}
        (seen,) = [t for t in (await house.unix.get("/api/tokens")).json() if t["name"] == "edge"]
        assert seen["models"] == ["fraud"]
        for path in ("/", "/health", "/metrics", "/api/me", "/api/events", "/api/incidents"):
            assert (await house.http.get(path, headers=headers)).status_code == 403, path
        for way in table.ways(house.desk):
            path = way.path.replace("{id}", "x").replace("{name}", "edge")
            said = await house.http.request(way.method, path, headers=headers, json={})
            assert said.status_code in {400, 403}, path
        assert (
            await house.http.post("/ingest/bulk", content=b"churn", headers=headers)
        ).status_code == 403
        assert (
            await house.http.post("/ingest/bulk", content=b"fraud", headers=headers)
        ).status_code == 202
    assert [batch.model for batch in counted] == ["fraud"]


def test_an_inlet_can_not_take_a_path_that_is_taken(tmp_path):
    inlets = Inlets({"bulk": Bulk()}, None, None, dict, SMALL)
    with pytest.raises(Refused, match="is taken"):
        House(tmp_path, receivers={"x": [Route("/ingest/bulk", lambda b, c: [])]}, inlets=inlets)


# ---- doors


async def test_addresses_that_can_not_be_had_are_told_with_a_remedy(tmp_path, house):
    with pytest.raises(Refused, match=r"another homeostat running\? else set listen"):
        await doors.open_doors(house.app, Events(), port=house.site.port)
    with pytest.raises(Refused, match="loopback only"):
        await doors.open_doors(house.app, Events(), host="0.0.0.0")
    with pytest.raises(Refused, match="another daemon answers"):
        await doors.open_doors(house.app, Events(), port=0, uds=house.socket)
    with pytest.raises(Refused, match="can not be made"):
        await doors.open_doors(house.app, Events(), port=0, uds=tmp_path / "no" / "folder.sock")
    taken = tmp_path / "file"
    taken.write_text("mine")
    with pytest.raises(Refused, match="is no socket"):
        await doors.open_doors(house.app, Events(), port=0, uds=taken)
    assert taken.read_text() == "mine"
    assert (await house.unix.get("/ready")).status_code == 200  # the living one was not disturbed


async def test_a_dead_socket_is_replaced_and_a_long_path_works(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = folder / "agent.sock"
    house = House(tmp_path)
    for _ in range(2):
        site = await doors.open_doors(house.app, house.events, port=0, uds=path)
        from agent.control import reach

        with reach(path) as short:
            transport = httpx.AsyncHTTPTransport(uds=short, verify=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                assert (await http.get("/ready")).status_code == 200
        for server, _ in site._servers:  # die without cleaning up, as after kill -9
            server.end()
        await asyncio.gather(*(task for _, task in site._servers))
        assert path.exists()
    house.story.close()


async def test_signals_stay_with_the_daemon(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    async with open_house(tmp_path):
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787)),
        ("[::1]:1", ("::1", 1)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses_are_read(text, said):
    assert split_address(text) == said


@pytest.mark.parametrize("text", ["", "8787", "host", "host:port", "host:99999", ":1"])
def test_bad_addresses_are_refused(text):
    with pytest.raises(Refused, match="not an address"):
        split_address(text)


def test_every_verb_of_the_table_is_used_or_meant_for_receivers(tmp_path):
    story = Story(tmp_path)
    used = {w.verb for w in table.ways(story.desk)}
    assert used | {"rows", "push"} == set(NEEDS)
    story.close()


def test_importing_the_doors_pulls_in_nothing_heavy():
    code = (
        "import sys, agent.web;"
        "print([m for m in ('sklearn','scipy','pandas','torch','dbos','anyio.to_thread.x') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- changes that are told


async def test_a_change_is_told_by_an_operator_and_counts_once(house):
    body = {"entity": "service:wine", "kind": "release", "from": "1.2", "to": "1.3", "id": "ci/812",
            "url": "https://ci.example/812", "by": "ann"}  # fmt: skip
    assert (await house.http.post("/api/changes", json=body)).status_code == 401
    said = await house.http.post("/api/changes", json=body, headers=house.token("viewer"))
    assert said.status_code == 403
    mine = house.token("operator")
    first = (await house.http.post("/api/changes", json=body, headers=mine)).json()
    assert (first["id"], first["new"], first["change"]["by"]) == ("ci/812", True, "ann")
    again = (await house.http.post("/api/changes", json=body | {"to": "9"}, headers=mine)).json()
    assert (again["new"], again["change"]["after"]) == (False, "1.3")
    (listed,) = [c for c in (await house.http.get("/api/changes")).json() if c["id"] == "ci/812"]
    assert (listed["before"], listed["after"], listed["url"]) == ("1.2", "1.3", "https://ci.example/812")  # fmt: skip
    assert listed["ts"] == house.story.now
    assert not listed["ours"]


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"kind": "act"}, 400, "kind"),
        ({"entity": "service:wien"}, 404, "did you mean service:wine"),
        ({"entity": ""}, 400, "entity"),
        ({"url": "javascript:alert(1)"}, 400, "url"),
        ({"id": "a b"}, 400, "id"),
        ({"to": "x" * 201}, 400, "to"),
        ({"ts": 1.0}, 409, "more than 7 d before"),
        ({"ts": 1_795_000_000.0 + 3600}, 409, "ahead of"),
        ({"by": "homeostat:run-1"}, 409, "our own acts"),
        ({"verison": "1"}, 400, "verison"),
    ],
)
async def test_a_change_that_can_not_be_is_refused_in_words(house, wrong, status, said):
    body = {"entity": "service:wine", "kind": "release", "to": "2", **wrong}
    answer = await house.http.post("/api/changes", json=body, headers=house.token("operator"))
    assert answer.status_code == status
    assert said in answer.text


async def test_without_words_it_is_now_and_by_the_owner_of_the_token(house):
    body = {"entity": "service:wine", "kind": "restart"}
    told = (
        await house.http.post("/api/changes", json=body, headers=house.token("operator"))
    ).json()
    assert told["new"]
    assert told["id"].startswith("chg-")
    assert told["change"]["by"] == "a-operator"
    assert told["change"]["ts"] == house.story.now


async def test_changes_of_what_a_thing_depends_on(house):
    mine = house.token("operator")
    for entity in ("host:web-1", "process:b00t/5200/9950"):
        await house.http.post("/api/changes", json={"entity": entity, "kind": "config"}, headers=mine)  # fmt: skip
    found = (await house.http.get("/api/changes", params={"target": "service:wine"})).json()
    assert [c["entity"]["id"] for c in found] == ["host:web-1"]
    old = (await house.http.get("/api/changes", params={"since": "1s"})).json()
    assert len(old) == 2


async def test_a_pipeline_elsewhere_tells_changes_at_the_door_for_pushing(tmp_path):
    port = free_port()
    async with open_house(tmp_path, ingest=f"127.0.0.1:{port}") as house:
        body = {"entity": "service:wine", "kind": "release", "to": "2"}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False
        ) as there:
            assert (await there.post("/api/changes", json=body)).status_code == 401
            mine = house.token("operator")
            assert (await there.post("/api/changes", json=body, headers=mine)).status_code == 200
            assert (await there.get("/api/changes", headers=mine)).status_code == 404
            assert (await there.post("/api/pause", json={}, headers=mine)).status_code == 404


def _vouch(headers, body):
    if headers.get("x-sign") != "sha256=" + str(len(body)):
        raise Refused("the signature is wrong; sign with the secret")


async def test_a_sender_that_signs_needs_no_token_and_one_that_does_not_is_refused(tmp_path):
    port = free_port()
    signed = Route("/ingest/hook", lambda body, _: [body], vouch=_vouch)
    plain = Route("/ingest/plain", lambda body, _: [body])
    receivers = {"hooks": [signed, plain]}
    async with open_house(tmp_path, receivers=receivers, ingest=f"127.0.0.1:{port}") as house:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False
        ) as there:
            right = {"x-sign": "sha256=4"}
            assert (
                await there.post("/ingest/hook", content=b"body", headers=right)
            ).status_code == 202
            for wrong in ({}, {"x-sign": "sha256=5"}):
                said = await there.post("/ingest/hook", content=b"body", headers=wrong)
                assert said.status_code == 401
                assert said.json()["remedy"] == "sign with the secret"
            assert (
                await there.post("/ingest/plain", content=b"body", headers=right)
            ).status_code == 401
            mine = house.token("operator")
            assert (
                await there.post("/ingest/hook", content=b"tok", headers=mine)
            ).status_code == 202
            bad = {"authorization": "Bearer nonsense", **right}
            assert (
                await there.post("/ingest/hook", content=b"body", headers=bad)
            ).status_code == 401
        near = await house.http.post("/ingest/hook", content=b"loop")
        assert near.status_code == 401
        assert house.pushed == [b"body", b"tok"]


async def test_a_signed_path_opens_nothing_else(tmp_path):
    signed = Route("/ingest/hook", lambda body, _: [body], vouch=_vouch)
    async with open_house(tmp_path, receivers={"x": [signed]}, public_url="https://heal.example") as house:  # fmt: skip
        there = {"host": "heal.example", "x-sign": "sha256=0"}
        assert (await house.http.post("/ingest/hook", headers=there)).status_code == 202
        for path in ("/api/status", "/metrics", "/ingest/hook/more"):
            assert (await house.http.get(path, headers=there)).status_code in {401, 404}
        assert (await house.http.get("/api/status", headers=there)).status_code == 401


# ---- the graph


async def test_the_graph_page_and_its_script_are_there_and_need_no_inline_anything(house):
    page = await house.http.get("/topology")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        assert (await house.http.get(name)).status_code == 200, name
    assert not re.search(r'<script(?! defer src| type="module" src)|style=|\son[a-z]+=', page.text)
    assert 'href="/topology"' in (await house.http.get("/")).text


async def test_the_graph_is_asked_for_whole_or_around_something(house):
    whole = (await house.http.get("/api/topology")).json()
    assert {n["id"] for n in whole["nodes"]} >= {"service:wine", "host:web-1", "model:wine"}
    part = (await house.http.get("/api/topology", params={"target": "web-1"})).json()
    assert "host:web-1" in {n["id"] for n in part["nodes"]}
    assert (await house.http.get("/api/topology", params={"target": "wbe-1"})).status_code == 404
    more = (await house.http.get("/api/topology", params={"everything": "true"})).json()
    assert len(more["nodes"]) >= len(whole["nodes"])


# ---- models


async def test_two_versions_edges_and_drivers_are_asked_over_http(house):
    said = (await house.unix.get("/api/models/fraud/compare", params={"a": "6", "b": "7"})).json()
    assert (said["verdict"], said["how"]) == ("worse", "together")
    assert 0.1 < said["difference"]["low"] < said["difference"]["value"]
    edges = (await house.unix.get("/api/models/fraud/edges")).json()
    assert edges["version"] == "6"
    assert edges["features"]["country"]["values"] == ["DE", "FR"]
    assert edges["features"]["amount"]["edges"] == sorted(edges["features"]["amount"]["edges"])
    row = {"version": "6", "features": {"amount": 2.0, "country": "DE"}}
    drivers = (await house.unix.post("/api/models/fraud/explain", json=row)).json()["drivers"]
    assert drivers[0]["name"] == "amount"
    assert drivers[0]["adds"] > 0.2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/models/fraud/compare?a=6&b=9", "known: 6, 7@canary"),
        ("/api/models/churn/compare?a=6&b=7", "known: fraud"),
        ("/api/models/fraud/edges?version=9", "known: 6, 7"),
        ("/api/models/fraud/compare?a=6", "b"),
    ],
)
async def test_what_is_not_known_of_models_says_what_is(house, path, says):
    said = await house.unix.get(path)
    assert 400 <= said.status_code < 500
    assert says in said.text
