"""Models: are they right, do labels come, which version answers, and whom do they fail."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.parts import (
    ORANGE,
    RED,
    YES_NO,
    Q,
    Row,
    Step,
    bad_from,
    board,
    choice,
    good_from,
    lines,
    own,
    says,
    signal,
    stat,
    states,
    to,
    values,
)

UID = "homeostat-models"
_NO_LABELS = "no labels have come yet"
_NO_CLASSES = "it predicts numbers, or no labels have come yet"


def model_choice() -> m.VariableModel:
    """Return the variable `model`: a name, as it also begins the keys of versions and features."""
    return choice(
        "model", "Model", "A model whose predictions are logged.",
        values("entity", signal("model.predictions_per_second")), regex="/model:(.*)/",
    )  # fmt: skip


def of_model(name: str, **labels: str) -> str:
    """Return the selector of a signal of the chosen model."""
    return signal(name, entity="model:$model", **labels)


def _version(name: str, **labels: str) -> str:
    return signal(name, entity="version:$model/.+", **labels)


def build() -> m.Dashboard:
    """Build it."""
    accuracy = "model.accuracy_ratio"
    about = {"entity": "model:$model"}
    judged = {
        "quality_lost": "quality lost", "worse_than_previous": "worse than the version before", "loss_expected": "loss expected",
        "relation_changed": "relation changed", "output_drifted": "answers drifted", "labels_late": "labels late",
        "labels_wrong": "labels look wrong", "retraining_held": "retraining held back",
    }  # fmt: skip
    return board(
        UID,
        "Homeostat / Models",
        "Are they right, do labels come, which version answers, and whom do they fail.",
        [model_choice()],
        [
            Row("Is $model right?", (
                stat(
                    "Quality lost", says("model.quality_lost"), Q(f'max({of_model("model.quality_lost")})'), maps=YES_NO,
                    none=_NO_LABELS,
                ),
                stat(
                    "Accuracy", says(accuracy), Q(f"max({of_model(accuracy)})"), unit="percentunit", decimals=1, line=True,
                    none=_NO_LABELS,
                ),
                stat(
                    "Against its reference", "Accuracy less that on the rows the version was made with.",
                    Q(f'max({of_model(accuracy)}) - max({of_model("model.reference_accuracy_ratio")})'), unit="percentunit",
                    decimals=1, steps=(Step(None, RED), Step(-0.05, ORANGE), Step(-0.02, "green")), none=_NO_LABELS,
                ),
                stat(
                    "Error budget left", says("model.error_budget_left_ratio"),
                    Q(f'min({of_model("model.error_budget_left_ratio")})'), unit="percentunit", steps=good_from(0.1),
                    none="no objective of it has a `target:`",
                ),
                stat(
                    "Drifted features", "Features that are no longer as in the reference.",
                    Q(f'sum({signal("feature.drifted", entity="feature:$model/.+")}) or vector(0)'), steps=bad_from(1, ORANGE),
                    url=to("homeostat-drift", "${model:queryparam}"),
                ),
                stat(
                    "Predictions", says("model.predictions_per_second"), Q(f'sum({of_model("model.predictions_per_second")})'),
                    unit="ops", line=True, none="nothing is predicted",
                ),
                lines(
                    "Accuracy, as labels show it", "Accuracy of recent labelled predictions with its 95 % bounds (shaded), what its "
                    "confidences let expect, and what it had on its reference rows. Dashed: the objective.",
                    Q(of_model(accuracy), "accuracy"),
                    Q(of_model("model.accuracy_low_ratio"), "at least"), Q(of_model("model.accuracy_high_ratio"), "at most"),
                    Q(of_model("model.expected_accuracy_ratio"), "expected by confidence"),
                    Q(of_model("model.reference_accuracy_ratio"), "on the reference"),
                    Q(
                        "max by (bound) (" + own("objective_limit", signal="model.accuracy_high_ratio|model.accuracy_ratio", **about)
                        + ")", "objective ({{bound}})",
                    ),
                    unit="percentunit", low=None, band=("at least", "at most"), dashed=["^objective"], size=(16, 9),
                    none=_NO_LABELS,
                ),
                states(
                    "What is proven of it", "What tests at a stated rate of false alarms have found, each by evidence and size.",
                    *(Q(of_model(f"model.{name}"), words) for name, words in judged.items()), size=(8, 9), none=_NO_LABELS,
                ),
            )),
            Row("By its own history", (
                lines(
                    "Accuracy against what is usual", "Accuracy, and what its own history lets expect of it now (shaded).",
                    Q(of_model(accuracy), "accuracy"),
                    Q(own("series_expected_low", signal=accuracy, **about), "expected, from"),
                    Q(own("series_expected_high", signal=accuracy, **about), "expected, to"),
                    unit="percentunit", low=None, band=("expected, from", "expected, to"), none="still learning",
                ),
                lines(
                    "How unusual it is", "How rare values of this model are now, as -log10 of their p-value. 3 is once in a "
                    "thousand looks.",
                    Q(own("series_score", **about), "{{signal}}"), none="still learning",
                ),
            )),
            Row("Quality", (
                lines(
                    "Precision, recall, F1, area under ROC", "Of the labelled predictions; of classes their mean.",
                    Q(of_model("model.precision_ratio"), "precision"), Q(of_model("model.recall_ratio"), "recall"),
                    Q(of_model("model.f1_ratio"), "F1"), Q(of_model("model.roc_auc_ratio"), "ROC AUC"), unit="percentunit",
                    low=None, size=(8, 8), none=_NO_CLASSES,
                ),
                lines(
                    "Are its probabilities right?", "Log loss, Brier score, and how far stated probabilities are off. Low is good.",
                    Q(of_model("model.log_loss_count"), "log loss"), Q(of_model("model.brier_ratio"), "Brier"),
                    Q(of_model("model.calibration_error_ratio"), "calibration error"), size=(8, 8), none=_NO_CLASSES,
                ),
                lines(
                    "Errors of a regression", "Mean size of the error, root of its mean square, and the mean error, in units of the "
                    "label.",
                    Q(of_model("model.mean_absolute_error"), "mean size"), Q(of_model("model.root_mean_square_error"), "root mean square"),
                    Q(of_model("model.bias"), "mean error"), low=None, size=(8, 8),
                    none="it predicts classes, or no labels have come yet",
                ),
                lines(
                    "Whom it fails", says("model.slice_accuracy_ratio"),
                    Q(f'bottomk(8, {of_model("model.slice_accuracy_ratio")})', "{{slice}} = {{value}}"), unit="percentunit", low=None,
                    none="no slice has enough labels yet",
                ),
                lines(
                    "Differences between groups", says("model.fairness_gap_ratio"),
                    Q(of_model("model.fairness_gap_ratio"), "{{group}}: {{kind}}"),
                    Q(of_model("model.fairness_gap_low_ratio"), "{{group}}: {{kind}}, proven"), unit="percentunit",
                    none="no protected groups are named: `models:` in agent.yaml",
                ),
            )),
            Row("Versions and labels", (
                lines(
                    "Who answers", says("version.predictions_per_second"),
                    Q(_version("version.predictions_per_second"), "{{entity}}"), unit="ops", stacked=True,
                    none="nothing is predicted",
                ),
                lines(
                    "Accuracy of versions", says("version.accuracy_ratio"), Q(_version("version.accuracy_ratio"), "{{entity}}"),
                    unit="percentunit", low=None, none=_NO_LABELS,
                ),
                lines(
                    "Version against version", says("version.worse_evidence_count"),
                    Q(_version("version.worse_evidence_count"), "{{entity}} against {{against}} ({{how}})"), low=None, size=(8, 8),
                    steps=bad_from(0), none="no two versions can be compared",
                ),
                lines(
                    "Do labels come?", "Share of predictions whose label has come within its usual delay, and how late labels are.",
                    Q(of_model("model.label_coverage_ratio"), "labelled"), unit="percentunit", high=1.0, size=(8, 8),
                    none=_NO_LABELS,
                ),
                lines(
                    "How late labels are", says("model.label_delay_seconds"), Q(of_model("model.label_delay_seconds"), "delay"),
                    unit="s", size=(8, 8), none=_NO_LABELS,
                ),
                lines(
                    "Batch-scoring runs", "Time since the newest run was written, and how late the next one is.",
                    Q(of_model("model.run_age_seconds"), "{{run}}: age"), Q(of_model("model.run_late_seconds"), "{{run}}: late"),
                    unit="s", size=(8, 8), none="it is not scored in batches",
                ),
                lines(
                    "Answers of a generator", "Tokens of an answer, and time to the first of them, 95 %.",
                    Q(_version("version.tokens_out_p95_count"), "{{entity}}: tokens"),
                    Q(_version("version.ttft_p95_seconds"), "{{entity}}: seconds to the first"), size=(8, 8),
                    none="it generates no text",
                ),
                lines(
                    "Age", says("model.age_seconds"), Q(of_model("model.age_seconds"), "age"), unit="s", size=(8, 8),
                    none="nobody tells when it was trained",
                ),
            )),
        ],
    )  # fmt: skip
