"""How the units of systemd are: by state, who has failed, whom systemd restarts again and again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from agent.errors import Unavailable
from agent.model import Frame, Series
from agent.registry import connector
from agent.units import Duration, Model
from connectors._proc import this_host
from connectors._program import run_program

_SIGN: Final = Path("/run/systemd/system")
"""sd_booted(3): it is there exactly where systemd is the first process."""
_WANTED: Final = ("Id", "ActiveState", "NRestarts")
_STATES: Final = ("active", "activating", "deactivating", "failed", "inactive", "reloading")
_TYPES: Final = ("*.service", "*.socket", "*.mount", "*.timer")
_MOST: Final = 200


@connector("units")
class Units:
    """Units of systemd by state, those that have failed, and how often systemd has restarted a service.

    Emits `host.units_count` by state; `host.unit_failed` and `host.unit_restarts_total` of each unit that has failed or
    been restarted since we look (200 at most): the others would be constants.
    One `systemctl show` a poll for all units, about 20 ms of CPU on a host with 200. Takes no privileges. Without
    systemd it is silent. Raises Unavailable when systemctl does not answer.
    """

    tested = "stand-in of what systemctl prints"

    class Config(Model):
        """How systemd is asked."""

        systemctl: str = "systemctl"
        booted: Path = _SIGN
        """There where systemd runs."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0

    interval_s = 30.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._known: set[str] = set()
        self._series: tuple[Series, ...] = ()

    async def poll(self) -> Frame:
        """Ask once for all units."""
        ts = time.time()
        if not self.config.booted.exists():
            return Frame(self.name, ts, (), np.zeros(0))
        units = await self._ask()
        states = Counter(said["ActiveState"] for said in units.values())
        values = {self._of("host.units_count", "state", s): float(states[s]) for s in _STATES}
        for unit, said in units.items():
            failed, restarts = said["ActiveState"] == "failed", _count(said.get("NRestarts", ""))
            if (failed or restarts) and len(self._known) < _MOST:
                self._known.add(unit)
            if unit in self._known:
                values[self._of("host.unit_failed", "unit", unit)] = float(failed)
                if restarts is not None:
                    values[self._of("host.unit_restarts_total", "unit", unit)] = float(restarts)
        self._known &= units.keys()
        series = tuple(sorted(values))
        self._series = self._series if series == self._series else series
        row = np.array([values[s] for s in self._series], dtype=np.float64)
        return Frame(self.name, ts, self._series, row)

    async def describe(self) -> Sequence[str]:
        """Say which have failed."""
        if not self.config.booted.exists():
            return ("systemd is not the first process here: nothing to see",)
        frame = await self.poll()
        said = dict(zip(frame.series, frame.values.tolist(), strict=True))
        states = [
            f"{value:.0f} {dict(series.labels)['state']}"
            for series, value in said.items()
            if series.metric == "host.units_count" and value
        ]
        failed = [
            dict(series.labels)["unit"]
            for series, value in said.items()
            if series.metric == "host.unit_failed" and value
        ]
        return (f"units: {', '.join(states)}", f"failed: {', '.join(failed) or 'none'}")

    def _of(self, metric: str, label: str, value: str) -> Series:
        return Series(metric, self._host, ((label, value),))

    async def _ask(self) -> dict[str, Mapping[str, str]]:
        words = [
            self.config.systemctl, "--no-pager", "show", "--all", f"--property={','.join(_WANTED)}",
            "--", *_TYPES,
        ]  # fmt: skip
        try:
            code, out = await run_program(words, self.config.timeout)
        except TimeoutError:
            raise Unavailable(
                f"systemctl did not answer within {self.config.timeout:g} s"
            ) from None
        except OSError as wrong:
            raise Unavailable(
                f"{self.config.systemctl} can not be run: {wrong.strerror}; correct `systemctl` of {self.name}"
            ) from None
        if code:
            raise Unavailable(f"systemctl does not answer: {out[:300] or f'status {code}'}")
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in out.split("\n\n")
        ]
        return {b["Id"]: b for b in blocks if b.get("Id") and b.get("ActiveState")}


def _count(text: str) -> int | None:
    """Read NRestarts; only services have it."""
    return int(text) if text.isdigit() else None
