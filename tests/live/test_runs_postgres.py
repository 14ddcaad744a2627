"""Runs in a PostgreSQL of our own: it may be away and come back, and nobody else carries out our runs."""

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest
from run_stage import Stage, at_work, plan, read_effects, step
from servers import postgres

from agent.config import load
from agent.errors import ConfigError, Refused, Unavailable
from agent.runs_store import RunsDatabase, RunsFile, store_of

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def server(needs):
    with postgres(needs) as one:
        yield one


@pytest.fixture
def verbs(tmp_path):
    with at_work(tmp_path) as made:
        yield made


@pytest.mark.timeout(120)
async def test_a_run_goes_on_when_the_server_comes_back_and_nothing_is_done_twice(
    tmp_path, server, verbs
):
    store = RunsDatabase(server.address, "comes_back")
    async with Stage(tmp_path, store=store) as stage:
        made = plan(
            step("a", params={"name": "a", "to": 1.0, "takes": 2.0}), step("b"),
            created=stage.clock(),
        )  # fmt: skip
        await stage.runner.start(made)
        await stage.until(lambda: stage.kinds("intent"))
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(server.start)
        looked = asyncio.create_task(_look_after(stage))
        run = await stage.ended()
        looked.cancel()
    assert run.state == "done"
    assert len(read_effects(tmp_path, "a")) == len(read_effects(tmp_path, "b")) == 1


async def _look_after(stage):
    while True:
        await asyncio.sleep(0.5)
        await stage.runner.idle()


async def test_a_server_that_is_away_is_told_and_the_run_is_taken_up_later(tmp_path, verbs):
    store = RunsDatabase("postgresql://homeostat@127.0.0.1:9/none", "nowhere")
    async with Stage(tmp_path, store=store) as stage:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1/none .*look at the server") as said:
            await stage.runner.start(plan(step("a"), created=stage.clock()))
        assert "homeostat@" not in str(said.value)
        assert stage.memory.live_runs()  # recorded: it is carried out when the server is there


def test_two_processes_do_not_carry_out_the_runs_of_one_schema(server):
    store = RunsDatabase(server.address, "single")
    store.hold()
    store.hold()
    code = """
        import sys
        from agent.errors import Refused
        from agent.runs_store import RunsDatabase
        for schema in ("single", "other"):
            try:
                RunsDatabase(sys.argv[1], schema).hold()
                print("held", schema)
            except Refused as e:
                print(e)
        """
    command = [sys.executable, "-c", textwrap.dedent(code), server.address]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "another process carries out the runs" in said
    assert "held other" in said
    store.release()
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "held single" in said


def test_the_address_is_a_reference_and_means_a_postgresql(tmp_path, monkeypatch):
    file = tmp_path / "agent.yaml"
    file.write_text("runs: {database: 'env:RUNS_AT', schema: agent_7}\n")
    config = load(file)
    store = store_of(tmp_path / "runs.sqlite", config.runs)
    with pytest.raises(Refused, match="RUNS_AT is not set"):
        store.hold()
    monkeypatch.setitem(os.environ, "RUNS_AT", "mysql://u:secret@h/d")
    with pytest.raises(Refused, match="no PostgreSQL address") as said:
        store.hold()
    assert "secret" not in str(said.value)
    file.write_text("runs: {database: 'postgresql://u:s3cr3t@h/d'}\n")
    with pytest.raises(ConfigError, match="write env:NAME or file:PATH") as said:
        load(file)
    assert "s3cr3t" not in str(said.value)
    file.write_text("history: {age: 1d}\n")
    assert isinstance(store_of(tmp_path / "runs.sqlite", load(file).runs), RunsFile)
