"""Where the engine keeps the boxes of runs: a file of its own by default, or a PostgreSQL database.

    store = store_of(state / "runs.sqlite", config.runs)
    store.hold()       one process carries out the runs of a store: two would both act
    store.prepare()    look whether it can be used
    store.settings()   what the engine is told of it

The journal stays on the host, so a run is known there whatever becomes of the store. In a database each installation
has a schema of its own: agents that share the server do not see each other's runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from agent.config import Runs
from agent.errors import Refused, Unavailable
from agent.secret import secret

_UNFINISHED: Final = ("PENDING", "ENQUEUED", "DELAYED")
_CONNECT_S: Final = 5


class RunsStore(Protocol):
    """One place that holds runs."""

    name: str
    """As people know it, without secrets: `the file of runs /var/lib/homeostat/runs.sqlite`."""
    remedy: str
    """What to look at when it can not be used."""

    def hold(self) -> None:
        """Keep other processes out until `release`; again and again is once. Raises Refused, Unavailable."""
        ...

    def release(self) -> None:
        """Let others in."""
        ...

    def prepare(self) -> None:
        """Make it ready for the engine. Raises Unavailable, Refused when it can not be used."""
        ...

    def unfinished(self) -> bool:
        """Whether it holds a run that is not at its end; False when it can not be asked: the launch tells that."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what the engine's configuration says of it; holds secrets, not to be printed."""
        ...


def store_of(path: Path, wanted: Runs) -> RunsStore:
    """Return the store that agent.yaml asks for: the file `path`, unless it names a database."""
    return RunsDatabase(wanted.database, wanted.db_schema) if wanted.database else RunsFile(path)


class RunsFile:
    """An SQLite file, mode 0600, beside the journal."""

    remedy = "look at its rights and at the disk"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"the file of runs {path}"
        self._lock: int | None = None

    def hold(self) -> None:
        """Take the lock file beside it."""
        if self._lock is not None:
            return
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"{self.name} can not be opened ({error.strerror}): {self.remedy}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Refused(
                f"another process carries out the runs of {self.path}: stop it first"
            ) from None
        self._lock = lock

    def release(self) -> None:
        """Let the lock file go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def prepare(self) -> None:
        """Set the write-ahead log, which the file keeps: one fsync a box instead of three."""
        try:
            with contextlib.closing(sqlite3.connect(self.path)) as c:
                c.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"{self.name} can not be opened ({error}): look at the disk"
            ) from error
        except sqlite3.DatabaseError as error:
            raise Refused(
                f"{self.name} is damaged ({error}): move it away and start again; runs are taken up from the journal "
                "and nothing is done twice"
            ) from error

    def unfinished(self) -> bool:
        """Ask the file, without the engine."""
        if not self.path.exists():
            return False
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True)
            ) as c:
                found = c.execute(
                    "SELECT 1 FROM workflow_status WHERE status IN (?, ?, ?) LIMIT 1", _UNFINISHED
                ).fetchone()
        except sqlite3.Error:
            return False  # no such table yet, or damaged
        return found is not None

    def settings(self) -> dict[str, Any]:
        """Return where it is."""
        return {"system_database_url": f"sqlite:///{self.path}"}


class RunsDatabase:
    """A schema in a PostgreSQL database.

    where    `postgresql://user@host:5432/database`, or a reference to it (`env:NAME`, `file:PATH`)
    schema   of this installation alone; made when it is not there

    That one process alone carries out its runs is an advisory lock of a connection that stays open meanwhile. A server
    that is restarted lets go of it; whoever takes it then finds the runs of a process that may still be alive, and
    `hold` of the former is refused from then on. What was begun is not repeated: the intents are in its journal.
    """

    remedy = "look at the server, and at `runs:` in agent.yaml"

    def __init__(self, where: str, schema: str) -> None:
        self.where = where
        self.schema = schema
        self.name = f"the database of runs (schema {schema})"
        self._engine: sa.Engine | None = None
        self._held: sa.Connection | None = None

    def _url(self) -> str:
        url = secret(self.where)
        parts = urlsplit(url)
        if parts.scheme.partition("+")[0] not in {"postgresql", "postgres"}:
            raise Refused(
                f"{self.name}: `runs: database` means no PostgreSQL address: write postgresql://user@host/database"
            )
        self.name = f"the database of runs {parts.hostname or 'of this host'}{parts.path} (schema {self.schema})"
        return "postgresql+psycopg" + url[url.index("://") :]

    def _connect(self) -> sa.Connection:
        try:
            if self._engine is None:
                self._engine = sa.create_engine(
                    self._url(), poolclass=sa.NullPool, connect_args={"connect_timeout": _CONNECT_S}
                )
            return self._engine.connect()
        except DBAPIError as error:
            raise self._away(error) from error

    def _away(self, error: DBAPIError) -> Unavailable:
        said = str(error.orig).strip().splitlines()
        return Unavailable(
            f"{self.name} can not be used ({said[0] if said else '?'}): {self.remedy}"
        )

    def hold(self) -> None:
        """Take the advisory lock of the schema."""
        if self._held is not None and not self._lost(self._held):
            return
        self.release()
        held = self._connect()
        try:
            mine = held.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key()})
            held.commit()
        except DBAPIError as error:
            held.close()
            raise self._away(error) from error
        if not mine:
            held.close()
            raise Refused(f"another process carries out the runs of {self.name}: stop it first")
        self._held = held

    def _lost(self, held: sa.Connection) -> bool:
        try:
            held.execute(sa.text("SELECT 1"))
            held.commit()
        except DBAPIError:
            return True
        return False

    def _key(self) -> int:
        """Return the lock's number: 63 bits, the same for the same schema."""
        return int.from_bytes(hashlib.sha256(f"homeostat:{self.schema}".encode()).digest()[:8]) >> 1

    def release(self) -> None:
        """Let the lock and the connection go."""
        held, self._held = self._held, None
        engine, self._engine = self._engine, None
        with contextlib.suppress(DBAPIError):
            if held is not None:
                held.invalidate()
                held.close()
        if engine is not None:
            engine.dispose()

    def prepare(self) -> None:
        """See whether it answers; the engine makes its tables."""
        with self._connect():
            pass

    def unfinished(self) -> bool:
        """Ask the table of runs, without the engine."""
        table = sa.table("workflow_status", sa.column("status"), schema=self.schema)
        try:
            with self._connect() as c:
                asked = sa.select(table.c.status).where(table.c.status.in_(_UNFINISHED)).limit(1)
                return c.execute(asked).first() is not None
        except (Unavailable, DBAPIError):
            return False

    def settings(self) -> dict[str, Any]:
        """Return where it is; the address may hold a password."""
        return {"system_database_url": self._url(), "dbos_system_schema": self.schema}
