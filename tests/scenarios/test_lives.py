"""Lives of incidents through the real walk: one trouble is one incident, whatever joins, flaps, storms or restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import (
    BATCH,
    CORES,
    CPU,
    HOST,
    MASTER,
    ONSET,
    P50,
    P95,
    RPS,
    SHOP,
    SLOW,
    STORE,
    STORE_WORK,
    WAIT_CPU,
    WORK,
    Picture,
    Stage,
    s,
)  # fmt: skip

from agent.codec import pack
from agent.model import Edge, Entity, Frame
from agent.ports import PredictionBatch, Signal

pytestmark = pytest.mark.long

NEIGHBOUR = Picture(
    "host.neighbour",
    BATCH,
    {**SLOW, WORK: 0.04, CORES[BATCH]: 2.9, CPU: 0.97, WAIT_CPU: 0.7},
)
WELL = Picture("", SHOP, {})


def test_a_common_cause_makes_one_incident_of_the_services_and_the_machines(tmp_path):
    stage = Stage(NEIGHBOUR, tmp_path)
    stage.go(ONSET + 60)
    stage.close()
    (one,) = stage.incidents
    assert (one.severity, one.about) == ("page", SHOP)
    assert HOST in one.also
    (gone,) = [i for i in stage.memory.incidents.values() if i.merged_into]
    assert (gone.about, gone.merged_into) == (HOST, one.id)
    assert one.absorbed == (gone.id,)
    assert gone.turns[-1].why.startswith(f"merged into {one.id}: ")
    assert stage.incident.diagnosis.top.kind == "host.neighbour"
    assert len([n for n in stage.entries("note") if n.body["severity"] == "page"]) == 1


def test_a_cause_that_is_seen_late_joins_and_becomes_the_first(tmp_path):
    """The metrics of the callee come half a minute late; it had begun before we felt it."""
    late = s("service.latency_p99_seconds", STORE)
    calls = s("service.latency_p95_seconds", STORE)
    rng = np.random.default_rng(1)

    def lagging(now):
        then = now - 30.0
        bad = then >= ONSET - 8
        row = np.array([0.9 if bad else 0.02, 0.5 if bad else 0.01]) * rng.uniform(0.97, 1.03, 2)
        return [Frame("prometheus", then, (late, calls), row)] if then >= 0 else []

    stage = Stage(Picture("", STORE, {**SLOW, P50: 0.3, STORE_WORK: 0.4}), tmp_path, extra=lagging)
    stage._tables = {n: tuple(x for x in t if x != calls) for n, t in stage._tables.items()}
    stage.go(ONSET + 20)
    first = stage.incident
    assert first.diagnosis.top.entity != STORE
    stage.go(ONSET + 60)
    stage.close()
    assert stage.incident.id == first.id
    assert len(stage.incidents) == 1
    assert min(a.onset for a in stage.incident.anomalies if a.series.entity == STORE) < ONSET
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == ("serving.dependency", STORE)


def test_a_storm_over_a_machine_is_one_incident_and_few_lines_in_the_record(tmp_path):
    many = [Entity("service", f"s{i:03}") for i in range(200)]
    up = tuple(s("service.up", e) for e in many)

    def down(now):
        return [Frame("probes", now, up, np.full(200, float(now < ONSET)))]

    picture = Picture("", HOST, {}, edges=[Edge("runs_on", e, HOST) for e in many])
    stage = Stage(picture, tmp_path, extra=down)
    stage.go(ONSET + 40)
    stage.close()
    (one,) = stage.incidents
    assert len(one.anomalies) == 60
    assert one.more == 140
    assert len(one.also) == 199
    assert len(stage.entries("incident")) < 12
    assert len(stage.entries("note")) == 1
    assert max(len(str(e.body)) for e in stage.entries("incident")) < 100_000


def test_flapping_is_one_incident_and_does_not_fill_the_record_or_the_pager(tmp_path):
    def flaps(t):
        return 0.6 if t % 150 < 20 else 0.03

    stage = Stage(Picture("", SHOP, {P95: flaps}), tmp_path)
    stage.go(ONSET + 3000)
    stage.close()
    lives = {i.id: i for i in stage.memory.incidents.values() if i.about == SHOP}
    (one,) = lives.values()
    assert 1 <= one.reopened <= 3
    assert len(stage.entries("note")) <= 1 + one.reopened
    assert len(stage.entries("incident")) < 60


def test_after_a_restart_it_is_the_same_incident_and_whose_it_is_is_known(tmp_path):
    stage = Stage(NEIGHBOUR, tmp_path)
    stage.go(ONSET + 30)
    before = stage.incident
    mine = stage.walk.correlator.turn(before.id, "acknowledged", stage.now, "olga", "mine")
    stage.record("incident", mine.id, pack(mine), stage.now)
    stage.walk.correlator.put(mine)
    stage.restart(after=20.0)
    stage.go(ONSET + 80)
    (same,) = stage.incidents
    assert (same.id, same.state) == (before.id, "acknowledged")
    assert stage.incident.diagnosis.top.kind == "host.neighbour"
    assert len([n for n in stage.entries("note") if n.body["severity"] == "page"]) == 1
    stage.picture = WELL
    stage.go(ONSET + 400)
    assert stage.incidents == []
    events = [t.event for t in stage.memory.incidents[before.id].turns]
    assert events == ["opened", "acknowledged", "mitigated", "resolved"]
    stage.close()


def test_what_healed_while_we_were_dead_is_resolved(tmp_path):
    stage = Stage(NEIGHBOUR, tmp_path)
    stage.go(ONSET + 30)
    id_ = stage.incident.id
    stage.restart(after=60.0)
    stage.picture = WELL
    stage.go(ONSET + 500)
    stage.close()
    assert stage.incidents == []
    assert stage.memory.incidents[id_].state == "resolved"


def test_what_a_source_says_that_is_not_trusted_counts_for_less(tmp_path):
    def top(folder, trusts):
        stage = Stage(replace(NEIGHBOUR, trusts=trusts), tmp_path / folder)
        stage.go(ONSET + 40)
        stage.close()
        return stage.incident.diagnosis

    local, other = top("a", {}), top("b", {"models": "untrusted"})
    case = next(c for c in other.causes if c.kind == "host.neighbour")
    assert case.probability < local.top.probability
    doubted = [e for e in case.evidence if "not trusted" in e.text]
    assert {e.series.metric for e in doubted} >= {"service.processing_p50_seconds"}


def test_an_alert_from_outside_joins_what_we_see_ourselves(tmp_path):
    labels = (("alertname", "ShopSlow"), ("service", "shop"))
    alert = Signal(ONSET + 1, "ShopSlow", "alertmanager", firing=True, labels=labels)
    picture = replace(NEIGHBOUR, signals=[alert], trusts={"alertmanager": "authenticated"})
    stage = Stage(picture, tmp_path)
    stage.go(ONSET + 30)
    stage.close()
    shops = [i for i in stage.memory.incidents.values() if i.about == SHOP]
    assert len(shops) == 1
    assert {"service.alert_firing", P95.metric} <= {a.series.metric for a in shops[0].anomalies}
    assert (shops[0].severity, stage.incident.diagnosis.top.kind) == ("page", "host.neighbour")


def test_requests_that_were_slow_stand_in_the_incident_by_their_trace_ids(tmp_path):
    stage = Stage(NEIGHBOUR, tmp_path)

    def batch(now, latency):
        n = 30
        return PredictionBatch(
            "fraud", "3", np.full(n, now), ("",) * n, {}, np.array([None] * n), np.full(n, np.nan),
            np.full(n, latency), np.full(n, 0.01), np.full(n, 200), tuple(f"{now:.0f}-{i}" for i in range(n)),
        )  # fmt: skip

    while stage.now < ONSET + 30:
        stage.walk.examples.take(batch(stage.now, 0.012 if stage.now < ONSET else 0.6))
        stage.go(stage.now + 2)
    stage.close()
    assert len(stage.incident.traces) == 20
    assert all(float(t.partition("-")[0]) >= ONSET for t in stage.incident.traces)


def test_ordinary_days_are_quiet(tmp_path):
    def swing(t):
        return 40.0 + 12.0 * np.sin(t / 120.0)

    stage = Stage(Picture("", SHOP, {RPS: swing, CORES[MASTER]: lambda t: swing(t) / 80}), tmp_path)
    stage.go(ONSET + 600)
    stage.close()
    assert [i for i in stage.memory.incidents.values() if i.severity != "note"] == []
