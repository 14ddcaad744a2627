"""What stands in the cells of `Features`: for those who bring counts instead of rows, and who ask what rows are worth.

Edges and values are those of the reference. Who asks gets the cells that are in use, in their order: below, the bins,
above, missing, wrong.
"""
# ruff: noqa: SLF001  # `Features` is of this package; here is all that others in it need of its inside

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.model import FloatArray, IntArray
from agent.ports import Sketch, Spread
from detectors.drift.features import _FAST_ROWS, Features
from detectors.drift.reference import ABOVE, BELOW, COLUMNS, MISSING, WRONG


def width(features: Features) -> int:
    """Return how many cells a feature has here: as many bins as any of them uses, and those beside."""
    return int(features._ref.bins.max(initial=0)) + 4


def columns(features: Features, rows: int, values: Mapping[str, Any]) -> IntArray:
    """Return the cell of each value (d, rows) of columns by name."""
    place = np.zeros(COLUMNS, dtype=np.int64)
    place[_used(features)] = np.arange(width(features))
    return place[features._place(rows, values)[0]]


def ordered(features: Features) -> IntArray:
    """Return below which cell those of each feature stand in order (d,); 0 = none, they are categories."""
    return np.where(features._ref.numeric, width(features) - 2, 0).astype(np.int64)


def usual(features: Features) -> FloatArray:
    """Return how many rows of the reference each cell has (d, width)."""
    out: FloatArray = features._ref.shares[:, _used(features)] * features._ref.rows[:, None]
    return out


def now(features: Features) -> FloatArray:
    """Return how many of the rows of late each cell has (d, width), old ones faded."""
    return features._slow[:, _used(features)].astype(np.float64)


def _used(features: Features) -> IntArray:
    bins = width(features) - 4
    return np.array([*range(bins + 1), ABOVE, MISSING, WRONG], dtype=np.int64)


@registry.drift("cells")
class Cells:
    """Counts made elsewhere, over the edges of the reference, become counts of the features of a version.

    Good for: an edge process that may not send rows. Not for: joint change of two columns (counts of each alone do not
    tell it: it counts as ever), units and values that stand still (these show as rows out of range, or in one bin).
    The rows of one sketch are one look at the evidence, at the time of its last row.
    """

    def __init__(self, features: Features) -> None:
        if not isinstance(features, Features):
            raise Refused("only the features that are shipped count sketches; send the rows")
        self._features = features

    def wanted(self) -> dict[str, dict[str, Any]]:
        """Return for each feature its `edges`, or the `values` that are told apart; {} = there is no reference yet."""
        ref = self._features._ref
        out: dict[str, dict[str, Any]] = {}
        for i, name in enumerate(ref.names):
            values = ref.values[i]
            if values is None:
                out[name] = {"edges": ref.edges[i, : int(ref.bins[i]) + 1].tolist()}
            else:
                out[name] = {"values": sorted(values, key=lambda v: (values[v], v))}
        return out

    def spreads(self) -> dict[str, Spread]:
        """Return how the values of each feature lie, beside those of the reference; {} = there is none yet."""
        f, ref = self._features, self._features._ref
        out: dict[str, Spread] = {}
        for i, name in enumerate(ref.names):
            values, bins = ref.values[i], int(ref.bins[i])
            cells = [*range(bins + 1), ABOVE]
            edges: list[float] = ref.edges[i, : bins + 1].tolist()
            words: tuple[str, ...] = ()
            if values is not None:
                found = sorted((cell, word) for word, cell in values.items())
                words = tuple(word for _, word in found)
                cells, edges = [cell for cell, _ in found], []
            usual = ref.shares[i, cells] * ref.rows[i]
            now = f._slow[i].astype(np.float64)
            out[name] = Spread(
                tuple(edges), words, usual, now[cells], float(now[MISSING]), float(now[WRONG])
            )
        return out

    def counts(self, rows: int, sketches: Mapping[str, Sketch]) -> FloatArray:
        """Return the counts (d, COLUMNS) of a sketch of so many rows; raises Refused where edges do not fit.

        What the reference has and the sketch has not is missing, as it is in rows; other columns are passed over.
        """
        ref = self._features._ref
        out = np.zeros((len(ref.names), COLUMNS))
        for i, name in enumerate(ref.names):
            one = sketches.get(name)
            if one is None:
                out[i, MISSING] = rows if ref.own[i] else 0
                continue
            values = ref.values[i]
            if values is None:
                self._number(out[i], one, name, ref.edges[i, : int(ref.bins[i]) + 1])
            else:
                if not one.values and one.counts.any():
                    raise Refused(f"sketch: `features.{name}` is a category: send `values`")
                for value, count in zip(one.values, one.counts.tolist(), strict=True):
                    out[i, values.get(value, WRONG)] += count
            out[i, WRONG] += one.other
            out[i, MISSING] += max(0.0, rows - out[i].sum())
        return out

    @staticmethod
    def _number(out: FloatArray, one: Sketch, name: str, edges: FloatArray) -> None:
        """Add the counts of a number: edges may be finer than ours, each of ours must be among them."""
        if one.values:
            raise Refused(f"sketch: `features.{name}` is a number: send `edges` and `counts`")
        if not np.isin(edges, one.edges).all():
            raise Refused(
                f"sketch: `features.{name}` has not the {len(edges)} edges of the reference"
            )
        at = np.searchsorted(edges, one.edges, side="right")
        at[at >= len(edges)] = ABOVE
        out[BELOW] += one.counts[0]
        np.add.at(out, at, one.counts[1:].astype(np.float64))

    def take(self, ts: float, rows: int, counts: FloatArray) -> None:
        """Count what `counts` gave; the newest of the rows is at `ts`."""
        f = self._features
        if f._fast[1].sum(axis=1).max(initial=0.0) >= _FAST_ROWS:
            f._fast[0], f._magnitudes[0] = f._fast[1], f._magnitudes[1]
            f._fast[1], f._magnitudes[1] = 0.0, 0
        f._fast[1] += counts
        past = max(0.0, ts - f._last)
        age = 2.0 ** (-past / f.config.half_life) if math.isfinite(past) else 0.0
        f._slow *= age
        f._slow += counts
        f._squares *= age * age
        f._squares += counts.sum(axis=1)
        f._last = max(f._last, ts)
        if f._broken.any():
            f._spent[f._broken, f._kind[f._broken]] += rows
        # no products of two columns: they count as ever, which is 0
        shifts = f._shifts
        shifts._window += counts
        shifts._window_rows += rows
        if shifts._window_rows >= _FAST_ROWS:
            shifts._close(f._last)
