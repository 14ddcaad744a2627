"""Trains by a Job of Kubernetes (batch/v1): from a CronJob that is there, or from a Job that is written here.

    trainer_kubernetes:
      model: scoring
      cronjob: retrain-scoring          # or `job:` with the spec of a Job
      kubeconfig: /etc/homeostat/kubeconfig

The Job is called after model and key, so that a second one of the same key can not be made: the API server says no. Its
containers get HOMEOSTAT_KEY, HOMEOSTAT_MODEL and, with `mlflow`, MLFLOW_TRACKING_URI and MLFLOW_RUN_ID; without
`mlflow` the last line that a successful pod has printed is the report. `limit` is its activeDeadlineSeconds, too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import quote, urlencode

from pydantic import Field, model_validator

from agent.errors import Refused, Unavailable
from agent.registry import connector
from connectors._elsewhere import Elsewhere, ElsewhereConfig, Look, label_of, read
from connectors._kube_api import ApiDoor
from connectors._kubernetes import Access
from connectors._trained import MOST_REPORT_BYTES
from connectors.http import Answer, Method, redacted

_KEY: Final = "homeostat/key"
_KEPT_S: Final = 86_400


@connector("trainer_kubernetes")
class TrainerKubernetes(Elsewhere):
    """A Job of Kubernetes that trains.

    Ability  Trainer (see playbooks/actions/retrain.py)
    Takes a role in its namespace: create, get and delete jobs, get cronjobs, list pods, get pods/log.
    Tested against kmock, whose objects are checked with the schemas of Kubernetes: `stand_in`.
    """

    tested = "stand-in: kmock; all objects pass the strict schemas of Kubernetes 1.30"
    stand_in = True

    class Config(Access, ElsewhereConfig):
        """Which Job, and where."""

        cronjob: str = ""
        """A CronJob whose template is used, as `kubectl create job --from` does; it may be suspended."""
        job: dict[str, Any] = {}
        """Spec of a Job."""
        container: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = ""
        """Whose last line is the report; empty = the only one."""

        @model_validator(mode="after")
        def _one(self) -> Self:
            if bool(self.cronjob) == bool(self.job):
                raise ValueError("say what is run: `cronjob` or `job`")
            return self

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self._api = ApiDoor(config)
        super().__init__(name, config, state, self._api)
        self.config = config

    async def _start(self, key: str, variables: Mapping[str, str]) -> str:
        job = await self._manifest(key, variables)
        name = str(job["metadata"]["name"])
        answer = await self._send("POST", "batch", "jobs", job, fine=frozenset({409}))
        if not answer.ok and await self._again(key) is None:
            raise Refused(f"there is a Job {name} already, and it is not ours: remove it")
        return name

    async def _manifest(self, key: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the Job of a key."""
        labels: dict[str, str] = {}
        if self.config.cronjob:
            path = f"cronjobs/{quote(self.config.cronjob, safe='')}"
            template = (await self._object("batch", path)).get("spec", {}).get("jobTemplate", {})
            if not template.get("spec"):
                raise Refused(f"the CronJob {self.config.cronjob} has no jobTemplate; see `url`")
            spec = dict(template["spec"])
            labels = dict((template.get("metadata") or {}).get("labels") or {})
        else:
            spec = copy.deepcopy(self.config.job)
        pod = spec.setdefault("template", {}).setdefault("spec", {})
        for container in pod.get("containers") or ():
            env = [e for e in container.get("env") or () if e.get("name") not in variables]
            container["env"] = env + [{"name": n, "value": v} for n, v in sorted(variables.items())]
        # a Job that may try again by itself would train more than once for one key
        spec["backoffLimit"] = 0
        pod["restartPolicy"] = "Never"
        limit = max(1, int(self.config.limit))
        spec["activeDeadlineSeconds"] = min(int(spec.get("activeDeadlineSeconds", limit)), limit)
        spec["suspend"] = False
        if "ttlSecondsAfterFinished" in spec:  # whoever was down for hours must still find it
            spec["ttlSecondsAfterFinished"] = max(int(spec["ttlSecondsAfterFinished"]), _KEPT_S)
        return {
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": label_of(self.config.model, key), "namespace": self._api.namespace,
                "labels": {**labels, "app.kubernetes.io/managed-by": "homeostat"},
                "annotations": {_KEY: key},
            },
            "spec": spec,
        }  # fmt: skip

    async def _again(self, key: str) -> str | None:
        name = label_of(self.config.model, key)
        answer = await self._send("GET", "batch", f"jobs/{name}", fine=frozenset({404}))
        if not answer.ok:
            return None
        notes = _read(answer).get("metadata", {}).get("annotations") or {}
        return name if notes.get(_KEY) == key else None

    async def _look(self, run: str) -> Look:
        answer = await self._send("GET", "batch", f"jobs/{run}", fine=frozenset({404}))
        if not answer.ok:
            return Look("failed", "the Job is not there any more")
        status = _read(answer).get("status") or {}
        for condition in status.get("conditions") or ():
            if condition.get("status") != "True":
                continue
            if condition.get("type") == "Complete":
                return Look("succeeded")
            if condition.get("type") == "Failed":
                said = (condition.get("reason"), condition.get("message"))
                return Look("failed", ": ".join(str(s) for s in said if s)[:200])
        return Look("runs")

    async def _report(self, run: str) -> Any:
        found = await self._object("", "pods?" + urlencode({"labelSelector": f"job-name={run}"}))
        done = [
            p["metadata"]["name"]
            for p in found.get("items") or ()
            if (p.get("status") or {}).get("phase") == "Succeeded"
        ]
        if not done:
            return None
        asked = {"tailLines": "1", "limitBytes": str(MOST_REPORT_BYTES)}
        if self.config.container:
            asked["container"] = self.config.container
        answer = await self._send("GET", "", f"pods/{done[-1]}/log?{urlencode(asked)}")
        return answer.body.rstrip().rpartition(b"\n")[2]

    async def _end(self, run: str) -> None:
        """Delete the Job; its pods are ended with it."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        await self._send("DELETE", "batch", f"jobs/{run}", body, fine=frozenset({404}))

    def _used(self) -> Mapping[str, Any]:
        if self.config.cronjob:
            return {"code": f"cronjob {self._api.namespace}/{self.config.cronjob}"}
        pod = (self.config.job.get("template") or {}).get("spec") or {}
        images = [str(c.get("image", "")) for c in pod.get("containers") or ()]
        args = [[*(c.get("command") or ()), *(c.get("args") or ())] for c in pod.get("containers") or ()]  # fmt: skip
        return {"code": ", ".join(images), "params": args}

    async def _seen(self) -> str:
        where = f"{redacted(self._api.url)}, namespace {self._api.namespace}"
        if not self.config.cronjob:
            # none that there is: our role need not list
            path = f"jobs/{label_of(self.config.model, '')}"
            _read(await self._send("GET", "batch", path, fine=frozenset({404})))
            return f"would make a Job at {where}"
        await self._object("batch", f"cronjobs/{quote(self.config.cronjob, safe='')}")
        return f"would make a Job of the CronJob {self.config.cronjob} at {where}"

    async def _object(self, group: str, path: str) -> dict[str, Any]:
        return _read(await self._send("GET", group, path))

    async def _send(
        self,
        method: Method,
        group: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        fine: frozenset[int] = frozenset(),
    ) -> Answer:
        api = f"apis/{group}/v1" if group else "api/v1"
        url = f"{self._api.url}/{api}/namespaces/{quote(self._api.namespace, safe='')}/{path}"
        headers = {"content-type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        return await self._ask(method, url, headers=headers, body=sent, fine=fine)


def _read(answer: Answer) -> dict[str, Any]:
    found = read(answer)
    if not isinstance(found, dict):
        raise Unavailable("the API server answers no JSON; see `url` or `kubeconfig`")
    return found
