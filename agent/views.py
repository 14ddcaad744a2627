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
from agent.filling import Forecast, when
from agent.memory import Label, Pause, Silence
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
)
from agent.runner import Plan
from agent.units import say, say_duration

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
    """One hypothesis."""

    kind: str
    words: str
    entity: EntityView
    others: list[EntityView]
    probability: float
    evidence: list[EvidenceView]
    facts: dict[str, str]


class AnomalyView(TypedDict):
    """One series that left what is ordinary for it. low, high: the band that was expected, null = open."""

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
    """

    per: str
    promised: float | None
    sure: float | None
    perhaps: float | None
    low: float | None
    high: float | None
    verdict: str
    watched_s: float


class SignalView(TypedDict):
    """What labels say of a signal. factor 0.33: it must be three times rarer to be named."""

    signal: str
    factor: float


class LabelView(TypedDict):
    """What a person said about an incident, and what came of it."""

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
    """A playbook at work on one target."""

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


class IncidentView(TypedDict):
    """An incident in one line."""

    id: str
    state: str
    severity: str
    title: str
    opened: float
    updated: float
    resolved: float | None
    reopened: int
    cause: str
    cause_words: str
    cause_entity: EntityView | None
    probability: float | None
    low_confidence: bool
    entities: list[EntityView]
    runs: list[str]
    label: str


class IncidentDetail(IncidentView):
    """An incident with all its evidence."""

    anomalies: list[AnomalyView]
    changes: list[ChangeView]
    causes: list[CauseView]
    rejected: list[CauseView]
    hurts: list[EntityView]
    run_views: list[RunView]
    decisions: list[DecisionView]
    labelled: LabelView | None


class WhyView(TypedDict):
    """The answer to `why`: text is for people, line by line; the rest is what it was made of."""

    incident: IncidentView
    text: list[str]
    because: list[EvidenceView]
    rejected: list[CauseView]
    runs: list[RunView]
    held_back: list[DecisionView]
    next: str


class PauseView(TypedDict):
    """A stop. key `*` = everything; file: it stands in the file PAUSED."""

    key: str
    by: str
    reason: str
    since: float
    file: bool


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
    said = re.sub(
        r"\b(cpu|gpu|tcp|udp|psi|ecc|pcie)\b",
        lambda m: m.group().upper(),
        said,
        flags=re.IGNORECASE,
    )
    inner = ", ".join(f"{k} {v}" for k, v in series.labels)
    return f"{said} ({inner})" if inner else said


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
    if unit == "bool":
        return a.family or SIGNALS[a.series.metric].help
    what = f"{title_of(a.series)} of {name(a.series.entity)}"
    if a.ahead is not None:
        limit = say(a.high if a.direction > 0 else a.low, unit)
        return f"{what} is {say(a.value, unit)} and on its way to {limit}"
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


def cause_view(c: Cause, name: Name) -> CauseView:
    """Show a hypothesis, its strongest evidence first."""
    evidence = sorted(c.evidence, key=lambda e: -abs(e.weight))
    return {
        "kind": c.kind, "words": words(c.kind), "entity": entity_view(c.entity, name),
        "others": [entity_view(e, name) for e in c.others], "probability": c.probability,
        "evidence": [evidence_view(e) for e in evidence], "facts": dict(c.facts),
    }  # fmt: skip


def anomaly_view(a: Anomaly, name: Name, now: float = math.nan) -> AnomalyView:
    """Show an anomaly; with `now`, also in how long what is foretold will be."""
    d = SIGNALS[a.series.metric]
    return {
        "series": str(a.series), "title": title_of(a.series),
        "entity": entity_view(a.series.entity, name), "text": anomaly_words(a, name),
        "onset": a.onset, "end": a.end, "value": _number(a.value), "low": _number(a.low),
        "high": _number(a.high), "unit": d.unit, "road": a.road, "family": a.family, "harm": a.harm,
        "together": _number(a.together),
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
        "after": c.after, "by": c.by, "text": c.text, "ours": c.ours,
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


def run_view(run: Run, plan: Plan | None, decision: Decision | None, name: Name) -> RunView:
    """Show a run: what was planned, what is done, what was proven."""
    asks = run.state in {"waiting_approval", "suggested"}
    approve: ApprovalView | None = None
    if plan is not None and plan.approve is not None:
        waits = run.state == "waiting_approval"
        expires = run.started + plan.approve.timeout if waits else None
        approve = {
            "by": plan.approve.by,
            "expires": expires,
            "on_timeout": plan.approve.on_timeout,
        }
    return {
        "id": run.id, "playbook": run.playbook, "title": plan.title if plan else run.playbook,
        "target": entity_view(run.target, name), "incident": run.incident, "mode": run.mode,
        "state": run.state, "live": run.state not in ENDED, "asks": asks, "started": run.started,
        "updated": run.updated, "plan_hash": run.plan_hash, "text": run.text,
        "by": plan.by if plan else "", "steps": _steps(run, plan),
        "expect": list(plan.verify.expect) if plan and plan.verify else [],
        "approve": approve, "outcome": _outcome(run), "gates": gates_view(decision),
    }  # fmt: skip


def _steps(run: Run, plan: Plan | None) -> list[StepView]:
    done: dict[str, StepView] = {}
    for record in run.steps:  # a later record of the same step (undone) is what it is now
        done[record.id] = {
            "id": record.id, "use": record.use, "status": record.status, "summary": record.summary,
            "started": record.started, "ended": record.ended, "temporary": False,
        }  # fmt: skip
    out: list[StepView] = []
    for step in (*plan.steps, *plan.then) if plan else ():
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
        "verdict": o.verdict, "summary": o.summary, "against": o.against, "numbers": numbers,
        "undone": o.undone,
    }  # fmt: skip


def rate_view(r: Rate) -> RateView:
    """Show a promised rate beside the measured one."""
    return {
        "per": "week" if r.unit_s == WEEK_S else "day", "promised": _number(r.promised),
        "sure": _number(r.sure), "perhaps": _number(r.perhaps), "low": _number(r.low),
        "high": _number(r.high), "verdict": r.verdict, "watched_s": r.watched_s,
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
    )


def label_view(label: Label, signals: list[SignalView]) -> LabelView:
    """Show a label and what it does now."""
    rarer = [1.0 / s["factor"] for s in signals if s["factor"] < 1.0]
    more = [s["factor"] for s in signals if s["factor"] > 1.0]
    does = []
    if rarer:
        does.append(
            f"{_signals(len(rarer))} must be up to {max(rarer):.2g} times rarer to be named"
        )
    if more:
        does.append(f"{_signals(len(more))} may be up to {max(more):.2g} times more common")
    return {
        "incident": label.incident, "label": label.word, "by": label.by, "note": label.note,
        "ts": label.ts, "signals": signals, "text": "; ".join(does) or "it changes no sensitivity",
    }  # fmt: skip


def _signals(n: int) -> str:
    return "1 signal" if n == 1 else f"{n} signals"


def incident_view(i: Incident, name: Name, label: str = "") -> IncidentView:
    """Show an incident in one line."""
    top = i.diagnosis.top if i.diagnosis else None
    return {
        "id": i.id, "state": i.state, "severity": i.severity, "title": i.title, "opened": i.opened,
        "updated": i.updated, "resolved": i.resolved, "reopened": i.reopened,
        "cause": top.kind if top else "", "cause_words": words(top.kind) if top else "",
        "cause_entity": entity_view(top.entity, name) if top else None,
        "probability": top.probability if top else None,
        "low_confidence": bool(i.diagnosis and i.diagnosis.low_confidence),
        "entities": [entity_view(e, name) for e in i.entities], "runs": list(i.runs),
        "label": label,
    }  # fmt: skip


def incident_detail(
    i: Incident,
    runs: Sequence[RunView],
    decisions: Sequence[Decision],
    name: Name,
    label: LabelView | None = None,
    *,
    now: float = math.nan,
) -> IncidentDetail:
    """Show an incident with all its evidence: harm first, then what stands out most."""

    def rank(a: Anomaly) -> tuple[bool, bool, bool, float, float]:
        return a.end is not None, not a.harm, a.road != "objective", a.p, -a.deviations

    ranked = sorted(i.anomalies, key=rank)
    d = i.diagnosis
    return {
        **incident_view(i, name, label["label"] if label else ""),
        "anomalies": [anomaly_view(a, name, now) for a in ranked],
        "changes": [change_view(c, name) for c in sorted(i.changes, key=lambda c: c.ts)],
        "causes": [cause_view(c, name) for c in (d.causes if d else ())],
        "rejected": [cause_view(c, name) for c in (d.rejected if d else ())],
        "hurts": [entity_view(e, name) for e in (d.hurts if d else ())],
        "run_views": list(runs),
        "decisions": [decision_view(x, name) for x in decisions],
        "labelled": label,
    }


def pause_view(p: Pause, *, file: bool = False) -> PauseView:
    """Show a stop."""
    return {"key": p.key, "by": p.by, "reason": p.reason, "since": p.since, "file": file}


def silence_view(s: Silence) -> SilenceView:
    """Show a silence."""
    return {
        "id": s.id, "target": s.target, "cause": s.cause, "until": s.until, "by": s.by,
        "reason": s.reason, "created": s.created,
    }  # fmt: skip


# ---------------------------------------------------------------- why

_STATE_WORDS = {
    "waiting_approval": "waits for a person", "acting": "is acting", "verifying": "is being checked",
    "holding": "holds a temporary measure", "undoing": "is being undone", "paused": "is paused",
    "done": "done", "failed": "failed", "denied": "denied", "expired": "expired: nobody answered",
    "suggested": "suggested",
}  # fmt: skip
_VERDICT_WORDS = {
    "helped": "helped", "no_effect": "had no effect", "harmed": "did harm",
    "cannot_tell": "can not be told from chance",
}  # fmt: skip


def run_words(run: RunView) -> str:
    """Say a run in one line."""
    outcome = run["outcome"]
    said = f"{run['playbook']} on {run['target']['name']}: "
    if outcome is not None:
        undone = ", undone" if outcome["undone"] else ""
        return (
            said
            + f"{_VERDICT_WORDS.get(outcome['verdict'], outcome['verdict'])}{undone} ({outcome['summary']})"
        )
    return said + _STATE_WORDS.get(run["state"], run["state"])


def why_view(detail: IncidentDetail, pauses: Sequence[PauseView], now: float) -> WhyView:
    """Answer `why` in about ten lines: what, cause, evidence, what it is not, what was done, what comes next."""
    shown: Any = {k: detail[k] for k in IncidentView.__annotations__}  # type: ignore[literal-required]  # its own keys
    top = detail["causes"][0] if detail["causes"] else None
    because = [e for e in top["evidence"] if e["weight"] > 0][:3] if top else []
    held = [d for d in detail["decisions"] if not d["allowed"]]
    lines = [f"{detail['id']}  {detail['title']}", _standing(detail, now), _cause_line(detail, top)]
    lines += [f"Because:  {e['text']}" for e in because]
    if not because:
        lines += [f"Seen:     {a['text']}" for a in detail["anomalies"][:2]]
    together = [a for a in detail["anomalies"] if a["together"] is not None]
    if together:
        p = min(a["together"] or 1.0 for a in together)
        lines.append(
            f"Together: {len(together)} series at once, chance {p:.1g} a row: {_few(together)}"
        )
    coming = [a for a in detail["anomalies"] if a["ahead"] and a["end"] is None]
    if coming and detail["resolved"] is None:
        lines.append("Ahead:    " + "; ".join(_coming(a) for a in coming[:3]))
    if detail["rejected"]:
        lines.append("Not:      " + "; ".join(_against(c) for c in detail["rejected"][:2]))
    lines += [f"Run:      {run_words(r)}" for r in detail["run_views"][-2:]]
    if held and not any(r["live"] for r in detail["run_views"]):
        lines.append(f"Held:     {_gate_line(held[-1])}")
    if label := detail["labelled"]:
        note = f" ({label['note']})" if label["note"] else ""
        lines.append(f"Label:    {label['label']}, by {label['by']}{note}; {label['text']}"[:158])
    step = next_step(detail, held, pauses)
    lines.append(f"Next:     {step}")
    return {
        "incident": shown, "text": lines, "because": because, "rejected": detail["rejected"],
        "runs": detail["run_views"], "held_back": held, "next": step,
    }  # fmt: skip


def _coming(a: AnomalyView) -> str:
    """Say what will be full, and when."""
    limit = a["high"] if a["high"] is not None else a["low"]
    to = "" if limit is None else f" {say(limit, a['unit'])}"
    return f"{a['title']} of {a['entity']['name']}{to} {a['ahead']}"


def _few(found: Sequence[AnomalyView], most: int = 3) -> str:
    names = list(dict.fromkeys(a["title"] for a in found))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _standing(detail: IncidentDetail, now: float) -> str:
    since = clock(detail["opened"], now)
    if detail["resolved"] is not None:
        lasted = say_duration(detail["resolved"] - detail["opened"])
        return (
            f"State:    resolved, it lasted {lasted} ({since} to {clock(detail['resolved'], now)})"
        )
    again = f", came back {detail['reopened']} times" if detail["reopened"] else ""
    lasts = say_duration(max(0.0, now - detail["opened"]))
    return f"State:    {detail['state']} for {lasts}, since {since} ({detail['severity']}){again}"


def _cause_line(detail: IncidentDetail, top: CauseView | None) -> str:
    if top is None:
        return "Cause:    not diagnosed yet, evidence is being gathered"
    if top["kind"] == "unknown":
        return f"Cause:    {top['words']}"
    doubt = ", low confidence" if detail["low_confidence"] else ""
    sure = f"{100 * top['probability']:.0f} % sure{doubt}"
    return f"Cause:    {top['words']}: {top['entity']['name']} ({top['kind']}, {sure})"


def _against(cause: CauseView) -> str:
    reason = next(
        (e["text"] for e in cause["evidence"] if e["weight"] < 0), "too little speaks for it"
    )
    return f"{cause['kind']} ({reason})"


def _gate_line(decision: DecisionView) -> str:
    gate = next((g for g in decision["gates"] if not g["passed"]), None)
    why = f"gate {gate['name']}: {gate['reason'] or gate['value']}" if gate else "by the guard"
    return f"{decision['playbook']} on {decision['target']['name']}, {why}"


def next_step(
    detail: IncidentDetail, held: Sequence[DecisionView], pauses: Sequence[PauseView]
) -> str:
    """Say what the reader can do now."""
    if detail["state"] == "resolved":
        return "nothing; it is over"
    everything = next((p for p in pauses if p["key"] == "*"), None)
    asking = next((r for r in reversed(detail["run_views"]) if r["asks"]), None)
    live = next((r for r in reversed(detail["run_views"]) if r["live"] and not r["asks"]), None)
    if everything is not None:
        return f"everything is paused by {everything['by'] or 'somebody'}; homeostat resume lets it act again"
    if live is not None:
        return f"wait: run {live['id']} {_STATE_WORDS.get(live['state'], live['state'])}"
    if asking is not None:
        return f"your turn: homeostat approve {asking['id']} (or deny it)"
    if held:
        return "no playbook may act (see Held); a person has to look"
    if not detail["causes"]:
        return "wait a moment for the diagnosis"
    return "no playbook is meant for this; a person has to look"
