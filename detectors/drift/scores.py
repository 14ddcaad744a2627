"""What is asked of each column: its place, its spread, and the shares of its values; linear in the counts of its bins.

    number      place (normal scores of the ranks), spread (their squares), missing, wrong type, below, above, 8 groups
    category    missing, never seen, the 9 most frequent values and the rest

Each is a score of a row with mean 0 and variance 1 in the reference, so that one statistic is as good as another.
Place and spread are of ranks: an outlier is worth as much as the largest value of the reference, and a bit.
Arrays (d features, FUNCTIONS); where a column has no such thing all is 0 and there is nothing to bet on.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np

from agent.model import FloatArray, IntArray
from detectors.drift.evidence import Bets
from detectors.drift.reference import ABOVE, BELOW, COLUMNS, MISSING, WRONG, Reference

PLACE, SPREAD, SHARES = range(3)
"""Where the statistics of a column begin: two, and then GROUPS shares."""
GROUPS: Final = 12
FUNCTIONS: Final = SHARES + GROUPS
_OUTSIDE: Final = 2.6
"""Place of what is below or above all of the reference, in sd."""
_NORMAL: Final = np.vectorize(NormalDist().inv_cdf, otypes=[float])


class Scores:
    """The statistics of the columns of a reference."""

    def __init__(self, reference: Reference) -> None:
        p, numeric = reference.shares, reference.numeric
        d = len(p)
        n = np.maximum(reference.rows, 1.0)[:, None]
        self.curves = np.zeros((d, SHARES, COLUMNS))
        self.curves[numeric, PLACE] = _places(p[numeric])
        self.curves[:, PLACE] = _standard(self.curves[:, PLACE], p)
        # where a product of two stands to what was seen of it is known within the reference alone
        self.within = self.curves[:, PLACE].copy()
        self.within[numeric, BELOW] = self.within[numeric, 1]
        self.within[numeric, ABOVE] = self.within[numeric, reference.bins[numeric]]
        inside = np.ones(COLUMNS, dtype=np.bool_)
        inside[[MISSING, WRONG]] = False
        square = np.where(inside, np.minimum(self.curves[:, PLACE] ** 2, _OUTSIDE**2), 1.0)
        self.curves[:, SPREAD] = _standard(np.where(numeric[:, None], square, 0.0), p)
        self.groups: IntArray = _groups(reference)
        self._flat = (np.arange(d)[:, None] * GROUPS + self.groups).ravel()
        some = np.zeros((d, GROUPS), dtype=np.bool_)
        columns = np.arange(COLUMNS)[None, :]
        real = (columns <= reference.bins[:, None]) | (columns >= ABOVE)
        real[~numeric, BELOW] = real[~numeric, ABOVE] = False
        np.put_along_axis(some, np.where(real, self.groups, 0), values=True, axis=1)
        some[:, 0] = True  # missing: every column may be
        share = self._grouped(p)
        # what was never seen, or always, is as rare as half a row
        self.share = np.where(some, np.clip(share, 0.5 / n, 1.0 - 0.5 / n), 0.5)
        self.sd = np.where(some, np.sqrt(self.share * (1.0 - self.share)), np.inf)
        self._some = some
        self._usual = p

    def _grouped(self, counts: FloatArray) -> FloatArray:
        d = len(counts)
        sums = np.bincount(self._flat, weights=counts.ravel(), minlength=d * GROUPS)
        return sums.astype(np.float64).reshape(d, GROUPS)

    def sums(self, counts: FloatArray) -> FloatArray:
        """Return the sums of the scores (d * FUNCTIONS,) of counts (d, COLUMNS)."""
        out = np.empty((len(counts), FUNCTIONS))
        out[:, :SHARES] = np.matmul(self.curves, counts[:, :, None])[:, :, 0]
        rows = counts.sum(axis=1, keepdims=True)
        out[:, SHARES:] = (self._grouped(counts) - rows * self.share) / self.sd
        return out.ravel()

    def bets(self) -> Bets:
        """Return the bets on the statistics, in the order of `sums`."""
        d = len(self.share)
        weights = np.repeat(self._usual[:, None, :], SHARES, axis=1)
        curves = Bets(self.curves.reshape(-1, COLUMNS), weights.reshape(-1, COLUMNS))
        two = np.stack(((1.0 - self.share) / self.sd, -self.share / self.sd), axis=-1)
        shares = Bets(
            two.reshape(-1, 2), np.stack((self.share, 1.0 - self.share), axis=-1).reshape(-1, 2)
        )
        order = np.argsort(
            np.concatenate(
                (
                    (np.arange(d)[:, None] * FUNCTIONS + np.arange(SHARES)).ravel(),
                    (np.arange(d)[:, None] * FUNCTIONS + SHARES + np.arange(GROUPS)).ravel(),
                )
            )
        )
        return Bets.joined([curves, shares]).ordered(order)

    def weights(self) -> FloatArray:
        """Return how much of the evidence of a column each statistic is (d * FUNCTIONS,)."""
        out = np.zeros((len(self.share), FUNCTIONS))
        out[:, SHARES:] = self._some / self._some.sum(axis=1, keepdims=True)
        whole = (self.curves != 0).any(axis=2)
        out[:, SHARES:] *= np.where(whole[:, :1], 0.4, 1.0)
        out[:, PLACE] = np.where(whole[:, PLACE], 0.4, 0.0)
        out[:, SPREAD] = np.where(whole[:, SPREAD], 0.2, 0.0)
        return out.ravel()

    def rarity(self) -> FloatArray:
        """Return 1 / share of the rarer side of each statistic (d * FUNCTIONS,); 1 for place and spread."""
        out = np.ones((len(self.share), FUNCTIONS))
        out[:, SHARES:] = 1.0 / np.maximum(np.minimum(self.share, 1.0 - self.share), 1e-9)
        return out.ravel()


def _places(p: FloatArray) -> FloatArray:
    """Return the normal scores of the middle ranks of the bins (m, COLUMNS)."""
    inner = p[:, : ABOVE + 1].copy()
    total = np.maximum(inner.sum(axis=1, keepdims=True), 1e-12)
    rank = (np.cumsum(inner, axis=1) - inner / 2) / total
    out = np.zeros(p.shape)
    out[:, : ABOVE + 1] = _NORMAL(np.clip(rank, 0.004, 0.996)) if len(p) else rank
    out[:, BELOW], out[:, ABOVE] = -_OUTSIDE, _OUTSIDE
    return out


def _standard(score: FloatArray, p: FloatArray) -> FloatArray:
    """Give scores (d, COLUMNS) mean 0 and variance 1 among what is not missing or wrong; these get 0."""
    weight = p.copy()
    weight[:, [MISSING, WRONG]] = 0.0
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
    centred = score - (score * weight).sum(axis=1, keepdims=True)
    sd = np.sqrt((centred**2 * weight).sum(axis=1, keepdims=True))
    out = np.where(sd > 1e-3, centred / np.maximum(sd, 1e-3), 0.0)  # all in one bin
    out[:, [MISSING, WRONG]] = 0.0
    return out


def _groups(reference: Reference) -> IntArray:
    """Return the group of each column of bins (d, COLUMNS)."""
    p, bins = reference.shares, reference.bins
    out = np.zeros(p.shape, dtype=np.int64)
    out[:, WRONG] = 1
    inner = np.arange(1, ABOVE)[None, :]
    last = GROUPS - 1
    out[:, 1:ABOVE] = np.minimum(inner + 1, last)
    numeric = np.flatnonzero(reference.numeric)
    out[numeric, BELOW], out[numeric, ABOVE] = 2, 3
    many = bins[numeric] > GROUPS - 4
    share = p[numeric, 1:ABOVE]
    middle = np.cumsum(share, axis=1) - share / 2
    middle /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
    by_rank = 4 + np.minimum((middle * (GROUPS - 4)).astype(np.int64), GROUPS - 5)
    by_bin = np.minimum(inner + 3, last)
    out[numeric, 1:ABOVE] = np.where(many[:, None], by_rank, by_bin)
    return out
