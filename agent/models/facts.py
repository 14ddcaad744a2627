"""What is known about a model, for rules and for people. Values only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agent.ports import FeatureState, Judged, LossParts


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One tenure of a version. NaN = not known.

    since, until   its first and last row; until None = it serves
    rows           predictions in the whole of it
    labelled       labelled predictions behind the accuracy: its last `models.window` seconds
    accuracy, low, high   with 95 % Wilson bounds; NaN below `models.min_rows`
    reference_accuracy    of this version, from its reference or its first labelled rows
    prediction_psi        of its mix of predictions against its reference
    judged_since   when its first label came; None = none has
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
    judged_since: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """Two versions of a model: what is known of b against a. NaN = not known.

    how             paired (both answered the same requests), together (they served at once), apart (one after the
                    other: a change of the world in between counts against the later one)
    verdict         worse, better, alike (the difference is less than .01 of the loss either way), unknown
    difference      mean loss of b less that of a, with bounds that hold at every look; shares of errors, or the unit
                    of the label
    worse, better, alike   log10 of the odds won against "it is not"
    pairs           differences behind it, of so many rows
    needed          how many more until there is a verdict, if all goes on like this
    agreement       share of the requests to which both said the same, with or without a label
    slices          (slicing, value) -> verdict, difference, low, high
    """

    a: str
    b: str
    how: str
    verdict: str
    difference: float
    low: float
    high: float
    worse: float
    better: float
    alike: float
    pairs: int
    rows_a: int
    rows_b: int
    needed: float
    agreement: float
    slices: Mapping[tuple[str, str], tuple[str, float, float, float]]

    @property
    def said(self) -> str:
        """The same in a sentence."""
        a, b = self.a or "without a name", self.b or "without a name"
        if not self.pairs:
            return f"version {b} can not be compared with {a} yet: there are no labels of both"
        size = size_of(self.difference, self.low, self.high)
        rows = f"{self.rows_b} rows against {self.rows_a}"
        rows += {"paired": ", the same requests", "apart": ", one after the other"}.get(
            self.how, ""
        )
        if self.verdict == "unknown":
            more = f"some {self.needed:.0f} more needed" if self.needed < 1e7 else "no end in sight"
            more = more if self.needed >= 1 else "the next ones may tell"
            return f"version {b} against {a}: not known yet, {size}, {rows}, {more}"
        what = {"worse": "is worse than", "better": "is better than", "alike": "is as good as"}
        odds = getattr(self, self.verdict)
        return f"version {b} {what[self.verdict]} {a}: log10 odds {odds:.1f}, {size}, {rows}"


def size_of(difference: float, low: float, high: float) -> str:
    """Say how large a difference of losses is."""
    return f"difference {difference:+.3g} [{low:+.3g}, {high:+.3g}]"


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
    outputs          what it says, held against what it said of its reference, or at first
    compared         versions and variants against each other
    parts            what the change of its loss is made of; None = its reference has no labelled rows, or nothing came
    preparing        versions whose reference is being made; held_rows: rows that wait for it, they are counted then
    lost             share of predictions that their sender could not log, by its own count
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
    outputs: tuple[FeatureState, ...] = ()
    compared: tuple[Compared, ...] = ()
    parts: LossParts | None = None
    preparing: tuple[str, ...] = ()
    held_rows: int = 0
    lost: float = math.nan
