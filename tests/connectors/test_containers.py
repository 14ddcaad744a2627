"""Containers and units by their control groups: on files that look like the kernel's, and in a real group."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from agent.catalogue import SIGNALS
from agent.model import Frame, Series
from agent.ports import Abilities, Source
from agent.rates import Rates
from connectors import containers as module
from connectors._proc import this_host
from connectors.containers import Containers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are of Linux")

WEB, DB, POD = ("a" * 64, "b" * 64, "c" * 64)
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


def make(
    folder: Path, *, cpu: str = "max 100000", memory: str = "max", pids: str = "max", **own: str
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\nnr_throttled 4\nthrottled_usec 1500000\n",
        "cpu.max": cpu,
        "cpu.pressure": PRESSURE.format(3_000_000),
        "memory.current": str(300 << 20),
        "memory.max": memory,
        "memory.stat": f"anon 1\nfile 2\ninactive_file {100 << 20}\nactive_file 5\n",
        "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
        "memory.pressure": PRESSURE.format(0),
        "io.stat": "8:0 rbytes=1000 wbytes=50 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=24 wbytes=6 rios=1 wios=1\n",
        "io.pressure": PRESSURE.format(500_000),
        "pids.current": "17",
        "pids.max": pids,
    }
    for name, text in (files | own).items():
        (folder / name).write_text(text + "\n" if "\n" not in text else text)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "cgroup"
    top.mkdir()
    (top / "cgroup.controllers").write_text("cpu io memory pids\n")
    slice_ = top / "system.slice"
    make(slice_ / f"docker-{WEB}.scope", cpu="150000 100000", memory=str(800 << 20), pids="100")
    make(slice_ / "nginx.service")
    make(slice_ / "systemd-journald.service")
    make(slice_ / r"backup-\x2dnightly.service")
    (top / "kubepods.slice/kubepods-pod1.slice").mkdir(parents=True)
    (top / "kubepods.slice/kubepods-pod1.slice/memory.max").write_text(f"{400 << 20}\n")
    make(top / f"kubepods.slice/kubepods-pod1.slice/cri-containerd-{POD}.scope")
    make(top / "lxc.payload.builder")
    make(top / "user.slice/user-0.slice/session-1.scope")
    return top


@pytest.fixture
def source(root: Path, tmp_path: Path):
    (tmp_path / "docker" / WEB).mkdir(parents=True)
    (tmp_path / "docker" / WEB / "config.v2.json").write_text(json.dumps({"Name": "/web"}))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"shop-7d_prod_shop-{POD}.log").write_text("")
    config = Containers.Config(root=root, docker=tmp_path / "docker", pods=tmp_path / "logs")
    made = Containers("containers", config)
    yield made
    made.close()


def of(frame: Frame, metric: str, group: str, **more: str) -> float:
    for series, v in zip(frame.series, frame.values, strict=True):
        labels = dict(series.labels)
        if (
            series.metric == f"host.group_{metric}"
            and labels["group"] == group
            and more.items() <= labels.items()
        ):
            return float(v)
    raise KeyError((metric, group))


def metrics(frame: Frame, group: str) -> set[str]:
    return {
        s.metric.removeprefix("host.group_")
        for s in frame.series
        if dict(s.labels)["group"] == group
    }


async def test_a_container_with_limits(source: Containers):
    assert isinstance(source, Source)
    assert isinstance(source, Abilities)
    frame = await source.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert {s.metric for s in frame.series} <= SIGNALS.keys()
    assert {s.entity for s in frame.series} == {this_host()}
    assert of(frame, "cpu_seconds_total", "web", runs="container") == 2.5
    assert of(frame, "cpu_limit_count", "web") == 1.5
    assert of(frame, "throttled_seconds_total", "web") == 1.5
    assert of(frame, "memory_bytes", "web") == 200 << 20
    assert of(frame, "memory_ratio", "web") == 0.25
    assert of(frame, "oom_kills_total", "web") == 2.0
    assert (of(frame, "read_bytes_total", "web"), of(frame, "written_bytes_total", "web")) == (
        1024.0,
        56.0,
    )
    assert of(frame, "processes_count", "web") == 17.0
    assert of(frame, "processes_ratio", "web") == 0.17
    waits = {
        r: of(frame, "pressure_seconds_total", "web", resource=r) for r in ("cpu", "memory", "io")
    }
    assert waits == {"cpu": 3.0, "memory": 0.0, "io": 0.5}


async def test_names_are_those_of_the_engine_and_of_the_kubelet(source: Containers):
    frame = await source.poll()
    names = {(dict(s.labels)["runs"], dict(s.labels)["group"]) for s in frame.series}
    assert names == {
        ("container", "web"), ("container", "prod/shop-7d/shop"), ("container", "builder"),
        ("unit", "nginx"), ("unit", "backup--nightly"),
    }  # fmt: skip


async def test_a_limit_of_the_pod_is_one_of_its_container(source: Containers):
    frame = await source.poll()
    assert of(frame, "memory_ratio", "prod/shop-7d/shop") == 0.5
    assert "throttled_seconds_total" not in metrics(
        frame, "prod/shop-7d/shop"
    )  # no quota, nothing to throttle
    assert "memory_ratio" not in metrics(frame, "nginx")
    assert "pressure_seconds_total" not in metrics(frame, "nginx")


async def test_the_table_stays_while_nothing_comes_or_goes(source: Containers):
    assert (await source.poll()).series is (await source.poll()).series


async def test_a_container_that_ends_goes_and_a_new_one_comes(
    source: Containers, root: Path, monkeypatch
):
    await source.poll()
    shutil.rmtree(root / f"system.slice/docker-{WEB}.scope")
    frame = await source.poll()
    assert np.isnan(of(frame, "cpu_seconds_total", "web"))
    assert of(frame, "cpu_seconds_total", "nginx") == 2.5
    make(root / f"system.slice/docker-{DB}.scope")
    frame = await source.poll()
    names = {dict(s.labels)["group"] for s in frame.series}
    assert "web" not in names
    assert DB[:12] in names


async def test_limits_are_read_again(source: Containers, root: Path, monkeypatch):
    await source.poll()
    (root / f"system.slice/docker-{WEB}.scope/memory.max").write_text(f"{400 << 20}\n")
    assert of(await source.poll(), "memory_ratio", "web") == 0.25
    source._walked_at -= 11.0
    assert of(await source.poll(), "memory_ratio", "web") == 0.5


async def test_a_file_with_garbage_is_a_value_less_not_a_source_less(
    source: Containers, root: Path
):
    folder = root / f"system.slice/docker-{WEB}.scope"
    (folder / "memory.current").write_bytes(b"\xff\xfe")
    (folder / "io.stat").unlink()
    frame = await source.poll()
    assert "memory_bytes" not in metrics(frame, "web")
    assert "read_bytes_total" not in metrics(frame, "web")
    assert of(frame, "cpu_seconds_total", "web") == 2.5


async def test_containers_come_first_when_there_are_too_many(source: Containers):
    source.config = source.config.model_copy(update={"most": 4})
    frame = await source.poll()
    runs = [r for r, _ in {(dict(s.labels)["runs"], dict(s.labels)["group"]) for s in frame.series}]
    assert sorted(runs) == ["container"] * 3 + ["unit"]
    assert any("1 more are left out" in line for line in await source.describe())


async def test_two_of_one_name_are_kept_apart(source: Containers, root: Path, tmp_path: Path):
    make(root / f"machine.slice/libpod-{DB}.scope")
    (tmp_path / "docker" / DB).mkdir()
    (tmp_path / "docker" / DB / "config.v2.json").write_text(json.dumps({"Name": "/web"}))
    frame = await source.poll()
    assert {"web", f"web {WEB[:12]}"} <= {dict(s.labels)["group"] for s in frame.series}
    assert len({s.labels for s in frame.series if s.metric == "host.group_cpu_seconds_total"}) == 6


async def test_descriptors_do_not_pile_up(source: Containers, root: Path):
    await source.poll()
    before = psutil.Process().num_fds()
    for i in range(20):
        folder = make(root / f"system.slice/docker-{i:064x}.scope")
        source._walked_at -= 11.0
        await source.poll()
        shutil.rmtree(folder)
        await source.poll()
        await source.poll()
    assert psutil.Process().num_fds() == before
    source.close()
    assert psutil.Process().num_fds() == before - 5


async def test_without_cgroup_v2_it_is_silent_and_says_so(tmp_path: Path):
    source = Containers("containers", Containers.Config(root=tmp_path))
    frame = await source.poll()
    assert (frame.series, frame.values.shape) == ((), (0,))
    assert "no cgroup v2" in (await source.describe())[0]


def test_what_is_no_container_is_walked_into():
    assert module._what("system.slice") == ("", "")
    assert module._what("session-1.scope") == ("", "")
    assert module._what("init.scope") == ("", "")
    assert module._what(f"crio-{POD}.scope") == ("container", POD)
    assert module._what(POD) == ("container", POD)
    assert module._what("machine-vm1.scope") == ("container", "vm1")


@pytest.fixture
def real():
    """A group of the kernel's own, named as Docker names one; no controller need be on."""
    for top in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        folder = top / f"docker-{os.getpid():064x}.scope"
        if not (top / "cgroup.controllers").exists():
            continue
        with contextlib.suppress(OSError):
            folder.mkdir()
            yield folder
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)
            return
    pytest.skip("no cgroup v2 here in which we may make a group")


async def test_a_real_group_counts_its_cpu(real: Path):
    source = Containers("containers", Containers.Config(root=real.parent, units=False))
    code = "import os, sys\nopen(sys.argv[1], 'w').write(str(os.getpid()))\nprint('in', flush=True)\nwhile True: pass"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", code, str(real / "cgroup.procs"), stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"in\n"
        rates = Rates()
        rates.apply(await source.poll())
        await asyncio.sleep(0.5)
        frame = rates.apply(await source.poll())
        name = real.name.removeprefix("docker-")[:12]
        cores = frame.values[
            frame.series.index(
                Series(
                    "host.group_cpu_cores", this_host(), (("group", name), ("runs", "container"))
                )
            )
        ]
        assert 0.02 < cores < 1.2
    finally:
        child.kill()
        await child.wait()
        source.close()
