"""What several rules ask about a model: is it poor, which features are broken, which have moved."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from agent.model import Entity
from agent.models.cause import beyond_mix
from agent.models.facts import size_of
from agent.rca.case import Case
from agent.rca.look import Look, Measured
from agent.units import say_times

QUALITY: Final = (
    "model.accuracy_ratio", "model.accuracy_high_ratio", "model.accuracy_recent_ratio", "model.loss_expected",
    "model.quality_lost", "model.relation_changed", "model.worse_than_previous",
)  # fmt: skip
MEASURED: Final = (
    "model.accuracy_ratio", "model.label_coverage_ratio", "model.label_delay_seconds",
    "model.positive_label_ratio", "model.positive_prediction_ratio", "model.prediction_drift_psi",
)  # fmt: skip
STILL: Final = 0.10
"""Stability index of what a model says below which that stands still (the usual rule of thumb)."""


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


def drifted(look: Look, model: Entity) -> list[tuple[Entity, float, float]]:
    """Return the features that the model watch found to drift: (feature, log10 of the evidence, PSI), surest first."""
    found = [
        (
            f, look.value("feature.drift_evidence_count", f) or 0.0,
            look.value("feature.drift_psi", f) or 0.0,
        )
        for f in features(look, model)
        if (look.value("feature.drifted", f) or 0.0) > 0.5
    ]  # fmt: skip
    return sorted(found, key=lambda x: (-x[1], -x[2], x[0]))


def name(feature: Entity) -> str:
    """Return the name of a feature without its model."""
    return feature.key.rpartition("/")[2]


def say(found: tuple[Entity, float, float]) -> str:
    """Say how surely and how far a feature has drifted."""
    feature, evidence, psi = found
    return f"{name(feature)} ({say_times(evidence)} what is enough, PSI {psi:.2f})"


def inputs(look: Look, model: Entity, case: Case, silent: str, loud: str) -> None:
    """Weigh whether the inputs look as they always did; `silent` and `loud` are reasons of the table."""
    known = [f for f in features(look, model) if look.value("feature.drifted", f) is not None]
    found = drifted(look, model)
    if not known:
        case.say("how the inputs are distributed is not known")
    elif not found:
        case.add(
            silent, f"the inputs look as they always did (none of {len(known)} features drifts)"
        )
    else:
        case.add(loud, f"the inputs drift, too: {', '.join(map(say, found[:3]))}")


def mixes(look: Look, model: Entity) -> tuple[Measured | None, Measured | None]:
    """Return the share of the most common class among labels and among predictions."""
    return (
        look.measure("model.positive_label_ratio", model),
        look.measure("model.positive_prediction_ratio", model),
    )


def worse_beside(look: Look, model: Entity) -> tuple[str, str, str, Measured] | None:
    """Return the version that labels prove worse than one that serves beside it, that one, and what is known; or None.

    The surest one, where there are several.
    """
    found = []
    for version in [e.src for e in look.topology.edges(model) if e.kind == "version_of"]:
        for series in look.find("version.proven_worse", version, how="together"):
            if not (look.world.get(series) or 0.0) > 0.5:
                continue
            odds, difference, low, high = (
                look.world.get(replace(series, metric=f"version.{m}")) or 0.0
                for m in (
                    "worse_evidence_count", "loss_difference", "loss_difference_low", "loss_difference_high",
                )
            )  # fmt: skip
            found.append((odds, series, size_of(difference, low, high)))
    if not found:
        return None
    odds, series, size = max(found, key=lambda one: (one[0], one[1]))
    worse, against = name(series.entity), dict(series.labels)["against"]
    text = (
        f"version {worse or 'without a name'} is worse than {against or 'that without a name'},"
        f" which serves beside it: log10 odds {odds:.1f}, {size}"
    )
    proof = Measured(series, 1.0, 0.0, 1.0, 0, None, look.trusted(series))
    return worse, against.partition("@")[0], text, proof


def better_beside(look: Look, model: Entity) -> str:
    """Return the version that labels prove better than what serves, on the same requests; "" for none."""
    serving = set(look.world.attrs(model).get("serving", "").split(", "))
    found: list[tuple[float, str]] = []
    for version in [e.src for e in look.topology.edges(model) if e.kind == "version_of"]:
        highs = [
            look.world.get(s)
            for s in look.find("version.loss_difference_high", version, how="paired")
            if dict(s.labels).get("against") in serving
        ]
        least = [h for h in highs if h is not None and h < 0.0]
        if name(version) not in serving and highs and len(least) == len(highs):
            found.append((max(least), name(version)))
    return min(found)[1] if found else ""


def labels_wrong(look: Look, model: Entity) -> str:
    """Say what is wrong with the labels themselves, "" for nothing that is known."""
    if not (look.value("model.labels_wrong", model) or 0.0) > 0.5:
        return ""
    return look.world.attrs(model).get("labels_wrong", "") or "labels look wrong"


def further(look: Look, model: Entity, labels: Measured) -> str:
    """Say which feature moved further than another mix of classes can move it, "" for none."""
    for feature, _, psi in sorted(drifted(look, model), key=lambda x: -x[2])[:1]:
        if beyond_mix(psi, labels.usual, labels.now):
            return (
                f"{name(feature)} moved further (PSI {psi:.2f}) than the mix of classes can move it"
            )
    return ""


def moved_alike(labels: Measured | None, mix: Measured | None) -> bool:
    """Tell whether the mix of labels has moved, and the predictions went with it."""
    if labels is None or mix is None:
        return False
    far = abs(labels.deviations) > 5 and abs(labels.moved) > 0.08
    along = labels.moved * mix.moved > 0 and abs(mix.deviations) > 3
    return far and along and abs(mix.moved) > 0.4 * abs(labels.moved)
