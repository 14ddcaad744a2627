"""Trace ids of bad requests: bounded, newest, and nothing where there are none."""

import numpy as np

from agent.examples import MOST, Examples
from agent.ports import PredictionBatch


def batch(ts, latency, status=200, traces=None, model="fraud"):
    n = len(latency)
    return PredictionBatch(
        model, "1", np.full(n, float(ts)), ("",) * n, {}, np.array([None] * n), np.full(n, np.nan),
        np.array(latency, dtype=float), np.full(n, np.nan), np.full(n, status),
        tuple(f"t{ts}-{i}" for i in range(n)) if traces is None else traces,
    )  # fmt: skip


def test_what_failed_comes_first_then_the_slowest_and_the_rest_is_not_kept():
    kept = Examples()
    for ts in range(50):
        kept.take(batch(ts, [0.1, 0.11, 0.09]))
    assert kept.of(["fraud"], 0.0) == ()
    kept.take(batch(50, [0.1, 0.5, 0.9]))
    kept.take(batch(51, [0.1, 0.1], status=500))
    assert kept.of(["fraud"], 50.0) == ("t51-0", "t51-1", "t50-2", "t50-1")
    assert kept.of(["fraud"], 51.0) == ("t51-0", "t51-1")
    assert kept.of(["other"], 0.0) == ()


def test_a_source_without_trace_ids_gives_none_and_a_flood_stays_small():
    kept = Examples()
    kept.take(batch(1, [9.0] * 5, status=500, traces=()))
    assert kept.of(["fraud"], 0.0) == ()
    for ts in range(100):
        kept.take(batch(ts, [1.0] * 500, status=503))
    assert len(kept.of(["fraud"], 0.0)) == MOST
    assert len(kept._models["fraud"].rows) <= 200
    kept.forget(99.0 + 3600.0)
    assert {t.split("-")[0] for t in kept.of(["fraud"], 0.0)} == {"t99"}


def test_a_long_slowness_goes_on_being_slow():
    kept = Examples()
    for ts in range(20):
        kept.take(batch(ts, [0.1, 0.1]))
    for ts in range(20, 60):
        kept.take(batch(ts, [0.8, 0.8]))
    assert "t30-0" in kept.of(["fraud"], 20.0, most=200)
