"""What is decided does not hang on how often an incident is looked at: rarely, at each tick, or a few at a time."""

from __future__ import annotations

import pytest
from made_up import CONFIG, END, STEP, Stage
from test_replay_scenarios import PICTURES

from agent import looks, registry
from agent.codec import unpack
from agent.config import Config
from agent.model import Decision
from agent.pipeline import Walk
from agent.playbook import Library
from agent.turns import Turns

LATER = END + 60.0
LEAST_S = 6.0
"""A decision may come so much earlier or later where looks are rare."""
ACTS = {
    **CONFIG,
    "mode": "auto",
    "single_agent": True,
    "manages": [{"kind": "service"}, {"kind": "process"}],
}
WAYS = ("each tick", "as shipped", "one at a time")


def walked(name: str, way: str, folder, library: Library) -> Stage:
    stage = Stage(PICTURES[name], folder, config=ACTS)
    old = stage.walk
    stage.walk = walk = Walk.wired(
        old.config, world=old.world, history=old.history, library=library, memory=stage.memory,
        record=stage.record, step_of=lambda _: STEP,
    )  # fmt: skip
    if way == "one at a time":
        walk.looks.turns, walk.rounds = Turns(1.0, 1e9, 1.0), Turns(1.0, 1e9, 1.0)
    stage.go(LATER)
    stage.close()
    return stage


def said(stage: Stage) -> dict[tuple[str, str, bool, str], float]:
    """Return what the guard has said, and when first."""
    out: dict[tuple[str, str, bool, str], float] = {}
    for entry in stage.entries("decision"):
        d = unpack(Decision, entry.body)
        out.setdefault((d.playbook, d.target.id, d.allowed, d.mode), d.ts)
    return out


@pytest.mark.long
@pytest.mark.parametrize("name", PICTURES)
def test_the_same_is_decided_however_often_one_looks(name, tmp_path, monkeypatch):
    registry.load()
    library = Library.load([], Config.model_validate(ACTS))
    found = {}
    for way in WAYS:
        with monkeypatch.context() as patch:
            if way == "each tick":
                patch.setattr(looks, "_REST_S", 0.0)
            stage = walked(name, way, tmp_path / way, library)
        tops = {
            i.about: (i.diagnosis.top.kind, i.diagnosis.top.entity)
            for i in stage.incidents
            if i.diagnosis
        }
        found[way] = said(stage), tops, len(stage.entries("plan"))
    decided, tops, plans = found.pop("each tick")
    assert bool(decided) or name != "neighbour"
    for other, others_tops, others_plans in found.values():
        assert others_tops == tops
        assert other.keys() == decided.keys()
        assert all(abs(other[key] - decided[key]) <= LEAST_S for key in decided)
        assert others_plans == plans
