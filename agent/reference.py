"""What a model version is used to, made from rows: the reference.json that drift and quality are held against.

    maker = Maker()
    for batch, truth in rows:       # columns as in PredictionBatch, and what was true (None = not known)
        maker.take(batch, truth)
    write_json(path, maker.made())

Good for training sets, a first batch run, a stretch of logs. Of numbers: quantile bins, range, median; of categories:
shares of values; of answers: shares of classes, mean probability, accuracy where labels are. Never a row.
Memory: `SAMPLE_ROWS` rows and the counts of the commonest values; quantiles are those of a random sample of rows, with
a fixed seed, so that the same file gives the same reference. Shares, range and accuracy are of all rows.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.model import FloatArray
from agent.ports import PredictionBatch
from agent.roles import Guess

SAMPLE_ROWS: Final = 50_000
MOST_ROWS: Final = 20_000
"""Of a reference that is kept as rows for a while: the newest."""
_BINS: Final = 20
_MOST_VALUES: Final = 10_000
_KEPT_VALUES: Final = 1000


class RowFiles(Protocol):
    """A connector that reads files of rows."""

    @staticmethod
    def rows_of(
        path: Path, columns: Mapping[str, str], model: str, version: str, task: Any = "auto"
    ) -> Iterator[tuple[PredictionBatch, list[Any]]]:
        """Yield the rows with the truth of each."""
        ...

    @staticmethod
    def guesses_of(path: Path, columns: Mapping[str, str]) -> tuple[Guess, ...]:
        """Return the roles of its columns."""
        ...


def reader_of_rows() -> type[RowFiles]:
    """Return the connector that reads files of rows; raises Refused where none is installed."""
    for name in registry.connector:
        found = registry.connector.get(name)
        if hasattr(found, "rows_of"):
            return cast("type[RowFiles]", found)
    raise Refused("no connector here reads files of rows")


class _Numbers:
    """A numeric column: what is exact; quantiles come from the sample."""

    def __init__(self) -> None:
        self.known = 0
        self.low, self.high = np.inf, -np.inf

    def take(self, x: FloatArray) -> None:
        known = x[np.isfinite(x)]
        self.known += len(known)
        if len(known):
            self.low, self.high = min(self.low, known.min()), max(self.high, known.max())


class Maker:
    """Makes a reference of rows, in one pass."""

    def __init__(self) -> None:
        self.rows = 0
        self._random = np.random.default_rng(1)
        self._keys: FloatArray = np.zeros(0)
        self._sample: dict[str, Any] = {}
        self._numbers: dict[str, _Numbers] = {}
        self._values: dict[str, Counter[str]] = {}
        self._classes: Counter[str] = Counter()
        self._right = self._judged = 0
        self._sure, self._sured = 0.0, 0
        self._labelled = 0

    def take(self, batch: PredictionBatch, truth: Sequence[Any] = ()) -> None:
        """Count a batch; `truth` is () or one for each row, None = not known."""
        n = len(batch.ts)
        keys = np.concatenate((self._keys, self._random.random(n)))
        keep = np.argsort(keys, kind="stable")[:SAMPLE_ROWS] if len(keys) > SAMPLE_ROWS else None
        for name, column in batch.features.items():
            self._feature(name, np.asarray(column))
        for name in self._sample:
            column = (
                np.asarray(batch.features[name]) if name in batch.features else np.full(n, None)
            )
            if name in self._numbers:
                column = _floats(column)
                joined = np.concatenate((self._sample[name], column))
                self._sample[name] = joined if keep is None else joined[keep]
        self._keys = keys if keep is None else keys[keep]
        self.rows += n
        self._answers(batch, truth)

    def _feature(self, name: str, column: Any) -> None:
        if name not in self._sample:
            self._sample[name] = np.full(len(self._keys), np.nan)
            if column.dtype.kind == "O":
                self._values[name] = Counter()
            else:
                self._numbers[name] = _Numbers()
        if name in self._numbers:
            self._numbers[name].take(_floats(column))
            return
        counts = self._values[name]
        counts.update(_text(v) for v in column.tolist() if v is not None and v == v)  # noqa: PLR0124  # NaN
        if len(counts) > _MOST_VALUES:  # the rare ones: what is common comes again
            self._values[name] = Counter(dict(counts.most_common(_MOST_VALUES // 2)))

    def _answers(self, batch: PredictionBatch, truth: Sequence[Any]) -> None:
        sure = batch.proba[np.isfinite(batch.proba)]
        self._sure, self._sured = self._sure + float(sure.sum()), self._sured + len(sure)
        self._labelled += sum(t is not None for t in truth)
        if batch.pred is None or np.asarray(batch.pred).dtype.kind == "f":
            return
        said = np.asarray(batch.pred).tolist()
        self._classes.update(_text(p) for p in said if p is not None)
        both = [
            (p, t) for p, t in zip(said, truth, strict=False) if p is not None and t is not None
        ]
        self._judged += len(both)
        self._right += sum(_text(p) == _text(t) for p, t in both)

    def made(self) -> dict[str, Any]:
        """Return the reference; raises Refused when there were no rows or no features."""
        if not self.rows or not self._sample:
            what = "features" if self.rows else "rows"
            raise Refused(f"no {what}: nothing to make a reference of")
        out: dict[str, Any] = {"rows": self.rows}
        if self._judged:
            out["accuracy"] = self._right / self._judged
        if self._sured:
            out["confidence"] = self._sure / self._sured
        if self._classes:
            total = self._classes.total()
            out["classes"] = {c: n / total for c, n in self._classes.most_common(_KEPT_VALUES)}
        out["features"] = {
            name: self._described(name) for name in sorted(self._sample) if self._seen(name)
        }
        return out

    @property
    def labelled(self) -> int:
        """Rows with a label."""
        return self._labelled

    def _seen(self, name: str) -> bool:
        return bool(self._numbers[name].known if name in self._numbers else self._values[name])

    def _described(self, name: str) -> dict[str, Any]:
        if name in self._values:
            counts = self._values[name]
            return {
                "values": {v: n / self.rows for v, n in counts.most_common(_KEPT_VALUES)},
                "missing": max(0.0, 1 - counts.total() / self.rows) if len(counts) < _MOST_VALUES // 2 else 0.0,
            }  # fmt: skip
        about = self._numbers[name]
        sample = self._sample[name]
        sample = sample[np.isfinite(sample)]
        edges = (
            np.unique(np.quantile(sample, np.linspace(0, 1, _BINS + 1)))
            if len(sample)
            else np.array([about.low])
        )
        if len(edges) == 1:  # a constant
            edges = np.array([edges[0], np.nextafter(edges[0], np.inf)])
        inside, _ = np.histogram(sample, edges)
        return {
            "edges": edges.tolist(),
            "shares": (inside / max(1, inside.sum())).tolist(),
            "missing": 1 - about.known / self.rows,
            "min": float(about.low),
            "max": float(about.high),
            "median": float(np.median(sample)) if len(sample) else float(about.low),
        }


def _floats(column: Any) -> FloatArray:
    array = np.asarray(column)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    out = np.full(len(array), np.nan)
    for i, value in enumerate(array.tolist()):
        try:
            out[i] = float(value)
        except (TypeError, ValueError):
            continue
    return out


def _text(value: Any) -> str:
    """Return a value as one text, 1.0 as 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def read_rows(
    path: Path, reader: type[RowFiles], model: str, most: int = MOST_ROWS
) -> tuple[PredictionBatch, list[Any]]:
    """Return the last rows of a file, in its order, and their truth (None = no label); blocks as long as it takes.

    Raises OSError, ValueError or Refused.
    """
    kept: deque[tuple[PredictionBatch, list[Any]]] = deque()
    rows = 0
    for batch, truth in reader.rows_of(path, {}, model, ""):
        kept.append((batch, truth))
        rows += len(truth)
        while rows - len(kept[0][1]) >= most:
            rows -= len(kept.popleft()[1])
    if not kept:
        raise Refused(f"{path} has no rows: a reference is made of some thousand")
    first = kept[0][0]

    def whole(get: Callable[[PredictionBatch], Any]) -> Any:
        return np.concatenate([np.asarray(get(batch)) for batch, _ in kept])

    names = [n for n in first.features if all(n in batch.features for batch, _ in kept)]
    return replace(
        first,
        ts=whole(lambda b: b.ts), ids=("",) * rows,
        features={n: np.concatenate([np.asarray(b.features[n]) for b, _ in kept]) for n in names},
        pred=None if first.pred is None else whole(lambda b: b.pred),
        proba=whole(lambda b: b.proba), latency_s=whole(lambda b: b.latency_s),
        processing_s=whole(lambda b: b.processing_s), status=whole(lambda b: b.status),
        traces=(), classes=(), shares=None, tags={}, tokens_in=None, tokens_out=None, ttft_s=None, finish=None,
    ), [label for _, truth in kept for label in truth]  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Read a reference; raises OSError, ValueError."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no reference: not a JSON object")  # noqa: TRY004  # like every other damage of it
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file whole: whoever reads it sees the old or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(value, out, indent=1, allow_nan=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    Path(name).chmod(0o644)
    Path(name).replace(path)
