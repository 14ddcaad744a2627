"""Incidents in Slack: one thread each, with the evidence, and buttons for those who may.

    slack:
      channel: C0123456789                            # its id: at the end of the channel's details
      people:
        U0123456789: {name: olga, role: operator}     # user id, or the e-mail that Slack knows
        omar@example.org: {name: omar, role: author}

    SLACK_BOT_TOKEN (xoxb-...) and SLACK_APP_TOKEN (xapp-...) in the environment of the daemon

`homeostat slack manifest` prints what to paste into Slack to make the app, `homeostat slack test` tries each step and
says what to mend: docs/slack.md, ten minutes. Socket Mode needs no address of ours; `mode: http` has Slack come to
`/ingest/slack` under `public_url`, each request signed; `mode: webhook` only posts, without threads and buttons.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs

import structlog
from pydantic import AfterValidator, Field, model_validator

from agent.authority import Role
from agent.errors import AgentError, Refused, Unavailable
from agent.imports import lacking
from agent.news import Event
from agent.ports import Note, Route, Said
from agent.registry import connector
from agent.secret import Reference, secret
from agent.units import Model, say_duration
from connectors._notes import MEND_S, Routed, Wanted
from connectors.http import checked_url

if TYPE_CHECKING:
    from agent.chat import Room
    from connectors._slack_desk import Clerk
    from connectors._slack_door import Door
    from connectors._slack_socket import Socket
    from connectors._slack_threads import Threads

log = structlog.get_logger()

_OLDEST_S: Final = 300.0
_SKEWED_S: Final = 60.0
_MOST_SIGNATURES: Final = 5000
_MOST_BYTES: Final = 1 << 20
_MOST_AT_WORK: Final = 100
_SAY_EVERY_S: Final = 60.0
_AT_ONCE: Final = 8
_AGAIN_S: Final = 5.0
_REPLIES: Final[list[Event]] = [
    "acknowledged", "mitigated", "relapsed", "resolved", "merged", "reopened", "acting", "acted",
]  # fmt: skip


class Member(Model):
    """Somebody who may do something from Slack."""

    name: Annotated[str, Field(max_length=100)] = ""
    """How the journal calls them; empty = their user id."""
    role: Role = "viewer"


@connector("slack")
class Slack(Routed):
    """Incidents in Slack: one thread each, edited as it goes on, with buttons and commands for those who may.

    Notifier  what people must know, beneath the message of its incident; tried again for six hours, told once
    Chat      messages, buttons, `/homeostat`, mentions; every press is journalled with the person
    Receiver  `mode: http`: requests of Slack, signature checked, none taken twice
    Not for two agents on one app: presses would go to either at random. It is seen and said, and nothing is done then.
    Known only from its documentation and its client: `stand_in`. Cost: one message an incident, an edit every 10 s at
    most; slack_sdk and aiohttp take 12 MB to import.
    """

    tested = "stand-in of Web API, Socket Mode and HTTP, by slack-sdk"
    stand_in = True

    class Config(Wanted):
        """Which workspace and channel, and who may do what."""

        mode: Literal["socket", "http", "webhook"] = "socket"
        """How Slack reaches us: by a socket that we open, by requests to `public_url`, or not at all."""
        channel: Annotated[str, Field(pattern=r"^([CGD][A-Z0-9]{5,20})?$")] = ""
        """Id of the channel for incidents; a webhook has its own."""
        bot_token: Reference = "env:SLACK_BOT_TOKEN"  # noqa: S105  # where it is, not what
        app_token: Reference = "env:SLACK_APP_TOKEN"  # noqa: S105
        """Of the app, for `mode: socket`; it begins with xapp-."""
        signing_secret: Reference = "env:SLACK_SIGNING_SECRET"  # noqa: S105
        """For `mode: http`."""
        webhook: Reference = "env:SLACK_WEBHOOK_URL"
        """The whole URL, for `mode: webhook`."""
        people: dict[Annotated[str, Field(min_length=3, max_length=254)], Member] = {}
        """User id or e-mail -> name and role."""
        others: Literal["nobody", "viewer"] = "nobody"
        """Who those are that `people` does not name; those of other workspaces are nobody always."""
        owner: bool = True
        """False: another agent holds the app's socket; this one posts, and leaves buttons to the other."""
        severities: list[Literal["page", "warning", "note"]] = ["page", "warning"]
        events: list[Event] = _REPLIES
        """What is told beneath the message of an incident."""
        charts: Literal["light", "dark", "none"] = "light"
        """How pictures of the evidence look; they need the extra `charts`."""
        threads_per_hour: Annotated[int, Field(ge=1, le=1000)] = 20
        """Beyond so many, incidents that page nobody share one message."""
        command: Annotated[str, Field(pattern=r"^/[a-z0-9_-]{1,31}$")] = "/homeostat"
        """The command in Slack; with several agents, each app has one of its own."""
        api_url: Annotated[str, AfterValidator(checked_url)] = "https://slack.com/api/"
        """Where the Web API is; https://slack-gov.com/api/ for GovSlack."""

        @model_validator(mode="after")
        def _sound(self) -> Self:
            if self.mode != "webhook" and not self.channel:
                raise ValueError("`channel` is missing: the id of a channel, such as C0123456789")
            return self

        @property
        def acts(self) -> bool:
            """Whether there are buttons."""
            return self.mode != "webhook" and self.owner

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config: Slack.Config = config
        self._made: Door | None = None
        self._room: Room | None = None
        self._threads: Threads | None = None
        self._clerk: Clerk | None = None
        self._socket: Socket | None = None
        self._said = ""
        self._told: OrderedDict[str, None] = OrderedDict()
        self._signatures: OrderedDict[str, float] = OrderedDict()
        self._since = time.time()  # by Slack's clock, once it has told it
        self._newest = 0.0
        self._met = False
        self._forged = 0
        self._forged_told = -_SAY_EVERY_S
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def _door(self) -> Door:
        if self._made is None:
            try:
                from connectors._slack_door import Door
            except ImportError:
                raise Refused(lacking("slack needs slack-sdk", "slack")) from None
            c = self.config
            self._made = Door(self.name, c.api_url, c.bot_token, c.timeout)
        return self._made

    # ---- Notifier

    def wants(self, note: Note) -> bool:
        """Want messages of these severities, and what is told of an incident that has a thread, or is to have one."""
        if note.event and note.event not in self.config.events:
            return False
        if note.incident and self._threads is not None and self._threads.follows(note.incident):
            return True
        return super().wants(note)

    async def notify(self, note: Note) -> None:
        """Tell a note, once a key; see `_slack_threads`."""
        if self.config.mode == "webhook":
            await self._hook(note)
        elif self._threads is not None:
            await self._threads.reply(note)
        elif self._room is not None:  # it would stand beside its thread
            raise Unavailable(
                f"{self.name} does not talk to Slack yet; see /health", wait_s=_AGAIN_S
            )
        else:
            await self._alone(note)

    async def _hook(self, note: Note) -> None:
        """Post to the webhook; the same key is posted once by one process."""
        if note.key in self._told:
            return
        from connectors import _slack_blocks as blocks

        try:
            url = secret(self.config.webhook)
        except Refused as missing:
            raise Unavailable(f"{self.name}: {missing}", wait_s=MEND_S) from None
        await self._door.send(url, "webhook", **blocks.note(note, alone=True))
        self._remember(note.key)

    async def _alone(self, note: Note) -> None:
        """Post without a daemon around: for a test, or before it talks."""
        if note.key in self._told:
            return
        from connectors import _slack_blocks as blocks

        await self._door.ask(
            "chat_postMessage", channel=self.config.channel, metadata=blocks.metadata(note.key),
            unfurl_links=False, **blocks.note(note, alone=True),
        )  # fmt: skip
        self._remember(note.key)

    def _remember(self, key: str) -> None:
        self._told[key] = None
        if len(self._told) > _MOST_SIGNATURES:
            self._told.popitem(last=False)

    # ---- Chat

    async def talk(self, room: Room) -> None:
        """Keep the messages of incidents up to date, and take presses and commands, until cancelled."""
        if self.config.mode == "webhook":
            room.well = True
            await asyncio.Event().wait()
        from connectors._slack_desk import Clerk
        from connectors._slack_threads import Threads

        self._room, door = room, self._door
        who = await door.ask("auth_test")
        since = time.time() if door.theirs is None else door.theirs
        if not self._met:
            self._met, self._since = True, since
        self._threads = Threads(self.config, door, room, room.desk.hooks.config.public_url)
        self._clerk = Clerk(
            self.config, door, room, self._threads, shared=self._shared, team=str(who.get("team_id", "")), since=since
        )  # fmt: skip
        work: list[Coroutine[Any, Any, None]] = [self._watch(room, self._threads)]
        if self.config.mode == "socket" and self.config.owner:
            from connectors._slack_socket import Socket

            def well() -> None:
                room.well = True

            self._socket = Socket(door, self.config.app_token, self._take, well)
            work.append(self._socket.run())
        else:
            room.well = True
        tasks = [asyncio.create_task(one, name=f"{self.name} talks") for one in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clerk, self._socket = None, None
            for task in (*tasks, *self._tasks):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.close()
        for how in ended:
            if isinstance(how, Exception):
                raise how

    async def _watch(self, room: Room, threads: Threads) -> None:
        """Look at incidents that have changed, and again where a message waits for its turn."""
        loop = asyncio.get_running_loop()
        due = dict.fromkeys(threads.open(), loop.time())
        while True:
            wait = min(due.values()) - loop.time() if due else None
            for id_ in await room.touched(wait if wait is None else max(wait, 0.0)):
                due[id_] = min(due.get(id_, loop.time()), loop.time())
            ready = [id_ for id_, ts in due.items() if ts <= loop.time()][:_AT_ONCE]
            for id_ in ready:
                del due[id_]
            looks = await asyncio.gather(*(self._look(id_, threads) for id_ in ready))
            for id_, again in zip(ready, looks, strict=True):
                if again is not None:
                    due[id_] = min(due.get(id_, loop.time() + again), loop.time() + again)

    async def _look(self, id_: str, threads: Threads) -> float | None:
        """Bring one message up to date; what fails is said, and tried again."""
        try:
            again = await threads.sync(id_)
        except AgentError as error:
            if str(error) != self._said:  # once, not at each try
                log.warning("slack_message_not_current", incident=id_, error=str(error))
            self._said = str(error)
            return max(getattr(error, "wait_s", None) or 0.0, _AGAIN_S)
        except Exception:  # a border: one strange incident must not keep all others quiet
            log.exception("bug", where=f"slack message of {id_}")
            return None
        self._said = ""
        return again

    def _shared(self) -> bool:
        return self._socket is not None and self._socket.shared

    def troubles(self) -> Sequence[str]:
        """Say whether we are alone on the app, and which messages are behind."""
        out = [self._said] if self._said else []
        off = self._made.ahead_s if self._made is not None and self.config.mode == "http" else 0.0
        if abs(off) > _SKEWED_S:
            out.append(
                f"the clock of this host is {say_duration(abs(off))} {'behind' if off > 0 else 'ahead of'} Slack's; "
                f"beyond {say_duration(_OLDEST_S)} no press is taken: set it (timedatectl)"
            )
        if self._shared():
            out.append(
                "another agent holds the same Slack app, presses go to either at random: nothing is done from Slack; "
                "give each agent an app of its own, or all but one `owner: false`"
            )
        return out

    def _take(self, kind: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Work on what came, beside; whoever sent it waits three seconds at most.

        Returns what it is answered with: what of a form does not fit; {} = nothing.
        """
        clerk = self._clerk
        if clerk is None or len(self._tasks) >= _MOST_AT_WORK:
            raise Unavailable(f"{self.name} can not take this now; press it again", wait_s=_AGAIN_S)
        try:
            unfit = clerk.unfit(kind, payload)
        except Exception:  # a border, as below
            log.exception("bug", where=f"slack {kind}")
            return {}
        if unfit:
            return unfit

        async def work() -> None:
            try:
                await clerk.take(kind, payload)
            except (
                Exception
            ):  # a border: a strange payload must end neither the socket nor the daemon
                log.exception("bug", where=f"slack {kind}")

        task = asyncio.create_task(work(), name=f"slack {kind}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return {}

    # ---- Receiver

    def routes(self) -> Sequence[Route]:
        """Say the way in of `mode: http`."""
        if self.config.mode != "http":
            return ()
        path = f"/ingest/{self.name}"
        return (Route(path, self._came, _MOST_BYTES, vouch=self._vouch, always=True),)

    def _vouch(self, headers: Mapping[str, str], body: bytes) -> None:
        """Let in what Slack has signed within five minutes, once; raises Refused.

        Our clock may be wrong, and may be put back: what is too old for a second try is measured by what Slack has
        signed since. What was taken by whoever was here before us is not known, so nothing older than us is let in, by
        Slack's clock, too: what it sends again it signs anew.
        """
        try:
            from slack_sdk.signature import SignatureVerifier

            verifier = SignatureVerifier(secret(self.config.signing_secret))
        except (ImportError, Refused) as missing:
            raise Refused(f"{self.name} can not check signatures: {missing}") from None
        signature = headers.get("x-slack-signature", "")
        stamp = headers.get("x-slack-request-timestamp", "")
        try:
            made = verifier.generate_signature(timestamp=stamp, body=body) or ""
            well, ts = hmac.compare_digest(made.encode(), signature.encode()), float(int(stamp))
        except (ValueError, OverflowError):  # a timestamp that is none, bytes that are no text
            well, ts = False, 0.0
        if not well:
            raise self._turned_away("forged", "the signature is not Slack's; see signing_secret")
        off = time.time() - ts
        if abs(off) > _OLDEST_S:
            when = f"{say_duration(abs(off))} {'ago' if off > 0 else 'ahead of us'}"
            raise self._turned_away(
                "stale",
                f"this request was signed {when} by the clock of this host, which is more than five minutes: "
                "somebody sends an old one again, or the clock is wrong",
            )
        if signature in self._signatures:
            raise self._turned_away("replayed", "this request was taken already")
        if ts < self._since:
            raise self._turned_away(
                "replayed", "this request was signed before homeostat was started; send it anew"
            )
        if ts < self._newest - _OLDEST_S:
            raise self._turned_away(
                "replayed", "Slack has signed others five minutes after this request; send it anew"
            )
        self._newest = max(self._newest, ts)
        self._signatures[signature] = ts
        # forgotten is only what can not be taken any more
        while next(iter(self._signatures.values())) < self._newest - _OLDEST_S:
            self._signatures.popitem(last=False)
        while len(self._signatures) > _MOST_SIGNATURES:
            _, gone = self._signatures.popitem(last=False)
            self._since = max(self._since, gone + 1.0)

    def _turned_away(self, what: str, why: str) -> Refused:
        """Count a request that is not taken, and say so in the journal, once a minute."""
        self._forged += 1
        if self._room is not None and time.monotonic() - self._forged_told >= _SAY_EVERY_S:
            self._forged_told = time.monotonic()
            self._room.pressed(
                "somebody who claims to be Slack", f"a {what} request", "-", f"refused: {self._forged} so far"
            )  # fmt: skip
        return Refused(why)

    def _came(self, body: bytes, content_type: str) -> Said:
        """Take a request of Slack; it is answered at once, and worked on beside."""
        if content_type.partition(";")[0].strip() == "application/json":
            said = _json(body)
            if said.get("type") == "url_verification":
                return Said(str(said.get("challenge", "")).encode())
            self._take("events_api", said)
            return Said()
        form = {k: v[0] for k, v in parse_qs(body.decode("utf-8", "replace"), max_num_fields=100).items()}  # fmt: skip
        if "payload" in form:
            answer = self._take("interactive", _json(form["payload"]))
            if answer:
                return Said(json.dumps(answer).encode(), "application/json")
        elif "command" in form:
            self._take("slash_commands", form)
        elif "ssl_check" not in form:
            raise Refused("the body is nothing that Slack sends")
        return Said()

    # ---- trying

    async def describe(self) -> Sequence[str]:
        """Say where messages go, by whom; sends nothing."""
        c = self.config
        if c.mode == "webhook":
            return (
                f"would post notes of {', '.join(c.severities)} by the webhook in {c.webhook}, without buttons",
            )
        try:
            who = await self._door.ask("auth_test")
        except AgentError as error:
            return (str(error),)
        able = sum(m.role != "viewer" for m in c.people.values())
        return (
            f"would post {', '.join(c.severities)} to {c.channel} of {who.get('team')}, as {who.get('user')}",
            f"{len(c.people)} people are known, {able} of them may do something; others are {c.others}"
            + ("" if c.owner else "; another agent owns the buttons"),
        )  # fmt: skip

    async def trial(self) -> AsyncIterator[tuple[str, str]]:
        """Try each step up to the first message; yields what was tried, and what is wrong with it ("" = well)."""
        from connectors._slack_manifest import trial

        async for step in trial(
            self.config, self._door if self.config.mode != "webhook" else None, self._alone_or_hook
        ):
            yield step

    async def _alone_or_hook(self, note: Note) -> None:
        await (self._hook if self.config.mode == "webhook" else self._alone)(note)

    @staticmethod
    def manifest(config: Config, name: str, public_url: str) -> dict[str, Any]:
        """Return what makes the app in Slack; raises Refused where http has no address."""
        from connectors._slack_manifest import manifest

        return manifest(config, name, public_url)

    async def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(Exception):
            if self._made is not None:
                await self._made.close()
        self._made = None


def _json(text: str | bytes) -> dict[str, Any]:
    """Read an object; raises Refused."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Refused("the body is no JSON object")
    return said
