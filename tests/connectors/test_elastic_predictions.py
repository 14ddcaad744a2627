"""Prediction logs in an index: against a stand-in that speaks the protocol of Elasticsearch over a real socket.

It checks what the real one checks (product header, media type, rights, points in time that see a snapshot and expire,
`search_after` of the right length) and refuses what it does not know, so that a request the real one would not take
fails here, too. It was written from the documented protocol; no real cluster was asked.
"""

import base64
import time

import pytest
from elastic_side import Elastic, iso

from agent.errors import Refused, Unavailable
from agent.ports import Feed, LabelBatch, PredictionBatch
from connectors import elastic_predictions as module
from connectors.elastic_predictions import ElasticPredictions

pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")


@pytest.fixture
def elastic():
    with Elastic() as made:
        yield made


@pytest.fixture
def make(elastic, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 30.0)  # test machines are busy
    monkeypatch.setattr("connectors._kept._EVERY_S", -1.0)
    made = []

    def one(**more):
        config = {"url": elastic.url, "index": "predictions", "model": "fraud", "lag": 0} | more
        made.append(ElasticPredictions("logs", ElasticPredictions.Config(**config), state=tmp_path))
        return made[-1]

    yield one
    for each in made:
        each._aside.close()
        each._elastic.close()


NOW = time.time()


def doc(i, **more):
    return {
        "@timestamp": iso(NOW - 600 + i / 1000), "id": f"r{i}", "model": "fraud", "version": "3",
        "features": {"age": 40.0 + i, "country": "DE"}, "pred": "0", "proba": 0.75, "latency_ms": 20.0,
    } | more  # fmt: skip


async def drain(one):
    out, quiet = [], 0
    while quiet < 2:
        found = await one.read()
        quiet = 0 if found else quiet + 1
        out += found
    return out


async def ids(one):
    return [i for b in await drain(one) if isinstance(b, PredictionBatch) for i in b.ids]


async def test_documents_of_our_form_are_rows(elastic, make):
    elastic.put(*(doc(i) for i in range(5)), doc(7, label="1"))
    one = make()
    assert isinstance(one, Feed)
    rows, labels = await one.read()
    assert (rows.model, rows.version, rows.ids) == (
        "fraud",
        "3",
        ("r0", "r1", "r2", "r3", "r4", "r7"),
    )
    assert rows.features["age"].tolist() == [40.0, 41.0, 42.0, 43.0, 44.0, 47.0]
    assert rows.features["country"][0] == "DE"
    assert (rows.pred[0], rows.proba[0], rows.latency_s[0]) == ("0", 0.75, 0.02)
    assert rows.ts[1] - rows.ts[0] == pytest.approx(0.001, abs=1e-6)
    assert isinstance(labels, LabelBatch)
    assert (labels.ids, labels.labels) == (("r7",), ("1",))
    assert await one.read() == ()
    assert elastic.points == {}  # every point in time was closed


async def test_foreign_documents_are_guessed_and_known_by_their_own_id(elastic, make):
    elastic.put(
        *({"@timestamp": int((NOW - 60 + i) * 1000), "input": {"m2": 50.5 + i}, "prediction": 1.5 * i, "level": "info"}
          for i in range(30))
    )  # fmt: skip
    one = make()
    (rows,) = await one.read()
    assert set(rows.features) == {"input.m2", "level"}
    assert rows.pred.tolist()[:3] == [0.0, 1.5, 3.0]
    assert rows.ids == tuple(elastic.indexes["predictions"])
    assert {g.column: g.role for g in one.roles()}["_id"] == "id"
    assert {g.column: g.role for g in one.roles()}["@timestamp"] == "ts"


async def test_pages_follow_each_other_and_nothing_is_lost_or_twice(elastic, make):
    elastic.put(*(doc(i // 7) | {"id": f"r{i}"} for i in range(500)))  # seven of one instant
    one = make(page_rows=30, max_rows_per_read=100)
    batches = await drain(one)
    got = [i for b in batches for i in b.ids]
    assert sorted(got) == sorted(f"r{i}" for i in range(500))
    assert max(len(b.ids) for b in batches) <= 100
    opened = [a for a in elastic.asked if a[1].endswith("/_pit") and a[0] == "POST"]
    assert len(opened) == 2  # one to catch up, one to look again
    elastic.put(doc(71, id="late of the last instant"), doc(72, id="new"))
    assert await ids(one) == ["late of the last instant", "new"]


async def test_what_is_newer_than_the_lag_waits(elastic, make):
    elastic.put(doc(0), doc(1) | {"@timestamp": iso(time.time() - 30)})
    one = make(lag=3600 / 2, backlog=7200)
    assert await ids(one) == []
    two = make(lag=60)
    assert await ids(two) == ["r0"]


async def test_only_the_backlog_and_only_the_query(elastic, make):
    elastic.put(
        doc(0, kind="x"), doc(1, kind="y"), doc(2, kind="x") | {"@timestamp": iso(NOW - 9000)}
    )
    assert await ids(make(query={"term": {"kind": "x"}})) == ["r0"]


async def test_a_stop_goes_on_exactly_there_a_kill_a_little_before(elastic, make):
    elastic.put(*(doc(i // 3) | {"id": f"r{i}"} for i in range(300)))
    one = make(page_rows=50, max_rows_per_read=100)
    got = [i for b in await one.read() for i in b.ids]
    one.close()
    two = make()
    rest = await ids(two)
    assert sorted(got + rest) == sorted(f"r{i}" for i in range(300))
    assert set(got) & set(rest) == set()
    await two.read()  # it has written where it is, and is killed
    again = await ids(make(backlog=0))
    assert set(again) <= {f"r{i}" for i in range(300)}
    assert two._state()["after"] == iso(NOW - 600 + 0.099)


async def test_after_a_kill_it_goes_back(elastic, make, monkeypatch):
    now = time.time()  # `NOW` may be minutes old by then
    elastic.put(*(doc(i) | {"@timestamp": iso(now - 100 + i)} for i in range(50)))
    one = make()
    assert len(await ids(one)) == 50
    assert len(await ids(make())) == 50  # all of it is younger than what may have been forgotten
    monkeypatch.setattr(module, "_AGAIN_S", 75.0)
    await one.read()
    assert 0 < len(await ids(make())) < 50


async def test_a_point_in_time_that_expired_is_opened_again(elastic, make):
    elastic.put(*(doc(i) for i in range(250)))
    one = make(page_rows=50, max_rows_per_read=100)
    got = [i for b in await one.read() for i in b.ids]
    elastic.points.clear()
    with pytest.raises(Unavailable, match="search_context_missing"):
        await one.read()
    assert got + await ids(one) == [f"r{i}" for i in range(250)]


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (429, "circuit_breaking_exception", Unavailable), (503, "cluster_block_exception", Unavailable),
        (500, "search_phase_execution_exception", Unavailable), (403, "security_exception", Refused),
        (400, "parsing_exception", Refused),
    ],
)  # fmt: skip
async def test_what_goes_wrong_is_said_and_loses_nothing(elastic, make, status, kind, error):
    elastic.put(*(doc(i) for i in range(20)))
    one = make(page_rows=5)
    elastic.fail = [(status, kind)]
    with pytest.raises(error, match=rf"index predictions: {status} {kind}"):
        await one.read()
    assert len(await ids(one)) == 20


async def test_no_such_index_no_product_no_server(elastic, make):
    with pytest.raises(Refused, match="404 index_not_found_exception"):
        await make(index="nothing").read()
    elastic.product = ""
    with pytest.raises(Refused, match="does not say that it is Elasticsearch"):
        await make().read()
    with pytest.raises(Unavailable, match="index predictions"):
        await make(url="http://127.0.0.1:1").read()


async def test_secrets_are_references_and_read_anew(elastic, make, monkeypatch, tmp_path):
    elastic.put(doc(0))
    elastic.auth = "ApiKey abc"
    monkeypatch.setenv("KEY", "old")
    one = make(api_key="env:KEY")
    with pytest.raises(Refused, match="401 security_exception"):
        await one.read()
    monkeypatch.setenv("KEY", "abc")
    assert await ids(one) == ["r0"]
    (tmp_path / "pw").write_text("secret\n")
    elastic.auth = "Basic " + base64.b64encode(b"me:secret").decode()
    assert await ids(make(user="me", password=f"file:{tmp_path}/pw")) == ["r0"]
    with pytest.raises(Refused, match="NO_SUCH"):
        await make(api_key="env:NO_SUCH").read()


async def test_pages_that_nobody_took_are_given_again(elastic, make, monkeypatch):
    elastic.put(*(doc(i) for i in range(10)))
    one = make()
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with pytest.raises(Unavailable):
        await one.read()
    monkeypatch.setattr(module, "_PATIENCE_S", 30.0)
    assert len(await ids(one)) == 10


async def test_roles_are_kept_once_there_were_enough_documents(elastic, make):
    elastic.put({"@timestamp": iso(NOW - 50), "score": 0.5})
    one = make()
    await drain(one)
    assert one._form is None
    elastic.put(*(doc(i) | {"@timestamp": iso(NOW - 40 + i / 100)} for i in range(150)))
    await drain(one)
    assert one._form.roles["features.age"] == "feature"
    one.close()
    two = make()
    assert {g.column: g.role for g in two.roles()}["pred"] == "prediction"
    assert (await two.describe())[0].endswith(two._after)


async def test_without_the_library_it_says_which_extra(make, monkeypatch):
    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr("connectors._elastic.import_module", gone)
    with pytest.raises(Refused, match=r"'\.\[elastic\]'"):
        await make().read()


async def test_a_clock_that_was_set_back_ends_no_reading(elastic, make, monkeypatch):
    wrong = time.time() + 90 * 86_400
    monkeypatch.setattr(time, "time", lambda: wrong)
    one = make()
    assert await ids(one) == []
    one.close()
    monkeypatch.undo()
    monkeypatch.setattr("connectors._kept._EVERY_S", -1.0)
    elastic.put(doc(1))
    assert await ids(make()) == ["r1"]
