"""Whether labels come as they used to, and whether they can be true."""

import json
import math

import numpy as np
import pytest

from agent.models.labels import Coming, Moments, sums_of, wrong_classes, wrong_numbers


def tick(coming, now, rows, labels, *, got=0.0, of=0.0, waits=0.0):
    coming.tick(now, rows, labels, waits=waits, got=got, of=of, window=300.0)
    return coming.late


def steady(gap, ticks, coming=None, start=0):
    coming = coming or Coming()
    for i in range(start, start + ticks):
        assert not tick(coming, float(i), 10, 10 if i % gap == 0 else 0)
    return coming


@pytest.mark.parametrize("gap", [1, 7, 50])
def test_labels_that_stop_are_late_after_some_of_the_gaps_they_had(gap):
    coming = steady(gap, 30 * gap)
    late = [i for i in range(20 * gap + 20) if tick(coming, 1e4 + i, 10, 0)]
    assert gap < late[0] < 4 * gap + 10
    assert not tick(coming, 2e4, 10, 10)


def test_between_two_batches_nothing_is_overdue_until_it_is():
    assert not steady(50, 140).between, "two batches are no rhythm"
    coming = steady(50, 5 * 50 + 1)
    held = [i for i in range(200) if not tick(coming, 251.0 + i, 10, 0) and coming.between]
    assert 70 <= len(held) <= 76
    assert held == list(range(len(held)))


def test_labels_by_chance_are_not_late():
    random = np.random.default_rng(1)
    coming = Coming()
    late = sum(tick(coming, float(i), 5, int(random.random() < 0.1)) for i in range(100_000))
    assert late == 0


def test_a_pause_of_the_traffic_is_no_silence_of_the_labels():
    coming = steady(1, 100)
    assert not any(tick(coming, 100.0 + i, 0, 0) for i in range(5000))
    assert not tick(coming, 6000.0, 40, 0)


def test_labels_that_wait_as_long_as_they_usually_do_are_not_late():
    coming = steady(1, 100)
    assert not any(tick(coming, 100.0 + i, 10, 0, waits=300.0) for i in range(40))


def test_labels_of_a_third_of_the_predictions_are_late_and_of_nearly_all_are_not():
    coming = Coming()
    for i in range(100):
        assert not tick(coming, float(i), 10, 9, got=900.0, of=1000.0)
    assert not tick(coming, 100.0, 10, 7, got=700.0, of=1000.0)
    assert tick(coming, 101.0, 10, 3, got=300.0, of=1000.0)
    assert not tick(coming, 102.0, 10, 9, got=850.0, of=1000.0)


def test_a_clock_that_was_set_back_by_years_spoils_nothing_that_was_learnt():
    coming = Coming()
    for i in range(100):
        tick(coming, 1e9 + i, 10, 9, got=900.0, of=1000.0)
    for now in (1.0, 2.0):
        assert not tick(coming, now, 10, 9, got=850.0, of=1000.0)
    assert coming.usual == pytest.approx(0.9, abs=0.01)


def test_what_was_learnt_of_labels_goes_on():
    coming = steady(3, 60)
    other = Coming.of(json.loads(json.dumps(coming.words())))
    assert other.words() == coming.words()
    assert math.isnan(other.usual)


def newest(labels, classes):
    one = np.eye(classes)[np.asarray(labels)]
    return np.column_stack((np.arange(1, len(one) + 1), np.cumsum(one, axis=0)))


def pairs(said, true, classes):
    cells = np.bincount(np.asarray(said) * classes + true, minlength=classes**2)
    return cells.reshape(classes, classes).astype(float)


def test_labels_of_one_class_are_wrong_only_when_that_is_no_chance():
    said = np.tile([0, 1], 30)
    two = pairs(said, np.zeros(60, dtype=int), 2)
    assert "one class" in wrong_classes(
        newest(np.zeros(60, dtype=int), 2), np.array([0.6, 0.4]), 0.9, two
    )
    rare = pairs(np.tile([0, 0, 0, 1], 15), np.zeros(60, dtype=int), 2)
    assert (
        wrong_classes(newest(np.zeros(60, dtype=int), 2), np.array([0.99, 0.01]), 0.9, rare) == ""
    )


def test_labels_under_other_names_are_wrong_and_a_changed_relation_is_not():
    random = np.random.default_rng(2)
    usual = np.full(4, 0.25)
    said = random.integers(0, 4, 200)
    true = np.where(random.random(200) < 0.8, said, random.integers(0, 4, 200))
    moved = (true + 1) % 4
    assert "turned round" in wrong_classes(newest(moved, 4), usual, 0.85, pairs(said, moved, 4))
    concept = np.where(random.random(200) < 0.4, (true + random.integers(1, 4, 200)) % 4, true)
    assert wrong_classes(newest(concept, 4), usual, 0.85, pairs(said, concept, 4)) == ""


def test_numbers_that_stand_still_or_have_turned_are_wrong():
    random = np.random.default_rng(3)
    said = random.normal(size=500)
    true = said + 0.5 * random.normal(size=500)
    usual = Moments.of(sums_of(true, said))
    assert wrong_numbers(usual, usual) == ""
    assert "one number" in wrong_numbers(Moments.of(sums_of(np.zeros(500), said)), usual)
    assert "turned round" in wrong_numbers(Moments.of(sums_of(-true, said)), usual)
    concept = 0.2 * said + random.normal(size=500)
    assert wrong_numbers(Moments.of(sums_of(concept, said)), usual) == ""
    assert Moments.of(sums_of(true[:10], said[:10])) is None
