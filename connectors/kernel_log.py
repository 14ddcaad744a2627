"""The log of the kernel: who was killed for want of memory, which disk, link or GPU fails, what hangs.

/dev/kmsg --(records, as many as there are, at most _MOST)--> _kmsg --> counters by kind
                                                                   '--> seen in the last ten minutes: states, signals
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from agent.errors import Unavailable
from agent.model import Entity, Frame, IntArray, Series
from agent.ports import Signal
from agent.registry import connector
from agent.units import Model
from connectors._kmsg import KINDS, Event, Reader
from connectors._proc import in_container, this_host

log = structlog.get_logger()

_BUFFER_BYTES: Final = 1 << 14
"""The kernel gives one record a read, of at most 8 KiB, and refuses a smaller buffer."""
_MOST: Final = 2000
"""Reads a poll; what is left waits in the kernel's own buffer."""
_SEEN_S: Final = 600.0
"""An event is told once; for so long it is a state that conditions can see. As XIDs in `_nvml`."""
_KEPT_S: Final = 3600.0
_MOST_KEPT: Final = 64
_TELLS: Final = frozenset(KINDS) - {
    "segfault", "link_down", "memory_corrected", "cpu_hot", "conntrack_full",
}  # fmt: skip
"""Kinds that are a signal of their own. The rest is usual on some hosts: it is counted, and evidence."""
_LEVELS: Final = ("error",) * 4 + ("warning",) + ("info",) * 3
_DRIVER: Final = Path("/proc/driver/nvidia/gpus")
_Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _Seen:
    """Something that the kernel told: when it last did, whether others were told and not yet that it is over."""

    at: float
    text: str
    told: bool = False


@connector("kernel_log")
class KernelLog:
    """The log of the kernel: kills for want of memory, I/O errors, XIDs, hung tasks, lost links and crashes.

    Emits `host.kernel_messages_total` by level, `host.kernel_events_total` by kind, `host.kernel_event_seen` for ten
    minutes after each event (labels event, and whom it is about: program, cgroup, device, interface), `gpu.xid_seen`
    on the GPU of an XID. Grave ones are also signals, so that they are incidents of their own; they warn.
    What was logged before the start counts when it is not older than that, so nothing is lost in a restart.

    Takes CAP_SYSLOG, or `kernel.dmesg_restrict=0`, and /dev/kmsg itself; without it the source is silent and
    `homeostat try kernel_log` says what is missing. `homeostat install` grants both where agent.yaml names it under
    `connectors:`. In a container it is not read unless `in_container:` says so: the log is that of the whole machine,
    and what befalls its other containers is no evidence about ours.
    Cost: one system call a poll while nothing is logged, about 5 us a message; at most 2,000 a poll, what comes faster
    the kernel drops (event `lost`).
    """

    tested = "the kernel's own log, and recorded lines"

    sees = (("CAP_SYSLOG", "to read the log of the kernel"),)
    opens = ("ProtectKernelLogs",)
    devices = ("/dev/kmsg",)

    class Config(Model):
        """Where the log is."""

        path: Path = Path("/dev/kmsg")
        in_container: bool = False
        """Read it from inside a container, too, where we watch the machine and not just ourselves."""

    interval_s = 1.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._reader = Reader()
        self._fd = -1
        self._caught_up = False
        self._denied = ""
        self._levels: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._seen: dict[_Key, _Seen] = {}
        self._signals: list[Signal] = []
        self._gpus: dict[tuple[int, ...], Entity] = {}
        self._keys: tuple[Series, ...] = ()
        self._series: tuple[Series, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)

    async def poll(self) -> Frame:
        """Take what the kernel has said since the last poll."""
        ts = time.time()
        if not self._open():
            return Frame(self.name, ts, (), np.zeros(0))
        self._drain(ts)
        self._age(ts)
        return self._frame(ts)

    async def read(self) -> Sequence[Signal]:
        """Return what is grave and new, or over."""
        told, self._signals = self._signals, []
        return told

    async def describe(self) -> Sequence[str]:
        """Say what the kernel complained of, or why its log can not be read."""
        await self.poll()
        if self._denied:
            return (self._denied,)
        total = ", ".join(f"{n} {level}" for level, n in sorted(self._levels.items()))
        lines = [f"{self.config.path}: {total or 'nothing'} since the start of the log"]
        for (kind, labels), seen in self._seen.items():
            whom = ", ".join(v for _, v in labels)
            ago = time.time() - seen.at
            lines.append(f"{ago:.0f} s ago: {KINDS[kind]}{f' ({whom})' if whom else ''}")
        return lines

    def close(self) -> None:
        """Give the log back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ---- reading

    def _open(self) -> bool:
        """Tell whether the log can be read; say once why not."""
        if self._fd >= 0:
            return True
        if in_container() and not self.config.in_container:
            return self._deny(
                f"the log of the kernel is that of the whole machine, and we run in a container: write "
                f"`{self.name}: {{in_container: true}}` under `connectors:` where we watch the machine"
            )
        try:
            self._fd = os.open(self.config.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return self._deny(
                f"can not read {self.config.path} ({error.strerror}): it takes CAP_SYSLOG; run as root, or write "
                f"`{self.name}: {{}}` under `connectors:` and run `homeostat install` again"
            )
        self._denied, self._caught_up = "", False
        self._gpus |= gpus(_DRIVER)
        return True

    def _deny(self, why: str) -> bool:
        """Note why it is not read, once aloud."""
        if why != self._denied:
            log.info("kernel_log_closed", why=why)
        self._denied = why
        return False

    def _drain(self, now: float) -> None:
        for _ in range(_MOST):
            try:
                chunk = os.read(self._fd, _BUFFER_BYTES)
            except BlockingIOError:
                self._caught_up = True
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # it overwrote what we had not read yet
                    self._counts["lost"] += 1
                    continue
                self.close()
                raise Unavailable(f"can not read {self.config.path}: {error.strerror}") from error
            if not chunk:  # a file that stands in for it
                self._caught_up = True
                return
            for record in self._reader.records(chunk):
                self._levels[_LEVELS[record.level]] += 1
                event = self._reader.event(record.text)
                if event is not None:
                    self._note(event, self._when(record.since_boot_s, now), now)

    def _when(self, since_boot_s: float, now: float) -> float:
        """Return when it was said. The kernel's clock and ours drift apart: only what is old is dated by it."""
        return now if self._caught_up else min(now, now - time.monotonic() + since_boot_s)

    def _note(self, event: Event, at: float, now: float) -> None:
        if now - at > _SEEN_S:
            return
        self._counts[event.kind] += 1
        key = event.kind, event.labels
        seen = self._seen.pop(key, None) or _Seen(
            at, event.text
        )  # to the end: the oldest goes first
        self._seen[key] = seen
        seen.at = at
        if not seen.told and event.kind in _TELLS:
            seen.told, seen.text = True, event.text
            self._signals.append(self._signal(key, seen, firing=True))
        while len(self._seen) > _MOST_KEPT:
            self._forget(next(iter(self._seen)), now)

    def _age(self, now: float) -> None:
        for key, seen in list(self._seen.items()):
            if now - seen.at > _KEPT_S:
                self._forget(key, now)
            elif seen.told and now - seen.at > _SEEN_S:
                seen.told = False
                self._signals.append(self._signal(key, seen, firing=False, ts=now))

    def _forget(self, key: _Key, now: float) -> None:
        seen = self._seen.pop(key)
        if seen.told:
            self._signals.append(self._signal(key, seen, firing=False, ts=now))

    def _signal(self, key: _Key, seen: _Seen, *, firing: bool, ts: float | None = None) -> Signal:
        kind, labels = key
        whom = " ".join(v for _, v in labels)
        about = self._about(key)
        named = (*labels, (about.kind, about.key))
        return Signal(
            seen.at if ts is None else ts, f"kernel {kind} {whom}".strip(), self.name, firing,
            tuple(sorted(named)), f"{KINDS[kind]}: {seen.text}",
        )  # fmt: skip

    # ---- the frame

    def _about(self, key: _Key) -> Entity:
        """Return whom an event is about: the GPU of an XID where the driver says which that is, else the host."""
        kind, labels = key
        gpu = self._gpu(dict(labels)["bus"]) if kind == "xid" else None
        return gpu or self._host

    def _gpu(self, bus: str) -> Entity | None:
        """Return the GPU at a place; who is lost was known before."""
        place = _place(bus)
        if place not in self._gpus:
            self._gpus |= gpus(_DRIVER)
        return self._gpus.get(place)

    def _frame(self, now: float) -> Frame:
        host = self._host
        values: dict[Series, float] = {
            Series("host.kernel_messages_total", host, (("level", level),)): float(self._levels[level])
            for level in dict.fromkeys(_LEVELS)
        }  # fmt: skip
        for kind in (*KINDS, "lost"):
            counted = float(self._counts[kind])
            values[Series("host.kernel_events_total", host, (("event", kind),))] = counted
        for key, seen in self._seen.items():
            kind, labels = key
            fresh = float(now - seen.at <= _SEEN_S)
            about = self._about(key)
            if about != host:
                values[Series("gpu.xid_seen", about, (("xid", dict(labels)["xid"]),))] = fresh
            named = tuple(sorted((("event", kind), *labels)))
            values[Series("host.kernel_event_seen", host, named)] = fresh
        keys = tuple(values)
        if keys != self._keys:
            self._keys = keys
            order = sorted(range(len(keys)), key=lambda i: keys[i])
            series = tuple(keys[i] for i in order)
            self._series = self._series if series == self._series else series
            self._order = np.array(order, dtype=np.int64)
        row = np.array(list(values.values()), dtype=np.float64)[self._order]
        return Frame(self.name, now, self._series, row)


def gpus(driver: Path) -> dict[tuple[int, ...], Entity]:
    """Return the GPUs that the driver knows, by their place on the PCI bus."""
    found = {}
    with contextlib.suppress(OSError):
        for folder in driver.iterdir():
            with contextlib.suppress(OSError):
                text = (folder / "information").read_text("ascii", "replace")
                uuid = re.search(r"^GPU UUID:\s*(GPU-\S+)", text, re.MULTILINE)
                if uuid:
                    found[_place(folder.name)] = Entity("gpu", uuid[1])
    return found


def _place(bus: str) -> tuple[int, ...]:
    """Read domain, bus and device: the log leaves the function out, and writes more or fewer zeros."""
    try:
        return tuple(int(part, 16) for part in bus.partition(".")[0].split(":"))
    except ValueError:
        return ()
