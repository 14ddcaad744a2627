"""The detect stage: scores of detectors and limits of people become anomalies.

    frame -> objectives (road "objective", valid from the first minute)
          -> detector   (road "calibrated", or "prior" while the history is short) -> episodes -> Anomaly
              '-> p-values -> group view: what is abnormal together -> its carriers are episodes, too

The detector measures, the monitor decides by the alarm budget, and nobody learns from what was called abnormal
(`agent/excursions.py` has the rule and its two exceptions). One `Watch` a source; state in arrays; objects only for
episodes that are going on. No clock: time is in the frame.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np

from agent.budget import DAY_S, Ledger, bundle, weight
from agent.catalogue import SIGNALS
from agent.errors import Refused
from agent.excursions import Excursions
from agent.model import Anomaly, BoolArray, FloatArray, Frame, IntArray, Series
from agent.objectives import BUILT_IN, Limit
from agent.ports import Banded, Detector, GroupView, Knowing, Why
from agent.topology import Topology
from agent.traits import traits_of

PRIOR_DEVIATIONS: Final = 8.0
"""While the history is too short for a small p, a series must be this far out, for some rows, to be named; as far
again for each factor of ten by which the budget asks it to be rarer."""
_PRIOR_ROWS: Final = 60
"""Before so many rows not even the prior speaks."""
_PRIOR_LASTS_S: Final = 20.0
"""So long it must have been so far out: in a short history every burst is new, what stays is news. In an hour of
ordinary work on a host nothing stayed; the faults did."""
_PRIOR_TOKENS: Final = 3.0
"""Most anomalies of a source that the prior may name at once."""
MOST_CARRIERS: Final = 6
"""So many of the series that are abnormal together are told with each of them."""
OWN: Final = frozenset({"self", "forecast", "objectives"})
"""Sources of our own making: objectives may be laid over them, no detector judges them."""
_UNREAD_S: Final = 300.0
"""Of what had stood before a source was not read for so long, nobody knows how long it did; as in `agent.rates`."""
READY_ROWS: Final = 600
"""Rows after which a source no longer counts as learning."""


class MakeDetector(Protocol):
    """How the monitor gets a detector for one source, from the registry."""

    def __call__(self, step_s: float, n: int) -> Detector:
        """Return a fresh detector for n series sampled every `step_s` seconds."""
        ...


class MakeView(Protocol):
    """How the monitor gets a group view for one source, from the registry."""

    def __call__(self, step_s: float, of: IntArray) -> GroupView:
        """Return a fresh view; `of` is the group of each column."""
        ...


@dataclass(slots=True)
class _Broken:
    """Where each (limit, column) pair of one source stands.

    misses   limits that some series would be meant by, were it not for its labels
    """

    limit: list[Limit]
    column: IntArray
    low: FloatArray
    high: FloatArray
    for_s: FloatArray
    since: FloatArray
    well: FloatArray
    on: BoolArray
    worst: FloatArray
    misses: tuple[Limit, ...]

    @staticmethod
    def lay(series: Sequence[Series], limits: Sequence[Limit]) -> _Broken:
        """Find which limit is over which column."""
        of_metric: dict[str, list[int]] = {}
        for i, one in enumerate(series):
            of_metric.setdefault(one.metric, []).append(i)
        pairs = [
            (limit, i)
            for limit in limits
            for i in of_metric.get(limit.signal, ())
            if limit.over(series[i])
        ]
        n, laid = len(pairs), {limit for limit, _ in pairs}
        misses = tuple(
            limit
            for limit in limits
            if limit.labels and limit not in laid
            for anyone in (replace(limit, labels=()),)
            if any(anyone.over(series[i]) for i in of_metric.get(limit.signal, ()))
        )
        return _Broken(
            limit=[limit for limit, _ in pairs],
            column=np.array([i for _, i in pairs], dtype=np.int64),
            low=np.array([limit.low for limit, _ in pairs]),
            high=np.array([limit.high for limit, _ in pairs]),
            for_s=np.array([limit.for_s for limit, _ in pairs]),
            since=np.full(n, np.nan),
            well=np.full(n, np.nan),
            on=np.zeros(n, dtype=bool),
            worst=np.full(n, np.nan),
            misses=misses,
        )

    def depth(self, x: FloatArray) -> FloatArray:
        """Return how far beyond its limit each value is; the nearer one where there are two."""
        depth: FloatArray = np.fmax(self.low - x, x - self.high)
        return depth


@dataclass(slots=True)
class _Episode:
    """A detector's excursion that is going on."""

    onset: float
    p: float
    value: float
    why: Why
    together: float | None = None
    carriers: tuple[Series, ...] = ()


@dataclass(slots=True)
class _Groups:
    """The groups of one source under their view, and where each stands.

    names    of the groups, as `agent.budget.bundle` gives them
    shares   (g,) of the console's budget
    """

    view: GroupView
    excursions: Excursions
    names: list[str] = field(default_factory=list)
    shares: FloatArray = field(default_factory=lambda: np.zeros(0))


class Watch:
    """One source under watch."""

    def __init__(
        self,
        step_s: float,
        make: MakeDetector | None,
        limits: Sequence[Limit],
        *,
        source: str = "",
        ledger: Ledger | None = None,
        make_view: MakeView | None = None,
        topology: Topology | None = None,
    ) -> None:
        self.step_s = step_s
        self._topology = topology
        self._source = source
        self._ledger = Ledger() if ledger is None else ledger
        self._make_view = make_view
        self._groups: _Groups | None = None
        self._weights = np.zeros(0)
        self._shares = np.zeros(0)
        self._heeded = -1
        self.rows = 0
        self.since: float | None = None
        self._make = make
        self._limits = tuple(limits)
        self._series: tuple[Series, ...] = ()
        self._detector: Detector | None = None
        self._excursions = Excursions(0, step_s)
        self._tokens = _PRIOR_TOKENS
        self._prior_rows = max(1, math.ceil(_PRIOR_LASTS_S / step_s))
        self._far: IntArray = np.zeros(0, dtype=np.int64)
        """Rows (n,) in a row that the prior has found far out."""
        self._episodes: dict[Series, _Episode] = {}
        self._broken = _Broken.lay((), ())
        self._read = math.nan
        self._last = -math.inf
        self._kept: tuple[dict[str, Any], bytes] | None = None
        self._index: dict[Series, int] = {}
        self._left: list[Anomaly] = []
        self.p: FloatArray = np.zeros(0)
        """How rare each series was in the last row (n,); NaN = not known."""
        self.scored_at = math.nan
        """When that row was; NaN = no row was scored yet."""

    @property
    def detector(self) -> Detector | None:
        """The detector of this source; None before its first frame."""
        return self._detector

    @property
    def series(self) -> tuple[Series, ...]:
        """Who its columns are."""
        return self._series

    @property
    def misses(self) -> tuple[Limit, ...]:
        """Limits that no series here is meant by, as none has the labels."""
        return self._broken.misses

    @property
    def laid(self) -> set[Limit]:
        """Limits that lie over a series here."""
        return set(self._broken.limit)

    def abnormal(self) -> list[int]:
        """Return which columns are abnormal now, by a detector or by a limit."""
        broken = {int(c) for c in self._broken.column[self._broken.on]}
        return sorted(broken | {self._index[s] for s in self._episodes if s in self._index})

    def expected(self, i: int) -> tuple[float, float]:
        """Return the band that is expected of a column now; NaN = its detector has none (yet).

        While it is abnormal, that which it left: what happens then is no new ordinary.
        """
        episode = self._episodes.get(self._series[i])
        if episode is not None:
            return episode.why.low, episode.why.high
        return (
            self._detector.band(i) if isinstance(self._detector, Banded) else (math.nan, math.nan)
        )

    def alpha(self, i: int) -> float:
        """Return the p-value from which on down a column is abnormal, by the budget; NaN = nobody judges it (yet)."""
        if self._heeded != self._ledger.version:
            return math.nan
        return float(self._shares[i]) * self._ledger.series_rate * self.step_s / DAY_S

    def limits(self) -> Iterator[tuple[Series, float, float]]:
        """Yield which limits lie over which series: low, high; NaN = open."""
        for limit, column in zip(self._broken.limit, self._broken.column.tolist(), strict=True):
            yield self._series[column], limit.low, limit.high

    def take(self, frame: Frame) -> list[Anomaly]:
        """Return what is abnormal now, and what has just ended (with `end` set)."""
        if frame.series is not self._series:
            self._retable(frame.series)
        # what left with its series has ended with it
        left, self._left = [replace(a, end=frame.ts) for a in self._left], []
        if not frame.series:
            return left
        return left + self._objectives(frame) + self._detect(frame)

    # ---- objectives

    def _objectives(self, frame: Frame) -> list[Anomaly]:
        b = self._broken
        if not len(b.column):
            return []
        x = frame.values[b.column]
        ts = frame.ts
        with np.errstate(invalid="ignore"):
            out = (x > b.high) | (x < b.low)
        known = ~np.isnan(x)
        self._go_on(ts)
        # unknown neither breaks nor heals: what was going on goes on, what was well stays well
        b.since[known & out & np.isnan(b.since)] = ts
        over = known & ~out & ~b.on
        b.since[over] = b.worst[over] = np.nan
        b.well[known & out] = np.nan
        b.well[known & ~out & np.isnan(b.well)] = ts
        deeper = known & out & (np.isnan(b.worst) | (b.depth(x) > b.depth(b.worst)))
        b.worst[deeper] = x[deeper]
        with np.errstate(invalid="ignore"):
            starts = ~b.on & known & out & (ts - b.since >= b.for_s)
            ends = b.on & known & ~out & (ts - b.well >= self._heals())
        b.on |= starts
        found = [self._breach(int(i), None) for i in np.flatnonzero(b.on & ~ends)]
        for i in map(int, np.flatnonzero(ends)):
            found.append(self._breach(i, float(b.well[i])))
            b.on[i] = False
            b.since[i] = b.worst[i] = np.nan
        return found

    def _go_on(self, ts: float) -> None:
        """Let what has not stood for long enough begin anew, where the source was not read for longer than that."""
        b, gap = self._broken, ts - self._read
        self._read = ts
        if not gap > max(_UNREAD_S, 3.0 * self.step_s):  # NaN = the first row
            return
        forgotten = ~b.on & (gap > b.for_s)
        b.since[forgotten] = b.worst[forgotten] = np.nan
        b.well[gap > self._heals()] = np.nan

    def _heals(self) -> FloatArray:
        """Return how long each must be well to have ended."""
        heals: FloatArray = np.maximum(self.step_s, self._broken.for_s / 2)
        return heals

    def _breach(self, i: int, end: float | None) -> Anomaly:
        b = self._broken
        limit, series = b.limit[i], self._series[int(b.column[i])]
        above = not math.isnan(limit.high) and b.worst[i] > limit.high
        size = b.worst[i] - limit.high if above else limit.low - b.worst[i]
        floor = max(SIGNALS[series.metric].floor, 1e-12)
        return Anomaly(
            series, float(b.since[i]), end, 0.0, 1 if above else -1, float(b.worst[i]),
            limit.low, limit.high, float(size), float(size / floor), "finding" if limit.note else "objective",
            limit.name, limit.harm,
        )  # fmt: skip

    # ---- detector

    def _detect(self, frame: Frame) -> list[Anomaly]:
        if self._detector is None or frame.ts <= self._last:
            return []  # late and duplicate ticks teach nothing
        self._last = frame.ts
        self.since = frame.ts if self.since is None else self.since
        self.rows += 1
        p = self.p = self._detector.score(frame.ts, frame.values)
        self.scored_at = frame.ts
        ledger, unit = self._ledger, self.step_s / DAY_S
        if self._heeded != ledger.version:
            self._heeded = ledger.version
            self._shares = self._weights * ledger.factors(self._series)
        alpha = self._shares * (ledger.series_rate * unit)
        with np.errstate(invalid="ignore"):
            hot = p <= alpha
        whys = self._by_prior(p, hot, int(np.count_nonzero(~np.isnan(p))) * unit)
        self._excursions.warm(p, hot)
        if whys:
            self._afford(whys, hot)
        began = self._begin_and_deepen(frame, p, hot, whys)
        self._together(frame, p, hot)
        ledger.count(self._source, frame.ts, int(np.count_nonzero(~np.isnan(p))) * unit, began)
        trust = self._excursions.trust(hot, alpha)
        going = self._excursions.on & ~self._excursions.old
        found = []
        for series, episode in list(self._episodes.items()):
            goes_on = going[self._index[series]]
            found.append(_excursion(series, episode, None if goes_on else frame.ts))
            if not goes_on:
                del self._episodes[series]
        self._detector.learn(frame.ts, frame.values, trust)
        return found

    def _by_prior(self, p: FloatArray, hot: BoolArray, days: float) -> dict[int, Why]:
        """Mark in `hot` (n,) what a short history can not give so small a p, but the shipped prior names; say why.

        Paid from the budget, too: a few tokens, which come back with the days (series times time) that were watched.
        So the first minutes of a source, when everything is new, name the few that are farthest out.
        """
        ledger, whys = self._ledger, dict[int, Why]()
        self._tokens = min(self._tokens + ledger.series_rate * days, _PRIOR_TOKENS)
        with np.errstate(invalid="ignore"):
            at_floor = ~hot & (p <= 1.0 / max(30.0, 15.0 * self.rows))
        before, self._far = self._far, np.zeros(len(p), dtype=np.int64)
        if self.rows <= _PRIOR_ROWS or not at_floor.any() or self._detector is None:
            return whys
        for i in map(int, np.flatnonzero(at_floor)):
            why = self._detector.explain(i)
            rarer = max(1.0, self._weights[i] / (self._shares[i] * ledger.tightness))
            if why.deviations >= PRIOR_DEVIATIONS * (1.0 + math.log10(rarer)):
                whys[i] = why
        far = list(whys)
        hot[far] = True
        self._far[far] = before[far] + 1
        return whys

    def _afford(self, whys: dict[int, Why], hot: BoolArray) -> None:
        """Take out of `hot` (n,) what the prior would name beyond its tokens: the least far out of those that begin."""
        begin = [
            i for i in whys
            if self._lasts(i) and self._excursions.hot[i] and self._series[i] not in self._episodes
        ]  # fmt: skip
        begin.sort(key=lambda i: -whys[i].deviations)
        many = int(self._tokens)
        hot[begin[many:]] = False
        self._tokens -= len(begin[:many])

    def _lasts(self, i: int) -> bool:
        """Tell whether what the prior finds far out has been so for long enough to be named."""
        return bool(self._far[i] >= self._prior_rows)

    def _together(self, frame: Frame, p: FloatArray, hot: BoolArray) -> None:
        """Let the groups that are abnormal name the series that carry it.

        hot   (n,) gets those series, too: what a group is abnormal by is not learnt
        """
        groups = self._groups
        if groups is None:
            return
        # what is asked to be rarer counts for less in a group, too
        asked = np.minimum(p / self._shares, 1.0)
        rare = groups.view.score(frame.ts, asked)
        with np.errstate(invalid="ignore"):
            limit = groups.shares * (self._ledger.group_rate * self.step_s / DAY_S)
            now = rare <= limit
        state = groups.excursions
        state.warm(rare, now)
        for g in map(int, np.flatnonzero(now & state.hot)):
            named = groups.view.carriers(g)
            hot[named] = True
            self._excursions.name(named)
            self._begin_and_deepen(frame, p, hot, {}, named=named, together=float(rare[g]))
        trust = state.trust(now, limit)
        groups.view.learn(frame.ts, asked, trust)

    def _begin_and_deepen(
        self,
        frame: Frame,
        p: FloatArray,
        hot: BoolArray,
        whys: dict[int, Why],
        *,
        named: IntArray | None = None,
        together: float | None = None,
    ) -> int:
        """Begin episodes of series that are hot, or that are `named`; return how many have begun."""
        detector, began = self._detector, 0
        if detector is None:
            return 0
        begin = np.flatnonzero(hot & self._excursions.hot) if named is None else named
        for i in map(int, begin):
            series = self._series[i]
            episode = self._episodes.get(series)
            if episode is None and named is None and i in whys and not self._lasts(i):
                continue
            if episode is None:
                why = whys.get(i) or detector.explain(i)
                # what the prior has waited for began when it was first far out
                onset = frame.ts - self.step_s * (max(1, int(self._far[i])) if i in whys else 1)
                onset = onset if why.since is None else min(onset, why.since)
                self._episodes[series] = _Episode(
                    onset, float(p[i]), float(frame.values[i]), why, together=together,
                    carriers=self._carried(why, named),
                )  # fmt: skip
                began += 1
                continue
            if together is not None and (episode.together is None or together < episode.together):
                episode.together = together
            silent, fell_silent = math.isnan(episode.value), math.isnan(frame.values[i])
            # an excursion that ends in silence stays what it was; one that was silence is over when values are back
            if fell_silent and not silent:
                continue
            if p[i] <= episode.p or (silent and not fell_silent):
                why = whys.get(i) or detector.explain(i)
                if why.deviations >= episode.why.deviations or silent != fell_silent:
                    self._episodes[series] = replace(
                        episode, p=float(p[i]), value=float(frame.values[i]), why=why,
                        carriers=self._carried(why, named) or episode.carriers,
                    )  # fmt: skip
        return began

    def _carried(self, why: Why, named: IntArray | None) -> tuple[Series, ...]:
        """Return who was abnormal together, by name: columns move when series come and go."""
        columns = why.carriers or (() if named is None else named.tolist())
        return tuple(self._series[j] for j in columns[:MOST_CARRIERS])

    # ---- series come and go; restarts

    def _retable(self, series: tuple[Series, ...]) -> None:
        before = {s: i for i, s in enumerate(self._series)}
        old = np.array([before.get(s, -1) for s in series], dtype=np.int64)
        if self._make is not None:
            if self._detector is None:
                self._detector = self._make(self.step_s, len(series))
                self._restore(series)
            else:
                self._detector.remap(old)
            if isinstance(self._detector, Knowing):
                self._detector.set_traits(traits_of(series, self._topology))
            self._share_out(series)
        self._excursions.remap(old)
        far, self._far = self._far, np.zeros(len(old), dtype=np.int64)
        self._far[old >= 0] = far[old[old >= 0]]
        broken, stood = _Broken.lay(series, self._limits), self._broken
        was = {
            (limit, self._series[int(c)]): i
            for i, (limit, c) in enumerate(zip(stood.limit, stood.column, strict=True))
        }
        for i, (limit, c) in enumerate(zip(broken.limit, broken.column, strict=True)):
            j = was.get((limit, series[int(c)]))
            if j is not None:
                for name in ("since", "well", "on", "worst"):
                    getattr(broken, name)[i] = getattr(stood, name)[j]
        carried = {
            (limit, series[int(c)]) for limit, c in zip(broken.limit, broken.column, strict=True)
        }
        self._left += [
            self._breach(i, None) for key, i in was.items() if stood.on[i] and key not in carried
        ]
        self._broken = broken
        self._series = series
        self.p = np.full(len(series), np.nan)
        self._index = {s: i for i, s in enumerate(series)}
        gone = [s for s in self._episodes if s not in self._index]
        self._left += [_excursion(s, self._episodes.pop(s), None) for s in gone]

    def _share_out(self, series: tuple[Series, ...]) -> None:
        """Take seats at the budget; groups that stay keep what was learnt of them."""
        self._weights = np.array([weight(s) for s in series])
        self._heeded = -1
        found = [bundle(s.entity) for s in series]
        shares = dict(found)
        names = sorted(shares)
        place = {name: g for g, name in enumerate(names)}
        of = np.array([place[name] for name, _ in found], dtype=np.int64)
        if self._make_view is not None:
            groups = self._groups
            if groups is None:
                groups = self._groups = _Groups(
                    self._make_view(self.step_s, of), Excursions(len(names), self.step_s), names
                )
                self._restore_view(groups)
            before = {name: g for g, name in enumerate(groups.names)}
            old = np.array([before.get(name, -1) for name in names], dtype=np.int64)
            groups.view.regroup(of, old)
            groups.excursions.remap(old)
            groups.names = names
            groups.shares = np.array([shares[name] for name in names])
        self._ledger.seat(self._source, self._weights, np.array([shares[n] for n in names]))

    def let_go(self) -> list[Anomaly]:
        """Call nothing abnormal any more, and return what was; what was learnt stays."""
        b = self._broken
        broken = [self._breach(int(i), None) for i in np.flatnonzero(b.on)]
        out = [*broken, *(_excursion(s, e, None) for s, e in self._episodes.items()), *self._left]
        b.on[:] = False
        b.since[:] = b.well[:] = b.worst[:] = np.nan
        self._episodes, self._left = {}, []
        return out

    def relimit(self, limits: Sequence[Limit]) -> None:
        """Take new objectives (after a reload), keeping the state of those that stayed."""
        self._limits = tuple(limits)
        self._retable(self._series)

    def rebase(self, jump: float) -> None:
        """Move remembered times along with a wall clock that was set."""
        self._last += jump
        self._read += jump
        self.since = None if self.since is None else self.since + jump
        self._broken.since += jump
        self._broken.well += jump
        for episode in self._episodes.values():
            episode.onset += jump

    def dump(self) -> bytes:
        """Return what was learnt, with the names of the series, for the next start."""
        if self._detector is None:
            return b""
        learnt, groups = self._detector.dump(), self._groups
        head = {
            "rows": self.rows, "since": self.since, "series": [str(s) for s in self._series],
            "detector": len(learnt), "groups": groups.names if groups is not None else [],
        }  # fmt: skip
        raw = json.dumps(head).encode()
        seen = groups.view.dump() if groups is not None else b""
        return struct.pack("<I", len(raw)) + raw + learnt + seen

    def load(self, state: bytes) -> None:
        """Keep what `dump` gave until the first frame tells the series; raises Refused when damaged."""
        try:
            (size,) = struct.unpack_from("<I", state)
            head = json.loads(state[4 : 4 + size])
            self.rows, self.since = int(head["rows"]), head["since"]
            head = {"detector": len(state), "groups": [], **head}
            self._kept = ({k: head[k] for k in ("series", "detector", "groups")}, state[4 + size :])
        except (struct.error, ValueError, KeyError, TypeError) as damage:
            raise Refused(f"detector state is damaged ({damage}): it is learnt anew") from None

    def _restore(self, series: tuple[Series, ...]) -> None:
        if self._kept is None or self._detector is None:
            return
        (head, state), self._kept = self._kept, None
        try:
            self._detector.load(state[: head["detector"]])
        except Refused:
            self.rows, self.since = 0, None  # of another version: it is learnt anew, and says so
            return
        before = {name: i for i, name in enumerate(head["series"])}
        self._detector.remap(np.array([before.get(str(s), -1) for s in series], dtype=np.int64))
        self._series = series
        self._kept = (head, state[head["detector"] :])

    def _restore_view(self, groups: _Groups) -> None:
        """Take up the view where it was, after the detector; one that does not fit is learnt anew."""
        if self._kept is None:
            return
        (head, state), self._kept = self._kept, None
        with contextlib.suppress(Refused):
            groups.view.load(state)
            groups.names = list(head["groups"])
            groups.excursions = Excursions(len(groups.names), self.step_s)


def _excursion(series: Series, e: _Episode, end: float | None) -> Anomaly:
    direction, size = _side(e.value, e.why.low, e.why.high)
    return Anomaly(
        series, e.onset, end, e.p, direction, e.value, e.why.low, e.why.high, size,
        e.why.deviations, "calibrated" if e.why.calibrated else "prior", e.why.family,
        together=e.together, carriers=e.carriers,
    )  # fmt: skip


def _side(value: float, low: float, high: float) -> tuple[int, float]:
    """Return on which side of its band a value is, and how far beyond it.

    A family may judge more than this row: then the row lies within the band, on one side of its middle. Without a band,
    or without a value, there is no side (0).
    """
    if value > high:
        return 1, value - high
    if value < low:
        return -1, low - value
    off = value - (low + high) / 2.0
    return (0 if math.isnan(off) else int(np.sign(off))), 0.0


@dataclass(slots=True)
class Monitor:
    """All sources under watch.

    step_of   source -> its usual seconds between frames
    limits    every objective, built-in and stated
    ledger    the alarm budget that all sources share
    topology  what tells apart entities of one kind that are not alike
    """

    make: MakeDetector | None
    limits: tuple[Limit, ...]
    step_of: Callable[[str], float] = field(default=lambda _source: 1.0)
    make_view: MakeView | None = None
    ledger: Ledger = field(default_factory=Ledger)
    topology: Topology | None = None
    watches: dict[str, Watch] = field(default_factory=dict)
    _left: list[Anomaly] = field(default_factory=list)

    def take(self, frame: Frame) -> list[Anomaly]:
        """Return the anomalies of this frame's source; a detector that is broken raises."""
        found = self.watch(frame.source).take(frame)
        left, self._left = [replace(a, end=frame.ts) for a in self._left], []
        return left + found

    def drop(self, source: str) -> None:
        """End what is abnormal at a source that was taken out of config, with the next frame of any other."""
        if source in self.watches:
            self._left += self.watches[source].let_go()

    def watch(self, source: str) -> Watch:
        """Return the watch of a source, made at its first frame."""
        if source not in self.watches:
            make = None if source in OWN else self.make
            self.watches[source] = Watch(
                self.step_of(source), make, self.limits,
                source=source, ledger=self.ledger, make_view=self.make_view, topology=self.topology,
            )  # fmt: skip
        return self.watches[source]

    def idle(self) -> list[Limit]:
        """Return the stated limits whose signal is measured where they look, but nowhere with their labels."""
        missed = {limit for watch in self.watches.values() for limit in watch.misses}
        if missed:
            missed -= {limit for watch in self.watches.values() for limit in watch.laid}
        return [limit for limit in self.limits if limit in missed and limit not in BUILT_IN]

    def learning(self) -> dict[str, dict[str, float | bool | None]]:
        """Say per source since when it learns, from how many rows, and whether it knows enough."""
        return {
            name: {
                "since": w.since,
                "rows": w.rows,
                "ready": w.rows >= READY_ROWS,
                "ready_in_s": max(0.0, (READY_ROWS - w.rows) * w.step_s),
            }
            for name, w in sorted(self.watches.items())
            if name not in OWN
        }
