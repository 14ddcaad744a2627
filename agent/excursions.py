"""Which rows a detector may learn: excursions of many series at once, and the budget that distrust is paid from.

Nobody learns from what was called abnormal, with two exceptions, without which a detector would call the same thing
abnormal for ever:

- An excursion that lasts longer than an hour (and 60 rows) is the new normal: from then on it is learnt until it ends.
- A series that is called abnormal more often than its budget allows is not ill but misjudged. Each excursion that is
  kept from being learnt takes one token; tokens come back as fast as the budget allows alarms; without one the
  excursion is learnt while it lasts (detectors clip what one row may teach). Real events are rarer than tokens.

Columnar: state in arrays (n,), no object per series, no clock; cost O(n) a tick.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray

SLOW_STEP_S: Final = 10.0
"""Where rows are this far apart, one abnormal row is enough: the next would come too late."""
_HEAT_ON, _HEAT_OFF, _COOL = 1.5, 0.2, 0.6
"""An episode starts with two abnormal rows close together and ends some quiet rows later."""
_NEW_NORMAL_S: Final = 3600.0
_NEW_NORMAL_ROWS: Final = 60
"""After so long an excursion is the new normal."""
_TOKENS: Final = 3.0
"""Most tokens that a quiet series saves up; it starts with one."""


class Excursions:
    """What goes on in n series. A tick calls `warm`, perhaps `name`, and then `trust`, once each.

    heat   (n,) recent abnormal rows, cooling; on (n,) an excursion goes on; old (n,) it is the new normal
    """

    def __init__(self, n: int, step_s: float) -> None:
        self.starts = 1.0 if step_s >= SLOW_STEP_S else _HEAT_ON
        self.new_normal_rows = max(_NEW_NORMAL_ROWS, _NEW_NORMAL_S / step_s)
        self.heat: FloatArray = np.zeros(n)
        self.on: BoolArray = np.zeros(n, dtype=bool)
        self._age: FloatArray = np.zeros(n)
        self._tokens: FloatArray = np.ones(n)
        self._paid: BoolArray = np.zeros(n, dtype=bool)
        self._named: BoolArray = np.zeros(n, dtype=bool)

    @property
    def old(self) -> BoolArray:
        """Excursions that are the new normal."""
        return self._age > self.new_normal_rows

    @property
    def hot(self) -> BoolArray:
        """Excursions that are sure enough to be named, and not the new normal."""
        return (self.heat >= self.starts) & ~self.old

    def warm(self, p: FloatArray, low: BoolArray) -> None:
        """Take a row: p (n,) of the detector, low (n,) where it is rarer than the budget allows."""
        self.heat = np.where(np.isnan(p), self.heat, self.heat * _COOL + low)

    def name(self, columns: IntArray) -> None:
        """Call series abnormal in this row for another reason than their own p: somebody else pays for it."""
        self.heat[columns] = np.maximum(self.heat[columns], self.starts)
        self._named[columns] = True

    def trust(self, low: BoolArray, allowed: FloatArray | float) -> BoolArray:
        """Return which series (n,) of this row are learnt; `allowed` is how many alarms the budget grants a row."""
        self._tokens = np.minimum(self._tokens + allowed, _TOKENS)
        begins = low & ~self.on
        if not (begins.any() or self.on.any()):
            return np.ones(len(low), dtype=bool)
        own = begins & (self._tokens >= 1.0) & ~self._named
        self._paid = np.where(begins, own | self._named, self._paid)
        self._tokens -= own
        self._named[:] = False
        self.on |= begins
        self._age = np.where(self.on, self._age + 1.0, 0.0)
        trust: BoolArray = ~(self.on & self._paid) | self.old
        self.on &= self.heat >= _HEAT_OFF
        self._age[~self.on] = 0.0
        return trust

    def remap(self, old_index: IntArray) -> None:
        """Series came and went: new position i was old_index[i]; -1 = new, starts from nothing."""
        stay = old_index >= 0
        fresh = Excursions(len(old_index), 1.0)
        for state in ("heat", "on", "_age", "_tokens", "_paid", "_named"):
            array = getattr(fresh, state)
            array[stay] = getattr(self, state)[old_index[stay]]
            setattr(self, state, array)
