"""The release of a service that its cluster rolls out: back to an earlier one, or all replicas anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import structlog
from pydantic import Field, StringConstraints

from agent.errors import Refused, Unavailable
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model, say_duration
from playbooks.actions._setting import Setting
from playbooks.actions._step import change, target

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_CLEAR_S: Final = 10.0


class Rollout(Protocol):
    """How the newest rollout of a service stands."""

    @property
    def revision(self) -> str:
        """The release that is asked for; "" = not known yet."""
        ...

    @property
    def settled(self) -> bool:
        """Whether all replicas run it and are well."""
        ...

    @property
    def stuck(self) -> bool:
        """Whether whoever rolls it out has given up."""
        ...

    @property
    def words(self) -> str:
        """How it stands, for people."""
        ...

    @property
    def restarted(self) -> str:
        """The key of the step that last had all replicas replaced; "" = none of ours."""
        ...


@runtime_checkable
class Rollouts(Protocol):
    """Something that rolls releases out, and keeps the earlier ones. `service` is an entity id."""

    async def rollout(self, service: str) -> Rollout:
        """Return how the newest rollout stands; raises Unavailable, Refused."""
        ...

    async def earlier(self, service: str) -> Sequence[str]:
        """Return the releases that can be gone back to, the one before the current first."""
        ...

    async def roll_to(self, service: str, revision: str, expect: str) -> None:
        """Begin to roll out another release if the one asked for is `expect`; Refused when it is not."""
        ...

    async def roll_again(self, service: str, key: str, expect: str) -> None:
        """Begin to replace all replicas by new ones of the same release, and keep the key on it; Refused as above."""
        ...

    async def unblock(self, service: str) -> int:
        """Take away replicas that keep a rollout from going on, none that serves; returns how many."""
        ...


def _service(step: Step, override: str) -> Entity:
    about = target(step, override)
    if about.kind != "service":
        raise Refused(f"{about} is no service: {step.use} acts on service:NAME, say which")
    return about


async def _follow(
    rollouts: Rollouts, about: Entity, wait: float, ours: Callable[[Rollout], bool], *, clear: bool
) -> tuple[bool, str]:
    """Watch a rollout until it has settled, is stuck, is not ours any more, or it was long enough.

    Returns whether it has settled, and how it stands.
    """
    end, clear_at, said = time.monotonic() + wait, 0.0, ""
    while True:
        try:
            if clear and time.monotonic() >= clear_at:
                clear_at = time.monotonic() + _CLEAR_S
                await rollouts.unblock(about.id)
            now = await rollouts.rollout(about.id)
        except Unavailable as blind:
            if time.monotonic() > end:
                return False, f"how it stands can not be seen: {blind}"
        else:
            if now.words != said:
                said = now.words
                log.info("rollout", service=about.key, stands=said)
            if now.revision and not ours(now):
                return False, f"others roll out {now.revision} now"
            if now.settled:
                return True, said
            if now.stuck or time.monotonic() > end:
                return False, f"{said}, after {say_duration(wait)}" if not now.stuck else said
        await asyncio.sleep(_LOOK_S)


@action("rollout_undo")
class RolloutUndo(Setting):
    """Roll a service back to the release before, as its cluster keeps it, and watch it; undo rolls forward again."""

    ability = Rollouts
    gives = (*Setting.gives, "settled")
    kind = "release"

    class Params(Model):
        """To which release, and how patient we are."""

        to: Annotated[str, StringConstraints(max_length=253)] = ""
        """As the cluster calls it; default: the one before, but none that was rolled back from."""
        service: str = ""
        """Entity id, `service:NAME`; default: the target."""
        wait: Annotated[Duration, Field(le=3600)] = 600.0
        """For all replicas to run it and be well; what is not by then is told."""

    def __init__(self, params: Params, ability: Rollouts) -> None:
        self._params = params
        self._rollouts = ability
        self.waits_s = params.wait + 60.0

    def _about(self, step: Step) -> Entity:
        return _service(step, self._params.service)

    def _name(self, about: Entity) -> str:
        return f"the release of {about}"

    async def _read(self, about: Entity) -> str:
        now = (await self._rollouts.rollout(about.id)).revision
        if not now:
            raise Unavailable(f"the newest release of {about} is not known yet")
        return now

    async def _goal(self, about: Entity, now: str) -> str:
        earlier = await self._rollouts.earlier(about.id)
        if self._params.to:
            if self._params.to not in {now, *earlier}:
                raise Refused(
                    f"{about} keeps no release {self._params.to}; it has {', '.join(earlier) or 'none'}"
                )
            return self._params.to
        if not earlier:
            raise Refused(f"{about} keeps no release before {now} that could be gone back to")
        return earlier[0]

    async def _write(self, about: Entity, goal: str, expect: str, step: Step) -> str:
        del step
        await self._rollouts.roll_to(about.id, goal, expect)
        return ""

    async def run(self, step: Step) -> Done:
        """Begin, or find it begun, and watch."""
        done = await super().run(step)
        return done if step.dry_run else await self._watched(step, done)

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Roll out again what ran before, if nobody has rolled out another meanwhile; it is not waited for."""
        return await super().undo(step, done)

    async def _watched(self, step: Step, done: Done) -> Done:
        goal = done.values["value"]
        settled, words = await _follow(
            self._rollouts,
            self._about(step),
            self._params.wait,
            lambda r: r.revision == goal,
            clear=True,
        )
        values = {**done.values, "settled": settled}
        return Done(f"{done.summary}: {words}", values, done.undo, done.change)


@action("rollout_restart")
class RolloutRestart:
    """Replace all replicas by new ones of the same release, as the cluster rolls a release out, and watch it."""

    effect = "mutating"
    ability = Rollouts
    reversible = True
    stays = "what was replaced runs the same release"
    shared = True
    gives = ("service", "settled")
    takes_replica = True

    class Params(Model):
        """What, and how patient we are."""

        service: str = ""
        """Entity id, `service:NAME`; default: the target."""
        wait: Annotated[Duration, Field(le=3600)] = 600.0
        """For all replicas to be new and well; what is not by then is told."""

    def __init__(self, params: Params, ability: Rollouts) -> None:
        self._params = params
        self._rollouts = ability
        self.waits_s = params.wait + 60.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return the release, and who has last restarted it."""
        about = _service(step, self._params.service)
        now = await self._rollouts.rollout(about.id)
        return {"service": about.id, "revision": now.revision, "restarted": now.restarted}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it has begun; `run` then only watches."""
        return bool(seen["restarted"] == step.key)

    async def run(self, step: Step) -> Done:
        """Begin, from what was planned against, and watch."""
        about = _service(step, self._params.service)
        now = await self._rollouts.rollout(about.id)
        planned = str(step.before.get("revision", now.revision))
        if now.restarted != step.key:
            if now.revision != planned:
                raise Refused(
                    f"{about} runs release {now.revision}, not {planned} as planned: changed by others"
                )
            if step.dry_run:
                return Done(f"would replace all replicas of {about}, one after the other")
            await self._rollouts.roll_again(about.id, step.key, planned)
        settled, words = await _follow(
            self._rollouts, about, self._params.wait, lambda r: r.restarted == step.key, clear=False
        )
        return Done(
            f"replaced the replicas of {about}: {words}",
            {"service": about.id, "settled": settled},
            change=change(step, about, "restart", "running", "restarted"),
        )
