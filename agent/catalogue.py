"""Every signal: `<entity kind>.<quantity>_<base unit>`, its unit, kind and help.

The one list that lint, CEL, boards, connectors and `/metrics` read. A signal is exported as
`homeostat_<name with dots as underscores>`. Counters end in `_total` and name the rate that the collector
makes of them; only rates flow on from there.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

SignalKind = Literal["gauge", "counter", "state"]
Unit = Literal["seconds", "bytes", "ratio", "celsius", "watts", "hertz", "count", "per_second", "bytes_per_second", "bool"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SignalDef:
    """What one signal means.

    rate     of a counter: the signal that the collector makes of it, per second
    better   "low" or "high" when one end is good for users; "" when neither is
    floor    smallest change that can matter to anybody, in base units: keeps a nearly constant series quiet
    harm     a breach of an objective on it hurts users or model results: it may page
    least, most   what is possible: outside of that it is bad data, and unknown (`agent/possible.py`). A rate has no
             `most`: two readings whose times are a little off make a share above 1, most of all on a busy host
    fills    it accumulates, so that its future is foretold: a key of `forecasts:` in agent.yaml; "" = it does not
    limit    where what fills is full; NaN = only where a person states a limit
    pace     units a second of what ages, where no forecast is needed; NaN = it must be foretold
    ahead    the signal that says how soon the limit is reached
    """

    name: str
    unit: Unit
    kind: SignalKind
    help: str
    rate: str = ""
    better: Literal["", "low", "high"] = ""
    floor: float = 0.0
    harm: bool = False
    least: float = 0.0
    most: float = math.inf
    fills: str = ""
    limit: float = math.nan
    pace: float = math.nan
    ahead: str = ""

    @property
    def entity_kind(self) -> str:
        """The part before the dot."""
        return self.name.partition(".")[0]

    @property
    def exported(self) -> str:
        """The name in `/metrics`. `_count` goes: Prometheus keeps that ending for histograms."""
        return "homeostat_" + self.name.replace(".", "_").removesuffix("_count")


_OPEN: Final = math.inf
"""Where a share may be above 1: what it is held against can be lowered, or is no limit."""


def _g(name: str, unit: Unit, help_: str, *, better: Literal["", "low", "high"] = "", floor: float = 0.0,
       harm: bool = False, least: float | None = None, most: float | None = None) -> SignalDef:  # fmt: skip
    if least is None:
        least = -273.15 if unit == "celsius" else 0.0
    if most is None:
        most = 1.0 if unit == "ratio" else math.inf
    return SignalDef(
        name, unit, "gauge", help_, better=better, floor=floor, harm=harm, least=least, most=most
    )


def _s(
    name: str, help_: str, *, better: Literal["", "low", "high"] = "", harm: bool = False
) -> SignalDef:
    return SignalDef(name, "bool", "state", help_, better=better, floor=0.5, harm=harm, most=1.0)


def _c(name: str, rate: str, unit: Unit, help_: str, *, floor: float = 0.0,
       better: Literal["", "low", "high"] = "") -> tuple[SignalDef, SignalDef]:  # fmt: skip
    """Define a counter and the rate of it: `seconds` of counting become a ratio, others per second."""
    counted: Unit = {"ratio": "seconds", "bytes_per_second": "bytes"}.get(unit, "count")  # type: ignore[assignment]
    return (
        SignalDef(name, counted, "counter", help_ + ", counted", rate=rate),
        SignalDef(rate, unit, "gauge", help_, floor=floor, better=better),
    )


def _f(fills: str, ahead: str, filling: SignalDef, *, limit: float = math.nan, pace: float = math.nan,
       until: str = "") -> tuple[SignalDef, SignalDef]:  # fmt: skip
    """Define what fills, and the signal that says how soon it is full; `until`: in words, what then happens."""
    soon = SignalDef(ahead, "seconds", "gauge", f"time until {until}, as sure as `forecasts:` asks",
                     better="high", floor=60.0)  # fmt: skip
    return replace(filling, fills=fills, limit=limit, pace=pace, ahead=ahead), soon


# A table: one signal a line.
# fmt: off
_DEFS: Final = (
    # ---- host
    _c("host.cpu_seconds_total", "host.cpu_utilization_ratio", "ratio", "share of CPU time by mode, mean of all cores (label mode)", floor=0.02),
    _c("host.core_seconds_total", "host.core_utilization_ratio", "ratio", "time a core is busy (label core)", floor=0.05),
    _c("host.core_mode_seconds_total", "host.core_mode_ratio", "ratio", "time of a core by mode, on machines with few cores (labels core, mode)", floor=0.05),
    _g("host.cpu_busy_ratio", "ratio", "share of all cores that is busy", better="low", floor=0.02),
    _g("host.cpu_frequency_hertz", "hertz", "clock of a core (label core)", floor=5e7),
    _g("host.load1_count", "count", "load average of one minute", floor=0.2),
    _g("host.load5_count", "count", "load average of five minutes", floor=0.2),
    _g("host.load15_count", "count", "load average of fifteen minutes", floor=0.2),
    _g("host.processes_count", "count", "processes by state (label state: running, blocked, total, zombie, stopped)", floor=2),
    _g("host.threads_count", "count", "threads", floor=5),
    _f("handles", "host.threads_full_seconds", _g("host.threads_ratio", "ratio", "threads against the limit", better="low", floor=0.005, most=_OPEN), limit=1.0, until="the limit of threads is reached"),
    _c("host.context_switches_total", "host.context_switches_per_second", "per_second", "context switches", floor=100),
    _c("host.interrupts_total", "host.interrupts_per_second", "per_second", "interrupts", floor=100),
    _c("host.softirqs_total", "host.softirqs_per_second", "per_second", "soft interrupts (label type)", floor=50),
    _c("host.forks_total", "host.forks_per_second", "per_second", "processes started", floor=2),
    _g("host.entropy_count", "count", "bits of entropy that the kernel holds", floor=16),
    _g("host.memory_bytes", "bytes", "memory by use (label use: used, free, cached, ...)", floor=16e6),
    _f("memory", "host.memory_full_seconds", _g("host.memory_utilization_ratio", "ratio", "share of memory that is not available", better="low", floor=0.01), limit=1.0, until="memory is used up"),
    _g("host.memory_commit_ratio", "ratio", "memory that was promised against what may be promised", floor=0.01, most=_OPEN),
    _g("host.swap_bytes", "bytes", "swap by use (label use)", floor=1e6),
    _f("swap", "host.swap_full_seconds", _g("host.swap_utilization_ratio", "ratio", "share of swap in use", better="low", floor=0.01), limit=1.0, until="swap is used up"),
    _c("host.page_faults_total", "host.page_faults_per_second", "per_second", "page faults (label type: minor, major)", floor=100),
    _c("host.pages_total", "host.pages_per_second", "per_second", "pages moved (label direction: in, out, swap_in, swap_out, dirtied, written_back)", floor=10),
    _c("host.reclaim_pages_total", "host.reclaim_pages_per_second", "per_second", "pages that the kernel looks through and takes back for want of memory (labels type: scanned, stolen; who: background, direct)", floor=10),
    _c("host.refaults_total", "host.refaults_per_second", "per_second", "pages needed again soon after they were given up (label type: anon, file)", floor=10, better="low"),
    _c("host.huge_pages_total", "host.huge_pages_per_second", "per_second", "transparent huge pages (label type: allocated, fell_back, collapsed, split)", floor=1),
    _c("host.numa_pages_total", "host.numa_pages_per_second", "per_second", "pages taken from a memory node (label type: hit, miss)", floor=100),
    _g("host.numa_memory_bytes", "bytes", "memory of a memory node by use, on hosts with more than one (labels node, use: used, free)", floor=16e6),
    _c("host.numa_node_pages_total", "host.numa_node_pages_per_second", "per_second", "pages taken from a memory node, on hosts with more than one (labels node, type: local, other, miss)", floor=100),
    _c("host.memory_errors_total", "host.memory_errors_per_second", "per_second", "memory errors that the controller counts (labels controller, type: corrected, uncorrected)", better="low"),
    _c("host.allocation_stalls_total", "host.allocation_stalls_per_second", "per_second", "times that a task had to free memory itself before it got some (label type: reclaim, compaction)", floor=1, better="low"),
    _c("host.oom_kills_total", "host.oom_kills_per_second", "per_second", "processes killed for want of memory", better="low"),
    _c("host.pressure_seconds_total", "host.pressure_ratio", "ratio", "share of time that tasks wait for a resource (labels resource: cpu, memory, io; who: some, full)", better="low", floor=0.02),
    _g("host.uptime_seconds", "seconds", "time since boot"),
    _g("host.temperature_celsius", "celsius", "temperature of a sensor (labels chip, sensor)", floor=1.0, better="low"),
    _g("host.fan_rpm_count", "count", "fan speed in revolutions a minute (labels chip, sensor)", floor=100),
    _g("host.file_descriptors_count", "count", "open files on the host", floor=50),
    _f("handles", "host.file_descriptors_full_seconds", _g("host.file_descriptors_ratio", "ratio", "open files against the limit", better="low", floor=0.005, most=_OPEN), limit=1.0, until="the limit of open files is reached"),
    _g("host.inodes_count", "count", "inodes that the kernel holds in memory", floor=1000),
    _g("host.dentries_count", "count", "directory entries that the kernel holds in memory", floor=1000),
    _g("host.users_count", "count", "sessions of people", floor=1),
    _g("host.time_offset_seconds", "seconds", "jump of the wall clock against the monotonic clock", floor=0.5, least=-math.inf),
    _s("host.clock_synchronized", "whether the kernel says that something keeps its clock right", better="high"),
    _g("host.clock_offset_seconds", "seconds", "how far the clock is off, as whatever keeps it right told the kernel", floor=0.005, least=-math.inf),
    _g("host.clock_error_seconds", "seconds", "most that the clock can be off", floor=0.05, better="low"),
    _g("host.disk_bytes", "bytes", "space of a file system by use (labels mount, use: used, free)", floor=16e6),
    _f("disk", "host.disk_full_seconds", _g("host.disk_utilization_ratio", "ratio", "share of a file system in use (label mount)", better="low", floor=0.005), limit=1.0, until="a file system is full (label mount)"),
    _f("disk", "host.disk_inodes_full_seconds", _g("host.disk_inodes_ratio", "ratio", "share of the inodes of a file system in use (label mount)", better="low", floor=0.005), limit=1.0, until="the inodes of a file system are used up (label mount)"),
    _s("host.mount_reachable", "whether a file system answers (label mount)", better="high"),
    _s("host.mount_read_only", "whether a file system takes no writes, by its options or after an error (label mount)", better="low"),
    _c("host.disk_read_bytes_total", "host.disk_read_bytes_per_second", "bytes_per_second", "bytes read (label device)", floor=1e5),
    _c("host.disk_written_bytes_total", "host.disk_written_bytes_per_second", "bytes_per_second", "bytes written (label device)", floor=1e5),
    _c("host.disk_reads_total", "host.disk_reads_per_second", "per_second", "reads done (label device)", floor=2),
    _c("host.disk_writes_total", "host.disk_writes_per_second", "per_second", "writes done (label device)", floor=2),
    _c("host.disk_busy_seconds_total", "host.disk_busy_ratio", "ratio", "share of time that a disk is busy (label device)", floor=0.02, better="low"),
    _c("host.disk_queue_seconds_total", "host.disk_queue_count", "count", "mean number of requests at a disk (label device)", floor=0.2, better="low"),
    _g("host.disk_in_flight_count", "count", "requests at a disk at this instant (label device)", floor=2),
    _g("host.disk_read_latency_seconds", "seconds", "mean time of a read since the last reading (label device)", floor=0.002, better="low"),
    _g("host.disk_write_latency_seconds", "seconds", "mean time of a write since the last reading (label device)", floor=0.002, better="low"),
    _c("host.disk_flushes_total", "host.disk_flushes_per_second", "per_second", "flushes done, as fsync asks for them (label device)", floor=2),
    _g("host.disk_flush_latency_seconds", "seconds", "mean time of a flush since the last reading (label device)", floor=0.002, better="low"),
    _c("host.disk_discarded_bytes_total", "host.disk_discarded_bytes_per_second", "bytes_per_second", "bytes given back to a disk (label device)", floor=1e5),
    _s("host.disk_failing", "whether a disk says itself that it fails, or the kernel has given it up (label device)", better="low"),
    _g("host.disk_temperature_celsius", "celsius", "temperature of a disk (label device)", floor=2.0, better="low"),
    _g("host.disk_wear_ratio", "ratio", "share of the writes that a disk is made for which it has had (label device)", floor=0.01, better="low", most=_OPEN),
    _g("host.disk_spare_ratio", "ratio", "spare blocks of a disk that are left (label device)", floor=0.01, better="high"),
    _g("host.disk_bad_sectors_count", "count", "sectors of a disk that failed (labels device, type: reallocated, pending, uncorrectable)", floor=0.5, better="low"),
    _c("host.disk_errors_total", "host.disk_errors_per_second", "per_second", "errors of a disk (labels device, type: media, link, io, timeout)", better="low"),
    _s("host.raid_degraded", "whether a software RAID lacks disks (label array)", better="low"),
    _s("host.raid_syncing", "whether a software RAID is rebuilt or checked (label array)"),
    _g("host.raid_disks_count", "count", "disks of a software RAID by state (labels array, state: active, missing, failed, spare)", floor=0.5),
    _c("host.network_received_bytes_total", "host.network_received_bytes_per_second", "bytes_per_second", "bytes received (label interface)", floor=1e4),
    _c("host.network_sent_bytes_total", "host.network_sent_bytes_per_second", "bytes_per_second", "bytes sent (label interface)", floor=1e4),
    _c("host.network_received_packets_total", "host.network_received_packets_per_second", "per_second", "packets received (label interface)", floor=20),
    _c("host.network_sent_packets_total", "host.network_sent_packets_per_second", "per_second", "packets sent (label interface)", floor=20),
    _c("host.network_errors_total", "host.network_errors_per_second", "per_second", "packets with errors (labels interface, direction)", floor=0.5, better="low"),
    _c("host.network_drops_total", "host.network_drops_per_second", "per_second", "packets dropped (labels interface, direction)", floor=0.5, better="low"),
    _s("host.network_up", "whether an interface is up (label interface)", better="high"),
    _g("host.network_speed_bytes_per_second", "bytes_per_second", "speed of an interface that says it (label interface)", floor=1e6),
    _c("host.network_carrier_changes_total", "host.network_carrier_changes_per_second", "per_second", "times that an interface lost or found its link (label interface)", better="low"),
    _s("host.infiniband_up", "whether a port of an InfiniBand or RoCE adapter is active (labels device, port)", better="high"),
    _c("host.infiniband_received_bytes_total", "host.infiniband_received_bytes_per_second", "bytes_per_second", "bytes received by an InfiniBand port (labels device, port)", floor=1e5),
    _c("host.infiniband_sent_bytes_total", "host.infiniband_sent_bytes_per_second", "bytes_per_second", "bytes sent by an InfiniBand port (labels device, port)", floor=1e5),
    _c("host.infiniband_errors_total", "host.infiniband_errors_per_second", "per_second", "what goes wrong at an InfiniBand port (labels device, port, type: link_downed, symbol_errors, ...)", floor=0.1, better="low"),
    _c("host.tcp_segments_total", "host.tcp_segments_per_second", "per_second", "TCP segments (label direction: in, out)", floor=20),
    _c("host.tcp_retransmits_total", "host.tcp_retransmits_per_second", "per_second", "TCP segments sent again", floor=1, better="low"),
    _c("host.tcp_resets_total", "host.tcp_resets_per_second", "per_second", "TCP connections reset (label direction)", floor=1),
    _c("host.tcp_opens_total", "host.tcp_opens_per_second", "per_second", "TCP connections opened (label type: active, passive, failed)", floor=2),
    _c("host.listen_overflows_total", "host.listen_overflows_per_second", "per_second", "connections lost because a listener was full", better="low"),
    _c("host.tcp_events_total", "host.tcp_events_per_second", "per_second", "what goes wrong or is unusual in TCP (label type: timeouts, syn_retransmits, backlog_drops, ...)", floor=1),
    _g("host.tcp_established_count", "count", "TCP connections that are established", floor=5),
    _c("host.ip_packets_total", "host.ip_packets_per_second", "per_second", "IP packets (label type: received, delivered, sent, forwarded, in_discards, ...)", floor=20),
    _c("host.icmp_messages_total", "host.icmp_messages_per_second", "per_second", "ICMP messages (label type: in, out, in_errors, in_unreachable, out_unreachable)", floor=1),
    _c("host.softnet_packets_total", "host.softnet_packets_per_second", "per_second", "packets that the cores take from the network cards (label type: processed, dropped, squeezed)", floor=20),
    _c("host.udp_datagrams_total", "host.udp_datagrams_per_second", "per_second", "UDP datagrams (label type: in, out, no_port, in_errors, ...)", floor=5),
    _g("host.sockets_count", "count", "sockets in use by kind (label kind)", floor=5),
    _g("host.socket_memory_bytes", "bytes", "memory of socket buffers (label kind)", floor=1e6),
    _f("handles", "host.tcp_memory_full_seconds", _g("host.tcp_memory_ratio", "ratio", "memory of TCP buffers against the limit", better="low", floor=0.01, most=_OPEN), limit=1.0, until="the memory of TCP buffers is used up"),
    _g("host.conntrack_count", "count", "connections that the firewall tracks", floor=100),
    _f("handles", "host.conntrack_full_seconds", _g("host.conntrack_ratio", "ratio", "connections that the firewall tracks against its limit", better="low", floor=0.01, most=_OPEN), limit=1.0, until="the firewall can track no more connections"),
    _g("host.connections_count", "count", "TCP connections by state (label state)", floor=5),
    _s("host.ready", "whether the cluster calls a node ready", better="high"),
    _s("host.cordoned", "whether the cluster gives a node no new work"),
    _g("host.gpus_count", "count", "GPUs that answer", better="high", floor=0.5),
    _s("host.gpu_driver_up", "whether the GPU driver answers", better="high"),
    _s("host.gpu_driver_mismatched", "whether the loaded GPU driver and its library are of two versions", better="low"),
    _g("host.cgroup_memory_bytes", "bytes", "memory of our own container", floor=16e6),
    _f("memory", "host.cgroup_memory_full_seconds", _g("host.cgroup_memory_ratio", "ratio", "memory of our own container against its limit", better="low", floor=0.01, most=_OPEN), limit=1.0, until="the memory of our own container is used up"),
    _g("host.cgroup_cpu_limit_count", "count", "cores that our own container may use"),
    _c("host.cgroup_throttled_seconds_total", "host.cgroup_throttled_ratio", "ratio", "share of time that our own container is throttled", better="low", floor=0.02),
    _c("host.cgroup_cpu_seconds_total", "host.cgroup_cpu_cores", "count", "cores in use by our own container", floor=0.05),
    _c("host.cgroup_oom_kills_total", "host.cgroup_oom_kills_per_second", "per_second", "processes of our own container killed for want of memory", better="low"),
    _c("host.cgroup_pressure_seconds_total", "host.cgroup_pressure_ratio", "ratio", "share of time that tasks of our own container wait for a resource (labels resource, who)", better="low", floor=0.02),
    _g("host.cgroup_processes_count", "count", "processes and threads in our own container", floor=5),
    # ---- control groups of others: containers, and units of systemd (labels group: its name, runs: container, unit)
    _c("host.group_cpu_seconds_total", "host.group_cpu_cores", "count", "cores in use by a container or unit (labels group, runs)", floor=0.05),
    _g("host.group_cpu_limit_count", "count", "cores that a container or unit may use; missing where it has no limit (labels group, runs)"),
    _c("host.group_throttled_seconds_total", "host.group_throttled_ratio", "ratio", "share of time that a container or unit is throttled (labels group, runs)", better="low", floor=0.02),
    _g("host.group_memory_bytes", "bytes", "memory of a container or unit that can not be taken back at once (labels group, runs)", floor=16e6),
    _f("memory", "host.group_memory_full_seconds", _g("host.group_memory_ratio", "ratio", "memory of a container or unit against its limit (labels group, runs)", better="low", floor=0.01, most=_OPEN), limit=1.0, until="the memory of a container or unit is used up (labels group, runs)"),
    _c("host.group_oom_kills_total", "host.group_oom_kills_per_second", "per_second", "processes of a container or unit killed for want of memory (labels group, runs)", better="low"),
    _c("host.group_pressure_seconds_total", "host.group_pressure_ratio", "ratio", "share of time that tasks of a container or unit wait for a resource (labels group, runs, resource: cpu, memory, io)", better="low", floor=0.02),
    _c("host.group_read_bytes_total", "host.group_read_bytes_per_second", "bytes_per_second", "bytes that a container or unit read from disks (labels group, runs)", floor=1e5),
    _c("host.group_written_bytes_total", "host.group_written_bytes_per_second", "bytes_per_second", "bytes that a container or unit wrote to disks (labels group, runs)", floor=1e5),
    _g("host.group_processes_count", "count", "processes and threads in a container or unit (labels group, runs)", floor=5),
    _g("host.group_processes_ratio", "ratio", "processes and threads in a container or unit against its limit (labels group, runs)", better="low", floor=0.01, most=_OPEN),
    # ---- units of systemd
    _g("host.units_count", "count", "units of systemd by state (label state: active, failed, activating, ...)", floor=0.5),
    _s("host.unit_failed", "whether a unit of systemd has failed (label unit)", better="low"),
    _c("host.unit_restarts_total", "host.unit_restarts_per_second", "per_second", "restarts of a unit by systemd itself (label unit)", better="low"),
    # ---- applications: processes of one name together
    _c("host.application_cpu_seconds_total", "host.application_cpu_cores", "count", "cores in use by all processes of an application (label application)", floor=0.05),
    _g("host.application_memory_bytes", "bytes", "resident memory of all processes of an application (label application)", floor=16e6),
    _g("host.application_processes_count", "count", "processes of an application (label application)", floor=1),
    _g("host.application_threads_count", "count", "threads of an application (label application)", floor=2),
    # ---- the log of the kernel
    _c("host.kernel_messages_total", "host.kernel_messages_per_second", "per_second", "messages of the kernel (label level: error, warning, info)", floor=0.5),
    _c("host.kernel_events_total", "host.kernel_events_per_second", "per_second", "messages of the kernel that mean trouble (label event: oom_kill, io_error, hung_task, segfault, ...)", better="low"),
    _s("host.kernel_event_seen", "whether the kernel told of trouble in the last ten minutes (labels event, and whom it is about)", better="low"),
    # ---- process: one process group (a job, a service with its workers), known by its leader
    _c("process.cpu_seconds_total", "process.cpu_cores", "count", "cores in use by a process group", floor=0.05),
    _f("memory", "process.memory_full_seconds", _g("process.memory_bytes", "bytes", "resident memory of a process group", floor=8e6), until="a process group has the memory that an objective allows"),
    _g("process.processes_count", "count", "processes in the group", floor=1),
    _f("handles", "process.threads_full_seconds", _g("process.threads_count", "count", "threads in the group", floor=2), until="a process group has the threads that an objective allows"),
    _f("handles", "process.file_descriptors_full_seconds", _g("process.file_descriptors_count", "count", "open files of the group; missing where we may not look", floor=5), until="a process group has the open files that an objective allows"),
    _g("process.nice_count", "count", "scheduling priority of the leader, -20..19", floor=1, least=-20, most=19),
    _c("process.read_bytes_total", "process.read_bytes_per_second", "bytes_per_second", "bytes that the group read from disks", floor=1e5),
    _c("process.written_bytes_total", "process.written_bytes_per_second", "bytes_per_second", "bytes that the group wrote to disks", floor=1e5),
    _g("process.age_seconds", "seconds", "time since the leader started", least=-math.inf),
    _f("queue", "process.accept_queue_full_seconds", _g("process.accept_queue_count", "count", "connections that wait to be accepted by a process group (label port)", better="low", floor=2), until="a queue of connections is as long as an objective allows (label port)"),
    _g("process.gpu_memory_bytes", "bytes", "memory of a GPU that a process group holds (label gpu: its UUID)", floor=64e6),
    # ---- gpu
    _g("gpu.utilization_ratio", "ratio", "share of time that kernels ran", floor=0.05),
    _f("gpu_memory", "gpu.memory_full_seconds", _g("gpu.memory_utilization_ratio", "ratio", "share of GPU memory in use", better="low", floor=0.01), limit=1.0, until="GPU memory is used up"),
    _g("gpu.memory_used_bytes", "bytes", "GPU memory in use", floor=64e6),
    _g("gpu.memory_busy_ratio", "ratio", "share of time that GPU memory was read or written", floor=0.05),
    _g("gpu.memory_temperature_celsius", "celsius", "temperature of the GPU's memory", better="low", floor=1.0),
    _g("gpu.memory_clock_hertz", "hertz", "clock of the GPU's memory", floor=3e7),
    _g("gpu.temperature_celsius", "celsius", "temperature of the chip", better="low", floor=1.0),
    _g("gpu.power_watts", "watts", "power drawn", floor=5.0),
    _g("gpu.power_limit_watts", "watts", "power that it may draw", floor=1.0),
    _g("gpu.clock_hertz", "hertz", "clock of the multiprocessors", floor=3e7),
    _g("gpu.clock_ratio", "ratio", "clock against its maximum", better="high", floor=0.03, most=_OPEN),
    _s("gpu.throttled", "whether heat or power hold the clock back (label reason)", better="low"),
    _c("gpu.ecc_errors_total", "gpu.ecc_errors_per_second", "per_second", "memory errors (label type: corrected, uncorrected)", better="low"),
    _s("gpu.remap_pending", "whether a memory row waits to be remapped", better="low"),
    _s("gpu.remap_failed", "whether remapping a memory row failed", better="low"),
    _g("gpu.remapped_rows_count", "count", "memory rows that were remapped (label type: corrected, uncorrected)", better="low", floor=0.5),
    _g("gpu.retired_pages_count", "count", "memory pages that were taken out of use, on GPUs that remap no rows (label type: corrected, uncorrected)", better="low", floor=0.5),
    _g("gpu.pcie_link_ratio", "ratio", "PCIe width against its maximum", better="high", floor=0.05),
    _g("gpu.fan_ratio", "ratio", "fan speed", floor=0.05, most=_OPEN),
    _g("gpu.temperature_margin_celsius", "celsius", "degrees that are left until heat holds the clock back", better="high", floor=1.0),
    _g("gpu.uncorrected_errors_count", "count", "memory errors that could not be corrected, since the driver was loaded or the GPU reset", better="low", floor=0.5),
    _s("gpu.recovery_needed", "whether the driver asks for a reset or a reboot of the GPU", better="low"),
    _s("gpu.recovery_asked", "whether the driver asks for this, of all that would mend the GPU (label action: reset, reboot, drain, drain_and_reset)", better="low"),
    _s("gpu.xid_seen", "whether the driver told of an error in the last ten minutes (label xid: its number)", better="low"),
    _g("gpu.pcie_generation_ratio", "ratio", "PCIe generation against the highest of GPU and slot; an idle GPU lowers it", better="high", floor=0.05),
    _g("gpu.nvlinks_count", "count", "NVLinks that are up", better="high", floor=0.5),
    _c("gpu.nvlink_errors_total", "gpu.nvlink_errors_per_second", "per_second", "errors of the NVLinks of a GPU (label type: crc, replay, recovery)", better="low"),
    _c("gpu.pcie_replays_total", "gpu.pcie_replays_per_second", "per_second", "PCIe packets sent again", better="low", floor=0.1),
    _s("gpu.mig_enabled", "whether the GPU is split into instances (MIG)"),
    _g("gpu.mig_instances_count", "count", "instances that the GPU is split into", floor=0.5),
    _g("gpu.processes_count", "count", "processes that compute on the GPU", floor=0.5),
    _s("gpu.reachable", "whether the GPU answers", better="high"),
    # ---- service
    _g("service.requests_per_second", "per_second", "requests served", floor=0.5),
    _g("service.latency_p50_seconds", "seconds", "median latency as clients see it", better="low", floor=0.002, harm=True),
    _g("service.latency_p95_seconds", "seconds", "latency that 95 % of requests stay under, as clients see it", better="low", floor=0.005, harm=True),
    _g("service.latency_p99_seconds", "seconds", "latency that 99 % of requests stay under, as clients see it", better="low", floor=0.01, harm=True),
    _g("service.error_ratio", "ratio", "share of requests that failed", better="low", floor=0.005, harm=True),
    _g("service.replicas_count", "count", "replicas or workers that serve", floor=0.5),
    _g("service.busy_ratio", "ratio", "work that the workers do against what they can do", better="low", floor=0.05, most=_OPEN),
    _g("service.processing_p50_seconds", "seconds", "median time of a request inside a worker, without waiting", better="low", floor=0.002),
    _s("service.up", "whether the service answers a probe", better="high", harm=True),
    _g("service.error_budget_burn_ratio", "ratio", "how many times faster than it may the error budget of an objective is used up (labels objective, window)", better="low", floor=0.1, most=_OPEN, harm=True),
    _g("service.error_budget_left_ratio", "ratio", "share of the error budget of an objective that is left (label objective)", better="high", floor=0.01, least=-math.inf),
    _f("certificate", "service.certificate_limit_seconds", _g("service.certificate_seconds", "seconds", "time for which the certificate that a service shows is still valid", better="high", floor=3600.0), limit=0.0, pace=-1.0, until="the certificate of a service ends"),
    _g("service.queue_count", "count", "requests that wait to be served", better="low", floor=1),
    _g("service.in_flight_count", "count", "requests that are being served", floor=1),
    _g("service.cache_ratio", "ratio", "share of the cache of a generator that is in use", better="low", floor=0.02),
    _g("service.first_token_p95_seconds", "seconds", "time to the first token that 95 % of requests stay under", better="low", floor=0.01, harm=True),
    _g("service.tokens_per_second", "per_second", "tokens generated", floor=1),
    _g("service.token_p95_seconds", "seconds", "time from one token to the next that 95 % of them stay under", better="low", floor=0.005),
    _c("service.preemptions_total", "service.preemptions_per_second", "per_second", "requests that a generator put back for want of cache", better="low", floor=0.1),
    _g("service.latency_mean_seconds", "seconds", "mean latency as the server itself counts it", better="low", floor=0.005),
    _g("service.processing_mean_seconds", "seconds", "mean time of computing an answer, without waiting", better="low", floor=0.002),
    _g("service.wait_mean_seconds", "seconds", "mean time that a request waits to be served", better="low", floor=0.002),
    _g("service.replicas_least_count", "count", "replicas that an autoscaler leaves at least", floor=0.5),
    _g("service.replicas_most_count", "count", "replicas that an autoscaler makes at most", floor=0.5),
    _g("service.replicas_missing_count", "count", "replicas that are wanted and not available", better="low", floor=0.5),
    _g("service.probe_latency_seconds", "seconds", "time of our own probe", better="low", floor=0.005, harm=True),
    # ---- calls of a service (labels callee: entity id; side: client, server = who measured)
    _c("service.call_requests_total", "service.call_requests_per_second", "per_second", "calls to another service or dependency (labels callee, side)", floor=0.2),
    _c("service.call_errors_total", "service.call_errors_per_second", "per_second", "calls to another service or dependency that failed (labels callee, side)", floor=0.05, better="low"),
    _c("service.call_seconds_total", "service.call_busy_count", "count", "calls to another service or dependency under way at once: their seconds per second (labels callee, side)", floor=0.05, better="low"),
    # ---- model and version (label version only on per-version signals)
    _g("model.predictions_per_second", "per_second", "predictions logged", floor=0.5),
    _g("model.predictions_lost_ratio", "ratio", "share of predictions that their sender could not log (its queue was full, or nobody took them), by its own count", better="low", floor=0.01),
    _g("model.error_budget_burn_ratio", "ratio", "how many times faster than it may the error budget of an objective is used up (labels objective, window)", better="low", floor=0.1, most=_OPEN, harm=True),
    _g("model.error_budget_left_ratio", "ratio", "share of the error budget of an objective that is left (label objective)", better="high", floor=0.01, least=-math.inf),
    _g("model.accuracy_ratio", "ratio", "share of recent labelled predictions that were right", better="high", floor=0.01, harm=True),
    _g("model.accuracy_recent_ratio", "ratio", "accuracy of the newest labelled predictions, just as many as make a number", better="high", floor=0.02),
    _g("model.accuracy_low_ratio", "ratio", "lower 95 % bound of the accuracy", better="high", floor=0.01),
    _g("model.accuracy_high_ratio", "ratio", "upper 95 % bound of the accuracy", better="high", floor=0.01, harm=True),
    _g("model.reference_accuracy_ratio", "ratio", "accuracy on the reference rows of the version in use"),
    _g("model.confidence_ratio", "ratio", "mean probability of the predicted class", floor=0.01),
    _g("model.prediction_drift_psi", "count", "population stability index of the predictions against the reference", better="low", floor=0.05),
    _g("model.feature_drift_psi", "count", "largest population stability index of the features", better="low", floor=0.05),
    _g("model.label_coverage_ratio", "ratio", "share of predictions whose label has come within its usual delay", better="high", floor=0.02),
    _f("queue", "model.label_delay_limit_seconds", _g("model.label_delay_seconds", "seconds", "median age of labels when they come", better="low", floor=1.0, least=-math.inf), until="labels are as late as an objective allows"),
    _g("model.labelled_rows_count", "count", "labelled rows behind the accuracy"),
    _g("model.positive_prediction_ratio", "ratio", "share of the most common reference class among predictions", floor=0.01),
    _g("model.positive_label_ratio", "ratio", "share of the most common reference class among labels", floor=0.01),
    _f("age", "model.age_limit_seconds", _g("model.age_seconds", "seconds", "time since the version in use was trained", least=-math.inf), pace=1.0, until="a model is as old as an objective allows"),
    _g("model.expected_accuracy_ratio", "ratio", "accuracy that the confidences let expect, held to what labels have shown", better="high", floor=0.01),
    _g("model.expected_accuracy_low_ratio", "ratio", "lower 90 % bound of it", better="high", floor=0.01),
    _g("model.expected_accuracy_high_ratio", "ratio", "upper 90 % bound of it", better="high", floor=0.01),
    _g("model.precision_ratio", "ratio", "share of the predicted positives that were (of classes: their mean)", better="high", floor=0.01),
    _g("model.recall_ratio", "ratio", "share of the true positives that were predicted (of classes: their mean)", better="high", floor=0.01),
    _g("model.f1_ratio", "ratio", "harmonic mean of precision and recall (of classes: their mean)", better="high", floor=0.01),
    _g("model.roc_auc_ratio", "ratio", "chance that a positive row has the higher score", better="high", floor=0.01),
    _g("model.log_loss_count", "count", "mean of -log of the probability of what was true", better="low", floor=0.01),
    _g("model.brier_ratio", "ratio", "mean square of probability less truth", better="low", floor=0.005),
    _g("model.calibration_error_ratio", "ratio", "how far stated probabilities are off, on average", better="low", floor=0.01),
    _g("model.mean_absolute_error", "count", "mean size of the error of a regression, in units of the label", better="low"),
    _g("model.root_mean_square_error", "count", "root of the mean square of the error, in units of the label", better="low"),
    _g("model.r2_ratio", "ratio", "share of the variance of the labels that predictions explain", better="high", floor=0.01, least=-math.inf),
    _g("model.bias", "count", "mean error, prediction less label, in units of the label", least=-math.inf),
    _g("model.slice_accuracy_ratio", "ratio", "accuracy of the rows with one value of a feature (labels slice, value)", better="high", floor=0.02),
    _g("model.fairness_gap_ratio", "ratio", "largest difference between protected groups (labels group, kind)", better="low", floor=0.02),
    _g("model.fairness_gap_low_ratio", "ratio", "what of that difference is proven: its lower 95 % bound, which holds at every look (labels group, kind)", better="low", floor=0.02),
    _g("model.output_drift_psi", "count", "population stability index of what the model says (label output: prediction, confidence, probability of a class)", better="low", floor=0.05),
    _g("model.output_drift_evidence_count", "count", "log10 of the evidence against `as the reference` of what the model says (label output); 0 is enough", better="low", floor=1.0, least=-math.inf),
    _s("model.output_drifted", "whether what the model says is no longer as in the reference: evidence and size together (label output)", better="low"),
    _g("model.loss_change", "count", "mean loss less that of the reference rows: share of errors, of a regression the mean size of the error", better="low", floor=0.01, least=-math.inf),
    _g("model.loss_from_relation", "count", "the part of that change that no move of the inputs explains", better="low", floor=0.01, least=-math.inf),
    _g("model.loss_from_feature", "count", "the part of that change that the move of one feature is worth (label feature)", better="low", floor=0.01, least=-math.inf),
    _g("model.relation_evidence_count", "count", "log10 of the evidence that the relation to the label has changed, over what is enough; below 0 it is not", better="low", floor=1.0, least=-math.inf),
    _s("model.relation_changed", "whether labels prove a changed relation between inputs and labels", better="low"),
    _s("model.quality_lost", "whether labels prove the version in use worse than its reference", better="low", harm=True),
    _g("model.version_judged_seconds", "seconds", "time since the first label of the version in use came", floor=1.0, least=-math.inf),
    _s("model.worse_than_previous", "whether labels prove the version in use worse than the one before it was", better="low", harm=True),
    _s("model.loss_expected", "whether confidences on inputs that drifted let expect a loss of quality", better="low", harm=True),
    _s("model.labels_late", "whether labels do not come as they used to", better="low"),
    _s("model.labels_wrong", "whether labels themselves look wrong: of one kind, or turned round", better="low"),
    _s("model.retraining_held", "whether retraining is held back", better="low"),
    # ---- batch-scoring runs of a model (label run: which job, by the connector that watches its files)
    _g("model.run_age_seconds", "seconds", "time since the newest batch-scoring run was written (label run)", better="low", floor=60.0, least=-math.inf),
    _g("model.run_late_seconds", "seconds", "time since a batch-scoring run should have come, grace included; 0 = none is due (label run)", better="low", floor=60.0, harm=True),
    _s("model.run_missed", "whether a batch-scoring run did not come until the next one was due (label run)", better="low", harm=True),
    _g("model.run_rows_count", "count", "rows of the newest batch-scoring run (label run)", floor=10),
    _g("model.run_rows_ratio", "ratio", "rows of the newest batch-scoring run against the median of those before (label run)", better="high", floor=0.05, most=_OPEN),
    _s("model.run_short", "whether the newest batch-scoring run has too few rows (label run)", better="low", harm=True),
    _s("model.run_schema_wrong", "whether columns of the newest batch-scoring run are missing or of another type, or it cannot be read (label run)", better="low", harm=True),
    _g("version.predictions_per_second", "per_second", "predictions logged by one version", floor=0.5),
    _g("version.accuracy_ratio", "ratio", "accuracy of one version since it took over", better="high", floor=0.01),
    _g("version.accuracy_low_ratio", "ratio", "lower 95 % bound of it", better="high", floor=0.01),
    _g("version.accuracy_high_ratio", "ratio", "upper 95 % bound of it", better="high", floor=0.01),
    # ---- feature
    _g("version.traffic_ratio", "ratio", "share of the predictions of the model that one version made, where several serve (label variant)", floor=0.02),
    _g("version.loss_difference", "count", "mean loss less that of another version: share of errors, of a regression in units of the label (labels against, how, variant)", better="low", floor=0.01, least=-math.inf),
    _g("version.loss_difference_low", "count", "lower 95 % bound of it, which holds at every look", better="low", floor=0.01, least=-math.inf),
    _g("version.loss_difference_high", "count", "upper 95 % bound of it, which holds at every look", better="low", floor=0.01, least=-math.inf),
    _g("version.worse_evidence_count", "count", "log10 odds that it is worse than another version (labels against, how, variant)", better="low", floor=1.0, least=-math.inf),
    _s("version.proven_worse", "whether labels prove it worse than another version on the same or like requests (labels against, how, variant)", better="low", harm=True),
    _g("version.tokens_in_mean_count", "count", "mean tokens of a prompt", floor=1.0),
    _g("version.tokens_in_p95_count", "count", "95 % of the prompts have at most so many tokens", floor=1.0),
    _g("version.tokens_out_mean_count", "count", "mean tokens of an answer", floor=1.0),
    _g("version.tokens_out_p95_count", "count", "95 % of the answers have at most so many tokens", floor=1.0),
    _g("version.ttft_p50_seconds", "seconds", "half of the answers begin within this time", better="low", floor=0.01),
    _g("version.ttft_p95_seconds", "seconds", "95 % of the answers begin within this time", better="low", floor=0.01),
    _g("version.finish_ratio", "ratio", "share of the answers that stopped for a reason (label reason)", floor=0.01),
    _g("feature.missing_ratio", "ratio", "share of rows without a value", better="low", floor=0.01),
    _g("feature.out_of_range_ratio", "ratio", "share of rows outside the range of the reference", better="low", floor=0.01),
    _g("feature.drift_psi", "count", "population stability index against the reference", better="low", floor=0.05),
    _g("feature.scale_ratio", "ratio", "median against the reference median", floor=0.05, least=-math.inf, most=_OPEN),
    _g("feature.drift_evidence_count", "count", "log10 of the evidence against `as the reference`; 0 is enough", better="low", floor=1.0, least=-math.inf),
    _s("feature.drifted", "whether values are no longer as in the reference (evidence and size together)", better="low"),
    _s("feature.contract_broken", "whether the data contract is broken: missing, unit, range, stuck", better="low", harm=True),
    # ---- replica, by what its container uses
    _c("replica.cpu_seconds_total", "replica.cpu_cores", "count", "cores in use by a replica", floor=0.05),
    _g("replica.memory_bytes", "bytes", "memory of a replica that can not be taken back", floor=8e6),
    _g("replica.memory_ratio", "ratio", "memory of a replica against its limit", better="low", floor=0.01, most=_OPEN),
    _c("replica.throttled_seconds_total", "replica.throttled_ratio", "ratio", "share of time that a replica is throttled", better="low", floor=0.02),
    _c("replica.restarts_total", "replica.restarts_per_second", "per_second", "restarts of the containers of a replica", better="low"),
    _c("replica.oom_kills_total", "replica.oom_kills_per_second", "per_second", "processes of a replica killed for want of memory", better="low"),
    _s("replica.ready", "whether the cluster or its load balancer calls a replica ready", better="high"),
    _s("replica.waiting", "whether a container of a replica can not be started (label reason: CrashLoopBackOff, ImagePullBackOff, ...)", better="low"),
    _s("replica.oom_killed", "whether a container of a replica was killed for want of memory and restarted in the last ten minutes", better="low"),
    # ---- replica, by what it answers
    _g("replica.predictions_per_second", "per_second", "predictions logged by one replica", floor=0.5),
    _g("replica.prediction_distance_ratio", "ratio", "share of its predictions that would have to be others to be like those of its peers", better="low", floor=0.02),
    _g("replica.apart_evidence_count", "count", "log10 of the evidence that it answers otherwise than its peers; 0 is enough", better="low", floor=1.0, least=-math.inf),
    _s("replica.predictions_apart", "whether it answers otherwise than its peers on the same traffic", better="low", harm=True),
    # ---- metrics of others that we have no word for (label metric: their name; their labels)
    *(
        signal
        for kind in ("host", "gpu", "service", "replica", "source")
        for signal in (
            _g(f"{kind}.other_value", "count", "a metric of others that we have no word for (label metric, and its own)", least=-math.inf),
            _c(f"{kind}.other_total", f"{kind}.other_per_second", "per_second", "a counter of others that we have no word for (label metric, and its own)"),
        )
    ),
    # ---- what is logged, as an index of logs tells it; a host: records that name no service
    *(
        signal
        for kind in ("host", "service")
        for signal in (
            _g(f"{kind}.log_records_per_second", "per_second", "records logged", floor=0.5),
            _g(f"{kind}.log_errors_per_second", "per_second", "errors logged", better="low", floor=0.1),
            _g(f"{kind}.log_error_ratio", "ratio", "share of the records logged that are errors", better="low", floor=0.02),
        )
    ),
    _g("service.log_template_per_second", "per_second", "records logged of one template (label template; the rest is `(other)`)", floor=0.2),
    _g("service.log_new_templates_count", "count", "templates that the service never logged until a short time ago", better="low", floor=0.5),
    _c("source.late_records_total", "source.late_records_per_second", "per_second", "records that came to an index of logs when their time had been counted", floor=0.5, better="low"),
    # ---- alerts from elsewhere, on whom their labels name
    _s("host.alert_firing", "whether an alert from elsewhere fires (labels alert, source)", better="low"),
    _s("gpu.alert_firing", "whether an alert from elsewhere fires (labels alert, source)", better="low"),
    _s("service.alert_firing", "whether an alert from elsewhere fires (labels alert, source)", better="low"),
    _s("dependency.alert_firing", "whether an alert from elsewhere fires (labels alert, source)", better="low"),
    _s("model.alert_firing", "whether an alert from elsewhere fires (labels alert, source)", better="low"),
    _s("source.alert_firing", "whether an alert from elsewhere fires (labels alert, source)", better="low"),
    # ---- source: our own eyes
    _g("source.age_seconds", "seconds", "time since a source last answered", better="low", floor=1.0, least=-math.inf),
    _g("source.poll_seconds", "seconds", "time that a poll took", better="low", floor=0.01),
    _g("source.poll_cpu_ratio", "ratio", "CPU that polling costs, of one core", better="low", floor=0.001, most=_OPEN),
    _s("source.blind", "whether a source has not answered for three of its intervals", better="low"),
    _g("source.series_count", "count", "series of a source", floor=1),
)
# fmt: on


def _flatten() -> dict[str, SignalDef]:
    out: dict[str, SignalDef] = {}
    for item in _DEFS:
        for one in item if isinstance(item, tuple) else (item,):
            if one.name in out or not re.fullmatch(r"[a-z]+\.[a-z][a-z0-9_]*", one.name):
                raise ValueError(f"signal {one.name!r} is defined twice or badly named")
            out[one.name] = one
    return out


SIGNALS: Final[dict[str, SignalDef]] = _flatten()
"""Name -> definition of every signal."""


def signal(name: str) -> SignalDef:
    """Return the definition; raises KeyError when nobody defined it."""
    return SIGNALS[name]


@lru_cache(maxsize=4096)
def labelled(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Read `signal{label=value}`: the signal, and the labels that its series must have. Raises ValueError."""
    name, brace, rest = text.strip().partition("{")
    parts = [part.partition("=") for part in rest.removesuffix("}").split(",")] if brace else []
    if brace and not (rest.endswith("}") and all(k.strip() and v.strip() for k, _, v in parts)):
        raise ValueError(f"`{text}` names no labels; write signal{{label=value}}")
    return name, tuple(sorted((k.strip(), v.strip()) for k, _, v in parts))
