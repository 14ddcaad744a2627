"""What versions say, as columns that are watched: predictions, confidence, class probabilities; generators; tags."""

import math
from dataclasses import replace

import numpy as np
import pytest

from agent.config import WatchModels
from agent.models import ModelWatch
from agent.models.generated import Generated
from agent.models.tags import MOST_VALUES, Tags
from agent.ports import LabelBatch, PredictionBatch


class Model:
    """A classifier whose inputs stay as they are, and whose answers do what the test says."""

    def __init__(self, seed=0, config=None, reference=None):
        self.random = np.random.default_rng(seed)
        self.watch = ModelWatch(config or WatchModels(), lambda _m, _v: reference, lambda _m: None)
        self.now, self.share, self.sure, self.more = 0.0, 0.3, 0.0, {}

    def batch(self, n, start):
        x = self.random.normal(size=n)
        said = np.where(self.random.random(n) < self.share, "1", "0").astype(object)
        sure = np.clip(self.random.beta(8, 2, n) + self.sure, 0.5, 1.0)
        nan = np.full(n, np.nan)
        ts = start + 0.1 * (1 + np.arange(n))
        ids = tuple(f"{start:.1f}/{i}" for i in range(n))
        more = {name: make(n) for name, make in self.more.items()}
        batch = PredictionBatch("m", "1", ts, ids, {"x": x}, said, sure, nan, nan, np.full(n, 200))
        return replace(batch, **more)

    def serve(self, rows):
        for _ in range(rows // 100):
            batch = self.batch(100, self.now)
            self.watch.take(batch)
            self.now += 10.0
            self.frame = self.watch.frame(self.now)
        return {s.name: s for s in self.watch.facts("m").outputs}

    def values(self, metric):
        return {
            tuple(v for _, v in s.labels): float(x)
            for s, x in zip(self.frame.series, self.frame.values, strict=True)
            if s.metric == metric
        }


def test_outputs_that_stay_are_no_drift_and_those_that_move_are_named():
    model = Model()
    model.watch.fit(model.batch(4000, -400.0), [None] * 4000)
    said = model.serve(3000)
    assert not any(s.drifted for s in said.values())
    model.sure = 0.12
    said = model.serve(1500)
    assert {name for name, s in said.items() if s.drifted} == {"confidence"}
    model.share = 0.6
    said = model.serve(1500)
    assert {name for name, s in said.items() if s.drifted} == {"confidence", "prediction"}
    assert model.values("model.output_drifted") == {("confidence",): 1.0, ("prediction",): 1.0}
    facts = model.watch.facts("m")
    assert facts.drifted == () or not any(s.drifted for s in facts.drifted)


def test_the_mix_of_a_reference_json_is_what_predictions_are_held_against():
    found = {"rows": 5000, "features": {}, "classes": {"0": 0.7, "1": 0.3}}
    model = Model(1, reference=found)
    assert not model.serve(2000)["prediction"].drifted
    model.share = 0.6
    assert model.serve(1500)["prediction"].drifted


def test_class_probabilities_are_columns_of_their_own():
    model = Model(2)

    def shares(n):
        p = model.random.dirichlet((6.0, 3.0, 1.0), n)
        return p if not model.sure else p[:, [0, 2, 1]]

    model.more = {"classes": lambda _n: ("a", "b", "c"), "shares": shares}
    model.watch.fit(model.batch(4000, -400.0), [None] * 4000)
    assert not any(s.drifted for s in model.serve(2000).values())
    model.sure = 1e-9
    drifted = {name for name, s in model.serve(1500).items() if s.drifted}
    assert drifted == {"probability of b", "probability of c"}


def test_of_a_regression_the_numbers_are_the_column():
    rng = np.random.default_rng(3)
    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)

    def batch(n, start, level):
        nan = np.full(n, np.nan)
        ts, x = start + 0.1 * np.arange(n), rng.normal(size=n)
        said = level + rng.normal(size=n)
        return PredictionBatch(
            "m", "1", ts, ("",) * n, {"x": x}, said, nan, nan, nan, np.full(n, 200)
        )

    watch.fit(batch(3000, -300.0, 5.0), [None] * 3000)
    for i in range(30):
        watch.take(batch(100, 10.0 * i, 5.0 if i < 15 else 6.0))
        watch.frame(10.0 * (i + 1))
        (one,) = watch.facts("m").outputs
        assert (one.name, one.drifted) == ("prediction", i >= 17) or 15 <= i < 20


def test_a_restart_goes_on_with_outputs_and_generators():
    model, other = Model(4), Model(4)
    for one in (model, other):
        one.more = {"tokens_out": lambda n, one=one: one.random.integers(5, 50, n).astype(float)}
        one.serve(1500)
    other.watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    other.watch.load(model.watch.dump())
    one, two = model.serve(500), other.serve(500)
    assert {k: v.psi for k, v in one.items()} == {k: v.psi for k, v in two.items()}
    assert model.watch.dump() == other.watch.dump()


# ---------------------------------------------------------------- generators


def test_tokens_time_to_the_first_and_reasons_are_figures_of_a_version():
    model = Model(5)
    model.more = {
        "tokens_in": lambda n: np.full(n, 200.0),
        "tokens_out": lambda n: np.arange(1.0, n + 1.0),
        "ttft_s": lambda n: np.linspace(0.1, 0.3, n),
        "finish": lambda n: np.where(np.arange(n) % 4 == 0, "length", "stop").astype(object),
    }
    model.serve(1000)
    assert model.values("version.tokens_in_mean_count") == {(): pytest.approx(200.0)}
    assert model.values("version.tokens_out_mean_count") == {(): pytest.approx(50.5)}
    assert model.values("version.tokens_out_p95_count") == {(): pytest.approx(95.0, rel=0.04)}
    assert model.values("version.ttft_p50_seconds") == {(): pytest.approx(0.2, rel=0.04)}
    assert model.values("version.finish_ratio") == {
        ("length",): pytest.approx(0.25), ("stop",): pytest.approx(0.75),
    }  # fmt: skip
    model.now += 1000.0
    model.frame = model.watch.frame(model.now)
    assert math.isnan(model.values("version.ttft_p50_seconds")[()])


def test_who_generates_nothing_has_none_of_it():
    model = Model(6)
    model.serve(500)
    assert not any(s.metric.startswith(("version.tok", "version.ttft")) for s in model.frame.series)


def test_reasons_to_stop_are_few_and_the_rest_is_one():
    made = Generated(100.0, 10)
    model = Model(7)
    finish = np.array([f"reason {i}" for i in range(100)], dtype=object)
    made.take(1.0, replace(model.batch(100, 0.0), finish=finish), slice(None))
    shares = {k: v for (name, k), v in made.figures(2.0).items() if name == "version.finish_ratio"}
    assert len(shares) == 9
    assert shares["other"] == pytest.approx(0.92)


# ---------------------------------------------------------------- tags


def test_the_values_of_a_named_tag_are_slices():
    model = Model(8, WatchModels(slices=["region"]))
    model.more = {
        "tags": lambda n: {
            "region": np.where(np.arange(n) % 2 == 0, "eu", "us").astype(object),
            "other": np.full(n, "x", dtype=object),
        }
    }
    model.serve(1000)
    for _ in range(10):
        batch = model.batch(100, model.now)
        model.watch.take(batch)
        right = [p if i % 2 == 0 else "?" for i, p in enumerate(batch.pred)]
        model.watch.take(LabelBatch("m", np.full(100, model.now), batch.ids, tuple(right)))
        model.now += 10.0
        model.watch.frame(model.now)
    model.now += 61.0
    model.frame = model.watch.frame(model.now)
    slices = model.watch.facts("m").judged.slices
    assert slices["region", "eu"].value == 1.0
    assert slices["region", "us"].value == 0.0
    assert not any(name == "other" for name, _ in slices)
    assert model.values("model.slice_accuracy_ratio")["region", "us"] == 0.0


def test_more_values_than_there_is_room_for_are_of_no_slice():
    tags = Tags(["a"])
    column = np.array([f"v{i}" for i in range(MOST_VALUES + 3)] + [None, "v0"], dtype=object)
    (code,) = tags.code({"a": column}, slice(None), len(column))
    assert code.tolist() == [*range(MOST_VALUES), 255, 255, 255, 255, 0]
    assert tags.value("a", "#1") == "v0"
    assert tags.value("b", "#1") == "#1"
