"""A playbook as a runbook for people: when, on whom, what is done first, how we know, what is undone, who is asked.

for label, lines in explain(playbook): ...     # ("When", ["diagnosis says: ...", "..."])

"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

from agent.attributes import LABELS
from agent.causes import CAUSES, matches, words
from agent.playbook.language import Approval, Playbook, StepModel
from agent.playbook.sentences import every, named, sentence, ways
from agent.playbook.verbs import ability_of, put_back, stays, verb_of
from agent.ports import Notifier
from agent.units import say_duration

Section = tuple[str, list[str]]

_WIDTH: Final = 110

_MODES: Final = {
    "observe": "it only watches: nothing is suggested",
    "suggest": "it suggests, and a person presses the button",
    "approve": "it asks a person each time, and then acts",
    "auto": "it acts by itself, within the limits below",
}
_AGAINST: Final = {
    "": "whatever says enough: others that were not treated, a forecast, or earlier episodes that were left alone",
    "peers": "others that were not treated, else with what would have come without it",
    "forecast": "what would have come without it", "past": "earlier episodes that were left alone",
}  # fmt: skip
_OTHERWISE: Final = {
    "undo": "everything that can be undone is put back",
    "escalate": "it stays as it is and people are told",
    "next": "what was for a while only is put back, and the next playbook for this cause may try",
}


def explain(playbook: Playbook) -> Iterator[Section]:
    """Yield the sections of the runbook, in the order in which a person needs them."""
    yield "When", list(_when(playbook))
    if playbook.unless:
        yield (
            "Not when",
            [
                f"{'or ' if i else ''}{sentence(text, kind=playbook.target.kind)}"
                for i, text in enumerate(playbook.unless)
            ],
        )
    yield "On", [_target(playbook)]
    yield "May", [f"{playbook.mode}: {_MODES[playbook.mode]}", *_needs(playbook)]
    yield "Do", [line for i, step in enumerate(playbook.do, 1) for line in _step(i, step, playbook)]
    yield "Works if", list(_proof(playbook))
    yield "Undo", list(_undo(playbook))
    if playbook.then:
        yield (
            "Then",
            [line for i, step in enumerate(playbook.then, 1) for line in _step(i, step, playbook)],
        )
    yield "Limits", list(_limits(playbook))
    yield "Asked", [_asked(playbook)]
    if playbook.owner:
        yield "Owner", [playbook.owner]


def text(playbook: Playbook) -> str:
    """Return the runbook as text."""
    out = [f"{playbook.title}  ({playbook.id})", ""]
    for label, lines in explain(playbook):
        for i, line in enumerate(lines):
            inner = len(line) - len(line.lstrip()) + 2
            out += textwrap.wrap(
                line, _WIDTH, initial_indent=f"{label if i == 0 else '':10}", subsequent_indent=" " * (10 + inner),
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(out)


def _when(playbook: Playbook) -> Iterator[str]:
    because = playbook.because
    causes = [c for c in CAUSES if matches(because.cause, c)]
    named = "; or: ".join(words(c) for c in causes)
    sure = f", {because.min_confidence:.0%} sure at least" if because.min_confidence else ""
    yield f"diagnosis says: {named} ({because.cause}{sure})"
    if because.severity != "note":
        yield f"and the incident is of severity {because.severity} at least"
    items = playbook.when.any or playbook.when.all
    several = len(items) > 1
    if several:
        yield "and any of these holds:" if playbook.when.any else "and all of these hold:"
    for item in items:
        held = f", for {say_duration(item.for_)}" if item.for_ else ""
        yield from _listed(
            ways(item.is_, item.signal, playbook.target.kind), held, "  - " if several else "and "
        )


def _listed(said: Sequence[str], tail: str, head: str) -> Iterator[str]:
    """Say one condition: in a line, or a line for each of the ways in which it comes true."""
    if len(said) == 1:
        yield f"{head}{said[0]}{tail}"
        return
    yield f"{head}any of these{tail}:"
    indent = " " * (len(head) - len(head.lstrip())) + "  - "
    yield from (f"{indent}{one}" for one in said)


def _target(playbook: Playbook) -> str:
    about = playbook.target
    where = f", where {sentence(about.where, kind=about.kind)}" if about.where else ""
    return f"the {named(about.kind)} that the diagnosis names, or the one nearest to what it names{where}"


def _needs(playbook: Playbook) -> Iterator[str]:
    needed = dict.fromkeys(
        ability_of(s) for s in playbook.do if ability_of(s) and verb_of(s).ability is not Notifier
    )
    if needed:
        yield f"it needs a connector that can: {', '.join(needed)}"
    if playbook.touching:
        yield f"and the {named(playbook.target.kind)} under `manages:` of agent.yaml"
    if playbook.shared:
        yield "and `single_agent: true`: no other agent may act on the same thing"


def _step(number: int, step: StepModel, playbook: Playbook) -> Iterator[str]:
    verb = verb_of(step)
    doc = " ".join((verb.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
    via = f" through {step.via}" if step.via else ""
    yield f"{number}. {step.id}: {doc} ({step.use}{via})"
    for name, value in step.with_.items():
        yield f"   {name}: {_value(value, playbook)}"


def _value(value: Any, playbook: Playbook) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(_value(one, playbook) for one in value)
    said = " ".join(str(value).split())
    return said.replace("${title}", playbook.title).replace("${owner}", playbook.owner)


def _proof(playbook: Playbook) -> Iterator[str]:
    verify = playbook.verify
    if verify is None:
        yield "nothing is proven: it only tells, or marks something"
        return
    wait = f"{say_duration(verify.wait)} after the last step, " if verify.wait else ""
    within = f"{wait}within {say_duration(verify.within)}"
    expected = [ways(text, kind=playbook.target.kind) for text in verify.expect]
    if len(expected) == 1:
        yield from _listed(expected[0], "", f"{within}: ")
    else:
        yield f"{within}, all of these hold:"
        for said in expected:
            yield from _listed(said, "", "  - ")
    back = any(put_back(step) for step in playbook.do)
    harm = "harm is undone at once" if back else "harm is told at once, nothing is put back"
    yield f"compared with {_AGAINST[verify.against]}; {harm}"
    yield f"otherwise {_OTHERWISE[verify.otherwise]}"


def _undo(playbook: Playbook) -> Iterator[str]:
    kept = []
    for step in playbook.do:
        verb = verb_of(step)
        undone = put_back(step)
        if verb.effect == "reading" or not (undone or verb.effect == "mutating"):
            continue
        if why := stays(verb):
            yield f"{step.id}: stays, there is nothing to put back: {why}"
            continue
        if not undone:
            kept.append(step.id)
            continue
        yield (
            f"{step.id}: what was there is put back, unless somebody else has changed it meanwhile"
            if verb.reversible
            else f"{step.id}: undone by the inverse that is declared for it, if one is"
        )
        if step.until is not None:
            until = every(step.until.is_, playbook.target.kind)
            yield (
                f"   of itself when {until}, for {say_duration(step.until.for_)}; "
                f"after {say_duration(step.until.at_most)} in any case"
            )
    if kept:
        yield f"{', '.join(kept)}: stays, it is not undone"
    if not kept and not playbook.mutating and not playbook.shared:
        yield "there is nothing to undo"


def _limits(playbook: Playbook) -> Iterator[str]:
    g = playbook.limits
    whom = "its target" if g.cooldown.per == "target" else "all targets"
    yield (
        f"after a run it leaves {whom} alone for {say_duration(g.cooldown.time)}; "
        f"it acts {_times(g.rate.max)} in {say_duration(g.rate.per)} at most"
    )
    if not playbook.mutating:
        return
    then = "then people must look" if g.attempts.then == "escalate" else "then it stops"
    yield f"it tries {_times(g.attempts.max)} on one target in {say_duration(g.attempts.per)}, {then}"
    kind = named(playbook.target.kind)
    many = f"{g.blast.max_targets} {kind}{'s' * (g.blast.max_targets != 1)}"
    domain = f" of one {g.blast.domain.removeprefix(LABELS)}" if g.blast.domain else ""
    share = (
        f", and no more than {g.blast.max_share:.0%} of those there are"
        if g.blast.max_targets > 1
        else ""
    )
    yield (
        f"at most {many}{domain} may be under treatment at once{share}, whoever treats; "
        f"{say_duration(g.settle)} lie between two targets"
    )
    bad = f"{g.breaker.bad_outcomes} runs that" if g.breaker.bad_outcomes != 1 else "a run that"
    yield f"after {bad} did not help it rests {say_duration(g.breaker.hold)}"
    yield "it does nothing when the same symptom is nearly everywhere, or when its evidence is old"


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def _asked(playbook: Playbook) -> str:
    apart = "; ".join(f"{_person(s.approve)}, before {s.id}" for s in playbook.do if s.approve)
    if playbook.mode == "auto":
        return apart or "nobody, unless `mode:` of agent.yaml says less than auto"
    if not playbook.mutating:
        return "nobody: it changes nothing but what people know, or marks something of our own"
    return "; and ".join(said for said in (_person(playbook.limits.approve), apart) if said)


def _person(approve: Approval) -> str:
    silence = "people are called" if approve.on_timeout == "escalate" else "it is taken as no"
    return f"a person with the role {approve.by}, who has {say_duration(approve.timeout)}; on silence {silence}"
