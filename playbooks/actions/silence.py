"""Keep quiet, and hands off, about a target for a while: before a reboot, while a person works there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from agent.ports import Done, Silencer, Step
from agent.registry import action
from agent.units import Duration, Model, say_duration
from playbooks.actions._step import author, change, nothing, target


@action("silence")
class SilenceTarget:
    """Silence a target for a while: nobody is told of it and nothing acts on it; undo ends the silence."""

    effect = "marking"
    ability = Silencer
    reversible = True
    shared = False
    gives = ("of", "until")

    class Params(Model):
        """What, for how long, and why."""

        for_: Annotated[Duration, Field(alias="for", gt=0, le=7 * 86_400)]
        """At most a week."""
        reason: Annotated[str, Field(min_length=1, max_length=500)]
        """What people read who miss an alert."""
        of: str = ""
        """Entity id; default: the target."""

    def __init__(self, params: Params, ability: Silencer) -> None:
        self._params = params
        self._silencer = ability

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return until when the silence of this step holds, 0 = not at all."""
        return {"until": await self._silencer.silenced(step.key) or 0.0}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether the silence of this step holds."""
        del step
        return bool(seen["until"])

    async def run(self, step: Step) -> Done:
        """Begin the silence; its end is fixed by the first try."""
        about = target(step, self._params.of)
        lasts, reason = say_duration(self._params.for_), self._params.reason
        until = await self._silencer.silenced(step.key)
        undo = {"key": step.key, "of": about.id}
        if until is not None:
            return Done(f"{about} is silenced already", {"of": about.id, "until": until}, undo)
        if step.dry_run:
            return Done(f"would silence {about} for {lasts}: {reason}")
        until = time.time() + self._params.for_
        await self._silencer.silence(step.key, about.id, until, author(step), reason)
        return Done(
            f"silenced {about} for {lasts}: {reason}",
            {"of": about.id, "until": until},
            undo,
            change(step, about, "flag", "heard", "silenced"),
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """End the silence."""
        if nothing(done):
            return Done("nothing to put back: this step has silenced nothing")
        if await self._silencer.silenced(str(done["key"])) is None:
            return Done(f"the silence of {done['of']} has ended already")
        if step.dry_run:
            return Done(f"would end the silence of {done['of']}")
        await self._silencer.unsilence(str(done["key"]))
        about = target(step, str(done["of"]))
        return Done(
            f"ended the silence of {about}", change=change(step, about, "flag", "silenced", "heard")
        )
