"""The kernel's log: lines as kernels write them through a pipe and a file, a flood, garbage, and this machine's own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.alerts import Alerts
from agent.model import Entity, Frame, Series, Sighting
from agent.ports import Feed, Source
from agent.world import World
from connectors import kernel_log as module
from connectors._kmsg import _RULES, KINDS, Reader
from connectors._proc import this_host
from connectors.kernel_log import KernelLog, _place, gpus

HOST = this_host()

# What kernels 3.10 to 6.12 and drivers write, and what it means: kind and labels.
LINES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Out of memory: Killed process 4711 (python3) total-vm:9123456kB, anon-rss:8123456kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:16384kB oom_score_adj:0", "oom_kill", {"program": "python3"}),
    ("Memory cgroup out of memory: Killed process 99 (a (b) c) total-vm:1kB, anon-rss:1kB", "oom_kill", {"program": "a (b) c"}),
    ("Killed process 2592 (mysqld) total-vm:1153556kB, anon-rss:462504kB, file-rss:0kB", "oom_kill", {"program": "mysqld"}),
    ("Killed process 31, UID 48, (httpd) total-vm:1kB", "oom_kill", {"program": "httpd"}),
    ("Out of memory: Killed process 7 (cut", "oom_kill", {"program": "cut"}),
    ("blk_update_request: I/O error, dev sdb, sector 1953519872 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0", "io_error", {"device": "sdb"}),
    ("I/O error, dev nvme0n1, sector 4096 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2", "io_error", {"device": "nvme0n1"}),
    ("Buffer I/O error on dev dm-3, logical block 12, lost async page write", "io_error", {"device": "dm-3"}),
    ("Buffer I/O error on device sdc1, logical block 0", "io_error", {"device": "sdc1"}),
    ("critical medium error, dev sda, sector 88 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2", "io_error", {"device": "sda"}),
    ("nvme nvme1: I/O 25 (I/O Cmd) QID 7 timeout, aborting", "io_error", {"device": "nvme1"}),
    ("nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0x10", "io_error", {"device": "nvme0"}),
    ("ata3.00: failed command: READ FPDMA QUEUED", "io_error", {"device": "ata3.00"}),
    ("sd 2:0:0:0: [sdc] rejecting I/O to offline device", "io_error", {"device": "sd 2:0:0:0"}),
    ("EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0", "file_system_error", {"device": "sda1"}),
    ("BTRFS error (device dm-1): parent transid verify failed on 1 wanted 2 found 3", "file_system_error", {"device": "dm-1"}),
    ("BTRFS error (device sdb1: state EA): bad tree block start", "file_system_error", {"device": "sdb1"}),
    ("XFS (dm-0): Metadata corruption detected at xfs_agi_verify+0x1/0x2 [xfs], xfs_agi block 0x2", "file_system_error", {"device": "dm-0"}),
    ("FAT-fs (sdd1): error, fat_get_cluster: invalid cluster chain (i_pos 0)", "file_system_error", {"device": "sdd1"}),
    ("EXT4-fs (sda1): Remounting filesystem read-only", "read_only", {"device": "sda1"}),
    ("BTRFS info (device sdb1: state EA): forced readonly", "read_only", {"device": "sdb1"}),
    ("XFS (sdb1): Filesystem has been shut down due to log error (0x2).", "read_only", {"device": "sdb1"}),
    ("md/raid1:md0: Disk failure on sdb1, disabling device.", "raid_degraded", {"device": "md0", "disk": "sdb1"}),
    ("nfs: server nas.example not responding, still trying", "server_silent", {"server": "nas.example"}),
    ("e1000e 0000:00:1f.6 eno1: NIC Link is Down", "link_down", {"interface": "eno1"}),
    ("igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down", "link_down", {"interface": "eth0"}),
    ("mlx5_core 0000:81:00.0 ens1f0np0: Link down", "link_down", {"interface": "ens1f0np0"}),
    ("tg3 0000:03:00.0 eth2: Link is down", "link_down", {"interface": "eth2"}),
    ("bond0: (slave eth1): link status definitely down, disabling slave", "link_down", {"interface": "eth1"}),
    ("bond0: link status definitely down for interface eth1, disabling it", "link_down", {"interface": "eth1"}),
    ("NETDEV WATCHDOG: eth0 (r8169): transmit queue 0 timed out", "transmit_timeout", {"interface": "eth0"}),
    ("r8169 0000:03:00.0 enp3s0: NETDEV WATCHDOG: CPU: 1: transmit queue 0 timed out 5376 ms", "transmit_timeout", {"interface": "enp3s0"}),
    ("nf_conntrack: nf_conntrack: table full, dropping packet", "conntrack_full", {}),
    ("INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds.", "hung_task", {"program": "jbd2/sda1-8"}),
    ("watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [kworker/3:1:2712]", "lockup", {"program": "kworker/3:1"}),
    ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 7", "lockup", {}),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "lockup", {}),
    ("rcu: INFO: rcu_sched self-detected stall on CPU", "lockup", {}),
    ("Kernel panic - not syncing: Fatal exception", "kernel_bug", {}),
    ("BUG: unable to handle page fault for address: ffffffffc0a1b000", "kernel_bug", {}),
    ("BUG: kernel NULL pointer dereference, address: 0000000000000010", "kernel_bug", {}),
    ("kernel BUG at mm/slub.c:4302!", "kernel_bug", {}),
    ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0", "memory_error", {"device": "MC0"}),
    ("Memory failure: 0x3f2a1: recovery action for dirty LRU page: Recovered", "memory_error", {}),
    ("EDAC MC1: 3 CE memory scrubbing error on unknown memory", "memory_corrected", {"device": "MC1"}),
    ("mce: [Hardware Error]: Machine check events logged", "machine_check", {}),
    ("CPU4: Package temperature above threshold, cpu clock throttled (total events = 12)", "cpu_hot", {}),
    ("python3[1234]: segfault at 8 ip 00007f sp 00007ffd error 4 in libc.so.6[7f+1a0000]", "segfault", {"program": "python3"}),
    ("traps: node[77] general protection fault ip:55 sp:7ffe error:0 in node[400000+1]", "segfault", {"program": "node"}),
    ("traps: app[8] trap invalid opcode ip:1 sp:2 error:0 in app[1+2]", "segfault", {"program": "app"}),
    ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "xid", {"bus": "0000:3b:00", "xid": "79"}),
    ("NVRM: Xid (0000:03:00): 13, Graphics SM Warp Exception on (GPC 1, TPC 0)", "xid", {"bus": "0000:03:00", "xid": "13"}),
    ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 44 egress non-posted PRIV error", "nvswitch_error", {"bus": "0000:c1:00.0", "sxid": "12028"}),
)  # fmt: skip
HARMLESS = (
    "EXT4-fs (loop0): mounted filesystem a381ae22 r/w with ordered data mode. Quota mode: none.",
    "EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro",
    "EXT4-fs (sda1): re-mounted 1c1d ro. Quota mode: none.",
    "ata1: SATA link down (SStatus 0 SControl 300)",
    "e1000e 0000:00:1f.6 eno1: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: Rx/Tx",
    "eth0: link becomes ready",
    "mlx5_core 0000:81:00.0 ens1f0np0: Link up",
    "python3 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0",
    "oom_reaper: reaped process 4711 (python3), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
    "nfs: server nas.example OK",
    "EDAC MC0: Giving out device to module skx_edac controller Skylake",
    "mce: CPU supports 20 MCE banks",
    "CPU4: Package temperature/speed normal",
    "nvme nvme0: pci function 0000:01:00.0",
    "md/raid1:md0: active with 2 out of 2 mirrors",
    "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15",
    "Process accounting resumed",
    "",
)


def kmsg(number: int, text: str, *, level: int = 3, at_s: float | None = None) -> bytes:
    at = time.monotonic() if at_s is None else at_s
    return f"{level},{number},{int(at * 1e6)},-;{text}\n SUBSYSTEM=x\n DEVICE=+x:y\n".encode()


class Log:
    """A file that grows, as /dev/kmsg does for who reads on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        path.write_bytes(b"")

    def say(self, *texts: str, level: int = 3, at_s: float | None = None) -> None:
        with self.path.open("ab") as file:
            for text in texts:
                self.number += 1
                file.write(kmsg(self.number, text, level=level, at_s=at_s))


def config(path: Path) -> KernelLog.Config:
    return KernelLog.Config(path=path, in_container=True)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "kmsg")


@pytest.fixture
def source(log: Log):
    made = KernelLog("kernel_log", config(log.path))
    yield made
    made.close()


def value(frame: Frame, metric: str, entity: Entity = HOST, **labels: str) -> float:
    series = Series(metric, entity, tuple(sorted(labels.items())))
    return float(frame.values[frame.series.index(series)])


def seen(frame: Frame) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        s.labels: float(v)
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "host.kernel_event_seen"
    }


def events(frame: Frame) -> dict[str, float]:
    return {
        dict(s.labels)["event"]: float(v)
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == "host.kernel_events_total" and v
    }


# ---- what lines mean


@pytest.mark.parametrize(("text", "kind", "labels"), LINES, ids=[t[:40] for t, _, _ in LINES])
def test_a_line_is_understood(text, kind, labels):
    event = Reader().event(text)
    assert event is not None
    assert (event.kind, dict(event.labels)) == (kind, labels)


@pytest.mark.parametrize("text", HARMLESS)
def test_a_harmless_line_is_no_event(text):
    assert Reader().event(text) is None


def test_every_rule_and_every_kind_has_a_line():
    assert {kind for _, kind, _ in LINES} == set(KINDS) == {kind for kind, _, _ in _RULES}


def test_a_kill_names_the_control_group_of_who_was_killed():
    reader = Reader()
    said = (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=web,mems_allowed=0,oom_memcg=/kubepods/pod1,"
        "task_memcg=/kubepods/pod1/c0ffee,task=python3,pid=4711,uid=0"
    )
    assert reader.event(said) is None
    other = reader.event("Memory cgroup out of memory: Killed process 5 (java) total-vm:1kB")
    mine = reader.event("Memory cgroup out of memory: Killed process 4711 (python3) total-vm:1kB")
    assert other is not None
    assert mine is not None
    assert dict(other.labels) == {"program": "java"}
    assert dict(mine.labels) == {"program": "python3", "cgroup": "/kubepods/pod1/c0ffee"}


def test_kernels_before_5_name_it_in_a_line_of_its_own():
    reader = Reader()
    reader.event("Task in /docker/abc killed as a result of limit of /docker/abc")
    event = reader.event("Killed process 9 (node) total-vm:1kB, anon-rss:1kB")
    assert event is not None
    assert dict(event.labels)["cgroup"] == "/docker/abc"


def test_kills_that_are_never_followed_up_take_no_memory():
    reader = Reader()
    for pid in range(1000):
        reader.event(f"oom-kill:constraint=X,task_memcg=/g{pid},task=x,pid={pid},uid=0")
    assert len(reader._groups) <= 16


def test_names_can_always_be_shown():
    event = Reader().event("evil\x1b[31m\n[1]: segfault at 0 ip 0 sp 0 error 4")
    assert event is None or dict(event.labels)["program"].isprintable()
    event = Reader().event("\x07x[1]: segfault at 0 ip 0 sp 0 error 4")
    assert event is not None
    assert dict(event.labels)["program"] == "?x"


# ---- records


def test_what_programs_write_is_passed_over():
    """Anybody who may write to the log could name a victim: the facility is the kernel's own word for who wrote."""
    text = "Out of memory: Killed process 1 (init) total-vm:1kB"
    assert Reader().records(f"12,1,5,-;{text}\n".encode()) == []
    assert Reader().records(f"30,1,5,-;{text}\n".encode()) == []
    assert len(Reader().records(f"4,1,5,-;{text}\n".encode())) == 1


def test_records_come_whole_however_they_are_cut():
    rng = random.Random(7)
    raw = b"".join(kmsg(i, f"line {i}") for i in range(1, 200))
    reader, found, at = Reader(), [], 0
    while at < len(raw):
        step = rng.randrange(1, 90)
        found += reader.records(raw[at : at + step])
        at += step
    assert [r.text for r in found] == [f"line {i}" for i in range(1, 200)]
    assert all(r.level == 3 for r in found)


def test_garbage_is_no_record_and_is_not_kept():
    rng = random.Random(3)
    reader = Reader()
    for _ in range(50):
        reader.records(rng.randbytes(8192).replace(b"\n", b""))
    assert len(reader._rest) <= 1 << 16
    reader = Reader()
    for junk in (b"\n;\n;;;\n,,,;x\n3,a,b,-;x\n-3,1,1,-;x\n3,1;x\n", rng.randbytes(4096) + b"\n"):
        assert reader.records(junk) == []
    assert [r.text for r in reader.records(kmsg(1, "well"))] == ["well"]


def test_a_very_long_message_is_cut():
    (record,) = Reader().records(kmsg(1, "x" * 50_000))
    assert len(record.text) == 1000


def test_a_number_that_was_seen_is_not_told_again():
    reader = Reader()
    assert len(reader.records(kmsg(1, "a") + kmsg(2, "b"))) == 2
    assert [r.text for r in reader.records(kmsg(1, "a") + kmsg(2, "b") + kmsg(3, "c"))] == ["c"]


# ---- the source


async def test_it_counts_and_shows_what_was_told(source: KernelLog, log: Log):
    assert isinstance(source, Source)
    assert isinstance(source, Feed)
    before = await source.poll()
    assert value(before, "host.kernel_events_total", event="oom_kill") == 0.0
    assert (await source.poll()).series is before.series
    log.say("EXT4-fs error (device sda1): x: y", "EXT4-fs (sda1): Remounting filesystem read-only")
    log.say("python3[12]: segfault at 8 ip 0 sp 0 error 4", "hello", level=6)
    frame = await source.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert events(frame) == {"file_system_error": 1.0, "read_only": 1.0, "segfault": 1.0}
    assert value(frame, "host.kernel_messages_total", level="error") == 2.0
    assert value(frame, "host.kernel_messages_total", level="info") == 2.0
    assert value(frame, "host.kernel_event_seen", event="read_only", device="sda1") == 1.0
    assert value(frame, "host.kernel_event_seen", event="segfault", program="python3") == 1.0


async def test_what_is_grave_is_a_signal_once_until_it_is_over(
    source: KernelLog, log: Log, monkeypatch
):
    await source.poll()
    kill = "Out of memory: Killed process 7 (java) total-vm:1kB, anon-rss:1kB"
    log.say(kill, "eth0: Link is Down", "x[1]: segfault at 0")
    await source.poll()
    (told,) = await source.read()
    assert (told.firing, told.source, told.name) == (True, "kernel_log", "kernel oom_kill java")
    assert dict(told.labels) == {"host": HOST.key, "program": "java"}
    assert kill in told.text
    log.say(kill.replace(" 7 ", " 8 "))
    frame = await source.poll()
    assert await source.read() == []
    assert events(frame)["oom_kill"] == 2.0
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 601)
    frame = await source.poll()
    assert value(frame, "host.kernel_event_seen", event="oom_kill", program="java") == 0.0
    (over,) = await source.read()
    assert (over.firing, over.name, over.labels) == (False, told.name, told.labels)
    log.say(kill)
    await source.poll()
    assert [s.firing for s in await source.read()] == [True]
    monkeypatch.setattr(module.time, "time", lambda: now + 601 + 3700)
    assert seen(await source.poll()) == {}


async def test_a_signal_is_an_anomaly_of_the_host_it_names(source: KernelLog, log: Log):
    world = World()
    world.trusts["kernel_log"] = "local"
    world.topology.take(Sighting(HOST), "host", 1.0)
    await source.poll()
    log.say("md/raid1:md0: Disk failure on sdb1, disabling device.")
    await source.poll()
    (anomaly,) = Alerts().take(time.time(), await source.read(), world)
    assert anomaly.series.entity == HOST
    assert anomaly.road == "objective"
    assert not anomaly.harm
    assert "md0" in anomaly.family


async def test_what_was_said_just_before_the_start_counts_what_is_old_does_not(log: Log):
    now = time.monotonic()
    log.say("Out of memory: Killed process 7 (old) total-vm:1kB", at_s=now - 4000)
    log.say("Out of memory: Killed process 8 (new) total-vm:1kB", at_s=now - 30)
    source = KernelLog("kernel_log", config(log.path))
    try:
        frame = await source.poll()
        assert [dict(k)["program"] for k in seen(frame)] == ["new"]
        (told,) = await source.read()
        assert told.ts == pytest.approx(time.time() - 30, abs=5)
    finally:
        source.close()


async def test_a_flood_is_read_in_pieces_and_keeps_little(log: Log, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 10)
    log.say(*(f"Out of memory: Killed process {i} (p{i}) total-vm:1kB" for i in range(5000)))
    source = KernelLog("kernel_log", config(log.path))
    try:
        first = events(await source.poll())["oom_kill"]
        assert 0 < first < 5000
        for _ in range(20):
            frame = await source.poll()
        assert events(frame)["oom_kill"] == 5000
        assert len(seen(frame)) == 64
        assert value(frame, "host.kernel_event_seen", event="oom_kill", program="p4999") == 1.0
        told = await source.read()
        assert sum(s.firing for s in told) - sum(not s.firing for s in told) == 64
    finally:
        source.close()


async def test_a_pipe_stands_in_for_the_log(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    source = KernelLog("kernel_log", config(tmp_path / "pipe"))
    try:
        assert events(await source.poll()) == {}
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(kmsg(1, "EXT4-fs error (device sda1): a: b")[:30])
            assert events(await source.poll()) == {}
            pipe.write(kmsg(1, "EXT4-fs error (device sda1): a: b")[30:])
            assert events(await source.poll()) == {"file_system_error": 1.0}
    finally:
        source.close()


async def test_records_that_the_kernel_overwrote_are_counted_as_lost(
    source: KernelLog, log: Log, monkeypatch
):
    await source.poll()
    real, failed = os.read, []

    def read(fd: int, n: int) -> bytes:
        if fd == source._fd and not failed:
            failed.append(fd)
            raise BrokenPipeError(32, "Broken pipe")
        return real(fd, n)

    monkeypatch.setattr(module.os, "read", read)
    log.say("md/raid1:md0: Disk failure on sdb1, disabling device.")
    assert events(await source.poll()) == {"lost": 1.0, "raid_degraded": 1.0}


async def test_a_log_that_can_not_be_read_is_silent_and_says_what_is_missing(tmp_path: Path):
    source = KernelLog("kernel_log", config(tmp_path / "no" / "kmsg"))
    with capture_logs() as logs:
        frame = await source.poll()
        assert (await source.poll()).series == ()
        words = await source.describe()
    assert frame.series == ()
    assert [entry["event"] for entry in logs] == ["kernel_log_closed"]
    assert "CAP_SYSLOG" in words[0]
    assert "homeostat install" in words[0]


async def test_in_a_container_it_is_only_read_where_a_person_says_so(log: Log, monkeypatch):
    log.say("Out of memory: Killed process 7 (neighbour) total-vm:1kB")
    source = KernelLog("kernel_log", KernelLog.Config(path=log.path))
    monkeypatch.setattr(module, "in_container", lambda: True)
    assert (await source.poll()).series == ()
    assert await source.read() == []
    assert "in_container: true" in (await source.describe())[0]
    monkeypatch.setattr(module, "in_container", lambda: False)
    assert events(await source.poll()) == {"oom_kill": 1.0}
    source.close()


async def test_it_is_read_once_it_may_be(tmp_path: Path):
    source = KernelLog("kernel_log", config(tmp_path / "kmsg"))
    assert (await source.poll()).series == ()
    log = Log(tmp_path / "kmsg")
    log.say("kernel BUG at mm/slub.c:1!")
    assert events(await source.poll()) == {"kernel_bug": 1.0}
    source.close()


# ---- GPUs


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    for place, uuid in (("0000:3b:00.0", "GPU-1"), ("0000:af:00.0", "GPU-2")):
        folder = tmp_path / "gpus" / place
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 312\nGPU UUID: \t {uuid}\n"
        )
    return tmp_path / "gpus"


def test_a_gpu_is_known_by_its_place_on_the_bus(driver: Path):
    found = gpus(driver)
    assert found[_place("0000:af:00")] == Entity("gpu", "GPU-2")
    assert found[_place("00000000:3B:00.0")] == Entity("gpu", "GPU-1")
    assert _place("0000:01:00") not in found
    assert _place("nonsense") not in found
    assert gpus(driver / "gone") == {}


async def test_an_xid_is_told_of_its_gpu_with_the_signal_that_nvml_has_for_it(
    source, log, driver, monkeypatch
):
    monkeypatch.setattr(module, "_DRIVER", driver)
    await source.poll()
    # the driver may be gone by now: it was asked at the start
    monkeypatch.setattr(module, "_DRIVER", driver / "gone")
    log.say("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.")
    log.say("NVRM: Xid (PCI:0000:99:00): 48, pid=1, DBE")
    frame = await source.poll()
    assert value(frame, "gpu.xid_seen", Entity("gpu", "GPU-1"), xid="79") == 1.0
    assert [s.entity.key for s in frame.series if s.metric == "gpu.xid_seen"] == ["GPU-1"]
    one, other = await source.read()
    assert dict(one.labels)["gpu"] == "GPU-1"
    assert dict(other.labels)["host"] == HOST.key


# ---- this machine


def _tells_of_crashes() -> bool:
    shows = Path("/proc/sys/debug/exception-trace")
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
        return shows.read_text().strip() != "0"
    except OSError:
        return False


@pytest.mark.skipif(
    not _tells_of_crashes(), reason="takes CAP_SYSLOG, /dev/kmsg, a kernel that shows crashes"
)
async def test_the_log_of_this_machine_tells_of_a_real_crash():
    source = KernelLog("kernel_log", config(Path("/dev/kmsg")))
    try:
        while not source._caught_up:
            await source.poll()
        before = source._counts["segfault"]
        code = "import ctypes; ctypes.string_at(0)"
        child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", code)
        assert await child.wait() == -signal.SIGSEGV
        end = time.monotonic() + 10
        while source._counts["segfault"] == before and time.monotonic() < end:
            await asyncio.sleep(0.02)
            frame = await source.poll()
        assert source._counts["segfault"] > before
        assert any(dict(k)["event"] == "segfault" for k in seen(frame))
    finally:
        source.close()
