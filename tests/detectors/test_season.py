"""Habits by the clock: used where they leave less, learnt from what is trusted, moved as a whole."""

import numpy as np
import pytest

from detectors._season import HOURS, Season

STEP = 1800.0
DAY, WEEK = 48, 336
ALL = np.array([True])


def live(season, values, start=0, mean=0.0, teach=ALL):
    """Feed one series row by row; return what was left of each before it was learnt."""
    left = []
    for i, x in enumerate(values, start):
        season.at(i * STEP, None)
        row, rate = np.array([x]), np.array([1e-2]) * teach
        left.append(float(season.rest(row, np.array([mean]), np.array([float(i)]))[0]))
        season.learn(row, np.array([mean]), rate, teach)
    return np.array(left)


def daily(rows):
    return 10.0 * np.sin(2 * np.pi * np.arange(rows) / DAY)


def weekend(rows):
    """The working week swings, its last two days lie flat."""
    return np.where(np.arange(rows) % WEEK < 5 * DAY, daily(rows), 0.0)


def noise(rows):
    return np.random.default_rng(1).normal(0, 0.5, rows)


def test_a_daily_habit_is_taken_off_after_two_days():
    season = Season(1, STEP)
    left = live(season, daily(6 * DAY) + noise(6 * DAY))
    assert np.abs(left[: 2 * DAY]).max() > 8, "nobody knows yet"
    assert np.abs(left[3 * DAY :]).mean() < 1.0


def test_a_weekly_habit_is_taken_off_after_two_weeks():
    season = Season(1, STEP)
    left = live(season, weekend(6 * WEEK) + noise(6 * WEEK))
    before, after = left[WEEK : 2 * WEEK], left[4 * WEEK :]
    assert np.abs(before).mean() > 2 * np.abs(after).mean()
    assert np.abs(after).mean() < 1.0


def test_what_has_no_habit_is_left_alone():
    values = noise(5 * WEEK)
    np.testing.assert_array_equal(live(Season(1, STEP), values), values)


def test_a_habit_of_the_day_gets_no_weekly_one():
    season = Season(1, STEP)
    live(season, daily(5 * WEEK) + noise(5 * WEEK))
    season.week += 100.0
    left = live(season, daily(DAY), start=5 * WEEK)
    assert np.abs(left).max() < 3.0, "what does not help is not used"


@pytest.mark.parametrize("length", [DAY, 3 * DAY])
def test_what_is_not_trusted_becomes_no_habit(length):
    season = Season(1, STEP)
    live(season, daily(3 * WEEK))
    before = {name: array.copy() for name, array in season.arrays().items()}
    live(season, np.full(length, 500.0), start=3 * WEEK, teach=np.array([False]))
    for name, array in season.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_one_wild_row_teaches_at_most_five_usual_errors():
    season = Season(1, STEP)
    live(season, daily(3 * WEEK) + noise(3 * WEEK))
    before, usual = season.profile.copy(), float(season.errors[0, 0])
    live(season, [1e9], start=3 * WEEK)
    assert 0 < np.abs(season.profile - before).max() <= 5 * usual


def test_a_shift_moves_the_habit_as_a_whole():
    season = Season(1, STEP)
    live(season, daily(6 * DAY))
    season.shift(np.array([40.0]))
    left = live(season, 40.0 + daily(DAY), start=6 * DAY, mean=40.0)
    assert np.abs(left).max() < 1.0


def test_series_live_by_their_own_clocks():
    season = Season(2, STEP)
    clock = np.array([0.0, 6 * 3600.0])
    values = np.stack((daily(5 * WEEK), np.roll(daily(5 * WEEK), -12)), axis=1)
    for i, row in enumerate(values):
        season.at(i * STEP, clock)
        left = season.rest(row, np.zeros(2), np.full(2, float(i)))
        season.learn(row, np.zeros(2), np.full(2, 1e-2), np.array([True, True]))
    np.testing.assert_allclose(season.profile[:, 0], season.profile[:, 1], atol=1e-9)
    assert np.abs(left).max() < 1.0
    assert season.week.shape == (HOURS, 2)
