"""Only likes are grouped, and three of them at least."""

from __future__ import annotations

import pytest

from agent.model import Edge, Entity, Series, Sighting
from agent.peers import peers_of
from agent.topology import Topology
from agent.traits import traits_of

HOST = Entity("host", "a")


def cores(metric, n, host=HOST, **labels):
    return [
        Series(metric, host, tuple(sorted({"core": str(i), **labels}.items()))) for i in range(n)
    ]


def disks(*names):
    return [Series("host.disk_busy_ratio", HOST, (("device", name),)) for name in names]


def groups(series, topology=None):
    """Return the groups as sets of positions."""
    found = peers_of(series, topology)
    return [set((found == g).nonzero()[0].tolist()) for g in range(int(found.max(initial=-1)) + 1)]


def test_cores_of_one_host_are_alike_and_two_are_too_few():
    busy, clock = "host.core_utilization_ratio", "host.cpu_frequency_hertz"
    assert groups(cores(busy, 4) + cores(clock, 4)) == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    assert groups(cores(busy, 2)) == []
    other = Entity("host", "b")
    assert groups(cores(busy, 3) + cores(busy, 3, other)) == [{0, 1, 2}, {3, 4, 5}]


def test_other_labels_must_be_the_same():
    both = cores("host.core_mode_ratio", 3, mode="user") + cores(
        "host.core_mode_ratio", 3, mode="iowait"
    )
    assert groups(both) == [{0, 1, 2}, {3, 4, 5}]


def test_disks_of_one_kind_are_alike_and_partitions_are_not_disks():
    names = ("sda", "sdb", "sdaa", "sda1", "nvme0n1", "nvme1n1", "nvme2n1", "nvme0n1p1")
    assert groups(disks(*names)) == [{0, 1, 2}, {4, 5, 6}]
    assert groups(disks("dm-0", "dm-1", "dm-2", "loop0", "loop1", "loop2", "md0")) == []


@pytest.mark.parametrize(
    "series",
    [
        [Series("process.cpu_cores", Entity("process", f"b/{i}/1")) for i in range(4)],
        [Series("service.error_ratio", Entity("service", f"s{i}")) for i in range(4)],
        [Series("feature.missing_ratio", Entity("feature", f"m/f{i}")) for i in range(4)],
        [
            Series("host.network_sent_bytes_per_second", HOST, (("interface", f"eth{i}"),))
            for i in range(4)
        ],
        [Series("host.memory_bytes", HOST, (("use", u),)) for u in ("used", "free", "cached")],
        [Series("gpu.reachable", Entity("gpu", f"G{i}")) for i in range(4)],
        [Series("weather.rain_count", HOST, (("core", str(i)),)) for i in range(4)],
    ],
)
def test_what_only_shares_a_metric_has_no_peers(series):
    assert groups(series) == []
    assert set(traits_of(series).peers.tolist()) == {-1}


def test_hosts_of_one_source_and_replicas_of_one_service_are_alike():
    hosts = [Series("host.load1_count", Entity("host", k)) for k in "abc"]
    assert groups(hosts) == [{0, 1, 2}]
    replicas = [Entity("replica", f"{s}/{i}") for s in ("shop", "pay") for i in range(3)]
    assert groups([Series("process.cpu_cores", e) for e in replicas]) == [{0, 1, 2}, {3, 4, 5}]


def test_gpus_must_be_of_one_host_and_one_product():
    cards = [Entity("gpu", f"G{i}") for i in range(8)]
    topology = Topology()
    for i, card in enumerate(cards):
        where = Entity("host", "a" if i < 6 else "b")
        product = "H100" if i < 3 or i > 5 else "T4"
        topology.take(Sighting(card, (("name", product),), (Edge("runs_on", card, where),)))
    series = [Series("gpu.power_watts", card) for card in cards]
    assert groups(series, topology) == [{0, 1, 2}, {3, 4, 5}]
    assert groups(series) == [set(range(8))]
