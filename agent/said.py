"""What people said of an incident, and what they were told of it: from the journal, for whoever sums it up.

    label, correction, snooze            of the incident and of those that became part of it
    approval, cancel, reason, reply      of its runs
    pause, resume, silence               of what it is about, while it lasted
    note, told                           of both

Memory keeps only the newest word on each thing; the journal has all of them. Reads, changes nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.causes import words
from agent.memory import EVERYTHING, Silence
from agent.questions import id_of
from agent.units import say_duration

if TYPE_CHECKING:
    from agent.journal import Entry, JournalReader
    from agent.memory import Memory
    from agent.model import Entity, Incident

Row = tuple[float, str, str]
"""When, who, what."""

US: Final = "homeostat"


@dataclass(frozen=True, slots=True)
class Doubted:
    """The newest word of a person on the cause: not that, and what it was. right: "" = they do not know."""

    wrong: str
    of: str
    right: str
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Said:
    """Rows of a timeline, oldest first, and what a person says of the cause."""

    rows: tuple[Row, ...] = ()
    doubted: Doubted | None = None


NOTHING: Final = Said()


def said_of(
    incident: Incident,
    memory: Memory,
    journal: JournalReader,
    now: float,
    name: Callable[[Entity], str],
) -> Said:
    """Return what was said of an incident. Raises Unavailable when the journal can not be read.

    Cost: one query a run and a note of it, and one over what was paused and silenced while it lasted.
    """
    ids = (incident.id, *incident.absorbed)
    runs = {r.id: r.playbook for r in memory.runs.values() if r.incident in ids}
    about = [e for e in (incident.about, *incident.also, *incident.entities) if e is not None]
    about += [memory.runs[id_].target for id_ in runs]
    end = now if incident.resolved is None else incident.resolved
    rows = [
        *_of_incidents(journal, ids),
        *_of_runs(journal, runs),
        *_quieted(journal, {e.id for e in about}, incident.opened, end),
        *_told(journal, memory.notes, {*ids, *runs}, incident.title),
    ]
    found = memory.corrections.get(incident.id)
    doubted = None
    if found is not None:
        of = next((name(e) for e in _entities(incident) if e.id == found.of), found.of)
        doubted = Doubted(found.wrong, of, found.right, found.by, found.note)
    return Said(tuple(sorted(rows, key=lambda row: row[0])), doubted)


def _entities(incident: Incident) -> Iterator[Entity]:
    """Yield who may have been blamed, as values."""
    d = incident.diagnosis
    yield from (c.entity for c in ((*d.causes, *d.rejected) if d else ()))
    yield from incident.entities


def _because(body: Mapping[str, Any], key: str = "reason") -> str:
    return f": {body[key]}" if body.get(key) else ""


def _who(body: Mapping[str, Any]) -> str:
    return str(body.get("by") or body.get("person") or "")


# ---------------------------------------------------------------- what people said


def _of_incidents(journal: JournalReader, ids: Iterable[str]) -> Iterator[Row]:
    for entry in _each(journal, ("label", "correction", "snooze"), ids):
        yield entry.ts, _who(entry.body), _word(entry)


def _word(entry: Entry) -> str:
    b = entry.body
    match entry.kind:
        case "label":
            noise = b.get("label", "noise" if b.get("false_page") else "real") == "noise"
            said = "calls it noise" if noise else "says that it was rightly told"
            return said + _because(b, "note")
        case "correction":
            right = f", it was {b['right']} ({words(b['right'])})" if b.get("right") else ""
            return f"says that the cause is not {b.get('wrong', '')}{right}" + _because(b, "note")
        case _:
            lasts = float(b.get("until", entry.ts)) - entry.ts
            said = (
                f"puts it off for {say_duration(lasts)}" if lasts > 0 else "wants to be told again"
            )
            return said + _because(b)


def _of_runs(journal: JournalReader, runs: Mapping[str, str]) -> Iterator[Row]:
    for entry in _each(journal, ("approval", "cancel", "reason"), runs):
        b, playbook = entry.body, runs[entry.subject]
        match entry.kind:
            case "approval":
                said = f"says {'yes' if b.get('yes') else 'no'} to {playbook}{_because(b)}"
            case "cancel":
                said = f"stops {playbook}{_because(b)}"
            case _:
                said = f"says why {playbook} was started{_because(b)}"
        yield entry.ts, _who(b), said


def _quieted(journal: JournalReader, about: set[str], began: float, ended: float) -> Iterator[Row]:
    entries = journal.read(("pause", "resume", "silence"), since=began)
    for entry in itertools.takewhile(lambda e: e.ts <= ended, entries):
        b, of = entry.body, entry.subject
        if entry.kind == "silence":
            of = str(b.get("target", ""))
            one = Silence(entry.subject, of, float("inf"), "")
            if not any(one.covers(e, entry.ts) for e in about):
                continue
            lasts = float(b.get("until", entry.ts)) - entry.ts
            if lasts > 0:
                yield entry.ts, _who(b), f"silences {of} for {say_duration(lasts)}{_because(b)}"
            else:
                yield entry.ts, str(b.get("ended_by") or _who(b)), f"ends the silence of {of}"
        elif of == EVERYTHING or of in about:
            whom = "everything" if of == EVERYTHING else of
            what = "stops" if entry.kind == "pause" else "lets act again on"
            yield entry.ts, _who(b), f"{what} {whom}{_because(b)}"


# ---------------------------------------------------------------- what people were told


def _told(
    journal: JournalReader, notes: Iterable[str], about: set[str], title: str
) -> Iterator[Row]:
    for key in [k for k in notes if about.intersection(re.split(r"[:/]", k))]:
        entries = list(journal.read(("note", "told"), key))
        note = next((e for e in entries if e.kind == "note"), None)
        if note is not None:
            yield note.ts, *_note(note, title, [e.body for e in entries if e.kind == "told"])
        if key.endswith(":ask"):  # of a step, perhaps: it asks a form
            yield from _answers(journal, id_of(key.removesuffix(":ask")))


def _note(note: Entry, title: str, told: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return who, and what; a person who calls is the first word of their note."""
    said, headed = str(note.body.get("text", "")), str(note.body.get("title", ""))
    kind = note.subject.partition(":")[0]
    who, call, why = said.partition(" calls for help")
    went = [str(b["by"]) for b in told if not (b.get("withheld") or b.get("gave_up"))]
    lost = [
        f"not by {b['by']} ({b.get('withheld') or b.get('gave_up')})"
        for b in told
        if b.get("withheld") or b.get("gave_up")
    ]
    how = "; ".join([*([f"by {', '.join(dict.fromkeys(went))}"] if went else []), *lost])
    how = f" [{how}]" if how else ""
    if kind == "call" and call:
        return who, f"calls for help{why}{how}"
    what = "calls" if note.body.get("severity") == "page" else "tells"
    return US, f"{what} people: {said if headed == title and said else headed}{how}"


def _answers(journal: JournalReader, question: str) -> Iterator[Row]:
    for entry in journal.read(("reply",), question):
        values = entry.body.get("values") or {}
        said = ", ".join(f"{k}={v}" for k, v in values.items())
        yield entry.ts, _who(entry.body), f"answers: {said}"


def _each(journal: JournalReader, kinds: Sequence[str], subjects: Iterable[str]) -> Iterator[Entry]:
    return itertools.chain.from_iterable(journal.read(kinds, subject) for subject in subjects)
