"""What people said about causes, as log-odds: how much less, or more, a cause is believed for a kind of trouble.

    "not host.neighbour, it was host.disk" on an incident of a service
       -> that incident              host.neighbour -3.0, host.disk +3.0
       -> all troubles of services   host.neighbour -0.7, host.disk +0.7; half of it is forgotten in 60 days

**Bounds.** All that people said together makes a cause at most 7.4 times less probable, and 2.7 times more, for a kind
of trouble: what decides by itself (a GPU that does not answer, a broken contract: +4 and more) still names itself. The
newest word on an incident counts, so one incident is one word, whoever says it how often. A right cause is only
believed more where the measurements have a case for it. It moves who is blamed; whether something is told, and how
severe it is, follows from what is hurt and is touched by none of this. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

HERE: Final = 3.0
"""On the incident itself."""
WORD: Final = 0.7
"""One word, on all trouble of the same kind."""
LEAST: Final = -2.0
MOST: Final = 1.0
"""Bounds of all words together."""
FUTILE: Final = -1.0
"""An act that is meant to heal a cause and had no effect, on the incident itself: more often so where it is another."""
_HALF_LIFE_S: Final = 60 * 86_400.0
_FORGOTTEN: Final = 0.05


class Said(Protocol):
    """What is needed of a correction (`agent.memory.Correction`)."""

    @property
    def incident(self) -> str:
        """On which it was said."""
        ...

    @property
    def about(self) -> str:
        """The kind of group whose trouble it was."""
        ...

    @property
    def wrong(self) -> str:
        """What it was not."""
        ...

    @property
    def of(self) -> str:
        """On which entity, by id."""
        ...

    @property
    def by(self) -> str:
        """Who said it."""
        ...

    @property
    def right(self) -> str:
        """What it was; "" = they do not know."""
        ...

    @property
    def ts(self) -> float:
        """When."""
        ...


@dataclass(frozen=True, slots=True)
class Doubt:
    """What people said of one cause of one kind of trouble.

    weight   log-odds; wrong, right: how often they said that it was not, and that it was
    """

    about: str
    cause: str
    weight: float
    wrong: int
    right: int

    @property
    def times(self) -> float:
        """How many times as probable it makes the cause."""
        return math.exp(self.weight)

    @property
    def words(self) -> str:
        """Say it."""
        said = []
        if self.wrong:
            said.append(f"{_times(self.wrong)} that it was not")
        if self.right:
            said.append(f"{_times(self.right)} that it was")
        return f"people said {' and '.join(said)} {self.cause} where a {self.about} was in trouble"


def doubts_of(said: Iterable[Said], now: float) -> dict[tuple[str, str], Doubt]:
    """Return (kind of group, cause) -> what people said of it, as far as it is not forgotten."""
    weights: dict[tuple[str, str], float] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    for one in said:
        left = WORD * math.pow(0.5, max(now - one.ts, 0.0) / _HALF_LIFE_S)
        for cause, sign in ((one.wrong, -1.0), (one.right, 1.0)):
            if cause:
                key = one.about, cause
                weights[key] = weights.get(key, 0.0) + sign * left
                counts.setdefault(key, [0, 0])[sign > 0] += 1
    return {
        key: Doubt(*key, min(max(weight, LEAST), MOST), counts[key][0], counts[key][1])
        for key, weight in sorted(weights.items())
        if abs(weight) >= _FORGOTTEN
    }


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
