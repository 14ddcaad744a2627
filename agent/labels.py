"""What the labels of a foreign series tell of who is there: pods, nodes, GPUs, models, versions.

    (metric, labels) -> Told: entities with attributes, and the edges among them
    model <- version <- replica -> GPUs -> hosts;  replica -> service, replica -> host

Reads the labels that Prometheus' own discovery, kube-state-metrics, cAdvisor, node_exporter, dcgm-exporter, the usual
model servers and OpenTelemetry write. Pure; nothing is guessed from values. A replica may use several GPUs on several
hosts: each series tells one edge, and the graph joins them.
Cost: some ten microseconds; meant to be asked once a series, not once a sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.calls import NOBODY, Names
from agent.model import Edge, Entity, EntityKind

Labels = Mapping[str, str]

_SERVICE: Final = (
    "service_istio_io_canonical_name", "app_kubernetes_io_name", "label_app_kubernetes_io_name", "k8s_app",
    "app", "label_app", "isvc", "inferenceservice", "service_name", "deployment", "statefulset", "daemonset",
)  # fmt: skip
"""Labels that name a service by themselves, the most telling first; `job` is the last resort, and not of exporters."""
_COMPOSE: Final = "container_label_com_docker_compose_service"
_POD: Final = ("pod", "exported_pod", "pod_name", "kubernetes_pod_name", "k8s_pod_name")
_NODE: Final = (
    "node",
    "kubernetes_node",
    "nodename",
    "k8s_node_name",
    "Hostname",
    "hostname",
    "host_name",
)
_SPACE: Final = ("namespace", "exported_namespace", "kubernetes_namespace", "k8s_namespace_name")
_GPU: Final = ("UUID", "uuid", "gpu_uuid", "GPU_UUID")
_EXPORTER: Final = re.compile(
    r"(?i)(.*[-_/.])?(\w*exporter|kubelet|c?advisor|kube-state-metrics|ksm|prometheus|alertmanager|pushgateway"
    r"|apiserver|coredns|nodes?|nodes-cadvisor|blackbox|federate|otel-collector)"
)
"""Jobs that tell of others: neither their name nor their own pod is who a series is about."""
_OTHERS: Final = re.compile(
    r"(kube_|container_|node_|smartctl_|DCGM_|nvidia_|probe_|machine_|kubelet_|haproxy_server_)"
)
"""Metrics about others, whatever the job is called."""
_RANDOM: Final = "[bcdfghjklmnpqrstvwxz2456789]"
"""What Kubernetes makes names of: no vowels and no digits that look like some, so that no words come of it."""
_WORKLOAD: Final = (
    re.compile(
        rf"(?P<name>.+)-{_RANDOM}{{6,10}}-{_RANDOM}{{5}}"
    ),  # Deployment: name-<replica set>-<pod>
    re.compile(r"(?P<name>.+)-\d{1,4}"),  # StatefulSet: name-<ordinal>
    re.compile(rf"(?P<name>.+)-{_RANDOM}{{5}}"),  # DaemonSet, ReplicaSet, Job
)
_MODELS: Final = (
    ("nv_inference_", "model", "version"),
    ("vllm:", "model_name", "model_version"),
    ("sglang:", "model_name", "model_version"),
    ("tgi_", "model_id", "model_version"),
    (":tensorflow:serving", "model_name", "model_version"),
    ("tensorflow:serving", "model_name", "model_version"),
    ("ts_", "model_name", "model_version"),
    ("seldon_model_", "model_name", "model_version"),
    ("kserve_", "model_name", "model_version"),
    ("request_predict_seconds", "model_name", "model_version"),
    ("ray_serve_", "application", ""),
    ("model_infer_", "model", "version"),
)  # fmt: skip
"""Beginning of a metric -> labels of model and version: elsewhere `model` is the make of a disk or a card."""
_NO_VERSION: Final = frozenset({"default"})
"""What TorchServe writes for the version of a request that asked for none."""
_RELEASED: Final = (
    "app_kubernetes_io_version", "label_app_kubernetes_io_version", "service_version", "image_tag", "image",
    "image_spec", "release", "version", "tag", "git_sha", "revision",
)  # fmt: skip
"""Labels that say which release it is, the most telling first."""
_INFO: Final = re.compile(
    r"up|(\w+_)?(build|app|service)_info|target_info|kube_pod_container_info|\w+_version_info"
)
"""Metrics whose labels describe the target itself: `up` has exactly the labels of the scrape."""
_NO_RELEASE: Final = re.compile(
    r"(go|python|jvm|java|nodejs|php|ruby|dotnet|openssl|process|otel|telemetry)_\w*info"
)
"""The same of the language a thing is written in, which tells no release."""
_HOST_INFO: Final = {
    "node_uname_info": ("release", "kernel"),
    "node_os_info": ("pretty_name", "os"),
    "kube_node_info": ("kernel_version", "kernel"),
    "DCGM_FI_DEV_GPU_UTIL": ("DCGM_FI_DRIVER_VERSION", "driver"),
    "DCGM_FI_DEV_GPU_UTIL_RATIO": ("DCGM_FI_SYSTEM_DRIVER_VERSION", "driver"),
}
"""Metric -> (label, what it is): what a host itself runs."""


@dataclass(frozen=True, slots=True)
class Told:
    """Who a series speaks of, and what it says of them."""

    attrs: tuple[tuple[Entity, str, str], ...] = ()
    edges: tuple[Edge, ...] = ()

    @property
    def entities(self) -> set[Entity]:
        """Everybody that it names."""
        return {e for e, _, _ in self.attrs} | {x for e in self.edges for x in (e.src, e.dst)}


def about(metric: str, labels: Labels, names: Names | None = None) -> dict[EntityKind, Entity]:
    """Return whom a series may be about, by kind: at most one of each."""
    names = names or Names()
    others = bool(_OTHERS.match(metric)) or _exporter(labels.get("job", ""))
    pod = _pod(labels, others=others)
    service = _service(labels, pod, names, others=others)
    replica = _replica(service, pod, labels, others=others)
    if replica is None and others:
        service, replica = _named(metric, labels, names) or (service, replica)
    found = (
        service, replica, _host(metric, labels), _gpu(labels),
        *(e.dst for e in _models(metric, labels, service, None)[:1]),
    )  # fmt: skip
    return {e.kind: e for e in found if e is not None}


def read(metric: str, labels: Labels, names: Names | None = None) -> Told:
    """Return what a series tells of who is there; nothing when its labels name nobody."""
    whom = about(metric, labels, names)
    service, replica, host, gpu = (whom.get(k) for k in ("service", "replica", "host", "gpu"))
    edges = []
    attrs: list[tuple[Entity, str, str]] = []
    if replica is not None and service is not None:
        edges.append(Edge("serves", replica, service))
    if replica is not None and host is not None:
        edges.append(Edge("runs_on", replica, host))
    if gpu is not None:
        attrs.append((gpu, "name", labels.get("modelName", "") or labels.get("name", "")))
        if host is not None:
            edges.append(Edge("runs_on", gpu, host))
        if replica is not None:
            edges.append(Edge("runs_on", replica, gpu))
    edges += _models(metric, labels, service, replica)
    attrs += _versions(metric, labels, service if replica is None else replica, service, host)
    return Told(tuple(a for a in attrs if a[2]), tuple(edges))


def workload(pod: str) -> str:
    """Return the name of what a pod is one of: its name without what the cluster hung on it."""
    for form in _WORKLOAD:
        found = form.fullmatch(pod)
        if found:
            return found["name"]
    return pod


def _exporter(name: str) -> bool:
    return _EXPORTER.fullmatch(name) is not None


def _one(labels: Labels, keys: tuple[str, ...]) -> str:
    """Return the first label that says something."""
    return next((labels[k] for k in keys if labels.get(k, "").lower() not in NOBODY), "")


def _pod(labels: Labels, *, others: bool) -> str:
    # an exporter's `pod` is its own unless it honours labels; then the pod it speaks of was renamed to exported_pod
    if others and labels.get("exported_pod"):
        return labels["exported_pod"]
    pod = _one(labels, _POD)
    return "" if others and _exporter(workload(pod)) else pod


def _service(labels: Labels, pod: str, names: Names, *, others: bool) -> Entity | None:
    name = "" if others else _one(labels, _SERVICE)
    if not name and pod:
        name = workload(pod)
    if not name and not others:
        name = labels.get("job", "").rpartition("/")[2]
    exported = labels.get("exported_namespace", "") if others else ""
    id_ = names.service(name, exported or _one(labels, _SPACE)) if name else ""
    return Entity("service", id_) if id_ else None


def _replica(service: Entity | None, pod: str, labels: Labels, *, others: bool) -> Entity | None:
    if service is None:
        return None
    one = pod or (
        "" if others else labels.get("service_instance_id", "") or labels.get("instance", "")
    )
    return Entity("replica", f"{service.key}/{one}") if one else None


def _named(metric: str, labels: Labels, names: Names) -> tuple[Entity, Entity] | None:
    """Return service and replica where the exporter names both: HAProxy its servers, cAdvisor containers of Docker."""
    if metric.startswith("haproxy_server_"):
        name, one = labels.get("proxy", ""), labels.get("server", "")
    elif metric.startswith("container_"):
        one = labels.get("name", "")
        name = labels.get(_COMPOSE, "") or workload(one)
    else:
        return None
    id_ = names.service(name, "") if name and one else ""
    return (Entity("service", id_), Entity("replica", f"{id_}/{one}")) if id_ else None


def _host(metric: str, labels: Labels) -> Entity | None:
    name = _one(labels, _NODE)
    if not name and metric.startswith(("node_", "smartctl_", "nvidia_")):
        # an exporter of the machine itself: its address is the machine's
        name = labels.get("instance", "").rpartition(":")[0] or labels.get("instance", "")
    return Entity("host", name) if name else None


def _gpu(labels: Labels) -> Entity | None:
    uuid = _one(labels, _GPU)
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid):
        uuid = f"GPU-{uuid}"
    return Entity("gpu", uuid) if re.fullmatch(r"(GPU|MIG)-[\w./-]+", uuid) else None


def _models(
    metric: str, labels: Labels, service: Entity | None, replica: Entity | None
) -> list[Edge]:
    for start, of_model, of_version in _MODELS:
        if not metric.startswith(start):
            continue
        name = labels.get(of_model, "")
        if not name:
            return []
        model = Entity("model", name)
        edges = [Edge("serves", service, model)] if service is not None else []
        said = labels.get(of_version, "")
        if said and said not in _NO_VERSION:
            version = Entity("version", f"{name}/{said}")
            edges.append(Edge("version_of", version, model))
            if replica is not None:
                edges.append(Edge("serves", replica, version))
        elif replica is not None:
            edges.append(Edge("serves", replica, model))
        return edges
    return []


def _versions(
    metric: str, labels: Labels, about: Entity | None, service: Entity | None, host: Entity | None
) -> list[tuple[Entity, str, str]]:
    """Return version attributes: of the replica, of its service (several while one is rolled out), of the host."""
    if metric in _HOST_INFO and host is not None:
        label, what = _HOST_INFO[metric]
        return [(host, what, labels.get(label, ""))]
    if not _INFO.fullmatch(metric) or _NO_RELEASE.fullmatch(metric):
        return []
    version = _one(labels, _RELEASED)
    return [
        (e, "version", version)
        for e in dict.fromkeys((about, service))
        if e is not None and version
    ]
