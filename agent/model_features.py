"""All features of one version: how each stands against its reference, and both distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from typing_extensions import TypedDict

from agent.model import FloatArray
from agent.ports import FeatureState, Spread


class FeatureView(TypedDict):
    """One feature.

    evidence      log10 of the e-value, 0 is what a false alarm may cost; null = not known
    edges         of a number: between them lie the inner cells; [] of a category
    values        of a category: its cells; [] of a number
    usual, now    shares of each cell; of a number first all below, then between edges, then all above; [] = not known
    missing, wrong   shares of rows: no value, a value of another kind; null = not known
    """

    name: str
    used: bool
    learning: bool
    drifted: bool
    broken: str
    evidence: float | None
    psi: float | None
    rows: float
    missing: float | None
    wrong: float | None
    edges: list[float]
    values: list[str]
    usual: list[float]
    now: list[float]


class FeaturesView(TypedDict):
    """Of one version, what drifts first on top."""

    model: str
    version: str
    features: list[FeatureView]


def features_view(
    model: str, version: str, found: Sequence[tuple[FeatureState, Spread | None]]
) -> FeaturesView:
    """Show the features of a version."""

    def rank(one: tuple[FeatureState, Spread | None]) -> tuple[bool, bool, float, str]:
        s = one[0]
        return (
            not s.broken,
            not s.drifted,
            -(s.evidence if math.isfinite(s.evidence) else -math.inf),
            s.name,
        )

    return {
        "model": model,
        "version": version,
        "features": [_view(state, spread) for state, spread in sorted(found, key=rank)],
    }


def _view(s: FeatureState, spread: Spread | None) -> FeatureView:
    usual, now, wrong = list[float](), list[float](), None
    if spread is not None:
        usual, now = _shares(spread.usual), _shares(spread.now)
        total = float(spread.now.sum()) + spread.missing + spread.wrong
        wrong = spread.wrong / total if total > 0 else None
    return {
        "name": s.name, "used": s.used, "learning": s.learning, "drifted": s.drifted,
        "broken": s.reason if s.broken else "", "evidence": _number(s.evidence), "psi": _number(s.psi),
        "rows": _number(s.rows) or 0.0, "missing": _number(s.missing), "wrong": wrong,
        "edges": list(spread.edges) if spread is not None else [],
        "values": list(spread.values) if spread is not None else [], "usual": usual, "now": now,
    }  # fmt: skip


def _shares(counts: FloatArray) -> list[float]:
    total = float(counts.sum())
    return [float(c) / total for c in counts] if total > 0 else []


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
