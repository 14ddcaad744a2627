"""Verdicts keep what they promise on series in which we know what the act did.

The quick ones look at a few dozen stories, with room for chance; the long ones hold the promise itself. All of it, by
road and by kind of noise, is in `make bench-verify`.
"""

import math
import os

import numpy as np
import pytest
from verify_worlds import LOOKS, Noise, faulty, lasting, look, shares, triggered

PHIS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
PEERS = 3
ALL = os.environ.get("HOMEOSTAT_VERIFY") == "all"
STORIES = 200 if ALL else 40
CHANCE = math.inf if ALL else STORIES
"""`make bench-verify` holds the promise to the letter; forty stories leave room for chance."""


def at_most(share, n):
    """Return the most of n stories that a true share gives with 99 %."""
    return share + 2.33 * math.sqrt(share * (1 - share) / n)


# ---- the worlds themselves


def test_noise_is_what_it_says():
    x = Noise(0.8).path(np.random.default_rng(1), 50_000)
    assert np.std(x) == pytest.approx(1, abs=0.05)
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(0.8, abs=0.02)


def test_a_trigger_is_an_excursion_that_nobody_made():
    case = triggered(Noise(0.8), np.random.default_rng(2))
    assert (case.own[case.onset : case.onset + 2] > 2.5).all()
    assert 2 <= case.act - case.onset <= 16
    seen = look(case, LOOKS[-1])
    assert (len(seen.usual), len(seen.between), len(seen.after)) == (300, 6, 40)


# ---- quick


def test_slow_noise_that_triggers_is_hardly_ever_called_helped():
    said = shares(lambda r: triggered(Noise(0.9), r), 30, 1)
    assert said["helped"] <= at_most(0.05, 30)
    assert said["cleared"] > 0.7  # what "the condition cleared" would have called a success


def test_a_cured_shift_is_called_helped():
    assert shares(lambda r: faulty(Noise(0.7), r), 40, 2)["helped"] >= 1 - at_most(0.1, 40)


def test_harm_is_called_harmed():
    said = shares(lambda r: faulty(Noise(0.7), r, size=0.0, effect=3.0), 40, 3)
    assert said["harmed"] >= 1 - at_most(0.05, 40)


def test_a_shift_that_stood_only_shortly_proves_nothing():
    said = shares(lambda r: faulty(Noise(0.8), r, stood=5), 24, 4)
    assert said["helped"] <= 0.05
    assert said["cannot_tell"] > 0.8


# ---- long


@pytest.mark.long
@pytest.mark.parametrize("peers", [0, PEERS])
@pytest.mark.parametrize("phi", PHIS)
def test_without_a_fault_at_most_one_in_twenty_is_called_helped(phi, peers):
    said = shares(lambda r: triggered(Noise(phi), r, peers=peers), STORIES, 11)
    assert said["helped"] <= at_most(0.05, CHANCE)
    assert said["harmed"] <= at_most(0.05, CHANCE)


@pytest.mark.long
@pytest.mark.parametrize("peers", [0, PEERS])
@pytest.mark.parametrize("phi", PHIS)
def test_nine_of_ten_cures_are_found(phi, peers):
    said = shares(lambda r: faulty(Noise(phi), r, peers=peers), STORIES, 12)
    assert said["helped"] >= 1 - at_most(0.1, CHANCE)


@pytest.mark.long
@pytest.mark.parametrize("size", [0.0, 3.0])
@pytest.mark.parametrize("peers", [0, PEERS])
@pytest.mark.parametrize("phi", PHIS)
def test_nineteen_of_twenty_harms_are_found(phi, peers, size):
    said = shares(lambda r: faulty(Noise(phi), r, size=size, effect=3.0, peers=peers), STORIES, 13)
    assert said["harmed"] >= 1 - at_most(0.05, CHANCE)


@pytest.mark.long
@pytest.mark.parametrize("phi", PHIS)
def test_an_hour_of_ordinary_minutes_is_enough(phi):
    """The promise is for sixty rows before; all else here has three hundred."""
    noise, few = Noise(phi), {"usual": 60}
    # it is 3 to 4 %: two hundred stories would say more than 5 % in one of some twenty tries
    said = shares(lambda r: triggered(noise, r, **few), 1000 if ALL else STORIES, 18)
    assert said["helped"] <= at_most(0.05, CHANCE)
    cured = shares(lambda r: faulty(noise, r, **few), STORIES, 19)
    assert cured["helped"] >= 1 - at_most(0.1, STORIES)
    harmed = shares(lambda r: faulty(noise, r, size=0.0, effect=3.0, **few), STORIES, 20)
    assert harmed["harmed"] >= 1 - at_most(0.05, STORIES)


@pytest.mark.long
@pytest.mark.parametrize("phi", PHIS)
def test_what_equals_recovered_from_too_is_not_our_merit(phi):
    said = shares(lambda r: faulty(Noise(phi), r, peers=PEERS, spared=PEERS), STORIES, 14)
    assert said["helped"] <= at_most(0.05, CHANCE)


@pytest.mark.long
def test_durations_of_the_past_are_a_road_of_their_own():
    alone = shares(lambda r: lasting(r, mean=3600.0, known=20), STORIES, 15)
    assert alone["helped"] <= at_most(0.05, CHANCE)
    cured = shares(lambda r: lasting(r, mean=40 * 3600.0, known=20, ends=600.0), STORIES, 16)
    assert cured["helped"] >= 1 - at_most(0.1, CHANCE)
    unknown = shares(lambda r: lasting(r, mean=40 * 3600.0, known=0, ends=600.0), STORIES, 17)
    assert unknown["helped"] == 0.0
