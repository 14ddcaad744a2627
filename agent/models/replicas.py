"""What each replica of a model answers, against its peers: the silent fault of one GPU or one worker.

    rows with a tag `replica` (or `pod`, `instance`) -> counts by answer of a tick -> `@drift("apart")` -> replica.*

An answer is a class (of a regression: a seventh of what was said at first) and how sure it was. A tag `gpu` says on
which GPU a replica runs, where no connector does. Labels say nothing about replicas here: a fault shows before them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from agent import registry
from agent.model import Edge, Entity, FloatArray, IntArray, Sighting
from agent.ports import ReplicaDrift

TAGS: Final = ("replica", "pod", "instance")
SIGNALS: Final = (
    "replica.apart_evidence_count", "replica.prediction_distance_ratio", "replica.predictions_apart",
    "replica.predictions_per_second",
)  # fmt: skip
_SURE_FROM: Final = np.array([0.6, 0.85])
_CLASSES: Final = 8
"""Classes that are told apart; the rest is one with the last."""
_SURE: Final = len(_SURE_FROM) + 2  # so many thirds, and not logged
_EDGES_ROWS: Final = 500
_WINDOW_ROWS: Final = 64
_GONE_S: Final = 300.0


class Replicas:
    """The replicas of one model, as far as its rows name them."""

    def __init__(self, quiet: float) -> None:
        cls = registry.drift.get("apart")
        self._test: ReplicaDrift = cls(_CLASSES * _SURE, cls.Config(quiet=quiet))
        self._most = int(cls.most)
        self.names: tuple[str, ...] = ()
        self._seen: dict[str, float] = {}
        self._gpus: dict[str, str] = {}
        self._counts: dict[str, FloatArray] = {}
        self._edges: FloatArray | None = None
        self._first: list[FloatArray] = []
        self._rows: dict[str, float] = {}
        self._since = math.nan

    def take(
        self, ts: float, tags: Mapping[str, Any], said: Any, sure: FloatArray, *, numbers: bool
    ) -> None:  # fmt: skip
        """Count rows; said: numbers of classes (n,), or of a regression; sure (n,) NaN = not logged."""
        tag = next((tags[name] for name in TAGS if name in tags), None)
        if tag is None or not len(said):
            return
        answers = self._part(said) if numbers else np.clip(said, -1, _CLASSES - 2) + 1
        if answers is None:
            return
        thirds = np.where(np.isnan(sure), _SURE - 1, np.searchsorted(_SURE_FROM, sure))
        column = (answers * _SURE + thirds).astype(np.int64)
        place: dict[str, int] = {}
        names = ["" if v is None else str(v) for v in tag]
        who = np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int64)
        width = _CLASSES * _SURE
        each = np.bincount(who * width + column, minlength=len(place) * width).reshape(-1, width)
        gpus = tags.get("gpu")
        for name, i in place.items():
            if not name or (name not in self._seen and len(self._seen) >= self._most):
                continue
            self._seen[name] = ts
            if gpus is not None:
                self._gpus[name] = str(gpus[int(np.argmax(who == i))] or "")
            counts = self._counts.setdefault(name, np.zeros(width))
            counts += each[i]

    def _part(self, said: FloatArray) -> IntArray | None:
        """Return the part of what was said first that each number falls into, None while that is not known."""
        if self._edges is None:
            self._first.append(said[np.isfinite(said)])
            first = np.concatenate(self._first)
            if len(first) < _EDGES_ROWS:
                return None
            inner = np.linspace(0.0, 1.0, _CLASSES)[1:-1]
            self._edges, self._first = np.quantile(first, inner), []
        return np.where(np.isnan(said), 0, np.searchsorted(self._edges, said) + 1)

    @property
    def apart(self) -> tuple[str, ...]:
        """Who answers otherwise than its peers."""
        return tuple(n for n, odd in zip(self.names, self._test.apart, strict=True) if odd)

    def tick(self, now: float) -> FloatArray:
        """Judge what came since the last time; return the signals (replicas, SIGNALS) of `names`."""
        self._seen = {name: ts for name, ts in self._seen.items() if now - ts <= _GONE_S}
        names = tuple(sorted(self._seen))
        if names != self.names:
            place = {name: i for i, name in enumerate(self.names)}
            self._test.remap(np.array([place.get(name, -1) for name in names], dtype=np.int64))
            self.names = names
        self._counts = {name: c for name, c in self._counts.items() if name in self._seen}
        if sum(c.sum() for c in self._counts.values()) >= _WINDOW_ROWS:
            none = np.zeros(_CLASSES * _SURE)
            counts = np.array([self._counts.get(name, none) for name in names])
            past = now - self._since if now > self._since else math.nan  # a clock that was set back
            self._rows = {n: float(c.sum()) / past for n, c in zip(names, counts, strict=True)}
            self._test.take(now, counts)
            self._counts, self._since = {}, now
        elif math.isnan(self._since):
            self._since = now
        if not names:
            return np.zeros((0, len(SIGNALS)))
        ready = self._test.ready
        rates = np.array([self._rows.get(name, math.nan) for name in names])
        return np.column_stack(
            [
                np.where(ready, np.maximum(self._test.evidence, -9.0), np.nan),
                self._test.size,
                np.where(ready, self._test.apart, np.nan),
                rates,
            ]
        )

    def dump(self) -> tuple[dict[str, Any], FloatArray]:
        """Return the state: names and numbers, and the arrays of the test."""
        edges = self._edges.tolist() if self._edges is not None else None
        return {
            "names": self.names,
            "seen": self._seen,
            "gpus": self._gpus,
            "edges": edges,
        }, self._test.dump()

    def load(self, said: Mapping[str, Any], arrays: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        self._test.load(arrays)
        self.names = tuple(map(str, said["names"]))
        self._seen = {str(k): float(v) for k, v in said["seen"].items()}
        self._gpus = {str(k): str(v) for k, v in said["gpus"].items()}
        self._edges = None if said["edges"] is None else np.array(said["edges"], dtype=np.float64)

    def see(self, owner: Entity) -> list[Sighting]:
        """Say which replicas there are, of a service (or of the model, where nobody says which service serves it)."""
        out = []
        for name in self.names:
            me = entity(owner, name)
            edges = [Edge("serves", me, owner)]
            if gpu := self._gpus.get(name):
                edges.append(Edge("runs_on", me, Entity("gpu", gpu)))
            out.append(Sighting(me, (), tuple(edges)))
        return out


def entity(owner: Entity, name: str) -> Entity:
    """Return the replica that rows call `name`: service/n, or n of a service."""
    return Entity("replica", name if name.startswith(f"{owner.key}/") else f"{owner.key}/{name}")
