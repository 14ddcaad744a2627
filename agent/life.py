"""The life of an incident: its states, and the one table of what moves it from one to another.

    nothing -> open -> acknowledged -> mitigated -> resolved -> open, when it comes back soon
                 '---------------------^    '-> open or acknowledged, when it is not well after all

`mitigated`: what opened it is well, or held off by a run, and it has to prove that this lasts. Every turn says who and
why and stays with the incident, so that each version in the journal carries its own history. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from agent.errors import Refused
from agent.model import Incident, IncidentState, Turn

Event = Literal[
    "opened", "acknowledged", "mitigated", "relapsed", "resolved", "merged", "reopened",
]  # fmt: skip

TRANSITIONS: Final[dict[tuple[IncidentState | None, Event], IncidentState]] = {
    (None, "opened"): "open",
    ("open", "acknowledged"): "acknowledged",  # a person has taken it
    ("open", "mitigated"): "mitigated",
    ("open", "resolved"): "resolved",
    ("open", "merged"): "resolved",
    ("acknowledged", "mitigated"): "mitigated",
    ("acknowledged", "resolved"): "resolved",
    ("acknowledged", "merged"): "resolved",
    (
        "mitigated",
        "acknowledged",
    ): "mitigated",  # known to a person from now on, no less well for it
    ("mitigated", "relapsed"): "open",  # `acknowledged` when a person has taken it in this life
    ("mitigated", "resolved"): "resolved",
    ("mitigated", "merged"): "resolved",
    ("resolved", "reopened"): "open",
}
"""(state, event) -> state. What is not in the table does not happen; `resolved` by hand is not: it is measured."""

OURSELVES: Final = "homeostat"
MOST_TURNS: Final = 30
"""An incident keeps its opening and the newest; the journal keeps all."""


def turned(incident: Incident, event: Event, now: float, by: str, why: str) -> Incident:
    """Return the incident after an event; raises Refused when its state does not allow it."""
    before = incident.state if incident.turns or event != "opened" else None
    after = TRANSITIONS.get((before, event))
    if after is None:
        raise Refused(f"incident {incident.id} is {incident.state}: it can not be {event} now")
    if event == "relapsed" and acknowledged_by(incident):
        after = "acknowledged"
    turns = (*incident.turns, Turn(now, event, after, by, why))
    if len(turns) > MOST_TURNS:
        turns = (turns[0], *turns[-MOST_TURNS + 1 :])
    return replace(incident, state=after, updated=now, turns=turns)


def acknowledged_by(incident: Incident) -> Turn | None:
    """Return the turn in which a person took it, in this life; None when nobody has."""
    for turn in reversed(incident.turns):
        if turn.event == "acknowledged":
            return turn
        if turn.event in {"opened", "reopened"}:
            return None
    return None
