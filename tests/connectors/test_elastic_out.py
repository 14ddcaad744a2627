"""The record in Elasticsearch: whole, once, and honest about what did not get there; against the stand-in."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from elastic_side import Elastic, instant

from agent.archives import Archives
from agent.codec import pack
from agent.config import Config
from agent.errors import Unavailable
from agent.journal import Journal
from agent.model import (
    Anomaly,
    Cause,
    Change,
    Decision,
    Diagnosis,
    Entity,
    Evidence,
    Gate,
    Incident,
    Outcome,
    Run,
    Series,
    StepRecord,
    Turn,
)
from agent.ports import Archive, LabelBatch, Note, PredictionBatch, SketchBatch
from agent.trying import look
from connectors import elastic_out as module
from connectors._inference import WAIT_S
from connectors.elastic_out import ElasticOut

pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")

NOW = 1_764_500_000.0
SHOP, HOST = Entity("service", "shop"), Entity("host", "h1")
DRIVER = Path(__file__).resolve().parents[1] / "elastic_driver.py"


@pytest.fixture
def elastic():
    with Elastic() as made:
        yield made


class Town:
    """A journal, a connector on its folder, and a clock that stands until it is moved."""

    def __init__(self, elastic, folder):
        self.elastic, self.folder = elastic, folder
        self.now = NOW
        self.journal = Journal(folder / "journal.sqlite")
        self.out = None

    def make(self, **more):
        config = {"url": self.elastic.url, "timeout": 20} | more
        self.out = ElasticOut(
            "out", ElasticOut.Config(**config), state=self.folder, clock=lambda: self.now
        )
        return self.out

    def write(self, kind, subject, value):
        body = value if isinstance(value, dict) else pack(value)
        return self.journal.append(kind, subject, body, self.now)

    async def send(self):
        """Give it all that it lacks."""
        while True:
            entries = self.journal.page(self.out.position, 100)
            more = await self.out.keep(entries)
            if not more and len(entries) < 100:
                return

    async def sent(self):
        """Try as long as it takes; return how often it had to be tried again."""
        for tries in range(200):
            try:
                await self.send()
            except Unavailable:
                continue
            return tries
        raise AssertionError("never")

    def found(self, kind):
        return self.elastic.found(f"homeostat-{kind}-*")

    def only(self, kind):
        (one,) = self.found(kind).values()
        return one


@pytest.fixture
def town(elastic, tmp_path):
    made = Town(elastic, tmp_path)
    yield made
    if made.out is not None:
        made.out.close()
    made.journal.close()


def incident(state="open", n=1, **more):
    turns = [
        Turn(NOW, "opened", "open", "homeostat", "slow"),
        Turn(NOW + 60, "acknowledged", "acknowledged", "alice", ""),
    ]
    odd = Anomaly(
        Series("service.latency_p95_seconds", SHOP, (("route", "/buy"),)), NOW, None, 1e-6, 1, 0.9, 0.1, 0.2, 0.7,
        9.0, "calibrated", "level", harm=True,
    )  # fmt: skip
    cause = Cause("host.cpu", HOST, 0.8, (Evidence("busy since 12:00", 3.0),))
    rejected = Cause("release.code", SHOP, 0.1, (Evidence("no release", -2.0),))
    given = {
        "severity": "page", "title": "shop is slow", "anomalies": (odd,), "entities": (HOST, SHOP),
        "turns": tuple(turns[:n]), "diagnosis": Diagnosis(NOW, (cause,), (rejected,)), "about": SHOP, "traces": ("t1",),
    }  # fmt: skip
    return Incident("i1", NOW, NOW + n, state, **(given | more))


def run(state="acting", **more):
    return Run("r1", "restart-shop", SHOP, "i1", "approve", state, NOW, NOW + 90, "hash1", **more)


GATES = (Gate("scope", True, "service:shop", "manages"), Gate("rate", False, "3", "2", "too often"))


def change(i):
    return Change(NOW + i, SHOP, "release", str(i - 1), str(i), "ci", url="https://ci/1")


def batch(n=10, model="fraud", start=NOW - 300, step=1.0, ids=True, **more):
    given = {
        "ts": start + step * np.arange(n), "ids": tuple(f"q{i}" if ids else "" for i in range(n)),
        "features": {"age": np.arange(n, dtype=float), "country": np.array(["DE"] * n, dtype=object)},
        "pred": np.array(["0", "1"] * n, dtype=object)[:n], "proba": np.full(n, 0.75),
        "latency_s": np.full(n, 0.02), "processing_s": np.full(n, np.nan), "status": np.full(n, 200),
    }  # fmt: skip
    return PredictionBatch(model, "3", **(given | more))


# ---- documents


async def test_an_incident_is_its_newest_state_and_each_turn_an_event(town):
    out = town.make()
    assert isinstance(out, Archive)
    town.write("incident", "i1", incident())
    await town.send()
    town.write("incident", "i1", incident("acknowledged", 2))
    town.write("incident", "i1", incident("acknowledged", 2, title="shop is very slow"))
    await town.send()
    one = town.only("incidents")
    assert one["message"] == "shop is very slow"
    assert one["event"] | {"start": "", "sequence": 0} == {
        "kind": "alert", "type": ["info"], "module": "homeostat", "dataset": "homeostat.incident", "severity": 73,
        "action": "acknowledged", "id": "i1", "start": "", "sequence": 0,
        "reason": f"{one['homeostat']['incident']['causes'][0]['said']} (host:h1)",
    }  # fmt: skip
    ours = one["homeostat"]["incident"]
    assert (ours["state"], ours["about"], ours["anomalies"]) == ("acknowledged", "service:shop", 1)
    assert ours["series"] == ["service.latency_p95_seconds{service:shop,route=/buy}"]
    assert ours["causes"][0] | {"said": ""} == {
        "kind": "host.cpu", "said": "", "entity": "host:h1", "probability": 0.8, "because": ["busy since 12:00"],
    }  # fmt: skip
    assert ours["rejected"][0]["kind"] == "release.code"
    assert [t["by"] for t in ours["turns"]] == ["homeostat", "alice"]
    assert (one["host"], one["service"], one["trace"]) == ({"name": "h1"}, {"name": "shop"}, {"id": "t1"})  # fmt: skip
    turns = sorted(town.found("events").values(), key=lambda d: d["@timestamp"])
    assert [t["event"]["action"] for t in turns] == ["opened", "acknowledged"]
    assert turns[1]["user"] == {"name": "alice"}
    ((index, versions),) = [(k[0], v) for k, v in town.elastic.versions.items() if "incid" in k[0]]
    assert (index, versions) == ("homeostat-incidents-2025.11", 3)  # the number of the entry


async def test_a_run_has_steps_gates_and_its_verdict(town):
    town.make()
    step = StepRecord("one", "restart", NOW, NOW + 5, "done", "restarted", {"secret": "x"})
    outcome = Outcome("helped", "it is well", "peers", {"p": 0.01}, well=True)
    body = pack(run("done", steps=(step,), outcome=outcome)) | {"gates": [pack(g) for g in GATES]}
    town.write("run", "r1", body)
    await town.send()
    one = town.only("runs")
    ours = one["homeostat"]["run"]
    assert (ours["playbook"], ours["target"]) == ("restart-shop", "service:shop")
    assert ours["verdict"] == "helped"
    assert (ours["against"], ours["numbers"], ours["incident"]) == ("peers", {"p": 0.01}, "i1")
    assert [s["id"] for s in ours["steps"]] == ["one"]
    assert "secret" not in json.dumps(one)  # what a step found may be anything
    assert [(g["name"], g["passed"]) for g in ours["gates"]] == [("scope", True), ("rate", False)]
    assert (one["event"]["outcome"], one["event"]["duration"]) == ("success", 90_000_000_000)
    verdict = town.only("events")
    assert (verdict["event"]["action"], verdict["event"]["outcome"]) == ("helped", "success")
    assert verdict["homeostat"]["run"]["id"] == "r1"


async def test_decisions_changes_notes_and_what_people_said_are_events(town):
    town.make()
    decision = Decision(NOW, "restart-shop", SHOP, "i1", "auto", allowed=False, gates=GATES)
    town.write("decision", "restart-shop|service:shop", decision)
    town.write("change", "service:shop", change(4))
    town.write("note", "k", Note("k", NOW, "page", "shop is slow", "look", "i1"))
    town.write("pause", "*", {"by": "alice", "reason": "fire drill"})
    town.write("told", "k", {"by": "page"})  # ours alone
    town.write("plan", "r1", {"steps": []})
    await town.send()
    found = {d["event"]["action"]: d for d in town.found("events").values()}
    assert sorted(found) == ["denied", "pause", "release", "told"]
    assert found["denied"]["message"] == "restart-shop on service:shop: rate: too often"
    assert found["denied"]["homeostat"]["decision"]["stopped_by"] == ["rate"]
    assert found["release"]["homeostat"]["change"]["after"] == "4"
    assert found["release"]["user"] == {"name": "ci"}
    assert found["pause"]["homeostat"]["facts"]["reason"] == "fire drill"
    assert town.out.position == 6


async def test_every_field_is_mapped_and_every_index_made_by_its_template(town):
    town.make(rows=["fraud"])
    outcome = Outcome("harmed", "worse", "forecast", {"p": 1}, undone=True)
    over = incident("resolved", 2, resolved=NOW + 9, merged_into="i0", absorbed=("i2",))
    town.write("incident", "i1", over)
    town.write("run", "r1", pack(run("failed", outcome=outcome)) | {"gates": [pack(GATES[1])]})
    town.write("decision", "d", Decision(NOW, "p", SHOP, "i1", "auto", allowed=True, gates=GATES))
    town.write("change", "c", change(1))
    town.write("silence", "s", {"by": "bob", "until": NOW, "matcher": {"kind": "x"}})
    stop, eu = (np.array([word] * 10, dtype=object) for word in ("stop", "eu"))
    some = {"tokens_in": np.full(10, 5.0), "tokens_out": np.full(10, 7.0), "finish": stop}
    town.out.count(batch(variant="canary", tags={"region": eu}, **some))
    town.out.count(batch(pred=np.linspace(0, 1, 10)))
    town.now += 120
    await town.send()
    assert town.elastic.unmapped == set()
    made = {index.rpartition("-")[0]: name for index, (name, _) in town.elastic.made_by.items()}
    kinds = ("incidents", "runs", "events", "inference", "rows")
    assert made == {f"homeostat-{kind}": f"homeostat-{kind}" for kind in kinds}
    for _, template in town.elastic.made_by.values():
        policy = template["settings"]["index"]["lifecycle"]["name"]
        assert "delete" in town.elastic.policies[policy]["policy"]["phases"]
        assert template["mappings"]["dynamic"] is False


async def test_nothing_from_before_the_backlog(town):
    town.write("change", "c", change(1))
    town.now += 86_400
    town.write("change", "c", change(2))
    town.make(backlog=3600)
    await town.send()
    assert [d["homeostat"]["change"]["after"] for d in town.found("events").values()] == ["2"]
    town.now += 86_400  # what came while it was away for long is not of the past
    town.write("change", "c", change(3))
    town.now += 86_400
    town.make(backlog=3600)
    await town.send()
    assert len(town.found("events")) == 2


# ---- inference


async def test_predictions_are_summaries_by_minute_and_no_row_leaves(town):
    town.make()
    failed = np.array([200] * 90 + [500] * 10)
    latency = np.concatenate([np.full(60, 0.01), np.full(40, 0.5)])
    minute = NOW // 60 * 60 - 300
    town.out.count(batch(100, start=minute, step=0.5, status=failed, latency_s=latency))
    town.out.count(batch(100, start=minute + 60, step=0.5))
    town.out.count(LabelBatch("fraud", np.array([NOW]), ("q1",), ("1",)))
    await town.send()
    assert town.found("inference") == {}  # rows may still be on their way
    town.now += WAIT_S
    await town.send()
    docs = sorted(town.found("inference").values(), key=lambda d: d["@timestamp"])
    first = docs[0]["homeostat"]["inference"]
    assert [instant(d["@timestamp"]) for d in docs] == [minute, minute + 60]
    assert (first["model"], first["version"], first["rows"], first["failed"]) == ("fraud", "3", 100, 10)  # fmt: skip
    assert first["classes"] == [{"name": "0", "rows": 50}, {"name": "1", "rows": 50}]
    assert first["latency"]["histogram"]["counts"] == [60, 40]
    assert first["latency"]["histogram"]["values"] == pytest.approx([0.01, 0.5], rel=0.09)
    assert first["latency"]["mean"] == pytest.approx(0.206)
    assert first["confidence"] == {"mean": 0.75}
    text = json.dumps([*town.elastic.indexes.values()])
    assert "q1" not in text
    assert "country" not in text
    assert town.found("rows") == {}


async def test_rows_that_come_late_are_a_second_summary_and_sums_are_right(town):
    town.make()
    minute = NOW // 60 * 60 - 300
    town.out.count(batch(40, start=minute))
    town.now += WAIT_S
    await town.send()
    town.out.count(batch(7, start=minute))
    town.out.count(SketchBatch("fraud", "3", "", "s", minute, minute + 9, 13, 2, {}))
    town.now += WAIT_S
    await town.send()
    rows = [d["homeostat"]["inference"]["rows"] for d in town.found("inference").values()]
    assert sorted(rows) == [20, 40]


async def test_rows_are_sent_of_the_models_that_are_named(town):
    town.make(rows=["fraud"])
    for _ in range(2):  # read again: the same documents
        town.out.count(batch(5, proba=np.array([0.5, np.nan, 0.5, 0.5, 0.5])))
        town.out.count(batch(5, model="other"))
        town.out.count(batch(4, start=NOW - 600, ids=False))
        await town.send()
    rows = [d["homeostat"]["row"] for d in town.found("rows").values()]
    assert {r["model"] for r in rows} == {"fraud"}
    assert len(rows) == 9
    one = next(r for r in rows if r.get("id") == "q1")
    assert one == {
        "model": "fraud", "version": "3", "id": "q1", "prediction": "1", "latency": 0.02, "status": 200,
        "features": {"age": 1.0, "country": "DE"},
    }  # fmt: skip


async def test_a_stop_keeps_what_was_counted_and_a_kill_tells_no_minute_twice(town):
    minute = NOW // 60 * 60 - 300
    town.make()
    town.out.count(batch(10, start=minute))
    town.out.close()
    town.make()
    await town.send()
    assert [d["homeostat"]["inference"]["rows"] for d in town.found("inference").values()] == [10]
    town.out.count(batch(20, start=minute + 60))
    town.now += WAIT_S
    await town.send()
    killed = town.out
    town.make()  # its log goes back, and reads both minutes again, and a new one
    for i in range(3):
        town.out.count(batch(20, start=minute + 60 * i))
    town.now += WAIT_S
    await town.send()
    rows = [d["homeostat"]["inference"]["rows"] for d in town.found("inference").values()]
    assert sorted(rows) == [10, 20, 20]
    killed._elastic.close()


async def test_a_kill_between_spool_and_position_tells_no_minute_twice(town, monkeypatch):
    minute = NOW // 60 * 60 - 300
    town.make()
    await town.send()
    monkeypatch.setattr(town.out._kept, "write", lambda *_, **__: None)
    town.out.count(batch(20, start=minute))
    town.now += WAIT_S
    await town.out.store()
    killed = town.out
    town.make()
    town.out.count(batch(20, start=minute))  # read again
    town.now += WAIT_S
    await town.send()
    assert [d["homeostat"]["inference"]["rows"] for d in town.found("inference").values()] == [20]
    killed._elastic.close()


# ---- templates and policies


async def test_what_a_person_made_stays_and_an_older_one_of_ours_is_replaced(town):
    town.make()
    town.write("change", "c", change(1))
    await town.send()
    town.out.close()
    theirs = {"phases": {"hot": {"actions": {}}}}
    town.elastic.policies["homeostat-record"] = {"policy": theirs}
    town.elastic.policies["homeostat-rows"]["policy"]["phases"] = {}  # mended by hand
    town.elastic.templates["homeostat-runs"]["_meta"]["made_from"] = "older"
    town.elastic.templates["homeostat-runs"]["template"] = {}
    before = len(town.elastic.asked)
    town.make()
    await town.send()
    assert town.elastic.policies["homeostat-record"]["policy"] == theirs
    assert town.elastic.policies["homeostat-rows"]["policy"]["phases"] == {}
    assert town.elastic.templates["homeostat-runs"]["template"] != {}
    puts = [a[1] for a in town.elastic.asked[before:] if a[0] == "PUT" and a[1] != "/_bulk"]
    assert puts == ["/_index_template/homeostat-runs"]


async def test_it_can_be_left_to_somebody_else(town):
    town.make(install=False)
    town.write("change", "c", change(1))
    with pytest.raises(Unavailable, match="is not there and `install` is false") as caught:
        await town.send()
    assert caught.value.wait_s == 60
    lines = await town.out.describe()
    ways = [x.split()[1] for x in lines if x.startswith("PUT ")]
    bodies = [json.loads(x) for x in lines if x.startswith("{")]
    for way, body in zip(ways, bodies, strict=True):  # as a person would
        town.elastic.routed("PUT", f"/{way}", body, {})
    await town.send()
    assert len(town.found("events")) == 1
    assert len(await town.out.describe()) == 1


async def test_who_may_not_look_is_believed_who_may_not_install_is_told(town):
    town.write("change", "c", change(1))
    town.make(install=False)
    town.elastic.fail = [(403, "security_exception")]
    await town.send()
    assert len(town.found("events")) == 1
    town.out.close()
    town.make()
    town.elastic.fail = [(403, "security_exception")]
    with pytest.raises(Unavailable, match="403 security_exception"):
        await town.send()


async def test_try_says_what_it_would_do_and_does_nothing(elastic):
    said = await look("elastic_out", Config(), {"url": elastic.url})
    assert said["may"] == ["keep a copy of the record"]
    assert said["says"][0].startswith("would write http://127")
    assert "would put template homeostat-runs" in said["says"]
    assert {method for method, _, _ in elastic.asked} == {"GET"}


# ---- bulk


def refuse(kind, status, ids, forever=False):
    """Refuse documents of some changes, each once or always."""
    left = set(ids)

    def spoil(op, index, id_, source):
        after = source.get("homeostat", {}).get("change", {}).get("after")
        if after not in left:
            return None
        if not forever:
            left.discard(after)
        return status, kind

    return spoil


def after(town):
    return sorted(int(d["homeostat"]["change"]["after"]) for d in town.found("events").values())


async def test_only_what_may_be_taken_later_is_tried_again(town):
    town.make()
    for i in range(20):
        town.write("change", "c", change(i))
    town.elastic.spoil = refuse("es_rejected_execution_exception", 429, {"3", "7"})
    with pytest.raises(Unavailable, match="429 es_rejected_execution_exception, for 2 of 20"):
        await town.send()
    assert town.out.position == 0
    assert await town.sent() == 0
    assert after(town) == list(range(20))
    bulks = [a for a in town.elastic.asked if a[1] == "/_bulk"]
    assert len(bulks) == 2
    assert len(town.elastic.versions) == 20
    assert set(town.elastic.versions.values()) == {1}


async def test_what_is_refused_for_good_is_kept_with_the_reason_and_holds_up_nobody(town):
    town.make()
    for i in range(20):
        town.write("change", "c", change(i))
    town.elastic.spoil = refuse("document_parsing_exception", 400, {"5"}, forever=True)
    await town.send()
    assert after(town) == [i for i in range(20) if i != 5]
    (trouble,) = town.out.troubles()
    assert trouble.startswith("1 documents were refused for good")
    (line,) = (town.folder / "archives" / "out" / "dead.ndjson").read_text().splitlines()
    said = json.loads(line)
    assert (said["status"], said["error"]) == (400, "document_parsing_exception: because")
    assert said["document"]["homeostat"]["change"]["after"] == "5"
    (town.folder / "archives" / "out" / "dead.ndjson").unlink()
    assert town.out.troubles() == []


async def test_with_both_at_once_a_dead_letter_is_written_once(town):
    town.make()
    for i in range(20):
        town.write("change", "c", change(i))
    bad = refuse("document_parsing_exception", 400, {"5"}, forever=True)
    later = refuse("unavailable_shards_exception", 503, {"6"})
    town.elastic.spoil = lambda *a: bad(*a) or later(*a)
    assert await town.sent() == 1
    assert len((town.folder / "archives" / "out" / "dead.ndjson").read_text().splitlines()) == 1


async def test_a_document_at_which_the_server_breaks_is_given_up_after_a_while(town):
    town.make()
    for i in range(3):
        town.write("change", "c", change(i))
    town.elastic.spoil = refuse("null_pointer_exception", 500, {"1"}, forever=True)
    assert await town.sent() == 9
    assert after(town) == [0, 2]


async def test_an_answer_that_was_lost_makes_nothing_twice(town):
    town.make()
    town.write("change", "c", change(0))
    await town.send()
    for i in range(1, 20):
        town.write("change", "c", change(i))
    town.write("incident", "i1", incident())
    town.elastic.fail = [{"lost": True}]
    assert await town.sent() == 1
    assert after_and_turns(town) == (20, 1)
    assert set(town.elastic.versions.values()) == {1, 21}


def after_and_turns(town):
    events = list(town.found("events").values())
    return sum("change" in d["homeostat"] for d in events), len(events) - sum(
        "change" in d["homeostat"] for d in events
    )


async def test_an_older_state_never_replaces_a_newer_one(town):
    town.make()
    town.write("incident", "i1", incident())
    town.write("incident", "i1", incident("acknowledged", 2))
    await town.send()
    town.out.position = 0
    town.out._taken.clear()
    await town.out.keep(town.journal.page(0, 1))  # as after a crash
    assert town.only("incidents")["homeostat"]["incident"]["state"] == "acknowledged"
    assert town.out.troubles() == []


async def test_a_state_that_changed_while_the_page_was_tried_again_is_not_left_out(town):
    town.make()
    town.write("incident", "i1", incident())
    town.write("change", "c", change(1))
    town.elastic.spoil = refuse("x", 429, {"1"})
    with pytest.raises(Unavailable):
        await town.send()
    town.write("incident", "i1", incident("acknowledged", 2))
    await town.send()
    assert town.only("incidents")["homeostat"]["incident"]["state"] == "acknowledged"


async def test_a_server_that_has_too_much_is_asked_for_less_and_then_for_more_again(
    town, monkeypatch
):
    monkeypatch.setattr(module, "_MOST_DOCUMENTS", 64)
    town.make()
    await town.send()
    for i in range(100):
        town.write("change", "c", change(i))
    town.elastic.fail = [(429, "es_rejected_execution_exception")] * 3
    assert await town.sent() == 3
    sizes = [town.out._at_once]
    assert after(town) == list(range(100))
    town.elastic.most_bytes = 20_000  # 413 without a word
    for i in range(100, 200):
        town.write("change", "c", change(i))
    await town.send()
    assert after(town) == list(range(200))
    sizes.append(town.out._at_once)
    assert sizes[0] > 8  # it has grown since
    assert sizes[1] <= 64
    assert town.out.troubles() == []


async def test_one_document_that_is_too_large_is_a_dead_letter(town):
    town.make()
    await town.send()
    town.write("change", "c", change(1))
    town.write("pause", "*", {"by": "alice", **{f"f{i}": "x" * 1900 for i in range(20)}})
    town.elastic.most_bytes = 8000
    await town.send()
    assert after(town) == [1]
    assert town.out.troubles()[0].startswith("1 documents")


# ---- away


SLOW = {"wait": 2.5}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((401, "security_exception"), "401"), ((403, "security_exception"), "403"), ((429, "x"), "429"),
        ((500, "x"), "500"), ((503, "x"), "503"), ((400, "x"), "400"), ({"drop": True}, "http://127"),
        (SLOW, "http://127"), ({"raw": b"<html>no"}, "not as Elasticsearch does"),
        ({"raw": b"{}"}, "not written as that of Elasticsearch"), ({"raw": b'{"items": [1]}'}, "not written"),
        ({"raw": b'{"x":"' + b"x" * (1 << 16) + b'"}'}, "larger than"), ({"lost": True}, "http://127"),
        ({"status": 307, "raw": b"", "headers": {"Location": "http://x/"}}, "not followed"),
    ],
)  # fmt: skip
async def test_whatever_goes_wrong_everything_comes_once_it_is_over(town, monkeypatch, fault, says):
    monkeypatch.setattr("connectors._elastic.MOST_BYTES", 1 << 15)
    town.make(rows=["*"])
    await town.send()
    town.write("change", "c", change(1))
    town.out.count(batch(6))
    town.elastic.fail = [fault]
    town.out._elastic._timeout_s = 1.0 if fault == SLOW else 20.0
    town.out._elastic.close()
    with pytest.raises(Unavailable, match=says):
        await town.send()
    town.out._elastic._timeout_s = 20.0
    town.out._elastic.close()
    assert await town.sent() == 0
    assert (after(town), len(town.found("rows"))) == ([1], 6)
    assert town.out.troubles() == []


async def test_nobody_listens(town):
    town.make(url="http://127.0.0.1:1")
    town.write("change", "c", change(1))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await town.send()
    assert town.out.position == 0


async def test_gone_for_ten_minutes_and_back(town):
    town.make(rows=["*"], spool=2 << 20)
    await town.send()
    waited, on_disk, over = [], [], []
    folder = town.folder / "archives" / "out"

    async def sleep(seconds):
        """Let the time pass at once; all the while something happens."""
        await asyncio.sleep(0)
        if over:
            return
        waited.append(seconds)
        town.now += seconds
        archives.wrote(town.write("change", "c", change(len(waited))))
        town.out.count(batch(300, start=town.now - 60, ids=False))
        on_disk.append(sum(p.stat().st_size for p in folder.glob("*/*.ndjson")))
        if 2 < len(waited) < 6:
            assert " for it (http://127" in archives.faults()[0]
            assert on_disk[-1] > 0  # though nobody answers
        if sum(waited) > 600:
            town.elastic.gone = False
            over.append(True)

    archives = Archives(town.journal, lambda: {"out": town.out}, lambda *_: None, sleep)
    town.elastic.gone = True
    town.write("change", "c", change(0))
    archives.start()
    for _ in range(6000):
        out = town.out
        if (
            over
            and out.position == town.journal.head[0]
            and not out._rows.lines + len(out._rows_in)
        ):
            break
        await asyncio.sleep(0.01)
    await archives.close()
    assert town.elastic.refused < 40  # no busy loop: 1, 2, 4, ... 30 s
    assert after(town) == list(range(len(waited) + 1))
    assert max(on_disk) <= 3 << 20
    (dropped,) = [x for x in town.out.troubles() if "dropped" in x]
    assert int(dropped.split()[0]) + len(town.found("rows")) == 300 * len(waited)


async def test_it_waits_as_long_as_it_is_asked_to(town):
    town.make()
    await town.send()
    town.write("change", "c", change(1))
    town.elastic.fail = [{"status": 429, "kind": "x", "headers": {"Retry-After": "7"}}]
    with pytest.raises(Unavailable) as caught:
        await town.send()
    assert caught.value.wait_s == 7


async def test_a_disk_that_is_full_keeps_rows_in_memory_and_sends_the_record(town, monkeypatch):
    town.make(rows=["*"])
    await town.send()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as at:
        at.setattr("os.pwrite", full)
        town.out.count(batch(5))
        await town.out.keep([])
    assert town.found("rows") == {}
    await town.send()
    assert len(town.found("rows")) == 5


async def test_no_secret_is_in_anything_that_it_says_or_writes(town, monkeypatch, caplog, capsys):
    monkeypatch.setenv("ES_KEY", "canary-1")
    town.elastic.auth = "ApiKey other"
    town.make(api_key="env:ES_KEY")
    town.write("change", "c", change(1))
    with pytest.raises(Unavailable) as caught:
        await town.send()
    said = [str(caught.value), *await town.out.describe(), caplog.text, capsys.readouterr().out]
    files = [p.read_bytes() for p in town.folder.rglob("*") if p.is_file()]
    assert "canary" not in " ".join(said)
    assert all(b"canary" not in data for data in files)
    monkeypatch.setenv("ES_KEY", "other")  # renewed: holds at once
    await town.send()
    assert after(town) == [1]


# ---- kill -9


@pytest.mark.long
def test_killed_again_and_again_nothing_is_lost_and_nothing_comes_twice(elastic, tmp_path):
    """A real process with a real journal and spool; the server is away in every other life of it."""
    rng = random.Random(7)
    promised = tmp_path / "promised"
    for life in range(6):
        elastic.gone = life % 2 == 1
        with _driver(tmp_path, elastic.url, life) as process:
            assert process.stdout.readline() == b"began\n"
            time.sleep(rng.uniform(0.3, 1.6))
    elastic.gone = False
    with _driver(tmp_path, elastic.url, -1) as process:
        assert process.wait(timeout=100) == 0

    with Journal.reader(tmp_path / "journal.sqlite") as journal:
        wrote = [e.body["after"] for e in journal.read(("change",))]
        newest = list(journal.read(("incident",)))[-1]
    there = [
        d["homeostat"]["change"]["after"] for d in elastic.found("homeostat-events-*").values()
        if "change" in d["homeostat"]
    ]  # fmt: skip
    assert len(wrote) > 20
    assert sorted(there) == sorted(wrote)
    (state,) = elastic.found("homeostat-incidents-*").values()
    assert state["event"]["sequence"] == newest.seq
    rows = [d["homeostat"]["row"]["id"] for d in elastic.found("homeostat-rows-*").values()]
    assert len(rows) == len(set(rows))
    asked_for = promised.read_text().split()
    assert len(asked_for) > 100
    assert set(asked_for) <= set(rows)


@contextlib.contextmanager
def _driver(folder, url, life):
    """Start the process; whatever becomes of the test, it is killed at the end."""
    argv = [sys.executable, str(DRIVER), str(folder), url, str(life)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()
