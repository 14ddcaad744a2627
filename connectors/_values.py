"""Named values of one service, wherever they are kept: which may be set, within which bounds; as flags and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from agent.config import Name
from agent.errors import Refused
from agent.units import Model

Value = bool | float | str | None


class ValuesConfig(Model):
    """Whose values they are, and what of them may be set."""

    service: Name
    may: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Names that may be set, and no others; with dots they lie deeper: `search.reranker`."""
    bounds: dict[str, tuple[float, float]] = {}
    """Least and most of a number."""


class Values:
    """Flags and Limiter (see playbooks/actions/flags.py, limits.py) over two methods that read and write one value."""

    def __init__(self, name: str, config: ValuesConfig) -> None:
        self.name = name
        self._about = config

    async def _get(self, name: str) -> Value:
        raise NotImplementedError

    async def _put(self, name: str, value: Value, expect: Value) -> None:
        raise NotImplementedError

    # ---- ability: Flags

    async def flag(self, name: str) -> Value:
        """Return a value; raises Refused when it is a list or an object."""
        self._allowed(name)
        return await self._get(name)

    async def set_flag(self, name: str, value: Value, expect: Value, by: str) -> None:
        """Set one value if it is `expect`; None takes it away."""
        del by
        self._allowed(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._within(name, value)
        await self._put(name, value, expect)

    # ---- ability: Limiter

    async def limit(self, target: str, name: str) -> float | None:
        """Return a number."""
        self._ours(target)
        value = await self.flag(name)
        if isinstance(value, bool | str):
            raise Refused(f"{name} of {self.name} is {value!r}, which is no number")
        return None if value is None else float(value)

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return the number itself, if it is within its bounds."""
        self._ours(target)
        self._allowed(name)
        self._within(name, value)
        return value

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Set a number."""
        self._ours(target)
        await self.set_flag(name, value, expect, "")

    # ---- what may be set

    def _ours(self, target: str) -> None:
        if target != f"service:{self._about.service}":
            raise Refused(
                f"{self.name} has the values of service:{self._about.service}, not {target}: say which with `via:`"
            )

    def _allowed(self, name: str) -> None:
        if name not in self._about.may:
            raise Refused(
                f"{name} is not among what {self.name} may set: {', '.join(self._about.may)}"
            )

    def _within(self, name: str, value: float) -> None:
        low, high = self._about.bounds.get(name, (-math.inf, math.inf))
        if not low <= value <= high:
            raise Refused(
                f"{name} may be {low:g} to {high:g}, not {value:g}: see `bounds` of {self.name}"
            )


def value_at(data: Mapping[str, Any], name: str) -> Value:
    """Return the value of a name, None where there is none; raises Refused when it is no single value."""
    found: Any = data
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict | list):
        raise Refused(f"{name} is no single value")
    value: Value = found
    return value


def as_json(value: Value) -> Value:
    """Return 8 for 8.0, for those who read integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def nested(name: str, value: Value) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for a name `a.b`."""
    head, dot, rest = name.partition(".")
    return {head: nested(rest, value) if dot else as_json(value)}


def merged(data: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return data with a JSON merge patch (RFC 7396) laid over it: null takes away."""
    out = dict(data)
    for key, value in patch.items():
        if isinstance(value, dict):
            below = out.get(key)
            out[key] = merged(below if isinstance(below, dict) else {}, value)
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out


def pointed(data: Any, pointer: str) -> Any:
    """Return what a JSON pointer (RFC 6901) points at; None where there is nothing. "" is the whole."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(data, dict):
            data = data.get(name)
        elif isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        else:
            return None
    return data
