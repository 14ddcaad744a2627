"""Metrics of OTLP in JSON: read into the shapes of the protocol by msgspec, attributes left as the bytes they are.

As in protobuf, the bytes of a point's attributes name its stream: they are read when they are seen for the first time.
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

from agent.model import FloatArray
from connectors._otlp_cells import Cells
from connectors._otlp_fields import MOST_PACKED
from connectors._otlp_points import DELTA, Attributes, Header, Metric, Reading, Shape, Told
from connectors._otlp_wire import json_map

_NONE: Final = msgspec.Raw(b"{}")
_DELTAS: Final = frozenset({DELTA, str(DELTA), "AGGREGATION_TEMPORALITY_DELTA"})


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """A message; what it has besides is passed over."""


class _Quantile(_Wire):
    quantile: float = 0.0
    value: float = 0.0


class _Side(_Wire):
    offset: int = 0
    bucket_counts: list[int] = []


class _Point(_Wire):
    """A point of any shape: they have the same words for the same."""

    attributes: msgspec.Raw = msgspec.Raw(b"[]")
    start_time_unix_nano: int | None = 0
    time_unix_nano: int | None = 0
    flags: int = 0
    as_double: float | None = None
    as_int: int | None = None
    count: int = 0
    sum: float = math.nan
    bucket_counts: list[int] = []
    explicit_bounds: list[float] = []
    scale: int = 0
    zero_count: int = 0
    positive: _Side | None = None
    negative: _Side | None = None
    quantile_values: list[_Quantile] = []


class _Data(_Wire):
    data_points: list[_Point] = []
    aggregation_temporality: int | str = 0
    is_monotonic: bool = False


class _Metric(_Wire):
    name: str
    unit: str = ""
    gauge: _Data | None = None
    sum: _Data | None = None
    histogram: _Data | None = None
    exponential_histogram: _Data | None = None
    summary: _Data | None = None


class _Named(_Wire):
    name: str = ""


class _Scope(_Wire):
    scope: _Named | None = None
    metrics: list[_Metric] = []


class _Resource(_Wire):
    resource: msgspec.Raw = _NONE
    scope_metrics: list[_Scope] = []


class _Request(_Wire):
    resource_metrics: list[_Resource] = []


# not strict: numbers of 64 bits, NaN and the infinities come as texts
_DECODER: Final = msgspec.json.Decoder(_Request, strict=False)
_SHAPES: Final[dict[str, Shape]] = {
    "gauge": "gauge",
    "sum": "sum",
    "histogram": "histogram",
    "exponential_histogram": "exponential",
    "summary": "summary",
}


def read(body: bytes, reading: Reading) -> None:
    """Note everything that a request says; raises ValueError."""
    try:
        request = _DECODER.decode(body)
    except msgspec.DecodeError as damage:
        raise ValueError(str(damage)) from None
    found: dict[Shape, tuple[list[int], list[_Point]]] = {}
    for group in request.resource_metrics:
        resource = bytes(group.resource)
        for scope in group.scope_metrics:
            named = scope.scope.name if scope.scope else ""
            for one in scope.metrics:
                for word, shape in _SHAPES.items():
                    data: _Data | None = getattr(one, word)
                    if data is not None:
                        metric = _metric(one, shape, data, (resource, named), reading)
                        places, points = found.setdefault(shape, ([], []))
                        places.extend(_places(data.data_points, metric, reading))
                        points.extend(data.data_points)
    for shape, (places, points) in found.items():
        _READERS[shape](places, points, reading)


def _metric(
    one: _Metric, shape: Shape, data: _Data, whose: tuple[bytes, str], reading: Reading
) -> Metric:
    delta = data.aggregation_temporality in _DELTAS
    rising = shape == "sum" and data.is_monotonic
    key = (reading.sender, *whose, one.name, one.unit, shape, delta, rising)
    metric = reading.known(key)
    if metric is None:
        about = msgspec.json.decode(whose[0]).get("attributes", ())
        header = Header(one.name, one.unit, shape, delta, rising)
        metric = reading.know(key, Metric(json_map(about), header, whose[1]))
    return metric


def _places(points: list[_Point], metric: Metric, reading: Reading) -> range:
    """Note the streams of points; return their places."""
    numbers = reading.numbers
    first = len(numbers)
    # in one go: the streams of nearly all requests are known
    keys = [
        bytes(point.attributes) + b"\x01" if point.flags & 1 else bytes(point.attributes)
        for point in points
    ]
    found = list(map(metric.streams.get, keys))
    if None in found:
        for i, number in enumerate(found):
            if number is None:
                one = points[i]
                found[i] = reading.fresh(
                    first + i, metric, keys[i], _attributes(one), one.flags & 1
                )
    numbers.extend(found)  # type: ignore[arg-type]  # there is none left without
    return range(first, len(numbers))


def _numbers(places: list[int], points: list[_Point], reading: Reading) -> None:
    values = [one.as_int if one.as_double is None else one.as_double for one in points]
    reading.loose.append(
        (
            places,
            np.array([one.start_time_unix_nano or 0 for one in points], dtype=np.float64),
            np.array([one.time_unix_nano or 0 for one in points], dtype=np.float64),
            np.array(values, dtype=np.float64),  # None = NaN
        )
    )


def _heads(points: list[_Point]) -> FloatArray:
    heads = [
        (one.start_time_unix_nano or 0, one.time_unix_nano or 0, one.count, one.sum)
        for one in points
    ]
    return np.array(heads, dtype=np.float64).reshape(-1, 4)


def _histograms(places: list[int], points: list[_Point], reading: Reading) -> None:
    for place, head, one in zip(places, _heads(points).tolist(), points, strict=True):
        bounds, counts = one.explicit_bounds, one.bucket_counts
        reading.histogram(
            place, head, struct.pack(f"<{len(bounds)}d", *bounds), struct.pack(f"<{len(counts)}Q", *counts)
        )  # fmt: skip


def _exponentials(places: list[int], points: list[_Point], reading: Reading) -> None:
    sides = [
        (i, way, side)
        for way, some in ((1, [p.positive for p in points]), (-1, [p.negative for p in points]))
        for i, side in enumerate(some)
        if side is not None
    ]
    size = np.array([len(side.bucket_counts) for _, _, side in sides], dtype=np.int64)
    if size.sum() > MOST_PACKED:
        raise ValueError(f"more than {MOST_PACKED} buckets at once; send them in parts")
    counts = itertools.chain.from_iterable(side.bucket_counts for _, _, side in sides)
    cells = Cells.of(
        np.array([one.scale for one in points], dtype=np.int64),
        np.array([one.zero_count for one in points], dtype=np.float64),
        np.array([(i, way, side.offset) for i, way, side in sides], dtype=np.int64).reshape(-1, 3),
        size,
        np.fromiter(counts, dtype=np.float64, count=int(size.sum())),
    )
    reading.told.append(Told(places, _heads(points), cells=cells))


def _summaries(places: list[int], points: list[_Point], reading: Reading) -> None:
    told = [(i, q.quantile, q.value) for i, one in enumerate(points) for q in one.quantile_values]
    quantiles = np.array(told, dtype=np.float64).reshape(-1, 3)
    reading.told.append(Told(places, _heads(points), quantiles=quantiles))


def _attributes(point: _Point) -> Attributes:
    found: Any = msgspec.json.decode(point.attributes)
    return json_map(found)


_READERS: Final[dict[Shape, Callable[[list[int], list[_Point], Reading], None]]] = {
    "gauge": _numbers,
    "sum": _numbers,
    "histogram": _histograms,
    "exponential": _exponentials,
    "summary": _summaries,
}
