"""What the ways to people have in common: which notes one wants, and how what went wrong is sorted.

A fault of the way (no connection, a token that is not accepted, a URL that moved) keeps notes waiting, as it can be
mended within the hours that the outbox tries; a fault of one note gives up that note and lets the others through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Severity
from agent.news import Event
from agent.ports import Note
from agent.secret import HIDDEN, is_reference, secret
from agent.units import Duration, Model
from connectors.http import Answer, Door, Method, checked_base, checked_url, retry_after

MEND_S: Final = 60.0
"""How long to wait for a person to mend a way, between two tries."""
_THE_NOTE: Final = frozenset({400, 413, 422})
"""Statuses that blame the note and not the way."""


def _url(text: str) -> str:
    return text if is_reference(text) else checked_url(text)


Url = Annotated[str, AfterValidator(_url), HIDDEN]
"""A URL, or a reference to one that is a secret."""


class Settings(Model):
    """Of every way."""

    timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0


class Wanted(Settings):
    """Which notes a way gets."""

    severities: list[Severity] = ["page"]
    """Messages of these, and events of incidents of these."""
    events: list[Event] = []
    """What happens to incidents, runs and the world, beside messages: `resolved`, `changed`, `acted`, ..."""


_ALL: Final = frozenset({"changed", "acting", "acted", "digest"})
"""Events that have no severity."""


class Routed:
    """A way that gets the notes its config names."""

    config: Wanted

    def wants(self, note: Note) -> bool:
        """Tell whether config names the severity of a message, or the event and its severity."""
        if note.event and note.event not in self.config.events:
            return False
        return note.event in _ALL or note.severity in self.config.severities


class Web:
    """A way over HTTP: asks at the one door, and sorts what comes back.

    Redirects are refused: a note, and the token that goes with it, is not for whoever an answer names.
    """

    name: str
    takes: ClassVar[frozenset[int]] = frozenset()
    """Statuses that say yes beside 2xx."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name = name
        self._door = Door()
        self._timeout_s = timeout_s

    async def ask(
        self,
        method: Method,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        path: str = "",
    ) -> Answer:
        """Ask once; raises Unavailable, Uncertain, Refused. `url` may be a reference, to which `path` is added."""
        where = url.partition("?")[0] + path
        try:
            whole = (
                checked_base(secret(url)).rstrip("/") + path if path else checked_url(secret(url))
            )
            if whole != url + path:
                where = f"the URL of {self.name} ({urlsplit(whole).hostname})"
            answer = await self._door.ask(
                method, whole, timeout_s=self._timeout_s, headers=headers, body=body,
                called=where, most_bytes=1 << 20,
            )  # fmt: skip
        except (
            Refused,
            ValueError,
        ) as wrong:  # a secret that is not there, a certificate: both can be mended
            raise Unavailable(f"{self.name}: {wrong}", wait_s=MEND_S) from None
        if not answer.ok:
            raise wrong_answer(f"{method} {where}", answer)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()


def wrong_answer(asked: str, answer: Answer) -> Exception:
    """Return what a status means for a note; the words of the other side are not repeated: it may echo a secret."""
    status = answer.status
    said = f"{asked}: {status}"
    if status in {429, 502, 503, 504}:
        return Unavailable(f"{said}, not now", wait_s=retry_after(answer.headers))
    if status in _THE_NOTE:
        return Refused(f"{said}: it does not take this note")
    if status in {401, 403}:
        return Unavailable(f"{said}: the token is not accepted, renew it", wait_s=MEND_S)
    if 300 <= status < 400:
        return Unavailable(
            f"{said}: it sends us elsewhere, which is not followed; mend the url", wait_s=MEND_S
        )
    if status < 500:
        return Unavailable(f"{said}: mend the url", wait_s=MEND_S)
    return Uncertain(f"{said}; it may have been taken")


def facts(note: Note) -> dict[str, Any]:
    """Return a note as JSON carries it: names that stay."""
    return {
        "key": note.key, "event": note.event or "message", "ts": note.ts, "severity": note.severity,
        "title": note.title, "text": note.text, "incident": note.incident, "owner": note.owner,
        "channel": note.channel, "link": note.link, "facts": dict(note.facts),
    }  # fmt: skip
