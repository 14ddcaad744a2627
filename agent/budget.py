"""The alarm budget: from "false pages a week" to every limit of the detectors, and how it is kept.

    false pages a week (a person says it)
      |  only harm pages, so nothing is derived here: pages are counted, and people label them
      v
    console notes a day       = pages a week / 2: 3.5 notes for each page, as a note may wait and wakes nobody.
      |  shared over groups (a host, a service with its replicas, a model with its versions and features): one of
      |  users or models gets twice the share of a machine.  ->  p of a group's row
      v
    anomalies a series and day = pages a week / 20, within 0.01 .. 1. One series abnormal opens nothing, it is
      |  evidence; so this does not shrink with the number of series.
      |  x weight    3 where the catalogue says `harm`, 2 for services and models, 1 for machines; over their mean
      |  x labels    "noise" asks a signal to be 3 times rarer, "real" takes that back and gives as much; at most 27
      |              times rarer and 3 times more common; half of it is forgotten in two weeks
      |  x tightness 1 .. 1/10, from the measured rate: see `Ledger.adjust`
      v
    p of a series' row        = anomalies a series and day x seconds between rows / 86,400

With 2 false pages a week: 1 note a day, 0.1 anomalies a series and day. The factors are bounded, so no signal is ever
silenced for good; objectives have no p and are touched by none of this. The weights share the budget out anew, they
do not make it larger: their mean is 1 over all series of the installation.

Pure: times come in with the rows. Cost: a few additions a row of a source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from agent.catalogue import SIGNALS
from agent.config import Budget
from agent.errors import Refused
from agent.intervals import poisson
from agent.model import Entity, FloatArray, Series

DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
LOOK_BACK_DAYS: Final = 28
"""What was measured is said over at most so long."""
_LEAST_WATCHED_S: Final = DAY_S
"""Before that a rate a week or a day is unknown."""
_UNUSED: Final = 0.25
_ENOUGH_DUE: Final = 4.0
"""With fewer promised so far, none at all would be no news."""
_LONGEST_TICK_S: Final = 60.0
"""Between two rows more than this was not watched."""
_USERS: Final = frozenset({"service", "replica", "model", "version", "feature", "dependency"})

_LABEL_STEP: Final = 3.0
_LABEL_HALF_LIFE_S: Final = 14 * DAY_S
_LEAST_LABEL, _MOST_LABEL = -1.0, 3.0
"""Bounds of what labels say, in steps."""
_FORGOTTEN: Final = 0.05
"""Less than this of a step is nothing any more."""

_TIGHTEST: Final = 0.1
_LOOK_S: Final = 3600.0
_SURE: Final = 4.0
"""Deviations of a Poisson count that are clearly more than promised: one in 30,000, as it is looked at every hour."""
_LEAST_SEEN: Final = 5
_CHUNK: Final = 20.0
"""Promised anomalies after which a stretch without too many loosens."""
_ONE_TROUBLE_S: Final = 60.0
"""Anomalies of one source so soon after each other have one cause: the controller counts them once."""

Word = Literal["noise", "real"]


class Labelled(Protocol):
    """What the budget must know of a label (`agent.memory.Label`)."""

    @property
    def word(self) -> Word:
        """What a person said."""
        ...

    @property
    def ts(self) -> float:
        """When."""
        ...

    @property
    def signals(self) -> tuple[str, ...]:
        """What it is about, as `signal_of` names it."""
        ...


# ---------------------------------------------------------------- what is promised


@dataclass(frozen=True, slots=True)
class Promise:
    """What follows from the number that a person states."""

    pages_per_week: float
    notes_per_day: float
    anomalies_per_series_day: float

    @staticmethod
    def of(budget: Budget) -> Promise:
        """Derive; see the top of this file."""
        pages = budget.false_pages_per_week
        notes = budget.console_notes_per_day
        return Promise(
            pages, pages / 2.0 if notes is None else notes, min(max(pages / 20.0, 0.01), 1.0)
        )


def weight(series: Series) -> float:
    """Return how much of the budget a series gets against one of a machine."""
    if SIGNALS[series.metric].harm:
        return 3.0
    return 2.0 if series.entity.kind in _USERS else 1.0


def bundle(entity: Entity) -> tuple[str, float]:
    """Return the group that an entity is judged with, and the group's weight: a service, a model, else the machine."""
    match entity.kind:
        case "service" | "replica":
            return f"service:{entity.key.partition('/')[0]}", 2.0
        case "model" | "version" | "feature":
            return f"model:{entity.key.partition('/')[0]}", 2.0
        case "dependency":
            return entity.id, 2.0
        case _:
            return "machine", 1.0


def signal_of(series: Series) -> str:
    """Name what a label is about: the series; for processes, whose ids do not last, the metric on all of them."""
    return series.metric if series.entity.kind == "process" else str(series)


# ---------------------------------------------------------------- what labels say


def steps_of(labels: Iterable[Labelled], now: float) -> dict[str, float]:
    """Return signal -> steps by which it must be rarer (negative: may be more common) at `now`."""
    out: dict[str, tuple[float, float]] = {}
    for label in sorted(labels, key=lambda one: one.ts):
        for signal in label.signals:
            steps, since = out.get(signal, (0.0, label.ts))
            steps = _faded(steps, label.ts - since) + (1.0 if label.word == "noise" else -1.0)
            out[signal] = min(max(steps, _LEAST_LABEL), _MOST_LABEL), label.ts
    faded = {signal: _faded(steps, now - since) for signal, (steps, since) in out.items()}
    return {signal: steps for signal, steps in faded.items() if abs(steps) >= _FORGOTTEN}


def _faded(steps: float, age_s: float) -> float:
    return steps * math.pow(0.5, max(age_s, 0.0) / _LABEL_HALF_LIFE_S)


def factor_of(steps: float) -> float:
    """Return what a p must be multiplied by."""
    return math.pow(_LABEL_STEP, -steps)


# ---------------------------------------------------------------- what was measured

Verdict = Literal["within", "above", "unknown"]


@dataclass(frozen=True, slots=True)
class Rate:
    """A promised rate and the measured one, both in events per `unit_s`.

    low, high   95 % Poisson bounds: low by what is surely false, high by all that may be; NaN = too little time
    verdict     within: not even `high` breaks the promise; above: even `low` does; unknown: it can not be told yet
    unused      at most a quarter of what was promised can have been false: the budget could be spent on seeing more
    """

    promised: float
    sure: float
    perhaps: float
    low: float
    high: float
    watched_s: float
    unit_s: float
    verdict: Verdict
    unused: bool = False


def rate(promised: float, sure: int, perhaps: int, watched_s: float, unit_s: float) -> Rate:
    """Measure: `sure` events were false, at most `perhaps` were, in `watched_s` seconds under watch."""
    if watched_s < _LEAST_WATCHED_S:
        nan = math.nan
        return Rate(promised, nan, nan, nan, nan, watched_s, unit_s, "unknown")
    per = unit_s / watched_s
    low, high = poisson(sure)[0] * per, poisson(perhaps)[1] * per
    verdict: Verdict = "above" if low > promised else "within" if high <= promised else "unknown"
    due = promised / per
    unused = due >= _ENOUGH_DUE and perhaps < due * _UNUSED
    return Rate(promised, sure * per, perhaps * per, low, high, watched_s, unit_s, verdict, unused)


@dataclass(slots=True)
class Day:
    """What one day under watch brought. due: anomalies that were promised in it."""

    watched_s: float = 0.0
    due: float = 0.0
    anomalies: int = 0
    notes: int = 0


@dataclass(slots=True)
class Ledger:
    """Who has a seat at the budget, what was spent, and how tight it is: one for all sources of a monitor.

    version   changes when labels have changed what a signal is worth
    """

    promise: Promise = field(default_factory=lambda: Promise.of(Budget()))
    tightness: float = 1.0
    days: dict[int, Day] = field(default_factory=dict)
    version: int = 0
    steps: dict[str, float] = field(default_factory=dict)
    _seats: dict[str, tuple[float, int, float]] = field(default_factory=dict)
    _mean_weight: float = 1.0
    _group_weights: float = 1.0
    _heard: tuple[int, float] = (0, -math.inf)
    _last: float = -math.inf
    _onset: dict[str, float] = field(default_factory=dict)
    _seen: float = 0.0
    _due: float = 0.0
    _looked: float = -math.inf

    # ---- sharing out

    def seat(self, source: str, weights: FloatArray, groups: FloatArray) -> None:
        """Give the series (n,) and groups (g,) of a source their shares."""
        self._seats[source] = float(weights.sum()), len(weights), float(groups.sum())
        total = sum(w for w, _, _ in self._seats.values())
        series = sum(n for _, n, _ in self._seats.values())
        self._mean_weight = total / series if series else 1.0
        self._group_weights = max(sum(g for _, _, g in self._seats.values()), 1.0)

    @property
    def series_rate(self) -> float:
        """Anomalies a day that a series of weight 1 may have."""
        return self.promise.anomalies_per_series_day * self.tightness / self._mean_weight

    @property
    def group_rate(self) -> float:
        """Notes a day that a group of weight 1 may have."""
        return self.promise.notes_per_day / self._group_weights

    # ---- labels

    def heed(self, labels: Iterable[Labelled], newest: int, now: float) -> None:
        """Take what people said; `newest` tells whether there is news. They fade, so it is worked out every hour."""
        if self._heard[0] == newest and 0 <= now - self._heard[1] < _LOOK_S:
            return
        self._heard = (newest, now)
        steps = steps_of(labels, now)
        if steps != self.steps:
            self.steps = steps
            self.version += 1

    def factors(self, series: Sequence[Series]) -> FloatArray:
        """Return what labels say of each series (n,): below 1 = it must be rarer."""
        if not self.steps:
            return np.ones(len(series))
        return np.array([factor_of(self.steps.get(signal_of(s), 0.0)) for s in series])

    # ---- counting

    def count(self, source: str, ts: float, series_days: float, anomalies: int) -> None:
        """Count a row of a source: what it watched, and what began in it."""
        day = self._day(ts)
        if ts > self._last:
            day.watched_s += min(ts - self._last, _LONGEST_TICK_S) if self._last > 0 else 0.0
            self._last = ts
        due = series_days * self.promise.anomalies_per_series_day
        day.due += due
        self._due += due
        if anomalies:
            day.anomalies += anomalies
            if ts - self._onset.get(source, -math.inf) > _ONE_TROUBLE_S:
                self._seen += 1
            self._onset[source] = ts
        if not 0 <= ts - self._looked < _LOOK_S:
            self._looked = ts
            self.adjust()

    def note(self, ts: float) -> None:
        """Count a note that the console was given: an incident, however often its group came and went in it."""
        self._day(ts).notes += 1

    def _day(self, ts: float) -> Day:
        number = int(ts // DAY_S)
        day = self.days.get(number)
        if day is None:
            day = self.days[number] = Day()
            for old in [n for n in self.days if not 0 <= number - n < LOOK_BACK_DAYS]:
                del self.days[old]
        return day

    def adjust(self) -> None:
        """Tighten by half when clearly more began than was promised; loosen by a quarter when not.

        Each step needs evidence of its own: what was counted is used up by it. Real trouble must not tighten much, so
        what begins within a minute counts once, and 1/10 is the end.
        """
        if self._seen >= _LEAST_SEEN and poisson(self._seen, _SURE)[0] > self._due:
            self.tightness = max(self.tightness / 2.0, _TIGHTEST)
        elif self._due >= _CHUNK:
            if self._seen <= self._due:
                self.tightness = min(self.tightness * 1.25, 1.0)
        else:
            return
        self._seen = self._due = 0.0

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set; days stay where they were written."""
        self._last += jump
        self._looked += jump
        self._heard = (self._heard[0], self._heard[1] + jump)
        self._onset = {source: ts + jump for source, ts in self._onset.items()}

    # ---- telling

    @property
    def watched_s(self) -> float:
        """Seconds under watch in the days that are kept."""
        return sum(day.watched_s for day in self.days.values())

    @property
    def since(self) -> float:
        """Begin of the first day that is kept; infinite when there is none."""
        return min(self.days, default=math.inf) * DAY_S

    def pages(self, noise: int, real: int, paged: int) -> Rate:
        """Measure pages: labelled noise is surely false, all that was not labelled real may be."""
        return rate(self.promise.pages_per_week, noise, paged - real, self.watched_s, WEEK_S)

    def notes(self, noise: int, real: int) -> Rate:
        """Measure console notes a day, as pages."""
        perhaps = max(sum(day.notes for day in self.days.values()) - real, noise)
        return rate(self.promise.notes_per_day, noise, perhaps, self.watched_s, DAY_S)

    def anomalies(self) -> Rate:
        """Measure anomalies of single series a day: all that began, true ones among them."""
        watched = self.watched_s
        n = sum(day.anomalies for day in self.days.values())
        due = sum(day.due for day in self.days.values())
        return rate(due * DAY_S / watched if due else math.nan, n, n, watched, DAY_S)

    # ---- restarts

    def dump(self) -> bytes:
        """Return what was counted, for the next start; labels are in the journal."""
        days = {str(n): [d.watched_s, d.due, d.anomalies, d.notes] for n, d in self.days.items()}
        said: dict[str, Any] = {"version": 1, "tightness": self.tightness, "days": days}
        return json.dumps({**said, "seen": self._seen, "due": self._due}).encode()

    def load(self, state: bytes) -> None:
        """Go on where `dump` stopped; raises Refused when it is damaged, and then nothing is taken."""
        try:
            said = json.loads(state)
            if said["version"] != 1:
                raise Refused("the measured alarm budget is of another version: it is counted anew")
            days = {
                int(n): Day(float(w), float(due), int(anomalies), int(notes))
                for n, (w, due, anomalies, notes) in said["days"].items()
            }
            tightness, seen, due = (float(said[k]) for k in ("tightness", "seen", "due"))
        except (ValueError, KeyError, TypeError, AttributeError) as damage:
            raise Refused(
                f"the measured alarm budget is damaged ({damage}): it is counted anew"
            ) from None
        self.days, self._seen, self._due = days, seen, due
        self.tightness = min(max(tightness, _TIGHTEST), 1.0)
