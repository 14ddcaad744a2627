"""Design effects: 1 for independent rows, as much as it is for others, and what it does to bets."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.drift import season
from detectors.drift.evidence import STEPS
from detectors.drift.season import LEVELS, QUANTUM, Wander

NO_PAIRS = np.zeros((2, 0), dtype=np.int64)


def wander(x):
    """Of columns (d, rows), standardised."""
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    out = Wander(np.arange(len(x)), np.ones(len(x)), NO_PAIRS)
    for at in range(0, x.shape[1] - QUANTUM + 1, QUANTUM):
        out.take(x[:, at : at + QUANTUM].sum(axis=1), float(QUANTUM))
    return out


def autoregressive(rng, d, rows, r):
    x = np.zeros((d, rows))
    noise = rng.normal(size=(d, rows))
    for i in range(1, rows):
        x[:, i] = r * x[:, i - 1] + noise[:, i]
    return x


def test_independent_rows_have_none_for_most_of_many_columns():
    effect = wander(np.random.default_rng(0).normal(size=(300, 8000))).effect()
    assert effect.shape == (LEVELS, 300)
    assert (effect > 1).any(axis=0).mean() < 0.02


def test_it_is_what_theory_says_where_rows_are_chained():
    x = autoregressive(np.random.default_rng(1), 20, 100_000, 0.9)
    effect = wander(x).effect()
    # (1 + r) / (1 - r) for windows that are long against 1 / (1 - r)
    assert np.median(effect[2:7]) == pytest.approx(19, rel=0.15)


def test_growth_goes_on_beyond_what_was_seen():
    walk = np.cumsum(np.random.default_rng(2).normal(size=(10, 4000)), axis=1)
    effect = wander(walk).effect()
    assert (effect[-1] > 30 * effect[3]).all()
    wave = np.tile(np.sin(np.arange(30_000) / 365 * 2 * np.pi), (3, 1))
    wave = wave + 0.5 * np.random.default_rng(3).normal(size=wave.shape)
    effect = wander(wave).effect()
    assert (effect[1] > 50).all()
    assert (effect[-1] < 4 * effect[1]).all()


def test_one_change_is_no_restlessness():
    x = np.random.default_rng(4).normal(size=(1, 8000))
    steady = Wander(np.zeros(1, dtype=np.int64), np.ones(1), NO_PAIRS)
    for at in range(0, 8000, QUANTUM):
        moved = x[:, at : at + QUANTUM] + (0.5 if at >= 5000 else 0.0)
        steady.take(moved.sum(axis=1), float(moved.shape[1]))
    assert (steady.effect()[:3] < 1.5).all()


def test_a_rare_statistic_goes_with_its_column_and_a_pair_with_its_two():
    x = autoregressive(np.random.default_rng(5), 1, 20_000, 0.95)
    x = x / x.std()
    still = np.random.default_rng(6).normal(size=(2, 20_000))
    of = np.array([0, 0, 1, 2])
    test = Wander(of, np.array([1.0, 5000.0, 1.0, 1.0]), np.array([[0], [1]]))
    for at in range(0, 20_000 - QUANTUM, QUANTUM):
        part = slice(at, at + QUANTUM)
        sums = [x[0, part].sum(), 0.0, still[0, part].sum(), still[1, part].sum()]
        test.take(np.array(sums), float(QUANTUM))
    effect = test.effect()
    assert (effect[2, [0, 1, 3]] > 10).all()
    assert effect[2, 2] < 3


def test_bets_are_divided_by_as_much_as_their_windows_wander():
    one = season.discount(np.ones((LEVELS, 1)), STEPS)
    np.testing.assert_array_equal(one, 1.0)
    flat = season.discount(np.full((LEVELS, 1), 20.0), STEPS)
    np.testing.assert_allclose(flat, 20.0, rtol=0.05)
    short = np.ones((LEVELS, 1))
    short[0] = 20.0
    one = season.discount(short, STEPS)[0]
    assert one[0] < 8
    assert one[-1] > 10
    assert season.at(flat.T.repeat(LEVELS, axis=0)[:LEVELS], np.full(len(STEPS), 500.0)).min() > 19


def test_values_in_runs_are_told_from_values_in_any_order():
    rng = np.random.default_rng(7)
    months = np.repeat([1.0, 2.0, 3.0, 4.0], 500)
    rare = (rng.random(2000) < 0.01).astype(float)  # long runs, and yet in any order
    sticky = np.repeat(rng.normal(size=100), 20)
    one = np.full(2000, 7.0)
    x = np.stack([months, rare, sticky, one, rng.normal(size=2000)])
    np.testing.assert_array_equal(season.runs(x), [500.0, 1.0, 20.0, 1.0, 1.0])


def test_what_comes_in_runs_is_known_from_so_many_runs():
    one = wander(np.random.default_rng(8).normal(size=(1, 5000)))
    np.testing.assert_array_equal(one.effect(), 1.0)
    one.run[:] = 2500.0
    effect = one.effect()
    assert effect[0, 0] >= 96  # all rows of so short a window are of one run
    assert effect.max() >= 2500
