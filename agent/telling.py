"""What people are told of an incident, and when nobody is told. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.causes import words
from agent.filling import when
from agent.model import Incident
from agent.ports import Note
from agent.routing import OWN_HARM
from agent.views import name_of

if TYPE_CHECKING:
    from agent.memory import Memory
    from agent.world import World


def facts(incident: Incident | None, world: World) -> dict[str, Any]:
    """Return what routes may ask of a note about an incident; see `agent.routing.NAMES`."""
    if incident is None:
        return {}
    top = incident.diagnosis.top if incident.diagnosis else None
    out: dict[str, Any] = {"state": incident.state, "owner": of_service(incident, world, "owner")}
    if top is not None:
        out |= {"cause": top.kind, "cause_of": top.entity.id, "probability": top.probability}
    if incident.about is not None:
        about = incident.about
        out |= {"entity": about.id, "kind": about.kind, "labels": dict(world.attrs(about))}
    return out


def withheld(note: Note, incident: Incident | None, memory: Memory, now: float) -> str:
    """Say why a note is told to nobody: put off, or silenced; "" = it is told, as are calls and harm of our own."""
    kind, _, rest = note.key.partition(":")
    if incident is None or note.to or kind == "call":
        return ""
    if note.severity == "page" and kind in memory.runs and rest.partition(":")[0] in OWN_HARM:
        return ""
    return hushed(incident, memory, now)


def note_of(key: str, incident: Incident, world: World, now: float) -> Note:
    """Return the note of an incident that harms: what it is, why, and what comes."""
    top = incident.diagnosis.top if incident.diagnosis else None
    if top and top.kind != "unknown":
        whom = name_of(top.entity, world.attrs(top.entity))
        said = f"{words(top.kind)} ({whom}, {100 * top.probability:.0f} % sure)"
    else:
        moved = top.evidence[0].text if top and top.evidence else ""
        said = f"cause not known yet; {moved}" if moved else "cause not known yet"
    soon = [a.ahead for a in incident.anomalies if a.ahead is not None and a.harm and a.end is None]
    if soon:
        said += "; " + ", ".join(when(one, now) for one in soon[:3])
    return Note(
        key, now, "page", incident.title, said, incident.id, of_service(incident, world, "owner"),
        of_service(incident, world, "channel"),
    )  # fmt: skip


def of_service(incident: Incident, world: World, what: str) -> str:
    """Return the owner, or the channel, of the service that an incident is about."""
    found = (world.attrs(e).get(what, "") for e in incident.entities if e.kind == "service")
    return next(found, "")


def hushed(incident: Incident, memory: Memory, now: float) -> str:
    """Say why nobody is told of an incident now; "" = people are."""
    off = memory.snoozed(incident, now)
    if off is not None:
        return f"put off by {off.by}"
    top = incident.diagnosis.top if incident.diagnosis else None
    kind = top.kind if top else ""
    silence = memory.silenced(incident.about, now, kind) if incident.about is not None else None
    return "" if silence is None else f"silenced by {silence.by}"
