"""Sketches: counts over edges, checked at the door."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Refused
from connectors._personal import Personal
from connectors._sketches import sketch_of

SKETCH = {
    "sketch": 1, "id": "edge-7/28411200", "model": "fraud", "version": "3", "since": 1764000000, "until": 1764000060,
    "rows": 5000, "failed": 2,
    "features": {
        "age": {"edges": [18, 30, 45, 90], "counts": [0, 900, 2100, 1900, 4], "missing": 96},
        "country": {"values": {"DE": 3900, "FR": 1000}, "other": 60, "missing": 40},
    },
    "pred": {"values": {"0": 4900, "1": 100}},
}  # fmt: skip


def test_a_sketch_is_columns_of_counts():
    one = sketch_of(SKETCH, "", Personal())
    assert (one.model, one.version, one.variant, one.id, one.rows, one.failed) == (
        "fraud", "3", "", "edge-7/28411200", 5000, 2,
    )  # fmt: skip
    age, country = one.features["age"], one.features["country"]
    assert age.edges.tolist() == [18, 30, 45, 90]
    assert age.counts.tolist() == [0, 900, 2100, 1900, 4]
    assert (age.missing, age.other, age.values) == (96, 0, ())
    assert (country.values, country.counts.tolist(), country.other) == (
        ("DE", "FR"),
        [3900, 1000],
        60,
    )
    assert one.pred is not None
    assert one.pred.values == ("0", "1")


def test_personal_features_are_left_out_or_hashed():
    personal = Personal(["age"], ["country"], lambda: b"k" * 32)
    one = sketch_of(SKETCH, "", personal)
    assert list(one.features) == ["country"]
    assert one.features["country"].values == (personal.hashed("DE"), personal.hashed("FR"))


def changed(place: str, value) -> dict:
    out = copy.deepcopy(SKETCH)
    at = out
    *path, last = place.split("/")
    for key in path:
        at = at[key]
    at[last] = value
    return out


BAD = [
    ([], "must be an object"),
    (changed("sketch", 2), '"sketch": 1'),
    (changed("rows", -1), "`rows`"),
    (changed("rows", 1.5), "`rows`"),
    (changed("rows", 4999), "counts more than `rows`"),
    (changed("model", "../x"), "`model`"),
    (changed("model", ""), "`model`"),
    (changed("since", 1764000061), "before `since`"),
    (changed("until", 1.7e12), "`until`"),
    (changed("features", [1]), "`features`"),
    (changed("features/age", 7), "`features.age`"),
    (changed("features/age/edges", [1, 1]), "must rise"),
    (changed("features/age/edges", []), "1 to 1024"),
    (changed("features/age/edges", [1, float("inf")]), "finite"),
    (changed("features/age/counts", [1, 2]), "5 counts"),
    (changed("features/age/counts", [1, 2, 3, 4, True]), "must be a count"),
    (changed("features/country/values", ["DE"]), "`features.country.values`"),
]


@pytest.mark.parametrize(("said", "says"), BAD)
def test_a_bad_sketch_is_refused_with_its_place(said, says):
    with pytest.raises(Refused, match=says):
        sketch_of(said, "", Personal())


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
places = st.sampled_from([
    "sketch", "id", "model", "version", "variant", "since", "until", "rows", "failed", "features", "pred",
    "features/age", "features/age/edges", "features/age/counts", "features/age/missing", "features/country/values",
])  # fmt: skip


@given(places, junk)
@settings(deadline=None, max_examples=300)
def test_any_change_is_taken_or_refused(place, value):
    try:
        one = sketch_of(changed(place, value), "m", Personal())
    except Refused:
        return
    assert all(int(c.counts.sum()) + c.missing + c.other <= one.rows for c in one.features.values())
