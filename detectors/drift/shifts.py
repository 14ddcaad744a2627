"""Whether columns still are as in the reference: evidence, size, and how restless the rows were so far.

    counts of bins, products of pairs -> windows of at least 64 rows -> evidence   bets against the reference
                                                                     -> recent     how large, in sd
                                                                     -> wander     design effect, learnt as it goes
                                             (less what the hour of the day foretells, where it does)

Good for: any columns that are counted in bins, inputs as well as what the model said; rows that are exchangeable, and
rows that wander, as far as they did so in the reference or since. Not for: the first turn of a rhythm longer than all
that was seen before; a shift of a column that wanders without end (there only the contract of a feature, and columns
that hold still, tell anything). A column drifts when evidence and size are there: e-value 1, a shift of place, spread
or product by .1 sd, or .1 sd and 2 % of the rows that moved to or from a value. What was dependent before needs that
much more, so that a window as unusual as others before it is no novelty and no drift; a column in runs of one value
is known from so many runs. While a column drifts another must move a quarter as far: that the reference does not hold
is known, and news is what makes it worse.
A pair speaks for its two columns where neither speaks for itself. Missing columns are rows that do not count.
Measured on one core: about 1 microsecond a row at 50 columns and 45 pairs in batches of 1,000; state 5 kB a column.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from detectors.drift import pairs, season
from detectors.drift.evidence import STEPS, Bets, Evidence
from detectors.drift.reference import COLUMNS, Reference
from detectors.drift.scores import FUNCTIONS, SHARES, Scores
from detectors.drift.season import QUANTUM, Rhythm, Wander

_PAIRS_SHARE: Final = 0.15
"""Of the bearable false alarms, for pairs."""
_ROWS_BEARABLE: Final = 1e7
"""When rows come faster than time passes, one false alarm in so many is bearable, too."""
_MOST_PASSED: Final = 0.01
_SHIFT: Final = 0.1
_MOVED: Final = 0.02
_SIZE_ROWS: Final = np.array([1600.0, 400.0, 100.0, 25.0, 25.0])
"""For each of STEPS: half-life of the rows whose mean is the size of what it found; it takes about twice as many."""
_YOUNG_ROWS: Final = 4096.0
_YOUNG_S: Final = 86_400.0
_YOUNG_SIZE: Final = 4.5
"""Before so many rows and seconds were seen, a change must be so many times larger: about what gives a PSI of 0.2."""
_REFRESH: Final = 8
"""Windows between two looks at how far rows wander."""
_YOUNG: Final = 64
"""Windows before which it is looked at each time."""
_SILENT: Final = 0.1
_BESIDE: Final = 0.25
"""So much of what the farthest column has moved another must move to be named beside it later."""
_NAMED: Final = 0.01
"""When one column has reached 1, others need no more than this to be named beside it."""


Counts = npt.NDArray[np.float32]


class Shifts:
    """The drift of d columns; arrays over n statistics: d x FUNCTIONS, then the pairs."""

    def __init__(self, reference: Reference, joint: pairs.Pairs, quiet: float) -> None:
        """Take the pairs that are watched, and the seconds between two false alarms that are bearable."""
        self.pairs = joint
        self.scores = Scores(reference)
        self._quiet = quiet
        self._d = d = len(reference.names)
        p = len(joint.first)
        self._bets = Bets.joined([self.scores.bets(), joint.bets()])
        share = (1.0 - (_PAIRS_SHARE if p else 0.0)) * self.scores.weights() / max(d, 1)
        share = np.concatenate((share, np.full(p, _PAIRS_SHARE / max(p, 1))))
        self._evidence = Evidence(self._bets, share)
        column = np.repeat(np.arange(d), FUNCTIONS)
        self._rows_of = np.concatenate((column, joint.first))
        self._rows_known = np.maximum(reference.rows, 1.0)[self._rows_of]
        self._wander = Wander(
            np.concatenate((column, d + np.arange(p))),
            np.concatenate((self.scores.rarity(), np.ones(p))),
            np.stack((joint.first, joint.second)),
        )
        self._rhythm = Rhythm(len(share))
        self._least = np.full(len(share), _SHIFT)
        shares = self._least[: d * FUNCTIONS].reshape(d, FUNCTIONS)[:, SHARES:]
        np.maximum(shares, _MOVED / self.scores.sd, out=shares)
        self._values: tuple[FloatArray, FloatArray] = np.zeros(d), np.zeros(d)
        self._recent = np.zeros((len(STEPS), len(share)), dtype=np.float32)
        self._recent_rows: FloatArray = np.zeros(len(STEPS))
        # of columns that drift: how many times the least they moved
        self._on: FloatArray = np.zeros(d)
        self._window: Counts = np.zeros((d, COLUMNS), dtype=np.float32)
        self._window_pairs: FloatArray = np.zeros(p)
        self._window_rows = 0.0
        self._closed_at = -math.inf
        self._windows = 0
        self._seen = 0.0  # rows in order of time, of the reference too
        self._seen_s = 0.0
        self._set_null()

    def learn(self, columns: IntArray, run: FloatArray, *, whole: bool) -> None:
        """Learn how far rows wander from those of the reference, columns of bins (d, rows) in the order of time.

        run     (d,) rows in a run of one value, see `season.runs`
        whole   they are of all hours in which the model serves
        """
        self._seen_s = _YOUNG_S if whole else 0.0
        d = self._d
        offset = (np.arange(d) * COLUMNS)[:, None]
        self._wander.run[:d] = run
        for at in range(0, columns.shape[1] - QUANTUM + 1, QUANTUM):
            part = columns[:, at : at + QUANTUM]
            counts = np.bincount((part + offset).ravel(), minlength=d * COLUMNS)
            sums = self.scores.sums(counts.reshape(d, COLUMNS).astype(np.float64))
            joint = self.pairs.sums(self.places(part))
            self._wander.take(np.concatenate((sums, joint)), float(QUANTUM))
            self._seen += QUANTUM
        self._set_null()

    def places(self, columns: IntArray) -> FloatArray:
        """Return the place, in sd, of each value (d, rows); what lies outside counts as the nearest inside."""
        out: FloatArray = np.take_along_axis(self.scores.within, columns, axis=1)
        return out

    def keep(self, other: Shifts) -> None:
        """Take how far rows wander from what watched the same columns before."""
        self._wander, self._rhythm = other._wander, other._rhythm
        self._seen, self._seen_s = other._seen, other._seen_s
        self._set_null()

    def take(self, ts: float, counts: FloatArray, columns: IntArray) -> None:
        """Count a batch whose newest row is at `ts`: counts (d, COLUMNS) of its columns of bins (d, rows)."""
        self._window += counts
        if len(self.pairs.first):
            self._window_pairs += self.pairs.sums(self.places(columns))
        self._window_rows += columns.shape[1]
        if self._window_rows >= QUANTUM:
            self._close(ts)

    def _close(self, ts: float) -> None:
        sums = np.concatenate(
            (self.scores.sums(self._window.astype(np.float64)), self._window_pairs)
        )
        rows = self._window_rows
        past = ts - self._closed_at
        past = past if math.isfinite(past) else 0.0
        passed = past / self._quiet
        passed = min(max(passed, rows / _ROWS_BEARABLE), _MOST_PASSED)
        trust = self._trusted()
        before = self._rhythm.helps
        # of the first day all is learnt: what looks like drift then may be what each day is like
        usual = trust | (self._seen_s < _YOUNG_S)
        sums = self._rhythm.residual(ts, sums, rows, usual)
        self._wander.forget(self._rhythm.helps & ~before)
        self._evidence.take(sums, self._window.sum(axis=1)[self._rows_of], passed)
        fade = 2.0 ** (-rows / _SIZE_ROWS)
        self._recent *= fade[:, None]
        self._recent += sums
        self._recent_rows *= fade
        self._recent_rows += rows
        self._wander.take(sums, rows)
        self._look(latch=True)
        self._window[:] = 0.0
        self._window_pairs[:] = 0.0
        self._window_rows = 0.0
        self._closed_at = ts
        self._windows += 1
        self._seen += rows
        self._seen_s += past
        if self._windows % _REFRESH == 0 or self._windows < _YOUNG:
            self._set_null()

    def _trusted(self) -> BoolArray:
        """Return which statistics (n,) are of columns that do not drift, both of a pair."""
        _, sized = self.values()
        well: BoolArray = sized < Shifts.enough(sized)
        return np.concatenate(
            (
                np.repeat(well, FUNCTIONS),
                well[self.pairs.first] & well[self.pairs.second],
            )
        )

    def _look(self, *, latch: bool = False) -> None:
        """Work out the values; `latch`: and which columns drift, and how far the farthest of their statistics moved."""
        value = self._evidence.value()
        # of equal ones, at the cap, the largest step: its rows are the newest
        best = len(STEPS) - 1 - self._evidence.r[:, ::-1].argmax(axis=1) % len(STEPS)
        shift = np.abs(self._recent[best, np.arange(len(best))])
        times = shift / np.maximum(self._recent_rows[best], 1.0) / self._least
        sized = self._sized(value, times)
        if latch:
            far = self._most(np.where(value >= _NAMED, times, 0.0))
            self._on = np.where(sized >= Shifts.enough(sized), np.maximum(far, 1.0), 0.0)
            sized = self._sized(value, times)
        self._values = self._by_column(value), sized

    def _sized(self, value: FloatArray, times: FloatArray) -> FloatArray:
        """Return the e-value of each column (d,) by what moved far enough."""
        young = self._seen < _YOUNG_ROWS or self._seen_s < _YOUNG_S
        least = np.where(self._on > 0, 1.0, _BESIDE * self._on.max(initial=0.0))
        least = np.maximum(least, _YOUNG_SIZE if young else 1.0)
        second = np.minimum(least[self.pairs.first], least[self.pairs.second])
        enough = times >= np.concatenate((np.repeat(least, FUNCTIONS), second))
        return self._by_column(np.where(enough, value, 0.0))

    def _set_null(self) -> None:
        """Take how far rows wander into what the evidence is against."""
        effect = self._wander.effect()
        known = self._rows_known / season.at(effect, self._rows_known)
        self._evidence.set_null(
            self._bets.bounds(known), season.discount(effect, STEPS), self._trusted()
        )
        self._look()

    def values(self) -> tuple[FloatArray, FloatArray]:
        """Return the e-value of each column (d,), and that of what is large enough, too."""
        return self._values

    def _most(self, of: FloatArray) -> FloatArray:
        """Return the largest of the statistics of each column (d,), its pairs' too."""
        own = of[: self._d * FUNCTIONS].reshape(self._d, FUNCTIONS).max(axis=1, initial=0.0)
        for of_pair in (self.pairs.first, self.pairs.second):
            np.maximum.at(own, of_pair, of[self._d * FUNCTIONS :])
        return np.asarray(own)

    def joint(self) -> bool:
        """Tell whether two columns stand to each other as never before, each alone as ever."""
        value = self._evidence.value()
        own = value[: self._d * FUNCTIONS].reshape(self._d, FUNCTIONS).sum(axis=1)
        silent = np.maximum(own[self.pairs.first], own[self.pairs.second]) < _SILENT
        return bool((silent & (value[self._d * FUNCTIONS :] >= 1.0)).any())

    def _by_column(self, value: FloatArray) -> FloatArray:
        own = value[: self._d * FUNCTIONS].reshape(self._d, FUNCTIONS)
        alone: FloatArray = own.sum(axis=1)
        first, second = self.pairs.first, self.pairs.second
        silent = np.maximum(alone[first], alone[second]) < _SILENT
        joint = np.where(silent, value[self._d * FUNCTIONS :], 0.0)
        np.maximum.at(alone, first, joint)
        np.maximum.at(alone, second, joint)
        return alone

    @staticmethod
    def enough(sized: FloatArray) -> float:
        """Return the e-value that is enough for a column to be named."""
        return _NAMED if (sized >= 1.0).any() else 1.0

    # ---- restarts

    def state(self) -> dict[str, Any]:
        """Return the arrays that go on; looks at how far rows wander, so that all later is the same."""
        self._set_null()
        w = self._wander
        return {
            "r": self._evidence.r, "recent": self._recent, "recent_rows": self._recent_rows,
            "on": self._on, "window": self._window, "window_pairs": self._window_pairs,
            "hours": self._rhythm.sums, "hours_rows": self._rhythm.rows, "hours_errors": self._rhythm.errors,
            "hours_help": self._rhythm.helps,
            "wander_sums": w.sums, "wander_rows": w.rows, "wander_squares": w.squares, "wander_pairs": w.pairs,
            "wander_run": w.run,
            "watched": np.array(
                [self._window_rows, self._closed_at, self._windows, self._evidence.usual, self._seen,
                 self._seen_s, self._rhythm.last]
            ),
        }  # fmt: skip

    def restore(self, kept: dict[str, Any]) -> None:
        """Take what `state` gave; raises Refused when it does not fit."""
        mine = self.state()
        if any(name not in kept or kept[name].shape != mine[name].shape for name in mine):
            raise Refused("state of drift does not fit its reference: it is learnt anew")
        w = self._wander
        w.sums, w.rows = kept["wander_sums"], kept["wander_rows"]
        w.squares, w.pairs = kept["wander_squares"], kept["wander_pairs"]
        w.run = kept["wander_run"]
        self._set_null()  # before there is evidence: what was kept is discounted already
        self._evidence.r = kept["r"]
        self._recent, self._recent_rows = kept["recent"], kept["recent_rows"]
        self._window, self._window_pairs = kept["window"], kept["window_pairs"]
        self._on = kept["on"]
        self._rhythm.sums, self._rhythm.rows = kept["hours"], kept["hours_rows"]
        self._rhythm.errors, self._rhythm.helps = kept["hours_errors"], kept["hours_help"]
        self._window_rows, self._closed_at, windows, usual, *seen = map(float, kept["watched"])
        self._evidence.usual = usual
        self._seen, self._seen_s, self._rhythm.last = seen
        self._windows = int(windows)
        self._look()
