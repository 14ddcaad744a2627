"""Anomalies and changes that are near in time and topology become one incident with one life.

    nothing -> open -> (acknowledged) -> (mitigated) -> resolved -> open again, when it comes back soon

A *group* is who it concerns: a service with its models, features and workers; a host; one of our own sources.
What opens an incident: a broken objective (page when it harms, else warning), blindness (warning), or the group
view (note): series of a host, a service or a model abnormal together. While its history is too short for that, six
different signals at once open a note. Everything else abnormal that is near joins as evidence:
what is wrong on a host joins the incidents of the services that run there, also when it came earlier or later.
Pure: same input, same incidents; ids are made of what opened them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agent.catalogue import SIGNALS
from agent.model import Anomaly, Change, Entity, Incident, Severity
from agent.topology import Topology
from agent.units import say

MOST_ANOMALIES: Final = 60
"""An incident keeps the strongest; a storm of thousands is still one incident."""
_MANY_SIGNALS: Final = 6
_MANY_FOR_S: Final = 10.0
_ORDER: Final[dict[Severity, int]] = {"note": 0, "warning": 1, "page": 2}


@dataclass(slots=True)
class _Life:
    """What an open incident remembers beside its value."""

    group: Entity
    well_since: float | None = None
    live: dict[tuple[str, str], Anomaly] = field(default_factory=dict)


@dataclass(slots=True)
class Correlator:
    """Keeps the lives of incidents.

    window_s        how far apart in time things may be and still belong together
    resolve_after_s how long all must be well
    """

    topology: Topology
    window_s: float = 300.0
    resolve_after_s: float = 120.0
    reopen_within_s: float = 600.0
    incidents: dict[str, Incident] = field(default_factory=dict)
    _lives: dict[str, _Life] = field(default_factory=dict)
    _changes: list[Change] = field(default_factory=list)
    _ended: list[Incident] = field(default_factory=list)

    def restore(self, incidents: Iterable[Incident]) -> None:
        """Take up the incidents that the journal says are open, after a restart."""
        for incident in incidents:
            if incident.state == "resolved":
                self._ended.append(incident)
                continue
            self.incidents[incident.id] = incident
            group = _about(incident)
            live = {_key(a): a for a in incident.anomalies if a.end is None}
            self._lives[incident.id] = _Life(group, live=live)

    def update(
        self,
        now: float,
        anomalies: Sequence[Anomaly],
        changes: Sequence[Change] = (),
        *,
        held: Iterable[str] = (),
    ) -> list[Incident]:
        """Take one tick; return the incidents that are new or changed.

        held: incidents that a run is still working on; they are not resolved under its hands.
        """
        self._changes = [c for c in self._changes if now - c.ts <= self.window_s] + [
            c for c in changes if not c.ours
        ]
        # the order in which sources answered must not change what we say
        anomalies = sorted(anomalies, key=lambda a: (a.series, a.family, a.onset))
        touched: dict[str, None] = {}
        for group, found in self._by_group(anomalies).items():
            incident = self._home(group) or self._opened(now, group, found)
            if incident is None:
                continue
            touched[incident.id] = None
            self._join(now, incident.id, found)
        self._share_host_evidence(now, anomalies, touched)
        for id_ in list(self.incidents):
            self._join_changes(now, id_, touched)
            self._age(now, id_, set(held), touched)
        out = [self.incidents[i] for i in touched if i in self.incidents]
        out += [x for x in self._ended if x.updated == now and x.id in touched]
        return out

    def put(self, incident: Incident) -> None:
        """Take an incident back that a later stage completed (diagnosis, runs, state)."""
        if incident.id in self.incidents:
            self.incidents[incident.id] = incident

    def rebase(self, jump: float) -> None:
        """Move the waiting times along with a wall clock that was set; what is written stays as it was."""
        for life in self._lives.values():
            if life.well_since is not None:
                life.well_since += jump

    def ordinary(self, group: Entity, start: float, end: float) -> list[tuple[float, float]]:
        """Return the spans in [start, end] in which this group had incidents: no part of any baseline."""
        spans = [
            (
                min([x.opened, *(a.onset for a in x.anomalies if a.road == "objective")]),
                x.resolved or math.inf,
            )
            for x in (*self._ended, *self.incidents.values())
            if x.about == group
        ]
        return [(a, b) for a, b in spans if b >= start and a <= end]

    # ---- opening

    def _by_group(self, anomalies: Sequence[Anomaly]) -> dict[Entity, list[Anomaly]]:
        out: dict[Entity, list[Anomaly]] = {}
        for anomaly in anomalies:
            out.setdefault(self.topology.group(anomaly.series.entity), []).append(anomaly)
        # those that can open go first, so that evidence finds its home in the same tick
        return dict(sorted(out.items(), key=lambda kv: (-_worst(kv[1]), kv[0])))

    def _home(self, group: Entity) -> Incident | None:
        """Return the open incident of a group."""
        for id_, life in self._lives.items():
            if life.group == group and id_ in self.incidents:
                return self.incidents[id_]
        return None

    def _opened(self, now: float, group: Entity, found: Sequence[Anomaly]) -> Incident | None:
        going = [a for a in found if a.end is None]
        severity = self._severity(now, going)
        if severity is None:
            return None
        lead = max(
            going,
            key=lambda a: (a.harm, a.road == "objective", a.together is not None, a.deviations),
        )
        for old in reversed(self._ended):
            same = any(_key(a) == _key(lead) for a in old.anomalies)
            if (
                same
                and old.resolved is not None
                and now - old.resolved <= self.reopen_within_s
                and old.about == group
            ):
                self._ended.remove(old)
                incident = replace(
                    old, state="open", resolved=None, reopened=old.reopened + 1, updated=now,
                    diagnosis=None,
                )  # fmt: skip
                break
        else:
            digest = hashlib.sha256(f"{group.id}|{lead.series}|{lead.onset:.3f}|{now:.3f}".encode())
            incident = Incident(
                digest.hexdigest()[:10],
                now,
                now,
                "open",
                severity,
                _title(lead),
                entities=(group,),
                about=group,
            )
        self.incidents[incident.id] = incident
        self._lives[incident.id] = _Life(group)
        return incident

    def _severity(self, now: float, going: Sequence[Anomaly]) -> Severity | None:
        if any(a.harm for a in going):
            return "page"
        if any(a.road == "objective" for a in going):
            return "warning"
        if any(a.together is not None for a in going):
            return "note"
        lasting = {a.series.metric for a in going if now - a.onset >= _MANY_FOR_S}
        return "note" if len(lasting) >= _MANY_SIGNALS else None

    # ---- growing

    def _join(self, now: float, id_: str, found: Sequence[Anomaly]) -> None:
        incident, life = self.incidents[id_], self._lives[id_]
        kept = {_key(a): a for a in incident.anomalies}
        for anomaly in found:
            if anomaly.end is not None and _key(anomaly) not in kept:
                continue  # it ended before anybody missed it
            first = kept.get(_key(anomaly))
            if first is not None:
                anomaly = replace(anomaly, onset=min(first.onset, anomaly.onset))  # noqa: PLW2901  # the same excursion, from its first moment
            kept[_key(anomaly)] = anomaly
            if anomaly.end is None:
                life.live[_key(anomaly)] = anomaly
            else:
                life.live.pop(_key(anomaly), None)
        severity = max(
            (incident.severity, self._severity(now, list(life.live.values())) or "note"),
            key=_ORDER.__getitem__,
        )
        strongest = sorted(
            kept.values(), key=lambda a: (not a.harm, a.road != "objective", -a.deviations)
        )
        anomalies = tuple(sorted(strongest[:MOST_ANOMALIES], key=lambda a: (a.onset, a.series)))
        entities = tuple(sorted({life.group, *(a.series.entity for a in anomalies)}))
        self.incidents[id_] = replace(
            incident, anomalies=anomalies, entities=entities, severity=severity, updated=now
        )

    def _share_host_evidence(
        self, now: float, anomalies: Sequence[Anomaly], touched: dict[str, None]
    ) -> None:
        """Let what is wrong with a host stand in the incidents of the services on it."""
        for id_, life in self._lives.items():
            if life.group.kind not in {"service", "model"} or id_ not in self.incidents:
                continue
            host = self.topology.nearest(life.group, "host")
            near = [
                a
                for a in anomalies
                if host is not None
                and self.topology.group(a.series.entity) == host
                and abs(a.onset - self.incidents[id_].opened) <= self.window_s
            ]
            if near:
                touched[id_] = None
                self._join(now, id_, near)

    def _join_changes(self, now: float, id_: str, touched: dict[str, None]) -> None:
        incident, life = self.incidents[id_], self._lives[id_]
        known = set(incident.changes)
        onset = min([incident.opened, *(a.onset for a in incident.anomalies)])
        fresh = [
            c
            for c in self._changes
            if c not in known
            and self.topology.group(c.entity) == life.group
            and onset - self.window_s <= c.ts <= incident.opened + self.window_s
        ]
        if fresh:
            changes = tuple(sorted((*incident.changes, *fresh), key=lambda c: c.ts))
            self.incidents[id_] = replace(incident, changes=changes, updated=now)
            touched[id_] = None

    # ---- ending

    def _age(self, now: float, id_: str, held: set[str], touched: dict[str, None]) -> None:
        incident, life = self.incidents[id_], self._lives[id_]
        # what only joined as evidence does not keep an incident open when what opened it is well
        deciding = [
            a for a in life.live.values() if a.road == "objective" or incident.severity == "note"
        ]
        if deciding or id_ in held:
            life.well_since = None
            return
        if life.well_since is None:
            life.well_since = now
        if now - life.well_since < self.resolve_after_s:
            return
        done = tuple(a if a.end is not None else replace(a, end=now) for a in incident.anomalies)
        ended = replace(incident, state="resolved", resolved=now, updated=now, anomalies=done)
        del self.incidents[id_], self._lives[id_]
        self._ended = [*self._ended, ended][-200:]
        touched[id_] = None


def _about(incident: Incident) -> Entity:
    """Return whose incident it is; one that was written without saying so is its first entity's."""
    return incident.about or incident.entities[0]


def _key(anomaly: Anomaly) -> tuple[str, str]:
    """Say which excursion it is: the series, and the objective where there is one."""
    return str(anomaly.series), anomaly.family if anomaly.road == "objective" else ""


def _worst(found: Sequence[Anomaly]) -> int:
    return max((2 if a.harm else 1 if a.road == "objective" else 0) for a in found)


def _title(lead: Anomaly) -> str:
    """Say what is wrong with whom, in the catalogue's words without its footnotes."""
    definition = SIGNALS[lead.series.metric]
    what = re.sub(r"\s*\([^)]*\)", "", definition.help)
    who = lead.series.entity.key
    if lead.ahead is not None:
        inner = "".join(f" ({value})" for _, value in lead.series.labels)
        limit = say(lead.high if lead.direction > 0 else lead.low, definition.unit)
        return f"{who}: {what}{inner} will reach {limit}"
    if definition.kind == "state":
        fact = what.removeprefix("whether ").partition(":")[0]
        return f"{who}: {fact}" if lead.value > 0.5 else f"{who}: it is not so that {fact}"
    side = "above" if lead.direction > 0 else "below"
    return f"{who}: {what} is {side} {'its objective' if lead.road == 'objective' else 'ordinary'}"
