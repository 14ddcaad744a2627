"""What Elasticsearch must know before documents come: how long they are kept, and how each field is read.

Mappings are closed (`dynamic: false`): a field that nobody foresaw is kept and not indexed, so no document is refused
for it, and no index grows fields without end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from agent import __version__

_KEYWORD: Final = {"type": "keyword", "ignore_above": 1024}
_TEXT: Final = {"type": "match_only_text"}
_DATE: Final = {"type": "date"}
_LONG: Final = {"type": "long"}
_DOUBLE: Final = {"type": "double"}
_BOOL: Final = {"type": "boolean"}
_FLAT: Final = {"type": "flattened", "ignore_above": 1024}


def _object(**fields: Any) -> dict[str, Any]:
    return {"properties": fields}


def _words(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, _KEYWORD)


_COMMON: Final[dict[str, Any]] = {
    "@timestamp": _DATE,
    "message": _TEXT,
    "tags": _KEYWORD,
    "ecs": _object(version=_KEYWORD),
    "event": _object(
        **_words("kind", "type", "module", "dataset", "action", "outcome", "id", "url"),
        reason=_TEXT, start=_DATE, end=_DATE, duration=_LONG, severity=_LONG, sequence=_LONG,
    ),
    "observer": _object(**_words("vendor", "product", "type", "name", "version")),
    "host": _object(name=_KEYWORD),
    "service": _object(name=_KEYWORD),
    "user": _object(name=_KEYWORD),
    "related": _object(hosts=_KEYWORD),
    "trace": _object(id=_KEYWORD),
}  # fmt: skip
_CAUSE: Final = _object(**_words("kind", "said", "entity"), probability=_DOUBLE, because=_TEXT)
_GATES: Final = _object(name=_KEYWORD, passed=_BOOL, value=_TEXT, limit=_TEXT, reason=_TEXT)
_INCIDENT: Final = _object(
    **_words("id", "state", "severity", "entities", "series", "runs", "merged_into", "absorbed", "about"),
    opened=_DATE, updated=_DATE, resolved=_DATE, reopened=_LONG, anomalies=_LONG, causes=_CAUSE, rejected=_CAUSE,
    turns=_object(ts=_DATE, event=_KEYWORD, state=_KEYWORD, by=_KEYWORD, why=_TEXT),
)  # fmt: skip
_RUN: Final = _object(
    **_words("id", "playbook", "target", "incident", "verdict", "against", "state", "mode", "plan_hash"),
    started=_DATE, updated=_DATE, undone=_BOOL, well=_BOOL, numbers=_FLAT, gates=_GATES,
    steps=_object(**_words("id", "use", "status"), started=_DATE, ended=_DATE, summary=_TEXT),
)  # fmt: skip
_DECISION: Final = _object(
    **_words("playbook", "target", "incident", "mode", "stopped_by"), allowed=_BOOL, gates=_GATES
)
_CHANGE: Final = _object(**_words("entity", "kind", "before", "after"))
_MODEL: Final = _words("model", "version", "variant")
_INFERENCE: Final = _object(
    **_MODEL, rows=_LONG, failed=_LONG, tokens_in=_LONG, tokens_out=_LONG,
    latency=_object(histogram={"type": "histogram"}, mean=_DOUBLE, max=_DOUBLE),
    confidence=_object(mean=_DOUBLE), prediction=_object(mean=_DOUBLE, min=_DOUBLE, max=_DOUBLE),
    classes=_object(name=_KEYWORD, rows=_LONG),
)  # fmt: skip
_ROW: Final = _object(
    **_MODEL, id=_KEYWORD, **_words("prediction", "finish"), value=_DOUBLE, confidence=_DOUBLE, latency=_DOUBLE,
    status=_LONG, features=_FLAT, tags=_FLAT, tokens_in=_LONG, tokens_out=_LONG,
)  # fmt: skip

KINDS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "incidents": ("record", {"incident": _INCIDENT}),
    "runs": ("record", {"run": _RUN}),
    "events": (
        "record",
        {
            "incident": _INCIDENT, "run": _RUN, "decision": _DECISION, "change": _CHANGE, "about": _KEYWORD,
            "facts": _FLAT,
        },
    ),
    "inference": ("inference", {"inference": _INFERENCE}),
    "rows": ("rows", {"row": _ROW}),
}  # fmt: skip
"""Kind of document -> which policy keeps it, and its own fields."""
OWNER: Final = "homeostat"


def policies(prefix: str, keep_s: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return name -> policy: indices go as wholes, so long after they were made."""
    out = {}
    for kind, seconds in keep_s.items():
        body = {
            "phases": {
                "hot": {"min_age": "0ms", "actions": {"set_priority": {"priority": 50}}},
                "delete": {"min_age": f"{max(1, round(seconds / 3600))}h", "actions": {"delete": {}}},
            }
        }  # fmt: skip
        out[f"{prefix}-{kind}"] = body | {"_meta": _meta(body)}
    return out


def templates(prefix: str) -> dict[str, dict[str, Any]]:
    """Return name -> index template."""
    out = {}
    for kind, (policy, fields) in KINDS.items():
        body = {
            "index_patterns": [f"{prefix}-{kind}-*"], "priority": 300,
            "template": {
                "settings": {"index": {"lifecycle": {"name": f"{prefix}-{policy}"}, "codec": "best_compression"}},
                "mappings": {
                    "dynamic": False,
                    "properties": {**_COMMON, "homeostat": {"properties": fields}},
                },
                "aliases": {f"{prefix}-{kind}": {}},
            },
        }  # fmt: skip
        out[f"{prefix}-{kind}"] = body | {"_meta": _meta(body)}
    return out


def ours_to_change(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Tell whether what is there is an older one of ours; what a person has made or mended stays."""
    meta = theirs.get("_meta") or {}
    return meta.get("managed_by") == OWNER and meta.get("made_from") != ours["_meta"]["made_from"]


def _meta(body: Mapping[str, Any]) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    return {"managed_by": OWNER, "version": __version__, "made_from": digest}
