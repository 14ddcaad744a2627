"""When what fills, leaks or ages will be full: kept up to date beside the ticks, told before it bites.

    every few minutes: look() -> new rows of history into buckets -> screen (numpy) -> who is due?
                              -> Worker.train("fill") (another process) -> Forecast: quantiles of the time to limit
    every tick:        step() -> limit reached within the lead time, as sure as asked? -> Anomaly, with its `ahead`
    every minute:      frame() -> signals such as host.disk_full_seconds, for conditions, charts and /metrics

An alarm begins when the limit is reached within the lead time with the stated probability, and ends when not even one
forecast in two reaches it within one and a half lead times; a forecast that can not be told changes nothing. What
stands still costs its buckets; only what the screen lets through starts the worker, the sooner it is full the oftener.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import structlog

from agent import checkpoint
from agent.catalogue import SIGNALS
from agent.config import Outlook
from agent.errors import AgentError, Refused
from agent.filling import (
    FINE_S,
    LEVELS,
    SPAN_S,
    Forecast,
    Past,
    Target,
    newest,
    screen,
    targets,
)
from agent.model import Anomaly, BoolArray, Frame, Incident, IntArray, Series
from agent.objectives import Limit
from agent.training import Reads
from agent.worker import Job, Worker
from agent.world import World

log = structlog.get_logger()

SOURCE: Final = "forecast"
"""Name of the source of our signals."""
FAMILY: Final = "forecast"
LOOK_EVERY_S: Final = 30.0
_FRAME_EVERY_S: Final = 60.0
PATIENCE_S: Final = 200.0
"""After so long without a frame our signals are unknown."""
_HORIZON: Final = 3.0
"""Forecasts reach so many times as far as the longest lead time."""
_OFF: Final = 1.5
_OFF_PROBABILITY: Final = 0.5
_PIECE_S: Final = 3600.0
"""So much history is read between two ticks."""
_MOST: Final = 48
"""Series of one job: some ten seconds of the worker."""
_LIMIT_S: Final = 180.0
_NICE: Final = 5
"""Some seconds every few minutes may be had before others: what fills does so most often on a host that is busy."""
_AGAIN_SHARE: Final = 1.0 / 24.0
_AGAIN_S: Final = 1800.0
"""What is not within its horizon is looked at again after so long, unless it has become quicker."""
_QUICKER: Final = 0.5
_GONE_S: Final = 900.0
"""A series that nobody has seen for so long takes its alarm with it."""
_WHY: Final = ("", "its history is too short", "it has not answered lately")
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Told:
    """An alarm that stands: since when, and whether it pages."""

    onset: float
    page: bool
    anomaly: Anomaly


@dataclass(slots=True)
class _Turn:
    """When a series is foretold again: at `next`, or when it may be full in half of `soon`."""

    next: float = -math.inf
    soon: float = math.inf


@dataclass(slots=True)
class Forecasts:
    """The forecasts of one daemon.

    outlook   `forecasts:` of agent.yaml
    limits    the objectives: what people stated is a limit, too
    """

    outlook: Outlook
    limits: Sequence[Limit]
    history: Reads
    world: World
    worker: Worker = field(
        default_factory=lambda: Worker(limit_s=_LIMIT_S, memory_bytes=2e9, nice=_NICE)
    )
    bugs: Callable[[str, Exception], None] | None = None
    found: dict[Series, Forecast] = field(default_factory=dict)
    told: dict[Series, Told] = field(default_factory=dict)
    fault: str = ""
    _targets: tuple[Target, ...] = ()
    _tables: tuple[tuple[Series, ...], ...] = ()
    _past: Past | None = None
    _new: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    _near: dict[Series, Forecast] = field(default_factory=dict)
    _fed: float = -math.inf
    _turns: dict[Series, _Turn] = field(default_factory=dict)
    _gone: dict[Series, float] = field(default_factory=dict)
    _restored: set[Series] = field(default_factory=set)
    """Alarms from before a restart: they say nothing until a forecast of now says it again."""
    _series: tuple[Series, ...] = ()
    _framed: float = -math.inf
    _next: float = -math.inf
    _task: asyncio.Task[None] | None = None

    # ---- beside the ticks

    async def look(self) -> None:
        """Start a round when one is due and none is going on; returns at once. Called on the loop, as in training."""
        going = self._task is not None and not self._task.done()
        if going or not self.outlook.enabled or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.outlook.every
        self._task = asyncio.create_task(self._guarded(), name="forecasts")

    async def close(self) -> None:
        """Break off the round that is going on and end the worker."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.worker.close()

    def _break_off(self) -> None:
        """Let go of a round that is going on: what it would say is of other times or another config."""
        if self._task is not None:
            self._task.cancel()
        self._next = -math.inf

    async def _guarded(self) -> None:
        try:
            await self.round(self.world.now)
        except Refused as no:
            self._say(str(no))
        except AgentError as error:
            log.warning("forecast_failed", error=str(error))
        except Exception as error:  # noqa: BLE001  # a border: a bug of the forecaster must not end the daemon
            if self.bugs is not None:
                self.bugs("forecasts", error)
        else:
            self.fault = ""

    def _say(self, problem: str) -> None:
        """Note what only a person can mend, once."""
        if problem != self.fault:
            log.info("forecasts_wait", problem=problem)
        self.fault = problem

    async def round(self, now: float) -> None:
        """Bring every forecast up to date. Raises what the worker raises; what is known without it stays."""
        self._retarget()
        if not self._targets:
            return
        await self._feed(now)
        self._age(now)
        due = self._due(now)
        try:
            if due:
                await self._foretell(now, due)
        finally:
            self._settle()

    def _settle(self) -> None:
        """Single out what may be full within its horizon: all that a tick has to look at."""
        self._near = {s: f for s, f in self.found.items() if not math.isinf(f.quantiles[0])}

    def _retarget(self) -> None:
        """Find what fills among the series of the world; keep the past of what stays."""
        tables = tuple(
            series for source, (series, _, _) in self.world.rows().items() if source != SOURCE
        )
        same = len(tables) == len(self._tables) and all(
            a is b for a, b in zip(tables, self._tables, strict=True)
        )
        if same and self._past is not None:
            return
        self._tables = tables
        leads = {kind: self.outlook.lead(kind) for kind in self.outlook.kinds()}
        wanted = targets((one for table in tables for one in table), self.limits)
        found = tuple(t for t in wanted if max(leads[t.kind]) > 0)
        before = {t: i for i, t in enumerate(self._targets)}
        old = np.array([before.get(t, -1) for t in found], dtype=np.int64)
        if self._past is None:
            self._new = np.ones(len(self._targets), dtype=bool)
        past = self._past if self._past is not None else Past(len(self._targets))
        self._past = past.remap(old)
        self._targets = found
        here = {t.series for t in found}
        self.found = {s: f for s, f in self.found.items() if s in here}
        self._turns = {t.series: self._turns.get(t.series, _Turn()) for t in found}
        unread = np.append(self._new, True)  # the last is for those that are new now
        self._new = unread[old]

    async def _feed(self, now: float) -> None:
        """Read what history has since the last round, of new series all; in pieces, as a block costs a millisecond."""
        end = math.floor(now / FINE_S) * FINE_S
        start = math.floor((now - SPAN_S) / FINE_S) * FINE_S
        new = self._new
        await self._read(np.flatnonzero(~new), max(self._fed, start), end)
        await self._read(np.flatnonzero(new), start, end)
        self._fed, self._new = end, np.zeros(len(self._targets), dtype=bool)

    async def _read(self, columns: IntArray, start: float, end: float) -> None:
        past = self._past
        if not len(columns) or past is None:
            return
        series = [self._targets[i].series for i in columns]
        signs = np.array([self._targets[i].sign for i in columns], dtype=np.float64)
        while start < end:
            until = min(start + _PIECE_S, end)
            # half a bucket before the end: that one belongs to the next piece
            ts, rows = self.history.read(series, start, until - FINE_S / 2.0, FINE_S)
            past.feed(ts, rows * signs, columns)
            start = until
            await asyncio.sleep(0)

    def _age(self, now: float) -> None:
        """Say of what ages when it is too old: no forecast is needed for that."""
        for t in self._targets:
            if math.isnan(t.pace):
                continue
            value = self.world.get(t.series)
            left = math.nan if value is None else max((t.limit - value) / t.pace, 0.0)
            horizon = self._horizon(t)
            full = now + left if left <= horizon else math.nan if math.isnan(left) else math.inf
            why = _WHY[2] if value is None else ""
            self.found[t.series] = Forecast(
                t, now, math.nan if value is None else value, (full,) * len(LEVELS), horizon, why
            )

    def _horizon(self, target: Target) -> float:
        return _HORIZON * max(self.outlook.lead(target.kind))

    def _due(self, now: float) -> list[int]:
        """Return who is worth the worker now, the soonest first; the others do not rise, which is an answer, too."""
        if self._past is None:
            return []
        ts, mean, _ = self._past.rows(now)
        signs = np.array([t.sign for t in self._targets], dtype=np.float64)
        limits = np.array([t.limit for t in self._targets]) * signs
        floors = np.array([t.floor for t in self._targets])
        soon = screen(ts, mean, limits, floors)
        last = newest(mean) * signs
        out = []
        for i, t in enumerate(self._targets):
            if not math.isnan(t.pace):
                continue
            turn, horizon = self._turns[t.series], self._horizon(t)
            if soon[i] > horizon and t.series not in self.told:
                nothing = math.isnan(last[i])
                quantiles = (math.nan if nothing else math.inf,) * len(LEVELS)
                why = _WHY[1] if nothing else ""
                self.found[t.series] = Forecast(t, now, float(last[i]), quantiles, horizon, why)
                # its turn stays: one that goes in and out of the screen must not start the worker each time
            elif now >= turn.next or soon[i] < _QUICKER * turn.soon:
                turn.soon = float(soon[i])
                out.append(i)
        return sorted(out, key=lambda i: (soon[i], i))[:_MOST]

    async def _foretell(self, now: float, due: Sequence[int]) -> None:
        """Have the worker foretell these, and keep what it says."""
        past = self._past
        if past is None:
            return
        asked = [self._targets[i] for i in due]
        ts, mean, most = past.rows(now)
        config = {
            "limits": [t.limit * t.sign for t in asked], "floors": [t.floor for t in asked],
            "horizons": [self._horizon(t) for t in asked],
        }  # fmt: skip
        values = np.concatenate([mean[:, due], most[:, due]], axis=1)
        began = time.monotonic()
        try:
            answer = await self.worker.train(Job("fill", config, ts, values))
            _, arrays = checkpoint.read("fill forecast", _VERSION, answer)
        except Refused as no:
            for t in asked:
                self.found[t.series] = Forecast(
                    t, now, math.nan, (math.nan,) * len(LEVELS), self._horizon(t), str(no)
                )
            raise
        last = newest(mean[:, due])
        for j, t in enumerate(asked):
            full = tuple(float(now + q) for q in arrays["quantiles"][j])
            why = _WHY[int(arrays["why"][j])]
            made = Forecast(t, now, float(last[j] * t.sign), full, self._horizon(t), why)
            self.found[t.series] = made
            self._turns[t.series].next = now + self._again(made)
        log.debug("foretold", series=len(asked), took_s=round(time.monotonic() - began, 1))

    def _again(self, made: Forecast) -> float:
        """Return after how long it is foretold again: oftener when it is near."""
        if not made.known:  # soon its history is long enough
            return self.outlook.every
        if not made.within:
            return _AGAIN_S
        left = made.at(0.5) - made.made
        return min(max(_AGAIN_SHARE * left, self.outlook.every), _AGAIN_S)

    # ---- with the ticks

    def step(self, now: float) -> list[Anomaly]:
        """Return the alarms that stand, and those that have just ended (with `end` set)."""
        out = []
        for series in [*self._near, *(s for s in self.told if s not in self._near)]:
            made = self.found.get(series)
            if made is None:
                continue
            alarm = self._judge(now, made)
            if alarm is not None:
                self.told[series] = alarm
            elif series in self.told:
                out.append(replace(self.told.pop(series).anomaly, end=now))
        for series in [s for s in self.told if s not in self.found]:
            # not seen: after a start it may still come, else it has gone
            if now - self._gone.setdefault(series, now) > _GONE_S:
                out.append(replace(self.told.pop(series).anomaly, end=now))
                del self._gone[series]
        if self._gone:
            self._gone = {s: at for s, at in self._gone.items() if s not in self.found}
        self._restored -= self.found.keys()
        return out + [alarm.anomaly for s, alarm in self.told.items() if s not in self._restored]

    def _judge(self, now: float, made: Forecast) -> Told | None:
        """Return the alarm that a forecast asks for, if any; hysteresis keeps one that stands."""
        standing = self.told.get(made.target.series)
        if not made.known:
            return standing
        if math.isinf(made.quantiles[0]):
            return None
        page_s, tell_s = self.outlook.lead(made.target.kind)
        page = self._reached(now, made, page_s, standing=standing is not None and standing.page)
        tell = self._reached(now, made, tell_s, standing=standing is not None)
        if not (page or tell):
            return None
        onset = standing.onset if standing is not None else now
        return Told(onset, page, _anomaly(made, onset, page=page))

    def _reached(self, now: float, made: Forecast, lead_s: float, *, standing: bool) -> bool:
        if lead_s <= 0:
            return False
        if standing and made.sure(_OFF_PROBABILITY) <= now + _OFF * lead_s:
            return True
        return made.sure(self.outlook.probability) <= now + lead_s

    def frame(self, now: float) -> Frame | None:
        """Return our signals once a minute: seconds until full, as sure as asked, at most the horizon."""
        if not 0 <= now - self._framed < _FRAME_EVERY_S:
            self._framed = now
        else:
            return None
        shown = [(_signal(s), f) for s, f in self.found.items()]
        if not shown:
            return None
        shown.sort(key=lambda pair: pair[0])
        series = tuple(s for s, _ in shown)
        if series != self._series:
            self._series = series
        left = [f.sure(self.outlook.probability) - now for _, f in shown]
        values = [min(max(x, 0.0), f.horizon_s) if f.known else math.nan
                  for x, (_, f) in zip(left, shown, strict=True)]  # fmt: skip
        return Frame(SOURCE, now, self._series, np.array(values))

    # ---- restarts, clocks, reload

    def restore(self, incidents: Iterable[Incident]) -> None:
        """Take up the alarms of open incidents after a restart: only a forecast ends them."""
        for incident in incidents:
            for a in incident.anomalies:
                if a.ahead is not None and a.end is None and incident.state != "resolved":
                    self.told[a.series] = Told(a.onset, a.harm, a)
                    self._restored.add(a.series)

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set; the past is read anew."""
        self._break_off()
        self._past, self._fed, self._framed = None, -math.inf, -math.inf
        self._targets = ()
        self.found = {
            s: replace(f, made=f.made + jump, quantiles=tuple(q + jump for q in f.quantiles))
            for s, f in self.found.items()
        }
        self._settle()
        for turn in self._turns.values():
            turn.next += jump
        self._gone = {s: at + jump for s, at in self._gone.items()}

    def reload(self, outlook: Outlook, limits: Sequence[Limit]) -> None:
        """Take a new config: what is still wanted is foretold anew."""
        self._break_off()
        self.outlook, self.limits = outlook, limits
        self._past, self._fed = None, -math.inf
        self._targets, self.found, self._turns, self._near = (), {}, {}, {}


def _signal(series: Series) -> Series:
    """Return the signal that tells how soon this series reaches its limit."""
    return Series(SIGNALS[series.metric].ahead, series.entity, series.labels)


def _anomaly(made: Forecast, onset: float, *, page: bool) -> Anomaly:
    """Return what incidents are made of: the series that fills, the limit as its band, and when."""
    t = made.target
    left = abs(t.limit - made.value)
    low, high = (math.nan, t.limit) if t.sign > 0 else (t.limit, math.nan)
    return Anomaly(
        t.series, onset, None, 0.0, t.sign, made.value, low, high, left, 1.0, "objective",
        f"{FAMILY}: {t.kind}", page, ahead=made.ahead,
    )  # fmt: skip
