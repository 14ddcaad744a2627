"""What can not be is bad data, not an anomaly: a share of 140 %, minus two bytes, an infinity become unknown.

    frame --(possible range of each signal, `agent/catalogue.py`)--> frame with NaN there, counted and said

Done once, where values come in, so that neither detectors nor objectives, history or conditions ever see such a value:
it teaches nothing, breaks nothing and heals nothing. Bounds that a person states are objectives, another thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import structlog

from agent.catalogue import SIGNALS
from agent.model import FloatArray, Frame, Series

log = structlog.get_logger()

_ROUNDING: Final = 1e-6
"""Of a bound, at least of 1: what was divided or subtracted may be a little outside."""
_NAMED: Final = 3


@dataclass(slots=True)
class _Table:
    """The columns of one source: least, most (n,) of each; bad (n,) what was impossible in the last row."""

    series: tuple[Series, ...]
    least: FloatArray
    most: FloatArray
    bad: tuple[Series, ...] = ()


@dataclass(slots=True)
class Possible:
    """Takes impossible values out of frames. refused: source -> how many so far.

    Cost: two comparisons of a row; Python per series only when the table changes, or when something is impossible.
    """

    refused: dict[str, int] = field(default_factory=dict)
    _tables: dict[str, _Table] = field(default_factory=dict)

    def apply(self, frame: Frame) -> Frame:
        """Return the frame with NaN for what can not be; the frame itself when all can."""
        table = self._tables.get(frame.source)
        if table is None or table.series is not frame.series:
            bad = table.bad if table is not None else ()
            table = self._tables[frame.source] = _Table(frame.series, *_bounds(frame.series), bad)
        x = frame.values
        with np.errstate(invalid="ignore"):
            wrong = (x < table.least) | (x > table.most) | np.isinf(x)
        if not wrong.any():
            table.bad = ()
            return frame
        at = np.flatnonzero(wrong).tolist()
        self.refused[frame.source] = self.refused.get(frame.source, 0) + len(at)
        before, table.bad = table.bad, tuple(frame.series[i] for i in at)
        if new := [i for i in at if frame.series[i] not in before]:
            self._say(frame, new)
        return replace(frame, values=np.where(wrong, np.nan, x))

    def forget(self, source: str) -> None:
        """Drop what is kept of a source that was taken out of config."""
        self._tables.pop(source, None)

    @staticmethod
    def _say(frame: Frame, at: Sequence[int]) -> None:
        """Say it once for each stretch of rows, as it comes with every row from then on."""
        said = [
            f"{frame.series[i]} = {frame.values[i]:g}, possible is {reach(frame.series[i].metric)}"
            for i in at[:_NAMED]
        ]
        log.warning("impossible_values", source=frame.source, count=len(at), values=said)


def reach(signal: str) -> str:
    """Say what values a signal can have: `0 to 1`, `0 or more`."""
    known = SIGNALS[signal]
    if np.isinf(known.most):
        return "any number" if np.isinf(known.least) else f"{known.least:g} or more"
    return f"{known.least:g} to {known.most:g}"


def _bounds(series: Sequence[Series]) -> tuple[FloatArray, FloatArray]:
    known = [SIGNALS.get(one.metric) for one in series]
    least = np.array([-np.inf if one is None else one.least for one in known])
    most = np.array([np.inf if one is None else one.most for one in known])
    return (
        least - _ROUNDING * np.maximum(np.abs(least), 1.0),
        most + _ROUNDING * np.maximum(np.abs(most), 1.0),
    )
