"""The spool: what was put there stays, the oldest goes first, a torn end hurts nobody."""

import errno
import json
import os

import pytest

from agent.errors import Unavailable
from connectors import _spool as module
from connectors._spool import Dead, Spool


def lines(first, n, size=10):
    return [f"{i:0{size}d}".encode() for i in range(first, first + n)]


def drained(spool):
    out = []
    while (found := spool.oldest()) is not None:
        out += found[1]
        spool.done(found[0])
    return out


def test_lines_come_back_in_order_over_restarts(tmp_path):
    spool = Spool(tmp_path / "s", 1e6)
    spool.append(lines(0, 3))
    spool.append(lines(3, 2))
    spool.append([])
    again = Spool(tmp_path / "s", 1e6)
    assert (again.lines, again.size) == (5, 55)
    again.append(lines(5, 2))
    assert drained(again) == lines(0, 7)
    assert drained(again) == []
    assert list((tmp_path / "s").iterdir()) == []


def test_a_segment_is_given_until_it_is_done_and_nothing_is_put_behind_it(tmp_path):
    spool = Spool(tmp_path, 1e6)
    spool.append(lines(0, 2))
    path, first = spool.oldest()
    spool.append(lines(2, 2))
    assert spool.oldest() == (path, first)
    spool.done(path)
    assert drained(spool) == lines(2, 2)


def test_segments_are_small_and_the_oldest_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENT", 100)
    spool = Spool(tmp_path, 550)
    for i in range(20):
        spool.append(lines(10 * i, 10))
    assert spool.size <= 550
    assert spool.dropped == 200 - spool.lines
    assert drained(spool) == lines(spool.dropped, 200 - spool.dropped)


def test_a_line_that_was_cut_off_is_passed_over_the_whole_ones_are_not(tmp_path):
    spool = Spool(tmp_path, 1e6)
    spool.append(lines(0, 3))
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"000")
    again = Spool(tmp_path, 1e6)
    again.append(lines(3, 1))
    assert drained(again) == lines(0, 4)


def test_a_disk_that_is_full_takes_all_of_a_call_or_nothing(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "s", 1e6)
    spool.append(lines(0, 3))
    real = os.pwrite
    calls = []

    def full(handle, data, at):
        calls.append(at)
        if len(calls) == 1:
            return real(handle, bytes(data)[:5], at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable, match="No space left"):
        spool.append(lines(3, 3))
    monkeypatch.setattr(os, "pwrite", real)
    spool.append(lines(3, 3))
    assert drained(Spool(tmp_path / "s", 1e6)) == lines(0, 6)


def test_dead_letters_are_bounded_and_over_when_they_are_taken_away(tmp_path):
    dead = Dead(tmp_path, most_bytes=2000)
    for i in range(100):
        dead.put({"id": f"d{i}", "error": "no"}, now=5.0)
    files = [tmp_path / "dead.ndjson", tmp_path / "dead.1.ndjson"]
    assert sum(f.stat().st_size for f in files) <= 2000
    kept = [json.loads(x) for f in reversed(files) for x in f.read_text().splitlines()]
    assert kept[-1] == {"ts": 5.0, "id": "d99", "error": "no"}
    assert [x["id"] for x in kept] == [f"d{i}" for i in range(100 - len(kept), 100)]
    assert dead.count == 100
    assert Dead(tmp_path, most_bytes=2000).count == len(kept)
    files[0].unlink()
    assert dead.count == 0
    dead.put({"id": "x"})
    assert dead.count == 1
