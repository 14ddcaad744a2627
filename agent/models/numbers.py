"""The numbers of a model out of what is kept of it. Reads state; changes nothing but which class counts as positive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.config import WatchModels
from agent.intervals import wilson
from agent.model import FloatArray
from agent.models.labels import Moments, wrong_classes, wrong_numbers
from agent.models.state import BUCKETS, CLASSES, TRAFFIC_S, ModelState, Tenure, VersionState
from agent.ports import Judged
from agent.rings import LATENCIES, delay_quantile, latency_quantile

_NO_LOSS: Final = frozenset({"better", "overconfident", "underconfident"})
_Z_BOUND: Final = 2.6
_NEW_S: Final = 3600.0
"""A version that served for longer is no new release any more: who came instead of it is what it is compared with."""
"""Of the reference's own uncertainty: one-sided 99.5 %."""
SERVICE: Final = (
    "service.error_ratio", "service.latency_p50_seconds", "service.latency_p95_seconds",
    "service.latency_p99_seconds", "service.processing_p50_seconds", "service.requests_per_second",
)  # fmt: skip
OF_VERSION: Final = (
    "version.accuracy_high_ratio", "version.accuracy_low_ratio", "version.accuracy_ratio",
    "version.predictions_per_second",
)  # fmt: skip


@dataclass(slots=True)
class Numbers:
    """Everything is over windows of `config.window` seconds, in buckets of `width` seconds, of which `held` fit."""

    config: WatchModels
    width: float = field(init=False)
    held: int = field(init=False)
    unread: frozenset[str] = frozenset()
    """Models whose rows can not be read now."""

    def __post_init__(self) -> None:
        self.width = max(1.0, self.config.window / BUCKETS)
        self.held = max(1, math.ceil(self.config.window / self.width))

    def labelled(self, tenures: Iterable[Tenure], windows: int = 1) -> tuple[float, float]:
        """Return labelled and right rows of the last windows of each tenure, up to its newest labelled row."""
        labelled = right = 0.0
        for t in tenures:
            if t.labels.newest >= 0 and not t.numbers:
                newest = t.labels.newest
                both = t.labels.span(newest - windows * self.held + 1, newest, slice(2)).sum(axis=0)
                labelled += float(both[0])
                right += float(both[1])
        return labelled, right

    def accuracy(self, tenures: Iterable[Tenure]) -> tuple[int, float, float, float]:
        """Return labelled rows, accuracy and its 95 % bounds; NaN below `min_rows`."""
        labelled, right = self.labelled(tenures)
        if labelled < self.config.min_rows:
            return int(labelled), math.nan, math.nan, math.nan
        low, high = wilson(right, labelled)
        return int(labelled), right / labelled, float(low), float(high)

    def recent(self, tenures: Sequence[Tenure]) -> float:
        """Return the accuracy of the newest labelled rows, just as many as `min_rows` needs."""
        newest = max((t.labels.newest for t in tenures), default=-1)
        if newest < 0:
            return math.nan
        sums = np.zeros((self.held, 2))
        for t in tenures:
            sums += t.labels.span(newest - self.held + 1, newest, slice(2))
        back = np.cumsum(sums[::-1], axis=0)
        enough = np.flatnonzero(back[:, 0] >= self.config.min_rows)
        if not enough.size:
            return math.nan
        labelled, right = back[int(enough[0])]
        return float(right / labelled)

    def newest_labels(self, tenures: Sequence[Tenure]) -> FloatArray:
        """Return the sums of the labels ring over ever more of the newest labels (k, columns)."""
        newest = max((t.labels.newest for t in tenures), default=-1)
        if newest < 0:
            return np.zeros((0, 2 + CLASSES + 1))
        sums = np.zeros((self.held, 2 + CLASSES + 1))
        for t in tenures:
            sums += t.labels.span(newest - self.held + 1, newest)
        return np.cumsum(sums[::-1], axis=0)

    def labels_wrong(self, model: ModelState, version: VersionState | None) -> str:
        """Say what is wrong with the newest labels themselves, "" for nothing."""
        newest = self.newest_labels(model.serving())
        if not len(newest) or version is None:
            return ""
        if model.regression:
            enough = newest[newest[:, 0] >= self.config.min_rows]
            # the ring holds them about the mean and in deviations of what was usual
            now = Moments.of(np.r_[enough[0, 0], enough[0, 2:7]]) if len(enough) else None
            usual = version.moments
            return wrong_numbers(now, usual) if now is not None and usual is not None else ""
        if version.mix is None:
            return ""
        pairs = np.sum([t.pairs for t in model.serving()], axis=0)
        return wrong_classes(np.delete(newest, 1, axis=1), version.mix, version.accuracy, pairs)

    def loss_expected(self, model: ModelState, now: float) -> bool | None:
        """Tell whether a loss is to be expected: inputs have drifted, confidences say so, labels do not deny it."""
        version = model.version_in_use
        if version is None or model.judged is None or math.isnan(version.accuracy):
            return None
        high = version.judged.expected.high
        if math.isnan(high):
            return None
        least = version.accuracy - self.config.tolerance
        recent = self.recent(model.serving())
        prompt = delay_quantile(model.delays, 0.5) <= self.config.window
        if prompt and now - model.labels_seen <= self.config.window and recent >= least:
            return False
        return bool((model.judged[:, 6] > 0.5).any()) and high < least

    def rows_now(self, tenures: Iterable[Tenure], now: float) -> FloatArray:
        """Return the sums of the rows ring over the window that ends now."""
        last = int(now / self.width)
        out = np.zeros(3 + CLASSES + 1)
        for t in tenures:
            out += t.rows.span(last - self.held + 1, last).sum(axis=0, dtype=np.float64)
        return out

    def mix_psi(self, version: VersionState | None, mix: FloatArray) -> float:
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

    def rate(self, model: ModelState, column: int, now: float) -> float:
        """Return rows a second over the traffic window, of whole seconds; NaN when they are not read, or none came."""
        if model.name in self.unread:
            return math.nan
        last = int(now) - 2  # the newest seconds may not have been read yet
        if math.isinf(model.first) or now - model.rows_seen > max(
            self.config.window, self.config.traffic_window
        ):
            return math.nan
        long = min(int(self.config.traffic_window), TRAFFIC_S - 2, last - int(model.first))
        if long < 1:
            return math.nan
        return float(model.traffic.span(last - long + 1, last, column).sum()) / long

    def coverage(self, model: ModelState, now: float) -> float:
        """Return the share of predictions whose label has come within its usual delay."""
        usual = delay_quantile(model.delays, 0.9)
        if math.isnan(usual):
            return math.nan
        if usual <= self.config.window:
            got, rows = self.due(model, now)
        else:
            # labels belong to predictions long gone: compare what comes in now of both
            rows, got, _ = self.arrived(model, now)
            batch = model.coming.between and model.coming.longest > rows  # a whole one, or none
            if batch or now - model.first < 2 * usual:
                return math.nan
        return min(1.0, got / rows) if rows >= self.config.min_rows else math.nan

    def told(self, model: ModelState, now: float) -> bool:
        """Tell whether what labels said holds: they came of late, or the next batch of them is not due yet."""
        if now - model.labels_seen <= self.config.window:
            return True
        return now - model.rows_seen <= self.config.window and model.coming.between

    def arrived(self, model: ModelState, now: float) -> tuple[float, float, float]:
        """Return predictions, labels, and predictions that senders lost, of the window that ends now."""
        last = int(now / self.width)
        rows, labels, lost = model.arrivals.span(last - self.held + 1, last).sum(
            axis=0, dtype=np.float64
        )
        return float(rows), float(labels), float(lost)

    def lost(self, model: ModelState, now: float) -> float:
        """Return the share of predictions that senders could not log; NaN = none came."""
        rows, _, lost = self.arrived(model, now)
        return lost / (rows + lost) if rows + lost else math.nan

    def due(self, model: ModelState, now: float) -> tuple[float, float]:
        """Return labels and predictions of a window of rows old enough to have their labels; 0, 0 = not known."""
        usual = delay_quantile(model.delays, 0.9)
        if not usual <= self.config.window:
            return 0.0, 0.0
        last = int((now - usual * 1.1 - 1.0) / self.width) - 1
        first = last - self.held + 2
        tenures = model.tenures.values()
        got = sum(float(t.labels.span(first, last, 0).sum()) for t in tenures)
        return got, sum(float(t.rows.span(first, last, 0).sum()) for t in tenures)

    def coming(self, model: ModelState, now: float, rows: int, labels: int) -> None:
        """Let a tick of predictions and labels say whether labels still come as they used to."""
        waits = delay_quantile(model.delays, 0.9)
        rate = self.rate(model, 2, now)
        made = waits * rate if math.isfinite(waits * rate) else 0.0
        got, of = self.due(model, now)
        model.coming.tick(now, rows, labels, waits=made, got=got, of=of, window=self.config.window)

    def positive(self, model: ModelState, mix: FloatArray) -> float:
        """Return the share of the most common class of the reference among counts by class."""
        rows = float(mix.sum())
        if model.positive is None and rows >= self.config.min_rows:
            model.positive = int(mix[:CLASSES].argmax())
        if model.positive is None or rows < self.config.min_rows:
            return math.nan
        return float(mix[model.positive]) / rows

    def positive_label(self, model: ModelState, serving: Sequence[Tenure], now: float) -> float:
        """Return the same among labels."""
        if not self.told(model, now):
            return math.nan
        mix = np.zeros(CLASSES + 1)
        for t in serving:
            if t.labels.newest >= 0:
                first = t.labels.newest - self.held + 1
                mix += t.labels.span(first, t.labels.newest)[:, 2:].sum(axis=0, dtype=np.float64)
        return self.positive(model, mix)

    def prediction_psi(
        self, version: VersionState | None, tenure: Tenure | None, now: float
    ) -> float:
        """Return the stability index of what a tenure predicts, up to `now` or its end."""
        if tenure is None:
            return math.nan
        end = now if tenure.until is None else tenure.until
        return self.mix_psi(version, self.rows_now([tenure], end)[3:])

    def worst_psi(self, model: ModelState) -> float:
        """Return the largest stability index of the features."""
        if model.judged is None or np.isnan(model.judged[:, 3]).all():
            return math.nan
        return float(np.nanmax(model.judged[:, 3]))

    def bound(self, accuracy: float, rows: float) -> float:
        """Return the share of errors that a model of this accuracy may have, its own uncertainty included."""
        doubt = _Z_BOUND * math.sqrt(max(accuracy * (1 - accuracy), 0.25 / rows) / rows)
        return 1.0 - accuracy + self.config.tolerance + doubt

    def before(self, model: ModelState, tenure: Tenure) -> tuple[Tenure, float, float] | None:
        """Return the tenure of another version that served last before this one, of those with enough labels.

        With its errors and rows. One that was interrupted for moments, or that we read late, may have begun long ago.

        A release that was away for a while and came back is the same release: it is compared with what it replaced
        first, else what was tried in its stead, and undone, made it look well. Without that, with what came between.
        An error of a regression is one that is larger than nine tenths of those that its version is used to.
        """
        others = sorted(model.tenures.values(), key=lambda t: -t.since)
        release = self._release(others, tenure)
        # who was there before the release comes first, and of those who served last; else the newest (a stable sort)
        others.sort(key=lambda t: (t.since >= release.since, -min(t.last, release.since)))
        for other in others:
            if other.since < tenure.since and other.version != tenure.version:
                labelled, right = self.labelled([other], windows=2)
                wrong = labelled - right
                if other.numbers:
                    wrong, labelled = other.large.tolist()
                if labelled >= self.config.min_rows:
                    return other, wrong, labelled
        return None

    @staticmethod
    def _release(newest_first: Sequence[Tenure], tenure: Tenure) -> Tenure:
        """Return the first tenure of the release that a tenure belongs to: short earlier ones of it are its own."""
        first = tenure
        for other in newest_first:
            if other.version != tenure.version or other.since >= first.since:
                continue
            if (other.until or other.last) - other.since > _NEW_S:
                break
            first = other
        return first

    def states(self, model: ModelState, now: float) -> tuple[bool | None, bool | None]:
        """Return (quality lost, worse than previous) of the version in use; None = not known."""
        current = model.tenure_in_use
        if current is None or not self.told(model, now):
            return None, None
        version = model.versions.get(current.version)
        if current.numbers:
            lost = _risen(version.judged) if version is not None else None
            return lost, current.worse if self.before(model, current) is not None else None
        labelled, _ = self.labelled([current])
        if labelled < self.config.min_rows or version is None:
            return None, None
        lost = None if math.isnan(version.accuracy) else current.lost
        # with nothing to compare with any more, labels that prove it as good as its reference are an answer, too
        known = lost is False or self.before(model, current) is not None
        worse = current.worse if known else None
        return lost, worse

    def version_row(self, model: ModelState, version: str, now: float) -> FloatArray:
        """Return the signals of a version, in the order of `OF_VERSION`."""
        tenure = max((t for t in model.tenures.values() if t.version == version), key=lambda t: t.since)  # fmt: skip
        if tenure.until is not None and now - tenure.until > self.config.window:
            return np.full(len(OF_VERSION), math.nan)
        _, accuracy, low, high = self.accuracy([tenure])
        if not self.told(model, now):
            accuracy = low = high = math.nan
        buckets = max(2, math.ceil(self.config.traffic_window / self.width))
        last = int((now - 2.0) / self.width) - (1 if self.width > 1 else 0)
        rate = float(tenure.rows.span(last - buckets + 1, last, 0).sum()) / (buckets * self.width)
        if model.name in self.unread:
            rate = math.nan
        return np.array([high, low, accuracy, rate])

    def service_row(self, models: Sequence[ModelState], now: float) -> FloatArray:
        """Return the signals of a service, over all models that it serves."""
        rates = [self.rate(model, 0, now) for model in models]
        known = [rate for rate in rates if not math.isnan(rate)]
        last = int(now)
        rows = np.zeros(TRAFFIC_S)
        for model in models:
            rows += model.traffic.span(last - TRAFFIC_S + 1, last, 0)
        # as long as it takes to have enough rows, at least the traffic window
        least = min(TRAFFIC_S, max(1, int(self.config.traffic_window)))
        back = np.cumsum(rows[::-1])
        enough = np.flatnonzero(back >= self.config.min_rows)
        out = np.full(len(SERVICE), math.nan)
        unread = any(model.name in self.unread for model in models)
        out[5] = sum(known) if known and not unread else math.nan
        if enough.size and back[min(TRAFFIC_S, max(least, 30)) - 1] > 0:
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


def _risen(judged: Judged) -> bool | None:
    """Tell whether the errors of a regression are proven to have risen; None = no labels yet.

    A mean error has no tolerance that could be stated in general: what is proven, and large in ranks, is lost.
    """
    if judged.learning:
        return None
    return judged.changed and any(
        c.what not in _NO_LOSS and c.after > c.before for c in judged.changes
    )
