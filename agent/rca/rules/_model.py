"""What several rules ask about a model: is it poor, which features are broken, which have moved."""

from __future__ import annotations

import math
from typing import Final

from agent.model import Entity
from agent.rca.case import Case
from agent.rca.look import Look, Measured

QUALITY: Final = (
    "model.accuracy_ratio", "model.accuracy_high_ratio", "model.accuracy_recent_ratio",
    "model.quality_lost", "model.worse_than_previous",
)  # fmt: skip
MEASURED: Final = (
    "model.accuracy_ratio", "model.feature_drift_psi", "model.label_coverage_ratio", "model.label_delay_seconds",
    "model.positive_label_ratio", "model.positive_prediction_ratio", "model.prediction_drift_psi",
)  # fmt: skip
DRIFTED: Final = 0.25
"""PSI from which a distribution counts as moved; below .1 it stands still (the usual rule of thumb)."""
STILL: Final = 0.10
ONE_CLASS: Final = 0.02
"""Share of all other classes below which labels count as being of one."""


def poor(look: Look, model: Entity) -> bool:
    """Tell whether the quality of a model is below its objective, or far below its own past."""
    if any(
        a.series.entity == model
        and a.series.metric in QUALITY
        and a.end is None
        and not math.isnan(a.value)
        for a in look.incident.anomalies
    ):
        return True
    m = look.measure("model.accuracy_ratio", model)
    return m is not None and m.deviations < -4 and m.moved < -0.03


def features(look: Look, model: Entity) -> list[Entity]:
    """Return the features that feed a model."""
    return [
        e.src
        for e in look.topology.edges(model)
        if e.kind == "feeds" and e.dst == model and e.src.kind == "feature"
    ]


def broken_features(look: Look, model: Entity) -> list[Entity]:
    """Return the features whose data contract is broken."""
    return [
        f for f in features(look, model) if (look.value("feature.contract_broken", f) or 0.0) > 0.5
    ]


def moved(look: Look, model: Entity) -> list[tuple[Entity, float]]:
    """Return the features whose distribution has moved, with PSI, largest first."""
    drifts = [(f, look.value("feature.drift_psi", f)) for f in features(look, model)]
    return sorted(
        ((f, psi) for f, psi in drifts if psi is not None and psi >= DRIFTED),
        key=lambda x: (-x[1], x[0]),
    )


def name(feature: Entity) -> str:
    """Return the name of a feature without its model."""
    return feature.key.rpartition("/")[2]


def inputs(look: Look, model: Entity, case: Case, silent: str, loud: str) -> None:
    """Weigh whether the inputs look as they always did; `silent` and `loud` are reasons of the table."""
    known = [
        psi
        for f in features(look, model)
        if (psi := look.value("feature.drift_psi", f)) is not None
    ]
    if not known:
        case.say("how the inputs are distributed is not known")
    elif max(known) < DRIFTED:
        case.add(silent, f"the inputs look as they always did (largest PSI {max(known):.2f})")
    else:
        names = ", ".join(name(f) for f, _ in moved(look, model)[:3])
        case.add(loud, f"the inputs moved too ({names}, PSI {max(known):.2f})")


def mixes(look: Look, model: Entity) -> tuple[Measured | None, Measured | None]:
    """Return the share of the most common class among labels and among predictions."""
    return (
        look.measure("model.positive_label_ratio", model),
        look.measure("model.positive_prediction_ratio", model),
    )


def one_class(labels: Measured | None) -> bool:
    """Tell whether labels have become nearly all of one class, which they never were."""
    if labels is None:
        return False
    few = min(labels.now, 1.0 - labels.now)
    return few < ONE_CLASS and min(labels.usual, 1.0 - labels.usual) > 2 * ONE_CLASS


def moved_alike(labels: Measured | None, mix: Measured | None) -> bool:
    """Tell whether the mix of labels has moved, and the predictions went with it."""
    if labels is None or mix is None:
        return False
    far = abs(labels.deviations) > 5 and abs(labels.moved) > 0.08
    along = labels.moved * mix.moved > 0 and abs(mix.deviations) > 3
    return far and along and abs(mix.moved) > 0.4 * abs(labels.moved)
