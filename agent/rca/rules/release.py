"""Rules about what people changed: releases of models and services; and concept drift, which needs none."""

from __future__ import annotations

from typing import Final

from agent.model import Change
from agent.rca.case import Case, numbers
from agent.rca.look import Look
from agent.rca.rules import _model as of
from agent.rca.rules import _service as service
from agent.units import say, say_duration

_SERVICE_CHANGES: Final[dict[str, str]] = {
    "release": "release.code",
    "config": "release.config",
    "flag": "release.config",
}
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
        change = look.release(model, "release")
        if change is None:
            window = say_duration(look.release_window_s)
            case.add("no release", f"no release of {model.key} in the last {window}")
            out.append(case)
            continue
        case.facts = {"version": change.after, "previous_version": change.before}
        text = f"version {change.after} replaced {change.before} {_when(look, change)}"
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


def release_of_service(look: Look) -> list[Case]:
    """Code or configuration of the service changed shortly before it became slow or failed."""
    if look.group.kind != "service":
        return []
    if not (service.slow(look) or look.broken("service.error_ratio", "service.up")):
        return []
    change = look.release(look.group, *_SERVICE_CHANGES)
    if change is None:
        return []
    case = Case(
        _SERVICE_CHANGES[change.kind], look.group,
        facts={"before": change.before, "after": change.after},
    )  # fmt: skip
    text = f"{change.kind} from {change.before} to {change.after} {_when(look, change)}"
    case.add("service released before", text)
    ago = look.onset - change.ts
    if ago < -_AFTER_S:
        case.add("released after", "it came after the trouble had begun")
    elif ago > 0.5 * look.release_window_s:
        case.add("long before", f"it was well for {say_duration(ago)} with it")
    _, work = service.waiting(look)
    if work is not None and work.deviations > 3 and work.ratio > 1.3:
        case.add("work takes longer", f"the work itself takes longer ({numbers(work)})", work)
    return [case]


def concept(look: Look) -> list[Case]:
    """The relation between inputs and labels has changed: labels say worse, inputs look as ever."""
    out = []
    for model in look.near("model"):
        if not of.poor(look, model):
            continue
        case = Case("concept.drift", model)
        accuracy = look.measure("model.accuracy_ratio", model)
        reference = look.value("model.reference_accuracy_ratio", model)
        if accuracy is not None:
            text = f"accuracy on labels is {numbers(accuracy)}"
            case.add("accuracy on labels low", text, accuracy)
        elif reference is not None:
            text = f"accuracy is below that of the reference ({say(reference, 'ratio')})"
            case.add("accuracy below reference", text)
        of.inputs(look, model, case, "concept: inputs as ever", "concept: inputs moved")
        change = look.release(model, "release")
        if change is not None:
            ago = say_duration(abs(look.onset - change.ts))
            text = f"version {change.after} was released {ago} from the onset: look there first"
            case.add("concept: released", text)
        else:
            case.add("concept: not released", "no version was released")
        coverage = look.measure("model.label_coverage_ratio", model)
        if coverage is not None and coverage.moved < -0.3:
            text = f"labels are missing ({numbers(coverage)})"
            case.add("concept: labels missing", text, coverage)
        labels, mix = of.mixes(look, model)
        if labels is not None and of.moved_alike(labels, mix):
            text = f"the mix of classes moved ({numbers(labels)}), and the predictions with it"
            case.add("concept: mix moved alike", text, labels)
        elif labels is not None and of.one_class(labels):
            text = f"the labels themselves look broken ({numbers(labels)} of one class)"
            case.add("concept: labels of one class", text, labels)
        out.append(case)
    return out
