from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from worker_trainers import begun

from agent import checkpoint
from agent.errors import Refused, Unavailable
from agent.worker import Job, Worker

HERE = Path(__file__).parent
ROWS = np.arange(12.0).reshape(4, 3)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    rest = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{rest}" if rest else str(HERE))


@pytest.fixture
async def worker():
    one = Worker(limit_s=60, memory_bytes=2e9)
    yield one
    await one.close()


def job(**config) -> Job:
    return Job("test_any", config, np.arange(4.0), ROWS)


def read(model: bytes):
    return checkpoint.read("mean", 1, model)


def oom_score(pid: int) -> int:
    path = Path(f"/proc/{pid}/oom_score_adj")
    return int(path.read_text()) if path.exists() else 1000


async def test_it_trains_in_another_process_that_stays_for_the_next_job(worker):
    assert worker.pid is None
    meta, arrays = read(await worker.train(job()))
    assert meta["pid"] == worker.pid != os.getpid()
    assert arrays["mean"].tolist() == [4.5, 5.5, 6.5]
    again, _ = read(await worker.train(job()))
    assert again["pid"] == meta["pid"]


async def test_it_steps_back(worker):
    assert await worker.train(job(what="threads")) == b"1"
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) == 19
    assert oom_score(worker.pid) >= 800


@pytest.mark.skipif(os.getpriority(os.PRIO_PROCESS, 0) > 7, reason="the tests step back themselves")
async def test_it_steps_back_as_far_as_it_is_told():
    one = Worker(limit_s=60, memory_bytes=2e9, nice=5)
    await one.train(job())
    assert os.getpriority(os.PRIO_PROCESS, one.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 5
    await one.close()


async def test_it_ends_when_idle_and_starts_again(worker):
    worker._idle_s = 0.1
    first, _ = read(await worker.train(job()))
    for _ in range(200):
        if worker.pid is None:
            break
        await asyncio.sleep(0.05)
    assert worker.pid is None
    assert not psutil.pid_exists(first["pid"])
    second, _ = read(await worker.train(job()))
    assert second["pid"] != first["pid"]


async def test_killed_in_the_middle_it_says_so_and_the_next_job_gets_a_new_process(
    worker, tmp_path
):
    mark = tmp_path / "mark"
    task = asyncio.create_task(worker.train(job(seconds=60, mark=str(mark))))
    os.kill(await begun(mark), signal.SIGKILL)
    with pytest.raises(
        Unavailable, match="training test_any: the worker process was ended by SIGKILL"
    ):
        await task
    assert worker.pid is None
    read(await worker.train(job()))


async def test_the_loop_goes_on_while_it_trains(worker):
    await worker.train(job())
    task = asyncio.create_task(worker.train(job(seconds=1.0)))
    longest, beats, last = 0.0, 0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        longest, last, beats = max(longest, time.monotonic() - last), time.monotonic(), beats + 1
    assert beats > 20
    assert longest < 0.5


async def test_what_takes_too_long_is_ended(worker):
    await worker.train(job())
    worker._limit_s = 0.3
    pid = worker.pid
    with pytest.raises(Unavailable, match="took longer than 300 ms and was ended"):
        await worker.train(job(seconds=60))
    assert not psutil.pid_exists(pid)


async def test_a_bug_or_a_refusal_is_told_and_the_process_lives(worker):
    await worker.train(job())
    pid = worker.pid
    with pytest.raises(Unavailable, match="failed: ValueError: what a bug"):
        await worker.train(job(what="bug"))
    with pytest.raises(Refused, match=r"sklearn is not installed: pip install 'homeostat\[ml\]'"):
        await worker.train(job(what="refuse"))
    read(await worker.train(job(what="talk")))
    assert worker.pid == pid


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts allocations on Linux only")
async def test_it_may_not_take_all_memory(worker):
    with pytest.raises(Unavailable, match="MemoryError"):
        await worker.train(job(what="hunger"))
    read(await worker.train(job()))


async def test_a_cancelled_training_leaves_nothing_behind(worker, tmp_path):
    mark = tmp_path / "mark"
    task = asyncio.create_task(worker.train(job(seconds=60, mark=str(mark))))
    pid = await begun(mark)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pid)
    read(await worker.train(job()))


def test_it_ends_with_a_daemon_that_was_killed(tmp_path):
    mark = tmp_path / "mark"
    code = textwrap.dedent(
        f"""
        import asyncio, numpy as np, worker_trainers
        from agent.worker import Job, Worker
        job = Job("test_any", {{"seconds": 60, "mark": {str(mark)!r}}}, np.arange(4.0), np.ones((4, 3)))
        asyncio.run(Worker().train(job))
        """
    )
    with subprocess.Popen([sys.executable, "-c", code]) as daemon:
        try:
            pid = asyncio.run(begun(mark))
        finally:
            daemon.kill()
        daemon.wait(10)
    end = time.monotonic() + 15
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the worker outlived its daemon"
        time.sleep(0.1)
