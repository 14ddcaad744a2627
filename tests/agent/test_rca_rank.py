"""The ranker of root causes, on made-up systems whose truth is known."""

import numpy as np
import pytest

from agent.catalogue import SIGNALS
from agent.rca.evidence import begins, gather, spread
from agent.rca.flow import Symptom, attribute, lost_calls, reach
from agent.rca.kinds import Columns, Kind, group_of, kind_of, kind_of_signal
from agent.rca.rank import SILENT, probabilities, rank

METRICS = ("cpu", "mem", "workload", "latency-mean", "error")
LEVELS = {"cpu": 0.3, "mem": 2e8, "workload": 40.0, "latency-mean": 0.05, "error": 0.0}
FRONT, SHOP, CART, DB, ADS = range(5)
CALLS = np.array([(FRONT, SHOP), (SHOP, CART), (CART, DB), (FRONT, ADS)])
ROWS, AT = 400, 300


class System:
    """Five services with five metrics each, noise with a seed, one row a second."""

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)
        self.names = [(service, metric) for service in range(5) for metric in METRICS]
        levels = np.array([LEVELS[metric] for _, metric in self.names])
        self.values = levels * (1 + 0.05 * random.standard_normal((ROWS, len(levels))))
        self.times = np.arange(float(ROWS))

    def column(self, service, metric):
        return self.names.index((service, metric))

    def add(self, service, metric, share, first=AT):
        j = self.column(service, metric)
        self.values[first:, j] += share * (LEVELS[metric] or 1.0)
        return self

    def columns(self):
        return Columns(
            np.array([service for service, _ in self.names]),
            np.array([kind_of(metric) for _, metric in self.names]),
            np.array([METRICS.index(metric) for _, metric in self.names]),
        )

    def rank(self, at=AT, edges=None, symptom=None):
        return rank(
            self.times, self.values, self.columns(), float(at),
            entities=5, edges=edges, symptom=symptom,
        )  # fmt: skip


SLOW = Symptom(FRONT, METRICS.index("latency-mean"), Kind.LATENCY)


def slow(system, *services, share=4.0):
    for service in services:
        system.add(service, "latency-mean", share)
    return system


# ---------------------------------------------------------------- who


@pytest.mark.parametrize("metric", ["cpu", "mem", "latency-mean", "error"])
@pytest.mark.parametrize("service", [FRONT, CART, ADS])
def test_what_rises_alone_is_first_at_both_levels(service, metric):
    system = System().add(service, metric, 3.0)
    found = system.rank()
    assert found.entities[0] == service
    assert system.names[found.columns[0]] == (service, metric)
    assert found.probability[0] > 0.8
    assert not found.silent


def test_a_resource_goes_before_the_latency_it_causes():
    system = slow(System(), FRONT, SHOP, CART).add(CART, "cpu", 2.0)
    found = system.rank()
    assert system.names[found.columns[0]] == (CART, "cpu")


def test_the_graph_finds_the_callee_that_callers_wait_for():
    system = slow(System(), FRONT, SHOP, CART)
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == CART


def test_the_graph_keeps_the_caller_that_is_slower_than_what_it_waits_for():
    system = (
        slow(System(), FRONT, SHOP).add(SHOP, "latency-mean", 6.0).add(CART, "latency-mean", 0.6)
    )
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == SHOP


def test_who_is_not_called_from_the_symptom_is_less_suspect():
    system = slow(System(), FRONT, SHOP, CART).add(ADS, "cpu", 2.0).add(CART, "cpu", 2.0)
    apart = np.array([(FRONT, SHOP), (SHOP, CART), (CART, DB)])
    found = system.rank(edges=apart, symptom=SLOW).entities.tolist()
    assert found.index(CART) < found.index(ADS)


def test_a_caller_that_stops_calling_is_suspect_and_the_silent_callee_is_not():
    system = System().add(CART, "workload", -0.9).add(DB, "workload", -0.9)
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == SHOP


def test_lost_calls_count_only_what_the_caller_did_not_lose_itself():
    system = System().add(SHOP, "workload", -0.9).add(CART, "workload", -0.9)
    columns = system.columns()
    evidence = gather(system.times, system.values, float(AT), columns.group)
    lost = lost_calls(evidence, columns, CALLS, 5)
    assert lost[FRONT] > 1.0
    assert lost[SHOP] < 0.2


def test_a_callee_that_was_never_called_before_takes_nothing_from_its_caller():
    system = slow(System(), FRONT, SHOP, CART)
    system.values[:AT, system.column(DB, "latency-mean")] = np.nan
    system.values[:AT, system.column(DB, "workload")] = np.nan
    system.add(DB, "latency-mean", 8.0)
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == CART


def test_whose_requests_are_not_told_is_taken_to_have_those_of_its_caller():
    system = slow(System(), FRONT, SHOP, CART)
    system.values[:, system.column(CART, "workload")] = np.nan
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == CART


def test_a_symptom_that_is_not_measured_is_taken_at_its_word():
    system = slow(System(), SHOP, CART)
    system.values[:, system.column(FRONT, "latency-mean")] = np.nan
    system.add(ADS, "cpu", 0.5)
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == CART


def test_a_symptom_without_excess_does_not_overrule_evidence():
    system = System().add(DB, "mem", 3.0)
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == DB


# ---------------------------------------------------------------- how sure


def test_nothing_that_moved_is_said_so():
    found = System().rank()
    assert found.silent
    assert found.probability[0] < SILENT
    assert len(found.entities) == 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("first", "later"), [(CART, ADS), (ADS, CART)])
def test_of_two_that_moved_alike_the_first_to_move_is_the_likelier(first, later, seed):
    system = System(seed).add(first, "cpu", 3.0).add(later, "cpu", 3.2, first=AT + 40)
    found = system.rank()
    assert found.entities[0] == first
    assert found.probability[0] > 1.5 * found.probability[1]


def test_order_does_not_outweigh_evidence():
    system = System().add(ADS, "mem", 0.3).add(CART, "cpu", 5.0, first=AT + 40)
    assert system.rank().entities[0] == CART


def test_coarse_samples_tell_no_order():
    system = System().add(CART, "cpu", 3.0).add(ADS, "cpu", 3.2, first=AT + 40)
    every = slice(0, None, 20)
    found = gather(
        system.times[every], system.values[every], float(AT), system.columns().group, 0.02
    )
    assert found.blocks.rows == 1
    assert not found.moves.begun.any()


def test_two_that_moved_alike_are_no_answer():
    system = System().add(CART, "cpu", 3.0).add(ADS, "cpu", 3.0)
    found = system.rank()
    assert set(found.entities[:2].tolist()) == {CART, ADS}
    assert "nobody" in found.silent


def test_probabilities_sum_to_one_with_the_unknown():
    found = System().add(CART, "cpu", 1.0).rank()
    assert found.probability.sum() + found.unknown == pytest.approx(1.0)
    assert (np.diff(found.probability) <= 1e-12).all()


def test_no_score_is_no_probability():
    likely, unknown = probabilities(np.zeros(3), 0.0)
    assert likely.tolist() == [0.0, 0.0, 0.0]
    assert unknown == 1.0


@pytest.mark.parametrize("at", [0.0, 1e9])
def test_without_past_or_incident_there_is_no_evidence(at):
    found = System().add(CART, "cpu", 3.0).rank(at=at)
    assert "no samples" in found.silent


def test_no_columns_at_all():
    none = np.zeros(0, dtype=np.int64)
    found = rank(
        np.arange(9.0),
        np.zeros((9, 0)),
        Columns(none, none, none),
        5.0,
        entities=3,
        edges=CALLS[:1],
    )
    assert len(found.entities) == 3
    assert found.silent


# ---------------------------------------------------------------- when


@pytest.mark.parametrize("off", [-60, -20, 20])
def test_a_fault_time_that_is_off_changes_nothing(off):
    system = System().add(CART, "cpu", 1.0)
    assert system.rank(at=AT + off).entities[0] == CART


def test_the_incident_begins_a_quarter_earlier_than_told():
    times = np.arange(100.0)
    assert begins(times, 60.0) == 50
    assert begins(times, 98.0) == 97
    assert begins(times, 0.0) == 0


@pytest.mark.parametrize("rows", [12, 30])
def test_a_short_past_is_not_eaten_by_a_long_incident(rows):
    system = System().add(CART, "cpu", 1.0)
    system.times, system.values = system.times[AT - rows :], system.values[AT - rows :]
    assert system.rank().entities[0] == CART


def test_one_wild_sample_is_no_move():
    system = System().add(CART, "cpu", 0.5)
    system.values[AT + 40, system.column(ADS, "cpu")] *= 500
    assert system.rank().entities[0] == CART


def test_a_column_that_is_always_wild_loses_its_lead():
    system = System().add(CART, "cpu", 1.0)
    for first in range(0, ROWS, 40):
        system.values[first : first + 25, system.column(ADS, "cpu")] *= 5
    assert system.rank().entities[0] == CART


# ---------------------------------------------------------------- what the numbers look like


def test_a_past_of_zeros_counts_and_stays_finite():
    system = System().add(CART, "error", 0.2)
    assert not system.values[:AT, system.column(CART, "error")].any()
    found = system.rank()
    assert found.entities[0] == CART
    assert np.isfinite(found.scores).all()
    assert found.evidence.moves.up.max() <= 100


def test_constants_before_and_after_say_nothing():
    system = System().add(CART, "cpu", 1.0)
    system.values[:, system.column(ADS, "mem")] = 7.0
    found = system.rank()
    ranked = [system.names[j] for j in found.columns]
    assert found.evidence.moves.up[system.column(ADS, "mem")] == 0
    assert ranked[0] == (CART, "cpu")


def test_a_count_must_move_by_one_for_one_deviation():
    past = np.repeat([[5.0, 0.5]], 50, axis=0)
    _, scale = spread(past)
    assert scale.tolist() == [1.0, pytest.approx(0.01)]


def test_missing_samples_and_columns_are_skipped():
    system = System().add(CART, "cpu", 1.0)
    gaps = np.random.default_rng(1).random(system.values.shape) < 0.3
    system.values[gaps] = np.nan
    system.values[:, system.column(DB, "cpu")] = np.nan
    system.values[:AT, system.column(ADS, "mem")] = np.nan
    system.values[AT:, system.column(ADS, "error")] = np.nan
    with np.errstate(all="raise"):
        found = system.rank(edges=CALLS, symptom=SLOW)
    assert found.entities[0] == CART
    assert np.isfinite(found.scores).all()
    assert np.isfinite(found.column_scores).all()


def test_infinite_values_are_no_samples():
    system = System().add(CART, "cpu", 1.0)
    system.values[::7, system.column(ADS, "error")] = np.inf
    system.values[AT:, system.column(DB, "mem")] = -np.inf
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == CART


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_more_or_fewer_requests_everywhere_do_not_hide_who_is_slow(factor):
    system = slow(System(), FRONT, SHOP, CART)
    for service in range(5):
        system.values[AT:, system.column(service, "workload")] *= factor
    assert system.rank(edges=CALLS, symptom=SLOW).entities[0] == CART


def test_the_unit_of_a_metric_does_not_matter():
    one, other = (slow(System(), FRONT, SHOP, CART).add(CART, "cpu", 1.0) for _ in range(2))
    for service in range(5):
        other.values[:, other.column(service, "mem")] /= 2**20
        other.values[:, other.column(service, "latency-mean")] *= 1000
    a, b = (x.rank(edges=CALLS, symptom=SLOW) for x in (one, other))
    assert a.entities.tolist() == b.entities.tolist()
    assert a.scores == pytest.approx(b.scores)


# ---------------------------------------------------------------- names and places


@pytest.mark.parametrize("graph", [False, True])
def test_names_and_places_do_not_matter(graph):
    system = slow(System(), FRONT, SHOP, CART).add(CART, "cpu", 1.0).add(ADS, "mem", 0.3)
    random = np.random.default_rng(5)
    columns, names = random.permutation(25), random.permutation(5)
    edges, symptom = (CALLS, SLOW) if graph else (None, None)
    a = system.rank(edges=edges, symptom=symptom)
    there = system.columns()
    b = rank(
        system.times, system.values[:, columns],
        Columns(names[there.entity[columns]], there.kind[columns], there.group[columns]), float(AT),
        entities=5, edges=names[CALLS][::-1] if graph else None,
        symptom=Symptom(int(names[FRONT]), SLOW.group, SLOW.kind) if graph else None,
    )  # fmt: skip
    assert names[a.entities].tolist() == b.entities.tolist()
    assert a.columns.tolist() == columns[b.columns].tolist()
    assert a.scores == pytest.approx(b.scores)


def test_the_same_twice():
    a, b = (slow(System(3), FRONT, CART).rank(edges=CALLS, symptom=SLOW) for _ in range(2))
    assert a.columns.tobytes() == b.columns.tobytes()
    assert a.scores.tobytes() == b.scores.tobytes()


def test_the_best_column_of_an_entity_has_its_score():
    found = slow(System(), FRONT, SHOP, CART).add(DB, "cpu", 0.2).rank(edges=CALLS, symptom=SLOW)
    owners = found.evidence, System().columns().entity[found.columns]
    first = list(dict.fromkeys(owners[1].tolist()))
    assert first == found.entities.tolist()


def test_cost_grows_with_columns_and_callers_only(monkeypatch):
    counted = []
    real = np.searchsorted

    def counting(a, v, **more):
        counted.append(np.size(v))
        return real(a, v, **more)

    def of(m):
        counted.clear()
        random = np.random.default_rng(0)
        values = random.normal(10.0, 1.0, (60, 3 * m))
        values[40:] += 5.0
        columns = Columns(np.arange(3 * m) % m, np.repeat([8, 10, 0], m), np.repeat([0, 1, 2], m))
        edges = np.column_stack([random.integers(0, m, 3 * m), random.integers(0, m, 3 * m)])
        rank(np.arange(60.0), values, columns, 40.0, entities=m, edges=edges, symptom=SLOW)
        return sum(counted)

    monkeypatch.setattr(np, "searchsorted", counting)
    assert of(800) < 9 * of(100)


# ---------------------------------------------------------------- flow


def test_reach_follows_calls_and_survives_circles():
    edges = np.array([(0, 1), (1, 2), (2, 0), (3, 4)])
    assert reach(edges, 5, 1).tolist() == [True, True, True, False, False]


def test_a_circle_of_calls_and_a_call_to_itself_are_no_trouble():
    system = slow(System(), FRONT, SHOP, CART)
    circle = np.vstack([CALLS, [(CART, SHOP), (CART, CART)]])
    found = system.rank(edges=circle, symptom=SLOW)
    assert np.isfinite(found.scores).all()


def test_success_in_percent_and_in_shares_is_the_same():
    def explains(top):
        random = np.random.default_rng(2)
        values = np.full((60, 3), top) - top * 0.001 * random.random((60, 3))
        values[40:, :2] -= 0.3 * top
        three = np.arange(3)
        columns = Columns(three, np.full(3, Kind.SUCCESS), np.zeros(3, dtype=np.int64))
        evidence = gather(np.arange(60.0), values, 40.0, columns.group)
        edges = np.array([(0, 1), (1, 2)])
        flow = attribute(evidence, columns, edges, 3, Symptom(0, 0, Kind.SUCCESS))
        return flow.explains

    assert explains(1.0).argmax() == 1
    assert explains(1.0) == pytest.approx(explains(100.0), abs=1e-6)


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("cpu", Kind.CPU), ("container-cpu-usage", Kind.CPU), ("mem-rate", Kind.MEMORY), ("diskio", Kind.DISK),
        ("syscall-read", Kind.DISK), ("net-rx", Kind.NETWORK), ("socket", Kind.SOCKETS), ("error", Kind.ERRORS),
        ("availability-Average", Kind.SUCCESS), ("success-rate", Kind.SUCCESS), ("latency-p99", Kind.LATENCY),
        ("client-latency-90", Kind.CLIENT_LATENCY), ("workload", Kind.TRAFFIC), ("requests-Sum", Kind.TRAFFIC),
        ("node-cpu", Kind.HOST), ("in-latency-50-src.memcached", Kind.CALL_LATENCY),
        ("in-latency-50-dst.cpu-service", Kind.LATENCY), ("temperature", Kind.OTHER),
    ],
)  # fmt: skip
def test_kind_is_read_from_the_metric(metric, kind):
    assert kind_of(metric) is kind


def test_the_other_end_of_a_call_is_not_read():
    assert group_of("in-latency-50-src.cart") == group_of("in-latency-50-src.checkout")
    assert kind_of("in-latency-50-src.error-service") is Kind.CALL_LATENCY


def test_every_signal_of_the_catalogue_has_a_kind():
    kinds = {name: kind_of_signal(name) for name in SIGNALS}
    assert kinds["service.latency_p95_seconds"] is Kind.LATENCY
    assert kinds["service.error_ratio"] is Kind.ERRORS
    assert kinds["process.cpu_cores"] is Kind.CPU
    assert kinds["host.disk_busy_ratio"] is Kind.DISK
    assert kinds["service.requests_per_second"] is Kind.TRAFFIC
