"""Strict YAML: what a person wrote, with the place of every key and value.

Good for config, services and playbooks; not for data (a file may hold 256 KiB). YAML 1.2 core scalars: `yes`,
`on` and `12:30` are text, `0777` is refused, quoted values stay text. Refused are what surprises people: a key
written twice, tags, merge keys, a second document, `yes/no/on/off` unquoted, tabs, anything but UTF-8. Aliases
are read, but what they expand to is counted, so that they can not grow without end.

    document = read(Path("agent.yaml"))        # never raises: faults are kept in the document
    config = check(Config, document)           # raises ConfigError with every fault at once

Cost: about 20 us a value (the pure Python scanner of PyYAML, for its exact marks).
"""

from __future__ import annotations

import difflib
import re
import stat
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from agent.errors import ConfigError, Fault

Part = str | int
Place = tuple[Part, ...]
M = TypeVar("M", bound=BaseModel)

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000
"""Values in one document, aliases expanded: a hundred times our largest playbook."""


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
        self, path: Sequence[Part], problem: str, remedy: str = "", *, key: bool = False
    ) -> Fault:
        """Return a fault at the place of `path`."""
        line, column = self.where(path, key=key)
        shown = "" if _is_secret(tuple(path)) else _line_of(self.lines, line)
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


# ---------------------------------------------------------------- reading


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


_SECRET: Final = re.compile(r"(?i)token|secret|passw|api_?key|credential")
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""Where PyYAML lets a line end."""


def _position(text: str, index: int | None) -> tuple[int, int]:
    before = text if index is None else text[:index]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _line_of(lines: Sequence[str], line: int) -> str:
    """Return a line to be shown; "" when there is none, or when it may hold a secret."""
    text = lines[line - 1] if 1 <= line <= len(lines) else ""
    return "" if _SECRET.search(text) else text


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

    def document(self) -> Document:
        root: _Node | None = None
        broken = False
        try:
            root = self._root(yaml.parse(self._text, Loader=yaml.SafeLoader))
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
            self._say(
                (0, 0), f"is not YAML: {str(error).splitlines()[0] if str(error) else error!r}", ""
            )
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

    def _say(self, mark: tuple[int, int], problem: str, remedy: str) -> None:
        shown = _line_of(self._lines, mark[0])
        self._faults.append(Fault(self._place, *mark, problem, remedy, shown))

    def _explain(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problem = " ".join(str(error.problem or error.context or "is not YAML").split())
        for pattern, words, remedy in _WORDS:
            if re.search(pattern, problem):
                self._say(where, words, remedy)
                return
        self._say(where, f"is not YAML: {problem}", "check indentation, brackets and quotes nearby")

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
        if any("\ud800" <= c <= "\udfff" for c in text):
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


def _mark(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None  # noqa: S101  # the pure Python scanner always sets it
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


# ---------------------------------------------------------------- checking


def check(model: type[M], document: Document) -> M:
    """Return the instance, or raise ConfigError with every fault of the document at once."""
    instance, faults = examine(model, document)
    if instance is None or faults:
        raise ConfigError(faults)
    return instance


def examine(
    model: type[M], document: Document, path: Place = (), data: Any = None
) -> tuple[M | None, list[Fault]]:
    """Check the part of a document at `path` (its data may be handed in, reworked) and return all faults.

    The instance is None exactly when the data do not fit the model; faults of the YAML itself are listed
    when the whole document is examined.
    """
    faults = list(document.faults) if not path else []
    if document.broken and not path:
        return None, faults
    if data is None:
        data = document.data
        for part in path:
            data = data[part]
    try:
        instance = model.model_validate(data)
    except ValidationError as error:
        faults += _translate(model, document, path, data, error)
        return None, sorted(set(faults), key=_order)
    except RecursionError:
        return None, [*faults, document.fault(path, "is nested too deeply", "make it flatter")]
    confused = list(_confused(instance, document, path, data))
    if confused:
        return None, sorted({*faults, *confused}, key=_order)
    return instance, faults


def _order(fault: Fault) -> tuple[str, int, int, str]:
    return (fault.place, fault.line, fault.column, fault.problem)


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """Return what a person may write in a mapping of this model: key -> field name."""
    return {info.alias or name: name for name, info in model.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation can stand for, unions opened."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return [m for arm in get_args(annotation) for m in _models(arm)]
    return []


def _inside(annotation: Any, part: Part) -> list[Any]:
    """Return the annotations that a step into `part` may lead to."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _inside(args[0], part)
    if origin in {Union, types.UnionType}:
        return [found for arm in args for found in _inside(arm, part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = keys_of(annotation).get(str(part), str(part))
        info = annotation.model_fields.get(name)
        return [info.annotation] if info is not None else []
    if origin in {dict, Mapping} or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return [args[1]] if len(args) == 2 else []
    if origin in {list, tuple, set, frozenset} or origin is Sequence:
        return [arm for arm in args if arm is not Ellipsis]
    return []


def _follow(data: Any, loc: Sequence[Any]) -> tuple[Place, tuple[Any, ...]]:
    """Split pydantic's location into the path in the data and what is left of it.

    Names of union arms and validators stand between the parts; they are stepped over.
    """
    path: list[Part] = []
    here = data
    rest: list[Any] = list(loc)
    while rest:
        part = rest.pop(0)
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, Mapping) and part in here):
            here = here[part]
            path.append(part)
        elif not rest:
            return tuple(path), (part,)
    return tuple(path), ()


_SHAPELESS: Final = frozenset({
    "model_type", "dict_type", "list_type", "string_type", "model_attributes_type", "mapping_type",
})  # fmt: skip
"""Error types of pydantic that say: not even the shape (mapping, list, text) is right."""


def _translate(
    model: type[BaseModel], document: Document, base: Place, data: Any, error: ValidationError
) -> Iterator[Fault]:
    found = [_Told(*_follow(data, one["loc"]), one) for one in error.errors(include_url=False)]
    for told in found:
        # pydantic tells the faults of every arm of a union; meant is the arm whose shape was written
        other_arm = told.error["type"] in _SHAPELESS and any(
            other.error["type"] not in _SHAPELESS and other.path[: len(told.path)] == told.path
            for other in found
            if other.error["loc"] != told.error["loc"]
        )
        if not other_arm:
            yield _fault(model, document, base, told, data)


@dataclass(frozen=True, slots=True)
class _Told:
    """What pydantic told: the path in the data, what of its location is not in the data, and all of it."""

    path: Place
    rest: tuple[Any, ...]
    error: Any


def _fault(
    model: type[BaseModel], document: Document, base: Place, told: _Told, data: Any
) -> Fault:
    path, one = told.path, told.error
    kind = one["type"]
    if kind == "extra_forbidden":
        return _unknown_key(model, document, base, path)
    if kind == "missing":
        name = str(one["loc"][-1])
        hint = _help_of(model, path, name)
        return document.fault((*base, *path), f"`{name}` is missing", f"add `{name}: ...`{hint}")
    value = data
    for part in path:
        value = value[part]
    raw = document.raw.get((*base, *path))
    if "[key]" in one["loc"]:
        problem, remedy = _words(one, path[-1], None, secret=False)
        return document.fault((*base, *path), f"key {problem}", remedy, key=True)
    problem, remedy = _words(one, value, raw, secret=_is_secret(path))
    return document.fault((*base, *path), f"{_named(path)}{problem}", remedy)


def _named(path: Place) -> str:
    """Say of what value a message speaks: the last key of its path."""
    words = [part for part in path if isinstance(part, str)]
    if not words:
        return ""
    return f"`{words[-1]}`: " if path[-1] == words[-1] else f"`{words[-1]}[{path[-1]}]`: "


def _is_secret(path: Place) -> bool:
    return any(_SECRET.search(part) for part in path if isinstance(part, str))


def _models_at(model: type[BaseModel], path: Place) -> list[type[BaseModel]]:
    annotations: list[Any] = [model]
    for part in path:
        annotations = [a for found in annotations for a in _inside(found, part)]
    return [m for a in annotations for m in _models(a)]


def _unknown_key(model: type[BaseModel], document: Document, base: Place, path: Place) -> Fault:
    key = str(path[-1])
    known = sorted({k for m in _models_at(model, path[:-1]) for k in keys_of(m)})
    if key in {"on", "true"} and "when" in known:
        remedy = "write `when:` (many readers of YAML turn a key `on` into true)"
    else:
        remedy = did_you_mean(key, known, show=40)
    return document.fault((*base, *path), f"unknown key `{key}`", remedy, key=True)


def _help_of(model: type[BaseModel], path: Place, name: str) -> str:
    """Return the field's own words, the first sentence, where it has any."""
    for found in _models_at(model, path):
        info = found.model_fields.get(keys_of(found).get(name, name))
        if info is not None and info.description:
            return f" ({info.description.split('. ')[0].rstrip('.')})"
    return ""


def _words(one: Any, value: Any, raw: str | None, *, secret: bool) -> tuple[str, str]:
    """Say pydantic's error type in plain words: (problem, remedy)."""
    kind, ctx = one["type"], one.get("ctx", {})
    shown = "what is written" if secret else _show(value, raw)
    if kind in {"value_error", "assertion_error"}:
        problem, _, remedy = str(ctx.get("error", one["msg"])).partition("; ")
        return problem, remedy
    if kind in {"literal_error", "enum"}:
        known = re.findall(r"'([^']*)'", str(ctx.get("expected", "")))
        near = did_you_mean(value, known) if isinstance(value, str) and known else ""
        return f"{shown} is not one of {', '.join(known)}", near
    if kind == "string_type":
        return (
            f"{shown} is not text",
            f"put it in quotes: '{raw}'" if raw and not secret else "write text",
        )
    if kind in _SHAPES:
        wanted, remedy = _SHAPES[kind]
        return f"{shown} is not {wanted}", remedy
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        limit = ctx.get(name)
        return f"{shown} is out of bounds: {words} {limit}", ""
    if kind == "string_pattern_mismatch":
        return f"{shown} has a form that is not allowed", f"it must match {ctx.get('pattern')}"
    return f"{shown}: {one['msg'][:1].lower()}{one['msg'][1:]}", ""


def _show(value: Any, raw: str | None) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = raw if raw is not None else str(value)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}...`"


_SHAPES: Final = {
    "bool_type": ("true or false", "write true or false"),
    "bool_parsing": ("true or false", "write true or false"),
    "int_type": ("a whole number", "write a number like 3"),
    "int_parsing": ("a whole number", "write a number like 3"),
    "int_from_float": ("a whole number", "write a number like 3"),
    "float_type": ("a number", "write a number like 2.5"),
    "float_parsing": ("a number", "write a number like 2.5"),
    "finite_number": ("a finite number", "write a number like 2.5"),
    "list_type": ("a list", "write `- one` lines or [one, two]"),
    "tuple_type": ("a list", "write `- one` lines or [one, two]"),
    "set_type": ("a list", "write `- one` lines or [one, two]"),
    "dict_type": ("a mapping", "write `key: value` lines or {key: value}"),
    "mapping_type": ("a mapping", "write `key: value` lines or {key: value}"),
    "model_type": ("a mapping", "write `key: value` lines or {key: value}"),
    "model_attributes_type": ("a mapping", "write `key: value` lines or {key: value}"),
    "path_type": ("a path", "write a path as text"),
}
_BOUNDS: Final = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "too_short": ("min_length", "entries at least"),
    "too_long": ("max_length", "entries at most"),
    "string_too_short": ("min_length", "characters at least"),
    "string_too_long": ("max_length", "characters at most"),
}


def _confused(instance: Any, document: Document, path: Place, data: Any) -> Iterator[Fault]:
    """Find where pydantic took text for a truth value or a truth value for a number: never meant."""
    for one, part in _parts(instance, data):
        yield from _confused(one, document, (*path, part), data[part])
    if isinstance(data, Mapping | list) or data is None:
        return
    truth = isinstance(instance, bool)
    if truth and not isinstance(data, bool):
        yield document.fault(
            path, f"{_show(data, None)} is not true or false", "write true or false"
        )
    elif isinstance(instance, int | float) and isinstance(data, bool) and not truth:
        yield document.fault(
            path, f"`{str(data).lower()}` is not a number", "write a number like 2.5"
        )


def _parts(instance: Any, data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what the instance holds beside the key or index that it was written under."""
    if isinstance(instance, BaseModel) and isinstance(data, Mapping):
        names = keys_of(type(instance)).items()
        yield from ((getattr(instance, name), key) for key, name in names if key in data)
    elif isinstance(instance, Mapping) and isinstance(data, Mapping):
        yield from ((instance[key], key) for key in data if key in instance)
    elif isinstance(instance, list | tuple) and isinstance(data, list):
        yield from ((one, i) for i, one in enumerate(instance[: len(data)]))
