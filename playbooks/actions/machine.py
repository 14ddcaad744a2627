"""Reboot the host that we run on: the last remedy but one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field

from agent.errors import Refused, Uncertain
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model, say_duration
from playbooks.actions._step import change, target


@runtime_checkable
class Machine(Protocol):
    """A host that can be rebooted."""

    def boot(self, host: str) -> str:
        """Return what tells this boot from every other; raises Refused for a host that is not this one."""
        ...

    def may_reboot(self) -> None:
        """Raise Refused when it can not, or may not now (somebody holds it back)."""
        ...

    async def reboot(self, reason: str) -> None:
        """Ask for a reboot and return when it is under way; Refused when it was not taken, Uncertain when unclear."""
        ...


@action("reboot")
class Reboot:
    """Reboot this host. The run goes on after it: that it has happened is seen by the new boot."""

    effect = "mutating"
    ability = Machine
    reversible = False
    takes_replica = True
    shared = False
    gives = ("boot",)

    class Params(Model):
        """Why, and how patient we are."""

        reason: Annotated[str, Field(min_length=1, max_length=200)] = "homeostat reboots this host"
        """What people read who are logged in."""
        wait: Annotated[Duration, Field(le=900)] = 45.0
        """How long the host may take to go down."""

    def __init__(self, params: Params, ability: Machine) -> None:
        self._params = params
        self._machine = ability
        self.waits_s = params.wait + 60.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return the boot; Refused when it may not be rebooted."""
        self._machine.may_reboot()
        return {"boot": self._machine.boot(target(step).id)}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether this is another boot than when it was planned."""
        return bool(seen["boot"] != step.before.get("boot", seen["boot"]))

    async def run(self, step: Step) -> Done:
        """Reboot, unless it was."""
        about = target(step)
        if about.kind != "host":
            raise Refused(f"{about} is no host: reboot acts on host:NAME")
        now = self._machine.boot(about.id)
        planned = step.before.get("boot", now)
        told = change(step, about, "restart", "running", "rebooted")
        if now != planned:
            return Done(f"{about} was rebooted", {"boot": now}, change=told)
        self._machine.may_reboot()
        if step.dry_run:
            return Done(f"would reboot {about}", {"boot": now})
        await self._machine.reboot(self._params.reason)
        await asyncio.sleep(self._params.wait)
        if (now := self._machine.boot(about.id)) != planned:
            return Done(f"{about} was rebooted", {"boot": now}, change=told)
        raise Uncertain(
            f"{about} was asked to reboot and still runs after {say_duration(self._params.wait)}"
        )
