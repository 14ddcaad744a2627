"""The graph as people see it."""

import math
import time

import numpy as np
import pytest
from desk_story import ALCOHOL, BATCH, HOST, MODEL, V3, WINE, WORKERS, Story

from agent import graph
from agent.model import Edge, Entity, Frame, Series, Sighting
from agent.topology import EdgePattern
from agent.world import World

CART = Entity("service", "cart")


@pytest.fixture
def story(tmp_path):
    made = Story(tmp_path / "state")
    yield made
    made.close()


def carry(world, *, side="client", requests=40.0, errors=2.0, ts=None):
    labels = (("callee", WINE.id), ("side", side))
    series = tuple(sorted(
        Series(f"service.call_{what}_per_second", CART, labels) for what in ("requests", "errors")
    ))  # fmt: skip
    values = np.array([{"requests": requests, "errors": errors}[s.metric.split("_")[1]] for s in series])  # fmt: skip
    world.topology.link(Edge("calls", CART, WINE), "mesh", world.now - 10.0, 600.0)
    world.take(Frame(f"mesh {side}", ts or world.now, series, values))


def nodes(view):
    return {n["id"]: n for n in view["nodes"]}


def test_who_is_ill_who_is_suspected_and_who_is_silent(story):
    found = nodes(story.desk.topology())
    assert (found[WINE.id]["state"], found[WINE.id]["incident"]) == ("page", "inc-7f3a99e0")
    assert found[BATCH.id]["suspect"]
    assert not found[WINE.id]["suspect"]
    assert found[HOST.id]["state"] == "note"
    assert found[MODEL.id]["state"] == "well"
    assert found[V3.id]["state"] == "silent"
    assert found[ALCOHOL.id]["state"] == "note"  # ill features are shown, well ones are not


def test_what_is_stale_is_silent_and_not_well(story):
    world = story.hooks.world
    world.patience["models"] = 10.0
    world.now += 60.0
    assert nodes(story.desk.topology())[MODEL.id]["state"] == "silent"


def test_an_edge_says_who_told_it_and_what_it_carries(story):
    carry(story.hooks.world)
    (edge,) = [e for e in story.desk.topology()["edges"] if e["kind"] == "calls"]
    assert edge["carries"] == {"requests": 40.0, "errors": 2.0}
    assert edge["sources"] == [{"source": "mesh", "age_s": 10.0, "fades_s": 590.0}]


def test_the_view_of_the_caller_counts_and_that_of_the_callee_where_it_is_alone(story):
    world = story.hooks.world
    carry(world, side="server", requests=30.0)
    assert story.desk.topology()["edges"][0]["carries"]["requests"] == 30.0
    carry(world, requests=40.0, errors=math.nan)
    edge = story.desk.topology()["edges"][0]
    assert edge["carries"] == {"requests": 40.0, "errors": 2.0}


def test_every_edge_joins_two_nodes_that_are_shown(story):
    carry(story.hooks.world)
    for kw in ({}, {"everything": True}, {"target": "service:wine"}, {"target": "cart"}):
        view = story.desk.topology(**kw)
        ids = set(nodes(view))
        assert view["edges"]
        assert all(e["src"] in ids and e["dst"] in ids for e in view["edges"])
        keys = [(e["kind"], e["src"], e["dst"]) for e in view["edges"]]
        assert len(keys) == len(set(keys))


def test_the_first_picture_leaves_out_what_serves_nobody(story):
    topology = story.hooks.world.topology
    idle = Entity("process", "b00t/7/7")
    old = Entity("version", "wine/1")
    topology.take(Sighting(idle, (), (Edge("runs_on", idle, HOST),)))
    topology.take(Sighting(old, (("serving", "no"),), (Edge("version_of", old, MODEL),)))
    found = nodes(story.desk.topology())
    assert WORKERS.id in found
    assert idle.id not in found
    assert old.id not in found
    assert {idle.id, old.id} <= set(nodes(story.desk.topology(everything=True)))


def test_what_is_left_without_edges_by_a_person_is_not_shown(story):
    topology = story.hooks.world.topology
    db = Entity("dependency", "db:5432")
    topology.link(Edge("calls", WINE, db), "mesh")
    assert db.id in nodes(story.desk.topology())
    topology.configure([], [EdgePattern("", "*", "dependency:db:*")])
    assert db.id not in nodes(story.desk.topology())


def test_the_part_around_one_is_its_kin_its_needs_and_its_callers(story):
    carry(story.hooks.world)
    far = Entity("service", "far")
    story.hooks.world.topology.link(Edge("calls", far, CART))
    around = set(nodes(story.desk.topology("service:wine")))
    assert {WINE.id, MODEL.id, HOST.id, WORKERS.id, CART.id} <= around
    assert far.id not in around


def test_too_many_are_left_out_and_the_ill_ones_are_not():
    world = World()
    for i in range(2000):
        caller, callee = (Entity("service", f"s{k:04}") for k in (i, (i * 7) % 2000))
        world.topology.link(Edge("calls", caller, callee))
    start = time.perf_counter()
    view = graph.view(world, (), lambda e: e.key)
    assert time.perf_counter() - start < 2.0
    assert (len(view["nodes"]), view["left_out"]) == (graph.MOST_NODES, 2000 - graph.MOST_NODES)
    assert nodes(graph.view(world, (), lambda e: e.key, about=Entity("service", "s1999")))["service:s1999"]  # fmt: skip
