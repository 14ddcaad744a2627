import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec import pack
from agent.journal import Entry, Journal
from agent.memory import Memory
from agent.model import (
    Anomaly,
    Entity,
    Incident,
    Outcome,
    Run,
    Series,
    StepRecord,
)
from agent.record import PROVEN, Tally, group_of, owner_of, treated, untreated

WEB, API = Entity("service", "web"), Entity("service", "api")


def run(id_, verdict=None, *, state="done", target=WEB, playbook="p", at=100.0, incident="i1"):
    outcome = None if verdict is None else Outcome(verdict, "so")
    return Run(id_, playbook, target, incident, "auto", state, at, at, "h", outcome=outcome)


class Told:
    def __init__(self, **room):
        self.memory = Memory(**room)

    def __call__(self, kind, subject, body):
        self.memory.apply(Entry(self.memory.seq + 1, 100.0, kind, subject, body, "", ""))

    def run(self, value):
        self("run", value.id, pack(value))

    def demoted(self, playbook="p", group="service:web"):
        return self.memory.records.demoted(playbook, group)


@pytest.mark.parametrize(
    ("target", "group"),
    [
        (Entity("replica", "web/3"), "service:web"), (WEB, "service:web"), (Entity("version", "m/7"), "model:m"),
        (Entity("feature", "m/age"), "model:m"), (Entity("host", "a"), "host:a"), (Entity("gpu", "GPU-1"), "gpu"),
        (Entity("process", "b/1/2"), "process"),
    ],
)  # fmt: skip
def test_groups_of_targets(target, group):
    assert group_of(target) == group
    assert owner_of(owner_of(target)) == owner_of(target)


def test_a_run_counts_once_with_its_last_verdict():
    told = Told()
    told.run(run("a", state="acting"))
    told.run(run("a", "harmed", state="undoing"))
    told.run(run("a", "harmed"))
    told.run(run("b", "helped"))
    told.run(run("c", "cannot_tell", target=Entity("service", "api")))
    told.run(run("d", state="denied"))
    of = told.memory.records.of("p")
    assert of == {"service:api": Tally(cannot_tell=1), "service:web": Tally(helped=1, harmed=1)}
    assert sum(of.values(), Tally()).runs == 3
    assert of["service:api"].success is None
    assert 0.09 < of["service:web"].success < 0.1


def test_harm_demotes_until_a_person_lifts_it_and_again():
    told = Told()
    told.run(run("a", "helped"))
    assert told.demoted() is None
    told.run(run("b", "harmed", state="undoing"))
    assert told.demoted().run == "b"
    assert told.demoted("q") is None
    told("reinstate", "p", {"by": "ann (author, token)", "reason": "mended"})
    assert told.demoted() is None
    told.run(run("b", "harmed"))  # it only now ended: what was looked at was not all of it
    assert told.demoted().run == "b"


@pytest.mark.parametrize(("helped", "held"), [(0, True), (PROVEN - 1, True), (PROVEN, False)])
def test_harm_in_one_group_holds_others_where_it_is_not_proven(helped, held):
    told = Told()
    for i in range(helped):
        told.run(run(f"h{i}", "helped", target=API))
    for i in range(9):
        told.run(run(f"w{i}", "helped"))
    told.run(run("bad", "harmed", target=Entity("replica", "web/2")))
    assert told.demoted(group="service:web").run == "bad"  # however often it helped there
    assert (told.demoted(group="service:api") is not None) == held
    assert told.demoted(group="").run == "bad"  # where it has never acted


def test_harm_in_two_groups_holds_it_everywhere():
    told = Told()
    for i in range(PROVEN):
        told.run(run(f"h{i}", "helped", target=API))
    told.run(run("bad", "harmed"))
    assert told.demoted(group="service:api") is None
    told.run(run("worse", "harmed", target=Entity("host", "a")))
    assert told.demoted(group="service:api").run == "worse"
    assert set(told.memory.records.harmed("p")) == {"service:web", "host:a"}
    told("reinstate", "p", {"by": "ann (author, token)"})
    assert told.memory.records.harmed("p") == {}
    assert told.demoted(group="host:a") is None


verdicts = st.sampled_from([None, "helped", "no_effect", "harmed", "cannot_tell"])
# a verdict that was given stays
courses = st.tuples(st.integers(0, 2), verdicts, st.integers(1, 2)).map(
    lambda c: [None] * c[0] + [c[1]] * c[2]
)
told_runs = st.lists(
    st.tuples(st.sampled_from(["p", "q"]), courses, st.booleans(), st.sampled_from([WEB, API])), max_size=12
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(told_runs)
def test_loading_counts_what_folding_counted_also_runs_that_memory_let_go(tmp_path_factory, told):
    path = tmp_path_factory.mktemp("record") / "journal.sqlite"
    journal, folded = Journal(path), Memory(room_runs=3)
    for i, (playbook, said, lifted, target) in enumerate(told):
        for j, verdict in enumerate(said):
            state = "done" if j == len(said) - 1 else "acting"
            one = run(f"r{i}", verdict, state=state, playbook=playbook, at=100.0 + i, target=target)
            folded.apply(journal.append("run", one.id, pack(one), 100.0 + i))
        if lifted:
            folded.apply(journal.append("reinstate", playbook, {"by": "ann"}, 100.0 + i))
    loaded = Memory(room_runs=3)
    loaded.load(journal)
    journal.close()
    for playbook in ("p", "q"):
        ours, theirs = loaded.records, folded.records
        assert sum(ours.of(playbook).values(), Tally()) == sum(
            theirs.of(playbook).values(), Tally()
        )
        assert ours.of(playbook) == theirs.of(playbook)
        for group in ("service:web", "service:api", ""):
            assert ours.demoted(playbook, group) == theirs.demoted(playbook, group)


_CHILD = """
import os, signal, sys
from pathlib import Path
from agent.codec import pack
from agent.journal import Journal
from agent.model import Entity, Outcome, Run
journal = Journal(Path(sys.argv[1]))
if sys.argv[2] == "harm":
    run = Run(sys.argv[3], "p", Entity("service", "web"), "i", "auto", "undoing", 1.0, 2.0, "h",
              outcome=Outcome("harmed", "worse"))
    journal.append("run", run.id, pack(run), 2.0)
else:
    journal.append("reinstate", "p", {"by": "ann (author, token)"}, 3.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_after(path, *what):
    """Let a real process write one entry and kill it at once."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), *what],
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    memory = Memory()
    with Journal.reader(path) as journal:
        memory.load(journal)
    return memory.records.demoted("p", "service:web")


def test_demotion_and_its_end_survive_kill_9(tmp_path):
    path = tmp_path / "journal.sqlite"
    assert killed_after(path, "harm", "r1").run == "r1"
    assert killed_after(path, "lift") is None
    assert killed_after(path, "harm", "r2").run == "r2"


def test_durations_are_of_troubles_that_nobody_acted_on():
    series = Series("service.error_ratio", WEB)
    told = Told()

    def trouble(id_, onset, end, state="resolved"):
        a = Anomaly(series, onset, end, 0.0, 1, 1.0, 0.0, 0.1, 0.9, 9.0, "objective", "errors")
        one = Incident(id_, onset, onset, state, "page", "t", anomalies=(a,))
        told("incident", id_, pack(one))

    trouble("i1", 100.0, 160.0)
    trouble("i2", 200.0, 500.0)
    trouble("i3", 600.0, 630.0)
    trouble("i4", 700.0, None, "open")
    step = StepRecord("s", "act", 210.0, 220.0, "done", "did")
    acted = Run("r", "p", WEB, "i2", "auto", "done", 205.0, 230.0, "h", steps=(step,))
    told.run(acted)
    assert untreated(told.memory, "i3") == {series: [60.0]}
    assert untreated(told.memory, "i9") == {series: [60.0, 30.0]}
    assert treated(told.memory, "i9") == {WEB: [(200.0, 200.0)]}
    assert treated(told.memory, "i2") == {}
