"""Real process groups that are ended, and those that must not be."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from agent.errors import Refused
from agent.ports import Action, Step, Undo
from playbooks.actions import _procfs as procfs
from playbooks.actions.kill import KillProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")

STUBBORN = textwrap.dedent(
    """
    import os, signal, sys, time
    ignore = sys.argv[1] != "no"
    if os.fork() == 0 and ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif sys.argv[1] == "all":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"ready\\n")
    time.sleep(600)
    """
)


@contextlib.contextmanager
def group(ignore: str):
    """Run a leader and a child; `ignore`: who does not hear SIGTERM (no, child, all)."""
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, ignore],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as leader:
        assert [leader.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
        try:
            yield leader.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, signal.SIGKILL)


def members(pid: int) -> list[procfs.Member]:
    return [m for m in procfs.everyone() if m.group == pid]


def step(pid: int, start: int | None = None) -> Step:
    start = procfs.read(pid).start if start is None else start
    about = f"process:{procfs.boot_id()}/{pid}/{start}"
    return Step("run-1/kill", "kill_process", about, {}, by="homeostat:run-1")


async def planned(act: KillProcess, one: Step) -> Step:
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


def test_it_can_not_be_undone():
    act = KillProcess(KillProcess.Params())
    assert isinstance(act, Action)
    assert not isinstance(act, Undo)
    assert not act.reversible


@pytest.mark.parametrize(
    ("ignore", "how"), [("no", "ended"), ("child", "was killed"), ("all", "was killed")]
)
async def test_all_of_a_group_ends_also_who_does_not_want_to(ignore, how):
    with group(ignore) as pid:
        act = KillProcess(KillProcess.Params(grace=0.5))
        one = await planned(act, step(pid))
        assert not act.reached(one, one.before)
        said = await act.run(dataclasses.replace(one, dry_run=True))
        assert "would end" in said.summary
        assert len(members(pid)) == 2
        done = await act.run(one)
        assert done.summary.endswith(f"(2 processes) {how}")
        assert members(pid) == []
        assert done.change.ours
        assert act.reached(one, await act.observe(one))
        assert "ended already" in (await act.run(one)).summary


async def test_a_member_that_outlives_its_leader_is_found_again():
    with group("child") as pid:
        act = KillProcess(KillProcess.Params(grace=0.2))
        one = await planned(act, step(pid))
        os.kill(pid, signal.SIGTERM)
        await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not act.reached(one, await act.observe(one)), "the child lives"
        await act.run(one)
        assert members(pid) == []


async def test_a_number_that_was_given_to_another_is_not_hit():
    with group("no") as pid:
        act = KillProcess(KillProcess.Params())
        other = step(pid, start=1)
        assert act.reached(other, await act.observe(other))
        assert "ended already" in (await act.run(other)).summary
        assert len(members(pid)) == 2


async def test_what_must_live_lives():
    act = KillProcess(KillProcess.Params())
    for pid in (1, os.getppid()):
        leader = procfs.read(procfs.read(pid).group) or procfs.read(pid)
        with pytest.raises(Refused, match=r"never touches|leads no process group"):
            await act.observe(step(leader.pid))
    with pytest.raises(Refused, match="is no process group"):
        await act.observe(Step("k", "kill_process", "service:web", {}))
