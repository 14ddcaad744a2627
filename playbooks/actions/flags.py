"""Turn a feature on or off, or to a value: whatever the service reads its flags from."""

from __future__ import annotations

import json
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import StringConstraints

from agent.model import Entity
from agent.ports import Step
from agent.registry import action
from agent.units import Model
from playbooks.actions._setting import Setting
from playbooks.actions._step import author, target

FlagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,100}$")]
Value = bool | float | str | None


@runtime_checkable
class Flags(Protocol):
    """Where a service reads its flags; None = there is none of that name."""

    async def flag(self, name: str) -> Value:
        """Return its value; raises Unavailable, Refused."""
        ...

    async def set_flag(self, name: str, value: Value, expect: Value, by: str) -> None:
        """Set it (None: take it away) if it is `expect`; Refused when it is not, Uncertain when unclear."""
        ...


@action("set_flag")
class SetFlag(Setting):
    """Set a feature flag; undo puts back what it was."""

    ability = Flags
    kind = "flag"

    class Params(Model):
        """Which flag, and what it shall be."""

        flag: FlagName
        """Its name, as the service knows it."""
        value: bool | float | str
        """`true`, `false`, a number, or a variant by name."""
        service: str = ""
        """Entity id of whom it concerns; default: the target."""

    def __init__(self, params: Params, ability: Flags) -> None:
        self._params = params
        self._flags = ability

    def _about(self, step: Step) -> Entity:
        return target(step, self._params.service)

    def _name(self, about: Entity) -> str:
        return f"the flag {self._params.flag} of {about}"

    def _say(self, value: Any) -> str:
        return "not set" if value is None else json.dumps(value)

    async def _read(self, about: Entity) -> Value:
        del about
        return await self._flags.flag(self._params.flag)

    async def _goal(self, about: Entity, now: Value) -> Value:
        del about, now
        return self._params.value

    async def _write(self, about: Entity, goal: Value, expect: Value, step: Step) -> str:
        del about
        await self._flags.set_flag(self._params.flag, goal, expect, author(step))
        return ""
