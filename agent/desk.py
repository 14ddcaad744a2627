"""The desk: what people can ask and do, the same for command line, console and API.

    person + verb -> authority -> memory, world, history (asking) | journal and runner (doing) -> views

Whatever changes something checks the role and writes who did it into the journal before it holds. Ids may be shortened
as far as they stay unique, names of entities may be given in part; when more than one fits, the error names them.
"""

from __future__ import annotations

import difflib
import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from typing_extensions import TypedDict

from agent import __version__, graph, views
from agent.authority import ROLES, Forbidden, Person, Token, Tokens
from agent.away import Away
from agent.budget import (
    DAY_S,
    LOOK_BACK_DAYS,
    WEEK_S,
    Ledger,
    Word,
    factor_of,
    signal_of,
    steps_of,
)
from agent.catalogue import SIGNALS
from agent.causes import CAUSES, known
from agent.codec import pack
from agent.control import ALL, paused_file
from agent.digest import DigestView
from agent.digest import digest as digest_of
from agent.doubts import Doubt, doubts_of
from agent.errors import Refused
from agent.filling import Forecast
from agent.handoff import NOBODY, Need
from agent.life import Event, acknowledged_by
from agent.meant import NotThere, duration, few, meant, moment, named, pick
from agent.memory import EVERYTHING, Ceiling, Correction, Label, Pause, Silence, Snooze
from agent.model import (
    ENDED,
    MODES,
    Anomaly,
    Change,
    Decision,
    Entity,
    FloatArray,
    Incident,
    Mode,
    Run,
    Series,
    entity,
)
from agent.model_views import (
    CompareView,
    EdgesView,
    ExplainedView,
    ModelView,
    compare_view,
    explained_view,
    model_view,
)
from agent.models import ModelFacts
from agent.models.asked import Asked
from agent.models.cause import Blame
from agent.plans import Plan, PlannedApproval, Would, asked_for
from agent.ports import Note
from agent.questions import Question, Reply
from agent.record import Harm, Tally
from agent.report import ReportView, post_mortem
from agent.said import said_of
from agent.units import say_duration
from agent.views import (
    ChangeView,
    ChartView,
    DoubtView,
    ForecastView,
    IncidentDetail,
    IncidentView,
    LabelView,
    MarkView,
    PauseView,
    PlanView,
    PointsView,
    QuestionView,
    RateView,
    RunView,
    SignalView,
    SilenceView,
    WhyNotView,
    WhyView,
    WouldView,
)
from agent.why import spark, why_view
from agent.why_not import targets_of, why_not

if TYPE_CHECKING:
    from agent.by_hand import Proposal
    from agent.config import Config
    from agent.journal import JournalReader
    from agent.memory import Memory
    from agent.monitor import Watch
    from agent.playbook import Playbook
    from agent.world import World

_POINTS: Final = 400
"""Points of a chart: more than a screen has pixels for one line helps nobody."""
_CHARTS: Final = 8
_SPARKS: Final = 6
_SPARK_POINTS: Final = 24
_MOST_SIGNALS: Final = 20
"""Signals that one label speaks of, the most abnormal ones."""
_LONGEST_SILENCE_S: Final = 30 * 86_400.0
_LONGEST_SNOOZE_S: Final = 7 * 86_400.0
_OLDEST_CHANGE_S: Final = 7 * 86_400.0
_AHEAD_S: Final = 300.0
"""Clocks of those who tell of changes may be so far ahead of ours."""


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


class TallyView(TypedDict):
    """How runs turned out. success: lower 95 % bound of the share that helped, of those that could be told."""

    runs: int
    helped: int
    no_effect: int
    harmed: int
    cannot_tell: int
    success: float | None


class GroupView(TallyView):
    """How runs on one group of targets turned out. mode: how far it may go there now; harm: why not further."""

    mode: Mode
    harm: str


class PlaybookView(LoadedView):
    """A playbook and its record.

    mode     how far it may go now where it has no record: the lowest of `limits`; own_mode: what its text asks for
    why      what holds it there beside its own text, the strictest first, in words
    record   of all its runs; groups: by group of targets
    """

    mode: Mode
    own_mode: Mode
    why: list[str]
    record: TallyView
    groups: dict[str, GroupView]


class BudgetView(TypedDict):
    """The alarm budget: promised and measured.

    pages       false pages a week; notes: false console notes a day; anomalies: abnormal series a day, true ones too
    tightness   below 1 = series must be so much rarer, because more were abnormal than was promised
    signals     what labels have made rarer (factor below 1) or more common, the rarest first; it fades by itself
    causes      what people said about causes, and how much less or more they are believed for it; it fades, too
    """

    promised_per_week: float
    pages_last_week: int
    false_last_week: int
    within: bool
    pages: RateView
    notes: RateView
    anomalies: RateView
    anomalies_per_series_day: float
    tightness: float
    signals: list[SignalView]
    causes: list[DoubtView]


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


class ToldView(TypedDict):
    """A change that was told. new: False = it is known by its id already, and nothing was done."""

    id: str
    new: bool
    change: ChangeView


class TokenView(TypedDict):
    """A token, without itself."""

    name: str
    role: str
    created: float
    models: list[str]


class Hooks(Protocol):
    """What the desk needs of the daemon; with the daemon dead, `Asleep` stands for it."""

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

    async def cancel(self, run_id: str, person: Person) -> None:
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


class Desk:
    """What people can ask and do."""

    def __init__(self, hooks: Hooks, tokens: Tokens) -> None:
        self.hooks = hooks
        self.tokens = tokens

    # ---- asking

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
                "runs_asking": sum(1 for r in self._recent_runs() if self._asks(r)),
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

    def budget(self) -> BudgetView:
        """Return the alarm budget: what was promised, and what was counted and labelled since."""
        ledger, memory, now = self.hooks.ledger, self.hooks.memory, self.hooks.now()
        since = max(ledger.since, now - LOOK_BACK_DAYS * DAY_S)
        said = {id_: label.word for id_, label in memory.labels.items()}

        def how_many(word: Word, of: Iterable[str]) -> int:
            return sum(said.get(id_) == word for id_ in of)

        week, paged = memory.paged(now - WEEK_S), memory.paged(since)
        noted = [
            i.id for i in memory.incidents.values() if i.severity == "note" and i.opened >= since
        ]
        false = how_many("noise", week)
        pages = ledger.pages(how_many("noise", paged), how_many("real", paged), len(paged))
        notes = ledger.notes(how_many("noise", noted), how_many("real", noted))
        return {
            "promised_per_week": ledger.promise.pages_per_week, "pages_last_week": len(week),
            "false_last_week": false,
            "within": false <= ledger.promise.pages_per_week and pages.verdict != "above",
            "pages": views.rate_view(pages), "notes": views.rate_view(notes),
            "anomalies": views.rate_view(ledger.anomalies()),
            "anomalies_per_series_day": ledger.promise.anomalies_per_series_day,
            "tightness": ledger.tightness, "signals": self._signals(),
            "causes": [views.doubt_view(d) for d in self._doubts().values()],
        }  # fmt: skip

    def _signals(self, only: Iterable[str] | None = None) -> list[SignalView]:
        """Return what labels say now, of all signals or of some."""
        steps = steps_of(self.hooks.memory.labels.values(), self.hooks.now())
        wanted = steps if only is None else [s for s in only if s in steps]
        return [
            {"signal": s, "factor": round(factor_of(steps[s]), 3)}
            for s in sorted(wanted, key=lambda s: (-steps[s], s))
        ]

    def incidents(self, *, everything: bool = False, limit: int = 100) -> list[IncidentView]:
        """Return incidents: open ones first, harm first, then the newest."""
        order = {"page": 0, "warning": 1, "note": 2}
        found = sorted(
            (i for i in self.hooks.memory.incidents.values() if everything or i.state != "resolved"),
            key=lambda i: (i.state == "resolved", 0 if i.state == "resolved" else order[i.severity], -i.opened),
        )  # fmt: skip
        said, called = self.hooks.memory.labels, self.hooks.memory.all_climbed()
        return [
            views.incident_view(
                i,
                self.name,
                said[i.id].word if i.id in said else "",
                snooze=self.hooks.memory.snoozed(i, self.hooks.now()),
                need=self._need(i),
                called=called.get(i.id, ()),
            )
            for i in found[:limit]
        ]

    def incident(self, id_: str) -> IncidentDetail:
        """Return one incident with all its evidence; raises NotThere."""
        return self._detail(self._incident(id_))

    def _detail(self, i: Incident) -> IncidentDetail:
        runs = [r for r in self.hooks.memory.runs.values() if r.incident == i.id]
        runs.sort(key=lambda r: (r.started, r.id))
        return views.incident_detail(
            i, [self._run_view(r) for r in runs], self._decisions(i), self.name, self._label(i.id),
            correction=self._correction(i.id), snooze=self.hooks.memory.snoozed(i, self.hooks.now()),
            need=self._need(i), called=self.hooks.memory.climbed(i.id),
            questions=[q for q in self._open_questions() if self._asked_for(q) == i.id],
            now=self.hooks.now(),
        )  # fmt: skip

    def _asked_for(self, q: Question) -> str:
        """Return the incident that a question is asked for; "" = none, or not known any more."""
        run = self.hooks.memory.runs.get(q.run)
        return run.incident if run is not None else ""

    def _need(self, i: Incident) -> Need:
        return NOBODY if i.state == "resolved" else self.hooks.memory.handoffs.get(i.id, NOBODY)

    def _correction(self, id_: str) -> LabelView | None:
        said = self.hooks.memory.corrections.get(id_)
        if said is None:
            return None
        doubt = self._doubts().get((said.about, said.wrong))
        return views.correction_view(said, views.doubt_view(doubt)["text"] if doubt else "")

    def _doubts(self) -> dict[tuple[str, str], Doubt]:
        return doubts_of(self.hooks.memory.corrections.values(), self.hooks.now())

    def _label(self, id_: str) -> LabelView | None:
        label = self.hooks.memory.labels.get(id_)
        if label is None:
            return None
        return views.label_view(label, self._signals(label.signals))

    def why(self, id_: str) -> WhyView:
        """Return why: about ten lines for people, and what they were made of; raises NotThere."""
        i = self._incident(id_)
        return why_view(self._detail(i), self.pauses(), self.hooks.now(), self._points(i))

    def report(self, id_: str, picture: str = "") -> ReportView:
        """Return the post-mortem of an incident as Markdown, linked to a picture of its charts.

        Raises NotThere, Unavailable.
        """
        i, now = self._incident(id_), self.hooks.now()
        detail, charts = self._detail(i), self.evidence(id_)
        said = said_of(i, self.hooks.memory, self.hooks.journal, now, self.name)
        text = post_mortem(detail, charts, now, said, picture=picture)
        return {"id": detail["id"], "title": detail["title"], "markdown": text, "charts": charts}

    def digest(self, since: str = "7d") -> DigestView:
        """Return how a stretch of time went: `since` as `7d` (ago), unix seconds or ISO; raises Refused."""
        now = self.hooks.now()
        return digest_of(
            self.hooks.memory, self.playbooks(), self.hooks.ledger.promise.pages_per_week,
            moment(since, now, now - WEEK_S), now,
        )  # fmt: skip

    def why_not(self, playbook: str, target: str, when: str = "") -> WhyNotView:
        """Return why a playbook did not act on a target, now or at a time; raises NotThere, Refused."""
        known = {p["id"]: p["title"] or p["id"] for p in self.hooks.playbooks()}
        decided = self.hooks.memory.decisions()
        known |= {
            i: i
            for i in (*self.hooks.memory.records.tallies, *(d.playbook for d in decided))
            if i not in known
        }
        id_ = named(playbook, known)
        gone = {e.id: self.name(e) for e in targets_of(self.hooks, id_)}
        kind = next((p["target"] for p in self.hooks.playbooks() if p["id"] == id_), "")
        whom = entity(self._meant_for(kind, target, {**gone, **self._entities()}))
        now = self.hooks.now()
        ts = moment(when, now, now)
        if ts > now:
            raise Refused(f"{when} has not come yet: nothing is decided ahead")
        return why_not(self.hooks, id_, whom, ts, self.name)

    def _points(self, i: Incident) -> list[PointsView]:
        """Return small charts of what the cause rests on, or of what is abnormal: one read of history for all."""
        top = i.diagnosis.top if i.diagnosis else None
        said = top.evidence if top else ()
        speak = sorted((e for e in said if e.weight > 0), key=lambda e: -e.weight)
        abnormal = sorted(
            i.anomalies, key=lambda a: (not a.harm, a.road != "objective", -a.deviations)
        )
        wanted = dict.fromkeys([e.series for e in speak if e.series] + [a.series for a in abnormal])
        drawn = [s for s in wanted if s.metric in SIGNALS and SIGNALS[s.metric].unit != "bool"]
        drawn = drawn[:_SPARKS]
        if not drawn:
            return []
        until = min(self.hooks.now(), (i.resolved or math.inf) + 60.0)
        began = min([i.opened, *(a.onset for a in i.anomalies)])
        since = began - max(60.0, 0.5 * (until - began))
        step = max(1.0, (until - since) / _SPARK_POINTS)
        ts, values = self.hooks.read(drawn, since, until, step)
        out: list[PointsView] = []
        for j, series in enumerate(drawn):
            column = [_six(v) for v in values[:, j]] if len(values) else []
            out.append({
                "series": str(series), "title": views.title_of(series), "unit": SIGNALS[series.metric].unit,
                "data": [[float(t) for t in ts], column],
                "spark": spark(column, SIGNALS[series.metric].floor),
            })  # fmt: skip
        return out

    def runs(self, *, everything: bool = True, limit: int = 100) -> list[RunView]:
        """Return runs: those that ask or live first, then the newest."""
        found = sorted(
            (r for r in self.hooks.memory.runs.values() if everything or self._alive(r)),
            key=lambda r: (not self._alive(r), -r.updated, r.id),
        )
        return [self._run_view(r) for r in found[:limit]]

    def run(self, id_: str) -> RunView:
        """Return one run, step by step; raises NotThere."""
        return self._run_view(self._run(id_))

    def changes(self, target: str = "", since: str = "", *, limit: int = 100) -> list[ChangeView]:
        """Return what was changed, by others and by us, the newest first; raises NotThere, Refused.

        target: only of this entity, and of what it depends on; since: `2h` (ago), unix seconds or ISO
        """
        now = self.hooks.now()
        of = None
        if target:
            of = {e for e, _ in self.hooks.world.topology.upstream(self._entity(target))}
        start = moment(since, now, 0.0)
        found = [
            c
            for c in self.hooks.memory.changes.values()
            if c.ts >= start and (of is None or c.entity in of)
        ]
        found.sort(key=lambda c: -c.ts)
        return [views.change_view(c, self.name) for c in found[:limit]]

    def topology(self, target: str = "", *, everything: bool = False) -> graph.TopologyView:
        """Return who is there and who depends on whom, or the part around one of them; raises NotThere, Refused."""
        h = self.hooks
        about = self._entity(target) if target else None
        return graph.view(
            h.world, h.memory.open_incidents(), self.name, about=about, everything=everything
        )

    def silences(self) -> list[SilenceView]:
        """Return the silences that hold now, the one that ends first on top."""
        now = self.hooks.now()
        held = [s for s in self.hooks.memory.silences.values() if now < s.until]
        return [views.silence_view(s) for s in sorted(held, key=lambda s: s.until)]

    def pauses(self) -> list[PauseView]:
        """Return what stands still, the file PAUSED included."""
        found = [views.pause_view(p) for p in self.hooks.memory.pauses.values()]
        path = paused_file(self.hooks.config_path, self.hooks.state)
        filed = _read_paused(path)
        if filed is not None:
            found.insert(0, views.pause_view(filed, file=True))
        return sorted(found, key=lambda p: (p["key"] != EVERYTHING, p["since"]))

    def sources(self) -> list[SourceView]:
        """Return how our eyes are."""
        return self.hooks.sources()

    def blind(self) -> list[SourceView]:
        """Return the sources that do not answer."""
        return [s for s in self.hooks.sources() if s["state"] == "blind"]

    def learning(self) -> list[SourceView]:
        """Return the sources whose history is still too short to judge by."""
        return [s for s in self.hooks.sources() if s["learning"] and not s["learning"]["ready"]]

    def playbooks(self) -> list[PlaybookView]:
        """Return the playbooks that are loaded or have a record: how far they may go, why, how they turned out."""
        loaded = {p["id"]: p for p in self.hooks.playbooks()}
        known = dict.fromkeys([*loaded, *sorted(self.hooks.memory.records.tallies)])
        return [self._playbook(loaded.get(id_) or _not_loaded(id_)) for id_ in known]

    def _playbook(self, p: LoadedView) -> PlaybookView:
        memory = self.hooks.memory
        records = memory.records
        limits = list(p["limits"])
        harm = records.demoted(p["id"], "")
        if harm is not None:
            limits.append({"by": "record", "mode": "suggest", "reason": _of_harm(harm)})
        said = memory.ceilings.get(p["id"])
        if said is not None:
            why = said.by + (f": {said.reason}" if said.reason else "")
            limits.append({"by": "person", "mode": said.mode, "reason": why})
        limits += [
            {"by": "pause", "mode": "observe", "reason": f"by {pause['by'] or 'the file PAUSED'}"}
            for pause in self.pauses()
            if pause["key"] == EVERYTHING
        ]

        def rank(limit: LimitView) -> int:
            return MODES.index(limit["mode"])

        mode, own = min(limits, key=rank)["mode"], limits[0]["mode"]
        tight = sorted(
            (x for x in limits if x["by"] != "playbook" and (x["mode"] == mode or rank(x) < MODES.index(own))),
            key=rank,
        )  # fmt: skip
        groups = records.of(p["id"])
        return {
            **p, "limits": limits, "mode": mode, "own_mode": own,
            "why": [
                f"{x['by']}: {x['mode']}" + (f", {x['reason']}" if x["reason"] else "")
                for x in tight if x["mode"] != "auto"
            ],
            "record": _tally(sum(groups.values(), Tally())),
            "groups": {name: self._group(p["id"], name, t, limits) for name, t in groups.items()},
        }  # fmt: skip

    def _group(self, id_: str, name: str, tally: Tally, limits: Sequence[LimitView]) -> GroupView:
        harm = self.hooks.memory.records.demoted(id_, name)
        modes: list[Mode] = [limit["mode"] for limit in limits if limit["by"] != "record"]
        mode = min([*modes, *(["suggest"] if harm else [])], key=MODES.index)
        return {**_tally(tally), "mode": mode, "harm": _of_harm(harm) if harm else ""}  # type: ignore[typeddict-item]  # a mode

    def models(self, model: str = "") -> list[ModelView]:
        """Return what is known of the models (of one). Raises NotThere."""
        found = [
            model_view(facts, suspects)
            for facts, suspects in self.hooks.models()
            if not model or facts.model == model
        ]
        if model and not found:
            known = ", ".join(f.model for f, _ in self.hooks.models()) or "none yet"
            raise NotThere(f"no rows of a model {model} were seen; known: {known}")
        return found

    def compare(self, model: str, a: str, b: str) -> CompareView:
        """Return what is known of version b against version a of a model. Raises Refused."""
        return compare_view(self.hooks.asked().compare(model, a, b))

    def edges(self, model: str, version: str = "") -> EdgesView:
        """Return what sketches of a version must be counted over. Raises Refused."""
        name, features = self.hooks.asked().edges(model, version)
        return {"model": model, "version": name, "features": features}

    def explain(self, model: str, version: str, record: Mapping[str, Any]) -> ExplainedView:
        """Return what drove the answer to one record; it is not kept. Raises Refused."""
        return explained_view(self.hooks.asked().explain(model, version, record))

    def forecasts(self, entity_: str = "") -> list[ForecastView]:
        """Return what fills, leaks or ages (of one entity): what is full soonest first. Raises NotThere, Refused."""
        only = self._entity(entity_) if entity_ else None
        now, outlook = self.hooks.now(), self.hooks.config.forecasts
        found = [
            views.forecast_view(f, told, max(outlook.lead(f.target.kind)), self.name, now)
            for f, told in self.hooks.forecasts()
            if only is None or f.target.series.entity == only
        ]

        def rank(v: ForecastView) -> tuple[bool, float, str]:
            return (
                v["state"] == "unknown",
                math.inf if v["median_s"] is None else v["median_s"],
                v["series"],
            )

        return sorted(found, key=rank)

    # ---- charts

    def chart(self, text: str, start: str = "15m", end: str = "") -> ChartView:
        """Return one series over a time: `start` and `end` as `15m` (ago), unix seconds or ISO; raises NotThere."""
        series = self._series(text)
        now = self.hooks.now()
        since, until = moment(start, now, now - 900.0), moment(end, now, now)
        if since >= until:
            raise Refused(
                f"the chart would end before it starts ({start} to {end or 'now'}); swap them"
            )
        low, high, marks = math.nan, math.nan, []
        for i in self.hooks.memory.incidents.values():
            for a in i.anomalies:
                if a.series == series and a.onset < until and (a.end or now) > since:
                    low, high = a.low, a.high
                    marks += _edges(a)
        return self._chart(series, (since, until), (low, high), marks)

    def evidence(self, id_: str) -> list[ChartView]:
        """Return the evidence of an incident as charts: harm, what stands out, what the cause rests on."""
        i = self._incident(id_)
        now = self.hooks.now()
        chosen: dict[Series, tuple[float, float]] = {}
        detail = sorted(i.anomalies, key=lambda a: (not a.harm, a.road != "objective", a.p, -a.deviations))  # fmt: skip
        top = i.diagnosis.top if i.diagnosis else None
        for a in detail[:3]:
            chosen.setdefault(a.series, (a.low, a.high))
        for e in sorted(top.evidence if top else (), key=lambda e: -abs(e.weight)):
            if e.series is not None:
                chosen.setdefault(e.series, (math.nan, math.nan))
        for a in detail[3:]:
            chosen.setdefault(a.series, (a.low, a.high))
        onset = min([i.opened, *(a.onset for a in i.anomalies)])
        until = min(now, (i.resolved or now) + 60.0)
        since = onset - max(60.0, min(900.0, 0.5 * (until - onset)))
        marks = self._happened(i, onset)
        return [
            self._chart(series, (since, until), band, marks)
            for series, band in list(chosen.items())[:_CHARTS]
            if series.metric in SIGNALS and SIGNALS[series.metric].unit != "bool"
        ]

    def _happened(self, i: Incident, onset: float) -> list[MarkView]:
        """List what is drawn as lines over the charts of an incident."""
        marks: list[MarkView] = [{"ts": onset, "kind": "onset", "text": "it began"}]
        if i.resolved is not None:
            marks.append({"ts": i.resolved, "kind": "end", "text": "resolved"})
        for c in i.changes:
            shown = views.change_view(c, self.name)
            marks.append({"ts": c.ts, "kind": "change", "text": views.change_words(shown)})
        for run in self.hooks.memory.runs.values():
            if run.incident == i.id:
                marks += [
                    {"ts": s.ended, "kind": "act", "text": s.summary or s.use}
                    for s in run.steps
                    if s.status in {"done", "adopted", "undone"}
                ]
        return sorted(marks, key=lambda m: m["ts"])

    def _chart(
        self,
        series: Series,
        span: tuple[float, float],
        band: tuple[float, float],
        marks: Sequence[MarkView],
    ) -> ChartView:
        (since, until), (low, high) = span, band
        step = max(1.0, math.ceil((until - since) / _POINTS))
        ts, values = self.hooks.read([series], since, until, step)
        column = values[:, 0] if values.size else np.empty(0)
        data: list[list[float | None]] = [
            [float(t) for t in ts],
            [_six(v) for v in column],
        ]
        return {
            "series": str(series), "title": views.title_of(series), "subject": self.name(series.entity),
            "unit": SIGNALS[series.metric].unit, "data": data,
            "low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high,
            "marks": [m for m in marks if since <= m["ts"] <= until],
        }  # fmt: skip

    # ---- doing

    async def approve(self, id_: str, person: Person, plan_hash: str = "") -> RunView:
        """Say yes to a run that asks, or let a suggestion act. Raises NotThere, Forbidden, Refused.

        plan_hash   of the plan that the person saw: when it is another one by now, nothing happens
        """
        run, asked = self._asking(id_, person, "approve", plan_hash)
        if run.state == "suggested":
            started = await self.hooks.start(run.id, person)
            return self._run_view(started)
        await self.hooks.answer(run.id, person, yes=True, plan_hash=asked)
        return self._run_view(self.hooks.memory.runs.get(run.id, run))

    def asking(self, id_: str, person: Person, plan_hash: str = "") -> RunView:
        """Return a run that asks, for somebody who may answer it. Raises NotThere, Forbidden, Refused.

        plan_hash   as in `approve`
        """
        return self._run_view(self._asking(id_, person, "deny", plan_hash)[0])

    async def deny(
        self, id_: str, person: Person, reason: str = "", plan_hash: str = ""
    ) -> RunView:
        """Say no to a run that asks; stop one that acts, and put back what it did.

        plan_hash   of the plan that the person saw as it asked: when it asks no more, or for another one, nothing
                    happens
        Raises NotThere, Forbidden, Refused.
        """
        run = self._run(id_)
        if not plan_hash and run.state not in ENDED and run.state != "waiting_approval":
            person.must("deny")
            await self.hooks.cancel(run.id, person)
            return self._run_view(self.hooks.memory.runs.get(run.id, run))
        run, asked = self._asking(id_, person, "deny", plan_hash)
        if run.state == "suggested":
            text = f"denied by {person.signed}" + (f": {reason}" if reason else "")
            denied = replace(run, state="denied", updated=self.hooks.now(), text=text)
            self._record("run", run.id, pack(denied))
        else:
            await self.hooks.answer(run.id, person, yes=False, plan_hash=asked, reason=reason)
        return self._run_view(self.hooks.memory.runs.get(run.id, run))

    async def undo(self, person: Person, id_: str, reason: str = "") -> RunView:
        """Put back what a run did: one that is over by a run of its own, one that acts as a no does.

        By compare-and-set: what others have changed since is left alone and told. Raises NotThere, Forbidden, Refused.
        """
        person.must("undo")
        run = self._run(id_)
        if run.state not in ENDED and run.state != "waiting_approval":
            await self.hooks.cancel(run.id, person)
            return self._run_view(self.hooks.memory.runs.get(run.id, run))
        return self._run_view(await self.hooks.undo(run.id, person, reason))

    def plan(self, playbook: str, target: str) -> PlanView:
        """Return what a playbook would do on a target now, with every gate. Raises NotThere, Refused."""
        found = self._proposed(playbook, target)
        return views.plan_view(found.plan, found.decision, self.name)

    async def dry_run(self, person: Person, playbook: str, target: str) -> list[WouldView]:
        """Ask each step of a playbook what it would do on a target now; nothing is done.

        The systems outside are asked, so it takes the role that may start it. Raises NotThere, Forbidden, Refused.
        """
        person.must("run")
        return await self._would(self._proposed(playbook, target).plan)

    async def dry_run_of(self, person: Person, id_: str, plan_hash: str = "") -> list[WouldView]:
        """Ask each step of the plan that a run waits with what it would do now; nothing is done.

        plan_hash   of the plan that the person saw, if any: another one by now is refused
        Raises NotThere, Forbidden, Refused.
        """
        person.must("run")
        run = self._run(id_)
        if not self._asks(run):
            raise Refused(
                f"run {run.id} is {run.state}: it asks nobody, so there is no plan to try"
            )
        plan = self.hooks.memory.plans.get(run.id)
        if plan is None:
            raise Refused(f"what run {run.id} planned is not known any more")
        if plan_hash and plan_hash != run.plan_hash:
            raise Refused(f"the plan of run {run.id} has changed since you saw it; look again")
        return await self._would(plan)

    async def _would(self, plan: Plan) -> list[WouldView]:
        found = await self.hooks.would(plan)
        return [{"id": w.id, "use": w.use, "status": w.status, "text": w.text} for w in found]

    def _proposed(self, playbook: str, target: str) -> Proposal:
        loaded = {p["id"]: p for p in self.hooks.playbooks()}
        id_ = named(playbook, {p["id"]: p["title"] or p["id"] for p in loaded.values()})
        return self.hooks.propose(id_, entity(self._meant_for(loaded[id_]["target"], target)))

    def _meant_for(self, kind: str, text: str, names: Mapping[str, str] | None = None) -> str:
        """Return the entity that was meant as target of a playbook: one of its kind before any other."""
        known = self._entities() if names is None else names
        some = {id_: name for id_, name in known.items() if id_.startswith(f"{kind}:")}
        try:
            return meant(text, some)
        except NotThere:
            return meant(text, known)

    async def start(
        self, person: Person, playbook: str, target: str, plan_hash: str, reason: str = ""
    ) -> RunView:
        """Start a playbook on a target: exactly the plan that the person saw. Raises NotThere, Forbidden, Refused.

        plan_hash   as `plan` told it; another plan by now is refused. All gates hold but the ceilings
        """
        person.must("run")
        plan = self._proposed(playbook, target).plan
        wanted = (plan.approve or PlannedApproval()).by
        person.must("run", ROLES[ROLES.index(wanted)] if wanted in ROLES else "admin")
        if plan_hash != plan.hash:
            raise Refused(
                "this is not the plan that you saw, or you saw none; look again: "
                f"homeostat playbook run {plan.playbook} {plan.target}"
            )
        run = await self.hooks.begin(plan.playbook, plan.entity, person, plan_hash)
        if reason:
            self._record("reason", run.id, {"by": person.signed, "reason": reason})
        return self._run_view(run)

    def snooze(self, person: Person, id_: str, seconds: float, reason: str = "") -> IncidentDetail:
        """Put an incident off: nobody is told of it for a while, unless it gets worse. 0 = tell again from now on.

        Raises NotThere, Forbidden, Refused.
        """
        person.must("ack")
        i = self._incident(id_)
        if i.state == "resolved":
            raise Refused(f"incident {i.id} is over: nobody will be told of it")
        if not 0 <= seconds <= _LONGEST_SNOOZE_S:
            raise Refused(f"it can be put off for a week at most, not for {say_duration(seconds)}")
        now = self.hooks.now()
        made = Snooze(i.id, now + seconds, person.signed, reason, i.severity, i.reopened, now)
        self._record("snooze", i.id, pack(made))
        return self.incident(i.id)

    def page(self, person: Person, id_: str, reason: str = "") -> IncidentDetail:
        """Call a person now, whatever the severity. Raises NotThere, Forbidden, Refused."""
        person.must("page")
        i = self._incident(id_)
        if i.state == "resolved":
            raise Refused(f"incident {i.id} is over: nobody is called for it")
        now = self.hooks.now()
        if (taken := acknowledged_by(i)) is not None:
            now = max(now, taken.ts + 0.001)  # both may have come within one tick
        said = f"{person.name} calls for help" + (f": {reason}" if reason else "")
        note = Note(f"call:{i.id}:{now:.3f}", now, "page", i.title, said, i.id)
        if note.key not in self.hooks.memory.notes:  # pressed twice
            self.hooks.record("note", note.key, pack(note), now)
        return self.incident(i.id)

    def blame(
        self, person: Person, id_: str, right: str | None = None, note: str = ""
    ) -> LabelView:
        """Say that what an incident blames is not its cause, and what is. Raises NotThere, Forbidden, Refused."""
        person.must("label")
        i = self._incident(id_)
        top = i.diagnosis.top if i.diagnosis else None
        if top is None or top.kind == "unknown":
            raise Refused(f"incident {i.id} blames nothing that could be wrong")
        if right:
            _cause_known(right)
        if right == top.kind:
            raise Refused(f"{right} is what it blames already; say what it was instead")
        about = i.about.kind if i.about is not None else top.entity.kind
        made = Correction(
            i.id, about, top.kind, top.entity.id, right or "", person.signed, note, self.hooks.now()
        )
        self._record("correction", i.id, pack(made))
        return self._correction(i.id) or views.correction_view(made, "")

    def set_mode(self, person: Person, playbook: str, mode: str, reason: str = "") -> PlaybookView:
        """Let a playbook go no further than `mode`, until somebody says otherwise. Raises NotThere, Forbidden, Refused.

        It only lowers: what its text and agent.yaml say is the most.
        """
        person.must("mode")
        known_ = {p["id"]: p for p in self.playbooks()}
        id_ = pick(playbook, known_, "playbook")
        wanted = next((m for m in MODES if m == mode), None)
        if wanted is None:
            raise Refused(f"there is no mode {mode!r}; write one of {', '.join(MODES)}")
        most = self.hooks.config.mode
        if MODES.index(wanted) > MODES.index(most):
            raise Refused(f"agent.yaml says mode {most}: nothing goes further; change it there")
        made = Ceiling(id_, wanted, person.signed, reason, self.hooks.now())
        self._record("mode", id_, pack(made))
        return next(p for p in self.playbooks() if p["id"] == id_)

    def acknowledge(self, person: Person, id_: str, reason: str = "") -> IncidentDetail:
        """Say that a person has taken an incident. Raises NotThere, Forbidden, Refused."""
        person.must("ack")
        i = self._incident(id_)
        if i.merged_into:
            raise Refused(
                f"incident {i.id} is part of {i.merged_into}; run: homeostat ack {i.merged_into}"
            )
        taken = acknowledged_by(i)
        if taken is not None and i.state != "resolved":
            raise Refused(f"incident {i.id} is acknowledged already, by {taken.by}; nothing to do")
        self.hooks.turn(i.id, "acknowledged", person, reason)
        return self.incident(i.id)

    def silence(
        self, person: Person, target: str, lasts: str, *, cause: str = "", reason: str = ""
    ) -> SilenceView:
        """Keep quiet and hands off about a target for a while; raises Forbidden, Refused."""
        person.must("silence")
        seconds = duration(lasts)
        if not 0 < seconds <= _LONGEST_SILENCE_S:
            raise Refused(
                f"a silence of {lasts} is not possible; give it between 1s and 30d, it can be renewed"
            )
        if cause:
            _cause_known(cause)
        target = EVERYTHING if target.lower() in ALL - {""} else target
        over = target if any(c in target for c in "*?[") else self._entity(target).id
        now = self.hooks.now()
        made = Silence(
            f"sil-{secrets.token_hex(3)}", over, now + seconds, person.signed, reason, cause, now
        )
        self._record("silence", made.id, pack(made))
        return views.silence_view(made)

    def questions(self) -> list[QuestionView]:
        """Return the questions that wait for an answer, the most urgent on top."""
        return [views.question_view(q) for q in self._open_questions()]

    def _open_questions(self) -> list[Question]:
        now, memory = self.hooks.now(), self.hooks.memory
        open_ = [
            q
            for q in memory.questions.values()
            if q.id not in memory.replies and now < q.until and not self._over(q)
        ]
        return sorted(open_, key=lambda q: q.until)

    def _over(self, q: Question) -> bool:
        """Tell whether the run that asks has ended: nobody waits for the answer."""
        run = self.hooks.memory.runs.get(q.run)
        return run is not None and run.state in ENDED

    def question(self, person: Person, id_: str) -> QuestionView:
        """Return a question that waits, for somebody who may answer it. Raises NotThere, Forbidden, Refused."""
        return views.question_view(self._question(person, id_))

    def unfit(self, person: Person, id_: str, values: Mapping[str, Any]) -> dict[str, str]:
        """Say of each line of an answer what does not fit, without answering. Raises as `question`."""
        return self._question(person, id_).unfit(values)

    def answer(self, person: Person, id_: str, values: Mapping[str, Any]) -> QuestionView:
        """Answer a question of a run, once. Raises NotThere, Forbidden, Refused."""
        question = self._question(person, id_)
        reply = Reply(person.signed, question.read(values))
        self._record("reply", question.id, pack(reply))
        return views.question_view(question)

    def _question(self, person: Person, id_: str) -> Question:
        person.must("approve")
        memory = self.hooks.memory
        question = memory.questions[pick(id_, memory.questions, "question")]
        if not person.has(question.role):
            raise Forbidden(f"this asks for the role {question.role}; yours is {person.role}")
        if (before := memory.replies.get(question.id)) is not None:
            raise Refused(f"{before.person} has answered {question.id} already")
        if self.hooks.now() >= question.until:
            raise Refused(f"it is too late to answer {question.id}: the run has gone on without")
        if self._over(question):
            raise Refused(f"the run that asked {question.id} is over: nobody waits for an answer")
        return question

    def unsilence(self, person: Person, id_: str) -> SilenceView:
        """End a silence now; raises NotThere, Forbidden."""
        person.must("silence")
        now = self.hooks.now()
        held = {k: s for k, s in self.hooks.memory.silences.items() if now < s.until}
        ended = replace(held[pick(id_, held, "silence")], until=now)
        self._record("silence", ended.id, {**pack(ended), "ended_by": person.signed})
        return views.silence_view(ended)

    def pause(self, person: Person, target: str = "", reason: str = "") -> list[PauseView]:
        """Stop acting, everywhere or on one target; runs stop at their next step. Raises Forbidden, Refused."""
        person.must("pause")
        key = EVERYTHING if target.lower() in ALL else self._entity(target).id
        self._record("pause", key, {"by": person.signed, "reason": reason})
        return self.pauses()

    def resume(self, person: Person, target: str = "") -> list[PauseView]:
        """Let it act again; takes the file PAUSED away too. Raises Forbidden, Refused."""
        person.must("resume")
        key = EVERYTHING if target.lower() in ALL else self._paused_key(target)
        path = paused_file(self.hooks.config_path, self.hooks.state)
        filed = key == EVERYTHING and path.exists()
        if filed:
            try:
                path.unlink()
            except OSError as error:
                raise Refused(
                    f"the file {path} stops everything and can not be removed ({error.strerror}); "
                    f"run: rm {path}"
                ) from None
        if not filed and key not in self.hooks.memory.pauses:
            standing = ", ".join(p["key"] for p in self.pauses())
            raise Refused(
                f"{'everything' if key == EVERYTHING else key} is not paused; "
                + (f"paused are: {standing}" if standing else "nothing is")
            )
        self._record("resume", key, {"by": person.signed})
        return self.pauses()

    def reinstate(self, person: Person, playbook: str, reason: str = "") -> PlaybookView:
        """Let a playbook that harmed act again as far as its text and agent.yaml let it.

        Raises NotThere, Forbidden, Refused.
        """
        person.must("reinstate")
        known = {p["id"]: p for p in self.playbooks()}
        id_ = pick(playbook, known, "playbook")
        if not self.hooks.memory.records.harmed(id_):
            raise Refused(
                f"playbook {id_} has no harm on its record that nobody looked at; nothing to do"
            )
        self._record("reinstate", id_, {"by": person.signed, "reason": reason})
        return next(p for p in self.playbooks() if p["id"] == id_)

    def tell_change(self, person: Person, change: Change) -> ToldView:
        """Take a change that somebody tells: a release, a setting. Raises Forbidden, NotThere, Refused.

        entity of `change` may be a name in part, as key of kind `service`; no `ts` (0) = now; no `by` = the person.
        Sent again with the same id it is the same change, and nothing happens.
        """
        person.must("push")
        now = self.hooks.now()
        ts = change.ts or now
        if not now - _OLDEST_CHANGE_S <= ts <= now + _AHEAD_S:
            raise Refused(
                f"ts {ts:.0f} is {'ahead of' if ts > now else 'more than 7 d before'} now ({now:.0f}); "
                "give it in unix seconds, or leave it out"
            )
        if change.by.startswith("homeostat:"):
            raise Refused("by `homeostat:...` is the name of our own acts; write who did it")
        id_ = change.id or f"chg-{secrets.token_hex(6)}"
        old = self.hooks.memory.changes.get(id_)
        if old is not None:
            return {"id": id_, "new": False, "change": views.change_view(old, self.name)}
        told = replace(change, ts=min(ts, now), id=id_, by=change.by or person.name)
        self.hooks.push(told)
        return {"id": id_, "new": True, "change": views.change_view(told, self.name)}

    def meant(self, text: str) -> Entity:
        """Return the entity that was meant by an id, a name, or a unique part of one; raises NotThere, Refused."""
        return self._entity(text)

    def label(self, person: Person, id_: str, word: Word, note: str = "") -> LabelView:
        """Say whether an incident was noise or real. Raises NotThere, Forbidden.

        It measures the alarm budget, and makes what was abnormal in it count for less or for more: see `agent.budget`.
        """
        person.must("label")
        i = self._incident(id_)
        found = sorted(
            (a for a in i.anomalies if a.road != "objective"), key=lambda a: -a.deviations
        )
        signals = list(dict.fromkeys(signal_of(a.series) for a in found))[:_MOST_SIGNALS]
        body = {"label": word, "by": person.signed, "note": note, "signals": signals}
        self._record("label", i.id, body)
        made = Label(i.id, word, person.signed, note, self.hooks.now(), tuple(signals))
        return self._label(i.id) or views.label_view(made, [])

    async def reload(self, person: Person) -> StatusView:
        """Read the config again; raises Forbidden, ConfigError (the old one stays)."""
        person.must("reload")
        await self.hooks.reload()
        return self.status()

    def token_list(self, person: Person) -> list[TokenView]:
        """Return the tokens, without themselves; raises Forbidden."""
        person.must("token")
        return [_token_view(t) for t in self.tokens.known()]

    def token_add(
        self, person: Person, name: str, role: str, models: Sequence[str] = ()
    ) -> dict[str, str]:
        """Make a token and return it, this once; raises Forbidden, Refused."""
        person.must("token")
        token = self.tokens.add(name, role, self.hooks.now(), models)
        said = {"what": "added", "role": role, "by": person.signed}
        self._record("token", name, said | ({"models": list(models)} if models else {}))
        return {"name": name, "role": role, "token": token}

    def token_revoke(self, person: Person, name: str) -> TokenView:
        """Take a token away; raises Forbidden, Refused."""
        person.must("token")
        gone = self.tokens.revoke(name)
        self.hooks.dismiss(name)
        self._record("token", name, {"what": "revoked", "role": gone.role, "by": person.signed})
        return _token_view(gone)

    # ---- finding what was meant

    def name(self, e: Entity) -> str:
        """Return what people call an entity."""
        return views.name_of(e, self.hooks.world.attrs(e))

    def _record(self, kind: str, subject: str, body: dict[str, Any]) -> None:
        self.hooks.record(kind, subject, body, self.hooks.now())

    def _incident(self, text: str) -> Incident:
        return self.hooks.memory.incidents[pick(text, self.hooks.memory.incidents, "incident")]

    def _run(self, text: str) -> Run:
        return self.hooks.memory.runs[pick(text, self.hooks.memory.runs, "run")]

    def _run_view(self, run: Run) -> RunView:
        memory = self.hooks.memory
        decision = memory.last_decision(run.playbook, run.target, run.incident)
        undos = memory.undos.get(run.id, ())
        shown = views.run_view(
            run, memory.plans.get(run.id), decision, self.name, undone_by=undos[-1] if undos else ""
        )
        if any(
            r.state not in ENDED or r.state == "done" for u in undos if (r := memory.runs.get(u))
        ):
            shown["undoable"] = False
        shown["asks"] = self._asks(run)
        return shown

    def _asks(self, run: Run) -> bool:
        """Tell whether a person can still say yes: a suggestion asks while its incident is open and none is newer."""
        if run.state != "suggested":
            return run.state == "waiting_approval"
        memory = self.hooks.memory
        i = memory.incidents.get(run.incident)
        if i is None or i.state == "resolved":
            return False
        return not any(
            other.started > run.started
            and (other.playbook, other.target, other.incident)
            == (run.playbook, run.target, run.incident)
            for other in memory.runs.values()
        )

    def _alive(self, run: Run) -> bool:
        return self._asks(run) or run.state not in ENDED

    def _recent_runs(self) -> Iterable[Run]:
        return self.hooks.memory.runs.values()

    def _decisions(self, i: Incident) -> list[Decision]:
        return self.hooks.memory.decisions(i.id)

    def _asking(self, text: str, person: Person, verb: Any, plan_hash: str = "") -> tuple[Run, str]:
        """Return a run that waits for a person, and its plan's hash: the one that they saw, if any."""
        run = self._run(text)
        plan = self.hooks.memory.plans.get(run.id)
        wanted = asked_for(plan, run.plan_hash)[1].by if plan is not None else "operator"
        role = ROLES[ROLES.index(wanted)] if wanted in ROLES else "admin"
        person.must(verb, role)
        if not self._asks(run):
            raise Refused(
                f"run {run.id} is {run.state}: nobody is asked; see homeostat runs {run.id}"
            )
        if plan_hash and plan_hash != run.plan_hash:
            raise Refused(
                f"the plan of run {run.id} has changed since you saw it; look again: homeostat runs {run.id}"
            )
        return run, run.plan_hash

    def _entities(self) -> dict[str, str]:
        """Return id -> name of everything that can be meant."""
        found: dict[Entity, None] = dict.fromkeys(self.hooks.world.entities())
        for service in self.hooks.config.services:
            found[Entity("service", service.id)] = None
            found.update(dict.fromkeys(Entity("model", m) for m in service.models))
        for run in self.hooks.memory.live_runs():
            found[run.target] = None
        for i in self.hooks.memory.open_incidents():
            found.update(dict.fromkeys(i.entities))
        found.update(dict.fromkeys(c.entity for c in self.hooks.memory.changes.values()))
        return {e.id: self.name(e) for e in found}

    def _entity(self, text: str) -> Entity:
        return entity(meant(text, self._entities()))

    def _paused_key(self, text: str) -> str:
        """Find what was meant among what is paused: a target that is gone by now can still be resumed."""
        paused = {k: k for k in self.hooks.memory.pauses if k != EVERYTHING}
        if text in paused:
            return text
        return meant(text, {**paused, **self._entities()})

    def series(self, text: str) -> Series:
        """Return the series that was meant by its text, or a unique metric; raises NotThere, Refused."""
        return self._series(text)

    def _series(self, text: str) -> Series:
        """Find a series by its text, or by its metric (and entity) when that is unique."""
        found = {str(s): s for s in self.hooks.series()}
        if text in found:
            return found[text]
        metric, _, rest = text.partition("{")
        some = [s for name, s in found.items() if s.metric == metric and rest.rstrip("}") in name]
        if len(some) == 1:
            return some[0]
        if some:
            raise Refused(f"{text} is {len(some)} series; write one of {few(str(s) for s in some)}")
        near = difflib.get_close_matches(metric, {s.metric for s in found.values()}, n=3)
        raise NotThere(
            f"no series {text!r} has a history; "
            + (f"near are {few(near)}" if near else "see /metrics")
        )


def _cause_known(cause: str) -> None:
    if not known(cause):
        near = difflib.get_close_matches(cause, CAUSES, n=3, cutoff=0.4)
        raise Refused(
            f"no cause is called {cause!r}; did you mean {' or '.join(near) or next(iter(CAUSES))}?"
        )


def _not_loaded(id_: str) -> LoadedView:
    """Return what is left of a playbook of which only the record is known."""
    limit: LimitView = {"by": "not loaded", "mode": "observe", "reason": ""}
    return {"id": id_, "title": "", "owner": "", "target": "", "causes": [], "limits": [limit]}


def _of_harm(harm: Harm) -> str:
    return f"it harmed {harm.target} in run {harm.run}: {harm.summary}"


def _tally(t: Tally) -> TallyView:
    return {
        "runs": t.runs, "helped": t.helped, "no_effect": t.no_effect, "harmed": t.harmed,
        "cannot_tell": t.cannot_tell, "success": None if t.success is None else round(t.success, 3),
    }  # fmt: skip


def _six(value: float) -> float | None:
    """Round to six digits, as many as anybody can see; None = unknown."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _edges(a: Anomaly) -> list[MarkView]:
    out: list[MarkView] = [{"ts": a.onset, "kind": "onset", "text": "it began"}]
    if a.end is not None:
        out.append({"ts": a.end, "kind": "end", "text": "well again"})
    return out


def _read_paused(path: Path) -> Pause | None:
    """Read the file PAUSED; whatever stands in it, that it is there is enough."""
    try:
        text, when = path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    except OSError:
        return Pause(EVERYTHING, "", f"the file {path}", 0.0)
    try:
        said = json.loads(text)
        return Pause(EVERYTHING, str(said["by"]), str(said["reason"]), float(said["ts"]))
    except (ValueError, KeyError, TypeError):
        return Pause(EVERYTHING, "", text.strip()[:200] or f"the file {path}", when)


def _token_view(t: Token) -> TokenView:
    return {"name": t.name, "role": t.role, "created": t.created, "models": list(t.models)}
