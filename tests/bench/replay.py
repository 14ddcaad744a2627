"""How fast recorded time is walked: 300 series, one row a second, a day, as history on disk.

Made-up series of the kinds that a host and a service have: seeded noise, a daily rhythm, two faults. Prints rows and
cells a second and how many times faster than real time; writes build/bench/replay.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

# before the folder of this file, in which a benchmark is called agent
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent import registry
from agent.config import Config
from agent.history import History
from agent.model import Entity, Frame, Series
from agent.playbook import Library
from agent.recorded import Recorded
from agent.replay import Replay

START = 1_764_000_000.0
CHUNK = 3600
CONFIG = {
    "services": [
        {"id": f"s{i}", "objectives": [{"signal": "service.latency_p95_seconds", "max": "250ms", "for": "30s"}]}
        for i in range(10)
    ],
    "manages": [{"kind": "service"}], "single_agent": True, "forecasts": {"enabled": False},
}  # fmt: skip
SIGNALS = (
    ("service.latency_p95_seconds", 0.05, 0.005), ("service.latency_p50_seconds", 0.02, 0.002),
    ("service.requests_per_second", 80.0, 6.0), ("service.error_ratio", 0.002, 0.0005),
    ("service.busy_ratio", 0.4, 0.03),
)  # fmt: skip


def table(n: int) -> tuple[tuple[Series, ...], np.ndarray, np.ndarray]:
    """Services first, the rest are disks of one host: (series, level, noise)."""
    rows = [
        (Series(signal, Entity("service", f"s{i}")), level, noise)
        for i in range(10)
        for signal, level, noise in SIGNALS
    ]
    host = Entity("host", "h")
    rows += [
        (Series("host.disk_busy_ratio", host, (("device", f"d{i:03d}"),)), 0.2, 0.03)
        for i in range(n - len(rows))
    ]
    rows.sort(key=lambda row: row[0])
    return tuple(r[0] for r in rows), np.array([r[1] for r in rows]), np.array([r[2] for r in rows])


def record(folder: Path, n: int, seconds: int, *, faults: bool) -> None:
    """Write a day of history as a daemon does."""
    series, level, noise = table(n)
    history = History(folder, age_s=10 * 86_400, size_bytes=1e10)
    rng = np.random.default_rng(11)
    late = np.array(
        [s.metric == "service.latency_p95_seconds" and s.entity.key == "s3" for s in series]
    )
    for begin in range(0, seconds, CHUNK):
        k = np.arange(begin, min(begin + CHUNK, seconds))
        day = 1.0 + 0.2 * np.sin(2 * np.pi * k / 86_400)
        values = level * day[:, None] + noise * rng.standard_normal((len(k), n))
        for at in (seconds // 3, 2 * seconds // 3) if faults else ():
            ill = (k >= at) & (k < at + 300)
            values[np.ix_(ill, late)] = 0.8
        for i, row in zip(k.tolist(), np.maximum(values, 0.0), strict=True):
            history.append(Frame("made", START + i, series, row))
    history.close()


def main() -> None:
    """Record, replay, tell."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--series", type=int, default=300)
    args.add_argument("--seconds", type=int, default=86_400)
    asked = args.parse_args()
    registry.load()
    config = Config.model_validate(CONFIG)
    library = Library.load([], config)
    rows = []
    for name, faults in (("calm", False), ("two_faults", True)):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            record(folder / "h", asked.series, asked.seconds, faults=faults)
            (folder / "room").mkdir()
            clock = time.perf_counter(), time.process_time()
            with Recorded(folder / "h") as past:
                one = Replay(past, config, library, folder=folder / "room")
                found = one.go(past.start, past.end)
            took, cpu = time.perf_counter() - clock[0], time.process_time() - clock[1]
        figures = {
            "rows": found.ticks, "series": len(found.series), "seconds": took, "cpu_seconds": cpu,
            "rows_per_second": found.ticks / took, "cells_per_second": found.cells / took,
            "times_real_time": asked.seconds / took, "times_real_time_cpu": asked.seconds / cpu,
            "incidents": len(found.incidents), "pages": len(found.pages),
        }  # fmt: skip
        for figure, value in figures.items():
            print(f"{name:12}{figure:22}{value:>16,.1f}")  # noqa: T201  # a table for people
        rows += [
            {"set": name, "subject": "homeostat", "figure": f, "value": v}
            for f, v in figures.items()
        ]
    out = Path("build/bench/replay.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    date = datetime.now(UTC).isoformat(timespec="seconds")
    out.write_text(json.dumps({"machine": machine, "date": date, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
