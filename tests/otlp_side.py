"""An encoder of OTLP metrics and logs, written from the .proto files, for tests: plain Python values in, bytes out."""

from __future__ import annotations

import json
import struct

DELTA, CUMULATIVE = 1, 2


def varint(value: int) -> bytes:
    out = b""
    value &= (1 << 64) - 1
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def part(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def any_value(value) -> bytes:
    match value:
        case bool():
            return b"\x10" + varint(int(value))
        case int():
            return b"\x18" + varint(value)
        case float():
            return b"\x21" + struct.pack("<d", value)
        case str():
            return part(1, value.encode())
        case list():
            return part(5, b"".join(part(1, any_value(v)) for v in value))
        case dict():
            return part(6, attributes(1, value))
        case _:
            return b""


def attributes(number: int, found: dict) -> bytes:
    return b"".join(
        part(number, part(1, k.encode()) + part(2, any_value(v))) for k, v in found.items()
    )


def _nano(number: int, ts: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<Q", round(ts * 1e9)) if ts else b""


def number(value, *, ts=0.0, start=0.0, attrs=None, flags=0, exemplar=False) -> dict:
    return {
        "value": value,
        "ts": ts,
        "start": start,
        "attrs": attrs or {},
        "flags": flags,
        "exemplar": exemplar,
    }


def histogram(counts, bounds, *, total=0.0, ts=0.0, start=0.0, attrs=None, flags=0) -> dict:
    return {"counts": counts, "bounds": bounds, "sum": total, "ts": ts, "start": start, "attrs": attrs or {},
            "flags": flags}  # fmt: skip


def exponential(scale, offset, counts, *, zero=0, total=0.0, ts=0.0, start=0.0, attrs=None) -> dict:
    return {"scale": scale, "offset": offset, "counts": counts, "zero": zero, "sum": total, "ts": ts, "start": start,
            "attrs": attrs or {}, "flags": 0}  # fmt: skip


def summary(quantiles, count, *, total=0.0, ts=0.0, start=0.0, attrs=None) -> dict:
    return {"quantiles": quantiles, "count": count, "sum": total, "ts": ts, "start": start, "attrs": attrs or {},
            "flags": 0}  # fmt: skip


def metric(name, kind, points, *, unit="", temporality=CUMULATIVE, monotonic=True) -> dict:
    return {"name": name, "kind": kind, "points": points, "unit": unit, "temporality": temporality,
            "monotonic": monotonic}  # fmt: skip


def _point(kind: str, p: dict) -> bytes:
    times = _nano(2, p["start"]) + _nano(3, p["ts"])
    flags = b"\x08" if kind in {"gauge", "sum", "summary"} else b"\x0a"
    flags = bytes([flags[0] << 3]) + varint(p["flags"]) if p["flags"] else b""
    match kind:
        case "gauge" | "sum":
            value, exemplar = p["value"], part(5, b"\x11" + bytes(8)) if p["exemplar"] else b""
            if value is None:
                said = exemplar
            elif isinstance(value, int):
                said = exemplar + b"\x31" + struct.pack("<q", value)
            else:
                said = b"\x21" + struct.pack("<d", value) + exemplar
            return times + said + attributes(7, p["attrs"]) + flags
        case "histogram":
            n, k = sum(p["counts"]), len(p["counts"])
            return (
                times
                + b"\x21"
                + struct.pack("<Q", n)
                + b"\x29"
                + struct.pack("<d", p["sum"])
                + part(6, struct.pack(f"<{k}Q", *p["counts"]))
                + part(7, struct.pack(f"<{len(p['bounds'])}d", *p["bounds"]))
                + attributes(9, p["attrs"])
                + flags
            )
        case "exponential":
            zig = lambda i: varint(i << 1 if i >= 0 else (-i << 1) - 1)  # noqa: E731
            n = sum(p["counts"]) + p["zero"]
            side = b"\x08" + zig(p["offset"]) + part(2, b"".join(map(varint, p["counts"])))
            return (
                attributes(1, p["attrs"])
                + times
                + b"\x21"
                + struct.pack("<Q", n)
                + b"\x29"
                + struct.pack("<d", p["sum"])
                + b"\x30"
                + zig(p["scale"])
                + b"\x39"
                + struct.pack("<Q", p["zero"])
                + part(8, side)
                + flags
            )
        case _:
            told = b"".join(
                part(6, b"\x09" + struct.pack("<d", q) + b"\x11" + struct.pack("<d", v))
                for q, v in p["quantiles"]
            )
            return (times + b"\x21" + struct.pack("<Q", p["count"]) + b"\x29" + struct.pack("<d", p["sum"]) + told
                    + attributes(7, p["attrs"]) + flags)  # fmt: skip


_FIELD = {"gauge": 5, "sum": 7, "histogram": 9, "exponential": 10, "summary": 11}
_WORD = {"exponential": "exponentialHistogram"}


def protobuf(resource: dict, metrics: list[dict], scope: str = "test") -> bytes:
    told = b""
    for m in metrics:
        inner = b"".join(part(1, _point(m["kind"], p)) for p in m["points"])
        if m["kind"] in {"sum", "histogram", "exponential"}:
            inner += b"\x10" + varint(m["temporality"])
        if m["kind"] == "sum" and m["monotonic"]:
            inner += b"\x18\x01"
        told += part(
            2,
            part(1, m["name"].encode())
            + part(3, m["unit"].encode())
            + part(_FIELD[m["kind"]], inner),
        )
    return part(
        1, part(1, attributes(1, resource)) + part(2, part(1, part(1, scope.encode())) + told)
    )


def _json_value(value) -> dict:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_json_value(v) for v in value]}}
        case dict():
            return {"kvlistValue": {"values": _json_map(value)}}
        case _:
            return {}


def _json_map(found: dict) -> list:
    return [{"key": k, "value": _json_value(v)} for k, v in found.items()]


def _json_point(kind: str, p: dict) -> dict:
    out = {"attributes": _json_map(p["attrs"]), "startTimeUnixNano": str(round(p["start"] * 1e9)),
           "timeUnixNano": str(round(p["ts"] * 1e9)), "flags": p["flags"]}  # fmt: skip
    match kind:
        case "gauge" | "sum":
            value = p["value"]
            if value is not None:
                out |= {"asInt": str(value)} if isinstance(value, int) else {"asDouble": value}
        case "histogram":
            out |= {"count": str(sum(p["counts"])), "sum": p["sum"], "bucketCounts": [str(n) for n in p["counts"]],
                    "explicitBounds": p["bounds"]}  # fmt: skip
        case "exponential":
            out |= {"count": str(sum(p["counts"]) + p["zero"]), "sum": p["sum"], "scale": p["scale"],
                    "zeroCount": str(p["zero"]),
                    "positive": {"offset": p["offset"], "bucketCounts": [str(n) for n in p["counts"]]}}  # fmt: skip
        case _:
            out |= {"count": str(p["count"]), "sum": p["sum"],
                    "quantileValues": [{"quantile": q, "value": v} for q, v in p["quantiles"]]}  # fmt: skip
    return out


def as_json(resource: dict, metrics: list[dict], scope: str = "test") -> bytes:
    told = [
        {"name": m["name"], "unit": m["unit"], _WORD.get(m["kind"], m["kind"]): {
            "dataPoints": [_json_point(m["kind"], p) for p in m["points"]],
            "aggregationTemporality": m["temporality"], "isMonotonic": m["monotonic"]}}
        for m in metrics
    ]  # fmt: skip
    scopes = [{"scope": {"name": scope}, "metrics": told}]
    return json.dumps(
        {
            "resourceMetrics": [
                {"resource": {"attributes": _json_map(resource)}, "scopeMetrics": scopes}
            ]
        }
    ).encode()


def logs(resource: dict, severities: list) -> bytes:
    """Log records of these severities: a number, or a text."""
    return protobuf_logs(resource, [{"severity": s} for s in severities])


def protobuf_logs(resource: dict, records: list[dict]) -> bytes:
    """Log records, each with what it says of: ts (ns), severity, body, attributes, trace (hex)."""
    return part(1, part(1, attributes(1, resource))
                + part(2, part(1, part(1, b"scope")) + b"".join(part(2, _log(r)) for r in records)))  # fmt: skip


def _log(record: dict) -> bytes:
    severity = record.get("severity", 9)
    return (
        (b"\x09" + struct.pack("<Q", record.get("ts", 0)))
        + (b"\x10" + varint(severity) if isinstance(severity, int) else part(3, severity.encode()))
        + (part(5, any_value(record["body"])) if "body" in record else b"")
        + attributes(6, record.get("attributes", {}))
        + part(9, bytes.fromhex(record.get("trace", "")))
        + b"\x45\x00\x00\x00\x00"
    )


def json_logs(resource: dict, records: list[dict]) -> bytes:
    told = []
    for record in records:
        severity = record.get("severity", 9)
        told.append(
            {"timeUnixNano": str(record.get("ts", 0)), "traceId": record.get("trace", ""),
             "severityNumber" if isinstance(severity, int) else "severityText": severity,
             "attributes": _json_map(record.get("attributes", {}))}
            | ({"body": _json_value(record["body"])} if "body" in record else {})
        )  # fmt: skip
    scopes = [{"scope": {"name": "scope"}, "logRecords": told}]
    group = {"resource": {"attributes": _json_map(resource)}, "scopeLogs": scopes}
    return json.dumps({"resourceLogs": [group]}).encode()
