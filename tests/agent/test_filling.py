"""What fills: who is looked at, its past in buckets, and the cheap screen before any forecast."""

import math

import numpy as np
import pytest

from agent.catalogue import SIGNALS
from agent.config import Config, Outlook
from agent.filling import FINE_S, Past, newest, screen, targets, when
from agent.model import Ahead, Entity, Series
from agent.objectives import limits_of

HOST, MODEL, JOB = Entity("host", "h"), Entity("model", "m"), Entity("process", "b/1/2")
DISK = Series("host.disk_utilization_ratio", HOST, (("mount", "/"),))
AGE, RSS = Series("model.age_seconds", MODEL), Series("process.memory_bytes", JOB)
CERTIFICATE = Series("service.certificate_seconds", Entity("service", "s"))
T0 = 1_700_006_400.0
HOUR = 3600.0


def config(**said):
    return Config.model_validate(said)


def test_every_signal_that_fills_has_a_lead_time_and_a_signal_that_tells_how_soon():
    filling = [d for d in SIGNALS.values() if d.fills]
    assert {d.fills for d in filling} == set(Outlook.kinds())
    for d in filling:
        ahead = SIGNALS[d.ahead]
        assert (ahead.unit, ahead.entity_kind) == ("seconds", d.entity_kind)
        assert d.kind == "gauge"
    aheads = [d.ahead for d in filling]
    assert len(set(aheads)) == len(aheads)


def test_nature_sets_limits_and_people_only_lower_ones():
    (found,) = targets([DISK], limits_of(config()))
    assert (found.limit, found.kind, found.sign) == (1.0, "disk", 1)
    stated = [{"signal": DISK.metric, "max": "80%"}]
    assert targets([DISK], limits_of(config(objectives=stated)))[0].limit == 0.8
    other = [{"signal": DISK.metric, "max": "80%", "labels": {"mount": "/data"}}]
    assert targets([DISK], limits_of(config(objectives=other)))[0].limit == 1.0


def test_what_has_no_limit_is_foretold_only_where_a_person_states_one():
    assert targets([RSS, AGE], limits_of(config())) == ()
    stated = [
        {"signal": RSS.metric, "max": "2GB"},
        {"signal": AGE.metric, "max": "30d"},
        {"signal": "host.load1_count", "max": 8},
    ]
    load = Series("host.load1_count", HOST)
    found = targets([RSS, AGE, load], limits_of(config(objectives=stated)))
    assert {t.series: t.limit for t in found} == {RSS: 2e9, AGE: 30 * 86_400.0}


def test_what_runs_out_falls_to_its_limit():
    (found,) = targets([CERTIFICATE], ())
    assert (found.sign, found.limit, found.pace) == (-1, 0.0, -1.0)


def test_the_past_is_fine_now_and_coarse_long_ago_and_keeps_what_was_fed():
    t = T0 + np.arange(-48 * HOUR, 0.0, FINE_S)
    past = Past(1)
    for piece in np.split(np.arange(len(t)), 48):
        past.feed(t[piece], (t[piece] - T0)[:, None])
    ts, mean, most = past.rows(T0)
    assert 250 < len(ts) < 320
    assert (np.diff(ts) > 0).all()
    assert set(np.round(np.diff(ts)[[0, 100, -1]])) == {1800.0, 300.0, 30.0}
    # a mean of a line is where its bucket's middle is, half a reading before the centre
    np.testing.assert_allclose(mean[:, 0], ts - T0 - FINE_S / 2.0)
    assert (most >= mean).all()
    assert most[0, 0] - mean[0, 0] == pytest.approx(900.0 - 15.0)


def test_feeding_in_pieces_or_at_once_is_the_same_and_unknown_stays_unknown():
    t = T0 + np.arange(-3 * HOUR, 0.0, FINE_S)
    values = np.random.default_rng(1).normal(size=(len(t), 2))
    values[50:200, 1] = np.nan
    whole, parts = Past(2), Past(2)
    whole.feed(t, values)
    for a in range(0, len(t), 7):
        parts.feed(t[a : a + 7], values[a : a + 7])
    for one, other in zip(whole.rows(T0), parts.rows(T0), strict=True):
        np.testing.assert_allclose(one, other)
    assert np.isnan(whole.rows(T0)[1][:, 1]).any()
    assert not np.isnan(whole.rows(T0)[1][:, 0]).any()


def test_a_new_series_is_filled_in_beside_those_that_stay():
    t = T0 + np.arange(-2 * HOUR, 0.0, FINE_S)
    past = Past(1)
    past.feed(t, np.full((len(t), 1), 5.0))
    more = past.remap(np.array([-1, 0]))
    more.feed(t, np.full((len(t), 1), 7.0), np.array([0]))
    _, mean, _ = more.rows(T0)
    assert newest(mean).tolist() == [7.0, 5.0]
    assert np.isfinite(mean).all()


def test_buckets_forget_what_is_older_than_they_reach():
    past = Past(1)
    past.feed(np.array([T0 - 60 * HOUR]), np.array([[9.0]]))
    t = T0 + np.arange(-HOUR, 0.0, FINE_S)
    past.feed(t, np.ones((len(t), 1)))
    _, mean, most = past.rows(T0)
    assert np.nanmax(most) == np.nanmax(mean) == 1.0


def screened(of, *, noise=0.001, limit=1.0, n=1):
    t = np.arange(-48 * HOUR, 0.0, FINE_S)
    rng = np.random.default_rng(0)
    past = Past(n)
    past.feed(T0 + t, of(t)[:, None] + noise * rng.normal(size=(len(t), n)))
    ts, mean, _ = past.rows(T0)
    return screen(ts, mean, np.full(n, limit), np.full(n, 0.005))


def test_the_screen_lets_through_what_rises_and_is_generous():
    steady = screened(lambda t: 0.5 + 0.5 / (20 * HOUR) * np.maximum(t, -19 * HOUR))
    assert 5 * HOUR < steady[0] <= 20.5 * HOUR
    begun = screened(lambda t: 0.5 + 0.5 / (2 * HOUR) * np.maximum(t + 600.0, 0.0))
    assert begun[0] < 2 * HOUR


def test_the_screen_stops_what_stands_still_falls_or_only_sways():
    assert np.isinf(screened(lambda t: 0.7 + 0 * t, noise=0.0)).all()
    assert np.isinf(screened(lambda t: 0.7 - 0.001 * t / HOUR)).all()
    assert (screened(lambda t: 0.7 + 0 * t, noise=0.01, n=40) > 72 * HOUR).mean() > 0.9


def test_the_screen_knows_nothing_of_what_it_has_not_seen():
    assert np.isinf(screen(np.zeros(0), np.zeros((0, 2)), np.ones(2), np.ones(2))).all()
    ts = T0 + np.arange(10) * FINE_S
    assert np.isinf(screen(ts, np.full((10, 1), np.nan), np.ones(1), np.ones(1))).all()


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (Ahead(12_000.0, 7_800.0, 21_600.0), "in 3 h 20 min (2 h 10 min to 6 h)"),
        (Ahead(12_000.0, 7_800.0, None), "in 3 h 20 min (2 h 10 min to far more)"),
        (Ahead(0.0, 0.0, 10.0), "by now"),
        (Ahead(None, 7_200.0, None), "not soon, 2 h at the soonest"),
        (Ahead(None, None, None), "not soon"),
    ],
)
def test_when_is_said_as_people_say_it(ahead, said):
    assert when(ahead, 0.0) == said


def test_ages_are_known_without_any_forecast():
    (age,) = targets([AGE], limits_of(config(objectives=[{"signal": AGE.metric, "max": "30d"}])))
    assert (age.pace, age.sign) == (1.0, 1)
    assert math.isnan(targets([DISK], ())[0].pace)
