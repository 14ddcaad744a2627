import math

import numpy as np
import pytest

from agent.counterfactual import ends_by_itself, episodes, weigh


def noise(phi, n, seed):
    rng = np.random.default_rng(seed)
    x = np.empty(n)
    last = rng.standard_normal()
    for i, e in enumerate(rng.standard_normal(n)):
        x[i] = last = phi * last + math.sqrt(1 - phi * phi) * e
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8, 0.95])
def test_a_shift_that_the_act_ends_is_told_from_one_that_stays_and_from_none(phi):
    cured, lasting, none = [], [], []
    for seed in range(10):
        x = noise(phi, 400, seed)
        u, b, a = x[:300], x[300:360], x[360:]
        cured.append(weigh(u, b + 4, 0, a))
        lasting.append(weigh(u, b + 4, 0, a + 4))
        none.append(weigh(u, b, 0, a))
    assert np.median([min(e.passes, e.lasts) for e in cured]) > 12
    assert np.median([e.effect for e in cured]) == pytest.approx(-4, abs=1.2)
    assert np.median([e.lasts for e in lasting]) < 3
    assert np.median([e.passes for e in none]) < 6


def test_the_error_knows_autocorrelation():
    """Slow noise tells less of its level than as many independent rows."""
    fast, slow = (
        np.median([weigh(x[:300], x[300:360], 6, x[366:]).error for x in (noise(phi, 420, s) for s in range(8))])
        for phi in (0.0, 0.8)
    )  # fmt: skip
    assert slow > 1.5 * fast


def test_missing_rows_and_no_usual_ones():
    x = noise(0.5, 400, 3)
    x[::3] = np.nan
    cured = weigh(x[:300], x[300:360] + 5, 6, x[366:])
    assert min(cured.passes, cured.lasts) > 12
    bare = weigh(np.empty(0), np.full(12, 5.0), 2, np.zeros(12))
    assert bare.passes > 12
    assert bare.effect == pytest.approx(-5, abs=0.1)


def test_a_pace_before_the_act_is_seen():
    x = noise(0.3, 400, 4)
    falling = np.linspace(12, 0, 100)
    found = weigh(x[:300], x[300:350] + falling[:50], 0, x[350:] + falling[50:])
    assert found.getting == pytest.approx(-12 / 100, rel=0.4)
    assert found.getting_evidence > 12
    assert found.fades < found.lasts


@pytest.mark.parametrize(
    ("past", "stood", "took", "low", "high", "n"),
    [
        ([], 60.0, 6.0, 0.09, 0.1, 0),
        ([], 5.0, 0.0, 0.0, 0.0, 0),
        ([10.0, 20.0, 59.0], 60.0, 6.0, 0.09, 0.1, 0),  # none reached its age
        ([65.0, 70.0, 62.0], 60.0, 6.0, 0.6, 0.7, 3),
        ([5000.0, 9000.0], 60.0, 6.0, 0.0, 0.01, 2),
    ],
)
def test_how_soon_such_troubles_end(past, stood, took, low, high, n):
    p, alike = ends_by_itself(past, stood, took)
    assert low <= p <= high
    assert alike == n


def test_episodes_are_whole_excursions_and_one_odd_row_does_not_end_them():
    x = np.array([0, 0, 9, 9, 0, 9, 9, 9, 0, 0, 0, 9, 0, 0, np.nan, 9, 9, 9, 0, 0, 9, 9.0])
    assert episodes(x, 5.0) == [6, 3]
    assert episodes(np.empty(0), 1.0) == []
    assert episodes(np.full(30, 9.0), 1.0) == []
