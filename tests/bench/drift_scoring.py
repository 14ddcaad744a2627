"""The figures of `make bench-drift`: alarms, equal false-alarm rates, delays, causes, and accuracy without labels.

A subject gives every batch a score; at a threshold it *alarms* in the batches that reach it. Alarms within COOL rows of
the first are one event; but one that no longer rings when the trouble begins has ended. On a stream in which nothing is
wrong every event is false. Where something is wrong:

    before it begins            every event is false
    names only wrong columns    a false event too (of subjects that name columns, where columns moved)
    else                        the first such alarm is the detection; its delay counts to the end of its batch

Subjects are compared at thresholds that give all of them the same rate of false events on exchangeable rows. A rate is
*measured* when at least FEW events lie above its threshold. Below that the threshold follows from the largest scores of
blocks of COOL rows, whose excess over a high level is taken as exponential (Balkema, de Haan, Pickands 1974-75), and is
marked *extrapolated*; a subject that never scored at all is marked *silent*, and the rate is only known to be below
3 / rows at 95 % (Hanley and Lippman-Hand 1983).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

COOL: Final = 1000
FEW: Final = 3
TAIL: Final = 20
"""Largest block maxima that the tail is drawn through."""
NOTHING: Final = -1e8
"""A score at or below this is none."""
BLOCK: Final = 1000
"""Rows over which accuracy is compared with its estimate."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What a subject said over a stream: (m,) each, a batch an entry.

    ends    watched rows seen by then
    score   NOTHING or less = no score
    hit     its columns were right ones, or there was nothing to name
    start   first row that is hit; None = nothing is wrong
    """

    ends: Array
    score: Array
    hit: Array
    start: int | None

    @property
    def clean_rows(self) -> int:
        """Rows before anything is wrong."""
        last = int(self.ends[-1]) if len(self.ends) else 0
        return last if self.start is None else min(self.start, last)


def events(trace: Trace, threshold: float) -> list[tuple[int, bool]]:
    """Return the alarms that open an event: index of the batch, and whether it is the detection (the last, then)."""
    out: list[tuple[int, bool]] = []
    last, opened_after = -math.inf, False
    start = math.inf if trace.start is None else trace.start
    calm = (
        int(np.searchsorted(trace.ends, start, side="right")) - 1
    )  # the last batch before the trouble
    rings = calm >= 0 and trace.score[calm] >= threshold
    for i in np.flatnonzero(trace.score >= threshold).tolist():
        end = int(trace.ends[i])
        after = end > start
        new = end - last > COOL or (after and last <= start and not rings)
        if new:
            last, opened_after = end, after
        if after and opened_after and trace.hit[i]:
            return [*out, (i, True)]
        if new:
            out.append((i, False))
    return out


def false_events(trace: Trace, threshold: float) -> int:
    """Return how many events before the trouble there were."""
    start = math.inf if trace.start is None else trace.start
    return sum(trace.ends[i] <= start for i, _ in events(trace, threshold))


def detection(trace: Trace, threshold: float) -> int | None:
    """Return the index of the batch that found the trouble."""
    found = events(trace, threshold)
    return found[-1][0] if found and found[-1][1] else None


def delay(trace: Trace, threshold: float) -> float:
    """Return rows from the trouble to its detection; infinite = missed."""
    i = detection(trace, threshold)
    return math.inf if i is None or trace.start is None else float(trace.ends[i] - trace.start)


def rate(traces: Sequence[Trace], threshold: float) -> float:
    """Return false events a row."""
    rows = sum(t.clean_rows for t in traces)
    return sum(false_events(t, threshold) for t in traces) / max(rows, 1)


def at_most(events: int, rows: int) -> float:
    """Return the 95 % upper bound of a rate, events a row: 3 / rows when none was seen, else Byar's formula."""
    if not events:
        return 3.0 / rows
    k = events + 1
    return float(k * (1.0 - 1.0 / (9 * k) + 1.645 / (3.0 * math.sqrt(k))) ** 3 / rows)


@dataclass(frozen=True, slots=True)
class Setting:
    """What makes a subject raise so many false events: a threshold or a parameter, and how that is known."""

    value: float
    how: str


def threshold_at(traces: Sequence[Trace], wanted: float, usual: float) -> Setting:
    """Return the lowest threshold with at most `wanted` false events a row on streams in which nothing is wrong.

    usual   the subject's own threshold, which it keeps when it was silent
    """
    rows = sum(t.clean_rows for t in traces)
    tops = np.sort(np.concatenate([_block_maxima(t) for t in traces]))[::-1]
    tops = tops[tops > NOTHING]
    if wanted * rows >= FEW and len(tops) >= FEW:
        low, high = -1, len(tops) - 1
        if rate(traces, tops[high]) <= wanted:
            return Setting(float(tops[high]), "measured")
        # the lowest of the tops that keeps the rate: rates rise as the threshold falls
        while high - low > 1:
            middle = (low + high) // 2
            if rate(traces, tops[middle]) <= wanted:
                low = middle
            else:
                high = middle
        if low >= 0:
            return Setting(float(tops[low]), "measured")
    if len(tops) < FEW:
        return Setting(usual, "silent")
    k = min(TAIL, len(tops) - 1)
    level = float(tops[k])
    excess = max(float((tops[:k] - level).mean()), 1e-12)
    return Setting(level + excess * math.log(max(k / (rows * wanted), 1.0)), "extrapolated")


def _block_maxima(trace: Trace) -> Array:
    """Return the largest score of each COOL rows."""
    block = (trace.ends - 1) // COOL
    first = np.flatnonzero(np.diff(block, prepend=-1))
    tops: Array = np.maximum.reduceat(trace.score, first) if len(first) else np.zeros(0)
    return tops


def parameter_at(measured: Mapping[float, tuple[int, int]], wanted: float) -> Setting:
    """Return the parameter at which a subject raises `wanted` false events a row.

    measured   parameter -> (false events, rows); rates rise with the parameter. Between two of them the log of the
               rate is a line over the log of the parameter; beyond them, the line through the nearest two.
    """
    points = sorted((p, k / n) for p, (k, n) in measured.items() if k >= FEW)
    if len(points) < 2:
        # hardly an alarm anywhere: as many as the parameter says, counted from the most eager one
        p = max(measured)
        k, n = measured[p]
        return Setting(p * wanted * n / (k + 0.5), "extrapolated")
    x, y = np.log(np.array(points)).T
    y = np.maximum.accumulate(y)
    i = int(np.clip(np.searchsorted(y, math.log(wanted)), 1, len(x) - 1))
    slope = max((y[i] - y[i - 1]) / (x[i] - x[i - 1]), 0.05)
    at = x[i - 1] + (math.log(wanted) - y[i - 1]) / slope
    inside = y[0] <= math.log(wanted) <= y[-1]
    return Setting(float(math.exp(at)), "measured" if inside else "extrapolated")


def median(delays: Sequence[float]) -> float:
    """Return the median, misses counting as infinitely late; NaN = there are none."""
    if not delays:
        return math.nan
    ordered = sorted(delays)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


# ---------------------------------------------------------------- accuracy without labels


@dataclass(frozen=True, slots=True)
class Block:
    """A block of rows: its true accuracy, that of the reference, the estimate (NaN = not estimable) and its band."""

    true: float
    usual: float
    estimate: float
    low: float
    high: float


def estimated(blocks: Sequence[Block]) -> dict[str, float]:
    """Return mean errors of the estimate and of "same as the reference", where one was given, and what the band covers.

    Blocks that were called not estimable count for neither: how many were not is `accuracy_estimable_ratio`.
    """
    told = [b for b in blocks if not math.isnan(b.estimate)]
    if not told:
        return {"accuracy_estimable_ratio": 0.0} if blocks else {}
    error = float(np.mean([abs(b.estimate - b.true) for b in told]))
    constant = float(np.mean([abs(b.usual - b.true) for b in told]))
    banded = [b for b in told if not math.isnan(b.low)]
    out = {
        "accuracy_error": error,
        "accuracy_error_constant": constant,
        "accuracy_error_ratio": error / max(constant, 1e-12),
        "accuracy_estimable_ratio": len(told) / len(blocks),
    }
    if banded:
        out["accuracy_band_covers"] = float(np.mean([b.low <= b.true <= b.high for b in banded]))
    return out
