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
    """The alerts that fire now, by the series that stands for each."""

    forget_s: float = _FORGET_S
    _firing: dict[Series, tuple[float, Anomaly]] = field(default_factory=dict)

    def take(self, now: float, signals: Sequence[Signal], world: World) -> list[Anomaly]:
        """Return the anomalies of alerts that fire, and those that have just ended (with `end` set)."""
        ended = []
        for signal in signals:
            series = _series(signal, world)
            if not signal.firing:
                old = self._firing.pop(series, None)
                if old is not None:
                    ended.append(replace(old[1], end=max(signal.ts, old[1].onset)))
            elif series in self._firing:
                self._firing[series] = now, self._firing[series][1]
            elif len(self._firing) < _MOST:
                self._firing[series] = now, _anomaly(series, signal, world)
        for series, (seen, anomaly) in list(self._firing.items()):
            if now - seen > self.forget_s:
                ended.append(replace(anomaly, end=now))
                del self._firing[series]
        return [a for _, a in self._firing.values()] + ended


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
