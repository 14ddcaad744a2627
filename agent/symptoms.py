"""What a verdict rests on: the series around a target, their rows on both sides of an act, and their controls.

scene, incident, history -> symptoms_of -> Symptom, ... -> agent.verify.judge
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from agent.catalogue import SIGNALS
from agent.expr import parse
from agent.model import Entity, FloatArray, Incident, IntArray, Series
from agent.objectives import Limit
from agent.verify import MIN_ROWS, Symptom, known, spread

if TYPE_CHECKING:
    from agent.scene import Reader

LEAST_PEERS: Final = 2
_MOST_STEPS: Final = 20_000
_WINDOW_ROWS: Final = 60
_BACK: Final = frozenset({"relapsed", "reopened"})
"""Turns by which what was well is not."""


class _Sees(Protocol):
    def series(self, metric: str) -> list[Series]: ...


def _nobody(_: Entity) -> Sequence[Entity]:
    return ()


def _unknown(_: Series) -> Iterable[float]:
    return ()


def _never(_: Entity) -> Iterable[tuple[float, float]]:
    return ()


def symptoms_of(
    scene: _Sees,
    incident: Incident,
    expect: Sequence[str],
    read: Reader,
    *,
    acted: float,
    settled: float,
    now: float,
    done: float | None = None,
    window: float = 300.0,
    baseline: float = 3600.0,
    stated: Sequence[Limit] = (),
    untreated: Callable[[Entity], Sequence[Entity]] = _nobody,
    past: Callable[[Series], Iterable[float]] = _unknown,
    spoilt: Callable[[Entity], Iterable[tuple[float, float]]] = _never,
    acts: Sequence[tuple[float, float]] = (),
) -> list[Symptom]:
    """Read from history what a verdict rests on.

    These are the series that `expect` names, those whose objectives were broken, and all around the target that
    users feel (`harm` in the catalogue).

    acted, settled, now   when it acted; from when its effect counts; the end
    done       when the act was at its end; None = at once
    window     how much of the time before the act is looked at, at most, or 60 rows: since the trouble stands so
    stated     all objectives. What users feel is judged by the signal that has one: where the 95th percentile of the
               latency has a limit, a median that moves inside of it is no harm
    baseline   how much ordinary past before the onset gives the scale, and how the series moves
    untreated  equals of an entity that nobody acted on
    past       seconds for which troubles of a series lasted that nobody treated
    spoilt     when an entity was in other troubles, that were treated: no ordinary past
    acts       from when to when earlier acts on the target stood, inf = they still do: what they healed or broke is no
               time before this one
    Cost: one read of history.
    """
    names = {n.removeprefix("baseline.") for text in expect for n in parse(text).names}
    felt = {name for name, definition in SIGNALS.items() if definition.harm}
    found = {
        s: None for metric in sorted((names | felt) & SIGNALS.keys()) for s in scene.series(metric)
    }
    limits = {s: (x.low, x.high) for s in found for x in stated if x.over(s)}
    broken = {a.series: (a.low, a.high) for a in incident.anomalies if a.road == "objective"}
    limits |= broken
    # our own probe feels less than users do: its limit covers nothing else
    covered = {(s.entity, _sense(s.metric)) for s in limits if ".probe_" not in s.metric}
    series = [
        s
        for s in found | dict.fromkeys(limits)
        if s in limits or s.metric in names or (s.entity, _sense(s.metric)) not in covered
    ]
    if not series:
        return []
    # evidence may be older than the trouble: what a detector noticed first is not yet what hurt
    stated_onsets = [
        a.onset for a in incident.anomalies if a.road == "objective" and a.onset <= acted
    ]
    onset = min(min(stated_onsets, default=incident.opened), acted)
    began = _began(incident, stated, onset, acts, acted)
    times = _Times(onset - baseline, onset, began, acted, settled, now, window)
    kin = {s: [replace(s, entity=e) for e in untreated(s.entity)] for s in series}
    columns = list(dict.fromkeys([*series, *(peer for some in kin.values() for peer in some)]))
    ts, rows = read(columns, times.first, times.now)
    at = {
        s: _spared(ts, _spared(ts, rows[:, j], onset, spoilt(s.entity)), acted, acts)
        for j, s in enumerate(columns)
    }
    return [
        replace(
            _symptom(one, steps, [at[k] for k in kin[one]], limits.get(one)),
            acting=0 if done is None else max(0, round((done - acted) / steps.step)),
            proves=one in broken or one.metric in names,
            past=tuple(past(one)),
        )
        for one in series
        for steps in (_Steps(ts, at[one], times),)
    ]


def _began(
    incident: Incident,
    stated: Sequence[Limit],
    onset: float,
    acts: Sequence[tuple[float, float]],
    acted: float,
) -> float:
    """Return since when the trouble is as the act met it: since an earlier act that stands, or since it came back."""
    stands = max((start for start, end in acts if end == math.inf), default=-math.inf)
    if stands <= onset:
        return onset
    for_s = min(
        (x.for_s for a in incident.anomalies for x in stated if x.over(a.series)), default=0.0
    )
    back = (t.ts - for_s for t in incident.turns if t.event in _BACK and stands < t.ts <= acted)
    return min(max([stands, *back]), acted)


def _spared(
    ts: FloatArray, samples: FloatArray, before: float, spoilt: Iterable[tuple[float, float]]
) -> FloatArray:
    """Return samples without those before a moment that lie in spoilt spans; one that has no end spoils nothing."""
    out = samples.copy()
    for since, until in spoilt:
        if until < math.inf:
            out[(ts >= since) & (ts <= until) & (ts < before)] = np.nan
    return out


def _sense(metric: str) -> str:
    """Say what people feel by a signal: quantiles of latency, and estimates of accuracy, are one sense each."""
    return next((sense for sense in ("latency", "accuracy") if sense in metric), metric)


@dataclass(frozen=True, slots=True)
class _Times:
    """The moments between which a verdict looks, in their order."""

    first: float
    onset: float
    began: float
    acted: float
    settled: float
    now: float
    window: float


class _Steps:
    """Puts the rows of a series into equal steps: rows of other sources are no gaps of it, its own gaps are.

    sides   usual, before, between, after; each from its first known row to its last
    stood   steps from when the trouble began to stand as the act met it, to the act
    """

    def __init__(self, ts: FloatArray, own: FloatArray, times: _Times) -> None:
        there = np.isfinite(own)
        at = ts[there]
        steps = np.diff(at)
        steps = steps[steps > 0]
        # a clock that stutters must not make a million steps
        least = max((times.now - times.first) / _MOST_STEPS, 1e-3)
        self.step = max(float(np.median(steps)), least) if len(steps) else 1.0
        start = float(at[0]) if len(at) else times.first
        self._cells = np.rint((ts - start) / self.step).astype(np.int64)
        self.stood = max(0, round((times.acted - max(times.began, start)) / self.step))
        window = max(times.window, _WINDOW_ROWS * self.step)
        since = max(times.began, times.acted - window)
        spans = (
            there & (ts < times.onset), there & (ts >= since) & (ts <= times.acted),
            there & (ts > times.acted) & (ts >= times.settled),
        )  # fmt: skip
        usual, before, after = (_range(self._cells[span]) for span in spans)
        # the row of the act may share its step with the first one after it
        after = (
            range(max(after.start, before.stop), max(after.stop, before.stop)) if after else after
        )
        between = range(before.stop, after.start) if before and after else range(0)
        self._ranges = (usual, before, between, after)
        self.sides = self.split(own)

    def split(self, samples: FloatArray) -> list[FloatArray]:
        """Return the four sides of a series that came with the same rows."""
        whole = np.full(max(r.stop for r in self._ranges), np.nan)
        good = np.isfinite(samples) & (self._cells >= 0) & (self._cells < len(whole))
        whole[self._cells[good]] = samples[good]
        return [whole[r.start : r.stop] for r in self._ranges]


def _range(cells: IntArray) -> range:
    return range(int(cells[0]), int(cells[-1]) + 1) if len(cells) else range(0)


def _symptom(
    series: Series,
    steps: _Steps,
    peers: Sequence[FloatArray],
    limit: tuple[float, float] | None,
) -> Symptom:
    definition = SIGNALS[series.metric]
    usual, before, between, after = steps.sides
    low, high = limit if limit is not None else (np.nan, np.nan)
    return Symptom(
        str(series), before, after, definition.better, definition.floor, definition.unit, usual,
        _control(steps, [steps.split(p) for p in peers], definition.floor),
        low=float(low) if np.isfinite(low) else None, high=float(high) if np.isfinite(high) else None,
        between=between, step=steps.step, stood=steps.stood,
    )  # fmt: skip


def _control(
    steps: _Steps, peers: Sequence[Sequence[FloatArray]], floor: float
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Return the mean of the peers that moved as the target did before the act; None when they are too few."""
    own = _shift(steps.sides[0], steps.sides[1])
    scale = max(spread(known(steps.sides[0])), floor)
    near = max(abs(own) / 2, scale)
    alike = [p for p in peers if abs(_shift(p[0], p[1]) - own) <= near]  # never for NaN
    if len(alike) < LEAST_PEERS:
        return None
    usual, before, after = (_mean([p[side] for p in alike]) for side in (0, 1, 3))
    return usual, before, after


def _shift(usual: FloatArray, before: FloatArray) -> float:
    ordinary, now = known(usual), known(before)
    if min(len(ordinary), len(now)) < MIN_ROWS:
        return math.nan
    return float(np.median(now) - np.median(ordinary))


def _mean(sides: Sequence[FloatArray]) -> FloatArray:
    """Return the mean of what is known in each row; NaN where nothing is."""
    table = np.vstack(sides)
    there = np.isfinite(table)
    count = there.sum(axis=0)
    total: FloatArray = np.where(there, table, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
