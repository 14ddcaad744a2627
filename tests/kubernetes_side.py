"""An API server with one workload, for tests: what it keeps and demands is taken from the documentation of Kubernetes.

A request that changes something is kept in `changed`, so that a test can hold it against the schemas of Kubernetes.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "shop"
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web"
HPAS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
LABELS = {"app": "web"}


class ApiServer(http.server.ThreadingHTTPServer):
    """heals: new pods get ready; budget: how many evictions its disruption budget allows; denied: rights that lack."""

    daemon_threads = True

    def __init__(self, replicas: int = 3) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.version, self.born = 100, 0
        self.heals, self.budget, self.status = True, 99, 0
        self.denied: set[tuple[str, str]] = set()
        self.changed: list[dict] = []
        self.replicas, self.generation, self.updated = replicas, 1, None
        self.pods: dict[str, dict] = {}
        self.hpa: dict | None = None
        self.settle()

    def settle(self) -> None:
        """Do what the controllers do."""
        while len(self.pods) > self.replicas:
            self.pods.popitem()
        while len(self.pods) < self.replicas:
            self.born += 1
            name, ready = f"web-{self.born:03}", "True" if self.heals else "False"
            self.pods[name] = {
                "metadata": {"name": name, "uid": f"uid-{self.born}", "labels": LABELS},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }

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
        return {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": NAMESPACE, "generation": self.generation},
            "spec": {"replicas": self.replicas, "selector": {
                "matchLabels": LABELS, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}},
            "status": {
                "replicas": len(self.pods), "readyReplicas": ready, "observedGeneration": 1,
                "updatedReplicas": len(self.pods) if self.updated is None else self.updated,
            },
        }  # fmt: skip

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
        match method, path:
            case "GET", p if p == APPS:
                return 200, self.workload()
            case "GET", p if p == f"{APPS}/scale":
                return 200, self.scale()
            case "PUT", p if p == f"{APPS}/scale":
                return self._scale(body)
            case "GET", p if p == PODS:
                assert query["labelSelector"] == ["app=web,!tier"]
                return 200, {"kind": "PodList", "items": list(self.pods.values())}
            case "POST", p if p.startswith(PODS) and p.endswith("/eviction"):
                return self._evict(p.removeprefix(f"{PODS}/").removesuffix("/eviction"), body)
            case "GET", p if p == HPAS:
                return 200, {"items": [self.hpa] if self.hpa else []}
            case "PATCH", p if p == f"{HPAS}/web-hpa":
                return self._patch(body, kind)
            case "POST", p if p == REVIEWS:
                about = body["spec"]["resourceAttributes"]
                allowed = (about["verb"], about.get("subresource", "")) not in self.denied
                return 201, body | {"status": {"allowed": allowed}}
        return 404, {"kind": "Status", "message": f"{path} not found"}

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
        if self.headers.get("authorization") != "Bearer t0ken":
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
