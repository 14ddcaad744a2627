"""What several rules ask about a service: is it slow, how much traffic, what is waiting and what is work."""

from __future__ import annotations

import math
from typing import Final

from agent.model import Entity
from agent.rca.look import Look, Measured

LATENCY: Final = (
    "service.latency_p50_seconds", "service.latency_p95_seconds", "service.latency_p99_seconds",
    "service.probe_latency_seconds", "service.first_token_p95_seconds",
)  # fmt: skip
MEASURED: Final = (
    "service.latency_p50_seconds", "service.processing_p50_seconds", "service.requests_per_second",
)  # fmt: skip


def slow(look: Look) -> bool:
    """Tell whether an objective on latency is broken."""
    return look.broken(*LATENCY)


def traffic(look: Look, who: Entity | None = None) -> Measured | None:
    """Measure the requests served, by the group or by somebody else."""
    return look.measure("service.requests_per_second", who or look.group)


def rose(m: Measured) -> bool:
    """Tell whether traffic is clearly above usual."""
    return m.ratio >= 1.25 and m.deviations > 2


def waiting(look: Look, who: Entity | None = None) -> tuple[Measured | None, Measured | None]:
    """Return (latency, processing): what clients see and what a worker needs."""
    whom = who or look.group
    return (
        look.measure("service.latency_p50_seconds", whom),
        look.measure("service.processing_p50_seconds", whom),
    )


def between(look: Look, who: Entity) -> tuple[Measured, Measured, bool] | None:
    """Return (latency, work, sure) when callers wait while work, traffic and queue are as ever; else None.

    sure    that nothing queues is known, not only not seen
    A network delays all requests alike, so the median moves; where it is not told, the tail must do.
    """
    latency, work = waiting(look, who)
    latency = latency or look.measure("service.latency_p95_seconds", who)
    came = traffic(look, who)
    if latency is None or work is None or came is None:
        return None
    if latency.deviations < 5 or latency.ratio < 1.5 or abs(work.deviations) >= 3 or rose(came):
        return None
    queues = [look.measure("process.accept_queue_count", e) for e in processes(look, who)]
    busy = look.measure("service.busy_ratio", who)
    known = [q for q in queues if q is not None]
    if any(q.deviations > 3 for q in known) or (
        busy is not None and busy.now > 0.85 and busy.deviations > 3
    ):
        return None  # it waits for a worker, not for the network
    return latency, work, bool(known) or busy is not None


def count(text: str) -> float:
    """Read a number of replicas; NaN when it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def processes(look: Look, who: Entity | None = None) -> list[Entity]:
    """Return the process groups that serve it."""
    whom = who or look.group
    return [
        e.src
        for e in look.topology.edges(whom)
        if e.kind == "serves" and e.dst == whom and e.src.kind == "process"
    ]


def cores(look: Look) -> tuple[float, float, Measured] | None:
    """Return (now, usual, the largest) of the cores that the service's own processes take."""
    found = [look.measure("process.cpu_cores", e) for e in processes(look)]
    known = [m for m in found if m is not None]
    if not known:
        return None
    most = max(known, key=lambda m: m.now)
    return sum(m.now for m in known), sum(m.usual for m in known), most
