"""What makes a sound playbook a good one: hints for its author, none of which keeps it from being loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agent.errors import Fault
from agent.playbook.alike import hollow
from agent.playbook.language import Playbook
from agent.playbook.trial import Example
from agent.playbook.verbs import can_undo, stays, verb_of
from agent.strict import Document
from agent.units import say_duration

_SURE = 0.5
_TIMED = {"when", "guard", "do", "verify", "then"}
_TIMES = {
    "at_most", "cooldown", "for", "fresh", "hold", "per", "settle", "time", "timeout", "wait", "within",
}  # fmt: skip


def hints(playbook: Playbook, document: Document) -> Iterator[Fault]:
    """Yield what could be better, each with its place and what to write."""
    yield from _names(playbook, document)
    yield from _bare(document)
    yield from _tests(playbook, document)
    if playbook.broken:
        remedy = "mend it, or take it out of agent.yaml; elsewhere it may be fine"
        yield document.fault(("do",), f"not able here: {playbook.broken}", remedy)
    if playbook.mutating:
        yield from _acts(playbook, document)


def _bare(document: Document) -> Iterator[Fault]:
    """Yield times without a unit: they are seconds, and often minutes were meant."""
    for path, written in document.raw.items():
        timed = path[0] in _TIMED and path[-1] in _TIMES and "with" not in path
        if timed and re.fullmatch(r"[0-9.]+", written) and (value := float(written)):
            remedy = f"write {value:g}s, or the unit that you mean"
            yield document.fault(
                path, f"`{path[-1]}: {value:g}` names no unit: it is {say_duration(value)}", remedy
            )


def _names(playbook: Playbook, document: Document) -> Iterator[Fault]:
    if Path(document.place).suffix and Path(document.place).stem != playbook.id:
        yield document.fault(
            ("id",),
            f"the file is not called {playbook.id}.yaml",
            "call file and playbook alike: people look for it",
        )
    if playbook.title.endswith("."):
        yield document.fault(("title",), "a title has no full stop", "take it away")
    if playbook.title[0].islower():
        yield document.fault(
            ("title",),
            "a title begins with a capital letter",
            "write it like a command: Restart it",
        )


def _tests(playbook: Playbook, document: Document) -> Iterator[Fault]:
    fires = [_fires(test) for test in playbook.tests]
    if not fires:
        yield document.fault(
            ("id",),
            "it has no `tests:`",
            "add one that fires and one that stays silent: `homeostat playbook new` shows how",
        )
        return
    if not any(fires):
        yield document.fault(("tests",), "no test shows that it fires", "add one: `fires: true`")
    if all(fires):
        yield document.fault(
            ("tests",),
            "no test shows what it stays silent on",
            "add the look-alike that it must leave alone",
        )
    for i, test in enumerate(playbook.tests):
        if empty := hollow(playbook, test):
            yield document.fault(
                ("tests", i, "feed"), f"it shows no look-alike: {empty}",
                "let it happen: a `step` that stays, or a `pulse: [calm, ill]` that comes and goes",
            )  # fmt: skip


def _fires(test: Example) -> bool:
    return bool(test.fires) if test.expect is None else test.expect.fires > 0


def _acts(playbook: Playbook, document: Document) -> Iterator[Fault]:
    if playbook.mode == "auto":
        yield document.fault(
            ("mode",),
            "it acts by itself from the first day",
            "write `mode: suggest` until its record speaks for it",
        )
    if playbook.because.min_confidence < _SURE:
        yield document.fault(
            ("because", "min_confidence"),
            f"it acts on a cause that is only {playbook.because.min_confidence:.0%} sure", "ask for 60% or more",
        )  # fmt: skip
    if not (playbook.when.all or playbook.when.any):
        yield document.fault(
            ("because",),
            "it acts on the word of the diagnosis alone",
            "add `when:` with the symptom that it heals",
        )
    for i, step in enumerate(playbook.do):
        verb = verb_of(step)
        if step.undo == "auto" and stays(verb):
            yield document.fault(
                ("do", i, "undo"),
                f"`{step.use}` puts nothing back: {stays(verb)}",
                "write `undo: none`",
            )
        if verb.effect != "mutating" or step.undo != "none" or not can_undo(verb):
            continue
        line, _ = document.where(("do", i, "undo"), key=True)
        if "#" not in "".join(document.lines[line - 1 : line]):
            yield document.fault(
                ("do", i, "undo"),
                f"`{step.use}` could be undone and is not",
                "write `undo: auto`, or say why in a comment",
            )
    told = any(
        verb_of(s).effect != "mutating" and verb_of(s).ability is not None for s in playbook.then
    )
    paged = any(s.use in {"notify", "page"} for s in playbook.do)
    if not told and not paged:
        yield document.fault(
            ("do",),
            "nobody is told how it ended",
            "add `then: [{use: notify, with: {text: '${title}: ${verdict.summary}'}}]`",
        )
