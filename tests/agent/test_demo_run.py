"""The whole demo: once a session for what it shows, and briefly for what it leaves behind when it is cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from agent import cli
from agent.demo import stage
from agent.errors import Refused
from agent.journal import Journal

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and prctl")


@pytest.mark.demo
@linux
def test_five_of_five(demo_run):
    assert demo_run["code"] == 0, demo_run["out"][-6000:]
    card = demo_run["card"]
    figures = {
        k: card[k]
        for k in ("faults", "detected", "cause_right", "healed", "harmful", "false_pages")
    }
    assert figures == {
        "faults": 5, "detected": 5, "cause_right": 5, "healed": 5, "harmful": 0, "false_pages": 0,
    }  # fmt: skip


@pytest.mark.demo
@linux
def test_the_last_line_is_the_card(demo_run):
    last = demo_run["out"].rstrip().splitlines()[-1]
    assert json.loads(last) == demo_run["card"]
    assert "time is compressed" in demo_run["out"]
    assert "mode: auto (default suggest)" in demo_run["out"]


@pytest.mark.demo
@linux
def test_every_fault_has_an_act_of_its_own_and_the_swing_none(demo_run):
    rows = {row["name"]: row for row in demo_run["card"]["rows"]}
    acts = {name: row["acts"] for name, row in rows.items()}
    assert acts.pop("healthy swing") == []
    assert rows["healthy swing"]["pages"] == 0
    firsts = [some[0] for some in acts.values()]
    assert len(set(firsts)) == len(firsts) == 5


@pytest.mark.demo
@linux
def test_its_journal_is_whole(demo_run):
    journal = Journal(demo_run["kept"] / "homeostat" / "state" / "journal.sqlite")
    try:
        assert journal.verify() == []
    finally:
        journal.close()


def belonging(folder):
    """Processes that work in a folder or speak of it."""
    found = []
    for one in psutil.process_iter():
        try:
            mine = one.cwd().startswith(str(folder)) or any(str(folder) in a for a in one.cmdline())
            if mine and one.pid != os.getpid() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:
            continue
    return found


# A shell starts what runs in the background deaf to Ctrl-C, and the tests may run there: as in a terminal instead.
HEARING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.live
@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_it(number, tmp_path):
    """Ctrl-C cleans up; after kill -9 the leashes do."""
    folder = tmp_path / "kept"
    argv = [sys.executable, "-c", HEARING, sys.executable, "-P", "-m", "agent", "demo", "--plain", "--seed", "3",
            "--keep", str(folder), "--json-out", str(tmp_path / "demo.json")]  # fmt: skip
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        try:
            for line in demo.stdout:
                if "the agent watches" in line:
                    break
            running = {" ".join(p.cmdline()) for p in belonging(folder)}
            for part in ("gunicorn", "agent.demo.load", "agent run"):
                assert any(part in command for command in running), running
            demo.send_signal(number)
            demo.stdout.read()
            code = demo.wait(20)
        finally:
            demo.kill()
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until = time.monotonic() + 15
    while (left := belonging(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == []


def test_what_is_not_installed_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("agent.demo.NEEDED", ("sklearn", "no_such_library"))
    with pytest.raises(Refused, match=r"needs no_such_library; .*pip install '\.\[demo\]'"):
        stage.demo(keep=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_where_only_the_core_is_installed_the_command_says_what_it_needs():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('fastapi', 'joblib', 'sklearn')));"
        "sys.argv = ['homeostat', 'demo']; from agent.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("homeostat: the demo needs fastapi, sklearn\n")
    assert "make setup" in done.stderr


def test_an_unknown_fault_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["homeostat", "demo", "--only", "earthquake"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code
    assert "earthquake" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
