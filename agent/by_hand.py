"""What a person has done by hand: a playbook on a target of their choice, and the undo of a run that is over.

A run that a person starts is planned first, and the plan is shown with every gate; only a yes to exactly that plan
starts it. All gates of the guard hold, and what the playbook itself excepts (`where`, `unless`); conditions and the
cause need not hold, as the person is who decides. To put back is the runner's own undo, in a run of its own. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from agent import guard, match
from agent.codec import unpack
from agent.errors import Refused
from agent.model import ENDED, Decision, Entity, Gate, Incident
from agent.pipeline import ongoing
from agent.plans import Acted, Left, Plan, sealed

if TYPE_CHECKING:
    from agent.journal import Entry, JournalReader
    from agent.memory import Memory
    from agent.pipeline import Walk
    from agent.playbook import Playbook

_ORDER: Final = ("note", "warning", "page")
_OURS: Final = frozenset({"done", "adopted"})
"""States of a step that can be put back: of one that may have happened it is not known what it did."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a playbook would do on a target now, and what the guard says to that."""

    plan: Plan
    decision: Decision

    @property
    def closed(self) -> Gate | None:
        """The first gate that is closed."""
        return next((g for g in self.decision.gates if not g.passed), None)


def proposed(walk: Walk, playbook: Playbook, target: Entity, now: float) -> Proposal:
    """Plan what a playbook would do at a person's word; raises Refused when it is not meant for such a target."""
    if target.kind != playbook.target.kind:
        raise Refused(
            f"{playbook.id} acts on a {playbook.target.kind}, and {target.id} is none; name a {playbook.target.kind}"
        )
    incident = _incident(walk, playbook, target, now)
    cause = incident.diagnosis.top if incident.diagnosis else None
    decision = guard.decide(
        playbook, target, incident, memory=walk.memory, world=walk.world, config=walk.config, now=now,
        ceiling="approve", paused_file=walk.paused_file, journal_well=walk.journal_well,
        unseen=walk.correlator.unseen(incident.id),
    )  # fmt: skip
    scene = walk.scene(target, cause, incident.opened)
    fits, reason = match.meant_for(playbook, scene)
    meant = Gate("meant", fits is True, "yes" if fits else "no" if fits is False else "unknown",
                 "`where` holds, no `unless` does", reason)  # fmt: skip
    allowed = decision.allowed and meant.passed
    plan = playbook.plan(target, incident, scene, "auto", now)
    decision = replace(
        decision, gates=(*decision.gates, meant), allowed=allowed, plan_hash=plan.hash
    )
    return Proposal(plan, decision)


def _incident(walk: Walk, playbook: Playbook, target: Entity, now: float) -> Incident:
    """Return what a run on this target would be for: the worst that is about it, else one of nothing wrong."""
    found = []
    for incident in walk.correlator.incidents.values():
        top = incident.diagnosis.top if incident.diagnosis else None
        whom = {incident.about, *incident.also, *incident.entities, *([top.entity] if top else [])}
        if top is not None:
            whom.add(match.target_of(playbook, top, incident, walk.world.topology))
        if target in whom:
            found.append(incident)
    found.sort(key=lambda i: (ongoing(i), _ORDER.index(i.severity), i.opened, i.id))
    none = Incident(
        "", now, now, "open", "note", f"nothing is known to be wrong with {target.id}", about=target
    )
    return found[-1] if found else none


# ---------------------------------------------------------------- undo


def undoing(memory: Memory, journal: JournalReader, run_id: str, person: str, now: float) -> Plan:
    """Plan the undo of a run that is over; raises Refused when there is nothing that can be put back.

    What its steps have left is read from the journal. Tried twice it is the same plan until the first try is over.
    """
    plan, run = memory.plans.get(run_id), memory.runs[run_id]
    if run.state not in ENDED:
        raise Refused(f"run {run.id} is {run.state}: it can be stopped, homeostat deny {run.id}")
    if plan is None:
        raise Refused(f"what run {run_id} planned is not known any more: put it back by hand")
    if plan.undoes:
        raise Refused(f"run {run.id} is itself an undo, of run {plan.undoes}; it is not undone")
    tries = [memory.runs[id_] for id_ in memory.undos.get(run_id, ()) if id_ in memory.runs]
    for one in tries:
        if one.state not in ENDED:
            raise Refused(f"run {run.id} is being put back already, by run {one.id}")
    left = _left(journal.read(("intent", "acted"), run_id))
    gone = {s.id for r in (run, *tries) for s in r.steps if s.status == "undone"}
    ours = {s.id for s in run.steps if s.status in _OURS} & left.keys()
    moved = {id_ for id_, one in left.items() if one.acted.undo}
    wanted = {s.id for s in plan.steps if s.undo == "auto"}
    back = wanted & ours & moved - gone
    if not back:
        why = (
            "it was put back already" if ours and ours <= gone
            else "it left nothing to put back" if ours & wanted
            else "what it did can not be put back" if ours
            else "what it did is not known: look at its target" if any(s.status == "uncertain" for s in run.steps)
            else "it did nothing"
        )  # fmt: skip
        raise Refused(f"there is nothing to undo of run {run.id}: {why}")
    # the others stay in it, for what later steps have read of them
    steps = tuple(
        s if s.id in back else replace(s, undo="none") for s in plan.steps if s.id in left
    )
    seed = f"undo|{run.id}|{len(tries)}"
    return sealed(replace(
        plan, run_id=f"undo-{hashlib.sha256(seed.encode()).hexdigest()[:12]}", title=f"Undo: {plan.title}"[:120],
        mode="auto", by=person, created=now, steps=steps, verify=None, then=(), approve=None,
        undoes=run.id, left=tuple(left[s.id] for s in steps),
    ))  # fmt: skip


def _left(entries: Iterable[Entry]) -> Mapping[str, Left]:
    """Return what each step has left behind, by its id."""
    before: dict[str, Mapping[str, Any]] = {}
    out: dict[str, Left] = {}
    for entry in entries:
        step = str(entry.body["step"])
        if entry.kind == "intent":
            before[step] = dict(entry.body["before"])
        elif entry.body.get("result") is not None and "/" not in step:
            acted = unpack(Acted, entry.body["result"])
            out[step] = Left(before.get(step, {}), acted)
    return out
