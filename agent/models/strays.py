"""Labels that do not say of which model they are: joined by the id of their request alone.

An id that several models have is given to each of them. What is not known yet waits a minute for its row, as labels
that name their model do; these few are lost with a stop of the daemon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from agent.label_join import keys_of
from agent.models.state import ModelState
from agent.ports import LabelBatch

MODEL: Final = ""
_MOST: Final = 10_000
_WAIT_S: Final = 60.0


class Strays:
    """See the module; `give` takes labels of one model."""

    def __init__(self, give: Callable[[ModelState, LabelBatch], None]) -> None:
        self._give = give
        self._waiting: dict[str, tuple[Any, float, float]] = {}
        self._looked = math.nan

    def take(self, models: Iterable[ModelState], batch: LabelBatch, now: float) -> None:
        """Give labels to the models that know their ids; the others wait."""
        left = np.ones(len(batch.ids), dtype=np.bool_)
        for model in models:
            left &= ~self._match(model, batch)
        for i in np.flatnonzero(left).tolist():
            if batch.ids[i] and len(self._waiting) < _MOST:
                self._waiting.setdefault(batch.ids[i], (batch.labels[i], float(batch.ts[i]), now))

    def look(self, model: ModelState, ids: Iterable[str], now: float) -> None:
        """Give a model the labels that came before these rows of it; let go of what has waited for too long."""
        if not self._waiting:
            return
        found = {one: self._waiting.pop(one) for one in ids if one in self._waiting}
        if found:
            labels, ts, _ = zip(*found.values(), strict=True)
            self._match(model, LabelBatch(model.name, np.array(ts), tuple(found), labels))
        if now != self._looked:
            self._looked = now  # once a frame; what came before the first one waits from there
            self._waiting = {
                one: (label, ts, now if math.isnan(came) else came)
                for one, (label, ts, came) in self._waiting.items()
                if not now - came > _WAIT_S
            }

    def _match(self, model: ModelState, batch: LabelBatch) -> Any:
        keys = keys_of(batch.ids)
        known = model.join.known(keys) & (keys != 0)
        if known.any():
            at = np.flatnonzero(known).tolist()
            self._give(
                model,
                LabelBatch(
                    model.name, np.asarray(batch.ts)[known],
                    tuple(batch.ids[i] for i in at), tuple(batch.labels[i] for i in at),
                ),
            )  # fmt: skip
        return known
