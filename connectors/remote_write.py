"""Our numbers into the user's own Prometheus: remote write, version 1.0 (protobuf, snappy).

    remote_write:
      url: http://127.0.0.1:9090/api/v1/write        # Prometheus needs --web.enable-remote-write-receiver
      metrics: ['homeostat_*']                       # of what /metrics shows; default: all of it
      scores: ['service.*', 'host.memory_*']         # series whose rarity is written as homeostat_series_score
      labels: {cluster: eu-1}

Also VictoriaMetrics (`/api/v1/write`), Mimir (`/api/v1/push`), Thanos Receive (`/api/v1/receive`). A series that ends
or becomes unknown gets a stale marker, so that graphs and alerts do not go on with its last value.
Source (read, then told in our own words): prometheus.io, "Prometheus Remote-Write 1.0 specification".
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final

import structlog
from pydantic import Field

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.imports import lacking
from agent.model import Series
from agent.ports import Labels
from agent.registry import connector
from agent.secret import Headers
from agent.units import Bytes, Duration, say_duration
from connectors._notes import Settings, Url, Web
from connectors._otlp_wire import varint
from connectors.http import redacted

log = structlog.get_logger()

_STALE: Final = struct.pack("<Q", 0x7FF0000000000002)
"""The one NaN that Prometheus reads as: this series has ended."""
_MOST_SERIES: Final = 2000
"""In one request."""
_CLOSING_S: Final = 2.0
_HEADERS: Final = {
    "content-type": "application/x-protobuf", "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "0.1.0",
}  # fmt: skip
_PROMETHEUS: Final = """prometheus --web.enable-remote-write-receiver ...     # its url is then http://HOST:9090/api/v1/write"""


@connector("remote_write")
class RemoteWrite(Web):
    """Our numbers into a Prometheus, VictoriaMetrics, Mimir or Thanos of yours, by remote write.

    Sink   what /metrics shows and `scores`; one request at a time, in order of time
    429, 5xx, no answer: tried again, after Retry-After or with growing pauses; a time limit may mean that it was
    taken, so it may come twice, with the same time and value, which is no fault there. 400: that request is dropped and
    counted, the next go on. What waits is kept in memory up to `spool`; the oldest is dropped first, and counted. What
    waits when the daemon ends is lost after two seconds.
    Cost: 2 us a sample; needs the extra `remote-write` (cramjam).
    """

    tested = "Prometheus 2.42, VictoriaMetrics 1.79"

    class Config(Settings):
        """Where to, what, how often."""

        url: Url
        headers: Headers = {}
        """`authorization: env:NAME`, `X-Scope-OrgID: team-a`."""
        metrics: list[Annotated[str, Field(min_length=1)]] = ["*"]
        """Globs of names in /metrics."""
        scores: list[Annotated[str, Field(min_length=1)]] = []
        """Globs of series, such as `service.latency_p95_seconds{service:shop}` or `service.*`."""
        labels: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], str] = {}
        """Put on every series, beside `job` and `instance`."""
        every: Annotated[Duration, Field(ge=1, le=3600)] = 15.0
        spool: Annotated[Bytes, Field(ge=1e4, le=1e9)] = 16e6

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config.timeout)
        self.config = config
        self.sink_s = config.every
        self._keeps: dict[str, bool] = {}
        own = {"job": "homeostat", "instance": socket.gethostname(), **config.labels}
        self._own = tuple(own.items())
        self._written: dict[Labels, bytes] = {}
        """Series of the last numbers, and how each is written."""
        self._spool: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._ts = -math.inf
        self._count: Counter[str] = Counter()

    @property
    def tally(self) -> Mapping[str, int]:
        """Samples by what became of them."""
        return {**self._count, "waiting": sum(n for n, _ in self._spool)}

    def keeps(self, metric: str) -> bool:
        """Tell whether a metric is wanted."""
        found = self._keeps.get(metric)
        if found is None:
            found = self._keeps[metric] = _matches(metric, self.config.metrics)
        return found

    def heeds(self, series: Series) -> bool:
        """Tell whether the score of a series is wanted."""
        return bool(self.config.scores) and _matches(str(series), self.config.scores)

    # ---- in

    def take(self, ts: float, numbers: Mapping[Labels, float]) -> None:
        """Put numbers into the spool; time only goes on, also where the clock was set back."""
        ts = max(ts, self._ts + 1e-3)
        self._ts = ts
        written = {labels: self._written.get(labels) or self._series(labels) for labels in numbers}
        gone = [one for labels, one in self._written.items() if labels not in numbers]
        self._written = written
        tail = b"\x10" + varint(round(ts * 1000))
        samples = [
            _sample(one, struct.pack("<d", numbers[labels]), tail)
            for labels, one in written.items()
        ]
        samples += [_sample(one, _STALE, tail) for one in gone]
        for at in range(0, len(samples), _MOST_SERIES):
            self._put(samples[at : at + _MOST_SERIES])

    def _put(self, samples: Sequence[bytes]) -> None:
        whole = _snappy(b"".join(samples))
        self._spool.append((len(samples), whole))
        self._bytes += len(whole)
        dropped = 0
        while self._bytes > self.config.spool and len(self._spool) > 1:
            dropped += self._let_go("dropped")
        if dropped:
            log.warning(
                "samples_dropped", sink=self.name, new=dropped, so_far=self._count["dropped"]
            )

    def _let_go(self, outcome: str) -> int:
        count, data = self._spool.popleft()
        self._bytes -= len(data)
        self._count[outcome] += count
        return count

    def _series(self, labels: Labels) -> bytes:
        """Write name and labels; ours yield to those that the series has itself."""
        whole = sorted({**dict(self._own), **dict(labels)}.items())
        return b"".join(
            _part(1, _part(1, k.encode()) + _part(2, v.encode())) for k, v in whole if v
        )

    # ---- out

    async def deliver(self) -> None:
        """Send what waits, oldest first."""
        refused = ""
        while self._spool:
            head = self._spool[0]
            try:
                await self.ask(
                    "POST",
                    self.config.url,
                    headers={**self.config.headers, **_HEADERS},
                    body=head[1],
                )
            except Refused as error:
                refused = str(error)
                outcome = "refused"
            except Uncertain as error:
                raise Unavailable(str(error)) from None
            else:
                outcome = "delivered"
            if (
                self._spool and self._spool[0] is head
            ):  # else it was dropped meanwhile, to make room
                self._let_go(outcome)
        if refused:
            raise Refused(f"{refused}; {self._count['refused']} samples so far are not there")

    async def describe(self) -> Sequence[str]:
        """Say where it would write; sends nothing."""
        at = redacted(self.config.url) if "://" in self.config.url else "a URL of its own"
        scores = f", scores of {', '.join(self.config.scores)}" if self.config.scores else ""
        lines = [
            f"would write {', '.join(self.config.metrics)}{scores} to {at} every {say_duration(self.sink_s)}",
            "a Prometheus takes it when it is started so:",
            _PROMETHEUS,
        ]
        try:
            _snappy(b"")
        except Refused as missing:
            lines.append(str(missing))
        return lines

    async def close(self) -> None:
        """Say that our series have ended, and close."""
        with contextlib.suppress(AgentError, TimeoutError):
            if self._written:
                self.take(time.time(), {})
            async with asyncio.timeout(_CLOSING_S):
                await self.deliver()
        await super().close()


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _snappy(data: bytes) -> bytes:
    try:
        from cramjam import snappy
    except ImportError:
        raise Refused(lacking("remote write packs with cramjam", "remote-write")) from None
    return bytes(snappy.compress_raw(data))


def _sample(series: bytes, value: bytes, tail: bytes) -> bytes:
    """Write a TimeSeries of one sample: labels, value, time."""
    return _part(1, series + _part(2, b"\x09" + value + tail))


def _part(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data
