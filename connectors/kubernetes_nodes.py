"""The nodes of a Kubernetes cluster: closed to new pods, emptied as disruption budgets allow, opened again.

    kubernetes_nodes:
      nodes: ['gpu-*']                        # which may be touched; default: all
      kubeconfig: /etc/homeostat/kubeconfig   # default: the service account of our own pod

A node is the host of its name, or of its label `kubernetes.io/hostname`. Its annotation `homeostat/closed-by` says
which step of ours has closed it. Closing is compare-and-set by the resource version; pods are evicted by their uid.
"""

from __future__ import annotations

import fnmatch
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

import structlog
from pydantic import Field

from agent.errors import AgentError, Refused
from agent.registry import connector
from agent.units import Duration, many
from connectors._kube_api import MERGE, Api, message, named, ready, wrong
from connectors._kubernetes import Access
from connectors.http import redacted

log = structlog.get_logger()

_BY: Final = "homeostat/closed-by"
_MIRROR: Final = "kubernetes.io/config.mirror"
_HOSTNAME: Final = "kubernetes.io/hostname"
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_RIGHTS: Final = (
    ("get", "", "nodes", ""), ("list", "", "nodes", ""), ("patch", "", "nodes", ""), ("list", "", "pods", ""),
    ("create", "", "pods", "eviction"),
)  # fmt: skip
"""What a cluster role must allow for all that can be done here."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: see playbooks/actions/nodes.py."""

    closed: bool
    by: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """One pod of a node."""

    name: str
    birth: str
    stays: bool
    going: bool
    hindrance: str


@connector("kubernetes_nodes")
class KubernetesNodes:
    """Nodes of a Kubernetes cluster, to cordon, drain and uncordon.

    Ability  Nodes (see playbooks/actions/nodes.py): pods of DaemonSets and mirror pods stay; what no controller starts
             again, and what keeps data in an emptyDir, is told as a hindrance
    Takes a cluster role: get, list and patch nodes, list pods, create pods/eviction.
    Tested against kmock, whose objects are checked with the schemas of Kubernetes: `stand_in`.
    """

    tested = "stand-in: kmock; all objects pass the strict schemas of Kubernetes 1.30"
    stand_in = True

    class Config(Access):
        """Which nodes, and where."""

        nodes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = ["*"]
        """Names (with * allowed) of those that may be touched."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0
        """For one request."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._api = Api(name, config, config.timeout)
        self._named: dict[str, tuple[str, str]] = {}
        """Namespace and name of each pod that was seen at the last look, by uid."""

    # ---- ability: Nodes

    async def node(self, host: str) -> Node:
        """Return whether it takes pods, and which step of ours has closed it."""
        return _node(await self._read(host))

    async def open_nodes(self) -> Sequence[str]:
        """Return the nodes that are ready and take pods, whoever may touch them."""
        found = await self._api.items("api/v1/nodes")
        return sorted(_host(n) for n in found if ready(n) and not _node(n).closed)

    async def set_closed(self, host: str, closed: bool, expect: bool, by: str) -> None:
        """Patch `unschedulable`, if it is as `expect`."""
        found = await self._read(host)
        if _node(found).closed != expect:
            raise Refused(
                f"{host} {'takes no' if _node(found).closed else 'takes'} pods: changed by others"
            )
        body = {
            "metadata": {
                "resourceVersion": found["metadata"]["resourceVersion"],
                "annotations": {_BY: by or None},
            },
            "spec": {"unschedulable": closed},
        }
        await self._api.ask("PATCH", f"api/v1/nodes/{quote(named(found))}", body, MERGE)
        log.info("node_closed" if closed else "node_opened", node=named(found))

    async def tenants(self, host: str) -> Sequence[Tenant]:
        """Return the pods of a node that have not ended."""
        return [_tenant(pod) for pod in await self._pods(host)]

    async def evict(self, host: str, birth: str, grace_s: float | None) -> str:
        """Evict the pod of that uid; what is gone already needs no eviction."""
        if birth not in self._named:
            await self._pods(host)
        if birth not in self._named:
            return ""
        options: dict[str, Any] = {"preconditions": {"uid": birth}}
        if grace_s is not None:
            options["gracePeriodSeconds"] = int(grace_s)
        space, name = self._named[birth]
        body = {
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": space}, "deleteOptions": options,
        }  # fmt: skip
        path = f"api/v1/namespaces/{quote(space)}/pods/{quote(name)}/eviction"
        answer = await self._api.send("POST", path, body)
        if answer.ok or answer.status in {404, 409}:  # it is gone, or another one has its name
            log.info("evicted", pod=f"{space}/{name}")
            return ""
        if answer.status == 429:
            return message(answer)
        raise wrong(f"POST {redacted(f'{self._api.url}/{path}')}", "POST", answer)

    async def describe(self) -> Sequence[str]:
        """Say which nodes there are, which are closed, and what our role lacks."""
        where = redacted(self._api.url)
        try:
            found = await self._api.items("api/v1/nodes")
            ours = [n for n in found if self._ours(n)]
            lines = [
                f"{where}: {many(len(found), 'node')}, {sum(map(ready, found))} ready, {len(ours)} may be touched"
            ]
            lines += [
                f"{_host(n)} takes no pods" + (f", closed by {by}" if (by := _node(n).by) else "")
                for n in found
                if _node(n).closed
            ]
            return [*lines, *await self._api.lacks(_RIGHTS, "")]
        except AgentError as problem:
            return (f"{where}: {problem}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    # ---- what there is

    def _ours(self, node: Mapping[str, Any]) -> bool:
        return any(fnmatch.fnmatchcase(named(node), glob) for glob in self.config.nodes)

    async def _read(self, host: str) -> dict[str, Any]:
        kind, _, key = host.partition(":")
        if kind != "host" or not key:
            raise Refused(f"{host} is no host: {self.name} has nodes")
        one = await self._api.find(f"api/v1/nodes/{quote(key, safe='')}")
        found = (
            [one] if one is not None
            else await self._api.items("api/v1/nodes", labelSelector=f"{_HOSTNAME}={key}")
        )  # fmt: skip
        if len(found) != 1:
            raise Refused(f"the cluster has no node {key}, nor one whose {_HOSTNAME} that is")
        if not self._ours(found[0]):
            raise Refused(
                f"{key} is not among those that {self.name} may touch: see `nodes` ({', '.join(self.config.nodes)})"
            )
        return found[0]

    async def _pods(self, host: str) -> list[dict[str, Any]]:
        name = named(await self._read(host))
        found = await self._api.items("api/v1/pods", fieldSelector=f"spec.nodeName={name}")
        there = [p for p in found if (p.get("status") or {}).get("phase") not in _ENDED]
        self._named = {p["metadata"]["uid"]: (p["metadata"]["namespace"], named(p)) for p in there}
        return sorted(there, key=lambda p: (p["metadata"]["namespace"], named(p)))


def _node(found: Mapping[str, Any]) -> Node:
    closed = bool((found.get("spec") or {}).get("unschedulable"))
    by = str((found["metadata"].get("annotations") or {}).get(_BY) or "")
    return Node(closed, by if closed else "")


def _host(found: Mapping[str, Any]) -> str:
    return f"host:{named(found)}"


def _tenant(pod: Mapping[str, Any]) -> Tenant:
    meta, spec = pod["metadata"], pod.get("spec") or {}
    owner = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), None)
    stays = _MIRROR in (meta.get("annotations") or {}) or (owner or {}).get("kind") == "DaemonSet"
    if _is_us(meta):
        hindrance = "ourselves"
    elif owner is None:
        hindrance = "unmanaged"
    else:
        kept = any("emptyDir" in volume for volume in spec.get("volumes") or ())
        hindrance = "local_data" if kept else ""
    name = f"{meta['namespace']}/{named(pod)}"
    return Tenant(name, str(meta["uid"]), stays, "deletionTimestamp" in meta, hindrance)


def _is_us(meta: Mapping[str, Any]) -> bool:
    """Tell whether a pod is the one that we run in."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and meta["name"] == socket.gethostname()
