"""Incidents, changes and acts as annotations on Grafana's boards, through its HTTP API.

    grafana_annotations:
      url: https://grafana.example.org
      token: env:GRAFANA_TOKEN                       # of a service account that may write annotations

An incident or an act is a region from its beginning to its end; a change is a line. All have the tag `homeostat`;
boards show them by an annotation query on it. Before it writes it looks whether that is there, by a tag `id:...`.
Source (read, then told in our own words): grafana.com, "Annotations HTTP API".
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import Field

from agent.errors import AgentError, Refused, Unavailable
from agent.model import Severity
from agent.news import Event
from agent.registry import connector
from agent.secret import Reference, secret
from connectors._notes import MEND_S, Routed, Url, Wanted, Web

if TYPE_CHECKING:
    from agent.ports import Note
    from connectors.http import Answer, Method

_ENDS: Final = frozenset({"resolved", "merged", "acted"})
_TAG: Final = "homeostat"


@connector("grafana_annotations")
class GrafanaAnnotations(Routed, Web):
    """Incidents, changes and acts as annotations in Grafana.

    Known only from its documentation: `stand_in`. Two instances that write the same at the same time write it twice.
    Cost: two requests an event.
    """

    tested = "stand-in"
    stand_in = True

    class Config(Wanted):
        """Where they go."""

        url: Url
        token: Annotated[Reference, Field(min_length=1)]
        severities: list[Severity] = ["page", "warning"]
        events: list[Event] = [
            "opened", "reopened", "resolved", "merged", "changed", "acting", "acted",
        ]  # fmt: skip
        dashboard_uid: str = ""
        """Only on this board; empty = on all that ask for the tag."""
        tags: list[str] = []
        """Further tags."""

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config.timeout)
        self.config: GrafanaAnnotations.Config = config

    def wants(self, note: Note) -> bool:
        """Want events alone: a message tells people of an incident that is drawn already."""
        return bool(note.event) and super().wants(note)

    async def notify(self, note: Note) -> None:
        """Draw a beginning, or end what is drawn; what is there already is left."""
        at = _ms(note.ts)
        thread = f"id:{hashlib.sha256(_thread(note).encode()).hexdigest()[:20]}"
        there = await self._find(thread)
        if note.event not in _ENDS:
            if all(one["time"] != at for one in there):
                await self._put(note, thread, at, at)
            return
        begun = max(
            (one for one in there if one["time"] <= at), key=lambda one: one["time"], default=None
        )
        if begun is None:
            await self._put(note, thread, _began(note, at), at)
        elif begun.get("timeEnd") != at:
            body = {"timeEnd": at, "text": _text(note)}
            await self._ask("PATCH", f"/api/annotations/{int(begun['id'])}", body)

    async def _put(self, note: Note, thread: str, start: int, end: int) -> None:
        kind = (
            "change"
            if note.event == "changed"
            else "act"
            if note.event in {"acting", "acted"}
            else "incident"
        )
        body: dict[str, Any] = {
            "time": start, "timeEnd": end, "text": _text(note),
            "tags": [_TAG, kind, thread, *self.config.tags],
        }  # fmt: skip
        if self.config.dashboard_uid:
            body["dashboardUID"] = self.config.dashboard_uid
        await self._ask("POST", "/api/annotations", body)

    async def _find(self, thread: str) -> list[dict[str, Any]]:
        query = urlencode({"type": "annotation", "limit": 100, "tags": [_TAG, thread]}, doseq=True)
        answer = await self._ask("GET", f"/api/annotations?{query}")
        try:
            found = [dict(one) for one in answer.json()]
            return [one for one in found if int(one["id"]) and one["time"] + 0 >= 0]
        except (ValueError, TypeError, KeyError):
            raise Unavailable(
                f"{self.name}: it answers, but not as Grafana does; mend the url", wait_s=MEND_S
            ) from None

    async def _ask(self, method: Method, path: str, body: Any = None) -> Answer:
        try:
            headers = {"authorization": f"Bearer {secret(self.config.token)}"}
        except Refused as missing:
            raise Unavailable(f"{self.name}: {missing}", wait_s=MEND_S) from None
        if body is not None:
            headers["content-type"] = "application/json"
        return await self.ask(
            method, self.config.url, path=path, headers=headers, body=json.dumps(body).encode() if body else None
        )  # fmt: skip

    async def describe(self) -> Sequence[str]:
        """Say where it would draw, and whether Grafana answers; draws nothing."""
        where = "one board" if self.config.dashboard_uid else "boards"
        try:
            there = await self._find("id:none")
        except AgentError as problem:
            return (str(problem),)
        return (
            f"would draw on {where} with the tag {_TAG}; Grafana answers, {len(there)} of a test tag are there",
        )


def _thread(note: Note) -> str:
    if note.event in {"acting", "acted"}:
        return note.facts.get("run", note.key)
    return note.key if note.event == "changed" else note.incident or note.key


def _ms(ts: float) -> int:
    return round(ts * 1000)


def _began(note: Note, at: int) -> int:
    try:
        return min(at, _ms(datetime.fromisoformat(note.facts["began"]).timestamp()))
    except (KeyError, ValueError):
        return at


def _text(note: Note) -> str:
    """Return what stands on the board; Grafana shows it as HTML, and titles may come from outside."""
    lines = [note.title, note.text, note.facts.get("cause", "")]
    said = "\n".join(html.escape(line) for line in lines if line)
    link = html.escape(note.link, quote=True)
    return (
        f'{said}\n<a href="{link}">more</a>' if link.startswith(("http://", "https://")) else said
    )
