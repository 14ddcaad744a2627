"""Runs: how they stand, and a person's yes, no, start and undo."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent import views
from agent.authority import ROLES, Person
from agent.codec import pack
from agent.desk.finding import Finding
from agent.errors import Refused
from agent.meant import named
from agent.model import ENDED, Run
from agent.plans import Plan, PlannedApproval, asked_for
from agent.views import PlanView, RunView, WouldView

if TYPE_CHECKING:
    from agent.by_hand import Proposal


class Runs(Finding):
    """Runs, and what people do about them."""

    def runs(self, *, everything: bool = True, limit: int = 100) -> list[RunView]:
        """Return runs: those that ask or live first, then the newest."""
        found = sorted(
            (r for r in self.hooks.memory.runs.values() if everything or self._alive(r)),
            key=lambda r: (not self._alive(r), -r.updated, r.id),
        )
        return [self._run_view(r) for r in found[:limit]]

    def run(self, id_: str) -> RunView:
        """Return one run, step by step; raises NotThere."""
        return self._run_view(self._run(id_))

    async def approve(self, id_: str, person: Person, plan_hash: str = "") -> RunView:
        """Say yes to a run that asks, or let a suggestion act. Raises NotThere, Forbidden, Refused.

        plan_hash   of the plan that the person saw: when it is another one by now, nothing happens
        """
        run, asked = self._asking(id_, person, "approve", plan_hash)
        if run.state == "suggested":
            started = await self.hooks.start(run.id, person)
            return self._run_view(started)
        await self.hooks.answer(run.id, person, yes=True, plan_hash=asked)
        return self._run_view(self.hooks.memory.runs.get(run.id, run))

    def asking(self, id_: str, person: Person, plan_hash: str = "") -> RunView:
        """Return a run that asks, for somebody who may answer it. Raises NotThere, Forbidden, Refused.

        plan_hash   as in `approve`
        """
        return self._run_view(self._asking(id_, person, "deny", plan_hash)[0])

    async def deny(
        self, id_: str, person: Person, reason: str = "", plan_hash: str = ""
    ) -> RunView:
        """Say no to a run that asks; stop one that acts, and put back what it did.

        plan_hash   of the plan that the person saw as it asked: when it asks no more, or for another one, nothing
                    happens
        Raises NotThere, Forbidden, Refused.
        """
        run = self._run(id_)
        if not plan_hash and run.state not in ENDED and run.state != "waiting_approval":
            person.must("deny")
            await self.hooks.cancel(run.id, person, reason)
            return self._run_view(self.hooks.memory.runs.get(run.id, run))
        run, asked = self._asking(id_, person, "deny", plan_hash)
        if run.state == "suggested":
            text = f"denied by {person.signed}" + (f": {reason}" if reason else "")
            denied = replace(run, state="denied", updated=self.hooks.now(), text=text)
            self._record("run", run.id, pack(denied))
        else:
            await self.hooks.answer(run.id, person, yes=False, plan_hash=asked, reason=reason)
        return self._run_view(self.hooks.memory.runs.get(run.id, run))

    async def undo(self, person: Person, id_: str, reason: str = "") -> RunView:
        """Put back what a run did: one that is over by a run of its own, one that acts as a no does.

        By compare-and-set: what others have changed since is left alone and told. Raises NotThere, Forbidden, Refused.
        """
        person.must("undo")
        run = self._run(id_)
        if run.state not in ENDED and run.state != "waiting_approval":
            await self.hooks.cancel(run.id, person, reason)
            return self._run_view(self.hooks.memory.runs.get(run.id, run))
        return self._run_view(await self.hooks.undo(run.id, person, reason))

    def plan(self, playbook: str, target: str) -> PlanView:
        """Return what a playbook would do on a target now, with every gate. Raises NotThere, Refused."""
        found = self._proposed(playbook, target)
        return views.plan_view(found.plan, found.decision, self.name)

    async def dry_run(self, person: Person, playbook: str, target: str) -> list[WouldView]:
        """Ask each step of a playbook what it would do on a target now; nothing is done.

        The systems outside are asked, so it takes the role that may start it. Raises NotThere, Forbidden, Refused.
        """
        person.must("run")
        return await self._would(self._proposed(playbook, target).plan)

    async def dry_run_of(self, person: Person, id_: str, plan_hash: str = "") -> list[WouldView]:
        """Ask each step of the plan that a run waits with what it would do now; nothing is done.

        plan_hash   of the plan that the person saw, if any: another one by now is refused
        Raises NotThere, Forbidden, Refused.
        """
        person.must("run")
        run = self._run(id_)
        if not self._asks(run):
            raise Refused(
                f"run {run.id} is {run.state}: it asks nobody, so there is no plan to try"
            )
        plan = self.hooks.memory.plans.get(run.id)
        if plan is None:
            raise Refused(f"what run {run.id} planned is not known any more")
        if plan_hash and plan_hash != run.plan_hash:
            raise Refused(f"the plan of run {run.id} has changed since you saw it; look again")
        return await self._would(plan)

    async def _would(self, plan: Plan) -> list[WouldView]:
        found = await self.hooks.would(plan)
        return [{"id": w.id, "use": w.use, "status": w.status, "text": w.text} for w in found]

    async def start(
        self, person: Person, playbook: str, target: str, plan_hash: str, reason: str = ""
    ) -> RunView:
        """Start a playbook on a target: exactly the plan that the person saw. Raises NotThere, Forbidden, Refused.

        plan_hash   as `plan` told it; another plan by now is refused. All gates hold but the ceilings
        """
        person.must("run")
        plan = self._proposed(playbook, target).plan
        wanted = (plan.approve or PlannedApproval()).by
        person.must("run", ROLES[ROLES.index(wanted)] if wanted in ROLES else "admin")
        if plan_hash != plan.hash:
            raise Refused(
                "this is not the plan that you saw, or you saw none; look again: "
                f"homeostat playbook run {plan.playbook} {plan.target}"
            )
        run = await self.hooks.begin(plan.playbook, plan.entity, person, plan_hash)
        if reason:
            self._record("reason", run.id, {"by": person.signed, "reason": reason})
        return self._run_view(run)

    def _proposed(self, playbook: str, target: str) -> Proposal:
        loaded = {p["id"]: p for p in self.hooks.playbooks()}
        id_ = named(playbook, {p["id"]: p["title"] or p["id"] for p in loaded.values()})
        whom = self._target(loaded[id_]["target"], target, self._entities())
        return self.hooks.propose(id_, whom)

    def _run_view(self, run: Run) -> RunView:
        memory = self.hooks.memory
        decision = memory.last_decision(run.playbook, run.target, run.incident)
        undos = memory.undos.get(run.id, ())
        shown = views.run_view(
            run, memory.plans.get(run.id), decision, self.name, undone_by=undos[-1] if undos else ""
        )
        if any(
            r.state not in ENDED or r.state == "done" for u in undos if (r := memory.runs.get(u))
        ):
            shown["undoable"] = False
        shown["asks"] = self._asks(run)
        return shown

    def _asks(self, run: Run) -> bool:
        """Tell whether a person can still say yes: a suggestion asks while its incident is open and none is newer."""
        if run.state != "suggested":
            return run.state == "waiting_approval"
        memory = self.hooks.memory
        i = memory.incidents.get(run.incident)
        if i is None or i.state == "resolved":
            return False
        return not any(
            other.started > run.started
            and (other.playbook, other.target, other.incident)
            == (run.playbook, run.target, run.incident)
            for other in memory.runs.values()
        )

    def _alive(self, run: Run) -> bool:
        return self._asks(run) or run.state not in ENDED

    def _asking(self, text: str, person: Person, verb: Any, plan_hash: str = "") -> tuple[Run, str]:
        """Return a run that waits for a person, and its plan's hash: the one that they saw, if any."""
        run = self._run(text)
        plan = self.hooks.memory.plans.get(run.id)
        wanted = asked_for(plan, run.plan_hash)[1].by if plan is not None else "operator"
        role = ROLES[ROLES.index(wanted)] if wanted in ROLES else "admin"
        person.must(verb, role)
        if not self._asks(run):
            raise Refused(
                f"run {run.id} is {run.state}: nobody is asked; see homeostat runs {run.id}"
            )
        if plan_hash and plan_hash != run.plan_hash:
            raise Refused(
                f"the plan of run {run.id} has changed since you saw it; look again: homeostat runs {run.id}"
            )
        return run, run.plan_hash
