"""The person at the terminal: what is shown, what is typed, what is sent."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agent.demo.console import Console
from agent.demo.person import Person


@pytest.fixture
def daemon():
    """A daemon's end of the wire: keeps what was posted, answers as told."""
    posted, answers = [], {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            posted.append((self.path, json.loads(body), self.headers.get("authorization")))
            status = answers.get(self.path, 200)
            raw = json.dumps({"error": "the plan has changed"} if status >= 400 else {}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.posted, server.answers = posted, answers
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(id_="run-1", state="suggested", started=1.0, **over):
    return {
        "id": id_, "state": state, "asks": state == "suggested", "started": started, "incident": "i1",
        "title": "Roll back", "target": {"id": "model:scoring", "kind": "model", "name": "scoring"},
        "plan_hash": "abc", "steps": [{"id": "back", "use": "roll_back", "temporary": True}],
        "expect": ["model.accuracy_ratio >= 0.9"],
    } | over  # fmt: skip


INCIDENT = {
    "causes": [{"words": "a new model version is worse", "entity": {"name": "scoring"}, "probability": 0.97,
                "evidence": [{"weight": 4.0, "text": "version 3 replaced 1"}]}],
    "rejected": [{"words": "drift", "evidence": [{"weight": -2.0, "text": "inputs are still"}]}],
}  # fmt: skip


@pytest.fixture
def person(daemon, tmp_path):
    said = []
    console = Console(f"http://127.0.0.1:{daemon.server_port}", tmp_path / "pages", "secret")
    yield lambda press: (Person(console, lambda text, _: said.append(text), tmp_path, press), said)
    console.close()


def test_presses_once_after_showing_plan_and_evidence(person, daemon):
    who, said = person(press=True)
    for _ in range(3):
        who.look({"run-1": run()}, {"i1": INCIDENT})
    assert daemon.posted == [("/api/runs/run-1/approve", {"plan_hash": "abc"}, "Bearer secret")]
    text = "\n".join(said)
    for piece in ("Roll back", "97% sure", "version 3 replaced 1", "not drift: inputs are still",
                  "step back: roll_back, put back later", "proven by", "approved"):  # fmt: skip
        assert piece in text


def test_a_plan_that_changed_is_told_and_the_new_one_asked(person, daemon):
    daemon.answers["/api/runs/run-1/approve"] = 409
    who, said = person(press=True)
    who.look({"run-1": run()}, {})
    assert any("the plan has changed" in text for text in said)
    who.look({"run-1": run(), "run-2": run("run-2", started=2.0)}, {})
    assert [path for path, _, _ in daemon.posted] == [
        "/api/runs/run-1/approve",
        "/api/runs/run-2/approve",
    ]


@pytest.mark.parametrize(
    ("typed", "path"), [("a\n", "approve"), ("D\n", "deny"), ("what?\na\n", "approve")]
)
def test_takes_what_is_typed(person, daemon, monkeypatch, typed, path):
    who, _ = person(press=False)
    with open_pipe(typed) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        for _ in range(3):
            who.look({"run-1": run()}, {"i1": INCIDENT})
    assert [p for p, _, _ in daemon.posted] == [f"/api/runs/run-1/{path}"]


def test_nobody_at_the_terminal_is_no_answer(person, daemon, monkeypatch):
    who, said = person(press=False)
    with open_pipe("") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        for _ in range(3):
            who.look({"run-1": run()}, {})
    assert daemon.posted == []
    assert any("homeostat approve run-1" in text for text in said)


def test_runs_that_act_are_not_asked_about(person, daemon):
    who, said = person(press=True)
    who.look({"run-1": run(state="acting"), "run-2": run("run-2", asks=False)}, {})
    assert daemon.posted == []
    assert said == []


def open_pipe(text):
    """Return the reading end of a pipe with some text in it and nobody at the other end."""
    import os

    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    return io.TextIOWrapper(io.FileIO(read, "r"), line_buffering=True)
