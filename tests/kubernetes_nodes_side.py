"""A cluster of three nodes with pods of every kind, for tests, on kmock: see kubernetes_side.py."""

from __future__ import annotations

from typing import Any

from kubernetes_side import NAMESPACE, NODES, PODS, Cluster, owned_by


class NodePool(Cluster):
    """A cluster of three nodes, with pods of every kind."""

    def __init__(self) -> None:
        super().__init__()
        for name, hostname in (("gpu-1", "gpu-1"), ("gpu-2", "gpu-2"), ("db-1", "db")):
            self.node(name, hostname=hostname)

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        return self.all(NODES)

    def node(self, name: str, *, ready: bool = True, hostname: str = "") -> None:
        """Lay down a node."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        labels = {"kubernetes.io/hostname": hostname or name}
        self.lay(NODES, {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {}, "status": {"conditions": [condition]},
        })  # fmt: skip

    def pod(
        self, name: str, on: str, *, owner: str = "ReplicaSet", app: str = "web", **more
    ) -> None:
        """Lay down a pod; more: `mirror`, `local`, `phase`."""
        meta: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "labels": {"app": app}}
        if owner:
            meta["ownerReferences"] = [owned_by(owner, app, "u")]
        if more.get("mirror"):
            meta["annotations"] = {"kubernetes.io/config.mirror": "abc"}
        spec: dict[str, Any] = {"nodeName": on, "containers": [{"name": "main", "image": "x"}]}
        if more.get("local"):
            spec["volumes"] = [{"name": "scratch", "emptyDir": {}}]
        self.lay(PODS, {
            "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec,
            "status": {"phase": more.get("phase", "Running")},
        })  # fmt: skip

    def left(self, name: str) -> list[str]:
        """Return the pods of a node."""
        return sorted(n for n, p in self.all(PODS).items() if p["spec"]["nodeName"] == name)
