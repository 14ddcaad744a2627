"""The hooks of the desk while the daemon lives; `agent.asleep` has those of one that is dead."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.models.cause import Blame, blame

if TYPE_CHECKING:
    from agent.authority import Person
    from agent.away import Away
    from agent.budget import Ledger
    from agent.by_hand import Proposal
    from agent.config import Config
    from agent.daemon import Daemon
    from agent.desk.hooks import LoadedView, SourceView
    from agent.filling import Forecast
    from agent.journal import JournalReader
    from agent.life import Event
    from agent.memory import Memory
    from agent.model import Change, Entity, FloatArray, Incident, Run, Series
    from agent.models import ModelFacts
    from agent.models.asked import Asked
    from agent.monitor import Watch
    from agent.plans import Plan, Would
    from agent.playbook import Playbook
    from agent.world import World


class Living:
    """The hooks of the desk while the daemon lives."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @property
    def config(self) -> Config:
        """The config that holds now."""
        return self._daemon.config

    @property
    def config_path(self) -> Path | None:
        """Where it came from."""
        return self._daemon.config_path

    @property
    def state(self) -> Path:
        """The state folder."""
        return self._daemon.state

    @property
    def memory(self) -> Memory:
        """Incidents, runs, pauses, silences."""
        return self._daemon.memory

    @property
    def journal(self) -> JournalReader:
        """The record."""
        return self._daemon.journal

    @property
    def world(self) -> World:
        """What is known now."""
        return self._daemon.world

    @property
    def ledger(self) -> Ledger:
        """The alarm budget: what is promised, and what was counted."""
        return self._daemon.walk.monitor.ledger

    @property
    def started(self) -> float:
        """When the daemon started."""
        return self._daemon.started

    @property
    def ready(self) -> bool:
        """Whether the first frame has been seen."""
        return self._daemon.first_frame

    @property
    def pending(self) -> int:
        """Entries that the journal could not write yet."""
        return self._daemon.journal.pending

    def now(self) -> float:
        """The time of the walk."""
        return self._daemon.world.now or time.time()

    def read(
        self, series: Sequence[Series], start: float, end: float, step: float | None
    ) -> tuple[FloatArray, FloatArray]:
        """Read history."""
        return self._daemon.history.read(series, start, end, step)

    def series(self) -> Iterable[Series]:
        """Everything that has a history."""
        return self._daemon.history.series()

    def scores(self, series: Series, start: float, end: float) -> tuple[FloatArray, FloatArray]:
        """Read what detectors said."""
        return self._daemon.scores.read(series, start, end)

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Write to the journal and fold into memory."""
        self._daemon.record(kind, subject, body, ts)

    def push(self, change: Change) -> None:
        """Hand a change to the next tick."""
        self._daemon.collector.push([change])

    def dismiss(self, sender: str) -> None:
        """Expect nothing more of a sender."""
        self._daemon.dismiss(sender)

    def sources(self) -> list[SourceView]:
        """How our eyes are."""
        d = self._daemon
        now = self.now()
        learning = d.walk.monitor.learning()
        out: list[SourceView] = []
        for name, h in sorted(d.collector.health.items()):
            answered = h.last_ok > 0
            state = "blind" if h.blind(now) else "fresh" if answered else "waiting"
            learns = learning.get(name) if h.series else None  # nothing seen, nothing to learn
            out.append({
                "name": name, "state": state, "age_s": max(0.0, now - h.last_ok) if answered else None,
                "interval_s": h.interval_s, "stretched": h.stretched_s > h.least_s,
                "error": h.error, "series": h.series, "poll_s": h.poll_s, "cpu_ratio": h.cpu_ratio,
                "impossible": d.collector.possible.refused.get(name, 0),
                "trust": d.world.trusts.get(name.partition("/")[0], "local"),
                "learning": None if learns is None else {
                    "ready": bool(learns["ready"]), "rows": int(learns["rows"] or 0),
                    "since": learns["since"], "ready_in_s": float(learns["ready_in_s"] or 0.0),
                },
            })  # fmt: skip
        return out

    def forecasts(self) -> list[tuple[Forecast, str]]:
        """What is foretold."""
        told = self._daemon.forecasts.told
        return [
            (f, "" if s not in told else "page" if told[s].page else "warning")
            for s, f in self._daemon.forecasts.found.items()
        ]

    def models(self) -> list[tuple[ModelFacts, tuple[Blame, ...]]]:
        """What is known of each model, and what may be to blame."""
        watch = self._daemon.models
        found = [watch.facts(name) for name in watch.models]
        now = self.now()
        return [(facts, blame(facts, now)) for facts in found if facts is not None]

    def asked(self) -> Asked:
        """What can be asked of one model."""
        return self._daemon.models.asked

    def watches(self) -> dict[str, Watch]:
        """Sources under watch."""
        return self._daemon.walk.monitor.watches

    def faults(self) -> list[str]:
        """What a person must mend."""
        d = self._daemon
        out = [f"history: {d.history.fault}"] if d.history.fault else []
        out += [f"scores: {d.scores.fault}"] if d.scores.fault else []
        out += [f"connector {name}: {why}" for name, why in sorted(d.connectors.faults.items())]
        out += [f"reference of {name}: {why}" for name, why in sorted(d.references.faults.items())]
        out += [
            f"connector {one}"
            for one in (
                *d.outbox.faults(),
                *d.pulses.faults(),
                *d.sinks.faults(),
                *d.mutes.faults(),
                *d.archives.faults(),
                *(d.chats.faults() if d.chats is not None else ()),
            )
        ]
        if d.intake is not None and d.intake.fault:
            out.append(d.intake.fault)
        if d.memory.strange:
            seq, why = d.memory.strange[-1]
            out.append(
                f"{len(d.memory.strange)} journal entries could not be read, the last is {seq}: {why}"
            )
        return out

    def away(self) -> list[Away]:
        """Who outside does not do what it is asked for."""
        d = self._daemon
        asked = (d.outbox, d.archives, d.sinks, d.pulses, d.mutes)
        return [*d.collector.away.told(), *(one for some in asked for one in some.away())]

    def hints(self) -> list[str]:
        """What may be meant otherwise."""
        return [
            f"objective {limit.name}: no series has {', '.join(f'{k}={v}' for k, v in limit.labels)}"
            for limit in self._daemon.walk.monitor.idle()
        ]

    def playbooks(self) -> list[LoadedView]:
        """What is loaded."""
        mode = self.config.mode
        return [
            {"id": p.id, "title": p.title, "owner": p.owner, "target": p.target.kind,
             "causes": [p.because.cause], "limits": [
                 {"by": "playbook", "mode": p.mode, "reason": ""},
                 {"by": "agent.yaml", "mode": mode, "reason": ""},
                 {"by": "abilities", "mode": "observe" if p.broken else p.cap(), "reason": p.broken}]}
            for p in self._daemon.walk.library.playbooks.values()
        ]  # fmt: skip

    def playbook(self, id_: str) -> Playbook | None:
        """One that is loaded."""
        return self._daemon.walk.library.playbooks.get(id_)

    def usage(self) -> dict[str, Any]:
        """What the daemon costs."""
        return self._daemon.usage()

    def turn(self, incident_id: str, event: Event, person: Person, why: str) -> Incident:
        """Turn the life of an incident."""
        return self._daemon.turn(incident_id, event, person.signed, why)

    async def answer(
        self, run_id: str, person: Person, yes: bool, plan_hash: str, reason: str = ""
    ) -> None:
        """Hand a person's answer to the runner."""
        await self._daemon.runner.approve(run_id, person.signed, yes, plan_hash, reason)

    async def cancel(self, run_id: str, person: Person, reason: str = "") -> None:
        """Stop a run."""
        await self._daemon.runner.cancel(run_id, person.signed, reason)

    async def start(self, run_id: str, person: Person) -> Run:
        """Turn a suggestion into a run."""
        return self._daemon.start_suggested(run_id, person.signed)

    def propose(self, playbook: str, target: Entity) -> Proposal:
        """Plan a playbook on a target."""
        return self._daemon.propose(playbook, target)

    async def would(self, plan: Plan) -> Sequence[Would]:
        """Ask each step of a plan what it would do."""
        return await self._daemon.runner.would(plan)

    async def begin(self, playbook: str, target: Entity, person: Person, plan_hash: str) -> Run:
        """Start the plan that a person saw."""
        return self._daemon.begin(playbook, target, person.signed, plan_hash)

    async def undo(self, run_id: str, person: Person, reason: str) -> Run:
        """Have a run put back."""
        return await self._daemon.undo(run_id, person.signed, reason)

    async def reload(self) -> None:
        """Read the config again."""
        await self._daemon.reload()
