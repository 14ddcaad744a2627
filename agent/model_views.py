"""Models as the API and the command show them: plain data out of facts and of what they are blamed for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from typing_extensions import TypedDict

from agent.models import ModelFacts, VersionFacts
from agent.models.cause import Blame
from agent.ports import Band, FeatureState


class BandView(TypedDict):
    """A figure and its bounds; null = not known."""

    value: float | None
    low: float | None
    high: float | None


class SuspectView(TypedDict):
    """What may be to blame for a loss or a change, by what the model half alone knows."""

    cause: str
    features: list[str]
    evidence: float
    reason: str


class DriftView(TypedDict):
    """How one feature stands against the reference. evidence: log10, 0 is enough; broken = why, "" = it is not."""

    name: str
    used: bool
    drifted: bool
    evidence: float | None
    psi: float | None
    missing: float | None
    broken: str


class VersionView(TypedDict):
    """One tenure of a version; until null = it serves."""

    version: str
    since: float
    until: float | None
    rows: int
    labelled: int
    accuracy: BandView


class ModelView(TypedDict):
    """What is known of a model.

    preparing  versions whose reference is being made, and how many rows wait for it, to be counted then
    expected   accuracy without labels, with 90 %; unknown = why it can not be told
    figures    of late labels, with 95 % bounds that hold at every look; slices and gaps likewise
    """

    model: str
    serving: list[VersionView]
    previous: list[VersionView]
    learning: bool
    preparing: list[str]
    held_rows: int
    accuracy: BandView
    reference_accuracy: float | None
    expected: BandView
    unknown: str
    quality_lost: bool | None
    label_coverage: float | None
    label_delay_s: float | None
    figures: dict[str, BandView]
    slices: dict[str, BandView]
    gaps: dict[str, BandView]
    features: list[DriftView]
    suspects: list[SuspectView]


def model_view(facts: ModelFacts, suspects: Sequence[Blame]) -> ModelView:
    """Show a model."""
    current = facts.current
    serving = [_version(current)] if current is not None else []
    judged = facts.judged
    features = {f.name: f for f in (*facts.broken, *facts.drifted)}
    return {
        "model": facts.model, "serving": serving, "previous": [_version(v) for v in facts.previous],
        "learning": facts.learning or judged.learning,
        "preparing": list(facts.preparing), "held_rows": facts.held_rows,
        "accuracy": _band(Band(facts.accuracy, facts.low, facts.high)),
        "reference_accuracy": _number(facts.reference_accuracy),
        "expected": _band(judged.expected), "unknown": judged.unknown,
        "quality_lost": facts.quality_lost, "label_coverage": _number(facts.label_coverage),
        "label_delay_s": _number(facts.label_delay_s),
        "figures": {k: _band(v) for k, v in judged.figures.items()},
        "slices": {f"{k}={v}": _band(band) for (k, v), band in judged.slices.items()},
        "gaps": {f"{group} {kind}": _band(band) for (group, kind), band in judged.gaps.items()},
        "features": [_feature(f) for f in features.values()],
        "suspects": [
            {"cause": s.cause, "features": list(s.features), "evidence": s.evidence, "reason": s.reason}
            for s in suspects
        ],
    }  # fmt: skip


def _version(v: VersionFacts) -> VersionView:
    return {
        "version": v.version, "since": v.since, "until": v.until, "rows": v.rows,
        "labelled": v.labelled, "accuracy": _band(Band(v.accuracy, v.low, v.high)),
    }  # fmt: skip


def _feature(f: FeatureState) -> DriftView:
    return {
        "name": f.name, "used": f.used, "drifted": f.drifted, "evidence": _number(f.evidence),
        "psi": _number(f.psi), "missing": _number(f.missing), "broken": f.reason,
    }  # fmt: skip


def _band(band: Band) -> BandView:
    return {"value": _number(band.value), "low": _number(band.low), "high": _number(band.high)}


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None
