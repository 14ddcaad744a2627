from agent.graph_past import GraphPast, GraphTape
from agent.model import Edge, Entity, Sighting
from agent.topology import Topology

SHOP, HOST = Entity("service", "shop"), Entity("host", "h")


def test_the_past_of_a_graph_is_what_it_was(tmp_path):
    past, live = GraphPast(tmp_path, 3600.0), Topology()
    gpu, model = Entity("gpu", "g"), Entity("model", "m")
    steps = {
        0.0: lambda: live.take(Sighting(SHOP, (("owner", "a"),), (Edge("runs_on", SHOP, HOST),))),
        10.0: lambda: live.link(Edge("serves", SHOP, model), "x", 10.0, 20.0),
        20.0: lambda: live.take(Sighting(gpu, (("name", "g é"),), (Edge("runs_on", gpu, HOST),))),
        40.0: lambda: live.fade(40.0),
        50.0: lambda: live.take(Sighting(SHOP, (("owner", "b"),))),
        60.0: lambda: live.take(Sighting(gpu, gone=True)),
        400.0: lambda: live.take(Sighting(gpu)),
    }
    seen = {}
    for ts, change in steps.items():
        change()
        past.take(ts, live)
        seen[ts] = live.whole()
    past.close()
    assert len(list(tmp_path.glob("graph-*"))) == 2
    for start in steps:
        tape, again = GraphTape(tmp_path, start), Topology()
        for ts in (t for t in steps if t >= start):
            tape.wind(ts, again)
            assert again.whole() == seen[ts], (start, ts)
    with max(tmp_path.glob("graph-*")).open("a") as file:
        file.write('{"ts":401.0,"seen":[["host')
    tape, again = GraphTape(tmp_path, 0.0), Topology()
    tape.wind(1e9, again)
    assert again.whole() == seen[400.0]


def test_a_disk_that_was_gone_costs_only_what_was_meanwhile(tmp_path):
    folder, live = tmp_path / "history", Topology()
    folder.write_text("no folder")
    past = GraphPast(folder, 3600.0)
    live.take(Sighting(SHOP))
    for ts in (0.0, 1.0, 29.0):
        past.take(ts, live)
    folder.unlink()
    past.take(31.0, live)
    live.take(Sighting(HOST))
    past.take(32.0, live)
    past.close()
    tape, again = GraphTape(folder, 0.0), Topology()
    tape.wind(30.0, again)
    assert again.whole() == ({}, set())
    tape.wind(40.0, again)
    assert again.whole() == live.whole()


def test_what_is_written_can_be_read_ten_seconds_later(tmp_path):
    past, live = GraphPast(tmp_path, 3600.0), Topology()
    live.take(Sighting(SHOP))
    past.take(0.0, live)
    live.take(Sighting(HOST))
    past.take(5.0, live)
    past.take(11.0, live)
    tape, again = GraphTape(tmp_path, 0.0), Topology()
    tape.wind(20.0, again)
    assert again.whole() == live.whole()
    past.close()
