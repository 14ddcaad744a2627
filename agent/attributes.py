"""What is known of an entity beside its numbers, and of a cause beside its kind: closed lists, as signals are.

    target.command        ATTRIBUTES["process"]: what sources tell in their sightings
    target.labels.rack    what a person says of it: `topology: {labels: [...]}` in agent.yaml, and nothing else
    cause.feature         FACTS: what diagnosis says beside a cause, or beside one below a branch of the tree

So a name in a playbook, or under `where:` of agent.yaml, can be checked before it waits in vain for a value. All of
them are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.causes import matches
from agent.model import EntityKind

LABELS: Final = "labels."
"""Beginning of the attributes that a person gives."""

ATTRIBUTES: Final[Mapping[EntityKind, Mapping[str, str]]] = {
    "host": {
        "hostname": "its name",
        "os": "the operating system",
        "kernel": "release of the kernel",
        "machine": "x86_64, aarch64, ...",
        "cores": "how many CPUs it has",
        "memory_bytes": "how much memory it has",
        "container": "yes, no: whether the agent itself runs in one",
        "boot": "id of this boot",
    },
    "gpu": {
        "name": "what NVIDIA calls it",
        "index": "its number",
        "bus": "its place on the bus",
        "memory_bytes": "how much memory it has",
        "multiprocessors": "how many it has",
        "driver": "version of the driver",
    },
    "process": {
        "name": "as the kernel cuts it",
        "command": "the command line",
        "user": "whose it is",
        "pid": "of the leader of the group",
        "pgid": "number of the group",
        "nice": "its priority",
        "start": "ticks since boot",
        "started": "when, as ISO 8601",
        "listen": "ports that it listens on, with commas between",
        "self": "yes: that is homeostat",
    },
    "service": {
        "owner": "the team, of agent.yaml",
        "channel": "where its owner is told",
        "version": "which release it is; several while one is rolled out",
        "pid": "of its master",
        "pidfile": "where that is written",
    },
    "replica": {"pid": "of its process", "version": "which release it is"},
    "model": {
        "version": "the champion",
        "previous": "champions before, newest first",
        "changed_by": "who moved the champion",
        "serving": "versions that answer now",
        "learning": "yes, no: whether it has no reference yet",
        "labels_wrong": "why labels are not believed",
        "damaged_reference": "versions whose reference can not be read",
    },
    "version": {
        "version": "its name",
        "serving": "yes, no: whether it answers now",
        "champion": "true, false",
        "role": "as the registry says",
        "accuracy": "as its training reported it",
        "trained_at": "unix seconds",
    },
    "feature": {
        "broken": "how it broke its contract",
        "used": "yes, no: whether the model heeds it",
    },
    "dependency": {},
    "source": {},
}  # fmt: skip
"""Kind of entity -> what sources may tell of it."""

_KERNEL: Final = {
    "event": "what the kernel told of",
    "device": "disk, adapter or device",
    "interface": "of the network",
    "program": "whom the kernel told of",
    "cgroup": "of whom the kernel told",
}
FACTS: Final[Mapping[str, Mapping[str, str]]] = {
    "hardware.gpu": {
        "replica": "entity id of the one replica that computes on it; not there when several do",
        "xid": "number of the error that the driver told",
        "type": "of errors: corrected, uncorrected, crc, ...",
        "reason": "why the clock is lowered",
        **_KERNEL,
    },
    "hardware.host": {**_KERNEL, "controller": "of the memory", "type": "corrected, uncorrected"},
    "host": {
        **_KERNEL,
        "resource": "of pressure: cpu, memory, io",
        "who": "of pressure: some, full",
        "mount": "file system", "array": "software RAID",
        "direction": "received, sent", "port": "of the adapter",
        "type": "of errors or stalls", "mode": "of CPU time",
        "group": "container or unit", "runs": "container, unit",
    },
    "host.memory": {"process": "entity id of the group that grew most", "command": "its command"},
    "host.exhausted": {
        "process": "entity id of the group that holds most", "command": "its command",
        "serves": "the service that it serves, or `nobody`",
    },
    "host.network": {"service": "whose callers wait"},
    "host.neighbour": {"command": "of who took most", "gpu": "entity id of the GPU that it shares with the service"},
    "serving.saturation": {"before": "replicas before", "after": "replicas after"},
    "serving.crash": {
        "replica": "which one is apart, or the one that computes on the GPU",
        "apart": "the signal in which it is apart, or `answers`",
        "gpu": "entity id of the GPU that hangs", "xid": "number of the error that the driver told",
        "before": "what it was before", "after": "what it was made",
        "released": "which release of it came right before, from what to what",
        "loops": "entity id of a replica that starts again and again",
        "killed": "entity id of a replica whose processes are killed for want of memory",
        "waiting": "why containers of a replica can not be started, as its cluster says: ImagePullBackOff, ...",
    },
    "serving": {"by": "who changed what may be the cause", "url": "where that is told"},
    "release": {
        "version": "of the model, now", "previous_version": "of the model, before",
        "before": "what was there before", "after": "what was released",
        "by": "who released it", "url": "where that is told",
    },
    "data.contract": {
        "feature": "which one", "model": "whose", "why": "how it broke its contract", "run": "of batch scoring",
    },
    "data.stale": {"model": "whose", "run": "of batch scoring"},
    "data.drift": {"feature": "the one that moved most"},
    "concept.drift": {"better": "the shadow that is proven better"},
    "unknown": {"metric": "the signal that is apart most", "share": "of what was found", "weighed_at": "unix seconds"},
}  # fmt: skip
"""Cause or branch -> facts that may stand beside it, and beside all below it."""


def facts_of(cause: str = "") -> dict[str, str]:
    """Return the facts that may stand beside a cause, or beside any below a branch; "" = any cause."""
    return {
        name: help_
        for prefix, facts in FACTS.items()
        if not cause or matches(prefix, cause) or matches(cause, prefix)
        for name, help_ in facts.items()
    }
