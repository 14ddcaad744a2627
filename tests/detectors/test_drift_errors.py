"""The e-detector of errors: what its docstring promises."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import Refused
from agent.registry import drift
from detectors.drift import Errors
from detectors.drift.errors import Ranks


def test_it_is_registered():
    assert drift.get("errors") is Errors


@pytest.mark.parametrize("bound", [0.02, 0.1, 0.4])
def test_at_the_bound_itself_it_stays_silent(bound):
    # 300,000 batches at the edge of the null, where false alarms are most likely; promised: one in a million
    worst = -9.0
    for seed in range(10):
        rng, test = np.random.default_rng(seed), Errors()
        rows = rng.integers(1, 60, 3000)
        for n, wrong in zip(rows.tolist(), rng.binomial(rows, bound).tolist(), strict=True):
            test.take(wrong, n, bound)
            worst = max(worst, test.evidence)
    assert worst < Errors.alarm


def test_a_batch_is_worth_at_most_one_on_average():
    for n, bound in ((1, 0.1), (7, 0.3), (20, 0.05)):
        rng = np.random.default_rng(1)
        worth = []
        for wrong in rng.binomial(n, bound, 20_000).tolist():
            test = Errors()
            test.take(wrong, n, bound)
            worth.append(10**test.evidence)
        assert np.mean(worth) < 1.0 + 4 * np.std(worth) / np.sqrt(len(worth))


@pytest.mark.parametrize(("share", "rows"), [(0.25, 200), (0.15, 1200)])
def test_delays_are_those_of_the_docstring(share, rows):
    delays = []
    for seed in range(30):
        rng, test = np.random.default_rng(seed), Errors()
        for _ in range(100):
            test.take(int(rng.binomial(20, 0.05)), 20, 0.1)
        n = 0
        while test.evidence < test.alarm:
            test.take(int(rng.binomial(20, share)), 20, 0.1)
            n += 20
        delays.append(n)
    assert np.mean(delays) == pytest.approx(rows, rel=0.3)


def test_it_calms_down_when_errors_do():
    test = Errors()
    for _ in range(50):
        test.take(10, 20, 0.1)
    assert test.evidence > test.alarm
    for _ in range(100):
        test.take(1, 20, 0.1)
    assert test.evidence < test.alarm - 3


def test_state_and_nonsense():
    test, other = Errors(), Errors()
    test.take(3, 20, 0.05)
    other.load(test.dump())
    for one in (test, other):
        one.take(1, 5, 0.05)
    assert test.evidence == other.evidence
    with pytest.raises(Refused, match="does not fit"):
        other.load(np.zeros(3))
    with pytest.raises(Refused, match="does not fit"):
        other.load(np.full(5, np.nan))
    for wrong, rows in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="errors among"):
            test.take(wrong, rows, 0.1)
    test.take(0, 0, 0.1)
    test.take(5, 5, 0.0)
    test.take(5, 5, 1.0)
    assert np.isfinite(test.evidence)


def test_ranks_are_even_on_the_reference_whatever_its_unit():
    rng = np.random.default_rng(1)
    error = rng.standard_t(2, 3000)
    loss = Ranks(error)(error)
    assert loss.mean() == pytest.approx(0.5, abs=0.01)
    assert loss.std() == pytest.approx(np.sqrt(1 / 12), abs=0.01)
    assert Ranks(1000 * error)(1000 * error) == pytest.approx(loss)
    assert Ranks(-error)(error) == pytest.approx(loss)


def test_ranks_of_ties_outliers_and_nothing():
    ranks = Ranks([0.0] * 50 + [1.0, 2.0, 3.0, 4.0] * 10 + [np.nan])
    zero, most, far, unknown = ranks([0.0, 4.0, 1e9, np.nan])
    assert 0 < zero < 0.5 < most < far == 1.0
    assert np.isnan(unknown)
    with pytest.raises(ValueError, match="no error in the reference"):
        Ranks([np.nan])
