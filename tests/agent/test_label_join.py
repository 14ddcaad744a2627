"""The join against a plain dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.label_join import LabelJoin, confidence_of, firsts, keys_of, rows_of, set_confidence


def add(join: LabelJoin, ids: list[str], ts: float = 0.0, tenure: int = 1, said: int = 0) -> None:
    join.add(rows_of(keys_of(ids), np.full(len(ids), ts), tenure, np.full(len(ids), said)))


def test_a_row_remembers_how_sure_and_of_which_slices_it_was():
    join = LabelJoin(100.0, 10_000)
    rows = rows_of(keys_of(["a", "b"]), np.array([1.0, 2.0]), 1, np.array([0.1, 7.0]))
    set_confidence(rows, np.array([0.987654, np.nan]))
    rows["slices"][0, :2] = 3, 0
    rows["marks"][1] = 5
    join.add(rows)
    other = LabelJoin(100.0, 10_000)
    other.restore(join.arrays())
    got = other.label(keys_of(["b", "c", "a"])).rows
    assert confidence_of(got)[[0, 2]] == pytest.approx([np.nan, 0.987654], abs=1e-5, nan_ok=True)
    assert got["said"][[0, 2]] == pytest.approx([7.0, 0.1])
    assert got["slices"][2].tolist() == [3, 0, *[255] * 8]
    assert got["marks"][[0, 2]].tolist() == [5, 0]


def test_keys_are_stable_across_runs_and_no_id_is_zero():
    assert keys_of(["", "a", "ü", "\ud800"]).tolist()[0] == 0
    assert (
        keys_of(["a"])[0] == 4635109890537377425
    )  # must not change: states of waiting rows hold it
    long = ["a", "a" * 8, "a" * 9, "a" * 64, "a" * 65, "b" * 5000, ""]
    assert keys_of(long).tolist() == [int(keys_of([one])[0]) for one in long]
    assert len(set(keys_of(long).tolist())) == len(long)
    assert len(set(keys_of([str(i) for i in range(100_000)]).tolist())) == 100_000


def test_keys_that_share_slot_and_tag_are_told_apart_and_only_the_first_of_each_is_joined():
    join = LabelJoin(100.0, 10_000)
    # all bits that the table knows are alike; these are not
    keys = np.uint64(0x1234 << 49 | 7) | np.arange(1, 201, dtype=np.uint64) << np.uint64(20)
    join.add(rows_of(keys[:100], np.zeros(100), 1, np.arange(100)))
    assert join.known(keys).tolist() == [True] * 100 + [False] * 100
    joined = join.label(np.concatenate((keys[50:], keys[50:52])))
    assert joined.status.tolist() == [1] * 50 + [0] * 100 + [2, 2]
    assert joined.rows["said"][:50].tolist() == list(range(50, 100))
    assert firsts(np.array([3, 1, 3, 2, 1])).tolist() == [True, True, False, True, False]


def test_a_prediction_takes_one_label_and_says_whose_it_was():
    join = LabelJoin(100.0, 10_000)
    add(join, ["a", "b"], ts=5.0, tenure=7, said=3)
    got = join.label(keys_of(["b", "x", "b"]))
    assert got.status.tolist() == [1, 0, 2]
    assert got.rows[["ts", "tenure", "said"]][0].tolist() == (5.0, 7, 3.0)
    assert join.label(keys_of(["b", "a"])).status.tolist() == [2, 1]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_agrees_with_a_dictionary(data):
    join, plain = LabelJoin(1e9, 3000), {}
    done: set[int] = set()
    number = 0
    for _ in range(data.draw(st.integers(1, 12))):
        n = data.draw(st.integers(1, 60))
        ids = [f"id{number + i}" for i in range(n)]
        number += n
        add(join, ids, ts=float(number), tenure=number % 5, said=number % 3)
        plain |= {i: (float(number), number % 5, number % 3) for i in ids}
        asked = data.draw(st.lists(st.integers(0, number + 5), max_size=40))
        got = join.label(keys_of([f"id{i}" for i in asked]))
        for at, i in enumerate(asked):
            expected = plain.get(f"id{i}")
            status = 0 if expected is None else 2 if i in done else 1
            assert got.status[at] == status
            if status == 1:
                assert got.rows[["ts", "tenure", "said"]][at].tolist() == expected
                done.add(i)
    known = join.known(keys_of([f"id{i}" for i in range(number + 3)]))
    assert known.tolist() == [True] * number + [False] * 3


def test_old_rows_leave_by_number_and_by_age_and_memory_stays():
    join = LabelJoin(50.0, 4096)
    for second in range(300):
        add(join, [f"{second}/{i}" for i in range(200)], ts=float(second))
    assert len(join) <= 2 * 4096
    assert join.nbytes < 400_000
    assert join.label(keys_of(["299/0", "0/0"])).status.tolist() == [1, 0]
    few = LabelJoin(50.0, 1_000_000)
    add(few, ["old"], ts=0.0)
    add(few, ["new"], ts=100.0)
    # it is still there, but its time is over
    assert few.label(keys_of(["old", "new"])).status.tolist() == [2, 1]


def test_a_generation_is_added_when_one_is_full():
    join = LabelJoin(1e9, 100_000)
    ids = [f"x{i}" for i in range(30_000)]
    add(join, ids)
    assert len(join) == 30_000
    assert join.known(keys_of(ids)).all()


def test_restarts_keep_everything_and_room_to_go_on():
    join = LabelJoin(1e9, 5000)
    ids = [f"x{i}" for i in range(2500)]
    add(join, ids, tenure=3)
    join.label(keys_of(ids[:100]))
    other = LabelJoin(1e9, 5000)
    other.restore(join.arrays())
    for one in (join, other):
        add(one, ["fresh"], tenure=4)
        got = one.label(keys_of([*ids[50:150], "fresh", "no"]))
        assert got.status.tolist() == [2] * 50 + [1] * 51 + [0]
    empty = LabelJoin(1e9, 5000)
    empty.restore(LabelJoin(1e9, 5000).arrays())
    assert len(empty) == 0


@pytest.mark.parametrize("most", [1000, 1_000_000])
def test_a_smaller_limit_after_a_restart_drops_the_oldest(most):
    join = LabelJoin(1e9, 1_000_000)
    add(join, [f"x{i}" for i in range(200_000)])
    other = LabelJoin(1e9, most)
    other.restore(join.arrays())
    assert other.known(keys_of(["x199999"]))[0]
