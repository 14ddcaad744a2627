"""What a version is held against, made of rows: the heavy part of the model watch, which may be made elsewhere.

    rows + truth --make--> Made --pack--> bytes --unpack--> Made --> ModelWatch
    first rows   --learn-> state of its features

Where there is an event loop both are trainings of the worker process (`agent.worker`): 20,000 rows of 50 columns take
a second, the first 1,000 a quarter of one; to take over what was made takes a millisecond a column.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent import checkpoint, registry
from agent.config import WatchModels
from agent.errors import Refused, Unavailable
from agent.model import FloatArray, IntArray
from agent.models import beside
from agent.models.labels import sums_of
from agent.models.numbers import Numbers
from agent.models.state import CLASSES, SURE, ModelState, Said, VersionState
from agent.models.tenures import Tenures
from agent.ports import LabelledRows, PredictionBatch
from agent.reference import read_rows, reader_of_rows
from agent.units import Model
from agent.worker import Job

_VERSION: Final = 1
TRAINER: Final = "reference"


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A reference out of rows.

    drift       state of the features
    labelled    state of what labels are for; b"" = no row has one
    outputs     state of the drift of what it says; parts: what its features are worth, in loss and in its answer
    classes     in the order of mix (CLASSES + 1,): shares of `mix_rows` predictions
    accuracy    of `accuracy_rows`; NaN = not known
    sums        (6,) of labels and answers of a regression, as `agent.models.labels` takes them
    """

    drift: bytes
    labelled: bytes
    outputs: bytes
    parts: bytes
    classes: tuple[str, ...]
    mix: FloatArray
    mix_rows: float
    accuracy: float
    accuracy_rows: float
    sums: FloatArray
    regression: bool

    def pack(self) -> bytes:
        """Return it as bytes."""
        return checkpoint.write(
            "made", _VERSION, {"classes": self.classes, "regression": self.regression},
            {
                "drift": np.frombuffer(self.drift, np.uint8),
                "labelled": np.frombuffer(self.labelled, np.uint8),
                "outputs": np.frombuffer(self.outputs, np.uint8),
                "parts": np.frombuffer(self.parts, np.uint8),
                "mix": self.mix,
                "sums": self.sums,
                "numbers": np.array([self.mix_rows, self.accuracy, self.accuracy_rows]),
            },
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Later:
    """It is being made: rows wait for it."""


def unpack(data: bytes) -> Made:
    """Return what `Made.pack` gave; raises Refused when it is damaged."""
    meta, arrays = checkpoint.read("made", _VERSION, data)
    mix_rows, accuracy, accuracy_rows = map(float, arrays["numbers"])
    return Made(
        arrays["drift"].tobytes(), arrays["labelled"].tobytes(), arrays["outputs"].tobytes(),
        arrays["parts"].tobytes(), tuple(map(str, meta["classes"])),
        arrays["mix"], mix_rows, accuracy, accuracy_rows, arrays["sums"], bool(meta["regression"]),
    )  # fmt: skip


def make(
    config: WatchModels, batch: PredictionBatch, truth: Sequence[Any], *, whole: bool = True
) -> Made:
    """Make rows a reference: of what inputs are, how good the version is, how sure it may be.

    batch   in the order of time; truth (n,) their labels, None = not known
    whole   they are of all hours in which the model serves
    """
    tenures = Tenures(config, lambda _model, _version: None, Numbers(config))
    model = ModelState.new(batch.model, config)
    version = tenures.fitted(model, batch.version)
    version.drift.fit(batch.features, whole=whole)
    n = len(batch.ts)
    numbers = predicted_numbers(version, batch.pred)
    said = predicted_classes(model, version, batch.pred, n)
    known = numbers_of(truth) if numbers is not None else model.class_numbers(truth)
    some = np.isfinite(known) if numbers is not None else (known >= 0) & (said >= 0)
    mix_rows, accuracy, accuracy_rows = 0.0, math.nan, 0.0
    mix, sums = np.zeros(CLASSES + 1), np.zeros(6)
    if numbers is None:
        counts = np.bincount(np.minimum(said[said >= 0], CLASSES), minlength=CLASSES + 1)
        mix, mix_rows = counts / max(1, counts.sum()), float(counts.sum())
        version.mix = mix
        if some.any():
            accuracy = float((said[some] == known[some]).mean())
            accuracy_rows = float(np.count_nonzero(some))
    else:
        sums = sums_of(known.astype(np.float64), numbers)
    coded = version.drift.code(n, batch.features)
    sure = np.asarray(batch.proba, dtype=np.float64)
    sure = np.where((sure >= 0.0) & (sure <= 1.0), sure, np.nan)  # percent, or nonsense
    beside.fit(model, version, batch, Said(math.nan, said, numbers, sure), known, whole=whole)
    labelled = tenures.labelled(version.drift)
    classes = max(2, len(model.classes)) if numbers is None else 0
    kind = np.int64 if classes else np.float64
    if some.any():
        rows = LabelledRows(
            (said if numbers is None else numbers)[some].astype(kind), known[some].astype(kind),
            sure[some], coded.marks[some],
            slices_of(coded.slices, sure, model.tags.code(batch.tags, slice(None), n))[:, some],
        )  # fmt: skip
        labelled.fit(rows, classes, model.answer(version) if classes else None)
    return Made(
        version.drift.dump(), labelled.dump() if some.any() else b"",
        version.outputs.drift.dump(), version.parts.dump(), tuple(model.classes),
        mix, mix_rows, accuracy, accuracy_rows, sums, numbers is not None,
    )  # fmt: skip


def learn(config: WatchModels, features: Mapping[str, Any]) -> bytes:
    """Return the state of features to which their first rows are the reference."""
    drift, _ = Tenures(config, lambda _model, _version: None, Numbers(config)).features(None, ())
    drift.fit(features, whole=False)
    return drift.dump()


# ---------------------------------------------------------------- in the worker process


class _Wanted(Model):
    """One training: of a file, or of columns that go with it."""

    models: WatchModels
    path: Path | None = None
    """File of rows."""
    model: str = ""
    columns: dict[str, list[str | None]] = {}
    """Column -> its texts, of which the values are numbers; [] = it holds numbers."""


@registry.trainer(TRAINER)
class ReferenceTrainer:
    """Makes references; see `file_job` and `learn_job`."""

    Config = _Wanted

    @staticmethod
    def train(config: _Wanted, ts: FloatArray, values: FloatArray) -> bytes:
        """Return a packed Made of the file, else the state of features that learnt from the rows (k, columns)."""
        del ts
        registry.load()
        if config.path is None:
            return learn(config.models, dict(zip(config.columns, _columns(config, values), strict=True)))  # fmt: skip
        try:
            batch, truth = read_rows(config.path, reader_of_rows(), config.model)
        except (OSError, ValueError, Unavailable) as error:  # a person must look at the file
            raise Refused(str(error)) from None
        return make(config.models, batch, truth).pack()


def file_job(config: WatchModels, model: str, path: Path) -> Job:
    """Return the training that makes the rows of a file the reference of a model."""
    wanted = _Wanted(models=config, path=path.absolute(), model=model)
    return Job(TRAINER, wanted.model_dump(mode="json"), np.zeros(0), np.zeros((0, 0)))


def learn_job(config: WatchModels, features: Mapping[str, Any]) -> Job:
    """Return the training that makes first rows the reference of their features."""
    words: dict[str, list[str | None]] = {}
    values = []
    for name, column in features.items():
        array = np.asarray(column)
        words[name] = []
        if array.dtype.kind == "O":
            known: dict[Any, int] = {}
            array = np.array([known.setdefault(_plain(v), len(known)) for v in array.tolist()])
            words[name] = list(known) or [None]
        values.append(array.astype(np.float64))
    wanted = _Wanted(models=config, columns=words)
    rows = np.stack(values, axis=1)
    return Job(TRAINER, wanted.model_dump(mode="json"), np.zeros(0), rows)


def _plain(value: Any) -> str | None:
    return None if value is None else str(value)


def _columns(config: _Wanted, values: FloatArray) -> list[Any]:
    out: list[Any] = []
    for words, column in zip(config.columns.values(), values.T, strict=True):
        texts = np.empty(len(words), dtype=object)
        texts[:] = words
        out.append(texts[column.astype(np.int64)] if words else np.ascontiguousarray(column))
    return out


# ---------------------------------------------------------------- what rows say


def predicted_numbers(version: VersionState, pred: Any) -> FloatArray | None:
    """Return the predictions of a regression (n,), None where it is none."""
    if pred is None or (version.reference is not None and version.reference.get("classes")):
        return None
    array = np.asarray(pred)
    return np.asarray(array, dtype=np.float64) if array.dtype.kind == "f" else None


def predicted_classes(model: ModelState, version: VersionState, pred: Any, rows: int) -> IntArray:
    """Return the classes that were predicted (rows,); -1 = none, or a number of a regression."""
    if pred is None or predicted_numbers(version, pred) is not None:
        return np.full(rows, -1, dtype=np.int64)
    return model.class_numbers(np.asarray(pred).tolist())


def slices_of(coded: Any, sure: FloatArray, tags: Any) -> Any:
    """Return the values (s + 1 + t, n) of the slicings of features, of how sure a row was, of tags; 255 = none."""
    last = np.where(np.isnan(sure), 255, np.searchsorted(SURE, sure)).astype(np.uint8)
    return np.vstack([coded, last[None], tags])


def numbers_of(labels: Sequence[Any]) -> FloatArray:
    """Return labels of a regression (n,); NaN = no number."""
    out = np.full(len(labels), np.nan)
    for i, label in enumerate(labels):
        with contextlib.suppress(TypeError, ValueError):
            out[i] = float(label)
    return out
