"""The host: the real /proc of this machine, recorded ones, and a file system that really hangs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

from agent.catalogue import SIGNALS
from agent.errors import Unavailable
from agent.model import Frame, Series
from agent.ports import Abilities, Source
from agent.rates import Rates
from connectors import _slow
from connectors._aside import Aside
from connectors._kernel import Cgroup, Pressure, Section, cgroup_pressure
from connectors._portable import Portable
from connectors._proc import ProcFile, this_host
from connectors._slow import Mounts
from connectors.host import Host, in_container

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a Linux /proc")

STAT = """\
cpu  100 10 50 1000 20 0 5 3 0 0
cpu0 60 5 30 480 15 0 5 3 0 0
cpu1 40 5 20 520 5 0 0 0 0 0
intr 12345 0 1 2
ctxt 67890
btime 1700000000
processes 4321
procs_running 3
procs_blocked 1
softirq 999 1 2 3 4 5 6 7 8 9 10
"""
MEMINFO = """\
MemTotal:        1000 kB
MemFree:          200 kB
MemAvailable:     600 kB
Buffers:           10 kB
Cached:           300 kB
SwapCached:         2 kB
CommitLimit:      900 kB
Committed_AS:     450 kB
SwapTotal:        400 kB
SwapFree:         100 kB
HugePages_Total:    0
"""
DISKSTATS = """\
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
   8       0 sda 100 5 2048 500 50 5 1024 400 2 700 900 3 0 64 9 10 20
   8       1 sda1 90 5 2000 400 40 5 1000 300 0 600 700 0 0 0 0 0 0
"""
NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0:    5000      50    1    2    0     0          0         0     7000      70    3    4    0     0       0          0
 veth9:       1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
"""  # noqa: E501  # as the kernel writes it
SNMP = """\
Ip: Forwarding DefaultTTL InReceives ForwDatagrams InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmFails
Ip: 2 64 11 12 13 14 15 16 17 18
Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs OutRsts
Tcp: 1 -1 21 22 23 24 25 26 27 28 29
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
Udp: 31 32 33 34 35 36
"""
NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPTimeouts
TcpExt: 41 42 43 44
IpExt: InNoRoutes
IpExt: 0
"""
PRESSURE = """\
some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000
full avg10=1.00 avg60=0.00 avg300=0.00 total=1500000
"""
MOUNTINFO = r"""
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:20 / /proc rw - proc proc rw
24 22 0:21 / /dev/shm rw - tmpfs tmpfs rw
25 22 0:22 / /run/secret rw - tmpfs tmpfs rw
26 22 8:1 /data /srv/data rw - ext4 /dev/sda1 rw
27 22 0:30 / /mnt/my\040share rw - nfs4 server:/x rw
28 22 0:31 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
29 22 7:0 / /snap/core ro - squashfs /dev/loop0 ro
""".lstrip()


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A /proc and a /sys of a small machine."""
    files = {
        "proc/stat": STAT,
        "proc/meminfo": MEMINFO,
        "proc/vmstat": "pgfault 100\npgmajfault 30\npgpgin 8\nallocstall_dma 1\nallocstall_normal 4\noom_kill 2\n",
        "proc/loadavg": "0.50 0.40 0.30 3/250 4711\n",
        "proc/diskstats": DISKSTATS,
        "proc/net/dev": NET_DEV,
        "proc/net/snmp": SNMP,
        "proc/net/netstat": NETSTAT,
        "proc/net/sockstat": "sockets: used 17\nTCP: inuse 3 orphan 0 tw 2 alloc 4 mem 10\n",
        "proc/net/softnet_stat": "0000000b 00000001 00000000 0\n0000d074 00000002 00000003 0\n",
        "proc/sys/fs/file-nr": "600\t100\t10000\n",
        "proc/sys/fs/inode-nr": "500\t10\n",
        "proc/sys/kernel/threads-max": "1000\n",
        "proc/sys/kernel/pid_max": "500\n",
        "proc/sys/net/ipv4/tcp_mem": "10\t20\t40\n",
        "proc/pressure/memory": PRESSURE,
        "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        "sys/class/block/sda1/partition": "1\n",
        "sys/class/net/eth0/operstate": "down\n",
        "sys/class/net/eth0/carrier_changes": "6\n",
        "sys/class/net/eth0/device/vendor": "0x8086\n",
        "sys/class/net/eth0/speed": "10000\n",
        "sys/class/net/tap0/device/vendor": "0x1af4\n",
        "sys/class/net/tap0/speed": "-1\n",
        "sys/class/net/lo/operstate": "unknown\n",
        "proc/mdstat": "md0 : active raid1 sdb1[1] sda1[0]\n      5 blocks super 1.2 [2/2] [UU]\n",
        "sys/devices/system/edac/mc/mc0/ce_count": "4\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")
    return tmp_path / "proc", tmp_path / "sys"


@pytest.fixture
def small(trees: tuple[Path, Path]):
    host = Host("host", Host.Config(procfs=trees[0], sysfs=trees[1]))
    yield host
    host.close()


@pytest.fixture
def real():
    host = Host("host", Host.Config())
    yield host
    host.close()


def value(frame: Frame, metric: str, **labels: str) -> float:
    series = Series(metric, this_host(), tuple(sorted(labels.items())))
    return float(frame.values[frame.series.index(series)])


def all_of(frame: Frame, metric: str) -> dict[str, float]:
    return {
        "".join(v for _, v in s.labels): float(x)
        for s, x in zip(frame.series, frame.values, strict=True)
        if s.metric == metric
    }


# ---- this machine


@linux
async def test_this_machine_has_two_hundred_series_that_the_catalogue_knows(real: Host):
    assert isinstance(real, Source)
    assert isinstance(real, Abilities)
    assert real.interval_s == 1.0
    frame = await real.poll()
    assert len(frame.series) >= 200
    assert frame.values.dtype == np.float64
    assert frame.values.shape == (len(frame.series),)
    assert list(frame.series) == sorted(set(frame.series))
    assert {s.metric for s in frame.series} <= SIGNALS.keys()
    assert abs(frame.ts - time.time()) < 10.0
    known = np.isfinite((await real.poll()).values)
    assert known.sum() >= 190


@linux
async def test_the_table_is_the_same_object_until_a_device_comes_or_goes(real: Host):
    tables = {id((await real.poll()).series) for _ in range(5)}
    assert len(tables) == 1


@linux
async def test_it_says_what_psutil_says(real: Host):
    frame = await real.poll()
    memory = psutil.virtual_memory()
    assert value(frame, "host.memory_bytes", use="total") == memory.total
    used = value(frame, "host.memory_utilization_ratio")
    assert used == pytest.approx(memory.percent / 100, abs=0.05)
    up = time.time() - psutil.boot_time()
    assert value(frame, "host.uptime_seconds") == pytest.approx(up, abs=5)
    full = value(frame, "host.disk_utilization_ratio", mount="/")
    assert full == pytest.approx(psutil.disk_usage("/").percent / 100, abs=0.02)
    idle = psutil.cpu_times().idle / (psutil.cpu_count() or 1)
    mine = value(frame, "host.cpu_seconds_total", mode="idle")
    assert mine == pytest.approx(idle, rel=0.02, abs=5)
    sent = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
    assert value(frame, "host.network_sent_bytes_total", interface="lo") <= sent


@linux
async def test_rates_of_a_busy_core_are_shares(real: Host):
    rates = Rates()
    rates.apply(await real.poll())
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        sum(range(1000))
    frame = rates.apply(await real.poll())
    cores = os.cpu_count() or 1
    busiest = max(all_of(frame, "host.core_utilization_ratio").values())
    assert 0.3 < busiest <= 1.1
    assert 0.3 / cores < value(frame, "host.cpu_busy_ratio") <= 1.0
    modes = all_of(frame, "host.cpu_utilization_ratio")
    assert sum(modes.values()) == pytest.approx(1.0, abs=0.15)


@linux
async def test_a_reading_costs_little(real: Host):
    await real.poll()
    start = time.process_time()
    for _ in range(100):
        await real.poll()
    assert (time.process_time() - start) / 100 < 0.005  # 0.6 ms alone on a quiet machine


@linux
async def test_descriptors_and_threads_do_not_pile_up(real: Host):
    await real.poll()
    before = psutil.Process().num_fds(), threading.active_count()
    for _ in range(50):
        await real.poll()
    assert (psutil.Process().num_fds(), threading.active_count()) == before


@linux
async def test_the_host_is_sighted_once(real: Host):
    first = await real.poll()
    (sighting,) = first.seen
    assert sighting.entity == this_host()
    facts = dict(sighting.attrs)
    assert facts["cores"] == str(os.sysconf("SC_NPROCESSORS_ONLN"))
    assert int(facts["memory_bytes"]) > 0
    assert facts["container"] in {"yes", "no"}
    assert facts["kernel"] == os.uname().release
    assert (await real.poll()).seen == ()


@linux
async def test_describe_is_for_people(real: Host):
    lines = await real.describe()
    assert lines[0].startswith(f"host {this_host().key}: ")
    assert "series" in lines[1]


# ---- a recorded machine


async def test_cpu_by_mode_and_core(small: Host):
    hertz = os.sysconf("SC_CLK_TCK")
    frame = await small.poll()
    assert value(frame, "host.cpu_seconds_total", mode="user") == 100 / hertz / 2
    assert value(frame, "host.cpu_seconds_total", mode="steal") == 3 / hertz / 2
    assert value(frame, "host.core_seconds_total", core="0") == (60 + 5 + 30 + 5 + 3) / hertz
    assert value(frame, "host.core_mode_seconds_total", core="1", mode="idle") == 520 / hertz
    assert value(frame, "host.interrupts_total") == 12345
    assert value(frame, "host.context_switches_total") == 67890
    assert value(frame, "host.forks_total") == 4321
    assert value(frame, "host.processes_count", state="blocked") == 1
    assert value(frame, "host.softirqs_total", type="rcu") == 10
    assert np.isnan(value(frame, "host.cpu_busy_ratio"))


async def test_busy_share_is_what_happened_since_the_last_reading(small: Host, trees):
    await small.poll()
    later = STAT.replace("cpu  100 10 50 1000 20", "cpu  130 10 50 1060 30")
    (trees[0] / "stat").write_text(later, "ascii")
    assert value(await small.poll(), "host.cpu_busy_ratio") == pytest.approx(30 / 100)


async def test_cores_that_come_make_the_table_anew(small: Host, trees):
    before = await small.poll()
    more = STAT.replace("intr ", "cpu2 1 1 1 1 1 1 1 1 0 0\nintr ")
    (trees[0] / "stat").write_text(more, "ascii")
    after = await small.poll()
    assert len(after.series) == len(before.series) + 9
    assert dict(after.seen[0].attrs)["cores"] == "3"
    assert list(after.series) == sorted(after.series)


async def test_on_many_cores_the_modes_of_each_are_left_out(trees):
    host = Host("host", Host.Config(procfs=trees[0], sysfs=trees[1], cores_in_detail=1))
    frame = await host.poll()
    host.close()
    metrics = [s.metric for s in frame.series]
    assert "host.core_mode_seconds_total" not in metrics
    assert metrics.count("host.core_seconds_total") == 2


async def test_memory_and_swap(small: Host, trees):
    frame = await small.poll()
    assert value(frame, "host.memory_bytes", use="used") == 400 * 1024
    assert value(frame, "host.memory_bytes", use="cached") == 300 * 1024
    assert value(frame, "host.memory_utilization_ratio") == pytest.approx(0.4)
    assert value(frame, "host.memory_commit_ratio") == pytest.approx(0.5)
    assert value(frame, "host.swap_bytes", use="used") == 300 * 1024
    assert value(frame, "host.swap_utilization_ratio") == 0.75
    (trees[0] / "meminfo").write_text(
        MEMINFO.replace("SwapTotal:        400", "SwapTotal:          0")
    )
    frame = await small.poll()
    assert "host.swap_bytes" not in {s.metric for s in frame.series}
    assert value(frame, "host.memory_utilization_ratio") == pytest.approx(0.4)


async def test_a_kernel_file_that_changes_its_lines_is_read_by_name(small: Host, trees):
    await small.poll()
    (trees[0] / "meminfo").write_text(
        MEMINFO.replace("MemFree:", "New:              7 kB\nMemFree:")
    )
    frame = await small.poll()
    assert value(frame, "host.memory_bytes", use="free") == 200 * 1024
    assert value(frame, "host.memory_bytes", use="used") == 400 * 1024


async def test_paging_sums_over_zones(small: Host):
    frame = await small.poll()
    assert value(frame, "host.page_faults_total", type="minor") == 70
    assert value(frame, "host.page_faults_total", type="major") == 30
    assert value(frame, "host.allocation_stalls_total", type="reclaim") == 5
    assert value(frame, "host.oom_kills_total") == 2
    pages = 8 * 1024 / os.sysconf("SC_PAGE_SIZE")
    assert value(frame, "host.pages_total", direction="in") == pages


async def test_pressure_is_in_seconds(small: Host):
    frame = await small.poll()
    some = value(frame, "host.pressure_seconds_total", resource="memory", who="some")
    full = value(frame, "host.pressure_seconds_total", resource="memory", who="full")
    assert (some, full) == (2.5, 1.5)


async def test_limits(small: Host):
    frame = await small.poll()
    assert value(frame, "host.file_descriptors_count") == 500
    assert value(frame, "host.file_descriptors_ratio") == 0.05
    assert value(frame, "host.threads_count") == 250
    assert value(frame, "host.threads_ratio") == 0.5
    assert value(frame, "host.tcp_memory_ratio") == 0.25
    assert value(frame, "host.inodes_count") == 500


async def test_disks_are_whole_disks_with_latency_since_the_last_reading(small: Host, trees):
    frame = await small.poll()
    devices = {
        dict(s.labels)["device"] for s in frame.series if s.metric == "host.disk_reads_total"
    }
    assert devices == {"sda"}
    assert value(frame, "host.disk_read_bytes_total", device="sda") == 2048 * 512
    assert value(frame, "host.disk_busy_seconds_total", device="sda") == pytest.approx(0.7)
    assert value(frame, "host.disk_in_flight_count", device="sda") == 2
    assert value(frame, "host.disk_discarded_bytes_total", device="sda") == 64 * 512
    assert np.isnan(value(frame, "host.disk_read_latency_seconds", device="sda"))
    # ten more reads that took 50 ms together, no more writes
    later = DISKSTATS.replace("sda 100 5 2048 500 ", "sda 110 5 2048 550 ")
    (trees[0] / "diskstats").write_text(later, "ascii")
    frame = await small.poll()
    assert value(frame, "host.disk_read_latency_seconds", device="sda") == pytest.approx(0.005)
    assert np.isnan(value(frame, "host.disk_write_latency_seconds", device="sda"))


async def test_a_disk_that_is_plugged_in_appears_and_the_rest_goes_on(small: Host, trees):
    rates = Rates()
    rates.apply(await small.poll())
    more = (
        DISKSTATS.replace("sda 100", "sda 150")
        + "   8      16 sdb 1 0 8 1 1 0 8 1 0 1 1 0 0 0 0 0 0\n"
    )
    (trees[0] / "diskstats").write_text(more, "ascii")
    await asyncio.sleep(0.06)  # what is read again at once has no rate
    frame = rates.apply(await small.poll())
    assert value(frame, "host.disk_reads_per_second", device="sda") > 0
    assert np.isnan(value(frame, "host.disk_reads_per_second", device="sdb"))


async def test_network_by_interface(small: Host):
    frame = await small.poll()
    interfaces = {
        dict(s.labels)["interface"] for s in frame.series if s.metric == "host.network_up"
    }
    assert interfaces == {"lo", "eth0"}
    assert value(frame, "host.network_received_bytes_total", interface="eth0") == 5000
    assert value(frame, "host.network_sent_packets_total", interface="eth0") == 70
    assert value(frame, "host.network_errors_total", interface="eth0", direction="out") == 3
    assert value(frame, "host.network_drops_total", interface="eth0", direction="in") == 2
    assert value(frame, "host.network_up", interface="eth0") == 0
    assert value(frame, "host.network_up", interface="lo") == 1
    assert value(frame, "host.network_carrier_changes_total", interface="eth0") == 6
    assert np.isnan(value(frame, "host.network_carrier_changes_total", interface="lo"))


async def test_what_only_some_hosts_have_is_in_the_same_frame(small: Host):
    frame = await small.poll()
    assert value(frame, "host.raid_degraded", array="md0") == 0
    assert all_of(frame, "host.network_speed_bytes_per_second") == {"eth0": 1.25e9}
    assert value(frame, "host.memory_errors_total", controller="mc0", type="corrected") == 4


async def test_protocols_are_read_by_name(small: Host):
    frame = await small.poll()
    assert value(frame, "host.tcp_retransmits_total") == 28
    assert value(frame, "host.tcp_resets_total", direction="in") == 24
    assert value(frame, "host.tcp_resets_total", direction="out") == 29
    assert value(frame, "host.tcp_opens_total", type="passive") == 22
    assert value(frame, "host.listen_overflows_total") == 42
    assert value(frame, "host.tcp_events_total", type="timeouts") == 44
    assert value(frame, "host.udp_datagrams_total", type="no_port") == 32
    assert value(frame, "host.ip_packets_total", type="sent") == 15
    assert value(frame, "host.sockets_count", kind="tcp_time_wait") == 2
    assert value(frame, "host.softnet_packets_total", type="processed") == 0x0B + 0xD074
    assert value(frame, "host.softnet_packets_total", type="squeezed") == 3


async def test_a_file_that_can_not_be_read_leaves_its_series_unknown_and_is_told_once(
    small: Host, trees
):
    before = await small.poll()
    (trees[0] / "net/snmp").write_text("garbage\nmore\n", "ascii")
    (trees[0] / "diskstats").write_text("8 0 sda not a number at all here ok\n", "ascii")
    with capture_logs() as logs:
        frame = await small.poll()
        await small.poll()
    assert np.isnan(value(frame, "host.disk_reads_total", device="sda"))
    assert value(frame, "host.memory_bytes", use="free") == 200 * 1024
    assert [entry["section"] for entry in logs] == ["disks"]
    (trees[0] / "diskstats").write_text(DISKSTATS, "ascii")
    with capture_logs() as logs:
        frame = await small.poll()
    assert value(frame, "host.disk_reads_total", device="sda") == 100
    assert [entry["event"] for entry in logs] == ["host_section_back"]
    assert before.source == frame.source == "host"


async def test_without_proc_it_is_unavailable(tmp_path: Path):
    host = Host("host", Host.Config(procfs=tmp_path / "proc", sysfs=tmp_path / "sys"))
    with pytest.raises(Unavailable, match=r"can not read cpu of host:.*is .* mounted and readable"):
        await host.poll()
    host.close()


async def test_a_jump_of_the_wall_clock_is_measured(small: Host, monkeypatch: pytest.MonkeyPatch):
    await small.poll()
    assert abs(value(await small.poll(), "host.time_offset_seconds")) < 0.2
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + 3600.0)
    assert value(await small.poll(), "host.time_offset_seconds") == pytest.approx(3600.0, abs=0.2)
    assert abs(value(await small.poll(), "host.time_offset_seconds")) < 0.2


# ---- mounts


def test_one_mount_for_each_file_system_that_holds_something(tmp_path: Path):
    mounts = Mounts(Aside(1.0), tmp_path / "mountinfo", 5.0, Host.Config().ignore_mounts)
    assert mounts.chosen(MOUNTINFO.encode()) == ["/", "/dev/shm", "/mnt/my share"]


async def test_space_as_df_says_it(small: Host):
    frame = await small.poll()
    stat = os.statvfs("/")
    used, free = (stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_bavail * stat.f_frsize
    assert value(frame, "host.disk_bytes", mount="/", use="free") == pytest.approx(free, rel=0.01)
    full = value(frame, "host.disk_utilization_ratio", mount="/")
    assert full == pytest.approx(used / (used + free), abs=0.01)
    assert value(frame, "host.mount_reachable", mount="/") == 1.0


async def test_a_mount_that_answers_with_an_error_is_unreachable(trees):
    (trees[0] / "self/mountinfo").write_text("22 1 8:1 / /no/such/place rw - ext4 /dev/x rw\n")
    host = Host("host", Host.Config(procfs=trees[0], sysfs=trees[1]))
    frame = await host.poll()
    host.close()
    assert value(frame, "host.mount_reachable", mount="/no/such/place") == 0.0
    assert np.isnan(value(frame, "host.disk_utilization_ratio", mount="/no/such/place"))


class HungMount:
    """A FUSE file system whose server greets the kernel and then never answers."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0".encode()
        if self._libc.mount(b"hung", bytes(point), b"fuse.hung", 0, options) != 0:
            error = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(error, os.strerror(error))
        request = os.read(self._fd, 1 << 17)  # FUSE_INIT, opcode 26
        unique = struct.unpack_from("<Q", request, 8)[0]
        answer = struct.pack("<IIIIHHI", 7, 31, 0, 0, 0, 0, 1 << 12) + bytes(40)
        os.write(self._fd, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)

    def close(self) -> None:
        os.close(self._fd)  # aborts what hangs: the callers get an error
        self._libc.umount2(bytes(self.point), 2)


@pytest.fixture
def hung(tmp_path: Path):
    point = tmp_path / "hung"
    point.mkdir()
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting a file system that hangs needs root and /dev/fuse")
    try:
        mount = HungMount(point)
    except OSError as error:
        pytest.skip(f"mounting is not allowed here: {error}")
    yield mount
    mount.close()


@linux
async def test_a_mount_that_really_hangs_does_not_hang_us(hung: HungMount):
    point = str(hung.point)
    host = Host("host", Host.Config(mounts_every=0.1, mount_timeout=0.3))
    frame = await asyncio.wait_for(host.poll(), 30)
    assert np.isnan(value(frame, "host.disk_utilization_ratio", mount=point))
    await asyncio.sleep(0.5)
    slowest = 0.0
    for _ in range(10):
        start = time.monotonic()
        frame = await host.poll()
        slowest = max(slowest, time.monotonic() - start)
        await asyncio.sleep(0.06)
    assert slowest < 1.0
    assert value(frame, "host.mount_reachable", mount=point) == 0.0
    assert np.isnan(value(frame, "host.disk_bytes", mount=point, use="free"))
    assert value(frame, "host.mount_reachable", mount="/") == 1.0
    assert np.isfinite(value(frame, "host.disk_bytes", mount="/", use="free"))
    assert host._aside.threads <= 2  # one for what hangs, one for the rest
    host.close()


# ---- calls beside the loop


async def test_an_answer_grows_old():
    aside = Aside(5.0)
    aside.ask("x", lambda: 42)
    await aside.settle(5.0)
    answer = aside.answer("x", 5.0)
    assert answer is not None
    assert answer.value == 42
    await asyncio.sleep(0.05)
    assert aside.answer("x", 0.01) is None
    aside.forget("x")
    assert aside.answer("x", 5.0) is None
    aside.close()


async def test_an_error_is_an_answer():
    aside = Aside(5.0)
    aside.ask("x", lambda: 1 / 0)
    await aside.settle(5.0)
    answer = aside.answer("x", 5.0)
    assert answer is not None
    assert isinstance(answer.error, ZeroDivisionError)
    aside.close()


async def test_hung_calls_keep_a_thread_each_and_no_more():
    aside = Aside(0.1)
    release = threading.Event()
    made = []

    def hang() -> str:
        made.append(1)
        release.wait(30)
        return "late"

    for _ in range(5):
        for key in ("a", "b"):
            aside.ask(key, hang)
        aside.ask("good", lambda: "here")
        await asyncio.sleep(0.15)
    await aside.settle(1.0)
    assert aside.overdue("a")
    assert aside.overdue("b")
    assert not aside.overdue("good")
    assert len(made) == 2  # never asked again while the first call hangs
    assert aside.threads == 3
    answer = aside.answer("good", 5.0)
    assert answer is not None
    assert answer.value == "here"
    assert aside.answer("a", 60.0) is None
    release.set()
    await aside.settle(5.0)
    for _ in range(100):
        if aside.threads == 1:
            break
        await asyncio.sleep(0.02)
    assert aside.threads == 1
    late = aside.answer("a", 60.0)
    assert late is not None
    assert late.value == "late"
    aside.close()
    aside.ask("again", lambda: 7)  # closing is no end: it only lets the thread go
    await aside.settle(5.0)
    assert aside.answer("again", 60.0) is not None
    aside.close()


# ---- sensors, containers, other systems


async def test_sensors_are_named_apart(monkeypatch: pytest.MonkeyPatch, trees):
    class Reading:
        def __init__(self, label: str, current: float) -> None:
            self.label, self.current = label, current

    found = [Reading("Core 0", 51.0), Reading("Core 0", 52.0), Reading("", 40.0)]
    fans = {"asus": [Reading("cpu", 1200.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"coretemp": found}, raising=False)
    monkeypatch.setattr(psutil, "sensors_fans", lambda: fans, raising=False)
    clock = trees[1] / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    clock.parent.mkdir(parents=True)
    clock.write_text("2400000\n", "ascii")
    host = Host("host", Host.Config(procfs=trees[0], sysfs=trees[1]))
    frame = await host.poll()
    host.close()
    assert value(frame, "host.temperature_celsius", chip="coretemp", sensor="Core 0") == 51.0
    assert value(frame, "host.temperature_celsius", chip="coretemp", sensor="Core 0 1") == 52.0
    assert value(frame, "host.temperature_celsius", chip="coretemp", sensor="2") == 40.0
    assert value(frame, "host.fan_rpm_count", chip="asus", sensor="cpu") == 1200.0
    assert value(frame, "host.cpu_frequency_hertz", core="0") == 2.4e9


async def test_slow_values_are_kept_between_their_readings(
    small: Host, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    count = _slow.count_users
    monkeypatch.setattr(_slow, "count_users", lambda: asked.append(1) or count())
    for _ in range(5):
        frame = await small.poll()
        assert np.isfinite(value(frame, "host.users_count"))
    assert len(asked) == 1


def read(section: Section) -> dict[str, float]:
    got = section.read()
    return {
        metric + "".join(f" {v}" for _, v in labels): value
        for (metric, labels), value in zip(section.columns, got, strict=True)
    }


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "ascii")


def test_cgroup_v2(tmp_path: Path):
    write(tmp_path, {"cgroup.controllers": "cpu memory\n"})
    own = tmp_path / "kubepods/pod1"
    write(
        own,
        {
            "memory.current": "1000\n",
            "memory.max": "max\n",
            "memory.stat": "anon 500\nactive_file 77\ninactive_file 200\n",
            "memory.events": "low 0\noom 3\noom_kill 2\n",
            "cpu.stat": "usage_usec 5000000\nuser_usec 1\nnr_throttled 4\nthrottled_usec 250000\n",
            "cpu.max": "50000 100000\n",
            "pids.current": "12\n",
            "memory.pressure": "some avg10=0 avg60=0 avg300=0 total=4000000\n",
        },
    )
    # the limit stands at the group above
    above = {
        "memory.current": "3000\n",
        "memory.max": "4000\n",
        "memory.stat": "inactive_file 1000\n",
    }
    write(tmp_path / "kubepods", above)
    got = read(Cgroup(tmp_path, "0::/kubepods/pod1\n"))
    assert got == {
        "host.cgroup_memory_bytes": 800.0,
        "host.cgroup_memory_ratio": 0.5,
        "host.cgroup_cpu_seconds_total": 5.0,
        "host.cgroup_throttled_seconds_total": 0.25,
        "host.cgroup_cpu_limit_count": 0.5,
        "host.cgroup_oom_kills_total": 2.0,
        "host.cgroup_processes_count": 12.0,
    }
    pressure = read(cgroup_pressure(tmp_path, "0::/kubepods/pod1\n"))
    assert pressure == {"host.cgroup_pressure_seconds_total memory some": 4.0}


def test_cgroup_v1(tmp_path: Path):
    # as docker shows it inside: the path of the host is not there, the folder itself is our own
    write(
        tmp_path / "memory",
        {
            "memory.usage_in_bytes": "1000\n",
            "memory.limit_in_bytes": "2000\n",
            "memory.stat": "inactive_file 1\ntotal_inactive_file 400\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    cpu = {
        "cpu.cfs_quota_us": "-1\n",
        "cpu.cfs_period_us": "100000\n",
        "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 3000000000\n",
    }
    write(tmp_path / "cpu", cpu)
    write(tmp_path / "cpuacct", {"cpuacct.usage": "7000000000\n"})
    membership = "4:memory:/docker/abc\n2:cpuacct:/docker/abc\n1:cpu:/docker/abc\n"
    got = read(Cgroup(tmp_path, membership))
    assert got == {
        "host.cgroup_memory_bytes": 600.0,
        "host.cgroup_memory_ratio": 0.3,
        "host.cgroup_cpu_seconds_total": 7.0,
        "host.cgroup_throttled_seconds_total": 3.0,
        "host.cgroup_cpu_limit_count": float(len(os.sched_getaffinity(0))),
        "host.cgroup_oom_kills_total": 1.0,
    }


def test_a_cgroup_without_a_limit_has_no_ratio(tmp_path: Path):
    memory = {
        "memory.usage_in_bytes": "10\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.stat": "total_inactive_file 0\n",
    }
    write(tmp_path / "memory", memory)
    got = read(Cgroup(tmp_path, "4:memory:/\n"))
    assert got == {"host.cgroup_memory_bytes": 10.0}


def test_pressure_that_is_switched_off_has_no_series(tmp_path: Path):
    pressure = Pressure([("cpu", tmp_path / "cpu")], "host.pressure_seconds_total")
    assert read(pressure) == {}


def test_a_container_is_known_by_what_its_engine_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    write(tmp_path / "proc/self", {"cgroup": "0::/user.slice/session-1.scope\n"})
    assert not in_container(tmp_path)
    write(tmp_path / "proc/self", {"cgroup": "0::/kubepods/besteffort/pod1\n"})
    assert in_container(tmp_path)
    write(tmp_path / "proc/self", {"cgroup": "0::/\n"})
    assert not in_container(tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert in_container(tmp_path)


async def test_elsewhere_psutil_tells_less_but_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    host = Host("host", Host.Config())
    first = await host.poll()
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        sum(range(1000))
    frame = await host.poll()
    host.close()
    assert frame.series is first.series
    assert {s.metric for s in frame.series} <= SIGNALS.keys()
    assert list(frame.series) == sorted(frame.series)
    used = psutil.virtual_memory().percent / 100
    assert value(frame, "host.memory_utilization_ratio") == pytest.approx(used, abs=0.05)
    assert 0.0 < value(frame, "host.cpu_busy_ratio") <= 1.0
    assert value(frame, "host.cpu_seconds_total", mode="user") > 0


def test_portable_keeps_its_columns():
    section = Portable()
    section.read()
    columns = section.columns
    section.read()
    assert section.columns is columns


def test_a_file_is_read_whole_and_anew(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 200_000)
    file = ProcFile(path)
    assert len(file.read()) == 200_000
    path.write_bytes(b"short")
    assert file.read() == b"short"
    file.close()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.read()
    with contextlib.closing(file):
        path.write_bytes(b"back")
        assert file.read() == b"back"
