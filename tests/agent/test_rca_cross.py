"""What causes mean for each other, what trust is worth, and how makers of cases stand beside each other."""

import math

import numpy as np
import pytest

from agent.model import Anomaly, Edge, Entity, Frame, Incident, Series
from agent.rca import Look, diagnose
from agent.rca.case import Case
from agent.rca.cross import cross
from agent.rca.diagnose import MAKERS
from agent.rca.look import Measured
from agent.rca.rules import NEEDS, RULES
from agent.rca.weights import PRIOR, UNTRUSTED, WEIGHTS
from agent.world import World

HOST, SHOP, STORE = Entity("host", "h"), Entity("service", "shop"), Entity("service", "store")
MODEL, GPU = Entity("model", "fraud"), Entity("gpu", "G")
ONE, TWO = Entity("replica", "shop/1"), Entity("replica", "shop/2")
P95 = Series("service.latency_p95_seconds", SHOP)


def look(**kw):
    world = World()
    for edge in (
        Edge("runs_on", SHOP, HOST), Edge("serves", SHOP, MODEL), Edge("calls", SHOP, STORE),
        Edge("serves", ONE, SHOP), Edge("serves", TWO, SHOP), Edge("runs_on", ONE, GPU),
    ):  # fmt: skip
        world.topology.link(edge)
    slow = Anomaly(
        P95, 100.0, None, 0.0, 1, 1.0, math.nan, 0.5, 0.5, 9.0, "objective", "x", harm=True
    )
    incident = Incident("i", 100.0, 110.0, "open", "page", "t", (slow,), about=SHOP, **kw)

    def read(series, start, end):
        raise AssertionError("nothing is to be read here")

    return Look(110.0, incident, world, read, 60.0, 500.0, 60.0)


def case(kind, entity, logit):
    made = Case(kind, entity, logit)
    made.say("a reason", 0.0)
    return made


SURE = 2.0


@pytest.mark.parametrize(
    ("by", "on", "reason"),
    [
        (("hardware.gpu.lost", GPU), ("concept.drift", MODEL), "hardware beats models"),
        (("hardware.gpu.lost", GPU), ("label.bad", MODEL), "hardware beats models"),
        (("hardware.gpu.slow", GPU), ("serving.saturation", SHOP), "hardware beats serving"),
        (("data.contract", MODEL), ("data.drift", MODEL), "contract explains it"),
        (("data.stale", MODEL), ("concept.drift", MODEL), "contract explains it"),
        (("release.code", SHOP), ("serving.traffic", SHOP), "release first"),
        (("release.config", SHOP), ("host.memory", HOST), "release first"),
        (("release.model", MODEL), ("data.prior", MODEL), "release first"),
        (("host.neighbour", HOST), ("host.cpu", HOST), "who takes it is known"),
        (("host.memory", HOST), ("serving.crash", SHOP), "out of memory explains it"),
        (("serving.dependency", STORE), ("host.network", HOST), "a callee explains the wait"),
        (("serving.crash", ONE), ("release.code", SHOP), "peers are well"),
        (("serving.crash", ONE), ("hardware.gpu.slow", GPU), "it runs on the one"),
        (("release.code", STORE), ("serving.dependency", STORE), "own reason"),
    ],
    ids=lambda x: x if isinstance(x, str) else x[0],
)
def test_what_is_sure_weighs_on_the_others_and_what_is_weak_does_not(by, on, reason):
    sure, other = case(*by, SURE), case(*on, 0.0)
    cross(look(), [other, sure])
    assert other.logit == pytest.approx(WEIGHTS[reason])
    assert len(other.evidence) == 2
    assert sure.logit == SURE
    weak, other = case(*by, -1.0), case(*on, 0.0)
    cross(look(), [other, weak])
    assert other.logit == 0.0


@pytest.mark.parametrize(
    ("by", "on"),
    [
        (("release.model", MODEL), ("serving.traffic", SHOP)),  # a model version makes no traffic
        (("release.code", SHOP), ("concept.drift", MODEL)),
        (("release.code", SHOP), ("hardware.gpu.lost", GPU)),
        (("release.code", SHOP), ("host.neighbour", HOST)),
        (("data.contract", MODEL), ("release.model", MODEL)),
        (("serving.crash", ONE), ("observer.blind", Entity("source", "x"))),
        (("release.code", STORE), ("serving.dependency", Entity("dependency", "db:1"))),
    ],
    ids=lambda x: x[0],
)
def test_what_one_can_not_explain_is_left_alone(by, on):
    other = case(*on, 0.0)
    cross(look(), [case(*by, SURE), other])
    assert other.logit == 0.0


def test_the_order_of_cases_does_not_matter():
    def some():
        return [
            case("release.code", SHOP, 1.5),
            case("serving.traffic", SHOP, 1.4),
            case("serving.crash", ONE, 2.5),
        ]

    one, two = some(), some()[::-1]
    cross(look(), one)
    cross(look(), two)
    assert [c.logit for c in one] == [c.logit for c in two[::-1]]


# ---- trust


def test_what_an_untrusted_source_says_counts_half_for_and_against():
    def said(trusted):
        made = Case("serving.saturation", SHOP)
        m = Measured(P95, 1.0, 0.1, 0.01, 50, trusted=trusted)
        made.add("traffic up", "more", m)
        made.add("work itself slower", "slower", m, 0.5)
        return made

    full, half = said(trusted=True), said(trusted=False)
    assert full.logit == pytest.approx(
        PRIOR + WEIGHTS["traffic up"] + 0.5 * WEIGHTS["work itself slower"]
    )
    assert half.logit - PRIOR == pytest.approx(UNTRUSTED * (full.logit - PRIOR))
    assert all("not trusted" in e.text for e in half.evidence)


# ---- makers


def test_two_makers_that_name_the_same_cause_count_once_by_the_surer():
    def one(_):
        return [case("host.disk", HOST, 1.0), case("host.cpu", HOST, 0.0)]

    def two(_):
        return [case("host.disk", HOST, 2.0)]

    both, alone = diagnose(look(), (one, two)), diagnose(look(), (two,))
    assert [c.kind for c in both.causes] == ["host.disk", "host.cpu"]
    odds = both.causes[0].probability / both.causes[1].probability
    assert odds == pytest.approx(math.exp(2.0), rel=0.01)
    assert alone.top.probability == pytest.approx(math.exp(2) / (1 + math.exp(2)), abs=1e-3)
    assert len(MAKERS) >= 1


def test_every_group_of_an_incident_has_its_view_and_a_machine_only_when_it_is_alone():
    seen = []

    def spy(view):
        seen.append(view.group)
        return []

    found = diagnose(look(also=(STORE, HOST)), (spy,))
    assert seen == [SHOP, STORE]
    assert (found.top.kind, found.logs_of) == ("unknown", (SHOP, STORE))


def test_one_read_of_history_serves_nearly_all_rules():
    made = look()
    reads = []

    def read(series, start, end):
        reads.append(len(series))
        ts = np.arange(0.0, 111.0)
        return ts, np.ones((111, len(series)))

    table = tuple(
        Series(metric, entity)
        for entity in (HOST, SHOP, MODEL, STORE)
        for metric in NEEDS[entity.kind]
    )
    made.world.take(Frame("all", 110.0, table, np.ones(len(table))))
    view = Look(110.0, made.incident, made.world, read, 60.0, 500.0, 60.0)
    diagnose(view)
    assert len(reads) <= 2
    assert reads[0] > 20
    assert len(RULES) == len(set(RULES))
