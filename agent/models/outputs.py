"""What a version says, watched as its inputs are: predictions, how sure it is, the probability of each class.

    rows -> held until the frame, or `_HELD` of them -> columns named as below -> `FeatureDrift` of their own

Held apart from the inputs, so that a change of what is said is never taken for one of what it is said about. Rows of
one batch cost as much as rows of a frame, so that small batches cost little. Its reference are the rows that the
version was made with, else the mix of its `reference.json`, else its first rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from agent.model import FloatArray
from agent.ports import FeatureDrift, FeatureState

PREDICTION: Final = "prediction"
CONFIDENCE: Final = "confidence"
_OF_CLASS: Final = "probability of {}"
_MOST_CLASSES: Final = 8
_HELD: Final = 5000


@dataclass(slots=True)
class Outputs:
    """See the module; `states` as of the last look."""

    drift: FeatureDrift
    states: tuple[FeatureState, ...] = ()
    _held: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    _rows: int = 0

    def fit(self, columns: dict[str, Any], *, whole: bool) -> None:
        """Make what was said of the rows of a reference the reference."""
        if columns:
            self.drift.fit(columns, whole=whole)

    def take(self, ts: float, columns: dict[str, Any]) -> None:
        """Take what was said of rows, the newest at `ts`."""
        if not columns:
            return
        if self._held and self._held[0][1].keys() != columns.keys():
            self.flush()
        self._held.append((ts, columns))
        self._rows += len(next(iter(columns.values())))
        if self._rows >= _HELD:
            self.flush()

    def flush(self) -> None:
        """Count what is held."""
        held, self._held, rows, self._rows = self._held, [], self._rows, 0
        if held:
            columns = {name: np.concatenate([one[name] for _, one in held]) for name in held[0][1]}
            self.drift.take(max(ts for ts, _ in held), rows, columns)

    def judge(self, now: float) -> None:
        """Decide at `now`; see `states`."""
        self.flush()
        self.drift.judge(now)
        self.states = self.drift.states()

    def load(self, state: bytes) -> None:
        """Take the state of the drift; raises Refused."""
        self.drift.load(state)
        self.states = self.drift.states()

    def restart(self) -> None:
        """Forget the rows, keep the reference."""
        self._held, self._rows, self.states = [], 0, ()
        self.drift.restart()


def class_value(word: str) -> str:
    """Return a class as a value of a column: a text, also where classes are called 0 and 1."""
    return f"class {word}"


def columns_of(
    words: Any, numbers: FloatArray | None, sure: FloatArray, classes: Sequence[str], shares: Any
) -> dict[str, Any]:
    """Return name -> (n,) of what was said.

    words    (n,) classes as `class_value`, None = none; numbers (n,) of a regression instead
    classes, shares   (n, classes) probabilities; of two classes one is enough
    """
    out: dict[str, Any] = {}
    if numbers is not None:
        out[PREDICTION] = numbers
    elif words is not None:
        out[PREDICTION] = words
    if np.isfinite(sure).any():
        out[CONFIDENCE] = sure
    if shares is not None:
        order = sorted(range(len(classes)), key=lambda i: classes[i])
        order = order[1:] if len(order) == 2 else order[:_MOST_CLASSES]  # a pair
        out |= {_OF_CLASS.format(classes[i]): np.ascontiguousarray(shares[:, i]) for i in order}
    return out


def reference_of(
    found: Mapping[str, Any] | None, shares: Mapping[str, float]
) -> dict[str, Any] | None:
    """Return a reference of what is said, out of the mix of a `reference.json`; None = it says none."""
    if not shares:
        return None
    rows = (found or {}).get("rows")
    values = {class_value(word): share for word, share in itertools.islice(shares.items(), 1000)}
    head = {} if rows is None else {"rows": rows}
    return head | {"features": {PREDICTION: {"values": values}}}
