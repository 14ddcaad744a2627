"""References: read from what trainers write, learnt from rows, refused when malformed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Refused
from detectors.drift import reference
from detectors.drift.reference import ABOVE, BINS, COLUMNS, MISSING, PSI_GROUPS, WRONG


def test_shares_of_all_rows_sum_to_one_and_the_missing_ones_are_apart():
    found = {
        "rows": 400,
        "features": {
            "x": {"edges": [0, 1, 3], "shares": [0.25, 0.75], "missing": 0.2, "min": 0, "max": 3},
            "colour": {"values": {"red": 0.5, "blue": 0.4}, "missing": 0.04},
        },
    }
    ref = reference.read(found)
    assert ref.names == ("colour", "x")
    assert ref.numeric.tolist() == [False, True]
    assert ref.rows.tolist() == [400, 400]
    np.testing.assert_allclose(ref.shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(ref.shares[1, [1, 2, MISSING]], [0.2, 0.6, 0.2])
    # what it does not say are values too rare to be named
    np.testing.assert_allclose(ref.shares[0, [1, 2, MISSING, WRONG]], [0.5, 0.4, 0.04, 0.06])
    assert ref.values == ({"red": 1, "blue": 2}, None)


def test_bins_of_no_width_go_to_the_neighbour_that_the_value_falls_into():
    edges = [0.0, 0.0, 0.0, 1.0, 2.0, 2.0]
    counted = reference.read({"features": {"x": {"edges": edges, "shares": [0, 0, 0.6, 0.2, 0.2]}}})
    nominal = reference.read({"features": {"x": {"edges": edges, "shares": [0.2] * 5}}})
    for ref in (counted, nominal):
        assert ref.bins[0] == 2
        np.testing.assert_allclose(ref.shares[0, 1:3], [0.6, 0.4])
        assert ref.edges[0, 1] == 1.0
        assert ref.edges[0, 2] > 2.0, "the maximum itself is inside"


def test_many_bins_are_joined():
    edges = np.linspace(0, 1, 101)
    ref = reference.read({"features": {"x": {"edges": edges.tolist(), "shares": [0.01] * 100}}})
    assert ref.bins[0] == BINS
    assert ref.shares[0].sum() == pytest.approx(1.0)
    assert ref.edges[0, 0] == 0.0


def test_features_of_others_fill_in_and_are_marked():
    one = {"rows": 10, "features": {"x": {"edges": [0, 1], "shares": [1]}}}
    other = {
        "rows": 20,
        "features": {"x": {"edges": [5, 6], "shares": [1]}, "y": {"edges": [0, 1], "shares": [1]}, "bad": 3},
    }  # fmt: skip
    ref = reference.read(one, [other, {"features": 3}])
    assert ref.names == ("x", "y")
    assert ref.own.tolist() == [True, False]
    assert ref.rows.tolist() == [10, 20]
    assert ref.edges[0, 0] == 0.0


@pytest.mark.parametrize(
    "feature",
    [
        None, 3, [], {}, {"edges": [0, 1]}, {"edges": [0], "shares": []}, {"edges": [0, 1], "shares": [0]},
        {"edges": [0, 1], "shares": [-1]}, {"edges": [1, 0], "shares": [1]},
        {"edges": [0, math.inf], "shares": [1]}, {"edges": [0, 1], "shares": [1], "missing": 2},
        {"edges": [0, 1], "shares": [1], "missing": "some"}, {"edges": [[0, 1]], "shares": [1]},
        {"edges": [0, 1], "shares": [1], "max": math.nan}, {"values": {}}, {"values": {"a": -1}}, {"values": 3},
        {"edges": "01", "shares": [1]},
    ],
)  # fmt: skip
def test_malformed_features_are_refused_by_name(feature):
    with pytest.raises(Refused, match="'area' is not understood"):
        reference.read({"features": {"area": feature}})


def test_too_many_features_are_refused():
    one = {"edges": [0, 1], "shares": [1]}
    with pytest.raises(Refused, match="at most"):
        reference.read({"features": {str(i): one for i in range(1001)}})


@given(st.integers(0, 500), st.integers(2, 400), st.floats(-5, 5), st.floats(0.1, 2))
def test_learnt_numbers_have_the_magnitude_of_their_rows(seed, n, middle, spread):
    x = np.random.default_rng(seed).lognormal(middle, spread, n)
    ref = reference.learn({"x": x})
    assert ref.shares[0, 1:ABOVE].sum() == pytest.approx(1.0)
    exact = np.quantile(np.log10(x), (0.25, 0.5, 0.75))
    loose = 0.1 + 3 * spread / math.sqrt(n)
    np.testing.assert_allclose(ref.quartiles[0], exact, atol=loose)
    assert ref.negative[0] == 0.0


def test_learnt_columns_of_every_sort():
    ref = reference.learn(
        {
            "constant": np.full(50, 7.0),
            "half missing": np.where(np.arange(50) % 2, np.nan, np.arange(50.0)),
            "never there": np.full(50, np.nan),
            "zeros": np.zeros(50),
            "texts of numbers": np.array([str(i) for i in range(48)] + [None, "n/a"], dtype=object),
            "colours": np.array(["red"] * 40 + ["blue"] * 9 + [None], dtype=object),
            "ids": np.array([f"id{i}" for i in range(50)], dtype=object),
        }
    )
    at = {name: i for i, name in enumerate(ref.names)}
    np.testing.assert_allclose(ref.shares.sum(axis=1), 1.0)
    assert ref.bins[at["constant"]] == 1
    assert ref.shares[at["half missing"], MISSING] == 0.5
    assert ref.shares[at["never there"], MISSING] == 1.0
    assert np.isnan(ref.quartiles[at["zeros"]]).all()
    assert ref.numeric[at["texts of numbers"]]
    assert not ref.numeric[at["colours"]]
    assert ref.shares[at["colours"], 1] == pytest.approx(0.8)
    # all values came once: new ones are to be expected (Good and Turing)
    assert ref.shares[at["ids"], WRONG] == pytest.approx(1.0)


def test_groups_are_deciles_and_what_is_outside_belongs_to_the_ends():
    ref = reference.learn({"x": np.random.default_rng(0).normal(size=2000)})
    groups = ref.groups[0]
    assert groups[0] == groups[1] == 0
    assert groups[ABOVE] == groups[ref.bins[0]] == PSI_GROUPS - 1
    assert groups[[MISSING, WRONG]].tolist() == [PSI_GROUPS, PSI_GROUPS + 1]
    sums = np.bincount(groups, weights=ref.shares[0], minlength=PSI_GROUPS + 2)
    np.testing.assert_allclose(sums[:PSI_GROUPS], 0.1, atol=1e-3)
    assert groups.shape == (COLUMNS,)


def test_a_flag_has_a_bin_for_each_of_its_values():
    rng = np.random.default_rng(3)
    rare = (rng.random(5000) < 0.02).astype(float)
    for share, column in ((0.3, (rng.random(5000) < 0.3).astype(float)), (0.02, rare)):
        made = reference.learn({"flag": column})
        assert made.bins[0] == 2
        assert made.shares[0, 1:3] == pytest.approx([1 - share, share], abs=0.02)
    ints = reference.learn({"n": rng.integers(0, 6, 5000).astype(float)})
    assert ints.bins[0] == 6
    assert np.allclose(ints.shares[0, 1:7], 1 / 6, atol=0.02)
    smooth = reference.learn({"x": rng.normal(size=5000)})
    assert smooth.bins[0] == 20
    assert smooth.shares[0, 1:21].min() > 0.04


def test_a_constant_has_one_bin():
    made = reference.learn({"c": np.full(100, 7.0)})
    assert (made.bins[0], made.shares[0, 1]) == (1, pytest.approx(1.0))
