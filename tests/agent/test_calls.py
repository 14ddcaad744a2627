"""Call edges read off the metrics of others: their real label sets in, our edges and signals out."""

import math

import numpy as np
import pytest

from agent.calls import DIALECTS, RULES, SIGNAL, Names, Tally, read
from agent.catalogue import SIGNALS
from agent.model import Edge, Entity

ISTIO = {
    "reporter": "source", "source_workload": "productpage-v1", "source_canonical_service": "productpage",
    "source_workload_namespace": "default", "destination_workload": "reviews-v2",
    "destination_canonical_service": "reviews", "destination_canonical_revision": "v2",
    "destination_service": "reviews.default.svc.cluster.local", "destination_service_name": "reviews",
    "destination_workload_namespace": "default", "request_protocol": "http", "response_code": "200",
    "response_flags": "-", "connection_security_policy": "unknown",
}  # fmt: skip
TRACES = {"client": "frontend", "server": "cart", "connection_type": ""}
ENVOY = {
    "envoy_cluster_name": "outbound|9080||reviews.shop.svc.cluster.local",
    "app": "productpage",
}
SERVER_SIDE = ISTIO | {"reporter": "destination"}
FAILED = ENVOY | {"envoy_response_code_class": "5"}
LINKERD = {"direction": "outbound", "deployment": "web", "namespace": "emojivoto", "dst_deployment": "voting",
           "dst_namespace": "emojivoto"}  # fmt: skip


def service(name):
    return Entity("service", name)


@pytest.mark.parametrize(
    ("metric", "labels", "src", "dst", "side", "what", "scale"),
    [
        ("istio_requests_total", ISTIO, "productpage", "reviews", "client", "requests", 1.0),
        ("istio_requests_total", SERVER_SIDE, "productpage", "reviews", "server", "requests", 1.0),
        ("istio_request_duration_milliseconds_sum", ISTIO, "productpage", "reviews", "client", "seconds", 1e-3),
        ("traces_service_graph_request_total", TRACES, "frontend", "cart", "client", "requests", 1.0),
        ("traces_service_graph_request_failed_total", TRACES, "frontend", "cart", "client", "errors", 1.0),
        ("traces_service_graph_request_server_seconds_sum", TRACES, "frontend", "cart", "server", "seconds", 1.0),
        ("envoy_cluster_upstream_rq_total", ENVOY, "productpage", "reviews", "client", "requests", 1.0),
        ("envoy_cluster_upstream_rq_time_sum", ENVOY, "productpage", "reviews", "client", "seconds", 1e-3),
        ("envoy_cluster_upstream_rq_xx", FAILED, "productpage", "reviews", "client", "errors", 1.0),
        ("request_total", LINKERD, "web", "voting", "client", "requests", 1.0),
        ("response_total", LINKERD | {"classification": "failure"}, "web", "voting", "client", "errors", 1.0),
    ],
)  # fmt: skip
def test_each_dialect_is_read(metric, labels, src, dst, side, what, scale):
    call = read(metric, labels)
    assert call is not None
    assert call.edge == Edge("calls", service(src), service(dst))
    assert (call.side, call.scale) == (side, scale)
    (series,) = call.counts
    assert (series.metric, series.entity) == (SIGNAL[what], service(src))
    assert dict(series.labels) == {"callee": f"service:{dst}", "side": side}


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("node_cpu_seconds_total", {"cpu": "0"}),
        ("istio_requests_total", {"reporter": "source"}),
        ("istio_requests_total", {k: v for k, v in ISTIO.items() if not k.startswith("source")}),
        ("istio_requests_total", {k: ("unknown" if k.startswith("source") else v) for k, v in ISTIO.items()}),
        ("istio_requests_total", ISTIO | {"reporter": "somebody"}),
        ("traces_service_graph_request_total", {"client": "user", "server": "cart", "connection_type": "virtual_node"}),
        ("traces_service_graph_request_total", {"client": "cart", "server": "cart"}),
        ("envoy_cluster_upstream_rq_total", ENVOY | {"envoy_cluster_name": "xds-grpc"}),
        ("envoy_cluster_upstream_rq_total", ENVOY | {"envoy_cluster_name": "prometheus_stats"}),
        ("envoy_cluster_upstream_rq_total", ENVOY | {"envoy_cluster_name": "PassthroughCluster"}),
        ("envoy_cluster_upstream_rq_total", ENVOY | {"envoy_cluster_name": "inbound|9080||"}),
        ("envoy_cluster_upstream_rq_total", {"envoy_cluster_name": "cart"}),
        ("envoy_cluster_upstream_rq_xx", ENVOY | {"envoy_response_code_class": "2"}),
        ("request_total", LINKERD | {"direction": "inbound"}),
        ("request_total", {"deployment": "web"}),
        ("response_total", LINKERD | {"classification": "success"}),
    ],
)  # fmt: skip
def test_what_is_no_call_is_none(metric, labels):
    assert read(metric, labels) is None


def counted(labels):
    """What a request that Istio counted is, by the signals it adds to."""
    names = {signal: what for what, signal in SIGNAL.items()}
    return [names[s.metric] for s in read("istio_requests_total", labels).counts]


@pytest.mark.parametrize("code", ["500", "503", "0"])
def test_a_failed_request_of_istio_is_an_error_and_a_request(code):
    assert counted(ISTIO | {"response_code": code}) == ["errors", "requests"]
    assert counted(ISTIO | {"response_code": "404"}) == ["requests"]
    grpc = ISTIO | {"request_protocol": "grpc", "grpc_response_status": "14"}
    assert counted(grpc) == ["errors", "requests"]
    assert counted(grpc | {"grpc_response_status": "0"}) == ["requests"]


@pytest.mark.parametrize(
    ("cluster", "callee"),
    [
        ("outbound|80|v1|cart.shop.svc.cluster.local", "service:cart"),
        ("outbound|443||api.stripe.com", "dependency:api.stripe.com"),
        ("default/kuard/80/da39a3ee5e", "service:kuard"),
        ("web.default.dc1.internal.0a1b2c3d-1111-2222-3333-444455556666.consul", "service:web"),
        ("recommendation", "service:recommendation"),
        ("10.0.0.7:5432", "dependency:10.0.0.7:5432"),
    ],
)
def test_cluster_names_of_envoy(cluster, callee):
    labels = {"envoy_cluster_name": cluster, "app": "frontend"}
    assert read("envoy_cluster_upstream_rq_total", labels).edge.dst.id == callee


def test_an_outside_host_of_istio_is_a_dependency():
    outbound = "outbound|443||api.stripe.com"
    call = read("envoy_cluster_upstream_rq_total", {"envoy_cluster_name": outbound, "job": "shop"})
    assert call.edge.dst == Entity("dependency", "api.stripe.com")


@pytest.mark.parametrize("kind", ["database", "messaging_system"])
def test_stores_are_dependencies(kind):
    labels = {"client": "cart", "server": "redis", "connection_type": kind}
    assert read("traces_service_graph_request_total", labels).edge.dst == Entity(
        "dependency", "redis"
    )


def test_names_of_labels_become_service_ids():
    names = Names({"frontend": "shop", "cart-*": "cart", "api.stripe.com": "stripe"})
    labels = {"client": "frontend", "server": "cart-blue"}
    call = read("traces_service_graph_request_total", labels, names)
    assert (call.edge.src.key, call.edge.dst.key) == ("shop", "cart")
    labels = {"client": "a", "server": "api.stripe.com"}
    assert read("traces_service_graph_request_total", labels, names).edge.dst == service("stripe")


def test_namespaces_tell_two_services_of_one_name_apart():
    names = Names(qualify=True)
    there = ISTIO | {"destination_workload_namespace": "prod", "source_workload_namespace": "test"}
    call = read("istio_requests_total", there, names)
    assert (call.edge.src.key, call.edge.dst.key) == ("test/productpage", "prod/reviews")


def test_every_rule_names_a_signal_and_a_dialect_that_there_is():
    for rule in RULES.values():
        assert rule.dialect in DIALECTS
        definition = SIGNALS[SIGNAL[rule.what]]
        assert (definition.kind, definition.entity_kind) == ("counter", "service")


# ---- adding up


def istio(code="200", pod="a", **more):
    return read("istio_requests_total", ISTIO | {"response_code": code, "pod": pod} | more)


def at(tally, signal, values):
    (j,) = [i for i, s in enumerate(tally.series) if s.metric == signal]
    return values[j]


ZERO = np.zeros


def test_pods_and_codes_are_one_call():
    tally = Tally([istio(), None, istio(pod="b"), istio("503")])
    out = tally.gains(ZERO(4), np.array([10.0, 99.0, 5.0, 2.0]))
    assert at(tally, "service.call_requests_total", out) == 17.0
    assert at(tally, "service.call_errors_total", out) == 2.0


def test_what_did_not_answer_is_unknown_and_adds_nothing():
    tally = Tally([istio(), istio(pod="b")])
    assert tally.gains(ZERO(2), np.array([math.nan, 5.0]))[0] == 5.0
    assert np.isnan(tally.gains(ZERO(2), np.array([math.nan, math.nan]))).all()


def test_a_counter_that_was_reset_counts_from_zero_and_a_new_one_from_where_it_is():
    tally = Tally([istio()])
    assert tally.gains(np.array([1000.0]), np.array([7.0]))[0] == 7.0
    assert tally.gains(np.array([math.nan]), np.array([7000.0]))[0] == 0.0


def test_milliseconds_become_seconds():
    tally = Tally([read("istio_request_duration_milliseconds_sum", ISTIO)])
    assert tally.gains(ZERO(1), np.array([1500.0]))[0] == 1.5


def test_a_call_that_two_dialects_count_is_counted_once():
    envoy = read("envoy_cluster_upstream_rq_total", ENVOY)
    tally = Tally([istio(), envoy])
    assert tally.gains(ZERO(2), np.array([10.0, 1000.0])).tolist() == [10.0]
    assert Tally([envoy]).gains(ZERO(1), np.array([1000.0])).tolist() == [1000.0]


def test_only_edges_whose_counters_move_are_in_use():
    idle = read("traces_service_graph_request_total", {"client": "a", "server": "b"})
    tally = Tally([istio(), idle])
    row = np.array([10.0, 5.0])
    assert set(tally.moved(np.array([math.nan, math.nan]), row)) == set(tally.edges)
    assert tally.moved(row, np.array([11.0, 5.0])) == [istio().edge]
    assert tally.moved(row, np.array([math.nan, 5.0])) == []
    assert tally.moved(np.array([math.nan, math.nan]), np.array([0.0, 0.0])) == []


def test_nothing_in_nothing_out():
    tally = Tally([None, None])
    assert tally.series == ()
    assert tally.gains(np.zeros(2), np.zeros(2)).shape == (0,)
    assert tally.moved(np.zeros(2), np.ones(2)) == []
