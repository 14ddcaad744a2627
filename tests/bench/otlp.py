"""What it costs to take OTLP metrics in: points a second on a core, beside a plain decode with protobuf's own classes.

    python tests/bench/otlp.py [--points 10000] [--rounds 20]

One request of a few metrics with many streams each (as a collector batches them) and one of many metrics with few (as
an SDK does), as gzip and plain, and histograms. "homeostat" is everything in the ingest process: inflate, decode, rates
and columns, the parcel for the daemon; "its daemon" is the other end of the pipe. "protobuf classes" parses the same
bytes with the official generated classes (upb) and walks them once, to attributes, time and value of each point.
Prints a table and writes build/bench/otlp.json.
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
from otlp_side import histogram, metric, number, protobuf  # noqa: E402

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


def request(points: int, streams: int, ts: float, began: float) -> bytes:
    """Counters and gauges in turn, `streams` of each metric."""
    return protobuf(RESOURCE, [
        metric(f"m{i}", "sum" if i % 2 else "gauge", [
            number(ts - began + i * j, ts=ts, start=began,
                   attrs={"http.route": f"/r{j}", "http.request.method": "GET", "http.response.status_code": 200})
            for j in range(streams)
        ])
        for i in range(points // streams)
    ])  # fmt: skip


def distributions(points: int, ts: float, began: float) -> bytes:
    """Histograms of fifteen buckets."""
    bounds = [0.005 * 2**i for i in range(14)]
    n = int(ts - began)
    return protobuf(RESOURCE, [metric("http.server.request.duration", "histogram", [
        histogram([n * k for k in range(15)], bounds, total=float(n), ts=ts, start=began,
                  attrs={"http.route": f"/r{j}", "http.response.status_code": 200})
        for j in range(points)
    ], unit="s")])  # fmt: skip


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


def ours(*, packed: bool, daemon: bool) -> Callable[[bytes, float], None]:
    otlp, board = Otlp("otlp", Otlp.Config(every=10, most_series=50_000)), Board()

    def work(body: bytes, ts: float) -> None:
        raw = inflate(body, LARGE.inflated) if packed else body
        headers = {"content-type": "application/x-protobuf"}
        taken = otlp._metrics(Pushed(raw, headers, {}, ts, lambda _: (), lambda _: None, "bench"))
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
                        if shape == "histogram":
                            value: Any = (
                                point.count,
                                point.sum,
                                list(point.bucket_counts),
                                list(point.explicit_bounds),
                            )
                        else:
                            value = point.as_double
                        found.append((about, one.name, labels, point.time_unix_nano, value))

    return work


def measure(points: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    began = time.time()
    shapes: dict[str, tuple[int, Callable[[float], bytes]]] = {
        "200 streams a metric": (points, lambda ts: request(points, 200, ts, began)),
        "4 streams a metric": (points, lambda ts: request(points, 4, ts, began)),
        "histograms": (points // 10, lambda ts: distributions(points // 10, ts, began)),
    }
    plain = official()
    for name, (n, make) in shapes.items():
        subjects: dict[str, tuple[Callable[[float], Any], Callable[[Any, float], None] | None]] = {
            "homeostat": (make, ours(packed=False, daemon=False)),
            "homeostat, gzip": (lambda ts, m=make: gzip.compress(m(ts), 6), ours(packed=True, daemon=False)),
            "homeostat, gzip, its daemon": (lambda ts, m=make: gzip.compress(m(ts), 6), ours(packed=True, daemon=True)),
            "protobuf classes": (make, plain),
        }  # fmt: skip
        for subject, (body, work) in subjects.items():
            if work is not None:
                value = rate(n, rounds, body, work)
                rows.append(
                    {
                        "set": name,
                        "subject": subject,
                        "figure": "points_per_second",
                        "value": round(value),
                    }
                )
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
            f"{row['set']:24}{row['subject']:34}{row['value']:>12,} points a second of CPU\n"
        )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"\n{report['machine']}\nwritten to {asked.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
