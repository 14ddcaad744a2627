"""Our numbers on their way to those who keep them: what /metrics shows, and scores of chosen series.

    telemetry, world, p-values --(every `sink_s`)--> Sink.take (bounded, never waits) --> Sink.deliver, beside the ticks

A sink that fails is tried again with growing pauses, or after the time that it asks for; it holds up no tick.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import structlog

from agent.away import Absences, Away
from agent.catalogue import SIGNALS
from agent.errors import AgentError, Refused
from agent.model import FloatArray, Series
from agent.ports import Labels, Sink
from agent.telemetry import label_name
from agent.units import many

if TYPE_CHECKING:
    from agent.telemetry import Telemetry
    from agent.world import World

log = structlog.get_logger()

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0
_SCORE: Final = "homeostat_series_score"
_RAREST: Final = 300.0
"""A p-value of 0 has no logarithm."""

Scores = Iterable[tuple[tuple[Series, ...], FloatArray]]


def score_of(p: float) -> float:
    """Return how rare a p-value is, as -log10; NaN stays NaN."""
    if p <= 0.0:
        return _RAREST
    return max(0.0, min(-math.log10(p), _RAREST)) if p == p else p  # noqa: PLR0124  # NaN


class Numbers:
    """What a sink is given: numbers by their labels. What is unknown is left out, as in /metrics.

    scores   p-values (n,) of the series of each source
    """

    def __init__(self, telemetry: Telemetry, world: World, scores: Callable[[], Scores]) -> None:
        self._telemetry = telemetry
        self._world = world
        self._scores = scores
        self._known: dict[tuple[str, Series], Labels] = {}

    def of(self, sink: Sink) -> dict[Labels, float]:
        """Return the numbers that a sink wants."""
        out: dict[Labels, float] = {}
        for name, labels, value in self._telemetry.numbers():
            if sink.keeps(name):
                out[tuple(sorted((("__name__", name), *labels)))] = value
        rows = self._world.rows()
        before, self._known = self._known, {}
        for source, (table, row, when) in rows.items():
            fresh = self._world.now - when <= self._world.patience.get(source, math.inf)
            kept = sink.keeps
            for series, value, well in zip(table, row.tolist(), fresh.tolist(), strict=True):
                known = SIGNALS.get(series.metric)
                if well and value == value and known is not None and kept(known.exported):  # noqa: PLR0124  # NaN
                    out.setdefault(self._labels(known.exported, series, before), value)
        for table, p in self._scores():
            for series, rare in zip(table, p.tolist(), strict=True):
                if rare == rare and sink.heeds(series):  # noqa: PLR0124  # NaN
                    out[self._labels(_SCORE, series, before)] = score_of(rare)
        return out

    def _labels(
        self, name: str, series: Series, before: Mapping[tuple[str, Series], Labels]
    ) -> Labels:
        key = name, series
        found = before.get(key)
        if found is None:
            own = [(label_name(k), v) for k, v in series.labels if v]
            if name == _SCORE:
                own.append(("signal", series.metric))
            pairs = {"__name__": name, **dict(own), "entity": series.entity.id}
            found = tuple(sorted(pairs.items()))
        self._known[key] = found
        return found


class Sinks:
    """Gives every sink its numbers in its own rhythm.

    sinks   the connectors that are one, by name, as they are now
    spawn   runs something beside the ticks
    """

    def __init__(
        self,
        sinks: Callable[[], Mapping[str, Sink]],
        spawn: Callable[[Awaitable[None], str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sinks = sinks
        self._spawn = spawn
        self._clock = clock
        self._due: dict[str, float] = {}
        self._rest: dict[str, tuple[float, float]] = {}
        """Sink -> until when it rests, and how long it did."""
        self._out: set[str] = set()
        self._away = Absences("numbers", clock)

    def faults(self) -> list[str]:
        """Say of each that does not take our numbers, why, and how many wait."""
        return [
            f"{x.connector}: {many(x.waiting, 'sample waits', 'samples wait')} ({x.why})"
            for x in self.away()
        ]

    def away(self) -> list[Away]:
        """Return those that do not take our numbers."""
        there = self._sinks()
        self._away.only(there)
        return self._away.told(lambda name: there[name].tally.get("waiting", 0))

    def tally(self) -> dict[str, Mapping[str, int]]:
        """Return what became of the samples of each."""
        return {name: sink.tally for name, sink in self._sinks().items()}

    def tick(self, ts: float, numbers: Callable[[Sink], dict[Labels, float]]) -> None:
        """Hand out what is due; deliver what waits."""
        now, sinks = self._clock(), self._sinks()
        for gone in set(self._due) - set(sinks):
            del self._due[gone]
            self._rest.pop(gone, None)
        for name, sink in sinks.items():
            if self._due.get(name, now) > now:
                continue
            self._due[name] = max(self._due.get(name, now) + sink.sink_s, now)
            try:
                sink.take(ts, numbers(sink))
            except AgentError as error:
                self._say(name, error, sink.sink_s)
        for name, sink in sinks.items():
            rest, _ = self._rest.get(name, (0.0, 0.0))
            if name not in self._out and rest <= now and sink.tally.get("waiting", 0):
                self._out.add(name)
                self._spawn(self._deliver(name, sink), f"numbers for {name}")

    async def _deliver(self, name: str, sink: Sink) -> None:
        try:
            await sink.deliver()
        except AgentError as error:
            wait = sink.sink_s
            if not isinstance(error, Refused):
                _, rested = self._rest.get(name, (0.0, 0.0))
                rest = min(max(_FIRST_S, 2 * rested), _LONGEST_S)
                wait = max(rest, getattr(error, "wait_s", None) or 0.0)
                self._rest[name] = self._clock() + wait, rest
            self._say(name, error, wait)
        else:
            if (after_s := self._away.back(name)) is not None:
                log.info("numbers_taken_again", sink=name, after_s=after_s)
            self._rest.pop(name, None)
        finally:
            self._out.discard(name)

    def _say(self, name: str, error: AgentError, rest_s: float) -> None:
        if self._away.fell(name, str(error), rest_s):  # once, not at each try
            log.warning("numbers_not_delivered", sink=name, error=str(error))
