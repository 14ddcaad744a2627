"""The table of ways into the API: what is served, who may, what goes in, what comes out.

What is asked for stands above it, a model for each query and each body. Ways of the console's pages: see `page_ways`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agent.api import Way
from agent.budget import Word
from agent.desk import Desk, StatusView
from agent.desk.hooks import SourceView
from agent.desk.labels import BudgetView
from agent.desk.playbooks import PlaybookView
from agent.desk.tokens import TokenView
from agent.desk.watching import ToldView
from agent.digest import DigestView
from agent.graph import TopologyView
from agent.meant import duration
from agent.model import Change, Mode
from agent.model_views import CompareView, EdgesView, ExplainedView, ModelView
from agent.report import ReportView
from agent.units import Model
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
from agent.web.page_ways import page_ways


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
