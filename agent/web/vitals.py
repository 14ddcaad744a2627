"""How the daemon is, for /health, /ready and /metrics: read when somebody asks, kept up to date by nobody."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from agent import expected
from agent.handoff import NOBODY
from agent.units import many

if TYPE_CHECKING:
    from agent.daemon import Daemon
    from agent.desk import Desk
    from agent.events import Events
    from agent.memory import Memory
    from agent.telemetry import Telemetry

_STUCK_S: Final = 10.0
"""Ticks come every second; after so long without one the walk stands still."""
_MOST_GOING_ON: Final = 50
"""Incidents and runs that /metrics names one by one."""


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


def measure_daemon(daemon: Daemon, telemetry: Telemetry) -> None:
    """Set the gauges that the desk knows nothing of: how late ticks are, what was left out, what sinks took."""
    telemetry.set("homeostat_tick_lag_seconds", daemon.lag_s)
    expected.measure(telemetry, daemon.walk.monitor.watches.values())
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
