"""A cluster of nodes with pods of every kind, for tests; beside `kubernetes_side`, and as that from documentation.

Pods that are evicted go at once, to another node where their controller would start them again. `budgets` says how many
of an app may be evicted; each look at the pods, `heals` gives some back.
"""

from __future__ import annotations

import copy

from kubernetes_side import REVIEWS, ApiServer

NODES = "/api/v1/nodes"


def node(name: str, *, ready: bool = True, hostname: str = "") -> dict:
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "resourceVersion": "1", "labels": {"kubernetes.io/hostname": hostname or name}},
        "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }  # fmt: skip


def pod(name: str, on: str, *, owner: str = "ReplicaSet", app: str = "web", **more) -> dict:
    """more: `mirror`, `local`, `phase`."""
    meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": {"app": app}}
    if owner:
        meta["ownerReferences"] = [{"kind": owner, "name": app, "uid": "u", "controller": True}]
    if more.get("mirror"):
        meta["annotations"] = {"kubernetes.io/config.mirror": "abc"}
    spec = {"nodeName": on, "containers": [{"name": "main", "image": "x"}]}
    if more.get("local"):
        spec["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    return {"metadata": meta, "spec": spec, "status": {"phase": more.get("phase", "Running")}}


class Cluster(ApiServer):
    """elsewhere: where evicted pods come up again; budgets: app -> evictions that are allowed now, () = any."""

    def __init__(self) -> None:
        super().__init__()
        made = (node("gpu-1"), node("gpu-2"), node("db-1", hostname="db"))
        self.nodes = {n["metadata"]["name"]: n for n in made}
        self.on: list[dict] = []
        self.budgets: dict[str, int] = {}
        self.heals = 0
        self.evicted: list[str] = []
        self.page = 2

    def add(self, *pods: dict) -> None:
        self.on += pods

    def left(self, name: str) -> list[str]:
        return sorted(p["metadata"]["name"] for p in self.on if p["spec"]["nodeName"] == name)

    def answer(
        self, method: str, path: str, query: dict, body: dict | None, kind: str
    ) -> tuple[int, dict]:
        if path == REVIEWS:
            return super().answer(method, path, query, body, kind)
        if body is not None:
            self.changed.append(body)
        name = path.removeprefix(f"{NODES}/")
        if method == "PATCH" and name in self.nodes:
            return self._patch_node(self.nodes[name], body, kind)
        if method == "POST" and path.endswith("/eviction"):
            return self._go(path.split("/")[-2], body)
        if method == "GET":
            return self._get(path, name, query)
        return 404, {"kind": "Status", "message": f"{path} not found"}

    def _get(self, path: str, name: str, query: dict) -> tuple[int, dict]:
        if path == NODES:
            key, _, value = query.get("labelSelector", ["="])[0].partition("=")
            found = [
                n
                for n in self.nodes.values()
                if not key or n["metadata"]["labels"].get(key) == value
            ]
            return self._paged(found, query)
        if path == "/api/v1/pods":
            field, _, on = query["fieldSelector"][0].partition("=")
            assert field == "spec.nodeName"
            for app in self.budgets if "continue" not in query else ():
                self.budgets[app] += self.heals
            return self._paged([p for p in self.on if p["spec"]["nodeName"] == on], query)
        if name in self.nodes:
            return 200, self.nodes[name]
        return 404, {"kind": "Status", "message": f"{path} not found"}

    def _paged(self, found: list[dict], query: dict) -> tuple[int, dict]:
        """Give few at a time, whatever the limit: a server may."""
        start = int(query.get("continue", ["0"])[0])
        more = {"continue": str(start + self.page)} if start + self.page < len(found) else {}
        return 200, {"metadata": more, "items": found[start : start + self.page]}

    def _patch_node(self, one: dict, body: dict, kind: str) -> tuple[int, dict]:
        assert kind == "application/merge-patch+json"
        if body["metadata"]["resourceVersion"] != one["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "message": "the object has been modified"}
        one["metadata"]["resourceVersion"] = str(int(one["metadata"]["resourceVersion"]) + 1)
        notes = one["metadata"].setdefault("annotations", {})
        for key, value in body["metadata"]["annotations"].items():
            notes.pop(key, None)
            if value is not None:
                notes[key] = value
        one["spec"] |= body["spec"]
        return 200, one

    def _go(self, name: str, body: dict) -> tuple[int, dict]:
        gone = next((p for p in self.on if p["metadata"]["name"] == name), None)
        if gone is None:
            return 404, {"kind": "Status", "message": f"pods {name} not found"}
        if body["deleteOptions"]["preconditions"]["uid"] != gone["metadata"]["uid"]:
            return 409, {"kind": "Status", "message": "precondition failed"}
        app = gone["metadata"]["labels"]["app"]
        if self.budgets.get(app, 1) < 1:
            return 429, {"kind": "Status", "message": "it would violate the pod's disruption budget"}  # fmt: skip
        if app in self.budgets:
            self.budgets[app] -= 1
        self.evicted.append(name)
        self.on.remove(gone)
        if gone["metadata"].get("ownerReferences"):
            again = copy.deepcopy(gone)
            again["metadata"] |= {"name": f"{name}-b", "uid": f"uid-{name}-b"}
            again["spec"]["nodeName"] = "gpu-2"
            self.on.append(again)
        return 201, {"kind": "Status", "status": "Success"}
