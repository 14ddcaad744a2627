"""How long a decision takes: 500 playbooks, 50 new incidents a second; and what a tick costs with 500 of them open.

    make bench-decide                    # or: python tests/bench/decide.py [--playbooks 500] [--rate 50] [--seconds 30]

A made-up fleet of 60 hosts, 60 services with three replicas each, 20 models; every second `rate` incidents open, each
for one of the causes of the tree, and stay open for `--open` seconds. The memory holds 1,000 runs and 200 silences, as
after a busy week. Every incident goes through the real stage of the walk: candidates, conditions, guard, plan, record.

    decision   one new incident: from its diagnosis to recorded decisions and plans. The promise is p99 < 10 ms.
               Beside it `scan`: the same, asking every playbook, as one does without an index
    second     the whole stage of one tick: the new incidents and all that are still open
    tick ...   all stages of a tick with 1,000 series (`crowd.py`): `calm`; `burst`, while 50 incidents a second open
               and are diagnosed; `open`, with 500 that go on and do not change. The promise is `open` < 50 ms, and
               no tick over a second

Times are those of the thread's own CPU: what else the machine does is not counted. Figures, written to
build/bench/decide.json: p50_ms, p99_ms, max_ms of each.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np

# beside this file `agent.py`, a benchmark, would hide the package
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from crowd import ticks

from agent import pipeline, registry
from agent.catalogue import SIGNALS, SignalDef
from agent.causes import CAUSES
from agent.codec import pack
from agent.config import Config
from agent.correlate import Correlator
from agent.journal import Entry
from agent.match import HoldingState
from agent.memory import Memory, Silence
from agent.model import (
    Anomaly,
    Cause,
    Diagnosis,
    Edge,
    Entity,
    EntityKind,
    Frame,
    Incident,
    Run,
    Series,
    Sighting,
    StepRecord,
)
from agent.pipeline import Moment, Walk
from agent.playbook import Library, Playbook
from agent.world import World

US, SCAN = "homeostat", "scan"
KINDS = ("host", "service", "replica", "model")
N = 60
_SCANS = 4
"""Seconds with a scan of all: it is slow."""


def books(n: int, rng: random.Random) -> Iterator[str]:
    """Yield so many playbooks: for leaves and branches, with one to four conditions, limits of their own."""
    causes = [*CAUSES, "hardware.gpu", "host", "serving", "release", "data"]
    for i in range(n):
        kind = rng.choice(KINDS)
        signals = [s for s in SIGNALS.values() if s.entity_kind == kind and _moves(s)]
        signals = signals or [
            s for s in SIGNALS.values() if s.entity_kind == "service" and _moves(s)
        ]
        when = [
            f"{{is: '{s.name} {rng.choice('<>')} {rng.uniform(0.1, 0.9):.2f}', for: {rng.choice(['0s', '5s', '1m'])}}}"
            for s in rng.choices(signals, k=rng.randint(1, 4))
        ]
        yield (
            f"version: 1\nid: book-{i:03}\ntitle: Book {i}\nmode: auto\ntarget: {{kind: {kind}}}\n"
            f"because: {{cause: {rng.choice(causes)}, min_confidence: 0.5}}\nwhen: [{', '.join(when)}]\n"
            f"unless: ['{rng.choice(signals).name} > 0.99']\n"
            f"do: [{{use: {rng.choice(['act', 'act', 'take'])}, undo: none}}]\n"
            "guard: {blast: {max_targets: 5, max_share: 50%, domain: labels.rack}}\n"
            f"verify: {{within: 1m, expect: ['{rng.choice(signals).name} < 0.9']}}\n"
        )


def _moves(signal: SignalDef) -> bool:
    return (
        signal.kind == "gauge"
        and signal.unit != "bool"
        and signal.least <= 0.0
        and signal.most >= 1.0
    )


def verbs() -> None:
    """Register two verbs that need nobody."""
    registry.action = registry.Registry("action")
    for name, takes in (("act", False), ("take", True)):
        body = {
            "effect": "mutating",
            "ability": None,
            "reversible": True,
            "shared": False,
            "takes_replica": takes,
        }
        registry.action(name)(type(name, (), body))


class Fleet:
    """The walk over a made-up fleet."""

    def __init__(self, library: Library, seed: int, holding: HoldingState) -> None:
        self.rng = random.Random(seed)
        self.now = 1_795_000_000.0
        self.memory = Memory()
        self.seq = 0
        manages = [{"kind": k} for k in ("host", "service", "replica", "model")]
        services = [{"id": f"s{i}"} for i in range(N)]
        config = Config.model_validate(
            {"mode": "auto", "single_agent": True, "manages": manages, "services": services}
        )
        world = World()
        self._map(world)
        some = {
            k: [s.name for s in SIGNALS.values() if s.entity_kind == k and _moves(s)] for k in KINDS
        }
        metrics = [name for names in some.values() for name in names[:20]]
        metrics.append("service.replicas_count")
        whom = {k: world.entities(k) for k in KINDS}
        self.table = tuple(
            sorted({Series(m, e) for m in metrics for e in whom[SIGNALS[m].entity_kind]})
        )
        world.trusts["eyes"] = "local"
        self.walk = Walk(
            config, world, SimpleNamespace(append=lambda _: None, read=_nothing),  # type: ignore[arg-type]  # no past
            SimpleNamespace(), Correlator(world.topology), library, self.memory, self.record, holding,  # type: ignore[arg-type]  # not asked
        )  # fmt: skip
        self._past()

    def _map(self, world: World) -> None:
        for i in range(N):
            host, service = Entity("host", f"h{i}"), Entity("service", f"s{i}")
            world.topology.take(Sighting(host, (("labels.rack", f"r{i % 6}"),)))
            for n in range(3):
                replica = Entity("replica", f"s{i}/{n}")
                at = Entity("host", f"h{(i + n) % N}")
                edges = (Edge("runs_on", replica, at), Edge("serves", replica, service))
                world.topology.take(Sighting(replica, (("labels.rack", f"r{i % 6}"),), edges))
            world.topology.link(Edge("calls", service, Entity("service", f"s{(i + 1) % N}")))
            world.topology.link(Edge("serves", service, Entity("model", f"m{i % 20}")))

    def _past(self) -> None:
        for i in range(1000):
            at = self.now - self.rng.uniform(0, 86_400)
            step = StepRecord("act", "act", at, at, "done", "did")
            whom = Entity("service", f"s{self.rng.randrange(N)}")
            book = f"book-{self.rng.randrange(500):03}"
            run = Run(f"r{i}", book, whom, f"old{i}", "auto", "done", at, at, "h", (step,))
            self.record("run", run.id, pack(run), at)
        for i in range(200):
            silence = Silence(f"x{i}", f"host:far{i}*", self.now + 3600.0, "ann")
            self.record("silence", silence.id, pack(silence), self.now)

    def record(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> None:
        self.seq += 1
        self.memory.apply(Entry(self.seq, ts, kind, subject, json.loads(json.dumps(body)), "", ""))

    def second(self, rate: int, stay: float) -> list[Incident]:
        """Let a second pass: values move, old incidents go, new ones come; returns those, diagnosed just now."""
        self.now += 1.0
        values = np.array([self.rng.random() for _ in self.table])
        self.walk.world.take(Frame("eyes", self.now, self.table, values))
        self.walk.world.now = self.now
        incidents = self.walk.correlator.incidents
        for id_ in [i.id for i in incidents.values() if self.now - i.opened >= stay]:
            del incidents[id_]
        new = [self._incident(f"i{self.now:.0f}-{n}") for n in range(rate)]
        for one in new:
            incidents[one.id] = one
            self.walk.looks.looked(SimpleNamespace(incident=one, now=self.now, cells=()))  # type: ignore[arg-type]  # a look
        return new

    def _incident(self, id_: str) -> Incident:
        kind = self.rng.choice(list(CAUSES))
        n = self.rng.randrange(N)
        whom = self.rng.choice([Entity("host", f"h{n}"), Entity("service", f"s{n}")])
        series = next(s for s in self.table if s.entity == whom)
        onset, open_ = self.now - 10, math.nan
        anomaly = Anomaly(series, onset, None, 0.0, 1, 1.0, open_, 0.5, 0.5, 9.0, "objective", "x")
        diagnosis = Diagnosis(self.now, (Cause(kind, whom, 0.9),))
        return Incident(
            id_, self.now, self.now, "open", "warning", "x", (anomaly,), (), (whom,), diagnosis, about=whom
        )  # fmt: skip


def _nothing(series: Any, *_: Any) -> Any:
    return np.empty(0), np.empty((0, len(series)))


class Scanned(Library):
    """A library without an index."""

    def for_cause(self, cause: str) -> list[Playbook]:
        """Return all playbooks, best first."""
        return sorted(self.playbooks.values(), key=Playbook.rank)


class Scanning(HoldingState):
    """Matching without an index: whoever is named is asked, on a target that is looked for anew."""

    def _lacking(self, *_: Any) -> str:
        self._indexes.clear()
        return ""


def measure(
    fleet: Fleet, rate: int, seconds: int, stay: float
) -> tuple[dict[str, list[float]], int]:
    """Return `decision` and `second` in milliseconds, and how many plans came of it."""
    out: dict[str, list[float]] = {"decision": [], "second": []}
    walk, plans = fleet.walk, 0
    for n in range(seconds):
        moment = Moment(fleet.now, [], [])
        if n == 1:  # expressions are compiled when they are first asked
            out = {name: [] for name in out}
        for incident in fleet.second(rate, stay):
            moment.now = fleet.now
            at = time.thread_time()
            pipeline.decide_one(walk, incident, moment)
            out["decision"].append(1e3 * (time.thread_time() - at))
        begun = time.thread_time()
        pipeline.decide(walk, moment)
        out["second"].append(1e3 * (time.thread_time() - begun))
        plans += len(moment.plans)
    return out, plans


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--playbooks", type=int, default=500)
    parser.add_argument("--rate", type=int, default=50, help="new incidents a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument(
        "--open", type=float, default=10.0, help="seconds that an incident stays open"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/bench/decide.json"))
    asked = parser.parse_args()
    registry.load()
    verbs()
    with tempfile.TemporaryDirectory() as folder:
        for i, text in enumerate(books(asked.playbooks, random.Random(asked.seed))):
            Path(folder, f"{i}.yaml").write_text(text)
        racks = [{"kind": kind, "set": {"rack": "r0"}} for kind in get_args(EntityKind)]
        config = Config.model_validate({"topology": {"labels": racks}})
        library = Library.load([Path(folder)], config, built_in=False)
    gc.freeze()
    ours, plans = measure(
        Fleet(library, asked.seed, HoldingState()), asked.rate, asked.seconds, asked.open
    )
    theirs, _ = measure(
        Fleet(Scanned(library.playbooks), asked.seed, Scanning()), asked.rate, _SCANS, 1.0
    )
    with tempfile.TemporaryDirectory() as folder:
        walked, crowd = ticks(library, Path(folder), asked.seed, asked.seconds)
    sets = {
        ("decision", US): ours["decision"],
        ("decision", SCAN): theirs["decision"],
        ("second", US): ours["second"],
    }
    sets |= {(f"tick {name}", US): ms for name, ms in walked.items()}
    tell(f"{'set':12} {'subject':10} {'n':>7} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}")
    rows: list[dict[str, object]] = []
    for (name, who), ms in sets.items():
        p50, p99 = np.percentile(ms, [50, 99])
        tell(f"{name:12} {who:10} {len(ms):7} {p50:9.3f} {p99:9.3f} {max(ms):9.3f}")
        for figure, value in (("p50_ms", p50), ("p99_ms", p99), ("max_ms", max(ms))):
            rows.append(
                {"set": name, "subject": who, "figure": figure, "value": round(float(value), 4)}
            )
    ratio = float(np.median(theirs["decision"]) / np.median(ours["decision"]))
    rows.append(
        {"set": "decision", "subject": US, "figure": "scan_ratio", "value": round(ratio, 2)}
    )
    tell(f"a scan of all takes {ratio:.1f} times as long")
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "playbooks": asked.playbooks,
        "rate": asked.rate, "plans": plans + crowd.plans, "rows": rows,
    }  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=1))
    tell(
        f"{report['machine']}; {asked.playbooks} playbooks, {report['plans']} plans; written to {asked.out}"
    )


def tell(line: str) -> None:
    """Print a line of the table as soon as it is known."""
    print(line, flush=True)  # noqa: T201  # a table is what is asked for


if __name__ == "__main__":
    main()
