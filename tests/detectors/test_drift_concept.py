"""Concept drift from labels: no false alarms, short delays, the right slice, ordinary life left alone."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import Refused
from agent.registry import drift
from detectors.drift.concept import Concept
from detectors.drift.errors import Ranks

SLICES = (("colour", 4), ("size", 3))


class Life:
    """A model of log-odds 1.6 x + ..., whose relation to the label may turn."""

    def __init__(self, seed: int, drift_at: int, turn) -> None:
        self.rng = np.random.default_rng(seed)
        self.at, self.drift_at, self.turn = 0, drift_at, turn

    def rows(self, n: int):
        x = self.rng.normal(size=(n, 3))
        colour = self.rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
        size = self.rng.choice(3, n)
        z = x @ [1.6, -1.2, 0.9]
        late = np.arange(self.at, self.at + n) - self.drift_at
        truth = np.where(late >= 0, self.turn(x, z, colour, late), z)
        self.at += n
        y = self.rng.random(n) < 1 / (1 + np.exp(-truth))
        p = 1 / (1 + np.exp(-z))
        right = (p >= 0.5) == y
        return (
            (~right).astype(float),
            right - np.maximum(p, 1 - p),
            np.stack([colour, size]),
        )


def all_turn(x, z, colour, late):
    return z - 3.2 * x[:, 0]


def small_turn(x, z, colour, late):
    return z - 1.8 * x[:, 2]


def one_colour_turns(x, z, colour, late):
    return np.where(colour == 2, z - 3.2 * x[:, 0], z)


def slow_turn(x, z, colour, late):
    return z - 3.2 * np.clip(late / 8000, 0, 1) * x[:, 0]


def watched(turn, seed, *, at=4000, until=12_000, batch=100, **config):
    """Return the detector and the rows from the drift to its alarm; None = there was none."""
    life = Life(seed, 5000 + at, turn)
    test = Concept(Concept.Config(**config), SLICES)
    test.learn(*life.rows(5000))
    for n in range(0, until, batch):
        if test.take(float(n + batch), *life.rows(batch)):
            return test, n + batch - at
    return test, None


def test_it_is_registered():
    assert drift.get("concept") is Concept


@pytest.mark.parametrize("known", [True, False])
def test_exchangeable_rows_raise_no_alarm(known):
    life = Life(1, 10**9, all_turn)
    test = Concept(None, SLICES)
    for n in (2000, *[1000] * 150):
        loss, residual, slices = life.rows(n)
        residual = residual if known else np.full(n, np.nan)
        if n == 2000:
            test.learn(loss, residual, slices)
        else:
            assert not test.take(float(test.rows), loss, residual, slices)
    assert test.evidence < test.alarm - 1
    assert test.changes() == ()


def test_a_million_exchangeable_rows_raise_no_alarm():
    for seed, reference in enumerate((1000, 5000, 0, 20_000)):
        life = Life(10 + seed, 10**9, all_turn)
        test = Concept(None, SLICES)
        test.learn(*life.rows(reference))
        for _ in range(250):
            assert not test.take(float(test.rows), *life.rows(1000))


def test_alarms_come_no_oftener_than_said():
    # without any demand on size, at the shortest distance that may be said
    config = Concept.Config(every=1000, size=0, residual_size=0, slice_size=0)
    alarms = rows = 0
    for seed in range(20):
        life, test = Life(100 + seed, 10**9, all_turn), Concept(config, SLICES)
        test.learn(*life.rows(1000))
        while rows < 10_000 * (seed + 1):
            rows += 100
            if test.take(float(rows), *life.rows(100)):
                alarms += 1
                rows += 10_000 * (seed + 1) - rows
    assert 0 < alarms <= 20
    # 20 waits of at most 10,000 rows each
    assert alarms <= 200_000 / 1000


@pytest.mark.parametrize(
    ("turn", "most"),
    [(all_turn, 150), (small_turn, 350), (one_colour_turns, 400), (slow_turn, 3000)],
)
def test_delays(turn, most):
    delays = [watched(turn, seed)[1] for seed in range(9)]
    assert all(delay is not None and delay > 0 for delay in delays)
    assert np.median(delays) <= most


def test_errors_alone_are_enough():
    life = Life(3, 5000 + 1000, all_turn)
    test = Concept(None, SLICES)
    loss, _, slices = life.rows(5000)
    test.learn(loss, np.full(5000, np.nan), slices)
    alarm = None
    for n in range(0, 3000, 100):
        loss, _, slices = life.rows(100)
        if test.take(float(n), loss, np.full(100, np.nan), slices):
            alarm = n + 100
            break
    assert alarm is not None
    assert 1000 < alarm <= 1400
    assert test.changes()[0].what == "error"


def test_it_names_the_slice_and_since_when():
    right, begun = 0, []
    for seed in range(9):
        test, _ = watched(one_colour_turns, 50 + seed)
        first = test.changes()[0]
        right += (first.what, first.value) == ("colour", 2)
        begun.append(first.since)
        assert first.after - first.before > 0.1
        assert first.rows > 0
    assert right >= 8
    assert abs(np.median(begun) - 4000) <= 200


def test_a_change_of_everything_is_not_put_on_a_slice():
    changes = [watched(all_turn, seed)[0].changes()[0] for seed in range(9)]
    assert sum(one.value is None for one in changes) >= 8


def test_what_is_small_raises_no_alarm_however_sure():
    def worse(x, z, colour, late):
        return z - 0.9 * x[:, 2]

    found, _ = watched(worse, 1, until=40_000, size=0.01)
    small, none = watched(
        worse, 1, until=40_000, size=0.2, residual_size=0.2, slice_size=0.3, every=1e6
    )
    assert found.alarmed
    assert none is None
    assert small.evidence > small.alarm
    assert small.changes() == ()


def test_what_gets_better_is_told_and_no_alarm():
    def better(x, z, colour, late):
        return 4 * z

    life = Life(2, 6000, better)
    test = Concept()
    loss, _, _ = life.rows(5000)
    test.learn(loss, np.full(5000, np.nan))
    for n in range(0, 4000, 100):
        loss, _, _ = life.rows(100)
        assert not test.take(float(n), loss, np.full(100, np.nan))
    assert [one.what for one in test.changes()] == ["better"]
    assert test.changes()[0].after < test.changes()[0].before - 0.02


def test_confidence_that_no_longer_fits_is_found_both_ways():
    for shift, what in ((0.08, "overconfident"), (-0.08, "underconfident")):
        rng = np.random.default_rng(4)
        test = Concept()

        def rows(n, by, rng=rng):
            c = rng.uniform(0.55, 0.85, n)
            right = rng.random(n) < c
            # the errors are as ever, only the confidence is another
            return (~right).astype(float), right - (c + by)

        test.learn(*rows(5000, 0.0))
        raised = [test.take(float(n), *rows(100, shift)) for n in range(40)]
        assert any(raised)
        assert test.changes()[0].what == what


def test_a_loss_that_wanders_raises_no_alarm():
    # hours of better and worse inputs: ordinary, though no test for independent rows would have it
    alarms = 0
    for seed in range(4):
        rng, level = np.random.default_rng(seed), 0.0
        test = Concept()

        def rows(n, rng=rng):
            nonlocal level
            level = 0.9 * level + 0.05 * rng.normal()
            p = np.clip(0.2 + level, 0.02, 0.6)
            return (rng.random(n) < p).astype(float), np.full(n, np.nan)

        for _ in range(100):
            # learnt batch by batch, as rows come
            test.learn(*rows(100))
        alarms += sum(test.take(float(n), *rows(100)) for n in range(1000))
    assert alarms <= 4


def test_a_wandering_loss_is_still_found_to_have_drifted():
    rng, level = np.random.default_rng(5), 0.0
    test, found = Concept(), []
    for n in range(1500):
        level = 0.9 * level + 0.02 * rng.normal()
        p = np.clip(0.2 + level + (0.25 if n >= 1200 else 0.0), 0.02, 0.7)
        batch = (rng.random(100) < p).astype(float), np.full(100, np.nan)
        if n < 200:
            test.learn(*batch)
        elif test.take(float(n), *batch):
            found.append(n)
    assert len(found) == 1
    assert 1200 <= found[0] < 1250
    assert abs(test.changes()[0].since - 1200) < 20


def test_an_alarm_ends_when_the_errors_do_and_can_come_again():
    rng = np.random.default_rng(6)
    test, said = Concept(), []
    test.learn((rng.random(5000) < 0.1).astype(float), np.full(5000, np.nan))
    for n in range(600):
        p = 0.4 if 100 <= n < 110 or n >= 590 else 0.1
        if test.take(float(n), (rng.random(100) < p).astype(float), np.full(100, np.nan)):
            said.append(n)
        if n == 300:
            assert not test.alarmed
    assert len(said) == 2
    assert 100 <= said[0] < 104
    assert said[1] >= 590


def test_a_value_that_no_longer_comes_gathers_no_evidence():
    rng = np.random.default_rng(7)
    test = Concept(None, [("gone", 2)])
    for n in range(1200):
        loss = (rng.random(250) < 0.2).astype(float)
        where = np.full((1, 250), 0 if n >= 100 else 1)
        test.take(float(n), loss, np.full(250, np.nan), where)
    assert test.evidence < 5


def test_without_a_reference_the_first_rows_are_it():
    life, test = Life(8, 3000, all_turn), Concept(None, SLICES)
    raised = [test.take(float(n), *life.rows(100)) for n in range(60)]
    assert raised.index(True) in range(30, 34)


def test_regression_by_ranks():
    rng = np.random.default_rng(9)
    ranks = Ranks(rng.standard_t(3, 4000))
    test = Concept(None, [("half", 2)])

    def rows(n, scale):
        half = rng.integers(0, 2, (1, n))
        error = rng.standard_t(3, n) * np.where(half[0] == 1, scale, 1.0)
        return ranks(error), np.full(n, np.nan), half

    test.learn(*rows(4000, 1.0))
    assert not any(test.take(float(n), *rows(100, 1.0)) for n in range(50))
    raised = [test.take(float(n), *rows(100, 1.5)) for n in range(50, 70)]
    assert any(raised)
    assert (test.changes()[0].what, test.changes()[0].value) == ("half", 1)


@pytest.mark.parametrize("batch", [1, 37, 5000])
def test_any_size_of_batch(batch):
    test, delay = watched(all_turn, 2, at=5000, until=10_000, batch=batch)
    assert test.alarmed
    assert 0 < delay <= max(batch, 300)


def test_state_goes_on_where_it_stood_and_is_small():
    life = Life(11, 9000, one_colour_turns)
    test, other = Concept(None, SLICES), Concept(None, SLICES)
    test.learn(*life.rows(5000))
    for n in range(30):
        test.take(float(n), *life.rows(110))
    other.load(test.dump())
    for n in range(30, 60):
        batch = life.rows(110)
        assert test.take(float(n), *batch) == other.take(float(n), *batch)
        assert test.dump() == other.dump()
    assert test.changes() == other.changes()
    assert test.alarmed
    assert len(Concept(None, [(f"s{i}", 5) for i in range(8)]).dump()) < 50_000


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    test, other = Concept(None, SLICES), Concept(None, [("colour", 4), ("size", 2)])
    test.learn(*Life(12, 10**9, all_turn).rows(1000))
    before = test.dump()
    for state in (other.dump(), before[:-3], b"nonsense"):
        with pytest.raises(Refused, match="learnt anew"):
            test.load(state)
    assert test.dump() == before


def test_nonsense():
    test = Concept(None, [("colour", 2)])
    one, none = np.zeros(1), np.full(1, np.nan)
    for loss, residual, slices in (
        (np.full(1, 1.5), none, [[0]]),
        (np.full(1, np.nan), none, [[0]]),
        (one, np.full(1, -1.5), [[0]]),
        (one, np.zeros(2), [[0]]),
        (one, none, [[2]]),
        (one, none, [[0, 1]]),
    ):
        with pytest.raises(ValueError, match=r"outside|lengths|beyond"):
            test.take(0.0, loss, residual, slices)
    assert test.take(0.0, np.zeros(0), np.zeros(0), np.zeros((1, 0))) is False
    assert test.rows == 0
    with pytest.raises(ValueError, match="at least one value"):
        Concept(None, [("empty", 0)])
