"""Objectives: limits that hold from the first minute, stated by people or by physics, laid over series.

agent.yaml, services.d  --limits_of-->  Limit  --> monitor (broken or not), verify (inside or not)
                        --aims_of---->  Aim    --> error_budget --> limits on how fast its budget burns
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from agent.catalogue import SIGNALS
from agent.config import Config, Objective
from agent.model import Series
from agent.units import say_duration


@dataclass(frozen=True, slots=True)
class Limit:
    """An objective, ready to be laid over series.

    low, high   NaN = open
    for_s       how long it must be broken before it counts
    entities    globs over entity ids; any may match
    note        it is a finding: recorded and shown, and it opens no more than a note
    """

    signal: str
    low: float
    high: float
    for_s: float
    entities: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()
    name: str = ""
    harm: bool = False
    note: bool = False

    def over(self, series: Series) -> bool:
        """Tell whether this limit is meant for a series."""
        return (
            series.metric == self.signal
            and all(pair in series.labels for pair in self.labels)
            and any(fnmatchcase(series.entity.id, glob) for glob in self.entities)
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """An objective that may be missed now and then: what counts is how fast that uses up what it may miss.

    low, high   inside of which it is met; both NaN = the value is itself a share of requests, good or bad
    target      share of requests, or of the time, that must be good, 0 < target < 1
    over_s      of how long that is meant
    """

    name: str
    signal: str
    low: float
    high: float
    entities: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    target: float
    over_s: float

    def over(self, series: Series) -> bool:
        """Tell whether this aim is meant for a series."""
        return (
            series.metric == self.signal
            and all(pair in series.labels for pair in self.labels)
            and any(fnmatchcase(series.entity.id, glob) for glob in self.entities)
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Two windows that both must burn: the long one says that it is much, the short one that it goes on.

    share   of the whole budget that may be used up in the long one
    pages   whether people are woken; else it is a note
    """

    name: str
    long_s: float
    short_s: float
    share: float
    pages: bool

    def most(self, over_s: float) -> float:
        """Return the burn at which that share is used up: 14.4, 6, 3, 1 for a budget of 30 days."""
        return self.share * over_s / self.long_s


_H: Final = 3600.0
PAIRS: Final = (
    Pair("1h", _H, _H / 12, 0.02, pages=True),
    Pair("6h", 6 * _H, _H / 2, 0.05, pages=True),
    Pair("1d", 24 * _H, 2 * _H, 0.10, pages=False),
    Pair("3d", 72 * _H, 6 * _H, 0.10, pages=False),
)

BUILT_IN: Final = (
    Limit("host.disk_utilization_ratio", math.nan, 0.97, 10.0, ("host:*",), name="disk nearly full"),
    Limit("host.disk_inodes_ratio", math.nan, 0.97, 10.0, ("host:*",), name="inodes nearly used up"),
    Limit("host.memory_utilization_ratio", math.nan, 0.97, 10.0, ("host:*",), name="memory nearly full"),
    Limit(
        "host.pressure_ratio", math.nan, 0.9, 30.0, ("host:*",),
        (("resource", "cpu"), ("who", "some")), name="processes wait for a CPU",
    ),
    Limit(
        "host.pressure_ratio", math.nan, 0.5, 10.0, ("host:*",),
        (("resource", "memory"), ("who", "full")), name="memory thrashes",
    ),
    Limit("host.mount_reachable", 0.5, math.nan, 10.0, ("host:*",), name="file system does not answer"),
    Limit("gpu.reachable", 0.5, math.nan, 5.0, ("gpu:*",), name="GPU does not answer"),
    Limit("gpu.remap_failed", math.nan, 0.5, 0.0, ("gpu:*",), name="GPU memory row remapping failed"),
    Limit("source.blind", math.nan, 0.5, 0.0, ("source:*",), name="blind"),
    Limit("service.up", 0.5, math.nan, 3.0, ("service:*",), name="service does not answer", harm=True),
    Limit("model.quality_lost", math.nan, 0.5, 0.0, ("model:*",), name="quality lost", harm=True),
    Limit("model.worse_than_previous", math.nan, 0.5, 0.0, ("model:*",), name="worse version", harm=True),
    Limit("model.loss_expected", math.nan, 0.5, 10.0, ("model:*",), name="loss expected", harm=True),
    Limit("model.relation_changed", math.nan, 0.5, 0.0, ("model:*",), name="relation changed"),
    Limit("model.labels_late", math.nan, 0.5, 0.0, ("model:*",), name="labels late"),
    Limit("model.run_missed", math.nan, 0.5, 0.0, ("model:*",), name="batch run missed", harm=True),
    Limit("model.run_short", math.nan, 0.5, 0.0, ("model:*",), name="batch run short", harm=True),
    Limit("model.run_schema_wrong", math.nan, 0.5, 0.0, ("model:*",), name="batch run of another schema", harm=True),
    Limit("feature.contract_broken", math.nan, 0.5, 0.0, ("feature:*",), name="data contract", harm=True),
    Limit(
        "version.proven_worse", math.nan, 0.5, 0.0, ("version:*",),
        (("how", "together"),), name="worse than the one beside it", note=True,
    ),
    Limit("feature.drifted", math.nan, 0.5, 0.0, ("feature:*",), name="drift", note=True),
    Limit("replica.predictions_apart", math.nan, 0.5, 0.0, ("replica:*",), name="answers of its own", harm=True),
)  # fmt: skip
"""Physical limits and contracts that hold without anybody stating them.

A core that is busy is well used; a task that waits for one nearly all the time (pressure stall information) is a host
that is full. Waiting for a disk has no limit: one copy makes it. What the tests of models find has passed evidence and
size there, at the rate of false alarms that `models.quiet` states; inputs that drift and hurt nobody are a note, as is
a version that labels prove worse than the one that serves beside it (a shadow serves nobody).
"""


def limits_of(config: Config) -> tuple[Limit, ...]:
    """Turn the stated objectives into limits over series."""
    limits = [_limit(o, globs) for o, globs in _stated(config) if o.target is None]
    burns = [
        _burn(aim, pair) for aim in aims_of(config) for pair in PAIRS if pair.long_s < aim.over_s
    ]
    return (*BUILT_IN, *limits, *burns)


def aims_of(config: Config) -> tuple[Aim, ...]:
    """Return the stated objectives that have a target."""
    return tuple(
        Aim(
            f"{_words(o)} for {o.target * 100:g} % of {say_duration(o.over)}", o.signal, *_sides(o), globs,
            tuple(sorted(o.labels.items())), o.target, o.over,
        )
        for o, globs in _stated(config)
        if o.target is not None
    )  # fmt: skip


def _stated(config: Config) -> Iterator[tuple[Objective, tuple[str, ...]]]:
    """Give every objective with the globs of the entities that it is over."""
    for service in config.services:
        for o in service.objectives:
            kind = SIGNALS[o.signal].entity_kind
            yield o, (o.entity,) if o.entity else entity_globs(kind, service.id, service.models)
    for o in config.objectives:
        yield o, (o.entity or f"{SIGNALS[o.signal].entity_kind}:*",)


def _sides(o: Objective) -> tuple[float, float]:
    return math.nan if o.min is None else float(o.min), math.nan if o.max is None else float(o.max)


def _words(o: Objective) -> str:
    sides = [f"at least {o.min:g}"] if o.min is not None else []
    sides += [f"at most {o.max:g}"] if o.max is not None else []
    return f"{o.signal} {' and '.join(sides)}".rstrip()


def _limit(o: Objective, globs: tuple[str, ...]) -> Limit:
    labels = tuple(sorted(o.labels.items()))
    return Limit(o.signal, *_sides(o), o.for_, globs, labels, _words(o), SIGNALS[o.signal].harm)


def _burn(aim: Aim, pair: Pair) -> Limit:
    signal = SIGNALS[aim.signal]
    return Limit(
        f"{signal.entity_kind}.error_budget_burn_ratio", math.nan, pair.most(aim.over_s), 0.0, aim.entities,
        tuple(sorted({"objective": aim.name, "window": pair.name}.items())),
        f"error budget burns: {aim.name}", signal.harm and pair.pages, note=not pair.pages,
    )  # fmt: skip


def entity_globs(kind: str, service: str, models: Sequence[str]) -> tuple[str, ...]:
    """Say which entities a service's objective on a signal of `kind` is meant for."""
    if kind in {"service", "replica"}:
        return (f"{kind}:{service}", f"{kind}:{service}/*")
    if kind == "model":
        return tuple(f"model:{m}" for m in models)
    if kind in {"version", "feature"}:
        return tuple(f"{kind}:{m}/*" for m in models)
    return (f"{kind}:*",)
