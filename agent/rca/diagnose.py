"""Weigh all cases of an incident together, and say which were rejected and why.

for each group of the incident: MAKERS (the rules; a ranker may stand beside them) -> cases
-> the best of each (kind, entity) -> cross -> log-odds -> probabilities, `unknown` at zero -> Diagnosis
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from agent.doubts import FUTILE, HERE, LEAST
from agent.model import Anomaly, Cause, Diagnosis, Entity
from agent.rca.case import Case
from agent.rca.cross import cross
from agent.rca.general import unnamed
from agent.rca.look import Look
from agent.rca.rules import NEEDS, RULES

_REJECT_BELOW: Final = 0.10
_MOST_CAUSES: Final = 5
_MOST_REJECTED: Final = 8
_MOST_LOGS: Final = 6

Maker = Callable[[Look], list[Case]]
"""Looks at one group of an incident and returns hypotheses, with log-odds on the scale of `agent.rca.weights`."""


def by_rules(look: Look) -> list[Case]:
    """Return the cases of all rules."""
    look.gather(NEEDS)
    return [case for rule in RULES for case in rule(look)]


MAKERS: Final[tuple[Maker, ...]] = (by_rules,)
"""Who makes cases. Two that name the same cause on the same entity are one: the surer one counts, never the sum."""


def diagnose(look: Look, makers: Sequence[Maker] = MAKERS) -> Diagnosis:
    """Rank the causes of `look.incident`; `unknown`, with who moved most, is the first when nothing has enough."""
    best: dict[tuple[str, Entity], Case] = {}
    for view in look.views():
        for case in (case for make in makers for case in make(view)):
            key = case.kind, case.entity
            if key not in best or case.logit > best[key].logit:
                best[key] = case
    cases = list(best.values())
    cross(look, cases)
    _heed(look, cases)
    top = max((c.logit for c in cases), default=0.0)
    shift = max(top, 0.0)
    total = math.exp(-shift) + sum(math.exp(c.logit - shift) for c in cases)
    ranked = sorted(
        (_cause(c, math.exp(c.logit - shift) / total) for c in cases),
        key=lambda c: (-c.probability, c.kind, c.entity),
    )
    unknown = math.exp(-shift) / total
    kept = [c for c in ranked if c.probability >= _REJECT_BELOW][:_MOST_CAUSES]
    if not kept or unknown > kept[0].probability:
        kept.insert(0, unnamed(look, unknown))
    rejected = [c for c in ranked if c not in kept][:_MOST_REJECTED]
    harmed = {a.series.entity for a in look.incident.anomalies if a.harm and a.end is None}
    return Diagnosis(
        look.now, tuple(kept), tuple(rejected), tuple(sorted(harmed)),
        low_confidence=kept[0].probability < 0.5
        or kept[0].kind == "unknown"
        or _only_prior(look.incident.anomalies),
        logs_of=_logs_of(look) if kept[0].kind == "unknown" else (),
    )  # fmt: skip


def _heed(look: Look, cases: Sequence[Case]) -> None:
    """Let what people said, and what acts proved, weigh on the cases that there are; bounds are in `agent.doubts`."""
    about, here = look.group.kind, look.corrected
    for case in cases:
        if times := look.futile.get(case.kind, 0):
            acts = "an act" if times == 1 else f"{times} acts"
            case.say(f"{acts} against it had no effect", max(times * FUTILE, LEAST))
        doubt = look.doubts.get((about, case.kind))
        if doubt is not None:
            case.say(doubt.words, doubt.weight)
        if here is not None and (case.kind, case.entity.id) == (here.wrong, here.of):
            case.say(f"{here.by} said of this incident that it is not this", -HERE)
        elif here is not None and case.kind == here.right:
            case.say(f"{here.by} said of this incident that it is this", HERE)


def _cause(case: Case, probability: float) -> Cause:
    evidence = tuple(sorted(case.evidence, key=lambda e: -abs(e.weight)))
    return Cause(
        case.kind, case.entity, round(probability, 4), evidence, tuple(case.others), dict(case.facts)
    )  # fmt: skip


def _logs_of(look: Look) -> tuple[Entity, ...]:
    """Say where to look when no metric says why: whom the symptom points to, and what it calls."""
    harmed = [
        a for a in look.incident.anomalies if a.end is None and (a.harm or a.road == "objective")
    ]
    worst = max(harmed, key=lambda a: (a.harm, a.deviations, a.series), default=None)
    whom = look.topology.group(worst.series.entity) if worst is not None else look.group
    first = (
        worst.series.entity if worst is not None and worst.series.entity.kind == "replica" else whom
    )
    called = [e.dst for e in look.topology.edges(whom) if e.kind == "calls" and e.src == whom]
    return tuple(dict.fromkeys((first, whom, *called)))[:_MOST_LOGS]


def _only_prior(anomalies: tuple[Anomaly, ...]) -> bool:
    """Tell whether nothing but the shipped prior speaks for this incident."""
    return bool(anomalies) and all(a.road == "prior" for a in anomalies)


def same_answer(a: Diagnosis | None, b: Diagnosis | None) -> bool:
    """Tell whether two diagnoses say the same to a person: causes, their order, and roughly how sure."""
    if a is None or b is None:
        return a is b

    def key(d: Diagnosis) -> list[tuple[str, Entity, int]]:
        return [(c.kind, c.entity, round(c.probability * 5)) for c in d.causes]

    return key(a) == key(b) and a.low_confidence == b.low_confidence
