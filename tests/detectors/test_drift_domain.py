"""Whether rows are told from those of the reference: by what no column shows alone, and not where there is nothing."""

import math

import numpy as np
import pytest

from agent.errors import Refused
from detectors.drift import Domain

pytestmark = pytest.mark.long


def rows(random, n, *, turned=False, cash=0.3):
    a, b, c = random.normal(size=(3, n))
    pair = np.where(
        a * b > 0, c, -c
    )  # goes with the product of two others: no pair of columns shows it
    if turned:
        pair = -pair
    kind = np.where(random.random(n) < cash, "cash", "card").astype(object)
    gap = np.where(random.random(n) < 0.1, np.nan, random.normal(size=n))
    return {"a": a, "b": b, "c": c, "d": pair, "kind": kind, "gap": gap}


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_one_kind_are_not_told_apart(seed):
    random = np.random.default_rng(seed)
    told = Domain().tell(rows(random, 2000), rows(random, 2000))
    assert told.low < 0.5 < told.high
    assert told.evidence < math.log10(40)
    assert max(told.worth.values()) < 0.05


def test_what_three_columns_do_together_is_found_and_they_are_named():
    random = np.random.default_rng(4)
    told = Domain().tell(rows(random, 3000), rows(random, 3000, turned=True))
    assert told.chance > 0.7
    assert told.evidence > 10
    assert set(list(told.worth)[:4]) == {"a", "b", "c", "d"}
    assert told.worth["kind"] < 0.02


def test_another_mix_of_texts_is_found_and_named():
    random = np.random.default_rng(5)
    told = Domain().tell(rows(random, 3000), rows(random, 2000, cash=0.6))
    assert next(iter(told.worth)) == "kind"
    assert 0.6 < told.chance < 0.7, "a half and half of the move of .3"
    assert told.pairs == 2000


def test_columns_of_one_group_are_worth_what_they_are_together():
    random = np.random.default_rng(6)
    told = Domain({"a": "v", "b": "v", "c": "v", "d": "v"}).tell(
        rows(random, 3000), rows(random, 3000, turned=True)
    )
    assert next(iter(told.worth)) == "v"
    assert told.worth["v"] == pytest.approx(told.chance - 0.5, abs=0.04)


def test_few_rows_say_nothing():
    random = np.random.default_rng(7)
    with pytest.raises(Refused, match="299 rows"):
        Domain().tell(rows(random, 299), rows(random, 2000))
    with pytest.raises(Refused, match="0 rows"):
        Domain().tell({"x": np.zeros(500)}, {"y": np.zeros(500)})
