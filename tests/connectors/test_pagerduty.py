"""Pages through PagerDuty, on a stand-in that checks events as its documentation says."""

import pytest
from people_side import PagerDutySide, serving

from agent.errors import Refused, Unavailable
from agent.ports import Note
from connectors.pagerduty import PagerDuty


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setenv("PD_KEY", PagerDutySide.KEY)
    with serving(PagerDutySide()) as made:
        yield made


def way(side, **own):
    return PagerDuty(
        "pd", PagerDuty.Config(routing_key="env:PD_KEY", url=f"{side.url}/v2/enqueue", **own)
    )


def note(event="", key="page:i1:0", **more):
    about = {
        "incident": "i1",
        "link": "https://homeostat.example.org",
        "facts": {"cause": "disk full"},
    }
    return Note(
        key, 1_800_000_000.0, "page", "it is slow", "look at it", event=event, **{**about, **more}
    )


async def test_one_incident_of_ours_is_one_of_theirs_through_its_life(side):
    pd = way(side)
    await pd.notify(note())
    assert side.incidents == {"i1": ["triggered"]}
    await pd.notify(note("acknowledged"))
    await pd.notify(note("acknowledged"))
    assert side.incidents == {"i1": ["acknowledged"]}
    await pd.notify(note("resolved"))
    await pd.notify(note("resolved"))
    assert side.incidents == {"i1": ["resolved"]}
    await pd.notify(note(key="page:i1:1"))  # it came back
    await pd.notify(note("merged"))
    assert side.incidents == {"i1": ["resolved", "resolved"]}
    await pd.notify(note("resolved", incident="i2"))
    assert side.incidents["i2"] == []  # they never heard of it
    await pd.close()


async def test_a_page_carries_the_facts(side):
    pd = way(side, severity_map={"page": "error"})
    await pd.notify(note(facts={"cause": "disk full", "about": "service:shop"}))
    event = side.triggers["i1"]
    assert event["payload"]["severity"] == "error"
    assert event["payload"]["source"] == "service:shop"
    assert event["payload"]["class"] == "disk full"
    assert event["payload"]["timestamp"] == "2027-01-15T08:00:00.000+00:00"
    assert event["payload"]["custom_details"]["text"] == "look at it"
    assert event["links"] == [{"href": "https://homeostat.example.org", "text": "homeostat"}]
    assert event["client_url"] == "https://homeostat.example.org"
    await pd.close()


async def test_what_is_too_long_is_cut_or_hashed_before_they_refuse_it(side):
    pd = way(side)
    long = note(incident="i" * 300, facts={f"f{i}": "x" * 100_000 for i in range(20)})
    await pd.notify(Note(**{f: getattr(long, f) for f in long.__slots__} | {"title": "t" * 5000}))
    (key,) = side.triggers
    assert len(key) == 64
    await pd.close()


async def test_a_key_of_a_wrong_length_is_blamed_and_the_page_waits(side, monkeypatch):
    monkeypatch.setenv("PD_KEY", "short")
    pd = way(side)
    with pytest.raises(Unavailable, match=r"32 characters, this one 5") as wrong:
        await pd.notify(note())
    assert "short" not in str(wrong.value)
    assert "routing key has 32 characters" in (await pd.describe())[0]
    monkeypatch.setenv("PD_KEY", PagerDutySide.KEY)
    await pd.notify(note())
    side.fault = "unfit"
    with pytest.raises(Refused, match="does not take this note"):
        await pd.notify(note())
    await pd.close()


def test_it_wants_pages_and_the_ends_of_all_incidents(side):
    pd = way(side)
    assert pd.wants(note())
    assert not pd.wants(Note("k", 0.0, "warning", "", ""))
    for event in ("acknowledged", "resolved", "merged"):
        assert pd.wants(Note("k", 0.0, "warning", "", "", "i1", event=event))
    for event in ("opened", "mitigated", "changed", "acting", "acted", "reopened"):
        assert not pd.wants(note(event))
