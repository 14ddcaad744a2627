"""The log of a real kernel: it kills for want of memory, and a file system turns read-only before our eyes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.host import Host
from connectors.kernel_log import KernelLog

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0,
        reason="takes root: a control group with a limit, a loop device",
    ),
]
_PATIENCE_S = 20.0


@pytest.fixture
async def log():
    source = KernelLog("kernel_log", KernelLog.Config(in_container=True))
    words = await source.describe()
    if source._denied:
        pytest.skip(words[0])
    while not source._caught_up:
        await source.poll()
    source._seen.clear()  # what others did here in the last ten minutes
    await source.read()
    yield source
    source.close()


async def seen(source: KernelLog, event: str, **labels: str) -> dict[str, str]:
    """Wait for an event, and return its labels."""
    wanted = {"event": event, **labels}
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        frame = await source.poll()
        for series, value in zip(frame.series, frame.values, strict=True):
            told = dict(series.labels)
            if (
                series.metric == "host.kernel_event_seen"
                and wanted.items() <= told.items()
                and value
            ):
                return told
        await asyncio.sleep(0.05)
    raise AssertionError(f"the kernel did not tell of {wanted}")


def fresh_group() -> tuple[Path, str] | None:
    """Return a new control group that may hold little memory; None where none can be made."""
    name = f"homeostat-test-{os.getpid()}"
    for top, limit in (
        ("/sys/fs/cgroup", "memory.max"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ):
        folder = Path(top, name)
        if (Path(top, "cgroup.controllers").exists()) != (limit == "memory.max"):
            continue
        try:
            folder.mkdir()
            (folder / limit).write_text(str(64 << 20))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        return folder, name
    return None


@pytest.fixture
def tight() -> Iterator[tuple[Path, str]]:
    made = fresh_group()
    if made is None:
        pytest.skip("no control group can be given a limit of memory here")
    yield made
    for _ in range(100):
        with contextlib.suppress(OSError):
            made[0].rmdir()
            break
        time.sleep(0.05)


async def test_a_kill_for_want_of_memory_names_the_program_and_its_group(log, tight):
    folder, name = tight
    code = (
        "import os, sys\nopen(sys.argv[1], 'w').write(str(os.getpid()))\nx = []\n"
        "while len(x) < 500: x.append(b'x' * 2**20)"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", code, str(folder / "cgroup.procs")
    )
    assert await child.wait() == -signal.SIGKILL
    told = await seen(log, "oom_kill", cgroup=f"/{name}")
    assert told["program"].startswith("python")
    (signalled,) = [s for s in await log.read() if f"/{name}" in s.name]
    assert signalled.firing
    assert f"Killed process {child.pid} " in signalled.text


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A small ext4 on a loop device."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed (Debian: apt-get install e2fsprogs)")
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    made = ["mount", "-o", "loop,errors=remount-ro", str(image), str(point)]
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("no loop device can be mounted here")
    yield point
    subprocess.run(["umount", str(point)], check=True)


async def test_a_file_system_that_turns_read_only_is_told_and_seen(log, loop: Path):
    host = Host("host", Host.Config(mounts_every=0.1))
    try:
        device = next(
            line.split(" - ")[1].split()[1].removeprefix("/dev/")
            for line in Path("/proc/self/mountinfo").read_text().splitlines()  # noqa: ASYNC240
            if f" {loop} " in line
        )
        assert await read_only(host, loop, until=0.0) == 0.0
        done = await asyncio.create_subprocess_exec("mount", "-o", "remount,abort", str(loop))
        assert await done.wait() == 0
        await seen(log, "file_system_error", device=device)
        await seen(log, "read_only", device=device)
        assert {s.name for s in await log.read()} >= {
            f"kernel read_only {device}",
            f"kernel file_system_error {device}",
        }
        assert await read_only(host, loop, until=1.0) == 1.0
    finally:
        host.close()


async def read_only(host: Host, point: Path, until: float) -> float:
    """Return whether the host sees a file system as read-only, once it is as wanted or patience ends."""
    end = time.monotonic() + _PATIENCE_S
    found = -1.0
    while time.monotonic() < end and found != until:
        frame = await host.poll()
        for series, value in zip(frame.series, frame.values, strict=True):
            if series.metric == "host.mount_read_only" and dict(series.labels)["mount"] == str(
                point
            ):
                found = float(value)
        await asyncio.sleep(0.15)
    return found
