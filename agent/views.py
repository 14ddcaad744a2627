"""What people are shown: values of the walk turned into plain JSON, and into words that a tired person understands.

Pure: no clock, no disk; `now` and the names of entities are arguments. The same views serve console, API and CLI.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from typing_extensions import TypedDict

from agent.budget import WEEK_S, Rate
from agent.catalogue import SIGNALS
from agent.causes import words
from agent.doubts import Doubt
from agent.filling import Forecast, when
from agent.handoff import NOBODY, Need
from agent.life import acknowledged_by
from agent.memory import Correction, Label, Pause, Silence, Snooze
from agent.model import (
    ENDED,
    Anomaly,
    Cause,
    Change,
    Decision,
    Entity,
    Evidence,
    Incident,
    Run,
    Series,
    entity,
)
from agent.plans import Plan, PlannedStep, asked_for
from agent.questions import Question
from agent.units import many, say, say_duration

Name = Callable[[Entity], str]
"""What an entity is called by people."""


class EntityView(TypedDict):
    """id as the journal writes it, name as people say it."""

    id: str
    kind: str
    name: str


class EvidenceView(TypedDict):
    """One reason. weight: log-odds, negative speaks against."""

    text: str
    weight: float
    series: str | None
    value: float | None
    expected: float | None
    onset: float | None


class CauseView(TypedDict):
    """One hypothesis. metrics: the series that speak for it, the strongest first."""

    kind: str
    words: str
    entity: EntityView
    others: list[EntityView]
    probability: float
    evidence: list[EvidenceView]
    metrics: list[str]
    facts: dict[str, str]


class AnomalyView(TypedDict):
    """One series that left what is ordinary for it.

    low, high   the band that was expected, null = open
    carriers    titles of the first few series that were abnormal together, perhaps itself, the most first
    """

    series: str
    title: str
    entity: EntityView
    text: str
    onset: float
    end: float | None
    value: float | None
    low: float | None
    high: float | None
    unit: str
    road: str
    family: str
    harm: bool
    together: float | None
    carriers: list[str]
    ahead: str


class ForecastView(TypedDict):
    """When one thing that fills, leaks or ages reaches its limit. Seconds from now; null = not within `horizon_s`.

    state    full: it is there; soon: within the longest lead time, as likely as not; later: within the horizon;
             far: not within it; unknown: see `why`
    low80_s, high80_s, low95_s, high95_s   intervals of the time to the limit
    told     "", "warning" or "page": what stands open because of it
    """

    series: str
    title: str
    entity: EntityView
    kind: str
    state: str
    value: float | None
    limit: float
    unit: str
    median_s: float | None
    low80_s: float | None
    high80_s: float | None
    low95_s: float | None
    high95_s: float | None
    horizon_s: float
    made: float
    told: str
    why: str
    text: str


class RateView(TypedDict):
    """A promised rate and the measured one. null = too little time under watch.

    per             what it counts by: week or day
    sure, perhaps   labelled noise; all that was not labelled real
    low, high       95 % Poisson bounds: what is surely false, what may be
    verdict         within | above | unknown
    watched_s       seconds under watch behind it, of the last four weeks
    unused          less than a quarter of what was promised so far can have been false
    """

    per: str
    promised: float | None
    sure: float | None
    perhaps: float | None
    low: float | None
    high: float | None
    verdict: str
    watched_s: float
    unused: bool


class SignalView(TypedDict):
    """What labels say of a signal. factor 0.33: it must be three times rarer to be named."""

    signal: str
    factor: float


class DoubtView(TypedDict):
    """What people said about a cause of one kind of trouble. factor 0.5: it is believed half as much."""

    about: str
    cause: str
    factor: float
    wrong: int
    right: int
    text: str


class LabelView(TypedDict):
    """What a person said about an incident, and what came of it.

    label   noise | real | not_the_cause
    """

    incident: str
    label: str
    by: str
    note: str
    ts: float
    signals: list[SignalView]
    text: str


class ChangeView(TypedDict):
    """Something was changed by somebody. ours: by a run of homeostat itself."""

    ts: float
    entity: EntityView
    kind: str
    before: str
    after: str
    by: str
    text: str
    ours: bool
    url: str
    id: str


class GateView(TypedDict):
    """One gate of the guard and what it saw."""

    name: str
    passed: bool
    value: str
    limit: str
    reason: str


class DecisionView(TypedDict):
    """What the guard said about one playbook on one target."""

    ts: float
    playbook: str
    target: EntityView
    incident: str
    mode: str
    allowed: bool
    gates: list[GateView]


class StepView(TypedDict):
    """One step of a run, planned and done. status: planned until it is done."""

    id: str
    use: str
    status: str
    summary: str
    started: float | None
    ended: float | None
    temporary: bool


class ApprovalView(TypedDict):
    """Who must say yes, until when."""

    by: str
    expires: float | None
    on_timeout: str


class OutcomeView(TypedDict):
    """How a run ended and by what proof."""

    verdict: str
    summary: str
    against: str
    numbers: dict[str, float | None]
    undone: bool


class RunView(TypedDict):
    """A playbook at work on one target.

    undoes    the run that this one puts back; undone_by: the run that puts (or tried to put) this one back
    undoable  it is over, and a person may have it put back
    """

    id: str
    playbook: str
    title: str
    target: EntityView
    incident: str
    mode: str
    state: str
    live: bool
    asks: bool
    started: float
    updated: float
    plan_hash: str
    text: str
    by: str
    steps: list[StepView]
    expect: list[str]
    approve: ApprovalView | None
    outcome: OutcomeView | None
    gates: list[GateView]
    undoes: str
    undone_by: str
    undoable: bool


class PlannedView(TypedDict):
    """One step that would be taken. undo: it can be put back; asks: role that is asked before it, "" = nobody."""

    id: str
    use: str
    via: str
    params: dict[str, Any]
    undo: bool
    temporary: bool
    asks: str


class WouldView(TypedDict):
    """What one step says when it is asked to do nothing: would | refused | unknown | later, and in words."""

    id: str
    use: str
    status: str
    text: str


class PlanView(TypedDict):
    """What a playbook would do on a target now, if a person says so.

    hash      what a yes binds to: when it is another one by then, nothing happens
    incident  what it would be for, "" = nothing is known to be wrong
    allowed   whether the guard lets it; closed: the first gate that does not, in words
    """

    playbook: str
    title: str
    target: EntityView
    incident: str
    cause: str
    hash: str
    allowed: bool
    closed: str
    steps: list[PlannedView]
    then: list[PlannedView]
    expect: list[str]
    gates: list[GateView]


class TurnView(TypedDict):
    """One turn in the life of an incident."""

    ts: float
    event: str
    state: str
    by: str
    why: str


class PointsView(TypedDict):
    """A small chart: data = [seconds, values], null = unknown; spark: the same for a terminal."""

    series: str
    title: str
    unit: str
    data: list[list[float | None]]
    spark: str


class CalledView(TypedDict):
    """Whom the ladder has called. way: a connector, perhaps with `/channel`."""

    ts: float
    way: str


class IncidentView(TypedDict):
    """An incident in one line.

    acknowledged_by   who has taken it, "" = nobody; merged_into: what it is part of now
    snoozed_until     nobody is told of it until then; null = it is not put off
    needs             why a person is needed, a word of `agent.handoff`; "" = nobody is. needs_you: the same for people
    called            whom the ladder of escalation has called, the first one first
    """

    id: str
    state: str
    severity: str
    title: str
    opened: float
    updated: float
    resolved: float | None
    reopened: int
    acknowledged_by: str
    merged_into: str
    cause: str
    cause_words: str
    cause_entity: EntityView | None
    probability: float | None
    low_confidence: bool
    entities: list[EntityView]
    runs: list[str]
    label: str
    snoozed_until: float | None
    snoozed_by: str
    needs: str
    needs_you: str
    called: list[CalledView]


class IncidentDetail(IncidentView):
    """An incident with all its evidence.

    more      abnormal series beyond those in `anomalies`
    also      further groups that share it; absorbed: incidents that became part of it
    logs_of   where to look when no metric says why
    traces    ids of requests that failed or were slow
    questions what its runs ask people now
    """

    more: int
    also: list[EntityView]
    absorbed: list[str]
    turns: list[TurnView]
    logs_of: list[EntityView]
    traces: list[str]
    anomalies: list[AnomalyView]
    changes: list[ChangeView]
    causes: list[CauseView]
    rejected: list[CauseView]
    hurts: list[EntityView]
    run_views: list[RunView]
    decisions: list[DecisionView]
    labelled: LabelView | None
    corrected: LabelView | None
    questions: list[QuestionView]


class WhyView(TypedDict):
    """The answer to `why`: text is for people, line by line; the rest is what it was made of."""

    incident: IncidentView
    text: list[str]
    because: list[EvidenceView]
    causes: list[CauseView]
    rejected: list[CauseView]
    charts: list[PointsView]
    logs_of: list[EntityView]
    traces: list[str]
    turns: list[TurnView]
    runs: list[RunView]
    held_back: list[DecisionView]
    next: str


class WhyNotView(TypedDict):
    """The answer to `why-not`: text is for people, the rest is what it was made of.

    answer   ran | suggested | held: as was decided; not_meant | nothing | unknown: nothing was, it is worked out
    decided  when; None = nothing was decided
    gates    all gates of that decision; else what it would have had to fulfil
    """

    playbook: str
    target: EntityView
    ts: float
    answer: str
    text: list[str]
    decided: float | None
    incident: str
    mode: str
    gates: list[GateView]
    run: str
    next: str


class PauseView(TypedDict):
    """A stop. key `*` = everything; file: it stands in the file PAUSED."""

    key: str
    by: str
    reason: str
    since: float
    file: bool


class FieldView(TypedDict):
    """One line of a form. kind: yes_no, number, text, choice.

    low, high   of a number; null = no bound
    default     what stands when nothing is said; null = it must be said
    """

    name: str
    kind: str
    text: str
    choices: list[str]
    low: float | None
    high: float | None
    default: bool | float | str | None


class QuestionView(TypedDict):
    """What a run asks a person; `homeostat answer ID name=value`. run: "" = not known."""

    id: str
    target: str
    text: str
    fields: list[FieldView]
    role: str
    asked: float
    until: float
    run: str


class SilenceView(TypedDict):
    """Somebody does not want to hear of something for a while."""

    id: str
    target: str
    cause: str
    until: float
    by: str
    reason: str
    created: float


class MarkView(TypedDict):
    """Something that happened, to be drawn as a line. kind: onset, end, change, act."""

    ts: float
    kind: str
    text: str


class ChartView(TypedDict):
    """One series for a chart: data = [seconds, values], null = unknown. low, high: expected band, null = open."""

    series: str
    title: str
    subject: str
    unit: str
    data: list[list[float | None]]
    low: float | None
    high: float | None
    marks: list[MarkView]


# ---------------------------------------------------------------- names and words


def name_of(entity: Entity, attrs: Mapping[str, str]) -> str:
    """Return what people call an entity; its key where nobody has told a name."""
    said = attrs.get("name", "")
    match entity.kind:
        case "process":
            parts = entity.key.split("/")
            pid = attrs.get("pid") or (parts[1] if len(parts) == 3 else "")
            return f"{said or 'process'} (pid {pid})" if pid else said or entity.key
        case "feature":
            model, _, feature = entity.key.partition("/")
            return f"feature {feature} of {model}" if feature else entity.key
        case "version":
            model, _, version = entity.key.partition("/")
            return f"{model} version {version}" if version else entity.key
        case "gpu":
            return f"{said} ({entity.key})" if said else entity.key
        case _:
            return said or entity.key


_SERIES = re.compile(r"\b([a-z]+\.[a-z0-9_]+)\{([a-z]+):([^{},]+)((?:,[^{}]*)?)\}")
_UNIT_TAIL = re.compile(
    r"_(seconds|bytes|ratio|celsius|watts|hertz|count|per_second|bytes_per_second)$"
)


def title_of(series: Series) -> str:
    """Return what a series measures, in a few words: `latency p95`, `CPU cores (core 3)`."""
    quantity = series.metric.partition(".")[2]
    tail = " per second" if quantity.endswith("per_second") else ""
    while match := _UNIT_TAIL.search(quantity):
        quantity = quantity[: match.start()]
    said = quantity.replace("_", " ") + tail
    if bound := re.fullmatch(r"(.+) (high|low)", said):
        said = f"{'upper' if bound[2] == 'high' else 'lower'} bound of {bound[1]}"
    said = re.sub(
        r"\b(cpu|gpu|tcp|udp|psi|ecc|pcie)\b",
        lambda m: m.group().upper(),
        said,
        flags=re.IGNORECASE,
    )
    inner = ", ".join(f"{k} {v}" for k, v in series.labels)
    return f"{said} ({inner})" if inner else said


def plainly(text: str) -> str:
    """Return a text with the names of series as people say them: `latency p95 of wine`."""

    def named(found: re.Match[str]) -> str:
        metric, kind, key, labels = found.groups()
        if metric not in SIGNALS:
            return found[0]
        pairs = (pair.partition("=") for pair in labels.split(",")[1:])
        inner = tuple((name, value) for name, _, value in pairs)
        try:
            return f"{title_of(Series(metric, entity(f'{kind}:{key}'), inner))} of {key}"
        except ValueError:  # no entity of ours
            return found[0]

    return _SERIES.sub(named, text)


def clock(ts: float, now: float) -> str:
    """Write a time as people on this host read it: the day only when it is another one."""
    when, today = datetime.fromtimestamp(ts).astimezone(), datetime.fromtimestamp(now).astimezone()
    return when.strftime("%H:%M:%S" if when.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def expected(low: float, high: float, unit: str) -> str:
    """Write a band: `at most 250 ms`, `at least 95 %`, `10 ms to 20 ms`."""
    if math.isnan(low) and math.isnan(high):
        return "not known"
    if math.isnan(low):
        return f"at most {say(high, unit)}"
    if math.isnan(high):
        return f"at least {say(low, unit)}"
    return f"{say(low, unit)} to {say(high, unit)}"


def anomaly_words(a: Anomaly, name: Name) -> str:
    """Say an anomaly in one line."""
    unit = SIGNALS[a.series.metric].unit
    what = f"{title_of(a.series)} of {name(a.series.entity)}"
    if a.ahead is not None:
        limit = say(a.high if a.direction > 0 else a.low, unit)
        return f"{what} is {say(a.value, unit)} and on its way to {limit}"
    if math.isnan(a.value):
        return f"{what} has had no value since {clock(a.onset, a.onset)}"
    if unit == "bool" and a.road in {"objective", "finding"}:
        return a.family or SIGNALS[a.series.metric].help
    if unit == "bool":
        return what + (" is so" if a.value > 0.5 else " is not so") + ", which is unusual"
    return f"{what} is {say(a.value, unit)}, expected {expected(a.low, a.high, unit)}"


# ---------------------------------------------------------------- values to views


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def entity_view(entity: Entity, name: Name) -> EntityView:
    """Show an entity."""
    return {"id": entity.id, "kind": entity.kind, "name": name(entity)}


def evidence_view(e: Evidence) -> EvidenceView:
    """Show a reason."""
    return {
        "text": e.text, "weight": e.weight, "series": str(e.series) if e.series else None,
        "value": _number(e.value), "expected": _number(e.expected), "onset": _number(e.onset),
    }  # fmt: skip


def metrics_of(c: Cause) -> list[str]:
    """Return the series that speak for a cause, those with most weight first."""
    speak = sorted((e for e in c.evidence if e.series and e.weight > 0), key=lambda e: -e.weight)
    return list(dict.fromkeys(str(e.series) for e in speak))


def cause_view(c: Cause, name: Name) -> CauseView:
    """Show a hypothesis, its strongest evidence first."""
    evidence = sorted(c.evidence, key=lambda e: -abs(e.weight))
    return {
        "kind": c.kind, "words": words(c.kind), "entity": entity_view(c.entity, name),
        "others": [entity_view(e, name) for e in c.others], "probability": c.probability,
        "evidence": [evidence_view(e) for e in evidence], "metrics": metrics_of(c), "facts": dict(c.facts),
    }  # fmt: skip


def anomaly_view(a: Anomaly, name: Name, now: float = math.nan) -> AnomalyView:
    """Show an anomaly; with `now`, also in how long what is foretold will be."""
    d = SIGNALS[a.series.metric]
    return {
        "series": str(a.series), "title": title_of(a.series),
        "entity": entity_view(a.series.entity, name), "text": anomaly_words(a, name),
        "onset": a.onset, "end": a.end, "value": _number(a.value), "low": _number(a.low),
        "high": _number(a.high), "unit": d.unit, "road": a.road, "family": a.family, "harm": a.harm,
        "together": _number(a.together), "carriers": [title_of(s) for s in a.carriers],
        "ahead": "" if a.ahead is None or math.isnan(now) else when(a.ahead, now),
    }  # fmt: skip


def forecast_view(
    f: Forecast, told: str, longest_lead_s: float, name: Name, now: float
) -> ForecastView:
    """Show a forecast as it looks now."""
    t, unit = f.target, SIGNALS[f.target.series.metric].unit

    def left(level: float) -> float | None:
        ts = f.at(level)
        return max(ts - now, 0.0) if math.isfinite(ts) else None

    median = left(0.5)
    state = "unknown" if not f.known else "far" if median is None else "later"
    if median is not None:
        state = "full" if median == 0 else "soon" if median <= longest_lead_s else state
    said = when(f.ahead, now) if f.known else f"can not be told: {f.why}"
    if state == "far":
        said = f"not within {say_duration(f.horizon_s)}"
    text = f"{title_of(t.series)} of {name(t.series.entity)} {say(t.limit, unit)} {said}"
    return {
        "series": str(t.series), "title": title_of(t.series),
        "entity": entity_view(t.series.entity, name), "kind": t.kind, "state": state,
        "value": _number(f.value), "limit": t.limit, "unit": unit, "median_s": median,
        "low80_s": left(0.1), "high80_s": left(0.9), "low95_s": left(0.025), "high95_s": left(0.975),
        "horizon_s": f.horizon_s, "made": f.made, "told": told, "why": f.why, "text": text,
    }  # fmt: skip


def change_view(c: Change, name: Name) -> ChangeView:
    """Show a change."""
    return {
        "ts": c.ts, "entity": entity_view(c.entity, name), "kind": c.kind, "before": c.before,
        "after": c.after, "by": c.by, "text": c.text, "ours": c.ours, "url": c.url, "id": c.id,
    }  # fmt: skip


def change_words(c: ChangeView) -> str:
    """Say a change in one line."""
    moved = f"{c['before']} -> {c['after']}" if c["before"] or c["after"] else c["text"]
    return f"{c['kind']} of {c['entity']['name']}: {moved}" + (f" by {c['by']}" if c["by"] else "")


def gates_view(decision: Decision | None) -> list[GateView]:
    """Show what every gate saw."""
    if decision is None:
        return []
    return [
        {"name": g.name, "passed": g.passed, "value": g.value, "limit": g.limit, "reason": g.reason}
        for g in decision.gates
    ]


def decision_view(d: Decision, name: Name) -> DecisionView:
    """Show what the guard said."""
    return {
        "ts": d.ts, "playbook": d.playbook, "target": entity_view(d.target, name),
        "incident": d.incident, "mode": d.mode, "allowed": d.allowed, "gates": gates_view(d),
    }  # fmt: skip


def run_view(
    run: Run,
    plan: Plan | None,
    decision: Decision | None,
    name: Name,
    *,
    undone_by: str = "",
) -> RunView:
    """Show a run: what was planned, what is done, what was proven."""
    asks = run.state in {"waiting_approval", "suggested"}
    approve: ApprovalView | None = None
    if plan is not None and plan.approve is not None:
        step, ask = asked_for(plan, run.plan_hash)
        since = run.updated if step else run.started
        waits = run.state == "waiting_approval"
        approve = {
            "by": ask.by,
            "expires": since + ask.timeout if waits else None,
            "on_timeout": ask.on_timeout,
        }
    return {
        "id": run.id, "playbook": run.playbook, "title": plan.title if plan else run.playbook,
        "target": entity_view(run.target, name), "incident": run.incident, "mode": run.mode,
        "state": run.state, "live": run.state not in ENDED, "asks": asks, "started": run.started,
        "updated": run.updated, "plan_hash": run.plan_hash, "text": run.text,
        "by": plan.by if plan else "", "steps": _steps(run, plan),
        "expect": list(plan.verify.expect) if plan and plan.verify else [],
        "approve": approve, "outcome": _outcome(run), "gates": gates_view(decision),
        "undoes": plan.undoes if plan else "", "undone_by": undone_by,
        "undoable": plan is not None and not plan.undoes and run.state in ENDED and bool(undoable(plan, run)),
    }  # fmt: skip


def only_suggested(run: RunView) -> bool:
    """Tell whether a run was never more than a suggestion: a newer one stands for it, or somebody took it up."""
    return run["mode"] == "suggest" and not run["asks"] and run["state"] in {"suggested", "done"}


def undoable(plan: Plan, run: Run) -> frozenset[str]:
    """Return the steps of a run that stand and can be put back."""
    now = {s.id: s.status for s in run.steps}  # the last word on each
    kept = {s.id for s in plan.steps if s.undo == "auto"}
    return frozenset(id_ for id_, status in now.items() if status in {"done", "adopted"}) & kept


def plan_view(plan: Plan, decision: Decision, name: Name) -> PlanView:
    """Show what would be done, and what the guard says to it."""
    closed = next((g for g in decision.gates if not g.passed), None)

    def step(s: PlannedStep) -> PlannedView:
        return {
            "id": s.id, "use": s.use, "via": s.via or "", "params": dict(s.params), "undo": s.undo == "auto",
            "temporary": s.until is not None, "asks": s.approve.by if s.approve is not None else "",
        }  # fmt: skip

    return {
        "playbook": plan.playbook, "title": plan.title, "target": entity_view(plan.entity, name),
        "incident": plan.incident, "cause": plan.cause, "hash": plan.hash, "allowed": decision.allowed,
        "closed": "" if decision.allowed or closed is None else f"{closed.name}: {closed.reason or closed.value}",
        "steps": [step(s) for s in plan.steps], "then": [step(s) for s in plan.then],
        "expect": list(plan.verify.expect) if plan.verify else [], "gates": gates_view(decision),
    }  # fmt: skip


def _steps(run: Run, plan: Plan | None) -> list[StepView]:
    done: dict[str, StepView] = {}
    for record in run.steps:  # a later record of the same step (undone) is what it is now
        done[record.id] = {
            "id": record.id, "use": record.use, "status": record.status, "summary": plainly(record.summary),
            "started": record.started, "ended": record.ended, "temporary": False,
        }  # fmt: skip
    out: list[StepView] = []
    for step in (*plan.steps, *plan.then) if plan else ():
        if plan is not None and plan.undoes and step.undo == "none":
            continue  # it stays as it is
        shown = done.pop(step.id, None)
        if shown is None:
            shown = {
                "id": step.id, "use": step.use, "status": "planned", "summary": "",
                "started": None, "ended": None, "temporary": False,
            }  # fmt: skip
        shown["temporary"] = step.until is not None
        out.append(shown)
    return [*out, *done.values()]


def _outcome(run: Run) -> OutcomeView | None:
    o = run.outcome
    if o is None:
        return None
    numbers = {k: _number(v) for k, v in o.numbers.items()}
    return {
        "verdict": o.verdict, "summary": plainly(o.summary), "against": o.against, "numbers": numbers,
        "undone": o.undone,
    }  # fmt: skip


def rate_view(r: Rate) -> RateView:
    """Show a promised rate beside the measured one."""
    return {
        "per": "week" if r.unit_s == WEEK_S else "day", "promised": _number(r.promised),
        "sure": _number(r.sure), "perhaps": _number(r.perhaps), "low": _number(r.low),
        "high": _number(r.high), "verdict": r.verdict, "watched_s": r.watched_s, "unused": r.unused,
    }  # fmt: skip


def rate_words(r: RateView) -> str:
    """Say how the measured rate stands to the promise."""
    over = say_duration(r["watched_s"])
    if r["low"] is None or r["high"] is None:
        return f"not known yet, it takes a day of watching ({over} so far)"
    how = {"within": "within", "above": "ABOVE", "unknown": "it can not be told yet whether within"}
    return (
        f"{r['low']:.2g} to {r['high']:.2g} a {r['per']} (95 % sure, {over} watched), "
        f"{how[r['verdict']]} the promised {r['promised'] or 0.0:.3g}"
        + (", budget unused" if r["unused"] else "")
    )


def label_view(label: Label, signals: list[SignalView]) -> LabelView:
    """Show a label and what it does now."""
    rarer = [1.0 / s["factor"] for s in signals if s["factor"] < 1.0]
    more = [s["factor"] for s in signals if s["factor"] > 1.0]
    does = []
    if rarer:
        signals_ = many(len(rarer), "signal")
        does.append(f"{signals_} must be up to {max(rarer):.2g} times rarer to be named")
    if more:
        signals_ = many(len(more), "signal")
        does.append(f"{signals_} may be up to {max(more):.2g} times more common")
    return {
        "incident": label.incident, "label": label.word, "by": label.by, "note": label.note,
        "ts": label.ts, "signals": signals, "text": "; ".join(does) or "it changes no sensitivity",
    }  # fmt: skip


def doubt_view(d: Doubt) -> DoubtView:
    """Show what people said about a cause, and what it does now."""
    factor = round(d.times, 3)
    less = f"{1 / d.times:.2g} times less" if factor < 1 else f"{d.times:.2g} times more"
    return {
        "about": d.about, "cause": d.cause, "factor": factor, "wrong": d.wrong, "right": d.right,
        "text": f"{d.words}: it is believed {less} there",
    }  # fmt: skip


def correction_view(c: Correction, does: str) -> LabelView:
    """Show what a person said of the cause, and what that does now."""
    named = f"{c.wrong} of {c.of}" + (f"; it was {c.right}" if c.right else "")
    return {
        "incident": c.incident, "label": "not_the_cause", "by": c.by, "note": c.note, "ts": c.ts,
        "signals": [], "text": f"not {named}" + (f"; {does}" if does else ""),
    }  # fmt: skip


def incident_view(
    i: Incident,
    name: Name,
    label: str = "",
    *,
    snooze: Snooze | None = None,
    need: Need = NOBODY,
    called: Sequence[tuple[float, str]] = (),
) -> IncidentView:
    """Show an incident in one line."""
    top = i.diagnosis.top if i.diagnosis else None
    taken = acknowledged_by(i)
    return {
        "id": i.id, "state": i.state, "severity": i.severity, "title": i.title, "opened": i.opened,
        "updated": i.updated, "resolved": i.resolved, "reopened": i.reopened,
        "acknowledged_by": taken.by if taken else "", "merged_into": i.merged_into,
        "cause": top.kind if top else "", "cause_words": words(top.kind) if top else "",
        "cause_entity": entity_view(top.entity, name) if top else None,
        "probability": top.probability if top else None,
        "low_confidence": bool(i.diagnosis and i.diagnosis.low_confidence),
        "entities": [entity_view(e, name) for e in i.entities], "runs": list(i.runs),
        "label": label,
        "snoozed_until": snooze.until if snooze else None, "snoozed_by": snooze.by if snooze else "",
        "needs": need.code, "needs_you": need.why,
        "called": [{"ts": ts, "way": way} for ts, way in called],
    }  # fmt: skip


def incident_detail(
    i: Incident,
    runs: Sequence[RunView],
    decisions: Sequence[Decision],
    name: Name,
    label: LabelView | None = None,
    *,
    correction: LabelView | None = None,
    snooze: Snooze | None = None,
    need: Need = NOBODY,
    called: Sequence[tuple[float, str]] = (),
    questions: Sequence[Question] = (),
    now: float = math.nan,
) -> IncidentDetail:
    """Show an incident with all its evidence: harm first, then what stands out most."""

    def rank(a: Anomaly) -> tuple[bool, bool, bool, float, float]:
        return a.end is not None, not a.harm, a.road != "objective", a.p, -a.deviations

    ranked = sorted(i.anomalies, key=rank)
    d = i.diagnosis
    return {
        **incident_view(
            i, name, label["label"] if label else "", snooze=snooze, need=need, called=called
        ),
        "anomalies": [anomaly_view(a, name, now) for a in ranked],
        "changes": [change_view(c, name) for c in sorted(i.changes, key=lambda c: c.ts)],
        "causes": [cause_view(c, name) for c in (d.causes if d else ())],
        "rejected": [cause_view(c, name) for c in (d.rejected if d else ())],
        "hurts": [entity_view(e, name) for e in (d.hurts if d else ())],
        "more": i.more,
        "also": [entity_view(e, name) for e in i.also],
        "absorbed": list(i.absorbed),
        "turns": [
            {"ts": t.ts, "event": t.event, "state": t.state, "by": t.by, "why": t.why}
            for t in i.turns
        ],
        "logs_of": [entity_view(e, name) for e in (d.logs_of if d else ())],
        "traces": list(i.traces),
        "run_views": list(runs),
        "decisions": [decision_view(x, name) for x in decisions],
        "labelled": label,
        "corrected": correction,
        "questions": [question_view(q) for q in questions],
    }


def pause_view(p: Pause, *, file: bool = False) -> PauseView:
    """Show a stop."""
    return {"key": p.key, "by": p.by, "reason": p.reason, "since": p.since, "file": file}


def question_view(q: Question) -> QuestionView:
    """Show a question."""
    fields: list[FieldView] = [
        {
            "name": f.name,
            "kind": f.kind,
            "text": f.text,
            "choices": list(f.choices),
            "low": f.low,
            "high": f.high,
            "default": f.default,
        }
        for f in q.fields
    ]
    return {
        "id": q.id, "target": q.target, "text": q.text, "fields": fields, "role": q.role, "asked": q.asked,
        "until": q.until, "run": q.run,
    }  # fmt: skip


def silence_view(s: Silence) -> SilenceView:
    """Show a silence."""
    return {
        "id": s.id, "target": s.target, "cause": s.cause, "until": s.until, "by": s.by,
        "reason": s.reason, "created": s.created,
    }  # fmt: skip
