"""What the model watch makes of labels, inputs and releases together, on made-up services whose truth is known."""

import math

import numpy as np
import pytest

from agent.config import WatchModels
from agent.errors import Refused
from agent.model_views import model_view
from agent.models import ModelWatch
from agent.models.cause import blame
from agent.ports import LabelBatch, PredictionBatch

ROW_S = 0.1
COLOURS = np.array(["blue", "green", "red"], dtype=object)


class Service:
    """A classifier of three numbers and a colour; `world` turns what it sees and what is true."""

    def __init__(self, seed=0, config=None, *, numbers=False):
        self.random = np.random.default_rng(seed)
        self.watch = ModelWatch(config or WatchModels(), lambda _m, _v: None, lambda _m: None)
        self.numbers, self.version, self.rows, self.now = numbers, "1", 0, 0.0
        self.weights = np.array([1.5, -1.0, 0.8])
        self.true = self.weights
        self.moved = np.zeros(3)
        self.of_red = None
        self.watch.fit(*self.made(4000, -400.0), whole=False)

    def made(self, n, start):
        x = self.random.normal(size=(n, 3)) + self.moved
        colour = self.random.integers(0, 3, n)
        score, truth = x @ self.weights, x @ self.true
        if self.of_red is not None:
            truth = np.where(colour == 2, x @ self.of_red, truth)
        ts = start + (1 + np.arange(n)) * ROW_S
        ids = tuple(f"{self.rows + i}" for i in range(n))
        columns = {f"x{i}": np.ascontiguousarray(x[:, i]) for i in range(3)} | {
            "colour": COLOURS[colour]
        }
        nan = np.full(n, np.nan)
        if self.numbers:
            said, sure = score, nan
            labels = list(truth + 0.5 * self.random.normal(size=n))
        else:
            p = 1 / (1 + np.exp(-score))
            said = np.where(p >= 0.5, "1", "0").astype(object)
            sure = np.maximum(p, 1 - p)
            labels = list(np.where(self.random.random(n) < 1 / (1 + np.exp(-truth)), "1", "0"))
        batch = PredictionBatch(
            "churn", self.version, ts, ids, columns, said, sure, nan, nan, np.full(n, 200)
        )
        return batch, labels

    def serve(self, rows, *, late=0, until=None, size=100):
        """Let rows pass, `size` at a time, labels at once; returns after which row `until` holds."""
        waiting = []
        for done in range(size, rows + 1, size):
            batch, labels = self.made(size, self.now)
            self.rows += size
            self.now = float(batch.ts[-1])
            self.watch.take(batch)
            waiting.append(LabelBatch("churn", np.full(size, self.now), batch.ids, tuple(labels)))
            if len(waiting) > late // size:
                self.watch.take(waiting.pop(0))
            self.frame = self.watch.frame(self.now)
            if until is not None and until(self):
                return done
        return None

    @property
    def facts(self):
        return self.watch.facts("churn")

    def suspects(self):
        return blame(self.facts, self.now)

    def value(self, metric, **labels):
        for series, value in zip(self.frame.series, self.frame.values, strict=True):
            if series.metric == metric and dict(series.labels) == labels:
                return float(value)
        raise AssertionError(f"{metric} {labels} is not in the frame")


def named(service):
    return bool(service.suspects())


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_blamed_while_all_is_as_it_was(seed):
    service = Service(seed)
    assert service.serve(6000, until=named) is None
    facts = service.facts
    assert facts.judged.expected.low < facts.accuracy < facts.judged.expected.high
    assert {"precision", "recall", "f1", "roc_auc", "brier"} <= set(facts.judged.figures)
    assert facts.judged.figures["precision"].low < facts.judged.figures["precision"].value


@pytest.mark.parametrize("seed", range(3))
def test_inputs_that_moved_are_the_data_and_the_features_are_named(seed):
    service = Service(seed)
    service.serve(3000)
    service.moved = np.array([0.0, 1.0, 0.0])
    assert service.serve(3000, until=named) <= 300
    first = service.suspects()[0]
    assert first.cause == "data.drift"
    assert first.features == ("x1",)
    assert service.value("feature.drifted") in {0.0, 1.0}


@pytest.mark.parametrize("late", [0, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_a_relation_that_turned_is_the_concept_however_late_labels_are(seed, late):
    service = Service(seed)
    service.serve(3000 + late, late=late)
    service.true = np.array([-1.5, -1.0, 0.8])
    assert service.serve(4000, late=late, until=named) <= late + 500
    assert service.suspects()[0].cause == "concept.drift"
    assert service.value("model.relation_changed") == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_of_one_slice_alone_the_slice_is_named(seed):
    service = Service(seed)
    service.serve(3000)
    service.of_red = np.array([-1.5, -1.0, 0.8])
    assert service.serve(4000, until=named) <= 900
    (suspect,) = service.suspects()
    assert suspect.cause == "concept.drift"
    service.serve(2000)
    told = {(c.what, c.value) for c in service.facts.judged.changes}
    assert ("colour", "red") in told
    slices = service.facts.judged.slices
    assert slices["colour", "red"].value < slices["colour", "blue"].value - 0.1


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_release_that_errs_is_the_release(seed, numbers):
    service = Service(seed, numbers=numbers)
    service.serve(3000)
    service.version, service.weights = "2", np.array([-1.0, 1.5, 0.8])
    assert service.serve(3000, until=named) <= 300
    assert service.suspects()[0].cause == "release.model"


def test_a_release_is_blamed_though_the_one_before_it_has_not_left_yet():
    service = Service(1, numbers=True)
    service.serve(3000)
    service.version, service.weights = "2", -service.weights
    assert service.serve(3000, until=named, size=50) == 50
    assert set(service.facts.serving) == {"1", "2"}
    assert service.suspects()[0].cause == "release.model"


@pytest.mark.parametrize("numbers", [False, True])
def test_a_release_that_changes_nothing_is_not_blamed(numbers):
    service = Service(5, numbers=numbers)
    service.serve(2000)
    service.version = "2"
    assert service.serve(2000, until=named) is None
    assert service.facts.worse_than_previous is False


def test_a_unit_that_changed_is_a_broken_contract_and_comes_first():
    service = Service(2)
    service.serve(2000)
    made = service.made

    def scaled(n, start):
        batch, labels = made(n, start)
        batch.features["x0"][:] *= 1000.0
        return batch, labels

    service.made = scaled
    assert service.serve(2000, until=named) <= 200
    service.serve(1000)
    assert service.suspects()[0].cause == "data.contract"
    assert service.suspects()[0].features == ("x0",)


def test_a_regression_has_errors_in_the_unit_of_its_label():
    service = Service(3, numbers=True)
    service.serve(5000)
    figures = service.facts.judged.figures
    assert figures["rmse"].low < 0.5 < figures["rmse"].high
    assert figures["rmse"].value == pytest.approx(0.5, rel=0.05)
    assert figures["r2"].value > 0.9
    assert math.isnan(service.facts.accuracy)
    assert service.value("model.label_coverage_ratio") == pytest.approx(1.0)
    assert not service.suspects()
    service.true = np.array([3.0, -1.0, 0.8])
    assert service.serve(3000, until=named) <= 500
    assert service.suspects()[0].cause == "concept.drift"


def test_gaps_between_protected_groups_are_metrics():
    service = Service(4, WatchModels(protected=["colour"]))
    service.of_red = np.array([-1.5, -1.0, 0.8])
    service.serve(5000)
    gap = service.value("model.fairness_gap_ratio", group="colour", kind="accuracy")
    assert 0.15 < gap < 0.6
    band = service.facts.judged.gaps["colour", "accuracy"]
    assert 0.0 < band.low < gap < band.high


@pytest.mark.parametrize("numbers", [False, True])
def test_a_restart_changes_nothing(numbers):
    service = Service(5, numbers=numbers)
    service.serve(2500)
    other = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    other.load(service.watch.dump())
    for _ in range(12):
        batch, labels = service.made(100, service.now)
        service.rows += 100
        service.now = float(batch.ts[-1])
        told = LabelBatch("churn", np.full(100, service.now), batch.ids, tuple(labels))
        frames = []
        for watch in (service.watch, other):
            watch.take(batch)
            watch.take(told)
            frames.append(watch.frame(service.now))
        assert frames[0].series == frames[1].series
        np.testing.assert_allclose(frames[0].values, frames[1].values, rtol=1e-6, atol=1e-9)
    assert service.facts.judged.changes == other.facts("churn").judged.changes


def test_what_people_are_shown_is_plain_data():
    service = Service(6)
    service.serve(3000)
    service.true = np.array([-1.5, -1.0, 0.8])
    service.serve(1500)
    shown = model_view(service.facts, service.suspects())
    assert shown["model"] == "churn"
    assert shown["serving"][0]["version"] == "1"
    assert shown["suspects"][0]["cause"] == "concept.drift"
    assert shown["slices"]["colour=red"]["low"] < shown["slices"]["colour=red"]["value"]
    assert all(band["value"] is not None for band in shown["figures"].values())


def test_labels_that_are_turned_round_or_of_one_class_are_the_labels():
    for turn in (lambda label: "0" if label == "1" else "1", lambda _label: "1"):
        service = Service(7)
        service.serve(3000)
        made = service.made
        service.made = lambda n, start, made=made, turn=turn: (
            (got := made(n, start))[0],
            [turn(label) for label in got[1]],
        )
        assert service.serve(2000, until=named) <= 300
        service.serve(300)
        assert service.suspects()[0].cause == "label.bad"


def test_a_joint_change_in_a_wide_model_is_not_cut_off_behind_larger_indexes():
    random = np.random.default_rng(8)
    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)

    def rows(n, start, sign):
        columns = {f"w{i:02}": random.normal(size=n) for i in range(14)}
        a = random.normal(size=n)
        columns["y"], columns["z"] = a, sign * 0.9 * a + 0.44 * random.normal(size=n)
        nan = np.full(n, np.nan)
        ts = start + (1 + np.arange(n)) * ROW_S
        said = np.array(["1"] * n, dtype=object)
        return PredictionBatch(
            "wide", "1", ts, ("",) * n, columns, said, nan, nan, nan, np.full(n, 200)
        )

    watch.fit(rows(4000, -400.0, 1.0), [None] * 4000)
    for i in range(20):
        watch.take(rows(100, i * 10.0, 1.0 if i < 10 else -1.0))
        watch.frame((i + 1) * 10.0)
    (suspect,) = blame(watch.facts("wide"), 200.0)
    assert suspect.cause == "data.drift"
    assert set(suspect.features) == {"y", "z"}


def test_a_reference_with_impossible_probabilities_is_taken_without_them():
    service = Service(9)
    batch, labels = service.made(3000, -300.0)
    batch.proba[::3] *= 100.0
    service.watch.fit(batch, labels)
    service.serve(300)
    assert service.facts.reference_accuracy > 0.6


def test_other_protected_groups_after_a_restart_cost_what_labels_said_and_nothing_else():
    service = Service(10)
    service.serve(2000, late=500)
    other = ModelWatch(WatchModels(protected=["colour"]), lambda _m, _v: None, lambda _m: None)
    changed = service.watch.dump().replace(b'"unsure"', b'"UNSURE"')
    with pytest.raises(Refused):  # bytes that were altered are damage
        other.load(changed)
    state = service.watch._models["churn"].versions["1"].labelled
    state.slices = (("colour", ("blue", "green")), *state.slices[1:])
    other.load(service.watch.dump())
    facts = other.facts("churn")
    assert facts.current.rows == service.facts.current.rows
    assert facts.reference_accuracy == service.facts.reference_accuracy
    assert not facts.judged.figures


def test_a_version_that_serves_anew_is_not_blamed_for_what_it_did_before():
    service = Service(11)
    service.serve(3000)
    service.true = np.array([-1.5, -1.0, 0.8])
    service.serve(1500, until=named)
    service.version, service.true = "2", service.weights
    service.serve(1500)
    service.version = "1"
    service.serve(200)
    labelled = service.watch._models["churn"].versions["1"].labelled
    assert not labelled.judge(service.now).changed
