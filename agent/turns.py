"""Whose turn it is when there is more to do than one tick may take: a bounded part of it, and nobody is forgotten.

    all who want --(what each cost the last time)--> fit into the room: everybody
                                                     do not: the urgent as far as `burst` goes,
                                                             then who has waited longest, as far as `room` goes

Work is counted, not timed: the same past gives the same turns on every machine, and in a replay. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_AHEAD: Final = 30
"""Who goes ahead counts as one that has waited for so many ticks more; so the others have their turns, too."""
_OTHERS: Final = 4
"""However much is urgent, a part of the room is for the others: one in so many."""


@dataclass(slots=True)
class Turns:
    """Turns of one stage, by id of incident.

    room     units of work that a tick may take as a rule; the first turn is always taken
    burst    what it may take for what is urgent
    usual    what a turn is taken to cost before it was ever had
    left     of what this tick may take at most
    """

    room: float
    burst: float
    usual: float
    left: float = 0.0
    _ticks: int = 0
    _had: dict[str, int] = field(default_factory=dict)
    _cost: dict[str, float] = field(default_factory=dict)

    def begin(self, wanted: Mapping[str, bool], urgent: Collection[str] = ()) -> Collection[str]:
        """Begin a tick; return who has a turn, of those who want one. wanted: True = goes ahead of others."""
        self._ticks += 1
        self.left = self.burst
        cost = {id_: self._cost.get(id_, self.usual) for id_ in wanted}
        if sum(cost.values()) <= self.room:
            return wanted.keys()
        order = sorted(wanted, key=lambda i: self._had.get(i, 0) - _AHEAD * wanted[i])
        first = self._fill((i for i in order if i in urgent), self.burst, cost)
        left = max(self.room - sum(cost[i] for i in first), self.room / _OTHERS)
        return {*first, *self._fill((i for i in order if i not in urgent), left, cost)}

    @staticmethod
    def _fill(order: Iterable[str], room: float, cost: Mapping[str, float]) -> list[str]:
        out: list[str] = []
        for id_ in order:
            if out and cost[id_] > room:
                break
            out.append(id_)
            room -= cost[id_]
        return out

    def spend(self, id_: str, cost: float) -> None:
        """Note what a turn took."""
        self._had[id_], self._cost[id_] = self._ticks, cost
        self.left -= cost

    def keep(self, ids: Collection[str]) -> None:
        """Let go of all but these."""
        for id_ in [i for i in self._had if i not in ids]:
            del self._had[id_], self._cost[id_]
