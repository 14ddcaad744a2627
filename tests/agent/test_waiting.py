"""What each check still waits for, of any feed; and the two commands that show it."""

import json
import sys

import numpy as np
import pytest

from agent import cli
from agent.config import WatchModels
from agent.ports import LabelBatch, PredictionBatch
from agent.roles import Guess
from agent.waiting import look

CONFIG = WatchModels(min_rows=100)


def batch(n=50, version="3", **more):
    one = {
        "model": "fraud", "version": version, "ts": np.full(n, 1.7e9), "ids": tuple(f"{version}-{i}" for i in range(n)),
        "features": {"age": np.arange(n) % 7.0, "cust_id": np.array([f"c{i}" for i in range(n)], dtype=object)},
        "pred": np.array(["0", "1"] * n, dtype=object)[:n], "proba": np.full(n, 0.75), "latency_s": np.full(n, 0.02),
        "processing_s": np.full(n, np.nan), "status": np.full(n, 200),
    } | more  # fmt: skip
    return PredictionBatch(**one)


def labels(n, version="3"):
    ids = tuple(f"{version}-{i}" for i in range(n))
    return LabelBatch("fraud", np.full(n, 1.7e9), ids, ("1",) * n)


def checks(arrivals, reference=None):
    (one,) = look(arrivals, CONFIG, lambda *_: reference)
    return {c["check"]: (c["ready"], c["text"]) for c in one["checks"]}


def test_rows_of_our_own_records_name_their_columns():
    (one,) = look([batch(), batch(), labels(10)], CONFIG, lambda *_: None)
    assert (one["model"], one["version"], one["rows"], one["labels"]) == ("fraud", "3", 100, 10)
    roles = {c["column"]: (c["role"], c["confidence"]) for c in one["columns"]}
    assert roles == {
        name: (role, 1.0)
        for name, role in [("id", "id"), ("ts", "ts"), ("version", "version"), ("pred", "prediction"),
                           ("proba", "probability"), ("latency_ms", "latency"), ("label", "label"),
                           ("age", "feature"), ("cust_id", "feature")]
    }  # fmt: skip
    why = {c["column"]: c["reason"] for c in one["columns"]}
    assert "looks like id" in why["cust_id"]
    assert "looks like" not in why["age"]
    json.dumps(one)


def test_what_is_missing_is_said():
    n = 40
    bare = batch(
        n,
        ids=("",) * n,
        pred=None,
        proba=np.full(n, np.nan),
        latency_s=np.full(n, np.nan),
        features={},
    )
    said = checks([bare])
    waits = {check: text for check, (ready, text) in said.items() if not ready}
    assert set(said) - set(waits) == {"requests, errors"}
    assert "latency_ms" in waits["latency"]
    assert "features" in waits["inputs: contract, drift"]
    assert "`pred`" in waits["mix of predictions"]
    assert "`pred`" in waits["accuracy"]
    assert "`proba`" in waits["confidence"]
    assert "`id`" in checks([batch(n, ids=("",) * n)])["accuracy"][1]
    assert checks([batch()])["inputs: contract, drift"] == (
        False,
        "a reference, or the first 1,000 rows: 50 so far",
    )
    assert checks([batch()])["accuracy"] == (False, "100 labelled rows: 0 so far")


def test_what_is_there_is_ready():
    reference = {
        "rows": 500,
        "accuracy": 0.9,
        "classes": {"0": 0.5, "1": 0.5},
        "features": {"age": {}, "sex": {}},
    }
    said = checks([batch(200), labels(150)], reference)
    assert {check for check, (ready, _) in said.items() if not ready} == {
        "against other versions", "inputs: joint change", "inputs: rhythm of the day", "accuracy without labels",
        "relation to the label", "gaps between groups", "what a loss is made of",
    }  # fmt: skip
    assert said["inputs: contract, drift"][1] == (
        "against the reference of 500 rows; not in the rows: sex; not in the reference: cust_id"
    )
    assert said["quality lost"][1] == "against 90.0% of the reference"
    assert checks([batch(200), labels(150)])["quality lost"][0] is False
    assert checks([batch(1200)])["inputs: contract, drift"][0] is True
    one, two = look([batch(), batch(version="4")], CONFIG, lambda *_: None)
    assert one["checks"][-1] == {"check": "against other versions", "ready": True, "text": "4"}
    assert two["checks"][-1]["text"] == "3"


def test_arms_of_a_version_and_labels_that_name_no_model_count():
    two = look(
        [batch(), batch(variant="canary"), LabelBatch("", np.full(1, 1.7e9), ("3-7",), ("1",))],
        CONFIG,
        lambda *_: None,
    )
    (one,) = two
    assert one["checks"][-1] == {
        "check": "against other versions",
        "ready": True,
        "text": "3, 3@canary",
    }
    assert one["labels"] == 1


def test_what_looks_at_more_than_a_column_says_what_it_takes():
    config = WatchModels(min_rows=100, protected=["land"])
    land = np.array(["de", "fr"] * 600, dtype=object)
    features = {"age": np.arange(1200.0), "size": np.arange(1200.0) % 9, "land": land}
    hours = np.linspace(1.7e9, 1.7e9 + 30 * 3600.0, 1200)

    def told(arrivals, config=config):
        (one,) = look(arrivals, config, lambda *_: None)
        return {c["check"]: (c["ready"], c["text"]) for c in one["checks"]}

    whole = batch(1200, features=features, ts=hours)
    said = told([whole, labels(1200)])
    assert {check for check, (ready, _) in said.items() if not ready} == {
        "against other versions", "what a loss is made of",
    }  # fmt: skip
    assert said["quality by slice"][1] == "by land, how sure it was"
    assert said["gaps between groups"][1] == "between values of land"
    assert said["inputs: rhythm of the day"][1] == "30 h of rows are there"
    assert "AUC" in said["precision, recall, errors in size"][1]
    few = told([batch(1200, features=features), labels(150)])
    assert "0.0 h so far" in few["inputs: rhythm of the day"][1]
    assert "200 labelled rows: 150 so far" in few["relation to the label"][1]
    assert "1,000 labelled rows: 150 so far" in few["accuracy without labels"][1]
    none = told([batch(1200), labels(1200)])
    assert none["gaps between groups"] == (False, "texts of 2 to 8 values; land is none")
    assert "two features" in none["inputs: joint change"][1]
    given = WatchModels(min_rows=100, reference={"fraud": "train.parquet"})
    first = told([batch(10, features={k: v[:10] for k, v in features.items()})], given)
    for check in (
        "inputs: contract, drift", "inputs: joint change", "mix of predictions",
        "what a loss is made of",
    ):  # fmt: skip
        assert first[check][0], check
    assert first["accuracy without labels"][0]
    numbers = told([batch(pred=np.linspace(0.0, 1.0, 50), proba=np.full(50, np.nan))])
    assert numbers["accuracy without labels"] == (False, "classes: for numbers there is none")
    assert "RMSE" in numbers["precision, recall, errors in size"][1]


def test_a_regression_and_labels_alone():
    numbers = batch(pred=np.linspace(0.0, 1.0, 50), proba=np.full(50, np.nan))
    assert checks([numbers])["accuracy"][1].startswith("100 labelled rows")
    (alone,) = look(
        [labels(5)], CONFIG, lambda *_: None, [Guess("label", "label", "named so", 0.9)]
    )
    assert (alone["rows"], alone["labels"], alone["checks"][0]["ready"]) == (0, 5, False)
    assert alone["columns"][0]["column"] == "label"
    assert look([], CONFIG, lambda *_: None) == []


# ---- at the terminal


@pytest.fixture
def homeostat(monkeypatch, capsys, tmp_path):
    for name in ("HOMEOSTAT_CONFIG", "HOMEOSTAT_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["homeostat", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def write(path, n=300):
    path.write_text(
        "\n".join(
            json.dumps({"id": f"r{i}", "ts": 1.7e9 + i, "model": "fraud", "version": "3", "pred": str(i % 2),
                        "features": {"age": 20.0 + i % 40, "country": "DE" if i % 3 else "FR"}, "proba": 0.75})
            for i in range(n)
        ) + "\n"
    )  # fmt: skip
    return path


def test_try_predictions_shows_rows_roles_and_what_checks_wait_for(homeostat, tmp_path):
    log = write(tmp_path / "log.jsonl")
    code, out, _ = homeostat("try", "predictions", "--set", f"path={log}")
    assert code == 0
    for part in ("model:fraud version 3: 300 rows accepted", "a field of the record", "waits for",
                 "a reference, or the first 1,000 rows: 300 so far", "100 labelled rows: 0 so far"):  # fmt: skip
        assert part in out, part
    code, out, _ = homeostat("try", "predictions", "--set", f"path={log}", "--json")
    (one,) = json.loads(out)["models"]
    assert one["rows"] == 300
    assert {c["column"] for c in one["columns"]} >= {"id", "pred", "age", "country"}


def test_try_takes_the_reference_of_another_connector(homeostat, tmp_path):
    log = write(tmp_path / "log.jsonl")
    version = tmp_path / "models" / "fraud" / "3"
    version.mkdir(parents=True)
    (version / "metadata.json").write_text(
        json.dumps({"version": "3", "role": "candidate", "features": ["age"]})
    )
    code, out, _ = homeostat(
        "reference",
        "make",
        log,
        "--model",
        "fraud",
        "--version",
        "3",
        "-o",
        version / "reference.json",
    )
    assert code == 0
    assert "wrote" in out
    assert "300 rows, 2 features" in out
    config = tmp_path / "agent.yaml"
    connectors = {
        "logs": {"use": "predictions", "path": str(log)},
        "models": {"use": "model_directory", "path": str(tmp_path / "models")},
    }
    config.write_text(json.dumps({"connectors": connectors}))
    code, out, _ = homeostat("try", "logs", "--config", config)
    assert code == 0
    assert "against the reference of 300 rows" in out


def test_try_a_batch_run_with_roles_that_a_person_says(homeostat, tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text(
        "".join(
            json.dumps({"cust_no": f"n{i}", "x": i % 5, "yhat": i % 2}) + "\n" for i in range(40)
        )
    )
    code, out, _ = homeostat(
        "try", "batch_scoring", "--set", f"path={path}", "--set", "model=churn", "--set", "settle=0s",
        "--set", "columns.cust_no=id", "--json",
    )  # fmt: skip
    assert code == 0
    said = json.loads(out)
    assert said["records"] == {"predictions": 40}
    assert {c["column"]: c["role"] for c in said["models"][0]["columns"]} == {
        "cust_no": "id", "x": "feature", "yhat": "prediction",
    }  # fmt: skip


def test_a_reference_is_not_written_over_and_faults_are_told(homeostat, tmp_path):
    log = write(tmp_path / "log.jsonl")
    out = tmp_path / "reference.json"
    assert homeostat("reference", "make", log, "-m", "fraud", "-o", out)[0] == 0
    code, _, err = homeostat("reference", "make", log, "-m", "fraud", "-o", out)
    assert (code, "--force" in err) == (1, True)
    code, said, _ = homeostat(
        "reference",
        "make",
        log,
        "-m",
        "fraud",
        "-o",
        out,
        "--force",
        "--column",
        "features.age=ignore",
        "--json",
    )
    assert (code, json.loads(said)["features"]) == (0, 1)
    assert (
        homeostat("reference", "make", log, "-m", "m", "-o", out, "--force", "--column", "age")[0]
        == 1
    )
    assert (
        homeostat("reference", "make", tmp_path / "no.jsonl", "-m", "m", "-o", tmp_path / "x")[0]
        == 1
    )
    assert (
        homeostat("reference", "make", tmp_path / "no.xls", "-m", "m", "-o", tmp_path / "x")[0] == 1
    )
    assert not (tmp_path / "x").exists()
