"""A bank of small detectors over all series of one source at once; one number a series says how rare its row is.

    x -> position (where is it now) -> eight statistics against what is ordinary -> rarity of each, by its own tail
      -> their sum, held for a few rows -> measured against its own 98 % quantile -> p

    family       statistic                                                              weight in the sum
    spike        step from the better of two forecasts: the last value, the local level       1.5
    shape        energy of the last six smoothed steps                                        2
    variability  size of steps, against the usual size                                        1
    range        how far beyond all that was seen, in widths of it                            1.5
    level        local level against the profile by the clock (where one helps) or slow level  1.5, as far as it
    trend        level of the last hundred rows or so, the same way                           1    exceeds its own
    flatline     rows without a step, for a series that always moves                          3    98 % quantile
    level        standard deviations from the long mean, of events too                        5, beyond three
    peers        distance from its likes, for series that have some (`detectors/_peers.py`)   5, as trend

Good for metrics sampled every second to every few minutes: gauges, counts, rates, shares, bursts. Not for raw
counters (send rates). x (n,) base units, NaN and what is beyond 1e150 are skipped; p (n,), NaN for the first 30 rows of
a series and where it has no value, unless its kind is known and it has been silent for rarely long
(`detectors/_silence.py`).

What a series is, is seen from its data. *Constant*: never moved; it has p 1 as long as it stays, and a prior says how
rare the move is when it leaves. *Discrete* and *bursty*: rests in most rows; the scale of its moves is learnt from
the rows in which it moves, so that the usual burst is one deviation. *Gauge*: moves in nearly every row, and only
then is standing still (flatline) a thing to see. *Seasonal*: after two days, if the profile by the time of the day
leaves at least a tenth less than the slow level does, and after two weeks, if one by the hour of the week leaves a
tenth less still; the time is that of `ts` plus the clock of the series (`set_clock`), never a count of rows.

What is known of a series (`set_traits`) comes before what is seen. Floors are the smallest changes that matter to
anybody, in the units of the series (0 = unknown): a quarter of one is the least that counts as a deviation, so that a
nearly constant series stays quiet. With floors of 0 the p-values do not change when a series is shifted or scaled by a
positive number. A *state* (0 or 1) has no shape, level or rest: while it is not where it usually is, p is how rarely it
goes there. Physical limits bound the band that `explain` gives.

A p is the rate, per row, of excursions as high as this one; an excursion lasts about a dozen rows. It is never below
1 / (30 rows learnt): so few rows can not tell more. While fewer than 600 rows were learnt the tail is partly the
shipped prior, and `explain` says calibrated False. What is not trusted moves only the position,
never what is ordinary; a trusted row after 60 untrusted ones means "this is the new normal", and the level goes there.

Cost: O(n) a tick without Python per series; 2.8 kB a series. Figures: `make bench-detect`.
Source: levels at several speeds, Roberts 1959; energy of lagged differences is what k-means on them measures; the
tails see `detectors/_tail.py`. Weights, hold and the map to p were chosen once, on public labelled sets of other
people's metrics, and are one setting for everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Why
from agent.registry import detector
from agent.traits import STATE, UNKNOWN, Traits
from agent.units import Model, Span
from detectors._peers import Peers, Stand
from detectors._season import Season
from detectors._silence import Silence
from detectors._tail import LOG_ABOVE, Quantile, Tail

_VERSION: Final = 3
_SIGMA: Final = 1.25
"""Mean absolute deviation to standard deviation, for a bell."""
_TINY: Final = 1e-9
"""Relative differences below this are rounding, not moves."""
_LARGEST: Final = 1e150
"""What is larger is no measurement; the square of everything below is still a number."""
_CLIP: Final = 5.0
_LOCAL: Final = 1.0 / 8.0
"""The local level and the local size of steps follow over eight rows."""
_FOLLOW: Final = np.array([[_LOCAL], [_LOCAL], [_LOCAL], [1.0 / 64.0]])
"""So do all that is followed, but the level of the last hundred rows or so: what creeps shows there first."""
_STALE_STEPS: Final = 5.0
_LATE_STEPS: Final = 100.0
_NEW_NORMAL_ROWS: Final = 60.0
_FARTHEST: Final = 1e6
"""No statistic is larger: what is infinitely far must not teach infinities."""
_FLAT_UNIT: Final = 3.0
"""Rows without a move that count as one deviation for a series that always moves."""
_RANGE_FADES: Final = 0.1
"""What was seen is forgotten ten times as slowly as the slow level moves."""
_RANGE_LEAST: Final = 20.0
"""A range narrower than four floors counts as so wide."""
_HOLD: Final = 0.92
"""Evidence fades over a dozen rows: an event is one excursion, not a row of sparks."""
_RARITY_MAX: Final = 60.0
"""In nats; more than that says nothing more, and would be held for long."""

_SPIKE, _SHAPE, _VARIABILITY, _RANGE, _LEVEL, _TREND, _FLAT = range(7)
_FAMILY: Final = ("spike", "shape", "variability", "range", "level", "trend", "flatline")
_FULL: Final = 4
"""The first so many count in full; the others as far as they exceed what they usually reach."""
_COUNTS_BEYOND: Final = np.array([[0.0]] * _FULL + [[LOG_ABOVE]] * 3)
_WEIGHTS: Final = np.array([[1.5], [2.0], [1.0], [1.5], [1.5], [1.0], [3.0]])
_PEERS_WEIGHT: Final = 5.0
"""Distance from its peers counts as far as it exceeds its own 98 % quantile."""
_FAR_FROM, _FAR_MOST, _FAR_WEIGHT = 3.0, 50.0, 5.0
"""Distance from the long mean counts beyond so many standard deviations, up to so many. It has no tail of its own:
what is far is far, also for a series that has been there before."""
# Quantile and mean excess that metrics of hosts show before anything is known of them.
_PRIOR: Final = np.array(
    [[4.0, 1.5], [6.0, 2.0], [1.0, 0.4], [0.05, 0.05], [3.0, 1.0], [2.5, 1.0], [1.0, 1.0]]
)
_RATES: Final = np.array([[0.0, 1.0, 1.5, 3.2, 1e9], [0.0, 5.6, 7.7, 9.55, 48.7]])
"""Multiples of the 98 % quantile of the sum, and how rare (in nats) excursions as high are: 0.02 of rows lie above
the quantile, in excursions of half a dozen rows; far beyond it the rate falls with the square."""
_LOG_KNOTS: Final = np.log(_RATES[0, 1:])
_YOUNG_ROWS: Final = 6000.0
"""With so many rows learnt an excursion is taken for twice as usual as it looks."""
_OWN: Final = 0.75
"""How far a series' own 98 % quantile of the sum counts, against that of all series (in logarithms)."""
_USUAL_SUM: Final = 9.0
"""98 % quantile of the sum before anything is known."""

# A tick is some hundred numpy calls, a microsecond each on few series. So state that follows one rule stands in one
# block (k, n) and is followed in one call; these are the rows of the two blocks.
_LAST, _FAST, _SWING, _LOCAL_LEVEL, _MIDDLE_LEVEL, _RUN, _EVIDENCE, _STEP, _STEP_BEFORE = range(9)
_ENERGY: Final = slice(9, 14)
_CENTRE, _VARIANCE, _MOVE_SHARE, _MEAN, _SPREAD, _LOCAL_USUAL, _MIDDLE_USUAL, _SWING_USUAL = range(
    8
)
_SIZES: Final = slice(4, 8)
"""Of what is usual, the sizes: one row teaches them at most `_CLIP` times as much as they are."""
_STATE: Final = (
    "rows", "seen", "moves", "held", "floors", "reach", "errors", "place", "usual",
)  # fmt: skip


@dataclass(slots=True)
class _Row:
    """What one row says against the state, kept between score and learn.

    given   the row as it was handed in; x without what is no number
    off     (2, n) distance from the two forecasts: the last value, the local level
    both    (2, n) x and -x
    scales  (3, n) deviation of level, local level and middle level
    place   (14, n) where the series are with this row, the weighted sum of the rarities, held, among it
    stats   (7, n) the statistics; rarity (7, n) -log p of each
    """

    ts: float
    given: FloatArray
    x: FloatArray
    ok: BoolArray
    moved: BoolArray
    off: FloatArray
    both: FloatArray
    rest: FloatArray
    place: FloatArray
    flat_unit: FloatArray
    least: FloatArray
    spike_scale: FloatArray
    scales: FloatArray
    stats: FloatArray
    rarity: FloatArray
    stand: Stand | None
    p: FloatArray


@detector("bank")
class Bank:
    """All series of one source at once: spike, shape, level, range, variability, flatline; one calibrated p."""

    class Config(Model):
        """How the bank looks at one source."""

        step_s: Span = 1.0
        """Usual time between two rows."""
        warmup_rows: Annotated[int, Field(ge=2)] = 30
        """Rows before the first p-value."""
        ready_rows: Annotated[int, Field(ge=2)] = 600
        """Rows after which the tail counts as the series' own."""
        slow_rows: Annotated[int, Field(ge=50)] = 6400
        """Rows over which the slow level is learnt, at most."""
        slow: Span = 900_000.0
        """Time over which the slow level is learnt, but not under 200 rows."""

    def __init__(self, config: Config, n: int, floors: FloatArray | None = None) -> None:
        self._config = config
        self._slow = float(np.clip(config.slow / config.step_s, 200, max(200, config.slow_rows)))
        self._last_ts = -np.inf
        self._row: _Row | None = None
        self._clock: FloatArray | None = None
        self._fresh(n)
        if floors is not None:
            self.set_traits(Traits.neutral(n, floors))

    def _fresh(self, n: int) -> None:
        """Make the state of n series of which nothing is known."""
        self.rows: FloatArray = np.zeros(n)
        self.seen: FloatArray = np.full(n, -np.inf)
        self.moves: FloatArray = np.zeros(n)
        self.held: FloatArray = np.zeros(n)
        self.reach: FloatArray = np.zeros((2, n))
        """Highest value, and highest of -x."""
        self.errors: FloatArray = np.zeros((2, n))
        self.place: FloatArray = np.zeros((_ENERGY.stop, n))
        self.usual: FloatArray = np.zeros((_SIZES.stop, n))
        self.season = Season(n, self._config.step_s)
        self.tails = Tail(_PRIOR, n)
        self.usual_sum = Quantile(_USUAL_SUM, n)
        self.peers = Peers(n, self._slow, self._config.warmup_rows)
        self.silence = Silence(n)
        self._know(Traits.neutral(n))

    def set_traits(self, traits: Traits) -> None:
        """Take what the series are; the p-values of those of which nothing is known do not change by it."""
        if len(traits) != len(self.rows):
            raise ValueError(f"traits of {len(traits)} series for {len(self.rows)}")
        self._know(traits)
        self._row = None

    def _know(self, traits: Traits) -> None:
        """Lay out what follows from the traits; None where it holds for no series."""
        self.traits, self.floors = traits, traits.floors
        self._floors_known = bool(self.floors.any())
        states: BoolArray = traits.kind == STATE
        self._states = states if states.any() else None
        heard: BoolArray = traits.kind != UNKNOWN
        self._heard = heard if heard.any() else None
        self.peers.group(traits.peers)

    def set_clock(self, offsets_s: FloatArray | None) -> None:
        """Take seconds (n,) to add to `ts` for the time of day of each series (another time zone); None = as ts."""
        if offsets_s is not None and len(offsets_s) != len(self.rows):
            raise ValueError(f"{len(offsets_s)} clocks for {len(self.rows)} series")
        self._clock = None if offsets_s is None or not np.any(offsets_s) else np.array(offsets_s)
        self._row = None

    # ------------------------------------------------------------------ score

    def score(self, ts: float, x: FloatArray) -> FloatArray:
        """Return p (n,) of this row against what was learnt before it; NaN = not ready, or x not finite."""
        self._row = self._measure(ts, x)
        return self._row.p.copy()

    def _measure(self, ts: float, given: FloatArray) -> _Row:
        if len(given) != len(self.rows):
            raise ValueError(f"a row of {len(given)} values for {len(self.rows)} series")
        # a huge leap from a still series is infinitely rare, rightly
        with np.errstate(over="ignore"):
            return self._compare(ts, given)

    def _compare(self, ts: float, given: FloatArray) -> _Row:
        ok = np.abs(given) < _LARGEST  # False for NaN too
        before, usual, mean = self.place, self.usual, self.usual[_MEAN]
        x = np.where(ok, given, before[_LAST])
        self.season.at(ts, self._clock)
        rest = self.season.rest(x, mean, self.rows)
        stale = ts - self.seen > _STALE_STEPS * self._config.step_s
        if np.count_nonzero(stale):
            # Nothing is known of where it was just now: no spike out of a gap. New series come this way too.
            before, known = before.copy(), self.rows > 0
            mean, rest = np.where(known, mean, x), np.where(known, rest, 0.0)
            for state, now in ((_LAST, x), (_FAST, x), (_LOCAL_LEVEL, rest)):
                np.copyto(before[state], now, where=stale)
            np.copyto(before[_STEP:], 0.0, where=stale)
        grain = np.abs(mean) * _TINY
        grain += 1e-300
        least = self.floors * (0.25 / _SIGMA)
        least += grain
        off = x - before[_LAST : _FAST + 1]
        moved_by = np.abs(off[0])
        moved = moved_by > grain
        errors, scales = np.maximum(self.errors, least), np.maximum(usual[4:7], least)
        errors *= _SIGMA
        scales *= _SIGMA
        both = np.empty_like(off)
        both[0] = x
        np.negative(x, out=both[1])
        place = self._go(before, x, off, moved_by, rest)
        np.copyto(place[_RUN], 0.0, where=moved)
        flat_unit = (usual[_MOVE_SHARE] > 0.9) * (1.0 / _FLAT_UNIT)
        stats = self._statistics(
            before=before, place=place, off=off, both=both, least=least, errors=errors, scales=scales
        )  # fmt: skip
        np.multiply(place[_RUN], flat_unit, out=stats[_FLAT])
        np.abs(stats, out=stats)
        np.minimum(stats, _FARTHEST, out=stats)
        rarity = self.tails.rarity(stats)
        np.minimum(rarity, _RARITY_MAX, out=rarity)
        stand = self.peers.stand(place[_FAST], ok, least) if self.peers.any else None
        total = self._sum(rarity, x, least, np.maximum(np.abs(x - mean), moved_by), stand)
        place[_EVIDENCE] = total
        p = self._judge(total, ok, x, mean, grain)
        return _Row(
            ts, given, x, ok, moved, off, both, rest, place, flat_unit, least,
            errors.min(axis=0), scales, stats, rarity, stand, p,
        )  # fmt: skip

    @staticmethod
    def _go(
        before: FloatArray, x: FloatArray, off: FloatArray, moved_by: FloatArray, rest: FloatArray
    ) -> FloatArray:
        """Return where the series are with this row, as if none of them stood still."""
        place = np.empty_like(before)
        follow, followed = place[_FAST : _MIDDLE_LEVEL + 1], before[_FAST : _MIDDLE_LEVEL + 1]
        follow[0], follow[1], follow[2:] = x, moved_by, rest
        follow -= followed
        follow *= _FOLLOW
        follow += followed
        place[_LAST], place[_STEP], place[_STEP_BEFORE] = x, off[0], before[_STEP]
        smooth = off[0] + before[_STEP]
        smooth += before[_STEP_BEFORE]
        smooth *= 1.0 / 3.0
        place[10:14] = before[9:13]
        np.square(smooth, out=place[_ENERGY.start])
        np.add(before[_RUN], 1.0, out=place[_RUN])
        return place

    def _statistics(
        self,
        *,
        before: FloatArray,
        place: FloatArray,
        off: FloatArray,
        both: FloatArray,
        least: FloatArray,
        errors: FloatArray,
        scales: FloatArray,
    ) -> FloatArray:
        """Return the statistics but flatline, which depends on more; with their signs."""
        stats = np.empty((7, place.shape[1]))
        # The better of two forecasts: the last value (walks, steps) or the local level (noise).
        walks = self.errors[0] <= self.errors[1]
        np.divide(np.where(walks, off[0], off[1]), errors.min(axis=0), out=stats[_SPIKE])
        shape = place[_ENERGY].sum(axis=0)
        shape += before[_ENERGY.stop - 1]
        np.divide(np.sqrt(shape, out=shape), errors[0], out=stats[_SHAPE])
        soft = self.usual[_SWING_USUAL] * 0.1
        soft += least
        quiet = place[_SWING] + soft
        quiet /= self.usual[_SWING_USUAL] + soft
        np.log(quiet, out=stats[_VARIABILITY])
        beyond = (both - self.reach).max(axis=0)
        wide = np.maximum(self.reach[0] + self.reach[1], _RANGE_LEAST * least)
        np.divide(np.maximum(beyond, 0.0, out=beyond), wide, out=stats[_RANGE])
        np.divide(
            place[_LOCAL_LEVEL : _MIDDLE_LEVEL + 1], scales[1:], out=stats[_LEVEL : _TREND + 1]
        )
        return stats

    def _sum(
        self,
        rarity: FloatArray,
        x: FloatArray,
        least: FloatArray,
        reach: FloatArray,
        stand: Stand | None,
    ) -> FloatArray:
        """Return the weighted evidence of all families (n,), no less than what is left of earlier evidence.

        reach   how far the row is from anything ordinary: less than a quarter of a floor says nothing, a floor says all
        """
        counts = rarity - _COUNTS_BEYOND
        np.maximum(counts, 0.0, out=counts)
        counts *= _WEIGHTS
        far: FloatArray = np.abs(x - self.usual[_CENTRE])
        far /= np.sqrt(self.usual[_VARIANCE]) + least
        far -= _FAR_FROM
        np.minimum(np.maximum(far, 0.0, out=far), _FAR_MOST, out=far)
        far *= _FAR_WEIGHT
        far += counts[:_FLAT].sum(axis=0)
        if self._floors_known:
            share = reach / np.where(self.floors > 0, self.floors, 1e-300)
            far *= np.minimum(np.maximum((share - 0.25) / 0.75, 0.0), 1.0)
        far += counts[_FLAT]
        if stand is not None:
            far += self._apart(stand)
        np.maximum(far, self.place[_EVIDENCE] * _HOLD, out=far)
        # what is said before the first p rests on next to nothing and must not be held
        np.copyto(far, 0.0, where=self.rows < self._config.warmup_rows)
        return far

    def _apart(self, stand: Stand) -> FloatArray:
        """Return the evidence (n,) of distance from peers: less than a quarter of a floor says nothing, a floor all."""
        share = np.abs(stand.away) / np.where(self.floors > 0, self.floors, 1e-300)
        counts = np.minimum(stand.rarity, _RARITY_MAX) - LOG_ABOVE
        np.maximum(counts, 0.0, out=counts)
        out: FloatArray = (
            counts * np.minimum(np.maximum((share - 0.25) / 0.75, 0.0), 1.0) * _PEERS_WEIGHT
        )
        return out

    def _judge(
        self, total: FloatArray, ok: BoolArray, x: FloatArray, mean: FloatArray, grain: FloatArray
    ) -> FloatArray:
        """Return the p-values (n,): by the evidence, or by what the series is."""
        p = self._p(total)
        constant = self.moves == 0
        if np.count_nonzero(constant):
            p = np.where(constant, self._leaves(x, mean, grain), p)
        if self._states is not None:
            p = np.where(self._states, self._changes(x), p)
        young = self.rows < self._config.warmup_rows
        p[~ok | young] = np.nan
        if self._heard is not None:
            silent = self.silence.p(ok, self.rows, self._heard & ~young)
            p = p if silent is None else np.where(ok, p, silent)
        return p

    def _p(self, total: FloatArray) -> FloatArray:
        """Return how often, per row, evidence like this comes: (n,) in 0..1."""
        rows = np.maximum(self.rows, 1.0)
        p = np.exp(-_nats(total / (self.usual_sum.value**_OWN * _USUAL_SUM ** (1.0 - _OWN))))
        p *= 1.0 + _YOUNG_ROWS / rows
        p += 1.0 / (30.0 * rows)
        return np.minimum(p, 1.0, out=p)

    def _leaves(self, x: FloatArray, mean: FloatArray, grain: FloatArray) -> FloatArray:
        """P-values of series that never moved: 1 while they stay.

        By the rule of succession a move was due with 1 / (rows + 2); how wide it is in floors is Pareto of index 1, the
        vaguest size there is. Without a floor its width says nothing.
        """
        away = np.abs(x - mean)
        rows = np.maximum(self.rows, 1.0)
        wide = np.maximum(away / np.where(self.floors > 0, self.floors, np.inf), 1.0)
        p = np.maximum(1.0 / ((rows + 2.0) * wide), 1.0 / (30.0 * rows))
        return np.where(away > grain, p, 1.0)

    def _changes(self, x: FloatArray) -> FloatArray:
        """P-values of states: 1 where they usually are, else how rarely they leave it, by the rule of succession."""
        away = np.abs(x - np.rint(self.usual[_CENTRE])) > 0.5
        return np.where(away, (1.0 + 0.5 * self.moves) / (self.rows + 2.0), 1.0)

    # ------------------------------------------------------------------ learn

    def learn(self, ts: float, x: FloatArray, trust: BoolArray) -> None:
        """Learn the row. Late and repeated rows are left out; a clock set far back is followed."""
        late = self._last_ts - ts
        if 0 <= late < _LATE_STEPS * self._config.step_s:
            return
        if late > 0:
            np.minimum(self.seen, ts, out=self.seen)
        row = self._row
        if row is None or row.ts != ts or not _same(row.given, x):
            row = self._measure(ts, x)
        self._row = None if row is not self._row else row
        self._last_ts = ts
        teach = row.ok & trust
        if self._heard is not None:
            self.silence.learn(row.ok, teach)
        self._ordinary(row, teach)
        # where the series are now follows every row that has a value, trusted or not
        np.copyto(self.place, row.place, where=row.ok)
        np.copyto(self.seen, row.ts, where=row.ok)

    def _ordinary(self, row: _Row, teach: BoolArray) -> None:
        """What is ordinary: follows trusted rows only."""
        before, usual, x = self.rows, self.usual, row.x
        first = teach & (before == 0)
        if np.count_nonzero(first):
            for state in (usual[_MEAN], usual[_CENTRE]):
                np.copyto(state, x, where=first)
            np.copyto(self.reach, row.both, where=first)
        again = teach & (self.held >= _NEW_NORMAL_ROWS)
        if np.count_nonzero(again):
            self._new_normal(row, again)
        self.held += row.ok
        np.copyto(self.held, 0.0, where=teach)
        self.rows = before + teach
        early = before < self._config.warmup_rows
        rate = 1.0 / np.maximum(self.rows, 1.0)
        np.maximum(rate, 1.0 / self._slow, out=rate)
        rate *= teach
        self.season.learn(x, usual[_MEAN], rate, teach)
        change = np.empty_like(usual)
        off = np.subtract(x, usual[_CENTRE], out=change[_CENTRE])
        np.multiply(1.0 - rate, off * off, out=change[_VARIANCE])
        change[_VARIANCE] -= usual[_VARIANCE]
        np.subtract(row.moved, usual[_MOVE_SHARE], out=change[_MOVE_SHARE])
        sizes, step = change[_SIZES], np.abs(row.off)
        np.subtract(x, usual[_MEAN], out=sizes[0])
        np.abs(row.place[_LOCAL_LEVEL : _MIDDLE_LEVEL + 1], out=sizes[1:3])
        sizes[3] = step[0]
        _clip(sizes, usual[_SIZES], early)
        change[_MEAN] = sizes[0]
        np.abs(sizes[0], out=sizes[0])
        sizes -= usual[_SIZES]
        change *= rate
        usual += change
        np.copyto(self.reach, np.maximum(self.reach, row.both), where=teach)
        self.reach -= (0.5 * _RANGE_FADES) * rate * (self.reach[0] + self.reach[1])
        self._moved(row, step, teach)
        # A run teaches once, with its length, when it ends: while it lasts it must not become ordinary by itself.
        stats = row.stats.copy()
        np.multiply(self.place[_RUN], row.flat_unit, out=stats[_FLAT])
        stats[_FLAT] *= row.moved
        settled = teach & ~early
        self.tails.learn(stats, settled, before)
        self.usual_sum.learn(row.place[_EVIDENCE], settled, before)
        if row.stand is not None:
            self.peers.learn(row.stand, teach, again)

    def _moved(self, row: _Row, step: FloatArray, teach: BoolArray) -> None:
        """Learn sizes of moves (2, n), from rows with a move; how often there is one was learnt from all."""
        moving = teach & row.moved
        self.moves += moving
        rate = 1.0 / np.maximum(self.moves, 1.0)
        np.maximum(rate, 1.0 / self._slow, out=rate)
        rate *= moving
        _clip(step, self.errors, self.moves < self._config.warmup_rows)
        step -= self.errors
        step *= rate
        self.errors += step

    def _new_normal(self, row: _Row, again: BoolArray) -> None:
        """The monitor trusts again what it has long called abnormal: the level goes to where the series is."""
        # Unless this row leaps away from there: then it is the way back, and what was ordinary still is.
        place, usual = row.place, self.usual
        again &= np.abs(row.off[1]) <= 3.0 * place[_SWING]
        by = place[_FAST] - usual[_MEAN]
        moved_on = again & (np.abs(by) > 2.0 * row.scales[0])
        self.season.shift(np.where(moved_on, by, 0.0))
        for state in (usual[_MEAN], usual[_CENTRE]):
            np.copyto(state, place[_FAST], where=moved_on)
        self.errors = np.where(again, np.maximum(self.errors, place[_SWING]), self.errors)
        place[_LOCAL_LEVEL : _MIDDLE_LEVEL + 1, moved_on] = 0.0
        np.copyto(usual[_SWING_USUAL], place[_SWING], where=again)
        np.copyto(usual[_MOVE_SHARE], 0.0, where=again & (place[_RUN] > 0))
        self.moves += again
        place[_EVIDENCE, again] = 0.0

    # ------------------------------------------------------------------ series come and go

    def remap(self, old_index: IntArray) -> None:
        """New position i was old_index[i]; -1 = new. The others keep all they learnt."""
        old = np.asarray(old_index, dtype=np.int64)
        if len(old) and (old.max() >= len(self.rows) or old.min() < -1):
            raise ValueError(
                f"remap asks for column {int(old.max())} of a bank of {len(self.rows)} series"
            )
        state, clock = self._arrays(), self._clock
        ticks = self.tails.ticks, self.peers.tail.ticks
        self._fresh(len(old))
        self.tails.ticks, self.peers.tail.ticks = ticks
        stay = old >= 0
        fresh = self._arrays()
        for name, array in fresh.items():
            array[..., stay] = state[name][..., old[stay]]
        self._know(self.traits)
        self._clock = None if clock is None else np.where(stay, clock[old], 0.0)
        self._row = None

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array of the state by name; the last axis is the series."""
        out: dict[str, npt.NDArray[Any]] = {name: getattr(self, name) for name in _STATE}
        out |= {f"tails.{name}": array for name, array in self.tails.arrays().items()}
        out |= {f"season.{name}": array for name, array in self.season.arrays().items()}
        out |= {f"silence.{name}": array for name, array in self.silence.arrays().items()}
        out |= {f"peers.{name}": array for name, array in self.peers.arrays().items()}
        out |= {
            f"traits.{name}": getattr(self.traits, name)
            for name in ("kind", "low", "high", "peers")
        }
        out["usual_sum"] = self.usual_sum.value
        return out

    # ------------------------------------------------------------------ dump, load

    def dump(self) -> bytes:
        """Return the state with version and checksum; the last score is not part of it."""
        last_ts = self._last_ts if np.isfinite(self._last_ts) else None
        meta = {
            "n": len(self.rows), "step_s": self._config.step_s, "last_ts": last_ts,
            "ticks": [self.tails.ticks, self.peers.tail.ticks],
        }  # fmt: skip
        return checkpoint.write("bank", _VERSION, meta, self._arrays())

    def load(self, state: bytes) -> None:
        """Take a state; n becomes that of the state. Raises Refused when it does not fit this bank."""
        meta, arrays = checkpoint.read("bank", _VERSION, state)
        try:
            n, step_s, last_ts = int(meta["n"]), float(meta["step_s"]), meta["last_ts"]
            ticks = [int(one) for one in meta["ticks"]]
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of bank is damaged ({damage}): it is learnt anew") from None
        if step_s != self._config.step_s:
            raise Refused(
                f"state of bank was learnt at a step of {step_s:g} s, not {self._config.step_s:g} s: "
                "it is learnt anew"
            )
        kept = Bank(self._config, n)
        for name, array in kept._arrays().items():
            given = arrays.get(name)
            if given is None or given.shape != array.shape:
                raise Refused(f"state of bank has no fitting {name}: it is learnt anew")
            array[...] = given
        kept._know(kept.traits)
        kept.tails.ticks, kept.peers.tail.ticks = ticks
        kept._last_ts = -np.inf if last_ts is None else float(last_ts)
        self.__dict__.update(kept.__dict__)

    # ------------------------------------------------------------------ explain

    def explain(self, i: int) -> Why:
        """Say why series i got its last p: the rarest family and the band that it left, as far as it is possible."""
        why = self._why(i)
        low, high = float(self.traits.low[i]), float(self.traits.high[i])
        # NaN, where there is no band, stays first and so stays
        return replace(why, low=min(max(why.low, low), high), high=min(max(why.high, low), high))

    def band(self, i: int) -> tuple[float, float]:
        """Return where the last row of series i was expected: its forecast, and what 98 % of its steps stay within."""
        row, nan = self._row, float("nan")
        if row is None or not row.ok[i] or not np.isfinite(row.p[i]):
            return nan, nan
        if self.moves[i] == 0:
            centre, reach = float(self.usual[_MEAN, i]), float(self.floors[i])
        else:
            centre, scale = self._foretold(i, row)
            reach = max(float(self.tails.quantile[_SPIKE, i]), 3.0) * scale
        low, high = float(self.traits.low[i]), float(self.traits.high[i])
        return min(max(centre - reach, low), high), min(max(centre + reach, low), high)

    def _foretold(self, i: int, row: _Row) -> tuple[float, float]:
        """Return the better of the two forecasts of the last row of series i, and the usual size of its error."""
        which = 0 if self.errors[0, i] <= self.errors[1, i] else 1
        return float(row.x[i]) - float(row.off[which, i]), float(row.spike_scale[i])

    def _why(self, i: int) -> Why:
        row = self._row
        rows = int(self.rows[i])
        calibrated = rows >= self._config.ready_rows
        nan = float("nan")
        if row is None:
            return Why("none", nan, nan, 0.0, rows, calibrated=False)
        if not row.ok[i] and np.isfinite(row.p[i]):
            since = float(self.seen[i])
            return Why("silence", nan, nan, self.silence.times(i), rows, calibrated, since=since)
        x, mean = float(row.x[i]), float(self.usual[_MEAN, i])
        if self._states is not None and self._states[i]:
            usual = float(np.rint(self.usual[_CENTRE, i]))
            return Why("state", usual, usual, 10.0 * (abs(x - usual) > 0.5), rows, calibrated)
        if self.moves[i] == 0:
            floor = float(self.floors[i])
            away = abs(x - mean)
            moved = away > abs(mean) * _TINY
            deviations = min(away / floor, 1e5) * 4.0 if floor > 0 else 10.0 * moved
            return Why("constant", mean - floor, mean + floor, deviations, rows, calibrated=False)
        return self._rarest(i, row, calibrated=calibrated)

    def _rarest(self, i: int, row: _Row, *, calibrated: bool) -> Why:
        """Say which family finds the last row of series i rarest."""
        rows, nan = int(self.rows[i]), float("nan")
        x = float(row.x[i])
        # To be beyond the range says less about what happened than any other family does.
        said = row.rarity[:, i].copy()
        if np.delete(said, _RANGE).max() > LOG_ABOVE:
            said[_RANGE] = 0.0
        stand = row.stand
        if stand is not None and stand.rarity[i] > max(said.max(), LOG_ABOVE):
            centre, scale = x - float(stand.away[i]), float(stand.scale[i])
            reach = max(float(self.peers.tail.quantile[0, i]), 3.0) * scale
            away = min(abs(float(stand.away[i])) / scale, 1e6)
            return Why("peers", centre - reach, centre + reach, away, rows, calibrated)
        which = int(np.argmax(said))
        family = _FAMILY[which]
        stat = float(row.stats[which, i])
        reach = max(float(self.tails.quantile[which, i]), 3.0)
        if family == "spike":
            centre, scale = self._foretold(i, row)
        elif which in {_LEVEL, _TREND}:
            k = which - _LEVEL
            centre, scale = x - float(row.rest[i]), float(row.scales[1 + k, i])
            x = centre + float(row.place[_LOCAL_LEVEL + k, i])
            # what creeps shows over the last hundred rows before it does over the last ten
            family = "level" if said[_LEVEL] > LOG_ABOVE else "trend"
        elif which == _RANGE:
            low, high = -float(self.reach[1, i]), float(self.reach[0, i])
            scale = float(row.scales[0, i])
            return Why(family, low, high, max(low - x, x - high, 0.0) / scale, rows, calibrated)
        else:
            deviations = float(np.exp(min(stat, 10.0))) if family == "variability" else stat
            return Why(family, nan, nan, deviations, rows, calibrated)
        deviations = min(abs(x - centre) / scale, 1e6)
        return Why(
            family, centre - reach * scale, centre + reach * scale, deviations, rows, calibrated
        )


def _nats(b: FloatArray) -> FloatArray:
    """Return -log of the rate, per row, of excursions as high as a sum that is b times its own 98 % quantile.

    Shipped, not learnt: on five kinds of metrics at steps of 1 s to an hour the rate falls with the same power of b,
    and what a series alone could tell of so rare things it would tell too late, or from the very events to be found.
    """
    nats = _RATES[1]
    out: FloatArray = np.interp(np.log(np.maximum(b, 1.0)), _LOG_KNOTS, nats[1:])
    return np.where(b < 1.0, nats[1] * b, out)


def _clip(values: FloatArray, usual: FloatArray, unknown: BoolArray) -> None:
    """Let values (k, n) teach at most so many usual ones; all of them where none is known (`unknown` (n,), or 0)."""
    limit = usual * _CLIP
    np.copyto(limit, np.inf, where=unknown | (usual == 0))
    np.minimum(values, limit, out=values)
    np.maximum(values, np.negative(limit, out=limit), out=values)


def _same(a: FloatArray, b: FloatArray) -> bool:
    """Tell whether two rows are one: the very array, as a rule."""
    return a is b or np.array_equal(a, b, equal_nan=True)
