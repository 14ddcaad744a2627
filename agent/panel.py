"""One detector for a source, made of several: the bank that always runs, and joint detectors that were asked for.

    x -> first (each series for itself) -> p --.
      -> others (all series together)   -> p --'-> the rarest, paid for by how many look -> p

The first keeps two thirds of the chance of a false alarm, the others share the last third: p = min(1.5 p_first,
3 k p_other) over k others that have an answer. While none has, p is that of the first, untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from agent.ports import Banded, Detector, Knowing, Why
from agent.traits import Traits

_FIRST_PAYS: Final = 1.5
_OTHERS_PAY: Final = 3.0

MakeOthers = Callable[[int], Mapping[str, Detector]]


class Panel:
    """Several detectors as one.

    `dump` and `load` are those of the first alone, so that joint detectors can be switched on and off without losing
    what was learnt; who trains the others keeps their state (`agent/training.py`). One of the others that raises is
    told to `bugs` and rests until the next start: the first goes on.

    others   makes the others by name, for n series
    """

    def __init__(
        self,
        first: Detector,
        others: MakeOthers,
        n: int,
        bugs: Callable[[str, Exception], None] | None = None,
    ) -> None:
        self.first = first
        self._make = others
        self._bugs = bugs
        self._broken: set[str] = set()
        self._traits: Traits | None = None
        self._n = n
        self.others: dict[str, Detector] = dict(others(n))
        self._by: dict[int, str] = {}

    def score(self, ts: float, x: FloatArray) -> FloatArray:
        """Return p (n,), see the top of the file."""
        self._fit(len(x))
        p = self.first.score(ts, x)
        found: dict[str, FloatArray] = {}
        for name, other in list(self.others.items()):
            try:
                found[name] = other.score(ts, x)
            except Exception as error:  # noqa: BLE001  # a border: its bug must not blind the first
                self._rest(name, error)
        self._by = {}
        if not found:
            return p
        theirs = np.stack(list(found.values()))
        answered = np.isfinite(theirs).sum(axis=0)
        if not answered.any():
            return p
        best = np.where(np.isnan(theirs), np.inf, theirs).argmin(axis=0)
        q = _OTHERS_PAY * answered * theirs[best, np.arange(len(p))]
        q[answered == 0] = np.nan
        mine = np.where(answered > 0, _FIRST_PAYS * p, p)
        names = list(found)
        with np.errstate(invalid="ignore"):
            rarer = np.flatnonzero((q < mine) | (np.isnan(mine) & np.isfinite(q)))
        self._by = {int(i): names[best[i]] for i in rarer if q[i] < 1.0}
        joined: FloatArray = np.minimum(np.fmin(mine, q), 1.0)
        return joined

    def learn(self, ts: float, x: FloatArray, trust: BoolArray) -> None:
        """Let everybody learn the row."""
        self.first.learn(ts, x, trust)
        for name, other in list(self.others.items()):
            try:
                other.learn(ts, x, trust)
            except Exception as error:  # noqa: BLE001  # as in score
                self._rest(name, error)

    def remap(self, old_index: IntArray) -> None:
        """Series came and went."""
        self.first.remap(old_index)
        fits = bool(np.all(np.asarray(old_index) < self._n))
        if not fits:
            self.others = self._fresh(len(old_index))
        for name, other in list(self.others.items()):
            try:
                if fits:
                    other.remap(old_index)
            except Exception as error:  # noqa: BLE001  # as in score
                self._rest(name, error)
        self._n = len(old_index)
        self._by = {}

    def explain(self, i: int) -> Why:
        """Say why series i got its last p, in the words of whoever gave it."""
        return self.others.get(self._by.get(i, ""), self.first).explain(i)

    def band(self, i: int) -> tuple[float, float]:
        """Return where the first expects series i: joint detectors have no band of one."""
        return self.first.band(i) if isinstance(self.first, Banded) else (math.nan, math.nan)

    def dump(self) -> bytes:
        """Return the state of the first."""
        return self.first.dump()

    def load(self, state: bytes) -> None:
        """Take a state of the first; the others begin anew, until their state is brought."""
        self.first.load(state)
        # How many series the state has shows in the remap or row that follows; until then nothing fits.
        self._n = -1

    def set_traits(self, traits: Traits) -> None:
        """Hand what the series are to whoever wants to know."""
        self._traits = traits
        self._tell(self.first)
        for name, other in list(self.others.items()):
            try:
                self._tell(other)
            except Exception as error:  # noqa: BLE001  # as in score
                self._rest(name, error)

    def _tell(self, one: Detector) -> None:
        if self._traits is not None and isinstance(one, Knowing):
            one.set_traits(self._traits)

    def _fit(self, n: int) -> None:
        if n != self._n:
            self.others = self._fresh(n)
            self._n = n

    def _fresh(self, n: int) -> dict[str, Detector]:
        made = {k: v for k, v in self._make(n).items() if k not in self._broken}
        if self._traits is not None and len(self._traits) == n:
            for one in made.values():
                self._tell(one)
        return made

    def _rest(self, name: str, error: Exception) -> None:
        self._broken.add(name)
        self.others.pop(name, None)
        if self._bugs is not None:
            self._bugs(f"detector {name}", error)
