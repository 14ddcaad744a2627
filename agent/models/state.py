"""What is kept of a model: its versions, its tenures, its classes. Arrays of fixed size; no decisions here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from agent import registry
from agent.config import WatchModels
from agent.label_join import LabelJoin
from agent.model import FloatArray, IntArray
from agent.models.generated import Generated
from agent.models.held import Held
from agent.models.labels import Coming, Moments, sums_of
from agent.models.outputs import Outputs
from agent.models.replicas import Replicas
from agent.models.tags import Tags
from agent.models.versus import Versus
from agent.ports import (
    ErrorDrift,
    FeatureDrift,
    Judged,
    LabelledDrift,
    LossParts,
    SuccessionDrift,
)
from agent.rings import DELAYS, LATENCIES, Ring

MOST_MODELS: Final = 32
MOST_TENURES: Final = 8
"""Of one model: those that serve, and the newest of those that ended."""
_MOST_CLASSES: Final = 4096
CLASSES: Final = 16
"""Classes whose share is followed; the rest is one."""
_MOST_WORDS: Final = 8192
BUCKETS: Final = 240
"""In a window, at the most; a bucket is a second at the least."""
TRAFFIC_S: Final = 120
SURE: Final = np.array([0.6, 0.85])
"""Confidences that cut the rows into unsure, rather sure and sure ones."""
SURE_NAMES: Final = ("unsure", "rather sure", "sure")
_ONCE: Final = 1e-3
"""The chance that a release as good as the one before is ever called worse for what it does from its start."""
Slicings = Sequence[tuple[str, tuple[str, ...]]]
_POSITIVE: Final = frozenset(
    {"1", "yes", "y", "positive", "pos", "bad", "fraud", "churn", "default"}
)
"""What people call the class that they look for."""


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of rows, the newest at `ts`: classes (n,), -1 = none; numbers of a regression; how surely."""

    ts: float
    classes: IntArray
    numbers: FloatArray | None
    sure: FloatArray


class VersionState:
    """What is known of a version beside its tenures: its reference, or what was learnt in its stead."""

    def __init__(
        self, name: str, drift: FeatureDrift, outputs: Outputs, generated: Generated
    ) -> None:
        self.name = name
        self.drift = drift
        self.outputs = outputs
        self.generated = generated
        self.parts: Any = None
        self.slicings = drift.slicings
        """Those whose values the rows that wait for labels bring."""
        self.labelled: LabelledDrift | None = None
        self.judged = Judged.nothing()
        self.reference: Mapping[str, Any] | None = None
        self.asked = -math.inf
        self.learn_at = -math.inf
        self.damaged = False
        self.accuracy = math.nan
        self.accuracy_rows = 0.0
        self.mix: FloatArray | None = None
        self.mix_rows = 0.0
        self.learnt_mix: FloatArray = np.zeros(CLASSES + 1)
        self.learnt_labels = 0
        self.learnt_right = 0
        self.learnt_sums: FloatArray = np.zeros(6)
        self.level = (0.0, 1.0)
        self.moments: Moments | None = None

    def learn_level(self, sums: FloatArray, enough: float) -> None:
        """Learn mean and deviation of the labels of a regression from the sums of its first `enough` rows."""
        self.learnt_sums += sums
        raw = Moments.of(self.learnt_sums) if self.learnt_sums[0] >= enough else None
        if raw is not None and raw.truth > 0:
            self.level = (float(self.learnt_sums[1] / self.learnt_sums[0]), math.sqrt(raw.truth))
            self.moments = Moments(1.0, raw.said / raw.truth, raw.tie)


class Tenure:
    """A stretch of time in which a version serves.

    Both rings hold two windows, as labels come late, by time of the prediction:

    rows     predictions, sum of confidence, predictions with one, then predictions by class
    labels   labelled, right, then labels by class; of a regression the sums of `Moments`, less the rows
    """

    def __init__(self, number: int, version: str, since: float, buckets: int) -> None:
        self.number = number
        self.version = version
        self.since = since
        self.last = since
        self.until: float | None = None
        self.serving = False
        self.rows_total = 0
        self.numbers = False  # of a regression
        self.rows = Ring(buckets, 3 + CLASSES + 1, np.float32)
        self.labels = Ring(buckets, 2 + CLASSES + 1, np.float32)
        self.against_reference: ErrorDrift = registry.drift.get("errors")()
        self.against_previous: ErrorDrift = registry.drift.get("errors")()
        cls = registry.drift.get("succession")
        self.succession: SuccessionDrift = cls(cls.Config(once=_ONCE))
        self.pairs: FloatArray = np.zeros((CLASSES + 1, CLASSES + 1))  # newest, by said and true
        self.large: FloatArray = np.zeros(
            2
        )  # of a regression: large errors, and rows, old ones faded
        self.lost = False
        self.lost_since: float | None = None
        self.worse = False
        self.judged_since: float | None = None  # when the first label came

    def count_numbers(
        self, version: VersionState, slot: IntArray, said: FloatArray, truth: FloatArray, enough: float
    ) -> None:  # fmt: skip
        """Count labels of a regression beside what was said, in deviations of the labels that were usual."""
        if version.moments is None:
            version.learn_level(sums_of(truth, said), enough)
            return
        mean, unit = version.level
        t, s = (truth - mean) / unit, (said - mean) / unit
        for column, amount in enumerate((t, s, t * t, s * s, t * s)):
            self.labels.add(slot, 2 + column, amount)


@dataclass(slots=True)
class ModelState:
    """One model."""

    name: str
    join: LabelJoin
    versus: Versus
    tags: Tags
    traffic: Ring = field(
        default_factory=lambda: Ring(TRAFFIC_S, 3 + 2 * (LATENCIES + 1), np.uint32)
    )
    arrivals: Ring = field(default_factory=lambda: Ring(BUCKETS + 1, 3))
    """Predictions, labels, and predictions that their sender lost, by when they came."""
    versions: dict[str, VersionState] = field(default_factory=dict)
    tenures: dict[int, Tenure] = field(default_factory=dict)
    next_tenure: int = 1
    current: int | None = None
    positive: int | None = None
    regression: bool = False
    shown: dict[Any, None] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    words: dict[Any, int | None] = field(default_factory=dict)
    early: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    delays: FloatArray = field(default_factory=lambda: np.zeros(DELAYS))
    first: float = math.inf
    new_rows: int = 0
    new_labels: int = 0
    new_lost: int = 0
    rows_seen: float = -math.inf
    labels_seen: float = -math.inf
    new_delays: FloatArray = field(default_factory=lambda: np.zeros(DELAYS))
    """As `delays`, of the labels since the last frame."""
    rejected: int = 0
    coming: Coming = field(default_factory=Coming)
    replicas: Replicas | None = None
    labels_wrong: str = ""
    released: int = 0
    """Newest tenure that was in use: one after it is a release, going back and forth between two is none."""
    judged: FloatArray | None = None
    row: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Its signals in the last frame."""
    frames: int = 0
    parts: LossParts | None = None
    parts_due: float = -math.inf
    sketches: dict[int, None] = field(default_factory=dict)
    seen_features: tuple[Any, ...] = ()
    held: Held = field(default_factory=Held)
    learning: set[str] = field(default_factory=set)
    """Versions whose first rows are being made their reference."""

    @classmethod
    def new(cls, name: str, config: WatchModels) -> ModelState:
        """Return a model of which nothing is known."""

        def join() -> LabelJoin:
            return LabelJoin(config.label_wait, config.max_waiting)

        return cls(name, join(), Versus(join(), config.window), Tags(config.slices))

    def bring_back(self, now: float, latest: float, width: float) -> None:
        """Bring back what is of after `latest`, which no row is: a clock was set back. width: of a bucket."""
        self.traffic.bring_back(int(now), int(latest))
        rings = [self.arrivals]
        for tenure in self.tenures.values():
            tenure.last = now if tenure.last > latest else tenure.last
            if tenure.judged_since is not None and tenure.judged_since > latest:
                tenure.judged_since = now
            rings += (tenure.rows, tenure.labels)
        for ring in rings:
            ring.bring_back(int(now / width), int(latest / width))
        for name in ("rows_seen", "labels_seen", "parts_due"):
            if getattr(self, name) > latest:
                setattr(self, name, now)
        if math.isfinite(self.first) and self.first > latest:
            self.first = now
        for version in self.versions.values():
            version.asked, version.learn_at = min(version.asked, now), min(version.learn_at, latest)

    @property
    def tenure_in_use(self) -> Tenure | None:
        """The tenure that most of the rows of late are of."""
        return self.tenures.get(self.current) if self.current is not None else None

    @property
    def version_in_use(self) -> VersionState | None:
        """Its version."""
        tenure = self.tenure_in_use
        return self.versions.get(tenure.version) if tenure is not None else None

    def open_tenure(self, version: str) -> Tenure | None:
        """Return the tenure of a version that has not ended."""
        found = [t for t in self.tenures.values() if t.version == version and t.until is None]
        return found[-1] if found else None

    def serving(self) -> list[Tenure]:
        """Return the tenures that serve."""
        return [t for t in self.tenures.values() if t.serving]

    def reslice(self, version: VersionState, before: Slicings | None) -> None:
        """Bring rows of a version that wait for labels from the slicings before, None = unknown, to those of now."""
        version.slicings = now = version.drift.slicings
        if before is not None and list(before) == list(now):
            return
        known = list(before or ())
        order = [known.index(one) if one in known else -1 for one in now]
        # behind them stand how sure a row was, and its tags
        more = [len(known) + i for i in range(1 + len(self.tags.values))]
        more = more if before is not None else [-1] * len(more)
        mine = [t.number for t in self.tenures.values() if t.version == version.name]
        if mine:
            self.join.reslice(mine, np.array([*order, *more], dtype=np.int64))

    def answer(self, version: VersionState) -> int | None:
        """Return the positive one of two classes: the one that is called so, else the rarer one."""
        if len(self.classes) != 2:  # a pair
            return None
        for word, number in self.classes.items():
            if word.lower() in _POSITIVE:
                return number
        return int(np.argmin(version.mix[:2])) if version.mix is not None else 1

    def class_number(self, word: str) -> int:
        """Return the number of a class, a new one for a new class; -1 = none, or too many."""
        if not word:
            return -1
        number = self.classes.get(word)
        if number is None:
            if len(self.classes) >= _MOST_CLASSES:
                return -1
            number = self.classes[word] = len(self.classes)
        return number

    def class_numbers(self, values: Sequence[Any]) -> IntArray:
        """Return the number of each class (n,); -1 = none. What was met before costs one look-up."""
        words = self.words
        try:
            # 1, 1.0 and true are one key, as they are one class
            numbers = list(map(words.get, values))
        except TypeError:  # a list or an object: no class, but no reason to stop either
            numbers = [None] * len(values)
        for i, number in enumerate(numbers):
            if number is None:
                value = values[i]
                if isinstance(value, str) and value in words:  # met in this very batch
                    numbers[i] = words[value]
                    continue
                numbers[i] = self.class_number(word_of(value))
                if isinstance(value, str | bool | int | None) and len(words) < _MOST_WORDS:
                    words[value] = numbers[i]
        return np.array(numbers, dtype=np.int64)


def word_of(value: Any) -> str:
    """Return a class as one text, however it was logged: 1, 1.0, "1", "1.0" and true are the same class."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in {"true", "false"}:
            return "1" if text.lower() == "true" else "0"
        try:
            value = float(text)
        except ValueError:
            return text
        if not math.isfinite(value):
            return text
    if isinstance(value, int | float | np.integer | np.floating):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return str(value)
