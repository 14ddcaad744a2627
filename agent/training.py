"""Keeps trained detectors trained: gathers their past, has the worker make a model, hands it over. Never on a tick.

    every half minute: look() -> who is due? -> pieces of history, one read between two ticks
                              -> Worker.train (another process) -> detector.take(model) -> state on disk

One training at a time. A model is made anew every `every` (a day by default). What fails is said once, tried again
after one minute, then two, four, ... up to six hours, and the old model goes on meanwhile. Where history is still too
short, that is said once, and it is looked at again ten minutes later. State is kept a source and detector, with the
names of the series, so that it survives restarts, series that come and go, and being switched off and on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import structlog

from agent import checkpoint, registry
from agent.config import DetectorConfig
from agent.errors import AgentError, Refused, Unavailable
from agent.model import FloatArray, Series
from agent.panel import Panel
from agent.ports import Detector, Past, Trainable
from agent.worker import Job, Worker

log = structlog.get_logger()

LOOK_EVERY_S: Final = 30.0
_FIRST_WAIT_S: Final = 60.0
_LONGEST_WAIT_S: Final = 6 * 3600.0
_TOO_SHORT_S: Final = 600.0
_MOST_CELLS: Final = 2_000_000
"""Rows times series of one training: 16 MB on its way to the worker."""
_VERSION: Final = 1


class Reads(Protocol):
    """What we need of `agent.history.History`."""

    def read(
        self, series: Sequence[Series], start: float, end: float, step: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return ts (k,) and values (k, n)."""
        ...


class Watched(Protocol):
    """What we need of `agent.monitor.Watch`: the detector of one source and the series in its columns."""

    @property
    def detector(self) -> Detector | None:
        """The detector; None before the first frame."""
        ...

    @property
    def series(self) -> tuple[Series, ...]:
        """Who its columns are."""
        ...


@dataclass(slots=True)
class _Turn:
    """Where one detector of one source stands. next is monotonic, trained in the time of the data."""

    next: float = -math.inf
    failures: int = 0
    trained: float = math.nan
    said: str = ""
    restored: bool = False


@dataclass(slots=True)
class Training:
    """The trained detectors of all sources.

    wanted    detectors by name, as in `detectors:` of agent.yaml
    folder    where their state is kept
    now       time of the data (the world's), seconds
    """

    wanted: Mapping[str, DetectorConfig]
    history: Reads
    folder: Path
    now: Callable[[], float]
    worker: Worker = field(default_factory=Worker)
    bugs: Callable[[str, Exception], None] | None = None
    watches: Mapping[str, Watched] = field(default_factory=dict)
    _turns: dict[tuple[str, str], _Turn] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    def panel(self, first: Detector, step_s: float, n: int) -> Detector:
        """Return `first` with the joint detectors that are wanted beside it; alone when there are none."""
        wanted = {name: one for name, one in self.wanted.items() if one.enabled}
        if not wanted:
            return first

        def others(n: int) -> dict[str, Detector]:
            return {name: build(name, one, step_s, n) for name, one in wanted.items()}

        return Panel(first, others, n, self.bugs)

    async def look(self) -> None:
        """Bring back kept state, and start the training that is most overdue, if none is at work. Returns at once.

        A coroutine only so that the scheduler calls it on the loop: anything else it would call in a thread.
        """
        if self._task is not None and not self._task.done():
            return
        due: list[tuple[float, str, str]] = []
        clock = time.monotonic()
        for source, name, detector, series in self._trainable():
            turn = self._turns.setdefault((source, name), _Turn())
            if not turn.restored:
                self._restore(source, name, detector, series, turn)
            age = abs(self.now() - turn.trained)
            fresh = age < self.wanted[name].every  # False when it was never trained
            if not fresh and clock >= turn.next:
                due.append((math.inf if math.isnan(age) else age, source, name))
        if due:
            _, source, name = max(due)
            self._task = asyncio.create_task(self._guarded(source, name), name="training")

    async def close(self) -> None:
        """Break off what is being trained, end the worker, keep the state."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.worker.close()
        self.save()

    def save(self) -> None:
        """Write the state of every detector that has a model; a disk that does not take it is logged."""
        for source, name, detector, series in self._trainable():
            turn = self._turns.get((source, name))
            if turn is None or math.isnan(turn.trained):
                continue
            state = np.frombuffer(detector.dump(), np.uint8)
            meta = {"series": [str(s) for s in series], "trained": turn.trained}
            path = self._path(source, name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                fresh = path.with_suffix(".new")
                fresh.write_bytes(checkpoint.write("trained", _VERSION, meta, {"state": state}))
                fresh.replace(path)
            except OSError as error:
                log.warning("state_not_saved", what=f"{source}/{name}", error=str(error))

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set."""
        for turn in self._turns.values():
            turn.trained += jump

    # ---- one training

    async def _guarded(self, source: str, name: str) -> None:
        """Train; what goes wrong is said when it is new, and tried again later."""
        turn = self._turns[source, name]
        try:
            done = await self._train(source, name)
        except AgentError as error:
            wait = min(_FIRST_WAIT_S * 2.0 ** min(turn.failures, 10), _LONGEST_WAIT_S)
            turn.failures += 1
            turn.next = time.monotonic() + wait
            if str(error) != turn.said:
                log.warning("training_failed", source=source, detector=name, error=str(error),
                            again_in_s=wait)  # fmt: skip
            turn.said = str(error)
        except Exception as error:  # noqa: BLE001  # a border: a plug-in's bug must not end the daemon
            turn.next = time.monotonic() + _LONGEST_WAIT_S
            if self.bugs is not None:
                self.bugs(f"training of {name}", error)
        else:
            turn.next = time.monotonic() + (_FIRST_WAIT_S if done else _TOO_SHORT_S)
            if done:
                turn.failures, turn.said = 0, ""

    async def _train(self, source: str, name: str) -> bool:
        """Return whether there is a new model; False = history is too short as yet."""
        detector, series = self._find(source, name)
        past, now = detector.past(), self.now()
        began = time.monotonic()
        ts, values = await gather(self.history.read, series, past, now)
        if len(ts) < past.least_rows:
            self._say_waiting(source, name, len(ts), past)
            return False
        own = detector_config(name, self.wanted[name], past_step(detector))
        model = await self.worker.train(Job(name, own.model_dump(mode="json"), ts, values))
        # Minutes have passed: the table may be another, even the detector.
        detector, here = self._find(source, name)
        column = {s: i for i, s in enumerate(series)}
        detector.take(model, np.array([column.get(s, -1) for s in here], dtype=np.int64))
        self._turns[source, name].trained = now
        log.info("trained", source=source, detector=name, series=len(series), rows=len(ts),
                 took_s=round(time.monotonic() - began, 1))  # fmt: skip
        return True

    def _say_waiting(self, source: str, name: str, rows: int, past: Past) -> None:
        turn, text = self._turns[source, name], "history is too short"
        if turn.said != text:
            log.info("training_waits", source=source, detector=name, rows=rows,
                     least_rows=past.least_rows, step_s=past.step_s)  # fmt: skip
        turn.said = text

    def _find(self, source: str, name: str) -> tuple[Any, tuple[Series, ...]]:
        for at, of, detector, series in self._trainable():
            if (at, of) == (source, name):
                return detector, series
        raise Unavailable(f"source {source} is gone, or its {name} rests after a bug")

    def _trainable(self) -> Iterator[tuple[str, str, Any, tuple[Series, ...]]]:
        """Give every detector that wants training: source, name, detector, series of its columns."""
        for source, watch in self.watches.items():
            panel = watch.detector
            if not isinstance(panel, Panel):
                continue
            for name, detector in panel.others.items():
                sources = self.wanted[name].sources
                if isinstance(detector, Trainable) and (not sources or source in sources):
                    yield source, name, detector, watch.series

    # ---- state on disk

    def _path(self, source: str, name: str) -> Path:
        return self.folder / source / f"{name}.bin"

    def _restore(
        self, source: str, name: str, detector: Any, series: tuple[Series, ...], turn: _Turn
    ) -> None:
        turn.restored = True
        path = self._path(source, name)
        try:
            meta, arrays = checkpoint.read("trained", _VERSION, path.read_bytes())
            detector.load(arrays["state"].tobytes())
            before = {text: i for i, text in enumerate(meta["series"])}
            old = [before.get(str(s), -1) for s in series]
            detector.remap(np.array(old, dtype=np.int64))
            turn.trained = float(meta["trained"])
        except FileNotFoundError:
            return
        except (AgentError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("state_not_loaded", file=str(path), error=str(error))


def detector_config(name: str, wanted: DetectorConfig, step_s: float) -> Any:
    """Return the detector's own Config; raises Refused for what `check` would have told."""
    cls = registry.detector.get(wanted.use or name)
    try:
        return cls.Config(**{"step_s": step_s, **wanted.own})
    except ValueError as error:
        raise Refused(f"detector {name}: {error}") from None


def build(name: str, wanted: DetectorConfig, step_s: float, n: int) -> Any:
    """Make a joint detector of n series for a source with rows every `step_s` seconds."""
    cls = registry.detector.get(wanted.use or name)
    return cls(detector_config(name, wanted, step_s), n)


def past_step(detector: Any) -> float:
    """Return the step that a detector was made for."""
    return float(detector.config.step_s)


Read = Callable[..., tuple[FloatArray, FloatArray]]


async def gather(
    read: Read,
    series: Sequence[Series],
    past: Past,
    now: float,
    pause: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0),
) -> tuple[FloatArray, FloatArray]:
    """Return ts (k,) and values (k, n) of the pieces of history that `past` asks for.

    One read a piece, with a `pause` after each: reading a block from disk takes milliseconds, a day of them would
    hold up the ticks. Rows in which nobody was seen are left out. Of many series fewer rows are read.
    """
    room = max(_MOST_CELLS // max(len(series), 1), past.piece_rows)
    ts: list[FloatArray] = [np.empty(0)]
    values: list[FloatArray] = [np.empty((0, len(series)))]
    for start, end in pieces(past, now, min(past.rows, room)):
        got, rows = read(series, start, end, past.step_s)
        seen = np.isfinite(rows).any(axis=1) if rows.size else np.zeros(len(got), bool)
        ts.append(got[seen])
        values.append(rows[seen])
        await pause()
    return np.concatenate(ts), np.concatenate(values)


def pieces(past: Past, now: float, rows: int) -> list[tuple[float, float]]:
    """Return (start, end) of pieces that end at `now` at the latest, ascending, on the grid of the step."""
    step = past.step_s
    last = math.floor(now / step)  # the bucket of `now` is still being filled
    have = math.floor(past.span_s / step)
    k = max(1, rows // past.piece_rows)
    if have <= rows:
        edges = range(last - have, last, past.piece_rows)
        spans = [(a, min(a + past.piece_rows, last)) for a in edges]
    else:
        ends = np.linspace(last - have + past.piece_rows, last, k) if k > 1 else [last]
        spans = [(math.floor(end) - past.piece_rows, math.floor(end)) for end in ends]
    # half a step before the end: that bucket belongs to the next piece
    return [(a * step, (b - 0.5) * step) for a, b in spans]
