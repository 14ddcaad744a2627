"""Streams with known truth: what the watch says must be what was put in."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_story import two_versions

import detectors.drift  # noqa: F401  # registers the drift detectors
from agent.catalogue import SIGNALS
from agent.config import WatchModels
from agent.errors import Refused
from agent.model import Edge, Entity, Frame, Series
from agent.models import ModelFacts, ModelWatch
from agent.models.numbers import Numbers
from agent.models.state import Tenure
from agent.ports import LabelBatch, PredictionBatch

CONFIG = WatchModels(window=60.0, min_rows=100)
NAMES = ("area", "texture", "smooth", "count")


def draw(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Rows as they always are."""
    return {
        "area": rng.lognormal(6.5, 0.5, n),
        "texture": rng.normal(20.0, 4.0, n),
        "smooth": rng.normal(0.0, 1.0, n),
        "count": rng.poisson(3.0, n).astype(np.float64),
    }


def reference_of(
    columns: Mapping[str, np.ndarray], accuracy: float, shares: Mapping[str, float]
) -> dict[str, Any]:
    features = {}
    rows = 0
    for name, x in columns.items():
        rows = len(x)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, 11)))
        counts, _ = np.histogram(x, edges)
        features[name] = {
            "edges": edges.tolist(),
            "shares": (counts / rows).tolist(),
            "missing": 0.0,
            "min": float(x.min()),
            "max": float(x.max()),
            "median": float(np.median(x)),
        }
    return {"rows": rows, "accuracy": accuracy, "classes": dict(shares), "features": features}


@dataclass
class Life:
    """A model service: rows, late labels, versions of known accuracy; one step is one second."""

    seed: int = 0
    rate: float = 60.0
    config: WatchModels = CONFIG
    delay_s: tuple[float, float] = (2.0, 4.0)
    service: str | None = "scoring"
    now: float = 1_000_000.0
    accuracy: dict[str, float] = field(default_factory=lambda: {"1": 0.95})
    version: str = "1"
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda c: c
    flip: float = 0.0
    references: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.references.setdefault(
            "1", reference_of(draw(self.rng, 500), 0.95, {"good": 0.6, "bad": 0.4})
        )
        self.watch = self.new_watch()
        self.waiting: list[tuple[float, str, str]] = []
        self.number = 0
        self.frame: Frame = self.watch.frame(self.now)
        self.frames: list[Frame] = []
        self.sightings: dict[Entity, Any] = {}
        self.edges: set[Edge] = set()

    def new_watch(self) -> ModelWatch:
        return ModelWatch(self.config, self.made_with, self.served_by)

    def made_with(self, _model: str, version: str) -> Any:
        return self.references.get(version)

    def served_by(self, _model: str) -> str | None:
        return self.service

    def rows(self, n: int, version: str | None = None) -> PredictionBatch:
        version = version or self.version
        rng = self.rng
        ts = np.sort(self.now - rng.random(n))
        good = rng.random(n) < 0.6
        right = rng.random(n) < self.accuracy[version]
        pred = np.where(good == right, "good", "bad").astype(object)
        truth = np.where(good != (rng.random(n) < self.flip), "good", "bad")
        ids = tuple(f"r{self.number + i}" for i in range(n))
        self.number += n
        due = ts + rng.uniform(*self.delay_s, n)
        self.waiting += zip(due.tolist(), ids, truth.tolist(), strict=True)
        return PredictionBatch(
            model="cancer",
            version=version,
            ts=ts,
            ids=ids,
            features=self.change(draw(rng, n)),
            pred=pred,
            proba=rng.uniform(0.8, 1.0, n),
            latency_s=rng.lognormal(math.log(0.02), 0.3, n),
            processing_s=rng.lognormal(math.log(0.01), 0.2, n),
            status=np.full(n, 200),
        )

    def labels(self) -> LabelBatch:
        due = [w for w in self.waiting if w[0] <= self.now]
        self.waiting = [w for w in self.waiting if w[0] > self.now]
        return LabelBatch(
            "cancer",
            np.array([w[0] for w in due]),
            tuple(w[1] for w in due),
            tuple(w[2] for w in due),
        )

    def step(self) -> Frame:
        self.now += 1.0
        n = int(self.rng.poisson(self.rate))
        if n:
            self.watch.take(self.rows(n))
        self.watch.take(self.labels())
        return self.look()

    def look(self) -> Frame:
        self.frame = self.watch.frame(self.now)
        self.frames.append(self.frame)
        for seen in self.frame.seen:
            self.sightings[seen.entity] = seen
            self.edges |= set(seen.edges)
        return self.frame

    def run(self, seconds: int) -> list[Frame]:
        return [self.step() for _ in range(seconds)]

    def value(self, metric: str, key: str = "cancer") -> float:
        return value(self.frame, metric, key)

    def features(self) -> set[str]:
        keys = {s.entity.key for s in self.frame.series if s.entity.kind == "feature"}
        return {key.removeprefix("cancer/") for key in keys}

    def until(self, at_most: int, what: Callable[[], bool]) -> int:
        """Go on until something holds; return the seconds that it took."""
        for second in range(1, at_most + 1):
            self.step()
            if what():
                return second
        raise AssertionError(f"not within {at_most} s")

    def until_is(self, at_most: int, metric: str, wanted: float, key: str = "cancer") -> int:
        return self.until(at_most, lambda: self.value(metric, key) == wanted)

    @property
    def facts(self) -> ModelFacts:
        found = self.watch.facts("cancer")
        assert found is not None
        return found


@cache
def _healthy(seed: int, seconds: int) -> Life:
    life = Life(seed=seed)
    life.run(seconds)
    return life


def healthy(seed: int, seconds: int) -> Life:
    """Return a life that has been well so far; several tests go on from the same."""
    return deepcopy(_healthy(seed, seconds))


def value(frame: Frame, metric: str, key: str = "cancer") -> float:
    entity = Entity(SIGNALS[metric].entity_kind, key)  # type: ignore[arg-type]
    return float(frame.values[frame.series.index(Series(metric, entity))])


def alarms(frames: list[Frame]) -> set[str]:
    """Every state that was ever 1."""
    states = {"model.quality_lost", "model.worse_than_previous", "feature.contract_broken"}
    return {
        str(s)
        for f in frames
        for s, v in zip(f.series, f.values, strict=True)
        if s.metric in states and v > 0.5
    }


# ---------------------------------------------------------------- all is well


def test_a_healthy_service_has_the_numbers_that_were_put_in():
    life = Life(seed=1)
    frames = life.run(60)
    assert life.value("service.requests_per_second", "scoring") == pytest.approx(60, rel=0.15)
    assert life.value("model.predictions_per_second") == pytest.approx(60, rel=0.15)
    assert life.value("version.predictions_per_second", "cancer/1") == pytest.approx(60, rel=0.15)
    assert life.value("service.latency_p50_seconds", "scoring") == pytest.approx(0.02, rel=0.08)
    assert life.value("service.latency_p95_seconds", "scoring") == pytest.approx(
        0.02 * math.exp(0.3 * 1.645), rel=0.12
    )
    assert life.value("service.processing_p50_seconds", "scoring") == pytest.approx(0.01, rel=0.06)
    assert life.value("service.error_ratio", "scoring") == 0.0
    assert life.value("model.accuracy_ratio") == pytest.approx(0.95, abs=0.015)
    assert life.value("model.accuracy_low_ratio") < 0.95 < life.value("model.accuracy_high_ratio")
    assert life.value("version.accuracy_ratio", "cancer/1") == life.value("model.accuracy_ratio")
    assert life.value("model.reference_accuracy_ratio") == 0.95
    assert life.value("model.confidence_ratio") == pytest.approx(0.9, abs=0.01)
    assert life.value("model.label_delay_seconds") == pytest.approx(3.0, rel=0.1)
    assert life.value("model.label_coverage_ratio") > 0.99
    assert life.value("model.positive_label_ratio") == pytest.approx(0.6, abs=0.03)
    assert life.value("model.prediction_drift_psi") < 0.02
    assert life.value("model.feature_drift_psi") < 0.1
    assert life.value("feature.missing_ratio", "cancer/area") == 0.0
    assert life.value("feature.scale_ratio", "cancer/texture") == pytest.approx(1.0, abs=0.1)
    assert not alarms(frames)
    assert life.facts.rejected_rows == 0
    assert not life.facts.learning


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_was_set_back_stops_no_traffic(restarted):
    life = Life(seed=1)
    life.run(60)
    if restarted:
        kept, life.watch = life.watch.dump(), life.new_watch()
        life.watch.load(kept)
    life.now -= 7200.0
    life.waiting = [(due - 7200.0, *what) for due, *what in life.waiting]
    life.look()
    life.run(5)  # of what was before it is not known by the new clock when it began
    for _ in range(30):
        life.step()
        assert life.value("model.predictions_per_second") == pytest.approx(60, rel=0.25)
        assert life.value("version.predictions_per_second", "cancer/1") > 30
    assert life.value("service.requests_per_second", "scoring") == pytest.approx(60, rel=0.25)
    assert life.facts.rejected_rows == 0


def test_frames_keep_their_series_and_every_signal_is_in_the_catalogue():
    life = Life(seed=2)
    life.run(5)
    before = life.frame.series
    life.run(5)
    assert life.frame.series is before
    assert list(before) == sorted(set(before))
    assert life.frame.values.shape == (len(before),)
    for series in before:
        assert SIGNALS[series.metric].entity_kind == series.entity.kind


def test_fewer_rows_than_needed_are_unknown_not_a_number():
    life = Life(seed=3, rate=3.0)
    life.run(10)
    for metric in (
        "model.accuracy_ratio",
        "model.accuracy_recent_ratio",
        "model.confidence_ratio",
        "model.quality_lost",
        "model.prediction_drift_psi",
        "model.positive_prediction_ratio",
        "model.label_coverage_ratio",
    ):
        assert math.isnan(life.value(metric)), metric
    assert math.isnan(life.value("service.latency_p99_seconds", "scoring"))
    assert life.value("model.predictions_per_second") == pytest.approx(3.0, abs=1.5)


def test_who_is_there_is_told_once_and_again_when_it_changed():
    life = Life(seed=4)
    life.run(3)
    model, service = Entity("model", "cancer"), Entity("service", "scoring")
    assert Edge("serves", service, model) in life.edges
    assert Edge("version_of", Entity("version", "cancer/1"), model) in life.edges
    assert {e.src.key for e in life.edges if e.kind == "feeds"} == {f"cancer/{n}" for n in NAMES}
    assert dict(life.sightings[model].attrs)["serving"] == "1"
    assert all(not frame.seen for frame in life.run(5))


def test_without_a_service_only_the_model_is_measured():
    life = Life(seed=5, service=None)
    life.run(5)
    assert {s.entity.kind for s in life.frame.series} == {"model", "version", "feature"}
    assert not [e for e in life.edges if e.kind == "serves"]


# ---------------------------------------------------------------- the four cases


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("honest", [True, False])
def test_a_worse_version_is_known_within_seconds_of_its_first_labels(seed, honest):
    life = healthy(seed, 60)
    since = life.now
    life.accuracy["2"] = 0.75
    life.references["2"] = {**life.references["1"], "accuracy": 0.75 if honest else 0.95}
    life.version = "2"
    own = ("version.accuracy_ratio", "cancer/2")
    assert life.until(15, lambda: life.value(*own) == life.value("model.accuracy_ratio")) <= 12
    assert life.value("model.accuracy_ratio") < 0.85
    assert life.until_is(20, "model.worse_than_previous", 1.0) <= 15
    facts = life.facts
    assert facts.current is not None
    assert facts.current.version == "2"
    assert facts.current.since == pytest.approx(since, abs=1.5)
    assert [v.version for v in facts.previous] == ["1"]
    assert facts.previous[0].accuracy == pytest.approx(0.95, abs=0.015)
    assert facts.current.high < facts.previous[0].low
    assert not facts.broken
    life.run(10)
    # against its own reference a version that says it is bad is as good as it says
    assert life.facts.quality_lost is (not honest)
    assert not [a for a in alarms(life.frames) if "contract" in a]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_worse_version_is_known_also_when_something_worse_still_was_tried_and_undone(seed):
    life = healthy(seed, 60)
    for version, accuracy in (("2", 0.78), ("3", 0.4)):
        life.accuracy[version] = accuracy
        life.references[version] = {
            **life.references["1"],
            "accuracy": accuracy,
        }  # they know no better
        life.version = version
        life.run(14)
    assert life.value("model.worse_than_previous") == 1.0
    life.version = "2"
    life.until(15, lambda: math.isnan(life.value("model.worse_than_previous")))
    assert life.until_is(30, "model.worse_than_previous", 1.0) <= 20
    assert life.value("model.accuracy_ratio") > 0.7
    life.version = "1"
    life.run(30)
    assert life.value("model.worse_than_previous") == 0.0


def test_a_version_is_compared_with_the_one_that_served_last_whenever_that_began():
    life = healthy(3, 60)
    life.accuracy |= {"2": 0.5, "3": 0.8}
    for version in ("2", "3"):
        life.references[version] = {**life.references["1"], "accuracy": life.accuracy[version]}
    # a bad one, and back again: read all at once, as after a restart
    for version in "2" * 10 + "1" * 5:
        life.now += 1.0
        life.watch.take(life.rows(60, version))
    life.run(20)
    one, two = (t for t in life.watch._models["cancer"].tenures.values())
    assert (one.version, two.version) == ("1", "2")
    assert two.since > one.since
    assert two.last < one.last
    life.version = "3"
    assert life.until_is(40, "model.worse_than_previous", 1.0) <= 30
    assert life.facts.previous[0].version == "1"


def test_a_version_that_has_long_served_is_compared_with_what_took_its_place():
    def served(number: int, version: str, since: float, until: float | None) -> Tenure:
        tenure = Tenure(number, version, since, 4)
        tenure.until = until
        return tenure

    long = [served(1, "1", 0.0, 1e5), served(2, "2", 1e5, 2e5), served(3, "3", 2e5, 2e5 + 60)]
    back = served(4, "2", 2e5 + 60, None)
    assert Numbers._release([back, *reversed(long)], back) is back
    brief = [long[0], served(2, "2", 2e5, 2e5 + 60), served(3, "3", 2e5 + 60, 2e5 + 90)]
    back = served(4, "2", 2e5 + 90, None)
    assert Numbers._release([back, *reversed(brief)], back) is brief[1]


def test_after_a_roll_back_the_accuracy_is_that_of_new_rows_alone():
    life = Life(seed=6, accuracy={"1": 0.95, "2": 0.6})
    life.references["2"] = life.references["1"]
    life.run(60)
    life.version = "2"
    life.run(20)
    assert life.value("model.accuracy_ratio") == pytest.approx(0.6, abs=0.05)
    assert life.value("model.quality_lost") == 1.0
    life.version = "1"
    after = life.run(12)
    numbers = [value(f, "model.accuracy_ratio") for f in after]
    assert any(math.isnan(n) for n in numbers), "between the two it is unknown"
    unknown = max(i for i, n in enumerate(numbers) if math.isnan(n))
    assert all(n > 0.88 for n in numbers[unknown + 1 :])
    assert numbers[-1] == pytest.approx(0.95, abs=0.03)
    assert life.value("model.quality_lost") == 0.0
    assert life.value("model.worse_than_previous") == 0.0
    assert [v.version for v in life.facts.previous] == ["2", "1"]
    life.run(10)
    assert dict(life.sightings[Entity("version", "cancer/2")].attrs)["serving"] == "no"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda x, _: x * 0.01, "scale x0.01"),
        (lambda x, _: x * 1000.0, "scale x1000"),
        (lambda x, rng: np.where(rng.random(len(x)) < 0.5, np.nan, x), "missing in 50 % of rows"),
        (lambda x, _: np.full_like(x, 700.0), "stuck"),
        (lambda x, _: np.zeros_like(x), "stuck"),
        (lambda x, _: np.full_like(x, np.nan), "missing in 100 % of rows"),
        (lambda x, _: np.full_like(x, np.inf), "range in 100 % of rows"),
        (lambda x, _: np.array(["n/a"] * len(x), dtype=object), "type in 100 % of rows"),
    ],
)
def test_one_broken_feature_is_a_contract_and_the_others_are_well(seed, broken, reason):
    life = healthy(seed, 40)
    other = np.random.default_rng(seed)
    life.change = lambda c: {**c, "area": broken(c["area"], other)}
    assert life.until_is(10, "feature.contract_broken", 1.0, "cancer/area") <= 8
    life.run(14)
    facts = life.facts
    assert [s.name for s in facts.broken] == ["area"]
    said = facts.broken[0].reason
    if "50 %" in reason:
        assert said in {"missing in 40 % of rows", reason, "missing in 60 % of rows"}
    else:
        assert said == reason
    assert facts.broken[0].used
    assert dict(life.sightings[Entity("feature", "cancer/area")].attrs)["broken"] == said
    assert facts.drifted[0].name == "area"
    assert all(life.value("feature.contract_broken", f"cancer/{n}") == 0.0 for n in NAMES[1:])
    assert not facts.quality_lost
    life.change = lambda c: c
    assert life.until_is(20, "feature.contract_broken", 0.0, "cancer/area") <= 15
    life.step()
    assert dict(life.sightings[Entity("feature", "cancer/area")].attrs)["broken"] == ""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_concept_drift_moves_the_errors_and_leaves_the_features_silent(seed):
    life = healthy(seed, 60)
    life.flip = 0.2
    assert life.until_is(30, "model.quality_lost", 1.0) <= 20
    assert life.value("model.accuracy_recent_ratio") < 0.9
    life.run(60)
    facts = life.facts
    assert facts.accuracy == pytest.approx(0.95 * 0.8 + 0.05 * 0.2, abs=0.02)
    assert facts.high < facts.reference_accuracy
    assert facts.worse_than_previous is None
    assert not facts.broken
    assert not [s for s in facts.drifted if s.drifted]
    assert facts.drifted[0].psi < 0.1
    assert facts.prediction_psi < 0.02
    assert facts.label_coverage > 0.98
    assert facts.lost_since is not None
    life.flip = 0.0
    assert life.until_is(60, "model.quality_lost", 0.0) <= 50


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_ordinary_swing_of_traffic_and_inputs_is_silent(seed):
    life = Life(seed=seed)
    frames = []
    for second in range(180):
        wave = math.sin(2 * math.pi * second / 45.0)
        life.rate = 60.0 * (1 + 0.4 * wave)
        life.change = lambda c, w=wave: {
            **c,
            "texture": c["texture"] + 2.0 * w,
            "area": c["area"] * math.exp(0.25 * w),
        }
        frames.append(life.step())
    assert not alarms(frames)
    assert not [s for s in life.facts.drifted if s.drifted]


def test_a_lasting_shift_is_drift_and_no_broken_contract():
    life = Life(seed=9)
    life.run(30)
    life.change = lambda c: {**c, "texture": c["texture"] + 5.0}
    frames = life.run(90)
    assert not [a for a in alarms(frames) if "contract" in a]
    assert [s.name for s in life.facts.drifted if s.drifted] == ["texture"]


# ---------------------------------------------------------------- a backup without the feature


def test_a_backup_that_does_not_use_the_broken_feature_still_shows_it():
    life = Life(seed=10, accuracy={"1": 0.95, "b": 0.9})
    full = life.references["1"]
    life.references["b"] = {
        **full,
        "accuracy": 0.9,
        "features": {k: v for k, v in full["features"].items() if k != "area"},
    }
    life.run(30)
    life.change = lambda c: {**c, "area": c["area"] * 100.0}
    life.run(10)
    life.version = "b"
    life.run(10)
    state = life.facts.broken[0]
    assert (state.name, state.used, state.reason) == ("area", False, "scale x100")
    assert dict(life.sightings[Entity("feature", "cancer/area")].attrs)["used"] == "no"
    life.change = lambda c: c
    assert life.until_is(20, "feature.contract_broken", 0.0, "cancer/area") <= 15
    # what is no longer logged is unknown, neither broken nor well
    life.change = lambda c: {k: v for k, v in c.items() if k != "area"}
    life.run(15)
    assert math.isnan(life.value("feature.contract_broken", "cancer/area"))
    assert not life.facts.broken


def test_a_feature_of_the_version_that_is_no_longer_sent_is_missing():
    life = Life(seed=11)
    life.run(10)
    life.change = lambda c: {k: v for k, v in c.items() if k != "area"}
    life.run(15)
    assert [(s.name, s.reason) for s in life.facts.broken] == [("area", "missing in 100 % of rows")]


# ---------------------------------------------------------------- several versions at once


def test_two_versions_side_by_side_are_both_counted_and_a_canary_does_not_wipe_the_past():
    life = Life(seed=12, accuracy={"1": 0.95, "2": 0.9})
    life.references["2"] = life.references["1"]
    life.run(40)
    for _ in range(40):
        life.now += 1.0
        life.watch.take(life.rows(40, "1"))
        life.watch.take(life.rows(20, "2"))
        life.watch.take(life.labels())
        life.look()
        assert not math.isnan(life.value("model.accuracy_ratio"))
    assert life.facts.serving == ("1", "2")
    assert life.facts.current is not None
    assert life.facts.current.version == "1"
    assert life.value("version.accuracy_ratio", "cancer/1") == pytest.approx(0.95, abs=0.02)
    assert life.value("version.accuracy_ratio", "cancer/2") == pytest.approx(0.9, abs=0.04)
    assert life.value("version.predictions_per_second", "cancer/2") == pytest.approx(20, rel=0.2)


def test_garbage_versions_do_not_pile_up():
    life = Life(seed=13)
    life.run(10)
    for i in range(100):
        life.accuracy[f"x{i}"] = 0.5
        life.watch.take(life.rows(2, f"x{i}"))
        if i % 10 == 0:
            life.step()
    life.run(20)
    assert len([s for s in life.frame.series if s.metric == "version.accuracy_ratio"]) <= 8
    assert life.facts.current is not None
    assert life.facts.current.version == "1"
    assert life.value("model.accuracy_ratio") > 0.9


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("delay", [(0.0, 0.1), (0.5, 8.0), (20.0, 25.0), (100.0, 130.0)])
def test_late_labels_count_where_they_belong(delay):
    life = Life(seed=14, delay_s=delay)
    life.run(220)
    assert life.value("model.accuracy_ratio") == pytest.approx(0.95, abs=0.02)
    assert life.value("model.label_delay_seconds") == pytest.approx(
        max(sum(delay) / 2, 0.03), rel=0.9 if delay[0] == 0 else 0.25
    )
    if delay[1] < 30 or 2 * delay[1] < 220:
        assert life.value("model.label_coverage_ratio") > 0.9
    assert life.value("model.quality_lost") == 0.0


def test_late_labels_of_the_version_before_are_its_own():
    life = Life(seed=15, accuracy={"1": 0.95, "2": 0.7}, delay_s=(10.0, 12.0))
    life.references["2"] = life.references["1"]
    life.run(40)
    before = life.value("model.labelled_rows_count")
    life.version = "2"
    life.run(9)
    assert math.isnan(life.value("model.accuracy_ratio"))
    facts = life.facts
    # the labels that came meanwhile belong to version 1
    assert facts.previous[0].labelled > before
    assert facts.current is not None
    assert facts.current.labelled == 0
    life.run(25)
    assert life.facts.current is not None
    assert life.facts.current.accuracy == pytest.approx(0.7, abs=0.05)
    assert life.facts.previous[0].accuracy == pytest.approx(0.95, abs=0.02)


def test_labels_that_come_before_their_prediction_wait_a_little():
    life = Life(seed=16)
    life.step()
    batch = life.rows(200)
    truth = tuple(str(p) for p in batch.pred)
    life.waiting.clear()
    life.watch.take(LabelBatch("cancer", batch.ts + 1, batch.ids, truth))
    life.look()
    assert life.value("model.labelled_rows_count") == 0
    life.watch.take(batch)
    life.look()
    assert life.value("model.labelled_rows_count") == 200
    assert life.value("model.accuracy_ratio") == 1.0


def test_labels_without_a_prediction_are_forgotten():
    life = Life(seed=17)
    life.step()
    ids = tuple(f"no{i}" for i in range(20_000))
    life.watch.take(LabelBatch("cancer", np.full(20_000, life.now), ids, ("good",) * 20_000))
    life.run(70)
    model = life.watch._models["cancer"]
    assert not model.early


def test_rows_and_labels_that_come_twice_count_once():
    life = Life(seed=18, rate=0)
    life.step()
    batch = life.rows(150)
    twice = replace(
        batch,
        ts=np.tile(batch.ts, 2),
        ids=batch.ids * 2,
        features={k: np.tile(v, 2) for k, v in batch.features.items()},
        pred=np.tile(batch.pred, 2),
        proba=np.tile(batch.proba, 2),
        latency_s=np.tile(batch.latency_s, 2),
        processing_s=np.tile(batch.processing_s, 2),
        status=np.tile(batch.status, 2),
    )
    labels = LabelBatch("cancer", batch.ts + 1, batch.ids, tuple(str(p) for p in batch.pred))
    wrong = LabelBatch("cancer", batch.ts + 1, batch.ids, ("neither",) * 150)
    for batch_ in (twice, batch, labels, labels, wrong):
        life.watch.take(batch_)
    life.look()
    facts = life.facts
    assert facts.current is not None
    assert facts.current.rows == 150
    assert facts.labelled == 150
    assert facts.accuracy == 1.0


def test_labels_that_stop_make_quality_unknown_and_coverage_low():
    life = Life(seed=19)
    life.run(60)
    for _ in range(40):
        life.now += 1.0
        life.watch.take(life.rows(60))
        life.look()
    assert life.value("model.label_coverage_ratio") < 0.6
    for _ in range(40):
        life.now += 1.0
        life.watch.take(life.rows(60))
        life.look()
    assert life.value("model.label_coverage_ratio") == 0.0
    assert math.isnan(life.value("model.accuracy_ratio"))
    assert math.isnan(life.value("model.quality_lost"))


@pytest.mark.parametrize(
    ("said", "truth"),
    [("1", 1), ("1", 1.0), ("1", "1.0"), ("1", True), ("True", "true"), (" a ", "a")],
)
def test_a_class_is_the_same_however_it_is_written(said, truth):
    life = Life(seed=20, rate=0)
    life.step()
    batch = life.rows(120)
    same = replace(batch, pred=np.array([said] * 120, dtype=object))
    life.watch.take(same)
    life.watch.take(LabelBatch("cancer", batch.ts, batch.ids, (truth,) * 120))
    life.look()
    assert life.value("model.accuracy_ratio") == 1.0


def test_numbers_of_a_regression_have_no_accuracy():
    life = Life(seed=21, rate=0)
    life.references["1"] = {"rows": 500, "features": life.references["1"]["features"]}
    life.watch = life.new_watch()
    life.step()
    batch = life.rows(200)
    life.watch.take(replace(batch, pred=life.rng.normal(size=200)))
    life.watch.take(LabelBatch("cancer", batch.ts, batch.ids, tuple(range(200))))
    life.look()
    assert math.isnan(life.value("model.accuracy_ratio"))
    assert life.value("model.labelled_rows_count") == 0


# ---------------------------------------------------------------- failures, garbage


def test_failed_requests_are_errors_and_no_predictions():
    life = Life(seed=22, rate=0)
    for _ in range(12):
        life.now += 1.0
        batch = life.rows(60)
        status = np.where(np.arange(60) % 4 == 0, 503, 200)
        status[1] = 0
        failed = status != 200
        nothing = {k: np.where(failed, np.nan, v) for k, v in batch.features.items()}
        life.watch.take(
            replace(batch, features=nothing, pred=np.where(failed, None, batch.pred), status=status)
        )
        life.look()
    assert life.value("service.error_ratio", "scoring") == pytest.approx(16 / 60, abs=0.01)
    assert life.value("service.requests_per_second", "scoring") == pytest.approx(60, abs=1)
    assert life.value("model.predictions_per_second") == pytest.approx(44, abs=1)
    assert life.value("feature.missing_ratio", "cancer/area") == 0.0
    # the same id again, served now: it is a prediction
    batch = life.rows(10)
    failed_first = replace(batch, pred=np.full(10, None), status=np.full(10, 500))
    before = life.facts.current
    life.watch.take(failed_first)
    life.watch.take(batch)
    life.look()
    assert before is not None
    assert life.facts.current is not None
    assert life.facts.current.rows == before.rows + 10


def test_garbage_neither_breaks_it_nor_moves_time():
    life = Life(seed=23)
    life.run(20)
    batch = life.rows(8)
    life.waiting = [w for w in life.waiting if w[1] not in batch.ids]
    ts = batch.ts.copy()
    ts[:6] = [np.nan, np.inf, -np.inf, -5.0, 1.7e12, life.now + 3600]
    life.watch.take(
        PredictionBatch(
            "cancer",
            "1",
            ts,
            batch.ids,
            {
                "area": np.array(
                    [1, None, "x", float("inf"), float("-inf"), float("nan"), "3.5", ""],
                    dtype=object,
                ),
                "texture": np.array([np.inf, -np.inf, np.nan, 1e308, -1e308, 0.0, 1e-320, 5.0]),
                "smooth": np.full(8, np.nan),
                "count": np.array([True] * 8),
                "never heard of": np.zeros(8),
                "": np.array([object()] * 8, dtype=object),
            },
            np.array([None, 1, "", "good", float("nan"), True, "x" * 1000, "bad"], dtype=object),
            np.array([np.nan, np.inf, -1.0, 2.0, 0.5, 0.5, 0.5, 0.5]),
            np.array([np.nan, np.inf, -1.0, 0.0, 1e9, 0.1, 0.1, 0.1]),
            np.full(8, np.nan),
            np.full(8, 200),
        )
    )
    life.watch.take(
        LabelBatch(
            "cancer",
            np.array([np.nan, np.inf, 0.0, 1e12]),
            ("r1", "r2", "", "r3"),
            (None, [], "good", {}),
        )
    )
    none = np.zeros(0)
    life.watch.take(
        PredictionBatch("cancer", "1", none, (), {}, None, none, none, none, none.astype(np.int64))
    )
    life.watch.take(LabelBatch("cancer", np.zeros(0), (), ()))
    frames = life.run(20)
    assert not alarms(frames)
    assert life.facts.rejected_rows == 5
    assert life.value("model.accuracy_ratio") == pytest.approx(0.95, abs=0.03)
    assert life.features() == set(NAMES)


@pytest.mark.parametrize(
    "reference",
    [
        {"features": []},
        {"features": {"area": {"edges": [1, 2], "shares": [0.5, 0.5]}}},
        {"features": {"area": {"edges": [2, 1], "shares": [1.0]}}},
        {"features": {"area": None}},
        {"rows": "many"},
        {"features": {"area": {"edges": [0, float("nan")], "shares": [1.0]}}},
    ],
)
def test_a_damaged_reference_is_told_and_learnt_instead(reference):
    life = Life(seed=24, references={"1": reference})
    life.run(40)
    attrs = dict(life.sightings[Entity("model", "cancer")].attrs)
    assert attrs["damaged_reference"] == "1"
    assert life.value("feature.contract_broken", "cancer/area") == 0.0
    assert life.value("model.reference_accuracy_ratio") == pytest.approx(0.95, abs=0.03)


def test_without_a_reference_the_first_rows_become_it():
    life = Life(seed=25, references={"1": None})
    life.run(5)
    assert life.facts.learning
    assert not [s for s in life.frame.series if s.entity.kind == "feature"]
    assert math.isnan(life.value("model.quality_lost"))
    life.run(40)
    assert not life.facts.learning
    life.flip = 0.25
    life.change = lambda c: {**c, "area": c["area"] * 0.001}
    life.run(30)
    assert life.value("model.quality_lost") == 1.0
    assert [s.reason for s in life.facts.broken] == ["scale x0.001"]


def test_a_reference_that_is_written_a_moment_later_is_taken():
    life = Life(seed=26, references={"1": None})
    life.run(4)
    life.references["1"] = reference_of(draw(life.rng, 400), 0.95, {"good": 0.6, "bad": 0.4})
    life.run(14)
    assert life.value("model.reference_accuracy_ratio") == 0.95
    assert life.features() == set(NAMES)


def test_models_and_classes_are_bounded():
    life = Life(seed=27)
    batch = life.rows(5000)
    many = np.array([f"class {i}" for i in range(5000)], dtype=object)
    life.watch.take(replace(batch, pred=many))
    for i in range(100):
        life.watch.take(LabelBatch(f"model {i}", np.zeros(1), ("a",), ("b",)))
    life.look()
    assert len(life.watch.models) == 32
    assert len(life.watch._models["cancer"].classes) <= 4096


def test_traffic_that_stops_is_zero_first_and_unknown_later():
    life = Life(seed=28)
    life.run(30)
    life.rate = 0
    life.run(15)
    assert life.value("service.requests_per_second", "scoring") == 0.0
    life.run(20)
    assert math.isnan(life.value("service.latency_p95_seconds", "scoring"))
    life.run(60)
    assert math.isnan(life.value("service.requests_per_second", "scoring"))
    assert math.isnan(life.value("feature.contract_broken", "cancer/area"))
    assert math.isnan(life.value("model.confidence_ratio"))


def test_latency_is_that_of_the_newest_seconds():
    life = Life(seed=29)
    life.run(30)
    slow = life.now
    original = life.rows

    def slower(n: int, version: str | None = None) -> PredictionBatch:
        batch = original(n, version)
        return replace(batch, latency_s=batch.latency_s * 20)

    life.rows = slower  # type: ignore[method-assign]
    life.until(4, lambda: life.value("service.latency_p95_seconds", "scoring") > 0.3)
    assert life.now - slow <= 4
    life.run(12)
    assert life.value("service.latency_p50_seconds", "scoring") == pytest.approx(0.4, rel=0.1)
    assert life.value("service.processing_p50_seconds", "scoring") == pytest.approx(0.01, rel=0.1)


def test_a_clock_that_jumps_back_does_not_end_it():
    life = Life(seed=30)
    life.run(30)
    life.now -= 1000.0
    life.run(10)
    life.now += 2000.0
    life.run(30)
    assert life.value("model.accuracy_ratio") == pytest.approx(0.95, abs=0.03)
    assert life.value("model.predictions_per_second") == pytest.approx(60, rel=0.2)


# ---------------------------------------------------------------- restarts, memory


def same(a: Frame, b: Frame) -> None:
    assert a.series == b.series
    np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.parametrize("reference", [True, False])
def test_a_restart_goes_on_as_if_it_had_never_stopped(reference):
    life = Life(seed=31, accuracy={"1": 0.95, "2": 0.7})
    if not reference:
        life.references["1"] = None
        life.watch = life.new_watch()
        life.watch.frame(life.now)
    life.run(30)
    if reference:  # what is being learnt is learnt anew: rows are not kept
        life.references["2"] = life.references["1"]
        life.version = "2"
    life.run(6)
    life.change = lambda c: {**c, "area": c["area"] * 100}
    life.run(4)
    early = LabelBatch(
        "cancer", np.array([life.now, np.nan]), ("early", "early too"), ("good", "bad")
    )
    life.watch.take(early)
    state = life.watch.dump()
    assert state == life.watch.dump()
    other = life.new_watch()
    other.load(state)
    assert other.facts("cancer") is not None
    for _ in range(15):
        life.now += 1.0
        batch, labels = life.rows(60), life.labels()
        for watch in (life.watch, other):
            watch.take(batch)
            watch.take(labels)
        mine, its = life.watch.frame(life.now), other.frame(life.now)
        same(mine, its)
        assert repr(life.watch.facts("cancer")) == repr(other.facts("cancer"))
    assert life.watch.dump() == other.dump()


def test_damaged_states_are_refused_and_change_nothing():
    life = Life(seed=32)
    life.run(15)
    state = life.watch.dump()
    before = life.look()
    for bad in (
        b"",
        b"x",
        state[:-1],
        state[:100],
        state + b"!",
        b"HSCK" + state[4:60],
        bytes([*state[:500], state[500] ^ 1, *state[501:]]),
    ):
        with pytest.raises(Refused, match="learnt anew"):
            life.watch.load(bad)
    other = ModelWatch(WatchModels(window=90.0), lambda _m, _v: None, lambda _m: None)
    with pytest.raises(Refused, match=r"another models\.window"):
        other.load(state)
    assert not other.busy
    same(life.look(), before)


def test_no_feature_value_is_in_what_leaves():
    life = Life(seed=33)
    life.references["1"]["features"].pop("texture")
    life.watch = life.new_watch()
    secret = 123456.789
    life.change = lambda c: {**c, "texture": np.full_like(c["texture"], secret)}
    life.run(20)
    told = repr((life.facts, life.frames, life.sightings)) + repr(life.watch.dump())
    assert "123456" not in told
    assert np.float64(secret).tobytes() not in life.watch.dump()


def test_memory_stays_when_rows_go_on():
    config = WatchModels(window=60.0, min_rows=100, max_waiting=4000)
    life = Life(seed=34, config=config)

    def go(rounds: int) -> None:
        for _ in range(rounds):
            life.now += 1.0
            life.watch.take(life.rows(2000))
            life.waiting.clear()
            life.watch.frame(life.now)

    go(20)
    tracemalloc.start()
    try:
        start, _ = tracemalloc.get_traced_memory()
        go(30)
        end, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert end - start < 600_000, "60,000 more rows may not take more memory"
    assert life.watch._models["cancer"].join.nbytes < 400_000
    assert len(life.watch.dump()) < 2_000_000


# ---------------------------------------------------------------- properties


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(150, 3000),
    rate=st.integers(20, 200),
    accuracy=st.floats(0.55, 0.99),
)
def test_exchangeable_rows_never_break_a_contract_and_the_interval_covers(
    seed, rows, rate, accuracy
):
    rng = np.random.default_rng(seed)
    reference = reference_of(draw(rng, rows), accuracy, {"good": 0.6, "bad": 0.4})
    life = Life(
        seed=seed % 2**31,
        rate=rate,
        accuracy={"1": accuracy},
        references={"1": reference},
        config=WatchModels(window=20.0, min_rows=100),
    )
    frames = life.run(40)
    assert not [a for a in alarms(frames) if "contract" in a or "quality" in a]
    facts = life.facts
    # wider than 95 %, as this is asked of each of many examples
    slack = facts.high - facts.low
    assert facts.low - slack <= accuracy <= facts.high + slack


def test_the_interval_covers_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        life = Life(seed=1000 + seed, rate=0, accuracy={"1": 0.9})
        life.now += 1
        batch = life.rows(150)
        life.watch.take(batch)
        life.now += 10
        life.watch.take(life.labels())
        life.look()
        covered += (
            life.value("model.accuracy_low_ratio") <= 0.9 <= life.value("model.accuracy_high_ratio")
        )
    assert 181 <= covered <= 199  # 95 % of 200, give or take 3 standard deviations


def bench() -> None:
    """Print what a row costs: `python tests/agent/test_models.py`."""
    rng = np.random.default_rng(0)
    for features in (8, 30):
        columns = [f"f{i}" for i in range(features)]
        table = {name: rng.normal(10, 2, 500) for name in columns}
        reference = reference_of(table, 0.95, {"good": 0.6, "bad": 0.4})
        watch = ModelWatch(CONFIG, lambda _m, _v, r=reference: r, lambda _m: "scoring")
        life = Life()
        batches = []
        for _ in range(400):
            life.now += 1
            batch = life.rows(50)
            wide = {name: rng.normal(10, 2, 50) for name in columns}
            batches.append((batch, wide, life.labels()))
        taken, framed = [], []
        for i, (batch, wide, labels) in enumerate(batches):
            replaced = replace(batch, features=wide)
            start = time.process_time()
            watch.take(replaced)
            watch.take(labels)
            middle = time.process_time()
            watch.frame(1_000_001.0 + i)
            taken.append(middle - start)
            framed.append(time.process_time() - middle)
        row, frame = np.median(taken) / 50 * 1e6, np.median(framed) * 1e3
        print(  # noqa: T201  # a table for people
            f"{features} features, batches of 50: {row:.1f} us a row with its label, "
            f"{frame:.2f} ms a frame, state {len(watch.dump()) / 1e3:.0f} kB"
        )


if __name__ == "__main__":
    bench()


def test_how_many_come_is_unknown_while_they_can_not_be_read():
    now = 10_000.0
    watch = two_versions(now)

    def rates(frame):
        pairs = zip(frame.series, frame.values.tolist(), strict=True)
        return [v for s, v in pairs if s.metric.endswith("predictions_per_second")]

    known = rates(watch.frame(now + 1.0))
    assert known
    assert not any(map(math.isnan, known))
    assert all(map(math.isnan, rates(watch.frame(now + 2.0, {"fraud"}))))
    assert not any(map(math.isnan, rates(watch.frame(now + 3.0, {"other"}))))
