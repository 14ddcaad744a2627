"""Lines on disk until somebody has taken them: segments of about a megabyte, the oldest first, bounded.

    append (fsync) -> 0000000017.ndjson <- oldest() -> taken -> done() unlinks it

What `append` returned from survives kill -9 and power loss; a line that was cut off in the middle was never promised
and is passed over. A segment is given whole until `done`, so after a crash lines may be given again: who takes them
must know them again. When all segments are larger than they may be, the oldest go, and their lines are counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent.errors import Unavailable

_SEGMENT: Final = 1 << 20


class Spool:
    """A folder of segments that one process writes and reads, from any thread.

    lines, size   what waits; dropped: lines that went unread, since the start
    """

    def __init__(self, folder: Path, most_bytes: float) -> None:
        self._folder = folder
        self._most = most_bytes
        self.dropped = 0
        self._segments: dict[Path, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.ndjson")) if folder.is_dir() else ():
            data = path.read_bytes()
            self._segments[path] = len(data), data.count(b"\n")
        self._number = max((int(p.stem) for p in self._segments), default=0)
        self._current: Path | None = None
        self._lock = threading.RLock()

    @property
    def lines(self) -> int:
        """How many lines wait."""
        return sum(n for _, n in self._segments.values())

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return sum(size for size, _ in self._segments.values())

    def append(self, lines: Sequence[bytes]) -> None:
        """Put lines (without a break in them) on disk; raises Unavailable, and has then put none."""
        if lines:
            with self._lock:
                self._append(lines)

    def _append(self, lines: Sequence[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        if self._current is None or self._segments[self._current][0] >= _SEGMENT:
            self._number += 1
            self._current = self._folder / f"{self._number:010d}.ndjson"
            self._segments[self._current] = 0, 0
        path = self._current
        size, count = self._segments[path]
        try:
            _put(path, data, size)
        except OSError as wrong:
            if not size:
                del self._segments[path]
            self._current = None  # what is at its end is not known: the next lines go elsewhere
            raise Unavailable(
                f"{self._folder} can not be written: {wrong.strerror}; make room on the disk"
            ) from None
        self._segments[path] = size + len(data), count + len(lines)
        while self.size > self._most and len(self._segments) > 1:
            oldest = next(iter(self._segments))
            self.dropped += self._segments[oldest][1]
            self.done(oldest)

    def oldest(self) -> tuple[Path, list[bytes]] | None:
        """Return the oldest segment with its lines; nothing is appended to it any more."""
        with self._lock:
            return self._oldest()

    def _oldest(self) -> tuple[Path, list[bytes]] | None:
        while self._segments:
            path = next(iter(self._segments))
            if path == self._current:
                self._current = None
            try:
                whole, _, _ = path.read_bytes().rpartition(b"\n")
            except OSError:
                whole = b""
            if whole:
                return path, whole.split(b"\n")
            self.done(path)
        return None

    def newest(self) -> list[bytes]:
        """Return the lines that were put last, as long as they wait."""
        with self._lock, contextlib.suppress(OSError):
            for path in reversed(self._segments):
                return path.read_bytes().rpartition(b"\n")[0].splitlines()
        return []

    def done(self, path: Path) -> None:
        """Let go of a segment."""
        with self._lock:
            self._segments.pop(path, None)
            if path == self._current:
                self._current = None
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


class Dead:
    """What can never be delivered, with the reason: two files, of which the older one is replaced.

    count   lines in them, and of those that were replaced since the start
    """

    def __init__(self, folder: Path, most_bytes: int = 4 << 20) -> None:
        self.path = folder / "dead.ndjson"
        self._old = folder / "dead.1.ndjson"
        self._most = most_bytes // 2
        self._replaced = 0
        self._size, self._lines = _measured(self.path)
        self._old_lines = _measured(self._old)[1]

    @property
    def count(self) -> int:
        """How many there are; 0 once a person has taken the files away."""
        if self._lines + self._old_lines and not self.path.exists():
            self._size = self._lines = self._old_lines = self._replaced = 0
            self._old.unlink(missing_ok=True)
        return self._lines + self._old_lines + self._replaced

    def put(self, body: Mapping[str, Any], now: float | None = None) -> None:
        """Keep one; a disk that does not take it must not hold up the others."""
        ts = time.time() if now is None else now
        data = json.dumps({"ts": round(ts, 3), **body}, ensure_ascii=False).encode() + b"\n"
        with contextlib.suppress(OSError):
            if self._size and self._size + len(data) > self._most:
                self.path.replace(self._old)
                self._replaced += self._old_lines
                self._old_lines, self._size, self._lines = self._lines, 0, 0
            _put(self.path, data, self._size)
            self._size += len(data)
        self._lines += 1


def _measured(path: Path) -> tuple[int, int]:
    try:
        data = path.read_bytes()
    except OSError:
        return 0, 0
    return len(data), data.count(b"\n")


def _put(path: Path, data: bytes, at: int) -> None:
    """Write at the end of a file that is `at` bytes long, whole or not at all, and fsync."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        place = at
        while left:
            written = os.pwrite(handle, left, place)
            place, left = place + written, left[written:]
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, at)
        raise
    finally:
        os.close(handle)
    if not at:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
