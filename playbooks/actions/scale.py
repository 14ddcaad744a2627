"""More or fewer replicas of a service, by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from agent.errors import Refused
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Model, many
from playbooks.actions._step import change, nothing, target


@runtime_checkable
class Scaler(Protocol):
    """Something that runs replicas of a service; `target` is an entity id."""

    async def replicas(self, target: str) -> int:
        """Return how many there are now; raises Unavailable, Refused."""
        ...

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        """Bring them from `expect` to `n` and wait until it is so.

        Refused when there are not `expect` of them or n is out of bounds, Uncertain when it did not come about.
        """
        ...


@action("scale")
class Scale:
    """Start or end replicas; undo goes back to how many there were."""

    effect = "mutating"
    ability = Scaler
    reversible = True
    shared = True
    gives = ("service", "replicas", "before")

    class Params(Model):
        """How many: `by` or `to`, one of them."""

        by: int | None = None
        """So many more; negative: fewer."""
        to: Annotated[int, Field(ge=1)] | None = None
        """So many."""
        max: Annotated[int, Field(ge=1)] | None = None
        """Never more than this; the connector may allow less."""
        min: Annotated[int, Field(ge=1)] = 1
        """Never fewer than this."""
        service: str = ""
        """Entity id, `service:NAME`; default: the target."""

        @model_validator(mode="after")
        def _one_of(self) -> Self:
            if (self.by is None) == (self.to is None):
                raise ValueError("write either `by: 1` or `to: 3`")
            if self.by == 0:
                raise ValueError("`by: 0` changes nothing")
            if self.max is not None and self.max < max(self.min, self.to or 1):
                raise ValueError("`max` is below `min` or `to`")
            return self

    def __init__(self, params: Params, ability: Scaler) -> None:
        self._params = params
        self._scaler = ability

    def _goal(self, now: int) -> int:
        """Return how many there shall be when there are `now`; `now` itself when the bounds leave no room."""
        params = self._params
        wanted = params.to if params.to is not None else now + (params.by or 0)
        bounded = max(params.min, wanted if params.max is None else min(params.max, wanted))
        # A bound never turns the direction round: with max 4 and 6 there, `by: 1` means 6.
        return max(now, bounded) if wanted > now else min(now, bounded)

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return how many replicas there are and how many there would be."""
        about = target(step, self._params.service)
        now = await self._scaler.replicas(about.id)
        return {"service": about.id, "replicas": now, "goal": self._goal(now)}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether there are as many as planned; no room to scale is not success."""
        if self._params.to is not None:
            return bool(seen["replicas"] == self._params.to)
        planned = step.before.get("goal")
        return (
            planned is not None
            and planned != step.before["replicas"]
            and seen["replicas"] == planned
        )

    async def run(self, step: Step) -> Done:
        """Scale from what was planned against; Refused when others have scaled meanwhile."""
        about = target(step, self._params.service)
        now = await self._scaler.replicas(about.id)
        before = int(step.before.get("replicas", now))
        goal = self._goal(before)
        values = {"service": about.id, "replicas": goal, "before": before}
        if goal == before and goal != self._params.to:
            raise Refused(
                f"{about} runs {many(before, 'replica')}, its bounds "
                f"({self._params.min} to {self._params.max or 'any'}) leave no room; raise the bound or act otherwise"
            )
        if now == goal:
            # The world keeps no name on it: planned against another number, it was most likely this step.
            return Done(
                f"{about} runs {many(goal, 'replica')} already",
                values,
                values if before != goal else {},
            )
        if now != before:
            raise Refused(_moved(about.id, now, before))
        if step.dry_run:
            return Done(f"would bring {about} from {before} to {many(goal, 'replica')}", values)
        await self._scaler.set_replicas(about.id, goal, before)
        return Done(
            f"{about} runs {many(goal, 'replica')}, {before} before",
            values,
            values,
            change(step, about, "scale", before, goal),
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Go back to how many there were, if there are still as many as we set."""
        if nothing(done):
            return Done("nothing to put back: this step did not scale")
        service, ours, back = str(done["service"]), int(done["replicas"]), int(done["before"])
        now = await self._scaler.replicas(service)
        values = {"service": service, "replicas": back, "before": ours}
        if now == back:
            return Done(f"{service} runs {many(back, 'replica')} again already", values)
        if now != ours:
            raise Refused(_moved(service, now, ours))
        if step.dry_run:
            return Done(
                f"would bring {service} back from {ours} to {many(back, 'replica')}", values
            )
        await self._scaler.set_replicas(service, back, ours)
        return Done(
            f"{service} runs {many(back, 'replica')} again, {ours} before",
            values,
            change=change(step, target(step, service), "scale", ours, back),
        )


def _moved(service: str, now: int, expected: int) -> str:
    return (
        f"{service} was scaled by others: it runs {many(now, 'replica')}, not {expected} as planned; "
        "an autoscaler or a person is at work there, leave it to them"
    )
