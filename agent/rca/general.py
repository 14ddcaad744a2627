"""Who has moved most around an incident: the answer when no rule has one.

All series of the incident's relatives are ranked by `rank`: one read of history, one matrix. It names an entity and
the series that speak for it, never a kind of cause: what moved is evidence, and no playbook may act on it alone. The
symptom itself is no evidence of its cause; it counts only where calls can be followed from it.
Cost: at most 400 series and 15 minutes of past; made anew at most every 15 s of an incident, of an old one after a
twentieth of its age.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import Cause, Entity, Evidence, FloatArray, IntArray, Series
from agent.rca.flow import Symptom
from agent.rca.kinds import Columns, kind_of_signal
from agent.rca.look import Look
from agent.rca.rank import Ranking, rank
from agent.units import say

_PAST_S: Final = 900.0
_AGAIN_S: Final = 15.0
_AGAIN: Final = 0.05
_MOST_ENTITIES: Final = 200
_MOST_SERIES: Final = 400
_MOST_SAID: Final = 3
_WEIGHED: Final = "weighed_at"


@dataclass(frozen=True, slots=True)
class _Table:
    """The series of relatives as a ranker wants them; ts (r,), values (r, n)."""

    entities: list[Entity]
    series: list[Series]
    ts: FloatArray
    values: FloatArray
    columns: Columns


def unnamed(look: Look, probability: float) -> Cause:
    """Return the cause `unknown`, with who has moved most, or with why nobody stands out."""
    before = _recent(look)
    if before is not None:
        return Cause(
            "unknown", before.entity, probability, before.evidence, before.others, before.facts
        )
    table = _gather(look)
    facts = {_WEIGHED: f"{look.now:.0f}"}
    ranking = _rank(look, table) if table is not None else None
    if table is None or ranking is None or ranking.silent:
        reason = ranking.silent if ranking is not None else "there is no past to compare with"
        text = f"no metric evidence ({reason}): look at the logs of {look.group.key}"
        return Cause("unknown", look.group, probability, (Evidence(text, 0.0),), (), facts)
    first = int(ranking.entities[0])
    mine = [
        int(j)
        for j, score in zip(ranking.columns, ranking.column_scores, strict=True)
        if table.columns.entity[j] == first and score > 0
    ]
    if mine:
        facts["metric"] = table.series[mine[0]].metric
    facts["share"] = f"{ranking.probability[0]:.2f}"
    others = [
        table.entities[i]
        for i, p in zip(ranking.entities[1:_MOST_SAID], ranking.probability[1:], strict=False)
        if p > 0.05
    ]
    evidence = tuple(_said(look, table, ranking, j) for j in mine[:_MOST_SAID])
    return Cause("unknown", table.entities[first], probability, evidence, tuple(others), facts)


def _recent(look: Look) -> Cause | None:
    """Return the answer of some moments ago, if there is one."""
    if look.incident.diagnosis is None:
        return None
    rest = max(_AGAIN_S, _AGAIN * (look.now - look.onset))
    for cause in look.incident.diagnosis.causes:
        weighed = cause.facts.get(_WEIGHED)
        if cause.kind == "unknown" and weighed and 0 <= look.now - float(weighed) < rest:
            return cause
    return None


def _gather(look: Look) -> _Table | None:
    """Read the series of all relatives; None when there are none or no rows."""
    near = islice(look.topology.around(look.group), _MOST_ENTITIES)
    steps = {entity: n for entity, n in near if look.world.attrs(entity).get("self") != "yes"}
    skip = set() if _calls(look, steps) else {a.series for a in look.incident.anomalies if a.harm}
    known = [
        one
        for table, _, _ in look.world.rows().values()
        for one in table
        if one.entity in steps and one not in skip and SIGNALS[one.metric].kind != "counter"
    ]
    series = sorted(known, key=lambda one: (steps[one.entity], one))[:_MOST_SERIES]
    if not series:
        return None
    ts, values = look.since(series, min(look.baseline_s, _PAST_S))
    ordinary = np.ones(len(ts), dtype=bool)
    for a, b in look.trouble:
        ordinary &= (ts < a) | (ts > b)
    ts, values = ts[ordinary], _held(values[ordinary])
    if not len(ts):
        return None
    entities = list(dict.fromkeys(one.entity for one in series))
    number = {entity: i for i, entity in enumerate(entities)}
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
    for one in series:
        groups.setdefault((one.metric, one.labels), len(groups))
    columns = Columns(
        np.array([number[one.entity] for one in series], dtype=np.int64),
        np.array([kind_of_signal(one.metric) for one in series], dtype=np.int64),
        np.array([groups[one.metric, one.labels] for one in series], dtype=np.int64),
    )
    return _Table(entities, series, ts, values, columns)


def _rank(look: Look, table: _Table) -> Ranking:
    number = {entity: i for i, entity in enumerate(table.entities)}
    symptom = None
    if _calls(look, table.entities):
        place = {one: j for j, one in enumerate(table.series)}
        hurt = [a.series for a in look.incident.anomalies if a.end is None and a.harm]
        found = [(place[one], one.metric) for one in hurt if one in place]
        if found:
            j, metric = found[0]
            entity, group = int(table.columns.entity[j]), int(table.columns.group[j])
            symptom = Symptom(entity, group, kind_of_signal(metric))
    return rank(
        table.ts, table.values, table.columns, look.onset,
        entities=len(number), edges=_edges(look, number), symptom=symptom,
    )  # fmt: skip


def _calls(look: Look, entities: Iterable[Entity]) -> list[tuple[Entity, Entity]]:
    """Who of them calls whom."""
    known = set(entities)
    return [
        (edge.src, edge.dst)
        for entity in known
        for edge in look.topology.edges(entity)
        if edge.kind == "calls" and edge.src == entity and edge.dst in known
    ]


def _edges(look: Look, number: dict[Entity, int]) -> IntArray:
    """Calls as they go; who runs on, serves or feeds whom in both directions, for they are parts of one another."""
    found = set()
    for entity, i in number.items():
        for edge in look.topology.edges(entity):
            j = number.get(edge.dst)
            if edge.src != entity or j is None:
                continue
            found.add((i, j))
            if edge.kind != "calls":
                found.add((j, i))
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _held(values: FloatArray) -> FloatArray:
    """Hold each value until the next: sources answer at their own pace, and a row is of one of them."""
    rows = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, rows), axis=0)
    held = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.asarray(np.where(last >= 0, held, np.nan))


def _said(look: Look, table: _Table, ranking: Ranking, j: int) -> Evidence:
    """Say what one series did, with its numbers."""
    one, usual = table.series[j], float(ranking.evidence.usual[j])
    during = table.values[table.ts >= look.onset, j]
    during = during[~np.isnan(during)]
    now = float(np.median(during[-max(3, len(during) // 2) :])) if len(during) else math.nan
    signal = SIGNALS[one.metric]
    labels = "".join(f", {k} {v}" for k, v in one.labels)
    text = f"{signal.help}{labels} of {one.entity.key} is {say(now, signal.unit)}, usually {say(usual, signal.unit)}"
    return Evidence(text, 0.0, one, now, usual)
