"""OpenTelemetry, pushed: metrics, and how many log records of each severity a service writes.

    otlp: {}                                    # and in agent.yaml: ingest_listen: 127.0.0.1:4318

    POST /v1/metrics    gauges, sums, histograms (explicit and exponential), summaries; protobuf or JSON, plain or gzip
    POST /v1/logs       counted by service and severity; where `predictions` takes logs as well, each takes its part

What is known by name becomes signals of the catalogue (hosts, requests served and made), what Prometheus' exporters
count likewise, the rest `other_value` and `other_per_second` with its own attributes. docs/otlp.md says it all, and
`homeostat try otlp` prints what to write into a collector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from agent.calls import Names
from agent.ports import Inlet, Pushed, Taken
from agent.registry import connector
from agent.units import Duration, Model, say_duration
from connectors import _otlp_wire
from connectors._otlp_logs import SEVERITIES, counts_of
from connectors._otlp_metrics import points_of
from connectors._otlp_names import RECORDS
from connectors._otlp_points import Header, Metric, Points
from connectors._otlp_streams import Streams

_RECORDS: Final = Header(RECORDS, "{record}", "sum", delta=True, monotonic=True)
_COLLECTOR: Final = """exporters:
  otlphttp/homeostat:
    endpoint: http://127.0.0.1:4318      # `ingest_listen` of agent.yaml
    headers: {authorization: Bearer TOKEN}
service:
  pipelines:
    metrics: {receivers: [otlp, hostmetrics], exporters: [otlphttp/homeostat]}
    logs: {receivers: [otlp], exporters: [otlphttp/homeostat]}"""
_SDK: Final = """OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN"""


@connector("otlp")
class Otlp:
    """OpenTelemetry's metrics and counts of log records, as SDKs and collectors push them.

    BulkReceiver  /v1/metrics and /v1/logs; needs a token that may speak for all models (`--model '*'`), as metrics may
                  be about anything
    Points are answered 200; those above `most_series` are said in the answer (partial success), in the log once, and
    counted. Garbage is answered 400 and changes nothing. Tried with the Python SDK and rotel.
    Cost: 1 to 10 microseconds a point of a known series, in the ingest process; 40 for one that is new.
    """

    tested = "rotel 0.0.1, OpenTelemetry SDK 1.45"

    class Config(Model):
        """How often, and how much."""

        every: Annotated[Duration, Field(ge=1, le=600)] = 30.0
        """How often a frame is made of the newest values; they hold for three of these, so at least a third of the
        interval at which senders export (60 s, where nobody says otherwise)."""
        most_series: Annotated[int, Field(ge=1, le=100_000)] = 10_000
        """Of one sender (a token); more are left out."""

    def __init__(self, name: str, config: Config, names: Names | None = None) -> None:
        self.name = name
        self.config = config
        self._streams = Streams(name, config.most_series, config.every, names or Names())

    def inlets(self) -> Sequence[Inlet]:
        """Say the ways in."""
        return (Inlet("/v1/metrics", self._metrics), Inlet("/v1/logs", self._logs, beside=True))

    def _metrics(self, pushed: Pushed) -> Taken:
        pushed.allow("*")
        kind = pushed.headers.get("content-type", "")
        points = points_of(pushed.body, kind, self._streams, pushed.sender)
        batch = self._streams.take(points, pushed.now, pushed.sender)
        said = _otlp_wire.answer(kind, batch.left_out, batch.why, "rejectedDataPoints")
        return Taken((batch,), answer=said)

    def _logs(self, pushed: Pushed) -> Taken:
        pushed.allow("*")
        kind = pushed.headers.get("content-type", "")
        counted = counts_of(pushed.body, kind)
        batch = self._streams.take(self._counted(counted, pushed.sender), pushed.now, pushed.sender)
        return Taken((batch,), answer=_otlp_wire.answer(kind, batch.left_out, batch.why))

    def _counted(
        self, counted: Sequence[tuple[Mapping[str, Any], Counter[str]]], sender: str
    ) -> Points:
        """Return counts of records as points: a severity of which there are none counts 0."""
        streams, values = [], []
        for resource, counts in counted:
            for severity in SEVERITIES:
                key = (
                    sender,
                    "log",
                    tuple(sorted((k, str(v)) for k, v in resource.items())),
                    severity,
                )
                metric = self._streams.metric(key)
                if metric is None:
                    metric = Metric(dict(resource), _RECORDS, "")
                    self._streams.know(key, metric)
                twice = metric.streams.get(b"")
                if twice is None:
                    number = self._streams.stream(metric, {"severity": severity}, sender=sender)
                    twice = 2 * number
                    if number >= 0:
                        metric.streams[b""] = twice
                streams.append(twice >> 1)
                values.append(float(counts[severity]))
        n = len(streams)
        zeros = np.zeros(n)
        at = np.array(streams, dtype=np.int64)
        return Points(at, zeros, zeros, np.array(values), np.zeros(n, dtype=np.bool_))

    async def describe(self) -> Sequence[str]:
        """Say what it takes, and what to write elsewhere so that it comes."""
        return (
            f"takes POST {' and '.join(i.path for i in self.inlets())}",
            f"a frame every {say_duration(self.config.every)}; {self.config.most_series} series a sender at most",
            "a token for it: homeostat token add NAME --role sender --model '*'",
            "to have an OpenTelemetry collector send:",
            *_COLLECTOR.splitlines(),
            "to have an SDK send, in its environment:",
            *_SDK.splitlines(),
        )
