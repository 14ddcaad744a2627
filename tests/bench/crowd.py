"""Many troubles at once: a made-up fleet whose services break, walked through the whole walk, tick by tick.

    500 machines, a service on each, 1,000 series every second: everything is well
    --> every second 50 services become slow, for ten seconds, half of them under three times the traffic
    --> 500 incidents go on, and nothing more happens

Each machine is a world of its own: no storm, no common cause, nothing joins. What a tick costs is all that the walk
does in it: world, history, detectors, incidents, diagnoses, playbooks, guard, record.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import Config
from agent.history import History
from agent.journal import Entry
from agent.memory import Memory
from agent.model import Edge, Entity, FloatArray, Frame, Series
from agent.pipeline import Walk
from agent.playbook import Library
from agent.world import World

N = 500
PAST = 1200
USUAL = {"service.latency_p95_seconds": (0.05, 0.004), "service.requests_per_second": (40.0, 2.0)}


class Crowd:
    """The fleet and its walk; `tick` lets a second pass and returns what it took, in ms of this thread."""

    def __init__(self, library: Library, folder: Path, seed: int, n: int = N) -> None:
        self.n = n
        self.rng = np.random.default_rng(seed)
        self.now = 1_795_000_000.0
        self.memory, self.world = Memory(), World()
        self.seq = self.plans = 0
        self.broken: FloatArray = np.zeros(n)
        services = [Entity("service", f"s{i}") for i in range(n)]
        hosts = [Entity("host", f"h{i}") for i in range(n)]
        for service, host in zip(services, hosts, strict=True):
            self.world.topology.link(Edge("runs_on", service, host))
        self.world.trusts["eyes"] = "local"
        latency, traffic = USUAL
        self.table = tuple(sorted(Series(m, s) for m in (latency, traffic) for s in services))
        self._whose = np.array([int(s.entity.key[1:]) for s in self.table])
        self._slow = np.array([s.metric == latency for s in self.table])
        config = Config.model_validate({
            "mode": "auto", "single_agent": True, "manages": [{"kind": "service"}, {"kind": "host"}],
            "objectives": [{"signal": latency, "max": "250ms", "for": "2s"}],
        })  # fmt: skip
        self.history = History(folder, age_s=7200.0, size_bytes=1e9)
        self.walk = Walk.wired(
            config, world=self.world, history=self.history, library=library, memory=self.memory,
            record=self.record, step_of=lambda _: 1.0,
        )  # fmt: skip
        for _ in range(PAST):
            self.now += 1.0
            self.history.append(self._frame())

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Fold an entry as the journal would give it."""
        self.seq += 1
        self.memory.apply(Entry(self.seq, ts, kind, subject, json.loads(json.dumps(body)), "", ""))

    def slow_down(self, first: int, last: int) -> None:
        """Let services become slow from now on, every other one under more traffic."""
        self.broken[first:last] = 1.0

    def tick(self) -> float:
        """Let a second pass."""
        self.now += 1.0
        frame = self._frame()
        begun = time.thread_time()
        moment = self.walk.step(self.now, [frame])
        took = 1e3 * (time.thread_time() - begun)
        self.plans += len(moment.plans)
        return took

    def _frame(self) -> Frame:
        levels, noise = np.array(list(USUAL.values())).T
        level, width = np.where(self._slow, levels[0], levels[1]), np.where(self._slow, *noise)
        ill = self.broken[self._whose] > 0
        level = np.where(ill & self._slow, 0.8, level)
        level = np.where(ill & ~self._slow & (self._whose % 2 == 0), 120.0, level)
        values = level + width * self.rng.standard_normal(len(level))
        return Frame("eyes", self.now, self.table, values)


def ticks(
    library: Library, folder: Path, seed: int, steady: int
) -> tuple[dict[str, list[float]], Crowd]:
    """Return what ticks took, in ms: `calm`, `burst` (50 new incidents a second and their diagnoses) and `open`."""
    crowd = Crowd(library, folder, seed)
    for _ in range(5):
        crowd.tick()
    out = {"calm": [crowd.tick() for _ in range(10)]}
    out["burst"] = []
    for first in range(0, N, 50):
        crowd.slow_down(first, first + 50)
        out["burst"].append(crowd.tick())
    waits = True
    while waits:
        out["burst"].append(crowd.tick())
        going = crowd.walk.correlator.incidents.values()
        waits = len(going) < N or any(i.diagnosis is None for i in going)
    for _ in range(60):
        crowd.tick()
    out["open"] = [crowd.tick() for _ in range(steady)]
    crowd.history.close()
    return out, crowd
