"""kill -9 at every kind of moment: the run goes on, nothing is done twice, nothing is lost, no target stays held."""

import collections
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.journal import Journal
from agent.memory import Memory

pytestmark = pytest.mark.live

DRIVER = Path(__file__).with_name("crash_driver.py")
LIMIT_S = 60.0


def start(folder, scenario, moment=""):
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, DRIVER, folder, scenario, moment], stdout=log, stderr=log
        )


def live(folder, scenario, moment=""):
    """Let the daemon live until it kills itself at a moment, or until its run has ended; returns its exit code."""
    process = start(folder, scenario, moment)
    try:
        return process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail(
            f"neither {moment or 'the end'} came in {LIMIT_S} s\n{(folder / 'log').read_text()[-3000:]}"
        )


def wait_for(folder, name, times=1):
    end = time.monotonic() + LIMIT_S
    path = folder / "moments"
    while not path.exists() or path.read_text().splitlines().count(name) < times:
        assert time.monotonic() < end, (
            f"{name} did not come\n{(folder / 'log').read_text()[-3000:]}"
        )
        time.sleep(0.02)


def effects(folder):
    """Return every effect that any verb had on the world, by idempotency key."""
    found = collections.Counter()
    for file in [*folder.glob("dial-*"), *folder.glob("shouts")]:
        found.update(line.split()[0] for line in file.read_text().splitlines())
    return found


def whole(folder):
    """Check what holds after every story; returns the run and the memory of what happened."""
    with Journal(folder / "journal.sqlite") as journal:
        assert journal.verify() == []
        memory = Memory()
        memory.load(journal)
        entries = list(journal.read())
    run = memory.runs["r1"]
    assert memory.live_runs() == []
    assert memory.run_on(run.target) is None
    assert memory.unfinished() == {}
    assert max(effects(folder).values()) == 1
    results = [e.body["key"] for e in entries if e.kind == "acted" and e.body["result"]]
    assert len(results) == len(set(results))
    assert [e.kind for e in entries].count("plan") == 1
    notes = [e.subject for e in entries if e.kind == "note"]
    assert len(notes) == len(set(notes))
    return run, entries


HEALING = [
    "accept:r1:after", "report:r1:waiting_approval@0:after", "approval::middle", "boundary:r1:0:after",
    "effect:r1/a:before", "effect:r1/a:after", "act:r1:a:after", "effect:r1/n:before",
    "approval:b:middle", "verify:r1:middle", "verify:r1:after", "hold:r1:b:middle", "effect:r1/b/undo:before",
    "effect:r1/b/undo:after", "undo:r1:b:after", "effect:r1/s:after", "report:r1:done@5:before",
    "report:r1:done@5:after",
]  # fmt: skip


def test_a_run_that_is_killed_at_every_moment_heals_all_the_same(tmp_path):
    for moment in HEALING:
        assert live(tmp_path, "heals", moment) == -signal.SIGKILL, moment
        kind, _, rest = moment.partition(":")
        if kind == "approval":
            (tmp_path / f"answer-{rest.removesuffix(':middle')}").touch()
    assert live(tmp_path, "heals") == 0
    run, entries = whole(tmp_path)
    assert (run.state, run.outcome.verdict) == ("done", "helped")
    assert [(s.id, s.status) for s in run.steps] == [
        ("a", "adopted"),  # it had happened when we were killed
        ("n", "uncertain"),  # people may have been told: not repeated
        ("b", "done"),
        ("b", "undone"),
        ("s", "uncertain"),
    ]
    assert effects(tmp_path) == {"r1/a": 1, "r1/b": 1, "r1/b/undo": 1, "r1/s": 1}
    assert [e.kind for e in entries].count("approval") == 2
    died = (tmp_path / "moments").read_text().splitlines()
    assert died.count("up") == len(HEALING) + 1


HARMING = ["effect:r1/c:after", "verify:r1:after", "effect:r1/c/undo:after",
           "effect:r1/a/undo:before", "undo:r1:a:after"]  # fmt: skip


def test_harm_is_put_back_although_it_is_killed_while_it_does(tmp_path):
    for moment in HARMING:
        assert live(tmp_path, "harms", moment) == -signal.SIGKILL, moment
    assert live(tmp_path, "harms") == 0
    run, _ = whole(tmp_path)
    assert (run.state, run.outcome.verdict, run.outcome.undone) == ("done", "harmed", True)
    assert effects(tmp_path) == {"r1/a": 1, "r1/c": 1, "r1/c/undo": 1, "r1/a/undo": 1}


def test_a_daemon_that_is_killed_from_outside_at_any_time_loses_nothing(tmp_path):
    for asked in ("", "b"):  # the run, and its step
        (tmp_path / f"answer-{asked}").touch()
    chance = random.Random(20)
    deaths = 0
    for life in range(1, 6):
        process = start(tmp_path, "heals")
        wait_for(tmp_path, "up", life)
        time.sleep(chance.uniform(0.05, 1.2))
        process.send_signal(signal.SIGKILL)
        deaths += process.wait(LIMIT_S) == -signal.SIGKILL
    assert deaths >= 1
    assert live(tmp_path, "heals") == 0
    run, _ = whole(tmp_path)
    assert run.state == "done"
    assert run.outcome.verdict in {"helped", "cannot_tell"}
    assert (
        effects(tmp_path)["r1/a"]
        == effects(tmp_path)["r1/b"]
        == effects(tmp_path)["r1/b/undo"]
        == 1
    )
