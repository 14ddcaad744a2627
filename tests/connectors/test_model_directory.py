"""The model directory: pointer, lock, damage, restarts, concurrent writers and a writer that is killed."""

import asyncio
import fcntl
import json
import math
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import Refused, Unavailable
from agent.model import Edge, Entity
from agent.ports import Source
from connectors.model_directory import ModelDirectory, _champion_of

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Test machines are busy."""

FRAUD = Entity("model", "fraud")


def version(root: Path, name: str, model: str = "fraud", **more) -> None:
    folder = root / model / name
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "version": name,
        "role": "candidate",
        "features": ["age"],
        "trained_at": time.time() - 100,
    }
    (folder / "metadata.json").write_text(json.dumps(about | more))


def point(root: Path, to: str, previous=(), model: str = "fraud", **more) -> None:
    value = {
        "version": to,
        "previous": list(previous),
        "changed": time.time(),
        "by": "alice",
    } | more
    fresh = root / model / ".champion.new"
    fresh.write_text(json.dumps(value))
    fresh.replace(root / model / "champion.json")


def pointer(root: Path) -> dict:
    return json.loads((root / "fraud" / "champion.json").read_text())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name in ("1", "2", "3", "10"):
        version(folder, name, trained_at=1000.0)
    point(folder, "3", ["2", "1"])
    return folder


@pytest.fixture
def make(root, tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.model_directory._PATIENCE_S", 20.0)  # test machines are busy
    made = []

    def one(**more) -> ModelDirectory:
        config = ModelDirectory.Config(path=root, lock_wait=0.3, **more)
        made.append(ModelDirectory("models", config, state=tmp_path / "state"))
        return made[-1]

    yield one
    for each in made:
        each._aside.close()


async def look(one: ModelDirectory):
    frame = await one.poll()
    values = {(s.metric, s.entity.key): v for s, v in zip(frame.series, frame.values, strict=True)}
    return frame, values


# ---- source


async def test_what_is_there_is_seen_once(root, make):
    version(root, "b", role="backup", accuracy=0.9, trained_at=time.time() - 50)
    point(root, "b", ["3"])
    (root / "fraud" / "notes").mkdir()
    (root / "not a model").mkdir()
    one = make()
    assert isinstance(one, Source)
    frame, values = await look(one)
    assert frame.source == "models"
    assert 49 < values["model.age_seconds", "fraud"] < 60
    assert values["model.retraining_held", "fraud"] == 0.0
    seen = {s.entity: s for s in frame.seen}
    assert set(seen) == {FRAUD} | {
        Entity("version", f"fraud/{v}") for v in ("1", "2", "3", "10", "b")
    }
    assert dict(seen[FRAUD].attrs)["version"] == "b"
    backup = seen[Entity("version", "fraud/b")]
    assert dict(backup.attrs)["role"] == "backup"
    assert dict(backup.attrs)["accuracy"] == "0.9000"
    assert backup.edges == (Edge("version_of", Entity("version", "fraud/b"), FRAUD),)
    assert frame.changes == ()
    second, _ = await look(one)
    assert second.seen == ()
    assert second.series is frame.series


async def test_a_version_that_goes_is_told_and_the_model_stays(root, make):
    one = make()
    await one.poll()
    (root / "fraud" / "10" / "metadata.json").unlink()
    (root / "fraud" / "10").rmdir()
    frame, _ = await look(one)
    assert [(s.entity.key, s.gone) for s in frame.seen] == [("fraud/10", True)]
    (root / "fraud" / "champion.json").unlink()
    frame, values = await look(one)
    assert frame.seen == ()
    assert math.isnan(values["model.age_seconds", "fraud"])


async def test_a_hold_is_seen(root, make):
    (root / "fraud" / "RETRAINING_HELD").write_text("")
    one = make()
    _, values = await look(one)
    assert values["model.retraining_held", "fraud"] == 1.0
    assert (await one.retraining_held("fraud")).reason == "no reason given"


async def test_only_the_named_models_are_watched(root, make):
    version(root, "1", model="other")
    point(root, "1", model="other")
    _, values = await look(make(models=["other"]))
    assert {key for _, key in values} == {"other"}
    _, values = await look(make())
    assert {key for _, key in values} == {"fraud", "other"}


async def test_a_release_is_a_change_with_its_time_and_author(root, make):
    one = make()
    await one.poll()
    point(root, "10", ["3", "2"], changed=1234.5, by="pipeline")
    frame, _ = await look(one)
    (change,) = frame.changes
    assert (change.ts, change.entity, change.kind) == (1234.5, FRAUD, "release")
    assert (change.before, change.after, change.by) == ("3", "10", "pipeline")
    assert not change.ours
    assert (await look(one))[0].changes == ()


async def test_our_own_act_is_a_change_that_is_ours(make):
    one = make()
    await one.poll()
    await one.promote("fraud", "2", "3", "homeostat:run-1")
    (change,) = (await look(one))[0].changes
    assert change.ours
    assert (change.before, change.after) == ("3", "2")


async def test_a_restart_tells_what_moved_meanwhile_and_nothing_twice(root, make):
    one = make()
    await one.poll()
    one.close()
    assert (await look(make()))[0].changes == ()
    point(root, "2", ["1"], changed=777.0, by="bob")
    again = make()
    (change,) = (await look(again))[0].changes
    assert (change.ts, change.before, change.after, change.by) == (777.0, "3", "2", "bob")
    await again.poll()  # the frame was taken: now it is remembered
    assert (await look(make()))[0].changes == ()


async def test_a_kill_before_the_frame_was_taken_tells_it_again(root, make):
    one = make()
    await one.poll()
    await one.poll()
    point(root, "2", ["1"], changed=777.0)
    assert len((await look(one))[0].changes) == 1
    # killed here: nothing of that frame was kept
    assert [c.ts for c in (await look(make()))[0].changes] == [777.0]


async def test_a_frame_that_nobody_waited_for_is_told_again(root, make):
    one = make()
    await one.poll()
    point(root, "2", ["1"])
    task = asyncio.create_task(one.poll())
    await asyncio.sleep(0)
    task.cancel()  # as the collector does with a source that takes too long
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await look(one))[0].changes) == 1


@pytest.mark.parametrize("changed", [0, -5, None, "yesterday", math.inf, 1e12, True])
async def test_a_pointer_that_lies_about_its_time_changed_at_the_latest_now(root, make, changed):
    one = make()
    await one.poll()
    point(root, "2", changed=changed)
    (change,) = (await look(one))[0].changes
    assert 0 < change.ts <= time.time()


# ---- damage


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"\x00\xff\xfe", b"[]", b"null", b'{"previous": []}', b'{"version": null}', b'{"version": ""}',
     b'{"version": "../../etc"}', b'{"version": "3", "previous": "2"}', b'{"version": "3", "previous": [null]}',
     b'{"version": true}', b"9" * 5000],
)  # fmt: skip
async def test_a_damaged_pointer_is_said_with_file_and_remedy_and_hides_nobody(root, make, garbage):
    version(root, "1", model="other")
    point(root, "1", model="other")
    one = make()
    await one.poll()
    (root / "fraud" / "champion.json").write_bytes(garbage)
    with structlog.testing.capture_logs() as logs:
        frame, values = await look(one)
        await one.poll()
    assert math.isnan(values["model.age_seconds", "fraud"])
    assert values["model.age_seconds", "other"] > 0
    assert frame.seen == ()  # what we know of it is not forgotten
    assert frame.changes == ()
    assert [entry["event"] for entry in logs] == ["model_unreadable"]  # once, not each second
    with pytest.raises(Unavailable, match=r"champion\.json is damaged .*write \{") as said:
        await one.champion("fraud")
    assert str(root / "fraud" / "champion.json") in str(said.value)
    with pytest.raises(Unavailable):
        await one.promote("fraud", "2", "3", "homeostat:run-1")
    assert (root / "fraud" / "champion.json").read_bytes() == garbage
    point(root, "3", ["2"])
    with structlog.testing.capture_logs() as logs:
        _, values = await look(one)
    assert values["model.age_seconds", "fraud"] > 0
    assert [entry["event"] for entry in logs] == ["model_readable"]


@given(st.dictionaries(st.sampled_from(["version", "previous", "changed", "by", "x"]),
                       st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                                    lambda inner: st.lists(inner, max_size=3), max_leaves=4)))  # fmt: skip
@settings(CALM, max_examples=150)
def test_any_pointer_is_either_understood_or_called_damaged(data):
    try:
        champion = _champion_of(data)
    except (ValueError, KeyError, TypeError):
        return
    assert champion.version
    assert "/" not in champion.version
    assert all("/" not in one for one in champion.previous)


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"version": "4"}', b'{"features": "age"}', b'{"version": "../x"}']
)
async def test_a_version_whose_metadata_is_damaged_is_no_candidate(root, make, damage):
    (root / "fraud" / "2" / "metadata.json").write_bytes(damage)
    one = make()
    with structlog.testing.capture_logs() as logs:
        assert [v.version for v in await one.versions("fraud")] == ["1", "3", "10"]
        await one.versions("fraud")
    assert [entry["event"] for entry in logs] == ["version_unreadable"]
    with pytest.raises(Refused, match="no version 2"):
        await one.promote("fraud", "2", "3", "x")


async def test_a_folder_that_is_not_there_is_refused(tmp_path):
    one = ModelDirectory("models", ModelDirectory.Config(path=tmp_path / "none"))
    with pytest.raises(Refused, match="there is no folder"):
        await one.poll()
    with pytest.raises(Refused, match="no model fraud"):
        await one.champion("fraud")
    one.close()


@pytest.mark.parametrize("name", ["../fraud", "fraud/3", "", ".", "..", "a b"])
async def test_names_never_leave_the_folder(make, name):
    one = make()
    with pytest.raises(Refused):
        await one.champion(name)
    with pytest.raises(Refused):
        await one.promote("fraud", name, "3", "x")
    assert one.reference(name, "3") is None
    assert one.reference("fraud", name) is None


async def test_a_folder_that_hangs_makes_the_source_blind_not_the_daemon(make, monkeypatch):
    one = make()
    await one.poll()
    monkeypatch.setattr("connectors.model_directory._PATIENCE_S", 0.2)
    one._aside.limit_s = 0.2
    names = one._names
    hangs = {"on": True}

    def hang() -> list[str]:
        while hangs["on"]:
            time.sleep(0.02)
        return names()

    monkeypatch.setattr(one, "_names", hang)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        await one.poll()
    assert time.monotonic() - start < 1.5
    hangs["on"] = False
    await asyncio.sleep(0.1)
    await one.poll()


# ---- compare-and-set


async def test_promote_and_roll_back_are_a_stack(root, make):
    one = make()
    await one.promote("fraud", "10", "3", "a")
    assert pointer(root)["previous"] == ["3", "2", "1"]
    await one.promote("fraud", "2", "10", "b")
    assert pointer(root)["previous"] == ["1"]
    await one.promote("fraud", "10", "2", "c")
    assert (pointer(root)["version"], pointer(root)["previous"]) == ("10", ["3", "2", "1"])
    assert pointer(root)["by"] == "c"
    assert time.time() - pointer(root)["changed"] < 60


async def test_putting_back_restores_the_champions_between_unless_somebody_wrote_the_pointer(
    root, make
):
    one = make()
    await one.promote("fraud", "1", "3", "a")  # over 2
    assert (pointer(root)["version"], pointer(root)["previous"]) == ("1", [])
    await one.promote("fraud", "3", "1", "a")
    assert (pointer(root)["version"], pointer(root)["previous"]) == ("3", ["2", "1"])
    await one.promote("fraud", "1", "3", "a")
    point(root, "1")  # by hand: what it took the place of is not known any more
    await one.promote("fraud", "3", "1", "a")
    assert pointer(root)["version"] == "3"
    assert pointer(root)["previous"] == ["1"]


async def test_what_others_set_is_not_overwritten(root, make):
    one = make()
    point(root, "2")
    with pytest.raises(Refused, match=r"is 2, set by alice, not 3"):
        await one.promote("fraud", "1", "3", "x")
    assert pointer(root)["version"] == "2"


async def test_of_many_at_once_exactly_one_wins(root, make):
    many = [make() for _ in range(8)]
    results = await asyncio.gather(
        *(one.promote("fraud", "2", "3", f"w{i}") for i, one in enumerate(many)),
        return_exceptions=True,
    )
    won = [i for i, r in enumerate(results) if r is None]
    assert len(won) == 1
    assert all(isinstance(r, Refused) for i, r in enumerate(results) if i not in won)
    assert pointer(root)["by"] == f"w{won[0]}"


async def test_the_pointer_keeps_its_rights_and_leaves_no_litter(root, make):
    path = root / "fraud" / "champion.json"
    path.chmod(0o640)
    await make().promote("fraud", "2", "3", "x")
    assert path.stat().st_mode & 0o777 == 0o640
    assert not [p.name for p in path.parent.iterdir() if p.name.startswith(".champion")]


async def test_a_lock_that_a_living_process_holds_is_waited_for_and_then_said(root, make):
    with (root / "fraud" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"somebody has held .*\.lock") as said:
            await make().promote("fraud", "2", "3", "x")
        assert said.value.wait_s
        task = asyncio.create_task(make().promote("fraud", "2", "3", "x"))
        await asyncio.sleep(0.1)
        fcntl.flock(lock, fcntl.LOCK_UN)
        await task
    assert pointer(root)["version"] == "2"


HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(60)
"""


async def test_a_lock_of_a_process_that_was_killed_holds_nobody_up(root, make):
    holder = subprocess.Popen(  # noqa: ASYNC220  # started and killed; nothing waits for it in between
        [sys.executable, "-c", HOLDER, str(root / "fraud" / ".lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline().strip() == "ready"
    with pytest.raises(Unavailable):
        await make().promote("fraud", "2", "3", "x")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    await make().promote("fraud", "2", "3", "x")
    assert pointer(root)["version"] == "2"


WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from agent.errors import Refused
    from connectors.model_directory import ModelDirectory
    one = ModelDirectory("w", ModelDirectory.Config(path=Path(sys.argv[1])))
    async def main():
        print("ready", flush=True)
        while True:
            now = (await one.champion("fraud")).version
            try:
                await one.promote("fraud", "2" if now == "3" else "3", now, "writer")
            except Refused:
                pass
    asyncio.run(main())
    """
)


async def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_pointer(root, make):
    reader = make()
    moves = 0
    for i in range(5):
        writer = subprocess.Popen(  # noqa: ASYNC220  # started and killed; nothing waits for it in between
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout.readline().strip() == "ready"
        before = (await reader.champion("fraud")).changed
        until = time.monotonic() + 0.2 + 0.037 * i
        while time.monotonic() < until:
            assert (await reader.champion("fraud")).version in {"2", "3"}  # never torn
        writer.kill()
        writer.wait()
        writer.stdout.close()
        champion = await reader.champion("fraud")
        moves += champion.changed > before
        await reader.promote("fraud", "1", champion.version, "reader")  # its lock is free
        await reader.promote("fraud", "3", "1", "reader")
    assert moves


async def test_a_disk_that_is_full_or_read_only_changes_nothing(root, make, monkeypatch):
    one = make()
    real = os.fsync

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        await one.promote("fraud", "2", "3", "x")
    monkeypatch.setattr(os, "fsync", real)
    assert pointer(root)["version"] == "3"
    assert not list((root / "fraud").glob(".champion*"))


# ---- holds and references


async def test_a_hold_that_is_there_stays_and_only_its_owner_releases_it(root, make):
    one = make()
    await one.hold_retraining("fraud", "unit\nchanged", "homeostat:1")
    await one.hold_retraining("fraud", "other", "homeostat:2")
    hold = await one.retraining_held("fraud")
    assert (hold.reason, hold.by) == ("unit changed", "homeostat:1")
    with pytest.raises(Refused, match="held by homeostat:1"):
        await one.release_retraining("fraud", "homeostat:2")
    await one.release_retraining("fraud", "homeostat:1")
    await one.release_retraining("fraud", "homeostat:1")
    assert await one.retraining_held("fraud") is None


def test_a_reference_is_read_again_when_it_changes(root, make):
    one = make()
    path = root / "fraud" / "3" / "reference.json"
    assert one.reference("fraud", "3") is None
    path.write_text('{"rows": 1}')
    first = one.reference("fraud", "3")
    assert first == {"rows": 1}
    assert one.reference("fraud", "3") is first
    path.write_text('{"rows": 22}')
    assert one.reference("fraud", "3") == {"rows": 22}
    path.write_text("{")
    with structlog.testing.capture_logs() as logs:
        assert one.reference("fraud", "3") is None
        assert one.reference("fraud", "3") is None
    assert [entry["event"] for entry in logs] == ["reference_unreadable"]
    assert one.reference("nobody", "3") is None


async def test_describe_says_what_is_there(root, make):
    (root / "fraud" / "RETRAINING_HELD").write_text("audit\n")
    lines = await make().describe()
    assert "model:fraud: version 3 answers" in lines[0]
    assert "retraining is held: audit" in lines[0]
    assert "may move champions" in lines[-1]
