"""What series are, from the catalogue; how the monitor hands it on."""

from __future__ import annotations

import numpy as np
import pytest

from agent.catalogue import SIGNALS
from agent.model import Entity, Frame, Series, Sighting
from agent.monitor import Monitor, Watch
from agent.panel import Panel
from agent.ports import Knowing
from agent.topology import Topology
from agent.traits import GAUGE, RATE, STATE, UNKNOWN, Traits, traits_of
from detectors.bank import Bank

HOST = Entity("host", "h")
UP = Series("host.network_up", HOST, (("interface", "eth0"),))
BUSY = Series("host.core_utilization_ratio", HOST, (("core", "0"),))
MEMORY = Series("host.memory_bytes", HOST, (("use", "free"),))
NICE = Series("process.nice_count", Entity("process", "b/1/2"))


def test_the_catalogue_says_what_series_are():
    traits = traits_of((UP, BUSY, MEMORY, NICE))
    assert traits.kind.tolist() == [STATE, RATE, GAUGE, GAUGE]
    assert traits.floors.tolist() == [0.5, 0.05, 16e6, 1.0]
    np.testing.assert_array_equal(traits.low, [0.0, 0.0, 0.0, -20.0])
    np.testing.assert_array_equal(traits.high, [1.0, np.inf, np.inf, 19.0])


def test_a_signal_that_nobody_defined_is_unknown():
    traits = traits_of((Series("weather.rain_count", HOST), UP))
    assert traits.kind.tolist() == [UNKNOWN, STATE]
    assert traits.floors.tolist() == [0.0, 0.5]
    assert traits.low[0] == -np.inf


def test_floors_that_are_no_numbers_count_as_unknown():
    assert Traits.neutral(3, np.array([np.nan, -1.0, 2.0])).floors.tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize("name", SIGNALS)
def test_limits_leave_room_for_values(name):
    low, high = SIGNALS[name].least, SIGNALS[name].most
    assert low < high
    assert SIGNALS[name].kind != "state" or (low, high) == (0.0, 1.0)


class Told(Bank):
    """A bank that keeps what it was told."""

    def __init__(self, n):
        self.heard = []
        super().__init__(Bank.Config(), n)

    def set_traits(self, traits):
        self.heard.append(traits)
        super().set_traits(traits)


def test_the_monitor_tells_once_for_each_table():
    detector = Told(1)
    watch = Watch(1.0, lambda _s, _n: detector, [])
    one, two = (UP,), (UP, BUSY)
    for ts, table in enumerate((one, one, two, two)):
        watch.take(Frame("host", float(ts), table, np.ones(len(table))))
    assert [t.kind.tolist() for t in detector.heard] == [[STATE], [STATE, RATE]]


def test_a_panel_hands_traits_to_all_who_want_them_and_to_those_made_later():
    made = []

    def others(n):
        made.append(Told(n))
        return {"told": made[-1]}

    panel = Panel(Told(2), others, 2)
    assert isinstance(panel, Knowing)
    panel.set_traits(traits_of((UP, BUSY)))
    assert panel.first.heard == made[0].heard
    panel.load(Bank(Bank.Config(), 2).dump())
    panel.score(0.0, np.ones(2))  # after a load the others are made anew
    assert made[1].traits.kind.tolist() == [STATE, RATE]


def test_the_monitor_finds_peers_by_name_and_topology():
    cards = [Entity("gpu", f"G{i}") for i in range(6)]
    topology = Topology()
    for i, card in enumerate(cards):
        topology.take(Sighting(card, (("name", "H100" if i < 3 else "T4"),)))
    table = tuple(Series("gpu.power_watts", card) for card in cards)
    monitor = Monitor(lambda _s, n: Bank(Bank.Config(), n), (), topology=topology)
    monitor.take(Frame("gpu", 0.0, table, np.ones(6)))
    assert monitor.watches["gpu"].detector.traits.peers.tolist() == [0, 0, 0, 1, 1, 1]
