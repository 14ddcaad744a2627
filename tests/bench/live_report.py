"""What a live run showed, as figures, as JSON and as tables. Pure but for the names of the machine."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil
from live_faults import EXPLAINED
from live_match import Broken, Finding, Told, by_signal, chance, find, outside
from live_work import Done

from agent.budget import Promise

MOST_LISTED = 30
ECHO_S = 30.0
"""A page comes when its incident has been looked at for a while: perhaps after the fault."""


@dataclass(slots=True)
class Seen:
    """All that was written down in a run. start, ordinary_end: the time in which every alarm is false."""

    start: float = 0.0
    ordinary_end: float = 0.0
    end: float = 0.0
    faults: list[Broken] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    pages: list[dict[str, Any]] = field(default_factory=list)
    budget: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    work: list[Done] = field(default_factory=list)


# ---------------------------------------------------------------- the figures


def counted(seen: Seen, what: str) -> float:
    """Return how much a figure of the ledger grew in the ordinary time."""
    within = [one[what] for one in seen.ledger if one["at"] <= seen.ordinary_end]
    before = [one[what] for one in seen.ledger if one["at"] <= seen.start]
    return float(within[-1] - (before[-1] if before else 0.0)) if within else 0.0


def ordinary(seen: Seen, promise: Promise) -> dict[str, float]:
    """The figures of the ordinary time."""
    hours = (seen.ordinary_end - seen.start) / 3600

    def inside(ts: float) -> bool:
        return seen.start <= ts < seen.ordinary_end

    alarms = [t for t in seen.told if inside(t.at)]
    days = counted(seen, "series_days")
    opened = [i for i in seen.incidents if inside(i["opened"])]
    paged = [p for p in seen.pages if p["severity"] == "page"]
    return {
        "hours": hours,
        "pages": sum(inside(p["ts"]) for p in paged),
        "pages_budget": promise.pages_per_week * hours / 168,
        "pages_outside_faults": sum(outside(p["ts"], seen.faults, ECHO_S) for p in paged),
        "incidents": len(opened),
        "host_alarms": counted(seen, "notes"),
        "host_alarms_budget": promise.notes_per_day * hours / 24,
        "anomalies": len(alarms),
        "anomalies_per_series_day": len(alarms) / days if days else math.nan,
        "anomalies_per_series_day_budget": promise.anomalies_per_series_day,
        "anomalies_alone": sum(t.alone for t in alarms),
        "series": seen.status.get("usage", {}).get("series", math.nan),
        "tightness": seen.ledger[-1]["tightness"] if seen.ledger else math.nan,
        "bugs": sum(seen.status.get("usage", {}).get("bugs", {}).values()),
        "ticks_late": seen.status.get("usage", {}).get("late_ticks", math.nan),
    }


def rows_of(figures: Mapping[str, float], found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the rows of the report; a fault that was missed has no delay."""
    out = dict(figures)
    for one in found:
        name = one.fault.name
        out[f"found_{name}"] = float(one.first is not None)
        if one.delay_s is not None:
            out[f"delay_s_{name}"] = round(one.delay_s, 2)
        if one.incident is not None:
            out[f"incident_delay_s_{name}"] = round(one.incident["opened"] - one.fault.start, 2)
        if one.page is not None:
            out[f"page_delay_s_{name}"] = round(one.page["ts"] - one.fault.start, 2)
    return [
        {"set": "live", "subject": "homeostat", "figure": figure, "value": value}
        for figure, value in out.items()
        if not math.isnan(value)
    ]


def report(seen: Seen, promise: Promise) -> tuple[dict[str, Any], list[Finding]]:
    """Return build/bench/live.json as data, and what became of each fault."""
    found = [find(f, seen.told, seen.incidents, seen.pages) for f in seen.faults]
    alarms = [t for t in seen.told if seen.start <= t.at < seen.ordinary_end]
    return {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows_of(ordinary(seen, promise), found),
        "faults": [
            {
                "name": f.fault.name, "how": f.fault.how, "start": f.fault.start, "end": f.fault.end,
                "found": f.first is not None, "delay_s": f.delay_s, "roads": dict(f.roads),
                "signs_by_chance": chance(f.fault, seen.told, seen.start, seen.ordinary_end),
                "first": f.first and asdict(f.first),
                "signs": [asdict(t) for t in f.signs[:MOST_LISTED]],
                "beside": [asdict(t) for t in f.beside[:MOST_LISTED]],
                "incident": f.incident and {k: f.incident[k] for k in ("id", "severity", "title", "opened", "cause")},
                "page": f.page,
            }
            for f in found
        ],
        "not_made": seen.missing,
        "false_alarms": [
            {**asdict(t), "after_s": round(t.at - seen.start, 1), "during": during(seen.work, t.onset)} for t in alarms
        ],
        "incidents": [
            {k: i[k] for k in ("id", "severity", "state", "title", "opened", "resolved", "cause", "reopened")}
            for i in seen.incidents
        ],
        "pages": seen.pages,
        "budget": seen.budget,
    }, found  # fmt: skip


def during(work: Sequence[Done], ts: float) -> str:
    """Name the work that went on at a moment."""
    return next((w.name for w in work if w.start <= ts <= w.end), "idle")


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def show(seen: Seen, figures: Mapping[str, float], found: Sequence[Finding]) -> None:
    """Print it for people."""
    from rich import box
    from rich.console import Console as Screen
    from rich.table import Table

    # not narrower than the tables where the output is a file
    screen = Screen(width=None if sys.stdout.isatty() else 150)

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for name in columns:
            made.add_column(name, overflow="fold")
        return made

    one = table(f"ordinary work, {figures['hours']:.2f} hours", "figure", "measured", "promised")
    for name, value in figures.items():
        if not name.endswith("_budget"):
            promised = figures.get(f"{name}_budget")
            one.add_row(name, f"{value:.4g}", "" if promised is None else f"{promised:.3g}")
    screen.print(one)
    alarms = [t for t in seen.told if seen.start <= t.at < seen.ordinary_end]
    if alarms:
        two = table("false alarms", "signal", "family", "road", "times")
        for metric, family, road, n in by_signal(alarms)[:MOST_LISTED]:
            two.add_row(metric, family, road, str(n))
        screen.print(two)
    columns = (
        "fault", "found after", "road", "by", "all roads", "signs", "by chance", "incident", "page",
    )  # fmt: skip
    three = table("faults", *columns)
    for f in found:
        three.add_row(*_cells(f, chance(f.fault, seen.told, seen.start, seen.ordinary_end)))
    for name, why in seen.missing.items():
        three.add_row(EXPLAINED.get(name, name), "not made", "-", why)
    screen.print(three)


def _cells(f: Finding, by_chance: float) -> tuple[str, ...]:
    """Return what the table says of a fault."""
    t, dash = f.first, "-"
    name = f"{EXPLAINED.get(f.fault.name, f.fault.name)}\n[dim]{f.fault.how}[/]"
    roads = ", ".join(f"{road} {s:.1f} s" for road, s in f.roads.items()) or dash
    incident, page = dash, dash
    if f.incident is not None:
        incident = f"{f.incident['severity']} after {f.incident['opened'] - f.fault.start:.1f} s"
    if f.page is not None:
        page = f"after {f.page['ts'] - f.fault.start:.1f} s"
    if t is None or f.delay_s is None:
        return name, "[red]missed[/]", dash, dash, roads, "0", f"{by_chance:.1f}", incident, page
    road = t.road + ("" if t.alone else " (together)")
    by = f"{t.series} {t.family}, {t.deviations:.0f} dev"
    return (
        name, f"{f.delay_s:.1f} s", road, by, roads, str(len(f.signs)), f"{by_chance:.1f}", incident, page,
    )  # fmt: skip
