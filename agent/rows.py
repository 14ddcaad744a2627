"""Rows of several series over time: made, or read from a CSV or parquet file with a column `ts`.

A column is called as a series is written: `service.latency_p95_seconds{service:shop}`. An empty cell: asked and not
answered. `ts` is unix seconds, milli-, micro- or nanoseconds (told by their size), or a time with its date; one that
names no zone is UTC.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.errors import Refused
from agent.imports import lacking
from agent.model import FloatArray, Frame, Series, Sighting
from agent.strict import did_you_mean
from agent.units import ticks_a_second

Check = Callable[[Sequence[str]], None]
_A_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FEW: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """ts (k,) seconds, rising; values (k, n), NaN = asked and not answered."""

    ts: FloatArray
    series: tuple[Series, ...]
    values: FloatArray

    def frames(self, source: str, seen: tuple[Sighting, ...] = ()) -> Iterator[Frame]:
        """Yield a frame a row; the first one tells who is there."""
        for i, ts in enumerate(self.ts):
            yield Frame(source, float(ts), self.series, self.values[i], seen if i == 0 else ())

    def read(
        self, series: Sequence[Series], start: float, end: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return what was between two moments, as history does."""
        at = (self.ts >= start) & (self.ts <= end)
        columns = [self.series.index(s) if s in self.series else -1 for s in series]
        wide = np.column_stack([self.values, np.full(len(self.ts), np.nan)])
        return self.ts[at], wide[at][:, columns]

    def moved(self) -> list[Series]:
        """Return the series that do not stay where they were at first."""
        first = self.values[0]
        still = (self.values == first) | np.isnan(self.values)
        return [s for s, stays in zip(self.series, still.all(axis=0), strict=True) if not stays]


def from_file(path: Path, named: Callable[[str], Series], *, most_bytes: float) -> Rows:
    """Read a file; `named` reads the head of a column, and raises ValueError or KeyError. Raises Refused."""
    try:
        if not path.is_file():
            raise Refused(f"{path} is not there; record it, or correct its name")
        if path.stat().st_size > most_bytes:
            raise Refused(
                f"{path} is larger than {most_bytes / 2**20:.0f} MiB; cut what you need out of it"
            )
        read = _parquet if path.suffix == ".parquet" else _csv
        # what is wrong with the heads is told before what is wrong with the values below them
        names, columns = read(path, lambda heads: _check(path, heads, named))
    except OSError as wrong:
        raise Refused(
            f"{path} can not be read: {wrong.strerror or wrong}; check its rights"
        ) from None
    found = {named(n): c for n, c in zip(names, columns, strict=True) if n != "ts"}
    ts = _in_seconds(columns[names.index("ts")])
    if wrong_row := _not_rising(ts):
        raise Refused(f"{path}: {wrong_row}")
    series = tuple(sorted(found))
    return Rows(ts, series, np.column_stack([found[s] for s in series]))


def _check(path: Path, heads: Sequence[str], named: Callable[[str], Series]) -> None:
    """Raise Refused with all that is wrong with the heads of the columns."""
    if "ts" not in heads:
        there = f"its columns are {_few([f'`{n}`' for n in heads])}; " if heads else "it is empty; "
        raise Refused(f"{path} has no column `ts`: {there}call the one with the time of a row `ts`")
    if len(heads) == 1:
        raise Refused(f"{path} has no column beside `ts`; add one for each series")
    seen: set[Series | str] = set()
    faults = []
    for head in heads:
        try:
            one = "ts" if head == "ts" else named(head)
        except KeyError:
            meant = did_you_mean(head.partition("{")[0].strip(), SIGNALS)
            faults.append(f"no signal is called `{head}`" + (f", {meant}" if meant else ""))
            continue
        except ValueError as wrong:
            faults.append(str(wrong))
            continue
        if one in seen:
            faults.append(f"`{head}` is there twice")
        seen.add(one)
    if faults:
        raise Refused(
            f"{path}: {_few(faults)}; columns are called as series are written: signal{{kind:key}}"
        )


def _in_seconds(ts: FloatArray) -> FloatArray:
    """Return unix seconds of what may be in smaller units, all rows in the same."""
    known = ts[np.isfinite(ts)]
    return ts / ticks_a_second(float(known[-1])) if len(known) else ts


def _not_rising(ts: FloatArray) -> str:
    """Say at which row time does not go on, and what to do; "" = it does."""
    if len(ts) == 0:
        return "there is no row below the names of its columns; record some, or name another file"
    missing, back = np.flatnonzero(~np.isfinite(ts)), np.flatnonzero(np.diff(ts) <= 0)
    if len(missing):
        return f"row {missing[0] + 1} has no `ts`; give each row its time"
    if not len(back):
        return ""
    i = int(back[0]) + 1
    said = f"`ts` does not rise: row {i + 1} is of {ts[i]:.15g}"
    if ts[i] == ts[i - 1]:
        return f"{said} as the row before; keep one row of each moment"
    return f"{said}, the row before it of {ts[i - 1]:.15g}; sort the rows by time"


def _few(said: Sequence[str]) -> str:
    more = f" and {len(said) - _FEW} more" if len(said) > _FEW else ""
    return ", ".join(said[:_FEW]) + more


def _csv(path: Path, check: Check) -> tuple[list[str], list[FloatArray]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            names = [name.strip() for name in next(filter(None, reader), [])]
            check(names)
            cells = [np.array(_cells(line, names)) for line in reader if line]
        except (csv.Error, UnicodeDecodeError) as wrong:
            raise Refused(
                f"{path} is not a table of numbers: {wrong}; save it as UTF-8 CSV"
            ) from None
        except ValueError as wrong:
            raise Refused(f"{path}, line {reader.line_num}: {wrong}") from None
    return names, list(np.array(cells, float).reshape(len(cells), len(names)).T)


def _cells(line: Sequence[str], names: Sequence[str]) -> list[float]:
    """Return the numbers of a line; raises ValueError."""
    if len(line) != len(names):
        raise ValueError(f"{len(line)} cells below {len(names)} names of columns; mend the row")
    out = []
    for name, cell in zip(names, line, strict=True):
        try:
            out.append(_moment(cell) if name == "ts" else _number(cell))
        except ValueError:
            wanted = (
                "no time; write unix seconds or 2026-11-23T14:00:00Z"
                if name == "ts"
                else "no number; leave empty what is not known"
            )
            raise ValueError(f"column `{name}`: {cell!r} is {wanted}") from None
    return out


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


def _moment(cell: str) -> float:
    """Read a number, or a date with a time, of UTC where no zone stands; raises ValueError."""
    try:
        return _number(cell)
    except ValueError:
        when = datetime.fromisoformat(cell.strip())
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _parquet(path: Path, check: Check) -> tuple[list[str], list[FloatArray]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise Refused(lacking(f"{path} needs pyarrow", "files")) from None
    try:
        table = parquet.read_table(path)
    except (TypeError, ValueError, NotImplementedError) as wrong:
        # what pyarrow says of a file that is none is a ValueError
        raise Refused(f"{path} can not be read as parquet: {wrong}; write it anew") from None
    names = list(table.column_names)
    check(names)
    columns = []
    for name, column in zip(names, table.columns, strict=True):
        try:
            columns.append(_moments(column) if name == "ts" else _numbers(column))
        except (TypeError, ValueError, NotImplementedError) as wrong:
            raise Refused(
                f"{path}: column `{name}` holds no numbers: {wrong}; write it as float64"
            ) from None
    return names, columns


def _numbers(column: Any) -> FloatArray:
    # not safe: whole nanoseconds since 1970 lose their last digits, which nobody misses
    return np.asarray(column.cast("float64", safe=False).to_numpy(), float)


def _moments(column: Any) -> FloatArray:
    """Return the times of a column: of type timestamp, text, or number."""
    kind = str(column.type)
    if kind.startswith("timestamp["):
        # without a zone it counts from 1970 in UTC, too
        return _numbers(column.cast("int64")) / _A_SECOND[column.type.unit]
    if kind in {"string", "large_string"}:
        return np.array([_moment(cell or "") for cell in column.to_pylist()], float)
    return _numbers(column)
