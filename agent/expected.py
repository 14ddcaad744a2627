"""What is expected of the series that matter most, for /metrics: score, band, and the limits that are stated.

    watches --chosen--> series that hurt users or model results, and those that are abnormal now
            --p, band, limits--> homeostat_series_score, _series_expected_low/_high, homeostat_objective_limit

Not of all series: a band of each would make /metrics four times as long. Bounded, and the same for every scrape.
Cost: some 10 us a chosen series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.sinks import score_of
from agent.telemetry import label_name

if TYPE_CHECKING:
    from agent.model import Series
    from agent.monitor import Watch
    from agent.telemetry import Pairs, Telemetry

_MOST: Final = 200
"""Series of one daemon that are chosen: what is abnormal comes first."""


def measure(telemetry: Telemetry, watches: Iterable[Watch]) -> None:
    """Set the gauges of chosen series; done at each scrape."""
    scores: dict[Pairs, float] = {}
    lows: dict[Pairs, float] = {}
    highs: dict[Pairs, float] = {}
    limits: dict[Pairs, float] = {}
    watches = list(watches)
    for watch, i in _chosen(watches):
        series = watch.series[i]
        key = _pairs(series)
        if key in scores:
            continue  # two sources with one series: the first speaks
        scores[key] = score_of(float(watch.p[i]))
        if SIGNALS[series.metric].unit != "bool":
            lows[key], highs[key] = watch.expected(i)
    for watch in watches:
        for series, low, high in watch.limits():
            if SIGNALS[series.metric].unit != "bool" and len(limits) < 2 * _MOST:
                # of several the one that is reached first; a side that is open is NaN
                below, above = _pairs(series, bound="low"), _pairs(series, bound="high")
                limits[below] = float(np.fmax(limits.get(below, math.nan), low))
                limits[above] = float(np.fmin(limits.get(above, math.nan), high))
    telemetry.replace_series("homeostat_series_score", scores)
    telemetry.replace_series("homeostat_series_expected_low", lows)
    telemetry.replace_series("homeostat_series_expected_high", highs)
    telemetry.replace_series("homeostat_objective_limit", limits)


def _chosen(watches: list[Watch]) -> Iterator[tuple[Watch, int]]:
    """Yield which series are chosen: what is abnormal now, then what would hurt."""
    left = _MOST
    for abnormal in (True, False):
        for watch in watches:
            if len(watch.p) != len(watch.series):
                continue  # its first row is still to come
            columns = watch.abnormal() if abnormal else _harmful(watch)
            for i in columns:
                if not left:
                    return
                left -= 1
                yield watch, i


def _harmful(watch: Watch) -> Iterator[int]:
    for i, series in enumerate(watch.series):
        if SIGNALS[series.metric].harm and not math.isnan(watch.p[i]):
            yield i


def _pairs(series: Series, **more: str) -> Pairs:
    own = {label_name(k): v for k, v in series.labels if v}
    return tuple(
        sorted({**own, **more, "signal": series.metric, "entity": series.entity.id}.items())
    )
