"""What only some hosts have: error counts of memory, software RAID, InfiniBand, memory nodes, a kept clock.

Sections as in `_kernel`. Each looks once what there is; a host without it has no columns and no cost. What may come
later (an array, an adapter) is looked for again once a minute.
"""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from connectors._aside import Aside
from connectors._kernel import NAN, Column, Section, column
from connectors._proc import ProcFile
from connectors._slow import Listed

_AGAIN_S: Final = 60.0
_PORTS_S: Final = 0.5
"""At every poll: of a counter that stands still between two readings the rate would be none, then too much."""


class _Found(Section):
    """Files that are looked for now and then, each with its columns; one that can not be read now is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self._files: list[tuple[ProcFile, list[Column]]] = []
        self._look_at = -math.inf

    def find(self) -> list[tuple[Path, list[Column]]]:
        """Return the files that there are now, and what each of them says."""
        raise NotImplementedError

    def values(self, raw: bytes, columns: Sequence[Column]) -> list[float]:
        """Return the values of one file; one number where a file holds just that."""
        return [float(raw.split()[0])] * len(columns)

    def read(self) -> list[float]:
        now = time.monotonic()
        if now - self._look_at >= _AGAIN_S:
            self._look_at = now
            found = self.find()
            if [(str(path), cols) for path, cols in found] != [(f.path, c) for f, c in self._files]:
                self._files = [(ProcFile(path), columns) for path, columns in found]
                self.columns = [col for _, columns in found for col in columns]
        out: list[float] = []
        for file, columns in self._files:
            try:
                out += self.values(file.read(), columns)
            except (OSError, ValueError, LookupError):
                out += [NAN] * len(columns)
        return out


class MemoryControllers(_Found):
    """/sys/devices/system/edac/mc: errors that memory corrected, and those that it could not."""

    def __init__(self, sysfs: Path) -> None:
        super().__init__()
        self._root = sysfs / "devices/system/edac/mc"

    def find(self) -> list[tuple[Path, list[Column]]]:
        return [
            (folder / file, [column("host.memory_errors_total", controller=folder.name, type=kind)])
            for folder in sorted(self._root.glob("mc[0-9]*"))
            for file, kind in (("ce_count", "corrected"), ("ue_count", "uncorrected"))
            if (folder / file).exists()
        ]


class MemoryNodes(_Found):
    """/sys/devices/system/node: memory and where it was taken from, on hosts with more than one node."""

    def __init__(self, sysfs: Path) -> None:
        super().__init__()
        self._root = sysfs / "devices/system/node"

    def find(self) -> list[tuple[Path, list[Column]]]:
        nodes = sorted(self._root.glob("node[0-9]*"))
        if len(nodes) < 2:  # one node says what the host says
            return []
        out: list[tuple[Path, list[Column]]] = []
        for folder in nodes:
            node = folder.name.removeprefix("node")
            uses = [
                column("host.numa_memory_bytes", node=node, use=use) for use in ("used", "free")
            ]
            kinds = [
                column("host.numa_node_pages_total", node=node, type=kind)
                for kind in ("local", "other", "miss")
            ]
            out += [(folder / "meminfo", uses), (folder / "numastat", kinds)]
        return out

    def values(self, raw: bytes, columns: Sequence[Column]) -> list[float]:
        tokens = raw.split()
        if columns[0][0] == "host.numa_memory_bytes":
            return [float(tokens[tokens.index(n) + 1]) * 1024.0 for n in (b"MemUsed:", b"MemFree:")]
        names = (b"local_node", b"other_node", b"numa_miss")
        return [float(tokens[tokens.index(name) + 1]) for name in names]


class InfiniBand(Listed):
    """/sys/class/infiniband: state, bytes and errors of each port, of RoCE adapters, too.

    Beside the loop: for most of its numbers the driver asks the adapter's firmware.
    """

    _ERRORS: Final = {
        "link_downed": "link_downed", "link_error_recovery": "link_recoveries", "symbol_error": "symbol_errors",
        "port_rcv_errors": "receive_errors", "port_xmit_discards": "send_discards",
        "local_link_integrity_errors": "integrity_errors",
    }  # fmt: skip
    _BYTES: Final = {
        "port_rcv_data": "host.infiniband_received_bytes_total",
        "port_xmit_data": "host.infiniband_sent_bytes_total",
    }
    _WORD_BYTES: Final = 4
    """The counters of data are in words (Documentation/ABI/stable/sysfs-class-infiniband)."""

    def __init__(self, aside: Aside, sysfs: Path) -> None:
        super().__init__(aside, _PORTS_S)
        self._root = sysfs / "class/infiniband"

    def look(self) -> list[tuple[Column, float]]:
        found: list[tuple[Column, float]] = []
        for port in sorted(self._root.glob("*/ports/[0-9]*")):
            names = {"device": port.parts[-3], "port": port.name}
            state = _text(port / "state")
            if state is not None:
                up = float(state.startswith("4:"))  # 4: ACTIVE
                found.append((column("host.infiniband_up", **names), up))
            for file, metric in self._BYTES.items():
                words = _number(port / "counters" / file)
                if words is not None:
                    found.append((column(metric, **names), words * self._WORD_BYTES))
            for file, kind in self._ERRORS.items():
                errors = _number(port / "counters" / file)
                if errors is not None:
                    col = column("host.infiniband_errors_total", type=kind, **names)
                    found.append((col, errors))
        return found


def _text(file: Path) -> str | None:
    try:
        return file.read_text("ascii", "replace").strip()
    except OSError:
        return None


def _number(file: Path) -> float | None:
    text = _text(file)
    return float(text) if text is not None and text.isdigit() else None


class Raid(Section):
    """/proc/mdstat: software RAID by array."""

    _HEAD: Final = re.compile(r"^(md\S*) : (\w+)(?: \((?:auto-)?read-only\))? ?(.*)$")
    _COUNTS: Final = re.compile(r"\[(\d+)/(\d+)\] \[[U_]+\]")
    _STATES: Final = ("active", "missing", "failed", "spare")

    def __init__(self, proc: Path) -> None:
        super().__init__()
        self._file = ProcFile(proc / "mdstat")

    def read(self) -> list[float]:
        try:
            text = self._file.read().decode("ascii", "replace")
        except FileNotFoundError:  # the module is not loaded
            text = ""
        columns: list[Column] = []
        out: list[float] = []
        array, disks = "", ""
        for line in text.splitlines():
            if head := self._HEAD.match(line):
                array, disks = head[1], head[3]
                columns += [column("host.raid_syncing", array=array)]
                out += [0.0]
            elif array and (counts := self._COUNTS.search(line)):
                wanted, there = int(counts[1]), int(counts[2])
                failed, spare = disks.count("(F)"), disks.count("(S)")
                numbers = (there, wanted - there, failed, spare)
                columns.append(column("host.raid_degraded", array=array))
                out.append(float(there < wanted))
                columns += [column("host.raid_disks_count", array=array, state=s) for s in self._STATES]  # fmt: skip
                out += map(float, numbers)
            elif array and re.search(r"(resync|recovery|reshape|check) ?=", line):
                out[columns.index(column("host.raid_syncing", array=array))] = 1.0
        if columns != self.columns:
            self.columns = columns
        return out


class _Timex(ctypes.Structure):
    """`struct timex` of adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
        ("constant", ctypes.c_long), ("precision", ctypes.c_long), ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2), ("tick", ctypes.c_long), ("more", ctypes.c_long * 32),
    )  # fmt: skip


class ClockState(Section):
    """What the kernel knows of its clock; adjtimex(2) that changes nothing takes no privileges."""

    _UNSYNC: Final = 0x40
    _NANO: Final = 0x2000
    """Bits of the status (include/uapi/linux/timex.h): nobody keeps the clock; the offset is in nanoseconds."""

    def __init__(self) -> None:
        super().__init__()
        self._call = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)

    def read(self) -> list[float]:
        told = _Timex()
        if self._call is None or self._call(ctypes.byref(told)) < 0:
            if self.columns:  # a filter of system calls may forbid it
                self.columns = []
            return []
        if not self.columns:
            self.columns = [
                column("host.clock_synchronized"),
                column("host.clock_offset_seconds"),
                column("host.clock_error_seconds"),
            ]
        unit = 1e-9 if told.status & self._NANO else 1e-6
        return [float(not told.status & self._UNSYNC), told.offset * unit, told.maxerror * 1e-6]
