"""Bets on statistics: worth at most 1 on average in the reference, and more than that on what they bet on."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.drift.evidence import STEPS, Bets, Evidence


def normal(n=2000, seed=0):
    x = np.sort(np.random.default_rng(seed).normal(size=n))
    x = (x - x.mean()) / x.std()
    return x[None, :], np.full((1, n), 1 / n)


def share(p):
    sd = np.sqrt(p * (1 - p))
    return np.array([[(1 - p) / sd, -p / sd]]), np.array([[p, 1 - p]])


@pytest.mark.parametrize("what", [normal(), share(0.5), share(0.03), share(0.0001)])
def test_a_bet_is_fair_in_the_reference_and_as_far_from_it_as_it_says(what):
    scores, weights = what
    bets = Bets(scores, weights)
    worth = np.exp(bets.tilts[0][:, None] * scores)
    fair = bets.bounds(np.array([1e15]))[0]
    np.testing.assert_allclose((worth * weights).sum(axis=1), np.exp(fair), rtol=1e-3)
    for i, step in enumerate(np.tile(STEPS, 2)):
        if not bets.usable[0, i]:
            continue
        tilted = weights[0] * worth[i] / (weights[0] * worth[i]).sum()
        far = (tilted * (bets.tilts[0, i] * scores[0] - fair[i])).sum()
        assert far == pytest.approx(step**2 / 2, rel=0.01)


def test_what_can_hardly_become_rarer_is_only_bet_on_upwards():
    usable = Bets(*share(0.0001)).usable[0].reshape(2, -1)
    assert usable[0].all()
    assert not usable[1].any()
    assert not Bets(np.zeros((1, 3)), np.full((1, 3), 1 / 3)).usable.any()


def test_fewer_known_rows_make_the_bounds_wider():
    bets = Bets(*normal())
    few, many = bets.bounds(np.array([50.0])), bets.bounds(np.array([5000.0]))
    assert (few > many).all()


def run(seed, shift, windows, rows=100, known=5000.0, bearable=1e6):
    rng = np.random.default_rng(seed)
    bets = Bets(*normal(seed=seed + 1000))
    test = Evidence(bets, np.ones(1))
    test.set_null(bets.bounds(np.array([known])), np.ones((1, len(STEPS))), np.full(1, True))
    n = np.array([float(rows)])
    for i in range(windows):
        test.take(np.array([rng.normal(shift, 1, rows).sum()]), n, rows / bearable)
        if test.value()[0] >= 1:
            return i + 1
    return None


def test_nothing_is_found_where_nothing_is():
    # 2,000,000 rows with one false alarm in 1,000,000 bearable: the promise is an upper bound
    found = [run(seed, 0.0, 1000) for seed in range(20)]
    assert sum(f is not None for f in found) <= 1


@pytest.mark.parametrize(
    ("shift", "rows"), [(1.0, 100), (-0.5, 200), (0.25, 700), (-0.15, 2500), (3.0, 100)]
)
def test_shifts_are_found_in_time(shift, rows):
    found = [run(seed, shift, 100) for seed in range(20)]
    assert None not in found
    assert np.median(found) * 100 <= rows


def test_evidence_goes_when_the_change_does():
    bets = Bets(*normal())
    test = Evidence(bets, np.ones(1))
    test.set_null(bets.bounds(np.array([5000.0])), np.ones((1, len(STEPS))), np.full(1, True))
    rows = np.array([100.0])
    for _ in range(30):
        test.take(np.array([90.0]), rows, 1e-4)
    assert test.value()[0] > 10
    for _ in range(40):
        test.take(np.array([0.0]), rows, 1e-4)
    assert test.value()[0] < 0.1
    test.restart()
    assert test.value()[0] == 0
