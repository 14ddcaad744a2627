"""Log records of OTLP/HTTP (protobuf and JSON) become records: attributes are the fields.

    attributes: model, version, id, pred, proba, latency_ms, ...; features as a map, or `features.age`, ...

`tags` and `proba` likewise (`tags.region`, `proba.fraud`). A body that is a map gives fields, too. `model`, `version`
and `variant` may stand in the attributes of the resource. Time and trace id are those of the log record. Other log
records are passed over: a pipeline may send all it has.

The protobuf is read here, by 60 lines: six small messages that are declared stable, of which field numbers never
change; the libraries for it weigh megabytes and would be loaded for nothing else.
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.errors import Refused
from connectors._records import value_of

_DEEP: Final = 4
_MAPS: Final = ("features", "tags", "proba")
_OF_RESOURCE: Final = ("model", "version", "variant")
_FIELDS: Final = frozenset({
    "id", "ts", "model", "version", "variant", "features", "pred", "proba", "label", "latency_ms", "processing_ms",
    "status", "trace_id", "tags", "tokens_in", "tokens_out", "ttft_ms", "finish_reason",
})  # fmt: skip
_LONG: Final = struct.Struct("<Q")
_REAL: Final = struct.Struct("<d")

Found = tuple[dict[str, Any], list[dict[str, Any]]]
"""Attributes of a resource; of each of its log records time, trace id, attributes and body."""


def records_of(body: bytes, content_type: str) -> tuple[list[dict[str, Any]], int]:
    """Return the records, and how many log records were something else; raises Refused."""
    try:
        found = _of_json(value_of(body)) if "json" in content_type.lower() else _of_protobuf(body)
        out = []
        other = 0
        for resource, logs in found:
            for one in logs:
                record = _record(resource, one)
                if record is None:
                    other += 1
                else:
                    out.append(record)
    except (
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        struct.error,
        RecursionError,
    ) as damage:
        said = str(damage) if type(damage) is ValueError else "the message is cut off or malformed"
        raise Refused(f"not OTLP logs: {said}; send ExportLogsServiceRequest") from None
    return out, other


def answer(content_type: str, other: int) -> tuple[int, str, bytes]:
    """Return what the protocol wants: 200 and a message that says what was not taken."""
    said = f"{other} log records hold no prediction and no label"
    if "json" in content_type.lower():
        told = {"partialSuccess": {"rejectedLogRecords": str(other), "errorMessage": said}}
        return 200, "application/json", json.dumps(told if other else {}).encode()
    if not other:
        return 200, "application/x-protobuf", b""
    text = said.encode()
    inner = b"\x08" + _varint(other) + b"\x12" + _varint(len(text)) + text
    return 200, "application/x-protobuf", b"\x0a" + _varint(len(inner)) + inner


def _record(resource: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a record of ours; None when the log record tells of something else."""
    out: dict[str, Any] = {k: resource[k] for k in _OF_RESOURCE if k in resource}
    body = one["body"]
    for name, value in [
        *(body.items() if isinstance(body, dict) else ()),
        *one["attributes"].items(),
    ]:
        head, dot, rest = name.partition(".")
        if dot and head in _MAPS:
            inner = out.setdefault(head, {})
            if isinstance(inner, dict):
                inner[rest] = value
        elif name in _FIELDS:
            out[name] = value
    if not ("features" in out or "pred" in out or "label" in out):
        return None
    if one["ts"]:
        out.setdefault("ts", one["ts"])
    if one["trace"]:
        out.setdefault("trace_id", one["trace"])
    return out


# ---- JSON


def _of_json(whole: Any) -> Iterator[Found]:
    for group in whole.get("resourceLogs", ()):
        resource = _json_map(group.get("resource", {}).get("attributes", ()))
        logs = [log for scope in group.get("scopeLogs", ()) for log in scope.get("logRecords", ())]
        yield (
            resource,
            [
                {
                    "ts": int(log.get("timeUnixNano") or log.get("observedTimeUnixNano") or 0)
                    / 1e9,
                    "trace": str(log.get("traceId") or "").lower(),
                    "attributes": _json_map(log.get("attributes", ())),
                    "body": _json_value(log.get("body", {})),
                }
                for log in logs
            ],
        )


def _json_map(found: Any, deep: int = _DEEP) -> dict[str, Any]:
    return {str(one["key"]): _json_value(one.get("value", {}), deep) for one in found}


def _json_value(found: Mapping[str, Any], deep: int = _DEEP) -> Any:
    if not deep:
        raise ValueError("values are nested too deep")
    for kind, value in found.items():
        match kind:
            case "intValue":
                return int(value)  # 64 bits, so it comes as a text
            case "doubleValue":
                return float(value)  # NaN comes as a text
            case "kvlistValue":
                return _json_map(value.get("values", ()), deep - 1)
            case "arrayValue":
                return [_json_value(one, deep - 1) for one in value.get("values", ())]
            case "stringValue" | "boolValue":
                return value
            case _:
                return None
    return None


# ---- protobuf: (number of the field, what it holds) after each other


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Read the fields of one message: numbers as int, all else as bytes."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        match tag & 7:
            case 0:
                value, at = _read_varint(data, at)
                yield tag >> 3, value
            case 1:
                yield tag >> 3, data[at : at + 8]
                at += 8
            case 2:
                size, at = _read_varint(data, at)
                if at + size > len(data):
                    raise ValueError("the message is cut off")
                yield tag >> 3, data[at : at + size]
                at += size
            case 5:
                at += 4
            case _:
                raise ValueError("the message is malformed")
    if at > len(data):
        raise ValueError("the message is cut off")


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("the message is malformed")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _of_protobuf(body: bytes) -> Iterator[Found]:
    for number, group in _fields(memoryview(body)):
        if number != 1:
            continue
        resource: dict[str, Any] = {}
        logs: list[dict[str, Any]] = []
        for part, data in _fields(group):
            if part == 1:
                resource = dict(_pair(kv) for k, kv in _fields(data) if k == 1)
            elif part == 2:
                logs += [_log(log) for k, log in _fields(data) if k == 2]
        yield resource, logs


def _log(data: memoryview) -> dict[str, Any]:
    out: dict[str, Any] = {"ts": 0.0, "trace": "", "attributes": {}, "body": None}
    for number, value in _fields(data):
        match number:
            case 1:
                out["ts"] = _LONG.unpack(value)[0] / 1e9 or out["ts"]
            case 11:
                out["ts"] = out["ts"] or _LONG.unpack(value)[0] / 1e9
            case 5:
                out["body"] = _any(value)
            case 6:
                key, one = _pair(value)
                out["attributes"][key] = one
            case 9:
                out["trace"] = bytes(value).hex()
            case _:
                pass
    return out


def _pair(data: memoryview, deep: int = _DEEP) -> tuple[str, Any]:
    key, value = "", None
    for number, inner in _fields(data):
        if number == 1:
            key = str(inner, "utf-8")
        elif number == 2:
            value = _any(inner, deep)
    return key, value


def _any(data: memoryview, deep: int = _DEEP) -> Any:
    if not deep:
        raise ValueError("values are nested too deep")
    out: Any = None
    for number, value in _fields(data):
        match number:
            case 1:
                out = str(value, "utf-8")
            case 2:
                out = bool(value)
            case 3:
                out = value - (1 << 64) if value >> 63 else value
            case 4:
                out = _REAL.unpack(value)[0]
            case 5:
                out = [_any(one, deep - 1) for k, one in _fields(value) if k == 1]
            case 6:
                out = dict(_pair(one, deep - 1) for k, one in _fields(value) if k == 1)
            case _:
                pass
    return out
