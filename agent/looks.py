"""When an incident is diagnosed again: at once when its evidence is another one, else ever more rarely. Pure.

    anomalies come, turn or end; changes are told; groups join  -> it is urgent
    nothing of that                                             -> after an eighth of the time since, 15 s at most
    it is about to act, and its diagnosis is of an earlier tick -> before it acts

What is measured of an incident are medians of all that has come since: they move the less, the longer it lasts. More
than a tick may take is spread over ticks (`agent.turns`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from agent.model import Anomaly, Change, Incident
from agent.rca.look import Look, Pasts
from agent.turns import Turns

_SHARE: Final = 1 / 8
_REST_S: Final = 15.0
_MOST_PASTS: Final = 50_000
"""Series of all incidents whose past is kept; 200 bytes each."""
_ROOM, _BURST = 15_000.0, 150_000.0
"""What a tick may spend on diagnoses, and on those of new evidence; a unit is about a microsecond of a core of 2020."""
_A_VIEW: Final = 1_500.0
"""What the rules cost for one group of an incident, and"""
_A_CELL: Final = 0.06
"""each value of history that is read."""


@dataclass(slots=True)
class _Seen:
    """What is known of the looks at one incident.

    anomalies, rest, evidence   what its evidence was made of, and in what words it is compared
    moved, looked  when the evidence was last another one, when it was last diagnosed
    """

    anomalies: tuple[Anomaly, ...] = ()
    rest: tuple[Any, ...] = (None, None, None, -1, None)
    evidence: Any = None
    moved: float = -math.inf
    looked: float = -math.inf
    pasts: Pasts = field(default_factory=Pasts)


@dataclass(slots=True)
class Looks:
    """Keeps the looks at all open incidents."""

    turns: Turns = field(default_factory=lambda: Turns(_ROOM, _BURST, 2 * _A_VIEW))
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def heed(
        self, incident: Incident, newest: Change | None, now: float, said: object = None
    ) -> None:
        """Take note of an incident's evidence.

        newest   the last change that anybody has told of; said: a person's word on its cause
        """
        seen = self._seen.setdefault(incident.id, _Seen())
        seen.moved = min(seen.moved, now)  # a clock that was set back
        if (
            seen.anomalies is incident.anomalies
            and seen.rest[0] is newest
            and seen.rest[1] is incident.changes
            and seen.rest[2] is incident.also
            and seen.rest[3] == incident.reopened
            and seen.rest[4] is said
        ):
            return
        seen.anomalies = incident.anomalies
        seen.rest = (newest, incident.changes, incident.also, incident.reopened, said)
        evidence = (frozenset(map(_word, incident.anomalies)), *seen.rest)
        if evidence != seen.evidence:
            seen.evidence, seen.moved = evidence, now

    def urgent(self, incident: Incident) -> bool:
        """Tell whether the evidence is another one than at the last look."""
        seen = self._seen.get(incident.id)
        return seen is None or seen.looked < seen.moved

    def due(self, incident: Incident, now: float) -> bool:
        """Tell whether it is time to look again."""
        seen = self._seen.get(incident.id)
        if seen is None or self.urgent(incident):
            return True
        rest = min((now - seen.moved) * _SHARE, _REST_S)
        return not 0.0 <= now - seen.looked < rest  # a clock that was set back: look

    def fresh(self, incident: Incident, now: float) -> bool:
        """Tell whether it was looked at in this tick."""
        seen = self._seen.get(incident.id)
        return seen is not None and seen.looked == now

    def pasts(self, incident: Incident) -> Pasts:
        """Return what earlier looks have read of the past before its onset."""
        return self._seen.setdefault(incident.id, _Seen()).pasts

    def looked(self, look: Look) -> None:
        """Take note of a look."""
        id_ = look.incident.id
        self._seen.setdefault(id_, _Seen()).looked = look.now
        self.turns.spend(id_, (1 + len(look.incident.also)) * _A_VIEW + sum(look.cells) * _A_CELL)

    def keep(self, ids: Collection[str]) -> None:
        """Let go of all but these."""
        self.turns.keep(ids)
        for id_ in [i for i in self._seen if i not in ids]:
            del self._seen[id_]
        if sum(len(seen.pasts.known) for seen in self._seen.values()) > _MOST_PASTS:
            for seen in self._seen.values():
                seen.pasts.hold()


def _word(a: Anomaly) -> tuple[Any, ...]:
    """Say of an anomaly what a diagnosis rests on; how far out it is, it measures itself."""
    return (
        a.series, a.family, a.road, a.onset, a.end is None, a.direction, a.harm, math.isnan(a.value),
        a.ahead is None,
    )  # fmt: skip
