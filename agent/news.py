"""What has happened, for ways to people that want more than messages: read off the journal, never written twice.

    incident -> its turns (`opened`, `acknowledged`, `resolved`, ...)    change -> `changed`    run -> `acting`, `acted`

Our own acts are told by their runs, so changes that they made are not told again. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args
from urllib.parse import quote

from agent.causes import words
from agent.journal import Entry
from agent.life import Event as Turned
from agent.model import Incident
from agent.ports import Note

Event = Literal[Turned, "changed", "acting", "acted", "digest"]
"""`digest` is no news of the journal: the daemon writes it as a note when it is due."""
EVENTS: Final[tuple[str, ...]] = get_args(Event)
KINDS: Final = ("incident", "change", "run")
"""Kinds of journal entries that hold news."""
_OVER: Final = frozenset({"done", "failed"})
"""States of a run that has acted; one that was denied, has expired or was only suggested has not."""


def of(entry: Entry) -> Iterator[Note]:
    """Yield what an entry tells; an incident tells its whole life each time, with the same keys."""
    if entry.kind == "incident":
        yield from _turns(entry.body)
    elif entry.kind == "change":
        yield from _change(entry)
    elif entry.kind == "run":
        yield from _run(entry.body)


def _turns(incident: Mapping[str, Any]) -> Iterator[Note]:
    for turn in incident["turns"]:
        key = f"turn:{incident['id']}:{turn['event']}:{turn['ts']:.3f}"
        said = f"{turn['event']} by {turn['by']}" + (f": {turn['why']}" if turn["why"] else "")
        yield Note(
            key, turn["ts"], incident["severity"], incident["title"], said, incident["id"],
            event=turn["event"], facts={"by": turn["by"], "began": moment(incident["opened"])},
        )  # fmt: skip


def _change(entry: Entry) -> Iterator[Note]:
    body = entry.body
    if str(body["by"]).startswith("homeostat:"):
        return
    about = f"{body['entity']['kind']}:{body['entity']['key']}"
    moved = f": {body['before']} -> {body['after']}" if body["before"] or body["after"] else ""
    yield Note(
        f"change:{entry.seq}", body["ts"], "note", f"{body['kind']} of {about}{moved}", body["text"],
        event="changed", link=body["url"],
        facts=_kept({"entity": about, "kind": body["kind"], "by": body["by"]}),
    )  # fmt: skip


def _run(run: Mapping[str, Any]) -> Iterator[Note]:
    if run["mode"] == "suggest":  # somebody took it up: what acts is a run of its own
        return
    event = "acting" if run["state"] == "acting" else "acted" if run["state"] in _OVER else ""
    if not event:
        return
    about = f"{run['target']['kind']}:{run['target']['key']}"
    outcome = run["outcome"] or {}
    yield Note(
        f"run:{run['id']}:{event}", run["started"] if event == "acting" else run["updated"], "note",
        f"{run['playbook']} on {about}", outcome.get("summary") or run["text"], run["incident"], event=event,
        facts=_kept({
            "run": run["id"], "entity": about, "playbook": run["playbook"], "mode": run["mode"],
            "began": moment(run["started"]), "verdict": outcome.get("verdict", ""),
        }),
    )  # fmt: skip


def filled(note: Note, incident: Incident | None, public_url: str) -> Note:
    """Return the note with what is known now: a link to its page, and of its incident the cause and the state."""
    known: dict[str, str] = {}
    if incident is not None:
        top = incident.diagnosis.top if incident.diagnosis else None
        known = _kept({
            "state": incident.state, "began": moment(incident.opened),
            "about": incident.about.id if incident.about else "",
            "cause": words(top.kind) if top else "", "cause_of": top.entity.id if top else "",
            "cause_probability": f"{top.probability:.2f}" if top else "",
            "because": "; ".join(e.text for e in top.evidence[:3]) if top else "",
            "merged_into": incident.merged_into,
        })  # fmt: skip
    page = public_url
    if public_url and incident is not None:
        page = f"{public_url.rstrip('/')}/incidents/{quote(incident.id, safe='')}"
    return replace(note, link=note.link or page, facts={**known, **note.facts})


def moment(ts: float) -> str:
    """Write a time as RFC 3339 does, in UTC."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds")


def _kept(facts: Mapping[str, str]) -> dict[str, str]:
    return {name: said for name, said in facts.items() if said}
