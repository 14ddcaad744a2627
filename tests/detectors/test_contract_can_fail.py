"""The checks of detectors and views can fail: one that is broken in one way only, for each, and what is said of it.

Each is the shipped bank, or the shipped view, with one thing done wrong: so nothing else is what the check sees.
"""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest

from agent import registry
from agent.errors import Refused
from agent.ports import Why
from agent.testing import check_detector, check_view

registry.load()
BANK, TOGETHER = registry.detector.get("bank"), registry.view.get("together")


class Sound:
    """The bank, through one door."""

    def __init__(self, n):
        self.n, self.inner = n, BANK(BANK.Config(), n)

    def score(self, ts, x):
        return self.inner.score(ts, x)

    def learn(self, ts, x, trust):
        self.inner.learn(ts, x, trust)

    def remap(self, old_index):
        self.n = len(old_index)
        self.inner.remap(old_index)

    def dump(self):
        return self.inner.dump()

    def load(self, state):
        self.inner.load(state)

    def explain(self, i):
        return self.inner.explain(i)


# ---- what several of them get wrong in the same way


class Percent:
    def score(self, ts, x):
        return 100.0 * super().score(ts, x)


class Spoils:
    def score(self, ts, x):
        p = super().score(ts, x)
        x[0] = 0.0
        return p


class Dice:
    turn = 0

    def score(self, ts, x):
        Dice.turn += 1
        return super().score(ts, x) ** (1.0 + Dice.turn % 7 / 10)


class Boasts:
    def score(self, ts, x):
        return super().score(ts, x) ** 3.0


class Blind:
    def score(self, ts, x):
        return np.where(np.isnan(super().score(ts, x)), np.nan, 1.0)


class Forgets:
    """Begins anew after a gap."""

    last = 0.0

    def learn(self, ts, x, trust):
        if ts - self.last > 3600:
            self.__init__(self.made)
        self.last = ts
        super().learn(ts, x, trust)


class Greedy:
    """Learns late and repeated rows, by a clock of its own."""

    rows = 0

    def learn(self, ts, x, trust):
        self.rows += 1
        super().learn(1.7e9 + self.rows, x, trust)


class Eager:
    """Learns while it scores."""

    def score(self, ts, x):
        p = super().score(ts, x)
        self.inner.learn(ts, x, np.ones(len(p), bool))
        return p


class Lazy:
    """Learns what it scored last, whatever it is given."""

    row = None

    def score(self, ts, x):
        self.row = x.copy()
        return super().score(ts, x)

    def learn(self, ts, x, trust):
        super().learn(ts, x if self.row is None else self.row, trust)


class Credulous:
    def learn(self, ts, x, trust):
        super().learn(ts, x, np.ones(len(trust), bool))


class Clannish:
    """Distrusts all when one is not trusted."""

    def learn(self, ts, x, trust):
        super().learn(ts, x, np.full(len(trust), trust.all()))


class Loses:
    """Takes a state and does not use it."""

    def load(self, state):
        super().load(state)
        self.__init__(self.made)


class Gullible:
    def load(self, state):
        with contextlib.suppress(Refused):
            super().load(state)


class Brittle:
    def load(self, state):
        try:
            super().load(state)
        except Refused as refused:
            raise ValueError(state) from refused


class Torn:
    def load(self, state):
        self.__init__(self.made)
        super().load(state)


class Hoards:
    """Keeps every row."""

    @property
    def rows(self):
        self.__dict__.setdefault("all", [])
        return self.all

    def learn(self, ts, x, trust):
        self.rows.append(x.copy())
        super().learn(ts, x, trust)

    def dump(self):
        return super().dump() + np.array(self.rows).tobytes()


class Wide:
    """Keeps too much of each series."""

    def learn(self, ts, x, trust):
        self.copies = np.tile(x, (500, 1))
        super().learn(ts, x, trust)


class Pairs:
    """Keeps something of each pair of series."""

    def learn(self, ts, x, trust):
        self.pairs = np.outer(x, x).astype(np.float32)
        super().learn(ts, x, trust)


# ---- detectors


class Jumpy(Sound):
    before = np.nan

    def score(self, ts, x):
        p = np.where(x == self.before, 0.05, super().score(ts, x))
        self.before = x.copy()
        return p


class Infers(Sound):
    """Takes silence for the worst."""

    def score(self, ts, x):
        return np.where(np.isnan(x), 0.0, super().score(ts, x))


class Chatters(Sound):
    """Speaks of what it has never heard."""

    def score(self, ts, x):
        return np.where(np.isnan(x), 1.0, super().score(ts, x))


class Nervous(Sound):
    """Is upset by a neighbour's silence."""

    def score(self, ts, x):
        return super().score(ts, x) ** (1.0 + np.isnan(x).mean())


class Crowd(Sound):
    def score(self, ts, x):
        return super().score(ts, x) ** (1.0 + 1.0 / max(len(x), 1))


class Stays(Sound):
    """Moves nobody."""

    def remap(self, old_index):
        super().remap(np.minimum(np.arange(len(old_index)), self.n - 1))


class Heirs(Sound):
    """New series inherit."""

    def remap(self, old_index):
        super().remap(np.maximum(old_index, 0))


class Narrow(Sound):
    """Takes no state of another width."""

    def load(self, state):
        if len(state) > 3000 * max(self.n, 1):
            raise Refused("a state of other series")
        super().load(state)


class Mute(Sound):
    def explain(self, i):
        return Why("", 0.0, 1.0, 9.0, self.inner.explain(i).learnt_rows, calibrated=True)


class Guesses(Sound):
    def explain(self, i):
        why = self.inner.explain(i)
        return Why(why.family, why.low, why.high, why.deviations, 7, calibrated=True)


class Counts(Sound):
    """Counts rows that it did not learn."""

    rows = 0

    def learn(self, ts, x, trust):
        self.rows += 1
        super().learn(ts, x, trust)

    def explain(self, i):
        why = self.inner.explain(i)
        return Why(why.family, why.low, why.high, why.deviations, self.rows, calibrated=True)


class Logs(Sound):
    def score(self, ts, x):
        return super().score(ts, np.log(np.abs(x) + 1e-9))

    def learn(self, ts, x, trust):
        super().learn(ts, np.log(np.abs(x) + 1e-9), trust)


class Rounds(Sound):
    def score(self, ts, x):
        return super().score(ts, np.round(x, 1))

    def learn(self, ts, x, trust):
        super().learn(ts, np.round(x, 1), trust)


# ---- views


class View:
    """The shipped view, through one door."""

    def __init__(self, of):
        self.of, self.inner = of, TOGETHER(TOGETHER.Config(), of)

    def score(self, ts, p):
        return self.inner.score(ts, p)

    def learn(self, ts, p, trust):
        self.inner.learn(ts, p, trust)

    def regroup(self, of, old_index):
        self.of = of
        self.inner.regroup(of, old_index)

    def carriers(self, group):
        return self.inner.carriers(group)

    def dump(self):
        return self.inner.dump()

    def load(self, state):
        self.inner.load(state)


class Frets(View):
    """Is never at ease."""

    def score(self, ts, p):
        return np.minimum(super().score(ts, p), 0.05)


class Accuses(View):
    """Names whoever stands first."""

    def carriers(self, group):
        return np.flatnonzero(self.of == group)[:3]


class Strays(View):
    """Names columns of other groups."""

    def carriers(self, group):
        return super().carriers(0)


class Answers(View):
    """Has a p for a group of one."""

    def score(self, ts, p):
        return np.nan_to_num(super().score(ts, p), nan=1.0)


class Suspects(View):
    """Takes silence for a sign."""

    def score(self, ts, p):
        return super().score(ts, np.nan_to_num(p, nan=0.01))

    def learn(self, ts, p, trust):
        super().learn(ts, np.nan_to_num(p, nan=0.01), trust)


class Ranks(View):
    """Takes later columns for more important."""

    def score(self, ts, p):
        return super().score(ts, p ** (1.0 + np.arange(len(p)) / 100))

    def learn(self, ts, p, trust):
        super().learn(ts, p ** (1.0 + np.arange(len(p)) / 100), trust)


class Shares(View):
    """Lets each group pay for the others."""

    def score(self, ts, p):
        out = super().score(ts, p)
        return np.minimum(out * max(len(out), 1), 1.0)


class Renews(View):
    """Begins anew with each change of columns."""

    def regroup(self, of, old_index):
        super().regroup(of, np.full(len(old_index), -1))


class Bequeaths(View):
    """Gives new groups what another has learnt."""

    def regroup(self, of, old_index):
        super().regroup(of, np.maximum(old_index, 0))


class Splits(View):
    """Takes no state but for as many columns."""

    def load(self, state):
        if len(self.of) < 5:
            raise Refused("a state of other groups")
        super().load(state)


def of(fault, base):
    """Return a class that is `base` with a fault."""
    return fault if issubclass(fault, base) else type(fault.__name__, (fault, base), {})


DETECTORS = [
    ("p_values", Percent, r"row 30 gave \[100\. .*outside 0\.\.1"),
    ("p_values", Spoils, r"row 0 was changed at column 0, from [\d.]+ to 0$"),
    ("deterministic", Dice, r"two runs over the same rows gave p .* at row \d+, wanted"),
    ("constant_is_quiet", Jumpy, r"a constant 0 was given p 0\.05"),
    ("leap_is_seen", Blind, r"a leap from 50 \+- 1 to 100 was given p 1$"),
    ("honest_floor", Boasts, r"p is .* after 40 rows, below 1 / \(30 x 40\)"),
    ("nan_is_unknown", Infers, r"a missing value was given p 0 after \d+ rows"),
    ("nan_is_unknown", Chatters, r"a series that never answered was given p \[1\.\]"),
    ("nan_is_unknown", Nervous, r"a series whose neighbours have holes gave p .* at row \d+, wanted"),
    ("gap_is_survived", Forgets, r"no p-values for a series that was ready before a day's gap"),
    ("late_and_repeated", Greedy, r"with late and repeated rows between gave p .* at row 0"),
    ("score_is_pure", Eager, r"its dump is another after a mere score"),
    ("many_at_once", Lazy, r"after rows that were only learnt gave p .* wanted"),
    ("columns_are_alone", Crowd, r"column 0 among 3 others gave p .* wanted"),
    ("distrust", Credulous, r"never trusted had p .* and has p .* after 200 rows"),
    ("distrust", Counts, r"200 rows that were not trusted count as learnt"),
    ("distrust", Clannish, r"a series beside one that was not trusted gave p nan at row 30"),
    ("restart", Loses, r"load\(dump\(\)\) into one made for 3 series gave p \[nan nan nan\] at row 0"),
    ("restart", Narrow, r"raised Refused: a state of other series"),
    ("damage", Gullible, r"a state that is empty was taken"),
    ("damage", Brittle, r"a state that is empty raised ValueError, wanted Refused"),
    ("damage", Torn, r"a state that is empty was refused, but changed it"),
    ("remap", Stays, r"columns in another order gave p .* at row \d+, wanted"),
    ("remap_new", Heirs, r"a new series is ready earlier or later"),
    ("bounded", Hoards, r"state grew from \d+ to \d+ bytes"),
    ("many_series", Wide, r"up to 1000 series \d{4} bytes a series are kept in memory, 3000 may be"),
    ("many_series", Pairs, r"up to 1000 series \d{4} bytes a series are kept in memory, 3000 may be"),
    ("explains", Mute, r"the family has no name"),
    ("explains", Guesses, r"learnt_rows is 7 after 1000 rows"),
    ("shift", Logs, r"a p-value changed by a factor of"),
    ("scale", Rounds, r"a p-value changed by a factor of"),
]  # fmt: skip


VIEWS = [
    ("p_values", Percent, r"row 30 gave \[.*outside 0\.\.1"),
    ("p_values", Spoils, r"row 0 was changed at column 0, from [\d.]+ to 0$"),
    ("deterministic", Dice, r"two runs over the same rows gave p .* at row \d+, wanted"),
    ("calm_is_quiet", Frets, r"2 series with p 1 at every row were given p 0\.05"),
    ("together_is_seen", Blind, r"three of twenty at 1e-6 were given p 1$"),
    ("together_is_seen", Accuses, r"columns \[16, 11, 3\] carry it, rarest first, carriers gave \[0, 1, 2\]"),
    ("together_is_seen", Strays, r"carriers of the other group are \[16, 11, 3\], columns that are not in it"),
    ("honest_floor", Boasts, r"p is .* after \d+ rows, below 1 / \(30 x \d+\)"),
    ("one_is_none", Answers, r"a group of one series was given p \[1\.\]"),
    ("nan_is_absent", Suspects, r"three more columns that never answer gave p .* wanted"),
    ("gap_is_survived", Forgets, r"no p-values for a group that was ready before a day's gap"),
    ("late_and_repeated", Greedy, r"with late and repeated rows between gave p .* at row \d+"),
    ("score_is_pure", Eager, r"its dump is another after a mere score"),
    ("many_at_once", Lazy, r"after rows that were only learnt gave p .* wanted"),
    ("order_is_free", Ranks, r"columns in another order gave p .* wanted"),
    ("groups_are_alone", Shares, r"group \d among others gave p .* wanted"),
    ("distrust", Credulous, r"never trusted had p .* and has p .* after 200 rows"),
    ("distrust", Clannish, r"a group beside one that was not trusted gave p nan at row 30"),
    ("restart", Loses, r"load\(dump\(\)\) into one made for 12 columns gave p \[nan nan\] at row 0"),
    ("restart", Splits, r"raised Refused: a state of other groups"),
    ("damage", Gullible, r"a state that is empty was taken"),
    ("damage", Brittle, r"a state that is empty raised ValueError, wanted Refused"),
    ("damage", Torn, r"a state that is empty was refused, but changed it"),
    ("regroup", Renews, r"a group that stayed gave p nan at row 0, wanted"),
    ("regroup", Bequeaths, r"a new group gave p .* at row 0, wanted nan"),
    ("bounded", Hoards, r"state grew from \d+ to \d+ bytes"),
    ("many_series", Wide, r"up to 1000 series \d{4} bytes a series are kept in memory, 3000 may be"),
    ("many_series", Pairs, r"up to 1000 series \d{4} bytes a series are kept in memory, 3000 may be"),
]  # fmt: skip


def detector_checks(cls):
    def make(n):
        made = cls(n)
        made.made = n
        return made

    return {check.name: check for check in check_detector(make)}


@pytest.mark.parametrize(("name", "fault", "says"), DETECTORS)
async def test_a_broken_detector_is_found_out(name, fault, says):
    said = await detector_checks(of(fault, Sound))[name].fault()
    assert said is not None
    assert said.startswith(f"{name}: ")
    assert re.search(says, said), said


def test_each_check_of_a_detector_has_one_that_breaks_it():
    assert {name for name, _, _ in DETECTORS} == set(detector_checks(Sound))


def view_checks(cls):
    def make(of_):
        made = cls(of_)
        made.made = of_
        return made

    return {check.name: check for check in check_view(make)}


@pytest.mark.parametrize(("name", "fault", "says"), VIEWS)
async def test_a_broken_view_is_found_out(name, fault, says):
    said = await view_checks(of(fault, View))[name].fault()
    assert said is not None
    assert said.startswith(f"{name}: ")
    assert re.search(says, said), said


def test_each_check_of_a_view_has_one_that_breaks_it():
    assert {name for name, _, _ in VIEWS} == set(view_checks(View))


# ---- and those that are wrong in every way


class Quiet:
    """A detector that keeps the form and nothing else: every p is 1."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.rows = 0

    def score(self, ts, x):
        return np.where(np.isnan(x), np.nan, 1.0)

    def learn(self, ts, x, trust):
        self.rows += 1

    def remap(self, old_index):
        self.n = len(old_index)

    def dump(self):
        return bytes(self.rows)

    def load(self, state):
        self.rows = len(state)

    def explain(self, i):
        return Why("quiet", 0.0, 1.0, 0.0, self.rows, calibrated=False)


class Loud(Quiet):
    """A detector that finds all of it abnormal, and spoils its input."""

    def score(self, ts, x):
        x += 1.0
        return np.full(len(x), -0.5)


class Global(Quiet):
    """A detector whose columns know each other."""

    def score(self, ts, x):
        return np.full(len(x), 1.0 / (1.0 + np.nanmax(np.abs(x), initial=0.0)))


async def verdicts(cls, *names) -> dict[str, str | None]:
    """Say what these checks find."""
    found = {check.name: check for check in check_detector(cls)}
    return {name: await found[name].fault() for name in names}


async def test_a_blind_detector_is_found_out():
    said = await verdicts(
        Quiet, "p_values", "constant_is_quiet", "leap_is_seen", "distrust", "damage", "bounded", "explains"
    )  # fmt: skip
    assert said["p_values"] is None
    assert said["constant_is_quiet"] is None
    assert said["leap_is_seen"] == "leap_is_seen: a leap from 50 +- 1 to 100 was given p 1"
    assert "abnormal" not in (said["distrust"] or "")
    assert "that was never trusted had p 1 and has p 1 after 200 rows" in said["distrust"]
    assert "damage: a state that is empty was taken" in said["damage"]
    assert "bounded: state grew from 800 to 2400 bytes" in said["bounded"]
    assert "explained as 0" in said["explains"]


async def test_a_wild_detector_is_found_out():
    said = await verdicts(Loud, "p_values", "constant_is_quiet", "nan_is_unknown")
    assert "outside 0..1" in said["p_values"]
    assert "was given p -0.5" in said["constant_is_quiet"]
    assert "nan_is_unknown: a missing value was given p -0.5" in said["nan_is_unknown"]
    said = await verdicts(Global, "columns_are_alone", "scale", "shift")
    assert "columns_are_alone" in said["columns_are_alone"]
    assert said["scale"].startswith("scale: a p-value changed by a factor of")
    assert said["shift"].startswith("shift: a p-value changed by a factor of")
