"""Rules of the branches `data` and `label`: contract, stale, drift, another mix of classes; late and wrong labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.catalogue import SIGNALS
from agent.model import Entity, Series
from agent.rca.case import Case, numbers
from agent.rca.look import Look
from agent.rca.rules import _model as of
from agent.units import many, say, say_times

_MANY_STUCK: Final = 2
_RUNS: Final = (
    ("model.run_missed", "data.stale", "run missed"), ("model.run_late_seconds", "data.stale", "run late"),
    ("model.run_short", "data.contract", "run short"), ("model.run_schema_wrong", "data.contract", "run schema"),
)  # fmt: skip


def contract(look: Look) -> list[Case]:
    """A feature broke its contract: unit, range, missing, stuck. Not drift: one feature, at once.

    Several that are stuck at once are no contract: what feeds them has stopped (`data.stale`, on the model).
    """
    out = []
    for model in look.near("model"):
        broken = of.broken_features(look, model)
        every = of.features(look, model)
        stuck = [f for f in broken if look.world.attrs(f).get("broken", "") == "stuck"]
        stale = len(stuck) >= _MANY_STUCK and len(stuck) > len(broken) / 2
        if stale:
            names = ", ".join(of.name(f) for f in stuck[:4])
            case = Case("data.stale", model, others=stuck[:5], facts={"model": model.key})
            text = f"{len(stuck)} of {len(every)} features stand still at once ({names}): what feeds them has stopped"
            case.add("many stuck at once", text)
            out.append(case)
        for feature in broken:
            case = _broken(look, model, feature, len(broken), len(every))
            if stale and feature in stuck:
                others = many(len(stuck) - 1, "other stands", "others stand")
                case.add("stuck with others", f"{others} still with it")
            out.append(case)
    return out


def _broken(look: Look, model: Entity, feature: Entity, broken: int, every: int) -> Case:
    why = look.world.attrs(feature).get("broken", "")
    name = of.name(feature)
    case = Case("data.contract", feature, facts={"feature": name, "model": model.key, "why": why})
    state = look.state("feature.contract_broken", feature)
    case.add("contract", f"feature {name} broke its contract" + (f": {why}" if why else ""), state)
    if broken <= max(1, every // 4):
        case.add("others are well", f"{broken} of {every} features, the others are well")
    change = look.release(model, "release")
    if change is not None:
        case.add("released too", f"version {change.after} was released at that time, too")
    # several broken at once: the one that is broken most leads
    evidence = look.value("feature.drift_evidence_count", feature)
    psi = look.value("feature.drift_psi", feature)
    text = f"its PSI is {psi:.2f}" if psi else "its PSI is not known"
    text += (
        f", evidence of drift {say_times(evidence)} what is enough"
        if evidence and evidence > 0
        else ""
    )
    case.add("how broken", text, share=min(1.0, 0.2 * (psi or 0.0)))
    return case


def runs(look: Look) -> list[Case]:
    """Batch-scoring runs: one that did not come makes what is read from it old; one that is not whole is broken."""
    out = []
    for model in look.near("model"):
        for metric, kind, reason in _RUNS:
            for series in look.find(metric, model):
                value = look.world.get(series) or 0.0
                if value <= (0.5 if SIGNALS[metric].unit == "bool" else 0.0):
                    continue
                run = dict(series.labels).get("run", "")
                case = Case(kind, model, facts={"model": model.key, "run": run})
                age = look.find("model.run_age_seconds", model, run=run)
                rows = look.find("model.run_rows_ratio", model, run=run)
                text = {
                    "run missed": f"run {run} did not come until the next was due; the newest is {_say(look, age)} old",
                    "run late": f"run {run} is {say(value, 'seconds')} late",
                    "run short": f"the newest run of {run} has {_say(look, rows)} of its usual rows",
                    "run schema": f"columns of the newest run of {run} are missing or of another type",
                }[reason]
                case.add(reason, text, look.state(metric, model))
                out.append(case)
    return out


def _say(look: Look, found: Sequence[Series]) -> str:
    value = look.world.get(found[0]) if found else None
    return "an unknown share" if value is None else say(value, SIGNALS[found[0].metric].unit)


def drift(look: Look) -> list[Case]:
    """Inputs are proven to be no longer as the reference, and it hurts, or nothing else is wrong."""
    out = []
    for model in look.near("model"):
        found = of.drifted(look, model)
        if not found:
            continue
        case = Case("data.drift", model, facts={"feature": of.name(found[0][0])})
        case.others = [f for f, _, _ in found[:5]]
        names = ", ".join(map(of.say, found[:4]))
        case.add(
            "features drifted",
            f"{many(len(found), 'feature is', 'features are')} no longer as the reference: {names}",
        )
        case.add(
            "each feature drifted", f"{len(found)} of them at once", share=float(min(3, len(found)))
        )
        if of.broken_features(look, model):
            case.add("drift: contract", "a feature broke its contract: that is no drift")
        if look.release(model, "release") is not None:
            case.add("drift: released", "a version was released at that time")
        if not of.poor(look, model):
            _unhurt(look, case)
        labels, mix = of.mixes(look, model)
        if labels is not None and of.moved_alike(labels, mix):
            if further := of.further(look, model, labels):
                case.add("drift: beyond the mix", further, labels)
            else:
                text = (
                    f"the mix of classes moved ({numbers(labels)}), which moves the inputs with it"
                )
                case.add("drift: only the mix", text, labels)
        out.append(case)
    return out


def _unhurt(look: Look, case: Case) -> None:
    """Weigh that quality does not suffer: where something else is broken, drift is hardly what is asked for."""
    for a in look.incident.anomalies:
        kind = a.series.entity.kind
        if a.end is None and a.road == "objective" and kind not in {"model", "version", "feature"}:
            case.add(
                "quality does not suffer", "quality does not suffer, and something else is broken"
            )
            return
    case.say("quality does not suffer, as far as labels and confidences tell")


def prior(look: Look) -> list[Case]:
    """The mix of true classes has moved, and the predictions went along: the relation itself still holds."""
    out = []
    for model in look.near("model"):
        labels, mix = of.mixes(look, model)
        if labels is None or mix is None or not of.moved_alike(labels, mix):
            continue
        case = Case("data.prior", model)
        text = (
            f"the mix of labels moved ({numbers(labels)}), the predictions with it ({numbers(mix)})"
        )
        case.add("labels and predictions moved alike", text, labels)
        if further := of.further(look, model, labels):
            case.add("prior: beyond the mix", further, labels)
        if look.release(model, "release") is not None:
            case.add("prior: released", "a version was released at that time")
        out.append(case)
    return out


def labels(look: Look) -> list[Case]:
    """Labels are late, missing or wrong: then accuracy is not known, rather than bad."""
    out = []
    for model in look.near("model"):
        out += [*_late(look, model), *_bad(look, model)]
    return out


def _late(look: Look, model: Entity) -> list[Case]:
    case = Case("label.late", model)
    if (look.value("model.labels_late", model) or 0.0) > 0.5:
        case.add(
            "labels late",
            "labels do not come as they used to",
            look.state("model.labels_late", model),
        )
    coverage = look.measure("model.label_coverage_ratio", model)
    if coverage is not None and coverage.now < 0.5 * coverage.usual:
        text = f"labels come for only {numbers(coverage)} of the predictions"
        case.add("labels missing", text, coverage)
    delay = look.measure("model.label_delay_seconds", model)
    if delay is not None and delay.ratio > 3 and delay.deviations > 6:
        case.add("labels slow", f"labels come after {numbers(delay)}", delay)
    return [case] if case.evidence else []


def _bad(look: Look, model: Entity) -> list[Case]:
    """Labels can not be true, or stepped while inputs and predictions did not.

    A changed relation can look like the latter; only labels of one kind, or turned round, surely are no world.
    """
    wrong = of.labels_wrong(look, model)
    if not of.poor(look, model) or look.release_of(model) is not None:
        return []
    case = Case("label.bad", model)
    if wrong:
        case.add("labels wrong", wrong, look.state("model.labels_wrong", model))
        return [case]
    rate, mix = of.mixes(look, model)
    if rate is None or mix is None or of.drifted(look, model):
        return []
    stepped = abs(rate.deviations) > 6 and abs(rate.moved) > 0.15
    still = abs(mix.deviations) < 3 or abs(mix.moved) < 0.03
    if not (stepped and still):
        return []
    text = f"the mix of labels stepped ({numbers(rate)}), inputs and predictions did not"
    case.add("labels stepped", text, rate)
    return [case]
