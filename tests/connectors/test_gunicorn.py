"""Real gunicorns: counting, scaling by signals, restarts, and what must never be signalled."""

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Edge, Entity
from agent.ports import Source, Step
from agent.registry import action
from connectors import _proc
from connectors.gunicorn import Gunicorn
from playbooks.actions.restart import Restart, Restarter
from playbooks.actions.scale import Scaler

pytest.importorskip("gunicorn", reason="the extra `demo` installs it")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")

WEB = Entity("service", "web")
APP = textwrap.dedent(
    """
    import os, time
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            time.sleep(1.5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]
    """
)


class Server:
    """A gunicorn in a folder of its own."""

    def __init__(self, folder: Path, *more: str, app: str = APP, children: int = 2) -> None:
        self.folder = folder
        self.pidfile = folder / "gunicorn.pid"
        log = folder / "log"
        (folder / "app.py").write_text(app)
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"unix:{folder}/sock",
                 "--pid", str(self.pidfile), "--graceful-timeout", "5", "--no-control-socket", *more, "app:app"],
                cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=out,
            )  # fmt: skip
        wait_for(lambda: self.answers() and len(self.workers()) == children, 30, log.read_text)

    def answers(self) -> bool:
        try:
            self.ask()
        except OSError:
            return False
        return True

    def ask(self, path: str = "/") -> bytes:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(self.folder / "sock"))
            one.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return one.recv(4096)

    @property
    def master(self) -> int:
        return int(self.pidfile.read_text())

    def workers(self) -> set[int]:
        folder = os.open("/proc", os.O_RDONLY)
        try:
            every = _proc.scan(folder)
        finally:
            os.close(folder)
        return {
            s.pid for s in every.values() if s.parent == self.process.pid and s.state not in "ZX"
        }

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def stat(pid: int) -> _proc.Stat:
    return _proc.parse_stat(Path(f"/proc/{pid}/stat").read_bytes())


def wait_for(check, seconds: float = 10.0, say=lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, say()
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.close()


def connect(pidfile: Path, **more) -> Gunicorn:
    config = {"service": "web", "pidfile": pidfile, "max_workers": 4, "wait": 10} | more
    return Gunicorn("gunicorn", Gunicorn.Config(**config))


async def count(one: Gunicorn) -> float:
    return float((await one.poll()).values[0])


def step(**more) -> Step:
    return Step(
        key="run-1/out", use="scale", target="service:web", params={}, by="homeostat:run-1", **more
    )


# ---- what it does


async def test_workers_are_counted_and_sighted_with_their_processes(server):
    one = connect(server.pidfile)
    assert isinstance(one, Source)
    assert isinstance(one, Scaler)
    frame = await one.poll()
    assert [str(s) for s in frame.series] == ["service.replicas_count{service:web}"]
    assert frame.values.tolist() == [2.0]
    seen = {s.entity: s for s in frame.seen}
    assert set(seen) == {WEB, Entity("replica", "web/0"), Entity("replica", "web/1")}
    group = _proc.process_entity(server.master, stat(server.master).start_ticks)
    assert seen[WEB].edges == (Edge("serves", group, WEB),)
    for n in (0, 1):
        me = Entity("replica", f"web/{n}")
        assert set(seen[me].edges) == {Edge("serves", me, WEB), Edge("runs_on", me, group)}
    assert {
        int(dict(seen[Entity("replica", f"web/{n}")].attrs)["pid"]) for n in (0, 1)
    } == server.workers()
    assert frame.changes == ()
    assert (await one.poll()).seen == ()


async def test_out_by_ttin_and_in_by_ttou(server):
    one = connect(server.pidfile)
    await one.set_replicas("service:web", 4, 2)
    assert len(server.workers()) == 4
    assert await one.replicas("service:web") == 4
    await one.set_replicas("service:web", 1, 4)
    assert len(server.workers()) == 1
    assert server.answers()


async def test_the_verb_scales_out_and_in_again(server):
    one = connect(server.pidfile)
    scale = action.get("scale")
    act = scale(scale.Params(by=1), one)
    seen = await act.observe(step())
    planned = step(before=seen)
    done = await act.run(planned)
    assert await one.replicas("service:web") == 3
    assert act.reached(planned, await act.observe(planned))
    await act.undo(planned, done.undo)
    assert await one.replicas("service:web") == 2


async def test_scaling_in_lets_requests_finish(server):
    one = connect(server.pidfile)
    asked = asyncio.gather(*(asyncio.to_thread(server.ask, "/slow") for _ in range(2)))
    await asyncio.sleep(0.3)
    await one.set_replicas("service:web", 1, 2)
    assert all(b"200 OK" in answer for answer in await asked)


async def test_a_replica_keeps_its_number_and_a_new_one_takes_the_free_one(server):
    one = connect(server.pidfile)
    await one.poll()
    numbers = {pid: n for (pid, _), n in one._slots.items()}
    victim = min(numbers)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(server.workers() - {victim}) == 2)
    frame = await one.poll()
    now = {pid: n for (pid, _), n in one._slots.items()}
    survivor = next(pid for pid in numbers if pid != victim)
    assert now[survivor] == numbers[survivor]
    assert sorted(now.values()) == [0, 1]
    assert [s.entity.key for s in frame.seen] == [f"web/{numbers[victim]}"]
    assert not frame.seen[0].gone


async def test_what_the_master_started_beside_its_workers_is_no_worker(tmp_path):
    app = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        + APP
    )
    server = Server(tmp_path, "--preload", app=app, children=3)
    try:
        assert await connect(server.pidfile).replicas("service:web") == 2
    finally:
        os.killpg(server.process.pid, signal.SIGTERM)
        server.close()


# ---- compare-and-set, bounds


async def test_others_who_scaled_and_bounds_are_respected(server):
    one = connect(server.pidfile, min_workers=2)
    with pytest.raises(Refused, match="runs 2 workers, not 3: changed by others"):
        await one.set_replicas("service:web", 4, 3)
    for n in (1, 5):
        with pytest.raises(Refused, match="allows 2 to 4"):
            await one.set_replicas("service:web", n, 2)
    with pytest.raises(Refused, match="not service:other"):
        await one.replicas("service:other")
    assert len(server.workers()) == 2


async def test_two_at_once_scale_once(server):
    one = connect(server.pidfile)
    results = await asyncio.gather(
        *(one.set_replicas("service:web", 3, 2) for _ in range(2)), return_exceptions=True
    )
    assert [type(r) for r in results].count(Refused) == 1
    assert len(server.workers()) == 3


async def test_an_upgrade_that_is_going_on_is_not_disturbed(server):
    server.pidfile.with_suffix(".pid.2").write_text("1\n")
    with pytest.raises(Refused, match="being upgraded"):
        await connect(server.pidfile).set_replicas("service:web", 3, 2)


async def test_a_signal_that_is_lost_is_uncertain_and_what_is_there_decides(server):
    """SIGCONT takes back a SIGTTIN that waits for a stopped process: it is sent, and nothing comes of it."""
    one = connect(server.pidfile, wait=0.5)
    scale = action.get("scale")
    act = scale(scale.Params(by=1), one)
    planned = step(before=await act.observe(step()))
    os.kill(server.master, signal.SIGSTOP)
    try:
        with pytest.raises(Uncertain, match="told to run 3 workers and runs 2"):
            await act.run(planned)
    finally:
        os.kill(server.master, signal.SIGCONT)
    await asyncio.sleep(1.0)
    seen = await act.observe(planned)
    assert seen["replicas"] == 2
    assert not act.reached(planned, seen)
    slow = connect(server.pidfile)
    done = await scale(scale.Params(by=1), slow).run(planned)
    assert len(server.workers()) == 3
    again = await act.run(planned)  # asked once more: nothing is done twice
    assert again.undo == done.undo
    assert len(server.workers()) == 3


async def test_a_worker_that_cannot_be_ended_in_time_is_uncertain(server):
    one = connect(server.pidfile, wait=0.4)
    asked = asyncio.gather(*(asyncio.to_thread(server.ask, "/slow") for _ in range(2)))
    await asyncio.sleep(0.3)
    with pytest.raises(Uncertain, match="may still follow"):
        await one.set_replicas("service:web", 1, 2)
    await asked
    wait_for(lambda: len(server.workers()) == 1)
    assert await count(one) == 1.0


async def test_a_master_that_dies_while_it_is_scaled_is_uncertain(server):
    one = connect(server.pidfile)
    os.kill(server.master, signal.SIGSTOP)
    task = asyncio.create_task(one.set_replicas("service:web", 3, 2))
    await asyncio.sleep(0.2)
    os.killpg(server.process.pid, signal.SIGKILL)
    with pytest.raises(Uncertain, match="ended while it was scaled"):
        await task
    server.process.wait()


# ---- identity


async def test_nothing_but_that_gunicorn_is_ever_signalled(tmp_path):
    """An uncaught SIGTTIN stops a process: each of these must be refused before."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # noqa: ASYNC220  # never waited for
    fake = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "gunicorn"])  # noqa: ASYNC220  # as above
    pidfile = tmp_path / "pid"
    try:
        one = connect(pidfile)
        for text, error, says in (
            (str(bystander.pid), Refused, "no gunicorn"),
            ("1", Refused, "no gunicorn"),
            ("-1", Refused, "holds no pid"),
            ("0", Refused, "holds no pid"),
            ("gunicorn", Refused, "holds no pid"),
            ("", Unavailable, "is empty"),
            ("4194303", Unavailable, "has ended"),
        ):
            pidfile.write_text(text)
            for call in (
                one.replicas("service:web"),
                one.set_replicas("service:web", 3, 2),
                one.poll(),
            ):
                with pytest.raises(error, match=says):
                    await call
        pidfile.write_text(f"{fake.pid}\n")
        with pytest.raises(Unavailable, match="does not take SIGTTIN yet"):
            await one.set_replicas("service:web", 1, 0)
        os.utime(pidfile, (1, 1))
        with pytest.raises(Refused, match="older than process"):
            await one.replicas("service:web")
        for process in (bystander, fake):
            assert stat(process.pid).state in "SR"  # not T: stopped
    finally:
        for process in (bystander, fake):
            process.kill()
            process.wait()


# ---- coming and going


async def test_never_seen_is_unavailable_and_gone_is_zero(tmp_path):
    one = connect(tmp_path / "gunicorn.pid")
    with pytest.raises(Unavailable, match="start gunicorn with --pid"):
        await one.poll()
    server = Server(tmp_path)
    try:
        assert await count(one) == 2.0
    finally:
        server.close()
    frame = await one.poll()
    assert frame.values.tolist() == [0.0]
    assert {s.entity.key for s in frame.seen if s.gone} == {"web/0", "web/1"}
    assert not any(s.gone for s in frame.seen if s.entity == WEB)
    with pytest.raises(Unavailable):
        await one.replicas("service:web")


async def test_a_restart_is_a_change(tmp_path):
    first = Server(tmp_path)
    one = connect(first.pidfile)
    await one.poll()
    old = first.master
    first.close()
    began = time.time()
    second = Server(tmp_path)
    try:
        (change,) = (await one.poll()).changes
        assert (change.kind, change.entity) == ("restart", WEB)
        assert (change.before, change.after) == (f"gunicorn {old}", f"gunicorn {second.master}")
        assert began - 1 < change.ts <= time.time()
        assert not change.ours
        assert (await one.poll()).changes == ()
    finally:
        second.close()


async def test_describe_says_what_it_may(server, tmp_path):
    lines = await connect(server.pidfile).describe()
    assert f"gunicorn {server.master} runs 2 workers" in lines[0]
    assert lines[1] == "may run 1 to 4"
    assert "start gunicorn with --pid" in (await connect(tmp_path / "none").describe())[0]


@pytest.mark.parametrize(
    "config",
    [
        {"max_workers": 0},
        {"max_workers": 2, "min_workers": 3},
        {"max_workers": None},
        {"service": "Web 1"},
    ],
)
def test_config_is_strict(tmp_path, config):
    with pytest.raises(ValidationError):
        connect(tmp_path / "pid", **config)


# ---- restarting


def restart_step(target: str = "service:web", **more) -> Step:
    return Step("run-1/restart", "restart", target, {}, by="homeostat:run-1", **more)


async def test_workers_are_restarted_one_by_one_and_no_request_is_lost(server):
    one = connect(server.pidfile)
    assert isinstance(one, Restarter)
    act = Restart(Restart.Params(), one)
    step = dataclasses.replace(restart_step(), before=await act.observe(restart_step()))
    old = server.workers()
    assert not act.reached(step, step.before)
    slow = asyncio.create_task(asyncio.to_thread(server.ask, "/slow"))
    await asyncio.sleep(0.3)
    done = await act.run(step)
    assert not old & server.workers()
    assert len(server.workers()) == 2
    assert (await slow).startswith(b"HTTP/1.0 200"), "the one that was at work has finished it"
    assert done.change.kind == "restart"
    assert act.reached(step, await act.observe(step))
    young = server.workers()
    assert "restarted already" in (await act.run(step)).summary
    assert server.workers() == young
    assert server.process.poll() is None


async def test_one_replica_is_restarted_alone_and_the_last_one_never(server):
    one = connect(server.pidfile)
    act = Restart(Restart.Params(wait=0.5), one)
    about = restart_step("replica:web/1")
    step = dataclasses.replace(about, before=await act.observe(about))
    old = server.workers()
    await act.run(step)
    assert len(old & server.workers()) == 1
    careful = Restart(Restart.Params(wait=0.5, min_healthy=2), one)
    with pytest.raises(Refused, match="only 1 other replica of service:web is well"):
        await careful.run(restart_step())
    assert len(server.workers()) == 2


async def test_a_worker_that_has_ended_is_not_restarted(server):
    one = connect(server.pidfile)
    with pytest.raises(Refused, match="it has ended already"):
        await one.restart("service:web", "1/1")
