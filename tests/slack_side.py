"""Slack, as far as an app sees it: the Web API, Socket Mode, and requests that it signs; over real HTTP and websockets.

Shapes, limits and error codes are those of its documentation (docs.slack.dev) and of what its client expects; nothing
of it was run against Slack itself. It keeps messages per channel, checks blocks against their limits, hands each
envelope to one of the connections at random and again when it is not acknowledged, and fails as it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import re
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode

from aiohttp import WSMsgType, web

BOT, APP, SECRET = "xoxb-CANARYbot123456", "xapp-1-CANARYapp123456", "CANARYsigning123456"
HOOK = "/services/T0TEAM/B0HOOK/CANARYhook123456"
CHANNEL, TEAM, BOT_USER = "C0123456789", "T0TEAM0001", "U0BOT00001"
OLGA, VICTOR, MALLORY, GUEST = "U0OLGA0001", "U0VICTOR01", "U0MALLORY1", "U0GUEST001"
FAULTS = frozenset(
    {"dropped", "slow", "unauthorized", "forbidden", "busy", "broken", "redirect", "unfit", "garbage"}
)  # fmt: skip
_TRUE = (True, "true", "1")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CODES = {"unauthorized": "invalid_auth", "forbidden": "no_permission", "unfit": "invalid_blocks"}
USERS = {
    OLGA: {"name": "olga", "team_id": TEAM, "tz": "Europe/Berlin", "profile": {"email": "Olga@example.org"}},
    VICTOR: {"name": "victor", "team_id": TEAM, "tz": "Europe/Berlin", "profile": {"email": "victor@example.org"}},
    MALLORY: {"name": "mallory", "team_id": TEAM, "tz": "", "profile": {}},
    GUEST: {"name": "guest", "team_id": "T0OTHER001", "is_stranger": True, "profile": {"email": "olga@example.org"}},
}  # fmt: skip


@dataclass
class Channel:
    """A channel and its messages, oldest first; those of threads carry `thread_ts`."""

    member: bool = True
    archived: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)

    def find(self, ts: str) -> dict[str, Any] | None:
        return next((m for m in self.messages if m["ts"] == ts), None)


class SlackSide:
    """One workspace with one app installed."""

    def __init__(self) -> None:
        self.channels = {CHANNEL: Channel()}
        self.names: dict[str, str] = {}  # "#name" -> id, which only posting takes
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.versions: dict[str, list[dict[str, Any]]] = {}  # ts -> how it looked, oldest first
        self.said: list[tuple[str, dict[str, Any]]] = []  # ephemeral: who saw what
        self.views: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, Any]] = {}
        self.hooked: list[dict[str, Any]] = []
        self.fault = ""
        self.refuse: dict[str, list[str]] = {}  # method -> error codes of its next calls
        self.lose: set[str] = set()  # methods whose work is done, and whose answer is lost
        self.file_ready_after = 0  # so many uses of a picture are refused first
        self.sockets: list[web.WebSocketResponse] = []
        self.opened = 0  # connections so far
        self.elsewhere = 0  # connections of other agents
        self.acked: list[str] = []
        self.answered: list[dict[str, Any]] = []  # what envelopes and requests were answered with
        self.ahead_s = 0.0  # its clock beside that of the host
        self.trigger_s = 60.0  # Slack's is 3, which is short beside other tests
        self._triggers: dict[str, float] = {}
        self.ack_s = 0.5
        self.strayed = 0
        self.url = ""
        self._n = 0
        self._waits: dict[str, asyncio.Event] = {}
        self._going_on = asyncio.Event()
        self._random = random.Random(5)
        self.deliver = self.by_socket

    # ---- life

    @contextlib.asynccontextmanager
    async def serving(self):
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._api)
        app.router.add_post("/upload/{id}", self._upload)
        app.router.add_post("/respond/{id}", self._respond)
        app.router.add_post(HOOK, self._hook)
        app.router.add_get("/socket", self._socket)
        app.router.add_route("*", "/{rest:.*}", self._stray)
        runner = web.AppRunner(app, shutdown_timeout=0.2, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self._going_on.set()
            for socket in list(self.sockets):
                await socket.close()
            await runner.cleanup()

    def named(self, method: str) -> list[dict[str, Any]]:
        """Return the arguments of all calls of a method."""
        return [given for name, given in self.calls if name == method]

    def ts(self) -> str:
        self._n += 1
        # a second ahead of what its answers say
        return f"{time.time() + self.ahead_s + 1:.0f}.{self._n:06d}"

    @property
    def parents(self) -> list[dict[str, Any]]:
        return [m for m in self.channels[CHANNEL].messages if not m.get("thread_ts")]

    def replies(self, ts: str) -> list[dict[str, Any]]:
        return [m for m in self.channels[CHANNEL].messages if m.get("thread_ts") == ts]

    # ---- Web API

    async def _broken(self, request: web.Request) -> web.StreamResponse | None:
        match self.fault:
            case "slow":
                await self._going_on.wait()
                return web.Response()
            case "dropped":
                request.transport.abort()
                return web.Response()
            case "busy":
                body = {"ok": False, "error": "ratelimited"}
                return web.json_response(body, status=429, headers={"Retry-After": "7"})
            case "broken":
                return web.Response(text=f"oops {dict(request.headers)}", status=500)
            case "redirect":
                return web.Response(status=307, headers={"Location": f"{self.url}/elsewhere"})
            case "garbage":
                return web.Response(body=b"\x00<html>" * 100, content_type="application/json")
            case "":
                return None
        code = _CODES[self.fault]
        body = {"ok": False, "error": code, "echo": str(dict(request.headers))}
        return web.json_response(body)

    async def _api(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        given = await _given(request)
        self.calls.append((method, given))
        broken = await self._broken(request)
        if broken is not None:
            return broken
        wanted = APP if method == "apps.connections.open" else BOT
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return _no("not_authed")
        if token != wanted:
            return _no("not_allowed_token_type" if token in {APP, BOT} else "invalid_auth")
        codes = self.refuse.get(method)
        if codes:
            return _no(codes.pop(0))
        handle = getattr(self, "_" + method.replace(".", "_"), None)
        if handle is None:
            return _no("unknown_method")
        answer = handle(given)
        answer.headers["Date"] = formatdate(time.time() + self.ahead_s, usegmt=True)
        if method in self.lose:
            self.lose.discard(method)
            request.transport.abort()
        return answer

    def _auth_test(self, given):
        return _yes(
            url="https://t.slack.com/",
            team="t",
            user="homeostat",
            team_id=TEAM,
            user_id=BOT_USER,
            bot_id="B0BOT",
        )

    def _apps_connections_open(self, given):
        return _yes(url=f"{self.url.replace('http', 'ws')}/socket?ticket={self.ts()}")

    def _place(self, given) -> str | Channel:
        named = str(given.get("channel"))
        channel = self.channels.get(self.names.get(named, named))
        if channel is None and str(given.get("channel", "")).startswith(("U", "D")):
            channel = self.channels.setdefault(given["channel"], Channel())
        if channel is None:
            return "channel_not_found"
        if channel.archived:
            return "is_archived"
        return channel if channel.member else "not_in_channel"

    def _message(self, given) -> str | dict[str, Any]:
        text, blocks = str(given.get("text", "")), given.get("blocks") or []
        if not text and not blocks:
            return "no_text"
        if len(text) > 40_000:
            return "msg_too_long"
        wrong = list(self._wrong(blocks))
        if wrong:
            return "invalid_blocks " + json.dumps(wrong)
        return {"text": text, "blocks": blocks, "metadata": given.get("metadata"), "user": BOT_USER}

    def _chat_postMessage(self, given):  # noqa: N802  # as Slack names it
        channel, message = self._place(given), self._message(given)
        for wrong in (channel, message):
            if isinstance(wrong, str):
                return _no(*wrong.split(" ", 1))
        thread = given.get("thread_ts")
        if thread and channel.find(thread) is None:
            return _no("thread_not_found")
        message["ts"] = self.ts()
        if thread:
            message["thread_ts"] = thread
            message["broadcast"] = given.get("reply_broadcast") in _TRUE
        channel.messages.append(message)
        self.versions[message["ts"]] = [dict(message)]
        id_ = self.names.get(given["channel"], given["channel"])
        return _yes(channel=id_, ts=message["ts"], message=message)

    def _chat_update(self, given):
        channel, message = self._place(given), self._message(given)
        for wrong in (channel, message):
            if isinstance(wrong, str):
                return _no(*wrong.split(" ", 1))
        old = channel.find(str(given.get("ts")))
        if old is None:
            return _no("message_not_found")
        if old["user"] != BOT_USER:
            return _no("cant_update_message")
        kept = {"metadata": old["metadata"]} if message["metadata"] is None else {}
        old.update({**message, **kept, "edits": old.get("edits", 0) + 1})
        self.versions[old["ts"]].append(dict(old))
        return _yes(channel=given["channel"], ts=old["ts"], text=old["text"])

    def _chat_postEphemeral(self, given):  # noqa: N802
        channel, message = self._place(given), self._message(given)
        for wrong in (channel, message):
            if isinstance(wrong, str):
                return _no(*wrong.split(" ", 1))
        self.said.append((given["user"], message))
        return _yes(message_ts=self.ts())

    def _conversations_history(self, given):
        channel = self._place(given)
        if isinstance(channel, str):
            return _no(channel)
        oldest = float(given.get("oldest", 0))
        found = [m for m in channel.messages if not m.get("thread_ts") and float(m["ts"]) >= oldest]
        return self._page(found[::-1], given)

    def _conversations_replies(self, given):
        channel = self._place(given)
        if isinstance(channel, str):
            return _no(channel)
        if channel.find(given["ts"]) is None:
            return _no("thread_not_found")
        found = [m for m in channel.messages if given["ts"] in {m["ts"], m.get("thread_ts")}]
        return self._page(found, given)

    def _page(self, found, given):
        """Answer with a part of what was found, and where the next begins."""
        start, limit = int(given.get("cursor") or 0), int(given.get("limit", 100))
        more = len(found) > start + limit
        return _yes(
            messages=self._shown(found[start : start + limit], given), has_more=more,
            response_metadata={"next_cursor": str(start + limit) if more else ""},
        )  # fmt: skip

    @staticmethod
    def _shown(messages, given):
        if given.get("include_all_metadata") in _TRUE:
            return messages
        return [
            {**m, "metadata": {"event_type": (m["metadata"] or {}).get("event_type")}}
            for m in messages
        ]

    def _conversations_open(self, given):
        return _yes(channel={"id": "D" + str(given["users"]).strip('[]"')[1:]})

    def _users_info(self, given):
        user = USERS.get(str(given.get("user")))
        return (
            _no("user_not_found")
            if user is None
            else _yes(user={"id": given["user"], "deleted": False, **user})
        )

    def _views_open(self, given):
        view = given.get("view")
        view = json.loads(view) if isinstance(view, str) else view
        wrong = list(self._wrong(view["blocks"], modal=True))
        if wrong or len(view["title"]["text"]) > 24 or len(view.get("private_metadata", "")) > 3000:
            return _no("invalid_arguments", json.dumps(wrong))
        born = self._triggers.pop(given.get("trigger_id"), None)
        if born is None:
            return _no("invalid_trigger_id")
        if time.monotonic() - born > self.trigger_s:
            return _no("expired_trigger_id")
        self.views.append({**view, "id": f"V{len(self.views):08d}", "hash": f"{self._n}.x"})
        return _yes(view=self.views[-1])

    def _files_getUploadURLExternal(self, given):  # noqa: N802
        id_ = f"F{len(self.files):09d}"
        self.files[id_] = {
            "id": id_,
            "length": int(given["length"]),
            "uses": 0,
            "alt": given.get("alt_txt"),
        }
        return _yes(upload_url=f"{self.url}/upload/{id_}", file_id=id_)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(("upload", {}))
        file = self.files[request.match_info["id"]]
        file["content"] = await request.read()
        assert len(file["content"]) == file["length"]
        return web.Response(text=f"OK - {file['length']}")

    def _files_completeUploadExternal(self, given):  # noqa: N802
        done = json.loads(given["files"])
        for one in done:
            self.files[one["id"]].update(
                one, channel=given.get("channel_id"), thread=given.get("thread_ts")
            )
        return _yes(files=done)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        given = await request.json()
        self.calls.append(("response_url", given))
        user = request.match_info["id"]
        assert not list(self._wrong(given.get("blocks") or []))
        self.said.append((user if given["response_type"] == "ephemeral" else "*", given))
        return web.Response(text="ok")

    async def _hook(self, request: web.Request) -> web.StreamResponse:
        broken = await self._broken(request)
        if self.fault in _CODES:
            code = {"unauthorized": "invalid_token", "forbidden": "action_prohibited"}.get(
                self.fault, "invalid_blocks"
            )
            return web.Response(text=code, status=400 if self.fault == "unfit" else 403)
        if broken is not None:
            return broken
        self.hooked.append(await request.json())
        return web.Response(text="ok")

    async def _stray(self, request: web.Request) -> web.StreamResponse:
        self.strayed += request.path.startswith("/elsewhere")
        return web.Response(status=404)

    # ---- limits of blocks

    def _wrong(self, blocks, *, modal=False):
        """Yield what Slack would not take."""
        if len(blocks) > (100 if modal else 50):
            yield "no more than 50 items allowed [json-pointer:/blocks]"
        ids = [e["action_id"] for b in blocks if b["type"] == "actions" for e in b["elements"]]
        if len(set(ids)) < len(ids) or any(len(i) > 255 for i in ids):
            yield "action_id is not unique or too long [json-pointer:/blocks]"
        for n, block in enumerate(blocks):
            check = getattr(self, f"_of_{block['type']}", None)
            if check is None or (block["type"] == "input") > modal:
                yield f"unsupported type [json-pointer:/blocks/{n}]"
            else:
                yield from check(block, f"[json-pointer:/blocks/{n}]")

    def _of_section(self, block, at):
        yield from self._text(block["text"], 3000, at)

    def _of_context(self, block, at):
        if not 0 < len(block["elements"]) <= 10:
            yield f"elements {at}"
        for element in block["elements"]:
            yield from self._text(element, 3000, at)

    def _of_image(self, block, at):
        if not 0 < len(block["alt_text"]) <= 2000:
            yield f"alt_text {at}"
        file = self.files.get((block.get("slack_file") or {}).get("id", ""))
        if file is None or "content" not in file or not file.get("channel"):
            yield f"invalid slack file {at[:-1]}/slack_file]"
            return
        file["uses"] += 1
        if file["uses"] <= self.file_ready_after:
            yield f"invalid slack file {at[:-1]}/slack_file]"

    def _of_actions(self, block, at):
        if not 0 < len(block["elements"]) <= 25:
            yield f"elements {at}"
        for element in block["elements"]:
            if len(element.get("value", "")) > 2000:
                yield f"value {at}"
            yield from self._text(element["text"], 75, at)
            yield from self._confirm(element.get("confirm"), at)

    def _of_input(self, block, at):
        for name in ("label", "hint"):
            if len((block.get(name) or {"text": "x"})["text"]) > 2000:
                yield f"{name} {at}"
        element = block["element"]
        match element["type"]:
            case "number_input":
                known = [element.get(n) for n in ("min_value", "max_value", "initial_value")]
                if "is_decimal_allowed" not in element or any(
                    n and not _NUMBER.fullmatch(n) for n in known
                ):
                    yield f"number {at}"
            case "plain_text_input":
                most = element.get("max_length", 3000)
                if not 0 < most <= 3000 or len(element.get("initial_value") or "") > most:
                    yield f"text {at}"
            case "radio_buttons" | "static_select":
                yield from self._options(element, at)
            case _:
                yield f"unsupported element {at}"

    def _options(self, element, at):
        options = element["options"]
        if not 0 < len(options) <= (10 if element["type"] == "radio_buttons" else 100):
            yield f"options {at}"
        if element.get("initial_option") not in (None, *options):
            yield f"initial_option {at}"
        for option in options:
            yield from self._text(option["text"], 75, at)
            if len(option["value"]) > 150:
                yield f"value {at}"

    def _of_divider(self, block, at):
        return ()

    @staticmethod
    def _text(said, most, at):
        if said["type"] not in {"mrkdwn", "plain_text"} or not 0 < len(said["text"]) <= most:
            yield f"must be less than {most + 1} characters {at}"

    def _confirm(self, said, at):
        if said:
            for name, most in (("title", 100), ("text", 300), ("confirm", 30), ("deny", 30)):
                yield from self._text(said[name], most, at)

    # ---- Socket Mode

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        self.sockets.append(socket)
        self.opened += 1
        await socket.send_json({
            "type": "hello", "num_connections": len(self.sockets) + self.elsewhere,
            "connection_info": {"app_id": "A0APP"},
            "debug_info": {"host": "applink-1", "approximate_connection_time": 18060},
        })  # fmt: skip
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    said = json.loads(message.data)
                    self.acked.append(said["envelope_id"])
                    if said.get("payload"):
                        self.answered.append(said["payload"])
                    if said["envelope_id"] in self._waits:
                        self._waits[said["envelope_id"]].set()
        finally:
            self.sockets.remove(socket)
        return socket

    async def by_socket(self, kind: str, payload: dict[str, Any], *, times: int = 3) -> bool:
        """Hand an envelope to one connection, and again to one when it is not acknowledged in time."""
        envelope = f"env-{self.ts()}"
        self._waits[envelope] = asyncio.Event()
        for attempt in range(times):
            if not self.sockets:
                await asyncio.sleep(self.ack_s / 4)
                continue
            body = {
                "type": kind, "envelope_id": envelope, "payload": payload,
                "accepts_response_payload": kind != "events_api",
            }  # fmt: skip
            if attempt:
                body |= {"retry_attempt": attempt, "retry_reason": "timeout"}
            with contextlib.suppress(ConnectionError):
                await self._random.choice(self.sockets).send_json(body)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.ack_s):
                    await self._waits[envelope].wait()
                return True
        return False

    async def disconnect(self, reason: str = "refresh_requested") -> None:
        """Tell a connection to come anew, or cut it."""
        for socket in list(self.sockets):
            if reason == "cut":
                socket._req.transport.abort()
                continue
            told = {"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-1"}}
            await socket.send_json(told)

    # ---- people

    def button(self, message: dict[str, Any], action: str) -> dict[str, Any]:
        """Return a button of a message as it stands."""
        found = [e for b in message["blocks"] if b["type"] == "actions" for e in b["elements"]]
        return next(e for e in found if e["action_id"] == f"homeostat:{action}")

    def buttons(self, message: dict[str, Any]) -> list[str]:
        found = [e for b in message["blocks"] if b["type"] == "actions" for e in b["elements"]]
        return [e["action_id"].partition(":")[2] for e in found]

    def trigger(self) -> str:
        """Return what a form can be opened by, once, within seconds."""
        made = f"t.{self.ts()}"
        self._triggers[made] = time.monotonic()
        return made

    def press_payload(
        self, user: str, message: dict[str, Any], button: dict[str, Any]
    ) -> dict[str, Any]:
        about = USERS.get(user, {"name": "?", "team_id": TEAM})
        return {
            "type": "block_actions", "api_app_id": "A0APP", "trigger_id": self.trigger(),
            "user": {"id": user, "username": about["name"], "team_id": about["team_id"]},
            "team": {"id": TEAM}, "channel": {"id": CHANNEL, "name": "incidents"},
            "container": {"type": "message", "message_ts": message["ts"], "channel_id": CHANNEL},
            "message": message, "response_url": f"{self.url}/respond/{user}",
            "actions": [{"type": "button", "action_id": button["action_id"], "value": button["value"],
                         "block_id": "b", "action_ts": self.ts()}],
        }  # fmt: skip

    async def press(self, user: str, message: dict[str, Any], action: str) -> dict[str, Any]:
        payload = self.press_payload(user, message, self.button(message, action))
        assert await self.deliver("interactive", payload)
        return payload

    def submit_payload(self, user: str, view: dict[str, Any], **said: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for block in view["blocks"]:
            if block["type"] != "input":
                continue
            element, name = block["element"], block["element"]["action_id"]
            kind, chosen = element["type"], said.get(name)
            if kind in {"static_select", "radio_buttons"}:
                said_or_value = [(o["text"]["text"], o["value"], o) for o in element["options"]]
                options = {key: o for *keys, o in said_or_value for key in keys}
                option = options[chosen] if chosen else element.get("initial_option")
                values[block["block_id"]] = {name: {"type": kind, "selected_option": option}}
            else:
                written = element.get("initial_value") if chosen is None else chosen
                values[block["block_id"]] = {name: {"type": kind, "value": written or None}}
        about = USERS.get(user, {"name": "?", "team_id": TEAM})
        return {
            "type": "view_submission", "trigger_id": self.trigger(), "team": {"id": TEAM},
            "user": {"id": user, "name": about["name"], "team_id": about["team_id"]},
            "view": {**view, "state": {"values": values}},
        }  # fmt: skip

    async def submit(self, user: str, **said: str) -> dict[str, str]:
        """Submit the newest form; returns what it then says at its lines, {} = it has closed."""
        return await self.sent(self.submit_payload(user, self.views[-1], **said))

    async def sent(self, payload: dict[str, Any]) -> dict[str, str]:
        """Send a form as it was filled in; as `submit`."""
        before = len(self.answered)
        assert await self.deliver("interactive", payload)
        answer = self.answered[before] if len(self.answered) > before else {}
        if not answer:
            return {}
        assert answer["response_action"] == "errors"
        lines = {b["block_id"] for b in payload["view"]["blocks"] if b["type"] == "input"}
        assert answer["errors"]
        assert set(answer["errors"]) <= lines, (
            "Slack shows an error of its own for a line that is none"
        )
        return answer["errors"]

    def command_payload(self, user: str, text: str) -> dict[str, str]:
        return {
            "command": "/homeostat", "text": text, "user_id": user, "user_name": USERS[user]["name"],
            "team_id": USERS[user]["team_id"], "channel_id": CHANNEL, "trigger_id": self.trigger(),
            "response_url": f"{self.url}/respond/{user}", "api_app_id": "A0APP",
        }  # fmt: skip

    async def command(self, user: str, text: str) -> None:
        assert await self.deliver("slash_commands", self.command_payload(user, text))

    async def mention(self, user: str, text: str, *, ts: str = "", edited: bool = False) -> str:
        """Write a message that calls us, or edit one (`ts`); returns its id. Each comes as an event of its own."""
        ts = ts or self.ts()
        more = {"edited": {"user": user, "ts": self.ts()}} if edited else {}
        assert await self.deliver("events_api", {
            "type": "event_callback", "team_id": TEAM, "event_id": f"Ev{self.ts()}",
            "event": {"type": "app_mention", "user": user, "team": USERS[user]["team_id"], "channel": CHANNEL,
                      "text": f"<@{BOT_USER}> {text}", "ts": ts, **more},
        })  # fmt: skip
        return ts


def signed(body: bytes, *, key: str = SECRET, ts: float | None = None) -> dict[str, str]:
    """Return the headers by which Slack vouches for a body."""
    stamp = f"{time.time() + 1 if ts is None else ts:.0f}"
    mac = hmac.new(key.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
    return {"x-slack-request-timestamp": stamp, "x-slack-signature": f"v0={mac}"}


def form(payload: dict[str, Any]) -> bytes:
    """Return a payload as Slack sends it over HTTP."""
    known = payload if "command" in payload else {"payload": json.dumps(payload)}
    return urlencode(known).encode()


async def _given(request: web.Request) -> dict[str, Any]:
    if request.content_type == "application/json":
        return await request.json()
    given: dict[str, Any] = {**request.query, **await request.post()}
    for name in ("blocks", "metadata"):
        if isinstance(given.get(name), str):
            given[name] = json.loads(given[name])
    return given


def _yes(**more):
    return web.json_response({"ok": True, **more})


def _no(code, errors=""):
    body = {"ok": False, "error": code}
    if errors:
        body |= {
            "errors": json.loads(errors),
            "response_metadata": {"messages": json.loads(errors)},
        }
    return web.json_response(body)
