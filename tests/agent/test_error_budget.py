"""Error budgets: what is used up, in which windows, by whom; unknown time uses up nothing and is not called well."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from agent.config import Config
from agent.error_budget import MOST, SOURCE, ErrorBudgets
from agent.errors import Refused
from agent.history import History
from agent.journal import Entry
from agent.memory import Memory
from agent.model import Entity, Frame, Series
from agent.monitor import Watch
from agent.objectives import PAIRS, aims_of, limits_of
from agent.pipeline import Walk
from agent.playbook import Library
from agent.world import World

S = Entity("service", "shop")
ERRORS = Series("service.error_ratio", S)
P95 = Series("service.latency_p95_seconds", S)
RPS = Series("service.requests_per_second", S)
T0 = 1_700_000_000.0
WINDOWS = [pair.name for pair in PAIRS]


def config(*objectives):
    return Config(services=[{"id": "shop", "objectives": list(objectives)}])


SHARE = config({"signal": "service.error_ratio", "target": 0.999})
TIME = config({"signal": "service.latency_p95_seconds", "max": 0.25, "target": 0.99})


class Shop:
    """A service whose rows are counted."""

    def __init__(self, stated=SHARE, table=(ERRORS, RPS), step=10.0):
        self.config, self.table, self.step = stated, tuple(sorted(table)), step
        self.budgets = ErrorBudgets(aims_of(stated))
        self.world, self.ts = World(), T0

    def run(self, seconds, **values):
        """Feed rows of `metric suffix = value`; return our last frame as {(quantity, window): value}."""
        told = None
        for _ in range(round(seconds / self.step)):
            self.ts += self.step
            row = [next(v for k, v in values.items() if k in s.metric) for s in self.table]
            frame = Frame("web", self.ts, self.table, np.array(row, dtype=float))
            self.world.take(frame)
            told = self.budgets.take(self.ts, [frame], self.world) or told
        return read(told)


def read(frame):
    return {
        (s.metric.removeprefix("service.error_budget_"), dict(s.labels).get("window", "")): float(v)
        for s, v in zip(frame.series, frame.values, strict=True)
    }


def test_a_total_failure_pages_within_a_minute_and_an_hour_of_a_few_errors_later():
    shop = Shop()
    shop.run(3600, error=0.0, requests=100.0)
    assert shop.run(40, error=1.0, requests=100.0)["burn_ratio", "1h"] < 14.4
    assert shop.run(20, error=1.0, requests=100.0)["burn_ratio", "1h"] > 14.4
    shop = Shop()
    shop.run(3600, error=0.0, requests=100.0)
    assert shop.run(40 * 60, error=0.02, requests=100.0)["burn_ratio", "1h"] < 14.4
    assert shop.run(5 * 60, error=0.02, requests=100.0)["burn_ratio", "1h"] > 14.4
    # when it is over the long window still remembers, the short one does not
    assert shop.run(7 * 60, error=0.0, requests=100.0)["burn_ratio", "1h"] < 1.0


def test_exactly_its_budget_is_a_burn_of_one_and_pages_nobody():
    told = Shop(step=60.0).run(4 * 86_400, error=0.001, requests=5000.0)
    for window in WINDOWS:
        assert told["burn_ratio", window] == pytest.approx(1.0, abs=0.03)
    assert told["left_ratio", ""] == pytest.approx(1.0 - 4 / 30, abs=0.01)


def test_requests_count_where_they_are_known_and_time_where_they_are_not():
    # half of the time nearly nobody asks, and those fail
    weighed, timed = Shop(step=60.0), Shop(step=60.0, table=(ERRORS,))
    for _ in range(36):
        for shop in (weighed, timed):
            shop.run(300, error=0.0, requests=100.0)
            shop.run(300, error=0.5, requests=1.0)
    ends = [
        shop.run(60, error=0.0, requests=100.0)["burn_ratio", "6h"] for shop in (weighed, timed)
    ]
    assert ends[0] == pytest.approx(0.5 / 101 / 0.001, rel=0.15)
    assert ends[1] == pytest.approx(0.25 / 0.001, rel=0.1)


def test_a_share_of_the_time_inside_a_limit():
    shop = Shop(TIME, (P95,))
    shop.run(6 * 3600, latency=0.1)
    told = shop.run(600, latency=0.4)
    assert told["burn_ratio", "1h"] == pytest.approx(600 / 3600 / 0.01, rel=0.02)
    assert told["burn_ratio", "6h"] == pytest.approx(600 / 21_600 / 0.01, rel=0.02)


def test_unknown_time_uses_up_nothing_and_is_not_called_well():
    shop = Shop()
    before = shop.run(1800, error=0.01, requests=100.0)
    assert before["burn_ratio", "1h"] == pytest.approx(5.0, rel=0.05)
    told = shop.run(360, error=math.nan, requests=100.0)
    assert math.isnan(told["burn_ratio", "1h"])
    assert told["left_ratio", ""] == pytest.approx(before["left_ratio", ""])
    told = shop.run(60, error=0.01, requests=math.nan)
    assert math.isnan(told["burn_ratio", "1h"])


def test_one_bad_request_of_few_is_nobodys_evidence():
    shop = Shop(step=60.0)
    shop.run(3600, error=0.0, requests=0.01)
    assert shop.run(120, error=1.0, requests=0.01)["burn_ratio", "1h"] == 0.0
    assert shop.run(1200, error=1.0, requests=0.01)["burn_ratio", "1h"] > 14.4


def test_the_cells_say_what_counting_by_hand_says():
    rng = np.random.default_rng(5)
    shop, rows = Shop(step=10.0), []
    for _ in range(400):
        if rng.random() < 0.1:
            shop.ts += float(rng.integers(1, 3000))
        error, rate = float(rng.random() < 0.2) * 0.3, float(rng.integers(1, 50))
        told = shop.run(10.0, error=error, requests=rate)
        since = rows[-1][0] if rows else math.nan
        rows.append((shop.ts, min(shop.ts - since, 120.0), error, rate))
        burns = []
        for window in (3600.0, 300.0):
            first = (shop.ts // 60 - window // 60) * 60
            mine = [(s, s * r * e, s * r) for ts, s, e, r in rows if ts >= first and s > 0]
            known, bad, every = (sum(m[k] for m in mine) for k in range(3))
            share = max(bad - 2.0, 0.0) / every if every else math.nan
            burns.append(share * min(known / window, 1.0) / 0.001)
        if not any(map(math.isnan, burns)):
            assert told["burn_ratio", "1h"] == pytest.approx(min(burns), abs=1e-9)
        else:
            assert math.isnan(told["burn_ratio", "1h"])


def test_a_restart_goes_on_where_it_stood():
    shop, other = Shop(), Shop()
    for one in (shop, other):
        one.run(1800, error=0.01, requests=100.0)
    fresh = ErrorBudgets(aims_of(SHARE))
    fresh.load(shop.budgets.dump())
    shop.budgets = fresh
    ends = [one.run(900, error=0.02, requests=100.0) for one in (shop, other)]
    # the first row after it says nothing: nobody knows of how long it speaks
    assert ends[0] == pytest.approx(ends[1], rel=0.03)
    with pytest.raises(Refused, match="damaged"):
        fresh.load(shop.budgets.dump()[:-3])


def test_a_reload_keeps_what_is_still_stated():
    both = config(
        {"signal": "service.error_ratio", "target": 0.999},
        {"signal": "service.error_ratio", "target": 0.99, "over": 7 * 86_400},
    )
    shop = Shop()
    before = shop.run(1800, error=0.01, requests=100.0)
    shop.budgets = shop.budgets.reload(aims_of(both))
    told = shop.budgets.take(shop.ts + 10, [], shop.world)
    burns = {
        dict(s.labels)["objective"]: v
        for s, v in zip(told.series, told.values, strict=True)
        if ("window", "1h") in s.labels
    }
    assert burns["service.error_ratio for 99.9 % of 30 d"] == pytest.approx(
        before["burn_ratio", "1h"]
    )
    assert ErrorBudgets(aims_of(SHARE)).reload(()).take(T0, [], World()) is None


def test_two_services_that_state_the_same_and_one_that_all_state_too_are_each_counted_once():
    same = {"signal": "service.error_ratio", "target": 0.999}
    stated = Config(
        services=[{"id": "shop", "objectives": [same]}, {"id": "till", "objectives": [same]}],
        objectives=[same, same | {"over": 7 * 86_400.0}],
    )
    table = tuple(
        sorted(Series("service.error_ratio", Entity("service", name)) for name in ("shop", "till"))
    )
    budgets = ErrorBudgets(aims_of(stated))

    def rows(budgets, start, n):
        for i in range(n):
            ts = start + 60.0 * i
            told = budgets.take(ts, [Frame("web", ts, table, np.array([0.01, 0.02]))], World())
        return told

    told = rows(budgets, T0, 30)
    # shop and till, of a month and of a week
    assert len(told.series) == len(set(told.series)) == 4 * (len(PAIRS) + 1)
    fresh = ErrorBudgets(aims_of(stated))
    fresh.load(budgets.dump())
    ends = [one.take(T0 + 60.0 * 30, [], World()) for one in (fresh, budgets)]
    assert ends[0].series == ends[1].series == told.series
    assert ends[0].values == pytest.approx(ends[1].values)


def test_a_clock_that_is_set_moves_what_was_counted():
    shop = Shop()
    before = shop.run(1800, error=0.01, requests=100.0)
    shop.budgets.rebase(-7200.0)
    shop.ts -= 7200.0
    shop.world.rebase(-7200.0)
    after = shop.run(10, error=0.01, requests=100.0)
    assert after["burn_ratio", "1h"] == pytest.approx(before["burn_ratio", "1h"], rel=0.02)


def test_a_clock_that_was_set_back_while_we_were_away_freezes_no_burn():
    shop = Shop()
    before = shop.run(1800, error=0.5, requests=100.0)
    kept = shop.budgets.dump()
    shop = Shop()
    shop.budgets.load(kept)
    shop.ts = T0 - 7200.0
    went_on = shop.run(10, error=0.5, requests=100.0)
    assert went_on["burn_ratio", "1h"] == pytest.approx(before["burn_ratio", "1h"], rel=0.05)
    well = shop.run(1800, error=0.0, requests=100.0)
    assert well["burn_ratio", "1h"] == 0.0, "its short window is well by now"


def test_a_glob_over_too_many_is_cut_off():
    many = Config(objectives=[{"signal": "service.error_ratio", "target": 0.99}])
    budgets = ErrorBudgets(aims_of(many))
    table = tuple(
        sorted(
            Series("service.error_ratio", Entity("service", f"s{i:04}")) for i in range(MOST + 9)
        )
    )
    for ts in (T0, T0 + 10):
        told = budgets.take(ts, [Frame("web", ts, table, np.zeros(len(table)))], World())
    assert len(told.series) == MOST * (len(PAIRS) + 1)
    assert list(told.series) == sorted(told.series)


def test_limits_lie_over_the_burns_and_only_the_quick_ones_page():
    shop, watch = Shop(step=60.0), Watch(10.0, None, limits_of(SHARE))
    assert [round(p.most(30 * 86_400), 1) for p in PAIRS] == [14.4, 6.0, 3.0, 1.0]
    shop.run(3 * 86_400, error=0.0, requests=100.0)
    shop.run(86_400, error=0.004, requests=100.0)
    shop.ts += 10.0
    found = watch.take(shop.budgets.take(shop.ts, [], shop.world))
    assert [(a.road, a.harm, dict(a.series.labels)["window"]) for a in found] == [
        ("finding", False, "1d"), ("finding", False, "3d"),
    ]  # fmt: skip
    shop.run(3600, error=0.5, requests=100.0)
    found = {
        dict(a.series.labels)["window"]: a
        for a in watch.take(shop.budgets.take(shop.ts + 10, [], shop.world))
    }
    assert set(found) == set(WINDOWS)
    assert [found[w].road for w in WINDOWS] == ["objective", "objective", "finding", "finding"]
    assert [found[w].harm for w in WINDOWS] == [True, True, False, False]
    assert found["1h"].family == "error budget burns: service.error_ratio for 99.9 % of 30 d"
    # a short budget has no use for a window that is as long as itself
    week = config({"signal": "service.error_ratio", "target": 0.99, "over": 86_400.0})
    assert {dict(x.labels)["window"] for x in limits_of(week) if "burn" in x.signal} == {"1h", "6h"}


def test_the_walk_opens_an_incident_that_pages_and_what_was_recorded_is_not_counted_twice(tmp_path):
    entries = itertools.count()
    memory = Memory()

    def record(kind, subject, body, ts):
        memory.apply(Entry(next(entries), ts, kind, subject, body, "", ""))

    walk = Walk.wired(
        SHARE, world=World(), history=History(tmp_path, age_s=1e6, size_bytes=1e8), memory=memory,
        library=Library({}), record=record, step_of=lambda _: 10.0,
    )  # fmt: skip
    table = tuple(sorted((ERRORS, RPS)))
    alien = Frame(
        SOURCE, T0, (replace(ERRORS, metric="service.error_budget_left_ratio"),), np.array([-5.0])
    )
    for i in range(420):
        ts = T0 + 10.0 * i
        error = 0.0 if i < 360 else 0.9
        frame = Frame("web", ts, table, np.array([error if s is ERRORS else 100.0 for s in table]))
        walk.step(ts, [frame, alien] if i == 5 else [frame])
    (incident,) = memory.incidents.values()
    assert incident.severity == "page"
    assert {a.family for a in incident.anomalies if a.harm} >= {
        "error budget burns: service.error_ratio for 99.9 % of 30 d"
    }
    (left,) = [s for s in walk.history.series(SOURCE) if s.metric.endswith("left_ratio")]
    _, values = walk.history.read([left], T0, ts + 1)
    assert np.nanmin(values) > 0.0
    walk.history.close()
