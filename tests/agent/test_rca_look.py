"""What a look measures, and that it reads the past once and of a long incident only the beginning and the end."""

import math

import numpy as np
import pytest

from agent.model import Anomaly, Change, Edge, Entity, Frame, Incident, Series
from agent.rca import Look
from agent.rca.look import Pasts
from agent.world import World

SHOP, HOST = Entity("service", "shop"), Entity("host", "h")
P95, RPS = (Series(f"service.{m}", SHOP) for m in ("latency_p95_seconds", "requests_per_second"))
LATE = Series("service.error_ratio", SHOP)
TABLE = (P95, RPS, LATE)
ONSET = 5000.0


class Recorded:
    """Rows of every second, noise about a level that changes at the onset; what was read is noted."""

    def __init__(self, end):
        rng = np.random.default_rng(7)
        self.ts = np.arange(0.0, end + 1.0)
        self.rows = np.stack([0.05 + 0.004 * rng.standard_normal(len(self.ts)), 40 + rng.standard_normal(len(self.ts)),
                              np.full(len(self.ts), np.nan)], axis=1)  # fmt: skip
        self.rows[self.ts >= ONSET, 0] += 0.7
        self.rows[self.ts >= ONSET + 30, 1] += 60
        self.rows[self.ts % 3 == 1, 1] = np.nan
        self.rows[(self.ts > 4980) & (self.ts % 2 == 0), 2] = 0.1
        self.reads = []

    def read(self, series, start, end):
        keep = (self.ts >= start) & (self.ts <= end)
        keep &= ~np.isnan(self.rows[:, [TABLE.index(s) for s in series]]).all(axis=1)
        self.reads.append((start, end, len(series)))
        return self.ts[keep], self.rows[np.ix_(keep, [TABLE.index(s) for s in series])]


def look(past, now, onset=ONSET, **more):
    world = World()
    world.topology.link(Edge("runs_on", SHOP, HOST))
    world.take(Frame("eyes", now, TABLE, past.rows[int(now)]))
    anomaly = Anomaly(
        P95, onset, None, 0.0, 1, 1.0, math.nan, 0.5, 0.5, 9.0, "objective", "x", harm=True
    )
    incident = Incident(
        "i", onset, now, "open", "page", "t", (anomaly,), entities=(SHOP,), about=SHOP
    )
    return Look(now, incident, world, past.read, 300.0, 3600.0, 600.0, **more)


def plainly(past, series, now, trouble=()):
    """Measure one series from the definition: (now, usual, deviations, rows of past, onset)."""
    j = TABLE.index(series)
    known = ~np.isnan(past.rows[:, j]) & (past.ts >= ONSET - 3600) & (past.ts <= now)
    ts, x = past.ts[known], past.rows[known, j]
    before = ts < ONSET - 2
    for a, b in trouble:
        before &= (ts < a - 2) | (ts > b)
    if before.sum() < 10:
        return None
    after = x[ts >= max(ONSET, now - 300)]
    level = float(np.median(after[-max(3, len(after) // 2) :]))
    usual = float(np.median(x[before]))
    half = usual + (level - usual) / 2
    left = [
        t
        for t, v in zip(ts, x, strict=True)
        if t >= ONSET - 60 and (v > half if level > usual else v < half)
    ]
    return level, usual, int(before.sum()), left[0]


@pytest.mark.parametrize("after", [5.0, 50.0, 700.0, 3500.0])
@pytest.mark.parametrize("trouble", [(), ((3000.0, 3500.0), (4990.0, 4995.0))])
def test_it_measures_what_the_definition_says(after, trouble):
    past, now = Recorded(ONSET + after), ONSET + after
    shared = Pasts()
    look(past, now - 3.0, trouble=trouble, pasts=shared).measure_all(TABLE)  # an earlier look
    for pasts in (Pasts(), shared):
        found = look(past, now, trouble=trouble, pasts=pasts).measure_all(TABLE)
        for series, m in zip(TABLE, found, strict=True):
            want = plainly(past, series, now, trouble)
            assert (m is None) == (want is None)
            if m is not None:
                assert (m.now, m.usual, m.rows, m.onset) == pytest.approx(want)
    assert found[2] is None or after >= 0


def test_the_past_is_read_once_while_it_is_the_same_past():
    past, pasts = Recorded(ONSET + 100), Pasts()
    look(past, ONSET + 20, pasts=pasts).measure_all(TABLE)
    past.reads.clear()
    look(past, ONSET + 30, pasts=pasts).measure_all(TABLE[:2])
    assert [start for start, _, _ in past.reads] == [ONSET - 60]
    look(past, ONSET + 30, onset=ONSET - 50, pasts=pasts).measure_all(TABLE[:2])
    assert ONSET - 50 - 3600 in [start for start, _, _ in past.reads]
    past.reads.clear()
    look(past, ONSET + 30, trouble=[(100.0, 4000.0)], pasts=pasts).measure_all(TABLE[:2])
    assert ONSET - 3600 in [start for start, _, _ in past.reads]


def test_of_an_incident_of_hours_the_first_hour_and_the_newest_are_read():
    past = Recorded(ONSET + 20_000)
    one = look(past, ONSET + 20_000)
    first, second, _ = one.measure_all(TABLE)
    assert first.now == pytest.approx(0.75, abs=0.01)
    assert (first.onset, second.onset) == (ONSET, pytest.approx(ONSET + 30, abs=1))
    assert max(end - start for start, end, _ in past.reads) <= 3660.0
    assert sum(one.cells) < 2 * 3 * 8000


def test_means_count_what_was_not_sampled_as_nothing():
    past, pasts = Recorded(ONSET + 100), Pasts()
    for now in (ONSET + 50, ONSET + 60):
        taken, usual = look(past, now, pasts=pasts).means(TABLE[:2])
        inside = (past.ts >= ONSET) & (past.ts <= now)
        before = (past.ts >= ONSET - 3600) & (past.ts < ONSET - 2)
        assert taken == pytest.approx(np.nan_to_num(past.rows[inside, :2]).mean(axis=0))
        assert usual == pytest.approx(np.nan_to_num(past.rows[before, :2]).mean(axis=0))
    assert sum(start == ONSET - 3600 for start, _, _ in past.reads) == 1


@pytest.mark.parametrize(
    ("ours", "judged_s", "blamed"), [(False, 60.0, True), (True, 60.0, False), (False, 1e5, False)]
)
def test_a_release_of_long_ago_is_a_suspect_when_its_first_labels_came(ours, judged_s, blamed):
    model, now = Entity("model", "fraud"), ONSET + 10.0
    world = World()
    judged = Series("model.version_judged_seconds", model)
    world.take(Frame("models", now, (judged,), np.array([judged_s])))
    lost = Anomaly(
        Series("model.quality_lost", model), ONSET, None, 0.0, 1, 1.0, math.nan, 0.5, 0.5, 9.0, "objective", "x",
        harm=True,
    )  # fmt: skip
    incident = Incident(
        "i", ONSET, now, "open", "page", "t", (lost,), entities=(model,), about=model
    )
    released = [
        Change(ONSET - 90_000.0, model, "release", "3", "4", by="ann"),
        *(
            [Change(ONSET - 80_000.0, model, "release", "4", "3", by="homeostat:r1")]
            if ours
            else []
        ),
    ]
    seen = Look(now, incident, world, lambda *_: None, 300.0, 3600.0, 600.0, changes=released)
    assert seen.release(model, "release") is None
    assert (seen.release_of(model) is released[0]) is blamed
