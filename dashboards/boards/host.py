"""Host: what one machine is short of, and who takes it."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.parts import (
    GREEN,
    ORANGE,
    RED,
    YES_NO,
    Q,
    Row,
    Step,
    bad_from,
    board,
    choice,
    lines,
    named,
    ok_until,
    own,
    says,
    signal,
    stat,
    states,
    values,
)

UID = "homeostat-host"
_HOST = {"entity": "$host"}
_NOT_SOON = "not within the time that is foretold"


def _host(name: str, **labels: str) -> str:
    return signal(name, **_HOST, **labels)


def _full() -> str:
    """Return how soon the first of what fills is full."""
    soon = (
        "disk_full",
        "disk_inodes_full",
        "memory_full",
        "swap_full",
        "threads_full",
        "file_descriptors_full",
    )
    return "min(" + " or ".join(
        f'label_replace({_host(f"host.{what}_seconds")}, "what", "{what}", "", "")' for what in soon
    ) + ")"  # fmt: skip


def build() -> m.Dashboard:
    """Build it."""
    modes = "user|system|iowait|steal|irq|softirq|nice"
    limit = own("objective_limit", signal="host.disk_utilization_ratio", bound="high", **_HOST)
    return board(
        UID,
        "Homeostat / Host",
        "What one machine is short of, since when, and who takes it.",
        [
            choice(
                "host", "Host", "The machine that an agent runs on, or that its sources tell of.",
                values("entity", signal("host.cpu_busy_ratio")),
            ),
        ],
        [
            Row("Is it short of anything?", (
                stat(
                    "Incidents here", "Open incidents about this host.",
                    Q(f'count({own("incident_opened_timestamp_seconds", **_HOST)}) or vector(0)'), steps=bad_from(1),
                ),
                stat(
                    "CPU busy", says("host.cpu_busy_ratio"), Q(f'max({_host("host.cpu_busy_ratio")})'),
                    unit="percentunit", steps=ok_until(0.8, 0.95), line=True, none="nobody tells",
                ),
                stat(
                    "Memory", says("host.memory_utilization_ratio"), Q(f'max({_host("host.memory_utilization_ratio")})'),
                    unit="percentunit", steps=ok_until(0.85, 0.95), line=True, none="nobody tells",
                ),
                stat(
                    "Fullest disk", says("host.disk_utilization_ratio"), Q(f'max({_host("host.disk_utilization_ratio")})'),
                    unit="percentunit", steps=ok_until(0.85, 0.95), line=True, none="nobody tells",
                ),
                stat(
                    "Something is full in", "Time until the first of what fills on this host (disks, inodes, memory, "
                    "swap, threads, open files) is full, as sure as `forecasts:` asks.",
                    Q(_full()), unit="s", none=_NOT_SOON, steps=(Step(None, RED), Step(3600, ORANGE), Step(86_400, GREEN)),
                ),
                stat(
                    "Up", says("host.uptime_seconds"), Q(f'max({_host("host.uptime_seconds")})'), unit="s",
                    none="nobody tells",
                ),
                lines(
                    "Tasks that wait", says("host.pressure_ratio") + " Dashed: the limits of physics.",
                    Q(_host("host.pressure_ratio", who="some"), "{{resource}}"),
                    Q(own("objective_limit", signal="host.pressure_ratio", who="some", **_HOST), "limit of {{resource}}"),
                    unit="percentunit", size=(12, 8), dashed=["^limit"], none="the kernel does not tell (no PSI)",
                ),
                lines(
                    "How unusual it is", "Series of this host that are abnormal now: how rare each value is, as -log10 "
                    "of its p-value. 3 is once in a thousand looks.",
                    Q(f'topk(8, {own("series_score", **_HOST)})', "{{signal}} {{mount}}{{device}}{{interface}}"),
                    size=(12, 8), none="nothing here is abnormal",
                ),
            )),
            Row("CPU", (
                lines(
                    "CPU by what it does", says("host.cpu_utilization_ratio"),
                    Q(_host("host.cpu_utilization_ratio", mode=modes), "{{mode}}"), unit="percentunit", stacked=True,
                    none="nobody tells",
                ),
                lines(
                    "Load", "Mean number of tasks that run or wait, over one, five and fifteen minutes.",
                    Q(_host("host.load1_count"), "1 min"), Q(_host("host.load5_count"), "5 min"),
                    Q(_host("host.load15_count"), "15 min"), none="nobody tells",
                ),
                lines(
                    "Cores", says("host.core_utilization_ratio"),
                    Q(_host("host.core_utilization_ratio"), "core {{core}}"), unit="percentunit", size=(8, 8),
                    none="nobody tells",
                ),
                lines(
                    "Kernel at work", "Context switches, interrupts and new processes.",
                    Q(_host("host.context_switches_per_second"), "context switches"),
                    Q(_host("host.interrupts_per_second"), "interrupts"),
                    Q(_host("host.forks_per_second"), "forks"), unit="ops", size=(8, 8), none="nobody tells",
                ),
                lines(
                    "Own container", "What the container of the agent may use, and how long it is throttled.",
                    Q(_host("host.cgroup_cpu_cores"), "cores in use"), Q(_host("host.cgroup_cpu_limit_count"), "cores allowed"),
                    Q(_host("host.cgroup_throttled_ratio"), "share of time throttled"), size=(8, 8),
                    none="the agent runs in no container",
                ),
            )),
            Row("Memory", (
                lines(
                    "Memory by use", says("host.memory_bytes"), Q(_host("host.memory_bytes", use="anon|cached|buffers|slab|page_tables|free"), "{{use}}"),
                    unit="bytes", stacked=True, none="nobody tells",
                ),
                lines(
                    "Want of memory", "Pages that are read again soon after they were given up, tasks that have to free memory "
                    "themselves, and kills.",
                    Q(_host("host.refaults_per_second"), "refaults, {{type}}"),
                    Q(_host("host.allocation_stalls_per_second"), "stalls, {{type}}"),
                    Q(_host("host.oom_kills_per_second"), "killed"), unit="ops", none="nobody tells",
                ),
            )),
            Row("Disks", (
                lines(
                    "Space in use", says("host.disk_utilization_ratio"),
                    Q(_host("host.disk_utilization_ratio"), "{{mount}}"), Q(f"max by (mount) ({limit})", "limit of {{mount}}"),
                    unit="percentunit", high=1.0, dashed=["^limit"], size=(8, 8), none="nobody tells",
                ),
                lines(
                    "Read and written", "Bytes read from and written to disks.",
                    Q(_host("host.disk_read_bytes_per_second"), "read, {{device}}"),
                    Q(_host("host.disk_written_bytes_per_second"), "written, {{device}}"), unit="Bps", size=(8, 8),
                    none="no disk of its own",
                ),
                lines(
                    "How long disks take", "Mean time of a read, a write and a flush.",
                    Q(_host("host.disk_read_latency_seconds"), "read, {{device}}"),
                    Q(_host("host.disk_write_latency_seconds"), "write, {{device}}"),
                    Q(_host("host.disk_flush_latency_seconds"), "flush, {{device}}"), unit="s", size=(8, 8),
                    none="no disk of its own was used",
                ),
            )),
            Row("Network", (
                lines(
                    "Traffic", "Bytes received and sent.",
                    Q(_host("host.network_received_bytes_per_second"), "received, {{interface}}"),
                    Q(_host("host.network_sent_bytes_per_second"), "sent, {{interface}}"), unit="Bps", size=(8, 8),
                    none="nobody tells",
                ),
                lines(
                    "Lost", "Packets with errors, packets dropped, segments sent again.",
                    Q(_host("host.network_errors_per_second"), "errors, {{interface}} {{direction}}"),
                    Q(_host("host.network_drops_per_second"), "drops, {{interface}} {{direction}}"),
                    Q(_host("host.tcp_retransmits_per_second"), "sent again"), unit="pps", size=(8, 8), none="nobody tells",
                ),
                lines(
                    "Connections", says("host.tcp_established_count"),
                    Q(_host("host.tcp_established_count"), "established"),
                    Q(_host("host.tcp_opens_per_second"), "opened per second, {{type}}"),
                    Q(_host("host.tcp_resets_per_second"), "reset per second, {{direction}}"), size=(8, 8),
                    none="nobody tells",
                ),
            )),
            Row("Who takes it", (
                lines(
                    "Applications by CPU", says("host.application_cpu_cores"),
                    Q(f'topk(8, {_host("host.application_cpu_cores")})', "{{application}}"), stacked=True,
                    none="the source `processes` is off",
                ),
                lines(
                    "Applications by memory", says("host.application_memory_bytes"),
                    Q(f'topk(8, {_host("host.application_memory_bytes")})', "{{application}}"), unit="bytes", stacked=True,
                    none="the source `processes` is off",
                ),
                lines(
                    "Containers and units by CPU", says("host.group_cpu_cores"),
                    Q(f'topk(8, {_host("host.group_cpu_cores")})', "{{group}}"), size=(8, 8),
                    none="no containers, and no units of systemd",
                ),
                lines(
                    "Process groups by CPU", says("process.cpu_cores") + " Of the agents that are chosen above.",
                    Q(f'topk(8, {named(signal("process.cpu_cores"))})', "{{name}}"), size=(8, 8),
                    none="the source `processes` is off",
                ),
                lines(
                    "Open files and threads", "Against what is allowed.",
                    Q(_host("host.file_descriptors_ratio"), "open files"), Q(_host("host.threads_ratio"), "threads"),
                    unit="percentunit", size=(8, 8), none="nobody tells",
                ),
            )),
            Row("States", (
                states(
                    "What is wrong with it", "States of the host that are bad when they are so: read-only file systems, failed "
                    "units, trouble that the kernel told of, degraded RAIDs.",
                    Q(_host("host.mount_read_only"), "{{mount}} takes no writes"),
                    Q(_host("host.unit_failed"), "{{unit}} has failed"),
                    Q(_host("host.kernel_event_seen"), "kernel: {{event}}"),
                    Q(_host("host.raid_degraded"), "{{array}} lacks disks"), maps=YES_NO, none="nobody tells",
                ),
                states(
                    "What must be so", "States of the host that are good when they are so: links up, file systems that answer, "
                    "a clock that is kept right.",
                    Q(_host("host.network_up"), "{{interface}} up"), Q(_host("host.mount_reachable"), "{{mount}} answers"),
                    Q(_host("host.clock_synchronized"), "clock is kept right"),
                    maps={"0": ("no", RED), "1": ("yes", GREEN)}, none="nobody tells",
                ),
            )),
        ],
        since="now-3h",
    )  # fmt: skip
