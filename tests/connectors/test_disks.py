"""What disks say of their health, in forms of smartctl's JSON that are written here: no disk with SMART is at hand."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from connectors._proc import this_host
from connectors._smart import Health, device_of, health
from connectors.disks import Disks

SCRIPT = f"""#!{sys.executable}
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
name = sys.argv[-1].rpartition("/")[2]
if (here / "hangs").exists():
    time.sleep(600)
print((here / f"{{name}}.said").read_text())
sys.exit(json.loads((here / f"{{name}}.said").read_text())["smartctl"]["exit_status"])
"""


def nvme(device="nvme0", exit_status=0, passed=True, **log):
    return {
        "json_format_version": [1, 0],
        "smartctl": {"version": [7, 3], "argv": ["smartctl"], "exit_status": exit_status},
        "device": {"name": f"/dev/{device}", "type": "nvme", "protocol": "NVMe"},
        "smart_status": {"passed": passed, "nvme": {"value": 0}},
        "nvme_smart_health_information_log": {
            "critical_warning": 0, "temperature": 41, "available_spare": 100, "available_spare_threshold": 10,
            "percentage_used": 3, "media_errors": 0, "num_err_log_entries": 12, **log,
        },
        "temperature": {"current": 41}, "power_on_time": {"hours": 8123},
    }  # fmt: skip


def ata(device="sda", passed=True, exit_status=0, **raw):
    names = {
        5: "Reallocated_Sector_Ct", 187: "Reported_Uncorrect", 197: "Current_Pending_Sector",
        198: "Offline_Uncorrectable", 199: "UDMA_CRC_Error_Count", 9: "Power_On_Hours",
    }  # fmt: skip
    table = [
        {"id": i, "name": name, "value": 100, "thresh": 10, "when_failed": "",
         "raw": {"value": raw.get(f"a{i}", 0), "string": "0"}}
        for i, name in names.items()
    ]  # fmt: skip
    return {
        "smartctl": {"version": [7, 3], "exit_status": exit_status},
        "device": {"name": f"/dev/{device}", "type": "sat", "protocol": "ATA"},
        "smart_status": {"passed": passed},
        "ata_smart_attributes": {"revision": 16, "table": table},
        "temperature": {"current": 33},
    }


class World:
    """A folder with /sys of three disks and a script in place of smartctl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "smartctl"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        self.file("block/sda/device/state", "running")
        self.file("block/sda/device/ioerr_cnt", "0x1f")
        self.file("block/nvme0n1/device/hwmon1/temp1_input", "41850")
        self.file("block/mmcblk0/device/life_time", "0x02 0x03")
        for none in ("vda/device", "loop0", "sda/sda1"):
            (folder / "sys/block" / none).mkdir(parents=True, exist_ok=True)
        self.says("sda", ata())
        self.says("nvme0n1", nvme("nvme0n1"))

    def file(self, name: str, text: str) -> None:
        path = self.folder / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def says(self, device: str, said: dict) -> None:
        (self.folder / f"{device}.said").write_text(json.dumps(said))

    @property
    def asked(self) -> list[list[str]]:
        path = self.folder / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
async def made():
    held = []

    def make(world, **config):
        one = Disks("disks", Disks.Config(sysfs=world.folder / "sys", **config))
        held.append(one)
        return one

    yield make
    for one in held:
        await one.close()


def asking(world):
    return {"smartctl": [str(world.folder / "smartctl")]}


async def told(source) -> dict[str, dict[str, float]]:
    frame = await source.poll()
    out: dict[str, dict[str, float]] = {}
    for series, value in zip(frame.series, frame.values.tolist(), strict=True):
        assert series.entity == this_host()
        labels = dict(series.labels)
        what = series.metric.removeprefix("host.disk_")
        out.setdefault(labels["device"], {})[f"{what}/{labels.get('type', '')}".rstrip("/")] = value
    return out


async def test_without_privileges_the_kernel_tells_what_it_knows(world, made):
    source = made(world)
    assert await told(source) == {
        "sda": {"failing": 0.0, "errors_total/io": 31.0},
        "nvme0n1": {"failing": 0.0, "temperature_celsius": 41.85},
        "mmcblk0": {"failing": 0.0, "wear_ratio": 0.3},
    }
    assert (await source.describe())[-1].startswith("only what /sys tells")
    world.file("block/sda/device/state", "offline")
    assert (await told(source))["sda"]["failing"] == 1.0
    (signal,) = await source.read()
    assert (signal.name, signal.firing) == ("disk failing sda", True)
    assert signal.text == "sda fails: the kernel calls it offline"
    assert dict(signal.labels) == {"device": "sda", "host": this_host().key}


async def test_smartctl_is_asked_by_argv_once_a_while(world, made):
    source = made(world, devices=["sd*", "nvme*"], **asking(world))
    found = await told(source)
    assert found["nvme0n1"] == {
        "failing": 0.0, "temperature_celsius": 41.0, "wear_ratio": 0.03, "spare_ratio": 1.0, "errors_total/media": 0.0,
    }  # fmt: skip
    assert found["sda"] == {
        "failing": 0.0, "temperature_celsius": 33.0, "errors_total/io": 31.0, "errors_total/media": 0.0,
        "errors_total/link": 0.0, "bad_sectors_count/reallocated": 0.0, "bad_sectors_count/pending": 0.0,
        "bad_sectors_count/uncorrectable": 0.0,
    }  # fmt: skip
    options = ["--json=c", "--info", "--health", "--attributes", "--log=error", "--nocheck=standby"]
    assert world.asked == [[*options, "/dev/nvme0n1"], [*options, "/dev/sda"]]
    await told(source)
    assert len(world.asked) == 2


async def test_a_disk_that_fails_is_told_and_told_to_be_well_again(world, made, monkeypatch):
    world.says("nvme0n1", nvme("nvme0n1", critical_warning=0b1001, percentage_used=112))
    source = made(world, **asking(world))
    found = await told(source)
    assert (found["nvme0n1"]["failing"], found["nvme0n1"]["wear_ratio"]) == (1.0, 1.12)
    (signal,) = await source.read()
    assert signal.text == "nvme0n1 fails: little spare is left; it takes no more writes"
    await told(source)
    assert await source.read() == []  # once an hour is enough
    world.says("nvme0n1", nvme("nvme0n1"))
    source._due = 0.0
    await told(source)
    await source._round
    await told(source)
    (over,) = await source.read()
    assert (over.name, over.firing) == (signal.name, False)


async def test_who_sleeps_is_not_woken_and_what_it_said_stands(world, made):
    world.says("sda", ata(a197=8))
    source = made(world, **asking(world))
    assert (await told(source))["sda"]["bad_sectors_count/pending"] == 8.0
    messages = [{"string": "Device is in STANDBY mode, exit(2)", "severity": "information"}]
    world.says("sda", {"smartctl": {"exit_status": 2, "messages": messages}})
    at = source._said["sda"][0]
    source._due = 0.0
    await told(source)
    await source._round
    assert (await told(source))["sda"]["bad_sectors_count/pending"] == 8.0
    assert source._said["sda"][0] > at


async def test_what_can_not_be_asked_is_said_once_and_the_rest_goes_on(world, made, monkeypatch):
    denied = [
        {"string": "Smartctl open device: /dev/sda failed: Permission denied", "severity": "error"}
    ]
    world.says("sda", {"smartctl": {"exit_status": 2, "messages": denied}})
    (world.folder / "nvme0n1.said").write_text("garbage")
    source = made(world, **asking(world))
    lines = await source.describe()
    assert "sda: Smartctl open device: /dev/sda failed: Permission denied" in lines
    assert any("nvme0n1: smartctl gave no JSON" in line and "takes root" in line for line in lines)
    assert (await told(source))["sda"] == {"failing": 0.0, "errors_total/io": 31.0}
    gone = made(world, smartctl=["/none/smartctl"])
    assert any("can not be run: No such file" in line for line in await gone.describe())
    monkeypatch.setattr("connectors.disks._TIME_S", 0.2)
    (world.folder / "hangs").touch()
    slow = made(world, devices=["sda"], **asking(world))
    assert "sda: smartctl did not answer within 200 ms" in await slow.describe()


async def test_reports_that_others_write_are_read_and_grow_old(world, made):
    reports = world.folder / "reports"
    reports.mkdir()
    (reports / "a.json").write_text(json.dumps(nvme("nvme0", media_errors=3)))
    (reports / "slot4.json").write_text(json.dumps({**ata(passed=False, exit_status=8), "device": {}}))  # fmt: skip
    (reports / "junk.json").write_text("{")
    source = made(world, reports=reports, every=60)
    found = await told(source)
    assert found["nvme0n1"]["errors_total/media"] == 3.0  # the controller's name, the disk's label
    assert found["slot4"]["failing"] == 1.0
    assert any("junk.json: is no report" in line for line in await source.describe())
    os.utime(reports / "slot4.json", (time.time() - 3600,) * 2)
    os.utime(reports / "a.json", (time.time() - 3600,) * 2)
    found = await told(source)
    source._said.clear()
    found = await told(source)
    assert "slot4" not in found
    assert found["nvme0n1"].keys() == {"failing", "temperature_celsius"}


async def test_disks_behind_a_controller_are_named_in_the_config(world, made):
    world.says("sda", ata())
    drives = {"slot0": ["-d", "megaraid,0", "/dev/sda"]}
    source = made(world, devices=["none"], drives=drives, **asking(world))
    assert (await told(source)).keys() == {"slot0"}
    assert world.asked[0][-3:] == ["-d", "megaraid,0", "/dev/sda"]
    with pytest.raises(ValidationError, match="`drives` are asked by `smartctl`"):
        Disks.Config(drives=drives)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (ata(passed=False, exit_status=8), "its own test of its health is failed"),
        (nvme(critical_warning=2), ""),  # heat passes
        (nvme(critical_warning=4), "reliability is degraded"),
        ({"smart_status": {"passed": True}, "ata_smart_attributes": {"table": [
            {"id": 5, "name": "Reallocated_Sector_Ct", "when_failed": "now", "raw": {"value": 900}}]}},
         "Reallocated_Sector_Ct is below its limit"),
        ({"smart_status": {"passed": True}, "ata_smart_attributes": {"table": [
            {"id": 5, "name": "Reallocated_Sector_Ct", "when_failed": "past", "raw": {"value": 1}}]}}, ""),
    ],
)  # fmt: skip
def test_what_means_that_it_fails(said, why):
    assert health(said).why == why


def test_other_forms():
    scsi = {
        "smart_status": {"passed": True}, "scsi_grown_defect_list": 7, "temperature": {"current": 40},
        "scsi_error_counter_log": {"read": {"total_uncorrected_errors": 2}, "write": {"total_uncorrected_errors": 1}},
    }  # fmt: skip
    assert health(scsi) == Health((
        ("host.disk_bad_sectors_count", (("type", "reallocated"),), 7.0),
        ("host.disk_errors_total", (("type", "media"),), 3.0),
        ("host.disk_temperature_celsius", (), 40.0),
    ))  # fmt: skip
    worn = {"smart_status": {"passed": True}, "ata_smart_attributes": {"table": [
        {"id": 177, "name": "Wear_Leveling_Count", "value": 81, "raw": {"value": 200}}]}}  # fmt: skip
    assert health(worn).values[0][:2] == ("host.disk_wear_ratio", ())
    assert health(worn).values[0][2] == pytest.approx(0.19)
    newer = {"smart_status": {"passed": True}, "endurance_used": {"current_percent": 4}}
    assert health(newer).values == (("host.disk_wear_ratio", (), 0.04),)
    assert health({"smartctl": {"exit_status": 0}}) is None
    assert [device_of({"device": {"name": n}}) for n in ("/dev/sda", "/dev/nvme1", "/dev/nvme1n1", "")] == [
        "sda", "nvme1n1", "nvme1n1", "",
    ]  # fmt: skip
