"""The models behind `detectors/fill.py`: linear Gaussian trends, averaged over a grid, and paths drawn from them.

A state is level, slope, a swaying that comes back (memory of minutes to hours) and, where two days are known, two
harmonics of a day. Kinds differ in how much level and slope wander, in whether the slope grows, fades or broke once.
Each is filtered by statsmodels with time-varying matrices, so buckets may have any length and none need be there; the
scale is integrated out. Weights are marginal likelihoods times odds that were fixed beforehand.
Times in units of 30 s inside; y in the smallest change that can matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent.model import BoolArray, FloatArray

_DAY_S: Final = 86_400.0
_UNIT_S: Final = 30.0
"""The wandering of a level is stated per so long."""
_NOISES: Final = (
    *((wander, 0.0, 0.0) for wander in (0.0, 1e-3, 3e-2, 1.0, 30.0, 1000.0)),
    (0.0, 3.0, 600.0), (0.0, 10.0, 3600.0), (0.0, 10.0, 14_400.0),
)  # fmt: skip
"""(wander, sway, memory): variance that a level gains for good in 30 s, variance of what it sways by and comes back
from, both against that of one reading, and the memory of the swaying in seconds."""
_FEWER_NOISES: Final = tuple(_NOISES[i] for i in (0, 2, 4, 7))
_BEND_S: Final = (math.inf, 172_800.0, 43_200.0, 14_400.0, 3600.0, 900.0)
"""Time after which a slope has wandered so far that it moves the level by as much as one reading varies."""
_FOLD_S: Final = (
    *(3600.0 * 3.0 ** (i / 2) for i in range(9)),
    *(-1800.0 * 3.0**i for i in range(5)),
)
"""Time in which a slope grows by e, from an hour to 81; negative: fades by it."""
_KINK_S: Final = tuple(240.0 * 2.0**i for i in range(10))
"""How long ago a slope may have become another one: four minutes to a day and a half."""
_FOLD_OF_KINK: Final = (-0.25, 0.5)
"""A new slope may fade (a cache that warms up) or grow, too: in these shares of the time since it began."""
_ODDS: Final = 0.1
"""A slope that grows, fades or breaks must be seen to: most do not."""
_UNSTEADY: Final = 0.03
"""No fill goes on as steadily as it looks: times are no better known than to three in a hundred."""
_LEAST_NOISE: Final = 0.1
"""Averaging over long buckets takes away noise, but not more than this leaves of its variance."""
_FOLDS_MORE: Final = 2.0
"""It is believed to go on so for so many folds more, on average."""
_NEAR: Final = 300.0
"""A curved trend whose likelihood is so near (in logs) is looked at on a finer grid: it may fit far better there."""
_MOST_FOLDS: Final = 40.0
_AFTER_KINK: Final = 4
"""Points that must lie behind a kink for it to be seen."""
_BURN: Final = 2
"""The first points only place level and slope."""
_HARMONICS: Final = 2
_RHYTHM_DAYS: Final = 1.6
_DRAWS: Final = 2000
_STEP_SHARE: Final = 0.02
"""A step of a path is this share of the time since now: coarse where it is far."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a series must not get, in its own units.

    floor      smallest change that can matter
    horizon_s  how far to look
    """

    limit: float
    floor: float
    horizon_s: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What is left of one series: ts (m,), y (m,) and at which points the level may jump (m,) before it.

    margin   how far maxima stand above means
    teeth    y are peaks of teeth
    """

    ts: FloatArray
    y: FloatArray
    jump: BoolArray
    margin: float
    teeth: bool


# ---------------------------------------------------------------- models


def first_passage(c: Cleaned, goal: Goal, now: float, kalman: Any) -> FloatArray:
    """Draw times (draws,) at which level (and rhythm) reach the limit, seconds from `now`; infinite = not in time."""
    shift, unit = float(c.y[-1]), _noise(c)
    y = (c.y - shift) / unit
    high = (goal.limit / goal.floor - shift - c.margin) / unit
    rhythms = [False]
    if (c.ts[-1] - c.ts[0]) / _DAY_S >= _RHYTHM_DAYS and len(y) >= 48:
        rhythms.append(True)
    youngest = float(c.ts[-1] - c.ts[-min(_AFTER_KINK, len(y))])
    kinds = [kind for rhythm in rhythms for kind in _kinds(rhythm=rhythm)]
    fits = [
        _fit(c, y, unit, kind, kalman)
        for kind in kinds
        if not kind.kink_s or youngest <= kind.kink_s < c.ts[-1] - c.ts[0]
    ]
    weight = _weights(fits)
    top = fits[int(np.argmax(weight))]
    if abs(top.mean[1]) > 4.0 * math.sqrt(top.cov[1, 1] * top.rate / top.shape):
        for family in ("grows", "fades", "breaks"):
            those = [f for f in fits if f.kind.family == family]
            best = max(those, key=lambda f: f.loglike, default=None)
            if best is not None and best.loglike > top.loglike - _NEAR:
                fits = [f for f in fits if f.kind.family != family]
                fits += [_fit(c, y, unit, kind, kalman) for kind in _finer(best.kind)]
        weight = _weights(fits)
    rng = np.random.default_rng(goal.seed)
    counts = rng.multinomial(_DRAWS, weight)
    chosen = [(fit, int(n)) for fit, n in zip(fits, counts, strict=True) if n]
    ahead = _Ahead(high, now, now - float(c.ts[-1]), _steps(goal.horizon_s))
    times = _paths(chosen, ahead, rng)
    times *= np.exp(_UNSTEADY * rng.normal(size=len(times)))
    return np.where(times <= goal.horizon_s, times, np.inf)


def _weights(fits: list[_Fit]) -> FloatArray:
    """Return how probable each model is after the data."""
    logs = np.array([f.loglike + math.log(f.kind.odds) for f in fits])
    weight = np.exp(logs - logs.max())
    out: FloatArray = weight / weight.sum()
    return out


def _noise(c: Cleaned) -> float:
    """Return a robust size of what one reading varies by, never below a fiftieth of what matters."""
    second = np.diff(c.y, 2)
    size = 1.4826 * float(np.median(np.abs(second))) / math.sqrt(6.0) if len(second) else 0.0
    return max(size, 0.02)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One model: a level that gains `slope` a unit of time (30 s); both wander, and the slope may grow or fade.

    wander   variance that the level gains in a unit, against that of one reading
    sway     variance of what it comes back from, likewise; memory_s: how long that takes
    bend     variance that the slope gains in a unit, likewise
    growth   of the slope a unit, in e-folds; negative = it fades and the level comes to rest
    kink_s   so long ago the slope became another one; 0 = it did not
    rhythm   of a day
    odds     against one straight trend, before any data
    """

    wander: float
    sway: float
    memory_s: float
    bend: float
    growth: float = 0.0
    kink_s: float = 0.0
    rhythm: bool = False
    odds: float = 1.0

    @property
    def family(self) -> str:
        """How its slope bends: grows, fades, breaks, or "" = not by itself."""
        if self.kink_s:
            return "breaks"
        return "grows" if self.growth > 0 else "fades" if self.growth else ""

    @property
    def noise(self) -> tuple[float, float, float]:
        """As in _NOISES."""
        return self.wander, self.sway, self.memory_s


def _bend(seconds: float) -> float:
    return 0.0 if math.isinf(seconds) else 3.0 / (seconds / _UNIT_S) ** 3


def _kinds(*, rhythm: bool) -> list[_Kind]:
    """Return the grid; a rhythm is tried with straight trends only."""
    noises, bends = (_FEWER_NOISES, _BEND_S[:3]) if rhythm else (_NOISES, _BEND_S)
    straight = [_Kind(*noise, _bend(s), rhythm=rhythm) for noise in noises for s in bends]
    if rhythm:
        return straight
    grown = [
        _Kind(*noise, 0.0, growth=_UNIT_S / fold_s, odds=_ODDS)
        for noise in _FEWER_NOISES
        for fold_s in _FOLD_S
    ]
    kinked = [
        _Kind(*noise, 0.0, kink_s=kink_s, odds=_ODDS)
        for noise in _FEWER_NOISES
        for kink_s in _KINK_S
    ]
    kinked += [
        _Kind(*noise, 0.0, growth=_UNIT_S / (share * kink_s), kink_s=kink_s, odds=_ODDS / 2.0)
        for noise in _FEWER_NOISES[:2]
        for kink_s in _KINK_S
        for share in _FOLD_OF_KINK
    ]
    return straight + grown + kinked


def _finer(best: _Kind) -> list[_Kind]:
    """Return kinds around a curved one, in place of it: what is a tenth off now is hours off in the end."""
    near = sorted({best.noise, _NOISES[0], _NOISES[2]})
    share = 2.0 ** (np.arange(-5, 6) / 8.0)
    if best.kink_s:
        growths = best.growth * (share[::2] if best.growth else np.ones(1))
        odds = _ODDS / (len(share) * len(growths))
        return [
            _Kind(*noise, 0.0, growth=float(g), kink_s=float(s), odds=odds)
            for noise in near
            for s in best.kink_s * share
            for g in growths
        ]
    bends = (0.0, _bend(43_200.0))
    return [
        _Kind(*noise, bend, growth=float(g), odds=_ODDS / (len(share) * len(bends)))
        for noise in near
        for bend in bends
        for g in best.growth * share
    ]


def _lengths(ts: FloatArray) -> FloatArray:
    """Return how long each bucket (m,) probably was: no longer than the way to its nearer neighbour."""
    gap = np.diff(ts)
    nearer = np.minimum(np.append(gap[:1], gap), np.append(gap, gap[-1:]))
    return np.clip(nearer, _UNIT_S, 1800.0)


def _averaged(x: FloatArray) -> FloatArray:
    """Return what is left of the variance of a swaying when it is averaged over x memories."""
    x = np.maximum(x, 1e-6)
    return np.where(x < 1e-3, 1.0, 2.0 * (x - 1.0 + np.exp(-x)) / x**2)


def _kept(memory_s: Any, dt: Any) -> Any:
    """Return how much of a swaying is left after dt."""
    return np.exp(-dt * _UNIT_S / np.maximum(memory_s, 1e-3))


def _carry(growth: FloatArray, dt: FloatArray | float) -> tuple[FloatArray, FloatArray]:
    """Return what dt makes of a slope, and what the level gains by it: factors."""
    grown = np.minimum(growth * dt, _MOST_FOLDS)
    straight = np.abs(grown) < 1e-9
    gained: FloatArray = np.where(straight, dt, np.expm1(grown) / np.where(straight, 1.0, growth))
    return np.exp(grown), gained


@dataclass(frozen=True, slots=True)
class _Fit:
    """One model after the last point: state mean (s,), covariance (s, s) over the scale, scale by inverse gamma."""

    loglike: float
    mean: FloatArray
    cov: FloatArray
    shape: float
    rate: float
    kind: _Kind


def _fit(c: Cleaned, y: FloatArray, unit: float, kind: _Kind, kalman: Any) -> _Fit:
    """Run the filter; the variance of a reading is 1 in it and integrated out afterwards."""
    span = max(float(c.ts[-1] - c.ts[0]) / _UNIT_S, 1.0)
    reach = max(float(np.ptp(y)), 10.0)
    jumps = np.append(c.jump[1:], False)
    design, transition, cov = _matrices(c.ts, kind, fresh=30.0 * reach / span, reach=reach)
    cov[0, 0][jumps] += (3.0 * reach) ** 2
    s = len(transition)
    filter_: Any = kalman(k_endog=1, k_states=s)
    filter_.bind(np.ascontiguousarray(y[None, :]))
    filter_["design"] = design
    filter_["obs_cov"] = np.maximum(_UNIT_S / _lengths(c.ts), _LEAST_NOISE)[None, None, :]
    filter_["transition"] = transition
    filter_["selection"] = np.eye(s)
    filter_["state_cov"] = cov
    prior = np.full(s, (0.5 * reach) ** 2)
    # of a slope that grows, what it was at first is smaller by all that it has grown since
    grown = 0.0 if kind.kink_s else min(max(kind.growth, 0.0) * span, _MOST_FOLDS)
    prior[:3] = (3.0 * reach) ** 2, (30.0 * reach / span * math.exp(-grown)) ** 2, kind.sway
    first = np.zeros(s)
    first[0] = y[0]
    filter_.initialize_known(first, np.diag(prior))
    done = filter_.filter()
    # what a jump was can not be foretold and says nothing of a model
    keep = ~jumps[_BURN - 1 : -1]
    error = done.forecasts_error[0, _BURN:][keep]
    size = done.forecasts_error_cov[0, 0, _BURN:][keep]
    shape = 1.0 + len(error) / 2.0
    with np.errstate(over="ignore", invalid="ignore"):
        rate = (0.02 / unit) ** 2 + 0.5 * float(np.sum(error**2 / size))
        loglike = -0.5 * float(np.sum(np.log(size))) - shape * math.log(rate)
    if not math.isfinite(loglike):  # it has run away from the data: no weight
        loglike = -math.inf
    return _Fit(
        loglike, done.filtered_state[:, -1], done.filtered_state_cov[:, :, -1], shape, rate, kind
    )  # fmt: skip


def _matrices(
    ts: FloatArray, kind: _Kind, *, fresh: float, reach: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return design (1, s, m), transition and state covariance (s, s, m) from each point to the next.

    fresh, reach   how large a new slope may be, and how far the series has moved at all
    """
    m, s = len(ts), 3 + (2 * _HARMONICS if kind.rhythm else 0)
    dt = np.append(np.diff(ts), _UNIT_S) / _UNIT_S  # the last step predicts what is not used
    design = np.zeros((1, s, m))
    design[0, 0] = 1.0
    design[0, 2] = np.sqrt(_averaged(_lengths(ts) / max(kind.memory_s, 1e-3)))
    if kind.rhythm:
        design[0, 3:] = _waves(ts)
    broke = int(np.searchsorted(ts, ts[-1] - kind.kink_s)) - 1 if kind.kink_s else 0
    broke = max(broke, 0)
    kept = _kept(kind.memory_s, dt)
    transition = np.repeat(np.eye(s)[:, :, None], m, axis=2)
    growth = np.where(np.arange(m) < broke, 0.0, kind.growth)
    transition[1, 1], transition[0, 1] = _carry(growth, dt)
    transition[2, 2] = kept
    cov = np.zeros((s, s, m))
    cov[0, 0] = kind.wander * dt + kind.bend * dt**3 / 3.0
    cov[0, 1] = cov[1, 0] = kind.bend * dt**2 / 2.0
    cov[1, 1] = kind.bend * dt
    cov[2, 2] = kind.sway * (1.0 - kept**2)
    if kind.kink_s:
        cov[1, 1, broke] += fresh**2 + (3.0 * reach * _UNIT_S / kind.kink_s) ** 2
    return design, transition, cov


def _waves(ts: FloatArray) -> FloatArray:
    """Return cosine and sine of the time of day and of its half, (4, m)."""
    turn = 2.0 * np.pi * (ts % _DAY_S) / _DAY_S
    return np.stack([f(k * turn) for k in range(1, _HARMONICS + 1) for f in (np.cos, np.sin)])


# ---------------------------------------------------------------- paths


def _steps(horizon_s: float) -> FloatArray:
    """Return the lengths of steps (h,) that reach the horizon: half a minute now, longer later, an hour at most."""
    out, at = [], 0.0
    while at < horizon_s:
        step = min(max(_UNIT_S, _STEP_SHARE * at), 3600.0)
        out.append(step)
        at += step
    return np.array(out)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What paths walk through: where they end, from when, how old the last point is, and the lengths of their steps."""

    high: float
    now: float
    late_s: float
    steps: FloatArray


def _paths(chosen: list[tuple[_Fit, int]], ahead: _Ahead, rng: np.random.Generator) -> FloatArray:
    """Draw so many paths of each model and return when each reaches the goal (count,), infinite = never."""
    counts = [n for _, n in chosen]
    sigma = np.concatenate([np.sqrt(f.rate / rng.gamma(f.shape, size=n)) for f, n in chosen])
    state = np.zeros((len(sigma), 3 + 2 * _HARMONICS))
    a = 0
    for fit, n in chosen:
        noise = rng.normal(size=(n, len(fit.mean))) @ _root(fit.cov).T
        state[a : a + n, : len(fit.mean)] = fit.mean + sigma[a : a + n, None] * noise
        a += n
    wander, sway, memory_s, bend, growth = (
        np.repeat([getattr(f.kind, name) for f, _ in chosen], counts)
        for name in ("wander", "sway", "memory_s", "bend", "growth")
    )
    level, slope, swing = state[:, 0], state[:, 1], state[:, 2]
    swings, grows = bool(sway.any()), growth > 0
    # what grows by itself does not do so for ever: on it goes straight, as steep as it is by then
    ends = np.where(
        grows, rng.exponential(_FOLDS_MORE, len(sigma)) / np.where(grows, growth, 1.0), np.inf
    )
    at = np.append(0.0, np.cumsum(ahead.steps))
    waves = _waves(ahead.now + at)
    any_rhythm = any(f.kind.rhythm for f, _ in chosen)
    times = np.full(len(sigma), np.inf)
    before = np.full(len(sigma), -np.inf)
    for i, dt in enumerate(np.append(ahead.late_s, ahead.steps) / _UNIT_S):
        grown, gained = _carry(np.where(at[i] < ends * _UNIT_S, growth, 0.0), dt)
        # a slope that wanders: its own change, and the part of the level's that this does not fix
        bent, part, own = rng.normal(size=(3, len(sigma))) * sigma
        bent *= np.sqrt(bend * dt)
        level = level + slope * gained + np.sqrt(wander * dt) * own
        level += dt * (0.5 * bent + np.sqrt(bend * dt / 12.0) * part)
        slope = slope * grown + bent
        value = level + state[:, 3:] @ waves[:, i] if any_rhythm else level
        if swings:
            kept = _kept(memory_s, dt)
            fresh = rng.normal(size=len(sigma)) * sigma
            swing = kept * swing + np.sqrt(sway * (1.0 - kept**2)) * fresh
            value = value + swing
        reached = np.isinf(times) & (value >= ahead.high)
        if reached.any():
            was = before[reached]
            rise = np.maximum(value[reached] - was, 1e-12)
            share = np.where(np.isinf(was), 0.0, (ahead.high - np.maximum(was, -1e300)) / rise)
            begin = at[i - 1] if i else 0.0
            times[reached] = begin + np.clip(share, 0.0, 1.0) * (at[i] - begin)
        before = value
    return times


def _root(cov: FloatArray) -> FloatArray:
    """Return a square root of a covariance that may be singular."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2.0)
    out: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
    return out
