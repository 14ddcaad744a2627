"""Acts that are refused stand in the record, bounded; nothing else happens."""

import pytest
from desk_story import House

from agent.errors import Unavailable
from agent.refusals import EVERY_S, MOST, Refusals


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.story.close()


def written(house):
    return list(house.story.hooks.journal.read(("refused",)))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
    ],
)
def test_a_cross_site_post_is_refused_and_written_down_and_nothing_happens(house, headers):
    before = house.story.hooks.journal.head[0]
    for path, body in (
        ("/api/pause", {}), (f"/api/runs/{house.story.run.id}/approve", {}),
        ("/api/silences", {"target": "*", "for": "1d"}),
    ):  # fmt: skip
        said = house.http("POST", path, json=body, headers={**house.token_of("admin"), **headers})
        assert said.status_code == 403
        assert "console itself" in said.json()["remedy"]
    assert house.desk.pauses() == []
    assert house.desk.silences() == []
    assert house.desk.run(house.story.run.id)["asks"]
    (entry,) = written(house)  # the same again and again is one line
    assert house.story.hooks.journal.head[0] == before + 1
    assert entry.subject == "/api/pause"
    assert entry.body["origin"] == headers.get("origin", "")
    assert entry.body["status"] == 403
    assert "page of" in entry.body["why"]
    assert "homeostat_" not in str(entry.body)  # no token


def test_who_may_not_is_written_down_by_name(house):
    said = house.http("POST", "/api/pause", json={}, headers=house.token("viewer"))
    assert said.status_code == 403
    assert house.http("POST", "/api/pause", json={}).status_code == 401
    viewer, nobody = written(house)
    assert viewer.body["by"] == "a-viewer (viewer, token)"
    assert nobody.body["by"] == "someone on this host (viewer, loopback)"
    assert nobody.body["status"] == 401


def test_looking_and_mistakes_are_not_written_down(house):
    assert (
        house.http("GET", "/api/status", headers={"origin": "https://evil.example"}).status_code
        == 403
    )
    assert house.http("GET", "/api/tokens").status_code == 401
    assert (
        house.http(
            "POST", "/api/runs/none/deny", json={}, headers=house.token("operator")
        ).status_code
        == 404
    )
    assert (
        house.http("POST", "/api/pause", content=b"{", headers=house.token("admin")).status_code
        == 400
    )
    assert written(house) == []


def test_a_flood_fills_no_journal():
    now, said = [0.0], []
    refusals = Refusals(lambda subject, body: said.append((subject, body)), lambda: now[0])
    for k in range(1000):
        refusals.take("POST", "/api/pause", status=401, why=f"reason {k}", origin="", by="10.0.0.1")
    assert len(said) == MOST
    now[0] = EVERY_S + 1
    refusals.take("POST", "/x" * 400, status=401, why="again", origin="", by="10.0.0.1")
    assert said[-1][1]["more"] == 1000 - MOST
    assert len(said[-1][0]) == 200
    now[0] *= 2
    refusals.take("POST", "/x", status=401, why="again", origin="", by="10.0.0.1")
    assert said[-1][1]["more"] == 0


def test_a_journal_that_can_not_be_written_lets_nobody_in_and_counts():
    now, said = [0.0], []

    def record(subject, body):
        if now[0] < 1:
            raise Unavailable("disk full")
        said.append(body)

    refusals = Refusals(record, lambda: now[0])
    refusals.take("POST", "/api/pause", status=401, why="no token", origin="", by="x")
    now[0] = EVERY_S + 1
    refusals.take("POST", "/api/pause", status=401, why="no token", origin="", by="x")
    assert said[0]["more"] == 1
