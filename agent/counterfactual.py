"""What would have been without the act: likelihoods of one series under four stories. Pure numpy.

Good for telling a cure from an excursion that passes by itself, and harm from noise. Not for counters (take a rate),
nor for what changes slowly on purpose (its end is not the act's).

We act when things are at their worst, so most of what follows is better whatever was done. The series is therefore
compared with what series like it do: it is autocorrelated noise about a level, seen with measurement noise,

    y = level + u + n,   u = phi u' + e        phi 0..0.995, n 0 to 3 times the variance of u, both fitted in each story

    passes    one level all the time: the trouble was an excursion of u and fades as such excursions do
    lasts     another level since the onset, before and after the act alike
    fades     the same, with the pace at which it got better before the act
    acted     a level of its own before and after the act

`Evidence.passes` is twice the log likelihood ratio of `acted` against `passes`, and so on: 5 = twelve times as likely.
How the trouble began (a jump, a spike) is left out of all four: it is why we look, so it proves nothing.
Shapes: (k,) float64 in robust deviations, NaN = missing (time passes, nothing is learnt), equal steps.
Cost: 10 us a row, of which the last 400 usual ones are looked at.
Source: Kalman filter likelihoods of a local level with AR(1), Durbin & Koopman 2012, chapter 2 and 7; regression to
the mean by selection on an extreme: Barnett et al. 2005, doi:10.1093/ije/dyh299.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.model import FloatArray

_PHI, _NOISE = (
    g.ravel()
    for g in np.meshgrid(
        [0.0, 0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.985, 0.995],
        [0.0, 0.1, 0.35, 1.0, 3.0],
    )
)
_ANY: Final = 1e4
"""Variance of what may be anything: where the trouble began."""
_FINEST: Final = 0.1
"""Standard deviation, in robust deviations, below which noise is not believed: coarse or constant data."""
_MOST_ROWS: Final = 400
_LEVEL, _BEFORE, _AFTER, _PACE = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """How much better `acted` explains what was seen: twice the log likelihood ratio, at least 0.

    effect   level after less level before, in the units of the samples; error: its standard error
    getting  pace before the act, levels a row; its own evidence: against a pace of 0
    """

    passes: float
    lasts: float
    fades: float
    effect: float
    error: float
    getting: float
    getting_evidence: float


def weigh(usual: FloatArray, before: FloatArray, between: int, after: FloatArray) -> Evidence:
    """Weigh the four stories of a series.

    usual     before the trouble; may be empty: then `passes` knows its level from the trouble alone
    before    from the onset to the act; between: rows that are not looked at; after: since it had time to work
    """
    usual = usual[-_MOST_ROWS:]
    onset, act = len(usual), len(usual) + len(before)
    y = np.concatenate([usual, before, np.full(between, np.nan), after])
    n = len(y)
    told = np.zeros((n, 5))
    told[:, 0] = y
    told[:, _LEVEL] = 1.0
    told[onset:act, _BEFORE] = 1.0
    told[act + between :, _AFTER] = 1.0
    told[onset:, _PACE] = (np.arange(n - onset) - len(before)) / max(len(before), 1)
    products, log_variance, rows = _filtered(told, onset)

    def story(columns: Sequence[int], within: FloatArray = products) -> _Fit:
        return _fitted(within, log_variance, rows, columns)

    join = np.eye(5)
    join[_AFTER, _BEFORE] = 1.0  # the column `before` then goes on after the act
    alike = join.T @ products @ join
    acted = story([_LEVEL, _BEFORE, _AFTER])
    lasts = story([_LEVEL, _BEFORE], alike)
    fades = story([_LEVEL, _BEFORE, _PACE], alike)
    paced = story([_LEVEL, _BEFORE, _AFTER, _PACE])
    spread = acted.covariance
    return Evidence(
        passes=_ratio(acted, story([_LEVEL])), lasts=_ratio(acted, lasts), fades=_ratio(paced, fades),
        effect=float(acted.beta[2] - acted.beta[1]),
        error=float(np.sqrt(max(spread[1, 1] + spread[2, 2] - 2 * spread[1, 2], 0.0))),
        getting=float(fades.beta[2]) / max(len(before), 1), getting_evidence=_ratio(fades, lasts),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fit:
    likelihood: float
    beta: FloatArray
    covariance: FloatArray


def _ratio(rich: _Fit, poor: _Fit) -> float:
    return max(0.0, 2.0 * (rich.likelihood - poor.likelihood))


def _filtered(told: FloatArray, onset: int) -> tuple[FloatArray, FloatArray, int]:
    """Whiten all columns for every phi and noise at once.

    Returns their products (g, c, c), log variances (g,) and the number of rows.
    """
    phi = _PHI[:, None]
    state = np.zeros((len(_PHI), told.shape[1]))
    variance = np.ones(len(_PHI))
    known = np.isfinite(told[:, 0])
    white: list[FloatArray] = []
    log_variance = np.zeros(len(_PHI))
    skip = False
    for t, row in enumerate(told):
        if t == onset:
            variance = variance + _ANY
            skip = True
        if known[t]:
            total = variance + _NOISE
            off = row - state
            state = state + (variance / total)[:, None] * off
            variance = variance * (_NOISE / total)
            if skip:
                skip = False
            else:
                white.append(off / np.sqrt(total)[:, None])
                log_variance += np.log(total)
        state = state * phi
        variance = _PHI**2 * variance + 1.0 - _PHI**2
    table = np.asarray(white).reshape(len(white), *state.shape)
    return np.einsum("tgi,tgj->gij", table, table), log_variance, len(white)


def _fitted(
    products: FloatArray, log_variance: FloatArray, rows: int, columns: Sequence[int]
) -> _Fit:
    """Fit levels by least squares on what was whitened, and choose phi and noise by their likelihood."""
    index = np.asarray(columns)
    normal = products[:, index[:, None], index]
    # levels that can not be told apart (no usual rows) share what they explain
    ridge = 1e-9 * np.trace(normal, axis1=1, axis2=2) + 1e-12
    normal = normal + ridge[:, None, None] * np.eye(len(columns))
    moment = products[:, index, 0]
    beta = np.linalg.solve(normal, moment[..., None])[..., 0]
    left = products[:, 0, 0] - np.sum(beta * moment, axis=1)
    left = np.maximum(left, 0.0) + rows * _FINEST**2
    likelihood = -0.5 * (rows * np.log(left / max(rows, 1)) + log_variance)
    best = int(np.argmax(likelihood))
    covariance = np.linalg.inv(normal[best]) * left[best] / max(rows - len(columns), 1)
    return _Fit(float(likelihood[best]), beta[best], covariance)


# ---------------------------------------------------------------- how long such troubles last


def ends_by_itself(past: Sequence[float], stood: float, took: float) -> tuple[float, int]:
    """Return how probable an end by itself is within `took`, and on how many past troubles that rests.

    past    how long untreated ones lasted. Those that reached the age of this one speak of it: their number by the
            time they had left is the rate at which such troubles end. Without any: what has lasted t lasts for
            another t with probability one half (Gott 1993, doi:10.1038/363315a0)
    stood   how long this one has lasted
    """
    left = [lasted - stood for lasted in past if lasted >= stood]
    if not left:
        return (took / (stood + took) if took > 0 else 0.0), 0
    return float(-np.expm1(-took * len(left) / max(sum(left), 1e-9))), len(left)


def episodes(samples: FloatArray, level: float) -> list[int]:
    """Return how many rows each excursion above a level lasted; those cut off at either end do not count.

    One row on the other side does not end it: noise would make ten short ones of a long one. NaN goes on as it was.
    """
    known = samples[np.isfinite(samples)]
    above = known > level
    lone = np.zeros(len(above), dtype=bool)
    lone[1:-1] = (above[1:-1] != above[:-2]) & (above[:-2] == above[2:])
    above = above ^ lone
    edges = np.flatnonzero(np.diff(above.astype(np.int8)))
    starts = [int(e) for e in edges if not above[e]]
    return [
        int(next(e for e in edges if e > start)) - start
        for start in starts
        if any(e > start for e in edges)
    ]
