"""Has the relation to the label changed? Labelled rows in, evidence with a bound on false alarms out.

    rows -> counts on a grid: loss, residual, surprise, and each slice's       (streams, POINTS)
         -> bets that the mean has risen above that of everything before       (components, STAKES)
         -> R <- (R + rows) x worth: all components averaged are one e-detector; alarm when it reaches `every`

Good for: late labels in batches of any size; a change of all rows or of one slice, sudden or slow. Not for: saying why
(inputs that moved raise errors, too: see `features`) or how large a loss is (see `sequences`). Warm-up: 200 rows, of a
reference or of the stream; a slice bets from its 30th row on. Not mergeable: evidence is a walk through time, so the
rows of all replicas of a version go into one object.

The null hypothesis is that rows go on as before: as those of the reference and of this version's calm past together.
What is bet against is the mean of them all, the suspected rows included, so that a short reference needs no allowance:
the mean adapts. While rows are exchangeable R - rows is then a martingale (of a Bayesian who learns the mean; for one
fixed mean to within its error), so two false alarms lie `every` rows apart on average, or more, however many slices
there are and however often one looks. Rows of life need not be so; what follows is an estimate and no bound.

Rows of ordinary life are not exchangeable: a loss wanders. Its design effect (the variance of means of blocks over
what independent rows would give) is learnt for blocks of 200 rows and of twice, four times, ... as many, from the
reference and the calm past, and a bet is worth its root of that order, each stake with the blocks that it has to last
for. As an effect above 1 is known from so many blocks only, evidence then has the tails of Student's t. And what is
small in practice raises no alarm, however sure it is.

A surprise is the residual times the log-odds of the confidence: a sure answer that is wrong says more than two unsure
ones, and a drift that makes the model's score say less is seen in half of the rows that the errors need.

NaN: a row without a residual counts for the loss only. Without any confidence, slices bet on the loss. Cost, measured
on one core: 1.3 microseconds a row with 40 values of 8 slicings in batches of 1,000, 2.7 in batches of 100; 43 kB.
Sources: Shin, Ramdas, Rinaldo, E-detectors, 2022 (the recursion, its mixtures); Waudby-Smith, Ramdas, Estimating means
of bounded random variables by betting, 2024 (the bets); Page, Continuous inspection schemes, 1954 (since when); Kish,
Survey Sampling, 1965 (the design effect).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint, registry
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.units import Model, Ratio

_WHOLE: Final = ("error", "better", "overconfident", "underconfident", "surprise")
_LOSS, _RESIDUAL, _SURPRISE, _FIRST = range(4)
"""The streams before those of the slices."""
_STREAM_OF: Final = (_LOSS, _LOSS, _RESIDUAL, _RESIDUAL, _SURPRISE)
_FALLS: Final = (False, True, True, False, False)
_SHARES: Final = (0.2, 0.0, 0.05, 0.05, 0.3)
"""Of the budget: slices have the rest, and what is better is told, but is no alarm."""

_POINTS: Final = np.linspace(0.0, 1.0, 17)
"""What lies between two points is shared by them: a bet is concave, so that makes it worth less, never more."""
_POWERS: Final = np.stack([np.ones_like(_POINTS), _POINTS, _POINTS**2], axis=1)
_STAKES: Final = np.array([0.06, 0.12, 0.25, 0.5, 1.0])
"""The rise that a bet waits for, in standard deviations of its stream."""
_QUARTER: Final = 2
_LASTS: Final = 64.0 / _STAKES**2
"""Rows in which a stake wins e^12 when the rise is that."""
_MOST: Final = 0.8
"""Share of its wealth that a bet may lose in one row."""
_SUREST: Final = 3.0
"""Log-odds above which a confidence is no surer: 0.95."""

_CHUNK: Final = 500
"""Rows in one bet, at most: the mean moves on between bets only."""
_BLOCK: Final = 200
_LEVELS: Final = 8
_HELD: Final = 32
"""Blocks wait so long before the design effect learns them: it must not learn the start of a drift."""
_CHANCE: Final = 3.0
"""Standard errors within which a design effect is chance, so that independent rows lose nothing."""
_LEAST_BLOCKS: Final = 5.0
_PRIOR_ROWS: Final = 2.0
_LEAST_ROWS: Final = 200.0
_LEAST_IN_SLICE: Final = 30.0
_CAP: Final = 5.0
"""Natural log above an alarm: evidence piles up no further, so that it can go again."""
_FAR: Final = 10.0
"""What leads a change is told by evidence that piles up so many times further, until it is calm again."""
_CALM: Final = math.log(100.0)
"""An alarm ends when the evidence is so far below the limit."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Change:
    """What speaks for a change, and since when.

    what       error, better, overconfident, underconfident, surprise, or the name of a slicing
    value      which value of the slicing; None = all rows
    since      the `ts` after which it began
    rows       labelled rows of it since then
    before, after   mean loss (over-, underconfident: mean residual) before that and since
    evidence   log10 of its e-value, its share of the budget included
    """

    what: str
    value: int | None
    since: float
    rows: int
    before: float
    after: float
    evidence: float


@registry.drift("concept")
class Concept:
    """The e-detectors of one model version over its labelled rows; see the module.

    slices   (name, number of values) of each row of `slices` in `take`
    """

    class Config(Model):
        """How often it may be wrong, and what is too small to matter."""

        every: Annotated[float, Field(ge=1000, le=1e12)] = 3e6
        """Labelled rows between two false alarms, at the least, on average: say what a quarter brings."""
        size: Ratio = 0.02
        """Less change of the mean loss than this is no alarm."""
        residual_size: Ratio = 0.03
        """The same for the mean residual."""
        slice_size: Ratio = 0.05
        """The same for the mean loss in one slice."""

    def __init__(
        self, config: Config | None = None, slices: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.config = c = config or self.Config()
        self.slices = tuple((str(name), int(values)) for name, values in slices)
        self._values: IntArray = np.array([v for _, v in self.slices], dtype=np.int64)[:, None]
        if (self._values < 1).any():
            raise ValueError("a slicing has at least one value")
        cells = int(self._values.sum())
        self._begin = np.cumsum(self._values, axis=0) - self._values
        self._stream: IntArray = np.append(_STREAM_OF, np.arange(_FIRST, _FIRST + cells))
        self._falls: BoolArray = np.append(_FALLS, np.zeros(cells, dtype=np.bool_))
        slice_share = (1.0 - sum(_SHARES)) / max(cells, 1)
        share = np.append(_SHARES, np.full(cells, slice_share))
        self._counts = share > 0
        self._log_share: FloatArray = np.log(np.where(self._counts, share, 1.0))
        whole = [c.size, c.size, c.residual_size, c.residual_size, c.size]
        self._least: FloatArray = np.append(whole, np.full(cells, c.slice_size))
        self._limit = math.log(c.every)
        streams, bets = _FIRST + cells, (len(self._stream), len(_STAKES))

        self.rows = 0
        self.alarmed = False
        self._calm = True
        self._scored: bool | None = None
        self._last = -math.inf
        # rows, sum, sum of squares of each stream, and the sum of what its size is told in
        self._base: FloatArray = np.zeros((4, streams))
        self._log_r: FloatArray = np.full(bets, -np.inf)
        self._log_w: FloatArray = np.zeros(bets)
        self._since: FloatArray = np.full(bets, -np.inf)
        self._run: FloatArray = np.zeros((2, *bets))  # rows and gauge since then
        self._effect: FloatArray = np.ones(bets)
        self._doubt: FloatArray = np.zeros(bets)  # 2 / degrees of freedom of the effect
        self._open: FloatArray = np.zeros((2, streams))
        self._open_rows = 0
        self._held: npt.NDArray[np.float32] = np.zeros((_HELD, 2, streams), dtype=np.float32)
        self._blocks = self._learnt = 0
        self._pairs: FloatArray = np.zeros((_LEVELS, 2, streams))
        self._spread: FloatArray = np.zeros(
            (_LEVELS, 4, streams)
        )  # blocks, rows, sum, sum^2 / rows

    def expect(self, every: float) -> None:
        """Take another number of labelled rows between two false alarms: labels come faster or slower than thought."""
        self.config = self.config.model_copy(update={"every": every})
        self._limit = math.log(every)

    def restart(self) -> None:
        """Forget all evidence; what is usual stays."""
        self._log_r[:], self._log_w[:], self._since[:], self._run[:] = -np.inf, 0.0, -np.inf, 0.0
        self.alarmed, self._calm = False, True

    # ---- rows in

    def learn(self, loss: Any, residual: Any, slices: Any = ()) -> None:
        """Take rows of the reference, in the order in which they came if that is known; as in `take`."""
        for part in self._parts(loss, residual, slices):
            counts, gauge = self._count(*part)
            moments = _moments(counts, gauge)
            self._base += moments
            self._gather(moments, len(part[0]), wait=False)
        self._measure()

    def take(self, ts: float, loss: Any, residual: Any, slices: Any = ()) -> bool:
        """Count labelled rows; return whether they raise a new alarm. Raises ValueError on nonsense.

        ts         time of the newest of them
        loss       (n,) in 0..1
        residual   (n,) 1 where the answer was right, else 0, less its confidence; NaN = no confidence
        slices     (s, n) which value of each slicing; -1 = none of them
        """
        before = self.alarmed
        if not self.rows:
            self._last = ts
        for part in self._parts(loss, residual, slices):
            n = len(part[0])
            counts, gauge = self._count(*part)
            if self._base[0, _LOSS] >= _LEAST_ROWS:
                self._bet(counts, gauge, n)
                self._decide()
            moments = _moments(counts, gauge)
            if not self.alarmed:
                self._base += moments
            self._gather(moments, n, wait=True)
            self.rows += n
        self._last = ts
        return self.alarmed and not before

    def _parts(
        self, loss: Any, residual: Any, slices: Any
    ) -> Iterator[tuple[FloatArray, FloatArray, IntArray]]:
        """Check the rows and cut them up where there are many."""
        loss = np.asarray(loss, dtype=np.float64)
        residual = np.asarray(residual, dtype=np.float64)
        slices = np.asarray(slices, dtype=np.int64)
        n = len(loss)
        if residual.shape != (n,) or slices.size != len(self.slices) * n:
            raise ValueError("loss, residual and slices are of different lengths")
        slices = slices.reshape(len(self.slices), n)
        if not ((loss >= 0) & (loss <= 1)).all() or (np.abs(residual) > 1).any():
            raise ValueError("a loss lies outside 0..1 or a residual outside -1..1")
        if (slices >= self._values).any():
            raise ValueError("a slicing has a value beyond those announced")
        if self._scored is None and n:
            self._scored = bool(np.isfinite(residual).mean() >= 0.5)
        k = -(-n // _CHUNK)
        for i in range(k):
            part = slice(n * i // k, n * (i + 1) // k)
            yield loss[part], residual[part], slices[:, part]

    def _count(
        self, loss: FloatArray, residual: FloatArray, slices: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the rows of each stream on each point (streams, POINTS), and its gauge summed up (streams,)."""
        known = np.isfinite(residual)
        r, judged = residual[known], loss[known]
        surprise = _surprise(r)
        counts = np.empty((self._base.shape[1], len(_POINTS)))
        gauge = np.empty(len(counts))
        counts[_LOSS] = _shared(loss)
        counts[_RESIDUAL] = _shared((r + 1.0) / 2.0)
        counts[_SURPRISE] = _shared(surprise)
        gauge[:_FIRST] = loss.sum(), r.sum(), judged.sum()
        cells = len(counts) - _FIRST
        if cells:
            x = surprise if self._scored else loss
            mine, rows = (judged, slices[:, known]) if self._scored else (loss, slices)
            where = np.where(rows >= 0, rows + self._begin, cells)
            counts[_FIRST:] = _shared(x, where, cells + 1)[: cells * len(_POINTS)].reshape(
                cells, -1
            )
            again = np.broadcast_to(mine, where.shape).ravel()
            gauge[_FIRST:] = np.bincount(where.ravel(), again, cells + 1)[:cells]
        return counts, gauge

    # ---- bets

    def _usual(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return rows, mean and variance of each stream (streams,); few rows lean on those of the whole."""
        n, s, q, _ = self._base
        whole = np.full(len(n), _SURPRISE if self._scored else _LOSS)
        whole[:_FIRST] = range(_FIRST)
        prior = (s[whole] + 0.5) / (n[whole] + 1.0)
        spread = np.maximum(q[whole] / np.maximum(n[whole], 1.0) - prior**2, 1e-3)
        rows = n + _PRIOR_ROWS
        mean = (s + _PRIOR_ROWS * prior) / rows
        variance = (q + _PRIOR_ROWS * (spread + prior**2)) / rows - mean**2
        return rows, mean, np.maximum(variance, 1e-5)

    def _bet(self, counts: FloatArray, gauge: FloatArray, n: int) -> None:
        rows, mean, variance = self._usual()
        at, falls = self._stream, self._falls
        m = np.where(falls, 1.0 - mean[at], mean[at])[:, None]
        mine = np.where(falls[:, None], counts[at, ::-1], counts[at])
        stake = np.minimum(_STAKES / np.sqrt(variance[at])[:, None], _MOST / m)
        worth = np.log1p(stake[:, :, None] * (_POINTS - m)[:, None, :])
        gain: FloatArray = (worth @ mine[:, :, None])[:, :, 0]
        k = mine.sum(axis=1, keepdims=True)
        # rows of one bet share the error of the mean that they bet against
        gain /= self._effect * (1.0 + k / rows[at, None])
        idle = self._base[0, at, None] < _LEAST_IN_SLICE
        gain[idle[:, 0]] = 0.0
        # a slice has as many starts as all rows, spread over its own: one that no longer comes gathers nothing
        starts = np.where(idle, 0.0, np.minimum(k * self._base[0, _LOSS] / rows[at, None], n))
        cap = self._limit + _CAP - self._log_share[:, None]
        cap = np.where(
            self._doubt > 0, np.expm1(cap * self._doubt) / np.maximum(self._doubt, 1e-9), cap
        )
        with np.errstate(divide="ignore"):
            log_starts = np.log(starts)
        self._log_r = np.minimum(np.logaddexp(self._log_r, log_starts) + gain, cap)
        anew = self._log_w <= 0
        self._since[anew] = self._last
        self._run[:, anew] = 0.0
        self._run[0] += k
        self._run[1] += gauge[at, None]
        self._log_w = np.minimum(np.maximum(self._log_w, 0.0) + gain, _FAR * self._limit)

    def _sure(self) -> FloatArray:
        """Return log R with the tails of Student's t, as a design effect is known from so many blocks only."""
        x = np.maximum(self._log_r, 0.0) * self._doubt
        return np.where(x > 0, np.log1p(x) / np.maximum(self._doubt, 1e-9), self._log_r)

    def _parts_of_evidence(self) -> FloatArray:
        """Return the log of what each component adds to the e-detector (components,)."""
        log_r = self._sure()
        top = log_r.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            mean = np.log(np.exp(log_r - top).mean(axis=1)) + top[:, 0]
        out: FloatArray = mean + self._log_share
        return out

    def _leading(self) -> tuple[IntArray, IntArray]:
        """Return the index of the leading stake of each component."""
        return np.arange(len(self._log_w)), self._log_w.argmax(axis=1)

    def _gauges(
        self, leading: tuple[IntArray, IntArray]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return rows, and gauge before and since of each component's leading stake (components,)."""
        n, _, _, gauge = self._base[:, self._stream]
        before = gauge / np.maximum(n, 1.0)
        rows, total = self._run[:, *leading]
        return rows, before, np.where(rows > 0, total / np.maximum(rows, 1.0), before)

    def _decide(self) -> None:
        worth = np.where(self._counts, self._parts_of_evidence(), -np.inf)
        self._calm = _log_sum(worth) < self._limit - _CALM
        if self.alarmed and self._calm:
            self.alarmed = False
            self._log_w = np.zeros_like(self._log_w)
        if not (self.alarmed or self._calm):
            self.alarmed = _log_sum(worth[self._large()]) >= self._limit

    def _large(self) -> BoolArray:
        """Return which components (components,) have changed enough to matter."""
        _, before, after = self._gauges(self._leading())
        rise: BoolArray = np.where(self._falls, before - after, after - before) >= self._least
        return rise

    # ---- what is said

    @property
    def alarm(self) -> float:
        """log10 of the evidence that is enough, beside size."""
        return self._limit / math.log(10.0)

    @property
    def evidence(self) -> float:
        """log10 of the e-detector."""
        return max(_log_sum(self._parts_of_evidence()[self._counts]), 0.0) / math.log(10.0)

    @property
    def sized(self) -> float:
        """log10 of the same, of what has changed enough to matter; -inf = nothing has."""
        return _log_sum(self._parts_of_evidence()[self._counts & self._large()]) / math.log(10.0)

    @property
    def restless(self) -> float:
        """The design effect of the loss, over as many rows as it takes to find that it rose by a quarter sd."""
        return float(self._effect[0, _QUARTER])

    def changes(self) -> tuple[Change, ...]:
        """Say what speaks for a change, the strongest first: what is large enough and sure, or has part in an alarm."""
        worth, leading = self._parts_of_evidence(), self._leading()
        since, weight = self._since[leading], self._log_w[leading] + self._log_share
        rows, before, after = self._gauges(leading)
        rise = np.where(self._falls, before - after, after - before)
        enough = np.where(self._counts & self.alarmed, self._limit - _CALM, self._limit)
        told = np.flatnonzero((rise >= self._least) & (worth >= enough))
        names: list[tuple[str, int | None]] = [(name, None) for name in _WHOLE]
        names += [(name, value) for name, values in self.slices for value in range(values)]
        return tuple(
            Change(
                what=names[i][0],
                value=names[i][1],
                since=float(since[i]),
                rows=int(rows[i]),
                before=float(before[i]),
                after=float(after[i]),
                evidence=float(worth[i]) / math.log(10.0),
            )
            for i in told[np.argsort(-weight[told], kind="stable")].tolist()
        )

    # ---- the design effect

    def _gather(self, moments: FloatArray, n: int, *, wait: bool) -> None:
        """Make blocks of rows; learn the block that has waited long enough, unless there is an alarm."""
        self._open += moments[:2]
        self._open_rows += n
        if self._open_rows < _BLOCK:
            return
        block, self._open, self._open_rows = self._open, np.zeros_like(self._open), 0
        if not wait:
            self._learn_block(block)
            return
        slot = self._blocks % _HELD
        if self._blocks >= _HELD and self._calm:
            self._learn_block(self._held[slot].astype(np.float64))
            if self._learnt % 8 == 0:
                self._measure()
        self._held[slot] = block
        self._blocks += 1

    def _learn_block(self, block: FloatArray) -> None:
        """Count a block, and the longer ones that it completes."""
        number = self._learnt
        self._learnt += 1
        for level in range(_LEVELS):
            n, s = block
            self._spread[level] += (n > 0, n, s, s * s / np.maximum(n, 1.0))
            if number >> level & 1 == 0:
                self._pairs[level] = block
                return
            block = self._pairs[level] + block

    def _measure(self) -> None:
        """Work out the design effect of each bet: 1, unless the blocks prove more."""
        _, mean, variance = self._usual()
        blocks, rows, total, squares = self._spread.swapaxes(0, 1)
        k = np.maximum(blocks, _LEAST_BLOCKS)
        length = np.maximum(rows, 1.0) / k
        effect = (squares - 2 * mean * total + mean**2 * rows) / ((k - 1.0) * variance)
        noise = 2.0 + 1.0 / (length * variance)
        proven = _proven(effect, blocks, noise)
        # a slice wanders with the whole, at least
        whole = proven[:, _SURPRISE if self._scored else _LOSS, None] - 1.0
        long = length[:, _LOSS, None]
        proven[:, _FIRST:] = np.maximum(proven[:, _FIRST:], 1.0 + whole * length[:, _FIRST:] / long)
        for at, values in zip(_FIRST + self._begin[:, 0], self._values[:, 0], strict=True):
            # the values of one slicing have few blocks each, and wander alike
            mine, n = (
                slice(at, at + values),
                np.maximum(blocks[:, at : at + values].sum(axis=1), 1.0),
            )
            both = [(x[:, mine] * blocks[:, mine]).sum(axis=1) / n for x in (effect, noise)]
            proven[:, mine] = np.maximum(proven[:, mine], _proven(both[0], n, both[1])[:, None])
        proven, length = proven[:, self._stream, None], length[:, self._stream, None]
        out = np.broadcast_to(proven[0], self._effect.shape)
        freedom = np.full(out.shape, blocks[0, _LOSS])
        for level in range(1, _LEVELS):
            more = (length[level] <= _LASTS * out) & (proven[level] > out)
            out = np.where(more, proven[level], out)
            freedom = np.where(more, blocks[level, _LOSS], freedom)
        self._doubt = 2.0 * (1.0 - 1.0 / out) / np.maximum(freedom - 1.0, 1.0)
        self._effect = out

    # ---- restarts of the agent

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped. Counts and sums, never rows."""
        meta = {
            "slices": [list(one) for one in self.slices],
            "scored": self._scored,
            "state": [self.alarmed, self._calm],
            "last": self._last if math.isfinite(self._last) else None,
            "counts": [self.rows, self._open_rows, self._blocks, self._learnt],
        }
        return checkpoint.write("concept", _VERSION, meta, self._state())

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "base": self._base, "log_r": self._log_r, "log_w": self._log_w, "since": self._since,
            "run": self._run, "effect": self._effect, "doubt": self._doubt, "open": self._open, "held": self._held,
            "pairs": self._pairs, "spread": self._spread,
        }  # fmt: skip

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged or of other slices. Then nothing has changed."""
        meta, arrays = checkpoint.read("concept", _VERSION, state)
        try:
            mine = self._state()
            if [tuple(one) for one in meta["slices"]] != list(self.slices) or any(
                arrays[name].shape != mine[name].shape or np.isnan(arrays[name]).any()
                for name in mine
            ):
                raise Refused("state of a concept detector is of other slices: it is learnt anew")
            last = -math.inf if meta["last"] is None else float(meta["last"])
            rows, open_rows, blocks, learnt = map(int, meta["counts"])
            scored, (alarmed, calm) = meta["scored"], map(bool, meta["state"])
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(
                f"state of a concept detector is damaged ({damage!r}): it is learnt anew"
            ) from None
        for name in mine:
            setattr(self, f"_{name}", arrays[name])
        self._scored, self.alarmed, self._calm, self._last = scored, alarmed, calm, last
        self.rows, self._open_rows, self._blocks, self._learnt = rows, open_rows, blocks, learnt


def _surprise(residual: FloatArray) -> FloatArray:
    """Return how surprising each residual is, in 0..1."""
    confidence = np.where(residual > 0, 1.0 - residual, -residual)
    with np.errstate(divide="ignore"):
        odds = np.log(confidence) - np.log1p(-confidence)
    out: FloatArray = (0.5 - residual * (0.5 + np.clip(odds, 0.0, _SUREST))) / (1.0 + _SUREST)
    return out


def _shared(x: FloatArray, where: IntArray | None = None, cells: int = 1) -> FloatArray:
    """Return the rows on each point of the grid (POINTS,); with cells `where` (s, n), of one after another."""
    last = len(_POINTS) - 1
    place = x * last
    low = np.minimum(place.astype(np.int64), last - 1)
    part = place - low
    if where is not None:
        low = np.ravel(where * len(_POINTS) + low)
        part = np.broadcast_to(part, where.shape).ravel()
    size = cells * len(_POINTS)
    out = np.bincount(low, 1.0 - part, size) + np.bincount(low + 1, part, size)
    return out.astype(np.float64)


def _proven(effect: FloatArray, blocks: FloatArray, noise: FloatArray) -> FloatArray:
    """Return the design effect that so many blocks prove, 1 or more."""
    more = np.maximum(effect - 1.0, 0.0)
    error = np.sqrt(noise / np.maximum(blocks, 1.0))
    proven = more - (_CHANCE * error) ** 2 / np.maximum(more, 1e-12)
    return np.where(blocks >= _LEAST_BLOCKS, 1.0 + np.maximum(proven, 0.0), 1.0)


def _moments(counts: FloatArray, gauge: FloatArray) -> FloatArray:
    """Return rows, sum, sum of squares and gauge of each stream (4, streams)."""
    return np.vstack([(counts @ _POWERS).T, gauge])


def _log_sum(logs: FloatArray) -> float:
    top = float(logs.max(initial=-np.inf))
    return top + math.log(float(np.exp(logs - top).sum())) if math.isfinite(top) else -math.inf
