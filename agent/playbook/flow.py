"""A playbook as a picture: from its cause to its end, as Mermaid (for Markdown pages) or DOT (for Graphviz)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from agent.playbook.language import Playbook, StepModel
from agent.playbook.sentences import every, sentence
from agent.playbook.verbs import put_back
from agent.units import say_duration

Shape = Literal["start", "ask", "do", "end"]
_MERMAID: Final = {
    "start": ('(["', '"])'),
    "ask": ('{"', '"}'),
    "do": ('["', '"]'),
    "end": ('(["', '"])'),
}
_DOT: Final = {"start": "oval", "ask": "diamond", "do": "box", "end": "oval"}


@dataclass(slots=True)
class Flow:
    """Boxes by name (shape, words) and arrows (from, to, words)."""

    boxes: dict[str, tuple[Shape, str]] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)


def flow(playbook: Playbook) -> Flow:
    """Return the way that a run of this playbook goes."""
    out = Flow()
    because = playbook.because
    out.boxes["cause"] = ("start", f"{because.cause}, {because.min_confidence:.0%} sure")
    items = playbook.when.any or playbook.when.all
    joined = (" or " if playbook.when.any else " and ").join(
        sentence(i.is_, i.signal, playbook.target.kind) for i in items
    )
    out.boxes["guard"] = ("ask", "may it act? scope, limits, evidence")
    out.boxes["rest"] = ("end", "nothing is done; why-not tells")
    out.boxes["tell"] = ("end", "people are told")
    at = "cause"
    if joined:
        out.boxes["when"] = ("ask", joined)
        out.arrows += [(at, "when", ""), ("when", "rest", "no, or unknown")]
        at = "when"
    for i, text in enumerate(playbook.unless):
        out.boxes[f"unless{i}"] = ("ask", f"unless {sentence(text, kind=playbook.target.kind)}")
        out.arrows += [
            (at, f"unless{i}", "yes" if at == "when" else ""),
            (f"unless{i}", "rest", "true"),
        ]
        at = f"unless{i}"
    out.arrows += [(at, "guard", "yes" if at == "when" else ""), ("guard", "rest", "no")]
    if playbook.mode == "observe":
        return out
    at, said = "guard", "yes"
    if playbook.mode != "auto" and playbook.mutating:
        limits = playbook.limits.approve
        out.boxes["ask"] = ("ask", f"{limits.by} says yes within {say_duration(limits.timeout)}?")
        out.arrows += [(at, "ask", said), ("ask", "tell", "no, or silence")]
        at, said = "ask", "yes"
    at, said = _steps(out, "do", playbook.do, at, said)
    if playbook.verify is not None:
        at, said = _verify(out, playbook, at, said)
    at, said = _steps(out, "then", playbook.then, at, said)
    out.boxes["done"] = ("end", "done")
    out.arrows.append((at, "done", said))
    used = {name for a, b, _ in out.arrows for name in (a, b)}
    out.boxes = {name: box for name, box in out.boxes.items() if name in used}
    return out


def _steps(out: Flow, part: str, steps: Sequence[StepModel], at: str, said: str) -> tuple[str, str]:
    for step in steps:
        name = f"{part}_{step.id}"
        if step.approve is not None:
            who = f"{step.approve.by} says yes within {say_duration(step.approve.timeout)}?"
            out.boxes[f"ask_{name}"] = ("ask", who)
            out.arrows += [(at, f"ask_{name}", said), (f"ask_{name}", "tell", "no, or silence")]
            at, said = f"ask_{name}", "yes"
        out.boxes[name] = ("do", step.use if step.use == step.id else f"{step.id}: {step.use}")
        out.arrows.append((at, name, said))
        at, said = name, ""
    return at, said


def _verify(out: Flow, playbook: Playbook, at: str, said: str) -> tuple[str, str]:
    verify = playbook.verify
    assert verify is not None  # noqa: S101  # asked by the caller
    expected = every(verify.expect, playbook.target.kind)
    out.boxes["verify"] = ("ask", f"within {say_duration(verify.within)}: {expected}")
    out.arrows.append((at, "verify", said))
    undone = [s.id for s in playbook.do if put_back(s)]
    if undone:
        out.boxes["undo"] = ("do", f"undo {', '.join(reversed(undone))}")
        out.arrows += [("verify", "undo", "harmed"), ("undo", "tell", "")]
    else:
        out.arrows.append(("verify", "tell", "harmed"))
    other = {"undo": "undo" if undone else "tell", "escalate": "tell", "next": "next"}[
        verify.otherwise
    ]
    if other == "next":
        out.boxes["next"] = ("end", "the next playbook may try")
    out.arrows.append(("verify", other, "no effect"))
    out.arrows.append(("verify", "tell", "can not tell"))
    for step in playbook.do:
        if step.until is not None:
            name = f"until_{step.id}"
            until = every(step.until.is_, playbook.target.kind)
            out.boxes[name] = (
                "ask",
                f"{step.id} stays until {until}, {say_duration(step.until.at_most)} at most",
            )
            back = f"back_{step.id}"
            out.boxes[back] = ("do", f"put {step.id} back")
            out.arrows += [("verify" if said != "so" else at, name, "helped"), (name, back, "")]
            at, said = back, "so"
    return (at, "") if said == "so" else ("verify", "helped")


def mermaid(found: Flow) -> str:
    """Return a Mermaid flowchart."""
    out = ["flowchart TD"]
    for name, (shape, words) in found.boxes.items():
        left, right = _MERMAID[shape]
        out.append(f"  {name}{left}{_plain(words)}{right}")
    for a, b, words in found.arrows:
        out.append(f"  {a} -->|{_plain(words)}| {b}" if words else f"  {a} --> {b}")
    return "\n".join(out)


def _plain(words: str) -> str:
    """Write what Mermaid would read as its own signs by their codes."""
    return "".join(c if c.isalnum() or c in " .,:;/%_-'=+*" else f"#{ord(c)};" for c in words)


def dot(found: Flow, name: str) -> str:
    """Return a Graphviz digraph: `dot -Tsvg` draws it."""

    def quoted(words: str) -> str:
        return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'

    out = [f"digraph {quoted(name)} {{", "  node [fontname=sans];"]
    for box, (shape, words) in found.boxes.items():
        out.append(f"  {box} [shape={_DOT[shape]}, label={quoted(words)}];")
    for a, b, words in found.arrows:
        out.append(f"  {a} -> {b}" + (f" [label={quoted(words)}]" if words else "") + ";")
    return "\n".join([*out, "}"])
