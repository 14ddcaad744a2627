"""Restart the replicas of a service, one after the other, never below what must stay healthy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, runtime_checkable

from pydantic import Field

from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model, many, say_duration
from playbooks.actions._step import change, target

_LOOK_S: Final = 0.2


class Unit(Protocol):
    """One replica as whatever runs it sees it."""

    @property
    def replica(self) -> str:
        """Entity id, `replica:SERVICE/NAME`."""
        ...

    @property
    def birth(self) -> str:
        """Names one life of it and no other: pid and start time, an invocation id."""
        ...

    @property
    def well(self) -> bool:
        """Whether it serves."""
        ...


@runtime_checkable
class Restarter(Protocol):
    """Something that runs replicas and can restart one of them."""

    async def units(self, service: str) -> Sequence[Unit]:
        """Return the replicas of a service (entity id) that there are now; raises Unavailable, Refused."""
        ...

    async def restart(self, service: str, birth: str) -> None:
        """End the life of one replica gently, and return when another has taken its place and is well.

        Refused when there is none of that birth (nothing happened), Uncertain when none took its place in time.
        """
        ...


@action("restart")
class Restart:
    """Restart a service replica by replica, or one replica; it runs what it ran before."""

    effect = "mutating"
    ability = Restarter
    reversible = True
    stays = "what was restarted runs what it ran before"
    shared = True
    gives = ("service", "restarted")
    takes_replica = True

    class Params(Model):
        """What, and how carefully."""

        service: str = ""
        """Entity id, `service:NAME` or `replica:SERVICE/NAME`; default: the target."""
        min_healthy: Annotated[int, Field(ge=0)] = 1
        """So many must serve while one restarts; agent.yaml may ask for more."""
        pause: Annotated[Duration, Field(le=3600)] = 0.0
        """Between two replicas."""
        wait: Annotated[Duration, Field(le=3600)] = 30.0
        """For enough of the others to be well, before it stops half way."""

    def __init__(self, params: Params, ability: Restarter) -> None:
        self._params = params
        self._restarter = ability

    def _about(self, step: Step) -> tuple[Entity, str]:
        """Return what is restarted, and its service."""
        about = target(step, self._params.service)
        if about.kind == "replica":
            return about, f"service:{about.key.rpartition('/')[0]}"
        return about, about.id

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return the replicas that are meant, by birth."""
        about, service = self._about(step)
        units = await self._restarter.units(service)
        mine = {u.birth: u.replica for u in units if about.id in {service, u.replica}}
        return {"service": service, "units": mine}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it has begun: one that lived when it was planned lives no more. `run` then goes on."""
        planned = step.before.get("units", {})
        return bool(planned) and not planned.keys() <= seen["units"].keys()

    async def run(self, step: Step) -> Done:
        """Restart all that live since before the plan; who was born later needs none."""
        about, service = self._about(step)
        seen = await self.observe(step)
        planned: Mapping[str, str] = step.before.get("units", seen["units"])
        if not planned:
            raise Refused(f"{about} has no replicas that could be restarted")
        todo = [birth for birth in planned if birth in seen["units"]]
        values = {"service": service, "restarted": len(planned)}
        if not todo:
            every = many(len(planned), "replica was", "replicas were")
            return Done(f"{about}: {every} restarted already", values)
        if step.dry_run:
            return Done(
                f"would restart {many(len(todo), 'replica')} of {about}, one by one", values
            )
        for turn, birth in enumerate(todo):
            try:
                if turn and self._params.pause:
                    await asyncio.sleep(self._params.pause)
                await self._enough(service, birth)
                await self._restarter.restart(service, birth)
            except (Refused, Unavailable) as problem:
                if not turn:
                    raise
                raise Uncertain(
                    f"{turn} of {len(todo)} replicas of {about} were restarted, then: {problem}"
                ) from None
        return Done(
            f"restarted {many(len(todo), 'replica')} of {about}, one by one",
            values,
            change=change(step, about, "restart", "running", "restarted"),
        )

    async def _enough(self, service: str, birth: str) -> None:
        """Wait until enough others are well; one that is not well takes nothing away by its restart."""
        end = time.monotonic() + self._params.wait
        while True:
            units = await self._restarter.units(service)
            ailing = any(u.birth == birth and not u.well for u in units)
            well = sum(u.well for u in units if u.birth != birth)
            if ailing or well >= self._params.min_healthy:
                return
            if time.monotonic() > end:
                raise Refused(
                    f"only {many(well, 'other replica')} of {service} {'is' if well == 1 else 'are'} well "
                    f"after {say_duration(self._params.wait)}, "
                    f"{self._params.min_healthy} must be: add one first, or mend those that are not"
                )
            await asyncio.sleep(_LOOK_S)
