"""What the daemon costs: memory, CPU, series, lost frames, and what it must not have loaded.

    python tests/bench/agent.py [--seconds 60] [--settle 15] [--jobs 75]

Starts the real daemon in a state folder of its own, with all built-in sources at 1 s, and measures it from outside
through /proc. The host is given `--jobs` idle processes and the daemon looks at each of them, so that there are about
1,000 series, as is promised. Then a person starts a playbook by hand, and memory is measured once more after this first
run: it loads the engine of runs. prometheus-node-exporter, where it is installed, is measured at the same time as the
daemon before its run, scraped once a second. Prints a table and writes build/bench/agent.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench" / "agent.json"
HEAVY = ("sklearn", "scipy", "torch", "pandas", "statsmodels", "mlflow", "elasticsearch")
RIVAL = "prometheus-node-exporter"
SETTLE_UNTIL_S = 60.0
RUN_UNTIL_S = 60.0
PLAYBOOK = """\
version: 1
id: bench-run
title: Take a picture of this host
mode: auto
target: {kind: host}
because: {cause: host}
when: ['host.cpu_utilization_ratio > 2.0']
guard: {settle: 1s}
do: [{id: picture, use: collect}]
"""
"""It never fires by itself, and its run changes nothing; but its run is one like all."""


@dataclass
class Meter:
    """Memory and CPU of a process with its children, sampled once a second."""

    process: psutil.Process
    rss: list[int] = field(default_factory=list)
    tree: list[int] = field(default_factory=list)
    started: float = 0.0
    cpu_then: float = 0.0

    def begin(self) -> None:
        """Forget what was before: from here on it counts."""
        self.rss.clear()
        self.tree.clear()
        self.started, self.cpu_then = time.monotonic(), self.cpu()

    def cpu(self) -> float:
        """CPU seconds of the process and all its children, also those that have ended."""
        t = self.process.cpu_times()
        live = 0.0
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                c = child.cpu_times()
                live += c.user + c.system
        return float(t.user + t.system + t.children_user + t.children_system) + live

    def sample(self) -> None:
        own = self.process.memory_info().rss
        children = 0
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                children += child.memory_info().rss
        self.rss.append(own)
        self.tree.append(own + children)

    def cpu_share(self) -> float:
        """Share of one core since `begin`."""
        return (self.cpu() - self.cpu_then) / (time.monotonic() - self.started)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def native(pid: int) -> list[str]:
    """Heavy packages of which native code is mapped into a process."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    return [name for name in HEAVY if re.search(rf"/{name}[./-]", maps)]


@contextlib.contextmanager
def idle(count: int) -> Iterator[None]:
    """Processes that do nothing, each a group of its own."""
    made = [subprocess.Popen(["sleep", "3600"], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for one in made:
            one.kill()
            one.wait()


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon in its own process and state folder; ended by SIGTERM."""
    config = folder / "agent.yaml"
    wanted = {
        "listen": f"127.0.0.1:{free_port()}",
        "single_agent": True,
        "manages": [{"kind": "host", "key": "*"}],
        "connectors": {"processes": {"interval": "1s", "top": 200, "top_applications": 100}},
    }
    config.write_text(json.dumps(wanted), encoding="utf-8")  # JSON is YAML
    (folder / "playbooks.d").mkdir()
    (folder / "playbooks.d" / "bench-run.yaml").write_text(PLAYBOOK, encoding="utf-8")
    state = folder / "state"
    command = [sys.executable, "-m", "agent", "run", "--config", str(config), "--state", str(state)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_clean())
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _clean() -> dict[str, str]:
    """Our environment without what would make the daemon behave as in another place."""
    gone = ("HOMEOSTAT", "XDG_", "NOTIFY_SOCKET")
    return {k: v for k, v in os.environ.items() if not k.startswith(gone)}


@contextlib.contextmanager
def rival() -> Iterator[tuple[subprocess.Popen[bytes], str] | None]:
    """node_exporter with its defaults; None when it is not installed."""
    program = shutil.which(RIVAL)
    if program is None:
        yield None
        return
    port = free_port()
    process = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process, f"http://127.0.0.1:{port}/metrics"
    finally:
        process.terminate()
        process.wait(10)


def scrape(url: str) -> int:
    """Number of samples in one scrape; 0 while it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=2) as said:
            return sum(not line.startswith(b"#") for line in said)
    except OSError:
        return 0


def status(state: Path) -> dict[str, Any]:
    """Ask the daemon over its socket; empty while it does not answer."""
    from agent.control import Control
    from agent.errors import AgentError

    try:
        told: dict[str, Any] = Control(state, timeout_s=5.0).get("/api/status")
    except (AgentError, OSError):
        return {}
    return told


def wait_for_sources(process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """Wait until the host source has answered."""
    until = time.monotonic() + SETTLE_UNTIL_S
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"the daemon ended with {process.returncode}:\n{(folder / 'log').read_text()}")
        told = status(folder / "state")
        if any(s["name"] == "host" and s["series"] > 0 for s in told.get("sources", ())):
            return told
        time.sleep(0.25)
    sys.exit(f"the daemon did not answer:\n{(folder / 'log').read_text()}")


def first_run(state: Path) -> str:
    """Start the playbook as a person does; returns the state in which its run has ended."""
    from agent.control import Control

    control = Control(state, timeout_s=10.0)
    path, host = "/api/playbooks/bench-run", f"host:{socket.gethostname()}"
    plan = control.get(f"{path}/plan", target=host)
    run = control.post(f"{path}/run", {"target": host, "plan_hash": plan["hash"]})
    until = time.monotonic() + RUN_UNTIL_S
    while time.monotonic() < until and run["state"] not in {"done", "failed", "expired"}:
        time.sleep(0.5)
        run = control.get(f"/api/runs/{run['id']}")
    said: str = run["state"]
    return said


def rows_of_history(state: Path, start: float, end: float) -> tuple[int, float, float]:
    """What arrived on disk after the daemon has ended: rows of the host source, longest gap, bytes a point."""
    from agent.history import History

    history = History(state / "history", age_s=1e9, size_bytes=1e12)
    try:
        series = history.series("host")
        ts, values = history.read(series, start, end)
        every, _ = history.read(series, 0.0, end + 3600)
        gap = np.diff(ts, prepend=start, append=end).max()
        points = max(1, len(every) * values.shape[1])
        return len(ts), float(gap), history.disk_bytes / points
    finally:
        history.close()


def measure(seconds: float, settle: float, jobs: int) -> list[dict[str, Any]]:
    """Run both and return the rows of the report."""
    rows: list[dict[str, Any]] = []

    def row(subject: str, figure: str, value: float) -> None:
        rows.append({"set": "host-1s", "subject": subject, "figure": figure, "value": value})

    with tempfile.TemporaryDirectory(prefix="homeostat-bench-") as name:
        folder = Path(name)
        began = time.monotonic()
        with idle(jobs), daemon(folder) as process, rival() as other:
            wait_for_sources(process, folder)
            ready = time.monotonic() - began
            meters = [Meter(psutil.Process(process.pid))]
            if other is not None:
                meters.append(Meter(psutil.Process(other[0].pid)))
            samples = _run(meters, other, settle)
            for meter in meters:
                meter.begin()
            before, start = status(folder / "state"), time.time()
            samples = _run(meters, other, seconds) or samples
            shares = [meter.cpu_share() for meter in meters]
            end = time.time()
            after = status(folder / "state")
            mapped = native(process.pid)
            ran = first_run(folder / "state")
            after_run = Meter(psutil.Process(process.pid))
            _run([after_run], None, settle)
        arrived, gap, bytes_a_point = rows_of_history(folder / "state", start, end)
    used, was = after["usage"], before["usage"]
    loaded = sorted({*mapped, *used.get("modules_heavy", [])})
    row("homeostat", "rss_bytes", statistics.median(meters[0].rss))
    row("homeostat", "rss_max_bytes", max(meters[0].rss))
    row("homeostat", "rss_after_run_bytes", statistics.median(after_run.rss))
    row("homeostat", "rss_after_run_max_bytes", max(after_run.rss))
    row("homeostat", "runs_not_done", int(ran != "done"))
    row("homeostat", "rss_tree_bytes", statistics.median(meters[0].tree))
    row("homeostat", "cpu_share", shares[0])
    row("homeostat", "series", used["series"])
    row("homeostat", "series_host", sum(s["series"] for s in after["sources"] if s["name"] == "host"))  # fmt: skip
    row("homeostat", "seconds_to_first_frame", ready)
    row("homeostat", "frames_lost", max(0, round(end - start) - 1 - arrived))
    row("homeostat", "longest_gap_seconds", gap)
    row("homeostat", "ticks_late", used["late_ticks"] - was["late_ticks"])
    row("homeostat", "bugs", sum(used.get("bugs", {}).values()))
    row("homeostat", "modules_heavy", len(loaded))
    row("homeostat", "history_bytes_per_point", bytes_a_point)
    if other is not None:
        row(RIVAL, "rss_bytes", statistics.median(meters[1].rss))
        row(RIVAL, "rss_max_bytes", max(meters[1].rss))
        row(RIVAL, "cpu_share", shares[1])
        row(RIVAL, "series", samples)
    print_table(rows, loaded, other is not None)
    return rows


def _run(meters: list[Meter], other: tuple[Any, str] | None, seconds: float) -> int:
    """Sample once a second, and scrape the rival as its server would; returns the samples of its last scrape."""
    samples = 0
    due = time.monotonic()
    end = due + seconds
    while due < end:
        due += 1.0
        time.sleep(max(0.0, due - time.monotonic()))
        if other is not None:
            samples = scrape(other[1])
        for meter in meters:
            meter.sample()
    return samples


LIMITS = {
    "rss_max_bytes": 110e6, "rss_after_run_max_bytes": 140e6, "runs_not_done": 0, "cpu_share": 0.01,
    "modules_heavy": 0, "frames_lost": 0, "bugs": 0,
}  # fmt: skip
"""What was promised for homeostat at 1,000 series a second; before its first run, where nothing else is said."""


def say(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if figure.endswith("bytes"):
        return f"{value / 1e6:.1f} MB"
    if figure == "cpu_share":
        return f"{value:.2%}"
    return f"{value:.2f}" if figure.endswith(("seconds", "frame", "point")) else f"{value:.0f}"


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def print_table(rows: list[dict[str, Any]], loaded: list[str], with_rival: bool) -> None:
    of = {(r["subject"], r["figure"]): r["value"] for r in rows}
    tell(f"{'':28}{'homeostat':>14}{RIVAL:>28}{'promised':>12}")
    for figure in dict.fromkeys(r["figure"] for r in rows):
        promised = say(figure, LIMITS[figure]) if figure in LIMITS else ""
        ours, theirs = of["homeostat", figure], of.get((RIVAL, figure))
        tell(f"{figure:28}{say(figure, ours):>14}{say(figure, theirs):>28}{promised:>12}")
    if loaded:
        tell(f"loaded although it must not be: {', '.join(loaded)}")
    if not with_rival:
        tell(f"{RIVAL} is not installed, so there is nothing to compare with: apt-get install {RIVAL}")  # fmt: skip


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, load {load}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--settle", type=float, default=15.0, help="how long to wait before")
    parser.add_argument("--jobs", type=int, default=75, help="idle processes that are looked at")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("this benchmark reads /proc: run it on Linux")
    sys.path.insert(0, str(ROOT))
    rows = measure(asked.seconds, asked.settle, asked.jobs)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tell(f"\n{report['machine']}\nwritten to {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
