"""Questions that need rows, or the model itself, which the daemon keeps neither of: asked of files, by `homeostat`.

    rows + rows of the reference --"domain"--> whether anybody can tell them apart, and by which features
    a record + reference + the model --shapley--> what each feature adds to its answer

Rows are read, looked at and forgotten; nothing goes to the daemon.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent import registry, vectors
from agent.config import WatchModels
from agent.errors import Refused, Unavailable
from agent.model import FloatArray
from agent.ports import PredictionBatch
from agent.reference import read_rows, reader_of_rows
from agent.units import say

_ORDERS: Final = 200
_ASKED_ROWS: Final = 500
Model = Callable[[list[dict[str, Any]]], Any]
"""Rows, name -> value, to an answer each: a number, or probabilities of which the last is meant."""


def rows_of(path: Path, model: str) -> PredictionBatch:
    """Return the newest rows of a file; raises Refused."""
    try:
        return read_rows(path, reader_of_rows(), model)[0]
    except (OSError, ValueError, Unavailable) as wrong:
        raise Refused(str(wrong)) from None


def reference_of(given: Path | None, config: WatchModels, model: str, version: str) -> Path:
    """Return the file of the rows that a version was made with: the one that is given, else that of the config."""
    found = given or config.reference.get(f"{model}/{version}") or config.reference.get(model)
    if found is None:
        raise Refused(
            f"no rows of a reference of {model} are known: name a file with --reference, or under models.reference"
        )
    return found


# ---------------------------------------------------------------- rows against rows


def apart(reference: PredictionBatch, rows: PredictionBatch) -> dict[str, Any]:
    """Return JSON-able facts: whether rows are told from those of the reference, and by what. Raises Refused."""
    old, new = reference.features, rows.features
    groups = {name: vectors.vector_of(name) for name in old}
    told = registry.drift.get("domain")(groups).tell(old, new)
    return {
        "model": rows.model, "rows": len(rows.ts), "reference_rows": len(reference.ts),
        "chance": {"value": told.chance, "low": told.low, "high": told.high},
        "evidence": told.evidence,
        "features": [
            {"name": name, "worth": worth, "said": _moved(name, old, new)}
            for name, worth in told.worth.items()
        ],
        "only_before": sorted(old.keys() - new.keys()), "only_now": sorted(new.keys() - old.keys()),
    }  # fmt: skip


def _moved(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say how a feature was and is."""
    if name not in old:
        parts = [part for part in old if vectors.vector_of(part) == name and part in new]
        cosines = [part for part in parts if part[len(name) + 1 :].isdigit()]
        distance, chance = vectors.discrepancy(
            *(np.column_stack([side[part] for part in cosines]) for side in (old, new))
        )
        return f"a vector; distance (MMD) {distance:.3f}, by chance {chance:.3f}"
    a, b = np.asarray(old[name]), np.asarray(new[name])
    if a.dtype.kind == b.dtype.kind == "f":
        was, now = (float(np.nanmedian(x)) if np.isfinite(x).any() else np.nan for x in (a, b))
        gone = float(np.isnan(b).mean() - np.isnan(a).mean())
        missing = f", missing in {gone:+.0%} of the rows" if abs(gone) > 0.005 else ""
        return f"median {now:.4g}, was {was:.4g}{missing}"
    shares = [_shares(x) for x in (a, b)]
    most = max(
        shares[0].keys() | shares[1].keys(),
        key=lambda v: (abs(shares[1].get(v, 0.0) - shares[0].get(v, 0.0)), v),
    )
    before, after = (say(side.get(most, 0.0), "ratio") for side in shares)
    return f"{most}: {after} of the rows, was {before}"


def _shares(values: Any) -> dict[str, float]:
    words, counts = np.unique([str(v) for v in values.tolist()], return_counts=True)
    return dict(zip(words.tolist(), (counts / counts.sum()).tolist(), strict=True))


# ---------------------------------------------------------------- the model asked itself


def model_at(where: str) -> Model:
    """Return the function `package.module:name`, also of a file in the working folder. Raises Refused."""
    module, _, name = where.partition(":")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  # as `python -m` does
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as wrong:
        raise Refused(
            f"{where} can not be imported ({wrong}); write package.module:function"
        ) from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise Refused(
            f"{where} is no function: it takes rows, name -> value, and returns a number each"
        )
    made: Model = found
    return made


def asked(record: Mapping[str, Any], reference: PredictionBatch, model: Model) -> dict[str, Any]:
    """Return JSON-able facts: what each feature adds to the model's answer to a record. Raises Refused.

    Features that the record leaves out are missing, as in the rows of the reference (None, or NaN).
    """
    features = reference.features
    if found := next((name for name in features if vectors.vector_of(name)), ""):
        raise Refused(
            f"{vectors.vector_of(found)} is a vector: the model can be asked of rows of single values only"
        )
    at = np.unique(np.linspace(0, len(reference.ts) - 1, _ASKED_ROWS).astype(np.int64))
    tables = [
        _Column(name, np.asarray(column)[at], record.get(name)) for name, column in features.items()
    ]
    if not tables or not any(name in features for name in record):
        raise Refused("the record has none of the features of the reference: give them by name")

    def answer(rows: FloatArray) -> FloatArray:
        columns = [table.values(rows[:, j]) for j, table in enumerate(tables)]
        names = [table.name for table in tables]
        return _numbers(
            model([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]),
            len(rows),
        )

    row = np.array([table.own for table in tables])
    rows = np.column_stack([table.reference for table in tables])
    parts = registry.drift.get("parts")
    told = parts.asked(answer, row, rows, np.random.default_rng(0), _ORDERS)
    order = np.argsort(-np.abs(told.parts), kind="stable")
    return {
        "model": reference.model, "answer": told.answer, "usual": told.usual,
        "drivers": [
            {"name": tables[i].name, "adds": float(told.parts[i]), "error": float(told.error[i])}
            for i in map(int, order)
        ],
    }  # fmt: skip


class _Column:
    """One feature as numbers, and back: texts have codes."""

    def __init__(self, name: str, values: Any, own: Any) -> None:
        self.name = name
        self._words: list[str | None] | None = None
        if values.dtype.kind == "f":
            self.reference: FloatArray = values
            try:
                self.own = float("nan") if own is None else float(own)
            except (TypeError, ValueError):
                raise Refused(
                    f"{name} is a number in the reference, and none in the record"
                ) from None
            return
        words = [None if v is None else str(v) for v in (*values.tolist(), own)]
        self._words = list(dict.fromkeys(words))
        codes = {word: float(i) for i, word in enumerate(self._words)}
        *some, self.own = (codes[word] for word in words)
        self.reference = np.array(some)

    def values(self, numbers: FloatArray) -> Sequence[Any]:
        """Return what the model is given."""
        if self._words is None:
            return list(numbers.tolist())
        return [self._words[int(code)] for code in numbers.tolist()]


def _numbers(answers: Any, rows: int) -> FloatArray:
    """Return one number a row."""
    try:
        found = np.asarray(answers, dtype=np.float64)
        found = found if found.ndim == 1 else found[:, -1]
    except (TypeError, ValueError, IndexError):
        found = np.zeros(0)
    if found.shape != (rows,):
        raise Refused(
            f"the model must return {rows} numbers for {rows} rows (or rows of probabilities)"
        )
    return found
