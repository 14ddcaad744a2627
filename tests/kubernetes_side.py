"""An API server with one workload, for tests: what it keeps and demands is taken from the documentation of Kubernetes.

A request that changes something is kept in `changed`, so that a test can hold it against the schemas of Kubernetes.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "shop"
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"
HPAS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
LABELS = {"app": "web"}


def template(image: str, **notes: str) -> dict:
    """Return what pods are made of."""
    meta = {"labels": dict(LABELS)} | ({"annotations": notes} if notes else {})
    return {"metadata": meta, "spec": {"containers": [{"name": "web", "image": image}]}}


class ApiServer(http.server.ThreadingHTTPServer):
    """heals: new pods get ready; budget: how many evictions its disruption budget allows; denied: rights that lack.

    rolls   its controller replaces pods when the template changes; history: (name, number, template) of each it had
    """

    daemon_threads = True

    def __init__(self, replicas: int = 3, kind: str = "deployment") -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.version, self.born = 100, 0
        self.heals, self.budget, self.status, self.token = True, 99, 0, "t0ken"
        self.denied: set[tuple[str, str]] = set()
        self.changed: list[dict] = []
        self.replicas, self.generation, self.updated = replicas, 1, None
        self.kind, self.observed, self.rolls, self.stuck = kind, 1, True, False
        self.template, self.notes, self.spec = template("web:1"), {}, {}
        self.history: list[tuple[str, int, dict]] = []
        self.adopt()
        self.pods: dict[str, dict] = {}
        self.hpa: dict | None = None
        self.settle()

    @property
    def of(self) -> str:
        """The path of the workload."""
        return f"{APPS}/{self.kind}s/web"

    @property
    def newest(self) -> str:
        """The name of the revision that is asked for."""
        return max(self.history, key=lambda h: h[1])[0]

    def adopt(self) -> None:
        """Keep the template as a revision: a new one, or the old one of the same, under a new number."""
        number = max((n for _, n, _ in self.history), default=0) + 1
        known = next((name for name, _, t in self.history if t == self.template), None)
        name = known or f"web-rev{len(self.history) + 1}"
        self.history = [h for h in self.history if h[0] != name]
        self.history.append((name, number, copy.deepcopy(self.template)))

    def release(self, image: str) -> None:
        """Roll out another image, as a person would."""
        self.template = template(image)
        self.adopt()
        self.version += 1

    def settle(self) -> None:
        """Do what the controllers do."""
        while len(self.pods) > self.replicas:
            self.pods.popitem()
        while len(self.pods) < self.replicas:
            self.born += 1
            name, ready = f"web-{self.born:03}", "True" if self.heals else "False"
            self.pods[name] = {
                "metadata": {
                    "name": name, "uid": f"uid-{self.born}",
                    "labels": LABELS | {"controller-revision-hash": self.newest},
                },
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }  # fmt: skip

    def autoscaled(self, low: int, high: int) -> None:
        self.hpa = {
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web-hpa", "namespace": NAMESPACE, "resourceVersion": "7"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": low, "maxReplicas": high,
            },
        }  # fmt: skip

    def workload(self) -> dict:
        ready = sum(p["status"]["conditions"][0]["status"] == "True" for p in self.pods.values())
        sets = self.kind == "statefulset"
        number = max(n for _, n, _ in self.history)
        notes = self.notes | ({} if sets else {"deployment.kubernetes.io/revision": str(number)})
        status = {
            "replicas": len(self.pods), "readyReplicas": ready, "availableReplicas": ready,
            "observedGeneration": self.observed,
            "updatedReplicas": len(self.pods) if self.updated is None else self.updated,
        }  # fmt: skip
        if sets:
            status |= {"updateRevision": self.newest, "currentRevision": self.newest}
        if self.stuck:
            why = {"reason": "ProgressDeadlineExceeded", "message": "web-rev2 has timed out"}
            status["conditions"] = [{"type": "Progressing", "status": "False", **why}]
        return {
            "apiVersion": "apps/v1", "kind": "StatefulSet" if sets else "Deployment",
            "metadata": {"name": "web", "namespace": NAMESPACE, "uid": "uid-web", "annotations": notes,
                         "generation": self.generation, "resourceVersion": str(self.version)},
            "spec": {"replicas": self.replicas, "template": self.template, "selector": {
                "matchLabels": LABELS, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
                **({"serviceName": "web"} if sets else {}), **self.spec},
            "status": status,
        }  # fmt: skip

    def revisions(self) -> dict:
        """Return what the controllers keep of earlier templates, and one of another owner."""
        owner = {"kind": "Deployment", "name": "web", "uid": "uid-web", "controller": True}
        items = []
        for name, number, made_of in self.history:
            meta = {"name": name, "namespace": NAMESPACE, "ownerReferences": [owner]}
            if self.kind == "statefulset":
                data = {"spec": {"template": {"$patch": "replace", **made_of}}}
                items.append({"metadata": meta, "revision": number, "data": data})
                continue
            hashed = copy.deepcopy(made_of)
            hashed["metadata"]["labels"]["pod-template-hash"] = name.removeprefix("web-")
            meta["annotations"] = {"deployment.kubernetes.io/revision": str(number)}
            items.append({"metadata": meta, "spec": {"template": hashed}})
        other = copy.deepcopy(items[0])
        other["metadata"] |= {"name": "other-rev1", "ownerReferences": [owner | {"uid": "uid-other"}]}  # fmt: skip
        return {"items": [*items, other]}

    def scale(self) -> dict:
        meta = {"name": "web", "namespace": NAMESPACE, "resourceVersion": str(self.version)}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": meta,
            "spec": {"replicas": self.replicas},
        }

    def answer(
        self, method: str, path: str, query: dict, body: dict | None, kind: str
    ) -> tuple[int, dict]:
        if body is not None:
            self.changed.append(body)
        if method == "GET":
            return self._look(path, query)
        match method, path:
            case "PUT", p if p == self.of:
                return self._replace(body)
            case "PUT", p if p == f"{self.of}/scale":
                return self._scale(body)
            case "POST", p if p.startswith(PODS) and p.endswith("/eviction"):
                return self._evict(p.removeprefix(f"{PODS}/").removesuffix("/eviction"), body)
            case "PATCH", p if p == f"{HPAS}/web-hpa":
                return self._patch(body, kind)
            case "POST", p if p == REVIEWS:
                about = body["spec"]["resourceAttributes"]
                allowed = (about["verb"], about.get("subresource", "")) not in self.denied
                return 201, body | {"status": {"allowed": allowed}}
        return 404, {"kind": "Status", "message": f"{path} not found"}

    def _look(self, path: str, query: dict) -> tuple[int, dict]:
        match path:
            case self.of:
                return 200, self.workload()
            case p if p == f"{self.of}/scale":
                return 200, self.scale()
            case p if p in {f"{APPS}/replicasets", f"{APPS}/controllerrevisions"}:
                assert p.endswith("replicasets") == (self.kind == "deployment")
                assert query["labelSelector"] == ["app=web,!tier"]
                return 200, self.revisions()
            case p if p == PODS:
                assert query["labelSelector"] == ["app=web,!tier"]
                return 200, {"kind": "PodList", "items": list(self.pods.values())}
            case p if p == HPAS:
                return 200, {"items": [self.hpa] if self.hpa else []}
        return 404, {"kind": "Status", "message": f"{path} not found"}

    def _replace(self, body: dict) -> tuple[int, dict]:
        if body["metadata"]["resourceVersion"] != str(self.version):
            return 409, {"kind": "Status", "message": "the object has been modified"}
        self.version += 1
        self.generation += 1
        self.notes = {k: v for k, v in body["metadata"]["annotations"].items() if "kubernetes.io" not in k}  # fmt: skip
        self.template = body["spec"]["template"]
        self.adopt()
        if self.rolls:
            self.observed = self.generation
            self.pods.clear()
            self.settle()
        return 200, self.workload()

    def _scale(self, body: dict) -> tuple[int, dict]:
        if body["metadata"]["resourceVersion"] != str(self.version):
            return 409, {"kind": "Status", "message": "the object has been modified"}
        self.version += 1
        self.replicas = body["spec"]["replicas"]
        self.settle()
        return 200, self.scale()

    def _evict(self, name: str, body: dict) -> tuple[int, dict]:
        pod = self.pods.get(name)
        if pod is None or body["deleteOptions"]["preconditions"]["uid"] != pod["metadata"]["uid"]:
            return (404 if pod is None else 409), {
                "kind": "Status",
                "message": "precondition failed",
            }
        if not self.budget:
            return 429, {
                "kind": "Status",
                "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            }
        self.budget -= 1
        del self.pods[name]
        self.settle()
        return 201, {"kind": "Status", "status": "Success"}

    def _patch(self, body: dict, kind: str) -> tuple[int, dict]:
        if kind != "application/merge-patch+json":
            return 415, {
                "kind": "Status",
                "message": "the body of the request was in an unknown format",
            }
        if body["metadata"]["resourceVersion"] != self.hpa["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "message": "the object has been modified"}
        self.hpa["spec"] |= body["spec"]
        self.hpa["metadata"]["resourceVersion"] = str(
            int(self.hpa["metadata"]["resourceVersion"]) + 1
        )
        return 200, self.hpa


class _Answer(http.server.BaseHTTPRequestHandler):
    server: ApiServer

    def _any(self) -> None:
        parts = urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {self.server.token}":
            self._say(401, {"kind": "Status", "message": "Unauthorized"})
        elif self.server.status:
            self._say(self.server.status, {"kind": "Status", "message": "no"})
        else:
            body = json.loads(sent) if sent else None
            kind = self.headers.get("content-type", "")
            self._say(
                *self.server.answer(self.command, parts.path, parse_qs(parts.query), body, kind)
            )

    def do_GET(self) -> None:
        self._any()

    def do_POST(self) -> None:
        self._any()

    def do_PUT(self) -> None:
        self._any()

    def do_PATCH(self) -> None:
        self._any()

    def _say(self, status: int, said: dict) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(side: ApiServer) -> Iterator[ApiServer]:
    """Run it for a while."""
    with side:
        thread = threading.Thread(target=side.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield side
        finally:
            side.shutdown()
            thread.join()


_OUTSIDE = Path(__file__).resolve().parents[1] / "build" / "outside" / "bin"
_VALIDATE = (
    "import json, sys, kubernetes_validate as k\n"
    "for one in json.load(sys.stdin): k.validate(one, '1.30', strict=True)"
)


async def strictly_valid(needs: Callable[[str], str], objects: list[dict]) -> None:
    """Hold objects against the schemas of Kubernetes, and see that these find a misspelt key."""
    python = needs(str(_OUTSIDE / "python"))
    wrong = [objects[0] | {"spec": {"replicass": 1}}]
    for held, fine in ((objects, True), (wrong, False)):
        done = await asyncio.to_thread(
            subprocess.run, [python, "-c", _VALIDATE], check=False, input=json.dumps(held),
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode == 0) == fine, done.stderr
