"""Nodes of a cluster: closed to new work, emptied of what they run, and open again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import structlog
from pydantic import Field

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model, many, say_duration
from playbooks.actions._setting import Setting
from playbooks.actions._step import change, nothing, target

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_AGAIN_S: Final = 5.0
"""How soon it is asked again whether a tenant may go."""
_NAMED: Final = 5


class Node(Protocol):
    """One machine of a cluster."""

    @property
    def closed(self) -> bool:
        """Whether it takes no new work."""
        ...

    @property
    def by(self) -> str:
        """The key of the step that closed it; "" = it is open, or somebody else did."""
        ...


class Tenant(Protocol):
    """Something that runs on a node."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def birth(self) -> str:
        """Names one life of it and no other."""
        ...

    @property
    def stays(self) -> bool:
        """Whether it belongs to the node, and is not moved."""
        ...

    @property
    def going(self) -> bool:
        """Whether it is about to end."""
        ...

    @property
    def hindrance(self) -> str:
        """What would be lost with it: unmanaged, local_data, ourselves; "" = nothing, it comes up elsewhere."""
        ...


@runtime_checkable
class Nodes(Protocol):
    """A cluster, its machines called by the entity ids of hosts."""

    async def node(self, host: str) -> Node:
        """Return how a node is; raises Unavailable, and Refused for one that it has not, or that is not ours."""
        ...

    async def open_nodes(self) -> Sequence[str]:
        """Return the hosts that are well and take work."""
        ...

    async def set_closed(self, host: str, closed: bool, expect: bool, by: str) -> None:
        """Close or open it if it is as `expect`, and keep the key on it; Refused when it is not."""
        ...

    async def tenants(self, host: str) -> Sequence[Tenant]:
        """Return what runs on it; what has ended is left out."""
        ...

    async def evict(self, host: str, birth: str, grace_s: float | None) -> str:
        """Have a tenant go, gently; "" = it is on its way or gone, else why not now: its budget. Errors as above."""
        ...


def _host(step: Step, override: str) -> Entity:
    about = target(step, override)
    if about.kind != "host":
        raise Refused(f"{about} is no host: {step.use} acts on host:NAME, say which with `host:`")
    return about


class _OfNode(Setting):
    """A verb that closes or opens a node."""

    ability = Nodes
    kind = "act"
    goal: bool

    class Params(Model):
        """Which one."""

        host: str = ""
        """Entity id, `host:NAME`; default: the target."""

    def __init__(self, params: Params, ability: Nodes) -> None:
        self._which = params.host
        self._nodes = ability

    def _about(self, step: Step) -> Entity:
        return _host(step, self._which)

    def _name(self, about: Entity) -> str:
        return f"{about}"

    def _say(self, value: Any) -> str:
        return "closed to new work" if value else "open to work"

    async def _read(self, about: Entity) -> bool:
        return (await self._nodes.node(about.id)).closed

    async def _goal(self, about: Entity, now: bool) -> bool:
        del about, now
        return self.goal

    async def _write(self, about: Entity, goal: bool, expect: bool, step: Step) -> str:
        await self._nodes.set_closed(about.id, goal, expect, step.key if goal else "")
        return ""


@action("cordon_node")
class CordonNode(_OfNode):
    """Close a node of the cluster to new work; what runs there stays. Undo opens it again."""

    goal = True


@action("uncordon_node")
class UncordonNode(_OfNode):
    """Let a node of the cluster take work again; undo closes it."""

    goal = False


@action("drain_node")
class DrainNode:
    """Close a node and move what runs there, as disruption budgets allow; undo opens it, nothing moves back."""

    effect = "mutating"
    ability = Nodes
    reversible = True
    shared = True
    gives = ("host", "moved", "stay")
    takes_replica = True

    class Params(Model):
        """Which one, how patient we are, and what may be lost."""

        host: str = ""
        """Entity id, `host:NAME`; default: the target."""
        wait: Annotated[Duration, Field(le=6 * 3600)] = 900.0
        """For all to go. If some have not, the node is opened again and the step is refused."""
        grace: Annotated[Duration, Field(le=3600)] | None = None
        """For each to end; default: what each says itself."""
        local_data: bool = False
        """Also move what keeps data on the node, which is then lost."""
        unmanaged: bool = False
        """Also end what nobody starts again."""
        min_open: Annotated[int, Field(ge=0)] = 1
        """So many other nodes must be well and open."""

    def __init__(self, params: Params, ability: Nodes) -> None:
        self._params = params
        self._nodes = ability
        self.waits_s = params.wait + 60.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return whether it is closed, by whom, and how many would have to go."""
        about = _host(step, self._params.host)
        node = await self._nodes.node(about.id)
        left = [t for t in await self._nodes.tenants(about.id) if not t.stays]
        return {"host": about.id, "closed": node.closed, "by": node.by, "left": len(left)}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it has begun, or there is nothing to do; `run` then goes on with what is left."""
        return bool(seen["by"] == step.key or (seen["closed"] and not seen["left"]))

    async def run(self, step: Step) -> Done:
        """Close it, from what was planned against, and move what is there."""
        about = _host(step, self._params.host)
        node = await self._nodes.node(about.id)
        before = bool(step.before.get("closed", node.closed))
        if node.by != step.key:
            if node.closed != before:
                how = "closed" if node.closed else "opened"
                raise Refused(
                    f"{about} was {how} by others since it was planned; look who is at work there"
                )
            await self._may(about, await self._nodes.tenants(about.id))
            if step.dry_run:
                todo, rest = _parted(await self._nodes.tenants(about.id))
                return Done(
                    f"would close {about}, move {len(todo)} and leave {len(rest)} that belong to it"
                )
            await self._nodes.set_closed(about.id, True, before, step.key)
        moved, stay = await self._empty(about, before=before)
        told = change(step, about, "act", "closed" if before else "open", "drained")
        summary = f"{about} is closed and empty: {moved} have gone, {stay} belong to it and stay"
        undo = {} if before else {"host": about.id, "key": step.key}
        return Done(summary, {"host": about.id, "moved": moved, "stay": stay}, undo, told)

    async def _may(self, about: Entity, tenants: Sequence[Tenant]) -> None:
        """Raise Refused where something would be lost, or nobody could take what goes."""
        if kept := self._kept(tenants):
            raise Refused(f"{about} is not drained: {kept}")
        others = [h for h in await self._nodes.open_nodes() if h != about.id]
        if len(others) < self._params.min_open:
            raise Refused(
                f"without {about} only {many(len(others), 'node is', 'nodes are')} well and open, "
                f"at least {self._params.min_open} must be"
            )

    def _kept(self, tenants: Sequence[Tenant]) -> str:
        """Say what hinders, and what would allow it; "" = nothing."""
        said = []
        for what, why, allowed in (
            ("unmanaged", "nobody starts again (`unmanaged: true` ends them)", self._params.unmanaged),
            ("local_data", "keep data there (`local_data: true` loses it)", self._params.local_data),
            ("ourselves", "are homeostat itself: drain it by hand", False),
        ):  # fmt: skip
            names = [t.name for t in tenants if not t.stays and t.hindrance == what]
            if names and not allowed:
                said.append(f"{_few(names)} {why}")
        return "; ".join(said)

    async def _empty(self, about: Entity, *, before: bool) -> tuple[int, int]:
        """Have everything go; returns how many have, and how many stay. Opens it again when it does not come about."""
        end, said = time.monotonic() + self._params.wait, ""
        gone: set[str] = set()
        while True:
            todo: list[Tenant] = []
            try:
                todo, stay = _parted(await self._nodes.tenants(about.id))
                if not todo:
                    return len(gone), len(stay)
                if kept := self._kept(todo):
                    await self._give_up(about, kept, before=before)
                gone |= {t.birth for t in todo}
                held = await self._move(about, todo)
            except Refused as no:
                await self._give_up(about, str(no), before=before)
            except (
                Unavailable,
                Uncertain,
            ) as blind:  # an eviction that was done twice is done once
                held = {"?": str(blind)}
            told = "; ".join(
                [f"{len(todo)} left", *(f"{n}: {w}" for n, w in held.items())][: _NAMED + 1]
            )
            if told != said:
                said = told
                log.info("node_draining", host=about.key, left=len(todo), waiting=_few([*held]))
            if time.monotonic() > end:
                late = f"after {say_duration(self._params.wait)}: {told}"
                await self._give_up(about, late, before=before)
            await asyncio.sleep(_AGAIN_S if held else _LOOK_S)

    async def _move(self, about: Entity, todo: Sequence[Tenant]) -> dict[str, str]:
        """Ask each to go that is not about to; returns who may not yet, and why."""
        held = {}
        for one in todo:
            if not one.going and (
                why := await self._nodes.evict(about.id, one.birth, self._params.grace)
            ):
                held[one.name] = why
        return held

    async def _give_up(self, about: Entity, why: str, *, before: bool) -> None:
        """Open it again if it was open, and raise Refused; what has gone runs elsewhere."""
        if before:
            raise Refused(f"{about} is not empty, {why}; it stays closed, as it was")
        try:
            await self._nodes.set_closed(about.id, False, True, "")
        except AgentError as problem:
            raise Uncertain(
                f"{about} is not empty, {why}; and it could not be opened again: {problem}"
            ) from None
        raise Refused(f"{about} is not empty, {why}; it takes work again")

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Open it again, if it is still we who closed it; what has gone stays where it is."""
        if nothing(done):
            return Done("nothing to put back: this step has closed nothing")
        about = target(step, str(done["host"]))
        node = await self._nodes.node(about.id)
        if not node.closed:
            return Done(f"{about} takes work again already")
        if node.by != done["key"]:
            raise Refused(f"{about} is closed by others now; look who is at work there")
        if step.dry_run:
            return Done(f"would let {about} take work again")
        await self._nodes.set_closed(about.id, False, True, "")
        told = change(step, about, "act", "drained", "open")
        return Done(f"{about} takes work again", {"host": about.id}, change=told)


def _parted(tenants: Sequence[Tenant]) -> tuple[list[Tenant], list[Tenant]]:
    """Return who has to go, and who belongs to the node."""
    return [t for t in tenants if not t.stays], [t for t in tenants if t.stays]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more
