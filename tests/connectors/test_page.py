"""The page command: delivery, keys, time limit, restarts."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError

from agent.errors import Unavailable, Uncertain
from agent.ports import Note, Notifier
from connectors.page import Page

KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def note(key: str = "i-1/page", text: str = "fire") -> Note:
    return Note(key, 5.0, "page", "title", text, incident="i-1")


def pager(state: Path | None, *command: str, timeout: float = 10.0) -> Page:
    return Page("page", Page.Config(command=list(command), timeout=timeout), state=state)


def keeper(tmp_path: Path) -> Page:
    return pager(tmp_path, sys.executable, "-c", KEEP, str(tmp_path / "told"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def told(tmp_path: Path) -> list[str]:
    path = tmp_path / "told"
    return (
        [json.loads(line)["key"] for line in path.read_text().splitlines()] if path.exists() else []
    )


async def test_a_key_is_told_once_also_after_a_restart(tmp_path):
    for _ in range(2):
        page = keeper(tmp_path)
        assert isinstance(page, Notifier)
        await page.notify(note())
        await page.notify(note())
        await page.notify(note("i-2/page"))
    assert told(tmp_path) == ["i-1/page", "i-2/page"]


async def test_two_tries_at_once_tell_once(tmp_path):
    page = keeper(tmp_path)
    await asyncio.gather(*(page.notify(note()) for _ in range(5)))
    assert told(tmp_path) == ["i-1/page"]


async def test_no_shell_reads_the_note_or_the_arguments(tmp_path):
    evil = f"$(touch {tmp_path}/owned); `touch {tmp_path}/owned`\n'\"&&"
    page = pager(tmp_path, sys.executable, "-c", KEEP, str(tmp_path / "told"), "; touch owned")
    await page.notify(note(key=evil, text=evil))
    assert told(tmp_path) == [evil]
    assert not (tmp_path / "owned").exists()
    assert evil not in (tmp_path / "feeds" / "page.told").read_text().splitlines()  # one line a key


async def test_a_note_is_whole_however_long(tmp_path):
    page = keeper(tmp_path)
    await page.notify(note(text="x" * 1_000_000))
    assert len((tmp_path / "told").read_text()) > 1_000_000


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("raise SystemExit(3)", Unavailable, "status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", Unavailable, "status -15"),
        ("import time; time.sleep(60)", Uncertain, "longer than 0.7 s"),
    ],
)
async def test_failures_are_told_apart_and_leave_no_key(tmp_path, code, error, says):
    page = pager(tmp_path, sys.executable, "-c", code, timeout=0.7)
    with pytest.raises(error, match=says):
        await page.notify(note())
    assert not (tmp_path / "feeds" / "page.told").exists()


async def test_a_command_that_is_not_there_is_refused(tmp_path):
    page = pager(tmp_path, "/no/such/pager")
    with pytest.raises(Unavailable, match=r"/no/such/pager cannot be started"):
        await page.notify(note())
    assert "NOT FOUND" in (await page.describe())[0]


async def test_what_a_slow_command_started_is_killed_with_it(tmp_path):
    mark = tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(mark)!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)\n"
    )
    page = pager(tmp_path, sys.executable, "-c", code, timeout=3.0)
    with pytest.raises(Uncertain):
        await page.notify(note())
    child = int(mark.read_text())
    for _ in range(100):
        if not alive(child):
            break
        await asyncio.sleep(0.02)
    assert not alive(child)


async def test_a_command_that_reads_nothing_still_delivers(tmp_path):
    page = pager(tmp_path, sys.executable, "-c", "import os; os.close(0)")
    await page.notify(note(text="x" * 300_000))
    await page.notify(note())


async def test_output_of_the_command_is_neither_kept_nor_logged(tmp_path):
    page = pager(tmp_path, sys.executable, "-c", "print('token=hunter2'); raise SystemExit(1)")
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as failed:
        await page.notify(note())
    assert "hunter2" not in str(failed.value)
    assert "hunter2" not in str(logs)


async def test_a_torn_last_line_costs_one_key_at_most(tmp_path):
    await keeper(tmp_path).notify(note("first"))
    kept = tmp_path / "feeds" / "page.told"
    with kept.open("a") as out:
        out.write('"sec')  # power cut
    page = keeper(tmp_path)
    await page.notify(note("first"))
    await page.notify(note("third"))
    assert told(tmp_path) == ["first", "third"]
    await keeper(tmp_path).notify(note("third"))
    assert told(tmp_path) == ["first", "third"]


async def test_the_file_of_keys_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.page._MOST_KEYS", 5)
    page = pager(tmp_path, "/bin/true")
    for i in range(23):
        await page.notify(note(f"k{i}"))
    kept = (tmp_path / "feeds" / "page.told").read_text().splitlines()
    assert len(kept) <= 10
    assert kept[-1] == '"k22"'
    again = pager(tmp_path, "/bin/false")
    await again.notify(note("k22"))  # known: /bin/false is not even run


async def test_a_disk_that_is_full_does_not_hide_that_people_were_told(tmp_path):
    page = keeper(tmp_path)
    (tmp_path / "feeds").write_text("in the way")
    with structlog.testing.capture_logs() as logs:
        await page.notify(note())
        await page.notify(note())
    assert told(tmp_path) == ["i-1/page"]
    assert [entry["event"] for entry in logs] == ["told_not_kept"]


async def test_a_cancelled_page_leaves_no_process(tmp_path):
    page = pager(
        tmp_path, sys.executable, "-c", "import os, time; print(os.getpid()); time.sleep(60)"
    )
    before = set(_children())
    task = asyncio.create_task(page.notify(note()))
    await asyncio.sleep(0.5)
    started = set(_children()) - before
    assert started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not started & set(_children())


def _children() -> list[int]:
    out = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    out.append(int(folder.name))
            except FileNotFoundError:
                continue
    return out


@pytest.mark.parametrize(
    "config",
    [{}, {"command": []}, {"command": [""]}, {"command": ["x"], "timeout": 0}, {"command": "x y"}],
)
def test_config_is_strict(config):
    with pytest.raises(ValidationError):
        Page.Config(**config)


async def test_describe_delivers_nothing(tmp_path):
    page = keeper(tmp_path)
    lines = await page.describe()
    assert "JSON on its standard input" in lines[0]
    assert told(tmp_path) == []
