"""Containers and units of systemd by what their control groups use, are allowed and wait for (cgroup v2).

the tree of groups --(every 10 s)--> which are containers or units, their names and limits
each of them --(every poll, one descriptor a group)--> cpu.stat, memory.*, io.stat, pids.current, *.pressure
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from agent.model import Frame, IntArray, Series
from agent.registry import connector
from agent.units import Model, many
from connectors._proc import read_at, this_host

NAN: Final = math.nan
_WALK_S: Final = 10.0
_DEPTH: Final = 8
_MOST_WALKED: Final = 5000
_ID: Final = re.compile(
    r"(?:(?:docker|cri-containerd|containerd|crio|libpod)-)?([0-9a-f]{64})(?:\.scope)?"
)
_NAMED: Final = re.compile(r"(?:lxc\.payload[./]|machine-)(.+?)(?:\.scope)?")
_UNIT: Final = re.compile(r"(.+)\.service")
_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")
_SHORT: Final = 12
_RESOURCES: Final = ("cpu", "memory", "io")


@dataclass(slots=True)
class _Group:
    """One container or unit: where it is, what it is called, what it is allowed, and which columns it has."""

    path: Path
    name: str
    runs: str
    folder: int = -1
    cores: float = NAN
    memory: float = NAN
    processes: float = NAN
    columns: list[str] = field(default_factory=list)
    there: bool = True


@connector("containers")
class Containers:
    """Containers and units of systemd: CPU, throttling, memory, limits, kills, disk, processes and pressure of each.

    Emits `host.group_*` with the labels `group` and `runs` (container, unit): Docker, Podman, containerd and CRI-O
    with or without Kubernetes, LXC and machines; units that are services. A container is named as its engine names it
    where that can be read (`/var/log/containers`, Docker's folder), else by the first 12 digits of its id.
    Memory is what can not go at once (without inactive file cache), as the kubelet counts it. A limit is the lowest of
    the group and of those above it; ratios are there only where there is one, throttling only with a quota of CPU,
    pressure only of containers.

    Only cgroup v2; without it, or without any such group, the source is silent. Our own container is seen by `host`.
    Cost: about 0.1 ms of CPU a container and poll, one descriptor each.
    """

    tested = "recorded trees of cgroup v2; the kernel's own where there are any"

    class Config(Model):
        """Where the groups are, and how many of them are looked at."""

        root: Path = Path("/sys/fs/cgroup")
        most: Annotated[int, Field(ge=1, le=500)] = 150
        """Containers come first, then units."""
        units: bool = True
        """Units of systemd, too."""
        ignore_units: list[str] = ["systemd-", "getty@", "serial-getty@", "user@", "dbus"]
        """Units whose names begin so."""
        docker: Path = Path("/var/lib/docker/containers")
        pods: Path = Path("/var/log/containers")

    interval_s = 5.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._groups: dict[Path, _Group] = {}
        self._left_out = 0
        self._walked_at = -math.inf
        self._layout: tuple[tuple[Path, tuple[str, ...]], ...] = ()
        self._series: tuple[Series, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)

    async def poll(self) -> Frame:
        """Read every group once; look for new ones now and then."""
        now = time.monotonic()
        if now - self._walked_at >= _WALK_S or not all(g.there for g in self._groups.values()):
            self._walk()
            self._walked_at = now
        ts = time.time()
        row = [value for group in self._groups.values() for value in self._read(group)]
        layout = tuple((path, tuple(group.columns)) for path, group in self._groups.items())
        if layout != self._layout:
            self._layout = layout
            series = [
                self._column(group, metric)
                for group in self._groups.values()
                for metric in group.columns
            ]
            order = sorted(range(len(series)), key=lambda i: series[i])
            self._series = tuple(series[i] for i in order)
            self._order = np.array(order, dtype=np.int64)
        values = np.array(row, dtype=np.float64)[self._order]
        return Frame(self.name, ts, self._series, values)

    async def describe(self) -> Sequence[str]:
        """Say which containers and units there are."""
        if not self._is_v2():
            return (
                f"no cgroup v2 at {self.config.root}: containers and units are not looked at here",
            )
        frame = await self.poll()
        containers, units = (
            [g.name for g in self._groups.values() if g.runs == runs]
            for runs in ("container", "unit")
        )
        groups = f"{many(len(containers), 'container')} and {many(len(units), 'unit')}"
        lines = [
            f"{groups} of systemd, {len(frame.series)} series",
            f"containers: {', '.join(containers) or 'none'}",
            f"units: {', '.join(units) or 'none'}",
        ]
        if self._left_out:
            lines.append(f"{self._left_out} more are left out: raise `most` of {self.name}")
        return lines

    def close(self) -> None:
        """Give the groups back."""
        for group in self._groups.values():
            _close(group)
        self._groups = {}

    # ---- which groups

    def _is_v2(self) -> bool:
        return (self.config.root / "cgroup.controllers").exists()

    def _walk(self) -> None:
        """Find the groups of now; those that were there keep their descriptors."""
        found: dict[Path, _Group] = {}
        if sys.platform.startswith("linux") and self._is_v2():
            walked = sorted(_below(self.config.root), key=lambda f: (f[1] != "container", f[0]))
            if not self.config.units:
                walked = [one for one in walked if one[1] == "container"]
            walked = [
                one for one in walked
                if one[1] == "container" or not one[2].startswith(tuple(self.config.ignore_units))
            ]  # fmt: skip
            self._left_out = max(0, len(walked) - self.config.most)
            pods = self._pods() if any(runs == "container" for _, runs, _ in walked) else {}
            taken: set[tuple[str, str]] = set()
            for path, runs, key in walked[: self.config.most]:
                old = self._groups.get(path)
                name = old.name if old is not None else self._name(runs, key, pods)
                if (runs, name) in taken:
                    name = f"{name} {key[:_SHORT]}"
                taken.add((runs, name))
                found[path] = old or _Group(path, name, runs)
        for path, group in self._groups.items():
            if path not in found:
                _close(group)
        self._groups = {}
        for path, group in found.items():
            if self._open(group):
                self._groups[path] = group

    def _open(self, group: _Group) -> bool:
        """Open a group and learn its limits; tell whether it is still there."""
        try:
            if group.folder < 0 or not group.there:
                _close(group)
                group.folder = os.open(group.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                group.there = True
        except OSError:
            return False
        above = [group.path, *group.path.parents]
        above = above[: above.index(self.config.root)]
        group.cores = min((_quota(folder) for folder in above), default=math.inf)
        group.memory = min((_limit(folder / "memory.max") for folder in above), default=math.inf)
        group.processes = min((_limit(folder / "pids.max") for folder in above), default=math.inf)
        return True

    def _name(self, runs: str, key: str, pods: dict[str, str]) -> str:
        if runs == "unit" or not re.fullmatch(r"[0-9a-f]{64}", key):
            return key
        with contextlib.suppress(OSError, ValueError, LookupError, AttributeError):
            told = json.loads((self.config.docker / key / "config.v2.json").read_bytes())
            return str(told["Name"]).strip("/") or key[:_SHORT]
        return pods.get(key, key[:_SHORT])

    def _pods(self) -> dict[str, str]:
        """Return container id -> `namespace/pod/container`, as the kubelet names the log of each."""
        out = {}
        with contextlib.suppress(OSError):
            for file in self.config.pods.iterdir():
                match = re.fullmatch(r"([^_]+)_([^_]+)_(.+)-([0-9a-f]{64})\.log", file.name)
                if match:
                    out[match[4]] = f"{match[2]}/{match[1]}/{match[3]}"
        return out

    # ---- reading

    def _column(self, group: _Group, text: str) -> Series:
        metric, _, resource = text.partition(" ")
        labels = [("group", group.name), ("runs", group.runs)]
        if resource:
            labels.append(("resource", resource))
        return Series(f"host.group_{metric}", self._host, tuple(sorted(labels)))

    def _read(self, group: _Group) -> list[float]:
        """Return the values of a group; what it does not have is no column, unless it has just ended."""
        found = dict(self._values(group)) if group.there else {}
        if group.there:
            group.columns = list(found)
            return list(found.values())
        return [NAN] * len(group.columns)

    def _values(self, group: _Group) -> Iterator[tuple[str, float]]:
        cpu = self._said(group, "cpu.stat")
        if "usage_usec" in cpu:
            yield "cpu_seconds_total", cpu["usage_usec"] * 1e-6
        if math.isfinite(group.cores):
            yield "cpu_limit_count", group.cores
            if "throttled_usec" in cpu:
                yield "throttled_seconds_total", cpu["throttled_usec"] * 1e-6
        memory = self._number(group, "memory.current")
        if memory is not None:
            kept = max(0.0, memory - self._said(group, "memory.stat").get("inactive_file", 0.0))
            yield "memory_bytes", kept
            yield from _ratio("memory_ratio", kept, group.memory)
        tasks = self._number(group, "pids.current")
        if tasks is not None:
            yield "processes_count", tasks
            yield from _ratio("processes_ratio", tasks, group.processes)
        yield from self._counts(group)

    def _counts(self, group: _Group) -> Iterator[tuple[str, float]]:
        kills = self._said(group, "memory.events")
        if "oom_kill" in kills:
            yield "oom_kills_total", kills["oom_kill"]
        moved = self._moved(group)
        if moved is not None:
            yield "read_bytes_total", moved[0]
            yield "written_bytes_total", moved[1]
        for resource in _RESOURCES if group.runs == "container" else ():
            raw = self._raw(group, f"{resource}.pressure")
            at = raw.find(b"total=")
            if at >= 0:
                waited_us = int(raw[at + 6 :].split(None, 1)[0])
                yield f"pressure_seconds_total {resource}", waited_us * 1e-6

    def _raw(self, group: _Group, file: str) -> bytes:
        """Return a file of a group; nothing where it has none, or has just been removed."""
        try:
            return read_at(group.folder, file)
        except FileNotFoundError:
            # a group that is gone has no file at all, one without a controller lacks some
            if file == "cpu.stat":
                group.there = False
        except OSError as error:
            if error.errno in {19, 9}:  # ENODEV, EBADF
                group.there = False
        return b""

    def _number(self, group: _Group, file: str) -> float | None:
        raw = self._raw(group, file).strip()
        return float(raw) if raw.isdigit() else None

    def _said(self, group: _Group, file: str) -> dict[str, float]:
        """Read lines of `name value`; only the few that are asked for cost anything."""
        raw = self._raw(group, file).split()
        wanted = {b"usage_usec", b"throttled_usec", b"inactive_file", b"oom_kill"}
        return {
            name.decode(): float(value)
            for name, value in zip(raw[0::2], raw[1::2], strict=False)
            if name in wanted
        }

    def _moved(self, group: _Group) -> tuple[float, float] | None:
        """Add up what was read and written on all disks; None where nobody counts it."""
        try:
            raw = read_at(group.folder, "io.stat")
        except OSError:
            return None
        read = sum(int(token[7:]) for token in raw.split() if token.startswith(b"rbytes="))
        written = sum(int(token[7:]) for token in raw.split() if token.startswith(b"wbytes="))
        return float(read), float(written)


def _below(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, what runs there, its key) of containers and units; what lies below one is its own."""
    left: list[tuple[str, int]] = [(str(root), 0)]
    walked = 0
    while left:
        folder, depth = left.pop()
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue  # it was removed meanwhile
        for name in names:
            walked += 1
            if walked > _MOST_WALKED:
                return
            path = f"{folder}/{name}"
            runs, key = _what(name)
            if runs:
                yield Path(path), runs, key
            elif depth < _DEPTH:
                left.append((path, depth + 1))


def _what(name: str) -> tuple[str, str]:
    """Return what runs in a group by the name that its engine gave it, and its key; "" = neither."""
    if found := _ID.fullmatch(name):
        return "container", found[1]
    if found := _NAMED.fullmatch(name):
        return "container", _unescaped(found[1])
    if found := _UNIT.fullmatch(name):
        return "unit", _unescaped(found[1])
    return "", ""


def _unescaped(name: str) -> str:
    """Undo how systemd writes a character that a name of a unit may not hold."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)


def _ratio(metric: str, used: float, limit: float) -> Iterator[tuple[str, float]]:
    if 0 < limit < math.inf:
        yield metric, used / limit


def _limit(file: Path) -> float:
    """Return a limit; infinite where there is none."""
    try:
        text = file.read_bytes().strip()
    except OSError:
        return math.inf
    return float(text) if text.isdigit() else math.inf


def _quota(folder: Path) -> float:
    """Return the cores of `cpu.max`; infinite where there is no quota."""
    try:
        quota, period = (folder / "cpu.max").read_bytes().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _close(group: _Group) -> None:
    if group.folder >= 0:
        os.close(group.folder)
        group.folder = -1
