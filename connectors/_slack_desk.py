"""What people press and write in Slack, carried to the desk under their own name.

    payload -> who is it (people: of agent.yaml) -> the desk, which checks the role -> an answer, the journal

Nothing here decides who may do what: the desk does. What is pressed twice, or comes twice, is done once. A button tells
what it was about; when that is over, or another plan by now, the desk says so and nothing happens. What was asked for
and what came of it is journalled, refusals too.
"""

from __future__ import annotations

import difflib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog

from agent.authority import Forbidden, Person, Verb
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.meant import NotThere
from agent.model import entity
from connectors import _slack_blocks as blocks
from connectors._slack_answers import Answer, Answers
from connectors._slack_deeds import CHANGES, FOR_SOME, Deeds
from connectors._slack_door import Door, Unfit
from connectors._slack_words import Line, read, zone

if TYPE_CHECKING:
    from agent.chat import Room
    from connectors._slack_threads import Threads
    from connectors.slack import Slack

log = structlog.get_logger()

_KNOWN_S: Final = 600.0
_MOST_KNOWN: Final = 500
_MOST_SEEN: Final = 2000
_FORMS: Final[Mapping[str, Verb]] = {
    "snooze": "ack", "silence": "silence", "cause": "label", "page": "page", "undo": "undo", "deny": "deny",
    "answer": "approve",
}  # fmt: skip
"""Buttons behind which a form opens, and what one must be allowed to do for it to open."""
_TOO_LATE: Final = frozenset({"expired_trigger_id", "exchanged_trigger_id", "invalid_trigger_id"})
"""What Slack says when a press is too long ago to open a form, or has opened one."""


@dataclass(frozen=True, slots=True)
class Known:
    """What we know of somebody in Slack. person: None = nobody who may do anything here."""

    user: str
    name: str
    person: Person | None
    tz: str = ""


@dataclass(frozen=True, slots=True)
class Where:
    """Where an answer goes.

    url      that Slack gave for it, "" = none
    thread   the message beneath which somebody spoke
    """

    channel: str
    user: str
    url: str = ""
    thread: str = ""


class Clerk:
    """Takes what comes from Slack.

    shared   tells whether another agent holds the same app
    team     id of the workspace that we are in
    since    when we came, by Slack's clock: what was written before may have been done by who was here before us
    """

    def __init__(
        self,
        config: Slack.Config,
        door: Door,
        room: Room,
        threads: Threads,
        *,
        shared: Callable[[], bool],
        team: str,
        since: float,
    ) -> None:
        self._config = config
        self._door = door
        self._room = room
        self._threads = threads
        self._shared = shared
        self._team = team
        self._answers = Answers(room.desk, pictures=config.charts != "none")
        self._deeds = Deeds(room.desk, self._answers)
        self._known: OrderedDict[str, tuple[float, Known]] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._since = since
        self._hosts = {urlsplit(config.api_url).hostname, "hooks.slack.com", "hooks.slack-gov.com"}

    async def take(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Do what came; `kind` as Socket Mode names it. Raises nothing that is expected."""
        key, work = self._work(kind, payload)
        if work is None or not self._new(key):
            return
        try:
            await work(payload)
        except AgentError as error:  # an answer that could not be given; what was done is done
            log.warning("slack_answer_lost", error=str(error))

    def _work(
        self, kind: str, payload: Mapping[str, Any]
    ) -> tuple[str, Callable[[Mapping[str, Any]], Awaitable[None]] | None]:
        """Return what makes a payload the same when it comes again, and what to do with it."""
        form = str(payload.get("type", ""))
        if kind == "slash_commands":
            return f"command {payload.get('trigger_id')}", self._command
        if kind == "interactive" and form == "block_actions":
            return f"press {payload.get('trigger_id')}", self._press
        if kind == "interactive" and form == "view_submission":
            view = payload.get("view") or {}
            # the same form again after it was refused at once is new: that one never came here
            return f"form {view.get('id')} {view.get('hash')}", self._submit
        event = payload.get("event") or {}
        if kind == "events_api" and event.get("type") == "app_mention":
            # an edit comes as an event of its own, with the same ts
            edited = (event.get("edited") or {}).get("ts", "")
            return f"mention {event.get('channel')} {event.get('ts')} {edited}", self._mention
        return "", None

    def unfit(self, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return what Slack is answered at once where lines of a form do not fit; {} = take it. Asks nobody.

        Who may not answer, or comes too late, is told so as at every press: here only what can be mended is said. Of
        somebody whom we have not looked up yet nothing is said either: what does not fit is refused then.
        """
        if kind != "interactive" or payload.get("type") != "view_submission":
            return {}
        view = payload.get("view") or {}
        about = _about(view.get("private_metadata"))
        known = self._known.get(str((payload.get("user") or {}).get("id", "")))
        person = known[1].person if known is not None else None
        if about.get("a") != "answer" or person is None or self._shared():
            return {}
        desk, of = self._room.desk, about.get("q", "")
        try:
            question = desk.question(person, of)
            wrong = desk.unfit(person, of, blocks.answered(question, view))
        except AgentError:
            return {}
        if wrong and self._new(f"unfit {payload.get('trigger_id')}"):
            self._room.pressed(person, "answer", of, f"refused: {'; '.join(wrong.values())}")
        return blocks.unfit(wrong) if wrong else {}

    def _new(self, key: str) -> bool:
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return True

    # ---- who

    async def who(self, user: str, team: str) -> Known:
        """Return who it is, by `people:` of agent.yaml: by user id, else by the e-mail that Slack has of them."""
        found = self._known.get(user)
        if found is not None and time.monotonic() - found[0] < _KNOWN_S:
            return found[1]
        profile: Mapping[str, Any] = {}
        try:
            profile = (await self._door.ask("users_info", user=user)).get("user") or {}
        except (Unavailable, Uncertain, Refused) as no:
            log.info("slack_user_not_looked_up", user=user, error=str(no))
        email = str((profile.get("profile") or {}).get("email") or "").lower()
        members = {who.lower(): member for who, member in self._config.people.items()}
        member = members.get(user.lower()) or (members.get(email) if email else None)
        # somebody of another workspace, in a shared channel, has a user id and an e-mail of theirs
        of = {team, str(profile.get("team_id") or "")} - {""}
        stranger = bool(self._team and of - {self._team}) or bool(profile.get("is_stranger"))
        person = None
        if not stranger and not profile.get("deleted"):
            if member is not None:
                person = Person(member.name or user, member.role, "slack")
            elif self._config.others == "viewer":
                person = Person(str(profile.get("name") or user), "viewer", "slack")
        known = Known(user, str(profile.get("name") or user), person, str(profile.get("tz") or ""))
        if profile or member is not None:  # what could not be looked up is looked up again
            self._known[user] = time.monotonic(), known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return known

    def _must_know(self, known: Known) -> Person:
        if known.person is None:
            raise Forbidden(
                f"you are not known here; ask an admin to write `{known.user}: {{name: {known.name}, role: operator}}` "
                f"under `people:` of {self._room.name} in agent.yaml"
            )
        return known.person

    def _must_be_alone(self) -> None:
        if self._shared():
            raise Refused(
                "another agent holds the same Slack app, and presses go to either at random, so nothing is done from "
                "here; give each agent an app of its own, or all but one `owner: false`"
            )

    # ---- what came

    async def _press(self, payload: Mapping[str, Any]) -> None:
        action = (payload.get("actions") or [{}])[0]
        if not str(action.get("action_id", "")).startswith("homeostat:"):
            return
        about = _about(action.get("value"))
        what = about.get("a", "")
        user, channel = payload.get("user") or {}, payload.get("channel") or {}
        where = Where(str(channel.get("id", "")), str(user.get("id", "")))
        known = await self.who(where.user, str(user.get("team_id", "")))

        async def do() -> Answer:
            person = self._must_know(known)
            self._must_be_alone()
            if what in _FORMS:
                return await self._open(
                    what, about, person, where, str(payload.get("trigger_id", ""))
                )
            return await self._deeds.pressed(what, about, person)

        await self._carried(what, about, known, where, do)

    async def _open(
        self, what: str, about: Mapping[str, str], person: Person, where: Where, trigger: str
    ) -> Answer:
        """Open the form behind a button, for those who may do what it is for."""
        person.must(_FORMS[what])
        desk, carried = self._room.desk, {**about, "c": where.channel}
        if what == "answer":
            question = desk.question(person, about.get("q", ""))
            target, run = desk.name(entity(question["target"])), self._run_of(question["run"])
            view = blocks.question_form(question, carried, target=target, run=run)
        else:
            detail = desk.incident(about.get("i", ""))
            if what == "deny":
                desk.asking(about.get("r", ""), person, about.get("h", ""))
            view = blocks.form(what, detail, carried)
        try:
            await self._door.ask("views_open", trigger_id=trigger, view=view)
        except Unfit as no:
            if no.code not in _TOO_LATE:
                raise
            raise Refused(
                "Slack opens a form only within three seconds of a press, and it took longer; press again"
            ) from None
        return Answer("")

    def _run_of(self, id_: str) -> str:
        try:
            return self._room.desk.run(id_)["title"] if id_ else ""
        except AgentError:
            return ""  # so long ago that it is not known any more

    async def _submit(self, payload: Mapping[str, Any]) -> None:
        view = payload.get("view") or {}
        if not str(view.get("callback_id", "")).startswith("homeostat:"):
            return
        about = _about(view.get("private_metadata"))
        what, user = about.get("a", ""), payload.get("user") or {}
        where = Where(about.get("c", ""), str(user.get("id", "")))
        known = await self.who(where.user, str(user.get("team_id", "")))
        said = blocks.filled(view)

        async def do() -> Answer:
            person = self._must_know(known)
            self._must_be_alone()
            if what == "answer":
                question = self._room.desk.question(person, about.get("q", ""))
                return self._deeds.answered(about, person, blocks.answered(question, view))
            return await self._deeds.pressed(what, about, person, said, tz=known.tz)

        await self._carried(what, about, known, where, do)

    async def _carried(
        self,
        what: str,
        about: Mapping[str, str],
        known: Known,
        where: Where,
        do: Callable[[], Awaitable[Answer]],
    ) -> None:
        """Do it, journal who asked for what and what came of it, and tell them."""
        of = about.get("r") or about.get("q") or about.get("i") or about.get("t", "")
        try:
            answer = await do()
            came = "done" if answer.text else "a form was opened"
        except NotThere as no:
            answer = Answer(
                f"This button is out of date, or belongs to another homeostat: {_spoken(no)}"
            )
            came = f"refused: {no}"
        except AgentError as no:
            answer, came = Answer(_spoken(no)), f"refused: {no}"
        self._room.pressed(known.person or f"{known.user} (not known, slack)", what, of, came)
        if about.get("i"):
            self._room.touch(about["i"])
        if answer.text:
            await self._say(answer, where)
        if answer.changed:
            await self._threads.sync(answer.changed, now=True)

    async def _command(self, payload: Mapping[str, Any]) -> None:
        where = Where(
            str(payload.get("channel_id", "")), str(payload.get("user_id", "")), str(payload.get("response_url", ""))
        )  # fmt: skip
        await self._asked(str(payload.get("text", "")), where, str(payload.get("team_id", "")))

    async def _mention(self, payload: Mapping[str, Any]) -> None:
        event = payload.get("event") or {}
        text = str(event.get("text", ""))
        _, found, rest = text.partition(">")
        where = Where(
            str(event.get("channel", "")), str(event.get("user", "")), thread=str(event.get("thread_ts", ""))
        )  # fmt: skip
        team = str(event.get("user_team") or event.get("team") or payload.get("team_id", ""))
        late = ""
        if event.get("edited"):
            late = "was edited, and may have been done as it was"
        elif _seconds(event.get("ts")) < self._since:
            late = "was written before I was here, and may have been done already"
        await self._asked(rest if found else text, where, team, late=late)

    async def _asked(self, text: str, where: Where, team: str, *, late: str = "") -> None:
        """Answer a line that somebody wrote. late: why nothing that changes something is taken from it."""
        known = await self.who(where.user, team)
        line = Line("?")
        try:
            person = self._must_know(known)
            line = read(text, time.time(), zone(known.tz))
            if line.verb in CHANGES:
                self._must_be_alone()
                if late:
                    raise Refused(f"this message {late}; write a new one to have it done")
            answer, came = await self._answer(line, person), "done"
        except AgentError as no:
            answer, came = Answer(_spoken(no)), f"refused: {no}"
        if line.verb in CHANGES or known.person is None:
            who = known.person or f"{known.user} (not known, slack)"
            first = (text.split() or ["?"])[0]
            self._room.pressed(who, first[:40], " ".join(line.words)[:100], came)
        await self._say(answer, where, share=line.share and known.person is not None)
        if answer.changed:
            await self._threads.sync(answer.changed, now=True)

    async def _answer(self, line: Line, person: Person) -> Answer:
        person.must("see")
        if line.verb in FOR_SOME:
            return await self._deeds.told(line, person)
        found = self._answers.to(line)
        if found is None:
            known = [*self._answers.verbs(), *FOR_SOME]
            near = difflib.get_close_matches(line.verb, known, n=2, cutoff=0.6)
            meant = f"did you mean `{'` or `'.join(near)}`?" if near else "write `help`"
            raise Refused(f"`{blocks.cut(line.verb, 40)}` is no word of mine; {meant}")
        return found

    # ---- answering

    async def _say(self, answer: Answer, where: Where, *, share: bool = False) -> None:
        """Say it to who asked alone, or to all where it was asked."""
        made = answer.made or blocks.text(blocks.escaped(answer.text))
        said: dict[str, Any] = {
            "text": blocks.escaped(blocks.cut(answer.text, 300)),
            "blocks": made,
        }
        if where.url and urlsplit(where.url).hostname in self._hosts:
            kind = "in_channel" if share else "ephemeral"
            await self._door.send(
                where.url, "response_url", response_type=kind, replace_original=False, **said
            )
        elif share:
            thread = where.thread or None
            await self._door.ask(
                "chat_postMessage", channel=where.channel, thread_ts=thread, **said
            )
        else:
            try:
                await self._door.ask(
                    "chat_postEphemeral", channel=where.channel, user=where.user, thread_ts=where.thread or None, **said
                )  # fmt: skip
            except (Refused, Unavailable):  # a channel that we are not in: to them directly
                await self._door.ask("chat_postMessage", channel=where.user, **said)
        if answer.charts:
            await self._show(answer, where, share=share)

    async def _show(self, answer: Answer, where: Where, *, share: bool) -> None:
        """Draw charts where all may see them, else send them to who asked: no picture is for one pair of eyes."""
        try:
            png = await self._room.picture(answer.charts, dark=self._config.charts == "dark")
        except AgentError as no:
            log.info("slack_picture_left_out", error=str(no))
            return
        channel = where.channel
        if not share:
            opened = await self._door.ask("conversations_open", users=[where.user])
            channel = str((opened.get("channel") or {}).get("id", ""))
        thread = where.thread if share else ""
        await self._door.ask(
            "files_upload_v2", channel=channel, content=png, filename="graph.png", thread_ts=thread or None,
            title=blocks.cut(answer.text.split("\n")[0], 150), alt_txt=blocks.cut(answer.text, 900),
        )  # fmt: skip


def _spoken(no: Exception) -> str:
    """Return an error as one says it in Slack, where there is no command line."""
    said = str(no).replace(
        "; ask an admin for: homeostat token add NAME --role", "; the role needed is"
    )
    said = said.replace("homeostat ", "/homeostat ") if "; " in said else said
    return said[:1].upper() + said[1:]


def _seconds(ts: Any) -> float:
    """Return when a message was written, by its id; 0 = it does not tell."""
    try:
        return float(ts)
    except (TypeError, ValueError):
        return 0.0


def _about(text: Any) -> dict[str, str]:
    """Return what a button or a form carries; what is none of ours is nothing."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
