"""Metrics of OTLP (protobuf and JSON) become columns of points, without an object a point.

    body --> resource, metric (read once, known again by its bytes) --> number of the stream, where its point stands
         --> numpy: times and values of all points of the request at once

A point of a gauge or a sum is three or four numbers of eight bytes, and then its attributes. The bytes of these name
its stream: they are read when they are seen for the first time and looked up from then on. What is written otherwise
(exemplars, other orders of fields) and distributions are read field by field. Nothing is kept until all of it was read.
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from connectors._otlp_buckets import MOST, check_bounds, exponential, none
from connectors._otlp_wire import DAMAGE, fields, json_map, not_otlp, pair, read_varint
from connectors._records import value_of

_EMPTY: Final[tuple[int, Sequence[float]]] = (0, ())
"""A side of an exponential histogram without buckets."""
_MOST_NEW: Final = 20_000
"""In one request: a second of work."""
_LEFT_OUT: Final = -2
_REAL: Final = struct.Struct("<d")
_LONG: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<xQxQxQxd")
"""Start, time, count and sum of a histogram, each behind its tag."""
_SIGNED: Final = struct.Struct("<q")
_VALUES: Final = frozenset({0x21, 0x31})
"""Tags of as_double and as_int; before them stand 0x11 and 0x19, the times."""
_STEP: Final = np.arange(8)

Shape = Literal["gauge", "sum", "histogram", "exponential", "summary"]
_SHAPES: Final[dict[int, Shape]] = {
    5: "gauge",
    7: "sum",
    9: "histogram",
    10: "exponential",
    11: "summary",
}
_WORDS: Final[dict[str, Shape]] = {
    "gauge": "gauge", "sum": "sum", "histogram": "histogram", "exponentialHistogram": "exponential",
    "summary": "summary",
}  # fmt: skip
_DELTA: Final = 1
_CUMULATIVE: Final = 2
_TEMPORALITY: Final = {
    "AGGREGATION_TEMPORALITY_DELTA": _DELTA,
    "AGGREGATION_TEMPORALITY_CUMULATIVE": _CUMULATIVE,
}
_TAG_ATTRIBUTES: Final = {"exponential": 1, "summary": 7}
_TAG_FLAGS: Final = {"exponential": 10, "summary": 8}

Attributes = dict[str, Any]
Span = tuple[int, int]
"""Where something stands in the body: begin and end."""


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
    """One metric of one resource and scope. streams: bytes (or text) of attributes -> 2 x number + 1 where flagged."""

    resource: Attributes
    header: Header
    scope: str
    streams: dict[bytes | str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Distribution:
    """A point of an exponential histogram or a summary."""

    place: int
    start: float
    ts: float
    count: float
    total: float
    flagged: bool
    buckets: FloatArray
    quantiles: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """Points of histograms with the same bounds (b,): (n,) each, and counts (n, b + 1)."""

    bounds: bytes
    stream: IntArray
    start: FloatArray
    ts: FloatArray
    count: FloatArray
    total: FloatArray
    gone: BoolArray
    counts: FloatArray

    def at(self, some: Any) -> Spread:
        """Return some of them."""
        return Spread(
            self.bounds, self.stream[some], self.start[some], self.ts[some], self.count[some], self.total[some],
            self.gone[some], self.counts[some],
        )  # fmt: skip


@dataclass(slots=True)
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
    gone: Any
    distributions: Sequence[tuple[int, Distribution]] = ()
    """Exponential histograms and summaries, with the number of their stream."""
    spread: Sequence[Spread] = ()


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


@dataclass(slots=True)
class _Alike:
    """Histograms of the same bounds: place; start and time in nanoseconds, count, sum; counts as they stand there."""

    places: list[int] = field(default_factory=list)
    heads: list[tuple[float, float, float, float]] = field(default_factory=list)
    counts: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """What was found so far; `place` = position among the points whose stream is looked up at the end."""

    register: Register
    sender: str
    numbers: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    loose: list[tuple[int, float, float, float]] = field(default_factory=list)
    """Of points that are written otherwise: place, start, ts, value."""
    some: list[Distribution] = field(default_factory=list)
    spread: dict[bytes, _Alike] = field(default_factory=dict)
    """Histograms by their bounds."""
    new: list[tuple[int, Metric, bytes | str, Attributes, int]] = field(default_factory=list)
    metrics: dict[tuple[Any, ...], Metric] = field(default_factory=dict)

    def metric(self, key: tuple[Any, ...]) -> Metric | None:
        return self.register.metric(key) or self.metrics.get(key)

    def place(self, metric: Metric, key: bytes | str, attributes: Any, *, flagged: bool) -> int:
        """Note the stream of a point; its attributes are asked for when it is new."""
        number = metric.streams.get(key)
        place = len(self.numbers)
        if number is None:
            number = self.fresh(place, metric, key, attributes(), int(flagged))
        self.numbers.append(number)
        return place

    def fresh(
        self, place: int, metric: Metric, key: bytes | str, attributes: Attributes, flagged: int
    ) -> int:
        """Note a stream that is seen for the first time; return what stands for its number until the end."""
        if len(self.new) >= _MOST_NEW:
            raise ValueError(f"more than {_MOST_NEW} new series at once; send them in parts")
        self.new.append((place, metric, key, attributes, flagged))
        return _LEFT_OUT

    def histogram(
        self, place: int, head: tuple[float, float, float, float], bounds: bytes, counts: bytes
    ) -> None:
        """Note a histogram; raises ValueError where counts and bounds do not fit."""
        alike = self.spread.get(bounds)
        if alike is None:
            check_bounds(np.frombuffer(bounds, dtype="<f8"))
            alike = self.spread[bounds] = _Alike()
        if len(counts) != len(bounds) + 8 and (bounds or len(counts) > 8):
            raise ValueError("the bounds of a histogram do not fit its counts")
        alike.places.append(place)
        alike.heads.append(head)
        alike.counts.append(counts if len(counts) == len(bounds) + 8 else bytes(8))

    def settle(self) -> None:
        """Number what is new: nothing fails from here on."""
        for key, metric in self.metrics.items():
            self.register.know(key, metric)
        for place, its, stream, attributes, flagged in self.new:
            number = self.register.stream(its, attributes, sender=self.sender)
            twice = _LEFT_OUT if number < 0 else 2 * number + flagged
            if number >= 0:
                its.streams[stream] = twice
            self.numbers[place] = twice


def points_of(body: bytes, content_type: str, register: Register, sender: str) -> Points:
    """Return the points of a request; raises Refused, and has then kept nothing."""
    reading = _Reading(register, sender)
    try:
        if "json" in content_type.lower():
            _json(value_of(body), reading)
        else:
            _protobuf(body, reading)
        return _columns(body, reading)
    except DAMAGE as damage:
        raise not_otlp("metrics", "ExportMetricsServiceRequest", damage) from None


def _columns(body: bytes, reading: _Reading) -> Points:
    """Gather the numbers of all points."""
    n = len(reading.at)
    at = np.array(reading.at, dtype=np.int64)
    raw = np.frombuffer(body, dtype=np.uint8)
    started = raw[at] == 0x11 if n else np.zeros(0, dtype=np.bool_)
    time_at = at + np.where(started, 10, 1)
    start = np.where(started, _longs(raw, at + 1, n), 0.0)
    ts = _longs(raw, time_at, n)
    bits = _eight(raw, time_at + 9, n)
    whole = raw[time_at + 8] == 0x31 if n else started
    value = np.where(whole, bits.view(np.int64).astype(np.float64), bits.view(np.float64))
    spread = [(bounds, *_heads(alike)) for bounds, alike in reading.spread.items()]
    reading.settle()
    numbers = np.array(reading.numbers, dtype=np.int64)
    loose = reading.loose
    others = [p for p, *_ in loose]
    straight = np.ones(len(numbers), dtype=np.bool_)
    straight[[*others, *(d.place for d in reading.some)]] = False
    for alike in reading.spread.values():
        straight[alike.places] = False
    twice = np.concatenate([numbers[straight], numbers[others]]) if others else numbers[straight]
    more = np.array([row[1:] for row in loose], dtype=np.float64).reshape(-1, 3)
    return Points(
        twice >> 1,
        np.append(start, more[:, 0]),
        np.append(ts, more[:, 1]),
        np.append(value, more[:, 2]),
        (twice & 1) == 1,
        [(int(numbers[d.place]) >> 1, d) for d in reading.some],
        [
            Spread(bounds, numbers[places] >> 1, *heads, (numbers[places] & 1) == 1, counts)
            for bounds, places, heads, counts in spread
        ],
    )


def _heads(
    alike: _Alike,
) -> tuple[IntArray, tuple[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]:
    """Return places, (start, time, count, sum) and counts of histograms of the same bounds."""
    heads = np.array(alike.heads, dtype=np.float64)
    counts = np.frombuffer(b"".join(alike.counts), dtype="<u8").astype(np.float64)
    times = (heads[:, 0] / 1e9, heads[:, 1] / 1e9, heads[:, 2], heads[:, 3])
    return np.array(alike.places, dtype=np.int64), times, counts.reshape(len(heads), -1)


def _eight(raw: Any, at: IntArray, n: int) -> Any:
    if not n:
        return np.zeros(0, dtype=np.uint64)
    return np.ascontiguousarray(raw[at[:, None] + _STEP]).view("<u8").ravel()


def _longs(raw: Any, at: IntArray, n: int) -> FloatArray:
    return np.asarray(_eight(raw, at, n).astype(np.float64) / 1e9)


# ---- protobuf


@dataclass(slots=True)
class _Scope:
    """Whose metrics are read: resource and scope as bytes, the first read when it is needed."""

    sender: str
    resource: bytes
    scope: bytes
    _about: list[Attributes]

    @property
    def about(self) -> Attributes:
        if not self._about:
            self._about.append(_attributes(self.resource, 1))
        return self._about[0]


def _protobuf(body: bytes, reading: _Reading) -> None:
    whole = memoryview(body)
    for group in _inside(body, (0, len(body))).get(1, ()):
        found = _inside(body, group)
        resource, about = _last(body, found.get(1)), list[Attributes]()
        for inner in found.get(2, ()):
            named = _inside(body, inner)
            scope = _Scope(reading.sender, resource, _last(body, named.get(1)), about)
            for span in named.get(2, ()):
                _metric(body, whole, span, scope, reading)


def _inside(body: bytes, span: Span) -> dict[int, list[Span]]:
    """Return where the fields stand that have a length, by number."""
    out: dict[int, list[Span]] = {}
    for number, inner in _parts(body, *span):
        if not isinstance(inner, int):
            out.setdefault(number, []).append(inner)
    return out


def _last(body: bytes, spans: list[Span] | None) -> bytes:
    return body[slice(*spans[-1])] if spans else b""


def _parts(body: bytes, at: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Read the fields of the message from `at` to `stop`: (begin, end) of what has a length, else its number."""
    while at < stop:
        tag = body[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(body, at - 1)
        kind = tag & 7
        if kind == 2:
            size = body[at]
            at += 1
            if size >= 0x80:
                size, at = read_varint(body, at - 1)
            if at + size > stop:
                raise ValueError("the message is cut off")
            yield tag >> 3, (at, at + size)
            at += size
        elif kind == 0:
            value, at = read_varint(body, at)
            yield tag >> 3, value
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        else:
            raise ValueError("the message is malformed")
    if at > stop:
        raise ValueError("the message is cut off")


def _metric(body: bytes, whole: memoryview, span: Span, scope: _Scope, reading: _Reading) -> None:
    found = _inside(body, span)
    name, unit = _last(body, found.get(1)), _last(body, found.get(3))
    for number in found.keys() & _SHAPES.keys():
        shape, points, plain = _SHAPES[number], list[Span](), dict[int, int]()
        for inner in found[number]:
            for part, what in _parts(body, *inner):
                if isinstance(what, int):
                    plain[part] = what
                elif part == 1:
                    points.append(what)
        delta, rising = plain.get(2) == _DELTA, bool(plain.get(3))
        key = (scope.sender, scope.resource, scope.scope, name, unit, shape, delta, rising)
        metric = reading.metric(key)
        if metric is None:
            header = Header(name.decode(), unit.decode(), shape, delta, rising)
            metric = reading.metrics[key] = Metric(scope.about, header, _scope(scope.scope))
        if shape in {"gauge", "sum"}:
            _numbers(body, whole, points, metric, reading)
        elif shape == "histogram":
            _histograms(body, whole, points, metric, reading)
        else:
            for begin, end in points:
                _distribution(whole[begin:end], metric, reading)


def _numbers(
    body: bytes, whole: memoryview, points: list[Span], metric: Metric, reading: _Reading
) -> None:
    """Read the points of a gauge or a sum."""
    known = metric.streams.get
    numbers, places = reading.numbers, reading.at
    for begin, end in points:
        first = body[begin] if begin < end else 0
        cut = begin + 18 if first == 0x11 else begin + 9
        tail = cut + 9
        if (
            tail <= end
            and body[cut] in _VALUES
            and (first == 0x19 or (first == 0x11 and body[begin + 9] == 0x19))
            and (tail == end or body[tail] in {0x3A, 0x40})
        ):
            key = body[tail:end]
            number = known(key)
            if number is None:
                attributes, flagged = _tail(whole[tail:end], 7, 8)
                number = reading.fresh(len(numbers), metric, key, attributes, flagged)
            numbers.append(number)
            places.append(begin)
        else:
            _loose(whole[begin:end], metric, reading)


def _tail(data: memoryview, of_attributes: int, of_flags: int) -> tuple[Attributes, int]:
    attributes, flagged = {}, 0
    for number, value in fields(data):
        if number == of_attributes:
            name, said = pair(value)
            attributes[name] = said
        elif number == of_flags:
            flagged = value & 1
    return attributes, flagged


def _loose(data: memoryview, metric: Metric, reading: _Reading) -> None:
    start = ts = 0.0
    value, flagged, key = math.nan, False, []
    for number, inner in fields(data):
        if number == 2:
            start = _LONG.unpack(inner)[0] / 1e9
        elif number == 3:
            ts = _LONG.unpack(inner)[0] / 1e9
        elif number == 4:
            value = _REAL.unpack(inner)[0]
        elif number == 6:
            value = float(_SIGNED.unpack(inner)[0])
        elif number == 7:
            key.append(bytes(inner))
        elif number == 8:
            flagged = bool(inner & 1)
    place = _placed(key, metric, reading, flagged=flagged)
    reading.loose.append((place, start, ts, value))


def _placed(key: list[bytes], metric: Metric, reading: _Reading, *, flagged: bool) -> int:
    """Note the stream of a point, by the bytes of its attributes."""
    said = b"\x00".join([*key, b"\x01" if flagged else b""])
    return reading.place(
        metric, said, lambda: dict(pair(memoryview(one)) for one in key), flagged=flagged
    )


def _histograms(
    body: bytes, whole: memoryview, points: list[Span], metric: Metric, reading: _Reading
) -> None:
    """Read the points of a histogram: times, count, sum, counts and bounds stand in this order, then attributes."""
    known = metric.streams.get
    numbers = reading.numbers
    for begin, end in points:
        at = begin + 36
        straight = (
            at < end
            and body[begin] == 0x11
            and body[begin + 9] == 0x19
            and body[begin + 18] == 0x21
            and body[begin + 27] == 0x29
            and body[at] == 0x32
        )
        if straight:
            size, at = read_varint(body, at + 1)
            counts = body[at : at + size]
            at += size
            bounds = b""
            if at < end and body[at] == 0x3A:
                size, at = read_varint(body, at + 1)
                bounds = body[at : at + size]
                at += size
            # least and greatest stand at the end, where they are told
            tail = (
                end - 18
                if end - 18 >= at and body[end - 18] == 0x59 and body[end - 9] == 0x61
                else end
            )
            straight = at <= tail and (at == tail or body[at] in {0x4A, 0x50})
        if not straight:
            _histogram(whole[begin:end], metric, reading)
            continue
        key = body[at:tail]
        number = known(key)
        if number is None:
            attributes, flagged = _tail(whole[at:tail], 9, 10)
            number = reading.fresh(len(numbers), metric, key, attributes, flagged)
        numbers.append(number)
        reading.histogram(len(numbers) - 1, _HEAD.unpack_from(body, begin), bounds, counts)


def _histogram(data: memoryview, metric: Metric, reading: _Reading) -> None:
    """Read a histogram that is written otherwise."""
    key, found = [], dict[int, Any]()
    for number, inner in fields(data):
        if number == 9:
            key.append(bytes(inner))
        else:
            found[number] = inner
    place = _placed(key, metric, reading, flagged=bool(found.get(10, 0) & 1))
    head = (float(_long(found.get(2))), float(_long(found.get(3))), float(_long(found.get(4))))
    counts, bounds = bytes(found.get(6, b"")), bytes(found.get(7, b""))
    reading.histogram(place, (*head, _real(found.get(5), math.nan)), bounds, counts)


def _distribution(data: memoryview, metric: Metric, reading: _Reading) -> None:
    """Read an exponential histogram or a summary."""
    shape = metric.header.shape
    key, quantiles, found = [], [], dict[int, Any]()
    for number, inner in fields(data):
        if number == _TAG_ATTRIBUTES[shape]:
            key.append(bytes(inner))
        elif shape == "summary" and number == 6:
            both = dict(fields(inner))
            quantiles.append((_real(both.get(1)), _real(both.get(2))))
        else:
            found[number] = inner
    buckets = none()
    if shape == "exponential":
        sides = [_side(found[n]) if n in found else _EMPTY for n in (8, 9)]
        buckets = exponential(_zigzag(found.get(6, 0)), float(_long(found.get(7))), *sides)
    flagged = bool(found.get(_TAG_FLAGS[shape], 0) & 1)
    place = _placed(key, metric, reading, flagged=flagged)
    total = _real(found.get(5), math.nan)
    reading.some.append(
        Distribution(place, _long(found.get(2)) / 1e9, _long(found.get(3)) / 1e9, float(_long(found.get(4))), total,
                     flagged, buckets, quantiles)
    )  # fmt: skip


def _long(data: memoryview | None) -> int:
    return int(_LONG.unpack(data)[0]) if data is not None else 0


def _real(data: memoryview | None, missing: float = 0.0) -> float:
    return float(_REAL.unpack(data)[0]) if data is not None else missing


def _side(data: memoryview) -> tuple[int, list[int]]:
    offset, counts = 0, []
    for number, inner in fields(data):
        if number == 1:
            offset = _zigzag(inner)
        elif number == 2 and isinstance(inner, int):
            counts.append(inner)
        elif number == 2:
            body, at = bytes(inner), 0
            while at < len(body):
                value, at = read_varint(body, at)
                counts.append(value)
                if len(counts) > MOST:
                    raise ValueError(f"a histogram of more than {MOST} buckets")
    return offset, counts


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def _attributes(data: bytes, number: int) -> Attributes:
    return dict(pair(value) for n, value in fields(memoryview(data)) if n == number)


def _scope(data: bytes) -> str:
    return next((str(v, "utf-8") for n, v in fields(memoryview(data)) if n == 1), "")


# ---- JSON


def _json(whole: Any, reading: _Reading) -> None:
    for group in whole.get("resourceMetrics", ()):
        resource = json_map(group.get("resource", {}).get("attributes", ()))
        said = json.dumps(resource, sort_keys=True)
        for scope in group.get("scopeMetrics", ()):
            named = str(scope.get("scope", {}).get("name", ""))
            for one in scope.get("metrics", ()):
                for word, shape in _WORDS.items():
                    if word in one:
                        head = Header(
                            str(one["name"]), str(one.get("unit", "")), shape,
                            _temporality(one[word]) == _DELTA, shape == "sum" and one[word].get("isMonotonic") is True,
                        )  # fmt: skip
                        key = (reading.sender, said, named, head)
                        metric = reading.metric(key)
                        if metric is None:
                            metric = reading.metrics[key] = Metric(resource, head, named)
                        for point in one[word].get("dataPoints", ()):
                            _json_point(point, metric, reading)


def _temporality(data: Mapping[str, Any]) -> int:
    said = data.get("aggregationTemporality", 0)
    return _TEMPORALITY.get(said, 0) if isinstance(said, str) else int(said)


def _json_point(point: Mapping[str, Any], metric: Metric, reading: _Reading) -> None:
    attributes = json_map(point.get("attributes", ()))
    flagged = bool(int(point.get("flags", 0)) & 1)
    key = json.dumps([attributes, flagged], sort_keys=True)
    place = reading.place(metric, key, lambda: attributes, flagged=flagged)
    start = int(point.get("startTimeUnixNano") or 0) / 1e9
    ts = int(point.get("timeUnixNano") or 0) / 1e9
    shape = metric.header.shape
    if shape in {"gauge", "sum"}:
        value = float(point.get("asDouble", point.get("asInt", math.nan)))
        reading.loose.append((place, start, ts, value))
        return
    count, total = float(point.get("count", 0)), float(point.get("sum", math.nan))
    if shape == "histogram":
        counts = np.array([int(n) for n in point.get("bucketCounts", ())], dtype="<u8").tobytes()
        bounds = np.array(
            [float(n) for n in point.get("explicitBounds", ())], dtype="<f8"
        ).tobytes()
        reading.histogram(place, (start * 1e9, ts * 1e9, count, total), bounds, counts)
        return
    buckets = none()
    if shape == "exponential":
        sides = [_json_side(point.get(side)) for side in ("positive", "negative")]
        buckets = exponential(int(point.get("scale", 0)), float(point.get("zeroCount", 0)), *sides)
    quantiles = [
        (float(q.get("quantile", 0)), float(q.get("value", 0)))
        for q in point.get("quantileValues", ())
    ]
    reading.some.append(Distribution(place, start, ts, count, total, flagged, buckets, quantiles))


def _json_side(data: Mapping[str, Any] | None) -> tuple[int, Sequence[float]]:
    if not data:
        return _EMPTY
    counts = [float(n) for n in data.get("bucketCounts", ())]
    if len(counts) > MOST:
        raise ValueError(f"a histogram of more than {MOST} buckets")
    return int(data.get("offset", 0)), counts
