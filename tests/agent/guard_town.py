"""A made-up town in which anything may happen, and an auditor who knows nothing of the guard's own code.

Troubles come, grow, change their cause, go and come back; runs begin, wait for people, act, fail and hang; people
pause, silence and reload; clocks are set; the daemon dies. All decisions are made by the real walk over the real
memory. The auditor sees every act with what is true at that instant and raises `Broken` when a promise is broken.
"""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from types import SimpleNamespace

import numpy as np

from agent import guard, pipeline
from agent.budget import Ledger
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
    Frame,
    Outcome,
    Series,
    Sighting,
    StepRecord,
)
from agent.pipeline import Walk
from agent.world import World

STEP = 5.0
HOSTS = [Entity("host", f"h{i}") for i in range(6)]
SERVICES = [Entity("service", f"s{i}") for i in range(8)]
MODELS = [Entity("model", f"m{i}") for i in range(3)]
FEATURES = [Entity("feature", f"{m.key}/f{i}") for m in MODELS for i in range(2)]
PROCESSES = [Entity("process", f"b/{100 + i}/1") for i in range(6)]
REPLICAS = {s: [Entity("replica", f"{s.key}/{n}") for n in range(3)] for s in SERVICES}
ON = {r: HOSTS[(i + n) % 6] for i, s in enumerate(SERVICES) for n, r in enumerate(REPLICAS[s])}
ON |= {p: HOSTS[i] for i, p in enumerate(PROCESSES)}
RACK = {h: f"r{i % 2}" for i, h in enumerate(HOSTS)}

BOOKS = {
    "calm": ("service", "serving.saturation", "act", "", "rate: {max: 3, per: 10m}"),
    "param": ("service", "host.neighbour", "act", "process: '${cause.entity}'", ""),
    "drain": ("replica", "serving.crash", "drain", "", ""),
    "reboot": ("host", "host.memory", "reboot", "", "blast: {max_targets: 3, max_share: 100%}"),
    "shed": ("host", "hardware.host", "act", "", "blast: {max_targets: 2, max_share: 100%, domain: labels.rack}"),
    "stop": ("process", "host.cpu", "act", "", "blast: {max_targets: 2, max_share: 100%}"),
    "narrow": ("service", "serving.dependency", "act", "", "blast: {max_targets: 8, max_share: 25%}"),
    "roll": ("model", "release.model", "share", "", ""),
    "mend": ("feature", "data.contract", "act", "", ""),
    "tell": ("service", "serving", "tell", "", ""),
}  # fmt: skip
LOOSE = {
    "cooldown": "cooldown: {time: 1s}", "rate": "rate: {max: 500, per: 1h}", "settle": "settle: 1s",
    "blast": "blast: {max_targets: 50, max_share: 100%}", "attempts": "attempts: {max: 500, per: 1h}",
    "breaker": "breaker: {bad_outcomes: 500, hold: 1h}",
}  # fmt: skip
"""Each playbook has one limit that binds, else another one would hide that it does not hold."""


def text_of(name):
    kind, cause, use, params, limit = BOOKS[name]
    guards = LOOSE | ({limit.partition(":")[0]: limit} if limit else {})
    return (
        f"version: 1\nid: {name}\ntitle: {name}\nmode: {'approve' if use == 'reboot' else 'auto'}\n"
        f"target: {{kind: {kind}}}\n"
        f"because: {{cause: {cause}, min_confidence: 0.5}}\n"
        f"do: [{{use: {use}, undo: none, with: {{{params}}}}}]\n"
        f"guard: {{{', '.join(guards.values())}, fresh: 30s, approve: {{timeout: 5m}}}}\n"
        + ("" if use == "tell" else "verify: {within: 1m, expect: ['service.up > 0.5']}\n")
    )


class Broken(AssertionError):
    """A promise that was broken; `what` names it."""

    def __init__(self, what, run):
        self.what = what
        super().__init__(f"{what}: {run.playbook} on {run.target.id} ({run.id})")


class Town:
    """The walk in its town; `go` lets a number of troubles happen."""

    def __init__(self, library, seed):
        self.rng = random.Random(seed)
        self.library = library
        self.now, self.truth, self.forward = 1_795_000_000.0, 0.0, 0.0
        self.journal, self.acts, self.seen = [], [], Counter()
        self.troubles, self.down, self.live, self.due = {}, {}, {}, {}
        self.pauses, self.silences, self.windows = set(), [], []
        self.file, self.foreign = False, "s7"
        self.memory = Memory()
        self.config = self._config()
        self.count = 0
        self._start()

    def _config(self):
        managed = [{"kind": k} for k in ("host", "process", "model")]
        managed += [{"kind": "service", "key": s.key} for s in SERVICES if s.key != self.foreign]
        return Config.model_validate({
            "mode": "auto", "single_agent": True, "manages": managed, "maintenance": self.windows,
            "never": [{"kind": "service", "key": "s6"}, {"kind": "replica", "key": "s6/*"}],
            "services": [{"id": s.key, "min_healthy": 1} for s in SERVICES],
            "diagnose": {"settle": "5s", "resolve_after": "20s", "reopen_within": "60s", "window": "30s"},
        })  # fmt: skip

    def _start(self):
        world = World()
        for one, host in ON.items():
            attrs = (
                (("name", "burner"), ("pid", one.key.split("/")[1]))
                if one.kind == "process"
                else ()
            )
            world.topology.take(Sighting(one, attrs, (Edge("runs_on", one, host),)))
        for service, some in REPLICAS.items():
            for r in some:
                world.topology.link(Edge("serves", r, service))
        for feature in FEATURES:
            world.topology.link(Edge("feeds", feature, Entity("model", feature.key.split("/")[0])))
        for host, rack in RACK.items():
            world.topology.take(Sighting(host, (("labels.rack", rack),)))
        world.trusts["eyes"] = "local"
        d = self.config.diagnose
        self.walk = Walk(
            self.config, world, SimpleNamespace(append=lambda _: None, read=_nothing),
            SimpleNamespace(ledger=Ledger(), take=lambda _: []),
            Correlator(world.topology, d.window, d.resolve_after, d.reopen_within, world.fresh),
            self.library, self.memory, self.record, HoldingState(), foretold=self._alarms,
        )  # fmt: skip
        self.walk.correlator.restore(self.memory.incidents.values())
        whom = [*SERVICES, *HOSTS, *MODELS]
        counts = [Series("service.replicas_count", s) for s in SERVICES]
        self.table = tuple(sorted([*(_metric(e) for e in whom), *counts]))

    def record(self, kind, subject, body, ts):
        body = json.loads(json.dumps(body))
        entry = Entry(len(self.journal) + 1, ts, kind, subject, body, "", "")
        self.journal.append(entry)
        self.memory.apply(entry)

    # ---- what happens

    def go(self, troubles):
        while self.count < troubles:
            self._weather()
            self.tick()

    def tick(self):
        self._people()
        self.now += STEP
        self.truth += STEP
        values = [self._value(s) for s in self.table]
        moment = self.walk.step(self.now, [Frame("eyes", self.now, self.table, np.array(values))])
        self.seen.update("held" for d in moment.decisions if not d.allowed)
        for plan in moment.plans:
            if plan.mode != "suggest":
                self.live[plan.run_id] = plan
                wait = self.rng.choice([0, 0, STEP, 60.0]) + (plan.mode == "approve") * 20.0
                self.due[plan.run_id] = ("act", self.truth + wait)
        self._runs()

    def _value(self, series):
        if series.metric == "service.replicas_count":
            return float(sum(self.down.get(r, 0.0) <= self.truth for r in REPLICAS[series.entity]))
        return 1.0 if series.entity in self.troubles else 0.0

    def _weather(self):
        roll = self.rng.random
        if roll() < 0.7:
            whom = self.rng.choice([*SERVICES, *SERVICES, *HOSTS, *MODELS])
            self.count += whom not in self.troubles
            self.troubles[whom] = [self._cause(whom), self.now, None]
        for whom, trouble in list(self.troubles.items()):
            if trouble[2] is not None:
                del self.troubles[whom]
            elif roll() < 0.06:
                trouble[2] = self.now
            elif roll() < 0.05:
                trouble[0] = self._cause(whom)
        if roll() < 0.3:  # a replica fails by itself
            self.down[self.rng.choice(list(ON)[:24])] = self.truth + self.rng.choice(
                [10.0, 60.0, 300.0]
            )

    def _cause(self, whom):
        rng = self.rng
        if whom.kind == "model":
            feature = rng.choice([f for f in FEATURES if f.key.startswith(whom.key)])
            kind, one = rng.choice([("release.model", whom), ("data.contract", feature)])
        elif whom.kind == "host":
            near = next(p for p in PROCESSES if ON[p] == whom)
            kind, one = rng.choice([
                ("host.memory", whom), ("hardware.host", whom), ("host.cpu", near),
            ])  # fmt: skip
        else:
            replica = rng.choice(REPLICAS[whom])
            kind, one = rng.choice([
                ("serving.saturation", whom), ("serving.dependency", whom), ("serving.crash", replica),
                ("serving.crash", replica), ("host.neighbour", rng.choice(PROCESSES)),
            ])  # fmt: skip
        return Cause(kind, one, rng.choice([0.9, 0.9, 0.4]))

    def _alarms(self, now):
        return [
            Anomaly(_metric(e), t[1], t[2], 0.0, 1, 1.0, math.nan, 0.5, 0.5, 9.0, "objective", "bad", harm=True)
            for e, t in self.troubles.items()
        ]  # fmt: skip

    def diagnose(self, seen):
        """Stand in for the ranking of causes: what is blamed is part of the weather."""
        said = [self.troubles[e][0] for e in seen.incident.entities if e in self.troubles]
        return Diagnosis(seen.now, tuple(said[:1]), low_confidence=False)

    def _people(self):
        roll, whom = self.rng.random, self.rng.choice([*SERVICES, *HOSTS, *MODELS])
        if roll() < 0.06:
            key = self.rng.choice(["*", whom.id, whom.id, whom.id])
            self.record("pause", key, {"by": "ann", "reason": "x"}, self.now)
            self.pauses.add(key)
        for key in sorted(self.pauses):
            if roll() < 0.2:
                self.record("resume", key, {"by": "ann"}, self.now)
                self.pauses.discard(key)
        if roll() < 0.03:
            target = self.rng.choice([whom.id, f"{whom.kind}:*"])
            silence = Silence(
                f"x{len(self.journal)}", target, self.now + self.rng.choice([20, 120]), "ann"
            )
            self.silences = [*self.silences[-50:], silence]
            self.record("silence", silence.id, pack(silence), self.now)
        self.file = self.walk.paused_file = (roll() < 0.5) if self.file else roll() < 0.01
        if roll() < 0.03:  # reload, with other windows and another scope
            start, long = self.now + self.rng.choice([-10, 30]), self.rng.choice([60, 200])
            scope = [] if roll() < 0.2 else [{"kind": whom.kind, "key": whom.key}]
            self.windows = [
                {"name": "w", "from": _iso(start), "to": _iso(start + long), "scope": scope}
            ]
            self.foreign = self.rng.choice(["s7", "s0", "s1"])
            self.config = self.walk.config = self._config()
        if roll() < 0.01:  # the clock is set
            jump = self.rng.choice([-600.0, -30.0, 45.0, 900.0])
            self.now += jump
            self.forward = self.truth if jump > 0 else self.forward
            self.walk.world.rebase(jump)
            self.walk.correlator.rebase(jump)
            for trouble in self.troubles.values():
                trouble[1] += jump
        if roll() < 0.01:
            self._die()

    def _die(self):
        """Come back with nothing but the journal: the same memory, so the same decisions."""
        again = Memory()
        for entry in self.journal:
            again.apply(entry)
        assert again == self.memory
        for incident in self.memory.open_incidents():
            top = incident.diagnosis.top if incident.diagnosis else None
            for book in self.library.for_cause(top.kind) if top else ():
                said = [
                    guard.decide(
                        book, top.entity, incident, memory=memory, world=self.walk.world, config=self.config,
                        now=self.now,
                    )
                    for memory in (self.memory, again)
                ]  # fmt: skip
                assert said[0] == said[1]
        self.memory = again
        for whom in list(self.troubles):  # what ends while nobody looks, nobody tells
            if self.rng.random() < 0.5:
                del self.troubles[whom]
        self._start()
        self.seen["deaths"] += 1

    # ---- runs, as the runner and the hands carry them out

    def _runs(self):
        for id_, plan in list(self.live.items()):
            what, when = self.due[id_]
            if self.truth < when:
                continue
            run = self.memory.runs[id_]
            if what == "act":
                self._try(plan, run, when)
            elif what == "end":
                verdict = self.rng.choice(["helped", "helped", "no_effect", "cannot_tell"])
                self._end(replace(run, state="done", outcome=Outcome(verdict, "so")))

    def _try(self, plan, run, when):
        over = self.memory.incidents.get(plan.incident)
        why = self.file or self.memory.paused(plan.target)
        if not why:
            why = guard.standing(
                plan,
                memory=self.memory,
                world=self.walk.world,
                config=self.config,
                now=self.now,
                first=True,
                incident=self.walk.correlator.incidents.get(plan.incident),
                unseen=self.walk.correlator.unseen(plan.incident),
            )
            if why and self.truth - when >= 60.0:
                return self._end(replace(run, state="expired"))
        if over is None or over.state == "resolved" or self.rng.random() < 0.1:
            return self._end(replace(run, state=self.rng.choice(["denied", "expired", "failed"])))
        if why:
            self.seen["waits"] += 1
            return None
        if plan.mode == "approve" and run.state == "waiting_approval":
            self.record(
                "approval", run.id, {"person": "ann", "yes": True, "plan_hash": plan.hash}, self.now
            )
        self._audit(plan, run)
        self.acts.append((self.now, self.truth, plan, [math.inf]))
        if any(s.use in {"drain", "reboot"} for s in plan.steps):
            for r in self._taken(plan):
                self.down[r] = self.truth + 40.0
        step = StepRecord("s", plan.steps[0].use, self.now, self.now, "done", "did")
        self.record(
            "run",
            run.id,
            pack(replace(run, state="verifying", updated=self.now, steps=(step,))),
            self.now,
        )
        hangs = self.rng.random() < 0.05
        self.due[run.id] = (
            "end",
            self.truth + (900.0 if hangs else self.rng.choice([5.0, 30.0, 120.0])),
        )
        self.seen[f"{plan.playbook} acts"] += 1
        return None

    def _end(self, run):
        self.record("run", run.id, pack(replace(run, updated=self.now)), self.now)
        del self.live[run.id], self.due[run.id]
        for _, _, plan, end in self.acts:
            if plan.run_id == run.id:
                end[0] = self.truth

    # ---- the auditor

    def _audit(self, plan, run):
        if plan.playbook == "tell":
            return
        about = self.memory.incidents[plan.incident].entities
        if not any(e in self.troubles and self.troubles[e][2] is None for e in about):
            raise Broken("seen", run)
        mine = self._ground(plan)
        for _, _, other, end in self.acts:
            if end[0] == math.inf and other.playbook != "tell" and mine & self._ground(other):
                raise Broken("touch", run)
        touched = [plan.entity, *_named(plan)]
        for one in touched:
            owner = _owner(one)
            if owner.key == self.foreign and owner.kind == "service":
                raise Broken("scope", run)
            if owner == Entity("service", "s6"):
                raise Broken("never", run)
        self._hands_off(run, touched)
        self._limits(plan, run)
        taken = self._taken(plan) if plan.playbook in {"drain", "reboot"} else set()
        for some in REPLICAS.values():
            well = {r for r in some if self.down.get(r, 0.0) <= self.truth}
            if taken & set(some) and not well - taken:
                raise Broken("healthy", run)

    def _hands_off(self, run, touched):
        """Look whether people want nothing done here now."""
        around = {*touched, *map(_owner, touched), *(ON[e] for e in touched if e in ON)}
        if self.file or "*" in self.pauses or any(e.id in self.pauses for e in around):
            raise Broken("pause", run)
        if any(
            self.now < s.until and fnmatchcase(e.id, s.target)
            for s in self.silences
            for e in around
        ):
            raise Broken("silence", run)
        for w in self.windows:
            inside = not w["scope"] or any(
                (e.kind, e.key) == (m["kind"], m["key"]) for m in w["scope"] for e in around
            )
            if inside and _unix(w["from"]) <= self.now < _unix(w["to"]):
                raise Broken("window", run)

    def _limits(self, plan, run):
        """Count by true time; who has but a clock can not know what was before it was put forward."""
        same = [a for a in self.acts if a[2].playbook == plan.playbook]
        recent = [a for a in same if a[1] > self.forward]
        if plan.playbook == "calm" and sum(a[1] > self.truth - 600.0 for a in recent) >= 3:
            raise Broken("rate", run)
        for name, what, most in (
            ("reboot", "blast", 3), ("stop", "blast", 2), ("shed", "blast", 2),
            ("narrow", "share", 0.25 * len(SERVICES)),
        ):  # fmt: skip
            if plan.playbook == name and len(self._treated(plan)) > most:
                raise Broken(what, run)

    def _treated(self, plan):
        """Return whom of the target's kind (and rack) anybody treats now, or has within a minute, this act included."""
        going = [a for a in self.acts if a[3][0] == math.inf]
        recent = [a for a in self.acts if a[1] > max(self.truth - 60.0, self.forward)]
        acts = [a[2] for a in (*going, *recent)]
        near = {e for other in acts if other.playbook != "tell" for e in self._hit(other)}
        kind, rack = plan.entity.kind, RACK.get(plan.entity)
        return {e for e in near | {plan.entity} if e.kind == kind and RACK.get(e) == rack}

    def _hit(self, plan):
        some = {plan.entity, *_named(plan)}
        if plan.playbook == "reboot":
            some |= {e for e, h in ON.items() if h == plan.entity}
        return some | {_owner(e) for e in some}

    def _taken(self, plan):
        one = plan.entity
        return {r for r, h in ON.items() if one in {r, h}} & {
            r for s in REPLICAS.values() for r in s
        }

    def _ground(self, plan):
        """Return whatever two acts must not both move."""
        whole = {_owner(e) for e in (plan.entity, *_named(plan))}
        if plan.playbook == "reboot":
            whole |= {_owner(e) for e, h in ON.items() if h == plan.entity}
        return whole


def _owner(one):
    if one.kind == "replica":
        return Entity("service", one.key.split("/")[0])
    return Entity("model", one.key.split("/")[0]) if one.kind == "feature" else one


def _named(plan):
    return [
        Entity("process", v.partition(":")[2]) for s in plan.steps for v in s.params.values() if v
    ]


def _metric(one):
    name = {
        "service": "service.error_ratio",
        "host": "host.memory_utilization_ratio",
        "model": "model.accuracy_ratio",
    }
    return Series(name[one.kind], one)


def _iso(ts):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ts, UTC).isoformat()


def _unix(text):
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _nothing(series, *_):
    return np.empty(0), np.empty((0, len(series)))


def watch(town, monkeypatch):
    """Let the town's weather be what diagnosis says."""
    monkeypatch.setattr(pipeline.rca, "diagnose", town.diagnose)
    return town
