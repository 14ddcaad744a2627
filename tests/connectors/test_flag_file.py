"""Flags and numbers in a real file."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from agent.errors import Refused
from agent.ports import Step
from connectors.flag_file import FlagFile
from playbooks.actions.flags import Flags, SetFlag
from playbooks.actions.limits import Limiter, SetLimit

BEFORE = {
    "new_ui": True,
    "search": {"reranker": "large", "k": 20},
    "max_batch": 16,
    "own": [1, "ü"],
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "flags.json"
    file.write_text(json.dumps(BEFORE))
    file.chmod(0o640)
    return file


def flags(path, **more) -> FlagFile:
    config = {
        "service": "web",
        "path": path,
        "may": ["new_ui", "search.reranker", "max_batch", "fresh"],
    }
    return FlagFile("flag_file", FlagFile.Config(**config, bounds={"max_batch": (1, 64)}, **more))


async def planned(act, use: str) -> Step:
    step = Step(f"run-1/{use}", use, "service:web", {}, by="homeostat:run-1")
    return dataclasses.replace(step, before=json.loads(json.dumps(await act.observe(step))))


@pytest.mark.parametrize(
    ("name", "value"), [("new_ui", False), ("search.reranker", "small"), ("fresh", True)]
)
async def test_a_flag_is_set_and_put_back_and_the_rest_stays(path, name, value):
    made = flags(path)
    assert isinstance(made, Flags)
    act = SetFlag(SetFlag.Params(flag=name, value=value), made)
    step = await planned(act, "set_flag")
    done = await act.run(step)
    assert await made.flag(name) == value
    now = json.loads(path.read_text())
    assert now["own"] == [1, "ü"]
    assert now["search"]["k"] == 20
    assert path.stat().st_mode & 0o777 == 0o640
    assert done.change.kind == "flag"
    await act.undo(step, json.loads(json.dumps(dict(done.undo))))
    assert json.loads(path.read_text()) == BEFORE


async def test_a_number_is_a_limit_within_its_bounds(path):
    made = flags(path)
    assert isinstance(made, Limiter)
    act = SetLimit(SetLimit.Params(limit="max_batch", times=0.5), made)
    step = await planned(act, "set_limit")
    await act.run(step)
    assert '"max_batch": 8\n' in path.read_text().replace(",", "\n").replace("\n\n", "\n")
    with pytest.raises(Refused, match="may be 1 to 64, not 100"):
        await planned(SetLimit(SetLimit.Params(limit="max_batch", value=100.0), made), "set_limit")
    with pytest.raises(Refused, match="which is no number"):
        await made.limit("service:web", "new_ui")


async def test_only_what_is_allowed_and_only_over_what_was_planned(path):
    made = flags(path)
    with pytest.raises(Refused, match="not among what flag_file may set"):
        await made.set_flag("own", 1.0, None, "me")
    with pytest.raises(Refused, match="is True, not False: changed by others"):
        await made.set_flag("new_ui", True, False, "me")
    path.write_text("{")
    with pytest.raises(Refused, match="is no JSON: mend it by hand"):
        await made.flag("new_ui")
    assert path.read_text() == "{"


async def test_many_at_once_lose_nothing(path):
    made = [flags(path) for _ in range(8)]
    await made[0].set_flag("max_batch", 0.0 + 1, 16, "me")

    async def more(one: FlagFile) -> int:
        won = 0
        for _ in range(20):
            now = await one.flag("max_batch")
            try:
                await one.set_flag("max_batch", min(64, now + 1), now, "me")
            except Refused:
                continue
            won += 1
        return won

    won = sum(await asyncio.gather(*map(more, made)))
    assert await made[0].flag("max_batch") == min(64, 1 + won)


CATCHES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGHUP, lambda *a: (print('reloaded', flush=True), sys.exit()))\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)"
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")
@pytest.mark.parametrize("catches", [True, False])
async def test_the_service_is_told_when_it_listens(path, tmp_path, catches):
    code = CATCHES if catches else CATCHES.replace("signal.signal", "_ = lambda *a: 0 #")
    with subprocess.Popen(  # noqa: ASYNC220  # nothing else runs in this loop that it could hold up
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout.readline() == "ready\n"
            (tmp_path / "pid").write_text(str(service.pid))
            made = flags(path, reload={"pidfile": tmp_path / "pid"})
            await made.set_flag("new_ui", False, True, "me")
            if catches:
                assert service.stdout.readline() == "reloaded\n"
            else:
                os.kill(service.pid, 0)  # it lives: what does not listen would have ended
        finally:
            service.send_signal(signal.SIGKILL)
