"""What the verbs of steps say of themselves: effect, ability, whether they can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent import registry
from agent.abilities import methods
from agent.ports import Undo

if TYPE_CHECKING:
    from agent.playbook.language import StepModel


def verb_of(step: StepModel) -> type[Any]:
    """Return the action that a step uses."""
    return registry.action.get(step.use)


def ability_of(step: StepModel) -> str:
    """Return the name of the ability that a step needs; "" = none."""
    ability = verb_of(step).ability
    return ability.__name__ if ability is not None else ""


def can_undo(verb: type[Any]) -> bool:
    """Tell whether a verb can put back what was there, whatever it was asked to do."""
    return bool(verb.reversible) and may_undo(verb)


def may_undo(verb: type[Any]) -> bool:
    """Tell whether a verb can put back what was there, if need be only where somebody has declared how."""
    return all(hasattr(verb, name) for name in methods(Undo)) and not stays(verb)


def stays(verb: type[Any]) -> str:
    """Say why nothing of what a verb does is put back, though it needs no approval for that; "" = it is."""
    return str(getattr(verb, "stays", ""))


def put_back(step: StepModel) -> bool:
    """Tell whether a step is put back when its run undoes."""
    verb = verb_of(step)
    return may_undo(verb) if step.undo == "auto" else step.undo is None and can_undo(verb)


def given_by(step: StepModel) -> frozenset[str] | None:
    """Return the names of the values that later steps may read of a step; None = its verb does not say."""
    gives = getattr(verb_of(step), "gives", None)
    if gives is None:
        return None
    return frozenset(gives(step.with_) if callable(gives) else gives)
