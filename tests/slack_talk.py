"""An agent that talks to the Slack of `slack_side`: a desk with a story, the real chats, and the connector."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

from desk_story import Story
from slack_side import CHANNEL, OLGA, VICTOR, SlackSide

from agent.chat import Chats
from agent.codec import pack
from agent.life import turned
from connectors.slack import Slack

PEOPLE = {
    OLGA: {"name": "olga", "role": "operator"},
    "Victor@Example.org": {"name": "victor", "role": "viewer"},
}
NOISY, BROKEN, RELEASED = "inc-7f3a99e0", "inc-7c00beef", "inc-1a2b3c4d"
RUN = "run-22c0ffee"
PNG = b"\x89PNG not really"
__all__ = [
    "BROKEN",
    "CHANNEL",
    "NOISY",
    "OLGA",
    "PNG",
    "RELEASED",
    "RUN",
    "VICTOR",
    "Talk",
    "talking",
    "until",
]


class Drawing:
    """Draws nothing, at once."""

    def __init__(self):
        self.drawn = []

    async def draw(self, charts, *, dark=False):
        self.drawn.append((charts, dark))
        return PNG

    async def close(self):
        """Has nothing to close."""


class Talk:
    """The agent's side."""

    def __init__(self, state, side: SlackSide, **own):
        self.story = Story(state, float(int(time.time())))
        self.side = side
        config = {
            "channel": CHANNEL,
            "api_url": f"{side.url}/api/",
            "people": PEOPLE,
            "timeout": 2.0,
            **own,
        }
        self.slack = Slack("slack", Slack.Config(**config))
        self.drawing = Drawing()
        self.bugs = []
        self.chats = Chats(
            lambda: {"slack": self.slack}, self.story.desk, self.story.hooks.record, self.drawing,
            lambda where, error: self.bugs.append((where, error)),
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
async def talking(state, side: SlackSide, **own):
    """Start it, and wait until it is there."""
    talk = Talk(state, side, **own)
    talk.chats.turn()
    try:
        yield talk
    finally:
        await talk.close()


async def until(holds, what=None, timeout_s=8.0):
    """Wait until something holds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110  # what it waits for has no event
                await asyncio.sleep(0.01)
    assert holds(), what and what()
