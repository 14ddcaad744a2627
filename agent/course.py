"""The order of boxes in which a plan is carried out, and what each box is asked and says.

    [ask] -> for each step: [ask] -> boundary -> observe -> act -> verify -> [hold] -> [undo] -> then -> report
      |                       |                                        |
      '-- recv, with timeout  '-- waits while paused, ends when over   '-- harmed, or a temporary measure is over

Each box is a durable step: when it is done, it is done for good. A course only decides what comes next, from what the
boxes said; it never looks at a clock, the world or the journal. What a box does is the business of `Hands`, that it
lasts the business of `agent/runner.py`; here is when and how often.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, TypeVar

from agent.codec import canonical, unpack
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.model import Outcome, Run, RunState, StepRecord
from agent.plans import (
    Acted,
    Plan,
    PlannedApproval,
    PlannedStep,
    Would,
    asked_hash,
    asks,
    puts_back,
    why_stays,
)
from agent.units import say_duration

T = TypeVar("T")

ANSWER: Final = "answer"
"""The topic under which people's answers come."""


# ---------------------------------------------------------------- what boxes say


@dataclass(frozen=True, slots=True)
class Passage:
    """What the boundary before a step said: go on, unless one of these is set.

    by     the person who wants the run stopped, and why when they said so
    over   why nothing is left to heal
    """

    by: str = ""
    over: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification said, and when; `by` = a person wants it stopped (as in `Passage`), there is no verdict."""

    ended: float
    outcome: Outcome | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Why a temporary measure is over, and when."""

    ended: float
    text: str
    by: str = ""


class Hands(Protocol):
    """What a run does to the world and to the record. Called on the daemon's loop, one call a run at a time.

    Every coroutine may be cancelled (the daemon stops) and called again with the same arguments (it was killed).
    May raise AgentErrors; anything else is a bug, which ends the run and is told.
    """

    def unfinished(self) -> Mapping[str, Plan]:
        """Return the plans, by run id, that the record says are not at their end."""
        ...

    def run(self, run_id: str) -> Run | None:
        """Return a run as the record knows it."""
        ...

    def run_on(self, target: str) -> Run | None:
        """Return the run that holds a target."""
        ...

    def answers(self, run_id: str) -> Sequence[Mapping[str, Any]]:
        """Return what `answered` was told about a run that lives, oldest first."""
        ...

    def cancelled_by(self, run_id: str) -> str:
        """Return who wants a run that lives stopped, and why when they said so; "" = nobody."""
        ...

    async def accept(self, plan: Plan) -> None:
        """Record a plan and its run, unless they are."""
        ...

    async def answered(
        self, plan: Plan, person: str, yes: bool, plan_hash: str, reason: str = ""
    ) -> None:
        """Record what a person said when the run, or one of its steps, asked by this hash."""
        ...

    async def cancelled(self, plan: Plan, person: str, reason: str = "") -> None:
        """Record that a person wants the run stopped, and why when they said so."""
        ...

    async def boundary(self, plan: Plan, run: Run, *, first: bool, back: bool = False) -> Passage:
        """Wait while the target is paused.

        first   nothing has been done yet, so the run may still end unheard
        back    something is to be put back now: people are told what a pause keeps from it
        """
        ...

    async def observe(
        self,
        plan: Plan,
        step: PlannedStep,
        results: Mapping[str, Any],
        outcome: Outcome | None = None,
    ) -> Mapping[str, Any]:
        """Read what a step would change."""
        ...

    async def act(
        self,
        plan: Plan,
        step: PlannedStep,
        before: Mapping[str, Any],
        results: Mapping[str, Any],
        outcome: Outcome | None,
    ) -> Acted:
        """Do a step, once whatever happens; failures are told in `Acted`, not raised."""
        ...

    async def undo(
        self, plan: Plan, step: PlannedStep, acted: Acted, results: Mapping[str, Any]
    ) -> StepRecord:
        """Put a step back; failures are told in the record, not raised."""
        ...

    async def verify(
        self, plan: Plan, acted: float, since: float, results: Mapping[str, Any]
    ) -> Verified:
        """Watch whether the run helped that acted from `acted` to `since`. Long, changes nothing."""
        ...

    async def hold(
        self, plan: Plan, step: PlannedStep, since: float, results: Mapping[str, Any]
    ) -> Held:
        """Wait until a temporary measure of `since` is over. Long, changes nothing."""
        ...

    async def would(self, plan: Plan, step: PlannedStep) -> Would:
        """Have a step say what it would do now; changes nothing, and what goes wrong is told in the answer."""
        ...

    async def report(self, run: Run) -> Run:
        """Record how a run stands; returns it with the time of the record."""
        ...

    async def tell(self, plan: Plan, what: str, severity: str, title: str, text: str) -> None:
        """Tell people once per run and `what`; severity "" = as bad as its incident is."""
        ...


class Boxes(Protocol):
    """What makes a box durable: the engine."""

    async def box(
        self, run_id: str, name: str, call: Callable[[], Awaitable[Any]], *, acts: bool
    ) -> dict[str, Any]:
        """Do something and record what it gave: `value`, or `error` and `text`; a recorded one is not done again."""
        ...

    async def receive(self, run_id: str, topic: str, timeout_s: float) -> dict[str, Any] | None:
        """Wait for a message; the timeout counts on over restarts."""
        ...


# ---------------------------------------------------------------- the course


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why the steps did not come to their end."""

    why: Literal["failed", "cancelled", "over"]
    text: str


class Course:
    """One run on its way: deterministic, everything that it knows came out of boxes."""

    def __init__(self, boxes: Boxes, hands: Hands, plan: Plan) -> None:
        self._boxes = boxes
        self._hands = hands
        self._plan = plan
        self._run = Run(
            plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode, "acting",
            plan.created, plan.created, plan.hash, text=plan.title,
        )  # fmt: skip
        self._done: list[tuple[PlannedStep, Acted]] = []
        self._results: dict[str, Any] = {}
        self._before: dict[str, Mapping[str, Any]] = {}
        self._stays: list[str] = []
        """What was not put back where others were, or would have been, in words."""
        self._reports = 0

    # ---- boxes

    async def _box(
        self, name: str, cls: type[T], call: Callable[[], Awaitable[T]], *, acts: bool = False
    ) -> T:
        """Do something durably and return it as `cls`; AgentErrors come out the same when it is replayed."""
        said = await self._boxes.box(self._plan.run_id, name, call, acts=acts)
        if "error" in said:
            raise _ERRORS.get(said["error"], Refused)(said["text"])
        value: T = unpack(cls, said["value"])
        return value

    async def _report(
        self, state: RunState, text: str = "", outcome: Outcome | None = None
    ) -> None:
        self._reports += 1
        run = replace(
            self._run,
            state=state,
            text=text or self._run.text,
            outcome=outcome or self._run.outcome,
        )
        self._run = await self._box(f"report:{self._reports}", Run, lambda: self._hands.report(run))

    async def _tell(self, what: str, severity: str, title: str, text: str) -> None:
        """Tell people; that they could not be reached does not change the run."""

        async def call() -> _Nothing:
            await self._hands.tell(self._plan, what, severity, title, text)
            return _Nothing()

        with contextlib.suppress(AgentError):  # what failed is in the box's record and in the log
            await self._box(f"tell:{what}", _Nothing, call)

    # ---- the whole

    async def go(self) -> Run:
        """Carry the plan out; returns the run as it ended."""
        plan = self._plan
        if plan.undoes:
            return await self._put_back()
        stop = await self._ask() if plan.mode == "approve" else None
        if stop is None:
            await self._report("acting")
            stop = await self._act()
        if stop is not None:
            return await self._stopped(stop)
        outcome: Outcome | None = None
        acted = min([a.record.started for _, a in self._done], default=plan.created)
        since = max([a.record.ended for _, a in self._done], default=plan.created)
        if plan.verify is not None:
            await self._report("verifying")
            watch = functools.partial(self._hands.verify, plan, acted, since, dict(self._results))
            verified = await self._box("verify", Verified, watch)
            if verified.outcome is None:
                return await self._stopped(_Stop("cancelled", f"stopped by {verified.by}"))
            outcome, since = verified.outcome, verified.ended
            # what may not have helped is not put back where all is well: that would be one more act, for no reason
            idle = outcome.verdict != "helped" and not outcome.well
            if outcome.verdict == "harmed" or (idle and plan.verify.otherwise == "undo"):
                await self._report("undoing", outcome.summary, outcome)
                outcome = replace(outcome, undone=await self._undo(self._done))
                self._run = replace(self._run, outcome=outcome)  # what follows may have to wait
        stop = await self._hold(since, outcome)
        if stop is not None:
            return await self._stopped(stop, outcome)
        if outcome is not None and outcome.verdict != "helped" and not outcome.well:
            await self._escalate(outcome)
        await self._then(outcome)
        await self._report("done", outcome.summary if outcome else plan.title, outcome)
        return self._run

    async def _put_back(self) -> Run:
        """Put back what a run did that is over: the same boxes as where a run undoes itself, and nothing else."""
        plan = self._plan
        self._done = [(step, one.acted) for step, one in zip(plan.steps, plan.left, strict=True)]
        self._results = {step.id: dict(acted.values) for step, acted in self._done}
        await self._report("undoing", f"puts back run {plan.undoes}, as {plan.by} wants")
        well = await self._undo(self._done)
        said = "; ".join([*(record.summary for record in self._run.steps), *self._stays])
        await self._report("done" if well else "failed", said)
        return self._run

    async def _ask(self) -> _Stop | None:
        """Wait for a person; returns why the run ends here, or None when the answer was yes."""
        plan = self._plan
        stop = await self._look()
        if stop is not None:
            return stop
        await self._report("waiting_approval", f"waits for a yes: {plan.title}")
        await self._tell("ask", "warning", f"asks for approval: {plan.title}",
                         f"{plan.playbook} on {plan.target} for incident {plan.incident}: "
                         f"homeostat approve {plan.run_id}")  # fmt: skip
        return await self._answer(plan.approve or PlannedApproval(), plan.hash)

    async def _ask_for(self, step: PlannedStep) -> _Stop | None:
        """Ask for one step when its turn has come; the yes is for the world as it is then."""
        plan, whole = self._plan, self._run.plan_hash
        see = functools.partial(self._see, step)
        self._before.pop(step.id, None)  # as it was when the whole was asked for
        try:
            self._before[step.id] = (await self._box(f"look:{step.id}", _Seen, see)).seen
        except Unavailable:
            pass  # the world is looked at before the act
        except AgentError as error:
            return _Stop("failed", f"{step.id} can not be done: {error}")
        asked = asked_hash(plan, step.id)
        self._run = replace(self._run, plan_hash=asked)
        await self._report("waiting_approval", f"waits for a yes to {step.id} ({step.use})")
        await self._tell(f"ask:{step.id}", "warning", f"asks for approval of {step.id}: {plan.title}",
                         f"{plan.playbook} on {plan.target} wants to {step.use} ({_short(step.params)}), for "
                         f"incident {plan.incident}: homeostat approve {plan.run_id}")  # fmt: skip
        assert step.approve is not None  # noqa: S101  # asked by the caller
        stop = await self._answer(step.approve, asked, f":{step.id}")
        self._run = replace(self._run, plan_hash=whole)
        return stop

    async def _answer(self, ask: PlannedApproval, hash_: str, of: str = "") -> _Stop | None:
        """Wait for a person's answer to one question; `of` is part of the names of its boxes."""
        plan = self._plan
        begun = (await self._box(f"asked{of}", _Moment, _now)).ts
        left = ask.timeout
        while left > 0:
            said = await self._boxes.receive(plan.run_id, ANSWER, left)
            if said is None:
                break
            if said.get("cancel"):
                return _Stop("cancelled", f"stopped by {said['cancel']}")
            if said.get("plan_hash") == hash_:
                if not said.get("yes"):
                    why = f": {said['reason']}" if said.get("reason") else ""
                    return _Stop("cancelled", f"denied by {said.get('person')}{why}")
                self._run = replace(self._run, text=f"approved by {said.get('person')}")
                return None
            # an answer to another question: `approve` refuses it, but others may write to the queue of answers
            self._reports += 1
            now = await self._box(f"asked:{self._reports}", _Moment, _now)
            left = ask.timeout - (now.ts - begun)
        text = f"nobody with the role {ask.by} answered in {say_duration(ask.timeout)}"
        if ask.on_timeout == "escalate":
            await self._tell(f"unanswered{of}", "", f"nobody answered: {plan.title}", text)
            return _Stop("over", text)
        return _Stop("cancelled", text)

    async def _look(self) -> _Stop | None:
        """Note the world as it is when a person is asked; what can not be done is not asked.

        The yes is for that world: steps act by compare-and-set against it, so what others change meanwhile stops them.
        """
        for step in self._plan.steps:
            if "${" in canonical(dict(step.params)):
                continue  # it depends on what comes before it
            look = functools.partial(self._see, step)
            try:
                self._before[step.id] = (await self._box(f"look:{step.id}", _Seen, look)).seen
            except Unavailable:
                continue  # the world is looked at before the act
            except AgentError as error:
                return _Stop("failed", f"{step.id} can not be done: {error}")
        return None

    async def _see(self, step: PlannedStep, outcome: Outcome | None = None) -> _Seen:
        return _Seen(await self._hands.observe(self._plan, step, self._results, outcome))

    async def _act(self) -> _Stop | None:
        plan = self._plan
        for step in plan.steps:
            if asks(plan, step):
                stop = await self._ask_for(step)
                if stop is not None:
                    return stop
                await self._report("acting")
            first = not any(acted.ours for _, acted in self._done)
            passage = await self._boundary(f"boundary:{step.id}", first=first)
            if passage.over:
                return _Stop("over", passage.over)
            if passage.by:
                return _Stop("cancelled", f"stopped by {passage.by}")
            acted = await self._one(step)
            self._run = replace(self._run, steps=(*self._run.steps, acted.record))
            await self._report("acting")
            if acted.ours:
                self._done.append((step, acted))
            self._results[step.id] = dict(acted.values)
            if acted.text:
                return _Stop("failed", acted.text)
        return None

    async def _boundary(self, name: str, *, first: bool = False, back: bool = False) -> Passage:
        run = self._run
        return await self._box(
            name, Passage, lambda: self._hands.boundary(self._plan, run, first=first, back=back)
        )

    async def _one(self, step: PlannedStep, outcome: Outcome | None = None) -> Acted:
        """Look and act. What failed before the act is told as a step that was not done."""
        try:
            before = self._before.get(step.id)
            if before is None:
                see = functools.partial(self._see, step, outcome)
                before = (await self._box(f"observe:{step.id}", _Seen, see)).seen
            results = dict(self._results)
            return await self._box(
                f"act:{step.id}", Acted,
                lambda: self._hands.act(self._plan, step, before, results, outcome), acts=True,
            )  # fmt: skip
        except AgentError as error:
            at = self._run.updated
            status: Literal["refused", "failed"] = (
                "refused" if isinstance(error, Refused) else "failed"
            )
            text = str(error)
            return Acted(StepRecord(step.id, step.use, at, at, status, text), ours=False, text=text)

    async def _undo(self, what: Sequence[tuple[PlannedStep, Acted]]) -> bool:
        """Put steps back, the last one first; returns whether all are that can be, and any.

        Where there was nothing to put back, nothing is called undone.
        """
        well, put = True, False
        for step, acted in reversed(list(what)):
            self._done.remove((step, acted))
            if step.undo == "none":
                if why := why_stays(step):
                    self._stays.append(f"{step.id} stays ({why})")
                continue
            # a pause holds here too; a wish to stop is met anyway
            await self._boundary(f"boundary:undo:{step.id}", back=True)
            put_back = functools.partial(
                self._hands.undo, self._plan, step, acted, dict(self._results)
            )
            record = await self._box(f"undo:{step.id}", StepRecord, put_back, acts=True)
            if record.status == "stays":
                self._stays.append(f"{step.id} stays ({record.summary})")
                continue
            put = True
            self._run = replace(self._run, steps=(*self._run.steps, record))
            if record.status != "undone":
                well = False
                await self._tell(f"undo:{step.id}", "page", f"not undone: {self._plan.title}",
                                 f"{step.id} ({step.use}) on {self._plan.target} could not be put back: "
                                 f"{record.summary}")  # fmt: skip
        return well and put

    async def _hold(self, since: float, outcome: Outcome | None) -> _Stop | None:
        """Wait until temporary measures are over and put them back: the last one first.

        Whatever the verdict was: what was meant to be temporary does not stay.
        """
        for step, acted in [(s, a) for s, a in reversed(self._done) if s.until is not None]:
            await self._report("holding", outcome=outcome)
            wait = functools.partial(self._hands.hold, self._plan, step, since, dict(self._results))
            held = await self._box(f"hold:{step.id}", Held, wait)
            if held.by:
                return _Stop("cancelled", f"stopped by {held.by}")
            await self._report("undoing", f"{step.id}: {held.text}", outcome)
            await self._undo([(step, acted)])
        return None

    async def _escalate(self, outcome: Outcome) -> None:
        verify = self._plan.verify
        if outcome.verdict == "harmed" or (verify is not None and verify.otherwise == "escalate"):
            undone = ", it was undone" if outcome.undone else ""
            stays = "".join(f", {said}" for said in self._stays)
            next_ = ""
            if outcome.verdict == "harmed":
                next_ = (
                    "; from now on it only suggests, here and wherever it is not proven to help, until: "
                    f"homeostat reinstate {self._plan.playbook}"
                )
            severity = "page" if outcome.verdict == "harmed" else ""
            await self._tell("escalate", severity, f"did not help: {self._plan.title}",
                             f"{self._plan.playbook} on {self._plan.target}: {outcome.verdict}{undone}{stays}; "
                             f"{outcome.summary}{next_}")  # fmt: skip

    async def _then(self, outcome: Outcome | None) -> None:
        """Do what follows a run. A step that fails here ends these steps; the run is what it is."""
        for step in self._plan.then:
            if (await self._boundary(f"boundary:{step.id}")).by:
                return
            acted = await self._one(step, outcome)
            self._run = replace(self._run, steps=(*self._run.steps, acted.record))
            if acted.text:
                return

    async def _stopped(self, stop: _Stop, outcome: Outcome | None = None) -> Run:
        """End a run before its end: put back what must not stay, say so, and what follows."""
        plan = self._plan
        whole = puts_back(plan, cancelled=stop.why == "cancelled")
        back = [(s, a) for s, a in self._done if whole or s.until is not None]
        undone = False
        if back:
            await self._report("undoing", stop.text)
            undone = await self._undo(back)
        if self._run.steps and outcome is None:
            outcome = Outcome("cannot_tell", stop.text, undone=undone)
        elif outcome is not None:
            outcome = replace(outcome, undone=undone)
        if stop.why == "failed":
            await self._tell("failed", "", f"failed: {plan.title}",
                             f"{plan.playbook} on {plan.target}: {stop.text}")  # fmt: skip
            await self._then(outcome)
        state: RunState = {"failed": "failed", "cancelled": "denied", "over": "expired"}[stop.why]  # type: ignore[assignment]  # mypy widens the values to str
        await self._report(state, stop.text, outcome)
        return self._run


@dataclass(frozen=True, slots=True)
class _Seen:
    seen: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Moment:
    ts: float


@dataclass(frozen=True, slots=True)
class _Nothing:
    said: bool = True


def _short(params: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in params.items()) or "no parameters"
    return said if len(said) <= 200 else said[:197] + "..."


async def _now() -> _Moment:
    return _Moment(time.time())


_ERRORS: Final[dict[str, type[AgentError]]] = {
    "Unavailable": Unavailable,
    "Refused": Refused,
    "Uncertain": Uncertain,
}
