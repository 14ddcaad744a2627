"""The record of playbooks: how runs turned out, by playbook and group of targets, and what it allows from now on.

A fold over the journal's runs, so it is as persistent as they are: nothing is stored beside them that could be lost
between a run and its consequence. **A playbook that harmed only suggests** until a person who has looked at it says
otherwise (`homeostat reinstate`, journalled):

    in the group that it harmed         it is proven to harm there
    in groups where it is not proven    what harmed one may harm the next; proven = it has helped there PROVEN times
    everywhere, after a second group    then it is the playbook, not the group

Pure; counts are of all times, though memory keeps only the newest runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.intervals import wilson
from agent.model import Entity, Series, Verdict

if TYPE_CHECKING:
    from agent.memory import Memory

VERDICTS: Final[tuple[Verdict, ...]] = ("helped", "no_effect", "harmed", "cannot_tell")
PROVEN: Final = 3
"""A playbook that has helped a group of targets so often goes on to act there when it harmed another one."""
_OWN_GROUP: Final = frozenset({"service", "model", "dependency", "host"})


def owner_of(one: Entity) -> Entity:
    """Return whose state an act on this changes: a feature's and version's model, a replica's service."""
    if one.kind in {"version", "feature"}:
        return Entity("model", one.key.partition("/")[0])
    if one.kind == "replica":
        return Entity("service", one.key.rpartition("/")[0] or one.key)
    return one


def group_of(target: Entity) -> str:
    """Return the group of targets whose record a run belongs to.

    A service with its replicas, a model with its versions and features, a host; all GPUs, and all processes: they
    come and go.
    """
    owner = owner_of(target)
    return owner.id if owner.kind in _OWN_GROUP else owner.kind


@dataclass(frozen=True, slots=True)
class Tally:
    """How often each verdict came."""

    helped: int = 0
    no_effect: int = 0
    harmed: int = 0
    cannot_tell: int = 0

    @property
    def runs(self) -> int:
        """All that came to a verdict."""
        return self.helped + self.no_effect + self.harmed + self.cannot_tell

    @property
    def success(self) -> float | None:
        """Lower 95 % bound of the share that helped, of those that could be told; None = none could."""
        told = self.runs - self.cannot_tell
        return float(wilson(self.helped, told)[0]) if told else None

    def plus(self, verdict: Verdict, by: int = 1) -> Tally:
        """Return the tally with one more (or less)."""
        counts = {v: getattr(self, v) for v in VERDICTS}
        counts[verdict] = max(0, counts[verdict] + by)
        return Tally(**counts)

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, v) + getattr(other, v) for v in VERDICTS))


@dataclass(frozen=True, slots=True)
class Harm:
    """A run that harmed; seq: of the entry of the journal that says so."""

    seq: int
    run: str
    target: str
    ts: float
    summary: str


@dataclass(frozen=True, slots=True)
class Trust:
    """A person has looked at a playbook that harmed and lets it act again; seq: of the journal's entry."""

    seq: int
    by: str
    reason: str
    ts: float


@dataclass(slots=True)
class Records:
    """The record of all playbooks.

    tallies   playbook -> group of targets -> counts
    harms     playbook -> group -> its newest harm; trusts: playbook -> the newest word of a person on it
    """

    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    harms: dict[str, dict[str, Harm]] = field(default_factory=dict)
    trusts: dict[str, Trust] = field(default_factory=dict)

    def run(self, seq: int, run: Mapping[str, Any], before: Verdict | None = None) -> None:
        """Take a run as the journal has it; a verdict that was given stays.

        before   the verdict that was counted for it already
        """
        outcome = run.get("outcome") or {}
        verdict: Verdict | None = outcome.get("verdict")
        if verdict is None and before is None:
            return
        playbook, target = str(run["playbook"]), Entity(run["target"]["kind"], run["target"]["key"])
        group = group_of(target)
        groups = self.tallies.setdefault(playbook, {})
        tally = groups.get(group, Tally())
        if before is not None:
            tally = tally.plus(before, -1)
        groups[group] = tally if verdict is None else tally.plus(verdict)
        harms = self.harms.get(playbook, {})
        old = harms.get(group)
        if verdict == "harmed" and (old is None or old.seq < seq):
            harm = Harm(
                seq, str(run["id"]), target.id, float(run["updated"]), str(outcome["summary"])
            )
            self.harms[playbook] = {**harms, group: harm}

    def trust(self, seq: int, playbook: str, body: Mapping[str, Any], ts: float) -> None:
        """Take a person's word that a playbook may act again."""
        self.trusts[playbook] = Trust(seq, str(body["by"]), str(body.get("reason", "")), ts)

    def harmed(self, playbook: str) -> dict[str, Harm]:
        """Return the groups that a playbook harmed and that no person has looked at since."""
        trust = self.trusts.get(playbook)
        return {
            group: harm
            for group, harm in sorted(self.harms.get(playbook, {}).items())
            if trust is None or trust.seq < harm.seq
        }

    def demoted(self, playbook: str, group: str) -> Harm | None:
        """Return the harm for which a playbook only suggests in a group of targets; None = there is none."""
        harmed = self.harmed(playbook)
        if not harmed or group in harmed:
            return harmed.get(group)
        proven = self.tallies.get(playbook, {}).get(group, Tally()).helped >= PROVEN
        newest = max(harmed.values(), key=lambda h: h.seq)
        return None if proven and len(harmed) == 1 else newest

    def of(self, playbook: str) -> dict[str, Tally]:
        """Return the tallies of a playbook by group of targets."""
        return dict(sorted(self.tallies.get(playbook, {}).items()))


def untreated(memory: Memory, incident: str) -> dict[Series, list[float]]:
    """Return for how many seconds troubles of each series lasted that nobody acted on, the given incident apart."""
    treated = {run.incident for run in memory.acts()}
    out: dict[Series, list[float]] = {}
    for i in memory.incidents.values():
        if i.id != incident and i.id not in treated and i.state == "resolved":
            for a in i.anomalies:
                if a.end is not None and a.ahead is None:
                    out.setdefault(a.series, []).append(a.end - a.onset)
    return out


def treated(memory: Memory, incident: str) -> dict[Entity, list[tuple[float, float]]]:
    """Return when each entity was in a trouble that was acted on, the given incident apart.

    How such a trouble went says nothing of what the series does by itself.
    """
    acted = {run.incident for run in memory.acts()} - {incident}
    out: dict[Entity, list[tuple[float, float]]] = {}
    for i in (memory.incidents[id_] for id_ in acted if id_ in memory.incidents):
        span = min([i.opened, *(a.onset for a in i.anomalies)]), i.resolved or i.updated
        for one in {a.series.entity for a in i.anomalies}:
            out.setdefault(one, []).append(span)
    return out
