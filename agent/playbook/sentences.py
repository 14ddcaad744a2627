"""Expressions of playbooks in words, for people who have to decide by them.

    sentence("service.error_ratio > 0.05", kind="service")     # share of requests that failed is above 5 %

Comparisons of signals with numbers, with what is usual, with peers and with each other are said, and so is what is
asked of a diagnosis. The rest is shown as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.catalogue import SIGNALS, SignalDef, labelled
from agent.expr import Token, scan
from agent.units import say

_OPS: Final = {
    ">": "above", "<": "below", ">=": "at least", "<=": "at most", "==": "", "!=": "not",
}  # fmt: skip
_BEYOND: Final = {
    (">", "+"): "more than {} above", (">=", "+"): "at least {} above",
    ("<", "+"): "less than {} above", ("<=", "+"): "at most {} above",
    ("<", "-"): "more than {} below", ("<=", "-"): "at least {} below",
    (">", "-"): "less than {} below", (">=", "-"): "at most {} below",
}  # fmt: skip
_SIGNS: Final = {"+": "plus", "-": "less", "*": "times", "/": "over", "!": "not:"}
_READS_WELL: Final = re.compile(r"latency|utilization$|^accuracy$|^age$|_p[0-9]+$")
"""Shares and times whose bare name says as much to an operator as a description would."""
_ACRONYMS: Final = re.compile(r"\b(?:cpu|ecc|gpu|io|oom|pcie|psi|tcp|udp)(?=s?\b)")
_AFTER_NOUN: Final = re.compile(
    r" (?:against|among|between|for|in|killed|of|per|that|to|until|which|whose|with|without) | \("
)


@dataclass(frozen=True, slots=True)
class _About:
    """Of which signal `value` speaks, and the kind of the target: its own signals need not say whose they are."""

    signal: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class _Noun:
    text: str
    definition: SignalDef | None = None

    @property
    def are(self) -> str:
        """`is` or `are`, as it is one or many."""
        last = _AFTER_NOUN.split(self.text)[0]
        return "are" if last.endswith("s") and not last.endswith(("is", "ss", "us")) else "is"

    @property
    def it(self) -> str:
        return "them" if self.are == "are" else "it"


def sentence(expression: str, signal: str = "", kind: str = "") -> str:
    """Say an expression. `signal` is what `value` means, `kind` that of the target."""
    said = ways(expression, signal, kind)
    if len(said) > 1 and any(" and " in one for one in said):
        return "either " + "; or ".join(said)
    return " or ".join(said)


def every(expressions: Sequence[str], kind: str = "") -> str:
    """Say that all of several expressions hold."""
    if len(expressions) == 1:
        return sentence(expressions[0], kind=kind)
    return " and ".join(
        said if len(ways(text, kind=kind)) == 1 else f"({said})"
        for text in expressions
        for said in [sentence(text, kind=kind)]
    )


def ways(expression: str, signal: str = "", kind: str = "") -> list[str]:
    """Return the ways in which an expression comes true, each in words: what `||` parts."""
    about, tokens = _About(signal, kind), scan(expression)
    if any(t.text == "?" for t in tokens):
        return [f"`{expression}`"]
    return [
        " and ".join(_atom(part, expression, about) for part in _parted(way, "&&"))
        for way in _parted(tokens, "||")
    ]


def named(kind: str) -> str:
    """Return the kind of an entity as people write it."""
    return _ACRONYMS.sub(lambda m: m.group().upper(), kind)


def _parted(tokens: Sequence[Token], at: str) -> list[list[Token]]:
    """Part tokens at an operator that stands in no parentheses."""
    out: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in {"(", "["}) - (token.text in {")", "]"})
        if token.text == at and not depth:
            out.append([])
        else:
            out[-1].append(token)
    return [part for part in out if part]


def _bracketed(tokens: Sequence[Token]) -> bool:
    """Tell whether one pair of parentheses holds all of it."""
    depth = [0]
    for token in tokens:
        depth.append(depth[-1] + (token.text == "(") - (token.text == ")"))
    return tokens[0].text == "(" and depth[-1] == 0 and all(depth[1:-1])


def _atom(tokens: Sequence[Token], expression: str, about: _About) -> str:
    said = _fact(tokens) or _limit(tokens, about) or _relation(tokens, about)
    if said:
        return said
    written = expression[tokens[0].at : tokens[-1].at + len(tokens[-1].text)]
    if _bracketed(tokens):
        return f"({sentence(written[1:-1], about.signal, about.kind)})"
    if any(t.text in {"(", "[", "in"} for t in tokens):
        return f"`{written}`"
    return " ".join(_word(token, about) for token in tokens)


# ---------------------------------------------------------------- what is asked of a diagnosis


def _fact(tokens: Sequence[Token]) -> str:
    """Say what an expression asks of a fact of the diagnosis; "" = it asks something else."""
    whole = "".join(f" {t.text} " if t.text == "in" else t.text for t in tokens)
    found = re.fullmatch(
        r"""cause\.(?P<fact>\w+)(?:(?P<op>==|!=)(?P<text>'[^']*'|"[^"]*")
        |\.startsWith\((?P<head>'[^']*'|"[^"]*")\)|\ in\ \[(?P<list>[^\]]+)\])""",
        whole,
        re.VERBOSE,
    )
    if found is None:
        return ""
    fact, said = found["fact"], found["text"] or found["head"] or ""
    subject = _subject(fact)
    if found["list"]:
        *most, last = (one.strip("'\"") for one in found["list"].split(","))
        return f"{subject} is {', '.join(most)} or {last}" if most else f"{subject} is {last}"
    if found["head"]:
        return _beginning(fact, subject, said[1:-1])
    equal = found["op"] == "=="
    if not said[1:-1]:
        return f"the diagnosis names {'no' if equal else _article(fact)} `{fact}`"
    return f'{subject} is {"" if equal else "not "}"{said[1:-1]}"'


def _subject(fact: str) -> str:
    return "what is to blame" if fact == "entity" else f"`{fact}` of the diagnosis"


def _beginning(fact: str, subject: str, head: str) -> str:
    """Say that a fact begins with something: `gpu:` is the kind of an entity."""
    kind = head.removesuffix(":")
    if kind == head:
        return f'{subject} begins with "{head}"'
    one = f"{_article(kind)} {named(kind)}"
    if fact == "entity":
        return f"{subject} is {one}"
    return f"the diagnosis names {one}" + ("" if fact == kind else f" as its `{fact}`")


def _article(word: str) -> str:
    return "an" if word[:1] in "aeiox" else "a"


# ---------------------------------------------------------------- comparisons


def _limit(tokens: Sequence[Token], about: _About) -> str:
    """Say `signal op number` with the number in the unit of the signal; states hold or do not."""
    if (
        len(tokens) != 3
        or (tokens[0].kind, tokens[2].kind) != ("name", "number")
        or tokens[1].text not in _OPS
    ):
        return ""
    op, number = tokens[1].text, float(tokens[2].text)
    noun = _noun(tokens[0].text, about)
    state = _state(tokens[0].text, about) if 0 < number < 1 else ""
    if state:
        return state if op in {">", ">="} else f"it is not so that {state}"
    unit = noun.definition.unit if noun.definition else "count"
    return _said(noun, op, say(number, unit) if number else "0")


def _relation(tokens: Sequence[Token], about: _About) -> str:
    """Say `signal op other`, where other may be multiplied by a number, and a number be added to or taken from it."""
    shape = "".join({"name": "n", "number": "1"}.get(t.kind, t.text) for t in tokens)
    found = re.fullmatch(r"n(>=|<=|==|!=|>|<)n(\*1)?([+-]1)?", shape)
    if found is None:
        return ""
    op, name, other = tokens[1].text, tokens[0].text, tokens[2].text
    noun = _noun(name, about)
    usual = other == f"baseline.{_meant(name, about)}"
    if usual and shape in {"n>n", "n<n"} and (state := _state(name, about)):
        return f"{state if op == '>' else f'it is not so that {state}'}, other than usual"
    ref = f"what is usual for {noun.it}" if usual else _noun(other, about).text
    if found[2]:
        ref = f"{float(tokens[4].text):g} times {ref}"
    if not found[3]:
        return _said(noun, op, ref)
    sign, amount = tokens[-2].text, _amount(float(tokens[-1].text), noun.definition)
    if found[2] or (op, sign) not in _BEYOND:
        return _said(noun, op, f"{ref} {_SIGNS[sign]} {amount}")
    return f"{noun.text} {noun.are} {_BEYOND[op, sign].format(amount)} {ref}"


def _said(noun: _Noun, op: str, than: str) -> str:
    return " ".join(filter(None, (noun.text, noun.are, _OPS[op], than)))


def _amount(number: float, definition: SignalDef | None) -> str:
    """Say a difference; that of two shares is in points, for it is no share of either."""
    if definition is not None and definition.unit == "ratio":
        return f"{100 * number:.3g} percentage point{'s' * (number != 0.01)}"
    return say(number, definition.unit if definition else "count")


# ---------------------------------------------------------------- names


def _word(token: Token, about: _About) -> str:
    if token.kind == "name":
        return _noun(token.text, about).text
    if token.kind == "number":
        return f"{float(token.text):g}"
    return (
        f"is {_OPS[token.text]}".rstrip()
        if token.text in _OPS
        else _SIGNS.get(token.text, token.text)
    )


def _meant(name: str, about: _About) -> str:
    return about.signal if name == "value" and about.signal else name


def _state(name: str, about: _About) -> str:
    """Say what a signal that is on or off tells; "" = it is none."""
    metric, labels = labelled(_meant(name, about))
    definition = SIGNALS.get(metric)
    if definition is None or definition.unit != "bool":
        return ""
    state = _head(definition, commas=True).removeprefix("whether ")
    return f"{state}{_which(definition, labels, about)}"


def _noun(name: str, about: _About) -> _Noun:
    name = _meant(name, about)
    if name == "peers.median":
        return _Noun("the median of its peers")
    if name == "peers.count":
        return _Noun("the number of its peers")
    if name.startswith("baseline."):
        of = _noun(name.removeprefix("baseline."), about)
        return _Noun(f"what is usual for the {of.text}", of.definition)
    metric, labels = labelled(name)
    definition = SIGNALS.get(metric)
    if definition is None:
        return _Noun(_subject(name.removeprefix("cause.")) if name.startswith("cause.") else name)
    whose, _, quantity = metric.partition(".")
    quantity = quantity.removesuffix(f"_{definition.unit}")
    if definition.unit in {"ratio", "seconds"} and not _READS_WELL.search(quantity):
        return _Noun(_head(definition) + _which(definition, labels, about), definition)
    quantity = _ACRONYMS.sub(lambda m: m.group().upper(), quantity.replace("_", " "))
    if definition.unit.endswith("per_second"):
        quantity += " per second"
    return _Noun(f"{quantity}{_brackets(_labels(labels))} of the {named(whose)}", definition)


def _head(definition: SignalDef, *, commas: bool = False) -> str:
    """Return the description of a signal without its remarks."""
    return re.split(r" \(|[:;]" if commas else r" \(|[:;,]", definition.help)[0]


def _which(definition: SignalDef, labels: Sequence[tuple[str, str]], about: _About) -> str:
    other = [named(definition.entity_kind)] if definition.entity_kind != about.kind else []
    return _brackets([*other, *_labels(labels)])


def _labels(labels: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name} {value.replace('_', ' ')}" for name, value in labels]


def _brackets(words: Sequence[str]) -> str:
    return f" ({', '.join(words)})" if words else ""
