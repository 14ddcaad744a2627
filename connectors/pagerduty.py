"""Pages through PagerDuty: its Events API, version 2.

    pagerduty:
      routing_key: env:PAGERDUTY_ROUTING_KEY         # integration key of an "Events API V2" integration

One incident of ours is one of theirs: every message about it carries the same `dedup_key`. Acknowledged here it is
acknowledged there, resolved or merged here it is resolved there. Ends without a beginning they ignore.
Source (read, then told in our own words): developer.pagerduty.com, "Send an event to PagerDuty".
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from agent.errors import Refused, Unavailable
from agent.model import Severity
from agent.news import moment
from agent.registry import connector
from agent.secret import Reference, secret
from agent.units import Model
from connectors._notes import MEND_S, Settings, Url, Web

if TYPE_CHECKING:
    from agent.ports import Note

_ACTIONS: Final = {
    "": "trigger", "acknowledged": "acknowledge", "resolved": "resolve", "merged": "resolve",
}  # fmt: skip
_MOST_SUMMARY: Final = 1024
_MOST_KEY: Final = 255
_MOST_DETAIL: Final = 4000
"""Characters; their limit is 512 KB an event."""


@connector("pagerduty")
class PagerDuty(Web):
    """Pages through PagerDuty's Events API v2; acknowledges and resolves with the incident.

    Known only from its documentation: `stand_in`. A routing key of the right shape that nobody has is taken and goes
    nowhere: try it with `homeostat try pagerduty --send`. Cost: one request a note.
    """

    tested = "stand-in"
    stand_in = True

    class Config(Settings):
        """Whom it pages."""

        class SeverityMap(Model):
            """Our severities in their words."""

            page: Literal["critical", "error", "warning", "info"] = "critical"
            warning: Literal["critical", "error", "warning", "info"] = "warning"
            note: Literal["critical", "error", "warning", "info"] = "info"

        routing_key: Annotated[Reference, Field(min_length=1)]
        url: Url = "https://events.pagerduty.com/v2/enqueue"
        """EU accounts: https://events.eu.pagerduty.com/v2/enqueue."""
        severities: list[Severity] = ["page"]
        """Messages of these trigger."""
        severity_map: SeverityMap = SeverityMap()

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config.timeout)
        self.config = config

    def wants(self, note: Note) -> bool:
        """Want messages by severity, and the ends of all incidents: one of any severity may have triggered."""
        if note.event:
            return note.event in _ACTIONS
        return note.severity in self.config.severities

    async def notify(self, note: Note) -> None:
        """Send one event; the same key is the same event to them."""
        try:
            key = secret(self.config.routing_key)
        except Refused as missing:
            raise Unavailable(f"{self.name}: {missing}", wait_s=MEND_S) from None
        body = {"routing_key": key, **self._event(note)}
        try:
            await self.ask(
                "POST", self.config.url, headers={"content-type": "application/json"}, body=json.dumps(body).encode()
            )  # fmt: skip
        except Refused as wrong:
            if len(key) == 32:
                raise
            # a key of another length is answered as if the event were wrong
            raise Unavailable(
                f"{wrong}; a routing key has 32 characters, this one {len(key)}", wait_s=MEND_S
            ) from None

    def _event(self, note: Note) -> Mapping[str, Any]:
        action = _ACTIONS.get(note.event, "trigger")
        thread = note.incident or note.key
        if len(thread) > _MOST_KEY:
            thread = hashlib.sha256(thread.encode()).hexdigest()
        out: dict[str, Any] = {"event_action": action, "dedup_key": thread}
        if action != "trigger":
            return out
        theirs = self.config.severity_map.model_dump().get(note.severity, "info")
        details = {"text": note.text, "owner": note.owner, "channel": note.channel, **note.facts}
        out["payload"] = {
            "summary": (note.title or note.text)[:_MOST_SUMMARY] or note.key,
            "source": note.facts.get("about") or socket.gethostname(), "severity": theirs,
            "timestamp": moment(note.ts),
            "custom_details": {k: v[:_MOST_DETAIL] for k, v in details.items() if v},
        }  # fmt: skip
        if cause := note.facts.get("cause"):
            out["payload"]["class"] = cause
        out["client"] = "homeostat"
        if note.link:
            out["client_url"] = note.link
            out["links"] = [{"href": note.link, "text": "homeostat"}]
        return out

    async def describe(self) -> Sequence[str]:
        """Say whom it would page; sends nothing."""
        at = self.config.url if "://" in self.config.url else "a URL of its own"
        try:
            well = (
                ""
                if len(secret(self.config.routing_key)) == 32
                else ", a routing key has 32 characters"
            )
        except Refused as missing:
            well = f": {missing}"
        return (f"would page by {at} with the routing key in {self.config.routing_key}{well}",)
