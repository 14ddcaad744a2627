"""A real Prometheus that has scraped `/metrics` is replayed as what was told it."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time

import httpx
import pytest
from daemon_process import free_port, wait_for

pytestmark = pytest.mark.live

SIGNALS = """
# TYPE homeostat_service_latency_p95_seconds gauge
homeostat_service_latency_p95_seconds{{entity="service:shop"}} {p95}
# TYPE homeostat_host_disk_busy_ratio gauge
homeostat_host_disk_busy_ratio{{entity="host:h",device="sda"}} 0.25
# TYPE homeostat_ticks_total counter
homeostat_ticks_total 7
# TYPE shop_queue gauge
shop_queue{{part="a"}} 3
shop_queue{{part="b"}} 4
"""
AGENT = """
services: [{id: shop, objectives: [{signal: service.latency_p95_seconds, max: 250ms, for: 2s}]}]
diagnose: {settle: 2s}
"""


@pytest.fixture
def scraped(needs, tmp_path):
    """Let Prometheus scrape a page of ours that is calm, then late; returns its address and when it began."""
    pytest.importorskip("prometheus_api_client")
    late = threading.Event()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = SIGNALS.format(p95=0.9 if late.is_set() else 0.03).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    own, config = free_port(), tmp_path / "prometheus.yml"
    config.write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "homeostat", "static_configs": [
            {"targets": [f"127.0.0.1:{page.server_port}"]}]}],
    }))  # fmt: skip
    argv = [
        needs("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{own}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        wait_for("prometheus", lambda: httpx.get(f"{url}/-/ready").status_code == 200)
        began = time.time()
        wait_for("a scrape", lambda: _value(url) == 0.03)
        time.sleep(6)
        late.set()
        wait_for("a late one", lambda: _value(url) == 0.9)
        time.sleep(8)
        yield url, began
    finally:
        server.kill()
        server.wait(10)
        page.shutdown()
        page.server_close()


def _value(url: str) -> float | None:
    asked = {"query": "homeostat_service_latency_p95_seconds"}
    found = httpx.get(f"{url}/api/v1/query", params=asked).json()["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def test_what_was_scraped_is_walked(scraped, tmp_path):
    url, began = scraped
    (tmp_path / "agent.yaml").write_text(AGENT)

    def replay(*words):
        argv = [sys.executable, "-m", "agent", "replay", "--prometheus", url, "--step", "1s", "--json",
                "--config", str(tmp_path / "agent.yaml"), "--from", str(began - 30), *words]  # fmt: skip
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    queue = "service.busy_ratio{service:shop}=sum(shop_queue) / 10"
    done = replay("--query", queue)
    assert done.returncode == 0, done.stderr + done.stdout
    said = json.loads(done.stdout)
    assert said["series"] == 3, "latency, disk and the query; no counter, and nothing of others"
    (page,) = [i for i in said["incidents"] if i["paged"]]
    assert (page["about"], page["state"]) == ("service:shop", "open")
    done = replay("--query", "service.busy_ratio{service:shop}=shop_queue")
    assert (done.returncode, "gives 2 series" in done.stdout) == (1, True)
    done = replay("--query", "service.busy_ratio{service:shop}=sum(")
    assert (done.returncode, "refused `sum(`" in done.stdout) == (1, True)
    argv = [
        sys.executable,
        "-m",
        "agent",
        "replay",
        "--prometheus",
        f"http://127.0.0.1:{free_port()}",
    ]
    gone = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (gone.returncode, "does not answer" in gone.stderr) == (1, True), gone.stderr
