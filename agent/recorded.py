"""History that somebody else may still be writing: read only, in order of time, all series at once.

    blocks-*.hist, ahead-*.log --> Recorded.stretches(from, to) --> [(source, Rows), ...], ten minutes at a time

`History` owns its files: it mends and seals what it opens. This opens them for reading, looks at logs first and then
at blocks, so that what is sealed meanwhile is found in one of both, and changes nothing. A file that goes while it is
read stays readable. Cost: 15 us a column of ten minutes; memory for one stretch.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from agent._blocks import (
    BLOCK,
    NAMES,
    Block,
    Key,
    generation_of,
    read_block,
    records,
    unpack_names,
    unpack_rows,
)
from agent.errors import Refused
from agent.model import FloatArray, IntArray, Series
from agent.rows import Rows

Stretch = Sequence[tuple[str, Rows]]
"""Rows of several sources over about the same span of time."""


class Recorded:
    """The history of a state folder, as it was when this was opened. Raises Refused when there is none.

    damaged   blocks that could not be read
    """

    def __init__(self, folder: Path) -> None:
        self.damaged = 0
        self._fds: list[int] = []
        self._blocks: list[tuple[int, Block, dict[Key, int]]] = []
        self._tables: dict[str, tuple[Series, ...]] = {}
        try:
            logs = [
                (int(p.stem.partition("-")[2]), self._open(p))
                for p in sorted(folder.glob("ahead-*.log"))
            ]
            sealed = max((self._take(p) for p in sorted(folder.glob("blocks-*.hist"))), default=0)
            self._ahead = [
                piece for number, fd in logs if number > sealed for piece in self._logged(fd)
            ]
        except PermissionError as closed:
            self.close()
            raise Refused(
                f"{closed.filename} may not be read; run it as the daemon's user or root"
            ) from None
        except BaseException:
            self.close()
            raise
        spans = [(b.t0, b.t1) for _, b, _ in self._blocks]
        spans += [(float(rows.ts[0]), float(rows.ts[-1])) for _, rows in self._ahead]
        if not spans:
            raise Refused(
                f"no history lies in {folder}; name the state folder of a daemon (--state), or give a file"
            )
        self.start, self.end = min(a for a, _ in spans), max(b for _, b in spans)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def stretches(self, start: float, end: float) -> Iterator[Stretch]:
        """Yield what was between two moments, in order of time; without series that never answered."""
        for fd, block, names in sorted(self._blocks, key=lambda one: one[1].t0):
            if block.t1 < start or block.t0 > end:
                continue
            wanted: dict[str, dict[int, int]] = {}
            series = {}
            for (source, one), number in names.items():
                wanted.setdefault(source, {})[number] = number
                series[source, number] = one
            try:
                pieces = read_block(fd, block, wanted)
            except (zlib.error, ValueError, struct.error):
                self.damaged += 1
                continue
            found = []
            for source, ts, ids, values in pieces:
                whose = [series[source, i] for i in ids.tolist()]
                found += self._cut(source, Rows(ts, tuple(whose), values), start, end)
            yield found
        ahead = []
        for source, rows in self._ahead:
            ahead += self._cut(source, rows, start, end)
        if ahead:
            yield ahead

    def _cut(self, source: str, rows: Rows, start: float, end: float) -> list[tuple[str, Rows]]:
        ts, series, values = rows.ts, rows.series, rows.values
        at = np.flatnonzero((ts >= start) & (ts <= end))
        at = at[np.argsort(ts[at], kind="stable")]
        known = np.flatnonzero(~np.isnan(values[at]).all(axis=0))
        if not len(known) or not len(at):
            return []
        order = sorted(known.tolist(), key=lambda i: series[i])
        table = tuple(series[i] for i in order)
        # the same object while it stays the same: a change of table costs a detector far more than a row
        if self._tables.get(source) == table:
            table = self._tables[source]
        self._tables[source] = table
        return [(source, Rows(ts[at], table, np.ascontiguousarray(values[at][:, order])))]

    def _open(self, path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def _take(self, path: Path) -> int:
        """Note the blocks of a file; returns the newest log that they hold."""
        try:
            fd = self._open(path)
        except FileNotFoundError:  # too old, and gone since we looked
            return 0
        names: dict[Key, int] = {}
        sealed = 0
        for kind, offset, length, t0, t1 in records(fd, os.fstat(fd).st_size, check=False):
            if kind == NAMES:
                try:
                    names.update(unpack_names(os.pread(fd, length, offset)))
                except (zlib.error, ValueError):
                    self.damaged += 1
            elif kind == BLOCK:
                self._blocks.append((fd, Block(offset, length, t0, t1), names))
                sealed = max(sealed, generation_of(fd, offset))
        return sealed

    def _logged(self, fd: int) -> list[tuple[str, Rows]]:
        """Return the rows of a log, those of one source and table together."""
        names: dict[int, Series] = {}
        parts: dict[tuple[str, tuple[int, ...]], list[tuple[FloatArray, FloatArray]]] = {}
        for kind, offset, length, _, _ in records(fd, os.fstat(fd).st_size, check=True):
            payload = os.pread(fd, length, offset)
            if kind == NAMES:
                names.update({i: one for (_, one), i in unpack_names(payload).items()})
                continue
            source, ids, ts, values = unpack_rows(payload)
            parts.setdefault((source, tuple(ids.tolist())), []).append((ts, values))
        out = []
        for (source, numbers), pieces in parts.items():
            ts = np.concatenate([one for one, _ in pieces])
            values = np.concatenate([many for _, many in pieces])
            # an instant that was written twice: the later word counts
            last = _last(ts)
            out.append((source, Rows(ts[last], tuple(names[i] for i in numbers), values[last])))
        return out


def _last(ts: FloatArray) -> IntArray:
    """Return the place of the last row of each instant, in order of time."""
    order = np.argsort(ts, kind="stable")
    newest = np.append(ts[order][1:] != ts[order][:-1], True)
    found: IntArray = order[newest]
    return found
