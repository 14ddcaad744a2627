"""Made-up streams hold what they promise; and what is shipped finds the plainest trouble in them."""

import json

import adapters
import drift
import drift_rivals
import drift_streams as streams
import numpy as np
import pytest

SHORT = streams.Shape(before=3000, after=4000)


def unlike(a, b):
    """How unlike two columns are: the largest distance of their distributions, missing apart, in standard errors."""
    gone = abs(np.isnan(a).mean() - np.isnan(b).mean())
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    every = np.concatenate([a, b])
    far = np.searchsorted(a, every, "right") / len(a) - np.searchsorted(b, every, "right") / len(b)
    return max(np.abs(far).max(), gone) * np.sqrt(len(a) * len(b) / (len(a) + len(b)))


@pytest.mark.parametrize("kind", streams.KINDS)
def test_a_seed_gives_one_stream_and_one_reference_for_all_kinds(kind):
    a, b = streams.stream(kind, 3, SHORT), streams.stream(kind, 3, SHORT)
    other = streams.stream("null", 3, SHORT)
    assert np.array_equal(a.watched.X, b.watched.X, equal_nan=True)
    assert np.array_equal(a.watched.y, b.watched.y)
    if kind not in {"null_season", "null_wander"}:
        assert np.array_equal(a.reference.X, other.reference.X)


@pytest.mark.parametrize("kind", streams.TROUBLES)
def test_only_the_columns_that_move_do(kind):
    s = streams.stream(kind, 5, SHORT)
    late = s.watched.X[s.start + (0 if streams.KINDS[kind].form == "step" else 2000) :]
    before = s.watched.X[: s.start]
    moved = {f for i, f in enumerate(s.features) if unlike(before[:, i], late[:, i]) > 2.5}
    if kind == "cov_joint":
        a, b = (s.features.index(f) for f in sorted(s.moved))
        # ranks: what bends the columns leaves them as they are
        ranks = [np.argsort(np.argsort(part[:, [a, b]], axis=0), axis=0) for part in (before, late)]
        was, became = (np.corrcoef(r, rowvar=False)[0, 1] for r in ranks)
        assert was > 0.4
        assert became < -0.4
        assert not moved
    elif kind == "cov_prior":
        assert moved <= s.moved
        assert moved
    else:
        assert moved == s.moved


@pytest.mark.parametrize("kind", ["con_abrupt", "con_small", "deploy_bad"])
def test_what_should_cost_accuracy_costs_so_much(kind):
    lost = []
    for seed in range(4):
        s = streams.stream(kind, seed, SHORT)
        right = s.watched.y == s.watched.pred
        lost.append(right[: s.start].mean() - right[s.start :].mean())
    assert np.mean(lost) == pytest.approx(streams.KINDS[kind].size, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_services_can_be_hit_in_every_way(seed):
    shape = streams.fresh(seed)
    for kind in streams.KINDS:
        s = streams.stream(kind, seed, shape, rows=shape.before + 1000)
        assert s.watched.X.shape == (shape.before + 1000, len(s.features))
        assert np.isfinite(s.watched.y).all()
        assert np.isfinite(s.reference.X).all()
        assert s.moved <= set(s.features)
        assert (s.start is None) == (kind in streams.NULLS)


def watch(s):
    """The adapter over a stream, up to a thousand rows into the trouble; what it said at its first alarm."""
    watched = adapters.drift(s.features, s.task)
    watched.fit_reference(s.reference.X, s.reference.y, s.reference.pred, s.reference.proba)
    last = len(s.watched) if s.start is None else s.start + 1000
    for first in range(0, last, s.batch):
        said = watched.update(drift.batch_of(first, s.watched.part(slice(first, first + s.batch))))
        assert said["drifted"] == (said["score"] >= 0) == (said["cause"] is not None)
        if said["drifted"]:
            return first, said
    return None, said


def test_the_adapter_is_quiet_when_nothing_is_wrong():
    assert watch(streams.stream("null", 7, SHORT))[0] is None


@pytest.mark.parametrize("kind", ["pipe_missing", "pipe_units", "infra_slow", "deploy_bad"])
def test_the_adapter_finds_plain_trouble_and_its_cause(kind):
    s = streams.stream(kind, 7, SHORT)
    first, said = watch(s)
    assert first is not None
    assert first >= s.start
    assert said["cause"] == s.cause
    if s.moved:
        assert max(said["features"], key=said["features"].get) in s.moved


def test_an_alarm_names_the_columns_that_stand_out():
    scores = {"a": 1.0, "b": 9.0, "c": 5.0, "d": 8.0, "e": 7.0}
    assert drift_rivals.foremost(scores) == ["b", "d", "e"]
    assert drift_rivals.foremost({"a": 1.0, "b": 9.0}) == ["b"]
    assert drift_rivals.foremost({"a": 0.0}) == []
    assert drift_rivals.foremost({}) == []
    # logarithms of evidence below what is enough
    assert drift_rivals.foremost({"a": -3.0, "b": -4.0, "c": -7.0}) == ["a", "b"]


def test_real_streams_are_cut_at_their_documented_changes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    r = np.random.default_rng(1)
    n = 9000
    y = r.integers(0, 2, n)
    # the model is right until row 4,000, then in half of the rows
    pred = np.where(np.arange(n) < 4000, y, r.integers(0, 2, n))
    columns = {"x": r.normal(size=n), "job": r.choice(["a", "b"], n), "y": y, "pred": pred}
    columns["proba"] = r.random(n)
    parquet.write_table(pa.table(columns), tmp_path / "shop.parquet")
    about = {
        "name": "shop", "file": "shop.parquet", "task": "binary", "features": ["x", "job"],
        "categorical": ["job"],
        "n_train": 1000, "n_ref": 1500,
        "drift": [{"row": 4000, "features": ["x"]}, {"row": 4200, "features": "all"}],
    }  # fmt: skip
    (tmp_path / "index.jsonl").write_text(json.dumps(about) + "\n")
    (task,) = drift.stretches(tmp_path, tmp_path)
    assert task["features"] == ["x", "c_job"]
    assert task["moved"] == ["x"]
    assert task["harmful"]
    s = drift_rivals.load(task)
    assert (
        s.start == 1500
    )  # 1,000 rows of training, 1,500 of reference, then clean ones up to row 4,000
    assert len(s.reference) == 1500
    assert len(s.watched) == 1700  # up to the next change
    assert np.array_equal(s.watched.y, y[2500:4200])
    assert set(s.watched.X[:, 1]) == {0.0, 1.0}
