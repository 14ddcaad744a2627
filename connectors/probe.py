"""Asks a service from outside, as a client would: whether it answers, and how long that takes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import numpy as np
import structlog
from pydantic import AfterValidator, Field, model_validator

from agent.config import Name
from agent.errors import AgentError, Refused
from agent.model import Entity, Frame, Series
from agent.registry import connector
from agent.secret import Headers
from agent.units import Duration, Model, say
from connectors.http import Door, checked_url, redacted

log = structlog.get_logger()

_MOST_BYTES: Final = 64 << 20
"""Whoever sends more than a page, or a file, without an end, has no answer."""


def _checked(url: str) -> str:
    """Return the URL if a probe knows how to ask it; raises ValueError when not."""
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        return checked_url(url)
    more = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    fits = parts.port is not None if parts.scheme in {"tcp", "tls"} else parts.scheme == "dns"
    if not parts.hostname or not fits or more:
        raise ValueError(
            "write http(s)://host:port/path, tcp://host:port, tls://host:port or dns://name"
        )
    return url


@dataclass(frozen=True, slots=True)
class _Heard:
    """What an answer was like.

    said      in words
    expires   when the certificate that was shown ends, unix seconds; None = none was shown
    """

    seconds: float
    said: str
    expires: float | None = None


@connector("probe")
class Probe:
    """A black-box probe over HTTP, TCP, TLS or DNS.

    http(s)   a request; up = the status fits
    tcp       a connection; up = it is accepted
    tls       a handshake; up = the certificate is valid for the name. Both tell when it ends
    dns       a name, as this host resolves it; up = it has an address

    Good for: is it there at all, when nobody asks it just now. Not for: how users fare (see prediction logs): one
    probe a few seconds misses short trouble. Every probe comes on a connection of its own, so it waits in the same
    queue as a new client. A service that does not answer is a finding, not a failure of the source.
    Cost: about 1 ms of CPU a probe.
    """

    tested = "real sockets, TLS and names"

    class Config(Model):
        """What to ask and what counts as an answer."""

        service: Name
        url: Annotated[str, AfterValidator(_checked)]
        """`https://host/path`, `tcp://host:port`, `tls://host:port` or `dns://name`."""
        method: Literal["GET", "HEAD", "POST"] = "GET"
        body: str = ""
        headers: Headers = {}
        """Values may be references: `env:NAME`, `file:PATH`."""
        expect: Annotated[list[Annotated[int, Field(ge=100, le=599)]], Field(max_length=20)] = []
        """Statuses that mean up; default: 200 to 399."""
        ca: Path | None = None
        """A file of certificates of authorities that are trusted; default: those that programs here trust."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 1.5

        @model_validator(mode="after")
        def _fits(self) -> Probe.Config:
            said = self.model_fields_set & {"method", "body", "headers", "expect"}
            if said and not self.url.startswith("http"):
                keys = ", ".join(f"`{key}`" for key in sorted(said))
                raise ValueError(f"{keys}: only for http(s); take it out")
            return self

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        # A poll is given up after twice its interval, at least 2 s: our own limit must end before.
        self.interval_s = max(5.0, config.timeout / 2 + 0.1)
        secure = config.url.startswith(("https:", "tls:"))
        self._trust = _authorities(config.ca) if secure else None
        self._door = Door(keep_alive=False, trust=self._trust)
        service = Entity("service", config.service)
        self._series: tuple[Series, ...] = (
            Series("service.probe_latency_seconds", service),
            Series("service.up", service),
        )
        self._expires: float | None = None
        if secure:
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

    async def _ask(self) -> tuple[_Heard | None, str]:
        """Return the answer, and what is wrong with it: "" = nothing."""
        parts = urlsplit(self.config.url)
        if parts.scheme in {"http", "https"}:
            return await self._ask_http()
        host, port = parts.hostname or "", parts.port or 0
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.config.timeout):
                if parts.scheme == "dns":
                    said, expires = await _resolved(host), None
                else:
                    said, expires = await _connected(host, port, self._trust)
        except TimeoutError:
            return (
                None,
                f"{self.config.url}: no answer within {say(self.config.timeout, 'seconds')}",
            )
        except (
            OSError
        ) as problem:  # a refused connection, a name that is not known, a bad certificate
            return None, f"{self.config.url}: {problem.strerror or problem}"
        return _Heard(time.monotonic() - began, said, expires), ""

    async def _ask_http(self) -> tuple[_Heard | None, str]:
        config = self.config
        try:
            answer = await self._door.ask(
                config.method,
                config.url,
                timeout_s=config.timeout,
                headers=config.headers,
                body=config.body.encode() if config.body else None,
                most_bytes=_MOST_BYTES,
                keep=False,
            )
        except AgentError as problem:
            return None, str(problem)
        fine = answer.status in config.expect if config.expect else 200 <= answer.status < 400
        heard = _Heard(answer.seconds, f"status {answer.status}", answer.expires)
        return heard, "" if fine else f"{self._what()}: {heard.said}"

    def _what(self) -> str:
        url = self.config.url
        return f"{self.config.method} {redacted(url)}" if url.startswith("http") else url

    async def describe(self) -> Sequence[str]:
        """Ask once and say what came."""
        answer, problem = await self._ask()
        asks = f"asks {self._what()} every {self.interval_s:g} s for service:{self.config.service}"
        if problem or answer is None:
            return (asks, f"down: {problem}")
        said = [f"up: {answer.said} after {say(answer.seconds, 'seconds')}"]
        if answer.expires is not None:
            said.append(
                f"its certificate is valid for {say(answer.expires - time.time(), 'seconds')}"
            )
        return (asks, *said)

    async def close(self) -> None:
        """Close connections."""
        await self._door.close()


def _authorities(ca: Path | None) -> ssl.SSLContext:
    """Return whose certificates are trusted. Raises Refused when the file of authorities can not be read."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as problem:
        why = problem.strerror or problem
        raise Refused(f"ca: {ca}: {why}; name a PEM file of certificates") from None


async def _resolved(name: str) -> str:
    """Return the addresses of a name in words. A resolver that hangs holds a thread, not us."""
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return ", ".join(sorted({str(address[0]) for *_, address in found}))


async def _connected(host: str, port: int, tls: ssl.SSLContext | None) -> tuple[str, float | None]:
    """Connect and close again; returns what was agreed on, and when the certificate ends."""
    _, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        shown = writer.get_extra_info("ssl_object")
        if shown is None:
            return "connected", None
        until = (shown.getpeercert() or {}).get("notAfter")
        expires = float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None
        return str(shown.version()), expires
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
