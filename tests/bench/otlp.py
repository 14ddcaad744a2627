"""What it costs to take OTLP metrics in: points a second on a core, beside a plain decode of the same bytes.

    python tests/bench/otlp.py [--points 10000] [--rounds 20]

Requests of each shape, in protobuf and JSON: of a few metrics with many streams each (as a collector batches them), of
many metrics with few (as an SDK does), and of distributions. "homeostat" is everything in the ingest process: inflate,
decode, rates and columns, the parcel for the daemon; "its daemon" is the other end of the pipe. "protobuf classes"
parses the same bytes with the official generated classes (upb) and walks them once, to attributes, time and value of
each point; "json.loads" only parses. Prints a table and writes build/bench/otlp.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Beside this file `agent.py`, a benchmark, would hide the package.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from live_report import machine  # noqa: E402
from otlp_side import as_json, exponential, histogram, metric, number, protobuf, summary  # noqa: E402

from agent.board import Board  # noqa: E402
from agent.inlets import LARGE, inflate  # noqa: E402
from agent.parcels import pack, unpack  # noqa: E402
from agent.ports import Pushed  # noqa: E402
from connectors.otlp import Otlp  # noqa: E402

OUT = ROOT / "build" / "bench" / "otlp.json"
RESOURCE = {
    "service.name": "shop",
    "service.instance.id": "a",
    "host.name": "web-1",
    "service.version": "7",
}


def numbers(points: int, streams: int, ts: float, began: float) -> list[dict[str, Any]]:
    """Counters and gauges in turn, `streams` of each metric."""
    return [
        metric(f"m{i}", "sum" if i % 2 else "gauge", [
            number(ts - began + i * j, ts=ts, start=began,
                   attrs={"http.route": f"/r{j}", "http.request.method": "GET", "http.response.status_code": 200})
            for j in range(streams)
        ])
        for i in range(points // streams)
    ]  # fmt: skip


def distributions(kind: str, points: int, ts: float, began: float) -> list[dict[str, Any]]:
    """Histograms of 15 buckets, exponential ones of 40, summaries of 3 quantiles."""
    n, bounds = int(ts - began), [0.005 * 2**i for i in range(14)]
    whole: list[dict[str, Any]] = []
    for j in range(points):
        told = {"total": float(n), "ts": ts, "start": began,
                "attrs": {"http.route": f"/r{j}", "http.response.status_code": 200}}  # fmt: skip
        if kind == "histogram":
            whole.append(histogram([n * k for k in range(15)], bounds, **told))
        elif kind == "exponential":
            whole.append(exponential(3, -20, [n * k for k in range(40)], **told))
        else:
            whole.append(summary([(0.5, 0.1), (0.95, 0.2), (0.99, n / 1e6)], n, **told))
    return [metric("http.server.request.duration", kind, whole, unit="s")]


def rate(
    points: int, rounds: int, make: Callable[[float], Any], work: Callable[[Any, float], None]
) -> float:
    """Return points a second of CPU; the first round, in which all is new, does not count."""
    began = time.time()
    spent = 0.0
    for i in range(rounds + 1):
        ts = began + 30.0 * i
        data = make(ts)
        start = time.process_time()
        work(data, ts)
        if i:
            spent += time.process_time() - start
    return points * rounds / spent


def ours(kind: str, *, packed: bool, daemon: bool) -> Callable[[bytes, float], None]:
    otlp, board = Otlp("otlp", Otlp.Config(every=10, most_series=50_000)), Board()

    def work(body: bytes, ts: float) -> None:
        raw = inflate(body, LARGE.inflated) if packed else body
        taken = otlp._metrics(
            Pushed(raw, {"content-type": kind}, {}, ts, lambda _: (), lambda _: None, "bench")
        )
        for batch in taken.arrivals:
            data = pack({"kind": "rows"}, batch)
            if daemon:
                _, back = unpack(data)
                board.take(back)  # type: ignore[arg-type]

    return work


def official() -> Callable[[bytes, float], None] | None:
    try:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
            ExportMetricsServiceRequest,
        )
    except ImportError:
        return None

    def work(body: bytes, _: float) -> None:
        whole = ExportMetricsServiceRequest()
        whole.ParseFromString(body)
        found = []
        for resource in whole.resource_metrics:
            about = tuple((a.key, a.value.string_value) for a in resource.resource.attributes)
            for scope in resource.scope_metrics:
                for one in scope.metrics:
                    shape = one.WhichOneof("data")
                    for point in getattr(one, shape).data_points:
                        labels = tuple(
                            (a.key, a.value.string_value or a.value.int_value)
                            for a in point.attributes
                        )
                        found.append(
                            (about, one.name, labels, point.time_unix_nano, _value(shape, point))
                        )

    return work


def _value(shape: str, point: Any) -> Any:
    if shape in {"gauge", "sum"}:
        return point.as_double
    if shape == "histogram":
        told = (list(point.bucket_counts), list(point.explicit_bounds))
    elif shape == "exponential_histogram":
        told = (point.positive.offset, list(point.positive.bucket_counts))
    else:
        told = ([(q.quantile, q.value) for q in point.quantile_values],)
    return (point.count, point.sum, *told)


def measure(points: int, rounds: int) -> list[dict[str, Any]]:
    rows, began, few = [], time.time(), points // 10
    shapes: dict[str, tuple[int, Callable[[float], list[dict[str, Any]]]]] = {
        "200 streams a metric": (points, lambda ts: numbers(points, 200, ts, began)),
        "4 streams a metric": (points, lambda ts: numbers(points, 4, ts, began)),
        "histograms": (few, lambda ts: distributions("histogram", few, ts, began)),
        "exponential": (few, lambda ts: distributions("exponential", few, ts, began)),
        "summaries": (few, lambda ts: distributions("summary", few, ts, began)),
    }
    encodings: dict[str, tuple[str, Any, str, Any]] = {
        "protobuf": ("application/x-protobuf", protobuf, "protobuf classes", official()),
        "JSON": ("application/json", as_json, "json.loads", lambda body, _: json.loads(body)),
    }
    for encoding, (kind, encode, rival, plain) in encodings.items():
        for shape, (n, make) in shapes.items():

            def bare(ts: float, encode: Any = encode, make: Any = make) -> bytes:
                return encode(RESOURCE, make(ts))  # type: ignore[no-any-return]

            def packed(ts: float, bare: Any = bare) -> bytes:
                return gzip.compress(bare(ts), 6)

            subjects: dict[str, tuple[Callable[[float], bytes], Any]] = {
                "homeostat": (bare, ours(kind, packed=False, daemon=False)),
                "homeostat, gzip": (packed, ours(kind, packed=True, daemon=False)),
                "homeostat, gzip, its daemon": (packed, ours(kind, packed=True, daemon=True)),
                rival: (bare, plain),
            }
            for subject, (body, work) in subjects.items():
                if work is not None:
                    value = round(rate(n, rounds, body, work))
                    rows.append({"set": f"{encoding}, {shape}", "subject": subject,
                                 "figure": "points_per_second", "value": value})  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10_000, help="points in one request")
    parser.add_argument("--rounds", type=int, default=20, help="requests that count")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    rows = measure(asked.points, asked.rounds)
    for row in rows:
        sys.stdout.write(
            f"{row['set']:32}{row['subject']:34}{row['value']:>12,} points a second of CPU\n"
        )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"\n{report['machine']}\nwritten to {asked.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
