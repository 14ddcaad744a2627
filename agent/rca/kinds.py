"""What a metric measures, read from the metric part of its name or from the catalogue; never from the service part.

A kind says how a change of the metric speaks for its own entity being the cause: resources are used by the entity
itself, latency and errors also climb to whoever calls it, traffic also sinks to whoever it calls, and numbers of the
host are shared by all that run there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import FloatArray, IntArray


class Kind(IntEnum):
    """What is measured; the value is the row in the tables below."""

    CPU = 0
    MEMORY = 1
    DISK = 2
    NETWORK = 3
    SOCKETS = 4
    ERRORS = 5
    SUCCESS = 6
    CALL_LATENCY = 7  # of the calls to the entity, as a caller sees them: with the network between
    LATENCY = 8
    CLIENT_LATENCY = 9  # of the calls that the entity makes
    TRAFFIC = 10
    HOST = 11
    OTHER = 12


@dataclass(frozen=True, slots=True)
class Columns:
    """What n columns of a table measure, each (n,).

    entity   number of whom it is about
    kind     a `Kind`
    group    a number that columns share which measure the same on different entities
    """

    entity: IntArray
    kind: IntArray
    group: IntArray


# weight: how well a change points at its own entity, in steps of a tenth; rise, fall: the share of it that a move in
# that direction keeps. A fall of CPU, memory or latency is mostly somebody else's silence.
_TABLE: Final[dict[Kind, tuple[float, float, float]]] = {
    Kind.CPU: (1.0, 1.0, 0.35),
    Kind.MEMORY: (0.8, 1.0, 0.35),
    Kind.DISK: (0.8, 1.0, 0.35),
    Kind.NETWORK: (0.6, 1.0, 0.35),
    Kind.SOCKETS: (0.8, 1.0, 0.35),
    Kind.ERRORS: (1.0, 1.0, 1.0),
    Kind.SUCCESS: (1.0, 0.35, 1.0),
    Kind.CALL_LATENCY: (1.0, 1.0, 0.35),
    Kind.LATENCY: (0.9, 1.0, 0.35),
    Kind.CLIENT_LATENCY: (0.6, 1.0, 0.35),
    Kind.TRAFFIC: (0.4, 1.0, 0.35),
    Kind.HOST: (0.4, 1.0, 0.35),
    Kind.OTHER: (0.6, 1.0, 0.35),
}
_ROWS: Final = np.array([_TABLE[k] for k in Kind])
WEIGHT: Final[FloatArray] = _ROWS[:, 0]
RISE: Final[FloatArray] = _ROWS[:, 1]
FALL: Final[FloatArray] = _ROWS[:, 2]

LEVEL: Final[FloatArray] = np.where(np.arange(len(Kind)) == Kind.SUCCESS, 0.005, 0.02)
"""Share of its level by which a metric must move for one deviation: half a percent of failures is many."""

CLIMBS: Final = frozenset(
    {
        Kind.ERRORS, Kind.SUCCESS, Kind.CALL_LATENCY, Kind.LATENCY, Kind.CLIENT_LATENCY,
    }
)  # fmt: skip
"""Kinds that whoever calls the entity feels too."""
OWN: Final = frozenset({Kind.CPU, Kind.MEMORY, Kind.DISK, Kind.NETWORK, Kind.SOCKETS})
"""Resources that an entity uses itself: a rise explains its latency, and not the other way round."""
FAILS: Final = frozenset({Kind.ERRORS, Kind.SUCCESS})

# Words, most telling first: `node-cpu` is the host's, `client-latency` is latency.
_WORDS: Final[tuple[tuple[Kind, str], ...]] = (
    (Kind.HOST, r"nodes?|host"),
    (Kind.CLIENT_LATENCY, r"(?=.*latency)(client|outbound|egress)"),
    (Kind.LATENCY, r"latenc\w*|duration|delay|rtt?|response|elapsed|p\d\d"),
    (Kind.SUCCESS, r"avail\w*|success\w*|ok|up|healthy"),
    (Kind.ERRORS, r"err\w*|fail\w*|exceptions?|[45]xx|timeouts?|drop\w*|lost|loss|retr\w+|retransm\w*"),
    (Kind.CPU, r"cpu\w*|cores?|throttl\w*"),
    (Kind.MEMORY, r"mem\w*|rss|heap|swap|oom\w*|working"),
    (Kind.SOCKETS, r"sockets?|conn\w*|fds?|handles?|threads?"),
    (Kind.DISK, r"disk\w*|io|iops|fs|blk\w*|syscalls?|reads?|writes?|inodes?"),
    (Kind.NETWORK, r"net\w*|rx|tx|bytes|packets?|receive\w*|transmit\w*"),
    (Kind.TRAFFIC, r"load|workload|requests?|traffic|rps|qps|tps|throughput|calls?|hits|predictions?"),
)  # fmt: skip
_PATTERNS: Final = tuple(
    (kind, re.compile(rf"(?:^|[^a-z0-9])(?:{words})(?![a-z0-9])")) for kind, words in _WORDS
)
# What follows names the other end of a call: a service, and so none of our business.
_PEER: Final = re.compile(
    r"(?:^|(?<=[^a-z0-9]))(src|dst|source|destination|caller|callee|peer)[.=:].*$"
)
_BY_CALLER: Final = re.compile(r"(?:^|[^a-z0-9])(src|source|caller)$")
_UNITS: Final = {"celsius": Kind.OTHER, "watts": Kind.OTHER}


@lru_cache(maxsize=8192)
def kind_of(metric: str) -> Kind:
    """Kind of a metric by its name without the service, as exporters spell it; OTHER when no word is known.

    >>> kind_of("container-cpu-usage").name, kind_of("in-latency-50-src.memcached").name
    ('CPU', 'CALL_LATENCY')
    """
    name = metric.lower()
    own = _PEER.sub(r"\1", name)
    kind = next((k for k, pattern in _PATTERNS if pattern.search(own)), Kind.OTHER)
    return Kind.CALL_LATENCY if kind is Kind.LATENCY and _BY_CALLER.search(own) else kind


@lru_cache(maxsize=8192)
def group_of(metric: str) -> str:
    """Name of what is measured alike on many entities: the metric without the other end of a call."""
    return _PEER.sub(r"\1", metric.lower())


@lru_cache(maxsize=1024)
def kind_of_signal(name: str) -> Kind:
    """Kind of a signal of the catalogue, by its quantity and unit."""
    quantity = name.partition(".")[2]
    if SIGNALS[name].unit in _UNITS:
        return _UNITS[SIGNALS[name].unit]
    return kind_of(quantity.replace("_", "-"))
