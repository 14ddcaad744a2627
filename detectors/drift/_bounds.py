"""Bounds of a share, of a mean, and of the difference of two, that hold at every look at once.

Good for: figures that are read after each batch and acted on. Not for: one look at the end of a planned trial, where
a textbook interval is 1.6 to 2 times narrower. Everything here needs sums only, so sums may be added up first.

share   exact for values in 0..1 in any number of rows. Each stake l is worth exp(l S - n log(1 - m + m e^l)), which
        is 1 on average or less while the mean is m; the mean of the stakes reaches 1/alpha with probability alpha at
        most, ever. It holds for the mean of means, too, where the true share wanders.
mean    asymptotic: as exact as the normal approximation is, so not below some 30 rows, nor with infinite variance.

Shapes broadcast; NaN where there is no row. Cost: about 20 microseconds a share and bound.
Sources: Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon, Time-uniform, nonparametric, nonasymptotic confidence
sequences, 2021; Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Time-uniform central limit theory, 2024.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from agent.model import FloatArray

_STAKES: Final = np.geomspace(0.001, 6.0, 18)
_GROWTH: Final = np.expm1(_STAKES)
_HALVINGS: Final = (8, 14)
"""Down to 6e-5, or to 1 / 25 sqrt(rows): some 2 % of the width. What is returned is refuted, so the rest is safe."""
_SPLITS: Final = 24
_IDLE: Final = 0.2
_TIGHTEST_ROWS: Final = 1000.0
"""Where bounds of a mean are tightest for what they promise; they hold everywhere."""


def mean_of_logs(logs: FloatArray) -> FloatArray:
    """Return the log of the mean of exp(logs) over the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    out: FloatArray = np.log(np.exp(logs - top).sum(axis=-1) / logs.shape[-1]) + top[..., 0]
    return out


def above(total: Any, rows: Any, m: Any) -> FloatArray:
    """Return the log of the evidence against "the mean is at most m", for values in 0..1 that add up to `total`."""
    s, n, bound = (np.asarray(v, dtype=np.float64)[..., None] for v in (total, rows, m))
    return mean_of_logs(_STAKES * s - n * np.log1p(bound * _GROWTH))


def below(total: Any, rows: Any, m: Any) -> FloatArray:
    """Return the log of the evidence against "the mean is at least m"."""
    n = np.asarray(rows, dtype=np.float64)
    return above(n - total, n, 1.0 - np.asarray(m))


def share_low(total: Any, rows: Any, need: Any) -> FloatArray:
    """Return the largest m that the evidence refutes from below; `need` = log(1 / probability of being wrong, ever)."""
    s, n, wanted = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (total, rows, need))
    )
    won, lost, wanted = _STAKES * s[..., None], n[..., None], wanted + math.log(len(_STAKES))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.zeros(s.shape), np.clip(s / n, 0.0, 1.0)
        # down to a 25th of the standard error: mean / error = sqrt(s n / (n - s))
        errors = np.nan_to_num(s * n / (n - s + 1.0)).max(initial=1.0)
        fine = math.ceil(math.log2(25.0 * math.sqrt(max(1.0, float(errors)))))
        for _ in range(min(max(fine, _HALVINGS[0]), _HALVINGS[1])):
            middle = (low + high) / 2
            # as in `above`, without its conveniences: this is where the time goes
            logs = won - lost * np.log1p(middle[..., None] * _GROWTH)
            top = logs.max(axis=-1)
            logs -= top[..., None]
            refuted = np.log(np.exp(logs, out=logs).sum(axis=-1)) + top >= wanted
            low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return np.where(n > 0, low, np.nan)


def share_high(total: Any, rows: Any, need: Any) -> FloatArray:
    """Return the smallest m that the evidence refutes from above."""
    n = np.asarray(rows, dtype=np.float64)
    return 1.0 - share_low(n - total, n, need)


def share_bounds(total: Any, rows: Any, alpha: Any) -> tuple[FloatArray, FloatArray]:
    """Return the (low, high) bounds of a share; both hold at every look with probability 1 - alpha."""
    s, n, need = np.broadcast_arrays(
        np.asarray(total, dtype=np.float64), np.asarray(rows, dtype=np.float64), np.log(2.0 / alpha)
    )
    low, high = share_low(np.stack((s, n - s)), n, need)
    return low, 1.0 - high


def hedged(log_e: FloatArray) -> FloatArray:
    """Return the evidence of who keeps a fifth out of the game: never below 1/5, so another's can make up for it."""
    return np.logaddexp(math.log(1.0 - _IDLE) + log_e, math.log(_IDLE))


def difference_low(a: tuple[Any, Any], b: tuple[Any, Any], need: float) -> FloatArray:
    """Return the lower bound of mean a - mean b; each is (total, rows) of values in 0..1.

    Hedged evidence of both is multiplied, so the radii add as squares do. All ways to divide `need` between the two
    are covered by boxes, whose corners make the bound a little wider than it must be.
    """
    parts = np.linspace(math.log(_IDLE), need - math.log(_IDLE), _SPLITS + 1)
    with np.errstate(divide="ignore"):
        plain = np.log(np.maximum((np.exp(parts) - _IDLE) / (1.0 - _IDLE), 0.0))
    (total_a, rows_a), (total_b, rows_b) = (
        [np.asarray(v)[..., None] for v in one] for one in (a, b)
    )
    low = share_low(total_a, rows_a, plain[1:])
    high = share_high(total_b, rows_b, plain[:0:-1])
    out: FloatArray = (low - high).min(axis=-1)
    return out


def looks(rows: Any, alpha: float) -> FloatArray:
    """Return how many standard errors a bound is away that holds at every look; a single look needs 1.96 at .05."""
    spread = (2.0 * math.log(1.0 / alpha) + math.log(2.0 * math.log(1.0 / alpha) + 1.0)) / (
        _TIGHTEST_ROWS
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.asarray(rows, dtype=np.float64) * spread
        out: FloatArray = np.sqrt(2.0 * (t + 1.0) / t * np.log(np.sqrt(t + 1.0) / alpha))
    return out


def mean_error(rows: Any, total: Any, squares: Any) -> tuple[FloatArray, FloatArray]:
    """Return the mean and its standard error from the number, sum and sum of squares."""
    n = np.asarray(rows, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: FloatArray = np.asarray(total) / n
        error: FloatArray = np.sqrt(np.maximum(np.asarray(squares) / n - mean**2, 0.0) / (n - 1.0))
    return mean, error


def size_bounds(
    size: FloatArray, error: FloatArray, rows: Any, alpha: float
) -> tuple[FloatArray, FloatArray]:
    """Return the (low, high) bounds of what is never negative, from its standard error.

    They are a factor, not a distance: losses are skewed, and a few rows without the rare large one look too good.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = np.exp(looks(rows, alpha) * np.where(size > 0, error / size, 0.0))
    return size / factor, size * factor
