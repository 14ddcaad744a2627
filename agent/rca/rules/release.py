"""Rules about what people changed: releases of models and services, canaries; and concept drift, which needs none."""

from __future__ import annotations

from typing import Final

from agent.model import Change, Entity
from agent.rca.case import Case, numbers
from agent.rca.look import Look, Suspect
from agent.rca.rules import _model as of
from agent.rca.rules import _service as service
from agent.units import say, say_duration, say_times

_CAUSES: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("service", "release"): ("release.code", "callee changed before"),
    ("service", "config"): ("release.config", "callee changed before"),
    ("service", "flag"): ("release.config", "callee changed before"),
    ("service", "restart"): ("serving.crash", "callee restarted or scaled before"),
    ("service", "scale"): ("serving.saturation", "callee restarted or scaled before"),
    ("dependency", "release"): ("release.code", "callee changed before"),
    ("dependency", "config"): ("release.config", "callee changed before"),
    ("dependency", "restart"): ("serving.crash", "callee restarted or scaled before"),
    ("host", "release"): ("release.config", "host changed before"),
    ("host", "config"): ("release.config", "host changed before"),
    ("model", "release"): ("release.model", "model changed before"),
}
"""(kind of what was changed, kind of change) -> the cause that it makes likely, and the reason."""
_AFTER_S: Final = 30.0
"""A change that was seen so much later than the trouble did not cause it; less may be the clock of whoever told it."""


def _when(look: Look, change: Change) -> str:
    ago = look.onset - change.ts
    return f"{say_duration(abs(ago))} {'before' if ago >= 0 else 'after'} the onset"


def release_of_model(look: Look) -> list[Case]:
    """A new model version took over shortly before quality fell."""
    out = []
    for model in look.near("model"):
        if not of.poor(look, model):
            continue
        case = Case("release.model", model)
        change = look.release_of(model)
        if change is None:
            window = say_duration(look.release_window_s)
            case.add("no release", f"no release of {model.key} in the last {window}")
            out.append(case)
            continue
        case.facts = {"version": change.after, "previous_version": change.before}
        text = f"version {change.after} replaced version {change.before}, {_when(look, change)}"
        if look.onset - change.ts > look.release_window_s:
            text += ", and now its first labels came"
        case.add("released before", text)
        accuracy = look.measure("model.accuracy_ratio", model)
        if accuracy is not None:
            case.add("accuracy low", f"accuracy is {numbers(accuracy)}", accuracy)
        worse = look.state("model.worse_than_previous", model)
        if worse is not None and worse.now > 0.5:
            text = "on the same kind of rows it is worse than the version before"
            case.add("worse than previous", text, worse)
        mix = look.measure("model.prediction_drift_psi", model)
        if mix is not None and mix.now > of.STILL and mix.deviations > 2:
            text = f"the predictions moved with it (PSI {mix.now:.2f})"
            case.add("predictions moved with it", text, mix)
        of.inputs(look, model, case, "inputs as ever", "inputs moved")
        if of.broken_features(look, model):
            text = "a feature broke its contract, which is enough to explain it"
            case.add("a broken feature explains it", text)
        out.append(case)
    return out


def worse_beside(look: Look) -> list[Case]:
    """A version is proven worse than one that serves beside it: the world is the same for both."""
    out = []
    for model in look.near("model"):
        found = of.worse_beside(look, model)
        if found is None:
            continue
        version, before, text, proof = found
        # the version, not the model: what serves most is well, and is nothing to go back from
        case = Case("release.model", proof.series.entity)
        case.facts = {"version": version, "previous_version": before}
        case.add("worse than beside", text, proof)
        share = look.value("version.traffic_ratio", proof.series.entity)
        if share is not None:
            case.say(f"it serves {share:.0%} of the requests")
        out.append(case)
    return out


def changed(look: Look) -> list[Case]:
    """Weigh what was changed, of a service or of what it depends on, shortly before it became slow or failed."""
    if look.group.kind != "service":
        return []
    if not (service.slow(look) or look.broken("service.error_ratio", "service.up")):
        return []
    cases: dict[tuple[str, Entity], Case] = {}
    for suspect in look.suspects():
        kind = _cause(look, suspect)
        if not kind:
            continue
        known = cases.get((kind, suspect.change.entity))
        if known is not None:
            known.say(_said(suspect, look.group))
        else:
            cases[kind, suspect.change.entity] = _weighed(look, suspect, kind)
    return list(cases.values())


def _cause(look: Look, suspect: Suspect) -> str:
    """Return the cause that a change makes likely, "" for none."""
    change = suspect.change
    if suspect.steps == 0 and change.kind in {"restart", "scale"}:
        return ""  # its own restarts and replicas stand among the reasons of other rules
    if change.kind == "scale" and service.count(change.after) > service.count(change.before):
        return ""
    kind, _ = _CAUSES.get((change.entity.kind, change.kind), ("", ""))
    # a model that has become worse has a rule of its own
    return "" if kind == "release.model" and of.poor(look, change.entity) else kind


def _weighed(look: Look, suspect: Suspect, kind: str) -> Case:
    change, own = suspect.change, suspect.steps == 0
    case = Case(kind, change.entity, facts=_facts(change))
    _, reason = _CAUSES[change.entity.kind, change.kind]
    reason = "service released before" if own else reason
    case.add(reason, _said(suspect, look.group), share=suspect.nearness)
    for _ in range(suspect.steps - 1):
        case.add("an edge further", f"{suspect.steps} edges from {look.group.key}")
    if suspect.before_s < -_AFTER_S:
        case.add("released after", "it came after the trouble had begun")
    elif suspect.before_s > 0.5 * look.release_window_s:
        case.add("long before", f"it was well for {say_duration(suspect.before_s)} with it")
    _there(look, case, own=own)
    return case


def _facts(change: Change) -> dict[str, str]:
    if change.kind == "release" and change.entity.kind == "model":
        return {"version": change.after, "previous_version": change.before}
    found = {"before": change.before, "after": change.after, "by": change.by, "url": change.url}
    return {k: v for k, v in found.items() if v or k in {"before", "after"}}


def _said(suspect: Suspect, group: Entity) -> str:
    c = suspect.change
    what = f"from {c.before} to {c.after}" if c.before else f"to {c.after}" if c.after else c.text
    by = f" by {c.by}" if c.by else ""
    if suspect.steps == 0:
        return f"{c.kind} {what}{by} {suspect.when}"
    far = f"{suspect.steps} steps from" if suspect.steps > 1 else "next to"
    return f"{c.kind} of {c.entity.id}, {far} {group.key}, {what}{by} {suspect.when}"


def _there(look: Look, case: Case, *, own: bool) -> None:
    """Weigh whether what was changed is itself unwell."""
    if own or case.entity.kind == "model":
        _, work = service.waiting(look)
        if work is not None and work.deviations > 3 and work.ratio > 1.3:
            case.add("work takes longer", f"the work itself takes longer ({numbers(work)})", work)
        elif work is not None and not own:
            text = f"the work itself is as quick as ever ({numbers(work)})"
            case.add("what changed is well", text, work)
        return
    found = [
        m for metric in ("service.latency_p95_seconds", "service.error_ratio")
        if case.entity.kind == "service" and (m := look.measure(metric, case.entity)) is not None
    ]  # fmt: skip
    bad = next((m for m in found if m.deviations > 4), None)
    if bad is not None:
        case.add(
            "what changed is unwell", f"{case.entity.key} itself is unwell ({numbers(bad)})", bad
        )
    elif found:
        text = f"{case.entity.key} itself is well ({numbers(found[0])})"
        case.add("what changed is well", text, found[0])


def concept(look: Look) -> list[Case]:
    """The relation between inputs and labels has changed: labels say worse, inputs look as ever."""
    out = []
    for model in look.near("model"):
        if not of.poor(look, model):
            continue
        case = Case("concept.drift", model)
        accuracy = look.measure("model.accuracy_ratio", model)
        reference = look.value("model.reference_accuracy_ratio", model)
        changed = look.state("model.relation_changed", model)
        if changed is not None and changed.now > 0.5:
            evidence = look.value("model.relation_evidence_count", model) or 0.0
            text = f"labels prove a changed relation ({say_times(evidence)} what is enough)"
            case.add("relation changed", text, changed)
        if accuracy is not None:
            text = f"accuracy on labels is {numbers(accuracy)}"
            case.add("accuracy on labels low", text, accuracy)
        elif reference is not None and look.value("model.accuracy_ratio", model) is not None:
            text = f"accuracy is below that of the reference ({say(reference, 'ratio')})"
            case.add("accuracy below reference", text)
        of.inputs(look, model, case, "concept: inputs as ever", "concept: inputs moved")
        change = look.release_of(model)
        if change is not None:
            ago = say_duration(abs(look.onset - change.ts))
            text = f"version {change.after} was released {ago} from the onset: look there first"
            case.add("concept: released", text)
        else:
            case.add("concept: not released", "no version was released")
        _labels_and_shadows(look, model, case)
        out.append(case)
    return out


def _labels_and_shadows(look: Look, model: Entity, case: Case) -> None:
    """Weigh what may be wrong with the labels, and say which shadow is better."""
    coverage = look.measure("model.label_coverage_ratio", model)
    if coverage is not None and coverage.moved < -0.3:
        text = f"labels are missing ({numbers(coverage)})"
        case.add("concept: labels missing", text, coverage)
    labels, mix = of.mixes(look, model)
    if labels is not None and of.moved_alike(labels, mix):
        text = f"the mix of classes moved ({numbers(labels)}), and the predictions with it"
        case.add("concept: mix moved alike", text, labels)
    if wrong := of.labels_wrong(look, model):
        case.add("concept: labels wrong", wrong)
    if better := of.better_beside(look, model):
        case.facts = {"better": better}
        case.say(f"version {better}, a shadow, is proven better on the same requests")
