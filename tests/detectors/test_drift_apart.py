"""One replica apart from its peers: found, and not found where all move alike or were never alike."""

import numpy as np
import pytest

from agent.errors import Refused
from detectors.drift.apart import Apart

ANSWERS, REPLICAS = 6, 4


def serve(seed, ticks, *, bad=0.0, mixes=None, then=None, test=None, start=0):
    """Deal some 16 rows a tick to each; replica 1 says answer 0 in a share `bad`; returns who was apart when."""
    random = np.random.default_rng([seed, start])
    test = test or fresh()
    mixes = np.random.default_rng(seed).dirichlet(np.full(ANSWERS, 3.0)) if mixes is None else mixes
    found = []
    for tick in range(start, start + ticks):
        mix = np.array(np.broadcast_to(mixes, (REPLICAS, ANSWERS)))
        if then is not None:
            mix = then(mix)
        mix[1] = (1 - bad) * mix[1] + bad * np.eye(ANSWERS)[0]
        test.take(
            float(tick), np.stack([random.multinomial(random.poisson(16), row) for row in mix])
        )
        if test.apart.any():
            found.append((tick, np.flatnonzero(test.apart).tolist()))
    return test, found


def fresh():
    test = Apart(ANSWERS)
    test.remap(np.full(REPLICAS, -1))
    return test


@pytest.mark.parametrize("seed", range(3))
def test_alike_replicas_are_never_apart(seed):
    test, found = serve(seed, 3000)
    assert found == []
    assert test.ready.all()
    assert (test.size < 0.1).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_one_that_answers_otherwise_is_named_alone_and_soon(seed):
    test, found = serve(seed, 500)
    assert found == []
    test, found = serve(seed, 100, bad=0.3, test=test, start=500)
    first, who = found[0]
    assert who == [1]
    assert first - 500 < 50
    assert all(who == [1] for _, who in found)
    test, found = serve(seed, 300, test=test, start=600)
    assert not test.apart.any()


def test_a_drift_of_all_is_none_of_one():
    test, _ = serve(5, 500)
    _, found = serve(5, 500, then=lambda mix: mix[:, ::-1].copy(), test=test, start=500)
    assert found == []


def test_replicas_that_never_were_alike_are_judged_by_their_own_past():
    mixes = np.random.default_rng(8).dirichlet(np.full(ANSWERS, 3.0), REPLICAS)
    test, found = serve(8, 1000, mixes=mixes)
    assert found == []
    _, found = serve(8, 100, bad=0.4, mixes=mixes, test=test, start=1000)
    assert found[0][1] == [1]


def test_requests_that_are_dealt_by_tenant_wander_and_that_is_no_fault():
    random = np.random.default_rng(9)
    tenants = random.dirichlet(np.full(ANSWERS, 2.0), 3 * REPLICAS).reshape(REPLICAS, 3, ANSWERS)
    test, where, apart = fresh(), np.zeros((REPLICAS, 3)), 0
    for tick in range(4000):
        where = 0.995 * where + 0.1 * random.normal(size=where.shape)
        load = np.exp(where) / np.exp(where).sum(axis=1, keepdims=True)
        mixes = (load[:, :, None] * tenants).sum(axis=1)
        test.take(float(tick), np.stack([random.multinomial(16, row) for row in mixes]))
        apart += int(test.apart.any() and tick > 1000)
    assert apart == 0


def test_two_replicas_are_no_peers():
    test = Apart(ANSWERS)
    test.remap(np.array([-1, -1]))
    for tick in range(200):
        test.take(float(tick), np.array([[16, 0, 0, 0, 0, 0], [0, 16, 0, 0, 0, 0]]))
    assert not test.apart.any()
    assert not test.ready.any()


def test_replicas_come_and_go_and_the_others_stay_what_they_were():
    test, _ = serve(3, 300)
    usual = test._usual.copy()
    test.remap(np.array([0, -1, 2, 3]))
    assert (test._usual[[0, 2, 3]] == usual[[0, 2, 3]]).all()
    assert test.ready.tolist() == [True, False, True, True]


def test_its_state_goes_on_and_one_of_another_shape_is_refused():
    test, _ = serve(4, 300)
    other = fresh()
    other.load(test.dump())
    for one in (test, other):
        one.take(301.0, np.full((REPLICAS, ANSWERS), 3))
    assert (test.dump() == other.dump()).all()
    with pytest.raises(Refused):
        Apart(ANSWERS + 1).load(test.dump())
