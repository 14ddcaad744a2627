"""Calls to a real HTTP server: only what is allowed, once, and no secret in sight."""

import dataclasses
import http.server
import json
import threading

import pytest

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Step, Undo
from connectors.http_calls import HttpCalls
from playbooks.actions.commands import Calls, HttpCall

STEP = Step("run-1/call", "http_call", "service:web", {}, by="homeostat:run-1")
SECRET = "tok-canary-9d1f"


@pytest.fixture
def server():
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"] or 0))
            self.server.seen.append((self.path, dict(self.headers), body))
            status = self.server.status
            answer = json.dumps({"ok": True, "token": SECRET}).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/")
            if status == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            """Say nothing on standard error."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as made:
        made.seen, made.status = [], 200
        made.url = f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def calls(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)
    allow = [{"url": f"{server.url}/api/", "headers": {"authorization": "env:DEPLOY_TOKEN"}}]
    return HttpCalls("http_calls", HttpCalls.Config(allow=allow), state=tmp_path)


def act(calls: HttpCalls, url: str, **more) -> HttpCall:
    return HttpCall(HttpCall.Params(url=url, **more), calls)


async def test_a_call_is_made_once_with_its_secret_and_its_key(server, calls, tmp_path):
    assert isinstance(calls, Calls)
    one = act(calls, f"{server.url}/api/rebuild?index=3", json={"index": 3})
    step = dataclasses.replace(STEP, before=dict(await one.observe(STEP)))
    assert not one.reached(step, step.before)
    dry = await one.run(dataclasses.replace(step, dry_run=True))
    assert "would call POST" in dry.summary
    assert dry.summary.endswith("; nothing undoes it")
    assert server.seen == []
    done = await one.run(step)
    assert done.undo == {}
    assert done.summary == f"called POST {server.url}/api/rebuild: 200"
    await one.run(step)
    ((path, headers, body),) = server.seen
    assert path == "/api/rebuild?index=3"
    assert json.loads(body) == {"index": 3}
    lower = {k.lower(): v for k, v in headers.items()}
    assert lower["authorization"] == SECRET
    assert lower["idempotency-key"] == step.key
    assert one.reached(step, await one.observe(step))
    told = repr(done) + repr(await calls.describe())
    told += "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert SECRET not in told
    await calls.close()


async def test_the_inverse_that_the_playbook_declares_is_called_once(server, calls, tmp_path):
    inverse = {"url": f"{server.url}/api/unlock", "json": {"who": "me"}}
    one = act(calls, f"{server.url}/api/lock", inverse=inverse)
    assert isinstance(one, Undo)
    dry = await one.run(dataclasses.replace(STEP, dry_run=True))
    assert dry.summary.endswith(f"; undo would call POST {server.url}/api/unlock")
    done = await one.run(STEP)
    back = await one.undo(STEP, done.undo)
    assert back.change.ours
    again = HttpCalls("http_calls", calls.config, state=tmp_path)
    await act(again, f"{server.url}/api/lock", inverse=inverse).undo(STEP, done.undo)
    assert [path for path, _, _ in server.seen] == ["/api/lock", "/api/unlock"]
    lower = {k.lower(): v for k, v in server.seen[1][1].items()}
    assert lower["idempotency-key"] == f"{STEP.key}/undo"
    assert json.loads(server.seen[1][2]) == {"who": "me"}
    wrong = act(calls, f"{server.url}/api/lock", inverse={"url": f"{server.url}/admin"})
    with pytest.raises(Refused, match="is not allowed"):  # before anything is done
        await wrong.observe(STEP)
    await calls.close()
    await again.close()


@pytest.mark.parametrize(
    ("status", "error", "again"),
    [
        (404, Refused, 2),
        (302, Refused, 2),
        (429, Unavailable, 2),
        (503, Unavailable, 2),
        (500, Uncertain, 1),
    ],
)
async def test_an_answer_says_what_it_means(server, calls, status, error, again):
    one = act(calls, f"{server.url}/api/x")
    server.status = status
    with pytest.raises(error) as caught:
        await one.run(STEP)
    if status == 429:
        assert caught.value.wait_s == 7
    with pytest.raises(error):
        await one.run(STEP)
    assert len(server.seen) == again, "what may have been done is not sent again"
    await calls.close()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/admin", "is not allowed: add it to `allow`"),
        ("/api/../admin", "without `..`"),
        ("/api/%2e%2e/admin", "without `..`"),
        ("/api//x", "without `..`"),
    ],
)
async def test_only_what_is_allowed(server, calls, path, said):
    with pytest.raises(Refused, match=said):
        await act(calls, server.url + path).observe(STEP)
    with pytest.raises(Refused, match="is not allowed"):
        await act(calls, f"{server.url}/api/x", method="DELETE").observe(STEP)
    with pytest.raises(Refused, match="is not allowed"):
        await act(calls, "http://127.0.0.1.evil.example/api/x").observe(STEP)
    with pytest.raises(Refused, match="may not hold a password"):
        await act(calls, "http://me:pw@127.0.0.1/api/x").observe(STEP)
    assert server.seen == []


async def test_nobody_there_is_no_answer(tmp_path):
    made = HttpCalls("h", HttpCalls.Config(allow=[{"url": "http://127.0.0.1:1/"}]), state=tmp_path)
    with pytest.raises(Unavailable, match="no connection"):
        await act(made, "http://127.0.0.1:1/x").run(STEP)
    assert await made.answered(STEP.key) is None
    await made.close()
