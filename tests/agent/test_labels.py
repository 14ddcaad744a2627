"""Labels of scrapes into entities and edges, and a survey that says them again while they are so."""

import math

import numpy as np
import pytest

from agent import graph
from agent.calls import Names
from agent.labels import read, workload
from agent.model import Edge, Entity, Frame
from agent.rates import Rates
from agent.survey import TARGETS_LAST_S, Survey
from agent.topology import Topology
from agent.world import World

UUID = "GPU-1c2d3e4f-1111-2222-3333-444455556666"
POD = {
    "job": "default/checkout",
    "namespace": "shop",
    "pod": "checkout-7d9f8b6c5d-x2x4z",
    "node": "n1",
}
CHECKOUT = Entity("service", "checkout")
REPLICA = Entity("replica", "checkout/checkout-7d9f8b6c5d-x2x4z")


def edges(metric, labels, names=None):
    return {(e.kind, e.src.id, e.dst.id) for e in read(metric, labels, names).edges}


@pytest.mark.parametrize(
    ("pod", "name"),
    [
        ("checkout-7d9f8b6c5d-x2x4z", "checkout"), ("db-0", "db"), ("kube-proxy-x7k2p", "kube-proxy"),
        ("cart", "cart"), ("payment-service-x7k2p", "payment-service"),
        ("vllm-llama-3-8b-5f7d8c9b4-x2x4z", "vllm-llama-3-8b"), ("my-shop", "my-shop"),
    ],
)  # fmt: skip
def test_a_pod_is_one_of_a_workload(pod, name):
    assert workload(pod) == name


def test_a_pod_serves_its_service_on_its_node():
    assert edges("http_requests_total", POD) == {
        ("serves", REPLICA.id, "service:checkout"), ("runs_on", REPLICA.id, "host:n1"),
    }  # fmt: skip


def test_a_plain_target_is_a_replica_of_its_job():
    told = edges("http_requests_total", {"job": "scoring", "instance": "10.0.0.1:8080"})
    assert told == {("serves", "replica:scoring/10.0.0.1:8080", "service:scoring")}


def test_the_app_label_is_more_telling_than_the_job():
    told = edges("up", {"job": "kubernetes-pods", "app": "cart", "instance": "10.0.0.1:80"})
    assert told == {("serves", "replica:cart/10.0.0.1:80", "service:cart")}


def test_an_exporter_is_not_what_it_tells_of():
    host = {"job": "node-exporter", "instance": "web-1:9100", "pod": "node-exporter-x7k2p"}
    assert read("node_cpu_seconds_total", host).edges == ()
    pod = {"job": "kube-state-metrics", "pod": "cart-0", "namespace": "shop", "node": "n2",
           "instance": "10.1.1.1:8080"}  # fmt: skip
    assert edges("kube_pod_info", pod) == {
        ("serves", "replica:cart/cart-0", "service:cart"), ("runs_on", "replica:cart/cart-0", "host:n2"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("job", "tells"),
    [
        ("node-exporter", True), ("kubernetes-nodes-cadvisor", True),
        ("monitoring/kube-state-metrics", True), ("dcgm-exporter", True), ("nodes", True), ("kubelet", True),
        ("nodejs-api", False), ("node-api", False), ("collector-of-orders", False), ("shop", False),
    ],
)  # fmt: skip
def test_which_jobs_tell_of_others(job, tells):
    named = read("http_requests_total", {"job": job, "instance": "10.0.0.1:80"}).entities
    assert (named == set()) == tells


def test_a_gpu_its_host_and_who_uses_it():
    labels = {
        "gpu": "0", "UUID": UUID, "modelName": "NVIDIA A100", "Hostname": "n1", "job": "dcgm-exporter",
        "pod": "dcgm-exporter-x7k2p", "exported_pod": "vllm-0", "exported_namespace": "ml",
    }  # fmt: skip
    assert edges("DCGM_FI_DEV_GPU_UTIL", labels) == {
        ("runs_on", f"gpu:{UUID}", "host:n1"), ("runs_on", "replica:vllm/vllm-0", f"gpu:{UUID}"),
        ("serves", "replica:vllm/vllm-0", "service:vllm"), ("runs_on", "replica:vllm/vllm-0", "host:n1"),
    }  # fmt: skip
    idle = {k: v for k, v in labels.items() if not k.startswith("exported")}
    assert edges("DCGM_FI_DEV_GPU_UTIL", idle) == {("runs_on", f"gpu:{UUID}", "host:n1")}


@pytest.mark.parametrize(
    ("metric", "label"),
    [("GPU_UTIL", "DCGM_FI_DRIVER_VERSION"), ("GPU_UTIL_RATIO", "DCGM_FI_SYSTEM_DRIVER_VERSION")],
)
def test_a_gpu_tells_the_driver_of_its_host(metric, label):
    told = read(f"DCGM_FI_DEV_{metric}", {"UUID": UUID, "hostname": "n1", label: "595.45"})
    assert (Entity("host", "n1"), "driver", "595.45") in told.attrs


def test_a_bare_uuid_is_a_gpu_and_other_uuids_are_not():
    told = read("nvidia_smi_utilization_gpu_ratio", {"uuid": UUID[4:], "instance": "n3:9835"})
    assert told.edges == (Edge("runs_on", Entity("gpu", UUID), Entity("host", "n3")),)
    assert not [e for e in read("volume_bytes", {"uuid": "a-b"}).entities if e.kind == "gpu"]


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        ("nv_inference_request_success", {"model": "fraud", "version": "3"}),
        ("vllm:num_requests_running", {"model_name": "fraud", "model_version": "3"}),
        (":tensorflow:serving:request_count", {"model_name": "fraud", "model_version": "3"}),
        ("ts_inference_requests_total", {"model_name": "fraud", "model_version": "3"}),
    ],
)
def test_model_version_replica_and_service_are_one_chain(metric, labels):
    told = edges(metric, POD | labels)
    assert {
        ("version_of", "version:fraud/3", "model:fraud"), ("serves", REPLICA.id, "version:fraud/3"),
        ("serves", "service:checkout", "model:fraud"),
    } <= told  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "labels", "model", "version"),
    [
        ("model_infer_request_success_total", {"model": "fraud", "version": "v3"}, "fraud", "v3"),
        ("request_predict_seconds_count", {"model_name": "fraud"}, "fraud", None),
        # who asked for no version got whichever there is
        ("ts_inference_requests_total", {"model_name": "fraud", "model_version": "default"}, "fraud", None),
    ],
)  # fmt: skip
def test_models_and_versions_of_other_servers(metric, labels, model, version):
    told = edges(metric, POD | labels)
    serves = f"version:{model}/{version}" if version else f"model:{model}"
    assert ("serves", REPLICA.id, serves) in told
    assert version is not None or not [e for e in told if e[0] == "version_of"]


def test_servers_of_a_balancer_and_containers_of_docker_are_replicas():
    proxy = {"proxy": "shop", "server": "s1", "state": "UP", "job": "haproxy", "instance": "lb:8404"}  # fmt: skip
    assert edges("haproxy_server_status", proxy) == {("serves", "replica:shop/s1", "service:shop")}
    docker = {"name": "proj-cart-2", "image": "cart:2", "job": "cadvisor", "instance": "n1:8080"}
    assert edges("container_cpu_usage_seconds_total", docker) == {
        ("serves", "replica:proj-cart/proj-cart-2", "service:proj-cart"),
    }  # fmt: skip
    said = {"container_label_com_docker_compose_service": "cart"}
    assert edges("container_cpu_usage_seconds_total", docker | said) == {
        ("serves", "replica:cart/proj-cart-2", "service:cart"),
    }  # fmt: skip


def test_the_make_of_a_disk_is_no_model():
    told = read("smartctl_device", {"job": "smartctl", "model": "WD Red", "instance": "n1:9633"})
    assert not {e.kind for e in told.entities} & {"model", "version"}


@pytest.mark.parametrize(
    ("metric", "labels", "version"),
    [
        ("up", {"version": "v2"}, "v2"),
        ("checkout_build_info", {"version": "1.4.2", "goversion": "go1.22"}, "1.4.2"),
        ("kube_pod_container_info", {"image": "shop/checkout:1.4.2"}, "shop/checkout:1.4.2"),
        ("target_info", {"service_version": "1.4.2", "telemetry_sdk_version": "1.2"}, "1.4.2"),
    ],
)
def test_a_release_is_read_off_what_describes_the_target(metric, labels, version):
    attrs = {(e, k): v for e, k, v in read(metric, POD | labels).attrs}
    assert attrs[CHECKOUT, "version"] == attrs[REPLICA, "version"] == version


@pytest.mark.parametrize(
    "metric", ["go_info", "python_info", "http_requests_total", "tls_handshakes"]
)
def test_versions_of_languages_and_protocols_are_no_release(metric):
    assert read(metric, POD | {"version": "1.22"}).attrs == ()


def test_the_kernel_and_the_driver_belong_to_the_host():
    host = {"job": "node-exporter", "instance": "n1:9100", "release": "6.1.0"}
    assert read("node_uname_info", host).attrs == ((Entity("host", "n1"), "kernel", "6.1.0"),)


def test_names_and_namespaces():
    assert ("serves", REPLICA.id.replace("checkout/", "till/", 1), "service:till") in edges(
        "up", POD, Names({"checkout": "till"})
    )
    told = edges("up", POD, Names(qualify=True))
    assert ("runs_on", "replica:shop/checkout/checkout-7d9f8b6c5d-x2x4z", "host:n1") in told


# ---- the survey


def walk(topology, survey, ts, values):
    _, seen = survey.look(ts, np.array(values))
    for sighting in seen:
        topology.take(sighting, "prometheus", ts)
    topology.fade(ts)
    return seen


CALL = ("traces_service_graph_request_total", {"client": "checkout", "server": "pay"})


def test_a_deployment_moves_the_graph():
    topology, survey = Topology(), Survey()
    old, new = POD | {"version": "v1"}, POD | {"pod": "checkout-9c9c9c9c9c-bbbbb", "version": "v2"}
    fresh = Entity("replica", "checkout/checkout-9c9c9c9c9c-bbbbb")
    survey.table([("up", old)])
    walk(topology, survey, 1000.0, [1.0])
    assert topology.attrs(CHECKOUT)["version"] == "v1"
    survey.table([("up", old), ("up", new)])
    walk(topology, survey, 1030.0, [1.0, 1.0])
    assert topology.attrs(CHECKOUT)["version"] == "v1,v2"
    assert topology.peers(fresh) == [REPLICA]
    survey.table([("up", new)])
    for ts in np.arange(1060.0, 1100.0 + TARGETS_LAST_S, 30.0):
        walk(topology, survey, float(ts), [1.0])
    assert topology.attrs(CHECKOUT)["version"] == "v2"
    assert topology.entities("replica") == [fresh]


def test_a_call_that_nobody_makes_any_more_fades_and_one_that_is_made_stays():
    topology, survey = Topology(), Survey(calls_last_s=600.0)
    pay = Entity("service", "pay")
    survey.table(
        [CALL, ("traces_service_graph_request_total", {"client": "checkout", "server": "old"})]
    )
    for i in range(100):
        walk(topology, survey, 1000.0 + 15 * i, [float(i + 1), 7.0])
    assert [e.dst for e in topology.edges(CHECKOUT)] == [pay]
    assert Entity("service", "old") not in topology.entities("service")
    (word,) = topology.words(topology.edges(CHECKOUT)[0])
    assert word.source == "prometheus"
    assert 1000.0 + 15 * 99 - word.seen <= 60.0


def test_calls_are_counted_while_pods_come_and_go():
    """What counts is what each pod's counter gained: one that leaves takes nothing from the calls."""
    survey = Survey()
    other = (CALL[0], CALL[1] | {"pod": "b"})
    survey.table([CALL, other])
    got = [
        survey.look(1.0, np.array([500.0, 900.0]))[0],
        survey.look(2.0, np.array([510.0, 905.0]))[0],
    ]
    assert [s.metric for s in survey.series] == ["service.call_requests_total"]
    survey.table([("up", POD), CALL])
    values, seen = survey.look(3.0, np.array([1.0, 530.0]))
    assert REPLICA in {s.entity for s in seen}
    got.append(values)
    got.append(survey.look(4.0, np.array([1.0, math.nan]))[0])
    got.append(survey.look(5.0, np.array([1.0, 540.0]))[0])
    survey.table([("up", POD), CALL, other])
    got.append(survey.look(6.0, np.array([1.0, 541.0, 40.0]))[0])
    got.append(survey.look(7.0, np.array([1.0, 3.0, 41.0]))[0])
    assert np.array_equal(
        np.concatenate(got), [0.0, 15.0, 35.0, math.nan, 45.0, 46.0, 50.0], equal_nan=True
    )


def test_it_is_quiet_between_the_minutes_and_reads_a_label_set_once(monkeypatch):
    read_ = []
    monkeypatch.setattr("agent.survey.read_labels", lambda *a: read_.append(a) or read(*a))
    survey = Survey()
    survey.table([("up", POD)])
    survey.table([("up", POD), ("up", POD | {"pod": "checkout-0"})])
    assert len(read_) == 2
    assert survey.look(100.0, np.ones(2))[1]
    assert survey.look(115.0, np.ones(2))[1] == ()
    assert survey.look(160.0, np.ones(2))[1]


def test_a_label_of_many_values_is_no_version():
    survey = Survey()
    survey.table([("up", POD | {"pod": f"checkout-{i}", "version": str(i)}) for i in range(20)])
    _, seen = survey.look(1.0, np.ones(20))
    assert dict(next(s for s in seen if s.entity == CHECKOUT).attrs)["version"] == ""


def test_from_the_counters_of_a_mesh_to_what_an_edge_carries():
    """Through the rates of the collector and the world, as a connector's frames go."""
    survey, rates, world = Survey(), Rates(), World()
    failed = ("traces_service_graph_request_failed_total", CALL[1])
    spent = ("traces_service_graph_request_client_seconds_sum", CALL[1])
    survey.table([CALL, failed, spent])
    for i in range(4):
        values, seen = survey.look(100.0 + 15 * i, np.array([600.0 * i, 30.0 * i, 45.0 * i]))
        frame = Frame("mesh", 100.0 + 15 * i, survey.series, values, seen)
        world.take(rates.apply(frame, 100.0 + 15 * i))
    view = graph.view(world, (), lambda e: e.key)
    (edge,) = view["edges"]
    assert (edge["src"], edge["dst"]) == ("service:checkout", "service:pay")
    assert edge["carries"] == {"requests": 40.0, "errors": 2.0, "busy": 3.0}
    assert edge["sources"][0]["source"] == "mesh"
