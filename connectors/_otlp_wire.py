"""The wire form of protobuf, as far as OTLP needs it: fields after each other, and attributes.

Read here, by some 90 lines: small messages that are declared stable, of which field numbers never change; the libraries
for it weigh megabytes and would be loaded for nothing else.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent.errors import Refused

_DEEP: Final = 4
_REAL: Final = struct.Struct("<d")
DAMAGE: Final = (
    ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError, struct.error, RecursionError,
)  # fmt: skip
"""What reading a message that is none may raise."""


def not_otlp(what: str, message: str, damage: Exception) -> Refused:
    """Return how a body that is none is answered."""
    said = str(damage) if type(damage) is ValueError else "the message is cut off or malformed"
    return Refused(f"not OTLP {what}: {said}; send {message}")


def answer(
    content_type: str, rejected: int, said: str, field: str = "rejectedLogRecords"
) -> tuple[int, str, bytes]:
    """Return what the protocol wants: 200 and a message that says what was not taken, `field` in words of its JSON."""
    if "json" in content_type.lower():
        told = {"partialSuccess": {field: str(rejected), "errorMessage": said}}
        return 200, "application/json", json.dumps(told if said else {}).encode()
    if not said:
        return 200, "application/x-protobuf", b""
    text = said.encode()
    inner = b"\x08" + varint(rejected) + b"\x12" + varint(len(text)) + text
    return 200, "application/x-protobuf", b"\x0a" + varint(len(inner)) + inner


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Read the fields of one message: numbers as int, all else as bytes."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        match tag & 7:
            case 0:
                value, at = read_varint(data, at)
                yield tag >> 3, value
            case 1:
                yield tag >> 3, data[at : at + 8]
                at += 8
            case 2:
                size, at = read_varint(data, at)
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


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("the message is malformed")


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pair(data: memoryview, deep: int = _DEEP) -> tuple[str, Any]:
    key, value = "", None
    for number, inner in fields(data):
        if number == 1:
            key = str(inner, "utf-8")
        elif number == 2:
            value = any_value(inner, deep)
    return key, value


def any_value(data: memoryview, deep: int = _DEEP) -> Any:
    if not deep:
        raise ValueError("values are nested too deep")
    out: Any = None
    for number, value in fields(data):
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
                out = [any_value(one, deep - 1) for k, one in fields(value) if k == 1]
            case 6:
                out = dict(pair(one, deep - 1) for k, one in fields(value) if k == 1)
            case _:
                pass
    return out


# ---- JSON: the same values


def json_map(found: Any, deep: int = _DEEP) -> dict[str, Any]:
    return {str(one["key"]): json_value(one.get("value", {}), deep) for one in found}


def json_value(found: Mapping[str, Any], deep: int = _DEEP) -> Any:
    if not deep:
        raise ValueError("values are nested too deep")
    for kind, value in found.items():
        match kind:
            case "intValue":
                return int(value)  # 64 bits, so it comes as a text
            case "doubleValue":
                return float(value)  # NaN comes as a text
            case "kvlistValue":
                return json_map(value.get("values", ()), deep - 1)
            case "arrayValue":
                return [json_value(one, deep - 1) for one in value.get("values", ())]
            case "stringValue" | "boolValue":
                return value
            case _:
                return None
    return None
