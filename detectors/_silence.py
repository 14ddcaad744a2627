"""A series that usually answers and now has had no value for long: how rare is a gap so long, for this series.

Good for series that answer in most rows and for such that answer every so many; both are learnt from their own gaps.
Not for a source that is silent as a whole: a row in which nobody has a value counts for nothing, it is for the
collector to say so. A gap is counted in rows in which others had a value, so a poll that failed is no gap either.

ok (n,) who has a value in this row; p (n,) NaN where a series has a value, was never learnt, or where so long a gap
is no rarer than one in fifty: what is missing is unknown, and only a rare silence is a thing to see. Else p is the
share of gaps that were as long, by the rule of succession; beyond the longest known it falls with the length (Pareto
of index 1, the vaguest there is), never below 1 / (30 values learnt). Gaps that end without trust are not learnt.
Cost: a few vector operations, and only in rows where something is missing or comes back; 110 bytes a series.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.model import BoolArray, FloatArray
from detectors._tail import ABOVE

_LENGTHS: Final = 12
"""Gaps are counted by powers of two: 1, 2-3, 4-7, ... , 2,048 rows and more."""
_PATIENCE_ROWS: Final = 3.0
"""Fewer rows without a value say nothing: a counter that began anew, a reading that came late."""


class Silence:
    """Gaps of n series.

    missing   (n,) rows since the last value; longest (n,) of the known gaps
    gaps      (12, n) how many gaps of each length are known
    """

    def __init__(self, n: int) -> None:
        self.missing: FloatArray = np.zeros(n)
        self.longest: FloatArray = np.zeros(n)
        self.gaps: FloatArray = np.zeros((_LENGTHS, n))

    def arrays(self) -> dict[str, FloatArray]:
        """Return the state by name; the last axis is the series."""
        return {name: getattr(self, name) for name in ("missing", "longest", "gaps")}

    def p(self, ok: BoolArray, rows: FloatArray, heard: BoolArray) -> FloatArray | None:
        """Return p (n,), see the top of the file; None = nothing to say. rows (n,) values learnt of those `heard`."""
        if ok.all() or not ok.any():
            return None
        long = heard & ~ok & (self.missing + 1.0 >= _PATIENCE_ROWS)
        at = np.flatnonzero(long)
        if not len(at):
            return None
        run, known = self.missing[at] + 1.0, rows[at]
        as_long = np.where(np.arange(_LENGTHS)[:, None] >= _length(run), self.gaps[:, at], 0.0)
        share = (as_long.sum(axis=0) + 1.0) / (known + 2.0)
        share *= np.minimum(np.maximum(self.longest[at], _PATIENCE_ROWS) / run, 1.0)
        p = np.full(len(ok), np.nan)
        p[at] = np.where(share < ABOVE, np.maximum(share, 1.0 / (30.0 * known)), np.nan)
        return p

    def learn(self, ok: BoolArray, teach: BoolArray) -> None:
        """Count the row; gaps that end in it are learnt where `teach`."""
        if not ok.any():
            return
        if self.missing.any():
            at = np.flatnonzero(teach & (self.missing > 0))
            ended = self.missing[at]
            self.gaps[_length(ended), at] += 1.0
            self.longest[at] = np.maximum(self.longest[at], ended)
        elif ok.all():
            return
        self.missing = np.where(ok, 0.0, self.missing + 1.0)

    def times(self, i: int) -> float:
        """Say how many times its longest known gap series i has been silent, this row included."""
        return float((self.missing[i] + 1.0) / max(self.longest[i], 1.0))


def _length(rows: FloatArray) -> npt.NDArray[np.intp]:
    """Return which count a gap of so many rows belongs to."""
    return np.minimum(np.log2(rows), _LENGTHS - 1).astype(np.intp)
