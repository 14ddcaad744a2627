"""What the desk needs of the daemon: memory, world and history for asking, journal and runner for doing.

`agent.web.living.Living` answers while the daemon lives, `agent.asleep.Asleep` from the journal when it is dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import TypedDict

from agent.authority import Person
from agent.away import Away
from agent.budget import Ledger
from agent.filling import Forecast
from agent.life import Event
from agent.model import Change, Entity, FloatArray, Incident, Mode, Run, Series
from agent.models import ModelFacts
from agent.models.asked import Asked
from agent.models.cause import Blame
from agent.plans import Plan, Would

if TYPE_CHECKING:
    from agent.by_hand import Proposal
    from agent.config import Config
    from agent.journal import JournalReader
    from agent.memory import Memory
    from agent.monitor import Watch
    from agent.playbook import Playbook
    from agent.world import World


class LearningView(TypedDict):
    """How far the detector of a source has come."""

    ready: bool
    since: float | None
    rows: int
    ready_in_s: float


class SourceView(TypedDict):
    """One of our eyes. state: fresh | blind | waiting (has not answered yet, and need not have).

    impossible   values that it gave and that can not be (a share of 140 %), taken as unknown
    """

    name: str
    state: str
    age_s: float | None
    interval_s: float
    stretched: bool
    error: str
    series: int
    poll_s: float
    cpu_ratio: float
    impossible: int
    trust: str
    learning: LearningView | None


class LimitView(TypedDict):
    """How far something lets a playbook go. by: playbook, agent.yaml, abilities, record, person, pause, not loaded."""

    by: str
    mode: Mode
    reason: str


class LoadedView(TypedDict):
    """A playbook that is loaded, and how far text, config and abilities let it go."""

    id: str
    title: str
    owner: str
    target: str
    causes: list[str]
    limits: list[LimitView]


class Hooks(Protocol):
    """What the desk needs of the daemon."""

    @property
    def config(self) -> Config:
        """The config that holds now."""
        ...

    @property
    def config_path(self) -> Path | None:
        """Where it came from."""
        ...

    @property
    def state(self) -> Path:
        """The state folder."""
        ...

    @property
    def memory(self) -> Memory:
        """Incidents, runs, pauses, silences."""
        ...

    @property
    def journal(self) -> JournalReader:
        """The record, for reading."""
        ...

    @property
    def world(self) -> World:
        """What is known now."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The alarm budget: what is promised, and what was counted."""
        ...

    @property
    def started(self) -> float:
        """When the daemon started."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the first frame has been seen."""
        ...

    @property
    def pending(self) -> int:
        """Entries that the journal could not write yet."""
        ...

    def now(self) -> float:
        """The time of the walk."""
        ...

    def read(
        self, series: Sequence[Series], start: float, end: float, step: float | None
    ) -> tuple[FloatArray, FloatArray]:
        """Read history, as `History.read`."""
        ...

    def series(self) -> Iterable[Series]:
        """Everything that has a history."""
        ...

    def scores(self, series: Series, start: float, end: float) -> tuple[FloatArray, FloatArray]:
        """Return what detectors said of a series, as `Scores.read`."""
        ...

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Write to the journal and fold into memory; raises Unavailable when it can not be kept."""
        ...

    def push(self, change: Change) -> None:
        """Hand a change to the next tick, which records it and lets it join incidents."""
        ...

    def dismiss(self, sender: str) -> None:
        """Expect nothing more of a sender whose token was taken away."""
        ...

    def sources(self) -> list[SourceView]:
        """How our eyes are."""
        ...

    def forecasts(self) -> list[tuple[Forecast, str]]:
        """What is foretold, and what stands open because of it: "", "warning" or "page"."""
        ...

    def models(self) -> list[tuple[ModelFacts, tuple[Blame, ...]]]:
        """What is known of each model, and what may be to blame."""
        ...

    def asked(self) -> Asked:
        """What can be asked of one model: a comparison, edges, what drove an answer."""
        ...

    def watches(self) -> Mapping[str, Watch]:
        """Sources under watch: how rare each of their series is now."""
        ...

    def faults(self) -> list[str]:
        """What a person must mend: history on a full disk, connectors that could not be made."""
        ...

    def away(self) -> list[Away]:
        """Who outside does not do what it is asked for."""
        ...

    def hints(self) -> list[str]:
        """What may be meant otherwise: objectives that hold for nothing."""
        ...

    def playbooks(self) -> list[LoadedView]:
        """What is loaded."""
        ...

    def playbook(self, id_: str) -> Playbook | None:
        """Return a playbook that is loaded."""
        ...

    def usage(self) -> dict[str, Any]:
        """What the daemon costs."""
        ...

    def turn(self, incident_id: str, event: Event, person: Person, why: str) -> Incident:
        """Turn the life of an incident, in the journal and for the walk; raises Refused, Unavailable."""
        ...

    async def answer(
        self, run_id: str, person: Person, yes: bool, plan_hash: str, reason: str = ""
    ) -> None:
        """Hand a person's answer to a run that waits for it; raises Refused."""
        ...

    async def cancel(self, run_id: str, person: Person, reason: str = "") -> None:
        """Stop a run at its next boundary and put back what it did; raises Refused."""
        ...

    async def start(self, run_id: str, person: Person) -> Run:
        """Turn a suggestion into a run after asking the guard again; raises Refused."""
        ...

    def propose(self, playbook: str, target: Entity) -> Proposal:
        """Plan a playbook on a target as it would be done now; raises Refused."""
        ...

    async def would(self, plan: Plan) -> Sequence[Would]:
        """Ask each step of a plan what it would do now; changes nothing."""
        ...

    async def begin(self, playbook: str, target: Entity, person: Person, plan_hash: str) -> Run:
        """Start exactly that plan, after asking the guard again; raises Refused."""
        ...

    async def undo(self, run_id: str, person: Person, reason: str) -> Run:
        """Have a run that is over put back, in a run of its own; raises Refused, Unavailable."""
        ...

    async def reload(self) -> None:
        """Read the config again; raises ConfigError, and the old one stays."""
        ...
