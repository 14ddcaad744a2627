"""References made from rows: read by the drift detector as the trainers' own are."""

import json

import numpy as np
import pytest

from agent.errors import Refused
from agent.ports import PredictionBatch
from agent.reference import SAMPLE_ROWS, Maker, read_json, write_json
from detectors.drift.reference import MISSING, read


def batch(features, pred=None, proba=None):
    n = len(next(iter(features.values()))) if features else len(pred)
    return PredictionBatch(
        model="m", version="", ts=np.zeros(n), ids=("",) * n, features=features, pred=pred,
        proba=np.full(n, np.nan) if proba is None else proba, latency_s=np.full(n, np.nan),
        processing_s=np.full(n, np.nan), status=np.full(n, 200),
    )  # fmt: skip


def objects(*values):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


RANDOM = np.random.default_rng(3)


def test_a_made_reference_is_what_the_detector_reads():
    x = RANDOM.normal(50, 10, 4000)
    x[:400] = np.nan
    town = objects(*np.array(["DE", "FR", "US"])[RANDOM.integers(0, 3, 4000)])
    town[:200] = None
    pred = objects(*np.where(RANDOM.random(4000) < 0.3, "1", "0"))
    truth = [p if i % 10 else None for i, p in enumerate(pred)]
    truth[1] = "0" if pred[1] == "1" else "1"
    maker = Maker()
    for i in range(0, 4000, 1000):
        at = slice(i, i + 1000)
        features = {"x": x[at], "town": town[at], "flat": np.full(1000, 7.0)}
        maker.take(batch(features, pred[at], np.full(1000, 0.75)), truth[at])
    made = maker.made()
    assert made["rows"] == 4000
    assert made["confidence"] == 0.75
    assert made["accuracy"] == pytest.approx(1 - 1 / 3600)
    assert made["classes"]["1"] == pytest.approx(0.3, abs=0.03)
    assert maker.labelled == 3600
    one = made["features"]["x"]
    assert (one["min"], one["max"]) == (np.nanmin(x), np.nanmax(x))
    assert one["missing"] == pytest.approx(0.1)
    assert one["median"] == pytest.approx(np.nanmedian(x))
    assert sum(one["shares"]) == pytest.approx(1)
    reference = read(json.loads(json.dumps(made)))
    assert reference.names == ("flat", "town", "x")
    assert reference.rows.tolist() == [4000.0] * 3
    assert reference.numeric.tolist() == [True, False, True]
    assert reference.shares[2, MISSING] == pytest.approx(0.1)
    assert reference.shares[1, MISSING] == pytest.approx(0.05)
    assert reference.shares.sum(axis=1) == pytest.approx(1)


def test_the_same_rows_make_the_same_reference_and_memory_is_bounded():
    def make():
        maker = Maker()
        random = np.random.default_rng(1)
        for _ in range(8):
            x = random.normal(0, 1, 10_000)
            maker.take(
                batch({"x": x, "key": objects(*map(str, random.integers(0, 10**6, 10_000)))})
            )
        return maker

    one = make()
    assert len(one._keys) == SAMPLE_ROWS
    assert len(one._sample["x"]) == SAMPLE_ROWS
    assert len(one._values["key"]) <= 10_000
    made = one.made()
    assert made == make().made()
    x = np.concatenate([np.random.default_rng(1).normal(0, 1, 10_000) for _ in range(1)])
    edges = np.array(made["features"]["x"]["edges"])
    assert edges[10] == pytest.approx(np.median(x), abs=0.05)
    assert made["features"]["x"]["shares"] == pytest.approx([0.05] * 20, abs=0.002)
    assert len(made["features"]["key"]["values"]) <= 1000


def test_columns_that_come_and_go_or_change_their_type():
    maker = Maker()
    maker.take(batch({"x": np.arange(10.0)}))
    maker.take(batch({"x": objects("1", "many", None, 3.0), "late": np.arange(4.0)}))
    maker.take(
        batch(
            {"late": np.full(6, np.nan), "empty": np.full(6, np.nan), "none": objects(*[None] * 6)}
        )
    )
    made = maker.made()
    assert set(made["features"]) == {"x", "late"}
    assert made["features"]["x"]["missing"] == pytest.approx(8 / 20)
    assert made["features"]["late"]["missing"] == pytest.approx(16 / 20)
    assert made["features"]["late"]["max"] == 3.0
    assert "accuracy" not in made
    assert "classes" not in made
    assert read(made).names == ("late", "x")


def test_a_regression_has_no_classes():
    maker = Maker()
    maker.take(batch({"x": np.arange(10.0)}, np.arange(10.0)), [1.0] * 10)
    assert set(maker.made()) == {"rows", "features"}


def test_nothing_makes_no_reference(tmp_path):
    with pytest.raises(Refused, match="no rows"):
        Maker().made()
    maker = Maker()
    maker.take(batch({}, objects("1")))
    with pytest.raises(Refused, match="no features"):
        maker.made()
    write_json(tmp_path / "r.json", {"rows": 1})
    assert read_json(tmp_path / "r.json") == {"rows": 1}
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ValueError, match="no reference"):
        read_json(tmp_path / "r.json")
