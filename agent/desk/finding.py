"""What was meant: ids and names, whole or in part, among all that there is. What every part of the desk stands on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from agent import views
from agent.causes import CAUSES, known
from agent.desk.hooks import Hooks
from agent.errors import Refused
from agent.meant import NotThere, few, meant, pick
from agent.model import Entity, Incident, Run, Series, entity


class Finding:
    """What was meant among all that there is, and the one way into the journal."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks

    def name(self, e: Entity) -> str:
        """Return what people call an entity."""
        return views.name_of(e, self.hooks.world.attrs(e))

    def meant(self, text: str) -> Entity:
        """Return the entity that was meant by an id, a name, or a unique part of one; raises NotThere, Refused."""
        return self._entity(text)

    def series(self, text: str) -> Series:
        """Return the series that was meant by its text, or by its metric (and entity) when that is unique.

        Raises NotThere, Refused.
        """
        found = {str(s): s for s in self.hooks.series()}
        if text in found:
            return found[text]
        metric, _, rest = text.partition("{")
        some = [s for name, s in found.items() if s.metric == metric and rest.rstrip("}") in name]
        if len(some) == 1:
            return some[0]
        if some:
            raise Refused(f"{text} is {len(some)} series; write one of {few(str(s) for s in some)}")
        near = difflib.get_close_matches(metric, {s.metric for s in found.values()}, n=3)
        raise NotThere(
            f"no series {text!r} has a history; "
            + (f"near are {few(near)}" if near else "see /metrics")
        )

    def _record(self, kind: str, subject: str, body: dict[str, Any]) -> None:
        self.hooks.record(kind, subject, body, self.hooks.now())

    def _incident(self, text: str) -> Incident:
        return self.hooks.memory.incidents[pick(text, self.hooks.memory.incidents, "incident")]

    def _run(self, text: str) -> Run:
        return self.hooks.memory.runs[pick(text, self.hooks.memory.runs, "run")]

    def _entities(self) -> dict[str, str]:
        """Return id -> name of everything that can be meant."""
        found: dict[Entity, None] = dict.fromkeys(self.hooks.world.entities())
        for service in self.hooks.config.services:
            found[Entity("service", service.id)] = None
            found.update(dict.fromkeys(Entity("model", m) for m in service.models))
        for run in self.hooks.memory.live_runs():
            found[run.target] = None
        for i in self.hooks.memory.open_incidents():
            found.update(dict.fromkeys(i.entities))
        found.update(dict.fromkeys(c.entity for c in self.hooks.memory.changes.values()))
        return {e.id: self.name(e) for e in found}

    def _entity(self, text: str) -> Entity:
        return entity(meant(text, self._entities()))

    def _target(self, kind: str, text: str, names: Mapping[str, str]) -> Entity:
        """Return the entity that was meant as target of a playbook: one of its kind before any other."""
        some = {id_: name for id_, name in names.items() if id_.startswith(f"{kind}:")}
        try:
            return entity(meant(text, some))
        except NotThere:
            return entity(meant(text, names))


def check_cause(cause: str) -> None:
    """Raise Refused when no cause is called so, with those that are nearly."""
    if not known(cause):
        near = difflib.get_close_matches(cause, CAUSES, n=3, cutoff=0.4)
        raise Refused(
            f"no cause is called {cause!r}; did you mean {' or '.join(near) or next(iter(CAUSES))}?"
        )
