"""Time to limit: made-up fills whose truth is known."""

from functools import cache

import numpy as np
import pytest

from agent import checkpoint
from agent.errors import Refused
from agent.filling import FINE_S, LEVELS, Past
from detectors._trends import Goal
from detectors.fill import Fill, clean, forecast

pytestmark = pytest.mark.long

HOUR = 3600.0
T0 = 1_700_006_400.0  # a full half hour
DISK = Goal(1.0, 0.005, 9 * 24 * HOUR)
MEDIAN, SURE = LEVELS.index(0.5), LEVELS.index(0.9)


@cache
def kalman():
    """Return the filter of statsmodels, which takes seconds to import: only who runs these tests pays for it."""
    from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

    return KalmanFilter


def buckets(of, *, past_s=48 * HOUR, noise=0.001, seed=0, every_s=FINE_S):
    """Return ts, means and maxima of `of(seconds from now)` at T0."""
    t = np.arange(-past_s, 0.0, every_s)
    rng = np.random.default_rng(seed)
    past = Past(1)
    past.feed(T0 + t, (of(t) + noise * rng.normal(size=len(t)))[:, None])
    ts, mean, most = past.rows(T0)
    return ts, mean[:, 0], most[:, 0]


def foretell(of, goal=DISK, **how):
    return forecast(*buckets(of, **how), goal, kalman())


def line(level, left_s):
    return lambda t: np.maximum(level + (1.0 - level) / left_s * t, 0.0)


@pytest.mark.parametrize(("left_h", "noise"), [(1.5, 0.002), (10.0, 0.002), (60.0, 0.0005)])
def test_a_steady_fill_is_foretold_within_its_interval(left_h, noise):
    q, why = foretell(line(0.6, left_h * HOUR), noise=noise)
    assert why == 0
    assert q[0] <= left_h * HOUR <= q[-1]
    assert q[MEDIAN] == pytest.approx(left_h * HOUR, rel=0.1)
    assert q[-1] - q[0] < left_h * HOUR, "an interval as wide as this says nothing"


def test_a_fill_that_has_just_begun_is_seen_and_the_flat_days_before_do_not_slow_it():
    q, _ = foretell(lambda t: 0.4 + 0.6 / (2 * HOUR) * np.maximum(t + 900.0, 0.0))
    assert q[0] <= 2 * HOUR - 900.0 <= q[-1]


def test_one_that_grows_by_itself_is_full_sooner_than_a_line_says():
    def grown(t):
        return 0.3 + 0.3 * np.exp(t / (6 * HOUR))

    truth = 6 * HOUR * np.log(0.7 / 0.3)
    straight = 0.4 / (0.3 / (6 * HOUR))
    q, _ = foretell(grown, noise=0.0005)
    assert q[MEDIAN] == pytest.approx(truth, rel=0.15)
    assert q[MEDIAN] < 0.8 * straight


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(lambda t: 0.7 + 0 * t, id="flat"),
        pytest.param(lambda t: 0.4 + 0.3 * (t >= -2 * HOUR), id="step"),
        pytest.param(lambda t: 0.4 + 0.3 * (t >= -600.0), id="step just now"),
        pytest.param(lambda t: 0.8 - 0.3 * (t >= -2 * HOUR), id="emptied"),
        pytest.param(lambda t: 0.5 + 0.25 * ((t / (6 * HOUR)) % 1.0), id="teeth of hours"),
        pytest.param(lambda t: 0.5 + 0.25 * ((t / 900.0) % 1.0), id="teeth of minutes"),
        pytest.param(lambda t: 0.6 + 0.15 * np.sin(2 * np.pi * t / (24 * HOUR)), id="days"),
        pytest.param(
            lambda t: 0.9 * (1 - np.exp(-(t + 48 * HOUR) / (9 * HOUR))), id="comes to rest"
        ),
    ],
)
@pytest.mark.parametrize("now_h", [0.0, 5.0])
def test_what_does_not_fill_is_not_said_to(of, now_h):
    q, why = foretell(lambda t: of(t + now_h * HOUR), Goal(1.0, 0.005, 36 * HOUR))
    assert why == 0
    assert np.isinf(q[MEDIAN])


def test_peaks_of_teeth_that_rise_reach_the_limit_not_their_feet():
    def teeth(t):
        return 0.5 + 0.25 * ((t / (2 * HOUR)) % 1.0) + 0.01 * t / HOUR

    q, _ = foretell(teeth)
    assert q[0] <= 25 * HOUR <= q[-1]
    assert q[MEDIAN] == pytest.approx(25 * HOUR, rel=0.15)


def test_a_tooth_that_is_not_cut_any_more_is_a_fill():
    def teeth(t):
        return np.where(
            t < -4 * HOUR, 0.3 + 0.1 * ((t / HOUR) % 1.0), 0.3 + 0.1 * (t + 4 * HOUR) / HOUR
        )

    q, _ = foretell(teeth)
    assert q[MEDIAN] == pytest.approx(3 * HOUR, rel=0.15)


def test_after_it_was_emptied_it_fills_from_where_it_is():
    def emptied(t):
        return np.where(t < -3 * HOUR, 0.9 + 0.02 * t / HOUR, 0.3 + 0.02 * t / HOUR)

    q, _ = foretell(emptied)
    assert q[MEDIAN] == pytest.approx(35 * HOUR, rel=0.2)


def test_a_rhythm_of_days_does_not_hide_the_trend():
    def of(t):
        return 0.6 + 0.1 * np.sin(2 * np.pi * (T0 + t) / (24 * HOUR)) + 0.01 * t / HOUR

    later = np.arange(0.0, 60 * HOUR, 60.0)
    truth = later[np.argmax(of(later) >= 1.0)]
    q, _ = foretell(of)
    assert q[0] <= truth <= q[-1]
    assert q[MEDIAN] == pytest.approx(truth, rel=0.1)


def test_gaps_and_coarse_steps_are_no_trouble():
    ts, mean, most = buckets(line(0.6, 10 * HOUR), every_s=120.0)
    mean[(ts > T0 - 5 * HOUR) & (ts < T0 - 1 * HOUR)] = np.nan
    mean[::3] = np.nan
    q, why = forecast(ts, mean, most, DISK, kalman())
    assert why == 0
    assert q[MEDIAN] == pytest.approx(10 * HOUR, rel=0.15)


def test_what_can_not_be_told_says_why():
    ts, mean, most = buckets(line(0.6, 10 * HOUR))
    few = np.where(ts > T0 - 120.0, mean, np.nan)
    q, why = forecast(ts, few, most, DISK, kalman())
    assert np.isnan(q).all()
    assert why == 1
    stale = np.where(ts < T0 - 1800.0, mean, np.nan)
    q, why = forecast(ts, stale, most, DISK, kalman())
    assert np.isnan(q).all()
    assert why == 2


def test_what_is_full_is_full_now():
    q, why = foretell(lambda t: 1.0 + 0 * t, noise=0.0)
    assert why == 0
    assert (q == 0).all()


def test_a_series_that_stands_still_never_reaches_the_filter():
    ts, mean, most = buckets(lambda t: 0.7 + 0 * t, noise=1e-5)
    q, why = forecast(ts, mean, most, DISK, None)
    assert np.isinf(q).all()
    assert why == 0


def test_units_do_not_matter_and_the_same_past_gives_the_same_answer():
    ts, mean, most = buckets(line(0.6, 10 * HOUR))
    q, _ = forecast(ts, mean, most, DISK, kalman())
    again, _ = forecast(ts, mean, most, DISK, kalman())
    larger = Goal(64e9, 0.005 * 64e9, DISK.horizon_s)
    scaled, _ = forecast(ts, mean * 64e9, most * 64e9, larger, kalman())
    assert (again == q).all()
    np.testing.assert_allclose(scaled, q, rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_teeth_that_are_far_apart_break_no_model(seed):
    rng = np.random.default_rng(seed)
    period = rng.uniform(2, 12) * HOUR
    q, why = foretell(lambda t: 0.4 + 0.2 * ((t / period + rng.random()) % 1.0), seed=seed)
    assert why == 0
    assert not np.isnan(q).any()


def test_quantiles_ascend():
    q, _ = foretell(line(0.6, 30 * HOUR), noise=0.01)
    assert (np.diff(q[np.isfinite(q)]) >= 0).all()


def test_three_falls_are_teeth_two_are_not():
    t = np.arange(0.0, 6000.0, 30.0)
    for falls, toothed in ((2, False), (4, True)):
        y = 100.0 * ((t / 6000.0 * (falls + 1)) % 1.0)
        assert clean(t, y, y).teeth is toothed


def test_as_a_trainer_it_answers_for_each_series():
    ts, rising, most = buckets(line(0.6, 10 * HOUR))
    flat = np.full(len(ts), 0.5)
    config = Fill.Config(limits=[1.0, 1.0], floors=[0.005, 0.005], horizons=[9e5, 9e5])
    columns = np.stack([rising, flat, most, flat], axis=1)
    _, arrays = checkpoint.read("fill forecast", 1, Fill.train(config, ts, columns))
    assert arrays["quantiles"].shape == (2, len(LEVELS))
    assert arrays["quantiles"][0, MEDIAN] == pytest.approx(10 * HOUR, rel=0.1)
    assert np.isinf(arrays["quantiles"][1]).all()
    assert arrays["why"].tolist() == [0, 0]
    with pytest.raises(Refused, match="columns"):
        Fill.train(config, ts, columns[:, :3])
