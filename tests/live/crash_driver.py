"""A small daemon to be killed: real runner, journal, world and verbs, and a moment at which it sends itself SIGKILL.

    python crash_driver.py FOLDER SCENARIO [MOMENT [DATABASE]]

Moments are the beginnings and ends of what the hands do (`act:a:before`, `report:done:after`), of every entry of the
journal (`journal:intent:before`), the effect itself (`effect:r1/a:after`), and the middle of what takes long
(`hold:b:middle`); from the second time on in one life with a number (`report:acting:after#2`). Every moment that passes
is appended to FOLDER/moments. It ends when the run has; the files FOLDER/answer-* are a person's yes. DATABASE is the
address of a database for the runs, instead of a file.
"""

import asyncio
import collections
import contextlib
import functools
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from run_stage import SLOW, Dial, Stage, at_work, plan, step

from agent import registry
from agent.by_hand import undoing
from agent.errors import Refused
from agent.hands import RealHands
from agent.journal import Journal
from agent.pipeline import record_plan
from agent.plans import PlannedApproval, PlannedVerify, Until, asked_for
from agent.runs_store import RunsDatabase

FAST_AGAIN = ("service.latency_p95_seconds < 0.2",)
SCENARIOS = {
    "heals": {
        "steps": (
            step("a", params={"name": "a", "to": 1.0, "takes": 0.1}),
            step("n", "shout"),
            step(
                "b",
                until=Until(FAST_AGAIN, 30.0, 10_000.0),
                approve=PlannedApproval("admin", 600.0),
            ),
        ),
        "verify": PlannedVerify(5.0, 10_000.0, FAST_AGAIN),
        "then": (step("s", "shout", params={"text": "${verdict.verdict}"}),),
        "approve": PlannedApproval(timeout=600.0),
        "mode": "approve",
    },
    "harms": {
        "steps": (step("a"), step("c")),
        "verify": PlannedVerify(5.0, 10_000.0, FAST_AGAIN),
    },
    "undone": {"steps": (step("a", params={"name": "a", "to": 1.0, "takes": 0.1}), step("b"))},
    "fails": {
        "steps": (
            step("a", params={"name": "a", "to": 1.0}),
            step("w", "wait", params={"time": "0.3s"}),
            step("x", params={"name": "x", "to": 2.0}),
            step("y", "refuse", params={"name": "y", "to": 1.0}),
        ),
        "verify": PlannedVerify(5.0, 10_000.0, FAST_AGAIN),
    },
}
MIDDLE_S = 0.2
LOOK_S = 3.0
"""How often runs are looked after; the daemon does so, too."""


class Refuse(Dial):
    """Says no, whatever is asked; the world shows that it did nothing."""

    async def run(self, step):
        raise Refused("it said no")


class Moments:
    """Writes the moments down, and ends the process at one: the one of that name, or with `+3` the third that is new.

    New is what no life before has passed: so a chain of lives that each die at `+1` comes through all moments.
    """

    def __init__(self, folder, die_at):
        self.path = folder / "moments"
        self.deaths = folder / "deaths"
        self.die_at = die_at
        self.seen = collections.Counter()
        self.new = 0
        self.known = set(self.path.read_text().splitlines()) if self.path.exists() else set()

    def __call__(self, name):
        self.seen[name] += 1
        told = name if self.seen[name] == 1 else f"{name}#{self.seen[name]}"
        if name not in self.known:
            self.known.add(name)
            self.new += 1
        with self.path.open("a") as f:
            f.write(f"{told}\n")
        if self.die_at in {told, f"+{self.new}"}:
            with self.deaths.open("a") as f:
                f.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)


class MortalJournal(Journal):
    """A journal that tells before and after each entry is on disk."""

    moment = staticmethod(lambda _: None)

    def append(self, kind, subject, body, ts):
        # of which step: each is a moment of its own, whatever life it comes in
        which = body.get("key") or subject
        if kind == "run":
            which = f"{subject}:{body['state']}@{len(body['steps'])}"
        self.moment(f"journal:{kind}:{which}:before")
        entry = super().append(kind, subject, body, ts)
        self.moment(f"journal:{kind}:{which}:after")
        return entry

    @contextlib.contextmanager
    def together(self):
        with super().together():
            yield
        self.moment("journal:together:after")


class Mortal(RealHands):
    """Hands that tell when they begin and end something."""

    moment = staticmethod(lambda _: None)


def watched(method):
    """Tell the moments of one of the hands' methods."""

    @functools.wraps(method)
    async def call(self, *args, **kwargs):
        name = method.__name__
        detail = next((a for a in args[1:] if hasattr(a, "use")), None)
        if name == "report":
            label = f"report:{args[0].id}:{args[0].state}@{len(args[0].steps)}"
        elif name == "tell":
            label = f"tell:{args[1]}"
        elif name == "boundary":
            label = f"boundary:{args[1].id}:{len(args[1].steps)}"
        else:
            of = next(a.run_id for a in args if hasattr(a, "run_id"))
            label = f"{name}:{of}" if detail is None else f"{name}:{of}:{detail.id}"
        self.moment(f"{label}:before")
        middle = asyncio.get_running_loop().call_later(MIDDLE_S, self.moment, f"{label}:middle")
        try:
            result = await method(self, *args, **kwargs)
        finally:
            middle.cancel()
        self.moment(f"{label}:after")
        return result

    return call


for told in ("accept", "boundary", "observe", "act", "undo", "verify", "hold", "report", "tell"):
    setattr(Mortal, told, watched(getattr(RealHands, told)))


def schema_of(folder):
    """Return the name of a schema that is this story's alone."""
    return "crash_" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]


async def main(folder, scenario, die_at="", database=""):
    registry.load()  # the verb `wait` is a real one
    tell = Moments(folder, die_at)
    store = RunsDatabase(database, schema_of(folder)) if database else None
    with at_work(folder) as verbs:
        verbs["refuse"] = registry.action._known["refuse"] = type(
            "Refuse", (Refuse,), {"folder": folder}
        )
        Mortal.moment = MortalJournal.moment = staticmethod(tell)
        for verb in verbs.values():
            verb.moments = staticmethod(tell)
        async with Stage(folder, hands=Mortal, journal=MortalJournal, store=store) as stage:
            if scenario == "harms":
                stage.latency = lambda: 4 * SLOW if stage.dial("a") == 1.0 else SLOW
            tell("up")
            if stage.memory.plans:
                await stage.runner.recover()
            else:
                for _ in range(12):  # the trouble is seen for a while before anybody acts
                    await stage.tick()
                story = dict(SCENARIOS[scenario])
                made = plan(*story.pop("steps"), created=stage.clock() - 30.0, **story)
                with stage.journal.together():  # as a tick of the daemon does
                    record_plan(stage.record, made, stage.clock())
                await stage.runner.start(made)
            looked = time.monotonic()
            # a run that was written down and not begun is one, too
            while stage.memory.unfinished() or await undo(stage, scenario):
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    await stage.runner.idle()
                if stage.memory.runs["r1"].state == "waiting_approval":
                    await answer(folder, stage, tell)
                await asyncio.sleep(0.02)
        tell("ended")


async def undo(stage, scenario):
    """Let the person of the story press undo when the run is over; returns whether that began something."""
    if scenario != "undone" or stage.memory.undos:
        return False
    await stage.runner.start(undoing(stage.memory, stage.journal, "r1", "ann", stage.clock()))
    return True


async def answer(folder, stage, tell):
    """Let the person of the story say yes, to the run and to its step, each a moment after they were asked."""
    asked = stage.memory.runs["r1"].plan_hash
    step_, _ = asked_for(stage.memory.plans["r1"], asked)
    said = folder / f"answer-{step_}"
    if said.exists():
        try:
            await stage.runner.approve("r1", "ann", yes=True, plan_hash=asked)
        except Refused:  # said before the last crash
            said.unlink()
    elif f"r1:ask:{step_}".rstrip(":") in stage.memory.notes and not any(
        a["plan_hash"] == asked for a in stage.hands.answers("r1")
    ):
        await asyncio.sleep(MIDDLE_S)
        tell(f"approval:{step_}:middle")
        said.touch()


def run(folder, scenario, die_at="", database=""):
    """Live one life in this process; what it prints goes to FOLDER/log."""
    with (folder / "log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    asyncio.run(main(folder, scenario, die_at, database))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
