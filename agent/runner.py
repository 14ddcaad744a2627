"""Durable runs: one generic DBOS workflow that carries out a plan, whatever happens to the process in between.

    [ask] -> for each step: [ask] -> boundary -> observe -> act -> verify -> [hold] -> [undo] -> then -> report
      |                       |                                        |
      '-- recv, with timeout  '-- waits while paused, ends when over   '-- harmed, or a temporary measure is over

Each box is a durable step: when it is done, it is done for good. The workflow itself only decides what comes next, from
what the boxes said; it never looks at a clock, the world or the journal. What a box does is the business of `Hands`;
here is when and how often.

    daemon's loop:   Runner.start/approve/cancel     Hands.act, verify, hold ...   (coroutines)
                          |  enqueue, send               ^  run_coroutine_threadsafe
    DBOS's loop:          '------> workflow task --------'

Nothing twice: a box may be entered again after a crash, so `Hands.act` writes an intent before it acts and looks at the
world before it acts again. Should even the store of runs be lost, the plans and those intents are in the journal: a run
that is begun anew does not repeat what is noted there.

Measured with DBOS 3.4 on SQLite: the import costs 24 MB and .3 s, a launch 5 MB and .05 s, one box 3 ms; while loaded
it polls for 1 to 2 % of a core. So it is loaded when a run needs it, and let go after minutes without one, which gives
back the CPU but not the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from agent import registry
from agent.codec import canonical, pack, unpack
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.model import Entity, Mode, Outcome, Run, RunState, StepRecord, entity
from agent.runs_store import RunsStore
from agent.units import say_duration

log = structlog.get_logger()

T = TypeVar("T")
V = TypeVar("V")


# ---------------------------------------------------------------- plans


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
class Plan:
    """What a run is going to do: fixed when it is made, whatever becomes of the playbook's file.

    target     entity id
    mode       approve: a person is asked first; auto: not. observe and suggest are never run
    by         who wanted it: "" = the agent, else a person
    text_hash  of the playbook's text
    facts      of the diagnosis; cause: its kind
    hash       what an approval binds to: see `plan_hash`
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

    Who asked, when, under which mode and run id make no difference: two plans of the same hash do the same.
    """
    said = pack(plan)
    for name in (
        "run_id",
        "created",
        "by",
        "mode",
        "hash",
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


# ---------------------------------------------------------------- what boxes say


@dataclass(frozen=True, slots=True)
class Passage:
    """What the boundary before a step said: go on, unless one of these is set.

    by     the person who wants the run stopped
    over   why nothing is left to heal
    """

    by: str = ""
    over: str = ""


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
class Left:
    """What a step of a run that is over has left behind: what was there before, and what came of it."""

    before: Mapping[str, Any]
    acted: Acted


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification said, and when; `by` = a person wants the run stopped, there is no verdict."""

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
        """Return who wants a run that lives stopped; "" = nobody."""
        ...

    async def accept(self, plan: Plan) -> None:
        """Record a plan and its run, unless they are."""
        ...

    async def answered(self, plan: Plan, person: str, yes: bool, plan_hash: str) -> None:
        """Record what a person said when the run, or one of its steps, asked by this hash."""
        ...

    async def cancelled(self, plan: Plan, person: str) -> None:
        """Record that a person wants the run stopped."""
        ...

    async def boundary(self, plan: Plan, run: Run, *, first: bool) -> Passage:
        """Wait while the target is paused; `first`: nothing has been done yet, so the run may still end unheard."""
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

    async def report(self, run: Run) -> Run:
        """Record how a run stands; returns it with the time of the record."""
        ...

    async def tell(self, plan: Plan, what: str, severity: str, title: str, text: str) -> None:
        """Tell people once per run and `what`; severity "" = as bad as its incident is."""
        ...


# ---------------------------------------------------------------- the workflow

_WORKFLOW: Final = "homeostat.run.1"
"""Name of the interpreter in the store of runs. A changed order of boxes gets a new number and the old one stays until
no run needs it: DBOS compares the names of the boxes when it replays."""
_QUEUE: Final = "homeostat.runs"
_VERSION: Final = "1"  # constant: by default DBOS recovers only runs of the very same source code
_ANSWER: Final = "answer"
_RECOVERIES: Final = 50
_KEEP_S: Final = 30 * 86_400.0
"""How long runs that have ended stay in the store of runs."""

# DBOS is one per process, and so is the runner that its workflow calls.
_serving: Runner | None = None
_workflow: Any = None  # `_carry` under DBOS's decorator, once it is loaded


class _Parked(BaseException):
    """The engine's own file failed: leave the run as it is recorded; it is taken up again later.

    Not an Exception: DBOS would record that as the end of the run.
    """


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why the steps did not come to their end."""

    why: Literal["failed", "cancelled", "over"]
    text: str


class _Course:
    """One run on its way: deterministic, everything that it knows came out of boxes."""

    def __init__(self, runner: Runner, plan: Plan) -> None:
        self._runner = runner
        self._hands = runner.hands
        self._plan = plan
        self._run = Run(
            plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode, "acting",
            plan.created, plan.created, plan.hash, text=plan.title,
        )  # fmt: skip
        self._done: list[tuple[PlannedStep, Acted]] = []
        self._results: dict[str, Any] = {}
        self._before: dict[str, Mapping[str, Any]] = {}
        self._reports = 0

    # ---- boxes

    async def _box(
        self, name: str, cls: type[T], call: Callable[[], Awaitable[T]], *, acts: bool = False
    ) -> T:
        """Do something durably and return it as `cls`; AgentErrors come out the same when it is replayed."""
        said = await self._runner.box(self._plan.run_id, name, call, acts=acts)
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
        said = "; ".join(record.summary for record in self._run.steps)
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

    def _covered(self, step: PlannedStep) -> bool:
        """Tell whether the yes to the run was to this step, too: the first one, asked of the same people just now."""
        plan = self._plan
        whole, own = plan.approve or PlannedApproval(), step.approve
        asked = plan.mode == "approve" or bool(plan.by)
        return asked and step is plan.steps[0] and own is not None and own.by == whole.by

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
            said = await self._runner.receive(plan.run_id, _ANSWER, left)
            if said is None:
                break
            if said.get("cancel"):
                return _Stop("cancelled", f"stopped by {said['cancel']}")
            if said.get("plan_hash") == hash_:
                if not said.get("yes"):
                    return _Stop("cancelled", f"denied by {said.get('person')}")
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
        for step in self._plan.steps:
            if step.approve is not None and not self._covered(step):
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

    async def _boundary(self, name: str, *, first: bool = False) -> Passage:
        run = self._run
        return await self._box(
            name, Passage, lambda: self._hands.boundary(self._plan, run, first=first)
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
        """Put steps back, the last one first; returns whether all are that can be, and any."""
        well, put = True, False
        for step, acted in reversed(list(what)):
            self._done.remove((step, acted))
            if step.undo == "none":
                continue
            await self._boundary(
                f"boundary:undo:{step.id}"
            )  # a pause holds here too; a wish to stop is met anyway
            put_back = functools.partial(
                self._hands.undo, self._plan, step, acted, dict(self._results)
            )
            record = await self._box(f"undo:{step.id}", StepRecord, put_back, acts=True)
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
            next_ = ""
            if outcome.verdict == "harmed":
                next_ = f"; from now on it only suggests, until: homeostat reinstate {self._plan.playbook}"
            severity = "page" if outcome.verdict == "harmed" else ""
            await self._tell("escalate", severity, f"did not help: {self._plan.title}",
                             f"{self._plan.playbook} on {self._plan.target}: {outcome.verdict}{undone}; "
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
        whole = stop.why == "cancelled" or plan.verify is None or plan.verify.otherwise == "undo"
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


# ---------------------------------------------------------------- the runner


class Runner:
    """Starts runs, carries them over restarts, and lets go of the engine when there are none.

    store      where the engine keeps the boxes of runs: a file, or a database
    idle_s     let the engine go after so long without a run
    poll_s     how soon a new run is noticed; answer_s: how soon an answer is

    One a process: DBOS is. All methods are called on the daemon's loop.
    """

    def __init__(
        self,
        store: RunsStore,
        hands: Hands,
        *,
        idle_s: float = 300.0,
        poll_s: float = 1.0,
        answer_s: float = 1.0,
    ) -> None:
        self.store = store
        self.hands = hands
        self._idle_s = idle_s
        self._poll_s = poll_s
        self._answer_s = answer_s
        self._dbos: Any = None
        self._up = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loading = asyncio.Lock()
        self._turns: dict[str, asyncio.Lock] = {}
        self._courses: set[str] = set()
        self._acting: set[str] = set()
        self._stuck: set[str] = set()
        self._busy_at = 0.0
        self._closing = False
        self._said = ""

    # ---- asked from outside

    @property
    def loaded(self) -> bool:
        """Whether the engine is in memory and polls."""
        return self._up

    async def start(self, plan: Plan) -> None:
        """Begin a run. Refused when another run holds the target, or the plan's mode does not act.

        It is recorded before this returns: from then on it will be carried out, come what may.
        """
        if plan.mode not in {"approve", "auto"}:
            raise Refused(
                f"run {plan.run_id} has mode {plan.mode}: it says what it would do, it is not run"
            )
        if not plan.steps:
            raise Refused(f"run {plan.run_id} has no steps")
        other = self.hands.run_on(plan.target)
        if other is not None and other.id != plan.run_id:
            text = f"run {other.id} ({other.playbook}) is at work on {plan.target}: one at a time"
            recorded = self.hands.run(plan.run_id)
            if recorded is not None:  # it was written down as begun, and must not hold anything
                await self.hands.report(replace(recorded, state="expired", text=text))
            raise Refused(text)
        await self.hands.accept(plan)
        await self._load()
        await self._thread(self._enqueue, plan)

    async def approve(self, run_id: str, person: str, yes: bool, plan_hash: str) -> None:
        """Answer a run that asks. Refused when it does not ask (any more), or asks for something else."""
        plan = self._live(run_id)
        run = self.hands.run(run_id)
        if run is not None and run.state != "waiting_approval":
            raise Refused(f"run {run_id} does not wait for an answer: it is {run.state}")
        asked = run.plan_hash if run is not None else plan.hash
        if plan_hash != asked:
            raise Refused(
                f"run {run_id} asks for something else than was answered: look at its plan again"
            )
        before = next((a for a in self.hands.answers(run_id) if a["plan_hash"] == asked), None)
        if before is not None:
            raise Refused(f"run {run_id} was answered already, by {before['person']}")
        if self.hands.cancelled_by(run_id):
            raise Refused(f"run {run_id} was stopped already, by {self.hands.cancelled_by(run_id)}")
        await self.hands.answered(plan, person, yes, asked)
        await self._load()
        await self._settle(plan)

    async def cancel(self, run_id: str, person: str) -> None:
        """Stop a run at its next boundary and put back what it did. Refused when it has ended."""
        plan = self._live(run_id)
        await self.hands.cancelled(plan, person)
        await self._load()
        await self._settle(plan)

    async def recover(self) -> None:
        """Take up what was not at its end when the process was. Loads the engine only if there is something.

        A store of runs that can not be used is told in the log and tried again by `idle`: the daemon lives.
        """
        known = bool(self.hands.unfinished())
        if known or await asyncio.to_thread(self.store.unfinished):
            await self._try(self._load())

    async def idle(self) -> None:
        """Look after the runs: called every half minute or so. Lets the engine go after a while without any."""
        if self._closing:
            return
        unfinished = self.hands.unfinished()
        if unfinished or self._courses:
            self._busy_at = time.monotonic()
            await self._try(self._look_after(unfinished))
        elif self.loaded and time.monotonic() - self._busy_at > self._idle_s:
            async with self._loading:
                log.info("engine_idle", after_s=self._idle_s)
                with contextlib.suppress(Unavailable):  # next time then
                    await self._thread(self._forget)
                await self._unload()

    async def _look_after(self, unfinished: Mapping[str, Plan]) -> None:
        if not self.loaded:
            await self._load()
            return
        for plan in unfinished.values():
            await self._settle(plan)

    async def _try(self, work: Awaitable[None]) -> None:
        """Await something that fails when the store of runs does; said when it changes, not at each try."""
        try:
            await work
        except AgentError as error:
            if str(error) != self._said:
                log.error("engine_unavailable", error=str(error))
            self._said = str(error)
        else:
            self._said = ""

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop: no new box is entered; one that acts may finish for `grace_s`. Runs go on after the next start."""
        self._closing = True
        end = time.monotonic() + grace_s
        while self._acting and time.monotonic() < end:  # noqa: ASYNC110  # set by another loop's thread
            await asyncio.sleep(0.02)
        async with self._loading:
            await self._unload()
            await asyncio.to_thread(self.store.release)

    def _live(self, run_id: str) -> Plan:
        plan = self.hands.unfinished().get(run_id)
        if plan is not None:
            return plan
        run = self.hands.run(run_id)
        if run is None:
            raise Refused(f"there is no run {run_id}: see homeostat runs")
        raise Refused(f"run {run_id} has ended: it is {run.state}")

    # ---- asked by the course, on the engine's loop

    async def box(
        self, run_id: str, name: str, call: Callable[[], Awaitable[Any]], *, acts: bool
    ) -> dict[str, Any]:
        """Do something on the daemon's loop and record what it gave; a recorded one is not done again."""
        from dbos import PortableWorkflowError

        async def inside() -> dict[str, Any]:
            return await self._bridge(run_id, name, call)

        if acts:
            self._acting.add(run_id)
        try:
            for again in range(_RECOVERIES):
                try:
                    said: dict[str, Any] = await self._dbos.run_step_async(
                        {"name": f"{name}~{again}" if again else name}, inside
                    )
                except PortableWorkflowError as error:
                    # What is inside gives values only: this is a failure of the engine's own disk that it managed to
                    # put down as the box's outcome. The box is done again, under a name of its own.
                    log.info("box_again", run=run_id, box=name, error=str(error))
                else:
                    return said
        except Exception as error:
            self._park(run_id, name, error)
            raise
        finally:
            self._acting.discard(run_id)
        raise _Parked

    async def receive(self, run_id: str, topic: str, timeout_s: float) -> dict[str, Any] | None:
        """Wait durably for a message; the timeout counts on over restarts."""
        try:
            said: dict[str, Any] | None = await self._dbos.recv_async(topic, timeout_s)
        except Exception as error:
            self._park(run_id, "receive", error)
            raise
        return said

    def _park(self, run_id: str, name: str, error: Exception) -> None:
        """Leave a run as it is recorded when it is the engine that failed, or is being stopped."""
        if isinstance(error, DBAPIError):
            log.warning("run_parked", run=run_id, box=name, error=str(error.orig))
            raise _Parked from error
        if not self.loaded:
            raise _Parked from error

    async def _bridge(
        self, run_id: str, name: str, call: Callable[[], Awaitable[Any]]
    ) -> dict[str, Any]:
        """Carry a call over to the daemon's loop; failures become values, so that a replay gives the same."""
        if self._closing:
            await asyncio.Event().wait()  # until the engine is stopped: nothing is begun any more

        async def there() -> dict[str, Any]:
            # Two at once can only be a run that was taken up although it still went on: the second waits and sees.
            async with self._turns.setdefault(run_id, asyncio.Lock()):
                return {"value": pack(await call())}

        try:
            return await self._there(there())
        except AgentError as error:
            log.info("box_failed", run=run_id, box=name, error=str(error))
            return {"error": type(error).__name__, "text": str(error)}
        except Exception as error:  # the border between runs and what they call: a bug ends the run, not the daemon
            log.exception("bug", where=f"run {run_id}, {name}")
            return {"error": "Refused", "text": f"a bug in {name}: {type(error).__name__}: {error}"}

    async def carry(self, packed: dict[str, Any]) -> dict[str, Any]:
        """Carry out a plan; the body of the workflow. Returns the run as it ended, packed."""
        plan = unpack(Plan, packed)
        self._courses.add(plan.run_id)
        try:
            ended = await self._there(self._ended(plan))
            if ended is not None:
                return pack(ended)
            run = await _Course(self, plan).go()
            await self._there(self._last_word(run))
            return pack(run)
        finally:
            self._courses.discard(plan.run_id)
            self._turns.pop(plan.run_id, None)
            self._busy_at = time.monotonic()

    async def _ended(self, plan: Plan) -> Run | None:
        """Return the run when the record says that it has ended, or knows nothing of it: then nothing is done."""
        if plan.run_id in self.hands.unfinished():
            return None
        run = self.hands.run(plan.run_id)
        if run is None:
            log.error(
                "run_unknown", run=plan.run_id, what="in the store of runs, not in the journal"
            )
        return run or _orphan(plan)

    async def _last_word(self, run: Run) -> None:
        """Say again how a run ended when the record does not have it: a box that is done is not done again."""
        if run.id in self.hands.unfinished():
            await self.hands.report(run)

    async def _there(self, call: Coroutine[Any, Any, V]) -> V:
        """Await something on the daemon's loop from the engine's."""
        assert self._loop is not None  # noqa: S101  # set before the engine is launched
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    # ---- the engine

    async def _load(self) -> None:
        """Bring the engine up and see to it that every unfinished run is in it."""
        async with self._loading:
            self._busy_at = time.monotonic()
            if self.loaded:
                return
            if self._closing:
                raise Unavailable("the daemon is stopping: runs go on after the next start")
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._launch)
            log.info("engine_loaded", store=self.store.name)
        for plan in self.hands.unfinished().values():
            await self._settle(plan)

    def _launch(self) -> None:
        """Import DBOS and launch it; in a thread, as it takes a moment."""
        global _serving, _workflow  # noqa: PLW0603  # DBOS is one per process
        if _serving is not None and _serving is not self:
            raise Refused("another runner is at work in this process: close it first")
        self.store.hold()
        self.store.prepare()
        _relay_logs()
        from dbos import DBOS, DBOSPortableJSONSerializer  # 24 MB: only when a run needs it

        _serving = self
        try:
            if _workflow is None:
                _workflow = DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=_RECOVERIES)(_carry)
            settings: Any = {
                **self.store.settings(),
                "name": "homeostat",
                "application_version": _VERSION,
                "executor_id": "local",
                "serializer": DBOSPortableJSONSerializer(),  # the default is pickle: who writes the file runs code
                "log_level": "WARNING",
                "notification_listener_polling_interval_sec": self._answer_s,
                "scheduler_polling_interval_sec": 3600.0,  # we have no schedules there
            }  # fmt: skip
            DBOS(config=settings)
            DBOS.launch()
            DBOS.register_queue(
                _QUEUE, partition_concurrency=1, polling_interval_sec=self._poll_s, on_conflict="always_update"
            )  # fmt: skip
        except BaseException as error:
            DBOS.destroy()
            _serving = None
            if isinstance(error, DBAPIError):
                raise Unavailable(
                    f"{self.store.name} can not be used ({error.orig}): {self.store.remedy}"
                ) from error
            raise
        self._dbos, self._up = DBOS, True

    async def _unload(self) -> None:
        global _serving  # noqa: PLW0603  # DBOS is one per process
        if not self.loaded:
            return
        self._up = False
        with _quiet():
            await asyncio.to_thread(self._dbos.destroy)
        _serving = self._dbos = None
        self._stuck.clear()

    async def _thread(self, call: Callable[..., V], *args: Any) -> V:
        """Ask the engine something in a thread: its calls touch the disk."""
        try:
            return await asyncio.to_thread(call, *args)
        except DBAPIError as error:
            raise Unavailable(
                f"{self.store.name} can not be used ({error.orig}): {self.store.remedy}; the run is recorded and will "
                "be taken up"
            ) from error

    def _enqueue(self, plan: Plan) -> None:
        """Put a run into the queue of its target. Doing it twice is doing it once: the id is the run's."""
        from dbos import SetEnqueueOptions, SetWorkflowID

        with SetWorkflowID(plan.run_id), SetEnqueueOptions(queue_partition_key=plan.queue):
            self._dbos.enqueue_workflow(_QUEUE, _workflow, pack(plan))

    def _forget(self) -> None:
        """Take runs that ended long ago out of the file; the journal has them."""
        before = datetime.fromtimestamp(time.time() - _KEEP_S, UTC).isoformat()
        old = self._dbos.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
            completed_before=before, limit=500, load_input=False, load_output=False,
        )  # fmt: skip
        if old:
            self._dbos.delete_workflows([w.workflow_id for w in old])

    async def _deliver(self, run_id: str) -> None:
        """Send what the record knows to a run; what was sent before is not sent twice."""
        for answer in self.hands.answers(run_id):
            key = f"{run_id}:answer:{answer['plan_hash']}"
            await self._thread(self._send, run_id, dict(answer), key)
        stopped = self.hands.cancelled_by(run_id)
        if stopped:
            await self._thread(self._send, run_id, {"cancel": stopped}, f"{run_id}:cancel")

    def _send(self, run_id: str, message: dict[str, Any], key: str) -> None:
        self._dbos.send(run_id, message, _ANSWER, idempotency_key=key)

    async def _settle(self, plan: Plan) -> None:
        """Bring the engine's view of an unfinished run in line with the record's."""
        id_ = plan.run_id
        status = await self._thread(self._dbos.get_workflow_status, id_)
        state = status.status if status is not None else None
        if state == "PENDING" and id_ not in self._courses:
            # Parked, or just being started: only who is found so twice is taken up again.
            if id_ in self._stuck:
                log.warning("run_taken_up", run=id_)
                await self._thread(self._resume, id_)
            self._stuck ^= {id_}
        else:
            self._stuck.discard(id_)
        if state == "SUCCESS":
            # It ended, but its last report did not reach the disk.
            await self.hands.report(unpack(Run, status.output))
        elif state in {"ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}:
            await self._lost(plan, state)
        else:
            if state is None:
                await self._thread(self._enqueue, plan)
            await self._deliver(id_)

    def _resume(self, run_id: str) -> None:
        self._dbos.resume_workflow(run_id, queue_name=_QUEUE)

    async def _lost(self, plan: Plan, state: str) -> None:
        """End a run that the engine gave up: a target must not stay held by a dead run."""
        run = self.hands.run(plan.run_id) or _orphan(plan)
        text = f"the engine gave this run up ({state.lower()}): what it did was not verified"
        log.error("run_lost", run=run.id, state=state)
        await self.hands.report(
            replace(
                run, state="failed", text=text, outcome=run.outcome or Outcome("cannot_tell", text)
            )
        )
        with contextlib.suppress(AgentError):  # it is in the journal and in the log
            await self.hands.tell(plan, "lost", "page", f"lost: {plan.title}",
                                  f"{plan.playbook} on {plan.target}: {text}; look at the target")  # fmt: skip


async def _carry(packed: dict[str, Any]) -> dict[str, Any]:
    """The one workflow, as DBOS knows it."""
    if _serving is None:
        raise _Parked
    return await _serving.carry(packed)


def _orphan(plan: Plan) -> Run:
    return Run(
        plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode, "failed", plan.created,
        plan.created, plan.hash, text="this run is not in the journal: nothing was done for it",
    )  # fmt: skip


# ---------------------------------------------------------------- the engine's log


class _Relay(logging.Handler):
    """Passes what DBOS logs on to our log, one line an event; the same line not twice a minute."""

    quiet = False

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log it; while we stop the engine, that tasks are cancelled is no news."""
        text = record.getMessage()
        if self.quiet or record.created - self._last.get(text, -60.0) < 60.0:
            return
        self._last = {t: at for t, at in self._last.items() if record.created - at < 60.0}
        self._last[text] = record.created
        level = "error" if record.levelno >= logging.ERROR else "warning"
        error = record.exc_info[1] if record.exc_info else None
        getattr(log, level)("engine", text=text, error=repr(error) if error else "")


_relay: Final = _Relay()


def _relay_logs() -> None:
    """Take the place of the handler to stderr that DBOS would give itself."""
    logger = logging.getLogger("dbos")
    if _relay not in logger.handlers:
        logger.handlers[:] = [_relay]
        logger.propagate = False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    _relay.quiet = True
    try:
        yield
    finally:
        _relay.quiet = False
