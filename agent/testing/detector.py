"""The contract of a detector: what its p-values mean, what teaches it, and what it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray
from agent.ports import Detector, Why
from agent.testing._check import Check, must
from agent.testing._state import SERIES_BYTES, T0, equal, faded, linear, refuses, unchanged

_WIDE: Final = 33
"""Columns of a source that is not small, and no multiple of what a processor adds up at once."""

Make = Callable[[int], Detector]


def _noise(rows: int, n: int, seed: int = 0) -> FloatArray:
    return 50.0 + np.random.default_rng(seed).normal(size=(rows, n))


def check_detector(
    make: Make,
    *,
    step_s: float = 1.0,
    shift: bool = True,
    scale: bool = True,
    alone: bool = True,
) -> list[Check]:
    """Return the checks for a detector.

    make           gives a fresh one for n series, the same each time
    step_s         seconds between rows that it is made for
    shift, scale   whether it promises that adding a number, or multiplying by a positive one, changes no p-value
    alone          whether it promises that series do not influence each other; joint detectors do not
    """
    kept = _Detectors(make, step_s, alone=alone)
    demands = {
        "p_values": "scores are p-values: float64 (n,), in 0..1 or NaN; the row is left as it was",
        "deterministic": "the same rows give the same p-values",
        "constant_is_quiet": "a series that never moves never scores below 0.1",
        "leap_is_seen": "a leap of fifty deviations after 2,000 rows of noise has p below 0.01",
        "honest_floor": "p is never below 1 / (30 rows learnt)",
        "nan_is_unknown": "no value: no p-value, or one for its silence once it was learnt; "
        "the other series do not notice",
        "gap_is_survived": "after a day without rows it scores on, and noise is still ordinary",
        "late_and_repeated": "rows that come late or twice are not learnt",
        "score_is_pure": "scoring changes nothing that is dumped",
        "many_at_once": "rows that are only learnt, many at once, teach what they teach one scored "
        "after the other",
        "columns_are_alone": "a series has the same p-values among others as by itself",
        "distrust": "what was not trusted is as abnormal after 200 rows as after one",
        "restart": "load(dump()) goes on as if it had never stopped, whatever n it was made with",
        "damage": "a damaged state, or another's, is refused and leaves the detector as it was",
        "remap": "series that stay keep what was learnt, in whatever order they stand",
        "remap_new": "a new series starts from nothing, as in a new detector",
        "bounded": "state does not grow with time",
        "many_series": f"at most {SERIES_BYTES} bytes a series, and as many with 100,000 as with 10,000",
        "explains": "explain gives a family, a band, and how many rows stand behind it",
        "shift": "adding a number changes no p-value",
        "scale": "multiplying by a positive number changes no p-value",
    }
    promised = {"shift": shift, "scale": scale, "columns_are_alone": alone}
    return [
        Check(name, demand, getattr(kept, name))
        for name, demand in demands.items()
        if promised.get(name, True)
    ]


class _Detectors:
    """The checks of a detector, one method each."""

    def __init__(self, make: Make, step_s: float, *, alone: bool) -> None:
        self.make = make
        self.step_s = step_s
        self.alone = alone

    def feed(
        self,
        detector: Detector,
        rows: FloatArray,
        after: int = 0,
        *,
        trust: bool | BoolArray = True,
    ) -> FloatArray:
        """Score and learn rows (k, n), the first at step `after`; return what was scored (k, n)."""
        out = np.full(rows.shape, np.nan)
        trusted = np.broadcast_to(np.asarray(trust), rows.shape[1:]).copy()
        for i, row in enumerate(rows, after):
            ts = T0 + i * self.step_s
            out[i - after] = detector.score(ts, row)
            detector.learn(ts, row, trusted)
        return out

    async def p_values(self) -> None:
        rows = _noise(700, 5)
        rows[::7, 1] = np.nan
        rows[:, 2] = 3.0
        rows[500:, 3] = 1e12
        detector = self.make(5)
        for i, row in enumerate(rows):
            given = row.copy()
            p = detector.score(T0 + i * self.step_s, row)
            must(
                isinstance(p, np.ndarray) and p.shape == (5,) and p.dtype == np.float64,
                "p_values",
                f"row {i} gave {type(p).__name__} {getattr(p, 'shape', '')}, wanted float64 (5,)",
            )
            wrong = ~np.isnan(p) & ~((p >= 0) & (p <= 1))
            must(not wrong.any(), "p_values", f"row {i} gave {p[wrong]}, outside 0..1")
            detector.learn(T0 + i * self.step_s, row, np.ones(5, bool))
            unchanged("p_values", i, given, row)
        must(bool(np.isfinite(p[[0, 2, 3, 4]]).all()), "p_values", f"not ready after 700 rows: {p}")

    async def deterministic(self) -> None:
        rows = _noise(400, 3)
        one, two = self.feed(self.make(3), rows), self.feed(self.make(3), rows)
        equal("deterministic", one, two, "two runs over the same rows")

    async def constant_is_quiet(self) -> None:
        values = np.array([0.0, 1.0, -3.5, 1e12, 0.1, 1e-9])
        p = self.feed(self.make(len(values)), np.tile(values, (1500, 1)))
        low = np.nanmin(np.where(np.isnan(p), 1.0, p), axis=0)
        for value, least in zip(values, low, strict=True):
            must(least >= 0.1, "constant_is_quiet", f"a constant {value:g} was given p {least:g}")

    async def leap_is_seen(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(2000, 2))
        p = detector.score(T0 + 2000 * self.step_s, np.array([100.0, 50.0]))
        must(bool(p[0] < 0.01), "leap_is_seen", f"a leap from 50 +- 1 to 100 was given p {p[0]:g}")
        must(
            bool(p[1] > 0.01),
            "leap_is_seen",
            f"its neighbour, which did not move, was given p {p[1]:g}",
        )

    async def honest_floor(self) -> None:
        detector = self.make(1)
        rows = _noise(600, 1)
        rows[40::40] = 1e9
        for i, row in enumerate(rows):
            ts = T0 + i * self.step_s
            p = float(detector.score(ts, row)[0])
            learnt = detector.explain(0).learnt_rows
            must(
                math.isnan(p) or p >= (1 - 1e-9) / (30 * max(learnt, 1)),
                "honest_floor",
                f"p is {p:g} after {learnt} rows, below 1 / (30 x {learnt})",
            )
            detector.learn(ts, row, np.ones(1, bool))

    async def nan_is_unknown(self) -> None:
        whole = _noise(600, 3)
        holes = whole.copy()
        missing = np.random.default_rng(1).random(600) < 0.4
        missing[400:450] = True
        holes[missing, 1] = np.nan
        holes[:, 2] = np.nan
        detector = self.make(3)
        p = np.full(holes.shape, np.nan)
        named: set[str] = set()
        for i, row in enumerate(holes):
            p[i] = self.feed(detector, row[None], i)[0]
            why = detector.explain(1)
            silent, rows = float(p[i, 1]), why.learnt_rows
            must(
                not missing[i]
                or math.isnan(silent)
                or (1 - 1e-9) / (30 * max(rows, 1)) <= silent <= 1,
                "nan_is_unknown",
                f"a missing value was given p {silent:g} after {rows} rows",
            )
            if missing[i] and not math.isnan(silent):
                named.add(why.family)
        said = p[~np.isnan(p[:, 2]), 2]
        must(
            not len(said), "nan_is_unknown", f"a series that never answered was given p {said[:1]}"
        )
        must(
            bool(np.isfinite(p[300:, 1][~missing[300:]]).all()),
            "nan_is_unknown",
            "a series with holes is still not ready after 300 rows",
        )
        must(
            named <= {"silence"},
            "nan_is_unknown",
            f"a missing value is explained as {', '.join(map(repr, sorted(named)))}",
        )
        nobody = detector.score(T0 + 600 * self.step_s, np.full(3, np.nan))
        must(
            bool(np.isnan(nobody).all()),
            "nan_is_unknown",
            "where nobody has a value, a series was given a p",
        )
        if self.alone:
            beside = self.feed(self.make(3), whole)[:, 0]
            what = "a series whose neighbours have holes"
            equal("nan_is_unknown", beside, p[:, 0], what, exact=False)

    async def gap_is_survived(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(1500, 2))
        p = self.feed(detector, _noise(60, 2, seed=2), 1500 + int(86_400 / self.step_s))
        must(
            bool(np.isfinite(p).all()),
            "gap_is_survived",
            "no p-values for a series that was ready before a day's gap",
        )
        must(
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
            ts = T0 + i * self.step_s
            self.feed(messy, row[None], i)
            messy.learn(ts, row + 7.0, trust)
            if i > 3:
                late = ts - 2 * self.step_s
                p = messy.score(late, row + 7.0)
                must(p.shape == (2,), "late_and_repeated", f"a late row was given {p.shape} scores")
                messy.learn(late, row + 7.0, trust)
        ahead = _noise(20, 2, seed=3)
        equal(
            "late_and_repeated",
            self.feed(plain, ahead, 200),
            self.feed(messy, ahead, 200),
            "with late and repeated rows between",
        )

    async def score_is_pure(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(200, 2))
        before = detector.dump()
        detector.score(T0 + 200 * self.step_s, np.array([1e6, np.nan]))
        detector.explain(0)
        must(detector.dump() == before, "score_is_pure", "its dump is another after a mere score")

    async def many_at_once(self) -> None:
        rows = _noise(300, 2)
        scored, learnt = self.make(2), self.make(2)
        self.feed(scored, rows)
        for i, row in enumerate(rows):
            if i == 150:  # what was scored last need not be what is learnt next
                learnt.score(T0 + i * self.step_s, row + 9.0)
            learnt.learn(T0 + i * self.step_s, row, np.ones(2, bool))
        ahead = _noise(60, 2, seed=3)
        equal(
            "many_at_once",
            self.feed(scored, ahead, 300),
            self.feed(learnt, ahead, 300),
            "after rows that were only learnt",
        )

    async def columns_are_alone(self) -> None:
        rows = _noise(500, 4)
        rows[:, 1] = rows[:, 1].cumsum()
        rows[:, 2] = 0.0
        rows[250:, 3] *= 1e6
        wide = _noise(500, _WIDE, seed=8)
        at = [0, 9, 21, _WIDE - 1]
        wide[:, at] = rows
        four, many = self.feed(self.make(4), rows), self.feed(self.make(_WIDE), wide)
        for j in range(4):
            alone = self.feed(self.make(1), rows[:, [j]])[:, 0]
            for seen, others in ((four[:, j], 3), (many[:, at[j]], _WIDE - 1)):
                what = f"column {j} among {others} others"
                equal("columns_are_alone", alone, seen, what, exact=False)

    async def distrust(self) -> None:
        detector = self.make(1)
        self.feed(detector, _noise(2000, 1))
        before = detector.explain(0).learnt_rows
        p = self.feed(detector, 50.0 + _noise(200, 1, seed=4), 2000, trust=False)
        faded("distrust", p[:, 0])
        after = detector.explain(0).learnt_rows
        must(
            after == before,
            "distrust",
            f"{after - before} rows that were not trusted count as learnt",
        )
        back = self.feed(detector, _noise(60, 1, seed=5), 2200)
        must(
            bool(back[-1, 0] > 1e-3),
            "distrust",
            f"what was ordinary before the excursion has p {back[-1, 0]:g} a minute after it",
        )
        if self.alone:
            rows = _noise(300, 2)
            equal(
                "distrust",
                self.feed(self.make(2), rows)[:, 1],
                self.feed(self.make(2), rows, trust=np.array([False, True]))[:, 1],
                "a series beside one that was not trusted",
                exact=False,
            )

    async def restart(self) -> None:
        rows = _noise(600, 3)
        rows[:, 1] = rows[:, 1].cumsum()
        rows[::5, 2] = np.nan
        whole = self.feed(self.make(3), rows)
        first = self.make(3)
        self.feed(first, rows[:301])
        state = first.dump()
        self.feed(first, rows[301:], 301)
        for n in (3, 1):
            second = self.make(n)
            second.load(state)
            p = self.feed(second, rows[301:], 301)
            equal("restart", whole[301:], p, f"load(dump()) into one made for {n} series")
            must(second.dump() == first.dump(), "restart", "the two differ in their dumps")

    async def damage(self) -> None:
        detector = self.make(2)
        self.feed(detector, _noise(100, 2))
        refuses("damage", detector)

    async def remap(self) -> None:
        rows = _noise(500, 4)
        order = [2, 3, 0, 1]
        plain, turned = self.make(4), self.make(4)
        self.feed(plain, rows[:300])
        self.feed(turned, rows[:300])
        turned.remap(np.array(order))
        p = self.feed(turned, rows[300:, order], 300)
        whole = self.feed(plain, rows[300:], 300)
        equal("remap", whole[:, order], p, "columns in another order", exact=False)
        if self.alone:
            # series 1 goes, a new one comes, 2 and 0 change places
            detector = self.make(3)
            self.feed(detector, rows[:300, [0, 1, 2]])
            detector.remap(np.array([2, -1, 0]))
            p = self.feed(detector, rows[300:, [2, 3, 0]], 300)
            equal("remap", whole[:, [0, 2]], p[:, [2, 0]], "series that stayed", exact=False)
        plain.remap(np.array([], dtype=np.int64))
        left = plain.score(T0 + 600 * self.step_s, np.empty(0))
        must(left.shape == (0,), "remap", "no series, yet scores")

    async def remap_new(self) -> None:
        rows = _noise(500, 2)
        detector = self.make(2)
        self.feed(detector, rows[:300])
        detector.remap(np.array([1, -1]))
        p = self.feed(detector, rows[300:], 300)
        fresh = self.feed(self.make(1), rows[300:, [1]], 300)
        must(
            np.array_equal(np.isnan(fresh[:, 0]), np.isnan(p[:, 1])),
            "remap_new",
            "a new series is ready earlier or later than it would be in a new detector",
        )
        equal("remap_new", fresh[:, 0], p[:, 1], "a new series", exact=False)

    async def bounded(self) -> None:
        n = 10
        detector = self.make(n)
        self.feed(detector, _noise(800, n))
        early = len(detector.dump())
        self.feed(detector, _noise(1600, n, seed=6), 800)
        late = len(detector.dump())
        must(late <= 1.05 * early + 64, "bounded", f"state grew from {early} to {late} bytes")

    async def many_series(self) -> None:
        def use(n: int) -> Detector:
            detector = self.make(n)
            self.feed(detector, _noise(2, n))
            return detector

        linear("many_series", use)

    async def explains(self) -> None:
        detector = self.make(1)
        self.feed(detector, _noise(1000, 1))
        detector.score(T0 + 1000 * self.step_s, np.array([90.0]))
        why = detector.explain(0)
        must(isinstance(why, Why), "explains", f"explain gave {type(why).__name__}, wanted Why")
        must(bool(why.family), "explains", "the family has no name")
        must(
            why.learnt_rows == 1000, "explains", f"learnt_rows is {why.learnt_rows} after 1000 rows"
        )
        must(why.deviations > 5, "explains", f"40 deviations away, explained as {why.deviations:g}")
        must(
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
        must(np.array_equal(ready, ~np.isnan(moved)), name, "it is ready at another row")
        worst = float(np.nanmax(np.where(ready, far, 0.0)))
        must(worst < 1e-3, name, f"a p-value changed by a factor of {math.exp(worst):.4g}")
