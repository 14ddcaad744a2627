"""How much more than chance a mean may wander: the design effect of rows that are not exchangeable.

Good for: rows in order of time (rhythms, slow wandering, runs of one value), whose window means vary more than
those of as many independent rows. Not for: telling a rhythm from a trend, or what lasts longer than all that was
seen: there the growth between the longest known windows is continued. Windows of what drifts are learnt, too: their
differences come back with it; what evidence is held against stays while it is on (see `watch`).

    rows -> means of 64 rows -> differences of neighbours, of neighbours of 128 rows, of 256 ... (Haar, Allan)

d(m) = m x half the mean square of such differences, for scores of variance 1: 1 when rows are independent, the
number of rows in a run when these stay together. One lasting change touches one difference of each length, so
that d says how restless rows are and not that they changed once. A column whose rows come in runs of one value
has d of a run's length, at least, however few its changes. Constant memory, (LEVELS, n) of each of three.
Sources: Allan, Statistics of atomic frequency standards, 1966; Kish, Survey sampling, 1965 (design effect);
Wilson, Hilferty, The distribution of chi-square, 1931.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.model import BoolArray, FloatArray, IntArray

QUANTUM: Final = 64
"""Rows of the shortest window."""
LEVELS: Final = 14
_SURE: Final = 4.0
"""Standard deviations by which differences must be too large before the rows of a column are called dependent."""
_ORDERED: Final = 0.1
"""When so many of the columns are, the order of rows means something, and _SUSPECT is enough for the others."""
_SUSPECT: Final = 1.0
_OUTLIER: Final = 9.0
"""Times the usual, or twice that of half the length: a larger square, of one change, counts as this."""
_TRUSTED: Final = 8
"""Differences of the shortest length before that is known."""
_PRIOR: Final = 3.0
"""So many differences the continued growth counts as."""
_ENOUGH: Final = 16.0
"""T below: the natural logarithm that alarms need, about."""
_LEAST_RUNS: Final = 16.0
_IN_RUNS: Final = 0.25
"""Rows are in runs when there are fewer than so many of the runs that chance gives, and chance gives enough to tell."""
HOURS: Final = 24
_DAY_S: Final = 86_400.0
_PROFILE_DAYS: Final = 14.0
_JUDGED_DAYS: Final = 2.0
"""Half-lives: of the means of the hours, and of how well they foretold."""
_HELPS: Final = 0.7
"""The hours are taken off where this share of the squares, at most, is left without them."""
_LENGTHS: Final = QUANTUM * 1.5 * 2.0 ** np.arange(LEVELS)[:, None]


class Wander:
    """The design effects of n statistics, each with mean 0 and variance 1 a row in the reference."""

    def __init__(self, of: IntArray, rarity: FloatArray, joint: IntArray) -> None:
        """Take the column that each statistic is of (n,), 1 / share of shares (n,), and columns of pairs (2, p).

        The sums of rare things are far from normal while few rows have them. Pairs are the last p columns, of one
        statistic each.
        """
        n = len(of)
        self._of, self._columns = of, int(of.max(initial=-1)) + 1
        self._joint = joint
        self._rarity = rarity
        self.sums: npt.NDArray[np.float32] = np.zeros((LEVELS, n), dtype=np.float32)
        self.rows: FloatArray = np.zeros(LEVELS)
        self.squares: npt.NDArray[np.float32] = np.zeros((LEVELS, n), dtype=np.float32)
        self.pairs: FloatArray = np.zeros(LEVELS)
        self.run: FloatArray = np.ones(self._columns)

    def take(self, sums: FloatArray, rows: float) -> None:
        """Count the sums (n,) of the scores of a window of at least QUANTUM rows."""
        level = min(int(np.log2(max(rows / QUANTUM, 1.0))), LEVELS - 1)
        below = np.ones(len(sums))
        while level < LEVELS:
            pairs = self.pairs[level]
            usual = np.maximum(self.squares[level] / max(pairs, 1.0), below)
            before = self.rows[level]
            if not before:
                self.sums[level], self.rows[level] = sums, rows
                return
            earlier = self.sums[level].astype(np.float64)
            change = sums / rows - earlier / before
            square = change * change / (1.0 / rows + 1.0 / before)
            if level or pairs >= _TRUSTED:
                square = np.minimum(square, _OUTLIER * usual)
            self.squares[level] += square
            self.pairs[level] += 1
            self.rows[level] = 0.0
            sums, rows = sums + earlier, rows + before
            below = 2.0 * np.maximum(self.squares[level] / (pairs + 1.0), 0.5)
            level += 1

    def forget(self, which: BoolArray) -> None:
        """Forget what is known of the statistics `which` (n,): from now on their rhythm is taken off."""
        if which.any():
            self.squares[:, which] = np.minimum(self.squares[:, which], self.pairs[:, None])

    def effect(self) -> FloatArray:
        """Return d (LEVELS, n), at least 1, for windows of 96, 192, 384 ... rows."""
        pairs = self.pairs[:, None]
        raw = self.squares / np.maximum(pairs, 1.0)
        # the sum of squares of rare things has fewer degrees of freedom
        sure = np.maximum(pairs / (1.0 + 0.25 * self._rarity / _LENGTHS), 0.1)
        z = (np.cbrt(raw) - (1.0 - 2.0 / (9.0 * sure))) / np.sqrt(2.0 / (9.0 * sure))
        surest = np.zeros(self._columns)
        np.maximum.at(surest, self._of, np.where(pairs >= 2, z, 0.0).max(axis=0))
        in_runs = self.run > 1.0
        dependent = (surest > _SURE) | in_runs
        ordered = int(np.count_nonzero(dependent)) >= max(2.0, _ORDERED * self._columns)
        if ordered:
            dependent = (surest > _SUSPECT) | in_runs
        out = np.ones(raw.shape)
        which = dependent[self._of]
        if not which.any():
            return out
        out[:, which] = self._continued(raw[:, which], ordered=ordered)
        if in_runs.any():
            np.maximum(out, np.minimum(_LENGTHS, self.run[self._of]), out=out)
        # what is rare has no rhythm of its own yet: it goes with its column, and a pair with its two
        pairs = self._joint.shape[1]
        for level in out:
            most = np.ones(self._columns)
            np.maximum.at(most, self._of, level)
            if pairs:
                most[-pairs:] = np.maximum(most[-pairs:], most[self._joint].max(axis=0))
            level[:] = most[self._of]
        return out

    def _continued(self, raw: FloatArray, *, ordered: bool) -> FloatArray:
        """Return d (LEVELS, m) of dependent statistics: measured, and where few were, as it grew before."""
        out = np.ones(raw.shape)
        now = np.maximum(raw[0], 1.0)
        growth, known = np.full(len(now), 0.5 if ordered else 0.0), _PRIOR
        for level in range(LEVELS):
            n = self.pairs[level]
            prior = _PRIOR if level else 0.0
            guess = now * 2.0 ** np.clip(growth, 0.0, 1.0)
            value = now if n + prior == 0 else (prior * guess + n * raw[level]) / (prior + n)
            value = np.maximum(value, 1.0)
            if level and n >= 2:  # one difference tells no growth
                growth += n / (n + known) * (np.log2(value / now) - growth)
                known = 0.5 * (known + n)
            out[level] = now = value
        return out


def runs(values: FloatArray) -> FloatArray:
    """Return the rows in a run of one value (d,), of values (d, rows) in order; 1 where rows are no runs.

    Rows in any order have 1 + n (1 - sum p^2) runs, about (Wald, Wolfowitz, 1940). With a quarter of them it is the
    runs that are exchangeable, if anything is, and so few are known. A column of one value has one run either way.
    """
    out = np.ones(len(values))
    for i, x in enumerate(values):
        n = len(x)
        found = 1 + np.count_nonzero(x[1:] != x[:-1])
        if found > _IN_RUNS * n:
            continue
        share = np.unique(x, return_counts=True)[1] / n
        expected = 1.0 + n * (1.0 - (share @ share))
        if expected > _LEAST_RUNS and found < _IN_RUNS * expected:
            out[i] = n / found
    return out


def discount(effect: FloatArray, steps: FloatArray) -> FloatArray:
    """Return by what to divide the logarithm of bets on a shift of `steps` (s,) sd: (n, s), at least 1.

    Of a window of m rows such a logarithm is about normal with mean -a/d and variance 2 a d(m) / d^2, a = m l^2 / 2.
    It reaches T with a chance of at most exp(-T), as it would with independent rows, when T d >= 2 sqrt(T a d(m)) - a:
    large bets do not mind what shows only in long windows, small ones not what comes and goes in short ones.
    """
    a = 0.5 * _LENGTHS[:, :, None] * steps**2
    needed = (2.0 * np.sqrt(_ENOUGH * a * effect[:, :, None]) - a) / _ENOUGH
    out: FloatArray = np.maximum(needed.max(axis=0), 1.0)
    return out


def at(effect: FloatArray, rows: FloatArray) -> FloatArray:
    """Return d (n,) of windows of `rows` (n,)."""
    level = np.clip(np.ceil(np.log2(np.maximum(rows, 1.0) / _LENGTHS[0])), 0, LEVELS - 1)
    out: FloatArray = effect[level.astype(np.int64), np.arange(effect.shape[1])]
    return out


class Rhythm:
    """What the hour of the day does to n statistics: taken off where it foretold the days that came after.

    Good for: a daily rhythm of which a day at least was seen; a shift of all hours stays. Not for: rhythms of a week
    or a year, which are wandering (see `Wander`). Rows in no rhythm lose nothing: there the hours foretell nothing.
    """

    def __init__(self, n: int) -> None:
        self.sums: npt.NDArray[np.float32] = np.zeros((HOURS, n), dtype=np.float32)
        self.rows: FloatArray = np.zeros(HOURS)
        self.errors: FloatArray = np.zeros((2, n))
        self.last = np.nan
        self.helps: BoolArray = np.zeros(n, dtype=np.bool_)

    def residual(self, ts: float, sums: FloatArray, rows: float, trust: BoolArray) -> FloatArray:
        """Return the sums (n,) of a window without what its hour foretells, and learn it where trusted."""
        hour = int(ts % _DAY_S / _DAY_S * HOURS)
        past = min(max(ts - self.last, 0.0), _DAY_S) if self.last == self.last else 0.0  # NaN
        self.last = ts
        fade = 2.0 ** (-past / _DAY_S / _PROFILE_DAYS)
        out = sums
        if self.rows.all():
            means = self.sums / self.rows[:, None]
            centre = means.mean(axis=0)
            foretold = means[hour] - centre
            mean = sums / rows - centre
            self.helps = self.errors[0] < _HELPS * self.errors[1]
            out = np.where(self.helps, sums - rows * foretold, sums)
            squares = rows * np.stack(((mean - foretold) ** 2, mean**2))
            self.errors *= 2.0 ** (-past / _DAY_S / _JUDGED_DAYS)
            self.errors += np.where(trust, squares, 0.0)
            sums = np.where(trust, sums, rows * means[hour])
        self.sums *= fade
        self.rows *= fade
        self.sums[hour] += sums
        self.rows[hour] += rows
        return out
