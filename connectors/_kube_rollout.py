"""Rollouts of Kubernetes, read off objects: how one stands, which templates there were, and one put in another's place.

A deployment's earlier templates are kept by its ReplicaSets, a stateful set's by its ControllerRevisions. Their names
stay when a template is used again, their numbers do not: so a revision is called by its name. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

RESTARTED: Final = "homeostat/restarted"
"""Annotation of a template: the key under which we had all pods replaced."""
RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
LEFT: Final = "homeostat/rolled-back-from"
"""Annotation of a workload: the revision that we went back from, which is no place to go back to."""
_NUMBER: Final = "deployment.kubernetes.io/revision"
_HASH: Final = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Revision:
    """One template that a workload had. number: rises with each time that it was put to use."""

    name: str
    number: int
    template: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rollout:
    """How the newest rollout stands: see playbooks/actions/rollouts.py."""

    revision: str
    settled: bool
    stuck: bool
    words: str
    restarted: str


def progress(kind: str, found: Mapping[str, Any]) -> tuple[bool, bool, str]:
    """Return whether the newest template runs everywhere, whether it never will, and how it stands."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    updated, there = int(status.get("updatedReplicas", 0)), int(status.get("replicas", 0))
    if int(status.get("observedGeneration", 0)) < int(found["metadata"].get("generation", 0)):
        return False, False, "its controller has not seen it yet"
    if kind == "deployment":
        for one in status.get("conditions") or ():
            if one.get("type") == "Progressing" and one.get("reason") == "ProgressDeadlineExceeded":
                return False, True, f"it is stuck: {str(one.get('message', ''))[:200]}"
        if there > updated:
            return False, False, f"{there - updated} pods of an earlier one have not ended"
        well = int(status.get("availableReplicas", 0))
    else:
        wanted -= int(((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition", 0))  # fmt: skip
        well = min(int(status.get("readyReplicas", 0)), updated)
    if updated < wanted:
        return False, False, f"{updated} of {wanted} pods run it"
    if well < wanted:
        return False, False, f"{well} of {wanted} pods that run it are well"
    return True, False, f"{updated} of {wanted} pods run it and are well"


def of_replica_sets(sets: Iterable[Mapping[str, Any]], uid: str) -> list[Revision]:
    """Return the revisions of a deployment, the newest first."""
    out = []
    for one in sets:
        number = (one["metadata"].get("annotations") or {}).get(_NUMBER, "")
        if _owned(one, uid) and number.isdigit():
            template = copy.deepcopy(one["spec"]["template"])
            (template.get("metadata", {}).get("labels") or {}).pop(_HASH, None)
            out.append(Revision(one["metadata"]["name"], int(number), template))
    return sorted(out, key=lambda r: -r.number)


def of_controller_revisions(found: Iterable[Mapping[str, Any]], uid: str) -> list[Revision]:
    """Return the revisions of a stateful set, the newest first."""
    out = []
    for one in found:
        template = ((one.get("data") or {}).get("spec") or {}).get("template")
        if _owned(one, uid) and isinstance(template, dict):
            plain = {k: v for k, v in template.items() if k != "$patch"}
            out.append(Revision(one["metadata"]["name"], int(one.get("revision", 0)), plain))
    return sorted(out, key=lambda r: -r.number)


def _owned(one: Mapping[str, Any], uid: str) -> bool:
    owners = one["metadata"].get("ownerReferences") or ()
    return any(o.get("controller") and o.get("uid") == uid for o in owners)


def current(kind: str, found: Mapping[str, Any], revisions: Iterable[Revision]) -> str:
    """Return the revision of the template that is asked for; "" = its controller has not made it yet."""
    if kind == "deployment":
        template = found["spec"]["template"]
        return next((r.name for r in revisions if _same(r.template, template)), "")
    status = found.get("status") or {}
    seen = int(status.get("observedGeneration", 0)) >= int(found["metadata"].get("generation", 0))
    return str(status.get("updateRevision", "")) if seen else ""


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Compare two templates; what an API server leaves empty is as good as not there."""
    return bool(_filled(one) == _filled(other))


def _filled(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {k: _filled(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in (None, {}, [])}
    return [_filled(v) for v in value] if isinstance(value, list) else value


def earlier(kind: str, found: Mapping[str, Any], revisions: Iterable[Revision]) -> list[str]:
    """Return what can be gone back to, the newest first: not what was left before, nor a mere restart of the same."""
    revisions = list(revisions)
    now, plain = current(kind, found, revisions), _unmarked(found["spec"]["template"])
    return [
        r.name
        for r in revisions
        if r.name not in {now, noted(found, LEFT)} and not _same(_unmarked(r.template), plain)
    ]


def _unmarked(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template without the marks of a restart."""
    out = copy.deepcopy(dict(template))
    notes = (out.get("metadata") or {}).get("annotations") or {}
    for mark in (RESTARTED, RESTARTED_AT):
        notes.pop(mark, None)
    return out


def noted(found: Mapping[str, Any], name: str, of: str = "workload") -> str:
    """Return an annotation of a workload, or of its template."""
    meta = found["metadata"] if of == "workload" else found["spec"]["template"].get("metadata", {})
    return str((meta.get("annotations") or {}).get(name, ""))


def with_template(
    found: Mapping[str, Any], template: Mapping[str, Any], left: str
) -> dict[str, Any]:
    """Return the workload with another template; left: which revision is not to be gone back to, "" = none."""
    out = copy.deepcopy(dict(found))
    out["spec"]["template"] = copy.deepcopy(dict(template))
    notes = out["metadata"].setdefault("annotations", {})
    notes.pop(LEFT, None)
    if left:
        notes[LEFT] = left
    return out
