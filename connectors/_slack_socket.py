"""Socket Mode: presses and commands over a websocket that we open, by Slack's official client.

    apps.connections.open -> websocket -> hello, envelopes (each acknowledged at once) -> take(kind, payload)

Slack hands each press to one of the connections that an app has, at random. So two agents on one app would each get a
share of the presses: `hello` tells how many connections there are, and while there are others nothing is done that
changes something; people are told why. `hello` comes only when a connection is opened, so another one is opened every
ten minutes, and every 90 s while we are not alone; then the old one is closed: no press finds nobody. Lost connections
are opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse

from agent.errors import AgentError, Refused, Unavailable
from agent.secret import secret
from connectors._notes import MEND_S
from connectors._slack_door import Door, quiet

log = structlog.get_logger()

PING_S: Final = 5.0
"""How often the connection is tried; one that does not answer four times is opened anew."""
ALONE_S: Final = 600.0
"""So long an agent that began after us goes unseen by us; it sees us at once."""
LOOK_AGAIN_S: Final = 90.0
"""Slack opens about one connection a minute and app."""
DOUBT_S: Final = 15.0
"""A connection that was just given up may be counted for some seconds."""
_CONNECT_S: Final = 30.0
_LONGEST_LOST_S: Final = 60.0

Take = Callable[[str, Mapping[str, Any]], None]
"""Kind of an envelope and its payload; does its work beside."""


class _Client(SocketModeClient):
    """Asks for the address of the socket at our door, where errors are sorted and waits are kept."""

    door: Door
    reference: str

    async def issue_new_wss_url(self) -> str:
        """Return where to connect to; raises Unavailable."""
        try:
            token = secret(self.reference)
        except Refused as missing:
            raise Unavailable(f"{self.door.name}: {missing}", wait_s=MEND_S) from None
        said = await self.door.ask("apps_connections_open", app_token=token, token=self.reference)
        url = str(said.get("url", ""))
        if not url.startswith(("wss://", "ws://")):
            raise Unavailable(f"{self.door.name}: apps.connections.open names no socket")
        return url


async def _closed(client: _Client) -> None:
    with contextlib.suppress(Exception):  # what is broken is left behind all the same
        await client.close()  # type: ignore[no-untyped-call]  # as its author wrote it


class Socket:
    """One app's socket, as long as `run` runs.

    shared   other agents hold connections of the same app
    """

    def __init__(self, door: Door, app_token: str, take: Take, well: Callable[[], None]) -> None:
        self._door = door
        self._app_token = app_token
        self._take = take
        self._well = well
        self.shared = False
        self._alone = False
        self._again = math.inf
        self._held = 0
        self._there = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled; raises Unavailable when there is no connection for a minute."""
        client = await self._opened()
        try:
            while True:
                await self._listen(client)
                client, old = await self._relieved(client), client
                if client is not old:
                    await _closed(old)
        finally:
            await _closed(client)

    async def _relieved(self, client: _Client) -> _Client:
        """Open another connection, for what its `hello` tells; returns it, or the old one where that can not be."""
        self._held = int(await client.is_connected())  # it is counted, too
        try:
            return await self._opened()
        except AgentError as no:
            if not self._held:
                raise
            log.info("slack_socket_not_looked_at", error=str(no))
            self._again = asyncio.get_running_loop().time() + LOOK_AGAIN_S
            return client
        finally:
            self._held = 0

    async def _opened(self) -> _Client:
        """Open a connection and wait for its `hello`; raises Unavailable, Refused."""
        client = _Client(
            app_token="", logger=quiet(), ping_interval=PING_S, auto_reconnect_enabled=True
        )  # the token is looked up when it is needed
        client.door, client.reference = self._door, self._app_token
        client.message_listeners.append(self._message)
        client.socket_mode_request_listeners.append(self._request)
        self._there.clear()
        try:
            client.wss_uri = await client.issue_new_wss_url()
            async with asyncio.timeout(_CONNECT_S):
                await client.connect()  # type: ignore[no-untyped-call]  # as its author wrote it
                await self._there.wait()
        except TimeoutError:
            await _closed(client)
            raise Unavailable(
                f"{self._door.name}: the socket can not be opened; does a proxy let wss:// through?"
            ) from None
        except BaseException:
            await _closed(client)
            raise
        return client

    async def _listen(self, client: _Client) -> None:
        """Return when it is time to look again whether we are alone; raises Unavailable when it is lost."""
        loop = asyncio.get_running_loop()
        lost = loop.time()
        while loop.time() < self._again:
            await asyncio.sleep(min(PING_S, 1.0))
            if await client.is_connected():
                lost = loop.time()
            elif loop.time() - lost > _LONGEST_LOST_S:
                raise Unavailable(f"{self._door.name}: the socket is lost; it is opened anew")

    async def _message(
        self, client: AsyncBaseSocketModeClient, message: dict[str, Any], raw: str | None = None
    ) -> None:
        del client, raw
        if message.get("type") != "hello":
            return
        count = message.get("num_connections")
        others = isinstance(count, int) and count > 1 + self._held
        self._there.set()
        self._well()
        now = asyncio.get_running_loop().time()
        if not others:
            self.shared, self._alone, self._again = False, True, now + ALONE_S
            return
        # a connection that we gave up ourselves may still be counted: believed at the second look
        doubt = self._alone
        self._alone = False
        self._again = now + (DOUBT_S if doubt else LOOK_AGAIN_S)
        if not doubt and not self.shared:
            self.shared = True
            log.error(
                "slack_socket_shared", connections=count, remedy="one app an agent, or owner: false"
            )

    async def _request(self, client: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        """Acknowledge within Slack's three seconds, then work; one that is not acknowledged comes again."""
        with contextlib.suppress(ConnectionError, OSError):
            await client.send_socket_mode_response(
                SocketModeResponse(envelope_id=request.envelope_id)
            )
        payload = request.payload if isinstance(request.payload, dict) else {}
        try:
            self._take(request.type, payload)
        except Unavailable as full:
            log.warning("slack_request_dropped", kind=request.type, error=str(full))
