"""Examples of requests that failed or were slow, by their trace ids: where a person goes on looking.

    PredictionBatch with traces -> failed, or slower than twice its usual batch -> newest 200 a model -> 20 an incident

Kept in memory only, and only ids: no feature, no prediction. Nothing where a source carries no trace ids.
Cost: one comparison of arrays a batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from agent.ports import PredictionBatch

MOST: Final = 20
"""Ids that an incident shows."""
_KEPT: Final = 200
_MODELS: Final = 32
_OF_BATCH: Final = 10
_SLOW: Final = 2.0
_FORGET: Final = 0.05
_OLD_S: Final = 3600.0


@dataclass(slots=True)
class _Kept:
    """What is kept of one model: (ts, id, failed, seconds), and what its batches usually take."""

    rows: deque[tuple[float, str, bool, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    usual_s: float = math.nan


@dataclass(slots=True)
class Examples:
    """The newest bad requests of each model."""

    _models: dict[str, _Kept] = field(default_factory=dict)

    def take(self, batch: PredictionBatch) -> None:
        """Keep the ids of what failed or was slow in a batch."""
        if not batch.traces or len(batch.traces) != len(batch.ts):
            return
        if batch.model not in self._models and len(self._models) >= _MODELS:
            return
        kept = self._models.setdefault(batch.model, _Kept())
        failed = (batch.status >= 500) | (batch.status <= 0)
        with np.errstate(invalid="ignore"):
            slow = batch.latency_s > _SLOW * kept.usual_s
        bad = np.flatnonzero(failed | slow)
        worst = bad[np.lexsort((-np.nan_to_num(batch.latency_s[bad]), ~failed[bad]))][:_OF_BATCH]
        for i in map(int, np.sort(worst)):
            if batch.traces[i]:
                took = float(batch.latency_s[i])
                kept.rows.append((float(batch.ts[i]), batch.traces[i], bool(failed[i]), took))
        known = batch.latency_s[~np.isnan(batch.latency_s)]
        if len(known):
            # a median of medians that forgets slowly: an incident of minutes does not become usual
            now = float(np.median(known))
            usual = now if math.isnan(kept.usual_s) else kept.usual_s
            kept.usual_s = usual + _FORGET * (min(now, _SLOW * usual) - usual)

    def of(self, models: Iterable[str], since: float, most: int = MOST) -> tuple[str, ...]:
        """Return ids of bad requests since then: failed ones first, then the slowest."""
        rows = [
            row
            for model in models
            if model in self._models
            for row in self._models[model].rows
            if row[0] >= since
        ]
        rows.sort(key=lambda r: (not r[2], -(0.0 if math.isnan(r[3]) else r[3]), -r[0], r[1]))
        return tuple(dict.fromkeys(r[1] for r in rows))[:most]

    def forget(self, now: float) -> None:
        """Let go of what is too old to belong to an incident that may still begin."""
        for kept in self._models.values():
            while kept.rows and kept.rows[0][0] < now - _OLD_S:
                kept.rows.popleft()
