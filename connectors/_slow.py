"""What a host tells only by calls that may block or take long: file systems, sensors, sessions.

They are asked beside the event loop (`_aside`), more seldom than the rest is read. A value stands until its next
answer should have come: its period and the time limit of a call; after that it is NaN.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from connectors._aside import Answer, Aside
from connectors._kernel import NAN, Column, Section, column
from connectors._proc import ProcFile

_SENSORS_S: Final = 10.0
_USERS_S: Final = 30.0
_LINKS_S: Final = 30.0
_MOST_MOUNTS: Final = 64
_MOST_CORES: Final = 64


class Slow(Section):
    """A section whose calls are made beside the loop, every `every_s` seconds."""

    def __init__(self, aside: Aside, every_s: float) -> None:
        super().__init__()
        self._aside = aside
        self._every_s = every_s
        self._due = -math.inf

    def ask(self) -> bool:
        """Start the calls when they are due; tell whether they were."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + self._every_s
        self._start()
        return True

    def _start(self) -> None:
        raise NotImplementedError

    def _answer(self, key: str) -> Answer | None:
        """Return the newest answer; None where it is too old or the next one is overdue."""
        return self._aside.answer(key, self._every_s + self._aside.limit_s)

    def _value(self, key: str) -> Any:
        """Return what the call said, None where nothing is known; raises what the call raised."""
        answer = self._answer(key)
        if answer is None:
            return None
        if answer.error is not None:
            raise answer.error
        return answer.value


class Listed(Slow):
    """A slow section whose one call finds out what there is, and how it is."""

    def _start(self) -> None:
        self._aside.ask(type(self).__name__, self.look)

    def look(self) -> list[tuple[Column, float]]:
        """Return columns with their values; called beside the loop."""
        raise NotImplementedError

    def read(self) -> list[float]:
        found: list[tuple[Column, float]] | None = self._value(type(self).__name__)
        if found is None:
            return [NAN] * len(self.columns)
        columns = [col for col, _ in found]
        if columns != self.columns:
            self.columns = columns
        return [value for _, value in found]


class Mounts(Slow):
    """Space and inodes of file systems that hold something: disks, network file systems, tmpfs that people use."""

    _PSEUDO: Final = frozenset(
        {
            "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs",
            "efivarfs", "erofs", "fusectl", "hugetlbfs", "iso9660", "mqueue", "nsfs", "proc", "pstore", "ramfs",
            "rootfs", "rpc_pipefs", "securityfs", "selinuxfs", "squashfs", "sysfs", "tracefs",
            "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "fuse.snapfuse",
        }
    )  # fmt: skip
    _TMPFS: Final = frozenset({"/dev/shm", "/tmp", "/run", "/var/tmp"})  # noqa: S108  # asked for space, not written to

    def __init__(
        self, aside: Aside, mountinfo: Path, every_s: float, ignore: Sequence[str]
    ) -> None:
        super().__init__(aside, every_s)
        self._file = ProcFile(mountinfo)
        self._ignore = [re.compile(".*".join(map(re.escape, glob.split("*")))) for glob in ignore]
        self._raw = b""
        self._fault: OSError | None = None
        self._mounts: list[str] = []
        self._read_only: set[str] = set()
        self._without_inodes: set[str] = set()

    def _start(self) -> None:
        try:
            raw = self._file.read()
        except OSError as error:
            self._fault = error  # told by the next `read`, as for every other section
            return
        self._fault = None
        if raw != self._raw:
            self._raw = raw
            mounts = self.chosen(raw)
            for gone in set(self._mounts) - set(mounts):
                self._aside.forget(f"mount {gone}")
            self._mounts = mounts
            self._lay_out()
        for mount in self._mounts:
            self._aside.ask(f"mount {mount}", partial(os.statvfs, mount))

    def chosen(self, mountinfo: bytes) -> list[str]:
        """Return the mount points to look at: one for each file system, the shortest path to it.

        Notes which of them take no writes, by their own options or by those of their file system.
        """
        at: dict[str, tuple[str, str, str]] = {}
        read_only = set()
        for line in os.fsdecode(mountinfo).splitlines():
            left, _, right = line.partition(" - ")
            _, _, device, _, raw_point, options = left.split(" ")[:6]
            kind = right.split(" ")[0]
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), raw_point)
            told = {*options.split(","), *right.split(" ")[-1].split(",")}
            if told & {"ro", "emergency_ro"}:  # the second: newer kernels, after an error
                read_only.add(point)
            else:
                read_only.discard(point)
            at[point] = (device, kind, options)  # a later mount at one place hides the earlier
        best: dict[str, str] = {}
        for point, (device, kind, options) in at.items():
            if kind in self._PSEUDO or any(glob.fullmatch(point) for glob in self._ignore):
                continue
            if kind == "tmpfs" and (point not in self._TMPFS or "ro" in options.split(",")):
                continue
            if kind == "overlay" and point != "/":
                continue
            if device not in best or (len(point), point) < (len(best[device]), best[device]):
                best[device] = point
        mounts = sorted(best.values())[:_MOST_MOUNTS]
        self._read_only = read_only & set(mounts)
        return mounts

    def read(self) -> list[float]:
        if self._fault is not None:
            raise self._fault
        out: list[float] = []
        counts_changed = False
        for mount in self._mounts:
            key = f"mount {mount}"
            answer = self._answer(key)
            out.append(float(mount in self._read_only))
            if answer is None or answer.error is not None:
                # an error (a stale handle, a dead disk) is an answer, but not one of a file system that works
                silent = answer is None and not self._aside.overdue(key)
                out += [NAN] * (3 if mount in self._without_inodes else 4)
                out.append(NAN if silent else 0.0)
                continue
            stat: os.statvfs_result = answer.value
            if (stat.f_files == 0) != (mount in self._without_inodes):
                self._without_inodes ^= {mount}
                counts_changed = True
            used = float((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
            free = float(stat.f_bavail * stat.f_frsize)
            # as df says it: what is kept for root is neither used nor free
            out += [used, free, used / (used + free) if used + free else NAN]
            if stat.f_files:
                out.append((stat.f_files - stat.f_ffree) / stat.f_files)
            out.append(1.0)
        if counts_changed:
            self._lay_out()
        return out

    def _lay_out(self) -> None:
        columns: list[Column] = []
        for mount in self._mounts:
            name = mount.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            columns += [
                column("host.mount_read_only", mount=name),
                column("host.disk_bytes", mount=name, use="used"),
                column("host.disk_bytes", mount=name, use="free"),
                column("host.disk_utilization_ratio", mount=name),
            ]
            if mount not in self._without_inodes:  # btrfs and many network file systems count none
                columns.append(column("host.disk_inodes_ratio", mount=name))
            columns.append(column("host.mount_reachable", mount=name))
        self.columns = columns


class Sensors(Listed):
    """Temperatures, fans and clocks, where the machine shows them; reading some of them takes milliseconds."""

    def __init__(self, aside: Aside, sysfs: Path) -> None:
        super().__init__(aside, _SENSORS_S)
        clocks = sysfs.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        self._clocks = sorted(clocks)[:_MOST_CORES]

    def look(self) -> list[tuple[Column, float]]:
        found: list[tuple[Column, float]] = []
        for chip, label, value in named_sensors("sensors_temperatures"):
            found.append((column("host.temperature_celsius", chip=chip, sensor=label), value))
        for chip, label, value in named_sensors("sensors_fans"):
            found.append((column("host.fan_rpm_count", chip=chip, sensor=label), value))
        for path in self._clocks:
            core = path.parts[-3].removeprefix("cpu")
            try:
                hertz = float(path.read_bytes()) * 1e3
            except (OSError, ValueError):  # a core that is off line
                hertz = NAN
            found.append((column("host.cpu_frequency_hertz", core=core), hertz))
        return found


def named_sensors(ask: str) -> list[tuple[str, str, float]]:
    """Return (chip, sensor, value) of what psutil finds; nothing where the system has no such call."""
    import psutil  # only in the thread that needs it

    call: Callable[[], dict[str, list[Any]]] | None = getattr(psutil, ask, None)
    out: list[tuple[str, str, float]] = []
    taken: set[tuple[str, str]] = set()
    for chip, sensors in sorted((call() if call else {}).items()):
        for i, sensor in enumerate(sensors):
            label = sensor.label or str(i)
            if (chip, label) in taken:  # two of one name on a chip
                label = f"{label} {i}"
            taken.add((chip, label))
            out.append((chip, label, float(sensor.current)))
    return out


class Links(Listed):
    """Speed of the network cards that say it; to ask some of their drivers takes a while."""

    def __init__(self, aside: Aside, sysfs: Path) -> None:
        super().__init__(aside, _LINKS_S)
        self._root = sysfs / "class/net"

    def look(self) -> list[tuple[Column, float]]:
        found = []
        for folder in sorted(self._root.glob("*/device")):
            try:
                megabits = int((folder.parent / "speed").read_bytes())
            except (OSError, ValueError):  # it is down
                continue
            if megabits > 0:  # -1: it does not know
                col = column("host.network_speed_bytes_per_second", interface=folder.parent.name)
                found.append((col, megabits * 1e6 / 8))
        return found


class Users(Slow):
    """Sessions of people."""

    def __init__(self, aside: Aside) -> None:
        super().__init__(aside, _USERS_S)
        self.columns = [column("host.users_count")]

    def _start(self) -> None:
        self._aside.ask("users", count_users)

    def read(self) -> list[float]:
        users = self._value("users")
        return [NAN if users is None else float(users)]


def count_users() -> int:
    """Count who is logged in."""
    import psutil  # only in the thread that needs it

    return len(psutil.users())
