"""Pushed values as a source: frames in time, values that hold and then are unknown, over processes and their books."""

import math

import numpy as np
import pytest
import structlog

from agent.board import Board
from agent.collect import Collector
from agent.errors import Unavailable
from agent.model import Edge, Entity, Series, Sighting
from agent.parcels import cells_of, pack, parts, rows_of, unpack
from agent.ports import Book, SampleBatch


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def series(*names):
    return [Series("service.other_value", Entity("service", n)) for n in names]


def batch(book, at, values, **more):
    return SampleBatch("otlp", book, np.array(at), np.array(values, dtype=float), 10.0, **more)


def values(frame):
    return {s.entity.key: v for s, v in zip(frame.series, frame.values.tolist(), strict=True)}


@pytest.fixture
def made():
    clock = Clock()
    return Board(clock), clock


def test_a_frame_comes_every_interval_with_the_newest_values_in_order(made):
    board, clock = made
    book = Book("1", series("b", "a"))
    board.take(batch(book, [0, 1], [1.0, 2.0]))
    board.take(batch(book, [1], [3.0]))
    (frame,) = board.frames(50.0)
    assert (frame.source, frame.ts, values(frame)) == ("otlp", 50.0, {"a": 3.0, "b": 1.0})
    assert list(frame.series) == sorted(frame.series)
    assert board.frames(51.0) == []
    clock.now += 10
    (again,) = board.frames(60.0)
    assert again.series is frame.series, "the same tuple while it does not change"


def test_a_value_holds_for_three_intervals_and_then_its_column_is_unknown_and_leaves(made):
    board, clock = made
    book = Book("1", series("a", "b"))
    board.take(batch(book, [0, 1], [1.0, 2.0]))
    seen = []
    for after in (30, 32, 620, 640):
        clock.now = 1000.0 + after
        board.take(batch(book, [1], [after]))
        (frame,) = board.frames(clock.now)
        seen.append(values(frame))
    assert seen[0] == {"a": 1.0, "b": 30.0}
    assert math.isnan(seen[1]["a"])
    assert seen[2:] == [{"b": 620.0}, {"b": 640.0}]
    board.take(batch(book, [0], [5.0]))
    clock.now += 20
    assert values(board.frames(0.0)[0]) == {"a": 5.0, "b": 640.0}
    assert board.heard() == {"otlp": (10.0, 20.0, 2)}
    board.forget("otlp")
    assert board.heard() == {}


def test_each_sender_is_an_eye_of_its_own_and_its_silence_is_not_that_of_the_others(made):
    board, clock = made
    collector = Collector(clock=clock)
    book = Book("1", series("a", "b"))

    def look():
        assert board.frames(clock.now) is not None
        for eye, (every_s, ago_s, n) in board.heard().items():
            collector.heard(eye, every_s, clock.now - ago_s, n, clock.now)
        return {
            name: (h.blind(clock.now), h.series, h.error) for name, h in collector.health.items()
        }

    board.take(batch(book, [0], [1.0], sender="rack"))
    with structlog.testing.capture_logs() as said:
        for _ in range(4):
            board.take(batch(book, [1], [2.0], sender="shop"))
            seen = look()
            clock.now += 10
        board.take(batch(book, [1], [2.0], sender="shop"))
        seen = look()
    silent = (True, 1, "nothing comes from it any more")
    assert seen == {"otlp": (False, 2, ""), "otlp/rack": silent, "otlp/shop": (False, 1, "")}
    assert [(e["event"], e["source"]) for e in said] == [("sender_silent", "otlp/rack")]
    frame = collector.self_frame(clock.now)
    blind = {
        s.entity.key: v
        for s, v in zip(frame.series, frame.values.tolist(), strict=True)
        if s.metric == "source.blind"
    }
    assert blind == {"otlp": 0.0, "otlp/rack": 1.0, "otlp/shop": 0.0}

    clock.now += 600
    seen = look()
    assert seen["otlp/shop"][0], "and the other one now, long after"
    assert seen["otlp/rack"] == (True, 0, silent[2]), "it stays blind"
    board.take(batch(book, [0], [1.0], sender="rack"))
    assert look()["otlp/rack"] == (False, 1, "")


def test_of_a_sender_whose_token_was_taken_away_nothing_is_expected(made):
    board, clock = made
    book = Book("1", series("a", "b", "c"))
    for i, sender in enumerate(("old", "new", "third")):
        board.take(batch(book, [i], [float(i)], sender=sender))
    assert board.dismiss("old") == ["otlp/old"]
    assert board.dismiss("old") == []
    assert {k: n for k, (_, _, n) in board.heard().items()} == {
        "otlp": 0,
        "otlp/new": 1,
        "otlp/third": 1,
    }
    (frame,) = board.frames(clock.now)
    assert values(frame) == {"b": 1.0, "c": 2.0}


def test_names_are_told_once_over_a_pipe_and_a_new_process_begins_anew(made):
    board, clock = made
    book = Book("1", series("a"))
    first = pack({"number": 1}, batch(book, [0], [1.0]))
    book.series += series("b")
    edge = Edge("calls", Entity("service", "a"), Entity("service", "b"))
    sighting = Sighting(Entity("service", "a"), (("version", "3"),), (edge,), lasts_s=300.0)
    second = pack(
        {"number": 2}, batch(book, [1, 0], [2.0, 3.0], seen=(sighting,), left_out=4, why="too many")
    )
    assert len(second) < len(first) + 400
    for data in (first, second):
        said, got = unpack(data)
        assert (rows_of(got), cells_of(got), list(parts(got))) == (len(got.at), len(got.at), [got])
        board.take(got)
    assert said == {"number": 2}
    (frame,) = board.frames(0.0)
    assert values(frame) == {"a": 3.0, "b": 2.0}
    assert frame.seen == (sighting,)
    assert board.left_out == {"otlp": 4}
    other = Book("2", series("b"))
    board.take(batch(other, [0], [7.0]))
    clock.now += 10
    (frame,) = board.frames(0.0)
    assert (values(frame), frame.seen) == ({"a": 3.0, "b": 7.0}, ())


def test_where_names_did_not_come_it_says_so(made):
    board, _ = made
    with pytest.raises(Unavailable, match="names"):
        board.take(batch(Book("1", series("b"), start=1), [1], [2.0]))
    assert board.frames(0.0) == []


def test_dead_columns_are_swept_away_and_come_back_when_they_are_needed(made):
    board, clock = made
    book = Book("1", series(*(f"s{i}" for i in range(3000))))
    board.take(batch(book, range(3000), np.arange(3000)))
    board.frames(0.0)
    clock.now += 700
    board.take(batch(book, [5], [1.0]))
    (frame,) = board.frames(0.0)
    assert values(frame) == {"s5": 1.0}
    assert len(board._walls["otlp"].values) == 1
    board.take(batch(book, [5, 7], [2.0, 3.0]))
    clock.now += 10
    assert values(board.frames(0.0)[0]) == {"s5": 2.0, "s7": 3.0}
