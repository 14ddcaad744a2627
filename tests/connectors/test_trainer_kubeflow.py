"""What only Kubeflow Pipelines have: the run that is made, as the interface definition wants it."""

import asyncio

import pytest
from pydantic import ValidationError
from training_side import KubeflowSide, running, until

from agent.errors import Refused
from connectors._elsewhere import label_of
from connectors.trainer_kubeflow import TrainerKubeflow

KEY = "run-1/train"


@pytest.fixture
def side():
    with running(KubeflowSide()) as made:
        yield made


async def test_the_run_that_is_made(side, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN", "tok-canary-77")
    config = TrainerKubeflow.Config(
        model="fraud", every=0.02, **side.config(), experiment="e1", service_account="trainer",
        token="env:KFP_TOKEN", headers={"kubeflow-userid": "ops@example.org"},
    )  # fmt: skip
    one = TrainerKubeflow("trainer", config, state=tmp_path)
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    (run,) = side.runs.values()
    assert run["body"] == {
        "display_name": label_of("fraud", KEY), "description": f"homeostat, step {KEY}", "experiment_id": "e1",
        "pipeline_version_reference": {"pipeline_id": side.PIPELINE, "pipeline_version_id": side.VERSION},
        "runtime_config": {"parameters": {"key": KEY, "days": 7}}, "service_account": "trainer",
    }  # fmt: skip
    assert side.headers[-1]["authorization"] == "Bearer tok-canary-77"
    assert side.headers[-1]["kubeflow-userid"] == "ops@example.org"
    side.finish()
    report = (await task).report
    assert report["code"] == f"pipeline {side.PIPELINE}, version {side.VERSION}"
    await one.close()


async def test_what_it_does_not_take_is_said(side, tmp_path):
    config = {**side.config(), "version": "another"}
    one = TrainerKubeflow(
        "trainer", TrainerKubeflow.Config(model="fraud", **config), state=tmp_path
    )
    with pytest.raises(Refused, match=r"400, .*Invalid input"):
        await one.train("fraud", KEY)
    await one.close()


def test_a_report_must_come_from_somewhere(side):
    for report in ("", "http://reports.example.org/all.json"):
        with pytest.raises(ValidationError, match="report"):
            TrainerKubeflow.Config(model="fraud", **{**side.config(), "report": report})
