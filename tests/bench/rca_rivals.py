"""Simple rankers of root causes, written anew from their descriptions, to stand beside homeostat in one run.

    ranker(times (r,), names, values (r, n), at, graph, target) -> names of columns, likeliest first

Both look at the largest rise in the incident only, know no graph, leave out columns that never move before or after,
and tell memory in MB, without which a width of zero makes it win. n-sigma: standard deviations over the mean of the
past, the usual first baseline of this field. baro: the scorer of BARO, which takes median and inter-quartile range
instead (Pham, Ha, Zhang: "BARO: robust root cause analysis for microservices via multivariate Bayesian online change
point detection", FSE 2024, section 3.3).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def n_sigma(
    times: Array, names: Sequence[str], values: Array, at: float, graph: Any, target: Any
) -> list[str]:
    """Rank by standard deviations over the mean."""
    past, now, moving = _split(times, names, values, at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a past
        return _ranked(names, now, moving, np.nanmean(past, axis=0), np.nanstd(past, axis=0))


def robust(
    times: Array, names: Sequence[str], values: Array, at: float, graph: Any, target: Any
) -> list[str]:
    """Rank by inter-quartile ranges over the median."""
    past, now, moving = _split(times, names, values, at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, middle, high = np.nanpercentile(past, (25, 50, 75), axis=0)
    return _ranked(names, now, moving, middle, high - low)


RIVALS: Final[dict[str, Callable[..., list[str]]]] = {"n-sigma": n_sigma, "baro": robust}


def _split(
    times: Array, names: Sequence[str], values: Array, at: float
) -> tuple[Array, Array, Array]:
    """Rows before and from `at` on, and which columns move in both."""
    values = values / np.array([_unit(n, v) for n, v in zip(names, values.T, strict=True)])
    past, now = values[times < at], values[times >= at]
    moving = np.ones(values.shape[1], dtype=bool)
    for side in (past, now):
        high = np.max(side, axis=0, initial=-np.inf, where=np.isfinite(side))
        low = np.min(side, axis=0, initial=np.inf, where=np.isfinite(side))
        moving &= high > low
    return past, now, moving


def _unit(name: str, values: Array) -> float:
    """Bytes in one MB where a column is memory in bytes, else 1."""
    large = np.max(np.abs(values), initial=0.0, where=np.isfinite(values)) > 1e6
    return 1e6 if large and name.rpartition("_")[2].startswith("mem") else 1.0


def _ranked(
    names: Sequence[str], now: Array, moving: Array, centre: Array, width: Array
) -> list[str]:
    scaled = (now - centre) / np.where(width > 0, width, 1.0)
    peak = np.max(scaled, axis=0, initial=-np.inf, where=np.isfinite(scaled))
    peak = np.where(moving, peak, -np.inf)
    return [names[j] for j in np.argsort(-peak, kind="stable") if np.isfinite(peak[j])]
