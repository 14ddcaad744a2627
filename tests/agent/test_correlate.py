"""Anomalies near in time and topology become one incident with one life."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.catalogue import SIGNALS
from agent.correlate import MOST_ANOMALIES, Correlator
from agent.model import Anomaly, Cause, Change, Diagnosis, Edge, Entity, Incident, Series
from agent.topology import Topology

HOST, SHOP, MODEL = Entity("host", "h"), Entity("service", "shop"), Entity("model", "fraud")
FEATURE, SOURCE = Entity("feature", "fraud/amount"), Entity("source", "gpu")
P95 = Series("service.latency_p95_seconds", SHOP)
ACCURACY = Series("model.accuracy_ratio", MODEL)
CPU = Series("host.cpu_busy_ratio", HOST)


def anomaly(
    series=P95, onset=100.0, end=None, road="objective", harm=True, deviations=5.0, family="x"
):
    return Anomaly(
        series, onset, end, 0.0, 1, 1.0, math.nan, 0.5, 0.5, deviations, road, family, harm
    )


@pytest.fixture
def topology():
    topology = Topology()
    topology.link(Edge("runs_on", SHOP, HOST))
    topology.link(Edge("serves", SHOP, MODEL))
    topology.link(Edge("feeds", FEATURE, MODEL))
    return topology


@pytest.fixture
def correlator(topology):
    return Correlator(topology, 60.0, 10.0, 30.0)


def tick(correlator, now, *anomalies, changes=(), held=()):
    return correlator.update(now, anomalies, changes, held=held)


def test_harm_pages_an_objective_warns_a_single_excursion_opens_nothing(correlator):
    assert tick(correlator, 100.0, anomaly(CPU, road="calibrated", harm=False)) == []
    (warned,) = tick(correlator, 101.0, anomaly(CPU, harm=False))
    assert warned.severity == "warning"
    (paged,) = tick(correlator, 102.0, anomaly(P95), anomaly(CPU, harm=False))[:1]
    assert paged.severity == "page"


DRIFT = Series("feature.drifted", FEATURE)


def drift(onset=100.0, end=None):
    return anomaly(DRIFT, onset, end, road="finding", harm=False, family="drift")


def test_a_finding_opens_a_note_that_goes_on_as_long_as_it_does(correlator):
    (note,) = tick(correlator, 100.0, drift())
    assert (note.severity, note.about) == ("note", SHOP)
    assert note.turns[0].why.endswith(": drift")
    for now in range(101, 200):
        tick(correlator, float(now), drift())
    assert [i.state for i in correlator.incidents.values()] == ["open"]
    tick(correlator, 200.0, drift(end=200.0))
    for now in range(201, 215):
        tick(correlator, float(now))
    assert correlator.incidents == {}


def test_harm_soon_after_a_finding_is_the_same_trouble_and_long_after_one_of_its_own(correlator):
    tick(correlator, 100.0, drift())
    (same,) = tick(correlator, 130.0, drift(), anomaly(ACCURACY, onset=130.0))
    assert (same.severity, same.opened) == ("page", 100.0)
    other = Correlator(correlator.topology, 60.0, 10.0, 30.0)
    (note,) = tick(other, 100.0, drift())
    found = tick(
        other,
        500.0,
        drift(),
        anomaly(ACCURACY, onset=500.0),
        anomaly(CPU, onset=495.0, road="calibrated", harm=False),
    )
    (page,) = [i for i in found if i.severity == "page"]
    (gone,) = [i for i in found if i.merged_into]
    assert (gone.id, gone.merged_into) == (note.id, page.id)
    assert page.opened == 500.0
    assert {a.series for a in page.anomalies} == {DRIFT, ACCURACY, CPU}
    change = Change(498.0, MODEL, "release", "1", "2")
    (page,) = tick(other, 501.0, drift(), anomaly(ACCURACY, onset=500.0), changes=[change])
    assert page.changes == (change,)


def test_a_note_that_a_run_works_on_keeps_its_incident(correlator):
    (note,) = tick(correlator, 100.0, drift())
    (same,) = tick(correlator, 500.0, drift(), anomaly(ACCURACY, onset=500.0), held=[note.id])
    assert same.id == note.id


def test_the_same_trouble_stays_one_incident_and_model_and_service_share_it(correlator):
    (first,) = tick(correlator, 100.0, anomaly(P95))
    (second,) = tick(correlator, 101.0, anomaly(P95), anomaly(ACCURACY, onset=101.0))
    assert first.id == second.id
    assert {a.series for a in second.anomalies} == {P95, ACCURACY}


def test_what_is_wrong_with_the_host_joins_as_evidence_also_when_it_came_earlier(correlator):
    tick(correlator, 90.0, anomaly(CPU, onset=90.0, road="calibrated", harm=False))
    found = tick(
        correlator, 100.0, anomaly(P95), anomaly(CPU, onset=90.0, road="calibrated", harm=False)
    )
    assert [i.entities[0].kind for i in found] == ["host"] or CPU in {
        a.series for a in found[0].anomalies
    }
    assert CPU in {a.series for a in found[0].anomalies}
    assert len(correlator.incidents) == 1


def test_it_resolves_when_all_was_well_long_enough_and_not_under_the_hands_of_a_run(correlator):
    (opened,) = tick(correlator, 100.0, anomaly(P95))
    tick(correlator, 105.0, anomaly(P95, end=104.0))
    (calmed,) = tick(correlator, 114.0, held=[opened.id])
    assert calmed.state == "mitigated"
    tick(correlator, 115.0)
    (done,) = tick(correlator, 125.0)
    assert (done.state, done.resolved) == ("resolved", 125.0)
    assert all(a.end is not None for a in done.anomalies)
    assert correlator.incidents == {}


def test_what_flaps_for_days_while_a_run_holds_is_followed_all_the_same(correlator):
    (opened,) = tick(correlator, 0.0, anomaly(P95, onset=0.0))
    for now in range(20, 1100 * 20, 20):  # well for long enough to count as mitigated, and then not
        tick(correlator, now - 11.0, anomaly(P95, onset=0.0, end=now - 12.0), held=[opened.id])
        tick(correlator, now - 1.0, held=[opened.id])
        tick(correlator, now, anomaly(P95, onset=now), held=[opened.id])
    assert correlator.incidents[opened.id].state == "open"
    assert correlator._lives[opened.id].relapses > 1024


def test_soon_after_it_is_the_same_incident_again_later_a_new_one(correlator):
    (opened,) = tick(correlator, 100.0, anomaly(P95))
    tick(correlator, 101.0, anomaly(P95, end=101.0))
    tick(correlator, 111.0)
    (again,) = tick(correlator, 120.0, anomaly(P95, onset=120.0))
    assert (again.id, again.reopened, again.state) == (opened.id, 1, "open")
    assert again.diagnosis is None
    tick(correlator, 121.0, anomaly(P95, onset=120.0, end=121.0))
    tick(correlator, 131.0)
    (new,) = tick(correlator, 200.0, anomaly(P95, onset=200.0))
    assert new.id != opened.id


def test_changes_before_the_onset_join_and_our_own_acts_do_not(correlator):
    release = Change(95.0, MODEL, "release", "1", "2", by="ci")
    ours = Change(96.0, MODEL, "release", "2", "1", by="homeostat:run1")
    old = Change(10.0, MODEL, "release", "0", "1")
    tick(correlator, 96.0, changes=[release, ours, old])
    (opened,) = tick(correlator, 100.0, anomaly(P95))
    assert opened.changes == (release,)


def test_a_late_cause_joins(correlator):
    tick(correlator, 100.0, anomaly(P95))
    late = Change(99.0, MODEL, "release", "1", "2")
    (updated,) = tick(correlator, 110.0, anomaly(P95), changes=[late])
    assert updated.changes == (late,)


def test_blindness_is_an_incident_of_its_own(correlator):
    (opened,) = tick(correlator, 100.0, anomaly(Series("source.blind", SOURCE), harm=False))
    assert (opened.severity, opened.entities) == ("warning", (SOURCE,))


def test_a_storm_is_one_incident_of_bounded_size(correlator):
    storm = [
        anomaly(Series("feature.drift_psi", Entity("feature", f"fraud/{i}")), harm=True)
        for i in range(1000)
    ]
    for a in storm:
        correlator.topology.link(Edge("feeds", a.series.entity, MODEL))
    (opened,) = tick(correlator, 100.0, *storm)
    assert len(opened.anomalies) == MOST_ANOMALIES


def test_what_the_group_view_calls_abnormal_opens_a_note_and_leads_it(correlator):
    lone = anomaly(CPU, road="calibrated", harm=False, deviations=50.0)
    load = Series("host.load1_count", HOST)
    joint = replace(anomaly(load, road="calibrated", harm=False), together=1e-7)
    assert tick(correlator, 100.0, lone) == []
    (opened,) = tick(correlator, 101.0, lone, joint)
    assert (opened.severity, opened.about) == ("note", HOST)
    assert "load average" in opened.title
    (paged,) = tick(correlator, 102.0, anomaly(P95), joint)[:1]
    assert paged.severity == "page"


def test_while_the_view_learns_six_different_signals_at_once_open_a_note(correlator):
    metrics = [m for m in SIGNALS if m.startswith("host.")][:6]
    some = [anomaly(Series(m, HOST), 80.0, road="prior", harm=False) for m in metrics]
    assert tick(correlator, 100.0, *some[:5]) == []
    assert tick(correlator, 101.0, *some)[0].severity == "note"


def test_open_incidents_are_open_after_a_restart(correlator, topology):
    (opened,) = tick(correlator, 100.0, anomaly(P95))
    again = Correlator(topology, 60.0, 10.0, 30.0)
    again.restore([opened])
    (same,) = tick(again, 105.0, anomaly(P95))
    assert same.id == opened.id
    tick(again, 106.0, anomaly(P95, end=106.0))
    assert tick(again, 116.0)[0].state == "resolved"


def test_spans_of_trouble_are_no_part_of_a_baseline(correlator):
    tick(correlator, 100.0, anomaly(P95))
    tick(correlator, 105.0, anomaly(P95, end=104.0))
    tick(correlator, 115.0)
    assert correlator.ordinary(SHOP, 0.0, 300.0) == [(100.0, 115.0)]
    assert correlator.ordinary(HOST, 0.0, 300.0) == []


@settings(max_examples=50, deadline=None)
@given(st.permutations([P95, ACCURACY, CPU, Series("feature.contract_broken", FEATURE)]))
def test_the_order_of_equal_time_anomalies_does_not_change_an_incident(order):
    topology = Topology()
    for edge in (
        Edge("runs_on", SHOP, HOST), Edge("serves", SHOP, MODEL), Edge("feeds", FEATURE, MODEL),
    ):  # fmt: skip
        topology.link(edge)
    one = Correlator(topology, 60.0, 10.0, 30.0)
    two = Correlator(topology, 60.0, 10.0, 30.0)
    found = [anomaly(s, harm=s is not CPU) for s in order]
    assert tick(one, 100.0, *found) == tick(two, 100.0, *sorted(found, key=lambda a: a.series))


def test_old_evidence_does_not_stretch_the_span_of_an_incident(correlator):
    hunch = anomaly(CPU, onset=70.0, road="prior", harm=False)
    tick(correlator, 100.0, anomaly(P95), hunch)
    tick(correlator, 105.0, anomaly(P95, end=104.0), hunch)
    tick(correlator, 115.0)
    assert correlator.ordinary(SHOP, 0.0, 300.0) == [(100.0, 115.0)]


# ---------------------------------------------------------------- what goes on costs little and changes nothing


def town():
    """Six services on two machines, calling each other in a chain."""
    topology = Topology()
    services = [Entity("service", f"s{i}") for i in range(6)]
    hosts = [Entity("host", f"h{i}") for i in range(2)]
    for i, service in enumerate(services):
        topology.link(Edge("runs_on", service, hosts[i % 2]))
        if i:
            topology.link(Edge("calls", services[i - 1], service))
    return topology, services, hosts


@pytest.mark.parametrize("seed", range(8))
def test_what_is_said_again_unchanged_is_as_if_it_were_looked_at_anew(seed):
    rng = random.Random(seed)
    topology, services, hosts = town()
    quick, slow = (Correlator(topology, 60.0, 10.0, 30.0) for _ in range(2))
    metrics = ["service.latency_p95_seconds", "service.error_ratio", "service.up"]
    table = [Series(m, s) for s in services for m in metrics]
    table += [Series(m, h) for h in hosts for m in ("host.cpu_busy_ratio", "host.load1_count")]
    going, merged = {}, 0
    for now in range(100, 260):
        told = []
        for series in table:
            if series in going and rng.random() < 0.04:
                told.append(replace(going.pop(series), end=float(now)))
            elif series not in going and rng.random() < 0.004:
                road = rng.choice(["objective", "objective", "calibrated"])
                going[series] = anomaly(series, float(now), road=road, harm=rng.random() < 0.3)
            elif series in going and rng.random() < 0.05:
                going[series] = replace(
                    going[series], value=rng.random(), deviations=9 * rng.random()
                )
        told += going.values()
        changes = (
            [Change(now - 1.0, services[0], "release", "1", "2")] if rng.random() < 0.02 else []
        )
        if rng.random() < 0.02:
            topology.link(Edge("calls", *rng.sample(services, 2)))
        one = tick(quick, float(now), *told, changes=changes)
        # a NaN of its own equals nothing: all is taken for new
        two = tick(slow, float(now), *(replace(a, low=float("nan")) for a in told), changes=changes)
        assert repr(one) == repr(two)
        if quick.incidents and rng.random() < 0.2:
            id_, cause = (
                rng.choice(list(quick.incidents)),
                Cause("host.cpu", rng.choice(hosts), 0.9),
            )
            for each in (quick, slow):
                each.put(replace(each.incidents[id_], diagnosis=Diagnosis(now, (cause,))))
        one, two = quick.join_causes(float(now)), slow.join_causes(float(now))
        assert repr(one) == repr(two)
        merged += len(one)
        assert repr(quick.incidents) == repr(slow.incidents)
        assert [life.evidence for life in quick._lives.values()] == [
            life.evidence for life in slow._lives.values()
        ]
        assert repr(quick.ordinary(services[0], 0.0, 1e9)) == repr(
            slow.ordinary(services[0], 0.0, 1e9)
        )
    assert quick._ended
    assert merged


def test_what_it_comes_to_depend_on_later_is_evidence_too(correlator, topology):
    store = Entity("service", "store")
    tick(correlator, 100.0, anomaly(P95))
    tick(correlator, 101.0, anomaly(P95))
    topology.link(Edge("calls", SHOP, store))
    slow = anomaly(Series(P95.metric, store), onset=101.0, road="calibrated", harm=False)
    (same,) = tick(correlator, 102.0, anomaly(P95), slow)
    assert slow.series in {a.series for a in same.anomalies}


def test_groups_of_an_incident_that_brings_nothing_new_are_those_of_the_survivor(topology):
    correlator = Correlator(topology, 60.0, 10.0, 30.0)
    store = Entity("service", "store")
    diagnosis = Diagnosis(100.0, (Cause("host.cpu", HOST, 0.9),))
    for id_, group in (("a", SHOP), ("b", store)):
        one = Incident(
            id_,
            100.0,
            100.0,
            "open",
            "page",
            "t",
            entities=(group,),
            about=group,
            diagnosis=diagnosis,
        )
        correlator.restore([one])
    *_, survivor = correlator.join_causes(101.0)
    assert (survivor.id, survivor.also, survivor.entities) == ("a", (store,), (SHOP, store))


def pairs_to_join(correlator):
    """Say from the definition, over all pairs, who would join whom."""
    out = set()
    for a in correlator.incidents.values():
        top = a.diagnosis.top
        if top.kind == "unknown" or top.probability < 0.5:
            continue
        blamed = correlator._homes.get(correlator.topology.group(top.entity))
        for b in correlator.incidents.values():
            other = b.diagnosis.top
            if b.id == a.id or abs(a.opened - b.opened) > correlator.window_s:
                continue
            same = (other.kind, other.entity) == (top.kind, top.entity) and other.probability >= 0.5
            akin = other.kind.partition(".")[0] == top.kind.partition(".")[0]
            if same or (b.id == blamed and (akin or top.kind == "serving.dependency")):
                out.add(frozenset((a.id, b.id)))
    return out


@pytest.mark.parametrize("seed", range(30))
def test_who_shares_a_cause_is_found_without_asking_everybody(seed):
    rng = random.Random(seed)
    topology = Topology()
    services = [Entity("service", f"s{i}") for i in range(8)]
    for service in services:
        topology.link(Edge("runs_on", service, Entity("host", f"on-{service.key}")))
    correlator = Correlator(topology, 60.0, 10.0, 30.0)
    for n, service in enumerate(services):
        now = 100.0 + 20.0 * n
        (opened,) = tick(correlator, now, anomaly(Series(P95.metric, service), now))
        kind = rng.choice(["serving.saturation", "serving.dependency", "release.code", "unknown"])
        cause = Cause(kind, rng.choice(services), rng.choice([0.3, 0.9]))
        correlator.put(replace(opened, diagnosis=Diagnosis(now, (cause,))))
    pairs = pairs_to_join(correlator)
    merged = [i for i in correlator.join_causes(300.0) if i.merged_into]
    assert bool(merged) == bool(pairs)
    parts = {frozenset((i.id, i.merged_into)) for i in merged}
    assert len(pairs) > 1 or parts == pairs
    assert not pairs_to_join(correlator) - pairs
