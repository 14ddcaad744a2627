"""Priorities and pauses of real process groups."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.errors import Refused
from agent.ports import Action, Step, Undo
from playbooks.actions import _procfs as procfs
from playbooks.actions.process import PauseProcess, SetPriority

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")
OURS = os.getpriority(os.PRIO_PROCESS, 0)
"""The priority of the tests, and so of whatever they start."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="puts priorities of others back")
pytestmark = needs_linux

# A leader with one forked child and a second thread; each line on standard input forks one more.
GROUP = textwrap.dedent(
    """
    import os, sys, threading, time
    def idle():
        while True:
            time.sleep(60)
    if os.fork() == 0:
        idle()
    threading.Thread(target=idle, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            idle()
        if line.strip() == "job":
            os.setpgid(pid, pid)
        print(pid, flush=True)
    idle()
    """
)


class Group:
    """A real process group in a session of its own."""

    def __init__(self, code: str = GROUP) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline().strip() == "ready"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def id(self) -> str:
        return f"process:{procfs.boot_id()}/{self.pid}/{procfs.read(self.pid).start}"

    def fork(self, how: str = "member") -> int:
        self.process.stdin.write(how + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def members(self) -> list[procfs.Member]:
        return [m for m in procfs.everyone() if m.group == self.pid]

    def nices(self) -> set[int]:
        return {n for m in self.members() for n in procfs.threads(m.pid).values()}

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # a test may have ended all of it
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def group():
    made = Group()
    yield made
    made.close()


def step(target: str, use: str = "set_priority", **more) -> Step:
    return Step(key="run-1/calm", use=use, target=target, params={}, by="homeostat:run-1", **more)


async def planned(act, target: str) -> Step:
    one = step(target)
    # it travels through the journal as JSON
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


def test_the_contract():
    for act in (SetPriority(SetPriority.Params()), PauseProcess(PauseProcess.Params())):
        assert isinstance(act, Action)
        assert isinstance(act, Undo)


# ---- priority


@needs_root
async def test_every_thread_of_every_member_is_lowered_and_put_back(group):
    child = next(m.pid for m in group.members() if m.pid != group.pid)
    os.setpriority(os.PRIO_PROCESS, child, 4)
    act = SetPriority(SetPriority.Params(nice=12))
    one = await planned(act, group.id)
    assert not act.reached(one, one.before)
    assert len(one.before["members"]) == 2
    done = await act.run(one)
    assert group.nices() == {12}
    assert len(procfs.threads(group.pid)) == 2  # the second thread was lowered too
    assert done.values["members"] == 2
    assert done.change.ours
    assert act.reached(one, await act.observe(one))
    late = group.fork()  # forked after the act: it inherited the low priority
    assert os.getpriority(os.PRIO_PROCESS, late) == 12
    undo = json.loads(json.dumps(dict(done.undo)))
    back = await act.undo(one, undo)
    assert set(procfs.threads(group.pid).values()) == {OURS}
    assert os.getpriority(os.PRIO_PROCESS, child) == 4
    assert os.getpriority(os.PRIO_PROCESS, late) == OURS
    assert back.values["members"] == 3
    assert "3 processes" in (await act.undo(one, undo)).summary  # twice is no harm
    assert os.getpriority(os.PRIO_PROCESS, child) == 4


@needs_root
async def test_nobody_is_raised_and_a_calm_group_needs_nothing(group):
    for member in group.members():
        for tid in procfs.threads(member.pid):
            os.setpriority(os.PRIO_PROCESS, tid, 19)
    if (session := procfs.autogroup(group.pid)) is not None:
        assert session[1] == 0
        procfs.set_autogroup(group.pid, 19)
    act = SetPriority(SetPriority.Params(nice=10))
    one = await planned(act, group.id)
    assert act.reached(one, one.before)
    done = await act.run(one)
    assert group.nices() == {19}
    await act.undo(one, done.undo)
    assert group.nices() == {19}


@needs_root
async def test_the_session_is_lowered_where_the_kernel_shares_by_session(group):
    if procfs.autogroup(group.pid) is None:
        pytest.skip("this kernel has no autogroups, or they are off")
    act = SetPriority(SetPriority.Params(nice=15))
    one = await planned(act, group.id)
    assert list(one.before["sessions"].values()) == [0]
    done = await act.run(one)
    assert procfs.autogroup(group.pid)[1] == 15
    assert "only inside it" not in done.summary
    await act.undo(one, done.undo)
    assert procfs.autogroup(group.pid)[1] == 0


@needs_root
async def test_a_session_that_holds_others_is_left_alone_and_said(group):
    if procfs.autogroup(group.pid) is None:
        pytest.skip("this kernel has no autogroups, or they are off")
    child = group.fork("job")  # a group of its own in the same session, as a shell makes them
    act = SetPriority(SetPriority.Params())
    one = await planned(act, group.id)
    assert one.before["sessions"] == {}
    done = await act.run(one)
    assert "only inside it" in done.summary
    assert procfs.autogroup(group.pid)[1] == 0
    assert os.getpriority(os.PRIO_PROCESS, child) == OURS
    assert group.nices() == {10}
    await act.undo(one, done.undo)
    assert group.nices() == {OURS}
    os.kill(child, signal.SIGKILL)


@needs_root
async def test_a_lowered_neighbour_gives_the_cpu_back(group):
    """What the verb is for, on one core: two sessions of equal right, then one that gives way."""
    core = min(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint('ready', flush=True)\nwhile True: pass"
    service, neighbour = Group(code), Group(code)
    try:
        act = SetPriority(SetPriority.Params(nice=19))
        one = await planned(act, neighbour.id)
        done = await act.run(one)
        before = served, burnt = _cpu(service.pid), _cpu(neighbour.pid)
        while served + burnt - sum(before) < 60:  # others want this core, too
            await asyncio.sleep(0.2)
            served, burnt = _cpu(service.pid), _cpu(neighbour.pid)
        assert served - before[0] > 4 * (burnt - before[1])
        await act.undo(one, done.undo)
    finally:
        service.close()
        neighbour.close()


def _cpu(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@needs_root
async def test_a_try_that_was_cut_off_half_way_still_knows_what_was_there(group):
    act = SetPriority(SetPriority.Params(nice=12))
    one = await planned(act, group.id)
    os.setpriority(os.PRIO_PROCESS, group.pid, 12)  # kill -9 after the first member
    for tid in procfs.threads(group.pid):
        os.setpriority(os.PRIO_PROCESS, tid, 12)
    assert act.reached(
        one, await act.observe(one)
    )  # begun by us: to be finished, not to be puzzled over
    os.setpriority(os.PRIO_PROCESS, group.pid, 3)
    assert not act.reached(one, await act.observe(one))  # that was somebody else
    os.setpriority(os.PRIO_PROCESS, group.pid, 12)
    done = await act.run(one)
    assert group.nices() == {12}
    await act.undo(one, done.undo)
    assert group.nices() == {OURS}


@needs_root
async def test_priorities_that_others_set_are_left_to_them(group):
    act = SetPriority(SetPriority.Params(nice=12))
    one = await planned(act, group.id)
    os.setpriority(os.PRIO_PROCESS, group.pid, 3)
    with pytest.raises(Refused, match="changed by others"):
        await act.run(one)
    one = await planned(act, group.id)
    done = await act.run(one)
    os.setpriority(os.PRIO_PROCESS, group.pid, 7)
    back = await act.undo(one, done.undo)
    assert f"({group.pid}) at 7" in back.summary
    assert os.getpriority(os.PRIO_PROCESS, group.pid) == 7
    done = await act.run(await planned(act, group.id))
    for member in group.members():
        os.setpriority(os.PRIO_PROCESS, member.pid, 2)
    with pytest.raises(Refused, match="changed by others"):
        await act.undo(one, done.undo)


async def test_a_dry_run_changes_nothing(group):
    before = group.nices()
    act = SetPriority(SetPriority.Params(irreversible_ok=True))
    done = await act.run(dataclasses.replace(await planned(act, group.id), dry_run=True))
    assert "would lower" in done.summary
    assert group.nices() == before
    assert "nothing to put back" in (await act.undo(step(group.id), done.undo)).summary


@needs_root
async def test_members_outlive_their_leader(group):
    act = SetPriority(SetPriority.Params(nice=12))
    one = await planned(act, group.id)
    done = await act.run(one)
    child = next(m.pid for m in group.members() if m.pid != group.pid)
    group.process.stdin.write("end\n")
    group.process.stdin.flush()
    group.process.wait()
    await act.undo(one, done.undo)
    assert os.getpriority(os.PRIO_PROCESS, child) == OURS
    # the group is now known by its oldest member
    orphan = procfs.read(child)
    seen = await act.observe(step(f"process:{procfs.boot_id()}/{child}/{orphan.start}"))
    assert seen["group"] == group.pid
    with pytest.raises(Refused, match="has ended"):
        await act.run(one)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: procfs.read(child) is None)
    assert "has ended" in (await act.undo(one, done.undo)).summary


# ---- what must never be touched


@pytest.mark.parametrize("verb", [SetPriority, PauseProcess])
async def test_identity_is_checked(group, verb):
    act = verb(verb.Params())
    boot, pid = procfs.boot_id(), group.pid
    start = procfs.read(pid).start
    for target, why in (
        (f"process:{boot}/{pid}/{start + 1}", "belongs to another process now"),
        (f"process:00000000-0000/{pid}/{start}", "another boot"),
        (f"process:{boot}/{pid}", "does not say"),
        ("host:web-1", "no process group"),
        ("nonsense", "no target"),
        (f"process:{boot}/4194303/1", "has ended"),
    ):
        with pytest.raises(Refused, match=why):
            await act.observe(step(target))
    child = next(m for m in group.members() if m.pid != pid)
    with pytest.raises(Refused, match=f"member of group {pid}"):
        await act.observe(step(f"process:{boot}/{child.pid}/{child.start}"))


# Leads a group of its own, and starts itself once more: that one tries itself and its ancestor.
NEVER = """
import asyncio, os, subprocess, sys
from agent.errors import Refused
from agent.ports import Step
from playbooks.actions import _procfs as procfs, process
verb = getattr(process, sys.argv[1])
act = verb(verb.Params())
if len(sys.argv) == 2:
    again = [sys.executable, "-c", os.environ["NEVER"], sys.argv[1], str(os.getpid())]
    sys.exit(subprocess.run(again, start_new_session=True).returncode)
for pid in (os.getpid(), int(sys.argv[2])):
    target = f"process:{procfs.boot_id()}/{pid}/{procfs.read(pid).start}"
    one = Step(key="run-1/calm", use="x", target=target, params={})
    for make in (act.observe, act.run):
        try:
            asyncio.run(make(one))
        except Refused as no:
            print(no)
print(procfs.read(os.getpid()).stopped, procfs.read(int(sys.argv[2])).stopped)
"""


@pytest.mark.parametrize("verb", ["SetPriority", "PauseProcess"])
def test_itself_and_its_ancestors_are_never_touched(verb):
    done = subprocess.run(
        [sys.executable, "-c", NEVER, verb],
        env={**os.environ, "NEVER": NEVER, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    *said, stopped = done.stdout.splitlines()
    assert len(said) == 4, done.stdout
    assert all("never touches" in line for line in said)
    assert stopped == "False False"


@pytest.mark.parametrize("verb", [SetPriority, PauseProcess])
async def test_pid_1_is_never_touched(verb):
    one = procfs.read(1)
    act = verb(verb.Params())
    for make in (act.observe, act.run):
        # some containers have a first process that leads no group: then it is no target at all
        with pytest.raises(Refused, match=r"never touches|member of group 0"):
            await make(step(f"process:{procfs.boot_id()}/1/{one.start}"))


@pytest.mark.parametrize("verb", [SetPriority, PauseProcess])
async def test_kernel_threads_are_never_touched(verb):
    kernel = next((m for m in procfs.everyone() if m.kernel), None)
    if kernel is None:
        pytest.skip("no kernel thread can be seen in this container")
    with pytest.raises(Refused):
        await verb(verb.Params()).observe(
            step(f"process:{procfs.boot_id()}/{kernel.pid}/{kernel.start}")
        )


# ---- privileges

# An interpreter that an ordinary user may start is not everywhere, so these drop their rights after the imports.
DROP = """
import os
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""

UNPRIVILEGED = textwrap.dedent(
    """
    import asyncio, concurrent.futures.thread, encodings.ascii, sys
    from agent.errors import Refused
    from agent.ports import Step
    from playbooks.actions.process import PauseProcess, SetPriority
    {drop}
    async def main(target, own):
        ok = SetPriority(SetPriority.Params())
        force = SetPriority(SetPriority.Params(irreversible_ok=True))
        for name, act, about in (
            ("foreign", ok, target), ("pause", PauseProcess(PauseProcess.Params()), target),
            ("own", ok, own), ("forced", force, own),
        ):
            one = Step(key="k", use="x", target=about, params={{}})
            try:
                await act.observe(one)
                print(name, "observed")
            except Refused as error:
                print(name, "refused", error)
        one = Step(key="k", use="x", target=own, params={{}})
        done = await force.run(one)
        try:
            await force.undo(one, done.undo)
            print("undo done")
        except Refused as error:
            print("undo refused", error)

    asyncio.run(main(*sys.argv[1:]))
    """
).format(drop=DROP)


@needs_root
def test_without_the_privilege_it_is_refused_at_first_sight_and_named(group):
    """An ordinary user: others' processes are out of reach, own ones could be lowered and not put back."""
    # PR_SET_DUMPABLE: what execve gives back after a change of user
    ready = (
        "import ctypes, os, sys, threading, time\n"
        + DROP
        + "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
    )
    own = Group(ready + GROUP)
    try:
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, group.id, own.id],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stderr
        said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert "CAP_SYS_NICE" in said["foreign"]
        assert "CAP_KILL" in said["pause"]
        assert "could be lowered but not put back" in said["own"]
        assert said["forced"] == "observed"
        assert "refused" in said["undo"]
        assert f"renice -n {OURS} " in said["undo"]
        assert group.nices() == {OURS}
        assert own.nices() == {10}
    finally:
        own.close()


# ---- pause


def states(group: Group) -> set[str]:
    return {m.state for m in group.members()}


def wait_for(check, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not check() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert check()


async def test_a_group_is_stopped_and_goes_on(group):
    act = PauseProcess(PauseProcess.Params())
    one = await planned(act, group.id)
    assert not act.reached(one, one.before)
    done = await act.run(one)
    wait_for(lambda: states(group) == {"T"})
    assert done.values["members"] == 2
    assert (done.change.before, done.change.after) == ("running", "paused")
    assert act.reached(one, await act.observe(one))
    undo = json.loads(json.dumps(dict(done.undo)))
    back = await act.undo(one, undo)
    wait_for(lambda: "T" not in states(group))
    assert back.values["members"] == 2
    assert "already" in (await act.undo(one, undo)).summary


async def test_a_second_try_keeps_what_the_first_one_stopped(group):
    act = PauseProcess(PauseProcess.Params())
    one = await planned(act, group.id)
    os.kill(group.pid, signal.SIGSTOP)  # kill -9 after the first member
    wait_for(lambda: procfs.read(group.pid).stopped)
    assert act.reached(one, await act.observe(one))
    await act.run(one)  # the answer is lost, too
    again = await act.run(one)
    await act.undo(one, again.undo)
    wait_for(lambda: "T" not in states(group))


async def test_who_was_stopped_by_others_stays_so(group):
    child = next(m.pid for m in group.members() if m.pid != group.pid)
    os.kill(child, signal.SIGSTOP)
    wait_for(lambda: procfs.read(child).stopped)
    act = PauseProcess(PauseProcess.Params())
    one = await planned(act, group.id)
    done = await act.run(one)
    assert done.values["members"] == 1
    await act.undo(one, done.undo)
    wait_for(lambda: not procfs.read(group.pid).stopped)
    assert procfs.read(child).stopped


async def test_a_dry_pause_stops_nobody(group):
    act = PauseProcess(PauseProcess.Params())
    done = await act.run(dataclasses.replace(await planned(act, group.id), dry_run=True))
    assert "would pause" in done.summary
    assert "T" not in states(group)
    assert done.undo == {}


async def test_a_group_that_keeps_forking_is_stopped_whole():
    code = textwrap.dedent(
        """
        import os, time
        print("ready", flush=True)
        while True:
            if os.fork() == 0:
                time.sleep(0.3)
                os._exit(0)
            time.sleep(0.002)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        """
    )
    forking = Group(code)
    try:
        await asyncio.sleep(0.2)
        act = PauseProcess(PauseProcess.Params())
        one = await planned(act, forking.id)
        done = await act.run(one)
        wait_for(lambda: states(forking) == {"T"})
        await asyncio.sleep(0.5)
        assert states(forking) == {"T"}
        await act.undo(one, done.undo)
        wait_for(lambda: not procfs.read(forking.pid).stopped)
    finally:
        forking.close()
