"""What the journal tells of incidents, changes and runs, as notes; and what is added when one leaves."""

from dataclasses import replace

from agent import news
from agent.codec import pack
from agent.journal import Entry
from agent.life import turned
from agent.model import Cause, Change, Diagnosis, Entity, Evidence, Incident, Outcome, Run
from agent.ports import Note

WEB = Entity("service", "web")


def entry(kind, value, seq=7):
    return Entry(seq, 50.0, kind, "x", pack(value), "", "")


def incident():
    one = Incident("i1", 10.0, 10.0, "open", "page", "web is slow", about=WEB)
    return turned(turned(one, "opened", 10.0, "homeostat", ""), "acknowledged", 20.0, "ann", "mine")


def test_an_incident_tells_its_turns_each_with_a_key_of_its_own():
    opened, taken = news.of(entry("incident", incident()))
    assert (opened.event, taken.event) == ("opened", "acknowledged")
    assert (taken.ts, taken.severity, taken.title) == (20.0, "page", "web is slow")
    assert taken.text == "acknowledged by ann: mine"
    assert opened.key != taken.key
    assert [n.key for n in news.of(entry("incident", incident()))] == [opened.key, taken.key]


def test_a_change_of_others_is_told_and_one_of_our_own_is_not():
    made = Change(30.0, WEB, "release", "1", "2", "ci", "ship it", "https://ci")
    (note,) = news.of(entry("change", made))
    assert (note.event, note.ts, note.link) == ("changed", 30.0, "https://ci")
    assert note.title == "release of service:web: 1 -> 2"
    assert list(news.of(entry("change", replace(made, by="homeostat:r1")))) == []


def test_a_run_tells_that_it_acts_and_how_it_ended_but_not_what_never_acted():
    run = Run("r1", "roll-back", WEB, "i1", "auto", "acting", 40.0, 41.0, "h", text="roll back web")
    ended = replace(run, state="done", updated=60.0, outcome=Outcome("helped", "latency fell"))
    (acting,), (acted,) = news.of(entry("run", run)), news.of(entry("run", ended))
    assert (acting.event, acting.ts, acting.text) == ("acting", 40.0, "roll back web")
    assert (acted.event, acted.ts, acted.text) == ("acted", 60.0, "latency fell")
    assert acted.facts["verdict"] == "helped"
    assert acting.facts["run"] == acted.facts["run"] == "r1"
    for state in ("suggested", "waiting_approval", "denied", "expired", "verifying"):
        assert list(news.of(entry("run", replace(run, state=state)))) == []
    taken = replace(run, mode="suggest", state="done", text="started by olga")
    assert list(news.of(entry("run", taken))) == [], "what acts is a run of its own"


def test_a_note_that_leaves_knows_the_cause_and_where_to_read_more():
    cause = Cause("host.cpu", Entity("host", "a"), 0.875, (Evidence("cpu at 99 %", 1.0),))
    known = replace(incident(), diagnosis=Diagnosis(15.0, (cause,)))
    note = Note("k", 10.0, "page", "t", "x", "i1", facts={"state": "said before"})
    filled = news.filled(note, known, "https://homeostat.example.org")
    assert filled.link == "https://homeostat.example.org/incidents/i1"
    assert filled.facts["cause_of"] == "host:a"
    assert filled.facts["cause_probability"] == "0.88"
    assert filled.facts["because"] == "cpu at 99 %"
    assert filled.facts["state"] == "said before"
    assert filled.facts["about"] == "service:web"
    assert news.filled(replace(note, facts={}), None, "").facts == {}


def test_the_words_are_those_of_lives_runs_and_changes():
    assert set(news.EVENTS) >= {"opened", "acknowledged", "resolved", "merged", "changed", "acted"}
