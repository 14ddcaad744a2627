"""Metrics of OTLP/HTTP: both encodings say the same, totals become rates, distributions quantiles; garbage nothing."""

import json
import math
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from otlp_side import (
    CUMULATIVE,
    DELTA,
    as_json,
    exponential,
    histogram,
    logs,
    metric,
    number,
    part,
    protobuf,
    summary,
    varint,
)

from agent.authority import Forbidden
from agent.errors import Refused
from agent.inlets import mounted
from agent.model import Edge, Entity
from agent.ports import BulkReceiver, Pushed
from connectors.otlp import Otlp
from connectors.predictions import Predictions

NOW = 1_764_000_000.0
SHOP = {"service.name": "shop", "service.instance.id": "a"}
ENCODINGS = pytest.mark.parametrize(
    ("encode", "kind"), [(protobuf, "application/x-protobuf"), (as_json, "application/json")]
)
TIMES = {"ts": NOW + 20, "start": NOW}


class Sender:
    """Pushes, and keeps what the columns say."""

    def __init__(self, **config):
        self.otlp = Otlp("otlp", Otlp.Config(**{"every": 10, **config}))
        self.otlp._streams._own = Entity("host", "elsewhere")
        assert isinstance(self.otlp, BulkReceiver)
        self.values: dict[str, float] = {}
        self.seen = []
        self.batch = None

    def push(
        self,
        body,
        kind="application/x-protobuf",
        *,
        at=NOW,
        path="/v1/metrics",
        sender="me",
        allow=None,
    ):
        inlet = next(i for i in self.otlp.inlets() if i.path == path)
        pushed = Pushed(
            body, {"content-type": kind}, {}, at, lambda _: (), allow or (lambda _: None), sender
        )
        taken = inlet.take(pushed)
        (self.batch,) = taken.arrivals
        new = {
            str(self.batch.book.series[i]): v
            for i, v in zip(self.batch.at.tolist(), self.batch.values.tolist(), strict=True)
        }
        self.values |= new
        self.seen += self.batch.seen
        return taken.answer

    def rates(self, metrics, *, at, resource=SHOP):
        self.push(protobuf(resource, metrics), at=at)
        return self.values


def rejected(answer) -> int:
    status, kind, body = answer
    assert status == 200
    if "json" in kind:
        return int(json.loads(body).get("partialSuccess", {}).get("rejectedDataPoints", 0))
    if not body:
        return 0
    inner = body[2:]
    assert body[:1] == b"\x0a"
    assert inner[:1] == b"\x08"
    value = shift = 0
    for byte in inner[1:]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value


# ---- kinds of metrics


@ENCODINGS
def test_a_gauge_is_a_series_in_base_units_with_its_attributes(encode, kind):
    one = Sender()
    points = [
        number(250, ts=NOW, attrs={"queue": "in", "n": 3, "ok": True}),
        number(1.5, ts=NOW, exemplar=True),
    ]
    assert (
        rejected(one.push(encode(SHOP, [metric("wait", "gauge", points, unit="ms")]), kind)) == 0
        or "json" in kind
    )
    assert one.values == {
        "replica.other_value{replica:shop/a,metric=wait,n=3,ok=true,queue=in,unit=seconds}": 0.25,
        "replica.other_value{replica:shop/a,metric=wait,unit=seconds}": 0.0015,
    }


@ENCODINGS
def test_what_counts_becomes_a_rate_between_its_own_times(encode, kind):
    one = Sender()
    for ts, count in ((NOW, 1000), (NOW + 20, 1300)):
        point = number(count, ts=ts, start=NOW - 5000)
        one.push(encode(SHOP, [metric("orders", "sum", [point])]), kind, at=ts + 4)
    assert one.values == {
        "replica.other_per_second{replica:shop/a,metric=orders}": pytest.approx(15.0)
    }


def test_a_clock_that_was_set_back_silences_nobody_on_this_host():
    one = Sender()

    def say(ts, n):
        took = histogram([0, n, 0], [0.1, 0.2], ts=ts, start=NOW - 9000)
        asked = metric("http.server.request.duration", "histogram", [took], unit="s")
        counted = metric("n", "sum", [number(10 * n, ts=ts, start=NOW - 9000)])
        one.rates([metric("g", "gauge", [number(float(n), ts=ts)]), counted, asked], at=ts)

    for i in range(1, 4):
        say(NOW + 10 * i, 10 * i)
    one.values.clear()
    for i in range(4, 8):
        say(NOW - 3600 + 10 * i, 10 * i)
    told = {name.split("{")[0]: v for name, v in one.values.items() if not math.isnan(v)}
    assert told["replica.other_value"] == 70.0
    assert told["replica.other_per_second"] == pytest.approx(10.0)
    assert told["service.requests_per_second"] == pytest.approx(1.0)
    assert "service.latency_p95_seconds" in told


def test_a_counter_that_began_a_moment_ago_began_at_nothing_and_one_that_fell_began_anew():
    one = Sender()

    def say(ts, count, start):
        return one.rates([metric("n", "sum", [number(count, ts=ts, start=start)])], at=ts)

    (name,) = say(NOW + 15, 30, NOW)
    assert one.values[name] == pytest.approx(2.0)
    say(NOW + 26, 10, NOW + 20)
    assert one.values[name] == pytest.approx(2.0), "ten seconds are due first; until then it holds"
    say(NOW + 40, 80, NOW + 20)
    assert one.values[name] == pytest.approx(4.0)
    say(NOW + 50, 5, 0.0)
    say(NOW + 60, 25, 0.0)
    assert one.values[name] == pytest.approx(2.0), (
        "where nobody says when it began, what it had then is lost"
    )


def test_deltas_are_accumulated_and_a_batch_sent_again_counts_once():
    one = Sender()
    body = lambda a, b, n: protobuf(  # noqa: E731
        SHOP,
        [
            metric(
                "n",
                "sum",
                [number(n, ts=NOW + t, start=NOW + t - 5) for t in (a, b)],
                temporality=DELTA,
            )
        ],
    )
    one.push(body(5, 10, 20), at=NOW + 10)
    assert list(one.values.values()) == [pytest.approx(4.0)]
    one.push(body(5, 10, 20), at=NOW + 11)
    one.push(body(15, 20, 50), at=NOW + 20)
    assert list(one.values.values()) == [pytest.approx(10.0)]


def test_a_sum_that_may_fall_is_a_gauge():
    one = Sender()
    for ts, value in ((NOW, 7), (NOW + 20, 3)):
        one.push(
            protobuf(
                SHOP, [metric("open", "sum", [number(value, ts=ts, start=NOW)], monotonic=False)]
            ),
            at=ts,
        )
    assert one.values == {"replica.other_value{replica:shop/a,metric=open}": 3.0}


@ENCODINGS
def test_histograms_of_requests_are_latency_rate_and_errors_of_the_service_over_all_its_instances(
    encode, kind
):
    one = Sender()
    for who, ok, bad in (("a", [200, 100, 0], [0, 20, 0]), ("b", [0, 0, 80], [0, 0, 0])):
        points = [
            histogram(
                counts, [0.1, 0.2], total=3.0, **TIMES, attrs={"http.response.status_code": status}
            )
            for status, counts in ((200, ok), (503, bad))
        ]
        body = encode(
            {**SHOP, "service.instance.id": who},
            [metric("http.server.request.duration", "histogram", points, unit="s")],
        )
        one.push(body, kind, at=NOW + 20)
    assert one.values == {
        "service.requests_per_second{service:shop}": pytest.approx(20.0),
        "service.error_ratio{service:shop}": pytest.approx(0.05),
        "service.latency_p50_seconds{service:shop}": pytest.approx(0.1),
        "service.latency_p95_seconds{service:shop}": 0.2,
        "service.latency_p99_seconds{service:shop}": 0.2,
    }


def test_old_names_in_milliseconds_mean_the_same():
    one = Sender()
    one.push(
        protobuf(
            SHOP,
            [
                metric(
                    "http.server.duration",
                    "histogram",
                    [histogram([0, 10, 0], [100.0, 200.0], **TIMES)],
                    unit="ms",
                )
            ],
        ),
        at=NOW + 20,
    )
    assert one.values["service.latency_p50_seconds{service:shop}"] == pytest.approx(0.15)


def test_quantiles_are_of_the_time_since_the_last_ones():
    one = Sender()
    for ts, counts in ((NOW + 20, [100, 0, 0]), (NOW + 40, [100, 100, 0])):
        point = histogram(counts, [1.0, 2.0], ts=ts, start=NOW)
        one.push(
            protobuf(
                SHOP, [metric("http.server.request.duration", "histogram", [point], unit="s")]
            ),
            at=ts,
        )
    assert one.values["service.latency_p50_seconds{service:shop}"] == pytest.approx(1.5)
    assert one.values["service.requests_per_second{service:shop}"] == pytest.approx(5.0)


@ENCODINGS
@pytest.mark.parametrize("temporality", [DELTA, CUMULATIVE])
def test_exponential_histograms_give_the_quantiles_of_what_was_measured(encode, kind, temporality):
    rng = random.Random(7)
    one = Sender()
    drawn, counts = [], {}
    for step, scale in ((1, 3), (2, 2)):  # it gets coarser as it goes, as SDKs do
        values = [rng.lognormvariate(step, 0.5) for _ in range(5000)]
        drawn = values
        before = {} if temporality == DELTA else counts
        counts = {i >> 1: before.get(i, 0) + before.get(i ^ 1, 0) for i in before}
        for v in values:
            i = math.ceil(math.log2(v) * 2**scale) - 1
            counts[i] = counts.get(i, 0) + 1
        first = min(counts)
        point = exponential(
            scale, first, [counts.get(i, 0) for i in range(first, max(counts) + 1)], ts=NOW + 20 * step,
            start=NOW + 20 * (step - 1) if temporality == DELTA else NOW,
        )  # fmt: skip
        one.push(
            encode(SHOP, [metric("x", "exponential", [point], temporality=temporality)]),
            kind,
            at=NOW + 20 * step,
        )
    drawn.sort()
    for q in (0.5, 0.95, 0.99):
        got = one.values[f"replica.other_value{{replica:shop/a,metric=x,quantile={q:g}}}"]
        assert got == pytest.approx(drawn[int(q * 5000)], rel=0.2)
    assert one.values["replica.other_per_second{replica:shop/a,metric=x.count}"] == pytest.approx(
        250.0
    )


@ENCODINGS
def test_histograms_of_all_kinds_and_bounds_make_one_latency(encode, kind):
    one = Sender()
    for who, shape, point in (
        ("a", "histogram", histogram([20, 0], [0.25], **TIMES)),
        ("b", "histogram", histogram([0, 20, 0], [1.0, 2.0], **TIMES)),
        ("c", "exponential", exponential(0, 2, [60], zero=1, **TIMES)),
    ):
        latency = metric("http.server.request.duration", shape, [point], unit="s")
        resource = {**SHOP, "service.instance.id": who}
        one.push(encode(resource, [latency]), kind, at=NOW + 20)
    assert one.values["service.requests_per_second{service:shop}"] == pytest.approx(101 / 20)
    p50 = one.values["service.latency_p50_seconds{service:shop}"]
    assert p50 == pytest.approx(4 + 4 * (50.5 - 41) / 60)


def test_an_exponential_histogram_that_begins_anew_or_is_sent_twice_spoils_nothing():
    one = Sender()

    def say(t, n, *, start=0.0, scale=0, flags=0):
        point = exponential(scale, 0, [n], ts=NOW + t, start=NOW + start)
        point["flags"] = flags
        one.rates([metric("x", "exponential", [point])], at=NOW + t)
        return one.values.get("replica.other_value{replica:shop/a,metric=x,quantile=0.5}")

    assert say(20, 100) == pytest.approx(1.5)
    assert say(20, 100) == pytest.approx(1.5)
    assert say(40, 100, scale=-1) is not None
    assert math.isnan(say(60, 100, scale=-1)), "nothing came"
    assert say(80, 50, start=70, scale=2) == pytest.approx((1 + 2**0.25) / 2), "it began anew"
    assert math.isnan(say(100, 60, start=70, scale=2, flags=1))
    assert math.isnan(say(120, 80, start=70, scale=2)), "from here on it is counted"
    assert say(140, 90, start=70, scale=2) == pytest.approx((1 + 2**0.25) / 2)


@ENCODINGS
def test_more_buckets_at_once_than_are_worth_it_are_refused(encode, kind, monkeypatch):
    for reader in ("_otlp_json", "_otlp_fields"):
        monkeypatch.setattr(f"connectors.{reader}.MOST_PACKED", 10)
    points = [exponential(0, 0, [1] * 6, attrs={"i": i}, **TIMES) for i in range(2)]
    with pytest.raises(Refused, match="buckets at once"):
        Sender().push(encode(SHOP, [metric("x", "exponential", points)]), kind)


@ENCODINGS
def test_a_summary_brings_its_own_quantiles(encode, kind):
    one = Sender()
    body = encode(
        SHOP,
        [
            metric(
                "gc",
                "summary",
                [summary([(0.5, 1.0), (0.99, 4.0)], 40, total=10.0, **TIMES)],
                unit="ms",
            )
        ],
    )
    one.push(body, kind, at=NOW + 20)
    of = "replica.other_value{{replica:shop/a,metric=gc,quantile={},unit=seconds}}"
    assert one.values == {
        of.format(0.5): 0.001, of.format(0.99): 0.004,
        "replica.other_per_second{replica:shop/a,metric=gc.count}": 2.0,
        "replica.other_per_second{replica:shop/a,metric=gc.sum,unit=seconds}": pytest.approx(0.0005),
    }  # fmt: skip


def test_what_its_sender_says_is_gone_is_unknown():
    one = Sender()

    def say(at, value=None, flags=0):
        counts = [10 if at > NOW else 0, 0]
        body = protobuf(SHOP, [
            metric("g", "gauge", [number(value, ts=at, flags=flags)]),
            metric("http.server.request.duration", "histogram",
                   [histogram(counts, [1.0], ts=at, start=NOW - 20, flags=flags)]),
        ])  # fmt: skip
        one.push(body, at=at)

    say(NOW, value=1.0)
    say(NOW + 15, value=2.0)
    assert one.values["replica.other_value{replica:shop/a,metric=g}"] == 2.0
    say(NOW + 20, flags=1)
    assert {k for k, v in one.values.items() if math.isnan(v)} == set(one.values)


def test_a_point_that_is_too_old_is_not_said_of_now_and_one_without_a_time_is():
    one = Sender()
    one.push(protobuf(SHOP, [metric("g", "gauge", [number(1.0, ts=NOW - 600)])]))
    assert math.isnan(*one.values.values())
    one.push(
        protobuf(
            SHOP,
            [
                metric("h", "gauge", [number(2.0)]),
                metric("i", "gauge", [number(3.0, ts=NOW + 9999)]),
            ],
        )
    )
    said = [one.values[f"replica.other_value{{replica:shop/a,metric={m}}}"] for m in "hi"]
    assert said == [2.0, 3.0]


# ---- who it is about


def test_the_host_is_known_by_name_and_this_one_is_left_to_the_source_host():
    web = {"host.name": "web-1"}
    shares = (("used", 0.75), ("free", 0.25))
    points = [number(share, ts=NOW, attrs={"state": state}) for state, share in shares]
    usage = metric("system.memory.utilization", "gauge", points, unit="1")

    def total(value, t, **attrs):
        return number(value, ts=NOW + t, start=NOW - 5000, attrs=attrs)

    def time(t):
        points = [
            total(t * share, t, cpu=core, state="user")
            for core, share in (("cpu0", 1.0), ("cpu1", 0.5))
        ]
        return metric("system.cpu.time", "sum", points, unit="s")

    def disk(t):
        points = [total(t * 100, t, device="sda", direction=way) for way in ("read", "write")]
        return metric("system.disk.io", "sum", points, unit="By")

    one = Sender()
    for t in (0, 20):
        one.push(protobuf(web, [usage, time(t), disk(t)]), at=NOW + t)
    assert one.values == {
        "host.memory_utilization_ratio{host:web-1}": 0.75,
        "host.cpu_utilization_ratio{host:web-1,mode=user}": pytest.approx(0.75),
        "host.disk_read_bytes_per_second{host:web-1,device=sda}": pytest.approx(100.0),
        "host.disk_written_bytes_per_second{host:web-1,device=sda}": pytest.approx(100.0),
    }
    one = Sender()
    one.push(protobuf({"host.name": "elsewhere"}, [usage]))
    assert one.values == {}


def test_what_a_collector_scraped_from_an_exporter_of_prometheus_is_known_by_that_name():
    one = Sender()
    card = {"UUID": "GPU-aa11bb22-0000-1111-2222-333344445555", "Hostname": "n1"}
    gpu = metric("DCGM_FI_DEV_GPU_TEMP", "gauge", [number(71, ts=NOW, attrs=card)])
    one.push(protobuf({}, [gpu]))
    assert one.values == {
        "gpu.temperature_celsius{gpu:GPU-aa11bb22-0000-1111-2222-333344445555}": 71.0
    }


def test_what_was_scraped_of_a_gpu_once_for_each_instance_or_pod_is_not_added():
    card = {"UUID": "GPU-aa11bb22-0000-1111-2222-333344445555", "Hostname": "n1"}
    of = f"gpu:{card['UUID']}"

    def gauge(name, values, label):
        points = [number(v, ts=NOW, attrs=card | {label: str(i)}) for i, v in enumerate(values)]
        return metric(f"DCGM_FI_DEV_{name}", "gauge", points)

    one = Sender()
    one.push(protobuf({}, [
        gauge("POWER_USAGE", [200.0, 201.0, 200.0], "GPU_I_ID"), gauge("FB_USED", [1000.0, 200.0, 30.0], "GPU_I_ID"),
        gauge("CORRECTABLE_REMAPPED_ROWS", [2.0, 2.0], "exported_pod"),
    ]))  # fmt: skip
    assert one.values == {
        f"gpu.power_watts{{{of}}}": 201.0,
        f"gpu.memory_used_bytes{{{of}}}": 1230 * 2.0**20,
        f"gpu.remapped_rows_count{{{of},type=corrected}}": 2.0,
    }
    shared = Sender()
    shared.push(protobuf({}, [gauge("FB_USED", [1000.0, 1000.0], "exported_pod")]))
    assert shared.values == {f"gpu.memory_used_bytes{{{of}}}": 1000 * 2.0**20}


def test_of_what_is_good_when_it_is_high_the_lowest_counts():
    one = Sender()
    points = [
        number(v, ts=NOW, attrs={"pod": "cart-0", "condition": "true", "uid": str(i)})
        for i, v in enumerate((1.0, 0.0))
    ]
    one.push(protobuf({}, [metric("kube_pod_status_ready", "gauge", points)]))
    assert one.values == {"replica.ready{replica:cart/cart-0}": 0.0}


def test_calls_are_edges_with_rates_errors_and_time():
    one = Sender()
    points = [
        histogram(
            [n, 0],
            [1.0],
            total=4.0,
            **TIMES,
            attrs={"server.address": "db", "server.port": 5432} | more,
        )
        for n, more in ((30, {}), (10, {"error.type": "timeout"}))
    ]
    one.push(
        protobuf(SHOP, [metric("db.client.operation.duration", "histogram", points, unit="s")]),
        at=NOW + 20,
    )
    of = "{service:shop,callee=dependency:db:5432,side=client}"
    assert one.values == {
        f"service.call_requests_per_second{of}": pytest.approx(2.0),
        f"service.call_errors_per_second{of}": pytest.approx(0.5),
        f"service.call_busy_count{of}": pytest.approx(0.4),
    }
    db = Entity("dependency", "db:5432")
    assert [e for s in one.seen for e in s.edges if e.kind == "calls"] == [
        Edge("calls", Entity("service", "shop"), db)
    ]


def test_the_resource_says_who_runs_where_in_which_version_and_which_model_it_serves():
    one = Sender()
    resource = {
        "service.name": "scoring", "service.version": "7", "k8s.pod.name": "scoring-0", "k8s.node.name": "n1",
        "model.name": "fraud", "model.version": "3",
    }  # fmt: skip
    one.push(protobuf(resource, [metric("g", "gauge", [number(1, ts=NOW)])]))
    edges = {(e.kind, str(e.src), str(e.dst)) for s in one.seen for e in s.edges}
    assert edges == {
        ("serves", "replica:scoring/scoring-0", "service:scoring"), ("runs_on", "replica:scoring/scoring-0", "host:n1"),
        ("serves", "service:scoring", "model:fraud"), ("version_of", "version:fraud/3", "model:fraud"),
    }  # fmt: skip
    assert ("version", "7") in next(s.attrs for s in one.seen if s.entity.kind == "service")
    assert list(one.values) == ["replica.other_value{replica:scoring/scoring-0,metric=g}"]


# ---- limits


def many(n, start=0):
    return metric(
        "g", "gauge", [number(float(i), ts=NOW, attrs={"i": i}) for i in range(start, start + n)]
    )


@ENCODINGS
def test_a_sender_has_so_many_series_and_is_told_when_it_has_more(encode, kind):
    one = Sender(most_series=5)
    answer = one.push(encode(SHOP, [many(8)]), kind)
    assert len(one.values) == 5
    assert one.batch.left_out == 3
    if "json" in kind:
        told = json.loads(answer[2])["partialSuccess"]
        assert told["rejectedDataPoints"] == "3"
        assert told["errorMessage"].startswith("me: more than 5 series")
    else:
        assert rejected(answer) == 3
        assert b"me: more than 5 series; raise `most_series`" in answer[2]
    assert one.batch.why
    other = one.push(encode(SHOP, [many(5)]), kind, sender="other")
    assert rejected(other) == 0
    assert one.batch.left_out == 0, "each has its own share"


def test_what_nobody_sends_any_more_makes_room_and_the_rest_goes_on():
    one = Sender(most_series=10)

    def rising(t):
        return metric("n", "sum", [number(t * 3, ts=NOW + t, start=NOW - 9)])

    def hist(t):
        point = histogram([t, 0], [1.0], ts=NOW + t, start=NOW - 9)
        return metric("http.server.request.duration", "histogram", [point])

    def power(t):
        return metric("x", "exponential", [exponential(0, 0, [t], ts=NOW + t, start=NOW - 9)])

    one.push(protobuf(SHOP, [many(6)]))
    for t in (10, 700, 720):
        one.push(protobuf(SHOP, [rising(t), hist(t), power(t)]), at=NOW + t)
    before = one.batch.book.origin
    assert one.push(protobuf(SHOP, [many(6, 100)]), at=NOW + 720)
    assert one.batch.left_out == 5
    one.values.clear()
    body = protobuf(SHOP, [rising(740), hist(740), power(740), many(2, 200)])
    one.push(body, at=NOW + 740)
    assert one.batch.book.origin != before
    assert one.batch.left_out == 0
    assert one.values["replica.other_per_second{replica:shop/a,metric=n}"] == pytest.approx(3.0)
    assert one.values["service.requests_per_second{service:shop}"] == pytest.approx(1.0)
    assert one.values["service.latency_p50_seconds{service:shop}"] == pytest.approx(0.5)
    median = "replica.other_value{replica:shop/a,metric=x,quantile=0.5}"
    assert one.values[median] == pytest.approx(1.5)
    assert {str(s) for s in one.batch.book.series} >= {
        "service.requests_per_second{service:shop}", "replica.other_value{replica:shop/a,i=201,metric=g}",
    }  # fmt: skip
    assert "replica.other_value{replica:shop/a,i=0,metric=g}" not in {
        str(s) for s in one.batch.book.series
    }


def test_only_who_may_speak_of_everything_may_send():
    def no(model):
        assert model == "*"
        raise Forbidden("no")

    one = Sender()
    with pytest.raises(Forbidden):
        one.push(protobuf(SHOP, [many(1)]), allow=no)
    with pytest.raises(Forbidden):
        one.push(logs(SHOP, [9]), path="/v1/logs", allow=no)


def test_what_a_silent_sender_was_part_of_is_unknown_and_not_less():
    one = Sender()

    def say(sender, t, resource):
        points = [number(10 * t, ts=NOW + t, start=NOW - 9999)]
        latency = [
            histogram([t, 0], [1.0], ts=NOW + t, start=NOW - 9999),
            exponential(0, 0, [t], ts=NOW + t, start=NOW - 9999, attrs={"a": "b"}),
        ]
        body = protobuf(resource, [
            metric("http.server.request.duration", "histogram", latency[:1], unit="s"),
            metric("http.server.request.duration", "exponential", latency[1:], unit="s"),
            metric("n", "sum", points),
        ])  # fmt: skip
        one.push(body, at=NOW + t, sender=sender)

    other = {**SHOP, "service.instance.id": "b"}
    shared = ("service.requests_per_second{service:shop}", "service.latency_p50_seconds{service:shop}",
              "service.error_ratio{service:shop}")  # fmt: skip
    for t in (10, 20, 30):
        say("rack", t, SHOP)
        say("shop", t, other)
    assert one.values[shared[0]] == pytest.approx(4.0)
    for t in (40, 50, 60):
        say("shop", t, other)
    assert not any(math.isnan(one.values[s]) for s in shared), "until three intervals are over"
    say("shop", 70, other)
    assert all(math.isnan(one.values[s]) for s in shared)
    mine = "replica.other_per_second{{replica:shop/{},metric=n}}"
    assert one.values[mine.format("b")] == pytest.approx(10.0), (
        "what is of the others alone is seen"
    )
    for t in (80, 100):
        say("rack", t, SHOP)
        say("shop", t, other)
    assert one.values[shared[0]] == pytest.approx(4.0)
    for t in range(110, 800, 10):
        say("shop", t, other)
    assert one.values[shared[0]] == pytest.approx(2.0), "after ten minutes it is no part any more"


# ---- garbage


def state(one):
    it = one.otlp._streams
    numbers = (it._state.out.tolist(), it._state.total.tolist(), it._state.base.tolist())
    return repr((len(it._known), it._numbers, it._book.series, numbers))


ALL = [
    many(3), metric("http.server.request.duration", "histogram", [histogram([3, 1], [1.0], **TIMES)]),
    metric("x", "exponential", [exponential(2, 1, [1, 2], **TIMES)]),
    metric("s", "summary", [summary([(0.5, 1.0)], 3, **TIMES)]),
    metric("c", "sum", [number(3, **TIMES, exemplar=True)], temporality=DELTA),
]  # fmt: skip
GOOD, GOOD_JSON = protobuf(SHOP, ALL), as_json(SHOP, ALL)
GARBAGE = {
    "text": (b"hello, world", "x"), "cut": (GOOD[:-3], "x"), "no JSON": (b"{", "application/json"),
    "a list": (b"[]", "application/json"), "numbers": (b'{"resourceMetrics": [7]}', "application/json"),
    "words": (as_json(SHOP, [metric("a", "gauge", [number(7777)])]).replace(b"7777", b"many"), "application/json"),
    "bounds that fall": (protobuf(SHOP, [many(2), metric("h", "histogram", [histogram([1, 2, 3], [2.0, 1.0])])]), "x"),
    "bounds that do not fit": (protobuf(SHOP, [metric("h", "histogram", [histogram([1, 2], [2.0, 3.0])])]), "x"),
    "a scale of 99": (protobuf(SHOP, [metric("h", "exponential", [exponential(99, 0, [1])])]), "x"),
    "too many buckets": (protobuf(SHOP, [metric("h", "exponential", [exponential(1, 0, [1] * 3000)])]), "x"),
    "less than nothing": (
        as_json(SHOP, [metric("h", "exponential", [exponential(1, 0, [-1, 5])])]), "application/json",
    ),
    "no UTF-8": (protobuf(SHOP, [many(2)]).replace(b"shop", b"\xff\xff\xff\xff"), "x"),
    "a short number": (part(1, part(2, part(2, part(1, b"g") + part(5, part(1, b"\x19" + bytes(3)))))), "x"),
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_refused_with_a_reason_and_changes_nothing(what):
    one = Sender()
    one.push(protobuf(SHOP, [many(1)]))
    before = state(one)
    with pytest.raises(Refused, match=r"not OTLP metrics: .*; send ExportMetricsServiceRequest"):
        one.push(*GARBAGE[what])
    assert state(one) == before


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD)), st.binary(max_size=6), st.integers(0, 6))
def test_bytes_that_were_damaged_are_read_or_refused_and_nothing_else(at, put, cut):
    body = GOOD[:at] + put + GOOD[at + cut :]
    one = Sender()
    try:
        one.push(body, at=NOW + 20)
    except Refused:
        assert one.otlp._streams._numbers == {}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD_JSON)), st.binary(max_size=3), st.integers(0, 40))
def test_json_that_was_damaged_is_read_or_refused_and_nothing_else(at, put, cut):
    one = Sender()
    try:
        one.push(GOOD_JSON[:at] + put + GOOD_JSON[at + cut :], "application/json", at=NOW + 20)
    except Refused:
        assert one.otlp._streams._numbers == {}


def test_both_encodings_say_the_same_of_all_shapes():
    one, other = Sender(), Sender()
    one.push(GOOD, at=NOW + 20)
    other.push(GOOD_JSON, "application/json", at=NOW + 20)
    assert one.values == pytest.approx(other.values, nan_ok=True)
    assert len(one.values) > 15


@pytest.mark.parametrize("shape", ["gauge", "sum", "histogram", "exponentialHistogram", "summary"])
def test_a_metric_without_points_says_nothing_and_refuses_nothing(shape):
    some = {
        "name": "g",
        "gauge": {"dataPoints": [{"timeUnixNano": str(int(NOW * 1e9)), "asDouble": 4.0}]},
    }
    none = {"name": "x", shape: {"dataPoints": []}}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [none, some]}]}]}
    one = Sender()
    one.push(json.dumps(body).encode(), "application/json")
    assert one.values == {"source.other_value{source:otlp,metric=g}": 4.0}


def test_fields_that_are_new_to_us_are_passed_over():
    gauge = part(1, part(99, b"new") + b"\x19" + struct.pack("<Q", int(NOW * 1e9)) + b"\x21" + struct.pack("<d", 4.0)
                 + varint(98 << 3 | 5) + bytes(4)) + part(77, b"x")  # fmt: skip
    one = Sender()
    one.push(
        part(1, part(2, part(2, part(1, b"g") + part(5, gauge)) + part(3, b"schema")))
        + part(9, b"y")
    )
    assert one.values == {"source.other_value{source:otlp,metric=g}": 4.0}


# ---- logs


def test_log_records_are_counted_by_service_and_severity():
    one = Sender()
    body = logs(SHOP, [1, 5, 9, 13, 17, 20, 21, "ERROR", "Warning", "chatty"])
    one.push(body, path="/v1/logs")
    one.push(body, path="/v1/logs", at=NOW + 4)
    one.push(body, path="/v1/logs", at=NOW + 20)
    of = "service.log_records_per_second{{service:shop,severity={}}}"
    errors, ratio = (
        f"service.log_{word}{{service:shop}}" for word in ("errors_per_second", "error_ratio")
    )
    assert one.values == {
        of.format(s): pytest.approx(2 * n / 20)
        for s, n in (("debug", 2), ("info", 2), ("warn", 2), ("error", 3), ("fatal", 1))
    } | {errors: pytest.approx(0.4), ratio: pytest.approx(0.4)}  # fmt: skip
    one.push(logs(SHOP, [9, 9]), path="/v1/logs", at=NOW + 30)
    assert (one.values[errors], one.values[ratio]) == (0.0, 0.0)
    text = json.dumps({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}},
                                    {"key": "service.instance.id", "value": {"stringValue": "a"}}]},
        "scopeLogs": [{"logRecords": [{"severityNumber": 17}, {"severityNumber": "SEVERITY_NUMBER_ERROR3"},
                                      {"severityText": "err"}, {}]}]}]}).encode()  # fmt: skip
    one.push(text, "application/json; charset=utf-8", path="/v1/logs", at=NOW + 40)
    assert one.values[of.format("error")] == pytest.approx(0.3)
    assert one.values[errors] == pytest.approx(0.3)
    assert one.values[ratio] == pytest.approx(0.75)
    with pytest.raises(Refused, match="not OTLP logs"):
        one.push(b"\xff\xff", path="/v1/logs")


def test_records_that_name_no_service_are_of_their_host_this_one_as_well():
    one = Sender()
    for t in (0, 20):
        one.push(logs({"host.name": "elsewhere"}, [17, 9]), path="/v1/logs", at=NOW + t)
    assert one.values["host.log_errors_per_second{host:elsewhere}"] == pytest.approx(0.05)
    assert one.values["host.log_error_ratio{host:elsewhere}"] == pytest.approx(0.5)
    one = Sender()
    for t in (0, 20):
        one.push(logs({}, [17, 9]), path="/v1/logs", at=NOW + t)
    of = "source.other_per_second{source:otlp,metric=log.records,severity=error}"
    assert one.values[of] == pytest.approx(0.05)


def test_where_predictions_takes_logs_each_takes_its_part():
    one = Sender()
    predictions = Predictions("predictions", Predictions.Config())
    ((_, inlet),) = [
        v
        for k, v in mounted({"otlp": one.otlp, "predictions": predictions}).items()
        if k == "/v1/logs"
    ]

    def send(allow):
        return inlet.take(Pushed(body, {"content-type": "x"}, {}, NOW, lambda _: (), allow, "me"))

    def only_fraud(model):
        if model != "fraud":
            raise Forbidden("no")

    record = part(6, part(1, b"model") + part(2, part(1, b"fraud"))) + part(
        6, part(1, b"pred") + part(2, part(1, b"1"))
    )
    body = part(1, part(1, b"") + part(2, part(2, record) + part(2, b"\x10\x11")))
    taken = send(lambda _: None)
    assert [type(a).__name__ for a in taken.arrivals] == ["PredictionBatch", "SampleBatch"]
    assert rejected(taken.answer) == 0, "the one that is no prediction was counted"
    taken = send(only_fraud)
    assert [type(a).__name__ for a in taken.arrivals] == ["PredictionBatch"]
    assert rejected(taken.answer) == 1
    assert list(mounted({"otlp": one.otlp})) == ["/v1/metrics", "/v1/logs"]


async def test_it_says_what_to_write_into_a_collector():
    said = await Otlp("otlp", Otlp.Config()).describe()
    assert any("otlphttp/homeostat" in line for line in said)
    assert any("OTEL_EXPORTER_OTLP_ENDPOINT" in line for line in said)
