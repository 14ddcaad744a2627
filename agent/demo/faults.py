"""What the demo breaks, for real, and how one would know that the agent named it rightly.

The agent never sees this file at work: it gets metrics and logs only. Each fault is drawn from a seed (its severity
too), begins when `start` returns (the time it returns), and ends its outside cause in `clear` where there is one:
the neighbour's heavy part is over, the surge ends, the units are mended. A bad release is not cleared, rolling it
back is the cure; after a concept drift the world stays as it is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agent.demo.ground import MODEL, SERVICE, Ground
from agent.demo.rows import STRONG, load, other_concept
from agent.model import Cause, Entity


class Fault(ABC):
    """One thing that goes wrong.

    name    short, for tables and JSON
    cause   what the agent must call it
    """

    name: str
    cause: str

    @property
    @abstractmethod
    def severity(self) -> str:
        """How bad it is, in words."""

    @abstractmethod
    def start(self, ground: Ground) -> float:
        """Break it; return the moment from which it is broken."""

    @abstractmethod
    def right(self, cause: Cause) -> bool:
        """Tell whether a cause names this fault: its kind and the thing that is to blame."""

    def clear(self, ground: Ground) -> None:  # noqa: B027  # not every fault has an outside cause
        """Take the outside cause away, where there is one."""

    def end(self, ground: Ground) -> None:  # noqa: B027  # most leave nothing behind
        """Clean up when all is put back."""


@dataclass(slots=True)
class BadRelease(Fault):
    """A pipeline promotes a version that it trained on partly wrong labels."""

    wrong: float
    name: str = "bad release"
    cause: str = "release.model"
    version: str = ""

    @property
    def severity(self) -> str:
        """How bad it is."""
        return f"{self.wrong:.0%} of the benign rows labelled malignant"

    def start(self, ground: Ground) -> float:
        """Run the pipeline; it promotes."""
        told = ground.run("the release pipeline", ground.python(
            "agent.demo.trainer", "release", "--root", ground.models, "--model", MODEL,
            "--wrong", f"{self.wrong:.3f}", "--seed", ground.seed,
        ))  # fmt: skip
        report = json.loads(told.splitlines()[-1])
        self.version = str(report["version"])
        return float(report["changed"])

    def right(self, cause: Cause) -> bool:
        """The new version is to blame."""
        blamed = cause.entity.key.partition("/")[2] or cause.facts.get("version", "")
        of = cause.entity.key.partition("/")[0]
        return (
            cause.kind == self.cause
            and cause.entity.kind in {"model", "version"}
            and of == MODEL
            and blamed == self.version
        )


@dataclass(slots=True)
class NoisyNeighbour(Fault):
    """Somebody else's batch job burns the CPU of this host."""

    burners: int
    name: str = "noisy neighbour"
    cause: str = "host.neighbour"
    _job: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def severity(self) -> str:
        """How bad it is."""
        return f"{self.burners} processes burn {os.cpu_count()} cores"

    def start(self, ground: Ground) -> float:
        """Start the job."""
        self._job = ground.start("neighbour", ground.python(
            "agent.demo.neighbour", "--job", "nightly-report", "--burners", self.burners,
        ), kill=True)  # fmt: skip
        return time.time()

    def right(self, cause: Cause) -> bool:
        """The job's process group is to blame."""
        parts = cause.entity.key.split("/")  # boot id, pid of the leader, its start
        pid = str(self._job.pid) if self._job else ""
        return cause.kind == self.cause and cause.entity.kind == "process" and parts[1:2] == [pid]

    def clear(self, ground: Ground) -> None:
        """The heavy part is over; the job stays, so that putting its priority back can be seen."""
        del ground
        if self._job is not None and self._job.poll() is None:
            os.killpg(self._job.pid, signal.SIGUSR1)

    def end(self, ground: Ground) -> None:
        """The job is done."""
        if self._job is not None:
            ground.end_one(self._job)


@dataclass(slots=True)
class TrafficSurge(Fault):
    """More people ask than one worker can serve."""

    factor: float
    name: str = "traffic surge"
    cause: str = "serving.saturation"

    @property
    def severity(self) -> str:
        """How bad it is."""
        return f"{self.factor:.1f} times the traffic"

    def start(self, ground: Ground) -> float:
        """Let more people ask."""
        ground.turn(replace(ground.world, rate=self.factor))
        return time.time()

    def right(self, cause: Cause) -> bool:
        """Nobody is to blame: the service has too few workers."""
        return cause.kind == self.cause and cause.entity == Entity("service", SERVICE)

    def clear(self, ground: Ground) -> None:
        """The rush is over."""
        ground.turn(replace(ground.world, rate=1.0))


@dataclass(slots=True)
class UnitChange(Fault):
    """An upstream team changes the unit of the feature that the model leans on most."""

    factor: float
    feature: str = STRONG
    name: str = "unit change"
    cause: str = "data.contract"

    @property
    def severity(self) -> str:
        """How bad it is."""
        return f"{self.feature} comes multiplied by {self.factor:g}"

    def start(self, ground: Ground) -> float:
        """Multiply the feature upstream."""
        ground.turn(replace(ground.world, units={self.feature: self.factor}))
        return time.time()

    def right(self, cause: Cause) -> bool:
        """The feature is to blame."""
        return cause.kind == self.cause and cause.entity == Entity(
            "feature", f"{MODEL}/{self.feature}"
        )

    def clear(self, ground: Ground) -> None:
        """Upstream has mended it."""
        ground.turn(replace(ground.world, units={}))


@dataclass(slots=True)
class ConceptDrift(Fault):
    """The relation between a patient's row and the grade changes, in one learnable segment, for good."""

    share: float
    name: str = "concept drift"
    cause: str = "concept.drift"

    @property
    def severity(self) -> str:
        """How bad it is."""
        return f"{self.share:.0%} of the patients are graded the other way"

    def start(self, ground: Ground) -> float:
        """Grade some patients the other way from now on."""
        ground.turn(
            replace(ground.world, concept=other_concept(load(ground.served_rows), self.share))
        )
        return time.time()

    def right(self, cause: Cause) -> bool:
        """The model no longer fits the world."""
        return (
            cause.kind == self.cause
            and cause.entity.kind in {"model", "version"}
            and cause.entity.key.partition("/")[0] == MODEL
        )


SWING: Final = "healthy swing"
"""Not a fault: a day in which traffic and mix swing as they do every day."""

NAMES: Final = ("bad release", "noisy neighbour", "traffic surge", "unit change", "concept drift")


def draw(seed: int, only: Sequence[str] = ()) -> list[Fault | None]:
    """Draw order and severity; None is the healthy swing. `only` leaves out all faults but the named."""
    dice = random.Random(seed)
    cores = os.cpu_count() or 1
    faults: list[Fault | None] = [
        BadRelease(dice.uniform(0.55, 0.75)),
        NoisyNeighbour(cores * dice.randint(12, 14)),
        TrafficSurge(dice.uniform(3.0, 3.4)),
        UnitChange(dice.choice((10.0, 100.0, 645.16))),
        ConceptDrift(dice.uniform(0.29, 0.34)),
    ]
    dice.shuffle(faults)
    faults.insert(dice.randrange(len(faults) + 1), None)
    if not only:
        return faults
    return [f for f in faults if (SWING if f is None else f.name) in only]
