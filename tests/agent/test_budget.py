"""One number of a person becomes every limit; what is measured says how sure it is; nothing is ever silenced."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.budget import (
    DAY_S,
    WEEK_S,
    Ledger,
    Promise,
    bundle,
    factor_of,
    rate,
    signal_of,
    steps_of,
    weight,
)
from agent.config import Budget
from agent.errors import Refused
from agent.model import Entity, Series

HOST, SHOP = Entity("host", "h"), Entity("service", "shop")
BUSY = Series("host.cpu_busy_ratio", HOST)
P95, RPS = Series("service.latency_p95_seconds", SHOP), Series("service.requests_per_second", SHOP)
CORES = Series("process.cpu_cores", Entity("process", "boot/1/2"))


@dataclass(frozen=True)
class Said:
    word: str
    ts: float
    signals: tuple = ("a",)


def test_everything_follows_from_false_pages_a_week():
    assert Promise.of(Budget()) == Promise(2.0, 1.0, 0.1)
    strict, lax = (
        Promise.of(Budget(false_pages_per_week=0.01)),
        Promise.of(Budget(false_pages_per_week=500)),
    )
    assert (strict.anomalies_per_series_day, lax.anomalies_per_series_day) == (0.01, 1.0)
    assert Promise.of(Budget(console_notes_per_day=3.0)).notes_per_day == 3.0


def test_what_is_nearer_to_users_gets_more_and_the_whole_stays_the_same():
    assert weight(BUSY) < weight(RPS) < weight(P95)
    ledger = Ledger()
    weights = {
        "host": np.array([weight(BUSY)] * 30),
        "models": np.array([weight(RPS), weight(P95)]),
    }
    ledger.seat("host", weights["host"], np.array([1.0]))
    alone = ledger.series_rate * weights["host"].sum()
    assert alone == pytest.approx(30 * 0.1)
    ledger.seat("models", weights["models"], np.array([2.0, 2.0]))
    assert sum(ledger.series_rate * w.sum() for w in weights.values()) == pytest.approx(32 * 0.1)
    assert ledger.group_rate * 5.0 == pytest.approx(1.0)


def test_groups_are_services_models_and_the_machine():
    replica, feature = Entity("replica", "shop/1"), Entity("feature", "m/x")
    version = Entity("version", "m/3")
    of = {e: bundle(e)[0] for e in (HOST, SHOP, replica, feature, version, CORES.entity)}
    assert list(of.values()) == [
        "machine",
        "service:shop",
        "service:shop",
        "model:m",
        "model:m",
        "machine",
    ]
    assert signal_of(CORES) == "process.cpu_cores"
    assert signal_of(BUSY) == str(BUSY)


words = st.lists(st.tuples(st.sampled_from(["noise", "real"]), st.floats(0, 1e7)), max_size=40)


@given(words, st.floats(0, 1e8))
def test_labels_can_never_silence_a_signal_or_let_it_run_wild(said, later):
    steps = steps_of([Said(w, ts) for w, ts in said], 1e7 + later)
    assert all(1 / 27.0001 <= factor_of(s) <= 3.0001 for s in steps.values())


def test_noise_makes_rarer_real_takes_it_back_and_both_fade():
    noise = [Said("noise", 0.0)]
    assert factor_of(steps_of(noise, 0.0)["a"]) == pytest.approx(1 / 3)
    assert factor_of(steps_of(noise, 14 * DAY_S)["a"]) == pytest.approx(3**-0.5)
    assert steps_of(noise, 100 * DAY_S) == {}
    assert steps_of([*noise, Said("real", 0.0)], 0.0) == {}
    assert steps_of([Said("real", 0.0)], 0.0)["a"] == -1.0


def test_factors_reach_the_series_and_are_worked_out_when_there_is_news_or_an_hour_has_gone():
    ledger = Ledger()
    label = [Said("noise", 0.0, (str(BUSY), "process.cpu_cores"))]
    assert ledger.factors([BUSY, RPS]).tolist() == [1.0, 1.0]
    ledger.heed(label, 7, 0.0)
    assert ledger.version == 1
    assert ledger.factors([BUSY, RPS, CORES]) == pytest.approx([1 / 3, 1.0, 1 / 3])
    ledger.heed([], 7, 10.0)
    assert ledger.version == 1
    ledger.heed([], 8, 11.0)
    assert ledger.factors([BUSY]).tolist() == [1.0]


def test_a_rate_is_unknown_for_a_day_and_then_says_how_sure_it_is():
    early = rate(2.0, 0, 0, 3600.0, WEEK_S)
    assert (early.verdict, math.isnan(early.high)) == ("unknown", True)
    assert (
        rate(2.0, 0, 0, WEEK_S, WEEK_S).verdict == "unknown"
    )  # none in a week: up to 3.7 a week are possible
    assert rate(2.0, 0, 0, 4 * WEEK_S, WEEK_S).verdict == "within"
    assert rate(2.0, 20, 20, 4 * WEEK_S, WEEK_S).verdict == "above"
    half = rate(2.0, 1, 20, 4 * WEEK_S, WEEK_S)  # one is surely false, nineteen nobody has labelled
    assert (half.verdict, half.low < 2.0 < half.high) == ("unknown", True)


def test_a_budget_of_which_next_to_nothing_was_spent_is_said_to_be_unused():
    weeks = 4 * WEEK_S
    assert rate(2.0, 0, 1, weeks, WEEK_S).unused  # 1 of 8
    assert not rate(2.0, 0, 2, weeks, WEEK_S).unused  # 2 of 8 is a quarter
    assert not rate(2.0, 0, 0, WEEK_S, WEEK_S).unused  # of 2 promised so far, none is no news
    assert not rate(math.nan, 0, 0, weeks, WEEK_S).unused
    assert not rate(2.0, 0, 0, 3600.0, WEEK_S).unused


def spend(ledger, days, per_day, series=300, start=0.0, seed=0):
    """Count rows of a minute over some days, with anomalies at random."""
    rng = np.random.default_rng(seed)
    for minute in range(int(days * 1440)):
        began = int(rng.poisson(per_day / 1440))
        ledger.count("host", start + 60.0 * (minute + 1), series / 1440, began)


def test_too_many_anomalies_tighten_slowly_to_a_bound_and_loosen_again():
    ledger = Ledger()
    spend(ledger, 1, 30)
    assert ledger.tightness == 1.0
    spend(ledger, 0.1, 600, start=DAY_S)
    assert 0.1 < ledger.tightness < 1.0
    spend(ledger, 5, 600, start=2 * DAY_S)
    assert ledger.tightness == 0.1
    spend(ledger, 12, 5, start=10 * DAY_S)
    assert ledger.tightness == 1.0


def test_one_trouble_with_many_series_tightens_nothing():
    ledger = Ledger()
    for second in range(7200):
        ledger.count("host", 1.0 + second, 300 / DAY_S, 5 * (1000 < second < 1060))
    assert ledger.tightness == 1.0
    assert ledger.anomalies().perhaps != 0.0
    assert sum(day.anomalies for day in ledger.days.values()) == 5 * 59


def test_a_promise_that_is_kept_tightens_next_to_nothing():
    tight = []
    for seed in range(20):
        ledger = Ledger()
        spend(ledger, 3, 30, seed=seed)
        tight.append(ledger.tightness)
    assert np.mean(tight) > 0.95
    assert min(tight) >= 0.5


def test_only_what_was_watched_counts_and_four_weeks_are_kept():
    ledger = Ledger()
    for day in range(40):
        ledger.count("host", day * DAY_S + 10.0, 0.0, 0)
        ledger.count("host", day * DAY_S + 20.0, 0.0, 0)
        ledger.note(day * DAY_S + 20.0)
    assert ledger.watched_s == pytest.approx(28 * 70.0, abs=70)
    assert len(ledger.days) == 28
    assert sum(day.notes for day in ledger.days.values()) == 28
    assert ledger.since == 12 * DAY_S


def test_what_was_measured_survives_a_restart_and_damage_is_refused_whole():
    ledger = Ledger()
    spend(ledger, 0.5, 900)
    again = Ledger()
    again.load(ledger.dump())
    assert (again.tightness, again.days, again.dump()) == (
        ledger.tightness,
        ledger.days,
        ledger.dump(),
    )
    for bad in (
        b"",
        b"{}",
        b'{"version": 2}',
        json.dumps({**json.loads(ledger.dump()), "days": 3}).encode(),
    ):
        with pytest.raises(Refused, match="counted anew"):
            again.load(bad)
    assert again.dump() == ledger.dump()
    loose = json.loads(ledger.dump()) | {"tightness": 1e-9}
    again.load(json.dumps(loose).encode())
    assert again.tightness == 0.1


def test_a_clock_that_was_set_is_no_time_under_watch():
    ledger = Ledger()
    ledger.count("host", 1e6, 0.0, 0)
    ledger.rebase(-3600.0)
    ledger.count("host", 1e6 - 3599.0, 0.0, 0)
    assert ledger.watched_s == pytest.approx(1.0)
