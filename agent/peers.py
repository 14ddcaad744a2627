"""Which series are alike, so that one of them can be held against the others.

Alike are series of one metric that measure the same of equals: replicas of a service, GPUs of one product in one host,
hosts that one source looks after; and within one host its cores and its disks of one kind. Labels must be the same,
but for the one that tells the equals apart. Processes, services, models, features and network interfaces have no
peers: they share a kind and nothing else. Nor has a state: that three of four are down is no matter of distance.

Pure: names, and what topology knows, in; numbers of groups out. Cost: one look at each series.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import Entity, IntArray, Series
from agent.topology import Topology

LEAST: Final = 3
"""Of two that differ nobody knows which one is odd."""
_LETTERED: Final = re.compile(r"(sd|vd|xvd|hd)[a-z]+(\d*)")
_NUMBERED: Final = re.compile(r"nvme\d+n\d+(p?)\d*")


def peers_of(series: Sequence[Series], topology: Topology | None = None) -> IntArray:
    """Return the group (n,) of each series; -1 = it has fewer than two peers."""
    members: dict[Hashable, list[int]] = {}
    for i, one in enumerate(series):
        kin = _kin(one, topology)
        if kin is not None:
            members.setdefault((one.metric, kin), []).append(i)
    out = np.full(len(series), -1, dtype=np.int64)
    for g, group in enumerate(m for m in members.values() if len(m) >= LEAST):
        out[group] = g
    return out


def _kin(series: Series, topology: Topology | None) -> Hashable | None:
    """Return what a series has in common with its equals; None = it has none."""
    known = SIGNALS.get(series.metric)
    if known is None or known.kind == "state":
        return None
    for at, (name, value) in enumerate(series.labels):
        one_of = {"core": lambda _: "core", "device": _disks}.get(name)
        if one_of is not None:
            among, others = one_of(value), series.labels[:at] + series.labels[at + 1 :]
            return None if among is None else (series.entity, among, others)
    family = _family(series.entity, topology)
    return None if family is None else (series.entity.kind, family, series.labels)


def _disks(device: str) -> str | None:
    """Name the kind of a disk, whole disks apart from partitions; None where the name says nothing of its kind."""
    if found := _LETTERED.fullmatch(device):
        return f"{found[1]} part" if found[2] else found[1]
    if found := _NUMBERED.fullmatch(device):
        return "nvme part" if found[1] else "nvme"
    return None


def _family(entity: Entity, topology: Topology | None) -> Hashable | None:
    """Return what an entity shares with its equals; None = it has none."""
    match entity.kind:
        case "replica":
            return entity.key.rpartition("/")[0]
        case "host":
            return ""
        case "gpu":
            if topology is None:
                return ""
            hosts = [e.dst for e in topology.edges(entity) if e.src == entity]
            return *hosts, topology.attrs(entity).get("name", "")
        case _:
            return None
