"""Rings against sums over all that came; histograms against exact quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rings import (
    DELAYS,
    LATENCIES,
    Ring,
    delay_bins,
    delay_quantile,
    latency_bins,
    latency_quantile,
)


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8), min_size=1, max_size=20))
def test_a_ring_holds_the_newest_buckets_and_nothing_else(batches):
    ring = Ring(10, 2)
    seen: list[int] = []
    for batch in batches:
        at = np.array(batch, dtype=np.int64)
        top = max([*seen, *batch])
        slot, held = ring.slots(at)
        assert held.tolist() == [b > top - 10 for b in batch]
        ring.count((slot[held], 0))
        ring.add(slot[held], 1, 2.5)
        seen += [b for b in batch if b > top - 10]
    newest = max(seen)
    out = ring.span(newest - 14, newest + 3)
    for i, bucket in enumerate(range(newest - 14, newest + 4)):
        n = seen.count(bucket) if bucket > newest - 10 else 0
        assert out[i].tolist() == [n, 2.5 * n]
    assert ring.span(newest, newest, 0).tolist() == [seen.count(newest)]


def test_a_ring_takes_the_state_of_one_of_its_shape_only():
    ring = Ring(4, 1)
    ring.count((ring.slots(np.array([9]))[0], 0))
    other = Ring(4, 1)
    other.restore(ring.newest, ring.data)
    assert other.span(6, 9, 0).tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="a ring of"):
        Ring(5, 1).restore(ring.newest, ring.data)


def test_a_ring_of_times_that_have_not_come_is_brought_back_as_it_is():
    ring = Ring(4, 1)
    for bucket, n in ((107, 1), (108, 2), (110, 3)):
        ring.add(ring.slots(np.array([bucket]))[0], 0, n)
    ring.bring_back(49, 110)
    assert ring.newest == 110
    ring.bring_back(49, 100)
    assert ring.span(45, 50, 0).tolist() == [0, 1, 2, 0, 3, 0]
    slot, held = ring.slots(np.array([50]))
    assert held.all()
    ring.add(slot, 0, 4)
    assert ring.span(46, 50, 0).tolist() == [0, 2, 0, 3, 4]


@given(st.integers(0, 1000), st.floats(-9, 5), st.floats(0.01, 2))
def test_latency_quantiles_are_right_within_their_promise(seed, middle, spread):
    x = np.clip(np.random.default_rng(seed).lognormal(middle, spread, 400), 2e-4, 900)
    counts = np.bincount(latency_bins(x), minlength=LATENCIES + 1)[:LATENCIES]
    for q in (0.01, 0.5, 0.95, 0.99):
        exact = np.sort(x)[int(q * (len(x) - 1))]
        assert latency_quantile(counts.astype(float), q) == pytest.approx(exact, rel=0.026)


def test_what_is_no_latency_is_not_known_and_extremes_stay_inside():
    x = np.array([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-9, 1e9])
    assert latency_bins(x).tolist() == [LATENCIES] * 3 + [0, 0, 0, LATENCIES - 1]
    assert math.isnan(latency_quantile(np.zeros(LATENCIES), 0.5))
    assert math.isnan(delay_quantile(np.zeros(DELAYS), 0.5))


@given(st.floats(0.002, 1e6))
def test_delays_come_back_within_six_percent(delay):
    counts = np.bincount(delay_bins(np.full(9, delay)), minlength=DELAYS).astype(float)
    assert delay_quantile(counts, 0.5) == pytest.approx(delay, rel=0.06)
