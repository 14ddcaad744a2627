"""Rule of the branch `observer`: we cannot see."""

from __future__ import annotations

from agent.rca.case import Case
from agent.rca.look import Look
from agent.units import many, say_duration


def blind(look: Look) -> list[Case]:
    """A source is stale; several at once are one cause on the first of them."""
    found = sorted(
        (a for a in look.incident.anomalies if a.series.metric == "source.blind" and a.end is None),
        key=lambda a: (a.onset, a.series),
    )
    if not found:
        return []
    first = found[0].series.entity
    case = Case("observer.blind", first, others=[a.series.entity for a in found[1:]])
    age = look.value("source.age_seconds", first)
    said = f" for {say_duration(age)}" if age is not None else ""
    rest = len(found) - 1
    more = f", nor {'has' if rest == 1 else 'have'} {many(rest, 'other')}" if rest else ""
    case.add("blind", f"source {first.key} has not answered{said}{more}")
    return [case]
