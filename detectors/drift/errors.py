"""Errors as numbers in 0..1, and evidence that there are more than there may be.

`Ranks` turns the error of a regression into a loss that has bounds: its rank among those of the reference.

`Errors` bets against "the share of errors is at most the bound". Good for: labels that come in batches of any size,
looked at after each. Not for: saying how large the share is (see `sequences`), or slices and slow change (see
`concept`). Needs no warm-up: at a bound of 0.1, a model that errs 0.25 is found after about 200 labels, one that errs
0.15 after about 1,200 (means; false alarms are rare, see `alarm`).

Each stake bets on a share q above the bound m: a batch of n rows with k errors is worth
(q / m)^k ((1 - q) / (1 - m))^(n - k), at most 1 on average while the share is m or less; R <- (1 + R) x that.
What is bad from its start on is found sooner: the product W of all batches so far ever reaches 1 / `once` with a chance
of `once` at most (Ville), and there is one start, where R pays for as many as there are batches.
Source: Shin, Ramdas, Rinaldo, E-detectors: a nonparametric framework for sequential change detection, 2022.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.model import FloatArray
from agent.units import Model, Ratio

_ALTERNATIVES: Final = np.array([0.03, 0.08, 0.2, 0.4, 0.8])
_CAP: Final = 3.0
_KNOTS: Final = 257


@registry.drift("errors")
class Errors:
    """The e-detector of one share of errors; 10 numbers of state, 20 microseconds a batch."""

    class Config(Model):
        """What may be spent on the start."""

        once: Ratio = 0.0
        """The chance of a false alarm by what was so from the start on, however long it goes on; 0 = none is spent."""

    alarm: ClassVar[float] = 6.0
    """log10: at least a million batches between two false alarms, on average."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._log_r: FloatArray = np.full(len(_ALTERNATIVES), -np.inf)
        self._log_w: FloatArray = np.zeros(len(_ALTERNATIVES))

    def take(self, wrong: int, rows: int, bound: float) -> None:
        """Count a batch of judged rows; `bound` is fixed before they are seen. Raises ValueError on nonsense."""
        if not 0 <= wrong <= rows:
            raise ValueError(f"{wrong} errors among {rows} rows")
        m = min(max(bound, 1e-3), 0.98)
        q = m + (1 - m) * _ALTERNATIVES
        gain = wrong * np.log(q / m) + (rows - wrong) * np.log((1 - q) / (1 - m))
        cap = (self.alarm + _CAP) * math.log(10)
        self._log_r = np.minimum(np.logaddexp(self._log_r, 0.0) + gain, cap)
        self._log_w = np.minimum(self._log_w + gain, cap)

    @property
    def evidence(self) -> float:
        """log10 of the e-value; 0 or less says nothing."""
        found = _log10_mean(self._log_r)
        if self.config.once > 0:
            # as good as `alarm` when it reaches 1 / once
            found = max(found, self.alarm + math.log10(self.config.once) + _log10_mean(self._log_w))
        return max(-self.alarm, found)

    def dump(self) -> FloatArray:
        """Return the state."""
        return np.concatenate((self._log_r, self._log_w))

    def load(self, state: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        if state.shape != self.dump().shape or np.isnan(state).any():
            raise Refused("state of an error detector does not fit: it is learnt anew")
        self._log_r, self._log_w = np.split(state.astype(np.float64), 2)


def _log10_mean(logs: FloatArray) -> float:
    top = float(logs.max())
    if not math.isfinite(top):
        return -math.inf
    return (math.log(float(np.exp(logs - top).mean())) + top) / math.log(10)


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

    def __call__(self, error: Any) -> FloatArray:
        """Return the loss of each error."""
        size = np.abs(np.asarray(error, dtype=np.float64))
        low = np.searchsorted(self.knots, size, side="left")
        high = np.searchsorted(self.knots, size, side="right")
        return np.where(np.isnan(size), np.nan, (low + high) / (2.0 * _KNOTS))
