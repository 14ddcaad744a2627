"""The record of everything after the frames: append-only, hash-chained, crash-safe, on SQLite.

    append -> (disk full, locked?) -> waits in memory, in order -> written with the next success
       |
       '-> entry n: hash = sha256(hash of n-1 + canonical JSON of body, kind, subject, ts)

One process writes (a lock file beside the journal sees to that), any number read, also when the writer is dead. SQLite
in WAL mode with synchronous=FULL: an entry that `append` returned has been fsynced and survives kill -9 and power loss.
Triggers refuse UPDATE and DELETE; who drops them leaves a broken chain, which `verify` finds. A chain can not show that
its very end was cut off together with SQLite's own counter: note `head` elsewhere if that matters to you.

Cost: one fsync an append (4 to 16 ms on a plain disk, .1 ms on tmpfs); `append_many` shares it. 600 bytes an entry
plus its body.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import sqlalchemy as sa

from agent.codec import canonical
from agent.errors import ConfigError, Fault, Refused, Unavailable

GENESIS: Final = "0" * 64
"""What the first entry follows."""
_APPLICATION: Final = 0x484F4D45  # "HOME": tells our file from any other SQLite file
_VERSION: Final = 1
_PAGE: Final = (
    500  # rows a query: no reader holds a transaction open for long, so the WAL can be folded back
)
_BUSY_MS: Final = 2000
_REST_S: Final = (
    1.0  # a broken disk is tried once a second, not at each entry: the daemon's loop waits for it
)

_meta: Final = sa.MetaData()
_entries: Final = sa.Table(
    "journal",
    _meta,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("ts", sa.Float, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("prev", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("journal_kind", "kind", "subject", "seq"),
    sa.Index("journal_subject", "subject", "seq"),
    sa.Index("journal_ts", "ts"),
    sqlite_autoincrement=True,  # SQLite then remembers the highest seq there ever was
)
_GUARDS: Final = tuple(
    f"CREATE TRIGGER journal_no_{what.lower()} BEFORE {what} ON journal "
    "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
    for what in ("UPDATE", "DELETE")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record.

    seq      from 1, without gaps
    subject  what it is about: an incident, run, entity or person, by kind
    body     JSON-able, as it came out of JSON
    prev     hash of the entry before; hash: of this one, with prev in it
    """

    seq: int
    ts: float
    kind: str
    subject: str
    body: dict[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Break:
    """One place where the record is not as it was written; seq 0 = the file as a whole."""

    seq: int
    problem: str

    def __str__(self) -> str:
        return f"entry {self.seq}: {self.problem}" if self.seq else self.problem


class Unwritten(Unavailable):
    """The disk did not take the entries. They are kept in memory, in order, and written with the next success."""

    def __init__(self, message: str, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        super().__init__(message, wait_s=_REST_S)


def _digest(prev: str, ts: float, kind: str, subject: str, body: str) -> str:
    """Hash an entry; the text is `canonical({"body", "kind", "subject", "ts"})` without parsing body again."""
    head = canonical({"kind": kind, "subject": subject, "ts": ts})
    return hashlib.sha256(f'{prev}{{"body":{body},{head[1:]}'.encode()).hexdigest()


def _plain(text: str) -> str:
    """Replace what UTF-8 can not carry (file and process names may hold any byte)."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode={mode}"
    made = sqlite3.connect(uri, uri=True, timeout=_BUSY_MS / 1000, check_same_thread=False)
    try:
        made.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        if mode != "ro":
            made.execute("PRAGMA journal_mode=WAL")
            made.execute("PRAGMA synchronous=FULL")
    except BaseException:
        made.close()
        raise
    return made


def _wrong(path: Path, problem: str, remedy: str) -> ConfigError:
    return ConfigError([Fault(str(path), 0, 0, problem, remedy)])


_AWAY: Final = (
    "nothing was changed; move it away (a new journal is begun) or bring it back from a backup"
)


def _reason(error: Exception) -> str:
    """Return the database's own words, without SQLAlchemy's around them."""
    return str(getattr(error, "orig", None) or error)


class JournalReader:
    """A journal that is only read: by the CLI, next to a live daemon or after its death.

    Raises ConfigError for a file that is missing, damaged or no journal, Unavailable when it can not be opened now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise _wrong(path, "there is no journal here", "say where the state folder is: --state")
        self._engine = self._open("ro")
        self._check()

    def _open(self, mode: str) -> sa.Engine:
        return sa.create_engine("sqlite://", creator=lambda: _connect(self.path, mode),
                                poolclass=sa.pool.QueuePool, pool_size=2, max_overflow=8)  # fmt: skip

    def _check(self) -> None:
        """Tell a damaged or foreign file apart before anything is done with it."""
        try:
            with self._engine.connect() as c:
                application = c.scalar(sa.text("PRAGMA application_id"))
                version = c.scalar(sa.text("PRAGMA user_version"))
                health = c.scalar(sa.text("PRAGMA quick_check(1)"))
        except (sa.exc.OperationalError, sqlite3.OperationalError) as error:
            self._engine.dispose()
            raise Unavailable(
                f"the journal {self.path} can not be opened ({_reason(error)}): look at its rights and at the disk"
            ) from error
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            self._engine.dispose()
            raise _wrong(
                self.path, f"this is no healthy journal ({_reason(error)})", _AWAY
            ) from error
        if health != "ok":
            self._engine.dispose()
            raise _wrong(self.path, f"the journal is damaged ({health})", _AWAY)
        if application != _APPLICATION:
            self._engine.dispose()
            raise _wrong(self.path, "this is an SQLite file, but no journal of ours", _AWAY)
        if version != _VERSION:
            self._engine.dispose()
            raise _wrong(
                self.path,
                f"the journal has format {version}, this homeostat knows {_VERSION}",
                "run the homeostat that wrote it",
            )

    # ---- reading

    def read(
        self,
        kinds: Iterable[str] | None = None,
        subject: str | None = None,
        since: float = 0.0,
        limit: int | None = None,
        *,
        newest_first: bool = False,
        before: int | None = None,
    ) -> Iterator[Entry]:
        """Yield entries in the order in which they were written, or the other way round.

        kinds, subject  only these; since: only with ts >= since; limit: at most so many; before: only seq < before
        Pages of 500: entries that are appended meanwhile are seen too. Raises Unavailable.
        """
        wanted = None if kinds is None else tuple(kinds)
        query = sa.select(_entries)
        if wanted is not None:
            query = query.where(_entries.c.kind.in_(wanted))
        if subject is not None:
            query = query.where(_entries.c.subject == subject)
        if since > 0:
            query = query.where(_entries.c.ts >= since)
        if before is not None:
            query = query.where(_entries.c.seq < before)
        query = query.order_by(_entries.c.seq.desc() if newest_first else _entries.c.seq)
        left = math.inf if limit is None else limit
        at: int | None = None
        while left > 0:
            page = query if at is None else query.where(
                _entries.c.seq < at if newest_first else _entries.c.seq > at
            )  # fmt: skip
            size = int(min(_PAGE, left))
            rows = self._rows(page.limit(size))
            for row in rows:
                yield _entry(row)
            if len(rows) < size:
                return
            at, left = rows[-1].seq, left - len(rows)

    def page(self, after: int, limit: int) -> list[Entry]:
        """Return the next entries with seq > after, of those on disk. Raises Unavailable."""
        query = sa.select(_entries).where(_entries.c.seq > after).order_by(_entries.c.seq)
        return [_entry(row) for row in self._rows(query.limit(limit))]

    def latest(self, kind: str, limit: int | None = None) -> Iterator[Entry]:
        """Yield the newest entry of each subject of a kind, oldest first; with `limit`, of the newest subjects only."""
        newest = (
            sa.select(sa.func.max(_entries.c.seq).label("seq"))
            .where(_entries.c.kind == kind)
            .group_by(_entries.c.subject)
            .order_by(sa.text("seq DESC"))
        )
        if limit is not None:
            newest = newest.limit(limit)
        seqs = sorted(row.seq for row in self._rows(newest))
        for start in range(0, len(seqs), _PAGE):
            some = sa.select(_entries).where(_entries.c.seq.in_(seqs[start : start + _PAGE]))
            for row in self._rows(some.order_by(_entries.c.seq)):
                yield _entry(row)

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        try:
            with self._engine.connect() as c:
                return c.execute(query).fetchall()
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise Unavailable(
                f"the journal {self.path} can not be read ({_reason(error)}): look at the disk"
            ) from error

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last entry on disk: who notes it elsewhere can prove that nothing was cut off."""
        rows = self._rows(
            sa.select(_entries.c.seq, _entries.c.hash).order_by(_entries.c.seq.desc()).limit(1)
        )
        return (rows[0].seq, rows[0].hash) if rows else (0, GENESIS)

    def verify(self) -> list[Break]:
        """Read everything and return where it was altered, cut, reordered or added to; empty = as it was written.

        Cost: about 5 us an entry and 1 us a kB of body.
        """
        found: list[Break] = []
        health = self._rows(sa.text("PRAGMA quick_check(10)"))  # type: ignore[arg-type]  # a pragma is no select
        found += [Break(0, f"the file is damaged: {row[0]}") for row in health if row[0] != "ok"]
        seq, prev = 0, GENESIS
        while rows := self._rows(
            sa.select(_entries).where(_entries.c.seq > seq).order_by(_entries.c.seq).limit(_PAGE)
        ):
            for row in rows:
                found += _look(row, seq, prev)
                seq, prev = row.seq, row.hash
        highest = self._rows(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'journal'"))  # type: ignore[arg-type]  # as above
        if highest and highest[0][0] > seq:
            found.append(Break(seq + 1, f"{_range(seq + 1, highest[0][0])} missing at the end"))
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Journal(JournalReader):
    """The journal of a daemon: read and appended to.

    path   made when it is not there, mode 0600
    room   how many entries may wait in memory while the disk does not take them

    Raises ConfigError for a file that is damaged or no journal (it is left as it is), Refused when another process
    writes it, Unavailable when it can not be made or opened now.
    """

    def __init__(self, path: Path, *, room: int = 20_000) -> None:
        self.path = path
        self._room = room
        self._waiting: deque[tuple[Entry, str]] = deque()
        self._rest_until = -math.inf
        self._why = ""
        self._guard = threading.Lock()
        self._together = 0
        self._lock = _take(path)
        try:
            self._make()
            self._engine = self._open("rw")
            self._check()
            self._last_seq, self._last_hash = self.head
        except BaseException:
            os.close(self._lock)
            raise

    @staticmethod
    def reader(path: Path) -> JournalReader:
        """Open a journal for reading only; works next to a live daemon and after its death."""
        return JournalReader(path)

    def _make(self) -> None:
        """Make the file with its schema, or nothing of it; an existing one only loses rights of others."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"the journal {self.path} can not be opened ({error.strerror}): look at its rights and at the disk"
            ) from error
        try:
            state = os.fstat(fd)
            if state.st_mode & 0o077:
                os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
        engine = self._open("rw")
        try:
            if state.st_size and not self._bare(engine):
                return
            with engine.begin() as c:
                # pysqlite opens a transaction only before INSERT: without this each statement stood alone
                c.exec_driver_sql("BEGIN IMMEDIATE")
                _meta.create_all(c)
                for guard in _GUARDS:
                    c.exec_driver_sql(guard)
                c.exec_driver_sql(f"PRAGMA application_id={_APPLICATION}")
                c.exec_driver_sql(f"PRAGMA user_version={_VERSION}")
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise Unavailable(
                f"the journal {self.path} can not be made ({_reason(error)}): make room on the disk"
            ) from error
        finally:
            engine.dispose()

    @staticmethod
    def _bare(engine: sa.Engine) -> bool:
        """Tell whether the file holds no table at all: its making was cut off, nothing can be lost."""
        try:
            with engine.connect() as c:
                return not c.scalar(sa.text("SELECT count(*) FROM sqlite_master"))
        except (sa.exc.DatabaseError, sqlite3.DatabaseError):
            return False  # `_check` says what is wrong with it

    # ---- writing

    def append(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> Entry:
        """Write one entry and return it when it is on disk.

        Raises Unwritten (an Unavailable; `.entries` has it) when the disk does not take it: it waits in memory.
        ValueError or TypeError for a body that JSON can not carry.
        """
        return self.append_many([(kind, subject, body, ts)])[0]

    def append_many(self, items: Sequence[tuple[str, str, dict[str, Any], float]]) -> list[Entry]:
        """Write several entries with one fsync: all of them or none."""
        with self._guard:
            if len(self._waiting) + len(items) > self._room:
                raise Unavailable(
                    f"the journal {self.path} can not be written ({self._why}) and {len(self._waiting)} entries wait "
                    "in memory already: this one is lost; make room on the disk"
                )
            made = [self._chain(*item) for item in items]
            if self._together != threading.get_ident():
                self._write(made)
            return made

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write what this thread appends inside with one fsync at the end: a crash leaves all of it, or nothing.

        Nothing that rests on an entry may leave the process before the end. Raises Unwritten at the end, as `append`.
        """
        me = threading.get_ident()
        if self._together == me:
            yield
            return
        self._together = me
        try:
            yield
        except BaseException:
            self._together = 0
            self.flush()
            raise
        self._together = 0
        with self._guard:
            self._write([])

    def flush(self) -> int:
        """Try to write what waits; returns how many still wait. Never raises."""
        with self._guard, contextlib.suppress(Unwritten):
            self._write([])
        return len(self._waiting)

    @property
    def pending(self) -> int:
        """How many entries wait in memory; 0 = all is on disk."""
        return len(self._waiting)

    def proven(self) -> bool:
        """Tell whether the disk takes entries, by writing a few bytes that mean nothing: one fsync, no entry."""
        with self._guard:
            if self._waiting or time.monotonic() < self._rest_until:
                return False
            try:
                with self._engine.begin() as c:
                    # rewrites the header of the file, also when the number is the same
                    c.exec_driver_sql(f"PRAGMA user_version = {_VERSION}")
            except (sa.exc.DBAPIError, sqlite3.Error) as error:
                self._why = _reason(error)
                self._engine.dispose()
                return False
            return True

    def _chain(self, kind: str, subject: str, body: dict[str, Any], ts: float) -> Entry:
        when = float(ts)
        if not math.isfinite(when):
            raise ValueError(f"an entry of kind {kind} on {subject} has no time: {ts!r}")
        text, kind, subject = _plain(canonical(body)), _plain(kind), _plain(subject)
        prev = self._last_hash
        entry = Entry(
            self._last_seq + 1, when, kind, subject, json.loads(text), prev,
            _digest(prev, when, kind, subject, text),
        )  # fmt: skip
        self._last_seq, self._last_hash = entry.seq, entry.hash
        self._waiting.append((entry, text))
        return entry

    def _write(self, new: Sequence[Entry]) -> None:
        """Write all that waits, in one transaction; on failure it goes on waiting."""
        if not self._waiting:
            return
        if time.monotonic() >= self._rest_until and self._insert():
            return
        raise Unwritten(
            f"the journal {self.path} can not be written ({self._why}): {len(self._waiting)} entries wait in memory; "
            "make room on the disk or mend its rights",
            new,
        )

    def _insert(self) -> bool:
        rows = [
            {"seq": e.seq, "ts": e.ts, "kind": e.kind, "subject": e.subject, "body": text,
             "prev": e.prev, "hash": e.hash}
            for e, text in self._waiting
        ]  # fmt: skip
        try:
            with self._engine.begin() as c:
                c.execute(sa.insert(_entries), rows)
        except sa.exc.IntegrityError as error:
            raise Refused(
                f"somebody else has written to the journal {self.path} ({_reason(error)}): end the other writer and "
                "start again"
            ) from error
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            self._why = _reason(error)
            self._rest_until = time.monotonic() + _REST_S
            # a connection that saw an I/O error may stay broken: the next try gets a new one
            self._engine.dispose()
            return False
        self._waiting.clear()
        self._rest_until, self._why = -math.inf, ""
        return True

    def read(
        self,
        kinds: Iterable[str] | None = None,
        subject: str | None = None,
        since: float = 0.0,
        limit: int | None = None,
        *,
        newest_first: bool = False,
        before: int | None = None,
    ) -> Iterator[Entry]:
        """Yield entries as `JournalReader.read` does; those that still wait in memory stand last in time."""
        wanted = None if kinds is None else tuple(kinds)
        waiting = [
            entry
            for entry, _ in list(self._waiting)
            if (wanted is None or entry.kind in wanted)
            and (subject is None or entry.subject == subject)
            and entry.ts >= since
            and (before is None or entry.seq < before)
        ]
        left = math.inf if limit is None else limit
        if newest_first:
            for entry in reversed(waiting):
                if left <= 0:
                    return
                left -= 1
                yield entry
        seen = 0
        rest = None if limit is None else int(left)
        for entry in super().read(
            wanted, subject, since, rest, newest_first=newest_first, before=before
        ):
            left -= 1
            seen = max(seen, entry.seq)
            yield entry
        for entry in [] if newest_first else waiting:
            if left > 0 and entry.seq > seen:
                left -= 1
                yield entry

    def close(self) -> None:
        """Try once more to write what waits, fold the WAL back, and let others write."""
        self._rest_until = -math.inf
        self.flush()
        super().close()
        with contextlib.suppress(OSError):  # closed before
            os.close(self._lock)


def _take(path: Path) -> int:
    """Let only one process write a journal; returns the lock's descriptor. It ends with the process."""
    lock = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            f"the lock {lock} can not be made ({error.strerror}): look at the rights of the folder and at the disk"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Refused(
            f"another process writes the journal {path}: stop it, or give this one a state folder of its own"
        ) from None
    return fd


def _entry(row: sa.Row[Any]) -> Entry:
    try:
        body = json.loads(row.body)
    except ValueError as error:
        raise Refused(
            f"entry {row.seq} of the journal was altered: its body is no JSON ({error}); see homeostat audit verify"
        ) from None
    return Entry(row.seq, row.ts, row.kind, row.subject, body, row.prev, row.hash)


def _range(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _look(row: sa.Row[Any], seq: int, prev: str) -> list[Break]:
    """Compare one entry with itself and with the one before."""
    found = []
    if row.seq != seq + 1:
        found.append(Break(seq + 1, f"{_range(seq + 1, row.seq - 1)} missing"))
    elif row.prev != prev:
        found.append(
            Break(row.seq, "does not follow the entry before it: one of the two was replaced, moved or put in")
        )  # fmt: skip
    if any(isinstance(part, bytes) for part in row) or (
        _digest(row.prev, row.ts, row.kind, row.subject, row.body) != row.hash
    ):
        found.append(Break(row.seq, "was altered: its contents do not give its hash"))
    return found
