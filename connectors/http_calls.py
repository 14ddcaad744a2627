"""HTTP interfaces that a person has allowed to be called: by method and beginning of the URL.

    http_calls:
      allow:
        - url: https://deploy.example.com/api/v1/
          methods: [POST]
          headers: {authorization: env:DEPLOY_TOKEN}

Headers with secrets stand here, by reference; they are sent nowhere else, and never printed.
"""

from __future__ import annotations

import asyncio
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, cast
from urllib.parse import unquote, urlsplit

import structlog
from pydantic import AfterValidator, Field

from agent.errors import Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.secret import Headers
from agent.units import Model
from connectors._once import Once
from connectors._proc import command_line
from connectors.http import Answer, Door, Method, checked_url, redacted, retry_after

log = structlog.get_logger()

_MOST_ANSWER: Final = 256 << 10
_MOST_KEPT: Final = 2000
_MOST_SENT: Final = 256 << 10
_NOT_NOW: Final = frozenset({429, 503})
"""Answers after which nothing has happened."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an interface answered."""

    status: int
    body: str


class Allowed(Model):
    """One interface: everything below a URL."""

    url: Annotated[str, AfterValidator(checked_url)]
    """Ends with `/` for everything below, else exactly this."""
    methods: Annotated[list[Method], Field(min_length=1)] = ["POST"]
    headers: Headers = {}
    """`env:NAME` and `file:PATH` stand for secrets."""

    def covers(self, method: str, url: str) -> bool:
        """Tell whether a call is allowed by this line."""
        mine, asked = urlsplit(self.url), urlsplit(url)
        if (mine.scheme, mine.hostname, mine.port) != (asked.scheme, asked.hostname, asked.port):
            return False
        path = asked.path or "/"
        below = path.startswith(mine.path) if mine.path.endswith("/") else path == mine.path
        return method in self.methods and below


@connector("http_calls")
class HttpCalls:
    """HTTP interfaces on an allow-list, each call once per key.

    Ability  Calls (see playbooks/actions/commands.py)
    The key of the step travels as `Idempotency-Key`, so that an interface which knows it does nothing twice; for one
    that does not, a call whose answer was lost is told as uncertain and not repeated. Redirects are not followed.
    """

    tested = "a server of the tests"

    class Config(Model):
        """What may be called."""

        allow: Annotated[list[Allowed], Field(min_length=1)]

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._door = Door()
        self._once = Once(state / "http_calls" / name if state is not None else None)

    def permitted(self, method: str, url: str) -> str:
        """Return method, host and path, without query."""
        self._allowed(method, url)
        return f"{method} {redacted(url)}"

    async def call(self, method: str, url: str, body: Any, key: str, timeout_s: float) -> Answered:
        """Call once per key."""
        allowed = self._allowed(method, url)
        sent = None if body is None else json.dumps(body, allow_nan=False).encode()
        if sent is not None and len(sent) > _MOST_SENT:
            raise Refused(f"the body for {redacted(url)} is larger than {_MOST_SENT} bytes")
        found = await asyncio.to_thread(self._once.begin, key)
        if found.get("state") == "done":
            return Answered(int(found["status"]), str(found["body"]))
        said = f"{method} {redacted(url)}"
        if found:
            raise Uncertain(
                f"{said} was sent for {key}, and its answer was not seen; look what it has done"
            )
        kind = {"content-type": "application/json"} if sent is not None else {}
        headers = {**kind, **allowed.headers, "idempotency-key": key}
        try:
            answer = await self._door.ask(
                cast("Method", method), url, timeout_s=timeout_s, headers=headers, body=sent, most_bytes=_MOST_ANSWER
            )  # fmt: skip
            self._judge(said, answer)
        except (Unavailable, Refused):
            await asyncio.to_thread(self._once.forget, key)
            raise
        text = command_line([answer.body.decode("utf-8", "replace")], limit=_MOST_KEPT)
        record = {"status": answer.status, "body": text}
        await asyncio.to_thread(self._once.end, key, record)
        log.info("http_called", call=said, key=key, status=answer.status)
        return Answered(answer.status, text)

    async def answered(self, key: str) -> Answered | None:
        """Return the answer to the call of this key."""
        found = await asyncio.to_thread(self._once.find, key)
        return Answered(int(found["status"]), str(found["body"])) if "status" in found else None

    async def describe(self) -> Sequence[str]:
        """Say what may be called; calls nothing."""
        return [
            f"{', '.join(a.methods)} {redacted(a.url)}{'...' if a.url.endswith('/') else ''}"
            + (f", with {', '.join(sorted(a.headers))}" if a.headers else "")
            for a in self.config.allow
        ]

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    def _allowed(self, method: str, url: str) -> Allowed:
        try:
            path = unquote(urlsplit(checked_url(url)).path)
        except ValueError as wrong:
            raise Refused(f"{redacted(url) if '://' in url else 'the URL'}: {wrong}") from None
        # what servers may read as another path is not compared but refused
        plain = posixpath.normpath(path or "/") + (
            "/" if path.endswith("/") and path != "/" else ""
        )
        if path and (plain != path or "\\" in path):
            raise Refused(f"{redacted(url)}: write the path without `..`, `//` and the like")
        found = next((a for a in self.config.allow if a.covers(method, url)), None)
        if found is None:
            raise Refused(
                f"{method} {redacted(url)} is not allowed: add it to `allow` of {self.name}"
            )
        return found

    @staticmethod
    def _judge(said: str, answer: Answer) -> None:
        """Raise what an answer other than 2xx means."""
        if answer.ok:
            return
        if answer.status in _NOT_NOW:
            raise Unavailable(
                f"{said}: {answer.status}, not now", wait_s=retry_after(answer.headers)
            )
        if answer.status < 500:
            raise Refused(f"{said}: {answer.status}; see whether the URL and the token are right")
        raise Uncertain(f"{said}: {answer.status}; it may have been done")
