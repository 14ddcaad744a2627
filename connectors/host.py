"""The host we run on: CPU, memory, pressure, disks, network, sensors, limits of our container.

/proc, /sys --(read here, < 1 ms)--------------------------+
statvfs, sensors, users --(may block: beside the loop)-----+--> one row, one table --> Frame
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import structlog
from pydantic import Field

from agent.errors import Unavailable
from agent.model import Frame, IntArray, Series, Sighting
from agent.registry import connector
from agent.units import Duration, Model, Span, say
from connectors._aside import Aside
from connectors._hardware import ClockState, InfiniBand, MemoryControllers, MemoryNodes, Raid
from connectors._kernel import (
    NAN,
    Cgroup,
    Column,
    Cpu,
    Disks,
    Limits,
    Load,
    Memory,
    Network,
    Paging,
    Pressure,
    Protocols,
    Section,
    Sockets,
    cgroup_pressure,
)
from connectors._proc import boot_id, in_container, this_host
from connectors._slow import Links, Mounts, Sensors, Slow, Users

log = structlog.get_logger()

_WAIT_FIRST_S: Final = 0.5
_WAIT_S: Final = 0.05


@connector("host")
class Host:
    """What /proc and /sys tell of this machine; about 230 series on 2 cores, some more for each core, disk, mount.

    CPU, memory, pressure, limits, disks, mounts, network, protocols, sensors; where the host has them also software
    RAID, errors that memory controllers count, memory nodes, InfiniBand, and whether the clock is kept right.

    Emits `host.*` of `agent.catalogue` on one host entity, and its attributes once. Counters stay counters.
    Cost: about 0.6 ms of CPU a reading (2 cores), 25 descriptors kept open, one thread that mostly sleeps.

    What may block (file systems, sensors, who is logged in) is asked in a thread of its own, more seldom than the
    rest: mounts every `mounts_every`, sensors every 10 s, users every 30 s. Such a value stands in the frames until
    its next answer is due and `mount_timeout` has passed, then it is NaN. A mount that does not answer within
    `mount_timeout` has `host.mount_reachable` 0 and NaN elsewhere, and is not asked again before it has answered.

    Raises Unavailable when /proc can not be read. Elsewhere than on Linux it tells what psutil knows.
    """

    tested = "the kernel's own files, beside node_exporter 1.5"

    class Config(Model):
        """What to look at."""

        procfs: Path = Path("/proc")
        """Where the host's /proc is mounted; another place when we run in a container and watch the host."""
        sysfs: Path = Path("/sys")
        cores_in_detail: Annotated[int, Field(ge=0)] = 16
        """CPU modes of each core, too, on machines with at most so many cores."""
        ignore_interfaces: list[str] = [
            "veth*", "cali*", "lxc*", "ifb*", "tunl*", "dummy*", "nodelocaldns",
        ]  # fmt: skip
        """Interfaces (with * allowed) that come and go with every container."""
        ignore_disks: list[str] = ["sr*", "fd*", "nbd*"]
        ignore_mounts: list[str] = [
            "/etc/*", "/snap/*", "/run/user/*", "/run/containerd/*", "/run/credentials/*", "/var/lib/docker/*",
            "/var/lib/containers/*", "/var/lib/containerd/*", "/var/lib/kubelet/*",
        ]  # fmt: skip
        """Mount points (with * allowed) that are not looked at."""
        mounts_every: Annotated[Duration, Field(ge=0.1)] = 5.0
        mount_timeout: Span = 2.0
        """A file system that has not answered for so long is unreachable."""

    interval_s = 1.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.entity = this_host()
        self._aside = Aside(config.mount_timeout)
        self._sections: list[Section] = []
        self._layout: list[list[Column]] = []
        self._series: tuple[Series, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        self._failed: dict[str, str] = {}
        self._told: tuple[tuple[str, str], ...] = ()

    async def poll(self) -> Frame:
        """Read everything once; waits at most a moment for what may block."""
        first = not self._sections
        if first:
            self._sections = self._find_sections()
        slow = [section for section in self._sections if isinstance(section, Slow)]
        if sum(section.ask() for section in slow):
            await self._aside.settle(_WAIT_FIRST_S if first else _WAIT_S)
        ts = time.time()
        row: list[float] = []
        for section in self._sections:
            row += self._read(section)
        layout = [section.columns for section in self._sections]
        if len(layout) != len(self._layout) or any(
            a is not b for a, b in zip(layout, self._layout, strict=True)
        ):
            self._build(layout)
        values = np.array(row, dtype=np.float64)[self._order]
        return Frame(self.name, ts, self._series, values, seen=self._sighting())

    async def describe(self) -> Sequence[str]:
        """Say what this machine is and what of it can be seen."""
        frame = await self.poll()
        facts = dict(self._told)
        known = int(np.isfinite(frame.values).sum())
        metrics = {series.metric for series in frame.series}
        memory = say(float(facts["memory_bytes"]), "bytes")
        lines = [
            f"host {facts['hostname']}: {facts['os']}, kernel {facts['kernel']}, {facts['cores']} cores, {memory}"
            + (", in a container" if facts["container"] == "yes" else ""),
            f"{len(frame.series)} series of {len(metrics)} signals, {known} with a value now",
        ]
        for label in ("mount", "device", "interface"):
            names = sorted({dict(s.labels)[label] for s in frame.series if label in dict(s.labels)})
            lines.append(f"{label}s: {', '.join(names) or 'none'}")
        absent = [
            what
            for what, metric in (
                ("pressure (PSI)", "host.pressure_seconds_total"),
                ("swap", "host.swap_utilization_ratio"),
                ("temperatures", "host.temperature_celsius"),
                ("fans", "host.fan_rpm_count"),
                ("clock frequencies", "host.cpu_frequency_hertz"),
                ("errors of memory (EDAC)", "host.memory_errors_total"),
                ("whether the clock is kept right", "host.clock_synchronized"),
            )
            if metric not in metrics
        ]
        if absent:
            lines.append(f"not to be seen here: {', '.join(absent)}")
        lines += [f"can not read {what}: {why}" for what, why in sorted(self._failed.items())]
        return lines

    def close(self) -> None:
        """Let the thread beside the loop end."""
        self._aside.close()

    # ---- reading

    def _read(self, section: Section) -> list[float]:
        """Return the values of a section; NaN, and a word in the log once, where it can not be read."""
        what = type(section).__name__.lower()
        try:
            row = section.read()
        except (OSError, ValueError, LookupError) as error:
            if isinstance(section, (Cpu, Memory)) and not section.columns:
                raise Unavailable(
                    f"can not read {what} of {self.entity}: {error}; is {self.config.procfs} mounted and readable?"
                ) from error
            if what not in self._failed:
                log.warning("host_section_failed", section=what, error=str(error))
            self._failed[what] = str(error)
            return [NAN] * len(section.columns)
        if self._failed.pop(what, None) is not None:
            log.info("host_section_back", section=what)
        return row

    def _build(self, layout: list[list[Column]]) -> None:
        """Make the table anew; `_order` brings the row into its order."""
        series = [
            Series(metric, self.entity, labels) for columns in layout for metric, labels in columns
        ]
        order = sorted(range(len(series)), key=lambda i: (series[i].metric, series[i].labels))
        self._layout = layout
        self._series = tuple(series[i] for i in order)
        self._order = np.array(order, dtype=np.int64)

    def _find_sections(self) -> list[Section]:
        """Return what this system can tell."""
        config, proc, sysfs = self.config, self.config.procfs, self.config.sysfs
        beside: list[Section] = [Sensors(self._aside, sysfs), Users(self._aside)]
        if not sys.platform.startswith("linux"):
            from connectors._portable import Portable  # only where there is no /proc

            return [Portable(), *beside]
        # of a /proc that is not our own, `net` would still be our network: the host's is that of its first process
        own = proc == Path("/proc")
        net = proc / "net" if own or not (proc / "1/net").is_dir() else proc / "1/net"
        psi = [(r, proc / "pressure" / r) for r in ("cpu", "memory", "io", "irq")]
        found: list[Section] = [
            Cpu(proc, config.cores_in_detail),
            Load(proc),
            Memory(proc),
            Paging(proc),
            Pressure([(r, p) for r, p in psi if p.exists()], "host.pressure_seconds_total"),
            Limits(proc),
            Disks(proc, sysfs, config.ignore_disks),
            Network(net, sysfs, config.ignore_interfaces),
            Protocols(net),
            Sockets(net, proc),
            Raid(proc),
            MemoryControllers(sysfs),
            MemoryNodes(sysfs),
            InfiniBand(self._aside, sysfs),
            ClockState(),
            Links(self._aside, sysfs),
            Mounts(self._aside, proc / "self/mountinfo", config.mounts_every, config.ignore_mounts),
            *beside,
        ]
        if own and in_container():
            membership = (proc / "self/cgroup").read_text("utf-8")
            found.append(Cgroup(sysfs / "fs/cgroup", membership))
            found.append(cgroup_pressure(sysfs / "fs/cgroup", membership))
        return found

    def _sighting(self) -> tuple[Sighting, ...]:
        """Return the host with its attributes when they are new or have changed."""
        cpu = next((s for s in self._sections if isinstance(s, Cpu)), None)
        cores = cpu.cores if cpu is not None else os.cpu_count() or 1
        if self._told and dict(self._told)["cores"] == str(cores):
            return ()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        facts = {
            "hostname": self.entity.key,
            "os": _os_name(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cores": str(cores),
            "memory_bytes": str(memory),
            "container": "yes" if in_container() else "no",
            "boot": boot_id(),
        }
        self._told = tuple(sorted(facts.items()))
        return (Sighting(self.entity, self._told),)


# ---- what kind of machine


def _os_name() -> str:
    """Return the name that the system gives itself."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
