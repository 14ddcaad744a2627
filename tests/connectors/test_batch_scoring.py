"""Batch-scoring runs: files and folders as predictions; late, missed, short, wrong; stops, kills, damage."""

import gzip
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import structlog
from pydantic import ValidationError

from agent.cron import Cron
from agent.errors import Refused, Unavailable
from agent.ports import Feed, LabelBatch, PredictionBatch, Source
from connectors import _tables
from connectors._rows import Form, Rows, seconds
from connectors._runs import lateness, rhythm
from connectors._tables import Damaged, open_table
from connectors.batch_scoring import BatchScoring

pa = pytest.importorskip("pyarrow", reason="parquet and CSV need the extra `files`")
import pyarrow.parquet as pq  # noqa: E402  # only where it is

DAY = 86_400.0


def table(n=300, first=0, **more):
    i = np.arange(first, first + n)
    p = (i % 97) / 97
    columns = {
        "customer_id": [f"c{k:06d}" for k in i], "age": 20.0 + i % 50, "country": np.array(["DE", "FR"])[i % 2],
        "probability": p, "prediction": (p > 0.5).astype(int), "segment": np.array(["a", "b"])[i % 2],
    }  # fmt: skip
    return pa.table({k: v for k, v in (columns | more).items() if v is not None})


def write(path: Path, what, age_s=100.0, **kw) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        pq.write_table(what, path, **kw)
    else:
        rows = what.to_pylist()
        if plain.endswith(".csv"):
            lines = [",".join(what.column_names)]
            lines += [",".join("" if v is None else str(v) for v in r.values()) for r in rows]
        else:
            lines = [json.dumps(r) for r in rows]
        text = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return aged(path, age_s)


def aged(path: Path, age_s: float) -> Path:
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.batch_scoring._PATIENCE_S", 30.0)  # test machines are busy
    monkeypatch.setattr("connectors.batch_scoring._LOOK_EVERY_S", -1.0)
    monkeypatch.setattr("connectors._kept._EVERY_S", -1.0)
    made = []

    def one(**more) -> BatchScoring:
        config = {"path": tmp_path / "runs" / "*", "model": "churn", "backlog": 10} | more
        made.append(
            BatchScoring("nightly", BatchScoring.Config(**config), state=tmp_path / "state")
        )
        return made[-1]

    yield one
    for each in made:
        each._aside.close()


async def drain(one: BatchScoring) -> list:
    out, quiet = [], 0
    while quiet < 2:
        found = await one.read()
        out += found
        quiet = 0 if found or one._waiting else quiet + 1
    return out


async def ids(one: BatchScoring) -> list[str]:
    return [i for b in await drain(one) if isinstance(b, PredictionBatch) for i in b.ids]


async def signals(one: BatchScoring) -> dict[str, float]:
    frame = await one.poll()
    return {
        s.metric.removeprefix("model.run_"): float(v)
        for s, v in zip(frame.series, frame.values, strict=True)
    }


# ---- rows


@pytest.mark.parametrize("name", ["r.parquet", "r.csv", "r.csv.gz", "r.jsonl", "r.jsonl.gz"])
async def test_every_kind_of_file_gives_the_same_rows(tmp_path, make, name):
    path = write(tmp_path / "runs" / name, table(2500))
    one = make(max_rows_per_read=1000)
    assert isinstance(one, Feed)
    assert isinstance(one, Source)
    got = await drain(one)
    assert [len(b.ts) for b in got] == [1000, 1000, 500]
    assert [i for b in got for i in b.ids] == [f"c{k:06d}" for k in range(2500)]
    first = got[0]
    assert (first.model, first.version) == ("churn", "")
    assert set(first.features) == {"age", "country"}
    assert first.features["age"].dtype == np.float64
    assert first.features["age"][:3].tolist() == [20.0, 21.0, 22.0]
    assert first.features["country"][:3].tolist() == ["DE", "FR", "DE"]
    assert first.pred[48:50].tolist() == ["0", "1"]
    # 0.4948 for class 1 is 0.5052 for class 0, which was predicted
    assert first.proba[48:50].tolist() == pytest.approx([1 - 48 / 97, 49 / 97])
    assert np.ptp(first.ts) == 0
    assert first.ts[0] == pytest.approx(path.stat().st_mtime)
    said = await signals(one)
    assert (said["rows_count"], said["short"], said["schema_wrong"]) == (2500, 0, 0)
    assert said["age_seconds"] == pytest.approx(100, abs=60)


@pytest.mark.parametrize("name", ["r.parquet", "r.jsonl"])
async def test_a_column_of_vectors_is_a_feature_and_told_by_numbers(tmp_path, make, name):
    vectors = [[float(k), 1.0, 2.0] for k in range(300)]
    write(tmp_path / "runs" / name, table(text=vectors, probabilities=vectors))
    one = make()
    (batch,) = await drain(one)
    found = set(batch.features) - {"age", "country"}
    assert {f.partition("~")[0] for f in found} == {"text"}
    assert batch.features["text~length"][2] == pytest.approx(3.0)
    roles = {g.column: g.role for g in one.roles()}
    assert (roles["text"], roles["probabilities"]) == ("feature", "ignore")


async def test_personal_columns_are_left_out_or_hashed_also_in_the_reference(tmp_path, make):
    write(tmp_path / "runs" / "r.parquet", table(300))
    train = write(tmp_path / "train.parquet", table(300))
    one = make(drop=["ag*"], hash=["country", "segment"], hash_key="", reference=str(train))
    (batch,) = await drain(one)
    assert set(batch.features) == {"country"}
    said = set(batch.features["country"].tolist())
    assert len(said) == 2
    assert not said & {"DE", "FR"}
    assert not set(batch.tags["segment"].tolist()) & {"a", "b"}
    found = one.reference("churn", "")
    assert set(found["features"]["country"]["values"]) == said


async def test_roles_times_versions_and_labels(tmp_path, make):
    n = 300
    at = np.datetime64("2026-11-01T03:00:00", "us") + np.arange(n).astype("timedelta64[s]")
    what = table(
        n, scored_at=at, model_version=["7" if i % 3 else "8" for i in range(n)],
        churned=pa.array([None if i % 2 else i % 5 == 0 for i in range(n)]),
    )  # fmt: skip
    write(tmp_path / "runs" / "r.parquet", what)
    one = make(columns={"churned": "label", "age": "ignore"})
    got = await drain(one)
    rows = {b.version: b for b in got if isinstance(b, PredictionBatch)}
    (labels,) = [b for b in got if isinstance(b, LabelBatch)]
    assert {v: len(b.ts) for v, b in rows.items()} == {"8": 100, "7": 200}
    assert rows["8"].ids[:2] == ("c000000", "c000003")
    assert rows["8"].ts[1] - rows["8"].ts[0] == 3.0
    assert rows["8"].ts[0] == 1_793_502_000.0
    assert set(rows["7"].features) == {"country"}
    assert (len(labels.ids), labels.ids[1], labels.labels[:2]) == (150, "c000002", ("1", "0"))
    roles = {g.column: (g.role, g.reason) for g in one.roles()}
    assert roles["churned"] == ("label", "given")
    assert roles["scored_at"][0] == "ts"


async def test_labels_that_come_alone_are_labels(tmp_path, make):
    write(tmp_path / "runs" / "labels.csv", pa.table({"request_id": ["a", "b"], "label": [1, 0]}))
    (got,) = await drain(make())
    assert isinstance(got, LabelBatch)
    assert (got.ids, got.labels) == (("a", "b"), ("1", "0"))


async def test_a_regression_and_records_of_our_own_form(tmp_path, make):
    lines = [
        {"id": f"r{i}", "ts": 1.7e9 + i, "model": "price", "version": "2", "features": {"m2": 50.0 + i, "town": "x"},
         "pred": 100.5 + i, "label": 99.25, "latency_ms": 12.0}
        for i in range(60)
    ]  # fmt: skip
    path = tmp_path / "runs" / "r.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, lines)))
    aged(path, 60)
    rows, labels = await drain(make())
    assert (rows.model, rows.version, rows.ids[1], rows.ts[1]) == ("price", "2", "r1", 1.7e9 + 1)
    assert set(rows.features) == {"m2", "town"}
    assert rows.pred[:2].tolist() == [100.5, 101.5]
    assert rows.latency_s[0] == 0.012
    assert labels.labels[0] == 99.25


async def test_several_probabilities_are_one_of_what_was_predicted(tmp_path, make):
    n = 120
    a = np.linspace(0.1, 0.8, n)
    what = pa.table({"prob_cat": a, "prob_dog": 1 - a, "x": np.arange(n) * 1.0})
    write(tmp_path / "runs" / "r.parquet", what)
    (got,) = await drain(make())
    assert got.pred[0] == "dog"
    assert got.pred[-1] == "cat"
    assert got.proba.tolist() == np.maximum(a, 1 - a).tolist()


def test_segments_are_tags_where_batches_have_them(monkeypatch):
    made = {}
    monkeypatch.setattr("connectors._rows._KNOWN", frozenset({"tags"}))
    monkeypatch.setattr(
        "connectors._rows.PredictionBatch", lambda **kw: made.update(kw) or SimpleNamespace(**kw)
    )
    form = Form({"arm": "segment", "x": "feature"}, numbers=False, positive="")
    Rows(form, "m", "").batches({"arm": np.array(["a", None], dtype=object), "x": np.zeros(2)}, 5.0)
    assert made["tags"]["arm"].tolist() == ["a", None]


# ---- which files are runs


async def test_a_folder_of_parts_is_one_run(tmp_path, make):
    day = tmp_path / "runs" / "day=1"
    for k in range(3):
        write(day / f"part-{k}.parquet", table(100, first=100 * k))
    (day / "_temporary.parquet").write_bytes(b"not yet")
    (day / ".part-9.parquet.crc").write_bytes(b"x")
    one = make()
    assert len(await ids(one)) == 300
    assert (await signals(one))["rows_count"] == 300


async def test_a_run_that_is_still_written_waits(tmp_path, make):
    fresh = write(tmp_path / "runs" / "a.csv", table(10), age_s=0)
    part = tmp_path / "runs" / "b"
    write(part / "p.csv", table(10, first=10), age_s=0)
    one = make(settle=3600)
    assert await ids(one) == []
    (part / "_SUCCESS").touch()
    assert (await ids(one))[0] == "c000010"
    aged(fresh, 4000)
    assert (await ids(one))[0] == "c000000"


async def test_written_over_is_the_next_run(tmp_path, make):
    path = write(tmp_path / "runs" / "latest.csv", table(10), age_s=900)
    one = make()
    assert len(await ids(one)) == 10
    assert await ids(one) == []
    write(path, table(12), age_s=100)
    assert len(await ids(one)) == 12


async def test_at_first_sight_only_the_newest_is_read(tmp_path, make):
    for k in range(5):
        write(tmp_path / "runs" / f"r{k}.csv", table(10, first=10 * k), age_s=1000 - 100 * k)
    one = make(backlog=1)
    assert (await ids(one))[0] == "c000040"
    write(tmp_path / "runs" / "r9.csv", table(10, first=90), age_s=50)
    assert (await ids(one))[0] == "c000090"


async def test_the_oldest_run_comes_first(tmp_path, make):
    for k, age in enumerate((100, 300, 200)):
        write(tmp_path / "runs" / f"r{k}.csv", table(1, first=k), age_s=age)
    assert await ids(make()) == ["c000001", "c000002", "c000000"]


# ---- stops and kills


@pytest.mark.parametrize("name", ["r.parquet", "r.csv", "r.jsonl"])
async def test_a_stop_in_the_middle_goes_on_exactly_there(tmp_path, make, name):
    write(tmp_path / "runs" / name, table(2500), **({"row_group_size": 300} if "parquet" in name else {}))  # fmt: skip
    one = make(max_rows_per_read=700)
    got = [i for _ in range(2) for b in await one.read() for i in b.ids]
    one.close()
    two = make(max_rows_per_read=700)
    assert got + await ids(two) == [f"c{k:06d}" for k in range(2500)]
    assert (await signals(two))["rows_count"] == 2500
    two.close()
    assert await ids(make()) == []


async def test_after_a_kill_nothing_is_missing(tmp_path, make):
    write(tmp_path / "runs" / "a.csv", table(10), age_s=300)
    write(tmp_path / "runs" / "b.csv", table(900, first=10), age_s=200)
    one = make(max_rows_per_read=400)
    for _ in range(4):
        await one.read()
    again = await ids(make(max_rows_per_read=400))  # no close before
    assert set(again) == {f"c{k:06d}" for k in range(910)}
    # what ended longer ago than what took it can have forgotten is not read again
    kept = json.loads((tmp_path / "state" / "feeds" / "nightly.json").read_text())
    kept["state"]["past"][0]["read_at"] -= 1000
    kept["state"]["ts"] = time.time()
    (tmp_path / "state" / "feeds" / "nightly.json").write_text(json.dumps(kept))
    assert (await ids(make()))[0] == "c000010"


async def test_a_piece_that_nobody_took_is_given_again(tmp_path, make, monkeypatch):
    write(tmp_path / "runs" / "a.csv", table(900))
    one = make(max_rows_per_read=400)
    assert len((await one.read())[0].ids) == 400
    monkeypatch.setattr("connectors.batch_scoring._PATIENCE_S", 0.0)
    with pytest.raises(Unavailable):
        await one.read()
    monkeypatch.setattr("connectors.batch_scoring._PATIENCE_S", 30.0)
    assert (await ids(one))[0] == "c000400"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"clean": true, "state": {"past": [{}]}}'])
async def test_damaged_positions_begin_anew(tmp_path, make, damage):
    write(tmp_path / "runs" / "a.csv", table(5))
    kept = tmp_path / "state" / "feeds" / "nightly.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(damage)
    assert len(await ids(make())) == 5


# ---- short, wrong, damaged


async def test_a_short_run_is_said(tmp_path, make):
    for k in range(4):
        write(tmp_path / "runs" / f"r{k}.csv", table(100 + k), age_s=1000 - 100 * k)
    one = make(min_rows=20)
    await drain(one)
    said = await signals(one)
    assert (said["short"], said["rows_ratio"]) == (0, pytest.approx(103 / 101))
    write(tmp_path / "runs" / "r5.csv", table(40), age_s=90)
    with structlog.testing.capture_logs() as logs:
        await drain(one)
    said = await signals(one)
    assert (said["short"], said["rows_count"], said["rows_ratio"]) == (
        1,
        40,
        pytest.approx(40 / 101.5),
    )
    assert [e["log_level"] for e in logs if e["event"] == "batch_run"] == ["warning"]
    write(tmp_path / "runs" / "r6.csv", table(19), age_s=80)
    write(tmp_path / "runs" / "r7.csv", table(90), age_s=70)
    await drain(one)
    assert (await signals(one))["short"] == 0


async def test_missing_and_turned_columns_are_wrong_until_they_stay(tmp_path, make):
    write(tmp_path / "runs" / "r0.parquet", table(50), age_s=1000)
    one = make()
    await drain(one)
    assert (await signals(one))["schema_wrong"] == 0
    write(tmp_path / "runs" / "r1.parquet", table(50, country=None, age=["x"] * 50), age_s=900)
    got = await drain(one)
    assert set(got[0].features) == {"age", "country"}
    assert (
        got[0].features["country"].tolist() == [None] * 50
        or np.isnan(got[0].features["country"]).all()
    )
    assert (await signals(one))["schema_wrong"] == 1
    assert "missing: country; age is text, was number" in (await one.describe())[-1]
    write(tmp_path / "runs" / "r2.parquet", table(50), age_s=800)
    await drain(one)
    assert (await signals(one))["schema_wrong"] == 0
    for k in range(3, 6):
        write(tmp_path / "runs" / f"r{k}.parquet", table(50, country=None), age_s=1000 - 100 * k)
    await drain(one)
    assert (await signals(one))["schema_wrong"] == 0
    assert "country" not in {g.column for g in one.roles()}


async def test_a_new_column_alone_is_told_and_not_wrong(tmp_path, make):
    write(tmp_path / "runs" / "r0.csv", table(50), age_s=1000)
    write(tmp_path / "runs" / "r1.csv", table(50, extra=list(range(50))), age_s=900)
    one = make()
    with structlog.testing.capture_logs() as logs:
        got = await drain(one)
    assert "extra" not in got[1].features
    assert [e["columns"] for e in logs if e["event"] == "new_columns"] == [["extra"]]
    assert (await signals(one))["schema_wrong"] == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.parquet", b"PAR1 torn"), ("r.csv", b""), ("r.jsonl", b"no json at all\n"),
        ("r.csv.gz", gzip.compress(b"a,b\n1,2\n" * 50_000)[:-200]), ("r.jsonl.gz", b"\x1f\x8bnothing"),
    ],
)  # fmt: skip
async def test_a_damaged_run_is_said_and_the_next_one_is_read(tmp_path, make, name, content):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).write_bytes(content)
    aged(tmp_path / "runs" / name, 200)
    one = make()
    await drain(one)
    assert (await signals(one))["schema_wrong"] == 1
    write(tmp_path / "runs" / "s.parquet", table(7), age_s=100)
    one._schema = {}
    one._form = None
    assert len(await ids(one)) == 7


async def test_broken_lines_are_counted_and_the_others_are_taken(tmp_path, make):
    path = write(tmp_path / "runs" / "r.csv", table(100))
    text = path.read_text().splitlines()
    text.insert(50, "one,two")
    path.write_text("\n".join(text))
    aged(path, 60)
    one = make()
    with structlog.testing.capture_logs() as logs:
        assert len(await ids(one)) == 100
    assert [e["rows"] for e in logs if e["event"] == "bad_rows"] == [1]


async def test_texts_that_look_like_numbers_stay_texts(tmp_path, make):
    zips = [f"{k:05d}" for k in range(50)]
    write(tmp_path / "runs" / "r0.csv", table(50, zip=zips), age_s=300)
    write(
        tmp_path / "runs" / "r1.csv", table(50, zip=[str(12345 + k) for k in range(50)]), age_s=200
    )
    one = make(columns={"zip": "feature"})
    first, second = await drain(one)
    assert first.features["zip"][1] == "00001"
    assert second.features["zip"][1] == "12346"
    assert (await signals(one))["schema_wrong"] == 0


async def test_a_number_that_is_none_keeps_its_column_as_text(tmp_path, make):
    ages = ["30"] * 1500
    ages[1200] = "unknown"
    write(tmp_path / "runs" / "r.csv", table(1500, age=ages))
    first, second = await drain(make(max_rows_per_read=1000))
    assert first.features["age"].dtype == np.float64
    assert second.features["age"][[0, 200]].tolist() == ["30", "unknown"]


async def test_a_folder_that_is_not_there_is_blind_not_empty(make, tmp_path):
    one = make(path=tmp_path / "nowhere" / "*.csv")
    with pytest.raises(Unavailable, match="No such file"):
        await one.read()
    with pytest.raises(Unavailable, match="No such file"):
        await one.poll()


async def test_a_wrong_column_name_is_refused_with_the_near_ones(make, tmp_path):
    write(tmp_path / "runs" / "r.csv", table(10))
    with pytest.raises(Refused, match="did you mean customer_id"):
        await make(columns={"customerid": "id"}).read()


async def test_without_the_library_it_says_which_extra(make, tmp_path, monkeypatch):
    write(tmp_path / "runs" / "r.csv", table(10))

    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr(_tables, "import_module", gone)
    one = make()
    for _ in range(3):  # again and again, and not by chance
        with pytest.raises(Refused, match=r"'\.\[files\]'"):
            await one.read()


# ---- when it comes


def test_cron_lines_mean_what_crontab_means():
    monday = 1_795_996_800.0 - 1_795_996_800.0 % DAY  # some midnight, UTC
    while time.gmtime(monday).tm_wday != 0:
        monday += DAY
    work = Cron("30 3 * * 1-5")
    assert work.last(monday) == (
        monday - 4 * DAY + 12_600,
        monday - 3 * DAY + 12_600,
    )  # Thursday, Friday
    assert work.last(monday + 12_600) == (monday - 3 * DAY + 12_600, monday + 12_600)
    sunday = Cron("0 0 * * 7")
    assert sunday.last(monday + 3600)[1] == monday - DAY == Cron("0 0 * * 0").last(monday + 3600)[1]
    often = Cron("*/5 * * * *")
    assert often.last(monday + 299) == (monday - 300, monday)
    assert often.last(monday + 300) == (monday, monday + 300)
    tokyo = Cron("0 9 * * *", ZoneInfo("Asia/Tokyo"))
    assert tokyo.last(monday + 60)[1] == monday
    for wrong in ("0 3 * *", "61 * * * *", "a b c d e"):
        with pytest.raises(ValueError, match="no cron line"):
            Cron(wrong)


def test_late_and_missed_by_cron():
    daily = Cron("0 3 * * *")
    due = daily.last(1_795_996_800.0)[1]
    runs = [due - 2 * DAY + 600, due - DAY + 600]

    def at(hours, some=runs):
        return lateness(due + hours * 3600, some, cron=daily, grace_s=3600)

    assert at(0.5) == (0.0, False)
    assert at(3) == (7200.0, False)
    assert at(23.9)[1] is False
    assert at(24.5)[1] is True
    assert at(24.5)[0] == pytest.approx(23.5 * 3600)
    assert at(24.5, [*runs, due + 24.2 * 3600]) == (0.0, False)  # it came, late
    assert at(3, [*runs, due + 1800]) == (0.0, False)


def test_late_and_missed_by_rhythm():
    daily = [k * DAY for k in range(10)]
    last = daily[-1]
    assert rhythm(daily[:4]) is None
    assert rhythm(daily) == (DAY, DAY)
    assert lateness(last + DAY, daily, cron=None, grace_s=60) == (0.0, False)
    late, missed = lateness(last + 1.5 * DAY, daily, cron=None, grace_s=60)
    assert (late, missed) == (pytest.approx(0.4 * DAY), False)
    assert lateness(last + 2.2 * DAY, daily, cron=None, grace_s=60)[1] is True
    weekdays = [k * DAY for k in range(60) if k % 7 < 5]
    friday = next(k for k in reversed(weekdays) if (k / DAY) % 7 == 4)
    until = [k for k in weekdays if k <= friday]
    assert lateness(friday + 3 * DAY, until, cron=None, grace_s=60) == (0.0, False)
    assert lateness(friday + 3.5 * DAY, until, cron=None, grace_s=60)[0] > 0
    once_missed = [k for k in daily if k != 5 * DAY] + [k * DAY for k in range(10, 20)]
    assert rhythm(once_missed) == (DAY, DAY)
    by_hand = np.cumsum([1, 50, 3, 200, 2, 900, 4, 700]) * 3600.0
    assert rhythm(by_hand.tolist()) is None
    assert math.isnan(lateness(1e9, by_hand.tolist(), cron=None, grace_s=60)[0])
    assert math.isnan(lateness(1e9, [], cron=None, grace_s=60)[0])


async def test_a_run_that_does_not_come_is_late_then_missed(tmp_path, make):
    for k in range(6):
        write(tmp_path / "runs" / f"r{k}.csv", table(10), age_s=(6 - k) * 3600 + 1500)
    one = make(backlog=1, grace=60)
    await drain(one)
    said = await signals(one)
    assert said["missed"] == 0
    assert said["late_seconds"] == pytest.approx(3600 + 1500 - 3600 - 360, abs=120)
    assert said["age_seconds"] == pytest.approx(5100, abs=120)
    for k in range(6):
        aged(tmp_path / "runs" / f"r{k}.csv", (6 - k) * 3600 + 4200)
    two = BatchScoring("nightly", one.config)
    await drain(two)
    assert (await signals(two))["missed"] == 1
    assert "one was missed" in " ".join(await two.describe())
    write(tmp_path / "runs" / "r7.csv", table(10), age_s=30)
    await drain(two)
    said = await signals(two)
    assert (said["missed"], said["late_seconds"]) == (0, 0)
    two.close()


def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(ValidationError, match="no cron line"):
        make(schedule="daily")
    with pytest.raises(ValidationError):
        make(model="a b")
    with pytest.raises(Refused, match="Nowhere/Land"):
        make(schedule="0 3 * * *", timezone="Nowhere/Land")


# ---- what it is used to


@pytest.mark.parametrize("name", ["ref.json", "train.csv"])
async def test_a_reference_comes_from_json_or_from_rows(tmp_path, make, name):
    path = tmp_path / name
    if name == "ref.json":
        path.write_text(json.dumps({"rows": 300, "features": {}}))
    else:
        write(path, table(300))
    write(tmp_path / "runs" / "r.csv", table(10))
    one = make(reference=path, version="3")
    assert one.reference("churn", "3") is None  # not read yet
    await drain(one)
    assert one.reference("churn", "3")["rows"] == 300
    assert one.reference("churn", "4") is None
    assert one.reference("other", "3") is None
    if name == "train.csv":
        assert set(one.reference("churn", "3")["features"]) == {"age", "country"}


async def test_a_reference_that_cannot_be_read_is_said_once(tmp_path, make):
    (tmp_path / "ref.json").write_text("[")
    (tmp_path / "runs").mkdir()
    one = make(reference=tmp_path / "ref.json")
    with structlog.testing.capture_logs() as logs:
        await drain(one)
    assert [e["event"] for e in logs] == ["reference_not_read"]
    assert one.reference("churn", "") is None


# ---- single pieces


def test_seconds_of_every_usual_form():
    t = 1_764_000_000.5
    for values in (
        np.array([t]), np.array([t * 1e3]), np.array([t * 1e6]), np.array(["2025-11-24T16:00:00.5Z"], dtype=object),
        np.array(["2025-11-24T16:00:00.5"], dtype=object), np.array(["2025-11-24T17:00:00.5+01:00"], dtype=object),
        np.array(["2025-11-24T16:00:00.500"], dtype="datetime64[ms]"),
    ):  # fmt: skip
        assert seconds(values).tolist() == [pytest.approx(t)]
    nothing = np.array(["soon", None, 5], dtype=object)
    assert np.isnan(seconds(nothing)).all()
    assert np.isnan(seconds(np.array([3.0, np.nan]))).all()
    assert np.isnan(seconds(np.array(["NaT"], dtype="datetime64[s]"))).all()


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"must end with \.parquet"):
        open_table(tmp_path / "a.xlsx")
    with pytest.raises(Unavailable):
        open_table(tmp_path / "gone.csv")
    assert issubclass(Damaged, Refused)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_csv_of_any_mark(tmp_path, mark):
    path = tmp_path / "a.csv"
    lines = ['a~"b c"~when~yes', '1~"x~y"~2026-11-01~true', "~NA~~"]
    path.write_text("\n".join(lines).replace("~", mark) + "\n")
    with open_table(path) as found:
        assert found.kinds == {"a": "number", "b c": "text", "when": "time", "yes": "truth"}
        (columns,) = found.chunks(0, 10)
    assert columns["b c"].tolist() == [f"x{mark}y", None]
    assert columns["a"].tolist() == [1.0, pytest.approx(math.nan, nan_ok=True)]
    assert columns["yes"][0] == 1.0


def test_parquet_of_every_type(tmp_path):
    from decimal import Decimal

    what = pa.table(
        {
            "i": pa.array([1, None], pa.int32()), "f": pa.array([0.5, None], pa.float32()),
            "d": pa.array([Decimal("1.25"), None]), "b": pa.array([True, None]),
            "c": pa.array(["x", None]).dictionary_encode(), "t": pa.array([1_000_000, None], pa.timestamp("us")),
            "l": pa.array([[1], None]), "s": pa.array([{"u": 1, "v": {"w": "z"}}, None]), "n": pa.nulls(2),
        }
    )  # fmt: skip
    pq.write_table(what, tmp_path / "a.parquet")
    with open_table(tmp_path / "a.parquet") as found:
        assert found.rows == 2
        assert found.kinds == {
            "i": "number", "f": "number", "d": "number", "b": "truth", "c": "text", "t": "time", "l": "nested",
            "s.u": "number", "s.v.w": "text", "n": "empty",
        }  # fmt: skip
        (columns,) = found.chunks(0, 10)
        assert [c.tolist()[0] for n, c in columns.items() if n not in {"t", "n"}] == [
            1.0, 0.5, 1.25, 1.0, "x", [1], 1.0, "z",
        ]  # fmt: skip
        assert all(np.isnan(columns[n][1]) for n in ("i", "f", "d", "b"))
        assert list(found.chunks(2, 10)) == []


@pytest.mark.long
def test_a_large_file_is_read_in_little_memory(tmp_path):
    n = 200_000
    what = {f"f{k}": np.random.default_rng(k).random(n) for k in range(20)}
    pq.write_table(pa.table(what), tmp_path / "a.parquet", row_group_size=n)
    code = """
import resource, sys
from pathlib import Path
from connectors._tables import arrow, open_table
arrow("pyarrow.parquet")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_table(Path(sys.argv[1])) as t:
    n = sum(len(c["f0"]) for c in t.chunks(0, 10_000))
assert "pandas" not in sys.modules
print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.parquet")], capture_output=True, text=True, check=True
    ).stdout.split()  # fmt: skip
    assert int(out[0]) == n
    assert float(out[1]) < 80  # the file holds 32 MB


async def test_files_are_read_beside_the_event_loop(tmp_path, make, monkeypatch):
    threads = set()

    def opened(path):
        threads.add(threading.current_thread())
        return open_table(path)

    monkeypatch.setattr("connectors.batch_scoring.open_table", opened)
    write(tmp_path / "runs" / "r.parquet", table(500))
    assert len(await ids(make(max_rows_per_read=100))) == 500
    assert threads
    assert threading.current_thread() not in threads
