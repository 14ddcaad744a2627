from __future__ import annotations

import io
import json
import random

import pytest
from rich.console import Console

from agent.demo import card, faults
from agent.demo.card import Card, Row, count_refusals, differences
from agent.demo.truth import Lines, Truth
from agent.model import Cause, Entity


def good(name="bad release", **over):
    values = {
        "name": name, "severity": "60 %", "detected_s": 6.2, "expected": "release.model",
        "cause": "release.model", "blamed": "model:scoring", "probability": 0.97, "cause_right": True,
        "acts": ["roll-back"], "verdict": "helped", "healed_s": 14.0, "put_back_s": 6.0, "pages": 1,
    }  # fmt: skip
    return Row(**(values | over))


def test_all_right():
    score = Card(3, 1, [good(), Row("healthy swing", fault=False)], seconds=30.0)
    assert score.right
    assert {k: score.figures()[k] for k in ("faults", "detected", "cause_right", "healed", "harmful")} == {
        "faults": 1, "detected": 1, "cause_right": 1, "healed": 1, "harmful": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"detected_s": None}, {"cause_right": False}, {"healed_s": None}, {"put_back_s": None},
        {"harmful": 1}, {"wrong": ["scale-out"]}, {"false_pages": 1},
    ],
)  # fmt: skip
def test_one_thing_wrong_is_not_all_right(wrong):
    score = Card(3, 2, [good(), good("unit change", **wrong)])
    assert not score.right
    assert not score.figures()["right"]


@pytest.mark.parametrize("wrong", [{"acts": ["scale-out"]}, {"pages": 1}])
def test_the_swing_must_be_left_alone(wrong):
    assert not Card(3, 1, [good(), Row("healthy swing", fault=False, **wrong)]).right


def test_a_fault_that_was_not_shown_is_missed():
    score = Card(3, 5, [good()])
    assert not score.right
    assert score.figures()["faults"] == 5


def test_written_as_one_line(tmp_path):
    line = Card(3, 1, [good()], seconds=12.34).write(tmp_path / "build" / "demo.json")
    assert "\n" not in line
    found = json.loads((tmp_path / "build" / "demo.json").read_text())
    assert found["seconds"] == 12.3
    assert found["rows"][0]["right"] is True


def test_shown_to_people():
    out = io.StringIO()
    score = Card(
        3,
        2,
        [good(), good("unit change", cause_right=False, refused={"cooldown": 2})],
        asked=100,
        failed=3,
    )
    card.show(
        Console(file=out, width=200), score, ["mode: auto (default suggest)"], ["a day lasts 22 s"]
    )
    text = out.getvalue()
    for piece in ("bad release", "6.2 s", "wrong", "cooldown 2", "mode: auto (default suggest)",
                  "a day lasts 22 s", "3 of 100 requests"):  # fmt: skip
        assert piece in text


def test_differences_name_the_default():
    mine = {"mode": "auto", "diagnose": {"settle": "2s", "window": "20s"}, "services": [{"id": "a"}], "x": 1,
            "command": ["a", "b"], "new": {"path": "/x"}}  # fmt: skip
    defaults = {
        "mode": "suggest",
        "diagnose": {"settle": 10.0, "window": 20.0},
        "services": [],
        "x": 1,
    }
    assert differences(mine, defaults) == [
        "mode: auto (default suggest)", "diagnose.settle: 2s (default 10 s)", "services[0].id: a",
        'command: ["a", "b"]', "new.path: /x",
    ]  # fmt: skip


def test_refusals_count_the_first_gate_that_said_no():
    def decision(allowed, *gates):
        return {"allowed": allowed, "gates": [{"name": n, "passed": p} for n, p in gates]}

    found = count_refusals([
        decision(True, ("a", True)), decision(False, ("a", True), ("b", False), ("c", False)),
        decision(False, ("b", False)), decision(False, ("c", False)),
    ])  # fmt: skip
    assert found == {"b": 2, "c": 1}


# ---- truth


def write(path, *lines):
    with path.open("a") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


def test_truth_joins_clients_and_labels(tmp_path):
    answers, predictions, labels = (tmp_path / n for n in ("a", "p", "l"))
    truth = Truth(Lines(answers), Lines(predictions), Lines(labels))
    truth.look(1000.0)
    assert truth.p95(0) is None
    assert truth.accuracy(0) is None
    write(
        answers,
        *([990 + i * 0.1, 200, 0.02] for i in range(95)),
        [999.0, 0, 5.0],
        [999.1, 503, 1.2],
    )
    write(answers, *([999.5, 200, 0.3] for _ in range(10)))
    write(
        predictions,
        *({"id": f"r{i}", "ts": 990 + i * 0.1, "pred": "benign", "status": 200} for i in range(60)),
    )
    write(predictions, {"id": "lost", "ts": 999.0, "pred": None, "status": 503})
    truth.look(1000.0)
    write(
        labels, *({"id": f"r{i}", "label": "benign" if i % 4 else "malignant"} for i in range(60))
    )
    write(labels, {"id": "lost", "label": "benign"})
    truth.look(1000.0)
    assert (truth.asked, truth.failed) == (107, 2)
    assert truth.accuracy(0) == pytest.approx(0.75)
    assert truth.accuracy(994.0) is None  # 20 rows are too few to say
    assert truth.p95(0) == pytest.approx(0.3)
    assert truth.p95(999.4) is None
    assert truth.rate(990, 1000) == pytest.approx(10.7)
    truth.look(1100.0)
    assert truth.p95(0) is None


def test_a_line_that_is_being_written_waits(tmp_path):
    log = tmp_path / "log"
    lines = Lines(log)
    assert lines.new() == []
    log.write_text("[1]\n[2")
    assert lines.new() == [[1]]
    with log.open("a") as out:
        out.write("]\n")
    assert lines.new() == [[2]]


# ---- faults


def test_the_same_seed_draws_the_same_and_seeds_differ():
    orders = set()
    for seed in range(30):
        drawn = faults.draw(seed)
        assert drawn == faults.draw(seed)
        assert sorted(f.name for f in drawn if f) == sorted(faults.NAMES)
        assert sum(f is None for f in drawn) == 1
        orders.add(tuple(f.name if f else "swing" for f in drawn))
    assert len(orders) > 20


def test_severity_is_drawn_too():
    says = {
        f.severity
        for seed in range(20)
        for f in faults.draw(seed)
        if f and f.name == "traffic surge"
    }
    assert len(says) > 2


def test_only_some():
    assert [f.name for f in faults.draw(5, ["unit change"]) if f] == ["unit change"]
    assert faults.draw(5, [faults.SWING]) == [None]


def test_a_cause_is_right_only_with_the_thing_to_blame():
    release = faults.BadRelease(0.6, version="7")
    model = Entity("model", "scoring")
    assert release.right(Cause("release.model", model, 0.9, facts={"version": "7"}))
    assert release.right(Cause("release.model", Entity("version", "scoring/7"), 0.9))
    assert not release.right(Cause("release.model", model, 0.9, facts={"version": "6"}))
    assert not release.right(Cause("concept.drift", model, 0.9, facts={"version": "7"}))

    unit = faults.UnitChange(100.0)
    assert unit.right(Cause("data.contract", Entity("feature", "scoring/worst_area"), 0.9))
    assert not unit.right(Cause("data.contract", Entity("feature", "scoring/mean_symmetry"), 0.9))

    drift = faults.ConceptDrift(0.3)
    assert drift.right(Cause("concept.drift", model, 0.9))
    assert not drift.right(Cause("data.drift", model, 0.9))
    assert not drift.right(Cause("concept.drift", Entity("model", "other"), 0.9))

    surge = faults.TrafficSurge(3.0)
    assert surge.right(Cause("serving.saturation", Entity("service", "scoring"), 0.9))
    assert not surge.right(Cause("host.neighbour", Entity("service", "scoring"), 0.9))


def test_the_neighbour_is_known_by_the_leader_of_its_group(tmp_path):
    from agent.demo.ground import Ground

    ground = Ground(tmp_path, seed=1)
    neighbour = faults.NoisyNeighbour(1)
    try:
        neighbour.start(ground)
        pid = neighbour._job.pid
        assert neighbour.right(Cause("host.neighbour", Entity("process", f"boot/{pid}/77"), 0.9))
        assert not neighbour.right(
            Cause("host.neighbour", Entity("process", f"boot/{pid + 1}/77"), 0.9)
        )
        assert not neighbour.right(Cause("host.neighbour", Entity("service", "scoring"), 0.9))
    finally:
        neighbour.end(ground)
        ground.end()


def test_dice_are_not_shared():
    random.seed(1)
    first = faults.draw(4)
    random.seed(2)
    assert faults.draw(4) == first
