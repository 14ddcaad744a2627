"""How good a detector is, from its scores and the labels; knows no detector and reads no file.

Every figure is causal and nothing is point-adjusted (one lucky row does not credit a whole event). A larger score
means more abnormal; p-values come in as -log10 p.

    VUS-PR      how well scores rank, whatever the threshold: the area under a precision-recall curve in which rows
                near an event count in part, averaged over buffers of 0 to 100 rows (Paparrizos et al., VLDB 2022)
    events      alarm rows closer than 5 rows or 600 s are one episode. It is true when it *begins* in an event widened
                by 3 rows or 60 s, else it is one false alarm; an event is found through a true episode only.
                precision = found / (found + false), recall = found / events
    neutral     an alarm on one metric while its machine is in an event that does not list that metric: neither
    R@x         recall at the one threshold, for all series alike, that costs at most x false alarms a series-day
    NAB         Numenta's score, standard profile, with the threshold that is best for the corpus, 0 = silence,
                100 = perfect (Lavin & Ahmad 2015). It charges every alarm row, so it is also told for scores of which
                only the first row of an episode is kept
    budget      whether as many false alarms came as were allowed

Cost: seconds for millions of rows; the series of a set are laid end to end, and no step loops over rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

VUS_BUFFER_ROWS = 100
MERGE_ROWS, MERGE_S = 5, 600.0
SLACK_ROWS, SLACK_S = 3, 60.0
EPISODE_ROWS = 150
"""Rows that a score must outdo to count as the first of its episode, for NAB."""
NAB_FALSE_POSITIVE = 0.11
"""What a false row costs in the standard profile; a hit and a miss weigh 1."""
HOPELESS = 60.0
"""Times the allowed false alarms from which lower thresholds are not tried: there alarms run into each other."""
DAY_S = 86_400.0


def spans(mask: Array) -> tuple[Array, Array]:
    """First and last rows of the runs of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2] - 1


def second_largest(scores: Array) -> Array:
    """Score of a machine (T,) from those of its metrics (T, k): one metric alone does not make it ill.

    With fewer than four metrics there are too few to ask for a second one.
    """
    rank = 2 if scores.shape[1] >= 4 else 1
    of_machine: Array = np.partition(scores, -rank, axis=1)[:, -rank]
    return of_machine


# ---------------------------------------------------------------- ranking


def vus_pr(label: Array, score: Array, buffer_rows: int = VUS_BUFFER_ROWS) -> float:
    """Volume under the range-aware precision-recall surface of one series; NaN without events."""
    starts, ends = spans(label)
    if not len(starts):
        return math.nan
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    ties_end = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    limits, alarms = ranked[ties_end], ties_end + 1.0
    hits = np.cumsum(label[order], dtype=np.float64)[ties_end]
    widths = range(0, buffer_rows + 1, max(1, buffer_rows // 10))
    areas = []
    for width in widths:
        near = _near(label, starts, ends, width)
        partly = np.cumsum(near[order])[ties_end]
        touched = _share_touched(score, starts, ends, width // 2, limits)
        # Half of the credit around events is owed too: who does not claim it is not made to lack it.
        recall = np.minimum((hits + partly) / (label.sum() + partly / 2), 1.0) * touched
        precision = (hits + partly) / alarms
        areas.append(float(np.sum(np.diff(recall, prepend=0.0) * precision)))
    return float(np.mean(areas))


def _near(label: Array, starts: Array, ends: Array, width: int) -> Array:
    """Credit (T,) of rows outside events: falls from 1 at an event's edge over half of `width` rows."""
    near = np.zeros(len(label))
    away = np.arange(1, width // 2 + 1)
    if len(away):
        fade = np.sqrt(1.0 - away / width)
        for rows in (starts[:, None] - away, ends[:, None] + away):
            inside = (rows >= 0) & (rows < len(label))
            np.add.at(near, rows[inside], np.broadcast_to(fade, rows.shape)[inside])
        np.minimum(near, 1.0, out=near)
        near[label] = 0.0
    return near


def _share_touched(score: Array, starts: Array, ends: Array, half: int, limits: Array) -> Array:
    """Share of events that an alarm at each of `limits` touches; events that grow into each other are one."""
    first, last = np.maximum(starts - half, 0), np.minimum(ends + half, len(score) - 1)
    apart = first[1:] > last[:-1]
    first, last = first[np.append(True, apart)], last[np.append(apart, True)]
    bounds = np.stack((first, last + 1), axis=1).ravel()
    if bounds[-1] == len(score):
        bounds = bounds[:-1]
    peaks = np.sort(np.maximum.reduceat(score, bounds)[::2])
    share: Array = 1.0 - np.searchsorted(peaks, limits, side="left") / len(peaks)
    return share


# ---------------------------------------------------------------- events and false alarms


@dataclass(frozen=True, slots=True)
class Unit:
    """What is judged as one: a series or a machine; all (T,), `neutral` may be None."""

    score: Array
    label: Array
    scored: Array
    neutral: Array | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """What one threshold brings: events found, false alarms, and the delays of those found."""

    found: int
    false: int
    delays_s: Array


@dataclass(frozen=True, slots=True)
class Events:
    """Units of one sampling step, laid end to end with room between them, so that one look judges all.

    row, score       (m,) place and score of every judged row
    starts, ends     (e,) events; quiet_from, quiet_to (q,) spans in which other alarms are neutral
    """

    step_s: float
    row: Array
    score: Array
    starts: Array
    ends: Array
    quiet_from: Array
    quiet_to: Array
    days: float

    @staticmethod
    def lay(units: Sequence[Unit], step_s: float) -> Events:
        """Lay them out; rows that are not scored stay places, so that distances stay true."""
        merge, slack = _near_rows(step_s)
        room = merge + 2 * slack + 1
        laid: list[list[Array]] = [[], [], [], [], [], []]
        at = judged = 0
        for unit in units:
            rows = np.flatnonzero(unit.scored)
            starts, ends = spans(unit.label & unit.scored)
            none = np.zeros(len(unit.scored), dtype=bool) if unit.neutral is None else unit.neutral
            quiet_from, quiet_to = spans(none & unit.scored)
            places = (rows, starts, ends, quiet_from, quiet_to)
            for to, part in zip(laid, (unit.score[rows], *(x + at for x in places)), strict=True):
                to.append(part)
            at += len(unit.scored) + room
            judged += len(rows)
        score, row, starts, ends, quiet_from, quiet_to = map(np.concatenate, laid)
        days = judged * step_s / DAY_S
        return Events(step_s, row, score, starts, ends, quiet_from, quiet_to, days)

    def above(self, floor: float) -> Events:
        """The same for thresholds from `floor` up, quicker to ask."""
        keep = self.score >= floor
        return replace(self, row=self.row[keep], score=self.score[keep])

    def at(self, threshold: float) -> Count:
        """Judge the alarms of one threshold."""
        rows = self.row[self.score >= threshold]
        if not len(rows):
            return Count(0, 0, np.zeros(0))
        merge, slack = _near_rows(self.step_s)
        begins = np.append(True, np.diff(rows) > merge)
        onsets = rows[begins]
        event = _inside(onsets, self.starts - slack, self.ends + slack)
        true = event >= 0
        false = ~true & (_inside(onsets, self.quiet_from - slack, self.quiet_to + slack) < 0)
        if not true.any():
            return Count(0, int(false.sum()), np.zeros(0))
        episode = np.cumsum(begins) - 1
        rows, event = rows[true[episode]], event[episode[true[episode]]]
        # The first true row from its widened start on: within the event, and of an episode that began no later event.
        first = np.searchsorted(rows, self.starts - slack)
        some = first < len(rows)
        first = np.minimum(first, len(rows) - 1)
        some &= (rows[first] <= self.ends + slack) & (event[first] <= np.arange(len(self.starts)))
        delays = np.maximum(rows[first] - self.starts, 0)[some] * self.step_s
        return Count(int(some.sum()), int(false.sum()), delays)

    def ladder(self, own: float) -> Array:
        """Thresholds to try, from the highest: shares of all scores, from a fifth to a millionth, and around `own`.

        Also just below 1, where scores that are relative to what was seen before crowd.
        """
        tail = np.quantile(self.score, 1.0 - np.geomspace(0.2, 1e-6, 30))
        below_one = 1.0 - np.geomspace(0.04, 1e-6, 10)
        tries = np.unique(np.concatenate((tail, own * np.linspace(0.6, 1.9, 14), below_one)))
        tries = tries[(tries > 0) & (tries <= self.score.max())]
        return np.flip(tries)

    def best_at(self, own: float, limits: Sequence[float]) -> list[Count]:
        """What the best threshold brings that costs at most each of `limits` false alarms a series-day."""
        best = [Count(0, 0, np.zeros(0)) for _ in limits]
        tries = self.ladder(own) if len(self.starts) else ()
        if not len(tries):
            return best
        events = self.above(float(tries[-1]))
        for threshold in tries:
            count = events.at(float(threshold))
            for i, limit in enumerate(limits):
                if count.false <= limit * self.days and count.found > best[i].found:
                    best[i] = count
            if count.false > HOPELESS * max(limits) * self.days:
                break
        return best


def _near_rows(step_s: float) -> tuple[int, int]:
    """Rows up to which alarms are one episode, and by which an event is widened."""
    return max(MERGE_ROWS, int(MERGE_S / step_s)), max(SLACK_ROWS, int(SLACK_S / step_s))


def _inside(rows: Array, first: Array, last: Array) -> Array:
    """Index of the latest span that holds each row; -1 = none. Spans are sorted by `first`."""
    if not len(first):
        return np.full(len(rows), -1)
    latest = np.searchsorted(first, rows, side="right") - 1
    return np.where((latest >= 0) & (rows <= last[np.maximum(latest, 0)]), latest, -1)


def event_figures(groups: Sequence[Events], own: Sequence[float]) -> dict[str, float]:
    """Figures of a set at the detector's own threshold (one a group), and at 1 and 0.1 false alarms a series-day.

    Delays at thresholds of their own compare haste with care: who cries at everything is early. So they are also told
    where all pay the same.

    Units of different sampling steps are judged apart, and averaged by their events (false alarms: by their days).
    """
    parts = []
    for events, limit in zip(groups, own, strict=True):
        count, of = events.at(limit), len(events.starts)
        named = count.found + count.false
        precision = count.found / named if named else math.nan
        recall = count.found / of if of else math.nan
        f1 = 2 * precision * recall / (precision + recall) if of and count.found else 0.0
        at_1, at_01 = events.best_at(limit, (1.0, 0.1))
        parts.append((
            of, precision, recall, f1, _share(at_1.found, of), _share(at_01.found, of),
            _median(count.delays_s), _median(at_1.delays_s),
        ))  # fmt: skip
    names = ("precision", "recall", "f1", "r_at_1", "r_at_01", "delay_s", "delay_s_at_1")
    table = np.array(parts, dtype=np.float64)
    out = {}
    for i, name in enumerate(names, start=1):
        known = (table[:, 0] > 0) & np.isfinite(table[:, i])
        weights = table[known, 0]
        out[name] = float(np.average(table[known, i], weights=weights)) if known.any() else math.nan
    out["false_alarms_per_series_day"] = false_alarms(groups, own) / sum(g.days for g in groups)
    return out


def _share(found: int, of: int) -> float:
    return found / of if of else math.nan


def _median(delays: Array) -> float:
    return float(np.median(delays)) if len(delays) else math.nan


def false_alarms(groups: Sequence[Events], own: Sequence[float]) -> int:
    """How many false alarms the whole set costs."""
    return sum(events.at(limit).false for events, limit in zip(groups, own, strict=True))


# ---------------------------------------------------------------- budget


def budget_verdict(measured: int, expected: float) -> str:
    """Say whether a budget was kept: "kept", "kept, budget unused" or "exceeded".

    Where at least ten false alarms were allowed, twice as many may come. Fewer are too few for a ratio: there only
    a number that a budget kept would show in less than one run of twenty says that it was exceeded.
    """
    within = measured <= 2 * expected if expected >= 10 else at_least(measured, expected) >= 0.05
    if not within:
        return "exceeded"
    return "kept, budget unused" if measured < expected / 4 else "kept"


def at_least(count: int, mean: float) -> float:
    """Chance that a Poisson number of this mean is `count` or more."""
    below = (math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(count))
    return 1.0 - math.fsum(below) if mean > 0 else float(count == 0)


# ---------------------------------------------------------------- NAB


@dataclass(frozen=True, slots=True)
class NabFile:
    """A series with NAB's windows (first, last row), the rows at its start that do not count, and its own limit."""

    score: Array
    windows: tuple[tuple[int, int], ...]
    probation: int
    limit: float


def nab(files: Sequence[NabFile]) -> tuple[float, float]:
    """NAB score of a corpus at the one threshold that is best for it, and at the detector's own limits."""
    score, credit, window, alarm = _nab_rows(files)
    order = np.argsort(-score, kind="stable")
    score, credit, window, alarm = score[order], credit[order], window[order], alarm[order]
    gain = np.where(window < 0, NAB_FALSE_POSITIVE * credit, 0.0)
    at_own = float(gain[alarm].sum())
    windows = np.unique(window[window >= 0])
    for one in windows:
        rows = np.flatnonzero(window == one)
        # The earliest alarm of a window is the one with most credit; no alarm at all costs 1.
        gain[rows] = np.diff(np.maximum.accumulate(credit[rows]), prepend=-1.0)
        found = rows[alarm[rows]]
        at_own += credit[found].max() + 1.0 if len(found) else 0.0
    ties_end = np.append(score[1:] != score[:-1], True)
    best = max(0.0, float(np.cumsum(gain)[ties_end].max()))
    # Silence misses every window (-1 each), perfection finds each at its first row (+1).
    scale = 50.0 / len(windows) if len(windows) else math.nan
    return best * scale, at_own * scale


def _nab_rows(files: Sequence[NabFile]) -> tuple[Array, Array, Array, Array]:
    """Of every row that counts, all files in one: score, credit, number of its window (-1 = none), alarm."""
    parts: list[tuple[Array, Array, Array, Array]] = []
    before = 0
    for file in files:
        n = len(file.score)
        credit, window = np.full(n, -1.0), np.full(n, -1)
        for k, (first, last) in enumerate(file.windows):
            width = last - first + 1
            inside = np.arange(first, last + 1)
            credit[inside] = _fall((inside - last - 1) / width) / _fall(np.array(-1.0))
            window[inside] = before + k
            until = file.windows[k + 1][0] if k + 1 < len(file.windows) else n
            after = np.arange(last + 1, until)
            credit[after] = _fall((after - last) / max(width - 1, 1e-9))
        counts = slice(file.probation, None)
        score = file.score[counts]
        parts.append((score, credit[counts], window[counts], score >= file.limit))
        before += len(file.windows)
    score, credit, window, alarm = (np.concatenate(column) for column in zip(*parts, strict=True))
    return score, credit, window, alarm


def _fall(place: Array) -> Array:
    """NAB's scaled sigmoid of the place relative to a window's end, in widths: 1 well before it, -1 three after it."""
    value: Array = 2.0 / (1.0 + np.exp(5.0 * np.minimum(place, 3.0))) - 1.0
    return np.where(place > 3.0, -1.0, value)


def first_of_episode(score: Array, rows: int = EPISODE_ROWS) -> Array:
    """Keep a score only where it is above each of the `rows` before it; 0 elsewhere. Causal."""
    past = np.concatenate((np.full(rows, -np.inf, dtype=score.dtype), score[:-1]))
    highest = np.lib.stride_tricks.sliding_window_view(past, rows).max(axis=1)
    kept: Array = np.where(score > highest, score, 0)
    return kept
