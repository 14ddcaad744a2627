"""A dead man's heartbeat out: who does not hear it any more raises the alarm, as a dead daemon can not.

    heartbeat:
      url: env:HEALTHCHECK_URL       # whoever has the URL can beat: a secret
      every: 60s

    pushgateway:  {use: heartbeat, style: pushgateway, url: http://127.0.0.1:9091}
    alertmanager: {use: heartbeat, style: alertmanager, url: http://127.0.0.1:9093}

It beats only while the walk gets to the end of its ticks and the journal takes entries.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import Field

from agent.news import moment
from agent.registry import connector
from agent.secret import Headers
from agent.units import Duration, say_duration
from connectors._notes import Settings, Url, Web

_ALERT: Final = "HomeostatAlive"
_GAUGE: Final = "homeostat_last_tick_timestamp_seconds"
_MISSED: Final = 4
"""An Alertmanager lets the alert end when so many beats did not come."""


@connector("heartbeat")
class Heartbeat(Web):
    """A dead man's heartbeat out, to a check service, a Pushgateway or an Alertmanager.

    ping          POST of the time to the URL, as healthchecks.io and its like take it
    pushgateway   the gauge homeostat_last_tick_timestamp_seconds; `dashboards/rules/homeostat.yml` watches it
    alertmanager  an alert HomeostatAlive that never ends while we live; route it to what pages when it falls silent
    Cost: one request and one fsync a beat.
    """

    tested = "Pushgateway 1.5, Alertmanager 0.25"

    class Config(Settings):
        """Who listens, and how often."""

        url: Url
        style: Literal["ping", "pushgateway", "alertmanager"] = "ping"
        every: Annotated[Duration, Field(ge=5, le=86_400)] = 60.0
        headers: Headers = {}
        """`authorization: env:NAME`."""

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config.timeout)
        self.config = config
        self.pulse_s = config.every

    async def beat(self, ts: float) -> None:
        """Beat once; raises Unavailable, Uncertain."""
        ours, host = self.config, socket.gethostname()
        if ours.style == "ping":
            said = f"homeostat on {host}: tick at {moment(ts)}\n"
            await self.ask("POST", ours.url, headers=ours.headers, body=said.encode())
        elif ours.style == "pushgateway":
            path = f"/metrics/job/homeostat/instance/{quote(host, safe='')}"
            said = f"# TYPE {_GAUGE} gauge\n{_GAUGE} {ts:.3f}\n"
            await self.ask("PUT", ours.url, path=path, headers=ours.headers, body=said.encode())
        else:
            alert = {
                "labels": {"alertname": _ALERT, "instance": host, "severity": "none"},
                "annotations": {"summary": f"homeostat on {host} is well; be alarmed when this ends"},
                "endsAt": moment(ts + _MISSED * ours.every),
            }  # fmt: skip
            headers = {**ours.headers, "content-type": "application/json"}
            await self.ask(
                "POST", ours.url, path="/api/v2/alerts", headers=headers, body=json.dumps([alert]).encode()
            )  # fmt: skip

    async def describe(self) -> Sequence[str]:
        """Say to whom it would beat; does not."""
        return (
            f"would beat every {say_duration(self.pulse_s)} ({self.config.style}), while walk and journal are well",
        )
