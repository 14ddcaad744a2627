"""What a person wrote, with the place of every key and value, and faults that point at them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from agent.errors import Fault

Part = str | int
Place = tuple[Part, ...]
_SECRET: Final = re.compile(
    r"(?i)token|secret|passw|api_?key|routing_?key|credential|authorization|://[^/\s@]+@"
)
"""In the name of a key, a value or a line; the last is a URL with a login in it."""
_WORD: Final = re.compile(r"[\w+=-]{12,}", re.ASCII)
_TURNS: Final = 4
"""So often letters and digits follow each other in keys and hashes; in names and dates less."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file as it was written.

    data     the mapping, plain dicts, lists and scalars; {} when the file is empty or can not be read
    place    the file name for messages
    faults   what is wrong with the YAML itself; `check` tells them together with its own
    broken   it could not be read to its end: what is missing from `data` is no fault of its author
    """

    data: dict[str, Any]
    place: str
    faults: tuple[Fault, ...] = ()
    broken: bool = False
    values: Mapping[Place, tuple[int, int]] = field(default_factory=dict, repr=False)
    keys: Mapping[Place, tuple[int, int]] = field(default_factory=dict, repr=False)
    raw: Mapping[Place, str] = field(default_factory=dict, repr=False)
    """Scalars as they were written, by path; quoted ones without their quotes."""
    lines: Sequence[str] = field(default=(), repr=False)
    """The file, line by line."""

    def where(self, path: Sequence[Part], *, key: bool = False) -> tuple[int, int]:
        """Return (line, column) from 1 of the value at `path`, of its key on request.

        What is not there is told at its nearest parent; (0, 0) in an empty document.
        """
        here = tuple(path)
        if key and here in self.keys:
            return self.keys[here]
        while here and here not in self.values:
            here = here[:-1]
        return self.values.get(here, (0, 0))

    def fault(
        self,
        path: Sequence[Part],
        problem: str,
        remedy: str = "",
        *,
        key: bool = False,
        secret: bool = False,
    ) -> Fault:
        """Return a fault at the place of `path`. secret: its line is not shown."""
        line, column = self.where(path, key=key)
        shown = "" if secret or is_secret(tuple(path)) else line_of(self.lines, line)
        return Fault(self.place, line, column, _clip(problem), _clip(remedy), shown)

    def fault_in(
        self, path: Sequence[Part], text: str, at: int, problem: str, remedy: str = ""
    ) -> Fault:
        """Return a fault at a character of the text at `path`; at its start where it was folded or escaped."""
        told = self.fault(path, problem, remedy)
        start = max(0, told.column - 1)
        start += told.text[start : start + 1] in {"'", '"'}
        if tuple(path) in self.values and told.text.startswith(text, start):
            return replace(told, column=start + at + 1)
        return told


def _clip(words: str) -> str:
    """Cut what quotes a very long text: its beginning is enough."""
    return words if len(words) <= _QUOTED else f"{words[:_QUOTED]}..."


_QUOTED: Final = 400


def did_you_mean(word: str, known: Collection[str], *, show: int = 12) -> str:
    """Return a remedy: the nearest known names, else all of them when they are few, else nothing."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, word, name).ratio() for name in near]
    near = [name for name, like in zip(near, likeness, strict=True) if like > likeness[0] - 0.1]
    if not near:
        tail = word.rpartition(".")[2]
        near = [name for name in sorted(known) if len(tail) > 3 and tail in name][:3]
    if near:
        return f"did you mean {' or '.join(f'`{name}`' for name in near)}?"
    if known and len(known) <= show:
        return f"known: {', '.join(sorted(known))}"
    return ""


def is_secret(path: Place, value: Any = None) -> bool:
    """Tell whether what stands here must not be shown."""
    return any(_SECRET.search(part) for part in (*path, value) if isinstance(part, str))


def line_of(lines: Sequence[str], line: int) -> str:
    """Return a line to be shown; "" when there is none, or when it may hold a secret."""
    text = lines[line - 1] if 1 <= line <= len(lines) else ""
    return "" if _SECRET.search(text) or any(map(_random, _WORD.findall(text))) else text


def _random(word: str) -> bool:
    turns = sum(
        a.isdigit() != b.isdigit() for a, b in pairwise(word) if a.isalnum() and b.isalnum()
    )
    return turns >= _TURNS
