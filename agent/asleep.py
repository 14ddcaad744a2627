"""The desk with the daemon dead: the journal still answers, and the little that may be written is written.

Reading needs no lock and works beside anything. Writing takes the journal's lock for a moment: with a daemon alive it
is refused, so nobody can write past it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from agent.authority import Person
from agent.away import Away
from agent.budget import Ledger, Promise
from agent.codec import pack
from agent.config import Config
from agent.control import NotRunning
from agent.desk.hooks import LoadedView, SourceView
from agent.filling import Forecast
from agent.journal import Journal, JournalReader
from agent.life import Event, turned
from agent.memory import Memory
from agent.model import Change, Entity, FloatArray, Incident, Run, Series
from agent.models import ModelFacts
from agent.models.asked import Asked
from agent.models.cause import Blame
from agent.plans import Plan, Would
from agent.world import World

if TYPE_CHECKING:
    from types import TracebackType

    from agent.by_hand import Proposal
    from agent.monitor import Watch


class Asleep:
    """Hooks over a journal that nobody writes. Raises ConfigError or Unavailable when it can not be read.

    config   what holds for reading (the alarm budget); defaults when the file is faulty
    """

    def __init__(self, state: Path, config_path: Path | None, config: Config | None = None) -> None:
        self.state = state
        self.config_path = config_path
        self.config = config or Config()
        self.world = World()
        self.memory = Memory()
        self.ledger = Ledger(Promise.of(self.config.budget))
        self.started = 0.0
        self.ready = False
        self.pending = 0
        self.journal: JournalReader = Journal.reader(state / "journal.sqlite")
        self.memory.load(self.journal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.journal.close()

    def now(self) -> float:
        """The wall clock: nobody walks."""
        return time.time()

    def read(
        self, series: Sequence[Series], start: float, end: float, step: float | None
    ) -> tuple[FloatArray, FloatArray]:
        """Charts come from a living daemon: nothing here."""
        del start, end, step
        return np.empty(0), np.empty((0, len(series)))

    def series(self) -> Iterable[Series]:
        """As `read`."""
        return ()

    def scores(self, series: Series, start: float, end: float) -> tuple[FloatArray, FloatArray]:
        """As `read`."""
        del series, start, end
        return np.empty(0), np.empty(0)

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Write one entry, if no daemon holds the journal; raises Refused, Unavailable."""
        write(self.state, kind, subject, body, ts)
        self.memory = Memory()
        self.memory.load(self.journal)

    def push(self, change: Change) -> None:
        """A change joins incidents; without a daemon there is nobody to let it."""
        raise _dead(f"the change of {change.entity.id} is not taken")

    def dismiss(self, sender: str) -> None:
        """Nothing is expected of anybody."""

    def sources(self) -> list[SourceView]:
        """We have no eyes now."""
        return []

    def forecasts(self) -> list[tuple[Forecast, str]]:
        """Nobody looks ahead."""
        return []

    def models(self) -> list[tuple[ModelFacts, tuple[Blame, ...]]]:
        """Nobody counts rows."""
        return []

    def asked(self) -> Asked:
        """As `models`."""
        return Asked({})

    def watches(self) -> dict[str, Watch]:
        """As `sources`."""
        return {}

    def faults(self) -> list[str]:
        """What is wrong is said once, by whoever asked."""
        return []

    def away(self) -> list[Away]:
        """As `sources`."""
        return []

    def hints(self) -> list[str]:
        """Nothing is measured, so nothing is missed."""
        return []

    def playbooks(self) -> list[LoadedView]:
        """Nothing is loaded."""
        return []

    def playbook(self, id_: str) -> None:
        """As `playbooks`."""
        del id_

    def usage(self) -> dict[str, Any]:
        """Costs nothing."""
        return {}

    def turn(self, incident_id: str, event: Event, person: Person, why: str) -> Incident:
        """Write a turn in the life of an incident: the daemon takes it up when it starts."""
        turned_ = turned(self.memory.incidents[incident_id], event, self.now(), person.signed, why)
        self.record("incident", incident_id, pack(turned_), self.now())
        return turned_

    async def answer(
        self, run_id: str, person: Person, yes: bool, plan_hash: str, reason: str = ""
    ) -> None:
        """A run can only be answered when somebody carries it out."""
        del person, yes, plan_hash, reason
        raise _dead(f"run {run_id} can not be answered")

    async def cancel(self, run_id: str, person: Person, reason: str = "") -> None:
        """As `answer`."""
        del person, reason
        raise _dead(f"run {run_id} does not move, nothing is to be stopped")

    async def start(self, run_id: str, person: Person) -> Run:
        """As `answer`."""
        del person
        raise _dead(f"run {run_id} can not be started")

    def propose(self, playbook: str, target: Entity) -> Proposal:
        """As `answer`: nothing is measured, so nothing can be planned."""
        del target
        raise _dead(f"{playbook} can not be planned")

    async def would(self, plan: Plan) -> Sequence[Would]:
        """As `answer`."""
        raise _dead(f"{plan.playbook} can not be asked what it would do")

    async def begin(self, playbook: str, target: Entity, person: Person, plan_hash: str) -> Run:
        """As `answer`."""
        del target, person, plan_hash
        raise _dead(f"{playbook} can not be started")

    async def undo(self, run_id: str, person: Person, reason: str) -> Run:
        """As `answer`."""
        del person, reason
        raise _dead(f"run {run_id} can not be put back")

    async def reload(self) -> None:
        """There is nobody to read it."""
        raise _dead("nothing is to be reloaded")


def _dead(what: str) -> NotRunning:
    return NotRunning(f"{what}, the daemon is not running; start it with: homeostat run")


def write(state: Path, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
    """Append one entry to the journal of a dead daemon; raises Refused when a living one holds it."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    journal = Journal(state / "journal.sqlite")
    try:
        journal.append(kind, subject, body, ts)
    finally:
        journal.close()
