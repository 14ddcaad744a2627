"""Does what took over err more than what it took over from? Two samples and one start, looked at after every batch.

    errors before, errors since, batch by batch -> bets on more of them, against "one share, before and since"

Good for: a release, whose start is known, so that its evidence pays for one start only. Not for: what goes bad later
(see `errors` and `concept`), or versions that serve at once (see `compare`). Measured, on batches of 20 and 2,000 rows
before: errors of 0.2 that become 0.35 are found after 160 rows, of 0.05 after 85 that become 0.2, after 500 that become
0.1 (medians).

What is bet against is the share of all rows, those since included, as a Bayesian learns it: a batch is worth

    q^k (1 - q)^(n - k) / (B(a + k, b + n - k) / B(a, b))      k errors in n rows, q fixed before it is seen

where a and b count errors and right answers of all rows so far. So a short past needs no allowance for what chance did
to it. While rows before and since are exchangeable, the product W ever reaches 1 / `once` with a chance of `once` at
most, on average over what the share may be (Ville). Rows that hang together are no such: W is then taken to the root of
their design effect. The smallest bet is on 3 points more and breaks even at half of that; what is seen of a few rows is
larger than it is, so size must stand beside the evidence.
State: 8 numbers; 30 microseconds a batch.
Source: Grunwald, de Heide, Koolen, Safe testing, 2024 (Bayes factors of nested models are e-values on average).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.model import FloatArray
from agent.units import Model, Ratio

_ALTERNATIVES: Final = np.array([0.03, 0.08, 0.2, 0.4, 0.8])
_PRIOR: Final = 0.5
"""Errors, and right answers, before there are any."""
_CAP: Final = 3.0


@registry.drift("succession")
class Succession:
    """The e-process of one successor; see the module."""

    class Config(Model):
        """What may be spent."""

        once: Ratio = 1e-3
        """The chance of a false alarm, ever."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.alarm = -math.log10(self.config.once)
        self._log_w: FloatArray = np.zeros(len(_ALTERNATIVES))
        self._since: FloatArray = np.zeros(2)  # errors, rows
        self._before = math.nan

    def take(self, wrong: int, rows: int, before: tuple[float, float], effect: float) -> None:
        """Count a batch of judged rows; raises ValueError on nonsense.

        before   errors and rows of what it took over from
        effect   the design effect of its rows, at least 1
        """
        if not (0 <= wrong <= rows and 0 <= before[0] <= before[1] and before[1] > 0):
            raise ValueError(f"{wrong} errors among {rows} rows, before that {before}")
        self._before = before[0] / before[1]
        errors, all_rows = (np.asarray(before) + self._since).tolist()
        a, b = errors + _PRIOR, all_rows - errors + _PRIOR
        q = a / (a + b) + b / (a + b) * _ALTERNATIVES
        usual = _log_beta(a + wrong, b + rows - wrong) - _log_beta(a, b)
        gain = wrong * np.log(q) + (rows - wrong) * np.log1p(-q) - usual
        cap = (self.alarm + _CAP) * math.log(10)
        self._log_w = np.minimum(self._log_w + gain / max(effect, 1.0), cap)
        self._since += (wrong, rows)

    @property
    def evidence(self) -> float:
        """log10 of the e-value: `alarm` is enough; 0 or less says nothing."""
        top = float(self._log_w.max())
        return (math.log(float(np.exp(self._log_w - top).mean())) + top) / math.log(10)

    @property
    def rise(self) -> float:
        """How much larger the share of errors is than before; NaN = there are no rows."""
        wrong, rows = self._since.tolist()
        return wrong / rows - self._before if rows else math.nan

    def dump(self) -> FloatArray:
        """Return the state."""
        return np.concatenate((self._log_w, self._since, [self._before]))

    def load(self, state: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        if state.shape != self.dump().shape or np.isnan(state[:-1]).any():
            raise Refused("state of a succession does not fit: it is learnt anew")
        k = len(_ALTERNATIVES)
        self._log_w, self._since = state[:k].astype(np.float64), state[k : k + 2].astype(np.float64)
        self._before = float(state[-1])


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
