"""Rows that an edge process has counted itself: into the counts of the version that made them.

    sketch -> known already? -> do its edges fit? -> features of the version (merged by adding)
                                                  -> traffic, rows and classes of its tenure, evenly over its time

What can not be counted raises Refused before anything has changed: edges that are not those of the reference, or no
reference yet. `wanted` says which edges these are. Labels of such rows can not be joined: there are no ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

from agent import registry
from agent.errors import Refused, Unavailable
from agent.label_join import keys_of
from agent.model import FloatArray, IntArray
from agent.models.numbers import Numbers
from agent.models.state import CLASSES, ModelState, Tenure, VersionState
from agent.models.tenures import Tenures
from agent.ports import FeatureDrift, SketchBatch, Spread
from agent.rings import LATENCIES

MOST_IDS: Final = 4096
"""Ids of sketches that are remembered, so that a second try counts nothing twice."""
_MOST_S: Final = 3600
_WHERE: Final = "ask GET /api/models/{}/edges, or run: homeostat edges {}"


class Cells(Protocol):
    """What counts sketches of a version's features."""

    def wanted(self) -> dict[str, dict[str, Any]]:
        """Return edges or values of each feature; {} = not known yet."""
        ...

    def spreads(self) -> dict[str, Spread]:
        """Return how the values of each feature lie, beside those of the reference; {} = not known yet."""
        ...

    def counts(self, rows: int, sketches: Any) -> FloatArray:
        """Return the counts of a sketch; raises Refused where edges do not fit."""
        ...

    def take(self, ts: float, rows: int, counts: FloatArray) -> None:
        """Count them."""
        ...


def cells_of(drift: FeatureDrift) -> Cells:
    """Return what counts sketches of these features."""
    cells: Cells = registry.drift.get("cells")(drift)
    return cells


class Sketches:
    """Who counts them.

    waits   tells whether rows of a version of a model must wait, as its reference is being made
    """

    def __init__(
        self, tenures: Tenures, numbers: Numbers, waits: Callable[[ModelState, str], bool]
    ) -> None:
        self._tenures = tenures
        self._numbers = numbers
        self._waits = waits

    def take(self, model: ModelState, batch: SketchBatch, now: float) -> None:
        """Count a sketch; raises Refused, or Unavailable while there is no reference yet, and has changed nothing."""
        new = batch.version not in model.versions
        if self._waits(model, batch.version):
            raise Unavailable(
                "the reference of this version is being made; send it again", wait_s=5.0
            )
        version = self._tenures.version(model, batch.version, now)
        try:
            counts = _counts(model, version, batch)
        except Refused:
            if new:
                del model.versions[batch.version]
            raise
        if _known(model, batch):
            return
        model.first = min(model.first, batch.since)
        _count_traffic(model, batch)
        if batch.rows:
            model.new_rows += batch.rows
            tenure = self._tenures.tenure(model, version, batch.since, batch.until)
            cells_of(version.drift).take(batch.until, batch.rows, counts)
            _count_rows(model, version, tenure, batch, self._numbers.width)


def _counts(model: ModelState, version: VersionState, batch: SketchBatch) -> FloatArray:
    """Return the counts of the features of a sketch; raises Refused when they can not be merged."""
    cells = cells_of(version.drift)
    if not cells.wanted():
        raise Refused(
            f"sketch: version {batch.version or 'without a name'} of {model.name} has no reference yet, so no edges"
            " are known; give it one (homeostat reference make), or send its first rows whole"
        )
    try:
        return cells.counts(batch.rows, batch.features)
    except Refused as wrong:
        raise Refused(f"{wrong}; {_WHERE.format(model.name, model.name)}") from None


def _known(model: ModelState, batch: SketchBatch) -> bool:
    """Tell whether this sketch has been counted already; note it."""
    key = int(keys_of([batch.id])[0])
    if key and key in model.sketches:
        return True
    if key:
        model.sketches[key] = None
        while len(model.sketches) > MOST_IDS:
            del model.sketches[next(iter(model.sketches))]
    return False


def _count_traffic(model: ModelState, batch: SketchBatch) -> None:
    """Count its requests, those that failed too, in the seconds of its time; nothing is known of their latency."""
    seconds, rows = _spread(batch, batch.rows, 1.0)
    _, failed = _spread(batch, batch.failed, 1.0)
    ring = model.traffic
    slot, held = ring.slots(seconds)
    slot = slot[held]
    rows, failed = rows[held], failed[held]
    for column, n in (
        (0, rows + failed), (1, failed), (2, rows),
        (3 + LATENCIES, rows + failed), (4 + 2 * LATENCIES, rows + failed),
    ):  # fmt: skip
        ring.add(slot, column, n)


def _count_rows(
    model: ModelState,
    version: VersionState,
    tenure: Tenure,
    batch: SketchBatch,
    width: float,
) -> None:
    """Count its rows, and the classes that it predicted, in the buckets of its time."""
    tenure.rows_total += batch.rows
    tenure.last = max(tenure.last, batch.until)
    buckets, rows = _spread(batch, batch.rows, width)
    slot, held = tenure.rows.slots(buckets)
    tenure.rows.add(slot[held], 0, rows[held])
    if batch.pred is None or not batch.pred.values:
        return
    numbers = model.class_numbers(batch.pred.values)
    for number, n in zip(numbers.tolist(), batch.pred.counts.tolist(), strict=True):
        if number < 0:
            continue
        _, each = _spread(batch, n, width)
        tenure.rows.add(slot[held], 3 + min(number, CLASSES), each[held])
        if version.mix is None:
            version.learnt_mix[min(number, CLASSES)] += n


def _spread(batch: SketchBatch, n: int, width: float) -> tuple[IntArray, IntArray]:
    """Return the buckets (k,) of the time of a sketch, the last hour at most, and n shared evenly among them (k,)."""
    last = math.floor(batch.until / width)
    first = max(math.floor(batch.since / width), last - math.ceil(_MOST_S / width))
    buckets = np.arange(first, last + 1, dtype=np.int64)
    cut = np.arange(len(buckets) + 1) * (n / len(buckets))
    return buckets, np.diff(np.floor(cut + 1e-9).astype(np.int64))
