"""A playbook as a runbook for people: when, on whom, what is done first, how we know, what is undone, who is asked.

    for label, lines in explain(playbook): ...     # ("When", ["diagnosis says: ...", "..."])

Expressions are said in words where they are simple comparisons, else shown as they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agent.attributes import LABELS
from agent.catalogue import SIGNALS, labelled
from agent.causes import CAUSES, matches, words
from agent.expr import Token, scan
from agent.playbook.language import Approval, Playbook, StepModel
from agent.playbook.verbs import ability_of, put_back, stays, verb_of
from agent.ports import Notifier
from agent.units import say, say_duration

Section = tuple[str, list[str]]

_OPS: Final = {
    ">": "is above", "<": "is below", ">=": "is at least", "<=": "is at most", "==": "is", "!=": "is not",
    "&&": "and", "||": "or", "!": "not:", "+": "plus", "-": "less", "*": "times", "/": "over",
}  # fmt: skip
_COMPARED: Final = frozenset({">", "<", ">=", "<=", "==", "!="})
_MODES: Final = {
    "observe": "it only watches: nothing is suggested",
    "suggest": "it suggests, and a person presses the button",
    "approve": "it asks a person each time, and then acts",
    "auto": "it acts by itself, within the limits below",
}
_AGAINST: Final = {
    "": "the best comparison there is",
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
        yield "Not when", [sentence(text) for text in playbook.unless]
    yield "On", [_target(playbook)]
    yield "May", [f"{playbook.mode}: {_MODES[playbook.mode]}", *_needs(playbook)]
    yield "Do", [line for i, step in enumerate(playbook.do, 1) for line in _step(i, step)]
    yield "Works if", list(_proof(playbook))
    yield "Undo", list(_undo(playbook))
    if playbook.then:
        yield "Then", [line for i, step in enumerate(playbook.then, 1) for line in _step(i, step)]
    yield "Limits", list(_limits(playbook))
    yield "Asked", [_asked(playbook)]
    if playbook.owner:
        yield "Owner", [playbook.owner]


def text(playbook: Playbook) -> str:
    """Return the runbook as text."""
    out = [f"{playbook.title}  ({playbook.id})", ""]
    for label, lines in explain(playbook):
        for i, line in enumerate(lines):
            out.append(f"{label if i == 0 else '':10}{line}")
    return "\n".join(out)


def sentence(expression: str, signal: str = "") -> str:
    """Say an expression in words; as it is written when it is more than comparisons of names and numbers."""
    tokens = scan(expression)
    if any(t.text in {"(", "[", "?", "in"} for t in tokens):
        return f"`{expression}`"
    out: list[str] = []
    i = 0
    while i < len(tokens):
        said, used = _usual(tokens[i : i + 5], signal)
        if not used:
            said, used = _comparison(tokens[i : i + 3], signal)
        if used and (i + used == len(tokens) or tokens[i + used].text in {"&&", "||"}):
            out.append(said)
            i += used
        else:
            out.append(_word(tokens[i], signal))
            i += 1
    return " ".join(out)


def _usual(tokens: list[Token], signal: str) -> tuple[str, int]:
    """Say `a.b op baseline.a.b * number`: the most common comparison there is."""
    texts = [t.text for t in tokens]
    name = _signal(texts[0], signal)
    if len(tokens) < 3 or texts[1] not in _COMPARED or texts[2] != f"baseline.{name}":
        return "", 0
    said = f"{_name(name)} {_OPS[texts[1]]}"
    if len(tokens) == 5 and texts[3] == "*" and tokens[4].kind == "number":
        return f"{said} {float(texts[4]):g} times what is usual for it", 5
    return f"{said} what is usual for it", 3


def _comparison(tokens: list[Token], signal: str) -> tuple[str, int]:
    """Say `signal op number` with the number in the signal's unit; states say that they hold or not."""
    if len(tokens) < 3 or tokens[1].text not in _COMPARED or tokens[2].kind != "number":
        return "", 0
    name, op, number = tokens[0].text, tokens[1].text, float(tokens[2].text)
    metric, labels = labelled(_signal(name, signal).removeprefix("baseline."))
    definition = SIGNALS.get(metric)
    if tokens[0].kind != "name" or definition is None:
        return "", 0
    if definition.unit == "bool" and 0 < number < 1:
        state = definition.help.partition(" (")[0].partition(":")[0].removeprefix("whether ")
        negation = "" if op in {">", ">="} else "it is not so that "
        return f"{negation}{state} ({', '.join([definition.entity_kind, *_said(labels)])})", 3
    return f"{_word(tokens[0], signal)} {_OPS[op]} {say(number, definition.unit)}", 3


def _word(token: Token, signal: str) -> str:
    if token.kind == "name":
        return _name(_signal(token.text, signal))
    if token.kind == "number":
        return f"{float(token.text):g}"
    return _OPS.get(token.text, token.text)


def _signal(name: str, signal: str) -> str:
    return signal if name == "value" and signal else name


def _name(name: str) -> str:
    if name == "peers.median":
        return "the median of its peers"
    if name == "peers.count":
        return "the number of its peers"
    head, _, rest = name.partition(".")
    if head == "baseline":
        return f"what is usual for the {_name(rest)}"
    metric, labels = labelled(name)
    definition = SIGNALS.get(metric)
    if definition is None:
        return name
    unit = "" if definition.unit == "per_second" else f"_{definition.unit}"
    quantity = metric.partition(".")[2].removesuffix(unit).replace("_", " ")
    which = f" ({', '.join(_said(labels))})" if labels else ""
    return f"{quantity}{which} of the {head}"


def _said(labels: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"{name} {value.replace('_', ' ')}" for name, value in labels]


def _when(playbook: Playbook) -> Iterator[str]:
    because = playbook.because
    causes = [c for c in CAUSES if matches(because.cause, c)]
    named = "; or: ".join(words(c) for c in causes)
    sure = f", {because.min_confidence:.0%} sure at least" if because.min_confidence else ""
    yield f"diagnosis says: {named} ({because.cause}{sure})"
    if because.severity != "note":
        yield f"and the incident is of severity {because.severity} at least"
    items = playbook.when.any or playbook.when.all
    if len(items) > 1:
        yield "and any of these holds:" if playbook.when.any else "and all of these hold:"
    for item in items:
        held = f", for {say_duration(item.for_)}" if item.for_ else ""
        yield f"{'  - ' if len(items) > 1 else 'and '}{sentence(item.is_, item.signal)}{held}"


def _target(playbook: Playbook) -> str:
    where = f", where `{playbook.target.where}`" if playbook.target.where else ""
    return f"the {playbook.target.kind} that the diagnosis names, or its nearest relative{where}"


def _needs(playbook: Playbook) -> Iterator[str]:
    needed = dict.fromkeys(
        ability_of(s) for s in playbook.do if ability_of(s) and verb_of(s).ability is not Notifier
    )
    if needed:
        yield f"it needs a connector that can: {', '.join(needed)}"
    if playbook.touching:
        yield f"and the {playbook.target.kind} under `manages:` of agent.yaml"
    if playbook.shared:
        yield "and `single_agent: true`: no other agent may act on the same thing"


def _step(number: int, step: StepModel) -> Iterator[str]:
    verb = verb_of(step)
    doc = " ".join((verb.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
    via = f" through {step.via}" if step.via else ""
    yield f"{number}. {doc} ({step.use}{via})"
    for name, value in step.with_.items():
        yield f"   {name}: {_value(value)}"


def _value(value: Any) -> str:
    said = " ".join(str(value).split())
    return said if len(said) <= 120 else said[:117] + "..."


def _proof(playbook: Playbook) -> Iterator[str]:
    verify = playbook.verify
    if verify is None:
        yield "nothing is proven: it only tells, or marks something"
        return
    joined = " and ".join(sentence(text) for text in verify.expect)
    wait = f"{say_duration(verify.wait)} after the last step, " if verify.wait else ""
    yield f"{wait}within {say_duration(verify.within)}: {joined}"
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
            until = " and ".join(sentence(text) for text in step.until.is_)
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
    per = "one target" if g.cooldown.per == "target" else "all targets"
    often = f"{g.rate.max} times in {say_duration(g.rate.per)}"
    yield f"rests {say_duration(g.cooldown.time)} on {per}; acts {often} at most"
    if not playbook.mutating:
        return
    then = "then people must look" if g.attempts.then == "escalate" else "then it stops"
    yield f"tries {g.attempts.max} times on one target in {say_duration(g.attempts.per)}, {then}"
    domain = f" of one {g.blast.domain.removeprefix(LABELS)}" if g.blast.domain else ""
    yield (
        f"{g.blast.max_targets} targets{domain} under treatment at once, {g.blast.max_share:.0%} at most, "
        "whoever treats them; "
        f"waits {say_duration(g.settle)} between two targets"
    )
    yield f"after {g.breaker.bad_outcomes} runs that did not help it rests {say_duration(g.breaker.hold)}"
    yield "does nothing when the same symptom is nearly everywhere, or when its evidence is old"


def _asked(playbook: Playbook) -> str:
    apart = "; ".join(f"{_person(s.approve)}, before {s.id}" for s in playbook.do if s.approve)
    if playbook.mode == "auto":
        return apart or "nobody, unless agent.yaml holds it back"
    if not playbook.mutating:
        return "nobody: it changes nothing but what people know, or marks something of our own"
    return "; and ".join(said for said in (_person(playbook.limits.approve), apart) if said)


def _person(approve: Approval) -> str:
    silence = "people are called" if approve.on_timeout == "escalate" else "it is taken as no"
    return f"a person with the role {approve.by}, who has {say_duration(approve.timeout)}; on silence {silence}"
