"""A small daemon to be killed: real runner, journal, world and verbs, and a moment at which it sends itself SIGKILL.

    python crash_driver.py FOLDER SCENARIO [MOMENT]

Moments are the beginnings and ends of what the hands do (`act:a:before`, `report:done:after`), the effect itself
(`effect:r1/a:after`), and the middle of what takes long (`hold:b:middle`). Every moment that passes is appended to
FOLDER/moments. It ends when the run has; the file FOLDER/answer is a person's yes.
"""

import asyncio
import functools
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from run_stage import SLOW, Stage, at_work, plan, step

from agent.errors import Refused
from agent.hands import RealHands
from agent.runner import PlannedApproval, PlannedVerify, Until

FAST_AGAIN = ("service.latency_p95_seconds < 0.2",)
SCENARIOS = {
    "heals": {
        "steps": (
            step("a", params={"name": "a", "to": 1.0, "takes": 0.1}),
            step("n", "shout"),
            step("b", until=Until(FAST_AGAIN, 30.0, 10_000.0)),
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
}
MIDDLE_S = 0.2


def moment(folder, die_at, name):
    with (folder / "moments").open("a") as f:
        f.write(f"{name}\n")
    if name == die_at:
        os.kill(os.getpid(), signal.SIGKILL)


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
            label = f"report:{args[0].state}"
        elif name == "tell":
            label = f"tell:{args[1]}"
        elif name == "boundary":
            label = f"boundary:{len(args[1].steps)}"
        else:
            label = name if detail is None else f"{name}:{detail.id}"
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


async def main(folder, scenario, die_at):
    tell = functools.partial(moment, folder, die_at)
    with at_work(folder) as verbs:
        Mortal.moment = staticmethod(tell)
        for verb in verbs.values():
            verb.moments = staticmethod(tell)
        async with Stage(folder, hands=Mortal) as stage:
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
                await stage.runner.start(made)
            while stage.memory.live_runs():
                if (folder / "answer").exists() and stage.memory.runs[
                    "r1"
                ].state == "waiting_approval":
                    made = stage.memory.plans["r1"]
                    try:
                        await stage.runner.approve("r1", "ann", yes=True, plan_hash=made.hash)
                    except Refused:  # said before the last crash
                        (folder / "answer").unlink()
                elif (
                    stage.memory.runs["r1"].state == "waiting_approval"
                    and "r1:ask" in stage.memory.notes
                ):
                    await asyncio.sleep(MIDDLE_S)
                    tell("approval:middle")
                await asyncio.sleep(0.02)
        tell("ended")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
