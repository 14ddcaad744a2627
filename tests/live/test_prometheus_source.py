"""A real Prometheus that scrapes a real node_exporter: its series, its targets that go, its alerts; `homeostat try`."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
import sys
import time

import httpx
import pytest
from daemon_process import free_port, wait_for

from agent.errors import Unavailable
from agent.model import Entity
from agent.rates import Rates
from agent.testing import check_source
from connectors.prometheus import Prometheus

pytestmark = pytest.mark.live

ALERT = {
    "alert": "ExporterGone",
    "expr": "up == 0",
    "annotations": {"summary": "an exporter is gone"},
}


@pytest.fixture
def scraping(needs, tmp_path):
    """Run both; yields the address of Prometheus and the process of the exporter."""
    pytest.importorskip("prometheus_api_client")
    own, other = free_port(), free_port()
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": [ALERT]}]}))
    (tmp_path / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{other}"]}]}],
    }))  # fmt: skip
    url = f"http://127.0.0.1:{own}"
    with (tmp_path / "log").open("wb") as log:
        exporter = subprocess.Popen(
            [needs("prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{other}"], stdout=log, stderr=log
        )  # fmt: skip
        server = subprocess.Popen(
            [needs("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}",
             f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{own}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for("a scrape", lambda: len(_up(url)) == 1, 40)
        yield url, exporter, server
    finally:
        for process in (exporter, server):
            process.kill()
            process.wait(10)


def _up(url: str) -> list:
    found = httpx.get(f"{url}/api/v1/query", params={"query": "rate(node_intr_total[10s])"})
    return found.json()["data"]["result"] if found.status_code == 200 else []


def _values(frame) -> dict[str, float]:
    return {s.metric: v for s, v in zip(frame.series, frame.values.tolist(), strict=True)}


async def test_what_node_exporter_says_is_a_host_of_ours(scraping):
    url, exporter, server = scraping
    source = Prometheus("prometheus", Prometheus.Config(url=url, window=10, stale=5))
    source._own = Entity("host", "elsewhere")  # here the exporter is on our own host
    rates = Rates()
    rates.apply(await source.poll())
    await asyncio.sleep(2.5)
    frame = rates.apply(await source.poll())
    got = _values(frame)
    assert {s.entity for s in frame.series} == {Entity("host", socket.gethostname())}
    assert 0 < got["host.memory_utilization_ratio"] < 1
    assert 0 < got["host.disk_utilization_ratio"] < 1
    assert 0 <= got["host.cpu_busy_ratio"] <= 1
    assert got["host.interrupts_per_second"] > 0
    assert got["host.uptime_seconds"] > 0
    fresh = Prometheus("prometheus", Prometheus.Config(url=url, window=10))
    fresh._own, fresh.interval_s = source._own, 1.0
    past = await fresh.past(time.time() - 4, time.time())
    fresh.close()
    assert len(past) == 4
    assert _values(past[-1])["host.load1_count"] > 0
    exporter.kill()
    for _ in range(40):
        alerts = await source.read()
        if alerts:
            break
        await asyncio.sleep(0.5)
    assert [(a.name, a.firing, a.text) for a in alerts] == [
        ("ExporterGone", True, "an exporter is gone")
    ]
    got = _values(await source.poll())
    assert math.isnan(got["host.load1_count"]), "its column stays, and nobody answers"
    server.kill()
    server.wait(10)
    with pytest.raises(Unavailable, match="no connection"):
        await source.poll()
    source.close()


@pytest.fixture
def victoria(needs, tmp_path):
    """Run a VictoriaMetrics that scrapes; yields its address and the process of the exporter."""
    pytest.importorskip("prometheus_api_client")
    own, other = free_port(), free_port()
    (tmp_path / "scrape.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{other}"]}]}],
    }))  # fmt: skip
    url = f"http://127.0.0.1:{own}"
    with (tmp_path / "log").open("wb") as log:
        exporter = subprocess.Popen(
            [needs("prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{other}"], stdout=log, stderr=log
        )  # fmt: skip
        server = subprocess.Popen(
            [needs("victoria-metrics"), f"-httpListenAddr=127.0.0.1:{own}", f"-storageDataPath={tmp_path / 'vm'}",
             f"-promscrape.config={tmp_path / 'scrape.yml'}", "-retentionPeriod=1", "-search.latencyOffset=1s"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for("a scrape", lambda: len(_up(url)) == 1, 40)
        yield url, exporter
    finally:
        for process in (exporter, server):
            process.kill()
            process.wait(10)


async def test_victoria_metrics_answers_as_prometheus_does(victoria):
    url, exporter = victoria
    source = Prometheus("vm", Prometheus.Config(url=url, window=10, stale=5))
    source._own = Entity("host", "elsewhere")
    rates = Rates()
    rates.apply(await source.poll())
    for _ in range(20):  # its newest second is not there at once
        await asyncio.sleep(1.0)
        frame = rates.apply(await source.poll())
        got = _values(frame)
        if got.get("host.interrupts_per_second", 0.0) > 0:
            break
    assert {s.entity for s in frame.series} == {Entity("host", socket.gethostname())}
    assert 0 < got["host.memory_utilization_ratio"] < 1
    assert got["host.interrupts_per_second"] > 0
    fresh = Prometheus("vm", Prometheus.Config(url=url, window=10))
    fresh._own, fresh.interval_s = source._own, 1.0
    past = await fresh.past(time.time() - 6, time.time() - 1)
    fresh.close()
    assert any(_values(one).get("host.load1_count", 0) > 0 for one in past)
    exporter.kill()
    for _ in range(30):
        await asyncio.sleep(0.5)
        got = _values(await source.poll())
        if math.isnan(got["host.load1_count"]):
            break
    assert math.isnan(got["host.load1_count"]), "its column stays, and nobody answers"
    source.close()


async def test_it_keeps_the_contract_of_a_source(scraping):
    url, _, _ = scraping

    def make():
        return Prometheus(
            "prometheus", Prometheus.Config(url=url, selectors=['{__name__=~"go_.+"}'])
        )

    async def close(source):
        source.close()

    for check in check_source(make, name="prometheus", close=close):
        assert await check.fault() is None


def test_homeostat_try_says_what_it_sees(scraping, tmp_path):
    url, _, _ = scraping
    config = tmp_path / "agent.yaml"
    config.write_text(f"connectors: {{prometheus: {{url: '{url}', selectors: ['go_goroutines']}}}}")
    argv = [sys.executable, "-m", "agent", "try", "prometheus", "--config", str(config), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    said = json.loads(done.stdout)
    assert "node_exporter" in said["says"][0]
    assert any("left to the source `host`" in line for line in said["says"])
    assert "  - job_name: homeostat" in said["says"]
    assert [s["labels"]["metric"] for s in said["series"]] == ["go_goroutines"]
