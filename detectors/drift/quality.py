"""How good predictions were, once their labels are known: sums of constant size, for all rows and for each slice.

    (label, prediction, probability, slices of the row) -> sums (1 + slices, ...) -> figures with bounds -> gaps

Good for: labels that come late and in any order (give those of one period to one object and add objects up, `a + b`);
many slices and protected groups at once. Not for: telling when quality changed (see `errors`), nor quality before
labels are there. Slot 0 is all rows, slots 1.. are the slices; a row may lie in several slices, or in none.

Every bound holds at every look (see `_bounds`): shares, and what is made of shares (precision, recall, F1, quantiles),
exactly; AUC, log loss, Brier, MAE, RMSE, R2 and bias asymptotically. Fewer than `least` rows are unknown (NaN), never
0. Bounds are of the stretch of time behind the sums, as it was on average, and each slot's hold by themselves. Not for
rows that hang together (many of one user): they count as if they did not.
Cost in batches of 1,000, 5 slices a row: 0.5 microseconds a row for two classes, 0.8 for 16, 0.6 for numbers; 40 slices
take 95, 220 and 135 kB. Figures are made when asked for: some 40 ms.
Sources: DeLong, DeLong, Clarke-Pearson 1988 (variance of AUC); Howard, Ramdas, Sequential estimation of quantiles with
applications to A/B testing and best-arm identification, 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from agent import checkpoint, registry
from agent.errors import Refused
from agent.model import FloatArray, IntArray
from detectors.drift._bounds import (
    above,
    below,
    difference_low,
    looks,
    mean_error,
    share_bounds,
    size_bounds,
)

MOST_CLASSES: Final = 16
LEAST_ROWS: Final = 30
_VERSION: Final = 1
_BINS: Final = 128
"""Of a score, equally wide in arcsin(sqrt(p)): a share is equally uncertain there, so rare classes get fine bins."""
_GROUPS: Final = 16
"""Of the reliability curve, each of eight bins."""
_SMALLEST: Final = 1e-7
"""A probability counts as this at the least: one row costs 16.1 of log loss at the most."""
_SCORED, _GAP, _GAP2, _LOGGED, _LOG, _LOG2, _FULL, _BRIER, _BRIER2 = range(9)

_DECADES: Final = (-9, 11)
_PER_DECADE: Final = 20
_ERRORS: Final = _PER_DECADE * (_DECADES[1] - _DECADES[0])
_QUANTILES: Final = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One figure of each slot (1 + slices,), with bounds that hold at every look; NaN = unknown.

    rows   behind it: labelled rows, or those that it is a share of (precision: predicted positive; AUC: the rarer)
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    rows: FloatArray


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest difference between groups, highest less lowest; NaN = fewer than two groups are known.

    low, high   hold for the largest true difference among the groups that are known, however many there are
    rows        of the smaller of the two groups
    unknown     groups with too few rows: nothing is said of them
    """

    value: float
    low: float
    high: float
    rows: float
    highest: int
    lowest: int
    unknown: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """The reliability curve of one slot: (groups,) mean score, share that came true, its bounds, rows."""

    score: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray
    rows: FloatArray


def members(slices: Any, rows: int, most: int) -> tuple[IntArray, IntArray]:
    """Return (row, slot) of everything a row counts for: slot 0, and the slices (n,) or (n, m) it lies in.

    Slices are numbered from 1 and differ within a row; 0 = none. Raises ValueError on a slice that does not exist.
    """
    row, slot = np.arange(rows), np.zeros(rows, dtype=np.int64)
    if slices is None:
        return row, slot
    at = np.asarray(slices, dtype=np.int64)
    at = at[:, None] if at.ndim == 1 else at
    inside = at > 0
    if at.size and at.max() > most:
        raise ValueError(f"slice {at.max()} of {most}")
    return np.concatenate((row, np.nonzero(inside)[0])), np.concatenate((slot, at[inside]))


class _Sums:
    """Arrays (1 + slices, ...) that are added up, kept and read back."""

    kind: str
    _of_all: tuple[str, ...] = ()
    """Arrays that have no axis of slices."""

    def __init__(self, shape: Mapping[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        self._shape = dict(shape)
        self.arrays = arrays

    @property
    def slices(self) -> int:
        """How many slices there are beside all rows."""
        return int(self._shape["slices"])

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return sum(a.nbytes for a in self.arrays.values())

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, type(self)) or other._shape != self._shape:
            return NotImplemented
        out = copy(self)
        out.arrays = self._added(other.arrays)
        return out

    def _added(self, others: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        return {name: array + others[name] for name, array in self.arrays.items()}

    def whole(self) -> Self:
        """Return the same of all rows alone: figures of that cost a tenth."""
        out = copy(self)
        out.arrays = {k: a if k in self._of_all else a[:1] for k, a in self.arrays.items()}
        return out

    def dump(self) -> bytes:
        """Return the state: counts and sums, never rows."""
        return checkpoint.write(self.kind, _VERSION, self._shape, self.arrays)

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged, of another version or of another shape."""
        shape, arrays = checkpoint.read(self.kind, _VERSION, state)
        fits = {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
            n: (a.shape, a.dtype) for n, a in self.arrays.items()
        }
        if shape != self._shape or not fits:
            raise Refused(f"state of {self.kind} is of another shape: it is learnt anew")
        self.arrays = arrays

    def _count(self, name: str, cells: IntArray) -> None:
        """Add 1 at cells of the flattened array."""
        array = self.arrays[name]
        array += np.bincount(cells, minlength=array.size).reshape(array.shape)

    def _total(self, name: str, cells: IntArray, amounts: FloatArray) -> None:
        """Add amounts (n, columns) at cells of an array (cells, columns)."""
        array = self.arrays[name]
        for j in range(array.shape[1]):
            array[:, j] += np.bincount(cells, amounts[:, j], len(array))


@registry.drift("class_quality")
class ClassQuality(_Sums):
    """Quality of a classifier.

    classes    how many are told apart, 16 at most; numbers beyond are one more, "other", right or wrong all the same
    slices     how many slices there are
    positive   the class of precision, recall, F1 and of gaps; None = there is none (more than two classes)

    With two classes the score is the probability of the positive one, with more the confidence in what was said;
    log loss, Brier and AUC of more than two classes need the whole row of probabilities, and that AUC (each class
    against the rest, the mean of it) is known for all rows only.
    """

    kind = "class_quality"
    _of_all = ("each",)

    def __init__(self, classes: int = 2, slices: int = 0, positive: int | None = 1) -> None:
        if not 2 <= classes <= MOST_CLASSES:
            raise ValueError(f"{classes} classes: 2 to {MOST_CLASSES} can be told apart")
        if positive is None and classes == 2:
            raise ValueError("one of two classes is the positive one")
        if positive is not None and not 0 <= positive < classes:
            raise ValueError(f"class {positive} of {classes}")
        n, k = 1 + slices, classes
        arrays: dict[str, npt.NDArray[Any]] = {
            "confusion": np.zeros((n, k + 1, k + 1), dtype=np.int64),  # label, prediction
            "right": np.zeros(n, dtype=np.int64),
            "scores": np.zeros((n, 2, _BINS), dtype=np.int64),  # came true or not
            "score_sums": np.zeros((n, _GROUPS)),
            "sums": np.zeros((n, 9)),
        }
        if k > 2:
            arrays["each"] = np.zeros((k, 2, _BINS), dtype=np.int64)
        super().__init__({"classes": k, "slices": slices, "positive": positive}, arrays)
        self._k, self._positive = k, positive

    # ---------------------------------------------------------------- rows

    def take(self, labels: Any, preds: Any, proba: Any = None, slices: Any = None) -> None:
        """Count labelled rows.

        labels, preds   (n,) class numbers; a row with a negative one is left out
        proba           (n,) probability of what was said, or (n, classes) of each class; NaN = not logged
        slices          (n,) or (n, m), see `members`
        """
        labels, preds = (np.asarray(v, dtype=np.int64) for v in (labels, preds))
        k = self._k
        right = labels == preds
        true, said = np.minimum(labels, k), np.minimum(preds, k)
        row, slot = members(slices, len(labels), self.slices)
        known = (labels >= 0) & (preds >= 0)
        if not known.all():
            row, slot = row[known[row]], slot[known[row]]
        self._count("confusion", (slot * (k + 1) + true[row]) * (k + 1) + said[row])
        self._count("right", slot[right[row]])
        if proba is None:
            return
        p = np.asarray(proba, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            p = np.where((p >= 0) & (p <= 1), p, np.nan)
        score, came = self._scores(p, true, said, right)
        sums = self._losses(p, score, came, true)
        self._total("sums", slot, sums[row])
        scored = (sums[:, _SCORED] > 0)[row]
        row, slot = row[scored], slot[scored]
        bins = _bins(score[row])
        self._count("scores", (slot * 2 + came[row]) * _BINS + bins)
        group = slot * _GROUPS + bins // (_BINS // _GROUPS)
        totals = self.arrays["score_sums"]
        totals += np.bincount(group, score[row], totals.size).reshape(totals.shape)
        if k > 2 and p.ndim == 2:
            whole = np.flatnonzero(known & np.isfinite(p).all(axis=1))
            was = true[whole, None] == np.arange(k)
            self._count("each", ((np.arange(k) * 2 + was) * _BINS + _bins(p[whole])).ravel())

    def _scores(
        self, p: FloatArray, true: IntArray, said: IntArray, right: Any
    ) -> tuple[FloatArray, IntArray]:
        """Return what is held against what came true (n,), both."""
        if p.ndim == 2 and p.shape[1] != self._k:
            raise ValueError(f"probabilities of {p.shape[1]} classes, not of {self._k}")
        if self._k == 2:
            came = (true == self._positive).astype(np.int64)
            score = (
                p[:, self._positive] if p.ndim == 2 else np.where(said == self._positive, p, 1 - p)
            )
            return np.where((true < 2) & (said < 2), score, np.nan), came
        if p.ndim == 2:
            at = np.minimum(said, self._k - 1)[:, None]
            p = np.where(said < self._k, np.take_along_axis(p, at, axis=1)[:, 0], np.nan)
        return p, right.astype(np.int64)

    def _losses(
        self, p: FloatArray, score: FloatArray, came: IntArray, true: IntArray
    ) -> FloatArray:
        """Return what each row adds to the sums (n, 9); zeros where it has no probability."""
        out = np.zeros((len(score), 9))
        gap = score - came
        if self._k == 2:
            of_truth, brier = np.where(came == 1, score, 1 - score), gap**2
        elif p.ndim == 2:
            one = true[:, None] == np.arange(self._k)
            of_truth = np.where(
                true < self._k, p[np.arange(len(p)), np.minimum(true, self._k - 1)], np.nan
            )
            brier = np.where(true < self._k, ((p - one) ** 2).sum(axis=1) / 2, np.nan)
        else:
            of_truth = brier = np.full(len(score), np.nan)
        log = -np.log(np.maximum(of_truth, _SMALLEST))
        for at, x in ((_SCORED, gap), (_LOGGED, log), (_FULL, brier)):
            some = np.isfinite(x)
            out[some, at], out[some, at + 1], out[some, at + 2] = 1.0, x[some], x[some] ** 2
        return out

    # ---------------------------------------------------------------- figures

    def figures(self, level: float = 0.95, least: int = LEAST_ROWS) -> dict[str, Figure]:
        """Return what is known, by name: see docs/quality.md. Of each slot by itself, with confidence `level`."""
        alpha = 1.0 - level
        seen = self.arrays["confusion"].astype(np.float64)
        rows = seen.sum(axis=(1, 2))
        hits, of = self._shares()
        parts: dict[str, _Part] = {"accuracy": (self.arrays["right"], rows, alpha)}
        parts |= {name: (hits[name], of[name], alpha) for name in hits}
        diagonal = self._diagonal()
        true, said = seen.sum(axis=2), seen.sum(axis=1)
        # of all classes at once: so the bounds hold for their mean
        each = alpha / seen.shape[1]
        parts |= {
            "macro_precision": (diagonal, said, each), "macro_recall": (diagonal, true, each),
            "macro_f1": (diagonal, true + said - diagonal, each),
        }  # fmt: skip
        out = _shares(parts, least)
        out |= {name: _f1(out[name]) for name in ("f1", "macro_f1") if name in out}
        out |= {name: _averaged(out[name], axis=1) for name in out if name.startswith("macro_")}
        sums = self.arrays["sums"].T
        out["log_loss"] = _mean_size(sums[_LOGGED : _LOG2 + 1], alpha, least)
        out["brier"] = _mean_size(sums[_FULL : _BRIER2 + 1], alpha, least)
        out["overconfidence"] = _mean(sums[_SCORED : _GAP2 + 1], alpha, least)
        out |= self._calibration(alpha, least)
        out["roc_auc"] = self._auc(alpha, least)
        return out

    def _diagonal(self) -> FloatArray:
        """Return the right rows of each class (1 + slices, classes + 1); of "other", those with the very class."""
        out = np.diagonal(self.arrays["confusion"], axis1=1, axis2=2).astype(np.float64)
        out[:, -1] = self.arrays["right"] - out[:, :-1].sum(axis=1)
        return out

    def _shares(self) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """Return hits and rows of what is a share, about the positive class."""
        c = self._positive
        if c is None:
            return {}, {}
        seen = self.arrays["confusion"].astype(np.float64)
        rows, hit = seen.sum(axis=(1, 2)), seen[:, c, c]
        true, said = seen[:, c].sum(axis=1), seen[:, :, c].sum(axis=1)
        hits = {"precision": hit, "recall": hit, "f1": hit}
        hits |= {"false_positive_ratio": said - hit, "positive_prediction_ratio": said}
        of = {"precision": said, "recall": true, "f1": true + said - hit}
        of |= {"false_positive_ratio": rows - true, "positive_prediction_ratio": rows}
        return hits | {"positive_label_ratio": true}, of | {"positive_label_ratio": rows}

    def _calibration(self, alpha: float, least: int) -> dict[str, Figure]:
        curves = self._curves(alpha / _GROUPS)
        n = curves.rows.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = curves.rows / n[:, None]
            far = np.maximum(np.abs(curves.low - curves.score), np.abs(curves.high - curves.score))
            near = np.maximum(curves.low - curves.score, curves.score - curves.high)
            chance = np.sqrt(2 / np.pi * curves.score * (1 - curves.score) / curves.rows)
        parts = (np.abs(curves.share - curves.score), np.maximum(near, 0.0), far, chance)
        value, low, high, lucky = (np.nansum(weight * part, axis=1) for part in parts)
        unknown = np.full(len(n), np.nan)
        return {
            "calibration_error": _known(value, low, high, n, least),
            "calibration_error_by_chance": _known(lucky, unknown, unknown, n, least),
        }

    def _curves(self, alpha: float) -> Reliability:
        """Return the reliability curves of all slots (1 + slices, groups)."""
        by_group = self.arrays["scores"].reshape(-1, 2, _GROUPS, _BINS // _GROUPS).sum(axis=3)
        rows, came = by_group.sum(axis=1).astype(np.float64), by_group[:, 1].astype(np.float64)
        low, high = share_bounds(came, rows, alpha)
        with np.errstate(invalid="ignore"):
            return Reliability(self.arrays["score_sums"] / rows, came / rows, low, high, rows)

    def reliability(self, slot: int = 0, level: float = 0.95) -> Reliability:
        """Return the reliability curve of a slot; each group's bounds hold by themselves; empty groups are NaN."""
        c = self._curves(1.0 - level)
        return Reliability(c.score[slot], c.share[slot], c.low[slot], c.high[slot], c.rows[slot])

    def _auc(self, alpha: float, least: int) -> Figure:
        if self._k == 2:
            return _auc(self.arrays["scores"], alpha, least)
        whole = _averaged(_auc(self.arrays["each"], alpha / self._k, least), axis=0)
        known = np.arange(1 + self.slices) == 0
        value, low, high = (
            np.where(known, v, np.nan) for v in (whole.value, whole.low, whole.high)
        )
        return Figure(value, low, high, np.where(known, whole.rows, 0.0))

    # ---------------------------------------------------------------- groups

    def gaps(
        self, groups: Sequence[int], level: float = 0.95, least: int = LEAST_ROWS
    ) -> dict[str, Gap]:
        """Return the fairness gaps between groups, which are slices that share no row.

        demographic_parity   positive predictions; equal_opportunity: recall; false_positive; calibration: mean score
        less share that came true; accuracy
        """
        hits, of = self._shares()
        rows = self.arrays["confusion"].sum(axis=(1, 2))
        shares = {"accuracy": (self.arrays["right"].astype(np.float64), rows.astype(np.float64))}
        for name, share in (
            ("demographic_parity", "positive_prediction_ratio"),
            ("equal_opportunity", "recall"),
            ("false_positive", "false_positive_ratio"),
        ):
            if share in hits:
                shares[name] = hits[share], of[share]
        out = {n: _share_gap(*v, groups, 1.0 - level, least) for n, v in shares.items()}
        sums = self.arrays["sums"].T[_SCORED : _GAP2 + 1]
        out["calibration"] = _mean_gap(sums, groups, 1.0 - level, least)
        return out


@registry.drift("number_quality")
class NumberQuality(_Sums):
    """Quality of a regression; errors are prediction less label, in the unit of the label.

    Sums are kept about the first label of each slot, so that a large level costs no digits. Quantiles of the size of
    errors come from a histogram of 20 bins a decade, 1e-9 to 1e11: right within 6 %, smaller errors count as 1e-9.
    Not for errors with tails so heavy that their variance means nothing: look at the quantiles then.
    """

    kind = "number_quality"

    def __init__(self, slices: int = 0) -> None:
        n = 1 + slices
        arrays: dict[str, npt.NDArray[Any]] = {
            "centre": np.full(n, np.nan),
            # rows, |e|, e, e2, e4, then u, u2, u3, u4, e2 u, e2 u2 with u = label - centre
            "sums": np.zeros((n, 11)),
            "sizes": np.zeros((n, _ERRORS), dtype=np.int64),
        }
        super().__init__({"slices": slices}, arrays)

    def take(self, labels: Any, preds: Any, slices: Any = None) -> None:
        """Count labelled rows (n,); a row with a value that is not finite is left out."""
        labels, preds = (np.asarray(v, dtype=np.float64) for v in (labels, preds))
        row, slot = members(slices, len(labels), self.slices)
        known = np.isfinite(labels) & np.isfinite(preds)
        if not known.all():
            row, slot = row[known[row]], slot[known[row]]
        if not len(row):
            return
        centre = self.arrays["centre"]
        there, first = np.unique(slot, return_index=True)
        centre[there] = np.where(np.isnan(centre[there]), labels[row[first]], centre[there])
        e, u = (preds - labels)[row], labels[row] - centre[slot]
        e2, u2 = e * e, u * u
        size = np.abs(e)
        one = np.ones(len(e))
        self._total(
            "sums",
            slot,
            np.stack((one, size, e, e2, e2 * e2, u, u2, u2 * u, u2 * u2, e2 * u, e2 * u2), axis=1),
        )
        at = (np.log10(np.maximum(size, 1e-300)) - _DECADES[0]) * _PER_DECADE
        self._count("sizes", slot * _ERRORS + np.clip(at, 0, _ERRORS - 1).astype(np.int64))

    def _added(self, others: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        mine, its = self.arrays["centre"], others["centre"]
        moved = _recentre(others["sums"], np.nan_to_num(its - mine))  # no rows, nothing to move
        return {
            "centre": np.where(np.isnan(mine), its, mine),
            "sums": self.arrays["sums"] + moved,
            "sizes": self.arrays["sizes"] + others["sizes"],
        }

    def figures(self, level: float = 0.95, least: int = LEAST_ROWS) -> dict[str, Figure]:
        """Return what is known, by name: see docs/quality.md. Of each slot by itself, with confidence `level`."""
        alpha = 1.0 - level
        n, size, e, e2, e4 = self.arrays["sums"].T[:5]
        squared = _mean_size(np.stack((n, e2, e4)), alpha, least)
        out = {
            "mae": _mean_size(np.stack((n, size, e2)), alpha, least),
            "rmse": Figure(np.sqrt(squared.value), np.sqrt(squared.low), np.sqrt(squared.high), n),
            "bias": _mean(np.stack((n, e, e2)), alpha, least),
            "r2": self._r2(alpha, least),
        }
        for q in _QUANTILES:
            out[f"error_p{round(100 * q)}"] = self._quantile(q, alpha, least)
        return out

    def _r2(self, alpha: float, least: int) -> Figure:
        """Return 1 - mean squared error / variance, with the delta method's standard error."""
        n = self.arrays["sums"][:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.arrays["sums"][:, 5] / n
            centred = _recentre(self.arrays["sums"], -np.nan_to_num(mean)).T / n
            mse, mse2, variance, fourth, both = centred[[3, 4, 6, 8, 10]]
            ratio = mse / variance
            spread = mse2 - 2 * ratio * both + ratio**2 * fourth
            error = np.sqrt(np.maximum(spread, 0.0) / (n - 1)) / variance
        unexplained = np.where(variance > 0, ratio, np.nan)
        low, high = size_bounds(unexplained, error, n, alpha)
        return _known(1 - unexplained, 1 - high, 1 - low, n, least)

    def _quantile(self, q: float, alpha: float, least: int) -> Figure:
        """Return a quantile of |error|: the sizes that the counts do not refute as that quantile bound it."""
        counts = self.arrays["sizes"]
        reached = np.cumsum(counts, axis=1).astype(np.float64)
        n = reached[:, -1]
        need = math.log(2.0 / alpha)
        edges = 10.0 ** (_DECADES[0] + np.arange(_ERRORS + 1) / _PER_DECADE)
        # so few rows lie below an edge that the quantile is above it; so many, that it is below
        too_few = below(reached, n[:, None], q) >= need
        too_many = above(reached, n[:, None], q) >= need
        low = edges[too_few.sum(axis=1)]
        last = np.where(too_many.any(axis=1), too_many.argmax(axis=1) + 1, _ERRORS)
        high = np.where(too_many.any(axis=1), edges[last], np.inf)
        at = np.minimum((reached < np.maximum(q * n, 1)[:, None]).sum(axis=1), _ERRORS - 1)
        value = np.sqrt(edges[at] * edges[at + 1])
        return _known(value, np.where(low > edges[0], low, 0.0), high, n, least)

    def gaps(
        self, groups: Sequence[int], level: float = 0.95, least: int = LEAST_ROWS
    ) -> dict[str, Gap]:
        """Return the gaps of mean absolute error and of bias between groups, which are slices that share no row."""
        n, size, e, e2 = self.arrays["sums"].T[:4]
        return {
            "mae": _mean_gap(np.stack((n, size, e2)), groups, 1.0 - level, least),
            "bias": _mean_gap(np.stack((n, e, e2)), groups, 1.0 - level, least),
        }


def _recentre(sums: FloatArray, by: FloatArray) -> FloatArray:
    """Return sums of a `NumberQuality` as they are with u + by (slots,) for u."""
    out = sums.copy()
    n, e2 = sums[:, 0], sums[:, 3]
    u, u2, u3, u4, eu, eu2 = sums[:, 5:].T
    out[:, 5] = u + n * by
    out[:, 6] = u2 + 2 * by * u + n * by**2
    out[:, 7] = u3 + 3 * by * u2 + 3 * by**2 * u + n * by**3
    out[:, 8] = u4 + 4 * by * u3 + 6 * by**2 * u2 + 4 * by**3 * u + n * by**4
    out[:, 9] = eu + by * e2
    out[:, 10] = eu2 + 2 * by * eu + by**2 * e2
    return out


def _bins(score: FloatArray) -> IntArray:
    at = np.arcsin(np.sqrt(score)) * (2 * _BINS / np.pi)
    return np.minimum(at.astype(np.int64), _BINS - 1)


# ---------------------------------------------------------------- figures out of sums


def shares_of(hits: Any, rows: FloatArray, least: int, level: float = 0.95) -> Figure:
    """Return a share of each slot from what was hit among its rows."""
    return _share(hits, rows, 1.0 - level, least)


def sizes_of(sums: FloatArray, least: int, level: float = 0.95) -> Figure:
    """Return the mean of what is never negative, of each slot, from rows, sum and sum of squares (3, slots)."""
    return _mean_size(sums, 1.0 - level, least)


def _known(
    value: FloatArray, low: FloatArray, high: FloatArray, rows: FloatArray, least: int
) -> Figure:
    """Return a figure that is unknown where there are fewer than `least` rows."""
    some = rows >= least
    value, low, high = (np.where(some, v, np.nan) for v in (value, low, high))
    return Figure(value, low, high, rows)


def _share(hits: Any, rows: FloatArray, alpha: float, least: int) -> Figure:
    with np.errstate(invalid="ignore", divide="ignore"):
        return _known(hits / rows, *share_bounds(hits, rows, alpha), rows, least)


_Part = tuple[Any, FloatArray, float]
"""Hits, rows and the chance that the bounds are wrong."""


def _shares(parts: Mapping[str, _Part], least: int) -> dict[str, Figure]:
    """Return shares by name: all bounds in one go, as those of one take as long as those of many."""
    rows = np.concatenate([n.ravel() for _, n, _ in parts.values()])
    hits = np.concatenate([np.ravel(s) for s, _, _ in parts.values()])
    alphas = np.concatenate([np.full(n.size, alpha) for _, n, alpha in parts.values()])
    low, high = share_bounds(hits, rows, alphas)
    out, at = {}, 0
    for name, (s, n, _) in parts.items():
        here = slice(at, at + n.size)
        at += n.size
        with np.errstate(invalid="ignore", divide="ignore"):
            value = s / n
        out[name] = _known(value, low[here].reshape(n.shape), high[here].reshape(n.shape), n, least)
    return out


def _mean(sums: FloatArray, alpha: float, least: int) -> Figure:
    mean, error = mean_error(*sums)
    radius = looks(sums[0], alpha) * error
    return _known(mean, mean - radius, mean + radius, sums[0], least)


def _mean_size(sums: FloatArray, alpha: float, least: int) -> Figure:
    """Return the mean of what is never negative."""
    n = sums[0]
    mean, error = mean_error(*sums)
    return _known(mean, *size_bounds(mean, error, n, alpha), n, least)


def _f1(overlap: Figure) -> Figure:
    """Return F1 from the share of rows that are both among those that are either: it rises with it."""
    value, low, high = (2 * v / (1 + v) for v in (overlap.value, overlap.low, overlap.high))
    return Figure(value, low, high, overlap.rows)


def _averaged(each: Figure, axis: int) -> Figure:
    """Return the mean over an axis of what is known; the rows are those of the smallest part."""
    some = np.isfinite(each.value)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, low, high = (
            np.where(some, v, 0.0).sum(axis=axis) / some.sum(axis=axis)
            for v in (each.value, each.low, each.high)
        )
    smallest = np.where(some, each.rows, np.inf).min(axis=axis)
    return Figure(value, low, high, np.where(some.any(axis=axis), smallest, 0.0))


def _auc(scores: npt.NDArray[np.int64], alpha: float, least: int) -> Figure:
    """Return the area under the ROC curve of histograms (m, 2, bins), ties half.

    Rows of one bin are in an order that is not known: half of their pairs are added to the bounds.
    """
    negative, positive = scores[:, 0].astype(np.float64), scores[:, 1].astype(np.float64)
    n0, n1 = negative.sum(axis=1), positive.sum(axis=1)
    rarer = np.minimum(n0, n1)
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = (np.cumsum(negative, axis=1) - negative / 2) / n0[:, None]  # of a positive row
        losses = (np.cumsum(positive, axis=1) - positive / 2) / n1[:, None]
        value = (positive * wins).sum(axis=1) / n1
        ties = (positive * negative).sum(axis=1) / (2 * n0 * n1)
        of_positive = (positive * wins**2).sum(axis=1) / n1 - value**2
        of_negative = (negative * losses**2).sum(axis=1) / n0 - (1 - value) ** 2
        # half a row more, so that a perfect order of few rows is not certain
        error = np.sqrt(of_positive / n1 + of_negative / n0 + 0.25 / rarer**2)
        radius = looks(n0 + n1, alpha) * error + ties
    low, high = np.maximum(value - radius, 0.0), np.minimum(value + radius, 1.0)
    return _known(value, low, high, rarer, least)


# ---------------------------------------------------------------- gaps out of sums


def _split(
    rows: FloatArray, groups: Sequence[int], least: int
) -> tuple[list[int], tuple[int, ...]]:
    """Return the groups with enough rows, and the others."""
    known = [g for g in groups if rows[g] >= least]
    return known, tuple(g for g in groups if g not in known)


def _gap(
    value: FloatArray,
    rows: FloatArray,
    known: list[int],
    unknown: tuple[int, ...],
    low: Callable[[IntArray, IntArray], FloatArray],
) -> Gap:
    """Return the largest difference; `low(a, b)` are lower bounds of a - b that hold for all pairs at once."""
    if len(known) < 2:
        return Gap(math.nan, math.nan, math.nan, math.nan, -1, -1, unknown)
    highest = max(known, key=lambda g: value[g])
    lowest = min(known, key=lambda g: value[g])
    at = np.array(known)
    # an upper bound of a - b is minus the lower one of b - a
    each = low(at[:, None], at[None, :])[~np.eye(len(at), dtype=np.bool_)]
    return Gap(
        float(value[highest] - value[lowest]),
        max(0.0, float(each.max())),
        float(-each.min()),
        float(min(rows[highest], rows[lowest])),
        highest,
        lowest,
        unknown,
    )


def _share_gap(
    hits: FloatArray, rows: FloatArray, groups: Sequence[int], alpha: float, least: int
) -> Gap:
    known, unknown = _split(rows, groups, least)
    need = math.log(max(2, len(known) * (len(known) - 1)) / alpha)

    def low(a: IntArray, b: IntArray) -> FloatArray:
        return difference_low((hits[a], rows[a]), (hits[b], rows[b]), need)

    with np.errstate(invalid="ignore", divide="ignore"):
        return _gap(hits / rows, rows, known, unknown, low)


def _mean_gap(sums: FloatArray, groups: Sequence[int], alpha: float, least: int) -> Gap:
    rows = sums[0]
    known, unknown = _split(rows, groups, least)
    alpha /= max(1, len(known) * (len(known) - 1) // 2)
    mean, error = mean_error(*sums)

    def low(a: IntArray, b: IntArray) -> FloatArray:
        radius = looks(np.minimum(rows[a], rows[b]), alpha) * np.hypot(error[a], error[b])
        out: FloatArray = mean[a] - mean[b] - radius
        return out

    return _gap(mean, rows, known, unknown, low)
