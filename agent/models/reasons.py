"""Why a model lost, and why it said this of one row: asked of the rows that its version was made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.model import FloatArray
from agent.models.numbers import Numbers
from agent.models.state import ModelState, Said, Tenure, VersionState
from agent.ports import Driver, FeatureDrift, LossParts


class Parts(Protocol):
    """What the bins of a version's features are worth; registered with `@registry.drift("parts")`."""

    def fit(self, columns: Mapping[str, Any], loss: FloatArray, answer: FloatArray) -> None:
        """Take rows of the reference: NaN = not known."""
        ...

    def explain(self, loss: float, variance: float, rows: float) -> LossParts | None:
        """Take the loss of late apart."""
        ...

    def drivers(self, record: Mapping[str, Any]) -> tuple[float, float, tuple[Driver, ...]]:
        """Return the usual answer, the share of its variance that is told, and the features."""
        ...

    def dump(self) -> bytes:
        """Return the state."""
        ...

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Explained:
    """What drove one answer. NaN = not known.

    usual     what the model says on average; unit says of what: a probability, or the prediction itself
    told      share of the variance of answers that single features explain: the drivers are to be believed so far
    drivers   the features, those that add most first
    """

    model: str
    version: str
    unit: str
    usual: float
    told: float
    drivers: tuple[Driver, ...]


def parts_of(drift: FeatureDrift) -> Parts:
    """Return what is worth what, empty."""
    made: Parts = registry.drift.get("parts")(drift)
    return made


def learn(
    model: ModelState, version: VersionState, columns: Mapping[str, Any], rows: Said, truth: Any
) -> None:
    """Learn from rows of the reference, and their truth (n,), NaN or -1 = not known."""
    said, sure = rows.classes, rows.sure
    if rows.numbers is not None:
        loss, answer = np.abs(rows.numbers - truth), rows.numbers
    else:
        some = (said >= 0) & (truth >= 0)
        loss = np.where(some, said != truth, np.nan)
        answer = np.full(len(sure), np.nan)
        positive = model.answer(version)
        if positive is not None:
            yes = said == positive
            answer = np.where(np.isnan(sure), yes, np.where(yes, sure, 1.0 - sure))
            answer[said < 0] = np.nan
    version.parts = parts_of(version.drift)
    version.parts.fit(columns, loss, answer)


def of_loss(
    version: VersionState | None, tenure: Tenure | None, numbers: Numbers
) -> LossParts | None:
    """Take the change of the loss of what serves apart; None = it can not be told."""
    if version is None or tenure is None or version.parts is None:
        return None
    parts: Parts = version.parts
    if tenure.numbers:
        mae, rmse = (version.judged.figures.get(name) for name in ("mae", "rmse"))
        if mae is None or rmse is None:
            return None
        spread = max(0.0, rmse.value**2 - mae.value**2)
        rows = float(tenure.labels.data[:, 0].sum())
        return parts.explain(mae.value, spread, rows)
    rows, right = numbers.labelled([tenure])
    if rows < numbers.config.min_rows:
        return None
    loss = 1.0 - right / rows
    return parts.explain(loss, loss * (1.0 - loss), rows)


def explain(model: ModelState, version: VersionState, record: Mapping[str, Any]) -> Explained:
    """Say what drove the answer of a version to one record. Raises Refused."""
    if version.drift.names and not any(name in version.drift.names for name in record):
        raise Refused(f"the record has none of the features of {model.name}: give them by name")
    parts: Parts = version.parts if version.parts is not None else parts_of(version.drift)
    usual, told, drivers = parts.drivers(record)
    positive = model.answer(version)
    unit = "the prediction"
    if not model.regression and positive is not None:
        unit = f"the probability of {list(model.classes)[positive]}"
    return Explained(
        model.name, version.name, "" if math.isnan(usual) else unit, usual, told, drivers
    )
