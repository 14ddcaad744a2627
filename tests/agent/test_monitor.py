"""Objectives from the first minute; unknown neither breaks nor heals; what left has ended."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.budget import Ledger
from agent.catalogue import SIGNALS
from agent.config import Config
from agent.errors import Refused
from agent.journal import Entry
from agent.memory import Memory
from agent.model import Entity, Frame, Series
from agent.monitor import Monitor, Watch
from agent.objectives import Limit, entity_globs, limits_of
from agent.pipeline import Moment, detect
from agent.ports import Why
from agent.web.living import Living
from detectors.together import Together

S = Entity("service", "shop")
P95 = Series("service.latency_p95_seconds", S)
RPS = Series("service.requests_per_second", S)
LIMIT = Limit(
    "service.latency_p95_seconds", math.nan, 0.25, 3.0, ("service:shop",), name="slow", harm=True
)


def run(watch: Watch, values, start=0.0, table=(P95,)):
    """Feed one column a second; return {ts: anomalies}."""
    return {
        start + i: watch.take(
            Frame("models", start + i, table, np.array([v, *[1.0] * (len(table) - 1)]))
        )
        for i, v in enumerate(values)
    }


def test_an_objective_must_be_broken_for_a_while():
    seen = run(Watch(1.0, None, [LIMIT]), [0.1, 0.5, 0.1, 0.5, 0.5, 0.5, 0.5])
    assert [ts for ts, found in seen.items() if found] == [6.0]
    (anomaly,) = seen[6.0]
    assert (anomaly.onset, anomaly.end, anomaly.road, anomaly.harm) == (
        3.0,
        None,
        "objective",
        True,
    )
    assert anomaly.size == pytest.approx(0.25)
    assert anomaly.direction == 1


def test_it_ends_when_well_for_half_as_long_and_says_so_once():
    seen = run(Watch(1.0, None, [LIMIT]), [0.5] * 5 + [0.1] * 5)
    ended = [(ts, a.end) for ts, found in seen.items() for a in found if a.end is not None]
    assert ended == [(7.0, 5.0)]
    assert seen[8.0] == []


def test_unknown_neither_breaks_nor_heals():
    nan = math.nan
    seen = run(Watch(1.0, None, [LIMIT]), [0.5, nan, nan, nan, nan])
    assert not any(seen.values())
    seen = run(Watch(1.0, None, [LIMIT]), [0.5] * 5 + [nan] * 30)
    assert all(found and found[0].end is None for ts, found in seen.items() if ts >= 4)


def test_what_stood_before_a_source_was_not_read_for_long_does_not_count_with_what_stands_after():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.1, 0.5])
    assert not watch.take(Frame("models", 1201.0, (P95,), np.array([0.5])))
    seen = run(watch, [0.5, 0.5, 0.5], start=1202.0)
    assert [(ts, found[0].onset) for ts, found in seen.items() if found] == [(1204.0, 1201.0)]
    assert not any(a.end for a in watch.take(Frame("models", 1205.0, (P95,), np.array([0.1]))))
    (still,) = watch.take(Frame("models", 2405.0, (P95,), np.array([0.1])))
    assert still.end is None, "well before and after, and unknown between"
    found = [a for some in run(watch, [0.1, 0.1], start=2406.0).values() for a in some]
    assert [a.end for a in found if a.end is not None] == [2405.0]


def test_a_slow_source_and_a_short_silence_are_no_pause():
    watch = Watch(600.0, None, [replace(LIMIT, for_s=1200.0)])
    seen = [watch.take(Frame("models", 600.0 * i, (P95,), np.array([0.5]))) for i in range(3)]
    assert [bool(found) for found in seen] == [False, False, True]
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5])
    (found,) = watch.take(Frame("models", 60.0, (P95,), np.array([0.5])))
    assert found.onset == 0.0


def test_a_breach_is_as_deep_as_it_is_and_not_as_an_excursion_was_that_broke_nothing():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.1, 9.0, 0.1])
    (found,) = run(watch, [0.5] * 4, start=100.0)[103.0]
    assert (found.value, found.size) == (0.5, pytest.approx(0.25))


def test_a_lower_limit():
    low = Limit("service.requests_per_second", 1.0, math.nan, 0.0, ("service:*",), name="silent")
    watch = Watch(1.0, None, [low])
    found = watch.take(Frame("m", 1.0, (RPS,), np.array([0.2])))
    assert found[0].direction == -1
    assert found[0].size == pytest.approx(0.8)


def test_a_limit_on_both_sides_tells_the_worst_on_either():
    both = Limit("service.requests_per_second", 10.0, 20.0, 0.0, ("service:*",), name="within")
    for values, side, worst, size in (
        ((8.0, 1.0, 5.0), -1, 1.0, 9.0),
        ((22.0, 60.0, 30.0), 1, 60.0, 40.0),
    ):
        seen = run(Watch(1.0, None, [both]), values, table=(RPS,))
        (anomaly,) = seen[2.0]
        assert (anomaly.direction, anomaly.value, anomaly.size) == (side, worst, size)
        assert (anomaly.low, anomaly.high) == (10.0, 20.0)


def test_every_signal_can_have_a_limit_that_holds_from_the_first_row():
    kinds = [s for s in SIGNALS.values() if s.kind != "counter"]
    assert len(kinds) > 100
    for s in kinds:
        series = Series(s.name, Entity(s.entity_kind, "one"), (("mount", "/"),))
        for key, limit, x in (("max", 0.25, 0.75), ("min", 0.75, 0.25)):
            config = Config(
                objectives=[{"signal": s.name, key: limit, "for": "0s", "labels": {"mount": "/"}}]
            )
            watch = Watch(1.0, None, limits_of(config))
            found = {a.family: a for a in watch.take(Frame("any", 1e9, (series,), np.array([x])))}
            name = f"{s.name} at {'most' if key == 'max' else 'least'} {limit:g}"
            assert found[name].road == "objective", s.name
            assert found[name].harm == s.harm
            assert found[name].direction == (1 if key == "max" else -1)


def test_processes_that_wait_for_a_cpu_all_the_time_are_a_warning_without_any_setting():
    host = Entity("host", "one")
    cpu, io = (
        Series("host.pressure_ratio", host, (("resource", resource), ("who", "some")))
        for resource in ("cpu", "io")
    )
    rows = [0.95] * 29 + [0.2] + [0.95] * 33  # of cpu; io stays at 1
    seen = run(Watch(1.0, None, limits_of(Config())), rows, table=(cpu, io))
    told = {ts: found for ts, found in seen.items() if found}
    (anomaly,) = told[min(told)]
    assert min(told) - anomaly.onset == 30.0
    assert (anomaly.series, anomaly.family) == (cpu, "processes wait for a CPU")
    assert not anomaly.harm


def test_an_objective_names_both_of_its_sides():
    config = Config(objectives=[{"signal": "host.load1_count", "min": 1, "max": 8}])
    assert limits_of(config)[-1].name == "host.load1_count at least 1 and at most 8"


def test_an_objective_whose_labels_nothing_has_is_told():
    def disk(mount):
        return {"signal": "host.disk_utilization_ratio", "max": 0.9, "labels": {"mount": mount}}

    limits = limits_of(
        Config(
            objectives=[
                disk("/"),
                disk("/dta"),
                {"signal": "gpu.fan_ratio", "max": 0.9, "labels": {"a": "b"}},
            ]
        )
    )
    monitor = Monitor(None, limits)
    assert monitor.idle() == []
    root = Series("host.disk_utilization_ratio", Entity("host", "h"), (("mount", "/"),))
    monitor.take(Frame("host", 1.0, (root,), np.array([0.5])))
    assert [limit.labels for limit in monitor.idle()] == [(("mount", "/dta"),)]
    said = Living(SimpleNamespace(walk=SimpleNamespace(monitor=monitor))).hints()
    assert said == ["objective host.disk_utilization_ratio at most 0.9: no series has mount=/dta"]
    late = Series("host.disk_utilization_ratio", Entity("host", "h"), (("mount", "/dta"),))
    monitor.take(Frame("slow", 2.0, (late,), np.array([0.5])))
    assert monitor.idle() == []


def test_what_left_with_its_series_has_ended():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    found = watch.take(Frame("models", 5.0, (RPS,), np.array([1.0])))
    assert [a.end for a in found] == [5.0]


def test_what_was_abnormal_at_a_source_that_is_taken_out_of_config_has_ended():
    monitor = Monitor(None, (LIMIT,))
    for ts in range(5):
        found = monitor.take(Frame("probe", float(ts), (P95,), np.array([0.5])))
    assert [a.end for a in found] == [None]
    monitor.drop("probe")
    over = monitor.take(Frame("host", 7.0, (RPS,), np.array([1.0])))
    assert [(a.series, a.end) for a in over] == [(P95, 7.0)]
    assert monitor.take(Frame("host", 8.0, (RPS,), np.array([1.0]))) == []
    again = [monitor.take(Frame("probe", 9.0 + i, (P95,), np.array([0.5]))) for i in range(4)]
    assert [bool(found) for found in again] == [False, False, False, True]
    assert again[-1][0].onset == 9.0, "it came back with a reload, and is bad"


def test_new_series_do_not_disturb_a_breach():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    found = watch.take(Frame("models", 5.0, (P95, RPS), np.array([0.5, 1.0])))
    assert found[0].onset == 0.0


def test_a_breach_survives_a_reload_of_the_same_objective():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    watch.relimit([LIMIT])
    found = watch.take(Frame("models", 5.0, watch._series, np.array([0.5])))
    assert found[0].onset == 0.0
    watch.relimit([])
    assert [a.end for a in watch.take(Frame("models", 6.0, watch._series, np.array([0.5])))] == [
        6.0
    ]


def test_a_clock_set_back_by_an_hour_ends_nothing():
    watch = Watch(1.0, None, [LIMIT])
    run(watch, [0.5] * 5)
    watch.rebase(-3600.0)
    found = watch.take(Frame("models", 5.0 - 3600.0, (P95,), np.array([0.5])))
    assert found[0].onset == -3600.0
    assert found[0].end is None


def test_service_objectives_mean_the_service_its_models_and_features():
    assert entity_globs("model", "shop", ["fraud"]) == ("model:fraud",)
    assert entity_globs("feature", "shop", ["fraud"]) == ("feature:fraud/*",)
    assert "service:shop" in entity_globs("service", "shop", [])


class Fixed:
    """A detector whose p-values are what the row says: to see what the monitor makes of them."""

    def __init__(self, n):
        self.n = n
        self.trusted = []

    def score(self, ts, x):
        return np.asarray(x, dtype=float)

    def learn(self, ts, x, trust):
        self.trusted.append(trust.copy())

    def remap(self, old):
        self.n = len(old)

    def dump(self):
        return b"state"

    def load(self, state):
        if state != b"state":
            raise Refused("other state")

    def explain(self, i):
        return Why("spike", 0.0, 0.4, 9.0, 10_000, calibrated=True)


def test_one_abnormal_row_is_no_episode_two_are_and_nobody_learns_from_them():
    detector = Fixed(1)
    watch = Watch(1.0, lambda _s, _n: detector, [])
    seen = run(watch, [0.5, 1e-9, 0.5, 0.5, 1e-9, 1e-9, 1e-9] + [0.5] * 10)
    assert not seen[1.0]
    going = [ts for ts, found in seen.items() if found and found[0].end is None]
    assert going[0] == 5.0
    assert sum(1 for found in seen.values() for a in found if a.end is not None) == 1
    assert not detector.trusted[5][0]
    assert detector.trusted[0][0]


def test_late_and_duplicate_ticks_teach_nothing():
    detector = Fixed(1)
    watch = Watch(1.0, lambda _s, _n: detector, [])
    for ts in (1.0, 2.0, 2.0, 1.5, 3.0):
        watch.take(Frame("m", ts, watch._series or (P95,), np.array([0.5])))
    assert len(detector.trusted) == 3


def test_state_comes_back_after_a_restart_for_series_that_are_still_there():
    watch = Watch(1.0, lambda _s, n: Fixed(n), [])
    run(watch, [0.5] * 700)
    state = watch.dump()
    again = Watch(1.0, lambda _s, n: Fixed(n), [])
    again.load(state)
    assert again.rows == 700
    assert again.take(Frame("models", 700.0, (P95, RPS), np.array([0.5, 0.5]))) == []
    with pytest.raises(Refused, match="damaged"):
        again.load(b"\x01")


def test_learning_is_told_per_source():
    monitor = Monitor(lambda _s, n: Fixed(n), ())
    monitor.take(Frame("host", 10.0, (P95,), np.array([0.5])))
    state = monitor.learning()["host"]
    assert state["since"] == 10.0
    assert not state["ready"]
    assert state["ready_in_s"] == 599.0


def test_where_rows_are_far_apart_one_abnormal_row_is_enough():
    watch = Watch(60.0, lambda _s, _n: Fixed(1), [])
    assert not watch.take(Frame("m", 60.0, (P95,), np.array([0.5])))
    found = watch.take(Frame("m", 120.0, watch._series, np.array([1e-9])))
    assert [a.end for a in found] == [None]


# ---- the alarm budget

HOST = Entity("host", "h")
MANY = tuple(Series("host.core_utilization_ratio", HOST, (("core", f"{i:02}"),)) for i in range(12))


class Quiet(Fixed):
    """Nothing is far out: only p decides."""

    def explain(self, i):
        return Why("spike", 0.0, 0.4, 1.0, 10_000, calibrated=True)


def view(step_s, of):
    return Together(Together.Config(step_s=step_s), of)


def made(ledger=None, detector=None, step_s=60.0):
    return Watch(
        step_s, lambda _s, n: detector or Quiet(n), [],
        source="host", ledger=ledger, make_view=view,
    )  # fmt: skip


def walk(watch, rows, start=0.0):
    found = {}
    for i, row in enumerate(rows):
        ts = start + watch.step_s * (i + 1)
        found[ts] = watch.take(Frame("host", ts, MANY, row))
    return found


def ordinary(rows, seed=0):
    return np.random.default_rng(seed).uniform(0.002, 1.0, (rows, len(MANY)))


def test_a_series_is_named_when_it_is_rarer_than_its_share_of_the_budget():
    ledger = Ledger()
    watch = made(ledger)
    walk(watch, ordinary(100))
    alpha = 0.1 * 60.0 / 86_400.0
    row = np.full(len(MANY), 0.5)
    row[3] = alpha * 0.9
    assert [a.series for a in watch.take(Frame("host", 1e5, MANY, row))] == [MANY[3]]
    assert sum(day.anomalies for day in ledger.days.values()) == 1
    tight = made(Ledger(tightness=0.5))
    walk(tight, ordinary(100))
    assert tight.take(Frame("host", 1e5, MANY, row)) == []


def test_noise_asks_one_signal_to_be_rarer_and_never_an_objective():
    class Said:
        word, ts, signals = "noise", 0.0, (str(MANY[3]),)

    limit = Limit("host.core_utilization_ratio", math.nan, 0.9, 0.0, ("host:*",), name="busy")
    ledger = Ledger()
    watch = Watch(60.0, lambda _s, n: Quiet(n), [limit], source="host", ledger=ledger)
    walk(watch, ordinary(100) * 0.8)
    ledger.heed([Said], 1, 6000.0)
    row = np.full(len(MANY), 0.5)
    row[[3, 4]] = 0.1 * 60.0 / 86_400.0 * 0.9
    assert [a.series for a in watch.take(Frame("host", 1e5, MANY, row))] == [MANY[4]]
    row[3] /= 3.0
    assert MANY[3] in [a.series for a in watch.take(Frame("host", 1e5 + 60, MANY, row))]
    row[3] = 0.95
    found = watch.take(Frame("host", 1e5 + 120, MANY, row))
    assert ("objective", MANY[3]) in [(a.road, a.series) for a in found]


def test_what_people_label_reaches_the_ledger_with_the_next_tick():
    memory = Memory()
    walk = SimpleNamespace(memory=memory, monitor=Monitor(None, ()), bugs=None)
    body = {"label": "noise", "by": "olga", "note": "", "signals": [str(MANY[3])]}
    memory.apply(Entry(1, 5.0, "label", "inc-1", body, "", ""))
    detect(walk, Moment(6.0, [], []))
    assert walk.monitor.ledger.factors(MANY)[3] == pytest.approx(1 / 3)
    memory.apply(Entry(2, 7.0, "label", "inc-1", {**body, "label": "real"}, "", ""))
    detect(walk, Moment(8.0, [], []))
    assert walk.monitor.ledger.factors(MANY)[3] == pytest.approx(3.0)
    memory.apply(Entry(3, 9.0, "label", "inc-1", {**body, "label": "wat"}, "", ""))
    assert memory.labels["inc-1"].word == "real"
    assert "noise or real" in memory.strange[-1][1]


def test_while_histories_are_short_labels_ask_for_more_deviations():
    ledger = Ledger(tightness=0.1)
    far = {0: 15.0}

    class Short(Fixed):
        def explain(self, i):
            return Why("spike", 0.0, 0.4, far[0], 100, calibrated=False)

    watch = made(ledger, Short(len(MANY)))
    walk(watch, ordinary(100))
    row = np.full(len(MANY), 0.5)
    row[3] = 5e-4  # as small as so short a history can give
    assert watch.take(Frame("host", 1e5, MANY, row)) == []
    far[0] = 17.0
    assert len(watch.take(Frame("host", 1e5 + 60, MANY, row))) == 1


@pytest.mark.parametrize(
    ("value", "low", "high", "side", "size"),
    [
        (5.0, 1.0, 3.0, 1, 2.0),
        (0.5, 1.0, 3.0, -1, 0.5),
        (2.5, 1.0, 3.0, 1, 0.0),
        (1.5, 1.0, 3.0, -1, 0.0),
        (5.0, math.nan, math.nan, 0, 0.0),
        (math.nan, 1.0, 3.0, 0, 0.0),
        (5.0, -math.inf, 3.0, 1, 2.0),
    ],
)
def test_an_anomaly_says_on_which_side_of_its_band_it_is(value, low, high, side, size):
    class Band(Fixed):
        def score(self, ts, x):
            return np.full(self.n, 1e-9)

        def explain(self, i):
            return Why("level", low, high, 9.0, 10_000, calibrated=True)

    (found,) = run(Watch(60.0, lambda _s, n: Band(n), []), [value])[0.0]
    assert (found.direction, found.size) == (side, pytest.approx(size))


@pytest.mark.parametrize(("step", "rows"), [(1.0, 20), (5.0, 4), (60.0, 1)])
def test_the_prior_waits_until_what_is_far_out_has_stayed(step, rows):
    class Young(Fixed):
        def explain(self, i):
            return Why("level", 0.0, 0.4, 30.0, 100, calibrated=False)

    watch = Watch(step, lambda _s, n: Young(n), [], source="host")
    calm, far = np.full(12, 0.5), np.full(12, 0.5)
    far[0] = 1e-5
    clock = itertools.count(1)

    def feed(row, times):
        for _ in range(times):
            found = watch.take(Frame("host", step * next(clock), MANY, row))
        return [a.series for a in found if a.end is None]

    feed(calm, 700)
    if rows > 1:
        assert feed(far, rows - 1) == []
        assert feed(calm, 1) == []
        assert feed(far, rows - 1) == []  # it had gone: it must stay anew
    began = step * next(clock)
    found = watch.take(Frame("host", began, MANY, far))
    assert [a.series for a in found] == [MANY[0]]
    assert found[0].onset == began - rows * step


def test_the_prior_names_only_the_few_that_are_farthest_out():
    class Young(Fixed):
        def explain(self, i):
            return Why("spike", 0.0, 0.4, 20.0 + i, 100, calibrated=False)

    wide = tuple(replace(MANY[0], labels=(("core", f"{i:03}"),)) for i in range(200))
    watch = Watch(60.0, lambda _s, n: Young(n), [], source="host")
    calm, storm = np.full(200, 0.5), np.full(200, 1e-4)
    clock = itertools.count(60, 60)

    def feed(row, rows):
        found = [watch.take(Frame("host", float(next(clock)), wide, row)) for _ in range(rows)]
        return {a.series for a in found[-1] if a.end is None}

    feed(calm, 100)
    assert feed(storm, 1) == set(wide[-3:])
    assert feed(storm, 3) == set(wide[-3:]), "no more of them while the tokens are spent"
    assert feed(calm, 100) == set()
    assert len(feed(storm, 1)) in {1, 2}, "tokens come back with the days that are watched"


def test_what_is_abnormal_together_is_named_by_its_carriers_and_not_learnt():
    ledger, detector = Ledger(), Quiet(len(MANY))
    watch = made(ledger, detector)
    walk(watch, ordinary(1500))
    row = np.full(len(MANY), 0.5)
    row[[2, 7, 11]] = 2e-4  # each of them alone is too common to be named
    found = watch.take(Frame("host", 1e5, MANY, row))
    assert {a.series for a in found} == {MANY[2], MANY[7], MANY[11]}
    assert all(a.together is not None and a.together < 7e-4 for a in found)
    assert all(set(a.carriers) == {MANY[2], MANY[7], MANY[11]} for a in found)
    assert np.flatnonzero(~detector.trusted[-1]).tolist() == [2, 7, 11]
    assert sum(day.anomalies for day in ledger.days.values()) == 0
    ended = [a for some in walk(watch, ordinary(20, 1), 1e5).values() for a in some if a.end]
    assert {a.series for a in ended} == {MANY[2], MANY[7], MANY[11]}


def test_who_was_abnormal_with_a_series_is_told_by_name_also_after_series_moved():
    class Company(Fixed):
        def explain(self, i):
            return Why("joint", 0.0, 0.4, 20.0, 5000, calibrated=True, carriers=(3, 5))

    watch = made(Ledger(), Company(len(MANY)))
    walk(watch, ordinary(100))
    row = np.full(len(MANY), 0.5)
    row[3] = 1e-9
    (found,) = watch.take(Frame("host", 1e5, MANY, row))
    assert found.series == MANY[3]
    assert found.carriers == (MANY[3], MANY[5])
    moved = MANY[1:]
    (later,) = watch.take(Frame("host", 1e5 + 60, moved, np.full(len(moved), 0.5)))
    assert later.carriers == (MANY[3], MANY[5])


def test_a_group_that_is_abnormal_more_often_than_it_may_is_learnt():
    watch = made()
    walk(watch, ordinary(100))
    view = watch._groups.view
    rarely, low = view.score, np.array([1e-9])
    view.carriers = lambda _g: np.array([2, 7])
    half = np.full(len(MANY), 0.5)
    learnt = []
    for episode in range(3):
        rows = view.rows[0]
        view.score = lambda _ts, _p: low
        assert len(watch.take(Frame("host", 1e5 + 6000 * episode, MANY, half))) >= 2
        view.score = rarely
        learnt.append(int(view.rows[0] - rows))
        walk(watch, ordinary(50, episode), 1e5 + 6000 * episode + 60)
    assert learnt == [0, 1, 1]  # one token to begin with; one comes back a day


def test_one_leap_is_no_matter_of_the_group():
    ledger = Ledger()
    watch = made(ledger)
    walk(watch, ordinary(1500))
    row = np.full(len(MANY), 0.5)
    row[3] = 1e-12
    (alone,) = watch.take(Frame("host", 1e5, MANY, row))
    assert alone.together is None


def test_an_excursion_of_the_group_that_stays_becomes_ordinary():
    ledger = Ledger()
    watch = made(ledger)
    walk(watch, ordinary(1500))
    row = np.full((400, len(MANY)), 0.5)
    row[:, [2, 7, 11]] = 2e-4
    found = walk(watch, row, 1e5)
    assert any(a.end is None for a in found[1e5 + 60.0 * 30])
    assert not [a for a in found[1e5 + 60.0 * 400] if a.end is None]


def test_late_ticks_and_gaps_are_survived_by_the_group():
    watch = made()
    walk(watch, ordinary(1500))
    row = np.full(len(MANY), 0.5)
    row[[2, 7, 11]] = 2e-4
    assert watch.take(Frame("host", 1500 * 60.0, MANY, row)) == []  # a repeated tick
    hole = np.full(len(MANY), np.nan)
    assert watch.take(Frame("host", 1e5, MANY, hole)) == []
    assert len(watch.take(Frame("host", 1e5 + 60, MANY, row))) == 3


def test_the_group_goes_on_after_a_restart_and_when_series_come_and_go():
    watch = made()
    walk(watch, ordinary(1500))
    again = made()
    again.load(watch.dump())
    row = np.full(len(MANY) + 2, 0.5)
    row[[2, 7, 11]] = 1e-4  # a service has come, and takes its share
    more = (*MANY, busy := Series("host.cpu_busy_ratio", HOST), P95)
    found = again.take(Frame("host", 1e5, more, row))
    assert {a.series for a in found} == {MANY[2], MANY[7], MANY[11]}
    assert again._groups.names == ["machine", "service:shop"]
    kept = watch._groups.view.rows[0]
    assert again._groups.view.rows[0] - kept in {0.0, 1.0}
    assert again._groups.view.rows[1] == 0.0
    assert again.take(Frame("host", 1e5 + 60, (busy, P95), np.array([0.5, 0.5])))[0].end is not None
    assert again._groups.view.rows[0] >= kept


def test_a_detector_of_another_version_is_learnt_anew_and_says_so():
    watch = made()
    walk(watch, ordinary(700))
    state = watch.dump().replace(b"state", b"other")
    again = made()
    again.load(state)
    assert again.take(Frame("host", 1e5, MANY, np.full(len(MANY), 0.5))) == []
    assert again.rows == 1
