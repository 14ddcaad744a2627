"""What OpenTelemetry's semantic conventions call things, in our words; the rest is known by its own name.

    metric, attributes, resource -> Place: which column of ours a stream is an addend of, and how

Known by name: what is measured of hosts (`system.*`), of requests that a service serves (HTTP, RPC, generators) and of
those that it makes (HTTP, RPC, databases), and what Prometheus' exporters call the same, as collectors scrape them.
Source (read, then told in our own words): opentelemetry.io, semantic conventions 1.2x and 1.3x, and what went before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agent.calls import Names
from agent.catalogue import SIGNALS
from agent.labels import about
from agent.model import Edge, Entity, EntityKind, Series
from connectors._joined import UCUM, fold_of
from connectors._otlp_points import Header
from connectors._prometheus_names import PLAIN

Fold = Literal["add", "mean", "max", "min", "share"]
"""How streams of one column are joined; share: that of those which are `bad`, by their own values."""
Part = Literal["value", "count", "sum"]

RECORDS: Final = "log.records"
"""What we call counts of log records, which have no name of their own."""
_MOST_LABELS: Final = 30
_MOST_TEXT: Final = 200
_WHOM: Final = ("gpu", "replica", "host", "service")
_INSTANCE: Final = ("service_instance_id", "container_id", "host_name", "host_id")
_MODEL: Final = ("model", "model_name", "ml_model_name", "gen_ai_request_model")
_VERSION: Final = ("model_version", "ml_model_version")
_GRPC_BAD: Final = frozenset({"2", "4", "12", "13", "14", "15", "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED",
                              "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})  # fmt: skip
"""Codes that a server is to blame for."""


@dataclass(frozen=True, slots=True)
class Place:
    """An addend of a column of ours.

    weight   of `share`, 1 = it is what is counted, 0 = it is only counted among
    same     what of the column it tells, where other streams tell the same: the largest of them counts
    """

    series: Series
    part: Part
    fold: Fold = "add"
    scale: float = 1.0
    weight: float = 1.0
    same: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """Everything that one stream tells.

    quantiles   of a distribution: quantile -> series, all streams of which are merged
    scale       of the bounds of its buckets
    """

    places: tuple[Place, ...] = ()
    quantiles: tuple[tuple[float, Series], ...] = ()
    scale: float = 1.0
    calls: Edge | None = None


@dataclass(frozen=True, slots=True)
class _Host:
    """A metric of a host. labels: ours -> the attributes that may hold it; where: what an attribute must be."""

    signal: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    fold: Fold = "add"


_STATE: Final = ("state", "system_cpu_state", "cpu_mode")
_MOUNT: Final = ("mount", ("mountpoint", "system_filesystem_mountpoint"))
_DEVICE: Final = ("device", ("device", "system_device"))
_INTERFACE: Final = ("interface", ("device", "network_interface_name", "system_device"))
_TO: Final = ("direction", "disk_io_direction", "network_io_direction")
_DIRECTION: Final = ("direction", _TO)


def _to(way: str) -> tuple[tuple[str, str], ...]:
    return (("direction|disk_io_direction|network_io_direction", way),)


_HOSTS: Final[dict[str, tuple[_Host, ...]]] = {
    "system.cpu.utilization": (
        _Host("host.cpu_utilization_ratio", (("mode", _STATE),), fold="mean"),
    ),
    "system.cpu.time": (_Host("host.cpu_utilization_ratio", (("mode", _STATE),), fold="mean"),),
    "system.cpu.load_average.1m": (_Host("host.load1_count"),),
    "system.cpu.load_average.5m": (_Host("host.load5_count"),),
    "system.cpu.load_average.15m": (_Host("host.load15_count"),),
    "system.memory.usage": (
        _Host("host.memory_bytes", (("use", ("state", "system_memory_state")),)),
    ),
    "system.memory.utilization": (
        _Host("host.memory_utilization_ratio", where=(("state|system_memory_state", "used"),)),
    ),
    "system.paging.usage": (
        _Host("host.swap_bytes", (("use", ("state", "system_paging_state")),)),
    ),
    "system.paging.utilization": (
        _Host("host.swap_utilization_ratio", where=(("state|system_paging_state", "used"),)),
    ),
    "system.paging.faults": (
        _Host("host.page_faults_per_second", (("type", ("type", "system_paging_type")),)),
    ),
    "system.disk.io": (
        _Host("host.disk_read_bytes_per_second", (_DEVICE,), _to("read")),
        _Host("host.disk_written_bytes_per_second", (_DEVICE,), _to("write")),
    ),
    "system.disk.operations": (
        _Host("host.disk_reads_per_second", (_DEVICE,), _to("read")),
        _Host("host.disk_writes_per_second", (_DEVICE,), _to("write")),
    ),
    "system.disk.io_time": (_Host("host.disk_busy_ratio", (_DEVICE,)),),
    "system.filesystem.usage": (
        _Host("host.disk_bytes", (_MOUNT, ("use", ("state", "system_filesystem_state")))),
    ),
    "system.filesystem.utilization": (_Host("host.disk_utilization_ratio", (_MOUNT,), fold="max"),),
    "system.network.io": (
        _Host("host.network_received_bytes_per_second", (_INTERFACE,), _to("receive")),
        _Host("host.network_sent_bytes_per_second", (_INTERFACE,), _to("transmit")),
    ),
    "system.network.packets": (
        _Host("host.network_received_packets_per_second", (_INTERFACE,), _to("receive")),
        _Host("host.network_sent_packets_per_second", (_INTERFACE,), _to("transmit")),
    ),
    "system.network.errors": (_Host("host.network_errors_per_second", (_INTERFACE, _DIRECTION)),),
    "system.network.dropped": (_Host("host.network_drops_per_second", (_INTERFACE, _DIRECTION)),),
    "system.processes.count": (
        _Host("host.processes_count", (("state", ("status", "process_state")),)),
    ),
    "system.processes.created": (_Host("host.forks_per_second"),),
    "system.uptime": (_Host("host.uptime_seconds", fold="max"),),
}
_SERVED: Final = frozenset({
    "http.server.request.duration", "http.server.duration", "rpc.server.duration", "rpc.server.call.duration",
    "gen_ai.server.request.duration",
})  # fmt: skip
_MADE: Final = frozenset({
    "http.client.request.duration", "http.client.duration", "rpc.client.duration", "rpc.client.call.duration",
    "db.client.operation.duration",
})  # fmt: skip
QUANTILES: Final = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def under(name: str) -> str:
    """Return an attribute name as Prometheus would write it."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return attributes as labels, cut to what a label may hold."""
    out = {}
    for name, value in list(attributes.items())[:_MOST_LABELS]:
        if isinstance(value, bool):
            out[under(name)[:_MOST_TEXT]] = str(value).lower()
        elif isinstance(value, str | int | float):
            out[under(name)[:_MOST_TEXT]] = str(value)[:_MOST_TEXT]
    return out


def resource_labels(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of whoever sends, with a name of its instance."""
    out = texts(resource)
    if not out.get("host_name") and out.get("host_id"):
        out["host_name"] = out["host_id"]
    if "service_instance_id" not in out:
        one = next((out[k] for k in _INSTANCE if out.get(k)), "")
        if one:
            out["service_instance_id"] = one
    return out


def model_edges(labels: Mapping[str, str], names: Names) -> Iterator[Edge]:
    """Yield that a service serves a model, where its resource says so."""
    name = next((labels[k] for k in _MODEL if labels.get(k)), "")
    service = about("target_info", labels, names).get("service")
    if not name or service is None:
        return
    model = Entity("model", name)
    yield Edge("serves", service, model)
    version = next((labels[k] for k in _VERSION if labels.get(k)), "")
    if version:
        yield Edge("version_of", Entity("version", f"{name}/{version}"), model)


def placed(
    header: Header, resource: Mapping[str, str], attributes: Mapping[str, str], names: Names, *,
    own: Entity, fallback: Entity,
) -> Placed | None:  # fmt: skip
    """Return what a stream tells; None = it is left to somebody else.

    resource   labels as `resource_labels` gives them; own: the host that the source `host` looks at
    fallback   who it is about when nobody is named
    """
    unit, scale = UCUM.get(header.unit, ("", 1.0))
    whom = about(header.name, {**attributes, **resource}, names)
    host, service = whom.get("host"), whom.get("service")
    writer = service or host
    if header.name == RECORDS and writer is not None:
        return _logged(writer, attributes)
    found: Placed | None = None
    if header.name in _HOSTS and host is not None:
        found = Placed(tuple(_host(_HOSTS[header.name], host, attributes, scale)))
    elif service is not None:
        found = _of_service(header, service, attributes, scale, names)
    found = found or _scraped(header, whom, attributes, names)
    if found is not None and any(p.series.entity == own for p in found.places):
        return None
    rest = next((whom[k] for k in _WHOM if k in whom), fallback)
    return found or _other(header, attributes, unit, scale, rest)


def _of_service(
    header: Header, service: Entity, attributes: Mapping[str, str], scale: float, names: Names
) -> Placed | None:
    if header.shape in {"histogram", "exponential"}:
        if header.name in _SERVED:
            return _served(service, attributes, scale)
        if header.name in _MADE:
            return _made(service, attributes, scale, names)
        if header.name == "gen_ai.server.time_to_first_token":
            first = Series("service.first_token_p95_seconds", service)
            return Placed(quantiles=((0.95, first),), scale=scale)
    elif header.name == "http.server.active_requests":
        return Placed((Place(Series("service.in_flight_count", service), "value"),))
    return None


def _logged(who: Entity, attributes: Mapping[str, str]) -> Placed:
    """Return what a count of records of one severity tells."""
    written = _series(f"{who.kind}.log_records_per_second", who, attributes)
    bad = float(attributes.get("severity") in {"error", "fatal"})
    return Placed(
        (
            Place(written, "value"),
            Place(Series(f"{who.kind}.log_errors_per_second", who), "value", "add", bad),
            Place(Series(f"{who.kind}.log_error_ratio", who), "value", "share", 1.0, bad),
        )
    )


def _scraped(
    header: Header, whom: Mapping[EntityKind, Entity], attributes: Mapping[str, str], names: Names
) -> Placed | None:
    """Return what a metric means that a collector has scraped from an exporter of Prometheus."""
    for row in PLAIN.get(header.name, ()):
        known = SIGNALS[row.signal]
        one = whom.get(known.entity_kind)  # type: ignore[call-overload]
        if row.whom:
            said = names.service(attributes.get(row.whom, ""))
            one = Entity("service", said) if said else None
        if row.fits(attributes) and one is not None:
            labels = {our: attributes.get(their, "") for our, their in row.labels.items()}
            series = _series(known.rate or known.name, one, {**labels, **row.fixed})
            fold, same = fold_of(row.signal), row.which(attributes)
            return Placed((Place(series, "value", fold, row.scale, same=same),))
    return None


def _host(
    rules: tuple[_Host, ...], host: Entity, attributes: Mapping[str, str], scale: float
) -> Iterator[Place]:
    for rule in rules:
        if all(
            re.fullmatch(want, _first(attributes, tuple(names.split("|"))))
            for names, want in rule.where
        ):
            labels = {ours: _first(attributes, theirs) for ours, theirs in rule.labels}
            yield Place(_series(rule.signal, host, labels), "value", rule.fold, scale)


def _served(service: Entity, attributes: Mapping[str, str], scale: float) -> Placed:
    bad = float(_failed(attributes))
    return Placed(
        (
            Place(Series("service.requests_per_second", service), "count"),
            Place(Series("service.error_ratio", service), "count", "share", 1.0, bad),
        ),
        tuple((q, Series(f"service.latency_{word}_seconds", service)) for q, word in QUANTILES),
        scale,
    )


def _made(
    service: Entity, attributes: Mapping[str, str], scale: float, names: Names
) -> Placed | None:
    where = attributes.get("server_address") or attributes.get("net_peer_name", "")
    if not where:
        return None
    port = attributes.get("server_port") or attributes.get("net_peer_port", "")
    known = names.known.get(where)
    callee = (
        Entity("service", known)
        if known
        else Entity("dependency", f"{where}:{port}" if port else where)
    )
    labels = {"callee": callee.id, "side": "client"}
    places = [
        Place(_series("service.call_requests_per_second", service, labels), "count"),
        Place(_series("service.call_busy_count", service, labels), "sum", scale=scale),
        Place(
            _series("service.call_errors_per_second", service, labels),
            "count",
            scale=float(_failed(attributes)),
        ),
    ]
    return Placed(tuple(places), (), scale, Edge("calls", service, callee))


def _other(
    header: Header, attributes: Mapping[str, str], unit: str, scale: float, whom: Entity
) -> Placed:
    """Give a metric that we have no word for its own name, in base units."""
    value, rate = f"{whom.kind}.other_value", f"{whom.kind}.other_per_second"
    labels = {**attributes, "metric": header.name, **({"unit": unit} if unit else {})}
    if header.shape in {"gauge", "sum"}:
        counted = header.shape == "sum" and header.monotonic
        one = _series(rate if counted else value, whom, labels)
        return Placed((Place(one, "value", "add" if header.shape == "sum" else "mean", scale),))
    quantiles = tuple(
        (q, _series(value, whom, {**labels, "quantile": f"{q:g}"})) for q, _ in QUANTILES
    )
    return Placed(
        (
            Place(_series(rate, whom, {**attributes, "metric": f"{header.name}.count"}), "count"),
            Place(
                _series(rate, whom, {**labels, "metric": f"{header.name}.sum"}), "sum", scale=scale
            ),
        ),
        quantiles,
        scale,
    )


def _failed(attributes: Mapping[str, str]) -> bool:
    status = attributes.get("http_response_status_code") or attributes.get("http_status_code", "")
    if status:
        return status.startswith("5")
    grpc = attributes.get("rpc_grpc_status_code") or attributes.get("rpc_response_status_code", "")
    if grpc:
        return grpc in _GRPC_BAD
    return bool(attributes.get("error_type"))


def _first(attributes: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((attributes[n] for n in names if attributes.get(n)), "")


def _series(metric: str, whom: Entity, labels: Mapping[str, str]) -> Series:
    return Series(metric, whom, tuple(sorted((k, v) for k, v in labels.items() if v)))
