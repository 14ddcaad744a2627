"""Daily (or weekly) rhythm by the clock, a damped trend on top, and a forecast with an interval: STL and Holt-Winters.

Good for slow series with a rhythm: requests, sessions, temperatures, disk that fills. Not for what happens within
seconds: rows are first averaged over slots of `slot` (five minutes), and p changes once a slot. Each series is judged
by itself; only those are in the model whose rhythm foretells the last period at least a tenth better than their trend
alone does. x (n,) base units; p (n,) of the last whole slot, see `detectors/_joint.py`.

    x -> mean of the slot -> u -> minus the profile of this time of day -> damped trend (Holt) -> residual

The worker makes profiles by STL and smoothing weights by Holt (statsmodels, extra `ml`); the recursion goes on here in
numpy, one step a slot: l = l' + a e, b = d b' + w a e, with the error e clipped and 0 where not trusted.
Slots are counted on the clock, never by rows. Needs three whole periods of history (`history: {age: 8d}`).
Cost: O(n) a slot; 4 bytes x slots a period + 150 bytes a series: 1.3 kB for a day of five minutes.
Source: Cleveland et al. 1990 (STL); Holt 1957, Gardner & McKenzie 1985 (damped trend); intervals after Hyndman,
Koehler, Ord & Snyder 2008, chapter 6.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Past
from agent.registry import detector, trainer
from agent.units import Span
from detectors._joint import Arrays, Joint, Look, Settings, need, prepare, unsquash

_PERIODS: Final = 3
"""Whole periods that a model needs: the profile of all but the last is tried on the last."""
_BETTER: Final = 0.9
_CLIP: Final = 2.0
"""An error teaches the level as if it were at most so many times the large one."""
_MOST_SLOTS: Final = 600
"""Slots without a row over which the trend is carried on."""


@trainer("seasonal")
@detector("seasonal")
class Seasonal(Joint):
    """Slow series that leave their daily rhythm and trend, by STL and Holt-Winters forecasts (extra `ml`)."""

    kind = "seasonal"
    family = "season"

    class Config(Settings):
        """The rhythm."""

        span: Span = 14 * 86_400.0
        """How much past a model is made from."""
        slot: Span = 300.0
        """Rows are averaged over so long; a step that is longer is its own slot."""
        period: Span = 86_400.0
        """The rhythm: a day, or a week where history is long enough."""

        @property
        def slot_s(self) -> float:
            """The slot, at least a step."""
            return max(self.slot, self.step_s)

        @property
        def slots(self) -> int:
            """Slots of a period."""
            return max(2, round(self.period / self.slot_s))

    def __init__(self, config: Config, n: int) -> None:
        super().__init__(config, n)
        self._moves: Arrays = {}

    def judged_s(self) -> float:
        """Return the slot: between slots nothing new is measured."""
        return float(self.config.slot_s)

    def past(self) -> Past:
        """Say what `train` wants to see: means over slots, a few at a time as each costs a block of history."""
        c = self.config
        least = _PERIODS * c.slots
        return Past(c.span, c.slot_s, max(int(c.span / c.slot_s), least), 2, int(0.8 * least))

    # ---- in the worker

    @staticmethod
    def train(config: Config, ts: FloatArray, values: FloatArray) -> bytes:
        """Fit profile and trend of each series that has a rhythm; see `agent.ports.Trainable`."""
        seasonal = need("statsmodels.tsa.seasonal", "ml")
        holtwinters = need("statsmodels.tsa.holtwinters", "ml")
        slot = np.floor(ts / config.slot_s + 0.5 * (ts % config.slot_s < 1e-6)).astype(np.int64)
        k = int(slot[-1] - slot[0]) + 1 if len(slot) else 0
        p = config.slots
        if k < _PERIODS * p:
            raise Refused(
                f"history spans {k / p:.1f} periods, {_PERIODS} are needed: see history.age"
            )
        grid = np.full((k, values.shape[1]), np.nan)
        grid[slot - slot[0]] = values
        ready = prepare(grid, config.most_series, 1)
        phase = (np.arange(k) + slot[0]) % p
        found: list[tuple[int, Arrays]] = []
        for j in range(len(ready.use)):
            one = _rhythm(
                _whole(ready.u[:, j], grid[:, ready.use[j]]), phase, p, seasonal, holtwinters
            )
            if one is not None:
                found.append((j, one))
        if not found:
            raise Refused(f"none of {len(ready.use)} series has a rhythm of {config.period:g} s")
        chosen = np.array([j for j, _ in found])
        names = ("profile", "alpha", "beta", "phi", "level", "slope", "large", "sigma")
        arrays = {name: np.stack([one[name] for _, one in found], axis=-1) for name in names}
        arrays |= {name: array[chosen] for name, array in ready.arrays().items()}
        arrays |= {"odd": np.array([0.0, 1.0]), "slot": np.array([slot[-1]], np.int64)}
        meta = {"step_s": config.step_s, "slot_s": config.slot_s}
        return checkpoint.write("seasonal model", Seasonal.version, meta, arrays)

    # ---- in the daemon

    def _open(self, arrays: Arrays) -> None:
        if len(arrays["profile"]) != self.config.slots:
            raise ValueError(f"{len(arrays['profile'])} slots a period, not {self.config.slots}")
        self._profile = arrays["profile"]
        self._alpha, self._beta, self._phi = arrays["alpha"], arrays["beta"], arrays["phi"]
        self._large, self._sigma = arrays["large"], arrays["sigma"]
        m = len(self._alpha)
        self._moves = {
            "level": arrays["level"].copy(), "slope": arrays["slope"].copy(),
            "slot": arrays["slot"].copy(), "now": np.array([-1], np.int64),
            "sum": np.zeros(m), "count": np.zeros(m), "residual": np.full(m, np.nan),
            "expected": np.zeros(m), "distrust": np.zeros(m),
        }  # fmt: skip

    def _moving(self) -> Arrays:
        return self._moves

    def _look(self, ts: float, u: FloatArray, known: BoolArray) -> Look:
        slot = int(np.floor(ts / self.config.slot_s + 1e-9))
        none = np.zeros(len(u))
        if self._direct:
            expected = self._expected(slot)
            return Look(expected, np.where(known, u - expected, np.nan), none)
        now, count = int(self._moves["now"][0]), self._moves["count"]
        if slot == now or now < 0 or not count.any():
            held = self._moves["residual"]
            return Look(self._moves["expected"], held, none, fresh=False)
        expected = self._expected(now)
        seen = count > 0
        mean = np.where(seen, self._moves["sum"] / np.maximum(count, 1.0), expected)
        return Look(expected, np.where(seen, mean - expected, np.nan), none)

    def _follow(
        self, ts: float, u: FloatArray, known: BoolArray, trust: BoolArray, look: Look
    ) -> None:
        slot = int(np.floor(ts / self.config.slot_s + 1e-9))
        moves = self._moves
        if self._direct:
            self._step(slot, look.residual, trust)
            return
        if look.fresh:
            self._step(
                int(moves["now"][0]), look.residual, moves["distrust"] <= 0.5 * moves["count"]
            )
            moves["residual"], moves["expected"] = look.residual, look.expected
        if slot != int(moves["now"][0]):
            moves["sum"], moves["count"], moves["distrust"] = (np.zeros(len(u)) for _ in range(3))
            moves["now"] = np.array([slot], np.int64)
        moves["sum"] = moves["sum"] + np.where(known, u, 0.0)
        moves["count"] = moves["count"] + known
        moves["distrust"] = moves["distrust"] + (known & ~trust)

    @property
    def _direct(self) -> bool:
        """Whether every row is a slot."""
        return bool(self.config.step_s >= self.config.slot_s)

    def _ahead(self, slot: int) -> tuple[FloatArray, FloatArray]:
        """Return level and slope carried on to the slot before `slot`'s error is known."""
        level, slope = self._moves["level"], self._moves["slope"]
        steps = int(np.clip(slot - int(self._moves["slot"][0]), 1, _MOST_SLOTS))
        # phi + phi^2 + ... + phi^steps
        damped = self._phi ** np.arange(1, steps + 1)[:, None]
        return level + slope * damped.sum(axis=0), slope * damped[-1]

    def _expected(self, slot: int) -> FloatArray:
        expected: FloatArray = self._ahead(slot)[0] + self._profile[slot % len(self._profile)]
        return expected

    def _step(self, slot: int, residual: FloatArray, trust: BoolArray) -> None:
        """Take the error of a slot: the recursion at the top of the file."""
        if slot <= int(self._moves["slot"][0]) - _MOST_SLOTS:
            self._moves["slot"] = np.array([slot - 1], np.int64)  # the clock was set far back
        if slot <= int(self._moves["slot"][0]):
            return
        ahead, damped = self._ahead(slot)
        error = np.where(trust & np.isfinite(residual), residual, 0.0)
        error = np.clip(error, -_CLIP * self._large, _CLIP * self._large)
        level = ahead + self._alpha * error
        # the slope that was foretold moves by its weight of the surprise in the level
        self._moves["slope"] = damped + self._beta * self._alpha * error
        self._moves["level"] = level
        self._moves["slot"] = np.array([slot], np.int64)

    def forecast(self, ts: float, z: float = 1.96) -> FloatArray:
        """Return (3, n): low, middle, high of each series at `ts`, in its units; NaN where the model knows none.

        The interval is that of `z` standard errors (1.96: 95 %); it widens with the slots between now and then.
        """
        out = np.full((3, self.n), np.nan)
        s = self._scales
        if s is None:
            return out
        slot = int(np.floor(ts / self.config.slot_s + 1e-9))
        steps = int(np.clip(slot - int(self._moves["slot"][0]), 1, _MOST_SLOTS))
        trend = np.cumsum(self._phi ** np.arange(1, steps + 1)[:, None], axis=0)[:-1]
        carried = self._alpha * (1.0 + self._beta * trend)
        wide = z * self._sigma * np.sqrt(1.0 + (carried**2).sum(axis=0))
        middle = self._expected(slot)
        for j in np.flatnonzero(s.at >= 0):
            for row, side in enumerate((-1.0, 0.0, 1.0)):
                u = s.spread[j] * (middle[j] + side * wide[j])
                out[row, s.at[j]] = s.centre[j] + s.scale[j] * unsquash(float(u))
        return out


def _whole(u: FloatArray, known: FloatArray) -> FloatArray:
    """Fill slots without a value from their neighbours in time."""
    seen = np.isfinite(known)
    at = np.arange(len(u))
    filled: FloatArray = np.interp(at, at[seen], u[seen])
    return filled


def _rhythm(
    y: FloatArray, phase: IntArray, p: int, seasonal: Any, holtwinters: Any
) -> Arrays | None:
    """Return profile (p,), weights and last state of one series y (k,); None where the rhythm does not help."""
    before = len(y) - p
    profile = _profile(y[:before], phase[:before], p, seasonal)
    plain = y - profile[phase]
    with warnings.catch_warnings():
        # that an optimum lies at a bound is no news for a person
        warnings.simplefilter("ignore")
        fitted = holtwinters.Holt(
            plain[:before], damped_trend=True, initialization_method="estimated"
        ).fit(optimized=True)
    alpha, beta, phi = (
        float(np.clip(np.nan_to_num(fitted.params[name], nan=0.1), low, high))
        for name, low, high in (
            ("smoothing_level", 0.01, 0.99),
            ("smoothing_trend", 0.0, 0.5),
            ("damping_trend", 0.8, 0.98),
        )
    )
    errors, _, _ = _holt(plain, alpha, beta, phi)
    without, _, _ = _holt(y, alpha, beta, phi)
    tried, spread = np.abs(errors[before:]), np.abs(without[before:])
    if _usual(tried) > _BETTER * _usual(spread):
        return None
    profile = _profile(y, phase, p, seasonal)
    _, level, slope = _holt(y - profile[phase], alpha, beta, phi)
    large = max(float(np.quantile(tried, 0.98)), 1e-3)
    sigma = max(1.4826 * float(np.median(tried)), 1e-3)
    state = {"alpha": alpha, "beta": beta, "phi": phi, "level": level, "slope": slope, "large": large,
             "sigma": sigma}  # fmt: skip
    out: Arrays = {name: np.array(value) for name, value in state.items()}
    return {**out, "profile": profile.astype(np.float32)}


def _usual(sizes: FloatArray) -> float:
    """Return the mean size, the largest few no larger than the 98 % quantile: events must not decide."""
    return float(np.minimum(sizes, np.quantile(sizes, 0.98)).mean())


def _profile(y: FloatArray, phase: IntArray, p: int, seasonal: Any) -> FloatArray:
    """Return the seasonal part by phase, (p,), the mean of all periods: the last one may be a Sunday."""
    # smooth curves need not be fitted at each slot: 20 times quicker, within a thousandth of the amplitude
    jump = max(1, p // 10)
    part = (
        seasonal.STL(y, period=p, robust=True, trend_jump=jump, low_pass_jump=jump).fit().seasonal
    )
    out: FloatArray = np.bincount(phase, part, p) / np.bincount(phase, minlength=p)
    return out


def _holt(
    y: FloatArray, alpha: float, beta: float, phi: float
) -> tuple[npt.NDArray[np.float64], float, float]:
    """Run the recursion over y (k,); returns one-step errors (k,), the last level and slope."""
    level, slope = float(y[0]), 0.0
    errors = np.zeros(len(y))
    for i in range(1, len(y)):
        error = float(y[i]) - level - phi * slope
        errors[i] = error
        level += phi * slope + alpha * error
        slope = phi * slope + beta * alpha * error
    return errors, level, slope
