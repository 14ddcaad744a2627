"""The few things that psutil tells about a host on every system: what macOS gets instead of /proc."""

from __future__ import annotations

import math
import os

import psutil

from connectors._kernel import Column, Section, column


class Portable(Section):
    """CPU by mode and core, load, memory, swap, disk and network sums. Cost: 1 to 2 ms a reading."""

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[float, float] | None = None

    def read(self) -> list[float]:
        found: list[tuple[Column, float]] = []
        add = found.append
        cores = psutil.cpu_times(percpu=True)
        summed = {
            mode: sum(getattr(core, mode) for core in cores)
            for mode in ("user", "nice", "system", "idle")
        }
        for mode, seconds in summed.items():
            add((column("host.cpu_seconds_total", mode=mode), seconds / len(cores)))
        for i, core in enumerate(cores):
            busy = core.user + core.nice + core.system
            add((column("host.core_seconds_total", core=str(i)), busy))
        total = sum(summed.values())
        add((column("host.cpu_busy_ratio"), self._busy_share(total - summed["idle"], total)))
        for name, value in zip(("load1", "load5", "load15"), os.getloadavg(), strict=True):
            add((column(f"host.{name}_count"), value))
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        used = memory.total - memory.available
        add((column("host.memory_bytes", use="total"), memory.total))
        add((column("host.memory_bytes", use="used"), used))
        add((column("host.memory_bytes", use="free"), memory.free))
        add((column("host.memory_bytes", use="available"), memory.available))
        add((column("host.memory_utilization_ratio"), used / memory.total))
        if swap.total:
            add((column("host.swap_bytes", use="used"), swap.used))
            add((column("host.swap_bytes", use="free"), swap.free))
            add((column("host.swap_utilization_ratio"), swap.used / swap.total))
        for name, io in sorted(psutil.disk_io_counters(perdisk=True).items()):
            add((column("host.disk_reads_total", device=name), io.read_count))
            add((column("host.disk_writes_total", device=name), io.write_count))
            add((column("host.disk_read_bytes_total", device=name), io.read_bytes))
            add((column("host.disk_written_bytes_total", device=name), io.write_bytes))
        for name, net in sorted(psutil.net_io_counters(pernic=True).items()):
            add((column("host.network_received_bytes_total", interface=name), net.bytes_recv))
            add((column("host.network_sent_bytes_total", interface=name), net.bytes_sent))
            add((column("host.network_received_packets_total", interface=name), net.packets_recv))
            add((column("host.network_sent_packets_total", interface=name), net.packets_sent))
            ways = ("in", net.errin, net.dropin), ("out", net.errout, net.dropout)
            for direction, errors, drops in ways:
                labels = {"interface": name, "direction": direction}
                add((column("host.network_errors_total", **labels), errors))
                add((column("host.network_drops_total", **labels), drops))
        columns = [col for col, _ in found]
        if columns != self.columns:
            self.columns = columns
        return [float(value) for _, value in found]

    def _busy_share(self, busy: float, total: float) -> float:
        before, self._before = self._before, (busy, total)
        if before is None or total <= before[1]:
            return math.nan
        return min(1.0, max(0.0, (busy - before[0]) / (total - before[1])))
