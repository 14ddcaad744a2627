"""What a model version is used to: for each feature its bins, their shares, and its order of magnitude.

Bins of a numeric feature are between quantiles of the reference, so that each holds about the same share; of a
category they are its most frequent values. All features share one layout, so that a batch is counted in one go:

    column   0      1 .. BINS    BINS + 1   BINS + 2   BINS + 3
    holds    below  the bins     above      missing    wrong type, or a value never seen
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import vectors
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray

BINS: Final = 30
BELOW: Final = 0
ABOVE: Final = BINS + 1
MISSING: Final = BINS + 2
WRONG: Final = BINS + 3
COLUMNS: Final = BINS + 4

PSI_GROUPS: Final = 10
"""Deciles: with more groups, sampling alone gives a large index."""
_LEARNT_QUANTILES: Final = np.linspace(0.0, 1.0, 21)
_ROWS_UNSAID: Final = 1000
"""Rows that a reference counts as when it does not say."""
_MOST_FEATURES: Final = 1000
_STEPS: Final = (np.arange(16) + 0.5) / 16


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The reference of d features.

    names     (d,)
    own       (d,) False = known from another version, only logged with this one
    numeric   (d,) False = a category
    rows      (d,) rows behind it
    bins      (d,) bins in use
    edges     (d, BINS + 1) left edges and, one float above it, the maximum; infinite where unused
    shares    (d, COLUMNS) of all rows, sum 1
    quartiles (d, 3) of log10 |x|, zeros apart; NaN where there is none
    negative  (d,) share of values below zero
    values    per feature: value -> column; None for numbers
    """

    names: tuple[str, ...]
    own: BoolArray
    numeric: BoolArray
    rows: FloatArray
    bins: IntArray
    edges: FloatArray
    shares: FloatArray
    quartiles: FloatArray
    negative: FloatArray
    values: tuple[dict[str, int] | None, ...]

    @property
    def groups(self) -> IntArray:
        """(d, COLUMNS) the group of each column in the stability index: deciles, missing, wrong."""
        inner = self.shares[:, : ABOVE + 1]
        before = np.cumsum(inner, axis=1) - inner
        total = np.maximum(inner.sum(axis=1, keepdims=True), 1e-12)
        out = np.empty(self.shares.shape, dtype=np.int64)
        middle = np.clip((before + inner / 2) / total, 0.0, 1.0 - 1e-9)
        out[:, : ABOVE + 1] = (middle * PSI_GROUPS).astype(np.int64)
        out[:, BELOW] = out[:, BELOW + 1]
        last = np.maximum(self.bins, 1)
        out[:, ABOVE] = np.take_along_axis(out, last[:, None], axis=1)[:, 0]
        out[:, MISSING] = PSI_GROUPS
        out[:, WRONG] = PSI_GROUPS + 1
        return out


@dataclass(frozen=True, slots=True, eq=False)
class _Feature:
    """One feature while the reference is put together."""

    name: str
    own: bool
    rows: float
    edges: FloatArray | None
    shares: FloatArray
    missing: float
    unseen: float
    values: dict[str, int] | None


def read(found: Mapping[str, Any] | None, others: Sequence[Mapping[str, Any]] = ()) -> Reference:
    """Read a reference.json, and from those of `others` the features that it does not have.

    Raises Refused when `found` is malformed; malformed features of others are left out.
    """
    features: dict[str, _Feature] = {}
    if found is not None:
        rows = _rows(found)
        described = found.get("features", {})
        if not isinstance(described, Mapping) or len(described) > _MOST_FEATURES:
            raise Refused(
                f"reference: 'features' is no map of at most {_MOST_FEATURES} names; write it again"
            )
        for name, one in described.items():
            features[str(name)] = _read_feature(str(name), one, rows, own=True)
    for other in others:
        described = other.get("features", {})
        if not isinstance(described, Mapping):
            continue
        for name, one in described.items():
            if str(name) in features or len(features) >= _MOST_FEATURES:
                continue
            try:
                features[str(name)] = _read_feature(str(name), one, _rows(other), own=False)
            except Refused:
                continue  # the version that owns it says so; here it is only not watched
    return _join([features[name] for name in sorted(features)])


def learn(columns: Mapping[str, Sequence[Any] | FloatArray]) -> Reference:
    """Make a reference of rows: columns as in `PredictionBatch`, all of one length."""
    return _join([_learn_feature(name, columns[name]) for name in sorted(columns)[:_MOST_FEATURES]])


def _rows(found: Mapping[str, Any]) -> float:
    rows = found.get("rows", _ROWS_UNSAID)
    if isinstance(rows, bool) or not isinstance(rows, int | float) or not rows >= 1:
        raise Refused("reference: 'rows' is no count; write it again")
    return float(min(rows, 1e12))


def _read_feature(name: str, one: Any, rows: float, *, own: bool) -> _Feature:
    try:
        return _parse_feature(name, one, rows, own=own)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as fault:
        raise Refused(
            f"reference: feature {name!r} is not understood ({fault}); write it again"
        ) from None


def _parse_feature(name: str, one: Any, rows: float, *, own: bool) -> _Feature:
    missing = float(one.get("missing", 0.0))
    if not 0 <= missing <= 1:
        raise ValueError("'missing' is no share")
    if "values" in one:
        return _read_category(name, one["values"], rows, missing, own=own)
    edges = np.asarray(one["edges"], dtype=np.float64)
    shares = np.asarray(one["shares"], dtype=np.float64)
    if edges.ndim != 1 or shares.shape != (len(edges) - 1,) or not len(shares):
        raise ValueError("there must be one share between each two edges")
    if not (np.isfinite(edges).all() and np.isfinite(shares).all()):
        raise ValueError("edges and shares must be finite")
    if (np.diff(edges) < 0).any() or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError("edges must rise and shares be positive")
    low, high = float(one.get("min", edges[0])), float(one.get("max", edges[-1]))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("'min' and 'max' must be finite")
    edges, shares = _merge(edges, shares)
    edges[0] = min(edges[0], low)
    edges[-1] = max(edges[-1], np.nextafter(high, np.inf))
    return _Feature(name, own, rows, _widened(name, edges), shares, missing, 0.0, None)


def _widened(name: str, edges: FloatArray) -> FloatArray:
    """Return edges that hold all that a column can be by its nature: a vector elsewhere breaks no contract."""
    low, high = vectors.limits(name)
    edges[0] = min(edges[0], low)
    edges[-1] = max(edges[-1], np.nextafter(high, np.inf))
    return edges


def _read_category(
    name: str, values: Mapping[str, Any], rows: float, missing: float, *, own: bool
) -> _Feature:
    counted = {str(value): float(share) for value, share in values.items()}
    if not counted or not all(share >= 0 and math.isfinite(share) for share in counted.values()):
        raise ValueError("'values' must map values to shares")
    unsaid = max(0.0, 1.0 - missing - sum(counted.values()))
    return _category(name, counted, rows, missing, unsaid, own=own)


def _category(
    name: str,
    counted: Mapping[str, float],
    rows: float,
    missing: float,
    unseen: float,
    *,
    own: bool,
) -> _Feature:
    """Lay the most frequent values out; the rare rest shares the last bin."""
    top = sorted(counted, key=lambda value: (-counted[value], value))
    values = {value: 1 + min(i, BINS - 1) for i, value in enumerate(top[:_MOST_FEATURES])}
    shares = np.zeros(min(len(top), BINS))
    for value, column in values.items():
        shares[column - 1] += counted[value]
    return _Feature(name, own, rows, None, shares, missing, unseen, values)


def _merge(edges: FloatArray, shares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Join bins of no width with their neighbour on the right, as `np.histogram` counts, and what is over BINS.

    The last edge is moved up by one float, so that the maximum itself is inside.
    """
    left = np.unique(edges)
    merged = np.zeros(max(1, len(left) - 1))
    at = np.minimum(np.searchsorted(left, edges[:-1]), len(merged) - 1)
    np.add.at(merged, at, shares)
    if len(merged) > BINS:
        keep = np.unique(np.linspace(0, len(merged), BINS + 1).round().astype(int))
        merged = np.add.reduceat(merged, keep[:-1])
        left = left[keep]
    out = np.empty(len(merged) + 1)
    out[: len(left)] = left
    out[-1] = np.nextafter(left[-1], np.inf)
    return out, merged


def numbers(column: Sequence[Any] | FloatArray) -> tuple[FloatArray, BoolArray]:
    """Return a column as numbers (NaN = missing), and where it holds what is no number."""
    array = np.asarray(column)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64, copy=False), np.zeros(len(array), dtype=np.bool_)
    x = np.full(len(array), np.nan)
    wrong = np.zeros(len(array), dtype=np.bool_)
    for i, value in enumerate(array.tolist()):
        if value is None:
            continue
        try:
            x[i] = float(value)
        except (TypeError, ValueError):
            wrong[i] = True
    return x, wrong


def _edges_of(known: FloatArray) -> FloatArray:
    """Return the edges of at most BINS bins at quantiles; the last edge lies one float above.

    A greatest value that comes often, or that is one of few, has a bin of its own, as others that come often do: else
    a column of 0 and 1 would have one bin.
    """
    edges = np.unique(np.quantile(known, _LEARNT_QUANTILES))
    often = 1.0 / BINS if len(np.unique(known)) > BINS else 1e-3
    if len(edges) > 1 and np.mean(known == edges[-1]) < often:
        edges = edges[:-1]
    return np.append(edges, np.nextafter(known.max(), np.inf))


def _learn_feature(name: str, column: Sequence[Any] | FloatArray) -> _Feature:
    array = np.asarray(column)
    n = max(1, len(array))
    x, wrong = numbers(array)
    known = x[np.isfinite(x)]
    if not wrong.any() or np.count_nonzero(wrong) <= 0.1 * len(known):
        missing = 1.0 - len(known) / n
        edges = _edges_of(known if len(known) else np.zeros(1))
        counts, _ = np.histogram(known if len(known) else np.zeros(1), edges)
        shares = counts.astype(np.float64)
        return _Feature(name, True, float(n), _widened(name, edges), shares, missing, 0.0, None)
    counted = Counter(str(value) for value in array.tolist() if value is not None)
    missing = 1.0 - counted.total() / n
    # how often a value comes that was never seen: as often as one was seen just once (Good and Turing, 1953)
    unseen = sum(1 for times in counted.values() if times == 1) / n
    return _category(name, counted or {"": 1.0}, float(n), missing, unseen, own=True)


def _join(features: Sequence[_Feature]) -> Reference:
    d = len(features)
    edges = np.full((d, BINS + 1), np.inf)
    shares = np.zeros((d, COLUMNS))
    quartiles = np.full((d, 3), np.nan)
    negative = np.zeros(d)
    bins = np.zeros(d, dtype=np.int64)
    for i, one in enumerate(features):
        k = len(one.shares)
        bins[i] = k
        total = one.shares.sum()
        seen = max(0.0, 1.0 - one.missing - one.unseen)
        shares[i, 1 : k + 1] = one.shares / max(total, 1e-300) * seen
        shares[i, MISSING] = one.missing
        shares[i, WRONG] = 1.0 - one.missing - seen
        if one.edges is not None:
            edges[i, : k + 1] = one.edges
            quartiles[i], negative[i] = _magnitude(one.edges, shares[i, 1 : k + 1])
    return Reference(
        names=tuple(one.name for one in features),
        own=np.array([one.own for one in features], dtype=np.bool_),
        numeric=np.array([one.edges is not None for one in features], dtype=np.bool_),
        rows=np.array([one.rows for one in features], dtype=np.float64),
        bins=bins,
        edges=edges,
        shares=shares,
        quartiles=quartiles,
        negative=negative,
        values=tuple(one.values for one in features),
    )


def _magnitude(edges: FloatArray, shares: FloatArray) -> tuple[FloatArray, float]:
    """Return the quartiles of log10 |x| and the share below zero, taking each bin as even."""
    x = (edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * _STEPS).ravel()
    weight = np.repeat(shares / len(_STEPS), len(_STEPS))
    total = weight.sum()
    if not total > 0:
        return np.full(3, np.nan), 0.0
    negative = float(weight[x < 0].sum() / total)
    # a bin that is hardly wider than its place is one value; zero has no magnitude
    some = np.abs(x) > 1e-300
    if weight[some].sum() < 0.5 * total:
        return np.full(3, np.nan), negative
    logs, weight = np.log10(np.abs(x[some])), weight[some]
    order = np.argsort(logs)
    reached = np.cumsum(weight[order]) / weight.sum()
    quartiles: FloatArray = logs[order][
        np.minimum(np.searchsorted(reached, (0.25, 0.5, 0.75)), len(order) - 1)
    ]
    return quartiles, negative


# ---- restarts


def arrays(reference: Reference) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a reference for a checkpoint; names and values go with `words`."""
    return {
        f"reference_{name}": getattr(reference, name)
        for name in ("own", "numeric", "rows", "bins", "edges", "shares", "quartiles", "negative")
    }


def words(reference: Reference) -> dict[str, Any]:
    """Return what of a reference is no number."""
    return {"names": list(reference.names), "values": list(reference.values)}


def restore(said: Any, kept: Mapping[str, npt.NDArray[Any]]) -> Reference:
    """Put together what `words` and `arrays` gave."""
    numbers = {
        name: kept[f"reference_{name}"]
        for name in ("own", "numeric", "rows", "bins", "edges", "shares", "quartiles", "negative")
    }
    return Reference(
        names=tuple(map(str, said["names"])),
        values=tuple(None if v is None else {str(k): int(c) for k, c in v.items()} for v in said["values"]),
        **numbers,
    )  # fmt: skip
