"""Rows are counted between the ticks; the process that takes them in is kept alive: killed, hung, turned, let go."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import structlog

from agent import intake
from agent.authority import Tokens
from agent.errors import Refused, Unavailable
from agent.inlets import Busy
from agent.intake import Counting, Intake
from agent.intake_process import Pipe
from agent.parcels import cells_of, rows_of
from agent.ports import LabelBatch, PredictionBatch, SketchBatch
from connectors.predictions import Predictions  # noqa: F401  # registers what the process builds


def labels(n: int) -> LabelBatch:
    return LabelBatch("m", np.arange(n, dtype=float), ("",) * n, ("1",) * n)


def counting(count, ask=None, bugs=None) -> Counting:
    async def known(model):
        return (f"{model}-a", f"{model}-b")

    note = (lambda *bug: bugs.append(bug)) if bugs is not None else (lambda *_: None)
    return Counting(count, ask or known, lambda *_: None, note)


async def until(true) -> None:
    while not true():  # noqa: ASYNC110  # what is looked at has no event
        await asyncio.sleep(0.02)


# ---- between the ticks


async def test_nothing_waits_for_more_than_one_piece():
    order = []
    one = counting(lambda part: order.append(rows_of(part)))

    async def ticks():
        while True:
            order.append("tick")
            await asyncio.sleep(0)

    ticking = asyncio.create_task(ticks())
    await asyncio.gather(one.give("", [labels(20_000)]), one.give("", [labels(20_000)]))
    ticking.cancel()
    pieces = [x for x in order if x != "tick"]
    assert sum(pieces) == 40_000
    assert max(pieces) <= intake.MOST_CELLS
    assert all("tick" in pair for pair in itertools.pairwise(order))


async def test_what_waited_elsewhere_is_counted_in_pieces_among_the_others():
    left, order = [1, 2, 3], []
    one = counting(lambda _: order.append("pushed"))

    def more() -> bool:
        order.append(left.pop(0))
        return bool(left)

    await asyncio.gather(one.catch_up(more), one.give("", [labels(3000)]))
    assert [x for x in order if x != "pushed"] == [1, 2, 3]
    assert order[:4] == [1, "pushed", 2, "pushed"]


async def test_when_too_much_waits_senders_are_told_for_how_long():
    one = counting(lambda _: None)
    one.room()
    large = [labels(intake.MOST_CELLS // 6 + 1)]
    giving = asyncio.create_task(one.give("", large))
    await asyncio.sleep(0)
    with pytest.raises(Busy) as busy:
        one.room()
    assert 1.0 <= busy.value.wait_s <= 30.0
    await giving
    one.room()


async def test_a_bug_in_counting_is_told_by_its_place_and_the_rest_lives():
    bugs = []

    def count(part):
        if part.ids:
            raise KeyError("Ann Smith")

    one = counting(count, bugs=bugs)
    with pytest.raises(Unavailable, match="a bug"):
        await one.give("", [labels(1)])
    await one.give("", [labels(0)])
    ((where, trace),) = bugs
    assert where == "counting rows"
    assert "test_intake.py" in trace
    assert "Ann" not in trace
    assert one._cells == 0


async def test_a_full_pipe_tells_senders_to_wait():
    class Writer:
        def write(self, _):
            pass

        async def drain(self):
            pass

    pipe = Pipe(Writer())
    giving = asyncio.create_task(pipe.give("", [labels(intake.MOST_CELLS // 6 + 1)], 0))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        pipe.room()
    await until(lambda: 1 in pipe._counted)
    pipe.heard({"kind": "counted", "number": 1, "no": "", "never": False})
    await giving
    pipe.room()


# ---- the process


class House:
    """An ingest process with a daemon that only remembers what it was given."""

    def __init__(self, state, sock: socket.socket) -> None:
        self.state = state
        self.counted: list = []
        self.no: Exception | None = None
        self.models: dict = {}
        self.token = Tokens(state / "tokens.json").add("scoring", "operator", time.time())
        self.bugs: list = []
        self.counting = counting(self._count, bugs=self.bugs)
        self.intake = Intake(sock, self._settings, self.counting)
        self.address = sock.getsockname()

    def _count(self, part) -> None:
        if self.no is not None:
            raise self.no
        self.counted.append(part)

    def _settings(self) -> dict:
        return {
            "receivers": [
                {"name": "predictions", "module": "connectors.predictions", "kind": "predictions", "config": {}}
            ],
            "state": str(self.state), "models": self.models, "forward": str(self.state / "ingest.sock"),
        }  # fmt: skip

    async def send(self, body, path="/ingest/predictions", **headers) -> httpx.Response:
        if isinstance(self.address, str):
            transport, base = httpx.AsyncHTTPTransport(uds=self.address, verify=False), "http://x"
        else:
            transport, base = None, f"http://127.0.0.1:{self.address[1]}"
        headers = {"authorization": f"Bearer {self.token}"} | headers
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx.AsyncClient(
            transport=transport, timeout=60, trust_env=False, verify=False
        ) as client:
            return await client.post(base + path, content=content, headers=headers)

    async def pid(self, other_than: int | None = None) -> int:
        await until(lambda: self.intake.pid not in {None, other_than})
        return self.intake.pid


@contextlib.asynccontextmanager
async def open_house(tmp_path, address=("127.0.0.1", 0)):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen(128)
    sock.setblocking(False)
    house = House(tmp_path, sock)
    house.intake.start()
    try:
        yield house
    finally:
        await house.intake.close()


ROW = {
    "id": "r1",
    "ts": 1.0,
    "model": "fraud",
    "features": {"age": 41.0, "country": "DE"},
    "pred": "1",
}
EVENT = {"ce-type": "org.kubeflow.serving.inference.request", "ce-inferenceservicename": "fraud"}


async def test_what_is_answered_is_counted(tmp_path):
    async with open_house(tmp_path) as house:
        said = await house.send([ROW, {"id": "r0", "model": "fraud", "label": 1}])
        assert (said.status_code, said.json()) == (202, {"accepted": 2})
        rows, late = house.counted
        assert isinstance(rows, PredictionBatch)
        assert rows.features["country"].tolist() == ["DE"]
        assert late.ids == ("r0",)
        assert (await house.send(ROW, authorization="Bearer homeostat_x")).status_code == 401
        assert (await house.send(b"{")).status_code == 400
        assert len(house.counted) == 2


async def test_senders_without_headers_give_the_token_in_the_address(tmp_path):
    async with open_house(tmp_path) as house:
        basic = httpx.BasicAuth("any", house.token)._build_auth_header("any", house.token)
        assert (await house.send(ROW, authorization=basic)).status_code == 202
        assert (await house.send(ROW, authorization="Basic !!")).status_code == 401


async def test_columns_are_asked_of_the_daemon(tmp_path):
    async with open_house(tmp_path) as house:
        for kind, body in (
            ("request", {"instances": [[1, 2]]}),
            ("response", {"predictions": [1]}),
        ):
            named = {**EVENT, "ce-id": "7", "ce-type": f"org.kubeflow.serving.inference.{kind}"}
            said = await house.send(body, **named)
            assert said.status_code == 202
        assert list(house.counted[0].features) == ["fraud-a", "fraud-b"]


async def test_a_bug_in_who_is_asked_for_columns_ends_no_taking_in(tmp_path):
    async def broken(_model):
        raise TypeError("'int' object is not iterable")

    async with open_house(tmp_path) as house:
        house.counting._ask = broken
        pid = await house.pid()
        for kind, body in (
            ("request", {"instances": [[1, 2]]}),
            ("response", {"predictions": [1]}),
        ):
            named = {**EVENT, "ce-id": "7", "ce-type": f"org.kubeflow.serving.inference.{kind}"}
            assert (await house.send(body, **named)).status_code == 202
        assert (await house.send(ROW)).status_code == 202
        assert (house.intake.pid, house.intake.restarts) == (pid, 0)
        assert house.bugs[0][0] == "columns of a model"


async def test_a_large_request_comes_in_pieces_and_is_answered_once(tmp_path):
    async with open_house(tmp_path) as house:
        said = await house.send([{**ROW, "id": f"r{i}"} for i in range(5000)])
        assert said.json() == {"accepted": 5000}
        assert len(house.counted) > 1
        assert [i for part in house.counted for i in part.ids] == [f"r{i}" for i in range(5000)]
        assert max(map(cells_of, house.counted)) <= 10_000


@pytest.mark.parametrize(
    ("no", "status"), [(Refused("not counted; send rows"), 409), (ZeroDivisionError("x"), 503)]
)
async def test_what_the_daemon_can_not_count_is_told(tmp_path, no, status):
    async with open_house(tmp_path) as house:
        house.no = no
        assert (await house.send(ROW)).status_code == status
        house.no = None
        assert (await house.send(ROW)).status_code == 202


async def test_sketches_come_along(tmp_path):
    async with open_house(tmp_path) as house:
        sketch = {"sketch": 1, "model": "m", "since": 1, "until": 2, "rows": 3,
                  "features": {"a": {"edges": [1], "counts": [1, 2]}}}  # fmt: skip
        assert (await house.send(sketch, "/ingest/sketches")).status_code == 202
        assert isinstance(house.counted[0], SketchBatch)


async def test_killed_it_is_started_again_and_what_was_not_counted_was_not_answered(tmp_path):
    async with open_house(tmp_path) as house:
        assert (
            await house.send({"instances": [[1]]}, **EVENT, **{"ce-id": "7"})
        ).status_code == 202
        first = await house.pid()
        with structlog.testing.capture_logs() as logs:
            os.kill(first, signal.SIGKILL)
            second = await house.pid(first)
        assert second != first
        (ended,) = [entry for entry in logs if entry["event"] == "intake_ended"]
        assert "SIGKILL" in ended["how"]
        assert ended["halves_lost"] == 1
        assert house.intake.fault
        assert (await house.send(ROW)).status_code == 202  # it waited in the queue of the socket
        assert house.intake.restarts == 1
        await until(lambda: not house.intake.fault)


@pytest.mark.long
async def test_hung_it_is_found_silent_and_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "_SILENT_S", 6.0)
    async with open_house(tmp_path) as house:
        assert (await house.send(ROW)).status_code == 202
        first = await house.pid()
        with structlog.testing.capture_logs() as logs:
            os.kill(first, signal.SIGSTOP)
            await house.pid(first)
        assert "was silent" in str(logs)
        assert (await house.send(ROW)).status_code == 202


async def test_what_can_not_start_is_told_with_its_last_words(tmp_path):
    async with open_house(tmp_path) as house:
        house.intake._settings = dict
        await until(lambda: house.intake.fault)
        assert "KeyError" in house.intake.fault


async def test_it_is_turned_with_other_settings(tmp_path):
    async with open_house(tmp_path) as house:
        assert (await house.send(ROW)).status_code == 202
        first = await house.pid()
        house.models = {"scoring": ["churn"]}
        house.intake.turn()
        await house.pid(first)
        said = await house.send(ROW)
        assert said.status_code == 403
        assert "fraud" in said.json()["error"]
        assert house.intake.restarts == 0


async def test_what_is_under_way_is_answered_before_it_is_let_go(tmp_path):
    async with open_house(tmp_path) as house:
        assert (await house.send(ROW)).status_code == 202
        await house.counting._turn.acquire()  # the daemon is behind
        sending = asyncio.create_task(house.send(ROW))
        await until(lambda: house.counting._cells)
        closing = asyncio.create_task(house.intake.close())
        await asyncio.sleep(0.1)
        house.counting._turn.release()
        assert (await sending).status_code == 202
        await closing
        assert house.intake.pid is None


async def test_it_listens_on_a_unix_socket_too(tmp_path):
    async with open_house(tmp_path, str(tmp_path / "in.sock")) as house:
        assert (await house.send(ROW)).status_code == 202
        assert (await house.send(ROW, authorization="")).status_code == 401


async def test_all_that_is_no_inlet_goes_to_the_daemon(tmp_path):
    heard = []

    async def daemon(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r")[0] or 0)
        heard.append((head, await reader.readexactly(size)))
        writer.write(
            b"HTTP/1.1 418 x\r\nx-mine: 1\r\ncontent-length: 3\r\nconnection: close\r\n\r\nyes"
        )
        writer.close()

    server = await asyncio.start_unix_server(daemon, tmp_path / "ingest.sock")
    async with open_house(tmp_path) as house:
        said = await house.send(
            b"body", "/ingest/deployments/github?a=1", **{"x-hub-signature-256": "s"}
        )
        assert (said.status_code, said.headers["x-mine"], said.text) == (418, "1", "yes")
        ((head, body),) = heard
        assert head.startswith("post /ingest/deployments/github?a=1 http/1.1")
        assert "x-hub-signature-256: s" in head
        assert f"authorization: bearer {house.token.lower()}" in head
        assert body == b"body"
        assert (await house.send(b"x" * (1 << 21), "/api/changes")).status_code == 413
        server.close()
        await server.wait_closed()
        (tmp_path / "ingest.sock").unlink(missing_ok=True)
        gone = await house.send(b"", "/api/changes")
        assert (gone.status_code, gone.headers["retry-after"]) == (503, "2")


async def test_it_ends_when_its_daemon_does(tmp_path):
    async with open_house(tmp_path) as house:
        assert (await house.send(ROW)).status_code == 202
        pid = await house.pid()
        process = house.intake._process
        house.intake._ending = True
        house.intake._writer.close()
        assert await process.wait() == 1
        assert pid == process.pid


def test_priority_and_order_of_ending_are_set_for_a_process_only(monkeypatch):
    from agent import intake_process

    asked = []
    monkeypatch.setattr(intake_process.os, "getpriority", lambda *_: -5)
    monkeypatch.setattr(intake_process.os, "setpriority", lambda *args: asked.append(args))
    monkeypatch.setattr(
        intake_process, "Path", lambda _: SimpleNamespace(write_text=lambda *_, **__: None)
    )
    monkeypatch.setattr(intake_process.sys, "argv", ["x"])
    with pytest.raises(ValueError, match="unpack"):
        intake_process.main()
    assert asked == [(os.PRIO_PROCESS, 0, 0)]
