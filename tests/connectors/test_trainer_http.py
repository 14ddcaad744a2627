"""What only the pipeline behind HTTP has: pointers, placeholders, and what can not be found again."""

import asyncio

import pytest
from pydantic import ValidationError
from training_side import REPORT, HttpSide, running, until

from agent.errors import Refused, Uncertain
from connectors._values import pointed
from connectors.trainer_http import TrainerHttp

KEY = "run-1/train"


@pytest.fixture
def side():
    with running(HttpSide()) as made:
        yield made


@pytest.fixture
async def make(side, tmp_path):
    made = []

    def one(**more) -> TrainerHttp:
        config = {"model": "fraud", "every": 0.02, "timeout": 2, **side.config(), **more}
        made.append(TrainerHttp("trainer", TrainerHttp.Config(**config), state=tmp_path))
        return made[-1]

    yield one
    for each in made:
        await each.close()


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("", {"a": [{"b/c": 1}], "~": 2}), ("/a/0/b~1c", 1), ("/~0", 2), ("/a/1", None), ("/a/b", None), ("/x/y", None)],
)  # fmt: skip
def test_a_pointer_points(pointer, value):
    assert pointed({"a": [{"b/c": 1}], "~": 2}, pointer) == value


async def test_what_is_sent_says_for_which_step(side, make, monkeypatch):
    monkeypatch.setenv("PIPELINE_TOKEN", "tok-canary-77")
    one = make(headers={"authorization": "env:PIPELINE_TOKEN"})
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    assert side.runs["r1"]["body"] == {"pipeline": "retrain", "args": [KEY, "fraud"]}
    sent = next(h for h in side.headers if "idempotency-key" in h)
    assert (sent["idempotency-key"], sent["authorization"]) == (KEY, "tok-canary-77")
    side.finish(REPORT)
    report = (await task).report
    assert (report["job"], report["code"]) == ("r1", f"{side.url}/runs")
    assert "tok-canary" not in str(report)


async def test_what_can_not_be_found_again_is_not_repeated(side, make):
    one = make(find="")
    side.lose = True
    for _ in range(2):
        with pytest.raises(Uncertain):
            await one.train("fraud", KEY)
    assert len(side.runs) == 1
    assert "NOT found again" in (await one.describe())[1]


async def test_who_does_nothing_twice_may_be_asked_again(side, make):
    one = make(find="", idempotent=True)
    side.lose = True
    for _ in range(2):
        with pytest.raises(Uncertain, match="it may have been done"):
            await one.train("fraud", KEY)
    assert len(side.headers) == 2


async def test_an_answer_without_a_name_is_uncertain(side, make):
    with pytest.raises(Uncertain, match="no name of a run at /name; mend `run`"):
        await make(run="/name", find="").train("fraud", KEY)


async def test_without_cancel_nothing_is_ended(side, make):
    one = make(cancel="", limit=0.2)
    assert "can NOT be ended" in (await one.describe())[1]
    with pytest.raises(Uncertain, match="has no `cancel`"):
        await one.train("fraud", KEY)
    assert side.ended == []


async def test_a_run_that_is_gone_has_failed(side, make):
    one = make()
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: one._once.find(KEY).get("run"))
    side.runs.clear()
    with pytest.raises(Refused, match="it is not there any more"):
        await task


def test_a_url_must_say_whose_it_is(side):
    for name, place in (("status", "run"), ("cancel", "run"), ("find", "key")):
        with pytest.raises(ValidationError, match=f"`{name}` must say {{{place}}}"):
            TrainerHttp.Config(**{"model": "fraud", **side.config(), name: f"{side.url}/all"})
