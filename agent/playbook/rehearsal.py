"""Runs that nobody carries out: they leave in the memory what real ones do, for guard and matcher.

    plan --act--> run, all steps done, verifying --(its verification would have ended)--> done, with the given verdict
         `-> mode approve: waits for a yes that nobody gives, and expires

For tests of playbooks and replays. Pure: `now` is an argument, nothing outside is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.codec import pack
from agent.journal import Entry
from agent.memory import Memory
from agent.model import Outcome, Run, StepRecord, Verdict
from agent.runner import Plan, PlannedApproval

Write = Callable[[str, str, dict[str, Any], float], None]


class Fold:
    """A journal that is kept nowhere: what is recorded is folded into a memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._seq = memory.seq

    def __call__(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Record one entry."""
        self._seq += 1
        self._memory.apply(Entry(self._seq, ts, kind, subject, body, "", ""))


class Rehearsal:
    """The runs that would be at work.

    verdict, why   how every act ends that is judged: the world does not answer to it
    """

    def __init__(self, write: Write, verdict: Verdict, why: str) -> None:
        self._write = write
        self._verdict: Verdict = verdict
        self._why = why
        self._live: list[tuple[float, Plan, Run]] = []

    def act(self, plan: Plan, now: float) -> None:
        """Begin a plan as its mode says; a suggestion is begun by nobody."""
        if plan.mode == "suggest":
            return
        if plan.mode == "approve":
            run = self._run(plan, now)
            ends = now + (plan.approve or PlannedApproval()).timeout
        else:
            done = tuple(
                StepRecord(s.id, s.use, now, now, "done", "not carried out") for s in plan.steps
            )
            run = replace(self._run(plan, now), state="verifying", steps=done)
            lasts = 0.0 if plan.verify is None else plan.verify.wait + plan.verify.within
            ends = now + lasts
        self._write("run", run.id, pack(run), now)
        self._live.append((ends, plan, run))

    def end(self, now: float) -> None:
        """Let those end whose time is over."""
        due = [one for one in self._live if one[0] <= now]
        self._live = [one for one in self._live if one[0] > now]
        for at, plan, run in due:
            if plan.mode == "approve":
                ended = replace(run, state="expired", updated=at, text="nobody is asked")
            else:
                verdict: Verdict = self._verdict if plan.verify is not None else "cannot_tell"
                ended = replace(run, state="done", updated=at, outcome=Outcome(verdict, self._why))
            self._write("run", run.id, pack(ended), at)

    @staticmethod
    def _run(plan: Plan, now: float) -> Run:
        return Run(
            plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode, "waiting_approval",
            now, now, plan.hash,
        )  # fmt: skip
