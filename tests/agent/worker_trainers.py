"""What the tests of the worker send into its process: trainers, and a joint detector no other test must see."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from agent import checkpoint
from agent.errors import Refused
from agent.ports import Past, Why
from agent.registry import trainer
from agent.units import Model


class Told(Model):
    step_s: float = 1.0
    seconds: float = 0.0
    what: str = ""
    mark: str = ""
    least: int = 10


def answer(values) -> bytes:
    return checkpoint.write("mean", 1, {"pid": os.getpid()}, {"mean": np.nanmean(values, axis=0)})


async def begun(mark: Path) -> int:
    """Wait until a trainer is at work; returns the pid that it wrote."""
    for _ in range(600):
        if (pid := _pid_in(mark)) is not None:
            return pid
        await asyncio.sleep(0.05)
    raise AssertionError("the trainer did not begin")


def _pid_in(mark: Path) -> int | None:
    return int(mark.read_text()) if mark.exists() and mark.read_text() else None


@trainer("test_any")
class Anything:
    Config = Told

    @staticmethod
    def train(config, ts, values) -> bytes:
        if config.mark:
            Path(config.mark).write_text(str(os.getpid()))
        time.sleep(config.seconds)
        if config.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.what == "bug":
            raise ValueError("what a bug")
        if config.what == "refuse":
            raise Refused("sklearn is not installed: pip install 'homeostat[ml]'")
        if config.what == "hunger":
            np.ones(1 << 32).sum()
        if config.what == "talk":
            os.write(1, b"loss 0.3 " * 1000)
            sys.stdout.write("epoch 1\n")
        if config.what == "threads":
            return os.environ["OMP_NUM_THREADS"].encode()
        return answer(values)


@trainer("test_mean")
class Mean:
    """A detector that knows the mean of each series from its training, and nothing else."""

    Config = Told

    def __init__(self, config, n) -> None:
        self.config = config
        self.mean = np.full(n, np.nan)
        self.taken = 0

    def past(self):
        return Past(100.0, 1.0, 100, 10, self.config.least)

    def score(self, ts, x):
        if self.config.what == "score_bug":
            raise RuntimeError("bug in score")
        return np.where(np.isnan(self.mean), np.nan, np.where(np.abs(x - self.mean) > 5, 1e-9, 1.0))

    def learn(self, ts, x, trust):
        pass

    def remap(self, old_index):
        self.mean = np.array([self.mean[i] if i >= 0 else np.nan for i in old_index])

    def dump(self):
        return checkpoint.write("mean state", 1, None, {"mean": self.mean})

    def load(self, state):
        self.mean = checkpoint.read("mean state", 1, state)[1]["mean"]

    def explain(self, i):
        return Why("mean", 0.0, 1.0, 9.0, 1, calibrated=True, carriers=(i,))

    def take(self, model, column):
        mean = checkpoint.read("mean", 1, model)[1]["mean"]
        self.mean = np.array([mean[i] if i >= 0 else np.nan for i in column])
        self.taken += 1

    train = Anything.train
