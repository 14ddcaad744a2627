"""Set a limit: CPU and memory of a group of processes, power of a GPU, a parameter or threshold of a service."""

from __future__ import annotations

from typing import Annotated, Any, Protocol, Self, runtime_checkable

from pydantic import Field, StringConstraints, model_validator

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Step
from agent.registry import action
from agent.units import Model, Quantity, say
from playbooks.actions._setting import Setting
from playbooks.actions._step import target

LimitName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""Quantity and base unit, as signals are named: `memory_bytes`, `cpu_cores`, `power_watts`, `requests_per_second`."""

_UNITS = ("bytes", "watts", "ratio", "seconds", "celsius", "hertz", "per_second")


@runtime_checkable
class Limiter(Protocol):
    """Something that holds limits of entities; None = it may take what there is."""

    async def limit(self, target: str, name: str) -> float | None:
        """Return a limit now; raises Unavailable, and Refused for a target or name that it has not."""
        ...

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return what it would really become (whole pages, whole watts); Refused when it is out of bounds."""
        ...

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Set it if it is `expect`; Refused when it is not, Uncertain when unclear."""
        ...


@action("set_limit")
class SetLimit(Setting):
    """Set one limit of a process, service or GPU; undo puts back what it was."""

    ability = Limiter

    class Params(Model):
        """Which limit, and what it shall be: `value` or `times`, one of them."""

        limit: Annotated[LimitName, Field(examples=["cpu_cores"])]
        """`cpu_cores`, `memory_bytes`, `power_watts`, or what the connector calls it."""
        value: Annotated[Quantity | None, Field(examples=[2.0])] = None
        """In base units: `2.0`, `8GiB`, `350.0`, `50%`."""
        times: Annotated[float, Field(gt=0, le=100)] | None = None
        """Of what it is now: 0.9 is a tenth less. Refused where there is no limit yet."""
        min: Quantity | None = None
        """Never below."""
        max: Quantity | None = None
        """Never above."""
        of: str = ""
        """Entity id; default: the target."""

        @model_validator(mode="after")
        def _one_of(self) -> Self:
            if (self.value is None) == (self.times is None):
                raise ValueError("write either `value: 8GiB` or `times: 0.9`")
            if self.min is not None and self.max is not None and self.min > self.max:
                raise ValueError("`min` is above `max`")
            return self

    def __init__(self, params: Params, ability: Limiter) -> None:
        self._params = params
        self._limiter = ability

    def _about(self, step: Step) -> Entity:
        return target(step, self._params.of)

    def _name(self, about: Entity) -> str:
        return f"the limit {self._params.limit} of {about}"

    def _say(self, value: Any) -> str:
        if value is None:
            return "none"
        unit = next((u for u in _UNITS if self._params.limit.endswith(f"_{u}")), "")
        return say(float(value), unit)

    async def _read(self, about: Entity) -> float | None:
        return await self._limiter.limit(about.id, self._params.limit)

    async def _goal(self, about: Entity, now: float | None) -> float:
        params = self._params
        if params.value is not None:
            wanted = params.value
        elif now is None:
            raise Refused(
                f"{self._name(about)} is not set, so there is nothing to take {params.times:g} times of: write `value`"
            )
        else:
            wanted = now * (params.times or 1.0)
        low = wanted if params.min is None else max(params.min, wanted)
        bounded = low if params.max is None else min(params.max, low)
        return await self._limiter.nearest(about.id, params.limit, bounded)

    async def _write(
        self, about: Entity, goal: float | None, expect: float | None, step: Step
    ) -> str:
        del step
        await self._limiter.set_limit(about.id, self._params.limit, goal, expect)
        return ""
