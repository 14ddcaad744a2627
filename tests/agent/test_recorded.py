import math

import numpy as np
import pytest

from agent.errors import Refused
from agent.history import History
from agent.model import Entity, Frame, Series
from agent.recorded import Recorded
from agent.replay import step_of, ticks
from agent.rows import Rows

HOST = Entity("host", "h")
A, B, C = (Series("host.disk_busy_ratio", HOST, (("device", d),)) for d in "abc")
START = 1_764_000_000.0


def history(folder, **how):
    return History(folder, **{"age_s": 1e6, "size_bytes": 1e9, **how})


def fill(into, n, at=0, seed=0):
    """Two sources at their own paces; C comes and goes."""
    rng = np.random.default_rng(seed)
    for i in range(at, at + n):
        ts = START + i
        series = (A, C) if i % 700 < 300 else (A,)
        into.append(Frame("quick", ts, series, rng.random(len(series))))
        if i % 5 == 0:
            value = np.nan if i % 15 == 0 else rng.random()
            into.append(Frame("slow", ts + 0.25, (B,), np.array([value])))


def everything(past, start, end):
    """All that the stretches hold, as `History.read` would give it: (moment, series) -> value."""
    out, last = {}, -np.inf
    for stretch in past.stretches(start, end):
        assert min(rows.ts[0] for _, rows in stretch) >= last - 5
        last = max(rows.ts[-1] for _, rows in stretch)
        for _, rows in stretch:
            assert list(rows.series) == sorted(rows.series)
            for ts, row in zip(rows.ts.tolist(), rows.values, strict=True):
                out |= {
                    (ts, s): v
                    for s, v in zip(rows.series, row.tolist(), strict=True)
                    if not math.isnan(v)
                }
    return out


def read(owner, start, end):
    ts, values = owner.read((A, B, C), start, end)
    return {
        (at, s): value
        for at, row in zip(ts.tolist(), values, strict=True)
        for s, value in zip((A, B, C), row.tolist(), strict=True)
        if not math.isnan(value)
    }


def near(a, b):
    assert a.keys() == b.keys()
    assert all(abs(a[k] - b[k]) <= 2e-6 for k in a)


def test_it_reads_what_history_reads_while_that_is_written(tmp_path):
    owner = history(tmp_path)
    fill(owner, 2000)
    owner.flush()
    for start, end in ((START, START + 3000), (START + 450.5, START + 900), (START + 1900, START + 1950)):  # fmt: skip
        with Recorded(tmp_path) as past:
            near(everything(past, start, end), read(owner, start, end))
            assert past.damaged == 0
    fill(owner, 600, at=2000)  # what was opened before stays what it was then
    owner.close()
    with Recorded(tmp_path) as past:
        assert (past.start, past.end) == (START, START + 2599)
        near(everything(past, 0, np.inf), read(history(tmp_path), 0, 1e12))


def test_after_kill_and_restart_nothing_is_twice(tmp_path):
    owner = history(tmp_path)
    fill(owner, 700)
    owner.flush()  # and no close: killed
    log = next(tmp_path.glob("ahead-*.log"))
    log.write_bytes(log.read_bytes() + b"HSM1 torn")
    with Recorded(tmp_path) as past:
        before = everything(past, 0, np.inf)
        near(before, read(owner, 0, 1e12))
    again = history(tmp_path)
    fill(again, 50, at=700, seed=1)
    again.flush()
    with Recorded(tmp_path) as past:
        after = everything(past, 0, np.inf)
    assert len(after) > len(before)
    near({k: after[k] for k in before}, before)


def test_a_damaged_block_is_left_out_and_counted(tmp_path):
    owner = history(tmp_path)
    fill(owner, 1300)
    owner.close()
    path = next(tmp_path.glob("blocks-*.hist"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 8 : len(raw) // 8 + 40] = b"\0" * 40
    path.write_bytes(raw)
    with Recorded(tmp_path) as past:
        assert everything(past, START + 700, np.inf)
        list(past.stretches(0, np.inf))
        assert past.damaged >= 1


def test_no_history_is_told(tmp_path):
    with pytest.raises(Refused, match="no history lies in"):
        Recorded(tmp_path)


def test_what_lies_within_a_second_is_one_tick_and_nothing_is_lost():
    quick = Rows(START + np.arange(0, 10, 0.5), (A,), np.arange(20.0)[:, None])
    slow = Rows(START + np.array([0.2, 4.7, 9.0]), (B,), np.ones((3, 1)))
    found = list(ticks([("slow", slow), ("quick", quick)]))
    assert [now for now, _ in found] == sorted({now for now, _ in found})
    assert sum(len(frames) for _, frames in found) == 23
    for now, frames in found:
        assert now == max(f.ts for f in frames)
        assert now - min(f.ts for f in frames) < 1
        assert [f.ts for f in frames] == sorted(f.ts for f in frames)
    assert list(ticks([])) == []
    assert (step_of(quick), step_of(slow)) == (0.5, 4.4)
