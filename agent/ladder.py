"""The ladder: who is called when nobody has taken an incident, one step after the other. Pure; nothing is remembered.

    it harms, or the agent gives up (`page:`, `needs:` in the journal) --> step 1 --after--> step 2 --after--> step 3
    a person calls for help (`call:`)                                  --^
    taken, mitigated, over, put off        --> it stops
    relapsed, back again, called for again --> from the first step on

All of it follows from the journal: when it began is the time of a note, a step that was climbed is a note of its own
key, and who has taken it is a turn of the incident. So a restart, or a kill between any two entries, loses no step and
climbs none twice; a step that was due meanwhile is climbed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.expr import parse
from agent.life import acknowledged_by
from agent.memory import Memory
from agent.model import Incident
from agent.ports import Note
from agent.routing import People, lookup, quiet_until
from agent.telling import hushed
from agent.units import say_duration

_LATE_S = 6 * 3600.0
_AT_WORK = frozenset({"acting", "verifying", "undoing"})
"""States of a run that may yet heal: nobody new is called while one is at it."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A ladder that stands. since: when it began; called: by a person, so it climbs whatever we are doing."""

    since: float
    called: bool = False


def begun(incident: Incident, memory: Memory, now: float) -> Begun | None:
    """Return since when somebody is to be called for an incident; None = nobody is (any more)."""
    told = memory.called.get(incident.id, {})
    life = f"{incident.id}:{incident.reopened}"
    harm = [
        ts for key, ts in told.items() if key == f"page:{life}" or key.startswith(f"needs:{life}:")
    ]
    calls = [ts for key, ts in told.items() if key.startswith(f"call:{incident.id}:")]
    since = min(harm) if harm and incident.severity == "page" else None
    if since is not None:
        since = max([since, *(t.ts for t in incident.turns if t.event == "relapsed")])
    called = bool(calls) and (since is None or max(calls) >= since)
    if called:
        since = max(calls)
    if (
        since is None
        or incident.state == "resolved"
        or (incident.state == "mitigated" and not called)
    ):
        return None
    taken = acknowledged_by(incident)
    if taken is not None and (taken.ts >= since or not called):
        return None
    if hushed(incident, memory, now) and not (called and _asked_since(incident, memory, since)):
        return None
    off = memory.snoozes.get(incident.id)
    if (
        off is not None
        and since <= off.ts
        and off.reopened == incident.reopened
        and off.until <= now
    ):
        since = off.until  # put off for a while, and still there
    return Begun(since, called)


def _asked_since(incident: Incident, memory: Memory, since: float) -> bool:
    """Tell whether a person called after another one had put it off, or silenced it."""
    off = memory.snoozes.get(incident.id)
    return off is None or off.ts < since


Facts = Callable[[Note], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ladder:
    """What the steps are made of.

    facts   what their `when` may ask of a note; said: the note of an incident as people are told it now
    ways    that there are; a step of which none is there is climbed by the next
    """

    people: People
    memory: Memory
    facts: Facts
    said: Callable[[Incident], Note]
    ways: Collection[str]

    def due(self, incidents: Iterable[Incident], now: float) -> Iterator[Note]:
        """Yield the notes of the steps that are due and were not climbed; each to one way."""
        if not self.people.escalation:
            return
        for incident in incidents:
            stands = (
                begun(incident, self.memory, now) if incident.id in self.memory.called else None
            )
            if stands is not None:
                yield from self._climbed(incident, stands, now)

    def again(self, incidents: Iterable[Incident], now: float) -> Iterator[Note]:
        """Yield a note for each incident that was put off for a while and is still there; the ladder tells its own."""
        for incident in incidents:
            off = self.memory.snoozes.get(incident.id)
            if off is None or incident.state != "open" or incident.severity == "note":
                continue
            ended = (
                off.ts < off.until <= now < off.until + _LATE_S
                and off.reopened == incident.reopened
            )
            key = f"again:{incident.id}:{off.until:.0f}"
            if not ended or key in self.memory.notes:
                continue
            if self.people.escalation and incident.severity == "page":
                continue
            note = self.said(incident)
            title = f"still there: {incident.title}"
            yield replace(note, key=key, ts=now, severity=incident.severity, title=title)

    def _climbed(self, incident: Incident, stands: Begun, now: float) -> Iterator[Note]:
        note, people = self.said(incident), self.people
        look = lookup(self.facts(note), note, people.timezone)
        meant = [
            (i, rung)
            for i, rung in enumerate(people.escalation)
            if not rung.when or parse(rung.when).test(look) is True
        ]
        runs = self.memory.live_runs_of(incident.id)
        working = not stands.called and any(run.state in _AT_WORK for run in runs)
        waited = now - stands.since
        for nth, (i, rung) in enumerate(meant, 1):
            if waited < rung.after or (working and rung.after > 0):
                return
            if rung.quiet and quiet_until(rung.quiet, people.timezone, now) is not None:
                continue
            for to in rung.to:
                key = (
                    f"ladder:{incident.id}:{incident.reopened}:{stands.since:.0f}:{i}:{to.address}"
                )
                if key in self.memory.notes or to.way not in self.ways:
                    continue
                yield Note(
                    key, now, "page", note.title, _text(note.text, waited, nth, len(meant)), incident.id,
                    note.owner, to.channel or note.channel, to=(to.way,),
                )  # fmt: skip


def _text(text: str, waited: float, step: int, steps: int) -> str:
    if step == 1 and waited < 60.0:
        return text
    return f"{text}; nobody has taken it for {say_duration(waited)} (step {step} of {steps})"
