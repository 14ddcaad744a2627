"""How surely rows are no longer as the reference: e-values that may be looked at all the time.

Good for: many statistics of many rows, watched without end: the user says how often a false alarm is bearable,
whatever the number of statistics. Not for: how large a change is; size must stand beside the evidence.

A statistic is a score of a row with mean 0 and variance 1 in the reference: a place, a spread, a share, a product of
two columns. For each there are bets on shifts of about STEPS sd up and down, worth

    L = exp((t S - n m) / d)     S the sum of n scores, m the upper bound of log E exp(t score) in the reference,
                                 d the discount for rows that are not independent (see `season`), else 1
    R <- (R + w) L               w the share of the bearable time that has passed

L is at most 1 on average while rows are as in the reference, so the mean of all R, weighted, reaches 1 at most once in
the bearable time on average (for independent rows; the bounds m hold with a chance of about .98 each over the
reference). With dependent rows this is a heuristic that is as good as d. No share of a tolerance is taken off: the
smallest step breaks even at half of its size, and what is smaller is not asked for.
Arrays (n statistics, 2 x STEPS); cost .1 microseconds a statistic and window.
Sources: Shin, Ramdas, Rinaldo, E-detectors, 2022 (the recursion); Maurer, Pontil, Empirical Bernstein bounds, 2009 (m).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.model import BoolArray, FloatArray, IntArray

STEPS: Final = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
_SIGNS: Final = np.repeat((1.0, -1.0), len(STEPS))
_Z: Final = 1.5
_RARE: Final = 3.0
"""How many rows of what the reference has not may have stayed out of it by chance."""
_CAP: Final = 100.0
"""Times what an alarm takes: evidence piles up no further, so that it can go again."""
_MOST: Final = 60.0
"""Natural log of what one window may be worth."""


class Bets:
    """The bets on n statistics: t, and mean, sd and range of exp(t score) in the reference, each (n, bets)."""

    def __init__(
        self, scores: FloatArray, weights: FloatArray, ends: FloatArray | None = None
    ) -> None:
        """Take what a statistic may be (n, k) and how often (n, k), sum 1; all scores 0 = nothing to bet on.

        ends   (n, m) what it may be, too, though it never was
        """
        t = _tilts(scores, weights)
        usable = np.isfinite(t)
        self.tilts: FloatArray = np.where(usable, t, 0.0)
        worth = np.exp(np.minimum(self.tilts[:, :, None] * scores[:, None, :], 300.0))
        mean = (worth * weights[:, None, :]).sum(axis=2)
        square = (worth**2 * weights[:, None, :]).sum(axis=2)
        self.mean = mean
        self.deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        self.range = worth.max(axis=2) - worth.min(axis=2)
        if ends is not None:
            beyond = np.exp(np.minimum(self.tilts[:, :, None] * ends[:, None, :], 300.0)).max(
                axis=2
            )
            self.range = np.maximum(self.range, beyond)
        self.usable = usable

    def bounds(self, rows: FloatArray) -> FloatArray:
        """Return the upper bound of log E exp(t score) (n, bets) when `rows` (n,) independent ones are known."""
        n = np.maximum(rows, 1.0)[:, None]
        bound = np.log(self.mean + _Z * self.deviation / np.sqrt(n) + _RARE * self.range / n)
        return np.where(self.usable, bound, 0.0)

    @classmethod
    def joined(cls, parts: list[Bets]) -> Bets:
        """Put bets on several sorts of statistics together."""
        out = cls.__new__(cls)
        for name in ("tilts", "mean", "deviation", "range", "usable"):
            setattr(out, name, np.concatenate([getattr(part, name) for part in parts]))
        return out

    def ordered(self, order: IntArray) -> Bets:
        """Return the bets on the statistics `order`."""
        out = type(self).__new__(type(self))
        for name in ("tilts", "mean", "deviation", "range", "usable"):
            setattr(out, name, getattr(self, name)[order])
        return out


def _tilts(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Return t (n, bets) so that tilting by exp(t score) is as far as a shift of STEPS sd: l^2 / 2; NaN = none is."""
    far = np.tile(0.5 * STEPS**2, 2)
    low = np.zeros((len(scores), len(far)))
    high = np.tile(64.0 / np.maximum(np.abs(scores).max(axis=1, keepdims=True), 1e-9), len(far))
    signed, some = _SIGNS[:, None] * scores[:, None, :], weights[:, :, None]
    x, worth = np.empty(signed.shape), np.empty(signed.shape)
    reached = np.zeros(low.shape, dtype=np.bool_)
    for _ in range(30):
        t = 0.5 * (low + high)
        np.multiply(t[:, :, None], signed, out=x)
        np.exp(x, out=worth)  # at most exp(64)
        total = np.matmul(worth, some)[:, :, 0]
        kl = np.matmul(np.multiply(worth, x, out=x), some)[:, :, 0] / total - np.log(total)
        over = kl >= far
        reached |= over
        high = np.where(over, t, high)
        low = np.where(over, low, t)
    return np.where(reached, _SIGNS * high, np.nan)


class Evidence:
    """The e-detectors of n statistics with the weights `share` (n,), sum 1."""

    def __init__(self, bets: Bets, share: FloatArray) -> None:
        self._tilts = bets.tilts
        used = bets.usable.sum(axis=1, keepdims=True)
        self._share: FloatArray = np.where(bets.usable, share[:, None], 0.0) / np.maximum(used, 1)
        self._cap = np.minimum(_CAP / np.maximum(self._share, 1e-30), 1e30).astype(np.float32)
        self._bounds = np.zeros_like(bets.tilts)
        self._discount = np.ones_like(bets.tilts)
        self.usual = 1.0
        self.r: npt.NDArray[np.float32] = np.zeros(bets.tilts.shape, dtype=np.float32)

    def set_null(self, bounds: FloatArray, discount: FloatArray, trust: BoolArray) -> None:
        """Take the bounds m (n, bets) and the discounts d (n, STEPS).

        trust   (n,) no alarm is on: what was found before is discounted, too
        """
        both = np.concatenate((discount, discount), axis=1)
        less = np.minimum(self._discount / both, 1.0)
        some = trust[:, None] & (less < 1.0) & (self.r > self.usual)
        if some.any():
            self.r[some] = self.usual * (self.r[some] / self.usual) ** less[some]
        self._bounds, self._discount = bounds, both

    def take(self, sums: FloatArray, rows: FloatArray, passed: float) -> None:
        """Count the sums (n,) of the scores of `rows` (n,).

        passed   the share of the bearable time since the last window, more than 0
        """
        gain = (self._tilts * sums[:, None] - rows[:, None] * self._bounds) / self._discount
        self.usual = passed
        self.r += passed
        self.r *= np.exp(np.clip(gain, -_MOST, _MOST))
        np.minimum(self.r, self._cap, out=self.r)

    def value(self) -> FloatArray:
        """Return the e-value of each statistic (n,), weighted: 1 or more is enough for an alarm."""
        out: FloatArray = (self.r * self._share).sum(axis=1)
        return out

    def restart(self) -> None:
        """Forget all evidence."""
        self.r[:] = 0.0
