"""Log records of OTLP/HTTP (protobuf and JSON) become records: attributes are the fields.

    attributes: model, version, id, pred, proba, latency_ms, ...; features as a map, or `features.age`, ...

`tags` and `proba` likewise (`tags.region`, `proba.fraud`). A body that is a map gives fields, too. `model`, `version`
and `variant` may stand in the attributes of the resource. Time and trace id are those of the log record. Other log
records are passed over: a pipeline may send all it has.

https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from connectors import _otlp_wire
from connectors._otlp_wire import DAMAGE, any_value, fields, json_map, json_value, not_otlp, pair
from connectors._records import value_of

_MAPS: Final = ("features", "tags", "proba")
_OF_RESOURCE: Final = ("model", "version", "variant")
_FIELDS: Final = frozenset({
    "id", "ts", "model", "version", "variant", "features", "pred", "proba", "label", "latency_ms", "processing_ms",
    "status", "trace_id", "tags", "tokens_in", "tokens_out", "ttft_ms", "finish_reason",
})  # fmt: skip
_LONG: Final = struct.Struct("<Q")

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
    except DAMAGE as damage:
        raise not_otlp("logs", "ExportLogsServiceRequest", damage) from None
    return out, other


def answer(content_type: str, other: int) -> tuple[int, str, bytes]:
    """Return what the protocol wants: 200 and a message that says what was not taken."""
    said = f"{other} log records hold no prediction and no label" if other else ""
    return _otlp_wire.answer(content_type, other, said)


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
        resource = json_map(group.get("resource", {}).get("attributes", ()))
        logs = [log for scope in group.get("scopeLogs", ()) for log in scope.get("logRecords", ())]
        yield (
            resource,
            [
                {
                    "ts": int(log.get("timeUnixNano") or log.get("observedTimeUnixNano") or 0)
                    / 1e9,
                    "trace": str(log.get("traceId") or "").lower(),
                    "attributes": json_map(log.get("attributes", ())),
                    "body": json_value(log.get("body", {})),
                }
                for log in logs
            ],
        )


# ---- protobuf


def _of_protobuf(body: bytes) -> Iterator[Found]:
    for number, group in fields(memoryview(body)):
        if number != 1:
            continue
        resource: dict[str, Any] = {}
        logs: list[dict[str, Any]] = []
        for part, data in fields(group):
            if part == 1:
                resource = dict(pair(kv) for k, kv in fields(data) if k == 1)
            elif part == 2:
                logs += [_log(log) for k, log in fields(data) if k == 2]
        yield resource, logs


def _log(data: memoryview) -> dict[str, Any]:
    out: dict[str, Any] = {"ts": 0.0, "trace": "", "attributes": {}, "body": None}
    for number, value in fields(data):
        match number:
            case 1:
                out["ts"] = _LONG.unpack(value)[0] / 1e9 or out["ts"]
            case 11:
                out["ts"] = out["ts"] or _LONG.unpack(value)[0] / 1e9
            case 5:
                out["body"] = any_value(value)
            case 6:
                key, one = pair(value)
                out["attributes"][key] = one
            case 9:
                out["trace"] = bytes(value).hex()
            case _:
                pass
    return out
