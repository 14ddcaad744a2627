"""The past: what goes in comes out, in order, after every kind of death, jump and full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.history import History
from agent.model import Entity, Frame, Series

HOST = Entity("host", "web-1")
T0 = 1_700_000_000.0


def names(n, metric="host.load1_count", prefix="d"):
    return tuple(Series(metric, HOST, (("device", f"{prefix}{i:03d}"),)) for i in range(n))


def fill(history, rows, *, series=None, source="host", start=T0, step=1.0, seed=0):
    """Append rows of a random walk; return ts (k,), values (k, n)."""
    series = names(4) if series is None else series
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(series))).cumsum(axis=0) + 100
    ts = start + step * np.arange(rows)
    for when, row in zip(ts, values, strict=True):
        history.append(Frame(source, float(when), series, row))
    return ts, values


@pytest.fixture
def make(tmp_path):
    opened = []

    def open_history(**limits):
        history = History(
            tmp_path / "history", **{"age_s": 48 * 3600.0, "size_bytes": 1e9, **limits}
        )
        opened.append(history)
        return history

    yield open_history
    for history in opened:
        history.close()


def test_recent_rows_come_back_exactly(make):
    history = make()
    ts, values = fill(history, 300)
    got_ts, got = history.read(names(4), T0, T0 + 299)
    np.testing.assert_array_equal(got_ts, ts)
    np.testing.assert_array_equal(got, values)


def test_range_includes_both_ends_and_the_order_of_the_question_counts(make):
    history = make()
    _, values = fill(history, 50)
    series = names(4)
    ts, got = history.read([series[3], series[0], series[3]], T0 + 10, T0 + 12)
    assert ts.tolist() == [T0 + 10, T0 + 11, T0 + 12]
    np.testing.assert_array_equal(got, values[10:13][:, [3, 0, 3]])


def test_old_rows_come_from_disk_with_a_millionth_of_rounding(make):
    history = make(tail_s=60.0)
    ts, values = fill(history, 3000)
    got_ts, got = history.read(names(4), T0, T0 + 3000)
    np.testing.assert_array_equal(got_ts, ts)
    np.testing.assert_allclose(got, values, rtol=1e-6)
    assert len(history._tails["host"].chunks) * 64 < 900, "memory holds the tail and one block only"
    assert (got != values).any(), "old rows were expected to come from disk"


def test_a_small_move_on_a_large_offset_is_kept(make):
    """float32 resolves 1024 bytes at 16 GB: what moved by less than that must not be lost."""
    history = make(tail_s=10.0)
    series = names(2)
    for i in range(2000):
        history.append(Frame("host", T0 + i, series, np.array([16e9 + i % 7, 1.7e9 + i])))
    _, got = history.read(series, T0, T0 + 600)
    assert got[:, 0].tolist() == [16e9 + i % 7 for i in range(601)]
    assert got[:, 1].tolist() == [1.7e9 + i for i in range(601)]


def test_nan_infinity_huge_and_constant_survive_the_disk(make):
    history = make(tail_s=10.0)
    series = names(5)
    for i in range(2000):
        row = [
            np.nan,
            np.inf if i % 3 else -np.inf,
            1e300 * (1 + i % 2),
            7.25,
            i if i % 2 else np.nan,
        ]
        history.append(Frame("host", T0 + i, series, np.array(row)))
    _, got = history.read(series, T0, T0 + 300)
    assert np.isnan(got[:, 0]).all()
    assert got[:4, 1].tolist() == [-np.inf, np.inf, np.inf, -np.inf]
    assert got[:3, 2].tolist() == [1e300, 2e300, 1e300]
    assert set(got[:, 3]) == {7.25}
    assert np.isnan(got[::2, 4]).all()
    assert got[1::2, 4].tolist() == list(range(1, 301, 2))


def test_series_that_come_and_go(make):
    history = make(tail_s=30.0)
    a, b, c = names(3)
    for i in range(3000):
        series = (a, b) if i < 1000 else (a, c) if i < 2000 else (a, b, c)
        history.append(Frame("host", T0 + i, series, np.full(len(series), float(i))))
    ts, got = history.read([a, b, c, names(9)[8]], T0, T0 + 3000)
    i = np.arange(3000.0)
    assert ts.tolist() == (T0 + i).tolist()
    np.testing.assert_allclose(got[:, 0], i)
    np.testing.assert_allclose(got[:, 1], np.where((i < 1000) | (i >= 2000), i, np.nan))
    np.testing.assert_allclose(got[:, 2], np.where(i >= 1000, i, np.nan))
    assert np.isnan(got[:, 3]).all()


def test_a_table_that_changes_on_every_row(make):
    """Processes come and go: memory and numbers must not grow with all that ever lived."""
    history = make(tail_s=60.0)
    lasting = names(1, prefix="a")[0]
    for i in range(4000):
        passing = Series("process.memory_bytes", Entity("process", f"b/{i}/0"))
        series = tuple(sorted([lasting, passing]))
        row = np.array([1.0 if one == lasting else float(i) for one in series])
        history.append(Frame("processes", T0 + i, series, row))
    assert len(history._numbers._of) < 2000
    seen = Series("process.memory_bytes", Entity("process", "b/17/0"))
    ts, got = history.read([seen, lasting], T0, T0 + 4000)
    assert len(ts) == 4000
    assert np.flatnonzero(~np.isnan(got[:, 0])).tolist() == [17]
    assert got[17, 0] == 17.0
    assert (got[:, 1] == 1.0).all()


def test_sources_with_their_own_cadence_share_one_answer(make):
    history = make()
    host, gpu = names(1)[0], Series("gpu.power_watts", Entity("gpu", "GPU-1"))
    for i in range(60):
        history.append(Frame("host", T0 + i, (host,), np.array([float(i)])))
        if i % 5 == 0:
            history.append(Frame("gpu", T0 + i + 0.5, (gpu,), np.array([100.0 + i])))
    ts, got = history.read([host, gpu], T0, T0 + 60)
    assert len(ts) == 72
    assert (np.diff(ts) > 0).all()
    assert np.isnan(got[ts == T0 + 5.5, 0]).all()
    assert got[ts == T0 + 5.5, 1] == 105.0
    assert np.isnan(got[ts == T0 + 5, 1]).all()
    assert history.series("gpu") == [gpu]
    assert history.series() == sorted([host, gpu])


def test_means_of_buckets_from_memory_and_disk(make):
    history = make(tail_s=100.0)
    start = 1_700_000_040.0  # a multiple of 60, so that buckets are full
    _, values = fill(history, 1800, start=start)
    begin, got = history.read(names(4), start, start + 1799, 60.0)
    assert begin.tolist() == [start + 60 * i for i in range(30)]
    np.testing.assert_allclose(got, values.reshape(30, 60, 4).mean(axis=1), rtol=1e-6)


def test_empty_buckets_are_there_and_unknown(make):
    history = make()
    start = 1_700_000_040.0
    fill(history, 10, start=start)
    fill(history, 10, start=start + 300, seed=1)
    begin, got = history.read(names(4), 0.0, 4e9, 60.0)
    assert begin.tolist() == [start + 60 * i for i in range(6)]
    assert np.isnan(got[1:5]).all()
    assert np.isfinite(got[[0, 5]]).all()


def test_nan_does_not_spoil_a_mean(make):
    history = make()
    series = names(1)
    for i, value in enumerate([1.0, np.nan, 3.0]):
        history.append(Frame("host", 600.0 + i, series, np.array([value])))
    assert history.read(series, 600, 700, 60)[1].tolist() == [[2.0]]


def test_a_step_that_makes_no_sense_is_refused(make):
    history = make()
    fill(history, 10)
    with pytest.raises(ValueError, match="step must be positive"):
        history.read(names(1), T0, T0 + 9, 0.0)
    with pytest.raises(ValueError, match="ask for a larger step"):
        history.read(names(4), T0, T0 + 9, 1e-7)


def test_nothing_known_is_an_empty_answer(make):
    history = make()
    assert history.read(names(2), T0, T0 + 9)[1].shape == (0, 2)
    assert history.read(names(2), T0, T0 + 9, 1.0)[1].shape == (0, 2)
    fill(history, 10)
    assert history.read(names(2), T0 + 100, T0 + 200)[1].shape == (0, 2)
    assert history.read([], T0, T0 + 9)[1].shape[1] == 0


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros(1), np.zeros(0)])
def test_a_frame_that_does_not_fit_is_a_bug_of_its_source(make, values):
    with pytest.raises(ValueError, match="values for 4 series"):
        make().append(Frame("host", T0, names(4), values))


def test_a_frame_without_a_time_is_a_bug_of_its_source(make):
    with pytest.raises(ValueError, match="at ts nan"):
        make().append(Frame("host", float("nan"), names(4), np.zeros(4)))


def test_the_same_instant_again_replaces_the_row(make, tmp_path):
    history = make()
    series = names(2)
    history.append(Frame("host", T0, series, np.array([1.0, 2.0])))
    history.append(Frame("host", T0 + 1, series, np.array([3.0, 4.0])))
    history.flush()
    history.append(Frame("host", T0 + 1, series[:1], np.array([5.0])))
    history.append(Frame("host", T0 + 2, series, np.array([6.0, 7.0])))
    expected = [[1.0, 2.0], [5.0, np.nan], [6.0, 7.0]]
    np.testing.assert_array_equal(history.read(series, T0, T0 + 9)[1], expected)
    history.close()
    again = make()
    np.testing.assert_array_equal(again.read(series, T0, T0 + 9)[1], expected)


def test_the_same_instant_again_after_its_block_was_written(make):
    history = make()
    series = names(1)
    for i in range(20):
        history.append(Frame("host", T0 + i, series, np.array([float(i)])))
    history._seal()
    history.append(Frame("host", T0 + 19, series, np.array([99.0])))
    ts, got = history.read(series, T0 + 18, T0 + 30)
    assert ts.tolist() == [T0 + 18, T0 + 19]
    assert got[:, 0].tolist() == [18.0, 99.0]


def test_a_clock_that_goes_back_loses_nothing_and_is_read_in_order(make):
    history = make()
    series = names(1)
    for i in range(100):
        history.append(Frame("host", T0 + i, series, np.array([float(i)])))
    for i in range(100):
        history.append(Frame("host", T0 - 3600.5 + i, series, np.array([1000.0 + i])))
    ts, got = history.read(series, T0 - 7200, T0 + 7200)
    assert (np.diff(ts) > 0).all()
    assert got[:, 0].tolist() == [*(1000.0 + i for i in range(100)), *map(float, range(100))]


def test_a_clock_that_jumps_a_year_ahead_and_back_keeps_the_past(make):
    history = make(tail_s=60.0, age_s=24 * 3600.0)
    series = names(2)
    fill(history, 4000, series=series)
    fill(history, 1300, series=series, start=T0 + 365 * 86_400.0, seed=1)
    fill(history, 2000, series=series, start=T0 + 5300.0, seed=2)
    ts, _ = history.read(series, T0, T0 + 7300)
    assert len(ts) == 6000
    assert sum(len(chunk.ts) for chunk in history._tails["host"].chunks) < 1000


def test_a_slow_source_beside_a_fast_one_does_not_tear_blocks(make):
    """A source whose data is an hour behind must not look like a clock that jumps on every frame."""
    history = make(tail_s=60.0)
    behind = names(1, prefix="z")
    for i in range(1800):
        history.append(Frame("host", T0 + i, names(1), np.array([1.0])))
        history.append(Frame("far", T0 + i - 3600, behind, np.array([2.0])))
    assert sum(len(file.blocks) for file in history._files) <= 6
    ts, _ = history.read(behind, T0 - 3600, T0)
    assert len(ts) == 1800


def test_everything_is_there_after_close_and_open(make):
    history = make()
    ts, values = fill(history, 1000)
    history.close()
    again = make()
    got_ts, got = again.read(names(4), T0, T0 + 1000)
    np.testing.assert_array_equal(got_ts, ts)
    np.testing.assert_allclose(got, values, rtol=1e-6)
    assert again.series("host") == list(names(4))
    assert not list(again._folder.glob("ahead-*.log"))


def crash(history):
    """Let go of the files as a killed process does: nothing more is written."""
    history._shut()
    return history._folder


def test_a_crash_costs_what_was_not_in_the_log(make):
    history = make()
    _, values = fill(history, 1005)
    crash(history)
    history._tails.clear()
    ts, got = make().read(names(4), T0, T0 + 2000)
    assert 995 <= len(ts) <= 1005
    np.testing.assert_allclose(got, values[: len(ts)], rtol=1e-6)


@pytest.mark.parametrize("cut", [1, 7, 40, 300])
def test_a_torn_log_is_read_up_to_the_tear(make, cut):
    history = make()
    _, values = fill(history, 500)
    folder = crash(history)
    history._tails.clear()
    log = next(folder.glob("ahead-*.log"))
    os.truncate(log, log.stat().st_size - cut)
    ts, got = make().read(names(4), T0, T0 + 2000)
    assert 480 <= len(ts) < 500
    np.testing.assert_allclose(got, values[: len(ts)], rtol=1e-6)


@pytest.mark.parametrize("cut", [1, 50, 5000])
def test_a_torn_block_is_cut_off_and_read_from_the_log_again(make, cut):
    history = make()
    _, values = fill(history, 1300, series=names(8))
    folder = crash(history)
    history._tails.clear()
    blocks = next(folder.glob("blocks-*.hist"))
    os.truncate(blocks, blocks.stat().st_size - cut)
    again = make()
    ts, got = again.read(names(8), T0, T0 + 2000)
    assert len(ts) >= 1290
    np.testing.assert_allclose(got, values[: len(ts)], rtol=1e-6)
    fill(again, 700, series=names(8), start=T0 + 5000)
    assert again.fault is None
    assert len(again.read(names(8), T0 + 5000, T0 + 6000)[0]) == 700


def test_a_damaged_block_is_left_out_and_counted(make):
    history = make(tail_s=10.0)
    fill(history, 3000)
    history.close()
    path = next(history._folder.glob("blocks-*.hist"))
    again = make(tail_s=10.0)
    block = again._files[0].blocks[1]
    with path.open("r+b") as raw:
        raw.seek(block.offset + block.length // 2)
        raw.write(b"\xff" * 40)
    ts, _ = again.read(names(4), T0, T0 + 3000)
    assert again.damaged == 1
    assert 2000 <= len(ts) < 3000


def test_garbage_in_the_folder_is_no_history(make, tmp_path):
    folder = tmp_path / "history"
    folder.mkdir()
    (folder / "blocks-00000001.hist").write_bytes(b"\x00" * 5000)
    (folder / "ahead-00000003.log").write_bytes(os.urandom(3000))
    history = make()
    assert history.fault is None
    assert history.series() == []
    fill(history, 700)
    assert len(history.read(names(4), T0, T0 + 700)[0]) == 700


def test_age_lets_the_oldest_go(make):
    history = make(tail_s=30.0, age_s=4 * 3600.0)
    fill(history, 10 * 360, step=10.0)  # ten hours
    ts, _ = history.read(names(4), T0, T0 + 36_000)
    end = T0 + 35_990
    assert 4 * 3600 <= end - ts[0] <= 4 * 3600 * 1.25
    assert len(list(history._folder.glob("blocks-*.hist"))) <= 22


def test_size_lets_the_oldest_go(make):
    history = make(tail_s=30.0, size_bytes=300_000)
    series = names(20)
    fill(history, 8000, series=series)
    on_disk = sum(path.stat().st_size for path in history._folder.iterdir())
    assert history.disk_bytes <= 300_000
    assert on_disk <= 300_000 + 2 * 20 * 8 * 700, "blocks, and the logs of two blocks at most"
    ts, _ = history.read(series, T0, T0 + 8000)
    assert ts[0] > T0
    assert ts[-1] == T0 + 7999
    assert (np.diff(ts) == 1.0).all()


@pytest.fixture
def full_disk():
    """Make the kernel refuse to let files grow beyond a size, as a full disk does: a torn write, then an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    yield fill_up
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_the_recent_past_goes_on(make, full_disk):
    history = make(tail_s=300.0)
    series = names(8)
    fill(history, 900, series=series)
    assert history.fault is None
    full_disk(20_000)
    _, values = fill(history, 2000, series=series, start=T0 + 900, seed=1)
    assert history.fault is not None
    assert "cannot be written" in history.fault
    assert history.lost > 0
    assert sum(len(chunk.ts) for chunk in history._tails["host"].chunks) < 600
    ts, got = history.read(series, T0 + 2600, T0 + 2899)
    assert len(ts) == 300
    np.testing.assert_array_equal(got, values[1700:])
    full_disk(resource.RLIM_INFINITY)
    fill(history, 700, series=series, start=T0 + 2900, seed=2)
    assert history.fault is None
    lost = history.lost
    history.close()
    again = make()
    ts, got = again.read(series, T0, T0 + 5000)
    assert len(ts) == 3600 - lost
    assert (np.diff(ts) > 0).all()
    np.testing.assert_allclose(
        again.read(series, T0 + 2700, T0 + 2899)[1], values[1800:], rtol=1e-6
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_a_fault_not_a_crash(tmp_path):
    tmp_path.chmod(0o500)
    check_memory_only(History(tmp_path / "history", age_s=3600, size_bytes=1e6, tail_s=60.0))


def test_a_file_where_the_folder_should_be_is_a_fault_not_a_crash(tmp_path):
    (tmp_path / "history").write_text("in the way")
    history = History(tmp_path / "history", age_s=3600, size_bytes=1e6, tail_s=60.0)
    check_memory_only(history)
    (tmp_path / "history").unlink()
    fill(history, 100, start=T0 + 1000)
    assert history.fault is None
    history.close()
    assert (
        len(History(tmp_path / "history", age_s=3600, size_bytes=1e6).read(names(4), T0, 2e9)[0])
        > 100
    )


def check_memory_only(history):
    assert history.fault is not None
    fill(history, 200)
    assert history.fault is not None
    assert len(history.read(names(4), T0 + 150, T0 + 199)[0]) == 50
    history.flush()
    history.close()


def test_kill_9_costs_at_most_the_last_ten_seconds(tmp_path):
    """A real process, a real signal, in the middle of its appends."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from agent.history import History
        from agent.model import Entity, Frame, Series
        host = Entity("host", "web-1")
        series = tuple(Series("host.load1_count", host, (("device", f"d{i:03d}"),)) for i in range(40))
        history = History(Path(sys.argv[1]), age_s=48 * 3600, size_bytes=1e9)
        i = 0
        while True:
            history.append(Frame("host", 1_700_000_000.0 + i, series, np.full(40, float(i))))
            i += 1
            if i % 100 == 0:
                print(i, flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "history")],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        said = 0
        for line in child.stdout:
            said = int(line)
            if said >= 2500:
                child.send_signal(signal.SIGKILL)
                break
        rest = child.stdout.read().split()
        said = int(rest[-1]) if rest else said
    assert child.returncode == -signal.SIGKILL
    history = History(tmp_path / "history", age_s=48 * 3600, size_bytes=1e9)
    series = names(40)
    ts, got = history.read(series, T0, T0 + 1e7)
    assert len(ts) >= said - 11
    assert ts.tolist() == [T0 + i for i in range(len(ts))]
    np.testing.assert_allclose(got[:, 0], np.arange(len(ts)), rtol=1e-6)
    history.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["host", "gpu"]),
            st.floats(-700, 700, width=16),
            st.sets(st.integers(0, 4), min_size=1),
            st.integers(-(10**6), 10**6),
            st.sampled_from(["", "flush", "seal", "reopen"]),
        ),
        max_size=40,
    )
)
def test_any_order_of_frames_jumps_and_restarts_reads_as_a_plain_table(tmp_path_factory, moves):
    """Against the plain truth: per source and instant the last row, sorted by time."""
    folder = Path(tmp_path_factory.mktemp("history"))
    history = History(folder, age_s=1e9, size_bytes=1e9, tail_s=50.0)
    truth: dict[tuple[str, float], dict[int, float]] = {}
    now = T0
    for source, jump, which, value, then in moves:
        now += jump
        chosen = sorted(which)
        offset = 10 if source == "gpu" else 0
        series = tuple(names(20)[i + offset] for i in chosen)
        row = np.array([float(value + i) for i in chosen])
        history.append(Frame(source, now, series, row))
        truth[source, now] = {i + offset: float(value + i) for i in chosen}
        if then == "flush":
            history.flush()
        elif then == "seal":
            history._try(history._seal, ts=None)
        elif then == "reopen":
            history.close()
            history = History(folder, age_s=1e9, size_bytes=1e9, tail_s=50.0)
    instants = sorted({when for _, when in truth})
    expected = np.full((len(instants), 20), np.nan)
    for (_, when), row in truth.items():
        for column, value in row.items():
            expected[instants.index(when), column] = value
    asked = names(20)
    ts, got = history.read(asked, -1e12, 1e12)
    assert ts.tolist() == instants
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    history.close()
