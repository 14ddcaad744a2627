"""OpenTelemetry in, remote write and alerts out, in one run of the daemon beside a real Prometheus, VictoriaMetrics,
Alertmanager and rotel: what the SDK sends comes back from their APIs as it was sent."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from daemon_process import Running, free_port, wait_for
from otlp_side import histogram, logs, metric, number, protobuf

from agent.authority import Tokens
from agent.control import Control

pytestmark = pytest.mark.live

SHOP = {"service.name": "shop", "service.instance.id": "a", "service.version": "7"}


class Wire:
    """All of them, started once."""

    def __init__(self, needs, folder: Path) -> None:
        pytest.importorskip("cramjam")
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.prometheus, self.alertmanager = free_port(), free_port()
        self.victoria = free_port()
        self.port = free_port()
        (folder / "prometheus.yml").write_text("{}")
        quiet = {"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}
        (folder / "am.yml").write_text(json.dumps(quiet))
        self.run(
            needs("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.prometheus}", "--web.enable-remote-write-receiver",
        )  # fmt: skip
        self.run(
            needs("prometheus-alertmanager"), f"--config.file={folder / 'am.yml'}", f"--storage.path={folder / 'am'}",
            f"--web.listen-address=127.0.0.1:{self.alertmanager}", "--cluster.listen-address=",
        )  # fmt: skip
        self.run(
            needs("victoria-metrics"), f"-httpListenAddr=127.0.0.1:{self.victoria}",
            f"-storageDataPath={folder / 'vm'}", "-retentionPeriod=1", "-search.latencyOffset=1s",
        )  # fmt: skip
        wait_for("prometheus", lambda: httpx.get(f"{self.prom()}/-/ready").status_code == 200)
        wait_for("alertmanager", lambda: httpx.get(f"{self.am()}/-/ready").status_code == 200)
        victoria = f"\n  vm: {{use: remote_write, url: 'http://127.0.0.1:{self.victoria}/api/v1/write', every: 1s}}"
        self.one = Running(folder, f"""
ingest_listen: 127.0.0.1:{self.port}
connectors:
  otlp: {{every: 1s}}
  remote_write:
    url: {self.prom()}/api/v1/write
    every: 1s
    scores: ['service.*']
    labels: {{cluster: test, instance: us}}
  alertmanager: {{url: '{self.am()}', alerts: [page, warning]}}{victoria}
services: [{{id: shop, objectives: [{{signal: service.error_ratio, max: 5%, for: 1s}}]}}]
diagnose: {{settle: 1s, resolve_after: 2s}}
""")  # fmt: skip
        self.token = Tokens(self._state()).add("sdk", "sender", time.time(), ["*"])
        self.one.start()
        self.began = time.time()

    def _state(self) -> Path:
        self.one.state.mkdir(exist_ok=True)
        return self.one.state / "tokens.json"

    def run(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / "servers.log").open("ab") as log:
            process = self.processes[argv[0]] = subprocess.Popen(argv, stdout=log, stderr=log)
        return process

    def prom(self) -> str:
        return f"http://127.0.0.1:{self.prometheus}"

    def am(self) -> str:
        return f"http://127.0.0.1:{self.alertmanager}"

    def push(self, body: bytes, path: str = "/v1/metrics", **headers: str) -> httpx.Response:
        base = {"authorization": f"Bearer {self.token}", "content-type": "application/x-protobuf"}
        return httpx.post(
            f"http://127.0.0.1:{self.port}{path}", content=body, headers={**base, **headers}
        )

    def serve(self, failed: float) -> None:
        """Send what the shop has served until now: ten requests a second, a share of them failed."""
        now = time.time()
        n = int((now - self.began) * 100)
        points = [
            histogram([int(n * share / 2), int(n * share / 2), 0], [0.1, 0.2], total=1.0, ts=now, start=self.began,
                      attrs={"http.response.status_code": status})
            for share, status in ((1 - failed, 200), (failed, 500))
        ]  # fmt: skip
        ours = metric("shop.level", "gauge", [number(42.5, ts=now)])
        served = metric("http.server.request.duration", "histogram", points, unit="s")
        assert self.push(protobuf(SHOP, [served, ours])).status_code == 200

    def query(self, base: str, text: str) -> list[tuple[dict, float]]:
        found = httpx.get(f"{base}/api/v1/query", params={"query": text}).json()["data"]["result"]
        return [(row["metric"], float(row["value"][1])) for row in found]

    def end(self) -> None:
        """End the daemon, when all tests are through: its series end there, too."""
        wait_for("our numbers", lambda: self.query(self.prom(), "homeostat_ticks_total"))
        assert self.one.kill(signal.SIGTERM) == 0
        assert self.query(self.prom(), '{job="homeostat"}') == []
        log = self.one.log.read_text()
        assert self.token not in log
        assert "bug" not in log

    def close(self) -> None:
        if self.one.process is not None and self.one.process.poll() is None:
            self.one.kill()
        for process in self.processes.values():
            process.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def wire(needs, tmp_path_factory):
    made = None
    try:
        made = Wire(needs, tmp_path_factory.mktemp("wire"))
        yield made
        made.end()
    finally:
        if made is not None:
            made.close()


def metrics_of(wire: Wire) -> dict[str, float]:
    lines = wire.one.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }


@pytest.fixture(scope="module")
def rotel(wire):
    """A collector that sends on to us; returns where it takes OTLP."""
    found = pytest.importorskip("rotel")
    port = free_port()
    wire.run(
        str(Path(found.__file__).parent / "rotel-agent"), "start", "--otlp-http-endpoint", f"127.0.0.1:{port}",
        "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}", "--otlp-exporter-endpoint", f"http://127.0.0.1:{wire.port}",
        "--otlp-exporter-protocol", "http", "--otlp-exporter-custom-headers", f"Authorization=Bearer {wire.token}",
        "--batch-timeout", "100ms",
    )  # fmt: skip
    wait_for("rotel", lambda: httpx.post(f"http://127.0.0.1:{port}/v1/metrics").status_code < 500)
    return f"http://127.0.0.1:{port}/v1/metrics"


@pytest.mark.parametrize("through", ["itself", "rotel"])
def test_what_the_sdk_sends_becomes_series(wire, request, through):
    exporter = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    endpoint, headers = (
        f"http://127.0.0.1:{wire.port}/v1/metrics",
        {"authorization": f"Bearer {wire.token}"},
    )
    if through == "rotel":
        endpoint, headers = request.getfixturevalue("rotel"), {}
    told = exporter.OTLPMetricExporter(
        endpoint=endpoint, headers=headers, compression=exporter.Compression.Gzip
    )
    reader = PeriodicExportingMetricReader(told, export_interval_millis=3_600_000)
    provider = MeterProvider(
        [reader], Resource({"service.name": through, "service.instance.id": "a"})
    )
    meter = provider.get_meter("test")
    level, orders = meter.create_gauge("level", unit="ms"), meter.create_counter("orders")
    served = meter.create_histogram(
        "http.server.request.duration", unit="s", explicit_bucket_boundaries_advisory=[0.1, 0.2]
    )
    level_of = f'homeostat_replica_other_value{{entity="replica:{through}/a",metric="level",unit="seconds"}}'
    rate_of = f'homeostat_replica_other_per_second{{entity="replica:{through}/a",metric="orders"}}'
    p50_of = f'homeostat_service_latency_p50_seconds{{entity="service:{through}"}}'

    def arrived():
        level.set(250)
        orders.add(30)
        served.record(0.15, {"http.response.status_code": 200})
        assert provider.force_flush()
        got = metrics_of(wire)
        return got if {level_of, rate_of, p50_of} <= got.keys() else None

    got = wait_for("what was sent", arrived, 60)
    provider.shutdown()
    assert got[level_of] == 0.25
    assert got[rate_of] > 30
    assert got[p50_of] == pytest.approx(0.15)
    assert f"service:{through}" in wire.one.get("/api/topology").text


def test_garbage_strangers_and_a_sender_of_one_model_change_nothing(wire):
    assert wire.push(b"garbage").status_code == 400
    assert wire.push(b"", authorization="Bearer no").status_code == 401
    own = Tokens(wire._state()).add("scoring", "sender", time.time(), ["fraud"])
    assert wire.push(protobuf(SHOP, []), authorization=f"Bearer {own}").status_code == 403
    assert wire.push(b"x" * 9_000_000).status_code == 413
    assert wire.push(logs(SHOP, [9, 17]), "/v1/logs").status_code == 200


def test_what_we_know_stands_in_their_prometheus_and_goes_from_it_with_its_series(wire):
    name = 'homeostat_replica_other_value{metric="shop.level"}'

    def known(base):
        wire.serve(0.0)
        return wire.query(base, name)

    for base in (wire.prom(), f"http://127.0.0.1:{wire.victoria}"):
        ((labels, value),) = wait_for("our numbers there", lambda: known(base))  # noqa: B023
        assert value == 42.5
        assert labels["entity"] == "replica:shop/a"
        assert labels["job"] == "homeostat"
    assert wire.query(wire.prom(), name)[0][0]["cluster"] == "test"
    promised = wire.query(wire.prom(), "homeostat_false_pages_budget_per_week")[0][1]
    assert promised == metrics_of(wire)["homeostat_false_pages_budget_per_week"]
    gone = metric("shop.level", "gauge", [number(None, ts=time.time(), flags=1)])
    assert wire.push(protobuf(SHOP, [gone])).status_code == 200
    wait_for("that it has ended", lambda: not wire.query(wire.prom(), name), 60)
    assert wire.query(wire.prom(), "homeostat_ticks_total"), "the rest goes on"
    ours = metrics_of(wire)
    assert ours['homeostat_sink_samples_total{sink="remote_write",outcome="delivered"}'] > 100
    assert 'homeostat_sink_samples_total{sink="remote_write",outcome="refused"}' not in ours


def test_an_incident_is_an_alert_there_and_silences_hold_on_both_sides(wire):
    control = Control(wire.one.state)

    def alerts(**labels):
        found = httpx.get(f"{wire.am()}/api/v2/alerts", params={"active": "true"}).json()
        return [a for a in found if labels.items() <= a["labels"].items()]

    def failing():
        wire.serve(0.5)
        return alerts(alertname="HomeostatIncident", service="shop")

    (alert,) = wait_for("the alert", failing, 60)
    incident = next(
        i for i in wire.one.get("/api/incidents").json() if i["id"] == alert["labels"]["incident"]
    )
    assert alert["labels"]["severity"] == incident["severity"]
    assert datetime.fromisoformat(alert["endsAt"]) > datetime.now(UTC) + timedelta(minutes=3)

    theirs = {
        "matchers": [{"name": "service", "value": "shop", "isRegex": False, "isEqual": True}],
        "startsAt": datetime.now(UTC).isoformat(), "endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "createdBy": "ann", "comment": "deploy",
    }  # fmt: skip
    made = httpx.post(f"{wire.am()}/api/v2/silences", json=theirs).json()["silenceID"]
    ours = control.post("/api/silences", {"target": "service:shop", "for": "2h", "reason": "ours"})

    def there():
        found = httpx.get(f"{wire.am()}/api/v2/silences").json()
        return [s for s in found if s["status"]["state"] == "active" and s["id"] != made]

    (mirrored,) = wait_for("ours there", there)
    assert mirrored["comment"] == f"ours [{ours['id']}]"
    assert mirrored["matchers"] == [
        {"name": "service", "value": "shop", "isRegex": True, "isEqual": True}
    ]
    assert datetime.fromisoformat(mirrored["endsAt"]).timestamp() == pytest.approx(
        ours["until"], abs=1
    )
    held = wait_for(
        "theirs here", lambda: [s for s in wire.one.get("/api/silences").json() if "ann" in s["by"]]
    )
    assert held[0]["target"] == "service:shop"
    httpx.delete(f"{wire.am()}/api/v2/silence/{made}").raise_for_status()
    control.delete(f"/api/silences/{ours['id']}")
    wait_for("its end there", lambda: not there())
    wait_for("the end of theirs here", lambda: not wire.one.get("/api/silences").json())

    def over():
        wire.serve(0.0)
        wire.began = time.time() - 1  # counters of a process that began anew
        return not alerts(alertname="HomeostatIncident", service="shop")

    wait_for("the end of the alert", over, 60)
    problems = wire.one.get("/health").json()["problems"]
    assert not [one for one in problems if "connector" in one]
