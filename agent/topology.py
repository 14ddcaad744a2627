"""Who runs on, serves, calls, feeds and is a version of whom: the graph that incidents and causes live on.

Learnt from sightings of the sources and from config (`bind`). A host ends a walk and never bridges it: two
processes of one host are neighbours, not relatives. Cost: O(1) a sighting, a walk touches one component.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from agent.model import Edge, Entity, Sighting

if TYPE_CHECKING:
    from agent.config import Service


class Topology:
    """Entities, their attributes, and edges in both directions."""

    def __init__(self) -> None:
        self._attrs: dict[Entity, dict[str, str]] = {}
        self._edges: dict[Entity, dict[Edge, None]] = {}

    def take(self, sighting: Sighting) -> None:
        """Learn what a source saw; what is gone leaves with its edges."""
        if sighting.gone:
            self._forget(sighting.entity)
            return
        self._attrs.setdefault(sighting.entity, {}).update(sighting.attrs)
        for edge in sighting.edges:
            self.link(edge)

    def link(self, edge: Edge) -> None:
        """Add an edge; both ends become known."""
        for end in (edge.src, edge.dst):
            self._attrs.setdefault(end, {})
            self._edges.setdefault(end, {})[edge] = None

    def unlink(self, edge: Edge) -> None:
        """Take an edge away; its ends stay."""
        for end in (edge.src, edge.dst):
            self._edges.get(end, {}).pop(edge, None)

    def _forget(self, gone: Entity) -> None:
        for edge in list(self._edges.get(gone, ())):
            self.unlink(edge)
        self._edges.pop(gone, None)
        self._attrs.pop(gone, None)

    def entities(self, kind: str | None = None) -> list[Entity]:
        """Return everything known, sorted; only of one kind when asked."""
        return sorted(e for e in self._attrs if kind is None or e.kind == kind)

    def attrs(self, entity: Entity) -> Mapping[str, str]:
        """Return the attributes of an entity; empty when nobody has seen it."""
        return self._attrs.get(entity, {})

    def edges(self, entity: Entity) -> list[Edge]:
        """Return the edges that touch an entity, in both directions."""
        return sorted(self._edges.get(entity, ()), key=lambda e: (e.kind, e.src, e.dst))

    def around(self, start: Entity, *, through_host: bool = False) -> Iterable[tuple[Entity, int]]:
        """Walk outwards from `start`, nearest first: (entity, steps). Hosts are reached, not crossed."""
        seen = {start}
        queue = deque([(start, 0)])
        while queue:
            here, steps = queue.popleft()
            yield here, steps
            if here.kind == "host" and here != start and not through_host:
                continue
            for edge in self.edges(here):
                other = edge.dst if edge.src == here else edge.src
                if other not in seen:
                    seen.add(other)
                    queue.append((other, steps + 1))

    def nearest(self, entity: Entity, kind: str) -> Entity | None:
        """Return the entity itself or the closest relative of that kind; None when there is none."""
        for other, _ in self.around(entity):
            if other.kind == kind:
                return other
        return None

    def related(self, entity: Entity, kind: str) -> list[Entity]:
        """Return all relatives of a kind, nearest first."""
        return [other for other, _ in self.around(entity) if other.kind == kind]

    def peers(self, entity: Entity) -> list[Entity]:
        """Return those of the same kind that hang on the same parent: replicas of a service, GPUs of a host."""
        out: dict[Entity, None] = {}
        for edge in self.edges(entity):
            if edge.src != entity:
                continue
            for sibling in self.edges(edge.dst):
                other = sibling.src
                if sibling.kind == edge.kind and other.kind == entity.kind and other != entity:
                    out[other] = None
        return list(out)

    def group(self, entity: Entity) -> Entity:
        """Return the one whose trouble it is: the service, else the model, else the host, else itself.

        A process that serves nobody belongs to its host.
        """
        if entity.kind in {"source", "host"}:
            return entity
        for kind in ("service", "model", "host"):
            found = self.nearest(entity, kind)
            if found is not None:
                return found
        return entity


class Binding:
    """Ties process groups to the services of config by pidfile, port or command.

    Called when processes are sighted or pidfiles change; edges: process serves service, service runs_on host.
    """

    def __init__(self, services: Iterable[Service], host: Entity) -> None:
        self._services = list(services)
        self._host = host
        self._bound: dict[Entity, Edge] = {}

    def start(self, topology: Topology) -> None:
        """Put the services, their models and dependencies on the map before anything was seen."""
        for service in self._services:
            me = Entity("service", service.id)
            topology.take(
                Sighting(me, attrs=(("channel", service.channel), ("owner", service.owner)))
            )
            topology.link(Edge("runs_on", me, self._host))
            for model in service.models:
                topology.link(Edge("serves", me, Entity("model", model)))
            for callee in service.calls:
                kind = "dependency" if ":" in callee else "service"
                topology.link(Edge("calls", me, Entity(kind, callee)))  # type: ignore[arg-type]  # one of two literals

    def update(self, topology: Topology, pids: Mapping[str, int]) -> None:
        """Bind what is there now. pids: service id -> process group of its pidfile, read by the caller."""
        for process in topology.entities("process"):
            attrs = topology.attrs(process)
            owner = next((s for s in self._services if _serves(s, attrs, pids.get(s.id))), None)
            edge = Edge("serves", process, Entity("service", owner.id)) if owner else None
            old = self._bound.get(process)
            if edge == old:
                continue
            if old is not None:
                topology.unlink(old)
                del self._bound[process]
            if edge is not None:
                topology.link(edge)
                self._bound[process] = edge
        alive = set(topology.entities("process"))
        self._bound = {p: e for p, e in self._bound.items() if p in alive}


def _serves(service: Service, attrs: Mapping[str, str], group: int | None) -> bool:
    """Tell whether a process group with these attributes is the service's."""
    if group is not None and attrs.get("pgid", attrs.get("pid")) == str(group):
        return True
    if service.port is not None and str(service.port) in attrs.get("listen", "").split(","):
        return True
    return bool(service.process) and fnmatchcase(attrs.get("command", ""), service.process)
