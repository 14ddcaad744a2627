"""Rows of several series over time: made, or read from a CSV or parquet file with a column `ts`.

A column is called as a series is written: `service.latency_p95_seconds{service:shop}`. An empty cell: asked and not
answered.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import Refused
from agent.model import FloatArray, Frame, Series, Sighting


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
        names, columns = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except OSError as wrong:
        raise Refused(
            f"{path} can not be read: {wrong.strerror or wrong}; check its rights"
        ) from None
    if "ts" not in names:
        raise Refused(f"{path} has no column `ts`; give each row its unix seconds")
    ts = columns[names.index("ts")]
    if len(ts) == 0 or not np.isfinite(ts).all() or (np.diff(ts) <= 0).any():
        raise Refused(
            f"{path}: `ts` is empty or does not rise; sort the rows by time, each moment once"
        )
    found: dict[Series, FloatArray] = {}
    for name, values in zip(names, columns, strict=True):
        if name == "ts":
            continue
        try:
            found[named(name)] = values
        except (ValueError, KeyError):
            raise Refused(
                f"{path}: no signal is called `{name}`; columns are signals of the catalogue, or signal{{kind:key}}"
            ) from None
    if not found:
        raise Refused(f"{path} has no column beside `ts`; add one for each series")
    series = tuple(sorted(found))
    return Rows(ts, series, np.column_stack([found[s] for s in series]))


def _csv(path: Path) -> tuple[list[str], list[FloatArray]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            lines = (line for line in csv.reader(file) if line)
            names = next(lines, [])
            cells = [np.array([_number(cell) for cell in line], float) for line in lines]
        except (csv.Error, UnicodeDecodeError, ValueError) as wrong:
            raise Refused(
                f"{path} is not a table of numbers: {wrong}; save it as UTF-8 CSV"
            ) from None
    if any(len(line) != len(names) for line in cells):
        raise Refused(f"{path}: a row has not as many cells as the first line has names; mend it")
    return [n.strip() for n in names], list(
        np.array(cells, float).reshape(len(cells), len(names)).T
    )


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


def _parquet(path: Path) -> tuple[list[str], list[FloatArray]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise Refused(f"{path} needs pyarrow: pip install 'homeostat[files]'") from None
    try:
        table = parquet.read_table(path)
        columns = [
            column.cast("float64").to_numpy().astype(np.float64, copy=False)
            for column in table.columns
        ]
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ) as wrong:  # what pyarrow says of a file that is none is a ValueError
        raise Refused(f"{path} is not a table of numbers: {wrong}; write it anew") from None
    return list(table.column_names), columns
