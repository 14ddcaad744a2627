"""One hypothesis while it is weighed: a kind of cause on an entity, and the reasons for and against it.

Rules and rankers make cases; `diagnose` weighs all of them together, whoever made them. `logit` is the sum of what the
reasons weigh, from `PRIOR` on; a maker that has its own calibrated log-odds may set it and add reasons with `say`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.catalogue import SIGNALS
from agent.model import Entity, Evidence
from agent.rca.weights import PRIOR, UNTRUSTED, WEIGHTS
from agent.units import say

if TYPE_CHECKING:
    from agent.rca.look import Measured


@dataclass(slots=True)
class Case:
    """One hypothesis while it is weighed."""

    kind: str
    entity: Entity
    logit: float = PRIOR
    evidence: list[Evidence] = field(default_factory=list)
    others: list[Entity] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def add(
        self, reason: str, text: str, measured: Measured | None = None, share: float = 1.0
    ) -> None:
        """Add a reason of the table, as far as it holds (share 0..1) and its source is trusted."""
        weight = WEIGHTS[reason] * share
        if measured is not None and not measured.trusted:
            weight *= UNTRUSTED
            text += " (its source is not trusted)"
        self.say(text, weight, measured)

    def say(self, text: str, weight: float = 0.0, measured: Measured | None = None) -> None:
        """Add a reason with a weight of its own; 0 is said but weighs nothing."""
        self.logit += weight
        m = measured
        self.evidence.append(
            Evidence(
                text, weight, m.series, m.now, None if math.isnan(m.usual) else m.usual, m.onset
            )
            if m is not None
            else Evidence(text, weight)
        )


def what(metric: str) -> str:
    """Return what a signal is, in the catalogue's words without what stands behind them."""
    return SIGNALS[metric].help.partition(" (")[0].partition(", ")[0]


def numbers(m: Measured) -> str:
    """Say how a signal is and how it usually is."""
    unit = SIGNALS[m.series.metric].unit
    return f"{say(m.now, unit)}, usually {say(m.usual, unit)}"
