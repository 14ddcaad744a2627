"""How rare a value is, per column: a moving 98 % quantile and a generalised Pareto tail above it.

Learns one row at a time in 5 numbers a cell. Good for any one-sided statistic whose scale is roughly known (it
starts from a prior that a few hundred rows replace). Not for two-sided ones: give it the magnitude.
Source: stochastic approximation of a quantile (Robbins & Monro 1951), here on a logarithmic scale so that no step
size in units is needed; peaks over threshold, declustered by runs (Smith 1989),
with a Pareto tail fitted by moments (Hosking & Wallis 1987).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray

ABOVE: Final = 0.02
"""Share of rows that lies above the quantile."""
LOG_ABOVE: Final = float(-np.log(ABOVE))
"""Rarity of the quantile itself, in nats."""
_SLOWEST: Final = 0.001
"""Step of the quantile after its quick start: a change must last thousands of rows to look ordinary."""
_CAP: Final = 4.0
"""An excess teaches as if it were at most this many mean excesses: events must not become ordinary."""
_PRIOR_EXCESSES: Final = 10.0
_SHAPE_MIN, _SHAPE_MAX = 0.02, 0.5
_REFRESH: Final = 16
"""Rows between two fits of the shape; between them only quantile and means move."""


class Tail:
    """Tails of c statistics of n series: every array is (c, n).

    start    (c,) quantile and mean excess before anything is learnt
    """

    def __init__(self, start: FloatArray, n: int) -> None:
        self._least = 0.25 * start[:, :1]
        c = len(start)
        self.quantile: FloatArray = np.repeat(start[:, :1], n, axis=1)
        self.excess: FloatArray = np.repeat(start[:, 1:2], n, axis=1)
        # An exponential tail has mean square 2 m^2; the prior is heavier, as metrics are.
        self.square: FloatArray = 2.5 * self.excess**2
        self.seen: FloatArray = np.zeros((c, n))
        self.streak: FloatArray = np.zeros((c, n))
        self.shape: FloatArray = np.zeros((c, n))
        self.width: FloatArray = np.ones((c, n))
        self.ticks = 0
        self.refresh()

    def arrays(self) -> dict[str, FloatArray]:
        """Return the state by name, each (c, n)."""
        names = ("quantile", "excess", "square", "seen", "streak", "shape", "width")
        return {name: getattr(self, name) for name in names}

    def refresh(self) -> None:
        """Fit shape and width of the Pareto tail from the two moments."""
        variance = np.maximum(self.square - self.excess**2, 1e-300)
        shape = 0.5 * (1.0 - self.excess**2 / variance)
        self.shape = np.clip(shape, _SHAPE_MIN, _SHAPE_MAX)
        self.width = self.excess * (1.0 - self.shape)

    def rarity(self, v: FloatArray, first: int = 0) -> FloatArray:
        """Return -log of the probability of so much or more, for v (m, n) >= 0, statistics `first` to first + m."""
        of = slice(first, first + len(v))
        quantile, shape = self.quantile[of], self.shape[of]
        over = v - quantile
        np.maximum(over, 0.0, out=over)
        over *= shape / self.width[of]
        out = np.log1p(over)
        out /= shape
        # Below the quantile: straight to probability 1 at zero.
        out += LOG_ABOVE * np.minimum(v / quantile, 1.0)
        return out

    def learn(self, v: FloatArray, teach: BoolArray, rows: FloatArray) -> None:
        """Learn a row v (c, n) of the series with teach (n,) True; rows (n,) were learnt before it."""
        rate = _rate(rows, _SLOWEST, teach)
        over = v > self.quantile
        over &= teach
        # flat positions, into flat views: few of all cells, and half the price on few series
        at = over.ravel().nonzero()[0]
        quantiles = self.quantile.ravel()
        if len(at):
            excess, square, seen = self.excess.ravel(), self.square.ravel(), self.seen.ravel()
            mean, known = excess[at], seen[at]
            share = 1.0 / (1.0 + self.streak.ravel()[at])
            weight = share / np.minimum(known + _PRIOR_EXCESSES, 300.0)
            capped = np.minimum(v.ravel()[at] - quantiles[at], _CAP * mean)
            square[at] += weight * (capped * capped - square[at])
            excess[at] = mean + weight * (capped - mean)
            seen[at] = known + share
        self.streak += 1.0
        self.streak *= over
        self.quantile *= np.exp(-ABOVE * rate)
        quantiles[at] *= np.exp(rate)[at % len(rate)]
        np.maximum(self.quantile, self._least, out=self.quantile)
        self.ticks += 1
        if self.ticks % _REFRESH == 0:
            self.refresh()


class Quantile:
    """A moving 98 % quantile of one positive statistic of n series, on a logarithmic scale; value (n,)."""

    def __init__(self, start: float, n: int) -> None:
        self._least = 0.25 * start
        self.value: FloatArray = np.full(n, start)

    def learn(self, v: FloatArray, teach: BoolArray, rows: FloatArray) -> None:
        """Learn a row v (n,) where `teach`; rows (n,) were learnt before it."""
        rate = _rate(rows, 0.5 * _SLOWEST, teach)
        self.value *= np.exp(rate * ((v > self.value) - ABOVE))
        np.maximum(self.value, self._least, out=self.value)


def _rate(rows: FloatArray, slowest: float, teach: BoolArray) -> FloatArray:
    """Return the step (n,) of a quantile after so many rows: quick at first; 0 where nothing is learnt."""
    rate = 8.0 / np.maximum(rows, 1.0)
    np.minimum(np.maximum(rate, slowest, out=rate), 0.3, out=rate)
    rate *= teach
    return rate
