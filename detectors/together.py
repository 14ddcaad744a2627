"""What is abnormal together: the p-values of many series become one p-value a group.

    p (n,) -> per group, sorted -> how much rarer is the j-th rarest than it should be -> few, few and lasting, all
           -> rarity of each, by its own tail -> the best of them -> its own tail -> p

Good for a host, a service or a model with two to some thousand series: three series of one cause stand out from
forty that are a little noisy. Not for one series alone: the rarest p of a group counts for nothing.
p (n,) in 0..1, NaN = not ready, left out; out (g,), NaN for the first 30 rows and where fewer than two series have a p.

    e_j   -log p of the j-th rarest of m, which should be log(m / j)
    sway  -log p of the middle one, which should be log 2; what is beyond chance (1 + 3 / sqrt m) divides every e_j:
          where all of a host sways with its load, the few must stand out from that
    few   sum over j = 2..12 of (e_j / sway - log(m / j))+ / j^1.5: a rank-truncated product of p-values whose early
          ranks weigh most, so that series beyond the cause add little noise
    lasting   the same, averaged over about eight rows
    all   mean of all e but the first (Fisher): everything a little abnormal at once

All three would have known distributions if series were independent, which those of a host never are. So they only
rank rows, and what a rank is worth is learnt from the group's own past by tails. The sizes hardly depend on m: series
may come and go. Measured on made-up rows in `tests/detectors/test_together.py`.

A p is never below 1 / (30 rows learnt). What is not trusted is not learnt; late and repeated rows neither.
Cost: one sort of n and about sixty numpy calls on g columns, whatever g is: some 0.1 ms a tick for 300 series.
State: 400 bytes a group. Source: Dudbridge & Koeleman 2003 (rank truncated product, Genetic Epidemiology 25); the
sway is the genomic control of Devlin & Roeder 1999; Fisher 1932; tails see `detectors/_tail.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.registry import view
from agent.units import Model, Span
from detectors._tail import Tail

_VERSION: Final = 1
_DEEPEST: Final = 12
"""Ranks that count as few."""
_FEW, _LASTING, _ALL = range(3)
_SHARES: Final = np.log([[0.5], [0.35], [0.15]])
"""How the three share the chance of a false alarm."""
_LASTING_ROWS: Final = 8.0
# Quantile and mean excess before anything is learnt: those of independent series, and somewhat more.
_PRIOR: Final = np.array([[1.8, 0.5], [1.0, 0.3], [1.8, 0.4]])
_PRIOR_JOINT: Final = np.array([[4.5, 1.5]])
_SETTLE_ROWS: Final = 300.0
"""Rows after which the tails of the three are good enough to learn the tail of the best."""
_LOG_2: Final = float(np.log(2.0))
_LEAST: Final = 1e-300
_LATE_STEPS: Final = 100.0


@dataclass(slots=True)
class _Row:
    """What one row says, kept between score and learn. Sorted by group and p: column, of, rank, beyond (k,).

    beyond  how much rarer than it should be, after the sway
    size    (g,) series that had a p
    stats   (3, g) few, lasting, all; best (1, g) the best of their rarities
    """

    ts: float
    given: FloatArray
    column: IntArray
    of: IntArray
    rank: FloatArray
    beyond: FloatArray
    size: IntArray
    stats: FloatArray
    best: FloatArray
    p: FloatArray


@view("together")
class Together:
    """Groups of series of one source: a few series of one cause are seen before forty noisy ones."""

    class Config(Model):
        """How the rows come."""

        step_s: Span = 1.0
        """Usual time between two rows."""
        warmup_rows: Annotated[int, Field(ge=1)] = 30
        """Rows before the first p-value of a group."""

    def __init__(self, config: Config, of: IntArray) -> None:
        self._config = config
        self._last_ts = -np.inf
        self._row: _Row | None = None
        self._of = np.asarray(of, dtype=np.int64)
        self._fresh(int(self._of.max()) + 1 if len(self._of) else 0)

    def _fresh(self, groups: int) -> None:
        """Make the state of groups of which nothing is known."""
        self.rows: FloatArray = np.zeros(groups)
        self.lasting: FloatArray = np.zeros(groups)
        self.tails = Tail(_PRIOR, groups)
        self.joint = Tail(_PRIOR_JOINT, groups)

    # ------------------------------------------------------------------ score

    def score(self, ts: float, p: FloatArray) -> FloatArray:
        """Return p (g,) of this row against what was learnt before it."""
        self._row = self._measure(ts, p)
        return self._row.p.copy()

    def _measure(self, ts: float, given: FloatArray) -> _Row:
        if len(given) != len(self._of):
            raise ValueError(f"a row of {len(given)} p-values for {len(self._of)} columns")
        groups = len(self.rows)
        column = np.flatnonzero(np.isfinite(given))
        of = self._of[column]
        order = np.lexsort((given[column], of))
        column, of = column[order], of[order]
        rare = -np.log(np.clip(given[column], _LEAST, 1.0))
        size = np.bincount(of, minlength=groups)
        first = np.cumsum(size) - size
        m = np.maximum(size, 1).astype(np.float64)
        rank = np.arange(1.0, len(of) + 1.0) - first[of]
        stats = np.zeros((3, groups))
        sway = np.ones(groups)
        some = size > 0
        sway[some] = rare[(first + size // 2)[some]] / _LOG_2
        sway = np.maximum(sway / (1.0 + 3.0 / np.sqrt(m)), 1.0)
        beyond = np.maximum(rare / sway[of] - np.log(m[of] / rank), 0.0)
        weight = np.where((rank > 1.0) & (rank <= _DEEPEST), rank**-1.5, 0.0)
        stats[_FEW] = np.bincount(of, beyond * weight, groups)
        stats[_LASTING] = self.lasting + (stats[_FEW] - self.lasting) * (1.0 / _LASTING_ROWS)
        stats[_ALL] = np.bincount(of, rare * (rank > 1.0), groups) / np.maximum(m - 1.0, 1.0)
        best = np.maximum(self.tails.rarity(stats) + _SHARES, 0.0).max(axis=0)[None]
        p = np.exp(-self.joint.rarity(best)[0])
        p = np.maximum(p, 1.0 / (30.0 * np.maximum(self.rows, 1.0)))
        p[(size < 2) | (self.rows < self._config.warmup_rows)] = np.nan
        return _Row(ts, given, column, of, rank, beyond, size, stats, best, p)

    def carriers(self, group: int) -> IntArray:
        """Return the columns behind the last p of a group, the rarest first; empty before the first score.

        As many as explain most: the j at which j times "rarer than it should be" is largest, at least 2.
        """
        row = self._row
        if row is None or row.size[group] < 2:
            return np.empty(0, dtype=np.int64)
        at = np.flatnonzero(row.of == group)[:_DEEPEST]
        many = 2 + int(np.argmax((row.rank * row.beyond)[at[1:]]))
        return row.column[at[:many]]

    # ------------------------------------------------------------------ learn

    def learn(self, ts: float, p: FloatArray, trust: BoolArray) -> None:
        """Learn the row. Late and repeated rows are left out; a clock set far back is followed."""
        if 0 <= self._last_ts - ts < _LATE_STEPS * self._config.step_s:
            return
        row = self._row
        if row is None or row.ts != ts or not np.array_equal(row.given, p, equal_nan=True):
            row = self._measure(ts, p)
        self._last_ts = ts
        teach = trust & (row.size >= 2)
        before = self.rows
        self.rows = before + teach
        self.lasting = np.where(row.size >= 2, row.stats[_LASTING], self.lasting)
        self.tails.learn(row.stats, teach, before)
        settled = teach & (before >= _SETTLE_ROWS)
        self.joint.learn(row.best, settled, np.maximum(before - _SETTLE_ROWS, 0.0))

    # ------------------------------------------------------------------ groups come and go

    def regroup(self, of: IntArray, old_index: IntArray) -> None:
        """Group g was old_index[g]; -1 = new. `of` (n,) is the group of each column from now on."""
        of, old = np.asarray(of, dtype=np.int64), np.asarray(old_index, dtype=np.int64)
        if len(old) and (old.max() >= len(self.rows) or old.min() < -1):
            raise ValueError(f"group {int(old.max())} of {len(self.rows)} is asked for")
        if len(of) and (of.max() >= len(old) or of.min() < 0):
            raise ValueError(f"column of group {int(of.max())}, but there are {len(old)}")
        state, ticks = self._arrays(), self.tails.ticks
        self._fresh(len(old))
        self.tails.ticks = self.joint.ticks = ticks
        stay = old >= 0
        for name, array in self._arrays().items():
            array[..., stay] = state[name][..., old[stay]]
        self._of = of
        self._row = None

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array of the state by name; the last axis is the groups."""
        return {
            "rows": self.rows,
            "lasting": self.lasting,
            **{f"tails.{name}": array for name, array in self.tails.arrays().items()},
            **{f"joint.{name}": array for name, array in self.joint.arrays().items()},
        }

    # ------------------------------------------------------------------ dump, load

    def dump(self) -> bytes:
        """Return the state with version and checksum; columns and the last score are not part of it."""
        last_ts = self._last_ts if np.isfinite(self._last_ts) else None
        meta = {
            "groups": len(self.rows), "step_s": self._config.step_s, "last_ts": last_ts,
            "ticks": self.tails.ticks,
        }  # fmt: skip
        return checkpoint.write("together", _VERSION, meta, self._arrays())

    def load(self, state: bytes) -> None:
        """Take a state; the groups become those of the state. Raises Refused when it does not fit."""
        meta, arrays = checkpoint.read("together", _VERSION, state)
        try:
            groups, step_s = int(meta["groups"]), float(meta["step_s"])
            last_ts, ticks = meta["last_ts"], int(meta["ticks"])
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of together is damaged ({damage}): it is learnt anew") from None
        if step_s != self._config.step_s:
            raise Refused(
                f"state of together was learnt at a step of {step_s:g} s, not "
                f"{self._config.step_s:g} s: it is learnt anew"
            )
        kept = Together(self._config, self._of)
        kept._fresh(groups)
        for name, array in kept._arrays().items():
            given = arrays.get(name)
            if given is None or given.shape != array.shape:
                raise Refused(f"state of together has no fitting {name}: it is learnt anew")
            array[...] = given
        kept.tails.ticks = kept.joint.ticks = ticks
        kept._last_ts = -np.inf if last_ts is None else float(last_ts)
        self.__dict__.update(kept.__dict__)


class HostView:
    """`Together` over one group of n series: p (n,) in, one p out. For benchmarks and for looking at it alone."""

    def __init__(self, n: int, step_s: float = 1.0) -> None:
        self._view = Together(Together.Config(step_s=step_s), np.zeros(n, dtype=np.int64))

    def score(self, ts: float, p: FloatArray) -> float:
        """Return the p-value of the group; NaN = nothing to go by."""
        return float(self._view.score(ts, p)[0])

    def learn(self, ts: float, p: FloatArray, trust: bool) -> None:
        """Learn the row, unless it is called abnormal."""
        self._view.learn(ts, p, np.array([trust]))

    def carriers(self) -> IntArray:
        """Return the columns behind the last p-value, the rarest first."""
        return self._view.carriers(0)
