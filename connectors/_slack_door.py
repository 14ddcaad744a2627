"""Slack's Web API as we ask it: through its official client, bounded, in its pace, and what goes wrong sorted.

    ask("chat_postMessage", channel=..., ...) -> AsyncWebClient -> its answer, or
        Unavailable  the way (a token, a scope, the channel) or the moment: mend it, or wait; says which and how
        Uncertain    a message that may have been posted
        Unfit        this message and no other; `Gone`: it is not there any more, or may not be edited

Slack's own words are never repeated beyond its error codes: they may echo what we sent. Redirects are not followed, and
no answer is read beyond 1 MB. One message a second and channel; `Retry-After` holds for the method that it was said to.
Imports slack_sdk and aiohttp (extra `slack`): to be imported by what is about to speak, not by what is configured.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.secret import secret
from connectors._notes import MEND_S
from connectors.http import checked_url, retry_after

POST_EVERY_S: Final = 1.05
"""Slack: "1 per second per channel, short bursts above it"; we keep to it."""
_MOST_BYTES: Final = 1 << 20
_NOW_S: Final = 30.0
_AWAY: Final = "it sends us elsewhere, which is not followed; mend api_url"
_NO_RETRIES: Final[list[AsyncRetryHandler]] = []
"""Who retries is the outbox: the client's own would post a message twice when only the answer was lost."""

MEND: Final[Mapping[str, str]] = {
    "invalid_auth": "the token is not accepted; copy it anew (bot: OAuth & Permissions, app: Basic Information)",
    "not_authed": "the token is empty; write it where its reference points to",
    "account_inactive": "the app was removed from the workspace; install it again",
    "token_revoked": "the token was revoked; install the app again and copy the new one",
    "token_expired": "the token has expired; install the app again and copy the new one",
    "not_allowed_token_type": "this is another kind of token; bot_token begins with xoxb-, app_token with xapp-",
    "missing_scope": "the app lacks a scope; compare it with `homeostat slack manifest`, then install it again",
    "no_permission": "the app may not do this here; install it again with the scopes of `homeostat slack manifest`",
    "access_denied": "the workspace does not let the app do this; ask an admin of Slack",
    "org_login_required": "the workspace moves to an organisation; try again later",
    "team_access_not_granted": "the app is not installed in that workspace",
    "ekm_access_denied": "the admins of Slack have suspended access",
    "channel_not_found": "no such channel, or the app is not in it: write its id (C...), and invite the app there",
    "not_in_channel": "invite the app: /invite @homeostat in the channel",
    "is_archived": "the channel is archived; name another one",
    "restricted_action": "the channel lets only some people post; let the app, or name another one",
    "no_service": "this webhook is gone; make a new one",
    "no_active_hooks": "this webhook is switched off; make a new one",
    "invalid_token": "this webhook is gone; make a new one",
    "channel_is_archived": "the channel is archived; make a webhook for another one",
    "action_prohibited": "an admin of Slack does not let webhooks post there",
}  # fmt: skip
"""Error code -> what a person does about it: faults of the way, for which messages wait."""
GONE: Final = frozenset(
    {"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"}
)
_NOW: Final = frozenset({"ratelimited", "rate_limited", "message_limit_exceeded"})
_THEIRS: Final = frozenset({"fatal_error", "internal_error", "service_unavailable", "request_timeout",
                            "team_added_to_org", "rollup_error", "timeout"})  # fmt: skip
_POSTS: Final = frozenset({"chat_postMessage", "files_upload_v2"})
"""Methods that do it again when they are asked again."""


class Lacking(Unavailable):
    """The app has not the scope for it."""


class Unfit(Refused):
    """Slack does not take this one request; `code` as it says why."""

    def __init__(self, message: str, code: str, *, picture: bool = False) -> None:
        self.code = code
        self.picture = picture
        """It is a picture in it that is not there (yet)."""
        super().__init__(message)


class Gone(Unfit):
    """The message is not there any more, or may not be edited."""


def quiet() -> logging.Logger:
    """Return a logger that says nothing: the client logs what it sends, tokens of sockets included."""
    log = logging.getLogger("homeostat.slack")
    log.setLevel(logging.CRITICAL + 1)
    log.propagate = False
    return log


class Door:
    """Asks one workspace.

    token   reference of the bot token, read anew each time
    """

    def __init__(self, name: str, api_url: str, token: str, timeout_s: float) -> None:
        self.name = name
        self._host = urlsplit(api_url).netloc
        self._api_url = checked_url(api_url)
        self._token = token
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._client: AsyncWebClient | None = None
        self._shut = False
        self._rest: dict[str, float] = {}
        self._turns: dict[str, tuple[asyncio.Lock, list[float]]] = {}
        self.theirs: float | None = None
        """What Slack's clock said when it last answered, unix seconds; None = it did not tell."""
        self._heard = 0.0
        self.asked: dict[str, int] = {}
        """Method -> how often it was asked, for those who want to know whether we are a good guest."""

    async def ask(self, method: str, *, token: str = "", **given: Any) -> dict[str, Any]:
        """Ask once; `method` as the client calls it. Raises Unavailable, Uncertain, Unfit, Gone."""
        rests = self._rest.get(method, 0.0) - time.monotonic()
        if rests > 0:
            raise Unavailable(f"{self.name}: Slack asks us to wait with {method}", wait_s=rests)
        if method == "chat_postMessage":
            await self._turn(str(given.get("channel")))
        client = self._open()
        try:
            client.token = secret(token or self._token)
        except Refused as missing:
            raise Unavailable(f"{self.name}: {missing}", wait_s=MEND_S) from None
        self.asked[method] = self.asked.get(method, 0) + 1
        try:
            async with asyncio.timeout(self._timeout_s * (3 if method == "files_upload_v2" else 1)):
                said = await getattr(client, method)(**given)
        except Exception as wrong:  # noqa: BLE001  # the client raises whatever comes: AttributeError for a strange shape
            raise self._sorted(method, wrong) from None
        self._look_at_clock(said.headers)
        return dict(said.data)

    async def send(self, url: str, called: str, **given: Any) -> None:
        """Post to a URL that Slack gave: a webhook, or where a command is answered. Raises as `ask`."""
        self._open()
        client = AsyncWebhookClient(
            checked_url(url), session=self._session, logger=quiet(), retry_handlers=_NO_RETRIES
        )
        self.asked[called] = self.asked.get(called, 0) + 1
        try:
            async with asyncio.timeout(self._timeout_s):
                said = await client.send(**given)
        except Exception as wrong:  # noqa: BLE001  # as above
            raise self._sorted(called, wrong) from None
        if said.status_code != 200:
            code = said.body.strip() if isinstance(said.body, str) else ""
            raise self._meant(called, _code(code), said.status_code, said.headers, "")

    async def close(self) -> None:
        """Close the connections, for good: who is still at work gets no new ones."""
        self._shut = True
        if self._session is not None:
            await self._session.close()
        self._session = self._client = None

    def _look_at_clock(self, headers: Mapping[str, Any]) -> None:
        """Take the time from an answer: what Slack signs, it signs by its own clock."""
        told = next((v for k, v in headers.items() if k.lower() == "date"), "")
        try:
            theirs = parsedate_to_datetime(str(told)).timestamp()
        except (ValueError, OverflowError):
            return
        self.theirs, self._heard = theirs, time.monotonic()

    @property
    def ahead_s(self) -> float:
        """How far Slack's clock is ahead of ours, as it is set now; 0 = not known."""
        if self.theirs is None:
            return 0.0
        return self.theirs + (time.monotonic() - self._heard) - time.time()

    def _open(self) -> AsyncWebClient:
        """Return the client, made when it is first needed: it wants a running loop. Raises Unavailable once closed."""
        if self._shut:
            raise Unavailable(f"{self.name}: its connections are closed")
        if self._client is None or self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s * 3), middlewares=(_bounded,)
            )
            self._client = AsyncWebClient(
                base_url=self._api_url, session=self._session, logger=quiet(), retry_handlers=_NO_RETRIES,
                timeout=math.ceil(self._timeout_s),
            )  # fmt: skip
        return self._client

    async def _turn(self, channel: str) -> None:
        """Wait until a message may go to this channel."""
        lock, last = self._turns.setdefault(channel, (asyncio.Lock(), [-math.inf]))
        async with lock:
            await asyncio.sleep(max(0.0, last[0] + POST_EVERY_S - time.monotonic()))
            last[0] = time.monotonic()

    def _sorted(self, method: str, wrong: Exception) -> AgentError:
        """Return what the caller should do about it."""
        where = f"{method} at {self._host}"
        match wrong:
            case AgentError():
                return wrong
            case SlackApiError():
                said = wrong.response
                data = getattr(said, "data", None)
                status = int(getattr(said, "status_code", 0) or getattr(said, "status", 0) or 0)
                code = _code(data.get("error")) if isinstance(data, dict) else ""
                headers = getattr(said, "headers", None) or {}
                return self._meant(where, code, status, headers, json.dumps(_details(data)))
            case TimeoutError():
                text = f"{where}: no answer in time"
                return Uncertain(text) if method in _POSTS else Unavailable(text)
            case aiohttp.ClientSSLError():
                text = f"{where}: no secure connection: {type(wrong).__name__}"
                return Unavailable(text, wait_s=MEND_S)
            case _Elsewhere():
                return Unavailable(f"{where}: {_AWAY}", wait_s=MEND_S)
            case aiohttp.ClientConnectorError():
                return Unavailable(f"{where}: no connection: {type(wrong).__name__}")
            case aiohttp.ClientError() | OSError():
                text = f"{where} broke off: {type(wrong).__name__}"
                return Uncertain(text) if method in _POSTS else Unavailable(text)
            case SlackClientError():
                return Unavailable(f"{where}: {type(wrong).__name__}")
            case _:
                said = type(wrong).__name__
                return Unavailable(f"{where} answered with what is no answer of Slack's: {said}")

    def _meant(
        self, where: str, code: str, status: int, headers: Mapping[str, str], details: str
    ) -> AgentError:
        """Sort an error code, or a status where there is none."""
        text = f"{self.name}: {where}: {code or status}"
        if status == 429 or code in _NOW:
            wait = retry_after(headers) or _NOW_S
            self._rest[where.partition(" ")[0]] = time.monotonic() + wait
            return Unavailable(f"{text}, it asks us to wait {wait:.0f} s", wait_s=wait)
        if code in MEND:
            kind = Lacking if code == "missing_scope" else Unavailable
            return kind(f"{text}: {MEND[code]}", wait_s=MEND_S)
        if code in GONE:
            return Gone(text, code)
        if code in _THEIRS or status >= 500:
            posts = where.partition(" ")[0] in _POSTS
            return Uncertain(f"{text}; it may have been taken") if posts else Unavailable(text)
        if status in {401, 403}:
            return Unavailable(f"{text}: the token is not accepted, renew it", wait_s=MEND_S)
        if 300 <= status < 400:
            return Unavailable(f"{text}: {_AWAY}", wait_s=MEND_S)
        if status == 404 and not code:
            return Unavailable(f"{text}: mend api_url", wait_s=MEND_S)
        if not code and status == 200:
            return Unavailable(f"{text}: what came is no answer of Slack's")
        return Unfit(f"{text}: it does not take this", code, picture="slack_file" in details)


def _code(said: Any) -> str:
    """Return an error code, and nothing that only stands in its place."""
    return said if isinstance(said, str) and re.fullmatch(r"[a-z][a-z0-9_]{1,60}", said) else ""


def _details(data: Any) -> Any:
    return data.get("errors", ()) if isinstance(data, dict) else ()


class _Elsewhere(aiohttp.ClientError):
    """It sends us elsewhere."""


class _TooMuch(aiohttp.ClientPayloadError):
    """More than an answer of Slack's has."""


class _Bounded:
    """A body of which no more is read than an answer of Slack's has."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self) -> bytes:
        parts, size = [], 0
        async for part in self._parts():
            size += len(part)
            if size > _MOST_BYTES:
                raise _TooMuch(f"more than {_MOST_BYTES} bytes")
            parts.append(part)
        return b"".join(parts)

    def _parts(self) -> AsyncIterator[bytes]:
        return self._content.iter_any()


async def _bounded(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Follow no redirect, and bound what is read."""
    answer = await handler(request)
    if 300 <= answer.status < 400:
        answer.close()
        raise _Elsewhere(_AWAY)
    answer.content = _Bounded(answer.content)  # type: ignore[assignment]  # stands in for the one method that is used
    return answer
