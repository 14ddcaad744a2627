"""The graph: who is near whom, and what a host does not bridge."""

from agent.config import Service
from agent.model import Edge, Entity, Sighting
from agent.topology import Binding, Topology

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
