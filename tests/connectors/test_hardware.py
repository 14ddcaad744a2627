"""What only some hosts have: files as their kernels write them, and the clock of this machine."""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path

import pytest

from agent.catalogue import SIGNALS
from connectors import _hardware
from connectors._aside import Aside
from connectors._hardware import (
    ClockState,
    InfiniBand,
    MemoryControllers,
    MemoryNodes,
    Raid,
    _Timex,
)
from connectors._kernel import Section, column

MDSTAT = """\
Personalities : [raid1] [raid6] [raid5] [raid4]
md1 : active raid5 sde1[3] sdd1[1] sdc1[0]
      1953259520 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]
      bitmap: 0/8 pages [0KB], 65536KB chunk

md0 : active raid1 sdf1[2](S) sdb1[1](F) sda1[0]
      976630464 blocks super 1.2 [2/1] [U_]
      [===>.................]  recovery = 17.1% (167132672/976630464) finish=92.9min speed=145120K/sec

md127 : active (auto-read-only) raid1 nvme1n1p1[1] nvme0n1p1[0]
      523200 blocks super 1.2 [2/2] [UU]

unused devices: <none>
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def said(section: Section) -> dict:
    values = section.read()
    assert len(values) == len(section.columns)
    assert {metric for metric, _ in section.columns} <= SIGNALS.keys()
    return dict(zip(section.columns, values, strict=True))


def test_raid_by_array(tmp_path: Path):
    write(tmp_path, {"mdstat": MDSTAT})
    now = said(Raid(tmp_path))
    assert {dict(labels)["array"] for _, labels in now} == {"md0", "md1", "md127"}
    degraded = {a: now[column("host.raid_degraded", array=a)] for a in ("md0", "md1", "md127")}
    assert degraded == {"md0": 1.0, "md1": 0.0, "md127": 0.0}
    disks = {
        s: now[column("host.raid_disks_count", array="md0", state=s)]
        for s in ("active", "missing", "failed", "spare")
    }
    assert disks == {"active": 1.0, "missing": 1.0, "failed": 1.0, "spare": 1.0}
    assert now[column("host.raid_syncing", array="md0")] == 1.0
    assert now[column("host.raid_syncing", array="md1")] == 0.0


def test_an_array_that_is_mended_keeps_its_columns(tmp_path: Path):
    write(tmp_path, {"mdstat": MDSTAT})
    raid = Raid(tmp_path)
    raid.read()
    before = raid.columns
    write(tmp_path, {"mdstat": MDSTAT.replace("[2/1] [U_]", "[2/2] [UU]")})
    assert said(raid)[column("host.raid_degraded", array="md0")] == 0.0
    assert raid.columns is before


def test_without_raid_there_is_nothing(tmp_path: Path):
    assert said(Raid(tmp_path)) == {}
    write(tmp_path, {"mdstat": "Personalities : \nunused devices: <none>\n"})
    assert said(Raid(tmp_path)) == {}
    write(
        tmp_path,
        {"mdstat": "md0 : inactive sdb1[1](S)\n      5 blocks super 1.2\n\n\x00garbage [9/"},
    )
    assert said(Raid(tmp_path)) == {column("host.raid_syncing", array="md0"): 0.0}


def test_memory_controllers_count_errors(tmp_path: Path):
    mc = "devices/system/edac/mc"
    write(
        tmp_path,
        {f"{mc}/mc0/ce_count": "12\n", f"{mc}/mc0/ue_count": "1\n", f"{mc}/mc1/ce_count": "0\n"},
    )
    section = MemoryControllers(tmp_path)
    assert said(section) == {
        column("host.memory_errors_total", controller="mc0", type="corrected"): 12.0,
        column("host.memory_errors_total", controller="mc0", type="uncorrected"): 1.0,
        column("host.memory_errors_total", controller="mc1", type="corrected"): 0.0,
    }
    write(tmp_path, {f"{mc}/mc0/ce_count": "garbage\n"})
    broken = said(section)
    assert math.isnan(
        broken[column("host.memory_errors_total", controller="mc0", type="corrected")]
    )
    assert broken[column("host.memory_errors_total", controller="mc0", type="uncorrected")] == 1.0


def test_what_comes_later_is_found_within_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(_hardware.time, "monotonic", lambda: now)
    section = MemoryControllers(tmp_path)
    assert said(section) == {}
    write(tmp_path, {"devices/system/edac/mc/mc0/ce_count": "5\n"})
    assert said(section) == {}
    now = 1060.0
    assert list(said(section).values()) == [5.0]


NODE = "Node {0} MemTotal:       1000 kB\nNode {0} MemFree:         400 kB\nNode {0} MemUsed:         600 kB\n"
STAT = "numa_hit 100\nnuma_miss 3\nnuma_foreign 4\ninterleave_hit 5\nlocal_node 90\nother_node 10\n"


def test_memory_nodes_only_where_there_are_several(tmp_path: Path):
    folder = "devices/system/node"
    write(tmp_path, {f"{folder}/node0/meminfo": NODE.format(0), f"{folder}/node0/numastat": STAT})
    assert said(MemoryNodes(tmp_path)) == {}
    write(tmp_path, {f"{folder}/node1/meminfo": NODE.format(1), f"{folder}/node1/numastat": STAT})
    now = said(MemoryNodes(tmp_path))
    assert now[column("host.numa_memory_bytes", node="1", use="free")] == 400 * 1024
    assert now[column("host.numa_memory_bytes", node="0", use="used")] == 600 * 1024
    pages = {
        t: now[column("host.numa_node_pages_total", node="0", type=t)]
        for t in ("local", "other", "miss")
    }
    assert pages == {"local": 90.0, "other": 10.0, "miss": 3.0}


async def test_infiniband_ports(tmp_path: Path):
    port = "class/infiniband/mlx5_0/ports/1"
    write(tmp_path, {
        f"{port}/state": "4: ACTIVE\n", f"{port}/counters/port_rcv_data": "250\n",
        f"{port}/counters/port_xmit_data": "100\n", f"{port}/counters/link_downed": "2\n",
        f"{port}/counters/symbol_error": "7\n",
    })  # fmt: skip
    aside = Aside(5.0)
    section = InfiniBand(aside, tmp_path)
    assert said(section) == {}
    assert section.ask()
    await aside.settle(5.0)
    names = {"device": "mlx5_0", "port": "1"}
    now = said(section)
    assert now[column("host.infiniband_up", **names)] == 1.0
    assert now[column("host.infiniband_received_bytes_total", **names)] == 1000.0
    assert now[column("host.infiniband_sent_bytes_total", **names)] == 400.0
    assert now[column("host.infiniband_errors_total", type="link_downed", **names)] == 2.0
    assert now[column("host.infiniband_errors_total", type="symbol_errors", **names)] == 7.0
    assert column("host.infiniband_errors_total", type="receive_errors", **names) not in now
    write(tmp_path, {f"{port}/state": "1: DOWN\n", f"{port}/counters/symbol_error": "garbage\n"})
    section._due = 0.0
    assert section.ask()
    await aside.settle(5.0)
    now = said(section)
    aside.close()
    assert now[column("host.infiniband_up", **names)] == 0.0
    assert column("host.infiniband_errors_total", type="symbol_errors", **names) not in now


# ---- the clock


class _Kernel:
    def __init__(self, status: int, offset: int, *, forbidden: bool = False) -> None:
        self.status, self.offset, self.forbidden = status, offset, forbidden

    def __call__(self, at) -> int:
        if self.forbidden:
            return -1
        told = ctypes.cast(at, ctypes.POINTER(_Timex)).contents
        assert told.modes == 0, "it must change nothing"
        told.status, told.offset, told.maxerror = self.status, self.offset, 250_000
        return 0


def clock(kernel: _Kernel) -> dict:
    section = ClockState()
    section._call = kernel
    return said(section)


def test_the_clock_in_both_units():
    kept = clock(_Kernel(0x2001, -1_500_000))
    assert kept[column("host.clock_synchronized")] == 1.0
    assert kept[column("host.clock_offset_seconds")] == pytest.approx(-0.0015)
    assert kept[column("host.clock_error_seconds")] == pytest.approx(0.25)
    loose = clock(_Kernel(0x40, 1500))
    assert loose[column("host.clock_synchronized")] == 0.0
    assert loose[column("host.clock_offset_seconds")] == pytest.approx(0.0015)


def test_where_it_may_not_be_asked_there_is_nothing():
    section = ClockState()
    section._call = _Kernel(0, 0)
    assert len(said(section)) == 3
    section._call = _Kernel(0, 0, forbidden=True)
    assert said(section) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is of Linux")
def test_the_clock_of_this_machine():
    now = said(ClockState())
    assert now[column("host.clock_synchronized")] in {0.0, 1.0}
    assert abs(now[column("host.clock_offset_seconds")]) < 1.0
    assert 0 <= now[column("host.clock_error_seconds")] < 60.0
