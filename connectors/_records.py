"""Records of predictions and labels become columns; the same for files and for everything that is pushed.

    bytes -> records (dicts) -> Reader -> Rows.take (each checked whole) -> arrivals (columns of a model and version)

Cost, on one core: 4 microseconds a record of ten fields for the JSON, 4 for the checks and the columns.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

from agent.errors import Refused
from agent.ports import Bulk, LabelBatch, PredictionBatch
from agent.vectors import spread
from connectors._personal import Personal

MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_TRACE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""W3C and B3 ids are 16 to 32 hex digits; others are words. They are shown on terminals: nothing else comes in."""
MOST_FEATURES: Final = 2000
MOST_TEXT: Final = 256
_MOST_CLASSES: Final = 256
_ROUNDED: Final = 0.02
"""How far probabilities of all classes may be from 1: many of them, each cut to a few digits."""
MOST_REASONS: Final = 20
_MOST_TAGS: Final = 50
_MOST_CELLS: Final = 2_000_000
"""Rows times columns of one model in one go: records with features of many names would fill the memory with gaps."""
_AHEAD_S: Final = 60.0
"""How far clocks may differ; what is further ahead the model watch would not count."""
SECONDS: Final = 1e10
"""A time above this (the year 2286) is in milliseconds, by somebody's mistake."""

Task = Literal["auto", "classification", "regression"]


def records_of(body: bytes, content_type: str) -> list[Any]:
    """Return the records of a request: an object, an array, or one JSON value a line. Raises Refused."""
    text = body.strip()
    if not text:
        return []
    lines = any(
        word in content_type.lower() for word in ("ndjson", "jsonl", "jsonlines", "json-seq")
    )
    if not lines:
        try:
            whole = value_of(text)
        except ValueError as damage:
            if text[:1] != b"{" or b"\n" not in text:
                raise Refused(str(damage)) from None  # an array or a single object
        else:
            return whole if isinstance(whole, list) else [whole]
    out = []
    for i, line in enumerate(text.splitlines()):
        if not line or line.isspace():
            continue
        try:
            out.append(value_of(line))
        except ValueError as damage:
            raise Refused(f"record {i}: {damage}") from None
    return out


def value_of(text: bytes) -> Any:
    """Read one JSON value; NaN and Infinity, which are no JSON but are written by many, are null. Or ValueError."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8; write JSON in UTF-8") from None
    except json.JSONDecodeError as damage:
        where = f"line {damage.lineno} column {damage.colno}"
        raise ValueError(f"not JSON at {where}: {damage.msg.lower()}") from None
    except ValueError:  # of thousands of digits
        raise ValueError("not JSON that we read: a number is too long") from None
    except RecursionError:
        raise ValueError("not JSON that we read: nested too deep") from None


def _no_number(name: str) -> None:
    del name


class Reader:
    """Turns records into columns."""

    def __init__(self, model: str, task: Task, personal: Personal | None = None) -> None:
        self._model = model
        self._task = task
        self._personal = personal or Personal()

    def lines(self, lines: Iterable[bytes]) -> Rows:
        """Read JSON lines of a file; bad ones are counted and left out. Each must say its `ts`: it may be old."""
        rows = Rows(self._task, self._personal)
        for i, line in enumerate(lines):
            if not line or line.isspace():
                continue
            try:
                rows.take(value_of(line), self._model)
            except ValueError as problem:
                rows.refuse(i, problem)
        return rows

    def records(self, records: Iterable[Any], *, model: str = "", now: float | None = None) -> Rows:
        """Take records that are read already; `model` and `now` (when they came) stand in for what one leaves out."""
        rows = Rows(self._task, self._personal)
        for i, record in enumerate(records):
            try:
                rows.take(record, model or self._model, now)
            except ValueError as problem:
                rows.refuse(i, problem)
        return rows


class _Group:
    """The rows of one model, version and variant, as lists; what few rows have stays in their records."""

    __slots__ = (
        "features", "ids", "keys", "latency", "names", "pred", "proba", "processing", "records",
        "same", "status", "traces", "ts",
    )  # fmt: skip

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
        self.records: list[Mapping[str, Any]] = []
        self.keys: Any = {}.keys()
        self.names: dict[str, None] = {}
        self.same = True

    def fits(self, features: Mapping[str, Any]) -> None:
        """Raise ValueError when a row would make the table too wide or too large; note its columns."""
        keys = features.keys()
        if keys != self.keys:
            names = self.names | dict.fromkeys(keys)
            if len(names) > MOST_FEATURES:
                raise ValueError(
                    f"more than {MOST_FEATURES} features of different names; leave out what is no feature"
                )
            self.same = self.same and (not self.ts or keys == self.names.keys())
            self.keys, self.names = keys, names
        if (len(self.ts) + 1) * len(self.names) > _MOST_CELLS:
            raise ValueError(f"more than {_MOST_CELLS} values at once; send them in parts")


class Rows:
    """Records on their way into columns; `bad` and `first_bad` tell of those that were refused."""

    def __init__(self, task: Task, personal: Personal | None = None) -> None:
        self._task = task
        self._personal = personal or Personal()
        self._groups: dict[tuple[str, str, str], _Group] = {}
        self._labels: dict[str, tuple[list[float], list[str], list[Any]]] = {}
        self._dropped: dict[str, int] = {}
        self.bad = 0
        self.reasons: list[str] = []
        """Why records were refused, of the first MOST_REASONS."""

    @property
    def first_bad(self) -> str:
        """Why the first one was refused."""
        return self.reasons[0] if self.reasons else ""

    def refuse(self, i: int, problem: Exception) -> None:
        """Note that record `i` (from 0) cannot be taken."""
        self.bad += 1
        if len(self.reasons) < MOST_REASONS:
            self.reasons.append(f"record {i}: {problem}"[:300])

    def take(self, record: Any, model: str, now: float | None = None) -> None:
        """Take one record whole, or raise ValueError and take nothing of it."""
        if type(record) is not dict:
            raise ValueError("not an object")  # one class for all that is wrong with a record
        ts = _when(record.get("ts"), now)
        name = record.get("model") or model
        id_ = _id(record.get("id"))
        label = record.get("label")
        features = record.get("features")
        # a label alone may leave the model open: it is joined by its id
        open_ = label is not None and features is None and "pred" not in record and not name
        if not open_ and (type(name) is not str or not MODEL.fullmatch(name)):
            raise ValueError("`model` must be a name of letters, digits, dot, dash and underscore")
        if label is not None:
            if not id_:
                raise ValueError("a label needs the `id` of its prediction")
            label = _answer(label, self._task, "label")
        elif features is None and "pred" not in record:
            raise ValueError("neither a prediction (`features`, `pred`) nor a label (`label`)")
        dropped = _count(record.get("dropped", 0), "dropped")
        if features is not None or "pred" in record:
            self._predicted(record, name, ts, id_, {} if features is None else features)
        if label is not None:
            kept = self._labels.setdefault(name, ([], [], []))
            kept[0].append(ts)
            kept[1].append(id_)
            kept[2].append(label)
        if dropped > 0:  # told with any record; the next rows of the model take it along
            self._dropped[name] = self._dropped.get(name, 0) + int(dropped)

    def _predicted(
        self, record: Mapping[str, Any], model: str, ts: float, id_: str, features: Any
    ) -> None:
        if type(features) is not dict:
            raise ValueError("`features` must be an object of name and value")  # as above
        status = record.get("status", 200)
        if type(status) is not int or not 0 <= status < 1000:
            raise ValueError("`status` must be a code like 200")
        version = _name(record.get("version"), "version")
        variant = _name(record.get("variant"), "variant")
        tags = record.get("tags")
        if tags is not None and (type(tags) is not dict or len(tags) > _MOST_TAGS):
            raise ValueError(f"`tags` must be an object of at most {_MOST_TAGS} names and texts")
        pred, proba = record.get("pred"), record.get("proba")
        if type(proba) is dict:
            pred, proba = _most_likely(proba, pred)
        pred = None if pred is None else _answer(pred, self._task, "pred")
        proba = _share(proba, "proba")
        latency = _seconds(record.get("latency_ms"), "latency_ms")
        processing = _seconds(record.get("processing_ms"), "processing_ms")
        for few, read in _FEW.items():
            if few in record:
                read(record[few], few)
        group = self._groups.get((model, version, variant))
        if group is None:
            group = self._groups[model, version, variant] = _Group()
        group.fits(features)
        group.ts.append(ts)
        group.ids.append(id_)
        group.features.append(features)
        group.pred.append(pred)
        group.proba.append(proba)
        group.latency.append(latency)
        group.processing.append(processing)
        group.status.append(status)
        group.traces.append(_trace(record.get("trace_id")))
        group.records.append(record)

    def arrivals(self) -> list[Bulk]:
        """Return the columns: a batch for each model, version and variant, then the labels of each model."""
        out: list[Bulk] = []
        for (model, version, variant), group in self._groups.items():
            classes, shares = _classes(group.records)
            out.append(
                PredictionBatch(
                    model=model,
                    version=version,
                    ts=np.array(group.ts),
                    ids=tuple(group.ids),
                    features=self._columns(group),
                    pred=_predictions(group.pred),
                    proba=np.array(group.proba),
                    latency_s=np.array(group.latency),
                    processing_s=np.array(group.processing),
                    status=np.array(group.status, dtype=np.int64),
                    traces=tuple(group.traces) if any(group.traces) else (),
                    variant=variant,
                    classes=classes,
                    shares=shares,
                    tags=self._tags(group.records),
                    tokens_in=_few(group.records, "tokens_in"),
                    tokens_out=_few(group.records, "tokens_out"),
                    ttft_s=_few(group.records, "ttft_ms"),
                    finish=_texts(group.records, "finish_reason"),
                    dropped=self._dropped.pop(model, 0),
                )
            )
        for model, (ts, ids, labels) in self._labels.items():
            out.append(LabelBatch(model, np.array(ts), tuple(ids), tuple(labels)))
        return out

    def _columns(self, group: _Group) -> dict[str, Any]:
        """Return name -> (n,) float64 with NaN for missing, or (n,) object of str with None where one is a text.

        A vector is told by some numbers of its own names (`agent.vectors`).
        """
        out: dict[str, Any] = {}
        for name in group.names:
            fate = self._personal.fate(name)
            if fate == "drop":
                continue
            rows = group.features
            column = [row[name] for row in rows] if group.same else [row.get(name) for row in rows]
            if fate == "keep" and _NUMBERS.issuperset(map(type, column)):
                out[name[:MOST_TEXT]] = _floats(column)
                continue
            if fate == "keep" and any(type(value) is list for value in column):
                vectors = spread(name[:MOST_TEXT], column)
                if vectors:
                    out |= vectors
                    continue
            texts = [_as_text(value) for value in column]
            out[name[:MOST_TEXT]] = (
                self._personal.column(texts) if fate == "hash" else _objects(texts)
            )
        return out

    def _tags(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tags = [record.get("tags") or {} for record in records]
        names = dict.fromkeys(itertools.chain.from_iterable(tags))
        out = {}
        for name in itertools.islice(names, _MOST_TAGS):
            fate = self._personal.fate(name)
            texts = [_as_text(one.get(name)) for one in tags] if fate != "drop" else []
            if texts:
                out[name[:MOST_TEXT]] = (
                    self._personal.column(texts) if fate == "hash" else _objects(texts)
                )
        return out


def _when(value: Any, now: float | None) -> float:
    """Return a time in seconds; now where it is not said."""
    ts = now if value is None else value
    if (type(ts) is not float and type(ts) is not int) or not 0 < ts < SECONDS:
        raise ValueError("`ts` must be unix seconds; divide milliseconds by 1000")
    if now is not None and ts > now + _AHEAD_S:
        raise ValueError(f"`ts` is {ts - now:.0f} s ahead of now; set the clock, or leave it out")
    return float(ts)


def _id(value: Any) -> str:
    if value is None:
        return ""
    text = str(value) if type(value) is int else value
    if type(text) is not str or len(text) > MOST_TEXT:
        raise ValueError(f"`id` must be a text of at most {MOST_TEXT} characters")
    return text


def _name(value: Any, what: str) -> str:
    """Return a version or variant as text; "" when it is not said."""
    text = "" if value is None else str(value)
    if text and not MODEL.fullmatch(text):
        raise ValueError(f"`{what}` must be a name of letters, digits, dot, dash and underscore")
    return text


def _trace(value: Any) -> str:
    """Return a trace id; "" for what is none: a row without one is as good as any."""
    return value if type(value) is str and _TRACE.fullmatch(value) else ""


def _answer(value: Any, task: Task, what: str) -> str | float:
    """Return a class as text or a number as float: what was predicted, or what was true.

    JSON has no classes: 1, 1.0, "1" and true all occur. Whole numbers and truth values are classes unless the task
    is regression; fractions are numbers unless it is classification.
    """
    kind = type(value)
    if kind is str and task != "regression":
        return str(value)[:MOST_TEXT]
    if kind is bool and task != "regression":
        return "true" if value else "false"
    if kind is int and task != "regression":
        return str(value)
    if kind is float and task == "classification":
        return str(int(value)) if value.is_integer() else repr(value)
    if kind in {int, float} and math.isfinite(value):
        return float(value)
    # the value itself is nobody's business: this goes into logs
    needs = "a number" if task == "regression" else "a class or number"
    raise ValueError(f"`{what}` must be {needs}, not {_KINDS.get(kind, 'that')}")


_KINDS: Final = {
    dict: "an object", list: "an array", str: "a text", bool: "a truth value", float: "that number",
    int: "that number",
}  # fmt: skip


def _most_likely(said: Mapping[str, Any], pred: Any) -> tuple[Any, Any]:
    """Return what was predicted, the likeliest class when it is not said, and its probability."""
    if len(said) > _MOST_CLASSES:
        raise ValueError(f"`proba` has {len(said)} classes, at most {_MOST_CLASSES}")
    known = {name: _share(p, "proba") for name, p in said.items() if p is not None}
    total = sum(known.values())
    if total > 1 + _ROUNDED or (known and len(known) == len(said) and total < 1 - _ROUNDED):
        raise ValueError(f"`proba` of all classes must sum to 1, not to {total:.4g}")
    if pred is None and known:
        pred = max(known, key=known.__getitem__)
    return pred, known.get(_as_text(pred) or "")


def _share(value: Any, what: str) -> float:
    """Return a probability; NaN for none."""
    if value is None:
        return math.nan
    if type(value) in {float, int} and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"`{what}` must be a probability in 0..1, not {_said(value)}")


def _seconds(value: Any, what: str) -> float:
    """Return milliseconds as seconds; NaN for none."""
    if value is None:
        return math.nan
    if type(value) in {float, int} and 0 <= value < SECONDS:
        return float(value) / 1000
    raise ValueError(f"`{what}` must be milliseconds, 0 or more, not {_said(value)}")


def _count(value: Any, what: str) -> float:
    """Return a count; NaN for none."""
    if value is None:
        return math.nan
    if type(value) in {float, int} and 0 <= value < SECONDS:
        return float(value)
    raise ValueError(f"`{what}` must be a count, not {_said(value)}")


_FEW: Final[Mapping[str, Callable[[Any, str], float]]] = {
    "tokens_in": _count, "tokens_out": _count, "ttft_ms": _seconds,
}  # fmt: skip
"""What few models have."""


def _said(value: Any) -> str:
    """Say a value that is none: a number as it is, of all else only what it is."""
    if type(value) in {float, int} and abs(value) < SECONDS:
        return f"{value:.6g}"
    return _KINDS.get(type(value), "that")


def _classes(records: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], Any]:
    """Return the classes whose probabilities were logged, the first 256 of them, and (n, classes) of them."""
    said = [record.get("proba") for record in records]
    if dict not in set(map(type, said)):
        return (), None
    rows: list[dict[str, Any]] = [one if type(one) is dict else {} for one in said]
    names = tuple(
        itertools.islice(dict.fromkeys(itertools.chain.from_iterable(rows)), _MOST_CLASSES)
    )
    shares = np.array([[_share(row.get(name), "proba") for name in names] for row in rows])
    return tuple(name[:MOST_TEXT] for name in names), shares.reshape(len(rows), len(names))


def _few(records: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return a column of numbers that few models have; None when no row has one."""
    values = [record.get(name) for record in records]
    read = _FEW[name]
    return np.array([read(v, name) for v in values]) if any(v is not None for v in values) else None


def _texts(records: Sequence[Mapping[str, Any]], name: str) -> Any:
    values = [_as_text(record.get(name)) for record in records]
    return _objects(values) if any(v is not None for v in values) else None


_NUMBERS: Final = frozenset({float, int, bool, type(None)})


def _floats(column: list[Any]) -> Any:
    try:
        values = np.array(column, dtype=np.float64)
    except OverflowError:  # a whole number beyond 1e308
        values = np.array([math.nan if _huge(v) else v for v in column], dtype=np.float64)
    values[np.isinf(values)] = np.nan
    return values


def _huge(value: Any) -> bool:
    return type(value) is int and abs(value) > 1 << 1000


def _objects(values: Sequence[Any]) -> Any:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _as_text(value: Any) -> str | None:
    """Return a feature's value as text; what is neither text nor number is told as its JSON, cut."""
    if value is None:
        return None
    if type(value) is str:
        return value[:MOST_TEXT]
    if type(value) is float and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return (repr(value) if type(value) in {int, float} else json.dumps(value))[:MOST_TEXT]


def _predictions(values: list[Any]) -> Any:
    """Return (n,) float64 when all are numbers, else (n,) object of str; None = not logged stays None or NaN."""
    if any(type(v) is float for v in values) and not any(type(v) is str for v in values):
        return np.array(values, dtype=np.float64)
    return _objects([v if v is None or type(v) is str else _as_text(v) for v in values])
