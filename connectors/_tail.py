"""Reading on in a log file that others write, rotate and truncate.

    tail = Tail(path)
    lines, where = tail.read(None, 1000, backlog_bytes=16 << 20)
    lines, where = tail.read(where, 1000)          # and so on; `where` is all the state there is

Nothing is remembered but the position, so a reading whose lines were lost is simply made again.
"""

from __future__ import annotations

import os
import stat
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.errors import Refused, Unavailable

_CHUNK: Final = 1 << 18
_HEAD: Final = 256
MOST_LINE_BYTES: Final = 1 << 20
_QUIET_READS: Final = 2
"""A rotated file is left when it has given nothing so often: a writer may hold it for a moment longer."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far we are, always at the beginning of a line (or inside one that is skipped).

    inode, head   which file: its number, and the crc of its first `head_bytes`: numbers are given away again
    skipping      inside a line that is too long to be read
    quiet         how often this file has given nothing since another one took its name
    dropped       lines that were too long, and pieces that a rotation cut off, so far
    """

    inode: int
    offset: int
    head_bytes: int = 0
    head: int = 0
    skipping: bool = False
    quiet: int = 0
    dropped: int = 0

    def pack(self) -> dict[str, Any]:
        """Return what is kept on disk."""
        return {"inode": self.inode, "offset": self.offset, "head_bytes": self.head_bytes,
                "head": self.head, "skipping": self.skipping}  # fmt: skip


def unpack(data: Any) -> Position | None:
    """Read what `Position.pack` gave; None when it is damaged."""
    try:
        numbers = [int(data[name]) for name in ("inode", "offset", "head_bytes", "head")]
        if min(numbers) < 0:
            return None
        inode, offset, head_bytes, head = numbers
        return Position(inode, offset, head_bytes, head, skipping=bool(data["skipping"]))
    except (KeyError, TypeError, ValueError):
        return None


class Tail:
    """One log file by its name.

    Rotation (the name goes to another file): the old one is read to its end first, also when we were not there.
    Truncation and rewriting in place: read from the start again. A last line without its end waits for it.
    Cost: one stat and two reads when there is nothing new.
    """

    def __init__(self, path: Path, most_line_bytes: int = MOST_LINE_BYTES) -> None:
        self.path = path
        self._most = most_line_bytes
        self._handle = -1
        self._inode = -1

    def read(
        self, where: Position | None, most_lines: int, *, backlog_bytes: int = 0
    ) -> tuple[list[bytes], Position | None]:
        """Return up to `most_lines` whole lines after `where`, and where to go on.

        where None: first sight, begin at most `backlog_bytes` before the end. Returns None as position while there
        is no such file. Raises Unavailable when it cannot be read now, Refused when it is no regular file.
        """
        try:
            if not self._open(where):
                return [], where
            if where is None or where.inode != self._inode:
                where = self._begin(backlog_bytes if where is None else -1)
            return self._read(where, most_lines)
        except OSError as wrong:
            self.close()
            raise Unavailable(f"{self.path} cannot be read: {wrong.strerror}") from None

    def first_line(self) -> bytes:
        """Return the first line of the file that is open, which names the columns of a table; b"" = not whole yet."""
        head = os.pread(self._handle, _CHUNK, 0) if self._handle >= 0 else b""
        line, end, _ = head.partition(b"\n")
        return line if end else b""

    def close(self) -> None:
        """Give the descriptor back."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = self._inode = -1

    # ---- which file

    def _open(self, where: Position | None) -> bool:
        """Have the file open that `where` is in, else the one that has the name now; False = there is none."""
        if self._handle >= 0 and (where is None or where.inode == self._inode):
            return True
        self.close()
        if where is not None:
            for path in (self.path, *self._siblings()):
                if _inode(path) == where.inode and self._take(path):
                    if self._inode == where.inode and self._same(where):
                        return True
                    self.close()
        return self._take(self.path)

    def _siblings(self) -> list[Path]:
        """Return where rotation may have put the file: names that begin with its own."""
        try:
            found = [
                Path(entry.path)
                for entry in os.scandir(self.path.parent)
                if entry.name.startswith(self.path.name) and entry.name != self.path.name
            ]
        except FileNotFoundError:
            return []
        return sorted(found)

    def _take(self, path: Path) -> bool:
        try:
            # not blocking: a named pipe without a writer must not hold us
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            os.close(handle)
            raise Refused(f"{path} is no regular file: only files that grow can be followed")
        self._handle, self._inode = handle, about.st_ino
        return True

    def _same(self, where: Position) -> bool:
        """Tell whether the open file begins as the one did that `where` is in, and is as long at least."""
        head = os.pread(self._handle, where.head_bytes, 0)
        return (
            len(head) == where.head_bytes
            and zlib.crc32(head) == where.head
            and os.fstat(self._handle).st_size >= where.offset
        )

    def _begin(self, backlog_bytes: int) -> Position:
        """Return the start of the open file, or the line that begins at most `backlog_bytes` (>= 0) before its end."""
        size = os.fstat(self._handle).st_size
        if backlog_bytes < 0 or size <= backlog_bytes:
            return Position(self._inode, 0)
        # one byte earlier, so that a line that begins exactly there is not taken for the rest of one
        return Position(
            self._inode, max(0, size - backlog_bytes - 1), skipping=size > backlog_bytes
        )

    # ---- what is in it

    def _read(self, where: Position, most_lines: int) -> tuple[list[bytes], Position]:
        if not self._same(where):  # truncated or rewritten in place
            where = Position(self._inode, 0, dropped=where.dropped)
        lines: list[bytes] = []
        held = b""
        at = where.offset
        while len(lines) < most_lines:
            part = os.pread(self._handle, _CHUNK, at)
            at += len(part)
            if not part:
                break
            held += part
            if where.skipping:
                end = held.find(b"\n")
                step = len(held) if end < 0 else end + 1
                where = replace(where, offset=where.offset + step, skipping=end < 0)
                held = held[step:]
            whole = held.rfind(b"\n") + 1
            if whole:
                taken = held[: whole - 1].split(b"\n", most_lines - len(lines))
                if len(taken) > most_lines - len(lines):
                    taken.pop()  # more than was asked for: it is read again
                lines += taken
                step = sum(map(len, taken)) + len(taken)
                where = replace(where, offset=where.offset + step, quiet=0)
                held = held[step:]
            if len(held) > self._most and b"\n" not in held:
                where = replace(
                    where, offset=where.offset + len(held), skipping=True, dropped=where.dropped + 1
                )
                held = b""
        if not lines and self._left():
            return self._leave(where, held)
        return lines, self._marked(where)

    def _marked(self, where: Position) -> Position:
        """Return the position with as much of the file's head as there is, for knowing it again."""
        if where.head_bytes >= _HEAD:
            return where
        head = os.pread(self._handle, _HEAD, 0)
        return replace(where, head_bytes=len(head), head=zlib.crc32(head))

    def _left(self) -> bool:
        """Tell whether another file has taken the name."""
        now = _inode(self.path)
        return now is not None and now != self._inode

    def _leave(self, where: Position, rest: bytes) -> tuple[list[bytes], Position]:
        """Go over to the new file once the old one stays quiet; what it ends with is its last line."""
        if where.quiet + 1 < _QUIET_READS:
            return [], self._marked(replace(where, quiet=where.quiet + 1))
        self.close()
        if not self._take(self.path):
            return ([rest] if rest else []), where
        return ([rest] if rest else []), Position(self._inode, 0, dropped=where.dropped)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
