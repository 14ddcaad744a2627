"""Late labels themselves: whether they come as they used to, and whether they can be true.

    predictions and labels of each tick -> predictions since the last label, against such gaps before -> late
                                        -> share that have got their label, against what is usual     -> late
    newest labels beside what was said  -> of one kind, or turned round                               -> wrong

Both are judgements with room for what is ordinary, not tests with a stated rate of false alarms.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from agent.model import FloatArray

_LEARN_GAPS: Final = 10
_KEEPS: Final = 0.99
"""Of the longest gap, from one to the next."""
_TIMES: Final = 2.5
_DEVIATIONS: Final = 8.0
"""Gaps of labels that come by chance have no end; one in some million is so long."""
_BATCHES: Final = 3
_OVERDUE: Final = 1.5
"""Times the longest gap between labels, in predictions: until then what the last ones said holds."""
_HALF: Final = 0.5
_WELL: Final = 0.75
_ENOUGH: Final = 50.0
"""Labels that should have come: fewer say nothing."""
_LEARN_WINDOWS: Final = 20.0

_ONE_CLASS: Final = 0.02
_SURE: Final = -6.0
_LEAST_ROWS: Final = 20.0
_MOSTLY: Final = 0.9
_SELDOM: Final = 0.05
_TURNED: Final = 0.1
_KNEW: Final = 0.65
_STILL: Final = 0.05
_MOVES: Final = 0.3
_TIED: Final = 0.3
_LEAST_MOMENTS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Moments:
    """Of labels that are numbers and of what was said: variances, and how they are tied (correlation)."""

    truth: float
    said: float
    tie: float

    @staticmethod
    def of(sums: FloatArray) -> Moments | None:
        """Return those of sums (6,): rows, truth, said, their squares and product; None = too little is known."""
        n = float(sums[0])
        if n < _LEAST_MOMENTS:
            return None
        truth, said, truth2, said2, both = (float(x) / n for x in sums[1:])
        a, b = max(0.0, truth2 - truth**2), max(0.0, said2 - said**2)
        tie = (both - truth * said) / math.sqrt(a * b) if a * b > 0 else 0.0
        return Moments(a, b, tie)


def sums_of(truth: FloatArray, said: FloatArray) -> FloatArray:
    """Return the sums (6,) that `Moments` is made of; rows with no number are left out."""
    some = np.isfinite(truth) & np.isfinite(said)
    t, s = truth[some], said[some]
    return np.array([len(t), t.sum(), s.sum(), (t * t).sum(), (s * s).sum(), (t * s).sum()])


@dataclass(slots=True)
class Coming:
    """How labels come. Counted in predictions, so that a night without traffic is no silence.

    silent    predictions since the last label came
    gaps, mean, square, longest   such gaps before: how many, mean, mean square, the longest (fading)
    usual     share of predictions that get a label; NaN = not known
    """

    silent: float = 0.0
    gaps: int = 0
    mean: float = 0.0
    square: float = 0.0
    longest: float = 0.0
    usual: float = math.nan
    last: float = math.nan
    late: bool = False

    def tick(
        self, now: float, rows: int, labels: int, *, waits: float, got: float, of: float, window: float
    ) -> None:  # fmt: skip
        """Take a tick.

        waits     predictions that usually are made while one waits for its label
        got, of   labels and predictions of those old enough to have one; of 0 = not known
        """
        if labels:
            self._learn(self.silent)
            self.silent = 0.0
            self.late = False
        self.silent += rows
        spread = math.sqrt(max(0.0, self.square - self.mean**2))
        most = _TIMES * max(self.longest, waits) + _DEVIATIONS * spread
        silence = self.gaps >= _LEARN_GAPS and self.silent > max(most, _ENOUGH)
        due = of * self.usual if of and not math.isnan(self.usual) else 0.0
        few = (_WELL if self.late else _HALF) * due - 3.0 * math.sqrt(due)
        self.late = silence or (due >= _ENOUGH and got < few) or (self.late and not labels)
        if not self.late and got >= _ENOUGH:
            past = max(0.0, now - self.last) if not math.isnan(self.last) else 0.0
            share = 1.0 - 2.0 ** (-past / (_LEARN_WINDOWS * window))
            self.usual = (
                got / of if math.isnan(self.usual) else self.usual + share * (got / of - self.usual)
            )
        self.last = now

    @property
    def between(self) -> bool:
        """Tell whether labels come in batches, as far as is known, and the next one is not overdue."""
        return not self.late and self.gaps >= _BATCHES and self.silent <= _OVERDUE * self.longest

    def _learn(self, gap: float) -> None:
        if self.late or gap <= 0:
            return
        self.gaps += 1
        share = max(1.0 / self.gaps, 0.01)
        self.mean += share * (gap - self.mean)
        self.square += share * (gap * gap - self.square)
        self.longest = max(gap, _KEEPS * self.longest)

    def words(self) -> dict[str, Any]:
        """Return the state as JSON takes it."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v
            for k, v in asdict(self).items()
        }

    @classmethod
    def of(cls, words: dict[str, Any]) -> Coming:
        """Take what `words` gave."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in words.items()}
        return cls(**known)


def wrong_classes(newest: FloatArray, usual: FloatArray, knew: float, pairs: FloatArray) -> str:
    """Say what is wrong with labels of classes, "" for nothing.

    newest   (k, 1 + classes) labels, and labels of each class, of the newest rows: of ever more of them
    usual    (classes,) share of each in the reference; knew: accuracy there
    pairs    (classes, classes) newest rows by what was said and what was true
    """
    total = float(pairs.sum())
    if total < _LEAST_ROWS:
        return ""
    said = pairs.sum(axis=1) / total
    n = newest[:, :1]
    # so many labels of one class in a row are no chance
    sure = n * np.log10(np.clip(usual, 1e-3, 1.0)) < _SURE
    one = (newest[:, 1:] >= (1.0 - _ONE_CLASS) * n) & (n >= _LEAST_ROWS) & sure
    if (one & (said < _MOSTLY)).any():
        return "labels have become of one class, predictions have not"
    classes = np.flatnonzero(said >= _SELDOM)
    true = pairs[classes].argmax(axis=1)
    renamed = float(said[classes[true != classes]].sum())
    hit = float(pairs[classes, true].sum()) / total
    if (
        knew > _KNEW
        and renamed > _HALF
        and len(set(true.tolist())) == len(classes)
        and hit > knew - _TURNED
    ):
        return f"labels look turned round: under other names {hit:.0%} are as predicted, which were {knew:.0%}"
    return ""


def wrong_numbers(now: Moments, usual: Moments) -> str:
    """Say what is wrong with labels that are numbers, "" for nothing."""
    if now.truth < _STILL * usual.truth and now.said > _MOVES * usual.said:
        return "labels have become one number, predictions have not"
    if now.tie < -_TIED and usual.tie > _TIED and now.said > _MOVES * usual.said:
        return f"labels look turned round: correlation with predictions is {now.tie:+.2f}, was {usual.tie:+.2f}"
    return ""
