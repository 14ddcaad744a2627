"""Remote write: what is on the wire, what waits, what is dropped, and what a Prometheus may answer."""

import math
import struct

import httpx
import pytest

from agent.errors import Refused, Unavailable
from agent.model import Entity, Series
from agent.ports import Sink
from connectors._otlp_wire import fields
from connectors.http import Door
from connectors.remote_write import RemoteWrite

cramjam = pytest.importorskip("cramjam")
A = (("__name__", "a"), ("entity", "host:x"))
B = (("__name__", "b"),)


def decoded(body: bytes) -> dict:
    """Name and labels -> (value, ms); "stale" for the marker."""
    out = {}
    for number, series in fields(memoryview(bytes(cramjam.snappy.decompress_raw(body)))):
        assert number == 1
        labels, samples = [], []
        for part, data in fields(series):
            both = dict(fields(data))
            if part == 1:
                labels.append((str(both[1], "utf-8"), str(both[2], "utf-8")))
            else:
                bits = struct.unpack("<Q", both[1])[0]
                value = "stale" if bits == 0x7FF0000000000002 else struct.unpack("<d", both[1])[0]
                samples.append((value, both[2]))
        assert labels == sorted(labels), "the protocol wants them sorted"
        (out[tuple(labels)],) = samples
    return out


class Other:
    """The other end: answers as told, keeps what it took."""

    def __init__(self):
        self.answers: list = []
        self.asked: list[httpx.Request] = []
        self.took: list[dict] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        status, headers = self.answers.pop(0) if self.answers else (204, {})
        if status == 0:
            raise httpx.ReadTimeout("slow")
        if status < 300:
            self.took.append(decoded(request.content))
        return httpx.Response(status, headers=headers, text="secret words of the other side")


@pytest.fixture
async def made():
    other = Other()

    def make(**config):
        one = RemoteWrite(
            "remote_write", RemoteWrite.Config(url="http://prom/api/v1/write", **config)
        )
        one._door = Door(transport=httpx.MockTransport(other))
        assert isinstance(one, Sink)
        return one, other

    return make


async def test_series_are_written_with_sorted_labels_and_the_marker_when_they_end(made):
    one, other = made(labels={"cluster": "eu", "instance": "me"})
    one.take(100.0, {A: 1.5, B: math.inf})
    one.take(115.0, {A: 2.5})
    one.take(130.0, {A: 3.5})
    assert one.tally == {"waiting": 5}
    await one.deliver()
    own = (("cluster", "eu"), ("instance", "me"), ("job", "homeostat"))
    a, b = tuple(sorted((*A, *own))), tuple(sorted((*B, *own)))
    assert other.took == [
        {a: (1.5, 100_000), b: (math.inf, 100_000)}, {a: (2.5, 115_000), b: ("stale", 115_000)}, {a: (3.5, 130_000)},
    ]  # fmt: skip
    assert one.tally == {"delivered": 5, "waiting": 0}
    headers = other.asked[0].headers
    assert headers["content-encoding"] == "snappy"
    assert headers["x-prometheus-remote-write-version"] == "0.1.0"
    await one.close()
    assert other.took[-1][a][0] == "stale", "at the end of the daemon everything has ended"


async def test_time_only_goes_on(made):
    one, other = made()
    for ts in (100.0, 90.0, 100.0):
        one.take(ts, {A: ts})
    await one.deliver()
    assert [ms for got in other.took for _, ms in got.values()] == [100_000, 100_001, 100_002]


async def test_thousands_of_series_go_in_several_requests(made):
    one, other = made()
    one.take(100.0, {(("__name__", f"m{i}"),): float(i) for i in range(4500)})
    await one.deliver()
    assert [len(got) for got in other.took] == [2000, 2000, 500]


@pytest.mark.parametrize(
    "answer",
    [(429, {"retry-after": "7"}), (503, {}), (500, {}), (0, {}), (401, {}), (404, {}), (302, {})],
)
async def test_what_may_be_mended_keeps_samples_in_their_order(made, answer):
    one, other = made()
    for ts in (100.0, 115.0):
        one.take(ts, {A: ts})
    other.answers = [(204, {}), answer]
    with pytest.raises(Unavailable) as wrong:
        await one.deliver()
    assert "secret words" not in str(wrong.value)
    if answer[0] == 429:
        assert wrong.value.wait_s == 7.0
    assert one.tally == {"delivered": 1, "waiting": 1}
    await one.deliver()
    assert [v for got in other.took for v, _ in got.values()] == [100.0, 115.0]


async def test_what_is_not_taken_is_dropped_counted_and_told_and_the_rest_goes_on(made):
    one, other = made()
    for ts in (100.0, 115.0, 130.0):
        one.take(ts, {A: ts, B: ts})
    other.answers = [(400, {})]
    with pytest.raises(Refused, match="2 samples so far are not there"):
        await one.deliver()
    assert one.tally == {"refused": 2, "delivered": 4, "waiting": 0}


async def test_a_full_spool_drops_the_oldest_and_counts_it(made):
    one, other = made(spool=10_000)
    numbers = {
        (("__name__", f"m{i}"), ("x", f"{i * 7919 % 1000:x}" * 9)): float(i) for i in range(300)
    }
    for step in range(8):
        one.take(100.0 + step, numbers)
    waiting, dropped = one.tally["waiting"], one.tally["dropped"]
    assert waiting + dropped == 2400
    assert dropped > 0
    await one.deliver()
    assert max(ms for got in other.took for _, ms in got.values()) == 107_000
    assert min(ms for got in other.took for _, ms in got.values()) > 100_000


def test_it_keeps_what_config_says():
    one = RemoteWrite(
        "r",
        RemoteWrite.Config(
            url="http://x", metrics=["homeostat_inc*"], scores=["service.*{service:shop*}"]
        ),
    )
    assert one.keeps("homeostat_incidents_open")
    assert not one.keeps("homeostat_ticks_total")
    assert one.heeds(Series("service.error_ratio", Entity("service", "shop")))
    assert not one.heeds(Series("service.error_ratio", Entity("service", "other")))


async def test_it_says_where_it_would_write_and_how_to_start_the_other_end(made):
    one, _ = made(scores=["service.*"])
    said = "\n".join(await one.describe())
    assert "would write *, scores of service.* to http://prom/api/v1/write every 15 s" in said
    assert "--web.enable-remote-write-receiver" in said
