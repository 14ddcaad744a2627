"""What expressions see for one target: dotted names to values; None = unknown.

    gpu.clock_ratio             a catalogue signal on the target, or on its nearest relative of that kind
    baseline.gpu.clock_ratio    what was ordinary for it before the trouble (or before the act)
    target.id, target.command   the target and its attributes
    cause.kind, cause.feature   the diagnosis and its facts
    steps.train.version         what an earlier step of the run gave
    value, peers.median         inside a `when` item with `signal:`, which may ask for labels: `x.y{label=value}`

Several series of one signal (labels) give the worst one by the catalogue's `better`, else their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.catalogue import SIGNALS, labelled
from agent.model import Cause, Entity, FloatArray, Series

if TYPE_CHECKING:
    from agent.world import World

Reader = Callable[[Sequence[Series], float, float], tuple[FloatArray, FloatArray]]
"""`History.read` without its step: (series, from, to) -> ts (k,), values (k, n)."""
Usual = MutableMapping[tuple[Series, float], float]
"""(series, since) -> what was ordinary before: read once, as it is over. What is too short to say is not kept."""
_ENOUGH_ROWS: Final = 5


class Scene:
    """Resolves names for one target at one moment; cheap to make, made anew each tick: what was looked up, it knows."""

    def __init__(
        self,
        world: World,
        target: Entity,
        *,
        read: Reader | None = None,
        cause: Cause | None = None,
        facts: Mapping[str, str] | None = None,
        steps: Mapping[str, Mapping[str, Any]] | None = None,
        since: float | None = None,
        baseline_s: float = 3600.0,
        signal: str | None = None,
        usual: Usual | None = None,
    ) -> None:
        self.world = world
        self.target = target
        self._read = read
        self._cause = cause
        self._facts = dict(facts if facts is not None else (cause.facts if cause else {}))
        self._steps = steps or {}
        self._since = since
        self._baseline_s = baseline_s
        self._signal = signal
        self._usual: Usual = {} if usual is None else usual
        self._known: dict[str, Any] = {}
        self._near: dict[str, Entity | None] = {}

    def about(self, signal: str) -> Scene:
        """Return the same scene with `value` and `peers` bound to a signal."""
        bound = Scene(
            self.world, self.target, read=self._read, cause=self._cause, facts=self._facts,
            steps=self._steps, since=self._since, baseline_s=self._baseline_s, signal=signal,
            usual=self._usual,
        )  # fmt: skip
        bound._known, bound._near = self._known, self._near  # its own
        return bound

    def __call__(self, name: str) -> Any:
        """Return the value of a dotted name; None when it is not known."""
        head, _, rest = name.partition(".")
        if name == "value":
            return self.signal(self._signal) if self._signal else None
        if head == "peers":
            return self._peers(rest)
        if head == "target":
            return self._target(rest)
        if head == "cause":
            return self._of_cause(rest)
        if head == "steps":
            step, _, key = rest.partition(".")
            return self._steps.get(step, {}).get(key)
        if head != "baseline" and name not in SIGNALS:
            return None
        if name not in self._known:
            self._known[name] = self.baseline(rest) if head == "baseline" else self.signal(name)
        return self._known[name]

    def series(self, metric: str) -> list[Series]:
        """Return the series that a signal, perhaps with labels, means here."""
        metric, labels = labelled(metric)
        definition = SIGNALS.get(metric)
        if definition is None:
            return []
        kind = definition.entity_kind
        if kind not in self._near:
            self._near[kind] = self.world.topology.nearest(self.target, kind)
        entity = self._near[kind]
        return self._having(metric, entity, labels) if entity is not None else []

    def _having(
        self, metric: str, entity: Entity, labels: tuple[tuple[str, str], ...]
    ) -> list[Series]:
        found = self.world.find(metric, entity)
        return [s for s in found if set(labels) <= set(s.labels)] if labels else found

    def signal(self, metric: str) -> float | None:
        """Return the newest value of a signal here; None when any of its series is unknown."""
        values = [self.world.get(s) for s in self.series(metric)]
        return _worst(metric, values)

    def baseline(self, metric: str) -> float | None:
        """Return what was ordinary before `since`: the median over the baseline; None when too short."""
        found, since = self.series(metric), self._since
        if self._read is None or since is None or not found:
            return None
        unread = [s for s in found if (s, since) not in self._usual]
        if unread:
            _, rows = self._read(unread, since - self._baseline_s, since)
            for j, one in enumerate(unread):
                if np.count_nonzero(~np.isnan(rows[:, j])) >= _ENOUGH_ROWS:
                    self._usual[one, since] = float(np.nanmedian(rows[:, j]))
        return _worst(metric, [self._usual.get((s, since)) for s in found])

    def _peers(self, what: str) -> float | None:
        if self._signal is None or what not in {"median", "count"}:
            return None
        metric, labels = labelled(self._signal)
        values = [
            v
            for peer in self.world.topology.peers(self.target)
            if (
                v := _worst(metric, [self.world.get(s) for s in self._having(metric, peer, labels)])
            )
            is not None
        ]
        if what == "count":
            return float(len(values))
        return float(np.median(values)) if values else None

    def _target(self, what: str) -> Any:
        if what in {"id", "kind", "key"}:
            return getattr(self.target, what)
        return self.world.attrs(self.target).get(what)

    def _of_cause(self, what: str) -> Any:
        if self._cause is not None and what in {"kind", "probability"}:
            return getattr(self._cause, what)
        if self._cause is not None and what == "entity":
            return self._cause.entity.id
        return self._facts.get(what)


def _worst(metric: str, values: Sequence[float | None]) -> float | None:
    """Join several series of one signal; one unknown makes the whole unknown."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known or len(known) != len(values):
        return None
    better = SIGNALS[labelled(metric)[0]].better
    if better == "low":
        return max(known)
    if better == "high":
        return min(known)
    return sum(known) / len(known)
