"""Train a challenger and let it through only when it is better than the champion on rows neither has seen.

Training never promotes: `promote {version: '${steps.retrain.version}'}` does, as a step of its own.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

from pydantic import Field

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Model, Ratio
from playbooks.actions._step import change
from playbooks.actions.models import model_of


class Trained(Protocol):
    """What a training gave.

    report   JSON of the trainer: `holdback` (see Holdback), and what it used: `data`, `code`, `params`
    """

    @property
    def version(self) -> str:
        """Its name."""
        ...

    @property
    def report(self) -> Mapping[str, Any]:
        """What the trainer wrote."""
        ...


@runtime_checkable
class Trainer(Protocol):
    """Something that trains a new version of a model and never puts it to use."""

    async def train(self, model: str, key: str) -> Trained:
        """Train once per `key` (a second call waits for or returns the first); Refused when held or failed."""
        ...

    async def find(self, key: str) -> Trained | None:
        """Return what the training of that key gave; None = it never ran to its end."""
        ...


Measure = Literal["accuracy", "loss"]


@dataclass(frozen=True, slots=True)
class Holdback:
    """Champion and challenger on the same held-back rows.

    measure                          accuracy of a classifier (more is better), mean loss of a regression (less is)
    challenger_only, champion_only   rows that only the one got right, or whose loss was smaller: all that tells them
                                     apart
    """

    rows: int
    measure: Measure
    champion: float
    challenger: float
    challenger_only: int
    champion_only: int

    @property
    def gain(self) -> float:
        """Accuracy that the challenger has more; of a loss the share of the champion's that it spares."""
        if self.measure == "accuracy":
            return self.challenger - self.champion
        return (self.champion - self.challenger) / self.champion if self.champion else 0.0


def read_holdback(report: Mapping[str, Any]) -> Holdback:
    """Read `report["holdback"]`; raises Refused when it is missing, malformed or does not add up."""
    held: Any = report.get("holdback")
    try:
        measure: Measure = "loss" if "loss" in held["champion"] else "accuracy"
        rows, challenger_only, champion_only = (
            _count(held[name]) for name in ("rows", "challenger_only", "champion_only")
        )
        champion = float(held["champion"][measure])
        challenger = float(held["challenger"][measure])
    except (KeyError, TypeError, ValueError) as wrong:
        raise Refused(
            f"the trainer's report cannot be judged ({wrong!r}); it must hold holdback: "
            "{rows, champion: {accuracy}, challenger: {accuracy}, challenger_only, champion_only}, "
            "or `loss` of both in place of `accuracy`"
        ) from None
    found = Holdback(rows, measure, champion, challenger, challenger_only, champion_only)
    most = 1.0 if measure == "accuracy" else sys.float_info.max
    apart = challenger_only + champion_only
    if not (0 <= champion <= most and 0 <= challenger <= most) or apart > rows:
        raise Refused(f"the trainer's report does not add up: {found}; mend the trainer")
    if measure == "loss":
        if (challenger != champion) > apart:
            raise Refused(
                f"the trainer's report does not add up: the losses are {champion:g} and {challenger:g}, but no row "
                "tells them apart; mend the trainer"
            )
    # The two accuracies differ exactly by the rows that only one got right; rounding may cost a row.
    elif abs(found.gain * rows - (challenger_only - champion_only)) > 1.0:
        raise Refused(
            f"the trainer's report does not add up: a gain of {found.gain:+.4f} on {rows} rows is "
            f"{found.gain * rows:+.1f} rows, but it counts {challenger_only - champion_only:+d}; mend the trainer"
        )
    return found


_USED: Final = ("data", "code", "params")


def _used(report: Mapping[str, Any]) -> str:
    """Say what a training used, for the record of one that is refused."""
    told = [
        f"{name} {json.dumps(report[name], default=str)[:200]}"
        for name in _USED
        if report.get(name) is not None
    ]
    missing = [name for name in _USED if report.get(name) is None]
    said = f"it used {', '.join(told)}" if told else "what it used is not known"
    return said + f" (the report does not say which {' and '.join(missing)})" * bool(
        told and missing
    )


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def sign_test(wins: int, losses: int) -> float:
    """Exact one-sided sign test: how probable so many wins or more are when both are equally good.

    The exact form of McNemar's test for two classifiers on the same rows; rows on which they agree say nothing.
    wins, losses >= 0; 0 and 0 give 1.0. Cost: linear in wins + losses; above 20,000 a normal approximation
    with continuity correction stands in, whose error is then below 1e-4.
    Source: McNemar 1947; Dietterich 1998, Neural Computation 10(7), section 3.1.

    >>> round(sign_test(15, 5), 4)
    0.0207
    """
    n = wins + losses
    if n > 20_000:
        z = (wins - 0.5 - n / 2) / math.sqrt(n / 4)
        return 0.5 * math.erfc(z / math.sqrt(2))
    term = math.comb(n, wins)
    total = 0
    for k in range(wins, n + 1):
        total += term
        term = term * (n - k) // (k + 1)
    # whole numbers first: 2**n leaves the range of floats at n = 1024, their ratio does not
    return total / (1 << n)


@action("retrain")
class Retrain:
    """Train a challenger on recent data; refused unless it beats the champion on held-back rows."""

    effect = "mutating"
    ability = Trainer
    reversible = True
    stays = "the new version stands beside the champion and answers nobody"
    shared = False
    gives = (
        "model", "version", "gain", "p", "rows", "accuracy", "champion_accuracy", "loss", "champion_loss", "used",
    )  # fmt: skip

    class Params(Model):
        """How much better the challenger must be."""

        better_than: Ratio = 0.0
        """What it must gain at least on the held-back rows: accuracy, or the share of the champion's loss."""
        alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
        """How probable its advantage may be by luck (exact one-sided sign test)."""
        min_rows: Annotated[int, Field(ge=1)] = 100
        """Fewer held-back rows than this prove nothing."""
        model: str = ""
        """Default: the model of the target."""

    def __init__(self, params: Params, ability: Trainer) -> None:
        self._params = params
        self._trainer = ability

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return the version that this very step has trained, "" when it has not."""
        found = await self._trainer.find(step.key)
        return {
            "model": model_of(step, self._params.model),
            "version": found.version if found else "",
        }

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether this very step has trained; `run` then judges what it gave and does not train again."""
        del step
        return bool(seen["version"])

    async def run(self, step: Step) -> Done:
        """Train (once per key) and judge; raises Refused with the numbers when it is not better."""
        model = model_of(step, self._params.model)
        if step.dry_run:
            return Done(f"would retrain {model} and compare it with the champion", {"model": model})
        trained = await self._trainer.find(step.key) or await self._trainer.train(model, step.key)
        holdback = read_holdback(trained.report)
        p = sign_test(holdback.challenger_only, holdback.champion_only)
        measure = holdback.measure
        alone = "right alone" if measure == "accuracy" else "closer"
        said = (
            f"version {trained.version} of {model} has {measure} {holdback.challenger:.4g} against "
            f"{holdback.champion:.4g} of the champion on {holdback.rows} held-back rows "
            f"({alone}: {holdback.challenger_only} against {holdback.champion_only}, p = {p:.2g})"
        )
        limits = (
            (holdback.rows >= self._params.min_rows, f"fewer than {self._params.min_rows} rows"),
            (
                holdback.gain > self._params.better_than,
                f"needs a gain above {self._params.better_than:.4g}",
            ),
            (p <= self._params.alpha, f"needs p <= {self._params.alpha:g}"),
        )
        broken = [why for fine, why in limits if not fine]
        if broken:
            raise Refused(
                f"the challenger is not proven better: {said}; {', '.join(broken)}; the champion stays; "
                f"{_used(trained.report)}"
            )
        values = {
            "model": model,
            "version": trained.version,
            "gain": holdback.gain,
            "p": p,
            "rows": holdback.rows,
            measure: holdback.challenger,
            f"champion_{measure}": holdback.champion,
            "used": {name: trained.report.get(name) for name in _USED},
        }
        return Done(
            said,
            values,
            change=change(
                step, Entity("model", model), "act", "", f"trained version {trained.version}"
            ),
        )
