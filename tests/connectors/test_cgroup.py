"""Limits of control groups: on files that look like the kernel's, and on a real group without these controllers."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.errors import Refused, Unavailable
from agent.ports import Step
from connectors._proc import boot_id, parse_stat
from connectors.cgroup import Cgroup
from playbooks.actions.limits import Limiter, SetLimit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are of Linux")


@pytest.fixture
def group(tmp_path) -> Path:
    folder = tmp_path / "system.slice/web.service"
    folder.mkdir(parents=True)
    for file, text in (
        ("cpu.max", "max 100000\n"), ("memory.max", "max\n"), ("memory.high", "max\n"),
        ("memory.current", f"{300 << 20}\n"), ("pids.max", "4096\n"),
    ):  # fmt: skip
        (folder / file).write_text(text)
    return folder


@pytest.fixture
def cgroup(tmp_path, group) -> Cgroup:
    config = Cgroup.Config(groups={"web": "/system.slice/web.service/"}, root=tmp_path)
    return Cgroup("cgroup", config)


async def planned(act: SetLimit, target: str = "service:web") -> Step:
    step = Step("run-1/limit", "set_limit", target, {}, by="homeostat:run-1")
    return dataclasses.replace(step, before=json.loads(json.dumps(await act.observe(step))))


@pytest.mark.parametrize(
    ("params", "file", "written", "back"),
    [
        ({"limit": "cpu_cores", "value": 1.5}, "cpu.max", "150000 100000", "max 100000"),
        ({"limit": "memory_bytes", "value": "1GB"}, "memory.max", "999997440", "max"),
        ({"limit": "memory_high_bytes", "value": "200MiB"}, "memory.high", "209715200", "max"),
        ({"limit": "pids_count", "times": 0.5}, "pids.max", "2048", "4096"),
    ],
)
async def test_a_limit_is_set_and_put_back(cgroup, group, params, file, written, back):
    assert isinstance(cgroup, Limiter)
    act = SetLimit(SetLimit.Params(**params), cgroup)
    step = await planned(act)
    done = await act.run(step)
    assert (group / file).read_text().split() == written.split()
    assert act.reached(step, await act.observe(step))
    await act.undo(step, json.loads(json.dumps(dict(done.undo))))
    assert (group / file).read_text().split()[0] == back.split()[0]


async def test_memory_is_not_taken_from_who_uses_it(cgroup):
    act = SetLimit(SetLimit.Params(limit="memory_bytes", value="100MiB"), cgroup)
    with pytest.raises(Refused, match="the kernel would kill it at once; set `memory_high_bytes`"):
        await planned(act)


async def test_what_others_have_set_stands(cgroup, group):
    act = SetLimit(SetLimit.Params(limit="cpu_cores", value=1.0), cgroup)
    step = await planned(act)
    (group / "cpu.max").write_text("300000 100000")
    with pytest.raises(Refused, match="changed by others: it is 3, not none as planned"):
        await act.run(step)
    with pytest.raises(Refused, match=r"is 3.0, not 2.0: changed by others"):
        await cgroup.set_limit("service:web", "cpu_cores", 1.0, 2.0)


async def test_what_is_not_there_is_said(cgroup, tmp_path):
    with pytest.raises(Refused, match="no limit disk_bytes: there are cpu_cores"):
        await cgroup.limit("service:web", "disk_bytes")
    with pytest.raises(Refused, match="knows no group of service:shop"):
        await cgroup.limit("service:shop", "cpu_cores")
    with pytest.raises(Refused, match="this is for services and processes"):
        await cgroup.limit("gpu:1", "cpu_cores")
    gone = Cgroup("cgroup", Cgroup.Config(groups={"web": "nothing"}, root=tmp_path))
    with pytest.raises(Unavailable, match="does not run"):
        await gone.limit("service:web", "cpu_cores")
    with pytest.raises(ValidationError):
        Cgroup.Config(groups={"web": "a/../.."})
    act = SetLimit(SetLimit.Params(limit="cpu_cores", times=0.5), cgroup)
    with pytest.raises(Refused, match="is not set, so there is nothing to take"):
        await planned(act)


async def test_it_says_what_it_sees(cgroup, group):
    (line,) = await cgroup.describe()
    assert line.startswith("service:web: cpu_cores None, memory_bytes None")
    assert "pids_count 4096.0" in line


def about(pid: int) -> str:
    start = parse_stat(Path(f"/proc/{pid}/stat").read_bytes()).start_ticks
    return f"process:{boot_id()}/{pid}/{start}"


def sleeper(stack: contextlib.ExitStack) -> int:
    process = stack.enter_context(subprocess.Popen(["sleep", "60"], start_new_session=True))
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process.pid


async def test_our_own_group_and_the_root_are_never_limited():
    cgroup = Cgroup("cgroup", Cgroup.Config())
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(
            Refused, match=r"the root, or homeostat's own|share the control group|is not below"
        ),
    ):
        await cgroup.limit(about(sleeper(stack)), "cpu_cores")


UNIFIED = next(
    (
        p
        for p in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
        if (p / "cgroup.procs").exists()
    ),
    None,
)


@pytest.mark.skipif(os.geteuid() != 0 or UNIFIED is None, reason="takes root and cgroup v2")
async def test_a_real_group_is_found_by_its_process_and_must_be_its_own():
    folder = UNIFIED / f"homeostat-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the control groups of this machine are read-only")
    with contextlib.ExitStack() as stack:
        stack.callback(folder.rmdir)
        one, two = (sleeper(stack) for _ in range(2))
        (folder / "cgroup.procs").write_text(str(one))
        cgroup = Cgroup("cgroup", Cgroup.Config(root=UNIFIED))
        if (folder / "cpu.max").exists():
            await cgroup.set_limit(about(one), "cpu_cores", 0.5, None)
            assert (folder / "cpu.max").read_text() == "50000 100000\n"
        else:
            with pytest.raises(Refused, match="switch the controller cpu on in the parent's"):
                await cgroup.limit(about(one), "cpu_cores")
        (folder / "cgroup.procs").write_text(str(two))
        with pytest.raises(Refused, match="1 other processes share the control group"):
            await cgroup.limit(about(one), "cpu_cores")
