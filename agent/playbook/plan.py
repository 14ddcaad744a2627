"""What a run is going to do: a playbook, a target and an incident made into a plan that no longer changes."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from agent.causes import words
from agent.expr import Lookup, interpolate
from agent.model import Cause, Entity, Incident, Mode
from agent.plans import Plan, PlannedApproval, PlannedStep, PlannedVerify, Until, sealed
from agent.playbook.verbs import put_back

if TYPE_CHECKING:
    from agent.playbook.language import Approval, Playbook, StepModel


def make(
    playbook: Playbook, target: Entity, incident: Incident, scene: Lookup, *, mode: Mode, now: float
) -> Plan:
    """Fix what a run is going to do. Pure: the run id is made of playbook, target, incident, mode and `now`.

    `${}` is filled as far as it is known now; what stands on `steps`, `verdict` or unknown values stays as text
    and is read when the step acts.
    """
    cause = incident.diagnosis.top if incident.diagnosis else None

    def look(name: str) -> Any:
        head, _, rest = name.partition(".")
        if name in {"title", "owner"}:
            return getattr(playbook, name)
        if head == "incident":
            return {
                "id": incident.id,
                "title": incident.title,
                "severity": incident.severity,
            }.get(rest)
        if name == "cause.words":
            return words(cause.kind) if cause else None
        return None if head in {"steps", "verdict"} else scene(name)

    seed = "|".join((playbook.id, target.id, incident.id, mode, repr(now)))
    verify = playbook.verify
    approve = playbook.limits.approve
    return sealed(
        Plan(
            run_id=f"{playbook.id}-{hashlib.sha256(seed.encode()).hexdigest()[:12]}",
            playbook=playbook.id,
            title=playbook.title,
            text_hash=playbook.text_hash,
            target=target.id,
            incident=incident.id,
            mode=mode,
            by="",
            created=now,
            steps=tuple(_planned(s, look) for s in playbook.do if not playbook.left_out(s)),
            verify=None
            if verify is None
            else PlannedVerify(
                verify.wait,
                verify.within,
                tuple(verify.expect),
                verify.against,
                verify.otherwise,
            ),
            then=tuple(_planned(s, look) for s in playbook.then if not playbook.left_out(s)),
            approve=_approval(approve),
            facts=_facts(cause, incident),
            cause=cause.kind if cause else "",
            blast=playbook.limits.planned_blast if playbook.mutating else None,
        )
    )


def _planned(step: StepModel, look: Lookup) -> PlannedStep:
    until = None
    if step.until is not None:
        until = Until(tuple(step.until.is_), step.until.for_, step.until.at_most)
    return PlannedStep(
        step.id, step.use, step.via, interpolate(step.with_, look, keep=True),
        "auto" if put_back(step) else "none", until, step.timeout, step.retry,
        None if step.approve is None else _approval(step.approve),
    )  # fmt: skip


def _approval(said: Approval) -> PlannedApproval:
    return PlannedApproval(said.by, said.timeout, said.on_timeout)


_MEASURED: Final = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def _facts(cause: Cause | None, incident: Incident) -> dict[str, str]:
    """Return what steps may read of the diagnosis: who and what, no measurements.

    An approval binds to the facts; a number that moves with every tick would void it for nothing.
    """
    said = dict(cause.facts) if cause else {}
    out = {k: v for k, v in said.items() if "version" in k or not _MEASURED.fullmatch(v)}
    if cause is not None:
        out |= {"kind": cause.kind, "entity": cause.entity.id}
    return out | {"incident": incident.id}
