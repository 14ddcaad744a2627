"""Rows as a reference: read from a file, and given to the version that has none."""

import numpy as np
import pytest

from agent import registry
from agent.config import WatchModels
from agent.errors import AgentError
from agent.models import ModelWatch
from agent.models.made import make
from agent.ports import PredictionBatch
from agent.reference import read_rows, reader_of_rows


@pytest.fixture
def reader():
    registry.load()
    return reader_of_rows()


def csv(path, rows, seed=0):
    random = np.random.default_rng(seed)
    lines = ["age,land,prediction,probability,label"]
    for i in range(rows):
        age, land = random.normal(40, 5), random.choice(["DE", "FR"])
        said = int(age > 40)
        truth = said if random.random() < 0.9 else 1 - said
        lines.append(f"{age:.3f},{land},{said},{random.uniform(0.8, 1.0):.3f},{truth}")
        if i == rows - 1:
            lines[-1] = f"99.5,{land},{said},0.9,{truth}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_newest_rows_are_read_in_their_order(tmp_path, reader):
    batch, truth = read_rows(csv(tmp_path / "train.csv", 25_000), reader, "fraud", most=10_000)
    assert 10_000 <= len(truth) == len(batch.ts) == len(batch.features["age"]) < 20_000
    assert batch.features["age"][-1] == 99.5
    assert set(map(str, truth)) == {"0", "1"}


def test_a_version_that_has_none_is_held_to_them_from_its_first_row(tmp_path, reader):
    pytest.importorskip("pyarrow")
    made = make(WatchModels(), *read_rows(csv(tmp_path / "train.csv", 3000), reader, "fraud"))
    asked = []

    def rows(model, version):
        asked.append((model, version))
        return made if model == "fraud" else None

    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None, rows)
    random = np.random.default_rng(1)
    now = 0.0
    for i in range(5):
        n = 100
        now += 10.0
        nan = np.full(n, np.nan)
        watch.take(
            PredictionBatch(
                "fraud", "3", np.full(n, now), tuple(f"{i}/{j}" for j in range(n)),
                {"age": random.normal(4000, 500, n), "land": np.array(["DE"] * n, dtype=object)},
                np.array(["1"] * n, dtype=object), np.full(n, 0.9), nan, nan, np.full(n, 200),
            )
        )  # fmt: skip
        watch.frame(now)
    assert asked == [("fraud", "3")]
    facts = watch.facts("fraud")
    assert facts.reference_accuracy == pytest.approx(0.9, abs=0.03)
    broken = {state.name: state.reason for state in facts.broken}
    assert "x100" in broken["age"]


def test_a_file_that_is_not_there_is_said(tmp_path, reader):
    with pytest.raises((OSError, AgentError)):
        read_rows(tmp_path / "no.csv", reader, "fraud")
