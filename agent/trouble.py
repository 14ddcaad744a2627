"""How single anomalies compare, what they amount to together, and how the trouble that they open is called. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from agent.catalogue import SIGNALS
from agent.model import Anomaly, Series, Severity
from agent.units import say

_MANY_SIGNALS: Final = 6
_MANY_FOR_S: Final = 10.0
_NOT: Final = (
    ("answers", "does not answer"), ("says", "does not say"), ("calls", "does not call"), ("is", "is not"),
)  # fmt: skip
ORDER: Final[dict[Severity, int]] = {"note": 0, "warning": 1, "page": 2}
"""How bad a severity is."""

Key = tuple[Series, str]
"""Which excursion it is: the series, and the objective or finding where there is one."""


def severity_of(now: float, going: Sequence[Anomaly]) -> Severity | None:
    """Return how bad it is together; None = not enough to open an incident."""
    if any(a.harm for a in going):
        return "page"
    if any(a.road == "objective" for a in going):
        return "warning"
    if any(a.together is not None or a.road == "finding" for a in going):
        return "note"
    lasting = {a.series.metric for a in going if now - a.onset >= _MANY_FOR_S}
    return "note" if len(lasting) >= _MANY_SIGNALS else None


def key_of(anomaly: Anomaly) -> Key:
    """Return which excursion it is."""
    return anomaly.series, anomaly.family if anomaly.road in {"objective", "finding"} else ""


def order_of(series: Series) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    """Say how series sort, as they do themselves, in what compares twenty times as fast."""
    return series.metric, series.entity.kind, series.entity.key, series.labels


def strength(a: Anomaly) -> tuple[Any, ...]:
    """Order anomalies, the strongest first: harm, objectives, what goes on, what stands out."""
    return (
        not a.harm, a.road != "objective", a.end is not None, -a.deviations, order_of(a.series),
    )  # fmt: skip


def worst(found: Sequence[Anomaly]) -> int:
    """Return 2 for harm, 1 for a broken objective, 0 for the rest."""
    return max((2 if a.harm else 1 if a.road == "objective" else 0) for a in found)


def reason_of(lead: Anomaly) -> str:
    """Say why an incident opens, for its record."""
    return (
        f"{lead.series}: {lead.family}"
        if lead.road in {"objective", "finding"}
        else f"{lead.series} abnormal"
    )


def title_of(lead: Anomaly) -> str:
    """Say what is wrong with whom, in the catalogue's words without its footnotes."""
    definition = SIGNALS[lead.series.metric]
    what = re.sub(r"\s*\([^)]*\)", "", definition.help).partition(", ")[0]
    who = lead.series.entity.key
    if lead.ahead is not None:
        inner = "".join(f" ({value})" for _, value in lead.series.labels)
        limit = say(lead.high if lead.direction > 0 else lead.low, definition.unit)
        return f"{who}: {what}{inner} will reach {limit}"
    if math.isnan(lead.value):
        return f"{who}: {what} has no value"
    if definition.kind == "state":
        fact = what.removeprefix("whether ").partition(":")[0]
        return f"{who}: {fact if lead.value > 0.5 else _not(fact)}"
    if lead.road != "objective" and not lead.direction:
        return f"{who}: {what} is not ordinary"
    side = "above" if lead.direction > 0 else "below"
    return f"{who}: {what} is {side} {'its objective' if lead.road == 'objective' else 'ordinary'}"


def _not(fact: str) -> str:
    """Return what is so when a fact is not: `the service does not answer a probe`."""
    for verb, instead in _NOT:
        if f" {verb} " in f"{fact} ":
            return f"{fact} ".replace(f" {verb} ", f" {instead} ", 1).rstrip()
    return f"it is not so that {fact}"
