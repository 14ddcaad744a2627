"""Alerts from elsewhere become anomalies, so that one trouble is one incident whoever saw it first.

    Signal (Alertmanager, webhook) -> whom its labels mean -> `<kind>.alert_firing` -> the correlator, like our own

An alert is a person's statement, made elsewhere: it warns and never pages (whoever sent it has paged), and from a
source that is not trusted it is evidence only. Sent again it is the same alert; what is never sent again ends after
`forget_s`. Labels are matched with entities that are known; where none fits, it is about its source. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from agent.catalogue import SIGNALS
from agent.model import Anomaly, Entity, Series

if TYPE_CHECKING:
    from agent.ports import Signal
    from agent.world import World

_FORGET_S: Final = 4 * 3600.0
"""Alertmanager repeats what goes on every four hours unless it is told otherwise."""
_MOST: Final = 1000
_Key = tuple[str, str, tuple[tuple[str, str], ...]]
"""Source, name and labels of an alert."""
_MEANS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("gpu", ("gpu", "uuid", "gpu_uuid")),
    ("model", ("model", "model_name")),
    ("service", ("service", "app", "app_kubernetes_io_name", "job")),
    ("dependency", ("dependency", "instance")),
    ("host", ("host", "hostname", "node", "nodename", "instance")),
)
"""Entity kind -> labels that name one, the most particular kind first."""


@dataclass(slots=True)
class Alerts:
    """The alerts that fire now: when each was heard last, and the series that stands for it.

    Whom an alert means is decided once: the map changes while it fires, and it must find its end. Several that mean
    the same (two disks of a host) are one anomaly, which lasts as long as any of them does.
    """

    forget_s: float = _FORGET_S
    _firing: dict[_Key, tuple[float, Series]] = field(default_factory=dict)
    _told: dict[Series, Anomaly] = field(default_factory=dict)

    def take(self, now: float, signals: Sequence[Signal], world: World) -> list[Anomaly]:
        """Return the anomalies of alerts that fire, and those that have just ended (with `end` set)."""
        ended = []
        for signal in signals:
            key = (signal.source, signal.name, signal.labels)
            if not signal.firing:
                ended += self._end(key, signal.ts)
                continue
            known = self._firing.get(key)
            if known is not None and known[1].entity.kind != "source":
                self._firing[key] = now, known[1]
            elif known is not None or len(self._firing) < _MOST:
                series = _series(signal, world)
                if known is not None and known[1] != series:  # by now it is known whom it means
                    ended += self._end(key, now)
                self._firing[key] = now, series
                if series not in self._told:
                    self._told[series] = _anomaly(series, signal, world)
        for key, (seen, _) in list(self._firing.items()):
            if now - seen > self.forget_s:
                ended += self._end(key, now)
        return [*self._told.values(), *ended]

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set; what is written stays as it was."""
        self._firing = {key: (seen + jump, series) for key, (seen, series) in self._firing.items()}

    def _end(self, key: _Key, ts: float) -> list[Anomaly]:
        """Let go of an alert; returns its anomaly with its end, unless others that mean the same fire still."""
        _, series = self._firing.pop(key, (0.0, None))
        if series is None or any(other == series for _, other in self._firing.values()):
            return []
        anomaly = self._told.pop(series)
        return [replace(anomaly, end=max(ts, anomaly.onset))]


def _series(signal: Signal, world: World) -> Series:
    about = subject(dict(signal.labels), world) or Entity("source", signal.source)
    labels = (("alert", signal.name), ("source", signal.source))
    return Series(f"{about.kind}.alert_firing", about, labels)


def subject(labels: Mapping[str, str], world: World) -> Entity | None:
    """Return the known entity that the labels of an alert name; None when there is none."""
    for kind, names in _MEANS:
        known = {e.key: e for e in world.entities(kind)} if set(names) & set(labels) else {}
        for name in names:
            said = labels.get(name, "")
            whom = said.rpartition(":")[0] or said
            found = known.get(said) or known.get(whom) or known.get(whom.partition(".")[0])
            if found is not None and f"{kind}.alert_firing" in SIGNALS:
                return found
    return None


def _anomaly(series: Series, signal: Signal, world: World) -> Anomaly:
    trusted = world.trusts.get(signal.source, "untrusted") != "untrusted"
    text = f"{signal.name}: {signal.text}" if signal.text else signal.name
    return Anomaly(
        series, signal.ts, None, 0.0, 1, 1.0, math.nan, 0.5, 0.5, 1.0,
        "objective" if trusted else "prior", text[:200],
    )  # fmt: skip
