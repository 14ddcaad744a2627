"""Prediction logs and labels: columns, damage, rotation, concurrent writers, kill -9 on both sides."""

import asyncio
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.errors import BadRecords, Refused, Unavailable
from agent.ports import BulkReceiver, Feed, LabelBatch, PredictionBatch, Pushed
from connectors._personal import Personal
from connectors._records import Reader, Rows
from connectors._tail import Tail, unpack
from connectors.predictions import Predictions

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Test machines are busy."""

T0 = 1_764_000_000.0


def row(i: int, **more) -> dict:
    return {
        "id": f"r{i}", "ts": T0 + i, "model": "fraud", "version": "3", "features": {"age": 40.0 + i, "country": "DE"},
        "pred": "0", "proba": 0.9, "latency_ms": 20.0, "processing_ms": 3.0, "status": 200,
    } | more  # fmt: skip


def label(i: int, **more) -> dict:
    return {"id": f"r{i}", "model": "fraud", "label": "1", "ts": T0 + 60 + i} | more


def write(path: Path, *records: dict | bytes, end: bytes = b"\n") -> None:
    with path.open("ab") as out:
        for one in records:
            out.write((one if isinstance(one, bytes) else json.dumps(one).encode()) + end)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "predictions.jsonl"


@pytest.fixture
def make(tmp_path, log, monkeypatch):
    monkeypatch.setattr("connectors.predictions._PATIENCE_S", 20.0)  # test machines are busy
    made = []

    def one(**more) -> Predictions:
        config = Predictions.Config(**({"path": log, "labels": tmp_path / "labels.jsonl"} | more))
        made.append(Predictions("predictions", config, state=tmp_path / "state"))
        made[-1]._places._kept_at = -math.inf
        return made[-1]

    yield one
    for each in made:
        each._aside.close()
        for tail in each._tails.values():
            tail.close()


async def ids(one: Predictions) -> list[str]:
    return [i for batch in await one.read() for i in batch.ids]


async def drain(one: Predictions) -> list[str]:
    out, quiet = [], 0
    while quiet < 3:
        found = await ids(one)
        out += found
        quiet = 0 if found else quiet + 1
    return out


# ---- columns


async def test_rows_become_columns(make, log, tmp_path):
    write(
        log,
        row(0),
        row(1, features={"age": None}, proba=None, latency_ms=None, pred=None, status=503),
    )
    write(tmp_path / "labels.jsonl", label(0), label(1, label=0))
    one = make()
    assert isinstance(one, Feed)
    assert isinstance(one, BulkReceiver)
    batch, labels = await one.read()
    assert isinstance(batch, PredictionBatch)
    assert (batch.model, batch.version, batch.ids) == ("fraud", "3", ("r0", "r1"))
    assert batch.ts.tolist() == [T0, T0 + 1]
    np.testing.assert_array_equal(batch.features["age"], [40.0, np.nan])
    assert batch.features["country"].tolist() == ["DE", None]
    assert batch.pred.tolist() == ["0", None]
    np.testing.assert_array_equal(batch.proba, [0.9, np.nan])
    np.testing.assert_allclose(batch.latency_s, [0.02, np.nan])
    np.testing.assert_allclose(batch.processing_s, [0.003, 0.003])
    assert batch.status.tolist() == [200, 503]
    assert batch.status.dtype == np.int64
    assert isinstance(labels, LabelBatch)
    assert (labels.model, labels.ids, labels.labels) == ("fraud", ("r0", "r1"), ("1", "0"))
    assert labels.ts.tolist() == [T0 + 60, T0 + 61]
    assert await one.read() == []


async def test_each_model_and_version_has_its_batch_and_labels_may_be_in_the_same_file(make, log):
    both = row(3, version=4) | {"label": True}
    write(log, row(0), row(1, version=None), row(2, model="other"), both, label(0))
    got = await make(labels=None).read()
    assert [(b.model, b.version) for b in got[:-1]] == [
        ("fraud", "3"),
        ("fraud", ""),
        ("other", "3"),
        ("fraud", "4"),
    ]
    assert got[-1].ids == ("r3", "r0")
    assert got[-1].labels == ("true", "1")


@pytest.mark.parametrize(
    ("task", "said", "kept"),
    [
        ("auto", ["a", "b", None], ["a", "b", None]),
        ("auto", [0, 1, 1], ["0", "1", "1"]),
        ("auto", [True, False, None], ["true", "false", None]),
        ("auto", [0.5, 1.25, None], [0.5, 1.25, math.nan]),
        ("classification", [1.0, 0.0, "x"], ["1", "0", "x"]),
        ("regression", [1, 2.5, None], [1.0, 2.5, math.nan]),
    ],
)
def test_answers_are_classes_or_numbers(task, said, kept):
    (batch,) = Reader("", task).records([row(i, pred=p) for i, p in enumerate(said)]).arrivals()
    if batch.pred.dtype == np.float64:
        np.testing.assert_array_equal(batch.pred, np.array(kept, dtype=float))
    else:
        assert batch.pred.tolist() == kept


def test_a_feature_that_is_sometimes_text_is_text_and_keeps_what_was_there():
    values = [1.0, 2.5, "3", None, True, {"a": [1]}, 10**400]
    (batch,) = (
        Reader("", "auto")
        .records([row(i, features={"x": v}) for i, v in enumerate(values)])
        .arrivals()
    )
    assert batch.features["x"].tolist()[:6] == ["1", "2.5", "3", None, "true", '{"a": [1]}']
    assert all(v is None or isinstance(v, str) for v in batch.features["x"])


def test_a_vector_is_told_by_numbers_and_a_broken_one_is_missing():
    rows = Reader("", "auto").records(
        [
            row(i, features={"x": 1, "e": v})
            for i, v in enumerate([[3.0, 4.0], None, "?", [0.6, 0.8]])
        ]
    )
    (batch,) = rows.arrivals()
    assert "e" not in batch.features
    assert len(batch.features) == 18
    np.testing.assert_array_equal(batch.features["e~length"], [5.0, np.nan, np.nan, 1.0])
    assert batch.features["e~7"][0] == pytest.approx(batch.features["e~7"][3])


def test_a_vector_that_is_dropped_or_hashed_is_not_looked_into():
    records = [row(0, features={"x": 1, "e": [3.0, 4.0], "f": [1.0, 2.0]})]
    personal = Personal(["e"], ["f"], lambda: b"k" * 32)
    (batch,) = Reader("", "auto", personal).records(records).arrivals()
    assert set(batch.features) == {"x", "f"}


def test_numbers_that_are_none_are_missing():
    lines = [
        b'{"ts": 1, "model": "m", "features": {"x": %s}}' % v
        for v in (b"NaN", b"-Infinity", b"1e999", b"1" * 400, b"7")
    ]
    rows = Reader("", "auto").lines(lines)
    assert rows.bad == 0
    (batch,) = rows.arrivals()
    np.testing.assert_array_equal(batch.features["x"], [np.nan, np.nan, np.nan, np.nan, 7.0])


def test_rows_with_different_features_share_their_columns():
    rows = Reader("", "auto").records(
        [row(0, features={"a": 1, "b": 2}), row(1, features={"b": 3, "c": 4}), row(2, features={})]
    )
    (batch,) = rows.arrivals()
    assert list(batch.features) == ["a", "b", "c"]
    np.testing.assert_array_equal(batch.features["a"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(batch.features["c"], [np.nan, 4, np.nan])


BAD = [
    ({}, "`ts`"),
    (row(0, ts="now"), "`ts`"),
    (row(0, ts=True), "`ts`"),
    (row(0, ts=1.7e12), "unix seconds"),
    (row(0, ts=-1), "`ts`"),
    (row(0, ts=float("nan")), "`ts`"),
    (row(0, model="../x"), "`model`"),
    (row(0, model=7), "`model`"),
    (row(0, features=[1, 2]), "`features`"),
    (row(0, features={f"f{i}": 1 for i in range(2001)}), "more than 2000 features"),
    (row(0, status="ok"), "`status`"),
    (row(0, version="a/b"), "`version`"),
    (row(0, id={"a": 1}), "`id`"),
    (row(0, id="x" * 300), "`id`"),
    (row(0, pred=[1]), "class or number"),
    (row(0, variant="a b"), "`variant`"),
    (row(0, tags=["eu"]), "`tags`"),
    (row(0, tags={f"t{i}": 1 for i in range(51)}), "`tags`"),
    (row(0, proba={"a": 2}), "`proba` must be a probability in 0..1, not 2"),
    (row(0, proba=1.01), "`proba` must be a probability in 0..1, not 1.01"),
    (row(0, proba=-0.1), "not -0.1"),
    (row(0, proba=93), "not 93"),
    (row(0, proba="0.5"), "not a text"),
    (row(0, proba=True), "not a truth value"),
    (row(0, proba=float("nan")), "`proba`"),
    (row(0, proba=float("inf")), "`proba`"),
    (row(0, proba={"a": 0.5, "b": 0.3}), "sum to 1, not to 0.8"),
    (row(0, proba={"a": 0.7, "b": 0.5, "c": None}), "sum to 1, not to 1.2"),
    (row(0, latency_ms=-1), "`latency_ms` must be milliseconds, 0 or more, not -1"),
    (row(0, latency_ms="fast"), "`latency_ms`"),
    (row(0, latency_ms=1e12), "`latency_ms`"),
    (row(0, processing_ms=-0.5), "`processing_ms`"),
    (row(0, tokens_in=-1), "`tokens_in` must be a count, not -1"),
    (row(0, tokens_out=[1]), "`tokens_out`"),
    (row(0, ttft_ms=-3), "`ttft_ms`"),
    (row(0, status=-1), "`status`"),
    (row(0, status=1000), "`status`"),
    (row(0, proba={str(i): 0 for i in range(257)}), "257 classes"),
    ({"ts": 1.0, "model": "m"}, "neither"),
    (label(0, id=None), "needs the `id`"),
    (label(0, label=[1]), "class or number"),
    (label(0, ts=None), "`ts`"),
    ("text", "not an object"),
    (None, "not an object"),
    ([row(0)], "not an object"),
]


@pytest.mark.parametrize(("record", "says"), BAD)
def test_a_bad_record_is_refused_whole_and_says_why(record, says):
    rows = Reader("", "auto").records([row(1), record])
    assert rows.bad == 1
    assert rows.first_bad.startswith("record 1: ")
    assert says in rows.first_bad
    assert [i for b in rows.arrivals() for i in b.ids] == ["r1"]


@pytest.mark.parametrize(
    "proba",
    [0, 1, 0.5, None, {}, {"a": 0.333, "b": 0.333, "c": 0.333}, {"a": 0.6, "b": None}, {"a": None}],
)
def test_what_may_be_a_probability_is_taken(proba):
    assert Reader("", "auto").records([row(0, proba=proba)]).bad == 0


def test_what_is_pushed_from_ahead_of_now_is_refused_and_in_a_file_it_is_not_known():
    ahead = row(0, ts=NOW + 61.0)
    pushed = Reader("", "auto").records([row(1, ts=NOW + 59.0), ahead], now=NOW)
    assert pushed.bad == 1
    assert "`ts` is 61 s ahead of now" in pushed.first_bad
    assert Reader("", "auto").lines([json.dumps(ahead).encode()]).bad == 0


def test_every_bad_record_of_a_request_is_told_with_its_reason():
    with pytest.raises(BadRecords, match=r"record 1: .* \(and 29 more of 31 records\)") as said:
        push(
            Predictions("p", Predictions.Config()),
            json.dumps([row(0), *(row(i, proba=2.0) for i in range(1, 31))]).encode(),
        )
    assert len(said.value.reasons) == 20
    assert said.value.reasons[19].startswith("record 20: `proba`")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    ["id", "ts", "model", "version", "features", "pred", "proba", "status", "label", "latency_ms"]
)


@given(st.lists(st.tuples(st.dictionaries(fields, json_values), st.booleans()), max_size=6))
@settings(CALM, max_examples=150)
def test_any_json_is_taken_or_counted_and_columns_always_fit(found):
    records = [{**row(i), **one} if whole else one for i, (one, whole) in enumerate(found)]
    rows = Reader("", "auto").records(records)
    n = 0
    for batch in rows.arrivals():
        if isinstance(batch, LabelBatch):
            assert len(batch.ids) == len(batch.labels) == len(batch.ts)
            continue
        size = len(batch.ids)
        n += size
        columns = [
            batch.ts,
            batch.pred,
            batch.proba,
            batch.latency_s,
            batch.processing_s,
            batch.status,
        ]
        assert all(len(c) == size for c in (*columns, *batch.features.values()))
        for column in batch.features.values():
            assert column.dtype in (np.float64, object)
            if column.dtype == np.float64:
                assert not np.isinf(column).any()
    assert n + rows.bad <= len(records)


def test_only_model_and_features_are_needed_when_it_is_known_when_they_came():
    (batch,) = Reader("", "auto").records([{"model": "m", "features": {"a": 1}}], now=T0).arrivals()
    assert batch.ts.tolist() == [T0]
    assert batch.ids == ("",)
    assert batch.pred.tolist() == [None]
    assert (batch.classes, batch.shares, batch.tags, batch.tokens_in, batch.finish) == (
        (),
        None,
        {},
        None,
        None,
    )


def test_every_variant_has_its_batch_and_tags_are_columns():
    rows = [
        row(0, variant="canary", tags={"region": "eu", "n": 1}),
        row(1),
        row(2, variant="canary"),
    ]
    canary, rest = Reader("", "auto").records(rows).arrivals()
    assert (canary.variant, canary.ids) == ("canary", ("r0", "r2"))
    assert (rest.variant, rest.ids, rest.tags) == ("", ("r1",), {})
    assert canary.tags["region"].tolist() == ["eu", None]
    assert canary.tags["n"].tolist() == ["1", None]


def test_probabilities_by_class():
    said = [{"a": 0.7, "b": 0.3}, {"b": 1, "c": None}, 0.6]
    rows = [
        row(i, pred=p, proba=s) for i, (p, s) in enumerate(zip([None, "b", "a"], said, strict=True))
    ]
    (batch,) = Reader("", "auto").records(rows).arrivals()
    assert batch.classes == ("a", "b", "c")
    assert batch.pred.tolist() == ["a", "b", "a"]
    np.testing.assert_array_equal(batch.proba, [0.7, 1.0, 0.6])
    np.testing.assert_array_equal(
        batch.shares, [[0.7, 0.3, np.nan], [np.nan, 1.0, np.nan], [np.nan] * 3]
    )


def test_what_generators_log():
    rows = [
        row(0, tokens_in=10, tokens_out=200, ttft_ms=120.0, finish_reason="stop"),
        row(1, tokens_in=None),
    ]
    (batch,) = Reader("", "auto").records(rows).arrivals()
    np.testing.assert_array_equal(batch.tokens_in, [10, np.nan])
    np.testing.assert_array_equal(batch.tokens_out, [200, np.nan])
    np.testing.assert_array_equal(batch.ttft_s, [0.12, np.nan])
    assert batch.finish.tolist() == ["stop", None]


def test_records_with_ever_other_features_do_not_fill_the_memory():
    rows = Reader("", "auto").records(
        {"model": "m", "ts": T0, "features": {f"f{i}": 1.0, f"g{i}": 2.0}} for i in range(3000)
    )
    (batch,) = rows.arrivals()
    assert rows.bad == 2000
    assert len(batch.features) == 2000
    wide = {f"f{i}": 1.0 for i in range(2000)}
    rows = Reader("", "auto").records(
        {"model": "m", "ts": T0, "features": wide} for i in range(1010)
    )
    assert rows.bad == 10
    assert "2000000 values at once" in rows.first_bad


def test_what_is_refused_is_not_quoted():
    rows = Reader("", "auto").records(
        [row(0, pred=["Ann Smith"]), row(1, id={"name": "Ann Smith"})]
    )
    assert rows.bad == 2
    assert "Ann" not in rows.first_bad


# ---- files that grow


async def test_a_half_line_waits_for_its_end(make, log):
    one = make()
    assert await one.read() == []  # no file yet
    text = json.dumps(row(0)).encode()
    write(log, text[:30], end=b"")
    assert await ids(one) == []
    write(log, text[30:], end=b"")
    assert await ids(one) == []
    write(log, b"", row(1))
    assert await ids(one) == ["r0", "r1"]


async def test_garbage_is_counted_skipped_and_told_once(make, log):
    garbage = [
        b"garbage",
        b"\x00\xff\xfe\n",
        b"{",
        b"[1]",
        b"",
        b"null",
        b"\x00" * 4096,
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ]
    one = make()
    with structlog.testing.capture_logs() as logs:
        for i in range(3):
            write(log, row(i), *garbage)
            assert await ids(one) == [f"r{i}"]
    assert [entry["event"] for entry in logs] == ["bad_records"]
    assert logs[0]["new"] >= 8
    assert one._bad == 3 * logs[0]["new"]
    assert "garbage" not in str(logs)  # no payload in the log


async def test_a_line_without_end_is_skipped_in_bounded_memory(make, log):
    one = make(backlog=1e12)
    write(log, row(0), b"x" * 5_000_000, row(1))
    with structlog.testing.capture_logs() as logs:
        assert await drain(one) == ["r0", "r1"]
    assert [entry["event"] for entry in logs] == ["bad_records"]
    write(log, b"y" * 3_000_000, end=b"")  # still being written
    assert await drain(one) == []
    write(log, b"y", row(2))
    assert await drain(one) == ["r2"]


async def test_one_read_is_bounded_and_nothing_is_lost(make, log):
    write(log, *(row(i) for i in range(1000)))
    one = make(max_rows_per_read=300)
    sizes = []
    got = []
    while found := await ids(one):
        sizes.append(len(found))
        got += found
    assert max(sizes) <= 300
    assert got == [f"r{i}" for i in range(1000)]


async def test_a_log_seen_for_the_first_time_begins_near_its_end(make, log):
    write(log, *(row(i) for i in range(1000)))
    size = log.stat().st_size
    got = await drain(make(backlog=size / 10))
    assert 90 < len(got) <= 101
    assert got == [f"r{i}" for i in range(1000 - len(got), 1000)]  # whole lines only


async def test_a_backlog_that_begins_exactly_at_a_line_takes_that_line(make, log):
    write(log, row(0), row(1))
    last = len(json.dumps(row(1))) + 1
    assert await drain(make(backlog=last)) == ["r1"]


async def test_a_label_may_leave_its_model_open_a_prediction_may_not(make, log):
    write(log, label(0, model=None), row(1, model=None), row(2, model=None, label=1))
    one = make(labels=None)
    (labels,) = await one.read()
    assert (labels.model, labels.ids, labels.labels) == ("", ("r0",), ("1",))
    assert one._bad == 2


async def test_labels_wait_until_their_predictions_are_read(make, log, tmp_path):
    write(log, *(row(i) for i in range(500)))
    write(tmp_path / "labels.jsonl", *(label(i) for i in range(500)))
    one = make(max_rows_per_read=200)
    known: set[str] = set()
    labelled = 0
    for _ in range(10):
        for batch in await one.read():
            if isinstance(batch, PredictionBatch):
                known.update(batch.ids)
            else:
                assert set(batch.ids) <= known
                labelled += len(batch.ids)
    assert labelled == 500


async def test_labels_are_not_starved_by_a_log_that_is_always_ahead(make, log, tmp_path):
    write(tmp_path / "labels.jsonl", label(0))
    one = make(max_rows_per_read=10)
    for i in range(40):
        write(log, *(row(20 * i + j) for j in range(20)))
        if any(isinstance(b, LabelBatch) for b in await one.read()):
            return
    pytest.fail("no label in 40 readings")


async def test_rotation_by_rename_loses_nothing(make, log):
    one = make()
    write(log, row(0))
    assert await ids(one) == ["r0"]
    write(log, row(1))
    log.rename(log.with_suffix(".jsonl.1"))
    write(log.with_suffix(".jsonl.1"), row(2))  # a worker that has not reopened yet
    write(log, row(3))
    assert await drain(one) == ["r1", "r2", "r3"]


async def test_rotation_while_we_were_away_loses_nothing(make, log):
    write(log, row(0))
    one = make()
    await drain(one)
    one.close()
    write(log, row(1))
    log.rename(log.with_suffix(".jsonl.1"))
    write(log, row(2))
    assert await drain(make()) == ["r1", "r2"]


async def test_a_rotated_file_that_is_gone_costs_only_itself(make, log):
    write(log, row(0))
    one = make()
    await drain(one)
    one.close()
    log.unlink()
    write(log, row(5))
    assert await drain(make()) == ["r5"]


async def test_truncation_in_place_begins_anew(make, log):
    one = make()
    write(log, row(0), row(1))
    assert await ids(one) == ["r0", "r1"]
    os.truncate(log, 0)  # copytruncate
    write(log, row(2))
    assert await drain(one) == ["r2"]


async def test_a_file_rewritten_longer_than_before_begins_anew(make, log):
    one = make()
    write(log, row(0))
    assert await ids(one) == ["r0"]
    log.write_bytes(b"")
    write(log, row(10), row(11), row(12))
    assert await drain(one) == ["r10", "r11", "r12"]


async def test_a_half_line_at_the_end_of_a_rotated_file_is_its_last_line(make, log):
    one = make()
    write(log, row(0))
    await ids(one)
    write(log, json.dumps(row(1)).encode(), end=b"")
    log.rename(log.with_suffix(".jsonl.1"))
    write(log, row(2))
    assert await drain(one) == ["r1", "r2"]


async def test_a_pattern_follows_one_file_a_worker(make, tmp_path):
    one = make(path=tmp_path / "worker-*.jsonl", labels=None)
    write(tmp_path / "worker-1.jsonl", row(1))
    write(tmp_path / "worker-2.jsonl", row(2))
    (tmp_path / "other.jsonl").write_text("{}")
    assert sorted(await drain(one)) == ["r1", "r2"]
    write(tmp_path / "worker-3.jsonl", row(3))
    write(tmp_path / "worker-1.jsonl", row(4))
    assert sorted(await drain(one)) == ["r3", "r4"]


async def test_what_is_no_file_is_said(make, log):
    os.mkfifo(log)
    with pytest.raises(Refused, match="no regular file"):
        await make().read()
    log.unlink()
    log.mkdir()
    with pytest.raises(Refused, match="no regular file"):
        await make().read()


async def test_a_read_that_nobody_waited_for_is_read_again(make, log):
    one = make()
    write(log, row(0))
    task = asyncio.create_task(one.read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await drain(one) == ["r0"]


async def test_a_mount_that_hangs_is_said_and_nothing_is_lost(make, log, monkeypatch):
    monkeypatch.setattr("connectors.predictions._PATIENCE_S", 0.2)
    one = make()
    one._aside.limit_s = 0.2
    write(log, row(0))
    hangs = {"on": True}
    paths = one._paths

    def hang(pattern):
        while hangs["on"]:
            time.sleep(0.02)
        return paths(pattern)

    monkeypatch.setattr(one, "_paths", hang)
    with pytest.raises(Unavailable, match="mount hangs"):
        await one.read()
    hangs["on"] = False
    await asyncio.sleep(0.1)
    assert await drain(one) == ["r0"]


# ---- restarts


async def test_a_clean_restart_goes_on_exactly_there(make, log):
    one = make()
    write(log, *(row(i) for i in range(10)))
    assert len(await drain(one)) == 10
    one.close()
    write(log, row(10))
    assert await drain(make()) == ["r10"]


READER = textwrap.dedent(
    """
    import asyncio, json, sys
    from pathlib import Path
    import connectors.predictions as module
    module._KEEP_EVERY_S = module._MARK_EVERY_S = 0.05
    config = module.Predictions.Config(path=Path(sys.argv[1]), again=float(sys.argv[3]))
    one = module.Predictions("predictions", config, state=Path(sys.argv[2]))
    async def main():
        while True:
            for batch in await one.read():
                print(json.dumps(list(batch.ids)), flush=True)
            await asyncio.sleep(0.01)
    asyncio.run(main())
    """
)


async def test_a_daemon_that_is_killed_delivers_everything_again_or_once(tmp_path, log):
    """kill -9 of the reader, five times, while rows come: none is lost; what comes twice is the recent past."""
    delivered: list[str] = []
    written = 0
    for i in range(5):
        reader = subprocess.Popen(  # noqa: ASYNC220  # it is killed; nothing waits for it
            [sys.executable, "-c", READER, str(log), str(tmp_path / "state"), "0.3"],
            stdout=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 1.2 + 0.1 * i
        while time.monotonic() < until:
            write(log, *(row(written + j) for j in range(5)))
            written += 5
            await asyncio.sleep(0.01)
        reader.kill()
        for line in reader.stdout.read().splitlines():
            try:
                delivered += json.loads(line)
            except ValueError:
                continue  # the kill cut it off: nobody got it
        reader.wait()
        reader.stdout.close()
    last = Predictions("predictions", Predictions.Config(path=log), state=tmp_path / "state")
    delivered += await drain(last)
    last.close()
    assert set(delivered) == {f"r{i}" for i in range(written)}
    assert len(delivered) < 5 * written  # it does not begin at the start each time


WRITER = textwrap.dedent(
    """
    import json, os, sys, time
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    print("ready", flush=True)
    i = 0
    while True:
        row = {"id": f"w{sys.argv[2]}-{i}", "ts": 1.0, "model": "m", "features": {"x": i}}
        os.write(log, json.dumps(row).encode() + b"\\n")
        i += 1
        time.sleep(0.0002)
    """
)


async def test_writers_at_once_that_are_killed_leave_whole_lines(make, log):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(log), str(n)], stdout=subprocess.PIPE)  # noqa: ASYNC220  # as above
        for n in range(2)
    ]
    one = make(backlog=1e12, labels=None)
    got = []
    try:
        for writer in writers:
            writer.stdout.readline()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            with contextlib.suppress(
                Unavailable
            ):  # a busy machine: it is asked again, and loses nothing
                got += await ids(one)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
    got += await drain(one)
    lines = log.read_bytes().count(b"\n")
    assert len(got) == len(set(got)) == lines - one._bad
    assert one._bad <= 2
    assert lines > 100


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"clean": true}', '{"clean": true, "now": {"x": {"inode": "y"}}}']
)
async def test_damaged_positions_begin_as_at_first_sight(make, log, tmp_path, damage):
    write(log, row(0))
    kept = tmp_path / "state" / "feeds" / "predictions.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(damage)
    assert await drain(make()) == ["r0"]


async def test_positions_that_cannot_be_kept_do_not_stop_the_reading(make, log, tmp_path):
    (tmp_path / "state").write_text("in the way")
    one = make()
    with structlog.testing.capture_logs() as logs:
        for i in range(3):
            write(log, row(i))
            assert await ids(one) == [f"r{i}"]
    assert {entry["event"] for entry in logs} <= {"positions_not_kept"}


class Story:
    """A log that grows, is rotated and truncated, beside a tail that reads it and is restarted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tail, self.where = Tail(path), None
        self.written = self.turns = self.cuts = 0
        self.got: list[int] = []
        self.lost: set[int] = set()
        self.pending = b""

    def finish(self) -> None:
        """Write the second half of a half line."""
        if self.pending:
            write(self.path, self.pending[len(self.pending) // 2 :], end=b"")
            self.pending = b""

    def write(self, n: int) -> None:
        self.finish()
        for _ in range(n):
            write(self.path, b"%d" % self.written)
            self.written += 1

    def half(self, _: int) -> None:
        if not self.pending:
            self.pending = b"%d\n" % self.written
            self.written += 1
            write(self.path, self.pending[: len(self.pending) // 2], end=b"")

    def rotate(self, _: int) -> None:
        if self.path.exists():
            self.finish()
            if self.where is None:  # what had gone before we first looked is not searched for
                self.lost |= {int(x) for x in self.path.read_bytes().split()}
            self.turns += 1
            self.path.rename(self.path.with_name(f"log.{self.turns}"))

    def truncate(self, _: int) -> None:
        if self.path.exists():
            self.finish()
            self.cuts += 1
            self.lost |= {int(x) for x in self.path.read_bytes().split()}
            os.truncate(self.path, 0)

    def read(self, n: int) -> None:
        lines, self.where = self.tail.read(self.where, n, backlog_bytes=10**9)
        self.got += [int(x) for x in lines]

    def restart(self, _: int) -> None:
        self.tail.close()
        self.tail = Tail(self.path)
        self.where = unpack(self.where.pack()) if self.where else None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "half", "rotate", "truncate", "read", "restart"]),
            st.integers(1, 5),
        ),
        max_size=25,
    )
)
@settings(CALM, max_examples=80)
def test_whatever_happens_to_the_file_lines_come_once_in_order(tmp_path_factory, acts):
    """Rotation and restarts lose nothing, truncation only what it cut."""
    story = Story(tmp_path_factory.mktemp("tail") / "log")
    for what, n in acts:
        getattr(story, what)(n)
    story.finish()
    for _ in range(4 + 2 * story.turns + story.written):
        story.read(100)
    story.tail.close()
    assert story.got == sorted(set(story.got))
    # two rotations between two readings hide the file between them, and so does truncation and then rotation
    if story.turns == 0 or (story.turns == 1 and story.cuts == 0):
        assert set(range(story.written)) - set(story.got) <= story.lost


# ---- pushed


NOW = T0 + 5000.0


def push(one: Predictions, body: bytes, kind: str = "application/json", model: str = ""):
    inlet = one.inlets()[0]
    assert inlet.path == "/ingest/predictions"
    query = {"model": model} if model else {}
    pushed = Pushed(body, {"content-type": kind}, query, NOW, lambda _: (), lambda _: None)
    return inlet.take(pushed).arrivals


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (json.dumps(row(0)), "application/json"),
        (json.dumps([row(0)]), "application/json; charset=utf-8"),
        (json.dumps(row(0)) + "\n", "application/x-ndjson"),
        ("\n" + json.dumps(row(0)) + "\n\n", "application/jsonl"),
        (json.dumps(row(0), indent=2), ""),
    ],
)
def test_objects_arrays_and_lines_are_taken(make, body, kind):
    (batch,) = push(make(), body.encode(), kind)
    assert batch.ids == ("r0",)
    assert batch.features["age"].tolist() == [40.0]


def test_lines_are_known_without_their_content_type(make):
    body = "\n".join(json.dumps(r) for r in (row(0), row(1), label(0)))
    predictions, labels = push(make(), body.encode())
    assert predictions.ids == ("r0", "r1")
    assert labels.ids == ("r0",)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "nested too deep|not JSON"),
        (b"7", "record 0: not an object"),
        (json.dumps([row(0), row(1, ts="now")]).encode(), "record 1: `ts`"),
        (json.dumps(row(0)).encode() + b"\n{\n", "record 1: not JSON"),
        (json.dumps([row(0)] * 20_001).encode(), "20001 records at once"),
    ],
)
def test_malformed_bodies_are_refused_with_the_first_bad_record(make, body, says):
    with pytest.raises(Refused, match=says):
        push(make(), body)


def test_an_empty_body_is_nothing(make):
    assert list(push(make(), b"  \n")) == []
    assert list(push(make(), b"[]")) == []


def test_the_model_of_config_stands_in(make):
    nameless = {k: v for k, v in row(0).items() if k != "model"}
    (batch,) = push(make(model="fraud"), json.dumps(nameless).encode())
    assert batch.model == "fraud"
    with pytest.raises(Refused, match="`model`"):
        push(make(), json.dumps(nameless).encode())


def test_the_address_may_name_the_model_and_arrival_is_the_time(make):
    one = make()
    (labels,) = push(one, b'{"id": "r0", "label": 1}', model="fraud")
    assert (labels.model, labels.ids, labels.ts.tolist()) == ("fraud", ("r0",), [NOW])


@given(st.binary(max_size=200), st.sampled_from(["application/json", "application/x-ndjson", ""]))
@settings(CALM, max_examples=150)
def test_any_body_is_taken_or_refused(body, kind):
    one = Predictions("predictions", Predictions.Config())
    try:
        list(push(one, body, kind))
    except Refused:
        pass
    finally:
        one._aside.close()


# ---- the rest


async def test_it_is_fast_enough(make, log):
    """30,000 rows a second on an idle core; a busy machine gets room."""
    rng = random.Random(1)
    write(
        log, *(row(i, features={f"f{j}": rng.gauss(0, 1) for j in range(8)}) for i in range(10_000))
    )
    reader = Reader("", "auto")
    lines = log.read_bytes().splitlines()
    best = min(_cpu_of(lambda: reader.lines(lines).arrivals()) for _ in range(3))
    assert len(lines) / best > 15_000


def _cpu_of(work) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


async def test_describe_moves_no_position(make, log):
    write(log, row(0), b"garbage")
    one = make()
    lines = await one.describe()
    assert (
        "last 2 lines hold 1 prediction of model:fraud version 3 with 2 features, 1 bad record ("
        in lines[0]
    )
    assert "not there yet" in lines[1]
    assert await drain(one) == ["r0"]


async def test_without_files_it_only_listens(tmp_path):
    one = Predictions("predictions", Predictions.Config(), state=tmp_path)
    assert await one.read() == ()
    assert [inlet.path for inlet in one.inlets()] == [
        "/ingest/predictions",
        "/ingest/sketches",
        "/v1/logs",
    ]
    one.close()


@pytest.mark.parametrize(
    "config", [{"model": "../x"}, {"task": "guess"}, {"max_rows_per_read": 0}, {"file": "x"}]
)
def test_config_is_strict(config):
    with pytest.raises(ValidationError):
        Predictions.Config(**config)


def test_trace_ids_come_along_and_what_is_none_is_left_out():
    rows = Rows("auto")
    for trace in ("4bf92f3577b34da6a3ce929d0e0e4736", None, "\x1b[31mred", 7, "x" * 65, "req-1:2"):
        rows.take({"ts": 1.0, "pred": "1", "trace_id": trace}, "fraud")
    (batch,) = rows.arrivals()
    assert rows.bad == 0
    assert batch.traces == ("4bf92f3577b34da6a3ce929d0e0e4736", "", "", "", "", "req-1:2")
    rows = Rows("auto")
    rows.take({"ts": 1.0, "pred": "1"}, "fraud")
    assert rows.arrivals()[0].traces == ()


# ---- CSV that grows


async def test_a_csv_that_grows_is_read_by_its_first_line(tmp_path, make):
    path = tmp_path / "log.csv"
    path.write_bytes(
        b"id,ts,version,pred,proba,age,features.country,tags.region\r\nr1,1764000001,3,0,0.9,41,DE,eu\r\nr2,17"
    )
    feed = make(path=path, model="fraud")
    (batch,) = await feed.read()
    assert (batch.model, batch.version, len(batch.ts)) == ("fraud", "3", 1)
    with path.open("ab") as log:
        log.write(
            b'64000002,3,1,0.8,,"FR, south",eu\r\nr3,broken\r\nr4,1764000004,3,0,0.7,44,IT,eu\r\n'
        )
    with structlog.testing.capture_logs() as logs:
        (batch,) = await feed.read()
    assert batch.ts.tolist() == [1764000002.0, 1764000004.0]
    assert set(batch.features) == {"age", "country"}
    assert list(batch.features["country"]) == ["FR, south", "IT"]
    assert [math.isnan(x) for x in batch.features["age"]] == [True, False]
    assert [(entry["event"], entry["new"]) for entry in logs] == [("bad_records", 1)]
    assert not await feed.read()


async def test_a_csv_that_is_rotated_names_its_columns_anew(tmp_path, make):
    path = tmp_path / "log.csv"
    path.write_bytes(b"id,ts,version,pred,age\nr1,1764000001,3,0,41\n")
    feed = make(path=path, model="fraud")
    assert len((await feed.read())[0].ts) == 1
    path.rename(tmp_path / "log.csv.1")
    path.write_bytes(b"ts,id,age,pred,version\n1764000002,r2,42,1,4\n")
    found = [batch for _ in range(4) for batch in await feed.read()]
    assert [(batch.version, batch.ts.tolist()) for batch in found] == [("4", [1764000002.0])]
