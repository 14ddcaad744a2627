"""Error budgets: how fast objectives with a `target` use up what they may miss, in several windows at once.

    frames -> every series that such an objective is over: bad and all, in cells of a minute and of an hour
           -> burn of a window = bad share of it / (1 - target)       1 = the budget lasts just as long as `over`
           -> the smaller burn of a long and a short window: high only while it has burnt much, and burns on
           -> a frame of our own source, over which `agent.objectives` lays the limits

What is counted is requests, where the signal is a share of them and their rate is known, else seconds. Time of which
nothing is known uses up no budget: a burn is a lower bound, and with nothing known in the short window it is unknown.
The pairs of windows, and what share of the budget each may use up, are those of the multi-window, multi-burn-rate
alerts in "The Site Reliability Workbook" (Beyer et al., 2018), chapter 5.

No clock: time is in the frames. Cost: 13 kB a series, one addition a frame, sums over the cells every ten seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from agent import checkpoint
from agent.catalogue import SIGNALS
from agent.model import Entity, FloatArray, Frame, IntArray, Series
from agent.objectives import PAIRS, Aim
from agent.world import World

log = structlog.get_logger()

SOURCE: Final = "objectives"
"""Name of the source of our signals."""
EVERY_S: Final = 10.0
PATIENCE_S: Final = 3 * EVERY_S + 1.0
MOST: Final = 500
"""So many series are counted; more objectives with targets than that are an accident of globs."""
_MINUTE_S, _HOUR_S = 60.0, 3600.0
_MINUTES: Final = 361
"""Six hours, and the minute that is going on."""
_LONGEST_S: Final = 120.0
"""A row speaks for the time since the one before it, at most for so long."""
_FREE: Final = 2.0
"""So many bad requests in a window are nobody's evidence: where few come, one would be a large share."""
_RATES: Final = {"service": "service.requests_per_second", "model": "model.predictions_per_second"}
_KIND, _VERSION = "objectives", 1


class _Cells:
    """What was bad, what there was, and how many seconds are known, (m, cells) each, in a ring of time."""

    def __init__(self, cell_s: float, cells: int) -> None:
        self.cell_s = cell_s
        self.sums = np.zeros((3, 0, cells))
        self.newest = -1

    def grow(self, m: int) -> None:
        """Make room for m series."""
        more = m - self.sums.shape[1]
        self.sums = np.concatenate([self.sums, np.zeros((3, more, self.sums.shape[2]))], axis=1)

    def at(self, ts: float) -> int:
        """Return the column of an instant; what is older than the ring is forgotten."""
        now, cells = int(ts // self.cell_s), self.sums.shape[2]
        if now > self.newest:
            gone = np.arange(max(self.newest + 1, now - cells + 1), now + 1) % cells
            self.sums[:, :, gone] = 0.0
            self.newest = now
        return max(now, self.newest - cells + 1) % cells

    def over(self, window_s: float) -> FloatArray:
        """Return bad, all, known (3, m) of the newest cells that make up a window, and of the one that goes on."""
        cells = min(int(window_s // self.cell_s) + 1, self.sums.shape[2])
        columns = np.arange(self.newest - cells + 1, self.newest + 1) % self.sums.shape[2]
        found: FloatArray = self.sums[:, :, columns].sum(axis=2)
        return found


@dataclass(slots=True)
class _Table:
    """Which columns of a source are counted. rate: the series that weighs them, None = time does."""

    series: tuple[Series, ...]
    columns: IntArray
    rows: IntArray
    low: FloatArray
    high: FloatArray
    rates: list[Series | None]
    share: IntArray
    """0 = inside its limit or not; 1 = the value is the bad share; -1 = the good one."""
    last: float = math.nan


class ErrorBudgets:
    """The budgets of one config. `aims` are its objectives with a target."""

    def __init__(self, aims: Sequence[Aim] = ()) -> None:
        self._aims = tuple(aims)
        self._rows: dict[tuple[Aim, Series], int] = {}
        self._tables: dict[str, _Table] = {}
        longest = max((a.over_s for a in aims), default=_HOUR_S)
        self._minutes = _Cells(_MINUTE_S, _MINUTES)
        self._hours = _Cells(_HOUR_S, int(max(longest, PAIRS[-1].long_s) // _HOUR_S) + 1)
        self._series: tuple[Series, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        self._told = -math.inf

    def take(self, now: float, frames: Sequence[Frame], world: World) -> Frame | None:
        """Count frames; returns our own frame when it is due, None before and where no objective has a target.

        world   already knows the frames: the rates that weigh them are read there
        """
        if not self._aims:
            return None
        ahead = self._minutes.newest * _MINUTE_S - now
        if ahead > _MINUTE_S:  # the clock was set back while we were not there
            self.rebase(-ahead)
        for frame in frames:
            self._count(frame, world)
        if not self._rows or 0.0 <= now - self._told < EVERY_S:
            return None
        self._told = now
        self._minutes.at(now)
        self._hours.at(now)
        return Frame(SOURCE, now, self._series, self._values()[self._order])

    def _count(self, frame: Frame, world: World) -> None:
        table = self._tables.get(frame.source)
        if table is None or table.series is not frame.series:
            last = table.last if table is not None else math.nan
            table = self._tables[frame.source] = self._lay(frame.series)
            table.last = last
        last, table.last = table.last, frame.ts
        if not len(table.columns) or not frame.ts > last:
            return
        seconds = min(frame.ts - last, _LONGEST_S)
        x = frame.values[table.columns]
        with np.errstate(invalid="ignore"):
            bad = np.where(
                table.share == 0,
                ((x > table.high) | (x < table.low)).astype(float),
                np.clip(np.where(table.share > 0, x, 1.0 - x), 0.0, 1.0),
            )
        rates = [1.0 if rate is None else world.get(rate) for rate in table.rates]
        many = np.array([np.nan if rate is None else max(rate, 0.0) for rate in rates]) * seconds
        known = ~np.isnan(x) & ~np.isnan(many)
        rows, many = table.rows[known], many[known]
        added = np.stack([bad[known] * many, many, np.full(len(rows), seconds)])
        for cells in (self._minutes, self._hours):
            cells.sums[:, rows, cells.at(frame.ts)] += added

    def _lay(self, series: tuple[Series, ...]) -> _Table:
        """Find which objective is over which column."""
        at = {s: i for i, s in enumerate(series)}
        found: list[tuple[Aim, int]] = []
        laid: set[tuple[str, Series]] = (
            set()
        )  # the same may be stated for a service and for all of them
        for aim in self._aims:
            for i, one in enumerate(series):
                if not aim.over(one) or (aim.name, one) in laid:
                    continue
                laid.add((aim.name, one))
                if (aim, one) not in self._rows and len(self._rows) >= MOST:
                    log.warning(
                        "error_budgets_full", most=MOST, objective=aim.name, not_counted=str(one)
                    )
                    break
                self._rows.setdefault((aim, one), len(self._rows))
                found.append((aim, i))
        self._grow()
        aims = [aim for aim, _ in found]
        return _Table(
            series,
            np.array([i for _, i in found], dtype=np.int64),
            np.array([self._rows[aim, series[i]] for aim, i in found], dtype=np.int64),
            np.array([aim.low for aim in aims]),
            np.array([aim.high for aim in aims]),
            [_rate(aim, series[i].entity, at) for aim, i in found],
            np.array([_share(aim) for aim in aims], dtype=np.int64),
        )

    def _grow(self) -> None:
        self._minutes.grow(len(self._rows))
        self._hours.grow(len(self._rows))
        named = [s for aim, one in self._rows for s in _signals(aim, one)]
        order = sorted(range(len(named)), key=named.__getitem__)
        if len(named) != len(self._series):
            self._series = tuple(named[i] for i in order)
            self._order = np.array(order, dtype=np.int64)

    def _values(self) -> FloatArray:
        """Return (m * (pairs + 1),): of each series its burns, shortest window first, and what is left."""
        aims = [aim for aim, _ in self._rows]
        may = np.array([1.0 - aim.target for aim in aims])
        counted = np.array([_share(aim) != 0 for aim in aims])
        burns = [
            np.minimum(self._burn(p.long_s, may, counted), self._burn(p.short_s, may, counted))
            for p in PAIRS
        ]
        left = np.empty(len(aims))
        for over in {aim.over_s for aim in aims}:
            mine = np.array([aim.over_s == over for aim in aims])
            left[mine] = 1.0 - self._burn(over, may, np.zeros_like(counted))[mine]
        return np.stack([*burns, left], axis=1).ravel()

    def _burn(self, window_s: float, may: FloatArray, counted: FloatArray) -> FloatArray:
        """Return (m,) how many times faster than it may the budget was used up; NaN = nothing is known."""
        cells = self._minutes if window_s < _MINUTES * _MINUTE_S else self._hours
        bad, every, known = cells.over(window_s)
        bad = np.where(counted, np.maximum(bad - _FREE, 0.0), bad)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(every > 0.0, bad / every, 0.0)
            burn = share * np.minimum(known / window_s, 1.0) / may
        found: FloatArray = np.where(known > 0.0, burn, np.nan)
        return found

    # ---- over restarts

    def rebase(self, jump: float) -> None:
        """Move with a wall clock that was set: what was counted is as old as it was, to a cell."""
        for cells in (self._minutes, self._hours):
            if cells.newest >= 0:
                moved = round(jump / cells.cell_s)
                cells.sums = np.roll(cells.sums, moved, axis=2)
                cells.newest += moved
        self._told += jump
        for table in self._tables.values():
            table.last += jump

    def reload(self, aims: Sequence[Aim]) -> ErrorBudgets:
        """Return the budgets of a new config; what its objectives have used up already stays used up."""
        fresh = ErrorBudgets(aims)
        if self._rows:
            fresh.load(self.dump())
        return fresh

    def dump(self) -> bytes:
        """Return what was counted, for the next start; b"" when nothing was."""
        if not self._rows:
            return b""
        meta = {
            "rows": [
                [aim.name, one.metric, one.entity.kind, one.entity.key, one.labels]
                for aim, one in self._rows
            ],
            "newest": [self._minutes.newest, self._hours.newest],
        }
        arrays = {"minutes": self._minutes.sums, "hours": self._hours.sums}
        return checkpoint.write(_KIND, _VERSION, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take back what `dump` gave: of objectives that are still stated. Raises Refused when it is damaged."""
        meta, arrays = checkpoint.read(_KIND, _VERSION, state)
        lives = (arrays["hours"][2] > 0.0).any(axis=1)
        kept = []
        for i, (name, metric, kind, key, labels) in enumerate(meta["rows"]):
            one = Series(metric, Entity(kind, key), tuple((k, v) for k, v in labels))
            # of two services that state the same, each has its own
            aim = next((a for a in self._aims if a.name == name and a.over(one)), None)
            if aim is not None and lives[i]:
                kept.append((aim, one, i))
        self._rows = {(aim, one): k for k, (aim, one, _) in enumerate(kept)}
        self._tables = {}
        for cells, name, newest in zip(
            (self._minutes, self._hours), ("minutes", "hours"), meta["newest"], strict=True
        ):
            old, size = arrays[name][:, [i for *_, i in kept], :], cells.sums.shape[2]
            cells.sums = np.zeros((3, len(kept), size))
            cells.newest = newest
            # the newest cells that both rings have room for
            when = np.arange(newest - min(size, old.shape[2]) + 1, newest + 1)
            cells.sums[:, :, when % size] = old[:, :, when % old.shape[2]]
        self._grow()


def _signals(aim: Aim, one: Series) -> list[Series]:
    """Return the series that we tell of one that is counted, as `_values` orders them."""
    kind = one.entity.kind
    labels = {**dict(one.labels), "objective": aim.name}
    burns = [
        Series(f"{kind}.error_budget_burn_ratio", one.entity, tuple(sorted({**labels, "window": p.name}.items())))
        for p in PAIRS
    ]  # fmt: skip
    left = Series(f"{kind}.error_budget_left_ratio", one.entity, tuple(sorted(labels.items())))
    return [*burns, left]


def _share(aim: Aim) -> int:
    if not (math.isnan(aim.low) and math.isnan(aim.high)):
        return 0
    return 1 if SIGNALS[aim.signal].better == "low" else -1


def _rate(aim: Aim, entity: Entity, at: dict[Series, int]) -> Series | None:
    """Return the rate that weighs a share: that of the same source, which is as old as the share itself."""
    rate = Series(_RATES[entity.kind], entity)
    return rate if _share(aim) != 0 and rate in at else None
