"""Flags and parameters of a service behind HTTP: one JSON object, or one resource for each name.

    flag_http:
      service: checkout
      url: http://127.0.0.1:9000/config            # GET gives an object, PATCH takes a merge patch (RFC 7396)
      # url: http://127.0.0.1:9000/flags/{name}    # GET gives a value or {"value": ...}, PUT takes the same, DELETE
      headers: {authorization: env:CONFIG_TOKEN}
      may: [reranker, max_batch_count, requests_per_second, reject_threshold]
      bounds: {max_batch_count: [1, 64]}

Where answers have an ETag, it goes back as `If-Match`, so that who has changed it meanwhile is not overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, Field

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.secret import Headers
from agent.units import Duration
from connectors._values import Value, Values, ValuesConfig, as_json, nested, value_at
from connectors.http import Answer, Door, Method, checked_url, redacted

_PLACE = "{name}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A value as it was read. whole: the answer is `{"value": ...}`; tag: its ETag, "" = none."""

    value: Value
    whole: bool = False
    tag: str = ""


@connector("flag_http")
class FlagHttp(Values):
    """The flags of one service, behind an HTTP interface of its own.

    Abilities  Flags (see playbooks/actions/flags.py), Limiter for its numbers (see playbooks/actions/limits.py)
    """

    tested = "a server of the tests"

    class Config(ValuesConfig):
        """Where it is asked and told."""

        url: Annotated[str, AfterValidator(checked_url)]
        headers: Headers = {}
        """`env:NAME` and `file:PATH` stand for secrets."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config)
        self.config = config
        self._door = Door()
        self._each = _PLACE in config.url

    async def _get(self, name: str) -> Value:
        return (await self._see(name)).value

    async def _put(self, name: str, value: Value, expect: Value) -> None:
        seen = await self._see(name)
        if seen.value != expect:
            raise Refused(
                f"{name} of {self.name} is {seen.value!r}, not {expect!r}: changed by others"
            )
        tag = {"if-match": seen.tag} if seen.tag else {}
        if not self._each:
            kind = {"content-type": "application/merge-patch+json"}
            await self._ask("PATCH", name, nested(name, value), {**kind, **tag})
        elif value is None:
            await self._ask("DELETE", name, None, tag)
        else:
            whole = seen.whole or seen.value is None
            body = {"value": as_json(value)} if whole else as_json(value)
            await self._ask("PUT", name, body, {"content-type": "application/json", **tag})
        try:
            now = (await self._see(name)).value
        except AgentError as lost:
            raise Uncertain(f"{name} of {self.name} was set to {value!r}; {lost}") from None
        if now != value:
            raise Uncertain(f"{name} of {self.name} was set to {value!r} and is {now!r}")

    async def describe(self) -> Sequence[str]:
        """Say what the values are."""
        lines = []
        for name in self.config.may:
            try:
                lines.append(f"{name} = {json.dumps(await self._get(name))}")
            except AgentError as problem:
                lines.append(f"{name}: {problem}")
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    async def _see(self, name: str) -> _Seen:
        answer = await self._ask("GET", name)
        if answer.status == 404:
            return _Seen(None)
        tag = answer.headers.get("etag", "")
        try:
            data = answer.json()
            if not self._each:
                return _Seen(value_at(data if isinstance(data, dict) else {}, name), tag=tag)
            whole = isinstance(data, dict)
            return _Seen(value_at(data if whole else {"value": data}, "value"), whole, tag)
        except (ValueError, Refused):
            where = redacted(self._url(name))
            raise Refused(f"{where} answers no value as JSON: mend `url` of {self.name}") from None

    def _url(self, name: str) -> str:
        return self.config.url.replace(_PLACE, quote(name, safe=""))

    async def _ask(
        self, method: Method, name: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        url = self._url(name)
        answer = await self._door.ask(
            method, url, timeout_s=self.config.timeout, headers={**self.config.headers, **(headers or {})},
            body=None if body is None else json.dumps(body).encode(),
        )  # fmt: skip
        said = f"{method} {redacted(url)}: {answer.status}"
        if answer.ok or (answer.status == 404 and method == "GET" and self._each):
            return answer
        if answer.status == 412:
            raise Refused(f"{name} of {self.name} was changed by others just now")
        if answer.status in {429, 503} or (method == "GET" and answer.status >= 500):
            raise Unavailable(f"{said}, not now")
        if answer.status < 500:
            raise Refused(f"{said}; see whether `url` and the token are right")
        raise Uncertain(f"{said}; it may have been done")
