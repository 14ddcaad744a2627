"""What is known about a model, for rules and for people. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from agent.ports import FeatureState, Judged


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One tenure of a version. NaN = not known.

    since, until   its first and last row; until None = it serves
    rows           predictions in the whole of it
    labelled       labelled predictions behind the accuracy: its last `models.window` seconds
    accuracy, low, high   with 95 % Wilson bounds; NaN below `models.min_rows`
    reference_accuracy    of this version, from its reference or its first labelled rows
    prediction_psi        of its mix of predictions against its reference
    """

    version: str
    since: float
    until: float | None
    rows: int
    labelled: int
    accuracy: float
    low: float
    high: float
    reference_accuracy: float
    prediction_psi: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known about a model, for rules and for people. NaN and None = not known.

    current          the version that serves most; None before the first row
    serving          all versions that serve
    previous         tenures that ended, newest first
    accuracy ...     of what serves now; recent: of the newest `models.min_rows` labelled rows
    quality_lost     labels prove it worse than its reference by more than `models.tolerance`, since `lost_since`
    worse_than_previous   labels prove it worse than the tenure before it was
    broken           features with a broken contract, those in use first
    drifted          at most 10 features: those that drift first, then by PSI, largest first
    label_shift      share of the most common class among labels, less that of the reference
    label_usual      that share in the reference
    labels_wrong     what is wrong with the labels themselves, "" = nothing
    labels_late      they do not come as they used to
    loss_expected    what the model is unsure of on inputs that drifted lets expect a loss
    apart            replicas that answer otherwise than their peers
    prediction_shift as label_shift, among predictions
    judged           what labels and confidences say beyond accuracy
    learning         something has no reference yet
    rejected_rows    rows with impossible times, duplicates excluded
    """

    model: str
    current: VersionFacts | None
    serving: tuple[str, ...]
    previous: tuple[VersionFacts, ...]
    accuracy: float
    low: float
    high: float
    recent: float
    labelled: int
    reference_accuracy: float
    quality_lost: bool | None
    lost_since: float | None
    worse_than_previous: bool | None
    broken: tuple[FeatureState, ...]
    drifted: tuple[FeatureState, ...]
    label_coverage: float
    label_delay_s: float
    label_shift: float
    label_usual: float
    labels_wrong: str
    labels_late: bool
    loss_expected: bool | None
    apart: tuple[str, ...]
    prediction_shift: float
    prediction_psi: float
    confidence: float
    judged: Judged
    learning: bool
    rejected_rows: int
