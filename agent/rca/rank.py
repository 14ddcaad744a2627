"""Rank entities and columns as root causes of one incident, from metrics and the call graph alone.

    evidence of a column  = weight of its kind x log(1 + rarity) x its share of the largest move of the same metric
    evidence of an entity = its best kind + a quarter of the next; a kind is worth the root mean square of its columns;
                            less where it moved later than others that moved as much
    score of an entity    = share of the symptom's excess that began there x evidence, where the graph tells that;
                            evidence alone where it does not
    score of a column     = score of its entity x evidence against the entity's best; what is felt by callers gives
                            way to a resource of the entity that rose
    probability           ~ exp(2 x score in units of evidence) - 1, beside "nothing that was measured"

Good for one incident at a time, on rates and gauges of few or thousands of entities. Not for telling whether there is
an incident. No name of an entity is read and no place in a table counts: equal scores are ordered by their numbers.
Cost: that of `evidence`, and a few passes over the columns. What each step is worth stands in docs/adr/0013.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.model import FloatArray, IntArray
from agent.rca.evidence import Evidence, gather
from agent.rca.flow import Flow, Symptom, attribute, lost_calls
from agent.rca.kinds import CLIMBS, FALL, LEVEL, OWN, RISE, WEIGHT, Columns, Kind

SIZE: Final = 0.3
"""Exponent of a column's share of the largest move of its metric: a tenth of it halves the evidence."""
AMPLIFIED: Final = 10.0
"""Latency and errors of callers may be so much larger than those of the cause, where no graph sorts them out."""
SECOND: Final = 0.25
LOST: Final = 0.8
"""Weight of the calls that an entity has stopped to make; kinds have theirs in `kinds`."""
ENOUGH: Final = 0.5
"""From this share of the strongest evidence on, an entity is believed as far as its excess goes."""
REST: Final = 0.25
"""What evidence without excess is worth, where the graph tells whose the excess is."""
SURE: Final = 2.0
"""Deviations of the symptom's excess, over what is ordinary, from which on it is believed."""
APART: Final = 0.5
"""What is left of the evidence of an entity that no call leads to from the symptom."""
LATER: Final = 0.3
"""What the evidence of an entity loses that moved a third of the incident later than the first of its equals,"""
EQUALS: Final = 0.4
"""which are those with so much of the strongest evidence."""
_ROOM: Final = 0.1
"""Share of the incident that is no order yet: a block is as long as that."""
_A_THIRD: Final = 0.3
FULL: Final = 2.0
"""Evidence of a resource from which on it explains all that its entity makes others feel,"""
FELT: Final = 0.2
"""of whose evidence so much is left."""

# Fitted on three public sets of labelled incidents, each left out in turn (make bench-rca): the softness of the
# probabilities and the evidence of "nothing that was measured".
SHARP: Final = 2.0
UNKNOWN: Final = 0.2
SILENT: Final = 0.7
"""Below this probability of the first there is no metric evidence worth the name."""
_NO_ROWS: Final = "there are no samples of the incident, or none before it"
_NO_MOVE: Final = "nothing has moved more than its own past does"
_NO_WINNER: Final = "what has moved points at nobody more than at others"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Suspects, the first the likeliest.

    entities (m,), columns (n,)    indexes, best first
    scores (m,), column_scores (n,)  0 .. 1.25, in that order
    probability (m,)               in that order; together 1 less `unknown`
    strength                       evidence behind the first: log(1 + deviations), weighed
    unknown                        probability that no metric here shows the cause
    silent                         why there is no metric evidence; "" = there is. The ranking stands all the same
    """

    entities: IntArray
    scores: FloatArray
    probability: FloatArray
    columns: IntArray
    column_scores: FloatArray
    strength: float
    unknown: float
    silent: str
    evidence: Evidence
    flow: Flow | None


def rank(
    times: FloatArray, values: FloatArray, columns: Columns, at: float, *,
    entities: int | None = None, edges: IntArray | None = None, symptom: Symptom | None = None,
) -> Ranking:  # fmt: skip
    """Rank what may have caused the trouble that was seen at `at`.

    times (r,)      ascending; rows before `at` are the past, rows from it on the incident
    values (r, n)   NaN = no sample
    columns         what the n columns measure
    entities        how many there are, also those without columns
    edges (e, 2)    numbers of caller and callee; None = unknown
    symptom         what alerted, if that is known
    """
    entity = columns.entity
    m = entities if entities is not None else int(entity.max(initial=-1)) + 1
    evidence = gather(times, values, at, columns.group, LEVEL[columns.kind])
    flow, lost = None, np.zeros(m)
    if edges is not None and len(edges):
        flow = attribute(evidence, columns, edges, m, symptom)
        lost = LOST * lost_calls(evidence, columns, edges, m)
    weighed = _weigh(evidence, columns, flow)
    strength = _together(weighed, lost, columns, m)
    if flow is not None:
        strength = np.where(flow.reached, strength, APART * strength)
    strength *= _in_order(strength, weighed, evidence, columns.entity)
    score = _score(strength, flow)
    worth = _worth(weighed, evidence, columns, score)

    level = np.log1p(np.abs(evidence.usual))
    order = _best_first(score, np.asarray(np.bincount(entity, level, m), dtype=np.float64))
    nth = np.argsort(order)
    places = _best_first(worth, level, nth[entity], columns.group)
    first = float(strength[order[0]]) if m else 0.0
    likely, unknown = probabilities(score[order], first)
    return Ranking(
        order, score[order], likely, places, worth[places], first, unknown,
        _silent(evidence, likely, strength), evidence, flow,
    )  # fmt: skip


def probabilities(
    scores: FloatArray, strength: float, sharp: float = SHARP, unknown: float = UNKNOWN
) -> tuple[FloatArray, float]:
    """Probability of ranked entities (m,), and that it is nothing that was measured.

    scores (m,) best first say who; `strength`, the evidence of the first, says how much there is at all.
    """
    if not len(scores) or scores[0] <= 0:
        return np.zeros(len(scores)), 1.0
    # beyond 30 it is certain, and the exponential would only overflow
    weight = np.expm1(np.minimum(sharp * strength * scores / scores[0], 30.0))
    nothing = float(np.expm1(sharp * unknown))
    total = float(weight.sum()) + nothing
    return weight / total, nothing / total


def _weigh(evidence: Evidence, columns: Columns, flow: Flow | None) -> FloatArray:
    """Evidence of columns (n,)."""
    moves, kind, group = evidence.moves, columns.kind, columns.group
    room = np.where(np.isin(kind, [*CLIMBS]), AMPLIFIED, 1.0)
    up = np.minimum(1.0, room * _share(moves.rise, group)) ** SIZE
    down = np.minimum(1.0, room * _share(moves.fall, group)) ** SIZE
    if flow is not None:
        good = kind == Kind.SUCCESS
        up = np.where(flow.compared & ~good, flow.own, up)
        down = np.where(flow.compared & good, flow.own, down)
    rose = np.log1p(moves.up * RISE[kind]) * up
    fell = np.log1p(moves.down * FALL[kind]) * down
    return np.asarray(WEIGHT[kind] * np.maximum(rose, fell))


def _share(move: FloatArray, group: IntArray) -> FloatArray:
    most = np.zeros(int(group.max(initial=-1)) + 1)
    np.maximum.at(most, group, move)
    of = most[group]
    return np.asarray(np.where(of > 0, move / np.where(of > 0, of, 1.0), 0.0))


def _together(weighed: FloatArray, lost: FloatArray, columns: Columns, m: int) -> FloatArray:
    """Evidence of entities (m,)."""
    k = len(Kind)
    key = columns.entity * k + columns.kind
    squares = np.bincount(key, weights=weighed**2, minlength=m * k)
    count = np.maximum(np.bincount(key, minlength=m * k), 1)
    best = np.sort(np.column_stack([np.sqrt(squares / count).reshape(m, k), lost]), axis=1)
    return np.asarray(best[:, -1] + SECOND * best[:, -2])


def _in_order(
    strength: FloatArray, weighed: FloatArray, evidence: Evidence, entity: IntArray
) -> FloatArray:
    """What is left of the evidence of entities (m,): causes move first. It decides among equals and no more."""
    m = len(strength)
    best, begun = np.zeros(m), np.full(m, np.inf)
    np.maximum.at(best, entity, weighed)
    tells = (weighed > 0) & (weighed >= best[entity] / 2.0)
    np.minimum.at(begun, entity[tells], evidence.moves.begun[tells])
    equal = (strength >= EQUALS * strength.max(initial=0.0)) & np.isfinite(begun)
    if not equal.any():
        return np.ones(m)
    late = np.where(equal, begun, 0.0) - begun[equal].min() - _ROOM
    return np.asarray(1.0 - LATER * np.clip(late / _A_THIRD, 0.0, 1.0))


def _score(strength: FloatArray, flow: Flow | None) -> FloatArray:
    """Join evidence and the share of the symptom's excess; a symptom that is no excess explains nothing."""
    top = strength.max(initial=0.0)
    if top <= 0:
        return np.zeros(len(strength))
    alone: FloatArray = np.asarray(strength / top)
    if flow is None or flow.explains is None:
        return alone
    sure = min(1.0, flow.rarity / SURE)
    told = flow.explains * np.minimum(1.0, alone / ENOUGH) + REST * alone
    return np.asarray((1.0 - sure) * alone + sure * told)


def _worth(
    weighed: FloatArray, evidence: Evidence, columns: Columns, score: FloatArray
) -> FloatArray:
    """Scores of columns (n,): the best of an entity has the score of the entity."""
    entity, kind = columns.entity, columns.kind
    own = np.isin(kind, [*OWN])
    rose = own & (evidence.moves.up >= evidence.moves.down)
    resource, best = np.zeros(len(score)), np.zeros(len(score))
    np.maximum.at(resource, entity[rose], weighed[rose])
    left = 1.0 - (1.0 - FELT) * np.minimum(1.0, resource / FULL)
    worth = np.where(own, weighed, weighed * left[entity])
    np.maximum.at(best, entity, worth)
    of = best[entity]
    return np.asarray(score[entity] * np.where(of > 0, worth / np.where(of > 0, of, 1.0), 1.0))


def _best_first(score: FloatArray, level: FloatArray, *then: IntArray) -> IntArray:
    """Order by score; equal ones by their usual level and `then`, so that neither names nor places matter."""
    return np.asarray(np.lexsort((*then[::-1], -level, -np.round(score, 9))), dtype=np.int64)


def _silent(evidence: Evidence, likely: FloatArray, strength: FloatArray) -> str:
    """Say why there is no evidence, or nothing."""
    if not evidence.known.any() or not len(evidence.blocks.now):
        return _NO_ROWS
    if len(likely) and likely[0] >= SILENT:
        return ""
    return _NO_MOVE if strength.max(initial=0.0) < WEIGHT.max() * np.log(2.0) else _NO_WINNER
