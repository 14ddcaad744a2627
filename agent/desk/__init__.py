"""The desk: what people can ask and do, the same for command line, console, chat and API.

    person + verb -> authority -> memory, world, history (asking) | journal and runner (doing) -> views

Whatever changes something checks the role and writes who did it into the journal before it holds. Ids may be shortened
as far as they stay unique, names of entities may be given in part; when more than one fits, the error names them.

Each part is a class with its verbs, and the desk is all of them:

hooks      what the desk needs of the daemon, alive or dead
finding    what was meant, among all that there is; every part stands on it
incidents  what is open and why, its report; acknowledge, snooze, page
labels     noise or real, what it was instead, and the alarm budget that comes of it
charts     any series, and the evidence of an incident
runs       how they stand; approve, deny, start, undo
questions  what runs ask people, and the answers
playbooks  how far each may go, how it turned out, why it did not act; lower it, reinstate it
stops      silences and pauses
watching   sources, topology, changes, forecasts
models     what is known of models, one version against another
tokens     who may come in over HTTP
"""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from agent import __version__
from agent.authority import Person, Tokens
from agent.desk.hooks import Hooks, SourceView
from agent.desk.incidents import Incidents
from agent.desk.labels import BudgetView
from agent.desk.models import Models
from agent.desk.playbooks import Playbooks
from agent.desk.tokens import TokenBook
from agent.desk.watching import Watching
from agent.views import PauseView


class CountsView(TypedDict):
    """How much is going on."""

    open: int
    page: int
    warning: int
    note: int
    runs_live: int
    runs_asking: int


class StatusView(TypedDict):
    """The whole in one look."""

    version: str
    host: str
    now: float
    started: float
    mode: str
    manages: int
    ready: bool
    paused: list[PauseView]
    counts: CountsView
    budget: BudgetView
    sources: list[SourceView]
    silences: int
    journal_pending: int
    journal_entries: int
    faults: list[str]
    hints: list[str]
    usage: dict[str, Any]
    config: str
    state: str


class Desk(Incidents, Playbooks, Watching, Models, TokenBook):
    """What people can ask and do."""

    def __init__(self, hooks: Hooks, tokens: Tokens) -> None:
        super().__init__(hooks)
        self.tokens = tokens

    def status(self) -> StatusView:
        """Return the whole in one look."""
        h = self.hooks
        open_ = h.memory.open_incidents()
        live = h.memory.live_runs()
        now = h.now()
        severities = [i.severity for i in open_]
        entries, _ = h.journal.head
        return {
            "version": __version__,
            "host": next((e.key for e in h.world.entities("host")), ""),
            "now": now,
            "started": h.started,
            "mode": h.config.mode,
            "manages": len(h.config.manages),
            "ready": h.ready,
            "paused": self.pauses(),
            "counts": {
                "open": len(open_),
                "page": severities.count("page"),
                "warning": severities.count("warning"),
                "note": severities.count("note"),
                "runs_live": len(live),
                "runs_asking": sum(1 for r in h.memory.runs.values() if self._asks(r)),
            },
            "budget": self.budget(),
            "sources": h.sources(),
            "silences": sum(1 for s in h.memory.silences.values() if now < s.until),
            "journal_pending": h.pending,
            "journal_entries": entries,
            "faults": h.faults(),
            "hints": h.hints(),
            "usage": h.usage(),
            "config": str(h.config_path or ""),
            "state": str(h.state),
        }

    async def reload(self, person: Person) -> StatusView:
        """Read the config again; raises Forbidden, ConfigError (the old one stays)."""
        person.must("reload")
        await self.hooks.reload()
        return self.status()
