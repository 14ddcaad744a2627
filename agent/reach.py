"""What an act reaches: whom it touches, whose replicas it takes away, what a pause or a window of others covers. Pure.

    playbook + target + cause -.
                                >-- Reach -- touched: whom parameters name       owners: whose state that is
    plan ----------------------'            takes:   replicas go down by it     stakes: owners, and all that goes down

Two acts whose stakes meet are never at work at once: a host that is rebooted is at stake with all that runs on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, get_args

from agent import registry
from agent.model import Cause, Entity, EntityKind
from agent.record import owner_of

if TYPE_CHECKING:
    from agent.plans import Plan
    from agent.playbook import Playbook
    from agent.topology import Topology

_KINDS: Final = frozenset(get_args(EntityKind)) - {"source"}


@dataclass(frozen=True, slots=True)
class Reach:
    """Whom an act touches on the map as it is now.

    touched  the target, and the entities that parameters name
    takes    a verb takes away a replica for a while, or all that runs on a host or GPU
    """

    touched: tuple[Entity, ...]
    takes: bool
    topology: Topology
    _stakes: list[frozenset[Entity]] = field(default_factory=list, repr=False, compare=False)

    @property
    def owners(self) -> frozenset[Entity]:
        """Whose state is changed."""
        return frozenset(map(owner_of, self.touched))

    @property
    def stakes(self) -> frozenset[Entity]:
        """What no other act may be at work on meanwhile."""
        if not self._stakes:
            down = (e for one in self._machines() for e in self._upon(one))
            found = {*self.owners, *map(owner_of, down), *self.weakened()}
            self._stakes.append(frozenset(found))
        return self._stakes[0]

    @property
    def treated(self) -> frozenset[Entity]:
        """Whom it does something to: the touched, their owners, and all that goes down with a machine."""
        down = {e for one in self._machines() for e in self._upon(one)}
        return frozenset({*self.touched, *self.owners, *down})

    @property
    def covered_by(self) -> list[Entity]:
        """Whose pause, silence or window holds for it: its own, its owners', its machine's; the target first."""
        found = [*self.touched, *map(owner_of, self.touched)]
        return list(dict.fromkeys([*found, *(h for e in found for h in self._hosts(e))]))

    def weakened(self) -> dict[Entity, int | None]:
        """Return the services that lose replicas -> how many are known to be left elsewhere; None = all but one."""
        out: dict[Entity, int | None] = {}
        for one in self.touched:
            if one.kind in {"replica", "service"} and self.takes:
                out[owner_of(one)] = None
            elif one.kind == "process":
                out.update(dict.fromkeys(self._served(one)))
        for one in self._machines():
            upon = set(self._upon(one))
            for service in sorted(e for e in upon if e.kind == "service"):
                elsewhere = {
                    e.src
                    for e in self.topology.edges(service)
                    if e.kind == "serves" and e.dst == service and e.src not in upon
                    and e.src.kind in {"replica", "process"}
                } | {
                    e for e in self.topology.entities("replica")
                    if owner_of(e) == service and e not in upon
                }  # fmt: skip
                out[service] = len(elsewhere)
        return out

    def _machines(self) -> Iterator[Entity]:
        return (e for e in self.touched if self.takes and e.kind in {"host", "gpu"})

    def _upon(self, machine: Entity) -> Iterator[Entity]:
        """Yield what runs on a machine: GPUs, processes, replicas, and the services that these serve."""
        seen, queue = {machine}, deque([machine])
        while queue:
            here = queue.popleft()
            for edge in self.topology.edges(here):
                below = edge.kind == "runs_on" and edge.dst == here
                serves = edge.kind == "serves" and edge.src == here and edge.dst.kind == "service"
                other = edge.src if below else edge.dst if serves else None
                found = [other, owner_of(other)] if other and other.kind == "replica" else [other]
                for one in found:
                    if one is not None and one not in seen:
                        seen.add(one)
                        yield one
                        if one.kind != "service":
                            queue.append(one)

    def _served(self, process: Entity) -> list[Entity]:
        return [
            e.dst
            for e in self.topology.edges(process)
            if e.kind == "serves" and e.src == process and e.dst.kind == "service"
        ]

    def _hosts(self, one: Entity) -> list[Entity]:
        """Return the machine that something runs on; a service that runs on several is not one machine's."""
        if one.kind in {"process", "replica", "gpu"}:
            host = self.topology.nearest(one, "host")
            return [host] if host is not None else []
        if one.kind != "service":
            return []
        edges = self.topology.edges(one)
        hosts = {e.dst for e in edges if e.kind == "runs_on" and e.src == one}
        hosts = {h for h in hosts if h.kind == "host"}
        return list(hosts) if len(hosts) == 1 else []


def of_playbook(
    playbook: Playbook, target: Entity, cause: Cause | None, topology: Topology
) -> Reach:
    """Return what a playbook would reach."""
    takes = takes_away(s.use for s in playbook.do)
    return Reach(playbook.touches(target, cause), takes, topology)


def of_plan(target: Entity, plan: Plan | None, topology: Topology) -> Reach:
    """Return what a run reaches; of one whose plan is gone, its target is known."""
    steps = plan.steps if plan is not None else ()
    moving = [s for s in steps if _moves(s.use)]
    named = [e for s in moving for v in s.params.values() if (e := _named(v)) is not None]
    return Reach(tuple(dict.fromkeys([target, *named])), takes_away(s.use for s in steps), topology)


def takes_away(verbs: Iterable[str]) -> bool:
    """Tell whether any verb takes something away from service while it acts."""
    known = (registry.action.get(v) for v in verbs if v in registry.action)
    return any(getattr(verb, "takes_replica", False) for verb in known)


def _moves(use: str) -> bool:
    """Tell whether a verb acts on whom its parameters name: what tells or asks people only speaks of them."""
    verb = registry.action.get(use) if use in registry.action else None
    return verb is None or verb.effect == "mutating" or verb.shared


def _named(value: object) -> Entity | None:
    kind, colon, key = value.partition(":") if isinstance(value, str) else ("", "", "")
    return Entity(kind, key) if colon and key and kind in _KINDS else None  # type: ignore[arg-type]  # one of the kinds
