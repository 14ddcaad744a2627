"""What a detector may learn: not what is abnormal, unless it stays, or is called so more often than it may be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.excursions import Excursions

DAY = 86_400.0


def walk(excursions, low, allowed=0.0):
    """Feed rows (k, n) of what is low; return what is trusted (k, n)."""
    out = []
    for row in np.atleast_2d(low):
        excursions.warm(np.where(row, 1e-9, 0.5), row)
        out.append(excursions.trust(row, allowed))
    return np.array(out)


def test_what_is_ordinary_is_learnt():
    assert walk(Excursions(3, 60.0), np.zeros((10, 3), bool)).all()


def test_an_excursion_is_not_learnt_until_it_is_over():
    low = np.zeros((20, 2), bool)
    low[5:8, 0] = True
    trust = walk(Excursions(2, 60.0), low)
    assert trust[:5].all()
    assert not trust[5:8, 0].any()
    assert trust[:, 1].all()
    assert trust[13:].all()  # cooled


def test_what_lasts_is_the_new_normal_until_it_ends():
    low = np.ones((200, 1), bool)
    low[150:] = False
    excursions = Excursions(1, 60.0)
    trust = walk(excursions, low)
    assert not trust[:60].any()
    assert trust[60:].all()
    assert not excursions.old.any()


def test_one_row_at_a_second_is_distrusted_but_not_named():
    excursions = Excursions(1, 1.0)
    trust = walk(excursions, np.array([[True]]))
    assert not trust.any()
    assert not excursions.hot.any()
    assert not walk(excursions, np.array([[True]])).any()
    assert excursions.hot.all()


def test_distrust_is_paid_from_the_budget():
    """An excursion every hour with one allowed a day: the first is not learnt, later ones are until a day has gone."""
    low = np.zeros((48 * 60, 1), bool)
    low[30::60] = True
    trust = walk(Excursions(1, 60.0), low, allowed=60.0 / DAY)
    distrusted = np.flatnonzero(~trust[:, 0] & low[:, 0]) // 60
    assert distrusted[0] == 0
    assert 2 <= len(distrusted) <= 3
    assert (np.diff(distrusted) >= 23).all()


def test_what_others_name_costs_a_series_nothing():
    excursions = Excursions(2, 60.0)
    for _ in range(3):
        low = np.array([True, False])
        excursions.warm(np.array([1e-9, 0.5]), low)
        excursions.name(np.array([1]))
        low[1] = True
        trust = excursions.trust(low, 0.0)
        assert not trust[1]
        walk(excursions, np.zeros((10, 2), bool))
    assert trust[0]  # its one token was spent


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.floats(0.0, 0.01))
def test_series_do_not_influence_each_other(rows, allowed):
    low = np.stack([np.array(rows), np.zeros(len(rows), bool), np.array(rows[::-1])], axis=1)
    together = walk(Excursions(3, 300.0), low, allowed)
    for j in range(3):
        alone = walk(Excursions(1, 300.0), low[:, [j]], allowed)
        np.testing.assert_array_equal(together[:, [j]], alone)


def test_series_come_and_go():
    low = np.random.default_rng(0).random((400, 3)) < 0.2
    whole = walk(Excursions(3, 60.0), low)
    excursions = Excursions(3, 60.0)
    walk(excursions, low[:200])
    excursions.remap(np.array([2, -1, 0]))
    rest = walk(excursions, low[200:][:, [2, 1, 0]])
    np.testing.assert_array_equal(rest[:, [0, 2]], whole[200:][:, [2, 0]])
    fresh = walk(Excursions(1, 60.0), low[200:, [1]])
    np.testing.assert_array_equal(rest[:, [1]], fresh)
