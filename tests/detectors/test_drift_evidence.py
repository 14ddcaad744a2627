"""E-values of features: silent on rows like the reference, loud on others, whatever the batches are."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.drift import reference
from detectors.drift.evidence import ALARM, Evidence
from detectors.drift.reference import COLUMNS, MISSING


def columns_of(ref, x):
    at = (x[:, None] >= ref.edges[0][None, :]).sum(axis=1)
    at[at > ref.bins[0]] = reference.ABOVE
    at[np.isnan(x)] = MISSING
    return np.bincount(at, minlength=COLUMNS)[None, :].astype(float)


def stream(seed, n_reference, batches, draw, size=50):
    rng = np.random.default_rng(seed)
    ref = reference.learn({"x": rng.normal(size=n_reference)})
    test, before, highest = Evidence(ref), np.zeros((1, COLUMNS)), -np.inf
    for i in range(batches):
        counts = columns_of(ref, draw(rng, size, i))
        test.take(counts, before)
        before = before * 0.6 + counts
        highest = max(highest, float(test.log10()[0]))
        if highest >= ALARM:
            return highest, i + 1
    return highest, None


@pytest.mark.parametrize("n_reference", [100, 300, 2000])
def test_rows_like_the_reference_are_no_evidence(n_reference):
    for seed in range(30):
        highest, at = stream(seed, n_reference, 300, lambda r, n, _: r.normal(size=n))
        assert at is None, (seed, highest)


@pytest.mark.parametrize(
    ("draw", "batches"),
    [
        (lambda r, n, _: r.normal(0.9, 1, n), 4),
        (lambda r, n, _: r.normal(-0.5, 1, n), 15),
        (lambda r, n, _: r.normal(0.25, 1, n), 60),
        (lambda r, n, _: r.normal(0, 2, n), 15),
        (lambda r, n, _: np.where(r.random(n) < 0.1, np.nan, r.normal(size=n)), 15),
        (lambda r, n, _: r.choice([-1.0, 1.0], n), 6),
    ],
)
def test_changes_are_found_within_so_many_batches_of_fifty(draw, batches):
    found = [stream(seed, 2000, 400, draw)[1] for seed in range(20)]
    assert None not in found
    assert np.median(found) <= batches


def test_a_difference_within_the_tolerance_is_never_found():
    # each share may be 10 % larger: with more rows that stays so
    _, at = stream(0, 5000, 3000, lambda r, n, _: r.normal(0.03, 1, n), size=500)
    assert at is None


def test_evidence_goes_when_the_change_does_and_by_restart():
    shifted = lambda r, n, i: r.normal(1.0 if 50 <= i < 60 else 0.0, 1, n)  # noqa: E731  # reads best here
    rng = np.random.default_rng(0)
    ref = reference.learn({"x": rng.normal(size=1000)})
    test, before, logs = Evidence(ref), np.zeros((1, COLUMNS)), []
    for i in range(300):
        counts = columns_of(ref, shifted(rng, 50, i))
        test.take(counts, before)
        before = before * 0.6 + counts
        logs.append(float(test.log10()[0]))
    assert max(logs[:50]) < ALARM <= logs[59]
    assert logs[-1] < 2
    test.restart()
    assert test.log10()[0] == -ALARM
