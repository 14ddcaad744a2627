"""Durable runs: one generic DBOS workflow that carries out a plan, whatever happens to the process in between.

    daemon's loop:   Runner.start/approve/cancel     Hands.act, verify, hold ...   (coroutines)
                          |  enqueue, send               ^  run_coroutine_threadsafe
    DBOS's loop:          '------> workflow task --------'      the order of things: agent/course.py

Nothing twice: a box may be entered again after a crash, so `Hands.act` writes an intent before it acts and looks at the
world before it acts again. Should even the store of runs be lost, the plans and those intents are in the journal: a run
that is begun anew does not repeat what is noted there.

Measured with DBOS 3.4 on SQLite: the import costs 12 MB and .3 s, a launch 5 MB and .05 s, one box 3 ms; while loaded
it polls for 1 to 2 % of a core. So it is loaded when a run needs it, and let go after minutes without one, which gives
back the CPU but not the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from agent.codec import pack, unpack
from agent.course import ANSWER, Course, Hands
from agent.errors import AgentError, Refused, Unavailable
from agent.imports import on_demand
from agent.model import Outcome, Run
from agent.plans import Plan, Would
from agent.runs_store import RunsStore
from agent.strike import bug_in

log = structlog.get_logger()

V = TypeVar("V")

_WORKFLOW: Final = "homeostat.run.1"
"""Name of the interpreter in the store of runs. A changed order of boxes gets a new number and the old one stays until
no run needs it: DBOS compares the names of the boxes when it replays."""
_QUEUE: Final = "homeostat.runs"
_VERSION: Final = "1"  # constant: by default DBOS recovers only runs of the very same source code
_RECOVERIES: Final = 50
_QUEUE_S: Final = 5.0
"""How long the engine's queue may take to end."""
_KEEP_S: Final = 30 * 86_400.0
"""How long runs that have ended stay in the store of runs."""

# DBOS is one per process, and so is the runner that its workflow calls.
_serving: Runner | None = None
_workflow: Any = None  # `_carry` under DBOS's decorator, once it is loaded


class _Parked(BaseException):
    """The engine's own file failed: leave the run as it is recorded; it is taken up again later.

    Not an Exception: DBOS would record that as the end of the run.
    """


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

    async def approve(
        self, run_id: str, person: str, yes: bool, plan_hash: str, reason: str = ""
    ) -> None:
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
        await self.hands.answered(plan, person, yes, asked, reason)
        await self._load()
        await self._settle(plan)

    async def would(self, plan: Plan) -> list[Would]:
        """Ask each step of a plan what it would do now; changes nothing."""
        return [await self.hands.would(plan, step) for step in (*plan.steps, *plan.then)]

    async def cancel(self, run_id: str, person: str, reason: str = "") -> None:
        """Stop a run at its next boundary and put back what it did. Refused when it has ended."""
        plan = self._live(run_id)
        await self.hands.cancelled(plan, person, reason)
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
            return {"error": "Refused", "text": bug_in(name, error)}

    async def carry(self, packed: dict[str, Any]) -> dict[str, Any]:
        """Carry out a plan; the body of the workflow. Returns the run as it ended, packed."""
        plan = unpack(Plan, packed)
        self._courses.add(plan.run_id)
        try:
            ended = await self._there(self._ended(plan))
            if ended is not None:
                return pack(ended)
            run = await Course(self, self.hands, plan).go()
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
        with on_demand("psycopg", "errors"):  # 9 MB, which a file of runs does not need
            from dbos import DBOS, DBOSPortableJSONSerializer  # 12 MB: only when a run needs it

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
            await asyncio.to_thread(self._end)
        _serving = self._dbos = None
        self._stuck.clear()

    def _end(self) -> None:
        """Destroy the engine, its queue first: it would end the loop before, and drop the run that is just taken up."""
        from dbos._dbos import _get_dbos_instance

        for event in _get_dbos_instance().background_thread_stop_events:
            event.set()
        for thread in threading.enumerate():
            if "queue_thread" in thread.name:  # it waits for all that take up runs
                thread.join(_QUEUE_S)
        self._dbos.destroy()

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
        self._dbos.send(run_id, message, ANSWER, idempotency_key=key)

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
