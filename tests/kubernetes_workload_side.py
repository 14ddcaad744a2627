"""A cluster with one workload, for tests, on kmock, and what controllers make of it: see kubernetes_side.py."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kubernetes_side import HPAS, NAMESPACE, PODS, REVISIONS, SETS, WORKLOADS, Cluster, owned_by

LABELS = {"app": "web"}
_NUMBER = "deployment.kubernetes.io/revision"
_MARKS = {"deployment": "pod-template-hash", "statefulset": "controller-revision-hash"}


def template(image: str) -> dict[str, Any]:
    """Return what pods are made of."""
    containers = [{"name": "web", "image": image}]
    return {"metadata": {"labels": dict(LABELS)}, "spec": {"containers": containers}}


class Workload(Cluster):
    """A cluster with a workload, `web`, of three pods.

    asleep  its controllers do nothing
    heals   pods that they start get ready
    stuck   why a deployment does not go on; "" = it does
    """

    def __init__(self, kind: str = "deployment") -> None:
        super().__init__()
        self.kind, sets = kind, kind == "statefulset"
        self.asleep, self.heals, self.stuck, self._born = False, True, "", 0
        self._kept, self._mark = (REVISIONS if sets else SETS), _MARKS[kind]
        selector = {
            "matchLabels": LABELS,
            "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
        }
        how = {"serviceName": "web"} if sets else {"strategy": {"type": "Recreate"}}
        self.lay(WORKLOADS[kind], {
            "apiVersion": "apps/v1", "kind": "StatefulSet" if sets else "Deployment",
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"replicas": 3, "selector": selector, "template": template("web:1"), **how},
            "status": {"replicas": 0},
        })  # fmt: skip
        self.settle()
        # one of the same labels, but of another owner
        other = copy.deepcopy(self.all(self._kept)["web-rev1"])
        owner = owned_by("Deployment", "other", "uid-other")
        other["metadata"] |= {"name": "other-rev1", "ownerReferences": [owner]}
        self.lay(self._kept, other)

    @property
    def found(self) -> dict[str, Any]:
        """The workload."""
        return self.all(WORKLOADS[self.kind])["web"]

    @property
    def replicas(self) -> int:
        return int(self.found["spec"]["replicas"])

    @property
    def template(self) -> dict[str, Any]:
        return dict(self.found["spec"]["template"])

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        return self.all(PODS)

    @property
    def history(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Name, number and template of each revision that is kept, the newest last."""
        out = []
        for name, one in self.all(self._kept).items():
            if one["metadata"]["ownerReferences"][0]["uid"] != "uid-web":
                continue
            if self.kind == "statefulset":
                made_of = {
                    k: v for k, v in one["data"]["spec"]["template"].items() if k != "$patch"
                }
                out.append((name, one["revision"], made_of))
                continue
            made_of = copy.deepcopy(one["spec"]["template"])
            made_of["metadata"]["labels"].pop(self._mark)
            out.append((name, int(one["metadata"]["annotations"][_NUMBER]), made_of))
        return sorted(out, key=lambda r: r[1])

    @property
    def newest(self) -> str:
        """The name of the revision that is asked for."""
        return self.history[-1][0]

    @property
    def hpa(self) -> dict[str, Any]:
        return self.all(HPAS)["web-hpa"]

    def release(self, image: str) -> None:
        """Roll out another image, as a person would."""
        self.edit(WORKLOADS[self.kind], "web", spec={"template": template(image)})

    def autoscaled(self, low: int, high: int) -> None:
        """Have an autoscaler rule it."""
        self.lay(HPAS, {
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web-hpa", "namespace": NAMESPACE},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": low, "maxReplicas": high,
            },
        })  # fmt: skip

    # ---- controllers

    def settle(self) -> None:
        """Do at once what the controllers of deployments and stateful sets do."""
        if self.asleep:
            return
        one, replicas = self.found, self.replicas
        newest = self._adopt(one)
        pods = self._ours()
        old = {
            n for n, p in pods.items() if p["metadata"]["labels"][self._mark] != self._hash(newest)
        }
        # a stateful set waits for its pods to be ready before it replaces the next one
        blocked = self.kind == "statefulset" and any(not _ready(pods[n]) for n in old)
        gone = set() if blocked else old
        kept = sorted(pods.keys() - gone)
        for name in gone | set(kept[replicas:]):
            self.objects[PODS, NAMESPACE, name].delete()
        for _ in range(replicas - len(kept)):
            self._start(one, newest)
        pods = self._ours()
        well = sum(map(_ready, pods.values()))
        updated = [
            p for p in pods.values() if p["metadata"]["labels"][self._mark] == self._hash(newest)
        ]
        status: dict[str, Any] = {
            "replicas": len(pods), "readyReplicas": well, "availableReplicas": well,
            "updatedReplicas": len(updated), "observedGeneration": one["metadata"]["generation"],
        }  # fmt: skip
        if self.kind == "statefulset":
            status |= {"updateRevision": newest, "currentRevision": newest}
        if self.stuck:
            why = {"reason": "ProgressDeadlineExceeded", "message": self.stuck}
            status["conditions"] = [{"type": "Progressing", "status": "False", **why}]
        self.objects[WORKLOADS[self.kind], NAMESPACE, "web"]["status"] = status

    def _ours(self) -> dict[str, dict[str, Any]]:
        """Return the pods that have not been told to end."""
        return {n: p for n, p in self.pods.items() if "deletionTimestamp" not in p["metadata"]}

    def _hash(self, revision: str) -> str:
        return revision.removeprefix("web-") if self.kind == "deployment" else revision

    def _start(self, one: dict[str, Any], newest: str) -> None:
        self._born += 1
        made_of = copy.deepcopy(one["spec"]["template"])
        name, owner = f"web-{self._born:03}", owned_by("ReplicaSet", newest, f"uid-{newest}")
        if self.kind == "statefulset":
            free = (n for n in range(99) if f"web-{n}" not in self.pods)
            name, owner = f"web-{next(free)}", owned_by("StatefulSet", "web", "uid-web")
        meta = {
            "name": name, "namespace": NAMESPACE, "uid": f"uid-{self._born}", "resourceVersion": self.next(),
            "labels": made_of["metadata"]["labels"] | {self._mark: self._hash(newest)}, "ownerReferences": [owner],
        }  # fmt: skip
        ready = {"type": "Ready", "status": "True" if self.heals else "False"}
        self.objects[PODS, NAMESPACE, name] = {
            "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": made_of["spec"],
            "status": {"phase": "Running", "conditions": [ready]},
        }  # fmt: skip

    def _adopt(self, one: dict[str, Any]) -> str:
        """Keep the template as a revision: a new one, or the old one of the same, under a new number."""
        made_of, kept = copy.deepcopy(one["spec"]["template"]), self.history
        if kept and kept[-1][2] == made_of:
            return kept[-1][0]
        number = kept[-1][1] + 1 if kept else 1
        known = next((name for name, _, t in kept if t == made_of), None)
        name = known or f"web-rev{len(kept) + 1}"
        meta = {
            "name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "labels": dict(LABELS),
            "ownerReferences": [owned_by(one["kind"], "web", "uid-web")],
        }  # fmt: skip
        if self.kind == "statefulset":
            data = {"spec": {"template": {"$patch": "replace", **made_of}}}
            one = {"kind": "ControllerRevision", "revision": number, "data": data}
        else:
            made_of["metadata"]["labels"][self._mark] = self._hash(name)
            meta["annotations"] = {_NUMBER: str(number)}
            one["metadata"].setdefault("annotations", {})[_NUMBER] = str(number)
            spec = {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": made_of}
            one = {"kind": "ReplicaSet", "spec": spec}
        self.objects[self._kept, NAMESPACE, name] = {"apiVersion": "apps/v1", "metadata": meta, **one}  # fmt: skip
        return name


def _ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])
