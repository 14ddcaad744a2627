"""What late labels say of one model version: has the relation changed, how good is it, how good will it have been.

    predictions  -> marks and slices of each row, which its label brings back        (`Features`, `code`)
                 -> counts of the window -> accuracy without labels                  (`estimate`)
    late labels  -> loss, residual, slices -> evidence of a changed relation         (`concept`)
                 -> counts of each slice -> figures with bounds, gaps between groups (`quality`)
                 -> the filter of the estimate

Good for: classifiers and regressions whose labels come late, few and in any order. Not for: joining labels to rows
(the caller does), nor for versions against each other (see `compare`). Warm-up: 200 labelled rows for the relation,
`LEARN_ROWS` for the estimate and for ranks of regression errors where no reference rows were given. Constant size,
some 200 kB with eight slicings. Cost, one core, batches of 1,000: 3 microseconds a labelled row, 0.3 a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint, registry
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Band, Judged, LabelledRows, RelationChange
from agent.units import Model, Ratio, Span
from detectors.drift.concept import Change, Concept
from detectors.drift.errors import Ranks
from detectors.drift.estimate import LEAST_ROWS, WIDTH, Estimate, Expected
from detectors.drift.quality import (
    MOST_CLASSES,
    ClassQuality,
    Figure,
    NumberQuality,
    shares_of,
    sizes_of,
)

LEARN_ROWS: Final = 1000
_BUCKETS: Final = 12
"""Of a window, for what is counted of predictions; quality has a bucket for four of them."""
_EVERY: Final = 5
"""Figures are made anew so often in a window: they cost some milliseconds."""
_LEAST_EVERY: Final = 10_000.0
_UNSEEN_EVERY: Final = 1e9
"""As many labels may come between two false alarms while it is not seen yet how many do."""
_NONE: Final = 255
_VERSION: Final = 1
_FIGURES: Final = {
    "precision": "precision", "recall": "recall", "f1": "f1", "roc_auc": "roc_auc",
    "log_loss": "log_loss", "brier": "brier", "calibration_error": "calibration_error",
    "mae": "mae", "rmse": "rmse", "r2": "r2", "bias": "bias",
}  # fmt: skip
"""Name here -> name in `quality`."""
_MANY: Final = {"precision": "macro_precision", "recall": "macro_recall", "f1": "macro_f1"}
"""The same where there are more than two classes."""

Quality = ClassQuality | NumberQuality
_Bands = Mapping[tuple[str, str], Band]


@registry.drift("labelled")
class Labelled:
    """See the module.

    slices   (name, values) of each slicing, in the order in which rows bring numbers of these values
    """

    class Config(Model):
        """How long a window is, and what is too small to matter."""

        window: Span = 300.0
        """Labels of this long make the figures."""
        min_rows: Annotated[int, Field(ge=10)] = 100
        """Fewer labelled rows than this are unknown, not a figure."""
        quiet: Span = 90 * 86_400.0
        """Between two false alarms, at the least and on average."""
        tolerance: Ratio = 0.03
        """A smaller change of the mean loss is no alarm."""
        protected: tuple[str, ...] = ()
        """Slicings whose values are groups that must not be treated differently."""

    def __init__(self, config: Config, slices: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
        self.config = config
        self.slices = tuple((str(name), tuple(map(str, values))) for name, values in slices)
        self._cells = np.cumsum([0, *(len(values) for _, values in self.slices)])
        self._guarded = [i for i, (name, _) in enumerate(self.slices) if name in config.protected]
        self._groups = np.cumsum([0, *(len(self.slices[i][1]) for i in self._guarded)])
        self._concept = self._relation(_UNSEEN_EVERY)
        self._estimate = Estimate()
        self._ready = False  # the estimate has something to go by
        self._first: list[
            FloatArray
        ] = []  # (3, n) of rows before that: confidence, right, positive
        self._errors: list[FloatArray] = []
        self._ranks: Ranks | None = None
        self._counts: FloatArray = np.zeros((_BUCKETS + 1, WIDTH))
        self._bucket = -1
        self._at = 0.0
        self._labels = 0
        self._began = math.nan
        # of each bucket: figures, by protected group too, and of every slice rows, sum and squares of the loss
        self._quality: list[tuple[int, Quality, FloatArray]] = []
        self._shape: tuple[int, int | None] = (0, None)
        self._due = -math.inf
        self._fresh = False
        self._judged = Judged.nothing()

    def _relation(self, every: float) -> Concept:
        size = self.config.tolerance
        slices = [(name, len(values)) for name, values in self.slices]
        return Concept(Concept.Config(every=every, size=size), slices)

    @property
    def restless(self) -> float:
        """How much more than chance the loss wanders in ordinary life: a design effect, at least 1."""
        return self._concept.restless

    @property
    def large(self) -> float:
        """The error of a regression that a tenth of those of its reference exceed; NaN = not known."""
        return self._ranks.large if self._ranks is not None else math.nan

    # ---- the reference

    def fit(self, rows: LabelledRows, classes: int, positive: int | None) -> None:
        """Take rows of the reference, in the order in which they came; classes 0 = a regression."""
        n = len(rows.said)
        if not classes:
            error = rows.said - rows.truth
            self._ranks = Ranks(error)
            self._concept.learn(self._ranks(error), np.full(n, np.nan), _signed(rows.slices))
            return
        right, yes = rows.said == rows.truth, _yes(rows.said, classes, positive)
        self._concept.learn(
            (~right).astype(np.float64), right - rows.confidence, _signed(rows.slices)
        )
        if n >= LEAST_ROWS and np.isfinite(rows.confidence).any():
            self._estimate.learn(rows.confidence, right, yes)
            self._ready = True

    # ---- predictions

    def take(
        self, ts: float, confidence: FloatArray, positive: BoolArray | None, marks: IntArray
    ) -> None:
        """Count predictions (n,), the newest at `ts`: their confidence, whether positive, and what marks them."""
        self._at += len(confidence)
        if not self._ready:
            return
        self._turn(ts)
        codes = self._estimate.code(confidence, positive, marks)
        self._counts[self._bucket % (_BUCKETS + 1)] += Estimate.count(codes)

    def _turn(self, ts: float) -> None:
        """Go on to the bucket of `ts`; those between are empty."""
        now = int(ts * _BUCKETS / self.config.window)
        if now > self._bucket:
            for old in range(max(self._bucket + 1, now - _BUCKETS), now + 1):
                self._counts[old % (_BUCKETS + 1)] = 0.0
            self._bucket = now

    # ---- labels

    def label(self, ts: float, rows: LabelledRows, classes: int, positive: int | None) -> None:
        """Take labelled rows; classes 0 = a regression."""
        if not classes:
            self._label_numbers(ts, rows)
            return
        right, yes = rows.said == rows.truth, _yes(rows.said, classes, positive)
        self._relate(ts, (~right).astype(np.float64), right - rows.confidence, rows.slices)
        shape = (MOST_CLASSES, None) if yes is None else (2, positive)
        quality, apart = self._count(ts, shape)
        quality.take(rows.truth, rows.said, rows.confidence, self._slots(rows.slices))
        self._split(apart, right.astype(np.float64), rows.slices)
        if self._ready:
            codes = self._estimate.code(rows.confidence, yes, rows.marks)
            self._estimate.label(Estimate.count(codes), Estimate.count(codes, right), self._at)
        elif np.isfinite(rows.confidence).any():
            self._gather(rows.confidence, right, yes)

    def _label_numbers(self, ts: float, rows: LabelledRows) -> None:
        error = rows.said - rows.truth
        quality, apart = self._count(ts, (0, None))
        quality.take(rows.truth, rows.said, self._slots(rows.slices))
        some = np.isfinite(error)
        self._split(apart, np.abs(error[some]), rows.slices[:, some])
        if self._ranks is None:
            self._errors.append(error[some])
            if sum(map(len, self._errors)) >= LEARN_ROWS:
                self._ranks, self._errors = Ranks(np.concatenate(self._errors)), []
            return
        loss = self._ranks(error[some])
        self._relate(ts, loss, np.full(len(loss), np.nan), rows.slices[:, some])

    def _gather(self, confidence: FloatArray, right: BoolArray, yes: BoolArray | None) -> None:
        """Keep the first labelled rows until there are enough for the estimate to go by."""
        side = np.full(len(right), np.nan) if yes is None else yes.astype(np.float64)
        self._first.append(np.stack((confidence, right.astype(np.float64), side)))
        rows = np.concatenate(self._first, axis=1)
        if rows.shape[1] < LEARN_ROWS:
            return
        self._first = []
        two = not np.isnan(rows[2]).any()
        self._estimate.learn(rows[0], rows[1] > 0, rows[2] > 0 if two else None)
        self._ready = True

    def _relate(self, ts: float, loss: FloatArray, residual: FloatArray, slices: IntArray) -> None:
        self._fresh = True
        if not self._labels:
            self._began = ts
        self._labels += len(loss)
        # the user states seconds between two false alarms; how many labels these bring is seen by now
        past = ts - self._began
        if past > 0:
            every = self._labels / past * self.config.quiet
            self._concept.expect(max(every, _LEAST_EVERY))
        self._concept.take(ts, loss, residual, _signed(slices))

    def _slots(self, slices: IntArray) -> IntArray | None:
        """Return the slots (n, g) in `quality` of the values (s, n) of protected slicings; 0 = none."""
        if not self._guarded:
            return None
        mine = slices[self._guarded].astype(np.int64)
        return np.where(mine != _NONE, mine + 1 + self._groups[:-1, None], 0).T

    def _count(self, ts: float, shape: tuple[int, int | None]) -> tuple[Any, FloatArray]:
        """Return quality and slices of the bucket of `ts`; when the task has changed all is counted anew."""
        if shape != self._shape:
            self._quality, self._shape = [], shape
        number = int(ts * (_BUCKETS // 3) / self.config.window)
        for bucket, quality, apart in self._quality:
            if bucket == number:
                return quality, apart
        self._quality = [one for one in self._quality if number - _BUCKETS // 3 < one[0]]
        self._quality.append((number, self._new(), np.zeros((3, int(self._cells[-1])))))
        return self._quality[-1][1:]

    def _new(self) -> Quality:
        classes, positive = self._shape
        groups = int(self._groups[-1])
        return ClassQuality(classes, groups, positive) if classes else NumberQuality(groups)

    def _split(self, apart: FloatArray, loss: FloatArray, slices: IntArray) -> None:
        """Count the losses (n,) of rows in their slices."""
        inside = slices != _NONE
        at = (slices + self._cells[:-1, None])[inside]
        mine = np.broadcast_to(loss, slices.shape)[inside]
        for i, weight in enumerate((None, mine, mine * mine)):
            apart[i] += np.bincount(at, weight, apart.shape[1])

    # ---- what is said

    def judge(self, ts: float) -> Judged:
        """Say what is known at `ts`; figures are made anew now and then, when labels came."""
        expected = None
        if self._ready:
            self._turn(ts)
            whole = self._counts.sum(axis=0)
            # what is expected is of now: of the newest half, where that has rows enough
            recent = np.arange(self._bucket - _BUCKETS // 2 + 1, self._bucket + 1) % len(
                self._counts
            )
            newest = self._counts[recent].sum(axis=0)
            rows = float(whole[:-3].sum())
            if rows >= self.config.min_rows:
                if newest[:-3].sum() < self.config.min_rows:
                    newest = whole
                middle = self._at - float(newest[:-3].sum()) / 2
                expected = self._estimate.judge(newest, middle, rows)
        figures, gaps, worst = self._judged.figures, self._judged.gaps, self._judged.slices
        if self._fresh and ts >= self._due:
            figures, gaps, worst = self._figures()
            self._due, self._fresh = ts + self.config.window / _EVERY, False
        self._judged = Judged(
            changed=self._concept.alarmed,
            evidence=self._concept.sized - self._concept.alarm,
            changes=tuple(self._change(c) for c in self._concept.changes()),
            expected=_band(expected),
            unknown=expected.reason if expected is not None else "",
            figures=figures, gaps=gaps, slices=worst,
            learning=not self._ready and self._shape[0] > 0,
        )  # fmt: skip
        return self._judged

    def _change(self, c: Change) -> RelationChange:
        value = "" if c.value is None else dict(self.slices)[c.what][c.value]
        return RelationChange(c.what, value, c.since, c.rows, c.before, c.after, c.evidence)

    def _figures(self) -> tuple[Mapping[str, Band], _Bands, _Bands]:
        """Return figures of all rows, gaps between protected groups, and accuracy (or MAE) of each slice."""
        if not self._quality:
            return {}, {}, {}
        least = self.config.min_rows
        whole: Any = self._quality[0][1]
        for _, more, _ in self._quality[1:]:
            whole = whole + more
        found = whole.whole().figures(least=least)
        classes, positive = self._shape
        names = _FIGURES if not classes or positive is not None else _FIGURES | _MANY
        figures = {
            name: _at(found[key], 0)
            for name, key in names.items()
            if key in found and not math.isnan(found[key].value[0])
        }
        gaps: dict[tuple[str, str], Band] = {}
        for first, last, i in zip(self._groups, self._groups[1:], self._guarded, strict=False):
            for kind, gap in whole.gaps(list(range(first + 1, last + 1)), least=least).items():
                gaps[self.slices[i][0], kind] = Band(gap.value, gap.low, gap.high)
        apart = np.sum([one[2] for one in self._quality], axis=0)
        each = shares_of(apart[1], apart[0], least) if classes else sizes_of(apart, least)
        names_of = [(name, value) for name, values in self.slices for value in values]
        slices = {
            key: _at(each, i) for i, key in enumerate(names_of) if not math.isnan(each.value[i])
        }
        return figures, gaps, slices

    # ---- restarts of the agent

    def restart(self) -> None:
        """Forget what was found, keep what the reference was: the version serves anew."""
        self._counts[:] = 0.0
        self._concept.restart()
        self._quality, self._judged, self._fresh = [], Judged.nothing(), False

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped."""
        j = self._judged
        meta = {
            "slices": [[name, list(values)] for name, values in self.slices],
            "ready": self._ready, "fresh": self._fresh,
            "numbers": [self._at, self._labels, self._bucket, *map(_json, (self._began, self._due))],
            "every": self._concept.config.every, "shape": list(self._shape),
            "buckets": [number for number, _, _ in self._quality],
            "bands": [[[k, *map(_json, astuple(v))] for k, v in d.items()] for d in (j.figures, j.gaps, j.slices)],
        }  # fmt: skip
        arrays: dict[str, npt.NDArray[Any]] = {
            "concept": _bytes(self._concept.dump()), "estimate": _bytes(self._estimate.dump()),
            "knots": self._ranks.knots if self._ranks is not None else np.zeros(0),
            "counts": self._counts,
            "first": np.concatenate(self._first, axis=1) if self._first else np.zeros((3, 0)),
            "errors": np.concatenate(self._errors) if self._errors else np.zeros(0),
            **{f"quality{i}": _bytes(q.dump()) for i, (_, q, _) in enumerate(self._quality)},
            **{f"apart{i}": apart for i, (_, _, apart) in enumerate(self._quality)},
        }  # fmt: skip
        return checkpoint.write("labelled", _VERSION, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged or of other slices. Then nothing has changed."""
        meta, arrays = checkpoint.read("labelled", _VERSION, state)
        fresh = Labelled(self.config, self.slices)
        try:
            if [(name, tuple(values)) for name, values in meta["slices"]] != list(self.slices):
                raise Refused("state of labels is of other slices: it is learnt anew")
            fresh._concept.expect(float(meta["every"]))
            fresh._concept.load(arrays["concept"].tobytes())
            fresh._estimate.load(arrays["estimate"].tobytes())
            at, labels, bucket, began, due = meta["numbers"]
            fresh._ready, fresh._fresh = bool(meta["ready"]), bool(meta["fresh"])
            fresh._at, fresh._labels, fresh._bucket = float(at), int(labels), int(bucket)
            fresh._began = math.nan if began is None else float(began)
            fresh._due = -math.inf if due is None else float(due)
            classes, positive = meta["shape"]
            fresh._shape = int(classes), None if positive is None else int(positive)
            for i, number in enumerate(meta["buckets"]):
                quality = fresh._new()
                quality.load(arrays[f"quality{i}"].tobytes())
                fresh._quality.append((int(number), quality, arrays[f"apart{i}"]))
            said, gaps, slices = meta["bands"]
            fresh._judged = replace(
                fresh._judged, figures={str(k): Band(*map(_float, v)) for k, *v in said},
                gaps=_kept(gaps), slices=_kept(slices),
            )  # fmt: skip
            if arrays["counts"].shape != self._counts.shape or arrays["first"].shape[0] != 3:
                raise Refused("state of labels does not fit: it is learnt anew")
            fresh._counts = arrays["counts"]
            fresh._first = [arrays["first"]] if arrays["first"].size else []
            fresh._errors = [arrays["errors"]] if arrays["errors"].size else []
            if len(arrays["knots"]):
                fresh._ranks = Ranks(np.zeros(1))
                fresh._ranks.knots = arrays["knots"]
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of labels is damaged ({damage!r}): it is learnt anew") from None
        self.__dict__.update(fresh.__dict__)


def _bytes(state: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(state, dtype=np.uint8)


def _kept(bands: Any) -> _Bands:
    return {(str(a), str(b)): Band(*map(_float, v)) for (a, b), *v in bands}


def _float(x: float | None) -> float:
    return math.nan if x is None else float(x)


def _json(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _yes(said: IntArray, classes: int, positive: int | None) -> BoolArray | None:
    """Return whether rows were said to be positive; None where there are not two classes."""
    return said == positive if classes <= 2 and positive is not None else None  # a pair


def _signed(slices: IntArray) -> IntArray:
    """Return values of slicings with -1 for none."""
    return np.where(slices == _NONE, -1, slices.astype(np.int64))


def _band(expected: Expected | None) -> Band:
    return Band.unknown() if expected is None else Band(*expected.accuracy)


def _at(figure: Figure, i: int) -> Band:
    return Band(float(figure.value[i]), float(figure.low[i]), float(figure.high[i]))
