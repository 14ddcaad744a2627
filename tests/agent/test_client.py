"""The client inside services: against the real receiver over real sockets, forks, kills, floods, slow servers."""

import asyncio
import contextlib
import gzip
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from desk_story import free_port, living

from agent.client import Client
from agent.inlets import SMALL, Inlets
from agent.ports import LabelBatch, PredictionBatch
from connectors.predictions import Predictions

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.delenv("HOMEOSTAT_CLIENT", raising=False)


class Hand:
    """Takes the rows on, as the daemon does."""

    def __init__(self):
        self.pushed = []

    def room(self):
        """There is room."""

    async def give(self, source, arrivals, waiting):
        self.pushed += arrivals

    async def ask(self, model):
        return ()

    def told(self, source, size, *, refused):
        """Nobody counts."""

    def bug(self, where, trace):
        raise AssertionError(where)


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """The real doors with the real receiver behind them."""
    hand, receiver = Hand(), Predictions("predictions", Predictions.Config())
    inlets = Inlets(
        {"predictions": receiver}, hand, lambda scope: scope["state"]["person"], dict, SMALL
    )
    with living(tmp_path, inlets=inlets) as house:
        token = house.token("operator")["authorization"].removeprefix("Bearer ")
        monkeypatch.setenv("CLIENT_TOKEN", token)
        house.pushed = hand.pushed
        yield house


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.jsonl"


def to_file(log, **more):
    return Client(log, **{"model": "fraud", "every_s": 0.01, **more})


def records(client, log):
    assert client.flush(20), client.error
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class Answers:
    """A receiver that says what it is told to, over a real socket."""

    def __init__(self, statuses=(), *, headers=(), port=0):
        self.statuses, self.headers = list(statuses), headers
        self.open = threading.Event()
        self.open.set()
        self.heads, self.bodies, self.lines = [], [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                outer.lines.append(self.request)
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                packed = self.headers["content-encoding"] == "gzip"
                lines = (gzip.decompress(body) if packed else body).splitlines()
                outer.open.wait(60)
                status = outer.statuses.pop(0) if outer.statuses else 202
                if callable(status):
                    status = status(lines)
                outer.heads.append(dict(self.headers.items()))
                if 200 <= status < 300:
                    outer.bodies.append([json.loads(line) for line in lines])
                said = b"" if status == 202 else b'{"error": "because"}'
                self.send_response(status)
                for name, value in outer.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args):
                """Say nothing on standard error."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.handle_error = lambda *_: None  # a client that left
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    @property
    def rows(self):
        return [record for body in self.bodies for record in body]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self.server.server_close()


def until(test, seconds=30.0):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "not within time"
        time.sleep(0.01)


# ---- with the real receiver


@pytest.mark.parametrize("way", ["http", "unix"])
def test_rows_and_labels_come_to_the_daemon(daemon, way):
    to = daemon.url if way == "http" else f"unix:{daemon.socket}"
    log = Client(to, model="fraud", version="3", token="env:CLIENT_TOKEN" if way == "http" else "")
    log(features={"age": 41, "country": "DE"}, pred="0", proba=0.93, id="r-1", latency_ms=20.0)
    log(features=np.arange(6.0).reshape(3, 2), names=["age", "area"], pred=np.array([0, 1, 0]))
    log.label("r-1", "1", ts=time.time())
    assert log.flush(20)
    assert (log.sent, log.dropped, log.refused, log.error, log.waiting) == (5, 0, 0, "", 0)
    log.close()
    rows = [b for b in daemon.pushed if isinstance(b, PredictionBatch)]
    (labels,) = [b for b in daemon.pushed if isinstance(b, LabelBatch)]
    assert {(b.model, b.version) for b in rows} == {("fraud", "3")}
    assert sum(len(b.ts) for b in rows) == 4
    assert [i for b in rows for i in b.ids if i] == ["r-1"] == list(labels.ids)
    assert [x for b in rows for x in b.features["age"].tolist()] == [41.0, 0.0, 2.0, 4.0]
    assert labels.labels == ("1",)


def test_what_was_dropped_comes_to_the_daemon_also_with_a_label(daemon):
    log = Client(daemon.url, model="fraud", token="env:CLIENT_TOKEN", queue=3, every_s=0.01)
    log._start = lambda: None  # the thread has no turn
    log.label("r-0", "1")
    for i in range(10):
        log(features={"age": i}, pred="0")
    del log._start
    log._start()
    assert log.flush(20)
    log.close()
    rows = [b for b in daemon.pushed if isinstance(b, PredictionBatch)]
    assert (sum(len(b.ts) for b in rows), sum(b.dropped for b in rows)) == (2, 8)


def test_without_a_token_nothing_is_taken_and_the_client_says_so(daemon):
    log = Client(daemon.url, model="fraud", exit_s=0.1)
    log(features={"a": 1.0}, pred="0")
    until(lambda: log.error)
    assert log.error.startswith("401")
    log.close()
    assert (log.sent, log.dropped) == (0, 1)
    assert daemon.pushed == []


def test_a_daemon_that_ends_and_comes_back_loses_nothing(monkeypatch):
    monkeypatch.setattr("agent.client._LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr("agent.client._FIRST_WAIT_S", 0.02)
    with Answers() as first:
        log = Client(first.url, model="m", every_s=0.01)
        log(features={"i": 0})
        assert log.flush(20)
    for i in range(1, 2500):
        log(features={"i": i})
    until(lambda: log.error)
    assert "refused" in log.error.lower() or "reset" in log.error.lower()
    with Answers(port=first.port) as second:
        assert log.flush(30)
        assert log.error == ""
        log.close()
    assert [r["features"]["i"] for r in first.rows + second.rows] == list(range(2500))
    assert {len(b) for b in second.bodies} <= {1000, *range(1, 1000)}
    assert (log.sent, log.dropped) == (2500, 0)


# ---- what a record looks like


def test_a_record_is_what_the_receiver_documents(log):
    one = to_file(log, version="7")
    before = time.time()
    one(
        features={"age": np.float32(41.5), "n": np.int64(3), "x": float("nan"), "t": None, 5: True},
        pred=np.int64(1), proba={"0": np.float64(0.25), "1": 0.75}, id=17, status=200, tags={"eu": 1},
        latency_ms=12.5,
    )  # fmt: skip
    (said,) = records(one, log)
    assert before <= said.pop("ts") <= time.time()
    assert said == {
        "model": "fraud", "version": "7", "id": 17, "pred": 1, "proba": {"0": 0.25, "1": 0.75},
        "features": {"age": 41.5, "n": 3, "x": None, "t": None, "5": True}, "status": 200, "tags": {"eu": 1},
        "latency_ms": 12.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("features", "kw", "rows"),
    [
        (np.array([1.0, 2.0]), {}, [{"f0": 1.0, "f1": 2.0}]),
        ([1, "x"], {}, [{"f0": 1, "f1": "x"}]),
        (np.array([[1.0, np.nan]]), {"names": ["a", "b"]}, [{"a": 1.0, "b": None}]),
        (np.arange(6).reshape(3, 2), {}, [{"f0": 0, "f1": 1}, {"f0": 2, "f1": 3}, {"f0": 4, "f1": 5}]),
        ([[1, 2], [3, 4]], {"names": np.array(["a", "b"])}, [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ([{"a": np.int32(1)}, {"a": 2}], {}, [{"a": 1}, {"a": 2}]),
        ({"a": np.array([1, 2]), "b": np.array(["x", "y"])}, {}, [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        ({"a": ["x", "y"], "b": np.array([1, 2])}, {}, [{"a": "x", "b": 1}, {"a": "y", "b": 2}]),
        ({"a": 1, "v": [1.0, 2.0]}, {}, [{"a": 1, "v": [1.0, 2.0]}]),
        ({"v": np.array([1.0, 2.0]), "w": np.array([3.0]), "a": 1}, {}, [{"v": [1.0, 2.0], "w": [3.0], "a": 1}]),
        ({"v": np.array([1.0, 2.0]), "a": 1}, {}, [{"v": [1.0, 2.0], "a": 1}]),
        ({"a": 1, "embedding": np.array([[1.0, 2.0]])}, {}, [{"a": 1, "embedding": [[1.0, 2.0]]}]),
    ],
)  # fmt: skip
def test_features_come_in_many_shapes(log, features, kw, rows):
    one = to_file(log)
    one(features=features, pred=["0"] * len(rows) if len(rows) > 1 else "0", **kw)
    assert [r["features"] for r in records(one, log)] == rows
    assert one.dropped == 0


def test_frames_are_rows(log):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.5, None], "country": ["DE", None], "n": [1, 2]})
    one = to_file(log)
    one(features=frame, pred=frame["n"], id=["a", "b"])
    one(features=frame.iloc[0], pred="0")
    got = records(one, log)
    assert [r["features"] for r in got] == [
        {"age": 1.5, "country": "DE", "n": 1}, {"age": None, "country": None, "n": 2},
        {"age": 1.5, "country": "DE", "n": 1},
    ]  # fmt: skip
    assert [(r.get("id"), r["pred"]) for r in got] == [("a", 1), ("b", 2), (None, "0")]


def test_many_rows_have_many_answers(log):
    one = to_file(log)
    n = 130  # more than are made at once
    x = np.arange(2.0 * n).reshape(n, 2)
    one(
        features=x, pred=np.arange(n) % 2, proba=np.array([[0.25, 0.75]] * n),
        id=[f"r{i}" for i in range(n)], latency_ms=3.5, tags={"a": "b"}, ts=np.arange(n) + 1e9,
    )  # fmt: skip
    got = records(one, log)
    assert [(r["id"], r["pred"], r["features"]["f1"]) for r in got] == [
        (f"r{i}", i % 2, 2.0 * i + 1) for i in range(n)
    ]
    assert {(r["proba"], r["latency_ms"], r["tags"]["a"]) for r in got} == {(0.75, 3.5, "b")}
    assert [r["ts"] for r in got] == [1e9 + i for i in range(n)]


def test_what_is_logged_is_what_was_there_when_it_was_logged(log):
    one = to_file(log, every_s=0.5)
    x, row, ids = np.ones((2, 2)), {"a": 1, "v": [1, 2]}, ["a", "b"]
    one(features=x, pred=x[:, 0], id=ids)
    one(features=row)
    x[:], ids[0], row["a"], row["v"][0] = 9, "z", 9, 9
    got = records(one, log)
    assert [(r["features"], r.get("id")) for r in got] == [
        ({"f0": 1, "f1": 1}, "a"), ({"f0": 1, "f1": 1}, "b"), ({"a": 1, "v": [1, 2]}, None),
    ]  # fmt: skip


def test_labels_come_alone_one_or_many(log):
    one = to_file(log)
    one.label("r1", np.int64(1))
    one.label(["r2", "r3"], np.array([0.5, 1.5]), ts=7.0)
    got = records(one, log)
    assert [(r["id"], r["label"]) for r in got] == [("r1", 1), ("r2", 0.5), ("r3", 1.5)]
    assert [r["ts"] for r in got[1:]] == [7.0, 7.0]
    assert not any("features" in r or "pred" in r for r in got)


# ---- around a function


def test_watch_logs_what_goes_in_and_comes_out(log):
    one = to_file(log, names=["a", "b"])

    @one.watch
    def predict(x):
        """Says the sum."""
        return x.sum(axis=1)

    assert predict.__doc__ == "Says the sum."
    assert predict(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [3.0, 7.0]
    assert predict(x=np.array([[5.0, 6.0]])).tolist() == [11.0]
    got = records(one, log)
    assert [(r["features"], r["pred"]) for r in got] == [
        ({"a": 1.0, "b": 2.0}, 3.0), ({"a": 3.0, "b": 4.0}, 7.0), ({"a": 5.0, "b": 6.0}, 11.0),
    ]  # fmt: skip
    assert all(r["processing_ms"] > 0 for r in got)


def test_watch_finds_features_ids_and_probabilities(log):
    one = to_file(log, classes=["no", "yes"])

    class Service:
        @one.watch(features="row", id="request")
        def score(self, request, row):
            return np.array([0.25, 0.75])

        @one.watch(answer=lambda r: {"pred": r[0], "proba": r[1]})
        def pair(self, row):
            return "no", 0.875

    service = Service()
    service.score("r1", {"a": 1})
    service.score(row={"a": 2}, request="r2")
    service.pair([1.0])
    dicts = one.watch(lambda row: {"prediction": "yes", "probability": 0.5})
    dicts({"a": 3})
    many = one.watch(lambda rows: np.array([[0.9, 0.1], [0.2, 0.8]]))
    many([{"a": 4}, {"a": 5}])
    got = [(r.get("id"), r["features"], r["pred"], r["proba"]) for r in records(one, log)]
    assert got == [
        ("r1", {"a": 1}, "yes", 0.75), ("r2", {"a": 2}, "yes", 0.75), (None, {"f0": 1.0}, "no", 0.875),
        (None, {"a": 3}, "yes", 0.5), (None, {"a": 4}, "no", 0.9), (None, {"a": 5}, "yes", 0.8),
    ]  # fmt: skip


def test_watch_of_a_coroutine_and_of_what_raises(log):
    one = to_file(log)

    @one.watch
    async def predict(row):
        await asyncio.sleep(0)
        if row["a"] < 0:
            raise ValueError("negative")
        return "1"

    assert asyncio.run(predict({"a": 1})) == "1"
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(predict({"a": -1}))
    with pytest.raises(ZeroDivisionError):
        one.watch(lambda row: 1 / 0)([0.0])
    got = records(one, log)
    assert [(r.get("pred"), r.get("status")) for r in got] == [
        ("1", None),
        (None, 500),
        (None, 500),
    ]
    assert got[1]["features"] == {"a": -1}


def test_watch_never_changes_what_the_function_does(log):
    one = to_file(log)
    wrong = one.watch(lambda *rows: len(rows), features="nothing")
    assert wrong(1, 2) == 2
    assert one.watch(len)([1, 2, 3]) == 3  # no Python function: it has no code to look into
    assert one.watch(answer=lambda r: 1 / 0)(lambda row: row)({"a": 1}) == {"a": 1}
    records(one, log)
    assert one.dropped == 2
    assert "ZeroDivisionError" in one.error or one.sent == 1


# ---- never slow, never in the way


class Hostile:
    def __len__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c(features=Hostile()),
        lambda c: c(features=object()),
        lambda c: c(features=[1, 2, 3], names=["a"]),
        lambda c: c(features=[[1], [2]], pred=["0"]),
        lambda c: c(features={"a": 1}, pred=[1, 2]),
        lambda c: c(features=[[1], [2, 3]], names=["a"]),
    ],
)
def test_what_is_not_understood_is_dropped_and_said(log, call):
    one = to_file(log)
    call(one)
    one(features={"a": 1})
    got = records(one, log)
    assert one.dropped >= 1
    assert got[-1]["features"] == {"a": 1}
    assert sum(r.get("dropped", 0) for r in got) == one.dropped


def test_a_recursive_row_harms_nobody(log):
    one = to_file(log)
    row = {"a": 1}
    row["self"] = row
    one(features=row)
    one(features={"b": 1})
    assert records(one, log)[-1]["features"] == {"b": 1}
    assert one.dropped == 1


@pytest.mark.parametrize(
    ("to", "token", "said"),
    [
        ("ftp://host", "", "not an address"),
        ("http:", "", "not an address"),
        ("http://", "", "no host"),
        ("http:///path", "", "no host"),
        ("unix:/nowhere/at/all.sock", "", "No such file"),
        ("file:/nowhere/at/all.jsonl", "", "No such file"),
        ("http://127.0.0.1:1", "a-secret-itself", "env:NAME"),
        ("http://127.0.0.1:1", "env:NO_SUCH_NAME", "NO_SUCH_NAME"),
    ],
)
def test_a_wrong_setting_is_said_and_harms_nobody(to, token, said):
    one = Client(to, model="m", token=token, exit_s=0.05)
    one(features={"a": 1})
    until(lambda: one.error)
    assert said in one.error
    assert "a-secret-itself" not in one.error
    one.close()
    assert one.dropped == 1


def test_a_full_queue_drops_counts_and_tells(monkeypatch):
    monkeypatch.setattr("agent.client._FIRST_WAIT_S", 0.02)
    with Answers([503] * 3) as server:
        log = Client(server.url, model="m", queue=100, every_s=0.01)
        with monkeypatch.context() as held:
            held.setattr(Client, "_start", lambda _: None)  # the thread has no turn
            for i in range(500):
                log(features={"a": i, "b": 0})
        assert (log.waiting, log.dropped) == (100, 450)
        assert log.error == "the queue is full: 100 values wait"
        log._start()
        assert log.flush(30)
        log(features={"a": -1, "b": 0})
        assert log.flush(30)
        log.close()
    assert [r["features"]["a"] for r in server.rows] == [*range(50), -1]
    assert [r.get("dropped") for r in server.rows] == [450] + [None] * 50
    assert (log.sent, log.dropped, log.error) == (51, 450, "")


def test_a_row_that_is_larger_than_the_queue_is_not_even_copied(log):
    one = to_file(log, queue=1000)
    one(features=np.zeros((600, 2)))
    assert (one.dropped, one.waiting) == (600, 0)


def test_a_slow_server_slows_nobody():
    with Answers() as server:
        server.open.clear()  # it answers nobody
        log = Client(server.url, model="m", every_s=0.001, exit_s=0.05)
        log(features={"a": 0})
        log._wake.set()
        until(lambda: log.waiting == 0)  # it is on its way
        for i in range(2000):
            log(features={"a": i})
        assert (log.sent, log.waiting) == (
            0,
            2000,
        )  # all are logged, and the first is not even answered
        log.close()  # comes back, though nobody answers
        assert log.sent == 0
        server.open.set()
        until(lambda: log.sent + log.dropped == 2001)


def test_it_waits_as_long_as_it_is_told_and_tries_again(monkeypatch):
    paused = []
    monkeypatch.setattr(Client, "_pause", lambda _, seconds: paused.append(seconds))
    monkeypatch.setattr("agent.client.os.urandom", lambda n: bytes([128] * n))
    with Answers([429, 500, 503, 401], headers=[("Retry-After", "7")]) as server:
        log = Client(server.url, model="m")
        log(features={"a": 1})
        assert log.flush(20)
        log.close()
    assert [len(b) for b in server.bodies] == [1]
    assert paused == [7.0, 7.0, 7.0, 7.0]
    with Answers([500] * 9) as server:
        paused.clear()
        log = Client(server.url, model="m")
        log(features={"a": 1})
        assert log.flush(20)
        log.close()
    assert paused == sorted(paused)
    assert 0.5 <= paused[0] < 0.51
    assert paused[-1] == 30.0


def test_bad_records_are_found_and_the_others_are_taken():
    def picky(lines):
        return 400 if any(json.loads(line)["features"]["a"] == 613 for line in lines) else 202

    with Answers([picky] * 100) as server:
        log = Client(server.url, model="m", every_s=5)
        for i in range(1000):
            log(features={"a": i})
        assert log.flush(30)
        log.close()
    assert (log.sent, log.refused, log.dropped) == (999, 1, 0)
    assert sorted(r["features"]["a"] for r in server.rows) == [i for i in range(1000) if i != 613]
    assert len(server.heads) <= 26


def test_a_receiver_that_refuses_all_is_not_asked_for_ever():
    with Answers([400] * 10_000) as server:
        log = Client(server.url, model="m", every_s=5)
        for i in range(1000):
            log(features={"a": i})
        assert log.flush(30)
        assert "because" in log.error
        log.close()
    assert (log.sent, log.refused) == (0, 1000)
    assert len(server.heads) < 60


def test_batches_are_packed_and_not_where_that_is_not_understood():
    with Answers() as server:
        log = Client(server.url, model="m", every_s=5)
        for i in range(2300):
            log(features={"a": i})
        assert log.flush(30)
        log.close()
    assert [len(b) for b in server.bodies] == [1000, 1000, 300]
    assert {h["Content-Encoding"] for h in server.heads} == {"gzip"}
    with Answers([415]) as server:
        log = Client(server.url, model="m")
        for i in range(3):
            log(features={"a": i})
            assert log.flush(30)
        log.close()
    assert [h.get("Content-Encoding") for h in server.heads] == ["gzip", None, None, None]
    assert log.sent == 3


def test_off_is_off(monkeypatch, log):
    monkeypatch.setenv("HOMEOSTAT_CLIENT", "off")
    one = to_file(log)
    one(features={"a": 1})
    one.label("a", 1)

    def predict(x):
        return x

    assert one.watch(predict) is predict
    assert one.watch(features="x")(predict) is predict
    one.close()
    assert not log.exists()
    assert one._thread is None


def test_many_threads_lose_nothing(log):
    one = to_file(log)

    def work(k):
        for i in range(300):
            one(features={"k": k, "i": i})

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    got = [(r["features"]["k"], r["features"]["i"]) for r in records(one, log)]
    assert sorted(got) == [(k, i) for k in range(8) for i in range(300)]
    assert [i for k, i in got if k == 3] == list(range(300))
    assert one.waiting == 0


def test_a_signal_handler_may_log_in_the_middle_of_a_call(log):
    one = to_file(log)
    heard = []

    def handler(*_):
        heard.append(1)
        one(features={"s": 1})

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        end = time.monotonic() + 30
        n = 0
        while len(heard) < 50 and time.monotonic() < end:
            one(features={"a": 1})
            n += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    got = records(one, log)
    assert len(got) + one.dropped == n + len(heard)


def test_a_signal_handler_that_logs_while_the_thread_starts_does_not_start_another(
    log, monkeypatch
):
    one = to_file(log)
    start = threading.Thread.start
    started = []

    def slowly(thread):
        if thread.name == "homeostat-client":
            started.append(thread)
            if len(started) == 1:
                one(features={"s": 1})
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    one(features={"a": 1})
    assert len(records(one, log)) == 2
    assert len(started) == 1


def test_a_thread_that_could_not_start_is_tried_again(log, monkeypatch):
    def no_thread(_):
        raise RuntimeError("no room")

    one = to_file(log)
    with monkeypatch.context() as no_room:
        no_room.setattr(threading.Thread, "start", no_thread)
        one(features={"a": 1})
    assert "no room" in one.error
    one(features={"a": 2})
    assert len(records(one, log)) == 2
    assert one.dropped == 0


# ---- processes


def run(code, *args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        env={k: v for k, v in os.environ.items() if k != "HOMEOSTAT_CLIENT"},
    )  # fmt: skip


def test_an_import_brings_nothing_heavy():
    out = run(
        """
        import sys
        before = set(sys.modules)
        import agent.client
        print(*sorted(m for m in set(sys.modules) - before))
        """
    ).stdout.split()
    assert not {"numpy", "pydantic", "http", "http.client", "ssl", "socket", "logging", "asyncio",
                "inspect", "gzip", "structlog"} & set(out)  # fmt: skip
    assert [m for m in out if m.split(".")[0] in {"agent", "connectors"}] == [
        "agent",
        "agent.client",
        "agent.imports",
    ]


def test_the_end_of_a_process_sends_the_rest():
    with Answers() as server:
        run(
            """
            import sys
            from agent.client import Client
            log = Client(sys.argv[1], model="m")
            for i in range(1500):
                log(features={"a": i})
            """,
            server.url,
        )
    assert [r["features"]["a"] for r in server.rows] == list(range(1500))


def test_the_end_of_a_process_is_not_held_up_by_a_server_that_hangs():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        out = run(
            """
            import sys
            from agent.client import Client
            log = Client(sys.argv[1], model="m", exit_s=0.3)
            for i in range(1500):
                log(features={"a": i})
            log.close()
            print(log.sent, log.dropped)
            """,
            f"http://127.0.0.1:{deaf.getsockname()[1]}",
        )
    assert out.stdout.split() == ["0", "1500"]


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
def test_each_forked_process_sends_its_own(how):
    code = """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: that is what is tried
        from agent.client import Client
        log = Client(sys.argv[1], model="m", every_s=0.01)
        log(features={"who": "parent", "i": 0})
        if sys.argv[3] == "sent":
            log.flush(20)
        def child(k):
            for i in range(50):
                log(features={"who": f"child{k}", "i": i})
        if sys.argv[2] == "fork":
            pids = []
            for k in range(3):
                pid = os.fork()
                if not pid:
                    child(k)
                    sys.exit(0)
                pids.append(pid)
            for pid in pids:
                assert os.waitpid(pid, 0)[1] == 0
        else:
            import multiprocessing
            ps = [multiprocessing.get_context("fork").Process(target=child, args=(k,)) for k in range(3)]
            for p in ps: p.start()
            for p in ps: p.join(); assert p.exitcode == 0
        log(features={"who": "parent", "i": 1})
        """
    for sent in ("sent", "waiting"):
        with Answers() as server:
            run(code, server.url, how, sent)
        got = sorted((r["features"]["who"], r["features"]["i"]) for r in server.rows)
        assert got == [
            *((f"child{k}", i) for k in range(3) for i in range(50)),
            ("parent", 0),
            ("parent", 1),
        ]


def test_workers_of_gunicorn_log_from_a_client_made_in_the_master(tmp_path):
    port = free_port()
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            f"""
            import os
            from agent.client import Client
            log = Client("file:{tmp_path}/log.jsonl", model="m", every_s=0.05)
            log(features={{"pid": os.getpid()}})   # the master has a thread already
            @log.watch
            def predict(row):
                return "1"
            def app(environ, start_response):
                predict({{"pid": os.getpid()}})
                start_response("200 OK", [("Content-Length", "2")])
                return [b"ok"]
            """
        )
    )
    master = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}",
         "--pythonpath", str(ROOT), "app:app"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    asked = 0
    try:

        def ask():
            nonlocal asked
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                    line.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    asked += line.recv(100).startswith(b"HTTP/1.0 200")
            except OSError:
                time.sleep(0.05)
            return asked >= 20

        until(ask)
    finally:
        master.terminate()
        assert master.wait(30) == 0
    got = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rows = [r for r in got if "pred" in r]
    assert len(rows) == asked
    assert master.pid not in {r["features"]["pid"] for r in rows}
