"""A workload of Kubernetes as a service: how many pods, evict one by one, bounds of its autoscaler.

    kubernetes:
      service: checkout
      workload: deployment/checkout           # or statefulset/...
      kubeconfig: /etc/homeostat/kubeconfig   # default: the service account of our own pod

Everything that changes is compare-and-set at the API server: a scale and a bound go with the resource version that was
read, an eviction with the uid of the pod. Pods are evicted, not deleted, so disruption budgets hold.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import structlog
from pydantic import Field

from agent.config import Name
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.units import Duration, say_duration
from connectors._elsewhere import read
from connectors._kubernetes import Access, place_of
from connectors.http import Answer, Door, Method, redacted

log = structlog.get_logger()

_LOOK_S: Final = 0.5
_BOUNDS: Final = {"min_replicas_count": "minReplicas", "max_replicas_count": "maxReplicas"}
_MOST_PODS: Final = 500
_MERGE: Final = "application/merge-patch+json"
_RIGHTS: Final = (
    ("get", "apps", "{kind}s", ""), ("update", "apps", "{kind}s", "scale"), ("list", "", "pods", ""),
    ("create", "", "pods", "eviction"), ("list", "autoscaling", "horizontalpodautoscalers", ""),
    ("patch", "autoscaling", "horizontalpodautoscalers", ""),
)  # fmt: skip
"""verb, group, resource, subresource: what a role must allow for all that can be done here."""


@dataclass(frozen=True, slots=True)
class Life:
    """One pod. birth: its uid."""

    replica: str
    birth: str
    well: bool


@connector("kubernetes")
class Kubernetes:
    """One deployment or stateful set of Kubernetes.

    Abilities  Scaler (see playbooks/actions/scale.py): the scale of the workload; Refused where an autoscaler rules it,
               or while a rollout is under way. Restarter (playbooks/actions/restart.py): pods are evicted one by one.
               Limiter (see playbooks/actions/limits.py): `min_replicas_count` and `max_replicas_count` of its
               HorizontalPodAutoscaler
    Tested against a stand-in whose objects are checked with the schemas of Kubernetes: `stand_in`.
    """

    tested = "stand-in; what is sent passes the strict schemas of Kubernetes 1.30"
    stand_in = True

    class Config(Access):
        """Which workload, and where."""

        service: Name
        workload: Annotated[
            str, Field(pattern=r"^(deployment|statefulset)/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
        ]
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0
        """For one request."""
        wait: Annotated[Duration, Field(gt=0, le=1800)] = 300.0
        """For pods to be scheduled and ready."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._place = place_of(config)
        self._door = Door(
            trust=self._place.trust() if self._place.url.startswith("https:") else None
        )
        self._kind, _, self._workload = config.workload.partition("/")
        self._turn = asyncio.Lock()

    # ---- ability: Scaler

    async def replicas(self, target: str) -> int:
        """Return how many pods are asked for."""
        self._ours(target)
        return int((await self._read()).get("spec", {}).get("replicas", 1))

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        """Scale from `expect` to n, and wait until so many are ready."""
        self._ours(target)
        async with self._turn:
            if (scaler := await self._autoscaler()) is not None:
                raise Refused(
                    f"{target} is scaled by the HorizontalPodAutoscaler {_name(scaler)}: set its bounds instead, with "
                    "`set_limit` of `min_replicas_count`"
                )
            await self._no_rollout()
            scale = await self._object("GET", f"{self._of()}/scale")
            now = int(scale.get("spec", {}).get("replicas", 0))
            if now != expect:
                raise Refused(f"{target} asks for {now} pods, not {expect}: changed by others")
            meta = {k: scale["metadata"][k] for k in ("name", "namespace", "resourceVersion")}
            body = {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": meta,
                "spec": {"replicas": n},
            }
            await self._object("PUT", f"{self._of()}/scale", body)
            log.info("scaled", workload=self.config.workload, before=expect, after=n)
            await self._until_ready(n)

    # ---- ability: Restarter

    async def units(self, service: str) -> Sequence[Life]:
        """Return the pods that there are and that are not about to go."""
        self._ours(service)
        return [
            Life(
                f"replica:{self.config.service}/{_name(pod)}",
                str(pod["metadata"]["uid"]),
                _ready(pod),
            )
            for pod in await self._pods()
        ]

    async def restart(self, service: str, birth: str) -> None:
        """Evict the pod of that uid, and wait until as many are ready as are asked for."""
        self._ours(service)
        async with self._turn:
            pod = next((p for p in await self._pods() if p["metadata"]["uid"] == birth), None)
            if pod is None:
                raise Refused(f"{service} has no pod of uid {birth}: it was restarted already")
            await self._no_rollout()
            name = _name(pod)
            body = {
                "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": name, "namespace": self._place.namespace},
                "deleteOptions": {"preconditions": {"uid": birth}},
            }  # fmt: skip
            await self._object("POST", f"{self._core()}/pods/{quote(name)}/eviction", body)
            log.info("evicted", pod=name)
            wanted = int((await self._read()).get("spec", {}).get("replicas", 1))
            await self._until_ready(wanted, gone=birth)

    # ---- ability: Limiter

    async def limit(self, target: str, name: str) -> float | None:
        """Return a bound of the autoscaler."""
        self._ours(target)
        return _bound(await self._scaler(), name)

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return the whole number next to it; Refused where the bounds would cross."""
        self._ours(target)
        scaler, wanted = await self._scaler(), float(max(1, round(value)))
        other = "max_replicas_count" if name == "min_replicas_count" else "min_replicas_count"
        low, high = sorted((wanted, _bound(scaler, other)))
        if (low, high)[name == "max_replicas_count"] != wanted:
            raise Refused(
                f"{name} of {target} can not be {wanted:g}: {other} is {_bound(scaler, other):g}"
            )
        return wanted

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Patch a bound of the autoscaler, if it is `expect`."""
        self._ours(target)
        async with self._turn:
            scaler = await self._scaler()
            if (now := _bound(scaler, name)) != expect:
                raise Refused(f"{name} of {target} is {now:g}, not {expect}: changed by others")
            if value is None:
                raise Refused(f"an autoscaler has always a {name}: write a number")
            body = {
                "metadata": {"resourceVersion": scaler["metadata"]["resourceVersion"]},
                "spec": {_BOUNDS[name]: int(value)},
            }
            path = f"{self._apis('autoscaling/v2')}/horizontalpodautoscalers/{quote(_name(scaler))}"
            await self._object("PATCH", path, body, kind=_MERGE)

    async def describe(self) -> Sequence[str]:
        """Say how the workload stands, and what we may do."""
        where = f"{self.config.workload} in namespace {self._place.namespace} of {redacted(self._place.url)}"
        try:
            found = await self._read()
            lines = [
                f"{where}: {_ready_of(found)} of {found.get('spec', {}).get('replicas', 1)} pods are ready"
            ]
            if (scaler := await self._autoscaler()) is not None:
                low, high = (f"{_bound(scaler, name):g}" for name in _BOUNDS)
                lines.append(f"scaled by the autoscaler {_name(scaler)} between {low} and {high}")
            return [*lines, *await self._may_not()]
        except AgentError as problem:
            return (f"{where}: {problem}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    # ---- what there is

    def _ours(self, service: str) -> None:
        if service != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} runs service:{self.config.service}, not {service}: say which with `via:`"
            )

    async def _read(self) -> dict[str, Any]:
        return await self._object("GET", self._of())

    async def _pods(self) -> list[dict[str, Any]]:
        selector = _selector((await self._read()).get("spec", {}).get("selector") or {})
        query = urlencode({"labelSelector": selector, "limit": _MOST_PODS})
        found = (await self._object("GET", f"{self._core()}/pods?{query}")).get("items") or []
        there = [
            p
            for p in found
            if "deletionTimestamp" not in p["metadata"]
            and p.get("status", {}).get("phase") in {"Pending", "Running"}
        ]
        return sorted(there, key=_name)

    async def _autoscaler(self) -> dict[str, Any] | None:
        """Return the autoscaler of the workload; None = nobody scales it."""
        found = await self._object(
            "GET", f"{self._apis('autoscaling/v2')}/horizontalpodautoscalers"
        )
        for one in found.get("items") or []:
            about = one.get("spec", {}).get("scaleTargetRef", {})
            if (str(about.get("kind")).lower(), about.get("name")) == (self._kind, self._workload):
                return dict(one)
        return None

    async def _scaler(self) -> dict[str, Any]:
        found = await self._autoscaler()
        if found is None:
            raise Refused(f"{self.config.workload} has no HorizontalPodAutoscaler: use `scale`")
        return found

    async def _no_rollout(self) -> None:
        """Refuse while a rollout is under way: whoever began it, would find something else than it left."""
        found = await self._read()
        meta, spec, status = (found.get(key) or {} for key in ("metadata", "spec", "status"))
        behind = int(status.get("observedGeneration", 0)) < int(meta.get("generation", 0))
        if behind or int(status.get("updatedReplicas", 0)) < int(spec.get("replicas", 1)):
            raise Refused(f"a rollout of {self.config.workload} is under way: wait for its end")

    async def _until_ready(self, n: int, gone: str = "") -> None:
        end = time.monotonic() + self.config.wait
        while True:
            found = await self._read()
            left = bool(gone) and any(p["metadata"]["uid"] == gone for p in await self._pods())
            there = int((found.get("status") or {}).get("replicas", 0))
            if _ready_of(found) == n == there and not left:
                return
            if time.monotonic() > end:
                raise Uncertain(
                    f"{_ready_of(found)} of {n} pods of {self.config.workload} are ready after "
                    f"{say_duration(self.config.wait)}; see its events"
                )
            await asyncio.sleep(_LOOK_S)

    async def _may_not(self) -> list[str]:
        """Ask the API server what our role lacks."""
        missing = []
        for verb, group, resource, sub in _RIGHTS:
            about = {
                "namespace": self._place.namespace, "verb": verb, "group": group,
                "resource": resource.format(kind=self._kind), "subresource": sub,
            }  # fmt: skip
            body = {
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {k: v for k, v in about.items() if v}},
            }  # fmt: skip
            said = await self._object(
                "POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body
            )
            if not said.get("status", {}).get("allowed"):
                missing.append(f"{verb} {about['resource']}{f'/{sub}' if sub else ''}")
        return [f"our role may not: {', '.join(missing)}"] if missing else []

    # ---- the API server

    def _of(self) -> str:
        return f"{self._apis('apps/v1')}/{self._kind}s/{quote(self._workload)}"

    def _core(self) -> str:
        return f"api/v1/namespaces/{quote(self._place.namespace)}"

    def _apis(self, group: str) -> str:
        return f"apis/{group}/namespaces/{quote(self._place.namespace)}"

    async def _object(
        self,
        method: Method,
        path: str,
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        url = f"{self._place.url}/{path}"
        said = f"{method} {redacted(url)}"
        headers = {**self._place.headers(), "accept": "application/json"}
        if body is not None:
            headers["content-type"] = kind
        sent = None if body is None else json.dumps(body).encode()
        answer = await self._door.ask(
            method,
            url,
            timeout_s=self.config.timeout,
            headers=headers,
            body=sent,
            most_bytes=32 << 20,
        )
        if not answer.ok:
            raise _wrong(said, method, answer)
        found = read(answer)
        if not isinstance(found, dict):
            raise Unavailable(
                f"{said}: no JSON of Kubernetes; see `url` or `kubeconfig` of {self.name}"
            )
        return found


def _wrong(said: str, method: str, answer: Answer) -> Exception:
    """Return what a status of the API server means."""
    try:
        words = str(answer.json()["message"])[:300]
    except (ValueError, KeyError, TypeError):
        words = f"status {answer.status}"
    match answer.status:
        case 409:
            return Refused(f"{said}: {words}; changed by others just now")
        case 429 if method == "POST":  # an eviction
            return Unavailable(f"{said}: {words}; its disruption budget does not allow it now")
        case 401 | 403:
            return Refused(f"{said}: {words}; see the role of our account with `homeostat try`")
        case 429 | 502 | 503 | 504:
            return Unavailable(f"{said}: {words}")
        case status if status < 500:
            return Refused(f"{said}: {words}")
    return Unavailable(f"{said}: {words}") if method == "GET" else Uncertain(f"{said}: {words}")


def _bound(scaler: Mapping[str, Any], name: str) -> float:
    if name not in _BOUNDS:
        raise Refused(f"an autoscaler has no limit {name}: there are {', '.join(_BOUNDS)}")
    return float(scaler.get("spec", {}).get(_BOUNDS[name], 1))


def _selector(selector: Mapping[str, Any]) -> str:
    """Write the selector of a workload as a query."""
    said = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or []:
        key, values = one["key"], ",".join(one.get("values") or ())
        form = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        said.append(form.get(one["operator"], f"!{key}"))
    if not said:
        raise Refused("the workload selects pods by no label: that would be all of them")
    return ",".join(said)


def _name(one: Mapping[str, Any]) -> str:
    return str(one["metadata"]["name"])


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _ready_of(workload: Mapping[str, Any]) -> int:
    return int((workload.get("status") or {}).get("readyReplicas", 0))
