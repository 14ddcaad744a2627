"""Process groups: real processes that work, fork, change and die; recorded ones for exact sums."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import SIGNALS
from agent.errors import Refused, Unavailable
from agent.model import Entity, Frame, Series, Sighting
from agent.ports import Abilities, Source
from agent.rates import Rates
from connectors._proc import HERTZ, boot_id, command_line, head_of, leader, parse_stat, this_host
from connectors.processes import Processes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a Linux /proc")


# ---- real processes


class Job:
    """A process group of its own."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            argv, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Wait for a line of the job."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    made: list[Job] = []
    yield made
    for job in made:
        job.end()


@pytest.fixture
def source() -> Iterator[Processes]:
    made = Processes("processes", Processes.Config())
    yield made
    made.close()


def python(jobs: list[Job], code: str, *rest: str) -> Job:
    job = Job(sys.executable, "-S", "-c", code, *rest)
    jobs.append(job)
    return job


def start_of(pid: int) -> int:
    return parse_stat(Path(f"/proc/{pid}/stat").read_bytes()).start_ticks


def entity_of(pid: int) -> Entity:
    return Entity("process", f"{boot_id()}/{pid}/{start_of(pid)}")


def value(frame: Frame, metric: str, entity: Entity) -> float:
    return float(frame.values[frame.series.index(Series(metric, entity))])


def sighted(frames: list[Frame]) -> dict[Entity, Sighting]:
    return {s.entity: s for frame in frames for s in frame.seen}


BURN = "print('on', flush=True)\nwhile True: sum(range(1000))"
IDLE = "import time; print('on', flush=True); time.sleep(600)"


async def test_frames_keep_the_contract(source: Processes):
    assert isinstance(source, Source)
    assert isinstance(source, Abilities)
    assert source.interval_s == 5.0
    frame = await source.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert {s.metric for s in frame.series} <= SIGNALS.keys()
    assert frame.values.shape == (len(frame.series),)
    assert all(dict(s.attrs)["pid"] != "2" for s in frame.seen)  # kthreadd is no program
    state = {
        dict(s.labels)["state"]: v
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "host.processes_count"
    }
    assert state["total"] >= 2


async def test_the_agent_sees_itself(source: Processes):
    frame = await source.poll()
    (own,) = [s for s in frame.seen if dict(s.attrs).get("self") == "yes"]
    assert dict(own.attrs)["pgid"] == str(os.getpgid(0))
    assert value(frame, "process.memory_bytes", own.entity) > 1e6
    assert value(frame, "process.file_descriptors_count", own.entity) > 2


async def test_who_burns_cpu_comes_to_the_top_with_its_cores(source: Processes, jobs: list[Job]):
    rates = Rates()
    job = python(jobs, BURN)
    assert job.said() == "on"
    frames = [rates.apply(await source.poll())]
    end = time.monotonic() + 20
    cores = 0.0
    while time.monotonic() < end and not cores > 0.05:
        await asyncio.sleep(0.5)
        frames.append(rates.apply(await source.poll()))
        cores = value(frames[-1], "process.cpu_cores", entity_of(job.pid))
    assert 0.05 < cores < 1.2
    facts = dict(sighted(frames)[entity_of(job.pid)].attrs)
    assert facts["pid"] == facts["pgid"] == str(job.pid)
    assert facts["start"] == str(start_of(job.pid))
    assert facts["command"].startswith(sys.executable)
    assert facts["nice"] == str(os.nice(0))
    (edge,) = sighted(frames)[entity_of(job.pid)].edges
    assert (edge.kind, edge.src, edge.dst) == ("runs_on", entity_of(job.pid), this_host())


async def test_members_are_summed_and_their_end_takes_nothing_back(jobs: list[Job]):
    code = """
import subprocess, sys, time
kids = [subprocess.Popen([sys.executable, '-S', '-c', sys.argv[1]]) for _ in range(2)]
print(*(k.pid for k in kids), flush=True)
[k.wait() for k in kids]
print('reaped', flush=True)
time.sleep(600)
"""
    job = python(jobs, code, "while True: sum(range(1000))")
    kids = [int(pid) for pid in job.said().split()]
    source = Processes("processes", Processes.Config(always=[f"{sys.executable} *"]))
    frames = [await source.poll()]
    me = entity_of(job.pid)
    used, end = 0.0, time.monotonic() + 20
    while used < 0.1 and time.monotonic() < end:
        await asyncio.sleep(0.2)
        frames.append(await source.poll())
        used = value(frames[-1], "process.cpu_seconds_total", me)
    assert value(frames[-1], "process.processes_count", me) == 3
    assert used >= 0.1
    for pid in kids:
        os.kill(pid, signal.SIGKILL)
    assert job.said() == "reaped"
    frames.append(await source.poll())
    after = value(frames[-1], "process.cpu_seconds_total", me)
    assert value(frames[-1], "process.processes_count", me) == 1
    # what the children used until they died is there, and it is there once
    assert used <= after <= used + 2.0
    source.close()


async def test_children_that_nobody_saw_are_in_the_time_of_their_parent(
    jobs: list[Job], tmp_path: Path
):
    code = """
import subprocess, sys, time
print('on', flush=True)
open(sys.argv[2]).read()
subprocess.run([sys.executable, '-S', '-c', sys.argv[1]])
print('ran', flush=True)
time.sleep(600)
"""
    burst = "import time\nwhile time.process_time() < 0.5: sum(range(1000))"
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    job = python(jobs, code, burst, str(fifo))
    assert job.said() == "on"
    source = Processes("processes", Processes.Config(always=[f"{sys.executable} *"]))
    before = value(await source.poll(), "process.cpu_seconds_total", entity_of(job.pid))
    with fifo.open("w"):
        pass
    assert job.said() == "ran"
    after = value(await source.poll(), "process.cpu_seconds_total", entity_of(job.pid))
    assert 0.45 < after - before < 1.5
    source.close()


async def test_a_group_whose_leader_ended_gets_a_new_one_and_says_so(jobs: list[Job]):
    # a session leader that leaves two members behind
    code = """
import os, time
if os.fork() == 0:
    if os.fork() == 0: time.sleep(600)
    time.sleep(600)
print('on', flush=True)
time.sleep(600)
"""
    job = python(jobs, code)
    assert job.said() == "on"
    await asyncio.sleep(0.1)
    source = Processes("processes", Processes.Config(always=[f"{sys.executable} *"]))
    frame = await source.poll()
    old = entity_of(job.pid)
    assert value(frame, "process.processes_count", old) == 3
    used = value(frame, "process.cpu_seconds_total", old)
    job.process.kill()
    job.process.wait()
    frame = await source.poll()
    gone = [s.entity for s in frame.seen if s.gone]
    assert gone == [old]
    (new,) = [s for s in frame.seen if dict(s.attrs).get("pgid") == str(job.pid)]
    assert new.entity != old
    assert value(frame, "process.processes_count", new.entity) == 2
    assert value(frame, "process.cpu_seconds_total", new.entity) >= used - 1e-9
    assert old not in {s.entity for s in frame.series}
    source.close()


async def test_what_ended_is_gone_once(source: Processes, jobs: list[Job]):
    source.config = Processes.Config(always=[f"{sys.executable} *"])
    job = python(jobs, IDLE)
    assert job.said() == "on"
    await source.poll()
    me = entity_of(job.pid)
    job.end()
    frame = await source.poll()
    assert Sighting(me, gone=True) in frame.seen
    assert me not in {s.entity for s in frame.series}
    assert not [s for s in (await source.poll()).seen if s.entity == me]


async def test_changed_attributes_are_told_again(source: Processes, jobs: list[Job]):
    source.config = Processes.Config(always=[f"{sys.executable} *"])
    job = python(jobs, IDLE)
    assert job.said() == "on"
    await source.poll()
    os.setpriority(os.PRIO_PROCESS, job.pid, 7)
    frame = await source.poll()
    me = entity_of(job.pid)
    (again,) = [s for s in frame.seen if s.entity == me]
    assert dict(again.attrs)["nice"] == "7"
    assert value(frame, "process.nice_count", me) == 7
    assert not [s for s in (await source.poll()).seen if s.entity == me]


async def test_a_pidfile_binds_the_group_of_its_process(jobs: list[Job], tmp_path: Path):
    code = """
import os, time
pid = os.fork()
if pid == 0: time.sleep(600)
print(pid, flush=True)
time.sleep(600)
"""
    job = python(jobs, code)
    worker = int(job.said())
    pidfile = tmp_path / "service.pid"
    source = Processes("processes", Processes.Config(top=1, pidfiles=[pidfile]))
    me = entity_of(job.pid)
    assert me not in {s.entity for s in (await source.poll()).series}
    pidfile.write_text(f"{worker}\n", "ascii")
    assert me in {s.entity for s in (await source.poll()).series}
    source.close()


async def test_io_of_a_group(jobs: list[Job], tmp_path: Path):
    code = """
import os, sys
print('on', flush=True)
sys.stdin = open(sys.argv[1])
with open(sys.argv[2], 'wb') as f:
    sys.stdin.read()
    f.write(bytes(1 << 22)); f.flush(); os.fsync(f.fileno())
print('wrote', flush=True)
import time; time.sleep(600)
"""
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    job = python(jobs, code, str(fifo), str(tmp_path / "out"))
    assert job.said() == "on"
    source = Processes("processes", Processes.Config(always=[f"{sys.executable} *"]))
    before = value(await source.poll(), "process.written_bytes_total", entity_of(job.pid))
    if np.isnan(before):
        pytest.skip("this system does not let us read the I/O of our own processes")
    with fifo.open("w"):
        pass
    assert job.said() == "wrote"
    frame = await source.poll()
    written = value(frame, "process.written_bytes_total", entity_of(job.pid)) - before
    assert written == 0 or 1 << 22 <= written < 1 << 23  # 0 where the file system is memory
    source.close()


async def test_a_poll_costs_little(jobs: list[Job]):
    source = Processes("processes", Processes.Config())
    await source.poll()
    start = time.process_time()
    for _ in range(20):
        await source.poll()
    each = (time.process_time() - start) / 20
    assert each < 0.005 + 0.0002 * len(source._members)  # 20 to 40 us a process on a quiet machine
    source.close()


async def test_descriptors_do_not_pile_up(source: Processes):
    await source.poll()
    before = psutil.Process().num_fds()
    for _ in range(20):
        await source.poll()
    assert psutil.Process().num_fds() == before


async def test_describe_is_for_people(source: Processes, jobs: list[Job]):
    job = python(jobs, BURN)
    assert job.said() == "on"
    lines = await source.describe()
    assert "groups" in lines[0]
    assert any(str(job.pid) in line for line in lines[1:])


# ---- recorded processes: exact sums


class Proc:
    """A /proc whose processes we write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(
        self, pid: int, *, group: int | None = None, parent: int = 1, own: int = 0, children: int = 0, start: int = 100,
        rss: int = 10, state: str = "S", name: str = "job", flags: int = 0, io: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        folder = self.root / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        number = pid if group is None else group
        fields = [
            state,
            parent,
            number,
            number,
            0,
            -1,
            flags,
            0,
            0,
            0,
            0,
            own,
            0,
            children,
            0,
            20,
            0,
            1,
            0,
            start,
            0,
            rss,
        ]
        (folder / "stat").write_text(f"{pid} ({name}) " + " ".join(map(str, fields)) + " 0 0\n")
        (folder / "cmdline").write_bytes(f"/usr/bin/{name}\0--all\0".encode())
        (folder / "io").write_text(f"rchar: 1\nread_bytes: {io[0]}\nwrite_bytes: {io[1]}\n")
        (folder / "fd").mkdir(exist_ok=True)

    def end(self, pid: int) -> None:
        folder = self.root / str(pid)
        for file in ("stat", "cmdline", "io"):
            (folder / file).unlink()
        (folder / "fd").rmdir()
        folder.rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    proc = Proc(tmp_path / "proc")
    proc.put(1, name="init", start=1)
    return proc


@pytest.fixture
def recorded(proc: Proc) -> Iterator[Processes]:
    source = Processes("processes", Processes.Config(procfs=proc.root))
    yield source
    source.close()


def job_entity(pid: int, start: int = 100) -> Entity:
    return Entity("process", f"{boot_id()}/{pid}/{start}")


def ticks(frame: Frame, entity: Entity) -> int:
    return round(value(frame, "process.cpu_seconds_total", entity) * HERTZ)


async def cpu(source: Processes, pid: int, start: int = 100) -> int:
    frame = await source.poll()
    return round(value(frame, "process.cpu_seconds_total", job_entity(pid, start)) * HERTZ)


async def test_a_child_that_ended_is_counted_once(proc: Proc, recorded: Processes):
    proc.put(10, own=100)
    proc.put(11, group=10, parent=10, own=50)
    assert await cpu(recorded, 10) == 150
    # the child used 7 more, ended, and its parent waited for it
    proc.end(11)
    proc.put(10, own=101, children=57)
    assert await cpu(recorded, 10) == 158
    # two more that nobody saw
    proc.put(10, own=101, children=57 + 30)
    assert await cpu(recorded, 10) == 188


async def test_a_shell_does_not_take_over_what_its_jobs_used(proc: Proc, recorded: Processes):
    proc.put(10, own=5, name="shell")
    proc.put(20, parent=10, own=4000, name="job")
    assert await cpu(recorded, 10) == 5
    proc.end(20)
    proc.put(10, own=5, children=4010, name="shell")
    assert await cpu(recorded, 10) == 15


async def test_when_parent_and_child_end_together_nobody_bursts(proc: Proc, recorded: Processes):
    proc.put(10, own=1, name="shell")
    proc.put(20, parent=10, own=100)
    proc.put(21, group=20, parent=20, own=9000)
    assert await cpu(recorded, 1, start=1) == 0
    proc.end(20)
    proc.end(21)
    proc.put(10, own=1, children=100, name="shell")
    proc.put(1, name="init", start=1, children=9001)
    frame = await recorded.poll()
    assert ticks(frame, job_entity(10)) == 1
    assert ticks(frame, job_entity(1, 1)) <= 1


async def test_a_pid_that_comes_again_is_somebody_else(proc: Proc, recorded: Processes):
    proc.put(10, own=500, name="old")
    await recorded.poll()
    proc.put(10, own=3, start=900, name="new")
    frame = await recorded.poll()
    assert Sighting(job_entity(10), gone=True) in frame.seen
    assert ticks(frame, job_entity(10, 900)) == 3
    facts = {s.entity: dict(s.attrs) for s in frame.seen}
    assert facts[job_entity(10, 900)]["name"] == "new"


async def test_counters_never_fall_while_members_come_and_go(proc: Proc, recorded: Processes):
    proc.put(10, own=10)
    last = await cpu(recorded, 10)
    own = 10
    for step in range(20):
        member = 100 + step
        proc.put(member, group=10, parent=10, own=50, start=200 + step)
        now = await cpu(recorded, 10)
        assert now == last + 50
        last = now
        proc.end(member)  # nobody waits for it: its parent does not gain
        own += 1
        proc.put(10, own=own)
        now = await cpu(recorded, 10)
        assert now == last + 1
        last = now


async def test_io_is_counted_once_and_never_inherited(proc: Proc, recorded: Processes):
    proc.put(10, io=(1000, 1000))
    proc.put(11, group=10, parent=10, io=(500, 0))
    frame = await recorded.poll()
    assert value(frame, "process.read_bytes_total", job_entity(10)) == 0
    proc.put(11, group=10, parent=10, io=(700, 40))
    frame = await recorded.poll()
    assert value(frame, "process.read_bytes_total", job_entity(10)) == 200
    assert value(frame, "process.written_bytes_total", job_entity(10)) == 40
    # it reads 50 more and ends; its parent inherits all of it
    proc.end(11)
    proc.put(10, io=(1000 + 750, 1000 + 40))
    frame = await recorded.poll()
    assert value(frame, "process.read_bytes_total", job_entity(10)) == 250
    assert value(frame, "process.written_bytes_total", job_entity(10)) == 40
    # a new one: all that it read is new
    proc.put(12, group=10, parent=10, start=300, io=(9, 0))
    frame = await recorded.poll()
    assert value(frame, "process.read_bytes_total", job_entity(10)) == 259


async def test_unreadable_io_is_unknown(proc: Proc, recorded: Processes):
    proc.put(10)
    (proc.root / "10/io").write_text("no such thing\n")
    frame = await recorded.poll()
    assert np.isnan(value(frame, "process.read_bytes_total", job_entity(10)))
    assert value(frame, "process.read_bytes_total", job_entity(1, 1)) == 0


async def test_kernel_threads_are_left_out(proc: Proc, recorded: Processes):
    proc.put(2, name="kthreadd", flags=0x0020_0000, rss=10**6)
    frame = await recorded.poll()
    assert job_entity(2) not in {s.entity for s in frame.series}
    assert recorded._kernel == {2}
    # much later its number is a program's
    proc.put(2, name="program", start=5000, rss=10**6)
    recorded._kernel_at = -1e9
    frame = await recorded.poll()
    assert job_entity(2, 5000) in {s.entity for s in frame.series}


async def test_top_by_memory_with_hysteresis(proc: Proc):
    source = Processes("processes", Processes.Config(procfs=proc.root, top=2))
    for i in range(10):
        proc.put(10 + i, rss=1000 - i)

    async def shown() -> set[int]:
        frame = await source.poll()
        return {int(s.entity.key.split("/")[1]) for s in frame.series if s.entity.kind == "process"}

    assert await shown() == {10, 11}
    table = (await source.poll()).series
    proc.put(12, rss=2000)  # a third rises; who was there stays while it is among twice as many
    assert await shown() == {10, 11, 12}
    proc.put(12, rss=998)
    for _ in range(3):
        assert await shown() == {10, 11, 12}
    now = time.monotonic()
    proc.put(11, rss=1)
    assert await shown() == {10, 11, 12}  # out of all rankings, but not for long
    source._chosen[job_entity(11)] = now - 61.0
    assert await shown() == {10, 12}
    assert (await source.poll()).series is not table
    source.close()


async def test_the_table_is_the_same_object_while_the_same_are_chosen(
    proc: Proc, recorded: Processes
):
    proc.put(10)
    first = await recorded.poll()
    assert (await recorded.poll()).series is first.series
    proc.put(11)
    assert (await recorded.poll()).series is not first.series


async def test_services_are_shown_by_their_command(proc: Proc):
    for i in range(30):
        proc.put(100 + i, rss=1000)
    proc.put(50, rss=1, name="tiny")
    source = Processes(
        "processes", Processes.Config(procfs=proc.root, top=3, always=["*/tiny --all"])
    )
    frame = await source.poll()
    assert job_entity(50) in {s.entity for s in frame.series}
    source.close()


async def test_an_empty_proc_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Processes("processes", Processes.Config(procfs=tmp_path))
    with pytest.raises(Unavailable, match="no process to be seen"):
        await source.poll()
    source.close()
    source = Processes("processes", Processes.Config(procfs=tmp_path / "none"))
    with pytest.raises(Unavailable, match="can not list"):
        await source.poll()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Refused, match="switch the source off"):
        await source.poll()


# ---- lines and commands


def test_a_name_may_hold_anything():
    line = b"42 (a) (b c) R) S 1 40 40 0 -1 4194304 1 0 0 0 7 3 2 1 20 5 6 0 999 1000 55 0\n"
    stat = parse_stat(line)
    assert (stat.pid, stat.name, stat.state, stat.parent, stat.group) == (
        42,
        "a) (b c) R",
        "S",
        1,
        40,
    )
    assert (stat.own_ticks, stat.child_ticks, stat.nice, stat.threads) == (10, 3, 5, 6)
    assert (stat.start_ticks, stat.rss_pages, stat.kernel) == (999, 55, False)
    with pytest.raises(ValueError, match="not a line"):
        parse_stat(b"42 (a) S 1\n")


def test_the_leader_or_else_the_oldest_that_lives():
    def one(pid: int, start: int, state: str = "S"):
        return parse_stat(
            f"{pid} (x) {state} 1 10 10 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 1 0".encode()
        )

    assert leader([one(11, 5), one(10, 9)]).pid == 10
    assert leader([one(12, 7), one(11, 5), one(13, 6)]).pid == 11
    assert leader([one(10, 1, "Z"), one(11, 5)]).pid == 11
    assert leader([one(10, 1, "Z")]).pid == 10


SECRET = st.from_regex(r"[A-Za-z0-9]{12,30}", fullmatch=True)


@given(
    secret=SECRET,
    name=st.sampled_from(
        [
            "password",
            "DB_PASSWD",
            "api-key",
            "api_key",
            "access-token",
            "client_secret",
            "AWS_SECRET_ACCESS_KEY",
            "auth",
        ]
    ),
)
def test_no_secret_comes_through(secret: str, name: str):
    shapes = [
        ["prog", f"--{name}={secret}"],
        ["prog", f"--{name}", secret],
        ["prog", f"-{name}", secret],
        ["env", f"{name}={secret}", "prog"],
        ["sh", "-c", f"{name}='{secret}' prog"],
        ["prog", f'{{"{name}": "{secret}"}}'],
        ["prog", f"postgres://user:{secret}@db:5432/x"],
        ["curl", "-H", f"Authorization: Bearer {secret}"],
        ["curl", "-H", f"Cookie: a=b; session={secret}"],
        ["prog", f"ghp_{secret}"],
        ["prog", f"--key=AKIA{secret}"],
    ]
    for argv in shapes:
        line = command_line(argv)
        assert secret not in line, argv
        assert "***" in line


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["python", "train.py", "--epochs", "3"], "python train.py --epochs 3"),
        (["vllm", "--max-num-batched-tokens", "8192"], "vllm --max-num-batched-tokens 8192"),
        (["vllm", "--tokenizer=llama"], "vllm --tokenizer=llama"),
        (["prog", "--password", "--verbose"], "prog --password --verbose"),
        (["a\nb\x1b[31m", "c"], "a b [31m c"),
        (["curl", "http://host:8080/path"], "curl http://host:8080/path"),
    ],
)
def test_what_is_no_secret_stays(argv: list[str], line: str):
    assert command_line(argv) == line


@given(st.lists(st.text(max_size=300), max_size=20))
def test_a_command_is_short_and_printable(argv: list[str]):
    line = command_line(argv)
    assert len(line) <= 200
    assert line.isprintable()


def test_a_huge_command_costs_little():
    start = time.process_time()
    command_line(["x" * 100_000, *(["a" * 5000] * 100)])
    command_line(["token" * 20_000])
    assert time.process_time() - start < 0.5


def test_a_group_whose_leader_has_ended_is_stood_for_by_its_oldest_member():
    """As `nohup job &` in a script leaves it."""
    code = "import os, time; pid = os.fork(); print(pid, flush=True) if pid else time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        assert first.stdout is not None
        child = int(first.stdout.readline())
        try:
            first.wait(10)
            head = head_of(child)
            assert (head.pid, head.group) == (child, first.pid)
            assert head_of(os.getpid()).group == os.getpgid(0)
        finally:
            os.kill(child, signal.SIGKILL)
    with pytest.raises(OSError, match="No such"):
        head_of(2**22 - 1)
