"""What others do, written from their published descriptions: streaming, all series of a source at once.

    Rival(n_series, step_seconds).update(ts (n,), values (n,)) -> scores (n,) >= 0

A larger score is more abnormal, `threshold` is each one's own usual limit, NaN values are missing rows (score 0). One
setting for all series and steps, as for homeostat. Run as a program it times what other packages bring; that happens
in an environment of its own (`make build/rivals`), for cost alone, because they take a Python object a point:

    build/rivals/bin/python tests/bench/rivals.py river_hst rrcf
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DAY_S = 86_400.0
LEAST_ROWS = 30
"""Rows before which none of them scores a series."""


class Rival(Protocol):
    """A detector under comparison."""

    threshold: float
    warm_rows: int

    def update(self, ts: Array, x: Array) -> Array:
        """Score a row and learn it."""
        ...


class Ewma:
    """Exponentially weighted mean and variance (control chart of Roberts 1959), over about 200 rows; limit 5 sigma."""

    threshold = 5.0
    warm_rows = 400

    def __init__(self, n: int, step_s: float) -> None:
        self.weight = 2.0 / 201.0
        self.rows = np.zeros(n)
        self.mean = np.zeros(n)
        self.variance = np.zeros(n)

    def update(self, ts: Array, x: Array) -> Array:
        ok = np.isfinite(x)
        first = ok & (self.rows == 0)
        if first.any():
            self.mean[first] = x[first]
        off = np.where(ok, x - self.mean, 0.0)
        sigma = np.sqrt(self.variance) + 1e-9 * np.abs(self.mean) + 1e-12
        score = np.where(self.rows >= LEAST_ROWS, np.abs(off) / sigma, 0.0)
        self.rows += ok
        weight = np.where(ok, np.maximum(self.weight, 1.0 / np.maximum(self.rows, 1.0)), 0.0)
        self.mean += weight * off
        self.variance = (1.0 - weight) * (self.variance + weight * off * off)
        return score


class WindowedGaussian:
    """Bell of the last 6,400 rows, taken anew at every row until the window is full, then every 100 rows.

    As the Numenta benchmark's detector of this name; limit 5 sigma.
    """

    threshold = 5.0
    warm_rows = 6600

    def __init__(self, n: int, step_s: float) -> None:
        self.window, self.every = 6400, 100
        self.kept = np.full((self.window, n), np.nan)
        self.ticks = 0
        self.origin = np.full(n, np.nan)
        self.sums = np.zeros((3, n))  # rows, sum, sum of squares, all from `origin`
        self.mean = np.zeros(n)
        self.sigma = np.ones(n)

    def update(self, ts: Array, x: Array) -> Array:
        ok = np.isfinite(x)
        new = ok & np.isnan(self.origin)
        if new.any():
            self.origin[new] = x[new]
        from_origin = x - self.origin
        score: Array = np.abs(from_origin - self.mean) / self.sigma
        score[~ok | (self.sums[0] < LEAST_ROWS)] = 0.0
        at = self.ticks % self.window
        if self.ticks >= self.window:
            self._count(self.kept[at], -1.0)
        self.kept[at] = from_origin
        self._count(from_origin, 1.0)
        self.ticks += 1
        if self.ticks % self.window == 0:
            # what rounding has left in the running sums
            self.sums[:] = 0.0
            for row in self.kept:
                self._count(row, 1.0)
        if self.ticks <= self.window or self.ticks % self.every == 0:
            rows = np.maximum(self.sums[0], 1.0)
            self.mean = self.sums[1] / rows
            variance = np.maximum(self.sums[2] / rows - self.mean**2, 0.0)
            self.sigma = np.maximum(np.sqrt(variance), 1e-6)
        return score

    def _count(self, row: Array, sign: float) -> None:
        there = np.isfinite(row)
        known = np.where(there, row, 0.0)
        self.sums[0] += sign * there
        self.sums[1] += sign * known
        self.sums[2] += sign * known * known


class HoltWinters:
    """Level, trend and an additive day (Winters 1960); an error against their smoothed size (Brutlag 2000); limit 6.

    The day is left out where it has under 12 or over 3,000 rows. Errors teach up to 4 deviations.
    """

    threshold = 6.0
    level_weight, trend_weight, day_weight = 0.05, 0.001, 0.1
    warm_rows = 1800

    def __init__(self, n: int, step_s: float) -> None:
        self.step_s = step_s
        slots = round(DAY_S / step_s)
        self.slots = slots if 12 <= slots <= 3000 else 0
        self.columns = np.arange(n)
        self.rows = np.zeros(n)
        self.level = np.zeros(n)
        self.trend = np.zeros(n)
        self.day = np.full((n, max(self.slots, 1)), np.nan if self.slots else 0.0)
        self.error = np.zeros(n)
        self.usual = np.zeros(
            (2, n)
        )  # slow mean of the series, and of its squared distance from that

    def update(self, ts: Array, x: Array) -> Array:
        ok = np.isfinite(x)
        first = ok & (self.rows == 0)
        if first.any():
            self.level[first] = self.usual[0, first] = x[first]
        slot = np.zeros(len(x), dtype=np.int64)
        if self.slots:
            slot = (np.mod(ts, DAY_S) // self.step_s).astype(np.int64) % self.slots
        of_day = self.day[self.columns, slot]
        unseen = np.isnan(of_day)
        season = np.where(unseen, 0.0, of_day)
        off = np.where(ok, x - self.level - self.trend - season, 0.0)
        ready = self.rows >= 2 * LEAST_ROWS
        deviation = 1.2533 * self.error
        # Where the day fits to the last digit, a small share of the series' own spread is still nothing.
        least = 0.05 * np.sqrt(self.usual[1]) + 1e-12
        score = np.where(ready & ~unseen, np.abs(off) / (deviation + least), 0.0)
        reach = np.where(ready, 4.0 * deviation, np.inf)
        moved = np.clip(off, -reach, reach)
        self.level += np.where(ok, self.trend + self.level_weight * moved, 0.0)
        self.trend += np.where(ok, self.trend_weight * self.level_weight * moved, 0.0)
        if self.slots:
            weight = np.where(unseen, 1.0, self.day_weight) * (1.0 - self.level_weight)
            self.day[self.columns, slot] = np.where(ok, season + weight * off, of_day)
        self.rows += ok
        weight = np.where(ok, np.maximum(0.004, 1.0 / np.maximum(self.rows, 1.0)), 0.0)
        self.error += weight * (np.minimum(np.abs(off), 3.0 * reach) - self.error)
        away = np.where(ok, x - self.usual[0], 0.0)
        self.usual[0] += 0.001 * away
        self.usual[1] += np.where(ok, 0.001 * (away * away - self.usual[1]), 0.0)
        return score


class KMeans:
    """What Netdata describes: an anomaly is what 18 clusterings of different pasts all have never seen.

    Feature: six successive values of the series, differenced and smoothed over three rows. A model is k-means with
    k = 2 on a fifth of the last six hours (at least 900 rows), made anew every half window; its score is the mean
    distance to both centres, 0 at the least and 1 at the most that it saw in training. The series' score is that of
    the model that says least; limit .99.
    """

    threshold = 0.99
    models, lags, smooth, rounds = 18, 6, 3, 10
    warm_rows = 9200

    def __init__(self, n: int, step_s: float) -> None:
        self.window = int(min(max(6 * 3600 / step_s, 900), 21_600))
        self.past = np.zeros((self.window, n), dtype=np.float32)
        self.last = np.full(n, np.nan)
        self.steps = np.zeros((self.smooth, n))
        self.feature = np.zeros((self.lags, n))
        self.ticks = self.made = 0
        self.centres = np.zeros((self.models, 2, self.lags, n))
        self.least = np.zeros((self.models, n))
        self.width = np.ones((self.models, n))
        self.random = np.random.default_rng(0)

    def update(self, ts: Array, x: Array) -> Array:
        x = np.where(np.isfinite(x), x, self.last)
        step = np.nan_to_num(x - self.last)
        self.last = x
        self.steps[self.ticks % self.smooth] = step
        self.feature[:-1] = self.feature[1:]
        self.feature[-1] = self.past[self.ticks % self.window] = self.steps.mean(axis=0)
        self.ticks += 1
        score = np.zeros(len(x))
        ready = min(self.made, self.models)
        if ready:
            away = self.feature - self.centres[:ready]
            far = np.sqrt(np.einsum("mkln,mkln->mkn", away, away)).mean(axis=1)
            score = np.maximum(((far - self.least[:ready]) / self.width[:ready]).min(axis=0), 0.0)
        if self.ticks >= 900 and (self.ticks - 900) % (self.window // 2) == 0:
            self._train()
        return score

    def _train(self) -> None:
        """Cluster features from random rows of the window, all series at once."""
        rows = min(self.ticks, self.window)
        oldest = self.ticks % self.window if self.ticks > self.window else 0
        starts = rows - self.lags
        at = self.random.choice(starts, max(starts // 5, 50), replace=False)
        rows_at = (oldest + at[:, None] + np.arange(self.lags)) % self.window
        seen = self.past[rows_at].astype(np.float64)
        one = seen[0]
        other = np.take_along_axis(seen, _squares(seen, one).argmax(axis=0)[None, None], axis=0)[0]
        for _ in range(self.rounds):
            nearer = (_squares(seen, one) <= _squares(seen, other))[:, None]
            one = _mean_where(seen, nearer, one)
            other = _mean_where(seen, ~nearer, other)
        far = (np.sqrt(_squares(seen, one)) + np.sqrt(_squares(seen, other))) / 2
        k = self.made % self.models
        self.centres[k] = one, other
        self.least[k] = far.min(axis=0)
        self.width[k] = np.maximum(far.max(axis=0) - self.least[k], 1e-12)
        self.made += 1


def _squares(points: Array, centre: Array) -> Array:
    """Squared distances (m, n) of points (m, lags, n) from a centre (lags, n)."""
    away = points - centre
    squares: Array = np.einsum("mln,mln->mn", away, away)
    return squares


def _mean_where(points: Array, take: Array, otherwise: Array) -> Array:
    count = take.sum(axis=0)
    mean: Array = np.where(count > 0, (points * take).sum(axis=0) / np.maximum(count, 1), otherwise)
    return mean


RIVALS: dict[str, Callable[[int, float], Rival]] = {
    "ewma": Ewma,
    "gaussian": WindowedGaussian,
    "holt_winters": HoltWinters,
    "kmeans": KMeans,
}


# ---------------------------------------------------------------- other packages, for their cost

POINTS = {"river_hst": 20_000, "rrcf": 2_000}


def _river() -> Callable[[float], None]:
    from river import anomaly, compose, preprocessing

    model = compose.Pipeline(
        preprocessing.MinMaxScaler(),
        anomaly.HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=0),
    )

    def take(x: float) -> None:
        model.score_one({"x": x})
        model.learn_one({"x": x})

    return take


def _rrcf() -> Callable[[float], None]:
    import rrcf

    forest = [rrcf.RCTree(random_state=i) for i in range(40)]
    shingle = [0.0] * 4
    rows = 0

    def take(x: float) -> None:
        nonlocal rows
        shingle[:] = [*shingle[1:], x]
        for tree in forest:
            if len(tree.leaves) >= 256:
                tree.forget_point(rows - 256)
            tree.insert_point(np.array(shingle), index=rows)
            tree.codisp(rows)
        rows += 1

    return take


def cost(name: str) -> dict[str, float]:
    """Microseconds of CPU a point on one series, once the trees are full."""
    take = {"river_hst": _river, "rrcf": _rrcf}[name]()
    random = np.random.default_rng(0)
    rows = np.arange(POINTS[name])
    stream = np.sin(2 * np.pi * rows / 1440) + 0.1 * random.normal(size=len(rows))
    warm = 300
    for x in stream[:warm].tolist():
        take(x)
    began = time.process_time()
    for x in stream[warm:].tolist():
        take(x)
    return {"us_per_point": (time.process_time() - began) / (len(stream) - warm) * 1e6}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.stdout.write(json.dumps({name: cost(name)}) + "\n")
