"""Prediction logs and labels: files of JSON lines that grow, and the same records pushed over HTTP.

    POST /ingest/predictions   one object, an array, JSON lines; CloudEvents of KServe (see `_cloudevents`)
    POST /ingest/sketches      rows that were counted where they were made (see `_sketches`)
    POST /v1/logs              OTLP/HTTP (see `_otlp`)

    {"id": "r-17", "ts": 1764000000.1, "model": "fraud", "version": "3", "features": {"age": 41.0, "country": "DE"},
     "pred": "0", "proba": 0.93, "latency_ms": 21.5, "processing_ms": 3.1, "status": 200,
     "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    {"id": "r-17", "model": "fraud", "label": "1", "ts": 1764003600.0}

Of a prediction only `model` and `features` (or `pred`) are needed, of a label `model`, `id` and `label`; in a file also
`ts`. A record with both is both. Beside these: `variant`, `tags`, `proba` as an object of class and probability, and of
generators `tokens_in`, `tokens_out`, `ttft_ms`, `finish_reason`. See `docs/predictions.md`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from pydantic import Field

from agent.errors import BadRecords, Refused, Unavailable
from agent.ports import Arrival, Inlet, LabelBatch, PredictionBatch, Pushed, Taken
from agent.registry import connector
from agent.units import Bytes, Duration, many
from connectors import _cloudevents, _csv_lines, _otlp, _sketches
from connectors._aside import Aside
from connectors._personal import Personal, Settings
from connectors._records import Reader, Rows, Task, records_of
from connectors._tail import Position, Tail, unpack

log = structlog.get_logger()

_MOST_PUSHED: Final = 20_000
_PATIENCE_S: Final = 1.8
_KEEP_EVERY_S: Final = 2.0
_MARK_EVERY_S: Final = 15.0
_LABELS_AFTER: Final = 30
"""Labels are read at the latest in every 30th reading."""
_MOST_FILES: Final = 1000


@connector("predictions")
class Predictions:
    """What a model service said, and what turned out to be true.

    Feed          follows the files from where we were, through rotation and truncation, also after kill -9
    BulkReceiver  records, CloudEvents, OTLP logs and sketches by HTTP: all of a request or nothing

    Positions are kept every 2 s. After a clean stop reading goes on exactly where it ended; after a kill it goes
    back as far as `again`, because what was learnt since the last checkpoint of the model watch is lost too: rows
    are then delivered at least once, and whoever takes them drops ids that it knows. Rows without an id may count
    twice for that stretch. A bad line is counted and skipped; the log tells of the first and then once a minute.
    Cost: about 10 us a row of eight features (one core, in a thread), in reads of at most `max_rows_per_read`.
    """

    tested = "real files; HTTP by our client, and in the formats of KServe and OTLP"

    class Config(Settings):
        """Where the records come from."""

        path: Path | None = None
        """Log of predictions, JSON lines or `.csv`; `*` in the name follows several files (one a worker)."""
        labels: Path | None = None
        """Log of labels, when they are not in the same file; `*` as above."""
        model: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""
        """Model of records that do not name one."""
        task: Task = "auto"
        """What predictions and labels are; auto: fractions are numbers, all else are classes."""
        max_rows_per_read: Annotated[int, Field(ge=1, le=200_000)] = 10_000
        backlog: Bytes = 16e6
        """How far before its end a log is begun that we see for the first time."""
        again: Duration = 330.0
        """How far to go back after a kill: a little more than the time between checkpoints."""

    interval_s = 1.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._personal = Personal.of(config, name, state)
        self._reader = Reader(config.model, config.task, self._personal)
        self._pairs = _cloudevents.Pairs()
        self._aside = Aside(limit_s=_PATIENCE_S)
        self._places = _Places(
            state / "feeds" / f"{name}.json" if state is not None else None, config.again
        )
        self._tails: dict[Path, Tail] = {}
        self._waited = 0
        self._bad = 0
        self._told_at = -math.inf

    # ---- feed

    async def read(self) -> Sequence[Arrival]:
        """Return what has come, in the order of the files; raises Unavailable when a file cannot be read now."""
        if self.config.path is None and self.config.labels is None:
            return ()
        start = time.monotonic()
        self._aside.ask("read", self._read)
        await self._aside.settle(_PATIENCE_S)
        answer = self._aside.answer("read", time.monotonic() - start)
        if answer is None:
            raise Unavailable(
                f"the logs of {self.name} do not answer: look whether their mount hangs"
            )
        if answer.error is not None:
            raise answer.error
        got: _Got = answer.value
        # Only now, when the rows are sure to be taken, have we got so far.
        self._places.moved(got.places)
        self._complain(got)
        return got.arrivals

    def _read(self) -> _Got:
        """Read a share of every file, beside the event loop. Changes nothing that a second reading would miss."""
        self._places.keep()
        got = _Got()
        logs = self._paths(self.config.path)
        share = max(1, self.config.max_rows_per_read // max(1, len(logs)))
        lines: list[bytes] = []
        behind = False
        for path in logs:
            found = self._follow(path, share, got)
            behind = behind or len(found) >= share
            lines += found
        # A label must not come before its prediction, so labels wait while we catch up; but not for ever.
        self._waited = self._waited + 1 if behind else 0
        if self._waited % _LABELS_AFTER == 0:
            for path in self._paths(self.config.labels):
                lines += self._follow(path, self.config.max_rows_per_read, got)
        rows = self._reader.lines(lines)
        got.arrivals, got.first_bad = rows.arrivals(), rows.first_bad
        got.bad += rows.bad
        return got

    def _follow(self, path: Path, most: int, got: _Got) -> list[bytes]:
        """Read on in one file; note where that leads."""
        tail = self._tails.setdefault(path, Tail(path))
        here = self._places.now.get(str(path))
        found, there = tail.read(here, most, backlog_bytes=int(self.config.backlog))
        if there is not None and there != here:
            got.places[str(path)] = there
            got.bad += there.dropped - (here.dropped if here is not None else 0)
        return _csv_lines.records(tail.first_line(), found) if path.suffix == ".csv" else found

    def _paths(self, pattern: Path | None) -> list[Path]:
        """Return the files of a pattern: those there are, and those that we are in and that lost their name."""
        if pattern is None:
            return []
        if "*" not in pattern.name:
            return [pattern]
        known = (Path(name) for name in self._places.now)
        ours = (
            p for p in known if p.parent == pattern.parent and fnmatchcase(p.name, pattern.name)
        )
        return sorted({*pattern.parent.glob(pattern.name), *ours})

    def _complain(self, got: _Got) -> None:
        self._bad += got.bad
        if got.bad and time.monotonic() - self._told_at >= 60.0:
            self._told_at = time.monotonic()
            log.warning(
                "bad_records", source=self.name, new=got.bad, so_far=self._bad, first=got.first_bad
            )

    # ---- receiver

    def inlets(self) -> Sequence[Inlet]:
        """Say the ways in."""
        return (
            Inlet("/ingest/predictions", self._take),
            Inlet("/ingest/sketches", self._take_sketches),
            Inlet("/v1/logs", self._take_logs),
        )

    def _take(self, pushed: Pushed) -> Taken:
        """Take records, or CloudEvents; `?model=` in the address names the model of those that do not."""
        model = pushed.query.get("model", "")
        pairs = _cloudevents.is_event(pushed.headers)
        if pairs:
            records = self._pairs.take(pushed, model or self.config.model)
        else:
            records = records_of(pushed.body, pushed.headers.get("content-type", ""))
        rows = self._rows(records, pushed, model, pairs=pairs)
        return Taken(rows.arrivals(), len(self._pairs))

    def _take_logs(self, pushed: Pushed) -> Taken:
        kind = pushed.headers.get("content-type", "")
        records, other = _otlp.records_of(pushed.body, kind)
        rows = self._rows(records, pushed, pushed.query.get("model", ""))
        return Taken(rows.arrivals(), len(self._pairs), _otlp.answer(kind, other))

    def _take_sketches(self, pushed: Pushed) -> Taken:
        records = records_of(pushed.body, pushed.headers.get("content-type", ""))
        model = pushed.query.get("model", "") or self.config.model
        found = [_sketches.sketch_of(one, model, self._personal) for one in records[:_MOST_PUSHED]]
        return Taken(found, len(self._pairs))

    def _rows(
        self, records: Sequence[Any], pushed: Pushed, model: str, *, pairs: bool = False
    ) -> Rows:
        """Read the records of one request; raises Refused with the first bad one."""
        if len(records) > _MOST_PUSHED:
            raise Refused(
                f"{len(records)} records at once, at most {_MOST_PUSHED}; send them in parts"
            )
        rows = self._reader.records(records, model=model, now=pushed.now)
        # a pair of events is made of two requests: the second must not fail for the first, nor for those let go
        if rows.bad and (not pairs or rows.bad == len(records)):
            raise BadRecords(rows.bad, len(records), rows.reasons)
        return rows

    # ---- for people

    async def describe(self) -> Sequence[str]:
        """Say which files are followed and what is in their last lines; moves no position."""
        out = []
        for path in [*self._paths(self.config.path), *self._paths(self.config.labels)]:
            if not path.exists():
                out.append(f"{path}: not there yet")
                continue
            tail = Tail(path)
            try:
                lines, _ = tail.read(None, 1000, backlog_bytes=1 << 18)
            finally:
                tail.close()
            rows = self._reader.lines(lines)
            said = [
                f"{many(len(b.ids), 'prediction')} of model:{b.model}"
                + (f" version {b.version}" if b.version else "")
                + f" with {many(len(b.features), 'feature')}"
                if isinstance(b, PredictionBatch)
                else f"{many(len(b.ids), 'label')} of model:{b.model}"
                for b in rows.arrivals()
                if isinstance(b, PredictionBatch | LabelBatch)
            ]
            bad = f", {many(rows.bad, 'bad record')} ({rows.first_bad})" if rows.bad else ""
            last = many(len(lines), "line holds", "lines hold")
            out.append(f"{path}: last {last} {', '.join(said) or 'nothing'}{bad}")
        out += [f"takes POST {inlet.path}" for inlet in self.inlets()]
        return out

    def close(self) -> None:
        """Keep where we are: the next start goes on exactly here."""
        self._places.close()
        self._aside.close()
        for tail in self._tails.values():
            tail.close()


@dataclass(slots=True)
class _Got:
    """One reading: rows, where the files stand after it, and what was wrong."""

    arrivals: Sequence[Arrival] = ()
    places: dict[str, Position] = field(default_factory=dict)
    bad: int = 0
    first_bad: str = ""


class _Places:
    """Where every file stands, on disk.

    `now` is what was delivered; `older` is where we were `again_s` ago, from which a start after a kill goes on.
    """

    def __init__(self, path: Path | None, again_s: float) -> None:
        self._path = path
        self._again_s = again_s
        self.now: dict[str, Position] = {}
        self._marks: deque[tuple[float, dict[str, Position]]] = deque()
        self._kept_at = -math.inf
        self._changed = False
        if path is not None:
            self._load(path)
        self._marks.append((time.monotonic(), dict(self.now)))

    def _load(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kept = data["now"] if data["clean"] else data["older"]
            self.now = {
                name: place for name, one in kept.items() if (place := unpack(one)) is not None
            }
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as damage:
            log.warning(
                "positions_not_read",
                file=str(path),
                error=str(damage),
                remedy="begins near the ends",
            )
            return
        self._changed = bool(data["clean"])  # from now on a kill may come

    def moved(self, places: Mapping[str, Position]) -> None:
        """Note what was delivered."""
        if not places:
            return
        self.now = {**self.now, **places}
        if len(self.now) > _MOST_FILES:
            self.now = {name: place for name, place in self.now.items() if Path(name).exists()}
        self._changed = True
        now = time.monotonic()
        if now - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append((now, dict(self.now)))
        while len(self._marks) > 1 and now - self._marks[1][0] >= self._again_s:
            self._marks.popleft()

    def keep(self) -> None:
        """Write them, now and then."""
        if self._changed and time.monotonic() - self._kept_at >= _KEEP_EVERY_S:
            self._write(clean=False)

    def close(self) -> None:
        """Write that all is well."""
        self._write(clean=True)

    def _write(self, *, clean: bool) -> None:
        if self._path is None:
            return
        older = self._marks[0][1]
        data = {
            "clean": clean,
            "now": {name: place.pack() for name, place in self.now.items()},
            # a file that was not known then is begun as at first sight
            "older": {name: older[name].pack() for name in self.now if name in older},
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._path.with_suffix(".new")
            with fresh.open("w", encoding="utf-8") as out:
                json.dump(data, out)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self._path)
        except OSError as wrong:
            log.warning("positions_not_kept", file=str(self._path), error=wrong.strerror)
            return
        self._changed = False
        self._kept_at = time.monotonic()
