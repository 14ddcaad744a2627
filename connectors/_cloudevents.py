"""Request and response logs of KServe (and of whoever sends the same CloudEvents), joined into records.

    ce-type: org.kubeflow.serving.inference.request  | ce-id: 7f.. | {"instances": [[41, "DE"], ...]}
    ce-type: org.kubeflow.serving.inference.response | ce-id: 7f.. | {"predictions": [0, ...]}

Binary mode (attributes in headers), structured mode and batches of it; bodies of the v1 protocol (`instances`,
`predictions`, TensorFlow's `inputs`, `outputs`) and of v2 (named tensors). The halves come in any order and wait for
each other, at most WAIT_S seconds, MOST_WAITING halves and MOST_BYTES. A half that stays alone is let go as what it
is: a request as features without a prediction, a response as a prediction without features.

A request of n rows makes n records; of one row its id is the event's, of more it is `ID/0`, `ID/1`, ... Columns without
names get those of the registered reference when their number fits, else `x0`, `x1`, ...
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from agent.errors import Refused
from agent.ports import Pushed
from connectors._records import MODEL, MOST_FEATURES, value_of

WAIT_S: Final = 120.0
MOST_WAITING: Final = 10_000
MOST_BYTES: Final = 32 << 20
_KIND: Final = "org.kubeflow.serving.inference."
_MOST_ROWS: Final = 20_000
_PREDS: Final = ("pred", "prediction", "label", "class", "classes")
_PROBAS: Final = ("proba", "probability", "probabilities", "score", "scores")

Table = tuple[tuple[str, ...] | None, Sequence[Sequence[Any]]]
"""Names (None = by position) and rows."""


@dataclass(frozen=True, slots=True)
class _Half:
    """One event, read."""

    kind: Literal["request", "response"]
    id: str
    model: str
    variant: str
    ts: float
    trace: str
    size: int
    came: float
    names: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    said: Sequence[tuple[Any, Any]] = ()
    version: str = ""


def is_event(headers: Mapping[str, str]) -> bool:
    """Tell whether a request is a CloudEvent, or a batch of them."""
    return "ce-type" in headers or headers.get("content-type", "").lower().startswith(
        "application/cloudevents"
    )


@dataclass(slots=True)
class Pairs:
    """The waiting room."""

    _waiting: OrderedDict[tuple[str, str], _Half] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, pushed: Pushed, model: str) -> list[dict[str, Any]]:
        """Return the records that are complete now; `model` stands in where no event names one.

        Raises Refused for what is malformed; nothing is kept then.
        """
        halves = [_read(one, data, pushed, model) for one, data in _events(pushed)]
        for half in halves:
            pushed.allow(half.model)
        # nothing was kept so far; nothing fails from here on
        out: list[dict[str, Any]] = []
        for half in halves:
            key = half.model, half.id
            other = self._waiting.get(key)
            if other is not None and other.kind != half.kind:
                self._leave(key)
                pair = (half, other) if half.kind == "request" else (other, half)
                out += _records(*pair)
            else:
                if other is not None:  # the same half again: a retry of its sender
                    self._leave(key)
                self._waiting[key] = half
                self._bytes += half.size
        while self._waiting and (
            len(self._waiting) > MOST_WAITING
            or self._bytes > MOST_BYTES
            or next(iter(self._waiting.values())).came < pushed.now - WAIT_S
        ):
            alone = self._leave(next(iter(self._waiting)))
            out += _records(alone, None) if alone.kind == "request" else _records(None, alone)
        return out

    def _leave(self, key: tuple[str, str]) -> _Half:
        half = self._waiting.pop(key)
        self._bytes -= half.size
        return half


# ---- the envelope


def _events(pushed: Pushed) -> list[tuple[Mapping[str, Any], Any]]:
    """Return attributes and data of each event."""
    kind = pushed.headers.get("content-type", "").lower()
    if "ce-type" in pushed.headers:
        if kind and "json" not in kind:
            raise Refused(f"a body of {kind.partition(';')[0][:60]} is not read; log JSON bodies")
        attributes = {k[3:]: v for k, v in pushed.headers.items() if k.startswith("ce-")}
        return [(attributes, _json(pushed.body))]
    whole = _json(pushed.body)
    events = whole if kind.startswith("application/cloudevents-batch") else [whole]
    if not isinstance(events, list) or not all(isinstance(one, dict) for one in events):
        raise Refused("a CloudEvent must be an object; of a batch, an array of objects")
    for one in events:
        if "data" not in one:
            raise Refused("a CloudEvent without `data`; send the body as JSON, not data_base64")
    return [(one, one["data"]) for one in events]


def _json(body: bytes) -> Any:
    try:
        return value_of(body)
    except ValueError as damage:
        raise Refused(str(damage)) from None


def _read(attributes: Mapping[str, Any], data: Any, pushed: Pushed, model: str) -> _Half:
    kind = str(attributes.get("type", ""))
    if kind not in {f"{_KIND}request", f"{_KIND}response"}:
        raise Refused(
            f"events of type {kind[:80]!r} are not read; send {_KIND}request and response"
        )
    id_ = attributes.get("id")
    if not isinstance(id_, str) or not 0 < len(id_) <= 200:
        raise Refused("a CloudEvent needs an `id` of at most 200 characters")
    if not isinstance(data, dict):
        raise Refused(f"event {id_[:80]!r}: its data must be an object of the v1 or v2 protocol")
    name = str(attributes.get("inferenceservicename") or data.get("model_name") or model)
    if not MODEL.fullmatch(name):
        raise Refused(f"event {id_[:80]!r} names no model; set the extension inferenceservicename")
    endpoint = str(attributes.get("endpoint") or "")
    variant = endpoint if endpoint != "default" and MODEL.fullmatch(endpoint) else ""
    trace = str(attributes.get("traceparent") or "").split("-")
    common: dict[str, Any] = {
        "id": id_, "model": name, "variant": variant, "size": len(pushed.body), "came": pushed.now,
        "ts": _instant(attributes.get("time"), pushed.now),
        "trace": trace[1] if len(trace) == 4 else "",
    }  # fmt: skip
    try:
        if kind.endswith("request"):
            names, rows = _named(_inputs(data), name, pushed)
            return _Half("request", names=names, rows=rows, **common)
        version = str(data.get("model_version") or "")
        return _Half(
            "response", said=_outputs(data), version=version if MODEL.fullmatch(version) else "", **common
        )  # fmt: skip
    except ValueError as problem:
        raise Refused(f"event {id_[:80]!r}: {problem}") from None


def _instant(text: Any, now: float) -> float:
    """Return an RFC 3339 time as unix seconds; when it came where that is not said."""
    if not isinstance(text, str):
        return now
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return now


# ---- the bodies


def _named(
    table: Table, model: str, pushed: Pushed
) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Return the table with names for its columns."""
    names, rows = table
    if names is not None or not rows:
        return names or (), rows
    width = len(rows[0])
    known = pushed.columns(model)
    return (known if len(known) == width else [f"x{i}" for i in range(width)]), rows


def _inputs(data: Mapping[str, Any]) -> Table:
    """Return the table of a request; raises ValueError."""
    if "instances" in data:
        return _rows(data["instances"], "instances")
    inputs: Any = data.get("inputs")
    if _tensors(inputs):
        return _of_tensors(inputs)
    if isinstance(inputs, dict):
        return _of_columns(inputs)
    if inputs is not None:
        return _rows(inputs, "inputs")
    raise ValueError("neither `instances` nor `inputs`; send the body of the v1 or v2 protocol")


def _rows(found: Any, what: str) -> Table:
    """Read rows: of values by position, or of names and values."""
    if not isinstance(found, list) or len(found) > _MOST_ROWS:
        raise ValueError(f"`{what}` must be an array of at most {_MOST_ROWS} rows")
    if found and all(isinstance(row, dict) for row in found):
        names = tuple(dict.fromkeys(name for row in found for name in row))
        _narrow(len(names))
        return names, [[row.get(name) for name in names] for row in found]
    rows = [row if isinstance(row, list) else [row] for row in found]
    if any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"the rows of `{what}` differ in length")
    if any(isinstance(value, list | dict) for row in rows for value in row):
        raise ValueError(
            f"`{what}` holds more than a table; only rows of single values are watched"
        )
    _narrow(len(rows[0]) if rows else 0)
    return None, rows


def _of_columns(columns: Mapping[str, Any]) -> Table:
    _narrow(len(columns))
    lists = [_flat(column) for column in columns.values()]
    if any(len(one) != len(lists[0]) for one in lists):
        raise ValueError("the columns of `inputs` differ in length")
    return tuple(columns), [list(row) for row in zip(*lists, strict=True)]


def _of_tensors(tensors: Sequence[Mapping[str, Any]]) -> Table:
    """Read v2: one tensor of rows and columns, or one of a column each."""
    if len(tensors) == 1:
        n, width, flat = _tensor(tensors[0])
        if width != 1 or len(tensors[0]["shape"]) > 1:
            _narrow(width)
            return None, [flat[i * width : (i + 1) * width] for i in range(n)]
    read = [(str(one.get("name", "")), *_tensor(one)) for one in tensors]
    if any(width != 1 for _, _, width, _ in read):
        raise ValueError(
            "several tensors, and one of them has more than one column; log one tensor"
        )
    return _of_columns({name: flat for name, _, _, flat in read})


def _tensors(found: Any) -> bool:
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(one, dict) and "shape" in one and "datatype" in one for one in found)
    )


def _tensor(one: Mapping[str, Any]) -> tuple[int, int, list[Any]]:
    """Return rows, columns and the values in order."""
    shape, name = one["shape"], str(one.get("name", ""))[:80]
    if not isinstance(shape, list) or not all(type(k) is int and 0 <= k < 1 << 31 for k in shape):
        raise ValueError(f"tensor {name!r}: `shape` must be an array of counts")
    if "data" not in one:
        raise ValueError(f"tensor {name!r} has no `data`; log it as JSON, not as binary data")
    n, width = (shape[0] if shape else 1), math.prod(shape[1:])
    flat = _flat(one["data"])
    if n > _MOST_ROWS or n * width != len(flat):
        raise ValueError(f"tensor {name!r}: {len(flat)} values do not fill its shape")
    return n, width, flat


def _flat(found: Any) -> list[Any]:
    """Return the single values of nested arrays in order; raises ValueError."""
    out: list[Any] = found if isinstance(found, list) else [found]
    for _ in range(4):
        if not any(isinstance(one, list) for one in out):
            break
        out = [x for one in out for x in (one if isinstance(one, list) else [one])]
    if any(isinstance(one, list | dict) for one in out):
        raise ValueError("arrays are nested too deep, or hold objects")
    return out


def _narrow(width: int) -> None:
    if width > MOST_FEATURES:
        raise ValueError(f"{width} columns, at most {MOST_FEATURES}; only tables are watched")


def _outputs(data: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return prediction and probability (a number, or by class) of each row; raises ValueError."""
    if "predictions" in data:
        found = data["predictions"]
    elif _tensors(data.get("outputs")):
        return _said_by_tensors(data["outputs"])
    elif isinstance(outputs := data.get("outputs"), dict) and outputs:
        found = next(iter(outputs.values()))
    else:
        found = outputs
    if not isinstance(found, list):
        raise ValueError(  # noqa: TRY004  # one class for all that is wrong with a body
            "neither `predictions` nor `outputs`; send the body of the v1 or v2 protocol"
        )
    return [_said(one) for one in found[:_MOST_ROWS]]


def _said(one: Any) -> tuple[Any, Any]:
    """Read one prediction: a value, probabilities by class, or an object that names its parts."""
    if isinstance(one, dict):
        lower = {str(name).lower(): value for name, value in one.items()}
        pred = next((lower[k] for k in _PREDS if k in lower), None)
        proba = next((lower[k] for k in _PROBAS if k in lower), None)
        if isinstance(proba, list):
            proba = _of_classes(proba)
        elif proba is not None and not any(k in lower for k in _PROBAS[:3]) and not _share(proba):
            proba = None  # a score that is none
        return (None if isinstance(pred, list | dict) else pred), proba
    if isinstance(one, list):
        if len(one) == 1:
            return _said(one[0])
        return None, _of_classes(one)
    return one, None


def _share(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value <= 1


def _of_classes(found: Sequence[Any]) -> dict[str, Any] | None:
    """Return probabilities by number of class; None when these values are none."""
    if not all(map(_share, found)) or abs(sum(found) - 1) > 0.01:
        return None
    return {str(i): p for i, p in enumerate(found)}


def _said_by_tensors(tensors: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """Read v2: a tensor of answers, one of probabilities, or both."""
    preds: list[Any] = []
    probas: list[Any] = []
    for one in tensors:
        n, width, flat = _tensor(one)
        sure = any(w in str(one.get("name", "")).lower() for w in ("prob", "score"))
        if width == 1 and not sure:
            preds = preds or flat
        elif width == 1:
            sound = [p if _share(p) else None for p in flat]  # a score may be none
            probas = probas or (flat if "prob" in str(one.get("name", "")).lower() else sound)
        else:
            probas = probas or [_of_classes(flat[i * width : (i + 1) * width]) for i in range(n)]
    n = max(len(preds), len(probas))
    return [
        (preds[i] if i < len(preds) else None, probas[i] if i < len(probas) else None)
        for i in range(n)
    ]


# ---- a pair


def _records(request: _Half | None, response: _Half | None) -> list[dict[str, Any]]:
    """Return the records of a pair, or of a half that stayed alone."""
    one = request or response
    assert one is not None  # noqa: S101  # a half at the least
    names, rows = (request.names, request.rows) if request is not None else ((), ())
    said = response.said if response is not None else ()
    n = max(len(rows), len(said))
    common: dict[str, Any] = {"model": one.model, "ts": one.ts, "variant": one.variant}
    if response is not None:
        common["version"] = response.version
        if request is not None and response.ts >= request.ts:
            common["latency_ms"] = (response.ts - request.ts) * 1000
    trace = one.trace or (response.trace if response is not None else "")
    if trace:
        common["trace_id"] = trace
    out = []
    for i in range(n):
        record = {**common, "id": one.id if n == 1 else f"{one.id}/{i}"}
        if i < len(rows):
            record["features"] = dict(zip(names, rows[i], strict=True))
        if response is not None:
            pred, proba = said[i] if i < len(said) else (None, None)
            record |= {"pred": pred, "proba": proba}
        out.append(record)
    return out
