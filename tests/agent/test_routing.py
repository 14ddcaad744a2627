"""Who is told what, when: routes, quiet hours, faults in what a person wrote."""

import textwrap
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import registry
from agent.config import load
from agent.errors import ConfigError
from agent.ports import Note
from agent.routing import People, Quiet, Router, quiet_until

BERLIN = ZoneInfo("Europe/Berlin")
WAYS = ["mail", "pagerduty", "slack"]


@pytest.fixture(scope="module", autouse=True)
def plugins():
    registry.load()


def at(text, zone=BERLIN):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


NOON = at("2026-11-30T12:00")
NIGHT = at("2026-11-30T23:30")


def note(severity="page", ts=NOON, **kw):
    return Note(kw.pop("key", "page:i:0"), ts, severity, "web is slow", "why", "i", **kw)


def people(**kw):
    return People.model_validate({"timezone": "Europe/Berlin", **kw})


def sent(people_, note_, facts=None):
    router = Router(people_, lambda _: facts or {})
    return [leg.address for leg in router.legs(note_, WAYS)]


# ---- routes


def test_without_routes_a_message_goes_to_every_way():
    assert sent(people(), note()) == WAYS


def test_the_first_route_that_is_true_decides_and_also_asks_on():
    who = people(routes=[
        {"when": "owner == 'team-fraud'", "to": [{"way": "slack", "channel": "#fraud"}], "also": True},
        {"when": "severity == 'page'", "to": ["pagerduty"]},
        {"to": ["mail"]},
    ])  # fmt: skip
    assert sent(who, note(owner="team-fraud")) == ["slack/#fraud", "pagerduty"]
    assert sent(who, note()) == ["pagerduty"]
    assert sent(who, note("warning")) == ["mail"]


def test_the_channel_of_a_route_is_the_channel_of_the_note():
    who = people(
        routes=[
            {"to": [{"way": "slack", "channel": "#a"}, {"way": "slack", "channel": "#b"}, "mail"]}
        ]
    )
    legs = Router(who).legs(note(channel="#own"), WAYS)
    assert [(leg.address, leg.note.channel) for leg in legs] == [
        ("slack/#a", "#a"), ("slack/#b", "#b"), ("mail", "#own"),
    ]  # fmt: skip


def test_what_no_route_is_meant_for_goes_to_every_way_and_a_route_to_nobody_to_none():
    assert sent(people(routes=[{"when": "severity == 'note'", "to": ["mail"]}]), note()) == WAYS
    assert sent(people(routes=[{"when": "severity == 'page'", "to": []}]), note()) == []


def test_what_is_unknown_is_not_true():
    who = people(routes=[{"when": "labels.rack == 'r1'", "to": ["mail"]}, {"to": ["slack"]}])
    assert sent(who, note(), {"labels": {"rack": "r1"}}) == ["mail"]
    assert sent(who, note()) == ["slack"]


@pytest.mark.parametrize(
    ("when", "true"),
    [
        ("hour >= 12.0 && hour < 13.0", True), ("day == 'mon'", True), ("day in ['sat', 'sun']", False),
        ("cause.startsWith('host')", True), ("kind == 'service'", True), ("entity == 'service:web'", True),
        ("probability > 0.8", True), ("state == 'open'", True),
    ],
)  # fmt: skip
def test_what_a_route_may_ask(when, true):
    facts = {
        "cause": "host.disk", "kind": "service", "entity": "service:web", "probability": 0.9, "state": "open",
    }  # fmt: skip
    who = people(routes=[{"when": when, "to": ["mail"]}, {"to": ["slack"]}])
    assert sent(who, note(), facts) == (["mail"] if true else ["slack"])


def test_events_and_what_the_ladder_directs_take_no_route():
    who = people(routes=[{"to": ["mail"]}])
    assert sent(who, note(event="resolved")) == WAYS
    assert sent(who, note(to=("pagerduty",))) == ["pagerduty"]
    assert sent(who, note(to=("gone",))) == []


def test_a_way_that_the_ladder_calls_is_not_sent_the_page_beside_it():
    who = people(escalation=[{"to": ["slack"]}, {"after": "10m", "to": ["pagerduty"]}])
    assert sent(who, note()) == ["mail"]
    assert sent(who, note("warning")) == WAYS
    assert sent(
        people(escalation=who.model_dump()["escalation"], routes=[{"to": ["pagerduty"]}]), note()
    ) == ["pagerduty"]  # as it is written


def test_what_comes_after_the_page_reaches_who_was_called_at_once_and_own_harm_everybody():
    who = people(escalation=[
        {"to": ["slack"]}, {"after": "10m", "to": ["pagerduty"]},
        {"after": "20m", "to": ["mail"], "when": "owner == 'team-fraud'"},
    ])  # fmt: skip
    assert sent(who, note()) == ["mail"]
    assert sent(who, note(owner="team-fraud")) == []  # the ladder calls all three
    assert sent(who, note(key="call:i:1")) == ["mail"]
    assert sent(who, note(key="r1:failed")) == ["mail", "slack"]
    assert sent(who, note(key="needs:i:0:attempts")) == ["mail", "slack"]
    assert sent(who, note(key="r1:undo:a")) == WAYS


# ---- quiet hours


def due(people_, note_, way="slack"):
    return next(leg.due for leg in Router(people_).legs(note_, WAYS) if leg.way == way)


QUIET = {"from": "22:00", "to": "07:00"}


def test_what_is_no_page_waits_until_the_quiet_hours_end():
    who = people(
        quiet=QUIET,
        ways={"mail": {"pages": "wait"}, "pagerduty": {"quiet": {"from": "01:00", "to": "02:00"}}},
    )
    morning = at("2026-12-01T07:00")
    assert due(who, note("warning", NIGHT)) == morning
    assert due(who, note("warning", NOON)) == NOON
    assert due(who, note("page", NIGHT)) == NIGHT
    assert due(who, note("page", NIGHT), "mail") == morning
    assert due(who, note("warning", NIGHT), "pagerduty") == NIGHT  # it has hours of its own


@pytest.mark.parametrize(
    ("start", "end", "days", "now", "until"),
    [
        ("22:00", "07:00", [], "2026-12-01T06:59", "2026-12-01T07:00"),
        ("22:00", "07:00", [], "2026-12-01T07:00", None),
        ("22:00", "07:00", [], "2026-11-30T21:59", None),
        ("12:00", "13:00", [], "2026-11-30T12:30", "2026-11-30T13:00"),
        ("18:00", "08:00", ["fri"], "2026-12-05T03:00", "2026-12-05T08:00"),  # began on Friday
        ("18:00", "08:00", ["fri"], "2026-12-06T03:00", None),
        ("22:00", "07:00", [], "2026-10-25T02:30", "2026-10-25T07:00"),  # the night with an hour more
        ("22:00", "07:00", [], "2027-03-28T01:30", "2027-03-28T07:00"),  # and with one less
    ],
)  # fmt: skip
def test_quiet_hours_are_those_of_the_clock_on_the_wall(start, end, days, now, until):
    quiet = Quiet.model_validate({"from": start, "to": end, "days": days})
    found = quiet_until(quiet, "Europe/Berlin", at(now))
    assert found == (None if until is None else at(until))


@given(st.floats(1.6e9, 1.9e9), st.integers(0, 1439), st.integers(0, 1439))
def test_whatever_waits_waits_less_than_a_day_and_then_it_is_over(now, start, end):
    def clock(m):
        return f"{m // 60:02}:{m % 60:02}"

    quiet = Quiet.model_validate({"from": clock(start), "to": clock(end)})
    until = quiet_until(quiet, "Europe/Berlin", now)
    assert until is None or now < until <= now + 25 * 3600
    if until is not None and start != end:
        assert quiet_until(quiet, "Europe/Berlin", until) is None


# ---- what is wrong with it

BASE = """
connectors:
  mail: {server: smtp.example.org, sender: a@example.org, to: [b@example.org]}
  pagerduty: {routing_key: env:KEY}
  prometheus: {url: http://127.0.0.1:9090}
"""


def told(tmp_path, text):
    path = tmp_path / "agent.yaml"
    path.write_text(BASE + textwrap.dedent(text))
    with pytest.raises(ConfigError) as wrong:
        load(path)
    return [(f.line, f"{f.problem}; {f.remedy}") for f in wrong.value.faults]


def test_a_sound_file_is_read(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(
        BASE
        + textwrap.dedent("""
        page: {command: [cat]}
        people:
          timezone: Europe/Berlin
          quiet: {from: '22:00', to: '07:00'}
          routes:
            - {when: "severity == 'page' && labels.rack == 'r1'", to: [pagerduty, {way: mail, channel: x}]}
            - {to: [mail]}
          ways: {mail: {most: 10, channels: {x: 3}}}
          escalation:
            - {to: [page]}
            - {after: 10m, to: [pagerduty], when: "owner != 'team-batch'"}
            - {after: 30m, to: [mail], quiet: {from: '20:00', to: '08:00'}}
    """)
    )
    who = load(path).people
    assert [rung.after for rung in who.escalation] == [0.0, 600.0, 1800.0]
    assert (who.most("mail", "x"), who.most("mail", ""), who.most("page", "")) == (3, 10, 60)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("people: {routes: [{when: \"severty == 'page'\", to: [mail]}]}", 6, "nothing is called `severty` here"),
        ("people: {routes: [{when: \"hour == '9'\", to: [mail]}]}", 6, "never equal"),
        ('people: {routes: [{when: "severity", to: [mail]}]}', 6, "a truth is needed"),
        ('people: {routes: [{when: "hour > 22", to: [mail]}]}', 6, "22.0"),
        ("people: {routes: [{to: [maill]}]}", 6, "no connector is called `maill`; did you mean `mail`"),
        ("people: {routes: [{to: [prometheus]}]}", 6, "`prometheus` tells nobody anything"),
        ("people: {routes: [{to: [mail]}, {to: [pagerduty]}]}", 6, "never asked"),
        ("people: {timezone: Europe/Berln}", 6, "no time zone"),
        ("people: {ways: {slak: {most: 3}}}", 6, "no connector is called `slak`"),
        ("people: {quiet: {from: '25:00', to: '07:00'}}", 6, ""),
        (
            "people: {escalation: [{after: 10m, to: [mail]}, {after: 5m, to: [pagerduty]}]}",
            6, "before the one above it",
        ),
        ("people: {escalation: [{after: 10m, to: []}]}", 6, ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path, text, line, said):
    found = told(tmp_path, text)
    assert len(found) == 1
    assert found[0][0] in {line, line + 1}
    assert said in found[0][1]
