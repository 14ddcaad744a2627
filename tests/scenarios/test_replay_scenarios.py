"""What a live walk found is found again when its history is replayed, and twice the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from made_up import (
    ACC,
    BATCH,
    CLOCK,
    CONFIG,
    CORES,
    CPU,
    END,
    ERRORS,
    GPUS,
    HOST,
    HOT,
    MODEL,
    QUEUE,
    SHOP,
    SLOW,
    STEP,
    TEMP,
    USED,
    WAIT_CPU,
    WORSE,
    Picture,
    Stage,
)

from agent import registry
from agent.codec import unpack
from agent.config import Config
from agent.graph_past import GraphPast
from agent.model import Change, Decision
from agent.pipeline import Walk
from agent.playbook import Library
from agent.recorded import Recorded
from agent.replay import TOLD, Replay, difference

RELEASE = Change(398.0, MODEL, "release", "1", "2", by="ci")
PICTURES = {
    "neighbour": Picture(
        "host.neighbour", BATCH, {**SLOW, CPU: 0.99, CORES[BATCH]: 3.5, WAIT_CPU: 0.8, QUEUE: 40.0}
    ),
    "bad model": Picture("release.model", MODEL, {ACC: 0.7, WORSE: 1.0}, changes=[RELEASE]),
    "hot gpu": Picture(
        "hardware.gpu.thermal", GPUS[1], {**SLOW, TEMP[1]: 92.0, CLOCK[1]: 0.4, HOT[1]: 1.0, USED[1]: 0.95}
    ),
    "errors": Picture("release.code", SHOP, {ERRORS: 0.3}, changes=[Change(397.0, SHOP, "release", "a", "b")]),
    "calm": Picture("unknown", HOST, {}),
}  # fmt: skip


def record(picture: Picture, folder, library: Library) -> Stage:
    """Walk as the daemon does, with the graph's past beside history, and leave the log unsealed as kill -9 would."""
    stage = Stage(picture, folder)
    old = stage.walk
    stage.walk = Walk.wired(
        old.config, world=old.world, history=old.history, library=library, memory=stage.memory,
        record=stage.record, step_of=lambda _: STEP,
    )  # fmt: skip
    stage.walk.graph_past = GraphPast(folder, 7200)
    stage.go(END)
    stage.walk.history.flush()
    stage.walk.graph_past.close()
    return stage


def replayed(stage: Stage, folder, room, library):
    told = [SimpleNamespace(**vars(e)) for e in stage.journal if e.kind in TOLD]
    room.mkdir()
    with Recorded(folder) as past:
        one = Replay(past, stage.walk.config, library, folder=room, told=told, graph=folder)
        return one.go(past.start, past.end)


def brief(incidents):
    return sorted(
        (
            i.id, i.opened, i.state, i.severity, i.title, i.about,
            i.diagnosis.top and (i.diagnosis.top.kind, i.diagnosis.top.entity, round(i.diagnosis.top.probability, 2)),
        )
        for i in incidents
        if i.diagnosis
    )  # fmt: skip


def closed(gates):
    return tuple(g.name for g in gates if not g.passed)


@pytest.fixture(scope="module")
def library():
    registry.load()
    return Library.load([], Config.model_validate(CONFIG))


@pytest.mark.parametrize("name", PICTURES)
def test_a_recorded_walk_is_found_again(name, tmp_path, library):
    stage = record(PICTURES[name], tmp_path / "h", library)
    files = {p: p.read_bytes() for p in (tmp_path / "h").iterdir()}
    first = replayed(stage, tmp_path / "h", tmp_path / "a", library)
    second = replayed(stage, tmp_path / "h", tmp_path / "b", library)
    assert {p: p.read_bytes() for p in (tmp_path / "h").iterdir()} == files
    live = brief({**stage.memory.incidents, **stage.walk.correlator.incidents}.values())
    assert brief(first.incidents.values()) == live
    assert bool(live) == (name != "calm")
    assert first.incidents == second.incidents
    assert first.pages == second.pages == {
        e.body["incident"]: e.ts for e in reversed(stage.entries("note")) if e.subject.startswith("page:")
    }  # fmt: skip
    decided = [unpack(Decision, e.body) for e in stage.entries("decision")]
    assert {(h.playbook, h.target, h.incident, closed(h.gates)) for h in first.held} == {
        (d.playbook, d.target, d.incident, closed(d.gates)) for d in decided if not d.allowed
    }
    assert [(a.plan.playbook, a.plan.target, a.plan.created) for a in first.acts] == [
        (d.playbook, d.target.id, d.ts) for d in decided if d.allowed
    ]
    assert bool(decided) or name != "neighbour"
    assert first.held == second.held
    assert first.graph
    assert not difference(first, second)
    stage.close()
