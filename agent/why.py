"""The answer to `why`: about ten lines that a tired person understands, and all that they were made of.

    incident with its evidence + points of history -> lines (what, state, cause, because, not, done, next) -> WhyView

The first word of a line tells what it is. Lines that help least give way when there are too many. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.units import many, say, say_duration
from agent.views import (
    AnomalyView,
    CauseView,
    DecisionView,
    IncidentDetail,
    IncidentView,
    PauseView,
    PointsView,
    QuestionView,
    RunView,
    WhyView,
    clock,
    only_suggested,
)

MOST_LINES: Final = 11
_WIDE: Final = 158
"""Longer lines are cut: two rows of a terminal of 80 columns."""
_TRACES: Final = 2
SPARKS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = "·"

_STATE_WORDS: Final = {
    "waiting_approval": "waits for a person", "acting": "is acting", "verifying": "is being checked",
    "holding": "holds a temporary measure", "undoing": "is being undone", "paused": "is paused",
    "done": "done", "failed": "failed", "denied": "denied", "expired": "expired: nobody answered",
    "suggested": "suggested",
}  # fmt: skip
_VERDICT_WORDS: Final = {
    "helped": "helped", "no_effect": "had no effect", "harmed": "did harm",
    "cannot_tell": "can not be told from chance",
}  # fmt: skip
_GIVES_WAY: Final = (
    "Joint",
    "Together",
    "Label",
    "Person",
    "Called",
    "Traces",
    "More",
    "Or",
    "Held",
)
"""Kinds of lines that go first when there are too many, in this order."""


def spark(values: Sequence[float | None], floor: float = 0.0) -> str:
    """Draw numbers as one line of blocks, low to high; a gap where nothing is known.

    floor   a range smaller than this, or than a quarter of the level, does not fill the height: what can not matter
            shall not look dramatic
    """
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = max(high - low, floor, 0.25 * abs(high), 1e-12)
    top = len(SPARKS) - 1
    return "".join(
        SPARKS[round(top * (v - low) / span)] if v is not None and math.isfinite(v) else _GAP
        for v in values
    )


def why_view(
    detail: IncidentDetail,
    pauses: Sequence[PauseView],
    now: float,
    charts: Sequence[PointsView] = (),
) -> WhyView:
    """Answer `why`: what, cause, evidence, what it is not, what was done, what comes next."""
    shown: Any = {k: detail[k] for k in IncidentView.__annotations__}  # type: ignore[literal-required]  # its own keys
    top = detail["causes"][0] if detail["causes"] else None
    because = [e for e in top["evidence"] if e["weight"] > 0][:3] if top else []
    held = [d for d in detail["decisions"] if not d["allowed"]]
    drawn = {c["series"]: c["spark"] for c in charts if c["spark"]}
    lines = [f"{detail['id']}  {detail['title']}", _standing(detail, now), _cause_line(detail, top)]
    lines += _evidence(detail, because, drawn)
    coming = [a for a in detail["anomalies"] if a["ahead"] and a["end"] is None]
    if coming and detail["resolved"] is None:
        lines.append("Ahead:    " + "; ".join(_coming(a) for a in coming[:3]))
    lines += _others(detail)
    runs = [r for r in detail["run_views"] if not only_suggested(r)]
    lines += [f"Run:      {run_words(r)}" for r in runs[-2:]]
    if held and not any(r["live"] for r in detail["run_views"]):
        lines.append(f"Held:     {_gate_line(held[-1])}")
    if label := detail["labelled"]:
        note = f" ({label['note']})" if label["note"] else ""
        lines.append(f"Label:    {label['label']}, by {label['by']}{note}; {label['text']}")
    if calls := detail["called"]:
        whom = ", ".join(f"{c['way']} at {clock(c['ts'], now)}" for c in calls[-3:])
        lines.append(f"Called:   {whom}")
    if said := detail["corrected"]:
        note = f" ({said['note']})" if said["note"] else ""
        lines.append(f"Person:   {said['text']}, says {said['by']}{note}")
    if found := detail["traces"]:
        rest = f" and {len(found) - _TRACES} more, see --json" if len(found) > _TRACES else ""
        lines.append(f"Traces:   {', '.join(found[:_TRACES])}{rest}")
    step = next_step(detail, held, pauses)
    lines.append(f"Next:     {step}")
    return {
        "incident": shown, "text": _fitted(lines), "because": because, "causes": detail["causes"],
        "rejected": detail["rejected"], "charts": list(charts), "logs_of": detail["logs_of"],
        "traces": found, "turns": detail["turns"], "runs": detail["run_views"], "held_back": held,
        "next": step,
    }  # fmt: skip


def _fitted(lines: list[str]) -> list[str]:
    """Let the lines that help least go, until they are few enough; cut what is too long."""
    out = list(lines)
    for word in _GIVES_WAY:
        if len(out) <= MOST_LINES:
            break
        out = [line for line in out if not line.startswith(f"{word}:")]
    return [cut(line) for line in out]


def cut(line: str, wide: int = _WIDE) -> str:
    """Cut a line that is too long, and show that it was."""
    return line if len(line) <= wide else line[: wide - 3].rstrip() + "..."


# ---------------------------------------------------------------- lines


def _evidence(
    detail: IncidentDetail, because: Sequence[Any], drawn: Mapping[str, str]
) -> list[str]:
    lines = []
    for e in because:
        line = drawn.get(e["series"] or "", "")
        room = _WIDE - len(line) - 2 if line else _WIDE
        lines.append(cut(f"Because:  {e['text']}", room) + (f"  {line}" if line else ""))
    if not because:
        first = {
            a["series"]: a for a in reversed(detail["anomalies"])
        }  # its objective, then itself
        for a in [a for a in detail["anomalies"] if first[a["series"]] is a][:2]:
            line = drawn.get(a["series"], "")
            lines.append(f"Seen:     {a['text']}" + (f"  {line}" if line else ""))
    together = [a for a in detail["anomalies"] if a["together"] is not None]
    if together:
        p = min(a["together"] or 1.0 for a in together)
        lines.append(
            f"Together: {len(together)} series at once, chance {p:.1g} a row: {_few(together)}"
        )
    joint = (_joint_line(a) for a in detail["anomalies"] if a["family"] == "joint")
    lines += list(dict.fromkeys(joint))[:2]
    if detail["more"] or len(detail["also"]) > 1:
        lines.append(f"More:     {_how_much(detail)}")
    return lines


def _coming(a: AnomalyView) -> str:
    """Say what will be full, and when."""
    limit = a["high"] if a["high"] is not None else a["low"]
    to = "" if limit is None else f" {say(limit, a['unit'])}"
    return f"{a['title']} of {a['entity']['name']}{to} {a['ahead']}"


def _joint_line(a: AnomalyView) -> str:
    """Say what does not fit together; a detector over many series said so, and who carries it."""
    others = [title for title in a["carriers"] if title != a["title"]]
    with_them = f", and with it {', '.join(others)}" if others else ""
    return f"Joint:    {a['title']} left what the series beside it say of it{with_them}"


def _how_much(detail: IncidentDetail) -> str:
    """Say how large a storm is, in one line."""
    kept = len(detail["anomalies"])
    series = f"{kept} abnormal series" + (f" and {detail['more']} more" if detail["more"] else "")
    names = [e["name"] for e in detail["also"]]
    if not names:
        return series
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{series}; it is shared by {', '.join(names[:3])}{rest}"


def _others(detail: IncidentDetail) -> list[str]:
    lines = []
    second = [c for c in detail["causes"][1:] if c["kind"] != "unknown"]
    if second:
        said = (
            f"{c['kind']} of {c['entity']['name']} ({100 * c['probability']:.0f} %)"
            for c in second[:2]
        )
        lines.append(f"Or:       {', '.join(said)}")
    if detail["rejected"]:
        kinds = {c["kind"]: c for c in reversed(detail["rejected"])}
        lines.append("Not:      " + "; ".join(_against(c) for c in list(kinds.values())[:-3:-1]))
    return lines


def run_words(run: RunView) -> str:
    """Say a run in one line; of one that was denied or stopped by whom, and why when they said so."""
    outcome = run["outcome"]
    whose = "undo of " if run["undoes"] else ""
    said = f"{whose}{run['playbook']} on {run['target']['name']}: "
    undone = ", undone" if outcome is not None and outcome["undone"] else ""
    # a no before the verdict: nothing was measured that could be told
    unjudged = outcome is None or outcome["summary"] == run["text"]
    if run["state"] == "denied" and run["text"] and unjudged:
        return said + run["text"] + undone
    if outcome is not None:
        return (
            said
            + f"{_VERDICT_WORDS.get(outcome['verdict'], outcome['verdict'])}{undone} ({outcome['summary']})"
        )
    return said + _STATE_WORDS.get(run["state"], run["state"])


def _few(found: Sequence[AnomalyView], most: int = 3) -> str:
    names = list(dict.fromkeys(a["title"] for a in found))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _standing(detail: IncidentDetail, now: float) -> str:
    since = clock(detail["opened"], now)
    if detail["merged_into"]:
        why = detail["turns"][-1]["why"].partition(": ")[2] if detail["turns"] else ""
        return f"State:    merged into {detail['merged_into']}" + (f" ({why})" if why else "")
    if detail["resolved"] is not None:
        lasted = say_duration(detail["resolved"] - detail["opened"])
        return (
            f"State:    resolved, it lasted {lasted} ({since} to {clock(detail['resolved'], now)})"
        )
    times = detail["reopened"]
    again = f", came back {many(times, 'time')}" if times else ""
    lasts = say_duration(max(0.0, now - detail["opened"]))
    return (
        f"State:    {detail['state']} for {lasts}, since {since} ({detail['severity']})"
        f"{again}{_taken(detail)}{_put_off(detail, now)}"
    )


def _put_off(detail: IncidentDetail, now: float) -> str:
    until = detail["snoozed_until"]
    by = detail["snoozed_by"].partition(" (")[0]
    return "" if until is None else f"; put off by {by} until {clock(until, now)}"


def _taken(detail: IncidentDetail) -> str:
    """Say who has it, and what they said."""
    by = detail["acknowledged_by"]
    if not by:
        return ""
    turn = next(t for t in reversed(detail["turns"]) if t["event"] == "acknowledged")
    why = f": {turn['why']}" if turn["why"] else ""
    return f"; {by.partition(' (')[0]} has it{why}"


def _cause_line(detail: IncidentDetail, top: CauseView | None) -> str:
    if top is None:
        return "Cause:    not diagnosed yet, evidence is being gathered"
    if top["kind"] == "unknown":
        moved = next((e["text"] for e in top["evidence"] if e["series"] is not None), "")
        if moved:
            return f"Cause:    {top['words']}; {moved}"
        where = [e["name"] for e in detail["logs_of"]]
        if not where:
            return f"Cause:    {top['words']}"
        called = f", then of {', '.join(where[1:])} which it calls" if len(where) > 1 else ""
        return f"Cause:    no metric evidence: look at the logs of {where[0]}{called}"
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


def _at_work(detail: IncidentDetail) -> str:
    """Say what the runs of an incident wait for, or do; "" = none lives."""
    if detail["questions"]:
        return _asked(detail["questions"][0])
    live = next((r for r in reversed(detail["run_views"]) if r["live"] and not r["asks"]), None)
    asking = next((r for r in reversed(detail["run_views"]) if r["asks"]), None)
    if live is not None:
        return f"wait: run {live['id']} {_STATE_WORDS.get(live['state'], live['state'])}"
    return f"your turn: homeostat approve {asking['id']} (or deny it)" if asking is not None else ""


def _asked(q: QuestionView) -> str:
    names = " ".join(f"{f['name']}=..." for f in q["fields"])
    first = q["text"].strip().partition("\n")[0]
    return f"your turn, a run asks: {first} homeostat answer {q['id']} {names}"


def next_step(
    detail: IncidentDetail, held: Sequence[DecisionView], pauses: Sequence[PauseView]
) -> str:
    """Say what the reader can do now."""
    if detail["merged_into"]:
        return f"homeostat why {detail['merged_into']}"
    if detail["state"] == "resolved":
        return "nothing; it is over"
    everything = next((p for p in pauses if p["key"] == "*"), None)
    if everything is not None:
        return f"everything is paused by {everything['by'] or 'somebody'}; homeostat resume lets it act again"
    if work := _at_work(detail):
        return work
    if detail["state"] == "mitigated":
        return "wait: it is well, and has to stay so for a while"
    if not detail["causes"]:
        return "wait a moment for the diagnosis"
    look = f"needs you: {detail['needs_you']}" if detail["needs_you"] else "a person has to look"
    if not detail["acknowledged_by"]:
        look += f"; take it: homeostat ack {detail['id']}"
    if detail["needs_you"]:
        return look
    return f"no playbook {'may act (see Held)' if held else 'is meant for this'}; {look}"
