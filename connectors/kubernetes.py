"""A workload of Kubernetes as a service: how many pods, evict one by one, bounds of its autoscaler, rollouts.

    kubernetes:
      service: checkout
      workload: deployment/checkout           # or statefulset/...
      kubeconfig: /etc/homeostat/kubeconfig   # default: the service account of our own pod

Everything that changes is compare-and-set at the API server: a scale, a bound and a template go with the resource
version that was read, an eviction with the uid of the pod. Pods are evicted, not deleted, so disruption budgets hold.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import structlog
from pydantic import Field

from agent.config import Name
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.units import Duration, say_duration
from connectors._kube_api import MERGE, Api, named, ready
from connectors._kube_rollout import (
    LEFT,
    RESTARTED,
    RESTARTED_AT,
    Revision,
    Rollout,
    current,
    earlier,
    noted,
    of_controller_revisions,
    of_replica_sets,
    progress,
    with_template,
)
from connectors._kubernetes import Access
from connectors.http import redacted

log = structlog.get_logger()

_LOOK_S: Final = 0.5
_BOUNDS: Final = {"min_replicas_count": "minReplicas", "max_replicas_count": "maxReplicas"}
_HISTORY: Final = {"deployment": "replicasets", "statefulset": "controllerrevisions"}
_RIGHTS: Final = (
    ("get", "apps", "{kind}s", ""), ("get", "apps", "{kind}s", "scale"),
    ("update", "apps", "{kind}s", "scale"), ("update", "apps", "{kind}s", ""),
    ("list", "apps", "{history}", ""), ("list", "", "pods", ""),
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
               HorizontalPodAutoscaler. Rollouts (playbooks/actions/rollouts.py): its earlier templates, and a restart
               of all pods as the workload's own strategy says
    Tested against kmock, whose objects are checked with the schemas of Kubernetes: `stand_in`.
    """

    tested = "stand-in: kmock; all objects pass the strict schemas of Kubernetes 1.30"
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
        self._api = Api(name, config, config.timeout)
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
                    f"{target} is scaled by the HorizontalPodAutoscaler {named(scaler)}: set its bounds instead, with "
                    "`set_limit` of `min_replicas_count`"
                )
            await self._no_rollout()
            scale = await self._api.ask("GET", f"{self._of()}/scale")
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
            await self._api.ask("PUT", f"{self._of()}/scale", body)
            log.info("scaled", workload=self.config.workload, before=expect, after=n)
            await self._until_ready(n)

    # ---- ability: Restarter

    async def units(self, service: str) -> Sequence[Life]:
        """Return the pods that there are and that are not about to go."""
        self._ours(service)
        return [
            Life(
                f"replica:{self.config.service}/{named(pod)}",
                str(pod["metadata"]["uid"]),
                ready(pod),
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
            wanted = int((await self._read()).get("spec", {}).get("replicas", 1))
            await self._evict(pod)
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
        _bound(scaler, name)
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
            path = f"{self._apis('autoscaling/v2')}/horizontalpodautoscalers/{quote(named(scaler))}"
            await self._api.ask("PATCH", path, body, kind=MERGE)

    # ---- ability: Rollouts

    async def rollout(self, service: str) -> Rollout:
        """Return how the newest rollout stands."""
        self._ours(service)
        found = await self._read()
        settled, stuck, words = progress(self._kind, found)
        revision = current(self._kind, found, await self._revisions(found))
        return Rollout(
            revision, settled and bool(revision), stuck, words, noted(found, RESTARTED, "template")
        )

    async def earlier(self, service: str) -> Sequence[str]:
        """Return revisions that can be gone back to, the one before the current first."""
        self._ours(service)
        found = await self._read()
        return earlier(self._kind, found, await self._revisions(found))

    async def roll_to(self, service: str, revision: str, expect: str) -> None:
        """Put the template of a revision in place of that of `expect`."""
        self._ours(service)
        async with self._turn:
            found = await self._rollable()
            revisions = await self._revisions(found)
            self._still(found, revisions, expect)
            there = next((r for r in revisions if r.name == revision), None)
            if there is None:
                kept = ", ".join(r.name for r in revisions if r.name != expect)
                raise Refused(
                    f"{self.config.workload} keeps no revision {revision}; it has {kept or 'none'}"
                )
            left = "" if noted(found, LEFT) == revision else expect
            await self._api.ask("PUT", self._of(), with_template(found, there.template, left))
            log.info("rolled_to", workload=self.config.workload, before=expect, after=revision)

    async def roll_again(self, service: str, key: str, expect: str) -> None:
        """Have all pods replaced by new ones of the same template, as the workload's own strategy says."""
        self._ours(service)
        async with self._turn:
            await self._no_rollout()
            found = await self._rollable()
            self._still(found, await self._revisions(found), expect)
            template = copy.deepcopy(found["spec"]["template"])
            notes = template.setdefault("metadata", {}).setdefault("annotations", {})
            notes[RESTARTED] = key
            notes[RESTARTED_AT] = datetime.now(UTC).isoformat(timespec="seconds")
            body = with_template(found, template, noted(found, LEFT))
            await self._api.ask("PUT", self._of(), body)
            log.info("rolled_again", workload=self.config.workload)

    async def unblock(self, service: str) -> int:
        """Evict what keeps a rollout from going on: of a stateful set, pods of an earlier template that are not well.

        Its controller waits for them to be well before it replaces them, which those of a bad template never are.
        """
        self._ours(service)
        found = await self._read()
        wanted = (found.get("status") or {}).get("updateRevision")
        if self._kind != "statefulset" or not current(self._kind, found, ()):
            return 0
        evicted = 0
        for pod in await self._pods():
            of = (pod["metadata"].get("labels") or {}).get("controller-revision-hash")
            if of and of != wanted and not ready(pod):
                await self._evict(pod)
                evicted += 1
        return evicted

    async def describe(self) -> Sequence[str]:
        """Say how the workload stands, and what we may do."""
        where = f"{self.config.workload} in namespace {self._api.namespace} of {redacted(self._api.url)}"
        try:
            found = await self._read()
            lines = [
                f"{where}: {_ready_of(found)} of {found.get('spec', {}).get('replicas', 1)} pods are ready"
            ]
            if (scaler := await self._autoscaler()) is not None:
                low, high = (f"{_bound(scaler, name):g}" for name in _BOUNDS)
                lines.append(f"scaled by the autoscaler {named(scaler)} between {low} and {high}")
            rollout = await self.rollout(f"service:{self.config.service}")
            before = await self.earlier(f"service:{self.config.service}")
            lines.append(
                f"rollout {rollout.revision}: {rollout.words}; earlier ones: {', '.join(before[:3]) or 'none'}"
            )
            rights = [
                (verb, group, resource.format(kind=self._kind, history=_HISTORY[self._kind]), sub)
                for verb, group, resource, sub in _RIGHTS
            ]
            return [*lines, *await self._api.lacks(rights, self._api.namespace)]
        except AgentError as problem:
            return (f"{where}: {problem}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    # ---- what there is

    def _ours(self, service: str) -> None:
        if service != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} runs service:{self.config.service}, not {service}: say which with `via:`"
            )

    async def _read(self) -> dict[str, Any]:
        return await self._api.ask("GET", self._of())

    async def _pods(self) -> list[dict[str, Any]]:
        selector = _selector((await self._read()).get("spec", {}).get("selector") or {})
        found = await self._api.items(f"{self._core()}/pods", labelSelector=selector)
        there = [
            p
            for p in found
            if "deletionTimestamp" not in p["metadata"]
            and p.get("status", {}).get("phase") in {"Pending", "Running"}
        ]
        return sorted(there, key=named)

    async def _autoscaler(self) -> dict[str, Any] | None:
        """Return the autoscaler of the workload; None = nobody scales it."""
        found = await self._api.ask(
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

    async def _rollable(self) -> dict[str, Any]:
        """Return the workload; raises Refused where another template would move no pod."""
        found = await self._read()
        spec = found["spec"]
        if spec.get("paused"):
            raise Refused(f"{self.config.workload} is paused: resume it first")
        if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
            raise Refused(
                f"{self.config.workload} replaces no pod by itself (OnDelete): use `restart`, pod by pod"
            )
        return found

    async def _revisions(self, found: Mapping[str, Any]) -> list[Revision]:
        path = f"{self._apis('apps/v1')}/{_HISTORY[self._kind]}"
        selector = _selector(found["spec"].get("selector") or {})
        kept = await self._api.items(path, labelSelector=selector)
        of = of_replica_sets if self._kind == "deployment" else of_controller_revisions
        return of(kept, str(found["metadata"].get("uid", "")))

    def _still(self, found: Mapping[str, Any], revisions: Sequence[Revision], expect: str) -> None:
        now = current(self._kind, found, revisions)
        if now != expect:
            raise Refused(
                f"{self.config.workload} runs revision {now or 'unknown yet'}, not {expect}: changed by others"
            )

    async def _evict(self, pod: Mapping[str, Any]) -> None:
        name = named(pod)
        body = {
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": self._api.namespace},
            "deleteOptions": {"preconditions": {"uid": pod["metadata"]["uid"]}},
        }  # fmt: skip
        await self._api.ask("POST", f"{self._core()}/pods/{quote(name)}/eviction", body)
        log.info("evicted", pod=name)

    async def _until_ready(self, n: int, gone: str = "") -> None:
        end = time.monotonic() + self.config.wait
        while True:
            try:
                found = await self._read()
                # the status is what its controller has seen, which may be less than has happened: the pods count, too
                pods = {str(p["metadata"]["uid"]): ready(p) for p in await self._pods()}
            except (
                Unavailable
            ) as blind:  # it is asked for, so this is no time to say that nothing happened
                how = f"pods of {self.config.workload} can not be seen ({blind})"
            else:
                there = int((found.get("status") or {}).get("replicas", 0))
                well = min(_ready_of(found), sum(pods.values()))
                if well == n == there and gone not in pods:
                    return
                how = f"{well} of {n} pods of {self.config.workload} are ready"
            if time.monotonic() > end:
                raise Uncertain(f"{how} after {say_duration(self.config.wait)}; see its events")
            await asyncio.sleep(_LOOK_S)

    # ---- the API server

    def _of(self) -> str:
        return f"{self._apis('apps/v1')}/{self._kind}s/{quote(self._workload)}"

    def _core(self) -> str:
        return f"api/v1/namespaces/{quote(self._api.namespace)}"

    def _apis(self, group: str) -> str:
        return f"apis/{group}/namespaces/{quote(self._api.namespace)}"


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


def _ready_of(workload: Mapping[str, Any]) -> int:
    return int((workload.get("status") or {}).get("readyReplicas", 0))
