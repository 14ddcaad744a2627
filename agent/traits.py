"""What the series of a source are, by metadata: smallest change that matters, kind, limits, peers.

    Series + catalogue + topology --traits_of--> Traits --set_traits--> every detector that wants it

Made by the monitor when the series of a source change, never in between; columnar, so that a detector needs no look
at names. Infinities, 0, UNKNOWN and -1 all mean "nobody knows", and then a detector decides by the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import FloatArray, IntArray, Series
from agent.peers import peers_of
from agent.topology import Topology

UNKNOWN, GAUGE, STATE, RATE = range(4)
"""Kinds of series: RATE is what the collector makes of a counter."""
_RATES: Final = frozenset(d.rate for d in SIGNALS.values() if d.rate)


@dataclass(frozen=True, slots=True, eq=False)
class Traits:
    """What n series are, one array (n,) each.

    floors      smallest change that matters to anybody, in units of the series; 0 = unknown
    kind        UNKNOWN, GAUGE, STATE or RATE
    low, high   physical limits: a share lies in 0..1, a count of bytes is not negative; infinite = none
    peers       id of the group of like series; -1 = no peers
    """

    floors: FloatArray
    kind: IntArray
    low: FloatArray
    high: FloatArray
    peers: IntArray

    @staticmethod
    def neutral(n: int, floors: FloatArray | None = None) -> Traits:
        """Make the traits of n series of which nobody knows what they are, but perhaps their floors."""
        return Traits(
            np.zeros(n) if floors is None else np.nan_to_num(np.maximum(floors, 0.0)),
            np.full(n, UNKNOWN, dtype=np.int64),
            np.full(n, -np.inf),
            np.full(n, np.inf),
            np.full(n, -1, dtype=np.int64),
        )

    def __len__(self) -> int:
        """Return how many series there are."""
        return len(self.floors)


def traits_of(series: Sequence[Series], topology: Topology | None = None) -> Traits:
    """Look up what series are; a signal that the catalogue does not know stays unknown."""
    out = Traits.neutral(len(series))
    for i, one in enumerate(series):
        known = SIGNALS.get(one.metric)
        if known is None:
            continue
        out.floors[i] = known.floor
        out.low[i], out.high[i] = known.least, known.most
        state = known.kind == "state"
        out.kind[i] = STATE if state else RATE if one.metric in _RATES else GAUGE
    return replace(out, peers=peers_of(series, topology))
