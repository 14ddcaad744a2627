"""How far a series has gone from its peers: grey failures, which no threshold and no history of its own shows.

    level - its usual place among them -> distance d from the middle of the others now -> in usual distances, z
      -> over what z is common in the group now -> statistic

Good for replicas, GPUs, cores, disks under one load. A load that moves all moves nobody; what was always different has
its own usual place; what is often elsewhere has a wide usual distance; where all scatter at once nobody stands out.
Not for groups that split in halves: nobody knows which half is odd, and both stay silent.

level (n,) local level in base units; only members with a value take part, and a group of fewer than three is silent.
The middle of the others is their median; of an even number all between the two middle ones, so that among three the odd
one does not drag its peers along. What is usual is learnt from trusted rows, and one row teaches at most five usual
distances. Statistic and distance are 0 for whoever takes no part. The first `warmup` rows only learn.

Cost: two sorts of the members, nothing for the others but a few vector operations; O(m log m) a row. 80 bytes a series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from detectors._tail import Tail

LEAST: Final = 3
_SIGMA: Final = 1.25
"""Mean absolute deviation to standard deviation, for a bell."""
_CLIP: Final = 5.0
_FARTHEST: Final = 1e6
"""What is infinitely far must not teach infinities."""
_PRIOR: Final = np.array([[3.0, 0.8]])
"""Quantile and mean excess before anything is known."""


@dataclass(slots=True)
class Stand:
    """Where the members stand in one row.

    away      (n,) distance from where the others say that a series should be; scale (n,) the usual one
    stat      (1, n) how far beyond usual; rarity (n,) -log p of it, 0 before it is ready
    present   (n,) who takes part
    """

    away: FloatArray
    scale: FloatArray
    stat: FloatArray
    rarity: FloatArray
    present: BoolArray


class Peers:
    """State of n series, all arrays (n,) or (1, n): place, usual distance, rows learnt, tail of the statistic."""

    def __init__(self, n: int, slow: float, warmup: int) -> None:
        self._slow, self._warmup = slow, warmup
        self.place: FloatArray = np.zeros(n)
        self.usual: FloatArray = np.zeros(n)
        self.rows: FloatArray = np.zeros(n)
        self.tail = Tail(_PRIOR, n)
        self._groups: IntArray = np.full(n, -1, dtype=np.int64)
        self._members: IntArray = np.empty(0, dtype=np.int64)

    def arrays(self) -> dict[str, FloatArray]:
        """Return the state by name; the last axis is the series."""
        own = {name: getattr(self, name) for name in ("place", "usual", "rows")}
        return own | {f"tail.{name}": array for name, array in self.tail.arrays().items()}

    def group(self, groups: IntArray) -> None:
        """Take the group (n,) of each series, -1 = none."""
        self._groups = groups
        self._members = np.flatnonzero(groups >= 0)

    @property
    def any(self) -> bool:
        """Whether any series has peers."""
        return bool(len(self._members))

    def stand(self, level: FloatArray, ok: BoolArray, least: FloatArray) -> Stand:
        """Return where the members stand; `least` (n,) is the least that counts as a distance."""
        n = len(level)
        who = self._members[ok[self._members]]
        of = self._groups[who]
        size = np.bincount(of, minlength=int(of.max()) + 1 if len(of) else 0)
        enough = size[of] >= LEAST
        if not enough.all():
            who, of = who[enough], of[enough]
            size = np.where(size >= LEAST, size, 0)
        away, scale = np.zeros(n), np.ones(n)
        stat, rarity, present = np.zeros((1, n)), np.zeros(n), np.zeros(n, dtype=bool)
        if not len(who):
            return Stand(away, scale, stat, rarity, present)
        first = np.cumsum(size) - size
        own = level[who] - self.place[who]
        gone = _gone(own, of, first, size)
        mine = np.maximum(self.usual[who], least[who]) * _SIGMA
        z = np.abs(gone) / mine
        z /= np.maximum(_common(z, of, first, size), 1.0)
        present[who] = True
        away[who], scale[who] = gone, mine
        stat[0, who] = np.minimum(z, _FARTHEST)
        ready = who[self.rows[who] >= self._warmup]
        rarity[ready] = self.tail.rarity(stat)[0, ready]
        return Stand(away, scale, stat, rarity, present)

    def learn(self, stand: Stand, teach: BoolArray, moved_on: BoolArray) -> None:
        """Learn a row where `teach` (n,); where `moved_on` its place is where it is now, from now on."""
        use = stand.present & teach
        before = self.rows
        self.rows = before + use
        rate = np.maximum(1.0 / np.maximum(self.rows, 1.0), 1.0 / self._slow) * use
        limit = np.where(before < self._warmup, np.inf, _CLIP * stand.scale)
        off = np.minimum(np.maximum(stand.away, -limit), limit)
        # The first row finds the place, the second the first distance from it.
        again = np.maximum(1.0 / np.maximum(before, 1.0), 1.0 / self._slow) * (use & (before > 0))
        self.usual += again * (np.abs(off) - self.usual)
        self.place += np.where(moved_on & use, stand.away, rate * off)
        self.tail.learn(stand.stat, use & (before >= self._warmup), before)


def _sorted(values: FloatArray, of: IntArray) -> IntArray:
    """Return the order by group, and by value within each; numbers of groups so small are sorted by counting."""
    by = np.argsort(values)
    small = of[by].astype(np.int16 if len(of) < 1 << 15 else np.int64)
    order: IntArray = by[np.argsort(small, kind="stable")]
    return order


def _gone(own: FloatArray, of: IntArray, first: IntArray, size: IntArray) -> FloatArray:
    """Return how far each of (m,) is from the middle of the others of its group; 0 between their two middle ones."""
    order = _sorted(own, of)
    value, group = own[order], of[order]
    start, others = first[group], size[group] - 1
    rank = np.arange(len(own)) - start
    low, high = (others - 1) // 2, others // 2
    under = value[start + low + (rank <= low)]
    over = value[start + high + (rank <= high)]
    out = np.empty(len(own))
    out[order] = np.maximum(value - over, 0.0) + np.minimum(value - under, 0.0)
    return out


def _common(z: FloatArray, of: IntArray, first: IntArray, size: IntArray) -> FloatArray:
    """Return the median of its group for each of (m,), the lower one of two."""
    middle = z[_sorted(z, of)][np.minimum(first + np.maximum(size - 1, 0) // 2, len(z) - 1)]
    median: FloatArray = middle[of]
    return median
