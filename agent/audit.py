"""The journal for people: pages of it, filtered and in words, one entry whole, and whether its chain holds.

journal -> newest first, a page -> EntryView (a line of words) ... EntryDetail (the body as it was written)
journal -> hash chain           -> CheckView, computed in a thread, kept until something new is written
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from agent.journal import Entry, JournalReader

_LOOKED_AT: Final = 2000
"""Entries that one page looks at: a rare word is found by asking for the next page."""
_WORDS: Final = 200
_MOST_BREAKS: Final = 100


class EntryView(TypedDict):
    """One line of the record. by: the person, or the source, that it came from; "" = homeostat itself."""

    seq: int
    ts: float
    kind: str
    subject: str
    by: str
    text: str


class EntryDetail(EntryView):
    """The whole of it. prev, hash: links of the chain."""

    body: dict[str, Any]
    prev: str
    hash: str


class JournalPage(TypedDict):
    """Entries, the newest first. older: ask with `before` = this for what is older; null = this is the end."""

    entries: list[EntryView]
    older: int | None


class BreakView(TypedDict):
    """Where the chain does not hold; entry 0 = the file as a whole."""

    entry: int
    problem: str


class CheckView(TypedDict):
    """Whether the record is as it was written.

    hash   of the last entry: note it elsewhere to prove that nothing was cut off
    """

    whole: bool
    entries: int
    hash: str
    breaks: list[BreakView]
    ts: float
    took_s: float


def page(
    journal: JournalReader,
    *,
    kinds: Sequence[str] = (),
    subject: str = "",
    search: str = "",
    since: float = 0.0,
    before: int | None = None,
    limit: int = 100,
) -> JournalPage:
    """Return one page. search: words that are all in kind, subject, person or text."""
    words = search.lower().split()
    found: list[EntryView] = []
    last = before
    entries = journal.read(
        kinds or None, subject or None, since, _LOOKED_AT, newest_first=True, before=before
    )
    looked = 0
    for entry in entries:
        if len(found) >= limit:
            return {"entries": found, "older": last}
        looked, last = looked + 1, entry.seq
        shown = line(entry)
        text = f"{entry.kind} {entry.subject} {shown['by']} {shown['text']}".lower()
        if all(word in text for word in words):
            found.append(shown)
    return {"entries": found, "older": last if looked >= _LOOKED_AT else None}


def detail(entry: Entry) -> EntryDetail:
    """Return one entry whole."""
    return {**line(entry), "body": entry.body, "prev": entry.prev, "hash": entry.hash}


def line(entry: Entry) -> EntryView:
    """Return one entry in a line."""
    said = (entry.body.get(k) for k in ("by", "person", "ended_by"))
    by = next((v for v in said if isinstance(v, str)), "")
    told = _told(entry) if entry.kind == "told" else _text(entry.kind, entry.body)
    text = " ".join(told.split())
    return {
        "seq": entry.seq, "ts": entry.ts, "kind": entry.kind, "subject": entry.subject, "by": by,
        "text": text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…",
    }  # fmt: skip


def _text(kind: str, b: dict[str, Any]) -> str:
    """Say what an entry says; what has no words of its own is shown as it was written, in part."""
    match kind:
        case "incident":
            causes = (b.get("diagnosis") or {}).get("causes") or [{}]
            cause = causes[0].get("kind", "")
            said = f"{b.get('state', '')} ({b.get('severity', '')}): {b.get('title', '')}"
            return said + (f"; {cause}" if cause else "")
        case "decision":
            if b.get("allowed"):
                return f"allowed, mode {b.get('mode', '')}"
            shut = [
                f"{g.get('name')} ({g.get('reason') or g.get('value')})"
                for g in b.get("gates", ())
                if not g.get("passed")
            ]
            return f"held back: {', '.join(shut) or 'it only observes'}"
        case "run":
            verdict = (b.get("outcome") or {}).get("verdict", "")
            said = f"{b.get('playbook', '')} is {b.get('state', '')}"
            return said + (f": {verdict}" if verdict else "")
        case "plan":
            return f"{b.get('title', '')} ({b.get('playbook', '')}, mode {b.get('mode', '')})"
        case "approval":
            said = "yes" if b.get("yes") else "no"
            return f"{said}: {b['reason']}" if b.get("reason") else said
        case "change":
            moved = f"{b.get('before', '')} → {b.get('after', '')}"
            return f"{b.get('kind', '')} {moved} {b.get('text', '')}"
        case _:
            return _of_people(kind, b)


def _told(entry: Entry) -> str:
    """Say what became of a note on one way to people, and why when it became nothing."""
    b = entry.body
    if not entry.subject:
        return "is told what happens from here on"
    if why := b.get("withheld"):
        return f"nobody was told: {why}"
    if why := b.get("gave_up"):
        return f"given up: {why}"
    sent = b.get("sent") or {}
    said = "people were called" if sent.get("page") else "people were told"
    where = f", in {sent['channel']}" if sent.get("channel") else ""
    return said + where + (f", together with others ({b['in']})" if b.get("in") else "")


def _of_people(kind: str, b: dict[str, Any]) -> str:
    """As `_text`, of what people say, and where they are asked to."""
    match kind:
        case "press":
            return f"{b.get('what', '')} in {b.get('via', '')}: {b.get('came', '')}"
        case "thread":
            return f"is talked about in {b.get('channel', '')}"
        case "handoff":
            return str(b.get("why") or b.get("code") or "nobody is needed any more")
        case "reason" | "cancel":
            return str(b.get("reason", ""))
        case "intent":
            return f"{b.get('step', '')} ({b.get('use', '')}) begins"
        case "acted":
            record = (b.get("result") or {}).get("record") or {}
            said = record.get("summary") or record.get("status") or "nothing"
            return f"{b.get('step', '')}: {said}"
        case "refused":
            more = f", {b['more']} more since" if b.get("more") else ""
            return f"{b.get('method', '')}: {b.get('why', '')} ({b.get('status', '')}{more})"
        case "note":
            title, text = str(b.get("title", "")), str(b.get("text", ""))
            said = text if text.startswith(title) else f"{title}: {text}"
            return f"{b.get('severity', '')}: {said}"
        case _:
            return _plain(b)


def _plain(body: dict[str, Any]) -> str:
    said = {
        k: v for k, v in body.items() if k not in {"by", "person"} and v not in ("", None, [], {})
    }
    if all(isinstance(v, str | int | float | bool) for v in said.values()):
        return ", ".join(f"{k} {v}" for k, v in said.items())
    return json.dumps(said, ensure_ascii=False)[: 2 * _WORDS]


class Checker:
    """Checks the chain, one at a time; what was found holds until something new is written."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._found: CheckView | None = None

    async def check(self, journal: JournalReader, now: float) -> CheckView:
        """Return whether the record is as it was written. Raises Unavailable."""
        async with self._turn:
            entries, digest = journal.head
            if self._found is None or (self._found["entries"], self._found["hash"]) != (
                entries,
                digest,
            ):
                began = time.monotonic()
                breaks = await asyncio.to_thread(journal.verify)
                self._found = {
                    "whole": not breaks, "entries": entries, "hash": digest, "ts": now,
                    "breaks": [{"entry": b.seq, "problem": b.problem} for b in breaks[:_MOST_BREAKS]],
                    "took_s": time.monotonic() - began,
                }  # fmt: skip
            return self._found
