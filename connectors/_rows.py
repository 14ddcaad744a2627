"""Columns of a table become rows of a model: batches of predictions, and the labels that stand beside them.

    columns (name -> (n,) values) + roles  -->  PredictionBatch for each model and version, LabelBatch

For what was not written for us: files of batch runs, indexes. What single values mean (classes or numbers, of which
class a probability is) is decided once, from the first rows, so that one chunk is read as the next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np

from agent.model import FloatArray
from agent.ports import LabelBatch, PredictionBatch
from agent.roles import Guess, epoch_unit
from agent.vectors import spread
from connectors._personal import Personal

Task = Literal["auto", "classification", "regression"]
Columns = Mapping[str, Any]

_MOST_TEXT: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST_CLASSES: Final = 50
_KNOWN: Final = frozenset(f.name for f in fields(PredictionBatch))


@dataclass(frozen=True, slots=True)
class Form:
    """How the columns of a table are read.

    roles       column -> role
    numbers     predictions and labels are numbers, not classes
    positive    the class that a single column of probabilities speaks of; "" = of the predicted class
    """

    roles: Mapping[str, str]
    numbers: bool
    positive: str

    def of(self, role: str) -> list[str]:
        """Return the columns of a role."""
        return [name for name, r in self.roles.items() if r == role]

    def one(self, role: str) -> str | None:
        """Return the column of a role."""
        return next(iter(self.of(role)), None)

    @classmethod
    def find(cls, guesses: Sequence[Guess], head: Columns, task: Task) -> Form:
        """Decide from the first rows of a table."""
        form = cls({g.column: g.role for g in guesses}, numbers=task == "regression", positive="")
        answers = [head[c] for c in (form.one("prediction"), form.one("label")) if c is not None]
        numbers = form.numbers or (task == "auto" and any(_fractions(a) for a in answers))
        return cls(form.roles, numbers, "" if numbers else form._positive(head))

    def _positive(self, head: Columns) -> str:
        """Return the class that a single probability speaks of: the one where it is high."""
        shares, pred = self.of("probability"), self.one("prediction")
        if len(shares) != 1:
            return ""
        p = _floats(head[shares[0]])
        if pred is None:
            return "1"
        said = _classes(head[pred])
        names: list[str] = sorted({c for c in said if c is not None})
        if len(names) > 2 or not (p < 0.5).any():
            return ""
        means = {c: float(np.nanmean(p[[s == c for s in said]])) for c in names}
        return max(means, key=lambda c: means[c])


class Rows:
    """Makes batches of chunks of columns; `bad` counts rows that cannot be taken."""

    def __init__(
        self, form: Form, model: str, version: str, personal: Personal | None = None
    ) -> None:
        self._personal = personal or Personal()
        self.form = form
        self.model = model
        self.version = version
        self.bad = 0

    def batches(self, columns: Columns, ts: float, *, alone: bool = False) -> list[PredictionBatch]:
        """Return a batch for each model and version; rows without a time are of `ts`.

        Rows that have a label and no answer are labels that come late; `alone`: they are the rows themselves.
        """
        form, n = self.form, _length(columns)
        answered = form.one("prediction") or form.of("probability")
        if not answered and form.one("label") and form.one("id") and not alone:
            return []
        pred, proba = self._answers(columns, n)
        whole: dict[str, Any] = {
            "ts": self._times(columns, n, ts), "ids": self._ids(columns, n), "pred": pred, "proba": proba,
            "latency_s": self._latency(columns, n), "status": self._status(columns, n),
        }  # fmt: skip
        features: dict[str, Any] = {}
        for column in form.of("feature"):
            features |= self._feature(column.removeprefix("features."), columns[column])
        tags: dict[str, Any] = {}
        for name in form.of("segment"):
            if (fate := self._personal.fate(name)) != "drop":
                said = texts(columns[name])
                tags[name] = self._personal.column(said.tolist()) if fate == "hash" else said
        out = []
        for model, version, at in self._groups(columns, n):
            part: dict[str, Any] = {
                key: None if value is None else value[at] for key, value in whole.items()
            }
            more: dict[str, Any] = {"tags": {k: v[at] for k, v in tags.items()}}
            out.append(
                PredictionBatch(
                    model=model, version=version, ts=part["ts"], ids=tuple(part["ids"].tolist()),
                    features={k: v[at] for k, v in features.items()}, pred=part["pred"], proba=part["proba"],
                    latency_s=part["latency_s"], processing_s=np.full(len(part["ts"]), np.nan),
                    status=part["status"], **{k: v for k, v in more.items() if k in _KNOWN and v},
                )
            )  # fmt: skip
        self.bad += n - sum(len(b.ts) for b in out)
        return out

    def labels(self, columns: Columns, ts: float) -> list[LabelBatch]:
        """Return the labels of rows that have one and an id."""
        name, n = self.form.one("label"), _length(columns)
        if name is None or self.form.one("id") is None:
            return []
        said, ids, times = self.truth(columns), self._ids(columns, n), self._times(columns, n, ts)
        of: dict[str, list[int]] = {}
        for model, _, at in self._groups(columns, n):
            rows = np.arange(n)[at].tolist()
            of.setdefault(model, []).extend(i for i in rows if said[i] is not None and ids[i])
        return [
            LabelBatch(m, times[at], tuple(ids[i] for i in at), tuple(said[i] for i in at))
            for m, at in ((m, sorted(some)) for m, some in of.items() if some)
        ]

    def truth(self, columns: Columns) -> list[Any]:
        """Return the label of every row, None = none."""
        name = self.form.one("label")
        if name is None:
            return [None] * _length(columns)
        if not self.form.numbers:
            return _classes(columns[name])
        return [None if math.isnan(v) else v for v in _floats(columns[name]).tolist()]

    # ---- single roles

    def _feature(self, name: str, values: Any) -> dict[str, Any]:
        """Return what stands for a feature: nothing, hashes, the numbers of a vector, or its values."""
        fate = self._personal.fate(name)
        if fate == "drop":
            return {}
        if fate == "hash":
            return {name: self._personal.column(texts(values).tolist())}
        return _vectors(name, values) or {name: _feature(values)}

    def _groups(self, columns: Columns, n: int) -> list[tuple[str, str, Any]]:
        """Return model, version and positions of the rows of each; the others have no name that can be one."""
        by = {role: self.form.one(role) for role in ("model", "version")}
        if not any(by.values()):
            return [(self.model, self.version, slice(None))]
        models = _names(columns, by["model"], self.model, n)
        versions = _names(columns, by["version"], self.version, n)
        found: dict[tuple[str, str], list[int]] = {}
        for i, key in enumerate(zip(models, versions, strict=True)):
            if _NAME.fullmatch(key[0]) and (not key[1] or _NAME.fullmatch(key[1])):
                found.setdefault(key, []).append(i)
        return [(model, version, np.array(at)) for (model, version), at in found.items()]

    def _ids(self, columns: Columns, n: int) -> Any:
        name = self.form.one("id")
        out = np.full(n, "", dtype=object)
        if name is not None:
            out[:] = ["" if v is None else v for v in _classes(columns[name])]
        return out

    def _times(self, columns: Columns, n: int, ts: float) -> FloatArray:
        name = self.form.one("ts")
        found = seconds(columns[name]) if name is not None else np.full(n, np.nan)
        return np.where(np.isnan(found), ts, found)

    def _latency(self, columns: Columns, n: int) -> FloatArray:
        name = self.form.one("latency")
        if name is None:
            return np.full(n, np.nan)
        return _floats(columns[name]) / (1000.0 if name.lower().endswith("ms") else 1.0)

    def _status(self, columns: Columns, n: int) -> Any:
        name = self.form.one("status")
        if name is None:
            return np.full(n, 200, dtype=np.int64)
        return np.nan_to_num(_floats(columns[name]), nan=200.0).astype(np.int64)

    def _answers(self, columns: Columns, n: int) -> tuple[Any, FloatArray]:
        """Return predictions and the probability of what was predicted."""
        name, shares = self.form.one("prediction"), self.form.of("probability")
        if self.form.numbers and name is not None:
            return _floats(columns[name]), np.full(n, np.nan)
        said = _classes(columns[name]) if name is not None else None
        p = (
            np.stack([_floats(columns[s]) for s in shares], axis=1)
            if shares
            else np.full((n, 1), np.nan)
        )
        p = np.where((p >= 0) & (p <= 1), p, np.nan)
        if len(shares) > 1:
            said, proba = _of_many(said, p, shares)
        elif said is None and shares:
            high = p[:, 0] >= 0.5
            said = ["1" if h else "0" for h in high.tolist()]
            said = [c if known else None for c, known in zip(said, ~np.isnan(p[:, 0]), strict=True)]
            proba = np.where(high, p[:, 0], 1 - p[:, 0])
        elif self.form.positive and said is not None:
            is_it = np.array([c == self.form.positive for c in said])
            proba = np.where(is_it, p[:, 0], 1 - p[:, 0])
        else:
            proba = p[:, 0]
        return (None if said is None else _objects(said)), proba


def _of_many(
    said: list[Any] | None, p: FloatArray, shares: Sequence[str]
) -> tuple[list[Any], FloatArray]:
    """Return predictions and their probability from a column for each class: its name ends with the class."""
    start = len(_prefix(shares))
    names = [s[start:] for s in shares]
    best = np.nan_to_num(p, nan=-1.0).argmax(axis=1)
    if said is None:
        said = [names[i] for i in best.tolist()]
    column = [names.index(c) if c in names else b for c, b in zip(said, best.tolist(), strict=True)]
    return said, p[np.arange(len(p)), column]


def _prefix(names: Sequence[str]) -> str:
    """Return what names begin with alike, up to the last mark that parts words."""
    low, high = min(names), max(names)
    alike = [a == b for a, b in zip(low, high, strict=False)]
    same = alike.index(False) if False in alike else len(alike)
    cut = max(low.rfind(mark, 0, same) for mark in "_-. :")
    return low[: cut + 1]


# ---- values


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def _fractions(values: Any) -> bool:
    """Tell whether values are numbers of a scale: fractions, or whole ones of which there are many."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        return False
    x = array[np.isfinite(array.astype(np.float64))]
    return bool(len(x)) and (bool((x != np.floor(x)).any()) or len(np.unique(x)) > _MOST_CLASSES)


def _floats(values: Any) -> FloatArray:
    """Return (n,) float64, NaN for what is no number."""
    array = np.asarray(values)
    if array.dtype.kind == "M":
        return seconds(array)
    if array.dtype.kind in "fiub":
        out = array.astype(np.float64)
    else:
        out = np.array([_number(v) for v in array.tolist()], dtype=np.float64)
    out[np.isinf(out)] = np.nan
    return out


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _classes(values: Any) -> list[Any]:
    """Return values as classes, one text for 1, 1.0 and "1"; None = missing."""
    return [_class(v) for v in np.asarray(values).tolist()]


def _class(value: Any) -> str | None:
    if value is None or value != value:  # noqa: PLR0124  # NaN
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)[:_MOST_TEXT]


def _names(columns: Columns, name: str | None, default: str, n: int) -> list[str]:
    if name is None:
        return [default] * n
    return [default if c is None else c for c in _classes(columns[name])]


def _objects(values: list[Any]) -> Any:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def texts(values: Any) -> Any:
    """Return values as objects of text, None for missing."""
    return _objects(_classes(values))


def _vectors(name: str, values: Any) -> dict[str, FloatArray]:
    array = np.asarray(values)
    return spread(name, array.tolist()) if array.dtype.kind == "O" else {}


def _feature(values: Any) -> Any:
    """Return a feature as `PredictionBatch` wants it: float64, or objects of text where one is no number."""
    array = np.asarray(values)
    if array.dtype.kind in "fiubM":
        return _floats(array)
    listed = array.tolist()
    if all(v is None or isinstance(v, bool | int | float) for v in listed):
        return _floats(array)
    return texts(array)


def seconds(values: Any) -> FloatArray:
    """Return times as unix seconds: of times, of numbers since 1970 in any usual unit, of ISO texts; NaN = none."""
    array = np.asarray(values)
    if array.dtype.kind == "M":
        micros = array.astype("datetime64[us]")
        out = micros.astype(np.int64) / 1e6
        out[np.isnat(micros)] = np.nan
        return out
    if array.dtype.kind == "O" and any(isinstance(v, str) for v in array.tolist()):
        return np.array([_moment(v) for v in array.tolist()], dtype=np.float64)
    x = _floats(array)
    known = x[np.isfinite(x)]
    unit = epoch_unit(float(known.min()), float(known.max())) if len(known) else None
    return x / unit if unit else np.full(len(x), np.nan)


def _moment(value: Any) -> float:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return math.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
