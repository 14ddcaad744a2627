"""The OpenAPI document, made from the same table of ways that the server serves: it can not lag behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from agent import __version__
from agent.authority import NEEDS

if TYPE_CHECKING:
    from agent.api import Way

_REF: Final = "#/components/schemas/{model}"


def document(ways: Sequence[Way]) -> dict[str, Any]:
    """Return OpenAPI 3.1 for these ways."""
    schemas: dict[str, Any] = {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {"type": "string", "description": "what failed, on what"},
                "remedy": {"type": "string", "description": "what to do"},
                "faults": {"type": "array", "items": {"type": "object"}},
            },
        }
    }
    paths: dict[str, dict[str, Any]] = {}
    for way in ways:
        paths.setdefault(way.path, {})[way.method.lower()] = _operation(way, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "homeostat",
            "version": __version__,
            "description": "Reading on loopback is free; whatever changes something needs a token.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(way: Way, schemas: dict[str, Any]) -> dict[str, Any]:
    role = NEEDS[way.verb]
    said: dict[str, Any] = {
        "operationId": way.name,
        "summary": way.summary,
        "description": f"Needs the role {role}.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in way.path_params
        ],
        "responses": {
            "200": {"description": "done", "content": {way.media: {"schema": _schema(way.returns, schemas)}}},
            "default": {
                "description": "why not, and what to do",
                "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
            },
        },
        "security": [{}, {"token": []}] if way.verb == "see" else [{"token": []}],
    }  # fmt: skip
    if way.query is not None:
        schema = way.query.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        needed = schema.get("required", [])
        said["parameters"] += [
            {"name": name, "in": "query", "required": name in needed, "schema": part,
             "description": part.pop("description", "")}
            for name, part in schema.get("properties", {}).items()
        ]  # fmt: skip
    if way.body is not None:
        content = {"application/json": {"schema": _schema(way.body, schemas)}}
        said["requestBody"] = {"required": True, "content": content}
    return said


def _schema(what: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, its definitions moved to where all share them."""
    if what is None:
        return {}
    schema = TypeAdapter(what).json_schema(ref_template=_REF, mode="serialization")
    schemas.update(schema.pop("$defs", {}))
    name = schema.get("title", "")
    if name and schema.get("type") == "object" and not getattr(what, "__args__", None):
        schemas[name] = schema
        return {"$ref": _REF.format(model=name)}
    return schema
