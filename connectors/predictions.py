"""Prediction logs and labels: files of JSON lines that grow, and the same records pushed over HTTP.

    {"id": "r-17", "ts": 1764000000.1, "model": "fraud", "version": "3", "features": {"age": 41.0, "country": "DE"},
     "pred": "0", "proba": 0.93, "latency_ms": 21.5, "processing_ms": 3.1, "status": 200,
     "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    {"id": "r-17", "model": "fraud", "label": "1", "ts": 1764003600.0}

Only `ts` is needed of a prediction, `id`, `label` and `ts` of a label. A record with both is both.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import structlog
from pydantic import Field

from agent.errors import Refused, Unavailable
from agent.ports import Arrival, LabelBatch, PredictionBatch, Route
from agent.registry import connector
from agent.units import Bytes, Duration, Model
from connectors._aside import Aside
from connectors._tail import Position, Tail, unpack

log = structlog.get_logger()

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TRACE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""W3C and B3 ids are 16 to 32 hex digits; others are words. They are shown on terminals: nothing else comes in."""
_MOST_FEATURES: Final = 2000
_MOST_TEXT: Final = 256
_MOST_PUSHED: Final = 20_000
_SECONDS: Final = 1e10
"""A time above this (the year 2286) is in milliseconds, by somebody's mistake."""
_PATIENCE_S: Final = 1.8
_KEEP_EVERY_S: Final = 2.0
_MARK_EVERY_S: Final = 15.0
_LABELS_AFTER: Final = 30
"""Labels are read at the latest in every 30th reading."""
_MOST_FILES: Final = 1000

Task = Literal["auto", "classification", "regression"]


@connector("predictions")
class Predictions:
    """What a model service said, and what turned out to be true.

    Feed      follows the files from where we were, through rotation and truncation, also after kill -9
    Receiver  POST /ingest/predictions: one object, an array, or JSON lines; all of it or nothing

    Positions are kept every 2 s. After a clean stop reading goes on exactly where it ended; after a kill it goes
    back as far as `again`, because what was learnt since the last checkpoint of the model watch is lost too: rows
    are then delivered at least once, and whoever takes them drops ids that it knows. Rows without an id may count
    twice for that stretch. A bad line is counted and skipped; the log tells of the first and then once a minute.
    Cost: about 20 us a row of eight features (one core, in a thread), in reads of at most `max_rows_per_read`.
    """

    class Config(Model):
        """Where the records come from."""

        path: Path | None = None
        """Log of predictions; `*` in the name follows several files (one a worker)."""
        labels: Path | None = None
        """Log of labels, when they are not in the same file; `*` as above."""
        model: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""
        """Model of records that do not name one."""
        task: Task = "auto"
        """What predictions and labels are; auto: fractions are numbers, all else are classes."""
        max_rows_per_read: Annotated[int, Field(ge=1, le=200_000)] = 10_000
        backlog: Bytes = 16e6
        """How far before its end a log is begun that we see for the first time."""
        again: Duration = 330.0
        """How far to go back after a kill: a little more than the time between checkpoints."""

    interval_s = 1.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._reader = Reader(config.model, config.task)
        self._aside = Aside(limit_s=_PATIENCE_S)
        self._places = _Places(
            state / "feeds" / f"{name}.json" if state is not None else None, config.again
        )
        self._tails: dict[Path, Tail] = {}
        self._waited = 0
        self._bad = 0
        self._told_at = -math.inf

    # ---- feed

    async def read(self) -> Sequence[Arrival]:
        """Return what has come, in the order of the files; raises Unavailable when a file cannot be read now."""
        if self.config.path is None and self.config.labels is None:
            return ()
        start = time.monotonic()
        self._aside.ask("read", self._read)
        await self._aside.settle(_PATIENCE_S)
        answer = self._aside.answer("read", time.monotonic() - start)
        if answer is None:
            raise Unavailable(
                f"the logs of {self.name} do not answer: look whether their mount hangs"
            )
        if answer.error is not None:
            raise answer.error
        got: _Got = answer.value
        # Only now, when the rows are sure to be taken, have we got so far.
        self._places.moved(got.places)
        self._complain(got)
        return got.arrivals

    def _read(self) -> _Got:
        """Read a share of every file, beside the event loop. Changes nothing that a second reading would miss."""
        self._places.keep()
        got = _Got()
        logs = self._paths(self.config.path)
        share = max(1, self.config.max_rows_per_read // max(1, len(logs)))
        lines: list[bytes] = []
        behind = False
        for path in logs:
            found = self._follow(path, share, got)
            behind = behind or len(found) >= share
            lines += found
        # A label must not come before its prediction, so labels wait while we catch up; but not for ever.
        self._waited = self._waited + 1 if behind else 0
        if self._waited % _LABELS_AFTER == 0:
            for path in self._paths(self.config.labels):
                lines += self._follow(path, self.config.max_rows_per_read, got)
        rows = self._reader.lines(lines)
        got.arrivals, got.first_bad = rows.arrivals(), rows.first_bad
        got.bad += rows.bad
        return got

    def _follow(self, path: Path, most: int, got: _Got) -> list[bytes]:
        """Read on in one file; note where that leads."""
        tail = self._tails.setdefault(path, Tail(path))
        here = self._places.now.get(str(path))
        found, there = tail.read(here, most, backlog_bytes=int(self.config.backlog))
        if there is not None and there != here:
            got.places[str(path)] = there
            got.bad += there.dropped - (here.dropped if here is not None else 0)
        return found

    def _paths(self, pattern: Path | None) -> list[Path]:
        """Return the files of a pattern: those there are, and those that we are in and that lost their name."""
        if pattern is None:
            return []
        if "*" not in pattern.name:
            return [pattern]
        known = (Path(name) for name in self._places.now)
        ours = (
            p for p in known if p.parent == pattern.parent and fnmatchcase(p.name, pattern.name)
        )
        return sorted({*pattern.parent.glob(pattern.name), *ours})

    def _complain(self, got: _Got) -> None:
        self._bad += got.bad
        if got.bad and time.monotonic() - self._told_at >= 60.0:
            self._told_at = time.monotonic()
            log.warning(
                "bad_records", source=self.name, new=got.bad, so_far=self._bad, first=got.first_bad
            )

    # ---- receiver

    def routes(self) -> Sequence[Route]:
        """Say the way in."""
        return (Route("/ingest/predictions", self._handle),)

    def _handle(self, body: bytes, content_type: str) -> Sequence[Arrival]:
        """Take one object, an array or JSON lines; raises Refused with the first bad record, then none is taken."""
        records = _records(body, content_type)
        if len(records) > _MOST_PUSHED:
            raise Refused(
                f"{len(records)} records at once, at most {_MOST_PUSHED}: send them in parts"
            )
        rows = self._reader.records(records)
        if rows.bad:
            raise Refused(rows.first_bad)
        return rows.arrivals()

    # ---- for people

    async def describe(self) -> Sequence[str]:
        """Say which files are followed and what is in their last lines; moves no position."""
        out = []
        for path in [*self._paths(self.config.path), *self._paths(self.config.labels)]:
            if not path.exists():
                out.append(f"{path}: not there yet")
                continue
            tail = Tail(path)
            try:
                lines, _ = tail.read(None, 1000, backlog_bytes=1 << 18)
            finally:
                tail.close()
            rows = self._reader.lines(lines)
            said = [
                f"{len(b.ids)} predictions of model:{b.model}"
                + (f" version {b.version}" if b.version else "")
                + f" with {len(b.features)} features"
                if isinstance(b, PredictionBatch)
                else f"{len(b.ids)} labels of model:{b.model}"
                for b in rows.arrivals()
                if isinstance(b, PredictionBatch | LabelBatch)
            ]
            bad = f", {rows.bad} bad records ({rows.first_bad})" if rows.bad else ""
            out.append(f"{path}: last {len(lines)} lines hold {', '.join(said) or 'nothing'}{bad}")
        out.append("takes POST /ingest/predictions")
        return out

    def close(self) -> None:
        """Keep where we are: the next start goes on exactly here."""
        self._places.close()
        self._aside.close()
        for tail in self._tails.values():
            tail.close()


@dataclass(slots=True)
class _Got:
    """One reading: rows, where the files stand after it, and what was wrong."""

    arrivals: Sequence[Arrival] = ()
    places: dict[str, Position] = field(default_factory=dict)
    bad: int = 0
    first_bad: str = ""


class _Places:
    """Where every file stands, on disk.

    `now` is what was delivered; `older` is where we were `again_s` ago, from which a start after a kill goes on.
    """

    def __init__(self, path: Path | None, again_s: float) -> None:
        self._path = path
        self._again_s = again_s
        self.now: dict[str, Position] = {}
        self._marks: deque[tuple[float, dict[str, Position]]] = deque()
        self._kept_at = -math.inf
        self._changed = False
        if path is not None:
            self._load(path)
        self._marks.append((time.monotonic(), dict(self.now)))

    def _load(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kept = data["now"] if data["clean"] else data["older"]
            self.now = {
                name: place for name, one in kept.items() if (place := unpack(one)) is not None
            }
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as damage:
            log.warning(
                "positions_not_read",
                file=str(path),
                error=str(damage),
                remedy="begins near the ends",
            )
            return
        self._changed = bool(data["clean"])  # from now on a kill may come

    def moved(self, places: Mapping[str, Position]) -> None:
        """Note what was delivered."""
        if not places:
            return
        self.now = {**self.now, **places}
        if len(self.now) > _MOST_FILES:
            self.now = {name: place for name, place in self.now.items() if Path(name).exists()}
        self._changed = True
        now = time.monotonic()
        if now - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append((now, dict(self.now)))
        while len(self._marks) > 1 and now - self._marks[1][0] >= self._again_s:
            self._marks.popleft()

    def keep(self) -> None:
        """Write them, now and then."""
        if self._changed and time.monotonic() - self._kept_at >= _KEEP_EVERY_S:
            self._write(clean=False)

    def close(self) -> None:
        """Write that all is well."""
        self._write(clean=True)

    def _write(self, *, clean: bool) -> None:
        if self._path is None:
            return
        older = self._marks[0][1]
        data = {
            "clean": clean,
            "now": {name: place.pack() for name, place in self.now.items()},
            # a file that was not known then is begun as at first sight
            "older": {name: older[name].pack() for name in self.now if name in older},
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._path.with_suffix(".new")
            with fresh.open("w", encoding="utf-8") as out:
                json.dump(data, out)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self._path)
        except OSError as wrong:
            log.warning("positions_not_kept", file=str(self._path), error=wrong.strerror)
            return
        self._changed = False
        self._kept_at = time.monotonic()


# ---- from JSON to columns


def _records(body: bytes, content_type: str) -> list[Any]:
    """Return the records of a request: an object, an array, or one JSON value a line."""
    text = body.strip()
    if not text:
        return []
    lines = any(
        word in content_type.lower() for word in ("ndjson", "jsonl", "jsonlines", "json-seq")
    )
    if not lines:
        try:
            whole = json.loads(text, parse_constant=_no_number)
        except ValueError as damage:
            if text[:1] != b"{" or b"\n" not in text:
                raise Refused(f"not JSON: {damage}") from None  # an array or a single object
        except RecursionError:
            raise Refused("not JSON that we read: nested too deep") from None
        else:
            return whole if isinstance(whole, list) else [whole]
    out = []
    for i, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            out.append(json.loads(line, parse_constant=_no_number))
        except (ValueError, RecursionError) as damage:
            raise Refused(f"record {i}: not JSON: {damage}") from None
    return out


def _no_number(name: str) -> None:
    """NaN and Infinity, which are no JSON but are written by many: not known."""
    del name


class Reader:
    """Turns records into columns; the same for files and for what is pushed."""

    def __init__(self, model: str, task: Task) -> None:
        self._model = model
        self._task = task

    def lines(self, lines: Iterable[bytes]) -> Rows:
        """Read JSON lines; bad ones are counted and left out."""
        rows = Rows(self._task)
        decode = json.JSONDecoder(parse_constant=_no_number).decode
        for i, line in enumerate(lines):
            if not line or line.isspace():
                continue
            try:
                rows.take(decode(line.decode("utf-8")), self._model)
            except (ValueError, TypeError, RecursionError) as problem:
                rows.refuse(i, problem)
        return rows

    def records(self, records: Iterable[Any]) -> Rows:
        """Take records that are read already."""
        rows = Rows(self._task)
        for i, record in enumerate(records):
            try:
                rows.take(record, self._model)
            except (ValueError, TypeError) as problem:
                rows.refuse(i, problem)
        return rows


class _Group:
    """The rows of one model and version, as lists."""

    __slots__ = (
        "features",
        "ids",
        "latency",
        "pred",
        "proba",
        "processing",
        "status",
        "traces",
        "ts",
    )

    def __init__(self) -> None:
        self.ts: list[float] = []
        self.ids: list[str] = []
        self.features: list[dict[str, Any]] = []
        self.pred: list[Any] = []
        self.proba: list[float] = []
        self.latency: list[float] = []
        self.processing: list[float] = []
        self.status: list[int] = []
        self.traces: list[str] = []


class Rows:
    """Records on their way into columns; `bad` and `first_bad` tell of those that were refused."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._groups: dict[tuple[str, str], _Group] = {}
        self._labels: dict[str, tuple[list[float], list[str], list[Any]]] = {}
        self.bad = 0
        self.first_bad = ""

    def refuse(self, i: int, problem: Exception) -> None:
        """Note that record `i` (from 0) cannot be taken."""
        self.bad += 1
        if not self.first_bad:
            self.first_bad = f"record {i}: {problem}"[:300]

    def take(self, record: Any, model: str) -> None:
        """Take one record whole, or raise ValueError and take nothing of it."""
        if type(record) is not dict:
            raise ValueError("not an object")  # one class for all that is wrong with a record
        ts = record.get("ts")
        if (type(ts) is not float and type(ts) is not int) or not 0 < ts < _SECONDS:
            raise ValueError("`ts` must be unix seconds")
        name = record.get("model") or model
        if type(name) is not str or not _MODEL.fullmatch(name):
            raise ValueError("`model` must be a name of letters, digits, dot, dash and underscore")
        id_ = _id(record.get("id"))
        label = record.get("label")
        features = record.get("features")
        if label is not None:
            if not id_:
                raise ValueError("a label needs the `id` of its prediction")
            label = _answer(label, self._task)
        elif features is None and "pred" not in record:
            raise ValueError("neither a prediction (`features`, `pred`) nor a label (`label`)")
        if features is not None or "pred" in record:
            self._predicted(record, name, float(ts), id_, {} if features is None else features)
        if label is not None:
            kept = self._labels.setdefault(name, ([], [], []))
            kept[0].append(float(ts))
            kept[1].append(id_)
            kept[2].append(label)

    def _predicted(
        self, record: Mapping[str, Any], model: str, ts: float, id_: str, features: Any
    ) -> None:
        if type(features) is not dict:
            raise ValueError("`features` must be an object of name and value")  # as above
        if len(features) > _MOST_FEATURES:
            raise ValueError(f"{len(features)} features, at most {_MOST_FEATURES}")
        status = record.get("status", 200)
        if type(status) is not int or not 0 <= status < 1000:
            raise ValueError("`status` must be a code like 200")
        version = record.get("version")
        version = "" if version is None else str(version)
        if version and not _MODEL.fullmatch(version):
            raise ValueError(
                "`version` must be a name of letters, digits, dot, dash and underscore"
            )
        pred = record.get("pred")
        pred = None if pred is None else _answer(pred, self._task)
        group = self._groups.get((model, version))
        if group is None:
            group = self._groups[model, version] = _Group()
        group.ts.append(ts)
        group.ids.append(id_)
        group.features.append(features)
        group.pred.append(pred)
        group.proba.append(_share(record.get("proba")))
        group.latency.append(_seconds(record.get("latency_ms")))
        group.processing.append(_seconds(record.get("processing_ms")))
        group.status.append(status)
        group.traces.append(_trace(record.get("trace_id")))

    def arrivals(self) -> list[Arrival]:
        """Return the columns: a batch for each model and version, then a batch of labels for each model."""
        out: list[Arrival] = [
            PredictionBatch(
                model=model,
                version=version,
                ts=np.array(group.ts),
                ids=tuple(group.ids),
                features=_columns(group.features),
                pred=_predictions(group.pred),
                proba=np.array(group.proba),
                latency_s=np.array(group.latency),
                processing_s=np.array(group.processing),
                status=np.array(group.status, dtype=np.int64),
                traces=tuple(group.traces) if any(group.traces) else (),
            )
            for (model, version), group in self._groups.items()
        ]
        for model, (ts, ids, labels) in self._labels.items():
            out.append(LabelBatch(model, np.array(ts), tuple(ids), tuple(labels)))
        return out


def _id(value: Any) -> str:
    if value is None:
        return ""
    text = str(value) if type(value) is int else value
    if type(text) is not str or len(text) > _MOST_TEXT:
        raise ValueError(f"`id` must be a text of at most {_MOST_TEXT} characters")
    return text


def _trace(value: Any) -> str:
    """Return a trace id; "" for what is none: a row without one is as good as any."""
    return value if type(value) is str and _TRACE.fullmatch(value) else ""


def _answer(value: Any, task: Task) -> str | float:
    """Return a class as text or a number as float: what was predicted, or what was true.

    JSON has no classes: 1, 1.0, "1" and true all occur. Whole numbers and truth values are classes unless the task
    is regression; fractions are numbers unless it is classification.
    """
    kind = type(value)
    if kind is str and task != "regression":
        return str(value)[:_MOST_TEXT]
    if kind is bool and task != "regression":
        return "true" if value else "false"
    if kind is int and task != "regression":
        return str(value)
    if kind is float and task == "classification":
        return str(int(value)) if value.is_integer() else repr(value)
    if kind in {int, float} and math.isfinite(value):
        return float(value)
    raise ValueError(
        f"{str(value)[:40]!r} is no {'number' if task == 'regression' else 'class or number'}"
    )


def _share(value: Any) -> float:
    """Return a probability; NaN for what is none."""
    if type(value) in {float, int} and 0 <= value <= 1:
        return float(value)
    return math.nan


def _seconds(value: Any) -> float:
    """Return milliseconds as seconds; NaN for what is no duration."""
    if type(value) in {float, int} and 0 <= value < _SECONDS:
        return float(value) / 1000
    return math.nan


_NUMBERS: Final = frozenset({float, int, bool, type(None)})


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return name -> (n,) float64 with NaN for missing, or (n,) object of str with None where one is a text."""
    names = rows[0].keys()
    if any(row.keys() != names for row in rows):
        names = dict.fromkeys(itertools.chain.from_iterable(rows)).keys()
    out: dict[str, Any] = {}
    for name in names:
        column = [row.get(name) for row in rows]
        if _NUMBERS.issuperset(map(type, column)):
            out[name[:_MOST_TEXT]] = _floats(column)
        else:
            texts = np.empty(len(column), dtype=object)
            texts[:] = [_as_text(value) for value in column]
            out[name[:_MOST_TEXT]] = texts
    return out


def _floats(column: list[Any]) -> Any:
    try:
        values = np.array(column, dtype=np.float64)
    except OverflowError:  # a whole number beyond 1e308
        values = np.array([math.nan if _huge(v) else v for v in column], dtype=np.float64)
    values[np.isinf(values)] = np.nan
    return values


def _huge(value: Any) -> bool:
    return type(value) is int and abs(value) > 1 << 1000


def _as_text(value: Any) -> str | None:
    """Return a feature's value as text; what is neither text nor number is told as its JSON, cut."""
    if value is None:
        return None
    if type(value) is str:
        return value[:_MOST_TEXT]
    if type(value) is float and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return (repr(value) if type(value) in {int, float} else json.dumps(value))[:_MOST_TEXT]


def _predictions(values: list[Any]) -> Any:
    """Return (n,) float64 when all are numbers, else (n,) object of str; None = not logged stays None or NaN."""
    if any(type(v) is float for v in values) and not any(type(v) is str for v in values):
        return np.array(values, dtype=np.float64)
    out = np.empty(len(values), dtype=object)
    out[:] = [v if v is None or type(v) is str else _as_text(v) for v in values]
    return out
