"""Page and notify, through the real page command."""

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.errors import Unavailable
from agent.ports import Action, Notifier, Step
from connectors.page import Page as Command
from playbooks.actions.tell import Notify, Page

KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told.jsonl"


@pytest.fixture
def pager(tmp_path: Path, told: Path) -> Command:
    config = Command.Config(command=[sys.executable, "-c", KEEP, str(told)])
    return Command("page", config, state=tmp_path)


def step(**more) -> Step:
    return Step(key="run-1/tell", use="page", target="model:fraud", params={}, **more)


def notes(told: Path) -> list[dict]:
    return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []


@pytest.mark.parametrize(("verb", "severity"), [(Page, "page"), (Notify, "warning")])
async def test_a_note_arrives_once_however_often_it_is_tried(pager, told, verb, severity):
    assert isinstance(pager, Notifier)
    params = verb.Params(text="the unit of area changed\nretraining is held", owner="serving")
    act = verb(params, pager)
    assert isinstance(act, Action)
    one = step(facts={"incident": "i-7"})
    for _ in range(2):
        assert not act.reached(one, await act.observe(one))
        done = await act.run(one)
    assert done.summary == f"told ({severity}): the unit of area changed"
    (note,) = notes(told)
    assert note["key"] == "run-1/tell"
    assert note["severity"] == severity
    assert note["title"] == "the unit of area changed"
    assert note["text"].endswith("retraining is held")
    assert (note["incident"], note["owner"]) == ("i-7", "serving")


async def test_title_and_severity_can_be_said(pager, told):
    act = Page(Page.Params(text="long", title="short", severity="note"), pager)
    await act.run(step())
    assert (notes(told)[0]["title"], notes(told)[0]["severity"]) == ("short", "note")


async def test_a_dry_run_tells_nobody(pager, told):
    done = await Page(Page.Params(text="fire"), pager).run(step(dry_run=True))
    assert done.summary == "would tell (page): fire"
    assert notes(told) == []


async def test_a_pager_that_fails_says_so_and_may_be_tried_again(tmp_path, told):
    flag = tmp_path / "works"
    code = f"import os, sys; sys.exit(0 if os.path.exists({str(flag)!r}) else 7)"
    pager = Command("page", Command.Config(command=[sys.executable, "-c", code]), state=tmp_path)
    act = Page(Page.Params(text="fire"), pager)
    with pytest.raises(Unavailable, match="status 7"):
        await act.run(step())
    flag.touch()
    assert (await act.run(step())).summary == "told (page): fire"


@pytest.mark.parametrize("params", [{}, {"text": ""}, {"text": "a", "severity": "loud"}])
def test_a_note_must_say_something(params):
    with pytest.raises(ValidationError):
        Page.Params(**params)
