"""Annotations in Grafana, on a stand-in that keeps them as its documentation says."""

import pytest
from people_side import GrafanaSide, serving

from agent.errors import Unavailable
from agent.ports import Note
from connectors.grafana_annotations import GrafanaAnnotations

BEGAN = "2027-01-15T08:00:00.000+00:00"  # 1_800_000_000


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setenv("GRAFANA_TOKEN", GrafanaSide.TOKEN)
    with serving(GrafanaSide()) as made:
        yield made


def way(side, **own):
    own = {"url": side.url, "token": "env:GRAFANA_TOKEN", **own}
    return GrafanaAnnotations("g", GrafanaAnnotations.Config(**own))


def note(event, ts=0.0, *, severity="page", **more):
    return Note(
        f"{event}{ts}", 1_800_000_000.0 + ts, severity, "it is <slow>", "x", event=event, **more
    )


def spans(side):
    return [((a["time"] / 1000 - 1.8e9), (a["timeEnd"] / 1000 - 1.8e9)) for a in side.annotations]


async def test_lives_of_an_incident_are_regions_each_drawn_once(side):
    g = way(side, dashboard_uid="abc", tags=["prod"])
    life = [
        note("opened", 0, incident="i1"), note("resolved", 60, incident="i1"),
        note("reopened", 90, incident="i1"), note("merged", 120, incident="i1"),
    ]  # fmt: skip
    for one in life:
        await g.notify(one)
        await g.notify(one)
    assert spans(side) == [(0, 60), (90, 120)]
    first = side.annotations[0]
    assert first["tags"][:2] == ["homeostat", "incident"]
    assert first["tags"][-1] == "prod"
    assert first["dashboardUID"] == "abc"
    assert "it is &lt;slow&gt;" in first["text"]
    await g.close()


async def test_an_end_whose_beginning_was_never_drawn_is_a_whole_region(side):
    g = way(side)
    await g.notify(note("resolved", 60, incident="i1", facts={"began": BEGAN}))
    await g.notify(note("resolved", 60, incident="i1", facts={"began": BEGAN}))
    await g.notify(note("resolved", 60, incident="i2", facts={"began": "once"}))
    assert spans(side) == [(0, 60), (60, 60)]
    await g.close()


async def test_changes_are_lines_and_acts_are_regions_of_their_own(side):
    g = way(side)
    await g.notify(note("changed", 5, severity="note", link="https://ci.example.org/1"))
    await g.notify(note("acting", 10, severity="note", incident="i1", facts={"run": "r1"}))
    await g.notify(note("acted", 30, severity="note", incident="i1", facts={"run": "r1"}))
    assert spans(side) == [(5, 5), (10, 30)]
    assert [a["tags"][1] for a in side.annotations] == ["change", "act"]
    assert '<a href="https://ci.example.org/1">' in side.annotations[0]["text"]
    await g.close()


async def test_a_link_that_is_none_is_not_drawn(side):
    g = way(side)
    await g.notify(note("changed", link="javascript:alert(1)"))
    assert "javascript" not in side.annotations[0]["text"]
    await g.close()


async def test_what_is_no_grafana_is_said_and_the_note_waits(side):
    g = way(side)
    side.fault = "garbage"
    with pytest.raises(Unavailable, match="not as Grafana does"):
        await g.notify(note("opened"))
    assert "not as Grafana does" in (await g.describe())[0]
    side.fault = ""
    assert "Grafana answers" in (await g.describe())[0]
    await g.close()


def test_messages_are_not_for_it(side):
    g = way(side)
    assert not g.wants(note(""))
    assert g.wants(note("opened"))
    assert not g.wants(note("opened", severity="note"))
    assert g.wants(note("changed", severity="note"))
    assert not g.wants(note("acknowledged"))
