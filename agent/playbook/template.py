"""A first playbook for a cause and a verb: commented, sound, and with tests that pass, to be changed by its author."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from agent import registry
from agent.causes import CAUSES, known, matches, words
from agent.errors import Refused
from agent.playbook.check import branches
from agent.playbook.verbs import can_undo, stays
from agent.strict import did_you_mean


@dataclass(frozen=True, slots=True)
class _Symptom:
    """What shows a cause: a signal, from where on it is ill, what it is when all is well and when it is ill."""

    signal: str
    ill: str
    calm: float
    sick: float

    @property
    def kind(self) -> str:
        return self.signal.partition(".")[0]

    @property
    def well(self) -> str:
        """The condition's contrary."""
        op, number = self.ill.split()
        return f"{ {'>': '<=', '<': '>='}[op] } {number}"


_SLOW: Final = _Symptom("service.latency_p95_seconds", "> 0.5", 0.1, 0.9)
_FAILS: Final = _Symptom("service.error_ratio", "> 0.05", 0.0, 0.2)
_CLOCK: Final = _Symptom("gpu.clock_ratio", "< 0.85", 0.97, 0.6)
_BROKEN: Final = _Symptom("feature.contract_broken", "> 0.5", 0.0, 1.0)
_SYMPTOMS: Final[Mapping[str, _Symptom]] = {
    "hardware.gpu.memory": _Symptom("gpu.ecc_errors_per_second", "> 0.01", 0.0, 0.2),
    "hardware.gpu.thermal": _CLOCK, "hardware.gpu.slow": _CLOCK,
    "hardware.gpu.power": _Symptom("gpu.throttled", "> 0.5", 0.0, 1.0),
    "hardware.gpu.link": _Symptom("gpu.pcie_link_ratio", "< 0.9", 1.0, 0.5),
    "hardware.gpu.lost": _Symptom("gpu.reachable", "< 0.5", 1.0, 0.0),
    "host.cpu": _Symptom("host.cpu_busy_ratio", "> 0.95", 0.4, 0.99),
    "host.memory": _Symptom("host.memory_utilization_ratio", "> 0.95", 0.6, 0.98),
    "host.disk": _Symptom("host.disk_utilization_ratio", "> 0.95", 0.6, 0.98),
    "host.network": _Symptom("host.network_drops_per_second", "> 10.0", 0.0, 80.0),
    "host.neighbour": _SLOW, "serving.saturation": _SLOW, "serving.traffic": _SLOW,
    "serving.crash": _Symptom("service.up", "< 0.5", 1.0, 0.0),
    "serving.dependency": _FAILS, "release.code": _FAILS, "release.config": _FAILS,
    "release.model": _Symptom("model.quality_lost", "> 0.5", 0.0, 1.0),
    "data.contract": _BROKEN, "data.stale": _BROKEN,
    "data.drift": _Symptom("model.feature_drift_psi", "> 0.25", 0.02, 0.6),
    "data.prior": _Symptom("model.prediction_drift_psi", "> 0.25", 0.02, 0.6),
    "concept.drift": _Symptom("model.relation_changed", "> 0.5", 0.0, 1.0),
    "label.late": _Symptom("model.label_coverage_ratio", "< 0.5", 0.97, 0.1),
    "label.bad": _Symptom("model.accuracy_ratio", "< 0.8", 0.95, 0.6),
    "observer.blind": _Symptom("source.blind", "> 0.5", 0.0, 1.0),
    "unknown": _SLOW,
}  # fmt: skip

_LONGEST_TITLE: Final = 100


def write(name: str, cause: str, use: str) -> str:
    """Return the text of a playbook. Raises Refused for a cause or verb that is not there."""
    if not known(cause):
        raise Refused(
            f"no cause is called {cause!r}; {did_you_mean(cause, branches(), show=40)}".rstrip("; ")
        )
    verb = registry.action.get(use)
    leaf = next(c for c in CAUSES if matches(cause, c))
    symptom = _SYMPTOMS.get(leaf, _SLOW)
    return "\n".join(_lines(name, cause, use, verb, symptom)) + "\n"


def _lines(name: str, cause: str, use: str, verb: type[Any], symptom: _Symptom) -> Iterator[str]:
    mutating = verb.effect == "mutating"
    title = f"{_doc(verb)}, because {words(cause) if cause in CAUSES else cause}"
    if len(title) > _LONGEST_TITLE:
        title = textwrap.shorten(_doc(verb), _LONGEST_TITLE, placeholder="")
    yield "# yaml-language-server: $schema=playbook.schema.json"
    yield "# (made by `homeostat schema playbook > playbook.schema.json`)"
    yield "#"
    yield "# Say here, for the person who reads it at night: what is wrong then, and why this helps."
    yield "version: 1"
    yield f"id: {name}"
    yield f"title: {_text(title)}"
    yield "owner: ''                          # team that answers for it"
    yield "mode: suggest                      # observe | suggest | approve | auto: how far it may go at most"
    yield f"target: {{kind: {symptom.kind}}}"
    yield f"because: {{cause: {cause}, min_confidence: 60%}}"
    yield "when:                              # all of these; what is unknown never fires"
    yield f"  - {{is: '{symptom.signal} {symptom.ill}', for: 30s}}"
    yield "unless: []                         # what must not be so, as expressions"
    yield "guard:"
    yield "  cooldown: {per: target, time: 30m}"
    yield "  rate: {max: 2, per: 1h}"
    if mutating:
        yield "  blast: {max_targets: 1, max_share: 34%}"
        yield "  settle: 5m                       # before the next target"
        yield "  attempts: {max: 2, per: 24h, then: escalate}"
        yield "  breaker: {bad_outcomes: 2, hold: 6h}"
        yield "  approve: {by: operator, timeout: 30m, on_timeout: escalate}"
    yield "do:"
    yield f"  - id: {_id(use)}"
    yield f"    use: {use}"
    params = _params(verb)
    if params:
        yield f"    with: {yaml.safe_dump(params, default_flow_style=True, width=1000).strip()}"
    if mutating:
        yield (
            "    undo: auto                     # put back what was there"
            if can_undo(verb)
            else "    undo: none                     # "
            + (stays(verb) or "this can not be put back")
        )
        yield "verify:"
        yield "  wait: 1m                         # before the first look"
        yield "  within: 10m"
        yield f"  expect: ['{symptom.signal} {symptom.well}']"
        yield "  otherwise: undo                  # undo | escalate | next; harm is undone in any case"
        yield "then:"
        yield "  - {use: notify, with: {text: '${title}: ${target.key}; ${verdict.summary}'}}"
    yield "tests:"
    yield from _tests(use, verb, symptom, mutating=mutating)


def _tests(use: str, verb: type[Any], symptom: _Symptom, *, mutating: bool) -> Iterator[str]:
    weakens = getattr(verb, "takes_replica", False) or symptom.kind == "process"
    replicas = weakens and mutating
    for name, wave, expect in (
        ("it turns ill and stays so", f"{{step: [{symptom.calm}, {symptom.sick}], at: 5m}}",
         f"{{fires: 1, first_by: 7m, do: [{_id(use)}]}}"),
        ("it is ill for a moment", f"{{pulse: [{symptom.calm}, {symptom.sick}], from: 5m, to: 5m20s}}",
         "{fires: 0}"),
        ("nobody knows", f"{{step: [{symptom.calm}, {symptom.sick}], at: 5m, missing: [5m, 20m]}}", "{fires: 0}"),
    ):  # fmt: skip
        yield f"  - name: {name}"
        yield "    feed:"
        yield "      for: 15m"
        yield "      series:"
        yield f"        {symptom.signal}: {wave}"
        if replicas:
            yield "        service.replicas_count: 4.0"
        yield f"    expect: {expect}"


def _params(verb: type[Any]) -> dict[str, Any]:
    """Return parameters that the verb takes: those it must have, or the first one that makes it content."""
    model: type[BaseModel] | None = getattr(verb, "Params", None)
    if model is None:
        return {}
    schema = model.model_json_schema(by_alias=True, mode="validation")
    properties = schema.get("properties", {})
    defs = schema.get("$defs", {})
    needed = {name: _sample(properties[name], defs) for name in schema.get("required", ())}
    for more in [{}, *({name: _sample(properties[name], defs)} for name in properties)]:
        tried = {**needed, **more}
        try:
            model.model_validate(tried)
        except ValidationError:
            continue
        return tried
    return needed


def _sample(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Any:
    """Return a value that fits a schema, as far as one can tell."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        return _sample(defs[schema["$ref"].rpartition("/")[2]], defs)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _sample(schema[key][0], defs)
    if "enum" in schema or "const" in schema:
        return schema.get("const", next(iter(schema.get("enum", [None]))))
    kind = schema.get("type")
    if kind in {"integer", "number"}:
        least = max(schema.get("minimum", 1), 1)
        return min(least, schema.get("maximum", least))
    if kind == "array":
        return [_sample(schema.get("items", {}), defs)] * max(1, schema.get("minItems", 1))
    if kind == "object":
        inner = schema.get("properties", {})
        return {name: _sample(inner[name], defs) for name in schema.get("required", ())}
    return True if kind == "boolean" else "change-me"


def _id(use: str) -> str:
    return use[:40]


def _doc(verb: type[Any]) -> str:
    first = " ".join((verb.__doc__ or "Act").split("\n\n")[0].split())
    return re.split(r"[:;]|\. ", first)[0].rstrip(".")


def _text(words_: str) -> str:
    return yaml.safe_dump(words_, default_style="'", width=1000, allow_unicode=True).strip()
