"""Questions of rows in files: `homeostat drift`, and `homeostat explain --ask`, by the command itself."""

import json
import sys

import numpy as np
import pytest

from agent import cli

MODEL = """
import math

def chance(rows):
    return [1 / (1 + math.exp(-2 * r["x"] - (1.0 if r["kind"] == "b" else 0.0))) for r in rows]

def both(rows):
    return [[1 - p, p] for p in chance(rows)]

def broken(rows):
    return [1.0]
"""


def write(path, n, seed, *, moved=0.0, vector=False):
    random = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as out:
        for i in range(n):
            features = {
                "x": random.normal() + moved, "still": random.normal(),
                "kind": str(random.choice(["a", "b"])),
            }  # fmt: skip
            if vector:
                features["text"] = (random.normal(size=8) + np.r_[2.0, np.full(7, moved)]).tolist()
            record = {
                "id": f"{seed}/{i}",
                "ts": 1e9 + i,
                "model": "m",
                "features": features,
                "pred": "1",
            }
            out.write(json.dumps(record) + "\n")
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in a folder with a model and rows; returns (exit code, all that it says)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "served", raising=False)
    (tmp_path / "served.py").write_text(MODEL)
    write(tmp_path / "old.jsonl", 800, 1)

    def call(*words):
        config = str(tmp_path / "agent.yaml")
        monkeypatch.setattr(sys, "argv", ["homeostat", *words, "--config", config])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out + err

    return call


def test_the_model_at_hand_is_asked_what_drove_one_answer(run, tmp_path):
    (tmp_path / "row.json").write_text('{"x": 2.0, "still": 9.0, "kind": "b"}')
    asked = ("explain", "m", "row.json", "--reference", "old.jsonl", "--json", "--ask")
    code, out = run(*asked, "served:chance")
    assert code == 0, out
    said = json.loads(out)
    drivers = {d["name"]: d["adds"] for d in said["drivers"]}
    assert drivers["still"] == 0.0, "the model does not look at it"
    assert drivers["x"] > drivers["kind"] > 0
    assert said["usual"] + sum(drivers.values()) == pytest.approx(said["answer"])
    assert said["answer"] == pytest.approx(1 / (1 + np.exp(-5.0)))
    code, other = run(*asked, "served:both")
    assert json.loads(other)["drivers"] == said["drivers"]


@pytest.mark.parametrize(
    ("ask", "record", "why"),
    [
        ("served:nothing", '{"x": 1.0}', "can not be imported"),
        ("nowhere:predict", '{"x": 1.0}', "can not be imported"),
        ("served:broken", '{"x": 1.0}', "must return"),
        ("served:chance", '{"y": 1.0}', "none of the features"),
        ("served:chance", '{"x": "one"}', "x is a number in the reference"),
    ],
)
def test_what_can_not_be_asked_says_why(run, tmp_path, ask, record, why):
    (tmp_path / "row.json").write_text(record)
    code, out = run("explain", "m", "row.json", "--reference", "old.jsonl", "--ask", ask)
    assert code != 0
    assert why in " ".join(out.split())


def test_without_a_reference_it_says_where_to_name_one(run, tmp_path):
    (tmp_path / "row.json").write_text('{"x": 1.0}')
    code, out = run("explain", "m", "row.json", "--ask", "served:chance")
    assert code != 0
    assert "models.reference" in out


@pytest.mark.long
def test_rows_that_moved_are_told_from_the_reference_and_by_what(run, tmp_path):
    write(tmp_path / "old.jsonl", 900, 1, vector=True)
    write(tmp_path / "new.jsonl", 700, 2, moved=0.8, vector=True)
    (tmp_path / "agent.yaml").write_text(f"models: {{reference: {{m: {tmp_path}/old.jsonl}}}}\n")
    code, out = run("drift", "m", "new.jsonl", "--json")
    assert code == 0, out
    said = json.loads(out)
    assert said["chance"]["low"] > 0.6
    assert said["evidence"] > 2
    names = [one["name"] for one in said["features"]]
    assert set(names) == {"x", "still", "kind", "text"}
    assert set(names[:2]) == {"x", "text"}
    told = {one["name"]: one["said"] for one in said["features"]}
    assert told["text"].startswith("a vector; distance (MMD)")
    assert told["x"].startswith("median ")
    code, out = run("drift", "m", "new.jsonl")
    assert code == 0
    assert "they differ" in out
    write(tmp_path / "new.jsonl", 700, 3, vector=True)
    code, out = run("drift", "m", "new.jsonl")
    assert "nobody can tell them apart" in out
