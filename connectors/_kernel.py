"""What the Linux kernel tells about a host, one class a file of /proc or /sys.

A section has `columns` (metric and labels) and reads one value for each. When devices come or go it puts a *new*
list in place of `columns`: that is how the connector sees that its table must be built anew. Parsing is by hand and
by position; positions are looked up by name once and checked on every reading, so a kernel that changes a file
under us is noticed. Formats: proc(5), Documentation/filesystems/proc.rst and Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from connectors._proc import HERTZ, PAGE_BYTES, ProcFile

Column = tuple[str, tuple[tuple[str, str], ...]]
NAN: Final = math.nan


def column(metric: str, **labels: str) -> Column:
    """Return a column of the host: `column("host.memory_bytes", use="free")`."""
    return metric, tuple(sorted(labels.items()))


class Section:
    """Some columns and the way to read them now."""

    def __init__(self) -> None:
        self.columns: list[Column] = []

    def read(self) -> list[float]:
        """Return a value for each of `columns`, which it may replace first. Raises OSError or ValueError."""
        raise NotImplementedError


class Cpu(Section):
    """/proc/stat: cores by mode, interrupts, switches, forks.

    The total is divided by the number of cores, so its rates are shares. Cores by mode only up to `detailed` cores.
    """

    MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    SOFTIRQS: Final = (
        "hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu",
    )  # fmt: skip

    def __init__(self, proc: Path, detailed: int) -> None:
        super().__init__()
        self._file = ProcFile(proc / "stat")
        self._detailed = detailed
        self._names: list[bytes] = []
        self._before: tuple[int, int] | None = None

    @property
    def cores(self) -> int:
        """How many cores are on line."""
        return max(1, len(self._names) - 1)

    def read(self) -> list[float]:
        head, _, tail = self._file.read().partition(b"\nintr ")
        rows = [line.split() for line in head.split(b"\n")]
        names = [row[0] for row in rows]
        if names != self._names:
            self._names, self._before = names, None
            self._lay_out()
        per_core = self._detailed >= self.cores
        out: list[float] = []
        modes: list[float] = []
        for i, row in enumerate(rows):
            ticks = [int(t) for t in row[1:11]] + [0] * (
                11 - len(row)
            )  # old kernels tell fewer modes
            total = sum(ticks[:8])  # guests are counted in user and nice already
            busy = total - ticks[3] - ticks[4]
            if i == 0:
                out.append(self._busy_share(busy, total))
                guest = ticks[8] + ticks[9]
                apart = [ticks[0] - ticks[8], ticks[1] - ticks[9], *ticks[2:8], guest]
                out += [t / HERTZ / self.cores for t in apart]
            else:
                out.append(busy / HERTZ)
                if per_core:
                    modes += [t / HERTZ for t in ticks[:8]]
        out += modes
        rest = tail[tail.index(b"\nctxt ") :].split()
        fact = dict(zip(rest[0:10:2], rest[1:10:2], strict=True))
        out += [
            float(tail[: tail.index(b" ")]),
            float(fact[b"ctxt"]),
            float(fact[b"processes"]),
            float(fact[b"procs_running"]),
            float(fact[b"procs_blocked"]),
        ]
        softirqs = rest[rest.index(b"softirq") + 2 :]
        out += [float(n) for n in softirqs[: len(self.SOFTIRQS)]]
        return out

    def _busy_share(self, busy: int, total: int) -> float:
        before, self._before = self._before, (busy, total)
        if before is None or total <= before[1]:
            return NAN
        return min(1.0, max(0.0, (busy - before[0]) / (total - before[1])))

    def _lay_out(self) -> None:
        cores = [name[3:].decode("ascii") for name in self._names[1:]]
        new = [column("host.cpu_busy_ratio")]
        new += [column("host.cpu_seconds_total", mode=mode) for mode in (*self.MODES, "guest")]
        new += [column("host.core_seconds_total", core=core) for core in cores]
        if len(cores) <= self._detailed:
            new += [
                column("host.core_mode_seconds_total", core=core, mode=mode)
                for core in cores
                for mode in self.MODES
            ]
        new += [
            column("host.interrupts_total"),
            column("host.context_switches_total"),
            column("host.forks_total"),
            column("host.processes_count", state="running"),
            column("host.processes_count", state="blocked"),
        ]
        new += [column("host.softirqs_total", type=kind) for kind in self.SOFTIRQS]
        self.columns = new


class Load(Section):
    """/proc/loadavg, uptime and what the clocks say of each other."""

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._load = ProcFile(proc / "loadavg")
        # whichever is lower ends the making of threads
        self._most = [ProcFile(proc / "sys/kernel" / name) for name in ("threads-max", "pid_max")]
        self._offset: float | None = None
        self.columns = [
            column("host.load1_count"),
            column("host.load5_count"),
            column("host.load15_count"),
            column("host.threads_count"),
            column("host.threads_ratio"),
            column("host.uptime_seconds"),
            column("host.time_offset_seconds"),
        ]

    def read(self) -> list[float]:
        one, five, fifteen, tasks, _ = self._load.read().split()
        # boot time goes on while the machine sleeps, so waking up is no jump
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        offset = time.time() - up
        before, self._offset = self._offset, offset
        jump = NAN if before is None else offset - before
        threads = float(tasks.partition(b"/")[2])
        try:
            share = threads / min(int(file.read()) for file in self._most)
        except OSError:
            share = NAN
        return [float(one), float(five), float(fifteen), threads, share, up, jump]


Wanted = tuple[Column, tuple[str, ...], float]
"""A column, the names whose values are summed for it (those with a minus are taken off), and a factor."""


class _Fields:
    """The wanted ones of a file of names and values: looked up by name once, then read by position.

    Names that this kernel lacks are left out of the sum; a column without any, or without one of those that are to
    be taken off, is left out.
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.columns: list[Column] = []
        self._wanted = wanted
        self._places: list[tuple[list[tuple[int, bytes, int]], float]] = []

    def pick(self, tokens: list[bytes]) -> list[float]:
        """Return a value for each of `columns` out of the tokens of the file."""
        try:
            if self._places:
                return self._sums(tokens)
        except LookupError:
            pass  # the kernel has changed the file: look the names up again
        where = {name: i + 1 for i, name in enumerate(tokens)}
        self._places, columns = [], []
        for col, names, by in self._wanted:
            plus = [(n.encode(), 1) for n in names if n[0] != "-" and n.encode() in where]
            minus = [(n[1:].encode(), -1) for n in names if n[0] == "-"]
            if plus and all(n in where for n, _ in minus):
                self._places.append(([(where[n], n, sign) for n, sign in plus + minus], by))
                columns.append(col)
        if columns != self.columns:
            self.columns = columns
        return self._sums(tokens)

    def _sums(self, tokens: list[bytes]) -> list[float]:
        out = []
        for places, by in self._places:
            total = 0
            for i, name, sign in places:
                if tokens[i - 1] != name:
                    raise LookupError(name)
                total += sign * int(tokens[i])
            out.append(total * by)
        return out


def _memory() -> list[Wanted]:
    uses = {
        "MemTotal": "total", "Committed_AS": "committed", "CommitLimit": "commit_limit",
        "MemFree": "free", "MemAvailable": "available", "Buffers": "buffers", "Cached": "cached",
        "Active": "active", "Active(anon)": "active_anon", "Active(file)": "active_file",
        "Inactive": "inactive", "Inactive(anon)": "inactive_anon", "Inactive(file)": "inactive_file",
        "Unevictable": "unevictable", "Mlocked": "locked", "Dirty": "dirty", "Writeback": "writeback",
        "AnonPages": "anon", "Mapped": "mapped", "Shmem": "shared", "Slab": "slab",
        "SReclaimable": "slab_reclaimable", "SUnreclaim": "slab_unreclaimable",
        "KernelStack": "kernel_stacks", "PageTables": "page_tables", "VmallocUsed": "vmalloc",
        "Percpu": "per_cpu", "AnonHugePages": "huge_anon", "Hugetlb": "huge_pool",
        "HardwareCorrupted": "corrupted",
    }  # fmt: skip
    return [
        (column("host.memory_bytes", use="used"), ("MemTotal:", "-MemAvailable:"), 1024.0),
        *((column("host.memory_bytes", use=use), (f"{n}:",), 1024.0) for n, use in uses.items()),
    ]


class Memory(Section):
    """/proc/meminfo. *Used* is what is not available; swap only where there is some."""

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._file = ProcFile(proc / "meminfo")
        self._fields = _Fields(_memory())
        swap = "host.swap_bytes"
        self._swap = _Fields(
            [
                (column(swap, use="total"), ("SwapTotal:",), 1024.0),
                (column(swap, use="used"), ("SwapTotal:", "-SwapFree:"), 1024.0),
                (column(swap, use="free"), ("SwapFree:",), 1024.0),
                (column(swap, use="cached"), ("SwapCached:",), 1024.0),
            ]
        )

    def read(self) -> list[float]:
        tokens = self._file.read().split()
        out = self._fields.pick(tokens)
        used, total, committed, most = out[:4]  # in every kernel since 3.14
        out += [used / total, committed / most if most else NAN]
        columns = [
            *self._fields.columns,
            column("host.memory_utilization_ratio"),
            column("host.memory_commit_ratio"),
        ]
        swap = self._swap.pick(tokens)
        if swap and swap[0] > 0:
            out += [*swap, swap[1] / swap[0]]
            columns += [*self._swap.columns, column("host.swap_utilization_ratio")]
        if columns != self.columns:
            self.columns = columns
        return out


class Paging(Section):
    """/proc/vmstat: faults, pages moved, what the kernel does for want of memory. Sums where it counts by zone."""

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._file = ProcFile(proc / "vmstat")
        pages, reclaim = "host.pages_total", "host.reclaim_pages_total"
        stalls, huge = "host.allocation_stalls_total", "host.huge_pages_total"
        zones = [f"allocstall_{zone}" for zone in ("dma", "dma32", "normal", "movable", "device")]
        kib = 1024 / PAGE_BYTES  # pgpgin and pgpgout are in KiB, whatever their names say
        self._fields = _Fields(
            [
                (column("host.page_faults_total", type="major"), ("pgmajfault",), 1),
                (column("host.page_faults_total", type="minor"), ("pgfault", "-pgmajfault"), 1),
                (column(pages, direction="in"), ("pgpgin",), kib),
                (column(pages, direction="out"), ("pgpgout",), kib),
                (column(pages, direction="swap_in"), ("pswpin",), 1),
                (column(pages, direction="swap_out"), ("pswpout",), 1),
                (column(pages, direction="dirtied"), ("nr_dirtied",), 1),
                (column(pages, direction="written_back"), ("nr_written",), 1),
                (column("host.oom_kills_total"), ("oom_kill",), 1),
                (column(reclaim, type="scanned", who="background"), ("pgscan_kswapd",), 1),
                (column(reclaim, type="scanned", who="direct"), ("pgscan_direct",), 1),
                (column(reclaim, type="stolen", who="background"), ("pgsteal_kswapd",), 1),
                (column(reclaim, type="stolen", who="direct"), ("pgsteal_direct",), 1),
                (column("host.refaults_total", type="anon"), ("workingset_refault_anon",), 1),
                (
                    column("host.refaults_total", type="file"),
                    ("workingset_refault_file", "workingset_refault"),
                    1,
                ),
                (column(stalls, type="reclaim"), ("allocstall", *zones), 1),
                (column(stalls, type="compaction"), ("compact_stall",), 1),
                (column(pages, direction="freed"), ("pgfree",), 1),
                (column(pages, direction="activated"), ("pgactivate",), 1),
                (column(pages, direction="deactivated"), ("pgdeactivate",), 1),
                (column(huge, type="allocated"), ("thp_fault_alloc",), 1),
                (column(huge, type="fell_back"), ("thp_fault_fallback",), 1),
                (column(huge, type="collapsed"), ("thp_collapse_alloc",), 1),
                (column(huge, type="split"), ("thp_split_page",), 1),
                (column("host.numa_pages_total", type="hit"), ("numa_hit",), 1),
                (column("host.numa_pages_total", type="miss"), ("numa_miss",), 1),
            ]
        )  # fmt: skip

    def read(self) -> list[float]:
        out = self._fields.pick(self._file.read().split())
        self.columns = self._fields.columns
        return out


class Pressure(Section):
    """Pressure stall information of the host (/proc/pressure) or of a cgroup (`cpu.pressure` and its siblings)."""

    def __init__(self, files: Iterable[tuple[str, Path]], metric: str) -> None:
        super().__init__()
        self._files = [(resource, ProcFile(path)) for resource, path in files]
        self._metric = metric

    def read(self) -> list[float]:
        out: list[float] = []
        columns: list[Column] = []
        for resource, file in self._files:
            try:
                data = file.read()
            except OSError:  # a kernel without PSI, or with it switched off, answers EOPNOTSUPP
                continue
            for line in data.splitlines():
                who, _, rest = line.partition(b" ")
                out.append(int(rest[rest.rindex(b"total=") + 6 :]) * 1e-6)
                columns.append(column(self._metric, resource=resource, who=who.decode("ascii")))
        if columns != self.columns:
            self.columns = columns
        return out


class Limits(Section):
    """Files, entropy and tracked connections, each against its limit where it has one."""

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._files = ProcFile(proc / "sys/fs/file-nr")
        wanted = (
            (column("host.entropy_count"), "sys/kernel/random/entropy_avail"),
            (column("host.inodes_count"), "sys/fs/inode-nr"),
            (column("host.dentries_count"), "sys/fs/dentry-state"),
            (column("host.conntrack_count"), "sys/net/netfilter/nf_conntrack_count"),
        )
        self._counts = [(col, ProcFile(proc / path)) for col, path in wanted if (proc / path).exists()]  # fmt: skip
        self._conntrack_max = ProcFile(proc / "sys/net/netfilter/nf_conntrack_max")
        self.columns = [
            column("host.file_descriptors_count"),
            column("host.file_descriptors_ratio"),
            *(col for col, _ in self._counts),
        ]
        self._tracks = (proc / wanted[-1][1]).exists()
        if self._tracks:
            self.columns.append(column("host.conntrack_ratio"))

    def read(self) -> list[float]:
        used, free, limit = (int(t) for t in self._files.read().split())
        out = [float(used - free), (used - free) / limit if limit else NAN]
        out += [float(file.read().split(None, 1)[0]) for _, file in self._counts]
        if self._tracks:
            limit = int(self._conntrack_max.read())
            out.append(out[-1] / limit if limit else NAN)
        return out


class Disks(Section):
    """/proc/diskstats of whole disks. Loop, RAM and zram devices only once they have been used.

    Latencies are the time of the requests that ended since the last reading; NaN when none did.
    """

    METRICS: Final = (
        "host.disk_reads_total", "host.disk_read_bytes_total",
        "host.disk_writes_total", "host.disk_written_bytes_total",
        "host.disk_in_flight_count", "host.disk_busy_seconds_total", "host.disk_queue_seconds_total",
        "host.disk_read_latency_seconds", "host.disk_write_latency_seconds",
        "host.disk_discarded_bytes_total", "host.disk_flushes_total", "host.disk_flush_latency_seconds",
    )  # fmt: skip
    _SECTOR_BYTES: Final = 512  # of this file, whatever the disk's own are

    def __init__(self, proc: Path, sys: Path, ignore: Sequence[str]) -> None:
        super().__init__()
        self._file = ProcFile(proc / "diskstats")
        self._sys = sys
        self._ignore = ignore
        self._is_disk: dict[bytes, bool] = {}
        self._before: dict[bytes, tuple[int, ...]] = {}
        self._shown: list[bytes] = []

    def read(self) -> list[float]:
        out: list[float] = []
        shown: list[bytes] = []
        before: dict[bytes, tuple[int, ...]] = {}
        for line in self._file.read().splitlines():
            token = line.split()
            name = token[2]
            if not self._wanted(name):
                continue
            reads, read_ms, writes, write_ms = int(token[3]), int(token[6]), int(token[7]), int(token[10])  # fmt: skip
            if name.startswith((b"loop", b"ram", b"zram")) and not reads and not writes:
                continue
            shown.append(name)
            # Linux 4.18 began to count discards, 5.5 flushes
            discarded = int(token[16]) if len(token) > 16 else 0
            flushes, flush_ms = (int(token[18]), int(token[19])) if len(token) > 19 else (0, 0)
            before[name] = now = (reads, read_ms, writes, write_ms, flushes, flush_ms)
            then = self._before.get(name, now)
            out += [
                float(reads),
                float(int(token[5]) * self._SECTOR_BYTES),
                float(writes),
                float(int(token[9]) * self._SECTOR_BYTES),
                float(token[11]),
                int(token[12]) * 1e-3,
                int(token[13]) * 1e-3,
                _mean_s(now[1] - then[1], reads - then[0]),
                _mean_s(now[3] - then[3], writes - then[2]),
                float(discarded * self._SECTOR_BYTES),
                float(flushes),
                _mean_s(now[5] - then[5], flushes - then[4]),
            ]
        self._before = before
        if shown != self._shown:
            self._shown = shown
            self.columns = [
                column(metric, device=name.decode("utf-8", "replace"))
                for name in shown
                for metric in self.METRICS
            ]
        return out

    def _wanted(self, name: bytes) -> bool:
        known = self._is_disk.get(name)
        if known is None:
            if len(self._is_disk) > 4096:  # devices that came and went
                self._is_disk.clear()
            text = name.decode("utf-8", "replace")
            # slashes in device names are exclamation marks in /sys
            block = self._sys / "class/block" / text.replace("/", "!")
            known = not (block / "partition").exists() and not _matches(text, self._ignore)
            self._is_disk[name] = known
        return known


def _mean_s(milliseconds: int, requests: int) -> float:
    return milliseconds * 1e-3 / requests if requests > 0 and milliseconds >= 0 else NAN


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


class Network(Section):
    """/proc/net/dev and the state of each interface."""

    def __init__(self, net: Path, sys: Path, ignore: Sequence[str]) -> None:
        super().__init__()
        self._file = ProcFile(net / "dev")
        self._sys = sys
        self._ignore = ignore
        self._names: list[bytes] = []
        self._states: list[tuple[ProcFile, ProcFile] | None] = []

    def read(self) -> list[float]:
        rows = [line.split(b":", 1) for line in self._file.read().splitlines()[2:]]
        names = [row[0].strip() for row in rows]
        if names != self._names:
            self._lay_out(names)
        out: list[float] = []
        for (_, counts), state in zip(rows, self._states, strict=True):
            if state is None:
                continue
            n = counts.split()
            out += [float(n[i]) for i in (0, 8, 1, 9, 2, 10, 3, 11)]
            out += self._link(*state)
        return out

    @staticmethod
    def _link(state: ProcFile, changes: ProcFile) -> tuple[float, float]:
        up = changed = NAN
        with contextlib.suppress(OSError):
            # loopback and tunnels have no carrier to look at: the kernel says unknown
            up = float(state.read().strip() in {b"up", b"unknown"})
        with contextlib.suppress(OSError, ValueError):
            changed = float(changes.read())
        return up, changed

    def _lay_out(self, names: list[bytes]) -> None:
        for state in self._states:
            for file in state or ():
                file.close()
        self._names, self._states = names, []
        columns: list[Column] = []
        for raw in names:
            name = raw.decode("utf-8", "replace")
            if _matches(name, self._ignore):
                self._states.append(None)
                continue
            folder = self._sys / "class/net" / name
            self._states.append(
                (ProcFile(folder / "operstate"), ProcFile(folder / "carrier_changes"))
            )
            columns += [
                column("host.network_received_bytes_total", interface=name),
                column("host.network_sent_bytes_total", interface=name),
                column("host.network_received_packets_total", interface=name),
                column("host.network_sent_packets_total", interface=name),
                column("host.network_errors_total", interface=name, direction="in"),
                column("host.network_errors_total", interface=name, direction="out"),
                column("host.network_drops_total", interface=name, direction="in"),
                column("host.network_drops_total", interface=name, direction="out"),
                column("host.network_up", interface=name),
                column("host.network_carrier_changes_total", interface=name),
            ]
        self.columns = columns


class Protocols(Section):
    """/proc/net/snmp and /proc/net/netstat: pairs of lines, names above values."""

    _EVENTS: Final = {
        "TCPTimeouts": "timeouts", "TCPSynRetrans": "syn_retransmits", "TCPFastRetrans": "fast_retransmits",
        "TCPLostRetransmit": "lost_retransmits", "TCPLossProbes": "loss_probes", "TCPBacklogDrop": "backlog_drops",
        "TCPAbortOnData": "aborts_on_data", "TCPAbortOnMemory": "aborts_on_memory",
        "TCPAbortOnTimeout": "aborts_on_timeout", "TCPMemoryPressures": "memory_pressures",
        "TCPReqQFullDrop": "request_queue_drops", "TCPTimeWaitOverflow": "time_wait_overflows",
        "SyncookiesSent": "syn_cookies", "PruneCalled": "prunes", "TCPOFOQueue": "out_of_order",
        "TCPToZeroWindowAdv": "zero_windows", "TCPZeroWindowDrop": "zero_window_drops", "ListenDrops": "listen_drops",
        "TCPRcvCollapsed": "receive_queue_collapses", "TCPRcvQDrop": "receive_queue_drops",
        "TCPKeepAlive": "keep_alives", "TCPSpuriousRTOs": "spurious_timeouts", "TCPSACKReorder": "reorderings",
        "EmbryonicRsts": "embryonic_resets", "TCPAbortOnClose": "aborts_on_close", "DelayedACKs": "delayed_acks",
    }  # fmt: skip

    def __init__(self, net: Path) -> None:
        super().__init__()
        tcp, udp = "host.tcp_", "host.udp_datagrams_total"
        ip, icmp = "host.ip_packets_total", "host.icmp_messages_total"
        snmp = {
            "Tcp": {
                "InSegs": column(tcp + "segments_total", direction="in"),
                "OutSegs": column(tcp + "segments_total", direction="out"),
                "RetransSegs": column(tcp + "retransmits_total"),
                "EstabResets": column(tcp + "resets_total", direction="in"),
                "OutRsts": column(tcp + "resets_total", direction="out"),
                "ActiveOpens": column(tcp + "opens_total", type="active"),
                "PassiveOpens": column(tcp + "opens_total", type="passive"),
                "AttemptFails": column(tcp + "opens_total", type="failed"),
                "CurrEstab": column(tcp + "established_count"),
            },
            "Udp": {
                "InDatagrams": column(udp, type="in"),
                "OutDatagrams": column(udp, type="out"),
                "NoPorts": column(udp, type="no_port"),
                "InErrors": column(udp, type="in_errors"),
                "RcvbufErrors": column(udp, type="receive_buffer_full"),
                "SndbufErrors": column(udp, type="send_buffer_full"),
            },
            "Ip": {
                "InReceives": column(ip, type="received"),
                "InDelivers": column(ip, type="delivered"),
                "OutRequests": column(ip, type="sent"),
                "ForwDatagrams": column(ip, type="forwarded"),
                "InDiscards": column(ip, type="in_discards"),
                "OutDiscards": column(ip, type="out_discards"),
                "OutNoRoutes": column(ip, type="no_route"),
                "ReasmFails": column(ip, type="reassembly_failed"),
            },
            "Icmp": {
                "InMsgs": column(icmp, type="in"),
                "OutMsgs": column(icmp, type="out"),
                "InErrors": column(icmp, type="in_errors"),
                "InDestUnreachs": column(icmp, type="in_unreachable"),
                "OutDestUnreachs": column(icmp, type="out_unreachable"),
            },
        }
        netstat = {
            "TcpExt": {
                "ListenOverflows": column("host.listen_overflows_total"),
                **{k: column(tcp + "events_total", type=v) for k, v in self._EVENTS.items()},
            }
        }
        self._files = [(ProcFile(net / "snmp"), snmp), (ProcFile(net / "netstat"), netstat)]
        self._heads: list[bytes] = []
        self._picks: list[list[int]] = []

    def read(self) -> list[float]:
        out: list[float] = []
        heads: list[bytes] = []
        rows: list[bytes] = []
        for file, wanted in self._files:
            lines = file.read().split(b"\n")
            for head, row in zip(lines[0::2], lines[1::2], strict=False):
                if head[: head.find(b":")].decode("ascii", "replace") in wanted:
                    heads.append(head)
                    rows.append(row)
        if heads != self._heads:
            self._lay_out(heads)
        for row, pick in zip(rows, self._picks, strict=True):
            n = row.split()
            out += [float(n[i]) for i in pick]
        return out

    def _lay_out(self, heads: list[bytes]) -> None:
        self._heads, self._picks = heads, []
        columns: list[Column] = []
        wanted = {name: fields for _, known in self._files for name, fields in known.items()}
        for head in heads:
            group, *names = head.decode("ascii").split()
            fields = wanted[group.rstrip(":")]
            self._picks.append([i for i, name in enumerate(names, 1) if name in fields])
            columns += [fields[name] for name in names if name in fields]
        self.columns = columns


class Sockets(Section):
    """/proc/net/sockstat, sockstat6 and softnet_stat."""

    _KINDS: Final = {
        ("sockets", "used"): "all", ("TCP", "inuse"): "tcp", ("TCP", "orphan"): "tcp_orphan",
        ("TCP", "tw"): "tcp_time_wait", ("TCP", "alloc"): "tcp_allocated", ("UDP", "inuse"): "udp",
        ("RAW", "inuse"): "raw", ("FRAG", "inuse"): "fragments", ("TCP6", "inuse"): "tcp6", ("UDP6", "inuse"): "udp6",
    }  # fmt: skip

    def __init__(self, net: Path, proc: Path) -> None:
        super().__init__()
        self._tcp_limit = ProcFile(proc / "sys/net/ipv4/tcp_mem")
        self._stats = [ProcFile(net / name) for name in ("sockstat", "sockstat6") if (net / name).exists()]  # fmt: skip
        self._softnet = ProcFile(net / "softnet_stat") if (net / "softnet_stat").exists() else None

    def read(self) -> list[float]:
        out: list[float] = []
        columns: list[Column] = []
        for file in self._stats:
            for line in file.read().decode("ascii").splitlines():
                protocol, *pairs = line.split()
                protocol = protocol.rstrip(":")
                for name, value in zip(pairs[0::2], pairs[1::2], strict=False):
                    kind = self._KINDS.get((protocol, name))
                    if kind is not None:
                        out.append(float(value))
                        columns.append(column("host.sockets_count", kind=kind))
                    elif name == "mem" and protocol in {"TCP", "UDP"}:
                        out.append(float(value) * PAGE_BYTES)
                        columns.append(column("host.socket_memory_bytes", kind=protocol.lower()))
                        if protocol == "TCP":
                            out.append(self._of_limit(float(value)))
                            columns.append(column("host.tcp_memory_ratio"))
        if self._softnet is not None:
            rows = [line.split(maxsplit=3) for line in self._softnet.read().splitlines()]
            for i, kind in enumerate(("processed", "dropped", "squeezed")):
                out.append(float(sum(int(row[i], 16) for row in rows)))
                columns.append(column("host.softnet_packets_total", type=kind))
        if columns != self.columns:
            self.columns = columns
        return out

    def _of_limit(self, pages: float) -> float:
        try:
            return pages / int(self._tcp_limit.read().split()[2])
        except (OSError, IndexError):  # not shown in every network namespace
            return NAN


class Cgroup(Section):
    """What our own container may use and uses: cgroup v2, or the controllers of v1.

    Memory is the working set (usage without the file cache that can go at once), as the kubelet counts it. Ratios
    only where there is a limit; it may stand at a group above our own. The limit of cores is the quota, or the
    cores we may run on when there is none.
    """

    def __init__(self, cgroups: Path, membership: str) -> None:
        super().__init__()
        self._reads: list[tuple[Column, Callable[[], float]]] = []
        v2 = (cgroups / "cgroup.controllers").exists()
        paths = _controllers(membership)

        def at(controller: str) -> Path | None:
            root = cgroups if v2 else cgroups / controller
            # inside a container the path may be that of the host, of which only the last part is mounted here
            for folder in (root / paths.get("" if v2 else controller, "/").lstrip("/"), root):
                if folder.is_dir():
                    return folder
            return None

        if v2:
            self._memory(at(""), cgroups, "memory.current", "memory.max", "inactive_file ")
            self._v2(at(""))
        else:
            usage, limit = "memory.usage_in_bytes", "memory.limit_in_bytes"
            self._memory(at("memory"), cgroups / "memory", usage, limit, "total_inactive_file ")
            self._v1(at("cpu"), at("cpuacct"), at("memory"), at("pids"))
        self.columns = [col for col, _ in self._reads]

    def read(self) -> list[float]:
        out: list[float] = []
        for _, call in self._reads:
            try:
                out.append(call())
            except (OSError, ValueError):
                out.append(NAN)
        return out

    def _memory(self, own: Path | None, top: Path, usage: str, limit: str, cache: str) -> None:
        if own is None or not (own / usage).exists():
            return
        used, stat = ProcFile(own / usage), ProcFile(own / "memory.stat")
        name = b"\n" + cache.encode()

        def working_set() -> float:
            return max(0.0, float(used.read()) - _named(b"\n" + stat.read(), name))

        self._reads.append((column("host.cgroup_memory_bytes"), working_set))
        limited = next((f for f in _upwards(own, top) if _limit_bytes(f / limit) is not None), None)
        if limited is not None:
            used_there, stat_there = ProcFile(limited / usage), ProcFile(limited / "memory.stat")
            most = ProcFile(limited / limit)

            def ratio() -> float:
                inside = float(used_there.read()) - _named(b"\n" + stat_there.read(), name)
                return max(0.0, inside) / float(most.read())

            self._reads.append((column("host.cgroup_memory_ratio"), ratio))

    def _v2(self, own: Path | None) -> None:
        if own is None:
            return
        if (own / "cpu.stat").exists():
            cpu = ProcFile(own / "cpu.stat")
            self._cpu(lambda: _named(b"\n" + cpu.read(), b"\nusage_usec ") * 1e-6)
            if b"throttled_usec" in cpu.read():
                self._throttled(lambda: _named(b"\n" + cpu.read(), b"\nthrottled_usec ") * 1e-6)
        quota = ProcFile(own / "cpu.max")
        self._cores(lambda: tuple(quota.read().split()[:2]))
        if (own / "memory.events").exists():
            events = ProcFile(own / "memory.events")
            self._oom(lambda: _named(b"\n" + events.read(), b"\noom_kill "))
        self._pids(own)

    def _v1(
        self, cpu: Path | None, acct: Path | None, memory: Path | None, pids: Path | None
    ) -> None:
        if acct is not None and (acct / "cpuacct.usage").exists():
            usage = ProcFile(acct / "cpuacct.usage")
            self._cpu(lambda: float(usage.read()) * 1e-9)
        if cpu is not None:
            stat = ProcFile(cpu / "cpu.stat")
            if (cpu / "cpu.stat").exists():
                self._throttled(lambda: _named(b"\n" + stat.read(), b"\nthrottled_time ") * 1e-9)
            quota, period = ProcFile(cpu / "cpu.cfs_quota_us"), ProcFile(cpu / "cpu.cfs_period_us")
            self._cores(lambda: (quota.read(), period.read()))
        if memory is not None and (memory / "memory.oom_control").exists():
            control = ProcFile(memory / "memory.oom_control")
            if b"oom_kill " in control.read():
                self._oom(lambda: _named(b"\n" + control.read(), b"\noom_kill "))
        if pids is not None:
            self._pids(pids)

    def _cpu(self, seconds: Callable[[], float]) -> None:
        self._reads.append((column("host.cgroup_cpu_seconds_total"), seconds))

    def _throttled(self, seconds: Callable[[], float]) -> None:
        self._reads.append((column("host.cgroup_throttled_seconds_total"), seconds))

    def _oom(self, kills: Callable[[], float]) -> None:
        self._reads.append((column("host.cgroup_oom_kills_total"), kills))

    def _cores(self, quota_and_period: Callable[[], tuple[bytes, ...]]) -> None:
        def cores() -> float:
            mine = float(len(os.sched_getaffinity(0)))
            try:
                quota, period = quota_and_period()
            except (OSError, ValueError):
                return mine  # the top of the tree has no quota
            if quota.strip() in {b"max", b"-1"}:
                return mine
            return min(mine, int(quota) / int(period))

        self._reads.append((column("host.cgroup_cpu_limit_count"), cores))

    def _pids(self, own: Path) -> None:
        if (own / "pids.current").exists():
            current = ProcFile(own / "pids.current")
            self._reads.append(
                (column("host.cgroup_processes_count"), lambda: float(current.read()))
            )


def cgroup_pressure(cgroups: Path, membership: str) -> Pressure:
    """Return the pressure of our own cgroup; v2 only, for v1 has none."""
    own = cgroups / _controllers(membership).get("", "/").lstrip("/")
    folder = own if own.is_dir() else cgroups
    files = [(r, folder / f"{r}.pressure") for r in ("cpu", "memory", "io")]
    return Pressure([(r, p) for r, p in files if p.exists()], "host.cgroup_pressure_seconds_total")


def _controllers(membership: str) -> dict[str, str]:
    """Read /proc/self/cgroup: controller -> path; v2 stands under ""."""
    out: dict[str, str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            out[name] = path
    return out


def _upwards(folder: Path, top: Path) -> list[Path]:
    """Return the folder and those above it up to `top`."""
    return [folder, *(p for p in folder.parents if p == top or top in p.parents)]


def _limit_bytes(file: Path) -> int | None:
    """Return a memory limit; None where there is none (v2 says max, v1 a number near 2^63)."""
    try:
        text = file.read_bytes().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _named(data: bytes, name: bytes) -> float:
    """Return the number behind `name` in a file of `name value` lines; NaN when it is not there."""
    start = data.find(name)
    if start < 0:
        return NAN
    start += len(name)
    end = data.find(b"\n", start)
    return float(data[start : end if end >= 0 else None])
