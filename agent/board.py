"""What others measure and push becomes a source like any other: the newest values, a frame every so often.

    SampleBatch (from an inlet, through `agent.intake`) -> Board.take -> columns -> Board.frames, at each tick

A value holds for three intervals; after that it is unknown, and after ten minutes its column leaves the frame. Rates
are made where points are read, because only there it is known when each was measured.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog

from agent.collect import patience_of
from agent.errors import Unavailable
from agent.model import BoolArray, Entity, FloatArray, Frame, IntArray, Series, Sighting
from agent.ports import Book, SampleBatch

log = structlog.get_logger()

_KEEP_S: Final = 600.0
_BOOKS: Final = 8
"""Books that are known at a time of one source: two processes write one each, and begin a new one now and then."""
_SAY_EVERY_S: Final = 600.0
_ROOM: Final = 1000
"""Columns that may be dead before they are swept away."""
_NONE: Final = -1


def _ints() -> IntArray:
    return np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class _Known:
    """A book as far as it was told: its names, and the column (n,) of each; -1 = it was swept away."""

    series: list[Series] = field(default_factory=list)
    column: IntArray = field(default_factory=_ints)


@dataclass(slots=True)
class _Wall:
    """One source.

    column         where each series stands among `values` (n,) and `came` (n,), which may have room to grow
    shown, order   the columns of the last frame, and in which order they stood in it
    """

    every_s: float
    due: float
    heard: float
    column: dict[Series, int] = field(default_factory=dict)
    values: FloatArray = field(default_factory=lambda: np.zeros(0))
    came: FloatArray = field(default_factory=lambda: np.zeros(0))
    books: OrderedDict[str, _Known] = field(default_factory=OrderedDict)
    seen: dict[Entity, Sighting] = field(default_factory=dict)
    shown: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    order: IntArray = field(default_factory=_ints)
    series: tuple[Series, ...] = ()
    left_out: int = 0
    said: float = float("-inf")

    def put(self, series: list[Series]) -> IntArray:
        """Return the columns of series, made where there are none."""
        at = np.array([self.column.setdefault(s, len(self.column)) for s in series], dtype=np.int64)
        more = len(self.column) - len(self.values)
        self.values = np.append(self.values, np.full(more, np.nan))
        self.came = np.append(self.came, np.full(more, -np.inf))
        return at

    def sweep(self, alive: BoolArray) -> None:
        """Take dead columns away."""
        moved = np.where(alive, np.cumsum(alive) - 1, _NONE)
        self.column = {s: int(moved[i]) for s, i in self.column.items() if alive[i]}
        self.values, self.came = self.values[alive], self.came[alive]
        for known in self.books.values():
            there = known.column != _NONE
            known.column[there] = moved[known.column[there]]
        self.shown = np.zeros(0, dtype=np.bool_)


class Board:
    """Where pushed values stand. Cost: two assignments of vectors a batch; Python per series only when one is new."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._walls: dict[str, _Wall] = {}

    def take(self, batch: SampleBatch) -> None:
        """Put values up; raises Unavailable where names of the book did not come."""
        now = self._clock()
        wall = self._walls.get(batch.source)
        if wall is None:
            wall = self._walls[batch.source] = _Wall(batch.every_s, now, now)
        wall.every_s, wall.heard = batch.every_s, now
        known = self._known(wall, batch.book)
        if batch.at.size and int(batch.at.max()) >= len(known.series):
            raise Unavailable("the names of these series did not come; send them again", wait_s=5.0)
        at = known.column[batch.at]
        if (at == _NONE).any():
            again = batch.at[at == _NONE]
            known.column[again] = wall.put([known.series[i] for i in again.tolist()])
            at = known.column[batch.at]
        wall.values[at] = batch.values
        wall.came[at] = now
        wall.seen.update((sighting.entity, sighting) for sighting in batch.seen)
        wall.left_out += batch.left_out
        if batch.left_out and now - wall.said >= _SAY_EVERY_S:
            wall.said = now
            log.warning("points_left_out", source=batch.source, so_far=wall.left_out, why=batch.why)

    def frames(self, now: float) -> list[Frame]:
        """Return the frames that are due."""
        clock = self._clock()
        return [
            self._frame(source, wall, clock, now)
            for source, wall in self._walls.items()
            if wall.due <= clock and wall.column
        ]

    @staticmethod
    def _frame(source: str, wall: _Wall, clock: float, now: float) -> Frame:
        wall.due = max(wall.due + wall.every_s, clock)
        age = clock - wall.came
        alive = age <= _KEEP_S
        if len(alive) - alive.sum() > max(_ROOM, alive.sum()):
            wall.sweep(alive)
            age = age[alive]
            alive = alive[alive]
        if not np.array_equal(alive, wall.shown):
            ordered = sorted((s, i) for s, i in wall.column.items() if alive[i])
            wall.series = tuple(s for s, _ in ordered)
            wall.order = np.array([i for _, i in ordered], dtype=np.int64)
            wall.shown = alive
        values = np.where(age > patience_of(wall.every_s), np.nan, wall.values)[wall.order]
        seen, wall.seen = tuple(wall.seen.values()), {}
        return Frame(source, now, wall.series, values, seen)

    def heard(self) -> Mapping[str, tuple[float, float, int]]:
        """Return source -> its interval, seconds since something came, and how many series it has."""
        now = self._clock()
        return {s: (w.every_s, now - w.heard, len(w.series)) for s, w in self._walls.items()}

    @property
    def left_out(self) -> Mapping[str, int]:
        """Source -> points that were not taken so far."""
        return {source: wall.left_out for source, wall in self._walls.items()}

    def forget(self, source: str) -> None:
        """Drop a source that was taken out of config."""
        self._walls.pop(source, None)

    @staticmethod
    def _known(wall: _Wall, book: Book) -> _Known:
        """Return what is known of a book, with the names that came now."""
        known = wall.books.setdefault(book.origin, _Known())
        wall.books.move_to_end(book.origin)
        if len(wall.books) > _BOOKS:
            wall.books.popitem(last=False)
        if book.start <= len(known.series):
            new = book.series[len(known.series) - book.start :]
            if new:
                known.column = np.append(known.column, wall.put(new))
                known.series.extend(new)
        return known
