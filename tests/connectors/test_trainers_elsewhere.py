"""Trainings that run elsewhere: the same behaviours for each of the three, over stand-ins."""

import asyncio
import contextlib
import json

import pytest
from mlflow_side import People, stand_in
from training_side import REPORT, HttpSide, KubeflowSide, KubernetesSide, running, until

from agent import registry
from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Abilities, Step
from agent.testing import Stage, check_action
from connectors._elsewhere import label_of
from playbooks.actions.retrain import Retrain, Trainer

KEY = "run-1/train"
SIDES = (HttpSide, KubeflowSide, KubernetesSide)


@pytest.fixture(params=SIDES, ids=lambda s: s.use)
def side(request):
    with running(request.param()) as made:
        yield made


@pytest.fixture
async def make(side, tmp_path):
    made = []

    def one(folder: str = "state", **more):
        cls = registry.connector.get(side.use)
        config = {"model": "fraud", "every": 0.02, "timeout": 2, **side.config(), **more}
        made.append(cls("trainer", cls.Config(**config), state=tmp_path / folder))
        return made[-1]

    yield one
    for each in made:
        await each.close()


async def trained(side, one, key: str = KEY):
    task = asyncio.create_task(one.train("fraud", key))
    await until(lambda: any(r["key"] == key for r in side.runs.values()))
    side.finish()
    return await task


async def test_it_runs_once_per_key(side, make):
    one = make()
    assert isinstance(one, Trainer)
    assert isinstance(one, Abilities)
    assert await one.find(KEY) is None
    first = await trained(side, one)
    assert first.version == "4"
    assert first.report["holdback"] == REPORT["holdback"]
    for again in (one, make()):  # also after a restart
        assert await again.find(KEY) == first
        assert await again.train("fraud", KEY) == first
    assert len(side.runs) == 1
    await trained(side, one, "run-2/train")
    assert len(side.runs) == 2


async def test_what_was_used_is_told_for_the_journal(side, make):
    act = Retrain(Retrain.Params(), make())
    step = Step(KEY, "retrain", "model:fraud", {}, by="homeostat:run-1")
    task = asyncio.create_task(act.run(step))
    await until(lambda: side.runs)
    side.finish()
    done = await task
    assert done.values["version"] == "4"
    assert done.values["used"]["code"]
    side.runs.clear()
    assert act.reached(step, await act.observe(step))


async def test_the_other_side_can_say_what_was_used(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    side.finish({**REPORT, "code": "c0ffee", "data": {"rows": 7}})
    report = (await task).report
    assert (report["code"], report["data"]) == ("c0ffee", {"rows": 7})


async def test_a_challenger_that_is_not_better_is_refused_by_the_gate(side, make):
    act = Retrain(Retrain.Params(alpha=1e-9), make())
    step = Step(KEY, "retrain", "model:fraud", {}, by="homeostat:run-1")
    task = asyncio.create_task(act.run(step))
    await until(lambda: side.runs)
    side.finish()
    with pytest.raises(Refused, match="not proven better"):
        await task


async def test_a_restart_follows_the_run_that_it_finds(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: one._once.find(KEY).get("run"))
    task.cancel()
    await one.close()  # killed: what is on disk stays
    again = make()
    assert await again.find(KEY) is None  # it runs still
    assert (await trained(side, again)).version == "4"
    assert len(side.runs) == 1


async def test_a_run_that_ended_while_nobody_looked_is_found(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: one._once.find(KEY).get("run"))
    task.cancel()
    await one.close()
    side.finish()
    assert (await make().find(KEY)).version == "4"


async def test_a_lost_state_does_not_train_twice(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    task.cancel()
    await one.close()
    assert (await trained(side, make("elsewhere"))).version == "4"
    assert len(side.runs) == 1


async def test_a_start_whose_answer_was_lost_is_found_by_its_key(side, make):
    one = make()
    side.lose = True
    with pytest.raises(Uncertain):
        await one.train("fraud", KEY)
    side.lose = False
    assert await one.find(KEY) is None
    assert (await trained(side, one)).version == "4"
    assert len(side.runs) == 1


async def test_two_at_once_of_one_key_are_one_and_another_key_waits(side, make):
    one = make()
    first, second = (asyncio.create_task(one.train("fraud", KEY)) for _ in range(2))
    await until(lambda: side.runs)
    with pytest.raises(Unavailable, match="being trained already"):
        await one.train("fraud", "run-2/train")
    side.finish()
    assert (await first) == (await second)


async def test_what_failed_stays_failed_and_says_why(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    side.fail("no rows")
    with pytest.raises(Refused, match=r"failed: .*no rows"):
        await task
    with pytest.raises(Refused, match=r"failed: .*no rows"):
        await make().train("fraud", KEY)
    assert await one.find(KEY) is None
    assert len(side.runs) == 1


async def test_what_takes_too_long_is_ended(side, make):
    one = make(limit=0.3)
    with pytest.raises(Refused, match=r"took longer than .* and was ended"):
        await one.train("fraud", KEY)
    assert len(side.ended) == 1
    with pytest.raises(Refused, match="took longer"):
        await make().train("fraud", KEY)


async def test_what_can_not_be_ended_is_uncertain(side, make):
    side.endless = True
    with pytest.raises(Uncertain, match="could not be ended"):
        await make(limit=0.3).train("fraud", KEY)
    side.finish()  # it ended by itself after all
    assert (await make().find(KEY)).version == "4"


async def test_a_training_can_be_called_off(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: one._once.find(KEY).get("run"))
    await one.cancel(KEY)
    assert len(side.ended) == 1
    with pytest.raises(Refused):
        await task
    with pytest.raises(Refused, match="ended"):
        await make().train("fraud", KEY)
    await one.cancel("never-began")


async def test_while_the_other_side_is_away_it_waits(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: one._once.find(KEY).get("run"))
    for status in (503, 401, 500):
        side.status = status
        await asyncio.sleep(0.05)
        assert not task.done()
    side.status = 0
    side.finish()
    assert (await task).version == "4"


async def test_a_start_that_is_refused_has_not_begun(side, make):
    one = make()
    for status, error in ((503, Unavailable), (403, Refused)):
        side.status = status
        with pytest.raises(error):
            await one.train("fraud", KEY)
    side.status = 0
    assert side.runs == {}
    assert (await trained(side, one)).version == "4"


NO_REPORTS = (
    {},
    {"holdback": {}},
    {"version": "../etc"},
    [1],
    "x",
    {"version": "4", "key": "other"},
)


@pytest.mark.parametrize("report", NO_REPORTS)
async def test_a_run_without_a_report_has_failed(side, make, report):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    side.finish(report)
    with pytest.raises(Refused, match="without a report"):
        await task


async def test_another_model_is_not_ours(side, make):
    with pytest.raises(Refused, match="trains fraud, not spam"):
        await make().train("spam", KEY)


async def test_it_says_what_it_would_start(side, make):
    one = make()
    said = await one.describe()
    assert said[0] == "trains model:fraud, at most 4 h"
    assert side.runs == {}
    side.status = 403
    # a pipeline behind HTTP has nothing that could be asked without starting it
    said = (await one.describe())[1]
    assert (": 403," in said) == (side.use != "trainer_http"), said


async def test_a_run_of_mlflow_is_its_report(side, make):
    with stand_in() as mlflow:
        people = People(mlflow.url)
        people.fraud()
        more = {"report": ""} if side.use == "trainer_kubeflow" else {}
        if side.use == "trainer_kubeflow":
            more["parameters"] = {"key": "{key}", "run": "{mlflow_run}"}
        one = make(mlflow={"url": mlflow.url, "experiment": "retraining"}, **more)
        task = asyncio.create_task(one.train("fraud", KEY))
        await until(lambda: side.runs)
        (run_id,) = mlflow.runs.keys() - {f"run{i}" for i in range(1, 5)}
        run = mlflow.runs[run_id]
        assert {"key": "homeostat.key", "value": KEY} in run["data"]["tags"]
        if side.use != "trainer_http":
            assert run_id in json.dumps(next(iter(side.runs.values()))["body"])
        params = [{"key": "trees", "value": "60"}]
        people.ask("POST", "runs/log-batch", run_id=run_id, metrics=metrics(), params=params)
        version = people.register("fraud", run)
        side.finish("nothing is read here")
        report = (await task).report
        assert report["version"] == version
        assert report["holdback"] == REPORT["holdback"]
        assert report["params"] == {"trees": "60"}
        assert run["info"]["status"] == "FINISHED"
        tag = {"name": "fraud", "key": "retraining_held", "value": "bad data"}
        people.ask("POST", "registered-models/set-tag", **tag)
        with pytest.raises(Refused, match="retraining of fraud is held: bad data"):
            await one.train("fraud", "run-2/train")


def metrics() -> list[dict]:
    said = {"rows": 200, "champion_only": 5, "challenger_only": 25}
    said |= {"champion.accuracy": 0.775, "challenger.accuracy": 0.875}
    return [
        {"key": f"holdback.{k}", "value": v, "timestamp": 1, "step": 0} for k, v in said.items()
    ]


@pytest.mark.parametrize("check", [c.name for c in check_action(lambda: None)])
async def test_retrain_keeps_its_contract(side, make, check):
    folders = iter(range(100))

    @contextlib.asynccontextmanager
    async def stage():
        side.runs.clear()
        over = asyncio.Event()

        async def finishes():
            while not over.is_set():
                side.finish()
                await asyncio.sleep(0.005)

        async def world():
            return sorted((name, r["key"]) for name, r in side.runs.items())

        folder = str(next(folders))

        def again():
            return Retrain(Retrain.Params(), make(folder))

        task = asyncio.create_task(finishes())
        step = Step(KEY, "retrain", "model:fraud", {}, by="homeostat:run-1")
        try:
            yield Stage(again(), step, world, again=again)
        finally:
            over.set()
            await task

    await next(c for c in check_action(stage) if c.name == check).run()


def test_names_fit_everywhere():
    name = label_of("Fraud_Score.v2" * 9, KEY)
    assert len(name) <= 63
    assert name == name.lower()
    assert name.replace("-", "").isalnum()
    assert name != label_of("Fraud_Score.v2" * 9, KEY + "x")
