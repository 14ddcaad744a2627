"""Rules of the branch `hardware.gpu`: GPUs that are lost, fail, are hot, lack power or lanes, or just are slow."""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.model import Entity
from agent.rca.case import Case, numbers
from agent.rca.look import Look, Measured
from agent.rca.rules._signs import Sign, weigh
from agent.units import say

_SIGNS: Final[dict[str, tuple[Sign, ...]]] = {
    "hardware.gpu.lost": (
        Sign("gpu.reachable", 0.5, -1, alone="gpu fault", said="the GPU does not answer"),
    ),
    "hardware.gpu.memory": (
        Sign("gpu.remap_failed", 0.5, alone="gpu fault", said="remapping a memory row failed"),
        Sign(
            "gpu.ecc_errors_per_second",
            0.0,
            labels=(("type", "uncorrected"),),
            alone="gpu fault",
            said="memory errors that can not be corrected",
        ),
        Sign("gpu.remap_pending", 0.5, alone="strong", said="a memory row waits to be remapped"),
        Sign("gpu.ecc_errors_per_second", 1.0, labels=(("type", "corrected"),)),
    ),
    "hardware.gpu.thermal": (
        Sign(
            "gpu.throttled",
            0.5,
            labels=(("reason", "hardware_thermal"),),
            alone="gpu fault",
            said="heat holds its clock back",
        ),
        Sign(
            "gpu.throttled",
            0.5,
            labels=(("reason", "thermal"),),
            alone="gpu fault",
            said="heat holds its clock back",
        ),
        Sign("gpu.temperature_celsius", 80.0),
    ),
    "hardware.gpu.power": (
        Sign(
            "gpu.throttled",
            0.5,
            labels=(("reason", "power_brake"),),
            alone="gpu fault",
            said="the power brake holds its clock back",
        ),
        Sign(
            "gpu.throttled",
            0.5,
            labels=(("reason", "hardware_slowdown"),),
            alone="strong",
            said="its hardware holds the clock back",
        ),
        Sign("gpu.power_limit_watts", side=-1),
    ),
    "hardware.gpu.link": (
        Sign(
            "gpu.pcie_link_ratio",
            0.9,
            -1,
            alone="gpu fault",
            said="its PCIe link runs with fewer lanes than it has",
        ),
    ),
}
SIGNALS_READ: Final = tuple(dict.fromkeys(s.metric for some in _SIGNS.values() for s in some))
_IDLE: Final = 0.1
"""Below this share of time a GPU saves power: it lowers clock and link by itself, and that is no fault."""
_PEERS: Final = 3
_BEHIND: Final = 0.1
_FAULTS: Final = ("thermal", "hardware_thermal", "power_brake", "hardware_slowdown")
"""Reasons for a lowered clock that are faults; a power cap under full load is not."""


def gpus(look: Look) -> list[Case]:
    """Each GPU that the group uses, or that its machine has, against what is well, its own past and its peers."""
    cards = _cards(look)
    out = []
    for card in cards:
        idle = _idle(look, card)
        for kind, signs in _SIGNS.items():
            case = Case(kind, card)
            weigh(look, case, card, signs)
            if not case.evidence:
                continue
            clock = look.measure("gpu.clock_ratio", card)
            if kind in {"hardware.gpu.thermal", "hardware.gpu.power"} and _fell(clock) and clock:
                case.add("gpu slowed", f"its clock is {numbers(clock)} of the maximum", clock)
            if kind == "hardware.gpu.link" and idle is not None:
                case.add("idle", f"but it is idle ({say(idle, 'ratio')} busy) and saves power")
            out.append(case)
    return out + _slow(look, cards)


def _cards(look: Look) -> list[Entity]:
    found = dict.fromkeys(look.topology.related(look.group, "gpu"))
    host = look.host
    for edge in look.topology.edges(host) if host is not None else ():
        if edge.kind == "runs_on" and edge.src.kind == "gpu":
            found[edge.src] = None
    found.update(
        (a.series.entity, None) for a in look.incident.anomalies if a.series.entity.kind == "gpu"
    )
    return list(found)


def _idle(look: Look, card: Entity) -> float | None:
    m = look.measure("gpu.utilization_ratio", card)
    busy = m.now if m is not None else look.value("gpu.utilization_ratio", card)
    return busy if busy is not None and busy < _IDLE else None


def _fell(clock: Measured | None) -> bool:
    return clock is not None and clock.moved < -_BEHIND and clock.deviations < -4


def _slow(look: Look, cards: list[Entity]) -> list[Case]:
    """A GPU behind its peers, or behind its own past, that is busy and says no reason: the silent fault."""
    clocks = {c: look.measure("gpu.clock_ratio", c) for c in cards if _idle(look, c) is None}
    known = {c: m for c, m in clocks.items() if m is not None}
    out = []
    for card, m in known.items():
        others = [x.now for c, x in known.items() if c != card]
        behind = float(np.median(others)) - m.now if len(others) >= _PEERS - 1 else 0.0
        if not (behind > _BEHIND or (len(others) < _PEERS - 1 and _fell(m))):
            continue
        case = Case("hardware.gpu.slow", card)
        if behind > _BEHIND:
            text = (
                f"its clock is {say(m.now, 'ratio')} of the maximum, its {len(others)} peers"
                f" {say(float(np.median(others)), 'ratio')}"
            )
            case.add("gpu fault", text, m)
        else:
            case.add("strong", f"its clock is {numbers(m)} of the maximum", m)
        held = [r for r in _FAULTS if _says(look, card, r)]
        if held:
            case.add("throttled, says why", f"it says why: {', '.join(held)}")
        out.append(case)
    return out


def _says(look: Look, card: Entity, reason: str) -> bool:
    found = look.find("gpu.throttled", card, reason=reason)
    return any((look.world.get(s) or 0.0) > 0.5 for s in found)
