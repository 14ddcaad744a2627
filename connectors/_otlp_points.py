"""Points of OTLP metrics as columns: what readers of protobuf and JSON find, and what streams are made of.

    reader --> Reading: number of the stream, where its point stands --> Points: numpy, all points of a request

Nothing is kept of a request until all of it was read.
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from connectors._otlp_buckets import check_bounds
from connectors._otlp_cells import Cells
from connectors._otlp_fields import eight

_MOST_NEW: Final = 20_000
"""In one request: a second of work."""
_LEFT_OUT: Final = -2

DELTA: Final = 1
"""Number of the temporality; of the other one, 2."""

Shape = Literal["gauge", "sum", "histogram", "exponential", "summary"]
Attributes = dict[str, Any]
Head = tuple[float, float, float, float]
"""Of a distribution: start and time in nanoseconds, count, sum (NaN = not said)."""
Loose = tuple[Sequence[int], FloatArray, FloatArray, FloatArray]
"""Points of gauges and sums: place, start and time in nanoseconds, value."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a metric is. unit as its sender writes it; delta: its points count from the one before."""

    name: str
    unit: str
    shape: Shape
    delta: bool
    monotonic: bool


@dataclass(slots=True)
class Metric:
    """One metric of one resource and scope. streams: bytes of attributes -> 2 x number + 1 where flagged."""

    resource: Attributes
    header: Header
    scope: str
    streams: dict[bytes, int] = field(default_factory=dict)


# ---- what comes out


@dataclass(frozen=True, slots=True)
class Heads:
    """What points of all distributions have: (n,) each."""

    stream: IntArray
    start: FloatArray
    ts: FloatArray
    count: FloatArray
    total: FloatArray
    gone: BoolArray

    def at(self, some: Any) -> Heads:
        """Return some of them."""
        return Heads(
            self.stream[some], self.start[some], self.ts[some], self.count[some], self.total[some], self.gone[some]
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """Histograms with the same bounds (b,), as bytes: counts (n, b + 1)."""

    heads: Heads
    bounds: bytes
    counts: FloatArray

    def at(self, some: Any) -> Spread:
        """Return some of them."""
        return Spread(self.heads.at(some), self.bounds, self.counts[some])


@dataclass(frozen=True, slots=True)
class Powers:
    """Exponential histograms."""

    heads: Heads
    cells: Cells

    def at(self, some: Any) -> Powers:
        """Return some of them."""
        return Powers(self.heads.at(some), self.cells.of_rows(np.arange(len(self.heads.ts))[some]))


@dataclass(frozen=True, slots=True)
class Summaries:
    """Summaries, and what they tell: point, quantile, value (k,) each."""

    heads: Heads
    point: IntArray
    quantile: FloatArray
    value: FloatArray

    def at(self, some: BoolArray) -> Summaries:
        """Return those that are asked for."""
        kept = some[self.point]
        point = (np.cumsum(some) - 1)[self.point[kept]]
        return Summaries(self.heads.at(some), point, self.quantile[kept], self.value[kept])


Distributions = Spread | Powers | Summaries


@dataclass(frozen=True, slots=True)
class Points:
    """One request.

    stream   (n,) number of the stream; -1 = it is not taken
    start, ts   (n,) unix seconds; 0 = not said
    value, gone   (n,) and whether its sender says that there is none
    """

    stream: IntArray
    start: FloatArray
    ts: FloatArray
    value: FloatArray
    gone: BoolArray
    distributions: Sequence[Distributions] = ()


class Register(Protocol):
    """Who numbers streams."""

    def metric(self, key: tuple[Any, ...]) -> Metric | None:
        """Return a metric that is known."""
        ...

    def know(self, key: tuple[Any, ...], metric: Metric) -> None:
        """Take a new one."""
        ...

    def stream(self, metric: Metric, attributes: Attributes, *, sender: str) -> int:
        """Return the number of a stream; -1 = its sender has too many."""
        ...


# ---- what is found


@dataclass(slots=True)
class Alike:
    """Histograms of the same bounds: their place, and counts as they stand in the body."""

    places: list[int] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    counts: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Told:
    """Other distributions, m of one shape.

    places, heads   (m,) and (m, 4)
    cells           of exponential histograms
    quantiles       of summaries (k, 3): whose, quantile, value
    """

    places: Sequence[int]
    heads: FloatArray
    cells: Cells | None = None
    quantiles: FloatArray | None = None


@dataclass(slots=True)
class Reading:
    """What was found so far; `place` = position among the points, whose streams are numbered at the end."""

    register: Register
    sender: str
    numbers: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    """Where points of gauges and sums stand in the body that are written as most are."""
    loose: list[Loose] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    _spread: dict[bytes, Alike] = field(default_factory=dict)
    _new: list[tuple[int, Metric, bytes, Attributes, int]] = field(default_factory=list)
    _metrics: dict[tuple[Any, ...], Metric] = field(default_factory=dict)

    def known(self, key: tuple[Any, ...]) -> Metric | None:
        """Return a metric of this request or of earlier ones."""
        return self.register.metric(key) or self._metrics.get(key)

    def know(self, key: tuple[Any, ...], metric: Metric) -> Metric:
        """Note one that is new."""
        return self._metrics.setdefault(key, metric)

    def fresh(
        self, place: int, metric: Metric, key: bytes, attributes: Attributes, flagged: int
    ) -> int:
        """Note a stream that is seen for the first time; return what stands for its number until the end."""
        if len(self._new) >= _MOST_NEW:
            raise ValueError(f"more than {_MOST_NEW} new series at once; send them in parts")
        self._new.append((place, metric, key, attributes, flagged))
        return _LEFT_OUT

    def histogram(self, place: int, head: Head, bounds: bytes, counts: bytes) -> None:
        """Note a histogram, bounds and counts as numbers of 8 bytes; raises ValueError where they do not fit."""
        alike = self._spread.get(bounds)
        if alike is None:
            check_bounds(np.frombuffer(bounds, dtype="<f8"))
            alike = self._spread[bounds] = Alike()
        if len(counts) != len(bounds) + 8 and (bounds or len(counts) > 8):
            raise ValueError("the bounds of a histogram do not fit its counts")
        alike.places.append(place)
        alike.heads.append(head)
        alike.counts.append(counts if len(counts) == len(bounds) + 8 else bytes(8))

    def points(self, body: bytes) -> Points:
        """Return all of them; raises ValueError, and has kept nothing then."""
        straight = self._straight(np.frombuffer(body, dtype=np.uint8))
        counts = [
            np.frombuffer(b"".join(one.counts), dtype="<u8").astype(np.float64).reshape(len(one.places), -1)
            for one in self._spread.values()
        ]  # fmt: skip
        numbers = self._settle()
        mine = np.ones(len(numbers), dtype=np.bool_)
        others: list[Sequence[int]] = [one[0] for one in self.loose]
        spread = [alike.places for alike in self._spread.values()]
        for places in (*others, *spread, *(told.places for told in self.told)):
            mine[places] = False
        twice = np.concatenate([numbers[mine], *(numbers[places] for places in others)])
        start, ts, value = (
            np.concatenate([straight[k], *(one[k + 1] for one in self.loose)]) for k in range(3)
        )
        distributions: list[Distributions] = [
            Spread(_heads(numbers[found.places], np.array(found.heads)), bounds, its)
            for (bounds, found), its in zip(self._spread.items(), counts, strict=True)
        ]
        for told in self.told:
            heads = _heads(numbers[told.places], told.heads)
            if told.cells is not None:
                distributions.append(Powers(heads, told.cells))
            elif told.quantiles is not None:
                whose, quantile, said = told.quantiles.T
                distributions.append(Summaries(heads, whose.astype(np.int64), quantile, said))
        return Points(twice >> 1, start / 1e9, ts / 1e9, value, (twice & 1) == 1, distributions)

    def _straight(self, raw: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return start, time and value of the points that are written as most are: tag and 8 bytes, each in turn."""
        at = np.array(self.at, dtype=np.int64)
        if not at.size:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        started = raw[at] == 0x11
        time_at = at + np.where(started, 10, 1)
        bits = eight(raw, time_at + 9)
        whole = raw[time_at + 8] == 0x31
        value = np.where(whole, bits.view(np.int64).astype(np.float64), bits.view(np.float64))
        start = np.where(started, eight(raw, at + 1).astype(np.float64), 0.0)
        return start, eight(raw, time_at).astype(np.float64), value

    def _settle(self) -> IntArray:
        """Number what is new: nothing fails from here on."""
        for key, metric in self._metrics.items():
            self.register.know(key, metric)
        for place, its, stream, attributes, flagged in self._new:
            number = self.register.stream(its, attributes, sender=self.sender)
            twice = _LEFT_OUT if number < 0 else 2 * number + flagged
            if number >= 0:
                its.streams[stream] = twice
            self.numbers[place] = twice
        return np.array(self.numbers, dtype=np.int64)


def _heads(twice: IntArray, heads: FloatArray) -> Heads:
    start, ts, count, total = heads.T
    return Heads(twice >> 1, start / 1e9, ts / 1e9, count, total, (twice & 1) == 1)
