"""The crash matrix: a real process is killed at every moment of a run, on SQLite and on PostgreSQL, and goes on.

A chain of lives dies at one moment after the other until the run has ended; in `make test` at every moment on SQLite
and at a seeded third on PostgreSQL, with a seeded tenth of the moments also tried alone: a life that dies there, and
one that goes on to the end. HOMEOSTAT_CRASH=all (`make bench-crash`) tries
every moment alone, on both.
"""

import collections
import multiprocessing
import os
import random
import shutil
import signal

import crash_driver
import pytest
from servers import postgres

from agent.journal import Journal
from agent.memory import Memory

pytestmark = [pytest.mark.live, pytest.mark.long]

LIMIT_S = 60.0
SPAN = 40
"""Lives of a chain that die one after the other: a run that has ended fifty processes is given up."""
ALL = os.environ.get("HOMEOSTAT_CRASH") == "all"

# A server that has imported everything already and forks: a life then costs what it does, not its imports.
LIVES = multiprocessing.get_context("forkserver")
LIVES.set_forkserver_preload(
    ["crash_driver", "dbos", "psycopg", "connectors", "detectors", "playbooks.actions"]
)


def live(folder, scenario, moment="", database=""):
    """Let a process live until it kills itself at a moment, or until its run has ended; returns its exit code."""
    folder.mkdir(exist_ok=True)
    process = LIVES.Process(target=crash_driver.run, args=(folder, scenario, moment, database))
    process.start()
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(
            f"neither {moment or 'the end'} came in {LIMIT_S} s\n{(folder / 'log').read_text()[-3000:]}"
        )
    return process.exitcode


def effects(folder):
    """Return every effect that any verb had on the world, by idempotency key."""
    found = collections.Counter()
    for file in [*folder.glob("dial-*"), *folder.glob("shouts")]:
        found.update(line.split()[0] for line in file.read_text().splitlines())
    return found


ENDS = {
    # scenario: state, verdict, undone, final dials
    "heals": ("done", {"helped"}, {"a": "1.0", "b": "0.0"}),
    "harms": ("done", {"harmed"}, {"a": "0.0", "c": "0.0"}),
    "fails": ("failed", {None, "cannot_tell"}, {"a": "0.0", "x": "0.0"}),
    "undone": ("done", {None}, {"a": "0.0", "b": "0.0"}),
}
MAY_REPEAT = {"heals": {"r1/n", "r1/s"}, "harms": set(), "fails": set(), "undone": set()}
"""What can not be seen afterwards may have happened once or not at all; all else exactly once."""


def check(folder, scenario, moment):
    """Check what must hold whatever the moment was."""
    with Journal(folder / "journal.sqlite") as journal:
        assert journal.verify() == [], moment
        memory = Memory()
        memory.load(journal)
        entries = list(journal.read())
    run = memory.runs["r1"]
    assert memory.live_runs() == [], moment
    assert memory.run_on(run.target) is None, moment
    assert memory.unfinished() == {}, moment
    state, verdicts, dials = ENDS[scenario]
    assert run.state == state, (moment, run)
    assert (run.outcome.verdict if run.outcome else None) in verdicts, (moment, run)
    for dial, value in dials.items():
        assert (folder / f"dial-{dial}").read_text().split()[-1] == value, moment
    done = effects(folder)
    assert max(done.values()) == 1, (moment, done)
    wanted = EFFECTS[scenario]
    assert wanted - MAY_REPEAT[scenario] <= set(done) <= wanted, (moment, done)
    results = [e.body["key"] for e in entries if e.kind == "acted" and e.body["result"]]
    assert len(results) == len(set(results)), moment
    assert [e.kind for e in entries].count("plan") == 1 + (scenario == "undone"), moment
    assert all(memory.runs[id_].state == "done" for ids in memory.undos.values() for id_ in ids)
    notes = [e.subject for e in entries if e.kind == "note"]
    assert len(notes) == len(set(notes)), moment


EFFECTS = {
    "heals": {"r1/a", "r1/n", "r1/b", "r1/b/undo", "r1/s"},
    "harms": {"r1/a", "r1/c", "r1/c/undo", "r1/a/undo"},
    "fails": {"r1/a", "r1/x", "r1/x/undo", "r1/a/undo"},
    "undone": {"r1/a", "r1/b", "r1/b/undo", "r1/a/undo"},
}


@pytest.fixture(scope="module")
def moments(tmp_path_factory):
    """Return the moments of an undisturbed life of a scenario, in order."""
    known = {}

    def of(scenario, database=""):
        key = (scenario, bool(database))
        if key not in known:
            folder = tmp_path_factory.mktemp(f"calm_{scenario}")
            assert live(folder, scenario, database=database) == 0, (folder / "log").read_text()[
                -3000:
            ]
            check(folder, scenario, "no crash")
            found = (folder / "moments").read_text().splitlines()
            assert len(found) > 30
            known[key] = [m for m in found if m != "ended"]
        return known[key]

    return of


def survive(folder, scenario, moment, database=""):
    killed = live(folder, scenario, moment, database)
    if killed == 0:  # by chance of timing this life had no such moment: it ended well all the same
        check(folder, scenario, f"{moment} (not passed)")
        return False
    assert killed == -signal.SIGKILL, (moment, (folder / "log").read_text()[-3000:])
    assert live(folder, scenario, database=database) == 0, moment
    check(folder, scenario, moment)
    shutil.rmtree(folder)
    return True


def chain(folder, scenario, first, leap, database=""):
    """Let up to SPAN lives die one after the other and one come to the end; returns at which moments they died.

    The first dies at a moment by its number, the others `leap` further than any before them has come.
    """
    for died in range(SPAN + 1):
        die_at = "" if died == SPAN else f"+{leap if died else first}"
        code = live(folder, scenario, die_at, database)
        if code == 0:
            check(folder, scenario, f"chain from {first}")
            return (folder / "deaths").read_text().splitlines()
        assert code == -signal.SIGKILL, (folder / "log").read_text()[-3000:]
    pytest.fail(f"the last life of all did not end\n{(folder / 'log').read_text()[-3000:]}")


def alone(folder, scenario, found, database=""):
    """Kill one life at each of these moments, alone."""
    killed = [survive(folder / f"m{i}", scenario, m, database) for i, m in enumerate(found)]
    assert sum(killed) >= 0.8 * len(found)  # a moment of chance does not come in each life


def sample(scenario, found):
    return found if ALL else random.Random(scenario).sample(found, len(found) // 10)


@pytest.mark.timeout(1800 if ALL else 600)
@pytest.mark.parametrize("scenario", sorted(ENDS))
def test_killed_at_every_moment_one_after_the_other_a_run_ends_as_if_nothing_had_been(
    tmp_path, moments, scenario
):
    every = [moment for moment in moments(scenario) if "#" not in moment]
    died = set()
    # what restarts bring is new, too: spans overlap
    for first in range(1, len(every), SPAN - 5):
        died.update(chain(tmp_path / f"chain{first}", scenario, first, 1))
    left = [moment for moment in every if moment not in died]
    assert len(left) <= 0.2 * len(every), left
    alone(tmp_path, scenario, left)


def test_moments_are_named_by_what_they_are_of(moments):
    """A chain counts names: what happens twice in a life must not bear one name, or its second time is passed over."""
    for scenario in ENDS:
        found = moments(scenario)
        assert sum("#" in moment for moment in found) <= 0.1 * len(found), found


@pytest.mark.timeout(1800 if ALL else 600)
@pytest.mark.parametrize("scenario", sorted(ENDS))
def test_killed_at_one_moment_a_run_ends_as_if_nothing_had_been(tmp_path, moments, scenario):
    alone(tmp_path, scenario, sample(scenario, moments(scenario)))


# ---- the same with the runs in PostgreSQL


@pytest.fixture(scope="module")
def database(needs):
    """Start a server of our own and return its address."""
    with postgres(needs) as server:
        yield server.address


@pytest.mark.timeout(1800 if ALL else 600)
@pytest.mark.parametrize("scenario", sorted(ENDS))
def test_the_same_holds_with_the_runs_in_postgresql(tmp_path, moments, scenario, database):
    if ALL:
        alone(tmp_path, scenario, moments(scenario, database), database)
    else:
        first = random.Random(scenario).choice((1, 2, 3))
        assert len(chain(tmp_path / "chain", scenario, first, 3, database)) > 20
