"""Has the relation to the label changed? Labelled rows in, evidence with a bound on false alarms out.

    rows -> counts on a grid of losses: error, calibration residual, each slice       (streams, POINTS)
         -> bets that the mean has risen above that of everything before              (components, BETS)
         -> R <- (R + rows) x worth: all components averaged are one e-detector       alarm at `every`

Good for: late labels in any batches, a change of everything or of one slice only, sudden or slow. Not for: saying why
(inputs that moved raise errors, too: see `features`), nor how large a loss is (see `sequences`). Warm-up: 200 rows,
from a reference or from the stream; a slice bets from its 30th row on.

The null hypothesis is that rows keep coming as before: as those of the reference and of this version's calm past
together. What is bet against is the mean of all of these, the suspected rows included, so that a short reference
needs no allowance of its own: it adapts. Under exchangeable rows R - rows is then a martingale, and two false alarms
lie at least `every` rows apart on average, whatever the number of slices, as often as one looks.

Rows of ordinary life are not exchangeable: a loss wanders from hour to hour. Its design effect (variance of the means
of blocks over what independent rows would give) is learnt for blocks of 250 rows and of twice, four times, ... as
many, from the reference and the calm past, and a bet is worth its root of that order, each stake by the blocks that it
has to last for. What is small in practice raises no alarm however sure it is.

NaN: a residual of NaN is not counted. Cost, measured on one core: COST. Size: SIZE.
Sources: Shin, Ramdas, Rinaldo, E-detectors, 2022 (the recursion and its mixtures); Waudby-Smith, Ramdas, Estimating
means of bounded random variables by betting, 2024 (the bets); Page, Continuous inspection schemes, 1954 (since when);
Kish, Survey Sampling, 1965 (the design effect).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from agent import checkpoint, registry
from agent.errors import Refused
from agent.model import FloatArray, IntArray
from agent.units import Model, Ratio

ERROR, BETTER, OVERCONFIDENT, UNDERCONFIDENT = range(4)
"""The components before those of the slices."""
_WHOLE: Final = ("error", "better", "overconfident", "underconfident")
_FIRST: Final = len(_WHOLE)

_POINTS: Final = np.linspace(0.0, 1.0, 17)
"""A loss between two points is shared by them: a bet is concave, so this is worth less than the loss itself."""
_STAKES: Final = np.array([0.06, 0.12, 0.25, 0.5, 1.0])
"""In standard deviations of the loss: the rise that a bet waits for."""
_LASTS: Final = 24.0 / _STAKES**2
"""Rows that a stake needs to win e^12 when it is right."""
_MOST: Final = 0.8
"""Share of its wealth that a bet may lose in one row."""
_CHUNK: Final = 250
_BLOCK: Final = 200
_LEVELS: Final = 8
_HELD: Final = 32
"""Blocks wait so long before the design effect learns them, so that it does not learn the start of a drift."""
_DOUBT: Final = 1.5
_PRIOR_ROWS: Final = 2.0
_LEAST_ROWS: Final = 200.0
_LEAST_IN_SLICE: Final = 30.0
_CAP: Final = 5.0
_CALM: Final = math.log(100.0)
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One component that speaks for a change.

    what       error, better, overconfident, underconfident, or the name of a slicing
    value      which value of the slicing; -1 otherwise
    since      time of the row after which it began, as given to `take`
    rows       labelled rows of it since then
    before, after   mean loss (residual: mean of right - confidence) before and since
    evidence   log10 of its e-value, its share of the budget included
    """

    what: str
    value: int
    since: float
    rows: int
    before: float
    after: float
    evidence: float


@registry.drift("concept")
class Concept:
    """The e-detectors of one model version over its labelled rows; see the module.

    slices   (name, number of values) for each row of the `slices` of `take`
    """

    class Config(Model):
        """How often it may be wrong, and what is too small to matter."""

        every: Annotated[float, Field(ge=1000)] = 1e6
        """Labelled rows between two false alarms, at the least, on average: what a quarter brings."""
        size: Ratio = 0.02
        """Rise of the mean loss below which there is no alarm."""
        residual_size: Ratio = 0.03
        """The same for right - confidence."""
        slice_size: Ratio = 0.05
        """The same for the loss in one slice."""

    def __init__(
        self, config: Config | None = None, slices: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.config = config or self.Config()
        self.slices = tuple((str(name), int(values)) for name, values in slices)
        if any(values < 1 for _, values in self.slices):
            raise ValueError("a slicing has at least one value")
        sizes = np.array([values for _, values in self.slices], dtype=np.int64)
        cells = int(sizes.sum())
        self._begin = (np.cumsum(sizes) - sizes)[:, None]
        self._values = sizes[:, None]
        # component -> stream, and whether it bets that the mean falls
        self._stream = np.concatenate([[0, 0, 1, 1], np.arange(cells) + 2]).astype(np.int64)
        self._falls = np.zeros(_FIRST + cells, dtype=np.bool_)
        self._falls[[BETTER, OVERCONFIDENT]] = True
        share = np.array([0.4, 0.0, 0.2, 0.1])
        if not cells:
            share /= share.sum()
        each = (1.0 - share.sum()) / max(cells, 1)
        with np.errstate(divide="ignore"):
            self._log_share = np.log(np.concatenate([share, np.full(cells, each)]))
        c = self.config
        self._least = np.concatenate(
            [[c.size, c.size, c.residual_size / 2, c.residual_size / 2], np.full(cells, c.slice_size)]
        )
        self._clear(cells + 2)

    def _clear(self, streams: int) -> None:
        bets = (len(self._stream), len(_STAKES))
        self.rows = 0
        self.alarmed = False
        self._last = -math.inf
        self._base: FloatArray = np.zeros((3, streams))  # rows, sum, sum of squares
        self._log_r: FloatArray = np.full(bets, -np.inf)
        self._log_w: FloatArray = np.zeros(bets)
        self._since: FloatArray = np.full(bets, -np.inf)
        self._run: FloatArray = np.zeros((2, *bets))  # rows and sum since then
        self._open: FloatArray = np.zeros((2, streams))
        self._open_rows = 0
        self._held: FloatArray = np.zeros((_HELD, 2, streams), dtype=np.float32)
        self._blocks = 0
        self._pairs: FloatArray = np.zeros((_LEVELS, 2, streams))
        self._spread: FloatArray = np.zeros((_LEVELS, 4, streams))  # blocks, rows, sum, sum^2 / rows
        self._learnt = 0
        self._effect: FloatArray = np.ones(bets)

    # ---- rows in

    def learn(self, loss: FloatArray, residual: FloatArray, slices: IntArray) -> None:
        """Take rows of the reference, in their order if it is known; shapes as in `take`."""
        for part in self._parts(loss, residual, slices):
            counts = self._count(*part)
            self._add(counts)
            self._block(counts, len(part[0]), wait=False)
        self._measure()

    def take(self, ts: float, loss: FloatArray, residual: FloatArray, slices: IntArray) -> bool:
        """Count labelled rows; return whether they raise a new alarm.

        ts         time of the newest of them (data, not a clock)
        loss       (n,) in 0..1
        residual   (n,) 1 where right, else 0, less the confidence; NaN = no probability
        slices     (s, n) value of each slicing; -1 = none
        """
        before = self.alarmed
        for part in self._parts(loss, residual, slices):
            counts = self._count(*part)
            if self._base[0, 0] >= _LEAST_ROWS:
                self._bet(ts, counts, len(part[0]))
                self._decide()
            self.rows += len(part[0])
            if not self.alarmed:
                self._add(counts)
            self._block(counts, len(part[0]), wait=True)
        self._last = ts
        return self.alarmed and not before

    def _parts(self, loss: Any, residual: Any, slices: Any) -> list[tuple[Any, Any, Any]]:
        """Check the rows and cut them where there are many, as a mean moves on between bets only."""
        loss = np.asarray(loss, dtype=np.float64)
        residual = np.asarray(residual, dtype=np.float64)
        slices = np.asarray(slices, dtype=np.int64).reshape(len(self.slices), -1)
        n = len(loss)
        if residual.shape != (n,) or (len(self.slices) and slices.shape[1] != n):
            raise ValueError("loss, residual and slices are of different lengths")
        if not ((loss >= 0) & (loss <= 1)).all() or (np.abs(residual) > 1).any():
            raise ValueError("a loss lies outside 0..1, or a residual outside -1..1")
        if (slices >= self._values).any():
            raise ValueError("a slice has a value that it was not announced with")
        k = -(-n // _CHUNK)
        ends = [n * i // k for i in range(k + 1)] if k else []
        return [
            (loss[a:b], residual[a:b], slices[:, a:b])
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        ]

    def _count(self, loss: FloatArray, residual: FloatArray, slices: IntArray) -> FloatArray:
        """Return how many rows of each stream lie on each point (streams, POINTS)."""
        known = residual == residual  # noqa: PLR0124  # not NaN
        out = np.empty((2 + int(self._values.sum()), len(_POINTS)))
        where = np.where(slices >= 0, self._begin + slices, len(out) - 2)
        out[0] = _shared(loss)
        out[1] = _shared((residual[known] + 1.0) / 2.0)
        if len(slices):
            out[2:] = _shared(np.tile(loss, len(slices)), where.ravel(), len(out) - 1)[:-1]
        return out

    def _add(self, counts: FloatArray) -> None:
        self._base += _moments(counts)

    # ---- bets

    def _usual(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return rows, mean and variance of each stream (streams,); what has few rows leans on the whole."""
        n, s, q = self._base
        prior = np.full(len(n), (s[0] + 0.5) / (n[0] + 1.0))
        prior[1] = 0.5
        rows = n + _PRIOR_ROWS
        mean = (s + _PRIOR_ROWS * prior) / rows
        # a grid of points has no spread that one row in so many could not give
        second = (q + _PRIOR_ROWS * (prior**2 + 0.1 * prior * (1 - prior))) / rows
        return rows, mean, np.maximum(second - mean**2, 1e-6)

    def _bet(self, ts: float, counts: FloatArray, n: int) -> None:
        rows, mean, variance = self._usual()
        at, falls = self._stream, self._falls
        m = np.where(falls, 1.0 - mean[at], mean[at])[:, None]
        mine = np.where(falls[:, None], counts[at, ::-1], counts[at])
        stake = np.minimum(_STAKES / np.sqrt(variance[at])[:, None], _MOST / m)
        worth = np.log1p(stake[:, :, None] * (_POINTS - m[:, :, None]))
        gain = (worth @ mine[:, :, None])[:, :, 0]
        k = mine.sum(axis=1, keepdims=True)
        gain /= self._effect * (1.0 + k / rows[at][:, None])
        gain[rows[at] < _LEAST_IN_SLICE + _PRIOR_ROWS] = 0.0
        cap = math.log(self.config.every) + _CAP - self._log_share[:, None]
        cap = np.where(np.isfinite(cap), cap, math.log(self.config.every) + _CAP)
        self._log_r = np.minimum(np.logaddexp(self._log_r, math.log(n)) + gain, cap)
        anew = self._log_w <= 0
        self._since[anew] = self._last
        self._run[:, anew] = 0.0
        self._run[0] += k
        self._run[1] += (mine @ _POINTS)[:, None]
        self._log_w = np.minimum(np.maximum(self._log_w, 0.0) + gain, 2 * cap)

    def _sizes(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return the leading stake of each component, its mean before, and since (components,)."""
        best = self._log_r.argmax(axis=1)
        i = np.arange(len(best))
        _, mean, _ = self._usual()
        before = np.where(self._falls, 1.0 - mean[self._stream], mean[self._stream])
        n = self._run[0, i, best]
        after = np.where(n > 0, self._run[1, i, best] / np.maximum(n, 1.0), before)
        return best, before, after

    def _decide(self) -> None:
        _, before, after = self._sizes()
        worth = self._worth()
        limit = math.log(self.config.every)
        if not self.alarmed:
            self.alarmed = _log_sum(worth[after - before >= self._least]) >= limit
        elif _log_sum(worth) < limit - _CALM:
            self.alarmed = False

    def _worth(self) -> FloatArray:
        """Return the log of each component's part of the e-detector (components,)."""
        top = self._log_r.max(axis=1)
        safe = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            mean = np.log(np.exp(self._log_r - safe[:, None]).mean(axis=1)) + safe
        return mean + self._log_share

    # ---- what is said

    @property
    def evidence(self) -> float:
        """log10 of the e-detector; an alarm needs log10 of `every`, and size."""
        return _log_sum(self._worth()) / math.log(10.0)

    # ---- the design effect

    def _block(self, counts: FloatArray, n: int, *, wait: bool) -> None:
        """Gather rows into blocks; learn the block that has waited long enough, unless there is an alarm."""
        self._open += _moments(counts)[:2]
        self._open_rows += n
        if self._open_rows < _BLOCK:
            return
        block, self._open, self._open_rows = self._open, np.zeros_like(self._open), 0
        if not wait:
            self._learn_block(block)
            return
        slot = self._blocks % _HELD
        if self._blocks >= _HELD and not self.alarmed:
            self._learn_block(self._held[slot].astype(np.float64))
            self._measure()
        self._held[slot] = block
        self._blocks += 1

    def _learn_block(self, block: FloatArray) -> None:
        """Count a block, and the longer ones that it completes."""
        number = self._learnt
        self._learnt += 1
        for level in range(_LEVELS):
            n, s = block
            some = n > 0
            self._spread[level] += (
                some, n, s, np.divide(s * s, n, out=np.zeros_like(n), where=some)
            )  # fmt: skip
            if number >> level & 1 == 0:
                self._pairs[level] = block
                break
            block = self._pairs[level] + block

    def _measure(self) -> None:
        """Work out the design effect of each bet: 1 unless the blocks prove more."""
        _, mean, variance = self._usual()
        blocks, rows, total, squares = self._spread.swapaxes(0, 1)
        enough = blocks >= 3
        k = np.where(enough, blocks, 3.0)
        long = np.where(enough, rows, 3.0) / k
        raw = (squares - 2 * mean * total + mean**2 * rows) / ((k - 1) * variance)
        doubt = _DOUBT * np.sqrt((2.0 + 1.0 / (long * variance)) / k)
        proven = np.where(enough, np.maximum(raw / (1.0 + doubt), 1.0), 1.0)
        at = self._stream
        effect = np.broadcast_to(proven[0, at][:, None], self._effect.shape)
        for level in range(1, _LEVELS):
            reach = long[level, at][:, None] <= _LASTS * effect
            effect = np.where(reach, np.maximum(effect, proven[level, at][:, None]), effect)
        self._effect = effect


def _shared(x: FloatArray, where: Any = 0, cells: int = 1) -> FloatArray:
    """Return the rows on each point of the grid, by cell (cells, POINTS); one cell: (POINTS,)."""
    last = len(_POINTS) - 1
    place = x * last
    low = np.minimum(place.astype(np.int64), last - 1)
    part = place - low
    at = where * len(_POINTS) + low
    size = cells * len(_POINTS)
    out = np.bincount(at, 1.0 - part, size) + np.bincount(at + 1, part, size)
    return out if cells == 1 else out.reshape(cells, len(_POINTS))


def _moments(counts: FloatArray) -> FloatArray:
    """Return rows, sum and sum of squares of each stream (3, streams)."""
    out: FloatArray = (counts @ np.stack([np.ones_like(_POINTS), _POINTS, _POINTS**2], axis=1)).T
    return out


def _log_sum(logs: FloatArray) -> float:
    top = float(logs.max(initial=-np.inf))
    return top + math.log(float(np.exp(logs - top).sum())) if math.isfinite(top) else -math.inf
