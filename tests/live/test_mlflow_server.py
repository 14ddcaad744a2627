"""A real MLflow server: aliases, tags and runs as it keeps them, and trainings that its own client logs to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from daemon_process import free_port, wait_for
from mlflow_side import People

from agent.errors import Refused
from agent.ports import Step
from agent.testing import Stage, check_action, check_source
from connectors.mlflow import MlflowModels
from connectors.trainer import Trainer
from playbooks.actions import models
from playbooks.actions.retrain import Retrain

pytestmark = pytest.mark.live


def patient(**more):
    """Return settings of the connector that wait for a server beside other tests, on two cores."""
    return MlflowModels.Config(timeout=30.0, **more)


BIN = Path(__file__).resolve().parents[2] / "build" / "outside" / "bin"
BY = "homeostat:run-1"


@pytest.fixture(scope="module")
def url(needs, tmp_path_factory):
    """Start one server for all tests of this module: that alone takes some ten seconds."""
    python = needs(str(BIN / "python"))
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [python, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/ml.db",
             "--artifacts-destination", folder / "art", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
    where = f"http://127.0.0.1:{port}"
    try:
        wait_for("MLflow", lambda: urllib.request.urlopen(f"{where}/health").status == 200, 120)
        yield where
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait(10)


def fraud(url: str, model: str) -> People:
    people = People(url)
    people.fraud(model)
    return people


async def planned(act, use: str, model: str) -> Step:
    step = Step("run-1/step", use, f"model:{model}", {}, facts={"feature": "area"}, by=BY)
    return dataclasses.replace(step, before=json.loads(json.dumps(await act.observe(step))))


async def test_what_people_do_there_is_seen(url, tmp_path):
    people = fraud(url, "seen")
    one = MlflowModels("mlflow", patient(url=url, models=["seen"]), state=tmp_path)
    frame = await one.poll()
    assert frame.changes == ()
    told = {s.entity.id: dict(s.attrs) for s in frame.seen}
    assert told["version:seen/3"]["accuracy"] == "0.9300"
    roles = [v.role for v in await one.versions("seen")]
    assert roles == ["candidate"] * 3 + ["backup"] * 2 + ["candidate"]
    version = people.register("seen", people.run("seen-training", 0.7, trees="5"))
    people.point("seen", version)
    registered, moved = (await one.poll()).changes
    assert registered.after == f"version {version}"
    assert (moved.kind, moved.before, moved.after, moved.by) == ("release", "3", version, "")
    assert moved.text == 'code c0ffee; params {"trees": "5"}'
    assert (await one.poll()).changes == ()
    with pytest.raises(Refused, match="there is no model ghost"):
        await one.champion("ghost")
    with pytest.raises(Refused, match="has no version 99"):
        await one.promote("seen", "99", version, BY)
    said = " ".join(await one.describe())
    assert "MLflow 3." in said
    assert f"model:seen: version {version} answers" in said
    await one.close()


async def test_without_names_every_model_with_the_alias_is_watched(url, tmp_path):
    people = fraud(url, "watched")
    people.register("unwatched")
    one = MlflowModels("mlflow", patient(url=url), state=tmp_path)
    found = {s.entity.key for s in (await one.poll()).series}
    assert "watched" in found
    assert "unwatched" not in found
    await one.close()


async def test_a_model_that_has_only_stages_is_told_to_take_an_alias(url, tmp_path):
    people = People(url)
    people.register("staged")
    people.stage("staged", "1", "Production")
    one = MlflowModels("mlflow", patient(url=url, alias="nobody"), state=tmp_path)
    (said,) = (line for line in await one.describe() if line.startswith("model:staged"))
    assert said.startswith(
        "model:staged: Production is version 1, but MLflow has deprecated stages"
    )
    assert said.endswith("set the alias on the one that serves, and load `models:/staged@nobody`")
    assert not (await one.poll()).series
    named = MlflowModels("mlflow", patient(url=url, models=["staged"]), state=tmp_path)
    with pytest.raises(Refused, match="no version of staged has the alias champion: Production is"):
        await named.champion("staged")
    await one.close()
    await named.close()


async def test_the_source_keeps_its_contract(url, tmp_path):
    fraud(url, "contract")
    folders = iter(range(100))

    def make() -> MlflowModels:
        settings = patient(url=url, models=["contract"])
        return MlflowModels("mlflow", settings, state=tmp_path / str(next(folders)))

    faults = [await c.fault() for c in check_source(make, name="mlflow", close=lambda s: s.close())]
    assert [f for f in faults if f] == []


@pytest.mark.parametrize("use", ["roll_back", "promote", "deploy_backup", "hold_retraining"])
async def test_verbs_keep_their_contract(url, tmp_path, use):
    numbers = iter(range(100))
    cls, params = {
        "roll_back": (models.RollBack, {"to": "2"}), "promote": (models.Promote, {"version": "2"}),
        "deploy_backup": (models.DeployBackup, {}), "hold_retraining": (models.HoldRetraining, {"reason": "bad"}),
    }[use]  # fmt: skip

    @contextlib.asynccontextmanager
    async def stage():
        model = f"{use}-{next(numbers)}"
        people = People(url)
        for features in ("age,area", "age,area", "age,area", "age"):
            people.register(model, role="backup" if features == "age" else "", features=features)
        people.point(model, "3")
        made = []

        def connector():
            made.append(MlflowModels("mlflow", patient(url=url, models=[model])))
            return made[-1]

        def again():
            return cls(cls.Params(**params), connector())

        one = connector()

        async def world():
            hold = await one.retraining_held(model)
            return people.pointer(model), hold and hold.by

        async def disturb():
            people.point(model, "1")

        async def hold_themselves():
            await one.release_retraining(model, BY)
            await one.hold_retraining(model, "we look at it", "alice")

        step = Step("run-1/step", use, f"model:{model}", {}, facts={"feature": "area"}, by=BY)
        holds = use == "hold_retraining"
        yield Stage(
            again(), step, world, None if holds else disturb,
            meddle=hold_themselves if holds else None, again=again,
        )  # fmt: skip
        for each in made:
            await each.close()

    faults = [await c.fault() for c in check_action(stage)]
    assert [f for f in faults if f] == []


async def test_a_release_by_a_person_is_rolled_back_and_forth(url, tmp_path):
    people = fraud(url, "rolled")
    one = MlflowModels("mlflow", patient(url=url, models=["rolled"]), state=tmp_path)
    await one.poll()
    people.point("rolled", "1")
    await one.poll()
    act = models.RollBack(models.RollBack.Params(), one)
    step = await planned(act, "roll_back", "rolled")
    assert step.before["goal"] == "3"
    done = await act.run(step)
    assert people.pointer("rolled") == "3"
    (moved,) = (await one.poll()).changes
    assert moved.by == BY
    again = MlflowModels("mlflow", one.config)  # killed, its state lost: the tag knows
    assert (await again.champion("rolled")).by == BY
    await models.RollBack(models.RollBack.Params(), again).undo(step, done.undo)
    assert people.pointer("rolled") == "1"
    await one.close()
    await again.close()


TRAINS = textwrap.dedent(
    """
    import os, mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    asked = os.environ["MLFLOW_RUN_ID"]  # the client takes it out
    with mlflow.start_run() as run:
        assert run.info.run_id == asked
        mlflow.log_params({"trees": 60})
        mlflow.log_metrics({"holdback.rows": 200, "holdback.champion_only": 5, "holdback.challenger_only": 25,
                            "holdback.champion.accuracy": 0.775, "holdback.challenger.accuracy": 0.875})
        mlflow.set_tag("mlflow.source.git.commit", "c0ffee")
        signature = ModelSignature(inputs=Schema([ColSpec("double", "age"), ColSpec("string", "area")]))
        Model(signature=signature).save("MLmodel")
        mlflow.log_artifact("MLmodel", "model")
        mlflow.MlflowClient().create_model_version(
            os.environ["HOMEOSTAT_MODEL"], run.info.artifact_uri + "/model", run.info.run_id, {"role": "backup"})
    """
)


async def test_a_training_logs_to_its_run_and_the_challenger_is_promoted(url, tmp_path):
    people = fraud(url, "trained")
    config = Trainer.Config(
        model="trained", command=[str(BIN / "python"), "-c", TRAINS], timeout=120, workdir=tmp_path,
        mlflow={"url": url, "experiment": "retraining"},
    )  # fmt: skip
    trainer = Trainer("trainer", config, state=tmp_path)
    act = Retrain(Retrain.Params(), trainer)
    step = await planned(act, "retrain", "trained")
    done = await act.run(step)
    assert done.values["version"] == "7"
    assert done.values["used"] == {"data": None, "code": "c0ffee", "params": {"trees": "60"}}
    again = Trainer("trainer", config, state=tmp_path / "lost")  # found by its key
    assert (await Retrain(Retrain.Params(), again).run(step)).values == done.values
    assert "answers nobody" in act.stays
    one = MlflowModels("mlflow", patient(url=url, models=["trained"]))
    promote = models.Promote(models.Promote.Params(version=done.values["version"]), one)
    await promote.run(await planned(promote, "promote", "trained"))
    assert people.pointer("trained") == "7"
    newest = (await one.versions("trained"))[-1]
    assert (newest.role, newest.features) == ("backup", ("age", "area"))  # by its signature
    await one.hold_retraining("trained", "bad data", BY)
    with pytest.raises(Refused, match="retraining of trained is held: bad data"):
        await again.train("trained", "run-2/train")
    for each in (trainer, again, one):
        await each.close()


@pytest.mark.parametrize(
    ("code", "how"), [("raise SystemExit(3)", "ended with status 3"), ("pass", "without a report")]
)
async def test_a_training_that_leaves_its_run_open_has_it_ended(url, tmp_path, code, how):
    config = Trainer.Config(
        model="broken", command=[sys.executable, "-c", code], timeout=60,
        mlflow={"url": url, "experiment": "retraining"},
    )  # fmt: skip
    trainer = Trainer("trainer", config, state=tmp_path)
    key = f"run-{how}/train"
    with pytest.raises(Refused, match=how):
        await trainer.train("broken", key)
    assert trainer._runs is not None
    run = await trainer._runs._find(key)
    assert run is not None
    assert run["info"]["status"] == "FAILED"
    await trainer.close()
