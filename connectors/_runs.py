"""When a batch job should run, and whether it did: due, late, missed, short; by a cron line or by what it used to do.

Pure: times come in. Good for jobs with a rhythm, also one with gaps (no run at weekends). Not for runs by hand: their
gaps differ too much, and then nothing is ever late.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import median
from typing import Final

from agent.cron import Cron

_LEAST_GAPS: Final = 4
_REMEMBERED: Final = 30
_UNSTEADY: Final = 8.0
"""A longest gap of so many medians: this is no rhythm."""
_LEAST_PAST: Final = 3


def lateness(
    now: float, runs: Sequence[float], *, cron: Cron | None, grace_s: float
) -> tuple[float, bool | None]:
    """Return how late the next run is (0 = not, NaN = no rhythm is known), and whether one was missed.

    runs   when each run was written, oldest first
    """
    newest = runs[-1] if runs else -math.inf
    if cron is not None:
        before, due = cron.last(now)
        if math.isnan(due):
            return 0.0, False
        # while the last is still within its grace, it is the one before that must be there
        late = max(0.0, now - due - grace_s) if newest < due else 0.0
        missed = newest < before if not math.isnan(before) else False
        if missed and runs:
            late = max(late, now - before - grace_s)
        return late, missed and bool(runs)
    usual = rhythm(runs)
    if usual is None:
        return math.nan, None
    gap, longest = usual
    patience = longest + max(grace_s, 0.1 * gap)
    return max(0.0, now - newest - patience), now - newest > patience + gap


def rhythm(runs: Sequence[float]) -> tuple[float, float] | None:
    """Return the median gap and the longest that comes again and again; None = no rhythm yet, or none at all."""
    near = runs[-_REMEMBERED - 1 :]
    gaps = sorted(b - a for a, b in itertools.pairwise(near))
    if len(gaps) < _LEAST_GAPS:
        return None
    # one gap in ten may be a run that was missed
    gap, longest = median(gaps), gaps[-1 - len(gaps) // 10]
    return (gap, longest) if gap > 0 and longest <= _UNSTEADY * gap else None


def usual_rows(past: Sequence[float]) -> float:
    """Return the median of rows; NaN before three runs."""
    return float(median(past[-_REMEMBERED:])) if len(past) >= _LEAST_PAST else math.nan
