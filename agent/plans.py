"""What a run is going to do: a plan is fixed when it is made, whatever becomes of the playbook's file.

playbook + target + incident --agent/playbook/plan.py--> Plan --sealed--> its hash, which an approval binds to
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent import registry
from agent.codec import canonical, pack
from agent.model import Entity, Mode, StepRecord, entity


@dataclass(frozen=True, slots=True)
class Until:
    """When a temporary measure is put back.

    is_       expressions that must all hold
    for_      seconds they must hold without a break
    at_most   seconds after which it is put back anyway
    """

    is_: tuple[str, ...]
    for_: float
    at_most: float


@dataclass(frozen=True, slots=True)
class PlannedApproval:
    """Who must say yes, before the first step or before one of its own, and what silence means."""

    by: str = "operator"
    timeout: float = 900.0
    on_timeout: Literal["escalate", "deny"] = "escalate"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step as the playbook planned it.

    use      the verb; via: the connector that has the ability, None = the only one
    params   of the verb; texts with `${steps...}` or `${verdict...}` are read when the step acts
    undo     auto: put back what was there when the run undoes; none: it stays
    until    a temporary measure, put back when this holds
    timeout  seconds one try may take; retry: how many more tries when it did not answer
    approve  a person is asked for this step, when its turn has come; None = the yes to the run is enough
    """

    id: str
    use: str
    via: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    undo: Literal["auto", "none"] = "auto"
    until: Until | None = None
    timeout: float = 60.0
    retry: int = 1
    approve: PlannedApproval | None = None


@dataclass(frozen=True, slots=True)
class PlannedVerify:
    """How it is proven that the run helped.

    wait      seconds before the first look; within: seconds in which `expect` must come true after that
    expect    expressions; all must hold
    against   peers | forecast | past, as `agent.verify.compare` takes it; "" = the best that can be had
    otherwise what is done when it did not help; harm is always undone
    """

    wait: float
    within: float
    expect: tuple[str, ...]
    against: str = ""
    otherwise: Literal["undo", "escalate", "next"] = "undo"


@dataclass(frozen=True, slots=True)
class PlannedBlast:
    """How many targets of a domain may be under treatment when it acts, its own included.

    domain   attribute that tells domains apart; "" = all of the target's kind
    within   seconds for which an act counts after it
    """

    max_targets: int
    max_share: float
    domain: str
    within: float


@dataclass(frozen=True, slots=True)
class Acted:
    """What came of one step.

    values   for later steps: `${steps.ID.NAME}`
    undo     what the verb needs to put it back
    ours     the world is, or may be, changed by this step
    text     why the run can not go on; "" = it can
    """

    record: StepRecord
    values: Mapping[str, Any] = field(default_factory=dict)
    undo: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = True
    text: str = ""


@dataclass(frozen=True, slots=True)
class Would:
    """What a step says when it is asked to do nothing.

    status   would: it says what it would do, or that there is nothing to do | refused: it can not be done as it stands
             | unknown: it could not be asked | later: it stands on what a step before it gives
    """

    id: str
    use: str
    status: Literal["would", "refused", "unknown", "later"]
    text: str


@dataclass(frozen=True, slots=True)
class Left:
    """What a step of a run that is over has left behind: what was there before, and what came of it."""

    before: Mapping[str, Any]
    acted: Acted


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do: fixed when it is made, whatever becomes of the playbook's file.

    target     entity id
    mode       approve: a person is asked first; auto: not. observe and suggest are never run
    by         who wanted it: "" = the agent, else a person
    text_hash  of the playbook's text
    facts      of the diagnosis; cause: its kind
    hash       what an approval binds to: see `plan_hash`
    blast      None = it may touch as many as there are: it only marks and tells
    undoes     the run, over by now, that this one puts back: its steps in their order, and what each has `left`
    """

    run_id: str
    playbook: str
    title: str
    text_hash: str
    target: str
    incident: str
    mode: Mode
    by: str
    created: float
    steps: tuple[PlannedStep, ...]
    verify: PlannedVerify | None = None
    then: tuple[PlannedStep, ...] = ()
    approve: PlannedApproval | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""
    hash: str = ""
    blast: PlannedBlast | None = None
    undoes: str = ""
    left: tuple[Left, ...] = ()

    @property
    def entity(self) -> Entity:
        """The target as an entity."""
        return entity(self.target)

    @property
    def marks(self) -> bool:
        """Whether it only marks and tells: it moves nothing that another run could move."""
        return all(
            s.use in registry.action and registry.action.get(s.use).effect != "mutating"
            for s in self.steps
        )

    @property
    def own(self) -> str:
        """The run whose name the acts of this one carry: to put back is to go on with that run."""
        return self.undoes or self.run_id

    @property
    def queue(self) -> str:
        """Whom it queues behind: runs on one target; what only marks may hold for days, and queues apart."""
        return f"{self.target} marks" if self.marks else self.target


def plan_hash(plan: Plan) -> str:
    """Return what an approval binds to: playbook text, target, steps, parameters and facts.

    Who asked, when, under which mode and run id make no difference: two plans of the same hash do the same. Limits are
    part of the playbook's text.
    """
    said = pack(plan)
    for name in (
        "run_id",
        "created",
        "by",
        "mode",
        "hash",
        "blast",
        *(() if plan.undoes else ("undoes", "left")),
    ):
        del said[name]
    return hashlib.sha256(canonical(said).encode()).hexdigest()


def sealed(plan: Plan) -> Plan:
    """Return the plan with its hash."""
    return replace(plan, hash=plan_hash(plan))


def asked_hash(plan: Plan, step: str = "") -> str:
    """Return what an answer binds to: the plan, and for a step that asks for itself, that step of it.

    So a yes to the run, said twice, is no yes to its step.
    """
    return hashlib.sha256(f"{plan.hash}/{step}".encode()).hexdigest() if step else plan.hash


def asked_for(plan: Plan, hash_: str) -> tuple[str, PlannedApproval]:
    """Return the step that asks by this hash ("" = the whole run does), and who may answer."""
    for step in plan.steps:
        if step.approve is not None and hash_ == asked_hash(plan, step.id):
            return step.id, step.approve
    return "", plan.approve or PlannedApproval()


def asks(plan: Plan, step: PlannedStep) -> bool:
    """Tell whether a person is asked for a step when its turn has come.

    Not for the first one when the same people said yes to the whole run just now: that was to this step, too.
    """
    if step.approve is None:
        return False
    whole = plan.approve or PlannedApproval()
    just_now = plan.mode == "approve" or bool(plan.by)
    return not (just_now and step is plan.steps[0] and step.approve.by == whole.by)


def why_stays(step: PlannedStep) -> str:
    """Say why what a step changed in the world is not put back; "" = it is, or it changed nothing."""
    if step.undo == "auto" or step.use not in registry.action:
        return ""
    verb = registry.action.get(step.use)
    if verb.effect != "mutating":
        return ""
    if not verb.reversible:
        return "it can not be put back"
    return getattr(verb, "stays", "") or "as the playbook says"


def puts_back(plan: Plan, *, cancelled: bool) -> bool:
    """Tell whether a run that ends before its end puts back what it did, beside what was meant for a while only."""
    return cancelled or plan.verify is None or plan.verify.otherwise == "undo"
