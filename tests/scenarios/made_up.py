"""A made-up shop on a made-up machine, walked through the real walk: what every scenario looks at.

    h: four GPUs, two strangers (batch, backup), ourselves
    shop: one process group, four replicas; calls `store` (on another machine) and db:5432; serves the model `fraud`
    fraud: eight features, labels that come

Every scenario has all series; it says only which of them leave their usual level, and when. So a rule that fires on the
wrong picture has every chance to do so. Levels are made of seeded noise, two seconds apart, as sources would give them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from agent import registry
from agent.catalogue import SIGNALS
from agent.config import Config
from agent.correlate import Correlator
from agent.history import History
from agent.match import HoldingState
from agent.memory import Memory
from agent.model import Change, Edge, Entity, Frame, Incident, Series, Sighting
from agent.monitor import Monitor
from agent.objectives import limits_of
from agent.pipeline import Walk
from agent.playbook import Library
from agent.ports import Signal
from agent.world import World

ONSET, END, STEP = 400.0, 440.0, 2.0

HOST, FAR = Entity("host", "h"), Entity("host", "far")
SHOP, STORE, DB = (
    Entity("service", "shop"),
    Entity("service", "store"),
    Entity("dependency", "db:5432"),
)
MODEL = Entity("model", "fraud")
FEATURES = [Entity("feature", f"fraud/f{i}") for i in range(8)]
REPLICAS = [Entity("replica", f"shop/{i}") for i in range(4)]
GPUS = [Entity("gpu", f"GPU-{i}") for i in range(4)]
MASTER, BATCH, BACKUP, ME = (Entity("process", f"b/{i}/{i}") for i in range(1, 5))
EYES = [Entity("source", name) for name in ("host", "models", "gpu", "prometheus")]

Level = float | Callable[[float], float]
"""A number from the onset on, or a function of the seconds since."""


def s(metric: str, entity: Entity, **labels: str) -> Series:
    return Series(metric, entity, tuple(sorted(labels.items())))


P50, P95 = s("service.latency_p50_seconds", SHOP), s("service.latency_p95_seconds", SHOP)
WORK, RPS = s("service.processing_p50_seconds", SHOP), s("service.requests_per_second", SHOP)
ERRORS, UP = s("service.error_ratio", SHOP), s("service.up", SHOP)
COUNT, BUSY = s("service.replicas_count", SHOP), s("service.busy_ratio", SHOP)
STORE_P95, STORE_UP = s("service.latency_p95_seconds", STORE), s("service.up", STORE)
STORE_WORK = s("service.processing_p50_seconds", STORE)
STORE_RPS = s("service.requests_per_second", STORE)
DB_PROBE = s("service.probe_latency_seconds", DB)
QUEUE = s("process.accept_queue_count", MASTER, port="8000")
CORES = {e: s("process.cpu_cores", e) for e in (MASTER, BATCH, BACKUP, ME)}
WRITTEN = {e: s("process.written_bytes_per_second", e) for e in (MASTER, BATCH, BACKUP)}
AGE = s("process.age_seconds", MASTER)
CPU, STEAL = s("host.cpu_busy_ratio", HOST), s("host.cpu_utilization_ratio", HOST, mode="steal")
THROTTLED = s("host.cgroup_throttled_ratio", HOST)
WAIT_CPU, WAIT_MEMORY, WAIT_IO = (
    s("host.pressure_ratio", HOST, resource=r, who="some") for r in ("cpu", "memory", "io")
)
MEMORY, SWAP = s("host.memory_utilization_ratio", HOST), s("host.swap_utilization_ratio", HOST)
KILLS = s("host.oom_kills_per_second", HOST)
KERNEL = {
    e: s("host.kernel_event_seen", HOST, event=e, **of)
    for e, of in (
        ("oom_kill", {"program": "java", "cgroup": "/docker/1"}), ("read_only", {"device": "sda1"}),
        ("memory_error", {"device": "MC0"}), ("segfault", {"program": "java"}),
    )
}  # fmt: skip
DISK = s("host.disk_utilization_ratio", HOST, mount="/")
DISK_BUSY = s("host.disk_busy_ratio", HOST, device="sda")
WRITES = s("host.disk_write_latency_seconds", HOST, device="sda")
MOUNT = s("host.mount_reachable", HOST, mount="/data")
DROPS = s("host.network_drops_per_second", HOST, interface="eth0", direction="in")
AGAIN = s("host.tcp_retransmits_per_second", HOST)
ACC, MIX_PSI = s("model.accuracy_ratio", MODEL), s("model.prediction_drift_psi", MODEL)
INPUT_PSI, WORSE = s("model.feature_drift_psi", MODEL), s("model.worse_than_previous", MODEL)
COVERAGE, DELAY = s("model.label_coverage_ratio", MODEL), s("model.label_delay_seconds", MODEL)
LABELS, PREDICTED = s("model.positive_label_ratio", MODEL), s("model.positive_prediction_ratio", MODEL)  # fmt: skip
PSI = [s("feature.drift_psi", f) for f in FEATURES]
DRIFTED = [s("feature.drifted", f) for f in FEATURES]
RELATION, LATE = s("model.relation_changed", MODEL), s("model.labels_late", MODEL)
WRONG = s("model.labels_wrong", MODEL)
MISSED, SHORT = (
    s("model.run_missed", MODEL, run="nightly"),
    s("model.run_short", MODEL, run="nightly"),
)
APART = [s("replica.predictions_apart", r) for r in REPLICAS]
BROKEN = [s("feature.contract_broken", f) for f in FEATURES]
CLOCK, TEMP, USED = (
    [s(m, g) for g in GPUS]
    for m in ("gpu.clock_ratio", "gpu.temperature_celsius", "gpu.utilization_ratio")
)
HERE = [s("gpu.reachable", g) for g in GPUS]
LINK, LIMIT = ([s(m, g) for g in GPUS] for m in ("gpu.pcie_link_ratio", "gpu.power_limit_watts"))
WATTS, NVLINKS = ([s(m, g) for g in GPUS] for m in ("gpu.power_watts", "gpu.nvlinks_count"))
CLEANUP, CONTAINED = ([s("gpu.xid_seen", g, xid=x) for g in GPUS] for x in ("45", "94"))
DRIVER, FILES = s("host.gpu_driver_up", HOST), s("host.file_descriptors_ratio", HOST)
ECC = [s("gpu.ecc_errors_per_second", g, type="uncorrected") for g in GPUS]
PENDING, FAILED = ([s(m, g) for g in GPUS] for m in ("gpu.remap_pending", "gpu.remap_failed"))
HOT, BRAKE, CAP = (
    [s("gpu.throttled", g, reason=r) for g in GPUS] for r in ("thermal", "power_brake", "power_cap")
)
REPLICA_P95 = [s("service.latency_p95_seconds", r) for r in REPLICAS]
RESTARTS = [s("replica.restarts_per_second", r) for r in REPLICAS]
HOLDS = {e: s("process.gpu_memory_bytes", e, gpu=GPUS[1].key) for e in (MASTER, BATCH)}
BLIND = [s("source.blind", e) for e in EYES]

CALM: dict[Series, tuple[float, float]] = {
    P50: (0.012, 0.001), P95: (0.03, 0.003), WORK: (0.01, 0.0005), RPS: (40.0, 2.0), ERRORS: (0.0, 0.0), UP: (1.0, 0.0),
    COUNT: (4.0, 0.0), BUSY: (0.35, 0.03), STORE_P95: (0.01, 0.001), STORE_UP: (1.0, 0.0),
    STORE_WORK: (0.006, 0.0004), STORE_RPS: (60.0, 3.0),
    DB_PROBE: (0.002, 0.0002), QUEUE: (0.0, 0.1), AGE: (90_000.0, 0.0),
    CORES[MASTER]: (0.5, 0.03), CORES[BATCH]: (0.02, 0.005), CORES[BACKUP]: (0.01, 0.003), CORES[ME]: (0.02, 0.005),
    **dict.fromkeys(WRITTEN.values(), (2e5, 5e4)),
    CPU: (0.3, 0.02), STEAL: (0.0, 0.001), THROTTLED: (0.0, 0.001), WAIT_CPU: (0.05, 0.02),
    WAIT_MEMORY: (0.0, 0.001), WAIT_IO: (0.01, 0.004),
    MEMORY: (0.55, 0.003), SWAP: (0.01, 0.001), KILLS: (0.0, 0.0), DISK: (0.5, 0.001), DISK_BUSY: (0.1, 0.02),
    WRITES: (0.001, 0.0002), MOUNT: (1.0, 0.0), DROPS: (0.0, 0.1), AGAIN: (0.3, 0.2),
    ACC: (0.95, 0.005), MIX_PSI: (0.01, 0.003), INPUT_PSI: (0.02, 0.005), WORSE: (0.0, 0.0), COVERAGE: (0.97, 0.01),
    DELAY: (5.0, 0.4), LABELS: (0.62, 0.01), PREDICTED: (0.61, 0.01),
    **dict.fromkeys(PSI, (0.02, 0.005)), **dict.fromkeys([*BROKEN, *DRIFTED, *APART], (0.0, 0.0)),
    **dict.fromkeys([RELATION, LATE, WRONG, MISSED, SHORT], (0.0, 0.0)),
    **dict.fromkeys(CLOCK, (0.9, 0.01)), **dict.fromkeys(TEMP, (65.0, 1.0)), **dict.fromkeys(USED, (0.7, 0.05)),
    **dict.fromkeys(HERE, (1.0, 0.0)), **dict.fromkeys(LINK, (1.0, 0.0)), **dict.fromkeys(LIMIT, (400.0, 0.0)),
    **dict.fromkeys(WATTS, (300.0, 8.0)), **dict.fromkeys(NVLINKS, (18.0, 0.0)),
    DRIVER: (1.0, 0.0), FILES: (0.1, 0.001), **dict.fromkeys([*CLEANUP, *CONTAINED], (0.0, 0.0)),
    **dict.fromkeys([*ECC, *PENDING, *FAILED, *HOT, *BRAKE, *CAP], (0.0, 0.0)),
    HOLDS[MASTER]: (2e10, 1e7), HOLDS[BATCH]: (0.0, 0.0), **dict.fromkeys(RESTARTS, (0.0, 0.0)),
    **dict.fromkeys(REPLICA_P95, (0.03, 0.003)), **dict.fromkeys([*BLIND, *KERNEL.values()], (0.0, 0.0)),
}  # fmt: skip
EXACT = frozenset({
    UP, STORE_UP, COUNT, MOUNT, WORSE, KILLS, RELATION, LATE, WRONG, MISSED, SHORT, *BROKEN, *DRIFTED, *APART,
    *HERE, *PENDING, *FAILED, *HOT, *BRAKE, *CAP, *BLIND, DRIVER, *NVLINKS, *CLEANUP, *CONTAINED,
    *KERNEL.values(), *RESTARTS, HOLDS[BATCH],
})  # fmt: skip
"""States and counts: no noise is laid over them."""

SLOW: dict[Series, Level] = {P50: 0.05, P95: 0.6, **dict.fromkeys(REPLICA_P95, 0.6)}
"""What users feel, alike for many causes."""

EDGES = (
    Edge("runs_on", SHOP, HOST), Edge("serves", SHOP, MODEL), Edge("calls", SHOP, STORE), Edge("calls", SHOP, DB),
    Edge("runs_on", STORE, FAR), Edge("serves", MASTER, SHOP),
    *(Edge("runs_on", p, HOST) for p in (MASTER, BATCH, BACKUP, ME)),
    *(Edge("runs_on", g, HOST) for g in GPUS), *(Edge("serves", r, SHOP) for r in REPLICAS),
    *(Edge("feeds", f, MODEL) for f in FEATURES),
)  # fmt: skip
ATTRS: dict[Entity, dict[str, str]] = {
    HOST: {"cores": "4"},
    BATCH: {"command": "nightly batch"},
    BACKUP: {"command": "backup"},
    ME: {"self": "yes"},
}


@dataclass(frozen=True)
class Picture:
    """What is to be seen, and what it must be called. `gone` series stop answering at the onset."""

    kind: str
    entity: Entity
    during: Mapping[Series, Level]
    changes: Sequence[Change] = ()
    attrs: Mapping[Entity, Mapping[str, str]] = field(default_factory=dict)
    edges: Sequence[Edge] = ()
    trusts: Mapping[str, str] = field(default_factory=dict)
    signals: Sequence[Signal] = ()
    gone: frozenset[Series] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)


CONFIG = {
    "services": [
        {
            "id": "shop", "models": ["fraud"], "calls": ["store", "db:5432"],
            "objectives": [
                {"signal": "service.latency_p95_seconds", "max": "250ms", "for": "4s", "entity": "service:shop"},
                {"signal": "service.error_ratio", "max": "5%", "for": "4s", "entity": "service:shop"},
                {"signal": "model.accuracy_ratio", "min": "90%", "for": "4s"},
                {"signal": "model.label_coverage_ratio", "min": "50%", "for": "4s"},
                {"signal": "model.label_delay_seconds", "max": "60s", "for": "4s"},
            ],
        }
    ],
    "objectives": [
        {"signal": "host.cpu_busy_ratio", "max": "95%", "for": "4s"},
        {"signal": "gpu.temperature_celsius", "max": 85, "for": "4s"},
        {"signal": "model.prediction_drift_psi", "max": 0.25, "for": "4s"},
    ],
    "diagnose": {"window": "60s", "baseline": "380s", "release_window": "120s", "settle": "10s"},
}  # fmt: skip


def renamed(picture: Picture, names: Mapping[str, str]) -> Picture:
    """Return the same picture of a shop in which everything is called otherwise; names: part of a key -> new part."""

    def who(e: Entity) -> Entity:
        return Entity(e.kind, "/".join(names.get(part, part) for part in e.key.split("/")))

    def what(x: Series) -> Series:
        return Series(x.metric, who(x.entity), x.labels)

    return replace(
        picture, entity=who(picture.entity), during={what(x): v for x, v in picture.during.items()},
        changes=[replace(c, entity=who(c.entity)) for c in picture.changes],
        attrs={who(e): a for e, a in picture.attrs.items()},
        edges=[replace(e, src=who(e.src), dst=who(e.dst)) for e in picture.edges],
        gone=frozenset(map(what, picture.gone)), names=names,
    )  # fmt: skip


def _said_with(config: Any, names: Mapping[str, str]) -> Any:
    """Return a config in which services and models have other names."""
    if isinstance(config, dict):
        return {k: _said_with(v, names) for k, v in config.items()}
    if isinstance(config, list):
        return [_said_with(v, names) for v in config]
    if not isinstance(config, str):
        return config
    head, colon, tail = config.partition(":")
    return head + colon + names.get(tail, tail) if colon else names.get(config, config)


def _source(series: Series) -> str:
    return {"host": "host", "process": "host", "gpu": "gpu", "source": "self"}.get(
        series.entity.kind, "models"
    )


def play(picture: Picture, folder: Path, *, seed: int = 0, until: float = END) -> Stage:
    """Walk through the picture from 0 to `until`."""
    stage = Stage(picture, folder, seed)
    stage.go(until)
    stage.close()
    return stage


class Stage:
    """A walk, its journal, and the made-up sources. `picture` may be changed between two calls of `go`.

    extra   more frames for an instant, for what no picture can tell
    """

    def __init__(
        self,
        picture: Picture,
        folder: Path,
        seed: int = 0,
        extra: Callable[[float], Sequence[Frame]] = lambda _now: (),
        config: Mapping[str, Any] = CONFIG,
    ) -> None:
        registry.load()
        self.picture = picture
        self.extra = extra
        self.config = config
        self.now = -STEP
        self.journal: list[SimpleNamespace] = []
        self._folder = folder
        self._rng = np.random.default_rng(seed)
        calm = renamed(replace(picture, during=CALM, edges=EDGES, attrs=ATTRS), picture.names)
        self._calm, self._edges, self._attrs = calm.during, calm.edges, calm.attrs
        exact = renamed(replace(picture, during=dict.fromkeys(EXACT, 0.0)), picture.names)
        self._exact = set(exact.during)
        tables: dict[str, list[Series]] = {}
        for series in sorted({*self._calm, *picture.during}):
            tables.setdefault(_source(series), []).append(series)
        self._tables = {name: tuple(some) for name, some in tables.items()}
        self._start()

    def _start(self) -> None:
        picture = self.picture
        config = Config.model_validate(_said_with(self.config, picture.names))
        world, self.memory = World(), Memory()
        for entry in self.journal:
            self.memory.apply(entry)
        for edge in (*self._edges, *picture.edges):
            world.topology.link(edge)
        for entity in {*self._attrs, *picture.attrs}:
            both = {**self._attrs.get(entity, {}), **picture.attrs.get(entity, {})}
            world.topology.take(Sighting(entity, tuple(both.items())))
        world.trusts.update(dict.fromkeys(("host", "gpu", "models", "self"), "local"))
        world.trusts.update(picture.trusts)
        bank = registry.detector.get("bank")
        d = config.diagnose
        self.walk = Walk(
            config, world, History(self._folder, age_s=7200, size_bytes=1e8),
            Monitor(
                lambda step, n: bank(bank.Config(step_s=step), n),
                limits_of(config), lambda _source: STEP,
            ),
            Correlator(world.topology, d.window, d.resolve_after, d.reopen_within, world.fresh),
            Library.load([], config, built_in=False), self.memory, self.record, HoldingState(),
        )  # fmt: skip
        self.walk.correlator.restore(self.memory.incidents.values())

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        """Write into the journal, as JSON would carry it, and fold it."""
        entry = SimpleNamespace(
            seq=len(self.journal) + 1, kind=kind, subject=subject, body=json.loads(json.dumps(body)), ts=ts
        )  # fmt: skip
        self.journal.append(entry)
        self.memory.apply(entry)

    def go(self, until: float) -> None:
        """Walk on to `until`."""
        while self.now + STEP <= until:
            self.now = now = self.now + STEP
            frames = [
                Frame(name, now, table, np.array([self._level(x, now) for x in table]))
                for name, table in self._tables.items()
            ]
            changes = [c for c in self.picture.changes if now - STEP < c.ts <= now]
            signals = [x for x in self.picture.signals if now - STEP < x.ts <= now]
            self.walk.step(now, [*frames, *self.extra(now)], changes, signals)

    def restart(self, after: float) -> None:
        """Die, and come back so many seconds later with nothing but journal and history."""
        self.close()
        self.now += after
        self._start()

    def close(self) -> None:
        """Close what is on disk."""
        self.walk.history.close()

    def _level(self, series: Series, now: float) -> float:
        usual, noise = self._calm.get(series, (0.0, 0.0))
        level: Level = usual
        if now >= ONSET and series in self.picture.gone:
            return math.nan
        if now >= ONSET and series in self.picture.during:
            level = self.picture.during[series]
            level = level(now - ONSET) if callable(level) else level
            noise = max(noise, 0.02 * abs(level)) if series not in self._exact else 0.0
        least = SIGNALS[series.metric].least
        return float(max(least, level + noise * self._rng.standard_normal()))

    @property
    def incidents(self) -> list[Incident]:
        """The incidents that are open at the end, as the journal has them; the worst first."""
        order = {"page": 0, "warning": 1, "note": 2}
        return sorted(
            self.memory.open_incidents(), key=lambda i: (order[i.severity], i.opened, i.id)
        )

    @property
    def incident(self) -> Incident:
        """The worst of them, with the newest diagnosis."""
        assert self.incidents, "nothing was noticed"
        return self.walk.correlator.incidents[self.incidents[0].id]

    def entries(self, kind: str) -> list[SimpleNamespace]:
        """The entries of one kind in the journal."""
        return [e for e in self.journal if e.kind == kind]
