"""The graph: who is near whom, and what a host does not bridge."""

import time

from agent.config import Service
from agent.model import Edge, Entity, Sighting
from agent.topology import Binding, EdgePattern, Topology

HOST = Entity("host", "h")
SHOP = Entity("service", "shop")
MODEL = Entity("model", "fraud")
FEATURE = Entity("feature", "fraud/amount")
BATCH = Entity("process", "b/1/1")
MASTER = Entity("process", "b/2/2")


def shop() -> Topology:
    topology = Topology()
    topology.link(Edge("runs_on", SHOP, HOST))
    topology.link(Edge("serves", SHOP, MODEL))
    topology.link(Edge("feeds", FEATURE, MODEL))
    topology.take(
        Sighting(BATCH, (("command", "batch"), ("pid", "1")), (Edge("runs_on", BATCH, HOST),))
    )
    topology.take(
        Sighting(MASTER, (("command", "gunicorn"), ("pid", "2")), (Edge("runs_on", MASTER, HOST),))
    )
    return topology


def test_a_feature_reaches_its_service_and_host():
    topology = shop()
    assert topology.nearest(FEATURE, "service") == SHOP
    assert topology.nearest(FEATURE, "host") == HOST
    assert topology.related(SHOP, "feature") == [FEATURE]


def test_what_was_found_is_found_anew_when_the_graph_is_another_one():
    topology = shop()
    other, call = Entity("host", "other"), Edge("calls", SHOP, Entity("service", "store"))
    assert topology.nearest(SHOP, "gpu") is None
    assert call not in topology.edges(SHOP)
    topology.link(Edge("runs_on", SHOP, Entity("gpu", "G")))
    topology.link(call, "traffic", 100.0, lasts_s=10.0)
    assert topology.nearest(SHOP, "gpu") == Entity("gpu", "G")
    assert call in topology.edges(SHOP)
    topology.fade(200.0)
    assert call not in topology.edges(SHOP)
    topology.configure([Edge("runs_on", SHOP, other)], [EdgePattern("runs_on", SHOP.id, HOST.id)])
    assert topology.nearest(SHOP, "host") == other
    topology.take(Sighting(SHOP, gone=True))
    assert topology.edges(MODEL) == [Edge("feeds", FEATURE, MODEL)]


def test_a_host_does_not_make_its_processes_relatives_of_a_service():
    topology = shop()
    assert topology.nearest(BATCH, "service") is None
    assert topology.group(BATCH) == HOST
    assert topology.group(FEATURE) == SHOP


def test_what_is_gone_leaves_with_its_edges():
    topology = shop()
    topology.take(Sighting(BATCH, gone=True))
    assert BATCH not in topology.entities("process")
    assert all(BATCH not in (e.src, e.dst) for e in topology.edges(HOST))


def test_peers_hang_on_the_same_parent():
    topology = Topology()
    gpus = [Entity("gpu", str(i)) for i in range(3)]
    for gpu in gpus:
        topology.link(Edge("runs_on", gpu, HOST))
    assert topology.peers(gpus[0]) == gpus[1:]


def test_binding_by_pidfile_follows_a_restart():
    topology = shop()
    binding = Binding([Service(id="shop", models=["fraud"])], HOST)
    binding.start(topology)
    binding.update(topology, {"shop": 2})
    assert topology.nearest(MASTER, "service") == SHOP
    binding.update(topology, {"shop": 1})
    assert topology.nearest(MASTER, "service") is None
    assert topology.nearest(BATCH, "service") == SHOP


def test_binding_by_port_and_by_command():
    topology = shop()
    topology.take(Sighting(BATCH, (("listen", "80,8080"),)))
    binding = Binding([Service(id="shop", port=8080), Service(id="other", process="guni*")], HOST)
    binding.update(topology, {})
    assert topology.nearest(BATCH, "service") == SHOP
    assert topology.nearest(MASTER, "service") == Entity("service", "other")


# ---- who told it, and until when it holds


STORE = Entity("service", "store")
DB = Entity("dependency", "db:5432")
CALL = Edge("calls", SHOP, STORE)


def test_an_edge_knows_who_told_it():
    topology = shop()
    topology.link(CALL, "mesh", 10.0)
    topology.link(CALL, "traces", 20.0)
    assert [(w.source, w.seen) for w in topology.words(CALL)] == [("mesh", 10.0), ("traces", 20.0)]
    topology.drop("mesh")
    assert CALL in topology.edges(SHOP)
    topology.drop("traces")
    assert topology.words(CALL) == []
    assert CALL not in topology.edges(SHOP)
    assert STORE not in topology.entities()


def test_what_is_not_told_again_fades_and_what_is_stays():
    topology = shop()
    topology.link(CALL, "mesh", 0.0, lasts_s=100.0)
    topology.link(Edge("calls", SHOP, DB), "mesh", 0.0, lasts_s=100.0)
    topology.fade(90.0)
    topology.link(CALL, "mesh", 90.0, lasts_s=100.0)
    topology.fade(120.0)
    assert [e.dst for e in topology.edges(SHOP) if e.kind == "calls"] == [STORE]
    assert DB not in topology.entities()
    topology.fade(1e9)
    assert [e.kind for e in topology.edges(SHOP)] == ["runs_on", "serves"]


def test_an_entity_that_fades_takes_its_edges_with_their_own_time():
    topology = shop()
    pod = Entity("replica", "shop/a")
    edge = Edge("serves", pod, SHOP)
    topology.take(Sighting(pod, (("version", "1"),), (edge,), lasts_s=50.0), "mesh", 0.0)
    topology.fade(40.0)
    assert topology.attrs(pod) == {"version": "1"}
    topology.fade(60.0)
    assert pod not in topology.entities()
    assert edge not in topology.edges(SHOP)


def test_what_a_source_holds_for_good_is_not_shortened_by_its_own_guess():
    topology = shop()
    topology.link(CALL, "connections", 0.0)
    topology.link(CALL, "connections", 10.0, lasts_s=60.0)
    topology.fade(1e6)
    assert CALL in topology.edges(SHOP)


def test_a_clock_that_was_set_makes_nothing_fade():
    topology = shop()
    topology.link(CALL, "mesh", 0.0, lasts_s=100.0)
    topology.fade(50.0)
    topology.rebase(86_400.0)
    topology.fade(86_460.0)
    assert CALL in topology.edges(SHOP)
    topology.fade(86_520.0)
    assert CALL not in topology.edges(SHOP)


def test_a_person_has_the_last_word():
    topology = shop()
    topology.link(CALL, "mesh")
    mine = Edge("calls", SHOP, DB)
    topology.configure([mine], [EdgePattern("", "service:shop", "service:st*")])
    assert CALL not in topology.edges(SHOP)
    topology.link(CALL, "mesh")
    topology.link(CALL, "traces")
    assert CALL not in topology.edges(SHOP)
    assert CALL not in topology.all_edges()
    assert topology.words(mine)[0].source == "agent.yaml"
    topology.take(Sighting(DB, gone=True))
    assert mine in topology.edges(SHOP)
    topology.configure([], [])
    assert CALL in topology.edges(SHOP)
    assert mine not in topology.edges(SHOP)


# ---- kinship, and what one depends on


def gpu_house():
    """fraud/3 on two replicas of shop: a on two GPUs of two hosts, b shares one of them; other uses that one, too."""
    topology = Topology()
    g1, g2 = Entity("gpu", "GPU-1"), Entity("gpu", "GPU-2")
    h1, h2 = Entity("host", "h1"), Entity("host", "h2")
    a, b, c = (Entity("replica", k) for k in ("shop/a", "shop/b", "other/c"))
    version = Entity("version", "fraud/3")
    for edge in (
        Edge("serves", a, SHOP), Edge("serves", b, SHOP), Edge("serves", c, Entity("service", "other")),
        Edge("runs_on", a, g1), Edge("runs_on", a, g2), Edge("runs_on", b, g2), Edge("runs_on", c, g2),
        Edge("runs_on", g1, h1), Edge("runs_on", g2, h2),
        Edge("serves", a, version), Edge("version_of", version, MODEL), Edge("serves", SHOP, MODEL),
        Edge("calls", SHOP, STORE), Edge("calls", STORE, DB),
    ):  # fmt: skip
        topology.link(edge)
    return topology


def test_one_chain_from_the_model_to_the_hosts_of_its_gpus():
    reached = dict(gpu_house().upstream(MODEL))
    assert {e.id for e in reached} >= {
        "version:fraud/3", "replica:shop/a", "gpu:GPU-1", "gpu:GPU-2", "host:h1", "host:h2", "service:shop",
    }  # fmt: skip
    assert Entity("replica", "other/c") not in reached
    assert reached[Entity("version", "fraud/3")] == 1
    assert reached[Entity("host", "h1")] == reached[Entity("gpu", "GPU-1")] + 1


def test_a_service_depends_on_what_it_calls_and_not_on_who_calls_it():
    topology = gpu_house()
    down = dict(topology.upstream(SHOP))
    assert (down[STORE], down[DB]) == (1, 2)
    assert SHOP not in dict(topology.upstream(STORE))
    assert DB not in dict(topology.upstream(SHOP, most_steps=1))


def test_another_service_of_the_same_model_hurts_nobody_through_it():
    topology = gpu_house()
    rival = Entity("service", "rival")
    topology.link(Edge("serves", rival, MODEL))
    assert rival not in dict(topology.upstream(SHOP))
    assert rival in dict(topology.upstream(MODEL))


def test_a_gpu_belongs_to_who_uses_it_and_bridges_nobody():
    topology = gpu_house()
    assert topology.group(Entity("gpu", "GPU-1")) == SHOP
    assert topology.nearest(SHOP, "gpu").kind == "gpu"
    assert {e.id for e in topology.related(SHOP, "host")} == {"host:h1", "host:h2"}
    assert Entity("service", "other") not in topology.related(SHOP, "service")


def test_calling_is_no_kinship():
    topology = gpu_house()
    topology.link(Edge("serves", STORE, Entity("model", "ranking")))
    assert topology.related(SHOP, "model") == [MODEL]
    assert topology.group(DB) == DB
    topology.link(Edge("calls", Entity("service", "web"), STORE))
    assert topology.peers(SHOP) == []


def test_a_large_mesh_is_walked_in_no_time():
    topology = Topology()
    n = 1000
    names = [Entity("service", f"s{i}") for i in range(n)]
    start = time.perf_counter()
    for i, one in enumerate(names):
        for k in range(1, 11):
            topology.link(Edge("calls", one, names[(i * 7 + k) % n]), "mesh", 0.0, 60.0)
    for one in names:
        topology.group(one)
        topology.nearest(one, "host")
    assert len(list(topology.upstream(names[0], 20))) > 900
    topology.fade(1e6)
    assert topology.all_edges() == []
    # quadratic would be minutes
    assert time.perf_counter() - start < 10.0


# ---- restarts


def processes(topology, *pids):
    for one in topology.entities("process"):
        topology.take(Sighting(one, gone=True))
    for pid in pids:
        one = Entity("process", f"b/{pid}/{pid}")
        attrs = (("command", "guni"), ("name", "gunicorn"), ("pgid", str(pid)), ("pid", str(pid)),
                 ("started", "1970-01-01T00:15:00+00:00"))  # fmt: skip
        topology.take(Sighting(one, attrs))


def test_a_service_whose_processes_are_all_new_was_restarted():
    topology = Topology()
    binding = Binding([Service(id="shop", process="guni*")], HOST)
    processes(topology, 5)
    assert binding.update(topology, {}, 100.0) == []
    processes(topology)
    assert binding.update(topology, {}, 890.0) == []
    processes(topology, 6)
    (change,) = binding.update(topology, {}, 905.0)
    assert (change.kind, change.entity, change.ts) == ("restart", SHOP, 900.0)
    assert (change.before, change.after) == ("gunicorn 5", "gunicorn 6")
    assert binding.update(topology, {}, 910.0) == []


def test_one_more_process_or_another_leader_is_no_restart():
    topology = Topology()
    binding = Binding([Service(id="shop", process="guni*")], HOST)
    processes(topology, 5)
    binding.update(topology, {}, 100.0)
    processes(topology, 5, 6)
    assert binding.update(topology, {}, 105.0) == []
    heir = Entity("process", "b/7/7")
    processes(topology, 6)
    topology.take(Sighting(Entity("process", "b/6/6"), gone=True))
    topology.take(Sighting(heir, (("command", "guni"), ("pgid", "6"), ("pid", "7"))))
    assert binding.update(topology, {}, 110.0) == []


def test_a_service_calls_what_its_processes_are_connected_to():
    topology = Topology()
    binding = Binding([Service(id="shop", process="guni*"), Service(id="store", port=9000)], HOST)
    processes(topology, 5)
    (mine,) = topology.entities("process")
    other = Entity("process", "b/9/9")
    topology.take(Sighting(other, (("listen", "9000"), ("pid", "9"))))
    here, there = Entity("dependency", "localhost:9000"), Entity("dependency", "10.0.0.7:5432")
    edges = tuple(Edge("calls", mine, x) for x in (here, there))
    topology.take(Sighting(mine, (("listen", "8080"),), edges, lasts_s=900.0), "connections", 100.0)
    binding.update(topology, {}, 100.0)
    called = {e.dst for e in topology.edges(SHOP) if e.kind == "calls"}
    assert called == {STORE, there}
    topology.fade(2000.0)
    binding.update(topology, {}, 2000.0)
    assert {e.dst for e in topology.edges(SHOP) if e.kind == "calls"} == called
    topology.fade(4000.0)
    assert not [e for e in topology.edges(SHOP) if e.kind == "calls"]
