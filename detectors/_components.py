"""Probabilistic principal components as arrays: fitted in the worker, judged with numpy in the daemon.

Covariance = V (L - s) V' + s I. Source: Tipping & Bishop 1999; the residual of a column given the others follows from
the inverse of that: (u - V D V' u) / a, a = 1 - diag(V D V'), D = (L - s) / L.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.model import FloatArray
from detectors._joint import Arrays, need

_USUAL: Final = 0.95
"""Share of rows in which a residual counts as usual."""


class Basis:
    """Components as arrays: vectors (m, k), keep (k,) = (L - s) / L, rest = s, mean (m,), reach (m,) usual residual."""

    def __init__(self, arrays: Arrays) -> None:
        self.mean: FloatArray = arrays["mean"].astype(np.float64)
        self.vectors: FloatArray = arrays["vectors"].astype(np.float64)
        self.keep: FloatArray = arrays["keep"].astype(np.float64)
        self.rest = float(arrays["rest"][0])
        self.alone: FloatArray = 1.0 - (self.vectors**2) @ self.keep
        self.reach: FloatArray = arrays["reach"].astype(np.float64)

    def judge(self, u: FloatArray) -> FloatArray:
        """Return residuals (k, m) of rows u (k, m), each foretold by the other columns."""
        away = u - self.mean
        residuals: FloatArray = (
            away - (away @ self.vectors * self.keep) @ self.vectors.T
        ) / self.alone
        return residuals


def components(u: FloatArray, most: int, explained: float) -> Arrays:
    """Fit u (k, m) with scikit-learn; returns the arrays of a `Basis`."""
    decomposition = need("sklearn.decomposition", "ml")
    m = u.shape[1]
    mean = u.mean(axis=0)
    k = min(most, m // 2, len(u) - 1)
    if k < 1:
        nothing = np.zeros((m, 0), np.float32)
        rest = max(float(u.var(axis=0).mean()), 1e-3)
        return {
            "mean": mean, "vectors": nothing, "keep": np.zeros(0), "rest": np.array([rest]),
            "reach": np.full(m, np.inf),
        }  # fmt: skip
    fitted = decomposition.PCA(n_components=k, random_state=0).fit(u)
    share = np.cumsum(fitted.explained_variance_ratio_)
    k = min(k, int(np.searchsorted(share, explained)) + 1)
    variance = fitted.explained_variance_[:k]
    rest = max((float(u.var(axis=0, ddof=1).sum()) - float(variance.sum())) / (m - k), 1e-3)
    keep = np.clip((variance - rest) / variance, 0.0, None)
    vectors = fitted.components_[:k].T.astype(np.float32)
    arrays: Arrays = {
        "mean": mean, "vectors": vectors, "keep": keep, "rest": np.array([rest]),
        "reach": np.full(m, np.inf),
    }  # fmt: skip
    usual = np.quantile(np.abs(Basis(arrays).judge(u)), _USUAL, axis=0)
    return {**arrays, "reach": np.maximum(usual, 1e-3)}
