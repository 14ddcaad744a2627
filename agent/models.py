"""Predictions and late labels become model metrics: traffic, accuracy, label delay, input contracts, drift.

    PredictionBatch -> traffic ring (1 s)       -> service.*  requests, latency with waiting, errors
                    -> rows ring of the tenure  -> model.*    mix of predictions, confidence
                    -> features of the version  -> feature.*  contract, PSI
                    -> label join
    LabelBatch      -> label join -> labels ring of the tenure -> model.*, version.*  accuracy

A *tenure* is a stretch of time in which a version serves. Accuracy belongs to tenures, and that of the model is the
accuracy of the tenures that serve now: after a release or a roll back it is unknown until enough rows of the new
tenure have labels, never a mixture with those of the version before. A version enters when a fifth of the newest
rows is its own and leaves after `_GONE_ROWS` rows of others without one of its own. A label counts at the time of
its prediction, for the tenure that made it, however late it comes.

State is arrays of fixed size; nothing is kept a row but 30 bytes while it waits for its label. No clock: time comes
with the batches and with `frame(now)`. No feature value leaves: attributes and facts hold shares and factors.
Cost, measured on one core at 30 features in batches of 50: about 15 microseconds a row with its label, 1 ms a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from agent import checkpoint, registry
from agent.config import WatchModels
from agent.errors import Refused
from agent.intervals import wilson
from agent.label_join import Joined, LabelJoin, keys_of
from agent.model import BoolArray, Edge, Entity, FloatArray, Frame, IntArray, Series, Sighting
from agent.ports import ErrorDrift, FeatureDrift, FeatureState, LabelBatch, PredictionBatch
from agent.rings import (
    DELAYS,
    LATENCIES,
    Ring,
    delay_bins,
    delay_quantile,
    latency_bins,
    latency_quantile,
)

_VERSION: Final = 1

# ---- how much is kept
_MOST_MODELS: Final = 32
_MOST_TENURES: Final = 8
"""Of one model: those that serve, and the newest of those that ended."""
_MOST_CLASSES: Final = 4096
_CLASSES: Final = 16
"""Classes whose share is followed; the rest is one."""
_MOST_WORDS: Final = 8192
_EARLY_ROWS: Final = 10_000
_EARLY_S: Final = 60.0
"""How long a label waits that comes before its prediction."""
_BUCKETS: Final = 240
"""In a window, at the most; a bucket is a second at the least."""
_TRAFFIC_S: Final = 120
_AHEAD_S: Final = 60.0
"""A row that claims to be from further ahead than this is garbage."""
_YEAR_2100: Final = 4.1e9

# ---- who serves
_LOOK_ROWS: Final = 60
_ENTERS: Final = 0.2
_GONE_ROWS: Final = 60
_IDLE_S: Final = 300.0

# ---- what is learnt when there is no reference
_ASK_AGAIN_S: Final = 10.0
_LEARN_ROWS: Final = 1000
_LEARN_LABELS: Final = 500

_DELAY_FADE_ROWS: Final = 500.0
"""Half-life, in labels, of what is usual for their delay."""
_Z_BOUND: Final = 2.6
"""Of the reference's own uncertainty: one-sided 99.5 %."""
_CALM: Final = 3.0
"""log10 of evidence below the alarm at which a proven loss is over."""

_SERVICE: Final = (
    "service.error_ratio", "service.latency_p50_seconds", "service.latency_p95_seconds",
    "service.latency_p99_seconds", "service.processing_p50_seconds", "service.requests_per_second",
)  # fmt: skip
_MODEL: Final = (
    "model.accuracy_high_ratio", "model.accuracy_low_ratio", "model.accuracy_ratio",
    "model.accuracy_recent_ratio", "model.confidence_ratio", "model.feature_drift_psi",
    "model.label_coverage_ratio", "model.label_delay_seconds", "model.labelled_rows_count",
    "model.positive_label_ratio", "model.positive_prediction_ratio", "model.prediction_drift_psi",
    "model.predictions_per_second", "model.quality_lost", "model.reference_accuracy_ratio",
    "model.worse_than_previous",
)  # fmt: skip
_OF_VERSION: Final = (
    "version.accuracy_high_ratio", "version.accuracy_low_ratio", "version.accuracy_ratio",
    "version.predictions_per_second",
)  # fmt: skip
_FEATURE: Final = (
    "feature.missing_ratio", "feature.out_of_range_ratio", "feature.scale_ratio",
    "feature.drift_psi", "feature.contract_broken",
)  # fmt: skip
"""In the order of the columns of `FeatureDrift.judge`."""


# ---------------------------------------------------------------- facts for diagnosis


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
    drifted          features by PSI, largest first, at most 10
    label_shift      share of the most common class among labels, less that of the reference
    prediction_shift the same among predictions
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
    prediction_shift: float
    prediction_psi: float
    confidence: float
    learning: bool
    rejected_rows: int


# ---------------------------------------------------------------- state


class _Version:
    """What is known of a version beside its tenures: its reference, or what was learnt in its stead."""

    def __init__(self, name: str, drift: FeatureDrift) -> None:
        self.name = name
        self.drift = drift
        self.reference: Mapping[str, Any] | None = None
        self.asked = -math.inf
        self.damaged = False
        self.accuracy = math.nan
        self.accuracy_rows = 0.0
        self.mix: FloatArray | None = None
        self.mix_rows = 0.0
        self.learnt_mix: FloatArray = np.zeros(_CLASSES + 1)
        self.learnt_labels = 0
        self.learnt_right = 0


class _Tenure:
    """A stretch of time in which a version serves.

    Both rings hold two windows, as labels come late, by time of the prediction:

    rows     predictions, sum of confidence, predictions with one, then predictions by class
    labels   labelled, right, then labels by class
    """

    def __init__(self, number: int, version: str, since: float, buckets: int) -> None:
        self.number = number
        self.version = version
        self.since = since
        self.last = since
        self.until: float | None = None
        self.serving = False
        self.rows_total = 0
        self.rows = Ring(buckets, 3 + _CLASSES + 1, np.float32)
        self.labels = Ring(buckets, 2 + _CLASSES + 1, np.float32)
        self.against_reference: ErrorDrift = registry.drift.get("errors")()
        self.against_previous: ErrorDrift = registry.drift.get("errors")()
        self.lost = False
        self.lost_since: float | None = None
        self.worse = False


@dataclass(slots=True)
class _Model:
    """One model."""

    name: str
    join: LabelJoin
    traffic: Ring = field(
        default_factory=lambda: Ring(_TRAFFIC_S, 3 + 2 * (LATENCIES + 1), np.uint32)
    )
    arrivals: Ring = field(default_factory=lambda: Ring(_BUCKETS + 1, 2))
    versions: dict[str, _Version] = field(default_factory=dict)
    tenures: dict[int, _Tenure] = field(default_factory=dict)
    next_tenure: int = 1
    current: int | None = None
    positive: int | None = None
    classes: dict[str, int] = field(default_factory=dict)
    words: dict[Any, int | None] = field(default_factory=dict)
    early: dict[int, tuple[int, float, float]] = field(default_factory=dict)
    delays: FloatArray = field(default_factory=lambda: np.zeros(DELAYS))
    first: float = math.inf
    new_rows: int = 0
    new_labels: int = 0
    rows_seen: float = -math.inf
    labels_seen: float = -math.inf
    rejected: int = 0
    judged: FloatArray | None = None
    seen_features: tuple[Any, ...] = ()

    def open_tenure(self, version: str) -> _Tenure | None:
        """Return the tenure of a version that has not ended."""
        found = [t for t in self.tenures.values() if t.version == version and t.until is None]
        return found[-1] if found else None

    def serving(self) -> list[_Tenure]:
        """Return the tenures that serve."""
        return [t for t in self.tenures.values() if t.serving]


def _word(value: Any) -> str:
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


class ModelWatch:
    """All models that predictions or labels were logged of.

    config      windows and limits
    reference   (model, version) -> its reference.json, None when there is none (yet)
    serves      model -> id of the service that it runs in; None = its traffic is nobody's
    """

    def __init__(
        self,
        config: WatchModels,
        reference: Callable[[str, str], Mapping[str, Any] | None],
        serves: Callable[[str], str | None],
    ) -> None:
        self.config = config
        self._reference = reference
        self._serves = serves
        self._models: dict[str, _Model] = {}
        self._now = math.nan
        self._width = max(1.0, config.window / _BUCKETS)
        self._held = max(1, math.ceil(config.window / self._width))
        self._layout: tuple[Any, ...] = ()
        self._series: tuple[Series, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        self._told: dict[Entity, Sighting] = {}

    @property
    def busy(self) -> bool:
        """Tell whether any model has been seen."""
        return bool(self._models)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that have been seen."""
        return tuple(sorted(self._models))

    # ---------------------------------------------------------------- what comes in

    def take(self, batch: PredictionBatch | LabelBatch) -> None:
        """Count a batch. Rows and labels may come in any order, late, or twice (the second time is dropped)."""
        model = self._models.get(batch.model)
        if model is None:
            if len(self._models) >= _MOST_MODELS:
                return
            join = LabelJoin(self.config.label_wait, self.config.max_waiting)
            model = self._models[batch.model] = _Model(batch.model, join)
        if isinstance(batch, LabelBatch):
            self._take_labels(model, batch)
        else:
            self._take_rows(model, batch)

    def _take_rows(self, model: _Model, batch: PredictionBatch) -> None:
        ts = np.where(np.isnan(batch.ts), self._now, batch.ts)
        latest = _YEAR_2100 if math.isnan(self._now) else self._now + _AHEAD_S
        keep = (ts >= 0) & (ts <= latest)
        model.rejected += len(ts) - int(np.count_nonzero(keep))
        keys = keys_of(batch.ids)
        some = keys != 0
        if some.any():
            twice = np.ones(len(keys), dtype=np.bool_)
            twice[np.unique(keys, return_index=True)[1]] = False
            keep &= ~(some & (twice | model.join.known(keys)))
        status = batch.status
        ok = keep & (status > 0) & (status < 400)
        if not keep.any():
            return
        model.first = min(model.first, float(ts[keep].min()))
        self._count_traffic(model, batch, ts, keep, ok)
        rows = int(np.count_nonzero(ok))
        if not rows:
            return
        model.new_rows += rows
        whole = rows == len(ts)
        at = slice(None) if whole else ok
        newest = float(ts[at].max())
        version = self._version(model, batch.version)
        tenure = self._tenure(model, version, float(ts[at].min()), newest)
        said = self._classes_of(model, version, batch.pred, at, rows)
        self._count_rows(tenure, version, ts[at], batch.proba[at], said)
        features = (
            batch.features
            if whole
            else {name: np.asarray(column)[ok] for name, column in batch.features.items()}
        )
        version.drift.take(newest, rows, features)
        wait = (keys[at] != 0) & (said >= 0)
        if wait.any():
            waiting = keys[at][wait]
            model.join.add(waiting, ts[at][wait], tenure.number, said[wait])
            if model.early:
                self._join_early(model, waiting)

    def _count_traffic(
        self, model: _Model, batch: PredictionBatch, ts: FloatArray, keep: BoolArray, ok: BoolArray
    ) -> None:
        """Count requests, also those that failed."""
        slot, held = model.traffic.slots(ts[keep].astype(np.int64))
        failed = (batch.status >= 500) | (batch.status <= 0)
        slot = slot[held]
        seconds = np.concatenate((batch.latency_s[keep][held], batch.processing_s[keep][held]))
        bins = latency_bins(seconds)
        model.traffic.count(
            (slot, 0),
            (slot[failed[keep][held]], 1),
            (slot[ok[keep][held]], 2),
            (slot, 3 + bins[: len(slot)]),
            (slot, 4 + LATENCIES + bins[len(slot) :]),
        )

    def _count_rows(
        self,
        tenure: _Tenure,
        version: _Version,
        ts: FloatArray,
        proba: FloatArray,
        said: IntArray,
    ) -> None:
        tenure.rows_total += len(ts)
        tenure.last = max(tenure.last, float(ts.max()))
        slot, held = tenure.rows.slots((ts / self._width).astype(np.int64))
        sure = held & np.isfinite(proba)
        known = held & (said >= 0)
        ring = tenure.rows
        ring.add(slot[sure], 1, np.clip(proba[sure], 0.0, 1.0))
        ring.count(
            (slot[held], 0),
            (slot[sure], 2),
            (slot[known], 3 + np.minimum(said[known], _CLASSES)),
        )
        if version.mix is None:
            version.learnt_mix += np.bincount(
                np.minimum(said[said >= 0], _CLASSES), minlength=_CLASSES + 1
            )
            learnt = float(version.learnt_mix.sum())
            if learnt >= _LEARN_ROWS:
                version.mix, version.mix_rows = version.learnt_mix / learnt, learnt

    def _take_labels(self, model: _Model, batch: LabelBatch) -> None:
        keys = keys_of(batch.ids)
        said = self._class_numbers(model, batch.labels)
        use = (keys != 0) & (said >= 0)
        if not use.any():
            return
        keys, said, ts = keys[use], said[use], np.asarray(batch.ts, dtype=np.float64)[use]
        joined = model.join.label(keys)
        for i in np.flatnonzero(joined.status == 0).tolist():
            if len(model.early) < _EARLY_ROWS:
                # when it came, by the last frame: how long it may wait counts from there
                model.early.setdefault(int(keys[i]), (int(said[i]), float(ts[i]), self._now))
        self._judge_rows(model, joined, said, ts)

    def _join_early(self, model: _Model, keys: npt.NDArray[np.uint64]) -> None:
        """Give rows the labels that came before them."""
        found = [key for key in keys.tolist() if key in model.early]
        if not found:
            return
        labels = [model.early.pop(key) for key in found]
        joined = model.join.label(np.array(found, dtype=np.uint64))
        said = np.array([label for label, _, _ in labels], dtype=np.int64)
        self._judge_rows(model, joined, said, np.array([since for _, since, _ in labels]))

    def _judge_rows(
        self, model: _Model, joined: Joined, truth: IntArray, known_since: FloatArray
    ) -> None:
        """Count labelled rows where they belong: at the time and for the tenure of their prediction."""
        hit = joined.status == 1
        if not hit.any():
            return
        predicted, tenures = joined.ts[hit], joined.tenure[hit]
        truth, right_all = truth[hit], joined.said[hit] == truth[hit]
        model.new_labels += len(truth)
        delay = known_since[hit] - predicted
        delay = delay[np.isfinite(delay)]
        if delay.size:
            model.delays *= 2.0 ** (-len(delay) / _DELAY_FADE_ROWS)
            model.delays += np.bincount(delay_bins(delay), minlength=DELAYS)
        for number in np.unique(tenures).tolist():
            tenure = model.tenures.get(number)
            if tenure is None:
                continue  # it ended long ago and was forgotten
            mine = tenures == number
            right = right_all[mine]
            self._bet(model, tenure, len(right) - int(np.count_nonzero(right)), len(right))
            slot, held = tenure.labels.slots((predicted[mine] / self._width).astype(np.int64))
            classes = 2 + np.minimum(truth[mine][held], _CLASSES)
            tenure.labels.count((slot[held], 0), (slot[held & right], 1), (slot[held], classes))

    def _bet(self, model: _Model, tenure: _Tenure, wrong: int, rows: int) -> None:
        """Let the errors of a batch speak, against bounds that were fixed before it."""
        version = model.versions.get(tenure.version)
        if version is not None:
            if math.isnan(version.accuracy):
                version.learnt_labels += rows
                version.learnt_right += rows - wrong
                if version.learnt_labels >= _LEARN_LABELS:
                    version.accuracy = version.learnt_right / version.learnt_labels
                    version.accuracy_rows = float(version.learnt_labels)
            else:
                bound = self._bound(version.accuracy, version.accuracy_rows)
                tenure.against_reference.take(wrong, rows, bound)
        before = self._before(model, tenure)
        if before is not None:
            accuracy, n = before
            tenure.against_previous.take(wrong, rows, self._bound(accuracy, n))

    def _bound(self, accuracy: float, rows: float) -> float:
        """Return the share of errors that a model of this accuracy may have, its own uncertainty included."""
        doubt = _Z_BOUND * math.sqrt(max(accuracy * (1 - accuracy), 0.25 / rows) / rows)
        return 1.0 - accuracy + self.config.tolerance + doubt

    def _before(self, model: _Model, tenure: _Tenure) -> tuple[float, float] | None:
        """Return accuracy and rows of the newest tenure of another version before this one that has enough labels."""
        for other in sorted(model.tenures.values(), key=lambda t: -t.since):
            if other.since < tenure.since and other.version != tenure.version:
                labelled, right = self._labelled([other], windows=2)
                if labelled >= self.config.min_rows:
                    return right / labelled, labelled
        return None

    # ---------------------------------------------------------------- classes, versions, tenures

    def _class_number(self, model: _Model, word: str) -> int:
        """Return the number of a class, a new one for a new class; -1 = none, or too many."""
        if not word:
            return -1
        number = model.classes.get(word)
        if number is None:
            if len(model.classes) >= _MOST_CLASSES:
                return -1
            number = model.classes[word] = len(model.classes)
        return number

    def _class_numbers(self, model: _Model, values: Sequence[Any]) -> IntArray:
        """Return the number of each class (n,); -1 = none. What was met before costs one look-up."""
        words = model.words
        try:
            # 1, 1.0 and true are one key, as they are one class
            numbers = list(map(words.get, values))
        except TypeError:  # a list or an object: no class, but no reason to stop either
            numbers = [None] * len(values)
        for i, number in enumerate(numbers):
            if number is None:
                value = values[i]
                numbers[i] = self._class_number(model, _word(value))
                if isinstance(value, str | bool | int | None) and len(words) < _MOST_WORDS:
                    words[value] = numbers[i]
        return np.array(numbers, dtype=np.int64)

    def _classes_of(
        self, model: _Model, version: _Version, pred: Any, at: Any, rows: int
    ) -> IntArray:
        """Return the classes that were predicted (rows,); -1 = none, or a number of a regression."""
        if pred is None:
            return np.full(rows, -1, dtype=np.int64)
        array = np.asarray(pred)[at]
        classifies = version.reference is not None and bool(version.reference.get("classes"))
        if array.dtype.kind == "f" and not classifies:
            return np.full(rows, -1, dtype=np.int64)
        return self._class_numbers(model, array.tolist())

    def _version(self, model: _Model, name: str) -> _Version:
        version = model.versions.get(name)
        if version is not None:
            settled = version.reference is not None or version.damaged
            # asked again while it learns: its reference may be written a moment after its first rows
            if settled or not self._now - version.asked >= _ASK_AGAIN_S:
                return version
        found = self._reference(model.name, name)
        if version is not None and found is None:
            version.asked = self._now
            return version
        others = [
            v.reference
            for v in reversed(model.versions.values())
            if v.reference is not None and v.name != name
        ]
        drift, damaged = self._features(found, others)
        version = model.versions[name] = _Version(name, drift)
        version.reference, version.damaged = (None if damaged else found), damaged
        # before the first frame it is not known how late it is: ask again soon
        version.asked = -math.inf if math.isnan(self._now) else self._now
        self._read_quality(model, version)
        return version

    def _features(
        self, found: Mapping[str, Any] | None, others: Sequence[Mapping[str, Any]]
    ) -> tuple[FeatureDrift, bool]:
        """Return the drift of a version's features, and whether its reference is damaged."""
        cls = registry.drift.get("features")
        settings = cls.Config(
            half_life=max(1.0, self.config.window / 3),
            stale=self.config.window,
            min_rows=self.config.min_rows,
        )
        try:
            return cls(settings, found, others), False
        except Refused:
            # it goes without: what was known of others, else what it learns
            return cls(settings, None, others), True

    def _read_quality(self, model: _Model, version: _Version) -> None:
        """Take accuracy and classes out of a reference; what is not there or no number is learnt."""
        found = version.reference or {}
        rows = found.get("rows")
        n = float(rows) if isinstance(rows, int | float) and rows >= 1 else float(_LEARN_ROWS)
        accuracy = found.get("accuracy")
        if isinstance(accuracy, int | float) and 0 <= accuracy <= 1:
            version.accuracy, version.accuracy_rows = float(accuracy), n
        classes = found.get("predictions") or found.get("classes")
        if not isinstance(classes, Mapping) or not classes:
            return
        shares = {
            _word(name): float(share)
            for name, share in classes.items()
            if isinstance(share, int | float) and share >= 0
        }
        total = sum(shares.values())
        if not total > 0 or not math.isfinite(total):
            return
        mix = np.zeros(_CLASSES + 1)
        for name in sorted(shares, key=lambda c: (-shares[c], c)):
            number = self._class_number(model, name)
            mix[min(number, _CLASSES) if number >= 0 else _CLASSES] += shares[name] / total
        version.mix, version.mix_rows = mix, n
        if model.positive is None:
            model.positive = int(mix[:_CLASSES].argmax())

    def _tenure(self, model: _Model, version: _Version, oldest: float, newest: float) -> _Tenure:
        """Return the tenure that rows of a version belong to; open one when it has none."""
        tenure = model.open_tenure(version.name)
        if tenure is not None:
            return tenure
        ended = [t for t in model.tenures.values() if t.version == version.name]
        if ended and newest <= (ended[-1].until or 0.0) + 2.0:
            return ended[-1]  # stragglers, logged late
        if ended:
            version.drift.restart()
        tenure = _Tenure(model.next_tenure, version.name, oldest, 2 * self._held + 1)
        model.tenures[tenure.number] = tenure
        model.next_tenure += 1
        self._prune(model)
        return tenure

    def _prune(self, model: _Model) -> None:
        """Forget the oldest tenures, those that do not serve first, and versions without one."""
        by_age = sorted(model.tenures.values(), key=lambda t: (t.serving, t.until is None, t.last))
        for tenure in by_age[: max(0, len(by_age) - _MOST_TENURES)]:
            del model.tenures[tenure.number]
        alive = {t.version for t in model.tenures.values()}
        for name in [name for name in model.versions if name not in alive]:
            del model.versions[name]

    # ---------------------------------------------------------------- what serves

    def _settle(self, model: _Model, now: float) -> None:
        """Find who serves: see the module."""
        tenures = [t for t in model.tenures.values() if t.until is None]
        if not tenures:
            return
        newest = max(t.rows.newest for t in tenures)
        first = newest - self._held + 1
        rows = np.array([t.rows.span(first, newest, 0) for t in tenures], dtype=np.float64)
        tail = np.cumsum(rows.sum(axis=0)[::-1])[::-1]  # rows from a bucket on
        enough = np.flatnonzero(tail >= _LOOK_ROWS)
        look = int(enough[-1]) if enough.size else 0
        recent = rows[:, look:].sum(axis=1)
        share = recent / max(1.0, float(recent.sum()))
        since_last = [
            float(rows[:, max(0, int(t.last / self._width) + 1 - first) :].sum()) for t in tenures
        ]
        anybody = any(t.serving for t in tenures)
        for tenure, part, missed in zip(tenures, share, since_last, strict=True):
            if tenure.serving and missed >= _GONE_ROWS:
                tenure.serving, tenure.until = False, tenure.last
            elif not tenure.serving and (part >= _ENTERS or (not anybody and part > 0)):
                tenure.serving = True
            elif not tenure.serving and now - tenure.last > max(_IDLE_S, self.config.window):
                tenure.until = tenure.last
        standing = [(p, t) for p, t in zip(share, tenures, strict=True) if t.serving]
        if not standing:
            return
        top, best = max(standing, key=lambda pair: (pair[0], pair[1].since))
        current = model.tenures.get(model.current) if model.current is not None else None
        if current is None or not current.serving or top > 0.5:
            model.current = best.number

    # ---------------------------------------------------------------- numbers of a model

    def _labelled(self, tenures: Iterable[_Tenure], windows: int = 1) -> tuple[float, float]:
        """Return labelled and right rows of the last windows of each tenure, up to its newest labelled row."""
        labelled = right = 0.0
        for t in tenures:
            if t.labels.newest >= 0:
                newest = t.labels.newest
                both = t.labels.span(newest - windows * self._held + 1, newest, slice(2)).sum(
                    axis=0
                )
                labelled += float(both[0])
                right += float(both[1])
        return labelled, right

    def _accuracy(self, tenures: Iterable[_Tenure]) -> tuple[int, float, float, float]:
        """Return labelled rows, accuracy and its 95 % bounds; NaN below `min_rows`."""
        labelled, right = self._labelled(tenures)
        if labelled < self.config.min_rows:
            return int(labelled), math.nan, math.nan, math.nan
        low, high = wilson(right, labelled)
        return int(labelled), right / labelled, float(low), float(high)

    def _recent(self, tenures: Sequence[_Tenure]) -> float:
        """Return the accuracy of the newest labelled rows, just as many as `min_rows` needs."""
        newest = max((t.labels.newest for t in tenures), default=-1)
        if newest < 0:
            return math.nan
        sums = np.zeros((self._held, 2))
        for t in tenures:
            sums += t.labels.span(newest - self._held + 1, newest, slice(2))
        back = np.cumsum(sums[::-1], axis=0)
        enough = np.flatnonzero(back[:, 0] >= self.config.min_rows)
        if not enough.size:
            return math.nan
        labelled, right = back[int(enough[0])]
        return float(right / labelled)

    def _rows_now(self, tenures: Iterable[_Tenure], now: float) -> FloatArray:
        """Return the sums of the rows ring over the window that ends now."""
        last = int(now / self._width)
        out = np.zeros(3 + _CLASSES + 1)
        for t in tenures:
            out += t.rows.span(last - self._held + 1, last).sum(axis=0, dtype=np.float64)
        return out

    def _mix_psi(self, version: _Version | None, mix: FloatArray) -> float:
        """Return the stability index of predictions against the reference, less what sampling gives."""
        rows = float(mix.sum())
        if version is None or version.mix is None or rows < self.config.min_rows:
            return math.nan
        n = max(1.0, version.mix_rows)
        expected = np.maximum(version.mix, 0.5 / n)
        # classes that the reference has not: less than one of its rows is no news
        least = np.where(version.mix > 0, 0.5 / rows, expected)
        live = np.maximum(mix / rows, least)
        psi = float(((live - expected) * np.log(live / expected)).sum())
        used = int(np.count_nonzero(version.mix > 0))
        return max(0.0, psi - (used - 1) * (1.0 / rows + 1.0 / n))

    def _rate(self, model: _Model, column: int, now: float) -> float:
        """Return rows a second over the traffic window, of whole seconds; NaN when nothing came for long."""
        last = int(now) - 2  # the newest seconds may not have been read yet
        if math.isinf(model.first) or now - model.rows_seen > max(
            self.config.window, self.config.traffic_window
        ):
            return math.nan
        long = min(int(self.config.traffic_window), _TRAFFIC_S - 2, last - int(model.first))
        if long < 1:
            return math.nan
        return float(model.traffic.span(last - long + 1, last, column).sum()) / long

    def _coverage(self, model: _Model, now: float) -> float:
        """Return the share of predictions whose label has come within its usual delay."""
        usual = delay_quantile(model.delays, 0.9)
        if math.isnan(usual):
            return math.nan
        if usual <= self.config.window:
            last = int((now - usual * 1.1 - 1.0) / self._width) - 1
            first = last - self._held + 2
            rows = sum(float(t.rows.span(first, last, 0).sum()) for t in model.tenures.values())
            got = sum(float(t.labels.span(first, last, 0).sum()) for t in model.tenures.values())
        else:
            # labels belong to predictions long gone: compare what comes in now of both
            if now - model.first < 2 * usual:
                return math.nan
            last = int(now / self._width)
            rows, got = map(
                float,
                model.arrivals.span(last - self._held + 1, last).sum(axis=0, dtype=np.float64),
            )
        return min(1.0, got / rows) if rows >= self.config.min_rows else math.nan

    def _judge_quality(self, model: _Model, tenure: _Tenure, now: float) -> None:
        """Decide whether labels prove a loss: evidence and size together; it ends when the evidence has gone."""
        version = model.versions.get(tenure.version)
        recent = self._recent([tenure])
        expected = version.accuracy if version is not None else math.nan
        test = tenure.against_reference
        if (
            not tenure.lost
            and test.evidence >= test.alarm
            and recent < expected - self.config.tolerance
        ):
            tenure.lost, tenure.lost_since = True, now
        elif tenure.lost and test.evidence < test.alarm - _CALM:
            tenure.lost, tenure.lost_since = False, None
        before = self._before(model, tenure)
        test = tenure.against_previous
        if before is not None and not tenure.worse:
            tenure.worse = (
                test.evidence >= test.alarm and recent < before[0] - self.config.tolerance
            )
        elif test.evidence < test.alarm - _CALM:
            tenure.worse = False

    def _states(self, model: _Model, now: float) -> tuple[bool | None, bool | None]:
        """Return (quality lost, worse than previous) of the version in use; None = not known."""
        current = model.tenures.get(model.current) if model.current is not None else None
        if current is None or now - model.labels_seen > self.config.window:
            return None, None
        labelled, _ = self._labelled([current])
        version = model.versions.get(current.version)
        if labelled < self.config.min_rows or version is None:
            return None, None
        lost = None if math.isnan(version.accuracy) else current.lost
        worse = None if self._before(model, current) is None else current.worse
        return lost, worse

    # ---------------------------------------------------------------- the frame

    def frame(self, now: float) -> Frame:
        """Return all signals at `now`; called every second. Fewer rows than `min_rows` are NaN, not a number."""
        self._now = now
        values: list[FloatArray] = []
        layout: list[tuple[Any, ...]] = []
        sightings: list[Sighting] = []
        services: dict[str, list[_Model]] = {}
        for name in sorted(self._models):
            model = self._models[name]
            self._tick(model, now)
            values.append(self._model_row(model, now))
            versions = sorted({t.version for t in model.tenures.values()})
            values += [self._version_row(model, version, now) for version in versions]
            drift = self._drift_of(model)
            if model.judged is not None:
                values.append(model.judged.ravel())
            layout.append((name, tuple(versions), drift.names if drift is not None else ()))
            service = self._serves(name)
            if service is not None:
                services.setdefault(service, []).append(model)
            sightings += self._see(model, service, versions, drift)
        for service in sorted(services):
            values.append(self._service_row(services[service], now))
            layout.append((service,))
        if tuple(layout) != self._layout:
            self._lay_out(tuple(layout))
        flat = np.concatenate(values) if values else np.zeros(0)
        seen = tuple(s for s in sightings if self._told.get(s.entity) != s)
        self._told.update((s.entity, s) for s in seen)
        return Frame("models", now, self._series, flat[self._order], seen)

    def _tick(self, model: _Model, now: float) -> None:
        """Do what is due once a frame."""
        if model.new_rows:
            model.rows_seen = now
        if model.new_labels:
            model.labels_seen = now
        slot, _ = model.arrivals.slots(np.array([int(now / self._width)]))
        model.arrivals.data[slot[0]] += (model.new_rows, model.new_labels)
        model.new_rows = model.new_labels = 0
        for key, (said, since, came) in list(model.early.items()):
            if math.isnan(came):
                model.early[key] = (said, since, now)
            elif now - came > _EARLY_S:
                del model.early[key]
        self._settle(model, now)
        for tenure in model.serving():
            self._judge_quality(model, tenure, now)
        drift = self._drift_of(model)
        model.judged = drift.judge(now) if drift is not None else None

    def _drift_of(self, model: _Model) -> FeatureDrift | None:
        """Return the features of the version in use."""
        current = model.tenures.get(model.current) if model.current is not None else None
        version = model.versions.get(current.version) if current is not None else None
        return version.drift if version is not None else None

    def _model_row(self, model: _Model, now: float) -> FloatArray:
        serving = model.serving()
        current = model.tenures.get(model.current) if model.current is not None else None
        version = model.versions.get(current.version) if current is not None else None
        labelled, accuracy, low, high = self._accuracy(serving)
        recent = self._recent(serving)
        if now - model.labels_seen > self.config.window:
            accuracy = low = high = recent = math.nan
        sums = self._rows_now(serving, now)
        lost, worse = self._states(model, now)
        psi = self._worst_psi(model)
        by_name = {
            "model.accuracy_high_ratio": high,
            "model.accuracy_low_ratio": low,
            "model.accuracy_ratio": accuracy,
            "model.accuracy_recent_ratio": recent,
            "model.confidence_ratio": sums[1] / sums[2] if sums[2] >= self.config.min_rows else math.nan,
            "model.feature_drift_psi": psi,
            "model.label_coverage_ratio": self._coverage(model, now),
            "model.label_delay_seconds": delay_quantile(model.delays, 0.5),
            "model.labelled_rows_count": float(labelled),
            "model.positive_label_ratio": self._positive_label(model, serving, now),
            "model.positive_prediction_ratio": self._positive(model, sums[3:]),
            "model.prediction_drift_psi": self._prediction_psi(version, current, now),
            "model.predictions_per_second": self._rate(model, 2, now),
            "model.quality_lost": math.nan if lost is None else float(lost),
            "model.reference_accuracy_ratio": version.accuracy if version is not None else math.nan,
            "model.worse_than_previous": math.nan if worse is None else float(worse),
        }  # fmt: skip
        return np.array([by_name[name] for name in _MODEL])

    def _worst_psi(self, model: _Model) -> float:
        """Return the largest stability index of the features."""
        if model.judged is None or np.isnan(model.judged[:, 3]).all():
            return math.nan
        return float(np.nanmax(model.judged[:, 3]))

    def _prediction_psi(
        self, version: _Version | None, tenure: _Tenure | None, now: float
    ) -> float:
        if tenure is None:
            return math.nan
        end = now if tenure.until is None else tenure.until
        return self._mix_psi(version, self._rows_now([tenure], end)[3:])

    def _positive(self, model: _Model, mix: FloatArray) -> float:
        rows = float(mix.sum())
        if model.positive is None and rows >= self.config.min_rows:
            model.positive = int(mix[:_CLASSES].argmax())
        if model.positive is None or rows < self.config.min_rows:
            return math.nan
        return float(mix[model.positive]) / rows

    def _positive_label(self, model: _Model, serving: Sequence[_Tenure], now: float) -> float:
        if now - model.labels_seen > self.config.window:
            return math.nan
        mix = np.zeros(_CLASSES + 1)
        for t in serving:
            if t.labels.newest >= 0:
                first = t.labels.newest - self._held + 1
                mix += t.labels.span(first, t.labels.newest)[:, 2:].sum(axis=0, dtype=np.float64)
        return self._positive(model, mix)

    def _version_row(self, model: _Model, version: str, now: float) -> FloatArray:
        tenure = max((t for t in model.tenures.values() if t.version == version), key=lambda t: t.since)  # fmt: skip
        if tenure.until is not None and now - tenure.until > self.config.window:
            return np.full(len(_OF_VERSION), math.nan)
        _, accuracy, low, high = self._accuracy([tenure])
        if now - model.labels_seen > self.config.window:
            accuracy = low = high = math.nan
        buckets = max(2, math.ceil(self.config.traffic_window / self._width))
        last = int((now - 2.0) / self._width) - (1 if self._width > 1 else 0)
        rate = float(tenure.rows.span(last - buckets + 1, last, 0).sum())
        return np.array([high, low, accuracy, rate / (buckets * self._width)])

    def _service_row(self, models: Sequence[_Model], now: float) -> FloatArray:
        """Return the signals of a service, over all models that it serves."""
        rates = [self._rate(model, 0, now) for model in models]
        known = [rate for rate in rates if not math.isnan(rate)]
        last = int(now)
        rows = np.zeros(_TRAFFIC_S)
        for model in models:
            rows += model.traffic.span(last - _TRAFFIC_S + 1, last, 0)
        # as long as it takes to have enough rows, at least the traffic window
        least = min(_TRAFFIC_S, max(1, int(self.config.traffic_window)))
        back = np.cumsum(rows[::-1])
        enough = np.flatnonzero(back >= self.config.min_rows)
        out = np.full(len(_SERVICE), math.nan)
        out[5] = sum(known) if known else math.nan
        if enough.size and back[min(_TRAFFIC_S, max(least, 30)) - 1] > 0:
            sums = np.zeros(3 + 2 * (LATENCIES + 1))
            for model in models:
                first = last - max(least, int(enough[0]) + 1) + 1
                sums += model.traffic.span(first, last).sum(axis=0, dtype=np.float64)
            out[0] = sums[1] / sums[0]
            latency = sums[3 : 3 + LATENCIES]
            processing = sums[4 + LATENCIES : 4 + 2 * LATENCIES]
            if latency.sum() >= self.config.min_rows:
                out[1:4] = [latency_quantile(latency, q) for q in (0.5, 0.95, 0.99)]
            if processing.sum() >= self.config.min_rows:
                out[4] = latency_quantile(processing, 0.5)
        return out

    def _lay_out(self, layout: tuple[tuple[Any, ...], ...]) -> None:
        """Make the table of series anew: models, versions, features or services came or went."""
        series: list[Series] = []
        for item in layout:
            if len(item) == 1:
                service = Entity("service", item[0])
                series += [Series(metric, service) for metric in _SERVICE]
                continue
            name, versions, features = item
            series += [Series(metric, Entity("model", name)) for metric in _MODEL]
            for version in versions:
                entity = Entity("version", f"{name}/{version}")
                series += [Series(metric, entity) for metric in _OF_VERSION]
            for feature in features:
                entity = Entity("feature", f"{name}/{feature}")
                series += [Series(metric, entity) for metric in _FEATURE]
        order = sorted(range(len(series)), key=lambda i: series[i])
        self._order = np.array(order, dtype=np.int64)
        self._series = tuple(series[i] for i in order)
        self._layout = layout

    def _see(
        self,
        model: _Model,
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
            ("learning", "yes" if self._learning(model) else "no"),
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
        return out + self._see_features(model, drift)

    def _see_features(self, model: _Model, drift: FeatureDrift | None) -> list[Sighting]:
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

    def _learning(self, model: _Model) -> bool:
        current = model.tenures.get(model.current) if model.current is not None else None
        version = model.versions.get(current.version) if current is not None else None
        return version is None or not version.drift.names or math.isnan(version.accuracy)

    # ---------------------------------------------------------------- facts

    def facts(self, model: str) -> ModelFacts | None:
        """Return what is known about a model as of the last frame; None = never seen."""
        found = self._models.get(model)
        if found is None or math.isnan(self._now):
            return None
        now = self._now
        serving = found.serving()
        current = found.tenures.get(found.current) if found.current is not None else None
        version = found.versions.get(current.version) if current is not None else None
        row = dict(zip(_MODEL, self._model_row(found, now).tolist(), strict=True))
        lost, worse = self._states(found, now)
        states = version.drift.states() if version is not None else ()
        usual = (
            float(version.mix[found.positive])
            if version is not None and version.mix is not None and found.positive is not None
            else math.nan
        )
        ended = [t for t in found.tenures.values() if t.until is not None]
        return ModelFacts(
            model=model,
            current=self._version_facts(found, current, now) if current is not None else None,
            serving=tuple(sorted({t.version for t in serving})),
            previous=tuple(
                self._version_facts(found, t, now) for t in sorted(ended, key=lambda t: -t.since)
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
                sorted((s for s in states if not math.isnan(s.psi)), key=lambda s: (-s.psi, s.name))
            )[:10],
            label_coverage=row["model.label_coverage_ratio"],
            label_delay_s=row["model.label_delay_seconds"],
            label_shift=row["model.positive_label_ratio"] - usual,
            prediction_shift=row["model.positive_prediction_ratio"] - usual,
            prediction_psi=row["model.prediction_drift_psi"],
            confidence=row["model.confidence_ratio"],
            learning=self._learning(found),
            rejected_rows=found.rejected,
        )  # fmt: skip

    def _version_facts(self, model: _Model, tenure: _Tenure, now: float) -> VersionFacts:
        version = model.versions.get(tenure.version)
        labelled, accuracy, low, high = self._accuracy([tenure])
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
            prediction_psi=self._prediction_psi(version, tenure, now),
        )

    # ---------------------------------------------------------------- restarts of the agent

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped. Counts and hashes of ids, never rows."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        models = []
        for i, model in enumerate(self._models.values()):
            models.append(_dump_model(model, f"{i}.", arrays))
        meta = {
            "window": self.config.window,
            "now": None if math.isnan(self._now) else self._now,
            "models": models,
        }
        return checkpoint.write("models", _VERSION, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged, of another version or another window.

        When it raises, nothing has changed.
        """
        meta, arrays = checkpoint.read("models", _VERSION, state)
        try:
            if meta["window"] != self.config.window:
                raise Refused("state of models is of another models.window: it is learnt anew")
            models = {
                str(one["name"]): self._load_model(one, f"{i}.", arrays)
                for i, one in enumerate(meta["models"])
            }
            now = math.nan if meta["now"] is None else float(meta["now"])
        except (KeyError, TypeError, ValueError, IndexError) as damage:
            raise Refused(f"state of models is damaged ({damage!r}): it is learnt anew") from None
        self._models, self._now = models, now
        self._layout, self._told = (), {}

    def _load_model(
        self, said: Mapping[str, Any], at: str, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> _Model:
        join = LabelJoin(self.config.label_wait, self.config.max_waiting)
        join.restore({name: arrays[f"{at}join.{name}"] for name in _JOIN})
        model = _Model(str(said["name"]), join)
        for ring, name in ((model.traffic, "traffic"), (model.arrivals, "arrivals")):
            ring.restore(int(said[name]), arrays[f"{at}{name}"])
        model.delays[:] = arrays[f"{at}delays"]
        model.next_tenure, model.rejected = int(said["next_tenure"]), int(said["rejected"])
        model.current = None if said["current"] is None else int(said["current"])
        model.positive = None if said["positive"] is None else int(said["positive"])
        model.classes = {str(word): i for i, word in enumerate(said["classes"])}
        model.first, model.rows_seen, model.labels_seen = map(float, arrays[f"{at}times"])
        model.new_rows, model.new_labels = map(int, said["new"])
        model.early = {
            int(key): (int(a), float("nan" if b is None else b), float("nan" if c is None else c))
            for key, a, b, c in said["early"]
        }
        for j, one in enumerate(said["versions"]):
            model.versions[str(one["name"])] = self._load_version(one, f"{at}v{j}.", arrays)
        for j, one in enumerate(said["tenures"]):
            tenure = _load_tenure(one, f"{at}t{j}.", arrays, 2 * self._held + 1)
            model.tenures[tenure.number] = tenure
        return model

    def _load_version(
        self, said: Mapping[str, Any], at: str, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> _Version:
        drift, _ = self._features(None, ())
        drift.load(arrays[f"{at}drift"].tobytes())
        version = _Version(str(said["name"]), drift)
        version.reference, version.damaged = said["reference"], bool(said["damaged"])
        version.learnt_labels, version.learnt_right = map(int, said["learnt"])
        version.accuracy, version.accuracy_rows, version.mix_rows = map(
            float, arrays[f"{at}numbers"]
        )
        version.learnt_mix[:] = arrays[f"{at}learnt_mix"]
        if said["mixed"]:
            version.mix = np.zeros(_CLASSES + 1)
            version.mix[:] = arrays[f"{at}mix"]
        return version


_JOIN: Final = ("key", "ts", "tenure", "said", "labelled", "sizes")


def _dump_model(model: _Model, at: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Put the arrays of a model under names that begin with `at`; return the rest."""
    arrays.update({f"{at}join.{name}": array for name, array in model.join.arrays().items()})
    arrays[f"{at}traffic"], arrays[f"{at}arrivals"] = model.traffic.data, model.arrivals.data
    arrays[f"{at}delays"] = model.delays
    arrays[f"{at}times"] = np.array([model.first, model.rows_seen, model.labels_seen])
    versions, tenures = [], []
    for j, version in enumerate(model.versions.values()):
        here = f"{at}v{j}."
        arrays[f"{here}drift"] = np.frombuffer(version.drift.dump(), dtype=np.uint8)
        arrays[f"{here}numbers"] = np.array(
            [version.accuracy, version.accuracy_rows, version.mix_rows]
        )
        arrays[f"{here}learnt_mix"] = version.learnt_mix
        arrays[f"{here}mix"] = version.mix if version.mix is not None else np.zeros(_CLASSES + 1)
        versions.append(
            {
                "name": version.name,
                "reference": version.reference,
                "damaged": version.damaged,
                "mixed": version.mix is not None,
                "learnt": [version.learnt_labels, version.learnt_right],
            }
        )
    for j, tenure in enumerate(model.tenures.values()):
        here = f"{at}t{j}."
        arrays[f"{here}rows"], arrays[f"{here}labels"] = tenure.rows.data, tenure.labels.data
        arrays[f"{here}tests"] = np.concatenate(
            [tenure.against_reference.dump(), tenure.against_previous.dump()]
        )
        tenures.append(
            {name: getattr(tenure, name) for name in _TENURE}
            | {"newest": [tenure.rows.newest, tenure.labels.newest]}
        )
    return {
        "name": model.name,
        "traffic": model.traffic.newest,
        "arrivals": model.arrivals.newest,
        "next_tenure": model.next_tenure,
        "rejected": model.rejected,
        "current": model.current,
        "positive": model.positive,
        "classes": list(model.classes),
        "new": [model.new_rows, model.new_labels],
        "early": [[str(key), *_no_nan(value)] for key, value in model.early.items()],
        "versions": versions,
        "tenures": tenures,
    }  # fmt: skip


_TENURE: Final = (
    "number", "version", "since", "last", "until", "serving", "rows_total", "lost", "lost_since",
    "worse",
)  # fmt: skip


def _no_nan(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _load_tenure(
    said: Mapping[str, Any], at: str, arrays: Mapping[str, npt.NDArray[Any]], buckets: int
) -> _Tenure:
    tenure = _Tenure(int(said["number"]), str(said["version"]), float(said["since"]), buckets)
    for name in _TENURE:
        setattr(tenure, name, said[name])
    tenure.rows.restore(int(said["newest"][0]), arrays[f"{at}rows"])
    tenure.labels.restore(int(said["newest"][1]), arrays[f"{at}labels"])
    tests = cast("FloatArray", arrays[f"{at}tests"])
    tenure.against_reference.load(tests[: len(tests) // 2])
    tenure.against_previous.load(tests[len(tests) // 2 :])
    return tenure
