"""Who runs on, serves, calls, feeds and is a version of whom: the graph that incidents and causes live on.

    sightings of sources, labels of series, agent.yaml --> words (who told it, when, how long it holds) --> edges

Every edge knows who told it. Most hold until they are told to be gone; what is inferred from traffic or labels holds
for a while and fades when nobody says it again, so the graph follows deployments. A person has the last word: edges
that agent.yaml takes away stay away, whoever tells them.

A host ends a walk and never bridges it: two processes of one host are neighbours, not relatives. So does a GPU that
two replicas share. Who calls whom is no kinship either: `upstream` follows calls, `around` does not.
Cost: O(1) a sighting, O(what can fade) a `fade`; a walk touches one component. What `edges`, `nearest` and `group` have
found is kept until the graph is another one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from agent.attributes import LABELS
from agent.model import Change, Edge, Entity, Sighting

if TYPE_CHECKING:
    from agent.config import Labelled, Service

CONFIG: Final = "agent.yaml"
"""Who told what a person wrote."""
BINDING: Final = "binding"
"""Who told which process is which service: pidfile, port or command."""
_FADE_EVERY_S: Final = 15.0
_LIFTED_LASTS_S: Final = 3600.0
"""A call of a service stays known for so long after its processes have closed their last connection."""
_CARRIERS: Final = frozenset({"host", "gpu"})
"""What several may share: a walk goes down to them and further down, never up again to somebody else."""


@dataclass(frozen=True, slots=True)
class Word:
    """Who told an edge or an entity, when last, and until when that holds without being said again."""

    source: str
    seen: float
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class EdgePattern:
    """Edges by kind and ends; `*` in an end is a glob. kind "" = any."""

    kind: str
    src: str
    dst: str

    def covers(self, edge: Edge) -> bool:
        """Tell whether it means this edge."""
        return (
            self.kind in {"", edge.kind}
            and fnmatchcase(edge.src.id, self.src)
            and fnmatchcase(edge.dst.id, self.dst)
        )


class Topology:
    """Entities, their attributes, and edges in both directions."""

    def __init__(self) -> None:
        self._attrs: dict[Entity, dict[str, str]] = {}
        self._edges: dict[Entity, dict[Edge, None]] = {}
        self._words: dict[Entity | Edge, dict[str, Word]] = {}
        self._mortal: dict[Entity | Edge, None] = {}
        self._hidden: tuple[EdgePattern, ...] = ()
        self._labels: tuple[Labelled, ...] = ()
        self._unseen: set[Edge] = set()
        self._faded = -math.inf
        self.revision = 0
        """Rises whenever entities, attributes or edges are others than before."""
        self._asked_at = 0
        self._edges_of: dict[Entity, list[Edge]] = {}
        self._nearest_of: dict[tuple[Entity, str], Entity | None] = {}
        self._group_of: dict[Entity, Entity] = {}

    # ---- learning

    def take(self, sighting: Sighting, source: str = "", now: float = 0.0) -> None:
        """Learn what a source saw; what is gone leaves with its edges."""
        if sighting.gone:
            self._forget(sighting.entity)
            return
        attrs = self._attrs.get(sighting.entity)
        if attrs is None or any(attrs.get(name) != value for name, value in sighting.attrs):
            self.revision += 1
            self._known(sighting.entity).update(sighting.attrs)
        self._hear(sighting.entity, source, now, sighting.lasts_s)
        for edge in sighting.edges:
            self.link(edge, source, now, sighting.lasts_s)

    def link(
        self, edge: Edge, source: str = "", now: float = 0.0, lasts_s: float = math.inf
    ) -> None:
        """Add an edge, or hear of it again; both ends become known."""
        known = edge in self._words
        self._hear(edge, source, now, lasts_s)
        if known:
            return
        self.revision += 1
        for end in (edge.src, edge.dst):
            self._known(end)
            self._edges.setdefault(end, {})[edge] = None
        if self._hides(edge):
            self._unseen.add(edge)

    def unlink(self, edge: Edge, source: str | None = None) -> None:
        """Take an edge away, or only one source's word for it; its ends stay."""
        words = self._words.get(edge)
        if words is None:
            return
        if source is not None:
            words.pop(source, None)
            if words:
                return
        self.revision += 1
        del self._words[edge]
        self._mortal.pop(edge, None)
        self._unseen.discard(edge)
        for end in (edge.src, edge.dst):
            self._edges.get(end, {}).pop(edge, None)

    def _known(self, one: Entity) -> dict[str, str]:
        """Return the attributes of an entity, to be changed; who is new gets the labels that a person gave."""
        attrs = self._attrs.get(one)
        if attrs is None:
            attrs = self._attrs[one] = self._labelled(one)
        return attrs

    def _labelled(self, one: Entity) -> dict[str, str]:
        meant = (r for r in self._labels if r.kind == one.kind and fnmatchcase(one.key, r.key))
        return {f"{LABELS}{name}": value for rule in meant for name, value in rule.set.items()}

    def configure(
        self,
        add: Iterable[Edge],
        hide: Iterable[EdgePattern],
        now: float = 0.0,
        labels: Iterable[Labelled] = (),
    ) -> None:
        """Take a person's word: edges that there are, and edges that there are not, whoever tells them; labels.

        Replaces what an earlier configuration said, the services of a `Binding` included: start that afterwards.
        """
        self.revision += 1
        self.drop(CONFIG)
        self._hidden = tuple(hide)
        self._labels = tuple(labels)
        for one, attrs in self._attrs.items():
            for name in [n for n in attrs if n.startswith(LABELS)]:
                del attrs[name]
            attrs.update(self._labelled(one))
        for edge in add:
            self.link(edge, CONFIG, now)
        self._unseen = {k for k in self._words if isinstance(k, Edge) and self._hides(k)}

    def drop(self, source: str) -> None:
        """Forget what only this source told."""
        for key in [k for k, words in self._words.items() if source in words]:
            self._silence(key, source)

    def fade(self, now: float) -> None:
        """Forget what has not been told for longer than it holds; cheap to call every tick."""
        if 0.0 <= now - self._faded < _FADE_EVERY_S:
            return
        self._faded = now
        for key in list(self._mortal):
            for word in list(self._words.get(key, {}).values()):
                if word.until < now:
                    self._silence(key, word.source)

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set by `jump` seconds."""
        self._faded += jump
        for words in self._words.values():
            for source, word in words.items():
                words[source] = Word(source, word.seen + jump, word.until + jump)

    def _hear(self, key: Entity | Edge, source: str, now: float, lasts_s: float) -> None:
        words = self._words.setdefault(key, {})
        # what one part of a source holds for good, another does not shorten
        before = words.get(source)
        until = max(now + lasts_s, before.until if before is not None else -math.inf)
        words[source] = Word(source, now, until)
        if lasts_s < math.inf:
            self._mortal[key] = None

    def _silence(self, key: Entity | Edge, source: str) -> None:
        """Take back one source's word; what nobody tells any more goes, with ends that only it held."""
        words = self._words.get(key)
        if words is None or words.pop(source, None) is None or words:
            return
        if isinstance(key, Edge):
            self.unlink(key)
            ends: Sequence[Entity] = (key.src, key.dst)
        else:
            del self._words[key]
            self._mortal.pop(key, None)
            ends = (key,)
        for end in ends:
            if end not in self._words and not self._edges.get(end):
                self.revision += 1
                self._attrs.pop(end, None)
                self._edges.pop(end, None)

    def _hides(self, edge: Edge) -> bool:
        return any(pattern.covers(edge) for pattern in self._hidden)

    def _forget(self, gone: Entity) -> None:
        """Take an entity away with its edges; what a person wrote of it stays."""
        for key in (*self._edges.get(gone, ()), gone):
            for word in self.words(key):
                if word.source != CONFIG:
                    self._silence(key, word.source)

    # ---- asking

    def whole(self) -> tuple[dict[Entity, dict[str, str]], set[Edge]]:
        """Return all entities with their attributes, and all edges that a person did not take away."""
        edges = {k for k in self._words if isinstance(k, Edge)} - self._unseen
        return {e: dict(attrs) for e, attrs in self._attrs.items()}, edges

    def entities(self, kind: str | None = None) -> list[Entity]:
        """Return everything known, sorted; only of one kind when asked."""
        return sorted(e for e in self._attrs if kind is None or e.kind == kind)

    def attrs(self, entity: Entity) -> Mapping[str, str]:
        """Return the attributes of an entity; empty when nobody has seen it."""
        return self._attrs.get(entity, {})

    def words(self, of: Edge | Entity) -> list[Word]:
        """Return who told an edge or an entity, sorted by name; empty for what is only an end of an edge."""
        return sorted(self._words.get(of, {}).values(), key=lambda w: w.source)

    def edges(self, entity: Entity) -> list[Edge]:
        """Return the edges that touch an entity, in both directions; do not change the list."""
        self._same_graph()
        found = self._edges_of.get(entity)
        if found is None:
            some = (e for e in self._edges.get(entity, ()) if e not in self._unseen)
            found = self._edges_of[entity] = sorted(some, key=_by_kind)
        return found

    def _same_graph(self) -> None:
        """Forget what was asked of a graph that is another one by now."""
        if self._asked_at != self.revision:
            self._asked_at = self.revision
            self._edges_of.clear()
            self._nearest_of.clear()
            self._group_of.clear()

    def all_edges(self) -> list[Edge]:
        """Return every edge once, sorted."""
        return sorted(
            (k for k in self._words if isinstance(k, Edge) and k not in self._unseen), key=_by_kind
        )

    def around(self, start: Entity, *, through_host: bool = False) -> Iterator[tuple[Entity, int]]:
        """Walk outwards among relatives, nearest first: (entity, steps). Hosts are reached, not crossed."""
        seen = {start}
        queue = deque([(start, 0)])
        while queue:
            here, steps = queue.popleft()
            yield here, steps
            carries = here.kind in _CARRIERS and here != start
            if carries and here.kind == "host" and not through_host:
                continue
            for edge in self.edges(here):
                if edge.kind == "calls" or (carries and not through_host and edge.dst == here):
                    continue
                other = edge.dst if edge.src == here else edge.src
                if other not in seen:
                    seen.add(other)
                    queue.append((other, steps + 1))

    def upstream(self, start: Entity, most_steps: int = 8) -> Iterator[tuple[Entity, int]]:
        """Walk to what `start` depends on, nearest first: (entity, steps), itself with 0.

        A service needs its replicas and processes, these their GPUs and hosts; it needs what it calls, and the models
        that it serves; a model needs its versions and features, and the service it answers through.
        """
        seen = {start}
        queue = deque([(start, 0)])
        while queue:
            here, steps = queue.popleft()
            yield here, steps
            if steps >= most_steps:
                continue
            for edge in self.edges(here):
                other = _needed(edge, here, first=here == start)
                if other is not None and other not in seen:
                    seen.add(other)
                    queue.append((other, steps + 1))

    def nearest(self, entity: Entity, kind: str) -> Entity | None:
        """Return the entity itself or the closest relative of that kind; None when there is none."""
        self._same_graph()
        key = (entity, kind)
        if key not in self._nearest_of:
            near = (other for other, _ in self.around(entity) if other.kind == kind)
            self._nearest_of[key] = next(near, None)
        return self._nearest_of[key]

    def related(self, entity: Entity, kind: str) -> list[Entity]:
        """Return all relatives of a kind, nearest first."""
        return [other for other, _ in self.around(entity) if other.kind == kind]

    def peers(self, entity: Entity) -> list[Entity]:
        """Return those of the same kind that hang on the same parent: replicas of a service, GPUs of a host."""
        out: dict[Entity, None] = {}
        for edge in self.edges(entity):
            if edge.src != entity or edge.kind == "calls":
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
        self._same_graph()
        group = self._group_of.get(entity)
        if group is None:
            near = (self.nearest(entity, kind) for kind in ("service", "model", "host"))
            group = self._group_of[entity] = next((e for e in near if e is not None), entity)
        return group


def _by_kind(edge: Edge) -> tuple[str, Entity, Entity]:
    return edge.kind, edge.src, edge.dst


def _needed(edge: Edge, here: Entity, *, first: bool) -> Entity | None:
    """Return the other end of an edge when `here` depends on it."""
    if edge.kind in {"runs_on", "calls"}:
        return edge.dst if edge.src == here else None
    if edge.dst == here:
        # a model that was reached through one service is not hurt by the others that serve it, too
        return edge.src if first or edge.kind != "serves" or here.kind == "service" else None
    return edge.dst if edge.kind == "serves" and edge.dst.kind in {"model", "version"} else None


# ---------------------------------------------------------------- which process is which service


class Binding:
    """Ties process groups to the services of config by pidfile, port or command.

    Called when processes are sighted or pidfiles change; edges: process serves service, service runs_on host. What
    the processes of a service call, the service calls; `localhost:port` is the service that listens there.
    """

    def __init__(self, services: Iterable[Service], host: Entity) -> None:
        self._services = list(services)
        self._host = host
        self._bound: dict[Entity, Edge] = {}
        self._groups: dict[Entity, dict[str, str]] = {}

    def start(self, topology: Topology) -> None:
        """Put the services, their models and dependencies on the map before anything was seen."""
        for service in self._services:
            me = Entity("service", service.id)
            topology.take(
                Sighting(me, attrs=(("channel", service.channel), ("owner", service.owner))), CONFIG
            )
            topology.link(Edge("runs_on", me, self._host), CONFIG)
            for model in service.models:
                topology.link(Edge("serves", me, Entity("model", model)), CONFIG)
            for callee in service.calls:
                kind = "dependency" if ":" in callee else "service"
                topology.link(Edge("calls", me, Entity(kind, callee)), CONFIG)  # type: ignore[arg-type]  # one of two literals

    def update(self, topology: Topology, pids: Mapping[str, int], now: float = 0.0) -> list[Change]:
        """Bind what is there now; return restarts: services none of whose processes served them before.

        pids: service id -> process group of its pidfile, read by the caller.
        """
        found: dict[Entity, list[Entity]] = {}
        processes = topology.entities("process")
        for process in processes:
            attrs = topology.attrs(process)
            owner = next((s for s in self._services if _serves(s, attrs, pids.get(s.id))), None)
            edge = Edge("serves", process, Entity("service", owner.id)) if owner else None
            if edge is not None:
                found.setdefault(edge.dst, []).append(process)
            old = self._bound.get(process)
            if edge == old:
                continue
            if old is not None:
                topology.unlink(old, BINDING)
                del self._bound[process]
            if edge is not None:
                topology.link(edge, BINDING, now)
                self._bound[process] = edge
        self._lift(topology, found, now)
        alive = set(processes)
        self._bound = {p: e for p, e in self._bound.items() if p in alive}
        changes = []
        for service, some in sorted(found.items()):
            before = self._groups.get(service)
            # the number of the group stays when its leader ends and another member stands for it
            groups = {topology.attrs(p).get("pgid", p.key): _label(topology, p) for p in some}
            self._groups[service] = groups
            if before and not before.keys() & groups.keys():
                began = max((_started(topology, p, now) for p in some), default=now)
                was, now_is = (", ".join(sorted(g.values())[:3]) for g in (before, groups))
                text = "all its processes are new"
                changes.append(Change(began, service, "restart", was, now_is, text=text))
        return changes

    def _lift(
        self, topology: Topology, found: Mapping[Entity, Sequence[Entity]], now: float
    ) -> None:
        """Let services call what their processes have open connections to."""
        at: dict[str, Entity] = {}
        for service, processes in found.items():
            for process in processes:
                for port in topology.attrs(process).get("listen", "").split(","):
                    at[f"localhost:{port}"] = service
        for service, processes in found.items():
            for process in processes:
                for edge in topology.edges(process):
                    callee = at.get(edge.dst.key, edge.dst)
                    if edge.kind == "calls" and edge.src == process and callee != service:
                        call = Edge("calls", service, callee)
                        topology.link(call, BINDING, now, _LIFTED_LASTS_S)


def _label(topology: Topology, process: Entity) -> str:
    attrs = topology.attrs(process)
    return f"{attrs.get('name', 'process')} {attrs.get('pid', process.key)}"


def _started(topology: Topology, process: Entity, now: float) -> float:
    """Return when a process began; now when it does not say."""
    try:
        began = datetime.fromisoformat(topology.attrs(process).get("started", "")).timestamp()
    except ValueError:
        return now
    return min(began, now)


def _serves(service: Service, attrs: Mapping[str, str], group: int | None) -> bool:
    """Tell whether a process group with these attributes is the service's."""
    if group is not None and attrs.get("pgid", attrs.get("pid")) == str(group):
        return True
    if service.port is not None and str(service.port) in attrs.get("listen", "").split(","):
        return True
    return bool(service.process) and fnmatchcase(attrs.get("command", ""), service.process)
