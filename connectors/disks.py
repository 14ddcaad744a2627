"""The health of disks: what they say themselves (SMART, NVMe), and what the kernel notes of them.

    disks: {}                                              # what /sys tells; takes no privileges
    disks: {smartctl: [sudo, -n, /usr/sbin/smartctl]}      # and what smartctl tells, for which it takes root
    disks: {reports: /run/smart}                           # or what others have written with `smartctl --json -a`

    /sys, once a minute ------------------------------+
    smartctl --json, each `every`, one disk at a time -+--> by device --> frame; a disk that fails is also a signal
    files of `reports`, when they are new ------------+

Disks that sleep are not woken: what they said last stands.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
import structlog
from pydantic import Field, model_validator

from agent.model import Frame, Series
from agent.ports import Signal
from agent.registry import connector
from agent.units import Duration, Model, say_duration
from connectors._aside import Aside
from connectors._proc import this_host
from connectors._program import run_program
from connectors._smart import Health, device_of, disks, health, problem, seen_by_kernel

log = structlog.get_logger()

_WAIT_FIRST_S: Final = 5.0
_SYSFS_S: Final = 2.0
_TIME_S: Final = 30.0
_MOST_BYTES: Final = 4 << 20
_MOST_DISKS: Final = 256
_AGAIN_S: Final = 3600.0
"""How often it is told again that a disk fails: alerts that are not repeated end after hours."""
_ASKED: Final = (
    "--json=c",
    "--info",
    "--health",
    "--attributes",
    "--log=error",
    "--nocheck=standby",
)


@connector("disks")
class Disks:
    """The health of disks as they tell it themselves: SMART and NVMe, temperature, wear, errors, sectors that failed.

    Emits, of each disk (label device): `host.disk_failing`; `host.disk_temperature_celsius`, `host.disk_wear_ratio`,
    `host.disk_spare_ratio`, `host.disk_bad_sectors_count`, `host.disk_errors_total` as far as it is told. Without
    privileges that is temperature (NVMe; SATA with the module drivetemp), state, errors and wear of eMMC.
    A disk that fails is also a signal: an incident that warns.

    smartctl takes root: give `smartctl` a way to it that asks nobody, or let something that has it write `reports`.
    It is run with the disks of `devices` only, by an argv list, one after the other, 30 s each.
    """

    tested = "stand-in: a script for smartctl, recorded forms of its JSON, a tree of files for /sys"

    class Config(Model):
        """What is asked, and how often."""

        sysfs: Path = Path("/sys")
        devices: list[Annotated[str, Field(min_length=1)]] = ["*"]
        """Names (with * allowed) of the disks that are looked at: sda, nvme0n1."""
        smartctl: list[Annotated[str, Field(min_length=1)]] = []
        """The command, and how it gets its privileges; empty = it is not run."""
        drives: dict[str, list[Annotated[str, Field(min_length=1)]]] = {}
        """Disks that the kernel does not show: name -> arguments of smartctl, as [-d, 'megaraid,0', /dev/sda]."""
        every: Annotated[Duration, Field(ge=60)] = 1800.0
        """How often smartctl is asked."""
        reports: Path | None = None
        """A folder of *.json files that smartctl has written; older than three times `every` they are unknown."""

        @model_validator(mode="after")
        def _needed(self) -> Self:
            if self.drives and not self.smartctl:
                raise ValueError("`drives` are asked by `smartctl`: name it, too")
            return self

    interval_s = 60.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._aside = Aside(_SYSFS_S)
        self._due = -np.inf
        self._round: asyncio.Task[None] | None = None
        self._said: dict[str, tuple[float, Health]] = {}
        self._reports: dict[Path, tuple[tuple[float, int], str, Health | None]] = {}
        """File -> time and size of it when it was read, its device and what it says."""
        self._faults: dict[str, str] = {}
        self._failing: dict[str, tuple[str, float]] = {}
        self._signals: list[Signal] = []
        self._series: tuple[Series, ...] = ()

    async def poll(self) -> Frame:
        """Look at /sys and new reports; smartctl is asked beside it when it is due."""
        first = self._round is None
        busy = self._round is not None and not self._round.done()
        if self.config.smartctl and time.monotonic() >= self._due and not busy:
            self._due = time.monotonic() + self.config.every
            self._round = asyncio.create_task(self._ask_all(), name="smartctl")
        self._aside.ask("sysfs", self._look)
        await self._aside.settle(_SYSFS_S)
        if first and self._round is not None:
            await asyncio.wait([self._round], timeout=_WAIT_FIRST_S)
        ts = time.time()
        by_device = self._joined(ts)
        self._tell(ts, by_device)
        values: dict[Series, float] = {}
        for device, of in sorted(by_device.items())[:_MOST_DISKS]:
            for one in of:
                for (metric, labels), value in one.columns(device):
                    series = Series(metric, self._host, labels)
                    # two tell of it: either may say that it fails; of the rest the disk itself knows best
                    worse = max(value, values.get(series, 0.0))
                    values[series] = worse if metric == "host.disk_failing" else value
        series_ = tuple(sorted(values))
        self._series = self._series if series_ == self._series else series_
        row = np.array([values[s] for s in self._series], dtype=np.float64)
        return Frame(self.name, ts, self._series, row)

    async def read(self) -> Sequence[Signal]:
        """Return which disks have begun to fail, fail still, or do not any more."""
        told, self._signals = self._signals, []
        return told

    async def describe(self) -> Sequence[str]:
        """Say what each disk tells, and what can not be asked."""
        frame = await self.poll()
        told: dict[str, list[str]] = {}
        for series, value in zip(frame.series, frame.values.tolist(), strict=True):
            labels = dict(series.labels)
            what = f"{series.metric.removeprefix('host.disk_')} {labels.get('type', '')}".strip()
            told.setdefault(labels["device"], []).append(f"{what} {value:g}")
        lines = [f"{device}: {', '.join(words)}" for device, words in sorted(told.items())]
        lines += [f"{device} fails: {why}" for device, (why, _) in sorted(self._failing.items())]
        lines += [f"{what}: {why}" for what, why in sorted(self._faults.items())]
        if not self.config.smartctl and self.config.reports is None:
            lines.append(
                "only what /sys tells; for more, set `smartctl` or `reports`, which take root"
            )
        return lines or ("no disk that is looked at",)

    async def close(self) -> None:
        """Ask no more."""
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)
        self._aside.close()

    # ---- what is known

    def _joined(self, now: float) -> dict[str, list[Health]]:
        """Return what is known of each disk, what it said itself last."""
        found = self._aside.answer("sysfs", self.interval_s)
        out: dict[str, list[Health]] = {}
        if found is not None and found.error is None:
            seen, reports = found.value
            out = {device: [one] for device, one in seen.items()}
            for device, at, one in reports:
                self._keep(device, one, at)
        for device, (at, one) in list(self._said.items()):
            if now - at >= 3 * self.config.every:
                del self._said[device]
            else:
                out.setdefault(device, []).append(one)
        return out

    def _keep(self, device: str, one: Health, at: float) -> None:
        """Note what a disk said; who sleeps has not changed."""
        old = self._said.get(device)
        if one.asleep:
            one = old[1] if old is not None else Health(asleep=True)
        if not one.asleep and (old is None or at >= old[0]):
            self._said[device] = at, one

    def _tell(self, now: float, by_device: Mapping[str, list[Health]]) -> None:
        for device, of in by_device.items():
            why = "; ".join(h.why for h in of if h.why)
            before = self._failing.get(device)
            if why and (before is None or now - before[1] >= _AGAIN_S):
                self._failing[device] = why, now
                self._signals.append(self._signal(now, device, why, firing=True))
            elif not why and before is not None:
                del self._failing[device]
                self._signals.append(self._signal(now, device, before[0], firing=False))

    def _signal(self, now: float, device: str, why: str, *, firing: bool) -> Signal:
        labels = (("device", device), ("host", self._host.key))
        return Signal(now, f"disk failing {device}", self.name, firing, labels, f"{device} fails: {why}")  # fmt: skip

    def _chosen(self, device: str) -> bool:
        return any(fnmatch.fnmatchcase(device, glob) for glob in self.config.devices)

    # ---- files, in a thread

    def _look(self) -> tuple[dict[str, Health], list[tuple[str, float, Health]]]:
        seen = {n: seen_by_kernel(p) for n, p in disks(self.config.sysfs).items() if self._chosen(n)}  # fmt: skip
        return seen, self._told()

    def _told(self) -> list[tuple[str, float, Health]]:
        """Return what stands in the reports; a file is read again when it is another."""
        if self.config.reports is None:
            return []
        there = sorted(self.config.reports.glob("*.json"))[:_MOST_DISKS]
        self._reports = {p: known for p, known in self._reports.items() if p in there}
        for path in there:
            try:
                state = path.stat()
                stamp = state.st_mtime, state.st_size
                if path not in self._reports or self._reports[path][0] != stamp:
                    self._reports[path] = stamp, "", None
                    with path.open("rb") as file:  # one that is larger is no JSON then
                        said = json.loads(file.read(_MOST_BYTES))
                    one = self._understood(path.name, said)
                    self._reports[path] = stamp, device_of(said) or path.stem, one
            except (OSError, ValueError, AttributeError, TypeError, RecursionError) as wrong:
                self._fault(path.name, f"is no report of smartctl: {wrong}")
        found = self._reports.values()
        return [(d, at, one) for (at, _), d, one in found if one is not None and self._chosen(d)]

    def _understood(self, what: str, said: Any) -> Health | None:
        one = health(said)
        if one is None:
            self._fault(what, problem(said) or "tells nothing of its health")
        else:
            self._faults.pop(what, None)
        return one

    def _fault(self, what: str, why: str) -> None:
        if self._faults.get(what) != why:
            log.warning("disk_not_read", what=what, why=why)
        self._faults[what] = why

    # ---- smartctl

    async def _ask_all(self) -> None:
        """Ask each disk once, one after the other: they may share a controller."""
        shown = await asyncio.to_thread(disks, self.config.sysfs)
        asked = {n: [f"/dev/{n}"] for n in shown if self._chosen(n) and not n.startswith("mmc")}
        for device, arguments in (asked | self.config.drives).items():
            await self._ask(device, arguments)

    async def _ask(self, device: str, arguments: Sequence[str]) -> None:
        words = [*self.config.smartctl, *_ASKED, *arguments]
        try:
            code, out = await run_program(words, _TIME_S, errors=False)
        except TimeoutError:
            return self._fault(device, f"smartctl did not answer within {say_duration(_TIME_S)}")
        except OSError as wrong:
            return self._fault(device, f"{words[0]} can not be run: {wrong.strerror}")
        try:
            said = json.loads(out)
            one = self._understood(device, said)
        except (ValueError, AttributeError, TypeError, RecursionError):
            return self._fault(
                device, f"smartctl gave no JSON, and status {code}: it takes root, and version 7"
            )
        if one is not None:
            self._keep(device, one, time.time())
        return None
