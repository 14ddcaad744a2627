"""Flags behind a real HTTP server, in both shapes, with and without ETags."""

import dataclasses
import http.server
import json
import threading
from urllib.parse import unquote

import pytest

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Step
from connectors._values import merged
from connectors.flag_http import FlagHttp
from playbooks.actions.flags import Flags, SetFlag
from playbooks.actions.limits import Limiter, SetLimit


class Service(http.server.BaseHTTPRequestHandler):
    """A service with settings: an object at /config, single values below /flags/ (`bare` or `{"value": ...}`)."""

    def answer(self, status: int, body=None) -> None:
        sent = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if self.server.tags:
            self.send_header("ETag", f'"{self.server.version}"')
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self):
        self.server.tokens.append(self.headers["authorization"])
        if self.server.status:
            self.answer(self.server.status)
        elif self.path == "/config":
            self.answer(200, self.server.data)
        else:
            name = unquote(self.path.removeprefix("/flags/"))
            value = self.server.data.get(name)
            shown = value if self.server.bare else {"value": value}
            self.answer(200, shown) if value is not None else self.answer(404)

    def change(self):
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        if self.server.meanwhile:
            self.server.version += 1
        if self.headers["if-match"] not in {None, f'"{self.server.version}"'}:
            self.answer(412)
            return
        if self.server.failing:
            self.answer(500)
            return
        self.server.version += 1
        name = unquote(self.path.removeprefix("/flags/"))
        said = json.loads(body) if body else None
        value = said["value"] if isinstance(said, dict) and self.path != "/config" else said
        patch = said if self.path == "/config" else {name: value}
        self.server.data = merged(self.server.data, patch)
        self.answer(200)

    def do_PUT(self):
        self.change()

    def do_PATCH(self):
        self.change()

    def do_DELETE(self):
        self.change()

    def log_message(self, *args):
        """Say nothing on standard error."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as made:
        made.data = {"new_ui": True, "reranker": "large", "max_batch": 16, "search": {"k": 20}}
        made.tags, made.bare, made.meanwhile, made.failing = True, False, False, False
        made.status, made.version, made.tokens = 0, 1, []
        made.url = f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def flags(server, path: str) -> FlagHttp:
    config = {
        "service": "web", "url": server.url + path, "may": ["new_ui", "reranker", "max_batch", "search.k", "fresh"],
        "bounds": {"max_batch": (1, 64)}, "headers": {"authorization": "env:CONFIG_TOKEN"},
    }  # fmt: skip
    return FlagHttp("flag_http", FlagHttp.Config(**config))


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("CONFIG_TOKEN", "tok-canary-77")


async def planned(act, use: str) -> Step:
    step = Step(f"run-1/{use}", use, "service:web", {}, by="homeostat:run-1")
    return dataclasses.replace(step, before=json.loads(json.dumps(await act.observe(step))))


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("path", ["/config", "/flags/{name}"])
@pytest.mark.parametrize(("name", "value"), [("new_ui", False), ("reranker", "small"), ("fresh", 3.0)])  # fmt: skip
async def test_a_flag_is_set_and_put_back(server, path, bare, name, value):
    server.bare = bare
    before = dict(server.data)
    made = flags(server, path)
    assert isinstance(made, Flags)
    act = SetFlag(SetFlag.Params(flag=name, value=value), made)
    step = await planned(act, "set_flag")
    done = await act.run(step)
    assert server.data[name] == value
    await act.undo(step, json.loads(json.dumps(dict(done.undo))))
    assert server.data == before
    assert set(server.tokens) == {"tok-canary-77"}
    await made.close()


async def test_a_number_deeper_down_is_a_limit(server):
    made = flags(server, "/config")
    assert isinstance(made, Limiter)
    act = SetLimit(SetLimit.Params(limit="max_batch", times=0.5), made)
    await act.run(await planned(act, "set_limit"))
    assert server.data["max_batch"] == 8
    await made.set_flag("search.k", 30.0, 20, "me")
    assert server.data["search"] == {"k": 30}
    with pytest.raises(Refused, match="may be 1 to 64, not 100"):
        await made.nearest("service:web", "max_batch", 100.0)
    await made.close()


async def test_others_are_not_overwritten(server):
    made = flags(server, "/config")
    with pytest.raises(Refused, match="is True, not False: changed by others"):
        await made.set_flag("new_ui", True, False, "me")
    server.meanwhile = True
    with pytest.raises(Refused, match="was changed by others just now"):
        await made.set_flag("new_ui", False, True, "me")
    assert server.data["new_ui"] is True
    await made.close()


async def test_answers_say_what_they_mean(server):
    made = flags(server, "/config")
    server.failing = True
    with pytest.raises(Uncertain, match="500; it may have been done"):
        await made.set_flag("new_ui", False, True, "me")
    for status, error in ((401, Refused), (503, Unavailable), (500, Unavailable), (404, Refused)):
        server.status = status
        with pytest.raises(error) as caught:
            await made.flag("new_ui")
        assert "tok-canary-77" not in str(caught.value)
    server.status = 0
    assert (await made.describe())[0] == "new_ui = true"
    await made.close()
