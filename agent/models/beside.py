"""What is taken of rows beside traffic, inputs and labels: what was said, by whom else, and what it was worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent.label_join import KeyArray
from agent.model import BoolArray, FloatArray
from agent.models import reasons
from agent.models.numbers import Numbers
from agent.models.outputs import class_value, columns_of
from agent.models.state import ModelState, Said, VersionState
from agent.ports import PredictionBatch

_PARTS_S: Final = 10.0
"""What a change of the loss is made of is asked so often."""


_EVERY: Final = 5
"""Frames between two looks at what is said: alone it harms nobody, and many rows at once cost less than few."""


@dataclass(frozen=True, slots=True)
class Second:
    """Rows of which some served nobody, (n,) each."""

    pred: Any
    keys: KeyArray
    ts: FloatArray


def once(model: ModelState, keys: KeyArray) -> tuple[BoolArray, BoolArray]:
    """Return which rows (n,) are not there yet, those without an id among them, and which requests are known."""
    some = keys != 0
    first = np.zeros(len(keys), dtype=np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    known = some & model.join.known(keys) if some.any() else np.zeros(len(keys), dtype=np.bool_)
    waits = some & model.held.known(keys) if model.held else np.zeros(len(keys), dtype=np.bool_)
    return ~some | (first & ~known & ~waits), known


def take_second(model: ModelState, batch: PredictionBatch, rows: Second, some: BoolArray) -> None:
    """Take answers that served nobody: of a shadow, or of another arm to a request that has been answered."""
    arm = model.versus.arm(batch.version, batch.variant)
    found, others = model.join.peek(rows.keys)
    at = np.flatnonzero(some & ~(found & (others["arm"] == arm)))
    if not len(at) or rows.pred is None:
        return
    array = np.asarray(rows.pred)[at]
    if array.dtype.kind == "f" and (model.regression or not model.classes):
        said: Any = np.asarray(array, dtype=np.float64)
        known = np.isfinite(said)
    else:
        said = model.class_numbers(array.tolist())
        known = said >= 0
    if known.any():
        at = at[known]
        model.versus.second(arm, rows.keys[at], rows.ts[at], said[known], model.join)


def take_said(model: ModelState, version: VersionState, batch: PredictionBatch, said: Said) -> None:
    """Count what was said of rows that were served."""
    words = _words(model, batch, said)
    columns = columns_of(words, said.numbers, said.sure, batch.classes, batch.shares)
    version.outputs.take(said.ts, columns)
    version.generated.take(said.ts, batch, slice(None))


def fit(
    model: ModelState, version: VersionState, batch: PredictionBatch, said: Said, truth: Any, *, whole: bool
) -> None:  # fmt: skip
    """Make rows the reference of what is said, and of what features are worth; truth (n,), NaN or -1 = not known."""
    words = _words(model, batch, said)
    columns = columns_of(words, said.numbers, said.sure, batch.classes, batch.shares)
    version.outputs.fit(columns, whole=whole)
    reasons.learn(model, version, batch.features, said, truth)


def look(model: ModelState, numbers: Numbers, now: float) -> None:
    """Do what is due once a frame."""
    model.frames += 1
    if model.frames % _EVERY == 0:
        for name in {t.version for t in model.serving()}:
            version = model.versions.get(name)
            if version is not None:
                version.outputs.judge(now)
    model.versus.flush()
    if now >= model.parts_due:
        current = model.tenure_in_use
        version = model.version_in_use
        lost = current is not None and (current.lost or current.worse)
        lost = lost or (version is not None and version.judged.changed)
        model.parts = reasons.of_loss(version, current, numbers) if lost else None
        model.parts_due = now + _PARTS_S


def _words(model: ModelState, batch: PredictionBatch, said: Said) -> Any:
    """Return classes (n,) by their names, None = none; None for numbers, and where nothing was logged."""
    if batch.pred is None or said.numbers is not None:
        return None
    names = np.empty(len(model.classes) + 1, dtype=object)
    names[:-1] = [class_value(word) for word in model.classes]
    return names[said.classes]
