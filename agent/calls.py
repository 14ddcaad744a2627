"""Who calls whom, read off metrics of others: Istio, service graphs of OpenTelemetry and Tempo, Linkerd, Envoy.

    (metric name, labels) --table--> Call: caller, callee, which signal of ours it carries, in which unit; or None

Pure. A metric is known by its name *and* by the labels that make it a call; what lacks them is none. The caller's and
the callee's view of the same calls are kept apart (label `side`), because where they differ, it is the network.
Cost: a dictionary hit for any other metric, some microseconds for one of these; meant to be asked once a series.

Sources (read, then told in our own words): istio.io/latest/docs/reference/config/metrics; the READMEs of the
OpenTelemetry service graph connector and of Tempo's; envoyproxy.io/docs: cluster statistics; linkerd.io: proxy metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

import numpy as np

from agent.model import Edge, Entity, FloatArray, Series

Side = Literal["client", "server"]
What = Literal["requests", "errors", "seconds"]

SIGNAL: Final[Mapping[What, str]] = {
    "requests": "service.call_requests_total",
    "errors": "service.call_errors_total",
    "seconds": "service.call_seconds_total",
}
"""What an edge carries -> our counter of it, on the caller, with labels `callee` and `side`."""

DIALECTS: Final = ("istio", "traces", "linkerd", "envoy")
"""Who tells of one call better stands first: a sidecar of Istio is an Envoy, too, and counts the same call again."""

NOBODY: Final = frozenset({"", "unknown", "none", "-", "null", "user", "users", "internet"})
"""What meshes and tracers write for a caller or callee that they do not know, or that is a person's browser."""


@dataclass(frozen=True, slots=True)
class Names:
    """How names in labels become service ids.

    known    what labels call it -> id; globs are tried in order when there is no exact match
    qualify  put the namespace before the name, for clusters in which one name means two services
    """

    known: Mapping[str, str] = field(default_factory=dict)
    qualify: bool = False

    def service(self, name: str, namespace: str = "") -> str:
        """Return the id of a service, "" for nobody."""
        if name.lower() in NOBODY:
            return ""
        full = f"{namespace}/{name}" if self.qualify and namespace not in {"", "unknown"} else name
        for text in (full, name):
            if text in self.known:
                return self.known[text]
        return next((to for glob, to in self.known.items() if fnmatchcase(full, glob)), full)


@dataclass(frozen=True, slots=True)
class Call:
    """What one foreign series tells of a call.

    edge     caller calls callee
    side     whose view it is
    counts   our series that it is an addend of: requests; errors (a part of the requests, so perhaps both); or the
             seconds that they took, summed
    scale    multiply its values by this to get our unit
    """

    edge: Edge
    side: Side
    counts: tuple[Series, ...]
    scale: float = 1.0
    dialect: str = ""


@dataclass(frozen=True, slots=True)
class _Rule:
    """How one dialect writes one metric.

    dialect     one of DIALECTS
    src, dst    labels that may name the ends, the first that is known wins; src () = whoever was scraped
    spaces      labels with the namespaces of both
    side        which view it is, or the label that says so with its words
    what        what it counts
    failed      (label, pattern): a sample whose label matches counts failed requests
    needs       (label, pattern): without it, it is something else
    scale       to base units
    """

    dialect: str
    src: tuple[str, ...]
    dst: tuple[str, ...]
    what: What
    side: Side | tuple[str, Mapping[str, Side]] = "client"
    spaces: tuple[str, str] = ("", "")
    failed: tuple[tuple[str, str], ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    scale: float = 1.0


_ISTIO_SIDE: Final[tuple[str, Mapping[str, Side]]] = (
    "reporter", {"source": "client", "destination": "server", "waypoint": "server"},
)  # fmt: skip
_ISTIO_SRC: Final = ("source_canonical_service", "source_workload", "source_app")
_ISTIO_DST: Final = (
    "destination_canonical_service", "destination_workload", "destination_service_name", "destination_app",
    "destination_service",
)  # fmt: skip
_ISTIO_SPACES: Final = ("source_workload_namespace", "destination_workload_namespace")
_SCRAPED: Final = (
    "consul_source_service", "service_istio_io_canonical_name", "app_kubernetes_io_name", "k8s_app", "app",
    "deployment", "container_label_app", "local_cluster", "job",
)  # fmt: skip
"""Labels of a scrape that name the service whose proxy it is, the most telling first."""
_ENVOY_DST: Final = ("consul_destination_service", "envoy_cluster_name", "cluster_name")
_LINKERD_SRC: Final = ("deployment", "statefulset", "daemonset", "workload_name", *_SCRAPED)
_LINKERD_DST: Final = (
    "dst_deployment", "dst_statefulset", "dst_daemonset", "dst_workload_name", "dst_service",
    "outbound_http_route_backend_name",
)  # fmt: skip
_BAD_HTTP: Final = r"5\d\d|0|5xx"


def _istio(what: What, scale: float = 1.0, *, failed: bool = False) -> _Rule:
    bad = (("response_code", _BAD_HTTP), ("grpc_response_status", r"[1-9]\d*")) if failed else ()
    return _Rule(
        "istio", _ISTIO_SRC, _ISTIO_DST, what, _ISTIO_SIDE, _ISTIO_SPACES, bad, scale=scale
    )


def _traced(what: What, side: Side = "client", scale: float = 1.0) -> _Rule:
    spaces = ("client_k8s_namespace_name", "server_k8s_namespace_name")
    return _Rule("traces", ("client",), ("server",), what, side, spaces, scale=scale)


def _envoy(what: What, scale: float = 1.0, *, failed: tuple[tuple[str, str], ...] = ()) -> _Rule:
    return _Rule("envoy", (), _ENVOY_DST, what, failed=failed, scale=scale)


def _linkerd(what: What, scale: float = 1.0, *, failed: tuple[tuple[str, str], ...] = ()) -> _Rule:
    return _Rule(
        "linkerd", _LINKERD_SRC, _LINKERD_DST, what, "client", ("namespace", "dst_namespace"),
        failed, (("direction", "outbound"),), scale,
    )  # fmt: skip


RULES: Final[Mapping[str, _Rule]] = {
    "istio_requests_total": _istio("requests", failed=True),
    "istio_request_duration_milliseconds_sum": _istio("seconds", 1e-3),
    "istio_request_duration_seconds_sum": _istio("seconds"),
    "istio_tcp_connections_opened_total": _istio("requests"),
    # request_total counts the failed ones, too; seconds come as the client and as the server saw them
    "traces_service_graph_request_total": _traced("requests"),
    "traces_service_graph_request_failed_total": _traced("errors"),
    "traces_service_graph_request_client_seconds_sum": _traced("seconds"),
    "traces_service_graph_request_server_seconds_sum": _traced("seconds", "server"),
    "traces_service_graph_request_client_milliseconds_sum": _traced("seconds", "client", 1e-3),
    "traces_service_graph_request_server_milliseconds_sum": _traced("seconds", "server", 1e-3),
    # upstream_rq counts by code, upstream_rq_xx by class, upstream_rq_total all of them: one of the three is enough
    "envoy_cluster_upstream_rq_total": _envoy("requests"),
    "envoy_cluster_upstream_rq_xx": _envoy("errors", failed=(("envoy_response_code_class", "5"),)),
    "envoy_cluster_upstream_rq_time_sum": _envoy("seconds", 1e-3),
    "request_total": _linkerd("requests"),
    "response_total": _linkerd("errors", failed=(("classification", "failure"),)),
    "response_latency_ms_sum": _linkerd("seconds", 1e-3),
}  # fmt: skip
"""Metric name -> how to read it. The whole vocabulary."""

_COUNTS_ALL: Final = frozenset({"istio_requests_total"})
"""Metrics whose failed samples are requests, too; elsewhere another metric counts all of them."""
_INFRA: Final = re.compile(
    r"(?i)(xds|sds|ads|zipkin|jaeger|otel|prometheus_stats|agent|admin|statsd|ext_?authz|rate_?limit|access_log)"
    r"([-_]?(grpc|cluster|service|collector))?|(BlackHole|Passthrough|InboundPassthrough(Ipv4|Ipv6)?)Cluster"
)
"""Clusters of the proxy's own housekeeping."""
_CLUSTER: Final = (
    # Istio: direction|port|subset|host; Contour: namespace/service/port/hash; Consul: service.namespace.dc.kind.domain
    re.compile(r"outbound\|\d+\|[^|]*\|(?P<name>[^|]+)(?P<space>)"),
    re.compile(r"(?P<space>[^/|]+)/(?P<name>[^/|]+)/[^/|]+(/[^/|]+)?"),
    re.compile(r"(?P<name>[^.|]+)\.(?P<space>[^.|]+)\.[^.|]+\.(internal|external)[\w-]*\.[0-9a-f-]+\.consul"),
)  # fmt: skip
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9-]+)\.(?P<space>[A-Za-z0-9-]+)\.svc(\.[\w.-]+)?")
_STORES: Final = frozenset({"database", "messaging_system"})


def read(metric: str, labels: Mapping[str, str], names: Names | None = None) -> Call | None:
    """Return the call that a series counts; None when it is another metric or an end of it is not known."""
    rule = RULES.get(metric)
    if rule is None:
        return None
    if any(labels.get(label) != pattern for label, pattern in rule.needs):
        return None
    names = names or Names()
    counted = _counted(metric, rule, labels)
    if not counted:
        return None
    side = (
        rule.side if isinstance(rule.side, str) else rule.side[1].get(labels.get(rule.side[0], ""))
    )
    src = _caller(rule, labels, names)
    dst = _callee(rule, labels, names)
    if side is None or src is None or dst is None or src == dst:
        return None
    its = (("callee", dst.id), ("side", side))
    counts = tuple(Series(SIGNAL[what], src, its) for what in counted)
    return Call(Edge("calls", src, dst), side, counts, rule.scale, rule.dialect)


def _counted(metric: str, rule: _Rule, labels: Mapping[str, str]) -> tuple[What, ...]:
    """Return what a sample counts; nothing when another metric of the same dialect counts it."""
    bad = any(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in rule.failed)
    if metric in _COUNTS_ALL:
        return ("errors", "requests") if bad else (rule.what,)
    return (rule.what,) if bad or not rule.failed else ()


def _caller(rule: _Rule, labels: Mapping[str, str], names: Names) -> Entity | None:
    if (
        labels.get("connection_type") == "virtual_node"
        and labels.get("client", "").lower() in NOBODY
    ):
        return None
    space = labels.get(rule.spaces[0], "") or labels.get("namespace", "")
    for name in _first(labels, rule.src or _SCRAPED):
        id_ = names.service(name, space)
        if id_:
            return Entity("service", id_)
    return None


def _callee(rule: _Rule, labels: Mapping[str, str], names: Names) -> Entity | None:
    space = labels.get(rule.spaces[1], "")
    for written in _first(labels, rule.dst):
        name, at = _unfolded(written) if rule.dst is _ENVOY_DST else _unhosted(written)
        id_ = names.service(name, at or space)
        if not id_:
            continue
        foreign = (":" in id_ or "." in id_) and id_ not in names.known.values()
        outside = foreign or labels.get("connection_type") in _STORES
        # what tracers know only by its name may be a service all the same: one that sends no spans
        return Entity("dependency" if outside else "service", id_)
    return None


def _first(labels: Mapping[str, str], keys: Iterable[str]) -> Iterable[str]:
    return (labels[key] for key in keys if labels.get(key, "").lower() not in NOBODY)


def _unfolded(cluster: str) -> tuple[str, str]:
    """Return name and namespace of what an Envoy cluster leads to; ("", "") for housekeeping and own listeners."""
    if _INFRA.fullmatch(cluster) or cluster.startswith(
        ("inbound|", "inbound_", "local_app", "local_service")
    ):
        return "", ""
    for form in _CLUSTER:
        found = form.fullmatch(cluster)
        if found:
            name, at = _unhosted(found["name"])
            return name, found["space"] or at
    return _unhosted(cluster)


def _unhosted(host: str) -> tuple[str, str]:
    """Return name and namespace of a cluster-local host name; any other name stays as it is."""
    found = _HOST.fullmatch(host)
    return (found["name"], found["space"]) if found else (host, "")


class Tally:
    """Adds foreign counters up into ours: many pods, codes and paths are one call.

    Made anew when the table of a source changes; then a tick is two passes of numpy. Where two dialects tell of the
    same calls, only the better one counts.

    series  (m,) ours, sorted; edges (e,) who calls whom
    """

    def __init__(self, calls: Sequence[Call | None]) -> None:
        best: dict[tuple[Edge, Side], int] = {}
        for call in calls:
            if call is not None:
                rank = DIALECTS.index(call.dialect)
                key = call.edge, call.side
                best[key] = min(best.get(key, rank), rank)
        kept = [
            (i, c)
            for i, c in enumerate(calls)
            if c is not None and DIALECTS.index(c.dialect) == best[c.edge, c.side]
        ]
        parts = [(i, series, c.scale) for i, c in kept for series in c.counts]
        self.series = tuple(sorted({series for _, series, _ in parts}))
        self.edges = tuple(dict.fromkeys(c.edge for _, c in kept))
        at = {series: j for j, series in enumerate(self.series)}
        of = {edge: j for j, edge in enumerate(self.edges)}
        self._from = np.array([i for i, _, _ in parts], dtype=np.int64)
        self._into = np.array([at[series] for _, series, _ in parts], dtype=np.int64)
        self._scale = np.array([scale for _, _, scale in parts], dtype=np.float64)
        self._rows = np.array([i for i, _ in kept], dtype=np.int64)
        self._edge = np.array([of[c.edge] for _, c in kept], dtype=np.int64)

    def gains(self, before: FloatArray, now: FloatArray) -> FloatArray:
        """Return what our series (m,) gained between two rows (n,) of the foreign table; NaN where no addend answered.

        By each counter and not by their sum: a pod that leaves takes its count along, and the calls did not fall. One
        that fell was reset and counts from zero; one that is new has gained nothing yet, for we do not know since when.
        """
        b, n = before[self._from], now[self._from]
        known = ~np.isnan(n)
        gain = np.where(n >= b, n - b, n)
        gain = np.where(known & ~np.isnan(b), gain, 0.0) * self._scale
        m = len(self.series)
        total = np.bincount(self._into, gain, minlength=m)
        answered = np.bincount(self._into[known], minlength=m)
        return np.where(answered > 0, total, np.nan)

    def moved(self, before: FloatArray, now: FloatArray) -> list[Edge]:
        """Return the edges some counter of which moved between two rows: those that are in use."""
        b, n = before[self._rows], now[self._rows]
        # a series that was not there before has come with its first call; one that fell was reset and counts anew
        used = ~np.isnan(n) & (np.isnan(b) | (n != b)) & (n > 0)
        hit = np.bincount(self._edge[used], minlength=len(self.edges))
        return [edge for edge, count in zip(self.edges, hit, strict=True) if count]
