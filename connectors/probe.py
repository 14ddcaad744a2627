"""Asks a service from outside, as a client would: whether it answers, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import numpy as np
import structlog
from pydantic import AfterValidator, Field

from agent.config import Name
from agent.errors import AgentError
from agent.model import Entity, Frame, Series
from agent.registry import connector
from agent.units import Duration, Model, say
from connectors.http import Answer, Door, checked_url, redacted

log = structlog.get_logger()

_MOST_BYTES: Final = 1 << 20


@connector("probe")
class Probe:
    """A black-box probe over HTTP.

    Good for: is it there at all, when nobody asks it just now. Not for: how users fare (see prediction logs): one
    probe a few seconds misses short trouble. Every probe comes on a connection of its own, so it waits in the same
    queue as a new client. A service that does not answer is a finding, not a failure of the source.
    Cost: about 1 ms of CPU a probe.
    """

    class Config(Model):
        """What to ask and what counts as an answer."""

        service: Name
        url: Annotated[str, AfterValidator(checked_url)]
        method: Literal["GET", "HEAD", "POST"] = "GET"
        body: str = ""
        headers: dict[str, str] = {}
        """Values may be references: `env:NAME`, `file:PATH`."""
        expect: Annotated[list[Annotated[int, Field(ge=100, le=599)]], Field(max_length=20)] = []
        """Statuses that mean up; default: 200 to 399."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 1.5

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        # A poll is given up after twice its interval, at least 2 s: our own limit must end before.
        self.interval_s = max(5.0, config.timeout / 2 + 0.1)
        self._door = Door(keep_alive=False)
        service = Entity("service", config.service)
        self._series: tuple[Series, ...] = (
            Series("service.probe_latency_seconds", service),
            Series("service.up", service),
        )
        self._expires: float | None = None
        if config.url.startswith("https:"):
            self._series = (Series("service.certificate_seconds", service), *self._series)
        self._down = ""

    async def poll(self) -> Frame:
        """Ask once: up 1 with its latency, or up 0 with none; a service that is down raises nothing."""
        ts = time.time()
        answer, problem = await self._ask()
        if problem != self._down:
            if problem:
                log.warning("probe_failed", service=self.config.service, problem=problem)
            else:
                log.info("probe_answered", service=self.config.service)
            self._down = problem
        up = not problem
        seconds = answer.seconds if answer is not None and up else np.nan
        values = [seconds, float(up)]
        if len(self._series) == len(values) + 1:
            # also of a service that answers an error, and while it is down: time goes on
            if answer is not None and answer.expires is not None:
                self._expires = answer.expires
            left = np.nan if self._expires is None else self._expires - ts
            values = [left, *values]
        return Frame(self.name, ts, self._series, np.array(values))

    async def _ask(self) -> tuple[Answer | None, str]:
        """Return the answer, and what is wrong with it: "" = nothing."""
        config = self.config
        try:
            answer = await self._door.ask(
                config.method,
                config.url,
                timeout_s=config.timeout,
                headers=config.headers,
                body=config.body.encode() if config.body else None,
                most_bytes=_MOST_BYTES,
            )
        except AgentError as problem:
            return None, str(problem)
        fine = answer.status in config.expect if config.expect else 200 <= answer.status < 400
        return (
            answer,
            "" if fine else f"{config.method} {redacted(config.url)}: status {answer.status}",
        )

    async def describe(self) -> Sequence[str]:
        """Ask once and say what came."""
        answer, problem = await self._ask()
        what = f"{self.config.method} {redacted(self.config.url)}"
        asks = f"asks {what} every {self.interval_s:g} s for service:{self.config.service}"
        if problem or answer is None:
            return (asks, f"down: {problem}")
        return (asks, f"up: status {answer.status} after {say(answer.seconds, 'seconds')}")

    async def close(self) -> None:
        """Close connections."""
        await self._door.close()
