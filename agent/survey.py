"""Turns the table of a source that speaks in foreign names into entities, edges and call series of ours.

    survey = Survey(names)                       one a source, made by its connector
    survey.table([(metric, labels), ...])        when its series came or went
    survey.look(ts, values)                      each poll -> our call series, their values, sightings

What it tells holds for a while only and is told again while it is so: pods that are gone and calls that nobody makes
any more fade from the graph by themselves, so the graph follows deployments.
Cost: `table` 60 us a series, more for new ones: it is pure, so with thousands call it in a thread. A look is a few
passes of numpy, 1 ms a thousand series, and each minute a sighting an entity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from agent.calls import Call, Names, Tally
from agent.calls import read as read_call
from agent.labels import Told
from agent.labels import read as read_labels
from agent.model import Edge, Entity, FloatArray, Series, Sighting

TARGETS_LAST_S: Final = 300.0
"""How long a pod or a GPU stays whose series are gone: as long as Prometheus itself calls a series fresh."""
_AGAIN_S: Final = 60.0
_VERSIONS: Final = 6
"""Versions of one service at a time that are told; more is no rollout but a label that means something else."""

Key = tuple[str, tuple[tuple[str, str], ...]]


class Survey:
    """Reads labels once, remembers whom they name, and says it again while it is so.

    calls_last_s   how long a call stays known that was not seen again
    """

    def __init__(self, names: Names | None = None, calls_last_s: float = 3600.0) -> None:
        self._names = names or Names()
        self._calls_last_s = calls_last_s
        self._read: dict[Key, tuple[Call | None, Told]] = {}
        self._tally = Tally(())
        self._before: FloatArray = np.zeros(0)
        self._totals: FloatArray = np.zeros(0)
        self._keys: tuple[Key, ...] = ()
        self._around: dict[Entity, Sighting] = {}
        self._told_at = -math.inf
        self._told: dict[Entity, Sighting] = {}
        self._called: dict[Edge, float] = {}

    @property
    def series(self) -> tuple[Series, ...]:
        """Our call series, sorted; the same tuple object while the table stays."""
        return self._tally.series

    def table(self, series: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """Take the series of the source, in the order of the values that `look` will be given."""
        keys = tuple((metric, tuple(sorted(labels.items()))) for metric, labels in series)
        known, self._read = self._read, {}
        # the series of one pod all tell the same of it: kept once, joined once
        same = {t: t for t in {id(t): t for _, t in known.values()}.values()}
        for key, (metric, labels) in zip(keys, series, strict=True):
            old = known.get(key)
            if old is None:
                told = read_labels(metric, labels, self._names)
                old = read_call(metric, labels, self._names), same.setdefault(told, told)
            self._read[key] = old
        before = dict(zip(self._keys, self._before, strict=True)) if len(self._before) else {}
        self._before = np.array([before.get(key, math.nan) for key in keys])
        self._keys = keys
        totals = dict(zip(self.series, self._totals, strict=True))
        self._tally = Tally([self._read[key][0] for key in keys])
        self._totals = np.array([totals.get(one, 0.0) for one in self.series])
        there = set(self._tally.edges)
        self._called = {e: at for e, at in self._called.items() if e in there}
        self._around = self._merged()

    def look(self, ts: float, values: FloatArray) -> tuple[FloatArray, tuple[Sighting, ...]]:
        """Return values of `series` (counters from our start, the collector makes rates), and who is new or due."""
        seen = [s for e, s in self._around.items() if self._told.get(e) != s]
        if not 0.0 <= ts - self._told_at < _AGAIN_S:
            self._told_at = ts
            seen = list(self._around.values())
        self._told = self._around
        calls: dict[Entity, list[Edge]] = {}
        for edge in self._tally.moved(self._before, values):
            if not 0.0 <= ts - self._called.get(edge, -math.inf) < _AGAIN_S:
                self._called[edge] = ts
                calls.setdefault(edge.src, []).append(edge)
        for caller, edges in calls.items():
            seen.append(Sighting(caller, edges=tuple(edges), lasts_s=self._calls_last_s))
        gains = self._tally.gains(self._before, values)
        self._totals = self._totals + np.nan_to_num(gains)
        self._before = np.where(np.isnan(values), self._before, values)
        return np.where(np.isnan(gains), np.nan, self._totals), tuple(seen)

    def _merged(self) -> dict[Entity, Sighting]:
        """Join what all series tell of one entity."""
        attrs: dict[Entity, dict[str, dict[str, None]]] = {}
        edges: dict[Entity, dict[Edge, None]] = {}
        for told in {id(told): told for _, told in self._read.values()}.values():
            for one in told.entities:
                attrs.setdefault(one, {})
            for entity, name, value in told.attrs:
                attrs[entity].setdefault(name, {})[value] = None
            for edge in told.edges:
                edges.setdefault(edge.src, {})[edge] = None
        out = {}
        for entity, some in attrs.items():
            said = tuple(
                (name, ",".join(sorted(values)) if len(values) <= _VERSIONS else "")
                for name, values in sorted(some.items())
            )
            out[entity] = Sighting(
                entity, said, tuple(edges.get(entity, ())), lasts_s=TARGETS_LAST_S
            )
        return out
