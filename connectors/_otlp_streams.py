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
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from agent.calls import Names
from agent.collect import patience_of
from agent.model import BoolArray, Edge, Entity, FloatArray, IntArray, Series, Sighting
from agent.ports import Book, SampleBatch
from agent.survey import TARGETS_LAST_S, Survey
from connectors._otlp_buckets import joined, quantiles_of
from connectors._otlp_columns import (
    AHEAD_S,
    DELTA,
    DELTA_GAUGE,
    GAUGE,
    NOBODY,
    RISING,
    Laid,
    Rows,
    State,
    timely,
)
from connectors._otlp_histograms import PowerTable, Table
from connectors._otlp_names import (
    QUANTILES,
    Fold,
    Place,
    Placed,
    model_edges,
    placed,
    resource_labels,
    texts,
)
from connectors._otlp_points import Header, Heads, Metric, Points, Powers, Spread, Summaries
from connectors._proc import this_host

KEEP_S: Final = 600.0
_SWEEP_S: Final = 60.0
_CALLS_LAST_S: Final = 3600.0
_AGAIN_S: Final = 60.0
_GOING_S: Final = 300.0
_MOST_QUANTILES: Final = 10
_WHICH: Final = {q: i for i, (q, _) in enumerate(QUANTILES)}
_MOST_TABLES: Final = 64
"""Sets of bounds; histograms of others have no quantiles."""
_NONE: Final = -1
_POWERS: Final = -2
"""Where others have the number of their table: exponential histograms are all in one."""


@dataclass(slots=True)
class _Group:
    """Quantiles that several streams are merged into: the column of each of `QUANTILES`, or none."""

    columns: list[int]
    scale: float


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
        self._book = Book(secrets.token_hex(8))
        self._columns: dict[Series, int] = {}
        self._folds: list[Fold] = []
        """Of each column; those of quantiles have no addends."""
        self._addends: list[tuple[int, int, float, float, int]] = []
        """Stream, column, scale, weight, part."""
        self._parts: dict[tuple[Series, tuple[str, str]], int] = {}
        self._new_part = itertools.count()
        self._laid: Laid | None = None
        self._known: dict[tuple[Any, ...], Metric] = {}
        self._keys: list[tuple[Any, ...]] = [()]
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._senders: Counter[str] = Counter()
        self._full: set[str] = set()
        self._swept_at = -math.inf
        self._tables: dict[bytes, int] = {}
        self._table: list[Table] = []
        self._powers = PowerTable()
        self._quantiles: dict[tuple[int, float], int] = {}
        self._told_of = Counter[int]()
        """Of streams of summaries: quantile -> its stream."""
        self._groups: dict[tuple[Series, ...], int] = {}
        self._merged: list[_Group] = []
        self._edges: list[Edge | None] = [None]
        self._edge_of: dict[Edge, int] = {}
        self._survey = Survey(names)
        self._surveyed: tuple[int, ...] = ()
        self._looked_at = -math.inf
        self._stirred = False
        self._resources: list[Mapping[str, str]] = [{}]
        self._resource_of: dict[str, int] = {}
        self._calls: dict[Edge, float] = {}
        self._heard: dict[str, float] = {}
        """Sender -> when; the state has their numbers, in this order."""
        self._state = State(1)
        self._now = -math.inf

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
        of = self._state
        of.count[number], of.sum[number] = count, total
        of.group[number] = self._group(place) if header.shape != "summary" else _NONE
        if place.calls is not None:
            of.edge[number] = self._edge_of.setdefault(place.calls, len(self._edges))
            if of.edge[number] == len(self._edges):
                self._edges.append(place.calls)
        if header.shape == "exponential" and of.group[number] != _NONE:
            of.table[number] = _POWERS
            of.row[number] = self._powers.add(int(of.group[number]), delta=header.delta)
        of.delta[number] = header.delta
        return number

    def _allot(self, key: tuple[Any, ...], resource: int, kind: int) -> int:
        self._keys.append(key)
        self._heard.setdefault(key[0], -math.inf)
        self._state.grow(kind, resource, list(self._heard).index(key[0]))
        return len(self._keys) - 1

    def _add(self, number: int, places: Sequence[Place]) -> None:
        for place in places:
            column = self._column(place.series, place.fold)
            part = -1
            if place.same is not None:
                part = self._parts.setdefault((place.series, place.same), next(self._new_part))
            self._addends.append((number, column, place.scale, place.weight, part))
        self._laid = None

    def _column(self, series: Series, fold: Fold) -> int:
        column = self._columns.get(series)
        if column is None:
            column = self._columns[series] = len(self._folds)
            self._book.series.append(series)
            self._folds.append(fold)
        return column

    def _group(self, place: Placed) -> int:
        if not place.quantiles:
            return _NONE
        key = tuple(series for _, series in place.quantiles)
        group = self._groups.get(key)
        if group is None:
            columns = [_NONE] * len(QUANTILES)
            for q, series in place.quantiles:
                columns[_WHICH[q]] = self._column(series, "max")
            group = self._groups[key] = len(self._merged)
            self._merged.append(_Group(columns, place.scale))
        return group

    # ---- a request

    def take(self, points: Points, now: float, sender: str) -> SampleBatch:
        """Take the points of a request; return the columns that they move."""
        if now < self._now - AHEAD_S:
            self._set_back(now)
        self._now = self._heard[sender] = now
        taken = points.stream >= 0
        left_out = int((~taken).sum())
        rows = [Rows(
            points.stream[taken], points.start[taken], timely(points.ts[taken], now), points.value[taken],
            points.gone[taken],
        )]  # fmt: skip
        closed = [np.zeros(0, dtype=np.int64)]
        for said in points.distributions:
            left_out += int((said.heads.stream < 0).sum())
            some = said.at(said.heads.stream > NOBODY)
            heads = replace(some.heads, ts=timely(some.heads.ts, now))
            some = replace(some, heads=heads)
            rows.append(self._totals(heads, now))
            match some:
                case Spread():
                    closed.append(self._spread(some, now))
                case Powers():
                    closed.append(self._power(some, now))
                case Summaries():
                    rows.append(self._told(some))
        moved = self._state.update(Rows.joined(rows), now, self._every_s)
        lost = self._lost(now)
        at, values = self._folded(moved, lost, now)
        sharp, quantiles = self._sharp(np.unique(np.concatenate(closed)), lost, now)
        why = ""
        if left_out:
            why = (
                f"{', '.join(sorted(self._full))[:80]}: more than {self._most} series; raise `most_series`, "
                "or send fewer attributes"
            )
        batch = SampleBatch(
            self._source, self._book,
            np.append(at, sharp),
            np.append(values, quantiles),
            self._every_s, tuple(self._sightings(now)), left_out, why, sender,
        )  # fmt: skip
        if self._full and now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            self._sweep(now)
        return batch

    def _set_back(self, now: float) -> None:
        """Follow the clock of this host: senders on it went back with it."""
        self._state.set_back(now)
        self._powers.set_back(now)
        for table in self._table:
            table.set_back(now)
        self._heard = {who: min(at, now) for who, at in self._heard.items()}
        self._calls = {edge: min(at, now) for edge, at in self._calls.items()}

    def _totals(self, heads: Heads, now: float) -> Rows:
        """Note that distributions were heard; return the points of what they count in all."""
        of, stream = self._state, heads.stream
        of.came[stream] = now
        for i in np.unique(of.edge[stream]).tolist():
            if (edge := self._edges[i]) is not None:
                self._calls[edge] = now
        told = ~np.isnan(heads.total)
        return Rows(
            np.append(of.count[stream], of.sum[stream[told]]),
            np.append(heads.start, heads.start[told]), np.append(heads.ts, heads.ts[told]),
            np.append(heads.count, heads.total[told]), np.append(heads.gone, heads.gone[told]),
        )  # fmt: skip

    def _spread(self, spread: Spread, now: float) -> IntArray:
        """Take histograms of the same bounds; return the groups whose quantiles are due."""
        of = self._state
        table = self._tables.get(spread.bounds)
        if table is None and spread.bounds and len(self._table) < _MOST_TABLES:
            table = self._tables[spread.bounds] = len(self._table)
            self._table.append(Table(np.frombuffer(spread.bounds, dtype="<f8")))
        some = spread.at(of.group[spread.heads.stream] != _NONE)
        stream = some.heads.stream
        if table is None:
            return stream[:0]
        for number in np.unique(stream[of.table[stream] != table]).tolist():
            if of.table[number] != _NONE:  # its bounds have changed
                self._table[of.table[number]].leave(of.row[number])
            row = self._table[table].add(int(of.group[number]), delta=bool(of.delta[number]))
            of.table[number], of.row[number] = table, row
        return self._table[table].take(of.row[stream], some, now, self._every_s)

    def _power(self, powers: Powers, now: float) -> IntArray:
        """Take exponential histograms; return the groups whose quantiles are due."""
        of = self._state
        some = powers.at(of.group[powers.heads.stream] != _NONE)
        return self._powers.take(of.row[some.heads.stream], some, now, self._every_s)

    def _told(self, summaries: Summaries) -> Rows:
        """Return the quantiles that senders have made themselves."""
        heads = summaries.heads
        whose = heads.stream[summaries.point].tolist()
        told = list(zip(whose, summaries.quantile.tolist(), strict=True))
        found = list(map(self._quantiles.get, told))
        if None in found:
            for number, q in told:
                if (number, q) not in self._quantiles and self._told_of[number] < _MOST_QUANTILES:
                    self._told_of[number] += 1
                    self._quantiles[number, q] = self._quantile_stream(number, q)
            found = [self._quantiles.get(one, -1) for one in told]
        streams = np.array(found, dtype=np.int64)
        kept = streams >= 0
        at = summaries.point[kept]
        return Rows(
            streams[kept], heads.start[at], heads.ts[at], summaries.value[kept], heads.gone[at]
        )

    def _quantile_stream(self, number: int, q: float) -> int:
        """Make a stream of a quantile that the sender itself has made."""
        sender, said, scope, header, labels = self._keys[number]
        gauge = replace(header, shape="gauge")
        labels = (*labels, ("quantile", f"{q:g}"))
        who = self._resources[self._state.resource[number]]
        return self._new((sender, said, scope, gauge, labels), gauge, who, dict(labels))

    def _sharp(self, groups: IntArray, lost: IntArray, now: float) -> tuple[IntArray, FloatArray]:
        """Return the columns of quantiles of groups, and their values: of what all their streams brought last."""
        if not groups.size:
            return groups, np.zeros(0)
        oldest = now - patience_of(self._every_s)
        wanted = [q for q, _ in QUANTILES]
        values = np.full((len(groups), len(wanted)), np.nan)
        counts = [table.merged(groups, oldest) for table in self._table]
        cells = self._powers.merged(groups, oldest)
        holds: list[BoolArray] = [np.asarray(c.any(axis=1)) for c in counts]
        holds.append(np.asarray(cells.totals() > 0))
        for table, c, held in zip(self._table, counts, holds, strict=False):
            if held.any():
                values[held] = table.quantiles(c[held], wanted)
        if holds[-1].any():
            values = np.where(holds[-1][:, None], cells.quantiles(wanted), values)
        for i in np.flatnonzero(np.sum(holds, axis=0) > 1).tolist():  # whose bounds differ
            parts = [
                t.buckets(c[i]) for t, c, h in zip(self._table, counts, holds, strict=False) if h[i]
            ]
            values[i] = quantiles_of(joined([*parts, cells.buckets(i)]), wanted)
        merged = [self._merged[i] for i in groups.tolist()]
        values[np.isin(groups, self._state.group[lost])] = np.nan
        columns = np.array([group.columns for group in merged])
        values *= np.array([group.scale for group in merged])[:, None]
        return columns[columns != _NONE], values[columns != _NONE]

    def _lost(self, now: float) -> IntArray:
        """Return the streams of senders that fell silent: what is left of sums of theirs and others' is no sum."""
        patience = patience_of(self._every_s)
        silent = [
            i
            for i, at in enumerate(self._heard.values())
            if patience < now - at <= KEEP_S + patience
        ]
        if not silent:
            return np.zeros(0, dtype=np.int64)
        lost = np.isin(self._state.sender, silent) & (self._state.came < now - patience)
        return np.flatnonzero(lost & (self._state.came > now - KEEP_S))

    def _folded(self, moved: IntArray, lost: IntArray, now: float) -> tuple[IntArray, FloatArray]:
        """Return the columns that streams are addends of, and their values."""
        if self._laid is None:
            self._laid = Laid.of(self._addends, self._folds)
        fresh = self._state.came >= now - patience_of(self._every_s)
        return self._laid.fold(moved, np.where(fresh, self._state.out, np.nan), lost)

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
        of = self._state
        whole = np.flatnonzero(of.count)
        alive[of.count[whole]] = alive[of.sum[whole]] = alive[whole]
        told_by = np.array([number for number, _ in self._quantiles], dtype=np.int64)
        alive[list(self._quantiles.values())] = alive[told_by]
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
        of.count[:] = np.where(of.count > 0, to[of.count], 0)
        of.sum[:] = np.where(of.sum > 0, to[of.sum], 0)
        self._quantiles = {
            (int(to[i]), q): int(to[n]) for (i, q), n in self._quantiles.items() if alive[i]
        }
        self._told_of = Counter(number for number, _ in self._quantiles)
        self._regroup()
        self._rewrite([(int(to[i]), *rest) for i, *rest in self._addends if alive[i]])

    def _regroup(self) -> None:
        """Number anew the groups, and the rows of tables, that streams still have."""
        of = self._state
        used = np.unique(of.group[of.group != _NONE])
        new = {old: i for i, old in enumerate(used.tolist())}
        of.group[:] = np.where(of.group != _NONE, np.searchsorted(used, of.group), _NONE)
        self._merged = [self._merged[i] for i in used.tolist()]
        self._groups = {k: new[i] for k, i in self._groups.items() if i in new}
        tables: list[tuple[int, Table | PowerTable]] = [(_POWERS, self._powers)]
        for t, table in (*tables, *enumerate(self._table)):
            theirs = np.flatnonzero(of.table == t)
            table.keep(of.row[theirs], of.group[theirs])
            of.row[theirs] = np.arange(len(theirs))

    def _rewrite(self, addends: list[Any]) -> None:
        """Begin a book with the columns that are still wanted."""
        wanted = {c for _, c, *_ in addends} | {
            c for g in self._merged for c in g.columns if c != _NONE
        }
        new = {old: i for i, old in enumerate(sorted(wanted))}
        series = [s for s, c in self._columns.items() if c in new]
        self._folds = [self._folds[c] for c in sorted(wanted)]
        self._columns = {s: new[self._columns[s]] for s in series}
        ordered = sorted(series, key=lambda s: self._columns[s])
        self._book = Book(secrets.token_hex(8), ordered)
        self._addends = [(i, new[c], *rest) for i, c, *rest in addends]
        self._parts = {k: n for k, n in self._parts.items() if k[0] in self._columns}
        for group in self._merged:
            group.columns = [new.get(c, _NONE) for c in group.columns]
        self._laid = None


def _kind(header: Header) -> int:
    if header.shape == "gauge" or not header.monotonic:
        return DELTA_GAUGE if header.shape == "sum" and header.delta else GAUGE
    return DELTA if header.delta else RISING
