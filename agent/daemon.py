"""The daemon: one asyncio loop that carries ticks through the walk, and runs, people and receivers beside it.

    sources, feeds, receivers --> inbox --(each tick)--> Walk.step --> plans --> Runner (durable)
         ^ Collector                                        |--> notes --> notifiers
         |                                                  '--> journal, memory, history, /metrics, SSE

It owns the signals: SIGTERM and SIGINT drain (runs go on after the next start), SIGHUP reloads the config.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import linecache
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import psutil
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from pydantic import ValidationError

from agent import (
    __version__,
    backfill,
    by_hand,
    digest,
    error_budget,
    forecasts,
    guard,
    ladder,
    news,
    registry,
    strict,
    telling,
    web,
)
from agent.abilities import Able, able, acting, meant_for
from agent.archives import Archives
from agent.board import Board
from agent.budget import Promise
from agent.by_hand import Proposal
from agent.calls import Names
from agent.changes import of_reload
from agent.chat import Chats
from agent.clock import JUMP_S, Clock
from agent.codec import pack
from agent.collect import Collector
from agent.config import DEFAULT_CONNECTORS, Config, ConnectorConfig, Keep, edges_of, load
from agent.desk import Desk
from agent.errors import AgentError, ConfigError, Fault, Refused, Unavailable
from agent.graph_past import GraphPast
from agent.hands import RealHands, Stage
from agent.history import History
from agent.install import sd_notify
from agent.intake import FORWARD, Counting, Intake
from agent.journal import Entry, Journal, Unwritten
from agent.life import Event
from agent.memory import JUMPED, Memory
from agent.model import Change, Entity, Frame, Incident, Run, Sighting
from agent.models import ModelWatch
from agent.mutes import Mutes
from agent.objectives import aims_of, limits_of
from agent.outbox import Outbox
from agent.pipeline import Moment, Walk, again, bank, record_plan
from agent.plans import Plan
from agent.playbook import Library
from agent.playbook.library import folders
from agent.ports import (
    Archive,
    Bulk,
    BulkReceiver,
    Detector,
    Feed,
    Muting,
    Note,
    Notifier,
    P,
    PredictionBatch,
    Pulse,
    Receiver,
    Remembering,
    SampleBatch,
    Signal,
    Sink,
    Source,
    offers,
)
from agent.pulses import Pulses
from agent.references import References
from agent.routing import Router
from agent.runner import Runner
from agent.runs_store import store_of
from agent.scene import Scene
from agent.scores import Scores
from agent.sinks import Sinks
from agent.telemetry import set_up_logging
from agent.topology import BINDING, Binding, EdgePattern
from agent.training import LOOK_EVERY_S, Training
from agent.world import World

log = structlog.get_logger()

TICK_S: Final = 1.0
HEAVY: Final = ("sklearn", "scipy", "torch", "pandas", "statsmodels", "mlflow", "elasticsearch")
"""What a daemon with host metrics alone must not have loaded."""
_OF_SCORES: Final = 1 / 16
"""So much of `history.size` is for what detectors said."""
_SAVE_EVERY_S: Final = 300.0
_SAVE_LATER_S: Final = 25.0
"""Feeds go back 30 s more than there are between two checkpoints."""
_LOOK_S: Final = 0.1
_THREADS: Final = 128
"""Made when needed: as many as calls hang at once, and a few."""
_UNREAD_S: Final = 10.0
"""After its return a log is read on, and the newest seconds come last."""
_CLOSING_S: Final = 10.0
"""How long one connector may take to close."""
_BIND_EVERY_S: Final = 5.0
_COLUMNS_S: Final = 2.0
"""How long a folder of models may take to say what columns a model has: rows wait for it."""


def state_folder(config: Config, given: Path | None = None) -> Path:
    """Return where state lives: as told, else by XDG, as root /var/lib/homeostat."""
    if given is not None:
        return given
    if config.state is not None:
        return config.state
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/lib/homeostat")
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "homeostat"


@dataclass(slots=True)
class Ticker:
    """Lets runs wait for the next tick of the walk."""

    _next: asyncio.Event = field(default_factory=asyncio.Event)
    _now: float = 0.0

    def beat(self, now: float) -> None:
        """Wake everybody who waits."""
        self._now = now
        event, self._next = self._next, asyncio.Event()
        event.set()

    async def tick(self) -> float:
        """Wait for the next tick; returns its time."""
        await self._next.wait()
        return self._now


class Connectors:
    """The connectors that config asks for, by name, and who has which ability."""

    def __init__(self, config: Config, state: Path) -> None:
        self._state = state
        self._config = config
        self.built: dict[str, Any] = {}
        self.faults: dict[str, str] = {}

    def build(self, config: Config | None = None) -> None:
        """Make every connector; one that can not be made is said and left out, the others live."""
        self._config = config or self._config
        self.faults.clear()
        for name, wanted in wanted_connectors(self._config).items():
            if name in self.built:
                continue
            try:
                names = Names(self._config.topology.names, self._config.topology.qualify)
                self.built[name] = make_connector(name, wanted, self._state, names)
            except AgentError as error:
                self.faults[name] = str(error)
                log.error("connector_refused", connector=name, error=str(error))

    def of(self, port: type[P]) -> dict[str, P]:
        """Return those that keep a contract, by name."""
        return {name: c for name, c in self.built.items() if offers(c, port)}

    def resolve(self, via: str | None, ability: type[Any] | None, target: str = "") -> Any:
        """Return the connector that has an ability: named, or the only one, or the one for this service."""
        if ability is None:
            return None
        wanted = wanted_connectors(self._config)
        if via is not None and via in wanted and via not in {*self.built, *self.faults}:
            raise Unavailable(f"connector {via} is being made anew", wait_s=1.0)
        if via is not None and via not in {*self.built, *self.faults}:
            raise Refused(
                f"no connector is called {via!r}: name one of {', '.join(sorted(self.built))}"
            )
        found = [Able(name, meant_for(vars(c.config))) for name, c in self.of(ability).items()]
        found += [one for one in able(self._config, ability) if one.name in self.faults]
        return self.built[acting(found, via, ability.__name__, target, self.faults).name]


def wanted_connectors(config: Config) -> dict[str, ConnectorConfig]:
    """Return what config asks for, the built-in ones included."""
    out = {name: ConnectorConfig() for name in DEFAULT_CONNECTORS}
    out.update(config.connectors)
    if (out["processes"].use or "processes") == "processes":
        # a service is seen however little it does
        always = [
            *out["processes"].own.get("always", []),
            *(s.process for s in config.services if s.process),
        ]
        pidfiles = [
            *out["processes"].own.get("pidfiles", []),
            *(s.pidfile for s in config.services if s.pidfile),
        ]
        out["processes"] = out["processes"].model_copy(
            update={"always": always, "pidfiles": pidfiles}
        )
    return {name: c for name, c in out.items() if c.enabled}


def make_connector(
    name: str, wanted: ConnectorConfig, state: Path, names: Names | None = None
) -> Any:
    """Build one connector; raises Refused for a bad name or config (which `check` would have told).

    It gets `state=` (the state folder) and `names=` (how labels become service ids) when its signature asks.
    """
    cls = registry.connector.get(wanted.use or name)
    try:
        own = cls.Config(**wanted.own)
    except ValidationError as error:
        raise Refused(f"connector {name}: {strict.say(error)}") from None
    asks = inspect.signature(cls).parameters
    offered = {"state": state, "names": names or Names()}
    made = cls(name, own, **{k: v for k, v in offered.items() if k in asks})
    if not hasattr(made, "config"):
        made.config = own
    return made


def _pasts(keep: Keep, state: Path) -> tuple[History, Scores]:
    """Return the past of what was measured and of what was said of it; together they keep to `history.size`."""
    scores = Scores(state / "scores", age_s=keep.age, size_bytes=keep.size * _OF_SCORES)
    size = keep.size * (1.0 - _OF_SCORES)
    return History(state / "history", age_s=keep.age, size_bytes=size), scores


class Daemon:
    """Everything that lives while the daemon does."""

    def __init__(self, config: Config, config_path: Path | None, state: Path) -> None:
        self.config = config
        self.config_path = config_path
        self.state = state
        self.host = Entity("host", socket.gethostname())
        self.started = time.time()
        self.clock = Clock()
        self.ticker = Ticker()
        self.world = World()
        self.memory = Memory()
        self.journal = Journal(state / "journal.sqlite")
        self.history, self.scores = _pasts(config.history, state)
        self.graph_past = GraphPast(state / "history", config.history.age)
        self.counting = Counting(self.count, self.columns_of, lambda *_: None, self.broke)
        self.collector = Collector(cpu_budget=config.cpu_budget, bulk=self.counting.give)
        self.board = Board()
        self.connectors = Connectors(config, state)
        self.binding = Binding(config.services, self.host)
        self.references = References(config.models, self.bug)
        self.models = ModelWatch(
            config.models, self._reference, self._serves, self.references.of, self.references.learn
        )
        self.outbox = Outbox(
            self.record, lambda: self.connectors.of(Notifier), time.time, self._filled,
            Router(config.people, self._facts, self._withheld), meant=self._meant,
        )  # fmt: skip
        self.archives = Archives(
            self.journal, lambda: self.connectors.of(Archive), self.memory.last_decision
        )
        self.pulses = Pulses(lambda: self.connectors.of(Pulse), self.journal.proven, self.spawn)
        self.sinks = Sinks(lambda: self.connectors.of(Sink), self.spawn)
        self.mutes = Mutes(self._muting, self.memory, self.record, self.spawn)
        self.runner = Runner(
            store_of(state / "runs.sqlite", config.runs),
            RealHands(
                self.connectors.resolve,
                self.record,
                self.memory,
                self,
                halted=self._paused_file,
                written=lambda: self.journal.pending == 0,
                standing=self.standing,
                patience=lambda plan: guard.patience(self.incident(plan.incident), self.world),
            ),
        )
        self.training = Training(
            config.detectors,
            self.history,
            state / "trained",
            lambda: self.world.now,
            bugs=self.bug,
        )
        self.walk = Walk.wired(
            config, world=self.world, history=self.history, memory=self.memory, record=self.record,
            library=self._library(config), step_of=self._step_of,
            detector=self._make_detector,
        )  # fmt: skip
        self.walk.bugs = self.bug
        self.walk.graph_past = self.graph_past
        self.correlator = self.walk.correlator
        self.training.watches = self.walk.monitor.watches
        self.forecasts = forecasts.Forecasts(
            config.forecasts, self.walk.monitor.limits, self.history, self.world, bugs=self.bug
        )
        self.walk.foretold = self.forecasts.step
        self.first_frame = False
        self.desk: Desk
        self.ticks = self.late_ticks = 0
        self.tick_s = self.lag_s = 0.0
        self.bugs: dict[str, int] = {}
        self.draining = asyncio.Event()
        self.published: list[Callable[[Moment], None]] = []
        self._unwritten = False
        self.wrote: list[Callable[[Entry], None]] = [
            self.outbox.wrote,
            self.mutes.wrote,
            self.archives.wrote,
        ]
        self.reloaded: list[Callable[[], None]] = []
        self.intake: Intake | None = None
        self.chats: Chats | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reloading = asyncio.Lock()
        self._saved = time.monotonic()
        self._bound = 0.0
        self._lock: int | None = None

    # ---- what others ask of us (hooks of the desk, eyes of the hands)

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Append to the journal and fold into memory; what the disk does not take waits, in order, and is known."""
        try:
            entries = [self.journal.append(kind, subject, body, ts)]
        except Unwritten as error:
            entries = list(error.entries)
            self._not_written(error)
        for entry in entries:
            self.memory.apply(entry)
            for wrote in self.wrote:
                wrote(entry)

    @contextlib.contextmanager
    def _at_once(self) -> Iterator[None]:
        """Let what is recorded inside be on disk as a whole or not at all: a decision never without its run."""
        try:
            with self.journal.together():
                yield
        except Unwritten as error:
            self._not_written(error)

    def _not_written(self, error: Unwritten) -> None:
        if not self._unwritten:
            log.error("journal_not_written", error=str(error))
        self._unwritten = True

    async def tick(self) -> float:
        """Wait for the next tick."""
        return await self.ticker.tick()

    def scene(
        self, plan: Plan, since: float | None, steps: Mapping[str, Mapping[str, Any]]
    ) -> Scene:
        """Return what the expressions of a run see now; `since` is when it acted."""
        return Scene(
            self.world, plan.entity, read=self.history.read, facts=plan.facts, steps=steps,
            since=since if since is not None else plan.created, baseline_s=self.config.diagnose.baseline,
            usual=self.walk.usual,
        )  # fmt: skip

    def incident(self, id_: str) -> Incident | None:
        """Return an incident as it is now."""
        return self.correlator.incidents.get(id_) or self.memory.incidents.get(id_)

    def turn(self, id_: str, event: Event, by: str, why: str) -> Incident:
        """Turn the life of an incident at a person's word: journal first, then the walk goes on with it."""
        turned = self.correlator.turn(id_, event, self.world.now, by, why)
        self.record("incident", id_, pack(turned), self.world.now)
        self.correlator.put(turned)
        return turned

    def standing(self, plan: Plan, stage: Stage) -> str:
        """Say why a run may not do its next step now; to put back only a pause stops it."""
        if stage == "undo":
            return guard.paused(plan, self.memory, self.world)
        return guard.standing(
            plan, memory=self.memory, world=self.world, config=self.config, now=self.world.now,
            first=stage == "first", incident=self.incident(plan.incident),
            unseen=self.correlator.unseen(plan.incident),
        )  # fmt: skip

    async def start_run(self, plan: Plan) -> None:
        """Hand a plan to the durable runner."""
        await self.runner.start(plan)

    def start_suggested(self, run_id: str, person: str) -> Run:
        """Let a person turn a suggestion into a run, after asking the guard again."""
        plan, run = self.memory.plans[run_id], self.memory.runs[run_id]
        if run.state != "suggested":
            raise Refused(f"run {run_id} is {run.state}: only a suggestion can be started this way")
        incident = self.incident(plan.incident)
        playbook = self.walk.library.playbooks.get(plan.playbook)
        if incident is None or incident.state == "resolved" or playbook is None:
            raise Refused(f"run {run_id}: its incident is over, nothing is left to heal")
        now = self.world.now
        incident = again(self.walk, incident, now)
        decision = guard.decide(
            playbook, plan.entity, incident, memory=self.memory, world=self.world, config=self.config,
            now=now, ceiling="approve", paused_file=self.walk.paused_file,
            journal_well=self.walk.journal_well, unseen=self.correlator.unseen(incident.id),
        )  # fmt: skip
        self.record("decision", f"{playbook.id}|{plan.target}", pack(decision), now)
        if not decision.allowed:
            first = next(g for g in decision.gates if not g.passed)
            raise Refused(f"run {run_id}: the guard says no at gate {first.name}: {first.reason}")

        cause = incident.diagnosis.top if incident.diagnosis else None
        scene = self.walk.scene(plan.entity, cause, incident.opened)
        fresh = playbook.plan(plan.entity, incident, scene, "auto", now)
        if fresh.hash != plan.hash:
            raise Refused(
                f"run {run_id}: the evidence has changed since; look at the newest suggestion"
            )
        ended = replace(run, state="done", updated=now, text=f"started by {person}")
        started = replace(fresh, by=person)
        with self._at_once():
            self.record("run", run_id, pack(ended), now)
            new = record_plan(self.record, started, now)
        self.spawn(self.runner.start(started), "start run")
        return new

    def propose(self, playbook: str, target: Entity) -> Proposal:
        """Plan a playbook on a target at a person's word."""
        found = self.walk.library.playbooks.get(playbook)
        if found is None:
            raise Refused(f"playbook {playbook} is not loaded")
        return by_hand.proposed(self.walk, found, target, self.world.now)

    def begin(self, playbook: str, target: Entity, person: str, plan_hash: str) -> Run:
        """Start the plan that a person saw, if it is still what would be done and the guard lets it."""
        found = self.propose(playbook, target)
        plan, decision = found.plan, found.decision
        if plan.hash != plan_hash:
            raise Refused(f"the plan of {playbook} has changed since you saw it; look again")
        self.record("decision", f"{playbook}|{plan.target}", pack(decision), decision.ts)
        if found.closed is not None or not decision.allowed:
            said = found.closed
            raise Refused(
                f"{playbook} on {plan.target}: the guard says no"
                + (f" at gate {said.name}: {said.reason or said.value}" if said else "")
            )
        started = replace(plan, by=person)
        with self._at_once():
            run = record_plan(self.record, started, self.world.now)
        self.spawn(self.runner.start(started), "start run")
        return run

    async def undo(self, run_id: str, person: str, reason: str) -> Run:
        """Have a run that is over put back, by a run of its own."""
        undo = by_hand.undoing(self.memory, self.journal, run_id, person, time.time())
        await self.runner.start(undo)
        if reason:
            self.record("reason", undo.run_id, {"by": person, "reason": reason}, time.time())
        return self.memory.runs[undo.run_id]

    def spawn(self, work: Awaitable[Any], what: str) -> None:
        """Run something beside the ticks; its failure is logged, never lost and never fatal."""

        async def guarded() -> None:
            try:
                await work
            except AgentError as error:
                log.warning("failed", what=what, error=str(error))
            except Exception as error:  # noqa: BLE001  # a border: whatever it was must not end the daemon
                self.bug(what, error)

        task = asyncio.create_task(guarded(), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- life

    async def live(self) -> int:
        """Run until told to stop; returns the exit code."""
        self._single()
        self._raise_priority()
        self._remember()
        loop = asyncio.get_running_loop()
        # calls that hang keep their threads, and names are looked up there, too: nobody may wait for a free one
        loop.set_default_executor(ThreadPoolExecutor(_THREADS, "call"))
        for name in ("SIGTERM", "SIGINT"):
            loop.add_signal_handler(getattr(signal, name), self.draining.set)
        loop.add_signal_handler(signal.SIGHUP, self._hup)
        self.connectors.build()
        self.world.topology.take(Sighting(self.host))
        self._map()
        self.references.start()
        self._start_sources()
        self._load_state()
        site = await web.start(self)
        schedule = self._schedule()
        linecache.clearcache()  # the docstrings of what people write were read in the sources
        self.record("daemon", "started", {"pid": os.getpid(), "version": __version__}, time.time())
        log.info("started", listen=self.config.listen, state=str(self.state), mode=self.config.mode)
        self.outbox.restore(self.journal)
        self.archives.start()
        await self.runner.recover()
        sd_notify("READY=1")
        try:
            await self._beat()
        finally:
            sd_notify("STOPPING=1")
            schedule.shutdown(wait=False)
            await self.training.close()
            await self.forecasts.close()
            await self.collector.close()
            await site.close()
            await self.references.close()
            await self.runner.close()
            await self.outbox.close()
            await self.archives.close()
            for task in list(self._tasks):
                task.cancel()
            self._save_state()
            self.history.close()
            self.scores.close()
            self.graph_past.close()
            with contextlib.suppress(AgentError):
                self.record("daemon", "stopped", {"pid": os.getpid()}, time.time())
            self.journal.close()
            for name, connector in self.connectors.built.items():
                await self._closed(name, connector)
            log.info("stopped")
        return 0

    async def _beat(self) -> None:
        due = planned = time.monotonic()
        while not self.draining.is_set():
            start = time.monotonic()
            self.lag_s = max(0.0, start - planned)
            if self.lag_s > TICK_S:
                self.collector.held(self.lag_s)
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001  # the last border: a bug in a tick must not end the daemon
                self.bug("tick", error)
            self.tick_s = time.monotonic() - start
            sd_notify("WATCHDOG=1")
            planned = due = due + TICK_S
            if time.monotonic() > due:
                self.late_ticks += 1
                due = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self.draining.wait()

    def _tick(self) -> None:
        now, jump = self.clock.now()
        if jump:
            self._jumped(now, jump)
        frames, changes, signals = self._gathered(now)
        for name, health in self.collector.health.items():
            self.world.patience[name] = health.patience_s
        self.world.patience[forecasts.SOURCE] = forecasts.PATIENCE_S
        changes += self._bind(now)
        self.walk.paused_file = self._paused_file()
        if self.journal.pending and self.journal.flush() == 0:
            log.info("journal_written_again")
            self._unwritten = False
        self.walk.journal_well = self.journal.pending == 0
        if self.models.holding:
            self.spawn(self.counting.catch_up(self.models.catch_up), "rows that waited")
        with self._at_once():
            moment = self.walk.step(now, frames, changes, signals)
            self._climb(now)
        self.first_frame = self.first_frame or bool(frames)
        self.ticks += 1
        for plan in moment.plans:
            if plan.mode != "suggest":
                self.spawn(self.runner.start(plan), "start run")
        self.mutes.tick(now)
        try:
            self.scores.take(self.walk.monitor.watches.items())
        except Exception as error:  # noqa: BLE001  # a border: what is only looked at must not hold up the rest
            self.bug("scores", error)
        self.pulses.tick(now)  # last: a walk that did not get here is not alive
        self.ticker.beat(now)
        for publish in self.published:
            publish(moment)

    def _climb(self, now: float) -> None:
        """Call whom the ladder wants called by now."""
        steps = ladder.Ladder(
            self.config.people, self.memory, self._facts,
            lambda i: telling.note_of("", i, self.world, now), self.connectors.of(Notifier),
        )  # fmt: skip
        here = self.correlator.incidents.values()
        for note in [*steps.due(here, now), *steps.again(here, now)]:
            self.record("note", note.key, pack(note), now)

    def _gathered(self, now: float) -> tuple[list[Frame], list[Change], list[Signal]]:
        """Take what has come since the last tick; what was counted of predictions is a frame of model metrics."""
        frames, arrivals = self.collector.drain()
        frames += [a for a in arrivals if isinstance(a, Frame)]
        frames += [self.collector.possible.apply(f) for f in self.board.frames(now)]
        for source, (every_s, ago_s, series) in self.board.heard().items():
            self.collector.heard(source, every_s, now - ago_s, series, now)
        # measured before the clock was set back, come after it: the future would make all the rest look stale
        frames = [replace(f, ts=now) if f.ts > now + JUMP_S else f for f in frames]
        if self.models.busy:
            unread = self.collector.unread(self.config.models.traffic_window + _UNREAD_S)
            frames.append(self.models.frame(now, unread))
        frames.append(self.collector.self_frame(now))
        foretold = self.forecasts.frame(now)
        if foretold is not None:
            frames.append(foretold)
        changes = [a for a in arrivals if isinstance(a, Change)]
        return frames, changes, [a for a in arrivals if isinstance(a, Signal)]

    def dismiss(self, sender: str) -> None:
        """Expect nothing more of a sender whose token was taken away."""
        for eye in self.board.dismiss(sender):
            self.collector.dismiss(eye)

    def count(self, rows: Bulk) -> None:
        """Count a piece of the rows that came; see `agent.intake.Counting`, which gives every piece its time."""
        if isinstance(rows, SampleBatch):
            self.board.take(rows)
            return
        self.models.take(rows)
        self.archives.count(rows)
        if isinstance(rows, PredictionBatch):
            self.walk.examples.take(rows)

    async def columns_of(self, model: str) -> Sequence[str]:
        """Return the features of a model in order, as the reference of its champion has them; () = not known."""
        for connector in self.connectors.built.values():
            champion, read = (
                getattr(connector, "champion", None),
                getattr(connector, "reference", None),
            )
            if champion is None or read is None:
                continue
            with contextlib.suppress(AgentError, TimeoutError):
                async with asyncio.timeout(_COLUMNS_S):
                    found = read(model, await champion(model))
                if found is not None:
                    return [str(name) for name in found.get("features", ())]
        return ()

    def _jumped(self, now: float, jump: float) -> None:
        """Move everything that remembers a time along with the clock, so that nothing looks stale or early."""
        log.warning("clock_jumped", by_s=round(jump, 1))
        self.world.rebase(jump)
        self.collector.rebase(jump, now)
        self.correlator.rebase(jump)
        self.walk.monitor.ledger.rebase(jump)
        self.walk.noticed.rebase(jump)
        for watch in self.walk.monitor.watches.values():
            watch.rebase(jump)
        self.training.rebase(jump)
        self.forecasts.rebase(jump)
        self.walk.budgets.rebase(jump)
        self.walk.alerts.rebase(jump)
        self.outbox.rebase(jump, now)
        self.record("daemon", JUMPED, {"by_s": round(jump, 3)}, now)

    def _meant(self, name: str) -> bool:
        return name in wanted_connectors(self.config) or (
            name == "page" and bool(self.config.page.command)
        )

    def _filled(self, note: Note) -> Note:
        return news.filled(note, self.incident(note.incident), self.config.public_url)

    def _facts(self, note: Note) -> dict[str, Any]:
        return telling.facts(self.incident(note.incident) if note.incident else None, self.world)

    def _withheld(self, note: Note) -> str:
        about = self.incident(note.incident) if note.incident else None
        return telling.withheld(note, about, self.memory, self.world.now or time.time())

    def _muting(self) -> dict[str, Muting]:
        return {n: c for n, c in self.connectors.of(Muting).items() if c.muting}

    # ---- parts of starting and stopping

    def _raise_priority(self) -> None:
        """Ask for a little more priority: who is to name a neighbour that takes all must not starve with the rest."""
        if self.config.priority:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, self.config.priority)
            except PermissionError:
                log.info("priority_not_raised", wanted=self.config.priority)

    def _single(self) -> None:
        """Let only one daemon own a state folder."""
        self._lock = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(
                f"another daemon runs on {self.state}: stop it, or give this one --state of its own"
            ) from None

    def _remember(self) -> None:
        """Fold the journal: incidents, runs, cooldowns, silences and pauses are as they were."""
        self.memory.load(self.journal)
        self.correlator.restore(self.memory.incidents.values())
        self.forecasts.restore(self.memory.incidents.values())

    def _start_sources(self) -> None:
        wanted = wanted_connectors(self.config)
        for name, connector in self.connectors.built.items():
            self._start_source(name, connector, wanted[name])
        if self.config.page.command:
            self._add_page()

    def _add_page(self) -> None:
        if "page" not in self.connectors.built:
            own = {"command": self.config.page.command, "timeout": self.config.page.timeout}
            page = ConnectorConfig.model_validate({"use": "page", **own})
            self.connectors.built["page"] = make_connector("page", page, self.state)

    def _start_source(self, name: str, connector: Any, wanted: ConnectorConfig) -> None:
        self.world.trusts[name] = wanted.trust or "local"
        if isinstance(connector, Remembering):
            self.spawn(self._start_with_past(name, connector, wanted), f"past of {name}")
        elif isinstance(connector, Source):
            self.collector.add(name, connector, wanted.interval)
        if isinstance(connector, Feed):
            self.collector.follow(name, connector, wanted.interval)
        for own in ("models", "self", forecasts.SOURCE):
            self.world.trusts[own] = "local"

    async def _start_with_past(
        self, name: str, source: Remembering, wanted: ConnectorConfig
    ) -> None:
        try:
            await backfill.fill(name, source, self.history, time.time())
        finally:
            if self.connectors.built.get(name) is source:  # not taken out of config meanwhile
                self.collector.add(name, source, wanted.interval)

    def _library(self, config: Config) -> Library:
        library = Library.load(self._playbook_dirs(), config, tests=False)
        library.unbuilt(self.connectors.faults)
        return library

    def receivers(self) -> dict[str, Receiver]:
        """Return the connectors that others push to."""
        return self.connectors.of(Receiver)

    def bulk_receivers(self) -> dict[str, BulkReceiver]:
        """Return the connectors that others push masses of rows to."""
        return self.connectors.of(BulkReceiver)

    def intake_settings(self) -> dict[str, Any]:
        """Return what the ingest process is told."""
        wanted = wanted_connectors(self.config)
        return {
            "receivers": [
                {
                    "name": name,
                    "module": type(c).__module__,
                    "kind": wanted[name].use or name,
                    "config": self.connectors.built[name].config.model_dump(mode="json"),
                }
                for name, c in self.bulk_receivers().items()
            ],
            "state": str(self.state),
            "names": _naming(self.config),
            "models": self.config.ingest_models,
            "forward": str(self.state / FORWARD),
        }

    def _schedule(self) -> Any:
        schedule = AsyncIOScheduler(job_defaults={"coalesce": True, "max_instances": 1})
        schedule.add_job(self._save, "interval", seconds=_SAVE_EVERY_S)
        schedule.add_job(self.runner.idle, "interval", seconds=30)
        schedule.add_job(self.training.look, "interval", seconds=LOOK_EVERY_S)
        schedule.add_job(self._tell_digest, "interval", seconds=digest.LOOK_EVERY_S)
        schedule.add_job(self.forecasts.look, "interval", seconds=forecasts.LOOK_EVERY_S)
        schedule.start()
        return schedule

    async def _tell_digest(self) -> None:
        """Write the digest down when it is due; on the loop, where memory does not change meanwhile."""
        note = digest.due(self.config.digest, self.desk, time.time())
        if note is not None:
            self.record("note", note.key, pack(note), note.ts)

    def _map(self) -> None:
        """Put onto the map what a person wrote: services, edges that there are, edges that there are not."""
        graph = self.config.topology
        hide = [EdgePattern(e.kind or "", e.src, e.dst) for e in graph.remove]
        self.world.topology.configure(edges_of(self.config), hide, time.time(), graph.labels)
        self.world.topology.drop(BINDING)
        self.binding.start(self.world.topology)

    def _bind(self, now: float) -> list[Change]:
        if now - self._bound < _BIND_EVERY_S and now >= self._bound:
            return []
        self._bound = now
        pids = {}
        for service in self.config.services:
            if service.pidfile is not None:
                with contextlib.suppress(OSError, ValueError, IndexError):
                    pids[service.id] = os.getpgid(int(service.pidfile.read_text().split()[0]))
        return self.binding.update(self.world.topology, pids, now)

    def _paused_file(self) -> bool:
        """Look for the file PAUSED beside agent.yaml, and in the state folder when there is no agent.yaml."""
        folder = self.config_path.parent if self.config_path else self.state
        return (folder / "PAUSED").exists()

    def _playbook_dirs(self) -> list[Path]:
        return folders(self.config_path, self.config)

    def _make_detector(self, step_s: float, n: int) -> Detector:
        return self.training.panel(bank(step_s, n), step_s, n)

    def _step_of(self, source: str) -> float:
        health = self.collector.health.get(source)
        return health.interval_s if health else TICK_S

    def _reference(self, model: str, version: str) -> dict[str, Any] | None:
        for connector in self.connectors.built.values():
            read = getattr(connector, "reference", None)
            if read is not None:
                found: dict[str, Any] | None = read(model, version)
                if found is not None:
                    return found
        return None

    def _serves(self, model: str) -> str | None:
        return next((s.id for s in self.config.services if model in s.models), None)

    # ---- state of detectors and models

    def _load_state(self) -> None:
        folder = self.state / "detectors"
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in [*sorted(folder.glob("*.bin")), *folder.glob("budget.json")]:
            try:
                if path.suffix == ".json":
                    self.walk.monitor.ledger.load(path.read_bytes())
                elif path.stem == "models":
                    self.models.load(path.read_bytes())
                elif path.stem == error_budget.SOURCE:
                    self.walk.budgets.load(path.read_bytes())
                else:
                    self.walk.monitor.watch(path.stem).load(path.read_bytes())
            except (AgentError, OSError) as error:
                log.warning("state_not_loaded", file=str(path), error=str(error))

    async def _save(self) -> None:
        """Save on the loop: what is no coroutine the scheduler calls in a thread, while arrays change here.

        Rows that wait for a reference are counted before: what was promised for them is in this checkpoint. Of models
        only copies are taken here, one after the other; their bytes are made beside the ticks.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SAVE_LATER_S):
                while self.models.holding:
                    with contextlib.suppress(AgentError):  # a bug is noted by then
                        await self.counting.catch_up(self.models.catch_up)
                    await asyncio.sleep(_LOOK_S)
        self._settle()
        made = None
        for made in self.models.snapshots():  # noqa: B007  # the last one is the whole
            await asyncio.sleep(0)
        models = await asyncio.to_thread(made.pack) if made is not None else b""
        self._write_state(models)

    def _settle(self) -> None:
        """Count what still waits; a bug costs a piece of it, never the state."""
        while self.models.holding:
            try:
                self.models.settle()
            except Exception as error:  # noqa: BLE001  # the border of counting
                self.bug("rows that waited", error)

    def _save_state(self) -> None:
        self._settle()
        self._write_state(self.models.dump() if self.models.busy else b"")

    def _write_state(self, models: bytes) -> None:
        folder = self.state / "detectors"
        monitor = self.walk.monitor
        parts = {f"{name}.bin": w.dump() for name, w in monitor.watches.items()}
        parts["budget.json"] = monitor.ledger.dump()
        parts["models.bin"] = models
        parts[f"{error_budget.SOURCE}.bin"] = self.walk.budgets.dump()
        for name, state in parts.items():
            if not state:
                continue
            try:
                fresh = folder / f".{name}.new"
                fresh.write_bytes(state)
                fresh.replace(folder / name)
            except OSError as error:
                log.warning("state_not_saved", what=name, error=str(error))
        self.training.save()
        self.history.flush()
        self.scores.flush()

    # ---- reload, bugs

    def _hup(self) -> None:
        self.spawn(self.reload(), "reload")

    async def reload(self) -> None:
        """Read the config again; a faulty one is told and the old one stays. Who asked may leave: it is done whole."""
        task = asyncio.create_task(self._reload(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _reload(self) -> None:
        async with self._reloading:
            await self._read_again()

    async def _read_again(self) -> None:
        sd_notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = load(self.config_path)
            library = self._library(config)
        except ConfigError as error:
            for fault in error.faults:
                log.error("reload_refused", fault=str(fault))
            sd_notify("READY=1")
            raise
        old, new = wanted_connectors(self.config), wanted_connectors(config)
        self.collector.push(of_reload(self.config.services, config.services, time.time()))
        renamed = _naming(self.config) != _naming(config)
        gone = []
        for name, built in self.connectors.built.items():
            names_it = renamed and "names" in inspect.signature(type(built)).parameters
            if name not in new or old.get(name) != new[name] or names_it:
                gone.append(name)
        # notes and steps for those that are made anew wait meanwhile; two of one name never share a spool
        await asyncio.gather(*(self._retire(name) for name in gone))
        self.config = config
        self.outbox.router.people = config.people
        before = set(self.connectors.built)
        self.connectors.build(config)
        for name in set(self.connectors.built) - before:
            self._start_source(name, self.connectors.built[name], new[name])
        for name in set(gone) - set(self.connectors.built):
            self.walk.monitor.drop(name)
        self.archives.start()
        if config.page.command:
            self._add_page()
        self.binding = Binding(config.services, self.host)
        self._map()
        self._bound = 0.0
        self.walk.config, self.walk.library = config, library
        self.walk.monitor.limits = limits_of(config)
        self.walk.budgets = self.walk.budgets.reload(aims_of(config))
        self.walk.monitor.ledger.promise = Promise.of(config.budget)
        self.forecasts.reload(config.forecasts, self.walk.monitor.limits)
        for watch in self.walk.monitor.watches.values():
            watch.relimit(self.walk.monitor.limits)
        for reloaded in self.reloaded:
            reloaded()
        self.record("daemon", "reloaded", {"mode": config.mode}, time.time())
        log.info("reloaded", mode=config.mode)
        sd_notify("READY=1")

    async def _retire(self, name: str) -> None:
        """Take a connector out of use, then close it: what it read is counted, what it keeps is on disk."""
        await self.collector.remove(name)
        await self.archives.close(name)
        self.board.forget(name)
        self.world.drop(name)
        await self._closed(name, self.connectors.built.pop(name))

    async def _closed(self, name: str, connector: Any) -> None:
        """Close one that is not used any more; what goes wrong holds up nobody."""
        try:
            async with asyncio.timeout(_CLOSING_S):
                result = getattr(connector, "close", lambda: None)()
                if inspect.isawaitable(result):
                    await result
        except (AgentError, TimeoutError) as error:
            log.warning("connector_not_closed", connector=name, error=str(error) or "too slow")
        except Exception as error:  # noqa: BLE001  # a border: the others are closed, too
            self.bug(f"closing {name}", error)

    def bug(self, where: str, error: Exception) -> None:
        """Note an exception that nobody expected: once with its traceback, then counted."""
        if where not in self.bugs:
            log.error("bug", where=where, exc_info=error)
        self.bugs[where] = self.bugs.get(where, 0) + 1

    def broke(self, where: str, trace: str) -> None:
        """Note a bug of which only the place is told, as its message may quote a row."""
        if where not in self.bugs:
            log.error("bug", where=where, trace=trace)
        self.bugs[where] = self.bugs.get(where, 0) + 1

    def usage(self) -> dict[str, Any]:
        """Return what we cost: for /metrics, /api/status and the benchmark."""
        me = psutil.Process()
        cpu = me.cpu_times()
        return {
            "pid": me.pid,
            "rss_bytes": me.memory_info().rss,
            "cpu_seconds": cpu.user + cpu.system,
            "uptime_seconds": time.time() - self.started,
            "series": sum(len(s) for s, _, _ in self.world.rows().values()),
            "ticks": self.ticks,
            "late_ticks": self.late_ticks,
            "modules_heavy": [m for m in HEAVY if m in sys.modules],
            "bugs": dict(self.bugs),
        }


def _naming(config: Config) -> tuple[dict[str, str], bool]:
    return config.topology.names, config.topology.qualify


def run(config_path: Path | None, *, state: Path | None = None, log_json: bool = False) -> int:
    """Start the daemon and stay until it is told to stop; returns the exit code (2 = config, 1 = refused)."""
    set_up_logging(as_json=log_json)
    registry.load()
    try:
        config = load(config_path)
        # absolute, as the ingest process and its socket are told it, too
        folder = state_folder(config, state).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                [Fault(str(folder), 0, 0, f"the state folder can not be made: {error.strerror}",
                       "give --state a folder that you may write")]
            ) from None  # fmt: skip
        return asyncio.run(_live(config, config_path, folder))
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201  # before logging means anything to a person
        return 2
    except AgentError as error:
        print(f"homeostat: {error}", file=sys.stderr)  # noqa: T201  # as above
        return 1


async def _live(config: Config, config_path: Path | None, folder: Path) -> int:
    return await Daemon(config, config_path, folder).live()
