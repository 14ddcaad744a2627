"""Runs that nobody carries out: they leave in the memory what real ones do, for guard and matcher.

    plan --act--> run, all steps done, verifying --(its verification would have ended)--> done, with the given verdict
         '-> people are asked, before the whole run or on the way: what comes before is done, then it waits, nobody
             answers, and it ends as a real one does: what is to be put back is, the rest was never done

For tests of playbooks and replays. Pure: `now` is an argument, nothing outside is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from agent import registry
from agent.codec import pack
from agent.journal import Entry
from agent.memory import Memory
from agent.model import Outcome, Run, RunState, StepRecord, Verdict
from agent.plans import Plan, PlannedApproval, PlannedStep, asks, puts_back
from agent.questions import Asker
from agent.units import say_duration

Write = Callable[[str, str, dict[str, Any], float], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One time that a run would ask people.

    step      whose turn has come, by id; "" = it asks for the whole run, before anything is done
    at        its place among the steps
    by        the role that may answer; waits_s: so long
    then      what follows when nobody answers, in words; state: how the run ends then
    back      the steps that are put back then, the last one first
    """

    step: str
    at: int
    by: str
    waits_s: float
    then: str
    state: RunState
    back: tuple[str, ...] = ()

    def __str__(self) -> str:
        before = f" before {self.step}" if self.step else ""
        return f"would ask {self.by}{before}, waits up to {say_duration(self.waits_s)}, then {self.then}"


def questions(plan: Plan) -> Iterator[Asked]:
    """Yield when a run would ask people, in order; a suggestion asks nobody."""
    if plan.mode == "approve":
        yield _approval(plan, plan.approve or PlannedApproval(), 0, "")
    for i, step in enumerate(plan.steps if plan.mode in {"approve", "auto"} else ()):
        if step.approve is not None and asks(plan, step):
            yield _approval(plan, step.approve, i, step.id)
        verb = registry.action.get(step.use) if step.use in registry.action else None
        if verb is not None and verb.ability is Asker:
            try:
                form = verb.Params(**step.params)
            except ValidationError:  # who is asked is known when it is filled
                continue
            yield _silence(plan, Asked(step.id, i, form.by, form.wait, "", "failed"), told=True)


def _approval(plan: Plan, ask: PlannedApproval, at: int, step: str) -> Asked:
    escalates = ask.on_timeout == "escalate"
    asked = Asked(step, at, ask.by, ask.timeout, "", "expired" if escalates else "denied")
    return _silence(plan, asked, told=escalates)


def _silence(plan: Plan, asked: Asked, *, told: bool) -> Asked:
    """Say what silence means: as `agent.course` ends a run before its end."""
    done = [s for s in plan.steps[: asked.at] if _ours(s)]
    whole = puts_back(plan, cancelled=asked.state == "denied")
    back = [s.id for s in reversed(done) if s.undo == "auto" and (whole or s.until is not None)]
    stays = [s.id for s in done if s.id not in back]
    said = [f"{', '.join(back)} put back"] if back else []
    said += [f"{', '.join(stays)} as done"] if stays else []
    then = f"it ends with {' and '.join(said) or 'nothing done'}"
    return replace(asked, then=then + ("; people are told" if told else ""), back=tuple(back))


def _ours(step: PlannedStep) -> bool:
    return step.use not in registry.action or registry.action.get(step.use).effect != "reading"


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

    verdict, why   how every act ends that is judged: the world does not answer to it, nor do people
    """

    def __init__(self, write: Write, verdict: Verdict, why: str) -> None:
        self._write = write
        self._verdict: Verdict = verdict
        self._why = why
        self._live: list[tuple[float, Plan, Run, Asked | None]] = []

    def act(self, plan: Plan, now: float) -> None:
        """Begin a plan as its mode says; a suggestion is begun by nobody."""
        if plan.mode == "suggest":
            return
        asked = next(questions(plan), None)
        done = tuple(
            StepRecord(s.id, s.use, now, now, "done", "not carried out")
            for s in (plan.steps if asked is None else plan.steps[: asked.at])
        )
        if asked is not None:
            state: RunState = "waiting_approval"
            ends = now + asked.waits_s
        else:
            state = "verifying"
            ends = now if plan.verify is None else now + plan.verify.wait + plan.verify.within
        run = Run(
            plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode, state, now, now, plan.hash, done
        )  # fmt: skip
        self._write("run", run.id, pack(run), now)
        self._live.append((ends, plan, run, asked))

    def end(self, now: float) -> None:
        """Let those end whose time is over."""
        due = [one for one in self._live if one[0] <= now]
        self._live = [one for one in self._live if one[0] > now]
        for at, plan, run, asked in due:
            if asked is not None:
                ended = _unanswered(run, asked, at)
            else:
                verdict: Verdict = self._verdict if plan.verify is not None else "cannot_tell"
                ended = replace(run, state="done", updated=at, outcome=Outcome(verdict, self._why))
            self._write("run", run.id, pack(ended), at)


def _unanswered(run: Run, asked: Asked, at: float) -> Run:
    use = {s.id: s.use for s in run.steps}
    back = tuple(StepRecord(s, use[s], at, at, "undone", "not carried out") for s in asked.back)
    text = "nobody answers"
    outcome = Outcome("cannot_tell", text, undone=bool(back)) if run.steps else None
    return replace(
        run, state=asked.state, updated=at, steps=(*run.steps, *back), outcome=outcome, text=text
    )
