"""The ladder: who is called when nobody has taken it, over whatever happens in between."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import ladder
from agent.codec import pack
from agent.journal import Entry
from agent.life import turned
from agent.memory import Memory, Silence, Snooze
from agent.model import Entity, Incident, Run
from agent.ports import Note
from agent.routing import People

T0 = 1_795_000_000.0
WEB = Entity("service", "web")
PEOPLE = People.model_validate({
    "timezone": "UTC",
    "escalation": [
        {"to": [{"way": "slack", "channel": "#ops"}]},
        {"after": "10m", "to": ["pagerduty"]},
        {"after": "30m", "to": ["mail"]},
    ],
})  # fmt: skip
WAYS = ("slack", "pagerduty", "mail")


class Night:
    """What is on record, and what the ladder makes of it; `again` forgets all but the record."""

    def __init__(self, people=PEOPLE, ways=WAYS):
        self.people, self.ways = people, ways
        self.entries = []
        self.memory = Memory()
        self.now = T0
        self.sent = []
        i = Incident("inc-1", T0, T0, "open", "page", "web is slow", about=WEB, entities=(WEB,))
        self.put(turned(i, "opened", T0, "homeostat", "slow"))

    def record(self, kind, subject, body):
        entry = Entry(len(self.entries) + 1, self.now, kind, subject, body, "", "")
        self.entries.append(entry)
        self.memory.apply(entry)

    def put(self, incident):
        self.incident = incident
        self.record("incident", incident.id, pack(incident))

    def turn(self, event, by="homeostat"):
        self.put(turned(self.incident, event, self.now, by, ""))

    def note(self, key):
        self.record("note", key, pack(Note(key, self.now, "page", "web is slow", "why", "inc-1")))

    def tick(self, later=0.0):
        self.now = T0 + later if later else self.now
        steps = ladder.Ladder(
            self.people, self.memory, lambda _: {},
            lambda i: Note("", self.now, "page", i.title, "why", i.id, "team", "#own"), self.ways,
        )  # fmt: skip
        live = [self.incident] if self.incident.state != "resolved" else []
        found = list(steps.due(live, self.now))
        for note in found:
            self.record("note", note.key, pack(note))
        self.sent += [(round(self.now - T0), *note.to) for note in found]
        return found

    def again(self):
        self.memory = Memory()
        for entry in self.entries:
            self.memory.apply(entry)


def test_step_after_step_until_somebody_has_it():
    night = Night()
    assert night.tick(5) == []  # nobody was told yet
    night.note("page:inc-1:0")
    (first,) = night.tick()
    assert (first.to, first.channel, first.severity, first.text) == (
        ("slack",),
        "#ops",
        "page",
        "why",
    )
    assert night.tick(604) == []
    (second,) = night.tick(606)
    assert second.text == "why; nobody has taken it for 10 min 1 s (step 2 of 3)"
    assert second.channel == "#own"
    night.turn("acknowledged", "olga")
    assert night.tick(3600) == []
    assert [way for _, way in night.sent] == ["slack", "pagerduty"]


@pytest.mark.parametrize("how", ["acknowledged", "mitigated", "resolved"])
def test_it_stops(how):
    night = Night()
    night.note("page:inc-1:0")
    night.tick(1)
    night.turn(how)
    assert night.tick(3600) == []


def test_what_relapses_is_called_for_from_the_first_step_on():
    night = Night()
    night.note("page:inc-1:0")
    night.tick(1)
    night.turn("mitigated")
    night.tick(900)
    night.turn("relapsed")
    night.tick()
    night.tick(900 + 599)
    night.tick(900 + 601)
    assert night.sent == [(1, "slack"), (900, "slack"), (1501, "pagerduty")]


def test_who_has_it_has_it_also_when_it_relapses_and_a_new_life_is_new():
    night = Night()
    night.note("page:inc-1:0")
    night.turn("acknowledged", "olga")
    night.turn("mitigated")
    night.turn("relapsed")
    assert night.tick(3600) == []
    night.turn("resolved")
    night.put(replace(turned(night.incident, "reopened", night.now, "homeostat", ""), reopened=1))
    night.note("page:inc-1:1")
    assert [n.to for n in night.tick()] == [("slack",)]


def test_put_off_it_waits_and_begins_anew_when_that_is_over():
    night = Night()
    night.note("page:inc-1:0")
    night.tick(1)
    night.now = T0 + 60
    night.record(
        "snooze", "inc-1", pack(Snooze("inc-1", T0 + 3600, "olga", "", "page", 0, night.now))
    )
    assert night.tick(3000) == []
    night.tick(3600)
    night.tick(3600 + 601)
    assert night.sent == [(1, "slack"), (3600, "slack"), (4201, "pagerduty")]


def test_a_silenced_target_calls_nobody():
    night = Night()
    night.record("silence", "s", pack(Silence("s", "service:*", T0 + 900, "olga")))
    night.note("page:inc-1:0")
    assert night.tick(600) == []
    assert [n.to for n in night.tick(901)] == [("slack",), ("pagerduty",)]


def test_while_a_run_is_at_work_nobody_new_is_woken():
    night = Night()
    night.note("page:inc-1:0")
    run = Run("r", "b", WEB, "inc-1", "auto", "acting", T0, T0, "h")
    night.record("run", "r", pack(run))
    night.tick(1)
    assert night.tick(1000) == []
    night.record("run", "r", pack(replace(run, state="failed")))
    night.tick(1001)
    assert night.sent == [(1, "slack"), (1001, "pagerduty")]


def test_a_person_calls_whatever_stands_against_it():
    night = Night()
    night.incident = replace(night.incident, severity="note")
    night.turn("acknowledged", "max")
    assert night.tick(60) == []
    night.note("call:inc-1:1")
    night.tick()
    night.tick(60 + 601)
    assert night.sent == [(60, "slack"), (661, "pagerduty")]
    taken = replace(night.incident.turns[-1], ts=night.now, by="olga")
    night.put(replace(night.incident, turns=(*night.incident.turns, taken)))
    assert night.tick(7200) == []


def test_giving_up_calls_as_harm_does():
    night = Night()
    night.note("needs:inc-1:0:attempts")
    assert [n.to for n in night.tick(5)] == [("slack",)]


def test_only_harm_calls():
    night = Night()
    night.incident = replace(night.incident, severity="warning")
    night.note("needs:inc-1:0:attempts")
    assert night.tick(3600) == []


def test_a_step_has_hours_and_conditions_of_its_own_and_a_way_that_is_gone_is_passed():
    people = People.model_validate({
        "timezone": "UTC", "escalation": [
            {"to": ["gone"]},
            {"after": "1m", "to": ["mail"], "quiet": {"from": "00:00", "to": "23:00"}},
            {"after": "2m", "to": ["pagerduty"], "when": "owner == 'team'"},
            {"after": "3m", "to": ["slack"], "when": "owner == 'another'"},
        ],
    })  # fmt: skip
    night = Night(people)
    night.note("page:inc-1:0")
    night.tick(600)
    assert [way for _, way in night.sent] == ["pagerduty"]
    end = 86_400 - T0 % 86_400 - 3600  # 23:00 UTC
    night.tick(end + (86_400 if end < 600 else 0))
    assert [way for _, way in night.sent] == ["pagerduty", "mail"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(1, 400), st.booleans()), min_size=5, max_size=30))
def test_killed_at_any_moment_each_step_is_climbed_once(steps):
    """Ticks at any times, with the process killed after any of them: before or after what it wrote."""
    night = Night()
    night.note("page:inc-1:0")
    at = 0.0
    for later, killed in steps:
        at += later
        night.tick(at)
        if killed:
            night.again()
    ways = [way for _, way in night.sent]
    assert ways == list(dict.fromkeys(ways))
    due = [w for w, after in zip(WAYS, (0.0, 600.0, 1800.0), strict=True) if at >= after]
    assert ways == due


@pytest.mark.parametrize("severity", ["page", "warning", "note"])
def test_without_a_ladder_what_was_put_off_is_told_once_more_when_that_is_over(severity):
    night = Night(People())
    night.put(replace(night.incident, severity=severity))
    off = Snooze("inc-1", T0 + 600, "olga", "", severity, 0, T0)
    night.record("snooze", "inc-1", pack(off))

    def again(later):
        steps = ladder.Ladder(night.people, night.memory, lambda _: {},
                              lambda i: Note("", 0.0, "page", i.title, "why", i.id), WAYS)  # fmt: skip
        found = list(steps.again([night.incident], T0 + later))
        for note in found:
            night.record("note", note.key, pack(note))
        return [(n.severity, n.title) for n in found]

    assert again(599) == []
    assert again(600) == ([] if severity == "note" else [(severity, "still there: web is slow")])
    assert again(601) == []
    night.record(
        "snooze", "inc-1", pack(replace(off, ts=T0 + 700, until=T0 + 700))
    )  # ended by a person
    assert again(701) == []
    night.record("snooze", "inc-1", pack(replace(off, ts=T0 + 800, until=T0 + 900)))
    night.turn("acknowledged", "olga")
    assert again(900) == []
