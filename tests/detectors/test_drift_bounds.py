"""Bounds that hold at every look: they are looked at after each batch, and rarely miss."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.drift._bounds import (
    above,
    below,
    difference_low,
    hedged,
    looks,
    mean_error,
    share_bounds,
    size_bounds,
)

RUNS = 1000
LOOKS = np.unique(np.geomspace(20, 20_000, 40).astype(int))


def missed(low, high, truth):
    return (low > truth) | (high < truth)


@pytest.mark.parametrize("p", [0.003, 0.1, 0.5, 0.97])
def test_a_share_is_missed_at_any_look_in_fewer_runs_than_promised(p):
    rng = np.random.default_rng(1)
    hits, wrong, n = np.zeros(RUNS), np.zeros(RUNS, dtype=bool), 0
    for look in LOOKS:
        hits += rng.binomial(look - n, p, RUNS)
        n = look
        wrong |= missed(*share_bounds(hits, n, 0.05), p)
    assert wrong.mean() <= 0.05


def test_a_share_that_wanders_is_covered_as_the_mean_of_what_it_was():
    rng = np.random.default_rng(2)
    hits, mean, wrong, n = np.zeros(RUNS), 0.0, np.zeros(RUNS, dtype=bool), 0
    for look in LOOKS:
        p = 0.5 + 0.4 * np.sin(look / 300)
        hits += rng.binomial(look - n, p, RUNS)
        mean += p * (look - n)
        n = look
        wrong |= missed(*share_bounds(hits, n, 0.05), mean / n)
    assert wrong.mean() <= 0.05


def test_any_values_in_0_to_1_are_covered_as_shares_are():
    rng = np.random.default_rng(3)
    total, wrong, n = np.zeros(300), np.zeros(300, dtype=bool), 0
    for look in LOOKS[:25]:
        total += rng.beta(0.2, 0.6, (300, look - n)).sum(axis=1)
        n = look
        wrong |= missed(*share_bounds(total, n, 0.05), 0.25)
    assert wrong.mean() <= 0.05


def test_bounds_are_at_most_twice_as_wide_as_of_one_look():
    for n in (100, 1000, 100_000):
        for p in (0.05, 0.5):
            low, high = share_bounds(n * p, n, 0.05)
            assert high - low < 2.1 * 2 * 1.96 * np.sqrt(p * (1 - p) / n)
    assert looks(1000, 0.05) == pytest.approx(3.03, abs=0.01)


def test_nothing_and_all_or_none():
    low, high = share_bounds([0, 0, 50, 0.0], [0, 50, 50, 1e9], 0.05)
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert (low[1], high[2]) == (0.0, 1.0)
    assert high[1] == pytest.approx(1 - low[2])
    assert 0 < high[1] < 0.15
    assert 0 < high[3] < 1e-4


@pytest.mark.parametrize("draw", ["normal", "lognormal", "log_loss"])
def test_a_mean_is_missed_at_any_look_in_few_runs(draw):
    rng = np.random.default_rng(4)

    def rows(n):
        if draw == "normal":
            return rng.normal(3.0, 2.0, (RUNS, n)), 3.0
        if draw == "lognormal":
            return rng.lognormal(0, 0.8, (RUNS, n)), np.exp(0.32)
        p = rng.uniform(0.02, 0.98, (RUNS, n))
        came = rng.random((RUNS, n)) < p
        truth = np.linspace(0.02, 0.98, 100_001)
        entropy = -(truth * np.log(truth) + (1 - truth) * np.log(1 - truth)).mean()
        return -np.log(np.where(came, p, 1 - p)), entropy

    sums, wrong, skewed, n = np.zeros((2, RUNS)), *np.zeros((2, RUNS), dtype=bool), 0
    for look in LOOKS[LOOKS >= 30][:25]:
        x, truth = rows(look - n)
        sums += x.sum(axis=1), (x**2).sum(axis=1)
        n = look
        mean, error = mean_error(n, *sums)
        radius = looks(n, 0.05) * error
        wrong |= missed(mean - radius, mean + radius, truth)
        skewed |= missed(*size_bounds(mean, error, n, 0.05), truth)
    assert skewed.mean() <= 0.05
    assert wrong.mean() <= (
        0.1 if draw == "lognormal" else 0.05
    )  # why sizes have bounds of their own


@pytest.mark.parametrize(("p", "q", "size"), [(0.15, 0.15, 1), (0.1, 0.4, 1), (0.2, 0.25, 50)])
def test_a_difference_is_missed_at_any_look_in_fewer_runs_than_promised(p, q, size):
    rng = np.random.default_rng(5)
    a, b, wrong, n = np.zeros(200), np.zeros(200), np.zeros(200, dtype=bool), 0
    need = np.log(2 / 0.05)
    for look in LOOKS[::3]:
        a += rng.binomial(look - n, p, 200)
        b += rng.binomial(size * (look - n), q, 200)
        n = look
        low = difference_low((a, n), (b, size * n), need)
        high = -difference_low((b, size * n), (a, n), need)
        assert (low < high).all()
        wrong |= missed(low, high, p - q)
    assert wrong.mean() <= 0.05


def test_the_bound_of_a_difference_refutes_no_more_than_the_evidence_does():
    # at the bound, some pair of means with that difference is not refuted: searched on a fine grid
    need = np.log(40)
    for a, b in (((30, 200), (20, 200)), ((9, 50), (900, 10_000)), ((3, 3000), (20, 3000))):
        low = float(difference_low(a, b, need))
        means = np.linspace(max(0.0, -low), min(1.0, 1 - low), 20_001)
        weakest = (hedged(below(*b, means)) + hedged(above(*a, means + low))).min()
        assert need - 0.05 <= weakest <= need + 1.0
