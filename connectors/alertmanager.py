"""Alerts that Prometheus' Alertmanager sends: its webhook, version 4.

    POST /ingest/alertmanager    a token of ours, as `http_config.authorization.credentials` of the receiver

Each alert of a group becomes a `Signal`; what becomes of it is told in `agent/alerts.py`. Alertmanager repeats what
goes on (`repeat_interval`) and says when it is over (`send_resolved`, which is on unless it is switched off).
Source (read, then told in our own words): prometheus.io, Alertmanager configuration, `webhook_config`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from agent.errors import Refused
from agent.ports import Arrival, Route, Signal
from agent.registry import connector
from agent.units import Model

_MOST_BYTES: Final = 4 << 20
_MOST_LABELS: Final = 40
_MOST_TEXT: Final = 200
_WORDS: Final = ("summary", "description", "message")
"""Annotations that say what is wrong, the shortest first."""


@connector("alertmanager")
class Alertmanager:
    """Alerts of Prometheus' Alertmanager: evidence, and a warning when nobody else has seen the trouble.

    Receiver  one way in; needs a token of role operator
    An alert without a name, or a group that was cut short, is said in the answer and takes nothing else with it.
    Cost: 10 us an alert.
    """

    class Config(Model):
        """What is taken over."""

        ignore: list[Annotated[str, Field(min_length=1)]] = ["Watchdog", "InfoInhibitor"]
        """Names of alerts that say nothing about the world: those that always fire, to prove that alerting works."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config

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

    def _signals(self, alert: Any) -> Sequence[Signal]:
        labels, notes = _texts(alert, "labels"), _texts(alert, "annotations")
        name, status = labels.get("alertname", ""), alert.get("status")
        if not name:
            raise Refused("an alert has no label `alertname`; every rule of Prometheus gives one")
        if status not in {"firing", "resolved"}:
            raise Refused(f"alert {name} has status {status!r}; firing or resolved was expected")
        if name in self.config.ignore:
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


def _when(said: Any) -> float:
    """Read a time such as 2026-11-20T10:00:00.123Z; infinite where there is none (or the year 1, which says so)."""
    try:
        when = datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        when = None
    if when is None or when.tzinfo is None or when.year < 1970:
        return math.inf
    return when.timestamp()
