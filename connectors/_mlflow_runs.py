"""A run of MLflow for each training: made before it starts, found again by the key of the step, read for its report.

What the training logs becomes the report of playbooks/actions/retrain.py:

    metrics   holdback.rows, holdback.champion.accuracy, holdback.challenger.accuracy (or .loss of both),
              holdback.challenger_only, holdback.champion_only          -> holdback
    a version of the model, registered from the run                     -> version
    datasets, the git commit (else the script), parameters              -> data, code, params
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from agent.errors import Refused, Unavailable, Uncertain
from connectors._mlflow import (
    HELD_TAG,
    KEY_TAG,
    Access,
    Missing,
    Mlflow,
    by_key,
    numbers,
    read_hold,
    run_of,
    tag_of,
    used,
)
from connectors._versions import natural

_COUNTS: Final = ("rows", "challenger_only", "champion_only")
_SCORES: Final = ("champion", "challenger")

Ended = Literal["FINISHED", "FAILED", "KILLED"]


class RunsAt(Access):
    """Where the runs are."""

    experiment: Annotated[str, Field(min_length=1)] = "homeostat"
    """Made when it is not there."""


class Runs:
    """The runs of one experiment."""

    def __init__(self, config: RunsAt) -> None:
        self._config = config
        self._server = Mlflow(config)
        self._experiment = ""

    async def open(self, model: str, key: str) -> Mapping[str, str]:
        """Return how a training gets to its run, which is made when it is not there; raises Unavailable, Refused."""
        try:
            run = await self._find(key) or await self._create(model, key)
        except Uncertain as lost:  # it is found by its key at the next try
            raise Unavailable(str(lost)) from None
        return {
            "MLFLOW_TRACKING_URI": self._server.base, "MLFLOW_RUN_ID": str(run["info"]["run_id"]),
            "MLFLOW_EXPERIMENT_NAME": self._config.experiment,
        }  # fmt: skip

    async def report(self, model: str, key: str) -> dict[str, Any] | None:
        """Return what a run tells; None when there is no run, it has failed, or no version was registered from it."""
        run = await self._find(key)
        if run is None or run["info"].get("status") in {"FAILED", "KILLED"}:
            return None
        run_id = str(run["info"]["run_id"])
        found = await self._server.pages(
            "model-versions/search", "model_versions", 100, filter=f"run_id='{run_id}'"
        )
        made = [str(v["version"]) for v in found if v.get("name") == model]
        if not made:
            return None
        metrics = numbers((run.get("data") or {}).get("metrics"))
        holdback = _holdback(metrics)
        return {
            "version": max(made, key=natural), "run": run_id, **used(run),
            **({"holdback": holdback} if holdback else {}),
        }  # fmt: skip

    async def end(self, key: str, status: Ended) -> None:
        """Say how a run has ended, unless it says so itself; a server that does not answer is not waited for."""
        try:
            run = await self._find(key)
            if run is not None and run["info"].get("status") in {"RUNNING", "SCHEDULED"}:
                await self._server.post(
                    "runs/update", run_id=run["info"]["run_id"], status=status, end_time=_now()
                )
        except (Unavailable, Refused, Uncertain):
            return

    async def held(self, model: str) -> str:
        """Return why retraining is held in the registry; "" = it is not."""
        try:
            found = await self._server.get("registered-models/get", name=model)
        except Missing:
            return ""  # its first version is still to come
        text = by_key((found.get("registered_model") or {}).get("tags")).get(HELD_TAG)
        return "" if text is None else read_hold(text)[0]

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _find(self, key: str) -> dict[str, Any] | None:
        runs = await self._server.runs(await self._of_experiment(), key)
        return runs[0] if runs else None

    async def _create(self, model: str, key: str) -> dict[str, Any]:
        tags = {KEY_TAG: tag_of(key), "homeostat.model": model, "mlflow.source.type": "JOB"}
        made = await self._server.post(
            "runs/create", experiment_id=await self._of_experiment(), start_time=_now(),
            run_name=f"{model} {key}", tags=[{"key": k, "value": v} for k, v in tags.items()],
        )  # fmt: skip
        return run_of(made.get("run"))

    async def _of_experiment(self) -> str:
        if not self._experiment:
            name = self._config.experiment
            try:
                found = await self._server.get("experiments/get-by-name", experiment_name=name)
                made = found.get("experiment") or {}
            except Missing:
                made = await self._server.post("experiments/create", name=name)
            self._experiment = str(made.get("experiment_id") or "")
            if not self._experiment:
                raise Refused("the answer has no experiment; is `url` MLflow's?")
        return self._experiment


def _holdback(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return what the gate of `retrain` judges, as far as it was logged."""
    out: dict[str, Any] = {
        name: int(metrics[f"holdback.{name}"])
        for name in _COUNTS
        if metrics.get(f"holdback.{name}", 0.5).is_integer()
    }
    for name in _SCORES:
        told = {
            measure: value
            for measure in ("accuracy", "loss")
            if (value := metrics.get(f"holdback.{name}.{measure}")) is not None
        }
        if told:
            out[name] = told
    return out


def _now() -> int:
    return int(time.time() * 1000)
