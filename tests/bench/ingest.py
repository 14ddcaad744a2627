"""What it costs to take predictions in: records a second, and whether the daemon still ticks in time.

By HTTP, from files, and while what versions are held against is being made.

    python tests/bench/ingest.py [--seconds 15] [--batch 500]

Starts the real daemon with `ingest_listen` in a state folder of its own and pushes records (eight numbers, two texts,
class, probability, latency, trace id; every id is new) over kept connections: at 20,000 a second, the same as gzip, and
then as fast as it takes them; at 1,000 a second those of a model of 50 columns that has no reference and learns from
its first rows. Then files: a batch run of 200,000 rows x 50 columns, and another one while records are pushed as fast
as they are taken. "idle" is the time after the start, in which a reference of 20,000 such rows is made. Measured from
outside: CPU and memory of both processes through /proc, the daemon's ticks by its event stream. Prints a table and
writes build/bench/ingest.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import itertools
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# Beside this file `agent.py`, a benchmark, would hide the package.
sys.path.insert(0, str(ROOT))

from live_report import machine  # noqa: E402

from agent.authority import Tokens  # noqa: E402
from agent.control import Control  # noqa: E402
from agent.errors import AgentError  # noqa: E402

OUT = ROOT / "build" / "bench" / "ingest.json"
PACE = 20_000
SENDERS = 4
COLUMNS = 50
RUN_ROWS = 200_000
REFERENCE_ROWS = 20_000
STAMP = b"@@@@@@@@"


def body(batch: int, seed: int, model: str = "fraud", numbers: int = 8) -> bytes:
    """One array of records; STAMP in their ids is replaced at each sending."""
    rng = random.Random(seed)
    countries, plans = ("DE", "FR", "IT", "US", "JP"), ("free", "basic", "pro")
    return json.dumps([
        {
            "id": f"{STAMP.decode()}-{seed}-{i}", "ts": round(time.time(), 3), "model": model, "version": "3",
            "features": {
                **{f"amount_{j}": round(rng.lognormvariate(3, 1), 4) for j in range(numbers)},
                "country": rng.choice(countries), "plan": rng.choice(plans),
            },
            "pred": str(int(rng.random() < 0.05)), "proba": round(rng.random(), 4),
            "latency_ms": round(rng.lognormvariate(3, 0.3), 3), "status": 200,
            "trace_id": f"{rng.getrandbits(128):032x}",
        }
        for i in range(batch)
    ]).encode()  # fmt: skip


@dataclass
class Load:
    """Senders on kept connections, at a pace or as fast as they are answered."""

    port: int
    token: str
    bodies: list[bytes]
    batch: int
    packed: bool
    pace: float
    accepted: int = 0
    told_to_wait: int = 0
    slowest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: int = 0

    def run(self, seconds: float) -> None:
        """Send for so long."""
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._send, args=(time.monotonic(), end))
            for _ in range(SENDERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self, start: float, end: float) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if self.packed:
            headers["Content-Encoding"] = "gzip"
        while True:
            with self._lock:
                number, self._sent = self._sent, self._sent + 1
            if self.pace:
                time.sleep(max(0.0, start + number * self.batch / self.pace - time.monotonic()))
            if time.monotonic() >= end:
                break
            raw = self.bodies[number % len(self.bodies)].replace(
                STAMP, b"%08x" % (time.monotonic_ns() // 1000 & 0xFFFFFFFF)
            )
            raw = gzip.compress(raw, 1) if self.packed else raw
            began = time.monotonic()
            line.request("POST", "/ingest/predictions", raw, headers)
            answer = line.getresponse()
            said = answer.read()
            with self._lock:
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                if answer.status == 202:
                    self.accepted += json.loads(said)["accepted"]
                elif answer.status == 429:
                    self.told_to_wait += 1
                else:
                    sys.exit(f"answered {answer.status}: {said!r}")
            if answer.status == 429:
                time.sleep(float(answer.headers["retry-after"]))
        line.close()


def write_run(path: Path, rows: int, seed: int) -> None:
    """Write a batch run: COLUMNS features, two in ten of them texts, with prediction, probability and label."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    texts = COLUMNS // 5
    table = {
        "id": [f"{seed}-{i}" for i in range(rows)],
        **{f"x{i:02}": rng.lognormal(3, 1, rows).round(4) for i in range(COLUMNS - texts)},
        **{f"c{i}": np.array(["red", "green", "blue", "grey"])[rng.integers(0, 4, rows)] for i in range(texts)},
        "prediction": rng.integers(0, 2, rows), "probability": rng.uniform(0.5, 1.0, rows).round(4),
        "label": rng.integers(0, 2, rows),
    }  # fmt: skip
    part = path.with_suffix(".part")
    pq.write_table(pa.table(table), part)  # type: ignore[no-untyped-call]
    part.rename(path)


class Ticks(threading.Thread):
    """Follows the daemon's event stream: when each tick began."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.began: list[float] = []

    def run(self) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        line.request("GET", "/api/events")
        event = ""
        with contextlib.suppress(OSError, http.client.HTTPException):
            for raw in line.getresponse():
                name, _, rest = raw.decode().strip().partition(": ")
                if name == "event":
                    event = rest
                elif name == "data" and event == "tick":
                    self.began.append(json.loads(rest)["now"])

    def longest_delay_s(self, since: float) -> float:
        """How much later than a second after the one before a tick began, at most."""
        began = [t for t in self.began if t >= since]
        return max((b - a - 1.0 for a, b in itertools.pairwise(began)), default=float("nan"))


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int, str]]:
    """The real daemon with an ingest process, and a token for it."""
    listen, ingest = free_port(), free_port()
    config, state = folder / "agent.yaml", folder / "state"
    runs, reference = folder / "runs", folder / "reference.parquet"
    runs.mkdir()
    write_run(reference, REFERENCE_ROWS, 0)
    config.write_text(
        f"listen: 127.0.0.1:{listen}\ningest_listen: 127.0.0.1:{ingest}\n"
        f"models: {{reference: {{scores: {reference}}}}}\n"
        "services: [{id: scoring, models: [fraud, scores, wide]}]\n"
        "connectors:\n  predictions: {}\n"
        f"  batch_scoring: {{path: '{runs}/*.parquet', model: scores, version: '1', settle: 1s, backlog: 9}}\n",
        encoding="utf-8",
    )
    token = Tokens(state / "tokens.json").add("bench", "operator", time.time())
    command = [sys.executable, "-m", "agent", "run", "--config", str(config), "--state", str(state)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process, listen, ingest, token
    finally:
        process.terminate()
        process.wait(30)


class Watched:
    """The daemon and its ingest process, from outside."""

    def __init__(self, process: subprocess.Popen[bytes], listen: int, state: Path) -> None:
        self.ours = psutil.Process(process.pid)
        self.child = next(c for c in self.ours.children() if "agent.intake_process" in c.cmdline())
        self._ticks = Ticks(listen)
        self._ticks.start()
        self._control = Control(state)
        self._preparing = threading.Event()
        self.rows: list[dict[str, Any]] = []

    def told(self, name: str, figures: dict[str, float]) -> None:
        """Add figures to the report."""
        self.rows += [
            {"subject": "homeostat", "set": name, "figure": figure, "value": value}
            for figure, value in figures.items()
        ]

    def during(self, name: str, work: Callable[[], dict[str, float]]) -> None:
        """Do some work, and report it with what it cost and how late ticks were."""
        since, start = time.time(), time.monotonic()
        before = [_cpu(p) for p in (self.child, self.ours)]
        found = work()
        took = time.monotonic() - start
        spent = [_cpu(p) - was for p, was in zip((self.child, self.ours), before, strict=True)]
        time.sleep(1.5)
        accepted = found.pop("accepted", 0.0)
        self.told(name, {
            "records_per_second": accepted / took,
            **({"records_per_cpu_second": accepted / spent[0]} if "told_to_wait" in found else {}),
            "ingest_cpu_share": spent[0] / took, "daemon_cpu_share": spent[1] / took,
            "tick_delay_max_seconds": self._ticks.longest_delay_s(since), **found,
            "ingest_rss_bytes": float(self.child.memory_info().rss),
            "daemon_rss_bytes": float(self.ours.memory_info().rss),
        })  # fmt: skip

    def counted(self, model: str, rows: int, within_s: float) -> dict[str, float]:
        """Wait until a model has so many rows; tell for how long its reference was being made meanwhile."""
        start = time.monotonic()
        prepared = 0.0
        while time.monotonic() - start < within_s:
            found = [m for m in self._control.get("/api/models") if m["model"] == model]
            if any(m["preparing"] for m in found):
                prepared = time.monotonic() - start
            if sum(v["rows"] for m in found for v in m["serving"]) >= rows:
                return {"accepted": float(RUN_ROWS), "preparing_seconds": prepared}
            time.sleep(0.2)
        sys.exit(f"{model} has not counted {rows} rows within {within_s:.0f} s: {found}")

    def bugs(self) -> int:
        """Bugs that the daemon has counted."""
        return sum(self._control.get("/api/status")["usage"]["bugs"].values())


def measure(seconds: float, batch: int) -> list[dict[str, Any]]:
    """Run the loads and return the rows of the report."""
    bodies = [body(batch, seed) for seed in range(20)]
    wide = [body(200, 100 + seed, "wide", COLUMNS - 2) for seed in range(10)]
    with tempfile.TemporaryDirectory(prefix="homeostat-bench-") as name:
        folder = Path(name)
        with daemon(folder) as (process, listen, ingest, token):
            _wait(folder / "state")
            watched = Watched(process, listen, folder / "state")

            def push(packed: bool, pace: float, for_s: float) -> dict[str, float]:
                load = Load(ingest, token, bodies, batch, packed, pace)
                load.run(for_s)
                return {
                    "accepted": load.accepted, "answer_max_seconds": load.slowest_s,
                    "told_to_wait": load.told_to_wait,
                }  # fmt: skip

            def run(seed: int, rows: int) -> dict[str, float]:
                write_run(folder / "runs" / f"{seed}.parquet", RUN_ROWS, seed)
                return watched.counted("scores", rows, 300.0)

            def both() -> dict[str, float]:
                stop = threading.Event()
                pushed: list[dict[str, float]] = []
                sender = threading.Thread(
                    target=lambda: [
                        pushed.append(push(False, 0, 5.0)) for _ in iter(stop.is_set, True)
                    ]
                )
                sender.start()
                found = run(2, 2 * RUN_ROWS)
                stop.set()
                sender.join()
                found["accepted"] += sum(one["accepted"] for one in pushed)
                return found

            def learn() -> dict[str, float]:
                load = Load(ingest, token, wide, 200, False, 1000)
                load.run(seconds)
                return {"accepted": load.accepted}

            def idle() -> dict[str, float]:
                time.sleep(seconds)
                return {}

            watched.during("idle", idle)
            push(False, PACE, 2.0)  # to warm up
            for label, packed, pace in (
                (f"{PACE} a second", False, PACE), (f"{PACE} a second, gzip", True, PACE), ("flood", False, 0),
            ):  # fmt: skip
                watched.during(label, lambda p=packed, q=pace: push(p, q, seconds))
            watched.during("first rows", learn)
            watched.during("file", lambda: run(1, RUN_ROWS))
            watched.during("file and flood", both)
            watched.told("all", {"bugs": float(watched.bugs())})
            return watched.rows


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")


def _wait(state: Path) -> None:
    """Wait until the daemon has had its first frame."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        with contextlib.suppress(AgentError, OSError):
            if Control(state, timeout_s=5.0).get("/api/status")["usage"]["series"]:
                return
        time.sleep(0.25)
    sys.exit("the daemon did not answer; see its log")


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def say(figure: str, value: float) -> str:
    if figure.endswith("bytes"):
        return f"{value / 1e6:.1f} MB"
    if figure.endswith("share"):
        return f"{value:.1%}"
    return f"{value:.3f}" if figure.endswith("seconds") else f"{value:,.0f}"


def print_table(rows: list[dict[str, Any]]) -> None:
    sets = list(dict.fromkeys(r["set"] for r in rows if r["set"] != "all"))
    of = {(r["set"], r["figure"]): r["value"] for r in rows}
    tell(f"{'':26}" + "".join(f"{one:>21}" for one in sets))
    for figure in dict.fromkeys(r["figure"] for r in rows if r["set"] != "all"):
        said = [say(figure, of[one, figure]) if (one, figure) in of else "-" for one in sets]
        tell(f"{figure:26}" + "".join(f"{text:>21}" for text in said))
    tell(f"bugs {of['all', 'bugs']:.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each load lasts")
    parser.add_argument("--batch", type=int, default=500, help="records in one request")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    rows = measure(asked.seconds, asked.batch)
    print_table(rows)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tell(f"\n{report['machine']}\nwritten to {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
