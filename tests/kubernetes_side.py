"""An API server of Kubernetes for tests: kmock keeps the objects, and what it leaves out of Kubernetes is added here.

kmock 0.8 answers get, list, create, merge patch and delete, with the errors of Kubernetes. It does not know PUT, nor
subresources (it takes `pods/web-1/log` for the pod), nor selectors and pages of a list; it gives no uid and counts no
generation or resource version, so that nobody is told of a conflict; it keeps a review of rights as an object; it asks
nobody who he is, and takes whatever it is given. `Cluster` adds these, from the documentation of Kubernetes. Where
kubernetes-validate is there (build/outside), 422 is the answer to an object that its strict schemas do not take, and no
test can lay down one. What a cluster is of: kubernetes_workload_side.py, kubernetes_nodes_side.py.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import functools
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kmock
import yaml
from aiohttp import web

NAMESPACE = "shop"
NODES, PODS = kmock.resource("v1/nodes"), kmock.resource("v1/pods")
SETS, REVISIONS = kmock.resource("apps/v1/replicasets"), kmock.resource("apps/v1/controllerrevisions")  # fmt: skip
HPAS = kmock.resource("autoscaling/v2/horizontalpodautoscalers")
JOBS, CRONJOBS = kmock.resource("batch/v1/jobs"), kmock.resource("batch/v1/cronjobs")
WORKLOADS = {k: kmock.resource(f"apps/v1/{k}s") for k in ("deployment", "statefulset")}
MERGE = "application/merge-patch+json"
_REVIEWS = "selfsubjectaccessreviews"


def refusal(status: int, reason: str, message: str) -> kmock.KubernetesError:
    """Return what kmock answers as a Status of Kubernetes."""
    return kmock.KubernetesError(status=status, reason=reason, message=message)


def _valid(one: dict[str, Any]) -> None:
    if wrong := faults(one):
        raise refusal(422, "Invalid", wrong)


class Cluster(kmock.KubernetesEmulator):
    """An API server, started by `serving`, with what a test may have it do.

    token      whom it lets in; status: what it answers to everything instead, 0 = nothing
    denied     rights that nobody has: (verb, subresource); used: those that were used, but for reviews
    meanwhile  called with each request that changes something, before it is looked at: others come first, or it raises
    lost       what is written is answered with a 500
    budgets    evictions that are allowed of an app; refill: how many more at each look at pods
    lingers    at how many looks a pod that was evicted is still there, about to end
    logs       what pods have printed
    changed    the body of each request that changes something, in order; evicted: names of pods
    """

    def __init__(self) -> None:
        super().__init__()
        for plural in (NODES, PODS, SETS, REVISIONS, HPAS, JOBS, *WORKLOADS.values()):
            self.resources[plural] = kmock.ResourceInfo()
        self.token, self.status, self.denied = "t0ken", 0, set[tuple[str, str]]()
        self.meanwhile: Callable[[kmock.Request], object] = lambda _: None
        self.lost = False
        self.budgets: dict[str, int] = {}
        self.refill, self.lingers, self.page = 0, 0, 2
        self.logs: dict[str, bytes] = {}
        self.changed: list[Any] = []
        self.evicted: list[str] = []
        self.used: set[tuple[str, str, str, str]] = set()
        self._ending: dict[str, int] = {}
        self.server_port, self._version = 0, 100
        self._turn, self._test = asyncio.Lock(), threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    # ---- what a test lays down and sees

    def lay(self, plural: kmock.resource, one: dict[str, Any]) -> dict[str, Any]:
        """Keep an object, which must be a valid one."""
        meta = one["metadata"]
        named = {"uid": f"uid-{meta['name']}", "resourceVersion": self.next(), "generation": 1}
        one["metadata"] = {**named, **meta}
        assert not (wrong := faults(one)), wrong
        with self._test:
            self.objects[plural, meta.get("namespace"), meta["name"]] = one
        return one

    def all(self, plural: kmock.resource) -> dict[str, dict[str, Any]]:
        """Return what there is of a kind, by name."""
        with self._test:
            return {key[2]: o.raw for key, o in self.objects.items() if key[0] == plural and not o.deleted}  # fmt: skip

    def edit(self, plural: kmock.resource, name: str, **change: Any) -> None:
        """Change an object as others would: a merge patch."""
        with self._test:
            one = next(o for key, o in self.objects.items() if (key[0], key[2]) == (plural, name))
            one.patch(self._stamped(one.raw, change))
            assert not (wrong := faults(one.raw)), wrong
            self.settle()

    def settle(self) -> None:
        """Do what controllers do, after each change."""

    # ---- requests

    async def _handle(self, request: kmock.Request) -> web.StreamResponse:
        """Do what kmock leaves out, one request after the other, and leave the rest to it."""
        said = {name.lower(): value for name, value in request.headers.items()}
        if said.get("authorization") != f"Bearer {self.token}":
            raise refusal(401, "Unauthorized", "Unauthorized")
        if self.status:
            raise refusal(self.status, "Told", "no")
        if request.resource.plural != _REVIEWS:
            right = _right(request)
            self.used.add(right)
            if (right[0], right[3]) in self.denied:
                raise refusal(403, "Forbidden", f"cannot {right[0]} resource {right[2]}")
        async with self._turn:
            with self._test:
                if request.method == "GET":
                    return await self._shown(request)
                self.changed.append(copy.deepcopy(request.data))
                self.meanwhile(request)
                answer = await self._written(request, said.get("content-type", ""))
                self.settle()
        if self.lost:
            raise refusal(500, "InternalError", "etcdserver: request timed out")
        return answer

    async def _shown(self, request: kmock.Request) -> web.StreamResponse:
        match request.name, request.subresource:
            case None, None:
                return web.json_response(self._listed(request))
            case _, None:
                return await super()._handle(request)
            case _, "scale":
                return web.json_response(_scale_of(self._there(request).raw))
            case name, "log" if name in self.logs:
                lines = self.logs[name].splitlines(keepends=True)
                return web.Response(body=b"".join(lines[-int(request.params["tailLines"]) :]))
        raise kmock.KubernetesObjectNotFoundError

    async def _written(self, request: kmock.Request, kind: str) -> web.StreamResponse:
        """Change something, if it is valid, and nobody was faster."""
        if request.method == "PATCH" and kind != MERGE:
            raise refusal(415, "UnsupportedMediaType", f"{kind} is none of a patch")
        if request.method in {"POST", "PUT"}:
            _valid(request.data)
        match request.method.value, request.subresource:
            case "POST", None if request.resource.plural == _REVIEWS:
                return web.json_response(self._review(request.data), status=201)
            case "POST", "eviction":
                return web.json_response(self._evict(request), status=201)
            case "PUT", None | "scale":
                return web.json_response(self._put(request))
            case "POST", None:
                meta = request.data["metadata"]
                born = {
                    "uid": f"uid-{meta['name']}",
                    "resourceVersion": self.next(),
                    "generation": 1,
                }
                meta |= {"namespace": request.namespace, **born}
            case "PATCH", None:
                one = self._unchanged(request).raw
                after = kmock.Object(copy.deepcopy(one))
                after.patch(self._stamped(one, request.data))
                _valid(after.raw)
            case "DELETE", None:
                pass  # kubernetes-validate looks for the schema of its options where it is not
            case method, sub:
                raise refusal(405, "MethodNotAllowed", f"{method} of {sub} is not known here")
        return await super()._handle(request)

    def _put(self, request: kmock.Request) -> dict[str, Any]:
        """Put a whole object, which leaves its status as it is, or its scale."""
        one = self._unchanged(request)
        if request.subresource:
            one.patch(self._stamped(one.raw, {"spec": request.data["spec"]}))
            return _scale_of(one.raw)
        whole = copy.deepcopy(request.data) | {"status": one.raw.get("status", {})}
        one.history.append(self._stamped(one.raw, whole))
        return one.raw

    def _there(self, request: kmock.Request) -> kmock.Object:
        key = request.resource, request.namespace, request.name
        if key not in self.objects or self.objects[key].deleted:
            raise kmock.KubernetesObjectNotFoundError
        return self.objects[key]

    def _unchanged(self, request: kmock.Request) -> kmock.Object:
        """Return the object, if it is the one that was read."""
        one = self._there(request)
        read = request.data.get("metadata", {}).get("resourceVersion")
        if read not in {None, one.raw["metadata"]["resourceVersion"]}:
            raise refusal(409, "Conflict", "the object has been modified")
        return one

    def _stamped(self, one: Mapping[str, Any], change: dict[str, Any]) -> dict[str, Any]:
        """Return a change with the version that it makes, and the generation, when something else is asked for."""
        meta = change.setdefault("metadata", {})
        meta["resourceVersion"] = self.next()
        after = kmock.Object(copy.deepcopy(dict(one)))
        after.patch({"spec": change.get("spec", {})})
        whole = change.get("spec") if "kind" in change else after.raw.get("spec")
        meta["generation"] = one["metadata"]["generation"] + (whole != one.get("spec"))
        return change

    def next(self) -> str:
        """Return a resource version that no object has."""
        self._version += 1
        return str(self._version)

    def _listed(self, request: kmock.Request) -> dict[str, Any]:
        """Return few at a time, whatever the limit: a server may."""
        asked = request.params
        if request.resource == PODS and "continue" not in asked:
            self._later()
        if request.resource not in self.resources:
            raise kmock.KubernetesResourceNotFoundError
        found = [
            o.raw
            for (plural, space, _), o in self.objects.items()
            if plural == request.resource and request.namespace in {None, space} and not o.deleted
            and _selected(o.raw, asked)
        ]  # fmt: skip
        start = int(asked.get("continue", "0"))
        end = start + self.page if "limit" in asked else len(found)
        more = {"continue": str(end)} if end < len(found) else {}
        return {"kind": "List", "metadata": more, "items": found[start:end]}

    def _review(self, body: dict[str, Any]) -> dict[str, Any]:
        about = body["spec"]["resourceAttributes"]
        allowed = (about["verb"], about.get("subresource", "")) not in self.denied
        return body | {"status": {"allowed": allowed}}

    def _evict(self, request: kmock.Request) -> dict[str, Any]:
        one = self._there(request)
        meta, options = one.raw["metadata"], request.data.get("deleteOptions", {})
        if options.get("preconditions", {}).get("uid") not in {None, meta["uid"]}:
            raise refusal(409, "Conflict", "the UID in the precondition does not match")
        app = meta.get("labels", {}).get("app", "")
        if self.budgets.get(app, 1) < 1:
            raise refusal(429, "TooManyRequests", "it would violate the pod's disruption budget")
        if app in self.budgets:
            self.budgets[app] -= 1
        self.evicted.append(meta["name"])
        if self.lingers:
            self._ending[meta["name"]] = self.lingers
            one.patch({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
        else:
            one.delete()
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _later(self) -> None:
        """Let time pass, by a look at pods."""
        self.budgets = {app: n + self.refill for app, n in self.budgets.items()}
        self._ending = {name: looks - 1 for name, looks in self._ending.items()}
        for (plural, _, name), one in self.objects.items():
            if plural == PODS and self._ending.get(name, 1) < 1 and not one.deleted:
                one.delete()


def owned_by(kind: str, name: str, uid: str) -> dict[str, Any]:
    version = {"Job": "batch/v1", "Node": "v1"}.get(kind, "apps/v1")
    return {"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": True}


def _right(request: kmock.Request) -> tuple[str, str, str, str]:
    """Return verb, group, resource and subresource: what a role must allow."""
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    looks = "get" if request.name else "list"
    of = request.resource
    return verb.get(request.method.value, looks), of.group, of.plural, request.subresource or ""


def role_of(page: str, kind: str) -> set[tuple[str, str, str, str]]:
    """Return the rights of the role that stands in a page of our documentation, after a word."""
    text = (Path(__file__).resolve().parents[1] / "docs" / page).read_text()
    rules = re.search(rf"{kind}.*?```yaml\n(.*?)```", text, re.DOTALL)[1]
    return {
        (verb, group, *resource.partition("/")[::2])
        for rule in yaml.safe_load(rules)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _scale_of(one: Mapping[str, Any]) -> dict[str, Any]:
    meta = {k: one["metadata"][k] for k in ("name", "namespace", "resourceVersion")}
    return {
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta,
        "spec": {"replicas": one["spec"]["replicas"]}, "status": {"replicas": one["status"]["replicas"]},
    }  # fmt: skip


def _selected(one: Mapping[str, Any], asked: Mapping[str, str]) -> bool:
    """Tell whether the selectors of a list mean an object."""
    labels = one["metadata"].get("labels") or {}
    for term in re.findall(r"(?:[^,(]|\([^)]*\))+", asked.get("labelSelector", "")):
        key, how, of = re.fullmatch(r"!?([\w./-]+)\s*(=|in|notin)?\s*(.*)", term).groups()
        values, value = {v.strip() for v in of.strip("()").split(",")}, labels.get(key)
        meant = {
            "=": value == of, "in": value in values, "notin": value not in values,
        }.get(how, (value is None) == term.startswith("!"))  # fmt: skip
        if not meant:
            return False
    field, _, wanted = asked.get("fieldSelector", "").partition("=")
    return not field or functools.reduce(lambda o, k: o.get(k, {}), field.split("."), one) == wanted


@contextlib.contextmanager
def serving(side: Cluster) -> Iterator[Cluster]:
    """Run it for a while, in a thread of its own."""
    ready = threading.Event()
    loop, end = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with side, kmock.Server(side) as server:
            side.server_port = server.port
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield side
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


# ---- the schemas of Kubernetes

OUTSIDE = Path(__file__).resolve().parents[1] / "build" / "outside" / "bin" / "python"
_VALIDATE = """
import json, sys, kubernetes_validate as k
for line in sys.stdin:
    try:
        k.validate(json.loads(line), "1.30", strict=True)
        said = ""
    except Exception as wrong:
        said = f"{type(wrong).__name__}: {wrong}"
    print(json.dumps(said), flush=True)
"""
_ONE = threading.Lock()


def faults(one: dict[str, Any]) -> str:
    """Return what kubernetes-validate finds wrong with an object; "" where nothing, or where it is not installed."""
    if not (python := schemas()):
        return ""
    with _ONE:
        python.stdin.write(json.dumps(one) + "\n")
        python.stdin.flush()
        return str(json.loads(python.stdout.readline()))


@functools.cache
def schemas() -> subprocess.Popen[str] | None:
    """Start kubernetes-validate, which lives in an environment beside ours, once a session."""
    if not OUTSIDE.exists():
        return None
    made = subprocess.Popen(
        [OUTSIDE, "-c", _VALIDATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def end() -> None:
        made.stdin.close()
        made.stdout.close()
        made.wait()

    atexit.register(end)
    return made
