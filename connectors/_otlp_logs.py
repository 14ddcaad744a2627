"""How many log records of each severity a resource wrote, by OTLP/HTTP (protobuf and JSON); no text is looked at."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from connectors._otlp_wire import DAMAGE, fields, json_map, not_otlp, pair
from connectors._records import value_of

SEVERITIES: Final = ("debug", "info", "warn", "error", "fatal")
_OF_NUMBER: Final = (
    "",
    *("debug",) * 8,
    *("info",) * 4,
    *("warn",) * 4,
    *("error",) * 4,
    *("fatal",) * 4,
)
"""1 to 24: trace, debug, info, warn, error, fatal, four each."""
_OF_TEXT: Final = {
    "trace": "debug", "debug": "debug", "info": "info", "information": "info", "notice": "info", "warn": "warn",
    "warning": "warn", "err": "error", "error": "error", "severe": "error", "crit": "fatal", "critical": "fatal",
    "fatal": "fatal", "alert": "fatal", "emerg": "fatal", "panic": "fatal",
}  # fmt: skip
_WORD: Final = "SEVERITY_NUMBER_"

Counted = list[tuple[dict[str, Any], Counter[str]]]


def counts_of(body: bytes, content_type: str) -> Counted:
    """Return the attributes of each resource and its counts; raises Refused."""
    try:
        return _json(value_of(body)) if "json" in content_type.lower() else _protobuf(body)
    except DAMAGE as damage:
        raise not_otlp("logs", "ExportLogsServiceRequest", damage) from None


def _severity(number: int, text: str) -> str:
    """Return ours; what says nothing is information."""
    if 0 < number < len(_OF_NUMBER):
        return _OF_NUMBER[number]
    return _OF_TEXT.get(text.strip().lower(), "info")


def _protobuf(body: bytes) -> Counted:
    out: Counted = []
    for number, group in fields(memoryview(body)):
        if number != 1:
            continue
        resource: dict[str, Any] = {}
        counts: Counter[str] = Counter()
        for part, data in fields(group):
            if part == 1:
                resource = dict(pair(kv) for k, kv in fields(data) if k == 1)
            elif part == 2:
                for k, record in fields(data):
                    if k == 2:
                        said = {n: v for n, v in fields(record) if n in {2, 3}}
                        counts[_severity(said.get(2, 0), str(said.get(3, b""), "utf-8"))] += 1
        out.append((resource, counts))
    return out


def _json(whole: Any) -> Counted:
    out: Counted = []
    for group in whole.get("resourceLogs", ()):
        resource = json_map(group.get("resource", {}).get("attributes", ()))
        counts: Counter[str] = Counter()
        for scope in group.get("scopeLogs", ()):
            for record in scope.get("logRecords", ()):
                counts[_severity(_number(record), str(record.get("severityText", "")))] += 1
        out.append((resource, counts))
    return out


def _number(record: Any) -> int:
    """Return the number; JSON may carry its name, `SEVERITY_NUMBER_ERROR2`."""
    said = record.get("severityNumber", 0)
    if not isinstance(said, str):
        return int(said)
    word = said.removeprefix(_WORD).lower().rstrip("234")
    return _OF_NUMBER.index(_OF_TEXT.get(word, "info"))
