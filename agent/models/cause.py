"""What the model half alone says of a loss or a change: the data, the model, the release, or the labels.

    facts of one model -> one replica -> broken contracts -> a release -> inputs -> relation, labels -> suspects

Good for: one model at a time, from evidence that has passed its limit. Not for: whether the machine is to blame; rules
weigh that against all other causes (`agent/rca/rules/`). Pure: what was found when comes with the facts.
The order is that of what explains the rest: one replica that answers otherwise than its peers can not be the data that
all of them get; a broken feature moves inputs and errors, a release predictions and errors,
other inputs errors. Labels that can not be true (`labels`) are no changed relation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.models.facts import ModelFacts
from agent.ports import FeatureState
from agent.units import say_duration

_RELEASE_S: Final = 3600.0
_STUCK: Final = 2
"""So many features that stand still at once are no contract: what feeds them has stopped."""
_ALIKE: Final = 0.08
_MORE: Final = 1.3
_BY_CHANCE: Final = 0.05
_PROVEN: Final = math.log10(40.0)
"""Odds that prove one version worse than another at 95 %, either way."""


@dataclass(frozen=True, slots=True)
class Blame:
    """One suspect.

    cause      of `agent/causes.py`
    features   which carry it, the most telling first
    evidence   log10 by which its evidence passes what is enough
    reason     for people
    """

    cause: str
    features: tuple[str, ...]
    evidence: float
    reason: str


def blame(facts: ModelFacts, now: float, release_s: float = _RELEASE_S) -> tuple[Blame, ...]:
    """Return the suspects, the likeliest first; () = nothing is beyond its limit."""
    out = [*_replica(facts), *_contract(facts)]
    worse = bool(facts.worse_than_previous or facts.judged.changed)
    moved = tuple(f for f in facts.drifted if f.drifted and f.used)
    released = _released(facts, now, release_s)
    if worse and released and not moved:
        out.append(Blame("release.model", (), _evidence(facts), released))
    out += _beside(facts)
    if moved:
        out.append(_data(facts, moved))
    if worse:
        out.append(_relation(facts))
    return tuple(out)


def _replica(facts: ModelFacts) -> list[Blame]:
    if not facts.apart:
        return []
    text = f"replica {', '.join(facts.apart)} answers otherwise than its peers on the same traffic"
    return [Blame("serving.crash", (), 1.0, text)]


def _beside(facts: ModelFacts) -> list[Blame]:
    """Blame versions that are proven worse than one that serves beside them: the world is the same for both."""
    return [
        Blame("release.model", (), one.worse - _PROVEN, one.said)
        for one in facts.compared
        if one.how == "together" and one.verdict == "worse"
    ]


def _contract(facts: ModelFacts) -> list[Blame]:
    broken = [f for f in facts.broken if f.used]
    if not broken:
        return []
    stuck = [f.name for f in broken if f.reason == "stuck"]
    names = tuple(f.name for f in broken)
    if len(stuck) >= _STUCK and len(stuck) > len(broken) / 2:
        return [
            Blame("data.stale", tuple(stuck), 1.0, f"{len(stuck)} features stand still at once")
        ]
    said = ", ".join(f"{f.name}: {f.reason}" for f in broken[:3])
    return [Blame("data.contract", names, 1.0, f"contract broken ({said})")]


def _released(facts: ModelFacts, now: float, release_s: float) -> str:
    """Say which release there was shortly before, "" for none."""
    current = facts.current
    if current is None or now - max(current.since, current.judged_since or 0.0) > release_s:
        return ""
    # the one that it is worse than may not have left yet
    others = [v for v in facts.serving if v != current.version and facts.worse_than_previous]
    before = (others or [v.version for v in facts.previous[:1]] or [current.version])[0]
    if before == current.version:
        return ""
    ago = say_duration(now - current.since)
    return f"version {current.version} took over from {before} {ago} ago, inputs look as ever"


def _data(facts: ModelFacts, states: Sequence[FeatureState]) -> Blame:
    names = tuple(f.name for f in states)
    evidence = max(f.evidence for f in states)
    labels, said, usual = facts.label_shift, facts.prediction_shift, facts.label_usual
    alike = abs(labels) > _ALIKE and labels * said > 0 and abs(said) > 0.4 * abs(labels)
    if alike and not beyond_mix(max(f.psi for f in states), usual, usual + labels):
        text = f"the mix of labels moved by {labels:+.0%}, the predictions with it"
        return Blame("data.prior", names, evidence, text)
    told = ", ".join(f"{f.name} (PSI {f.psi:.2f})" for f in states[:3])
    return Blame("data.drift", names, evidence, f"inputs are no longer as the reference: {told}")


def beyond_mix(psi: float, usual: float, now: float) -> bool:
    """Tell whether a feature moved further (its stability index) than another mix of classes can move it.

    As long as the rows of each class are as ever, a feature is made of the class as it always was, and no divergence
    of it is larger than that of the classes (data processing inequality). usual, now: share of one class; of more than
    two classes that is less than the mix has moved, so what is near stays open.
    """
    a, b = (min(max(x, 1e-3), 1.0 - 1e-3) for x in (usual, now))
    of_mix = (b - a) * (math.log(b / (1.0 - b)) - math.log(a / (1.0 - a)))
    return psi > _MORE * of_mix + _BY_CHANCE


def _relation(facts: ModelFacts) -> Blame:
    if facts.labels_wrong:
        return Blame("label.bad", (), _evidence(facts), facts.labels_wrong)
    changes = [c for c in facts.judged.changes if c.what != "better"]
    where = next((c for c in changes if c.value), None)
    names = (where.what,) if where is not None and len(changes) <= _STUCK else ()
    text = "labels say worse, inputs look as ever"
    if changes:
        first = changes[0]
        text = f"labels say worse since {first.rows} rows ({first.before:.3f} to {first.after:.3f})"
    return Blame("concept.drift", names, _evidence(facts), text)


def _evidence(facts: ModelFacts) -> float:
    proven = facts.worse_than_previous or facts.judged.changed
    return max(facts.judged.evidence, 0.0 if proven else -math.inf)
