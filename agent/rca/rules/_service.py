"""What several rules ask about a service: is it slow, how much traffic, what is waiting and what is work."""

from __future__ import annotations

import math
from typing import Final

from agent.model import Entity
from agent.rca.look import Look, Measured

LATENCY: Final = (
    "service.latency_p50_seconds", "service.latency_p95_seconds", "service.latency_p99_seconds",
    "service.probe_latency_seconds",
)  # fmt: skip
MEASURED: Final = (
    "service.latency_p50_seconds", "service.processing_p50_seconds", "service.requests_per_second",
)  # fmt: skip


def slow(look: Look) -> bool:
    """Tell whether an objective on latency is broken."""
    return look.broken(*LATENCY)


def traffic(look: Look) -> Measured | None:
    """Measure the requests served."""
    return look.measure("service.requests_per_second", look.group)


def rose(m: Measured) -> bool:
    """Tell whether traffic is clearly above usual."""
    return m.ratio >= 1.25 and m.deviations > 2


def waiting(look: Look) -> tuple[Measured | None, Measured | None]:
    """Return (latency, processing): what clients see and what a worker needs."""
    return (
        look.measure("service.latency_p50_seconds", look.group),
        look.measure("service.processing_p50_seconds", look.group),
    )


def count(text: str) -> float:
    """Read a number of replicas; NaN when it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def processes(look: Look) -> list[Entity]:
    """Return the process groups that serve it."""
    edges = look.topology.edges(look.group)
    return [
        e.src
        for e in edges
        if e.kind == "serves" and e.dst == look.group and e.src.kind == "process"
    ]


def cores(look: Look) -> tuple[float, float, Measured] | None:
    """Return (now, usual, the largest) of the cores that the service's own processes take."""
    found = [look.measure("process.cpu_cores", e) for e in processes(look)]
    known = [m for m in found if m is not None]
    if not known:
        return None
    most = max(known, key=lambda m: m.now)
    return sum(m.now for m in known), sum(m.usual for m in known), most
