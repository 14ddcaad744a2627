"""One prediction explained: against exact Shapley values, and by what stands out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from agent.errors import Refused
from detectors.drift.explain_one import shapley, unusual


def exact(model, row, reference):
    d = len(row)
    worth = {}
    for size in range(d + 1):
        for some in itertools.combinations(range(d), size):
            rows = reference.copy()
            rows[:, some] = row[list(some)]
            worth[some] = model(rows).mean()
    parts = np.zeros(d)
    for some, value in worth.items():
        for f in set(range(d)) - set(some):
            weight = math.factorial(len(some)) * math.factorial(d - len(some) - 1)
            gain = worth[tuple(sorted((*some, f)))] - value
            parts[f] += weight / math.factorial(d) * gain
    return parts


def crooked(x):
    return 1 / (1 + np.exp(-(x[:, 0] * x[:, 1] + 2 * np.maximum(x[:, 2], x[:, 3]) - x[:, 4])))


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_the_shapley_values_within_their_error(seed):
    rng = np.random.default_rng(seed)
    reference, row = rng.normal(size=(150, 6)), rng.normal(size=6) * 2
    found = shapley(crooked, row, reference, rng, orders=600)
    wanted = exact(crooked, row, reference)
    assert np.all(np.abs(found.parts - wanted) < 4 * found.error + 1e-9)
    assert found.error.max() < 0.02
    assert found.parts[5] == 0.0, "it does not matter to the model"


def test_parts_sum_to_the_answer_exactly_and_a_sum_is_taken_apart_at_once():
    rng = np.random.default_rng(1)
    reference, row = rng.normal(size=(50, 80)), rng.normal(size=80)
    slope = rng.normal(size=80)
    found = shapley(lambda x: x @ slope, row, reference, rng, orders=50)
    assert found.answer == pytest.approx(row @ slope)
    assert found.usual == pytest.approx((reference @ slope).mean())
    assert found.usual + found.parts.sum() == pytest.approx(found.answer)
    # as many orders as reference rows: each is compared with once
    np.testing.assert_allclose(found.parts, slope * (row - reference.mean(axis=0)), atol=1e-9)


def test_missing_values_reach_the_model_and_nonsense_is_refused():
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(30, 3))
    row = np.array([np.nan, 1.0, 2.0])
    found = shapley(lambda x: np.isnan(x[:, 0]) * 1.0, row, reference, rng, orders=10)
    assert found.parts.tolist() == [1.0, 0.0, 0.0]
    for rows, orders in ((reference[:, :2], 10), (reference[:0], 10), (reference, 1)):
        with pytest.raises(Refused, match="shapley"):
            shapley(crooked, row, rows, rng, orders=orders)


def test_what_stands_out_without_a_model():
    counts = np.array([[10.0, 40, 40, 10, 0], [50, 30, 15, 5, 0], [97, 0, 0, 0, 3]])
    ordered = np.array([4, 0, 4])
    share = unusual(counts, ordered, np.array([0, 0, 0]))
    np.testing.assert_allclose(share, [0.2, 1.0, 1.0])
    share = unusual(counts, ordered, np.array([3, 3, 4]))
    np.testing.assert_allclose(share, [0.2, 0.05, 0.03])
    # the middle of a number is usual; what never was is as rare as one row
    share = unusual(counts, ordered, np.array([2, 4, 2]))
    np.testing.assert_allclose(share, [1.0, 0.01, 0.01])
