"""What is known now: the newest value of every series, the topology, and how fresh and trusted each is.

A value that is absent, NaN or older than its source's patience is unknown (None), never zero and never healthy.
Cost: one vector assignment a frame; look-ups are dictionary hits. Tables are rebuilt only when series come or go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from agent.model import Entity, FloatArray, Frame, Series
from agent.topology import Topology

Trust = Literal["untrusted", "local", "authenticated"]


@dataclass(slots=True)
class _Table:
    """The newest row of one source."""

    series: tuple[Series, ...]
    values: FloatArray
    when: FloatArray
    column: dict[Series, int]


@dataclass(slots=True)
class World:
    """The present. `now` moves only forward, with frames and ticks.

    patience   source -> seconds after which its values are stale; set by the collector (3 intervals and a bit)
    trusts     source -> how far its words go: the agent's own eyes are `local`
    revision   rises whenever series come or go
    """

    topology: Topology = field(default_factory=Topology)
    now: float = 0.0
    patience: dict[str, float] = field(default_factory=dict)
    trusts: dict[str, Trust] = field(default_factory=dict)
    revision: int = 0
    _tables: dict[str, _Table] = field(default_factory=dict)
    _where: dict[Series, str] = field(default_factory=dict)
    _also: dict[Series, list[str]] = field(default_factory=dict)
    """Who else tells a series, or did."""
    _of_metric: dict[str, dict[Entity, list[Series]]] = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        """Learn a frame (after rates). A frame older than what is known only fills what was unknown."""
        for sighting in frame.seen:
            self.topology.take(sighting, frame.source, frame.ts)
        table = self._tables.get(frame.source)
        if table is None or table.series is not frame.series:
            table = self._rebuild(frame, table)
        known = ~np.isnan(frame.values)
        newer = known & (frame.ts >= table.when)
        table.values[newer] = frame.values[newer]
        table.when[newer] = frame.ts
        # NaN = asked and not answered: what was known a moment ago is not known now
        asked = ~known & (frame.ts >= table.when)
        table.values[asked] = np.nan
        self.now = max(self.now, frame.ts)

    def _rebuild(self, frame: Frame, old: _Table | None) -> _Table:
        self.revision += 1
        n = len(frame.series)
        table = _Table(
            frame.series,
            np.full(n, np.nan),
            np.full(n, -math.inf),
            {s: i for i, s in enumerate(frame.series)},
        )
        if old is not None:
            for series, i in old.column.items():
                j = table.column.get(series)
                if j is not None:
                    table.values[j], table.when[j] = old.values[i], old.when[i]
        self._tables[frame.source] = table
        self._index()
        return table

    def _index(self) -> None:
        """Find out anew who tells what; where several tell a series, the last of them is asked first."""
        self._where = {s: src for src, t in self._tables.items() for s in t.series}
        self._also = {}
        if len(self._where) < sum(len(t.series) for t in self._tables.values()):
            for source, table in reversed(self._tables.items()):
                for series in table.series:
                    if self._where[series] != source:
                        self._also.setdefault(series, []).append(source)
        self._of_metric = {}
        for series in self._where:
            self._of_metric.setdefault(series.metric, {}).setdefault(series.entity, []).append(
                series
            )

    def drop(self, source: str) -> None:
        """Forget a source that was taken out of config, and what only it told of the graph."""
        self.topology.drop(source)
        if self._tables.pop(source, None) is not None:
            self.revision += 1
            self._index()

    def find(self, metric: str, entity: Entity | None = None) -> list[Series]:
        """Return the series of a metric, of one entity or of all."""
        entities = self._of_metric.get(metric, {})
        if entity is not None:
            return list(entities.get(entity, ()))
        return [series for some in entities.values() for series in some]

    def get(self, series: Series) -> float | None:
        """Return the newest value of a series; None = unknown."""
        source = self._where.get(series)
        if source is None:
            return None
        value = self._said(source, series)
        if (
            value is None and series in self._also
        ):  # who told it has fallen silent: another one tells it instead
            told = (self._said(other, series) for other in self._also[series])
            value = next((v for v in told if v is not None), None)
        return value

    def _said(self, source: str, series: Series) -> float | None:
        """Return what one source says of a series now."""
        table = self._tables[source]
        i = table.column[series]
        value = float(table.values[i])
        stale = self.now - table.when[i] > self.patience.get(source, math.inf)
        return None if math.isnan(value) or stale else value

    def value(
        self, metric: str, entity: Entity, labels: Mapping[str, str] | None = None
    ) -> float | None:
        """Return the newest value of a metric on an entity; None = unknown or not unique."""
        found = [
            s
            for s in self.find(metric, entity)
            if labels is None or labels.items() <= dict(s.labels).items()
        ]
        return self.get(found[0]) if len(found) == 1 else None

    def age(self, series: Series) -> float:
        """Return the seconds since a series last had a value; infinite when it never had."""
        source = self._where.get(series)
        if source is None:
            return math.inf
        table = self._tables[source]
        return self.now - float(table.when[table.column[series]])

    def fresh(self, series: Series) -> bool:
        """Tell whether a series has a value that is not stale."""
        return self.get(series) is not None

    def lost(self, series: Series) -> bool:
        """Tell whether nobody tells a series, though no source is blind: it is gone, or was never measured."""
        if series in self._where:
            return False
        blind = [self.get(one) for one in self.find("source.blind")]
        return bool(blind) and not any(value is None or value > 0.0 for value in blind)

    def source(self, series: Series) -> str:
        """Return the source that tells a series; "" when nobody does."""
        return self._where.get(series, "")

    def trust(self, series: Series) -> Trust:
        """Say how far the word of the series' source goes; nothing known = untrusted."""
        return self.trusts.get(self.source(series), "untrusted")

    def attrs(self, entity: Entity) -> Mapping[str, str]:
        """Return the attributes of an entity."""
        return self.topology.attrs(entity)

    def entities(self, kind: str | None = None) -> list[Entity]:
        """Return all known entities, or those of one kind."""
        return self.topology.entities(kind)

    def rebase(self, jump: float) -> None:
        """Move every remembered time along with a wall clock that was set by `jump` seconds."""
        self.now += jump
        self.topology.rebase(jump)
        for table in self._tables.values():
            table.when += jump

    def rows(self) -> dict[str, tuple[tuple[Series, ...], FloatArray, FloatArray]]:
        """Return source -> (series, newest values, when), for `/metrics` and the console; do not change them."""
        return {name: (t.series, t.values, t.when) for name, t in self._tables.items()}
