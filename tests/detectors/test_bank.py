"""The bank: quiet on what is ordinary, loud on what is not, honest about how much it knows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Refused
from agent.traits import STATE, Traits
from detectors.bank import _LAST, _MEAN, _SPREAD, Bank

T0 = 1_700_000_000.0


def bank(n, floors=None, step=1.0):
    return Bank(Bank.Config(step_s=step), n, None if floors is None else np.asarray(floors, float))


def feed(detector, rows, *, start=T0, step=1.0, trust=None):
    """Score and learn rows (k, n); return the p-values (k, n)."""
    out = np.full(np.shape(rows), np.nan)
    everything = np.ones(np.shape(rows)[1], bool)
    for i, row in enumerate(rows):
        out[i] = detector.score(start + i * step, row)
        detector.learn(start + i * step, row, everything if trust is None else trust)
    return out


def noise(rows, n=1, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, n))


def excursions(p, limit):
    """Count those of all columns; what comes back within five rows is the same one."""
    low = np.pad((p <= limit).astype(float), ((5, 0), (0, 0)))
    before = np.lib.stride_tricks.sliding_window_view(low[:-1], 5, axis=0).max(axis=2)
    return int(((low[5:] > 0) & (before == 0)).sum())


KINDS = {
    "bell": lambda r, k: 50 + r.normal(size=k),
    "heavy": lambda r, k: np.exp(r.normal(size=k)),
    "walk": lambda r, k: r.normal(size=k).cumsum(),
    "slow": lambda r, k: np.convolve(r.normal(size=k + 29), np.ones(30) / 30, "valid") + 5,
    "counts": lambda r, k: r.poisson(3.0, size=k).astype(float),
    "bursts": lambda r, k: np.where(r.random(k) < 0.05, r.exponential(100.0, size=k), 0.0),
    "ramp": lambda r, k: 1e6 + np.arange(k) + 0.01 * r.normal(size=k),
}


@cache
def ordinary():
    """Return kind -> p-values of twenty series of it: one bank of them all takes no longer than one of each kind."""
    rows = []
    for make in KINDS.values():
        rng = np.random.default_rng(7)
        rows += [make(rng, 6000) for _ in range(20)]
    p = feed(bank(len(rows)), np.stack(rows, axis=1))
    return {kind: p[:, 20 * i : 20 * i + 20] for i, kind in enumerate(KINDS)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ordinary_alarms_as_rarely_as_it_says(kind):
    p = ordinary()[kind][2000:]
    assert np.isfinite(p).all()
    assert excursions(p, 1e-2) / p.size < 0.025
    assert excursions(p, 1e-4) / p.size < 5e-4


def test_a_spike_is_seen_and_explained_in_units():
    detector = bank(2)
    feed(detector, 20 + noise(1500, 2))
    p = detector.score(T0 + 1500, np.array([20.0, 60.0]))
    assert p[0] > 0.01
    assert 1 / (30 * 1500) < p[1] < 1.3 / (30 * 1500)
    why = detector.explain(1)
    assert why.family == "spike"
    assert why.low < 20 < why.high < 60
    assert why.deviations > 15
    assert why.learnt_rows == 1500
    assert why.calibrated


def test_a_small_lasting_shift_is_seen_as_level():
    detector = bank(1)
    feed(detector, 20 + noise(3000))
    p = feed(detector, 23 + noise(60, seed=1), start=T0 + 3000, trust=np.array([False]))
    assert (p[:2] > 1e-4).all()
    assert np.median(p[20:]) < 5e-4
    assert p[20:].max() < 2e-3
    assert detector.explain(0).family == "level"


def test_what_creeps_is_seen_as_trend_before_it_is_anywhere_else():
    detector = bank(1)
    feed(detector, 20 + noise(3000))
    creeping = 20 + noise(240, seed=1) + np.linspace(0, 1.2, 240)[:, None]
    p = feed(detector, creeping, start=T0 + 3000, trust=np.array([False]))
    assert p[:120].min() > 1e-3, "half a deviation is nothing yet"
    families = set()
    for i, x in enumerate(20 + noise(60, seed=2) + np.linspace(1.2, 1.5, 60)[:, None]):
        p = detector.score(T0 + 3240 + i, x)
        families.add(detector.explain(0).family)
        detector.learn(T0 + 3240 + i, x, np.array([False]))
    assert p[0] < 1e-3
    assert "trend" in families


def test_shaking_more_is_seen_as_variability():
    detector = bank(1)
    feed(detector, 20 + noise(3000))
    shaking = 20 + 4 * noise(60, seed=1)
    p = feed(detector, shaking, start=T0 + 3000, trust=np.array([False]))
    assert p.min() < 1e-4


def test_a_stuck_sensor_is_seen_as_flatline():
    detector = bank(2)
    feed(detector, 20 + noise(3000, 2))
    stuck = np.stack([np.full(120, 20.1), 20 + noise(120, seed=3)[:, 0]], axis=1)
    p = feed(detector, stuck, start=T0 + 3000)
    assert p[40:, 0].max() < 1e-3
    assert p[110:, 0].max() < 3e-4
    assert p[:, 1].min() > 1e-4
    assert detector.explain(0).family == "flatline"
    assert detector.explain(0).deviations >= 8


def test_resting_is_ordinary_for_counts_and_bursts():
    rng = np.random.default_rng(0)
    rows = np.stack([KINDS["bursts"](rng, 4000), rng.poisson(0.3, 4000).astype(float)], axis=1)
    detector = bank(2)
    feed(detector, rows)
    p = feed(detector, np.zeros((60, 2)), start=T0 + 4000)
    assert p.min() > 1e-4


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 1e12, 0.1])
def test_a_constant_never_scores(value):
    p = feed(bank(1), np.full((900, 1), value))
    assert np.isnan(p[:30]).all()
    assert (p[30:] == 1.0).all()


def test_a_constant_that_leaves_is_as_rare_as_the_rows_it_stayed():
    detector = bank(3, [0.1, 0.1, 0.0])
    feed(detector, np.full((1000, 3), 5.0))
    p = detector.score(T0 + 1000, np.array([5.1, 5000.0, 5000.0]))
    assert p[0] == pytest.approx(1 / 1002)
    assert p[1] == pytest.approx(1 / 30_000)
    assert p[2] == pytest.approx(1 / 1002)
    why = detector.explain(1)
    assert (why.family, why.calibrated) == ("constant", False)
    assert why.deviations > 8


def test_floors_keep_a_nearly_constant_series_quiet():
    rows = 0.5 + 1e-4 * noise(2000)
    rows[1500:] += 0.005
    loud, quiet = feed(bank(1), rows), feed(bank(1, [0.02]), rows)
    assert np.nanmin(loud) < 1e-4
    assert np.nanmin(quiet) > 0.01


def test_p_is_never_smaller_than_so_few_rows_can_tell():
    detector = bank(1)
    rows = noise(400)
    rows[50::50] = 1e9
    p = feed(detector, rows, trust=np.array([True]))
    for i in range(30, 400):
        assert p[i, 0] >= 1 / (30 * i)


def test_short_history_is_marked():
    detector = bank(1)
    feed(detector, noise(599))
    assert not detector.explain(0).calibrated
    feed(detector, noise(10), start=T0 + 599)
    assert detector.explain(0).calibrated


def test_nothing_is_said_of_a_row_before_the_first():
    why = bank(1).explain(0)
    assert why.deviations == 0
    assert not why.calibrated


def test_nan_is_not_scored_and_not_learnt():
    rows = 20 + noise(1000, 2)
    holes = rows.copy()
    holes[np.random.default_rng(1).random(1000) < 0.3, 1] = np.nan
    detector = bank(2)
    p = feed(detector, holes)
    assert np.isnan(p[30:][np.isnan(holes[30:])]).all()
    assert np.isfinite(p[100:][~np.isnan(holes[100:])]).all()
    assert detector.rows.tolist() == [1000, np.isfinite(holes[:, 1]).sum()]
    assert p[30:, 0].min() > 1e-4


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e300])
def test_what_is_no_measurement_is_skipped(bad):
    detector = bank(1)
    feed(detector, noise(200))
    before = detector.dump()
    assert np.isnan(detector.score(T0 + 200, np.array([bad])))
    detector.learn(T0 + 200, np.array([bad]), np.array([True]))
    after = bank(1)
    after.load(before)
    np.testing.assert_array_equal(after.usual[_MEAN], detector.usual[_MEAN])


def test_a_series_that_never_answers_stays_unknown():
    p = feed(bank(2), np.stack([noise(100)[:, 0], np.full(100, np.nan)], axis=1))
    assert np.isnan(p[:, 1]).all()


def test_a_huge_leap_teaches_no_infinities():
    detector = bank(1)
    feed(detector, np.concatenate([np.zeros((100, 1)), np.full((5, 1), 1e149), noise(500)]))
    learnt = {k: v for k, v in detector._arrays().items() if not k.startswith("traits.")}
    assert all(np.isfinite(array).all() for array in learnt.values())


def test_after_a_gap_there_is_no_spike():
    """A series that wanders may be anywhere after an hour; only its level may speak."""
    detector = bank(1)
    feed(detector, 1000 + noise(2000).cumsum(axis=0))
    here = detector.place[_LAST].copy()
    assert detector.score(T0 + 2001, here + 40)[0] < 1e-3
    assert detector.score(T0 + 5600, here + 40)[0] > 1e-3


def test_late_and_repeated_rows_are_not_learnt():
    rows = noise(300, 3)
    plain, messy = bank(3), bank(3)
    feed(plain, rows)
    everything = np.ones(3, bool)
    for i, row in enumerate(rows):
        messy.score(T0 + i, row)
        messy.learn(T0 + i, row, everything)
        messy.learn(T0 + i, row + 5, everything)
        messy.score(T0 + i - 3, row + 100)
        messy.learn(T0 + i - 3, row + 100, everything)
    assert plain.dump() == messy.dump()


def test_a_clock_that_was_set_back_does_not_stop_learning():
    detector = bank(1)
    feed(detector, noise(300))
    p = feed(detector, noise(300, seed=1), start=T0 - 7200)
    assert detector.rows[0] >= 590
    assert np.isfinite(p).all()
    assert p.min() > 1e-4


def test_what_is_not_trusted_is_not_learnt():
    detector = bank(2)
    feed(detector, 20 + noise(2000, 2))
    mean, spread, rows = (
        detector.usual[_MEAN].copy(),
        detector.usual[_SPREAD].copy(),
        detector.rows.copy(),
    )
    high = 40 + noise(500, 2, seed=1)
    p = feed(detector, high, start=T0 + 2000, trust=np.array([True, False]))
    assert detector.usual[_MEAN, 1] == mean[1]
    assert detector.usual[_SPREAD, 1] == spread[1]
    assert detector.rows[1] == rows[1]
    assert (p[:, 1] < 1e-4).all(), "it is as abnormal after 500 rows as it was after one"
    assert detector.usual[_MEAN, 0] > mean[0]
    back = feed(detector, 20 + noise(50, 2, seed=2), start=T0 + 2500)
    assert back[20:, 1].min() > 1e-4


def test_trust_after_long_distrust_is_the_new_normal():
    detector = bank(1)
    feed(detector, 20 + noise(2000))
    feed(detector, 40 + noise(200, seed=1), start=T0 + 2000, trust=np.array([False]))
    feed(detector, 40 + noise(1, seed=2), start=T0 + 2200)
    p = feed(detector, 40 + noise(100, seed=3), start=T0 + 2201)
    assert p.min() > 1e-4
    assert detector.score(T0 + 2301, np.array([20.0]))[0] < 1e-3


def test_columns_do_not_influence_each_other():
    rng = np.random.default_rng(5)
    rows = np.stack([make(rng, 800) for make in KINDS.values()], axis=1)
    together = feed(bank(rows.shape[1]), rows)
    for j in range(rows.shape[1]):
        np.testing.assert_array_equal(together[:, [j]], feed(bank(1), rows[:, [j]]))


moves = st.tuples(
    st.sampled_from(["bell", "heavy", "walk", "slow"]), st.integers(0, 5),
    st.floats(-1e4, 1e4), st.floats(1e-3, 1e5),
)  # fmt: skip


@settings(max_examples=6, deadline=None)
@given(st.lists(moves, min_size=5, max_size=40))
def test_shift_and_positive_scale_change_nothing(series):
    rows = np.stack(
        [KINDS[k](np.random.default_rng(seed), 300) for k, seed, _, _ in series], axis=1
    )
    rows[200:] += 5.0
    shift, scale = np.array([(by, times) for _, _, by, times in series]).T
    n = len(series)
    plain, moved = feed(bank(n), rows), feed(bank(n), (rows + shift) * scale)
    np.testing.assert_allclose(np.log(moved[30:]), np.log(plain[30:]), rtol=1e-3, atol=1e-3)


def test_scale_goes_with_floors():
    rows = 20 + noise(500)
    rows[400:] += 6
    plain = feed(bank(1, [2.0]), rows)
    moved = feed(bank(1, [2000.0]), rows * 1000)
    np.testing.assert_allclose(moved[30:], plain[30:], rtol=1e-6)


def test_series_come_and_go():
    rows = noise(600, 4, seed=9)
    whole = feed(bank(4), rows)
    detector = bank(3, [0.0, 0.5, 0.0])
    feed(detector, rows[:300, [0, 1, 2]])
    detector.remap(np.array([2, -1, 0]))
    assert detector.rows.tolist() == [300, 0, 300]
    assert detector.floors.tolist() == [0.0, 0.0, 0.0]
    p = feed(detector, rows[300:, [2, 3, 0]], start=T0 + 300)
    np.testing.assert_array_equal(p[:, [2, 0]], whole[300:, [0, 2]])
    assert np.isnan(p[:30, 1]).all()
    assert np.isfinite(p[30:, 1]).all()
    detector.remap(np.array([], dtype=np.int64))
    assert detector.score(T0 + 900, np.empty(0)).shape == (0,)
    detector.remap(np.array([-1, -1]))
    assert np.isnan(detector.score(T0 + 901, np.zeros(2))).all()


def test_a_remap_to_a_column_that_is_not_there_is_a_bug():
    with pytest.raises(ValueError, match="column 5 of a bank of 2"):
        bank(2).remap(np.array([0, 5]))


def test_rows_of_another_width_are_a_bug():
    detector = bank(2)
    with pytest.raises(ValueError, match="a row of 1 values for 2 series"):
        detector.score(T0, np.zeros(1))
    with pytest.raises(ValueError, match="traits of 3 series for 2"):
        detector.set_traits(Traits.neutral(3))


def test_dump_and_load_is_as_if_it_never_stopped():
    rng = np.random.default_rng(5)
    rows = np.stack([make(rng, 900) for make in KINDS.values()], axis=1)
    n = rows.shape[1]
    whole = feed(bank(n), rows)
    first = bank(n)
    feed(first, rows[:451])
    second = bank(1)
    second.load(first.dump())
    np.testing.assert_array_equal(feed(second, rows[451:], start=T0 + 451), whole[451:])


@pytest.mark.parametrize(
    "hurt", [lambda s: s[:-1], lambda s: b"", lambda s: s[:50] + b"x" + s[51:]]
)
def test_a_damaged_state_is_refused_and_changes_nothing(hurt):
    detector = bank(2)
    feed(detector, noise(100, 2))
    state = detector.dump()
    with pytest.raises(Refused, match="learnt anew"):
        detector.load(hurt(state))
    assert detector.dump() == state


def test_a_state_of_another_step_is_refused():
    with pytest.raises(Refused, match="learnt at a step of 1 s, not 60 s"):
        bank(1, step=60.0).load(bank(1).dump())


def test_state_is_small_and_does_not_grow():
    n = 300
    detector = bank(n)
    feed(detector, noise(400, n))
    size = len(detector.dump())
    assert size / n < 3000
    feed(detector, noise(400, n, seed=1), start=T0 + 400)
    assert abs(len(detector.dump()) - size) < 100


# ---- what is known of the series


def known(n, **given):
    """Traits of n series of which only `given` is known."""
    base = Traits.neutral(n)
    return replace(base, **{name: np.asarray(value) for name, value in given.items()})


def ragged(rows, seed=3):
    """All kinds of series, some with holes, one with a leap."""
    rng = np.random.default_rng(seed)
    out = np.stack([make(rng, rows) for make in KINDS.values()] * 2, axis=1)
    out[:, 7:] += 0.5 * np.sin(np.arange(rows) / 40)[:, None]
    out[rng.random(out.shape) < 0.05] = np.nan
    out[rows // 2 : rows // 2 + 40, 3] += 20.0
    return out


def test_neutral_traits_change_no_bit():
    rows = ragged(1500)
    told = bank(rows.shape[1])
    told.set_traits(Traits.neutral(rows.shape[1]))
    np.testing.assert_array_equal(feed(told, rows), feed(bank(rows.shape[1]), rows))


def test_what_is_known_of_some_changes_no_bit_of_the_others():
    rows = ragged(1500)
    n = rows.shape[1]
    told = bank(n)
    kind = np.zeros(n, dtype=np.int64)
    kind[:7] = STATE
    told.set_traits(known(n, kind=kind, low=np.where(kind == STATE, 0.0, -np.inf)))
    p, plain = feed(told, rows), feed(bank(n), rows)
    np.testing.assert_array_equal(p[:, 7:], plain[:, 7:])
    assert (p[1000:, 0] != plain[1000:, 0]).any()


def test_a_state_is_judged_by_how_rarely_it_changes():
    detector = bank(3)
    detector.set_traits(known(3, kind=np.array([STATE, STATE, 0])))
    rng = np.random.default_rng(0)
    rows = np.ones((3000, 3))
    rows[:, 1:] = (rng.random((3000, 1)) > 0.3).astype(float)  # it toggles all the time
    assert np.nanmin(feed(detector, rows)[:, :2]) > 0.05
    # standing still is nothing for a state that toggles, and all is well for one that stays
    p = feed(detector, np.ones((200, 3)), start=T0 + 3000, trust=np.zeros(3, bool))
    assert (p[:, :2] == 1.0).all()
    assert p[100:, 2].max() < 0.01, "to rest is rare for a gauge of the same values"
    p = feed(detector, np.zeros((50, 3)), start=T0 + 3200, trust=np.zeros(3, bool))
    assert p[:, 0] == pytest.approx(1 / 3002)
    assert p[:, 1].min() > 0.1
    why = detector.explain(0)
    assert (why.family, why.low, why.high, why.learnt_rows) == ("state", 1.0, 1.0, 3000)
    back = feed(detector, np.ones((5, 3)), start=T0 + 3250)
    assert (back[:, 0] == 1.0).all()


def test_a_state_that_left_some_times_is_less_rare_each_time():
    detector = bank(1)
    detector.set_traits(known(1, kind=np.array([STATE])))
    rows = np.ones((4000, 1))
    rows[500::500] = 0.0
    p = feed(detector, rows)
    away = p[500::500, 0]
    assert away[0] == pytest.approx(1 / 502)
    assert away[-1] == pytest.approx((1 + 6) / 3502)


def test_the_expected_band_keeps_to_what_is_possible():
    rows = 0.01 + 0.001 * noise(1500, 2)
    told, plain = bank(2), bank(2)
    told.set_traits(known(2, low=np.array([0.0095, -np.inf]), high=np.array([1.0, np.inf])))
    feed(told, rows)
    feed(plain, rows)
    row = np.array([0.4, 0.4])
    np.testing.assert_array_equal(told.score(T0 + 1500, row), plain.score(T0 + 1500, row))
    assert plain.explain(0).low < 0.0095
    assert told.explain(0) == replace(plain.explain(0), low=0.0095)
    assert told.explain(1) == plain.explain(1)


def test_traits_travel_with_their_series():
    detector = bank(3)
    detector.set_traits(known(3, kind=np.array([0, STATE, 0]), high=np.array([1.0, 2.0, 3.0])))
    feed(detector, np.ones((50, 3)))
    second = bank(1)
    second.load(detector.dump())
    second.remap(np.array([2, -1, 1]))
    assert second.traits.kind.tolist() == [0, 0, STATE]
    np.testing.assert_array_equal(second.traits.high, [3.0, np.inf, 2.0])
    assert second.score(T0 + 50, np.array([1.0, 1.0, 0.0]))[2] == pytest.approx(1 / 52)


@pytest.mark.parametrize("kind", ["bell", "heavy", "walk", "slow", "counts"])
def test_the_band_holds_what_is_ordinary_and_not_what_is_far_out(kind):
    rng = np.random.default_rng(11)
    rows = np.stack([KINDS[kind](rng, 1500) for _ in range(4)], axis=1)
    detector, inside, widths = bank(4), 0, []
    everything = np.ones(4, bool)
    for i, row in enumerate(rows):
        detector.score(T0 + i, row)
        if i >= 1000:
            bands = np.array([detector.band(j) for j in range(4)])
            inside += int(((bands[:, 0] <= row) & (row <= bands[:, 1])).sum())
            widths.append(bands[:, 1] - bands[:, 0])
        detector.learn(T0 + i, row, everything)
    assert inside / 2000 > 0.95
    far = rows[-1] + 20 * np.median(widths, axis=0)
    detector.score(T0 + 1500, far)
    assert all(detector.band(j)[1] < far[j] for j in range(4))


def test_there_is_no_band_before_there_is_a_score_and_none_without_a_value():
    detector = bank(1)
    feed(detector, noise(10))
    assert np.isnan(detector.band(0)).all()
    feed(detector, noise(100), start=T0 + 10)
    assert np.isfinite(detector.band(0)).all()
    detector.score(T0 + 110, np.array([np.nan]))
    assert np.isnan(detector.band(0)).all()
