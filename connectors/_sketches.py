"""Sketches: an edge process counts its rows itself, over the edges of the reference, and sends kilobytes a minute.

    {"sketch": 1, "id": "edge-7/28411200", "model": "fraud", "version": "3", "since": 1764000000, "until": 1764000060,
     "rows": 5000, "failed": 2,
     "features": {"age": {"edges": [18, 30, 45, 90], "counts": [0, 900, 2100, 1900, 4], "missing": 96},
                  "country": {"values": {"DE": 3900, "FR": 1000}, "other": 60, "missing": 40}},
     "pred": {"values": {"0": 4900, "1": 100}}}

Counts of a number: below the first edge, then of each [edge, next edge), then from the last edge on: one more than
edges. Two sketches of the same edges are merged by adding; `id` lets a second try be told from a second sketch.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from agent.errors import Refused
from agent.ports import Sketch, SketchBatch
from connectors._personal import Personal
from connectors._records import MODEL, MOST_FEATURES, MOST_TEXT, SECONDS

VERSION: Final = 1
_MOST_BINS: Final = 1024
_MOST_ROWS: Final = 1 << 53


def sketch_of(said: Any, model: str, personal: Personal) -> SketchBatch:
    """Read one sketch; raises Refused and says at which place."""
    if not isinstance(said, dict) or said.get("sketch") != VERSION:
        raise Refused(f'a sketch must be an object with "sketch": {VERSION}')
    try:
        return _read(said, model, personal)
    except ValueError as problem:
        raise Refused(f"sketch: {problem}") from None


def _read(said: dict[str, Any], model: str, personal: Personal) -> SketchBatch:
    rows = _count(said.get("rows"), "rows")
    names = {k: said.get(k) or "" for k in ("model", "version", "variant", "id")}
    names["model"] = names["model"] or model
    for what, name in names.items():
        if not isinstance(name, str) or len(name) > MOST_TEXT:
            raise ValueError(f"`{what}` must be a text")
        if what != "id" and (name or what == "model") and not MODEL.fullmatch(name):
            raise ValueError(f"`{what}` must be a name of letters, digits, dot, dash, underscore")
    since, until = _time(said.get("since"), "since"), _time(said.get("until"), "until")
    if until < since:
        raise ValueError("`until` is before `since`")
    features = said.get("features")
    if not isinstance(features, dict) or len(features) > MOST_FEATURES:
        raise ValueError(f"`features` must be an object of at most {MOST_FEATURES} names")
    pred = said.get("pred")
    return SketchBatch(
        **names,
        since=since,
        until=until,
        rows=rows,
        failed=_count(said.get("failed", 0), "failed"),
        features={
            name[:MOST_TEXT]: _private(_column(one, f"features.{name[:80]}", rows), name, personal)
            for name, one in features.items()
            if personal.fate(name) != "drop"
        },
        pred=None if pred is None else _column(pred, "pred", rows),
    )


def _column(said: Any, place: str, rows: int) -> Sketch:
    if not isinstance(said, dict):
        raise ValueError(f"`{place}` must be an object with `edges` and `counts`, or `values`")  # noqa: TRY004  # one class for all
    missing = _count(said.get("missing", 0), f"{place}.missing")
    other = _count(said.get("other", 0), f"{place}.other")
    if "values" in said:
        sketch = _category(said["values"], place, missing, other)
    else:
        sketch = _number(said.get("edges"), said.get("counts"), place, missing, other)
    if int(sketch.counts.sum()) + missing + other > rows:
        raise ValueError(f"`{place}` counts more than `rows`")
    return sketch


def _category(values: Any, place: str, missing: int, other: int) -> Sketch:
    if not isinstance(values, dict) or len(values) > _MOST_BINS:
        raise ValueError(f"`{place}.values` must map at most {_MOST_BINS} values to counts")
    counts = [_count(count, f"{place}.values") for count in values.values()]
    names = tuple(name[:MOST_TEXT] for name in values)
    return Sketch(np.empty(0), names, np.array(counts, dtype=np.int64), missing, other)


def _number(edges: Any, counts: Any, place: str, missing: int, other: int) -> Sketch:
    if not isinstance(edges, list) or not 0 < len(edges) <= _MOST_BINS:
        raise ValueError(f"`{place}.edges` must be an array of 1 to {_MOST_BINS} numbers")
    if not all(type(edge) in {int, float} and abs(edge) < 1e300 for edge in edges):
        raise ValueError(f"`{place}.edges` must be finite numbers")
    array = np.array(edges, dtype=np.float64)
    if (np.diff(array) <= 0).any():
        raise ValueError(f"`{place}.edges` must rise")
    if not isinstance(counts, list) or len(counts) != len(edges) + 1:
        raise ValueError(f"`{place}.counts` must be {len(edges) + 1} counts: below, between, above")
    found = np.array([_count(c, f"{place}.counts") for c in counts], dtype=np.int64)
    return Sketch(array, (), found, missing, other)


def _private(sketch: Sketch, name: str, personal: Personal) -> Sketch:
    """Hash the values of a personal category; counts of numbers name nobody."""
    if personal.fate(name) != "hash" or not sketch.values:
        return sketch
    hashed = tuple(personal.hashed(value) for value in sketch.values)
    return Sketch(sketch.edges, hashed, sketch.counts, sketch.missing, sketch.other)


def _count(value: Any, place: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_ROWS:
        raise ValueError(f"`{place}` must be a count")
    return value


def _time(value: Any, place: str) -> float:
    if type(value) not in {int, float} or not 0 < value < SECONDS or math.isnan(value):
        raise ValueError(f"`{place}` must be unix seconds; divide milliseconds by 1000")
    return float(value)
