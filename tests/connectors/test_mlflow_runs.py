"""Runs of MLflow for trainings: one for each key, and what of them is a report; on a real server: tests/live."""

import sys

import pytest
from mlflow_side import People, stand_in

from agent.errors import Refused, Unavailable
from connectors._mlflow_runs import Runs, RunsAt
from connectors.trainer import Trainer

KEY = "run-1/o'train"


@pytest.fixture
def server():
    with stand_in() as made:
        yield made


@pytest.fixture
async def runs(server):
    made = Runs(RunsAt(url=server.url, timeout=2))
    yield made
    await made.close()


async def test_a_key_has_one_run_whoever_asks(server, runs):
    told = await runs.open("fraud", KEY)
    assert told["MLFLOW_TRACKING_URI"] == server.url
    assert await runs.open("fraud", KEY) == told
    again = Runs(RunsAt(url=server.url))
    assert await again.open("fraud", KEY) == told
    await again.close()
    assert list(server.runs) == [told["MLFLOW_RUN_ID"]]
    assert (await runs.open("fraud", "run-2/train"))["MLFLOW_RUN_ID"] != told["MLFLOW_RUN_ID"]


async def test_a_version_of_the_run_makes_its_report(server, runs):
    assert await runs.report("fraud", KEY) is None
    run = server.runs[(await runs.open("fraud", KEY))["MLFLOW_RUN_ID"]]
    assert await runs.report("fraud", KEY) is None
    people = People(server.url)
    people.register("spam", run)
    assert await runs.report("fraud", KEY) is None
    version = people.register("fraud", run)
    run["data"]["metrics"] = [
        {"key": "holdback.rows", "value": 200}, {"key": "holdback.champion_only", "value": 2.5},
        {"key": "holdback.champion.accuracy", "value": 0.8}, {"key": "loss", "value": "NaN"},
        {"key": "holdback.challenger.loss", "value": 3.5},
    ]  # fmt: skip
    run["inputs"] = {"dataset_inputs": [{"dataset": {"name": "loans", "digest": "d1"}}]}
    report = await runs.report("fraud", KEY)
    assert report == {
        "version": version, "run": run["info"]["run_id"], "data": ["loans d1"], "code": None, "params": None,
        "holdback": {"rows": 200, "champion": {"accuracy": 0.8}, "challenger": {"loss": 3.5}},
    }  # fmt: skip
    run["info"]["status"] = "FAILED"
    assert await runs.report("fraud", KEY) is None


async def test_a_run_is_ended_once(server, runs):
    run = server.runs[(await runs.open("fraud", KEY))["MLFLOW_RUN_ID"]]
    await runs.end(KEY, "FAILED")
    await runs.end(KEY, "FINISHED")
    assert run["info"]["status"] == "FAILED"
    server.status = 503
    await runs.end(KEY, "KILLED")  # nobody waits for that


async def test_a_lost_answer_is_no_second_run(server, runs):
    def before(method, path, args):
        server.status = 500 if path == "runs/create" else 0

    server.before = before
    with pytest.raises(Unavailable, match="500"):
        await runs.open("fraud", KEY)


async def test_a_command_gets_its_run_and_is_refused_while_retraining_is_held(server, tmp_path):
    people = People(server.url)
    people.register("fraud")
    code = "import os; open('seen', 'w').write(os.environ['MLFLOW_RUN_ID'])"
    config = Trainer.Config(
        model="fraud", command=[sys.executable, "-c", code], workdir=tmp_path, mlflow={"url": server.url}
    )  # fmt: skip
    one = Trainer("trainer", config, state=tmp_path)
    with pytest.raises(Refused, match="must register a version of fraud from the run"):
        await one.train("fraud", KEY)
    (run_id,) = server.runs
    assert (tmp_path / "seen").read_text() == run_id
    assert server.runs[run_id]["info"]["status"] == "FAILED"
    tag = {"name": "fraud", "key": "retraining_held", "value": "bad data\nby: alice"}
    people.ask("POST", "registered-models/set-tag", **tag)
    with pytest.raises(Refused, match="retraining of fraud is held: bad data"):
        await one.train("fraud", "run-2/train")
    assert (await one.describe())[-1] == "training is held: bad data"
    server.status = 503
    assert ": 503" in (await one.describe())[-1]
    with pytest.raises(Unavailable):
        await one.train("fraud", "run-3/train")
    await one.close()
