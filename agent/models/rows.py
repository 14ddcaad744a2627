"""Rows that were served, counted where their model's and their version's are; those that will get a label wait for it.

rows -> traffic of the service
     -> tenure (traffic, classes), features, what is said, replicas, arms -> `LabelJoin`, 48 bytes a row
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agent.label_join import KeyArray, rows_of, set_confidence
from agent.model import BoolArray, FloatArray, IntArray
from agent.models import beside
from agent.models.made import predicted_classes, predicted_numbers, slices_of
from agent.models.numbers import Numbers
from agent.models.replicas import TAGS, Replicas
from agent.models.state import CLASSES, ModelState, Said, Tenure, VersionState
from agent.models.tenures import Tenures
from agent.ports import PredictionBatch
from agent.rings import LATENCIES, latency_bins


class Rows:
    """Who counts them; keeps nothing of its own.

    waits   is told of the keys (n,) of rows that wait for their labels from now on
    """

    def __init__(
        self, tenures: Tenures, numbers: Numbers, waits: Callable[[ModelState, KeyArray], None]
    ) -> None:
        self._tenures = tenures
        self._numbers = numbers
        self._waits = waits

    @staticmethod
    def count_traffic(
        model: ModelState, batch: PredictionBatch, ts: FloatArray, keep: BoolArray, ok: BoolArray
    ) -> None:
        """Count requests, also those that failed: `keep` (n,) are new, `ok` (n,) of them were answered."""
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

    def count(
        self, model: ModelState, batch: PredictionBatch, keys: KeyArray, now: float
    ) -> VersionState:
        """Count rows that were served, where their version's are; return it."""
        ts, rows, newest = batch.ts, len(batch.ts), float(batch.ts.max())
        version = self._tenures.version(model, batch.version, now)
        tenure = self._tenures.tenure(model, version, float(ts.min()), newest)
        numbers = predicted_numbers(version, batch.pred)
        if numbers is not None:
            model.regression = tenure.numbers = True
        said = predicted_classes(model, version, batch.pred, rows)
        self._count_said(tenure, version, ts, batch.proba, said)
        arm = model.versus.arm(batch.version, batch.variant)
        model.versus.count(arm, ts)
        coded = version.drift.take(newest, rows, batch.features)
        if version.slicings != version.drift.slicings:  # it has learnt
            model.reslice(version, version.slicings)
        sure = np.asarray(batch.proba, dtype=np.float64)
        beside.take_said(model, version, batch, Said(newest, said, numbers, sure))
        answer = model.answer(version) if numbers is None else None
        if version.labelled is not None:
            yes = None if answer is None else said == answer
            version.labelled.take(newest, sure, yes, coded.marks)
        spoken = said if numbers is None else numbers
        # a replica that answers for another version answers otherwise, and is well
        if model.version_in_use in {None, version} and any(name in batch.tags for name in TAGS):
            model.replicas = model.replicas or Replicas(self._numbers.config.quiet)
            model.replicas.take(newest, batch.tags, spoken, sure, numbers=numbers is not None)
        wait = (keys != 0) & (said >= 0 if numbers is None else np.isfinite(numbers))
        if wait.any():
            waiting = keys[wait]
            held = rows_of(waiting, ts[wait], tenure.number, spoken[wait])
            set_confidence(held, sure[wait])
            held["marks"], held["arm"] = coded.marks[wait], arm
            tags = model.tags.code(batch.tags, slice(None), rows)
            slices: Any = slices_of(coded.slices, sure, tags)[:, wait]
            held["slices"][:, : len(slices)] = slices.T
            model.join.add(held)
            model.versus.served(waiting, held)
            self._waits(model, waiting)
        return version

    def _count_said(
        self,
        tenure: Tenure,
        version: VersionState,
        ts: FloatArray,
        proba: FloatArray,
        said: IntArray,
    ) -> None:
        tenure.rows_total += len(ts)
        tenure.last = max(tenure.last, float(ts.max()))
        slot, held = tenure.rows.slots((ts / self._numbers.width).astype(np.int64))
        sure = held & np.isfinite(proba)
        known = held & (said >= 0)
        ring = tenure.rows
        ring.add(slot[sure], 1, np.clip(proba[sure], 0.0, 1.0))
        ring.count(
            (slot[held], 0),
            (slot[sure], 2),
            (slot[known], 3 + np.minimum(said[known], CLASSES)),
        )
        if version.mix is None:
            version.learnt_mix += np.bincount(
                np.minimum(said[said >= 0], CLASSES), minlength=CLASSES + 1
            )
            learnt = float(version.learnt_mix.sum())
            if learnt >= self._numbers.config.first_rows:
                version.mix, version.mix_rows = version.learnt_mix / learnt, learnt
