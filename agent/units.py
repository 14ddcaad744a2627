"""Durations, sizes and shares as people write them: `90s`, `5m`, `1GB`, `10%`. Numbers are base units.

Used wherever YAML is read. Percent, bytes and durations are literals of YAML scalars only, never of expressions.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    StringConstraints,
)

_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_CENTURY_S: Final = 100 * 365.25 * 86_400.0
_BYTES: Final = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_LONGEST: Final = 60
"""No duration, size or share is written in more characters."""


class Model(BaseModel):
    """Base of everything that people write: immutable, unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=False,
        populate_by_name=True, use_attribute_docstrings=True,
        defer_build=True,  # one process uses few of them: 1 MB, and a tenth of the time to start
        hide_input_in_errors=True,  # it may be a secret that was written where only a reference may stand
    )  # fmt: skip


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _read(text: Any, units: dict[str, float] | dict[str, int], example: str) -> Any:
    """Return the number of base units; numbers pass through and pydantic checks them."""
    if not isinstance(text, str):
        return text
    # no two parts of the pattern may match the same characters, else a long text takes for ever
    whole = len(text) <= _LONGEST and re.fullmatch(rf"\s*(?:{_NUMBER}\s*[A-Za-z]+\s*)+", text)
    if whole:
        parts = re.findall(rf"{_NUMBER}\s*([A-Za-z]+)", text)
        unknown = [unit for _, unit in parts if unit not in units]
        if not unknown:
            return float(sum(float(number) * units[unit] for number, unit in parts))
        raise ValueError(f"unknown unit {unknown[0]!r}, known: {', '.join(units)}")
    raise ValueError(f"not understood: {_short(text)}, write it like {example}")


def read_duration(text: Any) -> Any:
    """`90s`, `1h30m`, `250ms` -> seconds. Raises ValueError, also beyond a hundred years: no clock shows its end."""
    seconds = _read(text, _SECONDS, "30s, 5m or 1h30m")
    if isinstance(text, str) and seconds > _CENTURY_S:
        raise ValueError(f"longer than a hundred years: {_short(text)}")
    return seconds


def ticks_a_second(ts: float) -> float:
    """Return in what a unix time of our days counts: 1 (seconds), 1e3, 1e6 or 1e9 (nanoseconds) a second."""
    size = abs(ts)  # 1e11 is the year 5138 in seconds, 1973 in milliseconds
    return 1.0 if size < 1e11 else 1e3 if size < 1e14 else 1e6 if size < 1e17 else 1e9


def read_moment(text: str, now: float) -> float:
    """`15m` or `15m ago`, `14:05` (when it was last so), `yesterday 14:05`, unix seconds, ISO 8601 -> unix seconds.

    Without a zone it is the time of this host. Raises ValueError.
    """
    said = text.strip().lstrip("-").lower()
    if said == "now":
        return now
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", said):
        number = float(said)
        return number / ticks_a_second(number)
    try:
        return now - float(read_duration(said.removesuffix("ago")))
    except ValueError:
        pass
    try:
        if of_day := re.fullmatch(r"(yesterday\s+)?([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)", said):
            return _on_the_clock(of_day[2], now, yesterday=bool(of_day[1]))
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):  # a year that no clock has
        raise ValueError(
            f"not a time: {_short(text)}; write 15m (ago), 14:05, 2026-11-23T14:00 or unix seconds"
        ) from None


def _on_the_clock(text: str, now: float, *, yesterday: bool) -> float:
    """Return when the clock on this host's wall showed it last, or did yesterday."""
    of_day = time.fromisoformat(text if text[2] == ":" else f"0{text}")
    when = datetime.combine(datetime.fromtimestamp(now).astimezone().date(), of_day)
    return (when - timedelta(days=yesterday or when.timestamp() > now)).timestamp()


def read_bytes(text: Any) -> Any:
    """`1GB`, `512MiB` -> bytes."""
    return _read(text, _BYTES, "512MB or 1GiB")


def read_ratio(text: Any) -> Any:
    """`10%` -> 0.1; numbers pass through."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(rf"\s*{_NUMBER}\s*%\s*", text) if len(text) <= _LONGEST else None
    if not match:
        raise ValueError(f"not understood: {_short(text)}, write it like 10% or 0.1")
    return float(match.group(1)) / 100


def read_quantity(text: Any) -> Any:
    """Any of the above, for limits whose unit depends on the signal: `250ms`, `2GB`, `95%`, `12.5`."""
    if not isinstance(text, str):
        return text
    for read in (read_ratio, read_duration, read_bytes):
        try:
            return read(text)
        except ValueError:
            continue
    raise ValueError(f"not understood: {_short(text)}, write it like 250ms, 95%, 2GB or a number")


def _said(units: str) -> Any:
    """Return the type of a number with one of these units, for the JSON Schema."""
    pattern = rf"^\s*([0-9]+(\.[0-9]+)?\s*({units})\s*)+$"
    return Annotated[str, StringConstraints(pattern=pattern)]


_Time: Final = _said("|".join(_SECONDS))
_Size: Final = _said("|".join(_BYTES))
_Share: Final = _said("%")
_Part: Final[Any] = Annotated[float, Field(ge=0, le=1)]
_Seconds: Final[Any] = Annotated[float, Field(ge=0, le=_CENTURY_S)]
Duration = Annotated[
    float,
    BeforeValidator(read_duration, json_schema_input_type=_Seconds | _Time),
    Field(ge=0, le=_CENTURY_S, allow_inf_nan=False),
]
Span = Annotated[Duration, Field(gt=0)]
"""A duration that cannot be none: a window, a time-out, a limit's period."""
Bytes = Annotated[
    float,
    BeforeValidator(read_bytes, json_schema_input_type=NonNegativeFloat | _Size),
    Field(ge=0, allow_inf_nan=False),
]
Ratio = Annotated[
    float,
    BeforeValidator(read_ratio, json_schema_input_type=_Part | _Share),
    Field(ge=0, le=1, allow_inf_nan=False),
]
Quantity = Annotated[
    float,
    BeforeValidator(read_quantity, json_schema_input_type=float | _Time | _Size | _Share),
    Field(allow_inf_nan=False),
]


def say_duration(seconds: float) -> str:
    """Write a duration as people say it: `250 ms`, `42 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 0:
        return "-" + say_duration(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for size, name, rest_size, rest_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // rest_size
            return f"{whole // size} {name}" + (f" {rest} {rest_name}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 and seconds != whole else f"{whole} s"


def say_times(power: float) -> str:
    """Write a power of ten as people say it: `1.5 times`, `630 times`, `more than a million times`."""
    if power >= 6:
        return "more than a million times"
    size = float(f"{10**power:.2g}")
    return f"{size:,.1f} times" if size < 10 and size % 1 else f"{size:,.0f} times"


def many(n: int, one: str, more: str = "") -> str:
    """Say how many there are: `1 run`, `2 runs`, `20,000 rows`; `more` where an s does not make it."""
    return f"{n:,} {one if n == 1 else more or f'{one}s'}"


def say(value: float, unit: str) -> str:
    """Write a value with its catalogue unit for people: `12.3 %`, `245 ms`, `1.2 GB`."""
    if value != value:  # noqa: PLR0124  # NaN
        return "unknown"
    if unit == "ratio":
        return f"{value * 100:.3g} %"
    if unit == "seconds":
        return say_duration(value) if abs(value) >= 1 else f"{value * 1000:.3g} ms"
    if unit in {"bytes", "bytes_per_second"}:
        tail = "/s" if unit.endswith("second") else ""
        for name, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}{tail}"
        return f"{value:.3g} B{tail}"
    suffix = {"celsius": " °C", "watts": " W", "hertz": " Hz", "per_second": "/s"}.get(unit, "")
    return f"{value:.3g}{suffix}" if abs(value) < 1e5 else f"{value:,.0f}{suffix}"
