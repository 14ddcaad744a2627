"""Frozen values to JSON-able dicts and back, for the journal, the API and durable runs.

NaN and infinities become null (JSON has neither) and come back as NaN. Source: pydantic's dataclass support;
adapters are built once a class (milliseconds) and then cost microseconds.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value


def pack(value: Any) -> dict[str, Any]:
    """Turn a value of `agent.model` into a dict that JSON can carry."""
    out = _clean(_adapter(type(value)).dump_python(value, mode="python"))
    if not isinstance(out, dict):
        raise TypeError(f"{type(value).__name__} is not a value that flows")
    return out


def unpack(cls: type[T], data: Any) -> T:
    """Turn such a dict back; raises pydantic.ValidationError on anything else."""
    value: T = _adapter(cls).validate_python(_restore(cls, data))
    return value


# Floats that may be missing; everything else that is null was None before.
_NAN_FIELDS = frozenset({"low", "high", "value", "size", "deviations", "p"})


def _restore(cls: type[Any], data: Any) -> Any:
    """Put NaN back where an Anomaly had an open band."""
    if cls.__name__ == "Anomaly" and isinstance(data, dict):
        return {k: math.nan if v is None and k in _NAN_FIELDS else v for k, v in data.items()}
    if isinstance(data, dict) and "anomalies" in data:
        return {**data, "anomalies": [_restore(_Anomaly, a) for a in data["anomalies"]]}
    return data


def canonical(data: Any) -> str:
    """Write JSON the one way that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


class _Anomaly:
    """Stands for `agent.model.Anomaly` in the recursion above."""


_Anomaly.__name__ = "Anomaly"
