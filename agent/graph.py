"""The graph as people see it: who is there and how they are, who depends on whom, who says so, what an edge carries.

    topology + newest values + open incidents -> TopologyView, for `/api/topology`, the console's page and the command

Cost: a pass over the newest values and over the edges that are shown, a millisecond a thousand of either.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from typing_extensions import TypedDict

from agent.model import Edge, Entity, Incident, Series
from agent.world import World

MOST_NODES: Final = 500
"""More on one picture helps nobody; ask for the part around one of them."""
MOST_AROUND: Final = 40
"""Of an incident: who is about it, and some that stand beside them."""
MOST_ABNORMAL: Final = 16
_ORDER: Final = {"page": 0, "warning": 1, "note": 2, "well": 3, "silent": 4}
_KINDS: Final = (
    "service", "dependency", "model", "version", "replica", "process", "gpu", "host", "feature", "source",
)  # fmt: skip
_ASIDE: Final = frozenset({"feature", "source"})
"""Kinds that are left out unless they are asked for, or not well."""
_CARRIES: Final = {
    "service.call_requests_per_second": "requests",
    "service.call_errors_per_second": "errors",
    "service.call_busy_count": "busy",
}


class WordView(TypedDict):
    """Who tells an edge. fades_s: after so long without being told again it is forgotten; null = it stays."""

    source: str
    age_s: float
    fades_s: float | None


class NodeView(TypedDict):
    """One entity.

    state     page | warning | note: the worst open incident it takes part in; well: it is seen, and nothing is wrong;
              silent: nothing fresh is known of it
    incident  the id of that incident; suspect: whether it is the first cause of one
    """

    id: str
    kind: str
    name: str
    state: str
    incident: str
    suspect: bool
    attrs: dict[str, str]


class EdgeView(TypedDict):
    """`src` calls, runs_on, serves, is version_of or feeds `dst`.

    carries   of a call: requests and errors per second, and how many are under way at once (busy), as far as known
    """

    kind: str
    src: str
    dst: str
    sources: list[WordView]
    carries: dict[str, float]


class TopologyView(TypedDict):
    """The graph. left_out: entities that are not shown because there are too many."""

    now: float
    nodes: list[NodeView]
    edges: list[EdgeView]
    left_out: int


class IncidentGraphView(TopologyView):
    """The part of the graph, as it is now, that an incident is about.

    parts   id -> cause | hurt | abnormal | changed | between (on the way) | near
    path    [src, dst] of the edges on the shortest ways from the first cause to what it hurts
    """

    parts: dict[str, str]
    path: list[list[str]]


def view(
    world: World,
    incidents: Iterable[Incident],
    name: Callable[[Entity], str],
    *,
    about: Entity | None = None,
    everything: bool = False,
) -> TopologyView:
    """Return what there is, or the part around one entity: its relatives, what it depends on, and who calls it."""
    topology = world.topology
    incidents = list(incidents)
    trouble, _ = _trouble(incidents)
    if about is None:
        chosen = [e for e in topology.entities() if everything or e in trouble or _shown(world, e)]
    else:
        near = {e for e, _ in topology.around(about)} | {e for e, _ in topology.upstream(about)}
        near |= {e.src for e in topology.edges(about) if e.kind == "calls"}
        chosen = [
            e for e in near if everything or e == about or e.kind not in _ASIDE or e in trouble
        ]

    chosen.sort(
        key=lambda e: (
            e != about,
            _ORDER[trouble[e][0]] if e in trouble else 9,
            _KINDS.index(e.kind),
            e,
        )
    )
    return _picture(world, chosen, incidents, name)


def of_incident(
    world: World, i: Incident, incidents: Iterable[Incident], name: Callable[[Entity], str]
) -> IncidentGraphView:
    """Return who an incident is about, the way from its cause to what it hurts, and what stands beside that way.

    The map is that of now: who is gone by now stands alone.
    """
    topology = world.topology
    abnormal = list(
        dict.fromkeys(a.series.entity for a in sorted(i.anomalies, key=lambda a: not a.harm))
    )[:MOST_ABNORMAL]
    top = i.diagnosis.top if i.diagnosis is not None else None
    cause = top.entity if top is not None and top.kind != "unknown" else None
    hurts = list(i.diagnosis.hurts) if i.diagnosis is not None else []
    ends = hurts or [e for e in (i.about, *abnormal[:3]) if e is not None]
    parts: dict[Entity, str] = {}
    ways = [way(world, cause, end) for end in ends] if cause is not None else []
    for part, some in (
        ("cause", [cause] if cause is not None else []),
        ("hurt", hurts),
        ("abnormal", abnormal),
        ("changed", [c.entity for c in i.changes]),
        ("between", [e for steps in ways for e in steps]),
        ("between", [i.about] if i.about is not None else []),
    ):
        for e in some:
            parts.setdefault(e, part)
    for e in list(parts):
        for x in topology.edges(e):
            other = x.dst if x.src == e else x.src
            if len(parts) < MOST_AROUND and other.kind not in _ASIDE and _shown(world, other):
                parts.setdefault(other, "near")
    shown = _picture(world, list(parts), incidents, name)
    path = {frozenset(pair) for steps in ways for pair in itertools.pairwise(steps)}
    return {
        **shown,
        "parts": {e.id: part for e, part in parts.items()},
        "path": sorted(sorted(e.id for e in pair) for pair in path),
    }


def way(world: World, start: Entity, end: Entity) -> list[Entity]:
    """Return the shortest way between two entities, whichever way its edges point; [] = there is none."""
    came: dict[Entity, Entity] = {start: start}
    queue = deque([start])
    while queue:
        at = queue.popleft()
        if at == end:
            steps = [at]
            while at != start:
                at = came[at]
                steps.append(at)
            return steps[::-1]
        # calls and service come before the host that everybody shares
        for x in sorted(
            world.topology.edges(at), key=lambda x: (x.kind == "runs_on", x.src, x.dst)
        ):
            other = x.dst if x.src == at else x.src
            if other not in came:
                came[other] = at
                queue.append(other)
    return []


def _picture(
    world: World,
    chosen: Sequence[Entity],
    incidents: Iterable[Incident],
    name: Callable[[Entity], str],
) -> TopologyView:
    """Draw the first `MOST_NODES` of the chosen, and the edges between them."""
    topology = world.topology
    trouble, suspects = _trouble(incidents)
    fresh = _fresh(world)

    def state(e: Entity) -> str:
        return trouble[e][0] if e in trouble else "well" if e in fresh else "silent"

    kept = chosen[:MOST_NODES]
    there = set(kept)
    # each edge is found at its source, so it is listed once
    edges = sorted(
        {x for e in kept for x in topology.edges(e) if x.src == e and x.dst in there},
        key=lambda x: (x.kind, x.src, x.dst),
    )
    carried = _carried(world)
    nodes: list[NodeView] = [
        {
            "id": e.id, "kind": e.kind, "name": name(e), "state": state(e),
            "incident": trouble[e][1] if e in trouble else "", "suspect": e in suspects,
            "attrs": {k: v for k, v in sorted(topology.attrs(e).items()) if v},
        }
        for e in sorted(kept, key=lambda e: (_KINDS.index(e.kind), e))
    ]  # fmt: skip
    return {
        "now": world.now, "nodes": nodes, "left_out": len(chosen) - len(kept),
        "edges": [_edge(world, x, carried.get(x, {})) for x in edges],
    }  # fmt: skip


def _shown(world: World, e: Entity) -> bool:
    """Tell whether an entity belongs on the first picture: not every process of a host, not every old version."""
    if e.kind in _ASIDE:
        return False
    attrs = world.attrs(e)
    if e.kind == "dependency" and not world.topology.edges(e):
        return False  # a person took its edges away
    if e.kind == "process":
        return any(x.kind == "serves" for x in world.topology.edges(e))
    idle = attrs.get("serving", "no" if attrs.get("champion") == "false" else "") == "no"
    return not (e.kind == "version" and idle)


def _trouble(
    incidents: Iterable[Incident],
) -> tuple[dict[Entity, tuple[str, str]], set[Entity]]:
    """Return who takes part in an open incident, how bad it is, and who is the first cause of one."""
    worst: dict[Entity, tuple[str, str]] = {}
    suspects: set[Entity] = set()
    for i in incidents:
        top = i.diagnosis.top if i.diagnosis is not None else None
        if top is not None and top.kind != "unknown":
            suspects.add(top.entity)
            worst.setdefault(top.entity, ("note", i.id))
        who = {a.series.entity: "note" for a in i.anomalies if a.end is None}
        who |= {a.series.entity: i.severity for a in i.anomalies if a.end is None and a.harm}
        if i.about is not None:
            who[i.about] = i.severity
        for entity, how in who.items():
            if entity not in worst or _ORDER[how] < _ORDER[worst[entity][0]]:
                worst[entity] = (how, i.id)
    return worst, suspects


def _fresh(world: World) -> set[Entity]:
    """Return the entities of which anything is known that is not stale."""
    out: set[Entity] = set()
    for source, (series, values, when) in world.rows().items():
        known = ~np.isnan(values) & (world.now - when <= world.patience.get(source, math.inf))
        out.update(series[i].entity for i in np.flatnonzero(known))
    return out


def _carried(world: World) -> dict[Edge, dict[str, float]]:
    """Return what calls carry, as their caller sees it; where only the callee tells, as it does."""
    out: dict[Edge, dict[str, float]] = {}
    for metric, what in _CARRIES.items():
        for series in sorted(world.find(metric), key=_client_first):
            edge = _call(series)
            value = world.get(series)
            if edge is not None and value is not None:
                out.setdefault(edge, {}).setdefault(what, value)
    return out


def _client_first(series: Series) -> tuple[bool, Series]:
    return ("side", "client") not in series.labels, series


def _call(series: Series) -> Edge | None:
    kind, colon, key = dict(series.labels).get("callee", "").partition(":")
    if not colon or kind not in {"service", "dependency"}:
        return None
    return Edge(
        "calls", series.entity, Entity("service" if kind == "service" else "dependency", key)
    )


def _edge(world: World, edge: Edge, carries: dict[str, float]) -> EdgeView:
    words: list[WordView] = [
        {
            "source": w.source, "age_s": max(0.0, world.now - w.seen) if w.seen else 0.0,
            "fades_s": None if math.isinf(w.until) else max(0.0, w.until - world.now),
        }
        for w in world.topology.words(edge)
    ]  # fmt: skip
    return {
        "kind": edge.kind, "src": edge.src.id, "dst": edge.dst.id, "sources": words, "carries": carries,
    }  # fmt: skip
