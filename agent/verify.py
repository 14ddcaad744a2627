"""Whether an act helped: the verdict from what was expected and from samples before and after. Pure.

    helped        everything that was expected held, and a symptom is better than it would have been without the act
    harmed        a symptom, or what users feel, is worse than before and than it would have been, by 1.25 robust
                  deviations and by a practical size, and outside its objective where it has one. Harm outweighs all
    no_effect     what was expected did not come, and nothing is worse
    cannot_tell   values are missing or too few, or it may have become better by itself

**What would have been.** We act when things are at their worst, so most of what follows is better whatever was done.
The roads, the first that is informative:

    peers      untreated, with the same symptom: their mean is subtracted row by row, and what is left must have
               changed at the act (difference in differences, with the errors of autocorrelated noise)
    forecast   conditional on the excursion: neither "it fades as excursions of this series do" nor "it stays as it
               is" nor "it goes on getting better as before" explains what followed (`agent.counterfactual`); and
               troubles like it were not about to end by themselves
    past       too few rows for a forecast: how long untreated troubles of the past lasted, against how soon this one
               ended after the act

A trouble that stood for only a few rows before the act proves nothing, unless it was far out or there are peers.

**Scale.** Robust deviation = 1.4826 median absolute deviation of the larger of the ordinary past and the time before,
at least the catalogue's floor; a nearly constant series would else make every change look enormous.
Shapes: samples are (k,) float64 in base units, NaN = missing. Cost: 5 ms for a symptom that changed, else microseconds.
Measured: `make bench-verify`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from agent.counterfactual import Evidence, ends_by_itself, episodes, weigh
from agent.model import FloatArray, Outcome, Verdict
from agent.units import say

MIN_ROWS: Final = 3
"""Fewer samples than this on either side prove nothing."""
STOOD_ROWS: Final = 6
"""A trouble that stood for fewer rows than this before the act may have been any passing one."""
FAR_OUT: Final = 5.0
"""So many ordinary deviations from the usual level, fewer rows (`MIN_ROWS`) are enough: noise does not get there."""
FORECAST_ROWS: Final = 20
"""Ordinary rows without which, and with a short time before, no forecast is made."""
HARM_DEVIATIONS: Final = 1.25
BETTER_DEVIATIONS: Final = 0.75
LIKELY: Final = 5.0
"""Twice the log likelihood ratio that is believed, of one symptom: twelve times as likely as the other story."""
HARM_LIKELY: Final = 4.0
"""The same for harm, seven times: to put back what did no harm costs less than to leave what did."""
PACE_LIKELY: Final = 12.0
"""The same for its getting better before the act: slow noise looks like a pace for a while."""
PEERS_LIKELY: Final = (7.0, 4.5)
"""The same against peers, which leave only one story to be refuted: at a look on the way, and at the last one.

Whoever looks twenty times finds by chance what one look does not show, and mostly in the first few rows. So looks on
the way must be surer, and the last one, which has seen all rows, need not pay for them (as with the bounds of O'Brien
and Fleming 1979, doi:10.2307/2530245).
"""
HARM_PEERS_LAST: Final = 3.0
"""The same for harm against peers at the last look; before that it must be found three times in a row."""
HARM_ERRORS: Final = 3.0
"""Standard errors: noise that came with the act, or that peers have, is no harm by itself."""
SELF_ENDING: Final = 0.1
"""More probable than this, by what untreated ones did, that it would have ended by itself: no merit of the act."""
SELF_ENDING_UNKNOWN: Final = 0.8
"""The same where no past trouble is known that lasted so long: it must have stood a quarter of what it took to end."""
PAST_ALONE: Final = (0.05, 3)
"""Where durations are all there is: how improbable an end by itself must be, and how many past ones must say so."""
_MAD_TO_SD: Final = 1.4826
"""Standard deviation of a normal distribution per median absolute deviation."""
_PRACTICAL_SHARE: Final = 0.1
"""A tenth of what it was before is the least that people would call worse."""
_FAR: Final = 1000.0
_SPIKE: Final = 4.0
"""Single rows further than this from the middle of their side, in its deviations, are taken as so far."""

Road = Literal["peers", "forecast", "past"]


def _none() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Symptom:
    """One series on both sides of the act, in equal steps.

    before    from the onset of the trouble to the act; after: since the act had time to work
    between   the rows between these two
    better    which end is good; "" = neither: it is told, but judges nothing
    floor     smallest change that can matter, in base units
    usual     before the trouble: gives the scale, and how the series moves
    control   (usual, before, after) mean of untreated peers with the same symptom, row by row with its own
    past      seconds for which untreated troubles of it lasted; step: seconds a row
    stood     rows from the onset to the act, where `before` does not show all of them
    acting    rows from the act to its end: a training takes its time, and what is still bad then has stood so long, too
    low, high the objective it must stay within, None = open
    """

    name: str
    before: FloatArray
    after: FloatArray
    better: Literal["", "low", "high"] = ""
    floor: float = 0.0
    unit: str = ""
    usual: FloatArray = field(default_factory=_none)
    control: tuple[FloatArray, FloatArray, FloatArray] | None = None
    low: float | None = None
    high: float | None = None
    proves: bool = True
    """Whether it can show that the act helped: what was expected, or was broken. The rest can only show harm."""
    between: FloatArray = field(default_factory=_none)
    past: tuple[float, ...] = ()
    step: float = 1.0
    stood: int = 0
    acting: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of one symptom, in its units and in robust deviations.

    change       after - before (less the change of the control); last_change: after - the last third before
    worse        deviations towards the bad end; negative = better. last_worse: the same from the last third
    error        standard error of `change` as medians of rows that were independent, in units
    inside       whether `after` keeps the objective; None = it has none
    evidence     how likely other stories are; None = it changed too little for any
    ended        probability that such a trouble ends by itself so soon; alike: past ones that say so
    stood        rows that it was so before the act; far: ordinary deviations that it was from its usual level
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
    road: Road
    proves: bool = True
    evidence: Evidence | None = None
    ended: float = 0.0
    alike: int = 0
    stood: int = 0
    far: float = 0.0

    def harmed(self, many: int = 1, *, last: bool = False) -> bool:
        """Worse by deviations, beyond doubt and by a practical size, and not within a stated objective.

        many   symptoms that are looked at: the more, the more moves by chance; last: no later look follows
        """
        practical = max(
            2 * self.floor, _PRACTICAL_SHARE * abs(self.before), HARM_ERRORS * self.error
        )
        e = self.evidence
        # where there is a forecast, it knows the levels better than medians of slow noise do
        worse = self.worse if e is None else e.effect
        if worse <= HARM_DEVIATIONS or self.size <= practical or self.inside is True:
            return False
        likely = HARM_PEERS_LAST if last and self.road == "peers" else HARM_LIKELY
        likely += 2 * math.log(many)
        return self.road == "past" or (e is not None and min(e.passes, e.lasts) > likely)

    @property
    def better(self) -> bool:
        """Better than it was right before the act, by more than its own noise; why is another question."""
        return self.last_worse < -BETTER_DEVIATIONS and self.worse < 0

    def doubt(self, many: int = 1, *, last: bool = False) -> str:
        """Say why what is better is no proof; "" = the act has helped.

        many, last   as of `harmed`
        """
        if not self.better:
            return "it was no worse right before the act"
        if self.road == "past":
            most, least = PAST_ALONE
            if self.alike < least:
                return "too few rows to foretell it, and too few troubles like it are known"
            return "" if self.ended <= most else "troubles like it end by themselves as soon"
        likely = PEERS_LIKELY[last] if self.road == "peers" else LIKELY
        likely += 2 * math.log(many)
        if self.evidence is None or self.evidence.lasts <= likely:
            return "no more than it moves anyway"
        return "" if self.road == "peers" else self._passing(self.evidence, likely)

    def _passing(self, e: Evidence, likely: float) -> str:
        """Say how it may have passed by itself; "" = it did not."""
        if self.stood < (MIN_ROWS if self.far >= FAR_OUT else STOOD_ROWS):
            rows = "one row" if self.stood == 1 else f"{self.stood} rows"
            return f"it had stood for only {rows} before the act"
        if e.passes <= likely:
            return "its excursions pass by themselves like this"
        if e.getting < 0 and e.getting_evidence > PACE_LIKELY and e.fades <= likely:
            return "it was getting better before the act, and went on"
        if self.alike and self.ended > SELF_ENDING:
            return "troubles like it end by themselves as soon"
        if self.ended > SELF_ENDING_UNKNOWN:
            return "it took far longer to end than it had stood before the act"
        return ""

    def __str__(self) -> str:
        return (
            f"{self.name} {say(self.before, self.unit)} before, {say(self.after, self.unit)} after"
        )


def compare(symptom: Symptom, min_rows: int = MIN_ROWS, against: str = "") -> Comparison | None:
    """Compare both sides of one symptom; None when either has too few known samples.

    against   what a playbook asks for. "" and peers take the best road there is: untreated peers, else a forecast, else
              past episodes; forecast leaves peers out, past looks at durations alone. Other words, in plans of old
              versions, are as ""
    """
    sides = (symptom.usual, symptom.before, symptom.after)
    own: tuple[FloatArray, ...] = sides
    road: Road = "forecast"
    if symptom.control is not None and against not in {"forecast", "past"}:
        left = tuple(a - b for a, b in zip(sides, symptom.control, strict=True))
        if min(len(known(left[1])), len(known(left[2]))) >= min_rows:
            own, road = left, "peers"
    usual, before, after = (known(side) for side in own)
    was, now = (known(side) for side in sides[1:])
    if min(len(before), len(after)) < min_rows:
        return None
    short = len(usual) < FORECAST_ROWS and len(before) < STOOD_ROWS
    if against == "past" or (road == "forecast" and short):
        road = "past"
    sign = {"low": 1.0, "high": -1.0, "": 0.0}[symptom.better]
    scale = max(spread(known(symptom.before)), spread(known(symptom.usual)), symptom.floor, 1e-12)
    end = before[-max(min_rows, len(before) // 3) :]
    level, middle = float(np.median(before)), float(np.median(after))
    change = middle - level
    inside = None
    if symptom.low is not None or symptom.high is not None:
        at = float(np.median(now))
        inside = (symptom.low is None or at >= symptom.low) and (
            symptom.high is None or at <= symptom.high
        )
    found = Comparison(
        symptom.name, symptom.unit, float(np.median(was)), float(np.median(now)), change,
        sign * change / scale, sign * (middle - float(np.median(end))) / scale, sign * change,
        _error([before, after]), scale, symptom.floor, inside, (len(before), len(after)), road,
        symptom.proves, stood=_stood(symptom),
    )  # fmt: skip
    if not (found.better or found.worse > HARM_DEVIATIONS / 2):
        return found
    ended, alike = _ended(symptom, sign, scale)
    # so far away all stories but one are hopeless, and squares would lose their small neighbours
    a, b, c = (
        np.clip(sign * (_calm(side, symptom.floor) - level) / scale, -_FAR, _FAR) for side in own
    )
    far = 0.0
    if len(usual) >= FORECAST_ROWS:
        ordinary = max(spread(usual), symptom.floor, 1e-12)
        far = sign * (level - float(np.median(usual))) / ordinary
    found = replace(found, ended=ended, alike=alike, far=far)
    if road == "past":
        return found
    if found.better and max(far, -found.worse) >= FAR_OUT:
        # the shock of the act, and windows that still hold what was before, are no news of the level after it; nearer
        # to the usual level this would choose the best moment of noise
        arrived = np.flatnonzero(c <= np.nanmedian(c) / 2)
        c[: arrived[0] if len(arrived) else 0] = np.nan
    return replace(found, evidence=weigh(a, b, len(symptom.between), c))


def _ended(symptom: Symptom, sign: float, scale: float) -> tuple[float, int]:
    """Return how probable an end by itself was, as soon after the act as it ended, and how many past ones say so."""
    usual, before, after = (
        sign * known(side) / scale for side in (symptom.usual, symptom.before, symptom.after)
    )
    level = float(np.median(before))
    rows = sign * np.concatenate([symptom.between, symptom.after]) / scale
    down = np.flatnonzero(rows <= (level + float(np.median(after))) / 2)
    took = int(down[0]) + 1 if len(down) else len(rows)
    acting = symptom.acting if took > symptom.acting else 0
    past = list(symptom.past)
    if len(usual):
        middle = (level + float(np.median(usual))) / 2
        past += [n * symptom.step for n in episodes(usual, middle)]
    stood = _stood(symptom) + acting
    return ends_by_itself(past, stood * symptom.step, (took - acting) * symptom.step)


def _stood(symptom: Symptom) -> int:
    return max(symptom.stood, len(symptom.before))


def judge(
    symptoms: Sequence[Symptom],
    expected_ok: bool | None,
    *,
    min_rows: int = MIN_ROWS,
    against: str = "",
    last: bool = False,
) -> Outcome:
    """Return the verdict with its numbers.

    expected_ok   whether all that was expected held for the window: True, False, None = unknown
    against       as `compare` takes it
    last          it is not looked again: of many looks each must be surer than one alone
    """
    found = [c for c in (compare(s, min_rows, against) for s in symptoms) if c is not None]
    harmed = [c for c in found if c.harmed(len(found), last=last)]
    about = [c for c in found if c.proves]
    doubts = {c.name: c.doubt(len(about), last=last) for c in about}
    helped = [c for c in about if not doubts[c.name]]
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
        nearest = min(about or found, key=lambda c: c.last_worse)
        why = doubts.get(nearest.name) or nearest.doubt(last=last)
        summary = f"all is well, but {why}: {nearest}"
    else:
        best = min(helped, key=lambda c: c.last_worse)
        verdict, summary = "helped", f"better: {best}"
    said = [*harmed, *helped, *about, *found]
    return Outcome(
        verdict, summary, said[0].road if said else "", _numbers(found, expected_ok),
        well=expected_ok is True and not harmed,
    )  # fmt: skip


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
        if c.evidence is not None:
            out |= {
                f"{c.name}.effect_deviations": c.evidence.effect, f"{c.name}.effect_error": c.evidence.error,
                f"{c.name}.against_passing": c.evidence.passes, f"{c.name}.against_lasting": c.evidence.lasts,
                f"{c.name}.ends_by_itself": c.ended,
            }  # fmt: skip
    return {name: value for name, value in out.items() if np.isfinite(value)}


def known(samples: FloatArray) -> FloatArray:
    """Return the samples that are not missing."""
    flat: FloatArray = np.asarray(samples, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def spread(samples: FloatArray) -> float:
    """Return the robust deviation; a MAD of zero (most values the same) falls back to the mean deviation."""
    if len(samples) < 2:
        return 0.0
    off = np.abs(samples - np.median(samples))
    mad = float(np.median(off))
    # 1.2533 = sqrt(pi / 2): standard deviation of a normal distribution per mean absolute deviation
    return _MAD_TO_SD * mad if mad > 0 else 1.2533 * float(np.mean(off))


def _error(sides: Sequence[FloatArray]) -> float:
    """Return the standard error of a sum of medians; that of a median is 1.2533 deviations / sqrt(n)."""
    return float(np.sqrt(sum((1.2533 * spread(side)) ** 2 / len(side) for side in sides)))


def _calm(samples: FloatArray, floor: float) -> FloatArray:
    """Return samples with single spikes cut: one of them must not stand for the rest."""
    there = known(samples)
    if not len(there):
        return samples
    middle = float(np.median(there))
    most = _SPIKE * max(spread(there), floor)
    return np.clip(samples, middle - most, middle + most)
