"""Checks of the contracts in `agent/ports.py`, for authors of plug-ins and for our own tests.

    for check in check_detector(lambda n: MyDetector(MyDetector.Config(), n)):
        print(check.name, await check.fault() or "holds")

Every check says in one line what it demands and fails with `Broken`, which names the check, what was seen and what
was wanted. They need no test framework. Detectors are fed made-up rows with a fixed seed; sources and actions are
used for real, so hand in ones that stand on a world of their own (a folder, a process, a service made for it).
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pydantic

from agent.catalogue import SIGNALS
from agent.errors import AgentError, Refused
from agent.model import FloatArray, Frame
from agent.ports import Action, Detector, Done, Source, Step, Undo, Why

_T0: Final = 1_700_000_000.0
_STATE_BYTES: Final = 3_000
"""What a detector may keep of one series."""
_LOOP_S: Final = 1.0
"""How long a source may hold up everything else; generous, as test machines are busy."""
_AGE_S: Final = 60.0
_EFFECTS: Final = frozenset({"mutating", "marking", "reading"})


class Broken(AgentError):
    """A plug-in does not keep its contract."""


@dataclass(frozen=True, slots=True)
class Check:
    """One demand of a contract.

    name     what exemptions refer to
    demand   one line for people
    run      raises Broken when the plug-in does not keep it; whatever the plug-in raises comes through
    """

    name: str
    demand: str
    run: Callable[[], Awaitable[None]]

    async def fault(self) -> str | None:
        """Return what is wrong in one line; None = it holds."""
        try:
            await self.run()
        except Broken as broken:
            return str(broken)
        except Exception as error:  # noqa: BLE001  # a plug-in under test may raise anything
            return f"{self.name}: raised {type(error).__name__}: {error}"
        return None


def _must(holds: bool, check: str, seen: str) -> None:
    if not holds:
        raise Broken(f"{check}: {seen}")


# ---------------------------------------------------------------------- detectors

Make = Callable[[int], Detector]


def _noise(rows: int, n: int, seed: int = 0) -> FloatArray:
    return 50.0 + np.random.default_rng(seed).normal(size=(rows, n))


def _feed(
    detector: Detector,
    rows: FloatArray,
    *,
    start: float = _T0,
    step_s: float = 1.0,
    trust: bool = True,
) -> FloatArray:
    """Score and learn rows (k, n), and return what was scored (k, n)."""
    out = np.full(rows.shape, np.nan)
    for i, row in enumerate(rows):
        ts = start + i * step_s
        out[i] = detector.score(ts, row)
        detector.learn(ts, row, np.full(rows.shape[1], trust))
    return out


def check_detector(
    make: Make, *, step_s: float = 1.0, shift: bool = True, scale: bool = True
) -> list[Check]:
    """Return the checks for a detector.

    make           gives a fresh one for n series, the same each time
    step_s         seconds between rows that it is made for
    shift, scale   whether it promises that adding a number, or multiplying by a positive one, changes no p-value
    """
    kept = _Detectors(make, step_s)
    checks = [
        (
            "p_values",
            "scores are p-values: float64 (n,), in 0..1 or NaN; the row is left as it was",
        ),
        ("deterministic", "the same rows give the same p-values"),
        ("constant_is_quiet", "a series that never moves never scores below 0.1"),
        ("leap_is_seen", "a leap of fifty deviations after 2,000 rows of noise has p below 0.01"),
        ("honest_floor", "p is never below 1 / (30 rows learnt)"),
        (
            "nan_is_unknown",
            "no value, no p-value, unless it was learnt and is said to be silence; the others do not notice",
        ),
        ("gap_is_survived", "after a day without rows it scores on, and noise is still ordinary"),
        ("late_and_repeated", "rows that come late or twice are not learnt"),
        ("score_is_pure", "scoring changes nothing that is dumped"),
        ("columns_are_alone", "a series has the same p-values among others as by itself"),
        ("distrust", "what was not trusted is as abnormal after 200 rows as after one"),
        ("restart", "load(dump()) goes on as if it had never stopped"),
        ("damage", "a damaged state is refused and leaves the detector as it was"),
        ("remap", "series that stay keep what was learnt, new ones start from nothing"),
        ("bounded", f"state does not grow with time and stays below {_STATE_BYTES} bytes a series"),
        ("explains", "explain gives a family, a band, and how many rows stand behind it"),
        *([("shift", "adding a number changes no p-value")] if shift else []),
        *([("scale", "multiplying by a positive number changes no p-value")] if scale else []),
    ]
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


class _Detectors:
    """The checks of a detector, one method each."""

    def __init__(self, make: Make, step_s: float) -> None:
        self.make = make
        self.step_s = step_s

    def feed(
        self, detector: Detector, rows: FloatArray, after: int = 0, *, trust: bool = True
    ) -> FloatArray:
        start = _T0 + after * self.step_s
        return _feed(detector, rows, start=start, step_s=self.step_s, trust=trust)

    async def p_values(self) -> None:
        rows = _noise(700, 5)
        rows[::7, 1] = np.nan
        rows[:, 2] = 3.0
        rows[500:, 3] = 1e12
        detector = self.make(5)
        for i, row in enumerate(rows):
            given = row.copy()
            p = detector.score(_T0 + i * self.step_s, row)
            _must(
                isinstance(p, np.ndarray) and p.shape == (5,) and p.dtype == np.float64,
                "p_values",
                f"row {i} gave {type(p).__name__} {getattr(p, 'shape', '')}, wanted float64 (5,)",
            )
            wrong = ~np.isnan(p) & ~((p >= 0) & (p <= 1))
            _must(not wrong.any(), "p_values", f"row {i} gave {p[wrong]}, outside 0..1")
            detector.learn(_T0 + i * self.step_s, row, np.ones(5, bool))
            same = np.array_equal(row, given, equal_nan=True)
            _must(same, "p_values", f"row {i} was changed from {given} to {row}")
        _must(
            bool(np.isfinite(p[[0, 2, 3, 4]]).all()), "p_values", f"not ready after 700 rows: {p}"
        )

    async def deterministic(self) -> None:
        rows = _noise(400, 3)
        one, two = self.feed(self.make(3), rows), self.feed(self.make(3), rows)
        _equal("deterministic", one, two, "two runs over the same rows")

    async def constant_is_quiet(self) -> None:
        values = np.array([0.0, 1.0, -3.5, 1e12, 0.1, 1e-9])
        p = self.feed(self.make(len(values)), np.tile(values, (1500, 1)))
        low = np.nanmin(np.where(np.isnan(p), 1.0, p), axis=0)
        for value, least in zip(values, low, strict=True):
            _must(least >= 0.1, "constant_is_quiet", f"a constant {value:g} was given p {least:g}")

    async def leap_is_seen(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(2000, 2))
        p = detector.score(_T0 + 2000 * self.step_s, np.array([100.0, 50.0]))
        _must(bool(p[0] < 0.01), "leap_is_seen", f"a leap from 50 +- 1 to 100 was given p {p[0]:g}")
        _must(
            bool(p[1] > 0.01),
            "leap_is_seen",
            f"its neighbour, which did not move, was given p {p[1]:g}",
        )

    async def honest_floor(self) -> None:
        detector = self.make(1)
        rows = _noise(600, 1)
        rows[40::40] = 1e9
        for i, row in enumerate(rows):
            ts = _T0 + i * self.step_s
            p = float(detector.score(ts, row)[0])
            learnt = detector.explain(0).learnt_rows
            _must(
                math.isnan(p) or p >= (1 - 1e-9) / (30 * max(learnt, 1)),
                "honest_floor",
                f"p is {p:g} after {learnt} rows, below 1 / (30 x {learnt})",
            )
            detector.learn(ts, row, np.ones(1, bool))

    async def nan_is_unknown(self) -> None:
        whole = _noise(600, 3)
        holes = whole.copy()
        missing = np.random.default_rng(1).random(600) < 0.4
        holes[missing, 1] = np.nan
        holes[:, 2] = np.nan
        holes[400:430, 1] = np.nan
        missing = np.isnan(holes[:, 1])
        detector = self.make(3)
        p = np.full(holes.shape, np.nan)
        for i, row in enumerate(holes):
            p[i] = self.feed(detector, row[None], i)[0]
            for j in np.flatnonzero(np.isfinite(p[i]) & np.isnan(row)):
                known = int(np.isfinite(holes[:i, j]).sum())
                said = detector.explain(int(j)).family
                _must(known > 0, "nan_is_unknown", "a series that never answered was given a p")
                _must(said == "silence", "nan_is_unknown", f"no value is explained as {said!r}")
                _must(
                    p[i, j] >= (1 - 1e-9) / (30 * known),
                    "nan_is_unknown",
                    f"silence has p {p[i, j]:g} after {known} values, below 1 / (30 x {known})",
                )
        nothing = detector.score(_T0 + 600 * self.step_s, np.full(3, np.nan))
        _must(
            bool(np.isnan(nothing).all()),
            "nan_is_unknown",
            "where nobody has a value, a series was given a p",
        )
        answered = p[300:, 1][~missing[300:]]
        _must(
            bool(np.isfinite(answered).all()),
            "nan_is_unknown",
            "a series with holes is still not ready after 300 rows",
        )
        _equal(
            "nan_is_unknown",
            self.feed(self.make(3), whole)[:, 0],
            p[:, 0],
            "a series whose neighbours have holes",
        )

    async def gap_is_survived(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(1500, 2))
        p = self.feed(detector, _noise(60, 2, seed=2), 1500 + int(86_400 / self.step_s))
        _must(
            bool(np.isfinite(p).all()),
            "gap_is_survived",
            "no p-values for a series that was ready before a day's gap",
        )
        _must(
            bool(p.min() > 1e-3),
            "gap_is_survived",
            f"ordinary noise after a gap was given p {p.min():g}",
        )

    async def late_and_repeated(self) -> None:
        rows = _noise(200, 2)
        plain, messy = self.make(2), self.make(2)
        self.feed(plain, rows)
        trust = np.ones(2, bool)
        for i, row in enumerate(rows):
            ts = _T0 + i * self.step_s
            self.feed(messy, row[None], i)
            messy.learn(ts, row + 7.0, trust)
            if i > 3:
                messy.learn(ts - 2 * self.step_s, row + 7.0, trust)
        ahead = _noise(20, 2, seed=3)
        _equal(
            "late_and_repeated",
            self.feed(plain, ahead, 200),
            self.feed(messy, ahead, 200),
            "with late and repeated rows between",
        )

    async def score_is_pure(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(200, 2))
        before = detector.dump()
        detector.score(_T0 + 200 * self.step_s, np.array([1e6, np.nan]))
        detector.explain(0)
        _must(detector.dump() == before, "score_is_pure", "its dump is another after a mere score")

    async def columns_are_alone(self) -> None:
        rows = _noise(500, 4)
        rows[:, 1] = rows[:, 1].cumsum()
        rows[:, 2] = 0.0
        rows[250:, 3] *= 1e6
        together = self.feed(self.make(4), rows)
        for j in range(4):
            alone = self.feed(self.make(1), rows[:, [j]])[:, 0]
            _equal("columns_are_alone", alone, together[:, j], f"column {j} among others")

    async def distrust(self) -> None:
        detector = self.make(1)
        self.feed(detector, _noise(2000, 1))
        p = self.feed(detector, 50.0 + _noise(200, 1, seed=4), 2000, trust=False)
        _must(
            bool(p[-1, 0] < 0.01),
            "distrust",
            f"an excursion that was never trusted has p {p[-1, 0]:g} after 200 rows",
        )
        back = self.feed(detector, _noise(60, 1, seed=5), 2200)
        _must(
            bool(back[-1, 0] > 1e-3),
            "distrust",
            f"what was ordinary before the excursion has p {back[-1, 0]:g} a minute after it",
        )

    async def restart(self) -> None:
        rows = _noise(600, 3)
        rows[:, 1] = rows[:, 1].cumsum()
        rows[::5, 2] = np.nan
        whole = self.feed(self.make(3), rows)
        first = self.make(3)
        self.feed(first, rows[:301])
        second = self.make(3)
        second.load(first.dump())
        _equal("restart", whole[301:], self.feed(second, rows[301:], 301), "after load(dump())")
        _must(
            second.dump() == self._fed(first, rows[301:], 301).dump(),
            "restart",
            "the two differ in their dumps",
        )

    def _fed(self, detector: Detector, rows: FloatArray, after: int) -> Detector:
        self.feed(detector, rows, after)
        return detector

    async def damage(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(100, 2))
        state = detector.dump()
        middle = len(state) // 2
        hurt = {
            "empty": b"",
            "cut short": state[:-3],
            "with a byte changed": state[:middle]
            + bytes([state[middle] ^ 0xFF])
            + state[middle + 1 :],
            "of something else": b"nothing of the kind" * 10,
        }
        for what, bad in hurt.items():
            try:
                detector.load(bad)
            except Refused:
                _must(
                    detector.dump() == state,
                    "damage",
                    f"a state {what} was refused, but changed it",
                )
            else:
                raise Broken(f"damage: a state {what} was taken")

    async def remap(self) -> None:
        rows = _noise(500, 4)
        whole = self.feed(self.make(4), rows)
        detector = self.make(3)
        self.feed(detector, rows[:300, [0, 1, 2]])
        detector.remap(np.array([2, -1, 0]))
        p = self.feed(detector, rows[300:, [2, 3, 0]], 300)
        _equal("remap", whole[300:, [0, 2]], p[:, [2, 0]], "series that stayed")
        fresh = self.feed(self.make(1), rows[300:, [3]], 300)
        _must(
            np.array_equal(np.isnan(fresh[:, 0]), np.isnan(p[:, 1])),
            "remap",
            "a new series is ready earlier or later than it would be in a new detector",
        )
        detector.remap(np.array([], dtype=np.int64))
        _must(
            detector.score(_T0 + 600 * self.step_s, np.empty(0)).shape == (0,),
            "remap",
            "no series, yet scores",
        )

    async def bounded(self) -> None:
        n = 10
        detector = self.make(n)
        self.feed(detector, _noise(800, n))
        early = len(detector.dump())
        self.feed(detector, _noise(1600, n, seed=6), 800)
        late = len(detector.dump())
        _must(late <= 1.05 * early + 64, "bounded", f"state grew from {early} to {late} bytes")
        one = (late - len(self.make(0).dump())) / n
        _must(one <= _STATE_BYTES, "bounded", f"{one:.0f} bytes a series, more than {_STATE_BYTES}")

    async def explains(self) -> None:
        detector = self.make(1)
        self.feed(detector, _noise(1000, 1))
        detector.score(_T0 + 1000 * self.step_s, np.array([90.0]))
        why = detector.explain(0)
        _must(isinstance(why, Why), "explains", f"explain gave {type(why).__name__}, wanted Why")
        _must(bool(why.family), "explains", "the family has no name")
        _must(
            why.learnt_rows == 1000, "explains", f"learnt_rows is {why.learnt_rows} after 1000 rows"
        )
        _must(
            why.deviations > 5, "explains", f"40 deviations away, explained as {why.deviations:g}"
        )
        _must(
            math.isnan(why.low) or why.low <= 50 <= why.high,
            "explains",
            f"the band {why.low:g} to {why.high:g} leaves out 50, where the series always was",
        )

    async def shift(self) -> None:
        self._same("shift", by=1.0, plus=1234.5)

    async def scale(self) -> None:
        for factor in (1e-3, 7.0, 1e6):
            self._same("scale", by=factor, plus=0.0)

    def _same(self, name: str, *, by: float, plus: float) -> None:
        rows = _noise(500, 2)
        rows[:, 1] = rows[:, 1].cumsum()
        rows[400:] += 6.0
        plain, moved = self.feed(self.make(2), rows), self.feed(self.make(2), rows * by + plus)
        with np.errstate(divide="ignore"):
            far = np.abs(np.log(plain) - np.log(moved))
        ready = ~np.isnan(plain)
        _must(np.array_equal(ready, ~np.isnan(moved)), name, "it is ready at another row")
        worst = float(np.nanmax(np.where(ready, far, 0.0)))
        _must(worst < 1e-3, name, f"a p-value changed by a factor of {math.exp(worst):.4g}")


def _equal(check: str, wanted: FloatArray, seen: FloatArray, what: str) -> None:
    if np.array_equal(wanted, seen, equal_nan=True):
        return
    rows = np.flatnonzero(
        ((wanted != seen) & ~(np.isnan(wanted) & np.isnan(seen)))
        .reshape(len(wanted), -1)
        .any(axis=1)
    )
    at = int(rows[0])
    raise Broken(f"{check}: {what} gave p {seen[at]} at row {at}, wanted {wanted[at]}")


# ---------------------------------------------------------------------- sources


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
        ("sightings", "what is told of entities is sorted, and told once while it does not change"),
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
        _must(math.isfinite(seconds) and seconds > 0, "interval", f"interval_s is {seconds!r}")

    async def shape(self) -> None:
        for frame in await self._polls(2):
            n = len(frame.series)
            values = frame.values
            _must(
                isinstance(values, np.ndarray)
                and values.shape == (n,)
                and values.dtype == np.float64,
                "shape",
                f"{n} series with values {values.dtype} {values.shape}, wanted float64 ({n},)",
            )
            endless = [str(s) for s, v in zip(frame.series, values, strict=True) if math.isinf(v)]
            _must(not endless, "shape", f"infinite: {', '.join(endless[:3])}")
            age = time.time() - frame.ts
            _must(abs(age) < _AGE_S, "shape", f"the frame says it was measured {age:.0f} s ago")

    async def sorted(self) -> None:
        for frame in await self._polls(2):
            for one, two in itertools.pairwise(frame.series):
                _must(one != two, "sorted", f"{one} is there twice")
                _must(one < two, "sorted", f"{one} stands before {two}")

    async def named(self) -> None:
        (frame,) = await self._polls(1)
        _must(
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
                _must(
                    known.entity_kind == series.entity.kind,
                    "signals",
                    f"{series.metric} is about a {series.entity.kind}, wanted a {known.entity_kind}",
                )
            for value, series in zip(frame.values.tolist(), frame.series, strict=True):
                kind = SIGNALS[series.metric]
                _must(
                    kind.unit != "bool" or value in {0.0, 1.0} or math.isnan(value),
                    "signals",
                    f"{series} is {value:g}, wanted 0 or 1",
                )
                _must(
                    kind.kind != "counter" or not value < 0,
                    "signals",
                    f"counter {series} is {value:g}",
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
            _must(good, "labels", f"{series.metric} carries {pairs!r}")

    async def same_table(self) -> None:
        frames = await self._polls(3)
        for one, two in itertools.pairwise(frames):
            _must(
                one.series is two.series or one.series != two.series,
                "same_table",
                f"{len(two.series)} equal series came as another tuple",
            )

    async def sightings(self) -> None:
        one, two = await self._polls(2)
        for frame in (one, two):
            for seen in frame.seen:
                _must(
                    list(seen.attrs) == sorted(seen.attrs),
                    "sightings",
                    f"attributes of {seen.entity} are not sorted: {[k for k, _ in seen.attrs]}",
                )
        told = {seen.entity: seen for seen in one.seen}
        again = [str(seen.entity) for seen in two.seen if told.get(seen.entity) == seen]
        _must(
            not again, "sightings", f"told again although nothing changed: {', '.join(again[:3])}"
        )

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
        _must(longest < _LOOP_S, "in_turn", f"nothing else could run for {longest:.2f} s")

    async def time_goes_on(self) -> None:
        one, two = await self._polls(2)
        _must(
            two.ts > one.ts,
            "time_goes_on",
            f"the second poll is {one.ts - two.ts:.3f} s before the first",
        )


# ---------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Stage:
    """An action on a world of its own, ready to act.

    act      the action, built
    step     a step that has something to do there; its `before` is filled in by the checks
    world    reads what the action would change, not through the action; comparable
    disturb  changes the same thing as somebody else would; None = nobody else can
    invisible   True when `run` leaves nothing that `world` could see (waiting, training that stands aside)
    """

    act: Action
    step: Step
    world: Callable[[], Awaitable[Any]]
    disturb: Callable[[], Awaitable[None]] | None = None
    invisible: bool = False


MakeStage = Callable[[], AbstractAsyncContextManager[Stage]]


def check_action(make: MakeStage) -> list[Check]:
    """Return the checks for an action.

    make   opens a fresh stage for each check and takes it down afterwards
    """
    kept = _Actions(make)
    checks = [
        (
            "declared",
            "effect, ability, reversible, shared and Params are said; what is reversible has undo",
        ),
        ("observing_is_free", "observe changes nothing, and what it returns survives JSON"),
        ("dry_run", "a dry run changes nothing and leaves nothing to undo"),
        ("reached", "not reached before, reached after run (seen through a fresh observe)"),
        (
            "plain",
            "Done has a summary; its values and undo survive JSON; its change is known as ours",
        ),
        ("twice_is_once", "a second try of the same step changes nothing more"),
        ("undo", "undo puts back what was there, also the second time"),
        ("undo_of_nothing", "undo of a step that did nothing changes nothing"),
        ("others", "what somebody else has changed since the plan is refused and left alone"),
    ]
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


class _Actions:
    """The checks of an action, one method each."""

    def __init__(self, make: MakeStage) -> None:
        self.make = make

    async def declared(self) -> None:
        async with self.make() as stage:
            act = stage.act
            cls = type(act)
            _must(isinstance(act, Action), "declared", f"{cls.__name__} lacks a method of Action")
            _must(
                act.effect in _EFFECTS,
                "declared",
                f"effect is {act.effect!r}, wanted one of {sorted(_EFFECTS)}",
            )
            for flag in ("reversible", "shared"):
                _must(
                    isinstance(getattr(act, flag), bool), "declared", f"{flag} is not True or False"
                )
            _must(
                act.ability is None or isinstance(act.ability, type),
                "declared",
                "ability is no Protocol",
            )
            _must(
                not act.reversible or isinstance(act, Undo),
                "declared",
                "reversible, but without undo",
            )
            params = getattr(cls, "Params", None)
            _must(
                isinstance(params, type) and issubclass(params, pydantic.BaseModel),
                "declared",
                f"{cls.__name__} has no pydantic class Params",
            )
            strict = params is not None and params.model_config.get("extra") == "forbid"
            _must(strict, "declared", "Params takes unknown keys: derive it from agent.units.Model")

    async def observing_is_free(self) -> None:
        async with self.make() as stage:
            before = await stage.world()
            one = await stage.act.observe(stage.step)
            two = await stage.act.observe(stage.step)
            _unchanged("observing_is_free", before, await stage.world(), "observe")
            _must(one == two, "observing_is_free", f"two looks differ: {one} and {two}")
            _survives("observing_is_free", "what observe gave", one)

    async def dry_run(self) -> None:
        async with self.make() as stage:
            before = await stage.world()
            step = dataclasses.replace(await _planned(stage), dry_run=True)
            done = await stage.act.run(step)
            _unchanged("dry_run", before, await stage.world(), "a dry run")
            _must(bool(done.summary), "dry_run", "it does not say what it would do")
            _must(
                done.change is None,
                "dry_run",
                f"it tells of a change that did not happen: {done.change}",
            )
            _must(not done.undo, "dry_run", f"it leaves {dict(done.undo)} to undo")

    async def reached(self) -> None:
        async with self.make() as stage:
            step = await _planned(stage)
            _must(
                not stage.act.reached(step, step.before),
                "reached",
                "reached before anything was done",
            )
            await stage.act.run(step)
            seen = _json(await stage.act.observe(step))
            _must(
                stage.act.reached(step, seen),
                "reached",
                f"not reached after run; observe says {seen}",
            )

    async def plain(self) -> None:
        async with self.make() as stage:
            before = await stage.world()
            done = await stage.act.run(await _planned(stage))
            _must(isinstance(done, Done) and bool(done.summary), "plain", f"run gave {done!r}")
            _survives("plain", "values", done.values)
            _survives("plain", "undo", done.undo)
            moved = await stage.world() != before
            _must(moved or stage.invisible, "plain", "run changed nothing that can be seen")
            _must(
                done.change is None or done.change.ours,
                "plain",
                f"the change is told as made by {done.change and done.change.by!r}",
            )
            _must(
                done.change is not None or stage.act.effect == "reading" or stage.invisible,
                "plain",
                "it changed the world and tells of no Change",
            )

    async def twice_is_once(self) -> None:
        async with self.make() as stage:
            step = await _planned(stage)
            await stage.act.run(step)
            after = await stage.world()
            await stage.act.run(step)
            _unchanged("twice_is_once", after, await stage.world(), "a second try of the same step")

    async def undo(self) -> None:
        async with self.make() as stage:
            act = stage.act
            if not isinstance(act, Undo):
                _must(not act.reversible, "undo", "reversible, but without undo")
                return
            before = await stage.world()
            step = await _planned(stage)
            done = await act.run(step)
            kept = _json(done.undo)
            for turn in ("undo", "a second undo"):
                back = await act.undo(step, kept)
                _must(bool(back.summary), "undo", f"{turn} does not say what it did")
                _unchanged("undo", before, await stage.world(), f"run and {turn}")

    async def undo_of_nothing(self) -> None:
        async with self.make() as stage:
            act = stage.act
            if not isinstance(act, Undo):
                return
            before = await stage.world()
            await act.undo(await _planned(stage), {})
            _unchanged(
                "undo_of_nothing", before, await stage.world(), "undo of a step that did nothing"
            )

    async def others(self) -> None:
        async with self.make() as stage:
            if stage.disturb is None:
                return
            step = await _planned(stage)
            await stage.disturb()
            theirs = await stage.world()
            try:
                done = await stage.act.run(step)
            except Refused:
                _unchanged("others", theirs, await stage.world(), "a refused run")
            else:
                raise Broken(f"others: it acted over what somebody else had set: {done.summary}")


async def _planned(stage: Stage) -> Step:
    """Fill in what was seen when the step was planned; it travels through the journal as JSON."""
    seen = await stage.act.observe(stage.step)
    return dataclasses.replace(stage.step, before=_json(seen))


def _json(data: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(data), allow_nan=False))


def _survives(check: str, what: str, data: Mapping[str, Any]) -> None:
    try:
        back = _json(data)
    except (TypeError, ValueError) as wrong:
        raise Broken(f"{check}: {what} is no JSON: {wrong}") from None
    _must(_plain(data) == back, check, f"{what} is another after JSON: {data} became {back}")


def _plain(data: Any) -> Any:
    """Lists for tuples, which JSON does not tell apart."""
    if isinstance(data, Mapping):
        return {k: _plain(v) for k, v in data.items()}
    return [_plain(v) for v in data] if isinstance(data, list | tuple) else data


def _unchanged(check: str, before: Any, after: Any, what: str) -> None:
    _must(before == after, check, f"{what} changed the world from {before} to {after}")
