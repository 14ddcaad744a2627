"""Late labels find their rows, and speak: for the tenure that made the prediction, at the time of the prediction.

label -> its row (or it waits a minute for it) -> counts of the tenure -> bets on its errors
                                               -> versions against each other, slices, relation
bets, newest accuracy -> lost, worse than the one before (`judge`)
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from agent.label_join import Joined, KeyArray, Waiting, confidence_of, keys_of
from agent.model import FloatArray, IntArray
from agent.models.made import numbers_of
from agent.models.numbers import Numbers
from agent.models.state import CLASSES, SURE_NAMES, ModelState, Tenure
from agent.models.tags import PLACES
from agent.models.tenures import Tenures
from agent.ports import LabelBatch, LabelledRows
from agent.rings import DELAYS, delay_bins

_EARLY_ROWS: Final = 10_000
_EARLY_S: Final = 60.0
"""How long a label waits that comes before its prediction."""
LEARN_LABELS: Final = 500
"""Labelled rows that make an accuracy when there is no reference."""
_DELAY_FADE_ROWS: Final = 500.0
_BATCH_S: Final = 10.0
"""Half-life of what is usual for the delay of labels: so many of them, but not less than a batch takes to be read."""
_LARGE_ROWS: Final = 1000.0
"""Half-life, in labels, of the share of large errors of a regression."""
_PAIR_ROWS: Final = 20.0
"""Half-life, in labels, of which answers were true: what labels say must be seen with the first loss."""
_CALM: Final = 3.0
"""log10 of evidence below the alarm at which a proven loss is over."""


class Truth:
    """Who joins them; keeps nothing of its own."""

    def __init__(self, tenures: Tenures, numbers: Numbers) -> None:
        self._tenures = tenures
        self._numbers = numbers

    def take(self, model: ModelState, batch: LabelBatch, now: float) -> None:
        """Take labels; those whose rows are not there yet wait for them."""
        keys = keys_of(batch.ids)
        said = numbers_of(batch.labels) if model.regression else model.class_numbers(batch.labels)
        use = (keys != 0) & (np.isfinite(said) if model.regression else said >= 0)
        if not use.any():
            return
        keys, said, ts = keys[use], said[use], np.asarray(batch.ts, dtype=np.float64)[use]
        joined = model.join.label(keys)
        for i in np.flatnonzero(joined.status == 0).tolist():
            if len(model.early) < _EARLY_ROWS:
                # when it came, by the last frame: how long it may wait counts from there
                model.early.setdefault(int(keys[i]), (float(said[i]), float(ts[i]), now))
        self._count(model, joined, said, ts, now)

    def join_early(self, model: ModelState, keys: KeyArray, now: float) -> None:
        """Give rows the labels that came before them."""
        found = [key for key in keys.tolist() if key in model.early] if model.early else []
        if not found:
            return
        labels = [model.early.pop(key) for key in found]
        joined = model.join.label(np.array(found, dtype=np.uint64))
        said = np.array([label for label, _, _ in labels])
        self._count(model, joined, said, np.array([since for _, since, _ in labels]), now)

    @staticmethod
    def forget(model: ModelState, now: float) -> None:
        """Let go of labels that have waited for too long; called once a frame."""
        for key, (said, since, came) in list(model.early.items()):
            if math.isnan(came):
                model.early[key] = (said, since, now)
            elif now - came > _EARLY_S:
                del model.early[key]

    def _count(
        self,
        model: ModelState,
        joined: Joined,
        truth: FloatArray | IntArray,
        known_since: FloatArray,
        now: float,
    ) -> None:
        """Count labelled rows where they belong: at the time and for the tenure of their prediction."""
        hit = joined.status == 1
        if not hit.any():
            return
        rows = joined.rows
        if not hit.all():  # to copy them costs as much as to find them
            rows, truth, known_since = rows[hit], truth[hit], known_since[hit]
        model.versus.labelled(rows, truth, model.regression, lambda name: _slicings(model, name))
        model.new_labels += len(truth)
        delay = known_since - rows["ts"]
        delay = delay[np.isfinite(delay)]
        if delay.size:
            model.new_delays += np.bincount(delay_bins(delay), minlength=DELAYS)
        for number in np.unique(rows["tenure"]).tolist():
            tenure = model.tenures.get(number)
            if tenure is None:
                continue  # it ended long ago and was forgotten
            mine = rows["tenure"] == number
            of, true = (rows, truth) if mine.all() else (rows[mine], truth[mine])
            self._relate(model, tenure, of, true, now)
            count = self._count_numbers if tenure.numbers else self._count_classes
            count(model, tenure, of, true)

    def _count_numbers(self, model: ModelState, tenure: Tenure, rows: Waiting, truth: Any) -> None:
        slot, held = tenure.labels.slots((rows["ts"] / self._numbers.width).astype(np.int64))
        tenure.labels.count((slot[held], 0))
        self._bet_numbers(model, tenure, np.abs(rows["said"] - truth))
        version = model.versions.get(tenure.version)
        if version is not None:
            said, told = rows["said"][held], truth[held].astype(np.float64)
            tenure.count_numbers(version, slot[held], said, told, LEARN_LABELS)

    def _count_classes(self, model: ModelState, tenure: Tenure, rows: Waiting, truth: Any) -> None:
        right = rows["said"] == truth
        self._bet(model, tenure, len(right) - int(np.count_nonzero(right)), len(right))
        slot, held = tenure.labels.slots((rows["ts"] / self._numbers.width).astype(np.int64))
        true = np.minimum(truth.astype(np.int64), CLASSES)
        pair = np.minimum(rows["said"].astype(np.int64), CLASSES) * (CLASSES + 1) + true
        tenure.pairs *= 2.0 ** (-len(true) / _PAIR_ROWS)
        tenure.pairs += np.bincount(pair, minlength=(CLASSES + 1) ** 2).reshape(CLASSES + 1, -1)
        tenure.labels.count((slot[held], 0), (slot[held & right], 1), (slot[held], 2 + true[held]))

    def _relate(
        self,
        model: ModelState,
        tenure: Tenure,
        rows: Waiting,
        truth: FloatArray | IntArray,
        now: float,
    ) -> None:
        """Let labelled rows speak of the relation, of slices and of what is to be expected."""
        version = model.versions.get(tenure.version)
        if version is None or not version.drift.names:
            return  # which slices there are is not known yet
        if version.labelled is None:
            version.labelled = self._tenures.labelled(version.drift)
        many = len(version.drift.slicings) + 1 + len(model.tags.values)
        ts = now if not math.isnan(now) else float(rows["ts"].max())
        classes = 0 if tenure.numbers else max(2, len(model.classes))
        kind = np.int64 if classes else np.float64
        version.labelled.label(
            ts,
            LabelledRows(
                rows["said"].astype(kind),
                truth.astype(kind),
                confidence_of(rows),
                rows["marks"],
                rows["slices"][:, :many].T,
            ),
            classes,
            model.answer(version) if classes else None,
        )

    def _bet(self, model: ModelState, tenure: Tenure, wrong: int, rows: int) -> None:
        """Let the errors of a batch speak, against bounds that were fixed before it."""
        version = model.versions.get(tenure.version)
        if version is not None:
            if math.isnan(version.accuracy):
                version.learnt_labels += rows
                version.learnt_right += rows - wrong
                if version.learnt_labels >= LEARN_LABELS:
                    version.accuracy = version.learnt_right / version.learnt_labels
                    version.accuracy_rows = float(version.learnt_labels)
            else:
                bound = self._numbers.bound(version.accuracy, version.accuracy_rows)
                tenure.against_reference.take(wrong, rows, bound)
        before = self._numbers.before(model, tenure)
        if before is not None:
            _, errors, n = before
            tenure.against_previous.take(wrong, rows, self._numbers.bound(1.0 - errors / n, n))
            tenure.succession.take(wrong, rows, (errors, n), _restless(model))

    def _bet_numbers(self, model: ModelState, tenure: Tenure, size: FloatArray) -> None:
        """Let the errors of a regression speak by how many are large: no unit, and outliers are worth no more."""

        def large(one: Tenure) -> float:
            version = model.versions.get(one.version)
            labelled = version.labelled if version is not None else None
            return labelled.large if labelled is not None else math.nan

        rows, before = len(size), self._numbers.before(model, tenure)
        if before is not None:
            other, errors, n = before
            wrong = int(np.count_nonzero(size > large(other)))
            tenure.succession.take(wrong, rows, (errors, n), _restless(model))
        limit = large(tenure)
        if not math.isnan(limit):
            tenure.large *= 2.0 ** (-rows / _LARGE_ROWS)
            tenure.large += np.array([np.count_nonzero(size > limit), rows], dtype=np.float64)

    @staticmethod
    def fold_delays(model: ModelState, now: float) -> None:
        """Take how late the labels of a tick were: those that come together are one sample, whatever their order."""
        came = float(model.new_delays.sum())
        past = max(0.0, now - model.labels_seen)
        model.delays *= 2.0 ** -min(came / _DELAY_FADE_ROWS, past / _BATCH_S)
        model.delays += model.new_delays
        model.new_delays[:] = 0.0

    def judge(self, model: ModelState, tenure: Tenure, now: float) -> None:
        """Decide whether labels prove a loss: evidence and size together; it ends when the evidence has gone."""
        version = model.versions.get(tenure.version)
        recent = self._numbers.recent([tenure])
        expected = version.accuracy if version is not None else math.nan
        least = self._numbers.config.tolerance
        test = tenure.against_reference
        if not tenure.lost and test.evidence >= test.alarm and recent < expected - least:
            tenure.lost, tenure.lost_since = True, now
        elif tenure.lost and test.evidence < test.alarm - _CALM:
            tenure.lost, tenure.lost_since = False, None
        before = self._numbers.before(model, tenure)
        usual = 1.0 - before[1] / before[2] if before is not None else math.nan
        late, start = tenure.against_previous, tenure.succession
        if before is not None and not tenure.worse:
            tenure.worse = (start.evidence >= start.alarm and start.rise >= least) or (
                late.evidence >= late.alarm and recent < usual - least
            )
        elif all(test.evidence < test.alarm - _CALM for test in (late, start)):
            tenure.worse = False


def _restless(model: ModelState) -> float:
    """Return how much more than chance errors of a model wander in ordinary life: of its most restless version."""
    known = [v.labelled.restless for v in model.versions.values() if v.labelled is not None]
    return max(known, default=1.0)


def _slicings(model: ModelState, name: str) -> Any:
    """Return the slicings of a version, in the order in which its rows bring their values."""
    version = model.versions.get(name)
    if version is None or not version.drift.names:
        return ()
    own = (*version.slicings, ("confidence", SURE_NAMES))
    return (*own, *((tag, PLACES) for tag in model.tags.values))
