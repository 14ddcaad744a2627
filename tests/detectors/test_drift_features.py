"""Features of one version: contracts, size of drift, columns of every sort, restarts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Refused
from agent.registry import drift
from detectors.drift import Features, reference
from detectors.drift.contract import KINDS, say

CONFIG = Features.Config(half_life=10.0, stale=60.0, min_rows=100, learn_rows=500)


def describe(columns):
    features = {}
    for name, x in columns.items():
        edges = np.quantile(x, np.linspace(0, 1, 11))
        counts, _ = np.histogram(x, edges)
        features[name] = {"edges": edges.tolist(), "shares": (counts / len(x)).tolist()}
    return {"rows": len(x), "features": features}


SHAPES = {
    "wide": lambda r, n: r.lognormal(6, 0.5, n),
    "narrow": lambda r, n: r.normal(20, 4, n),
    "very narrow": lambda r, n: r.normal(1013, 5, n),
    "around zero": lambda r, n: r.normal(0, 1, n),
    "counts": lambda r, n: r.poisson(2, n).astype(float),
    "two values": lambda r, n: (r.random(n) < 0.3).astype(float),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.8, 0.0, r.lognormal(1, 1, n)),
    "negative": lambda r, n: -r.lognormal(2, 0.4, n),
    "heavy tail": lambda r, n: r.standard_t(2, n),
}


def rows(rng, n):
    return {name: draw(rng, n) for name, draw in SHAPES.items()}


def feed(f, rng, seconds, start=0, change=lambda c: c, n=50):
    for second in range(start, start + seconds):
        f.take(float(second), n, change(rows(rng, n)))
        f.judge(float(second))
    return {s.name: s for s in f.states()}


def made(seed=0, n=500):
    rng = np.random.default_rng(seed)
    return Features(CONFIG, describe(rows(rng, n))), rng


def test_it_is_registered_and_empty_until_it_knows_something():
    assert drift.get("features") is Features
    f = Features(CONFIG)
    assert f.names == ()
    assert f.judge(0.0).shape == (0, 7)
    assert f.states() == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(120, 2000), size=st.integers(5, 300))
def test_rows_like_the_reference_are_never_broken_nor_drifted(seed, n, size):
    f, rng = made(seed, n)
    for second in range(max(20, 2000 // size)):
        f.take(float(second), size, rows(rng, size))
        table = f.judge(float(second))
        assert not (table[:, 4] == 1.0).any(), f.states()
    assert not [s for s in f.states() if s.drifted]


@pytest.mark.parametrize("name", ["wide", "narrow", "very narrow", "counts", "negative"])
@pytest.mark.parametrize("factor", [0.001, 0.01, 10.0, 100.0, 1000.0])
def test_a_factor_on_a_feature_of_one_sign_is_named(name, factor):
    f, rng = made()
    assert feed(f, rng, 20)[name].broken is False
    states = feed(f, rng, 30, 20, lambda c: {**c, name: c[name] * factor})
    assert states[name].broken is True
    # few distinct counts that become tenths are out of range before they have a magnitude of their own
    assert states[name].reason == f"scale x{factor:g}"
    assert states[name].scale == pytest.approx(factor, rel=0.35)
    assert [s.name for s in states.values() if s.broken] == [name]
    healed = feed(f, rng, 30, 50)
    assert healed[name].broken is False
    assert healed[name].reason == ""
    assert healed[name].since is None


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("narrow", lambda x: x * 1.8 + 32, "scale"),
        ("very narrow", lambda x: x + 273, "range in 100 % of rows"),
        ("around zero", lambda x: x * 100, "scale x100"),
        ("narrow", lambda x: -x, "range in 100 % of rows"),
        ("wide", lambda x: np.full_like(x, -999.0), "stuck"),
        ("heavy tail", lambda x: x * np.nan, "missing in 100 % of rows"),
        ("two values", lambda x: x + 1, "range"),
    ],
)
def test_other_ways_to_break_a_contract(name, change, reason):
    f, rng = made(1)
    feed(f, rng, 20)
    states = feed(f, rng, 30, 20, lambda c: {**c, name: change(c[name])})
    assert states[name].reason.startswith(reason)
    assert [s.name for s in states.values() if s.broken] == [name]
    assert 20 <= states[name].since <= 30


def test_part_of_the_rows_is_enough_when_it_is_more_than_the_tolerance():
    f, rng = made(2)
    feed(f, rng, 20)

    def some(share):
        def change(c):
            hit = rng.random(50) < share
            return {**c, "narrow": np.where(hit, c["narrow"] * 1000, c["narrow"])}

        return change

    assert not feed(f, rng, 60, 20, some(0.04))["narrow"].broken
    states = feed(f, rng, 20, 80, some(0.4))
    assert states["narrow"].reason.startswith("range in ")
    assert states["narrow"].out_of_range == pytest.approx(0.4, abs=0.15)


@pytest.mark.parametrize(("seconds", "again"), [(8, True), (40, False)])
def test_a_break_that_was_on_for_as_many_rows_as_the_reference_has_may_come_back(seconds, again):
    f, rng = made(9)  # of 500 rows; 50 a second

    def far(c):
        return {**c, "very narrow": c["very narrow"] + 200.0}

    feed(f, rng, 20)
    assert feed(f, rng, seconds, 20, far)["very narrow"].broken
    assert not feed(f, rng, 20, 20 + seconds)["very narrow"].broken
    assert feed(f, rng, 8, 40 + seconds, far)["very narrow"].broken is again


def test_a_value_that_went_missing_is_news_each_time():
    f, rng = made(9)

    def lost(c):
        return {**c, "narrow": c["narrow"] * np.nan}

    for start in (20, 100, 180):
        assert not feed(f, rng, 20, start - 20)["narrow"].broken
        assert feed(f, rng, 60, start, lost)["narrow"].broken


def test_few_rows_are_unknown_and_so_are_old_ones():
    f, rng = made()
    f.take(0.0, 20, rows(rng, 20))
    assert np.isnan(f.judge(0.0)).all()
    states = feed(f, rng, 20, 1)
    assert states["wide"].broken is False
    assert np.isfinite(f.judge(60.0)[0, 3])
    assert np.isnan(f.judge(90.0)).all()
    assert {s.broken for s in f.states()} == {None}


def test_psi_is_zero_by_chance_and_as_published_for_a_known_shift():
    rng = np.random.default_rng(3)
    f = Features(
        Features.Config(half_life=1000.0, min_rows=100), describe({"x": rng.normal(size=20_000)})
    )
    psi = []
    for second in range(200):
        f.take(float(second), 100, {"x": rng.normal(size=100)})
        psi.append(f.judge(float(second))[0, 3])
    assert np.nanmax(psi[5:]) < 0.08
    assert psi[-1] < 0.004
    g = Features(
        Features.Config(half_life=1e6, min_rows=100), describe({"x": rng.normal(size=20_000)})
    )
    g.take(0.0, 50_000, {"x": rng.normal(0.5, 1, 50_000)})
    # population index over deciles of N(0, 1) against N(0.5, 1)
    from statistics import NormalDist

    cuts = [NormalDist().inv_cdf(i / 10) for i in range(1, 10)]
    reached = [0.0, *(NormalDist(0.5).cdf(c) for c in cuts), 1.0]
    shares = np.diff(reached)
    exact = float(((shares - 0.1) * np.log(shares / 0.1)).sum())
    assert g.judge(0.0)[0, 3] == pytest.approx(exact, rel=0.05)


def test_categories_and_types():
    rng = np.random.default_rng(4)
    colour, code = {"red": 0.6, "blue": 0.4}, {"1": 0.5, "2": 0.5}
    found = {"rows": 500, "features": {"colour": {"values": colour}, "code": {"values": code}}}
    f = Features(CONFIG, found)

    def go(start, colour, code=lambda: rng.integers(1, 3, 50).astype(float)):
        for second in range(start, start + 20):
            f.take(float(second), 50, {"colour": np.array(colour(), dtype=object), "code": code()})
            f.judge(float(second))
        return {s.name: s for s in f.states()}

    well = go(0, lambda: rng.choice(["red", "blue"], 50, p=[0.6, 0.4]).tolist())
    assert [s.broken for s in well.values()] == [False, False]
    assert math.isnan(well["colour"].out_of_range)
    new = go(20, lambda: rng.choice(["red", "green"], 50).tolist())
    assert new["colour"].reason.startswith("new values in ")
    assert not go(40, lambda: ["red"] * 30 + ["blue"] * 20)["colour"].broken
    assert go(60, lambda: [None] * 25 + ["red"] * 25)["colour"].reason.startswith("missing in ")
    moved = go(80, lambda: ["blue"] * 50)["colour"]
    assert moved.drifted
    assert not moved.broken
    assert go(100, lambda: ["red"] * 30 + ["blue"] * 20, lambda: np.full(50, 7.5))["code"].broken


def test_numbers_as_texts_are_numbers_and_other_texts_a_type():
    f, rng = made(5)
    as_text = np.vectorize(str, otypes=[object])
    states = feed(f, rng, 20, change=lambda c: {**c, "narrow": as_text(c["narrow"])})
    assert states["narrow"].broken is False
    states = feed(f, rng, 10, 20, lambda c: {**c, "narrow": np.array(["N/A"] * 50, dtype=object)})
    assert states["narrow"].reason == "type in 100 % of rows"
    other = {"counts": np.int64, "two values": np.bool_}
    whole = feed(f, rng, 30, 30, lambda c: {**c, **{n: c[n].astype(t) for n, t in other.items()}})
    assert not [s.name for s in whole.values() if s.broken]


def test_extreme_numbers_do_no_harm():
    f, rng = made(6)
    for i, x in enumerate((np.inf, -np.inf, np.nan, 1e308, -1e308, 5e-324, 0.0)):
        f.take(float(i), 50, {name: np.full(50, x) for name in SHAPES})
        assert not np.isinf(f.judge(float(i))[:, [0, 1, 3]]).any()
    healed = feed(f, rng, 60, 10)
    assert not [s for s in healed.values() if s.broken]
    assert all(math.isfinite(s.evidence) for s in healed.values())


def test_batches_of_any_size_give_the_same_counts():
    rng = np.random.default_rng(7)
    found = describe(rows(rng, 500))
    small, large = Features(CONFIG, found), Features(CONFIG, found)
    columns = {name: x.copy() for name, x in rows(rng, 600).items()}
    columns["wide"][::7] = np.nan
    large.take(0.0, 600, columns)
    for at in range(0, 600, 100):
        small.take(0.0, 100, {name: x[at : at + 100] for name, x in columns.items()})
    np.testing.assert_array_equal(small._slow, large._slow)
    assert small._slow.sum() == 600 * len(SHAPES)


def test_learning_makes_the_first_rows_the_reference_and_counts_them():
    rng = np.random.default_rng(8)
    f = Features(CONFIG)
    for second in range(20):
        f.take(
            float(second), 50, {**rows(rng, 50), "colour": np.array(["a", None] * 25, dtype=object)}
        )
        f.judge(float(second))
        assert (f.names == ()) is (second < 9)
    states = {s.name: s for s in f.states()}
    assert set(states) == {*SHAPES, "colour"}
    assert not [s for s in states.values() if s.broken or s.drifted]
    assert states["colour"].missing == pytest.approx(0.5)


def test_a_restart_of_the_version_forgets_rows_and_keeps_the_reference():
    f, rng = made(9)
    feed(f, rng, 20, change=lambda c: {**c, "narrow": c["narrow"] * 100})
    f.restart()
    assert np.isnan(f.judge(20.0)).all()
    assert not [s for s in feed(f, rng, 20, 21).values() if s.broken]


@pytest.mark.parametrize("learnt", [True, False])
def test_dump_and_load_is_as_if_it_had_never_stopped(learnt):
    f, rng = made(10)
    if learnt:
        f = Features(CONFIG)
    feed(f, rng, 25, change=lambda c: {**c, "wide": c["wide"] * 100})
    other = Features(CONFIG)
    other.load(f.dump())
    assert other.dump() == f.dump()
    for second in range(25, 60):
        batch = rows(rng, 50)
        tables = []
        for one in (f, other):
            one.take(float(second), 50, batch)
            tables.append(one.judge(float(second)))
        np.testing.assert_array_equal(*tables)
    assert repr(f.states()) == repr(other.states())


def test_states_of_others_are_refused():
    f, _ = made(11)
    state = f.dump()
    for bad in (b"", state[:-3], state[:60] + b"x" + state[61:]):
        with pytest.raises(Refused, match="learnt anew"):
            Features(CONFIG).load(bad)
    with pytest.raises(Refused, match="not understood"):
        Features(CONFIG, {"features": {"x": 1}})


def test_words_for_people():
    assert say(KINDS.index("scale"), 0.0, -2.03) == "scale x0.01"
    assert say(KINDS.index("scale"), 0.0, math.log10(25.4)) == "scale x25"
    assert say(KINDS.index("missing"), 0.371, 0.0) == "missing in 40 % of rows"
    assert say(KINDS.index("range"), 0.02, 0.0) == "range in 10 % of rows"
    assert say(KINDS.index("stuck"), 1.0, 0.0) == "stuck"
    assert say(0, 0.0, 0.0) == ""


def test_the_reference_of_a_dump_is_the_reference():
    f, rng = made(12)
    again = reference.restore(reference.words(f._ref), reference.arrays(f._ref))
    np.testing.assert_array_equal(again.edges, f._ref.edges)
    assert again.names == f._ref.names
    del rng


def test_values_fall_where_a_search_among_the_edges_puts_them():
    r = np.random.default_rng(8)
    watch = Features(CONFIG)
    x = r.lognormal(0, 2, (2, 3000))
    watch.fit({"a": x[0], "b": np.round(x[1]), "c": np.array(["u", "v"] * 1500, dtype=object)})
    ref = watch._ref
    edges = ref.edges[0, : ref.bins[0] + 1]
    values = np.concatenate((edges, np.nextafter(edges, -np.inf), [np.nan, np.inf, -np.inf], x[0]))
    n = len(values)
    words = np.array([["u", None, "new", 5][i % 4] for i in range(n)], dtype=object)
    columns, _, _ = watch._place(n, {"a": values, "b": values, "c": words})
    for i in range(2):
        at = np.searchsorted(ref.edges[i], values, side="right")
        at[at > ref.bins[i]] = reference.ABOVE
        at[np.isnan(values)] = reference.MISSING
        assert columns[i].tolist() == at.tolist()
    known = [ref.values[2]["u"], reference.MISSING, reference.WRONG, reference.WRONG]
    assert columns[2].tolist() == [known[i % 4] for i in range(n)]
