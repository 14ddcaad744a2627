"""Any series, and which of them moved in a stretch of time: what the console's page *explore* asks.

    history -> series that there are, newest value, how rare it is now          -> SeriesPage
    history -> rows before and in a window -> agent.rca.evidence (moves, scale) -> RankView

The evidence is that of the ranker of causes: a series counts by how far it moved against its own past, over what is
ordinary for it. Rows are read in parts between two ticks, moves are computed in a thread: nothing waits for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import TypedDict

from agent.catalogue import SIGNALS
from agent.model import Entity, FloatArray, Incident, Series
from agent.monitor import READY_ROWS, Watch
from agent.scores import MOST, STEP_S, rarest
from agent.views import title_of

if TYPE_CHECKING:
    from agent.world import World

_POINTS: Final = 400
LIMIT_S: Final = 4.0
"""What has not been read by then is left out, and said to be."""
MOST_RANKED: Final = 10_000
_PART: Final = 32
"""Series that are read at once: some milliseconds, then the next tick may come."""
_HELD: Final = 512
_ROWS: Final = 600
_PAST: Final = 4.0
"""The past is so many windows long, within these bounds."""
_PAST_S: Final = (600.0, 6 * 3600.0)

Read = Callable[[Sequence[Series], float, float, float | None], tuple[FloatArray, FloatArray]]


class SeriesView(TypedDict):
    """One series now.

    p       how rare this is for it; null = not known
    state   abnormal: it takes part in an open incident; ordinary; learning: its history is short; unknown: no value
    """

    series: str
    title: str
    subject: str
    entity: str
    unit: str
    source: str
    value: float | None
    p: float | None
    state: str


class SeriesPage(TypedDict):
    """Some of the series that fit. total: of all that there are; found: of those that fit."""

    total: int
    found: int
    series: list[SeriesView]


class ScoreView(TypedDict):
    """How one series stands now, by its detector. low, high: the band that is expected, null = open or not known."""

    series: str
    state: str
    p: float | None
    family: str
    low: float | None
    high: float | None
    deviations: float | None
    calibrated: bool
    learnt_rows: int


class PastScoreView(TypedDict):
    """How rare one series was over a stretch of time, by what its detector said then.

    data     [ts, score]: -log10 of the rarest p-value of each `step_s`; null = nothing was said: too short a past, no
             daemon
    limit    the score from which on it is called abnormal now, by the alarm budget; null = nobody judges it (yet)
    """

    series: str
    start: float
    end: float
    step_s: float
    data: list[list[float | None]]
    limit: float | None


class RankedView(TypedDict):
    """One series that moved.

    score       how far, against what is ordinary for it: 1 = as ever
    direction   1 up, -1 down
    usual, now  median of the past, and how far it was in the window: its 90th percentile, or 10th where it fell
    scale       one robust deviation
    begun_s     seconds into the window at which it had come half of the way; null = too few rows to tell
    """

    series: str
    title: str
    subject: str
    entity: str
    unit: str
    score: float
    direction: int
    usual: float
    now: float | None
    scale: float
    begun_s: float | None


class RankView(TypedDict):
    """Series by how much they moved in a window, the most first.

    past        where the past begins that they are held against
    compared    series that had past and window enough; silent: that had not; left_out: there was no time for
    """

    start: float
    end: float
    past: float
    step_s: float
    compared: int
    silent: int
    left_out: int
    took_s: float
    series: list[RankedView]


# ---------------------------------------------------------------- any series


def page(
    series: Iterable[Series],
    world: World,
    watches: Mapping[str, Watch],
    incidents: Iterable[Incident],
    name: Callable[[Entity], str],
    *,
    search: str = "",
    sort: str = "rare",
    offset: int = 0,
    limit: int = 100,
) -> SeriesPage:
    """Return the series that have all words of `search` in their text: the rarest, or by name."""
    scores = {
        s: (float(p), watch.rows >= READY_ROWS)
        for watch in watches.values()
        if len(watch.p) == len(watch.series)
        for s, p in zip(watch.series, watch.p, strict=True)
    }
    abnormal = {a.series for i in incidents for a in i.anomalies if a.end is None}
    sources: dict[Series, str] = {}
    for source, (some, _, _) in world.rows().items():
        sources.update(dict.fromkeys(some, source))
    names: dict[Entity, str] = {}
    words = search.lower().split()
    total, found = 0, list[tuple[Any, Series]]()
    for s in series:
        total += 1
        called = names.get(s.entity)
        if called is None:
            called = names[s.entity] = name(s.entity)
        text = f"{s} {title_of(s)} {called}".lower() if words else ""
        if all(word in text for word in words):
            p = scores.get(s, (math.nan, False))[0]
            rank = (s not in abnormal, 2.0 if math.isnan(p) else p) if sort == "rare" else ()
            found.append(((*rank, called, s.metric, s.labels), s))
    found.sort(key=lambda one: one[0])

    def view(s: Series) -> SeriesView:
        p, ready = scores.get(s, (math.nan, False))
        value = world.get(s)
        state = (
            "unknown" if value is None
            else "abnormal" if s in abnormal
            else "ordinary" if ready and not math.isnan(p) else "learning"
        )  # fmt: skip
        return {
            "series": str(s), "title": title_of(s), "subject": names[s.entity], "entity": s.entity.id,
            "unit": SIGNALS[s.metric].unit, "source": sources.get(s, ""), "value": _number(value),
            "p": _number(p), "state": state,
        }  # fmt: skip

    return {
        "total": total,
        "found": len(found),
        "series": [view(s) for _, s in found[offset : offset + limit]],
    }


def score(series: Series, watches: Mapping[str, Watch], value: float | None) -> ScoreView:
    """Return how one series stands now, as its detector sees it."""
    out: ScoreView = {
        "series": str(series), "state": "unknown" if value is None else "learning", "p": None,
        "family": "", "low": None, "high": None, "deviations": None, "calibrated": False, "learnt_rows": 0,
    }  # fmt: skip
    for watch in watches.values():
        if watch.detector is None or series not in watch.series:
            continue
        i = watch.series.index(series)
        if i >= len(watch.p):
            continue
        why, p = watch.detector.explain(i), float(watch.p[i])
        ready = watch.rows >= READY_ROWS and not math.isnan(p)
        out |= {
            "state": "unknown" if value is None else "ordinary" if ready else "learning",
            "p": _number(p), "family": why.family, "low": _number(why.low), "high": _number(why.high),
            "deviations": _number(why.deviations), "calibrated": why.calibrated,
            "learnt_rows": int(why.learnt_rows),
        }  # fmt: skip
    return out


def past_score(
    series: Series,
    read: Callable[[Series, float, float], tuple[FloatArray, FloatArray]],
    watches: Mapping[str, Watch],
    start: float,
    end: float,
) -> PastScoreView:
    """Return what was said of one series between two moments."""
    every, limit = STEP_S, math.nan
    for watch in watches.values():
        if watch.detector is not None and series in watch.series:
            # two rows of a slow source are never in the same place, and none is missed
            every = watch.step_s if watch.step_s < STEP_S else 2 * watch.step_s
            limit = watch.alpha(watch.series.index(series))
    wide = max(STEP_S, every, (end - start) / _POINTS)
    step = STEP_S * math.ceil(wide / STEP_S)
    ts, found = read(series, start, end)
    at, column = rarest(ts, found, start, end, step)
    return {
        "series": str(series), "start": start, "end": end, "step_s": step,
        "data": [at.tolist(), [_number(v) for v in column]],
        "limit": None if math.isnan(limit) else round(min(-math.log10(max(limit, 1e-300)), MOST), 2),
    }  # fmt: skip


# ---------------------------------------------------------------- what moved


async def rank(
    series: Sequence[Series],
    read: Read,
    name: Callable[[Entity], str],
    start: float,
    end: float,
    *,
    limit: int = 50,
    clock: Callable[[], float] = time.monotonic,
) -> RankView:
    """Rank series by how far they moved in a window; what there is no time to read is left out.

    Memory: rows of `_HELD` series at once, some 10 MB.
    """
    began = clock()
    past = start - min(max(_PAST * (end - start), _PAST_S[0]), _PAST_S[1])
    step = float(max(1.0, math.ceil((end - past) / _ROWS)))
    first = math.floor(past / step)
    rows = math.floor(end / step) - first + 1
    times: FloatArray = (first + np.arange(rows, dtype=np.float64)) * step
    wanted = series[:MOST_RANKED]
    moved, compared, done = list[tuple[Series, RankedView]](), 0, 0
    while done < len(wanted) and clock() - began < LIMIT_S:
        held = wanted[done : done + _HELD]
        values: FloatArray = np.full((rows, len(held)), np.nan)
        at = 0
        while at < len(held) and clock() - began < LIMIT_S:
            some = held[at : at + _PART]
            ts, got = read(some, past, end, step)
            # the grid of one read may be shorter than that of another: rows come in meanwhile
            row = np.rint(ts / step).astype(np.int64) - first
            fits = (row >= 0) & (row < rows)
            values[row[fits], at : at + len(some)] = got[fits]
            at += len(some)
            await asyncio.sleep(0)
        found, judged = await asyncio.to_thread(_moved, held[:at], times, values[:, :at], start)
        moved += found
        compared += judged
        done += at
    moved.sort(key=lambda one: (-one[1]["score"], one[1]["series"]))
    for s, shown in moved[:limit]:
        shown["subject"] = name(s.entity)
    return {
        "start": start, "end": end, "past": past, "step_s": step, "compared": compared,
        "silent": done - compared, "left_out": len(series) - done, "took_s": clock() - began,
        "series": [shown for _, shown in moved[:limit]],
    }  # fmt: skip


def _moved(
    series: Sequence[Series], times: FloatArray, values: FloatArray, start: float
) -> tuple[list[tuple[Series, RankedView]], int]:
    """Return what moved at all, and how many series could be judged.

    Series come sorted, so those of one metric stand together and lend each other a scale.
    """
    from agent.rca import evidence

    kinds = {metric: k for k, metric in enumerate(dict.fromkeys(s.metric for s in series))}
    group = np.array([kinds[s.metric] for s in series], dtype=np.int64)
    seen = evidence.gather(times, values, start, group)
    inside = values[times >= start]
    has = np.isfinite(inside).any(axis=0) if len(inside) else np.zeros(len(series), dtype=bool)
    m = seen.moves
    out: list[tuple[Series, RankedView]] = []
    for j in map(int, np.flatnonzero(seen.known & has & (np.maximum(m.up, m.down) > 1.0))):
        s, signal = series[j], SIGNALS[series[j].metric]
        up = bool(m.up[j] >= m.down[j])
        size = float(m.rise[j] if up else m.fall[j])
        # less than what the catalogue calls nothing is nothing
        worth = min(1.0, size / signal.floor) if signal.floor > 0 else 1.0
        points = float(m.up[j] if up else m.down[j]) * worth
        if points <= 1.0:
            continue
        out.append((s, {
            "series": str(s), "title": title_of(s), "subject": "", "entity": s.entity.id,
            "unit": signal.unit, "score": points, "direction": 1 if up else -1,
            "usual": float(seen.usual[j]), "now": _number(float(np.nanpercentile(inside[:, j], 90 if up else 10))),
            "scale": float(seen.scale[j]),
            "begun_s": float(m.begun[j]) * float(times[-1] - start) if m.begun[j] > 0 else None,
        }))  # fmt: skip
    return out, int(np.count_nonzero(seen.known & has))


def _number(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)
