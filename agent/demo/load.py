"""The clients of the demo's service: `python -m agent.demo.load`, a process of its own.

Open loop: requests start when their time has come, whether or not the service keeps up, as independent people do
(Poisson arrivals; a closed loop would slow down with the service and hide its trouble). Rate and input mix follow
the swing of a day. Each row is one of the recorded ones, sent on a connection of its own, so that new workers get
their share at once. True labels follow into the label log LABEL_S seconds later.

What the world does is read from a small control file (`World` as JSON), which only the injector writes and the
agent never sees. What became of each request goes to `--log`, for the score card.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from agent.demo.rows import Concept, Rows, load
from agent.demo.trainer import write_json
from agent.model import FloatArray

LABEL_S: Final = (2.0, 4.0)
TIMEOUT_S: Final = 5.0
DAY_S: Final = 22.0
RATE: Final = 30.0
"""Requests a second over a whole day."""
SWING: Final = 0.2
"""Rate at noon: so much above the mean; at midnight: so much below."""
TILT: Final = 0.35
"""How much the mix of patients follows the day: log-weight per standard deviation of texture."""


@dataclass(frozen=True, slots=True)
class World:
    """What the injector can turn: factor on the rate, factors on features, the relation of rows and labels."""

    rate: float = 1.0
    units: dict[str, float] = field(default_factory=dict)
    concept: Concept = field(default_factory=Concept)

    def write(self, path: Path) -> None:
        """Put it where the load generator looks."""
        write_json(path, asdict(self))


def read_world(path: Path) -> World:
    """Read what `World.write` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return World(data["rate"], data["units"], Concept(**data["concept"]))


class Day:
    """The habit of a day: how many ask, and who."""

    def __init__(self, rows: Rows) -> None:
        column = rows.x[:, rows.names.index("worst_texture")]
        self._z: FloatArray = (column - column.mean()) / column.std()

    def rate(self, ts: float) -> float:
        """Requests a second at `ts`, seconds since the first midnight."""
        return RATE * (1 - SWING * math.cos(2 * math.pi * ts / DAY_S))

    def mix(self, ts: float) -> FloatArray:
        """Cumulative shares of the rows at `ts`."""
        weights = np.exp(-TILT * math.cos(2 * math.pi * ts / DAY_S) * self._z)
        out: FloatArray = np.cumsum(weights / weights.sum())
        return out


async def post(port: int, body: bytes, sent: float) -> int:
    """Send one request on a connection of its own; return the status, 0 for a failure or a timeout."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Start: t={sent:.6f}\r\nConnection: close\r\n\r\n"
    )
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + body)
            status = await reader.readline()
            await reader.read(-1)
    except (OSError, TimeoutError):
        return 0
    finally:
        if writer is not None:
            writer.close()
    parts = status.split()
    return int(parts[1]) if len(parts) > 1 else 0


class Clients:
    """Sends requests and, later, their labels, until it is cancelled."""

    def __init__(
        self, rows: Rows, port: int, *, control: Path, labels: Path, log: Path, seed: int
    ) -> None:
        self._rows = [dict(zip(rows.names, row.tolist(), strict=True)) for row in rows.x]
        self._bad = rows.bad.tolist()
        self._day = Day(rows)
        self._port = port
        self._control = control
        self._world = read_world(control)
        self._seen = control.stat().st_mtime_ns
        self._labels = os.open(labels, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._random = random.Random(seed)
        self._due: list[tuple[float, str, str]] = []
        self._done: list[tuple[float, int, float]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask and label for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask())
            group.create_task(self._tell())

    async def _ask(self) -> None:
        start = asyncio.get_running_loop().time()
        due, number = start, 0
        mix, mixed = self._day.mix(0.0), 0.0
        while True:
            now = asyncio.get_running_loop().time()
            if now < due:
                await asyncio.sleep(due - now)
                continue
            ts = due - start
            if ts - mixed > 0.5:
                mix, mixed = self._day.mix(ts), ts
            i = int(np.searchsorted(mix, self._random.random()))
            number += 1
            task = asyncio.create_task(self._one(f"r{number}", min(i, len(self._rows) - 1)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            due += self._random.expovariate(self._day.rate(ts) * self._world.rate)
            if number % 16 == 0:
                await asyncio.sleep(0)  # a late burst must not starve its own answers

    async def _one(self, name: str, i: int) -> None:
        row, world = self._rows[i], self._world
        sent = time.time()
        label = world.concept.label(row, self._bad[i])
        wait = self._random.uniform(*LABEL_S)
        heapq.heappush(self._due, (sent + wait, name, label))
        features = {key: value * world.units.get(key, 1.0) for key, value in row.items()}
        status = await post(
            self._port, json.dumps({"id": name, "features": features}).encode(), sent
        )
        self._done.append((sent, status, time.time() - sent))

    async def _tell(self) -> None:
        """Append labels whose time has come, log answers, look at the control file: five times a second."""
        while True:
            await asyncio.sleep(0.2)
            now = time.time()
            lines = []
            while self._due and self._due[0][0] <= now:
                ts, name, label = heapq.heappop(self._due)
                lines.append(
                    json.dumps({"id": name, "model": "scoring", "label": label, "ts": round(ts, 3)})
                )
            done, self._done = self._done, []
            _append(self._labels, lines)
            _append(
                self._log, [json.dumps([round(s, 3), code, round(t, 4)]) for s, code, t in done]
            )
            if (seen := self._control.stat().st_mtime_ns) != self._seen:
                self._seen, self._world = seen, read_world(self._control)


def _append(file: int, lines: list[str]) -> None:
    if lines:
        os.write(file, ("\n".join(lines) + "\n").encode())


def main(argv: Sequence[str]) -> int:
    """Run until we are told to end."""
    parser = argparse.ArgumentParser(prog="agent.demo.load", description=__doc__)
    for name in ("rows", "control", "labels", "log"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args(argv)
    clients = Clients(
        load(o.rows), o.port, control=o.control, labels=o.labels, log=o.log, seed=o.seed
    )
    asyncio.run(clients.run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
