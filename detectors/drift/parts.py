"""What the bins of a version's features are worth, in loss and in its answer, by the rows that it was made with.

    reference rows -> cells of the features -> Losses    what a change of the loss is made of   (see `attribution`)
                                            -> answers   what a bin adds to what the model says (backfitting, as there)

Good for: versions whose reference was given as rows, 500 labelled ones at the least. Not for: models whose answer is
all interplay; `told` says which share of its variance the bins of single features explain, and below a half the parts
of one answer are a hint and no more (`explain_one.shapley` asks the model itself, where that is at hand).
Units: of the loss (share of errors, or size of the error); of the answer (probability of the positive class, or the
prediction). Cost: 0.5 s for 5,000 rows of 50 features, once; 0.2 ms a question. State there: 60 kB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import checkpoint, registry
from agent.errors import Refused
from agent.model import FloatArray
from agent.ports import Band, Driver, LossParts
from detectors.drift import cells
from detectors.drift.attribution import LEAST_ROWS, Losses, backfitted
from detectors.drift.explain_one import shapley, unusual
from detectors.drift.features import Features

_MOST_ROWS: Final = 5000
_UNSEEN: Final = 0.05
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """effects (d, width) of the cells on the answer, around `mean`; told: share of its variance that they explain."""

    mean: float
    told: float
    effects: npt.NDArray[np.float32]


@registry.drift("parts")
class Parts:
    """See the module."""

    asked = staticmethod(shapley)
    """The model asked itself, where it is at hand."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._losses: Losses | None = None
        self._answers: _Answers | None = None

    def fit(self, columns: Mapping[str, Any], loss: FloatArray, answer: FloatArray) -> None:
        """Take rows of the reference in the order of time: columns, loss (n,) and answer (n,); NaN = not known."""
        n = len(loss)
        placed = cells.columns(self._features, n, columns)
        known = np.flatnonzero(np.isfinite(loss))
        if len(known) >= LEAST_ROWS:
            known = known[:: -(-len(known) // _MOST_ROWS)]
            self._losses = Losses()
            self._losses.learn(
                placed[:, known],
                loss[known],
                cells.ordered(self._features),
                cells.width(self._features),
            )
        known = np.flatnonzero(np.isfinite(answer))
        if len(known) >= LEAST_ROWS:
            known = known[:: -(-len(known) // _MOST_ROWS)]
            self._answers = _learn(placed[:, known], answer[known], cells.width(self._features))

    # ---- a change of the loss

    def explain(self, loss: float, variance: float, rows: float) -> LossParts | None:
        """Take mean and variance of the loss of `rows` labelled rows apart; None = it can not be told."""
        if self._losses is None or rows < 1:
            return None
        found = self._losses.explain(cells.now(self._features), loss, variance, rows)
        names = self._features.names
        return LossParts(
            change=_band(found.change),
            features={name: _band(found.features[i]) for i, name in enumerate(names)},
            relation=_band(found.relation),
            shares={name: _band(found.shares[i]) for i, name in enumerate(names)},
            relation_share=_band(found.shares[-1]),
            unseen=tuple(name for i, name in enumerate(names) if found.unseen[i] > _UNSEEN),
        )

    # ---- one prediction

    def drivers(self, record: Mapping[str, Any]) -> tuple[float, float, tuple[Driver, ...]]:
        """Say of one row what each feature adds to the answer, and how unusual its value is.

        Returns what the model says on average, the share of the variance that single features explain (NaN = answers
        of the reference are not known), and the features, those that add most first, then those least usual.
        """
        features = self._features
        if not features.names:
            raise Refused("there is no reference yet to hold the row against; ask again later")
        columns = cells.columns(features, 1, {k: _column(v) for k, v in record.items()})[:, 0]
        d = np.arange(len(columns))
        rare = unusual(cells.usual(features), cells.ordered(features), columns)
        a = self._answers
        adds = np.full(len(columns), np.nan) if a is None else a.effects[d, columns].astype(float)
        order = np.lexsort((rare, -np.abs(np.nan_to_num(adds))))
        found = tuple(
            Driver(features.names[i], float(adds[i]), float(rare[i])) for i in map(int, order)
        )
        return (np.nan, np.nan, found) if a is None else (a.mean, a.told, found)

    # ---- restarts

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped."""
        a = self._answers
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self._losses is not None:
            arrays["losses"] = np.frombuffer(self._losses.dump(), dtype=np.uint8)
        if a is not None:
            arrays["effects"] = a.effects
        meta = None if a is None else [a.mean, a.told]
        return checkpoint.write("parts", _VERSION, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged or of other features."""
        meta, arrays = checkpoint.read("parts", _VERSION, state)
        if "losses" in arrays:
            self._losses = Losses()
            self._losses.load(arrays["losses"].tobytes())
        if "effects" in arrays:
            if arrays["effects"].shape != (len(self._features.names), cells.width(self._features)):
                raise Refused("state of parts is of other features: it is learnt anew")
            self._answers = _Answers(float(meta[0]), float(meta[1]), arrays["effects"])


def _learn(columns: Any, answer: FloatArray, width: int) -> _Answers:
    some = np.ones(len(answer), dtype=np.bool_)
    effects = backfitted([(row, width) for row in columns], answer, some)
    left = answer - answer.mean() - sum(e[row] for e, row in zip(effects, columns, strict=True))
    variance = float(answer.var())
    told = 1.0 - float(left.var()) / variance if variance > 0 else 0.0
    return _Answers(float(answer.mean()), max(0.0, told), np.array(effects, dtype=np.float32))


def _column(value: Any) -> Any:
    """Return a column of one row, as it is when rows come in."""
    if isinstance(value, bool | int | float):
        return np.array([float(value)])
    return np.array([None if value is None else str(value)], dtype=object)


def _band(three: Any) -> Band:
    return Band(*map(float, three))
