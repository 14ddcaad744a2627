"""Guessing what columns are: by names, types and values; what a person says wins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Refused
from agent.roles import ROLES, guess

RANDOM = np.random.default_rng(5)
N = 400


def texts(*some):
    out = np.empty(N, dtype=object)
    out[:] = [some[i % len(some)] for i in range(N)]
    return out


def each(form):
    out = np.empty(N, dtype=object)
    out[:] = [form.format(i) for i in range(N)]
    return out


P = RANDOM.random(N)
X = RANDOM.normal(40, 9, N)
BINARY = (P > 0.5).astype(float)
STAMPS = 1_764_000_000.0 + np.arange(N) * 7.5


def roles(columns, said=None):
    return {g.column: g.role for g in guess(columns, said)}


def test_a_usual_file_of_scores():
    found = guess(
        {
            "": np.arange(float(N)), "customer_id": each("c{:05d}"), "scored_at": STAMPS, "model_version": texts("7"),
            "age": X, "country": texts("DE", "FR", None), "is_new": BINARY, "churn_probability": P,
            "prediction": BINARY, "churned_label": 1 - BINARY, "segment": texts("gold", "basic"),
            "comment": each("the customer wrote a letter about {} and was not amused"), "empty": np.full(N, np.nan),
        }
    )  # fmt: skip
    assert {g.column: g.role for g in found} == {
        "": "ignore", "customer_id": "id", "scored_at": "ts", "model_version": "version", "age": "feature",
        "country": "feature", "is_new": "feature", "churn_probability": "probability", "prediction": "prediction",
        "churned_label": "label", "segment": "segment", "comment": "ignore", "empty": "ignore",
    }  # fmt: skip
    assert all(g.reason and 0.5 <= g.confidence < 1 for g in found)
    sure = {g.column: g.confidence for g in found}
    assert sure["age"] > 0.8
    assert "none comes twice" in next(g.reason for g in found if g.column == "customer_id")


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"y_true": BINARY, "y_pred": BINARY, "y_proba": P}, ("label", "prediction", "probability")),
        ({"predicted_label": BINARY, "label": BINARY}, ("prediction", "label")),
        ({"predictedClass": texts("a", "b"), "trueLabel": texts("a", "b")}, ("prediction", "label")),
        ({"yhat": X, "y": X + 1}, ("prediction", "label")),
        ({"score": P, "target": BINARY}, ("probability", "label")),
        ({"score": X, "target": X}, ("prediction", "label")),
        ({"prediction": P, "label": BINARY}, ("probability", "label")),
        ({"prediction": P, "label": P}, ("prediction", "label")),
        ({"prob_setosa": P, "prob_virginica": 1 - P}, ("probability", "probability")),
        ({"p": P, "decision": BINARY}, ("probability", "prediction")),
        ({"class": texts("a", "b"), "pred": texts("a", "b")}, ("label", "prediction")),
        ({"pred": BINARY, "pred_old": BINARY}, ("prediction", "ignore")),
        ({"id": each("{}"), "merchant_id": texts("m1", "m2")}, ("id", "ignore")),
        ({"request": each("9f3c{:08d}aa"), "x": X}, ("id", "feature")),
        ({"created_at": each("10 past {}"), "x": X}, ("ignore", "feature")),
        ({"created_at": texts("2026-11-01T10:00:00", "2026-11-02"), "x": X}, ("ts", "feature")),
        ({"ts": STAMPS * 1000, "event_time": STAMPS}, ("ts", "ignore")),
        ({"time": X, "x": X}, ("feature", "feature")),
        ({"when": np.full(N, np.datetime64("2026-11-01T00:00:00"))}, ("ts",)),
        ({"latency_ms": X, "status": texts(200, 500)}, ("latency", "status")),
        ({"model": texts("fraud"), "version": texts(3, 4)}, ("model", "version")),
        ({"app_version": texts("1", "2"), "model_version": texts("3")}, ("ignore", "version")),
        ({"variant": texts("canary", "stable"), "list": texts(["a", "b"])}, ("segment", "ignore")),
        ({"text": texts([1, 2]), "probabilities": texts([0.5, 0.5])}, ("feature", "ignore")),
        ({"features.id_count": X, "features.label": X}, ("feature", "feature")),
        ({"merchant": each("shop number {}")}, ("ignore",)),
    ],
)  # fmt: skip
def test_names_and_values_tell(columns, wanted):
    assert tuple(roles(columns).values()) == wanted


def test_what_a_person_says_wins_and_takes_the_place():
    columns = {"cust": each("{}"), "order_id": each("o{}"), "pred": BINARY, "outcome": BINARY}
    found = guess(columns, {"cust": "id", "pred": "ignore", "outcome": "prediction"})
    assert [(g.role, g.confidence) for g in found if g.column in {"cust", "pred", "outcome"}] == [
        ("id", 1.0), ("ignore", 1.0), ("prediction", 1.0),
    ]  # fmt: skip
    other = next(g for g in found if g.column == "order_id")
    assert (other.role, other.reason) == ("ignore", "looks like another id beside cust")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"custid": "id"}, "no column 'custid'; did you mean cust_id"),
        ({"zzz": "id"}, "there are: cust_id, x"),
        ({"x": "key"}, "'key' is no role; use one of id, ts"),
    ],
)
def test_what_cannot_be_is_refused(said, problem):
    with pytest.raises(Refused, match=problem):
        guess({"cust_id": each("{}"), "x": X}, said)


def test_no_rows_and_odd_values_are_no_trouble():
    assert roles({}) == {}
    assert roles({"a": np.zeros(0), "b": np.array([], dtype=object)}) == {
        "a": "ignore",
        "b": "ignore",
    }
    odd = np.array([1, "x", None, float("nan"), True], dtype=object)
    assert roles({"a": odd, "b": np.array([np.inf, np.nan, 1.0, 2.0, 2.0])}) == {
        "a": "feature",
        "b": "feature",
    }


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=12),
        st.lists(st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=5), st.booleans()),
                 min_size=7, max_size=7),
        max_size=6,
    )
)  # fmt: skip
def test_whatever_comes_has_one_known_role(table):
    columns = {}
    for name, values in table.items():
        columns[name] = np.empty(7, dtype=object)
        columns[name][:] = values
    found = guess(columns)
    assert [g.column for g in found] == list(columns)
    assert {g.role for g in found} <= set(ROLES)
    for once in ("id", "ts", "prediction", "label", "version", "model"):
        assert sum(g.role == once for g in found) <= 1
