"""A small real world for tests of runs: a verb that writes files, a service whose latency follows, a fast clock.

All between is the real thing: journal, memory, world, history, hands, runner. Also used by tests/live/crash_driver.
"""

import asyncio
import contextlib
import os
import time

import numpy as np

from agent import registry
from agent.codec import unpack
from agent.config import Config
from agent.errors import Refused, Unavailable, Uncertain
from agent.hands import RealHands
from agent.history import History
from agent.journal import Journal
from agent.memory import Memory
from agent.model import Change, Entity, Frame, Series
from agent.plans import Plan, PlannedStep, PlannedVerify, sealed
from agent.ports import Done, Note
from agent.runner import Runner
from agent.runs_store import RunsFile
from agent.scene import Scene
from agent.units import Model
from agent.world import World

WEB = Entity("service", "web")
LATENCY = Series("service.latency_p95_seconds", WEB)
SLOW, FAST = 0.5, 0.1


class Dial:
    """Sets a number in a file, by compare-and-set. One appended line is the effect, the state and the proof of it."""

    effect = "mutating"
    ability = None
    reversible = True
    shared = False
    folder = None
    script: list = []  # what the next calls of `run` do instead; see `_trouble`
    moments = staticmethod(lambda _: None)  # told when the effect is about to be and has just been

    class Params(Model):
        name: str = "a"
        to: float
        takes: float = 0.0

    def __init__(self, params, ability):
        self.params = params

    def value(self):
        lines = read_effects(self.folder, self.params.name)
        return float(lines[-1].split()[1]) if lines else 0.0

    def set(self, key, value):
        fd = os.open(
            self.folder / f"dial-{self.params.name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        os.write(fd, f"{key} {value}\n".encode())
        os.close(fd)

    async def observe(self, step):
        return {"value": self.value()}

    def reached(self, step, seen):
        return seen["value"] == self.params.to

    async def run(self, step):
        trouble = type(self).script.pop(0) if type(self).script else ""
        if trouble == "later":  # the world was asked, and does it in its own time
            asyncio.get_running_loop().call_later(0.3, self.set, step.key, self.params.to)
        await _trouble(trouble, "before")
        now, before = self.value(), step.before["value"]
        name = self.params.name
        undo = {"from": before, "to": self.params.to}
        if now == self.params.to:
            return Done(f"{name} is {now:g} already", {"value": now}, undo if now != before else {})
        if now != before:
            raise Refused(f"{name} was changed by others: it is {now:g}, not {before:g}")
        if step.dry_run:
            return Done(f"would turn {name} from {now:g} to {self.params.to:g}", {"value": now})
        self.moments(f"effect:{step.key}:before")
        await asyncio.sleep(self.params.takes / 2)
        self.set(step.key, self.params.to)
        self.moments(f"effect:{step.key}:after")
        await asyncio.sleep(self.params.takes / 2)
        await _trouble(trouble, "after")
        changed = Change(time.time(), WEB, "act", str(now), str(self.params.to), step.by)
        return Done(f"{name} is {self.params.to:g}", {"value": self.params.to}, undo, changed)

    async def undo(self, step, done):
        trouble = type(self).script.pop(0) if type(self).script else ""
        await _trouble(trouble, "before")
        if not done or self.value() == done["from"]:
            return Done("nothing to put back")
        if self.value() != done["to"]:
            raise Refused("it was changed by others")
        self.moments(f"effect:{step.key}/undo:before")
        self.set(f"{step.key}/undo", done["from"])
        self.moments(f"effect:{step.key}/undo:after")
        await _trouble(trouble, "after")
        return Done(f"{self.params.name} is {done['from']:g} again")


class Shout:
    """Tells people in a way that can not be seen afterwards."""

    effect = "marking"
    ability = None
    reversible = False
    shared = False
    folder = None
    moments = staticmethod(lambda _: None)

    class Params(Model):
        text: str

    def __init__(self, params, ability):
        self.params = params

    async def observe(self, step):
        return {}

    def reached(self, step, seen):
        return False

    async def run(self, step):
        self.moments(f"effect:{step.key}:before")
        with (self.folder / "shouts").open("a") as f:
            f.write(f"{step.key} {self.params.text}\n")
        self.moments(f"effect:{step.key}:after")
        return Done("shouted")


async def _trouble(kind, when):
    raises = {
        "unavailable": Unavailable("no answer", wait_s=0.0),
        "refused": Refused("it said no"),
        "uncertain": Uncertain("the line went dead"),
        "later": Uncertain("it goes on over there"),
        "bug": ZeroDivisionError("oops"),
    }
    if when == "before" and kind in raises:
        raise raises[kind]
    if when == "after" and kind == "uncertain after":
        raise raises["uncertain"]
    if when == "after" and kind == "bug after":
        raise raises["bug"]
    if kind == f"hang {when}":
        await asyncio.sleep(3600)


def read_effects(folder, name="a"):
    path = folder / f"dial-{name}"
    return path.read_text().splitlines() if path.exists() else []


def shouts(folder):
    path = folder / "shouts"
    return path.read_text().splitlines() if path.exists() else []


def verbs(folder):
    """Return the verbs by name, at work in a folder; each call gives classes of their own."""
    fresh = {"folder": folder, "script": []}
    return {"dial": type("Dial", (Dial,), fresh), "shout": type("Shout", (Shout,), fresh)}


LOOK_S = 0.03
LATEST_S = 1.5 * LOOK_S
"""Of real time, how long the clock of the world goes on without a look."""


class Stage:
    """The world, and everything that a run needs of a daemon.

    speed   how many seconds of the world pass in a real one; the first moment is kept in the folder

    Its clock waits for its looks: on a busy machine it is slow, and a window of verification sees as much as ever.
    """

    def __init__(
        self, folder, *, speed=60.0, hands=RealHands, journal=Journal, store=None, **runner
    ):
        self.folder = folder
        self.speed = speed
        start = folder / "t0"
        if not start.exists():
            start.write_text(str(time.time()))
        t0 = float(start.read_text())
        self._at = t0 + (time.time() - t0) * speed
        self._looked = time.monotonic()
        self.looks = 0
        self.config = Config()
        self.world = World()
        self.history = History(folder / "history", age_s=1e6, size_bytes=1e8)
        self.journal = journal(folder / "journal.sqlite")
        self.memory = Memory()
        self.memory.load(self.journal)
        self.told = []
        self.paused_by_file = False
        self.hands = hands(
            self.resolve, self.record, self.memory, self,
            halted=lambda: self.paused_by_file, clock=self.clock,
        )  # fmt: skip
        runner = {"poll_s": 0.05, "answer_s": 0.05, **runner}
        self.runner = Runner(store or RunsFile(folder / "runs.sqlite"), self.hands, **runner)
        self.latency = lambda: FAST if self.dial("a") == 1.0 else SLOW
        self._beat = asyncio.Event()
        self._task = None

    # ---- what a daemon offers

    def clock(self):
        return self._at + min(time.monotonic() - self._looked, LATEST_S) * self.speed

    def record(self, kind, subject, body, ts):
        self.memory.apply(self.journal.append(kind, subject, body, ts))
        if kind == "note":
            self.told.append(unpack(Note, body))

    def resolve(self, via, ability, target=""):
        raise Refused(f"no connector has the ability {ability}")

    async def tick(self):
        await self._beat.wait()
        return self.world.now

    def incident(self, id_):
        return self.memory.incidents.get(id_)

    def scene(self, plan, since, steps):
        return Scene(self.world, plan.entity, read=self.history.read, facts=plan.facts, steps=steps,
                     since=since, baseline_s=3600.0)  # fmt: skip

    # ---- the world

    def dial(self, name):
        lines = read_effects(self.folder, name)
        return float(lines[-1].split()[1]) if lines else 0.0

    def leap(self, seconds):
        """Let the clock of the world go on at once, with nothing seen meanwhile."""
        self._at += seconds

    def look(self):
        now = self.clock()
        self._at, self._looked, self.looks = now, time.monotonic(), self.looks + 1
        frame = Frame("stage", now, (LATENCY,), np.array([self.latency()]))
        self.world.take(frame)
        self.history.append(frame)
        self.world.now = max(self.world.now, now)
        beat, self._beat = self._beat, asyncio.Event()
        beat.set()

    async def _live(self):
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    async def __aenter__(self):
        self._task = asyncio.create_task(self._live())
        return self

    async def __aexit__(self, *_):
        await self.runner.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.history.close()
        self.journal.close()

    # ---- what tests ask

    async def seen(self, looks=13):
        """Wait for some looks: what is wrong is seen for a while before anybody acts."""
        last = self.looks + looks
        await self.until(lambda: self.looks >= last)

    async def until(self, what, limit=60.0):
        end = time.monotonic() + limit
        while not what():
            assert time.monotonic() < end, f"not in {limit} s: {self.memory.runs}"
            await asyncio.sleep(0.01)

    async def ended(self, run_id="r1", limit=60.0):
        await self.until(lambda: not self.memory.live_runs(), limit)
        return self.memory.runs[run_id]

    async def state(self, state, run_id="r1", limit=60.0):
        await self.until(
            lambda: run_id in self.memory.runs and self.memory.runs[run_id].state == state, limit
        )

    def kinds(self, *kinds):
        return list(self.journal.read(kinds))


def step(id_="a", use="dial", **kw):
    kw.setdefault("params", {"name": id_, "to": 1.0} if use == "dial" else {"text": "look"})
    kw.setdefault("timeout", 5.0)
    return PlannedStep(id_, use, **kw)


VERIFY = PlannedVerify(2.0, 20.0, ("service.latency_p95_seconds < 0.2",))


def plan(
    *steps, run_id="r1", created=None, mode="auto", verify=None, target=WEB, incident="i1", **kw
):
    steps = steps or (step(),)
    created = time.time() if created is None else created
    return sealed(Plan(run_id, "turn-it", "turn it", "text", target.id, incident, mode, "", created,
                       tuple(steps), verify, **kw))  # fmt: skip


@contextlib.contextmanager
def at_work(folder):
    """Register the verbs of the stage for a while."""
    known = registry.action._known
    made = verbs(folder)
    known.update(made)
    try:
        yield made
    finally:
        for name in made:
            del known[name]
