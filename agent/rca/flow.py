"""What the call graph says: whose the excess is that a symptom shows, and who has stopped to call.

    cost of an entity = latency x requests (seconds spent a second), or share of failures x requests
    own               = its excess cost, less the excess of everything that it calls
    explains          = own, as a share of the excess at the symptom: 1 = all of it began here

An excess is what a cost rose by over its usual level, less what is ordinary for it. Only numbers of one metric are
compared. Whose requests are not told is taken to have those of its busiest caller. A callee that was never called
before takes nothing from its caller: that it is called is the caller's doing.
Traffic runs the other way: when the calls of a callee fall and those of its caller do not, the caller lost them.
Cost: O(columns x blocks + columns x callers of an entity).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray
from agent.rca.evidence import NEW, Blocks, Evidence, moved, spread
from agent.rca.kinds import CLIMBS, FAILS, Columns, Kind

_MOST: Final = 0.5
"""Share of the entities that must have a metric for it to be summed over the graph."""
_OTHER: Final = 0.25
"""What is left of a share when the symptom is of the other family: slow hardly explains failing."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """What alerted: an entity, and the group and kind of its metric (group -1 = no column has it)."""

    entity: int
    group: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Flow:
    """Shares over the call graph, of n columns and m entities.

    compared (n,)  columns whose excess was summed over the graph
    own (n,)       their entity's own excess, as a share of the largest of the metric; 1 elsewhere
    explains (m,)  share of the symptom's excess that began at each entity; None when no metric can tell
    rarity         of the symptom's excess, in robust deviations over what is ordinary
    reached (m,)   whether calls lead there from the symptom
    """

    compared: BoolArray
    own: FloatArray
    explains: FloatArray | None
    rarity: float
    reached: BoolArray


def attribute(
    evidence: Evidence, columns: Columns, edges: IntArray, m: int, symptom: Symptom | None
) -> Flow:
    """Attribute excess over `edges` (e, 2), caller and callee, among `m` entities."""
    entity, kind, group = columns.entity, columns.kind, columns.group
    reached = np.ones(m, dtype=bool) if symptom is None else reach(edges, m, symptom.entity)
    compared, own = np.zeros(len(kind), dtype=bool), np.ones(len(kind))
    climbing = np.flatnonzero(np.isin(kind, [*CLIMBS]) & evidence.known)
    if not len(climbing):
        return Flow(compared, own, None, 0.0, reached)
    pair, key = np.unique(group[climbing] * m + entity[climbing], return_inverse=True)
    of_group, of_entity = pair // m, pair % m
    of_kind = np.zeros(len(pair), dtype=np.int64)
    of_kind[key] = kind[climbing]
    busy = np.flatnonzero(kind == Kind.TRAFFIC)
    pairs = _means_of(evidence.blocks, climbing, key, len(pair))
    traffic = _means_of(evidence.blocks, busy, entity[busy], m)
    excess, rarity = _excess(_failures(pairs, of_kind), _lent(traffic, edges), of_group, of_entity)
    mine = _less_callees(pair, excess, edges, m)

    groups = int(group.max()) + 1
    most, size = np.zeros(groups), np.bincount(of_group, minlength=groups)
    np.maximum.at(most, of_group, mine)
    explains, rare = None, 0.0
    if symptom is not None:
        asked = of_group == symptom.group
        here = asked & (of_entity == symptom.entity)
        np.maximum.at(most, of_group[here], excess[here])
        if np.count_nonzero(asked) > _MOST * len(np.unique(of_entity)) and most[symptom.group] > 0:
            explains = np.zeros(m)
            explains[of_entity[asked]] = mine[asked] / most[symptom.group]
            # a symptom that is not measured is taken at its word
            rare = float(rarity[here].max()) if here.any() else np.inf
    largest = most[of_group]
    share = np.where(largest > 0, mine / np.where(largest > 0, largest, 1.0), 0.0)
    if symptom is not None:
        share *= np.where(np.isin(of_kind, [*FAILS]) == (symptom.kind in FAILS), 1.0, _OTHER)
    alone = size[of_group] == 1
    compared[climbing] = ~alone[key]
    own[climbing] = np.where(alone, 1.0, share)[key]
    return Flow(compared, own, explains, rare, reached)


def reach(edges: IntArray, m: int, start: int) -> BoolArray:
    """Which of `m` entities calls lead to from `start`, itself among them."""
    ordered = edges[np.argsort(edges[:, 0], kind="stable")]
    bounds = np.searchsorted(ordered[:, 0], np.arange(m + 1))
    seen = np.zeros(m, dtype=bool)
    seen[start] = True
    waiting = [start]
    while waiting:
        here = waiting.pop()
        for other in ordered[bounds[here] : bounds[here + 1], 1].tolist():
            if not seen[other]:
                seen[other] = True
                waiting.append(other)
    return seen


def lost_calls(evidence: Evidence, columns: Columns, edges: IntArray, m: int) -> FloatArray:
    """How much entities (m,) have stopped to call: log(1 + rarity) of the callee's fall, less the caller's own fall.

    A callee whose requests fell to a fifth while those of its caller fell by as much says nothing about the caller.
    """
    entity = columns.entity
    told_by = (columns.kind == Kind.TRAFFIC) & evidence.known & (evidence.usual > 0)
    busy = np.flatnonzero(told_by)
    told, fell, rare = np.zeros(m, dtype=bool), np.zeros(m), np.zeros(m)
    told[entity[busy]] = True
    np.maximum.at(
        fell, entity[busy], np.minimum(1.0, evidence.moves.fall[busy] / evidence.usual[busy])
    )
    np.maximum.at(rare, entity[busy], evidence.moves.down[busy])
    caller, callee = edges[:, 0], edges[:, 1]
    seen = told[caller] & told[callee] & (fell[callee] > fell[caller])
    caller, callee = caller[seen], callee[seen]
    lost = np.zeros(m)
    np.maximum.at(lost, caller, (1.0 - fell[caller] / fell[callee]) * np.log1p(rare[callee]))
    return lost


def _excess(
    pairs: Blocks, traffic: Blocks, of_group: IntArray, of_entity: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Excess cost (p,) of every pair of a metric and an entity, and how rare it is.

    It must be an excess of every request and of all together: more requests are not slow ones, and where there are
    fewer than usual, slow ones cost nobody more time than before.
    """
    told: BoolArray = np.asarray(np.isfinite(traffic.now).any(axis=0))
    have = np.bincount(of_group, weights=told[of_entity]) / np.maximum(np.bincount(of_group), 1)
    mostly: BoolArray = np.asarray(have > _MOST)
    busy = mostly[of_group] & told[of_entity]
    times = traffic.map(lambda x: np.where(busy, x[:, of_entity], 1.0))
    cost = Blocks(pairs.past * times.past, pairs.now * times.now)
    level, scale = spread(cost.past)
    level = np.nan_to_num(level)
    # what never cost anything before is measured by what it costs now
    top = np.max(np.abs(cost.now), axis=0, initial=0.0, where=np.isfinite(cost.now)) / NEW
    scale = np.where(scale > 0, scale, np.where(top > 0, top, 1.0))
    whole = moved(cost, level, scale)
    rise, up = whole.rise.copy(), whole.up.copy()
    rose = np.flatnonzero(busy & (rise > 0))
    usual = np.nan_to_num(spread(pairs.past[:, rose])[0])
    extra = Blocks(
        (pairs.past[:, rose] - usual) * times.past[:, rose],
        (pairs.now[:, rose] - usual) * times.now[:, rose],
    )
    single = moved(extra, np.zeros(len(rose)), scale[rose])
    rise[rose], up[rose] = np.minimum(rise[rose], single.rise), np.minimum(up[rose], single.up)
    return rise, up


def _lent(traffic: Blocks, edges: IntArray) -> Blocks:
    """Give entities whose requests are not told those of their busiest caller; (r, m)."""
    told: BoolArray = np.asarray(np.isfinite(traffic.now).any(axis=0))
    lent = edges[told[edges[:, 0]] & ~told[edges[:, 1]]]
    if not len(lent):
        return traffic

    def lend(x: FloatArray) -> FloatArray:
        rows = x.T.copy()
        np.fmax.at(rows, lent[:, 1], rows[lent[:, 0]])
        return rows.T

    return traffic.map(lend)


def _failures(x: Blocks, kind: IntArray) -> Blocks:
    """Turn shares of success, of 1 or of 100, into shares of failure."""
    good = kind == Kind.SUCCESS
    if not good.any():
        return x
    top = 100.0 if np.nanmax(x.past[:, good], initial=0.0) > 1.5 else 1.0
    return x.map(lambda y: np.where(good, 1.0 - y / top, y))


def _means_of(blocks: Blocks, columns: IntArray, key: IntArray, count: int) -> Blocks:
    return blocks.map(lambda x: _mean_of(x[:, columns], key, count))


def _mean_of(x: FloatArray, key: IntArray, count: int) -> FloatArray:
    """Mean of the columns (r, n) that have the same key, NaN left out: (r, count)."""
    out = np.full((len(x), count), np.nan)
    if not len(key):
        return out
    order = np.argsort(key, kind="stable")
    keys, first = np.unique(key[order], return_index=True)
    x = x[:, order]
    if len(keys) < len(key):
        seen = np.add.reduceat(~np.isnan(x), first, axis=1, dtype=np.int64)
        x = np.add.reduceat(np.where(np.isnan(x), 0.0, x), first, axis=1)
        x = np.where(seen > 0, x / np.maximum(seen, 1), np.nan)
    out[:, keys] = x
    return out


def _less_callees(pair: IntArray, excess: FloatArray, edges: IntArray, m: int) -> FloatArray:
    """Take from each caller what its callees have of the same metric; never below zero.

    pair (p,) ascending: group x m + entity.
    """
    ordered = edges[np.argsort(edges[:, 1], kind="stable")]
    bounds = np.searchsorted(ordered[:, 1], np.arange(m + 1))
    moving = np.flatnonzero(excess > 0)
    callee = pair[moving] % m
    callers = np.diff(bounds)[callee]
    source = np.repeat(moving, callers)
    turn = np.arange(len(source)) - np.repeat(np.cumsum(callers) - callers, callers)
    caller = ordered[np.repeat(bounds[callee], callers) + turn, 0]
    wanted = pair[source] // m * m + caller
    place = np.minimum(np.searchsorted(pair, wanted), len(pair) - 1)
    found = (pair[place] == wanted) & (wanted != pair[source])
    mine = excess.copy()
    np.subtract.at(mine, place[found], excess[source[found]])
    return np.maximum(mine, 0.0)
