"""Limits of control groups (cgroup v2): CPU, memory and number of processes.

    cgroup:
      groups: {checkout: system.slice/checkout.service}

A limit that is set here holds until it is put back, or until whoever made the group (systemd) writes it anew.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator

from agent.config import Name
from agent.errors import Refused, Unavailable
from agent.model import entity
from agent.registry import connector
from agent.units import Model
from connectors._proc import PAGE_BYTES, boot_id, parse_stat

_PERIOD_US: Final = 100_000
"""The kernel's own default: the quota of cpu.max is for so long."""
_LEAST_CORES: Final = 0.01
_LEAST_BYTES: Final = 16 << 20


def _relative(text: str) -> str:
    if not text.strip("/") or ".." in PurePosixPath(text).parts:
        raise ValueError("write the group as below /sys/fs/cgroup, as in system.slice/web.service")
    return text.strip("/")


Group = Annotated[str, AfterValidator(_relative)]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One limit: its file, and how numbers are written there."""

    file: str
    read: Callable[[str], float | None]
    write: Callable[[float | None], str]
    nearest: Callable[[float], float]


def _number(text: str) -> float | None:
    return None if text.strip() == "max" else float(text)


def _whole(value: float | None) -> str:
    return "max" if value is None else str(int(value))


def _cores(text: str) -> float | None:
    quota, _, period = text.partition(" ")
    return None if quota == "max" else int(quota) / int(period or _PERIOD_US)


def _quota(value: float | None) -> str:
    return f"{'max' if value is None else round(value * _PERIOD_US)} {_PERIOD_US}"


def _pages(value: float) -> float:
    return float(int(max(value, _LEAST_BYTES)) // PAGE_BYTES * PAGE_BYTES)


_KINDS: Final = {
    "cpu_cores": _Kind(
        "cpu.max", _cores, _quota, lambda v: round(max(v, _LEAST_CORES) * _PERIOD_US) / _PERIOD_US
    ),
    "memory_bytes": _Kind("memory.max", _number, _whole, _pages),
    "memory_high_bytes": _Kind("memory.high", _number, _whole, _pages),
    "pids_count": _Kind("pids.max", _number, _whole, lambda v: float(max(1, round(v)))),
}


@connector("cgroup")
class Cgroup:
    """Control groups of this host.

    Ability  Limiter (see playbooks/actions/limits.py): `cpu_cores`, `memory_bytes` (above it the kernel kills),
             `memory_high_bytes` (above it the kernel slows down), `pids_count`
    On `service:` as configured, and on `process:` when its process group has a control group of its own. Never the
    root, nor a group that this daemon is in. Takes write access: as root, with CAP_DAC_OVERRIDE, or with
    `Delegate=` given to our user.
    """

    tested = "stand-in: a tree of files"
    stand_in = True
    powers = (("CAP_DAC_OVERRIDE", "to set limits of control groups, which root owns"),)
    unlocks = ("ProtectControlGroups",)

    class Config(Model):
        """Which groups."""

        groups: dict[Name, Group] = {}
        """Service -> its group below `root`."""
        root: Path = Path("/sys/fs/cgroup")

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._turn = asyncio.Lock()

    async def limit(self, target: str, name: str) -> float | None:
        """Read one file of the group."""
        return await asyncio.to_thread(self._read, self._group(target), _kind(name))

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return what the kernel keeps: whole pages, thousandths of a core; Refused where it would kill at once."""
        wanted, group = _kind(name).nearest(value), self._group(target)
        if name == "memory_bytes":
            used = await asyncio.to_thread(_used, group)
            if wanted < used:
                raise Refused(
                    f"{target} uses {used:.0f} bytes: with a limit of {wanted:.0f} the kernel would kill it at once; "
                    "set `memory_high_bytes`, or restart it first"
                )
        return wanted

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Write one file of the group, if it still says `expect`."""
        kind, group = _kind(name), self._group(target)
        async with self._turn:
            now = await asyncio.to_thread(self._read, group, kind)
            if now != expect:
                raise Refused(f"{name} of {target} is {now}, not {expect}: changed by others")
            await asyncio.to_thread(_write, group / kind.file, kind.write(value))

    async def describe(self) -> Sequence[str]:
        """Say what the limits of the configured services are, and whether we may set them."""
        lines = []
        for service in self.config.groups:
            try:
                group = self._group(f"service:{service}")
                there = {n: k for n, k in _KINDS.items() if (group / k.file).exists()}
                said = [f"{name} {self._read(group, kind)}" for name, kind in there.items()]
                may = os.access(group / "cpu.max", os.W_OK)
                lines.append(
                    f"service:{service}: {', '.join(said) or 'no controller is on'}"
                    + (
                        ""
                        if may
                        else "; may only look: run as root, or write `Delegate=cpu memory pids` for its slice"
                    )
                )
            except (Refused, Unavailable) as problem:
                lines.append(f"service:{service}: {problem}")
        return lines or [
            "no services are configured; processes with a group of their own may be limited"
        ]

    def _group(self, target: str) -> Path:
        about = entity(target)
        if about.kind == "service":
            path = self.config.groups.get(about.key, "")
            if not path:
                known = ", ".join(self.config.groups) or "none"
                raise Refused(
                    f"{self.name} knows no group of {target}, only of {known}: add it to `groups`"
                )
        elif about.kind == "process":
            path = self._of_process(target, about.key)
        else:
            raise Refused(f"{target} has no control group: this is for services and processes")
        ours = _own_group()
        if not path or ours == path or ours.startswith(f"{path}/"):
            raise Refused(
                f"the control group of {target} is the root, or homeostat's own: never limited"
            )
        group = self.config.root / path
        if not group.is_dir():
            raise Unavailable(
                f"there is no group {group}: {target} does not run, or `root` of {self.name} is wrong"
            )
        return group

    def _of_process(self, target: str, key: str) -> str:
        """Return the group of a process group, if nobody else is in it."""
        match = re.fullmatch(r"([^/]+)/(\d+)/(\d+)", key)
        if match is None or match[1] != boot_id():
            raise Refused(f"{target} is no process group of this boot")
        pid, start = int(match[2]), int(match[3])
        try:
            leader = parse_stat(Path(f"/proc/{pid}/stat").read_bytes())
            lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines()
            if leader.start_ticks != start:
                raise Refused(f"{target} has ended; its number belongs to another process now")
            path = next((x[3:].strip("/") for x in lines if x.startswith("0::")), "")
            if not path:
                return ""
            inside = (self.config.root / path / "cgroup.procs").read_text("ascii").split()
            others = [p for p in inside if _group_of(p) not in {pid, None}]
        except (FileNotFoundError, ProcessLookupError):
            raise Refused(
                f"{target} has ended, or its control group is not below {self.config.root}"
            ) from None
        if others:
            raise Refused(
                f"{len(others)} other processes share the control group of {target}: a limit would hit them, too"
            )
        return path

    @staticmethod
    def _read(group: Path, kind: _Kind) -> float | None:
        try:
            return kind.read((group / kind.file).read_text("ascii").strip())
        except FileNotFoundError:
            controller = kind.file.partition(".")[0]
            raise Refused(
                f"{group} has no {kind.file}: switch the controller {controller} on in the parent's "
                "cgroup.subtree_control"
            ) from None
        except ValueError as wrong:
            raise Refused(f"{group / kind.file} is not understood: {wrong}") from None


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise Refused(f"control groups have no limit {name}: there are {', '.join(_KINDS)}")
    return _KINDS[name]


def _own_group() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((x[3:].strip("/") for x in lines if x.startswith("0::")), "")


def _group_of(pid: str) -> int | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_bytes()).group
    except (OSError, ValueError):
        return None


def _used(group: Path) -> float:
    try:
        return float((group / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return -math.inf


def _write(file: Path, text: str) -> None:
    try:
        handle = os.open(
            file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
        )  # never O_CREAT: it must be the kernel's file
        try:
            os.write(handle, text.encode("ascii"))
        finally:
            os.close(handle)
    except PermissionError:
        raise Refused(
            f"{file} is not ours to write: run as root, or give the daemon's user the group (`Delegate=`)"
        ) from None
    except OSError as wrong:
        raise Refused(f"the kernel does not take {text!r} for {file}: {wrong.strerror}") from None
