"""The training command: once per key, across kill -9 of the daemon, time limits, damage."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError

from agent.errors import Refused, Unavailable
from connectors.trainer import Trainer
from playbooks.actions.retrain import Trainer as Ability

# Counts its runs, takes its time, and prints a report; `how` picks the damage.
SCRIPT = textwrap.dedent(
    """
    import json, os, sys, time
    runs, seconds, how = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    with open(runs, "a") as out:
        out.write(json.dumps({"pid": os.getpid(), "nice": os.nice(0), "env": dict(os.environ),
                              "cwd": os.getcwd(), "sid": os.getsid(0)}) + "\\n")
    print("epoch 1", flush=True)
    print("password=hunter2 loss=nan", file=sys.stderr, flush=True)
    time.sleep(seconds)
    report = {"version": "7", "holdback": {"rows": 3}, "loss": float("nan")}
    if how == "fail":
        print(json.dumps(report))
        print("RuntimeError: no rows", file=sys.stderr)
        raise SystemExit(3)
    if how == "file":
        with open(os.environ["HOMEOSTAT_REPORT"], "w") as out:
            json.dump(report, out)
        raise SystemExit(0)
    if how == "silent":
        raise SystemExit(0)
    if how == "garbage":
        print("{not json")
        raise SystemExit(0)
    if how == "escape":
        report["version"] = "../../etc"
    if how == "stubborn":
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    if how == "loud":
        while True:
            print("x" * 1000)
    print(json.dumps(report))
    """
)


@pytest.fixture
def make(tmp_path):
    def one(seconds: float = 0.0, how: str = "good", name: str = "trainer", **more) -> Trainer:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "runs"), str(seconds), how]
        config = {"model": "fraud", "command": command, "timeout": 30} | more
        return Trainer(name, Trainer.Config(**config), state=tmp_path / "state")

    return one


def runs(tmp_path: Path) -> list[dict]:
    path = tmp_path / "runs"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def until(check, seconds: float = 60.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if check():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not come about")


async def test_it_runs_once_per_key_with_its_own_environment_at_low_priority(
    make, tmp_path, monkeypatch
):
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "hunter2")
    monkeypatch.setenv("DATA", "here")
    one = make(env=["DATA"], workdir=tmp_path)
    assert isinstance(one, Ability)
    assert await one.find("run-1/train") is None
    trained = await one.train("fraud", "run-1/train")
    assert trained.version == "7"
    assert trained.report == {
        "version": "7",
        "holdback": {"rows": 3},
        "loss": None,
    }  # NaN is no JSON
    for again in (one, make()):  # also after a restart
        assert await again.train("fraud", "run-1/train") == trained
        assert await again.find("run-1/train") == trained
    (run,) = runs(tmp_path)
    assert run["env"]["HOMEOSTAT_KEY"] == "run-1/train"
    assert run["env"]["HOMEOSTAT_MODEL"] == "fraud"
    assert run["env"]["DATA"] == "here"
    assert "SECRET_OF_THE_DAEMON" not in run["env"]
    assert run["cwd"] == str(tmp_path)
    assert run["sid"] == run["pid"] != os.getsid(0)
    assert (await one.train("fraud", "run-2/train")).version == "7"
    assert len(runs(tmp_path)) == 2


async def test_it_gives_way_to_the_service(make, tmp_path):
    one = make(seconds=1.0)
    task = asyncio.create_task(one.train("fraud", "k"))
    await until(lambda: len(runs(tmp_path)) == 1)
    pid = runs(tmp_path)[0]["pid"]
    assert os.getpriority(os.PRIO_PROCESS, pid) == 10
    assert oom_score(pid) == 500
    await task


async def test_two_at_once_of_one_key_are_one_training_and_another_key_waits(make, tmp_path):
    one = make(seconds=0.5)
    first, second = (asyncio.create_task(one.train("fraud", "k1")) for _ in range(2))
    await until(lambda: len(runs(tmp_path)) == 1)
    with pytest.raises(Unavailable, match="being trained already"):
        await one.train("fraud", "k2")
    assert (await first) == (await second)
    assert len(runs(tmp_path)) == 1


async def test_a_wait_that_is_cancelled_does_not_end_the_training(make, tmp_path):
    one = make(seconds=0.6)
    task = asyncio.create_task(one.train("fraud", "k"))
    await until(lambda: len(runs(tmp_path)) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await one.find("k") is None  # it runs still
    assert (await one.train("fraud", "k")).version == "7"
    assert len(runs(tmp_path)) == 1


async def test_a_report_may_come_as_a_file(make, tmp_path):
    one = make(how="file", reports=tmp_path / "reports")
    assert (await one.train("fraud", "run-1/train")).version == "7"
    assert (tmp_path / "reports" / "run-1_train.json").exists()


async def test_a_report_of_the_same_key_that_is_there_already_is_taken(make, tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "k.json").write_text('{"version": "5", "key": "k"}')
    (tmp_path / "reports" / "a_b.json").write_text('{"version": "5", "key": "a/b"}')
    one = make(reports=tmp_path / "reports")
    assert (await one.train("fraud", "k")).version == "5"
    assert runs(tmp_path) == []
    assert (
        await one.train("fraud", "a_b")
    ).version == "7"  # of another key with the same file name
    assert len(runs(tmp_path)) == 1


# ---- the daemon is killed

DAEMON = textwrap.dedent(
    """
    import asyncio, json, sys
    from pathlib import Path
    from connectors.trainer import Trainer
    one = Trainer("trainer", Trainer.Config(**json.loads(sys.argv[1])), state=Path(sys.argv[2]))
    asyncio.run(one.train("fraud", "k"))
    """
)


async def killed_daemon(one: Trainer, tmp_path: Path) -> int:
    """Start the training in a daemon of its own and kill that with SIGKILL; return the trainer's pid."""
    config = one.config.model_dump(mode="json")
    daemon = subprocess.Popen(  # noqa: ASYNC220  # it is killed; nothing waits for it
        [sys.executable, "-c", DAEMON, json.dumps(config), str(tmp_path / "state")]
    )
    await until(lambda: len(runs(tmp_path)) == 1, 20)
    await until(
        lambda: any(
            "pid" in p.read_text() for p in (tmp_path / "state/trainer/trainer").glob("*.run")
        )
    )
    daemon.kill()
    daemon.wait()
    return runs(tmp_path)[0]["pid"]


async def test_a_training_outlives_the_daemon_and_is_found_again(make, tmp_path):
    one = make(seconds=2.0)
    pid = await killed_daemon(one, tmp_path)
    assert alive(pid)
    assert await one.find("k") is None
    with structlog.testing.capture_logs() as logs:
        trained = await one.train("fraud", "k")
    assert trained.version == "7"
    assert "training_adopted" in [entry["event"] for entry in logs]
    assert len(runs(tmp_path)) == 1
    assert not alive(pid)


async def test_a_training_that_ended_while_nobody_looked_is_found(make, tmp_path):
    one = make(seconds=0.8)
    pid = await killed_daemon(one, tmp_path)
    await until(lambda: not alive(pid))
    assert (await one.find("k")).version == "7"
    assert (await one.train("fraud", "k")).version == "7"
    assert len(runs(tmp_path)) == 1


async def test_a_training_that_died_with_the_daemon_is_started_again(make, tmp_path):
    one = make(seconds=1.0)
    pid = await killed_daemon(one, tmp_path)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(pid))
    assert await one.find("k") is None
    assert (await one.train("fraud", "k")).version == "7"
    assert len(runs(tmp_path)) == 2


async def test_the_time_limit_holds_for_a_training_that_was_found_running(make, tmp_path):
    pid = await killed_daemon(make(seconds=60), tmp_path)
    with pytest.raises(Refused, match="took longer than 1 s and was ended"):
        await make(seconds=60, timeout=1.0).train("fraud", "k")
    assert not alive(pid)


# ---- failures


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("fail", "ended with status 3: RuntimeError: no rows"),
        ("silent", "ended without a report"),
        ("garbage", "ended without a report"),
        ("escape", "ended without a report"),
    ],
)
async def test_a_failure_is_refused_and_stays_the_answer_for_its_key(make, tmp_path, how, says):
    for one in (make(how=how), make()):
        with pytest.raises(Refused, match=says):
            await one.train("fraud", "k")
        assert await one.find("k") is None
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize(("how", "seconds"), [("good", 60), ("stubborn", 0)])
async def test_what_takes_too_long_is_ended_with_all_of_its_group(
    make, tmp_path, how, seconds, monkeypatch
):
    monkeypatch.setattr("connectors.trainer._MERCY_S", 0.5)
    # long enough for an interpreter to start on a busy machine
    one = make(seconds=seconds, how=how, timeout=4.0)
    with pytest.raises(Refused, match="took longer than 4 s and was ended"):
        await one.train("fraud", "k")
    assert not alive(runs(tmp_path)[0]["pid"])


async def test_what_prints_without_end_is_ended(make, tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.trainer._MOST_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(Refused, match="printed more than 1 MiB"):
        await make(how="loud").train("fraud", "k")


async def test_a_command_that_is_not_there_is_refused_and_can_be_mended(make, tmp_path):
    one = make(command=["/no/such/trainer"])
    with pytest.raises(Refused, match=r"/no/such/trainer cannot be started"):
        await one.train("fraud", "k")
    assert "NOT FOUND" in (await one.describe())[0]
    assert (await make().train("fraud", "k")).version == "7"


async def test_another_model_is_refused(make):
    with pytest.raises(Refused, match="trains fraud, not other"):
        await make().train("other", "k")


async def test_no_training_while_it_is_held(make, tmp_path):
    folder = tmp_path / "models" / "fraud"
    (folder / "7").mkdir(parents=True)
    (folder / "7" / "metadata.json").write_text("{}")
    held = folder / "RETRAINING_HELD"
    held.write_text("unit of area changed\nby: homeostat:run-1\n")
    one = make(directory=tmp_path / "models")
    with pytest.raises(Refused, match=r"retraining of fraud is held: unit of area changed$"):
        await one.train("fraud", "k")
    assert "training is held: unit of area changed" in await one.describe()
    assert runs(tmp_path) == []
    held.unlink()
    assert (await one.train("fraud", "k")).version == "7"


async def test_a_version_that_is_not_in_the_model_directory_is_refused(make, tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(Refused, match="reports version 7, which is not in"):
        await make(directory=tmp_path / "models").train("fraud", "k")


async def test_secrets_in_the_last_words_are_masked_and_output_is_private(make, tmp_path):
    script = (
        "import sys; print('login failed for token=hunter2', file=sys.stderr); raise SystemExit(1)"
    )
    one = make(command=[sys.executable, "-c", script])
    with structlog.testing.capture_logs() as logs, pytest.raises(Refused) as refused:
        await one.train("fraud", "k")
    assert "login failed" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in str(logs)
    for path in (tmp_path / "state/trainer/trainer").iterdir():
        assert path.suffix == ".run" or path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "state/trainer/trainer").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage", ["{", "[]", "null", '{"state": "done"}', '{"key": "other", "state": "done"}']
)
async def test_a_damaged_record_is_no_record(make, tmp_path, damage):
    one = make()
    await one.train("fraud", "k")
    (record,) = (tmp_path / "state/trainer/trainer").glob("*.run")
    (record.with_suffix(".out")).unlink()
    record.write_text(damage)
    assert await one.find("k") is None
    assert (await one.train("fraud", "k")).version == "7"
    assert len(runs(tmp_path)) == 2


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "", "x" * 500, "ünï\n"])
async def test_any_key_stays_in_its_folder(make, tmp_path, key):
    one = make()
    before = {p for p in tmp_path.rglob("*") if "trainer" not in p.parts}
    assert (await one.train("fraud", key)).version == "7"
    assert await one.find(key) is not None
    after = {p for p in tmp_path.rglob("*") if "trainer" not in p.parts}
    assert after - before <= {tmp_path / "runs", tmp_path / "state"}


async def test_old_trainings_go(make, tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.trainer._KEPT", 3)
    one = make(command=[sys.executable, "-c", 'print(\'{"version": "1"}\')'])
    for i in range(5):
        await one.train("fraud", f"k{i}")
    assert len(list((tmp_path / "state/trainer/trainer").glob("*.run"))) == 3
    assert await one.find("k4") is not None


async def test_closing_lets_a_training_go_on(make, tmp_path):
    one = make(seconds=1.0)
    task = asyncio.create_task(one.train("fraud", "k"))
    await until(lambda: len(runs(tmp_path)) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one.close()
    assert alive(runs(tmp_path)[0]["pid"])
    again = make()
    assert (await again.train("fraud", "k")).version == "7"
    assert len(runs(tmp_path)) == 1


async def test_closing_waits_for_the_step_that_waits_for_it(make, tmp_path):
    one = make(seconds=0.5)
    task = asyncio.create_task(one.train("fraud", "k"))
    await until(lambda: len(runs(tmp_path)) == 1)
    await one.close()  # as a reload does
    assert (await task).version == "7"
    assert one._watched["k"].done()


async def test_the_demo_trainer_speaks_this_language(make, tmp_path):
    """What `agent.demo.trainer` refuses (status 3) is refused with its words."""
    pytest.importorskip("sklearn", reason="the extra `demo` installs it")
    (tmp_path / "models" / "fraud").mkdir(parents=True)
    (tmp_path / "models" / "fraud" / "RETRAINING_HELD").write_text("audit")
    command = [sys.executable, "-m", "agent.demo.trainer", "retrain", "--root", str(tmp_path / "models"),
               "--model", "fraud", "--predictions", str(tmp_path / "p"), "--labels", str(tmp_path / "l")]  # fmt: skip
    with pytest.raises(Refused, match=r"ended with status 3.*held"):
        await make(command=command, timeout=120).train("fraud", "k")


@pytest.mark.parametrize(
    "config",
    [
        {"command": []},
        {"command": "train me"},
        {"model": "../x"},
        {"timeout": 0},
        {"env": ["A=B"]},
        {"shell": True},
    ],
)
def test_config_is_strict(make, config):
    with pytest.raises(ValidationError):
        make(**config)
