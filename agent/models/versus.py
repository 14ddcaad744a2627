"""The versions and variants of one model against each other: which one answers worse, by the labels that came.

    rows of an arm             -> when it serves
    labelled rows              -> losses by arm, until the next frame -> two-sample: canary, A/B   (`labelled`, `flush`)
    one request, two answers   -> and its label                       -> paired: shadow            (`second`)

An arm is a version and what its rows call `variant`. Rows of the variant `shadow`, and rows that answer once more a
request that another arm has answered, served nobody: they count as answers here and nowhere else. Of two arms the one
that came first is A; of two that were there when we came, the one that serves more. A loss is 1 where an answer is
wrong, of a regression the size of its error in a unit that the first `_SCALE_ROWS` labelled rows fix. Rows are compared
while both arms serve, `models.window` more or less.
State: some 3 kB a comparison, and 0.4 kB for each slice; waiting answers of shadows 48 bytes each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import checkpoint, registry
from agent.errors import Refused
from agent.label_join import KeyArray, LabelJoin, Waiting, rows_of
from agent.model import BoolArray, FloatArray, IntArray
from agent.models.facts import Compared

SHADOW: Final = "shadow"
Slicings = tuple[tuple[str, tuple[str, ...]], ...]

_MOST_ARMS: Final = 16
_MOST_DUELS: Final = 6
_SCALE_ROWS: Final = 200
_EVERY_S: Final = 5.0
"""What is said is made anew so often: a verdict costs a millisecond."""
_HELD: Final = 20_000
"""Labelled rows that are held until the next frame, at the most."""
_NONE: Final = 255
_NUMBERS: Final = 65_535
_VERSION: Final = 2


@dataclass(slots=True, eq=False)
class Arm:
    """Who answers: first and last time of its answers, its losses so far, and how often a shadow says the same.

    recent   rows that were served, older ones faded with a half-life of a window up to `last`
    """

    version: str
    variant: str
    first: float = math.inf
    last: float = -math.inf
    loss: float = 0.0
    rows: float = 0.0
    recent: float = 0.0
    shadow: bool = False
    asked: int = 0
    agreed: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.version}@{self.variant}" if self.variant else self.version


@dataclass(slots=True)
class _Duel:
    """Two arms: the test, and the slices that it looks at.

    turned   the second arm is the one that people compare with; None = nothing was proven yet
    """

    test: Any
    slicings: Slicings
    turned: bool | None = None
    told: Compared | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    ts: FloatArray
    loss: FloatArray
    slices: Any


@dataclass(slots=True)
class Versus:
    """See the module.

    shadows   answers that served nobody and wait for the label of their request
    """

    shadows: LabelJoin
    window: float
    arms: dict[int, Arm] = field(default_factory=dict)
    _next: int = 1
    _duels: dict[tuple[int, int, bool], _Duel] = field(default_factory=dict)
    _held: dict[int, list[_Held]] = field(default_factory=dict)
    _slicings: dict[int, Slicings] = field(default_factory=dict)
    _errors: list[FloatArray] = field(default_factory=list)
    _scale: float = math.nan
    _due: float = -math.inf

    # ---------------------------------------------------------------- rows

    def arm(self, version: str, variant: str) -> int:
        """Return the number of an arm, a new one for a new arm; the one that was silent longest goes for it."""
        for number, arm in self.arms.items():
            if arm.version == version and arm.variant == variant:
                return number
        if len(self.arms) >= _MOST_ARMS:
            gone = min(self.arms, key=lambda n: self.arms[n].last)
            del self.arms[gone]
            self._duels = {key: duel for key, duel in self._duels.items() if gone not in key[:2]}
        number = self._next
        self._next = number % (_NUMBERS - 1) + 1
        self.arms[number] = Arm(version, variant)
        return number

    def count(self, number: int, ts: FloatArray) -> None:
        """Count rows (n,) that an arm served."""
        arm = self.arms[number]
        arm.recent = self._faded(arm, float(ts.max())) + len(ts)
        self._seen(arm, ts)

    def _faded(self, arm: Arm, now: float) -> float:
        past = now - arm.last
        return arm.recent * 2.0 ** (-max(0.0, past) / self.window) if arm.recent else 0.0

    def traffic(self, now: float) -> dict[Arm, float]:
        """Return which share of the rows of late each arm served; {} = all are of one."""
        rows = {arm: self._faded(arm, now) for arm in self.arms.values() if not arm.shadow}
        total = sum(rows.values())
        return {arm: n / total for arm, n in rows.items()} if len(rows) > 1 and total >= 1.0 else {}

    def served(self, keys: KeyArray, rows: Waiting) -> None:
        """Take note of rows that were served and wait for their labels."""
        for shadow in self._shadows():
            found, theirs = self.shadows.peek(_salted(keys, shadow))
            self._agree(shadow, theirs[found]["said"] == rows[found]["said"])

    def second(
        self, number: int, keys: KeyArray, ts: FloatArray, said: Any, main: LabelJoin
    ) -> None:
        """Take answers that served nobody: keys (n,) of the requests, and what was said (n,) as a number."""
        arm = self.arms[number]
        salted = _salted(keys, number)
        fresh = ~self.shadows.known(salted)
        fresh[np.setdiff1d(np.arange(len(keys)), np.unique(keys, return_index=True)[1])] = False
        if not fresh.any():
            return
        arm.shadow = True
        keys, salted, ts, said = keys[fresh], salted[fresh], ts[fresh], said[fresh]
        self._seen(arm, ts)
        held = rows_of(salted, ts, 0, said)
        held["arm"] = number
        self.shadows.add(held)
        found, theirs = main.peek(keys)
        self._agree(number, theirs[found]["said"] == held[found]["said"])

    def _seen(self, arm: Arm, ts: FloatArray) -> None:
        oldest, newest = float(ts.min()), float(ts.max())
        if oldest > arm.last + self.window:  # it serves anew
            arm.first = math.inf
        arm.first, arm.last = min(arm.first, oldest), max(arm.last, newest)

    def _shadows(self) -> list[int]:
        return [number for number, arm in self.arms.items() if arm.shadow]

    def _agree(self, number: int, same: BoolArray) -> None:
        arm = self.arms[number]
        arm.asked += len(same)
        arm.agreed += int(np.count_nonzero(same))

    # ---------------------------------------------------------------- labels

    def labelled(
        self, rows: Waiting, truth: Any, numbers: bool, slicings: Callable[[str], Slicings]
    ) -> None:
        """Take labelled rows and their truth (n,); numbers = of a regression; slicings of a version."""
        loss = self._loss(rows["said"], truth, numbers)
        for number in np.unique(rows["arm"]).tolist():
            arm = self.arms.get(number)
            if arm is None:
                continue
            mine = rows["arm"] == number
            self._slicings[number] = slicings(arm.version)
            if len(self.arms) > 1:
                held = self._held.setdefault(number, [])
                held.append(_Held(rows["ts"][mine], loss[mine], rows["slices"][mine]))
            known = loss[mine][np.isfinite(loss[mine])]
            arm.loss, arm.rows = arm.loss + float(known.sum()), arm.rows + len(known)
        for number in self._shadows():
            self._pair(number, rows, truth, loss, numbers=numbers)
        if sum(len(one.ts) for held in self._held.values() for one in held) > _HELD:
            self.flush()

    def _loss(self, said: Any, truth: Any, numbers: bool) -> FloatArray:
        """Return the losses (n,) in 0..1; NaN = not known, or no unit yet."""
        if not numbers:
            return np.asarray(said != truth, dtype=np.float64)
        size: FloatArray = np.abs(np.asarray(said, dtype=np.float64) - truth)
        if math.isnan(self._scale):
            self._errors.append(size[np.isfinite(size)])
            every = np.concatenate(self._errors)
            if len(every) < _SCALE_ROWS:
                return np.full(len(size), np.nan)
            self._errors = []
            self._scale = 2.0 * float(np.quantile(every, 0.9)) or 1.0
        return np.minimum(size / self._scale, 1.0)

    def _pair(
        self, number: int, rows: Waiting, truth: Any, loss: FloatArray, *, numbers: bool
    ) -> None:
        joined = self.shadows.label(_salted(rows["key"], number))
        both = joined.status == 1
        if not both.any():
            return
        theirs = self._loss(joined.rows["said"][both], truth[both], numbers)
        arm = self.arms[number]
        known = theirs[np.isfinite(theirs)]
        arm.loss, arm.rows = arm.loss + float(known.sum()), arm.rows + len(known)
        main, mine, slices = rows["arm"][both], loss[both], rows["slices"][both]
        for other in np.unique(main).tolist():
            if other not in self.arms or other == number:
                continue
            at = main == other
            duel = self._duel(other, number, paired=True)
            slots = _slots(slices[at], duel.slicings)
            duel.test.pairs(mine[at], theirs[at], slots)
            duel.told = None

    def flush(self) -> None:
        """Compare the rows that came since the last frame."""
        held, self._held = self._held, {}
        if not held:
            return
        live = [n for n, arm in self.arms.items() if not arm.shadow]
        for a, b in itertools.combinations(live, 2):
            mine, theirs = self._together(held, a, b), self._together(held, b, a)
            rows = len(mine.ts), len(theirs.ts)
            if not (all(rows) or (any(rows) and (a, b, False) in self._duels)):
                continue
            duel = self._duel(a, b, paired=False)
            duel.test.rows(
                mine.loss, theirs.loss,
                _slots(mine.slices, duel.slicings), _slots(theirs.slices, duel.slicings),
            )  # fmt: skip
            duel.told = None

    def _together(self, held: dict[int, list[_Held]], mine: int, other: int) -> _Held:
        """Return the rows of an arm that it answered while the other served, too."""
        some = held.get(mine, [])
        if not some:
            return _Held(np.zeros(0), np.zeros(0), np.zeros((0, 0), dtype=np.uint8))
        ts = np.concatenate([one.ts for one in some])
        arm = self.arms[other]
        at = (ts >= arm.first - self.window) & (ts <= arm.last + self.window)
        loss = np.concatenate([one.loss for one in some])
        return _Held(ts[at], loss[at], np.concatenate([one.slices for one in some])[at])

    def _duel(self, a: int, b: int, *, paired: bool) -> _Duel:
        key = (a, b, paired)
        duel = self._duels.pop(key, None)
        mine = self._slicings.get(a, ())
        # a shadow has no features of its own here: its rows lie where those of the request do
        slicings = mine if paired or mine == self._slicings.get(b, ()) else ()
        if duel is None:
            duel = _Duel(_comparison(slicings), slicings)
        elif duel.slicings != slicings:  # learnt by now, or others since
            duel = _Duel(duel.test.widened(_cells(slicings)), slicings, duel.turned)
        self._duels[key] = duel  # the last one used stands last
        while len(self._duels) > _MOST_DUELS:
            del self._duels[next(iter(self._duels))]
        return duel

    # ---------------------------------------------------------------- what is said

    def told(self, now: float) -> tuple[Compared, ...]:
        """Return what is known of all that were compared and still answer, at most some seconds old."""
        fresh = now >= self._due
        if fresh:
            self._due = now + _EVERY_S
        out = []
        for (a, b, paired), duel in self._duels.items():
            if now - self.arms[a if duel.turned else b].last > self.window:
                continue  # it was taken back: nobody's concern until it is asked for
            if duel.told is None or fresh:
                said = self._say(a, b, duel.test.verdict(), paired=paired)
                if duel.turned is None and said.verdict != "unknown":
                    duel.turned = not paired and self._stood(b, before=a)
                duel.told = _turned(said) if duel.turned else said
            out.append(duel.told)
        return tuple(one for one in out if one.pairs)

    def _stood(self, number: int, *, before: int) -> bool:
        """Tell whether an arm whose rows came second is still the older one: both were there, and it serves more."""
        one, other = self.arms[number], self.arms[before]
        now = max(one.last, other.last)
        together = abs(one.first - other.first) <= self.window
        return together and self._faded(one, now) > self._faded(other, now)

    def compare(self, a: str, b: str) -> Compared:
        """Compare two arms by name: paired, of the same time, else before and after. Raises Refused."""
        self.flush()
        first, second = self._number(a), self._number(b)
        if first == second:
            raise Refused(f"{a} and {b} are the same version; name two")
        for paired, turn in itertools.product((True, False), (False, True)):
            key = (second, first, paired) if turn else (first, second, paired)
            duel = self._duels.get(key)
            if duel is None:
                continue
            said = self._say(key[0], key[1], duel.test.verdict(), paired=paired)
            if said.pairs:
                said = replace(said, slices=self._by_slice(duel))
                return _turned(said) if turn else said
        one, two = self.arms[first], self.arms[second]
        test = registry.drift.get("comparison")
        verdict = test.of_sums((one.loss, one.rows), (two.loss, two.rows))
        return self._say(first, second, verdict, paired=False, apart=True)

    def _number(self, name: str) -> int:
        found = [n for n, arm in self.arms.items() if arm.name == name]
        if not found:  # a version that is known by its variant alone
            found = [n for n, arm in self.arms.items() if arm.version == name]
        if len(found) != 1:
            known = ", ".join(arm.name or '""' for arm in self.arms.values()) or "none yet"
            what = "means several" if found else "was not seen"
            raise Refused(f"version {name!r} {what}; known: {known}")
        return found[0]

    def _say(self, a: int, b: int, verdict: Any, *, paired: bool, apart: bool = False) -> Compared:
        unit = 1.0 if math.isnan(self._scale) else self._scale
        v = replace(
            verdict, difference=verdict.difference * unit, low=verdict.low * unit, high=verdict.high * unit
        )  # fmt: skip
        arm = self.arms[b]
        return Compared(
            a=self.arms[a].name, b=arm.name,
            how="apart" if apart else "paired" if paired else "together",
            verdict=v.verdict, difference=v.difference, low=v.low, high=v.high,
            worse=v.worse, better=v.better, alike=v.alike, pairs=v.pairs, rows_a=v.rows_a, rows_b=v.rows_b,
            needed=v.pairs_needed,
            agreement=arm.agreed / arm.asked if paired and arm.asked else math.nan,
            slices={},
        )  # fmt: skip

    def _by_slice(self, duel: _Duel) -> dict[tuple[str, str], tuple[str, float, float, float]]:
        """Return the verdict, difference and bounds of each slice that is known."""
        unit = 1.0 if math.isnan(self._scale) else self._scale
        names = [(name, value) for name, values in duel.slicings for value in values]
        out = {}
        for key, v in zip(names, duel.test.verdicts()[1:], strict=True):
            if v.pairs:
                out[key] = v.verdict, v.difference * unit, v.low * unit, v.high * unit
        return out

    # ---------------------------------------------------------------- restarts

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped, but for the first few errors of a regression."""
        self.flush()
        arrays: dict[str, npt.NDArray[Any]] = {
            f"waiting.{name}": array for name, array in self.shadows.arrays().items()
        }
        duels = []
        for i, ((a, b, paired), duel) in enumerate(self._duels.items()):
            arrays[f"duel{i}"] = np.frombuffer(duel.test.dump(), dtype=np.uint8)
            duels.append([a, b, paired, duel.slicings, duel.turned])
        arms = [
            [n, a.version, a.variant, *_plain(a.first, a.last), a.loss, a.rows, a.recent, a.shadow, a.asked, a.agreed]
            for n, a in self.arms.items()
        ]  # fmt: skip
        slicings = [[n, one] for n, one in self._slicings.items() if n in self.arms]
        meta = {
            "arms": arms,
            "next": self._next,
            "duels": duels,
            "slicings": slicings,
            "scale": _plain(self._scale)[0],
        }
        return checkpoint.write("versus", _VERSION, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged."""
        meta, arrays = checkpoint.read("versus", _VERSION, state)
        try:
            waiting = {k.partition(".")[2]: v for k, v in arrays.items() if k.startswith("waiting")}
            self.shadows.restore(waiting)
            self._next = int(meta["next"])
            self._scale = math.nan if meta["scale"] is None else float(meta["scale"])
            for n, version, variant, first, last, *rest in meta["arms"]:
                loss, rows, recent, shadow, asked, agreed = rest
                span = math.inf if first is None else first, -math.inf if last is None else last
                self.arms[int(n)] = Arm(
                    str(version), str(variant), *span, loss, rows, recent, bool(shadow), int(asked), int(agreed)
                )  # fmt: skip
            self._slicings = {int(n): _slicings_of(one) for n, one in meta["slicings"]}
            for i, (a, b, paired, said, turned) in enumerate(meta["duels"]):
                slicings = _slicings_of(said)
                duel = _Duel(_comparison(slicings), slicings, turned)
                duel.test.load(arrays[f"duel{i}"].tobytes())
                self._duels[int(a), int(b), bool(paired)] = duel
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of versions is damaged ({damage!r}): it is learnt anew") from None


def _comparison(slicings: Slicings) -> Any:
    return registry.drift.get("comparison")(_cells(slicings))


def _cells(slicings: Slicings) -> int:
    return sum(len(values) for _, values in slicings)


def _salted(keys: KeyArray, number: int) -> KeyArray:
    """Return the keys of requests as one arm answered them; none is 0."""
    out: KeyArray = (
        keys ^ np.uint64(number * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF)
    ) | np.uint64(1)
    return out


def _slots(slices: Any, slicings: Slicings) -> IntArray | None:
    """Return the slots (n, g) of a comparison of the values (n, s) of slicings; 0 = none."""
    if not slicings:
        return None
    first = np.cumsum([1, *(len(values) for _, values in slicings)])[:-1]
    if not len(slices):
        return np.zeros((0, len(first)), dtype=np.int64)
    mine = slices[:, : len(first)].astype(np.int64)
    return np.where(mine != _NONE, mine + first, 0)


def _slicings_of(said: Sequence[Any]) -> Slicings:
    return tuple((str(name), tuple(map(str, values))) for name, values in said)


def _plain(*values: float) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _turned(said: Compared) -> Compared:
    """Return the same, seen from the other side."""
    other = {"worse": "better", "better": "worse"}
    return replace(
        said, a=said.b, b=said.a, verdict=other.get(said.verdict, said.verdict),
        difference=-said.difference, low=-said.high, high=-said.low,
        worse=said.better, better=said.worse, rows_a=said.rows_b, rows_b=said.rows_a,
        slices={
            key: (other.get(verdict, verdict), -middle, -high, -low)
            for key, (verdict, middle, low, high) in said.slices.items()
        },
    )  # fmt: skip
