"""Whether an act helped: the verdict from what was expected and from samples before and after. Pure.

    helped        everything that was expected held, and a symptom is better than right before the act
    harmed        a symptom, or what users feel, is worse than before: by more than 3 robust deviations, by more than
                  3 standard errors of the comparison *and* by more than a practical size, and outside its objective
                  where it has one. Harm outweighs everything
    no_effect     what was expected did not come, and nothing is worse
    cannot_tell   values are missing or too few, or things were already getting better when we acted

**Regression to the mean.** We act when things are at their worst, so most of what follows is better whatever was done.
Therefore *before* is not the worst moment but the time from the onset to the act, *helped* asks that the end of that
time (its last third) was still as bad, and better than that afterwards by a robust deviation. A trouble that passed
before we acted is *cannot_tell*. A forecast conditional on the excursion would be a better comparison and can take the
place of `control` here; untreated peers with the same symptom already can: their change is subtracted.

**Scale.** Robust deviation = 1.4826 median absolute deviation of the larger of the ordinary past and the time before,
at least the catalogue's floor; a nearly constant series would else make every change look enormous.
Shapes: samples are (k,) float64 in base units, NaN skipped. Cost: microseconds a symptom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np

from agent.catalogue import SIGNALS
from agent.expr import parse
from agent.model import FloatArray, Incident, Outcome, Series, Verdict
from agent.objectives import Limit
from agent.units import say

if TYPE_CHECKING:
    from agent.scene import Reader

MIN_ROWS: Final = 3
"""Fewer samples than this on either side prove nothing."""
HARM_DEVIATIONS: Final = 3.0
BETTER_DEVIATIONS: Final = 1.0
HARM_ERRORS: Final = 3.0
"""Standard errors: noise that came with the act, or that peers have, is no harm by itself."""
_MAD_TO_SD: Final = 1.4826
"""Standard deviation of a normal distribution per median absolute deviation."""
_PRACTICAL_SHARE: Final = 0.1
"""A tenth of what it was before is the least that people would call worse."""


def _none() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Symptom:
    """One series on both sides of the act.

    before    from the onset of the trouble to the act; after: since the act had time to work
    better    which end is good; "" = neither: it is told, but judges nothing
    floor     smallest change that can matter, in base units
    usual     before the trouble: gives the scale
    control   (before, after) of untreated peers with the same symptom, or of a forecast: their change is subtracted
    low, high the objective it must stay within, None = open
    """

    name: str
    before: FloatArray
    after: FloatArray
    better: Literal["", "low", "high"] = ""
    floor: float = 0.0
    unit: str = ""
    usual: FloatArray = field(default_factory=_none)
    control: tuple[FloatArray, FloatArray] | None = None
    low: float | None = None
    high: float | None = None
    proves: bool = True
    """Whether it can show that the act helped: what was expected, or was broken. The rest can only show harm."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of one symptom, in its units and in robust deviations.

    change       after - before (less the change of the control); last_change: after - the last third before
    worse        deviations towards the bad end; negative = better. last_worse: the same from the last third
    error        standard error of `change`, from all sides that were compared, in units
    inside       whether `after` keeps the objective; None = it has none
    """

    name: str
    unit: str
    before: float
    after: float
    change: float
    worse: float
    last_worse: float
    size: float
    error: float
    scale: float
    floor: float
    inside: bool | None
    rows: tuple[int, int]
    controlled: bool
    proves: bool = True

    @property
    def harmed(self) -> bool:
        """Worse by deviations, beyond doubt and by a practical size, and not within a stated objective."""
        practical = max(
            2 * self.floor, _PRACTICAL_SHARE * abs(self.before), HARM_ERRORS * self.error
        )
        return self.worse > HARM_DEVIATIONS and self.size > practical and self.inside is not True

    @property
    def helped(self) -> bool:
        """Better than it was right before the act, by more than its own noise."""
        return self.last_worse < -BETTER_DEVIATIONS and self.worse < 0

    def __str__(self) -> str:
        return (
            f"{self.name} {say(self.before, self.unit)} before, {say(self.after, self.unit)} after"
        )


def compare(symptom: Symptom, min_rows: int = MIN_ROWS) -> Comparison | None:
    """Compare both sides of one symptom; None when either has too few known samples."""
    before, after = _known(symptom.before), _known(symptom.after)
    if min(len(before), len(after)) < min_rows:
        return None
    end = before[-max(min_rows, len(before) // 3) :]
    sign = {"low": 1.0, "high": -1.0, "": 0.0}[symptom.better]
    drift = 0.0
    controlled = False
    sides = [before, after]
    if symptom.control is not None:
        there = [_known(side) for side in symptom.control]
        controlled = min(map(len, there)) >= min_rows
        if controlled:
            drift = float(np.median(there[1]) - np.median(there[0]))
            sides += there
    spread = max(_deviation(before), _deviation(_known(symptom.usual)))
    scale = max(spread, symptom.floor, 1e-12)
    was, now = float(np.median(before)), float(np.median(after))
    change = now - was - drift
    inside = None
    if symptom.low is not None or symptom.high is not None:
        inside = (symptom.low is None or now >= symptom.low) and (
            symptom.high is None or now <= symptom.high
        )
    return Comparison(
        symptom.name, symptom.unit, was, now, change, sign * change / scale,
        sign * (now - drift - float(np.median(end))) / scale, sign * change, _error(sides),
        scale, symptom.floor,
        inside, (len(before), len(after)), controlled, symptom.proves,
    )  # fmt: skip


def judge(
    symptoms: Sequence[Symptom], expected_ok: bool | None, *, min_rows: int = MIN_ROWS
) -> Outcome:
    """Return the verdict with its numbers.

    expected_ok   whether all that was expected held for the window: True, False, None = unknown
    """
    found = [c for c in (compare(s, min_rows) for s in symptoms) if c is not None]
    harmed = [c for c in found if c.harmed]
    helped = [c for c in found if c.helped and c.proves]
    against = "peers" if any(c.controlled for c in found) else "before"
    verdict: Verdict
    if harmed:
        worst = max(harmed, key=lambda c: c.worse)
        verdict, summary = "harmed", f"worse: {worst}"
    elif expected_ok is False:
        verdict = "no_effect"
        summary = "what was expected did not come" + (f": {_closest(found)}" if found else "")
    elif expected_ok is None:
        verdict, summary = "cannot_tell", "what was expected can not be seen: values are missing"
    elif not found:
        missing = ", ".join(s.name for s in symptoms[:3]) or "no symptom"
        verdict, summary = "cannot_tell", f"too few values to compare with before ({missing})"
    elif not helped:
        verdict = "cannot_tell"
        summary = f"all is well, but it was no worse right before the act: {_closest(found)}"
    else:
        best = min(helped, key=lambda c: c.last_worse)
        verdict, summary = "helped", f"better: {best}"
    return Outcome(verdict, summary, against if found else "", _numbers(found, expected_ok))


def _closest(found: Sequence[Comparison]) -> str:
    """Say the symptom that moved most, of those that it was about."""
    return str(max(found, key=lambda c: (c.proves, abs(c.worse))))


def _numbers(found: Sequence[Comparison], expected_ok: bool | None) -> dict[str, float]:
    """Return every number that the verdict rests on; finite all of them, for JSON."""
    out = {
        "expected_ok": {True: 1.0, False: 0.0, None: -1.0}[expected_ok],
        "compared": float(len(found)),
    }
    for c in found:
        out |= {
            f"{c.name}.before": c.before, f"{c.name}.after": c.after, f"{c.name}.worse_deviations": c.worse,
            f"{c.name}.worse_than_last_deviations": c.last_worse, f"{c.name}.scale": c.scale,
            f"{c.name}.rows_before": float(c.rows[0]), f"{c.name}.rows_after": float(c.rows[1]),
        }  # fmt: skip
    return {name: value for name, value in out.items() if np.isfinite(value)}


def _known(samples: FloatArray) -> FloatArray:
    flat: FloatArray = np.asarray(samples, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def _deviation(samples: FloatArray) -> float:
    """Return the robust deviation; a MAD of zero (most values the same) falls back to the mean deviation."""
    if len(samples) < 2:
        return 0.0
    off = np.abs(samples - np.median(samples))
    mad = float(np.median(off))
    # 1.2533 = sqrt(pi / 2): standard deviation of a normal distribution per mean absolute deviation
    return _MAD_TO_SD * mad if mad > 0 else 1.2533 * float(np.mean(off))


def _error(sides: Sequence[FloatArray]) -> float:
    """Return the standard error of a sum of medians; that of a median is 1.2533 deviations / sqrt(n)."""
    return float(np.sqrt(sum((1.2533 * _deviation(side)) ** 2 / len(side) for side in sides)))


# ---------------------------------------------------------------- what to compare


class _Sees(Protocol):
    def series(self, metric: str) -> list[Series]: ...


def symptoms_of(
    scene: _Sees,
    incident: Incident,
    expect: Sequence[str],
    read: Reader,
    *,
    acted: float,
    settled: float,
    now: float,
    window: float = 300.0,
    baseline: float = 3600.0,
    stated: Sequence[Limit] = (),
) -> list[Symptom]:
    """Read from history what a verdict rests on.

    These are the series that `expect` names, those whose objectives were broken, and all around the target that
    users feel (`harm` in the catalogue).

    acted, settled, now   when it acted; from when its effect counts; the end
    window     how much of the time before the act is looked at, at most: from the onset on
    stated     all objectives. What users feel is judged by the signal that has one: where the 95th percentile of the
               latency has a limit, a median that moves inside of it is no harm
    baseline   how much ordinary past before the onset gives the scale
    Cost: one read of history for each of the three spans.
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
    onset = min(stated_onsets, default=min(incident.opened, acted))
    start = max(min(onset, acted), acted - window)
    spans = ((start, acted), (settled, now), (onset - baseline, onset))
    before, after, usual = (read(series, a, b)[1] for a, b in spans)
    return [
        replace(
            _symptom(one, before[:, j], after[:, j], usual[:, j], limits.get(one)),
            proves=one in broken or one.metric in names,
        )
        for j, one in enumerate(series)
    ]


def _sense(metric: str) -> str:
    """Say what people feel by a signal: quantiles of latency, and estimates of accuracy, are one sense each."""
    return next((sense for sense in ("latency", "accuracy") if sense in metric), metric)


def _symptom(
    series: Series,
    before: FloatArray,
    after: FloatArray,
    usual: FloatArray,
    limit: tuple[float, float] | None,
) -> Symptom:
    definition = SIGNALS[series.metric]
    low, high = limit if limit is not None else (np.nan, np.nan)
    return Symptom(
        str(series), before, after, definition.better, definition.floor, definition.unit, usual,
        low=float(low) if np.isfinite(low) else None, high=float(high) if np.isfinite(high) else None,
    )  # fmt: skip
