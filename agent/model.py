"""The values that flow, made once and never edited (`dataclasses.replace` makes the next one).

    Source -> Frame -> score -> Anomaly -> Incident -> Diagnosis -> (match, guard) -> Run -> Outcome
                                              ^                                        |
                           Change (release, config, scale, our own acts) <-------------+

Times are unix seconds, UTC. Numbers are in base units (seconds, bytes, ratio 0..1, celsius, watts).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

EntityKind = Literal[
    "host", "gpu", "process", "service", "replica", "model", "version", "feature", "dependency",
    "source",
]  # fmt: skip
EdgeKind = Literal["runs_on", "serves", "calls", "version_of", "feeds"]


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """A typed thing. `key` is stable across restarts of the agent.

    host: hostname; gpu: UUID; process: boot-id/pid/start-ticks (the leader of a process group);
    service: the name in config; replica: service/n; model: name; version: model/version;
    feature: model/feature; dependency: host:port; source: connector name.
    """

    kind: EntityKind
    key: str

    @property
    def id(self) -> str:
        """`kind:key`, the form that people, YAML and the journal use."""
        return f"{self.kind}:{self.key}"

    def __str__(self) -> str:
        return self.id


def entity(text: str) -> Entity:
    """Read `kind:key`; raises ValueError on anything else."""
    kind, colon, key = text.partition(":")
    if not (colon and key) or kind not in get_args(EntityKind):
        raise ValueError(f"not an entity id: {text!r}, write kind:key")
    return Entity(kind, key)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """Who one column is: a catalogue signal on one entity, perhaps one of several by label.

    metric   a name in `agent.catalogue.SIGNALS`, which gives kind, unit and help
    labels   sorted (name, value) pairs that tell siblings apart: (("device", "sda"),)
    """

    metric: str
    entity: Entity
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        inner = "".join(f",{k}={v}" for k, v in self.labels)
        return f"{self.metric}{{{self.entity.id}{inner}}}"


@dataclass(frozen=True, slots=True)
class Edge:
    """`src` runs_on / serves / calls / version_of / feeds `dst`."""

    kind: EdgeKind
    src: Entity
    dst: Entity


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a source learnt about an entity: its attributes and edges. Sent when new or changed.

    attrs     sorted (name, value) pairs for people and `where:` (name, product, command, pid, version)
    gone      the entity has ended: its series leave, its edges go
    lasts_s   how long it holds when it is not sent again: for what is inferred and can not be told to have ended
    """

    entity: Entity
    attrs: tuple[tuple[str, str], ...] = ()
    edges: tuple[Edge, ...] = ()
    gone: bool = False
    lasts_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Change:
    """Something was changed by somebody: a first-class suspect.

    kind   release | config | scale | restart | act | flag
    by     a person, a pipeline, or `homeostat:<run id>` for our own acts (which never trigger us)
    url    where to read more: a pipeline, a pull request
    id     what its sender calls it: sent again, it is the same change; "" = nobody named it
    """

    ts: float
    entity: Entity
    kind: Literal["release", "config", "scale", "restart", "act", "flag"]
    before: str
    after: str
    by: str = ""
    text: str = ""
    url: str = ""
    id: str = ""

    @property
    def ours(self) -> bool:
        """True when one of our own runs did it."""
        return self.by.startswith("homeostat:")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What one source saw at one instant.

    source   name of the source in config
    ts       when the source measured (not when we asked)
    series   (n,) who the columns are, sorted, no duplicates; the same tuple object while unchanged
    values   (n,) float64 in base units; NaN = asked, not answered
    seen     entities that are new, changed or gone since this source's last frame
    changes  what this source noticed to have been changed
    """

    source: str
    ts: float
    series: tuple[Series, ...]
    values: FloatArray
    seen: tuple[Sighting, ...] = ()
    changes: tuple[Change, ...] = ()


Road = Literal["objective", "finding", "calibrated", "prior"]


@dataclass(frozen=True, slots=True)
class Ahead:
    """When a limit will be reached, unix seconds: the median and an 80 % interval; None = not within the horizon."""

    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A series that left what is ordinary for it, or an objective that a person stated.

    onset, end   first and last abnormal moment; end None = still going on
    p            how probable so much or more is when all is well (objectives: 0)
    direction    +1 above, -1 below, 0 no value or no band; within the band: of its middle
    value        at its worst so far, NaN = it has had no value since the onset
    low, high    the band that was expected (NaN = open)
    size         distance from that band in the units of the series; deviations: in robust deviations
    road         objective: stated by a person, valid from the first minute; finding: of a test that keeps to a stated
                 rate of false alarms by itself, and hurts nobody as such; calibrated: from this series' own history;
                 prior: from the shipped tail while the history is short
    family       which detector family fired: spike, level, ... or the name of the objective or finding
    harm         users or model results are hurt by it: only harm pages
    together     p-value of the group (host, service, model) that this series helps to make abnormal; None = on its own
    carriers     the first few series that were abnormal together at its worst, perhaps itself, the most first; said
                 by the group and by detectors over many series, else empty
    ahead    it is foretold: the objective is not broken yet, but will be by then; None = it is so now
    """

    series: Series
    onset: float
    end: float | None
    p: float
    direction: int
    value: float
    low: float
    high: float
    size: float
    deviations: float
    road: Road
    family: str
    harm: bool = False
    together: float | None = None
    carriers: tuple[Series, ...] = ()
    ahead: Ahead | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason, with its numbers, for or against a cause.

    weight   log-odds that it adds (negative: against)
    series   what to draw; None for changes and facts
    """

    text: str
    weight: float
    series: Series | None = None
    value: float | None = None
    expected: float | None = None
    onset: float | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """One hypothesis: a kind from `agent.causes` on an entity, with its probability and evidence.

    others   further entities that take part (the processes of a noisy neighbour)
    facts    what an action needs to know, by name (`feature`, `previous_version`)
    """

    kind: str
    entity: Entity
    probability: float
    evidence: tuple[Evidence, ...] = ()
    others: tuple[Entity, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Ranked causes of one incident; `rejected` are the alternatives with the reason against each.

    logs_of   where to look when no metric says why: whom the symptom points to, then what it calls
    ts        when this was said; since: since when its first cause has stood first (0 = not known)
    """

    ts: float
    causes: tuple[Cause, ...]
    rejected: tuple[Cause, ...] = ()
    hurts: tuple[Entity, ...] = ()
    low_confidence: bool = False
    logs_of: tuple[Entity, ...] = ()
    since: float = 0.0

    @property
    def top(self) -> Cause | None:
        """The most probable cause, or None."""
        return self.causes[0] if self.causes else None


IncidentState = Literal["open", "acknowledged", "mitigated", "resolved"]
Severity = Literal["page", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn in the life of an incident: what happened, the state after it, who did it and why.

    event   a word of `agent.life.TRANSITIONS`
    by      a person, `homeostat`, or `homeostat:<run id>`
    """

    ts: float
    event: str
    state: IncidentState
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Incident:
    """Anomalies and changes that belong together in time and topology: one life, one thread, one page.

    severity   page only where users or model results are hurt; the rest waits in console and digest
    reopened   how often it came back after it was resolved
    about      whose trouble it is: the service, model, host or source that its members belong to
    also       further ones that share it: callers and callees, others of one storm, those of merged incidents
    more       abnormal series beyond those that are kept in `anomalies`
    turns      its life, oldest first (the opening and the newest)
    merged_into, absorbed   the incident that it became part of; those that became part of it
    traces     ids of requests that failed or were slow, where a source carries them
    """

    id: str
    opened: float
    updated: float
    state: IncidentState
    severity: Severity
    title: str
    anomalies: tuple[Anomaly, ...] = ()
    changes: tuple[Change, ...] = ()
    entities: tuple[Entity, ...] = ()
    diagnosis: Diagnosis | None = None
    runs: tuple[str, ...] = ()
    resolved: float | None = None
    reopened: int = 0
    about: Entity | None = None
    also: tuple[Entity, ...] = ()
    more: int = 0
    turns: tuple[Turn, ...] = ()
    merged_into: str = ""
    absorbed: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of the guard and what it saw: every decision keeps all of them."""

    name: str
    passed: bool
    value: str
    limit: str
    reason: str = ""


Mode = Literal["observe", "suggest", "approve", "auto"]
MODES: tuple[Mode, ...] = ("observe", "suggest", "approve", "auto")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the guard said about one playbook on one target for one incident."""

    ts: float
    playbook: str
    target: Entity
    incident: str
    mode: Mode
    allowed: bool
    gates: tuple[Gate, ...]
    plan_hash: str = ""


Verdict = Literal["helped", "no_effect", "harmed", "cannot_tell"]
RunState = Literal[
    "waiting_approval", "acting", "verifying", "holding", "undoing", "paused",
    "done", "failed", "denied", "expired", "suggested",
]  # fmt: skip
ENDED: frozenset[str] = frozenset({"done", "failed", "denied", "expired", "suggested"})


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished step of a run, as `why` and the console show it.

    status   `stays` is what an undo says that found nothing to put back; it is not among the steps of a run
    """

    id: str
    use: str
    started: float
    ended: float
    status: Literal["done", "adopted", "refused", "uncertain", "failed", "undone", "stays"]
    summary: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended and by what proof.

    against   peers | forecast | past: what the treated target was compared with
    well      all that was expected held: what may not have helped is then left as it is
    """

    verdict: Verdict
    summary: str
    against: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    undone: bool = False
    well: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A playbook at work on one target."""

    id: str
    playbook: str
    target: Entity
    incident: str
    mode: Mode
    state: RunState
    started: float
    updated: float
    plan_hash: str
    steps: tuple[StepRecord, ...] = ()
    outcome: Outcome | None = None
    text: str = ""
