"""A document against a model: what pydantic says, in plain words and at its place."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from agent.errors import ConfigError, Fault
from agent.secret import REFERENCE, Hidden
from agent.strict.document import Document, Part, Place, did_you_mean, is_secret

M = TypeVar("M", bound=BaseModel)


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
    confused = {document.fault(at, *words) for at, *words in _confused(instance, path, data)}
    if confused:
        return None, sorted({*faults, *confused}, key=_order)
    return instance, faults


def misfits(model: type[BaseModel], data: Any) -> list[Place]:
    """Return the places in data that keep them from fitting a model; () = the whole. Without what is missing there."""
    try:
        instance = model.model_validate(data)
    except ValidationError as error:
        return [told.path for told in _meant(_told(data, error))]
    except RecursionError:
        return [()]
    return [path for path, _, _ in _confused(instance, (), data)]


def say(error: ValidationError) -> str:
    """Say in one line all that is wrong with values that stand in no document: `where: problem; remedy`."""
    said = []
    missing = [one["loc"] for one in error.errors() if one["type"] == "missing"]
    for one in error.errors():
        where = ".".join(map(str, one["loc"]))
        if one["type"] == "missing":
            if one["loc"] != missing[-1]:  # told together with the last of them
                continue
            where = ", ".join(".".join(map(str, loc)) for loc in missing)
            problem = "they are missing" if len(missing) > 1 else "it is missing"
            remedy = f"write {', '.join(f'`{loc[-1]}: ...`' for loc in missing)}"
        elif one["type"] == "extra_forbidden":
            problem, remedy = "there is no such key", ""
        else:
            problem, remedy = _words(one, one["input"], None, secret=is_secret(one["loc"]))
        said.append(f"{where}: " * bool(where) + problem + f"; {remedy}" * bool(remedy))
    return ". ".join(said)


def _order(fault: Fault) -> tuple[str, int, int, str]:
    return (fault.place, fault.line, fault.column, fault.problem)


@cache
def keys_of(model: type[BaseModel]) -> Mapping[str, str]:
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
    for told in _meant(_told(data, error)):
        yield _fault(model, document, base, told, data)


def _told(data: Any, error: ValidationError) -> list[_Told]:
    return [_Told(*_follow(data, one["loc"]), one) for one in error.errors(include_url=False)]


def _meant(found: list[_Told]) -> Iterator[_Told]:
    """Yield what the author can mend.

    Of a union pydantic tells the faults of every arm; meant is the arm whose shape was written.
    """
    for told in found:
        other_arm = told.error["type"] in _SHAPELESS and any(
            other.error["type"] not in _SHAPELESS and other.path[: len(told.path)] == told.path
            for other in found
            if other.error["loc"] != told.error["loc"]
        )
        if not other_arm:
            yield told


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
    hidden = _hidden(model, path)
    problem, remedy = _words(one, value, raw, secret=hidden or is_secret(path, value))
    if hidden and kind == "string_pattern_mismatch":
        problem, remedy = "a secret is not written here", "write `env:NAME` or `file:/PATH` of it"
    return document.fault((*base, *path), f"{_named(path)}{problem}", remedy, secret=hidden)


def _named(path: Place) -> str:
    """Say of what value a message speaks: the last key of its path."""
    words = [part for part in path if isinstance(part, str)]
    if not words:
        return ""
    return f"`{words[-1]}`: " if path[-1] == words[-1] else f"`{words[-1]}[{path[-1]}]`: "


def _hidden(model: type[BaseModel], path: Place) -> bool:
    """Tell whether the model says that what stands here, or around it, is a secret."""
    for i, part in enumerate(path):
        for found in _models_at(model, path[:i]):
            info = found.model_fields.get(keys_of(found).get(str(part), str(part)))
            if info is not None and (
                _marked(info.annotation) or any(isinstance(one, Hidden) for one in info.metadata)
            ):
                return True
    return False


def _marked(annotation: Any) -> bool:
    return isinstance(annotation, Hidden) or any(map(_marked, get_args(annotation)))


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
    # what is near the name of a secret was meant to hold one
    hidden = is_secret((remedy,)) and not remedy.startswith("known")
    return document.fault((*base, *path), f"unknown key `{key}`", remedy, key=True, secret=hidden)


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
        return _not_one_of(shown, value, str(ctx.get("expected", "")))
    if value is None and (kind == "string_type" or kind in _SHAPES):
        return "nothing stands here", "write its value, or take the key away"
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
    if kind == "string_pattern_mismatch" and (form := _FORMS.get(str(ctx.get("pattern")))):
        return f"{shown} is {form[0]}", form[1]
    if kind == "string_pattern_mismatch":
        return f"{shown} has a form that is not allowed", f"it must match {ctx.get('pattern')}"
    return f"{shown}: {one['msg'][:1].lower()}{one['msg'][1:]}", ""


def _not_one_of(shown: str, value: Any, expected: str) -> tuple[str, str]:
    """Say what is expected, which pydantic tells as `'a', 'b' or 3`."""
    known = re.findall(r"'([^']+)'", expected)
    numbers = re.findall(r"\b[0-9]+\b", re.sub(r"'[^']+'", "", expected))
    if value in numbers:
        return f"{shown} is text here, no number", f"write {value} without quotes"
    near = did_you_mean(value, known) if isinstance(value, str) and known else ""
    return f"{shown} is not one of {', '.join([*known, *numbers])}", near


def _show(value: Any, raw: str | None) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = raw if raw is not None else str(value)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}...`"


NAME: Final = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
"""Of connectors, services, ways: what people call things in agent.yaml."""
_FORMS: Final = {
    REFERENCE: ("not where a secret is", "write env:NAME or file:/PATH, never the secret itself"),
    NAME: ("no name", "write small letters, digits, `_`, `.` and `-`, not more than 63"),
}  # fmt: skip
"""Patterns that many keys have, in words."""
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


def _confused(instance: Any, path: Place, data: Any) -> Iterator[tuple[Place, str, str]]:
    """Find where pydantic took text for a truth value or a truth value for a number: never meant."""
    for one, part in _parts(instance, data):
        yield from _confused(one, (*path, part), data[part])
    if isinstance(data, Mapping | list) or data is None:
        return
    truth = isinstance(instance, bool)
    if truth and not isinstance(data, bool):
        yield path, f"{_show(data, None)} is not true or false", "write true or false"
    elif isinstance(instance, int | float) and isinstance(data, bool) and not truth:
        yield path, f"`{str(data).lower()}` is not a number", "write a number like 2.5"


def _parts(instance: Any, data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what the instance holds beside the key or index that it was written under."""
    if isinstance(instance, BaseModel) and isinstance(data, Mapping):
        names = keys_of(type(instance)).items()
        yield from ((getattr(instance, name), key) for key, name in names if key in data)
    elif isinstance(instance, Mapping) and isinstance(data, Mapping):
        yield from ((instance[key], key) for key in data if key in instance)
    elif isinstance(instance, list | tuple) and isinstance(data, list):
        yield from ((one, i) for i, one in enumerate(instance[: len(data)]))
