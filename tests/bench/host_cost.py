"""What a series of the host costs: CPU and memory at one second, beside Netdata, node_exporter and collectd.

    python tests/bench/host_cost.py [--seconds 60] [--settle 30] [--jobs 80]

All run at once on the same host, each with its defaults at an interval of one second, and are measured from outside
through /proc with their children. The host is given `--jobs` idle processes, so that there is something to see. Two
daemons of ours run: one with its defaults, one that looks at every process group each second (the wide one, above
1,000 series); the difference of the two is what a further series costs. Who is not installed is left out, and said.
Prints a table and writes build/bench/host_cost.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench" / "host_cost.json"
READY_S = 90.0
WIDE = {
    "processes": {"interval": "1s", "top": 200, "top_applications": 100},
    "containers": {"interval": "1s"},
}
LIMITS = {"cpu_per_series_vs_netdata": 2.0, "rss_vs_netdata": 2.0}
"""What was promised, as a ratio of the wide daemon to Netdata."""


@dataclass
class Subject:
    """One that is measured: its process, and how many series it has now (asking it, as its server would)."""

    name: str
    process: psutil.Process
    series: Callable[[], int]
    asks: bool = False
    """It only measures when it is asked: once a second."""
    rss: list[int] = field(default_factory=list)
    cpu_then: float = 0.0
    since: float = 0.0
    found: int = 0

    def tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds of the process and its children, those that ended included."""
        total = 0.0
        for one in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                t = one.cpu_times()
                total += t.user + t.system + t.children_user + t.children_system
        return total

    def begin(self) -> None:
        self.rss.clear()
        self.cpu_then, self.since = self.cpu(), time.monotonic()

    def sample(self) -> None:
        held = 0
        for one in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                held += one.memory_info().rss
        self.rss.append(held)
        if self.asks:
            self.found = self.series()

    def cpu_share(self) -> float:
        return (self.cpu() - self.cpu_then) / (time.monotonic() - self.since)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], log: Path, **more: Any) -> Iterator[psutil.Process]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, **more)
    try:
        yield psutil.Process(process.pid)
    finally:
        ours = [psutil.Process(process.pid)] if process.poll() is None else []
        ours += [child for one in ours for child in one.children(recursive=True)]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for left in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=3) as said:
            text: bytes = said.read()
            return text
    except OSError:
        return b""


# ---- who is measured


@contextlib.contextmanager
def homeostat(name: str, connectors: dict[str, Any], folder: Path) -> Iterator[Subject]:
    from agent.control import Control
    from agent.errors import AgentError

    folder.mkdir()
    config = {"listen": f"127.0.0.1:{free_port()}", "connectors": connectors}
    (folder / "agent.yaml").write_text(json.dumps(config))  # JSON is YAML
    state = folder / "state"
    command = [
        sys.executable, "-m", "agent", "run",
        "--config", str(folder / "agent.yaml"), "--state", str(state),
    ]  # fmt: skip
    control = Control(state, timeout_s=5.0)

    def series() -> int:
        try:
            told: dict[str, Any] = control.get("/api/status")
        except (AgentError, OSError):
            return 0
        return int(told["usage"]["series"])

    with running(command, folder / "log") as process:
        yield Subject(name, process, series)


@contextlib.contextmanager
def node_exporter(folder: Path) -> Iterator[Subject | None]:
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        yield None
        return
    port = free_port()

    def series() -> int:
        text = get(f"http://127.0.0.1:{port}/metrics")
        return sum(not line.startswith(b"#") for line in text.splitlines())

    command = [program, f"--web.listen-address=127.0.0.1:{port}"]
    with running(command, folder / "node_exporter.log") as process:
        yield Subject("node_exporter", process, series, asks=True)


@contextlib.contextmanager
def netdata(folder: Path) -> Iterator[Subject | None]:
    program = shutil.which("netdata") or shutil.which("netdata", path="/usr/sbin")
    if program is None:
        yield None
        return
    own, port = folder / "netdata", free_port()
    for name in ("cache", "lib", "log"):
        (own / name).mkdir(parents=True)
    who = "root" if os.geteuid() == 0 else os.environ.get("USER", "netdata")
    (own / "netdata.conf").write_text(
        f"[global]\n run as user = {who}\n"
        f"[directories]\n cache = {own}/cache\n lib = {own}/lib\n log = {own}/log\n"
        f"[web]\n bind to = 127.0.0.1:{port}\n[registry]\n enabled = no\n[cloud]\n enabled = no\n"
        "[statsd]\n enabled = no\n"
    )

    def series() -> int:
        text = get(f"http://127.0.0.1:{port}/api/v1/charts")
        charts = json.loads(text)["charts"] if text else {}
        return sum(len(chart["dimensions"]) for chart in charts.values())

    command = [program, "-D", "-c", str(own / "netdata.conf"), "-P", str(own / "pid")]
    with running(command, own / "out") as process:
        yield Subject("netdata", process, series)


PLUGINS = (
    "conntrack", "contextswitch", "cpu", "df", "disk", "entropy", "fhcount", "interface", "irq", "load", "memory",
    "processes", "protocols", "swap", "tcpconns", "uptime", "users", "vmem",
)  # fmt: skip


@contextlib.contextmanager
def collectd(folder: Path) -> Iterator[Subject | None]:
    program = shutil.which("collectd") or shutil.which("collectd", path="/usr/sbin")
    if program is None:
        yield None
        return
    own = folder / "collectd"
    own.mkdir()
    door = own / "door"
    loads = "".join(f"LoadPlugin {name}\n" for name in (*PLUGINS, "unixsock"))
    (own / "conf").write_text(
        f'Interval 1\nBaseDir "{own}"\nPIDFile "{own}/pid"\n{loads}'
        f'<Plugin vmem>\n Verbose true\n</Plugin>\n<Plugin unixsock>\n SocketFile "{door}"\n</Plugin>\n'
        "<Plugin cpu>\n ReportByCpu true\n ReportByState true\n</Plugin>\n"
    )

    def series() -> int:
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(3)
                s.connect(str(door))
                s.sendall(b"LISTVAL\n")
                head = s.recv(64).split(b" ", 1)[0]
                return int(head)
        except (OSError, ValueError):
            return 0

    command = [program, "-f", "-C", str(own / "conf")]
    with running(command, own / "out") as process:
        yield Subject("collectd", process, series)


@contextlib.contextmanager
def crowd(jobs: int) -> Iterator[None]:
    """Idle processes, each a group of its own, as services are."""
    started = [subprocess.Popen(["sleep", "3600"], start_new_session=True) for _ in range(jobs)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


# ---- measuring


def measure(seconds: float, settle: float, jobs: int) -> list[dict[str, Any]]:
    """Run all and return the rows of the report."""
    with (
        tempfile.TemporaryDirectory(prefix="homeostat-bench-") as name,
        contextlib.ExitStack() as all_,
    ):
        folder = Path(name)
        all_.enter_context(crowd(jobs))
        subjects = [
            all_.enter_context(homeostat("homeostat", {}, folder / "ours")),
            all_.enter_context(homeostat("homeostat_wide", WIDE, folder / "wide")),
        ]
        for rival in (netdata, node_exporter, collectd):
            subject = all_.enter_context(rival(folder))
            if subject is None:
                tell(f"{rival.__name__} is not installed and left out: make debian-bench (as root)")
            else:
                subjects.append(subject)
        wait(subjects, folder)
        run(subjects, settle)
        for subject in subjects:
            subject.begin()
        run(subjects, seconds)
        shares = {s.name: s.cpu_share() for s in subjects}
        found = {s.name: s.series() for s in subjects}
        held = {s.name: statistics.median(s.rss) for s in subjects}
    return report(shares, found, held)


def wait(subjects: list[Subject], folder: Path) -> None:
    until = time.monotonic() + READY_S
    while silent := [s.name for s in subjects if not s.series()]:
        if time.monotonic() > until:
            files = [f for f in folder.rglob("*") if f.name in {"log", "out"} and f.is_file()]
            logs = [f"{f}: {f.read_text(errors='replace')[-800:]}" for f in files]
            sys.exit("\n".join([f"no series of {', '.join(silent)} after {READY_S:.0f} s", *logs]))
        time.sleep(0.5)


def run(subjects: list[Subject], seconds: float) -> None:
    due = time.monotonic()
    end = due + seconds
    while due < end:
        due += 1.0
        time.sleep(max(0.0, due - time.monotonic()))
        for subject in subjects:
            subject.sample()


def report(
    shares: dict[str, float], found: dict[str, int], held: dict[str, float]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def row(subject: str, figure: str, value: float) -> None:
        rows.append({"set": "host-1s-all", "subject": subject, "figure": figure, "value": value})

    each = {name: shares[name] / found[name] for name in shares}
    tell(f"\n{'':16}{'series':>8}{'CPU':>9}{'CPU us/series/s':>17}{'RSS':>10}")
    for name, share in shares.items():
        row(name, "series", found[name])
        row(name, "cpu_share", share)
        row(name, "cpu_seconds_per_series", each[name])
        row(name, "rss_bytes", held[name])
        tell(f"{name:16}{found[name]:>8}{share:>9.2%}{each[name] * 1e6:>17.1f}{held[name] / 1e6:>7.1f} MB")  # fmt: skip
    more = found["homeostat_wide"] - found["homeostat"]
    further = (held["homeostat_wide"] - held["homeostat"]) / more
    further_cpu = (shares["homeostat_wide"] - shares["homeostat"]) / more
    row("homeostat", "bytes_per_further_series", further)
    row("homeostat", "cpu_seconds_per_further_series", further_cpu)
    tell(f"a further series of ours: {further:.0f} bytes, {further_cpu * 1e6:.1f} us a second (of {more})")  # fmt: skip
    for rival in [name for name in shares if not name.startswith("homeostat")]:
        for figure, ratio in (
            (f"cpu_per_series_vs_{rival}", each["homeostat_wide"] / each[rival]),
            (f"rss_vs_{rival}", held["homeostat_wide"] / held[rival]),
        ):
            row("homeostat_wide", figure, ratio)
            promised = f" (promised {LIMITS[figure]:g})" if figure in LIMITS else ""
            tell(f"{figure}: {ratio:.2f}{promised}")
    return rows


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {os.uname().release}, load {load}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--settle", type=float, default=30.0, help="how long to wait before")
    parser.add_argument("--jobs", type=int, default=80, help="idle processes to look at")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("this benchmark reads /proc: run it on Linux")
    sys.path.insert(0, str(ROOT))
    rows = measure(asked.seconds, asked.settle, asked.jobs)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    said = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    tell(f"\n{said['machine']}\nwritten to {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
