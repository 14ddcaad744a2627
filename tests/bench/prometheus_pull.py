"""What a pull from Prometheus costs us: CPU of one look at 10,000 series, beside what others do with the same answer.

    python tests/bench/prometheus_pull.py [--series 10000] [--rounds 20]     # make bench-prometheus

A real Prometheus (`make debian`) scrapes a page of so many series each second. "homeostat" is all that the source does
at one look: the questions, their answers, columns, a frame. "data frame" is prometheus-api-client's own way, the
same question and `MetricSnapshotDataFrame`; "json.loads" the same question and no more than that. CPU of this process
(`time.process_time`), threads included; the servers are others. Prints a table and writes build/bench/prometheus.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
# Beside this file `agent.py`, a benchmark, would hide the package.
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "live")]

from daemon_process import free_port  # noqa: E402
from live_report import machine  # noqa: E402

from connectors.prometheus import Prometheus  # noqa: E402

OUT = ROOT / "build" / "bench" / "prometheus.json"
MOST_MS = 150.0
"""What we promise."""
SELECTOR = '{job="bench",__name__=~"shop_.*"}'
PAGE = """
import http.server, sys, time
def lines(metric, t):
    name = "shop_m%d_%s" % (metric, ("total", "depth")[metric % 2])
    yield "# TYPE %s %s" % (name, ("counter", "gauge")[metric % 2])
    for i in range(100):
        value = t * (metric + i) % 999983 if metric % 2 else t + i
        yield '%s{route="/r%d",method="GET",zone="z%d"} %d.5' % (name, i, i % 7, value)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.end_headers()
        said = [x for m in range(int(sys.argv[2]) // 100) for x in lines(m, int(time.time()))]
        self.wfile.write(("\\n".join(said) + "\\n").encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


@contextmanager
def scraping(program: str, series: int, folder: Path) -> Iterator[str]:
    """Run Prometheus and what it scrapes; yields its address once all of it is there."""
    own, other = free_port(), free_port()
    (folder / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "bench", "static_configs": [{"targets": [f"127.0.0.1:{other}"]}]}],
    }))  # fmt: skip
    url = f"http://127.0.0.1:{own}"
    with (folder / "log").open("wb") as log:
        running = [
            subprocess.Popen(argv, stdout=log, stderr=log)
            for argv in (
                [sys.executable, "-c", PAGE, str(other), str(series)],
                [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{own}"],
            )
        ]  # fmt: skip
    try:
        until = time.monotonic() + 60
        while _count(url) < series:
            if time.monotonic() > until:
                raise SystemExit(f"Prometheus has not scraped {series} series: {folder / 'log'}")
            time.sleep(0.5)
        yield url
    finally:
        for process in running:
            process.kill()
            process.wait(10)


def _count(url: str) -> int:
    try:
        found = httpx.get(f"{url}/api/v1/query", params={"query": f"count({SELECTOR})"}).json()
        return int(found["data"]["result"][0]["value"][1])
    except (httpx.HTTPError, ValueError, LookupError):
        return 0


def homeostat(url: str, series: int) -> Callable[[], Awaitable[int]]:
    source = Prometheus("prometheus", Prometheus.Config(url=url, selectors=[SELECTOR], alerts=False))  # fmt: skip

    async def look() -> int:
        frame = await source.poll()
        assert len(frame.series) >= series
        return len(frame.series)

    return look


def data_frame(url: str) -> Callable[[], Awaitable[int]]:
    from prometheus_api_client import MetricSnapshotDataFrame, PrometheusConnect

    client = PrometheusConnect(url=url)

    async def look() -> int:
        return len(MetricSnapshotDataFrame(client.custom_query(SELECTOR)))

    return look


def plain(url: str) -> Callable[[], Awaitable[int]]:
    client = httpx.Client()

    async def look() -> int:
        answer = await asyncio.to_thread(
            client.get, f"{url}/api/v1/query", params={"query": SELECTOR}
        )
        return len(json.loads(answer.content)["data"]["result"])

    return look


async def measure(url: str, series: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for subject, look in (
        ("homeostat", homeostat(url, series)),
        ("data frame", data_frame(url)),
        ("json.loads", plain(url)),
    ):
        spent = []
        for _ in range(rounds + 1):
            start = time.process_time()
            await look()
            spent.append(1e3 * (time.process_time() - start))
            await asyncio.sleep(0.2)  # some looks bring what was scraped since, as they do
        figures = {
            "first_pull_cpu_ms": spent[0],
            "pull_cpu_ms": statistics.median(spent[1:]),
            "most_pull_cpu_ms": max(spent[1:]),
        }
        rows += [
            {"set": f"{series} series", "subject": subject, "figure": name, "value": round(value, 1)}
            for name, value in figures.items()
        ]  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20, help="looks that count, after the first")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    program = shutil.which("prometheus")
    if program is None:
        sys.stdout.write("no prometheus here, so this is left out: install it with `make debian`\n")
        return 0
    with (
        tempfile.TemporaryDirectory() as folder,
        scraping(program, asked.series, Path(folder)) as url,
    ):
        rows = asyncio.run(measure(url, asked.series, asked.rounds))
    of = {(row["subject"], row["figure"]): row["value"] for row in rows}
    sys.stdout.write(f"ms of CPU of a pull of {asked.series:,} series\n")
    for subject in dict.fromkeys(row["subject"] for row in rows):
        first, usual, most = (
            of[subject, f] for f in ("first_pull_cpu_ms", "pull_cpu_ms", "most_pull_cpu_ms")
        )
        ratio = of["homeostat", "pull_cpu_ms"] / usual
        sys.stdout.write(
            f"{subject:12}{usual:8.1f} (most {most:.1f}, the first {first:.1f}); homeostat takes {ratio:.2f} of it\n"
        )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"\n{report['machine']}\nwritten to {asked.out}\n")
    within = of["homeostat", "pull_cpu_ms"] <= MOST_MS * asked.series / 10_000
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
