"""Signs of trouble of a resource: an objective that is broken, an excursion, or what diagnosis measures itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.catalogue import SIGNALS
from agent.model import Anomaly, Entity
from agent.rca.case import Case, numbers, what
from agent.rca.look import Look, Measured
from agent.units import say

_MOVED = 6.0
_FULL_AT = 20.0
_MOST = 3


@dataclass(frozen=True, slots=True)
class Sign:
    """One signal that speaks for a kind of cause.

    least    beyond this it can hurt; NaN = any move counts
    side     +1 too much, -1 too little
    labels   only series with these
    alone    weight reason when it is beyond `least`, whatever was usual; "" = it must have moved, too
    said     in words, where the catalogue's would mislead
    """

    metric: str
    least: float = math.nan
    side: int = 1
    labels: tuple[tuple[str, str], ...] = ()
    alone: str = ""
    said: str = ""

    @property
    def what(self) -> str:
        """What it says, for people."""
        return self.said or what(self.metric)


def kernel(event: str, said: str, weight: str = "strong") -> Sign:
    """Return the sign that the kernel told of such an event in the last ten minutes."""
    return Sign("host.kernel_event_seen", 0.5, labels=(("event", event),), alone=weight, said=said)


def weigh(look: Look, case: Case, entity: Entity, signs: Sequence[Sign]) -> None:
    """Add what the signs of one entity say, the strongest few; sets the facts of the first."""
    found: list[tuple[float, Case]] = []
    of = {sign: look.find(sign.metric, entity, **dict(sign.labels)) for sign in signs}
    look.measure_all([s for some in of.values() for s in some])  # one read of history for all
    for sign in signs:
        best: tuple[float, Case] | None = None
        for series in of[sign]:
            one = Case(case.kind, entity, 0.0)
            stated = _stated(look, sign, series)
            m = look.measure_all([series])[0]
            value = look.world.get(series)
            if sign.alone and value is not None and _beyond(value, sign):
                m = m or Measured(series, value, math.nan, 1.0, 0, None, look.trusted(series))
                one.add(sign.alone, _words(sign, m, value), m)
            elif stated is not None:
                text = f"{sign.what} is {say(stated.value, SIGNALS[sign.metric].unit)}"
                road = stated.road == "objective" or stated.ahead is not None
                # with no past yet there still is something to draw
                m = m or Measured(
                    series, stated.value, math.nan, 1.0, 0, stated.onset, look.trusted(series)
                )
                tail = " (beyond its objective)" if road else " (out of its band)"
                if stated.ahead is not None:
                    limit = stated.high if stated.direction > 0 else stated.low
                    text = f"{SIGNALS[sign.metric].help.partition(' (')[0]} is "
                    text += say(stated.value, SIGNALS[sign.metric].unit)
                    tail = f" and on its way to {say(limit, SIGNALS[sign.metric].unit)}"
                one.add("stated" if road else "out of its band", text + tail, m)
            elif m is not None and _moved(m, sign):
                share = min(1.0, abs(m.deviations) / _FULL_AT)
                one.add("measured", f"{sign.what} is {numbers(m)}", m, share)
            if one.evidence and (best is None or one.logit > best[0]):
                one.facts = dict(series.labels)
                best = one.logit, one
        if best is not None:
            found.append(best)
    for _, one in sorted(found, key=lambda f: -f[0])[:_MOST]:
        case.logit += one.logit
        case.evidence += one.evidence
        case.facts = case.facts or one.facts


def _stated(look: Look, sign: Sign, series: object) -> Anomaly | None:
    going = [
        a for a in look.incident.anomalies
        if a.series == series and a.end is None and not math.isnan(a.value)
    ]  # fmt: skip
    ours = [a for a in going if a.direction == sign.side or SIGNALS[sign.metric].unit == "bool"]
    return max(ours, key=lambda a: a.road == "objective", default=None)


def _beyond(value: float, sign: Sign) -> bool:
    return value > sign.least if sign.side > 0 else value < sign.least


def _moved(m: Measured, sign: Sign) -> bool:
    if sign.side * m.deviations < _MOVED:
        return False
    return math.isnan(sign.least) or _beyond(m.now, sign)


def _words(sign: Sign, m: Measured, value: float) -> str:
    if SIGNALS[sign.metric].unit == "bool" or math.isnan(m.usual):
        inner = ", ".join(v for k, v in m.series.labels if k != "event")  # that is in `said`
        unit = SIGNALS[sign.metric].unit
        number = "" if unit == "bool" else f" ({say(value, unit)})"
        return sign.what + (f" ({inner})" if inner and unit == "bool" else "") + number
    return f"{sign.what} ({numbers(m)})" if sign.alone else f"{sign.what} is {numbers(m)}"
