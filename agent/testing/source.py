"""The contract of a source: what a frame must look like, and that polling hurts nobody else."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np

from agent.attributes import ATTRIBUTES
from agent.catalogue import SIGNALS
from agent.model import Frame
from agent.ports import Source
from agent.possible import reach
from agent.testing._check import Broken, Check, must

_LOOP_S: Final = 1.0
"""How long a source may hold up everything else; generous, as test machines are busy."""
_AGE_S: Final = 60.0


def check_source(
    make: Callable[[], Source],
    *,
    name: str,
    close: Callable[[Source], Awaitable[None]] | None = None,
) -> list[Check]:
    """Return the checks for a source.

    make    gives a fresh one that is called `name`
    close   ends it (child processes, connections); what `make` gave is always closed
    """
    kept = _Sources(make, name, close)
    checks = [
        ("interval", "interval_s is a positive number of seconds"),
        ("shape", "values are float64 (n,) over n series, without infinities, measured just now"),
        ("sorted", "series are sorted and none is there twice"),
        ("named", "the frame carries the name that the source was given"),
        ("signals", "every series is a signal of the catalogue on an entity of its kind"),
        ("labels", "labels are sorted pairs of text, without an empty value"),
        ("same_table", "as long as the series are the same, they are the same tuple object"),
        (
            "sightings",
            "what is told of entities is sorted, has known names, and is told once while it does not change",
        ),
        ("in_turn", f"a poll never holds up the event loop for {_LOOP_S:g} s"),
        ("time_goes_on", "two polls are two moments, the second one later"),
    ]
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


class _Sources:
    """The checks of a source, one method each."""

    def __init__(
        self,
        make: Callable[[], Source],
        name: str,
        close: Callable[[Source], Awaitable[None]] | None,
    ) -> None:
        self.make = make
        self.name = name
        self.close = close

    async def _polls(self, n: int) -> list[Frame]:
        source = self.make()
        try:
            out = []
            for i in range(n):
                if i:
                    await asyncio.sleep(0.05)
                out.append(await source.poll())
            return out
        finally:
            if self.close is not None:
                await self.close(source)

    async def interval(self) -> None:
        source = self.make()
        try:
            seconds = source.interval_s
        finally:
            if self.close is not None:
                await self.close(source)
        must(math.isfinite(seconds) and seconds > 0, "interval", f"interval_s is {seconds!r}")

    async def shape(self) -> None:
        for frame in await self._polls(2):
            n = len(frame.series)
            values = frame.values
            must(
                isinstance(values, np.ndarray)
                and values.shape == (n,)
                and values.dtype == np.float64,
                "shape",
                f"{n} series with values {values.dtype} {values.shape}, wanted float64 ({n},)",
            )
            endless = [str(s) for s, v in zip(frame.series, values, strict=True) if math.isinf(v)]
            must(not endless, "shape", f"infinite: {', '.join(endless[:3])}")
            age = time.time() - frame.ts
            must(abs(age) < _AGE_S, "shape", f"the frame says it was measured {age:.0f} s ago")

    async def sorted(self) -> None:
        for frame in await self._polls(2):
            for one, two in itertools.pairwise(frame.series):
                must(one != two, "sorted", f"{one} is there twice")
                must(one < two, "sorted", f"{one} stands before {two}")

    async def named(self) -> None:
        (frame,) = await self._polls(1)
        must(
            frame.source == self.name,
            "named",
            f"it calls itself {frame.source!r}, not {self.name!r}",
        )

    async def signals(self) -> None:
        for frame in await self._polls(2):
            for series in frame.series:
                known = SIGNALS.get(series.metric)
                if known is None:
                    raise Broken(
                        f"signals: nobody defined {series.metric}, add it to agent/catalogue.py"
                    )
                must(
                    known.entity_kind == series.entity.kind,
                    "signals",
                    f"{series.metric} is about a {series.entity.kind}, wanted a {known.entity_kind}",
                )
            for value, series in zip(frame.values.tolist(), frame.series, strict=True):
                kind = SIGNALS[series.metric]
                must(
                    kind.unit != "bool" or value in {0.0, 1.0} or math.isnan(value),
                    "signals",
                    f"{series} is {value:g}, wanted 0 or 1",
                )
                must(
                    kind.kind != "counter" or not value < 0,
                    "signals",
                    f"counter {series} is {value:g}",
                )
                must(
                    not (value < kind.least or value > kind.most),
                    "signals",
                    f"{series} is {value:g}, possible is {reach(series.metric)}",
                )

    async def labels(self) -> None:
        (frame,) = await self._polls(1)
        for series in frame.series:
            pairs = series.labels
            good = (
                isinstance(pairs, tuple)
                and all(isinstance(k, str) and isinstance(v, str) and k and v for k, v in pairs)
                and list(pairs) == sorted(set(pairs))
                and len({k for k, _ in pairs}) == len(pairs)
            )
            must(good, "labels", f"{series.metric} carries {pairs!r}")

    async def same_table(self) -> None:
        frames = await self._polls(3)
        for one, two in itertools.pairwise(frames):
            must(
                one.series is two.series or one.series != two.series,
                "same_table",
                f"{len(two.series)} equal series came as another tuple",
            )

    async def sightings(self) -> None:
        one, two = await self._polls(2)
        for frame in (one, two):
            for seen in frame.seen:
                must(
                    list(seen.attrs) == sorted(seen.attrs),
                    "sightings",
                    f"attributes of {seen.entity} are not sorted: {[k for k, _ in seen.attrs]}",
                )
                strange = sorted(
                    {name for name, _ in seen.attrs} - ATTRIBUTES[seen.entity.kind].keys()
                )
                must(
                    not strange,
                    "sightings",
                    f"a {seen.entity.kind} has no attributes {strange}: `agent/attributes.py` lists them",
                )
        told = {seen.entity: seen for seen in one.seen}
        again = [str(seen.entity) for seen in two.seen if told.get(seen.entity) == seen]
        must(not again, "sightings", f"told again although nothing changed: {', '.join(again[:3])}")

    async def in_turn(self) -> None:
        longest, last, over = 0.0, time.monotonic(), False

        async def watch() -> None:
            nonlocal longest, last
            while not over:
                await asyncio.sleep(0.01)
                now = time.monotonic()
                longest, last = max(longest, now - last), now

        watcher = asyncio.create_task(watch())
        try:
            await self._polls(2)
        finally:
            over = True
            await watcher
        must(longest < _LOOP_S, "in_turn", f"nothing else could run for {longest:.2f} s")

    async def time_goes_on(self) -> None:
        one, two = await self._polls(2)
        must(
            two.ts > one.ts,
            "time_goes_on",
            f"the second poll is {one.ts - two.ts:.3f} s before the first",
        )
