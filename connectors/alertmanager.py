"""Alerts that Prometheus' Alertmanager sends: its webhook, version 4.

    POST /ingest/alertmanager    a token of ours, as `http_config.authorization.credentials` of the receiver

With `url` it is also told to keep quiet, silences of people there hold for us as well, and incidents become alerts:

    alertmanager:
      url: http://127.0.0.1:9093
      alerts: [page, warning]                         # incidents of these severities
      labels: {service: service, host: instance}      # kind of entity -> label of alerts that holds its key

Each alert of a group becomes a `Signal`; what becomes of it is told in `agent/alerts.py`. Alertmanager repeats what
goes on (`repeat_interval`) and says when it is over (`send_resolved`, which is on unless it is switched off).
Source (read, then told in our own words): prometheus.io, Alertmanager configuration, `webhook_config`.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from pydantic import AfterValidator, Field

from agent.errors import Refused, Unavailable
from agent.model import Severity
from agent.ports import Arrival, Mute, Note, Route, Signal
from agent.registry import connector
from agent.secret import Headers
from agent.units import Duration, Model, many
from connectors._alertmanager_out import (
    INCIDENT,
    OURS,
    RESEND_S,
    AlertBook,
    glob_pattern,
    is_silence,
    mutes_of,
    severities,
    test_alert,
)
from connectors._notes import MEND_S, wrong_answer
from connectors.http import Answer, Door, Method, checked_base, redacted

log = structlog.get_logger()

_MOST_BYTES: Final = 4 << 20
_MOST_LABELS: Final = 40
_MOST_TEXT: Final = 200
_WORDS: Final = ("summary", "description", "message")
"""Annotations that say what is wrong, the shortest first."""


_RECEIVER: Final = """route: {receiver: homeostat}       # or below your own routes, with `continue: true`
receivers:
  - name: homeostat
    webhook_configs:
      - url: http://127.0.0.1:8787/ingest/NAME
        http_config: {authorization: {credentials: TOKEN}}     # homeostat token add NAME --role operator"""


@connector("alertmanager")
class Alertmanager:
    """Alerts of Prometheus' Alertmanager: evidence, and a warning when nobody else has seen the trouble.

    Receiver  one way in; needs a token of role operator
    Notifier  incidents become alerts by its API v2, where `url` and `alerts` are given; Pulse sends them again in time
    Muting    its silences hold for us, and ours there, where `url` is given
    Ability   Silencer (see playbooks/actions/silence.py), likewise
    An alert without a name, or a group that was cut short, is said in the answer and takes nothing else with it.
    Cost: 10 us an alert.
    """

    tested = "Alertmanager 0.25"

    class Config(Model):
        """What is taken over."""

        ignore: list[Annotated[str, Field(min_length=1)]] = ["Watchdog", "InfoInhibitor"]
        """Names of alerts that say nothing about the world: those that always fire, to prove that alerting works."""
        url: Annotated[str, AfterValidator(lambda u: checked_base(u) if u else u)] = ""
        """Where its API is; empty = it is not told anything."""
        headers: Headers = {}
        """Sent with every request: `authorization: env:NAME`."""
        labels: dict[str, str] = {"service": "service", "host": "instance"}
        """Kind of entity -> label whose value is its key."""
        alerts: list[Severity] = []
        """Incidents of these severities become alerts there; none by default."""
        silences: bool = True
        """Whether silences are told in both directions, where `url` is given."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0

    pulse_s = RESEND_S

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._door = Door()
        self._turn = asyncio.Lock()
        kept = state / "alertmanager" / f"{name}.json" if state is not None else None
        self._book = AlertBook(kept, config.labels)
        self.muting = bool(config.url) and config.silences

    def routes(self) -> Sequence[Route]:
        """Say the way in."""
        return (Route(f"/ingest/{self.name}", self._handle, _MOST_BYTES),)

    def _handle(self, body: bytes, content_type: str) -> Sequence[Arrival]:
        del content_type
        try:
            said = json.loads(body)
        except ValueError as wrong:
            raise Refused(f"the body is no JSON ({wrong}); point a webhook_config here") from None
        alerts = said.get("alerts") if isinstance(said, dict) else None
        if not isinstance(alerts, list):
            raise Refused(
                "the body has no list `alerts`; this way in takes what webhook_config of Alertmanager sends"
            )
        return [signal for alert in alerts for signal in self._signals(alert)]

    # ---- alerts out

    def wants(self, note: Note) -> bool:
        """Want what begins, ends or goes on with an incident of these severities."""
        return bool(self.config.url) and severities(self.config.alerts, note)

    async def notify(self, note: Note) -> None:
        """Send the alert of its incident; a note of no incident is an alert that ends by itself."""
        now = time.time()
        if not note.incident:
            await self._post([test_alert(note, now)])
            return
        self._book.take(note, now)
        await self._tell(self._book.sent(now, note.incident))

    async def beat(self, ts: float) -> None:
        """Send all that are going again, before they would end; one that is not taken is forgotten."""
        alerts = self._book.sent(ts)
        if not alerts or not self.config.url:
            return
        try:
            await self._tell(alerts)
        except Refused:
            for alert in alerts:
                try:
                    await self._tell([alert])
                except Refused as no:
                    log.error("alert_given_up", alert=alert["labels"], error=str(no))
                    self._book.forget(alert)

    async def _tell(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        if alerts:
            await self._post(alerts)
            self._book.heard(alerts)

    async def _post(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        try:
            answer = await self._sent("POST", "alerts", alerts)
        except Refused as wrong:  # a certificate, a secret that is not there: both can be mended
            raise Unavailable(f"{self.name}: {wrong}", wait_s=MEND_S) from None
        if not answer.ok:
            raise wrong_answer(f"POST {redacted(self.config.url)}/api/v2/alerts", answer)

    # ---- ability: Silencer, and Muting

    async def mutes(self) -> Sequence[Mute]:
        """Return the silences that hold there, and of ours also those that ended."""
        return list(mutes_of(await self._listed(), self.config.labels, _when))

    async def silence(self, key: str, target: str, until: float, by: str, reason: str) -> None:
        """Create a silence, unless that of this key is there; its comment carries the key."""
        kind, _, glob = target.partition(":")
        label = self.config.labels.get(kind) if target != "*" else "alertname"
        if label is None:
            raise Refused(
                f"alerts have no label for {target}: add its kind to `labels` of {self.name}"
            )
        # whoever scrapes a host may name it with its port
        value = (glob_pattern(glob) if glob else ".+") + ("(:[0-9]+)?" if kind == "host" else "")
        body = {
            "matchers": [{"name": label, "value": value, "isRegex": True, "isEqual": True}],
            "startsAt": _said(time.time()), "endsAt": _said(until), "createdBy": by, "comment": f"{reason} [{key}]",
        }  # fmt: skip
        async with self._turn:  # two at once would both find none
            if await self._found(key) is None:
                await self._ask("POST", "silences", body)

    async def silenced(self, key: str) -> float | None:
        """Return when the silence of this key ends."""
        found = await self._found(key)
        return _when(found["endsAt"]) if found else None

    async def unsilence(self, key: str) -> None:
        """Let the silence of this key expire."""
        if (found := await self._found(key)) is not None:
            await self._ask("DELETE", f"silence/{found['id']}")

    async def unmute(self, id_: str) -> None:
        """Let a silence of somebody else expire."""
        await self._ask("DELETE", f"silence/{id_}")

    async def _found(self, key: str) -> Mapping[str, Any] | None:
        for one in await self._listed():
            if one["status"]["state"] == "active" and one["comment"].endswith(f"[{key}]"):
                return dict(one)
        return None

    async def _listed(self) -> list[Any]:
        """Return all silences there."""
        try:
            found = (await self._ask("GET", "silences")).json()
        except ValueError:
            found = None
        if not (isinstance(found, list) and all(map(is_silence, found))):
            raise Unavailable(
                f"{redacted(self.config.url)} does not answer as Alertmanager does; see `url`",
                wait_s=MEND_S,
            )
        return found

    async def _ask(self, method: Method, path: str, body: Any = None) -> Answer:
        answer = await self._sent(method, path, body)
        if answer.ok:
            return answer
        # its words are not repeated: they may echo a token
        said = f"{method} {redacted(self.config.url)}/api/v2/{path}: {answer.status}"
        if answer.status in {429, 502, 503, 504}:
            raise Unavailable(said)
        raise Refused(said)

    async def _sent(self, method: Method, path: str, body: Any = None) -> Answer:
        if not self.config.url:
            raise Refused(f"{self.name} does not know where Alertmanager is: write its `url`")
        url = f"{self.config.url.rstrip('/')}/api/v2/{path}"
        headers = {**self.config.headers, **({"content-type": "application/json"} if body else {})}
        sent = json.dumps(body).encode() if body else None
        return await self._door.ask(
            method, url, timeout_s=self.config.timeout, headers=headers, body=sent
        )

    async def describe(self) -> Sequence[str]:
        """Say whether it may be told to keep quiet."""
        if not self.config.url:
            return ("takes alerts; no `url`, so it is told nothing",)
        try:
            found = await self._listed()
        except (Unavailable, Refused) as problem:
            return (str(problem),)
        active = sum(one["status"]["state"] == "active" for one in found)
        hold = many(active, "silence holds", "silences hold")
        out = ", ".join(self.config.alerts) or "no severity: see `alerts`"
        return (
            f"takes alerts; may silence by {redacted(self.config.url)}, {hold} now",
            f"would send incidents as {INCIDENT}: {out}",
            "to have it send its alerts here, put this into its alertmanager.yml:",
            *_RECEIVER.replace("ingest/NAME", f"ingest/{self.name}").splitlines(),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    def _signals(self, alert: Any) -> Sequence[Signal]:
        labels, notes = _texts(alert, "labels"), _texts(alert, "annotations")
        name, status = labels.get("alertname", ""), alert.get("status")
        if not name:
            raise Refused("an alert has no label `alertname`; every rule of Prometheus gives one")
        if status not in {"firing", "resolved"}:
            raise Refused(f"alert {name} has status {status!r}; firing or resolved was expected")
        if name in self.config.ignore or name in OURS:
            return ()
        firing, now = status == "firing", time.time()
        at = _when(alert.get("startsAt" if firing else "endsAt"))
        ts = min(at, now)  # what has no time, or one that has not come yet, counts from now
        text = next((notes[word] for word in _WORDS if notes.get(word)), "")
        kept = sorted((k, v) for k, v in labels.items() if k != "alertname")[:_MOST_LABELS]
        return (Signal(ts, name, self.name, firing, tuple(kept), text[:_MOST_TEXT]),)


def _texts(alert: Any, key: str) -> Mapping[str, str]:
    found = alert.get(key) if isinstance(alert, dict) else None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise Refused(f"an alert has no {key} with texts; this is no webhook of Alertmanager")
    return found


def _said(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat()


def _when(said: Any) -> float:
    """Read a time such as 2026-11-20T10:00:00.123Z; infinite where there is none (or the year 1, which says so)."""
    try:
        when = datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        when = None
    if when is None or when.tzinfo is None or when.year < 1970:
        return math.inf
    return when.timestamp()
