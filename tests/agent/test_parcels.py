"""Rows as bytes: what is packed comes out again, in pieces that fit together."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Refused
from agent.parcels import CELLS, cells_of, pack, parts, rows_of, unpack
from agent.ports import LabelBatch, PredictionBatch, Sketch, SketchBatch


def objects(values) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def batch(n: int, *, numbers: int = 2, generator: bool = True, seed: int = 0) -> PredictionBatch:
    rng = np.random.default_rng(seed)
    features = {f"x{i}": rng.normal(size=n) for i in range(numbers)}
    features["country"] = objects(
        [None if v < 0.2 else "DÉ"[: 1 + int(v > 0.6)] for v in rng.random(n)]
    )
    return PredictionBatch(
        model="fraud", version="3", ts=rng.random(n), ids=tuple(f"r{i}" if i % 3 else "" for i in range(n)),
        features=features, pred=objects(["1"] * n) if seed % 2 else rng.normal(size=n), proba=rng.random(n),
        latency_s=rng.random(n), processing_s=np.full(n, np.nan), status=np.full(n, 200),
        traces=tuple("t" * (i % 4) for i in range(n)) if generator else (), variant="canary",
        classes=("a", "b"), shares=rng.random((n, 2)), tags={"region": objects(["eu"] * n)},
        tokens_in=rng.random(n) if generator else None, tokens_out=None, ttft_s=rng.random(n) if generator else None,
        finish=objects(["stop"] * n) if generator else None, dropped=seed,
    )  # fmt: skip


def same(one, two) -> None:
    assert type(one) is type(two)
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(two, field.name)
        if isinstance(left, dict):
            assert list(left) == list(right)
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
                assert left[name].dtype == right[name].dtype
        elif isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
        else:
            assert left == right


@given(st.integers(1, 40), st.integers(0, 3), st.booleans(), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_predictions_come_out_as_they_went_in(n, numbers, generator, seed):
    one = batch(n, numbers=numbers, generator=generator, seed=seed)
    said, two = unpack(pack({"number": 7}, one))
    assert said == {"number": 7}
    same(one, two)


@given(
    st.lists(
        st.tuples(st.text(max_size=9), st.text(max_size=5) | st.floats(allow_nan=False)), max_size=9
    )
)
@settings(deadline=None, max_examples=60)
def test_labels_come_out_as_they_went_in(found):
    one = LabelBatch(
        "m",
        np.arange(len(found), dtype=float),
        tuple(i for i, _ in found),
        tuple(v for _, v in found),
    )
    same(one, unpack(pack({}, one))[1])


def test_sketches_and_words_come_out_as_they_went_in():
    age = Sketch(np.array([1.0, 2.0]), (), np.array([3, 4, 5]), 6)
    country = Sketch(np.empty(0), ("DE", "FR"), np.array([1, 2]), 0, 3)
    one = SketchBatch(
        "m", "1", "", "id", 1.0, 2.0, 20, 1, {"age": age, "country": country}, country
    )
    said, two = unpack(pack({"a": [1]}, one))
    assert said == {"a": [1]}
    assert isinstance(two, SketchBatch)
    for left, right in (
        (age, two.features["age"]),
        (country, two.features["country"]),
        (country, two.pred),
    ):
        same(left, right)
    assert (two.model, two.version, two.id, two.rows, two.failed) == ("m", "1", "id", 20, 1)
    assert unpack(pack({"kind": "beat"})) == ({"kind": "beat"}, None)


@pytest.mark.parametrize("numbers", [1, 40, 1500])
def test_pieces_are_small_and_hold_all_rows_once_in_order(numbers):
    one = batch(3000 if numbers < 1000 else 20, numbers=numbers, seed=1)
    pieces = list(parts(one))
    assert len(pieces) > 1
    assert all(cells_of(p) <= max(CELLS, cells_of(one) // len(one.ts)) for p in pieces)
    assert sum(map(rows_of, pieces)) == rows_of(one)
    assert np.concatenate([p.ts for p in pieces]).tolist() == one.ts.tolist()
    assert tuple(i for p in pieces for i in p.ids) == one.ids
    assert np.concatenate([p.shares for p in pieces]).tolist() == one.shares.tolist()
    assert tuple(t for p in pieces for t in p.traces) == one.traces


def test_what_the_sender_dropped_is_told_once():
    pieces = list(parts(batch(3000, numbers=20, seed=5)))
    assert len(pieces) > 1
    assert [piece.dropped for piece in pieces] == [5, *[0] * (len(pieces) - 1)]


def test_many_labels_are_cut_too():
    n = 5000
    one = LabelBatch("m", np.arange(n, dtype=float), tuple(map(str, range(n))), ("1",) * n)
    pieces = list(parts(one))
    assert len(pieces) > 1
    assert tuple(i for p in pieces for i in p.ids) == one.ids


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_damage_is_found(data):
    body = bytearray(pack({}, batch(5)))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused):
        unpack(bytes(body))
