"""Opens the daemon to people and machines: the table of ways into the desk, health, and the doors.

daemon -> Living (hooks of the desk) -> Desk -> ways -> api.make_app -> doors.open_doors -> Site
       -> wrote     each journal entry  -> telemetry (counts), events (consoles)
       -> published each tick           -> telemetry (how long), events (tick)
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import structlog
from pydantic import Field

from agent import expected
from agent.api import Views, Way, make_app
from agent.authority import Person, Tokens
from agent.away import Away
from agent.budget import Ledger, Word
from agent.by_hand import Proposal
from agent.chat import Chats
from agent.desk import Desk, StatusView
from agent.desk.hooks import LoadedView, SourceView
from agent.desk.labels import BudgetView
from agent.desk.playbooks import PlaybookView
from agent.desk.tokens import TokenView
from agent.desk.watching import ToldView
from agent.digest import DigestView
from agent.doors import Site, bound, open_doors, socket_path, split_address
from agent.errors import Refused
from agent.events import Events
from agent.filling import Forecast
from agent.graph import TopologyView
from agent.handoff import NOBODY
from agent.inlets import SMALL, Inlets, mounted
from agent.intake import FORWARD, Counting, Intake
from agent.life import Event
from agent.meant import duration
from agent.model import Change, Entity, FloatArray, Incident, Mode, Run, Series
from agent.model_views import CompareView, EdgesView, ExplainedView, ModelView
from agent.models import ModelFacts
from agent.models.asked import Asked
from agent.models.cause import Blame, blame
from agent.page_ways import page_ways
from agent.pictures import Pictures
from agent.plans import Plan, Would
from agent.ports import Chat, Labels, Note, Sink
from agent.refusals import Refusals
from agent.report import ReportView
from agent.sinks import Numbers
from agent.telemetry import Telemetry
from agent.units import Model, many
from agent.views import (
    ChangeView,
    ChartView,
    ForecastView,
    IncidentDetail,
    IncidentView,
    LabelView,
    PauseView,
    PlanView,
    QuestionView,
    RunView,
    SilenceView,
    WhyNotView,
    WhyView,
    WouldView,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.config import Config
    from agent.daemon import Daemon
    from agent.journal import Entry, JournalReader
    from agent.memory import Memory
    from agent.monitor import Watch
    from agent.pipeline import Moment
    from agent.playbook import Playbook
    from agent.world import World

log = structlog.get_logger()

_WITHHELD_S: Final = 60.0
"""So long until it is looked again whether what is put off or silenced still is."""
_STUCK_S: Final = 10.0
"""Ticks come every second; after so long without one the walk stands still."""
_MOST_GOING_ON: Final = 50
"""Incidents and runs that /metrics names one by one."""


# ---------------------------------------------------------------- what is asked for


class _Many(Model):
    """A list."""

    state: Literal["open", "live", "all"] = "all"
    """`open` (incidents) and `live` (runs) leave out what is over."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class _Span(Model):
    """One series over a time."""

    series: str
    """As in an incident: `service.latency_p95_seconds{service:wine}`; the metric alone when it is unique."""
    start: str = Field(default="15m", alias="from")
    """`15m` (ago), unix seconds, or ISO 8601."""
    end: str = Field(default="", alias="to")
    """The same; empty = now."""


class _Of(Model):
    entity: Annotated[str, Field(max_length=300)] = ""
    """Entity id or a unique part of its name; empty = all."""


class _OfModel(Model):
    model: Annotated[str, Field(max_length=300)] = ""
    """Name of the model; empty = all."""


class _Two(Model):
    """Two versions."""

    a: Annotated[str, Field(max_length=300)]
    """A version, or `version@variant`."""
    b: Annotated[str, Field(max_length=300)]
    """The one that is held against it."""


class _OfVersion(Model):
    version: Annotated[str, Field(max_length=300)] = ""
    """Empty = the one in use."""


class _Row(_OfVersion):
    """One record of a prediction log: its features; it is looked at and forgotten."""

    features: Annotated[dict[str, float | str | bool | None], Field(min_length=1, max_length=2000)]


class _Approve(Model):
    plan_hash: str = ""
    """The plan that you saw; when it has changed since, nothing happens."""


class _Reason(Model):
    reason: Annotated[str, Field(max_length=500)] = ""


class _Pause(_Reason):
    target: Annotated[str, Field(max_length=300)] = ""
    """Entity id or a unique part of its name; empty = everything."""


class _Answer(Model):
    values: dict[str, bool | float | str]
    """Line of the form -> what you say."""


class _Silence(_Reason):
    target: Annotated[str, Field(min_length=1, max_length=300)]
    """Entity id, a unique part of its name, or a glob such as `host:*`."""
    for_: Annotated[str, Field(max_length=40)] = Field(alias="for")
    """How long: `2h`, `30m`, `1d`."""
    cause: str = ""
    """Only for causes below this, such as `host.disk`; empty = any."""


class _Label(Model):
    label: Word
    """`noise`: it should not have been told; `real`: it was right to tell it."""
    note: Annotated[str, Field(max_length=500)] = ""


class _Blame(Model):
    """It is not what the incident blames."""

    right: str = ""
    """What it was: a cause of the tree, such as `host.disk`; empty = not known."""
    note: Annotated[str, Field(max_length=500)] = ""


class _Snooze(_Reason):
    for_: Annotated[str, Field(max_length=40)] = Field(alias="for")
    """How long: `2h`, `30m`, a week at most; `0` = it is put off no longer."""


class _On(Model):
    target: Annotated[str, Field(min_length=1, max_length=300)]
    """Entity id, or a unique part of a name."""


class _Begin(_Reason):
    target: Annotated[str, Field(min_length=1, max_length=300)]
    """Entity id, or a unique part of a name."""
    plan_hash: Annotated[str, Field(min_length=1, max_length=64)]
    """Of the plan that you saw; when it is another one by now, nothing happens."""


class _Mode(_Reason):
    mode: Mode
    """As far as it may go at most; never further than its text and agent.yaml say."""


class _WhyNot(Model):
    """On whom, and when."""

    target: Annotated[str, Field(min_length=1, max_length=300)]
    """Id, or a unique part of a name."""
    time: Annotated[str, Field(max_length=40)] = ""
    """`15m` (ago), unix seconds, or ISO 8601; empty = now."""


class _Changes(Model):
    """Changes of somebody, since some time."""

    target: Annotated[str, Field(max_length=300)] = ""
    """Only of this entity, and of what it depends on; id, or a unique part of its name."""
    since: Annotated[str, Field(max_length=40)] = ""
    """`2h` (ago), unix seconds, or ISO 8601; empty = as far as is remembered."""
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class _Picture(Model):
    picture: Annotated[str, Field(max_length=200)] = ""
    """Where you will put a picture of the charts, beside the text; empty = they are drawn in text."""


class _Since(Model):
    since: Annotated[str, Field(max_length=40)] = "7d"
    """`7d` (ago), unix seconds, or ISO 8601."""


class _Around(Model):
    """A part of the graph."""

    target: Annotated[str, Field(max_length=300)] = ""
    """Only what is around this: id, or a unique part of a name."""
    everything: bool = False
    """Also features, sources, versions that do not serve and processes that serve nobody."""


class _Change(Model):
    """What was changed: sent by a pipeline, a person, a script."""

    entity: Annotated[str, Field(min_length=1, max_length=300)]
    """Whose change it is: `service:checkout`, or a unique part of a name that we know."""
    kind: Literal["release", "config", "scale", "restart", "flag"]
    before: Annotated[str, Field(alias="from", max_length=200)] = ""
    """What was there; for a release left out: the last one that we know."""
    after: Annotated[str, Field(alias="to", max_length=200)] = ""
    by: Annotated[str, Field(max_length=100)] = ""
    """Who did it; empty = the owner of the token."""
    ts: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Unix seconds, at most a week ago; left out = now."""
    url: Annotated[str, Field(max_length=500, pattern=r"^(https?://\S+)?$")] = ""
    text: Annotated[str, Field(max_length=500)] = ""
    id: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._:/@+-]*$")] = ""
    """Your name of it: sent again, it is the same change."""


class _Token(Model):
    name: str
    role: Literal["sender", "viewer", "operator", "author", "admin"] = "viewer"
    models: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=100)
    ] = []
    """Of a sender: globs of the models whose rows it may send."""


def ways(desk: Desk) -> tuple[Way, ...]:
    """Return the one table: what is served, who may, what goes in and what comes out."""
    many = list[RunView]
    return (
        Way("GET", "/api/status", "status", "see", "The whole in one look.",
            lambda _: desk.status(), returns=StatusView),
        Way("GET", "/api/budget", "budget", "see", "The alarm budget: promised and measured.",
            lambda _: desk.budget(), returns=BudgetView),
        Way("GET", "/api/incidents", "incidents", "see", "Incidents: open first, harm first, then the newest.",
            lambda a: desk.incidents(everything=a.query.state == "all", limit=a.query.limit),
            query=_Many, returns=list[IncidentView]),
        Way("GET", "/api/incidents/{id}", "incident", "see", "One incident with all its evidence.",
            lambda a: desk.incident(a.path["id"]), returns=IncidentDetail),
        Way("GET", "/api/incidents/{id}/why", "why", "see", "What, why, what it is not, what was done, what is next.",
            lambda a: desk.why(a.path["id"]), returns=WhyView),
        Way("GET", "/api/incidents/{id}/report", "report", "see", "Its post-mortem: Markdown, and the charts for it.",
            lambda a: desk.report(a.path["id"], a.query.picture), query=_Picture, returns=ReportView),
        Way("GET", "/api/digest", "digest", "see", "How a stretch of time went, and what could be changed.",
            lambda a: desk.digest(a.query.since), query=_Since, returns=DigestView),
        Way("POST", "/api/incidents/{id}/ack", "ack", "ack", "Say that you have taken it; others see by whom and why.",
            lambda a: desk.acknowledge(a.person, a.path["id"], a.body.reason), body=_Reason, returns=IncidentDetail),
        Way("GET", "/api/incidents/{id}/charts", "evidence", "see", "The evidence as charts with the expected band.",
            lambda a: desk.evidence(a.path["id"]), returns=list[ChartView]),
        Way("POST", "/api/incidents/{id}/label", "label", "label", "Say that it was noise, or real.",
            lambda a: desk.label(a.person, a.path["id"], a.body.label, a.body.note),
            body=_Label, returns=LabelView),
        Way("POST", "/api/incidents/{id}/blame", "blame", "label", "Say that what it blames is not the cause.",
            lambda a: desk.blame(a.person, a.path["id"], a.body.right or None, a.body.note),
            body=_Blame, returns=LabelView),
        Way("POST", "/api/incidents/{id}/snooze", "snooze", "ack", "Put it off: nobody is told unless it gets worse.",
            lambda a: desk.snooze(a.person, a.path["id"], duration(a.body.for_), a.body.reason),
            body=_Snooze, returns=IncidentDetail),
        Way("POST", "/api/incidents/{id}/page", "page", "page", "Call a person now, whatever the severity.",
            lambda a: desk.page(a.person, a.path["id"], a.body.reason), body=_Reason, returns=IncidentDetail),
        Way("GET", "/api/runs", "runs", "see", "Runs: those that ask or live first, then the newest.",
            lambda a: desk.runs(everything=a.query.state == "all", limit=a.query.limit),
            query=_Many, returns=many),
        Way("GET", "/api/runs/{id}", "run", "see", "One run, step by step.",
            lambda a: desk.run(a.path["id"]), returns=RunView),
        Way("GET", "/api/runs/{id}/dry-run", "dry_run_of", "run", "What each step of a run that asks says it would do.",
            lambda a: desk.dry_run_of(a.person, a.path["id"]), returns=list[WouldView]),
        Way("POST", "/api/runs/{id}/approve", "approve", "approve", "Say yes to a run that asks.",
            lambda a: desk.approve(a.path["id"], a.person, a.body.plan_hash), body=_Approve, returns=RunView),
        Way("POST", "/api/runs/{id}/deny", "deny", "deny", "Say no; one that acts is stopped and put back.",
            lambda a: desk.deny(a.path["id"], a.person, a.body.reason), body=_Reason, returns=RunView),
        Way("POST", "/api/runs/{id}/undo", "undo", "undo", "Put back what a run did, by compare-and-set.",
            lambda a: desk.undo(a.person, a.path["id"], a.body.reason), body=_Reason, returns=RunView),
        Way("GET", "/api/topology", "topology", "see", "Who is there, how they are, who depends on whom, who says so.",
            lambda a: desk.topology(a.query.target, everything=a.query.everything),
            query=_Around, returns=TopologyView),
        Way("GET", "/api/changes", "changes", "see", "What was changed, by others and by us, the newest first.",
            lambda a: desk.changes(a.query.target, a.query.since, limit=a.query.limit),
            query=_Changes, returns=list[ChangeView]),
        Way("POST", "/api/changes", "change", "push", "Tell of a release, a setting, a restart; once for each id.",
            lambda a: desk.tell_change(a.person, _told(desk, a.body)), body=_Change, returns=ToldView),
        Way("GET", "/api/chart", "chart", "see", "One series over a time, with the band that was expected.",
            lambda a: desk.chart(a.query.series, a.query.start, a.query.end), query=_Span, returns=ChartView),
        Way("GET", "/api/models", "models", "see", "What is known of each model: quality, drift, slices, suspects.",
            lambda a: desk.models(a.query.model), query=_OfModel, returns=list[ModelView]),
        Way("GET", "/api/models/{model}/compare", "compare", "see", "Is one version worse than another, how surely.",
            lambda a: desk.compare(a.path["model"], a.query.a, a.query.b), query=_Two, returns=CompareView),
        Way("GET", "/api/models/{model}/edges", "edges", "see", "What sketches of a model are counted over.",
            lambda a: desk.edges(a.path["model"], a.query.version), query=_OfVersion, returns=EdgesView),
        Way("POST", "/api/models/{model}/explain", "explain", "see", "Which features drove the answer to one record.",
            lambda a: desk.explain(a.path["model"], a.body.version, a.body.features), body=_Row, returns=ExplainedView),
        Way("GET", "/api/forecasts", "forecasts", "see", "What fills, leaks or ages, and when it reaches its limit.",
            lambda a: desk.forecasts(a.query.entity), query=_Of, returns=list[ForecastView]),
        Way("GET", "/api/sources", "sources", "see", "Our eyes: fresh, blind, learning since.",
            lambda _: desk.sources(), returns=list[SourceView]),
        Way("GET", "/api/blind", "blind", "see", "Sources that do not answer.",
            lambda _: desk.blind(), returns=list[SourceView]),
        Way("GET", "/api/learning", "learning", "see", "Sources whose history is still too short to judge by.",
            lambda _: desk.learning(), returns=list[SourceView]),
        Way("GET", "/api/playbooks", "playbooks", "see", "Playbooks, how far they may go and why, and their record.",
            lambda _: desk.playbooks(), returns=list[PlaybookView]),
        Way("GET", "/api/playbooks/{id}/why-not", "why_not", "see", "Why it did not act on a target, at any time.",
            lambda a: desk.why_not(a.path["id"], a.query.target, a.query.time), query=_WhyNot, returns=WhyNotView),
        Way("GET", "/api/playbooks/{id}/plan", "plan", "see", "What it would do on a target now, with every gate.",
            lambda a: desk.plan(a.path["id"], a.query.target), query=_On, returns=PlanView),
        Way("GET", "/api/playbooks/{id}/dry-run", "dry_run", "run", "What each step says it would do; nothing is done.",
            lambda a: desk.dry_run(a.person, a.path["id"], a.query.target), query=_On, returns=list[WouldView]),
        Way("POST", "/api/playbooks/{id}/run", "run_playbook", "run", "Start exactly the plan that you saw.",
            lambda a: desk.start(a.person, a.path["id"], a.body.target, a.body.plan_hash, a.body.reason),
            body=_Begin, returns=RunView),
        Way("POST", "/api/playbooks/{id}/mode", "mode", "mode", "Let it go no further than this.",
            lambda a: desk.set_mode(a.person, a.path["id"], a.body.mode, a.body.reason),
            body=_Mode, returns=PlaybookView),
        Way("POST", "/api/playbooks/{id}/reinstate", "reinstate", "reinstate", "Let one that harmed act again.",
            lambda a: desk.reinstate(a.person, a.path["id"], a.body.reason), body=_Reason, returns=PlaybookView),
        Way("GET", "/api/silences", "silences", "see", "Silences that hold now.",
            lambda _: desk.silences(), returns=list[SilenceView]),
        Way("POST", "/api/silences", "silence", "silence", "Keep quiet and hands off for a while.",
            lambda a: desk.silence(a.person, a.body.target, a.body.for_, cause=a.body.cause, reason=a.body.reason),
            body=_Silence, returns=SilenceView),
        Way("DELETE", "/api/silences/{id}", "unsilence", "silence", "End a silence now.",
            lambda a: desk.unsilence(a.person, a.path["id"]), returns=SilenceView),
        Way("GET", "/api/questions", "questions", "see", "What runs ask people, and is not answered yet.",
            lambda _: desk.questions(), returns=list[QuestionView]),
        Way("POST", "/api/questions/{id}/answer", "answer", "approve", "Answer a question of a run.",
            lambda a: desk.answer(a.person, a.path["id"], a.body.values), body=_Answer, returns=QuestionView),
        Way("GET", "/api/pauses", "pauses", "see", "What stands still.",
            lambda _: desk.pauses(), returns=list[PauseView]),
        Way("POST", "/api/pause", "pause", "pause", "Stop acting, everywhere or on one target.",
            lambda a: desk.pause(a.person, a.body.target, a.body.reason), body=_Pause, returns=list[PauseView]),
        Way("POST", "/api/resume", "resume", "resume", "Let it act again.",
            lambda a: desk.resume(a.person, a.body.target), body=_Pause, returns=list[PauseView]),
        Way("POST", "/api/reload", "reload", "reload", "Read agent.yaml again; when faulty, the old one stays.",
            lambda a: desk.reload(a.person), returns=StatusView),
        Way("GET", "/api/tokens", "tokens", "token", "Tokens, without themselves.",
            lambda a: desk.token_list(a.person), returns=list[TokenView]),
        Way("POST", "/api/tokens", "token_add", "token", "Make a token; the answer is the only time it is seen.",
            lambda a: desk.token_add(a.person, a.body.name, a.body.role, a.body.models),
            body=_Token, returns=dict[str, str]),
        Way("DELETE", "/api/tokens/{name}", "token_revoke", "token", "Take a token away.",
            lambda a: desk.token_revoke(a.person, a.path["name"]), returns=TokenView),
        *page_ways(desk),
    )  # fmt: skip


def _told(desk: Desk, body: _Change) -> Change:
    """Turn the body of a request into a change of the entity that is meant."""
    about = desk.meant(body.entity)
    return Change(
        body.ts, about, body.kind, body.before, body.after, body.by, body.text, body.url, body.id
    )


# ---------------------------------------------------------------- the living daemon behind the desk


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


# ---------------------------------------------------------------- how it is


def health(desk: Desk, wall: float) -> dict[str, Any]:
    """Say how we are. failing: the walk stands still, the journal can not write, or we are blind everywhere."""
    h = desk.hooks
    sources = h.sources()
    blind = [s["name"] for s in sources if s["state"] == "blind"]
    problems = []
    still_s = wall - h.world.now
    if h.world.now and still_s > _STUCK_S:
        problems.append(f"no tick for {still_s:.0f} s")
    if h.pending:
        waits = many(h.pending, "entry waits", "entries wait")
        problems.append(f"the journal can not be written, {waits}")
    if sources and len(blind) == len(sources):
        problems.append("no source answers")
    faults = h.faults()
    return {
        "status": "failing" if problems else "degraded" if blind or faults else "ok",
        "problems": [*problems, *faults],
        "sources": {
            s["name"]: {"state": s["state"], "age_s": s["age_s"], "error": s["error"]}
            for s in sources
        },
        "away": [
            {
                "connector": one.connector,
                "what": one.what,
                "why": one.why,
                "since": round(wall - one.for_s, 1),
                "again_s": round(one.again_s, 1),
                "waiting": one.waiting,
            }
            for one in h.away()
        ],
        "journal_pending": h.pending,
        "paused": [p["key"] for p in desk.pauses()],
    }


def ready(desk: Desk) -> dict[str, Any]:
    """Say whether we watch: the first frame was seen and the journal takes what happens."""
    h = desk.hooks
    lacks = []
    if not h.ready:
        lacks.append("no source has answered yet")
    if h.pending:
        lacks.append("the journal can not be written")
    return {"status": "failing" if lacks else "ok", "problems": lacks}


def measure(desk: Desk, telemetry: Telemetry, events: Events) -> None:
    """Set the gauges that are read off the desk; done at each scrape, so that nobody has to keep them up to date."""
    h = desk.hooks
    status = desk.status()
    sources, budget = status["sources"], status["budget"]
    counts: dict[tuple[str, ...], float] = {(s,): 0.0 for s in ("page", "warning", "note")}
    for i in h.memory.open_incidents():
        counts[i.severity,] += 1
    live: dict[tuple[str, ...], float] = {}
    for run in h.memory.live_runs():
        live[run.state,] = live.get((run.state,), 0.0) + 1
    telemetry.replace("homeostat_incidents_open", counts)
    needs: dict[tuple[str, ...], float] = {}
    for i in h.memory.open_incidents():
        if code := h.memory.handoffs.get(i.id, NOBODY).code:
            needs[code,] = needs.get((code,), 0.0) + 1
    telemetry.replace("homeostat_incidents_needing_people", needs)
    telemetry.replace("homeostat_runs_live", live)
    measure_going_on(h.memory, telemetry)
    telemetry.replace("homeostat_series", {(s["name"],): float(s["series"]) for s in sources})
    telemetry.replace(
        "homeostat_impossible_values_total",
        {(s["name"],): float(s["impossible"]) for s in sources},
    )
    telemetry.replace(
        "homeostat_source_fresh", {(s["name"],): float(s["state"] == "fresh") for s in sources}
    )
    telemetry.replace(
        "homeostat_learning",
        {(s["name"],): float(not s["learning"]["ready"]) for s in sources if s["learning"]},
    )
    telemetry.replace("homeostat_pauses", {(p["key"],): 1.0 for p in status["paused"]})
    telemetry.replace("homeostat_mode_ceiling", {(status["mode"],): 1.0})
    telemetry.set("homeostat_anomalies_active", sum(
        1 for i in h.memory.open_incidents() for a in i.anomalies if a.end is None))  # fmt: skip
    telemetry.set("homeostat_silences", status["silences"])
    telemetry.set("homeostat_journal_pending", status["journal_pending"])
    telemetry.set("homeostat_pages_last_week", budget["pages_last_week"])
    telemetry.set("homeostat_false_pages_last_week", budget["false_last_week"])
    telemetry.set("homeostat_false_pages_budget_per_week", budget["promised_per_week"])
    for name, rate in (
        ("false_pages_per_week", budget["pages"]), ("console_notes_per_day", budget["notes"]),
        ("anomalies_per_day", budget["anomalies"]),
    ):  # fmt: skip
        bounds = {"low": rate["low"], "high": rate["high"]}
        telemetry.replace(
            f"homeostat_{name}", {(k,): v for k, v in bounds.items() if v is not None}
        )
    for name, promised in (
        ("console_notes", budget["notes"]["promised"]), ("anomalies", budget["anomalies"]["promised"]),
    ):  # fmt: skip
        telemetry.set(
            f"homeostat_{name}_budget_per_day", math.nan if promised is None else promised
        )
    telemetry.replace("homeostat_budget_unused", {
        (name,): float(budget[name]["unused"])
        for name in ("pages", "notes", "anomalies") if budget[name]["high"] is not None
    })  # fmt: skip
    telemetry.set("homeostat_budget_watched_seconds", budget["pages"]["watched_s"])
    telemetry.set("homeostat_budget_tightness", budget["tightness"])
    rarer = sum(s["factor"] < 1.0 for s in budget["signals"])
    telemetry.replace(
        "homeostat_signals_labelled",
        {("rarer",): float(rarer), ("more common",): float(len(budget["signals"]) - rarer)},
    )
    telemetry.set("homeostat_listeners", len(events))
    telemetry.replace("homeostat_events_dropped_total", {(): float(events.dropped)})
    bugs = status["usage"].get("bugs") or {}
    telemetry.replace("homeostat_bugs_total", {(str(k),): float(v) for k, v in bugs.items()})


def measure_going_on(memory: Memory, telemetry: Telemetry) -> None:
    """Say which incidents are open and which runs are under way: few, and a label set ends with each."""
    order = {"page": 0, "warning": 1, "note": 2}
    found = sorted(memory.open_incidents(), key=lambda i: (order[i.severity], -i.opened))
    opened: dict[tuple[str, ...], float] = {}
    for i in found[:_MOST_GOING_ON]:
        top = i.diagnosis.top if i.diagnosis else None
        about = i.about or (i.entities[0] if i.entities else "")
        opened[i.id, i.severity, i.state, str(about), top.kind if top else "unknown"] = i.opened
    telemetry.replace("homeostat_incident_opened_timestamp_seconds", opened)
    telemetry.replace("homeostat_run_started_timestamp_seconds", {
        (r.id, r.playbook, r.target.id, r.state, r.mode, r.incident): r.started
        for r in memory.live_runs()[-_MOST_GOING_ON:]
    })  # fmt: skip


def refusals(desk: Desk) -> Refusals:
    """Return what writes down acts that were refused."""
    return Refusals(
        lambda subject, body: desk.hooks.record("refused", subject, body, desk.hooks.now())
    )


def tell(events: Events, entry: Entry) -> None:
    """Tell consoles of what was just written: enough to know what to ask for again."""
    body = entry.body
    match entry.kind:
        case "incident":
            said = {k: body.get(k) for k in ("id", "state", "severity", "title")}
            events.publish("incident", said)
        case "run":
            said = {k: body.get(k) for k in ("id", "state", "incident", "playbook")}
            events.publish("run", said)
        case "decision" | "plan" | "intent" | "acted":
            pass  # details of what `run` and `incident` tell
        case _:
            events.publish("state", {"kind": entry.kind, "subject": entry.subject})


async def start(daemon: Daemon) -> Site:
    """Open the daemon to the world; raises Refused when an address can not be had."""
    telemetry = Telemetry(daemon.started)
    events = Events()
    tokens = Tokens(daemon.state / "tokens.json")
    desk = daemon.desk = Desk(Living(daemon), tokens)

    def wrote(entry: Entry) -> None:
        telemetry.wrote(entry)
        tell(events, entry)

    def published(moment: Moment) -> None:
        telemetry.add("homeostat_ticks_total")
        telemetry.observe("homeostat_tick_seconds", daemon.tick_s)
        for one in moment.frames:
            telemetry.add("homeostat_frames_total", 1, source=one.source)
        if len(events):
            events.publish("tick", _tick(desk, moment.now))
        daemon.sinks.tick(moment.now, numbered)

    def measured() -> None:
        measure(desk, telemetry, events)
        telemetry.set("homeostat_tick_lag_seconds", daemon.lag_s)
        expected.measure(telemetry, watches.values())
        telemetry.replace(
            "homeostat_points_left_out_total",
            {(s,): float(n) for s, n in daemon.board.left_out.items()},
        )
        tally = daemon.sinks.tally()
        telemetry.replace("homeostat_sink_samples_total", {
            (s, outcome): float(n) for s, some in tally.items() for outcome, n in some.items() if outcome != "waiting"
        })  # fmt: skip
        waiting: dict[tuple[str, ...], float] = {
            (s,): float(some["waiting"]) for s, some in tally.items()
        }
        telemetry.replace("homeostat_sink_samples_waiting", waiting)

    watches = daemon.walk.monitor.watches
    numbers = Numbers(
        telemetry,
        daemon.world,
        lambda: [(w.series, w.p) for w in watches.values() if len(w.p) == len(w.series)],
    )

    def numbered(sink: Sink) -> dict[Labels, float]:
        measured()
        return numbers.of(sink)

    def metrics(openmetrics: bool) -> str:
        measured()
        return telemetry.render(daemon.world, openmetrics=openmetrics)

    chats = daemon.chats = _chats(daemon, desk)
    daemon.wrote += [wrote, chats.wrote]
    daemon.published.append(published)
    config = daemon.config

    def tally(source: str, size: int, refused: int) -> None:
        telemetry.add("homeostat_received_bytes_total", size, source=source)
        telemetry.add("homeostat_received_refused_total", refused, source=source)

    daemon.counting.tally = tally
    refused = refusals(desk)
    front = _Front(
        daemon,
        lambda inlets: make_app(
            ways(desk),
            Views(lambda: health(desk, time.time()), lambda: ready(desk), metrics),
            tokens,
            events,
            telemetry,
            receivers={name: receiver.routes() for name, receiver in daemon.receivers().items()},
            inlets=inlets,
            push=daemon.collector.take,
            public_url=daemon.config.public_url,
            refusals=refused,
        ),
    )
    host, port = split_address(config.listen)
    ingest = bound(config.ingest_listen, "ingest_listen") if config.ingest_listen else None
    site = await open_doors(
        front, events, host=host, port=port, uds=daemon.state / "agent.sock",
        metrics=config.metrics_listen, ingest=f"unix:{daemon.state / FORWARD}" if ingest else "",
    )  # fmt: skip
    daemon.reloaded.append(front.again)
    if ingest is not None:
        _take_in(daemon, site, ingest, daemon.counting)
    daemon.reloaded.append(chats.turn)
    site.beside.append(chats.close)
    chats.turn()
    _opened(telemetry, f"http://{host}:{site.port}/", config.public_url)
    return site


def _opened(telemetry: Telemetry, console: str, public_url: str) -> None:
    """Say where the console is."""
    telemetry.set("homeostat_console_info", 1.0, url=(public_url or console).rstrip("/"))
    log.info("doors_open", console=console)


class _Front:
    """The application as the connectors of now make it: receivers come and go with a reload.

    Raises Refused when two of them claim one path; after a reload that is told, and those of before stay.
    """

    def __init__(self, daemon: Daemon, make: Callable[[Inlets], ASGIApp]) -> None:
        self._daemon = daemon
        self._make = make
        self._inlets = Inlets(
            daemon.bulk_receivers(), daemon.counting, lambda scope: scope["state"]["person"],
            lambda: daemon.config.ingest_models, SMALL,
        )  # fmt: skip
        self._app = make(self._inlets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._app(scope, receive, send)

    def again(self) -> None:
        """Make it anew."""
        before = self._inlets.mounted
        self._inlets.mounted = mounted(self._daemon.bulk_receivers())
        try:
            self._app = self._make(self._inlets)
        except Refused as error:
            self._inlets.mounted = before
            log.error("ways_in_refused", error=str(error))


def _chats(daemon: Daemon, desk: Desk) -> Chats:
    """Return what keeps chats talking: they ask the routes where and when to speak, as messages do."""

    def meant(way: str, note: Note) -> tuple[str, float] | None:
        router = daemon.outbox.router
        if router.withheld(note):
            return "", note.ts + _WITHHELD_S
        leg = next(iter(router.legs(note, [way])), None)
        return None if leg is None else (leg.note.channel, leg.due)

    return Chats(
        lambda: {n: c for n, c in daemon.connectors.built.items() if isinstance(c, Chat)},
        desk, daemon.record, Pictures(daemon.state / "fonts"), bug=daemon.bug, meant=meant,
    )  # fmt: skip


def _take_in(daemon: Daemon, site: Site, sock: socket.socket, counting: Counting) -> None:
    """Start the process that takes rows in, and start it anew when its settings have changed."""
    intake = daemon.intake = Intake(sock, daemon.intake_settings, counting)
    had = [daemon.intake_settings()]

    def reloaded() -> None:
        now = daemon.intake_settings()
        if now != had[0]:
            had[0] = now
            intake.turn()

    daemon.reloaded.append(reloaded)
    site.beside.append(intake.close)
    path = socket_path(daemon.config.ingest_listen)
    if path is not None:
        site.paths.append(path)
    intake.start()


def _tick(desk: Desk, now: float) -> dict[str, Any]:
    memory = desk.hooks.memory
    open_ = memory.open_incidents()
    return {
        "now": now,
        "open": len(open_),
        "page": sum(1 for i in open_ if i.severity == "page"),
        "live": len(memory.live_runs()),
        "paused": bool(desk.pauses()),
        "blind": len(desk.blind()),
    }
