import contextlib
import hashlib
import itertools
import math
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec import canonical
from agent.errors import ConfigError, Refused, Unavailable
from agent.journal import GENESIS, Journal, Unwritten, _digest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    with Journal(path) as made:
        yield made


def fill(journal, n=5):
    return [journal.append("run", f"r{i}", {"i": i}, 100.0 + i) for i in range(n)]


def tamper(path, *statements):
    """Change rows as somebody with a database tool would."""
    with sqlite3.connect(path) as c:
        c.execute("DROP TRIGGER journal_no_update")
        c.execute("DROP TRIGGER journal_no_delete")
        for statement in statements:
            c.execute(statement)
    c.close()


def child(code, *args, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        **kwargs,
    )


# ---- writing and reading


def test_what_is_appended_is_read_back_in_order_with_a_chain_of_hashes(journal):
    made = fill(journal)
    assert list(journal.read()) == made
    assert [e.seq for e in made] == [1, 2, 3, 4, 5]
    assert made[0].prev == GENESIS
    assert all(b.prev == a.hash for a, b in itertools.pairwise(made))
    assert journal.head == (5, made[-1].hash)
    assert journal.verify() == []


def test_the_hash_is_that_of_the_previous_hash_and_canonical_json(journal):
    entry = journal.append("note", "ü", {"b": [1, None], "a": 'x"y'}, 1.5)
    said = canonical(
        {"ts": 1.5, "kind": "note", "subject": "ü", "body": {"b": [1, None], "a": 'x"y'}}
    )
    assert entry.hash == hashlib.sha256((GENESIS + said).encode()).hexdigest()


def test_reading_can_be_narrowed(journal):
    journal.append("run", "a", {}, 1.0)
    journal.append("incident", "a", {}, 2.0)
    journal.append("run", "b", {}, 3.0)
    journal.append("run", "a", {"last": True}, 4.0)
    assert [e.seq for e in journal.read(["run"])] == [1, 3, 4]
    assert [e.seq for e in journal.read(["run", "incident"], subject="a")] == [1, 2, 4]
    assert [e.seq for e in journal.read(since=2.5)] == [3, 4]
    assert [e.seq for e in journal.read(limit=2)] == [1, 2]
    assert [e.seq for e in journal.read(limit=2, newest_first=True)] == [4, 3]
    assert list(journal.read([])) == []
    assert list(journal.read(limit=0)) == []
    assert [e.seq for e in journal.latest("run")] == [3, 4]
    assert [e.seq for e in journal.latest("run", limit=1)] == [4]


def test_many_entries_are_read_over_pages_in_both_directions(journal):
    journal.append_many([("run", "r", {"i": i}, float(i)) for i in range(1201)])
    assert [e.body["i"] for e in journal.read()] == list(range(1201))
    assert [e.body["i"] for e in journal.read(newest_first=True)] == list(range(1200, -1, -1))
    assert [e.seq for e in journal.read(limit=700)] == list(range(1, 701))
    assert journal.verify() == []


def test_the_chain_goes_on_after_a_restart(path):
    with Journal(path) as first:
        fill(first, 3)
    with Journal(path) as second:
        fill(second, 2)
        assert [e.seq for e in second.read()] == [1, 2, 3, 4, 5]
        assert second.verify() == []


def test_the_file_is_for_its_owner_only(journal, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    journal.append("run", "r", {}, 1.0)
    for beside in path.parent.iterdir():
        assert stat.S_IMODE(beside.stat().st_mode) & 0o077 == 0, beside


def test_a_file_that_others_could_read_is_closed_to_them(path):
    Journal(path).close()
    path.chmod(0o644)
    Journal(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_names_that_are_not_utf8_are_written_with_a_mark(journal):
    entry = journal.append("incident", "process:\udcff", {"name": "a\udc80b"}, 1.0)
    assert entry.body == {"name": "a?b"}
    assert list(journal.read()) == [entry]
    assert journal.verify() == []


@pytest.mark.parametrize("body", [{"x": math.nan}, {"x": object()}])
def test_a_body_that_json_can_not_carry_is_a_bug_and_leaves_no_gap(journal, body):
    with pytest.raises((ValueError, TypeError)):
        journal.append("run", "r", body, 1.0)
    with pytest.raises(ValueError, match="no time"):
        journal.append("run", "r", {}, math.nan)
    assert journal.append("run", "r", {}, 1.0).seq == 1
    assert journal.pending == 0
    assert journal.verify() == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(body=st.dictionaries(st.text(max_size=5), json_values, max_size=4),
       ts=st.floats(0, 1e11), subject=st.text(max_size=10))  # fmt: skip
def test_any_json_survives_and_verifies(tmp_path_factory, body, ts, subject):
    path = tmp_path_factory.mktemp("j") / "journal.sqlite"
    with Journal(path) as journal:
        entry = journal.append("label", subject, body, ts)
        assert list(journal.read()) == [entry]
        assert entry.body == body
        assert journal.verify() == []


# ---- tampering


def test_the_database_itself_refuses_to_change_or_delete_entries(journal, path):
    fill(journal)
    with sqlite3.connect(path) as c:
        for statement in ("UPDATE journal SET ts = 0", "DELETE FROM journal"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                c.execute(statement)
    c.close()


@pytest.mark.parametrize(
    ("statement", "seq", "words"),
    [
        ("UPDATE journal SET body = '{\"i\":9}' WHERE seq = 3", 3, "altered"),
        ("UPDATE journal SET body = '{\"i\": 2}' WHERE seq = 3", 3, "altered"),
        ("UPDATE journal SET ts = ts + 1 WHERE seq = 3", 3, "altered"),
        ("UPDATE journal SET kind = 'note' WHERE seq = 1", 1, "altered"),
        ("UPDATE journal SET subject = 'x' WHERE seq = 5", 5, "altered"),
        ("UPDATE journal SET body = CAST(body AS BLOB) WHERE seq = 2", 2, "altered"),
        ("DELETE FROM journal WHERE seq = 2", 2, "entry 2 is missing"),
        ("DELETE FROM journal WHERE seq IN (2, 3)", 2, "entries 2 to 3 are missing"),
        ("DELETE FROM journal WHERE seq = 1", 1, "entry 1 is missing"),
        ("DELETE FROM journal WHERE seq > 3", 4, "missing at the end"),
    ],
)
def test_tampering_is_found_at_its_place(path, statement, seq, words):
    with Journal(path) as journal:
        fill(journal)
    tamper(path, statement)
    with Journal.reader(path) as reader:
        found = reader.verify()
    assert found[0].seq == seq
    assert words in str(found[0])
    assert all(f.seq <= seq + 1 for f in found)


def test_reordered_entries_are_found(path):
    with Journal(path) as journal:
        fill(journal)
    tamper(path, "UPDATE journal SET seq = 99 WHERE seq = 2", "UPDATE journal SET seq = 2 WHERE seq = 3",
           "UPDATE journal SET seq = 3 WHERE seq = 99")  # fmt: skip
    with Journal.reader(path) as reader:
        assert [f.seq for f in reader.verify()] == [2, 3, 4]


def test_an_entry_replaced_together_with_its_hash_breaks_the_next_one(path):
    with Journal(path) as journal:
        entries = fill(journal)
    body = '{"i":"forged"}'
    forged = _digest(entries[1].prev, entries[1].ts, "run", "r1", body)
    tamper(path, f"UPDATE journal SET body = '{body}', hash = '{forged}' WHERE seq = 2")
    with Journal.reader(path) as reader:
        (found,) = reader.verify()
    assert found.seq == 3
    assert "does not follow" in str(found)


def test_a_body_that_is_no_json_any_more_is_told_and_not_passed_on(path):
    with Journal(path) as journal:
        fill(journal)
    tamper(path, "UPDATE journal SET body = 'nonsense' WHERE seq = 2")
    with Journal.reader(path) as reader, pytest.raises(Refused, match=r"entry 2 .*altered"):
        list(reader.read())


# ---- damaged files


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_bytes(b"these are my notes, not a database" * 100)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"no healthy journal.*move it away"):
        Journal(path)
    assert path.read_bytes() == before


def test_another_sqlite_file_is_refused(path):
    with sqlite3.connect(path) as c:
        c.execute("CREATE TABLE pictures (id)")
    c.close()
    with pytest.raises(ConfigError, match="no journal of ours"):
        Journal(path)
    with sqlite3.connect(path) as c:
        assert c.execute("SELECT name FROM sqlite_master").fetchall() == [("pictures",)]
    c.close()


def test_a_journal_of_a_later_format_is_refused(path):
    Journal(path).close()
    with sqlite3.connect(path) as c:
        c.execute("PRAGMA user_version = 7")
    c.close()
    with pytest.raises(ConfigError, match="format 7"):
        Journal(path)


def test_a_file_with_a_hole_is_refused_with_what_is_wrong(path):
    with Journal(path) as journal:
        journal.append_many([("run", "r" * 50, {"i": "x" * 500}, float(i)) for i in range(400)])
    with path.open("r+b") as f:
        f.seek(8 * 4096)
        f.write(os.urandom(20 * 4096))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"damaged|no healthy journal"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_making_that_was_cut_off_is_done_again(path):
    with sqlite3.connect(path) as c:
        c.execute("PRAGMA journal_mode=WAL")
    c.close()
    assert path.stat().st_size > 0
    with Journal(path) as journal:
        assert fill(journal, 1)[0].seq == 1


def test_a_missing_journal_is_not_made_by_a_reader(path):
    with pytest.raises(ConfigError, match="no journal here"):
        Journal.reader(path)
    assert not path.exists()


# ---- one writer, many readers


def test_only_one_writer(journal, path):
    with pytest.raises(Refused, match="another process writes"):
        Journal(path)
    fill(journal, 1)


def test_a_reader_in_another_process_sees_a_live_journal(journal, path):
    fill(journal, 3)
    code = """
        import sys
        from pathlib import Path
        from agent.journal import Journal
        with Journal.reader(Path(sys.argv[1])) as r:
            print(len(list(r.read())), len(r.verify()))
        """
    with child(code, path) as reader:
        assert reader.stdout.read().split() == ["3", "0"]
    fill(journal, 1)
    assert journal.pending == 0


def test_a_journal_whose_writer_was_killed_is_whole_and_readable(path):
    code = """
        import sys
        from pathlib import Path
        from agent.journal import Journal
        j = Journal(Path(sys.argv[1]))
        i = 0
        while True:
            i += 1
            j.append("run", "r", {"i": i}, float(i))
            print(i, flush=True)
        """
    with child(code, path) as writer:
        told = 0
        while told < 25:
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = int((writer.stdout.read().split() or [told])[-1])
    with Journal.reader(path) as reader:
        seen = [e.body["i"] for e in reader.read()]
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) >= told >= 25
        assert reader.verify() == []
    with Journal(path) as again:
        assert again.append("run", "r", {}, 1.0).seq == len(seen) + 1
        assert again.verify() == []


# ---- a disk that does not take it


def test_a_full_disk_loses_nothing_while_the_process_lives(path):
    code = """
        import resource, sys
        from pathlib import Path
        from agent.journal import Journal, Unwritten
        import agent.journal
        agent.journal._REST_S = 0.05
        j = Journal(Path(sys.argv[1]))
        j.append("run", "r", {"i": 0}, 0.0)
        size = max(f.stat().st_size for f in Path(sys.argv[1]).parent.iterdir())
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        failed = 0
        for i in range(1, 8):
            try:
                j.append("run", "r", {"i": i, "x": "y" * 3000}, float(i))
            except Unwritten as e:
                failed += 1
                assert e.entries[0].body["i"] == i and "can not be written" in str(e), e
        assert failed == 7 and j.pending == 7, (failed, j.pending)
        assert [e.body["i"] for e in j.read()] == list(range(8))
        assert [e.body["i"] for e in j.read(newest_first=True)] == list(range(7, -1, -1))
        assert j.flush() == 7
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        import time; time.sleep(0.1)
        last = j.append("run", "r", {"i": 8}, 8.0)
        print(last.seq, j.pending, [e.body["i"] for e in j.read()] == list(range(9)), len(j.verify()))
        """
    with child(code, path) as writer:
        assert writer.stdout.read().split() == ["9", "0", "True", "0"]


def fill_disk(ballast):
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, b"x" * 4096)
    os.close(fd)


def write_until_it_fails(journal):
    for i in range(100):
        journal.append("run", "r", {"i": i, "pad": "x" * 2000}, float(i))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a tiny disk")
def test_a_really_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.journal._REST_S", 0.0)
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tiny", disk], check=False)
    if done.returncode:
        pytest.skip("this container may not mount")
    try:
        with Journal(disk / "journal.sqlite") as journal:
            ballast = disk / "ballast"
            fill_disk(ballast)
            with pytest.raises(Unwritten, match="full"):
                write_until_it_fails(journal)
            waiting = journal.pending
            assert waiting == 1
            with pytest.raises(Unavailable, match="2 entries wait"):
                journal.append("run", "r", {"i": "late"}, 1.0)
            ballast.unlink()
            journal.append("run", "r", {"i": "last"}, 1.0)
            assert journal.pending == 0
            assert journal.verify() == []
            assert [e.body["i"] for e in journal.read()][-2:] == ["late", "last"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_journal_locked_by_somebody_catches_up(journal, path, monkeypatch):
    monkeypatch.setattr("agent.journal._REST_S", 0.0)
    journal._engine.dispose()
    monkeypatch.setattr("agent.journal._BUSY_MS", 50)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unwritten, match="locked"):
        journal.append("run", "r", {"i": 1}, 1.0)
    other.execute("ROLLBACK")
    other.close()
    journal.append("run", "r", {"i": 2}, 2.0)
    assert [e.body["i"] for e in journal.read()] == [1, 2]
    assert journal.verify() == []


def test_a_broken_disk_is_not_tried_at_each_entry(journal, path, monkeypatch):
    monkeypatch.setattr("agent.journal._BUSY_MS", 200)
    journal._engine.dispose()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    for i in range(10):
        with pytest.raises(Unwritten):
            journal.append("run", "r", {"i": i}, 1.0)
    took = time.monotonic() - start
    other.close()
    assert took < 1.0  # one try of 0.2 s, not ten
    assert journal.pending == 10


def test_what_waits_is_bounded_and_the_loss_is_told(path, monkeypatch):
    monkeypatch.setattr("agent.journal._BUSY_MS", 100)
    with Journal(path, room=3) as journal:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for i in range(3):
            with pytest.raises(Unwritten):
                journal.append("run", "r", {"i": i}, 1.0)
        with pytest.raises(Unavailable, match="this one is lost") as told:
            journal.append("run", "r", {"i": 3}, 1.0)
        assert not isinstance(told.value, Unwritten)
        other.close()
    with Journal.reader(path) as reader:  # closing wrote what waited
        assert [e.body["i"] for e in reader.read()] == [0, 1, 2]
        assert reader.verify() == []


def test_threads_may_append_and_read_at_once(journal):
    def work(name):
        for i in range(20):
            journal.append("run", name, {"i": i}, float(i))
            list(journal.read(subject=name))

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert journal.verify() == []
    assert sorted(e.seq for e in journal.read()) == list(range(1, 81))


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(Unavailable, match="No such file"):
        Journal(tmp_path / "nowhere" / "journal.sqlite")


def test_a_limit_on_files_at_the_making_is_said(path):
    code = """
        import resource, sys
        from pathlib import Path
        from agent.errors import Unavailable
        from agent.journal import Journal
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        try:
            Journal(Path(sys.argv[1]))
        except Unavailable as e:
            print("make room" in str(e))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(Journal(Path(sys.argv[1])).append("run", "r", {}, 1.0).seq)
        """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 0
    with child(code, path) as writer:
        assert writer.stdout.read().split() == ["True", "1"]


# ---- together


def test_what_is_appended_together_is_there_as_a_whole_or_not_at_all(path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from agent.journal import Journal
        journal = Journal(Path(sys.argv[1]))
        journal.append("run", "before", {}, 1.0)
        with journal.together():
            journal.append("decision", "d", {}, 2.0)
            with journal.together():
                journal.append("plan", "p", {}, 2.0)
            if sys.argv[2] == "inside":
                os.kill(os.getpid(), signal.SIGKILL)
            journal.append("run", "r", {}, 2.0)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    for when, kinds in (("inside", ["run"]), ("after", ["run", "run", "decision", "plan", "run"])):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), path, when], timeout=60, check=False
        )
        assert done.returncode == -signal.SIGKILL
        with Journal(path) as journal:
            assert journal.verify() == []
            assert [e.kind for e in journal.read()] == kinds


def test_an_error_inside_keeps_what_was_appended_before_it(path):
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="no time"), journal.together():  # noqa: PT012
            journal.append("run", "a", {}, 1.0)
            journal.append("run", "wrong", {}, math.nan)
        assert journal.pending == 0
        journal.append("run", "b", {}, 2.0)
        assert [e.subject for e in journal.read()] == ["a", "b"]
