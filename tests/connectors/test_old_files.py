"""Real files: which are taken, that they come back, and what is never touched."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.errors import Refused
from agent.ports import Step, Undo
from connectors.old_files import OldFiles
from playbooks.actions.files import Prune, Pruner, Quarantine


def write(path: Path, days: float, size: int = 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = time.time() - days * 86400
    os.utime(path, (at, at))
    return path


@pytest.fixture
def logs(tmp_path) -> Path:
    folder = tmp_path / "logs"
    for n, days in enumerate((0.1, 3, 5, 7, 9)):
        write(folder / f"app.log.{n}", days)
    write(folder / "app.log", 20)
    write(folder / "deep/app.log.0", 20)
    write(folder / "deep/app.log.1", 30)
    (folder / "app.log.link").symlink_to(folder / "app.log")
    os.link(write(folder / "app.log.two", 20), folder / "second")
    return folder


def old_files(logs: Path, **more) -> OldFiles:
    rule = {"path": logs, "names": ["*.log.*"], "older": "2d", "keep": 1} | more
    return OldFiles("old_files", OldFiles.Config(rules={"logs": rule}), state=logs.parent / "state")


def step(use: str, key: str = "run-1/room") -> Step:
    return Step(key, use, "host:web-1", {}, by="homeostat:run-1")


async def planned(act, key: str = "run-1/room") -> Step:
    one = step("x", key)
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


def names(found) -> list[str]:
    return [Path(f.path).name for f in found]


async def test_the_oldest_first_and_what_is_new_linked_or_open_never(logs):
    made = old_files(logs)
    assert isinstance(made, Pruner)
    assert names(await made.candidates("logs", 1e12)) == [
        "app.log.4",
        "app.log.3",
        "app.log.2",
        "app.log.1",
    ]
    with (logs / "app.log.3").open():
        assert names(await made.candidates("logs", 1e12)) == ["app.log.4", "app.log.2", "app.log.1"]
    assert names(await made.candidates("logs", 17000)) == ["app.log.4", "app.log.3"]
    assert names(await old_files(logs, keep=3).candidates("logs", 1e12)) == [
        "app.log.4",
        "app.log.3",
    ]
    deep = await old_files(logs, depth=2).candidates("logs", 1e12)
    assert str(logs / "deep/app.log.1") in [f.path for f in deep]
    assert str(logs / "deep/app.log.0") not in [f.path for f in deep], (
        "the newest of each folder stays"
    )


async def test_what_is_moved_aside_comes_back(logs):
    before = {p: p.stat().st_mtime for p in logs.rglob("*") if p.is_file()}
    act = Quarantine(Quarantine.Params(rule="logs"), old_files(logs))
    assert isinstance(act, Undo)
    one = await planned(act)
    done = await act.run(one)
    assert done.summary.startswith("moved 4 files")
    assert not (logs / "app.log.4").exists()
    assert act.reached(one, await act.observe(one))
    assert (await act.run(one)).undo == done.undo, "a second try takes no more"
    assert (logs / "app.log.0").exists()
    await act.undo(one, done.undo)
    after = {p: p.stat().st_mtime for p in logs.rglob("*") if p.is_file()}
    assert after == before
    assert "already" in (await act.undo(one, done.undo)).summary


async def test_a_try_that_was_cut_off_goes_on_where_it_was(logs, monkeypatch):
    made = old_files(logs)
    act = Quarantine(Quarantine.Params(rule="logs"), made)
    one = await planned(act)
    real, moves = os.link, []

    def cut(*args, **more):
        if len(moves) == 2:
            raise KeyboardInterrupt
        moves.append(args)
        real(*args, **more)

    monkeypatch.setattr(os, "link", cut)
    with pytest.raises(KeyboardInterrupt):
        made._set_aside(made._rule("logs"), 1e12, one.key)
    monkeypatch.undo()
    fresh = Quarantine(Quarantine.Params(rule="logs"), old_files(logs))
    assert fresh.reached(one, await fresh.observe(one))
    write(logs / "app.log.5", 50)
    done = await fresh.run(one)
    assert done.values["files"] == 4, "what became old since is not of this step"
    await fresh.undo(one, done.undo)
    assert sorted(p.name for p in logs.glob("app.log.[0-9]")) == [f"app.log.{n}" for n in range(6)]


async def test_what_was_put_in_its_place_stands(logs):
    act = Quarantine(Quarantine.Params(rule="logs"), old_files(logs))
    one = await planned(act)
    done = await act.run(one)
    (logs / "app.log.2").write_text("theirs")
    with pytest.raises(
        Refused, match="3 files are back; others have put something in the place of"
    ):
        await act.undo(one, done.undo)
    assert (logs / "app.log.2").read_text() == "theirs"


async def test_what_is_deleted_is_gone_and_that_is_said_again_after_a_restart(logs):
    act = Prune(Prune.Params(rule="logs", most="9kB"), old_files(logs))
    assert not isinstance(act, Undo)
    one = await planned(act)
    assert "would delete 1 file" in (await act.run(dataclasses.replace(one, dry_run=True))).summary
    done = await act.run(one)
    assert done.values["files"] == 1
    assert done.values["bytes"] >= 5000
    assert not (logs / "app.log.4").exists()
    assert (logs / "app.log.3").exists()
    assert not list(logs.glob(".homeostat*"))
    again = Prune(Prune.Params(rule="logs", most="9kB"), old_files(logs))
    assert again.reached(one, await again.observe(one))
    assert "already" in (await again.run(one)).summary
    assert (logs / "app.log.3").exists(), "a second try takes no more"


async def test_nothing_to_take_is_no_success(logs):
    act = Prune(Prune.Params(rule="logs"), old_files(logs, older="90d"))
    with pytest.raises(Refused, match="finds nothing to take"):
        await act.run(await planned(act))
    with pytest.raises(Refused, match="no rule is called cores"):
        await Prune(Prune.Params(rule="cores"), old_files(logs)).observe(step("prune"))


async def test_a_link_to_a_folder_is_not_followed(logs, tmp_path):
    (tmp_path / "link").symlink_to(logs)
    with pytest.raises(Refused, match="or a link to one"):
        await old_files(tmp_path / "link").candidates("logs", 1e12)


@pytest.mark.parametrize(
    "rule",
    [
        {"path": "/etc/web", "names": ["*.bak"], "older": "2d"},
        {"path": "/var/log", "names": ["*.gz"], "older": "2d"},
        {"path": "logs", "names": ["*.gz"], "older": "2d"},
        {"path": "/data/../etc", "names": ["*.gz"], "older": "2d"},
        {"path": "/data/x", "names": ["*"], "older": "2d"},
        {"path": "/data/x", "names": ["a/*.gz"], "older": "2d"},
        {"path": "/data/x", "names": ["*.gz"], "older": "1s"},
    ],
)
def test_rules_that_are_too_wide_are_told_at_load(rule):
    with pytest.raises(ValidationError):
        OldFiles.Config(rules={"x": rule})


async def test_it_says_what_it_would_take(logs):
    (line,) = await old_files(logs).describe()
    assert line.startswith(f"logs: *.log.* in {logs}, older than 2 d: 4 files, ")


@pytest.mark.parametrize("cut", ["link", "unlink"])
async def test_cut_off_between_two_names_nothing_is_lost_nor_doubled(logs, monkeypatch, cut):
    made = old_files(logs)
    act = Quarantine(Quarantine.Params(rule="logs"), made)
    one = await planned(act)
    real, calls = Path.unlink, []

    def unlink(self, **more):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, **more)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        made._set_aside(made._rule("logs"), 1e12, one.key)
    monkeypatch.undo()
    if cut == "link":  # put back from there
        await act.undo(one, {"files": 4})
    else:
        done = await act.run(one)
        assert done.values["files"] == 4
        assert names(await made.candidates("logs", 1e12)) == []
        await act.undo(one, done.undo)
    assert sorted(p.name for p in logs.glob("app.log.[0-9]")) == [f"app.log.{n}" for n in range(5)]
    assert all(p.stat().st_nlink == 1 for p in logs.glob("app.log.[0-9]"))


async def test_what_was_swapped_or_is_gone_since_is_not_taken(logs, monkeypatch):
    made = old_files(logs)
    found = await made.candidates("logs", 1e12)
    (logs / "app.log.4").unlink()
    write(logs / "x", 0).rename(logs / "app.log.3")
    monkeypatch.setattr(made, "_candidates", lambda rule, most: found)
    moved = await made.set_aside("logs", 1e12, "k")
    assert names(moved) == ["app.log.2", "app.log.1"]
    assert (logs / "app.log.3").exists()


async def test_a_quarantine_that_is_not_ours_is_not_used(logs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (logs / ".homeostat-quarantine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="is not a folder of ours"):
        await old_files(logs).set_aside("logs", 1e12, "k")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (logs / "app.log.4").exists()
