"""Changes on their way into the record: noticed, made unique, and told from our own acts.

    told (POST, webhooks, connectors) --.
    labels that say a version ----------+--> take --> new ones, each once --> journal, incidents, rules
    replicas that were counted ---------'      ^ what the journal remembers: ids, our own acts, the last release

A change that somebody names with an id counts once, however often it is sent. One that we only noticed is dropped when
it is known already, and belongs to a run of ours when that run acted on the same thing just before: our own acts must
not look like somebody else's. Pure: no clock, no disk; O(changes + sightings) a tick.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from agent.model import Change, Entity, Frame, Series

if TYPE_CHECKING:
    from agent.config import Service

_SAME_S: Final = 600.0
"""The same change noticed twice within so long is one."""
_SAME_RESTART_S: Final = 60.0
_OURS_S: Final = 120.0
"""What we see to have changed so soon after an act of ours on the same thing is what we did."""
_HOLD_S: Final = 15.0
"""A number of replicas counts as set when it has stood for so long: one that dies and comes again is no scaling."""
_REPLICAS: Final = "service.replicas_count"
_RELEASED: Final[Mapping[str, tuple[str, ...]]] = {
    "service": ("version", "image", "release"),
    "host": ("kernel", "driver", "os"),
}
"""Kind of entity -> attributes that say which release runs; several, with commas, while one is rolled out."""
_WATCHED: Final = ("objectives", "port", "process", "pidfile", "models", "calls")
"""What of a service in agent.yaml decides how it is judged."""


@dataclass(slots=True)
class _Count:
    """How many replicas stood last, and what is counted since when."""

    stood: float
    now: float
    since: float


@dataclass(slots=True)
class Changes:
    """What was seen of versions and replicas, to notice when they change."""

    _versions: dict[tuple[str, Entity, str], str] = field(default_factory=dict)
    _counts: dict[Entity, _Count] = field(default_factory=dict)
    _columns: dict[str, tuple[tuple[Series, ...], list[int]]] = field(default_factory=dict)

    def take(
        self, frames: Sequence[Frame], told: Iterable[Change], past: Sequence[Change]
    ) -> list[Change]:
        """Return the changes of one tick that are new, in order of their time.

        told: by people, webhooks and connectors; past: what is known already, oldest first, our own acts included
        """
        found = [*told, *(c for f in frames for c in f.changes)]
        for frame in frames:
            found += self._released(frame)
            found += self._scaled(frame)
        out: list[Change] = []
        for change in sorted(found, key=_order):
            known = [*past, *out]
            if not _known(change, known):
                out.append(_completed(change, known))
        return out

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set by `jump` seconds."""
        for count in self._counts.values():
            count.since += jump

    def _released(self, frame: Frame) -> Iterator[Change]:
        """Notice versions that were not there when this source last spoke of the same thing."""
        for sighting in frame.seen:
            who = sighting.entity
            names = _RELEASED.get(who.kind, ())
            for name, value in sighting.attrs if names else ():
                if name not in names or not value:
                    continue
                key = (frame.source, who, name)
                old = self._versions.get(key)
                self._versions[key] = value
                fresh = sorted(set(value.split(",")) - set((old or "").split(",")))
                if old is not None and fresh:
                    said = f"{name}, as {frame.source} tells"
                    yield Change(frame.ts, who, "release", old, ",".join(fresh), text=said)

    def _scaled(self, frame: Frame) -> Iterator[Change]:
        """Notice that another number of replicas stands than before."""
        series, columns = self._columns.get(frame.source, ((), []))
        if series is not frame.series:
            columns = [i for i, s in enumerate(frame.series) if s.metric == _REPLICAS]
            self._columns[frame.source] = (frame.series, columns)
        for i in columns:
            value, who = float(frame.values[i]), frame.series[i].entity
            # none at all is an outage and no setting; nor is coming back from it
            if math.isnan(value) or value <= 0:
                continue
            count = self._counts.setdefault(who, _Count(value, value, frame.ts))
            if value != count.now:
                count.now, count.since = value, frame.ts
            elif value != count.stood and frame.ts - count.since >= _HOLD_S:
                before, count.stood = count.stood, value
                was, now = f"{before:.0f}", f"{value:.0f}"
                yield Change(count.since, who, "scale", was, now, text="replicas, as counted")


def _order(change: Change) -> tuple[object, ...]:
    """By time; of the same time those first that somebody named."""
    c = change
    return c.ts, c.entity, c.kind, not c.id, not c.by, c.after, c.before, c.id, c.by, c.text


def _known(change: Change, known: Sequence[Change]) -> bool:
    """Tell whether this is a change that we have heard of."""
    if change.id:
        return any(c.id == change.id for c in known)
    if change.by:
        return change in known
    for c in reversed(known):
        if c.entity != change.entity or c.kind != change.kind:
            continue
        near = abs(change.ts - c.ts)
        if near <= (_SAME_RESTART_S if change.kind == "restart" else _SAME_S) and (
            change.kind == "restart" or c.after == change.after
        ):
            return True
    return False


def _completed(change: Change, known: Sequence[Change]) -> Change:
    """Add what the record knows: what was there before, and whose act it was."""
    same = [c for c in known if c.entity == change.entity]
    if not change.before and change.kind == "release":
        earlier = [c for c in same if c.kind == "release" and c.ts <= change.ts]
        last = max(earlier, key=lambda c: c.ts, default=change)
        if last.after != change.after:
            change = replace(change, before=last.after)
    if not change.by:
        ours = [
            c for c in same
            if c.ours and c.kind in {change.kind, "act"} and abs(change.ts - c.ts) <= _OURS_S
        ]  # fmt: skip
        if ours:
            change = replace(change, by=ours[-1].by)
    return change


def of_reload(old: Sequence[Service], new: Sequence[Service], now: float) -> list[Change]:
    """Return what an edited agent.yaml changes in how services are judged."""
    before = {s.id: s for s in old}
    out = []
    for service in new:
        was = before.get(service.id)
        keys = [k for k in _WATCHED if was is not None and getattr(was, k) != getattr(service, k)]
        if keys:
            about = Entity("service", service.id)
            out.append(
                Change(now, about, "config", "", "", text=f"agent.yaml: {', '.join(keys)} edited")
            )
    return out
