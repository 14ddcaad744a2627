"""Pictures of the host, and waiting."""

import json
import os
import stat
import time

import pytest
from pydantic import ValidationError

from agent.errors import Unavailable
from agent.ports import Action, Step, Undo
from playbooks.actions.collect import _TAKERS, Collect
from playbooks.actions.wait import Wait


def step(key: str = "run-1/picture", **more) -> Step:
    return Step(key=key, use="collect", target="host:web-1", params={}, **more)


async def test_a_picture_holds_the_host_and_no_arguments(tmp_path, monkeypatch):
    act = Collect(
        Collect.Params(what=["processes", "memory", "cpu", "pressure", "disks", "network"])
    )
    assert isinstance(act, Action)
    assert not isinstance(act, Undo)
    done = await act.run(step())
    picture = done.values["picture"]
    assert picture["target"] == "host:web-1"
    assert picture["memory"]["memory"]["total"] > 0
    assert picture["cpu"]["cores"] == os.cpu_count()
    assert 1 <= len(picture["processes"]) <= 20
    assert all("cmdline" not in row and "environ" not in row for row in picture["processes"])
    json.dumps(picture, allow_nan=False, default=str)
    assert done.undo == {}


async def test_a_file_is_private_and_written_once_a_key(tmp_path):
    folder = tmp_path / "pictures"
    act = Collect(Collect.Params(what=["memory"], folder=folder))
    first = await act.run(step("run-1/../../etc/x"))
    again = await act.run(step("run-1/../../etc/x"))
    assert first.values["file"] == again.values["file"]
    (path,) = folder.iterdir()
    assert path.parent == folder
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["memory"]["memory"]["total"] > 0


async def test_only_the_newest_files_stay_and_others_are_not_touched(tmp_path):
    own = tmp_path / "homeostat-old.json"
    for i in range(60):
        path = tmp_path / f"homeostat-{i:02}.json"
        path.write_text("{}")
        os.utime(path, (i, i))
    (tmp_path / "report.json").write_text("{}")
    own.write_text("{}")
    await Collect(Collect.Params(what=["memory"], folder=tmp_path)).run(step())
    assert (tmp_path / "report.json").exists()
    assert own.exists()
    assert len(list(tmp_path.glob("homeostat-*.json"))) == 50
    assert not (tmp_path / "homeostat-00.json").exists()


async def test_a_link_in_a_shared_folder_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "homeostat-run-1_picture.part").symlink_to(victim)
    await Collect(Collect.Params(what=["memory"], folder=folder)).run(step())
    assert victim.read_text() == "precious"


async def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    act = Collect(Collect.Params(what=["memory"], folder=tmp_path / "file" / "below"))
    with pytest.raises(Unavailable, match="could not be kept"):
        await act.run(step())


async def test_what_hangs_fails_or_is_too_large_is_left_out_and_never_stops_the_run(monkeypatch):
    """The picture comes before the page: nothing about it may keep people from being told."""

    def forbidden() -> None:
        raise PermissionError(13, "Permission denied")

    takers = {
        "disks": lambda: time.sleep(30),
        "cpu": forbidden,
        "network": lambda: {"x": "y" * 100_000},
    }
    for name, taker in takers.items():
        monkeypatch.setitem(_TAKERS, name, taker)
    monkeypatch.setattr("playbooks.actions.collect._TIME_S", 1.0)
    act = Collect(Collect.Params(what=["disks", "cpu", "network", "memory"]))
    start = time.monotonic()
    done = await act.run(step())
    assert time.monotonic() - start < 5
    picture = done.values["picture"]
    assert picture["disks"] == {"error": "no answer within 1 s"}
    assert "Permission denied" in picture["cpu"]["error"]
    assert picture["network"] == {"error": "left out: too large"}
    assert picture["memory"]["memory"]["total"] > 0
    assert done.summary.startswith("collected memory; disks: no answer")


async def test_a_dry_run_collects_nothing(tmp_path):
    act = Collect(Collect.Params(what=["memory"], folder=tmp_path))
    assert (await act.run(step(dry_run=True))).summary == "would collect memory"
    assert list(tmp_path.iterdir()) == []


async def test_waiting_takes_its_time_and_changes_nothing():
    act = Wait(Wait.Params(time="200ms"))
    assert isinstance(act, Action)
    start = time.monotonic()
    done = await act.run(step())
    assert time.monotonic() - start >= 0.19
    assert done.summary == "waited 200 ms"
    start = time.monotonic()
    assert (await act.run(step(dry_run=True))).summary == "would wait 200 ms"
    assert time.monotonic() - start < 0.15
    assert not act.reached(step(), await act.observe(step()))


@pytest.mark.parametrize("params", [{}, {"time": "2h"}, {"time": "-1s"}])
def test_waiting_is_bounded(params):
    with pytest.raises(ValidationError):
        Wait.Params(**params)


def test_a_picture_must_be_of_something():
    with pytest.raises(ValidationError):
        Collect.Params(what=[])
    with pytest.raises(ValidationError):
        Collect.Params(what=["passwords"])
