"""What bins are worth, by rows of the reference; the numbers themselves are tried in `test_drift_attribution`."""

import numpy as np
import pytest

from agent.errors import Refused
from detectors.drift.features import Features
from detectors.drift.parts import Parts


def rows(rng, n):
    x = rng.normal(size=(3, n))
    answer = 2.0 * x[0] - 1.0 * x[1] + 0.1 * rng.normal(size=n)
    loss = (rng.random(n) < 0.1 + 0.2 * (x[2] > 1.0)).astype(float)
    return {f"x{i}": x[i] for i in range(3)}, loss, answer


def made(n=3000, *, loss=True, answer=True):
    rng = np.random.default_rng(0)
    columns, losses, answers = rows(rng, n)
    features = Features(Features.Config())
    features.fit(columns)
    parts = Parts(features)
    none = np.full(n, np.nan)
    parts.fit(columns, losses if loss else none, answers if answer else none)
    return features, parts, rng


def test_answers_are_shared_among_the_features_that_make_them():
    _, parts, _ = made()
    usual, told, drivers = parts.drivers({"x0": 1.5, "x1": 0.0, "x2": 0.0})
    assert usual == pytest.approx(0.0, abs=0.1)
    assert told > 0.95
    assert drivers[0].name == "x0"
    assert drivers[0].adds == pytest.approx(3.0, abs=0.4)
    assert abs({d.name: d.adds for d in drivers}["x2"]) < 0.1


def test_a_move_and_nothing_else_explains_a_loss():
    features, parts, rng = made()
    columns, _, _ = rows(rng, 2000)
    features.take(1.0, 2000, {**columns, "x2": columns["x2"] + 1.0})
    found = parts.explain(0.2, 0.16, 2000.0)
    assert found.shares["x2"].value > 0.6
    assert found.relation_share.low < 0.3
    assert abs(found.features["x0"].value) < 0.02


@pytest.mark.parametrize(("loss", "answer"), [(False, True), (True, False), (False, False)])
def test_what_is_not_known_of_the_reference_is_not_told(loss, answer):
    _, parts, _ = made(loss=loss, answer=answer)
    assert (parts.explain(0.2, 0.16, 100.0) is not None) == loss
    usual, told, drivers = parts.drivers({"x0": 9.0})
    assert np.isfinite([usual, told]).all() == answer
    assert {d.name: d.rare for d in drivers}["x0"] < 0.001


def test_few_rows_teach_nothing():
    _, parts, _ = made(n=300)
    assert parts.explain(0.2, 0.16, 100.0) is None
    assert np.isnan(parts.drivers({"x0": 1.0})[1])


def test_it_goes_on_after_a_restart_and_refuses_other_features():
    features, parts, _ = made()
    other = Parts(features)
    other.load(parts.dump())
    assert other.dump() == parts.dump()
    assert other.drivers({"x0": 1.0}) == parts.drivers({"x0": 1.0})
    less = Features(Features.Config())
    less.fit({"x0": np.arange(1000.0)})
    with pytest.raises(Refused, match="other features"):
        Parts(less).load(parts.dump())


def test_without_a_reference_it_says_so():
    with pytest.raises(Refused, match="no reference yet"):
        Parts(Features(Features.Config())).drivers({"x": 1.0})
