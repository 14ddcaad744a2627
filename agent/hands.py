"""What runs do to the world and to the record: verbs by name, with intents, retries and looks at the world.

A step is done once, whatever happens to the process:

    intent (in the journal, fsynced) -> act -> acted (in the journal, with what came of it)
       '-- found without its `acted` after a crash, or it may have happened (Uncertain, no answer in time):
           look at the world: as the step wants it   -> adopted: the verb is asked once more, finds nothing to do and
                                                       says what an undo needs
                              as it was before       -> it did not happen: act
                              anything else          -> stop and tell a person
                              can not be looked at   -> not repeated (telling people), or stop (mutating)

Coroutines on the daemon's loop; the order of things and durability are the runner's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, TypeVar

import structlog
from pydantic import ValidationError

from agent import registry, strict
from agent.codec import canonical, pack, unpack
from agent.conditions import Holding, conditions
from agent.config import Config
from agent.course import Held, Passage, Verified
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.expr import UNKNOWN, expressions, interpolate
from agent.guard import moves
from agent.journal import Unwritten
from agent.memory import ACTED, Memory, acted_at
from agent.model import ENDED, Change, FloatArray, Incident, Outcome, Run, Series, StepRecord
from agent.objectives import limits_of
from agent.plans import Acted, Plan, PlannedStep, Would
from agent.ports import Done, Note, Notifier, Silencer, Step, Undo
from agent.questions import Asker, OwnQuestions
from agent.record import owner_of, treated, untreated
from agent.scene import Scene
from agent.silences import OwnSilences
from agent.strike import bug_in
from agent.symptoms import symptoms_of
from agent.units import many, say_duration
from agent.verify import judge

log = structlog.get_logger()

V = TypeVar("V")

Record = Callable[[str, str, dict[str, Any], float], None]
"""(kind, subject, body, ts): append to the journal and fold into memory; raises Unavailable when not on disk."""
Resolve = Callable[[str | None, type[Any] | None, str], Any]
"""(via, ability, target): the connector that has an ability; raises Refused."""

_SETTLE_S: Final = 1.0
"""After a crash, an act that was under way outside of us may still arrive: what looks untouched is looked at twice."""
_BACK_OFF_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
_LOOK_AGAIN_S: Final = 60.0
"""How long we try to see the world again before we give up on a step that may have happened."""
_UNDO_TRIES: Final = 4
_DRY_S: Final = 30.0
"""How long a dry run of one step may take to look, and to say what it would do: a person waits for it."""
_STANDS_S: Final = 10.0
"""So long must what was expected hold before it is believed; a quarter of `within` when that is shorter."""
_PACE_S: Final = (1.0, 15.0)
"""A verdict reads history: not at every tick, but 20 times in `within`, within these bounds."""
_SOON_S: Final = 3.0
"""The same when what was expected holds: the proof may be there."""
_PLAIN_HARM: Final = 3
"""So many verdicts of harm in a row end the watching early; one may be the shock of the act itself."""
_SEEN_S: Final = 30.0
"""A verdict needs to have looked for so long in one life of the process, or for `within`."""
_UNSEEN_S: Final = 60.0
"""Between two ticks no more time than this counts: a clock that jumps does not end a wait."""


class Past(Protocol):
    """What `agent.history.History` is to a verdict."""

    def read(
        self, series: Sequence[Series], start: float, end: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return ts (k,) and values (k, n)."""
        ...


class Eyes(Protocol):
    """How runs see the world: the daemon."""

    @property
    def config(self) -> Config:
        """How far back diagnosis, and so a verdict, looks."""
        ...

    @property
    def history(self) -> Past:
        """What was before."""
        ...

    def incident(self, id_: str) -> Incident | None:
        """Return an incident as it is now."""
        ...

    async def tick(self) -> float:
        """Wait for the next tick; returns its time."""
        ...

    def scene(
        self, plan: Plan, since: float | None, steps: Mapping[str, Mapping[str, Any]]
    ) -> Scene:
        """Return what the expressions of a plan see now; baselines lie before `since`."""
        ...


Stage = Literal["first", "next", "undo"]
Standing = Callable[[Plan, Stage], str]


class _Everybody:
    """The notifier of steps that name none: the journal, and so the console and every way to people there is."""

    def __init__(self, write: Callable[[Note], None]) -> None:
        self._write = write

    async def notify(self, note: Note) -> None:
        """Write it down; the outbox owes it from there on."""
        self._write(note)


@dataclass(slots=True)
class _Try:
    """A verb ready to act, and how far it has come."""

    plan: Plan
    planned: PlannedStep
    action: Any
    step: Step
    started: float
    open: bool
    repeats: int = 0
    unclear: int = 0
    why: str = ""


class RealHands:
    """`agent.course.Hands` over registered verbs, the journal and the scene.

    resolve   finds the connector for an ability
    record    appends to the journal and folds into `memory`
    halted    whether a file says that everything is paused
    written   whether the record is really on disk; for a `record` that does not raise when it is not
    standing  why a run may not do its next step now, beside a pause of its target; "" = it may
    patience  how many seconds a run that has done nothing yet waits for that, then the walk decides anew
    clock     unix seconds
    """

    def __init__(
        self,
        resolve: Resolve,
        record: Record,
        memory: Memory,
        eyes: Eyes,
        *,
        halted: Callable[[], bool] = lambda: False,
        written: Callable[[], bool] = lambda: True,
        standing: Standing = lambda _plan, _stage: "",
        patience: Callable[[Plan], float] = lambda _plan: 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._standing = standing
        self._patience = patience
        self._resolve = resolve
        self._record = record
        self._memory = memory
        self._eyes = eyes
        self._halted = halted
        self._written = written
        self._clock = clock
        self._journal_well = True
        self._passed: set[str] = set()
        """Runs that had leave for a step in this life of the process."""

    # ---- what the record knows

    def unfinished(self) -> Mapping[str, Plan]:
        """Return the plans, by run id, that are not at their end."""
        return self._memory.unfinished()

    def run(self, run_id: str) -> Run | None:
        """Return a run as the record knows it."""
        return self._memory.runs.get(run_id)

    def run_on(self, target: str) -> Run | None:
        """Return the run that holds a target."""
        return self._memory.run_on(target)

    def answers(self, run_id: str) -> Sequence[Mapping[str, Any]]:
        """Return what people answered, oldest first."""
        return [pack(said) for said in self._memory.approvals.get(run_id, {}).values()]

    def cancelled_by(self, run_id: str) -> str:
        """Return who wants a run stopped, and why when they said so."""
        return self._memory.cancels.get(run_id, "")

    async def accept(self, plan: Plan) -> None:
        """Record a plan and its run, unless they are."""
        if plan.run_id not in self._memory.plans:
            self._put("plan", plan.run_id, pack(plan))
        if plan.run_id not in self._memory.runs:
            now = self._clock()
            run = Run(
                plan.run_id, plan.playbook, plan.entity, plan.incident, plan.mode,
                "waiting_approval" if plan.mode == "approve" else "acting", now, now, plan.hash,
                text=plan.title,
            )  # fmt: skip
            self._put("run", run.id, pack(run))

    async def answered(
        self, plan: Plan, person: str, yes: bool, plan_hash: str, reason: str = ""
    ) -> None:
        """Record what a person said, and why when they said so."""
        body = {"person": person, "yes": yes, "plan_hash": plan_hash}
        if reason:
            body["reason"] = reason
        self._put("approval", plan.run_id, body)

    async def cancelled(self, plan: Plan, person: str, reason: str = "") -> None:
        """Record that a person wants a run stopped, and why when they said so."""
        body = {"person": person}
        if reason:
            body["reason"] = reason
        self._put("cancel", plan.run_id, body)

    async def report(self, run: Run) -> Run:
        """Record how a run stands, now."""
        run = replace(run, updated=self._clock())
        self._put("run", run.id, pack(run))
        if run.state in ENDED:
            self._passed.discard(run.id)
        return run

    async def tell(self, plan: Plan, what: str, severity: str, title: str, text: str) -> None:
        """Tell people once per run and `what`: written down here, owed by the outbox."""
        key = f"{plan.run_id}:{what}"
        if key in self._memory.notes:
            return
        if not severity:
            incident = self._memory.incidents.get(plan.incident)
            severity = incident.severity if incident is not None else "page"
        self._write_note(Note(key, self._clock(), severity, title, text, plan.incident))

    def _write_note(self, note: Note) -> None:
        """Write a note down, once: from there it is on the console and owed to every way to people."""
        if note.key not in self._memory.notes:
            self._put("note", note.key, pack(note))

    def _put(self, kind: str, subject: str, body: dict[str, Any]) -> bool:
        """Record; returns whether it is on disk. What is not waits in the journal, and is remembered all the same."""
        well = True
        try:
            self._record(kind, subject, body, self._clock())
        except Unavailable as error:
            well = False
            if self._journal_well:
                log.warning("journal_unavailable", error=str(error))
            if isinstance(error, Unwritten):
                for entry in error.entries:
                    self._memory.apply(entry)
        self._journal_well = well
        return well and self._written()

    # ---- boxes: before a step

    async def boundary(self, plan: Plan, run: Run, *, first: bool, back: bool = False) -> Passage:
        """Wait while the target is paused; tell whether the run is still wanted."""
        waited: list[float] = []
        # what is put back, and what follows a verdict, waits for a pause only
        over = run.state == "undoing" or run.outcome is not None
        stage: Stage = "undo" if over else "first" if first else "next"
        while not (by := self.cancelled_by(plan.run_id)):
            why = paused = self._paused(plan)
            if not why and not (why := self._standing(plan, stage)):
                break
            if not waited:
                await self.report(replace(run, state="paused", text=why))
                if back:
                    await self._held_back(plan, run, why)
                waited.append(self._clock())
            if first and not paused and not 0 <= self._clock() - waited[0] < self._patience(plan):
                await self.report(run)
                return Passage("", f"nothing was done: {why}")
            await self._eyes.tick()
        if waited:
            await self.report(run)
        incident = self._memory.incidents.get(plan.incident)
        healed = first and incident is not None and incident.state == "resolved"
        self._passed.add(plan.run_id)
        return Passage(by, "the incident was over before anything was done" if healed else "")

    async def _held_back(self, plan: Plan, run: Run, why: str) -> None:
        """Tell people that a pause keeps us from putting back what harmed: stopping comes before healing."""
        if run.outcome is None or run.outcome.verdict != "harmed":
            return
        text = (
            f"{plan.playbook} on {plan.target} harmed ({run.outcome.summary}), and is not undone: {why}; "
            "resume it, or put it back yourself and deny the run"
        )
        with contextlib.suppress(
            AgentError
        ):  # it is in the journal; the pause holds whoever was reached
            await self.tell(plan, "held_back", "page", f"harm is not undone: {plan.title}", text)

    def _paused(self, plan: Plan) -> str:
        pause = self._memory.paused(plan.target)
        if pause is not None:
            reason = f": {pause.reason}" if pause.reason else ""
            return f"paused by {pause.by}{reason}"
        return "paused by the file PAUSED" if self._halted() else ""

    async def observe(
        self,
        plan: Plan,
        step: PlannedStep,
        results: Mapping[str, Any],
        outcome: Outcome | None = None,
    ) -> Mapping[str, Any]:
        """Read what a step would change, as JSON carries it."""
        action, ready = self._ready(plan, step, {}, results, outcome)
        return await self._seen(action, ready, step.timeout, step.retry)

    async def _seen(self, action: Any, step: Step, timeout: float, retry: int) -> dict[str, Any]:
        for repeat in range(retry + 1):
            try:
                async with asyncio.timeout(timeout):
                    seen: dict[str, Any] = json.loads(canonical(dict(await action.observe(step))))
            except (Unavailable, TimeoutError) as error:
                if repeat == retry:
                    raise Unavailable(_unanswered(step, error, timeout, repeat + 1)) from error
                await asyncio.sleep(_back_off(repeat, error))
            else:
                return seen
        raise Unavailable(f"{step.key}: retry is {retry}, it must not be negative")

    def _ready(
        self,
        plan: Plan,
        planned: PlannedStep,
        before: Mapping[str, Any],
        results: Mapping[str, Any],
        outcome: Outcome | None,
    ) -> tuple[Any, Step]:
        """Build the verb with its parameters and its connector; raises Refused, or Unavailable for unknown values."""
        cls = registry.action.get(planned.use)
        filled = self._filled(plan, planned, results, outcome)
        try:
            params = cls.Params(**filled) if hasattr(cls, "Params") else None
        except ValidationError as error:
            raise Refused(
                f"step {planned.id} ({planned.use}): {strict.say(error)}; mend the playbook {plan.playbook}"
            ) from None
        if cls.ability is Notifier and planned.via is None:
            ability: Any = _Everybody(self._write_note)
        elif cls.ability is Silencer and planned.via is None:
            ability = OwnSilences(self._memory, self._put, self._clock)
        elif cls.ability is Asker and planned.via is None:
            ability = OwnQuestions(
                self._memory, self._put, self._write_note, self._clock, plan.run_id, plan.incident
            )
        elif cls.ability is None:
            ability = None
        else:
            ability = self._resolve(planned.via, cls.ability, plan.target)
        step = Step(
            key=f"{plan.own}/{planned.id}", use=planned.use, target=plan.target, params=filled, before=before,
            facts={**plan.facts, "incident": plan.incident}, by=f"homeostat:{plan.own}",
        )  # fmt: skip
        return cls(params, ability), step

    def _filled(
        self,
        plan: Plan,
        planned: PlannedStep,
        results: Mapping[str, Any],
        outcome: Outcome | None,
    ) -> dict[str, Any]:
        """Fill what of `${}` could not be known when the plan was made."""
        params = dict(planned.params)
        if "${" not in canonical(params):
            return params
        scene = self._eyes.scene(plan, self._onset(plan), results)

        def look(name: str) -> Any:
            if name == "title":
                return plan.title
            if name in {"verdict.summary", "verdict.verdict"}:
                return getattr(outcome, name.partition(".")[2], None)
            return scene(name)

        filled = interpolate(params, look)
        if filled is UNKNOWN:
            missing = sorted(
                {n for _, e in expressions(params) for n in e.names if look(n) is None}
            )
            text = f"step {planned.id} ({planned.use}) needs {', '.join(missing) or 'values'}, not known now"
            if any(n.startswith(("steps.", "verdict.")) for n in missing):
                raise Refused(
                    f"{text}: no step before it gave that; mend the playbook {plan.playbook}"
                )
            raise Unavailable(text)
        return dict(filled)

    def _onset(self, plan: Plan) -> float:
        """Return before when all was well: what baselines are taken from."""
        incident = self._memory.incidents.get(plan.incident)
        return plan.created if incident is None else min(incident.opened, plan.created)

    async def would(self, plan: Plan, step: PlannedStep) -> Would:
        """Have a step look, and say what it would do now; changes nothing, and what goes wrong is told."""

        def said(status: Literal["would", "refused", "unknown", "later"], text: str) -> Would:
            return Would(step.id, step.use, status, text)

        names = {n for _, e in expressions(dict(step.params)) for n in e.names}
        later = sorted(n for n in names if n.startswith(("steps.", "verdict.")))
        if later:
            return said("later", f"it stands on {', '.join(later)}")
        limit = min(step.timeout, _DRY_S)
        try:
            action, ready = self._ready(plan, step, {}, {}, None)
            seen = await self._seen(action, ready, limit, 0)
            async with asyncio.timeout(limit):
                done = await action.run(replace(ready, before=seen, dry_run=True))
        except (Unavailable, Uncertain) as error:
            return said("unknown", str(error))
        except TimeoutError as error:
            return said("unknown", _unanswered(ready, error, limit, 1))
        except AgentError as error:
            return said("refused", str(error))
        except Exception as error:  # the border to the verb
            log.exception("bug", where=f"dry run of {step.use}", run=plan.run_id)
            return said("unknown", bug_in(f"the verb {step.use}", error))
        return said("would", done.summary)

    # ---- boxes: acting

    async def act(
        self,
        plan: Plan,
        step: PlannedStep,
        before: Mapping[str, Any],
        results: Mapping[str, Any],
        outcome: Outcome | None = None,
    ) -> Acted:
        """Do a step once, whatever happened before; failures are told in the result."""
        key = f"{plan.run_id}/{step.id}"
        trace = self._memory.traces.get(key)
        if trace is not None and trace.result is not None:
            return unpack(Acted, trace.result)
        started = trace.started if trace is not None else self._clock()
        if trace is None and (why := await self._asked_again(plan)):
            return self._end(plan, step, started, "refused", why, ours=False, text=why)
        unclear = trace is not None and trace.open
        try:
            action, ready = self._ready(
                plan,
                step,
                trace.before if trace is not None and unclear else before,
                results,
                outcome,
            )
        except AgentError as error:
            if unclear:
                return self._unclear_end(
                    plan, step, started, f"it was under way when we were stopped; {error}"
                )
            status = "refused" if isinstance(error, Refused) else "failed"
            return self._end(plan, step, started, status, str(error), ours=False, text=str(error))
        way = _Try(plan, step, action, ready, started, unclear,
                   why="it was under way when we were stopped")  # fmt: skip
        while True:
            acted = await self._once(way)
            if acted is not None:
                return acted

    async def _asked_again(self, plan: Plan) -> str:
        """Ask for leave once more where we were stopped between leave and act: how long ago that was, nobody knows."""
        run = self.run(plan.run_id)
        if plan.run_id in self._passed or run is None or run.outcome is not None:
            return ""
        passage = await self.boundary(plan, run, first=acted_at(run) is None)
        return passage.over or (f"stopped by {passage.by}" if passage.by else "")

    async def _once(self, way: _Try) -> Acted | None:
        """Act one time; returns what came of it, None = try again."""
        adopted = False
        if way.open and way.action.effect != "reading":
            found = await self._look_again(way)
            if found in {"blind", "unclear"} or (found == "untouched" and way.unclear > 1):
                return self._cannot_know(way, found)
            adopted = found == "reached"
        if not adopted and not self._intend(way):
            return await self._not_now(way, Unavailable(
                "the journal can not be written: nothing is done that could not be recorded"
            ), close=True)  # fmt: skip
        try:
            patience = getattr(way.action, "waits_s", 0.0)
            async with asyncio.timeout(max(way.planned.timeout, patience)):
                done = await way.action.run(way.step)
        except Unavailable as error:
            return await self._not_now(way, error, close=not adopted)
        except Refused as error:
            return self._end(way.plan, way.planned, way.started, "refused", str(error),
                             ours=False, text=str(error))  # fmt: skip
        except (Uncertain, TimeoutError) as error:
            after = say_duration(way.planned.timeout)
            why = str(error) or f"it did not answer within {after}"
            if way.action.effect == "reading":
                return await self._not_now(way, Unavailable(why), close=True)
            way.open, way.why = True, why
            way.unclear += 1
            return None
        except Exception as error:  # the border to the verb: a bug may have left anything
            log.exception("bug", where=f"verb {way.planned.use}", run=way.plan.run_id)
            text = bug_in(f"the verb {way.planned.use}", error)
            return self._unclear_end(way.plan, way.planned, way.started, text)
        return self._done(way, done, "adopted" if adopted else "done")

    def _intend(self, way: _Try) -> bool:
        """Write down that we are about to act; returns whether that may begin.

        What only reads needs no such note. What only marks or tells may go on when the disk is full: not to tell
        people then would be worse than to tell them twice.
        """
        if way.action.effect == "reading":
            return True
        body = {
            "run": way.plan.run_id, "step": way.planned.id, "use": way.planned.use,
            "key": way.step.key, "before": dict(way.step.before),
        }  # fmt: skip
        way.open = False
        return self._put("intent", way.plan.run_id, body) or way.action.effect == "marking"

    async def _not_now(self, way: _Try, error: Unavailable, *, close: bool) -> Acted | None:
        """Nothing happened this time: note that, wait, and try again unless it was often enough."""
        if close:
            self._acted(way.plan, way.planned.id, None)
        way.repeats += 1
        if way.repeats > way.planned.retry:
            text = _unanswered(way.step, error, way.planned.timeout, way.repeats)
            if not close:
                return self._unclear_end(way.plan, way.planned, way.started, text)
            return self._end(
                way.plan, way.planned, way.started, "failed", text, ours=False, text=text
            )
        await asyncio.sleep(_back_off(way.repeats - 1, error))
        return None

    async def _look_again(self, way: _Try) -> Literal["reached", "untouched", "unclear", "blind"]:
        """Look at the world after an act that may have happened."""
        before = json.loads(canonical(dict(way.step.before)))
        for last in (False, True):
            end = time.monotonic() + _LOOK_AGAIN_S
            while True:
                try:
                    seen = await self._seen(way.action, way.step, way.planned.timeout, 0)
                    break
                except Unavailable as error:
                    if time.monotonic() > end:
                        way.why += f"; {error}"
                        return "unclear"
                    await asyncio.sleep(_back_off(1, error))
                except AgentError as error:
                    way.why += f"; {error}"
                    return "unclear"
            if not seen:
                return "blind"
            if way.action.reached(way.step, seen):
                return "reached"
            if seen != before:
                changed = sorted(k for k in {*seen, *before} if seen.get(k) != before.get(k))
                way.why += f"; {', '.join(changed)} changed, but not to what the step wants"
                return "unclear"
            if not last:
                await asyncio.sleep(_SETTLE_S)
        return "untouched"

    def _cannot_know(self, way: _Try, found: str) -> Acted:
        if found == "blind" and way.action.effect == "marking":
            # people may have been told: telling them twice is worse than going on
            summary = f"{way.why}; it can not be seen whether it happened, so it is not repeated"
            return self._end(way.plan, way.planned, way.started, "uncertain", summary, ours=True)
        if found == "untouched":
            way.why += "; it was tried twice and the world did not change"
        return self._unclear_end(way.plan, way.planned, way.started, way.why)

    def _unclear_end(self, plan: Plan, step: PlannedStep, started: float, why: str) -> Acted:
        text = f"{step.use} on {plan.target} may have happened: {why}; look at {plan.target} and put it right"
        return self._end(plan, step, started, "uncertain", text, ours=True, text=text)

    def _done(self, way: _Try, done: Done, status: Literal["done", "adopted"]) -> Acted:
        acted = self._end(
            way.plan, way.planned, way.started, status, done.summary,
            ours=way.action.effect != "reading", values=done.values, undo=done.undo,
        )  # fmt: skip
        if done.change is not None:
            self._put("change", done.change.entity.id, pack(done.change))
        return acted

    def _end(
        self,
        plan: Plan,
        step: PlannedStep,
        started: float,
        status: str,
        summary: str,
        *,
        ours: bool,
        text: str = "",
        values: Mapping[str, Any] | None = None,
        undo: Mapping[str, Any] | None = None,
    ) -> Acted:
        """Note what came of a step; the run's box may be lost, this is not."""
        values = _json(values)
        record = StepRecord(step.id, step.use, started, self._clock(), status, summary, values)  # type: ignore[arg-type]  # one of its literals
        acted = Acted(record, values, _json(undo), ours, text)
        self._acted(plan, step.id, pack(acted))
        return acted

    def _acted(self, plan: Plan, step: str, result: dict[str, Any] | None) -> None:
        body = {"run": plan.run_id, "step": step, "key": f"{plan.run_id}/{step}", "result": result}
        self._put("acted", plan.run_id, body)

    # ---- boxes: putting back

    async def undo(
        self, plan: Plan, step: PlannedStep, acted: Acted, results: Mapping[str, Any]
    ) -> StepRecord:
        """Put a step back. Undoing is a compare-and-set that may be repeated, so it simply is."""
        key = f"{plan.run_id}/{step.id}/undo"
        trace = self._memory.traces.get(key)
        if trace is not None and trace.result is not None:
            return unpack(StepRecord, trace.result)
        started = trace.started if trace is not None else self._clock()
        origin = self._memory.traces.get(f"{plan.run_id}/{step.id}")
        before = origin.before if origin is not None else {}
        if plan.undoes:
            before = next(
                (x.before for s, x in zip(plan.steps, plan.left, strict=True) if s.id == step.id),
                {},
            )
        status, summary = await self._put_back(plan, step, acted, results, before)
        record = StepRecord(step.id, step.use, started, self._clock(), status, summary)  # type: ignore[arg-type]  # one of its literals
        self._acted(plan, f"{step.id}/undo", pack(record))
        return record

    async def _put_back(
        self,
        plan: Plan,
        step: PlannedStep,
        acted: Acted,
        results: Mapping[str, Any],
        before: Mapping[str, Any],
    ) -> tuple[str, str]:
        if acted.record.status == "uncertain":
            return "refused", f"what {step.use} did is not known, so it can not be put back"
        try:
            verb = registry.action.get(step.use)
            if why := getattr(verb, "stays", ""):
                return "stays", f"nothing to put back: {why}"
            if hasattr(verb, "undo") and not acted.undo:
                return "stays", f"nothing to put back: {acted.record.summary}"
            action, ready = self._ready(plan, step, before, results, None)
        except AgentError as error:
            return "refused", str(error)
        if not isinstance(action, Undo):
            return "refused", f"{step.use} can not be put back"
        problem: BaseException = Unavailable("the journal can not be written")
        tries = max(step.retry + 1, _UNDO_TRIES)
        for repeat in range(tries):
            try:
                return await self._put_back_once(plan, step, action, ready, acted)
            except (Unavailable, Uncertain, TimeoutError) as error:
                problem = error
            except Refused as error:
                return "refused", str(error)
            except Exception as error:  # the border between us and the verb
                log.exception("bug", where=f"undo of {step.use}", run=plan.run_id)
                return "failed", bug_in(f"the undo of {step.use}", error)
            await asyncio.sleep(_back_off(repeat, problem))
        text = _unanswered(ready, problem, step.timeout, tries)
        return ("failed" if isinstance(problem, Unavailable) else "uncertain"), text

    async def _put_back_once(
        self, plan: Plan, step: PlannedStep, action: Undo, ready: Step, acted: Acted
    ) -> tuple[str, str]:
        body = {"run": plan.run_id, "step": f"{step.id}/undo", "use": step.use,
                "key": f"{plan.run_id}/{step.id}/undo", "before": dict(acted.undo)}  # fmt: skip
        if not self._put("intent", plan.run_id, body):
            raise Unavailable(
                "the journal can not be written: nothing is put back that could not be recorded"
            )
        async with asyncio.timeout(max(step.timeout, getattr(action, "waits_s", 0.0))):
            done = await action.undo(ready, acted.undo)
        if done.change is not None:
            self._put("change", done.change.entity.id, pack(done.change))
        return "undone", done.summary

    # ---- boxes: watching

    async def hold(
        self, plan: Plan, step: PlannedStep, since: float, results: Mapping[str, Any]
    ) -> Held:
        """Wait until a temporary measure is over: its conditions have held, or its time is up.

        One that did not help, where the next playbook may try, is over at once: held, it would keep that one away.
        """
        until = step.until
        run = self._memory.runs.get(plan.run_id)
        outcome = run.outcome if run is not None else None
        gives_way = plan.verify is not None and plan.verify.otherwise == "next"
        if gives_way and outcome is not None and outcome.verdict != "helped" and not outcome.well:
            return Held(self._clock(), "it did not help: the next one may try")
        if until is None:
            return Held(self._clock(), "it has no end of its own")
        holding = Holding(conditions(until.is_, until.for_))
        watch = _Watch(self._clock() - since)
        while True:
            now = await self._eyes.tick()
            watch.tick(now)
            by = self.cancelled_by(plan.run_id)
            if by:
                return Held(self._clock(), "", by)
            if holding.update(now, self._eyes.scene(plan, self._onset(plan), results)):
                text = f"{' and '.join(until.is_)} held for {say_duration(until.for_)}"
                return Held(self._clock(), text)
            if watch.passed >= until.at_most:
                return Held(self._clock(), f"{say_duration(until.at_most)} are over")

    async def verify(
        self, plan: Plan, acted: float, since: float, results: Mapping[str, Any]
    ) -> Verified:
        """Watch whether the run helped: from `since` (the end of the last step) plus `wait` on, for `within`.

        acted   when the first step began: the world before that is what it is compared with
        Ends early when what was expected has held for a while and a symptom is better, or when harm is plain. After a
        restart it looks for a while, also when the time is over: what came of it while nobody looked must be seen.
        """
        asked = plan.verify
        if asked is None:
            return Verified(
                self._clock(), Outcome("cannot_tell", "nothing was asked to be verified")
            )
        holding = Holding(conditions(asked.expect, min(_STANDS_S, asked.within / 4)))
        watch = _Watch(self._clock() - since)
        pace = min(max(asked.within / 20, _PACE_S[0]), _PACE_S[1])
        judged, harms = -pace, 0
        seen, least = _Watch(0.0), min(asked.within, _SEEN_S)
        while True:
            now = await self._eyes.tick()
            watch.tick(now)
            seen.tick(now)
            by = self.cancelled_by(plan.run_id)
            if by:
                return Verified(self._clock(), None, by)
            if watch.passed < asked.wait:
                continue
            ok = holding.update(now, self._eyes.scene(plan, self._onset(plan), results))
            over = watch.passed >= asked.wait + asked.within and seen.passed >= least
            if not over and watch.passed - judged < (min(pace, _SOON_S) if ok else pace):
                continue
            judged = watch.passed
            # what is still coming is no failure: before the end only harm and proof count
            told = ok if over or ok else None
            outcome = self._judged(plan, told, acted, since + asked.wait, now, last=over)
            harms = harms + 1 if outcome.verdict == "harmed" else 0
            if over or outcome.verdict == "helped" or harms >= _PLAIN_HARM:
                return Verified(self._clock(), outcome)

    def _judged(
        self, plan: Plan, ok: bool | None, acted: float, settled: float, now: float, *, last: bool
    ) -> Outcome:
        """Compare what came with what would have come without the act."""
        found = self._eyes.incident(plan.incident) or self._memory.incidents.get(plan.incident)
        incident = found or Incident(
            plan.incident, plan.created, plan.created, "open", "note", plan.title
        )
        diagnose, memory = self._eyes.config.diagnose, self._memory
        scene = self._eyes.scene(plan, self._onset(plan), {})
        acts = {r.target for r in memory.acts(since=incident.opened - diagnose.window)}
        lasted, spoilt = untreated(memory, plan.incident), treated(memory, plan.incident)
        symptoms = symptoms_of(
            scene, incident,
            plan.verify.expect if plan.verify is not None else (), self._eyes.history.read,
            acted=acted, settled=settled, now=now,
            done=settled - plan.verify.wait if plan.verify is not None else None,
            window=diagnose.window, baseline=diagnose.baseline,
            stated=limits_of(self._eyes.config),
            untreated=lambda e: [
                p for p in scene.world.topology.peers(e) if p not in acts and memory.run_on(p) is None
            ],
            past=lambda s: lasted.get(s, ()), spoilt=lambda e: spoilt.get(e, ()),
            acts=self._earlier(plan, acted),
        )  # fmt: skip
        against = plan.verify.against if plan.verify is not None else ""
        outcome = judge(symptoms, ok, against=against, last=last)
        other = next(
            (c for c in self._memory.changes.values() if _meddled(c, plan, acted, now)), None
        )
        if outcome.verdict == "helped" and other is not None:
            text = (
                f"{other.by} changed {other.entity.id} meanwhile ({other.kind}); {outcome.summary}"
            )
            return replace(outcome, verdict="cannot_tell", summary=text)
        return outcome

    def _earlier(self, plan: Plan, acted: float) -> list[tuple[float, float]]:
        """Return since when what other runs of the same trouble did to the same target stands: (when, inf).

        Or from when to when it stood. What only told or marked changed nothing that is measured.
        """
        owner, out = owner_of(plan.entity), []
        for run in self._memory.acts():
            if (
                run.id == plan.run_id
                or run.incident != plan.incident
                or owner_of(run.target) != owner
            ):
                continue
            steps = [s for s in run.steps if s.status in ACTED and moves(s.use)]
            if not steps or steps[0].started >= acted:
                continue
            undone = run.outcome is not None and run.outcome.undone
            end = max(s.ended for s in steps)
            out.append((steps[0].started, end) if undone else (min(end, acted), math.inf))
        return out


@dataclass(slots=True)
class _Watch:
    """Time that passes from tick to tick; a jump of the clock counts as little as a pause of ours."""

    passed: float
    last: float | None = None

    def __post_init__(self) -> None:
        self.passed = max(0.0, self.passed)

    def tick(self, now: float) -> None:
        """Count the time since the last tick."""
        if self.last is not None:
            self.passed += min(max(0.0, now - self.last), _UNSEEN_S)
        self.last = now


def _meddled(change: Change, plan: Plan, acted: float, now: float) -> bool:
    """Tell whether somebody else, by name, changed what the run is about while it was judged."""
    return (
        acted <= change.ts <= now
        and bool(change.by)
        and not change.ours
        and owner_of(change.entity) == owner_of(plan.entity)
    )


def _json(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return values as the journal will give them back: JSON has no NaN, no tuples and text keys only."""
    cleaned = _finite(dict(values or {}))
    out: dict[str, Any] = json.loads(canonical(cleaned))
    return out


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _back_off(repeat: int, error: BaseException) -> float:
    """Return how long to wait before the next try: what the other side asks for, else 1, 2, 4, ... s."""
    asked = error.wait_s if isinstance(error, Unavailable) else None
    return min(asked if asked is not None else _BACK_OFF_S * 2.0**repeat, _LONGEST_WAIT_S)


def _unanswered(step: Step, error: BaseException, timeout: float, tries: int) -> str:
    said = str(error) or f"no answer within {say_duration(timeout)}"
    return (
        f"{step.use} on {step.target} did not come through in {many(tries, 'try', 'tries')}: {said}"
    )
