"""What detectors said is kept as it was said: the rarest of ten seconds, over restarts, at small cost."""

import math
import time
import tracemalloc

import numpy as np
import pytest

from agent.model import Entity, Frame, Series
from agent.monitor import Monitor
from agent.pipeline import bank
from agent.scores import MOST, Scores, rarest

HOST = Entity("host", "web-1")
BUSY, LOAD = Series("host.cpu_busy_ratio", HOST), Series("host.load1_count", HOST)
TABLE = (BUSY, LOAD)


def kept(folder):
    return Scores(folder / "scores", age_s=86_400.0, size_bytes=1e8)


def walked(scores, rows, began=1000.0, table=TABLE, monitor=None):
    """Let real detectors judge rows, one a second; return the p-values (k, n) as they were said."""
    monitor, said = monitor or Monitor(bank, ()), []
    for k, row in enumerate(rows):
        monitor.take(Frame("host", began + k, table, np.asarray(row, dtype=np.float64)))
        scores.take(monitor.watches.items())
        said.append(monitor.watches["host"].p.copy())
    return np.array(said)


def ordinary(n, seed=3):
    rng = np.random.default_rng(seed)
    return np.column_stack([0.3 + 0.02 * rng.standard_normal(n), 2 + 0.1 * rng.standard_normal(n)])


def test_of_ten_seconds_the_rarest_is_kept_as_it_was_said(tmp_path):
    scores, rows = kept(tmp_path), ordinary(300)
    rows[254:258, 0] = 0.95
    said = walked(scores, rows)
    ts, found = scores.read(BUSY, 1000.0, 1300.0)
    assert ts.tolist() == [1000.0 + 10 * k for k in range(30)]
    worst = [np.nanmin(said[10 * k : 10 * k + 10, 0]) if np.isfinite(said[10 * k : 10 * k + 10, 0]).any() else math.nan
             for k in range(30)]  # fmt: skip
    wanted = np.minimum(np.round(-np.log10(worst), 1), MOST)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[25] == np.nanmax(found) > 3.0 > np.nanmax(found[:25])
    assert math.isnan(found[0])  # with so short a past nothing is said
    _, other = scores.read(LOAD, 1000.0, 1300.0)
    assert other[25] < found[25]
    scores.close()


def test_what_was_said_stays_over_a_restart_and_a_kill(tmp_path):
    scores, monitor = kept(tmp_path), Monitor(bank, ())
    walked(scores, ordinary(200), monitor=monitor)
    before = scores.read(BUSY, 1000.0, 1200.0)
    scores.close()
    again = kept(tmp_path)
    for a, b in zip(before, again.read(BUSY, 1000.0, 1200.0), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    walked(again, ordinary(60, seed=4), 1200.0, monitor=monitor)
    again.flush()
    after = kept(tmp_path)  # as if it had been killed now: what was not over is gone, not more
    ts, found = after.read(BUSY, 1000.0, 1260.0)
    assert ts[-1] == 1240.0
    assert len(ts) == len(found) == 25
    after.close()


def test_no_word_is_no_score(tmp_path):
    scores, rows, monitor = kept(tmp_path), ordinary(300), Monitor(bank, ())
    walked(scores, rows[:200], monitor=monitor)
    walked(scores, rows[200:], 1260.0, monitor=monitor)  # a minute without a daemon
    at, found = rarest(*scores.read(BUSY, 1000.0, 1360.0), 1000.0, 1359.0, 10.0)
    silent = at[np.isnan(found)].tolist()
    assert [t for t in silent if t > 1100.0] == [1200.0 + 10 * k for k in range(6)]
    stranger = Series("host.cpu_busy_ratio", Entity("host", "b"))
    assert not np.isfinite(scores.read(stranger, 0.0, 1e9)[1]).any()
    scores.close()


def test_a_row_is_taken_once_and_a_detector_that_broke_says_nothing_new(tmp_path):
    scores, monitor = kept(tmp_path), Monitor(bank, ())
    walked(scores, ordinary(120), monitor=monitor)
    before = scores.read(BUSY, 0.0, 1e9)[1].tolist()
    for _ in range(50):
        scores.take(monitor.watches.items())  # ticks go on, rows do not come
    assert scores.read(BUSY, 0.0, 1e9)[1].tolist() == pytest.approx(before, nan_ok=True)
    scores.close()


def test_series_come_and_go(tmp_path):
    scores, monitor = kept(tmp_path), Monitor(bank, ())
    rows = ordinary(300)
    walked(scores, rows[:155], monitor=monitor)
    walked(scores, rows[155:, :1], 1155.0, (BUSY,), monitor)
    ts, found = scores.read(BUSY, 1100.0, 1300.0)
    assert {1150.0, 1155.0} <= set(ts)  # both parts of the ten seconds in which it changed
    assert np.isfinite(found).all()
    ts, found = scores.read(LOAD, 1100.0, 1300.0)
    assert ts[np.isfinite(found)].max() == 1150.0
    scores.close()


def test_stretches_are_read_by_their_rarest_and_gaps_stay():
    ts = np.array([100.0, 110.0, 125.0, 160.0])
    at, found = rarest(ts, np.array([1.0, 3.0, np.nan, 2.0]), 100.0, 165.0, 20.0)
    assert at.tolist() == [100.0, 120.0, 140.0, 160.0]
    np.testing.assert_array_equal(found, [3.0, np.nan, np.nan, 2.0])


class Said:
    """A thousand series of which something is said each second."""

    def __init__(self, n):
        self.series = tuple(
            Series("process.cpu_cores", Entity("process", f"b/{k}/1")) for k in range(n)
        )
        self.rng = np.random.default_rng(1)
        self.scored_at = math.nan
        self.p = np.full(n, np.nan)

    def tick(self, ts):
        self.scored_at, self.p = ts, self.rng.random(len(self.p))


@pytest.mark.parametrize("measures", ["memory", "time"])
def test_a_thousand_series_cost_little(tmp_path, measures):
    said, scores = Said(1000), kept(tmp_path)
    many = 1320  # two blocks of ten minutes are written
    spent = 0.0
    if measures == "memory":
        tracemalloc.start()
    try:
        for k in range(many):
            said.tick(1000.0 + k)
            began = time.process_time()
            scores.take([("host", said)])
            spent += time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1] if measures == "memory" else 0
    finally:
        tracemalloc.stop()
    assert peak < 5e6
    if measures == "time":
        assert spent / many < 0.03 * 0.01  # 3 % of the one per cent of a core that is promised
    scores.close()
