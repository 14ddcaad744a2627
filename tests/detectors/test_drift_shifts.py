"""Drift of columns: silent on rows as usual in whatever order, found and named where it is."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import numpy as np
import pytest

from detectors.drift import Features, pairs

COLUMNS = 8


def config(**settings):
    return Features.Config(half_life=1000.0, stale=1e9, **settings)


def named(x):
    colours = np.array(["red", "green", "blue", "black"], dtype=object)
    out = {f"x{i}": column.copy() for i, column in enumerate(x[:-1])}
    return {**out, "colour": colours[np.digitize(x[-1], [-0.3, 0.4, 1.1])]}


def rows(rng, n):
    x = rng.normal(size=(COLUMNS, n))
    x[1] = 0.6 * x[0] + 0.8 * x[1]
    return x


def as_usual(seed, before, size, made):
    """Return the watch, its rows' source, and what it found while all is as usual."""
    rng = np.random.default_rng(seed)
    f = Features(config())
    f.fit(named(made(rng, 5000)))
    early = {}
    for at in range(0, before, size):
        f.take(float(at), size, named(made(rng, size)))
        early.update(f.drifting())
    return f, rng, early


@cache
def usual_rows(seed):
    """Return that of 2,000 rows, once for all changes that may come after them; it is copied, not used."""
    return as_usual(seed, 2000, 100, rows)


def watch(seed, change=lambda x, rng: x, *, n=4000, before=2000, size=100, made=rows):
    """Return what was found before the change, and after it: rows it took and names."""
    if (before, size, made) == (2000, 100, rows):
        f, rng, early = deepcopy(usual_rows(seed))
    else:
        f, rng, early = as_usual(seed, before, size, made)
    for at in range(before, before + n, size):
        f.take(float(at), size, named(change(made(rng, size), rng)))
        if f.drifting():
            return early, at + size - before, set(f.drifting())
    return early, None, set()


def shift(by, *which):
    def change(x, rng):
        x[list(which)] += by
        return x

    return change


def turn_round(x, rng):
    x[1] -= 1.2 * x[0]
    return x


def spread(x, rng):
    x[3] *= 1.6
    return x


def lose(x, rng):
    x[2, rng.random(x.shape[1]) < 0.1] = np.nan
    return x


@pytest.mark.parametrize(
    ("change", "within", "names"),
    [
        (shift(0.9, 2, 4), 100, {"x2", "x4"}),
        (shift(-0.25, 2), 1000, {"x2"}),
        (shift(0.4, 7), 500, {"colour"}),
        (spread, 200, {"x3"}),
        (turn_round, 200, {"x0", "x1"}),
        (lose, 200, {"x2"}),
    ],
)
def test_a_change_is_found_and_named(change, within, names):
    found = [watch(seed, change) for seed in range(8)]
    assert not any(early for early, _, _ in found)
    assert None not in [took for _, took, _ in found]
    assert np.median([took for _, took, _ in found]) <= within
    assert all(got & names and got <= names for _, _, got in found)


def test_many_rows_do_not_make_a_small_difference_a_drift():
    _, took, _ = watch(0, shift(0.05, 3), n=200_000, size=1000)
    assert took is None


@pytest.mark.long
def test_nothing_is_found_in_a_million_rows_as_usual():
    for seed in range(10):
        early, _, _ = watch(seed, n=0, before=100_000, size=1000)
        assert not early


def seasonal(period, level):
    """Rows with a rhythm, another phase for each column, that go on from call to call."""
    at = 0

    def made(rng, n):
        nonlocal at
        t = np.arange(at, at + n)
        at += n
        phase = np.arange(COLUMNS)[:, None]
        return level * np.sin(2 * np.pi * t / period + phase) + rng.normal(size=(COLUMNS, n))

    return made


@pytest.mark.parametrize("period", [150, 400, 1000])
def test_a_rhythm_that_was_seen_some_times_is_no_drift(period):
    for seed in range(4):
        early, _, _ = watch(seed, n=0, before=20_000, made=seasonal(period, 1.0))
        assert not early


def wandering(step):
    level = np.zeros((COLUMNS, 1))

    def made(rng, n):
        nonlocal level
        path = level + step * np.cumsum(rng.normal(size=(COLUMNS, n)), axis=1)
        level = path[:, -1:]
        return path + rng.normal(size=(COLUMNS, n))

    return made


def test_rows_that_wander_may_wander_on():
    false = 0
    for seed in range(8):
        early, _, _ = watch(seed, n=0, before=10_000, made=wandering(0.03))
        false += bool(early)
    assert false == 0


def test_a_column_that_never_changed_may_not():
    def made(rng, n):
        x = wandering_rows(rng, n)
        x[5] = 3.0
        return x

    wandering_rows = wandering(0.03)

    def change(x, rng):
        x[5] = 4.0
        return x

    early, took, names = watch(0, change, made=made)
    assert not early
    assert took == 100
    assert "x5" in names


def months(rows_each, first=0):
    """Rows of which one column has a value of its own for each stretch of so many."""
    at = first

    def made(rng, n):
        nonlocal at
        x = rows(rng, n)
        x[5] = (np.arange(at, at + n) // rows_each) * 1.5
        at += n
        return x

    return made


def test_a_column_that_was_new_with_each_change_may_be_so_again():
    f = Features(config())
    rng, made = np.random.default_rng(1), months(2100)
    f.fit(named(made(rng, 5000)))
    for at in range(0, 10_000, 100):
        f.take(float(at), 100, named(made(rng, 100)))
        f.judge(float(at))
        assert not f.drifting()
        assert not any(state.broken for state in f.states())
    # what else moves is found as ever
    took = 0
    while not f.drifting():
        took += 100
        f.take(10_000.0 + took, 100, named(shift(0.9, 0)(made(rng, 100), rng)))
    assert took <= 200
    assert "x0" in f.drifting()


@pytest.mark.parametrize("share", [0.51, 0.6])
def test_two_columns_that_change_together_by_stretches_are_known_from_few_stretches(share):
    """As a month and an index of prices: in the reference each has two values, and both change at once."""
    at = 0

    def made(rng, n):
        nonlocal at
        stretch = np.searchsorted([share * 400, 450, 600], np.arange(at, at + n), side="right")
        x = rows(rng, n)
        x[5], x[6] = (
            np.array([1.0, 2.0, 2.2, 0.4])[stretch],
            np.array([9.0, 8.0, 7.9, 9.5])[stretch],
        )
        at += n
        return x

    f, rng = Features(config()), np.random.default_rng(4)
    f.fit(named(made(rng, 400)))
    for ts in range(0, 600, 100):
        f.take(float(ts), 100, named(made(rng, 100)))
        assert not f.drifting()


def test_a_version_that_serves_anew_knows_how_restless_its_rows_are():
    f = Features(config())
    rng, made = np.random.default_rng(3), months(2100)
    f.fit(named(made(rng, 5000)))
    f.restart()
    for at in range(0, 3000, 100):
        f.take(float(at), 100, named(made(rng, 100)))
        f.judge(float(at))
        assert not f.drifting()
        assert not any(state.broken for state in f.states())


@pytest.mark.parametrize(("further", "news"), [(0.35, False), (2.5, True)])
def test_beside_what_drifts_another_column_must_move_as_far(further, news):
    rng = np.random.default_rng(2)
    f = Features(config())
    f.fit(named(rows(rng, 5000)))
    drifting = []
    for at in range(0, 6000, 100):
        x = shift(3.0, 3)(rows(rng, 100), rng)
        if at >= 2000:
            x[6] += further
        f.take(float(at), 100, named(x))
        drifting.append(set(f.drifting()))
    assert drifting[10] == drifting[19] == {"x3"}
    assert ("x6" in drifting[-1]) is news


def test_bearing_more_false_alarms_finds_sooner():
    took = {}
    for quiet in (86_400.0, 365 * 86_400.0):
        rng = np.random.default_rng(3)
        f = Features(config(quiet=quiet))
        f.fit(named(rows(rng, 5000)))
        took[quiet] = next(
            at
            for at in range(0, 10_000, 50)
            if (f.take(float(at), 50, named(shift(0.2, 3)(rows(rng, 50), rng))), f.drifting())[1]
        )
    assert took[86_400.0] < took[365 * 86_400.0]


def test_pairs_of_few_columns_are_all_of_them_and_of_many_the_closest_and_some():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 1000))
    x[2] = 0.0
    few = pairs.choose(x)
    assert set(zip(few.first, few.second, strict=True)) == {
        (a, b) for a in range(6) for b in range(a + 1, 6) if 2 not in (a, b)
    }
    many = rng.normal(size=(40, 1000))
    many[7] = many[31] + 0.3 * many[7]
    chosen = pairs.choose(many)
    assert len(chosen.first) == pairs.MOST_PAIRS
    assert (7, 31) in set(zip(chosen.first, chosen.second, strict=True))
    assert pairs.choose(x[:1]).first.size == 0
    assert pairs.choose(x[:, :5]).first.size == 0
    sums = few.sums(x)
    np.testing.assert_allclose(sums, 0.0, atol=1e-6)


def test_dump_and_load_goes_on_as_before():
    rng = np.random.default_rng(1)
    f = Features(config())
    f.fit(named(rows(rng, 3000)))
    for at in range(0, 3000, 30):
        f.take(float(at), 30, named(shift(0.1, 3)(rows(rng, 30), rng)))
    kept = f.dump()
    other = Features(config())
    other.load(kept)
    assert other.dump() == kept
    for at in range(3000, 6000, 30):
        batch = named(shift(0.2, 3)(rows(rng, 30), rng))
        for one in (f, other):
            one.take(float(at), 30, batch)
    assert f.drifting() == other.drifting() != {}
    assert f.dump() == other.dump()


DAY = 86_400
MINUTES = 10


def days(f, rng, first, last, change=0.0, amplitude=0.7):
    """Serve days with a rhythm, a batch of 40 rows each ten minutes; return what drifted when."""
    found = []
    for minute in range(first * 1440, last * 1440, MINUTES):
        hour = 2 * np.pi * minute / 1440
        x = rows(rng, 40)
        x[3] += amplitude * np.sin(hour)
        x[5] += 0.5 * amplitude * np.cos(hour) + change
        f.take(minute * 60.0, 40, named(x))
        if f.drifting():
            found.append((minute / 1440 - first, set(f.drifting())))
    return found


@pytest.mark.parametrize(("amplitude", "loud_days"), [(0.4, 0), (1.0, 2)])
def test_a_daily_rhythm_that_the_reference_has_not_in_order_is_learnt(amplitude, loud_days):
    rng = np.random.default_rng(0)
    f = Features(config())
    hours = rng.uniform(0, 2 * np.pi, 5000)
    x = rows(rng, 5000)
    x[3] += amplitude * np.sin(hours)
    x[5] += amplitude / 2 * np.cos(hours)
    f.fit(named(x), whole=False)
    assert all(day < loud_days for day, _ in days(f, rng, 0, 10, amplitude=amplitude))
    found = days(f, rng, 10, 12, change=0.3, amplitude=amplitude)
    assert found[0][0] <= 1.0
    assert found[0][1] == {"x5"}
