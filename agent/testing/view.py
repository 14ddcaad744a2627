"""The contract of a group view: what is abnormal together, whatever the order and number of columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import GroupView
from agent.testing._check import Check, must
from agent.testing._state import SERIES_BYTES, T0, equal, faded, linear, refuses, unchanged

_COLUMNS: Final = 20
"""Columns of a group, where nothing else is said."""
_CAUSE: Final = (3, 11, 16)
"""Those that one cause makes abnormal."""

MakeView = Callable[[IntArray], GroupView]


def _chance(rows: int, n: int, seed: int = 0) -> FloatArray:
    """Return p-values (rows, n) of series that are as they should be."""
    return np.random.default_rng(seed).uniform(1e-6, 1.0, size=(rows, n))


def _groups(*sizes: int) -> IntArray:
    return np.repeat(np.arange(len(sizes)), sizes)


def check_view(make: MakeView, *, step_s: float = 1.0) -> list[Check]:
    """Return the checks for a group view.

    make     gives a fresh one for columns of groups `of` (n,), the same each time
    step_s   seconds between rows that it is made for
    """
    kept = _Views(make, step_s)
    demands = {
        "p_values": "a group's score is a p-value: float64 (g,), in 0..1 or NaN; the row is left "
        "as it was",
        "deterministic": "the same rows give the same p-values",
        "calm_is_quiet": "a group in which nothing ever is abnormal never scores below 0.1",
        "together_is_seen": "three of twenty at p 1e-6 after 2,000 rows of chance: p below 0.01, "
        "and they are its carriers",
        "honest_floor": "p is never below 1 / (30 rows learnt)",
        "one_is_none": "with fewer than two series that have a p, a group has none, and no carriers",
        "nan_is_absent": "a column that never answers changes nothing",
        "gap_is_survived": "after a day without rows it scores on, and chance is still ordinary",
        "late_and_repeated": "rows that come late or twice are not learnt",
        "score_is_pure": "scoring changes nothing that is dumped",
        "many_at_once": "rows that are only learnt, many at once, teach what they teach one scored "
        "after the other",
        "order_is_free": "the order of the columns does not matter",
        "groups_are_alone": "a group has the same p-values among others as by itself",
        "distrust": "what was not trusted is as abnormal after 200 rows as after one",
        "restart": "load(dump()) and regroup go on as if it had never stopped",
        "damage": "a damaged state, or another's, is refused and leaves the view as it was",
        "regroup": "groups that stay keep what was learnt, new ones start from nothing",
        "bounded": "state does not grow with time",
        "many_series": f"at most {SERIES_BYTES} bytes a series, and as many with 100,000 as with 10,000",
    }
    return [Check(name, demand, getattr(kept, name)) for name, demand in demands.items()]


class _Views:
    """The checks of a group view, one method each."""

    def __init__(self, make: MakeView, step_s: float) -> None:
        self.make = make
        self.step_s = step_s

    def feed(
        self, view: GroupView, rows: FloatArray, after: int = 0, *, trust: bool | BoolArray = True
    ) -> FloatArray:
        """Score and learn rows (k, n), the first at step `after`; return what was scored (k, g)."""
        out = []
        for i, row in enumerate(rows, after):
            ts = T0 + i * self.step_s
            out.append(view.score(ts, row))
            view.learn(ts, row, np.broadcast_to(np.asarray(trust), out[-1].shape).copy())
        return np.array(out)

    async def p_values(self) -> None:
        view = self.make(_groups(5, 8, 2))
        rows = _chance(700, 15)
        rows[::7, 1] = np.nan
        rows[500:, :5] = 1e-12
        rows[600:, 5:13] = 0.0
        for i, row in enumerate(rows):
            given = row.copy()
            p = view.score(T0 + i * self.step_s, row)
            must(
                isinstance(p, np.ndarray) and p.shape == (3,) and p.dtype == np.float64,
                "p_values",
                f"row {i} gave {type(p).__name__} {getattr(p, 'shape', '')}, wanted float64 (3,)",
            )
            wrong = ~np.isnan(p) & ~((p >= 0) & (p <= 1))
            must(not wrong.any(), "p_values", f"row {i} gave {p[wrong]}, outside 0..1")
            view.learn(T0 + i * self.step_s, row, np.ones(3, bool))
            unchanged("p_values", i, given, row)
        must(bool(np.isfinite(p).all()), "p_values", f"not ready after 700 rows: {p}")

    async def deterministic(self) -> None:
        rows, of = _chance(400, 10), _groups(5, 5)
        one, two = self.feed(self.make(of), rows), self.feed(self.make(of), rows)
        equal("deterministic", one, two, "two runs over the same rows")

    async def calm_is_quiet(self) -> None:
        p = self.feed(self.make(_groups(2, _COLUMNS)), np.ones((1500, 2 + _COLUMNS)))
        low = np.where(np.isnan(p), 1.0, p).min(axis=0)
        for n, least in zip((2, _COLUMNS), low, strict=True):
            must(
                least >= 0.1,
                "calm_is_quiet",
                f"{n} series with p 1 at every row were given p {least:g}",
            )

    async def together_is_seen(self) -> None:
        view = self.make(_groups(_COLUMNS, _COLUMNS))
        rows = _chance(2001, 2 * _COLUMNS)
        self.feed(view, rows[:2000])
        row = rows[2000].copy()
        row[list(_CAUSE)] = 1e-6, 1e-7, 1e-8
        p = view.score(T0 + 2000 * self.step_s, row)
        must(
            bool(p[0] < 0.01), "together_is_seen", f"three of twenty at 1e-6 were given p {p[0]:g}"
        )
        must(
            bool(p[1] > 0.01),
            "together_is_seen",
            f"its neighbour, in which nothing happened, was given p {p[1]:g}",
        )
        carriers = view.carriers(0)
        must(
            carriers[: len(_CAUSE)].tolist() == list(_CAUSE)[::-1],
            "together_is_seen",
            f"columns {list(_CAUSE)[::-1]} carry it, rarest first, carriers gave {carriers.tolist()}",
        )
        beside = view.carriers(1)
        must(
            bool(np.all((beside >= _COLUMNS) & (beside < 2 * _COLUMNS))),
            "together_is_seen",
            f"carriers of the other group are {beside.tolist()}, columns that are not in it",
        )

    async def honest_floor(self) -> None:
        view = self.make(_groups(_COLUMNS))
        rows = _chance(600, _COLUMNS)
        rows[40::40] = 1e-200
        for i, p in enumerate(self.feed(view, rows)[:, 0]):
            must(
                math.isnan(p) or p >= (1 - 1e-9) / (30 * max(i, 1)),
                "honest_floor",
                f"p is {p:g} after {i} rows, below 1 / (30 x {i})",
            )

    async def one_is_none(self) -> None:
        of = _groups(1, 3, 4)
        view = self.make(of)
        rows = _chance(400, 8)
        rows[:, 2:4] = np.nan
        p = self.feed(view, rows)
        for g, what in enumerate(("a group of one series", "a group of which one series answers")):
            said = p[~np.isnan(p[:, g]), g]
            must(not len(said), "one_is_none", f"{what} was given p {said[:1]}")
            named = view.carriers(g).tolist()
            must(not named, "one_is_none", f"{what} has the carriers {named}")
        must(
            bool(np.isfinite(p[-1, 2])),
            "one_is_none",
            "a group of four is not ready after 400 rows",
        )
        blind = view.score(T0 + 400 * self.step_s, np.full(8, np.nan))
        must(
            bool(np.isnan(blind).all()), "one_is_none", f"a row without p-values was given {blind}"
        )

    async def nan_is_absent(self) -> None:
        rows = _chance(500, 6)
        wide = np.full((500, 9), np.nan)
        wide[:, [0, 2, 3, 5, 6, 8]] = rows
        equal(
            "nan_is_absent",
            self.feed(self.make(_groups(6)), rows),
            self.feed(self.make(_groups(9)), wide),
            "three more columns that never answer",
            exact=False,
        )

    async def gap_is_survived(self) -> None:
        view = self.make(_groups(_COLUMNS))
        self.feed(view, _chance(1500, _COLUMNS))
        after = 1500 + int(86_400 / self.step_s)
        p = self.feed(view, _chance(60, _COLUMNS, seed=2), after)
        ready = bool(np.isfinite(p).all())
        must(ready, "gap_is_survived", "no p-values for a group that was ready before a day's gap")
        must(bool(p.min() > 1e-3), "gap_is_survived", f"chance after a gap was given p {p.min():g}")

    async def late_and_repeated(self) -> None:
        rows, of = _chance(200, 10), _groups(4, 6)
        plain, messy = self.make(of), self.make(of)
        self.feed(plain, rows)
        trust = np.ones(2, bool)
        for i, row in enumerate(rows):
            ts = T0 + i * self.step_s
            self.feed(messy, row[None], i)
            messy.learn(ts, row * 0.01, trust)
            if i > 3:
                late = ts - 2 * self.step_s
                p = messy.score(late, row * 0.01)
                must(p.shape == (2,), "late_and_repeated", f"a late row was given {p.shape} scores")
                messy.learn(late, row * 0.01, trust)
        ahead = _chance(60, 10, seed=3)
        equal(
            "late_and_repeated",
            self.feed(plain, ahead, 200),
            self.feed(messy, ahead, 200),
            "with late and repeated rows between",
        )

    async def score_is_pure(self) -> None:
        view = self.make(_groups(5))
        self.feed(view, _chance(200, 5))
        before = view.dump()
        view.score(T0 + 200 * self.step_s, np.array([1e-9, 1e-9, np.nan, 1.0, 0.5]))
        view.carriers(0)
        must(view.dump() == before, "score_is_pure", "its dump is another after a mere score")

    async def many_at_once(self) -> None:
        rows, of = _chance(300, 10), _groups(4, 6)
        scored, learnt = self.make(of), self.make(of)
        self.feed(scored, rows)
        for i, row in enumerate(rows):
            if i == 150:  # what was scored last need not be what is learnt next
                learnt.score(T0 + i * self.step_s, row * 0.01)
            learnt.learn(T0 + i * self.step_s, row, np.ones(2, bool))
        ahead = _chance(60, 10, seed=3)
        equal(
            "many_at_once",
            self.feed(scored, ahead, 300),
            self.feed(learnt, ahead, 300),
            "after rows that were only learnt",
        )

    async def order_is_free(self) -> None:
        rows, of = _chance(500, 12), _groups(5, 7)
        rows[400:, [1, 3]] = 1e-5
        order = np.random.default_rng(9).permutation(12)
        plain, turned = self.make(of), self.make(of[order])
        wanted, seen = self.feed(plain, rows), self.feed(turned, rows[:, order])
        equal("order_is_free", wanted, seen, "columns in another order", exact=False)
        one, two = plain.carriers(0).tolist(), order[turned.carriers(0)].tolist()
        must(
            sorted(one) == sorted(two),
            "order_is_free",
            f"carriers are {two} in another order, wanted {one}",
        )

    async def groups_are_alone(self) -> None:
        sizes = (2, 5, _COLUMNS)
        of = _groups(*sizes)
        rows = _chance(500, len(of))
        rows[:, of == 1] **= 3.0
        together = self.feed(self.make(of), rows)
        for g, size in enumerate(sizes):
            alone = self.feed(self.make(_groups(size)), rows[:, of == g])[:, 0]
            what = f"group {g} among others"
            equal("groups_are_alone", alone, together[:, g], what, exact=False)

    async def distrust(self) -> None:
        view = self.make(_groups(_COLUMNS))
        self.feed(view, _chance(2000, _COLUMNS))
        faded(
            "distrust",
            self.feed(view, _chance(200, _COLUMNS, seed=4) * 1e-4, 2000, trust=False)[:, 0],
        )
        back = self.feed(view, _chance(60, _COLUMNS, seed=5), 2200)
        must(
            bool(back[-1, 0] > 1e-3),
            "distrust",
            f"what was ordinary before the excursion has p {back[-1, 0]:g} a minute after it",
        )
        rows, of = _chance(300, 10), _groups(5, 5)
        equal(
            "distrust",
            self.feed(self.make(of), rows)[:, 1],
            self.feed(self.make(of), rows, trust=np.array([False, True]))[:, 1],
            "a group beside one that was not trusted",
            exact=False,
        )

    async def restart(self) -> None:
        rows, of = _chance(600, 12), _groups(5, 7)
        rows[::5, 3] = np.nan
        whole = self.feed(self.make(of), rows)
        first = self.make(of)
        self.feed(first, rows[:301])
        state = first.dump()
        self.feed(first, rows[301:], 301)
        for made in (of, _groups(3), np.empty(0, dtype=np.int64)):
            second = self.make(made)
            second.load(state)
            second.regroup(of, np.arange(2))
            p = self.feed(second, rows[301:], 301)
            what = f"load(dump()) into one made for {len(made)} columns"
            equal("restart", whole[301:], p, what)
            must(second.dump() == first.dump(), "restart", "the two differ in their dumps")

    async def damage(self) -> None:
        view = self.make(_groups(5, 5))
        self.feed(view, _chance(100, 10))
        refuses("damage", view)

    async def regroup(self) -> None:
        rows = _chance(500, 15)
        whole = self.feed(self.make(_groups(5, 5, 5)), rows)
        view = self.make(_groups(5, 5))
        self.feed(view, rows[:300, :10])
        # group 0 goes, group 1 becomes the second, a new one comes first
        view.regroup(_groups(5, 5), np.array([-1, 1]))
        p = self.feed(view, rows[300:, [10, 11, 12, 13, 14, 5, 6, 7, 8, 9]], 300)
        equal("regroup", whole[300:, 1], p[:, 1], "a group that stayed", exact=False)
        fresh = self.feed(self.make(_groups(5)), rows[300:, 10:], 300)
        equal("regroup", fresh[:, 0], p[:, 0], "a new group", exact=False)
        view.regroup(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        left = view.score(T0 + 600 * self.step_s, np.empty(0))
        must(left.shape == (0,), "regroup", "no groups, yet scores")

    async def bounded(self) -> None:
        view = self.make(_groups(*[5] * 10))
        self.feed(view, _chance(800, 50))
        early = len(view.dump())
        self.feed(view, _chance(1600, 50, seed=6), 800)
        late = len(view.dump())
        must(late <= 1.05 * early + 64, "bounded", f"state grew from {early} to {late} bytes")

    async def many_series(self) -> None:
        def use(n: int) -> GroupView:
            view = self.make(np.arange(n) // 10)
            self.feed(view, _chance(2, n))
            return view

        linear("many_series", use)
