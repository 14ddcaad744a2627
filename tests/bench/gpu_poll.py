"""What looking at GPUs costs: share of a core for each GPU, the child that asks NVML included.

    python tests/bench/gpu_poll.py [--polls 100]     # make bench-gpu

With a driver here, its GPUs are asked; without one, the stand-in for NVML of the tests (two GPUs; it needs a C
compiler), whose answers cost nothing: that is our own part, and a driver adds its own. "at 5 s" is as often as
the source looks by default. Prints a table and writes build/bench/gpu.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# Beside this file `agent.py`, a benchmark, would hide the package.
sys.path.insert(0, str(ROOT))

from live_report import machine  # noqa: E402

from connectors.gpu import Gpu  # noqa: E402

OUT = ROOT / "build" / "bench" / "gpu.json"
MOST = 0.001
"""What we promise, as a share of a core for each GPU."""


def stand_in(folder: Path) -> Path | None:
    """Compile the stand-in; None = there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    source = ROOT / "tests" / "connectors" / "nvml_stub.c"
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    (folder / "state").write_text("healthy", encoding="ascii")
    os.environ["NVML_STUB"] = str(folder / "state")
    os.environ["NVML_STUB_ONCE"] = "1"
    return folder


async def measure(library: Path | None, polls: int) -> dict[str, float]:
    source = Gpu("gpu", Gpu.Config(library=library))
    try:
        frame = await source.poll()
        gpus = {s.entity for s in frame.series if s.entity.kind == "gpu"}
        if not gpus:
            sys.exit("the driver tells of no GPU")
        children = psutil.Process().children()

        def spent() -> float:
            theirs = (child.cpu_times() for child in children)
            return time.process_time() + sum(t.user + t.system for t in theirs)

        start = spent()
        for _ in range(polls):
            await source.poll()
            await asyncio.sleep(0.02)
        each = (spent() - start) / polls / len(gpus)
    finally:
        source.close()
    return {
        "gpus": float(len(gpus)),
        "series": float(len(frame.series)),
        "cpu_ms_per_poll_and_gpu": 1e3 * each,
        "cpu_share_per_gpu": each / source.interval_s,
        "cpu_share_per_gpu_at_1s": each,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polls", type=int, default=100, help="looks that count, after the first")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        real = Path("/dev/nvidiactl").exists()
        library = None if real else stand_in(Path(name))
        if not real and library is None:
            sys.stdout.write("no driver here, and no C compiler to make the stand-in with\n")
            return 0
        found = asyncio.run(measure(library, asked.polls))
    subject = "driver" if real else "stand-in for NVML"
    rows: list[dict[str, Any]] = [
        {"set": subject, "subject": "homeostat", "figure": figure, "value": value}
        for figure, value in found.items()
    ]
    sys.stdout.write(
        f"{subject}, {found['gpus']:.0f} GPUs, {found['series']:.0f} series: a look takes "
        f"{found['cpu_ms_per_poll_and_gpu']:.2f} ms of CPU a GPU;\n"
        f"{found['cpu_share_per_gpu']:.3%} of a core a GPU at 5 s, {found['cpu_share_per_gpu_at_1s']:.3%} at 1 s "
        f"(promised: below {MOST:.1%})\n"
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"\n{report['machine']}\nwritten to {asked.out}\n")
    return 0 if found["cpu_share_per_gpu"] < MOST else 1


if __name__ == "__main__":
    sys.exit(main())
