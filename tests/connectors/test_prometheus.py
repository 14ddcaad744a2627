"""A server that speaks PromQL, well and badly: what becomes of its series, and of its failures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.server
import json
import math
import re
import threading
import time
import urllib.parse

import nvml_side
import pytest
from pydantic import ValidationError

from agent.calls import Names
from agent.errors import Refused, Unavailable
from agent.model import Edge, Entity, Series
from agent.rates import Rates
from agent.rca.rules import hardware
from agent.world import World
from connectors import prometheus
from connectors._prometheus_names import PACKS, SIGNAL_LABEL
from connectors.gpu import Gpu
from connectors.prometheus import Prometheus, read_series

pytest.importorskip("prometheus_api_client")

CANARY = "canary-7f3a"
VM = "GPU-11111111-2222-3333-4444-555555555555"


class Server:
    """Answers as Prometheus does: `series` hold (labels, value), by `__name__`; `bad` answers instead."""

    def __init__(self) -> None:
        me = self
        self.series: list[tuple[dict[str, str], float]] = []
        self.derived: dict[str, list[tuple[dict[str, str], float]]] = {}
        self.scraped: dict[tuple[str, str], float] = {}
        self.kinds: dict[str, str | tuple[str, str]] = {}
        self.alerts: list[dict] = []
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.grid: list[float] = []
        self.bad = None

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                parts = urllib.parse.urlsplit(self.path)
                query = urllib.parse.parse_qs(parts.query).get("query", [""])[0]
                me.asked.append(query or parts.path)
                me.headers.append({k.lower(): v for k, v in self.headers.items()})
                with contextlib.suppress(OSError):
                    if me.bad is not None:
                        me.bad(self)
                        return
                    say(self, 200, {"status": "success", "data": me.data(parts.path, query)})

            def log_message(self, *args):
                """Say nothing on standard error."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}).start()

    def data(self, path: str, query: str):
        if path.endswith("/values"):
            return sorted({labels["__name__"] for labels, _ in self.series} | {"up"})
        if path.endswith("/metadata"):
            declared = {n: k if isinstance(k, tuple) else (k, "") for n, k in self.kinds.items()}
            return {name: [{"type": kind, "unit": unit}] for name, (kind, unit) in declared.items()}
        if path.endswith("/alerts"):
            return {"alerts": self.alerts}
        now = time.time()
        if query == "timestamp(up)":
            found = [({"job": j, "instance": i}, at) for (j, i), at in self.scraped.items()]
        elif "label_replace(" in query:
            found = [
                ({**labels, SIGNAL_LABEL: key}, value)
                for key, rows in self.derived.items()
                if f'"{key}"' in query
                for labels, value in rows
            ]
        else:
            names = re.match(r'\{__name__=~"(.*?)"', query)
            found = [
                (labels, value)
                for labels, value in self.series
                if re.fullmatch(names[1] if names else re.escape(query), labels["__name__"])
            ]
        if path.endswith("/query_range"):
            return {"resultType": "matrix", "result": [
                {"metric": labels, "values": [[at, repr(v)] for at in self.grid]} for labels, v in found
            ]}  # fmt: skip
        rows = [{"metric": labels, "value": [now, repr(v)]} for labels, v in found]
        return {"resultType": "vector", "result": rows}

    def derive(self, pack: str, signal: str, rows) -> None:
        at = next(i for i, d in enumerate(PACKS[pack].derived) if d.signal == signal)
        self.derived[f"{pack}/{at}"] = rows

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def say(handler, status: int, body, headers=()) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(sent)))
    handler.end_headers()
    handler.wfile.write(sent)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.close()


@pytest.fixture
def source(server):
    made = []

    def make(**config) -> Prometheus:
        made.append(Prometheus("prometheus", Prometheus.Config(url=server.url, **config)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def metric(name: str, value: float, /, **labels: str) -> tuple[dict[str, str], float]:
    return {"__name__": name, **labels}, value


def told(frame) -> dict[str, float]:
    return {str(s): v for s, v in zip(frame.series, frame.values.tolist(), strict=True)}


NODE = {"job": "node", "instance": "10.0.0.7:9100"}


def node(server: Server, interrupts: float) -> None:
    server.series = [
        metric("node_cpu_seconds_total", 1.0, **NODE),
        metric("node_uname_info", 1.0, nodename="web-7", release="6.1", **NODE),
        metric("node_intr_total", interrupts, **NODE),
        metric("node_load1", 0.5, **NODE),
        metric("node_network_up", 1.0, device="eth0", **NODE),
        metric("node_network_up", 1.0, device="lo", **NODE),
    ]


async def test_names_of_an_exporter_become_ours(server, source):
    node(server, 100.0)
    server.derive("node_exporter", "host.memory_utilization_ratio", [(NODE, 0.25)])
    frame = await source().poll()
    assert told(frame) == {
        "host.interrupts_total{host:web-7}": 100.0,
        "host.load1_count{host:web-7}": 0.5,
        "host.memory_utilization_ratio{host:web-7}": 0.25,
        "host.network_up{host:web-7,interface=eth0}": 1.0,
    }
    assert ("kernel", "6.1") in next(s for s in frame.seen if s.entity.key == "web-7").attrs


async def test_a_counter_that_was_not_scraped_again_does_not_stand_still(
    server, source, monkeypatch
):
    one, rates, now = source(), Rates(), time.time()
    target = NODE["job"], NODE["instance"]
    got = []
    for i, (at, count) in enumerate(
        [(0, 100.0), (0, 100.0), (10, 200.0), (10, 200.0), (20, 300.0)]
    ):
        monkeypatch.setattr(time, "time", lambda i=i: now + 5.0 * i)
        node(server, count)
        server.scraped = {target: now + at - 1}
        frame = rates.apply(await one.poll())
        got.append(told(frame)["host.interrupts_per_second{host:web-7}"])
    assert [None if math.isnan(x) else x for x in got] == [None, None, 10.0, None, 10.0]


async def test_a_look_that_was_given_up_before_it_had_a_thread_is_no_look_that_goes_on(
    server, source
):
    one, gate, loop = source(), threading.Event(), asyncio.get_running_loop()
    node(server, 100.0)
    few = concurrent.futures.ThreadPoolExecutor(1)
    loop.set_default_executor(few)
    few.submit(gate.wait)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await one.poll()
    gate.set()
    assert told(await one.poll())["host.load1_count{host:web-7}"] == 0.5


async def test_what_nobody_scrapes_is_silent_whatever_is_repeated(server, source):
    node(server, 100.0)
    server.scraped = {(NODE["job"], NODE["instance"]): time.time() - 300}
    assert all(math.isnan(v) for v in told(await source().poll()).values())


async def test_series_come_and_go_and_the_table_stays(server, source, monkeypatch):
    one, now = source(), time.time()
    node(server, 100.0)
    first = await one.poll()
    server.series = [x for x in server.series if x[0]["__name__"] != "node_load1"]
    second = await one.poll()
    assert second.series is first.series
    assert math.isnan(told(second)["host.load1_count{host:web-7}"])
    server.series.append(metric("node_load5", 0.25, **NODE))
    third = await one.poll()
    assert told(third)["host.load5_count{host:web-7}"] == 0.25
    assert told(third)["host.interrupts_total{host:web-7}"] == 100.0
    monkeypatch.setattr(time, "time", lambda: now + 700)
    assert "host.load1_count{host:web-7}" not in told(await one.poll())


async def test_several_of_theirs_that_are_one_of_ours(server, source):
    pod = {"job": "kubelet", "namespace": "shop", "pod": "cart-7d4f9c6b8d-x2x4z"}
    server.series = [
        metric("container_cpu_usage_seconds_total", 3.0, container="a", **pod),
        metric("container_cpu_usage_seconds_total", 4.0, container="b", **pod),
        metric("kube_pod_status_ready", 0.0, condition="true", job="kube-state-metrics", uid="1", **{
            k: v for k, v in pod.items() if k != "job"}),
        metric("kube_pod_status_ready", 1.0, condition="true", job="kube-state-metrics", uid="2", **{
            k: v for k, v in pod.items() if k != "job"}),
    ]  # fmt: skip
    found = told(await source().poll())
    assert found["replica.cpu_seconds_total{replica:cart/cart-7d4f9c6b8d-x2x4z}"] == 7.0
    assert found["replica.ready{replica:cart/cart-7d4f9c6b8d-x2x4z}"] == 0.0, "the worst counts"


async def test_gpus_and_model_servers(server, source):
    gpu = {
        "job": "dcgm-exporter",
        "instance": "10.0.0.8:9400",
        "UUID": VM,
        "Hostname": "gpu-1",
        "gpu": "0",
    }
    llm = {"job": "llm", "instance": "10.0.0.8:8000", "model_name": "tiny"}
    server.series = [
        metric("DCGM_FI_DEV_GPU_TEMP", 61.0, **gpu),
        metric("DCGM_FI_DEV_GPU_UTIL", 50.0, **gpu),
        metric("vllm:num_requests_running", 3.0, **llm),
        metric(
            "haproxy_backend_http_responses_total", 1.0, proxy="shop", code="5xx", job="haproxy"
        ),
        metric(
            "haproxy_backend_current_queue", 2.0, proxy="shop", job="haproxy", instance="lb:8404"
        ),
    ]
    server.derive("vllm", "service.latency_p95_seconds", [({"job": "llm"}, 0.75)])
    server.derive("haproxy", "service.error_ratio", [({"proxy": "shop"}, 0.02)])
    one = source()
    frame = await one.poll()
    assert told(frame) == {
        f"gpu.temperature_celsius{{gpu:{VM}}}": 61.0,
        f"gpu.utilization_ratio{{gpu:{VM}}}": 0.5,
        "service.error_ratio{service:shop}": 0.02,
        "service.in_flight_count{service:llm}": 3.0,
        "service.latency_p95_seconds{service:llm}": 0.75,
        "service.queue_count{service:shop}": 2.0,
    }
    card = Entity("gpu", VM)
    assert one.covers == {
        Series("gpu.temperature_celsius", card), Series("gpu.utilization_ratio", card),
    }  # fmt: skip
    edges = {e for s in frame.seen for e in s.edges}
    assert Edge("runs_on", Entity("gpu", VM), Entity("host", "gpu-1")) in edges
    assert Edge("serves", Entity("service", "llm"), Entity("model", "tiny")) in edges


async def test_metrics_without_a_word_of_ours_are_what_their_target_says(server, source):
    shop = {"job": "shop", "instance": "10.0.0.9:80"}
    server.series = [
        metric("shop_level", 7.0, part="a", **shop), metric("shop_things", 5.0, **shop),
        metric("shop_orders_total", 9.0, **shop), metric("shop_seconds_bucket", 1.0, le="1", **shop),
    ]  # fmt: skip
    server.kinds = {"shop_level": "gauge", "shop_things": "counter"}
    one = source(selectors=['{__name__=~"shop_.+"}', '{__name__=~"shop_l.+"}'])
    frame = await one.poll()
    assert {(s.metric, dict(s.labels)["metric"], v) for s, v in zip(frame.series, frame.values, strict=True)} == {
        ("replica.other_value", "shop_level", 7.0), ("replica.other_total", "shop_things", 5.0),
        ("replica.other_total", "shop_orders_total", 9.0),
    }  # fmt: skip
    assert (one._count.other, one._count.left_out) == (3, 1)


async def test_others_are_in_base_units_as_declared_else_as_named(server, source):
    shop = {"job": "shop", "instance": "10.0.0.9:80"}
    values = {
        "shop_wait_milliseconds": 250.0, "shop_room": 3.0, "shop_sent_kilobytes_total": 7.0, "shop_heat_celsius": 40.0,
        "shop_busy_percent": 30.0, "shop_took_ms_count": 9.0, "shop_took_ms_sum": 500.0, "shop_age_seconds": 2.0,
        "shop": 1.0,
    }  # fmt: skip
    server.series = [metric(name, value, **shop) for name, value in values.items()]
    server.kinds = {
        "shop_room": ("gauge", "mebibytes"), "shop_took_ms": ("histogram", ""),
        "shop_age_seconds": ("gauge", "minutes"),
    }  # fmt: skip
    frame = await source(selectors=['{job="shop"}', '{__name__=~"shop.*"}']).poll()
    told = {
        dict(s.labels)["metric"]: (v, dict(s.labels).get("unit", ""))
        for s, v in zip(frame.series, frame.values.tolist(), strict=True)
    }
    assert told == {
        "shop_wait_milliseconds": (0.25, "seconds"), "shop_room": (3 * 2.0**20, "bytes"),
        "shop_sent_kilobytes_total": (7000.0, "bytes"), "shop_heat_celsius": (40.0, "celsius"),
        "shop_busy_percent": (pytest.approx(0.3), "ratio"), "shop_took_ms_count": (9.0, ""),
        "shop_took_ms_sum": (0.5, "seconds"), "shop_age_seconds": (120.0, "seconds"), "shop": (1.0, ""),
    }  # fmt: skip


# ---- GPUs

CARD = {"job": "dcgm-exporter", "instance": "10.0.0.8:9400", "UUID": VM, "hostname": "gpu-1", "gpu": "0"}  # fmt: skip


def split(name: str, *values: float):
    """Say a metric of a GPU once for each of its instances."""
    return [
        metric(name, value, GPU_I_ID=str(7 + i), GPU_I_PROFILE="1g.5gb", **CARD)
        for i, value in enumerate(values)
    ]


async def test_what_is_told_of_a_gpu_once_for_each_instance_is_not_added(server, source):
    server.series = [
        *split("DCGM_FI_DEV_GPU_TEMP", 60, 60, 60), *split("DCGM_FI_DEV_POWER_USAGE", 200, 200, 200),
        *split("DCGM_FI_DEV_POWER_MGMT_LIMIT", 400, 400, 400), *split("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 5, 5, 5),
        *split("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 1, 1, 1), *split("DCGM_FI_DEV_FB_USED", 1000, 200, 30),
    ]  # fmt: skip
    assert told(await source().poll()) == {
        f"gpu.temperature_celsius{{gpu:{VM}}}": 60.0,
        f"gpu.power_watts{{gpu:{VM}}}": 200.0,
        f"gpu.power_limit_watts{{gpu:{VM}}}": 400.0,
        f"gpu.pcie_replays_total{{gpu:{VM}}}": 5.0,
        f"gpu.remapped_rows_count{{gpu:{VM},type=uncorrected}}": 1.0,
        f"gpu.memory_used_bytes{{gpu:{VM}}}": 1230 * 2.0**20,  # this alone is a part
    }


@pytest.mark.parametrize("values", [
    {"GPU_UTIL": 87, "MEM_COPY_UTIL": 40, "FB_USED": 2048, "SM_CLOCK": 1980, "MEM_CLOCK": 2619, "FAN_SPEED": 30},
    {"GPU_UTIL_RATIO": 0.87, "MEMORY_UTIL_RATIO": 0.4, "FB_USED_BYTES": 2.0**31, "SM_CLOCK_HERTZ": 1.98e9,
     "MEMORY_CLOCK_HERTZ": 2.619e9, "FAN_SPEED_RATIO": 0.3},
])  # fmt: skip
async def test_fields_that_exporters_since_4_9_show_in_other_units_mean_the_same(
    server, source, values
):
    server.series = [metric(f"DCGM_FI_DEV_{name}", v, **CARD) for name, v in values.items()]
    server.series.append(metric("DCGM_FI_DEV_GPU_TEMP_CELSIUS", 60.0, **CARD))
    assert told(await source().poll()) == pytest.approx({
        f"gpu.temperature_celsius{{gpu:{VM}}}": 60.0, f"gpu.utilization_ratio{{gpu:{VM}}}": 0.87,
        f"gpu.memory_busy_ratio{{gpu:{VM}}}": 0.4, f"gpu.memory_used_bytes{{gpu:{VM}}}": 2.0**31,
        f"gpu.clock_hertz{{gpu:{VM}}}": 1.98e9, f"gpu.memory_clock_hertz{{gpu:{VM}}}": 2.619e9,
        f"gpu.fan_ratio{{gpu:{VM}}}": 0.3,
    })  # fmt: skip


async def test_pods_that_share_a_gpu_do_not_multiply_it(server, source):
    names = {"POWER_USAGE": 200.0, "GPU_TEMP": 60.0, "FB_USED": 1000.0, "ECC_SBE_VOL_TOTAL": 3.0}
    server.series = [
        metric(f"DCGM_FI_DEV_{name}", value, exported_pod=f"llm-{i}", exported_namespace="ml", **CARD)
        for name, value in names.items() for i in range(3)
    ]  # fmt: skip
    # each counts something else of the same signal: these are added
    for word, count in (("CRC_FLIT", 4.0), ("CRC_DATA", 5.0)):
        name = f"DCGM_FI_DEV_NVLINK_{word}_ERROR_COUNT_TOTAL"
        server.series += [metric(name, count, exported_pod=f"llm-{i}", **CARD) for i in range(3)]
    assert told(await source().poll()) == {
        f"gpu.power_watts{{gpu:{VM}}}": 200.0,
        f"gpu.temperature_celsius{{gpu:{VM}}}": 60.0,
        f"gpu.memory_used_bytes{{gpu:{VM}}}": 1000 * 2.0**20,
        f"gpu.ecc_errors_total{{gpu:{VM},type=corrected}}": 3.0,
        f"gpu.nvlink_errors_total{{gpu:{VM},type=crc}}": 9.0,
    }


async def test_two_who_tell_of_the_same_whole_do_not_double_it(server, source):
    server.series = [
        metric("haproxy_backend_http_responses_total", 1.0, proxy="shop", code="5xx", job="haproxy"),
        metric("kube_pod_status_ready", 1.0, pod="cart-0", condition="true", job="kube-state-metrics"),
        *(metric(f"haproxy_backend_{name}", value, proxy="shop", job="haproxy", instance=f"lb{i}:8404")
          for name, value in (("active_servers", 3.0), ("current_queue", 2.0)) for i in (1, 2)),
        *(metric("kube_deployment_status_replicas_available", 4.0, deployment="cart", namespace="shop",
                 job="kube-state-metrics", instance=f"ksm{i}:8080") for i in (1, 2)),
    ]  # fmt: skip
    found = told(await source().poll())
    assert found["service.replicas_count{service:shop}"] == 3.0
    assert found["service.queue_count{service:shop}"] == 4.0, "each has a queue of its own"
    assert found["service.replicas_count{service:cart}"] == 4.0


DEFAULT_COUNTERS = {
    "SM_CLOCK": 1980, "MEM_CLOCK": 2619, "MEMORY_TEMP": 61, "GPU_TEMP": 55, "POWER_USAGE": 612,
    "PCIE_REPLAY_COUNTER": 3, "GPU_UTIL": 87, "MEM_COPY_UTIL": 40, "FB_FREE": 20 * 1024, "FB_USED": 60 * 1024,
    "UNCORRECTABLE_REMAPPED_ROWS": 0, "CORRECTABLE_REMAPPED_ROWS": 1, "ROW_REMAP_FAILURE": 0, "XID_ERRORS": 0,
}  # fmt: skip
"""What dcgm-exporter's etc/default-counters.csv does not comment out, as far as we read it."""


async def test_what_dcgm_exporter_is_not_told_to_export_stays_known(
    server, source, tmp_path, monkeypatch
):
    """Each signal of a GPU that a rule reads, with the exporter's default counters beside our own look."""
    monkeypatch.setenv("NVML_STUB", str(tmp_path / "state"))
    (tmp_path / "state").write_text("healthy")
    gpu, world = Gpu("gpu", Gpu.Config(library=nvml_side.library(tmp_path), timeout=10.0)), World()
    try:
        before = await gpu.poll()
        ours = {s for s in before.series if s.entity.kind in {"gpu", "host"}}
        cards = sorted({s.entity.key for s in ours if s.entity.kind == "gpu"})
        server.series = [
            metric(f"DCGM_FI_DEV_{name}", value, **{**CARD, "UUID": key, "gpu": str(i)})
            for i, key in enumerate(cards) for name, value in DEFAULT_COUNTERS.items()
        ]  # fmt: skip
        one = source()
        theirs = await one.poll()
        gpu.cede(one.covers)
        rest = await gpu.poll()
        assert one.covers
        assert not one.covers & set(rest.series), "told twice"
        assert gpu.rests_s > gpu.interval_s
        world.take(before)
        for frame in (theirs, rest):
            world.take(frame)
        unknown = {str(s) for s in ours if world.get(s) is None}
        assert unknown == set()
        read = {m for m in hardware.SIGNALS_READ if any(s.metric == m for s in ours)}
        assert {"gpu.uncorrected_errors_count", "gpu.pcie_link_ratio", "gpu.nvlinks_count"} <= read
        assert {s.metric for s in rest.series} >= {
            "gpu.reachable", "gpu.throttled", "gpu.power_limit_watts", "gpu.processes_count", "host.gpu_driver_up",
            "host.gpus_count", "gpu.temperature_margin_celsius", "gpu.uncorrected_errors_count",
        }  # fmt: skip
        # the exporter is gone: nothing is left to it
        server.series = [metric("up", 1.0, job="x")]
        await one.poll()
        assert one.covers == frozenset()
        gpu.cede(one.covers)
        assert set((await gpu.poll()).series) == set(before.series)
        assert gpu.rests_s == 0.0
    finally:
        gpu.close()


# ---- models, containers, histograms


@pytest.mark.parametrize(
    ("name", "labels", "model", "version"),
    [
        (":tensorflow:serving:request_count", {"model_name": "fraud", "status": "OK"}, "fraud", ""),
        ("ts_inference_requests_total", {"model_name": "fraud", "model_version": "2.0"}, "fraud", "2.0"),
        ("request_predict_seconds_count", {"model_name": "fraud"}, "fraud", ""),
        ("model_infer_request_success_total", {"model": "fraud", "version": "v1"}, "fraud", "v1"),
    ],
)  # fmt: skip
async def test_servers_whose_metrics_are_only_derived_show_their_models_too(
    server, source, name, labels, model, version
):
    server.series = [metric(name, 5.0, job="scoring", instance="10.0.0.9:8500", **labels)]
    edges = {e for s in (await source().poll()).seen for e in s.edges}
    who, replica = Entity("service", "scoring"), Entity("replica", "scoring/10.0.0.9:8500")
    assert Edge("serves", who, Entity("model", model)) in edges
    serves = Entity("version", f"{model}/{version}") if version else Entity("model", model)
    assert Edge("serves", replica, serves) in edges


async def test_containers_of_docker_are_replicas_of_what_compose_calls_them(server, source):
    labels = {"job": "cadvisor", "instance": "10.0.0.9:8080", "image": "cart:2"}
    cart = {
        "id": "/docker/a",
        "name": "proj-cart-1",
        "container_label_com_docker_compose_service": "cart",
        **labels,
    }
    pod = {
        "id": "/kubepods/c",
        "name": "k8s_web_web-0",
        "container": "web",
        "pod": "web-0",
        "namespace": "ml",
        **labels,
    }
    server.series = [
        metric("container_cpu_usage_seconds_total", 5.0, cpu="total", **cart),
        metric("container_memory_working_set_bytes", 6.0, **cart),
        metric("container_cpu_usage_seconds_total", 7.0, id="/docker/b", name="db", **labels),
        metric("container_cpu_usage_seconds_total", 8.0, id="/", **labels),
        metric("container_cpu_usage_seconds_total", 9.0, **pod),
    ]
    frame = await source().poll()
    assert told(frame) == {
        "replica.cpu_seconds_total{replica:cart/proj-cart-1}": 5.0,
        "replica.memory_bytes{replica:cart/proj-cart-1}": 6.0,
        "replica.cpu_seconds_total{replica:db/db}": 7.0,
        "replica.cpu_seconds_total{replica:web/web-0}": 9.0,
    }
    edges = {e for s in frame.seen for e in s.edges}
    assert Edge("serves", Entity("replica", "cart/proj-cart-1"), Entity("service", "cart")) in edges


async def test_histograms_of_a_service_of_ones_own_become_quantiles(server, source):
    server.series = [metric("shop_took_sum", 1.0, job="shop")]
    server.kinds = {"shop_took": ("histogram", "milliseconds")}
    server.derived = {"own0/1": [({"job": "shop"}, 0.2)], "own1/1": [({"job": "cart"}, 0.3)],
                      "http/5": [({"job": "web"}, 0.01)]}  # fmt: skip
    one = source(histograms=["shop_took", 'rpc_seconds_bucket{side="in"}'], exporters=[])
    assert told(await one.poll()) == {
        "service.latency_p95_seconds{service:shop}": 0.2,
        "service.latency_p95_seconds{service:cart}": 0.3,
    }
    first, second = (
        next(q for q in server.asked if f'"{name}/1"' in q) for name in ("own0", "own1")
    )
    assert '{__name__="shop_took_bucket"}[60s]))) * 0.001' in first, "in seconds"
    assert '{__name__="rpc_seconds_bucket", side="in"}[60s]))), "' in second
    for bad in ("a b", "sum(x)", "{job='x'}"):
        with pytest.raises(ValidationError):
            source(histograms=[bad])


async def test_the_namespace_of_who_is_called_is_told_by_a_label_of_its_own(server):
    config = Prometheus.Config(url=server.url)
    one = Prometheus("prometheus", config, Names(qualify=True))
    server.series = [metric("istio_request_duration_milliseconds_count", 1.0, job="mesh")]
    labels = {"destination_canonical_service": "pay", "destination_workload_namespace": "shop"}
    server.derive("istio", "service.latency_p95_seconds", [(labels, 0.2)])
    assert told(await one.poll()) == {"service.latency_p95_seconds{service:shop/pay}": 0.2}
    one.close()


async def test_queries_name_their_series(server, source):
    server.series = [metric("shop_p95", 0.2)]
    one = source(queries={"service.latency_p95_seconds{service:shop}": "shop_p95"})
    assert told(await one.poll()) == {"service.latency_p95_seconds{service:shop}": 0.2}
    server.series.append(metric("shop_p95", 0.3, part="b"))
    with pytest.raises(Refused, match="gives 2 series"):
        await one.poll()
    assert str(read_series("host.load1_count{host:a, b=c}")) == "host.load1_count{host:a,b=c}"
    for bad in ("host.load1_count", "nothing{host:a}", "host.load1_count{gpu:a}"):
        with pytest.raises(ValidationError):
            source(queries={bad: "1"})


async def test_metrics_of_this_host_are_left_to_the_host_source(server, source):
    node(server, 100.0)
    # what the host source does not see stays
    where = {"job": "disks", "instance": "10.0.0.7:9633", "device": "sda"}
    server.series.append(metric("smartctl_device_smart_status", 1.0, **where))
    server.series.append(metric("smartctl_device_percentage_used", 4.0, **where))
    one = source()
    one._own = Entity("host", "web-7")
    assert told(await one.poll()) == {"host.disk_wear_ratio{host:web-7,device=sda}": 0.04}
    assert one._count.own_host == 3


async def test_alerts_are_told_when_they_begin_go_on_and_end(server, source, monkeypatch):
    one, now = source(), time.time()
    server.alerts = [
        {"labels": {"alertname": n, "job": "shop"}, "state": state, "activeAt": "2026-11-20T10:00:00.5Z",
         "annotations": {"summary": "too slow"}}
        for n, state in (("Slow", "firing"), ("Soon", "pending"), ("Watchdog", "firing"))
    ]  # fmt: skip
    (began,) = await one.read()
    assert (began.name, began.firing, began.labels, began.text) == (
        "Slow",
        True,
        (("job", "shop"),),
        "too slow",
    )
    assert await one.read() == []
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert [s.name for s in await one.read()] == ["Slow"]
    server.alerts = []
    (ended,) = await one.read()
    assert (ended.name, ended.firing) == ("Slow", False)
    server.alerts = [{"labels": 5}]
    with pytest.raises(Unavailable, match="not written as those of Prometheus"):
        await one.read()


async def test_the_past_is_read_once_and_bounded(server, source, monkeypatch):
    node(server, 100.0)
    server.grid = [1500.0, 1515.0, 1545.0]
    one = source()
    rows = await one.past(1490.0, 1560.0)
    assert [f.ts for f in rows] == [1515.0, 1530.0, 1545.0, 1560.0]
    load = [told(f)["host.load1_count{host:web-7}"] for f in rows]
    assert [None if math.isnan(x) else x for x in load] == [0.5, None, 0.5, None]
    assert len((await one.poll()).series) == 3
    monkeypatch.setattr(prometheus, "_MOST_CELLS", 13)
    assert len(await one.past(1490.0, 1560.0)) == 2, "no more than what fits"


# ---- failures

GARBAGE = [
    b"<html>hello</html>", b"", b"[]", b'{"status": "success"}', b"[" * 100_000, b'{"status": "success", "data": 5}',
    b'{"status": "success", "data": {"resultType": "vector"}}',
    b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": 5}]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "x"]}]}}',
    b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {"a": 1}, "value": [1, "2"]}]}}',
]  # fmt: skip


@pytest.mark.parametrize("body", GARBAGE)
async def test_garbage_is_said_to_be_some(server, source, body):
    one = source(selectors=["up"], exporters=[])
    server.bad = lambda h: say(
        h,
        200,
        {"status": "success", "data": ["up"]} if h.path.split("?")[0].endswith("values") else body,
    )
    with pytest.raises(Unavailable):
        await one.poll()
    server.bad = None
    assert (await one.poll()).source == "prometheus"


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (401, (), Refused, "we may not ask"),
        (403, (), Refused, "we may not ask"),
        (400, (), Refused, "400: "),
        (422, (), Refused, "422: "),
        (429, (("retry-after", "33"),), Unavailable, "429"),
        (500, (), Unavailable, "500"),
        (503, (("Retry-After", "soon"),), Unavailable, "503"),
        (
            302,
            (("Location", f"http://u:{CANARY}@10.9.9.9/x?token={CANARY}"),),
            Refused,
            "sends us to http://10.9.9.9/x",
        ),
    ],
)
async def test_what_a_no_means(server, source, monkeypatch, status, headers, error, words):
    monkeypatch.setenv("PROM_TOKEN", CANARY)
    body = {"status": "error", "error": f"bearer {CANARY} is\nnot right " + "x" * 5000}
    server.bad = lambda h: say(h, status, body, headers)
    one = source(token="env:PROM_TOKEN")
    with pytest.raises(error, match=words) as failed:
        await one.poll()
    text = str(failed.value)
    assert CANARY not in text
    assert "\n" not in text
    assert len(text) < 500
    assert len(server.asked) == 1, "nothing is tried again behind our back"
    if status == 429:
        assert failed.value.wait_s == 33.0
    trace = failed.value
    while trace is not None:
        assert CANARY not in str(trace)
        trace = trace.__cause__


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(server, source):
    sent = []

    def flood(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        for _ in range(1 << 14):
            handler.wfile.write(b" " * (1 << 16))
            sent.append(1)

    server.bad = flood
    with pytest.raises(Refused, match="larger than 1000000 bytes"):
        await source(most_bytes=1e6).poll()
    assert len(sent) < 1 << 10
    server.bad = None
    server.series = [metric("shop", 1.0, part=str(i)) for i in range(20)]
    with pytest.raises(Refused, match="20 series are more than 10"):
        await source(most_series=10, selectors=["shop"]).poll()


@pytest.mark.parametrize("how", ["silent", "drips", "half"])
async def test_a_server_that_does_not_end_is_given_up(server, source, how):
    gone = threading.Event()

    def slow(handler) -> None:
        if how == "half":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"{")
            handler.close_connection = True
            return
        if how == "drips":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
            while not gone.wait(0.05):
                handler.wfile.write(b" ")
        gone.wait(20)

    server.bad = slow
    one = source(timeout=0.4)
    start = time.monotonic()
    try:
        with pytest.raises(Unavailable, match=r"no answer within|no whole answer within|broke off"):
            await one.poll()
    finally:
        gone.set()
    assert time.monotonic() - start < 10


async def test_a_poll_that_was_given_up_is_not_asked_beside(server, source):
    gone = threading.Event()
    server.bad = lambda h: gone.wait(20)
    one = source(timeout=0.5)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await one.poll()
    with pytest.raises(Unavailable, match="not answered yet"):
        await one.poll()
    gone.set()
    await asyncio.sleep(1.0)
    server.bad = None
    node(server, 1.0)
    assert len((await one.poll()).series) == 3


async def test_nobody_there(source, server, monkeypatch):
    monkeypatch.setenv("PROM_TOKEN", CANARY)
    url = server.url
    config = Prometheus.Config(url="http://127.0.0.1:1", token="env:PROM_TOKEN")
    one = Prometheus("prometheus", config)
    with pytest.raises(Unavailable, match=r"no connection .connection refused.") as failed:
        await one.poll()
    assert CANARY not in str(failed.value)
    assert (await one.describe())[0].startswith("http://127.0.0.1:1/")
    assert url


async def test_who_asks_is_said_by_reference(server, source, monkeypatch, tmp_path):
    monkeypatch.setenv("PROM_TOKEN", CANARY)
    (tmp_path / "password").write_text(CANARY)
    await source(token="env:PROM_TOKEN", headers={"X-Scope-OrgID": "team-a"}).poll()
    assert server.headers[-1]["authorization"] == f"Bearer {CANARY}"
    assert server.headers[-1]["x-scope-orgid"] == "team-a"
    await source(user="me", password=f"file:{tmp_path / 'password'}").poll()
    assert server.headers[-1]["authorization"].startswith("Basic ")
    with pytest.raises(Refused, match="NOT_THERE is not set"):
        await source(token="env:NOT_THERE").poll()
    for bad in ({"token": "env:X", "user": "y"}, {"key": "/k"}, {"url": f"http://a:{CANARY}@b"}):
        with pytest.raises(ValidationError) as failed:
            Prometheus.Config(**{"url": server.url, **bad})
        assert (
            "two ways in" in str(failed.value)
            or "belongs to" in str(failed.value)
            or "password" in str(failed.value)
        )


async def test_it_says_what_it_sees(server, source):
    node(server, 1.0)
    server.scraped = {(NODE["job"], NODE["instance"]): time.time()}
    lines = await source().describe()
    assert lines[0] == f"{server.url}: 3 series known by name (node_exporter), 0 others"
    assert any("1 target that is scraped" in line for line in lines)
    assert any("job_name: homeostat" in line for line in lines)
