from __future__ import annotations

import json
import subprocess
import sys
import time

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.demo import rows, trainer
from agent.demo.rows import CLASSES, FEATURES, STRONG, Rows, other_concept


@pytest.fixture(scope="module")
def parts():
    return rows.split(3)


@pytest.fixture
def root(parts, tmp_path):
    parts[0].save(tmp_path / "first.npz")
    trainer.first(tmp_path / "models", "scoring", tmp_path / "first.npz", seed=0)
    return tmp_path / "models"


def write_logs(folder, served, *, model, concept, n, ts, start=0, seed=0):
    """Append n served rows and their labels, one every 25 ms, as the champion `model` would answer them."""
    dice = np.random.default_rng(seed)
    answers = model.predict(served.x)
    with (folder / "p.jsonl").open("a") as p, (folder / "l.jsonl").open("a") as labels:
        for i in range(n):
            at = int(dice.integers(len(served)))
            row = dict(zip(served.names, served.x[at].tolist(), strict=True))
            name = f"r{start + i}"
            pred = str(answers[at])
            line = {"id": name, "ts": ts + i * 0.025, "model": "scoring", "version": "1",
                    "features": row, "pred": pred, "proba": 0.9, "latency_ms": 12.0,
                    "processing_ms": 11.0, "status": 200}  # fmt: skip
            p.write(json.dumps(line) + "\n")
            label = concept.label(row, bool(served.bad[at]))
            labels.write(
                json.dumps({"id": name, "model": "scoring", "label": label, "ts": ts}) + "\n"
            )


@pytest.fixture
def drifted(parts, root, tmp_path):
    """Logs of a champion that was good and then, with a new concept, is not."""
    served = parts[1]
    model = joblib.load(root / "scoring" / "1" / "model.joblib")
    now = time.time()
    write_logs(tmp_path, served, model=model, concept=rows.Concept(), n=300, ts=now)
    write_logs(tmp_path, served, model=model, concept=other_concept(served, 0.3), n=400,
               ts=now + 100, start=300, seed=1)  # fmt: skip
    return tmp_path


def retrain(root, folder, key="run-1/retrain", **over):
    args = {"reports": folder / "reports", "key": key, "newest": 1500, "enough": 150,
            "patience_s": 0.0, "seed": 0} | over  # fmt: skip
    return trainer.retrain(root, "scoring", folder / "p.jsonl", folder / "l.jsonl", **args)


def test_first_writes_a_champion_and_a_backup_without_the_strong_feature(root):
    folder = root / "scoring"
    assert trainer.champion(folder) == "1"
    one, two = (json.loads((folder / v / "metadata.json").read_text()) for v in "12")
    assert one["role"] == "candidate"
    assert one["features"] == list(FEATURES)
    assert two["role"] == "backup"
    assert STRONG not in two["features"]
    assert one["accuracy"] > 0.9
    assert two["accuracy"] > 0.85
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "1", "2", "champion.json"]


def test_reference_describes_the_rows(root, parts):
    ref = json.loads((root / "scoring" / "1" / "reference.json").read_text())
    assert ref["rows"] == 220
    assert sum(ref["classes"].values()) == pytest.approx(1)
    area = ref["features"][STRONG]
    column = parts[0].x[:, 0]
    assert (area["min"], area["max"]) == (column.min(), column.max())
    assert area["median"] == pytest.approx(float(np.median(column)))
    assert len(area["edges"]) == len(area["shares"]) + 1
    assert sum(area["shares"]) == pytest.approx(1)


@pytest.mark.parametrize("factor", [10.0, 100.0, 645.16])
def test_a_wrong_unit_ruins_the_champion_and_not_the_backup(root, parts, factor):
    served = parts[1]
    champion, backup = (joblib.load(root / "scoring" / v / "model.joblib") for v in "12")
    broken = Rows(served.names, served.x.copy(), served.bad)
    broken.x[:, served.names.index(STRONG)] *= factor
    assert trainer.accuracy(champion, served) > 0.9
    assert trainer.accuracy(champion, broken) < 0.75
    assert trainer.accuracy(backup, broken.without(frozenset({STRONG}))) > 0.88


def test_a_release_on_wrong_labels_is_promoted_and_worse(root, parts):
    told = trainer.release(root, "scoring", 0.55, seed=1)
    folder = root / "scoring"
    pointer = json.loads((folder / "champion.json").read_text())
    assert (pointer["version"], pointer["previous"], pointer["by"]) == (
        "3",
        ["1"],
        "release-pipeline",
    )
    assert told["parent"] == "1"
    worse = joblib.load(folder / "3" / "model.joblib")
    assert trainer.accuracy(worse, parts[1]) < 0.75
    # another release names all champions before it, newest first
    trainer.release(root, "scoring", 0.6, seed=2)
    assert json.loads((folder / "champion.json").read_text())["previous"] == ["3", "1"]
    # one that is only trained leaves the champion as it is
    before = (folder / "champion.json").read_text()
    told = trainer.release(root, "scoring", 0.6, seed=2, only_train=True)
    assert (folder / told["version"] / "model.joblib").exists()
    assert (folder / "champion.json").read_text() == before


def test_retraining_on_recent_rows_beats_the_champion_on_rows_neither_learnt(root, drifted, parts):
    report = retrain(root, drifted)
    held = report["holdback"]
    assert held["challenger"]["accuracy"] > held["champion"]["accuracy"] + 0.1
    gain = (held["challenger"]["accuracy"] - held["champion"]["accuracy"]) * held["rows"]
    assert gain == pytest.approx(held["challenger_only"] - held["champion_only"])
    assert report["data"]["changed"]
    assert 380 <= report["data"]["served_rows"] <= 430
    assert trainer.champion(root / "scoring") == "1"  # it does not promote
    learnt = rows.load(root / "scoring" / report["version"] / "training.npz")
    assert len(learnt) == report["data"]["trained_rows"]
    _, hashes = trainer.distinct(learnt)
    assert not any(trainer.held_back(hashes))
    assert len(hashes) == len(learnt)


def test_its_backup_is_trained_too(root, drifted):
    report = retrain(root, drifted)
    backup = json.loads((root / "scoring" / report["backup"] / "metadata.json").read_text())
    assert backup["role"] == "backup"
    assert STRONG not in backup["features"]
    assert backup["parent"] == report["version"]


def test_the_same_key_gives_the_same_version(root, drifted):
    first = retrain(root, drifted)
    before = sorted(p.name for p in (root / "scoring").iterdir())
    assert retrain(root, drifted) == first
    assert sorted(p.name for p in (root / "scoring").iterdir()) == before
    assert retrain(root, drifted, key="run-2/retrain")["version"] != first["version"]


def test_killed_between_version_and_report_it_takes_up_what_it_trained(root, drifted):
    first = retrain(root, drifted)
    (drifted / "reports" / "run-1_retrain.json").unlink()
    again = retrain(root, drifted)
    assert again["version"] == first["version"]
    assert again["holdback"] == first["holdback"]


def test_it_refuses_while_retraining_is_held(root, drifted):
    (root / "scoring" / "RETRAINING_HELD").write_text("the unit of worst_area changed")
    with pytest.raises(trainer.NotNow, match="unit of worst_area"):
        retrain(root, drifted)


def test_it_refuses_with_too_few_rows(root, drifted):
    with pytest.raises(trainer.NotNow, match="are needed"):
        retrain(root, drifted, enough=1000)


def test_rows_from_before_the_last_change_of_champion_do_not_count(root, drifted):
    trainer.promote(root / "scoring", "1", by="somebody")
    pointer = root / "scoring" / "champion.json"
    moved = json.loads(pointer.read_text()) | {"changed": time.time() + 50}
    trainer.write_json(pointer, moved)
    report = retrain(root, drifted)
    assert report["data"]["served_rows"] == 400  # the 300 healthy ones were served earlier
    assert not report["data"]["changed"]


def test_as_a_command_it_prints_the_report_last_and_says_no_with_its_own_code(
    root, drifted, capsys
):
    argv = ["retrain", "--root", str(root), "--predictions", str(drifted / "p.jsonl"),
            "--labels", str(drifted / "l.jsonl"), "--reports", str(drifted / "reports"), "--patience", "0"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "agent.demo.trainer", *argv],
        capture_output=True, text=True, env={"HOMEOSTAT_KEY": "k"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["holdback"]["rows"] > 30
    (root / "scoring" / "RETRAINING_HELD").write_text("no")
    assert trainer.main(argv, {"HOMEOSTAT_KEY": "k2"}) == trainer.REFUSED
    assert "held: no" in capsys.readouterr().err


@given(st.integers(0, 2**32 - 1), st.integers(60, 400), st.integers(60, 400))
def test_a_fall_of_the_rate_is_found_near_where_it_is(seed, n, m):
    dice = np.random.default_rng(seed)
    right = np.concatenate([dice.random(n) < 0.97, dice.random(m) < 0.4]).astype(float)
    assert abs(trainer.change_point(right) - n) <= 25


@given(st.integers(0, 2**32 - 1), st.integers(0, 400))
def test_a_rise_is_no_change_for_the_worse(seed, n):
    dice = np.random.default_rng(seed)
    right = np.concatenate([dice.random(n) < 0.4, np.ones(400)]).astype(float)
    found = trainer.change_point(right)
    assert found == 0 or found < n


def test_an_even_rate_has_no_change_point():
    dice = np.random.default_rng(0)
    found = [trainer.change_point((dice.random(1000) < 0.95).astype(float)) for _ in range(200)]
    assert sum(f > 0 for f in found) <= 4


def test_distinct_keeps_the_newest_label():
    x = np.array([[1.0], [2.0], [1.0]])
    once, hashes = trainer.distinct(Rows(("a",), x, np.array([True, False, False])))
    assert len(once) == len(hashes) == 2
    assert dict(zip(once.x[:, 0].tolist(), once.bad.tolist(), strict=True)) == {
        1.0: False,
        2.0: False,
    }


def test_tail_leaves_out_the_line_that_is_being_written(tmp_path):
    log = tmp_path / "log"
    log.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert list(trainer.tail(log)) == [{"a": 1}, {"a": 2}]
    assert list(trainer.tail(tmp_path / "none")) == []
    assert list(trainer.tail(log, limit=16)) == [{"a": 2}]


def test_spoiled_labels_go_one_way():
    whole = Rows(("a",), np.zeros((1000, 1)), np.arange(1000) % 2 == 0)
    spoiled = trainer.spoil(whole, 0.6, seed=0)
    assert (spoiled.bad >= whole.bad).all()
    assert (spoiled.bad & ~whole.bad).sum() == pytest.approx(300, abs=50)
    assert CLASSES[1] == "malignant"
