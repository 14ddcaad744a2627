"""Replicas of a service behind HTTP: how many, and one restarted, by whatever runs them and speaks JSON.

    fleet_http:
      service: scoring
      url: http://127.0.0.1:9000/services/scoring
      headers: {authorization: env:FLEET_TOKEN}
      max_replicas: 8

    GET   url                      {"replicas": 3, "ready": 3, "units": [{"name": "a", "birth": "17-1", "well": true}]}
    PATCH url                      {"replicas": 4}, a merge patch (RFC 7396)
    POST  url/units/17-1/restart   with `Idempotency-Key: 17-1`

Names are settings, with dots for objects within objects: `replicas: spec.replicas`. Where answers have an ETag, it goes
back as `If-Match`, so that who has changed it meanwhile is not overwritten (409 or 412).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

import structlog
from pydantic import AfterValidator, Field

from agent.config import Name
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.secret import Headers
from agent.units import Duration, Model, say_duration
from connectors._values import nested
from connectors.http import Answer, Door, Method, checked_base, redacted

log = structlog.get_logger()

_LOOK_S: Final = 0.5
_MOST_UNITS: Final = 500
_PATH: Final = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*$"

Path = Annotated[str, Field(pattern=_PATH)]


@dataclass(frozen=True, slots=True)
class Life:
    """One replica."""

    replica: str
    birth: str
    well: bool


@connector("fleet_http")
class FleetHttp:
    """Replicas of one service, behind an HTTP interface of whatever runs them.

    Abilities  Scaler (see playbooks/actions/scale.py), waits until so many are ready; Restarter (see
               playbooks/actions/restart.py) where it lists `units`
    """

    tested = "a server of the tests"

    class Config(Model):
        """Where it is asked and told."""

        service: Name
        url: Annotated[str, AfterValidator(checked_base)]
        headers: Headers = {}
        """`env:NAME` and `file:PATH` stand for secrets."""
        replicas: Path = "replicas"
        """How many are asked for."""
        ready: Path = "ready"
        """How many serve; where it is not told, `replicas` is believed."""
        units: Path = "units"
        """A list of objects with `name`, `birth` (names one life of it and no other) and `well`."""
        restart: str = "units/{birth}/restart"
        """Below `url`."""
        min_replicas: Annotated[int, Field(ge=1)] = 1
        max_replicas: Annotated[int, Field(ge=1)] = 16
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0
        """For one request."""
        wait: Annotated[Duration, Field(gt=0, le=1800)] = 120.0
        """For replicas to be ready."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._door = Door()
        self._turn = asyncio.Lock()

    # ---- ability: Scaler

    async def replicas(self, target: str) -> int:
        """Return how many are asked for."""
        self._ours(target)
        return self._count((await self._see())[0])

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        """Ask for n if there are `expect`, and wait until so many are ready."""
        self._ours(target)
        if not self.config.min_replicas <= n <= self.config.max_replicas:
            raise Refused(
                f"{self.name} may run {self.config.min_replicas} to {self.config.max_replicas} replicas, not {n}"
            )
        async with self._turn:
            said, tag = await self._see()
            if (now := self._count(said)) != expect:
                raise Refused(f"{target} runs {now} replicas, not {expect}: changed by others")
            kind = {"content-type": "application/merge-patch+json"}
            body = nested(self.config.replicas, n)
            await self._ask("PATCH", self.config.url, body, {**kind, **tag})
            log.info("scaled", service=self.config.service, before=expect, after=n)
            await self._until(n)

    # ---- ability: Restarter

    async def units(self, service: str) -> Sequence[Life]:
        """Return the replicas that it lists; Refused where it lists none."""
        self._ours(service)
        return self._lives((await self._see())[0])

    async def restart(self, service: str, birth: str) -> None:
        """Have one restarted, and wait until as many are ready as before."""
        self._ours(service)
        async with self._turn:
            said, _ = await self._see()
            if all(one.birth != birth for one in self._lives(said)):
                raise Refused(f"{service} has no replica {birth}: it was restarted already")
            path = self.config.restart.replace("{birth}", quote(birth, safe=""))
            key = {"idempotency-key": birth.encode("ascii", "replace").decode()}
            await self._ask("POST", f"{self.config.url.rstrip('/')}/{path}", None, key)
            await self._until(self._count(said), gone=birth)

    async def describe(self) -> Sequence[str]:
        """Say how many there are."""
        where = redacted(self.config.url)
        try:
            said, tag = await self._see()
            lines = [f"{where}: {self._ready(said)} of {self._count(said)} replicas are ready"]
            if not tag:
                lines.append(
                    "its answers have no ETag: who changes it in the same moment is overwritten"
                )
            lives = self._lives(said)
            lines += [
                f"{one.replica} ({one.birth}){'' if one.well else ', not well'}" for one in lives
            ]
        except AgentError as problem:
            return (str(problem),)
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    # ---- what it says

    def _ours(self, service: str) -> None:
        if service != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} runs service:{self.config.service}, not {service}: say which with `via:`"
            )

    def _count(self, said: Mapping[str, Any]) -> int:
        n = _at(said, self.config.replicas)
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise Refused(
                f"{redacted(self.config.url)} tells no number of replicas: mend `replicas` of {self.name}"
            )
        return n

    def _ready(self, said: Mapping[str, Any]) -> int:
        n = _at(said, self.config.ready)
        return n if isinstance(n, int) and not isinstance(n, bool) else self._count(said)

    def _lives(self, said: Mapping[str, Any]) -> list[Life]:
        found = _at(said, self.config.units)
        if not isinstance(found, list):
            raise Refused(
                f"{redacted(self.config.url)} lists no replicas, so none can be restarted: see `units` of {self.name}"
            )
        return [
            Life(
                f"replica:{self.config.service}/{one['name']}",
                str(one["birth"]),
                one.get("well") is True,
            )
            for one in found[:_MOST_UNITS]
            if isinstance(one, dict) and one.get("name") and one.get("birth")
        ]

    async def _until(self, n: int, gone: str = "") -> None:
        """Wait until n are ready, and who was to go has gone; one that can not be seen is waited for."""
        end = time.monotonic() + self.config.wait
        how = "it can not be seen"
        while time.monotonic() <= end:
            try:
                said, _ = await self._see()
            except Unavailable as blind:
                how = str(blind)
            else:
                left = bool(gone) and any(one.birth == gone for one in self._lives(said))
                if self._ready(said) == n == self._count(said) and not left:
                    return
                how = f"{self._ready(said)} of {n} replicas are ready"
            await asyncio.sleep(_LOOK_S)
        raise Uncertain(
            f"service:{self.config.service}: {how}, after {say_duration(self.config.wait)}"
        )

    # ---- asking

    async def _see(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what it says, and its ETag as a condition."""
        answer = await self._ask("GET", self.config.url)
        try:
            said = answer.json()
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise Refused(
                f"{redacted(self.config.url)} answers no object as JSON: mend `url` of {self.name}"
            )
        tag = answer.headers.get("etag", "")
        return said, {"if-match": tag} if tag else {}

    async def _ask(
        self, method: Method, url: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        answer = await self._door.ask(
            method, url, timeout_s=self.config.timeout, headers={**self.config.headers, **(headers or {})},
            body=None if body is None else json.dumps(body).encode(),
        )  # fmt: skip
        said = f"{method} {redacted(url)}: {answer.status}"
        if answer.ok:
            return answer
        if answer.status in {409, 412}:
            raise Refused(f"{said}: changed by others just now")
        if answer.status in {429, 503} or (method == "GET" and answer.status >= 500):
            raise Unavailable(f"{said}, not now")
        if answer.status < 500:
            raise Refused(f"{said}; see whether `url` and the token are right")
        raise Uncertain(f"{said}; it may have been done")


def _at(said: Mapping[str, Any], path: str) -> Any:
    found: Any = said
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
