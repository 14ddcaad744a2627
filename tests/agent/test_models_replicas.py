"""What rows say beside features and labels: which replica answered, and which version."""

from dataclasses import replace

import numpy as np
import pytest

from agent.config import WatchModels
from agent.model import Edge, Entity
from agent.models import ModelWatch
from agent.models.cause import blame
from agent.parcels import rows_at
from agent.ports import LabelBatch, PredictionBatch

REPLICAS = 4


class Service:
    """A model behind four replicas; `odd` turns what replica 2 says, `canary` lets it answer for version 2."""

    def __init__(self, *, numbers=False, serves="shop", tag="replica", seed=0):
        self.random = np.random.default_rng(seed)
        self.watch = self.new(serves)
        self.serves, self.numbers, self.tag = serves, numbers, tag
        self.now, self.rows, self.version, self.odd, self.noise = 0.0, 0, "1", False, 0.5
        self.canary = False

    @staticmethod
    def new(serves):
        return ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: serves)

    def serve(self, ticks, labels=False):
        changes = []
        for _ in range(ticks):
            n = 40
            self.now += 1.0
            x = self.random.normal(size=n)
            replica = np.arange(n) % REPLICAS
            score = np.where(self.odd & (replica == 2), 2.0 - 0.1 * x, x)
            said = score if self.numbers else np.where(score > 0, "yes", "no").astype(object)
            sure = np.full(n, np.nan) if self.numbers else 0.5 + 0.5 * np.tanh(np.abs(score))
            nan = np.full(n, np.nan)
            ids = tuple(f"{self.rows + i}" for i in range(n))
            self.rows += n
            tags = {
                self.tag: np.array([f"{i}" for i in replica], dtype=object),
                "gpu": np.array([f"GPU-{i}" for i in replica], dtype=object),
            }
            batch = PredictionBatch(
                "price", self.version, np.full(n, self.now), ids, {"x": x}, said, sure, nan, nan,
                np.full(n, 200), tags=tags,
            )  # fmt: skip
            if self.canary:
                self.watch.take(replace(rows_at(batch, replica == 2), version="2"))
                batch = rows_at(batch, replica != 2)
            self.watch.take(batch)
            if labels:
                truth = x + self.noise * self.random.normal(size=n)
                words = tuple(truth.tolist() if self.numbers else np.where(truth > 0, "yes", "no"))
                self.watch.take(LabelBatch("price", np.full(n, self.now), ids, words))
            self.frame = self.watch.frame(self.now)
            changes += self.frame.changes
        return changes

    def values(self, metric):
        return {
            s.entity.key: float(v)
            for s, v in zip(self.frame.series, self.frame.values, strict=True)
            if s.metric == metric
        }


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("tag", ["replica", "pod"])
def test_the_replica_that_answers_otherwise_is_named(numbers, tag):
    service = Service(numbers=numbers, tag=tag)
    service.serve(200)
    assert service.values("replica.predictions_apart") == {
        f"shop/{i}": 0.0 for i in range(REPLICAS)
    }
    service.odd = True
    service.serve(60)
    apart = service.values("replica.predictions_apart")
    assert apart == {f"shop/{i}": float(i == 2) for i in range(REPLICAS)}
    assert service.values("replica.prediction_distance_ratio")["shop/2"] > 0.2
    facts = service.watch.facts("price")
    assert facts.apart == ("2",)
    assert blame(facts, service.now)[0].cause == "serving.crash"


def test_a_replica_that_answers_for_another_version_is_well():
    service = Service()
    service.serve(200)
    service.odd = service.canary = True
    service.serve(60)
    assert service.watch.facts("price").apart == ()


def test_the_graph_learns_replicas_and_their_gpus_from_rows():
    service = Service()
    service.serve(1)
    shop, replica = Entity("service", "shop"), Entity("replica", "shop/2")
    (seen,) = [s for s in service.frame.seen if s.entity == replica]
    assert set(seen.edges) == {
        Edge("serves", replica, shop), Edge("runs_on", replica, Entity("gpu", "GPU-2")),
    }  # fmt: skip
    lone = Service(serves=None)
    lone.serve(1)
    (seen,) = [s for s in lone.frame.seen if s.entity == Entity("replica", "price/2")]
    assert Edge("serves", seen.entity, Entity("model", "price")) in seen.edges


def test_after_a_restart_who_is_apart_is_known():
    service = Service()
    service.serve(200)
    service.odd = True
    service.serve(60)
    other = service.new("shop")
    other.load(service.watch.dump())
    service.watch = other
    service.serve(3)
    assert service.values("replica.predictions_apart")["shop/2"] == 1.0


def test_replicas_that_rows_name_no_more_are_forgotten():
    service = Service()
    service.serve(10)
    service.tag = "none"
    service.serve(320)
    assert service.values("replica.predictions_per_second") == {}


def test_a_version_that_only_rows_tell_of_is_a_release_once():
    service = Service()
    assert service.serve(20) == []
    service.version = "2"
    (change,) = service.serve(20)
    assert (change.kind, change.entity, change.before, change.after) == (
        "release", Entity("model", "price"), "1", "2",
    )  # fmt: skip
    assert 20.0 <= change.ts <= 22.0
    other = service.new("shop")
    other.load(service.watch.dump())
    service.watch = other
    assert service.serve(10) == []


def test_a_regression_that_labels_prove_worse_has_lost_quality():
    service = Service(numbers=True)
    service.serve(150, labels=True)
    assert service.values("model.quality_lost") == {"price": 0.0}
    service.noise = 2.0
    service.serve(60, labels=True)
    assert service.values("model.quality_lost") == {"price": 1.0}
    assert service.values("model.labels_wrong") == {"price": 0.0}
