"""What can be done from Slack: buttons, forms and commands that change something, each by the desk and for a person."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from agent.errors import Refused
from agent.units import say_duration
from connectors import _slack_blocks as blocks
from connectors._slack_answers import Answer, Answers
from connectors._slack_words import Line, moment, zone

if TYPE_CHECKING:
    from agent.authority import Person
    from agent.desk import Desk

CHANGES: Final = frozenset({
    "ack", "answer", "approve", "deny", "run", "undo", "silence", "unsilence", "mute", "mode", "page", "noise", "real",
    "pause", "resume",
})  # fmt: skip
"""Commands that change something."""
FOR_SOME: Final = CHANGES | {"dry-run"}
"""Commands that ask for a role, and are done here."""
_OF_RUNS: Final = frozenset({"approve", "deny", "stop", "undo", "start"})


class Deeds:
    """Does what a person asks for, as far as the desk lets them."""

    def __init__(self, desk: Desk, answers: Answers) -> None:
        self._desk = desk
        self._answers = answers

    async def pressed(
        self,
        what: str,
        about: Mapping[str, str],
        person: Person,
        said: Mapping[str, str] | None = None,
        *,
        tz: str = "",
    ) -> Answer:
        """Do what a button or a form is for; raises what the desk raises.

        about   what the button carried: i(ncident), r(un), h(ash), p(laybook), t(arget)
        said    what was written into the form
        """
        given = said or {}
        if what == "dry-run":
            return await self._tried(about, person)
        if what in _OF_RUNS:
            return await self._of_run(what, about, person, given.get("reason", ""))
        return self._of_incident(what, about.get("i", ""), person, given, tz)

    def answered(
        self, about: Mapping[str, str], person: Person, values: Mapping[str, str]
    ) -> Answer:
        """Answer what a run asks; raises what the desk raises."""
        asked = self._desk.answer(person, about.get("q", ""), values)
        said = ", ".join(f"{name} {value}" for name, value in values.items())
        return Answer(
            f"Answered {asked['id']}: {said or 'as it was proposed'}.", changed=about.get("i", "")
        )

    async def _of_run(
        self, what: str, about: Mapping[str, str], person: Person, reason: str
    ) -> Answer:
        desk, i, r, seen = self._desk, about.get("i", ""), about.get("r", ""), about.get("h", "")
        if what == "approve":
            run = await desk.approve(r, person, seen)
            return Answer(f"Approved: {run['title']} on {run['target']['name']}.", changed=i)
        if what == "deny":
            run = await desk.deny(r, person, reason, seen)
            return Answer(f"Denied: {run['title']}. Nothing is done.", changed=i)
        if what == "stop":
            return await self._stopped(r, i, person, reason)
        if what == "undo":
            run = await desk.undo(person, r, reason)
            return Answer(f"Putting back what {r} did ({run['id']}).", changed=i)
        run = await desk.start(person, about.get("p", ""), about.get("t", ""), seen, reason)
        said = f"Started: {run['title']} on {run['target']['name']} ({run['id']})."
        return Answer(said, changed=run["incident"])

    async def _tried(self, about: Mapping[str, str], person: Person) -> Answer:
        """Ask each step of a plan what it would do: that of a run which asks, or of a playbook on a target."""
        desk, r = self._desk, about.get("r", "")
        if r:
            told = await desk.dry_run_of(person, r, about.get("h", ""))
            run = desk.run(r)
            title = f"{run['title']}, on {run['target']['name']}"
        else:
            p, t = about.get("p", ""), about.get("t", "")
            told = await desk.dry_run(person, p, t)
            plan = desk.plan(p, t)
            title = f"{plan['title']}, on {plan['target']['name']}"
        return Answer(f"Dry run: {title}", blocks.would(title, told))

    async def _stopped(self, r: str, i: str, person: Person, reason: str) -> Answer:
        """Stop a run that is at work."""
        person.must("deny")
        run = self._desk.run(r)
        if run["asks"] or not run["live"]:
            raise Refused(f"there is nothing to stop: run {r} is {run['state']} by now")
        await self._desk.deny(r, person, reason)
        return Answer(f"Stopping {r}: it puts back what it did.", changed=i)

    def _of_incident(
        self, what: str, i: str, person: Person, given: Mapping[str, str], tz: str
    ) -> Answer:
        desk, reason = self._desk, given.get("reason", "")
        match what:
            case "ack":
                desk.acknowledge(person, i, reason)
                return Answer("You have it.", changed=i)
            case "noise" | "real":
                label = desk.label(person, i, "noise" if what == "noise" else "real", reason)
                return Answer(f"Noted as {what}: {label['text']}.", changed=i)
            case "cause":
                label = desk.blame(person, i, given.get("right") or None, reason)
                return Answer(f"Noted that it is not the cause: {label['text']}.", changed=i)
            case "page":
                desk.page(person, i, reason)
                return Answer("Somebody is called.", changed=i)
            case "snooze":
                now = time.time()
                until = moment(given.get("lasts") or "1h", now, zone(tz), ahead=True)
                desk.snooze(person, i, until - now, reason)
                said = f"Put off until {blocks.moment(until)}, unless it gets worse."
                return Answer("Put off.", blocks.text(said), changed=i)
            case "silence":
                made = desk.silence(
                    person, given.get("target", ""), given.get("lasts", ""), reason=reason
                )
                said = f"Silence {made['id']} over {made['target']}: nobody is told, nothing is touched."
                return Answer(said, changed=i)
        raise Refused(f"this button ({what or 'none'}) is of another version of homeostat")

    # ---- commands

    async def told(self, line: Line, person: Person) -> Answer:
        """Do what a command says; raises what the desk raises."""
        first, rest = line.words[0] if line.words else "", " ".join(line.words[1:])
        why = " ".join(x for x in (rest, line.reason) if x).removeprefix("because ")
        answers = self._answers
        match line.verb:
            case "approve" | "deny" | "undo":
                run = (
                    answers.run_meant(first) if line.verb != "undo" else _needed(first, "undo RUN")
                )
                found = self._desk.run(run)
                about = {"r": run, "i": found["incident"]}
                stops = line.verb == "deny" and found["live"] and not found["asks"]
                verb = "stop" if stops else line.verb
                return await self.pressed(verb, about, person, {"reason": why})
            case "ack" | "page" | "noise" | "real":
                about = {"i": answers.incident_meant(first)}
                return await self.pressed(line.verb, about, person, {"reason": why})
            case "dry-run":
                if not rest:
                    return await self._tried({"r": answers.run_meant(first)}, person)
                about = {"p": " ".join(line.words[:-1]), "t": line.words[-1]}
                return await self._tried(about, person)
            case "run":
                _needed(rest, "run PLAYBOOK TARGET")
                person.must("run")
                plan = self._desk.plan(" ".join(line.words[:-1]), line.words[-1])
                return Answer(f"The plan of {plan['playbook']}", blocks.plan(plan))
            case "answer":
                said = " ".join(line.words[1:]).replace(" = ", "=") if "=" in line.words else ""
                pairs = [word.partition("=") for word in said.split() or line.words[1:]]
                asked = self._desk.answer(
                    person, _needed(first, "answer ID name=value"), {k: v for k, _, v in pairs}
                )
                return Answer(f"Answered {asked['id']}.")
            case "mode":
                _needed(rest, "mode PLAYBOOK observe|suggest|approve|auto")
                name = " ".join(w for w in line.words[:-1] if w.lower() not in {"to", "="})
                book = self._desk.set_mode(person, name, line.words[-1].lower(), line.reason)
                return Answer(f"{book['id']} goes as far as {book['mode']} now.")
        return self._quiet(line, first, why, person)

    def _quiet(self, line: Line, first: str, why: str, person: Person) -> Answer:
        """Do what makes it say or do less."""
        desk = self._desk
        match line.verb:
            case "mute":
                seconds = _left(line, "mute INCIDENT for 2h")
                id_ = self._answers.incident_meant(first)
                desk.snooze(person, id_, seconds, why)
                said = f"{id_} is put off for {say_duration(seconds)}, unless it gets worse."
                return Answer(said, changed=id_)
            case "silence":
                seconds = _left(line, "silence wine for 2h` or `silence wine until 18:00")
                target = _needed(first, "silence TARGET for 2h")
                made = desk.silence(person, target, f"{seconds:.0f}", reason=why)
                return Answer(
                    f"Silence {made['id']} over {made['target']} for {say_duration(seconds)}."
                )
            case "unsilence":
                ended = desk.unsilence(person, _needed(first, "unsilence ID"))
                return Answer(f"The silence over {ended['target']} has ended.")
        left = (
            desk.pause(person, first, why) if line.verb == "pause" else desk.resume(person, first)
        )
        keys = ", ".join("everything" if p["key"] == "*" else p["key"] for p in left)
        return Answer(f"Paused: {keys}." if keys else "Nothing is paused.")


def _needed(word: str, how: str) -> str:
    if not word:
        raise Refused(f"something is missing; write it like `{how}`")
    return word


def _left(line: Line, how: str) -> float:
    """Return for how long; raises Refused when it was not said."""
    if line.until is None:
        raise Refused(f"for how long? write it like `{how}`")
    return max(line.until - time.time(), 1.0)
