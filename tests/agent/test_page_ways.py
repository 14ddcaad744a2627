"""What the console's pages ask: any series, what moved, the journal, an incident's part of the graph, features."""

import asyncio
import math
import sqlite3

import numpy as np
import pytest
from desk_story import ADMIN, BATCH, HOST, WINE, WORKERS, House

from agent import audit, explore, graph
from agent.codec import pack
from agent.journal import Journal
from agent.model import Decision, Entity, Gate, Series


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.story.close()


def asking(house):
    def get(path, status=200, **params):
        said = house.http("GET", path, params=params)
        assert said.status_code == status, said.text
        return said.json()

    get.now = house.story.now
    return get


@pytest.fixture
def ask(house):
    return asking(house)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """A house for those that only look: what its detectors have learnt of the past is learnt once."""
    made = House(tmp_path_factory.mktemp("unchanged"))
    yield made
    made.story.close()


@pytest.fixture
def look(unchanged):
    return asking(unchanged)


# ---- any series


def test_the_rarest_series_stand_first_and_what_is_abnormal_before_all(look):
    said = look("/api/explore/series")
    assert said["total"] == said["found"] == 6
    states = [s["state"] for s in said["series"]]
    assert states[: states.count("abnormal")] == ["abnormal"] * states.count("abnormal")
    top = {s["series"] for s in said["series"] if s["state"] == "abnormal"}
    assert "service.latency_p95_seconds{service:wine}" in top
    assert "host.cpu_busy_ratio{host:web-1}" in top
    first = next(s for s in said["series"] if s["series"].startswith("service.latency"))
    assert (first["title"], first["subject"], first["unit"]) == ("latency p95", "wine", "seconds")
    assert first["source"] == "models"
    rest = [s["p"] for s in said["series"] if s["state"] == "ordinary" and s["p"] is not None]
    assert rest == sorted(rest)


def test_series_are_found_by_all_words_and_paged(look):
    assert [s["title"] for s in look("/api/explore/series", search="WINE latency")["series"]] == [
        "latency p95"
    ]
    assert look("/api/explore/series", search="nightly-batch")["found"] == 1  # as people call it
    assert look("/api/explore/series", search="no such thing")["series"] == []
    names = [s["series"] for s in look("/api/explore/series", sort="name")["series"]]
    parts = [
        look("/api/explore/series", sort="name", offset=k, limit=2)["series"] for k in (0, 2, 4)
    ]
    assert [s["series"] for part in parts for s in part] == names


def test_a_score_has_its_band_and_family(look):
    said = look("/api/explore/score", series="host.cpu_busy_ratio")
    assert said["state"] == "ordinary"
    assert 0 < said["p"] < 0.01  # it is busier than it ever was
    assert said["family"]
    assert said["low"] < 0.32 < said["high"]
    assert said["learnt_rows"] > 1000
    look("/api/explore/score", 404, series="host.no_such")


def test_a_past_score_is_what_was_said_then(look):
    now = look.now
    latency = "service.latency_p95_seconds"
    said = look(
        "/api/explore/past-score", **{"series": latency, "from": str(now - 600), "to": str(now)}
    )
    ts, scores = said["data"]
    assert len(ts) == len(scores) == 61
    assert said["step_s"] == 10
    before = [s for t, s in zip(ts, scores, strict=True) if s is not None and t < now - 260]
    began = [
        s for t, s in zip(ts, scores, strict=True) if s is not None and now - 250 < t < now - 220
    ]
    assert max(began) > max(before) + 1
    assert 2 < said["limit"] < 20  # seldom is so rare by chance
    day = look("/api/explore/past-score", **{"series": latency, "from": "24h"})
    assert (day["step_s"], len(day["data"][0])) == (220, 393)
    for span, status in (({"from": "8d"}, 409), ({"from": "1h", "to": "2h"}, 409)):
        look("/api/explore/past-score", status, series=latency, **span)
    look("/api/explore/past-score", 404, series="host.no_such")


# ---- what moved


def test_what_moved_in_a_window_stands_first(look):
    now = look.now
    said = look("/api/explore/rank", start=str(now - 200), end=str(now))
    names = [s["series"].partition("{")[0] for s in said["series"]]
    assert set(names[:4]) == {
        "service.latency_p95_seconds", "process.cpu_cores", "host.cpu_busy_ratio", "feature.missing_ratio",
    }  # fmt: skip
    assert "service.requests_per_second" not in names
    first = next(s for s in said["series"] if s["series"].startswith("process.cpu"))
    assert first["direction"] == 1
    assert first["usual"] == pytest.approx(0.06, abs=0.02)
    assert first["now"] == pytest.approx(1.9, abs=0.1)
    assert first["score"] > 5
    assert (said["compared"], said["silent"], said["left_out"]) == (6, 0, 0)


def test_a_window_of_the_past_has_its_own_answer(look):
    now = look.now
    said = look("/api/explore/rank", start=str(now - 2350), end=str(now - 1950))
    assert said["series"][0]["series"] == "model.accuracy_ratio{model:wine}"
    assert said["series"][0]["direction"] == -1
    only = look("/api/explore/rank", start=str(now - 2350), end=str(now - 1950), search="latency")
    assert only["compared"] == 1
    quiet = look("/api/explore/rank", start=str(now - 900), end=str(now - 600))
    assert all(s["score"] < 3 for s in quiet["series"])


@pytest.mark.parametrize(
    ("start", "end"), [("1h", "2h"), ("1s", ""), ("30d", ""), ("nonsense", "")]
)
def test_a_window_that_can_not_be_is_refused_in_words(look, start, end):
    assert look("/api/explore/rank", 409, start=start, end=end)["error"]


async def test_what_there_is_no_time_for_is_left_out_and_said():
    series = [Series("host.cpu_busy_ratio", Entity("host", f"h{i}")) for i in range(200)]
    reads, clock = [], iter([0.0, 0.0, 0.0, 1.0, 9.0, 9.0, 9.0])
    rng = np.random.default_rng(1)

    def read(some, start, end, step):
        reads.append(len(some))
        ts = np.arange(math.ceil(start / step), math.floor(end / step) + 1) * step
        x = 0.2 + 0.01 * rng.standard_normal((len(ts), len(some)))
        x[ts >= 5000] += 0.5
        return ts, x

    said = await explore.rank(
        series, read, lambda e: e.key, 5000.0, 5300.0, clock=lambda: next(clock)
    )
    assert reads == [32, 32]
    assert (said["compared"], said["left_out"]) == (64, 136)
    assert len(said["series"]) == 50
    assert all(s["score"] > 5 for s in said["series"])


async def test_ticks_go_on_while_it_reads():
    series = [Series("host.cpu_busy_ratio", Entity("host", f"h{i}")) for i in range(320)]
    seen = []

    async def ticks():
        while True:
            seen.append(1)
            await asyncio.sleep(0)

    other = asyncio.create_task(ticks())
    await explore.rank(
        series, lambda some, *_: (np.empty(0), np.empty((0, len(some)))), str, 5000.0, 5300.0
    )
    other.cancel()
    assert len(seen) >= 10


# ---- an incident's part of the graph


def test_the_way_from_the_cause_to_whom_it_hurts_is_lit(look):
    said = look("/api/incidents/inc-7f/graph")
    assert said["parts"][BATCH.id] == "cause"
    assert said["parts"][WINE.id] == "hurt"
    assert said["parts"][HOST.id] == "abnormal"
    assert sorted([BATCH.id, HOST.id]) in said["path"]
    assert sorted([HOST.id, WINE.id]) in said["path"]
    assert {n["id"] for n in said["nodes"]} == set(said["parts"])


def test_ways_are_shortest_and_need_not_exist(house):
    world = house.story.hooks.world
    assert graph.way(world, BATCH, WINE) == [BATCH, HOST, WINE]
    assert graph.way(world, WORKERS, WINE) == [WORKERS, WINE]
    assert graph.way(world, BATCH, BATCH) == [BATCH]
    assert graph.way(world, BATCH, Entity("host", "elsewhere")) == []


# ---- features of a version


def test_features_come_with_both_distributions(look):
    said = look("/api/models/fraud/features", version="6")
    assert said["version"] == "6"
    assert said["features"]
    for one in said["features"]:
        cells = len(one["edges"]) + 1 if one["edges"] else len(one["values"])
        assert len(one["usual"]) == cells
        assert sum(one["usual"]) == pytest.approx(1.0)
        assert not one["now"] or sum(one["now"]) == pytest.approx(1.0)
    look("/api/models/nothing/features", 409)


# ---- the record


def test_the_record_is_read_in_pages_from_the_newest(ask, house):
    first = ask("/api/journal", limit=4)
    assert len(first["entries"]) == 4
    seqs = [e["seq"] for e in first["entries"]]
    assert seqs == sorted(seqs, reverse=True)
    rest, older = [], first["older"]
    while older is not None:
        part = ask("/api/journal", limit=4, before=older)
        rest += [e["seq"] for e in part["entries"]]
        older = part["older"]
    head, _ = house.story.hooks.journal.head
    assert seqs + rest == list(range(head, 0, -1))


def test_the_record_is_filtered_by_kind_subject_and_words(ask, house):
    assert {e["kind"] for e in ask("/api/journal", kind="incident,run")["entries"]} == {
        "incident",
        "run",
    }
    assert {e["subject"] for e in ask("/api/journal", subject="inc-7f3a99e0")["entries"]} == {
        "inc-7f3a99e0"
    }
    (held,) = ask("/api/journal", search="held confidence")["entries"]
    assert held["kind"] == "decision"
    assert held["text"] == "held back: confidence (the cause is 78 % sure, 80 % are asked for)"
    whole = ask(f"/api/journal/{held['seq']}")
    assert whole["body"]["playbook"] == "backup-model"
    assert len(whole["hash"]) == 64
    ask("/api/journal/999", 404)
    ask("/api/journal/x", 404)


def test_what_is_older_than_one_look_is_on_the_next_page(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "_LOOKED_AT", 10)
    journal = Journal(tmp_path / "journal.sqlite")
    for k in range(25):
        journal.append("note", "x", {"text": "gold" if k == 1 else "sand"}, float(k))
    pages, before = [], None
    while True:
        part = audit.page(journal, search="gold", before=before)
        pages.append([e["seq"] for e in part["entries"]])
        before = part["older"]
        if before is None:
            break
    journal.close()
    assert pages == [[], [], [2]]


def test_a_chain_that_holds_and_one_that_was_altered(ask, house):
    said = ask("/api/journal/check")
    assert said["whole"] is True
    assert said["entries"] == house.story.hooks.journal.head[0]
    house.story.desk.pause(ADMIN, "", "")
    assert ask("/api/journal/check")["entries"] == said["entries"] + 1

    with sqlite3.connect(house.story.hooks.journal.path) as c:
        (trigger,) = c.execute(
            "SELECT name FROM sqlite_master WHERE type='trigger' AND sql LIKE '%UPDATE%'"
        ).fetchone()
        c.execute(f"DROP TRIGGER {trigger}")
        c.execute("UPDATE journal SET body = '{}' WHERE seq = 2")
    house.story.desk.resume(ADMIN, "")  # something new: it is looked at again
    said = ask("/api/journal/check")
    assert said["whole"] is False
    assert said["breaks"][0]["entry"] == 2


def test_what_the_guard_said_of_a_playbook(ask):
    (said,) = ask("/api/decisions", playbook="backup-model")
    assert [(g["name"], g["passed"]) for g in said["gates"]] == [("scope", True), ("confidence", False)]  # fmt: skip
    assert len(ask("/api/decisions")) == 2


def test_what_let_a_run_act_stands_though_more_was_decided_since(ask, house):
    run, hooks = house.story.run, house.story.hooks
    busy = Decision(
        house.story.now, run.playbook, run.target, run.incident, "approve", False,
        (Gate("busy", False, run.id, "one run a target"),), "f" * 64,
    )  # fmt: skip
    hooks.record("decision", f"{run.playbook}|{run.target.id}", pack(busy), house.story.now)
    said = ask(f"/api/runs/{run.id}/decision")
    assert said["allowed"] is True
    assert [g["name"] for g in said["gates"]] == ["scope", "mode"]
    assert ask("/api/runs/run-1111aaaa/decision") is None  # nothing was decided on its plan


def test_the_page_knows_what_its_reader_may(ask, house):
    said = ask("/api/me")
    assert said["may"] == ["see"]
    assert said["needs"]["approve"] == "operator"
