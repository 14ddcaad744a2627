"""Joint change: products of two standardised columns, as columns of their own.

Good for: a relation between two numbers that weakens, turns round or appears while each alone stays as it was. Not
for: relations of three, or of categories. All pairs of up to 10 columns; of more, MOST_PAIRS: two thirds those that
hang together most, the rest spread over all others, so that a new relation of many columns is met somewhere.
Rows of the reference are needed once; what is kept of them is a histogram of KEPT products a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.model import FloatArray, IntArray
from detectors.drift.evidence import Bets

MOST_PAIRS: Final = 45
KEPT: Final = 40
_MOST_SCORE: Final = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The pairs of columns that are watched.

    first, second   (p,) indices of columns
    mean, sd        (p,) of the products in the reference
    scores          (p, KEPT) what the standardised products are, each as often
    ends            (p, 2) what they may be at the least and at the most
    """

    first: IntArray
    second: IntArray
    mean: FloatArray
    sd: FloatArray
    scores: FloatArray
    ends: FloatArray

    def sums(self, places: FloatArray) -> FloatArray:
        """Return the sums of the scores (p,) of rows with `places` (d, n)."""
        raw = np.einsum("pn,pn->p", places[self.first], places[self.second])
        out: FloatArray = (raw - places.shape[1] * self.mean) / self.sd
        return out

    def bets(self) -> Bets:
        """Return the bets on the products."""
        return Bets(self.scores, np.full(self.scores.shape, 1.0 / KEPT), self.ends)


def none() -> Pairs:
    """Return no pairs: without rows of the reference there are none."""
    index = np.zeros(0, dtype=np.int64)
    return Pairs(index, index, np.zeros(0), np.ones(0), np.zeros((0, KEPT)), np.zeros((0, 2)))


def choose(places: FloatArray) -> Pairs:
    """Choose pairs by the places (d, n) of the rows of the reference; a column that never varies has none."""
    varies = np.flatnonzero(places.std(axis=1) > 0)
    d = len(varies)
    if d < 2 or places.shape[1] < KEPT:  # a pair takes two
        return none()
    first, second = (varies[index] for index in np.triu_indices(d, 1))
    if len(first) > MOST_PAIRS:
        together = np.corrcoef(places[varies])
        strength = np.abs(np.asarray(together)[np.triu_indices(d, 1)])
        order = np.argsort(-strength, kind="stable")
        best = MOST_PAIRS * 2 // 3
        spread = np.linspace(best, len(order) - 1, MOST_PAIRS - best).astype(np.int64)
        chosen = np.sort(order[np.concatenate((np.arange(best), spread))])
        first, second = first[chosen], second[chosen]
    products = np.sort(places[first] * places[second], axis=1)
    mean, sd = products.mean(axis=1), products.std(axis=1)
    some = sd > 1e-6  # one value at a time is never both
    first, second, products = first[some], second[some], products[some]
    mean, sd = mean[some], sd[some]
    # the mean of every KEPT-th part; the largest and smallest parts hold the tails
    cuts = np.linspace(0, products.shape[1], KEPT + 1).astype(np.int64)
    parts = np.add.reduceat(products, cuts[:-1], axis=1) / np.diff(cuts)
    scores = parts - parts.mean(axis=1, keepdims=True)
    scores /= np.maximum(
        scores.std(axis=1, keepdims=True), 1e-12
    )  # means of parts vary less than rows
    extremes = np.stack((places.min(axis=1), places.max(axis=1)))
    corners = (extremes[:, None, first] * extremes[None, :, second]).reshape(4, -1)
    ends = (np.stack((corners.min(axis=0), corners.max(axis=0))) - mean) / sd
    scores = np.clip(scores, -_MOST_SCORE, _MOST_SCORE)
    return Pairs(first, second, mean, sd, scores, ends.T)


def arrays(pairs: Pairs) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of pairs for a checkpoint."""
    return {f"pairs_{field.name}": getattr(pairs, field.name) for field in fields(Pairs)}


def restore(kept: Mapping[str, npt.NDArray[Any]]) -> Pairs:
    """Put together what `arrays` gave."""
    return Pairs(**{field.name: kept[f"pairs_{field.name}"] for field in fields(Pairs)})
