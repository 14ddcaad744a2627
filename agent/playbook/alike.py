"""Says of a silent feed whether it shows a look-alike at all: one in which nothing stirs proves nothing.

    shown   a signal goes where a feed that fires takes it, or has always been there, or another one moves, or what a
            feed that fires moves is unknown to the end
    hollow  all else: each signal stays as it was while all was well, or was at its worst before and only gets better

What goes on in a straight line all the time (an age, a certificate) moves only where a playbook is about nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.errors import Refused
from agent.model import FloatArray
from agent.playbook.feeds import onset, rows
from agent.playbook.language import Playbook
from agent.playbook.trial import Example

_CLEAR: Final = 6.0
"""Times the scatter of a series: noise alone hardly goes so far in as many frames as a feed has."""
_SIGMA: Final = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""
_THERE: Final = 0.5
"""Of the way that a feed that fires takes a signal: whatever is so far is more ill than well."""


@dataclass(frozen=True, slots=True)
class _Course:
    """One series: how it was before the trouble, how far it scatters, and its bounds in the whole feed."""

    calm: float
    scatter: float
    least: float
    most: float
    straight: bool
    """It is a straight line."""
    known: bool
    """It is told at the end."""

    def moves(self, side: int) -> bool:
        """Tell whether it clearly rises (+1) or falls (-1)."""
        way = self.most - self.calm if side > 0 else self.calm - self.least
        return way > max(_CLEAR * self.scatter, 1e-12 * abs(self.calm))


@dataclass(frozen=True, slots=True)
class _Fault:
    """Where a feed that fires takes a signal."""

    calm: float
    sick: float

    @property
    def side(self) -> int:
        return 1 if self.sick > self.calm else -1

    def reached(self, course: _Course) -> bool:
        """Tell whether a series is there, at least at one instant."""
        way = self.sick - self.calm
        return max((course.least - self.calm) / way, (course.most - self.calm) / way) >= _THERE


def hollow(playbook: Playbook, test: Example) -> str:
    """Return why a feed on which a playbook is silent shows no look-alike of those on which it fires, "" when it does.

    What can not be told (no feed fires, a recording is not there) is no complaint.
    """
    if test.feed is None or test.expect is None or test.expect.fires or test.expect.blocked_by:
        return ""
    try:
        faults = _faults(playbook)
        courses = list(_courses(playbook, test))
    except Refused:
        return ""
    if not faults:
        return ""
    better = ""
    for metric, course in courses:
        shown = _shows(course, faults.get(metric))
        if shown:
            return ""
        better = metric if shown is None else better
    if better:
        return f"`{better}` is at its worst before the trouble begins, and only gets better"
    return "nothing stirs in it: each signal stays as it was while all was well"


def _shows(course: _Course, faults: list[_Fault] | None) -> bool | None:
    """Tell whether a series shows a look-alike; None = it was as ill as can be before, and only gets better."""
    if faults is None:
        return not course.straight and (course.moves(1) or course.moves(-1))
    ill = [f for f in faults if f.reached(course)]
    if (
        not course.known
        or any(course.moves(f.side) for f in faults)
        or any(not course.moves(-f.side) for f in ill)
    ):
        return True
    return None if ill else False


def _faults(playbook: Playbook) -> Mapping[str, list[_Fault]]:
    """Return where the feeds that fire take the signals that they move, by signal."""
    moved = []
    for test in playbook.tests:
        if test.feed is not None and test.expect is not None and test.expect.fires:
            for metric, c in _courses(playbook, test):
                side = 1 if c.most - c.calm >= c.calm - c.least else -1
                if c.moves(side):
                    moved.append(
                        (metric, _Fault(c.calm, c.most if side > 0 else c.least), c.straight)
                    )
    about_lines = all(straight for _, _, straight in moved)
    out: dict[str, list[_Fault]] = defaultdict(list)
    for metric, fault, straight in moved:
        if about_lines or not straight:
            out[metric].append(fault)
    return dict(out)


def _courses(playbook: Playbook, test: Example) -> Iterator[tuple[str, _Course]]:
    assert test.feed is not None  # noqa: S101  # callers look
    found = rows(test.feed, playbook.folder)
    early = found.ts < onset(test.feed, found)
    for series, values in zip(found.series, found.values.T, strict=True):
        told = np.isfinite(values)
        before = values[early & told] if (early & told).any() else values[told][:1]
        if not before.size:
            yield series.metric, _Course(np.nan, 0.0, np.nan, np.nan, straight=True, known=False)
            continue
        calm = float(np.median(before))
        yield (
            series.metric,
            _Course(
                calm, _scatter(values[told]), float(values[told].min()),
                float(values[told].max()), straight=_straight(found.ts[told], values[told]), known=bool(told[-1]),
            ),
        )  # fmt: skip


def _straight(ts: FloatArray, values: FloatArray) -> bool:
    line = np.interp(ts, ts[[0, -1]], values[[0, -1]])
    return bool(np.allclose(values, line, rtol=0.0, atol=1e-9 * (1.0 + np.abs(values).max())))


def _scatter(values: FloatArray) -> float:
    """Return the standard deviation of the noise: from one frame to the next a step, ramp or pulse hardly counts."""
    jumps = np.diff(values)
    if not jumps.size:
        return 0.0
    return _SIGMA * float(np.median(np.abs(jumps - np.median(jumps)))) / 2**0.5
