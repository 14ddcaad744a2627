"""Drift: which inputs are no longer as they were, what the model says now, and whether that costs anything."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.models import model_choice, of_model
from dashboards.boards.parts import (
    ORANGE,
    YES_NO,
    Column,
    Q,
    Row,
    bad_from,
    board,
    choice,
    lines,
    ok_until,
    says,
    signal,
    stat,
    states,
    table,
    to,
    values,
)

UID = "homeostat-drift"
_NONE = "no reference: `models: {reference: ...}` in agent.yaml, or too few rows yet"
_NO_LABELS = "no labels have come yet"


def _feature(name: str, **labels: str) -> str:
    return signal(name, entity="feature:$model/$feature", **labels)


def build() -> m.Dashboard:
    """Build it."""
    of = "sum by (entity)"
    return board(
        UID,
        "Homeostat / Drift",
        "Which inputs are no longer as they were, what the model says now, and whether that costs anything.",
        [
            model_choice(),
            choice(
                "feature", "Feature", "Features of the model.",
                values("entity", signal("feature.missing_ratio", entity="feature:$model/.+")), many=True,
                regex="/feature:[^\\/]+\\/(.*)/",
            ),
        ],
        [
            Row("Has $model's world changed?", (
                stat(
                    "Contracts broken", "Features whose data contract is broken: missing, of another unit, out of range, stuck.",
                    Q(f'sum({_feature("feature.contract_broken")}) or vector(0)'), steps=bad_from(1),
                ),
                stat(
                    "Drifted features", says("feature.drifted"), Q(f'sum({_feature("feature.drifted")}) or vector(0)'),
                    steps=bad_from(1, ORANGE),
                ),
                stat(
                    "Largest drift", says("model.feature_drift_psi"), Q(f'max({of_model("model.feature_drift_psi")})'),
                    decimals=2, steps=ok_until(0.1, 0.25), line=True, none=_NONE,
                ),
                stat(
                    "Drift of the answers", says("model.prediction_drift_psi"), Q(f'max({of_model("model.prediction_drift_psi")})'),
                    decimals=2, steps=ok_until(0.1, 0.25), line=True, none=_NONE,
                ),
                stat(
                    "Relation changed", says("model.relation_changed"), Q(f'max({of_model("model.relation_changed")})'),
                    maps=YES_NO, none=_NO_LABELS,
                ),
                stat(
                    "Does it hurt?", says("model.quality_lost"), Q(f'max({of_model("model.quality_lost")})'), maps=YES_NO,
                    none=_NO_LABELS, url=to("homeostat-models", "${model:queryparam}"),
                ),
                table(
                    "Features", "Every feature, the most drifted first. Evidence is log10 of that against `as the reference`: 0 is "
                    "enough. PSI says how much it is: below 0.1 little, above 0.25 much.",
                    [
                        Q(f'{of} ({_feature("feature.drift_psi")})'),
                        Q(f'{of} ({_feature("feature.drift_evidence_count")})'),
                        Q(f'{of} ({_feature("feature.missing_ratio")})'),
                        Q(f'{of} ({_feature("feature.out_of_range_ratio")})'),
                        Q(f'{of} ({_feature("feature.scale_ratio")})'),
                        Q(f'{of} ({_feature("feature.contract_broken")})'),
                    ],
                    [
                        Column("entity", "Feature"), Column("A", "PSI", steps=ok_until(0.1, 0.25)),
                        Column("B", "Evidence", steps=bad_from(0, ORANGE)),
                        Column("C", "Missing", unit="percentunit", steps=ok_until(0.05, 0.2)),
                        Column("D", "Out of range", unit="percentunit", steps=ok_until(0.05, 0.2)),
                        Column("E", "Median against reference"), Column("F", "Contract broken", maps=YES_NO),
                    ],
                    size=(24, 9), none=_NONE, sort="PSI",
                ),
            )),
            Row("Inputs", (
                lines(
                    "How far features moved", says("feature.drift_psi"), Q(f'topk(10, {_feature("feature.drift_psi")})', "{{entity}}"),
                    steps=ok_until(0.1, 0.25), none=_NONE,
                ),
                lines(
                    "How sure that is", says("feature.drift_evidence_count"),
                    Q(f'topk(10, {_feature("feature.drift_evidence_count")})', "{{entity}}"), low=None, steps=bad_from(0, ORANGE),
                    none=_NONE,
                ),
                states(
                    "Drifted, and when", says("feature.drifted"), Q(_feature("feature.drifted"), "{{entity}}"),
                    maps={"0": ("as the reference", "green"), "1": ("drifted", ORANGE)}, none=_NONE,
                ),
                states(
                    "Contracts", says("feature.contract_broken"), Q(_feature("feature.contract_broken"), "{{entity}}"), none=_NONE,
                ),
                lines(
                    "Missing", says("feature.missing_ratio"), Q(f'topk(10, {_feature("feature.missing_ratio")})', "{{entity}}"),
                    unit="percentunit", size=(8, 8), none="nothing is predicted",
                ),
                lines(
                    "Out of range", says("feature.out_of_range_ratio"),
                    Q(f'topk(10, {_feature("feature.out_of_range_ratio")})', "{{entity}}"), unit="percentunit", size=(8, 8), none=_NONE,
                ),
                lines(
                    "Median against the reference", says("feature.scale_ratio"), Q(_feature("feature.scale_ratio"), "{{entity}}"),
                    low=None, size=(8, 8), none=_NONE,
                ),
            )),
            Row("Answers, and what it costs", (
                lines(
                    "Drift of what it says", says("model.output_drift_psi"), Q(of_model("model.output_drift_psi"), "{{output}}"),
                    steps=ok_until(0.1, 0.25), size=(8, 8), none=_NONE,
                ),
                lines(
                    "Mix", "Share of the most common reference class among predictions, and among labels.",
                    Q(of_model("model.positive_prediction_ratio"), "predicted"), Q(of_model("model.positive_label_ratio"), "labelled"),
                    unit="percentunit", size=(8, 8), none="it predicts numbers, or nothing yet",
                ),
                lines(
                    "Confidence", says("model.confidence_ratio"), Q(of_model("model.confidence_ratio"), "confidence"),
                    unit="percentunit", low=None, size=(8, 8), none="it does not tell how sure it is",
                ),
                lines(
                    "Relation to the label", says("model.relation_evidence_count"), Q(of_model("model.relation_evidence_count"), "evidence"),
                    low=None, steps=bad_from(0), none=_NO_LABELS,
                ),
                lines(
                    "What the loss comes from", "Change of the mean loss against the reference: the part that the move of each feature "
                    "is worth, and the part that no move of the inputs explains.",
                    Q(of_model("model.loss_change"), "all"), Q(of_model("model.loss_from_relation"), "the relation"),
                    Q(f'topk(6, {of_model("model.loss_from_feature")})', "{{feature}}"), low=None,
                    none="labels show no change of the loss to take apart",
                ),
            )),
        ],
    )  # fmt: skip
