"""Rules of the branches `data` and `label`: contract, stale, drift, another mix of classes; late and wrong labels."""

from __future__ import annotations

from agent.model import Entity
from agent.rca.case import Case, numbers
from agent.rca.look import Look
from agent.rca.rules import _model as of

_MANY_STUCK = 2


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
                case.add("stuck with others", f"{len(stuck) - 1} others stand still with it")
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
    psi = look.value("feature.drift_psi", feature)
    text = f"its PSI is {psi:.2f}" if psi else "its PSI is not known"
    case.add("how broken", text, share=min(1.0, 0.2 * (psi or 0.0)))
    return case


def drift(look: Look) -> list[Case]:
    """Several inputs have moved away from the reference, and it hurts."""
    out = []
    for model in look.near("model"):
        moved = of.moved(look, model)
        if not moved:
            continue
        case = Case("data.drift", model, facts={"feature": of.name(moved[0][0])})
        case.others = [f for f, _ in moved[:5]]
        names = ", ".join(f"{of.name(f)} {psi:.2f}" for f, psi in moved[:4])
        case.add("features moved", f"{len(moved)} features moved (PSI {names})")
        share = min(3, len(moved))
        case.add("each feature moved", f"{len(moved)} of them at once", share=float(share))
        if of.broken_features(look, model):
            case.add("drift: contract", "a feature broke its contract: that is no drift")
        if look.release(model, "release") is not None:
            case.add("drift: released", "a version was released at that time")
        if not of.poor(look, model):
            case.add("quality does not suffer", "quality does not suffer")
        labels, mix = of.mixes(look, model)
        if labels is not None and of.moved_alike(labels, mix):
            text = f"the mix of classes moved ({numbers(labels)}), which moves the inputs with it"
            case.add("drift: only the mix", text, labels)
        out.append(case)
    return out


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
    coverage = look.measure("model.label_coverage_ratio", model)
    if coverage is not None and coverage.now < 0.5 * coverage.usual:
        text = f"labels come for only {numbers(coverage)} of the predictions"
        case.add("labels missing", text, coverage)
    delay = look.measure("model.label_delay_seconds", model)
    if delay is not None and delay.ratio > 3 and delay.deviations > 6:
        case.add("labels slow", f"labels come after {numbers(delay)}", delay)
    return [case] if case.evidence else []


def _bad(look: Look, model: Entity) -> list[Case]:
    """Labels stepped while inputs and predictions did not.

    A changed relation can look the same; only labels that have become all of one class surely are no world.
    """
    rate, mix = of.mixes(look, model)
    if not of.poor(look, model) or rate is None or mix is None:
        return []
    stepped = abs(rate.deviations) > 6 and abs(rate.moved) > 0.15
    still = abs(mix.deviations) < 3 or abs(mix.moved) < 0.03
    if not (stepped and still) or look.release(model, "release") is not None:
        return []
    case = Case("label.bad", model)
    if of.one_class(rate):
        text = f"nearly all labels are of one class ({numbers(rate)}), predictions are not"
        case.add("labels of one class", text, rate)
    else:
        text = f"the mix of labels stepped ({numbers(rate)}), predictions did not"
        case.add("labels stepped", text, rate)
    return [case]
