"""Do nothing for a while, so that an act can show its effect before the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model, say_duration


@action("wait")
class Wait:
    """Wait; a try that was cut off waits anew."""

    effect = "reading"
    ability = None
    reversible = True
    shared = False
    gives = ()

    class Params(Model):
        """How long."""

        time: Duration = Field(le=3600.0)
        """At most an hour: for longer pauses use `until` or a schedule."""

    def __init__(self, params: Params, ability: None = None) -> None:
        del ability
        self._params = params
        self.waits_s = params.time + 5.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return nothing: time leaves no mark."""
        del step
        return {}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Never."""
        del step, seen
        return False

    async def run(self, step: Step) -> Done:
        """Wait."""
        said = say_duration(self._params.time)
        if step.dry_run:
            return Done(f"would wait {said}")
        await asyncio.sleep(self._params.time)
        return Done(f"waited {said}")
