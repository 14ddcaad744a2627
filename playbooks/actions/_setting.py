"""One value of the world that is read, compared, set and put back: what many verbs have in common.

A verb derives from `Setting` and says what it is about (`_about`), how the value is read (`_read`) and set
(`_write`), and what it shall be (`_goal`). The goal is fixed when the run is planned; if the value is then neither
what it was nor the goal, somebody else is at work and the step is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Done, Step
from playbooks.actions._step import change, nothing, target


class Setting:
    """A verb that sets one value. Values are what JSON knows."""

    effect = "mutating"
    reversible = True
    shared = True
    gives: tuple[str, ...] = ("of", "value", "before")
    kind: Literal["release", "config", "scale", "act", "flag"] = "config"

    def _about(self, step: Step) -> Entity:
        """Return whose value it is."""
        return target(step)

    def _name(self, about: Entity) -> str:
        """Return what is set, for people: "the weight of replica:web/1"."""
        raise NotImplementedError

    async def _read(self, about: Entity) -> Any:
        """Return the value now."""
        raise NotImplementedError

    async def _goal(self, about: Entity, now: Any) -> Any:
        """Return what it shall be when it is `now`; raises Refused when that can not be."""
        raise NotImplementedError

    async def _write(self, about: Entity, goal: Any, expect: Any, step: Step) -> str:
        """Set it if it is `expect`; returns what else is to be said, "" for nothing."""
        raise NotImplementedError

    def _say(self, value: Any) -> str:
        return str(value)

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return the value and what it shall be."""
        about = self._about(step)
        now = await self._read(about)
        return {"of": about.id, "value": now, "goal": await self._planned(step, about, now)}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether the value is what was planned."""
        return bool(seen["value"] == step.before.get("goal", seen["goal"]))

    async def _planned(self, step: Step, about: Entity, now: Any) -> Any:
        return step.before["goal"] if "goal" in step.before else await self._goal(about, now)

    async def run(self, step: Step) -> Done:
        """Set it, from what was planned against."""
        about = self._about(step)
        now = await self._read(about)
        before = step.before.get("value", now)
        goal = await self._planned(step, about, now)
        name, values = self._name(about), {"of": about.id, "value": goal, "before": before}
        if now == goal:
            # The world keeps no name on it: planned against another value, it was most likely this step.
            return Done(
                f"{name} is {self._say(goal)} already", values, values if before != goal else {}
            )
        if now != before:
            raise Refused(self._moved(name, now, before))
        said = f"{self._say(goal)} in place of {self._say(before)}"
        if step.dry_run:
            return Done(f"would make {name} {said}", values)
        more = await self._write(about, goal, before, step)
        return Done(
            f"{name} is {said}{more}", values, values, change(step, about, self.kind, before, goal)
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Set it back, if it is still as we set it."""
        if nothing(done):
            return Done("nothing to put back: this step has set nothing")
        about = target(step, str(done["of"]))
        ours, back = done["value"], done["before"]
        now = await self._read(about)
        name, values = self._name(about), {"of": about.id, "value": back, "before": ours}
        if now == back:
            return Done(f"{name} is {self._say(back)} again already", values)
        if now != ours:
            raise Refused(self._moved(name, now, ours))
        said = f"{self._say(back)} again in place of {self._say(ours)}"
        if step.dry_run:
            return Done(f"would make {name} {said}", values)
        more = await self._write(about, back, ours, step)
        return Done(
            f"{name} is {said}{more}", values, change=change(step, about, self.kind, ours, back)
        )

    def _moved(self, name: str, now: Any, expected: Any) -> str:
        return (
            f"{name} was changed by others: it is {self._say(now)}, not {self._say(expected)} as planned; "
            "look who is at work there before you act"
        )
