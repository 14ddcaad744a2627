"""Why the model said this of this one row: which features drove it, or else which were unlike what it is used to.

`shapley` asks the model itself: how much each feature moves its answer away from what it says of reference rows,
averaged over the orders in which features may be exchanged. Good for: any callable over numbers, 2 to about 200
features. Not for: causes in the world; features that hang together are exchanged one by one, which makes rows that
may never be. `unusual` needs no model, only counts: how rare each value is. It tells what stands out, not what counted.

Units: those of the model's answer; rareness is a share of the reference. NaN goes to the model as it is.
Cost: (features + 1) x 2 x `orders` rows through the model; 10,000 for 50 features and 100 orders.
Sources: Strumbelj, Kononenko, Explaining prediction models and individual predictions with feature contributions,
2014 (sampling); Mitchell et al., Sampling permutations for Shapley value estimation, 2022 (each order and its reverse).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.errors import Refused
from agent.model import FloatArray, IntArray

_MOST_ROWS: Final = 4096
"""Through the model at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Drivers:
    """What drove one answer: answer = usual + parts.sum(), exactly.

    usual   what the model says of the reference rows it was compared with, on average
    parts   (d,) of each feature; error (d,) their standard error
    """

    answer: float
    usual: float
    parts: FloatArray
    error: FloatArray


def shapley(
    model: Callable[[FloatArray], FloatArray],
    row: FloatArray,
    reference: FloatArray,
    rng: np.random.Generator,
    orders: int = 100,
) -> Drivers:
    """Share the answer of the model for `row` (d,) among its features, against rows of the `reference` (m, d).

    model    (k, d) -> (k,), one number a row: a probability, better its log-odds
    orders   drawn at random, each with its reverse, each pair against one reference row
    """
    d = len(row)
    if reference.ndim != 2 or reference.shape[1] != d or not len(reference) or orders < 2:
        raise Refused(
            "shapley: needs reference rows as long as the row, and two orders at the least"
        )
    # every reference row once before any comes twice
    rounds = -(-orders // len(reference))
    chosen = np.concatenate([rng.permutation(len(reference)) for _ in range(rounds)])[:orders]
    parts = np.empty((orders, d))
    usual = np.empty(orders)
    a_time = max(1, _MOST_ROWS // (2 * (d + 1)))
    for first in range(0, orders, a_time):
        some = chosen[first : first + a_time]
        order = rng.permuted(np.tile(np.arange(d), (len(some), 1)), axis=1)
        place = np.argsort(order, axis=1)
        total = np.zeros((len(some), d))
        for place_of in (place, d - 1 - place):
            # step s of a walk holds the own value of the features placed before s
            own = place_of[:, None, :] < np.arange(d + 1)[:, None]
            rows = np.where(own, row, reference[some][:, None, :])
            said = np.asarray(model(rows.reshape(-1, d)), dtype=np.float64)
            walk = said.reshape(len(some), d + 1)
            total += np.take_along_axis(np.diff(walk, axis=1), place_of, axis=1)
            usual[first : first + len(some)] = walk[:, 0]
            answer = float(walk[0, -1])
        parts[first : first + len(some)] = total / 2
    return Drivers(
        answer=answer,
        usual=float(usual.mean()),
        parts=parts.mean(axis=0),
        error=parts.std(axis=0, ddof=1) / np.sqrt(orders),
    )


def unusual(counts: FloatArray, ordered: IntArray, columns: IntArray) -> FloatArray:
    """Return how large a share of the reference is at least as unusual as each value of one row (d,).

    counts    (d, width) of the reference
    ordered   (d,) columns below it stand in order, as bins of numbers do: unusual = far to either side; the others
              are unusual when they are rare
    columns   (d,) where the row falls
    """
    d, width = counts.shape
    total = counts.sum(axis=1)
    own = counts[np.arange(d), columns]
    at = np.arange(width)
    in_order = at < ordered[:, None]
    lower = np.where(in_order & (at <= columns[:, None]), counts, 0.0).sum(axis=1)
    upper = np.where(in_order & (at >= columns[:, None]), counts, 0.0).sum(axis=1)
    rarer = np.where(counts <= own[:, None], counts, 0.0).sum(axis=1)
    tail = np.where(columns < ordered, np.minimum(2 * np.minimum(lower, upper), total), rarer)
    # a value that never was is as rare as one row of the reference, no more is known
    share: FloatArray = np.maximum(tail, 1.0) / np.maximum(total, 1.0)
    return share
