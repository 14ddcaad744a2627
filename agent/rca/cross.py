"""Rules between causes: what is surely true of one weighs on the others.

Hardware beats models; a broken contract suppresses drift; a release in the window is the first hypothesis; one replica
apart from its peers is the replica; what a callee suffers from is the root, not the call. Order does not matter: each
rule looks at how sure causes are by their own evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.model import Entity
from agent.rca.case import Case
from agent.rca.look import Look
from agent.topology import Topology

_SURE: Final = 1.0
"""Log-odds by its own evidence from which a cause weighs on others: about 70 % were there no other."""
_SOFT: Final = frozenset({
    "serving.traffic", "serving.crash", "serving.saturation", "host.cpu", "host.memory", "data.drift", "data.prior",
    "concept.drift", "label.bad",
})  # fmt: skip
_OF_ALL: Final = frozenset({"data", "concept", "label"})
"""Branches that all replicas would suffer from alike."""
_WIDE: Final = (
    "serving.saturation", "serving.traffic", "serving.dependency", "release.code", "release.config",
    "host.neighbour", "host.network",
)  # fmt: skip


def cross(look: Look, cases: list[Case]) -> None:
    """Add to each case what the others mean for it."""
    own = {id(c): c.logit for c in cases}
    sure = [c for c in cases if own[id(c)] > _SURE]
    best = _best(sure)
    called = any(
        own[id(c)] > 0
        and (c.kind == "serving.dependency" or (c.kind == "host.network" and c.entity != look.host))
        for c in cases
    )
    for case in cases:
        branch = case.kind.partition(".")[0]
        if "hardware" in best and branch in {"data", "concept", "label"}:
            case.add(
                "hardware beats models",
                "hardware evidence beats model evidence when both are fresh",
            )
        elif "hardware" in best and case.kind in {
            "serving.crash",
            "serving.saturation",
            "serving.traffic",
        }:
            case.add("hardware beats serving", "hardware under it is at fault, which explains it")
        if {"data.contract", "data.stale"} & best.keys() and case.kind in {
            "data.drift",
            "concept.drift",
            "data.prior",
        }:
            case.add(
                "contract explains it",
                "a broken data contract explains it; drift cannot be judged on broken data",
            )
        if "release" in best and case.kind in _SOFT and _same_side(best["release"], case):
            said = best["release"].evidence[0].text
            case.add("release first", f"a release in the window is the first suspect: {said}")
        if called and case.kind == "host.network" and case.entity == look.host:
            case.add("a callee explains the wait", "what it calls is slow, which explains the wait")
        if case.kind == "host.cpu" and best.keys() & {
            "host.neighbour",
            "serving.saturation",
            "serving.traffic",
        }:
            case.add("who takes it is known", "it is known who takes the CPU")
        if (
            case.kind == "serving.crash"
            and "host.memory" in best
            and best["host.memory"] is not case
        ):
            case.add(
                "out of memory explains it", "the machine is out of memory, which ends processes"
            )
    _one_of_several(look, cases, sure)
    _deeper(look.topology, cases, sure)


def _best(sure: list[Case]) -> dict[str, Case]:
    """Return the surest case of each kind, of `hardware` and of `release` as a whole."""
    best: dict[str, Case] = {}
    for case in sure:
        for name in (case.kind, case.kind.partition(".")[0]):
            if name not in best or case.logit > best[name].logit:
                best[name] = case
    return best


def _same_side(release: Case, case: Case) -> bool:
    """Tell whether a release can explain what a case explains: code the service, a model version its quality."""
    soft = {"data", "concept", "label"}
    return (case.kind.partition(".")[0] in soft) == (release.kind == "release.model")


def _one_of_several(look: Look, cases: list[Case], sure: list[Case]) -> None:
    """When one replica is apart from its peers, what is wrong with all explains less, what it stands on more."""
    one = next((c for c in sure if c.entity.kind == "replica"), None)
    if one is None:
        return
    near = {e for e, _ in look.topology.around(one.entity)}
    peers = set(look.topology.peers(one.entity))
    beneath = _beneath(look.topology, one.entity)
    for case in cases:
        if case is one:
            continue
        if case.kind in _WIDE or (case.kind == "serving.crash" and case.entity in near - peers):
            case.add("peers are well", f"only {one.entity.key} is unwell, its peers are well")
        elif one.facts.get("apart") == "answers" and (
            case.kind.partition(".")[0] in _OF_ALL or case.kind == "release.model"
        ):
            case.add(
                "peers are well", f"only {one.entity.key} answers otherwise, its peers are well"
            )
        elif case.entity in beneath:
            case.add("it runs on the one", f"{one.entity.key}, which is unwell, runs on it")


def _beneath(topology: Topology, entity: Entity) -> set[Entity]:
    """Return what an entity runs on, directly or through others, and nothing that all share by a service."""
    out: set[Entity] = set()
    layer = [entity]
    for _ in range(3):
        layer = [
            e.dst
            for here in layer
            for e in topology.edges(here)
            if e.kind == "runs_on" and e.src == here and e.dst not in out
        ]
        out.update(layer)
    return out


def _deeper(topology: Topology, cases: list[Case], sure: list[Case]) -> None:
    """A callee that has a reason of its own is not the end of the way: its reason is."""
    reasons: Mapping[Entity, Case] = {
        topology.group(c.entity): c for c in sure if c.kind != "serving.dependency"
    }
    for case in cases:
        if case.kind == "serving.dependency" and (deeper := reasons.get(case.entity)) is not None:
            text = f"{case.entity.key} has a reason of its own: {deeper.kind} on {deeper.entity.id}"
            case.add("own reason", text)
