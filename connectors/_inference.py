"""Predictions that pass, counted by model, version, variant and minute: what is told of them elsewhere.

    rows --(minute of the prediction)--> windows --(a while after the minute is over)--> one summary each

A row that comes after its minute was told opens a second window of that minute: summaries add up. Cost: 40 us a
batch and .2 us a row; 1.2 kB a window.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from agent.model import FloatArray
from agent.ports import LabelBatch, Logged, PredictionBatch, SketchBatch

MINUTE: Final = 60.0
WAIT_S: Final = 30.0
"""How long after its minute a window stays open for rows that are on their way."""
_AGAIN_S: Final = 600.0
"""Logs that are read again after a kill have caught up by then."""
_MOST: Final = 2000
_CLASSES: Final = 20
_MOST_CLASSES: Final = 1000
_EDGES: Final = np.geomspace(1e-3, 100.0, 76)
"""Of latencies: 17 % from one to the next."""
_MIDDLE: Final = [round(x, 6) for x in [_EDGES[0], *np.sqrt(_EDGES[1:] * _EDGES[:-1]), _EDGES[-1]]]


@dataclass(slots=True)
class _Window:
    """One minute of one version; opened: when its first row came."""

    opened: float
    rows: int = 0
    failed: int = 0
    latency: FloatArray = field(default_factory=lambda: np.zeros(len(_EDGES) + 1))
    latency_s: float = 0.0
    slowest_s: float = 0.0
    sure: float = 0.0
    sure_rows: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0
    numbers: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    tokens_in: int = 0
    tokens_out: int = 0


Key = tuple[str, str, str, int]


class Windows:
    """Counts rows. told: the newest minute of which a summary was written.

    again_before   rows of minutes up to this were told before a kill: what is read again of them is left out
    """

    def __init__(self, again_before: float = -math.inf, begun: float = 0.0) -> None:
        self.told = again_before
        self.skipped = 0
        self._again_before = again_before
        self._until = begun + _AGAIN_S
        self._open: dict[Key, _Window] = {}

    def take(self, rows: Logged, now: float) -> None:
        """Count a batch; labels are no inference."""
        if isinstance(rows, LabelBatch):
            return
        if isinstance(rows, SketchBatch):
            window = self._at(rows.model, rows.version, rows.variant, rows.until, now)
            if window is not None:
                window.rows += rows.rows
                window.failed += rows.failed
            return
        minutes = np.floor_divide(rows.ts, MINUTE)
        for minute in np.unique(minutes).tolist():
            window = self._at(rows.model, rows.version, rows.variant, minute * MINUTE, now)
            if window is not None:
                _count(window, rows, np.flatnonzero(minutes == minute))
            else:
                self.skipped += int((minutes == minute).sum())

    def _at(self, model: str, version: str, variant: str, ts: float, now: float) -> _Window | None:
        minute = int(ts // MINUTE)
        if now < self._until and minute * MINUTE <= self._again_before:
            return None
        return self._open.setdefault((model, version, variant, minute), _Window(now))

    def closed(
        self, now: float, *, every: bool = False
    ) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """Yield what is over, and forget it: a key that is never used again, the minute, and its figures."""
        over = [
            key for key, w in self._open.items()
            if every or now >= max((key[3] + 1) * MINUTE, w.opened) + WAIT_S
        ]  # fmt: skip
        over += sorted(self._open.keys() - set(over), key=lambda k: k[3])[
            : max(0, len(self._open) - len(over) - _MOST)
        ]
        for key in over:
            window = self._open.pop(key)
            model, version, variant, minute = key
            self.told = max(self.told, minute * MINUTE)
            name = f"inference:{model}:{version}:{variant}:{minute}:{window.opened:.6f}"
            yield name, minute * MINUTE, _figures(window) | _whose(model, version, variant)


def rows_of(batch: PredictionBatch) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield each row of a batch: a key that is the same when it is read again, its time, and what it says."""
    n = len(batch.ts)
    features = {name: _plain(column) for name, column in batch.features.items()}
    tags = {name: _plain(column) for name, column in batch.tags.items()}
    pred = _plain(batch.pred)
    whose = _whose(batch.model, batch.version, batch.variant)
    few = {
        name: _plain(column)
        for name, column in (
            ("tokens_in", batch.tokens_in),
            ("tokens_out", batch.tokens_out),
            ("finish", batch.finish),
        )
        if column is not None
    }
    confidence, latency = _plain(batch.proba), _plain(batch.latency_s)
    times: Counter[str] = Counter()
    for i in range(n):
        row: dict[str, Any] = {
            **whose, "id": batch.ids[i], "confidence": confidence[i], "latency": latency[i],
            "status": int(batch.status[i]), "features": _told(features, i), "tags": _told(tags, i),
        }  # fmt: skip
        if pred[i] is not None:
            row["value" if isinstance(pred[i], float) else "prediction"] = pred[i]
        for name, column in few.items():
            if column[i] is not None:
                row[name] = column[i] if name == "finish" else int(column[i])
        row = {k: v for k, v in row.items() if v not in (None, "", {})}
        ts = float(batch.ts[i])
        if batch.ids[i]:
            key = f"row:{batch.model}:{batch.version}:{batch.variant}:{batch.ids[i]}"
        else:
            whole = hashlib.sha256(repr((ts, sorted(row.items(), key=str))).encode()).hexdigest()
            times[whole] += 1
            key = f"row:{whole}:{times[whole]}"
        yield key, ts, row


def _count(window: _Window, rows: PredictionBatch, at: Any) -> None:
    window.rows += len(at)
    status = rows.status[at]
    window.failed += int(((status >= 500) | (status == 0)).sum())
    latency = rows.latency_s[at]
    latency = latency[np.isfinite(latency)]
    if len(latency):
        window.latency += np.bincount(np.searchsorted(_EDGES, latency), minlength=len(_EDGES) + 1)
        window.latency_s += float(latency.sum())
        window.slowest_s = max(window.slowest_s, float(latency.max()))
    sure = rows.proba[at]
    sure = sure[np.isfinite(sure)]
    window.sure += float(sure.sum())
    window.sure_rows += len(sure)
    pred = rows.pred[at]
    if pred.dtype == object:
        window.classes.update(p for p in pred.tolist() if p is not None)
        if len(window.classes) > _MOST_CLASSES:  # free text, not classes
            first = Counter(dict(window.classes.most_common(_CLASSES)))
            window.unnamed += window.classes.total() - first.total()
            window.classes = first
    else:
        pred = pred[np.isfinite(pred)]
        if len(pred):
            window.numbers += len(pred)
            window.total += float(pred.sum())
            window.least = min(window.least, float(pred.min()))
            window.most = max(window.most, float(pred.max()))
    for name in ("tokens_in", "tokens_out"):
        column = getattr(rows, name)
        if column is not None:
            setattr(window, name, getattr(window, name) + int(np.nansum(column[at])))


def _figures(w: _Window) -> dict[str, Any]:
    out: dict[str, Any] = {"rows": w.rows, "failed": w.failed}
    timed = int(w.latency.sum())
    if timed:
        filled = np.flatnonzero(w.latency).tolist()
        out["latency"] = {
            "histogram": {
                "values": [_MIDDLE[i] for i in filled], "counts": [int(w.latency[i]) for i in filled],
            },
            "mean": w.latency_s / timed, "max": w.slowest_s,
        }  # fmt: skip
    if w.sure_rows:
        out["confidence"] = {"mean": w.sure / w.sure_rows}
    if w.numbers:
        out["prediction"] = {"mean": w.total / w.numbers, "min": w.least, "max": w.most}
    if w.classes:
        first = w.classes.most_common(_CLASSES)
        rest = w.classes.total() + w.unnamed - sum(n for _, n in first)
        out["classes"] = [{"name": c, "rows": n} for c, n in first] + (
            [{"name": "(other)", "rows": rest}] if rest else []
        )
    for name in ("tokens_in", "tokens_out"):
        if getattr(w, name):
            out[name] = getattr(w, name)
    return out


def _whose(model: str, version: str, variant: str) -> dict[str, str]:
    return (
        {"model": model}
        | ({"version": version} if version else {})
        | ({"variant": variant} if variant else {})
    )


def _plain(column: Any) -> list[Any]:
    """Return values that JSON can carry; None = not known."""
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in column.tolist()]


def _told(columns: Mapping[str, list[Any]], i: int) -> dict[str, Any]:
    return {name: values[i] for name, values in columns.items() if values[i] is not None}
