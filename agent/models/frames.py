"""What is shown of the models: their signals as one frame, who there is, and what is known as facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from agent.model import Edge, Entity, FloatArray, IntArray, Series, Sighting
from agent.models.facts import ModelFacts, VersionFacts
from agent.models.numbers import OF_VERSION, SERVICE, Numbers
from agent.models.replicas import SIGNALS as OF_REPLICA
from agent.models.state import ModelState, Tenure, VersionState
from agent.ports import FeatureDrift, FeatureState, Judged, LossParts
from agent.rings import delay_quantile

_MODEL: Final = (
    "model.accuracy_high_ratio", "model.accuracy_low_ratio", "model.accuracy_ratio",
    "model.accuracy_recent_ratio", "model.confidence_ratio", "model.feature_drift_psi",
    "model.label_coverage_ratio", "model.label_delay_seconds", "model.labelled_rows_count",
    "model.positive_label_ratio", "model.positive_prediction_ratio", "model.prediction_drift_psi",
    "model.predictions_per_second", "model.quality_lost", "model.reference_accuracy_ratio",
    "model.version_judged_seconds", "model.worse_than_previous",
)  # fmt: skip
_FEATURE: Final = (
    "feature.missing_ratio", "feature.out_of_range_ratio", "feature.scale_ratio",
    "feature.drift_psi", "feature.contract_broken", "feature.drift_evidence_count", "feature.drifted",
)  # fmt: skip
"""In the order of the columns of `FeatureDrift.judge`."""
_FIGURES: Final = {
    "precision": "model.precision_ratio", "recall": "model.recall_ratio", "f1": "model.f1_ratio",
    "roc_auc": "model.roc_auc_ratio", "log_loss": "model.log_loss_count", "brier": "model.brier_ratio",
    "calibration_error": "model.calibration_error_ratio", "mae": "model.mean_absolute_error",
    "rmse": "model.root_mean_square_error", "r2": "model.r2_ratio", "bias": "model.bias",
}  # fmt: skip
"""Figure of labels -> its signal."""
_NOTABLE: Final = 0.05
"""Of the change of the loss: a feature that is worth less is no series."""
Labels = tuple[tuple[str, str], ...]


class Table:
    """Who the columns of the frame are: laid out anew when models, versions, features or services come or go."""

    def __init__(self) -> None:
        self.series: tuple[Series, ...] = ()
        self.order: IntArray = np.zeros(0, dtype=np.int64)
        self._layout: tuple[tuple[Any, ...], ...] = ()

    def lay_out(self, layout: tuple[tuple[Any, ...], ...]) -> None:
        """Take the layout of this frame: (model, versions, features, what else, replicas) or (service,) each."""
        if layout == self._layout:
            return
        series: list[Series] = []
        for item in layout:
            if len(item) == 1:
                service = Entity("service", item[0])
                series += [Series(metric, service) for metric in SERVICE]
                continue
            name, versions, features, more, replicas = item
            me = Entity("model", name)
            series += [Series(metric, me) for metric in _MODEL]
            series += [_series(name, metric, labels) for metric, labels in more]
            for version in versions:
                entity = Entity("version", f"{name}/{version}")
                series += [Series(metric, entity) for metric in OF_VERSION]
            for feature in features:
                entity = Entity("feature", f"{name}/{feature}")
                series += [Series(metric, entity) for metric in _FEATURE]
            for replica in replicas:
                series += [Series(metric, replica) for metric in OF_REPLICA]
        order = sorted(range(len(series)), key=lambda i: series[i])
        self.order = np.array(order, dtype=np.int64)
        self.series = tuple(series[i] for i in order)
        self._layout = layout


def _series(model: str, metric: str, labels: Labels) -> Series:
    """Return a series of a model, or of the version that its first label names."""
    if not metric.startswith("version."):
        return Series(metric, Entity("model", model), labels)
    (_, version), *rest = labels
    return Series(metric, Entity("version", f"{model}/{version}"), tuple(rest))


def drift_of(model: ModelState) -> FeatureDrift | None:
    """Return the features of the version in use."""
    version = model.version_in_use
    return version.drift if version is not None else None


def judged(model: ModelState) -> Judged:
    """Return what labels say of the version in use."""
    version = model.version_in_use
    return version.judged if version is not None else Judged.nothing()


def more_of(
    model: ModelState, numbers: Numbers, now: float
) -> tuple[tuple[tuple[str, Labels], ...], FloatArray]:
    """Return what is known beside the signals that every model has, and their values; what was once known stays."""
    found, values = judged(model), dict[tuple[str, Labels], float]()
    values |= _of_outputs(outputs_of(model)) | _of_versions(model, now) | _of_parts(model.parts)
    if not found.learning or found.figures:
        values |= {
            ("model.expected_accuracy_ratio", ()): found.expected.value,
            ("model.expected_accuracy_low_ratio", ()): found.expected.low,
            ("model.expected_accuracy_high_ratio", ()): found.expected.high,
            ("model.relation_changed", ()): float(found.changed),
            ("model.relation_evidence_count", ()): found.evidence,
        }
    expected = numbers.loss_expected(model, now)
    if expected is not None:
        values["model.loss_expected", ()] = float(expected)
    lost = numbers.lost(model, now)
    if (
        lost > 0 or ("model.predictions_lost_ratio", ()) in model.shown
    ):  # most senders lose none, ever
        values["model.predictions_lost_ratio", ()] = lost
    if not math.isinf(model.labels_seen):
        values["model.labels_late", ()] = float(model.coming.late)
        values["model.labels_wrong", ()] = float(bool(model.labels_wrong))
    for name, band in found.figures.items():
        values[_FIGURES[name], ()] = band.value
    for (group, kind), band in found.gaps.items():
        whose = (("group", group), ("kind", kind))
        values["model.fairness_gap_ratio", whose] = band.value
        values["model.fairness_gap_low_ratio", whose] = band.low
    if not model.regression:
        for (name, value), band in found.slices.items():
            values["model.slice_accuracy_ratio", (("slice", name), ("value", value))] = band.value
    model.shown |= dict.fromkeys(values)
    _forget(model, values)
    keys = tuple(sorted(model.shown))
    return keys, np.array([values.get(key, math.nan) for key in keys])


def _forget(model: ModelState, values: Mapping[tuple[str, Labels], float]) -> None:
    """Let go of versions, which come and go for years, and of comparisons that are over: what they found ends so."""
    alive = {t.version for t in model.tenures.values()}
    alive |= {arm.version for arm in model.versus.arms.values()}
    for metric, labels in [key for key in model.shown if key[0].startswith("version.")]:
        over = "against" in dict(labels) and (metric, labels) not in values
        if over or labels[0][1] not in alive:
            del model.shown[metric, labels]


def outputs_of(model: ModelState) -> tuple[FeatureState, ...]:
    """Return how what the version in use says stands against its reference."""
    version = model.version_in_use
    return version.outputs.states if version is not None else ()


def _of_outputs(states: Sequence[FeatureState]) -> dict[tuple[str, Labels], float]:
    out: dict[tuple[str, Labels], float] = {}
    for one in states:
        labels = (("output", one.name),)
        known = not math.isnan(one.evidence)
        out["model.output_drift_psi", labels] = one.psi
        out["model.output_drift_evidence_count", labels] = one.evidence
        out["model.output_drifted", labels] = float(one.drifted) if known else math.nan
    return out


def _of_versions(model: ModelState, now: float) -> dict[tuple[str, Labels], float]:
    """Return comparisons, shares of the traffic, and what generators wrote, of each version."""
    out: dict[tuple[str, Labels], float] = {}
    for one in model.versus.told(now):
        labels: Labels = (
            ("version", one.b.partition("@")[0]),
            ("against", one.a),
            ("how", one.how),
        )
        if "@" in one.b:
            labels = (*labels, ("variant", one.b.partition("@")[2]))
        out["version.loss_difference", labels] = one.difference
        out["version.loss_difference_low", labels] = one.low
        out["version.loss_difference_high", labels] = one.high
        out["version.worse_evidence_count", labels] = one.worse
        out["version.proven_worse", labels] = float(one.verdict == "worse")
    for arm, share in model.versus.traffic(now).items():
        variant = (("variant", arm.variant),) if arm.variant else ()
        out["version.traffic_ratio", (("version", arm.version), *variant)] = share
    for name, version in model.versions.items():
        for (metric, reason), value in version.generated.figures(now).items():
            labels = (("version", name), *((("reason", reason),) if reason else ()))
            out[metric, labels] = value
    return out


def _of_parts(parts: LossParts | None) -> dict[tuple[str, Labels], float]:
    if parts is None:
        return {}
    out = {
        ("model.loss_change", ()): parts.change.value,
        ("model.loss_from_relation", ()): parts.relation.value,
    }
    return out | {
        ("model.loss_from_feature", (("feature", name),)): band.value
        for name, band in parts.features.items()
        if abs(band.value) > _NOTABLE * abs(parts.change.value) and band.low * band.high > 0
    }


def model_row(model: ModelState, numbers: Numbers, now: float) -> FloatArray:
    """Return the signals of a model, in the order of the table."""
    serving = model.serving()
    current = model.tenure_in_use
    version = model.version_in_use
    labelled, accuracy, low, high = numbers.accuracy(serving)
    recent = numbers.recent(serving)
    if not numbers.told(model, now):
        accuracy = low = high = recent = math.nan
    sums = numbers.rows_now(serving, now)
    lost, worse = numbers.states(model, now)
    psi = numbers.worst_psi(model)
    by_name = {
        "model.accuracy_high_ratio": high,
        "model.accuracy_low_ratio": low,
        "model.accuracy_ratio": accuracy,
        "model.accuracy_recent_ratio": recent,
        "model.confidence_ratio": sums[1] / sums[2] if sums[2] >= numbers.config.min_rows else math.nan,
        "model.feature_drift_psi": psi,
        "model.label_coverage_ratio": numbers.coverage(model, now),
        "model.label_delay_seconds": delay_quantile(model.delays, 0.5),
        "model.labelled_rows_count": float(labelled),
        "model.positive_label_ratio": numbers.positive_label(model, serving, now),
        "model.positive_prediction_ratio": numbers.positive(model, sums[3:]),
        "model.prediction_drift_psi": numbers.prediction_psi(version, current, now),
        "model.predictions_per_second": numbers.rate(model, 2, now),
        "model.quality_lost": math.nan if lost is None else float(lost),
        "model.reference_accuracy_ratio": version.accuracy if version is not None else math.nan,
        "model.version_judged_seconds": _judged_for(current, now),
        "model.worse_than_previous": math.nan if worse is None else float(worse),
    }  # fmt: skip
    return np.array([by_name[name] for name in _MODEL])


def _judged_for(tenure: Tenure | None, now: float) -> float:
    """Return for how long labels of a tenure have come; NaN = none has."""
    return math.nan if tenure is None or tenure.judged_since is None else now - tenure.judged_since


def see(
    model: ModelState,
    service: str | None,
    versions: Sequence[str],
    drift: FeatureDrift | None,
) -> list[Sighting]:
    """Say who is there; the frame sends what is new or changed."""
    me = Entity("model", model.name)
    serving = sorted(t.version for t in model.serving())
    damaged = sorted(v.name for v in model.versions.values() if v.damaged)
    attrs = (
        ("damaged_reference", ", ".join(damaged)),
        ("labels_wrong", model.labels_wrong),
        ("learning", "yes" if learning(model) else "no"),
        ("serving", ", ".join(serving)),
    )
    edges = (Edge("serves", Entity("service", service), me),) if service is not None else ()
    out = [Sighting(me, attrs, edges)]
    for name in versions:
        version = Entity("version", f"{model.name}/{name}")
        out.append(
            Sighting(
                version,
                (("serving", "yes" if name in serving else "no"), ("version", name)),
                (Edge("version_of", version, me),),
            )
        )
    if model.replicas is not None:
        out += model.replicas.see(Entity("service", service) if service is not None else me)
    return out + _see_features(model, drift)


def _see_features(model: ModelState, drift: FeatureDrift | None) -> list[Sighting]:
    """Say which features there are and what is broken; nothing while all is as it was and well."""
    if drift is None or model.judged is None:
        return []
    broken = bool((model.judged[:, 4] > 0.5).any())
    seen = (drift.names, model.current, broken)
    if seen == model.seen_features and not broken:
        return []
    model.seen_features = seen
    me = Entity("model", model.name)
    out = []
    for state in drift.states():
        feature = Entity("feature", f"{model.name}/{state.name}")
        used = "yes" if state.used else "no"
        attrs = (("broken", state.reason), ("used", used))
        out.append(Sighting(feature, attrs, (Edge("feeds", feature, me),)))
    return out


def learning(model: ModelState) -> bool:
    """Tell whether something has no reference yet."""
    version = model.version_in_use
    return version is None or not version.drift.names or math.isnan(version.accuracy)


def facts_of(model: ModelState, numbers: Numbers, now: float) -> ModelFacts:
    """Return what is known about a model at `now`."""
    serving = model.serving()
    current = model.tenure_in_use
    version = model.version_in_use
    known = model.row if len(model.row) else model_row(model, numbers, now)
    row = dict(zip(_MODEL, known.tolist(), strict=True))
    lost, worse = numbers.states(model, now)
    states = version.drift.states() if version is not None else ()
    usual = (
        float(version.mix[model.positive])
        if version is not None and version.mix is not None and model.positive is not None
        else math.nan
    )
    ended = [t for t in model.tenures.values() if t.until is not None]
    return ModelFacts(
        model=model.name,
        current=_version_facts(numbers, version, current, now) if current is not None else None,
        serving=tuple(sorted({t.version for t in serving})),
        previous=tuple(
            _version_facts(numbers, model.versions.get(t.version), t, now)
            for t in sorted(ended, key=lambda t: -(t.until or t.last))
        ),
        accuracy=row["model.accuracy_ratio"],
        low=row["model.accuracy_low_ratio"],
        high=row["model.accuracy_high_ratio"],
        recent=row["model.accuracy_recent_ratio"],
        labelled=int(row["model.labelled_rows_count"]),
        reference_accuracy=row["model.reference_accuracy_ratio"],
        quality_lost=lost,
        lost_since=current.lost_since if current is not None and lost else None,
        worse_than_previous=worse,
        broken=tuple(sorted((s for s in states if s.broken), key=lambda s: (not s.used, s.name))),
        drifted=tuple(
            sorted(
                (s for s in states if s.drifted or not math.isnan(s.psi)),
                key=lambda s: (not s.drifted, 0.0 if math.isnan(s.psi) else -s.psi, s.name),
            )
        )[:10],
        label_coverage=row["model.label_coverage_ratio"],
        label_delay_s=row["model.label_delay_seconds"],
        label_usual=usual,
        labels_wrong=model.labels_wrong,
        labels_late=model.coming.late,
        loss_expected=numbers.loss_expected(model, now),
        apart=model.replicas.apart if model.replicas is not None else (),
        label_shift=row["model.positive_label_ratio"] - usual,
        prediction_shift=row["model.positive_prediction_ratio"] - usual,
        prediction_psi=row["model.prediction_drift_psi"],
        confidence=row["model.confidence_ratio"],
        judged=judged(model),
        learning=learning(model),
        rejected_rows=model.rejected,
        lost=numbers.lost(model, now),
        outputs=outputs_of(model),
        compared=model.versus.told(now),
        parts=model.parts,
        preparing=tuple(sorted({*model.learning, *model.held.versions})),
        held_rows=model.held.rows,
    )  # fmt: skip


def _version_facts(
    numbers: Numbers, version: VersionState | None, tenure: Tenure, now: float
) -> VersionFacts:
    labelled, accuracy, low, high = numbers.accuracy([tenure])
    return VersionFacts(
        version=tenure.version,
        since=tenure.since,
        until=tenure.until,
        rows=tenure.rows_total,
        labelled=labelled,
        accuracy=accuracy,
        low=low,
        high=high,
        reference_accuracy=version.accuracy if version is not None else math.nan,
        prediction_psi=numbers.prediction_psi(version, tenure, now),
        judged_since=tenure.judged_since,
    )
