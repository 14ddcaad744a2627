"""Figures of root-cause rankings: how often the truth is among the first, how far probabilities can be believed.

AC@k     share of incidents whose true cause is among the first k names
Avg@5    mean of AC@1 .. AC@5
ECE      mean distance between stated probability and share that was right, weighed by cases; only bins of ten
         percent with at least 20 cases are judged
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.rca.rank import probabilities

FIRST: Final = 5
FEWEST: Final = 20
BINS: Final = 10
_SHARP: Final = np.linspace(0.5, 4.0, 15)
_UNKNOWN: Final = np.linspace(0.1, 1.5, 15)

Floats = npt.NDArray[np.float64]


def place(ranked: Sequence[str], accepted: Collection[str]) -> float:
    """Place of the first accepted name, from 1; infinite when it is not there."""
    return next((float(i) for i, name in enumerate(ranked, 1) if name in accepted), float("inf"))


def services_of(columns: Sequence[str]) -> list[str]:
    """Services in the order of their first columns."""
    return list(dict.fromkeys(name.rpartition("_")[0] for name in columns))


def accuracy(places: Sequence[float], prefix: str = "") -> dict[str, float]:
    """AC@1, 3, 5 and Avg@5."""
    at = [float(np.mean([p <= k for p in places])) for k in range(1, FIRST + 1)]
    return {
        f"{prefix}ac_1": at[0],
        f"{prefix}ac_3": at[2],
        f"{prefix}ac_5": at[4],
        f"{prefix}avg_5": sum(at) / FIRST,
    }


@dataclass(frozen=True, slots=True)
class Said:
    """One answer, as calibration needs it: scores (m,) best first, evidence behind them, and whether it was right."""

    system: str
    scores: Floats
    strength: float
    right: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases whose stated probability lies together."""

    stated: float
    right: float
    cases: int


def reliability(stated: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Bins of ten percent that hold anything."""
    p, ok = np.asarray(stated), np.asarray(right, dtype=float)
    which = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        Bin(float(p[which == b].mean()), float(ok[which == b].mean()), int((which == b).sum()))
        for b in range(BINS)
        if (which == b).any()
    ]


def calibration_error(bins: Sequence[Bin], fewest: int = FEWEST) -> float:
    """ECE over the bins that hold enough; NaN when none does."""
    judged = [b for b in bins if b.cases >= fewest]
    cases = sum(b.cases for b in judged)
    return sum(b.cases * abs(b.stated - b.right) for b in judged) / cases if cases else float("nan")


def left_out(said: Sequence[Said]) -> list[float]:
    """Probability of each first answer, with constants fitted on the other systems only."""
    fitted = {
        system: fit([s for s in said if s.system != system]) for system in {s.system for s in said}
    }
    return [float(probabilities(s.scores, s.strength, *fitted[s.system])[0][0]) for s in said]


def fit(said: Sequence[Said]) -> tuple[float, float]:
    """Softness and weight of the unknown with the least log loss of the first answer."""

    def loss(sharp: float, unknown: float) -> float:
        p = np.array([probabilities(s.scores, s.strength, sharp, unknown)[0][0] for s in said])
        p = np.clip(p, 1e-3, 1 - 1e-3)
        right = np.array([s.right for s in said])
        return -float(np.where(right, np.log(p), np.log(1 - p)).sum())

    return min(((float(b), float(u)) for b in _SHARP for u in _UNKNOWN), key=lambda at: loss(*at))


def draw(bins: Sequence[Bin], title: str, file: Path) -> None:
    """Draw stated against right as an SVG; the area of a dot is its cases, open ones are too few to judge."""
    size, edge = 360, 48

    def xy(x: float, y: float) -> tuple[float, float]:
        return edge + x * (size - 2 * edge), size - edge - y * (size - 2 * edge)

    (x0, y0), (x1, y1) = xy(0, 0), xy(1, 1)
    most = max((b.cases for b in bins), default=1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="sans-serif" font-size="12">',
        f'<rect width="{size}" height="{size}" fill="white"/>',
        f'<text x="{size / 2}" y="24" text-anchor="middle">{title}</text>',
        f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="black"/>',
        f'<path d="M{x0} {y0}L{x1} {y1}" stroke="gray" stroke-dasharray="4"/>',
        f'<text x="{size / 2}" y="{size - 12}" text-anchor="middle">stated probability</text>',
        f'<text transform="translate(16 {size / 2}) rotate(-90)" text-anchor="middle">share right</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        x, y = xy(share, share)
        parts.append(f'<text x="{x:.0f}" y="{y0 + 16:.0f}" text-anchor="middle">{share:g}</text>')
        parts.append(f'<text x="{x0 - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{share:g}</text>')
    for b in bins:
        x, y = xy(b.stated, b.right)
        fill = "steelblue" if b.cases >= FEWEST else "none"
        radius = 4 + 12 * (b.cases / most) ** 0.5
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" stroke="steelblue">'
            f"<title>{b.cases} cases</title></circle>"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
