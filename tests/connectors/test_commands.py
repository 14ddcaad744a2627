"""Real commands as another user: what they see, what they may, and that each runs once."""

import asyncio
import dataclasses
import os
import pwd
import signal
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.errors import Refused, Uncertain
from agent.ports import Step, Undo
from connectors.commands import Commands
from playbooks.actions.commands import Commands as Ability
from playbooks.actions.commands import RunCommand

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits by prlimit of util-linux")

USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
ABOUT = """
echo "uid=$(id -u)"; echo "groups=$(id -G)"; echo "env=$(env | cut -d= -f1 | sort | tr '\\n' ' ')"; echo "argv=$*"
echo "key=$HOMEOSTAT_KEY"; echo "stdin=$(cat)"; echo "umask=$(umask)"; echo "session=$(cut -d' ' -f6 /proc/$$/stat)"
echo "pid=$$"; echo "caps=$(grep CapEff /proc/self/status | cut -f2)"
echo "new=$(grep NoNewPrivs /proc/self/status | cut -f2)"
"""


HUGE = "head -c 900000000 /dev/zero | tail -c 800000000 >/dev/null"


def commands(state: Path | None = None, **more) -> Commands:
    run = {
        "about": {"argv": ["/bin/sh", "-c", ABOUT, "sh", "{file}"], "args": {"file": "[a-z/]+"}},
        "append": {"argv": ["/bin/sh", "-c", "echo x >> $MARK; echo done"], "env": ["MARK"]},
        "fail": {"argv": ["/bin/sh", "-c", "echo password=hunter2; echo no rows; exit 3"]},
        "long": {"argv": ["/bin/sh", "-c", "sleep 60 & echo $! > $MARK; wait"], "env": ["MARK"], "timeout": "500ms"},
        "loud": {"argv": ["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' '\\n'; echo end"]},
        "huge": {"argv": ["/bin/sh", "-c", HUGE], "memory": "300MB"},
        "gone": {"argv": ["/nowhere/at/all"]},
        "grow": {
            "argv": ["/bin/sh", "-c", "echo $1 >> $MARK", "sh", "{pool}"], "args": {"pool": "[a-z]+"},
            "undo": ["/bin/sh", "-c", 'sed "/$1/d" $MARK > $MARK.new; cat $MARK.new > $MARK', "sh", "{pool}"],
            "env": ["MARK"],
        },
        "stuck": {"argv": ["/bin/true"], "undo": ["/bin/sh", "-c", "echo it is locked; exit 1"]},
    }  # fmt: skip
    return Commands("commands", Commands.Config(run=run, user=USER, **more), state=state)


def act(name: str, made: Commands, **args: str) -> RunCommand:
    return RunCommand(RunCommand.Params(command=name, args=args), made)


STEP = Step("run-1/run", "run_command", "host:web-1", {}, by="homeostat:run-1")


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    # a folder that the other user reaches
    folder = Path("/tmp") / f"homeostat-test-{os.getpid()}-{tmp_path.name}"  # see above
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("MARK", str(folder / "mark"))
    yield folder / "mark"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


async def test_it_runs_as_its_user_with_little_around_it(monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", "secret")
    made = commands()
    assert isinstance(made, Ability)
    done = await act("about", made, file="a/b").run(STEP)
    said = dict(line.split("=", 1) for line in done.values["output"].splitlines())
    entry = pwd.getpwnam(USER)
    assert said["uid"] == str(entry.pw_uid)
    if os.geteuid() == 0:
        assert said["groups"] == str(entry.pw_gid)
    assert said["argv"] == "a/b"
    assert said["key"] == STEP.key
    assert said["stdin"] == ""
    assert said["umask"] == "0077"
    assert int(said["caps"], 16) == 0
    assert said["new"] == "1"
    assert said["session"] == said["pid"]
    assert set(said["env"].split()) <= {
        "HOME", "HOMEOSTAT_KEY", "HOMEOSTAT_TARGET", "LANG", "LC_ALL", "PATH", "PWD", "TZ",
    }  # fmt: skip
    assert done.change.ours


async def test_it_runs_once_a_key_also_after_a_restart(tmp_path, mark):
    one = act("append", commands(tmp_path))
    step = dataclasses.replace(STEP, before=dict(await one.observe(STEP)))
    assert not one.reached(step, step.before)
    await one.run(step)
    other = act("append", commands(tmp_path))
    assert other.reached(step, await other.observe(step))
    assert (await other.run(step)).values["output"] == "done"
    assert mark.read_text() == "x\n"
    await other.run(dataclasses.replace(step, key="run-2/run"))
    assert mark.read_text() == "x\nx\n"


async def test_its_declared_inverse_undoes_it_once_also_after_a_restart(tmp_path, mark):
    mark.write_text("b\n")
    mark.chmod(0o666)
    one = act("grow", commands(tmp_path), pool="a")
    assert isinstance(one, Undo)
    dry = await one.run(dataclasses.replace(STEP, dry_run=True))
    assert "; undo would run /bin/sh -c sed" in dry.summary
    done = await one.run(STEP)
    assert mark.read_text() == "b\na\n"
    other = act("grow", commands(tmp_path), pool="a")
    back = await other.undo(STEP, done.undo)
    assert back.change.ours
    assert mark.read_text() == "b\n"
    mark.write_text("b\na\n")  # somebody else, since
    await act("grow", commands(tmp_path), pool="a").undo(STEP, done.undo)
    assert mark.read_text() == "b\na\n"


async def test_without_an_inverse_there_is_nothing_to_put_back(tmp_path, mark):
    one = act("append", commands(tmp_path))
    assert (await one.run(dataclasses.replace(STEP, dry_run=True))).summary.endswith(
        "; nothing undoes it"
    )
    assert (await one.run(STEP)).undo == {}
    with pytest.raises(Refused, match="declares no inverse of append any more"):
        await one.undo(STEP, {"command": "append", "args": {}})
    stuck = act("stuck", commands(tmp_path))
    step = dataclasses.replace(STEP, key="run-2/run")
    with pytest.raises(Refused, match="ended with status 1: it is locked"):
        await stuck.undo(step, (await stuck.run(step)).undo)


async def test_what_was_begun_and_not_seen_to_end_is_not_repeated(tmp_path, mark):
    made = commands(tmp_path)
    made._once.begin(STEP.key)
    with pytest.raises(Uncertain, match="its end was not seen"):
        await act("append", made).run(STEP)
    assert not mark.exists()


async def test_failures_are_told_with_their_last_words_and_no_secrets():
    made = commands()
    with pytest.raises(Refused, match="command fail ended with status 3: no rows"):
        await act("fail", made).run(STEP)
    assert "hunter2" not in (await made.executed(STEP.key)).output
    with pytest.raises(Refused, match="can not be started: there is no program /nowhere"):
        await act("gone", made).run(dataclasses.replace(STEP, key="k2"))
    assert await made.executed("k2") is None


def ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or " Z " in stat.read_text()


async def test_too_long_too_loud_too_large(mark):
    made = commands()
    with pytest.raises(Uncertain, match="took longer than 500 ms and was ended"):
        await act("long", made).run(STEP)
    child = int(mark.read_text())
    for _ in range(100):
        if ended(child):
            break
        await asyncio.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("its child lives")
    loud = await made.execute("loud", {}, "k2", "")
    assert loud.output.endswith("end")
    assert len(loud.output) <= 64 << 10
    with pytest.raises(Refused, match="ended with status 1: tail: memory exhausted"):
        await made.execute("huge", {}, "k3", "")


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("rm", {}, "no command is called rm: agent.yaml allows about"),
        ("about", {}, "takes file, not nothing"),
        ("about", {"file": "a; rm -rf /"}, "must match"),
        ("about", {"file": "ok\n"}, "must match"),
        ("append", {"x": "1"}, "takes nothing, not x"),
    ],
)
async def test_only_what_is_allowed(name, args, said):
    with pytest.raises(Refused, match=said):
        await act(name, commands(), **args).observe(STEP)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"argv": ["ls"]}, "write the whole path"),
        ({"argv": ["/bin/ls", "{x}"]}, "has the places"),
        ({"argv": ["/bin/ls"], "args": {"x": "a"}}, "args says"),
        ({"argv": ["/bin/ls"], "undo": ["ls"]}, "write the whole path of ls"),
        ({"argv": ["/bin/ls"], "undo": ["/bin/ls", "{x}"]}, r"undo has the places \['x'\]"),
    ],
)
def test_what_is_written_wrongly_is_told_at_load(run, said):
    with pytest.raises(ValidationError, match=said):
        Commands.Config(run={"x": run})


def test_who_it_runs_as_is_checked_at_load():
    with pytest.raises(Refused, match="there is no user homer"):
        Commands("c", Commands.Config(run={"x": {"argv": ["/bin/ls"]}}, user="homer"))
    if os.geteuid() == 0:
        with pytest.raises(Refused, match="not run as root"):
            Commands("c", Commands.Config(run={"x": {"argv": ["/bin/ls"]}}))


async def test_it_says_what_it_may():
    said = await commands().describe()
    assert any(
        line.startswith(f"gone: /nowhere/at/all, as {USER}, at most 30 s: NOT FOUND")
        for line in said
    )
    assert any("at most 30 s, undone by /bin/sh -c sed" in line for line in said)
