"""What a replay found, for programs and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from agent.units import many, say_duration

if TYPE_CHECKING:
    from agent.config import Config
    from agent.model import Incident, Run
    from agent.replay import Act, Difference, Found

_SAME_ACT_S: Final = 600.0
"""A recorded run of the same playbook on the same target so near is the same act."""
_MOST_SHOWN: Final = 40
_DAY_S: Final = 86_400.0


def iso(ts: float) -> str:
    """Say a moment."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def said_of(
    found: Found, took_s: float, recorded: Sequence[Incident], runs: Sequence[Run]
) -> dict[str, Any]:
    """Return all that was found, beside the incidents and runs that were recorded then."""
    from agent.replay import overlaps

    there = [
        i for i in recorded if i.opened <= found.end and (i.resolved or i.updated) >= found.start
    ]
    same = {one.id: [r.id for r in there if overlaps(one, r)] for one in found.incidents.values()}
    matched = {id_ for ids in same.values() for id_ in ids}
    walked = found.end - found.began
    gates: dict[str, set[tuple[str, str, str]]] = {}
    for held in found.held:
        for gate in held.gates:
            gates.setdefault(gate.name, set()).add((held.playbook, held.target.id, held.incident))
    for act in found.acts:
        for gate in act.held:
            gates.setdefault(gate.name, set()).add(
                (act.plan.playbook, act.plan.target, act.plan.incident)
            )
    return {
        "from": found.start, "to": found.end, "warmed_from": found.began,
        "series": len(found.series), "ticks": found.ticks, "cells": found.cells, "took_s": round(took_s, 3),
        "cells_per_second": round(found.cells / max(took_s, 1e-9)),
        "times_real_time": round(walked / max(took_s, 1e-9), 1),
        "incidents": [
            _incident(i, found, same[i.id])
            for i in sorted(found.incidents.values(), key=lambda i: (i.opened, i.id))
        ],
        "pages": len(found.pages), "pages_per_week": _every(len(found.pages), found, 7 * _DAY_S),
        "acts_per_day": _every(len(found.acts), found, _DAY_S),
        "acts": [_act(a, runs) for a in found.acts],
        "held": [
            {"playbook": h.playbook, "target": h.target.id, "incident": h.incident, "from": h.first, "to": h.last,
             "gates": [asdict(g) for g in h.gates]}
            for h in found.held
        ],
        "gates": {name: len(who) for name, who in sorted(gates.items(), key=lambda one: (-len(one[1]), one[0]))},
        "silent": [
            {"incident": incident, "playbook": playbook, "target": target, "reason": reason}
            for incident, some in sorted(found.silent.items())
            for (playbook, target), reason in sorted(some.items())
        ],
        "recorded": {
            "incidents": len(there), "matched": len(matched),
            "missed": [{"id": r.id, "opened": r.opened, "severity": r.severity, "title": r.title}
                       for r in sorted(there, key=lambda r: r.opened) if r.id not in matched],
        },
    }  # fmt: skip


def _every(many: int, found: Found, span_s: float) -> float:
    return round(many * span_s / (found.end - found.start), 3)


def _incident(one: Incident, found: Found, recorded: Sequence[str]) -> dict[str, Any]:
    top = one.diagnosis.top if one.diagnosis else None
    return {
        "id": one.id, "opened": one.opened, "resolved": one.resolved, "state": one.state, "severity": one.severity,
        "title": one.title, "about": one.about.id if one.about else "", "paged": found.pages.get(one.id),
        "cause": top.kind if top else "", "entity": top.entity.id if top else "",
        "probability": round(top.probability, 3) if top else None,
        "before": one.id in found.before, "merged_into": one.merged_into, "recorded": list(recorded),
    }  # fmt: skip


def _act(act: Act, runs: Sequence[Run]) -> dict[str, Any]:
    from agent.playbook.rehearsal import questions

    plan = act.plan
    did = [
        r.id for r in runs
        if (r.playbook, r.target.id) == (plan.playbook, plan.target) and abs(r.started - plan.created) <= _SAME_ACT_S
    ]  # fmt: skip
    return {
        "at": plan.created, "playbook": plan.playbook, "title": plan.title, "target": plan.target,
        "incident": plan.incident, "mode": plan.mode, "cause": plan.cause,
        "steps": [{"id": s.id, "use": s.use, "via": s.via, "with": dict(s.params), "undo": s.undo} for s in plan.steps],
        "asks": [asdict(a) | {"said": str(a)} for a in questions(plan)],
        "held": [asdict(g) for g in act.held], "hash": plan.hash, "verdict": "cannot_tell", "recorded": did,
    }  # fmt: skip


def differs(folder: str, of: Difference) -> dict[str, Any]:
    """Return where the playbooks of another folder would have acted otherwise."""
    return {
        "folder": folder, "differs": bool(of),
        "only_first": [_act(a, ()) for a in of.only_first], "only_against": [_act(a, ()) for a in of.only_second],
        "otherwise": [{"first": _act(a, ()), "against": _act(b, ())} for a, b in of.otherwise],
    }  # fmt: skip


def notes(found: Found, config: Config, kind: str) -> list[str]:
    """Say what a replay can not know, where it matters here."""
    out = []
    if found.acts:
        out.append(
            "nothing was done: what these acts would have changed, and their verdicts, are not known"
        )
    learnt = found.start - found.began
    if learnt < 0:
        later = say_duration(-learnt)
        out.append(
            f"what was recorded begins {later} after --from, and detectors began as new ones with it"
        )
    elif learnt < 600:
        when = f"{say_duration(learnt)} before" if learnt else "with it"
        out.append(f"detectors began as new ones {when}; a later --from lets them learn more first")
    if not found.graph:
        out.append(
            "who runs on and calls whom was not recorded: it is what agent.yaml and the names of the series say"
        )
    if config.forecasts.enabled:
        out.append(
            "forecasts are not made again: incidents that only a forecast opened are missing"
        )
    if config.detectors:
        out.append("joint detectors (`detectors:`) are not trained again: the bank alone looks")
    if kind == "history":
        out.append("alerts from elsewhere are not kept, so they are missing")
    if not config.manages:
        out.append("`manages:` in agent.yaml is empty, so the gate `scope` lets nothing act")
    return out


def show(said: Any) -> None:
    """Show a report to people."""

    def line(text: str) -> None:
        typer.echo(text)

    line(
        f"{iso(said['from'])} to {iso(said['to'])} ({say_duration(said['to'] - said['from'])}), "
        f"{said['series']} series, {many(said['playbooks'], 'playbook')}; "
        f"walked in {said['took_s']:.1f} s, {said['times_real_time']:,.0f} times as fast as it went"
    )
    recorded = said["recorded"]
    incidents = [i for i in said["incidents"] if not i["merged_into"]]
    there = (
        f"; the journal has {recorded['incidents']}, of which {recorded['matched']} are found again"
    )
    line(
        f"\n{many(len(incidents), 'incident')}, {said['pages']} paged"
        + (there if said["past"]["kind"] == "history" else "")
    )
    for i in incidents[:_MOST_SHOWN]:
        cause = f": {i['cause']} on {i['entity']}, {i['probability']:.0%}" if i["cause"] else ""
        tail = "  (recorded)" if i["recorded"] else ""
        line(
            f"  {iso(i['opened'])}  {'page' if i['paged'] else i['severity']:8}{i['title']}{cause}{tail}"
        )
    _more(incidents)
    for r in recorded["missed"]:
        line(f"  {iso(r['opened'])}  not found again: {r['title']} ({r['severity']})")
    line(f"\n{many(len(said['acts']), 'would-be act')}")
    for a in said["acts"][:_MOST_SHOWN]:
        line(f"  {iso(a['at'])}  {_acts(a)}")
        for said_of_it in _about(a):
            line(f"      {said_of_it}")
    _more(said["acts"])
    if said["held"]:
        line(f"\n{many(len(said['held']), 'time')} the guard stopped what had fired")
        for h in said["held"][:_MOST_SHOWN]:
            why = "; ".join(
                f"{g['name']} {g['value']}" + (f": {g['reason']}" if g["reason"] else "")
                for g in h["gates"]
            )
            line(f"  {iso(h['from'])}  {h['playbook']} on {h['target']}: {why}")
        _more(said["held"])
    if "against" in said:
        _show_difference(said["against"])
    line("")
    for one in said["notes"]:
        line(f"note: {one}")


def _about(a: Any) -> list[str]:
    held = ", ".join(g["name"] for g in a["held"])
    return [*(one["said"] for one in a["asks"]), *([f"no further by {held}"] if held else [])]


def _acts(a: Any) -> str:
    word = {"suggest": "suggests", "approve": "asks for", "auto": "does", "observe": "notes"}[
        a["mode"]
    ]
    steps = ", ".join(
        s["use"] + (f" {', '.join(f'{k}={v}' for k, v in s['with'].items())}" if s["with"] else "")
        for s in a["steps"]
    )
    return f"{a['playbook']} on {a['target']} {word}: {steps}"


def _more(some: Sequence[Any]) -> None:
    if len(some) > _MOST_SHOWN:
        typer.echo(f"  and {len(some) - _MOST_SHOWN} more: --json has all")


def _show_difference(of: Any) -> None:
    typer.echo(f"\nagainst {of['folder']}: " + ("" if of["differs"] else "the same acts"))
    for a in of["only_first"]:
        typer.echo(f"  - {iso(a['at'])}  {_acts(a)}")
    for a in of["only_against"]:
        typer.echo(f"  + {iso(a['at'])}  {_acts(a)}")
    for pair in of["otherwise"]:
        typer.echo(
            f"  ~ {iso(pair['first']['at'])}  {_acts(pair['first'])}\n    now: {_acts(pair['against'])}"
        )
