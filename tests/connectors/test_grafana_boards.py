"""Boards into a stand-in of Grafana's HTTP API: new, changed, as they are, edited by a person, refused."""

from __future__ import annotations

import json

import pytest
from grafana_side import GrafanaBoardsSide
from people_side import serving

from agent.boards import boards, differences
from agent.errors import Refused, Unavailable
from connectors.grafana_boards import GrafanaBoards

SHIPPED = boards()


@pytest.fixture
def grafana(monkeypatch):
    monkeypatch.setenv("GRAFANA", GrafanaBoardsSide.TOKEN)
    with serving(GrafanaBoardsSide()) as side:
        yield side


async def push(side, some=SHIPPED, *, dry_run=False, force=False, token="env:GRAFANA"):
    made = GrafanaBoards(side.url, token)
    try:
        done = await made.push(some, dry_run=dry_run, force=force)
    finally:
        await made.close()
    return {one.uid: (one.became, one.said) for one in done}


def became(done):
    return {what for what, _ in done.values()}


async def test_they_come_once_and_then_they_are_there(grafana):
    assert became(await push(grafana)) == {"new"}
    assert [f["title"] for f in grafana.folders] == ["Homeostat"]
    saved = len(grafana.asked)
    assert became(await push(grafana)) == {"as it is"}
    assert all(method == "GET" for method, *_ in grafana.asked[saved:])
    assert {len(v) for v in grafana.versions.values()} == {1}
    assert grafana.versions["homeostat-host"][0]["message"].startswith("homeostat ")


async def test_a_dry_run_changes_nothing(grafana):
    assert became(await push(grafana, dry_run=True)) == {"new"}
    assert grafana.folders == []
    assert grafana.versions == {}


def _newer(board):
    panels = [dict(p) for p in board["panels"]]
    panels[1] = {**panels[1], "description": "Said anew."}
    del panels[2]
    return {**board, "panels": [*panels, {**panels[-1], "title": "One more"}], "refresh": "1m"}


async def test_what_changes_is_said_and_written_over_what_we_wrote(grafana):
    await push(grafana)
    board = next(b for b in SHIPPED if b["uid"] == "homeostat-fleet")
    gone, changed = board["panels"][2]["title"], board["panels"][1]["title"]
    done = await push(grafana, [_newer(board)])
    what, said = done["homeostat-fleet"]
    assert what == "changed"
    assert said == f"new: One more; gone: {gone}; changed: {changed}; also: refresh"
    versions = grafana.versions["homeostat-fleet"]
    assert [v["version"] for v in versions] == [1, 2]
    assert versions[-1]["json"]["refresh"] == "1m"


async def test_what_a_person_saved_is_left_alone_unless_it_is_forced(grafana):
    await push(grafana)
    grafana.person_saves("homeostat-gpu", refresh="5s")
    done = await push(grafana)
    assert done["homeostat-gpu"] == ("edited", "also: refresh")
    assert became(done) == {"edited", "as it is"}
    assert len(grafana.versions["homeostat-gpu"]) == 2
    done = await push(grafana, force=True)
    assert done["homeostat-gpu"][0] == "changed"
    assert grafana.versions["homeostat-gpu"][-1]["json"]["refresh"] == "30s"


async def test_who_saves_between_our_look_and_our_word_is_not_written_over(grafana):
    await push(grafana)
    grafana.meanwhile = "homeostat-fleet"
    (board,) = (b for b in SHIPPED if b["uid"] == "homeostat-fleet")
    done = await push(grafana, [_newer(board)])
    assert done["homeostat-fleet"] == ("refused", "The dashboard has been changed by someone else")
    assert grafana.versions["homeostat-fleet"][-1]["message"] == ""


async def test_one_that_is_refused_does_not_stop_the_others(grafana):
    grafana.provisioned.add("homeostat-host")
    done = await push(grafana)
    assert done["homeostat-host"] == ("refused", "Cannot save provisioned dashboard")
    assert [what for what, _ in done.values()].count("new") == len(SHIPPED) - 1


async def test_a_folder_of_that_name_is_taken_as_it_is(grafana):
    grafana.folders.append({"id": 1, "uid": "theirs", "title": "Homeostat"})
    await push(grafana)
    assert {v[0]["folder"] for v in grafana.versions.values()} == {"theirs"}
    assert len(grafana.folders) == 1


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("unauthorized", Refused, "service account"),
        ("forbidden", Refused, "service account"),
        ("redirect", Refused, "elsewhere"),
        ("garbage", Refused, "not as Grafana does"),
        ("broken", Unavailable, "500"),
        ("dropped", Unavailable, "http"),
    ],
)
async def test_what_goes_wrong_is_said_and_the_token_is_not(grafana, fault, error, said):
    grafana.fault = fault
    with pytest.raises(error, match=said) as told:
        await push(grafana)
    assert grafana.TOKEN not in str(told.value)
    assert grafana.strayed == []


async def test_a_token_that_is_not_there_asks_nobody(grafana):
    with pytest.raises(Refused, match="NOBODY is not set"):
        await push(grafana, token="env:NOBODY")
    assert grafana.asked == []


@pytest.mark.parametrize("url", ["grafana.example.org", "http://me:secret@grafana", "ftp://x"])
def test_what_is_no_url_is_refused_without_its_password(url):
    with pytest.raises(Refused) as told:
        GrafanaBoards(url, "env:GRAFANA")
    assert "secret" not in str(told.value)


def test_a_difference_of_nothing_is_none():
    assert differences(SHIPPED[0], json.loads(json.dumps(SHIPPED[0]))) == ""
