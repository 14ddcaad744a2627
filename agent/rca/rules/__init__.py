"""The rules: what speaks for and against each cause, a file for each branch of the tree of causes.

A rule reads a `Look` (one group of the incident) and returns cases. What is unknown weighs nothing and is said.
Weights stand in `agent/rca/weights.py`, what causes mean for each other in `agent/rca/cross.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.rca.case import Case
from agent.rca.look import Look
from agent.rca.rules import hardware, host
from agent.rca.rules._model import MEASURED as MODEL
from agent.rca.rules._service import MEASURED as SERVICE
from agent.rca.rules.data import contract, drift, labels, prior, runs
from agent.rca.rules.hardware import gpus
from agent.rca.rules.host import exhausted, machine, neighbour, network_between
from agent.rca.rules.observer import blind
from agent.rca.rules.release import changed, concept, release_of_model, worse_beside
from agent.rca.rules.serving import OF_REPLICA, answers, apart, crash, dependency, mix, saturation

Rule = Callable[[Look], list[Case]]

RULES: Final[tuple[Rule, ...]] = (
    saturation, crash, apart, answers, dependency, mix, neighbour, network_between, machine, exhausted,
    gpus, release_of_model, worse_beside, changed, contract, runs, prior, drift, concept, labels, blind,
)  # fmt: skip
"""In no order: each is asked, all are weighed together."""

NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "host": (*host.SIGNALS_READ, "host.tcp_retransmits_per_second"),
    "gpu": (*hardware.SIGNALS_READ, "gpu.memory_utilization_ratio"),
    "service": (
        *SERVICE,
        *OF_REPLICA,
        "service.replicas_count",
        "service.busy_ratio",
        "service.replicas_missing_count",
        "service.cache_ratio",
        "service.preemptions_per_second",
        "service.wait_mean_seconds",
    ),
    "dependency": OF_REPLICA,
    "replica": OF_REPLICA,
    "process": ("process.cpu_cores", "process.accept_queue_count"),
    "model": MODEL,
}
"""Kind of entity -> signals that rules measure: read at once. What is missing here is read when it is asked for."""

__all__ = ["NEEDS", "RULES", "Rule"]
