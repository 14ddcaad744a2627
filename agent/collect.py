"""The first edge: asks every source in its own rhythm, with a time limit, and never lets one hurt another.

    source.poll() --(time limit, cost meter)--> rates --> possible? --> inbox  (drained once a tick, in order of name)
    feed.read(), what is pushed --> rows: counted in pieces between the ticks (`agent.intake.Counting`); else inbox

A source that throws rests and is asked again with growing pauses; one that hangs is given up after its time limit;
both are *blind* until they answer: a fact in the frame "self", so blindness is seen like any other trouble.
Intervals stretch when all polling together costs more CPU than its budget, those of the dear sources alone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import structlog

from agent.away import Absences
from agent.clock import since_boot
from agent.errors import AgentError, Refused, Unavailable
from agent.model import Entity, Frame, Series
from agent.ports import Arrival, Bulk, Ceding, Covering, Feed, PredictionBatch, Source
from agent.possible import Possible
from agent.rates import Rates
from agent.strike import bug_in

log = structlog.get_logger()

_LONGEST_REST_S: Final = 60.0
_MOST_MODELS: Final = 1000
_HEARD_ANEW_S: Final = 0.5
"""Pushed values say how long ago they came, by another clock: a smaller difference is none."""
_PATIENCE: Final = 3.0
"""A source is blind when it has not answered for so many of its intervals."""


class _Metered:
    """Awaits a coroutine and counts the CPU that this thread spends inside it, not what runs between."""

    def __init__(self, inner: Awaitable[Any]) -> None:
        self._inner = inner
        self.cpu_s = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            start = time.thread_time()
            try:
                future = steps.send(sent) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return end.value
            finally:
                self.cpu_s += time.thread_time() - start
            sent, thrown = None, None
            try:
                sent = yield future
            except BaseException as error:  # noqa: BLE001  # handed on into the coroutine, whatever it is
                thrown = error


@dataclass(slots=True)
class Health:
    """How one source is."""

    name: str
    interval_s: float
    last_ok: float = -math.inf
    asked: int = 0
    failed: int = 0
    error: str = ""
    poll_s: float = 0.0
    cpu_ratio: float = 0.0
    """Share of one core that its polls cost at the interval they are at, the dearest one of the last ten left out."""
    cpu_s: float = 0.0
    """What one poll costs, on the same count."""
    stretched_s: float = 0.0
    rests_s: float = 0.0
    """How seldom it wants to be asked while others tell most of what it sees; 0 = as ever."""
    series: int = 0
    started: float = 0.0
    held_s: float = 0.0
    """For how long, since it was last heard, nobody was asked, as we were not let run ourselves."""
    _costs: deque[float] = field(default_factory=lambda: deque(maxlen=10))

    @property
    def least_s(self) -> float:
        """How often it is asked when its cost matters to nobody."""
        return max(self.interval_s, self.rests_s)

    def cost(self, cpu_s: float) -> None:
        """Count what a poll cost. The dearest is left out: a first one imports, any may collect garbage."""
        self._costs.append(cpu_s)
        usual = sorted(self._costs)[:-1]
        self.cpu_s = sum(usual) / len(usual) if usual else 0.0

    def blind(self, now: float) -> bool:
        """Tell whether we have not heard of it for too long."""
        since = self.last_ok if math.isfinite(self.last_ok) else self.started
        return now - since - self.held_s > self.patience_s

    @property
    def patience_s(self) -> float:
        """How old its values may be before they are unknown."""
        return patience_of(max(self.least_s, self.stretched_s))


def patience_of(interval_s: float) -> float:
    """Return how old the values of a source may be that is read so often."""
    return _PATIENCE * interval_s + 1.0


@dataclass(slots=True)
class Collector:
    """Runs the sources; `drain` gives what has come since the last tick."""

    cpu_budget: float = 0.05
    bulk: Callable[[str, Sequence[Bulk]], Awaitable[None]] | None = None
    """Counts rows, and returns when it has; without it they are put into the inbox."""
    clock: Callable[[], float] = time.time
    health: dict[str, Health] = field(default_factory=dict)
    possible: Possible = field(default_factory=Possible)
    away: Absences = field(default_factory=lambda: Absences("readings"))
    _rates: Rates = field(default_factory=Rates)
    _inbox: list[Frame | Arrival] = field(default_factory=list)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _taking: set[asyncio.Task[None]] = field(default_factory=set)
    _self_series: tuple[Series, ...] = ()
    _brought: dict[str, dict[str, float]] = field(default_factory=dict)
    """Model -> log that brought rows of it -> when that was last in order, or away."""
    _covering: dict[str, Covering] = field(default_factory=dict)

    def add(self, name: str, source: Source, interval_s: float | None = None) -> None:
        """Start asking a source."""
        every = interval_s or source.interval_s
        self.health[name] = Health(name, every, started=self.clock())
        if isinstance(source, Covering):
            self._covering[name] = source
        self._tasks[name] = asyncio.create_task(self._ask(name, source), name=f"source {name}")

    def follow(self, name: str, feed: Feed, interval_s: float | None = None) -> None:
        """Start reading a log that grows."""
        key = f"{name}.feed"
        self.health[key] = Health(key, interval_s or feed.interval_s, started=self.clock())
        self._tasks[key] = asyncio.create_task(self._read(key, feed), name=f"feed {name}")

    def push(self, arrivals: Sequence[Arrival]) -> None:
        """Put what came into the inbox."""
        self._inbox.extend(self.possible.apply(x) if isinstance(x, Frame) else x for x in arrivals)

    def heard(self, name: str, interval_s: float, at: float, series: int, now: float) -> None:
        """Note that something was pushed: who was heard once is blind when it falls silent."""
        h = self.health.setdefault(name, Health(name, interval_s, started=at))
        h.held_s = 0.0 if at > h.last_ok + _HEARD_ANEW_S else h.held_s
        h.interval_s, h.last_ok, h.series = interval_s, at, series
        if h.blind(now) and not h.error:
            h.error = "nothing comes from it any more"
            log.warning("sender_silent", source=name, after_s=round(now - at))
        elif h.error and not h.blind(now):
            h.error = ""
            log.info("source_back", source=name)

    def dismiss(self, name: str) -> None:
        """Expect nothing more of a sender."""
        self.health.pop(name, None)

    async def take(self, source: str, arrivals: Sequence[Arrival]) -> None:
        """Take what a receiver was sent, or a log held; returns when its rows are counted. None is given up then."""
        rows = [x for x in arrivals if isinstance(x, Bulk)] if self.bulk is not None else []
        self.push([x for x in arrivals if not (rows and isinstance(x, Bulk))])
        if not rows or self.bulk is None:
            return
        task = asyncio.ensure_future(self.bulk(source, rows))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        await asyncio.shield(task)  # who waits may be told to stop, the log has moved on

    def unread(self, for_s: float) -> set[str]:
        """Return the models whose rows are in a log that is away, or was until `for_s` ago: what came in is not all."""
        now = time.monotonic()
        out = set()
        for model, logs in self._brought.items():
            for key in logs:
                if key in self.away:
                    logs[key] = now
            if any(now - away <= for_s for away in logs.values()):
                out.add(model)
        return out

    async def close(self) -> None:
        """Stop asking; a source that does not stop in time is left behind, rows that were read are counted."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=2.0)
        self._tasks.clear()
        if self._taking:
            await asyncio.wait(self._taking)

    async def remove(self, name: str) -> None:
        """Stop asking one source (after a reload)."""
        self._covering.pop(name, None)
        for sender in [key for key in self.health if key.startswith(f"{name}/")]:
            self.dismiss(sender)
        keys = (name, f"{name}.feed")
        tasks = [self._tasks.pop(key) for key in keys if key in self._tasks]
        for key in keys:
            self.health.pop(key, None)  # one that does not hear of it ends at its next turn
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        for logs in self._brought.values():
            logs.pop(keys[1], None)
        for key in keys:
            self.away.back(key)
        self.possible.forget(name)
        self._rates.forget(name)
        self._inbox = [x for x in self._inbox if not (isinstance(x, Frame) and x.source == name)]

    def rebase(self, jump: float, now: float) -> None:
        """Move remembered times along with a wall clock that was set; not those that were already read off the new."""
        for h in self.health.values():
            if abs(h.last_ok + jump - now) < abs(h.last_ok - now):
                h.last_ok += jump
            if abs(h.started + jump - now) < abs(h.started - now):
                h.started += jump

    def held(self, seconds: float) -> None:
        """Note that for so long we were not let run: what nobody could ask, or take, is not blind by that."""
        for h in self.health.values():
            h.held_s += seconds

    def drain(self) -> tuple[list[Frame], list[Arrival]]:
        """Return frames in (source, time) order and other arrivals in order of coming."""
        inbox, self._inbox = self._inbox, []
        frames = sorted((x for x in inbox if isinstance(x, Frame)), key=lambda f: (f.source, f.ts))
        return frames, [x for x in inbox if not isinstance(x, Frame)]

    def self_frame(self, now: float) -> Frame:
        """Return how our own eyes are: age, cost and blindness of every source."""
        names = sorted(self.health)
        metrics = (
            "source.age_seconds",
            "source.blind",
            "source.poll_cpu_ratio",
            "source.poll_seconds",
            "source.series_count",
        )
        if len(self._self_series) != len(names) * len(metrics) or any(
            s.entity.key not in self.health for s in self._self_series
        ):
            self._self_series = tuple(
                sorted(
                    Series(metric, Entity("source", name)) for metric in metrics for name in names
                )
            )
        values = np.full(len(self._self_series), np.nan)
        for i, series in enumerate(self._self_series):
            h = self.health[series.entity.key]
            match series.metric:
                case "source.age_seconds":
                    values[i] = now - h.last_ok if math.isfinite(h.last_ok) else np.nan
                case "source.blind":
                    values[i] = float(h.blind(now))
                case "source.poll_cpu_ratio":
                    values[i] = h.cpu_ratio
                case "source.poll_seconds":
                    values[i] = h.poll_s
                case _:
                    values[i] = h.series
        return Frame("self", now, self._self_series, values)

    # ---- one task a source

    async def _ask(self, name: str, source: Source) -> None:
        ceding = source if isinstance(source, Ceding) else None

        async def once() -> int:
            if ceding is not None:
                ceding.cede(self._covered())
            frame: Frame = await source.poll()
            if ceding is not None:
                self.health[name].rests_s = ceding.rests_s
            if frame.source != name:
                raise Refused(
                    f"source {name} calls its frame {frame.source!r}: use the name it was given"
                )
            # others counted on while we slept: over a clock that stood meanwhile that would be a leap
            self._inbox.append(self.possible.apply(self._rates.apply(frame, since_boot())))
            return len(frame.series)

        await self._forever(name, once)

    def _covered(self) -> frozenset[Series]:
        """Return what sources cover that are not blind."""
        now = self.clock()
        seeing = [
            s.covers for name, s in self._covering.items() if not self.health[name].blind(now)
        ]
        # that of one is handed on as it is: thousands of series, mostly the same as at the last look
        return seeing[0] if len(seeing) == 1 else frozenset().union(*seeing)

    async def _read(self, name: str, feed: Feed) -> None:
        given: list[Arrival] = []

        async def once() -> int:
            given.extend(await feed.read())
            return 0

        async def then() -> None:
            arrivals = given.copy()
            given.clear()
            for one in arrivals:
                if isinstance(one, PredictionBatch) and len(self._brought) < _MOST_MODELS:
                    self._brought.setdefault(one.model, {}).setdefault(name, -math.inf)
            await self.take(name, arrivals)

        await self._forever(name, once, then)

    async def _forever(
        self,
        name: str,
        once: Callable[[], Awaitable[int]],
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        h = self.health[name]
        due = time.monotonic()
        while self.health.get(name) is h:  # else it was taken out, and did not hear of it
            h.asked += 1
            start = time.monotonic()
            meter = _Metered(once())
            rest = h.interval_s
            try:
                # not wait_for: before Python 3.12 it can swallow a cancellation, and the task lives for ever
                async with asyncio.timeout(max(2.0, 2 * h.interval_s)):
                    h.series = await meter
                h.last_ok, h.held_s = self.clock(), 0.0
                if then is not None:
                    await then()
                if (after_s := self.away.back(name)) is not None:
                    log.info("source_back", source=name, after_s=after_s)
                h.error, h.failed = "", 0
            except TimeoutError:
                rest = self._fell(h, f"no answer within {max(2.0, 2 * h.interval_s):.0f} s", None)
            except AgentError as error:
                wait = error.wait_s if isinstance(error, Unavailable) else None
                rest = self._fell(h, str(error), wait)
            except (
                Exception
            ) as error:  # the one border of collect: a plug-in's bug must not end the daemon
                if not h.failed:
                    log.exception("source_bug", source=name)
                rest = self._fell(h, bug_in("the source", error), None)
            h.poll_s = time.monotonic() - start
            h.cost(meter.cpu_s)
            h.stretched_s = self._stretch(h)
            h.cpu_ratio = h.cpu_s / h.stretched_s
            due = max(due + max(rest, h.stretched_s), time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def _fell(self, h: Health, error: str, wait_s: float | None) -> float:
        """Note a failure, once when it is new; return how long to rest."""
        h.failed += 1
        h.error = error
        back_off = min(_LONGEST_REST_S, h.interval_s * 2.0 ** min(h.failed - 1, 6))
        rest = max(back_off, wait_s or 0.0, h.interval_s, h.stretched_s)
        if self.away.fell(h.name, error, rest):
            log.warning("source_failed", source=h.name, error=error)
        return rest

    def _stretch(self, h: Health) -> float:
        """Return how often this source is asked, so that all together keep to the budget.

        What the cheap ones leave of it is shared by the dear ones, all of which get the same share of a core.
        """
        costs = [
            x.cpu_s / x.least_s for x in self.health.values() if x.cpu_s
        ]  # what is pushed has none
        left = self.cpu_budget
        if sum(costs) <= left:
            return h.least_s
        costs.sort()
        share = left
        for i, cost in enumerate(costs):
            share = left / (len(costs) - i)
            if cost > share:
                break
            left -= cost
        return max(h.least_s, min(_LONGEST_REST_S, h.cpu_s / max(share, 1e-9)))
