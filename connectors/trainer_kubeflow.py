"""Trains by a run of Kubeflow Pipelines, version 2 (its REST interface v2beta1).

    trainer_kubeflow:
      model: scoring
      url: http://ml-pipeline.kubeflow:8888
      pipeline: 9b187b86-7c0a-42ae-a0bc-2a746b6eb7a3
      version: d5b1d6a8-1f4f-4d6b-8e3b-5a9a5b8f3f0e
      parameters: {days: 7, key: '{key}', mlflow_run: '{mlflow_run}'}
      mlflow: {url: http://mlflow:5000}

The run is called after model and key, and found again by that name: v2beta1 knows no key of its own. Its interface
does not hand out what a component has put out, so the report is an MLflow run, or a file behind HTTP (`report`).
Source (read, then told in our own words): kubeflow/pipelines, backend/api/v2beta1 (run, filter).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import quote, urlencode

from pydantic import AfterValidator, Field, model_validator

from agent.errors import Unavailable, Uncertain
from agent.registry import connector
from agent.secret import Headers, Reference, secret
from connectors._elsewhere import Elsewhere, ElsewhereConfig, Look, filled, label_of, read
from connectors.http import Door, Method, checked_base, checked_url, redacted, trusting

_FAILED: Final = frozenset({"FAILED", "CANCELED", "SKIPPED"})


@connector("trainer_kubeflow")
class TrainerKubeflow(Elsewhere):
    """A pipeline of Kubeflow Pipelines that trains.

    Ability  Trainer (see playbooks/actions/retrain.py)
    Known only from its interface definition: `stand_in`.
    """

    tested = "stand-in of the interface v2beta1"
    stand_in = True

    class Config(ElsewhereConfig):
        """Which pipeline, and where."""

        url: Annotated[str, AfterValidator(checked_base)]
        pipeline: Annotated[str, Field(min_length=1)]
        """Its id."""
        version: str = ""
        """Id of the version; empty = the newest."""
        experiment: str = ""
        """Id of the experiment; empty = the default one."""
        namespace: str = ""
        """Where several teams share it."""
        service_account: str = ""
        parameters: dict[str, Any] = {}
        """`{key}`, `{model}`, `{mlflow_run}` and `{mlflow_uri}` are filled in."""
        report: Annotated[str, AfterValidator(lambda u: checked_url(u) if u else u)] = ""
        """Where the report is read when there is no `mlflow`: `https://.../{run}.json`."""
        token: Reference = ""
        """Of a bearer token."""
        headers: Headers = {}
        """`kubeflow-userid: ops@example.org`; values may be references."""
        ca: Path | None = None

        @model_validator(mode="after")
        def _reported(self) -> Self:
            if bool(self.report) == (self.mlflow is not None):
                raise ValueError("say where the report is: `mlflow` or `report`")
            if self.report and "{run}" not in self.report:
                raise ValueError("`report` must say {run}: whose it is")
            return self

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        door = Door(trust=trusting(config.ca) if config.ca else None)
        super().__init__(name, config, state, door)
        self.config = config

    async def _start(self, key: str, variables: Mapping[str, str]) -> str:
        c = self.config
        pipeline = {"pipeline_id": c.pipeline, "pipeline_version_id": c.version}
        run = {
            "display_name": label_of(c.model, key), "description": f"homeostat, step {key}",
            "experiment_id": c.experiment,
            "pipeline_version_reference": {k: v for k, v in pipeline.items() if v},
            "runtime_config": {"parameters": filled(c.parameters, variables)}, "service_account": c.service_account,
        }  # fmt: skip
        made = await self._json("POST", "", {k: v for k, v in run.items() if v})
        if not made.get("run_id"):
            raise Uncertain(f"{redacted(c.url)} gave no run_id; look whether the run is there")
        return str(made["run_id"])

    async def _again(self, key: str) -> str | None:
        c = self.config
        name = {
            "operation": "EQUALS",
            "key": "display_name",
            "string_value": label_of(c.model, key),
        }
        asked = {
            "filter": json.dumps({"predicates": [name]}), "experiment_id": c.experiment, "namespace": c.namespace,
            "sort_by": "created_at asc", "page_size": "10",
        }  # fmt: skip
        found = await self._json("GET", "?" + urlencode({k: v for k, v in asked.items() if v}))
        # the filter is theirs, the name is ours: a server that does not know it gives others, too
        runs = [r for r in found.get("runs") or () if r.get("display_name") == label_of(c.model, key)]  # fmt: skip
        return str(runs[0].get("run_id")) if runs else None

    async def _look(self, run: str) -> Look:
        said = await self._json("GET", f"/{quote(run, safe='')}", fine=frozenset({404}))
        state = str(said.get("state", ""))
        if not said:
            return Look("failed", "it is not there any more")
        if state == "SUCCEEDED":
            return Look("succeeded")
        if state in _FAILED:
            words = str((said.get("error") or {}).get("message") or "")
            return Look("failed", words[:200] or f"it is {state.lower()}")
        return Look("runs")

    async def _report(self, run: str) -> Any:
        url = self.config.report.replace("{run}", quote(run, safe=""))
        return (await self._ask("GET", url, headers=self._headers())).body

    async def _end(self, run: str) -> None:
        await self._json("POST", f"/{quote(run, safe='')}:terminate", fine=frozenset({400, 404, 409}))  # fmt: skip

    def _used(self) -> Mapping[str, Any]:
        c = self.config
        code = f"pipeline {c.pipeline}" + (f", version {c.version}" if c.version else "")
        return {"code": code, "params": c.parameters}

    async def _seen(self) -> str:
        await self._json("GET", "?page_size=1")
        return f"Kubeflow Pipelines at {redacted(self.config.url)}; would run pipeline {self.config.pipeline}"

    def _headers(self) -> dict[str, str]:
        token = {"authorization": f"Bearer {secret(self.config.token)}"} if self.config.token else {}  # fmt: skip
        return {**self.config.headers, **token}

    async def _json(
        self,
        method: Method,
        path: str,
        body: Mapping[str, Any] | None = None,
        fine: frozenset[int] = frozenset(),
    ) -> dict[str, Any]:
        """Return the answer; {} for a status that is `fine`."""
        url = f"{self.config.url.rstrip('/')}/apis/v2beta1/runs{path}"
        headers = self._headers()
        if body is not None:
            headers["content-type"] = "application/json"
        sent = None if body is None else json.dumps(body).encode()
        answer = await self._ask(method, url, headers=headers, body=sent, fine=fine)
        if not answer.ok:
            return {}
        found = read(answer) if answer.body else {}
        if not isinstance(found, dict):
            raise Unavailable(f"{method} {redacted(url)}: the answer is no JSON; see `url`")
        return found
