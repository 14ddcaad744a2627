"""One trouble, one incident, one life: states, flapping, storms, duplicates, merges, late roots, restarts."""

import math
from dataclasses import replace

import pytest

from agent.alerts import Alerts, subject
from agent.codec import pack, unpack
from agent.correlate import MOST_ANOMALIES, Correlator
from agent.errors import Refused
from agent.life import MOST_TURNS, TRANSITIONS, acknowledged_by, turned
from agent.model import Anomaly, Cause, Diagnosis, Edge, Entity, Incident, Series, Sighting
from agent.ports import Signal
from agent.topology import Topology
from agent.world import World

HOST, SHOP, STORE = Entity("host", "h"), Entity("service", "shop"), Entity("service", "store")
BATCH = Entity("process", "b/1/1")
P95, STORE_P95 = (Series("service.latency_p95_seconds", e) for e in (SHOP, STORE))
CPU = Series("host.cpu_busy_ratio", HOST)


def bad(series=P95, onset=100.0, end=None, road="objective", harm=True, deviations=5.0):
    return Anomaly(
        series, onset, end, 0.0, 1, 1.0, math.nan, 0.5, 0.5, deviations, road,
        "too slow" if road == "objective" else "level", harm,
    )  # fmt: skip


def graph(*, calls=False):
    topology = Topology()
    for service in (SHOP, STORE):
        topology.link(Edge("runs_on", service, HOST))
    topology.link(Edge("runs_on", BATCH, HOST))
    if calls:
        topology.link(Edge("calls", SHOP, STORE))
    return topology


def correlator(topology=None, **kw):
    return Correlator(topology or graph(), 60.0, 20.0, 40.0, **kw)


def named(incident, kind, entity, probability=0.9):
    return replace(incident, diagnosis=Diagnosis(0.0, (Cause(kind, entity, probability),)))


# ---- the table


def test_every_state_is_reached_and_left_by_the_table_and_by_nothing_else():
    states = {"open", "acknowledged", "mitigated", "resolved"}
    assert set(TRANSITIONS.values()) == states
    assert {before for before, _ in TRANSITIONS if before} == states
    i = turned(Incident("i", 0, 0, "open", "page", "t"), "opened", 1.0, "homeostat", "slow")
    for before in states:
        here = replace(i, state=before)
        for event in ("acknowledged", "mitigated", "relapsed", "resolved", "merged", "reopened"):
            if (before, event) in TRANSITIONS:
                after = turned(here, event, 2.0, "olga", "because")
                assert after.state == TRANSITIONS[before, event]
                last = after.turns[-1]
                assert (last.ts, last.event, last.state, last.by, last.why) == (
                    2.0, event, after.state, "olga", "because",
                )  # fmt: skip
            else:
                with pytest.raises(Refused, match=f"is {before}"):
                    turned(here, event, 2.0, "olga", "because")


def test_who_has_taken_it_stays_known_through_a_relapse_but_not_into_another_life():
    i = turned(Incident("i", 0, 0, "open", "page", "t"), "opened", 1.0, "homeostat", "slow")
    for event in ("acknowledged", "mitigated", "relapsed"):
        i = turned(i, event, 2.0, "olga", "")
    assert (i.state, acknowledged_by(i).by) == ("acknowledged", "olga")
    for event in ("resolved", "reopened", "mitigated", "relapsed"):
        i = turned(i, event, 3.0, "homeostat", "")
    assert (i.state, acknowledged_by(i)) == ("open", None)


def test_the_history_of_a_life_is_bounded_and_keeps_its_opening():
    i = turned(Incident("i", 0, 0, "open", "page", "t"), "opened", 1.0, "homeostat", "slow")
    for n in range(200):
        i = turned(i, "mitigated" if n % 2 == 0 else "relapsed", float(n), "homeostat", "")
    assert len(i.turns) == MOST_TURNS
    assert (i.turns[0].event, i.turns[-1].ts) == ("opened", 199.0)
    assert unpack(Incident, pack(i)) == i


# ---- one life


def test_a_life_is_told_turn_by_turn():
    c = correlator()
    (opened,) = c.update(100.0, [bad()])
    c.put(c.turn(opened.id, "acknowledged", 101.0, "olga (operator, token)", "on it"))
    c.update(110.0, [bad(end=109.0)], held={opened.id: "run-1"})
    (calm,) = c.update(116.0, [], held={opened.id: "run-1"})
    assert (calm.state, calm.turns[-1].by) == ("mitigated", "homeostat:run-1")
    c.update(120.0, [])
    (over,) = c.update(140.0, [])
    assert [(t.event, t.by.partition(":")[0]) for t in over.turns] == [
        ("opened", "homeostat"), ("acknowledged", "olga (operator, token)"), ("mitigated", "homeostat"),
        ("resolved", "homeostat"),
    ]  # fmt: skip
    with pytest.raises(Refused, match="is over"):
        c.turn(over.id, "acknowledged", 141.0, "olga", "")


def test_flapping_is_one_incident_with_a_count_and_ever_fewer_turns():
    c, ids, turns = correlator(), set(), 0
    now, onset, last = 100.0, 100.0, None
    for _ in range(60):  # five seconds bad, twenty-five well, for half an hour
        for k in range(30):
            found = [bad(onset=onset, end=None if k < 5 else onset + 5)] if k <= 5 else []
            for i in c.update(now, found):
                ids.add(i.id)
                turns += last is None or i.turns[-1] != last.turns[-1]
                last = i
            now += 1.0
        onset = now
    assert len(ids) == 1
    assert 1 <= last.reopened <= 4  # then it has to be well for longer than it ever is
    assert turns < 40


def test_a_storm_is_one_incident_of_bounded_size_that_says_how_much_more_there_is():
    topology = graph()
    many = [Entity("service", f"s{i}") for i in range(300)]
    for service in many:
        topology.link(Edge("runs_on", service, HOST))
    c = correlator(topology)
    storm = [bad(Series("service.latency_p95_seconds", s)) for s in many]
    (opened,) = c.update(100.0, storm)
    assert len(c.incidents) == 1
    assert len(opened.anomalies) == MOST_ANOMALIES
    assert opened.more == 300 - MOST_ANOMALIES
    assert len(opened.also) == 299
    (again,) = c.update(101.0, storm)
    assert again.id == opened.id
    c.update(110.0, [replace(a, end=105.0) for a in storm])
    c.update(130.0, [])
    assert c.incidents == {}


def test_three_at_once_are_three_a_fourth_makes_them_one():
    topology = graph()
    for i in range(4):
        topology.link(Edge("runs_on", Entity("service", f"s{i}"), HOST))
    c = correlator(topology)
    series = [Series("service.latency_p95_seconds", Entity("service", f"s{i}")) for i in range(4)]
    assert len(c.update(100.0, [bad(s) for s in series[:3]])) == 3
    found = c.update(103.0, [bad(s) for s in series])
    assert len(c.incidents) == 1
    (kept,) = c.incidents
    assert {i.merged_into for i in found if i.id != kept} == {kept}
    later = correlator(topology)
    later.update(100.0, [bad(s) for s in series[:3]])
    assert len(later.update(150.0, [bad(s) for s in series])) == 4  # long after, it is its own


def test_an_alert_from_outside_and_ours_are_one_incident_and_it_never_pages_alone():
    world = World(topology=graph())
    world.trusts["alertmanager"] = "authenticated"
    alerts, c = Alerts(), correlator(world.topology)
    labels = (("severity", "critical"), ("service", "shop"))
    theirs = Signal(99.0, "ShopSlow", "alertmanager", firing=True, labels=labels, text="p95")
    (warned,) = c.update(100.0, alerts.take(100.0, [theirs], world))
    assert (warned.severity, warned.about) == ("warning", SHOP)
    again = [theirs, replace(theirs, ts=100.5)]
    (paged,) = c.update(101.0, [bad(onset=101.0), *alerts.take(101.0, again, world)])
    assert (paged.id, paged.severity, len(paged.anomalies)) == (warned.id, "page", 2)
    over = replace(theirs, ts=104.0, firing=False)
    c.update(105.0, [bad(onset=101.0, end=104.5), *alerts.take(105.0, [over], world)])
    (done,) = c.update(125.0, alerts.take(125.0, [], world))
    assert done.state == "resolved"


def test_an_alert_of_a_source_that_is_not_trusted_opens_nothing_but_joins():
    world = World(topology=graph())
    alerts, c = Alerts(), correlator(world.topology)
    theirs = Signal(99.0, "X", "webhook", firing=True, labels=(("instance", "h:9100"),))
    found = alerts.take(100.0, [theirs], world)
    assert [a.series.entity for a in found] == [HOST]
    assert c.update(100.0, found) == []
    (ours,) = c.update(101.0, [bad(), *alerts.take(101.0, [], world)])
    assert {a.series.metric for a in ours.anomalies} == {P95.metric, "host.alert_firing"}


@pytest.mark.parametrize(
    ("labels", "whom"),
    [
        ({"instance": "h:9100", "job": "node"}, HOST),
        ({"instance": "h.example.com:9100"}, HOST),
        ({"job": "shop", "instance": "h:8000"}, SHOP),
        ({"app": "store", "node": "h"}, STORE),
        ({"instance": "10.0.0.7:9100"}, None),
        ({"severity": "page"}, None),
    ],
)
def test_the_labels_of_an_alert_name_whom_it_is_about_the_most_particular_first(labels, whom):
    assert subject(labels, World(topology=graph())) == whom


def test_an_alert_about_nobody_we_know_is_about_its_source():
    world = World(topology=graph())
    world.trusts["am"] = "local"
    theirs = Signal(99.0, "X", "am", firing=True, labels=(("region", "eu"),))
    (found,) = Alerts().take(100.0, [theirs], world)
    assert found.series.entity == Entity("source", "am")


def test_an_alert_that_is_never_heard_of_again_ends():
    world, alerts = World(topology=graph()), Alerts(forget_s=100.0)
    theirs = Signal(99.0, "X", "webhook", firing=True, labels=(("service", "shop"),))
    alerts.take(100.0, [theirs], world)
    assert alerts.take(200.0, [], world)[0].end is None
    assert alerts.take(201.0, [], world)[0].end == 201.0
    assert alerts.take(202.0, [], world) == []


def test_an_alert_finds_its_end_though_the_map_has_grown_since_it_began():
    world, alerts = World(topology=Topology()), Alerts()
    theirs = Signal(99.0, "X", "am", firing=True, labels=(("instance", "h:9100"),))
    (before,) = alerts.take(100.0, [theirs], world)  # right after a start nobody is known
    world.topology.link(Edge("runs_on", SHOP, HOST))
    other = replace(theirs, labels=(("instance", "x:9100"),))
    now = alerts.take(160.0, [theirs, other], world)
    assert {(a.series.entity, a.end) for a in now} == {
        (HOST, None), (Entity("source", "am"), None), (before.series.entity, 160.0),
    }  # fmt: skip
    world.topology.link(Edge("runs_on", SHOP, Entity("host", "x")))
    over = alerts.take(
        200.0, [replace(one, ts=199.0, firing=False) for one in (theirs, other)], world
    )
    assert sorted(str(a.series.entity.id) for a in over) == ["host:h", "source:am"]
    assert {a.end for a in over} == {199.0}
    assert alerts.take(201.0, [], world) == []


def test_alerts_that_mean_the_same_end_with_the_last_of_them():
    world, alerts = World(topology=graph()), Alerts()
    root, data = (
        Signal(99.0, "DiskFull", "am", firing=True, labels=(("host", "h"), ("mount", mount)))
        for mount in ("/", "/data")
    )
    assert len(alerts.take(100.0, [root, data], world)) == 1
    (still,) = alerts.take(110.0, [replace(root, ts=109.0, firing=False)], world)
    assert still.end is None
    (over,) = alerts.take(120.0, [replace(data, ts=119.0, firing=False)], world)
    assert over.end == 119.0


def test_a_clock_that_is_set_by_hours_ends_no_alert():
    world, alerts = World(topology=graph()), Alerts()
    alerts.take(100.0, [Signal(99.0, "X", "am", firing=True, labels=(("host", "h"),))], world)
    alerts.rebase(6 * 3600.0)
    (still,) = alerts.take(101.0 + 6 * 3600.0, [], world)
    assert still.end is None


# ---- near in topology, late roots


def test_caller_and_callee_that_begin_together_share_an_incident_strangers_do_not():
    together = correlator(graph(calls=True))
    (one,) = together.update(100.0, [bad(), bad(STORE_P95, onset=97.0)])
    assert {one.about, *one.also} == {SHOP, STORE}
    apart = correlator(graph())
    assert len(apart.update(100.0, [bad(), bad(STORE_P95)])) == 2
    late = correlator(graph(calls=True))
    late.update(100.0, [bad()])
    assert len({i.id for i in late.update(300.0, [bad(), bad(STORE_P95, onset=300.0)])}) == 2


def test_when_it_gets_worse_it_is_called_by_what_hurts():
    c = correlator()
    (warned,) = c.update(100.0, [bad(Series("service.busy_ratio", SHOP), harm=False)])
    assert "work that the workers do" in warned.title
    (paged,) = c.update(101.0, [bad(Series("service.busy_ratio", SHOP), harm=False), bad()])
    assert (paged.id, paged.severity) == (warned.id, "page")
    assert paged.title == "shop: latency that 95 % of requests stay under is above its objective"


def test_an_ancestor_seen_late_with_an_earlier_onset_joins_and_decides_nothing():
    c = correlator(graph(calls=True))
    (opened,) = c.update(100.0, [bad()])
    slow = bad(STORE_P95, onset=70.0, road="calibrated", harm=False)
    cpu = bad(CPU, onset=60.0, road="calibrated", harm=False)
    (grown,) = c.update(130.0, [bad(), slow, cpu])
    assert grown.id == opened.id
    assert [a.series for a in grown.anomalies] == [CPU, STORE_P95, P95]  # the oldest first
    c.update(131.0, [bad(end=131.0), slow, cpu])
    (over,) = c.update(151.0, [slow, cpu])
    assert over.state == "resolved"


def test_what_is_wrong_beneath_for_days_does_not_keep_a_page_open():
    c = correlator()
    full = bad(CPU, onset=95.0, harm=False)
    c.update(95.0, [full])
    found = c.update(100.0, [bad(), full])
    page = next(i for i in found if i.about == SHOP)
    assert CPU in {a.series for a in page.anomalies}
    c.update(105.0, [bad(end=104.0), full])
    over = next(i for i in c.update(125.0, [full]) if i.id == page.id)
    assert over.state == "resolved"
    assert [i.about for i in c.incidents.values()] == [HOST]


# ---- merge


def test_a_common_cause_makes_one_of_two_and_the_other_says_so():
    c = correlator()
    a, b = c.update(100.0, [bad(), bad(STORE_P95, onset=100.0)])
    c.put(named(a, "host.neighbour", BATCH))
    c.put(named(b, "host.neighbour", BATCH, 0.3))
    assert c.join_causes(110.0) == []
    c.put(named(b, "host.neighbour", BATCH))
    found = {i.id: i for i in c.join_causes(110.0)}
    (kept,) = c.incidents.values()
    gone = next(i for i in found.values() if i.id != kept.id)
    assert (gone.state, gone.merged_into, gone.resolved) == ("resolved", kept.id, 110.0)
    assert gone.turns[-1].why == f"merged into {kept.id}: same cause: host.neighbour on {BATCH.id}"
    assert (kept.absorbed, {kept.about, *kept.also}) == ((gone.id,), {SHOP, STORE})
    assert {x.series for x in kept.anomalies} == {P95, STORE_P95}
    (same,) = c.update(111.0, [bad(STORE_P95, onset=100.0)])
    assert same.id == kept.id
    c.update(112.0, [bad(end=112.0), bad(STORE_P95, onset=100.0)])
    assert c.update(140.0, [bad(STORE_P95, onset=100.0)])[0].state != "resolved"
    c.update(141.0, [bad(STORE_P95, onset=100.0, end=141.0)])
    assert c.update(161.0, [])[0].state == "resolved"


def test_what_people_were_paged_for_and_what_a_run_works_on_keeps_its_id():
    c = correlator()
    (warned,) = c.update(90.0, [bad(CPU, onset=90.0, harm=False)])
    paged = next(i for i in c.update(100.0, [bad(), bad(CPU, onset=90.0, harm=False)]) if i.about == SHOP)  # fmt: skip
    for i in (warned.id, paged.id):
        c.put(named(c.incidents[i], "host.cpu", HOST))
    held = Correlator(graph(), 60.0, 20.0, 40.0)
    held.restore(list(c.incidents.values()))
    c.join_causes(105.0)
    assert list(c.incidents) == [paged.id]
    held.join_causes(105.0, {warned.id})
    assert list(held.incidents) == [warned.id]
    assert held.incidents[warned.id].severity == "page"
    both = Correlator(graph(), 60.0, 20.0, 40.0)
    both.restore([named(warned, "host.cpu", HOST), named(paged, "host.cpu", HOST)])
    assert both.join_causes(105.0, {warned.id, paged.id}) == []


def test_a_merged_incident_does_not_come_back():
    c = correlator()
    a, b = c.update(100.0, [bad(), bad(STORE_P95, onset=100.0)])
    for i in (a, b):
        c.put(named(i, "host.neighbour", BATCH))
    c.join_causes(101.0)
    (kept,) = c.incidents
    c.update(102.0, [bad(end=102.0), bad(STORE_P95, onset=100.0, end=102.0)])
    c.update(122.0, [])
    assert c.incidents == {}
    (back,) = c.update(130.0, [bad(STORE_P95, onset=130.0)])
    assert (back.id, back.reopened) == (kept, 1)


# ---- restart


def test_after_a_restart_what_was_going_on_must_be_seen_again_or_it_ends():
    seen = set()
    first = correlator()
    (opened,) = first.update(100.0, [bad(), bad(CPU, harm=False, road="calibrated")])
    c = correlator(fresh=seen.__contains__)
    c.restore([unpack(Incident, pack(opened))])
    assert set(c.unseen(opened.id)) == {(P95, "too slow"), (CPU, "")}
    for now in range(200, 300, 10):  # nobody sees it: unknown is not well
        c.update(float(now), [])
    assert c.incidents[opened.id].state == "open"
    seen.add(P95)
    for now in range(300, 390, 10):
        c.update(float(now), [])
    assert c.incidents.get(opened.id) is None or c.incidents[opened.id].state == "mitigated"
    again = correlator()
    again.restore([opened])
    for now in range(200, 400, 10):
        (same,) = again.update(float(now), [bad()])
    assert (same.id, same.state) == (opened.id, "open")
    assert set(again.unseen(opened.id)) <= {(CPU, "")}
    assert not again.unseen("another")


def test_after_a_restart_what_nobody_tells_any_more_ends_once_all_who_tell_anything_have_answered():
    """A card was replaced while we were away, or an alert ended: no source will ever say that it is well."""
    lost = set()
    (opened,) = correlator().update(100.0, [bad()])
    c = correlator(fresh=lambda _: False, lost=lost.__contains__)
    c.restore([opened])
    for now in range(200, 30_000, 100):  # some source is blind: it may be the one
        c.update(float(now), [])
    assert c.incidents[opened.id].state == "open"
    lost.add(P95)
    for now in range(30_000, 30_000 + 4 * 3600, 100):
        c.update(float(now), [])
    assert c.incidents[opened.id].state == "open"
    for now in range(30_000 + 4 * 3600, 30_500 + 4 * 3600, 10):
        c.update(float(now), [])
    assert c.incidents == {}


def test_all_of_a_life_survives_the_journal():
    c = correlator()
    a, b = c.update(100.0, [bad(), bad(STORE_P95, onset=100.0)])
    for i in (a, b):
        c.put(named(i, "host.neighbour", BATCH))
    merged = c.join_causes(101.0)
    (kept,) = c.incidents.values()
    c.put(c.turn(kept.id, "acknowledged", 102.0, "olga", "mine"))
    again = correlator()
    again.restore([unpack(Incident, pack(i)) for i in (*merged[:1], *c.incidents.values())])
    (same,) = again.update(103.0, [bad(STORE_P95, onset=100.0)])
    assert (same.id, same.state, acknowledged_by(same).why) == (kept.id, "acknowledged", "mine")
    assert {same.about, *same.also} == {SHOP, STORE}


def test_a_thousand_series_a_tick_cost_no_more_than_they_are():
    topology = graph()
    c = correlator(topology)
    storm = [
        bad(Series("host.core_utilization_ratio", HOST, (("core", str(i)),)), harm=False)
        for i in range(5000)
    ]
    for i in range(20):
        topology.take(Sighting(Entity("service", f"x{i}")))
    for now in range(100, 105):
        (one,) = c.update(float(now), storm)
    assert (len(one.anomalies), one.more) == (60, 1940)
    assert len(c._lives[one.id].live) == 2000
