"""An incident is looked at again when its evidence is another one, else ever more rarely; never acted on unseen."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent import match, pipeline, registry
from agent.budget import Ledger
from agent.codec import pack
from agent.config import Config
from agent.correlate import Correlator
from agent.journal import Entry
from agent.looks import Looks
from agent.memory import Memory
from agent.model import Anomaly, Cause, Change, Diagnosis, Entity, Frame, Incident, Run, Series
from agent.pipeline import Moment, Walk
from agent.playbook import Library
from agent.rca.look import Past
from agent.world import World

WEB = Entity("service", "web")
P95, BUSY = Series("service.latency_p95_seconds", WEB), Series("service.busy_ratio", WEB)
SLOW = Anomaly(
    P95, 95.0, None, 0.0, 1, 1.0, float("nan"), 0.5, 0.5, 9.0, "objective", "x", harm=True
)
INCIDENT = Incident("i", 100.0, 100.0, "open", "page", "t", (SLOW,), entities=(WEB,), about=WEB)


def look(incident, now):
    return SimpleNamespace(incident=incident, now=now, cells=[10])


def test_it_is_looked_at_more_rarely_as_long_as_nothing_happens():
    looks, at = Looks(), []
    for now in range(100, 400):
        looks.heed(INCIDENT, None, float(now))
        if looks.due(INCIDENT, float(now)):
            at.append(now)
            looks.looked(look(INCIDENT, float(now)))
    pauses = np.diff(at)
    assert list(at[:8]) == [100, 101, 102, 103, 104, 105, 106, 107]
    assert (np.diff(pauses) >= 0).all()
    assert pauses[-1] == 15


@pytest.mark.parametrize("change", [
    lambda i: replace(i, anomalies=(SLOW, replace(SLOW, series=BUSY))),
    lambda i: replace(i, anomalies=(replace(SLOW, end=150.0),)),
    lambda i: replace(i, anomalies=(replace(SLOW, direction=-1),)),
    lambda i: replace(i, anomalies=(replace(SLOW, onset=90.0),)),
    lambda i: replace(i, changes=(Change(99.0, WEB, "release", "1", "2"),)),
    lambda i: replace(i, also=(Entity("service", "shop"),)),
    lambda i: replace(i, reopened=1),
])  # fmt: skip
def test_other_evidence_is_looked_at_at_once(change):
    looks = Looks()
    looks.heed(INCIDENT, None, 100.0)
    looks.looked(look(INCIDENT, 200.0))
    assert not looks.due(INCIDENT, 201.0)
    other = change(INCIDENT)
    looks.heed(other, None, 201.0)
    assert looks.urgent(other)
    assert looks.due(other, 201.0)


def test_a_change_that_somebody_tells_of_is_evidence_for_all_and_a_deeper_value_for_none():
    looks = Looks()
    looks.heed(INCIDENT, None, 100.0)
    looks.looked(look(INCIDENT, 200.0))
    deeper = replace(INCIDENT, anomalies=(replace(SLOW, value=2.0, size=1.5),))
    looks.heed(deeper, None, 201.0)
    assert not looks.urgent(deeper)
    looks.heed(deeper, Change(200.5, WEB, "release", "1", "2"), 201.0)
    assert looks.urgent(deeper)


def test_a_clock_that_is_set_back_does_not_end_the_looks():
    looks = Looks()
    looks.heed(INCIDENT, None, 1000.0)
    looks.looked(look(INCIDENT, 1000.0))
    assert looks.due(INCIDENT, 100.0)


def test_an_incident_of_before_the_clock_was_set_back_waits_no_hours_for_its_diagnosis():
    walk = SimpleNamespace(config=Config())
    assert not pipeline._ready(walk, INCIDENT, (), 105.0)
    assert pipeline._ready(walk, INCIDENT, (), 100.0 + walk.config.diagnose.settle)
    assert pipeline._ready(walk, INCIDENT, (), 100.0 - 7200.0)


def test_what_is_kept_of_the_past_is_bounded_and_ends_with_the_incident(monkeypatch):
    monkeypatch.setattr("agent.looks._MOST_PASTS", 3)
    looks, past = Looks(), Past(1.0, 1.0, 100)
    one, two = INCIDENT, replace(INCIDENT, id="j")
    for incident in (one, two):
        looks.heed(incident, None, 100.0)
        looks.pasts(incident).hold("it")
    looks.pasts(one).known.update({P95: past, BUSY: past})
    looks.pasts(two).known[P95] = past
    looks.keep({"i", "j"})
    assert len(looks.pasts(one).known) == 2
    looks.pasts(two).known[BUSY] = past
    looks.keep({"i", "j"})
    assert not looks.pasts(one).known
    looks.keep({"j"})
    assert not looks.fresh(one, 100.0)
    assert set(looks._seen) == {"j"}


# ---------------------------------------------------------------- through the walk


BOOK = """
version: 1
id: more
title: More
mode: auto
target: {kind: service}
because: {cause: serving.saturation, min_confidence: 0.5}
when: ['service.busy_ratio > 0.9']
guard: {}
do: [{use: act, undo: none}]
verify: {within: 1m, expect: ['service.busy_ratio < 0.9']}
"""


class Place:
    """A walk whose detectors and ranking are what a test says; `cause` is what a look finds."""

    def __init__(self, folder, monkeypatch):
        actions = registry.Registry("action")
        body = {"effect": "mutating", "ability": None, "reversible": True, "shared": False}
        actions("act")(type("act", (), body))
        monkeypatch.setattr(registry, "action", actions)
        monkeypatch.setattr(pipeline.rca, "diagnose", self._diagnose)
        (folder / "more.yaml").write_text(BOOK)
        self.cause, self.looks, self.seq = "serving.saturation", [], 0
        self.memory, world = Memory(), World()
        world.topology.take(
            SimpleNamespace(gone=False, entity=WEB, attrs=(), edges=(), lasts_s=1e9)
        )
        world.trusts["eyes"] = "local"
        self.config = Config.model_validate({
            "mode": "auto", "manages": [{"kind": "service"}], "services": [{"id": "web", "min_healthy": 0}],
            "diagnose": {"settle": "1s"},
        })  # fmt: skip
        nothing = lambda series, *_: (np.empty(0), np.empty((0, len(series))))  # noqa: E731
        self.walk = Walk(
            self.config, world, SimpleNamespace(append=lambda _: None, read=nothing),
            SimpleNamespace(ledger=Ledger(), take=lambda _: []),
            Correlator(world.topology, fresh=world.fresh),
            Library.load([folder], self.config, built_in=False), self.memory, self.record,
            match.HoldingState(), foretold=lambda _: [SLOW],
        )  # fmt: skip

    def _diagnose(self, seen):
        self.looks.append(seen.now)
        return Diagnosis(seen.now, (Cause(self.cause, WEB, 0.9),))

    def record(self, kind, subject, body, ts):
        self.seq += 1
        self.memory.apply(Entry(self.seq, ts, kind, subject, body, "", ""))

    def tick(self, now, busy):
        return self.walk.step(now, [Frame("eyes", now, (BUSY, P95), np.array([busy, 1.0]))])


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


def quiet(place):
    """Let so much time pass that looks are rare, and end right after one; return now."""
    now = 100.0
    while not (now > 300.0 and place.looks[-1] == now):
        now += 1.0
        place.tick(now, 0.5)
    return now


def test_looks_are_rare_while_nothing_happens(place):
    quiet(place)
    assert 15 < len(place.looks) < 60


def test_what_is_about_to_act_is_looked_at_in_the_same_tick(place):
    now = quiet(place)
    moment = place.tick(now + 2.0, 0.95)
    assert place.looks[-1] == now + 2.0
    assert [p.created for p in moment.plans] == [now + 2.0]
    assert moment.decisions[0].allowed


def test_nothing_acts_on_a_cause_that_is_none_any_more(place):
    now = quiet(place)
    place.cause = "serving.traffic"
    moment = place.tick(now + 2.0, 0.95)
    assert place.looks[-1] == now + 2.0
    assert (moment.plans, moment.decisions) == ([], [])
    (incident,) = place.walk.correlator.incidents.values()
    assert incident.diagnosis.top.kind == "serving.traffic"
    assert place.memory.incidents[incident.id].diagnosis.top.kind == "serving.traffic"


def test_without_room_for_a_look_it_waits_and_then_acts(place):
    now = quiet(place)
    place.walk.looks.turns.burst = 0.0
    assert place.tick(now + 2.0, 0.95).plans == []
    assert not place.memory.decisions()
    place.walk.looks.turns.burst = 1e6
    assert [p.created for p in place.tick(now + 3.0, 0.95).plans] == [now + 3.0]


def test_what_a_run_does_is_not_looked_at(place):
    now = quiet(place)
    (incident,) = place.walk.correlator.incidents.values()
    run = Run("r", "other", Entity("host", "h"), incident.id, "auto", "acting", now, now, "h")
    place.record("run", run.id, pack(run), now)
    for later in range(1, 40):
        place.tick(now + later, 0.5)
    assert place.looks[-1] == now


def test_a_yes_of_a_person_is_to_what_is_true_now(place):
    now = quiet(place)
    (incident,) = place.walk.correlator.incidents.values()
    place.cause = "serving.traffic"
    assert pipeline.again(place.walk, incident, now) is incident
    assert pipeline.again(place.walk, incident, now + 2.0).diagnosis.top.kind == "serving.traffic"


def test_over_many_ticks_every_incident_is_decided_however_little_room_there_is(place):
    place.walk.rounds.room = place.walk.rounds.burst = 1.0
    for n in range(6):
        one = replace(
            INCIDENT,
            id=f"i{n}",
            diagnosis=Diagnosis(99.0, (Cause("serving.saturation", WEB, 0.9),)),
        )
        place.walk.correlator.incidents[one.id] = one
    place.walk.world.take(Frame("eyes", 100.0, (BUSY, P95), np.array([0.5, 1.0])))
    asked = set()
    for now in range(101, 108):
        before = dict(place.walk.holding._holdings)
        pipeline.decide(place.walk, Moment(float(now), [], []))
        asked |= {k[3] for k, v in place.walk.holding._holdings.items() if before.get(k) != v}
    assert {f"i{n}" for n in range(6)} <= asked
