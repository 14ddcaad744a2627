"""The streams of OTLP by number: what counts becomes a rate, distributions become quantiles, streams become columns.

    Points -> newest of each stream -> rate between its own times -> addends -> columns of ours -> SampleBatch

A stream is one set of attributes of one metric of one resource. Rates and quantiles are of the time since they were
made last, at least nine tenths of an interval, by the times that the points carry: a point that comes late, twice, or
after a restart of its sender spoils none. Sums of deltas are accumulated first. Streams of several processes or routes
that are one column of ours are added, or joined as the column says; buckets of distributions are merged.

Bounded: so many streams a sender; what nobody sent for ten minutes makes room when a sender has no more.
Cost: some ten vector operations a request over all streams, Python only for what is new and for distributions.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from agent.calls import Names
from agent.collect import patience_of
from agent.model import Edge, Entity, FloatArray, IntArray, Series, Sighting
from agent.ports import Book, SampleBatch
from agent.survey import TARGETS_LAST_S, Survey
from connectors._otlp_buckets import count_of, joined, less, none, quantile
from connectors._otlp_columns import (
    DELTA,
    DELTA_GAUGE,
    DUE,
    GAP_S,
    GAUGE,
    NOBODY,
    RISING,
    Laid,
    Rows,
    State,
    timely,
)
from connectors._otlp_metrics import Distribution, Header, Metric, Points
from connectors._otlp_names import Fold, Place, Placed, model_edges, placed, resource_labels, texts
from connectors._proc import this_host

KEEP_S: Final = 600.0
_SWEEP_S: Final = 60.0
_CALLS_LAST_S: Final = 3600.0
_AGAIN_S: Final = 60.0
_ORIGINS: Final = itertools.count()
_GOING_S: Final = 300.0
_MOST_QUANTILES: Final = 10


@dataclass(slots=True)
class _Histogram:
    """A stream of a distribution: its buckets (k, 3: lower, upper, count) when quantiles were made, and since then.

    count, sum   numbers of the streams of its totals
    """

    delta: bool
    count: int
    sum: int
    group: _Group | None
    calls: Edge | None
    quantiles: dict[float, int] = field(default_factory=dict)
    last_ts: float = 0.0
    start: float = 0.0
    base_ts: float = math.nan
    base: FloatArray = field(default_factory=none)
    total: FloatArray = field(default_factory=none)
    recent: FloatArray = field(default_factory=none)
    came: float = -math.inf

    def take(self, point: Distribution, ts: float, every_s: float) -> bool:
        """Take a point that is newer; return whether `recent` is new."""
        now = np.array(point.buckets, dtype=np.float64).reshape(-1, 3)
        started = 0.0 < point.start < ts
        if self.delta:
            now = self.total = joined([self.total, now])
        again = not self.delta and (
            count_of(now) < count_of(self.base) or self.start < point.start > self.last_ts - 1.0
        )
        if math.isnan(self.base_ts) or again:
            whole = started and (self.delta or again or ts - point.start <= 2 * every_s)
            self.base = none() if whole else now
            self.base_ts = point.start if whole else ts
        self.last_ts, self.start = ts, point.start
        gap = ts - self.base_ts
        if gap < DUE * every_s:
            return False
        self.recent = less(now, self.base) if gap <= max(GAP_S, 5 * every_s) else none()
        self.base, self.base_ts = now, ts
        if self.delta:
            self.total, self.base = none(), none()
        return True


@dataclass(slots=True)
class _Group:
    """Quantiles that several streams are merged into: of each its column."""

    columns: list[tuple[float, int]]
    scale: float
    members: list[_Histogram] = field(default_factory=list)


class Streams:
    """All streams of one connector. Is the Register of `points_of`.

    most      streams of one sender
    every_s   how often frames are made
    """

    def __init__(
        self, source: str, most: int, every_s: float, names: Names, *, own: Entity | None = None
    ) -> None:
        self._source = source
        self._most = most
        self._every_s = every_s
        self._names = names
        self._own = own
        self._book = Book(f"{os.getpid()}/{next(_ORIGINS)}")
        self._columns: dict[Series, int] = {}
        self._folds: list[Fold] = []
        """Of each column; those of quantiles have no addends."""
        self._addends: list[tuple[int, int, float, float]] = []
        """Stream, column, scale, weight."""
        self._laid: Laid | None = None
        self._known: dict[tuple[Any, ...], Metric] = {}
        self._keys: list[tuple[Any, ...]] = [()]
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._senders: Counter[str] = Counter()
        self._full: set[str] = set()
        self._swept_at = -math.inf
        self._histograms: dict[int, _Histogram] = {}
        self._groups: dict[tuple[Series, ...], _Group] = {}
        self._survey = Survey(names)
        self._surveyed: tuple[int, ...] = ()
        self._looked_at = -math.inf
        self._stirred = False
        self._resources: list[Mapping[str, str]] = [{}]
        self._resource_of: dict[str, int] = {}
        self._calls: dict[Edge, float] = {}
        self._state = State(1)

    # ---- register

    def metric(self, key: tuple[Any, ...]) -> Metric | None:
        """Return a metric that is known."""
        return self._known.get(key)

    def know(self, key: tuple[Any, ...], metric: Metric) -> None:
        """Take a new one; what is beyond the bound is read anew each time."""
        if len(self._known) < 2 * self._most:
            self._known[key] = metric

    def stream(self, metric: Metric, attributes: Mapping[str, Any], *, sender: str) -> int:
        """Return the number of a stream; -1 = its sender has too many."""
        if self._senders[sender] >= self._most:
            self._full.add(sender)
            return -1
        self._senders[sender] += 1
        labels = texts(attributes)
        who = resource_labels(metric.resource)
        said = json.dumps(who, sort_keys=True)
        key = (sender, said, metric.scope, metric.header, tuple(sorted(labels.items())))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._new(key, metric.header, who, labels)
        return number

    def _new(
        self,
        key: tuple[Any, ...],
        header: Header,
        who: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> int:
        own, fallback = self._own or this_host(), Entity("source", self._source)
        place = placed(header, who, labels, self._names, own=own, fallback=fallback)
        if place is None:
            return NOBODY
        resource = self._resource_of.setdefault(key[1], len(self._resources))
        if resource == len(self._resources):
            self._resources.append(who)
            self._stirred = True
        if header.shape in {"gauge", "sum"}:
            number = self._allot(key, resource, _kind(header))
            self._add(number, [p for p in place.places if p.part == "value"])
            return number
        number = self._allot(key, resource, GAUGE)
        totals = DELTA if header.delta else RISING
        count, total = (self._allot((*key, part), resource, totals) for part in ("count", "sum"))
        self._add(count, [p for p in place.places if p.part == "count"])
        self._add(total, [p for p in place.places if p.part == "sum"])
        group = self._group(place) if header.shape != "summary" else None
        made = _Histogram(header.delta, count, total, group, place.calls)
        self._histograms[number] = made
        if group is not None:
            group.members.append(made)
        return number

    def _allot(self, key: tuple[Any, ...], resource: int, kind: int) -> int:
        self._keys.append(key)
        self._state.grow(kind, resource)
        return len(self._keys) - 1

    def _add(self, number: int, places: Sequence[Place]) -> None:
        for place in places:
            column = self._column(place.series, place.fold)
            self._addends.append((number, column, place.scale, place.weight))
        self._laid = None

    def _column(self, series: Series, fold: Fold) -> int:
        column = self._columns.get(series)
        if column is None:
            column = self._columns[series] = len(self._folds)
            self._book.series.append(series)
            self._folds.append(fold)
        return column

    def _group(self, place: Placed) -> _Group | None:
        if not place.quantiles:
            return None
        key = tuple(series for _, series in place.quantiles)
        group = self._groups.get(key)
        if group is None:
            columns = [(q, self._column(series, "max")) for q, series in place.quantiles]
            group = self._groups[key] = _Group(columns, place.scale)
        return group

    # ---- a request

    def take(self, points: Points, now: float) -> SampleBatch:
        """Take the points of a request; return the columns that they move."""
        taken = points.stream >= 0
        left_out = int((~taken).sum())
        rows = Rows(
            points.stream[taken], points.start[taken], points.ts[taken], points.value[taken], points.gone[taken]
        )  # fmt: skip
        closed: dict[int, _Group] = {}
        more: list[tuple[int, float, float, float, bool]] = []
        for number, point in points.distributions:
            if number < 0:
                left_out += 1
            elif number != NOBODY:
                more += self._distribution(number, point, now, closed)
        if more:
            rows = rows.joined(more)
        moved = self._state.update(rows.on_time(now), now, self._every_s)
        at, values = self._folded(moved, now)
        sharp = [(column, value) for g in closed.values() for column, value in self._sharp(g, now)]
        why = ""
        if left_out:
            why = (
                f"{', '.join(sorted(self._full))[:80]}: more than {self._most} series; raise `most_series`, "
                "or send fewer attributes"
            )
        batch = SampleBatch(
            self._source, self._book,
            np.append(at, np.array([c for c, _ in sharp], dtype=np.int64)),
            np.append(values, np.array([v for _, v in sharp], dtype=np.float64)),
            self._every_s, tuple(self._sightings(now)), left_out, why,
        )  # fmt: skip
        if self._full and now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            self._sweep(now)
        return batch

    def _distribution(
        self, number: int, point: Distribution, now: float, closed: dict[int, _Group]
    ) -> list[tuple[int, float, float, float, bool]]:
        """Take a point of a distribution; return those of its totals."""
        one = self._histograms[number]
        ts = timely(point.ts, now)
        self._state.came[number] = one.came = now
        if one.calls is not None:
            self._calls[one.calls] = now
        out = [(one.count, point.start, ts, point.count, point.flagged)]
        if not math.isnan(point.total):
            out.append((one.sum, point.start, ts, point.total, point.flagged))
        for q, value in point.quantiles:
            stream = one.quantiles.get(q)
            if stream is None and len(one.quantiles) < _MOST_QUANTILES:
                stream = one.quantiles[q] = self._quantile_stream(number, q)
            if stream is not None:
                out.append((stream, point.start, ts, value, point.flagged))
        if one.group is None or ts <= one.last_ts:
            return out
        if point.flagged:
            one.base_ts, one.recent = math.nan, none()
            closed[id(one.group)] = one.group
        elif one.take(point, ts, self._every_s):
            if ts < now - patience_of(self._every_s):
                one.recent = none()
            closed[id(one.group)] = one.group
        return out

    def _quantile_stream(self, number: int, q: float) -> int:
        """Make a stream of a quantile that the sender itself has made."""
        sender, said, scope, header, labels = self._keys[number]
        gauge = replace(header, shape="gauge")
        labels = (*labels, ("quantile", f"{q:g}"))
        who = self._resources[self._state.resource[number]]
        return self._new((sender, said, scope, gauge, labels), gauge, who, dict(labels))

    def _sharp(self, group: _Group, now: float) -> Iterable[tuple[int, float]]:
        """Return the quantiles of what the streams of a group brought last."""
        oldest = now - patience_of(self._every_s)
        merged = joined([m.recent for m in group.members if m.came >= oldest and len(m.recent)])
        for q, column in group.columns:
            yield column, quantile(merged, q) * group.scale

    def _folded(self, moved: IntArray, now: float) -> tuple[IntArray, FloatArray]:
        """Return the columns that streams are addends of, and their values."""
        if self._laid is None:
            self._laid = Laid.of(self._addends, self._folds)
        fresh = self._state.came >= now - patience_of(self._every_s)
        return self._laid.fold(moved, np.where(fresh, self._state.out, np.nan))

    # ---- who is there

    def _sightings(self, now: float) -> Iterable[Sighting]:
        """Say again each minute who sends, and whom it calls."""
        if 0 <= now - self._looked_at < _AGAIN_S and not self._stirred:
            return
        self._looked_at, self._stirred = now, False
        going = self._state.resource[self._state.came >= now - _GOING_S]
        there = tuple(np.unique(going[going > 0]).tolist())
        labels = [self._resources[i] for i in there]
        if there != self._surveyed:
            self._surveyed = there
            self._survey.table([("target_info", one) for one in labels])
        _, seen = self._survey.look(now, np.ones(len(labels)))
        yield from seen
        edges: dict[Entity, list[Edge]] = {}
        for edge in itertools.chain.from_iterable(model_edges(one, self._names) for one in labels):
            edges.setdefault(edge.src, []).append(edge)
        for src, some in edges.items():
            yield Sighting(src, edges=tuple(dict.fromkeys(some)), lasts_s=TARGETS_LAST_S)
        calls: dict[Entity, list[Edge]] = {}
        self._calls = {e: at for e, at in self._calls.items() if now - at <= _GOING_S}
        for edge in self._calls:
            calls.setdefault(edge.src, []).append(edge)
        for src, some in calls.items():
            yield Sighting(src, edges=tuple(some), lasts_s=_CALLS_LAST_S)

    # ---- making room

    def _sweep(self, now: float) -> None:
        """Forget the streams that nobody sent for long; number the others anew."""
        alive = self._state.came > now - KEEP_S
        alive[NOBODY] = True
        for number, one in self._histograms.items():
            alive[[one.count, one.sum, *one.quantiles.values()]] = alive[number]
        self._full.clear()
        if alive.all():
            return
        to = np.where(alive, np.cumsum(alive) - 1, -1)
        self._state.keep(alive)
        used = np.unique(self._state.resource)
        self._state.resource[:] = np.searchsorted(used, self._state.resource)
        self._resources = [self._resources[i] for i in used.tolist()]
        place = {old: i for i, old in enumerate(used.tolist())}
        self._resource_of = {said: place[i] for said, i in self._resource_of.items() if i in place}
        self._surveyed, self._stirred = (), True
        self._keys = list(itertools.compress(self._keys, alive.tolist()))
        self._numbers = {k: int(to[i]) for k, i in self._numbers.items() if alive[i]}
        self._senders.clear()
        for key, metric in list(self._known.items()):
            metric.streams = {
                k: 2 * int(to[two >> 1]) + (two & 1) for k, two in metric.streams.items() if alive[two >> 1]
            }  # fmt: skip
            if metric.streams:
                self._senders[key[0]] += len(metric.streams)
            else:
                del self._known[key]
        kept = {int(to[i]): one for i, one in self._histograms.items() if alive[i]}
        for one in kept.values():
            one.count, one.sum = int(to[one.count]), int(to[one.sum])
            one.quantiles = {q: int(to[i]) for q, i in one.quantiles.items()}
        self._histograms = kept
        there = {id(one) for one in kept.values()}
        for group in self._groups.values():
            group.members = [m for m in group.members if id(m) in there]
        self._groups = {k: g for k, g in self._groups.items() if g.members}
        self._rewrite([(int(to[i]), *rest) for i, *rest in self._addends if alive[i]])

    def _rewrite(self, addends: list[Any]) -> None:
        """Begin a book with the columns that are still wanted."""
        wanted = {c for _, c, *_ in addends} | {
            c for g in self._groups.values() for _, c in g.columns
        }
        new = {old: i for i, old in enumerate(sorted(wanted))}
        series = [s for s, c in self._columns.items() if c in new]
        self._folds = [self._folds[c] for c in sorted(wanted)]
        self._columns = {s: new[self._columns[s]] for s in series}
        ordered = sorted(series, key=lambda s: self._columns[s])
        self._book = Book(f"{os.getpid()}/{next(_ORIGINS)}", ordered)
        self._addends = [(i, new[c], scale, weight) for i, c, scale, weight in addends]
        for group in self._groups.values():
            group.columns = [(q, new[c]) for q, c in group.columns]
        self._laid = None


def _kind(header: Header) -> int:
    if header.shape == "gauge" or not header.monotonic:
        return DELTA_GAUGE if header.shape == "sum" and header.delta else GAUGE
    return DELTA if header.delta else RISING
