"""Counts instead of rows: merged by adding they are what the rows would be; what does not fit changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from agent.config import WatchModels
from agent.errors import Refused
from agent.models import ModelWatch
from agent.ports import PredictionBatch, Sketch, SketchBatch

COLOURS = np.array(["blue", "green", "red"], dtype=object)
NOW = 10_000.0


def columns(rng, n, moved=0.0):
    return {
        "x": rng.normal(size=n) + moved,
        "y": np.where(rng.random(n) < 0.1, np.nan, rng.exponential(size=n)),
        "colour": COLOURS[rng.integers(0, 3, n)],
    }


def rows_of(found, start, said):
    n = len(found["x"])
    nan = np.full(n, np.nan)
    ts = start + 0.01 * np.arange(n)
    return PredictionBatch("m", "1", ts, ("",) * n, found, said, nan, nan, nan, np.full(n, 200))


def watched(seed=0):
    rng = np.random.default_rng(seed)
    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    found = columns(rng, 4000)
    said = rng.integers(0, 2, 4000).astype(str).astype(object)
    watch.fit(rows_of(found, 0.0, said), list(said), whole=True)
    watch.frame(NOW)
    return watch, rng


def sketch_of(watch, found, start, said, **more):
    """Count rows as a process at the edge would, over the edges that it has asked for."""
    _, wanted = watch.asked.edges("m", "1")
    out = {}
    for name, one in wanted.items():
        column = found[name]
        if "edges" in one:
            edges = np.array(one["edges"])
            known = column[~np.isnan(column)]
            counts = np.bincount(
                np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1
            )
            out[name] = Sketch(edges, (), counts, missing=len(column) - len(known))
        else:
            counts = np.array([np.count_nonzero(column == value) for value in one["values"]])
            out[name] = Sketch(
                np.zeros(0), tuple(one["values"]), counts, other=len(column) - counts.sum()
            )
    classes, n = np.unique(said.astype(str), return_counts=True)
    pred = Sketch(np.zeros(0), tuple(classes), n)
    rows = len(found["x"])
    return SketchBatch(
        "m", "1", "", more.pop("id", ""), start, start + 0.01 * rows, rows, 0, out, pred
    )


def table(watch, now):
    watch.frame(now)
    return {s.name: s for s in watch._models["m"].versions["1"].drift.states()}


def test_a_sketch_counts_as_its_rows_would_have():
    (whole, rng), (counted, _) = watched(), watched()
    for i in range(4):
        found = columns(rng, 500, moved=0.3)
        said = rng.integers(0, 2, 500).astype(str).astype(object)
        start = NOW + 5.0 * i
        whole.take(rows_of(found, start, said))
        counted.take(sketch_of(counted, found, start, said))
        one, two = table(whole, start + 5.0), table(counted, start + 5.0)
        for name in ("x", "y", "colour"):
            assert two[name].psi == pytest.approx(one[name].psi, rel=0.01, abs=1e-4)
            assert two[name].missing == pytest.approx(one[name].missing)
            assert two[name].out_of_range == pytest.approx(one[name].out_of_range, nan_ok=True)
    mine, theirs = whole.facts("m"), counted.facts("m")
    assert theirs.current.rows == mine.current.rows == 2000
    assert theirs.prediction_shift == pytest.approx(mine.prediction_shift, abs=0.01)


def test_two_halves_are_as_good_as_the_whole():
    (one, rng), (two, _) = watched(1), watched(1)
    found, said = columns(rng, 1000), rng.integers(0, 2, 1000).astype(str).astype(object)
    one.take(sketch_of(one, found, NOW, said))
    for at in (slice(0, 500), slice(500, None)):
        half = sketch_of(two, {k: v[at] for k, v in found.items()}, NOW, said[at])
        two.take(replace(half, until=NOW + 10.0))
    np.testing.assert_allclose(
        one._models["m"].versions["1"].drift._slow, two._models["m"].versions["1"].drift._slow
    )


def test_a_shift_is_found_in_sketches_and_none_where_there_is_none():
    watch, rng = watched(2)
    now = NOW
    for moved, most in ((0.0, 0), (0.9, 12)):
        for i in range(12):  # noqa: B007  # it is looked at behind the loop
            found = columns(rng, 500, moved)
            said = rng.integers(0, 2, 500).astype(str).astype(object)
            watch.take(sketch_of(watch, found, now, said))
            now += 5.0
            if any(s.drifted for s in table(watch, now).values()):
                break
        drifted = {name for name, s in table(watch, now).items() if s.drifted}
        assert drifted == ({"x"} if most else set())
    assert i < 3


def test_the_same_sketch_twice_counts_once_also_after_a_restart():
    watch, rng = watched(3)
    found, said = columns(rng, 500), rng.integers(0, 2, 500).astype(str).astype(object)
    one = sketch_of(watch, found, NOW, said, id="edge-7/1")
    watch.take(one)
    watch.take(one)
    other = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    other.load(watch.dump())
    other.take(one)
    for each in (watch, other):
        each.frame(NOW + 6.0)
        assert each.facts("m").current.rows == 500


def finer(sketch):
    """Return the same counts over edges of which every second one is new."""
    edges = np.sort(np.concatenate((sketch.edges, (sketch.edges[:-1] + sketch.edges[1:]) / 2)))
    counts = np.zeros(len(edges) + 1, dtype=np.int64)
    counts[np.searchsorted(edges, sketch.edges)] = sketch.counts[:-1]
    counts[-1] = sketch.counts[-1]
    return replace(sketch, edges=edges, counts=counts)


def test_finer_edges_do_as_well():
    (one, rng), (two, _) = watched(4), watched(4)
    found, said = columns(rng, 500), rng.integers(0, 2, 500).astype(str).astype(object)
    plain = sketch_of(one, found, NOW, said)
    one.take(plain)
    two.take(replace(plain, features={**plain.features, "x": finer(plain.features["x"])}))
    np.testing.assert_allclose(
        one._models["m"].versions["1"].drift._slow, two._models["m"].versions["1"].drift._slow
    )


@pytest.mark.parametrize(
    ("name", "sketch", "why"),
    [
        ("x", Sketch(np.array([0.0, 1.0]), (), np.array([1, 2, 3])), "edges of the reference"),
        ("x", Sketch(np.zeros(0), ("1", "2"), np.array([1, 2])), "is a number"),
        ("colour", Sketch(np.array([0.0, 1.0]), (), np.array([1, 2, 3])), "is a category"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_to_the_edges_and_changes_nothing(
    name, sketch, why
):
    watch, rng = watched(5)
    found, said = columns(rng, 500), rng.integers(0, 2, 500).astype(str).astype(object)
    good = sketch_of(watch, found, NOW, said, id="a")
    before = watch.dump()
    with pytest.raises(Refused, match=rf"(?s){why}.*GET /api/models/m/edges.*homeostat edges m"):
        watch.take(replace(good, features={**good.features, name: sketch}))
    assert watch.dump() == before
    watch.take(good)
    watch.frame(NOW + 6.0)
    assert watch.facts("m").current.rows == 500


def test_without_a_reference_nothing_is_counted():
    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)
    watch.frame(NOW)
    with pytest.raises(Refused, match="has no reference yet"):
        watch.take(SketchBatch("m", "1", "", "", NOW, NOW, 10, 0, {}))
    assert not watch.busy


def test_a_reference_json_gives_edges_before_the_first_row():
    found = {
        "rows": 1000,
        "features": {"x": {"edges": [0, 1, 2, 4], "shares": [0.2, 0.3, 0.5]}},
        "classes": {"0": 0.9, "1": 0.1},
    }
    watch = ModelWatch(WatchModels(), lambda _m, _v: found, lambda _m: None)
    watch.frame(NOW)
    edges = np.array([0.0, 1.0, 2.0, np.nextafter(4.0, np.inf)])
    pred = Sketch(np.zeros(0), ("0", "1"), np.array([180, 20]))
    one = Sketch(edges, (), np.array([0, 40, 60, 95, 5]))
    watch.take(SketchBatch("m", "1", "", "", NOW - 60, NOW, 200, 10, {"x": one}, pred))
    watch.frame(NOW + 1.0)
    state = table(watch, NOW + 1.0)["x"]
    assert state.out_of_range == pytest.approx(0.025)
    assert watch.asked.edges("m", "1")[1]["x"]["edges"] == edges.tolist()


def test_rows_of_the_future_are_refused():
    watch, rng = watched(6)
    found, said = columns(rng, 500), rng.integers(0, 2, 500).astype(str).astype(object)
    late = sketch_of(watch, found, NOW, said)
    with pytest.raises(Refused, match="still to come"):
        watch.take(replace(late, until=NOW + 1e6))


def test_a_sketch_of_a_huge_count_over_years_is_small_work():
    watch, _ = watched(7)
    _, wanted = watch.asked.edges("m", "1")
    edges = np.array(wanted["x"]["edges"])
    counts = np.zeros(len(edges) + 1, dtype=np.int64)
    counts[3] = 1 << 50
    watch.take(
        SketchBatch("m", "1", "", "", 1.0, NOW, 1 << 50, 1 << 50, {"x": Sketch(edges, (), counts)})
    )
    frame = watch.frame(NOW + 1.0)
    assert np.isfinite(frame.values[[s.metric == "feature.drift_psi" for s in frame.series]]).any()
