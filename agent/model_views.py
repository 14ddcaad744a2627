"""Models as the API and the command show them: plain data out of facts and of what they are blamed for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from typing_extensions import TypedDict

from agent.models import ModelFacts, VersionFacts
from agent.models.cause import Blame
from agent.models.facts import Compared
from agent.models.reasons import Explained
from agent.ports import Band, FeatureState, LossParts


class BandView(TypedDict):
    """A figure and its bounds; null = not known."""

    value: float | None
    low: float | None
    high: float | None


class SuspectView(TypedDict):
    """What may be to blame for a loss or a change, by what the model half alone knows."""

    cause: str
    features: list[str]
    evidence: float
    reason: str


class DriftView(TypedDict):
    """How one feature stands against the reference. evidence: log10, 0 is enough; broken = why, "" = it is not."""

    name: str
    used: bool
    drifted: bool
    evidence: float | None
    psi: float | None
    missing: float | None
    broken: str


class VersionView(TypedDict):
    """One tenure of a version; until null = it serves."""

    version: str
    since: float
    until: float | None
    rows: int
    labelled: int
    accuracy: BandView


class SliceVersusView(TypedDict):
    """Two versions in one slice."""

    verdict: str
    difference: BandView


class CompareView(TypedDict):
    """Version b against version a.

    how          paired (the same requests), together (they served at once), apart (one after the other)
    difference   mean loss of b less that of a, with 95 % bounds that hold at every look
    worse, better, alike   log10 of the odds won against "it is not"
    needed       how many more pairs until there is a verdict; null = no end in sight
    agreement    share of the requests to which both said the same
    """

    a: str
    b: str
    how: str
    verdict: str
    said: str
    difference: BandView
    worse: float | None
    better: float | None
    alike: float | None
    pairs: int
    rows_a: int
    rows_b: int
    needed: float | None
    agreement: float | None
    slices: dict[str, SliceVersusView]


class PartView(TypedDict):
    """One part of a change of the loss: what it is worth, and its share of the change; both with 90 %."""

    what: str
    loss: BandView
    share: BandView


class LossView(TypedDict):
    """What the change of the loss against the reference is made of: moves of features, and `relation`.

    unseen   features with rows unlike all of the reference: what these are worth is in the relation
    """

    change: BandView
    parts: list[PartView]
    unseen: list[str]


class DriverView(TypedDict):
    """One feature of one row. adds: to the answer, null = not known; rare: share of the reference so unusual."""

    name: str
    adds: float | None
    rare: float


class ExplainedView(TypedDict):
    """What drove one answer, the features that add most first.

    unit    of what the answer is; usual: what the model says on average
    told    share of the variance of answers that single features explain: so far the drivers are to be believed
    """

    model: str
    version: str
    unit: str
    usual: float | None
    told: float | None
    drivers: list[DriverView]


class EdgesView(TypedDict):
    """What sketches of a version are counted over: feature -> its `edges`, or its `values`."""

    model: str
    version: str
    features: dict[str, dict[str, list[float] | list[str]]]


class ModelView(TypedDict):
    """What is known of a model.

    preparing  versions whose reference is being made, and how many rows wait for it, to be counted then
    expected   accuracy without labels, with 90 %; unknown = why it can not be told
    outputs    what it says (prediction, confidence, probabilities), held against what it was used to say
    compared   versions and variants against each other
    loss       what its change against the reference is made of; null = it can not be told
    figures    of late labels, with 95 % bounds that hold at every look; slices and gaps likewise
    """

    model: str
    serving: list[VersionView]
    previous: list[VersionView]
    learning: bool
    preparing: list[str]
    held_rows: int
    lost: float | None
    accuracy: BandView
    reference_accuracy: float | None
    expected: BandView
    unknown: str
    quality_lost: bool | None
    label_coverage: float | None
    label_delay_s: float | None
    figures: dict[str, BandView]
    slices: dict[str, BandView]
    gaps: dict[str, BandView]
    features: list[DriftView]
    outputs: list[DriftView]
    compared: list[CompareView]
    loss: LossView | None
    suspects: list[SuspectView]


def model_view(facts: ModelFacts, suspects: Sequence[Blame]) -> ModelView:
    """Show a model."""
    current = facts.current
    serving = [_version(current)] if current is not None else []
    judged = facts.judged
    features = {f.name: f for f in (*facts.broken, *facts.drifted)}
    return {
        "model": facts.model, "serving": serving, "previous": [_version(v) for v in facts.previous],
        "learning": facts.learning or judged.learning,
        "preparing": list(facts.preparing), "held_rows": facts.held_rows,
        "lost": _number(facts.lost),
        "accuracy": _band(Band(facts.accuracy, facts.low, facts.high)),
        "reference_accuracy": _number(facts.reference_accuracy),
        "expected": _band(judged.expected), "unknown": judged.unknown,
        "quality_lost": facts.quality_lost, "label_coverage": _number(facts.label_coverage),
        "label_delay_s": _number(facts.label_delay_s),
        "figures": {k: _band(v) for k, v in judged.figures.items()},
        "slices": {f"{k}={v}": _band(band) for (k, v), band in judged.slices.items()},
        "gaps": {f"{group} {kind}": _band(band) for (group, kind), band in judged.gaps.items()},
        "features": [_feature(f) for f in features.values()],
        "outputs": [_feature(f) for f in facts.outputs],
        "compared": [compare_view(one) for one in facts.compared],
        "loss": None if facts.parts is None else _loss(facts.parts),
        "suspects": [
            {"cause": s.cause, "features": list(s.features), "evidence": s.evidence, "reason": s.reason}
            for s in suspects
        ],
    }  # fmt: skip


def compare_view(one: Compared) -> CompareView:
    """Show two versions."""
    return {
        "a": one.a, "b": one.b, "how": one.how, "verdict": one.verdict, "said": one.said,
        "difference": _band(Band(one.difference, one.low, one.high)),
        "worse": _number(one.worse), "better": _number(one.better), "alike": _number(one.alike),
        "pairs": one.pairs, "rows_a": one.rows_a, "rows_b": one.rows_b,
        "needed": _number(one.needed), "agreement": _number(one.agreement),
        "slices": {
            f"{name}={value}": {"verdict": verdict, "difference": _band(Band(*band))}
            for (name, value), (verdict, *band) in one.slices.items()
        },
    }  # fmt: skip


def explained_view(one: Explained) -> ExplainedView:
    """Show what drove one answer."""
    return {
        "model": one.model, "version": one.version, "unit": one.unit,
        "usual": _number(one.usual), "told": _number(one.told),
        "drivers": [{"name": d.name, "adds": _number(d.adds), "rare": d.rare} for d in one.drivers],
    }  # fmt: skip


def _loss(parts: LossParts) -> LossView:
    order = sorted(parts.features, key=lambda name: -abs(parts.features[name].value))
    out: list[PartView] = [
        {"what": n, "loss": _band(parts.features[n]), "share": _band(parts.shares[n])}
        for n in order
    ]
    out.append(
        {"what": "relation", "loss": _band(parts.relation), "share": _band(parts.relation_share)}
    )
    return {"change": _band(parts.change), "parts": out, "unseen": list(parts.unseen)}


def _version(v: VersionFacts) -> VersionView:
    return {
        "version": v.version, "since": v.since, "until": v.until, "rows": v.rows,
        "labelled": v.labelled, "accuracy": _band(Band(v.accuracy, v.low, v.high)),
    }  # fmt: skip


def _feature(f: FeatureState) -> DriftView:
    return {
        "name": f.name, "used": f.used, "drifted": f.drifted, "evidence": _number(f.evidence),
        "psi": _number(f.psi), "missing": _number(f.missing), "broken": f.reason,
    }  # fmt: skip


def _band(band: Band) -> BandView:
    return {"value": _number(band.value), "low": _number(band.low), "high": _number(band.high)}


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None
