"""Weigh the cases that the rules make, and say which were rejected and why."""

from __future__ import annotations

import math
from typing import Final

from agent.model import Anomaly, Cause, Diagnosis, Entity
from agent.rca.general import unnamed
from agent.rca.look import Look
from agent.rca.rules import RULES, Case

_REJECT_BELOW: Final = 0.10
_MOST_CAUSES: Final = 5
_MOST_REJECTED: Final = 8


def diagnose(look: Look) -> Diagnosis:
    """Rank the causes of `look.incident`; `unknown`, with who moved most, is the first when no rule has enough."""
    cases = [case for rule in RULES for case in rule(look)]
    _cross(cases)
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
    )  # fmt: skip


def _cause(case: Case, probability: float) -> Cause:
    evidence = tuple(sorted(case.evidence, key=lambda e: -abs(e.weight)))
    return Cause(
        case.kind, case.entity, round(probability, 4), evidence, tuple(case.others), dict(case.facts)
    )  # fmt: skip


def _cross(cases: list[Case]) -> None:
    """Rules between causes: what is surely true of one weighs on the others."""
    hardware = max((c.logit for c in cases if c.kind.startswith("hardware.")), default=-9.0)
    contract = max((c.logit for c in cases if c.kind == "data.contract"), default=-9.0)
    for case in cases:
        if hardware > 1.0 and case.kind.split(".")[0] in {"data", "concept", "label"}:
            case.add(-2.0, "hardware evidence beats model evidence when both are fresh")
        if contract > 1.0 and case.kind in {"data.drift", "concept.drift", "data.prior"}:
            case.add(
                -3.0, "a broken data contract explains it; drift cannot be judged on broken data"
            )


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
