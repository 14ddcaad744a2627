"""Which replica gets how many requests: shift, drain, let serve again; and which replicas there are at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Step
from agent.registry import action
from agent.units import Duration, Model, Ratio, many, say_duration
from playbooks.actions._setting import Setting
from playbooks.actions._step import target

State = Literal["ready", "drain", "maint"]

_LOOK_S: Final = 0.2


class Backend(Protocol):
    """One replica as the load balancer sees it."""

    @property
    def weight(self) -> int:
        """Its share of the requests against the others' weights; 0 = none."""
        ...

    @property
    def state(self) -> State:
        """As set by people: ready, drain (finishes what it has), maint (gets nothing, is not checked)."""
        ...

    @property
    def up(self) -> bool:
        """Whether it passes its health checks, or has none."""
        ...

    @property
    def sessions(self) -> int:
        """Requests or connections that it is at."""
        ...


@runtime_checkable
class Traffic(Protocol):
    """A load balancer. Replicas and services are entity ids; raises Unavailable, and Refused for what it has not."""

    async def backends(self, service: str) -> Mapping[str, Backend]:
        """Return replica -> how it stands, for all replicas of a service."""
        ...

    async def set_weight(self, replica: str, weight: int, expect: int) -> None:
        """Give it a weight if it has `expect`; Refused when it has not, Uncertain when there was no answer."""
        ...

    async def set_state(self, replica: str, state: State, expect: State) -> None:
        """Bring it into a state if it is in `expect`; errors as above."""
        ...


@runtime_checkable
class Roster(Traffic, Protocol):
    """A load balancer whose list of replicas can change while it runs."""

    async def address(self, replica: str) -> str | None:
        """Return `host:port` of a replica; None = it is not on the list."""
        ...

    async def set_address(self, replica: str, address: str | None, expect: str | None) -> None:
        """Put it on the list, or take it off when `address` is None, if it stands as `expect`."""
        ...


def _service(about: Entity) -> str:
    return f"service:{about.key.rpartition('/')[0]}"


def _replica(step: Step, override: str) -> Entity:
    about = target(step, override)
    if about.kind != "replica" or "/" not in about.key:
        node = "; a node of a cluster has `drain_node` and `uncordon_node`" * (about.kind == "host")
        raise Refused(
            f"{about} is no replica: {step.use} acts on replica:SERVICE/NAME, say which with `replica:`{node}"
        )
    return about


class _OfBackend(Setting):
    """A verb about one replica behind a load balancer."""

    ability: type[Any] = Traffic

    def __init__(self, replica: str, ability: Traffic) -> None:
        self._which = replica
        self._traffic = ability

    def _about(self, step: Step) -> Entity:
        return _replica(step, self._which)

    async def _all(self, about: Entity) -> tuple[Backend, dict[str, Backend]]:
        """Return a replica and the others of its service."""
        others = dict(await self._traffic.backends(_service(about)))
        mine = others.pop(about.id, None)
        if mine is None:
            raise Refused(
                f"the load balancer does not know {about}; it has {', '.join(sorted(others)) or 'none'}"
            )
        return mine, others

    @staticmethod
    def _must_stay(about: Entity, others: Mapping[str, Backend], least: int) -> None:
        """Raise Refused when fewer than `least` others would serve."""
        well = [r for r, b in others.items() if b.up and b.state == "ready" and b.weight > 0]
        if len(well) < least:
            raise Refused(
                f"without {about} only {many(len(well), 'replica')} of {_service(about)} would serve, "
                f"at least {least} must; mend one of the others first"
            )


@action("shift_traffic")
class ShiftTraffic(_OfBackend):
    """Give a replica more or fewer of the requests (a canary's weight); undo gives it its weight back."""

    class Params(Model):
        """How much: `weight` or `share`, one of them."""

        weight: Annotated[float, Field(ge=0, le=10)] | Ratio | None = None
        """Of what it has now: 50% is half, 0 nothing."""
        share: Annotated[Ratio, Field(lt=1)] | None = None
        """Of all requests of the service: 5% for a canary."""
        replica: str = ""
        """Entity id, `replica:SERVICE/NAME`; default: the target."""
        min_healthy: Annotated[int, Field(ge=1)] = 1
        """When it gets nothing, so many others must serve."""

        @model_validator(mode="after")
        def _one_of(self) -> Self:
            if (self.weight is None) == (self.share is None):
                raise ValueError("write either `weight: 50%` or `share: 5%`")
            return self

    def __init__(self, params: Params, ability: Traffic) -> None:
        super().__init__(params.replica, ability)
        self._params = params

    def _name(self, about: Entity) -> str:
        return f"the weight of {about}"

    async def _read(self, about: Entity) -> int:
        return (await self._all(about))[0].weight

    async def _goal(self, about: Entity, now: int) -> int:
        wanted = self._params.weight if self._params.share is None else self._params.share
        exact = now * (wanted or 0.0)
        if self._params.share is not None:
            _, others = await self._all(about)
            rest = sum(b.weight for b in others.values() if b.up and b.state == "ready")
            if not rest:
                raise Refused(f"no other replica of {_service(about)} serves: {about} has it all")
            exact = rest * self._params.share / (1 - self._params.share)
        goal = round(exact)
        if wanted and not goal:
            raise Refused(
                f"weights of {_service(about)} are too coarse for that: {about} would get {exact:.2g}; "
                "give its replicas weights of 100 in the load balancer's own file"
            )
        return goal

    async def _write(self, about: Entity, goal: int, expect: int, step: Step) -> str:
        del step
        if not goal:
            self._must_stay(about, (await self._all(about))[1], self._params.min_healthy)
        await self._traffic.set_weight(about.id, goal, expect)
        return ""


@action("drain")
class Drain(_OfBackend):
    """Give a replica no new requests and wait for those it has; undo lets it serve again."""

    kind = "act"
    takes_replica = True

    class Params(Model):
        """Which one, and how patient we are."""

        replica: str = ""
        """Entity id, `replica:SERVICE/NAME`; default: the target."""
        min_healthy: Annotated[int, Field(ge=1)] = 1
        """So many others must serve."""
        wait: Annotated[Duration, Field(le=3600)] = 30.0
        """For its last request; what is left then is told, not cut off."""

    def __init__(self, params: Params, ability: Traffic) -> None:
        super().__init__(params.replica, ability)
        self._params = params
        self.waits_s = params.wait + 30.0

    def _name(self, about: Entity) -> str:
        return f"the state of {about}"

    async def _read(self, about: Entity) -> State:
        return (await self._all(about))[0].state

    async def _goal(self, about: Entity, now: State) -> State:
        del about
        # what a person has taken out of service altogether stays so
        return "maint" if now == "maint" else "drain"

    async def _write(self, about: Entity, goal: State, expect: State, step: Step) -> str:
        del step
        if goal == "ready":
            await self._traffic.set_state(about.id, goal, expect)
            return ""
        self._must_stay(about, (await self._all(about))[1], self._params.min_healthy)
        await self._traffic.set_state(about.id, goal, expect)
        end = time.monotonic() + self._params.wait
        while left := (await self._all(about))[0].sessions:
            if time.monotonic() > end:
                return f"; {left} of its requests run on after {say_duration(self._params.wait)}"
            await asyncio.sleep(_LOOK_S)
        return "; it is at no request"


@action("uncordon")
class Uncordon(_OfBackend):
    """Let a replica serve again that was drained or taken out; undo puts it back as it was."""

    kind = "act"

    class Params(Model):
        """Which one."""

        replica: str = ""
        """Entity id, `replica:SERVICE/NAME`; default: the target."""

    def __init__(self, params: Params, ability: Traffic) -> None:
        super().__init__(params.replica, ability)

    def _name(self, about: Entity) -> str:
        return f"the state of {about}"

    async def _read(self, about: Entity) -> State:
        return (await self._all(about))[0].state

    async def _goal(self, about: Entity, now: State) -> State:
        del about, now
        return "ready"

    async def _write(self, about: Entity, goal: State, expect: State, step: Step) -> str:
        del step
        if goal != "ready":
            self._must_stay(about, (await self._all(about))[1], 1)
        await self._traffic.set_state(about.id, goal, expect)
        return ""


class _OfRoster(_OfBackend):
    """A verb about the list of replicas."""

    ability = Roster
    kind = "scale"

    def __init__(self, replica: str, ability: Roster) -> None:
        super().__init__(replica, ability)
        self._roster = ability

    def _name(self, about: Entity) -> str:
        return f"the address of {about}"

    def _say(self, value: Any) -> str:
        return value or "none"

    async def _read(self, about: Entity) -> str | None:
        return await self._roster.address(about.id)

    async def _write(self, about: Entity, goal: str | None, expect: str | None, step: Step) -> str:
        del step
        if goal is None:
            self._must_stay(about, (await self._all(about))[1], 1)
        await self._roster.set_address(about.id, goal, expect)
        return ""


@action("attach_replica")
class AttachReplica(_OfRoster):
    """Put a replica that runs on the load balancer's list, so that it gets requests; undo takes it off."""

    class Params(Model):
        """Which one, and where it listens."""

        address: Annotated[
            str, Field(pattern=r"^[A-Za-z0-9._:\[\]-]+:\d{1,5}$", examples=["127.0.0.1:8001"])
        ]
        """`host:port`."""
        replica: str = ""
        """Entity id, `replica:SERVICE/NAME`; default: the target."""

    def __init__(self, params: Params, ability: Roster) -> None:
        super().__init__(params.replica, ability)
        self._address = params.address

    async def _goal(self, about: Entity, now: str | None) -> str:
        if now not in {None, self._address}:
            raise Refused(f"{about} is on the list already, at {now}: detach it first")
        return self._address


@action("detach_replica")
class DetachReplica(_OfRoster):
    """Take a replica off the load balancer's list when its requests are done; undo puts it back."""

    takes_replica = True

    class Params(Model):
        """Which one."""

        replica: str = ""
        """Entity id, `replica:SERVICE/NAME`; default: the target."""

    def __init__(self, params: Params, ability: Roster) -> None:
        super().__init__(params.replica, ability)

    async def _goal(self, about: Entity, now: str | None) -> None:
        del about, now
