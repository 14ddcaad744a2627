"""Principal components: what the other series say of each series, and how odd they are together.

Good for series that sway together (load, requests, CPU, latency of one host): one that leaves the others is found
while it looks ordinary by itself. Not for rhythms in time (see seasonal) and not for one series alone.
x (n,) base units, NaN = left out (it counts as its median for the others); p (n,), see `detectors/_joint.py`.

The model is probabilistic PCA: covariance = V (L - s) V' + s I with k components, s the mean of the eigenvalues that
are left. The residual of a column is what is left of it after the *other* columns have foretold it, which this
covariance gives in closed form: (u - V D V' u) / (1 - diag(V D V')), D = (L - s) / L. Trained in the worker with
scikit-learn; extra `ml`.
Cost: O(n k) a tick, about 0.1 ms for 300 series, and what judging them costs; 8 k + 100 bytes a series, k <= 48.
Source: Tipping & Bishop 1999, Probabilistic principal component analysis.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from agent import checkpoint
from agent.model import BoolArray, FloatArray
from agent.registry import detector, trainer
from detectors._components import Basis, components
from detectors._joint import Arrays, Joint, Look, Settings, prepare, sizes


@trainer("pca")
@detector("pca")
class Pca(Joint):
    """Series that leave what the others of their source say of them, by principal components (extra `ml`)."""

    kind = "pca"

    class Config(Settings):
        """How much is kept."""

        components: Annotated[int, Field(ge=1, le=48)] = 32
        """Components, at most; never more than half of the series."""
        explained: Annotated[float, Field(gt=0, lt=1)] = 0.9
        """So much of the variance is enough."""

    @staticmethod
    def train(config: Config, ts: FloatArray, values: FloatArray) -> bytes:
        """Fit on three quarters of the rows, size the residuals on the rest; see `agent.ports.Trainable`."""
        del ts  # a row is judged by itself, whenever it was
        ready = prepare(values, config.most_series)
        basis = components(ready.u[ready.fit], config.components, config.explained)
        residuals = Basis(basis).judge(ready.u[~ready.fit])
        arrays = {**ready.arrays(), **sizes(residuals), **basis}
        return checkpoint.write("pca model", Pca.version, {"step_s": config.step_s}, arrays)

    def _open(self, arrays: Arrays) -> None:
        self._basis = Basis(arrays)

    def _look(self, ts: float, u: FloatArray, known: BoolArray) -> Look:
        del ts
        off = self._basis.judge(u[None])[0]
        return Look(u - off, off, weight=np.where(known, np.abs(off), 0.0))
