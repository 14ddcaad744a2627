"""Conditions that must hold for a while, in three values: true, false, unknown (None).

Unknown pauses. While a value is missing, the time for which a condition has held neither grows nor is lost, and
the answer is unknown: a source that hiccups for one poll does not throw away three good minutes, and blindness
never counts as proof. A pause longer than the condition's own `for` starts it anew: what was true two hours ago
says nothing about now. Time that nobody looked at (the daemon slept) is a pause as well.

    holding = Holding((Condition("gpu.clock_ratio < 0.9", for_s=180.0),))
    holding.update(now, scene)      # False until it has held for three minutes, None while it is unknown
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from agent.expr import Expression, parse

UNSEEN_S: Final = 60.0
"""Longer between two looks is time that nobody saw; ticks come every second, replays every minute at most."""


class View(Protocol):
    """What a condition looks at: names to values, and the same bound to a signal (`agent.scene.Scene`)."""

    def __call__(self, name: str) -> Any:
        """Return the value of a dotted name; None = unknown."""
        ...

    def about(self, signal: str) -> View:
        """Return the view in which `value` and `peers.median` mean this signal."""
        ...


@dataclass(frozen=True, slots=True)
class Condition:
    """One expression and how long it must hold.

    is_      the expression; with a signal it may say `value`, `peers.median`, `peers.count`
    signal   a catalogue signal, or "" for none
    for_s    seconds that it must hold without a break; 0 = now
    """

    is_: str
    signal: str = ""
    for_s: float = 0.0

    @property
    def expression(self) -> Expression:
        """The compiled expression."""
        return parse(self.is_)

    def now(self, scene: View) -> bool | None:
        """Return whether it is true at this moment, for however short."""
        return self.expression.test(scene.about(self.signal) if self.signal else scene)

    def __str__(self) -> str:
        subject = f"{self.signal}: " if self.signal else ""
        return f"{subject}{self.is_}" + (f" for {self.for_s:g} s" if self.for_s else "")


def conditions(texts: Iterable[str], for_s: float = 0.0) -> tuple[Condition, ...]:
    """Return one condition for each expression, all of which must hold for the same time."""
    return tuple(Condition(text, for_s=for_s) for text in texts)


@dataclass(slots=True)
class _Held:
    """How long one condition has held; `pause` counts what was unknown since it was last seen true."""

    value: bool | None = None
    held_s: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How one condition stands, for `why`: its value now, how long it has held, how long it must."""

    condition: Condition
    value: bool | None
    held_s: float

    @property
    def met(self) -> bool | None:
        """True when it has held long enough; None while it is unknown."""
        return None if self.value is None else self.value and self.held_s >= self.condition.for_s


class Holding:
    """Follows conditions through time. Small state, no clock: `now` comes with each look.

    how   "all" of them must hold, or "any" one of them
    """

    def __init__(self, conditions: Iterable[Condition], how: Literal["all", "any"] = "all") -> None:
        self._conditions = tuple(conditions)
        self._how = how
        self._held = [_Held() for _ in self._conditions]
        self._last: float | None = None

    def update(self, now: float, scene: View) -> bool | None:
        """Look once; returns True, False or None = unknown. No conditions at all are true.

        Looks at the same or an earlier `now` (a clock that was set back) add no time.
        """
        passed = 0.0 if self._last is None else max(0.0, now - self._last)
        self._last = now
        for condition, held in zip(self._conditions, self._held, strict=True):
            _step(held, condition.now(scene), passed, condition.for_s)
        return self.value

    @property
    def counts(self) -> bool:
        """Whether time runs for a condition: it is true and has not been for long enough."""
        pairs = zip(self._conditions, self._held, strict=True)
        return any(held.value is True and held.held_s < c.for_s for c, held in pairs)

    @property
    def value(self) -> bool | None:
        """What the last look said: three-valued `and` over all, or `or` over any."""
        return join([standing.met for standing in self.standings()], self._how)

    def standings(self) -> list[Standing]:
        """Return how each condition stood at the last look."""
        return [
            Standing(condition, held.value, held.held_s)
            for condition, held in zip(self._conditions, self._held, strict=True)
        ]


def _step(held: _Held, value: bool | None, passed: float, for_s: float) -> None:
    """Take one look into account: time counts between two looks that were both true."""
    unseen = passed > UNSEEN_S
    if value is False:
        held.held_s = held.pause_s = 0.0
    elif value is None or held.value is not True or unseen:
        held.pause_s += passed
        if held.pause_s > for_s:
            held.held_s = 0.0
    else:
        held.held_s += passed
    if value is True:
        held.pause_s = 0.0
    held.value = value


def join(values: Iterable[bool | None], how: Literal["all", "any"] = "all") -> bool | None:
    """Return three-valued `and` (or `or`): one that decides outweighs what is unknown."""
    seen = list(values)
    decides = how == "any"
    if decides in seen:
        return decides
    return None if None in seen else not decides
