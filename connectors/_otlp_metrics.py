"""Metrics of OTLP in protobuf: found in the bytes, without an object a point.

    body --> resource, metric (read once, known again by its bytes) --> where its points stand, what names their streams

A point of a gauge or a sum is three or four numbers of eight bytes, and then its attributes. The bytes of these name
its stream: they are read when they are seen for the first time and looked up from then on. So are histograms; what is
written otherwise (exemplars, other orders of fields), and the rest, is read field by field.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.model import FloatArray
from connectors._otlp_cells import Cells
from connectors._otlp_fields import Fields, packed
from connectors._otlp_points import (
    DELTA,
    Attributes,
    Header,
    Metric,
    Points,
    Reading,
    Register,
    Shape,
    Told,
)
from connectors._otlp_wire import DAMAGE, fields, not_otlp, pair, read_varint

_HEAD: Final = struct.Struct("<xQxQxQxd")
"""Start, time, count and sum of a histogram, each behind its tag."""
_VALUES: Final = frozenset({0x21, 0x31})
"""Tags of as_double and as_int; before them stand 0x11 and 0x19, the times."""
_BYTES: Final = 2
"""The wire type of what has a length."""
_POINT: Final = 0x0A
_GONE: Final = b"\x01"
"""Behind the attributes, where a point says that there is no value."""
_SHAPES: Final[dict[int, Shape]] = {
    5: "gauge",
    7: "sum",
    9: "histogram",
    10: "exponential",
    11: "summary",
}
Span = tuple[int, int]
"""Where something stands in the body: begin and end."""


def points_of(body: bytes, content_type: str, register: Register, sender: str) -> Points:
    """Return the points of a request; raises Refused, and has then kept nothing."""
    reading = Reading(register, sender)
    try:
        if "json" in content_type.lower():
            # loaded when somebody sends JSON, which few do
            from connectors._otlp_json import read

            read(body, reading)
        else:
            _read(body, reading)
        return reading.points(body)
    except DAMAGE as damage:
        raise not_otlp("metrics", "ExportMetricsServiceRequest", damage) from None


@dataclass(slots=True)
class _Scope:
    """Whose metrics are read: resource and scope as bytes, the first read when it is needed."""

    sender: str
    resource: bytes
    scope: bytes
    _about: list[Attributes]

    def metric(self, header: Header) -> Metric:
        if not self._about:
            self._about.append(_attributes(self.resource))
        return Metric(self._about[0], header, _name(self.scope))


@dataclass(slots=True)
class _Others:
    """Points of one shape that are read field by field."""

    points: list[Span] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)


def _read(body: bytes, reading: Reading) -> None:
    others: dict[Shape, _Others] = {}
    for group in _inside(body, (0, len(body))).get(1, ()):
        found = _inside(body, group)
        resource, about = _last(body, found.get(1)), list[Attributes]()
        for inner in found.get(2, ()):
            named = _inside(body, inner)
            scope = _Scope(reading.sender, resource, _last(body, named.get(1)), about)
            for span in named.get(2, ()):
                _metric(body, span, scope, reading, others)
    raw = np.frombuffer(body, dtype=np.uint8)
    for shape, its in others.items():
        begin, end = np.array(its.points, dtype=np.int64).T
        said = Fields(raw, begin, end)
        _READERS[shape](_places(body, shape, its, said, reading), said, reading)


def _inside(body: bytes, span: Span) -> dict[int, list[Span]]:
    """Return where the fields stand that have a length, by number."""
    out: dict[int, list[Span]] = {}
    for tag, begin, end in _parts(body, *span):
        if tag & 7 == _BYTES:
            out.setdefault(tag >> 3, []).append((begin, end))
    return out


def _last(body: bytes, spans: list[Span] | None) -> bytes:
    return body[slice(*spans[-1])] if spans else b""


def _parts(body: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Read the fields of the message from `at` to `stop`: tag, begin and end; of a varint its value and end."""
    while at < stop:
        tag = body[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(body, at - 1)
        kind = tag & 7
        if kind == _BYTES:
            size = body[at]
            at += 1
            if size >= 0x80:
                size, at = read_varint(body, at - 1)
            begin, at = at, at + size
            yield tag, begin, at
        elif kind == 0:
            value, at = read_varint(body, at)
            yield tag, value, at
        elif kind == 1:
            at += 8
            yield tag, at - 8, at
        elif kind == 5:
            at += 4
        else:
            raise ValueError("the message is malformed")
    if at > stop:
        raise ValueError("the message is cut off")


def _metric(
    body: bytes, span: Span, scope: _Scope, reading: Reading, others: dict[Shape, _Others]
) -> None:
    found = _inside(body, span)
    name, unit = _last(body, found.get(1)), _last(body, found.get(3))
    for number in found.keys() & _SHAPES.keys():
        shape, points, plain = _SHAPES[number], list[Span](), dict[int, int]()
        for inner in found[number]:
            for tag, begin, end in _parts(body, *inner):
                if tag == _POINT:
                    points.append((begin, end))
                elif tag & 7 == 0:
                    plain[tag >> 3] = begin
        delta, rising = plain.get(2) == DELTA, bool(plain.get(3))
        key = (scope.sender, scope.resource, scope.scope, name, unit, shape, delta, rising)
        metric = reading.known(key)
        if metric is None:
            header = Header(name.decode(), unit.decode(), shape, delta, rising)
            metric = reading.know(key, scope.metric(header))
        if shape in {"gauge", "sum"}:
            points = _numbers(body, points, metric, reading)
        elif shape == "histogram":
            points = _histograms(body, points, metric, reading)
        if points:
            rest = others.setdefault(shape, _Others())
            rest.points += points
            rest.metrics += [metric] * len(points)


def _numbers(body: bytes, points: list[Span], metric: Metric, reading: Reading) -> list[Span]:
    """Read the points of a gauge or a sum; return those that are written otherwise."""
    known, others = metric.streams.get, []
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
                attributes, flagged = _tail(key, *_TAGS["gauge"])
                number = reading.fresh(len(numbers), metric, key, attributes, flagged)
            numbers.append(number)
            places.append(begin)
        else:
            others.append((begin, end))
    return others


def _tail(data: bytes, of_attributes: int, of_flags: int) -> tuple[Attributes, int]:
    attributes, flagged = {}, 0
    for number, value in fields(memoryview(data)):
        if number == of_attributes >> 3:
            name, said = pair(value)
            attributes[name] = said
        elif number == of_flags >> 3:
            flagged = value & 1
    return attributes, flagged


def _histograms(body: bytes, points: list[Span], metric: Metric, reading: Reading) -> list[Span]:
    """Read the points of a histogram: times, count, sum, counts and bounds stand in this order, then attributes.

    Returns those that are written otherwise.
    """
    known, others = metric.streams.get, []
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
            others.append((begin, end))
            continue
        key = body[at:tail]
        number = known(key)
        if number is None:
            attributes, flagged = _tail(key, *_TAGS["histogram"])
            number = reading.fresh(len(numbers), metric, key, attributes, flagged)
        numbers.append(number)
        reading.histogram(len(numbers) - 1, _HEAD.unpack_from(body, begin), bounds, counts)
    return others


# ---- the rest, field by field, all points of a shape at once


def _places(body: bytes, shape: Shape, its: _Others, found: Fields, reading: Reading) -> range:
    """Note the streams of points, by the bytes of their attributes; return their places."""
    numbers, first = reading.numbers, len(reading.numbers)
    of_attributes, of_flags = _TAGS[shape]
    said = [b""] * found.n
    spans = (part.tolist() for part in found.wholes(of_attributes))
    for whose, begin, end in zip(*spans, strict=True):
        said[whose] += body[begin:end]
    flags = (found.number(of_flags) & 1).tolist()
    for key, metric, flagged in zip(said, its.metrics, flags, strict=True):
        stream = key + _GONE if flagged else key
        number = metric.streams.get(stream)
        if number is None:
            attributes, _ = _tail(key, of_attributes, of_flags)
            number = reading.fresh(len(numbers), metric, stream, attributes, flagged)
        numbers.append(number)
    return range(first, len(numbers))


def _loose(places: range, found: Fields, reading: Reading) -> None:
    whole = found.eight(0x31, np.int64, math.nan)
    value = np.where(np.isnan(whole), found.eight(0x21, np.float64, math.nan), whole)
    reading.loose.append((places, found.eight(0x11), found.eight(0x19), value))


def _heads(found: Fields) -> FloatArray:
    total = found.eight(0x29, np.float64, math.nan)
    return np.column_stack([found.eight(0x11), found.eight(0x19), found.eight(0x21), total])


def _spread(places: range, found: Fields, reading: Reading) -> None:
    said: list[dict[int, bytes]] = [{} for _ in places]
    for tag in (0x32, 0x3A):
        for whose, begin, end in zip(*(part.tolist() for part in found.spans(tag)), strict=True):
            said[whose][tag] = found.raw[begin:end].tobytes()
    for place, head, its in zip(places, _heads(found).tolist(), said, strict=True):
        reading.histogram(place, head, its.get(0x3A, b""), its.get(0x32, b""))


def _powers(places: range, found: Fields, reading: Reading) -> None:
    above, below = found.spans(0x42), found.spans(0x4A)
    whose, begin, end = (np.append(*both) for both in zip(above, below, strict=True))
    sides = Fields(found.raw, begin, end)
    of, *span = sides.spans(0x12, 0x10)
    counts, many = packed(found.raw, *span)
    way = np.repeat([1, -1], [len(above[0]), len(below[0])])
    size = np.bincount(of, many, len(whose)).astype(np.int64)
    told = np.column_stack([whose, way, sides.signed(0x08)])
    cells = Cells.of(found.signed(0x30), found.eight(0x39), told, size, counts)
    reading.told.append(Told(places, _heads(found), cells=cells))


def _summed(places: range, found: Fields, reading: Reading) -> None:
    whose, begin, end = found.spans(0x32)
    told = Fields(found.raw, begin, end)
    quantiles = np.column_stack([whose, told.eight(0x09, np.float64), told.eight(0x11, np.float64)])
    reading.told.append(Told(places, _heads(found), quantiles=quantiles))


def _attributes(data: bytes) -> Attributes:
    return dict(pair(value) for n, value in fields(memoryview(data)) if n == 1)


def _name(scope: bytes) -> str:
    return next((str(v, "utf-8") for n, v in fields(memoryview(scope)) if n == 1), "")


_TAGS: Final[dict[Shape, tuple[int, int]]] = {
    "gauge": (0x3A, 0x40),
    "sum": (0x3A, 0x40),
    "histogram": (0x4A, 0x50),
    "exponential": (0x0A, 0x50),
    "summary": (0x3A, 0x40),
}
"""Of attributes and flags."""
_READERS: Final[dict[Shape, Callable[[range, Fields, Reading], None]]] = {
    "gauge": _loose,
    "sum": _loose,
    "histogram": _spread,
    "exponential": _powers,
    "summary": _summed,
}
