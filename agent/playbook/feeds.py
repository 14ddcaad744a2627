"""Frames of a test: made from a few words, or read from a recorded file.

    feed: {series: {gpu.clock_ratio: {ramp: [0.95, 0.5], from: 2m, to: 5m, noise: 0.01}}}
    feed: thermal_ramp.csv            # ts,gpu.clock_ratio,gpu.clock_ratio{gpu:other}

Around the target stands a small example of a world: a host, a GPU, a process, a service with its model, version and
feature, so that signals of relatives are found as in a real one. Deterministic: noise comes from the seed.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.errors import Refused
from agent.model import Edge, EdgeKind, Entity, EntityKind, FloatArray, Frame, Series, Sighting
from agent.playbook.trial import Feed, Wave, notation

_KEYS: Final[Mapping[EntityKind, str]] = {
    "host": "example", "gpu": "example", "process": "boot/4711/1", "service": "example", "replica": "example/0",
    "model": "example", "version": "example/1", "feature": "example/f", "dependency": "example:5432",
    "source": "example",
}  # fmt: skip
_PARENTS: Final[tuple[tuple[EdgeKind, EntityKind, EntityKind], ...]] = (
    ("runs_on", "gpu", "host"), ("runs_on", "process", "gpu"), ("runs_on", "process", "host"),
    ("serves", "process", "service"), ("runs_on", "service", "host"), ("serves", "replica", "service"),
    ("serves", "service", "model"), ("version_of", "version", "model"), ("feeds", "feature", "model"),
    ("calls", "service", "dependency"),
)  # fmt: skip
_MOST_BYTES: Final = 64 << 20


def example(kind: EntityKind) -> Entity:
    """Return the entity of a kind in the example world."""
    return Entity(kind, _KEYS[kind])


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


def rows(feed: Feed, folder: Path) -> Rows:
    """Return the rows of a feed; raises Refused when its file can not be read."""
    return _made(feed) if feed.file is None else _recorded(folder / feed.file)


def onset(feed: Feed, found: Rows) -> float:
    """Return when the trouble begins: said, or when the first series begins to move, or after a third of it."""
    if feed.onset is not None:
        return float(found.ts[0]) + feed.onset
    begins = [w.at if w.at is not None else w.from_ for w in feed.series.values()]
    length = float(found.ts[-1] - found.ts[0])
    return float(found.ts[0]) + min((b for b in begins if b is not None), default=length / 3)


def sightings(
    series: tuple[Series, ...], attrs: Mapping[Entity, Mapping[str, str]]
) -> tuple[Sighting, ...]:
    """Return who is there: the example world, and peers hung on the same parents.

    Who is only named (by `cause.entity`) is a stranger on the same host.
    """
    measured = dict.fromkeys([*map(example, _KEYS), *(s.entity for s in series)])
    out = []
    for one in measured | dict.fromkeys(attrs):
        said = {"name": "example", "pid": "4711"} if one.kind == "process" else {}
        said |= attrs.get(one, {})
        edges = tuple(
            Edge(kind, one, example(dst))
            for kind, src, dst in _PARENTS
            if src == one.kind and (one in measured or dst == "host")
        )
        out.append(Sighting(one, tuple(sorted(said.items())), edges))
    return tuple(out)


def _series(text: str) -> Series:
    signal, about, labels = notation(text)
    kind = SIGNALS[signal].entity_kind
    return Series(signal, about or example(kind), labels)  # type: ignore[arg-type]  # the catalogue's kinds


def _made(feed: Feed) -> Rows:
    ts = np.arange(0.0, feed.for_ + feed.every / 2, feed.every)
    columns = {
        _series(text): _wave(wave, ts, feed.seed, text) for text, wave in feed.series.items()
    }
    series = tuple(sorted(columns))
    return Rows(ts, series, np.column_stack([columns[s] for s in series]))


def _wave(wave: Wave, ts: FloatArray, seed: int, text: str) -> FloatArray:
    if wave.step is not None:
        out = np.where(ts < (wave.at or 0.0), *wave.step)
    elif wave.ramp is not None:
        out = np.interp(ts, [wave.from_ or 0.0, wave.to or 0.0], wave.ramp)
    else:
        out = np.full(len(ts), wave.value)
    # each series has noise of its own, and keeps it when others are added
    noise = np.random.default_rng([seed, zlib.crc32(text.encode())]).normal(0.0, 1.0, len(ts))
    definition = SIGNALS[notation(text)[0]]
    out = out + wave.noise * noise
    if wave.noise:
        out = np.clip(out, definition.least, definition.most)
    if wave.missing is not None:
        start, end = wave.missing
        out[(ts >= start) & (ts < end)] = np.nan
    return out.astype(np.float64)


def _recorded(path: Path) -> Rows:
    try:
        if not path.is_file():
            raise Refused(f"{path} is not there; record it, or correct `feed:`")
        if path.stat().st_size > _MOST_BYTES:
            raise Refused(
                f"{path} is larger than {_MOST_BYTES >> 20} MiB; cut what the test needs out of it"
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
            found[_series(name)] = values
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
            names, *lines = [line for line in csv.reader(file) if line] or [[]]
            cells = [[_number(cell) for cell in line] for line in lines]
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
            np.array([math.nan if v is None else float(v) for v in column.to_pylist()], float)
            for column in table.columns
        ]
    except (
        TypeError,
        ValueError,
    ) as wrong:  # what pyarrow says of a file that is none is a ValueError
        raise Refused(f"{path} is not a table of numbers: {wrong}; write it anew") from None
    return list(table.column_names), columns
