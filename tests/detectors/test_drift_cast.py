"""Contracts that a cast breaks on its way: rounded numbers, fractions in counts, columns that trade places."""

import numpy as np
import pytest

from detectors.drift.features import Features


def rows(seed, n):
    random = np.random.default_rng(seed)
    return {
        "amount": np.exp(3.0 + 0.8 * random.normal(size=n)),
        "offset": random.normal(size=n),
        "count": np.floor(np.exp(1.8 + 0.6 * random.normal(size=n))),
        "often_zero": np.maximum(0.0, random.normal(size=n) + 0.4),
        "level": 40.0 + 9.0 * random.normal(size=n),
    }


def broken(seed, change):
    features = Features(Features.Config())
    features.fit(rows(seed, 4000))
    table = None
    for i in range(4):
        batch = rows(100 * seed + i + 1, 100)
        features.take(float(i), 100, change(batch))
        table = features.judge(float(i))
    assert table is not None
    return {s.name: s.reason for s in features.states() if s.broken}


def cast(name):
    def change(x):
        unit = float(np.std(rows(0, 4000)[name]))
        return {**x, name: np.trunc(x[name] / unit) * unit}

    return change


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_broken_while_rows_are_as_ever(seed):
    assert broken(seed, lambda x: x) == {}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["amount", "offset", "often_zero", "level"])
def test_a_number_that_is_rounded_on_its_way_is_a_broken_contract(seed, name):
    assert set(broken(seed, cast(name))) == {name}


def test_counts_that_become_fractions_are_a_broken_contract():
    assert broken(1, lambda x: {**x, "count": x["count"] * 1.07 + 0.01}) == {"count": "fractions"}


@pytest.mark.parametrize("seed", range(3))
def test_columns_that_trade_places_are_told_as_such(seed):
    swapped = {"offset": "swapped", "level": "swapped"}
    assert broken(seed, lambda x: {**x, "offset": x["level"], "level": x["offset"]}) == swapped


def test_a_column_that_drifts_to_where_another_one_is_has_not_traded_places():
    found = broken(2, lambda x: {**x, "offset": x["level"]})
    assert set(found) == {"offset"}
    assert "swapped" not in found.values()
