"""Who ran on, served and called whom in the past: the graph that goes with the rows of history.

    Walk.learn --(graph is another one than a tick ago)--> GraphPast --> graph-00000003.jsonl
    replay     <------------- GraphTape: up to this moment -------------'

A line is what changed in one tick: entities seen (with attributes) and gone, edges linked and cut. A file begins with
the whole graph, and again after a start or a fault of the disk, so the oldest file may go. Not fsynced, as history is
not: kill -9 costs the last ten seconds, a torn last line is left out.
Cost: a comparison of two numbers a tick; some microseconds for each entity and edge in a tick that changed something.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from agent.model import Edge, Entity, Sighting, entity
from agent.topology import Topology

RECORDED: Final = "recorded"
"""Who tells the edges of a graph that is read back."""
_FLUSH_S: Final = 10.0
_RETRY_S: Final = 30.0
_FILES: Final = 16


class GraphPast:
    """Writes the past of one graph, bounded by age. One process; a disk that is full or gone is tried again."""

    def __init__(self, folder: Path, age_s: float) -> None:
        self._folder = folder
        self._age_s = age_s
        self._file: TextIO | None = None
        self._began = self._flushed = self._failed = -math.inf
        self._revision = -1
        self._attrs: dict[Entity, dict[str, str]] = {}
        self._edges: set[Edge] = set()
        self._dirty = False

    def take(self, now: float, topology: Topology) -> None:
        """Write what has changed since the last tick."""
        if topology.revision == self._revision and (
            not self._dirty or abs(now - self._flushed) < _FLUSH_S
        ):
            return
        if abs(now - self._failed) < _RETRY_S:
            return
        try:
            self._write(now, topology)
        except OSError:  # history says what is wrong with the disk: they lie in one folder
            self._failed = now
            self.close()

    def _write(self, now: float, topology: Topology) -> None:
        if topology.revision != self._revision:
            attrs, edges = topology.whole()
            whole = self._file is None or abs(now - self._began) > self._age_s / _FILES
            if whole:
                self._next_file(now)
                self._attrs, self._edges = {}, set()
            seen = {e: a for e, a in attrs.items() if self._attrs.get(e) != a}
            parts: dict[str, Any] = {
                "whole": whole, "seen": [[e.id, seen[e]] for e in sorted(seen)],
                "gone": sorted(e.id for e in self._attrs.keys() - attrs.keys()),
                "link": _said(edges - self._edges), "cut": _said(self._edges - edges),
            }  # fmt: skip
            said = {name: value for name, value in parts.items() if value}
            if said and self._file is not None:
                self._file.write(json.dumps({"ts": now, **said}, separators=(",", ":")) + "\n")
                self._dirty = True
            self._revision, self._attrs, self._edges = topology.revision, attrs, edges
        if self._file is not None and abs(now - self._flushed) >= _FLUSH_S:
            self._file.flush()
            self._flushed, self._dirty = now, False

    def _next_file(self, now: float) -> None:
        if self._file is not None:
            self._file.close()
        there = _files(self._folder)
        for path, after in itertools.pairwise(there):
            begins = _first(after)
            if begins is not None and begins < now - self._age_s:
                path.unlink(missing_ok=True)
        number = _number(there[-1]) + 1 if there else 1
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"graph-{number:08d}.jsonl"
        self._file = path.open("w", encoding="utf-8", errors="replace")
        path.chmod(0o600)
        self._began = now

    def close(self) -> None:
        """Write what waits and let go of the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file, self._revision = None, -1


class GraphTape:
    """Reads it again, forward only, into a topology; also while it is written."""

    def __init__(self, folder: Path, start: float) -> None:
        there = _files(folder)
        begins = [_first(path) for path in there]
        early = [i for i, ts in enumerate(begins) if ts is not None and ts <= start]
        self._lines = _lines(there[early[-1] if early else 0 :])
        self._next = next(self._lines, None)
        self.found = self._next is not None
        """There is a past of the graph."""

    def wind(self, now: float, topology: Topology) -> None:
        """Make the graph what it was at a moment."""
        while self._next is not None and float(self._next["ts"]) <= now:
            _apply(self._next, topology)
            self._next = next(self._lines, None)


def _apply(line: dict[str, Any], topology: Topology) -> None:
    ts = float(line["ts"])
    seen = [(entity(name), attrs) for name, attrs in line.get("seen", ())]
    gone = [entity(name) for name in line.get("gone", ())]
    link, cut = ({_edge(one) for one in line.get(part, ())} for part in ("link", "cut"))
    if line.get("whole"):
        attrs, edges = topology.whole()
        gone += attrs.keys() - {who for who, _ in seen}
        cut |= edges - link
    for who in gone:
        topology.take(Sighting(who, gone=True))
    for edge in cut:
        topology.unlink(edge)
    for who, told in seen:
        topology.take(Sighting(who, tuple(sorted(told.items()))), RECORDED, ts)
    for edge in sorted(link, key=lambda e: (e.kind, e.src, e.dst)):
        topology.link(edge, RECORDED, ts)


def _said(edges: Iterable[Edge]) -> list[list[str]]:
    return sorted([e.kind, e.src.id, e.dst.id] for e in edges)


def _edge(said: list[str]) -> Edge:
    kind, src, dst = said
    return Edge(kind, entity(src), entity(dst))  # type: ignore[arg-type]  # written by us from an edge


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("graph-*.jsonl"))


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _first(path: Path) -> float | None:
    """Return when a file begins; None when nothing whole stands in it."""
    line = next(_lines([path]), None)
    return float(line["ts"]) if line is not None else None


def _lines(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                for text in file:
                    try:
                        yield json.loads(text)
                    except ValueError:
                        break  # torn: nothing after it is whole
        except FileNotFoundError:
            continue
