"""A reference that is being made while rows come, in the real daemon: nothing that was promised is lost."""

from __future__ import annotations

import os
import signal
import time

import httpx
import numpy as np
import psutil
import pytest
from daemon_process import Running, wait_for

from agent.authority import Tokens

pytestmark = pytest.mark.live


@pytest.fixture
def train(tmp_path):
    pytest.importorskip("pyarrow")
    random = np.random.default_rng(0)
    lines = ["age,plan,prediction,probability,label"]
    for _ in range(3000):
        said = int(random.random() < 0.5)
        lines.append(f"{random.normal(30, 9):.3f},pro,{said},{random.uniform(0.8, 1.0):.3f},{said}")
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Sender:
    """A service whose token is for its rows alone."""

    def __init__(self, one: Running) -> None:
        token = Tokens(one.state / "tokens.json").add("scoring", "sender", time.time(), ["fraud"])
        self.headers = {"authorization": f"Bearer {token}"}
        self.url = f"http://127.0.0.1:{one.port}"

    def post(self, path: str, body) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=self.headers, timeout=30.0)

    def rows(self, start: int, n: int) -> list[dict]:
        now = time.time()
        return [
            {"id": f"r{i}", "ts": now, "model": "fraud", "version": "3", "pred": str(i % 2), "proba": 0.9,
             "features": {"age": 30.0 + i % 9, "plan": "pro"}}
            for i in range(start, start + n)
        ]  # fmt: skip


def worker_of(one: Running) -> psutil.Process:
    children = psutil.Process(one.process.pid).children()
    return next(c for c in children if "agent.worker" in c.cmdline())


def model_of(one: Running) -> dict:
    return one.get("/api/models?model=fraud").json()[0]


def rows_of(one: Running) -> int:
    return sum(version["rows"] for version in model_of(one)["serving"])


@pytest.fixture
def config(train):
    return f"connectors: {{predictions: {{}}}}\nmodels: {{min_rows: 10, reference: {{fraud: {train}}}}}\n"


def test_rows_wait_and_a_clean_stop_in_the_middle_keeps_them(running, config):
    one = running(config).start()
    sender = Sender(one)
    os.kill(wait_for("the worker", lambda: worker_of(one).pid), signal.SIGSTOP)
    assert sender.post("/ingest/predictions", sender.rows(0, 300)).json() == {"accepted": 300}
    labels = [{"id": f"r{i}", "model": "fraud", "label": str(i % 2)} for i in range(300)]
    assert sender.post("/ingest/predictions", labels).status_code == 202
    wait_for("what is shown", lambda: model_of(one)["preparing"] == ["3"])
    assert model_of(one)["held_rows"] == 300
    assert model_of(one)["serving"] == []
    assert sender.post("/api/pause", {}).status_code == 403
    assert one.kill(signal.SIGTERM) == 0
    one.start()
    wait_for("the rows of before", lambda: rows_of(one) == 300)
    # the file is made a reference again, and the next rows are held against it
    sent = 300

    def held_against_it() -> bool:
        nonlocal sent
        assert sender.post("/ingest/predictions", sender.rows(sent, 20)).status_code == 202
        sent += 20
        return model_of(one)["reference_accuracy"] == 1.0

    wait_for("the reference", held_against_it, 60.0)
    wait_for("all rows", lambda: rows_of(one) == sent)
    assert one.get("/api/status").json()["usage"]["bugs"] == {}


def test_a_kill_in_the_middle_leaves_a_state_that_goes_on(running, config):
    one = running(config).start()
    sender = Sender(one)
    pid = wait_for("the worker", lambda: worker_of(one).pid)
    os.kill(pid, signal.SIGSTOP)
    rows = sender.rows(0, 300)
    assert sender.post("/ingest/predictions", rows).status_code == 202
    one.kill()
    os.kill(pid, signal.SIGCONT)  # it ends by itself
    one.start()
    assert sender.post("/ingest/predictions", rows).status_code == 202  # its sender may send again
    wait_for("the rows", lambda: rows_of(one) == 300, 60.0)
    wait_for("the reference", lambda: model_of(one)["reference_accuracy"] == 1.0, 60.0)


def test_a_worker_that_dies_is_told_once_and_the_rows_count(running, config):
    one = running(config).start()
    sender = Sender(one)
    os.kill(wait_for("the worker", lambda: worker_of(one).pid), signal.SIGSTOP)
    assert sender.post("/ingest/predictions", sender.rows(0, 300)).status_code == 202
    os.kill(worker_of(one).pid, signal.SIGKILL)
    wait_for("the rows", lambda: rows_of(one) == 300)
    assert model_of(one)["preparing"] == []
    assert "train.csv" in str(one.get("/api/status").json()["faults"])
    assert one.log.read_text().count("reference_not_made") == 1
