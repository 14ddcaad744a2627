"""End a process group for good: asked first, then made to. There is no way back, so a person must say yes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from agent.errors import Refused, Uncertain
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model, many
from playbooks.actions import _procfs as procfs
from playbooks.actions._step import change, target

_LOOK_S: Final = 0.05
_LAST_S: Final = 5.0
"""After SIGKILL the kernel needs a moment; who hangs in a driver never ends."""
_PASSES: Final = 5


@action("kill_process")
class KillProcess:
    """End a process group: SIGTERM, and SIGKILL for who is left after `grace`. Nothing brings it back.

    The group is known by boot, pid and start time of its leader, and each process is signalled through a descriptor:
    another that comes by the same number is never hit. PID 1, kernel threads, homeostat and its ancestors never are.
    """

    effect = "mutating"
    ability = None
    reversible = False
    shared = False
    gives = ("process", "name", "members")

    class Params(Model):
        """Which group, and how patient we are."""

        process: str = ""
        """Entity id, `process:BOOT/PID/START`; default: the target."""
        grace: Annotated[Duration, Field(le=600)] = 10.0
        """Between the two signals; 0 = SIGKILL at once."""

    def __init__(self, params: Params, ability: None = None) -> None:
        del ability
        self._params = params
        self.waits_s = params.grace + 30.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return who of the group lives; Refused when we may not signal one of them."""
        return await asyncio.to_thread(self._look, step)

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether nobody of the group lives."""
        del step
        return not seen["members"]

    async def run(self, step: Step) -> Done:
        """End all members, also those forked meanwhile."""
        about = target(step, self._params.process)
        seen = await self.observe(step)
        name = seen["name"] or step.before.get("name", "") or about.id
        values = {"process": about.id, "name": name, "members": len(seen["members"])}
        if not seen["members"]:
            return Done(f"{name} has ended already", values)
        if step.dry_run:
            return Done(
                f"would end {name} ({many(len(seen['members']), 'process', 'processes')})", values
            )
        if self._params.grace:
            await asyncio.to_thread(_signal, about, seen, signal.SIGTERM)
            if await _gone(about, seen, self._params.grace):
                return self._done(step, about, values, "ended")
        await asyncio.to_thread(_signal, about, seen, signal.SIGKILL)
        if await _gone(about, seen, _LAST_S):
            return self._done(step, about, values, "was killed")
        raise Uncertain(
            f"{name} was killed and is still there: it hangs inside the kernel; see its stack in /proc/PID/stack"
        )

    @staticmethod
    def _done(step: Step, about: Entity, values: Mapping[str, Any], how: str) -> Done:
        return Done(
            f"{values['name']} ({many(values['members'], 'process', 'processes')}) {how}",
            values,
            change=change(step, about, "act", "running", how),
        )

    def _look(self, step: Step) -> dict[str, Any]:
        about = target(step, self._params.process)
        found = _living(about, step.before)
        for member in found:
            if procfs.owner(member.pid) not in {os.geteuid(), None} and not procfs.has_capability(
                procfs.CAP_KILL
            ):
                raise Refused(
                    f"{about} runs {member.name} ({member.pid}) as another user: ending it takes CAP_KILL; "
                    "grant it to the daemon (AmbientCapabilities=CAP_KILL)"
                )
        leader = next((m.name for m in found if about.key.endswith(f"/{m.id}")), "")
        return {
            "process": about.id,
            "group": found[0].group if found else 0,
            "name": leader or step.before.get("name", ""),
            "members": [m.id for m in found],
        }


def _living(about: Entity, seen: Mapping[str, Any]) -> list[procfs.Member]:
    """Return the living members: by the leader while it lives, then by those of `seen` who do."""
    try:
        pid, start = procfs.parse(about)
    except Refused:
        if about.kind == "process" and about.key.count("/") == 2:
            return []  # of another boot
        raise
    try:
        return procfs.members(about)[1]
    except Refused:
        leader = procfs.read(pid)
        if leader is not None and leader.start == start:
            raise  # it lives, and must not be touched
    return procfs.survivors(int(seen.get("group", 0)), seen.get("members", ()))


def _signal(about: Entity, seen: Mapping[str, Any], what: signal.Signals) -> None:
    """Signal every member once; who is forked meanwhile is found at the next look."""
    told: set[str] = set()
    for _ in range(_PASSES):
        fresh = [m for m in _living(about, seen) if m.id not in told]
        for member in fresh:
            procfs.signal_one(member, what)
            told.add(member.id)
        if not fresh:
            return


async def _gone(about: Entity, seen: Mapping[str, Any], wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while await asyncio.to_thread(_living, about, seen):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_LOOK_S)
    return True
