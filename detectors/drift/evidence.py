"""How surely rows are no longer as the reference, give or take: e-values that may be looked at all the time.

Good for: many rows, where a p-value calls every difference significant; watching without end. Not for: rows that
follow a rhythm (a day, a season): these differ from a reference in truth, so size must stand beside the evidence.

The null hypothesis is not "equal" but "no share above env": env = p (1 + TOLERANCE) + 3.3 sd of the reference +
3 / rows of the reference, so that more rows sharpen the evidence and never wear out the tolerance. A batch gives

    shape      prod_k (q_k / env_k)^n_k    q = what came before; a row is worth at most 1 on average
    location   prod_k (1 + l (s (u_k - 1/2) - g))^n_k    a bet that ranks u move up or down by more than g

and R <- (1 + R) x that: the mean of all R reaches A at most once in A batches on average, if nothing has changed.
Arrays (d features); cost 2 microseconds a feature and batch.
Sources: Shin, Ramdas, Rinaldo, E-detectors, 2022 (the recursion); Wasserman, Ramdas, Balakrishnan, Universal
inference, 2020 (shape); Waudby-Smith, Ramdas, Estimating means of bounded random variables by betting, 2024 (location).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.model import FloatArray
from detectors.drift.reference import MISSING, Reference

TOLERANCE: Final = 0.10
ALARM: Final = 4.0
"""log10 of the evidence that is enough: 10,000 batches between two false alarms of one feature, at the least."""
_Z: Final = 3.3
_PSEUDO_ROWS: Final = 30.0
_STAKES: Final = (0.15, 0.4, 1.0)
_CAP: Final = 40.0
"""Natural log: evidence piles up no further, so that it can go again."""


class Evidence:
    """The e-detectors of d features."""

    def __init__(self, reference: Reference) -> None:
        p = reference.shares
        n = np.maximum(reference.rows, 10.0)[:, None]
        env = p * (1 + TOLERANCE) + _Z * np.sqrt(p * (1 - p) / n) + 3.0 / n
        self._usual = p
        self._log_env: FloatArray = np.log(np.minimum(env, 1.0))
        inner = p[:, :MISSING]
        rank = np.cumsum(inner, axis=1) - inner / 2
        rank = rank / np.maximum(inner.sum(axis=1, keepdims=True), 1e-12) - 0.5
        slack = np.minimum(0.02 + _Z * 0.29 / np.sqrt(n), 0.4)
        bets = np.zeros((len(p), 2 * len(_STAKES), p.shape[1]))
        for i, stake in enumerate(_STAKES):
            for j, sign in enumerate((1.0, -1.0)):
                bets[:, 2 * i + j, :MISSING] = np.log1p(stake * (sign * rank - slack))
        bets[~reference.numeric] = 0.0
        self._bets: FloatArray = bets
        self.log_r: FloatArray = np.full((len(p), 1 + 2 * len(_STAKES)), -np.inf)

    def take(self, counts: FloatArray, before: FloatArray) -> None:
        """Count a batch (d, COLUMNS); `before` are the weighted counts of the batches before it."""
        q = before + _PSEUDO_ROWS * self._usual
        q /= q.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            # a column that never was before is worth nothing: its log is -inf, unless nothing fell into it
            shape = np.where(counts > 0, counts * (np.log(q) - self._log_env), 0.0).sum(axis=1)
        gain = np.empty_like(self.log_r)
        gain[:, 0] = shape
        gain[:, 1:] = (self._bets * counts[:, None, :]).sum(axis=2)
        self.log_r = np.minimum(np.logaddexp(self.log_r, 0.0) + gain, _CAP)

    def log10(self) -> FloatArray:
        """Return log10 of each feature's e-value (d,); 0 or less says nothing."""
        top = self.log_r.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        mean = np.exp(self.log_r - top).mean(axis=1)
        with np.errstate(divide="ignore"):
            out: npt.NDArray[np.float64] = (np.log(mean) + top[:, 0]) / np.log(10.0)
        return np.maximum(out, -ALARM)

    def restart(self) -> None:
        """Forget all evidence."""
        self.log_r = np.full_like(self.log_r, -np.inf)
