"""Power limits through a real nvidia-ml-py on a compiled stand-in for NVML; resets by a script."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Step, Undo
from connectors.gpu_control import GpuControl, State
from playbooks.actions.gpu import DiagnoseGpu, GpuCare, ResetGpu, remedy
from playbooks.actions.limits import Limiter, SetLimit

GPU = "gpu:GPU-00000000-0000-0000-0000-000000000000"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="resets take root")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make the stand-in for NVML with")
    folder = tmp_path_factory.mktemp("nvml_control")
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True
    )
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """Return a folder: `state` is the word of the stand-in, `power` its limit, `smi` what nvidia-smi was told."""
    monkeypatch.setenv("NVML_STUB", str(tmp_path / "state"))
    monkeypatch.setenv("NVML_STUB_POWER", str(tmp_path / "power"))
    (tmp_path / "state").write_text("healthy")
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/smi\n'
        f"if [ -e {tmp_path}/busy ]; then echo 'GPU is currently in use by another process.'; exit 19; fi\n"
        "echo 'GPU 00000000:01:00.0 was successfully reset.'\n"
    )
    script.chmod(0o755)
    return tmp_path


def control(stand_in: Path, world: Path, **more) -> GpuControl:
    config = {"library": stand_in, "nvidia_smi": str(world / "nvidia-smi"), **more}
    return GpuControl("gpu_control", GpuControl.Config(**config), state=world)


def step(use: str, **facts: str) -> Step:
    return Step(f"run-1/{use}", use, GPU, {}, facts=facts, by="homeostat:run-1")


async def planned(act, use: str) -> Step:
    one = step(use)
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


async def test_a_power_limit_is_set_and_put_back(stand_in, world):
    made = control(stand_in, world)
    assert isinstance(made, Limiter)
    act = SetLimit(SetLimit.Params(limit="power_watts", times=0.9), made)
    one = await planned(act, "set_limit")
    assert one.before["value"] == 700
    done = await act.run(one)
    assert (world / "power").read_text() == "630000"
    assert done.summary == f"the limit power_watts of {GPU} is 630 W in place of 700 W"
    await act.undo(one, done.undo)
    assert (world / "power").read_text() == "700000"
    (world / "power").write_text("300000")
    with pytest.raises(Refused, match="changed by others: it is 300 W, not 700 W as planned"):
        await act.run(one)
    with pytest.raises(Refused, match=r"is 300 W, not 700: changed by others"):
        await made.set_limit(GPU, "power_watts", 500.0, 700.0)


async def test_what_can_not_be_set_is_refused(stand_in, world, monkeypatch):
    made = control(stand_in, world)
    low = SetLimit(SetLimit.Params(limit="power_watts", value=100.0), made)
    with pytest.raises(Refused, match="takes power limits from 200 to 700 W, not 100"):
        await planned(low, "set_limit")
    with pytest.raises(Refused, match="GPUs have no limit clock_hertz"):
        await made.limit(GPU, "clock_hertz")
    with pytest.raises(Refused, match="Not Found|stub"):  # noqa: RUF043  # one or the other library's words
        await made.limit(GPU[:-1] + "7", "power_watts")
    monkeypatch.setenv("NVML_STUB_USER", "nobody")
    with pytest.raises(Refused):
        await made.set_limit(GPU, "power_watts", 500.0, 700.0)
    assert not (world / "power").exists()


async def test_a_driver_that_hangs_or_fails_is_told_apart(stand_in, world):
    made = control(stand_in, world, timeout=0.7)
    (world / "state").write_text("hung")
    with pytest.raises(Unavailable, match="a GPU or the driver hangs"):
        await made.health(GPU)
    with pytest.raises(Uncertain, match="it may have been done"):
        await made.set_limit(GPU, "power_watts", 500.0, 700.0)
    (world / "state").write_text("failing")
    with pytest.raises(Unavailable, match="NVML fails"):
        await control(stand_in, world).health(GPU)


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        (None, State(None, True, False, ())),
        ("0", State("none", True, False, ())),
        ("4", State("drain_and_reset", True, False, ())),
        ("9", State("action_9", True, False, ())),
    ],
)
async def test_health_as_nvml_says_it(stand_in, world, monkeypatch, asks, said):
    if asks is not None:
        monkeypatch.setenv("NVML_STUB_RECOVERY", asks)
    assert await control(stand_in, world).health(GPU) == said


async def test_a_diagnosis_names_the_remedy(stand_in, world, monkeypatch):
    made = control(stand_in, world)
    assert isinstance(made, GpuCare)
    act = DiagnoseGpu(DiagnoseGpu.Params(), made)
    done = await act.run(step("diagnose_gpu", xid="119"))
    assert done.values["remedy"] == "reset"
    monkeypatch.setenv("NVML_STUB_RECOVERY", "2")
    done = await act.run(step("diagnose_gpu", xid="119"))
    assert done.summary == f"{GPU}: drain the host and reboot it (NVML asks for node reboot)"


@pytest.mark.parametrize(
    ("recovery", "pending", "failed", "xid", "wanted"),
    [
        ("reset", False, False, 31, "reset"),  # NVML comes first
        ("none", False, False, 31, "restart_app"),
        ("none", False, False, 119, "watch"),  # it has recovered since
        (None, False, False, 119, "reset"),  # an old driver says nothing: the table
        (None, None, None, 79, "reboot"),
        (None, False, False, 45, "look_further"),
        (None, False, False, 48, "drain_and_reset"),
        (None, False, False, 999, "service"),
        ("none", True, False, None, "reset"),
        ("none", False, True, 31, "service"),
        ("none", False, False, None, "none"),
        ("action_9", False, False, None, "service"),
    ],
)
def test_recovery_actions_come_before_the_table_of_xids(recovery, pending, failed, xid, wanted):
    assert remedy(State(recovery, pending, failed, ()), xid)[0] == wanted


@as_root
async def test_a_gpu_is_reset_once_and_only_when_nobody_uses_it(stand_in, world, monkeypatch):
    act = ResetGpu(ResetGpu.Params(), control(stand_in, world))
    assert not isinstance(act, Undo)
    monkeypatch.setenv("NVML_STUB_PID", str(os.getpid()))
    with pytest.raises(Refused, match=f"is in use by {os.getpid()}: drain and end them first"):
        await planned(act, "reset_gpu")
    monkeypatch.delenv("NVML_STUB_PID")
    one = await planned(act, "reset_gpu")
    assert not act.reached(one, one.before)
    assert "would reset" in (await act.run(dataclasses.replace(one, dry_run=True))).summary
    assert not (world / "smi").exists()
    await act.run(one)
    again = ResetGpu(ResetGpu.Params(), control(stand_in, world))
    assert again.reached(one, await again.observe(one))
    assert "already" in (await again.run(one)).summary
    assert (world / "smi").read_text() == f"--gpu-reset -i {GPU.removeprefix('gpu:')}\n"


@as_root
async def test_a_reset_that_is_refused_may_be_tried_again(stand_in, world):
    act = ResetGpu(ResetGpu.Params(), control(stand_in, world))
    (world / "busy").touch()
    with pytest.raises(Refused, match=r"did not reset .* currently in use"):
        await act.run(step("reset_gpu"))
    (world / "busy").unlink()
    await act.run(step("reset_gpu"))
    assert len((world / "smi").read_text().splitlines()) == 2


async def test_where_no_driver_is_nothing_may_be_set(world, monkeypatch):
    monkeypatch.setattr("connectors.gpu_control.driver_shows", lambda: False)
    alone = GpuControl("gpu_control", GpuControl.Config(), state=world)
    assert await alone.describe() == (
        "no NVIDIA driver on this machine: there is nothing to set or to reset",
    )
