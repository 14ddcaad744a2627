"""An agent that talks to the Slack of `slack_side`: a desk with a story, the real chats, and the connector."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace

import httpx
from desk_story import Story
from slack_side import APP, BOT, CHANNEL, OLGA, SECRET, SlackSide, form, signed

from agent.api import Views, make_app
from agent.chat import Chats
from agent.codec import pack
from agent.events import Events
from agent.life import turned
from agent.telemetry import Telemetry
from agent.web.table import ways
from connectors import _slack_door, _slack_socket, _slack_threads, slack
from connectors.slack import Slack

PUBLIC = "https://homeostat.example.org"
PEOPLE = {
    OLGA: {"name": "olga", "role": "operator"},
    "Victor@Example.org": {"name": "victor", "role": "viewer"},
}
NOISY, BROKEN, RELEASED = "inc-7f3a99e0", "inc-7c00beef", "inc-1a2b3c4d"
RUN = "run-22c0ffee"
PNG = b"\x89PNG not really"


class Drawing:
    """Draws nothing, at once."""

    def __init__(self):
        self.drawn = []

    async def draw(self, charts, *, dark=False):
        self.drawn.append((charts, dark))
        return PNG

    async def close(self):
        """Has nothing to close."""


def swifter(monkeypatch):
    """Let seconds be hundredths, and plant what must show up nowhere."""
    for module, name, value in (
        (slack, "_AGAIN_S", 0.05), (_slack_door, "POST_EVERY_S", 0.01), (_slack_threads, "POST_EVERY_S", 0.01),
        (_slack_threads, "FIRST_EDIT_S", 0.02), (_slack_threads, "NEXT_EDIT_S", 0.04),
        (_slack_socket, "PING_S", 0.2), (_slack_socket, "DOUBT_S", 0.2),
        (_slack_socket, "LOOK_AGAIN_S", 0.4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("SLACK_BOT_TOKEN", BOT)
    monkeypatch.setenv("SLACK_APP_TOKEN", APP)
    monkeypatch.setenv("SLACK_SIGNING_SECRET", SECRET)


class Proxy:
    """Slack's requests to `public_url`, through a proxy with TLS, to the daemon's application."""

    def __init__(self, talk):
        self.posted = 0
        self.side = talk.side
        story = talk.story
        telemetry = Telemetry(story.now)
        self.app = make_app(
            ways(story.desk), Views(dict, dict, lambda _: ""), story.tokens, Events(), telemetry,
            receivers={"slack": talk.slack.routes()}, public_url=PUBLIC,
        )  # fmt: skip

    async def _served(self, scope, receive, send):
        await self.app({**scope, "state": {}}, receive, send)

    async def post(self, body, headers, media="application/x-www-form-urlencoded"):
        transport = httpx.ASGITransport(self._served)
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC) as client:
            more = {"content-type": media, "x-forwarded-for": "54.1.2.3", **headers}
            return await client.post("/ingest/slack", content=body, headers=more)

    async def deliver(self, kind, payload, *, headers=None):
        """Send what Socket Mode would carry, signed; returns whether it was taken."""
        media = "application/json" if kind == "events_api" else "application/x-www-form-urlencoded"
        body = json.dumps(payload).encode() if kind == "events_api" else form(payload)
        self.posted += 1
        stamped = signed(
            body, ts=time.time() + 1 + self.posted % 60
        )  # what comes again is signed anew
        said = await self.post(body, headers or stamped, media)
        if said.content:
            assert said.headers["content-type"].startswith("application/json")
            self.side.answered.append(said.json())
        return said.status_code == 200


class Talk:
    """The agent's side."""

    def __init__(self, state, side: SlackSide, *, drawing=None, **own):
        self.story = Story(state, float(int(time.time())))
        self.side = side
        config = {
            "channel": CHANNEL,
            "api_url": f"{side.url}/api/",
            "people": PEOPLE,
            "timeout": 10.0,
            **own,
        }
        self.slack = Slack("slack", Slack.Config(**config))
        self.drawing = drawing or Drawing()
        self.bugs = []
        self.meant = lambda note: ("", note.ts)
        self.chats = Chats(
            lambda: {"slack": self.slack}, self.story.desk, self.story.hooks.record, self.drawing,
            bug=lambda where, error: self.bugs.append((where, error)),
            meant=lambda _, note: self.meant(note),
        )  # fmt: skip
        self.story.hooks.wrote.append(self.chats.wrote)

    @property
    def memory(self):
        return self.story.hooks.memory

    def change(self, id_, **what):
        """Write an incident that has changed."""
        i = replace(self.memory.incidents[id_], **what)
        self.story.hooks.record("incident", id_, pack(i), self.story.hooks.now())

    def turn(self, id_, event, by="homeostat", why="all well"):
        i = turned(self.memory.incidents[id_], event, self.story.hooks.now(), by, why)
        if event == "resolved":
            i = replace(i, resolved=self.story.hooks.now())
        self.story.hooks.record("incident", id_, pack(i), self.story.hooks.now())

    def run(self, id_=RUN, **what):
        run = replace(self.memory.runs[id_], updated=self.story.hooks.now(), **what)
        self.story.hooks.record("run", id_, pack(run), self.story.hooks.now())

    def entries(self, kind):
        return list(self.story.hooks.journal.read((kind,)))

    def presses(self):
        return [(e.body["what"], e.body["by"], e.body["came"]) for e in self.entries("press")]

    async def close(self):
        await self.chats.close()
        await self.slack.close()
        self.story.close()
        assert not self.bugs


@contextlib.asynccontextmanager
async def talking(state, side: SlackSide, *, drawing=None, **own):
    """Start it, and wait until it is there."""
    talk = Talk(state, side, drawing=drawing, **own)
    talk.chats.turn()
    try:
        yield talk
    finally:
        await talk.close()


async def until(holds, what=None, timeout_s=25.0):
    """Wait until something holds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110  # what it waits for has no event
                await asyncio.sleep(0.01)
    assert holds(), what and what()


# ---- a person in Slack


@contextlib.asynccontextmanager
async def acting(tmp_path, mode, **own):
    """An agent with the message of an incident whose run asks for a yes; presses come by the one way or the other."""
    async with SlackSide().serving() as side, talking(tmp_path, side, mode=mode, **own) as talk:
        if mode == "http":
            side.deliver = Proxy(talk).deliver
        else:
            await until(lambda: side.sockets)
        side.journalled = talk.presses
        await until(lambda: message(side) and "image" in json.dumps(message(side)["blocks"]))
        yield side, talk


def message(side, incident=NOISY):
    return next(
        (m for m in side.parents if m["metadata"]["event_payload"]["key"] == incident), None
    )


def whole(said):
    return said["text"] + json.dumps(said["blocks"], ensure_ascii=False)


async def told(side, user):
    """Wait until somebody has been told something that nobody else sees; returns it."""
    await until(lambda: any(who == user for who, _ in side.said), lambda: side.said)
    said = [m for who, m in side.said if who == user]
    side.said.clear()
    return whole(said[-1])
