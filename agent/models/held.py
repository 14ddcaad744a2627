"""Rows of versions whose reference is being made, and their labels, in the order in which they came. Bounded.

In memory only: no row is written to disk. So a checkpoint waits until they are counted (`agent.daemon`).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from agent.label_join import KeyArray, keys_of
from agent.model import BoolArray
from agent.parcels import cells_of
from agent.ports import LabelBatch, PredictionBatch

MOST_CELLS: Final = 1_000_000
"""Of one model: rows times columns, 8 MB of numbers."""
LONGEST_S: Final = 20.0
"""Less than a checkpoint may be late (`agent.daemon`)."""


@dataclass(slots=True)
class _Queue:
    since: float
    batches: deque[PredictionBatch | LabelBatch] = field(default_factory=deque)
    keys: set[int] = field(default_factory=set)
    rows: int = 0


class Held:
    """What waits, by version."""

    def __init__(self) -> None:
        self._of: dict[str, _Queue] = {}
        self._cells = 0
        self._tired: set[str] = set()  # versions whose rows have waited long enough

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of which something waits."""
        return tuple(self._of)

    @property
    def rows(self) -> int:
        """Predictions that wait."""
        return sum(queue.rows for queue in self._of.values())

    def __bool__(self) -> bool:
        return bool(self._of)

    def full(self, version: str, now: float) -> bool:
        """Tell whether no more can wait, or what waits has waited long enough."""
        queue = self._of.get(version)
        if queue is not None:
            if math.isnan(queue.since):  # it came before the first frame
                queue.since = now
            if self._cells > MOST_CELLS or now - queue.since > LONGEST_S:
                self._tired.add(version)
        return version in self._tired

    def let_go(self, version: str) -> None:
        """Note that what was waited for is there: the next time its rows may wait again."""
        self._tired.discard(version)

    def known(self, keys: KeyArray) -> BoolArray:
        """Tell which rows wait here (n,)."""
        out = np.zeros(len(keys), dtype=np.bool_)
        for queue in self._of.values():
            out |= np.array([key in queue.keys for key in keys.tolist()], dtype=np.bool_)
        return out

    def add(self, version: str, batch: PredictionBatch | LabelBatch, now: float) -> None:
        """Let rows wait, or labels of rows that wait."""
        queue = self._of.setdefault(version, _Queue(now))
        queue.batches.append(batch)
        self._cells += cells_of(batch)
        if isinstance(batch, PredictionBatch):
            queue.rows += len(batch.ts)
            queue.keys.update(keys_of(batch.ids).tolist())
            queue.keys.discard(0)

    def labels(self, batch: LabelBatch, now: float) -> LabelBatch:
        """Let the labels of rows that wait wait with them; return the others."""
        keys = keys_of(batch.ids).tolist()
        for version, queue in self._of.items():
            mine = [i for i, key in enumerate(keys) if key in queue.keys]
            if mine:
                self.add(version, _some(batch, mine), now)
        rest = [i for i, k in enumerate(keys) if not any(k in q.keys for q in self._of.values())]
        return batch if len(rest) == len(keys) else _some(batch, rest)

    def pop(self, version: str) -> PredictionBatch | LabelBatch:
        """Return the oldest that waits."""
        queue = self._of[version]
        batch = queue.batches.popleft()
        self._cells -= cells_of(batch)
        if isinstance(batch, PredictionBatch):
            queue.rows -= len(batch.ts)
            queue.keys.difference_update(keys_of(batch.ids).tolist())
        if not queue.batches:
            del self._of[version]
        return batch


def _some(batch: LabelBatch, at: list[int]) -> LabelBatch:
    return replace(
        batch, ts=batch.ts[at], ids=tuple(batch.ids[i] for i in at),
        labels=tuple(batch.labels[i] for i in at),
    )  # fmt: skip
