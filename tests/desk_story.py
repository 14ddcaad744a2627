"""One afternoon on a host that serves a model, in a real journal, memory, history and world: what desk tests look at.

web-1 serves `wine` (gunicorn) with versions 3 and 4.
40 min ago  version 4 was promoted, accuracy fell -> inc-1a2b..., rolled back, helped     (resolved)
4 min ago   a batch job took the CPU, latency rose -> inc-7f3a..., a run asks for approval (open, page)
2 min ago   a feature came without values          -> inc-7c00..., a gate holds it back    (open, note)
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from model_story import two_versions

from agent import doors, web
from agent.api import Views, make_app
from agent.authority import Person, Tokens
from agent.budget import Ledger
from agent.by_hand import Proposal, undoing
from agent.codec import pack
from agent.config import Config
from agent.desk import Desk
from agent.events import Events
from agent.filling import LEVELS, Forecast, Target
from agent.history import History
from agent.journal import Journal
from agent.life import turned
from agent.memory import Memory
from agent.model import (
    Anomaly,
    Cause,
    Change,
    Decision,
    Diagnosis,
    Edge,
    Entity,
    Evidence,
    Frame,
    Gate,
    Incident,
    Outcome,
    Run,
    Series,
    Sighting,
    StepRecord,
)
from agent.models import ModelFacts, VersionFacts
from agent.models.cause import Blame
from agent.monitor import Monitor
from agent.pipeline import bank, record_plan
from agent.plans import Plan, PlannedApproval, PlannedStep, PlannedVerify, Until, Would, sealed
from agent.ports import Judged
from agent.scores import Scores
from agent.telemetry import Telemetry
from agent.web import vitals
from agent.web.table import ways
from agent.world import World

HOST = Entity("host", "web-1")
WINE = Entity("service", "wine")
MODEL = Entity("model", "wine")
V3, V4 = Entity("version", "wine/3"), Entity("version", "wine/4")
ALCOHOL = Entity("feature", "wine/alcohol")
WORKERS = Entity("process", "b00t/4100/9001")
BATCH = Entity("process", "b00t/5200/9950")

LATENCY = Series("service.latency_p95_seconds", WINE)
REQUESTS = Series("service.requests_per_second", WINE)
ACCURACY = Series("model.accuracy_ratio", MODEL)
CORES = Series("process.cpu_cores", BATCH)
BUSY = Series("host.cpu_busy_ratio", HOST)
MISSING = Series("feature.missing_ratio", ALCOHOL)
CONTRACT = Series("feature.contract_broken", ALCOHOL)

OPERATOR = Person("olga", "operator", "token")
VIEWER = Person("victor", "viewer", "token")
ADMIN = Person("root", "admin", "socket")

CONFIG = {
    "mode": "auto",
    "manages": [{"kind": "service", "key": "wine"}, {"kind": "process", "key": "*"}],
    "services": [
        {
            "id": "wine",
            "owner": "team-wine",
            "models": ["wine"],
            "objectives": [{"signal": "service.latency_p95_seconds", "max": "250ms"}],
        }
    ],
}


class StoryHooks:
    """The daemon's part of the desk, over real parts; answers are written as the runner writes them."""

    def __init__(self, state: Path, now: float, config_path: Path | None = None) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self.config_path = config_path
        self.config = Config.model_validate(CONFIG)
        self.journal = Journal(state / "journal.sqlite")
        self.memory = Memory()
        self.ledger = Ledger()
        self.world = World()
        self.history = History(state / "history", age_s=7200, size_bytes=1e8, tail_s=7200)
        self.scored = Scores(state / "scores", age_s=7200, size_bytes=1e8)
        self.started = now - 3600
        self.ready = True
        self.told: list[str] = []
        self.wrote = []
        self._now = now
        self.blind = True
        self.watch = None
        self._watches = {}
        self.loaded = {}
        self.lets = True

    @property
    def pending(self) -> int:
        return self.journal.pending

    def now(self) -> float:
        return self._now

    def read(self, series, start, end, step):
        return self.history.read(series, start, end, step)

    def series(self):
        return self.history.series()

    def scores(self, series, start, end):
        self.watches()
        return self.scored.read(series, start, end)

    def record(self, kind, subject, body, ts) -> None:
        entry = self.journal.append(kind, subject, body, ts)
        self.memory.apply(entry)
        for told in self.wrote:
            told(entry)

    def push(self, change):
        self.record("change", change.entity.id, pack(change), self._now)

    def dismiss(self, sender) -> None:
        self.dismissed = sender

    def sources(self):
        def one(name, state, age, series, *, ready=True, error="", trust="local"):
            learning = {
                "ready": ready,
                "since": self.started,
                "rows": 3600 if ready else 90,
                "ready_in_s": 0.0 if ready else 510.0,
            }
            return {
                "name": name, "state": state, "age_s": age, "interval_s": 1.0, "stretched": False,
                "error": error, "series": series, "poll_s": 0.004, "cpu_ratio": 0.004,
                "impossible": 2 if name == "host" else 0, "trust": trust,
                "learning": learning,
            }  # fmt: skip

        lost = one(
            "predictions.feed", "blind", 42.0, 0, error="the log is not there: /var/log/wine.jsonl"
        )
        return [
            one("connections", "fresh", 12.0, 38),
            one("gpu", "waiting", None, 0),
            one("host", "fresh", 0.4, 231),
            one("models", "fresh", 0.4, 24, ready=False),
            *([lost] if self.blind else []),
            one("processes", "fresh", 2.1, 140),
        ]

    def models(self):
        """One that lost, since a release."""
        version = VersionFacts(
            "7", self._now - 900.0, None, 5000, 900, 0.81, 0.78, 0.84, 0.93, 0.02
        )
        facts = ModelFacts(
            "fraud", version, ("7",), (), 0.81, 0.78, 0.84, 0.8, 900, 0.93, True, self._now - 600.0, None,
            (), (), 0.9, 30.0, 0.0, 0.7, "", False, None, (), 0.0, 0.02, 0.9, Judged.nothing(), False, 0,
        )  # fmt: skip
        return [(facts, (Blame("concept.drift", (), 1.2, "labels say worse"),))]

    def asked(self):
        """A model of two versions that serve at once."""
        self.watch = self.watch or two_versions(self._now)
        return self.watch.asked

    def forecasts(self):
        """A disk that is full in three hours, told; memory that is not; a queue of which nothing is known."""
        limit, far = 3 * 3600.0, 9 * 86_400.0
        spread = [self._now + limit * (0.5 + level) for level in LEVELS]

        def one(metric, kind, value, times, why="", **labels):
            target = Target(Series(metric, HOST, tuple(labels.items())), kind, 1.0)
            return Forecast(target, self._now, value, tuple(times), far, why)

        n = len(LEVELS)
        return [
            (one("host.memory_utilization_ratio", "memory", 0.5, [math.inf] * n), ""),
            (one("host.conntrack_ratio", "handles", math.nan, [math.nan] * n,
                 "its history is too short"), ""),
            (one("host.disk_utilization_ratio", "disk", 0.8, spread, mount="/"), "page"),
        ]  # fmt: skip

    def watches(self):
        """A detector that has seen what the history holds; made for whoever asks."""
        if not self._watches:
            monitor, table = Monitor(bank, ()), tuple(self.series())
            ts, x = self.history.read(table, 0.0, self._now)
            for t, row in zip(ts.tolist(), x, strict=True):
                monitor.take(Frame("models", t, table, row))
                self.scored.take(monitor.watches.items())
            self._watches.update(monitor.watches)
        return self._watches

    def faults(self):
        return []

    def away(self):
        return []

    def hints(self):
        return ["objective host.disk_utilization_ratio at most 0.9: no series has mount=/dta"]

    def playbooks(self):
        return [
            {"id": "calm-neighbour", "title": "Lower the priority of a noisy neighbour", "owner": "",
             "target": "process", "causes": ["host.neighbour"], "limits": [
                 {"by": "playbook", "mode": "approve", "reason": ""},
                 {"by": "agent.yaml", "mode": "auto", "reason": ""}]},
        ]  # fmt: skip

    def playbook(self, id_):
        return self.loaded.get(id_)

    def usage(self):
        return {
            "rss_bytes": 91e6,
            "cpu_seconds": 31.0,
            "uptime_seconds": 3600.0,
            "series": 433,
            "bugs": {},
        }

    def turn(self, incident_id, event, person, why):
        i = turned(self.memory.incidents[incident_id], event, self._now, person.signed, why)
        self.record("incident", incident_id, pack(i), self._now)
        return i

    async def answer(self, run_id, person, yes, plan_hash, reason=""):
        body = {"person": person.signed, "yes": yes, "plan_hash": plan_hash}
        body |= {"reason": reason} if reason else {}
        self.record("approval", run_id, body, self._now)
        state = "acting" if yes else "denied"
        run = replace(self.memory.runs[run_id], state=state, updated=self._now)
        self.record("run", run_id, pack(run), self._now)

    async def cancel(self, run_id, person, reason=""):
        body = {"person": person.signed} | ({"reason": reason} if reason else {})
        self.record("cancel", run_id, body, self._now)

    async def start(self, run_id, person):
        run = replace(self.memory.runs[run_id], state="acting", updated=self._now)
        self.record("run", run_id, pack(run), self._now)
        return run

    def propose(self, playbook, target):
        """What a walk over an empty library would say, made by the story."""
        steps = (PlannedStep("lower", "set_priority", None, {"nice": 19}),)
        plan = sealed(Plan(
            "run-byhand", playbook, "Lower it", "0" * 64, target.id, "", "auto", "", self._now, steps,
            approve=PlannedApproval(),
        ))  # fmt: skip
        gates = (Gate("scope", self.lets, "process matched", "manages"),)
        return Proposal(plan, Decision(self._now, playbook, target, "", "auto", self.lets, gates))

    async def would(self, plan):
        return [Would(s.id, s.use, "would", f"would {s.use}") for s in plan.steps]

    async def begin(self, playbook, target, person, plan_hash):
        plan = replace(self.propose(playbook, target).plan, by=person.signed)
        return record_plan(self.record, plan, self._now)

    async def undo(self, run_id, person, reason):
        plan = undoing(self.memory, self.journal, run_id, person.signed, self._now)
        return record_plan(self.record, plan, self._now)

    async def reload(self):
        self.told.append("reload")

    def close(self):
        self.history.close()
        self.scored.close()
        self.journal.close()


class Story:
    """Builds the afternoon; `hooks`, `desk`, `tokens` and the ids are what tests ask for."""

    def __init__(self, state: Path, now: float = 1_795_000_000.0, config_path: Path | None = None):
        self.now = now
        self.hooks = StoryHooks(state, now, config_path)
        self.tokens = Tokens(state / "tokens.json")
        self.desk = Desk(self.hooks, self.tokens)
        self._world()
        self._past()
        self.released = self._released()
        self.noisy, self.run = self._noisy()
        self.broken = self._broken()

    def close(self):
        self.hooks.close()

    def _world(self):
        attrs = {
            WORKERS: {"name": "gunicorn", "command": "gunicorn wine:app", "pid": "4100"},
            BATCH: {"name": "nightly-batch", "command": "python batch.py", "pid": "5200"},
        }
        edges = {
            WORKERS: (Edge("serves", WORKERS, WINE), Edge("runs_on", WORKERS, HOST)),
            BATCH: (Edge("runs_on", BATCH, HOST),),
            WINE: (Edge("runs_on", WINE, HOST), Edge("serves", WINE, MODEL)),
            V3: (Edge("version_of", V3, MODEL),),
            V4: (Edge("version_of", V4, MODEL),),
            ALCOHOL: (Edge("feeds", ALCOHOL, MODEL),),
            HOST: (),
        }
        for one, its in edges.items():
            pairs = tuple(sorted(attrs.get(one, {}).items()))
            self.hooks.world.topology.take(Sighting(one, pairs, its))

    def _past(self):
        """An hour of numbers, once a second."""
        rng = np.random.default_rng(7)
        table = tuple(sorted([LATENCY, REQUESTS, ACCURACY, CORES, BUSY, MISSING]))
        start = int(self.now) - 3600
        k = 3601
        t = np.arange(k)
        noisy = t > 3600 - 240
        bad = (t > 1200) & (t < 1700)
        columns = {
            LATENCY: 0.11
            + 0.012 * rng.standard_normal(k)
            + noisy * (0.55 + 0.1 * rng.standard_normal(k)),
            REQUESTS: 40 + 3 * np.sin(t / 300) + rng.standard_normal(k),
            ACCURACY: 0.97 + 0.004 * rng.standard_normal(k) - bad * 0.14,
            CORES: 0.05 + 0.02 * rng.random(k) + noisy * 1.85,
            BUSY: 0.32 + 0.03 * rng.standard_normal(k) + noisy * 0.6,
            MISSING: 0.001 + 0.45 * (t > 3600 - 120),
        }
        x = np.clip(np.column_stack([columns[s] for s in table]), 0, None)
        x[2000:2030, table.index(LATENCY)] = math.nan  # we did not see half a minute of it
        for i in range(k):
            frame = Frame("models", float(start + i), table, x[i])
            self.hooks.history.append(frame)
        self.hooks.world.take(frame)
        self.hooks.world.now = self.now

    def _anomaly(self, series, onset, end, value, high, **kw):
        said = {
            "p": 0.0, "direction": 1, "low": math.nan, "size": value - high, "deviations": 40.0,
            "road": "objective", "family": f"{series.metric} at most {high:g}",
        }  # fmt: skip
        return Anomaly(series, onset, end, value=value, high=high, **{**said, **kw})

    def _write(self, kind, value, subject, ts):
        self.hooks.record(kind, subject, pack(value), ts)

    def _plan(self, run_id, playbook, title, target, incident, steps, **kw):
        plan = Plan(
            run_id, playbook, title, "0" * 64, target.id, incident, "approve", "", self.now - 200,
            steps, **kw,
        )  # fmt: skip
        return sealed(plan)

    def _released(self):
        began, back = self.now - 2400, self.now - 1900
        release = Change(began - 20, MODEL, "release", "3", "4", "ci", "promoted by pipeline 812")
        fell = self._anomaly(
            ACCURACY, began, back, 0.83, math.nan, low=0.95, direction=-1, harm=True,
            family="model.accuracy_ratio at least 0.95", size=0.12,
        )  # fmt: skip
        cause = Cause("release.model", V4, 0.93, (
            Evidence("accuracy fell 20 s after version 4 was promoted", 3.1, ACCURACY, 0.83, 0.97, began),
            Evidence("inputs are as they were (largest drift 0.03)", 1.2),
        ), facts={"previous_version": "3"})  # fmt: skip
        other = Cause("data.drift", MODEL, 0.04, (Evidence("no feature has drifted", -2.2),))
        i = Incident(
            "inc-1a2b3c4d", began, back + 60, "resolved", "page", "Accuracy of model wine is 83 %",
            (fell,), (release,), (MODEL, WINE), Diagnosis(began + 10, (cause,), (other,), (WINE,)),
            ("run-1111aaaa",), back + 60,
        )  # fmt: skip
        self._write("incident", i, i.id, began)
        steps = (PlannedStep("back", "roll_back", "models", {"version": "3"}),)
        plan = self._plan(
            "run-1111aaaa", "serve-bad-deploy", "Roll back a model version that is worse", MODEL, i.id,
            steps, verify=PlannedVerify(10, 120, ("model.accuracy_ratio >= 0.95",)),
        )  # fmt: skip
        self._write("plan", plan, plan.run_id, began + 15)
        record = StepRecord(
            "back",
            "roll_back",
            began + 15,
            began + 16,
            "done",
            "champion of wine is 3 again, was 4",
        )
        proof = Outcome(
            "helped", "accuracy is 97 %, was 83 %", "before", {"before": 0.83, "after": 0.97}
        )
        run = Run(
            plan.run_id,
            plan.playbook,
            MODEL,
            i.id,
            "auto",
            "done",
            began + 15,
            back,
            plan.hash,
            (record,),
            proof,
        )
        self._write("run", run, run.id, back)
        return i

    def _noisy(self):
        onset = self.now - 240
        slow = self._anomaly(LATENCY, onset, None, 0.71, 0.25, harm=True)
        busy = self._anomaly(
            BUSY, onset - 2, None, 0.95, 0.42, road="calibrated", family="level", p=1e-7, low=0.22, deviations=19.0,
        )  # fmt: skip
        cause = Cause("host.neighbour", BATCH, 0.87, (
            Evidence("nightly-batch takes 1.9 cores, usually 0.05, since 2 s before", 2.6, CORES, 1.9, 0.06, onset - 2),
            Evidence("requests are as many as ever (40/s)", 1.1, REQUESTS, 40.0, 40.0),
            Evidence("the host is 95 % busy, usually 32 %", 0.9, BUSY, 0.95, 0.32, onset - 2),
        ), facts={"command": "python batch.py"})  # fmt: skip
        surge = Cause(
            "serving.saturation", WINE, 0.06, (Evidence("traffic did not rise", -2.5, REQUESTS),)
        )
        release = Cause(
            "release.model", MODEL, 0.03, (Evidence("no release in the last 30 min", -3.0),)
        )
        i = Incident(
            "inc-7f3a99e0", onset, self.now - 5, "open", "page", "Latency p95 of service wine is 710 ms",
            (slow, busy), (), (WINE, HOST), Diagnosis(onset + 10, (cause,), (surge, release), (WINE,)),
            ("run-22c0ffee",),
        )  # fmt: skip
        self._write("incident", i, i.id, onset + 10)
        calm = Until(("service.latency_p95_seconds < 0.2",), 30, 3600)
        steps = (PlannedStep("lower", "set_priority", None, {"nice": 19}, until=calm),)
        plan = self._plan(
            "run-22c0ffee", "calm-neighbour", "Lower the priority of a noisy neighbour", BATCH, i.id, steps,
            verify=PlannedVerify(5, 60, ("service.latency_p95_seconds <= 0.25",)),
            then=(PlannedStep("tell", "notify", None, {"text": "done"}),),
            approve=PlannedApproval("operator", 900.0, "escalate"), cause="host.neighbour",
        )  # fmt: skip
        self._write("plan", plan, plan.run_id, self.now - 200)
        gates = (
            Gate("scope", True, "process matched", "manages"),
            Gate("mode", True, "approve", "auto"),
        )
        said = Decision(
            self.now - 200, "calm-neighbour", BATCH, i.id, "approve", True, gates, plan.hash
        )
        self._write("decision", said, f"calm-neighbour|{BATCH.id}", said.ts)
        run = Run(
            plan.run_id, plan.playbook, BATCH, i.id, "approve", "waiting_approval", self.now - 200,
            self.now - 200, plan.hash,
        )  # fmt: skip
        self._write("run", run, run.id, run.started)
        return i, run

    def _broken(self):
        onset = self.now - 120
        contract = self._anomaly(
            CONTRACT, onset, None, 1.0, 0.5, family="data contract", road="objective"
        )
        gone = self._anomaly(
            MISSING, onset, None, 0.451, 0.01, road="prior", family="level", p=1e-4
        )
        cause = Cause("data.contract", ALCOHOL, 0.78, (
            Evidence("45 % of rows have no alcohol, usually 0.1 %", 2.8, MISSING, 0.451, 0.001, onset),
        ), facts={"feature": "alcohol"})  # fmt: skip
        i = Incident(
            "inc-7c00beef", onset, self.now - 3, "open", "note", "Feature alcohol of wine: data contract",
            (contract, gone), (), (MODEL, ALCOHOL), Diagnosis(onset + 8, (cause,), (), (), low_confidence=True),
        )  # fmt: skip
        self._write("incident", i, i.id, onset + 8)
        gates = (
            Gate("scope", True, "model matched", "manages"),
            Gate("confidence", False, "0.78", "0.80", "the cause is 78 % sure, 80 % are asked for"),
        )
        said = Decision(self.now - 110, "backup-model", MODEL, i.id, "auto", False, gates)
        self._write("decision", said, f"backup-model|{MODEL.id}", said.ts)
        return i


class House:
    """A desk with a story behind real doors."""

    def __init__(self, tmp_path, now=1_795_000_000.0, *, consoles=3, **kw):
        self.story = Story(tmp_path / "state", now)
        self.desk = self.story.desk
        self.telemetry = Telemetry(self.story.now)
        self.events = Events(most=consoles, room=4)
        self.pushed = []
        self._tokens = {}
        self.wall = self.story.now
        self.socket = tmp_path / "state" / "agent.sock"
        extra = kw.pop("extra", ())
        self.app = make_app(
            (*ways(self.desk), *extra),
            Views(
                lambda: vitals.health(self.desk, self.wall), lambda: vitals.ready(self.desk), self.metrics
            ),
            self.story.tokens,
            self.events,
            self.telemetry,
            push=self._push,
            refusals=web.refusals(self.desk),
            **kw,
        )  # fmt: skip
        self.story.hooks.wrote.append(lambda e: web.tell(self.events, e))
        self.story.hooks.wrote.append(self.telemetry.wrote)

    def http(self, method, path, **kw):
        """Ask on loopback, through everything but the sockets."""

        async def app(scope, receive, send):
            await self.app({**scope, "state": {"door": "console"}}, receive, send)

        async def ask():
            transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
                return await c.request(method, path, **kw)

        return asyncio.run(ask())

    async def _push(self, source, arrivals):
        self.pushed.extend(arrivals)

    def metrics(self, openmetrics):
        vitals.measure(self.desk, self.telemetry, self.events)
        return self.telemetry.render(self.story.hooks.world, openmetrics=openmetrics)

    def token(self, role):
        return {"authorization": "Bearer " + self.story.tokens.add(f"a-{role}", role, 0.0)}

    def token_of(self, role):
        """The same as often as it is asked for."""
        if role not in self._tokens:
            self._tokens[role] = self.token(role)
        return self._tokens[role]


@contextlib.contextmanager
def living(tmp_path, **kw):
    """A house with its doors open, in a thread of its own as a daemon is in its process; yields it."""
    made, started = {}, threading.Event()

    async def serve():
        made["loop"], made["end"] = asyncio.get_running_loop(), asyncio.Event()
        house = House(tmp_path, consoles=16, **kw)
        async with doors.serve(house.app, house.events, port=0, uds=house.socket) as site:
            house.url = f"http://127.0.0.1:{site.port}"
            house.state = tmp_path / "state"
            house.call = made["loop"].call_soon_threadsafe
            made["house"] = house
            started.set()
            await made["end"].wait()
        house.story.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield made["house"]
    finally:
        made["loop"].call_soon_threadsafe(made["end"].set)
        thread.join(60)
        assert not thread.is_alive()


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
