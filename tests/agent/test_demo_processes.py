"""The demo's processes, for real: nothing outlives its parent, the neighbour burns and stops, clients keep time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from listening import listening

from agent.demo import rows
from agent.demo.ground import Ground
from agent.demo.leash import leashed
from agent.demo.load import DAY_S, RATE, SWING, Clients, Day, World, read_world
from agent.demo.rows import Concept

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a leash needs prctl")


def until(what, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def alive(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@linux
@pytest.mark.parametrize("kill", [False, True])
def test_a_leashed_process_ends_when_its_parent_is_killed(kill, tmp_path):
    code = (
        "import subprocess, sys, time\n"
        "from agent.demo.leash import leashed\n"
        "argv = [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)']\n"
        f"p = subprocess.Popen(leashed(argv, kill={kill}), stdout=subprocess.PIPE, process_group=0)\n"
        "p.stdout.readline()\nprint(p.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    child = int(parent.stdout.readline())
    assert alive(child)
    if kill:
        os.kill(child, signal.SIGSTOP)  # even a stopped one
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not alive(child))


def test_the_leash_becomes_the_command():
    done = subprocess.run(
        leashed([sys.executable, "-c", "import sys; print(sys.argv[1]); raise SystemExit(7)", "a b"]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("a b\n", 7)


@pytest.fixture
def ground(tmp_path):
    one = Ground(tmp_path, seed=1)
    yield one
    one.end()


@linux
def test_the_neighbour_burns_then_idles_then_ends(ground):
    job = ground.start(
        "neighbour", ground.python("agent.demo.neighbour", "--burners", 2), kill=True
    )
    leader = psutil.Process(job.pid)
    assert until(lambda: len(leader.children()) == 2)
    burners = leader.children()
    assert all(os.getpgid(p.pid) == job.pid for p in burners)

    def used():
        return sum(sum(p.cpu_times()[:2]) for p in burners)

    start = used()
    assert until(lambda: used() - start > 0.5)
    os.killpg(job.pid, signal.SIGUSR1)

    def idles():
        before = used()
        time.sleep(0.5)
        return used() - before <= 0.02

    assert until(idles)
    assert all(p.is_running() for p in burners)
    ground.end_one(job)
    assert not any(alive(p.pid) for p in burners)


@linux
def test_end_reaches_a_stopped_group(ground):
    job = ground.start(
        "neighbour", ground.python("agent.demo.neighbour", "--burners", 1), kill=True
    )
    assert until(lambda: len(psutil.Process(job.pid).children()) == 1)
    burner = psutil.Process(job.pid).children()[0]
    os.killpg(job.pid, signal.SIGSTOP)
    ground.end()
    assert not alive(burner.pid)
    assert not alive(job.pid)


def test_a_command_that_fails_says_why(ground):
    with pytest.raises(RuntimeError, match="no such rows"):
        ground.run("it", [sys.executable, "-c", "raise SystemExit('no such rows')"])


def test_everything_of_the_demo_stays_in_its_folder(ground, tmp_path):
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "DEMO_MODELS", "DEMO_PREDICTIONS"):
        assert ground.environ()[name].startswith(str(tmp_path))


def test_the_world_comes_back_from_its_file(tmp_path):
    world = World(3.2, {"worst_area": 0.01}, Concept("mean_symmetry", 0.2))
    world.write(tmp_path / "control.json")
    assert read_world(tmp_path / "control.json") == world


def test_a_day_swings_and_comes_round():
    served = rows.split(1)[1]
    day = Day(served)
    assert day.rate(0.0) == pytest.approx(RATE * (1 - SWING))
    assert day.rate(DAY_S / 2) == pytest.approx(RATE * (1 + SWING))
    assert day.rate(DAY_S) == pytest.approx(day.rate(0.0))
    night, noon = (np.diff(day.mix(ts), prepend=0.0) for ts in (0.0, DAY_S / 2))
    assert night.sum() == pytest.approx(1)
    texture = served.x[:, served.names.index("worst_texture")]
    moved = (noon @ texture - night @ texture) / texture.std()
    assert 0.3 < moved < 1.2


async def test_clients_send_what_the_world_says_and_labels_follow(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.demo.load.LABEL_S", (0.3, 0.5))
    served = rows.split(1)[1]
    seen = []

    async def serve(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        seen.append((time.time(), head, json.loads(await reader.readexactly(length))))
        status = b"503 no" if len(seen) % 5 == 0 else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    control, labels, log = (tmp_path / n for n in ("control.json", "labels", "log"))
    World(rate=2.0).write(control)
    async with listening(serve) as url:
        port = int(url.rpartition(":")[2])
        clients = Clients(served, port, control=control, labels=labels, log=log, seed=1)
        task = asyncio.create_task(clients.run())
        await asyncio.sleep(1.5)
        turned = time.time()
        World(units={"worst_area": 100.0}, concept=Concept("mean_symmetry", 0.0)).write(control)
        await asyncio.sleep(1.8)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert 30 <= len(seen) <= 200
    assert all("X-Request-Start: t=" in head and "Connection: close" in head for _, head, _ in seen)
    known = {tuple(row[1:]): (row[0], bool(bad))
             for row, bad in zip(served.x.tolist(), served.bad, strict=True)}  # fmt: skip
    truth = {}
    for ts, _, body in seen:
        got, *others = body["features"].values()
        area, bad = known[tuple(others)]
        changed = ts > turned + 0.5
        if ts < turned or changed:
            assert got == pytest.approx(area * (100 if changed else 1))
            truth[body["id"]] = bad != changed  # every label is turned afterwards
    told = [json.loads(line) for line in labels.read_text().splitlines()]
    checked = [t for t in told if t["id"] in truth]
    assert len(checked) > 20
    assert all((t["label"] == "malignant") == truth[t["id"]] for t in checked)
    sent = {body["id"]: ts for ts, _, body in seen}
    late = sorted(t["ts"] - sent[t["id"]] for t in told if t["id"] in sent)
    assert 0.25 <= late[len(late) // 2] <= 1.5  # the middle one: a busy machine may hold up a few
    answers = [json.loads(line) for line in log.read_text().splitlines()]
    assert {status for _, status, _ in answers} == {200, 503}


async def test_a_service_that_is_not_there_is_a_failure_not_a_crash(tmp_path):
    control, labels, log = (tmp_path / n for n in ("control.json", "labels", "log"))
    World(rate=3.0).write(control)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    clients = Clients(rows.split(1)[1], port, control=control, labels=labels, log=log, seed=1)
    task = asyncio.create_task(clients.run())
    await asyncio.sleep(1.0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    answers = [json.loads(line) for line in log.read_text().splitlines()]
    assert answers
    assert {status for _, status, _ in answers} == {0}
