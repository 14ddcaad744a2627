"""What took over against what it took over from: what its docstring promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agent.errors import Refused
from agent.registry import drift
from detectors.drift import Succession


def follow(seed, before, since, *, past=2000, size=20, rows=3000, effect=1.0, **settings):
    """Return after how many rows it is proven that errors rose by .03, inf = it is not, and the test."""
    rng = np.random.default_rng(seed)
    test = Succession(Succession.Config(**settings))
    errors = float(rng.binomial(past, before))
    for n in range(size, rows + 1, size):
        test.take(int(rng.binomial(size, since)), size, (errors, past), effect)
        if test.evidence >= test.alarm and test.rise >= 0.03:
            return n, test
    return math.inf, test


def test_it_is_registered():
    assert drift.get("succession") is Succession


@pytest.mark.parametrize(
    ("before", "since", "rows"), [(0.2, 0.35, 160), (0.05, 0.2, 85), (0.05, 0.1, 500)]
)
def test_delays_are_those_of_the_docstring(before, since, rows):
    took = [follow(seed, before, since)[0] for seed in range(40)]
    assert np.median(took) == pytest.approx(rows, rel=0.3)


@pytest.mark.parametrize("past", [100, 2000])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_as_many_errors_as_before_are_called_more_as_rarely_as_is_stated(past, share):
    false = 0
    for seed in range(400):
        took, _ = follow(seed, share, share, past=past, rows=1000, size=50, once=0.02)
        false += math.isfinite(took)
    assert false <= 16  # 8 at most are expected


def test_a_batch_is_worth_one_on_average_whatever_its_size():
    worth = {}
    for size in (5, 500):
        rng = np.random.default_rng(size)
        for _ in range(4000):
            share = rng.beta(20, 80)
            test = Succession()
            # what is known of the share is what the prior says: 20 errors in 100 rows, less the half that it adds
            test.take(int(rng.binomial(size, share)), size, (19.5, 99.0), 1.0)
            worth.setdefault(size, []).append(10**test.evidence)
    for found in worth.values():
        assert np.mean(found) < 1.0 + 4 * np.std(found) / np.sqrt(len(found))


def test_what_is_a_little_worse_is_not_worse_enough():
    found = [follow(seed, 0.2, 0.21, past=20_000, rows=50_000, size=1000) for seed in range(10)]
    assert all(math.isinf(took) and test.evidence < 0 for took, test in found)
    found = [follow(seed, 0.2, 0.24, past=20_000, rows=50_000, size=1000) for seed in range(10)]
    assert all(took < 10_000 for took, _ in found)


def test_rows_that_hang_together_prove_less():
    """Errors come and go in stretches of 100 rows, before and since."""

    def restless(seed, effect):
        rng, test = np.random.default_rng(seed), Succession(Succession.Config(once=0.02))
        shares = rng.choice([0.05, 0.35], 220)
        errors = float(rng.binomial(100, shares[:20]).sum())
        for share in shares[20:]:
            test.take(int(rng.binomial(100, share)), 100, (errors, 2000), effect)
            if test.evidence >= test.alarm:
                return True
        return False

    # (variance of a stretch of 100 rows) / (that of as many independent ones) = 1 + 99 * .0225 / .16
    false = {effect: sum(restless(seed, effect) for seed in range(200)) for effect in (1.0, 14.9)}
    assert false[14.9] <= 8
    assert false[1.0] > 40


def test_state_and_nonsense():
    test, other = Succession(), Succession()
    assert math.isnan(test.rise)
    other.load(test.dump())
    test.take(3, 20, (10, 100), 1.0)
    other.load(test.dump())
    for one in (test, other):
        one.take(1, 5, (10, 100), 1.0)
    assert test.evidence == other.evidence
    assert test.rise == other.rise == pytest.approx(4 / 25 - 0.1)
    with pytest.raises(Refused, match="does not fit"):
        other.load(np.zeros(3))
    with pytest.raises(Refused, match="does not fit"):
        other.load(np.full(8, np.nan))
    for wrong, rows, before in ((-1, 5, (1, 9)), (6, 5, (1, 9)), (1, 5, (0, 0)), (1, 5, (2, 1))):
        with pytest.raises(ValueError, match="errors among"):
            test.take(wrong, rows, before, 1.0)
    for wrong, before in ((0, (0, 10)), (5, (0, 10)), (5, (10, 10)), (0, (10, 10))):
        test.take(wrong, 5, before, 1.0)
    assert np.isfinite(test.evidence)
