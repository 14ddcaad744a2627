"""What others measure and push becomes a source like any other: the newest values, a frame every so often.

    SampleBatch (from an inlet, through `agent.intake`) -> Board.take -> columns -> Board.frames, at each tick

A value holds for three intervals; after that it is unknown, and after ten minutes its column leaves the frame. Rates
are made where points are read, because only there it is known when each was measured.

Each sender is an eye of its own, `SOURCE/SENDER`: where one of them falls silent, the others are seen as before.
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

    column         where each series stands among `values`, `came` and `whose` (n,), which may have room to grow
    senders        name -> when it was heard last; whose: number of the one that a value is of, in this order
    shown, order   the columns of the last frame, and in which order they stood in it
    """

    every_s: float
    due: float
    heard: float
    column: dict[Series, int] = field(default_factory=dict)
    values: FloatArray = field(default_factory=lambda: np.zeros(0))
    came: FloatArray = field(default_factory=lambda: np.zeros(0))
    whose: IntArray = field(default_factory=_ints)
    senders: dict[str, float] = field(default_factory=dict)
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
        self.whose = np.append(self.whose, np.full(more, _NONE))
        return at

    def sweep(self, alive: BoolArray) -> None:
        """Take dead columns away."""
        moved = np.where(alive, np.cumsum(alive) - 1, _NONE)
        self.column = {s: int(moved[i]) for s, i in self.column.items() if alive[i]}
        self.values, self.came = self.values[alive], self.came[alive]
        self.whose = self.whose[alive]
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
        wall.senders[batch.sender] = now
        wall.whose[at] = list(wall.senders).index(batch.sender)
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
        """Return eye -> its interval, seconds since something came, and how many series it has.

        A source whose senders have names listens, and has heard when its last frame was made; each of its senders is
        an eye beside it.
        """
        now = self._clock()
        out: dict[str, tuple[float, float, int]] = {}
        for source, wall in self._walls.items():
            named = [sender for sender in wall.senders if sender]
            since = max(wall.heard, wall.due - wall.every_s) if named else wall.heard
            out[source] = (wall.every_s, now - since, len(wall.series))
            alive = now - wall.came <= _KEEP_S
            many = np.bincount(wall.whose[alive], minlength=len(wall.senders))
            for (sender, at), n in zip(wall.senders.items(), many.tolist(), strict=True):
                if sender:
                    out[f"{source}/{sender}"] = (wall.every_s, now - at, n)
        return out

    @property
    def left_out(self) -> Mapping[str, int]:
        """Source -> points that were not taken so far."""
        return {source: wall.left_out for source, wall in self._walls.items()}

    def forget(self, source: str) -> None:
        """Drop a source that was taken out of config."""
        self._walls.pop(source, None)

    def dismiss(self, sender: str) -> list[str]:
        """Expect nothing more of a sender, whose token was taken away; return what it was called as an eye."""
        out = []
        for source, wall in self._walls.items():
            if sender in wall.senders:
                gone = list(wall.senders).index(sender)
                del wall.senders[sender]
                theirs = wall.whose == gone
                wall.whose = np.where(theirs, _NONE, wall.whose - (wall.whose > gone))
                wall.came[theirs] = -np.inf
                out.append(f"{source}/{sender}")
        return out

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
