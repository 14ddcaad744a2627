"""Embeddings as features: a few numbers stand for each, and a change of what they embed is drift."""

import numpy as np
import pytest

from agent.config import WatchModels
from agent.models import ModelWatch
from agent.models.cause import blame
from agent.ports import PredictionBatch
from agent.vectors import DIRECTIONS, discrepancy, is_vector, spread, spread_record, vector_of

WIDTH = 48


class Texts:
    """Embeddings of texts of some topics: near the middle of their topic, all of them in one half of space."""

    def __init__(self, seed=0, topics=6):
        self.random = np.random.default_rng(seed)
        common = self.random.normal(size=WIDTH)
        self.topics = common + self.random.normal(size=(topics, WIDTH))

    def draw(self, n, shares):
        topic = self.random.choice(len(self.topics), n, p=shares)
        return self.topics[topic] + 0.5 * self.random.normal(size=(n, WIDTH))


USUAL = [0.3, 0.3, 0.2, 0.2, 0.0, 0.0]


def watched(texts, shares, rows, watch, start):
    """Let rows pass, a hundred at a time; return after how many somebody is blamed, None = nobody."""
    for done in range(0, rows, 100):
        columns = spread("text", texts.draw(100, shares).tolist())
        nan = np.full(100, np.nan)
        said = np.array(["0"] * 100, dtype=object)
        ids = tuple(f"{start + done + i}" for i in range(100))
        now = (start + done + 100) * 0.1
        ts = now - 0.1 * np.arange(100)[::-1]
        watch.take(
            PredictionBatch("m", "1", ts, ids, columns, said, nan, nan, nan, np.full(100, 200))
        )
        watch.frame(now)
        if blame(watch.facts("m"), now):
            return done + 100
    return None


@pytest.mark.parametrize("seed", range(2))
def test_a_new_topic_is_drift_of_the_vector_and_the_usual_ones_are_none(seed):
    texts = Texts(seed)
    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    assert watched(texts, USUAL, 6000, watch, 0) is None
    found = watched(texts, [0.25, 0.25, 0.15, 0.15, 0.2, 0.0], 3000, watch, 6000)
    assert found is not None
    assert found <= 1500
    (first, *_) = blame(watch.facts("m"), 1e9)
    assert first.cause == "data.drift"
    assert {vector_of(name) for name in first.features} == {"text"}


def test_the_discrepancy_of_two_samples_of_one_kind_is_that_of_chance():
    texts = Texts(3)
    same, again, other = (
        np.column_stack([spread("t", texts.draw(2000, p).tolist())[f"t~{i}"] for i in range(1, 17)])
        for p in (USUAL, USUAL, [0.2, 0.2, 0.1, 0.1, 0.4, 0.0])
    )
    distance, chance = discrepancy(same, again)
    assert distance < 2 * chance
    distance, chance = discrepancy(same, other)
    assert distance > 5 * chance


def test_every_process_makes_the_same_numbers_and_length_has_its_own():
    one = spread("e", [[1.0, 2.0, 2.0]])
    assert one["e~length"] == [3.0]
    assert len(one) == DIRECTIONS + 1
    twice = spread("e", [[2.0, 4.0, 4.0]])
    assert [twice[f"e~{i}"] for i in range(1, 17)] == [one[f"e~{i}"] for i in range(1, 17)]
    assert one["e~1"][0] == pytest.approx(-0.60304, abs=1e-5)


def test_what_is_no_vector_is_missing_and_does_not_spoil_the_others():
    values = [[1.0, 0.0], None, "text", [1.0, "x"], [0.0, 0.0], [1.0, 0.0]]
    out = spread("e", values)
    known = np.isfinite(out["e~1"])
    assert known.tolist() == [False] * 6, "a text among the numbers of one width"
    out = spread("e", [[1.0, 0.0], None, "text", [1.0, 0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert np.isfinite(out["e~1"]).tolist() == [True, False, False, True, False, True]
    assert np.isfinite(out["e~length"]).tolist() == [True, False, False, True, True, True]


@pytest.mark.parametrize(
    "value", [None, "text", 1.0, [], [1.0], ["a", "b"], [True, False], [[1.0], [2.0]], {}]
)
def test_other_values_are_no_vectors(value):
    assert not is_vector(value)
    assert spread("e", [value]) == {}
    assert spread_record({"e": value}) == {"e": value}


def test_a_record_says_its_vectors_by_their_numbers():
    said = spread_record({"age": 41, "e": [3.0, 4.0]})
    assert said["age"] == 41
    assert said["e~length"] == 5.0
    assert vector_of("e~length") == vector_of("e~12") == "e"
    assert vector_of("age") == vector_of("a~b") == ""
