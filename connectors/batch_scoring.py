"""Batch-scoring runs: the files that a job writes, their rows as predictions, and whether it came, when, and whole.

    folder of files  --look (5 s)-->  runs: new, settled, oldest first
                     --read------->  rows in pieces of `max_rows_per_read` -> predictions and labels
                     --poll------->  model.run_*: age, late, missed, rows, short, schema

A run is one file, or one folder of part files. Written over in place, it is the next run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Final, cast
from zoneinfo import ZoneInfo

import numpy as np
import structlog
from pydantic import AfterValidator, Field

from agent import roles
from agent.cron import Cron
from agent.errors import AgentError, Refused, Unavailable
from agent.model import Entity, Frame, Series
from agent.ports import Arrival, PredictionBatch
from agent.reference import Maker, read_json
from agent.registry import connector
from agent.roles import Guess, Role
from agent.units import Duration, Ratio, many, say_duration
from connectors._aside import Aside
from connectors._kept import Kept
from connectors._personal import Personal, Settings
from connectors._rows import Form, Rows, Task, texts
from connectors._runs import lateness, rhythm, usual_rows
from connectors._tables import SUFFIXES, Damaged, Table, open_table

log = structlog.get_logger()

_PATIENCE_S: Final = 1.8
_LOOK_EVERY_S: Final = 5.0
_BLIND_S: Final = 60.0
_AGAIN_S: Final = 330.0
"""How far to go back after a kill: a little more than the time between checkpoints of what takes the rows."""
_MOST_RUNS: Final = 500
_ADOPTED: Final = 3
"""So many runs in a row of a new form are the new form."""
_METRICS: Final = (
    "model.run_age_seconds", "model.run_late_seconds", "model.run_missed", "model.run_rows_count",
    "model.run_rows_ratio", "model.run_schema_wrong", "model.run_short",
)  # fmt: skip


def _cron(text: str) -> str:
    if text:
        Cron(text)
    return text


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its files, when it was written (unix seconds), how large it is (bytes)."""

    path: Path
    ts: float
    size: int
    parts: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """What tells it from others, also from one that was written over it."""
        return f"{self.path}|{self.ts:.6f}|{self.size}"


@dataclass(slots=True)
class _Past:
    """What is remembered of a run: rows NaN = it was there before us and was not read."""

    key: str
    ts: float
    rows: float = math.nan
    wrong: str = ""
    read_at: float = 0.0


@dataclass(slots=True)
class _Piece:
    """What one reading gave, and what is true once it was taken."""

    arrivals: list[Arrival] = field(default_factory=list)
    row: int = 0
    ended: _Past | None = None


@connector("batch_scoring")
class BatchScoring:
    """The files that a batch-scoring job writes.

    Source   model.run_* of each job: late, missed, short, wrong columns; NaN = not known yet
    Feed     its rows as predictions of the time column, else of the time the run was written; labels beside them

    Good for jobs that write a new file (parquet, CSV, JSON lines; a folder of parts counts as one) a run, or write over
    the same one. Not for logs that grow: see `predictions`. Roles of columns are guessed once, from the first run
    (`homeostat try`), and kept; `columns:` in the config wins. Reading goes on where it was after a stop; after a kill
    runs of the last minutes are read again, and rows without an id count twice. A run that cannot be read is said
    and left. Cost: 2 to 16 us a row of 20 columns, in a thread; pyarrow takes up to 100 MB.
    """

    tested = "parquet, CSV and JSONL files"

    class Config(Settings):
        """Which files, and when they should come."""

        path: Path
        """Files or folders of runs; `*` in any part of it: /data/scores/day=*/part.parquet."""
        model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
        """Model whose runs these are; a column with the role `model` says it by row."""
        version: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""
        task: Task = "auto"
        """What predictions and labels are; auto: fractions are numbers, all else are classes."""
        columns: dict[str, str] = {}
        """Column -> role, where the guess is wrong: id, ts, prediction, probability, label, feature, ignore, ..."""
        schedule: Annotated[str, AfterValidator(_cron)] = ""
        """Cron line of five fields; empty: the usual gap is learnt from five runs."""
        timezone: str = ""
        """Of the cron line; empty: UTC."""
        grace: Duration = 900.0
        """How late a run may be before it is."""
        min_rows: Annotated[int, Field(ge=0)] = 0
        """Fewer rows are too few."""
        short: Ratio = 0.5
        """So is less than this share of the median of past runs; 0 = never."""
        settle: Annotated[Duration, Field(ge=0)] = 10.0
        """A file is a run when it has not changed for so long, or `_SUCCESS` lies in its folder."""
        backlog: Annotated[int, Field(ge=0)] = 1
        """How many of the runs that are there at first sight are read."""
        reference: Path | None = None
        """What the version is used to: a reference.json, or the rows it was trained on."""
        max_rows_per_read: Annotated[int, Field(ge=1, le=200_000)] = 10_000

    interval_s = 1.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        try:
            zone = ZoneInfo(config.timezone) if config.timezone else UTC
            self._cron = Cron(config.schedule, zone) if config.schedule else None
        except (ValueError, KeyError) as wrong:
            raise Refused(f"{name}: timezone {config.timezone!r}: {wrong}") from None
        self._personal = Personal.of(config, name, state)
        self._aside = Aside(limit_s=_PATIENCE_S)
        model = Entity("model", config.model)
        self._series = tuple(Series(metric, model, (("run", name),)) for metric in _METRICS)
        self._kept = Kept(state / "feeds" / f"{name}.json" if state is not None else None)
        self._past: list[_Past] = []
        self._schema: dict[str, str] = {}
        self._other: tuple[dict[str, str], int] = ({}, 0)
        self._form: Form | None = None
        self._guesses: tuple[Guess, ...] = ()
        self._first = True
        self._begun: tuple[str, int] = ("", 0)
        self._restore()
        # for what the side thread and the event loop both change; never held while a file is asked
        self._lock = Lock()
        self._waiting: list[Run] = []
        self._looked_at = -math.inf
        self._trouble = ""
        self._pieces: Iterator[_Piece] | None = None
        self._piece: _Piece | None = None
        self._reference: dict[str, Any] | None = None
        self._reference_read = config.reference is None

    # ---- what was known before

    def _restore(self) -> None:
        found = self._kept.found
        if not found:
            return
        try:
            past = [
                _Past(p["key"], p["ts"], _nan(p["rows"]), p["wrong"], p["read_at"])
                for p in found["past"]
            ]
            self._schema = dict(found["schema"])
            if found["form"]:
                self._form = Form(
                    dict(found["form"]["roles"]),
                    found["form"]["numbers"],
                    found["form"]["positive"],
                )
            begun = str(found["begun"][0]), int(found["begun"][1])
            written = float(found["ts"])
        except (KeyError, TypeError, ValueError, IndexError):
            log.warning(
                "positions_not_read",
                file=self.name,
                error="not understood",
                remedy="begins as at first sight",
            )
            return
        self._first = False
        if self._kept.clean:
            self._past, self._begun = past, begun
        else:  # what took the rows has forgotten the last ones, too
            self._past = [p for p in past if p.read_at < written - _AGAIN_S]

    def _state(self) -> dict[str, Any]:
        form = self._form
        return {
            "past": [
                {"key": p.key, "ts": p.ts, "rows": None if math.isnan(p.rows) else p.rows, "wrong": p.wrong,
                 "read_at": p.read_at} for p in self._past
            ],
            "schema": self._schema, "begun": self._begun, "ts": time.time(),
            "form": None if form is None else asdict(form),
        }  # fmt: skip

    # ---- source

    async def poll(self) -> Frame:
        """Return how the newest run is and when the next is due; raises Unavailable when the folder does not answer."""
        now = time.time()
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            self._aside.ask("look", self._look)
            await self._aside.settle(_PATIENCE_S / 2)
        if time.monotonic() - self._looked_at > _BLIND_S:
            raise Unavailable(
                self._trouble or f"{self.config.path} does not answer: look whether its mount hangs"
            )
        return Frame(self.name, now, self._series, np.array(self._values(now)))

    def _values(self, now: float) -> list[float]:
        past = sorted(self._past, key=lambda p: p.ts)
        times = sorted({p.ts for p in past} | {r.ts for r in self._waiting})
        late, missed = lateness(now, times, cron=self._cron, grace_s=self.config.grace)
        newest = next((p for p in reversed(past) if p.read_at), None)
        rows = math.nan if newest is None else newest.rows
        usual = usual_rows([p.rows for p in past if p is not newest and p.rows > 0])
        return [
            now - times[-1] if times else math.nan,
            late,
            math.nan if missed is None else float(missed),
            rows,
            rows / usual,
            math.nan if newest is None else float(bool(newest.wrong)),
            math.nan if math.isnan(rows) else float(self._short(rows, usual)),
        ]

    def _short(self, rows: float, usual: float) -> bool:
        return rows < self.config.min_rows or rows < self.config.short * usual

    # ---- feed

    async def read(self) -> Sequence[Arrival]:
        """Return the next rows, the oldest run first; raises Unavailable, or Refused when a library is missing."""
        start = time.monotonic()
        self._aside.ask("read", self._read)
        await self._aside.settle(_PATIENCE_S)
        answer = self._aside.answer("read", time.monotonic() - start)
        if answer is None:
            raise Unavailable(f"{self.config.path} does not answer: look whether its mount hangs")
        if answer.error is not None:
            raise answer.error
        piece, self._piece = self._piece, None
        if piece is None:
            return ()
        # Only now, when the rows are sure to be taken, have we got so far.
        self._begun = (self._begun[0], piece.row)
        if piece.ended is not None:
            self._end(piece.ended)
        return piece.arrivals

    def _read(self) -> None:
        """Look for runs and have one piece ready, beside the event loop; a piece that nobody took stays."""
        if not self._reference_read:
            self._read_reference()
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            self._look()
        with self._lock:
            state = self._state()
        self._kept.write(state)
        if self._piece is not None:
            return
        if self._pieces is None:
            if not self._waiting:
                return
            self._pieces = self._read_run(self._waiting[0])
        pieces, self._pieces = self._pieces, None
        self._piece = next(
            pieces
        )  # what it raises ends it: the run is opened anew, from what was delivered
        if self._piece.ended is None:
            self._pieces = pieces

    def _look(self) -> None:
        """Find runs that are new and settled."""
        try:
            found = sorted(_runs(self.config.path, self.config.settle), key=lambda r: (r.ts, r.key))
        except OSError as wrong:
            self._trouble = f"{self.config.path} cannot be read: {wrong.strerror}"
            raise Unavailable(self._trouble) from None
        with self._lock:
            self._looked_at, self._trouble = time.monotonic(), ""
            known = {p.key for p in self._past}
            fresh = [r for r in found if r.key not in known]
            if self._first:
                passed = fresh[: max(0, len(fresh) - self.config.backlog)]
                self._past += [_Past(r.key, r.ts) for r in passed]
                fresh, self._first = fresh[len(passed) :], False
            # the one that is being read stays the first, whatever came before it meanwhile
            self._waiting = sorted(fresh, key=lambda r: (r.key != self._begun[0], r.ts))

    def _read_run(self, run: Run) -> Iterator[_Piece]:
        """Yield the rows of a run in pieces; the last one ends it, also when it cannot be read to its end."""
        skip = self._begun[1] if self._begun[0] == run.key else 0
        self._begun = (run.key, skip)
        rows, wrong = 0, ""
        try:
            for part in run.parts:
                with open_table(part) as table:
                    wrong = wrong or self._wrong_with(table)
                    form = self._formed(table)
                    made = Rows(form, self.config.model, self.config.version, self._personal)
                    if table.rows is not None and rows + table.rows <= skip:
                        rows += table.rows
                        continue
                    start = max(0, skip - rows)
                    rows += start
                    for columns in table.chunks(start, self.config.max_rows_per_read):
                        columns = _complete(columns, self._schema)  # noqa: PLW2901  # of an older form
                        rows += len(next(iter(columns.values())))
                        yield _Piece(
                            [*made.batches(columns, run.ts), *made.labels(columns, run.ts)], rows
                        )
                    bad = table.bad + made.bad
                    if bad:
                        log.warning("bad_rows", source=self.name, file=str(part), rows=bad)
        except Damaged as damage:
            wrong = str(damage)
        except FileNotFoundError:
            wrong = f"{run.path} went away while it was read"
        yield _Piece([], rows, _Past(run.key, run.ts, float(rows), wrong, time.time()))

    def _end(self, ended: _Past) -> None:
        """Note a run that was read to its end."""
        usual = usual_rows([p.rows for p in self._past if p.rows > 0])
        with self._lock:
            self._waiting = [r for r in self._waiting if r.key != ended.key]
            self._past = sorted([*self._past, ended], key=lambda p: p.ts)[-_MOST_RUNS:]
            self._begun = ("", 0)
        tell = log.warning if ended.wrong or self._short(ended.rows, usual) else log.info
        tell(
            "batch_run", source=self.name, model=self.config.model, file=ended.key.split("|")[0],
            rows=int(ended.rows), usual_rows=None if math.isnan(usual) else int(usual), wrong=ended.wrong or None,
        )  # fmt: skip

    # ---- columns

    def _formed(self, table: Table) -> Form:
        """Return how columns are read, decided by the first run."""
        if self._form is None:
            head = table.head()
            self._guesses = roles.guess(head, self.config.columns)
            self._form = Form.find(self._guesses, head, self.config.task)
        return self._form

    def _wrong_with(self, table: Table) -> str:
        """Say what is wrong with the columns of a file; a new form that stays is the form."""
        kinds = dict(table.kinds)
        if not self._schema:
            self._schema = kinds
        for name, kind in self._schema.items():  # what tells nothing new is no other form
            if name in kinds and (
                "empty" in {kind, kinds[name]} or (kind == "text" and not table.typed)
            ):
                kinds[name] = kind if kind != "empty" else kinds[name]
        self._schema |= {n: k for n, k in kinds.items() if self._schema.get(n) == "empty"}
        if kinds == self._schema:
            self._other = ({}, 0)
            return ""
        gone = sorted(set(self._schema) - set(kinds))
        turned = sorted(
            f"{n} is {kinds[n]}, was {k}"
            for n, k in self._schema.items()
            if n in kinds and kinds[n] != k
        )
        new = sorted(set(kinds) - set(self._schema))
        self._other = (kinds, self._other[1] + 1 if self._other[0] == kinds else 1)
        if self._other[1] >= _ADOPTED:
            self._schema, self._form = kinds, None
            self._other = ({}, 0)
            log.warning("schema_adopted", source=self.name, gone=gone, new=new, turned=turned)
            return ""
        said = [f"missing: {', '.join(gone)}"] if gone else []
        if new and not gone and not turned:
            log.warning("new_columns", source=self.name, columns=new)  # nobody reads them yet
        return "; ".join(said + turned)

    # ---- what it is used to

    def _read_reference(self) -> None:
        path = self.config.reference
        if path is None:
            return
        self._reference_read = True
        try:
            if path.suffix == ".json":
                self._reference = read_json(path)
            else:
                maker = Maker()
                for batch, truth in rows_of(
                    path,
                    self.config.columns,
                    self.config.model,
                    self.config.version,
                    self.config.task,
                    personal=self._personal,
                ):
                    maker.take(batch, truth)
                self._reference = maker.made()
        except (AgentError, OSError, ValueError) as wrong:
            log.error("reference_not_read", source=self.name, file=str(path), error=str(wrong))

    def reference(self, model: str, version: str) -> dict[str, Any] | None:
        """Return what a version is used to, once it was read; None for any other."""
        mine = model == self.config.model and self.config.version in {"", version}
        return self._reference if mine else None

    # ---- for people

    def roles(self) -> tuple[Guess, ...]:
        """Return the roles of the columns, as soon as a file was opened."""
        if self._form is not None and not self._guesses:
            return tuple(
                Guess(n, cast("Role", r), "kept from the first run", 1.0)
                for n, r in self._form.roles.items()
            )
        return self._guesses

    async def describe(self) -> Sequence[str]:
        """Say which runs there are, how they come and what is wrong with the newest."""
        self._aside.ask("look", self._look)
        await self._aside.settle(_PATIENCE_S)
        if self._trouble:
            return [self._trouble]
        times = sorted({p.ts for p in self._past} | {r.ts for r in self._waiting})
        if not times:
            return [f"{self.config.path}: no run yet ({', '.join(SUFFIXES[:3])}, ...)"]
        now = time.time()
        ago = say_duration(max(0.0, now - times[-1]))
        out = [f"{self.config.path}: {many(len(times), 'run')}, the newest {ago} ago"]
        late, missed = lateness(now, times, cron=self._cron, grace_s=self.config.grace)
        usual = rhythm(times)
        if self._cron is not None:
            out.append(f"due by {self.config.schedule!r}")
        elif usual is not None:
            out.append(
                f"comes every {say_duration(usual[0])}, after {say_duration(usual[1])} at the latest"
            )
        else:
            out.append(
                "when the next is due is not known: five runs with a rhythm, or `schedule:`, tell it"
            )
        if late > 0 or missed:
            out.append(f"late by {say_duration(late)}" + (", one was missed" if missed else ""))
        wrong = next((p.wrong for p in reversed(self._past) if p.wrong), "")
        return [*out, *([f"wrong: {wrong}"] if wrong else [])]

    def close(self) -> None:
        """Keep where we are: the next start goes on exactly here."""
        self._kept.write(self._state(), clean=True)
        self._aside.close()

    @staticmethod
    def rows_of(
        path: Path, columns: Mapping[str, str], model: str, version: str, task: Task = "auto"
    ) -> Iterator[tuple[PredictionBatch, list[Any]]]:
        """Yield the rows of one file with the truth of each (None = no label)."""
        return rows_of(path, columns, model, version, task)

    @staticmethod
    def guesses_of(path: Path, columns: Mapping[str, str]) -> tuple[Guess, ...]:
        """Return the roles of the columns of one file."""
        with open_table(path) as table:
            return roles.guess(table.head(), columns)


def rows_of(
    path: Path,
    columns: Mapping[str, str],
    model: str,
    version: str,
    task: Task,
    *,
    personal: Personal | None = None,
) -> Iterator[tuple[PredictionBatch, list[Any]]]:
    """Yield the rows of one file as batches of one model and version, with their truth."""
    with open_table(path) as table:
        head = table.head()
        guesses = [
            g if g.role not in {"model", "version"} else Guess(g.column, "ignore", g.reason, 1.0)
            for g in roles.guess(head, columns)
        ]
        rows = Rows(Form.find(guesses, head, task), model, version, personal)
        for part in table.chunks(0, 10_000):
            for batch in rows.batches(part, 0.0, alone=True):
                yield batch, rows.truth(part)


def _complete(columns: Mapping[str, Any], schema: Mapping[str, str]) -> dict[str, Any]:
    """Return columns as the form wants them: the missing ones empty, texts that look like numbers as texts."""
    n = len(next(iter(columns.values())))
    out = dict(columns)
    for name, kind in schema.items():
        if name not in out:
            out[name] = np.full(n, None, dtype=object)
        elif kind == "text" and out[name].dtype.kind == "f":
            out[name] = texts(out[name])
    return out


def _nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _runs(pattern: Path, settle_s: float) -> Iterator[Run]:
    """Yield runs that are written to their end."""
    now = time.time()
    for path in _matches(pattern):
        if path.is_dir():
            parts = tuple(sorted(p for p in path.iterdir() if _is_rows(p)))
            done = (path / "_SUCCESS").exists()
        else:
            parts, done = ((path,) if _is_rows(path) else ()), False
        if not parts:
            continue
        about = [p.stat() for p in parts]
        ts, size = max(a.st_mtime for a in about), sum(a.st_size for a in about)
        if done or abs(now - ts) >= settle_s:
            yield Run(path, ts, size, parts)


def _is_rows(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(("_", ".")) and path.is_file()


def _matches(pattern: Path) -> Iterator[Path]:
    parts = pattern.parts
    first = next((i for i, p in enumerate(parts) if any(c in p for c in "*?[")), len(parts))
    root = Path(*parts[:first])
    if first < len(parts):
        root.stat()  # a folder that is not there, or does not answer, is no empty one
        yield from root.glob(str(Path(*parts[first:])))
    elif root.exists():
        yield root
    else:
        root.parent.stat()
