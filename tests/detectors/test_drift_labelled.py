"""What is expected of a version, as the window goes on."""

from __future__ import annotations

import numpy as np
import pytest

from agent.ports import LabelledRows
from detectors.drift.labelled import Labelled

WINDOW_S = 300.0
A_SECOND = 4


def answers(rng, n, spread):
    """A calibrated model: confidence, right."""
    z = np.abs(rng.normal(0.0, spread, n))
    confidence = 1 / (1 + np.exp(-z))
    return confidence, rng.random(n) < confidence


def watched(rng):
    one = Labelled(Labelled.Config(window=WINDOW_S, min_rows=100))
    confidence, right = answers(rng, 5000, 2.0)
    truth = np.zeros(5000, dtype=np.int64)
    said = np.where(right, truth, 1)
    none = np.zeros((0, 5000), dtype=np.uint8)
    one.fit(LabelledRows(said, truth, confidence, np.zeros(5000, dtype=np.uint8), none), 3, None)
    return one


def serve(one, rng, since, until, spread, every=10):
    """Serve from second to second; return what was expected last."""
    for ts in range(since + every, until + 1, every):
        n = every * A_SECOND
        confidence, _ = answers(rng, n, spread)
        one.take(float(ts), confidence, None, np.zeros(n, dtype=np.uint8))
    return one.judge(float(until)).expected


def test_what_is_expected_is_of_now_and_its_band_of_the_window():
    rng = np.random.default_rng(0)
    one = watched(rng)
    before = serve(one, rng, 0, 600, 2.0)
    half = serve(one, rng, 600, 600 + int(WINDOW_S / 2), 1.0)
    whole = serve(one, rng, 600 + int(WINDOW_S / 2), 600 + int(WINDOW_S), 1.0)
    assert half.value < before.value - 0.05
    assert half.value == pytest.approx(whole.value, abs=0.02)
    assert half.high - half.value == pytest.approx(whole.high - whole.value, rel=0.2)


def test_where_the_newest_half_has_too_few_rows_the_whole_window_speaks():
    rng = np.random.default_rng(1)
    one = watched(rng)
    serve(one, rng, 0, 150, 1.0)
    later = one.judge(290.0).expected
    assert later.value < 0.75
    assert np.isnan(one.judge(900.0).expected.value), "no rows, nothing to expect"


def test_how_many_labels_come_is_not_known_from_the_first_of_them():
    """Evidence of one chance in a million is no alarm where ten millions of labels may come in a quarter."""

    def labels(one, rng, ts, n, wrong):
        said = rng.permutation(np.arange(n) < wrong * n).astype(np.int64)
        rows = np.zeros(n, dtype=np.uint8), np.zeros((0, n), dtype=np.uint8)
        truth, unsure = np.zeros(n, dtype=np.int64), np.full(n, np.nan)
        one.label(ts, LabelledRows(said, truth, unsure, *rows), 2, 1)
        return one.judge(ts)

    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one = Labelled(Labelled.Config(window=WINDOW_S, min_rows=100))
        labels(one, rng, 0.0, 700, 0.4)
        first = [labels(one, rng, 0.0, 100, 0.6) for _ in range(2)]
        found.append([one.changed for one in first])
        later = [labels(one, rng, 25.0 * i, 100, 0.7) for i in range(1, 9)]
        assert later[-1].changed
    assert not np.any(found)
