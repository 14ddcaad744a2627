"""GPUs through a real nvidia-ml-py and a real child process, on a compiled stand-in for NVML."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.catalogue import SIGNALS
from agent.errors import Refused, Unavailable
from agent.model import Entity, Frame, Series
from agent.ports import Abilities, Source
from connectors import gpu as gpu_module
from connectors._proc import head_of
from connectors.gpu import Gpu

FIRST = Entity("gpu", "GPU-00000000-0000-0000-0000-000000000000")
SECOND = Entity("gpu", "GPU-00000000-0000-0000-0000-000000000001")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make the stand-in for NVML with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)],
        check=True,
    )
    return folder


class Stub:
    """What the stand-in is told to be."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set("healthy")

    def set(self, word: str) -> None:
        self.file.write_text(word, "ascii")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    monkeypatch.setenv("NVML_STUB", str(tmp_path / "state"))
    return Stub(tmp_path / "state")


@pytest.fixture
def gpu(library: Path, stub: Stub):
    source = Gpu("gpu", Gpu.Config(library=library, timeout=10.0))
    yield source
    source.close()


def value(frame: Frame, metric: str, entity: Entity, **labels: str) -> float:
    return float(frame.values[frame.series.index(Series(metric, entity, tuple(sorted(labels.items()))))])  # fmt: skip


def of_host(frame: Frame, metric: str) -> float:
    return next(float(v) for s, v in zip(frame.series, frame.values, strict=True) if s.metric == metric)  # fmt: skip


def pid_of(gpu: Gpu) -> int:
    assert gpu._child is not None
    return gpu._child.process.pid


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_two_healthy_gpus(gpu: Gpu):
    assert isinstance(gpu, Source)
    assert isinstance(gpu, Abilities)
    frame = await gpu.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert all(s.metric in SIGNALS for s in frame.series)
    assert not np.isnan(frame.values).any()
    assert value(frame, "gpu.reachable", FIRST) == 1.0
    assert value(frame, "gpu.utilization_ratio", FIRST) == 0.87
    assert value(frame, "gpu.memory_utilization_ratio", FIRST) == 0.75
    assert value(frame, "gpu.memory_used_bytes", FIRST) == 60 * 2**30
    assert value(frame, "gpu.temperature_celsius", FIRST) == 55.0
    assert value(frame, "gpu.power_watts", FIRST) == 612.5
    assert value(frame, "gpu.power_limit_watts", FIRST) == 700.0
    assert value(frame, "gpu.clock_hertz", FIRST) == 1980e6
    assert value(frame, "gpu.clock_ratio", FIRST) == 1.0
    assert value(frame, "gpu.throttled", FIRST, reason="thermal") == 0.0
    assert value(frame, "gpu.ecc_errors_total", FIRST, type="corrected") == 3.0
    assert value(frame, "gpu.remap_pending", FIRST) == 1.0
    assert value(frame, "gpu.remap_failed", FIRST) == 0.0
    assert value(frame, "gpu.pcie_link_ratio", FIRST) == 0.5
    assert value(frame, "gpu.pcie_generation_ratio", FIRST) == 0.8
    assert value(frame, "gpu.temperature_margin_celsius", FIRST) == 35.0
    assert value(frame, "gpu.uncorrected_errors_count", FIRST) == 0.0
    assert value(frame, "gpu.nvlinks_count", FIRST) == 4.0
    assert value(frame, "gpu.processes_count", FIRST) == 0.0
    assert "gpu.recovery_needed" not in {s.metric for s in frame.series}  # an old driver
    assert "gpu.xid_seen" not in {s.metric for s in frame.series}
    assert of_host(frame, "host.gpu_driver_up") == 1.0
    assert of_host(frame, "host.gpu_driver_mismatched") == 0.0
    counts = [v for s, v in zip(frame.series, frame.values, strict=True) if s.metric == "host.gpus_count"]  # fmt: skip
    assert counts == [2.0]


async def test_what_a_gpu_or_a_driver_lacks_is_left_out_and_not_asked_again(gpu: Gpu, stub: Stub):
    frame = await gpu.poll()
    metrics = {s.metric for s in frame.series if s.entity == SECOND}
    assert "gpu.remap_pending" not in metrics
    assert "gpu.remap_pending" in {s.metric for s in frame.series if s.entity == FIRST}
    assert "gpu.fan_ratio" not in {s.metric for s in frame.series}
    again = await gpu.poll()
    assert again.series is frame.series


async def test_gpus_are_sighted_once_with_facts_and_their_host(gpu: Gpu):
    frame = await gpu.poll()
    assert [s.entity for s in frame.seen] == [FIRST, SECOND]
    facts = dict(frame.seen[0].attrs)
    assert facts == {
        "name": "Stub H100",
        "index": "0",
        "bus": "00000000:01:00.0",
        "driver": "550.54.15",
        "memory_bytes": str(80 * 2**30),
    }
    (edge,) = frame.seen[0].edges
    assert (edge.kind, edge.src, edge.dst.kind) == ("runs_on", FIRST, "host")
    assert (await gpu.poll()).seen == ()


async def test_a_process_runs_on_the_gpus_that_it_computes_on(gpu: Gpu, monkeypatch):
    """One group on two GPUs; the chain from a service goes on to both."""
    monkeypatch.setenv("NVML_STUB_PID", str(os.getpid()))
    gpu._pids_are_ours = True
    frame = await gpu.poll()
    (mine,) = [s for s in frame.seen if s.entity.kind == "process"]
    assert mine.entity.key.split("/")[1] == str(head_of(os.getpid()).pid)
    assert {(e.kind, e.dst) for e in mine.edges} == {("runs_on", FIRST), ("runs_on", SECOND)}
    assert mine.lasts_s < 600
    assert (await gpu.poll()).seen == ()
    gpu._users_at -= 61.0
    assert [s.entity for s in (await gpu.poll()).seen] == [mine.entity]


async def test_process_numbers_of_another_namespace_mean_nobody(gpu: Gpu, monkeypatch):
    monkeypatch.setenv("NVML_STUB_PID", str(os.getpid()))
    gpu._pids_are_ours = False
    assert {s.entity.kind for s in (await gpu.poll()).seen} == {"gpu"}


async def test_a_process_that_has_ended_is_nobody(gpu: Gpu, monkeypatch):
    monkeypatch.setenv("NVML_STUB_PID", str(2**22 - 1))
    gpu._pids_are_ours = True
    assert {s.entity.kind for s in (await gpu.poll()).seen} == {"gpu"}


async def test_heat_shows_in_temperature_clock_and_reason(gpu: Gpu, stub: Stub):
    await gpu.poll()
    stub.set("hot")
    frame = await gpu.poll()
    assert value(frame, "gpu.temperature_celsius", FIRST) == 91.0
    assert value(frame, "gpu.clock_ratio", FIRST) == 0.5
    assert value(frame, "gpu.throttled", FIRST, reason="thermal") == 1.0
    assert value(frame, "gpu.throttled", FIRST, reason="hardware_thermal") == 1.0
    assert value(frame, "gpu.throttled", FIRST, reason="power_cap") == 0.0


async def test_an_xid_is_told_once_and_seen_for_ten_minutes(gpu: Gpu, stub: Stub):
    await gpu.poll()
    stub.set("contained")
    frame = await gpu.poll()
    assert value(frame, "gpu.xid_seen", FIRST, xid="94") == 1.0
    assert [s.entity for s in frame.series if s.metric == "gpu.xid_seen"] == [FIRST]
    stub.set("healthy")
    assert value(await gpu.poll(), "gpu.xid_seen", FIRST, xid="94") == 1.0


def test_an_old_xid_is_seen_no_more(monkeypatch: pytest.MonkeyPatch):
    from connectors import _nvml

    eye = _nvml.Eye()
    eye._xids["GPU-1", 94] = 100.0
    seen = []
    for now in (100.0, 699.0, 700.0):
        monkeypatch.setattr(_nvml.time, "monotonic", lambda now=now: now)
        seen += [v for _, _, v in eye._told("GPU-1")]
    assert seen == [1.0, 1.0, 0.0]
    assert eye._told("GPU-2") == []


async def test_a_lost_gpu_has_told_why(gpu: Gpu, stub: Stub):
    await gpu.poll()
    stub.set("lost")
    frame = await gpu.poll()
    assert value(frame, "gpu.xid_seen", SECOND, xid="79") == 1.0
    assert value(frame, "gpu.reachable", SECOND) == 0.0


async def test_a_driver_that_wants_a_reset_says_so(
    library: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NVML_STUB_RECOVERY", "1")
    gpu = Gpu("gpu", Gpu.Config(library=library, timeout=10.0))
    try:
        assert value(await gpu.poll(), "gpu.recovery_needed", FIRST) == 1.0
    finally:
        gpu.close()


@pytest.mark.parametrize(
    ("number", "action"),
    [
        ("0", None),
        ("1", "reset"),
        ("2", "reboot"),
        ("3", "drain"),
        ("4", "drain_and_reset"),
        ("7", "reboot"),
    ],
)
async def test_the_action_that_the_driver_asks_for_is_named(
    library, stub, monkeypatch, number, action
):
    monkeypatch.setenv("NVML_STUB_RECOVERY", number)
    gpu = Gpu("gpu", Gpu.Config(library=library, timeout=10.0))
    try:
        frame = await gpu.poll()
    finally:
        gpu.close()
    asked = {
        dict(s.labels)["action"]: v
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "gpu.recovery_asked" and s.entity == FIRST
    }
    assert asked == {a: float(a == action) for a in ("reset", "reboot", "drain", "drain_and_reset")}
    assert value(frame, "gpu.recovery_needed", FIRST) == float(number != "0")


async def test_errors_that_memory_could_not_correct(gpu: Gpu, stub: Stub):
    before = await gpu.poll()
    assert value(before, "gpu.remapped_rows_count", FIRST, type="uncorrected") == 0.0
    stub.set("ecc")
    frame = await gpu.poll()
    assert value(frame, "gpu.ecc_errors_total", FIRST, type="uncorrected") == 2.0
    assert value(frame, "gpu.uncorrected_errors_count", FIRST) == 2.0
    assert value(frame, "gpu.remapped_rows_count", FIRST, type="uncorrected") == 4.0
    assert value(frame, "gpu.remapped_rows_count", FIRST, type="corrected") == 1.0
    assert value(frame, "gpu.remap_failed", FIRST) == 1.0
    assert value(frame, "gpu.xid_seen", FIRST, xid="48") == 1.0
    assert value(frame, "gpu.uncorrected_errors_count", SECOND) == 0.0


async def test_the_power_brake_shows_in_clock_and_reasons(gpu: Gpu, stub: Stub):
    stub.set("braked")
    frame = await gpu.poll()
    assert value(frame, "gpu.clock_ratio", FIRST) == 0.5
    held = {r for r in ("power_cap", "power_brake", "hardware_slowdown", "thermal", "hardware_thermal")
            if value(frame, "gpu.throttled", FIRST, reason=r)}  # fmt: skip
    assert held == {"power_cap", "power_brake", "hardware_slowdown"}


async def test_memory_replays_and_errors_of_links(gpu: Gpu, stub: Stub):
    frame = await gpu.poll()
    assert value(frame, "gpu.memory_temperature_celsius", FIRST) == 61.0
    assert value(frame, "gpu.memory_clock_hertz", FIRST) == 2619e6
    assert value(frame, "gpu.memory_busy_ratio", FIRST) == 0.4
    assert value(frame, "gpu.pcie_replays_total", FIRST) == 3.0
    assert value(frame, "gpu.nvlink_errors_total", FIRST, type="crc") == 0.0
    stub.set("split")
    frame = await gpu.poll()
    kinds = {"crc": 38.0, "replay": 52.0, "recovery": 59.0}
    assert {k: value(frame, "gpu.nvlink_errors_total", FIRST, type=k) for k in kinds} == kinds
    assert "gpu.nvlink_errors_total" not in {s.metric for s in frame.series if s.entity == SECOND}


async def test_older_gpus_retire_pages(library: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NVML_STUB_PAGES", "1")
    gpu = Gpu("gpu", Gpu.Config(library=library, timeout=10.0))
    try:
        frame = await gpu.poll()
    finally:
        gpu.close()
    assert value(frame, "gpu.retired_pages_count", SECOND, type="corrected") == 5.0
    assert value(frame, "gpu.retired_pages_count", SECOND, type="uncorrected") == 1.0
    assert value(frame, "gpu.remap_pending", SECOND) == 1.0
    assert "gpu.retired_pages_count" not in {s.metric for s in frame.series if s.entity == FIRST}


async def test_a_field_that_is_not_supported_is_asked_once(
    library, stub, monkeypatch, tmp_path: Path
):
    monkeypatch.setenv("NVML_STUB_ASKED", str(tmp_path / "asked"))
    gpu = Gpu("gpu", Gpu.Config(library=library, timeout=10.0))
    try:
        for _ in range(3):
            await gpu.poll()
    finally:
        gpu.close()
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked.count("0 82") == 3
    assert asked.count("0 230") == asked.count("0 29") == asked.count("1 38") == 1


# ---- instances

PART, OTHER_PART = (Entity("gpu", f"MIG-00000000-0000-0000-0000-0000000000{i}") for i in (10, 11))


async def test_instances_of_a_split_gpu_run_on_it(gpu: Gpu, stub: Stub):
    whole = await gpu.poll()
    assert value(whole, "gpu.mig_enabled", FIRST) == 0.0
    assert value(whole, "gpu.mig_instances_count", FIRST) == 0.0
    assert "gpu.mig_enabled" not in {s.metric for s in whole.series if s.entity == SECOND}
    stub.set("mig")
    frame = await gpu.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert value(frame, "gpu.mig_enabled", FIRST) == 1.0
    assert value(frame, "gpu.mig_instances_count", FIRST) == 2.0
    assert value(frame, "gpu.memory_utilization_ratio", PART) == 0.25
    assert value(frame, "gpu.processes_count", OTHER_PART) == 0.0
    assert "gpu.reachable" not in {s.metric for s in frame.series if s.entity == PART}
    assert np.isnan(value(frame, "gpu.utilization_ratio", FIRST))  # NVML tells none of a split GPU
    assert of_host(frame, "host.gpus_count") == 2.0
    told = {s.entity: s for s in frame.seen}
    assert {(e.kind, e.dst) for e in told[PART].edges} == {("runs_on", FIRST)}
    assert dict(told[PART].attrs)["multiprocessors"] == "60"
    assert dict(told[PART].attrs)["name"] == "Stub H100 MIG 3g.40gb"
    again = await gpu.poll()
    assert again.series is frame.series
    assert again.seen == ()
    assert sum("instance" in line for line in await gpu.describe()) == 2


async def test_an_instance_that_is_taken_down_is_gone_and_no_fault(gpu: Gpu, stub: Stub):
    stub.set("mig")
    await gpu.poll()
    stub.set("mig1")
    frame = await gpu.poll()
    (gone,) = frame.seen
    assert (gone.entity, gone.gone) == (OTHER_PART, True)
    assert OTHER_PART not in {s.entity for s in frame.series}
    assert value(frame, "gpu.mig_instances_count", FIRST) == 1.0
    stub.set("mig")
    back = await gpu.poll()
    assert [s.entity for s in back.seen] == [OTHER_PART]
    # what a split GPU does not support it may support again
    stub.set("healthy")
    frame = await gpu.poll()
    assert {s.entity for s in frame.seen if s.gone} == {PART, OTHER_PART}
    assert value(frame, "gpu.utilization_ratio", FIRST) == 0.87


async def test_instances_of_a_driver_that_hangs_keep_their_series(gpu: Gpu, stub: Stub):
    stub.set("mig")
    before = await gpu.poll()
    stub.set("failing")
    frame = await gpu.poll()
    assert frame.series is before.series
    assert frame.seen == ()
    assert np.isnan(value(frame, "gpu.memory_used_bytes", PART))


async def test_a_process_holds_memory_of_each_gpu_and_instance(gpu: Gpu, stub: Stub, monkeypatch):
    monkeypatch.setenv("NVML_STUB_PID", str(os.getpid()))
    gpu._pids_are_ours = True
    stub.set("mig")
    frame = await gpu.poll()
    held = {
        dict(s.labels)["gpu"]: v
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "process.gpu_memory_bytes"
    }
    assert held == dict.fromkeys((FIRST.key, SECOND.key, PART.key), 2.0 * 2**30)
    (mine,) = [s for s in frame.seen if s.entity.kind == "process"]
    assert {e.dst for e in mine.edges} == {FIRST, SECOND, PART}


async def test_instances_stay_ours_where_another_source_tells_of_their_gpu(gpu: Gpu, stub: Stub):
    stub.set("mig")
    before = set((await gpu.poll()).series)
    told = frozenset(Series("gpu.power_watts", one) for one in (FIRST, SECOND))
    gpu.cede(told)
    frame = await gpu.poll()
    assert set(frame.series) == before - told
    assert value(frame, "gpu.memory_utilization_ratio", PART) == 0.25
    assert gpu.rests_s == 15.0


async def test_a_link_that_is_down_is_counted_out(gpu: Gpu, stub: Stub):
    stub.set("split")
    frame = await gpu.poll()
    assert value(frame, "gpu.nvlinks_count", FIRST) == 3.0
    assert value(frame, "gpu.nvlinks_count", SECOND) == 4.0


async def test_a_driver_and_a_library_of_two_versions_are_seen_from_the_start(gpu: Gpu, stub: Stub):
    stub.set("mismatched")
    for _ in range(2):  # the second look falls into its rest
        frame = await gpu.poll()
        assert of_host(frame, "host.gpu_driver_mismatched") == 1.0
        assert of_host(frame, "host.gpu_driver_up") == 0.0
        assert of_host(frame, "host.gpus_count") == 0.0


async def test_a_lost_gpu_keeps_its_series_unknown_and_comes_back(gpu: Gpu, stub: Stub):
    before = await gpu.poll()
    stub.set("lost")
    frame = await gpu.poll()
    assert set(frame.series) > set(before.series)  # and why: an XID
    assert value(frame, "gpu.reachable", SECOND) == 0.0
    assert np.isnan(value(frame, "gpu.temperature_celsius", SECOND))
    assert value(frame, "gpu.reachable", FIRST) == 1.0
    assert value(frame, "gpu.temperature_celsius", FIRST) == 55.0
    stub.set("healthy")
    assert value(await gpu.poll(), "gpu.reachable", SECOND) == 1.0


async def test_a_hung_driver_costs_one_child_not_the_daemon(library: Path, stub: Stub):
    gpu = Gpu("gpu", Gpu.Config(library=library, timeout=10.0))
    try:
        before = await gpu.poll()
        hung = pid_of(gpu)
        stub.set("hung")
        gpu.config = Gpu.Config(library=library, timeout=0.2)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        heart = asyncio.create_task(beat())
        start = time.monotonic()
        with capture_logs() as logs:
            frame = await gpu.poll()
        took = time.monotonic() - start
        heart.cancel()
        assert took < 5.0
        assert beats > 3  # others ran meanwhile
        assert frame.series is before.series
        assert value(frame, "gpu.reachable", FIRST) == 0.0
        assert np.isnan(value(frame, "gpu.temperature_celsius", FIRST))
        assert [entry["event"] for entry in logs] == ["gpu_failed"]
        assert "gave no answer" in logs[0]["problem"]
        # while it rests, nothing is asked and nothing is said again
        with capture_logs() as logs:
            assert value(await gpu.poll(), "gpu.reachable", FIRST) == 0.0
        assert logs == []
        assert gpu._child is None
        for _ in range(200):
            gpu._reap()
            if not gpu._dying:
                break
            await asyncio.sleep(0.01)
        assert not alive(hung)
        # healthy again, and rested: a new child
        stub.set("healthy")
        gpu.config = Gpu.Config(library=library, timeout=10.0)
        gpu._not_before = 0.0
        with capture_logs() as logs:
            frame = await gpu.poll()
        assert value(frame, "gpu.reachable", FIRST) == 1.0
        assert pid_of(gpu) != hung
        assert "gpu_back" in [entry["event"] for entry in logs]
    finally:
        gpu.close()


async def test_a_driver_that_hangs_from_the_start_is_unavailable(library: Path, stub: Stub):
    stub.set("hung")
    gpu = Gpu("gpu", Gpu.Config(library=library, timeout=0.3))
    try:
        with pytest.raises(Unavailable, match="NVML gave no answer within 300 ms") as first:
            await gpu.poll()
        assert first.value.wait_s == pytest.approx(5.0)
        with pytest.raises(Unavailable, match="NVML gave no answer"):
            await gpu.poll()
        assert gpu._child is None
    finally:
        gpu.close()


async def test_a_child_that_is_killed_is_replaced(gpu: Gpu):
    await gpu.poll()
    first = pid_of(gpu)
    os.kill(first, signal.SIGKILL)
    frame = await gpu.poll()
    assert value(frame, "gpu.reachable", FIRST) == 0.0
    gpu._not_before = 0.0
    for _ in range(200):
        gpu._reap()
        if not gpu._dying:
            break
        await asyncio.sleep(0.01)
    frame = await gpu.poll()
    assert value(frame, "gpu.reachable", FIRST) == 1.0
    assert pid_of(gpu) != first


async def test_nvml_that_fails_is_told_and_started_anew(gpu: Gpu, stub: Stub):
    await gpu.poll()
    stub.set("failing")
    with capture_logs() as logs:
        frame = await gpu.poll()
    assert value(frame, "gpu.reachable", FIRST) == 0.0
    assert of_host(frame, "host.gpu_driver_up") == 0.0
    assert of_host(frame, "host.gpu_driver_mismatched") == 0.0
    assert logs[0]["problem"].startswith("NVML fails: ")
    assert gpu._child is None
    assert gpu._problem in (await gpu.describe())[-1]


async def test_a_driver_that_fails_for_days_is_told_as_on_the_first(gpu: Gpu, stub: Stub):
    await gpu.poll()
    stub.set("failing")
    gpu._failures = 5000  # three and a half days, one a minute
    assert value(await gpu.poll(), "gpu.reachable", FIRST) == 0.0
    assert 0.0 < gpu._not_before - time.monotonic() <= 60.0


async def test_a_look_that_was_given_up_does_not_answer_the_next(gpu: Gpu, stub: Stub):
    await gpu.poll()
    look = asyncio.create_task(gpu.poll())
    await asyncio.sleep(0)
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look
    stub.set("hot")
    await asyncio.sleep(0.2)  # the child answers the look that nobody waits for
    stub.set("healthy")
    assert value(await gpu.poll(), "gpu.temperature_celsius", FIRST) == 55.0


async def test_without_a_driver_it_is_silent_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(gpu_module, "_SIGNS", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    gpu = Gpu("gpu", Gpu.Config())
    with capture_logs() as logs:
        frame = await gpu.poll()
        words = await gpu.describe()
    assert (frame.source, frame.series, frame.values.shape, frame.seen) == ("gpu", (), (0,), ())
    assert gpu._child is None
    assert logs == []
    assert "no NVIDIA driver" in words[0]


async def test_signs_of_a_driver_that_is_not_loaded_are_silent_too(gpu: Gpu, stub: Stub):
    stub.set("absent")
    with capture_logs() as logs:
        frame = await gpu.poll()
        assert (await gpu.poll()).series == ()
    assert frame.series == ()
    assert gpu._child is None
    assert [entry for entry in logs if entry["log_level"] != "debug"] == []


async def test_the_library_is_found_through_the_environment(
    library: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    gpu = Gpu("gpu", Gpu.Config(timeout=10.0))
    try:
        assert value(await gpu.poll(), "gpu.reachable", FIRST) == 1.0
    finally:
        gpu.close()


async def test_a_wrong_folder_is_refused(tmp_path: Path):
    gpu = Gpu("gpu", Gpu.Config(library=tmp_path))
    with pytest.raises(Refused, match=r"no libnvidia-ml\.so\.1 in"):
        await gpu.poll()


async def test_describe_names_the_gpus(gpu: Gpu):
    words = await gpu.describe()
    assert words[0].startswith("driver 550.54.15, 2 GPUs")
    assert "Stub H100" in words[1]


def test_the_child_imports_nothing_of_ours_and_ends_with_its_input(library: Path, stub: Stub):
    program = Path(gpu_module.__file__).with_name("_nvml.py")
    code = (
        f"import runpy, sys; runpy.run_path({str(program)!r}, run_name='__main__');"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=b'{"id": 1}\n{"id": 2}\n',
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(library)},
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["id"] for a in answers] == [1, 2]
    loaded = done.stderr.decode()
    for heavy in ("'agent'", "'connectors'", "'numpy'", "'pydantic'", "'psutil'"):
        assert heavy not in loaded


async def test_series_that_another_source_covers_are_left_to_it(gpu: Gpu, stub: Stub):
    before = set((await gpu.poll()).series)
    first = frozenset(Series(m, FIRST) for m in ("gpu.power_watts", "gpu.temperature_celsius"))
    gpu.cede(first)
    assert set((await gpu.poll()).series) == before - first
    assert gpu.rests_s == 0.0, "nobody tells anything of the other one"
    both = first | {Series("gpu.power_watts", SECOND)}
    gpu.cede(both)
    assert set((await gpu.poll()).series) == before - both
    assert gpu.rests_s == 15.0
    assert (await gpu.describe())[-1] == "3 series are left to a source that tells them already"
    stub.set("lost")  # what is ours alone is still seen
    assert value(await gpu.poll(), "gpu.reachable", SECOND) == 0.0
    gpu.cede(frozenset())
    assert set((await gpu.poll()).series) >= before
    assert gpu.rests_s == 0.0
