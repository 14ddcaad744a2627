"""Versions against each other, as rows and labels come in: canary, shadow, one after the other, and restarts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from agent.config import WatchModels
from agent.errors import Refused
from agent.models import ModelWatch
from agent.models.cause import blame
from agent.ports import LabelBatch, PredictionBatch

ROW_S = 0.1


class Traffic:
    """A service whose versions answer right as often as they are told to, so that the truth is known."""

    def __init__(self, seed=0, *, numbers=False, config=None):
        self.random = np.random.default_rng(seed)
        self.watch = ModelWatch(config or WatchModels(), lambda _m, _v: None, lambda _m: None)
        self.numbers, self.now, self.rows = numbers, 0.0, 0

    def ids(self, n):
        self.rows += n
        return tuple(f"r{i}" for i in range(self.rows - n, self.rows))

    def truth(self, n):
        return self.random.normal(size=n) if self.numbers else self.random.integers(0, 2, n)

    def answers(self, truth, quality):
        """Return answers: right with probability `quality`, or off by a normal error of that size."""
        if self.numbers:
            return truth + quality * self.random.normal(size=len(truth))
        right = self.random.random(len(truth)) < quality
        return np.where(right, truth, 1 - truth).astype(str).astype(object)

    def rows_of(self, ids, said, version, variant="", status=200):
        n = len(ids)
        nan = np.full(n, np.nan)
        ts = self.now + ROW_S * np.arange(n)
        columns = {"x": self.random.normal(size=n)}
        return PredictionBatch(
            "churn", version, ts, ids, columns, said, nan, nan, nan, np.full(n, status), variant=variant
        )  # fmt: skip

    def labels(self, ids, truth, model="churn"):
        words = tuple(truth.tolist() if self.numbers else map(str, truth.tolist()))
        self.watch.take(LabelBatch(model, np.full(len(ids), self.now), ids, words))

    def tick(self, seconds=5.0):
        self.now += seconds
        self.frame = self.watch.frame(self.now)

    def canary(self, batches, quality, other, part=10, version="7", variant="canary"):
        for _ in range(batches):
            truth, ids = self.truth(50), self.ids(50)
            self.watch.take(self.rows_of(ids[part:], self.answers(truth[part:], quality), "6"))
            if part:
                beside = self.answers(truth[:part], other)
                self.watch.take(self.rows_of(ids[:part], beside, version, variant))
            self.labels(ids, truth)
            self.tick()

    def shadow(self, batches, quality, other, *, first="served", version="7", variant="shadow"):
        for _ in range(batches):
            truth, ids = self.truth(50), self.ids(50)
            served = self.rows_of(ids, self.answers(truth, quality), "6")
            beside = self.rows_of(ids, self.answers(truth, other), version, variant)
            for batch in (served, beside) if first == "served" else (beside, served):
                self.watch.take(batch)
            self.labels(ids, truth)
            self.tick()

    def asked(self, a, b):
        return self.watch.asked.compare("churn", a, b)

    def value(self, metric, **labels):
        found = [
            float(v)
            for s, v in zip(self.frame.series, self.frame.values, strict=True)
            if s.metric == metric and labels.items() <= dict(s.labels).items()
        ]
        assert len(found) == 1, f"{metric} {labels}: {found}"
        return found[0]


def test_a_worse_canary_is_proven_worse_and_says_how_surely():
    traffic = Traffic()
    traffic.canary(120, 0.9, 0.8)
    said = traffic.asked("6", "7@canary")
    assert (said.verdict, said.how) == ("worse", "together")
    assert said.worse > math.log10(40)
    assert said.low < 0.1 < said.high
    assert said.difference == pytest.approx(0.1, abs=0.04)
    assert (said.rows_a, said.rows_b) == (4800, 1200)
    assert "version 7@canary is worse than 6: log10 odds" in said.said
    unsure = replace(said, verdict="unknown")
    ends = {replace(unsure, needed=n).said.rpartition(", ")[2] for n in (0.3, 40.0, math.inf)}
    assert ends == {"the next ones may tell", "some 40 more needed", "no end in sight"}
    facts = traffic.watch.facts("churn")
    (told,) = facts.compared
    assert told.verdict == "worse"
    assert ("release.model", told.said) in {(b.cause, b.reason) for b in blame(facts, traffic.now)}
    assert traffic.value("version.proven_worse", against="6", variant="canary") == 1.0
    assert traffic.value("version.worse_evidence_count", against="6") == pytest.approx(said.worse)
    assert traffic.value("version.traffic_ratio", variant="canary") == pytest.approx(0.2, abs=0.01)


def test_a_canary_that_was_taken_back_is_nobodys_concern_but_can_be_asked_for():
    traffic = Traffic(13)
    traffic.canary(60, 0.9, 0.7)
    assert traffic.watch.facts("churn").compared
    traffic.canary(70, 0.9, 0.9, part=0)
    facts = traffic.watch.facts("churn")
    assert facts.compared == ()
    assert not any(b.cause == "release.model" for b in blame(facts, traffic.now))
    assert not any("against" in dict(s.labels) for s in traffic.frame.series)
    assert traffic.asked("6", "7").verdict == "worse"


def test_a_canary_whose_rows_came_first_is_still_the_canary():
    traffic = Traffic(15)
    ids, truth = traffic.ids(5), traffic.truth(5)
    traffic.watch.take(traffic.rows_of(ids, traffic.answers(truth, 0.7), "7", "canary"))
    traffic.canary(90, 0.9, 0.7)
    (told,) = traffic.watch.facts("churn").compared
    assert (told.a, told.b, told.verdict) == ("6", "7@canary", "worse")
    assert traffic.value("version.proven_worse", against="6") == 1.0
    other = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    other.load(traffic.watch.dump())
    other.frame(traffic.now)
    assert other.facts("churn").compared == (told,)


def test_a_version_that_most_of_the_traffic_goes_to_by_now_is_held_against_the_older_one():
    traffic = Traffic(16)
    traffic.canary(70, 0.9, 0.9, part=0)
    traffic.canary(60, 0.9, 0.7, part=40, variant="")
    (told,) = traffic.watch.facts("churn").compared
    assert (told.a, told.b, told.verdict) == ("6", "7", "worse")


def test_the_other_way_round_it_is_better_by_as_much():
    traffic = Traffic(1)
    traffic.canary(60, 0.9, 0.7)
    one, two = traffic.asked("6", "7"), traffic.asked("7", "6")
    assert (one.verdict, two.verdict) == ("worse", "better")
    assert (two.low, two.high, two.better) == (-one.high, -one.low, one.worse)
    assert (two.rows_a, two.rows_b) == (one.rows_b, one.rows_a)


@pytest.mark.parametrize("seed", range(3))
def test_versions_without_a_difference_are_not_called_worse(seed):
    traffic = Traffic(seed)
    traffic.canary(150, 0.85, 0.85, part=25)
    assert traffic.asked("6", "7").verdict in {"unknown", "alike"}
    assert traffic.value("version.proven_worse", against="6") == 0.0


@pytest.mark.parametrize("first", ["served", "shadow"])
def test_a_shadow_is_compared_on_the_same_requests_and_serves_nobody(first):
    traffic = Traffic(2)
    traffic.shadow(60, 0.9, 0.75, first=first)
    said = traffic.asked("6", "7")
    assert (said.verdict, said.how) == ("worse", "paired")
    assert said.rows_a == said.rows_b == said.pairs == 3000
    assert said.agreement == pytest.approx(0.9 * 0.75 + 0.1 * 0.25, abs=0.03)
    facts = traffic.watch.facts("churn")
    assert facts.serving == ("6",)
    assert facts.current.rows == 3000
    assert facts.accuracy == pytest.approx(0.9, abs=0.02)


def test_a_second_answer_to_a_request_is_a_shadow_whatever_it_is_called():
    traffic = Traffic(3)
    traffic.shadow(40, 0.9, 0.7, variant="")
    assert traffic.asked("6", "7").how == "paired"
    assert traffic.watch.facts("churn").current.rows == 2000


def test_rows_that_are_sent_again_are_no_shadow():
    traffic = Traffic(4)
    for _ in range(5):
        truth, ids = traffic.truth(50), traffic.ids(50)
        batch = traffic.rows_of(ids, traffic.answers(truth, 0.9), "6")
        traffic.watch.take(batch)
        traffic.watch.take(batch)
        traffic.labels(ids, truth)
        traffic.tick()
    assert traffic.watch.facts("churn").compared == ()
    assert traffic.watch.facts("churn").current.rows == 250


def test_failed_answers_of_a_shadow_count_for_nothing():
    traffic = Traffic(5)
    truth, ids = traffic.truth(50), traffic.ids(50)
    traffic.watch.take(traffic.rows_of(ids, traffic.answers(truth, 0.9), "6"))
    traffic.watch.take(traffic.rows_of(ids, traffic.answers(truth, 0.1), "7", "shadow", status=500))
    traffic.labels(ids, truth)
    traffic.tick()
    assert traffic.watch.facts("churn").compared == ()


def test_versions_that_never_served_at_once_are_compared_one_after_the_other():
    traffic = Traffic(6)
    for version, quality in (("6", 0.9), ("7", 0.8)):
        for _ in range(40):
            truth, ids = traffic.truth(50), traffic.ids(50)
            traffic.watch.take(traffic.rows_of(ids, traffic.answers(truth, quality), version))
            traffic.labels(ids, truth)
            traffic.tick()
        traffic.tick(1000.0)
    assert traffic.watch.facts("churn").compared == ()
    said = traffic.asked("6", "7")
    assert (said.verdict, said.how) == ("worse", "apart")
    assert said.said.endswith("2000 rows against 2000, one after the other")


def test_of_a_regression_the_difference_is_in_units_of_the_label():
    traffic = Traffic(7, numbers=True)
    traffic.canary(120, 1.0, 1.5, part=25)
    said = traffic.asked("6", "7")
    assert said.verdict == "worse"
    # the mean size of a normal error is .798 of its deviation; the largest ones are cut
    assert said.difference == pytest.approx(0.4, abs=0.1)


def test_a_slice_that_is_worse_is_told_where_the_values_are_those_of_both():
    traffic = Traffic(8, config=WatchModels(slices=["region"]))
    for _ in range(150):
        truth, ids = traffic.truth(50), traffic.ids(50)
        region = np.where(traffic.random.random(50) < 0.5, "eu", "us").astype(object)
        for at, version in ((slice(0, 25), "6"), (slice(25, 50), "7")):
            good = traffic.answers(truth[at], 0.9)
            bad = traffic.answers(truth[at], 0.6)
            said = np.where((region[at] == "us") & (version == "7"), bad, good)
            batch = traffic.rows_of(ids[at], said, version)
            traffic.watch.take(replace(batch, tags={"region": region[at]}))
        traffic.labels(ids, truth)
        traffic.tick()
    slices = traffic.asked("6", "7").slices
    assert slices["region", "us"][0] == "worse"
    assert slices["region", "eu"][0] != "worse"


def test_a_restart_goes_on_as_if_it_had_never_stopped():
    traffic, other = Traffic(9), Traffic(9)
    for one in (traffic, other):
        one.canary(20, 0.9, 0.8)
        one.shadow(10, 0.9, 0.8, version="8")
    other.watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    other.watch.load(traffic.watch.dump())
    for one in (traffic, other):
        one.canary(20, 0.9, 0.8)
        one.shadow(10, 0.9, 0.8, version="8")
    assert traffic.asked("6", "7") == other.asked("6", "7")
    assert traffic.asked("6", "8") == other.asked("6", "8")
    assert traffic.watch.dump() == other.watch.dump()


def test_a_hundred_releases_take_no_more_than_sixteen():
    traffic = Traffic(10)
    for i in range(100):
        truth, ids = traffic.truth(20), traffic.ids(20)
        for at, version in ((slice(0, 10), f"{i}"), (slice(10, 20), f"{i + 1}")):
            traffic.watch.take(
                traffic.rows_of(ids[at], traffic.answers(truth[at], 0.9), version, f"v{i}")
            )
        traffic.labels(ids, truth)
        traffic.tick()
    assert len(traffic.watch.facts("churn").compared) <= 6
    assert len(traffic.frame.series) < 200
    with pytest.raises(Refused, match="was not seen; known: "):
        traffic.asked("0", "1")


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [("6", "9", "was not seen"), ("6", "6", "the same version"), ("1", "6", "was not seen")],
)
def test_what_can_not_be_compared_says_what_is_known(a, b, why):
    traffic = Traffic(11)
    traffic.canary(2, 0.9, 0.8)
    with pytest.raises(Refused, match=why):
        traffic.asked(a, b)
    with pytest.raises(Refused, match="known: churn"):
        traffic.watch.asked.compare("fraud", "1", "2")


@pytest.mark.parametrize("late", [False, True])
def test_labels_without_a_model_find_their_rows_by_id(late):
    traffic = Traffic(12)
    for _ in range(10):
        truth, ids = traffic.truth(50), traffic.ids(50)
        batch = traffic.rows_of(ids, traffic.answers(truth, 1.0), "6")
        if late:
            traffic.labels(ids, truth, model="")
            traffic.watch.take(batch)
        else:
            traffic.watch.take(batch)
            traffic.labels(ids, truth, model="")
        traffic.tick()
    assert traffic.watch.models == ("churn",)
    facts = traffic.watch.facts("churn")
    assert (facts.labelled, facts.accuracy) == (500, 1.0)


def test_what_senders_could_not_log_is_a_share_and_nothing_where_none_did():
    traffic = Traffic(17)
    traffic.canary(4, 0.9, 0.9, part=0)
    assert not any(s.metric == "model.predictions_lost_ratio" for s in traffic.frame.series)
    batch = traffic.rows_of(traffic.ids(50), traffic.answers(traffic.truth(50), 0.9), "6")
    traffic.watch.take(replace(batch, dropped=50))
    traffic.tick()
    assert traffic.value("model.predictions_lost_ratio") == pytest.approx(50 / 300)
    assert traffic.watch.facts("churn").lost == pytest.approx(50 / 300)
    other = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    other.load(traffic.watch.dump())
    traffic.watch = other
    for _ in range(70):
        traffic.tick()
    assert math.isnan(traffic.value("model.predictions_lost_ratio")), "nothing came for a window"


def test_labels_without_a_model_that_nobody_asked_for_are_let_go():
    traffic = Traffic(14)
    traffic.labels(("x1", "x2"), np.array([0, 1]), model="")
    for seconds in (5.0, 61.0):
        traffic.tick(seconds)
        truth, ids = traffic.truth(5), traffic.ids(5)
        traffic.watch.take(traffic.rows_of(ids, traffic.answers(truth, 1.0), "6"))
    assert traffic.watch._strays._waiting == {}
