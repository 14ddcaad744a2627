"""Replicas behind a real HTTP server, with and without ETags, by the verbs that use them."""

import dataclasses
import http.server
import json
import threading

import pytest
from pydantic import ValidationError

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Step
from connectors import fleet_http
from connectors.fleet_http import FleetHttp
from playbooks.actions.restart import Restart, Restarter
from playbooks.actions.scale import Scale, Scaler

WEB = "service:web"


class Platform(http.server.BaseHTTPRequestHandler):
    """Something that runs replicas; a test sets how it fails on the server."""

    def say(self, status: int, body=None) -> None:
        sent = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if self.server.tags:
            self.send_header("ETag", f'"{self.server.version}"')
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self):
        it = self.server
        it.tokens.append(self.headers["authorization"])
        if it.status:
            self.say(it.status)
            return
        units = [
            {"name": n, "birth": f"{n}-{life}", "well": it.heals} for n, life in it.lives.items()
        ]
        ready = len(units) if it.heals else 0
        self.say(
            200, {"spec": {"replicas": it.replicas}, "status": {"ready": ready}, "units": units}
        )

    def do_PATCH(self):
        it = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["content-type"] == "application/merge-patch+json"
        if it.meanwhile:
            it.version += 1
        if self.headers["if-match"] not in {None, f'"{it.version}"'}:
            self.say(412)
            return
        it.version += 1
        it.replicas = body["spec"]["replicas"]
        it.lives = {n: it.lives.get(n, 1) for n in "abcdefgh"[: it.replicas]}
        self.say(500 if it.failing else 200)

    def do_POST(self):
        it = self.server
        birth = self.path.split("/")[-2]
        assert self.headers["idempotency-key"] == birth
        it.lives[birth[0]] += 1
        self.say(202)

    def log_message(self, *args):
        """Say nothing on standard error."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("FLEET_TOKEN", "Bearer t0ken")
    monkeypatch.setattr(fleet_http, "_LOOK_S", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Platform) as made:
        made.replicas, made.lives, made.version, made.tokens = 3, dict.fromkeys("abc", 1), 1, []
        made.tags, made.heals, made.meanwhile, made.failing, made.status = (
            True,
            True,
            False,
            False,
            0,
        )
        made.url = f"http://127.0.0.1:{made.server_port}/services/web"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


@pytest.fixture
async def fleet(server):
    made = FleetHttp(
        "fleet", FleetHttp.Config(
            service="web", url=server.url, headers={"authorization": "env:FLEET_TOKEN"}, max_replicas=6, wait=0.3,
            replicas="spec.replicas", ready="status.ready",
        ),
    )  # fmt: skip
    assert isinstance(made, Scaler)
    assert isinstance(made, Restarter)
    yield made
    await made.close()


async def planned(act, use):
    step = Step("run-1/step", use, WEB, {}, by="homeostat:run-1")
    return dataclasses.replace(step, before=json.loads(json.dumps(await act.observe(step))))


@pytest.mark.parametrize("tags", [True, False])
async def test_it_scales_and_back(server, fleet, tags):
    server.tags = tags
    act = Scale(Scale.Params(by=2), fleet)
    step = await planned(act, "scale")
    done = await act.run(step)
    assert (server.replicas, done.summary) == (5, "service:web runs 5 replicas, 3 before")
    assert (await act.run(step)).undo == done.undo
    await act.undo(step, done.undo)
    assert server.replicas == 3
    assert set(server.tokens) == {"Bearer t0ken"}


async def test_who_changed_it_meanwhile_wins(server, fleet):
    with pytest.raises(Refused, match="runs 3 replicas, not 4: changed by others"):
        await fleet.set_replicas(WEB, 5, 4)
    server.meanwhile = True
    with pytest.raises(Refused, match="412: changed by others just now"):
        await fleet.set_replicas(WEB, 5, 3)
    assert server.replicas == 3


async def test_replicas_are_restarted_one_by_one_and_once(server, fleet):
    act = Restart(Restart.Params(), fleet)
    step = await planned(act, "restart")
    assert step.before["units"]["b-1"] == "replica:web/b"
    await act.run(step)
    assert server.lives == {"a": 2, "b": 2, "c": 2}
    await act.run(step)
    assert server.lives == {"a": 2, "b": 2, "c": 2}
    with pytest.raises(Refused, match="no replica a-1: it was restarted already"):
        await fleet.restart(WEB, "a-1")


async def test_what_does_not_come_about_is_uncertain(server, fleet):
    server.heals = False
    with pytest.raises(Uncertain, match="0 of 4 replicas are ready, after 300 ms"):
        await fleet.set_replicas(WEB, 4, 3)
    server.heals, server.failing = True, True
    with pytest.raises(Uncertain, match="500; it may have been done"):
        await fleet.set_replicas(WEB, 5, 4)


@pytest.mark.parametrize(
    ("status", "error"), [(503, Unavailable), (500, Unavailable), (404, Refused), (401, Refused)]
)
async def test_failures_say_what_to_do(server, fleet, status, error):
    server.status = status
    with pytest.raises(error, match=rf"GET {server.url}: {status}"):
        await fleet.replicas(WEB)
    assert str(status) in (await fleet.describe())[0]


async def test_bounds_and_names(server, fleet):
    for n in (0, 7):
        with pytest.raises(Refused, match=f"may run 1 to 6 replicas, not {n}"):
            await fleet.set_replicas(WEB, n, 3)
    with pytest.raises(Refused, match="runs service:web, not service:db"):
        await fleet.replicas("service:db")
    assert (await fleet.describe())[0] == f"{server.url}: 3 of 3 replicas are ready"
    other = FleetHttp("f", FleetHttp.Config(service="web", url=server.url, units="none"))
    with pytest.raises(Refused, match="tells no number of replicas: mend `replicas` of f"):
        await other.replicas(WEB)
    with pytest.raises(Refused, match="lists no replicas, so none can be restarted"):
        await other.units(WEB)
    await other.close()
    with pytest.raises(ValidationError):
        FleetHttp.Config(service="web", url=server.url, replicas="a..b")
