"""YAML to a document: the events of PyYAML's scanners, and nothing of its constructors."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from agent.errors import Fault
from agent.strict.document import Document, Part, Place, line_of

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000
"""Values in one document, aliases expanded: a hundred times our largest playbook."""
_QUICK: Final[Any] = getattr(yaml, "CSafeLoader", None)
"""libyaml, twenty times faster; not in every build of PyYAML."""
_APART: Final = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]|(?:^|[\\s,\\[{:])!|[|>][-+0-9]*#",
    re.MULTILINE,
)
"""Where libyaml and PyYAML's own scanner may not agree; such texts, and those with faults, go to the latter.

Nor do they agree on every `?`: see `_agreed`."""
_NO_SPACE: Final = re.compile(
    "[\u00a0\u00ad\u1680\u180e\u2000-\u200f\u202f\u205f\u2060\u3000\ufeff]"
)
"""What word processors and web pages put where a space, or nothing, should be."""
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""Where PyYAML lets a line end."""


def read(source: Path | str | bytes, place: str = "") -> Document:
    """Read a file (Path) or a text. Never raises: what is wrong stands in `faults` of the answer."""
    if isinstance(source, Path):
        place = place or str(source)
        try:
            raw = _bytes_of(source)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            fault = Fault(
                place, 0, 0, f"can not be read: {reason}", "check the path and its rights"
            )
            return Document({}, place, (fault,), broken=True)
    else:
        place = place or "<text>"
        raw = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_BYTES:
        problem = f"is larger than {MAX_BYTES // 1024} KiB"
        return Document(
            {}, place, (Fault(place, 0, 0, problem, "split it into several files"),), broken=True
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(raw[: error.start].decode("utf-8", "replace"), None)
        fault = Fault(
            place,
            line,
            column,
            f"byte 0x{raw[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
        )
        return Document({}, place, (fault,), broken=True)
    return _Reader(text, place).document()


def _bytes_of(path: Path) -> bytes:
    """Read at most a little more than we take; a pipe or a device would never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a plain file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _position(text: str, index: int | None) -> tuple[int, int]:
    before = text if index is None else text[:index]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _Stop(Exception):
    """Nothing more can be read from this file; never leaves it."""


_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_TRAPS: Final = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_LONGEST_NUMBER: Final = 100
_INT: Final = re.compile(r"[-+]?[0-9]+")
_ZEROS: Final = re.compile(r"[-+]?0[0-9]+")
_BASED: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(slots=True)
class _Node:
    """One value with the marks of all that is in it, relative to itself."""

    data: Any
    mark: tuple[int, int]
    size: int = 1
    raw: str | None = None
    children: dict[Part, _Node] = field(default_factory=dict)
    keys: dict[Part, tuple[int, int]] = field(default_factory=dict)


class _Reader:
    """Builds the tree from PyYAML's events: no constructor runs, so nothing is ever executed."""

    def __init__(self, text: str, place: str) -> None:
        self._text = text
        self._lines = _BREAK.split(text)
        self._place = place
        self._faults: list[Fault] = []
        self._anchors: dict[str, _Node | None] = {}
        self._nodes = 0
        self._scanner: Any = None

    def document(self) -> Document:
        root: _Node | None = None
        broken = False
        try:
            root = self._tree()
        except _Stop:
            broken = True
        except yaml.reader.ReaderError as error:
            broken = True
            code = (
                error.character
                if isinstance(error.character, int)
                else ord(error.character[:1] or "?")
            )
            where = _position(self._text, error.position)
            self._say(where, f"character U+{code:04X} does not belong in a text file", "delete it")
        except yaml.MarkedYAMLError as error:
            broken = True
            self._explain(error)
        except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:
            # PyYAML lets some of Python's own errors through: \U99999999, %YAML with endless digits
            broken = True
            said = str(error).splitlines()[0] if str(error) else repr(error)
            at = (self._scanner.line + 1, self._scanner.column + 1) if self._scanner else (1, 1)
            self._say(at, f"is not YAML: {said}", "")
        values: dict[Place, tuple[int, int]] = {}
        keys: dict[Place, tuple[int, int]] = {}
        raw: dict[Place, str] = {}
        data: dict[str, Any] = {}
        if root is not None and isinstance(root.data, dict):
            data = root.data
            _lay(root, (), values, keys, raw)
        elif root is not None and root.data is not None:
            broken = True
            self._say(root.mark, "is not a mapping", "start with `key: value` lines")
        faults = tuple(sorted(self._faults, key=lambda f: (f.line, f.column)))
        return Document(data, self._place, faults, broken, values, keys, raw, self._lines)

    def _tree(self) -> _Node | None:
        """Read the text; what libyaml stops at is read again, for the place and words of PyYAML's own scanner."""
        if _QUICK is not None and not _APART.search(self._text):
            try:
                events = _events(_QUICK(self._text))
                return self._root(_agreed(events, self._text) if "?" in self._text else events)
            except yaml.YAMLError:
                self._faults.clear()
                self._anchors.clear()
                self._nodes = 0
        self._scanner = yaml.SafeLoader(self._text)
        return self._root(_events(self._scanner))

    def _say(self, mark: tuple[int, int], problem: str, remedy: str) -> None:
        shown = line_of(self._lines, mark[0])
        self._faults.append(Fault(self._place, *mark, problem, remedy, shown))

    def _explain(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        if self._explained(where):
            return
        problem = " ".join(str(error.problem or error.context or "is not YAML").split())
        for pattern, words, remedy in _WORDS:
            if re.search(pattern, problem):
                self._say(where, words, remedy)
                return
        self._say(where, f"is not YAML: {problem}", "check indentation, brackets and quotes nearby")

    def _explained(self, where: tuple[int, int]) -> bool:
        """Tell a cause that stands before the place where the scanner noticed; False = none is known."""
        line = where[0]
        for number in (line, line - 1):
            text = self._lines[number - 1] if 1 <= number <= len(self._lines) else ""
            found = _NO_SPACE.search(text)
            if found is not None and not any(text[: found.start()].count(q) % 2 for q in "'\""):
                code = f"U+{ord(found.group()):04X}"
                problem = f"character {code} looks like a space, or like nothing"
                self._say((number, found.start() + 1), problem, "write a space, or delete it")
                return True
        opened = self._quote_until(where)
        if opened is not None:
            problem = f"this quote is closed only at line {line}, column {where[1] - 1}"
            self._say(opened, problem, "close it where its text ends")
        return opened is not None

    def _quote_until(self, where: tuple[int, int]) -> tuple[int, int] | None:
        """Return where a quote was opened, lines before, that was closed just before a place."""
        try:
            for token in yaml.scan(self._text, yaml.SafeLoader):
                end = token.end_mark
                if (
                    isinstance(token, yaml.ScalarToken)
                    and (end.line + 1, end.column + 1) == where
                    and token.style in {"'", '"'}
                    and token.start_mark.line < end.line
                ):
                    return token.start_mark.line + 1, token.start_mark.column + 1
        except (yaml.YAMLError, ValueError, OverflowError, IndexError):
            pass  # what it stopped at is being told
        return None

    def _root(self, events: Iterator[yaml.Event]) -> _Node | None:
        root: _Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._say(
                        _mark(event), "a second document starts here", "write one file for each"
                    )
                    raise _Stop
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, events, 1)
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        mark = _mark(event)
        if depth > MAX_DEPTH:
            self._say(mark, f"is nested deeper than {MAX_DEPTH} levels", "make it flatter")
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, mark)
        self._count(1, mark)
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._say(mark, f"tags are not read: {tag}", "take the tag away")
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, events, depth)
        else:
            node = self._mapping(mark, events, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _count(self, more: int, mark: tuple[int, int]) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            self._say(
                mark, f"holds more than {MAX_NODES} values, aliases counted", "split the file"
            )
            raise _Stop

    def _alias(self, event: yaml.AliasEvent, mark: tuple[int, int]) -> _Node:
        known = self._anchors.get(event.anchor or "")
        if known is None:
            inside = event.anchor in self._anchors
            problem = (
                f"*{event.anchor} contains itself" if inside else f"no anchor &{event.anchor} above"
            )
            self._say(mark, problem, "write the value out")
            return _Node(None, mark)
        self._count(known.size, mark)
        return known

    def _sequence(self, mark: tuple[int, int], events: Iterator[yaml.Event], depth: int) -> _Node:
        node = _Node([], mark)
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            child = self._node(event, events, depth + 1)
            node.children[len(node.data)] = child
            node.data.append(child.data)
            node.size += child.size
        return node

    def _mapping(self, mark: tuple[int, int], events: Iterator[yaml.Event], depth: int) -> _Node:
        node = _Node({}, mark)
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, events, depth)
            value = self._node(next(events), events, depth + 1)
            node.size += value.size
            if key is None:
                continue
            if key in node.keys:
                line, column = node.keys[key]
                self._say(
                    _mark(event),
                    f"`{key}` is written twice, first at line {line}, column {column}",
                    "keep one of them",
                )
                continue
            node.keys[key] = _mark(event)
            node.children[key] = value
            node.data[key] = value.data
        return node

    def _key(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> str | None:
        """Return the key as text, however it is written; None when it can not be one."""
        mark = _mark(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, events, depth + 1)
            self._say(mark, "this key is not a word", "write `name: value`")
            return None
        self._count(1, mark)
        if event.tag is not None:
            self._say(mark, f"tags are not read: {event.tag}", "take the tag away")
        if event.anchor is not None:
            self._anchors[event.anchor] = _Node(event.value, mark)
        plain = not event.style
        if plain and event.value == "<<":
            self._say(mark, "merge keys (`<<`) are not read", "write the values out")
            return None
        if plain and event.value in _NULL:
            self._say(mark, "a key is missing before `:`", "write `name: value`")
            return None
        return self._text_of(event.value, mark)

    def _text_of(self, text: str, mark: tuple[int, int]) -> str:
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            self._say(
                mark,
                "half a character (a lone surrogate) is in this text",
                "write the character itself",
            )
            return text.encode("utf-8", "replace").decode("utf-8")
        return text

    def _scalar(self, event: yaml.ScalarEvent, mark: tuple[int, int]) -> _Node:
        text = self._text_of(event.value, mark)
        return _Node(text if event.style else self._plain(text, mark), mark, raw=text)

    def _plain(self, text: str, mark: tuple[int, int]) -> Any:
        """Read an unquoted scalar by the core schema of YAML 1.2."""
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text.lower() in _TRAPS:
            meant = _TRAPS[text.lower()]
            self._say(
                mark,
                f"`{text}` is {meant} to some readers of YAML and text to others",
                f"write {meant}, or '{text}' in quotes",
            )
            return meant == "true"
        if _ZEROS.fullmatch(text):
            self._say(
                mark,
                f"`{text}` starts with zero: octal to some readers of YAML, not to others",
                f"write {text.lstrip('+-0') or '0'}, 0o{text.lstrip('+-0') or '0'} or '{text}' in quotes",
            )
            return 0
        if len(text) > _LONGEST_NUMBER:
            return text
        if _INT.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            return float(text.replace(".", "").lower())
        return text


def _events(scanner: Any) -> Iterator[yaml.Event]:
    while scanner.check_event():
        yield scanner.get_event()


def _agreed(events: Iterator[yaml.Event], text: str) -> Iterator[yaml.Event]:
    """Yield events of libyaml as long as PyYAML's scanner takes each `?` as they do; raises YAMLError where it may not.

    Inside quotes, in a block of text, and in plain text outside of brackets it is a character like others.
    """
    asked = [found.start() for found in re.finditer(r"\?", text)]
    asked.reverse()
    flow: list[bool] = []
    for event in events:
        assert event.start_mark is not None and event.end_mark is not None  # noqa: S101, PT018  # scanners of text always set them
        if asked and asked[-1] < event.start_mark.index:
            raise yaml.YAMLError("a `?` that is no part of a text")
        if isinstance(event, yaml.CollectionStartEvent):
            flow.append(bool(event.flow_style))
        elif isinstance(event, yaml.CollectionEndEvent):
            flow.pop()
        elif isinstance(event, yaml.ScalarEvent) and (event.style or not flow or not flow[-1]):
            while asked and asked[-1] < event.end_mark.index:
                asked.pop()
        yield event


def _mark(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None  # noqa: S101  # scanners of text always set it
    return event.start_mark.line + 1, event.start_mark.column + 1


def _lay(
    node: _Node,
    path: Place,
    values: dict[Place, tuple[int, int]],
    keys: dict[Place, tuple[int, int]],
    raw: dict[Place, str],
) -> None:
    """Write the marks of a tree under their full paths; an aliased part is laid at each of its places."""
    values[path] = node.mark
    if node.raw is not None:
        raw[path] = node.raw
    for part, child in node.children.items():
        if part in node.keys:
            keys[(*path, part)] = node.keys[part]
        _lay(child, (*path, part), values, keys, raw)


_QUOTE: Final = "quote the text: 'like this'"
_WORDS: Final = (
    (r"found character '\\t'", "a tab stands where spaces must", "indent with spaces"),
    (r"mapping values are not allowed", "a second `: ` in one value, or a line indented too far", _QUOTE),
    (r"found character '([@`%|>])'|found character", "this character can not start a value", _QUOTE),
    (r"found unexpected end of stream", "a quote was opened and never closed", "close the quote"),
    (r"got '<stream end>'|found '<stream end>'", "a bracket was opened and never closed", "close it"),
    (r"expected ',' or '[}\]]'", "a `,` or closing bracket is missing before this", "add it, or quote the text"),
    (r"expected <block end>", "this line does not fit the indentation of the lines above", "align it with them"),
    (r"could not find expected ':'", "a `:` is missing after a key", "write `name: value`"),
    (r"found unknown escape character", "this escape is not known in double quotes", "use single quotes"),
    (r"found undefined tag handle", "tags are not read", "take the tag away"),
    (r"found duplicate anchor", "this anchor is defined twice", "rename one of them"),
)  # fmt: skip
"""What PyYAML says -> what people understand, and what they should do."""
