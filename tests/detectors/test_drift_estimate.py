"""Accuracy without labels: what the docstring promises, on streams whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agent.errors import Refused
from detectors.drift.estimate import (
    BROKEN,
    COLUMNS,
    JOINT,
    LEAST_ROWS,
    OUTSIDE,
    STEP_ROWS,
    UNKNOWN,
    WIDTH,
    Estimate,
)

WINDOW = 1000


def rows(rng, n, *, middle=0.0, spread=2.0, true_slope=1.0):
    """A model that is sure of sig(z) while the truth is sig(slope z): confidence, right, positive, label."""
    z = rng.normal(middle, spread, n)
    said = 1 / (1 + np.exp(-z))
    label = rng.random(n) < 1 / (1 + np.exp(-true_slope * z))
    positive = said >= 0.5
    return np.where(positive, said, 1 - said), positive == label, positive, label


def learnt(rng, n=5000, **how):
    one = Estimate()
    confidence, right, positive, _ = rows(rng, n, **how)
    one.learn(confidence, right, positive)
    return one, float(right.mean())


def follow(one, rng, windows, *, labels_after=None, marks=0, start=0, **how):
    """Judge window after window; labels come `labels_after` windows late. Yields (expected, share of right)."""
    waiting = []
    for i in range(start, start + windows):
        confidence, right, positive, _ = rows(rng, WINDOW, **how)
        codes = one.code(confidence, positive, marks)
        if labels_after is not None and len(waiting) > labels_after:
            one.label(*waiting.pop(0))
        end = float((i + 1) * WINDOW)
        yield one.judge(one.count(codes), end - WINDOW / 2), float(right.mean())
        waiting.append((one.count(codes), one.count(codes, right), end))


def errors(found, usual):
    """Return mean error, that of "as the reference", and how often the band held the truth."""
    off = np.array([(e.accuracy[0] - true, usual - true) for e, true in found])
    held = np.mean([e.accuracy[1] <= true <= e.accuracy[2] for e, true in found])
    return *np.abs(off).mean(axis=0), held


@pytest.mark.parametrize("labels_after", [None, 0, 2])
def test_where_nothing_changes_it_is_no_worse_than_the_reference_and_its_band_is_right(
    labels_after,
):
    found, total = [], np.zeros(2)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        one, usual = learnt(rng)
        some = list(follow(one, rng, 20, labels_after=labels_after))
        total += errors(some, usual)[:2]
        found += some
    assert total[0] <= 1.02 * total[1]
    held = errors(found, 0.0)[2]
    # an old label makes the band deeper than it need be where nothing has changed
    assert 0.87 <= held <= (0.97 if labels_after == 0 else 1.0)


def test_the_longer_no_label_comes_the_deeper_is_the_band_and_a_label_lifts_it():
    rng = np.random.default_rng(11)
    one, _ = learnt(rng)
    confidence, right, positive, _ = rows(rng, WINDOW)
    codes = one.code(confidence, positive)
    counts = one.count(codes)
    bands = [one.judge(counts, at).accuracy for at in (0.0, 1000.0, 3000.0, 5000.0, 50_000.0)]
    depth = [middle - low for middle, low, _ in bands]
    height = [high - middle for middle, _, high in bands]
    assert depth == sorted(depth)
    assert depth[3] > 2 * depth[0]
    assert depth[4] == pytest.approx(depth[3], abs=1e-5), "of longer stretches nothing is known"
    assert max(height) < 1.2 * min(height)
    assert np.ptp([middle for middle, _, _ in bands]) < 0.002
    one.label(counts, one.count(codes, right), 50_000.0)
    middle, low, _ = one.judge(counts, 50_000.0).accuracy
    assert middle - low < 1.3 * depth[0]


def test_a_change_that_chance_may_have_made_is_believed_as_far_as_the_reference_bears_it_out():
    def moved(n, seed):
        """Share of a small fall of confidence that is taken over, with a reference of n rows."""
        rng = np.random.default_rng(seed)
        one, usual = learnt(rng, n)
        confidence, _, positive, _ = rows(rng, WINDOW, spread=1.94)
        found = one.judge(one.count(one.code(confidence, positive)), 500.0)
        return found.accuracy[0] - usual, found.confident - usual

    short, middling, long = (
        np.array([moved(n, seed) for seed in range(12)]) for n in (900, 5000, 60_000)
    )
    assert np.abs(short[:, 0]).max() < 0.25 * np.abs(short[:, 1]).max()
    taken = [float(x[:, 0] @ x[:, 1] / (x[:, 1] @ x[:, 1])) for x in (short, middling, long)]
    assert taken[0] < taken[1] < taken[2]
    assert taken[2] > 0.7


def test_the_band_is_for_as_many_rows_as_are_asked_for():
    rng = np.random.default_rng(12)
    one, _ = learnt(rng)
    confidence, _, positive, _ = rows(rng, 300)
    counts = one.count(one.code(confidence, positive))
    few, same, many = (one.judge(counts, 0.0, n).accuracy for n in (0.0, 300.0, 3000.0))
    assert few == same
    assert many[2] - many[1] < 0.75 * (few[2] - few[1])
    assert many[0] == pytest.approx(few[0], abs=1e-3)


def test_a_harder_mix_of_rows_is_seen_without_a_label():
    own = np.zeros(2)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        one, usual = learnt(rng)
        error, constant, _ = errors(list(follow(one, rng, 10, spread=1.4)), usual)
        own += (error, constant)
    assert own[0] < 0.4 * own[1]


def test_a_rise_of_confidence_is_no_rise_of_accuracy_until_labels_say_so():
    for slope, better in ((0.4, False), (1.0, True)):
        own = np.zeros(2)
        for seed in range(5):
            rng = np.random.default_rng(seed)
            one, usual = learnt(rng)
            before = list(follow(one, rng, 3, spread=4.0, true_slope=slope))
            for e, _ in before:
                assert abs(e.accuracy[0] - usual) < 0.005
                assert e.confident > usual + 0.07, "the confidence alone would have said so"
                assert e.accuracy[2] - e.accuracy[1] > 0.1, "it is told to be unsure"
            after = list(follow(one, rng, 6, start=3, labels_after=0, spread=4.0, true_slope=slope))
            own += errors(after[3:], usual)[:2]
            assert (np.mean([e.accuracy[0] for e, _ in after[3:]]) > usual + 0.05) == better
        assert own[0] < 1.05 * own[1]


def test_a_changed_relation_is_followed_by_labels():
    held = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        one, usual = learnt(rng)
        list(follow(one, rng, 5, labels_after=0))
        blind = list(follow(one, rng, 1, start=5, labels_after=0, true_slope=-0.2))
        assert blind[0][0].accuracy[0] > usual - 0.02, "without a label nobody can know"
        after = list(follow(one, rng, 12, start=6, labels_after=0, true_slope=-0.2))
        error, constant, _ = errors(after[2:], usual)
        assert error < 0.2 * constant
        held += [e.accuracy[1] <= true <= e.accuracy[2] for e, true in after[2:]]
    assert np.mean(held) > 0.85


def test_labels_that_contradict_it_stop_it_until_others_fit():
    rng = np.random.default_rng(0)
    one, _ = learnt(rng)
    confidence, right, positive, _ = rows(rng, WINDOW)
    codes = one.code(confidence, positive)
    window = one.count(codes)

    def label(wrong, at):
        part = codes[:STEP_ROWS]
        good = right[:STEP_ROWS] & (rng.random(STEP_ROWS) > wrong)
        one.label(one.count(part), one.count(part, good), at)

    label(0.0, 500)
    assert one.judge(window, 600.0).reason == ""
    label(0.4, 1000)
    stopped = one.judge(window, 1100.0)
    assert stopped.reason == "the newest labels contradict it"
    assert math.isnan(stopped.accuracy[0])
    assert 0.7 < stopped.confident < 0.9
    label(0.4, 1500)
    again = one.judge(window, 1600.0)
    assert again.reason == ""
    assert again.accuracy[0] == pytest.approx(right.mean() * 0.6, abs=0.06)


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        (OUTSIDE, "outside"),
        (BROKEN, "contract"),
        (JOINT | BROKEN, "contract"),
        (JOINT, "each other"),
    ],
)
def test_rows_unlike_all_labelled_ones_are_not_estimable_until_such_have_labels(mark, why):
    rng = np.random.default_rng(1)
    one, _ = learnt(rng)
    found = list(follow(one, rng, 5, labels_after=2, marks=mark))
    assert why in found[0][0].reason
    assert [e.reason == "" for e, _ in found] == [False, False, False, True, True]
    few = one.code(np.full(100, 0.8), None, np.where(np.arange(100) < 9, OUTSIDE, 0))
    assert learnt(rng)[0].judge(one.count(few), 0.0).reason == ""


def test_a_reference_that_swings_makes_the_band_wide_and_labels_count_for_less():
    def swinging(swing):
        rng = np.random.default_rng(7)
        parts = [rows(rng, STEP_ROWS, true_slope=s) for s in np.tile([1 - swing, 1 + swing], 8)]
        one = Estimate()
        one.learn(*(np.concatenate([p[i] for p in parts]) for i in range(3)))
        confidence, right, positive, _ = rows(rng, WINDOW)
        codes = one.code(confidence, positive)
        before = one.judge(one.count(codes), 500.0).accuracy
        good = right & (rng.random(WINDOW) > 0.05)
        one.label(one.count(codes), one.count(codes, good), 1000.0)
        after = one.judge(one.count(codes), 3000.0).accuracy
        return before, after

    calm, _ = swinging(0.0)
    rough, rough_after = swinging(0.8)
    assert rough[2] - rough[1] > 2 * (calm[2] - calm[1])
    # in a window of late labels such a loss is nothing new
    assert abs(rough_after[0] - rough[0]) < 0.02


def test_counts_add_up_over_batches_and_replicas():
    rng = np.random.default_rng(2)
    one, _ = learnt(rng)
    confidence, right, positive, _ = rows(rng, 900)
    marks = rng.integers(0, 8, 900)
    codes = one.code(confidence, positive, marks)
    assert codes.max() < 8 * COLUMNS
    whole = one.count(codes)
    assert whole.shape == (WIDTH,)
    assert whole[:COLUMNS].sum() == 900
    for i, mark in enumerate((OUTSIDE, BROKEN, JOINT)):
        assert whole[COLUMNS + i] == (marks & mark > 0).sum()
    parts = [one.count(codes[a : a + 300]) for a in (0, 300, 600)]
    np.testing.assert_array_equal(sum(parts), whole)
    assert one.count(codes, right)[:COLUMNS].sum() == right.sum()
    # labels in pieces are as labels at once
    other = Estimate()
    other.load(one.dump())
    one.label(whole, one.count(codes, right), 900.0)
    for a in (0, 300, 600):
        part, good = codes[a : a + 300], right[a : a + 300]
        other.label(other.count(part), other.count(part, good), 900.0)
    assert abs(one.judge(whole, 900.0).confident - other.judge(whole, 900.0).confident) < 1e-12


def test_where_few_rows_get_a_label_fewer_make_a_step():
    rng = np.random.default_rng(3)
    one, usual = learnt(rng)
    at = 0.0
    for _ in range(10):
        confidence, right, positive, _ = rows(rng, LEAST_ROWS, true_slope=0.1)
        codes = one.code(confidence, positive)
        at += 5000
        one.label(one.count(codes), one.count(codes, right), at)
    found = one.judge(one.count(codes), at)
    assert found.accuracy[0] < usual - 0.1


def test_precision_recall_and_f1_are_within_their_bands():
    held = {name: [] for name in ("precision", "recall", "f1")}
    off = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shift = rng.normal(-1.5, 0.2)
        one, _ = learnt(rng, middle=-1.5)
        confidence, right, positive, label = rows(rng, WINDOW, middle=shift)
        found = one.judge(one.count(one.code(confidence, positive)), 500.0)
        hit = (positive & label).sum()
        true = {"precision": hit / positive.sum(), "recall": hit / label.sum()}
        true["f1"] = 2 * hit / (positive.sum() + label.sum())
        for name, value in true.items():
            middle, low, high = getattr(found, name)
            assert 0 <= low <= middle <= high <= 1
            held[name].append(low <= value <= high)
            off.append(middle - value)
        assert found.accuracy[1] <= right.mean() + 0.05
    for name, inside in held.items():
        assert 0.85 <= np.mean(inside) <= 1.0, name
    assert abs(np.mean(off)) < 0.01


def test_f1_follows_labels_too():
    rng = np.random.default_rng(4)
    one, _ = learnt(rng, middle=-1.5)
    for i in range(6):
        confidence, right, positive, label = rows(rng, WINDOW, middle=-1.5, true_slope=0.4)
        codes = one.code(confidence, positive)
        one.label(one.count(codes), one.count(codes, right), (i + 1.0) * WINDOW)
    found = one.judge(one.count(codes), 6500.0)
    hit = (positive & label).sum()
    assert found.precision[1] <= hit / positive.sum() <= found.precision[2]
    assert found.recall[1] <= hit / label.sum() <= found.recall[2]


def test_unknown_confidence_more_classes_and_nobody_positive():
    rng = np.random.default_rng(5)
    one = Estimate()
    confidence, right, _, _ = rows(rng, 3000)
    one.learn(confidence, right)
    codes = one.code(np.full(400, np.nan))
    assert set(codes.tolist()) == {UNKNOWN}
    found = one.judge(one.count(codes), 0.0)
    assert found.accuracy[0] == pytest.approx(right.mean(), abs=0.01)
    assert np.isnan([*found.precision, *found.recall, *found.f1]).all()
    two, _ = learnt(rng)
    negative = two.code(np.full(400, 0.9), np.zeros(400, dtype=bool))
    found = two.judge(two.count(negative), 0.0)
    assert np.isnan(found.precision).all()
    assert found.recall == (0.0, 0.0, 0.0)
    assert found.accuracy[0] > 0.5
    nowhere = two.judge(two.count(two.code(np.full(50, np.nan), np.zeros(50, dtype=bool))), 0.0)
    assert np.isnan(nowhere.f1).all()


def test_a_perfect_or_hopeless_reference_stays_within_bounds():
    for good in (True, False):
        one = Estimate()
        one.learn(np.full(1000, 0.7), np.full(1000, good))
        codes = one.code(np.full(100, 0.7))
        middle, low, high = one.judge(one.count(codes), 0.0).accuracy
        assert 0 <= low <= middle <= high <= 1
        assert abs(middle - good) < 0.02
        for i in range(5):
            one.label(one.count(codes) * 5, one.count(codes, np.full(100, good)) * 5, 500.0 * i)
        assert np.isfinite(one.judge(one.count(codes), 0.0).accuracy).all()


def test_before_a_reference_nothing_is_said_and_a_short_one_is_refused():
    one = Estimate()
    assert "no reference" in one.judge(np.ones(WIDTH), 0.0).reason
    with pytest.raises(Refused, match="too short"):
        one.learn(np.full(LEAST_ROWS - 1, 0.9), np.ones(LEAST_ROWS - 1, dtype=bool))
    one.learn(np.full(LEAST_ROWS, 0.9), np.ones(LEAST_ROWS, dtype=bool))
    assert one.judge(np.zeros(WIDTH), 0.0).reason == "no rows"


def test_a_restart_goes_on_where_it_stood():
    rng = np.random.default_rng(6)
    one, _ = learnt(rng)
    list(follow(one, rng, 4, labels_after=0))
    other = Estimate()
    other.load(one.dump())
    for a, b in zip(
        follow(one, np.random.default_rng(8), 4, labels_after=0, start=4, true_slope=0.5),
        follow(other, np.random.default_rng(8), 4, labels_after=0, start=4, true_slope=0.5),
        strict=True,
    ):
        assert a[0] == b[0]
    assert one.dump() == other.dump()
    assert len(one.dump()) < 6000
    with pytest.raises(Refused, match="damaged"):
        other.load(one.dump()[:-1])
