"""JSON Schema of what people write, made from the models that the loader uses: editors complete and underline by it.

    homeostat schema playbook > playbook.schema.json
    # yaml-language-server: $schema=playbook.schema.json       the first line of a playbook

Draft 7, as editors read it. It holds what is registered here: verbs with their parameters (a branch for each), signals,
causes, connectors and detectors with their settings. It says less than `homeostat playbook lint`: what stands in
expressions, and what only the whole can tell, no schema can say. A file without `version` is a layer over a playbook of
the same id and need not be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from agent import registry
from agent.catalogue import SIGNALS
from agent.causes import CAUSES
from agent.config import Config
from agent.playbook.check import branches
from agent.playbook.language import Playbook

Schema = dict[str, Any]

_DRAFT: Final = "http://json-schema.org/draft-07/schema#"
_REF: Final = "#/definitions/{model}"
_NAMES: Final = frozenset({"properties", "definitions", "patternProperties"})
"""Keywords whose keys are names, not keywords."""
_DROPPED: Final = frozenset({"title", "ge", "le", "gt", "lt", "allow_inf_nan"})
"""What pydantic says beside the schema, or twice."""
_FILLED: Final[Schema] = {
    "type": "string",
    "pattern": r"\$\{",
    "description": "An expression, filled when it acts.",
}


def playbook() -> Schema:
    """Return the schema of a playbook. Verbs must be registered."""
    out = _of(Playbook)
    parts = out["definitions"]
    signal = _one_of((n, s.help) for n, s in SIGNALS.items() if s.kind != "counter")
    signal["anyOf"].append(
        {"pattern": r"^[a-z]+\.[a-z0-9_]+\{.+\}$", "description": "One of several series."}
    )
    parts["Item"]["properties"]["signal"] = signal
    words = {branch: CAUSES.get(branch, f"all below {branch}") for branch in sorted(branches())}
    cause = parts["Because"]["properties"]["cause"]
    parts["Because"]["properties"]["cause"] = {
        **_one_of(words.items()),
        "description": cause.get("description", ""),
    }
    step = parts["StepModel"]
    step["properties"]["use"] = _one_of(
        (name, _line(registry.action.get(name))) for name in registry.action
    )
    step["properties"]["id"].pop("default", None)
    step["allOf"] = [_branch("use", name, "with", _params(name, parts)) for name in registry.action]
    needed, step["required"] = step["required"], []
    step["anyOf"] = [{"required": needed}, {"required": ["id"]}]
    whole = {"items": {"required": needed}}
    out["if"] = {"required": ["version"]}
    out["then"] = {"required": out["required"], "properties": {"do": whole, "then": whole}}
    out["required"] = ["id"]
    return {"$schema": _DRAFT, "title": "homeostat playbook", **out}


def agent() -> Schema:
    """Return the schema of agent.yaml. Connectors and detectors must be registered."""
    out = _of(Config)
    parts = out["definitions"]
    for part, kind, base in (
        ("connectors", registry.connector, "ConnectorConfig"),
        ("detectors", registry.detector, "DetectorConfig"),
    ):
        own = {name: _own(kind.get(name), name, base, parts) for name in kind}
        # pydantic says `patternProperties` for named keys: then nothing is "additional"
        names = out["properties"][part].pop("patternProperties", {})
        out["properties"][part] = {
            **out["properties"][part],
            "propertyNames": {"pattern": next(iter(names), "")},
            "properties": own,
            "additionalProperties": {
                "allOf": [
                    {"$ref": f"#/definitions/{base}"},
                    {"required": ["use"], "properties": {"use": {"enum": list(kind)}}},
                    *(_branch("use", name, "", ref) for name, ref in own.items()),
                ]
            },
        }
    return {"$schema": _DRAFT, "title": "homeostat agent.yaml", **out}


def _of(model: type[BaseModel]) -> Schema:
    made = model.model_json_schema(by_alias=True, ref_template=_REF, mode="validation")
    made["definitions"] = made.pop("$defs", {})
    return dict(_clean(made))


def _clean(schema: Any, *, names: bool = False) -> Any:
    if isinstance(schema, list):
        return [_clean(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value
        if key == "default" and not names
        else _clean(value, names=key in _NAMES and not names)
        for key, value in schema.items()
        if names or key not in _DROPPED
    }


def _one_of(words: Iterable[tuple[str, str]]) -> Schema:
    """Return a choice that editors show with a line for each."""
    return {"anyOf": [{"const": word, "description": line} for word, line in words]}


def _line(cls: type[Any]) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _branch(key: str, value: str, part: str, schema: Schema) -> Schema:
    """Return: when `key` is `value`, the mapping (or its part) is as this schema says."""
    then = {"properties": {part: schema}} if part else schema
    return {"if": {"required": [key], "properties": {key: {"const": value}}}, "then": then}


def _put(
    model: type[BaseModel], name: str, parts: Schema, change: Callable[[Schema], None]
) -> Schema:
    """Add a model's schema to the definitions under a name; return the reference to it."""
    made = _of(model)
    inner = made.pop("definitions")
    moved = {old: f"{name}.{old}" for old in inner}
    for old, schema in inner.items():
        parts[moved[old]] = _moved(schema, moved)
    parts[name] = _moved(made, moved)
    change(parts[name])
    return {"$ref": f"#/definitions/{name}"}


def _moved(schema: Any, moved: Mapping[str, str]) -> Any:
    if isinstance(schema, list):
        return [_moved(one, moved) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: _moved(value, moved) for key, value in schema.items()}
    if isinstance(ref := out.get("$ref"), str):
        old = ref.rpartition("/")[2]
        out["$ref"] = f"#/definitions/{moved.get(old, old)}"
    return out


def _params(name: str, parts: Schema) -> Schema:
    """Return the schema of a verb's parameters: each may be a `${}` instead."""
    model = getattr(registry.action.get(name), "Params", None)
    if model is None:
        return {"maxProperties": 0}

    def fillable(schema: Schema) -> None:
        properties = schema.get("properties", {})
        for key, one in properties.items():
            said = {k: one.pop(k) for k in ("description", "default") if k in one}
            properties[key] = {"anyOf": [one, _FILLED], **said}

    return _put(model, f"with.{name}", parts, fillable)


def _own(cls: type[Any], name: str, base: str, parts: Schema) -> Schema:
    """Return the schema of one connector's or detector's settings: its own beside those that all have."""
    model = getattr(cls, "Config", None)
    common = dict(parts[base]["properties"])

    def beside(schema: Schema) -> None:
        own = schema.get("properties", {})
        schema["properties"] = {**common, **own}
        schema["description"] = _line(cls)

    if model is None:
        parts[f"{base}.{name}"] = {
            "properties": common,
            "additionalProperties": False,
            "description": _line(cls),
        }
        return {"$ref": f"#/definitions/{base}.{name}"}
    return _put(model, f"{base}.{name}", parts, beside)


def verbs() -> Iterator[tuple[str, Schema]]:
    """Yield every verb with the schema of its parameters, for `playbook new` and people who look around."""
    for name in registry.action:
        parts: Schema = {}
        _params(name, parts)
        yield name, parts.get(f"with.{name}", {})
