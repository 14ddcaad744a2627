"""What is watched: our eyes, who depends on whom, what was changed, what fills."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace
from typing import Final

from typing_extensions import TypedDict

from agent import graph, views
from agent.authority import Person
from agent.desk.finding import Finding
from agent.desk.hooks import SourceView
from agent.errors import Refused
from agent.meant import moment
from agent.model import Change
from agent.views import ChangeView, ForecastView

_OLDEST_CHANGE_S: Final = 7 * 86_400.0
_AHEAD_S: Final = 300.0
"""Clocks of those who tell of changes may be so far ahead of ours."""


class ToldView(TypedDict):
    """A change that was told. new: False = it is known by its id already, and nothing was done."""

    id: str
    new: bool
    change: ChangeView


class Watching(Finding):
    """Sources, topology, changes and forecasts."""

    def sources(self) -> list[SourceView]:
        """Return how our eyes are."""
        return self.hooks.sources()

    def blind(self) -> list[SourceView]:
        """Return the sources that do not answer."""
        return [s for s in self.hooks.sources() if s["state"] == "blind"]

    def learning(self) -> list[SourceView]:
        """Return the sources whose history is still too short to judge by."""
        return [s for s in self.hooks.sources() if s["learning"] and not s["learning"]["ready"]]

    def topology(self, target: str = "", *, everything: bool = False) -> graph.TopologyView:
        """Return who is there and who depends on whom, or the part around one of them; raises NotThere, Refused."""
        h = self.hooks
        about = self._entity(target) if target else None
        return graph.view(
            h.world, h.memory.open_incidents(), self.name, about=about, everything=everything
        )

    def changes(self, target: str = "", since: str = "", *, limit: int = 100) -> list[ChangeView]:
        """Return what was changed, by others and by us, the newest first; raises NotThere, Refused.

        target: only of this entity, and of what it depends on; since: `2h` (ago), unix seconds or ISO
        """
        now = self.hooks.now()
        of = None
        if target:
            of = {e for e, _ in self.hooks.world.topology.upstream(self._entity(target))}
        start = moment(since, now, 0.0)
        found = [
            c
            for c in self.hooks.memory.changes.values()
            if c.ts >= start and (of is None or c.entity in of)
        ]
        found.sort(key=lambda c: -c.ts)
        return [views.change_view(c, self.name) for c in found[:limit]]

    def tell_change(self, person: Person, change: Change) -> ToldView:
        """Take a change that somebody tells: a release, a setting. Raises Forbidden, NotThere, Refused.

        entity of `change` may be a name in part, as key of kind `service`; no `ts` (0) = now; no `by` = the person.
        Sent again with the same id it is the same change, and nothing happens.
        """
        person.must("push")
        now = self.hooks.now()
        ts = change.ts or now
        if not now - _OLDEST_CHANGE_S <= ts <= now + _AHEAD_S:
            raise Refused(
                f"ts {ts:.0f} is {'ahead of' if ts > now else 'more than 7 d before'} now ({now:.0f}); "
                "give it in unix seconds, or leave it out"
            )
        if change.by.startswith("homeostat:"):
            raise Refused("by `homeostat:...` is the name of our own acts; write who did it")
        id_ = change.id or f"chg-{secrets.token_hex(6)}"
        old = self.hooks.memory.changes.get(id_)
        if old is not None:
            return {"id": id_, "new": False, "change": views.change_view(old, self.name)}
        told = replace(change, ts=min(ts, now), id=id_, by=change.by or person.name)
        self.hooks.push(told)
        return {"id": id_, "new": True, "change": views.change_view(told, self.name)}

    def forecasts(self, entity_: str = "") -> list[ForecastView]:
        """Return what fills, leaks or ages (of one entity): what is full soonest first. Raises NotThere, Refused."""
        only = self._entity(entity_) if entity_ else None
        now, outlook = self.hooks.now(), self.hooks.config.forecasts
        found = [
            views.forecast_view(f, told, max(outlook.lead(f.target.kind)), self.name, now)
            for f, told in self.hooks.forecasts()
            if only is None or f.target.series.entity == only
        ]

        def rank(v: ForecastView) -> tuple[bool, float, str]:
            return (
                v["state"] == "unknown",
                math.inf if v["median_s"] is None else v["median_s"],
                v["series"],
            )

        return sorted(found, key=rank)
