"""Personal features: dropped or hashed before anything sees them; the key stays the same for an installation."""

import stat

import pytest

from agent.errors import AgentError, Refused
from connectors._personal import Personal, key_of
from connectors._records import Reader
from connectors.predictions import Predictions

ROW = {
    "ts": 1.0, "model": "m", "pred": "1",
    "features": {"name": "Ann", "age": 41, "home.zip": 10115, "home.street": "A 1"},
    "tags": {"name": "Ann", "region": "eu"},
}  # fmt: skip


def test_they_are_dropped_and_hashed_by_name_and_glob():
    personal = Personal(["home.street", "nam*"], ["home.*"], lambda: b"k" * 32)
    rows = [ROW, {**ROW, "features": {"age": 1, "home.zip": None}}, ROW]
    (batch,) = Reader("", "auto", personal).records(rows).arrivals()
    assert list(batch.features) == ["age", "home.zip"]
    zips = batch.features["home.zip"].tolist()
    assert zips == [personal.hashed("10115"), None, personal.hashed("10115")]
    assert len(zips[0]) == 16
    assert list(batch.tags) == ["region"]
    assert "Ann" not in repr(batch)


def test_hashes_depend_on_the_key_and_on_nothing_else():
    one, two = (Personal([], ["*"], lambda k=k: k * 32) for k in (b"a", b"b"))
    assert one.hashed("x") == Personal([], ["*"], lambda: b"a" * 32).hashed("x")
    assert one.hashed("x") != two.hashed("x")
    assert one.hashed("x") != one.hashed("y")


def test_the_key_is_made_once_and_is_ours_alone(tmp_path):
    path = tmp_path / "feeds" / "predictions.key"
    key = key_of("", path)
    assert len(key) == 32
    assert key_of("", path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(Refused, match="damaged"):
        key_of("", path)


def test_hosts_that_must_agree_are_given_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HASH_KEY", "a long enough secret")
    assert key_of("env:HASH_KEY", tmp_path / "a") == key_of("env:HASH_KEY", tmp_path / "b")
    assert not (tmp_path / "a").exists()
    monkeypatch.setenv("HASH_KEY", "short")
    with pytest.raises(Refused, match="shorter than 16"):
        key_of("env:HASH_KEY", None)
    with pytest.raises(AgentError):
        key_of("env:NOT_THERE_AT_ALL", None)


def test_a_connector_hashes_the_same_after_a_restart(tmp_path):
    seen = set()
    for _ in range(2):
        one = Predictions("predictions", Predictions.Config(hash=["name"]), state=tmp_path)
        (batch,) = one._reader.records([ROW]).arrivals()
        seen.add(batch.features["name"][0])
        one.close()
    assert len(seen) == 1
    assert "Ann" not in seen
