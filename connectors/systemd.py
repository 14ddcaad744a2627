"""Units of systemd as the replicas of a service: how many are active, start and stop, restart.

    systemd:
      service: checkout
      units: [checkout@1.service, checkout@2.service, checkout@3.service]

Asked and told by `systemctl`, as argv lists; to start, stop and restart takes root or a rule of polkit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from agent.config import Name
from agent.errors import Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.units import Duration, Model, say_duration
from connectors._program import run_program

_ASK_S: Final = 5.0
_LOOK_S: Final = 0.2
_NOTHING: Final = "0" * 32
"""InvocationID of a unit that never ran."""
_WANTED: Final = ("Id", "LoadState", "ActiveState", "SubState", "InvocationID")

Unit = Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.\\@-]+\.service$")]


@dataclass(frozen=True, slots=True)
class Life:
    """One unit that is active. birth: the invocation id that systemd gives each start."""

    replica: str
    birth: str
    well: bool


@connector("systemd")
class Systemd:
    """Units of systemd that together are one service.

    Abilities  Restarter (see playbooks/actions/restart.py), Scaler (see playbooks/actions/scale.py): more replicas are
               the first units that do not run, fewer are the last that do
    """

    tested = "stand-in: a script for systemctl"
    stand_in = True

    class Config(Model):
        """Which units."""

        service: Name
        units: Annotated[list[Unit], Field(min_length=1)]
        wait: Annotated[Duration, Field(gt=0, le=600)] = 60.0
        """For one unit to start or to stop."""
        systemctl: str = "systemctl"

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._turn = asyncio.Lock()

    # ---- ability: Restarter

    async def units(self, service: str) -> Sequence[Life]:
        """Return the units that run or start."""
        self._ours(service)
        return [
            Life(f"replica:{self.config.service}/{unit}", said["InvocationID"], _well(said))
            for unit, said in (await self._all()).items()
            if _there(said)
        ]

    async def restart(self, service: str, birth: str) -> None:
        """Restart the unit of that invocation, and wait until it is active again."""
        self._ours(service)
        async with self._turn:
            found = {
                said["InvocationID"]: unit
                for unit, said in (await self._all()).items()
                if _there(said)
            }
            unit = found.get(birth)
            if unit is None:
                raise Refused(
                    f"{service} runs no unit of invocation {birth}: it was restarted already"
                )
            await self._tell("restart", unit)
            said = await self._after("restart", unit)
            if not _well(said) or said["InvocationID"] == birth:
                raise Uncertain(
                    f"{unit} is {said['ActiveState']} ({said['SubState']}) after its restart; see its journal"
                )

    # ---- ability: Scaler

    async def replicas(self, target: str) -> int:
        """Return how many units run."""
        return len(await self.units(target))

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        """Start or stop units, one by one."""
        self._ours(target)
        if not 1 <= n <= len(self.config.units):
            raise Refused(
                f"{target} has 1 to {len(self.config.units)} units, not {n}: mend `units` of {self.name}"
            )
        async with self._turn:
            running = [unit for unit, said in (await self._all()).items() if _there(said)]
            if len(running) != expect:
                raise Refused(
                    f"{target} runs {len(running)} units, not {expect}: changed by others"
                )
            idle = [unit for unit in self.config.units if unit not in running]
            for turn, unit in enumerate(idle[: n - expect] if n > expect else running[n:][::-1]):
                try:
                    await self._tell("start" if n > expect else "stop", unit)
                except (Refused, Unavailable) as problem:
                    if not turn:
                        raise
                    raise Uncertain(
                        f"{turn} units of {target} were changed, then: {problem}"
                    ) from None

    async def describe(self) -> Sequence[str]:
        """Say how the units stand."""
        try:
            found = await self._all()
        except (Refused, Unavailable) as problem:
            return (str(problem),)
        return [
            f"{unit}: {said['ActiveState']} ({said['SubState']})" for unit, said in found.items()
        ]

    # ---- systemctl

    def _ours(self, service: str) -> None:
        if service != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} runs service:{self.config.service}, not {service}: say which with `via:`"
            )

    async def _all(self) -> dict[str, Mapping[str, str]]:
        """Return what systemd says of each unit, in the order of config."""
        code, out = await self._run(
            ["show", f"--property={','.join(_WANTED)}", "--", *self.config.units], _ASK_S
        )
        if code:
            raise Unavailable(
                f"systemctl does not answer: {out[:300] or f'status {code}'}; does systemd run here?"
            )
        blocks = [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in out.split("\n\n")
        ]
        found = {said["Id"]: said for said in blocks if "Id" in said}
        for unit in self.config.units:
            if found.get(unit, {}).get("LoadState") != "loaded":
                raise Refused(f"systemd has no unit {unit}: mend `units` of {self.name}")
        return {unit: found[unit] for unit in self.config.units}

    async def _tell(self, verb: str, unit: str) -> None:
        """Have one unit started, stopped or restarted, and wait for it."""
        code, out = await self._run([verb, "--", unit], self.config.wait, changes=True)
        if code:
            how = (
                "; that takes root or a rule of polkit"
                if "denied" in out or "authenti" in out
                else ""
            )
            raise Refused(f"systemctl {verb} {unit}: {out[:300] or f'status {code}'}{how}")
        end = time.monotonic() + self.config.wait
        while (said := await self._after(verb, unit))["ActiveState"] in {
            "activating",
            "deactivating",
            "reloading",
        }:
            if time.monotonic() > end:
                raise Uncertain(
                    f"{unit} is {said['ActiveState']} after {say_duration(self.config.wait)}"
                )
            await asyncio.sleep(_LOOK_S)

    async def _after(self, verb: str, unit: str) -> Mapping[str, str]:
        """Return what systemd says of a unit that was told; raises Uncertain when it says nothing."""
        try:
            return (await self._all())[unit]
        except (Refused, Unavailable) as lost:
            raise Uncertain(f"systemctl {verb} {unit} was done; {lost}") from None

    async def _run(
        self, argv: Sequence[str], timeout_s: float, *, changes: bool = False
    ) -> tuple[int, str]:
        words = [self.config.systemctl, "--no-pager", "--no-ask-password", *argv]
        try:
            return await run_program(words, timeout_s)
        except TimeoutError:
            text = f"systemctl {argv[0]} did not come back within {say_duration(timeout_s)}"
            if changes:
                raise Uncertain(f"{text}; systemd may still be at it") from None
            raise Unavailable(text) from None
        except OSError as wrong:
            raise Refused(f"{self.config.systemctl} can not be run: {wrong.strerror}") from None


def _there(said: Mapping[str, str]) -> bool:
    """Tell whether a unit runs, or is about to."""
    return said["ActiveState"] in {"active", "activating", "reloading"} and said[
        "InvocationID"
    ] not in {"", _NOTHING}


def _well(said: Mapping[str, str]) -> bool:
    return said["ActiveState"] == "active"
