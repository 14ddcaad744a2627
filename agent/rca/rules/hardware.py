"""Rules of the branch `hardware.gpu`: GPUs that are lost, fail, are hot, lack power or lanes, or just are slow."""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.model import Entity
from agent.rca.case import Case, numbers, what
from agent.rca.look import Look, Measured
from agent.rca.rules._signs import Sign, kernel, weigh
from agent.units import say


def _xids(said: str, *xids: int, weight: str = "gpu fault") -> tuple[Sign, ...]:
    return tuple(
        Sign("gpu.xid_seen", 0.5, labels=(("xid", str(x)),), alone=weight, said=f"XID {x}: {said}")
        for x in xids
    )


# XIDs: docs.nvidia.com/deploy/xid-errors. 45 follows another error and names nobody; 13, 31 and 43 are the program's.
_SIGNS: Final[dict[str, tuple[Sign, ...]]] = {
    "hardware.gpu.lost": (
        Sign("gpu.reachable", 0.5, -1, alone="gpu fault", said="the GPU does not answer"),
        *_xids("the GPU has fallen off the bus", 79),
        *_xids("the system processor of the GPU does not answer", 119, 120),
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
        *_xids("memory errors that can not be corrected", 48, 95, 140),
        *_xids("remapping a memory row failed", 64),
        *_xids("a memory error that was contained", 94),
        *_xids("many memory errors that were corrected", 92, weight="strong"),
        Sign("gpu.remap_pending", 0.5, alone="strong", said="a memory row waits to be remapped"),
        Sign("gpu.ecc_errors_per_second", 0.1, labels=(("type", "corrected"),)),
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
        Sign("gpu.memory_temperature_celsius", 90.0),
        Sign("gpu.temperature_margin_celsius", 5.0, -1),
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
        *_xids("its power connector", 54),
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
        Sign(
            "gpu.pcie_generation_ratio", 0.9, -1, said="the generation at which its PCIe link runs"
        ),
        *_xids("an NVLink failed", 74, *range(144, 151)),
        Sign("gpu.nvlink_errors_per_second", 0.1),
        Sign("gpu.pcie_replays_per_second", 1.0),
    ),
}
_STEPS: Final = {
    "hardware.gpu.memory": ("gpu.uncorrected_errors_count", 1),
    "hardware.gpu.link": ("gpu.nvlinks_count", -1),
}
"""Counts of which one more, or one less, is a fault."""
_OF_IDLE: Final = frozenset({"gpu.pcie_link_ratio", "gpu.pcie_generation_ratio"})
"""What an idle GPU lowers by itself, and that is no fault."""
_DRIVER: Final = (
    Sign("host.gpu_driver_mismatched", 0.5, alone="gpu fault",
         said="the GPU driver and its library are of two versions"),
    Sign("host.gpu_driver_up", 0.5, -1, alone="gpu fault", said="the GPU driver does not answer"),
)  # fmt: skip
_SWITCH: Final = (kernel("nvswitch_error", "an NVSwitch reports an error", "gpu fault"),)
_HANGS: Final = _xids("work on the GPU does not end", 8, 46, 62, 109, weight="strong")
_BUSY: Final = 0.95
_DRAWS: Final = 0.4
"""Of its power limit: who is busy all the time and draws less only waits in a loop."""
SIGNALS_READ: Final = tuple(dict.fromkeys([
    *(s.metric for some in _SIGNS.values() for s in some), *(metric for metric, _ in _STEPS.values()),
    "gpu.clock_ratio", "gpu.utilization_ratio", "gpu.power_watts",
]))  # fmt: skip
_IDLE: Final = 0.1
"""Below this share of time a GPU saves power."""
_PEERS: Final = 3
_BEHIND: Final = 0.1
_FAULTS: Final = ("thermal", "hardware_thermal", "power_brake", "hardware_slowdown")
"""Reasons for a lowered clock that are faults; a power cap under full load is not."""


def gpus(look: Look) -> list[Case]:
    """Each GPU that the group uses, or that its machine has, against what is well, its own past and its peers."""
    cards = _cards(look)
    out = _driver(look)
    for card in cards:
        idle = _idle(look, card)
        alone = _replica(look, card)
        for kind, signs in _SIGNS.items():
            case = Case(kind, card)
            if kind == "hardware.gpu.lost" and out and out[0].kind == kind:
                continue  # without its driver none answers
            weigh(look, case, card, signs)
            _step(look, case)
            if not case.evidence:
                continue
            case.facts = {**alone, **case.facts}
            clock = look.measure("gpu.clock_ratio", card)
            if kind in {"hardware.gpu.thermal", "hardware.gpu.power"} and _fell(clock) and clock:
                case.add("gpu slowed", f"its clock is {numbers(clock)} of the maximum", clock)
            said = {e.series.metric for e in case.evidence if e.series is not None}
            if kind == "hardware.gpu.link" and idle is not None and said <= _OF_IDLE:
                case.add("idle", f"but it is idle ({say(idle, 'ratio')} busy) and saves power")
            out.append(case)
    return out + _slow(look, cards) + _hung(look, cards)


def _step(look: Look, case: Case) -> None:
    metric, side = _STEPS.get(case.kind, ("", 0))
    m = look.measure(metric, case.entity) if metric else None
    if m is not None and side * m.moved > 0.5:
        case.add("gpu fault", f"{what(metric)}: {numbers(m)}", m)


def _driver(look: Look) -> list[Case]:
    """Return what is wrong for all GPUs of the machine: their driver, and the switch between them."""
    host = look.host
    if host is None:
        return []
    driver, switch = Case("hardware.gpu.lost", host), Case("hardware.gpu.link", host)
    weigh(look, driver, host, _DRIVER)
    weigh(look, switch, host, _SWITCH)
    return [case for case in (driver, switch) if case.evidence]


def _replica(look: Look, card: Entity) -> dict[str, str]:
    """Return the one replica that computes on a card, for playbooks that drain it; nothing when there are more."""
    near = [(n, e) for e, n in look.topology.around(card) if e.kind == "replica"]
    nearest = [e for n, e in near if n == near[0][0]]
    return {"replica": nearest[0].id} if len(nearest) == 1 else {}


def _hung(look: Look, cards: list[Entity]) -> list[Case]:
    """Work that does not end: busy all the time and next to no power drawn, or the driver says so."""
    out = []
    for card in cards:
        case = Case("serving.crash", look.group if look.group.kind == "service" else card)
        weigh(look, case, card, _HANGS)
        busy, watts = (
            look.value("gpu.utilization_ratio", card),
            look.measure("gpu.power_watts", card),
        )
        limit = look.value("gpu.power_limit_watts", card)
        waits = watts is not None and limit is not None and watts.now < _DRAWS * limit
        if waits and watts is not None and watts.deviations < -4 and (busy or 0.0) >= _BUSY:
            text = f"{card.key} is busy all the time and draws {numbers(watts)}: it only waits"
            case.add("nothing comes through", text, watts)
        if case.evidence:
            case.facts = {"gpu": card.id, **_replica(look, card), **case.facts}
            out.append(case)
    return out


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
        case = Case("hardware.gpu.slow", card, facts=_replica(look, card))
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
