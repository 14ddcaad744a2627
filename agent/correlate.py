"""Anomalies and changes that are near in time and topology become one incident with one life.

    anomalies --group--> home: an incident that has the group, else one near by, else a new one
    what it depends on (host, callees) --> joins as evidence, also when it began earlier or is seen later
    a cause that two incidents share   --> one of them becomes part of the other

A *group* is who it concerns: a service with its models, features and workers; a host; one of our own sources.
What opens an incident: a broken objective (page when it harms, else warning), blindness (warning), a finding that
hurts nobody (note), or the group view (note): series of a host, a service or a model abnormal together. While its
history is too short for that, six different signals at once open a note. Caller and callee that begin about the same
time share an incident, as do many groups of one machine that begin at once (a storm). `agent/life.py` has the states
and who may change them.
Pure: same input, same incidents; ids are made of what opened them. Cost: O(anomalies) a tick, 60 are kept of each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agent.errors import Refused
from agent.life import OURSELVES, Event, turned
from agent.model import Anomaly, Cause, Change, Entity, Incident, Series
from agent.topology import Topology
from agent.trouble import (
    ORDER,
    Key,
    key_of,
    order_of,
    reason_of,
    severity_of,
    strength,
    title_of,
    worst,
)

MOST_ANOMALIES: Final = 60
"""An incident keeps the strongest; a storm of thousands is still one incident."""
MOST_LIVE: Final = 2000
"""What is followed beyond those; the rest is told again by the next tick while it goes on."""
_STORM_GROUPS: Final = 4
_STORM_S: Final = 30.0
_HOPS: Final = 3
"""How far down the calls a cause may lie and still join as evidence."""
_SURE: Final = 0.5
"""Two incidents are one when both name the same cause with at least this probability."""
_CALMER: Final = 5
"""What came back so often must be well up to so many times longer, and may come back so much later."""
_CONFIRM_S: Final = 60.0
_LOST_S: Final = 4 * 3600.0
"""A card that was replaced, a process that is gone, an alert that ended while we were away: nobody will ever say that
it is well. Alerts are repeated as seldom as that."""
_RELAPSES: Final = 10
"""After so many the time to be well has long reached its end; powers of two beyond floats have none."""
_Blame = tuple[str, Entity]


@dataclass(slots=True)
class _Life:
    """What an open incident remembers beside its value.

    well_since   since when what opened it is well; free_since: and no run works on it
    relapses     how often it was well and then not; it must be well longer each time to count again
    evidence     what joined from beneath: it explains, and decides neither how bad it is nor when it is over
    unsure       what was going on before a restart and nobody has confirmed since
    lost         of that, since when its series is told by nobody
    kept, under  the anomalies of the value by key, what lies beneath the groups: as long as those are the same
    """

    groups: dict[Entity, None]
    well_since: float | None = None
    free_since: float | None = None
    relapses: int = 0
    live: dict[Key, Anomaly] = field(default_factory=dict)
    evidence: set[Key] = field(default_factory=set)
    unsure: dict[Key, float] = field(default_factory=dict)
    lost: dict[Key, float] = field(default_factory=dict)
    kept: dict[Key, Anomaly] = field(default_factory=dict)
    kept_of: tuple[Anomaly, ...] = ()
    under: list[Entity] = field(default_factory=list)
    under_of: tuple[int, int] = (-1, 0)

    def goes_on(self, key: Key, anomaly: Anomaly, *, evidence: bool) -> bool:
        """Tell whether an anomaly is known as it is; then somebody has confirmed it."""
        if anomaly.end is not None or self.live.get(key) != anomaly:
            return False
        if self.unsure:
            self.unsure.pop(key, None)
        return (bool(self.evidence) and key in self.evidence) is evidence


def _always(_: Series) -> bool:
    return True


@dataclass(slots=True)
class Correlator:
    """Keeps the lives of incidents.

    window_s        how far apart in time things may be and still belong together
    resolve_after_s how long all must be well; a quarter of it counts as mitigated
    fresh           tells whether a series is seen now: only then does silence mean that it is well
    lost            tells whether a series is told by nobody any more, though all who tell anything answer
    """

    topology: Topology
    window_s: float = 300.0
    resolve_after_s: float = 120.0
    reopen_within_s: float = 600.0
    fresh: Callable[[Series], bool] = _always
    lost: Callable[[Series], bool] = lambda _: False
    incidents: dict[str, Incident] = field(default_factory=dict)
    _lives: dict[str, _Life] = field(default_factory=dict)
    _homes: dict[Entity, str] = field(default_factory=dict)
    _changes: list[Change] = field(default_factory=list)
    _ended: list[Incident] = field(default_factory=list)

    def restore(self, incidents: Iterable[Incident]) -> None:
        """Take up the incidents that the journal says are open, after a restart."""
        for incident in incidents:
            if incident.state == "resolved":
                self._ended.append(incident)
                continue
            live = {key_of(a): a for a in incident.anomalies if a.end is None}
            groups = dict.fromkeys((_about(incident), *incident.also))
            self._adopt(incident, groups, live)
            life = self._lives[incident.id]
            life.unsure = dict.fromkeys(live, math.nan)
            # right after a start the graph may be empty: then nothing is known to be from beneath
            under = set(self._beneath(groups))
            life.evidence = {k for k in live if self.topology.group(k[0].entity) in under}

    def update(
        self,
        now: float,
        anomalies: Sequence[Anomaly],
        changes: Sequence[Change] = (),
        *,
        held: Iterable[str] | Mapping[str, str] = (),
    ) -> list[Incident]:
        """Take one tick; return the incidents that are new or changed.

        held: incidents that a run is still working on (perhaps with its id); they are not resolved under its hands.
        """
        self._changes = [c for c in self._changes if now - c.ts <= self.window_s] + [
            c for c in changes if not c.ours
        ]
        # the order in which sources answered must not change what we say
        anomalies = sorted(anomalies, key=lambda a: (order_of(a.series), a.family, a.onset))
        touched: dict[str, None] = {}
        groups = self._by_group(anomalies)
        storms = self._storms(now, groups, touched)
        theirs: dict[str, list[Anomaly]] = {}
        runs = dict(held) if isinstance(held, Mapping) else dict.fromkeys(held, "")
        for group, found in groups.items():
            outgrown = self._outgrown(now, group, found, runs)
            id_ = self._homes.get(group) or self._opened(now, group, found, storms)
            if outgrown and id_ is not None:
                touched[outgrown] = None
                self._merge(now, id_, outgrown, "it has become worse")
            if id_ is not None:
                theirs.setdefault(id_, []).extend(found)
        for id_, found in theirs.items():  # once each: a storm is many groups and one incident
            touched[id_] = None
            self._join(now, id_, found)
        self._share_evidence(now, groups, touched)
        for id_ in list(self.incidents):
            self._join_changes(now, id_, touched)
            self._confirm(now, id_, touched)
            self._age(now, id_, runs, touched)
        out = [self.incidents[i] for i in touched if i in self.incidents]
        out += [x for x in self._ended if x.updated == now and x.id in touched]
        return out

    def put(self, incident: Incident) -> None:
        """Take an incident back that a later stage completed (diagnosis, runs, traces)."""
        if incident.id in self.incidents:
            self.incidents[incident.id] = incident

    def unseen(self, id_: str) -> Collection[Key]:
        """Return what went on in an incident before a restart and nobody has seen since: it is unknown by now."""
        return self._lives[id_].unsure.keys() if id_ in self._lives else ()

    def turn(self, id_: str, event: Event, now: float, by: str, why: str) -> Incident:
        """Return an open incident after a person's word; `put` makes it hold. Raises Refused."""
        if id_ not in self.incidents:
            raise Refused(f"incident {id_} is over: it can not be {event} any more")
        return turned(self.incidents[id_], event, now, by, why)

    def rebase(self, jump: float) -> None:
        """Move the waiting times along with a wall clock that was set; what is written stays as it was."""
        for life in self._lives.values():
            if life.well_since is not None:
                life.well_since += jump
            if life.free_since is not None:
                life.free_since += jump
            life.unsure = {k: since + jump for k, since in life.unsure.items()}
            life.lost = {k: since + jump for k, since in life.lost.items()}

    def ordinary(self, group: Entity, start: float, end: float) -> list[tuple[float, float]]:
        """Return the spans in [start, end] in which this group had incidents: no part of any baseline."""
        spans = [
            (
                min([x.opened, *(a.onset for a in x.anomalies if a.road == "objective")]),
                x.resolved or math.inf,
            )
            for x in (*self._ended, *self.incidents.values())
            if x.about == group or group in x.also
        ]
        return [(a, b) for a, b in spans if b >= start and a <= end]

    # ---- one cause, one incident

    def join_causes(self, now: float, held: Iterable[str] = ()) -> list[Incident]:
        """Make one of incidents that a common cause explains; return all that changed, the survivor last.

        Common: both name the same cause, surely enough, and began near each other; or what one blames has an incident
        of its own, for a cause of the same branch or as a callee. A run at work keeps its incident.
        """
        busy, out = set(held), {}
        alike = _alike(self.incidents.values())
        order = {id_: n for n, id_ in enumerate(self.incidents)}
        for a in list(self.incidents.values()):
            for b in self._same_cause(a, alike, order):
                if a.id not in self.incidents or b.id not in self.incidents:
                    continue
                kept, gone = sorted(
                    (a, b),
                    key=lambda i: (i.id not in busy, -ORDER[i.severity], i.opened, i.id),
                )
                if gone.id not in busy:
                    top = gone.diagnosis.top if gone.diagnosis else None
                    said = f"same cause: {top.kind} on {top.entity.id}" if top else "same cause"
                    for changed in self._merge(now, kept.id, gone.id, said):
                        out[changed.id] = changed
        return list(out.values())

    def _same_cause(
        self, a: Incident, alike: Mapping[_Blame, Sequence[str]], order: Mapping[str, int]
    ) -> list[Incident]:
        top = _sure(a)
        if top is None:
            return []
        same = alike[top.kind, top.entity]
        blamed = self._homes.get(self.topology.group(top.entity), a.id)
        out = []
        for id_ in sorted({*same, blamed}, key=lambda i: order.get(i, -1)):
            b = self.incidents.get(id_)
            if b is None or b.id == a.id or abs(_began(a) - _began(b)) > self.window_s:
                continue
            other = b.diagnosis.top if b.diagnosis else None
            # a neighbour takes the CPU that a machine is short of: two words for one trouble
            akin = other is not None and other.kind.partition(".")[0] == top.kind.partition(".")[0]
            if id_ in same or akin or top.kind == "serving.dependency":
                out.append(b)
        return out

    def _merge(self, now: float, kept: str, gone: str, why: str) -> list[Incident]:
        """Let one incident become part of another; returns both, as they are now."""
        one, other = self.incidents[kept], self.incidents.pop(gone)
        life, its = self._lives[kept], self._lives.pop(gone)
        life.groups.update(its.groups)
        for group in its.groups:
            self._homes[group] = kept
        merged = turned(other, "merged", now, OURSELVES, f"merged into {kept}: {why}")
        merged = replace(merged, resolved=now, merged_into=kept)
        self._ended = [*self._ended, merged][-200:]
        changes = tuple(sorted({*one.changes, *other.changes}, key=lambda c: (c.ts, c.entity)))
        worse = ORDER[other.severity] > ORDER[one.severity]
        self.incidents[kept] = replace(
            one,
            title=other.title if worse else one.title,
            severity=other.severity if worse else one.severity,
            changes=changes,
            absorbed=(*one.absorbed, gone, *other.absorbed)[-50:],
        )
        for from_beneath in (False, True):
            some = [a for a in other.anomalies if (key_of(a) in its.evidence) is from_beneath]
            self._join(now, kept, some, evidence=from_beneath)
        life.unsure.update(its.unsure)
        return [merged, self.incidents[kept]]

    # ---- opening

    def _by_group(self, anomalies: Sequence[Anomaly]) -> dict[Entity, list[Anomaly]]:
        of: dict[Entity, Entity] = {}
        out: dict[Entity, list[Anomaly]] = {}
        for anomaly in anomalies:
            who = anomaly.series.entity
            if who not in of:
                of[who] = self._group(who, of)
            out.setdefault(of[who], []).append(anomaly)
        # those that can open go first, so that evidence finds its home in the same tick
        return dict(sorted(out.items(), key=lambda kv: (-worst(kv[1]), kv[0])))

    def _group(self, who: Entity, of: dict[Entity, Entity]) -> Entity:
        """Return the group of an entity; features and versions ask for their model once, however many they are."""
        if who.kind in {"feature", "version"}:
            for edge in self.topology.edges(who):
                if edge.src == who and edge.dst.kind == "model":
                    if edge.dst not in of:
                        of[edge.dst] = self.topology.group(edge.dst)
                    return of[edge.dst]
        return self.topology.group(who)

    def _storms(
        self, now: float, groups: Mapping[Entity, Sequence[Anomaly]], touched: dict[str, None]
    ) -> dict[Entity, str]:
        """Return group -> incident ("" = the first of them opens it) for groups of a domain that begin all at once."""
        opening: dict[tuple[str, Entity | None], list[Entity]] = {}
        for group, found in groups.items():
            if group in self._homes:
                continue
            going = [a for a in found if a.end is None]
            if severity_of(now, going) is not None:
                opening.setdefault(self._domain(group), []).append(group)
        out: dict[Entity, str] = {}
        for domain, some in opening.items():
            young = [
                i
                for i in self.incidents.values()
                if now - i.opened <= _STORM_S and self._domain(_about(i)) == domain
            ]
            if len(some) + sum(1 + len(i.also) for i in young) < _STORM_GROUPS:
                continue
            young.sort(key=lambda i: (-ORDER[i.severity], i.opened, i.id))
            for gone in young[1:]:
                self._merge(now, young[0].id, gone.id, "many began at once")
                touched[gone.id] = None
            out.update(dict.fromkeys(some, young[0].id if young else ""))
        return out

    def _domain(self, group: Entity) -> tuple[str, Entity | None]:
        """Say what groups must share to be part of one storm: the machine, or being a machine or an eye of ours."""
        if group.kind in {"host", "source"}:
            return group.kind, None
        return "on", self.topology.nearest(group, "host")

    def _near(self, group: Entity, onset: float) -> str | None:
        """Return the open incident of a caller or callee that began at about the same time."""
        for edge in self.topology.edges(group):
            if edge.kind != "calls":
                continue
            other = edge.dst if edge.src == group else edge.src
            id_ = self._homes.get(other)
            if id_ is not None and abs(_began(self.incidents[id_]) - onset) <= self.window_s:
                return id_
        return None

    def _opened(
        self, now: float, group: Entity, found: Sequence[Anomaly], storms: dict[Entity, str]
    ) -> str | None:
        going = [a for a in found if a.end is None]
        severity = severity_of(now, going)
        if severity is None:
            return None
        lead = max(
            going,
            key=lambda a: (
                a.harm,
                a.road == "objective",
                a.road == "finding",
                a.together is not None,
                a.deviations,
            ),
        )
        near = storms.get(group) or self._near(group, lead.onset)
        if near and near in self.incidents:
            self._lives[near].groups[group] = None
            self._homes[group] = near
            return near
        incident = self._again(now, group, going, lead)
        if incident is None:
            digest = hashlib.sha256(f"{group.id}|{lead.series}|{lead.onset:.3f}|{now:.3f}".encode())
            incident = Incident(
                digest.hexdigest()[:10], now, now, "open", severity, title_of(lead),
                entities=(group,), about=group,
            )  # fmt: skip
            incident = turned(incident, "opened", now, OURSELVES, reason_of(lead))
        self._adopt(incident, dict.fromkeys((_about(incident), *incident.also)), {})
        for other, where in storms.items():
            if where == "" and self._domain(other) == self._domain(group):
                storms[other] = incident.id
        return incident.id

    def _outgrown(
        self, now: float, group: Entity, found: Sequence[Anomaly], runs: Mapping[str, str]
    ) -> str:
        """Return the note that was the home of a group until now, when what is found is a trouble of its own; else "".

        Inputs may drift for weeks and hurt nobody: what breaks then has a time of its own, and the note becomes part.
        """
        id_ = self._homes.get(group, "")
        note = self.incidents.get(id_)
        if (
            note is None
            or note.severity != "note"
            or now - note.opened <= self.window_s
            or id_ in runs
        ):
            return ""
        if severity_of(now, [a for a in found if a.end is None]) in {None, "note"}:
            return ""
        for one in self._lives[id_].groups:
            self._homes.pop(one, None)
        return id_

    def _again(
        self, now: float, group: Entity, going: Sequence[Anomaly], lead: Anomaly
    ) -> Incident | None:
        """Return an incident that comes back: the same trouble of the same group, soon enough."""
        keys = {key_of(lead), *(key_of(a) for a in going if a.road == "objective")}
        for old in reversed(self._ended):
            soon = self.reopen_within_s * min(max(1, old.reopened), _CALMER)
            if (
                old.resolved is not None
                and now - old.resolved <= soon
                and not old.merged_into
                and (old.about == group or group in old.also)
                and any(key_of(a) in keys for a in old.anomalies)
            ):
                self._ended.remove(old)
                well = now - old.resolved
                back = turned(
                    old, "reopened", now, OURSELVES, f"{reason_of(lead)}, after {well:.0f} s"
                )
                return replace(back, resolved=None, reopened=old.reopened + 1, diagnosis=None)
        return None

    def _adopt(
        self, incident: Incident, groups: dict[Entity, None], live: dict[Key, Anomaly]
    ) -> None:
        self.incidents[incident.id] = incident
        self._lives[incident.id] = _Life(groups, live=live)
        for group in groups:
            self._homes.setdefault(group, incident.id)

    # ---- growing

    def _join(
        self, now: float, id_: str, found: Iterable[Anomaly], *, evidence: bool = False
    ) -> None:
        incident, life = self.incidents[id_], self._lives[id_]
        if life.kept_of is not incident.anomalies:
            life.kept_of, life.kept = incident.anomalies, {key_of(a): a for a in incident.anomalies}
        kept, news = life.kept, False
        for anomaly in found:
            key = key_of(anomaly)
            as_kept = kept.get(key)
            first = as_kept or life.live.get(key)
            if anomaly.end is not None and first is None:
                continue  # it ended before anybody missed it
            if first is not None and first.onset < anomaly.onset:
                anomaly = replace(anomaly, onset=first.onset)  # noqa: PLW2901  # the same excursion, from its first moment
            if anomaly == as_kept and life.goes_on(key, anomaly, evidence=evidence):
                continue
            if not news:
                kept, news = dict(kept), True
            kept[key] = anomaly
            life.unsure.pop(key, None)
            (life.evidence.add if evidence else life.evidence.discard)(key)
            if anomaly.end is None:
                life.live[key] = anomaly
            else:
                life.live.pop(key, None)
                life.evidence.discard(key)
        if not news and len(life.groups) == 1 + len(incident.also):
            self.incidents[id_] = replace(incident, updated=now)
            return
        if len(life.live) > MOST_LIVE:
            strong = sorted(life.live.items(), key=lambda kv: strength(kv[1]))[:MOST_LIVE]
            life.live = dict(strong)
        severity = max(
            (incident.severity, severity_of(now, _deciding(life)) or "note"),
            key=ORDER.__getitem__,
        )
        strongest = sorted(kept.values(), key=strength)[:MOST_ANOMALIES]
        worse = ORDER[severity] > ORDER[incident.severity] and not evidence
        called = title_of(strongest[0]) if worse else incident.title  # by what hurts most
        anomalies = tuple(sorted(strongest, key=lambda a: (a.onset, order_of(a.series))))
        going = sum(a.end is None for a in strongest)
        entities = tuple(sorted({*life.groups, *(a.series.entity for a in anomalies)}))
        about = _about(incident)
        also = tuple(g for g in life.groups if g != about)
        self.incidents[id_] = replace(
            incident, title=called, anomalies=anomalies, entities=entities, severity=severity,
            updated=now, also=also, more=len(life.live) - going,
        )  # fmt: skip

    def _share_evidence(
        self, now: float, groups: Mapping[Entity, Sequence[Anomaly]], touched: dict[str, None]
    ) -> None:
        """Let what is wrong with what an incident's groups depend on stand in it, also what is seen late.

        It may have begun earlier than all that is known, and then it is the first suspect when causes are ranked.
        """
        for id_, life in self._lives.items():
            opened = self.incidents[id_].opened
            near: list[Anomaly] = []
            as_of = (self.topology.revision, len(life.groups))
            if life.under_of != as_of:
                life.under_of, life.under = as_of, self._beneath(life.groups)
            for under in life.under:
                near += [a for a in groups.get(under, ()) if abs(a.onset - opened) <= self.window_s]
            if near:
                touched[id_] = None
                self._join(now, id_, near, evidence=True)

    def _beneath(self, groups: Iterable[Entity]) -> list[Entity]:
        """Return what services and models depend on and is not theirs: hosts, and services that they call."""
        mine = [g for g in groups if g.kind in {"service", "model"}]
        seen = dict.fromkeys(mine)
        layer = mine
        for _ in range(_HOPS):
            layer = [
                edge.dst
                for here in layer
                for edge in self.topology.edges(here)
                if edge.kind == "calls" and edge.src == here and edge.dst not in seen
            ]
            seen.update(dict.fromkeys(layer))
        hosts = [self.topology.nearest(g, "host") for g in mine]
        theirs = set(groups)
        return [e for e in dict.fromkeys((*hosts, *seen)) if e is not None and e not in theirs]

    def _join_changes(self, now: float, id_: str, touched: dict[str, None]) -> None:
        if not self._changes:
            return
        incident, life = self.incidents[id_], self._lives[id_]
        known = set(incident.changes)
        theirs = {*life.groups, *self._beneath(life.groups)}
        onset = _began(incident)
        fresh = [
            c
            for c in self._changes
            if c not in known
            and self.topology.group(c.entity) in theirs
            and onset - self.window_s <= c.ts <= incident.opened + self.window_s
        ]
        if fresh:
            changes = tuple(sorted((*incident.changes, *fresh), key=lambda c: c.ts))
            self.incidents[id_] = replace(incident, changes=changes, updated=now)
            touched[id_] = None

    # ---- ending

    def _confirm(self, now: float, id_: str, touched: dict[str, None]) -> None:
        """End what was going on before a restart and is not said to be abnormal by anybody who sees it now."""
        life = self._lives[id_]
        for key, since in list(life.unsure.items()):
            first = life.live.get(key)
            if first is None:  # too weak to be followed among so many
                del life.unsure[key]
            elif first.ahead is not None:
                continue  # the series is well: only its next forecast says what is to come
            elif math.isnan(since) or not self.fresh(key[0]):
                life.unsure[key] = now
                if not self.lost(key[0]):
                    life.lost.pop(key, None)
                elif now - life.lost.setdefault(key, now) > _LOST_S:
                    touched[id_] = None
                    self._join(now, id_, [replace(first, end=now)], evidence=key in life.evidence)
            elif now - since >= max(self.resolve_after_s, _CONFIRM_S):
                touched[id_] = None
                said = key in life.evidence
                self._join(now, id_, [replace(first, end=since)], evidence=said)

    def _age(self, now: float, id_: str, runs: Mapping[str, str], touched: dict[str, None]) -> None:
        incident, life = self.incidents[id_], self._lives[id_]
        # what only joined as evidence does not keep an incident open when what opened it is well
        if any(a.road == "objective" or incident.severity == "note" for a in _deciding(life)):
            life.well_since = life.free_since = None
            if incident.state == "mitigated":
                life.relapses += 1
                self.incidents[id_] = turned(
                    incident, "relapsed", now, OURSELVES, "it is not well after all"
                )
                touched[id_] = None
            return
        life.well_since = now if life.well_since is None else life.well_since
        life.free_since = None if id_ in runs else (life.free_since or now)
        well = now - life.well_since
        patience = self.resolve_after_s * min(max(1, incident.reopened), _CALMER)
        # longer after each relapse, so that flapping does not fill the record
        shown = min(0.25 * 2.0 ** min(life.relapses, _RELAPSES) * self.resolve_after_s, patience)
        if incident.state != "mitigated" and well >= shown:
            by = f"{OURSELVES}:{runs[id_]}" if runs.get(id_) else OURSELVES
            why = "what opened it is well" + (" while a run holds" if id_ in runs else "")
            self.incidents[id_] = turned(incident, "mitigated", now, by, why)
            touched[id_] = None
        if life.free_since is None or now - life.free_since < patience:
            return
        incident = self.incidents[id_]
        done = tuple(a if a.end is not None else replace(a, end=now) for a in incident.anomalies)
        ended = turned(incident, "resolved", now, OURSELVES, f"well for {well:.0f} s")
        ended = replace(ended, resolved=now, anomalies=done, more=0)
        del self.incidents[id_], self._lives[id_]
        self._homes = {g: home for g, home in self._homes.items() if home != id_}
        self._ended = [*self._ended, ended][-200:]
        touched[id_] = None


def _deciding(life: _Life) -> list[Anomaly]:
    if not life.evidence:
        return list(life.live.values())
    return [a for k, a in life.live.items() if k not in life.evidence]


def _about(incident: Incident) -> Entity:
    """Return whose incident it is; one that was written without saying so is its first entity's."""
    return incident.about or incident.entities[0]


def _began(incident: Incident) -> float:
    # a drift may be as old as it likes: what it stands beside began when it began
    return min([incident.opened, *(a.onset for a in incident.anomalies if a.road != "finding")])


def _sure(incident: Incident) -> Cause | None:
    """Return the cause of an incident that others may share: one that is named, surely enough."""
    top = incident.diagnosis.top if incident.diagnosis else None
    return top if top and top.kind != "unknown" and top.probability >= _SURE else None


def _alike(incidents: Iterable[Incident]) -> dict[_Blame, list[str]]:
    """Return the incidents that name the same cause, in their order: nobody is compared with all others."""
    out: dict[_Blame, list[str]] = {}
    for incident in incidents:
        if (top := _sure(incident)) is not None:
            out.setdefault((top.kind, top.entity), []).append(incident.id)
    return out
