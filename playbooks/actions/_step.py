"""What every verb needs of its step: whose name stands on the act, and the change that tells of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, StringConstraints

from agent.errors import Refused
from agent.model import Change, Entity, entity

if TYPE_CHECKING:
    from agent.ports import Step


def _text(value: Any) -> Any:
    """Let a whole number that YAML or an expression gave stand for a version: 3 and 3.0 are "3"."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) else value


VersionText = Annotated[
    str, BeforeValidator(_text), StringConstraints(min_length=1, max_length=128)
]


def author(step: Step) -> str:
    """Return the name under which the act is known in the world: always `homeostat:...`, so that it is ours."""
    return step.by if step.by.startswith("homeostat:") else f"homeostat:{step.key}"


def change(
    step: Step,
    about: Entity,
    kind: Literal["release", "config", "scale", "restart", "act", "flag"],
    before: Any,
    after: Any,
) -> Change:
    """Tell of our own act; the moment is now, at the edge where it happened."""
    return Change(time.time(), about, kind, str(before), str(after), author(step), step.use)


def target(step: Step, override: str = "") -> Entity:
    """Return the entity that a step is about; raises Refused for what is no entity id."""
    try:
        return entity(override or step.target)
    except ValueError as wrong:
        raise Refused(
            f"step {step.key} has no target that {step.use} understands: {wrong}"
        ) from None


def nothing(done: Mapping[str, Any]) -> bool:
    """Tell whether a step left nothing that could be put back: a dry run, or an act of others."""
    return not done
