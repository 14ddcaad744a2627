"""Errors as numbers in 0..1, and evidence that there are more than there may be.

`Ranks` turns the error of a regression into a loss that has bounds: its rank among those of the reference.

`Errors` bets against "the share of errors is at most the bound". Good for: labels that come in batches of any size,
looked at after each. Not for: saying how large the share is (see `sequences`), for slices and slow change (see
`concept`), or for what is bad from its start on (see `succession`). Needs no warm-up: at a bound of 0.1, a model that
errs 0.25 is found after about 200 labels, one that errs 0.15 after about 1,200 (means; false alarms are rare, see
`alarm`).

Each stake bets on a share q above the bound m: a batch of n rows with k errors is worth
(q / m)^k ((1 - q) / (1 - m))^(n - k), at most 1 on average while the share is m or less; R <- (1 + R) x that.
Source: Shin, Ramdas, Rinaldo, E-detectors: a nonparametric framework for sequential change detection, 2022.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.model import FloatArray
from agent.units import Model

_ALTERNATIVES: Final = np.array([0.03, 0.08, 0.2, 0.4, 0.8])
_CAP: Final = 3.0
_KNOTS: Final = 257


@registry.drift("errors")
class Errors:
    """The e-detector of one share of errors; 5 numbers of state, 20 microseconds a batch."""

    class Config(Model):
        """Nothing to choose."""

    alarm: ClassVar[float] = 6.0
    """log10: at least a million batches between two false alarms, on average."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._log_r: FloatArray = np.full(len(_ALTERNATIVES), -np.inf)

    def take(self, wrong: int, rows: int, bound: float) -> None:
        """Count a batch of judged rows; `bound` is fixed before they are seen. Raises ValueError on nonsense."""
        if not 0 <= wrong <= rows:
            raise ValueError(f"{wrong} errors among {rows} rows")
        m = min(max(bound, 1e-3), 0.98)
        q = m + (1 - m) * _ALTERNATIVES
        gain = wrong * np.log(q / m) + (rows - wrong) * np.log((1 - q) / (1 - m))
        cap = (self.alarm + _CAP) * math.log(10)
        self._log_r = np.minimum(np.logaddexp(self._log_r, 0.0) + gain, cap)

    @property
    def evidence(self) -> float:
        """log10 of the e-value; 0 or less says nothing."""
        top = float(self._log_r.max())
        if not math.isfinite(top):
            return -self.alarm
        mean = (math.log(float(np.exp(self._log_r - top).mean())) + top) / math.log(10)
        return max(-self.alarm, mean)

    def dump(self) -> FloatArray:
        """Return the state."""
        return self._log_r.copy()

    def load(self, state: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        if state.shape != self.dump().shape or np.isnan(state).any():
            raise Refused("state of an error detector does not fit: it is learnt anew")
        self._log_r = state.astype(np.float64)


class Ranks:
    """The loss of a regression: which share of the errors of the reference is smaller, ties counted half.

    Good for: errors of any unit and any tail, as one outlier is worth 1 at most. Not for: telling how much larger an
    error is beyond the largest of the reference. error (n,) prediction - truth in any unit, its sign does not matter;
    NaN stays NaN; loss (n,) in 0..1, on average 0.5 on the reference. 2 kB; 0.1 microseconds a row.
    """

    def __init__(self, reference: Any) -> None:
        size = np.abs(np.asarray(reference, dtype=np.float64))
        size = size[np.isfinite(size)]
        if not len(size):
            raise ValueError("there is no error in the reference to rank others by")
        self.knots: FloatArray = np.quantile(size, np.linspace(0.0, 1.0, _KNOTS))

    @property
    def large(self) -> float:
        """The error that a tenth of those of the reference exceed."""
        return float(self.knots[round(0.9 * (_KNOTS - 1))])

    def __call__(self, error: Any) -> FloatArray:
        """Return the loss of each error."""
        size = np.abs(np.asarray(error, dtype=np.float64))
        low = np.searchsorted(self.knots, size, side="left")
        high = np.searchsorted(self.knots, size, side="right")
        return np.where(np.isnan(size), np.nan, (low + high) / (2.0 * _KNOTS))
