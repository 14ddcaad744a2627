"""The columns of one model version against what it was made with: counts in, states out.

    batch -> columns of the bins (d, n) -> counts (d, COLUMNS) -> newest rows   (64 to 128 of them): contract
                                                               -> slow memory   (half-life in seconds): PSI
                                                               -> shifts        evidence and size (see `shifts`)

Good for: tabular features, numbers and categories, what the model said as further columns, at any rate; joint change
of two numbers, when it has seen rows of the reference (`fit`, or learnt from the first `learn_rows`). Not for: text,
images. Warm-up: 30 rows for the contract. Memory is constant: 8 kB a column. Cost, measured on one core: 3.6
microseconds a row at 50 columns, 10 of them texts, in batches of 1,000. The stability index (PSI) is corrected for
what sampling alone gives, so that 0 means "no more than chance"; 0.1 and 0.25 are the field's customary marks of some
and of much change. It is for people to read; what is called drift is decided by `shifts`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint, registry
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Coded, FeatureState
from agent.units import Model, Span
from detectors.drift import contract, pairs, reference, season
from detectors.drift.contract import (
    KINDS,
    LOGS,
    MAGNITUDES,
    NEGATIVE,
    NEITHER_ZERO,
    PER_DECADE,
    SAME,
    SAME_BUT_ZERO,
    WHOLE,
    ZERO,
    Tolerances,
)
from detectors.drift.estimate import BROKEN, JOINT, OUTSIDE
from detectors.drift.reference import (
    ABOVE,
    BELOW,
    COLUMNS,
    MISSING,
    PSI_GROUPS,
    WRONG,
    Reference,
)
from detectors.drift.shifts import Shifts

_FAST_ROWS: Final = 64.0
_MOST_COUNTED: Final = 65_535
"""Of magnitudes, in a cell: two bytes each."""
_LEAST_ROWS: Final = 30.0
_BUFFER: Final = 128
_STRETCH: Final = 100
"""Rows of the reference in which a contract is tried; what breaks so often there is no news."""
_USUAL_TIMES: Final = 2
_TRIED: Final = 2000
"""Rows of each quarter of the reference that are held against the other three."""
_SAY_AGAIN_S: Final = 3.0
_FLOOR: Final = 1e-9
"""The least e-value that is told apart from none."""
_MOST_LEARNT: Final = 256
_SLICINGS: Final = 6
_MOST_SLICED: Final = 8
"""Values of a category that is looked at value by value."""
_VERSION: Final = 5


Columns = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.float32]


@registry.drift("features")
class Features:
    """The drift of d features; see the module."""

    class Config(Model):
        """How fast it forgets and what is ordinary."""

        half_life: Span = 100.0
        """Of the rows behind PSI."""
        stale: Span = 300.0
        """Without rows for so long nothing is known."""
        min_rows: Annotated[int, Field(ge=10)] = 100
        """Fewer rows than this give no PSI."""
        learn_rows: Annotated[int, Field(ge=100)] = 1000
        """Rows that become the reference when there is none."""
        quiet: Span = 90 * 86_400.0
        """Between two false alarms of a model, at the least and on average."""
        apart: tuple[str, ...] = ()
        """Categories whose values are looked at apart before others are."""
        aside: bool = False
        """First rows are made the reference by whoever asks for `first_rows` and brings `learnt`, not at once."""
        tolerances: Tolerances = Tolerances()

    def __init__(
        self,
        config: Config,
        found: Mapping[str, Any] | None = None,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config = config
        self._pending: list[tuple[float, int, Mapping[str, Any]]] = []
        self._use(reference.read(found, others))

    def _use(self, ref: Reference, joint: pairs.Pairs | None = None) -> None:
        """Lay the arrays out over a reference."""
        d = len(ref.names)
        self._ref = ref
        self._learning = d == 0
        self._numeric = np.flatnonzero(ref.numeric)
        self._last_bin = ref.bins[self._numeric, None].astype(np.uint8)
        self._codes: dict[int, dict[Any, int]] = {
            i: {**values, None: MISSING}
            for i, values in enumerate(ref.values)
            if values is not None
        }
        self._edges = ref.edges[self._numeric, : int(ref.bins[self._numeric].max(initial=0)) + 1]
        self._offset = (np.arange(d) * COLUMNS)[:, None]
        self._groups = (np.arange(d)[:, None] * (PSI_GROUPS + 2) + ref.groups).ravel()
        self._group_usual = self._grouped(ref.shares)
        self._centre = np.where(np.isnan(ref.quartiles[:, 1]), 0.0, ref.quartiles[:, 1])
        self._shifts = Shifts(ref, joint if joint is not None else pairs.none(), self.config.quiet)
        # the newest rows, and those before them: while the newest are few
        self._fast: Counts = np.zeros((2, d, COLUMNS), dtype=np.float32)
        self._slow: Counts = np.zeros((d, COLUMNS), dtype=np.float32)
        self._squares: FloatArray = np.zeros(d)  # sums of squared weights, slow
        self._magnitudes: npt.NDArray[np.uint16] = np.zeros((2, d, MAGNITUDES), dtype=np.uint16)
        self._usual_kinds: BoolArray = np.zeros((d, len(KINDS)), dtype=np.bool_)
        # rows with each kind of break
        self._spent: Counts = np.zeros((d, len(KINDS)), dtype=np.float32)
        self._whole: FloatArray = np.full(d, np.nan)
        self._same: FloatArray = np.full((d, 2), np.nan)
        self._last = -math.inf
        self._broken: BoolArray = np.zeros(d, dtype=np.bool_)
        self._kind: IntArray = np.zeros(d, dtype=np.int64)
        self._since: FloatArray = np.full(d, np.nan)
        self._said_at: FloatArray = np.full(d, -np.inf)
        self._reason: list[str] = [""] * d
        self._table: FloatArray = np.full((d, 7), np.nan)
        self._unseen: BoolArray = (ref.shares <= 0) & ref.own[:, None]
        found = [
            (i, tuple(sorted(values, key=values.__getitem__)))
            for i, values in enumerate(ref.values)
            if values is not None
            and ref.own[i]
            and 2 <= len(values) <= _MOST_SLICED  # two to tell apart
        ]
        found.sort(key=lambda one: ref.names[one[0]] not in self.config.apart)
        found = found[:_SLICINGS]
        self._sliced: IntArray = np.array([i for i, _ in found], dtype=np.int64)
        self._slicings = tuple((ref.names[i], values) for i, values in found)
        self._joint = False

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it knows, sorted; empty while it learns."""
        return self._ref.names

    # ---- rows in

    @property
    def slicings(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Categories of few values, and these: what quality is looked at apart for."""
        return self._slicings

    def take(self, ts: float, rows: int, features: Mapping[str, Any]) -> Coded:
        """Count a batch: name -> (rows,) float64 or object, NaN or None = missing; its newest row is at `ts`.

        A feature that this version was made with and that is not there counts as missing; others count as unknown.
        """
        if rows == 0 or not features:
            return self._coded(np.zeros((0, 0), dtype=np.uint8), rows)
        if self._learning:
            self._gather(ts, rows, features)
            return self._coded(np.zeros((0, 0), dtype=np.uint8), rows)
        columns, x, present = self._place(rows, features)
        d = len(self.names)
        cells = np.bincount((columns + self._offset).ravel(), minlength=d * COLUMNS)
        counts: FloatArray = cells.reshape(d, COLUMNS).astype(np.float64)
        coded = self._coded(columns, rows, counts)
        magnitudes = self._count_magnitudes(x)
        n = np.full(d, float(rows))
        if not present.all():
            counts[~present] = 0.0
            magnitudes[~present] = 0.0
            n[~present] = 0.0
        if self._fast[1].sum(axis=1).max(initial=0.0) >= _FAST_ROWS:
            self._fast[0], self._magnitudes[0] = self._fast[1], self._magnitudes[1]
            self._fast[1], self._magnitudes[1] = 0.0, 0
        self._fast[1] += counts
        self._magnitudes[1] = np.minimum(self._magnitudes[1] + magnitudes, _MOST_COUNTED)
        past = max(0.0, ts - self._last)
        age = 2.0 ** (-past / self.config.half_life) if math.isfinite(past) else 0.0
        self._slow *= age
        self._slow += counts
        self._squares *= age * age
        self._squares += n
        self._last = max(self._last, ts)
        if self._broken.any():
            self._spent[self._broken, self._kind[self._broken]] += rows
        self._shifts.take(self._last, counts, columns)
        return coded

    def _coded(self, columns: Columns, rows: int, counts: FloatArray | None = None) -> Coded:
        """Say what is remembered of rows with these columns of bins (d, rows); `counts` of them (d, COLUMNS)."""
        marks = np.zeros(rows, dtype=np.uint8)
        slices = np.full((len(self._slicings), rows), 255, dtype=np.uint8)
        if len(columns):
            hit = self._unseen if counts is None else self._unseen & (counts > 0)
            for i in np.flatnonzero(hit.any(axis=1)).tolist():  # few have any
                marks[self._unseen[i, columns[i]]] = OUTSIDE
            if self._broken.any():
                marks |= np.uint8(BROKEN)
            if self._joint:
                marks |= np.uint8(JOINT)
            value = columns[self._sliced] - np.uint8(1)  # below all is 255
            many = np.array([len(v) for _, v in self._slicings], dtype=np.uint8)[:, None]
            slices[:] = np.where(value < many, value, np.uint8(255))
        return Coded(marks, slices)

    def _place(
        self, rows: int, features: Mapping[str, Any]
    ) -> tuple[Columns, FloatArray, BoolArray]:
        """Return the column of each value (d, rows), numbers (of `_numeric`, rows), and which features are there."""
        found = [features.get(name) for name in self.names]
        present = np.array([column is not None for column in found], dtype=np.bool_)
        x: FloatArray = np.empty((len(self._numeric), rows))
        columns: Columns = np.full((len(found), rows), MISSING, dtype=np.uint8)
        wrong: dict[int, BoolArray] = {}
        for at, i in enumerate(self._numeric.tolist()):
            column = found[i]
            if column is None:
                x[at] = np.nan
            elif isinstance(column, np.ndarray) and column.dtype == np.float64:
                x[at] = column
            else:
                x[at], wrong[i] = reference.numbers(column)
        columns[self._numeric] = self._columns_of(x)
        for i, some in wrong.items():
            columns[i, some] = WRONG
        for i, codes in self._codes.items():
            if found[i] is not None:
                columns[i] = _categories(found[i], codes)
        present |= self._ref.own
        return columns, x, present

    def _columns_of(self, x: FloatArray) -> Columns:
        """Return the columns of numbers: edges are few, so to compare with all is quicker than to search."""
        out: Columns = np.zeros(x.shape, dtype=np.uint8)
        over = np.empty(x.shape, dtype=np.bool_)
        # numpy copies an edge into its buffer again and again where a row of x is shorter than that
        usual = np.setbufsize(_BUFFER)
        try:
            for edge in self._edges.T:
                np.greater_equal(x, edge[:, None], out=over)
                out += over.view(np.uint8)
        finally:
            np.setbufsize(usual)
        np.putmask(out, out > self._last_bin, np.uint8(ABOVE))
        np.putmask(out, np.isnan(x), np.uint8(MISSING))
        return out

    def _count_magnitudes(self, x: FloatArray) -> FloatArray:
        """Return the magnitudes (d, MAGNITUDES) of numbers (of `_numeric`, rows); categories have none."""
        m = len(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.abs(x)
            np.log10(logs, out=logs)
            logs -= self._centre[self._numeric, None]
            logs *= PER_DECADE
            logs += LOGS / 2
            known = np.isfinite(logs)
            np.maximum(logs, 0.0, out=logs)
            np.minimum(logs, LOGS - 1, out=logs)
            logs[~known] = LOGS
            at = logs.astype(np.int64)
            at += np.arange(0, m * (LOGS + 1), LOGS + 1)[:, None]
            counted = np.zeros((m, MAGNITUDES))
            counted[:, : LOGS + 1] = np.bincount(at.ravel(), minlength=m * (LOGS + 1)).reshape(
                m, LOGS + 1
            )
            counted[:, ZERO] = (x == 0).sum(axis=1)
            counted[:, NEGATIVE] = (x < 0).sum(axis=1)
            counted[:, WHOLE] = (x == np.rint(x)).sum(axis=1)
            same, there = x[:, 1:] == x[:, :-1], known[:, 1:] & known[:, :-1]
            counted[:, SAME] = same.sum(axis=1)
            counted[:, SAME_BUT_ZERO] = (same & there).sum(axis=1)
            counted[:, NEITHER_ZERO] = there.sum(axis=1)
        out = np.zeros((len(self.names), MAGNITUDES))
        out[self._numeric] = counted
        return out

    def _gather(self, ts: float, rows: int, features: Mapping[str, Any]) -> None:
        """Keep rows until there are enough to make the reference of them, then count them."""
        if self._gathered() >= self.config.learn_rows:
            return  # whoever makes the reference is late: these are not counted
        self._pending.append((ts, rows, features))
        first = None if self.config.aside else self.first_rows()
        if first is not None:
            self.fit(first, whole=False)
            self._count_pending()

    def _gathered(self) -> int:
        return sum(rows for _, rows, _ in self._pending)

    def _count_pending(self) -> None:
        pending, self._pending = self._pending, []
        for _, rows, batch in pending:
            self.take(pending[-1][0], rows, batch)

    def first_rows(self) -> dict[str, Any] | None:
        """Return the first rows as columns, once they are enough to be a reference and until they are one."""
        if not self._learning or self._gathered() < self.config.learn_rows:
            return None
        names = sorted({name for _, _, batch in self._pending for name in batch})[:_MOST_LEARNT]
        return {
            name: _joined([(n, batch.get(name)) for _, n, batch in self._pending]) for name in names
        }

    def learnt(self, state: bytes) -> None:
        """Take the state of one to which `first_rows` are the reference, and count them."""
        self.load(state)
        self._count_pending()

    def code(self, rows: int, features: Mapping[str, Any]) -> Coded:
        """Say what would be remembered of rows, without counting them."""
        if self._learning or not rows:
            return self._coded(np.zeros((0, 0), dtype=np.uint8), rows)
        return self._coded(self._place(rows, features)[0], rows)

    def fit(self, features: Mapping[str, Any], *, whole: bool = True) -> None:
        """Make rows the reference, instead of the one that there is: columns of one length, in the order of time.

        whole   they are of all hours in which the model serves; else a day of serving is needed to know its rhythm
        """
        self._use(reference.learn(features))
        self._learning = False
        rows = len(next(iter(features.values()), ()))
        if not rows:
            return
        columns, x, _ = self._place(rows, features)
        self._use(self._ref, pairs.choose(self._shifts.places(columns)))
        self._learning = False
        values = columns.astype(np.float64)
        values[self._numeric] = np.where(np.isnan(x), -np.inf, x)  # missing is a value of its own
        run = season.runs(values)
        self._shifts.learn(columns, run, whole=whole)
        self._learn_kinds(features, x)
        self._usual_kinds[np.ix_(run >= season.QUANTUM, np.array(contract.OF_RUNS))] = True

    def _learn_kinds(self, features: Mapping[str, Any], x: FloatArray) -> None:
        """Learn which contracts the reference itself breaks: in their order, rows stand still or walk away."""
        rows = x.shape[1]
        known = self._count_magnitudes(x)
        many = np.maximum(known[:, :LOGS].sum(axis=1) + known[:, ZERO], 1.0)
        self._whole = np.where(self._ref.numeric, known[:, WHOLE] / many, np.nan)
        self._same = np.where(self._ref.numeric[:, None], _same(known, many)[0], np.nan)
        times = np.zeros(self._usual_kinds.shape)
        quarter = rows // 4
        stretch = min(max(quarter // 2, int(_LEAST_ROWS)), _STRETCH)
        for at in range(0, 4 * quarter, max(quarter, 1)):
            mine = range(at, min(at + quarter, at + _TRIED) - stretch + 1, stretch)
            if mine:
                self._try_kinds(features, at, quarter, mine, times)
        self._usual_kinds = times >= _USUAL_TIMES
        self._usual_kinds[:, 0] = False

    def _try_kinds(
        self, features: Mapping[str, Any], at: int, quarter: int, mine: range, times: FloatArray
    ) -> None:
        """Hold stretches of a quarter of the reference against the others, and count what breaks (d, kinds)."""
        rows = len(next(iter(features.values())))
        others = np.r_[0:at, at + quarter : rows]
        other = Features(self.config)
        other._use(reference.learn({k: np.asarray(v)[others] for k, v in features.items()}))
        other._whole, other._same = self._whole, self._same
        same = self._ref.numeric == other._ref.numeric
        none = np.zeros(len(self.names), dtype=np.int64)
        for first in mine:
            part = slice(first, first + mine.step)
            columns, x, _ = other._place(
                mine.step, {k: np.asarray(v)[part] for k, v in features.items()}
            )
            cells = np.bincount(
                (columns + self._offset).ravel(), minlength=times.shape[0] * COLUMNS
            )
            now = other._now(
                cells.reshape(-1, COLUMNS).astype(np.float64), other._count_magnitudes(x)
            )
            kind, _ = contract.judge(other._ref, now, self.config.tolerances, _LEAST_ROWS, none)
            times[same, kind[same]] += 1

    # ---- states out

    def judge(self, ts: float) -> FloatArray:
        """Decide at `ts`; return (d, 7), NaN = unknown.

        missing, out of range, scale, PSI, broken (0, 1), evidence (log10 of the e-value), drifted (0, 1)
        """
        d = len(self.names)
        if not d:
            return self._table
        if ts - self._last > self.config.stale:
            self._table = np.full((d, 7), np.nan)
            return self._table
        counts, magnitudes = self._newest()
        rows = counts.sum(axis=1)
        known = rows >= _LEAST_ROWS
        now = self._now(counts, magnitudes)
        shares = now.shares
        kind, shift = contract.judge(
            self._ref, now, self.config.tolerances, _LEAST_ROWS, self._kind
        )
        kind[self._usual_kinds[np.arange(d), kind]] = 0
        self._latch(ts, known, kind, shift, shares)
        found, sized = self._shifts.values()
        self._joint = self._shifts.joint()
        self._table = np.column_stack(
            [
                shares[:, MISSING],
                shares[:, BELOW] + shares[:, ABOVE],
                10.0**shift,
                self._psi(),
                self._broken.astype(np.float64),
                np.log10(np.maximum(found, _FLOOR)),
                (sized >= Shifts.enough(sized)).astype(np.float64),
            ]
        )
        self._table[np.ix_(~known, (0, 1, 2, 4, 5, 6))] = np.nan
        self._table[~self._ref.numeric, 1] = np.nan
        return self._table

    def _newest(self) -> tuple[FloatArray, FloatArray]:
        """Return counts (d, COLUMNS) and magnitudes (d, MAGNITUDES) of the newest 64 rows or so."""
        alone = self._fast[1].sum(axis=1).max(initial=0.0) >= _FAST_ROWS
        pick = slice(1, 2) if alone else slice(0, 2)
        return (
            self._fast[pick].sum(axis=0, dtype=np.float64),
            self._magnitudes[pick].sum(axis=0, dtype=np.float64),
        )

    def _now(self, counts: FloatArray, magnitudes: FloatArray) -> contract.Now:
        rows = counts.sum(axis=1)
        least = np.maximum(rows, 1e-12)
        logs, zeros = magnitudes[:, :LOGS].sum(axis=1), magnitudes[:, ZERO]
        same, of = _same(magnitudes, logs + zeros)
        return contract.Now(
            shares=counts / least[:, None],
            rows=rows,
            magnitudes=magnitudes[:, :LOGS],
            largest_share=magnitudes[:, :LOGS].max(axis=1) / least,
            zero_share=zeros / least,
            whole_share=magnitudes[:, WHOLE] / np.maximum(logs + zeros, 1e-12),
            whole_usual=self._whole,
            same=same,
            same_rows=of,
            same_usual=self._same,
            negative_share=magnitudes[:, NEGATIVE] / np.maximum(logs + zeros, 1e-12),
            logs_rows=logs,
        )

    def _latch(
        self, ts: float, known: BoolArray, kind: IntArray, shift: FloatArray, shares: FloatArray
    ) -> None:
        """Keep what is broken, since when, and the words for it."""
        broken: BoolArray = np.where(known, kind > 0, self._broken)
        self._get_used_to(self._broken & ~broken)
        self._since[broken & ~self._broken] = ts
        self._since[~broken] = np.nan
        for i in map(int, np.flatnonzero(known & (broken | self._broken))):
            if not broken[i]:
                self._reason[i] = ""
            elif kind[i] != self._kind[i] or ts - self._said_at[i] >= _SAY_AGAIN_S:
                share = {1: shares[i, MISSING], 5: shares[i, BELOW] + shares[i, ABOVE]}.get(
                    int(kind[i]), shares[i, WRONG]
                )
                self._reason[i] = contract.say(int(kind[i]), float(share), float(shift[i]))
                self._said_at[i] = ts
        self._kind[known] = kind[known]
        self._broken = broken

    def _get_used_to(self, ended: BoolArray) -> None:
        """Take breaks that ended (d,) for ordinary life, where they were on for as many rows as the reference has."""
        spent = self._spent[:, contract.OF_LIFE]
        long = ended & (spent.sum(axis=1) >= self._ref.rows)
        for k, kind in enumerate(contract.OF_LIFE):
            self._usual_kinds[long & (spent[:, k] > 0), kind] = True

    def _grouped(self, columns: FloatArray) -> FloatArray:
        d = len(columns)
        sums = np.bincount(
            self._groups, weights=columns.ravel(), minlength=d * (PSI_GROUPS + 2)
        ).astype(np.float64)
        return sums.reshape(d, PSI_GROUPS + 2)

    def _psi(self) -> FloatArray:
        """Return the population stability index (d,) less what sampling alone gives; NaN = too few rows."""
        weight = self._slow.sum(axis=1)
        rows = weight**2 / np.maximum(self._squares, 1e-12)
        usual = self._group_usual
        used = (usual > 0).sum(axis=1)
        floor = 0.5 / np.maximum(self._ref.rows, 1.0)[:, None]
        expected = np.maximum(usual, floor)
        # half a row of doubt, so that an empty group is a large number and no infinite one
        doubt = 0.5 / np.maximum(rows, 1.0)[:, None]
        live = self._grouped(self._slow.astype(np.float64)) / np.maximum(weight, 1e-12)[:, None]
        live = (live + doubt * expected) / (1.0 + doubt)
        # groups that the reference has not: less than one of its rows is no news
        live = np.where(usual > 0, np.maximum(live, 1e-6), np.maximum(live, expected))
        psi = ((live - expected) * np.log(live / expected)).sum(axis=1)
        by_chance = (used - 1) * (1.0 / np.maximum(rows, 1.0) + 1.0 / self._ref.rows)
        return np.where(rows >= self.config.min_rows, np.maximum(psi - by_chance, 0.0), np.nan)

    def states(self) -> tuple[FeatureState, ...]:
        """Say what the last `judge` found, for each of `names`."""
        rows, own = self._newest()[0].sum(axis=1), self._ref.own.tolist()
        out = []
        known = zip(self.names, self._table.tolist(), rows.tolist(), strict=True)
        for i, (name, row, count) in enumerate(known):
            missing, outside, scale, psi, broken, found, drifted = row
            out.append(
                FeatureState(
                    name=name,
                    used=own[i],
                    learning=False,
                    rows=count,
                    missing=missing,
                    out_of_range=outside,
                    scale=scale,
                    psi=psi,
                    broken=None if math.isnan(broken) else broken > 0.5,
                    reason=self._reason[i] if broken > 0.5 else "",
                    since=float(self._since[i]) if broken > 0.5 else None,
                    evidence=found,
                    drifted=drifted > 0.5,
                )
            )
        return tuple(out)

    def drifting(self) -> dict[str, float]:
        """Return log10 of the e-value of each feature that drifts now."""
        _, sized = self._shifts.values()
        which = np.flatnonzero(sized >= Shifts.enough(sized))
        return {self.names[i]: math.log10(sized[i]) for i in map(int, which)}

    def moved(self) -> dict[str, float]:
        """Return log10 of the e-value of each feature that has moved far enough to matter; 0 is enough."""
        _, sized = self._shifts.values()
        return {self.names[i]: math.log10(sized[i]) for i in map(int, np.flatnonzero(sized > 0))}

    def restart(self) -> None:
        """Forget the rows, keep the reference and what is usual: the version serves anew."""
        if self._learning:
            self._pending = []
        else:
            kinds, whole, shifts = self._usual_kinds, self._whole, self._shifts
            self._use(self._ref, shifts.pairs)
            self._learning = False
            self._usual_kinds, self._whole = kinds, whole
            self._shifts.keep(shifts)

    # ---- restarts of the agent

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped, but that learning begins anew: rows are not kept."""
        meta = {
            "reference": reference.words(self._ref),
            "learning": self._learning,
            "last": self._last if math.isfinite(self._last) else None,
            "reason": self._reason,
        }
        return checkpoint.write(
            "features",
            _VERSION,
            meta,
            {
                **reference.arrays(self._ref),
                **pairs.arrays(self._shifts.pairs),
                **self._shifts.state(),
                **self._state(),
            },
        )

    def _state(self) -> dict[str, Any]:
        return {
            "fast": self._fast, "slow": self._slow, "squares": self._squares,
            "magnitudes": self._magnitudes, "usual_kinds": self._usual_kinds, "spent": self._spent,
            "whole": self._whole, "same": self._same, "broken": self._broken,
            "kind": self._kind, "since": self._since, "said_at": self._said_at, "table": self._table,
        }  # fmt: skip

    def load(self, state: bytes) -> None:
        """Take a state that `dump` gave, with its reference; raises Refused when it is damaged."""
        meta, arrays = checkpoint.read("features", _VERSION, state)
        try:
            self._use(reference.restore(meta["reference"], arrays), pairs.restore(arrays))
            self._shifts.restore(arrays)
            mine = self._state()
            if any(arrays[name].shape != mine[name].shape for name in mine):
                raise Refused("state of features does not fit its reference: it is learnt anew")
            self._learning = bool(meta["learning"])
            self._last = -math.inf if meta["last"] is None else float(meta["last"])
            self._reason = [str(reason) for reason in meta["reason"]]
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of features is damaged ({damage}): it is learnt anew") from None
        self._fast, self._slow, self._squares = arrays["fast"], arrays["slow"], arrays["squares"]
        self._magnitudes = arrays["magnitudes"]
        self._usual_kinds, self._whole = arrays["usual_kinds"], arrays["whole"]
        self._same = arrays["same"]
        self._spent = arrays["spent"]
        self._broken, self._kind, self._since = arrays["broken"], arrays["kind"], arrays["since"]
        self._said_at, self._table = arrays["said_at"], arrays["table"]


def _same(magnitudes: FloatArray, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return which shares of rows are the same as the row before (d, 2), and of how many rows (d, 2)."""
    of = np.column_stack((rows, magnitudes[:, NEITHER_ZERO]))
    return magnitudes[:, SAME : SAME_BUT_ZERO + 1] / np.maximum(of, 1.0), of


def _categories(column: Any, values: Mapping[Any, int]) -> Columns:
    """Return the column of each value (n >= 1) of a category; whole numbers are read as people write them."""
    array = np.asarray(column)
    texts: list[Any] = array.tolist()
    if array.dtype.kind in "fiub":
        texts = [None if v != v else f"{v:g}" for v in array.astype(np.float64).tolist()]  # noqa: PLR0124  # NaN
    with contextlib.suppress(KeyError):  # all were seen before: that can be told in half the time
        return np.frombuffer(bytes(operator.itemgetter(*texts[:1], *texts)(values)[1:]), np.uint8)
    out = np.frombuffer(bytearray(map(values.get, texts, itertools.repeat(WRONG))), np.uint8)
    for i in np.flatnonzero(out == WRONG).tolist():
        if not isinstance(texts[i], str):
            out[i] = values.get(str(texts[i]), WRONG)
    return out


def _joined(parts: Sequence[tuple[int, Any]]) -> Any:
    """Put the pieces of one feature together; where it was not there it is missing."""
    arrays = [np.full(n, np.nan) if part is None else np.asarray(part) for n, part in parts]
    if all(a.dtype.kind in "fiub" for a in arrays):
        return np.concatenate([a.astype(np.float64) for a in arrays])
    out: list[Any] = []
    for a in arrays:
        numeric = a.dtype.kind in "fiub"
        out += [None if numeric and v != v else v for v in a.tolist()]  # noqa: PLR0124  # NaN
    return np.array(out, dtype=object)
